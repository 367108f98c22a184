"""Who may ask, and what they asked before: API keys and idempotent answers."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, and_, func, insert, or_, select, update
from sqlalchemy.dialects.postgresql import insert as pg_insert
from sqlalchemy.orm import Session

from db.errors import Conflict, Invalid, NotFound, translated
from db.tables import Account, ApiKey, IdempotencyKey
from db.types import Role

_PREFIX = "rs"


@dataclass(frozen=True, slots=True)
class ApiKeyRow:
    """`prefix` is the part of the key that may be shown. A personal key has `account_id`; `person`
    is whose it is, told where somebody authenticates with it."""

    id: int
    name: str
    prefix: str
    role: Role
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    account_id: int | None = None
    person: str | None = None


@dataclass(frozen=True, slots=True)
class StoredAnswer:
    status: int
    answer: dict[str, Any]
    created_at: datetime


def create_key(
    session: Session,
    name: str,
    role: Role | str,
    expires_at: datetime | None = None,
    *,
    account_id: int | None = None,
) -> tuple[ApiKeyRow, str]:
    """A new key: its row, and the key itself (`rs_<prefix>_<256 bits>`), which is not stored.
    With an account it is that person's and may never do more than the person.

    Raises:
        Conflict: a key with this name exists.
        Invalid: the name is blank.
    """
    if not name.strip():
        raise Invalid("name_blank", "A key needs a name that says who uses it.")
    prefix = secrets.token_hex(6)
    key = f"{_PREFIX}_{prefix}_{secrets.token_urlsafe(32)}"
    with translated():
        made = session.scalars(
            insert(ApiKey)
            .values(
                name=name.strip(),
                prefix=prefix,
                sha256=_digest(key),
                role=Role(role),
                expires_at=expires_at,
                account_id=account_id,
            )
            .returning(ApiKey)
        ).one()
    return _key(made), key


def authenticate(session: Session, key: str) -> ApiKeyRow | None:
    """Whose key this is, and what it may do; None when it is unknown, wrong, expired or revoked, or
    its person is disabled."""
    head, _, rest = key.partition("_")
    prefix = rest.partition("_")[0]
    found = session.execute(
        select(ApiKey, Account)
        .outerjoin(Account, Account.id == ApiKey.account_id)
        .where(
            ApiKey.prefix == prefix.replace("\x00", ""),
            _valid(),
            Account.disabled_at.is_(None),
        )
        .execution_options(populate_existing=True)
    ).one_or_none()
    stored = "" if found is None else found.ApiKey.sha256
    # Compared even without a row: the time taken must not tell which prefixes exist.
    if not hmac.compare_digest(stored, _digest(key)) or found is None or head != _PREFIX:
        return None
    row = _key(found.ApiKey)
    if found.Account is None:
        return row
    return replace(row, role=Role.least(row.role, found.Account.role), person=found.Account.name)


def _valid() -> ColumnElement[bool]:
    return and_(
        ApiKey.revoked_at.is_(None),
        or_(ApiKey.expires_at.is_(None), ApiKey.expires_at > func.clock_timestamp()),
    )


def list_keys(session: Session, account_id: int | None = None) -> list[ApiKeyRow]:
    """Every key, revoked ones too, oldest first; of one account or all."""
    query = select(ApiKey).order_by(ApiKey.id).execution_options(populate_existing=True)
    if account_id is not None:
        query = query.where(ApiKey.account_id == account_id)
    return [_key(found) for found in session.scalars(query)]


def has_active_key(session: Session) -> bool:
    """Whether anyone could authenticate with a key now."""
    active = (
        select(ApiKey.id)
        .outerjoin(Account, Account.id == ApiKey.account_id)
        .where(_valid(), Account.disabled_at.is_(None))
    )
    return session.scalar(active.limit(1)) is not None


@translated()
def revoke_key(session: Session, name: str) -> ApiKeyRow:
    """The key with this name stops working with this transaction; revoking again changes nothing.

    Raises:
        NotFound: no key has this name.
    """
    found = session.scalars(
        update(ApiKey)
        .where(ApiKey.name == name)
        .values(revoked_at=func.coalesce(ApiKey.revoked_at, func.clock_timestamp()))
        .returning(ApiKey)
        .execution_options(synchronize_session=False, populate_existing=True)
    ).one_or_none()
    if found is None:
        raise NotFound(
            "key_unknown", f"No key is named {name!r}; `resight keys list` names them.", name=name
        )
    return _key(found)


def _digest(key: str) -> str:
    # A fast hash is right here: the key is 256 random bits, not a password to be guessed.
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def _key(row: ApiKey) -> ApiKeyRow:
    return ApiKeyRow(
        id=row.id,
        name=row.name,
        prefix=row.prefix,
        role=row.role,
        created_at=row.created_at,
        expires_at=row.expires_at,
        revoked_at=row.revoked_at,
        account_id=row.account_id,
    )


@translated()
def get_idempotent(
    session: Session, *, principal: str, key: str, request_sha256: str
) -> StoredAnswer | None:
    """The answer that this principal's request with this key got; None when it is new.

    Raises:
        Conflict: `idempotency_key_reused`: the key came with another request.
    """
    found = session.get(IdempotencyKey, (principal, key), populate_existing=True)
    if found is None:
        return None
    if found.request_sha256 != request_sha256:
        raise Conflict(
            "idempotency_key_reused",
            f"The Idempotency-Key {key!r} came with another request before; use a new one for "
            "each request.",
            key=key,
        )
    return StoredAnswer(found.status, found.answer, found.created_at)


@translated()
def put_idempotent(
    session: Session,
    *,
    principal: str,
    key: str,
    request_sha256: str,
    status: int,
    answer: dict[str, Any],
) -> StoredAnswer:
    """Store an answer in the transaction that did the work; of two at once the first wins.

    Raises:
        Conflict: `idempotency_key_used`: another request with this key was answered meanwhile;
            roll back, then `get_idempotent` has its answer.
    """
    made = session.scalars(
        pg_insert(IdempotencyKey)
        .values(
            principal=principal,
            key=key,
            request_sha256=request_sha256,
            status=status,
            answer=answer,
        )
        .on_conflict_do_nothing()
        .returning(IdempotencyKey)
    ).one_or_none()
    if made is None:
        raise Conflict(
            "idempotency_key_used",
            f"A request with the Idempotency-Key {key!r} was just answered; send it again to get "
            "that answer.",
            key=key,
        )
    return StoredAnswer(made.status, made.answer, made.created_at)
