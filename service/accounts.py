"""Owns what people may do with accounts: passwords, names, roles, keys; each act is audited.

Functions that take a session write in the caller's transaction, their audit entry included.
"""

from __future__ import annotations

import re
import secrets
import unicodedata
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from threading import BoundedSemaphore
from typing import Any

from argon2 import PasswordHasher, Type
from argon2.exceptions import InvalidHashError, VerificationError
from sqlalchemy.orm import Session

from db.errors import Conflict, Invalid
from db.queries import people, records
from db.queries.access import ApiKeyRow
from db.queries.changes import Actor
from db.queries.people import AccountRow
from db.types import Role

SHORTEST_PASSWORD = 12
"""Characters. NIST SP 800-63B-4 asks for 15 where a password stands alone and 8 beside a second
factor; guessing is limited here, and a longer minimum is written on a note beside the screen."""
LONGEST_PASSWORD = 1000
FEWEST_DIFFERENT = 5
COMMON = frozenset(
    {
        "administrator",
        "123456789012",
        "1234567890123",
        "0123456789012",
        "password1234",
        "password12345",
        "passw0rd1234",
        "passwordpassword",
        "qwertyuiop12",
        "qwertyuiop123",
        "qwertyuiop1234",
        "qwerty123456",
        "1q2w3e4r5t6y",
        "abcdefghijkl",
        "abcdefghijklm",
        "iloveyou1234",
        "letmeinletmein",
        "changemechangeme",
        "welcome12345",
        "correcthorsebatterystaple",
    }
)
"""Passwords of the longer half of the lists that guessers begin with."""
LONGEST_NAME = 80
LOGIN = re.compile(r"[a-z0-9](?:[a-z0-9._@+-]{0,62}[a-z0-9])?")
NOT_NAMES = frozenset({"local", "resight", "system"})
"""What entries carry that no person made."""
CLI = Actor("local")


@dataclass(frozen=True, slots=True)
class Cost:
    """What one hash costs: passes over `memory_kib`, in `lanes` at once."""

    passes: int
    memory_kib: int
    lanes: int


RFC_9106_LOW_MEMORY = Cost(passes=3, memory_kib=64 * 1024, lanes=4)
"""The second recommended option of RFC 9106, section 4; three times what OWASP's Password Storage
Cheat Sheet asks for at least (19 MiB, 2 passes)."""
AT_ONCE = 2
"""Hashes computed side by side: 128 MiB at most, however many sign in together."""


class Passwords:
    """argon2id hashes of passwords. An unknown person costs the same time as a wrong password."""

    def __init__(self, cost: Cost = RFC_9106_LOW_MEMORY) -> None:
        self._hasher = PasswordHasher(
            time_cost=cost.passes,
            memory_cost=cost.memory_kib,
            parallelism=cost.lanes,
            type=Type.ID,
        )
        self._turns = BoundedSemaphore(AT_ONCE)
        self._nobody: str | None = None

    def hash(self, password: str) -> str:
        """The hash, with its salt and cost."""
        with self._turns:
            return self._hasher.hash(_canonical(password))

    def verify(self, stored: str | None, password: str) -> bool:
        """Whether the password is the hash's; None, nobody's, never is, and takes as long."""
        with self._turns:
            try:
                right = self._hasher.verify(stored or self._hash_of_nobody(), _canonical(password))
            except (VerificationError, InvalidHashError):
                return False
        return right and stored is not None

    def outdated(self, stored: str) -> bool:
        """Whether a hash was made at another cost, and should be made anew at the next chance."""
        return self._hasher.check_needs_rehash(stored)

    def _hash_of_nobody(self) -> str:
        if self._nobody is None:
            self._nobody = self._hasher.hash(secrets.token_urlsafe(32))
        return self._nobody


def _canonical(password: str) -> str:
    """The same characters, whichever keyboard composed them (NIST SP 800-63B, 3.1.1.2)."""
    return unicodedata.normalize("NFKC", password[:LONGEST_PASSWORD])


# ------------------------------------------------------------------------------------------- rules


def clean_name(name: str) -> str:
    """A person's name on one line, spaces single.

    Raises:
        Invalid: `name_blank`, `name_invalid`.
    """
    shown = "".join(
        char if unicodedata.category(char)[0] != "C" else " "
        for char in unicodedata.normalize("NFC", name)
    )
    cleaned = " ".join(shown.split())
    if not cleaned:
        raise Invalid("name_blank", "Give a name; it stands beside decisions.")
    if len(cleaned) > LONGEST_NAME:
        raise Invalid("name_invalid", f"A name has at most {LONGEST_NAME} characters.")
    if cleaned.casefold() in NOT_NAMES:
        raise Invalid("name_invalid", f"{cleaned!r} is kept for what no person did.", name=cleaned)
    return cleaned


def clean_login(login: str) -> str:
    """What somebody signs in with, in lower case.

    Raises:
        Invalid: `login_invalid`.
    """
    cleaned = login.strip().lower()
    if not LOGIN.fullmatch(cleaned) or cleaned in NOT_NAMES:
        raise Invalid(
            "login_invalid",
            f"A login is made of letters a to z, digits and . _ @ + - (at most 64), not {login!r}.",
            login=login,
        )
    return cleaned


def check_password(password: str, *known: str) -> str:
    """The password, where it may be used; `known` are texts that a guess would begin with.

    Raises:
        Invalid: `password_weak` with what to do.
    """
    if len(password) < SHORTEST_PASSWORD:
        raise Invalid(
            "password_weak",
            f"A password has at least {SHORTEST_PASSWORD} characters; four words in a row make a "
            "good one.",
        )
    if len(password) > LONGEST_PASSWORD:
        raise Invalid("password_weak", f"A password has at most {LONGEST_PASSWORD} characters.")
    guess = password.casefold()
    guessed = COMMON | {text.casefold() for text in known}
    if len(set(guess)) < FEWEST_DIFFERENT or guess in guessed:
        raise Invalid(
            "password_weak",
            "This password is guessed at once; four words in a row make a good one.",
        )
    return password


def make_password() -> str:
    """A password to be handed over and changed: 99 random bits, no letters that look alike."""
    letters = "abcdefghjkmnpqrstuvwxyz23456789"
    return "-".join("".join(secrets.choice(letters) for _ in range(5)) for _ in range(4))


# ------------------------------------------------------------------------------------------ people


def add_person(
    session: Session,
    actor: Actor,
    passwords: Passwords,
    *,
    login: str,
    name: str,
    role: Role,
    password: str | None,
) -> AccountRow:
    """A new person; without a password one who signs in with personal keys alone. The local user of
    the same name becomes this account.

    Raises:
        Conflict: `login_taken`, `person_name_taken`.
        Invalid: a value that is not allowed; `first_not_admin`.
    """
    login, name = clean_login(login), clean_name(name)
    if password is not None:
        check_password(password, login, name)
    if role is not Role.ADMIN and not people.anybody(session):
        raise Invalid(
            "first_not_admin",
            "The first account has to be an admin's: from then on everybody signs in, and nobody "
            "else could manage people.",
        )
    hashed = passwords.hash(password) if password is not None else None
    made: AccountRow | None = None
    if not people.anybody(session):
        made = people.adopt_local(session, login=login, name=name, role=role, password_hash=hashed)
    if made is None:
        made = people.add_account(session, login=login, name=name, role=role, password_hash=hashed)
    _audit(session, actor, "add", made, {"login": login, "name": name, "role": role})
    return made


def rename(session: Session, actor: Actor, account_id: int, name: str) -> AccountRow:
    """The name beside decisions from now on; past ones keep the one they were made under.

    Raises:
        Conflict: `person_name_taken`.
        Invalid: the name cannot be one.
    """
    before = people.get_account(session, account_id)
    after = people.rename(session, account_id, clean_name(name))
    if after.name != before.name:
        _audit(session, actor, "name", after, {"before": before.name, "name": after.name})
    return after


def name_local(session: Session, name: str | None) -> AccountRow:
    """The name of the local user; None: the question was not answered and is not asked again.

    Raises:
        Conflict: people have accounts; `person_name_taken`.
        Invalid: the name cannot be one.
    """
    if people.anybody(session):
        raise Conflict(
            "not_local", "People have accounts here; sign in and change your name there."
        )
    before = people.local_account(session)
    row = people.name_local(session, clean_name(name) if name is not None else CLI.principal)
    if before is None or before.name != row.name:
        detail = {"before": before.name if before else None, "name": row.name}
        _audit(session, Actor(row.name, row.id), "name", row, detail)
    return row


def set_role(session: Session, actor: Actor, account_id: int, role: Role) -> AccountRow:
    """Raises:
    Conflict: `last_admin`; `local_user`.
    NotFound: nobody has this id.
    """
    before = _of_people(session, account_id)
    after = people.set_role(session, account_id, role)
    if after.role is not before.role:
        _audit(session, actor, "role", after, {"before": before.role, "role": after.role})
    return after


def set_disabled(session: Session, actor: Actor, account_id: int, disabled: bool) -> AccountRow:
    """Raises:
    Conflict: `last_admin`; `local_user`.
    NotFound: nobody has this id.
    """
    before = _of_people(session, account_id)
    after = people.set_disabled(session, account_id, disabled)
    if (before.disabled_at is None) is disabled:
        _audit(session, actor, "disable" if disabled else "enable", after, {})
    return after


def set_password(
    session: Session,
    actor: Actor,
    passwords: Passwords,
    account_id: int,
    password: str,
    *,
    stay: str | None = None,
) -> AccountRow:
    """A new password; the person is signed out everywhere but where the cookie is `stay`.

    Raises:
        Conflict: `local_user`.
        Invalid: `password_weak`.
        NotFound: nobody has this id.
    """
    row = _of_people(session, account_id)
    check_password(password, row.login, row.name)
    row = people.set_password(session, account_id, passwords.hash(password))
    ended = people.end_sign_ins(session, account_id, but=stay)
    _audit(session, actor, "password", row, {"signed_out": ended})
    return row


def sign_out_others(session: Session, actor: Actor, row: AccountRow, stay: str | None) -> int:
    """Sign a person out everywhere but where the cookie is `stay`; how many browsers."""
    ended = people.end_sign_ins(session, row.id, but=stay)
    _audit(session, actor, "sign_out_others", row, {"signed_out": ended})
    return ended


def _of_people(session: Session, account_id: int) -> AccountRow:
    row = people.get_account(session, account_id)
    if row.is_local:
        raise Conflict(
            "local_user",
            "The local user has neither a role nor a password; add an account of the same name, "
            "and it becomes that one.",
        )
    return row


# -------------------------------------------------------------------------------------------- keys


def make_key(
    session: Session,
    actor: Actor,
    account_id: int,
    *,
    label: str,
    role: Role | None = None,
    may: Role = Role.ADMIN,
    days: int | None = None,
) -> tuple[ApiKeyRow, str]:
    """A personal key of a person, and the key itself, which is shown this once. It has the person's
    role, or a lesser `role`; `may` is the most that who asks may give.

    Raises:
        Conflict: `key_name_taken`; `local_user`.
        Invalid: the label is blank or long; `role_too_wide`; `person_disabled`.
        NotFound: nobody has this id.
    """
    row = _of_people(session, account_id)
    if row.disabled_at is not None:
        raise Invalid("person_disabled", f"{row.name} is disabled; a key would not work.")
    allowed = Role.least(row.role, may)
    wanted = role or allowed
    if not allowed.includes(wanted):
        raise Invalid(
            "role_too_wide",
            f"A key may do no more than who makes it: {allowed.value} at most, not {wanted.value}.",
        )
    label = clean_name(label)
    expires = datetime.now(UTC) + timedelta(days=days) if days is not None else None
    key, secret = records.create_key(
        session, f"{row.login}/{label}", wanted, expires, account_id=row.id
    )
    records.add_audit(
        session, actor.principal, "key.create", f"api_key:{key.name}", {"role": wanted}
    )
    return key, secret


def revoke_key(session: Session, actor: Actor, account_id: int, key_id: int) -> ApiKeyRow:
    """Raises:
    NotFound: the person has no such key.
    """
    key = people.revoke_key_of(session, account_id, key_id)
    records.add_audit(session, actor.principal, "key.revoke", f"api_key:{key.name}", {})
    return key


def label_of(key: ApiKeyRow) -> str:
    """What the person called it."""
    return key.name.partition("/")[2] or key.name


def _audit(
    session: Session, actor: Actor, action: str, row: AccountRow, detail: dict[str, Any]
) -> None:
    records.add_audit(session, actor.principal, f"account.{action}", f"account:{row.id}", detail)
