"""What routes are given: the runtime, a session, and the caller with a sufficient role.

A route names the caller before the upload: who may not ask is refused before a body is read.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import HTTPBearer
from sqlalchemy.orm import Session

from db.queries.records import authenticate
from db.types import Role
from service.drift import DriftWatch
from service.edge import RateLimiter
from service.errors import Problem
from service.metrics import Metrics
from service.runtime import Resight

ROLE_ORDER = tuple(Role)
KEYS_DOCUMENTED = HTTPBearer(
    auto_error=False,
    scheme_name="key",
    description="An API key from `resight keys create`. Not needed on loopback.",
)
CHALLENGE = 'Bearer realm="resight", Basic realm="resight", charset="UTF-8"'


@dataclass(frozen=True, slots=True)
class Principal:
    """Who asks: a key's name, or `local`."""

    name: str
    role: Role

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


LOCAL = Principal("local", Role.ADMIN)


def get_state(request: Request) -> AppState:
    """The application's state, set when it starts."""
    state: AppState = request.app.state.resight
    return state


def get_runtime(request: Request) -> Resight:
    """The composed application: database, models, search."""
    return get_state(request).runtime


def get_session(request: Request) -> Iterator[Session]:
    """A session for reading; what a route writes it writes in a transaction of its own."""
    with get_runtime(request).sessions() as session:
        yield session


def get_principal(request: Request) -> Principal:
    """The caller.

    Raises:
        Problem: 401 without a valid key where one is needed, 429 after too many wrong ones.
    """
    state = get_state(request)
    authorization = request.headers.get("authorization")
    if authorization is None:
        if state.runtime.settings.on_loopback:
            return LOCAL
        raise _unauthorized("This needs an API key: send `Authorization: Bearer KEY`.")
    address = request.client.host if request.client else "unknown"
    key = _key_of(authorization)
    with state.runtime.sessions() as session:
        row = authenticate(session, key) if key else None
    if row is not None:
        return Principal(row.name, row.role)
    wait_s = state.failures.take(address)
    if wait_s:
        raise Problem(
            429,
            "too_many_wrong_keys",
            "Too many wrong keys from this address; wait before trying again.",
            headers={"Retry-After": str(int(wait_s) + 1)},
        )
    raise _unauthorized("The API key is unknown, expired or revoked.")


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


def needs(role: Role) -> Callable[..., Principal]:
    """A dependency that lets callers with `role`, or a wider one, through."""

    def check(
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


def reads_public(request: Request) -> None:
    """Lets anybody read the documentation and metrics where the settings say so.

    Raises:
        Problem: 401 or 403 for a caller who may not.
    """
    settings = get_runtime(request).settings
    if not settings.public_docs:
        needs(Role.VIEWER)(get_principal(request), None)


Runtime = Annotated[Resight, Depends(get_runtime)]
State = Annotated[AppState, Depends(get_state)]
Db = Annotated[Session, Depends(get_session)]
Viewer = Annotated[Principal, Depends(needs(Role.VIEWER))]
Reviewer = Annotated[Principal, Depends(needs(Role.REVIEWER))]
Curator = Annotated[Principal, Depends(needs(Role.CURATOR))]
Admin = Annotated[Principal, Depends(needs(Role.ADMIN))]
MetricsReader = Annotated[None, Depends(reads_public)]
DocsReader = MetricsReader
