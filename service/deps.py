"""What routes are given: the runtime, a session, and the caller with a sufficient role.

A route names the caller before the upload: who may not ask is refused before a body is read.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from typing import Annotated, Literal

from fastapi import Depends, Request
from fastapi.security import HTTPBearer
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

from db.queries.changes import Actor
from db.queries.records import ApiKeyRow, authenticate
from db.types import Role
from service.drift import DriftWatch
from service.edge import SAFE_METHODS, RateLimiter
from service.errors import Problem
from service.metrics import Metrics
from service.runtime import Resight
from service.sign_in import (
    COOKIE,
    CSRF_FIELD,
    CSRF_HEADER,
    Household,
    SignIns,
    csrf_right,
    csrf_token,
)
from service.streams import Streams

KEYS_DOCUMENTED = HTTPBearer(
    auto_error=False,
    scheme_name="key",
    description="A key from `resight users key` or `resight keys create`. Not needed on loopback "
    "while nobody has an account.",
)
CHALLENGE = 'Bearer realm="resight"'
CHALLENGE_WITHOUT_PEOPLE = f'{CHALLENGE}, Basic realm="resight", charset="UTF-8"'
"""Lets a browser ask for a key. Where people have accounts they sign in on a page instead, and no
browser's own dialog comes up."""


@dataclass(frozen=True, slots=True)
class Principal:
    """Who asks: a person's name with the account behind it, a key's name, or `local`."""

    name: str
    role: Role
    account_id: int | None = None

    @property
    def actor(self) -> Actor:
        """The one whose name is kept beside what is changed."""
        return Actor(self.name, self.account_id)

    def may(self, role: Role) -> bool:
        """Whether the caller's role includes `role`."""
        return self.role.includes(role)


@dataclass(frozen=True, slots=True)
class Caller:
    """A principal and how it is known. `csrf` is what a page sends back with what it changes, where
    a cookie says who asks; `nameless` is the local user who was not asked for a name yet."""

    principal: Principal
    how: Literal["key", "cookie", "local"]
    csrf: str | None = None
    nameless: bool = False


@dataclass(frozen=True, slots=True)
class AppState:
    """What belongs to one application beside its runtime; `failures` counts refused keys."""

    runtime: Resight
    metrics: Metrics
    drift: DriftWatch
    failures: RateLimiter
    household: Household
    sign_ins: SignIns
    streams: Streams = field(default_factory=Streams)


LOCAL = Principal("local", Role.ADMIN)
"""Who uses a service on loopback before anybody gave a name."""


def state_of(request: Request) -> AppState:
    """The application's state, set when it starts."""
    state: AppState = request.app.state.resight
    return state


def get_runtime(request: Request) -> Resight:
    """The composed application: database, models, search."""
    return state_of(request).runtime


# A dependency that waits for nothing is `async`: the others cost a change of threads each.


async def _state(request: Request) -> AppState:
    return state_of(request)


async def _runtime(request: Request) -> Resight:
    return get_runtime(request)


def get_session(request: Request) -> Iterator[Session]:
    """A session for reading; what a route writes it writes in a transaction of its own."""
    with get_runtime(request).sessions() as session:
        yield session


async def get_principal(request: Request) -> Principal:
    """The caller: by a key, else by the cookie of a sign-in, else the local user on loopback while
    nobody has an account.

    Raises:
        Problem: 401 when none of these says who asks, 403 for a change by cookie without its
            token, 429 after too many wrong keys.
    """
    caller = await _caller(request)
    request.state.caller = caller
    return caller.principal


def found_caller(request: Request) -> Caller | None:
    """Who was found to ask, where that is known already."""
    found: Caller | None = getattr(request.state, "caller", None)
    return found


def caller_of(request: Request) -> Caller:
    """Who asks; for routes that name a role."""
    found = found_caller(request)
    if found is None:
        raise RuntimeError("the route names no role, so that nobody was looked for")
    return found


async def _caller(request: Request) -> Caller:
    state = state_of(request)
    authorization = request.headers.get("authorization")
    if authorization is not None:
        return await _by_key(request, state, authorization)
    cookie = request.cookies.get(COOKIE)
    if cookie is not None:
        caller = await _by_cookie(request, state, cookie)
        if caller is not None:
            return caller
    household = state.household
    here = household.fresh
    if here is None:
        here = await run_in_threadpool(household.look)
    if here.people or not state.runtime.settings.on_loopback:
        raise unauthorized(people=here.people)
    if here.local is None:
        return Caller(LOCAL, "local", nameless=True)
    return Caller(Principal(here.local.name, Role.ADMIN, here.local.id), "local")


async def _by_key(request: Request, state: AppState, authorization: str) -> Caller:
    key = _key_of(authorization)
    row = await run_in_threadpool(_key_row, state.runtime, key)
    if row is not None:
        return Caller(Principal(row.person or row.name, row.role, row.account_id), "key")
    prefix = "_".join((key or "").split("_", 2)[:2])[:32]
    wait_s = state.failures.take(address_of(request)) or state.failures.take(f"key:{prefix}")
    if wait_s:
        raise Problem(
            429,
            "too_many_wrong_keys",
            "Too many wrong keys from this address; wait before trying again.",
            headers={"Retry-After": str(int(wait_s) + 1)},
        )
    raise _challenge("The API key is unknown, expired or revoked.", people=_people_known(state))


async def _by_cookie(request: Request, state: AppState, cookie: str) -> Caller | None:
    found = await run_in_threadpool(state.sign_ins.resume, cookie)
    if found is None:
        return None
    if request.method not in SAFE_METHODS and not csrf_right(cookie, await _token_of(request)):
        raise Problem(
            403,
            "csrf_token",
            "This change did not come from a page of this sign-in; reload the page and do it "
            f"again. (Programs send `Authorization: Bearer KEY`, or the header {CSRF_HEADER}.)",
        )
    principal = Principal(found.name, found.role, found.account_id)
    return Caller(principal, "cookie", csrf_token(cookie))


async def _token_of(request: Request) -> str | None:
    """The token from its header, or else from the form that the page has sent. A form that is read
    here is kept: the route reads it again."""
    given = request.headers.get(CSRF_HEADER)
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if given is not None or kind not in FORMS:
        return given
    form = await request.form()
    field = form.get(CSRF_FIELD)
    if not isinstance(field, str):
        await form.close()
        return None
    return field


FORMS = frozenset({"application/x-www-form-urlencoded", "multipart/form-data"})


def address_of(request: Request) -> str:
    """The address that a request came from."""
    return request.client.host if request.client else "unknown"


def _people_known(state: AppState) -> bool:
    here = state.household.fresh
    return here is not None and here.people


def _key_row(runtime: Resight, key: str | None) -> ApiKeyRow | None:
    if key is None:
        return None
    with runtime.sessions() as session:
        return authenticate(session, key)


def unauthorized(*, people: bool) -> Problem:
    """Nobody knows who asks."""
    if people:
        detail = "Sign in, or send a key: `Authorization: Bearer KEY`."
    else:
        detail = "This needs an API key: send `Authorization: Bearer KEY`."
    return _challenge(detail, people=people)


def _challenge(detail: str, *, people: bool) -> Problem:
    challenge = CHALLENGE if people else CHALLENGE_WITHOUT_PEOPLE
    return Problem(401, "unauthorized", detail, headers={"WWW-Authenticate": challenge})


def _key_of(authorization: str) -> str | None:
    """The key of a Bearer header, or the password of a Basic one: browsers ask for the latter."""
    scheme, _, value = authorization.partition(" ")
    if scheme.lower() == "bearer":
        return value.strip() or None
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(value, validate=True).decode().partition(":")[2] or None
        except (binascii.Error, UnicodeDecodeError):
            return None
    return None


def needs(role: Role) -> Callable[..., Coroutine[None, None, Principal]]:
    """A dependency that lets callers with `role`, or a wider one, through."""

    async def check(
        principal: Annotated[Principal, Depends(get_principal)],
        _documented: Annotated[object, Depends(KEYS_DOCUMENTED)],
    ) -> Principal:
        if not principal.may(role):
            raise Problem(
                403,
                "forbidden",
                f"This needs the role {role.value}; {principal.name!r} has the role "
                f"{principal.role.value}.",
            )
        return principal

    check.__name__ = f"needs_{role.value}"
    return check


async def reads_public(request: Request) -> None:
    """Lets anybody read the documentation and metrics where the settings say so.

    Raises:
        Problem: 401 for a caller who may not.
    """
    if not get_runtime(request).settings.public_docs:
        await get_principal(request)


Runtime = Annotated[Resight, Depends(_runtime)]
State = Annotated[AppState, Depends(_state)]
Db = Annotated[Session, Depends(get_session)]
Viewer = Annotated[Principal, Depends(needs(Role.VIEWER))]
Reviewer = Annotated[Principal, Depends(needs(Role.REVIEWER))]
Curator = Annotated[Principal, Depends(needs(Role.CURATOR))]
Admin = Annotated[Principal, Depends(needs(Role.ADMIN))]
MetricsReader = Annotated[None, Depends(reads_public)]
DocsReader = MetricsReader
