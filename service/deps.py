"""What routes are given: the runtime, a session, and the caller with a sufficient role.

A route names the caller before the upload: who may not ask is refused before a body is read.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import HTTPBearer
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

from db.queries.changes import Actor
from db.queries.records import ApiKeyRow, authenticate
from db.types import Role
from service.drift import DriftWatch
from service.edge import RateLimiter
from service.errors import Problem
from service.metrics import Metrics
from service.runtime import Resight
from service.streams import Streams

ROLE_ORDER = tuple(Role)
KEYS_DOCUMENTED = HTTPBearer(
    auto_error=False,
    scheme_name="key",
    description="An API key from `resight keys create`. Not needed on loopback.",
)
CHALLENGE = 'Bearer realm="resight", Basic realm="resight", charset="UTF-8"'


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
        return ROLE_ORDER.index(self.role) >= ROLE_ORDER.index(role)


@dataclass(frozen=True, slots=True)
class AppState:
    """What belongs to one application beside its runtime; `failures` counts refused keys."""

    runtime: Resight
    metrics: Metrics
    drift: DriftWatch
    failures: RateLimiter
    streams: Streams = field(default_factory=Streams)


LOCAL = Principal("local", Role.ADMIN)


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
    """The caller.

    Raises:
        Problem: 401 without a valid key where one is needed, 429 after too many wrong ones.
    """
    state = state_of(request)
    authorization = request.headers.get("authorization")
    if authorization is None:
        if state.runtime.settings.on_loopback:
            return LOCAL
        raise _unauthorized("This needs an API key: send `Authorization: Bearer KEY`.")
    row = await run_in_threadpool(_key_row, state.runtime, _key_of(authorization))
    if row is not None:
        return Principal(row.name, row.role)
    wait_s = state.failures.take(request.client.host if request.client else "unknown")
    if wait_s:
        raise Problem(
            429,
            "too_many_wrong_keys",
            "Too many wrong keys from this address; wait before trying again.",
            headers={"Retry-After": str(int(wait_s) + 1)},
        )
    raise _unauthorized("The API key is unknown, expired or revoked.")


def _key_row(runtime: Resight, key: str | None) -> ApiKeyRow | None:
    if key is None:
        return None
    with runtime.sessions() as session:
        return authenticate(session, key)


def _unauthorized(detail: str) -> Problem:
    return Problem(401, "unauthorized", detail, headers={"WWW-Authenticate": CHALLENGE})


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
                f"This needs the role {role.value}; the key {principal.name!r} has the role "
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
