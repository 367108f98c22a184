"""People: their accounts, and the browsers they are signed in with.

A browser's cookie is 256 random bits; its SHA-256 is what is stored. All times are the database's.
"""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import CursorResult, Row, func, select, text, update
from sqlalchemy import insert as sql_insert
from sqlalchemy.orm import Session

from db.errors import Conflict, NotFound, translated
from db.queries.access import ApiKeyRow, list_keys
from db.tables import Account, ApiKey, SignIn
from db.types import Role

LONGEST_SIGN_IN = timedelta(days=90)
"""A browser has to sign in again after this, however often it is used."""
RENEWED_AFTER = timedelta(hours=1)
"""A sign-in in use is prolonged this seldom, so that reading pages writes next to nothing."""


@dataclass(frozen=True, slots=True)
class AccountRow:
    """A person. `is_local`: the one user of a service that only this machine can reach."""

    id: int
    login: str
    name: str
    role: Role
    has_password: bool
    is_local: bool
    created_at: datetime
    disabled_at: datetime | None


# --------------------------------------------------------------------------------------- accounts


@translated()
def add_account(
    session: Session, *, login: str, name: str, role: Role, password_hash: str | None = None
) -> AccountRow:
    """A new person.

    Raises:
        Conflict: `login_taken`, `person_name_taken` (upper and lower case are the same).
        Invalid: the login or the name is blank.
    """
    _refuse_name_of_key(session, name)
    made = session.scalars(
        sql_insert(Account)
        .values(login=login, name=name, role=role, password_hash=password_hash)
        .returning(Account)
    ).one()
    return _account(made)


def list_accounts(session: Session) -> list[AccountRow]:
    """Everybody, the disabled too, by name; the local user only while nobody has an account."""
    rows = session.scalars(
        select(Account).order_by(func.lower(Account.name)).execution_options(populate_existing=True)
    )
    found = [_account(row) for row in rows]
    people = [row for row in found if not row.is_local]
    return people or found


def get_account(session: Session, account_id: int) -> AccountRow:
    """Raises:
    NotFound: nobody has this id.
    """
    found = session.get(Account, account_id, populate_existing=True)
    if found is None:
        raise NotFound("person_unknown", f"No account has the id {account_id}.", id=account_id)
    return _account(found)


def find_account(session: Session, login: str) -> AccountRow | None:
    """Who signs in with this name, upper and lower case being the same."""
    found = _by_login(session, login)
    return None if found is None else _account(found)


def named_account(session: Session, login: str) -> AccountRow:
    """Raises:
    NotFound: nobody signs in with this name.
    """
    found = find_account(session, login)
    if found is None:
        raise NotFound(
            "person_unknown",
            f"Nobody signs in as {login!r}; `resight users list` names everybody.",
            login=login,
        )
    return found


def local_account(session: Session) -> AccountRow | None:
    """The local user, once the name was asked."""
    found = session.scalars(select(Account).where(Account.is_local)).one_or_none()
    return None if found is None else _account(found)


def anybody(session: Session) -> bool:
    """Whether somebody has an account, be it disabled; the local user has none."""
    return session.scalar(select(Account.id).where(~Account.is_local).limit(1)) is not None


def can_sign_in(session: Session) -> bool:
    """Whether anybody could sign in with a password now."""
    found = select(Account.id).where(
        Account.password_hash.is_not(None), Account.disabled_at.is_(None)
    )
    return session.scalar(found.limit(1)) is not None


@translated()
def name_local(session: Session, name: str) -> AccountRow:
    """The local user is called `name` from now on; the row is made the first time.

    Raises:
        Conflict: `person_name_taken`.
    """
    local = local_account(session)
    if local is not None:
        return rename(session, local.id, name)
    made = session.scalars(
        sql_insert(Account)
        .values(login="local", name=name, role=Role.ADMIN, is_local=True)
        .returning(Account)
    ).one()
    return _account(made)


@translated()
def adopt_local(
    session: Session, *, login: str, name: str, role: Role, password_hash: str | None
) -> AccountRow | None:
    """Turn the local user of this name into an account, so that what was decided stays theirs;
    None where the local user has another name, or there is none.

    Raises:
        Conflict: `login_taken`.
    """
    return _changed_where(
        session,
        Account.is_local & (func.lower(Account.name) == func.lower(name)),
        login=login,
        name=name,
        role=role,
        password_hash=password_hash,
        is_local=False,
    )


@translated()
def rename(session: Session, account_id: int, name: str) -> AccountRow:
    """Raises:
    Conflict: `person_name_taken`.
    NotFound: nobody has this id.
    """
    if get_account(session, account_id).name.lower() != name.lower():
        _refuse_name_of_key(session, name)
    return _changed(session, account_id, name=name)


def set_role(session: Session, account_id: int, role: Role) -> AccountRow:
    """Raises:
    Conflict: `last_admin`: nobody else could manage people.
    NotFound: nobody has this id.
    """
    if role is not Role.ADMIN:
        _refuse_last_admin(session, account_id)
    return _changed(session, account_id, role=role)


def set_password(session: Session, account_id: int, password_hash: str | None) -> AccountRow:
    """Raises:
    NotFound: nobody has this id.
    """
    return _changed(session, account_id, password_hash=password_hash)


def set_disabled(session: Session, account_id: int, disabled: bool) -> AccountRow:
    """Who is disabled is signed out everywhere and keeps only the name beside past decisions.

    Raises:
        Conflict: `last_admin`: nobody else could manage people.
        NotFound: nobody has this id.
    """
    if disabled:
        _refuse_last_admin(session, account_id)
        end_sign_ins(session, account_id)
    when: Any = func.coalesce(Account.disabled_at, func.clock_timestamp()) if disabled else None
    return _changed(session, account_id, disabled_at=when)


def password_of(
    session: Session, login: str, *, lock: bool = False
) -> tuple[AccountRow, str] | None:
    """An account that may sign in with a password, and its hash; with `lock` nobody changes them
    before this transaction ends."""
    found = _by_login(session, login, lock=lock)
    if found is None or found.password_hash is None or found.disabled_at is not None:
        return None
    return _account(found), found.password_hash


def _by_login(session: Session, login: str, *, lock: bool = False) -> Account | None:
    query = (
        select(Account)
        .where(func.lower(Account.login) == func.lower(login.replace("\x00", "")))
        .where(~Account.is_local)
        .execution_options(populate_existing=True)
    )
    return session.scalars(query.with_for_update() if lock else query).one_or_none()


def _refuse_name_of_key(session: Session, name: str) -> None:
    """A person called as a program's key is would decide in its name."""
    same = select(ApiKey.id).where(
        ApiKey.account_id.is_(None), func.lower(ApiKey.name) == func.lower(name)
    )
    if session.scalar(same.limit(1)) is not None:
        raise Conflict(
            "person_name_taken", "A program's key has this name; choose another one.", name=name
        )


def _refuse_last_admin(session: Session, account_id: int) -> None:
    # Two admins who demote each other at once wait for one another here.
    admins = session.scalars(
        select(Account.id)
        .where(Account.role == Role.ADMIN, Account.disabled_at.is_(None), ~Account.is_local)
        .order_by(Account.id)
        .with_for_update()
    ).all()
    if list(admins) == [account_id]:
        raise Conflict(
            "last_admin",
            "This is the only admin; make somebody else an admin first, or nobody could manage "
            "people any more.",
            account_id=account_id,
        )


def _changed(session: Session, account_id: int, **values: Any) -> AccountRow:
    row = _changed_where(session, Account.id == account_id, **values)
    return row if row is not None else get_account(session, account_id)


def _changed_where(session: Session, condition: Any, **values: Any) -> AccountRow | None:
    with translated():
        found = session.scalars(
            update(Account)
            .where(condition)
            .values(**values)
            .returning(Account)
            .execution_options(synchronize_session=False, populate_existing=True)
        ).one_or_none()
    return None if found is None else _account(found)


def _account(row: Account) -> AccountRow:
    return AccountRow(
        id=row.id,
        login=row.login,
        name=row.name,
        role=row.role,
        has_password=row.password_hash is not None,
        is_local=row.is_local,
        created_at=row.created_at,
        disabled_at=row.disabled_at,
    )


# ---------------------------------------------------------------------------------- personal keys


def keys_of(session: Session, account_id: int) -> list[ApiKeyRow]:
    """A person's keys, revoked ones too, oldest first."""
    return list_keys(session, account_id)


@translated()
def revoke_key_of(session: Session, account_id: int, key_id: int) -> ApiKeyRow:
    """A person's own key stops working with this transaction, and what signed in with it.

    Raises:
        NotFound: the person has no such key.
    """
    session.execute(
        update(ApiKey)
        .where(ApiKey.id == key_id, ApiKey.account_id == account_id)
        .values(revoked_at=func.coalesce(ApiKey.revoked_at, func.clock_timestamp()))
        .execution_options(synchronize_session=False)
    )
    found = next((key for key in keys_of(session, account_id) if key.id == key_id), None)
    if found is None:
        raise NotFound("key_unknown", "You have no key with this id.", key_id=key_id)
    return found


# --------------------------------------------------------------------------------------- sign-ins


def begin_sign_in(
    session: Session, account_id: int, idle: timedelta, api_key_id: int | None = None
) -> str:
    """Sign a browser in until it was not used for `idle`; what its cookie holds, which is not
    stored. With a key, it ends with that key and may do no more than the key."""
    token = secrets.token_urlsafe(32)
    session.execute(
        text(
            "INSERT INTO sign_in (sha256, account_id, api_key_id, expires_at)"
            " VALUES (:sha256, :account, :key, clock_timestamp() + least(:idle, :longest))"
        ),
        {
            "sha256": _digest(token),
            "account": account_id,
            "key": api_key_id,
            "idle": idle,
            "longest": LONGEST_SIGN_IN,
        },
    )
    session.execute(
        text("DELETE FROM sign_in WHERE expires_at < clock_timestamp() - cast(:kept AS interval)"),
        {"kept": LONGEST_SIGN_IN},
    )
    return token


_RESUME = text(
    "SELECT a.id, a.login, a.name, a.role, k.role AS key_role,"
    " s.expires_at < least(clock_timestamp() + cast(:idle AS interval), s.created_at + :longest)"
    "  - cast(:renewed_after AS interval) AS renew"
    " FROM sign_in s JOIN account a ON a.id = s.account_id"
    " LEFT JOIN api_key k ON k.id = s.api_key_id"
    " WHERE s.sha256 = :sha256 AND s.ended_at IS NULL AND s.expires_at > clock_timestamp()"
    " AND a.disabled_at IS NULL AND k.revoked_at IS NULL"
    " AND (k.expires_at IS NULL OR k.expires_at > clock_timestamp())"
)


@dataclass(frozen=True, slots=True)
class SignedIn:
    """Who a browser is signed in as, and what it may do."""

    account_id: int
    name: str
    role: Role


def resume_sign_in(session: Session, token: str, idle: timedelta) -> SignedIn | None:
    """Who is signed in with this cookie; None when it is unknown, ended or expired, or the person
    is disabled. Its end moves on with its use."""
    values = {"sha256": _digest(token), "idle": idle, "longest": LONGEST_SIGN_IN}
    found: Row[Any] | None = session.execute(
        _RESUME, values | {"renewed_after": min(RENEWED_AFTER, idle / 10)}
    ).one_or_none()
    if found is None:
        return None
    if found.renew:
        session.execute(
            text(
                "UPDATE sign_in SET expires_at ="
                " least(clock_timestamp() + cast(:idle AS interval), created_at + :longest)"
                " WHERE sha256 = :sha256"
            ),
            values,
        )
    role = Role(found.role)
    if found.key_role is not None:
        role = Role.least(role, Role(found.key_role))
    return SignedIn(found.id, found.name, role)


def end_sign_in(session: Session, token: str) -> bool:
    """Sign one browser out; whether it was signed in."""
    ended: CursorResult[Any] = session.execute(  # type: ignore[assignment]
        update(SignIn)
        .where(SignIn.sha256 == _digest(token), SignIn.ended_at.is_(None))
        .values(ended_at=func.clock_timestamp())
        .execution_options(synchronize_session=False)
    )
    return ended.rowcount > 0


def end_sign_ins(session: Session, account_id: int, *, but: str | None = None) -> int:
    """Sign a person out everywhere, except where the cookie is `but`; how many browsers."""
    ending = update(SignIn).where(
        SignIn.account_id == account_id,
        SignIn.ended_at.is_(None),
        SignIn.expires_at > func.clock_timestamp(),
    )
    if but is not None:
        ending = ending.where(SignIn.sha256 != _digest(but))
    ended: CursorResult[Any] = session.execute(  # type: ignore[assignment]
        ending.values(ended_at=func.clock_timestamp()).execution_options(synchronize_session=False)
    )
    return ended.rowcount


def count_sign_ins(session: Session, account_id: int) -> int:
    """In how many browsers a person is signed in now."""
    return (
        session.scalar(
            select(func.count())
            .select_from(SignIn)
            .where(
                SignIn.account_id == account_id,
                SignIn.ended_at.is_(None),
                SignIn.expires_at > func.clock_timestamp(),
            )
        )
        or 0
    )


def _digest(token: str) -> str:
    # A fast hash is right here: 256 random bits are not guessed.
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()
