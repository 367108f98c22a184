"""People of a service under test: accounts with cheaply hashed passwords, and their browsers."""

from __future__ import annotations

import re
from dataclasses import dataclass

from fastapi.testclient import TestClient

from db.queries import people, records
from db.types import Role
from service.accounts import CLI, Cost, Passwords, add_person

CHEAP = Cost(passes=1, memory_kib=64, lanes=1)
PASSWORD = "four words in a row"
BROWSER = {"Accept": "text/html", "Sec-Fetch-Mode": "navigate"}


def cheap_passwords() -> Passwords:
    return Passwords(CHEAP)


def add_account(
    client: TestClient,
    login: str,
    role: Role = Role.ADMIN,
    *,
    name: str | None = None,
    password: str | None = PASSWORD,
) -> int:
    """The id of a new account; seen by the service at once."""
    state = client.app.state.resight  # type: ignore[attr-defined]
    with state.runtime.sessions.begin() as session:
        row = add_person(
            session,
            CLI,
            state.sign_ins.passwords,
            login=login,
            name=name or login.title(),
            role=role,
            password=password,
        )
    state.household.forget()
    return row.id


def key_for(client: TestClient, login: str, role: Role | None = None) -> dict[str, str]:
    """Headers with a personal key."""
    with client.app.state.resight.runtime.sessions.begin() as session:  # type: ignore[attr-defined]
        row = people.named_account(session, login)
        label = f"{login}/{len(people.keys_of(session, row.id))}"
        _, key = records.create_key(session, label, role or row.role, account_id=row.id)
    return {"Authorization": f"Bearer {key}"}


@dataclass
class Browser:
    """Somebody signed in: a cookie, and the token of the pages."""

    client: TestClient
    cookie: str

    @property
    def headers(self) -> dict[str, str]:
        """The cookie alone, as another site's page would have it sent."""
        return {"Cookie": f"resight_session={self.cookie}"}

    @property
    def token(self) -> str:
        page = self.client.get("/people/me", headers=self.headers | BROWSER)
        found = re.search(r'name="csrf-token" content="([^"]+)"', page.text)
        assert found, page.text[:2000]
        return found[1]

    @property
    def own(self) -> dict[str, str]:
        """What a page of this sign-in sends with a change."""
        return self.headers | {"X-CSRF-Token": self.token}


def sign_in(client: TestClient, login: str, password: str = PASSWORD) -> Browser:
    client.cookies.clear()
    answer = client.post(
        "/sign-in", data={"login": login, "password": password}, follow_redirects=False
    )
    assert answer.status_code == 303, answer.text
    cookie = answer.cookies["resight_session"]
    client.cookies.clear()
    return Browser(client, cookie)
