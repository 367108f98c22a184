"""Owns what every page tells of its reader: the name in the head, the token, the way to sign in."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import urlencode, urlsplit

from fastapi import Request
from fastapi.responses import RedirectResponse, Response
from markupsafe import escape

from db.types import Role
from service.deps import Caller, found_caller, state_of
from service.sign_in import CSRF_FIELD, local_path
from service.web.words import lazy

ROLES = {
    Role.VIEWER: lazy("Viewer"),
    Role.REVIEWER: lazy("Reviewer"),
    Role.CURATOR: lazy("Curator"),
    Role.ADMIN: lazy("Admin"),
}
MAY = {
    Role.VIEWER: lazy("sees everything, changes nothing"),
    Role.REVIEWER: lazy("asks about photos and decides in the review"),
    Role.CURATOR: lazy("changes the catalogue and who is who"),
    Role.ADMIN: lazy("runs jobs and manages people"),
}
"""What each role may do beside what those before it may."""

_FORM = re.compile(r"""<form\b(?:[^>"']|"[^"]*"|'[^']*')*>""")
_POSTS = re.compile(r"""\smethod\s*=\s*["']?post\b""", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class MeView:
    """The reader as the head of a page shows them. `nameless`: the local user is still to be asked
    for a name; `signed_in`: there is something to sign out of."""

    name: str
    initials: str
    role: str
    may_manage: bool
    signed_in: bool
    nameless: bool
    csrf: str | None


def me_of(request: Request) -> MeView | None:
    """The reader; None on pages that ask nobody who they are, and on refusals."""
    caller = found_caller(request)
    if caller is None:
        return None
    principal = caller.principal
    return MeView(
        name=principal.name,
        initials=initials(principal.name),
        role=str(ROLES[principal.role]),
        may_manage=principal.may(Role.ADMIN),
        signed_in=caller.how == "cookie",
        nameless=caller.nameless,
        csrf=caller.csrf,
    )


def initials(name: str) -> str:
    """One or two letters that stand for a person."""
    words = [word for word in name.split() if word[0].isalnum()]
    picked = words if len(words) < 2 else [words[0], words[-1]]
    return "".join(word[0] for word in picked).upper() or "·"


def with_token(html: str, caller: Caller | None) -> str:
    """Every form that posts carries the token of the sign-in, without a script too."""
    if caller is None or caller.csrf is None:
        return html
    field = f'<input type="hidden" name="{CSRF_FIELD}" value="{escape(caller.csrf)}">'
    return _FORM.sub(
        lambda form: form[0] + field if _POSTS.search(form[0]) else form[0],
        html,
    )


def way_in(request: Request) -> Response | None:
    """Where somebody goes who has to sign in first; None where a refusal is shown instead: nobody
    has an account, or something was typed that would be lost."""
    if request.method not in ("GET", "HEAD") or not state_of(request).household.look().people:
        return None
    if request.headers.get("hx-request") == "true":
        shown = urlsplit(request.headers.get("hx-current-url", ""))
        where = sign_in_url(shown.path + (f"?{shown.query}" if shown.query else ""))
        return Response(status_code=401, headers={"HX-Redirect": where})
    if not _navigates(request):
        return None
    path = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    return RedirectResponse(sign_in_url(path), status_code=303)


def _navigates(request: Request) -> bool:
    """A browser that wants a page, and no script or program that wants what it holds."""
    mode = request.headers.get("sec-fetch-mode")
    if mode is not None:
        return mode == "navigate"
    return "text/html" in request.headers.get("accept", "")


def sign_in_url(path: str) -> str:
    """The sign-in page, which leads on to a path."""
    wanted = local_path(path)
    return "/sign-in" if wanted == "/" else f"/sign-in?{urlencode({'next': wanted})}"
