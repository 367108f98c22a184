"""Who is who on the command line."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.orm import Session, sessionmaker

from service.cli.commands import app
from service.cli.common import Exit, run
from tests.identities import individual, photos_of

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def cli(database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    monkeypatch.setenv("RESIGHT_DATABASE_URL", database_url)

    def call(*arguments: object) -> tuple[int, str, str]:
        out, err = io.StringIO(), io.StringIO()
        argv = [*map(str, arguments), "--data-dir", str(tmp_path)]
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = run(app, argv)
        return code, out.getvalue(), err.getvalue()

    return call


def as_json(done: tuple[int, str, str]) -> Any:
    assert done[0] == Exit.OK, done[2]
    return json.loads(done[1])


def test_rename_merge_split_history_and_undo(cli: Cli, sessions: sessionmaker[Session]) -> None:
    with sessions.begin() as session:
        individual(session, "Tip", 1)
        top = individual(session, "Top", 2)
        first = photos_of(session, top)[0]
    code, said, note = cli("individuals", "merge", "Tip", "top", "--preview")
    assert code == Exit.OK
    assert "merge: 2 photos, 1 name" in said
    assert "Nothing was changed" in note
    merged = as_json(cli("individuals", "merge", "Tip", "Top", "--json"))
    assert as_json(cli("individuals", "show", "Top", "--json"))["names"] == ["Tip", "Top"]
    split = as_json(cli("individuals", "split", "Tip", first, "--name", "Tap", "--json"))
    assert split["individual"]["name"] == "Tap"
    as_json(cli("individuals", "rename", "Tap", "Tim", "--no-alias", "--json"))
    history = as_json(cli("individuals", "history", "tim", "--json"))
    assert [change["action"] for change in history] == ["rename", "split"]
    code, said, _ = cli("changes", "list")
    assert code == Exit.OK
    assert "rename Tap Tim" in said
    code, _, note = cli("changes", "undo", split["change_id"])
    assert code == Exit.FAILED
    assert f"before change {history[0]['id']} (rename, by local)" in note
    for change in (history[0]["id"], split["change_id"], merged["change_id"]):
        assert cli("changes", "undo", change)[0] == Exit.OK
    with sessions() as session:
        assert len(photos_of(session, top)) == 2
    code, _, note = cli("individuals", "merge", "Tip", "Nobody")
    assert (code, "No individual is called" in note) == (Exit.FAILED, True)
