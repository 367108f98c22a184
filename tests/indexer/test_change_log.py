"""The log of changed annotations: pruned when nobody needs it, and never missed by who does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import numpy as np
import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session, sessionmaker

from db.queries import embeddings
from db.queries.embeddings import SpaceRow
from db.queries.search import change_floor, prune_changes
from indexer import shelf
from indexer.search import Searcher, SearchRequest
from indexer.snapshot import SnapshotStore
from tests import spaces

DIM = 8
ROWS = 40
Sessions = sessionmaker[Session]


class Place:
    """A space of forty individuals with one photo each, and processes that search it."""

    def __init__(self, sessions: Sessions, folder: Path) -> None:
        self.sessions = sessions
        self.folder = folder
        self.vectors = spaces.clustered(list(range(ROWS)), DIM)
        self._searchers: list[Searcher] = []
        with sessions.begin() as session:
            self.space: SpaceRow = spaces.make_space(session, DIM)
            self.ids = spaces.fill(session, self.space, self.vectors, list(range(ROWS))).ids

    def searcher(self, backend: str = "faiss", folder: str = "here") -> Searcher:
        made = Searcher(self.sessions, self.folder / folder, backend)  # type: ignore[arg-type]
        self._searchers.append(made)
        return made

    def nearest(self, searcher: Searcher, row: int) -> tuple[UUID, int]:
        """The best individual for a row, and how many annotations were eligible."""
        with self.sessions() as session:
            request = SearchRequest(self.vectors[row : row + 1], self.space.fingerprint, k=1)
            result = searcher.search(session, request)
        return result.hits[0].individual_id, result.receipt.eligible

    def run(self, statement: str, **values: object) -> None:
        with self.sessions.begin() as session:
            session.execute(text(statement), values)

    def delete(self, row: int) -> None:
        self.run("DELETE FROM annotation WHERE id = :id", id=int(self.ids[row]))

    def publish(self, folder: str = "here") -> None:
        with self.sessions.begin() as session:
            SnapshotStore(self.folder / folder).build(session, self.space)

    def age(self, days: int) -> None:
        self.run(
            "UPDATE index_snapshot SET created_at = created_at - make_interval(days => :days)",
            days=days,
        )

    def logged(self) -> int:
        with self.sessions() as session:
            return int(session.scalars(text("SELECT count(*) FROM annotation_change")).one())

    def close(self) -> None:
        for searcher in self._searchers:
            searcher.close()


@pytest.fixture
def place(sessions: Sessions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    monkeypatch.setattr(shelf, "MEMORY_ROWS", 0)
    made = Place(sessions, tmp_path)
    yield made
    made.close()


def test_what_every_snapshot_knows_is_pruned_after_a_week(place: Place) -> None:
    place.delete(0)
    place.publish()
    assert place.logged() == 1, "younger than a week"
    place.age(6)
    place.publish()
    assert place.logged() == 1
    place.age(2)
    place.delete(1)
    place.publish()
    assert place.logged() == 1, "the second deletion is newer than the old snapshot"
    place.age(8)
    place.publish()
    assert place.logged() == 0


def test_a_snapshot_of_another_space_keeps_what_it_does_not_know(place: Place) -> None:
    with place.sessions.begin() as session:
        other = spaces.make_space(session, DIM, fingerprint="e" * 64)
        spaces.fill(session, other, place.vectors, list(range(ROWS)))
        SnapshotStore(place.folder / "here").build(session, other)
    place.delete(0)
    place.publish()
    place.age(8)
    place.publish()
    assert place.logged() == 1


def test_nothing_is_pruned_without_a_snapshot(place: Place) -> None:
    place.delete(0)
    with place.sessions.begin() as session:
        assert prune_changes(session) == 0
        assert change_floor(session) == 0
    assert place.logged() == 1


@pytest.mark.parametrize("backend", ["faiss", "exact", "pgvector"])
def test_a_process_that_did_not_look_for_long_reads_everything_again(
    place: Place, backend: str
) -> None:
    """Promise 39: deleted items are gone from the next search, whatever was pruned meanwhile."""
    idle = place.searcher(backend, "elsewhere")
    before = place.nearest(idle, 0)
    assert before == (spaces.individual_id(0), ROWS)
    place.delete(0)
    place.publish()
    place.age(8)
    place.publish()
    assert place.logged() == 0
    who, eligible = place.nearest(idle, 0)
    assert who != spaces.individual_id(0)
    assert eligible == ROWS - 1


def test_a_process_that_looked_in_time_goes_on(place: Place) -> None:
    busy = place.searcher("exact")
    place.nearest(busy, 0)
    loaded = busy._shelf._lives[place.space.fingerprint]
    place.delete(0)
    assert place.nearest(busy, 0)[1] == ROWS - 1
    place.publish()
    place.age(8)
    place.publish()
    assert place.nearest(busy, 1) == (spaces.individual_id(1), ROWS - 1)
    assert busy._shelf._lives[place.space.fingerprint] is loaded


def test_a_snapshot_from_before_the_floor_is_built_again(place: Place) -> None:
    place.publish("elsewhere")
    place.delete(0)
    place.publish("here")
    place.age(8)
    place.publish("here")
    assert place.logged() == 0
    late = place.searcher(folder="elsewhere")
    who, eligible = place.nearest(late, 0)
    assert (who != spaces.individual_id(0), eligible) == (True, ROWS - 1)


def test_rows_of_a_restored_dump_count_as_new_once_only(place: Place) -> None:
    """Promise 10: transaction ids of another cluster mean nothing here."""
    place.run("UPDATE embedding SET tx = '9000000000'")
    place.run("INSERT INTO annotation_change (annotation_id, tx) VALUES (1, '9000000000')")
    place.run("INSERT INTO change_floor (tx) VALUES ('9000000000')")
    searcher = place.searcher("exact")
    assert place.nearest(searcher, 3) == (spaces.individual_id(3), ROWS)
    with place.sessions() as session:
        changed = embeddings.changed_since(session, place.space.id, 8_000_000_000)
    assert len(changed[0]) == 0
    assert place.logged() == 0
    assert np.all(place.ids > 0)


def test_a_released_space_is_loaded_again_by_the_next_search(place: Place) -> None:
    searcher = place.searcher("exact")
    place.nearest(searcher, 0)
    searcher.release(place.space.fingerprint)
    assert not searcher.status(place.space.fingerprint).ready
    assert place.nearest(searcher, 0) == (spaces.individual_id(0), ROWS)
