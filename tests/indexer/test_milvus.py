"""Spaces inside Milvus: filled from PostgreSQL, kept in step, and never mistaken for empty."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import numpy as np
import pytest
from numpy.typing import NDArray
from sqlalchemy import text
from sqlalchemy.orm import Session, sessionmaker

from db.queries import ann
from db.queries.ann import Published
from db.queries.embeddings import SpaceRow
from db.session import make_engine, make_sessions
from indexer import live
from indexer import milvus as copies
from indexer.search import Searcher, SearchRequest, SearchResult, SearchUnavailable
from indexer.vector_index import milvus as client
from indexer.vector_index.milvus import MilvusAt, MilvusCollection, MilvusIndex
from indexer.vector_index.protocol import IndexUnavailable, Part, nearest
from tests import spaces
from tests.conftest import TestServer
from tests.milvus_server import LiteServer

DIM = 16
ROWS = 300
Sessions = sessionmaker[Session]


class Place:
    """Three hundred individuals with one photo each, in PostgreSQL and in Milvus."""

    def __init__(self, sessions: Sessions, server: LiteServer, folder: Path) -> None:
        self.sessions = sessions
        self.server = server
        self.folder = folder
        self.vectors = spaces.clustered(list(range(ROWS)), DIM)
        self._searchers: list[Searcher] = []
        with sessions.begin() as session:
            self.space: SpaceRow = spaces.make_space(session, DIM)
            self.ids = spaces.fill(session, self.space, self.vectors, list(range(ROWS))).ids

    def searcher(self, index: client.IndexKind = "FLAT") -> Searcher:
        made = Searcher(self.sessions, self.folder, "milvus", self.server.at(index))
        self._searchers.append(made)
        return made

    def ask(self, searcher: Searcher, query: NDArray[np.float32], k: int = 10) -> SearchResult:
        with self.sessions() as session:
            return searcher.search(session, SearchRequest(query, self.space.fingerprint, k))

    def best(self, searcher: Searcher, query: NDArray[np.float32]) -> UUID:
        return self.ask(searcher, query).hits[0].individual_id

    def add(self, number: int, seed: int) -> tuple[int, NDArray[np.float32]]:
        vector = spaces.clustered([0], DIM, seed=seed)
        with self.sessions.begin() as session:
            (id_,) = spaces.fill(session, self.space, vector, [number]).ids.tolist()
        return id_, vector

    def run(self, statement: str, **values: object) -> None:
        with self.sessions.begin() as session:
            session.execute(text(statement), values)

    def published(self) -> Published:
        with self.sessions() as session:
            found = ann.published_index(session, self.space.id, copies.BACKEND)
        assert found is not None
        return found

    def collection(self) -> MilvusCollection:
        """What the published alias stands for."""
        return MilvusCollection(self.server.connection(), self.published().digest)

    def target(self) -> str:
        answer = self.server.connection().call("describe_alias", self.published().digest)
        return str(answer["collection_name"])

    def close(self) -> None:
        for searcher in self._searchers:
            searcher.close()


@pytest.fixture
def place(sessions: Sessions, milvus: LiteServer, tmp_path: Path) -> Iterator[Place]:
    made = Place(sessions, milvus, tmp_path)
    yield made
    made.close()


@pytest.fixture
def soon_stale(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "STALE_ROWS", 10)
    monkeypatch.setattr(live, "STALE_SHARE", 0.0)


def test_a_space_is_filled_once_and_published_with_its_recall(place: Place) -> None:
    first = place.searcher()
    first.ensure(place.space.fingerprint)
    published = place.published()
    assert (published.vector_count, published.recall) == (ROWS, 1.0)
    assert place.collection().count() == ROWS
    result = place.ask(place.searcher(), place.vectors[:1])
    assert place.published() == published, "the second process finds it"
    assert (result.receipt.mode, result.receipt.snapshot) == ("exact", str(published.id))
    assert result.hits[0].individual_id == spaces.individual_id(0)


def test_what_changed_is_brought_into_the_copy(place: Place, soon_stale: None) -> None:
    searcher = place.searcher()
    searcher.ensure(place.space.fingerprint)
    before, target = place.published(), place.target()
    added = [place.add(1000 + number, seed=90 + number) for number in range(12)]
    place.run("DELETE FROM annotation WHERE id = :id", id=int(place.ids[5]))
    place.run("DELETE FROM annotation WHERE id = :id", id=added[3][0])
    searcher.refresh(place.space.fingerprint)
    after = place.published()
    assert after.horizon_tx > before.horizon_tx
    assert place.target() == target, "brought forward, not filled again"
    assert place.collection().count() == after.vector_count == ROWS + 12 - 2
    status = searcher.status(place.space.fingerprint)
    assert (status.size, status.snapshot) == (ROWS + 10, str(after.id))
    assert status.delta <= 10
    gone = {int(place.ids[5]), added[3][0]}
    for number, (id_, vector) in enumerate(added):
        hits = place.ask(searcher, vector).hits
        assert not gone & {hit.annotation_id for hit in hits}
        assert (hits[0].individual_id == spaces.individual_id(1000 + number)) == (id_ not in gone)


def test_a_reader_that_knows_an_older_horizon_stays_right(place: Place, soon_stale: None) -> None:
    """Deletes win, and no row is met twice, though the copy moves on under the reader."""
    busy, idle = place.searcher(), place.searcher()
    for searcher in (busy, idle):
        searcher.ensure(place.space.fingerprint)
    novel = [place.add(2000 + number, seed=200 + number) for number in range(11)]
    with place.sessions.begin() as session:
        moved = spaces.clustered([0], DIM, seed=400)
        spaces.embeddings.put_vectors(session, place.space.id, [int(place.ids[7])], moved)
    place.run("DELETE FROM annotation WHERE id = :id", id=int(place.ids[8]))
    busy.refresh(place.space.fingerprint)
    for searcher in (busy, idle):
        for number, (_, vector) in enumerate(novel):
            assert place.best(searcher, vector) == spaces.individual_id(2000 + number)
        assert place.best(searcher, moved) == spaces.individual_id(7)
        assert place.best(searcher, place.vectors[8:9]) != spaces.individual_id(8)
        everything = place.ask(searcher, place.vectors[:1], k=400)
        assert len(everything.hits) == ROWS - 1 + 11
        assert everything.receipt.eligible == ROWS - 1 + 11


def test_too_much_changed_fills_another_collection_and_moves_the_alias(
    place: Place, soon_stale: None
) -> None:
    searcher = place.searcher()
    searcher.ensure(place.space.fingerprint)
    target = place.target()
    place.run("DELETE FROM annotation WHERE id = ANY(:ids)", ids=place.ids[100:].tolist())
    searcher.refresh(place.space.fingerprint)
    assert place.target() != target
    names = place.server.connection().call("list_collections")
    assert target not in names
    assert place.collection().count() == 100


def test_a_copy_that_is_gone_is_filled_again_from_postgres(place: Place) -> None:
    searcher = place.searcher()
    assert place.best(searcher, place.vectors[3:4]) == spaces.individual_id(3)
    connection = place.server.connection()
    target, alias = place.target(), place.published().digest
    connection.call("drop_alias", alias)
    connection.call("drop_collection", target)
    with pytest.raises(SearchUnavailable, match="lacks the vectors"):
        place.ask(searcher, place.vectors[3:4])
    assert place.best(searcher, place.vectors[3:4]) == spaces.individual_id(3)


def test_a_copy_with_lost_or_old_rows_is_not_trusted(place: Place) -> None:
    place.searcher().ensure(place.space.fingerprint)
    first = place.published()
    place.collection().delete(place.ids[10:12])
    place.searcher().ensure(place.space.fingerprint)
    second = place.published()
    assert second.id != first.id
    newest = place.ids[-1:]
    place.collection().put(newest, spaces.clustered([0], DIM, seed=1234))
    place.searcher().ensure(place.space.fingerprint)
    assert place.published().id != second.id
    assert place.best(place.searcher(), place.vectors[-1:]) == spaces.individual_id(ROWS - 1)


def test_an_approximate_index_says_so_and_knows_its_recall(place: Place) -> None:
    place.searcher().ensure(place.space.fingerprint)
    searcher = place.searcher("HNSW")
    result = place.ask(searcher, place.vectors[:1])
    assert result.receipt.mode == "ann"
    assert place.published().report["index"] == "HNSW"
    recall = place.published().recall
    assert recall is not None
    assert recall >= 0.95


def test_databases_that_share_one_milvus_never_meet(
    place: Place, server: TestServer, template: str, milvus: LiteServer, tmp_path: Path
) -> None:
    place.searcher().ensure(place.space.fingerprint)
    url = server.new_database(template)
    engine = make_engine(url)
    other = Place(make_sessions(engine), milvus, tmp_path)
    assert other.space.fingerprint == place.space.fingerprint
    other.run("DELETE FROM annotation WHERE id = ANY(:ids)", ids=other.ids[50:].tolist())
    other.searcher().ensure(other.space.fingerprint)
    assert other.published().digest != place.published().digest
    assert (place.collection().count(), other.collection().count()) == (ROWS, 50)
    other.close()
    engine.dispose()
    server.drop_database(url)


# ---------------------------------------------------------------- outages


def test_nobody_there_is_an_error_with_the_reason(place: Place) -> None:
    """Promise 36: an outage is an error, never an empty list."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        at = MilvusAt(f"http://127.0.0.1:{taken.getsockname()[1]}")
        searcher = Searcher(place.sessions, place.folder, "milvus", at)
        with pytest.raises(SearchUnavailable, match=f"Milvus at {at.uri} does not answer"):
            place.ask(searcher, place.vectors[:1])
        status = searcher.status(place.space.fingerprint)
        assert not status.ready
        assert status.reason is not None
        assert "Milvus" in status.reason
        searcher.close()


def test_fewer_rows_than_there_are_is_an_error(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Promise 36: what one part of a cluster left out does not look like the end of the space."""
    searcher = place.searcher()
    searcher.ensure(place.space.fingerprint)
    whole = MilvusCollection.search

    def half(*args: object) -> object:
        return [(ids[::2], scores[::2]) for ids, scores in whole(*args)]  # type: ignore[arg-type]

    monkeypatch.setattr(MilvusCollection, "search", half)
    with pytest.raises(SearchUnavailable, match="gave 64 of 128 rows"):
        place.ask(searcher, place.vectors[:1])


def test_a_missing_client_is_named(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pymilvus", None)
    with pytest.raises(SearchUnavailable, match=r"pip install 'resight\[milvus\]'"):
        place.ask(place.searcher(), place.vectors[:1])


def test_the_backend_needs_to_know_where_milvus_is(place: Place) -> None:
    with pytest.raises(ValueError, match="RESIGHT_MILVUS_URI"):
        Searcher(place.sessions, place.folder, "milvus")


# ---------------------------------------------------------------- its limits


def test_more_rows_than_milvus_gives_at_once(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "_MOST_ROWS", 64)
    monkeypatch.setattr(client, "_FILTER_IDS", 50)
    place.searcher().ensure(place.space.fingerprint)
    index = MilvusIndex(place.collection(), place.ids, DIM, approximate=False, ef_search=0)
    cosines = place.vectors.astype(np.float64) @ place.vectors[4].astype(np.float64)
    order = np.lexsort((place.ids, -cosines.astype(np.float32)))
    found, _ = nearest([Part(index)], place.vectors[4:5], 250)
    assert found.tolist() == place.ids[order[:250]].tolist()
    allowed = place.ids[::2]
    found, _ = nearest([Part(index)], place.vectors[4:5], 120, allowed)
    assert found.tolist() == [i for i in place.ids[order].tolist() if i in set(allowed)][:120]


def test_a_call_outside_its_time_is_not_made(milvus: LiteServer) -> None:
    from db.deadline import deadline

    with deadline(0.0), pytest.raises(IndexUnavailable, match="not asked in time"):
        milvus.connection().call("list_collections")
