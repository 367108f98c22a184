"""Moving a slot to another space: the whole run, what is refused, what is never touched."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session, sessionmaker

from db.queries import records, runs
from db.types import ReindexState
from indexer import reindex
from tests.reindexing import Catalogue, TinyEmbedder


@pytest.fixture
def place(sessions: sessionmaker[Session], tmp_path: Path) -> Catalogue:
    return Catalogue(sessions, tmp_path)


def test_a_run_goes_from_start_to_the_switch_and_back(place: Catalogue) -> None:
    ids = place.fill(6)
    old, new = TinyEmbedder(1), TinyEmbedder(2, dim=48)
    before, after = place.space(old), place.space(new)
    place.use(before)
    run = reindex.start(place.sessions, space=after, principal="kim")
    assert run.state == ReindexState.REQUESTED
    assert (run.from_model_id, run.to_model_id) == (before.id, after.id)
    place.runner().run_until_idle()
    with place.sessions() as session:
        run = runs.get_run(session, run.id)
    assert run.state == ReindexState.READY
    assert place.active() == before
    place.check(before, after)
    assert new.embedded == len(ids)

    active = reindex.activate(place.sessions, run.id, principal="kim")
    assert (active.state, active.activated_by, active.forced) == ("active", "kim", False)
    assert place.active() == after

    back = reindex.rollback(place.sessions, principal="lee")
    assert back.state == ReindexState.READY
    assert place.active() == before
    assert reindex.activate(place.sessions, run.id).state == ReindexState.ACTIVE
    with place.sessions() as session:
        actions = [(row.principal, row.action) for row in records.list_audit(session).items]
        assert records.verify_audit(session) == []
    assert actions[::-1] == [
        ("kim", "reindex.start"),
        ("kim", "reindex.activate"),
        ("lee", "reindex.rollback"),
        ("local", "reindex.activate"),
    ]
