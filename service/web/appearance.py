"""Owns how pages look and speak to one reader: language and theme, kept in two cookies."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlsplit

from fastapi import APIRouter, Form, Request
from fastapi.responses import RedirectResponse, Response

from service.web import words

LANGUAGE_COOKIE = "resight_lang"
THEME_COOKIE = "resight_theme"
THEMES = ("light", "dark")
"""What a reader can choose beside following the system."""
KEPT_S = 400 * 24 * 3600
"""No browser keeps a cookie longer."""

router = APIRouter(include_in_schema=False)


def language_of(request: Request) -> str:
    """The language in which the reader wants this page."""
    chosen = request.cookies.get(LANGUAGE_COOKIE)
    return words.choose(chosen, request.headers.get("accept-language"))


def theme_of(request: Request) -> str:
    """`light` or `dark` where the reader chose one; nothing follows the system."""
    theme = request.cookies.get(THEME_COOKIE, "")
    return theme if theme in THEMES else ""


def address_of(request: Request) -> str:
    """Where a page can be asked for again; what was posted cannot."""
    if request.method != "GET":
        return "/"
    return request.url.path + (f"?{request.url.query}" if request.url.query else "")


# Open to all, as the sign-in page is: it changes nothing but two cookies of the reader's browser.
@router.post("/settings/appearance")
def choose(
    request: Request,
    language: Annotated[str, Form()] = "",
    theme: Annotated[str, Form()] = "",
    back: Annotated[str, Form()] = "/",
) -> Response:
    """Keeps the choice and shows the page again; anything unknown follows browser and system."""
    response = RedirectResponse(_local(back), status_code=303)
    # Who chooses what the browser asks for anyway goes on following the browser.
    asked_for = words.choose(None, request.headers.get("accept-language"))
    chosen = language if language in words.languages() and language != asked_for else ""
    _keep(response, LANGUAGE_COOKIE, chosen)
    _keep(response, THEME_COOKIE, theme if theme in THEMES else "")
    return response


def _keep(response: Response, name: str, value: str) -> None:
    if value:
        response.set_cookie(name, value, max_age=KEPT_S, samesite="lax", httponly=True)
    else:
        response.delete_cookie(name, samesite="lax", httponly=True)


def _local(address: str) -> str:
    """The address where it is one of this site, else the first page."""
    parts = urlsplit(address)
    inside = address.startswith("/") and not parts.scheme and not parts.netloc
    return address if inside and "\\" not in address and address.isprintable() else "/"
