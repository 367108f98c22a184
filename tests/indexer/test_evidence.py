"""What each photo of a question scores best with each candidate, and ranks by it: the oracle's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from uuid import UUID

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sqlalchemy.orm import Session, sessionmaker

from indexer import ranking, shelf
from indexer.ranking import Fuse
from tests import spaces
from tests.indexer.test_search import DIM, Bench, _bench
from tests.spaces import individual_id

Sessions = sessionmaker[Session]
Best = tuple[float, int] | None


@pytest.fixture(params=["faiss", "memory", "pgvector"])
def bench(
    request: pytest.FixtureRequest,
    sessions: Sessions,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Bench]:
    """Small batches, so that one is not always enough."""
    monkeypatch.setattr(ranking, "_FIRST_BATCH", 4)
    if request.param == "faiss":
        monkeypatch.setattr(shelf, "MEMORY_ROWS", 0)
    backend = "faiss" if request.param == "memory" else request.param
    made = _bench(sessions, tmp_path, backend)
    yield made
    made.searcher.close()


def oracle(
    ids: Sequence[int],
    vectors: NDArray[np.float32],
    individuals: Sequence[int],
    queries: NDArray[np.float32],
    fuse: Fuse,
    compared: NDArray[np.bool_] | None = None,
) -> list[tuple[UUID, float, list[Best]]]:
    """(individual, score, the best of each query), by brute force; `compared` bool (N, P)."""
    rows = spaces.unit(vectors).astype(np.float64)
    cosines = (rows @ spaces.unit(queries).T.astype(np.float64)).astype(np.float32)
    found: dict[UUID, list[Best]] = {}
    for row, (id_, number) in enumerate(zip(ids, individuals, strict=True)):
        best = found.setdefault(individual_id(number), [None] * len(queries))
        for query in range(len(queries)):
            if compared is not None and not compared[row, query]:
                continue
            mine = (-float(cosines[row, query]), id_)
            theirs = best[query]
            if theirs is None or mine < (-theirs[0], theirs[1]):
                best[query] = (-mine[0], id_)
    answer = []
    for who, best in found.items():
        scores = [one[0] for one in best if one is not None]
        if scores:
            score = max(scores) if fuse == "max" else sum(scores) / len(scores)
            answer.append((who, score, best))
    return sorted(answer, key=lambda one: (-one[1], one[0]))


def answered(bench: Bench, queries: NDArray[np.float32], **options: object) -> list[object]:
    result = bench.ask(queries, evidence=True, **options)
    return [
        (
            hit.individual_id,
            hit.score,
            [one and (one.score, one.annotation_id) for one in hit.evidence],
        )
        for hit in result.hits
    ]


@pytest.mark.parametrize("fuse", ["max", "mean_top"])
def test_every_photos_own_best(bench: Bench, fuse: Fuse) -> None:
    rng = np.random.default_rng(3)
    numbers = rng.integers(0, 60, 240).tolist()
    vectors = spaces.clustered(numbers, DIM)
    ids = bench.fill(vectors, numbers).tolist()
    for rows in ([3], [5, 90], [17, 18, 200]):
        queries = spaces.unit(vectors[rows] + 0.1 * vectors[[1] * len(rows)])
        for k in (1, 12):
            found = answered(bench, queries, k=k, fuse=fuse)
            assert found == oracle(ids, vectors, numbers, queries, fuse)[:k]


def test_by_the_mean_somebody_is_first_whom_no_photo_puts_first(bench: Bench) -> None:
    queries = np.eye(DIM, dtype=np.float32)[:2]
    both = spaces.unit(queries.sum(axis=0, keepdims=True))
    vectors = np.concatenate([queries, both])
    bench.fill(vectors, [0, 1, 2])

    best = bench.ask(queries, fuse="max").hits
    mean = bench.ask(queries, fuse="mean_top").hits

    assert {hit.individual_id for hit in best[:2]} == {individual_id(0), individual_id(1)}
    assert mean[0].individual_id == individual_id(2)
    assert mean[0].score == pytest.approx(2**-0.5)


@pytest.mark.parametrize("fuse", ["max", "mean_top"])
def test_photos_of_two_sides_are_each_compared_with_their_own(bench: Bench, fuse: Fuse) -> None:
    rng = np.random.default_rng(5)
    numbers = rng.integers(0, 40, 160).tolist()
    vectors = spaces.clustered(numbers, DIM)
    ids = bench.fill(vectors, numbers).tolist()
    bench.run("UPDATE annotation SET viewpoint = (ARRAY['Left', 'right', NULL])[id % 3 + 1]")
    sides = np.array([("left", "right", None)[id_ % 3] for id_ in ids])
    queries = spaces.unit(vectors[[4, 9, 77]] + 0.1 * vectors[[1, 1, 2]])
    not_compared = ("right", "left", None)
    compared = np.stack([sides != other for other in ("right", "left", "")], axis=1)

    for k in (1, 15):
        found = answered(bench, queries, k=k, fuse=fuse, not_compared=not_compared)
        assert found == oracle(ids, vectors, numbers, queries, fuse, compared)[:k]


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(seed=st.integers(0, 10**6), photos=st.integers(1, 4), k=st.integers(1, 12))
def test_the_mean_is_exact_however_few_candidates_it_takes(
    few: tuple[Bench, list[int], NDArray[np.float32], list[int]], seed: int, photos: int, k: int
) -> None:
    """Rows are met in batches of four; whoever was not met cannot be better than who is given."""
    bench, ids, vectors, numbers = few
    queries = np.random.default_rng(seed).normal(size=(photos, DIM)).astype(np.float32)

    found = answered(bench, queries, k=k, fuse="mean_top")

    assert found == oracle(ids, vectors, numbers, queries, "mean_top")[:k]


@pytest.fixture
def few(
    sessions: Sessions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Bench, list[int], NDArray[np.float32], list[int]]]:
    monkeypatch.setattr(ranking, "_FIRST_BATCH", 4)
    monkeypatch.setattr(shelf, "MEMORY_ROWS", 0)
    bench = _bench(sessions, tmp_path, "faiss")
    numbers = np.random.default_rng(8).integers(0, 90, 300).tolist()
    vectors = spaces.clustered(numbers, DIM)
    yield bench, bench.fill(vectors, numbers).tolist(), vectors, numbers
    bench.searcher.close()
