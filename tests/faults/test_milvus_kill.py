"""A Milvus that is killed or silent: an error in time, with its reason, until it is back."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from numpy.typing import NDArray
from sqlalchemy.orm import Session, sessionmaker

from db.queries.embeddings import SpaceRow
from indexer.search import Searcher, SearchRequest, SearchTimeout, SearchUnavailable
from tests import spaces
from tests.milvus_server import LiteServer, lite_server
from tests.toy_jobs import wait_for

pytestmark = [pytest.mark.faults, pytest.mark.timeout(300)]

DIM = 16
ROWS = 200


@dataclass
class Place:
    server: LiteServer
    sessions: sessionmaker[Session]
    searcher: Searcher
    space: SpaceRow
    vectors: NDArray
    ids: NDArray

    def best(self, row: int, timeout_s: float = 10.0) -> object:
        request = SearchRequest(
            self.vectors[row : row + 1], self.space.fingerprint, k=3, timeout_s=timeout_s
        )
        with self.sessions() as session:
            return self.searcher.search(session, request).hits[0].individual_id

    def answers(self) -> bool:
        try:
            return self.best(2) == spaces.individual_id(2)
        except (SearchUnavailable, SearchTimeout):
            return False


@pytest.fixture
def place(sessions: sessionmaker[Session], tmp_path: Path) -> Iterator[Place]:
    serving = lite_server()
    server = next(serving)
    vectors = spaces.clustered(list(range(ROWS)), DIM)
    with sessions.begin() as session:
        space = spaces.make_space(session, DIM)
        ids = spaces.fill(session, space, vectors, list(range(ROWS))).ids
    searcher = Searcher(sessions, tmp_path, "milvus", server.at())
    yield Place(server, sessions, searcher, space, vectors, ids)
    searcher.close()
    serving.close()  # type: ignore[attr-defined]


def test_a_killed_milvus_is_an_error_until_it_is_back(place: Place) -> None:
    """Promise 36: an error with its reason, never an empty list; nothing needs a restart."""
    assert place.best(1) == spaces.individual_id(1)
    place.server.kill()
    for _ in range(3):
        with pytest.raises(SearchUnavailable, match="Milvus"):
            place.best(1)
    status = place.searcher.status(place.space.fingerprint)
    assert not status.ready
    assert "Milvus" in (status.reason or "")
    place.server.start()
    wait_for(place.answers, 60)
    assert place.searcher.status(place.space.fingerprint).ready


def test_a_silent_milvus_is_an_error_in_time(place: Place) -> None:
    """Promise 36: a timeout is an error within the time of the request."""
    assert place.best(1) == spaces.individual_id(1)
    with place.server.silent():
        started = time.monotonic()
        with pytest.raises((SearchTimeout, SearchUnavailable), match="Milvus"):
            place.best(1, timeout_s=0.5)
        assert time.monotonic() - started < 5
    wait_for(place.answers, 60)


def test_a_process_that_starts_while_milvus_is_away_answers_when_it_is_back(
    place: Place, tmp_path: Path
) -> None:
    place.server.kill()
    with pytest.raises(SearchUnavailable, match="Milvus"):
        place.searcher.ensure(place.space.fingerprint)
    place.server.start()
    wait_for(place.answers, 60)
