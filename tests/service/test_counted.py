"""How large the catalogue is: what is written shows, and nothing is counted twice for nothing."""

from __future__ import annotations

import time

import numpy as np
import pytest
from sqlalchemy import Engine, text

from db.queries import catalogue
from db.queries.catalogue import Sizes
from db.session import make_engine, make_sessions
from service.counted import Counted
from tests import spaces

STATISTICS_S = 20


@pytest.fixture
def counted_times(monkeypatch: pytest.MonkeyPatch) -> list[Sizes]:
    """Every counting there was."""
    every: list[Sizes] = []
    count = catalogue.sizes

    def look(*arguments: object) -> Sizes:
        every.append(count(*arguments))  # type: ignore[arg-type]
        return every[-1]

    monkeypatch.setattr(catalogue, "sizes", look)
    return every


def test_what_this_process_writes_shows_at_once(engine: Engine, counted_times: list[Sizes]) -> None:
    sessions = make_sessions(engine)
    counted = Counted(sessions)
    with sessions() as session:
        assert counted.sizes(session, None) == Sizes(0, 0, 0)
    with sessions.begin() as session:
        space = spaces.make_space(session, 4)
        spaces.fill(session, space, np.eye(5, 4, dtype=np.float32) + 1, [0, 0, 1, 1, None])
    with sessions() as session:
        shown = counted.sizes(session, space.id)
        assert shown == Sizes(individuals=2, annotations=5, vectors=5)
        assert shown.missing == 0
        times = len(counted_times)
        assert counted.sizes(session, space.id) == shown
    assert len(counted_times) == times


def test_what_another_process_writes_shows_within_seconds(engine: Engine) -> None:
    sessions = make_sessions(engine)
    counted = Counted(sessions)
    other = make_engine(engine.url)
    with sessions() as session:
        before = counted.sizes(session, None)
    with other.begin() as connection:
        connection.execute(
            text("INSERT INTO individual (catalogue_id) SELECT id FROM catalogue LIMIT 1")
        )
    other.dispose()
    deadline = time.monotonic() + STATISTICS_S
    while True:
        with sessions() as session:
            after = counted.sizes(session, None)
        if after.individuals == before.individuals + 1 or time.monotonic() > deadline:
            break
        time.sleep(0.1)
    assert after.individuals == before.individuals + 1
