"""Pages for signing in and out of a browser."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Form, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import RedirectResponse, Response

from service.accounts import LONGEST_PASSWORD
from service.deps import State, address_of, get_principal, state_of
from service.errors import Problem
from service.sign_in import COOKIE, COOKIE_SECONDS, local_path
from service.web.pages import PageRoute, Shell, render
from service.web.told import told

router = APIRouter(route_class=PageRoute, include_in_schema=False)

Text = Annotated[str, Form(max_length=2000)]
Secret = Annotated[str, Form(max_length=LONGEST_PASSWORD)]


@router.get("/sign-in")
def sign_in_page(request: Request, state: State, next: str = "/") -> Response:  # noqa: A002
    """The form; who needs none is led on."""
    wanted = local_path(next)
    here = state.household.look()
    cookie = request.cookies.get(COOKIE)
    if cookie is not None and state.sign_ins.resume(cookie) is not None:
        return RedirectResponse(wanted, status_code=303)
    if not here.people and state.runtime.settings.on_loopback:
        return RedirectResponse(wanted, status_code=303)
    return _sign_in_form(request, wanted, nobody=not here.people)


@router.post("/sign-in")
def sign_in(
    request: Request,
    state: State,
    login: Text = "",
    password: Secret = "",
    key: Text = "",
    next: Text = "/",  # noqa: A002
) -> Response:
    """Signs this browser in, with a password or with a personal key."""
    wanted = local_path(next)
    address = address_of(request)
    try:
        if key.strip():
            cookie = state.sign_ins.with_key(key, address)
        else:
            cookie = state.sign_ins.with_password(login, password, address)
    except Problem as problem:
        return _sign_in_form(request, wanted, login=login, problem=problem, by_key=bool(key))
    before = request.cookies.get(COOKIE)
    if before is not None:
        state.sign_ins.end(before)
    response = RedirectResponse(wanted, status_code=303)
    keep_signed_in(request, response, cookie)
    return response


@router.post("/sign-out")
async def sign_out(request: Request) -> Response:
    """Ends this browser's sign-in; one that has ended already is no mistake."""
    try:
        await get_principal(request)
    except Problem as problem:
        if problem.status != 401:
            raise
    cookie = request.cookies.get(COOKIE)
    if cookie is not None:
        await run_in_threadpool(state_of(request).sign_ins.end, cookie)
    response = RedirectResponse("/sign-in", status_code=303)
    response.delete_cookie(COOKIE, httponly=True, samesite="lax")
    return response


def _sign_in_form(
    request: Request,
    wanted: str,
    *,
    login: str = "",
    problem: Problem | None = None,
    nobody: bool = False,
    by_key: bool = False,
) -> Response:
    page = render(
        request,
        "sign_in.html",
        status=problem.status if problem else 200,
        here="sign-in",
        shell=Shell(),
        wanted=wanted,
        login=login,
        by_key=by_key,
        nobody=nobody,
        wrong=told(problem.detail) if problem else None,
    )
    page.headers.update(problem.headers if problem else {})
    return page


def keep_signed_in(request: Request, response: Response, cookie: str) -> None:
    """The cookie that says who asks; scripts cannot read it."""
    response.set_cookie(
        COOKIE,
        cookie,
        max_age=COOKIE_SECONDS,
        path="/",
        secure=request.url.scheme == "https",
        httponly=True,
        samesite="lax",
    )
