"""Owns who is signed in: the cookie, its token against forgery, and the limits on guessing."""

from __future__ import annotations

import base64
import hashlib
import hmac
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from threading import Lock
from typing import Final
from urllib.parse import urlsplit

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session, sessionmaker

from db.errors import Conflict
from db.queries import people, records
from db.queries.changes import Actor
from db.queries.people import AccountRow, SignedIn
from service import accounts
from service.accounts import Passwords
from service.edge import RateLimiter
from service.errors import FieldError, Problem

COOKIE: Final = "resight_session"
COOKIE_SECONDS: Final = int(people.LONGEST_SIGN_IN.total_seconds())
CSRF_HEADER: Final = "X-CSRF-Token"
CSRF_FIELD: Final = "csrf"

WRONG_PER_ADDRESS: Final = 20
WRONG_PER_ACCOUNT_AND_ADDRESS: Final = 5
WRONG_PER_ACCOUNT: Final = 30
"""Wrong attempts a minute. The last one is wide, so that nobody can lock a person out from one
address; it still leaves a guesser of many addresses 43,200 attempts a day."""
WRONG = "This is not right; check the login and the password."
LOOK_AGAIN_S = 1.0


def csrf_token(cookie: str) -> str:
    """What a page of this sign-in sends back; only who holds the cookie can make it, and it does
    not tell the cookie. Nothing of it is stored."""
    made = hmac.new(cookie.encode("utf-8", "surrogatepass"), b"resight csrf", hashlib.sha256)
    return base64.urlsafe_b64encode(made.digest()).decode().rstrip("=")


def csrf_right(cookie: str, given: str | None) -> bool:
    """Whether the token belongs to this sign-in."""
    given = given or ""
    return hmac.compare_digest(csrf_token(cookie).encode(), given.encode("utf-8", "surrogatepass"))


def local_path(wanted: str | None) -> str:
    """Where to go after signing in: a path of this service, or its first page."""
    wanted = wanted or "/"
    parts = urlsplit(wanted)
    foreign = parts.scheme or parts.netloc or not wanted.startswith("/")
    # Browsers read `/\` as `//`, and leave tabs and line ends out.
    if foreign or wanted[1:2] in ("/", "\\") or any(ord(char) <= 32 for char in wanted):
        return "/"
    return "/" if parts.path in ("/sign-in", "/sign-out") else wanted


class Guesses:
    """How often one may be wrong, by account and address; accounts need not exist."""

    def __init__(self) -> None:
        self._addresses = RateLimiter(WRONG_PER_ADDRESS)
        self._pairs = RateLimiter(WRONG_PER_ACCOUNT_AND_ADDRESS)
        self._accounts = RateLimiter(WRONG_PER_ACCOUNT)

    def take(self, address: str, login: str | None = None) -> float:
        """Counts an attempt as wrong before it is looked at; the seconds to wait, or 0."""
        for limiter, name in self._names(address, login):
            wait_s = limiter.take(name)
            if wait_s:
                # The wider limits are left alone: they would be used up from one address.
                return wait_s
        return 0.0

    def give_back(self, address: str, login: str | None = None) -> None:
        """The attempt was right."""
        for limiter, name in self._names(address, login):
            limiter.give_back(name)

    def _names(self, address: str, login: str | None) -> Iterator[tuple[RateLimiter, str]]:
        yield self._addresses, address
        if login is not None:
            # The limiter remembers names; what a stranger types must not fill the memory.
            typed = login.strip().lower().encode("utf-8", "replace")
            account = hashlib.sha256(typed).hexdigest()
            yield self._pairs, f"{account} {address}"
            yield self._accounts, account


@dataclass(frozen=True, slots=True)
class Here:
    """`people`: somebody has an account, so that everybody signs in. `local`: who uses the service
    on loopback until then, once the name was asked."""

    people: bool
    local: AccountRow | None


class Household:
    """Whether people have accounts here; asked of the database once a second at most."""

    def __init__(self, sessions: Callable[[], Session]) -> None:
        self._sessions = sessions
        self._lock = Lock()
        self._seen: Here | None = None
        self._until = 0.0

    @property
    def fresh(self) -> Here | None:
        """What was seen within the last second."""
        return self._seen if time.monotonic() < self._until else None

    def look(self) -> Here:
        """What holds now; while the database is away, what held before.

        Raises:
            SQLAlchemyError: the database is away, and nothing was seen before.
        """
        with self._lock:
            seen = self.fresh
            if seen is not None:
                return seen
            try:
                with self._sessions() as session:
                    seen = Here(people.anybody(session), people.local_account(session))
            except SQLAlchemyError:
                if self._seen is None:
                    raise
                return self._seen
            self._seen, self._until = seen, time.monotonic() + LOOK_AGAIN_S
            return seen

    def forget(self) -> None:
        """Somebody was added or renamed: look again at the next request."""
        self._until = 0.0


@dataclass(frozen=True, slots=True)
class SignIns:
    """Signing in, staying signed in, and signing out."""

    sessions: sessionmaker[Session]
    idle: timedelta
    passwords: Passwords
    guesses: Guesses = field(default_factory=Guesses)

    def with_password(self, login: str, password: str, address: str) -> str:
        """What the cookie holds.

        Raises:
            Problem: 401 when anything is wrong, in the same words and time whatever it is;
                429 after too many of them.
        """
        found = self._checked(login, password, address)
        if found is None:
            raise Problem(401, "wrong_password", WRONG)
        row, stored = found
        with self.sessions.begin() as session:
            # A password that was changed meanwhile has signed everybody out: nobody slips in after.
            if people.password_of(session, login, lock=True) != found:
                raise Problem(401, "wrong_password", WRONG)
            if self.passwords.outdated(stored):
                people.set_password(session, row.id, self.passwords.hash(password))
            return self._begin(session, row.id, row.name, "password")

    def know(self, login: str, password: str, address: str) -> bool:
        """Whether somebody who is signed in already knows the password too.

        Raises:
            Problem: 429 after too many wrong ones.
        """
        return self._checked(login, password, address) is not None

    def change_password(
        self, actor: Actor, row: AccountRow, present: str, wanted: str, *, address: str, stay: str
    ) -> AccountRow:
        """A person's own new password; they stay signed in where the cookie is `stay`.

        Raises:
            Conflict: `no_password`: the account has none; an admin gives the first one, since a key
                that may do little must not open everything.
            Invalid: `password_weak`.
            Problem: 422 when the present password is not right, 429 after too many of them.
        """
        if not row.has_password:
            raise Conflict(
                "no_password", "You sign in with keys alone; an admin can give you a password."
            )
        if not self.know(row.login, present, address):
            sentence = "The present password is not right."
            errors = [FieldError("/current_password", sentence)]
            raise Problem(422, "wrong_password", sentence, errors=errors)
        with self.sessions.begin() as session:
            return accounts.set_password(
                session, actor, self.passwords, row.id, wanted, stay=stay or None
            )

    def _checked(self, login: str, password: str, address: str) -> tuple[AccountRow, str] | None:
        self._count(address, login)
        with self.sessions() as session:
            found = people.password_of(session, login)
        if not self.passwords.verify(found[1] if found else None, password):
            return None
        self.guesses.give_back(address, login)
        return found

    def with_key(self, key: str, address: str) -> str:
        """What the cookie holds.

        Raises:
            Problem: 401 when the key is not a valid personal key; 429 after too many of them.
        """
        self._count(address)
        with self.sessions.begin() as session:
            found = records.authenticate(session, key.strip())
            if found is None or found.account_id is None:
                raise Problem(401, "wrong_key", "This is not a valid key of a person.")
            self.guesses.give_back(address)
            return self._begin(session, found.account_id, str(found.person), "key", found.id)

    def resume(self, cookie: str) -> SignedIn | None:
        """Who is signed in with this cookie."""
        with self.sessions.begin() as session:
            return people.resume_sign_in(session, cookie, self.idle)

    def end(self, cookie: str) -> None:
        """Signs this browser out."""
        with self.sessions.begin() as session:
            signed_in = people.resume_sign_in(session, cookie, self.idle)
            if people.end_sign_in(session, cookie) and signed_in is not None:
                records.add_audit(
                    session, signed_in.name, "account.sign_out", f"account:{signed_in.account_id}"
                )

    def _count(self, address: str, login: str | None = None) -> None:
        wait_s = self.guesses.take(address, login)
        if wait_s:
            raise Problem(
                429,
                "too_many_attempts",
                "Too many attempts; wait a little before trying again.",
                headers={"Retry-After": str(int(wait_s) + 1)},
            )

    def _begin(
        self, session: Session, account_id: int, name: str, how: str, key_id: int | None = None
    ) -> str:
        cookie = people.begin_sign_in(session, account_id, self.idle, key_id)
        records.add_audit(session, name, "account.sign_in", f"account:{account_id}", {"with": how})
        return cookie
