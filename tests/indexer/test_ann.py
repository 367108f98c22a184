"""HNSW inside PostgreSQL: used where it was measured to be good, and nowhere else."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID

import numpy as np
import pytest
from numpy.typing import NDArray
from sqlalchemy import Engine, text
from sqlalchemy.orm import Session, sessionmaker

from db.queries import ann as rows
from db.queries import jobs
from db.queries.embeddings import SpaceRow
from db.queries.filters import SearchFilters
from db.session import make_engine, make_sessions
from db.types import JobKind, JobState
from indexer import ann
from indexer.jobs import JobRunner, start_job
from indexer.search import Searcher, SearchRequest, SearchResult
from indexer.vector_index import pgvector
from indexer.vector_index.pgvector import Ann, PgVectorIndex
from tests import spaces
from tests.conftest import TestServer
from tests.toy_jobs import wait_for

DIM = 32
ROWS = 2_000
MANY = 12_000
"""So many that an index beats a scan among a tenth of them too."""
GROUPS = {"tenth": 10, "hundredth": 100, "thousandth": 1000}
"""Viewpoints, and of how many photos one has it."""
Sessions = sessionmaker[Session]


class Place:
    """Two photos of each individual, some with a viewpoint of their own."""

    def __init__(self, sessions: Sessions, count: int) -> None:
        self.sessions = sessions
        self.who = np.repeat(np.arange(count // 2), 2)
        self.vectors = spaces.clustered(self.who.tolist(), DIM)
        self._searchers: list[Searcher] = []
        with sessions.begin() as session:
            self.space: SpaceRow = spaces.make_space(session, DIM)
            self.ids = spaces.fill(session, self.space, self.vectors, self.who.tolist()).ids
            for name, every in GROUPS.items():
                session.execute(
                    text("UPDATE annotation SET viewpoint = :name WHERE id = ANY(:ids)"),
                    {"name": name, "ids": self.ids[self.offset(every) :: every].tolist()},
                )
            session.execute(text("ANALYZE"))

    @staticmethod
    def offset(every: int) -> int:
        """Where the rows of a group begin, so that no row is in two."""
        return {10: 1, 100: 2, 1000: 3}[every]

    def searcher(self) -> Searcher:
        made = Searcher(self.sessions, Path("unused"), "pgvector")
        self._searchers.append(made)
        return made

    def ask(
        self, searcher: Searcher, query: NDArray[np.float32], **options: object
    ) -> SearchResult:
        request = SearchRequest(query, self.space.fingerprint, **options)  # type: ignore[arg-type]
        with self.sessions() as session:
            return searcher.search(session, request)

    def mode(self, searcher: Searcher) -> str:
        return self.ask(searcher, self.vectors[:1]).receipt.mode

    def nearest(self, query: NDArray[np.float32], k: int, rows: NDArray[np.intp]) -> list[UUID]:
        """The oracle's individuals among these rows."""
        scores = self.vectors[rows].astype(np.float64) @ query[0].astype(np.float64)
        met: list[UUID] = []
        for row in rows[np.argsort(-scores)].tolist():
            who = spaces.individual_id(int(self.who[row]))
            if who not in met:
                met.append(who)
            if len(met) == k:
                break
        return met

    def run(self, statement: str, **values: object) -> None:
        with self.sessions.begin() as session:
            session.execute(text(statement), values)

    def index(self) -> rows.AnnIndex | None:
        with self.sessions() as session:
            return rows.ann_index(session, self.space.id)

    def close(self) -> None:
        for searcher in self._searchers:
            searcher.close()


@pytest.fixture
def place(sessions: Sessions, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    monkeypatch.setattr(ann, "_REPAIR_S", 0.0)
    monkeypatch.setattr(ann, "_MOST_QUERIES", 20)
    made = Place(sessions, ROWS)
    yield made
    made.close()


@pytest.fixture(scope="module")
def built(server: TestServer, template: str) -> Iterator[tuple[Place, rows.Published]]:
    """A larger place with its index, for tests that only read."""
    url = server.new_database(template)
    engine = make_engine(url)
    made = Place(make_sessions(engine), MANY)
    yield made, ann.build(made.sessions, made.space)
    made.close()
    engine.dispose()
    server.drop_database(url)


def test_search_is_exact_until_an_index_is_measured_and_again_when_it_is_gone(
    place: Place,
) -> None:
    searcher = place.searcher()
    assert place.mode(searcher) == "exact"
    published = ann.build(place.sessions, place.space)
    result = place.ask(searcher, place.vectors[:1])
    assert (result.receipt.mode, result.receipt.snapshot) == ("ann", str(published.id))
    assert result.receipt.eligible == ROWS
    assert result.receipt.scanned < ROWS
    assert result.hits[0].individual_id == spaces.individual_id(0)
    place.run(f"DROP INDEX {rows.index_name(place.space.id)}")
    assert place.mode(searcher) == "exact"


def test_recall_is_measured_at_build_and_stored(built: tuple[Place, rows.Published]) -> None:
    """Promise 34: recall at ten is at least 0.95 wherever the index is used."""
    place, published = built
    report = published.report
    assert published.recall == report["recall"]["1"] >= ann.MIN_RECALL
    assert list(report["recall"]) == ["1", "0.1"], "smaller shares are scanned in any case"
    assert report["recall"]["0.1"] >= ann.MIN_RECALL
    assert report["min_share"] == 0.1
    assert report["memory_mb"] == ann.memory_needed_mb(MANY, DIM)
    with place.sessions() as session:
        assert rows.usable_ann(session, place.space.id) == published


@pytest.mark.parametrize("every", [1, *GROUPS.values()])
def test_recall_at_every_selectivity_of_a_filter(
    built: tuple[Place, rows.Published], every: int
) -> None:
    """Promise 34: at 100, 10, 1 and 0.1 % of the rows; where the index is not good enough the
    search compares with every row."""
    place, _ = built
    searcher = place.searcher()
    names = {count: name for name, count in GROUPS.items()}
    filters = SearchFilters(viewpoint=(names[every],)) if every > 1 else SearchFilters()
    among = np.arange(MANY) if every == 1 else np.arange(place.offset(every), MANY, every)
    queries = spaces.clustered(place.who[among][::7].tolist()[:40], DIM, seed=0)
    queries = spaces.unit(queries + 0.3 * spaces.clustered([1] * len(queries), DIM, seed=3))
    found = wanted = 0
    for query in queries[:, None, :]:
        result = place.ask(searcher, query, filters=filters)
        assert result.receipt.mode == ("ann" if every in (1, 10) else "exact")
        oracle = place.nearest(query, 10, among)
        got = [hit.individual_id for hit in result.hits]
        assert len(got) == len(oracle)
        if result.receipt.mode == "exact":
            assert set(got) == set(oracle)
        found += len(set(got) & set(oracle))
        wanted += len(oracle)
    assert found / wanted >= 0.95


def test_an_index_that_is_not_good_enough_is_not_used(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Promise 34: if the recall cannot be reached, the planner chooses exact."""
    monkeypatch.setattr(ann, "MIN_RECALL", 1.01)
    published = ann.build(place.sessions, place.space)
    assert published.report["min_share"] is None
    assert place.mode(place.searcher()) == "exact"


def test_the_rule_trusts_a_share_only_if_all_larger_ones_did_well() -> None:
    assert ann.min_share({1.0: 0.99, 0.1: 0.97, 0.01: 0.8, 0.001: 0.99}) == 0.1
    assert ann.min_share({1.0: 0.99}) == 1.0
    assert ann.min_share({1.0: 0.94, 0.1: 0.99}) is None
    assert ann.min_share({}) is None


def test_scores_are_exact_and_in_order_though_the_rows_are_approximate(
    built: tuple[Place, rows.Published],
) -> None:
    place, _ = built
    query = spaces.clustered([3], DIM, seed=4)
    result = place.ask(place.searcher(), query, k=20)
    assert result.receipt.mode == "ann"
    scores = [hit.score for hit in result.hits]
    assert scores == sorted(scores, reverse=True)
    by_id = dict(zip(place.ids.tolist(), place.vectors, strict=True))
    for hit in result.hits:
        exact = np.float32(by_id[hit.annotation_id].astype(float) @ query[0].astype(float))
        assert hit.score == float(exact)


def test_never_fewer_than_there_are(built: tuple[Place, rows.Published]) -> None:
    """Promise 35: min(k, eligible) individuals, however the index is walked."""
    place, _ = built
    searcher = place.searcher()
    for k in (1, 10, 150, 900):
        for filters, most in (
            (SearchFilters(), 6000),
            (SearchFilters(viewpoint=("tenth",)), 1200),
            (SearchFilters(viewpoint=("thousandth",)), 12),
        ):
            result = place.ask(searcher, place.vectors[40:41], k=k, filters=filters)
            assert len(result.hits) == min(k, most)
            assert not result.receipt.truncated


def test_what_the_index_cannot_fill_up_is_scanned(
    built: tuple[Place, rows.Published], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Promise 35: a walk that ends before it met enough rows is no answer."""
    place, _ = built
    monkeypatch.setattr(pgvector, "_SCAN_TUPLES", 1)
    far = np.argsort(place.vectors.astype(np.float64) @ place.vectors[0].astype(np.float64))
    allowed = np.sort(place.ids[far[:1500]])
    with place.sessions() as session:
        hasty = PgVectorIndex(session, place.space.id, DIM, MANY, Ann(ef_search=1, min_share=0.0))
        found = hasty.candidates(place.vectors[:1], 128, allowed)
        scanned = PgVectorIndex(session, place.space.id, DIM)
        exact = scanned.candidates(place.vectors[:1], 128, allowed)
    assert found.ids.shape == (1, 128)
    assert not found.approximate
    assert found.ids.tolist() == exact.ids.tolist()


def test_new_and_deleted_photos_count_at_once(place: Place) -> None:
    """Promises 38 and 39, with an index."""
    ann.build(place.sessions, place.space)
    searcher = place.searcher()
    novel = spaces.clustered([0], DIM, seed=77)
    with place.sessions.begin() as session:
        (id_,) = spaces.fill(session, place.space, novel, [70_000]).ids.tolist()
    result = place.ask(searcher, novel)
    assert (result.receipt.mode, result.receipt.eligible) == ("ann", ROWS + 1)
    assert result.hits[0].annotation_id == id_
    place.run("DELETE FROM annotation WHERE id = :id", id=id_)
    result = place.ask(searcher, novel)
    assert (result.receipt.mode, result.receipt.eligible) == ("ann", ROWS)
    assert id_ not in [hit.annotation_id for hit in result.hits]


def test_a_space_that_has_doubled_is_measured_again_before_its_index_counts(place: Place) -> None:
    published = ann.build(place.sessions, place.space)
    assert ann.use_of(published, 2 * ROWS) is not None
    assert ann.use_of(published, 2 * ROWS + 1) is None


def test_a_broken_index_is_replaced_by_whoever_starts_next(place: Place) -> None:
    """Promise 6: an invalid index is found at start and replaced; until then search is exact."""
    ann.build(place.sessions, place.space)
    place.run(
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = to_regclass(:name)",
        name=rows.index_name(place.space.id),
    )
    with place.sessions() as session:
        assert rows.left_over(session) == [place.space.id]
        assert rows.usable_ann(session, place.space.id) is None
    searcher = place.searcher()
    searcher.ensure(place.space.fingerprint)
    wait_for(lambda: place.mode(searcher) == "ann")
    with place.sessions() as session:
        assert rows.left_over(session) == []


def test_an_index_from_a_restored_dump_is_measured_before_it_counts(place: Place) -> None:
    published = ann.build(place.sessions, place.space)
    place.run("UPDATE index_snapshot SET digest = 'of another cluster' WHERE id = :id",
              id=published.id)  # fmt: skip
    before = place.index()
    searcher = place.searcher()
    with place.sessions() as session:
        assert rows.usable_ann(session, place.space.id) is None
    searcher.ensure(place.space.fingerprint)
    wait_for(lambda: place.mode(searcher) == "ann")
    assert place.index() == before, "measured, not built"


def test_a_build_that_is_given_up_leaves_nothing(place: Place) -> None:
    with _writing(place) as writer:
        # The build waits for this transaction, so it is under way when it is told to stop.
        def stopping() -> bool:
            if _building(place):
                writer.rollback()
                return True
            return False

        with pytest.raises(ann.Stopped):
            ann.build(place.sessions, place.space, stopping=stopping)
    assert place.index() is None
    assert place.mode(place.searcher()) == "exact"


def test_a_repair_that_is_given_up_is_taken_up_by_the_next(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Promise 5: a service that ends meanwhile does not forget that the index was wanted."""
    ann.build(place.sessions, place.space)
    place.run(
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = to_regclass(:name)",
        name=rows.index_name(place.space.id),
    )
    monkeypatch.setattr(ann, "_POLL_S", 0.005)
    with pytest.raises(ann.Stopped):
        ann.repair(place.sessions, stopping=lambda: _building(place))
    assert ann.repair(place.sessions) == [place.space.id]
    assert place.mode(place.searcher()) == "ann"


def test_two_that_build_at_once_take_turns(place: Place) -> None:
    with ThreadPoolExecutor(2) as pool:
        first, second = [
            pool.submit(ann.build, place.sessions, place.space, again=False) for _ in range(2)
        ]
        assert first.result() == second.result()


def test_a_job_builds_it_and_tells_how_far_it_is(place: Place, engine: Engine) -> None:
    asked = start_job(
        place.sessions,
        kind=JobKind.BUILD_ANN,
        params={"model_id": place.space.id, "memory_mb": 99},
        principal="ann",
        exclusive_key=f"build_ann:{place.space.id}",
    )
    runner = JobRunner(place.sessions, [ann.BuildAnnHandler(place.sessions)], worker="w")
    thread = threading.Thread(target=runner.run_until_idle)
    with _writing(place):
        thread.start()
        wait_for(lambda: _building(place))
        assert place.mode(place.searcher()) == "exact"
    thread.join()
    with place.sessions() as session:
        job = jobs.get_job(session, asked.id)
    assert (job.state, job.done, job.total) == (JobState.DONE, ROWS, ROWS)
    assert job.result is not None
    assert job.result["memory_mb"] == 99
    assert job.result["recall"]["1"] >= ann.MIN_RECALL
    assert place.mode(place.searcher()) == "ann"


@contextmanager
def _writing(place: Place) -> Iterator[Session]:
    """A transaction that a build has to wait for."""
    with place.sessions() as writer:
        writer.execute(
            text("UPDATE embedding SET created_at = now() WHERE annotation_id = :id"),
            {"id": int(place.ids[0])},
        )
        yield writer


def _building(place: Place) -> bool:
    index = place.index()
    return index is not None and index.building
