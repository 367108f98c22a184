"""Searches on a real database: the oracle's answer from every backend, and never a wrong one."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from uuid import UUID

import numpy as np
import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sqlalchemy import Engine, text
from sqlalchemy.orm import Session, sessionmaker

from db import embedded, migrate
from db.queries import embeddings
from db.queries.embeddings import SpaceRow
from db.queries.filters import SearchFilters
from db.session import make_engine, make_sessions
from indexer import live, shelf
from indexer.search import (
    SUPPORT_DEPTH,
    Searcher,
    SearchRequest,
    SearchResult,
    SearchTimeout,
    SearchUnavailable,
    WrongSpace,
)
from indexer.vector_index.milvus import MilvusAt
from tests import spaces
from tests.spaces import individual_id

DIM = 16
Sessions = sessionmaker[Session]


@dataclass
class Bench:
    """A space with a searcher; everything written is committed."""

    sessions: Sessions
    searcher: Searcher
    space: SpaceRow

    def fill(
        self,
        vectors: NDArray[np.float32],
        individuals: Sequence[int | None],
        encounters: Sequence[int | None] | None = None,
        hashes: Sequence[int | None] | None = None,
    ) -> NDArray[np.int64]:
        with self.sessions.begin() as session:
            filled = spaces.fill(
                session, self.space, vectors, individuals, encounters, hashes=hashes
            )
        return filled.ids

    def run(self, statement: str, **values: object) -> None:
        with self.sessions.begin() as session:
            session.execute(text(statement), values)

    def ask(self, vectors: NDArray[np.float32], **options: object) -> SearchResult:
        request = SearchRequest(vectors=vectors, fingerprint=self.space.fingerprint)
        with self.sessions() as session:
            return self.searcher.search(session, replace(request, **options))  # type: ignore[arg-type]


def _bench(sessions: Sessions, folder: Path, backend: str, milvus: MilvusAt | None = None) -> Bench:
    with sessions.begin() as session:
        space = spaces.make_space(session, DIM)
    searcher = Searcher(sessions, folder, backend, milvus)  # type: ignore[arg-type]
    return Bench(sessions, searcher, space)


@pytest.fixture(params=["faiss", "memory", "exact", "pgvector", "milvus"])
def bench(
    request: pytest.FixtureRequest,
    sessions: Sessions,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Bench]:
    """`faiss` snapshots even small spaces, `memory` is FAISS where they stay in memory."""
    if request.param == "faiss":
        monkeypatch.setattr(shelf, "MEMORY_ROWS", 0)
    milvus = None
    if request.param == "milvus":
        milvus = request.getfixturevalue("milvus").at()
    backend = "faiss" if request.param == "memory" else request.param
    made = _bench(sessions, tmp_path, backend, milvus)
    yield made
    made.searcher.close()


@pytest.fixture
def small(sessions: Sessions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    """The FAISS backend with a snapshot, once."""
    monkeypatch.setattr(shelf, "MEMORY_ROWS", 0)
    made = _bench(sessions, tmp_path, "faiss")
    yield made
    made.searcher.close()


def oracle(
    ids: Sequence[int],
    vectors: NDArray[np.float32],
    individuals: Sequence[UUID | None],
    queries: NDArray[np.float32],
    k: int,
    eligible: Callable[[int], bool] = lambda _: True,
) -> list[tuple[UUID, float, int, int]]:
    """(individual, score, annotation, supporting), by brute force over every row."""
    rows = spaces.unit(vectors).astype(np.float64)
    cosines = (rows @ spaces.unit(queries).T.astype(np.float64)).astype(np.float32).max(axis=1)
    theirs: dict[UUID, list[tuple[float, int]]] = {}
    for id_, score, who in zip(ids, cosines.tolist(), individuals, strict=True):
        if who is not None and eligible(id_):
            theirs.setdefault(who, []).append((-score, id_))
    ranked = sorted((min(found)[0], who, min(found)[1]) for who, found in theirs.items())
    if not ranked:
        return []
    level = -ranked[min(SUPPORT_DEPTH, len(ranked)) - 1][0]
    return [
        (who, -score, id_, max(1, sum(-other >= level for other, _ in theirs[who])))
        for score, who, id_ in ranked[:k]
    ]


def found(result: SearchResult) -> list[tuple[UUID, float, int, int]]:
    assert [hit.rank for hit in result.hits] == list(range(1, len(result.hits) + 1))
    return [(h.individual_id, h.score, h.annotation_id, h.supporting) for h in result.hits]


def who(numbers: Sequence[int | None]) -> list[UUID | None]:
    return [None if number is None else individual_id(number) for number in numbers]


# ---------------------------------------------------------------- the answer


def test_empty_space_gives_an_empty_answer_that_says_so(bench: Bench) -> None:
    result = bench.ask(spaces.clustered([0], DIM))
    assert result.hits == ()
    assert (result.receipt.eligible, result.receipt.scanned) == (0, 0)
    assert not result.receipt.truncated


def test_fewer_individuals_than_k(bench: Bench) -> None:
    """Promise 35: never fewer than min(k, eligible)."""
    numbers = [0, 0, 1]
    vectors = spaces.clustered(numbers, DIM)
    ids = bench.fill(vectors, numbers)
    result = bench.ask(vectors[:1])
    assert found(result) == oracle(ids.tolist(), vectors, who(numbers), vectors[:1], 10)
    assert len(result.hits) == 2
    assert result.hits[0].score == pytest.approx(1.0, abs=1e-6)


def test_nearest_individuals_of_many(bench: Bench) -> None:
    """Promise 33: the oracle's answer, to the id and order."""
    rng = np.random.default_rng(4)
    numbers = rng.integers(0, 700, 2500).tolist()
    vectors = spaces.clustered(numbers, DIM)
    ids = bench.fill(vectors, numbers).tolist()
    for k in (1, 3, 10, 25):
        for rows in ([3], [5, 900], [17]):
            queries = spaces.unit(vectors[rows] + 0.1 * vectors[[1] * len(rows)])
            result = bench.ask(queries, k=k)
            assert found(result) == oracle(ids, vectors, who(numbers), queries, k)
    receipt = result.receipt
    assert (receipt.mode, receipt.eligible, receipt.scanned) == ("exact", 2500, 2500)
    assert receipt.fingerprint == bench.space.fingerprint
    assert receipt.timings_ms["total"] >= receipt.timings_ms["scan"] > 0


def test_an_individual_with_500_photos_does_not_hide_the_others(bench: Bench) -> None:
    numbers = [0] * 500 + list(range(1, 30))
    vectors = spaces.clustered(numbers, DIM, spread=0.2)
    ids = bench.fill(vectors, numbers).tolist()
    result = bench.ask(vectors[:1])
    assert found(result) == oracle(ids, vectors, who(numbers), vectors[:1], 10)
    assert len({hit.individual_id for hit in result.hits}) == 10
    assert result.hits[0].supporting == 500


def test_copies_tie_and_come_by_individual(bench: Bench) -> None:
    vectors = np.repeat(spaces.clustered([0], DIM), 60, axis=0)
    numbers = list(range(60))
    ids = bench.fill(vectors, numbers).tolist()
    result = bench.ask(vectors[:1], k=7)
    assert found(result) == oracle(ids, vectors, who(numbers), vectors[:1], 7)
    assert [h.individual_id for h in result.hits] == sorted(who(numbers))[:7]  # type: ignore[type-var]


def test_stored_vectors_need_not_have_length_one(bench: Bench) -> None:
    vectors = spaces.clustered([0, 1, 2], DIM) * np.array([[1e-2], [5], [1e4]], dtype=np.float32)
    ids = bench.fill(vectors, [0, 1, 2])
    for row, id_ in enumerate(ids):
        best = bench.ask(vectors[row : row + 1] * np.float32(0.5)).hits[0]
        assert (best.annotation_id, best.score) == (id_, pytest.approx(1.0, abs=1e-6))


def test_equal_requests_give_equal_answers(bench: Bench) -> None:
    """Promise 45: the same query twice gives the same order."""
    numbers = [number // 3 for number in range(1500)]
    vectors = spaces.clustered(numbers, DIM)
    bench.fill(vectors, numbers)
    first = found(bench.ask(vectors[:2]))
    assert all(found(bench.ask(vectors[:2])) == first for _ in range(5))


def test_support_does_not_depend_on_k(bench: Bench) -> None:
    numbers = [number // 4 for number in range(80)]
    vectors = spaces.clustered(numbers, DIM, spread=0.4)
    bench.fill(vectors, numbers)
    support = [hit.supporting for hit in bench.ask(vectors[:1], k=10).hits]
    assert support[0] == 4
    for k in (1, 5, 20):
        answered = [hit.supporting for hit in bench.ask(vectors[:1], k=k).hits]
        assert answered[: min(k, 10)] == support[:k]


# ---------------------------------------------------------------- labels and filters


def test_labels_are_those_of_now(bench: Bench) -> None:
    numbers: list[int | None] = [0, 1, 2, None]
    vectors = spaces.clustered([0, 1, 2, 0], DIM, spread=0.2)
    ids = bench.fill(vectors, numbers).tolist()
    result = bench.ask(vectors[:1])
    assert result.receipt.eligible == 3
    assert result.hits[0].annotation_id == ids[0]

    bench.run(
        "UPDATE annotation SET individual_id = :who WHERE id = :id", who=individual_id(1), id=ids[3]
    )
    result = bench.ask(vectors[3:4])
    assert result.receipt.eligible == 4
    assert (result.hits[0].annotation_id, result.hits[0].individual_id) == (
        ids[3],
        individual_id(1),
    )

    bench.run("UPDATE annotation SET individual_id = NULL WHERE id = :id", id=ids[0])
    result = bench.ask(vectors[:1])
    assert result.receipt.eligible == 3
    assert ids[0] not in [h.annotation_id for h in result.hits]

    bench.run(
        "UPDATE individual SET merged_into_id = :to WHERE id = :id",
        to=individual_id(2),
        id=individual_id(1),
    )
    result = bench.ask(vectors[:1])
    assert {h.individual_id for h in result.hits} == {individual_id(2)}
    assert result.receipt.eligible == 3


def test_deleted_annotations_are_gone_from_the_next_search(bench: Bench) -> None:
    """Promise 39: what was deleted is gone from the next search."""
    numbers = [number // 2 for number in range(40)]
    vectors = spaces.clustered(numbers, DIM)
    ids = bench.fill(vectors, numbers).tolist()
    assert bench.ask(vectors[:1]).hits[0].annotation_id == ids[0]
    bench.run("DELETE FROM annotation WHERE id = ANY(:ids)", ids=ids[:3])
    result = bench.ask(vectors[:1])
    assert found(result) == oracle(
        ids, vectors, who(numbers), vectors[:1], 10, lambda id_: id_ not in ids[:3]
    )
    assert (result.receipt.eligible, result.receipt.scanned) == (37, 37)


def test_a_vector_deleted_on_its_own_is_gone_too(bench: Bench) -> None:
    vectors = spaces.clustered([0, 1], DIM)
    ids = bench.fill(vectors, [0, 1]).tolist()
    bench.ask(vectors[:1])
    bench.run("DELETE FROM embedding WHERE annotation_id = :id", id=ids[0])
    result = bench.ask(vectors[:1])
    assert [h.annotation_id for h in result.hits] == [ids[1]]
    assert result.receipt.eligible == 1


def test_filters_are_joined_in_sql(bench: Bench) -> None:
    numbers = [number % 300 for number in range(1600)]
    vectors = spaces.clustered(numbers, DIM)
    ids = bench.fill(vectors, numbers).tolist()
    bench.run("UPDATE annotation SET viewpoint = 'left' WHERE id % 2 = 0")
    bench.run("UPDATE annotation SET viewpoint = 'right' WHERE id % 40 = 1")
    for field, viewpoint, passes in (
        ("viewpoint", "left", lambda id_: id_ % 2 == 0),
        ("viewpoint", "RIGHT", lambda id_: id_ % 40 == 1),
        ("viewpoint", "above", lambda _: False),
        ("not_viewpoint", "LEFT", lambda id_: id_ % 2 != 0),
        ("not_viewpoint", "above", lambda _: True),
    ):
        filters = SearchFilters(**{field: (viewpoint,)})  # type: ignore[arg-type]
        result = bench.ask(vectors[:1], filters=filters)
        assert found(result) == oracle(ids, vectors, who(numbers), vectors[:1], 10, passes)
        count = sum(map(passes, ids))
        assert (result.receipt.eligible, result.receipt.scanned) == (count, count)
        assert result.receipt.filters == {field: [viewpoint]}


# ---------------------------------------------------------------- exclusions


def test_the_query_itself_is_left_out_and_counted(bench: Bench) -> None:
    """Promise 37: a stored photo as the query, without itself."""
    numbers = [number // 2 for number in range(40)]
    vectors = spaces.clustered(numbers, DIM)
    ids = bench.fill(vectors, numbers).tolist()
    own = bench.ask(vectors[:1], exclude_annotations=frozenset({ids[0]}))
    photo = bench.ask(vectors[:1], exclude_media=frozenset({spaces.sha256_of(ids[0])}))
    assert found(own) == found(photo)
    assert found(own) == oracle(
        ids, vectors, who(numbers), vectors[:1], 10, lambda id_: id_ != ids[0]
    )
    assert (own.receipt.excluded.self, photo.receipt.excluded.self) == (1, 1)
    assert own.receipt.as_json()["excluded"] == {"self": 1, "duplicate": 0, "encounter": 0}


def test_the_encounter_is_left_out_and_counted(bench: Bench) -> None:
    """Promise 37: the same encounter is left out and counted."""
    numbers = [number // 4 for number in range(80)]
    met = [number // 2 for number in range(80)]
    vectors = spaces.clustered(numbers, DIM)
    ids = bench.fill(vectors, numbers, met).tolist()
    result = bench.ask(
        vectors[:1],
        exclude_annotations=frozenset({ids[0]}),
        exclude_encounter=spaces.encounter_id(0),
    )
    assert found(result) == oracle(
        ids, vectors, who(numbers), vectors[:1], 10, lambda id_: id_ not in ids[:2]
    )
    excluded = result.receipt.excluded
    assert (excluded.self, excluded.encounter) == (1, 1)


def test_near_duplicates_need_both_hash_and_vector(bench: Bench) -> None:
    """Promise 37: near duplicates are left out and counted."""
    photo, other = spaces.clustered([0, 1], DIM)
    vectors = np.stack([photo, photo, photo, other])
    hashes = [0b0000, 0b0111, 0b1_1111, 0b0000]
    ids = bench.fill(vectors, [0, 1, 2, 3], hashes=hashes).tolist()
    result = bench.ask(vectors[:1], near_duplicate_of=(0,))
    assert [h.annotation_id for h in result.hits] == [ids[2], ids[3]]
    assert result.receipt.excluded.duplicate == 2
    # All bits set is -1 as a signed number.
    bench.run("UPDATE media_asset SET perceptual_hash = -1 WHERE id = :id", id=ids[1])
    result = bench.ask(vectors[:1], near_duplicate_of=(-1 ^ 0b11,))
    assert ids[1] not in [h.annotation_id for h in result.hits]


def test_exclusions_do_not_eat_into_k(bench: Bench) -> None:
    numbers = list(range(30))
    vectors = np.concatenate(
        [
            np.repeat(spaces.clustered([0], DIM), 20, axis=0),
            spaces.clustered(list(range(10)), DIM, seed=3),
        ]
    )
    ids = bench.fill(vectors, numbers).tolist()
    result = bench.ask(vectors[:1], exclude_annotations=frozenset(ids[:20]))
    assert len(result.hits) == 10
    assert result.receipt.excluded.self == 20


# ---------------------------------------------------------------- what is new is found


def test_a_new_individual_is_found_by_the_next_request(bench: Bench, engine: Engine) -> None:
    """Promise 38: read your writes, without retraining, in every process."""
    numbers = [number // 2 for number in range(60)]
    vectors = spaces.clustered(numbers, DIM)
    bench.fill(vectors, numbers)
    bench.ask(vectors[:1])
    # As another process would: a pool of its own.
    elsewhere = make_sessions(engine)
    novel = spaces.clustered([0], DIM, seed=77)
    for round_ in range(3):
        with elsewhere.begin() as session:
            new = spaces.fill(session, bench.space, novel, [1000 + round_]).ids
        result = bench.ask(novel)
        assert individual_id(1000 + round_) in [h.individual_id for h in result.hits[: round_ + 1]]
        assert int(new[0]) in [h.annotation_id for h in result.hits]
        assert result.receipt.eligible == 61 + round_


def test_a_replaced_vector_is_the_only_one_that_counts(bench: Bench) -> None:
    vectors = spaces.clustered([0, 1, 2], DIM)
    ids = bench.fill(vectors, [0, 1, 2]).tolist()
    bench.ask(vectors[:1])
    new = spaces.clustered([5], DIM, seed=8)
    with bench.sessions.begin() as session:
        embeddings.put_vectors(session, bench.space.id, [ids[0]], new)
    now = np.concatenate([new, vectors[1:]])
    for query in (new, vectors[:1]):
        result = bench.ask(query)
        assert found(result) == oracle(ids, now, who([0, 1, 2]), query, 10)
        assert (result.receipt.eligible, result.receipt.scanned) == (3, 3)


def test_a_transaction_that_commits_late_is_not_missed(bench: Bench) -> None:
    vectors = spaces.clustered([0, 1, 2], DIM)
    bench.fill(vectors[:1], [0])
    bench.ask(vectors[:1])
    with bench.sessions() as slow:
        spaces.fill(slow, bench.space, vectors[1:2], [1])
        # Others come and go while this one is open.
        bench.fill(vectors[2:3], [2])
        assert len(bench.ask(vectors[:1]).hits) == 2
        bench.run("UPDATE individual SET notes = 'x'")
        assert len(bench.ask(vectors[:1]).hits) == 2
        slow.commit()
    assert bench.ask(vectors[1:2]).hits[0].individual_id == individual_id(1)


def test_what_is_not_committed_is_seen_by_its_own_transaction_only(bench: Bench) -> None:
    vectors = spaces.clustered([0, 1], DIM)
    ids = bench.fill(vectors[:1], [0]).tolist()
    request = SearchRequest(vectors=vectors[1:], fingerprint=bench.space.fingerprint)
    with bench.sessions() as session:
        bench.searcher.search(session, request)
        new = spaces.fill(session, bench.space, vectors[1:], [1]).ids
        session.execute(text("DELETE FROM annotation WHERE id = :id"), {"id": ids[0]})
        own = bench.searcher.search(session, request)
        assert [h.annotation_id for h in own.hits] == new.tolist()
        assert own.receipt.eligible == 1
        assert [h.annotation_id for h in bench.ask(vectors[1:]).hits] == ids
        session.rollback()
    after = bench.ask(vectors[1:])
    assert ([h.annotation_id for h in after.hits], after.receipt.eligible) == (ids, 1)


operation = st.tuples(
    st.sampled_from(["add", "delete", "relabel", "unlabel", "replace", "merge", "search"]),
    st.integers(0, 11),
    st.integers(0, 5),
)


@settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(operations=st.lists(operation, min_size=5, max_size=25))
def test_any_history_ends_in_the_oracles_answer(
    small: Bench, operations: list[tuple[str, int, int]]
) -> None:
    points = spaces.clustered(list(range(12)), DIM, seed=2)
    with small.sessions.begin() as session:
        session.execute(text("DELETE FROM annotation"))
        session.execute(text("UPDATE individual SET merged_into_id = NULL"))
    known: dict[int, tuple[int, int | None]] = {}
    merged: dict[int, int] = {}
    for kind, point, number in operations:
        if kind == "add":
            known[int(small.fill(points[[point]], [number])[0])] = (point, number)
        elif kind == "search":
            small.ask(points[:1])
        elif kind == "merge":
            _merge(small, merged, number, (number + 1) % 6)
        elif known:
            _change(small, known, kind, sorted(known)[point % len(known)], point, number)
    ids = sorted(known)
    labels = [known[id_][1] for id_ in ids]
    final = [None if n is None else individual_id(merged.get(n, n)) for n in labels]
    vectors = points[[known[id_][0] for id_ in ids]]
    result = small.ask(points[:1])
    assert found(result) == oracle(ids, vectors, final, points[:1], 10)
    assert result.receipt.eligible == sum(label is not None for label in labels)
    assert result.receipt.scanned == len(ids)


def _merge(bench: Bench, merged: dict[int, int], source: int, target: int) -> None:
    if source in merged or target in merged or source in merged.values():
        return
    with bench.sessions.begin() as session:
        done = session.execute(
            text(
                "UPDATE individual SET merged_into_id = :to"
                " WHERE id = :id AND EXISTS (SELECT FROM individual WHERE id = :to)"
            ),
            {"to": individual_id(target), "id": individual_id(source)},
        )
    if done.rowcount:  # type: ignore[attr-defined]
        merged[source] = target


def _change(
    bench: Bench,
    known: dict[int, tuple[int, int | None]],
    kind: str,
    id_: int,
    point: int,
    number: int,
) -> None:
    at, label = known[id_]
    if kind == "delete":
        bench.run("DELETE FROM annotation WHERE id = :id", id=id_)
        del known[id_]
    elif kind == "unlabel":
        bench.run("UPDATE annotation SET individual_id = NULL WHERE id = :id", id=id_)
        known[id_] = (at, None)
    elif kind == "relabel":
        bench.run(
            "INSERT INTO individual (id, catalogue_id) SELECT :who, id FROM catalogue"
            " ON CONFLICT DO NOTHING",
            who=individual_id(number),
        )
        bench.run(
            "UPDATE annotation SET individual_id = :who WHERE id = :id",
            who=individual_id(number),
            id=id_,
        )
        known[id_] = (at, number)
    else:
        points = spaces.clustered(list(range(12)), DIM, seed=2)
        with bench.sessions.begin() as session:
            embeddings.put_vectors(session, bench.space.id, [id_], points[[point]])
        known[id_] = (point, label)


# ---------------------------------------------------------------- errors, never an empty list


def test_vectors_of_another_space_are_refused(bench: Bench) -> None:
    vectors = spaces.clustered([0], DIM)
    bench.fill(vectors, [0])
    with pytest.raises(WrongSpace, match="g" * 64):
        bench.ask(vectors, fingerprint="g" * 64)
    with pytest.raises(WrongSpace):
        bench.ask(vectors, fingerprint="")
    with pytest.raises(WrongSpace, match=r"8 dimensions.*has 16"):
        bench.ask(vectors[:, :8])


def test_two_spaces_of_one_dimension_never_meet(bench: Bench) -> None:
    vectors = spaces.clustered([0, 1], DIM)
    ids = bench.fill(vectors, [0, 1])
    with bench.sessions.begin() as session:
        other = spaces.make_space(session, DIM, fingerprint="e" * 64)
        embeddings.put_vectors(session, other.id, ids[:1], vectors[1:])
    here, there = bench.ask(vectors[1:]), bench.ask(vectors[1:], fingerprint=other.fingerprint)
    assert [h.annotation_id for h in here.hits] == ids[::-1].tolist()
    assert [h.annotation_id for h in there.hits] == ids[:1].tolist()
    assert there.receipt.fingerprint == other.fingerprint


@pytest.mark.parametrize("vector", [[0.0] * DIM, [np.nan] * DIM, [np.inf] + [0.0] * (DIM - 1)])
def test_vectors_without_direction_are_refused(small: Bench, vector: list[float]) -> None:
    """Promise 44: zero, NaN and infinite queries are refused."""
    with pytest.raises(ValueError, match="no direction"):
        small.ask(np.array([vector], dtype=np.float32))


def test_nothing_asked_is_refused(small: Bench) -> None:
    with pytest.raises(ValueError, match="at least one"):
        small.ask(np.zeros((0, DIM), dtype=np.float32))
    with pytest.raises(ValueError, match="got 0"):
        small.ask(spaces.clustered([0], DIM), k=0)


def test_a_cancelled_statement_is_a_timeout(bench: Bench) -> None:
    """Promise 36: a timeout is an error, never an empty list."""
    vectors = spaces.clustered([0], DIM)
    bench.fill(vectors, [0])
    bench.ask(vectors)
    request = SearchRequest(vectors=vectors, fingerprint=bench.space.fingerprint)
    with bench.sessions() as session, bench.sessions() as blocker:
        blocker.execute(text("LOCK TABLE annotation IN ACCESS EXCLUSIVE MODE"))
        session.execute(text("SET LOCAL statement_timeout = '50ms'"))
        with pytest.raises(SearchTimeout, match="did not end"):
            bench.searcher.search(session, request)


def test_the_time_of_a_request_is_kept(bench: Bench) -> None:
    vectors = spaces.clustered([0], DIM)
    bench.fill(vectors, [0])
    bench.ask(vectors)
    with bench.sessions() as blocker:
        blocker.execute(text("LOCK TABLE annotation IN ACCESS EXCLUSIVE MODE"))
        started = time.monotonic()
        with pytest.raises(SearchTimeout, match=r"0\.3 s"):
            bench.ask(vectors, timeout_s=0.3)
        assert time.monotonic() - started < 2
    assert len(bench.ask(vectors).hits) == 1


def test_a_closed_connection_is_unavailable(bench: Bench) -> None:
    """Promise 36: a lost database is an error, never an empty list."""
    vectors = spaces.clustered([0], DIM)
    bench.fill(vectors, [0])
    bench.ask(vectors)
    request = SearchRequest(vectors=vectors, fingerprint=bench.space.fingerprint)
    with bench.sessions() as session:
        pid = session.execute(text("SELECT pg_backend_pid()")).scalar_one()
        bench.run("SELECT pg_terminate_backend(:pid)", pid=pid)
        with pytest.raises(SearchUnavailable, match="does not answer"):
            bench.searcher.search(session, request)
    assert len(bench.ask(vectors).hits) == 1


def test_dead_and_silent_databases_are_errors_in_time(tmp_path: Path) -> None:
    """Promise 36: a stopped or dead database is an error, in time."""
    server = embedded.start(tmp_path)
    engine = make_engine(server.url)
    migrate.upgrade(engine)
    bench = _bench(make_sessions(engine), tmp_path / "snapshots", "faiss")
    try:
        vectors = spaces.clustered([0, 1], DIM)
        bench.fill(vectors, [0, 1])
        assert len(bench.ask(vectors[:1]).hits) == 2
        with psycopg.connect(server.url) as connection:
            row = connection.execute("SELECT pg_backend_pid()").fetchone()
            assert row is not None
        backends = _backends(server.url)
        for pid in backends:
            os.kill(pid, signal.SIGSTOP)
        try:
            started = time.monotonic()
            with pytest.raises(SearchTimeout):
                bench.ask(vectors[:1], timeout_s=0.5)
            assert time.monotonic() - started < 5
        finally:
            for pid in backends:
                os.kill(pid, signal.SIGCONT)
        assert len(bench.ask(vectors[:1]).hits) == 2
        embedded.stop(tmp_path)
        with pytest.raises(SearchUnavailable):
            bench.ask(vectors[:1])
        status = bench.searcher.status(bench.space.fingerprint)
        assert not status.ready
        assert status.reason is not None
        assert "does not answer" in status.reason
    finally:
        bench.searcher.close()
        engine.dispose()
        embedded.stop(tmp_path)


def _backends(url: str) -> list[int]:
    with psycopg.connect(url) as connection:
        rows = connection.execute(
            "SELECT pid FROM pg_stat_activity WHERE application_name = 'resight'"
        ).fetchall()
    return [row[0] for row in rows]


def test_a_dropped_space_is_no_longer_searched(bench: Bench) -> None:
    vectors = spaces.clustered([0], DIM)
    bench.fill(vectors, [0])
    bench.ask(vectors)
    with bench.sessions.begin() as session:
        embeddings.drop_space(session, bench.space.id)
    with pytest.raises(WrongSpace):
        bench.ask(vectors)


# ---------------------------------------------------------------- many at once


def test_searches_beside_writers_are_never_wrong(
    small: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Adds, deletes and rebuilt snapshots while others search: nothing acknowledged is missed."""
    monkeypatch.setattr(live, "STALE_ROWS", 20)
    monkeypatch.setattr(live, "STALE_SHARE", 0.0)
    numbers = [number // 2 for number in range(1200)]
    vectors = spaces.clustered(numbers, DIM)
    small.fill(vectors, numbers)
    small.searcher.ensure(small.space.fingerprint)
    novel = spaces.clustered(list(range(60)), DIM, seed=55)
    committed: list[int] = []
    deleted: set[int] = set()
    stop = threading.Event()

    def write() -> None:
        for number in range(60):
            id_ = int(small.fill(novel[[number]], [5000 + number])[0])
            committed.append(number)
            if number % 3 == 0:
                small.run("DELETE FROM annotation WHERE id = :id", id=id_)
                deleted.add(id_)
        stop.set()

    def read(seed: int) -> int:
        rng = np.random.default_rng(seed)
        asked = 0
        while not stop.is_set():
            asked += 1
            gone = set(deleted)
            there = [n for n in committed[:-1] if n % 3]
            if not there:
                continue
            number = int(rng.choice(there))
            hits = small.ask(novel[[number]]).hits
            assert hits[0].individual_id == individual_id(5000 + number)
            assert not gone & {hit.annotation_id for hit in hits}
        return asked

    with ThreadPoolExecutor(4) as pool:
        readers = [pool.submit(read, seed) for seed in range(3)]
        pool.submit(write).result()
        assert all(reader.result() > 0 for reader in readers)
    small.searcher.refresh(small.space.fingerprint)
    status = small.searcher.status(small.space.fingerprint)
    assert (status.size, status.ready) == (1240, True)
    assert status.delta <= 20


# ---------------------------------------------------------------- true matches


def test_true_matches_are_those_of_other_encounters(bench: Bench) -> None:
    numbers = [number // 4 for number in range(160)]
    met = [number // 2 for number in range(160)]
    vectors = spaces.clustered(numbers, DIM)
    bench.fill(vectors, numbers, met)
    with bench.sessions() as session:
        known = bench.searcher.true_match_distribution(session, bench.space.fingerprint)
    cosines = vectors @ vectors.T
    same = np.equal.outer(numbers, numbers)
    expected = np.where(same & ~np.equal.outer(met, met), cosines, -2).max(axis=1)
    np.testing.assert_allclose(known.scores, np.sort(expected), atol=1e-6)
    others = np.where(same, -2, cosines).max(axis=1)
    np.testing.assert_allclose(known.others, np.sort(others), atol=1e-6)
    assert known.n == 160
    assert known.quantile(2.0) == 1.0
    assert known.quantile(-2.0) == 0.0
    assert known.quantile(float(np.median(expected))) == pytest.approx(0.5, abs=0.02)
    assert known.fifth_percentile == pytest.approx(np.quantile(expected, 0.05), abs=1e-6)
    assert known.reference is not None
    assert known.other is not None
    assert sum(known.reference.counts) == known.reference.count == 160
    assert known.reference.edges == known.other.edges


def test_too_few_true_matches_state_no_share(bench: Bench) -> None:
    vectors = spaces.clustered([0, 0, 1], DIM)
    bench.fill(vectors, [0, 0, 1])
    with bench.sessions() as session:
        known = bench.searcher.true_match_distribution(session, bench.space.fingerprint)
    assert known.n == 2
    assert (known.quantile(0.5), known.fifth_percentile, known.reference) == (None, None, None)


def test_no_active_space_has_no_true_matches(bench: Bench) -> None:
    with bench.sessions() as session:
        assert bench.searcher.true_match_distribution(session).n == 0
    assert not bench.searcher.status().ready
