"""`resight users` and `resight audit verify`, run in this process against a real database."""

from __future__ import annotations

import io
import json
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session, sessionmaker

from db.queries import people, records
from db.types import Role
from service import accounts
from service.cli.commands import app
from service.cli.common import Exit, run
from tests.service.household import CHEAP, PASSWORD

Resight = Callable[..., tuple[int, str, str]]


@pytest.fixture
def resight(
    database_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Resight:
    """Runs a command with something on standard input: exit code, output, errors."""
    monkeypatch.setenv("RESIGHT_DATABASE_URL", database_url)
    monkeypatch.setenv("RESIGHT_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setattr(accounts.Passwords.__init__, "__defaults__", (CHEAP,))

    def call(*arguments: str, stdin: str = "") -> tuple[int, str, str]:
        monkeypatch.setattr("sys.stdin", io.StringIO(stdin))
        code = run(app, list(arguments))
        told = capsys.readouterr()
        return code, told.out, " ".join(told.err.split())

    return call


def test_people_are_added_listed_and_changed(
    resight: Resight, sessions: sessionmaker[Session]
) -> None:
    code, _, told = resight("users", "add", "Anna", "--name", "Anna Berg", stdin=f"{PASSWORD}\n")
    assert code == Exit.OK, told
    assert "Anna Berg signs in as anna and is admin." in told
    assert "programs need a key" in told
    assert resight("users", "add", "bo", stdin=PASSWORD + "2")[0] == Exit.OK
    assert resight("users", "add", "cleo", "--role", "curator", "--no-password")[0] == Exit.OK
    listed: list[dict[str, Any]] = json.loads(resight("users", "list", "--json")[1])
    assert [(row["login"], row["role"], row["has_password"]) for row in listed] == [
        ("anna", "admin", True),
        ("bo", "viewer", True),
        ("cleo", "curator", False),
    ]
    assert resight("users", "role", "bo", "reviewer")[0] == Exit.OK
    assert resight("users", "password", "bo", stdin="another four words\n")[0] == Exit.OK
    assert resight("users", "disable", "bo")[0] == Exit.OK
    assert "disabled" in resight("users", "list")[1]
    assert resight("users", "enable", "bo")[0] == Exit.OK
    with sessions() as session:
        found = people.password_of(session, "bo")
        actions = [row.action for row in records.list_audit(session).items]
    assert found is not None
    assert found[0].role is Role.REVIEWER
    assert accounts.Passwords().verify(found[1], "another four words")
    assert actions == [
        f"account.{what}" for what in ("enable", "disable", "password", "role", "add", "add", "add")
    ]


def test_what_cannot_be_is_refused_with_a_sentence(resight: Resight) -> None:
    first = resight("users", "add", "anna", "--role", "viewer", stdin=PASSWORD)
    assert first[0] == Exit.FAILED
    assert "The first account has to be an admin's" in first[2]
    assert resight("users", "add", "anna", stdin="short")[0] == Exit.FAILED
    assert resight("users", "add", "anna", stdin="")[0] == Exit.USAGE
    assert resight("users", "add", "anna", "--role", "owner", stdin=PASSWORD)[0] == Exit.USAGE
    assert resight("users", "add", "anna", stdin=PASSWORD)[0] == Exit.OK
    for arguments in (
        ("users", "role", "anna", "viewer"),
        ("users", "disable", "anna"),
        ("users", "key", "nobody"),
    ):
        assert resight(*arguments)[0] == Exit.FAILED
    # A password is never an argument.
    assert resight("users", "password", "anna", "secret")[0] == Exit.USAGE


def test_a_personal_key_is_made_for_somebody(
    resight: Resight, sessions: sessionmaker[Session], tmp_path: Path
) -> None:
    resight("users", "add", "anna", "--name", "Anna Berg", "--no-password")
    code, out, _ = resight("users", "key", "anna", "--role", "reviewer", "--days", "30")
    assert code == Exit.OK
    with sessions() as session:
        found = records.authenticate(session, out.strip())
    assert found is not None
    assert (found.person, found.role) == ("Anna Berg", Role.REVIEWER)
    assert found.expires_at is not None
    file = tmp_path / "key"
    assert resight("users", "key", "anna", "--name", "cron", "--to", str(file))[0] == Exit.OK
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    with sessions() as session:
        assert records.authenticate(session, file.read_text().strip()) is not None


def test_promise_55_audit_verify_finds_one_altered_row(
    resight: Resight, sessions: sessionmaker[Session]
) -> None:
    """Promise 55: the chain tells, even when who owns the database switched the triggers off."""
    with sessions.begin() as session:
        numbers = [records.add_audit(session, "anna", "act", f"thing:{n}") for n in range(4)]
    code, out, _ = resight("audit", "verify")
    assert (code, "as it was written" in out) == (Exit.OK, True)
    whole = json.loads(resight("audit", "verify", "--json")[1])
    assert (whole["whole"], whole["newest"]["id"]) == (True, numbers[-1])
    assert whole["newest"]["hash"] in out
    with sessions.begin() as session:
        session.execute(text("ALTER TABLE audit DISABLE TRIGGER audit_append_only"))
        session.execute(
            text("UPDATE audit SET principal = 'bo' WHERE id = :id"), {"id": numbers[1]}
        )
    code, _, told = resight("audit", "verify")
    assert code == Exit.FAILED
    assert f"removed: {numbers[1]}." in told
    code, out, _ = resight("audit", "verify", "--json")
    assert (code, json.loads(out)["broken"]) == (Exit.FAILED, [numbers[1]])
