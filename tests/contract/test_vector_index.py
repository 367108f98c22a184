"""Every vector index against brute force written here: the same ids in the same order."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sqlalchemy.orm import Session

from indexer.vector_index import faiss_sq8
from indexer.vector_index.exact import ExactIndex
from indexer.vector_index.faiss_sq8 import FaissSq8Index
from indexer.vector_index.milvus import MilvusCollection, MilvusIndex
from indexer.vector_index.pgvector import PgVectorIndex
from indexer.vector_index.protocol import (
    Ids,
    Part,
    Scores,
    VectorIndex,
    Vectors,
    nearest,
    settle,
    unit_rows,
)
from indexer.vector_index.rows import RowFile
from tests import spaces
from tests.milvus_server import LiteServer

Make = Callable[[list[int], NDArray[np.float32]], VectorIndex]

BACKENDS = ["exact", "file", "faiss", "pgvector", "milvus"]


@pytest.fixture(params=BACKENDS)
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Make:
    def exact(ids: list[int], rows: NDArray[np.float32]) -> VectorIndex:
        return ExactIndex(np.array(ids, dtype=np.int64), rows)

    def file(ids: list[int], rows: NDArray[np.float32]) -> VectorIndex:
        path = tmp_path / f"{uuid4()}.npy"
        np.save(path, rows)
        kept = RowFile(path) if len(rows) else rows
        path.unlink()
        return ExactIndex(np.array(ids, dtype=np.int64), kept)

    def faiss(ids: list[int], rows: NDArray[np.float32]) -> VectorIndex:
        path = tmp_path / f"{uuid4()}.faiss"
        order = np.argsort(ids)
        rows = np.ascontiguousarray(rows[order])
        error = faiss_sq8.write(path, rows)
        return FaissSq8Index(path, np.array(ids, dtype=np.int64)[order], rows, error)

    def pgvector(ids: list[int], rows: NDArray[np.float32]) -> VectorIndex:
        session: Session = request.getfixturevalue("session")
        space = spaces.make_space(session, rows.shape[1], fingerprint=uuid4().hex * 2)
        for table in ("annotation", "media_asset"):
            # Hypothesis runs many examples inside one transaction.
            session.connection().exec_driver_sql(f"DELETE FROM {table}")
        spaces.fill(session, space, rows, [1] * len(ids), ids=ids)
        return PgVectorIndex(session, space.id, space.dim)

    def milvus(ids: list[int], rows: NDArray[np.float32]) -> VectorIndex:
        server: LiteServer = request.getfixturevalue("milvus")
        collection = MilvusCollection(server.connection(), f"contract_{uuid4().hex}")
        collection.create(rows.shape[1], "contract")
        kept = np.array(ids, dtype=np.int64)
        collection.put(kept, rows)
        collection.ready()
        return MilvusIndex(collection, np.sort(kept), rows.shape[1], approximate=False, ef_search=0)

    made: dict[str, Make] = {
        "exact": exact,
        "file": file,
        "faiss": faiss,
        "pgvector": pgvector,
        "milvus": milvus,
    }
    return made[request.param]


def oracle(
    ids: list[int], rows: Vectors, queries: Vectors, n: int, allowed: Ids | None = None
) -> tuple[list[int], list[float]]:
    """Best n by the highest cosine, in double precision rounded to float32; then by id."""
    cosines = rows.astype(np.float64) @ queries.astype(np.float64).T
    best = cosines.astype(np.float32).max(axis=1).tolist()
    ranked = sorted(zip(best, ids, strict=True), key=lambda pair: (-pair[0], pair[1]))
    kept = [pair for pair in ranked if allowed is None or pair[1] in allowed.tolist()][:n]
    return [id_ for _, id_ in kept], [score for score, _ in kept]


def same(
    index: VectorIndex,
    ids: list[int],
    rows: Vectors,
    queries: Vectors,
    n: int,
    allowed: Ids | None = None,
) -> None:
    found, scores = nearest([Part(index)], queries, n, allowed)
    wanted, wanted_scores = oracle(ids, rows, queries, n, allowed)
    assert found.tolist() == wanted
    assert scores.tolist() == wanted_scores


def test_no_vectors(make: Make) -> None:
    index = make([], np.zeros((0, 8), dtype=np.float32))
    query = spaces.unit(np.ones((2, 8)))
    assert index.size == 0
    assert index.candidates(query, 5).ids.shape == (2, 0)
    assert len(nearest([Part(index)], query, 5)[0]) == 0


def test_fewer_vectors_than_asked_for(make: Make) -> None:
    rows = spaces.clustered([0, 1, 2], 8)
    index = make([7, 3, 5], rows)
    assert index.size == 3
    settled = settle([Part(index)], rows[:1], 10)
    assert settled.exhausted
    assert settled.ids[0] == 7
    same(index, [7, 3, 5], rows, rows[:1], 10)


def test_equal_vectors_come_by_id(make: Make) -> None:
    """Promise 45: ties are ordered by id."""
    rows = np.repeat(spaces.clustered([0, 1], 16), 40, axis=0)
    ids = list(range(200, 120, -1))
    index = make(ids, rows)
    for n in (1, 39, 40, 41, 80):
        same(index, ids, rows, rows[:1], n)
    assert nearest([Part(index)], rows[:1], 3)[0].tolist() == [161, 162, 163]


def test_one_place_with_500_vectors_hides_nothing(make: Make) -> None:
    numbers = [0] * 500 + list(range(1, 1200))
    rows = spaces.clustered(numbers, 32, spread=0.3)
    ids = list(range(1, len(rows) + 1))
    index = make(ids, rows)
    same(index, ids, rows, rows[3:4], 520)


def test_only_allowed_ids(make: Make) -> None:
    rows = spaces.clustered(list(range(1500)), 24)
    ids = list(range(10, 1510))
    index = make(ids, rows)
    for allowed in ([], [4], [11, 12, 999_999], ids[::3], ids[:1400], ids):
        array = np.array(allowed, dtype=np.int64)
        same(index, ids, rows, rows[5:7], 6, array)


def test_best_over_several_queries(make: Make) -> None:
    rows = spaces.clustered(list(range(1300)), 24)
    ids = list(range(1, 1301))
    index = make(ids, rows)
    same(index, ids, rows, rows[[1, 700, 1299]], 10)


def test_scores_one_float_apart_keep_their_order(make: Make) -> None:
    # Cosines to the first axis fall by one unit in the last place from row to row.
    steps = np.array([0.5], dtype=np.float32)
    cosines = [steps[0]]
    for _ in range(30):
        cosines.append(np.nextafter(cosines[-1], np.float32(0)))
    first = np.array(cosines, dtype=np.float64)
    rows = np.stack([first, np.sqrt(1 - first**2)], axis=1).astype(np.float32)
    ids = list(range(31, 0, -1))
    query = np.array([[1, 0]], dtype=np.float32)
    index = make(ids, rows)
    stored, vectors = index.fetch(np.array(sorted(ids), dtype=np.int64))
    same(index, stored.tolist(), vectors, query, 31)


def test_no_score_is_further_off_than_the_bound(make: Make) -> None:
    rows = spaces.clustered(list(range(2000)), 48)
    ids = list(range(1, 2001))
    index = make(ids, rows)
    queries = spaces.clustered(list(range(20)), 48, seed=9)
    found = index.candidates(queries, 100)
    for query, of_query, scores in zip(queries, found.ids, found.scores, strict=True):
        exact = rows[of_query - 1].astype(np.float64) @ query.astype(np.float64)
        assert np.abs(exact - scores).max() <= found.max_error
        assert np.all(np.diff(scores) <= 0)


def test_fetch_gives_the_rows_it_has(make: Make) -> None:
    rows = spaces.clustered([0, 1, 2], 8)
    ids, vectors = make([5, 9, 2], rows).fetch(np.array([2, 4, 5, 100], dtype=np.int64))
    assert sorted(ids.tolist()) == [2, 5]
    for id_, vector in zip(ids.tolist(), vectors, strict=True):
        np.testing.assert_allclose(vector, rows[{5: 0, 2: 2}[id_]], atol=1e-7)


def test_hidden_ids_and_a_second_part(make: Make) -> None:
    rows = spaces.clustered(list(range(1400)), 24)
    ids = list(range(1, 1401))
    index = make(ids, rows)
    query = rows[10:11]
    gone = nearest([Part(index)], query, 150)[0][::2]
    replaced = {int(gone[0]): rows[900], int(gone[1]): query[0]}
    newer_ids = np.array(sorted(replaced), dtype=np.int64)
    newer = ExactIndex(newer_ids, np.stack([replaced[id_] for id_ in newer_ids.tolist()]))
    kept = [id_ for id_ in ids if id_ not in gone.tolist()]
    now_ids = [*kept, *sorted(replaced)]
    now = np.concatenate([rows[np.array(kept) - 1], newer.fetch(newer_ids)[1]])
    found, scores = nearest([Part(index, np.sort(gone)), Part(newer)], query, 12)
    assert (found.tolist(), scores.tolist()) == oracle(now_ids, now, query, 12)
    assert found[0] == gone[1]


# A grid of few values gives ties, copies and opposite vectors in plenty.
grid = st.lists(
    st.lists(st.integers(-2, 2), min_size=3, max_size=3).filter(any), min_size=1, max_size=40
)


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(points=grid, asked=st.integers(0, 39), n=st.integers(1, 45), data=st.data())
def test_any_points_are_ordered_like_brute_force(
    make: Make, points: list[list[int]], asked: int, n: int, data: st.DataObject
) -> None:
    """Promise 33: exact mode equals the oracle, to the id and order."""
    rows = unit_rows(unit_rows(np.array(points, dtype=np.float32)))
    ids = data.draw(st.permutations(range(1, len(points) + 1)))
    allowed = data.draw(st.none() | st.sets(st.integers(1, 45)))
    index = make(ids, rows)
    stored = index.fetch(np.array(sorted(ids), dtype=np.int64))
    order = np.argsort(stored[0])
    array = None if allowed is None else np.array(sorted(allowed), dtype=np.int64)
    same(index, sorted(ids), stored[1][order], rows[[asked % len(rows)]], n, array)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    spread=st.sampled_from([0.0, 1e-4, 0.05, 0.6, 3.0]),
    n=st.integers(1, 60),
)
def test_coarse_codes_never_change_the_order(
    tmp_path_factory: pytest.TempPathFactory, seed: int, spread: float, n: int
) -> None:
    """From identical to random vectors, where codes of 8 bits cannot tell rows apart."""
    rng = np.random.default_rng(seed)
    rows = spaces.clustered(rng.integers(0, 40, 1500).tolist(), 16, spread, seed)
    ids = np.arange(1, 1501)
    path = tmp_path_factory.mktemp("codes") / "codes.faiss"
    index = FaissSq8Index(path, ids, rows, faiss_sq8.write(path, rows))
    found, scores = nearest([Part(index)], rows[:2], n)
    assert (found.tolist(), scores.tolist()) == oracle(ids.tolist(), rows, rows[:2], n)


def test_refuses_vectors_without_direction() -> None:
    """Promise 44: zero, NaN and infinite vectors are refused with a reason."""
    for bad in (np.zeros((1, 4)), np.array([[1, np.nan]]), np.array([[1, np.inf]]), np.zeros(4)):
        with pytest.raises(ValueError, match="vector"):
            unit_rows(bad)


def test_scales_numbers_whose_squares_overflow() -> None:
    huge = np.array([[3e38, 0, 3e38], [1e-40, 0, 0]], dtype=np.float32)
    np.testing.assert_allclose(np.linalg.norm(unit_rows(huge), axis=1), 1, atol=1e-6)


def test_scores_do_not_depend_on_company() -> None:
    from indexer.vector_index.protocol import exact_cosines

    rows = spaces.clustered(list(range(300)), 512)
    together: Scores = exact_cosines(rows, rows[:3])
    for position in (0, 1, 17, 299):
        alone = exact_cosines(rows[position : position + 1], rows[:1])
        assert alone[0, 0] == together[position, 0]


def test_broken_or_foreign_file_is_refused(tmp_path: Path) -> None:
    """Promise 41: empty, truncated, with a flipped header, of other rows."""
    rows = spaces.clustered(list(range(50)), 8)
    ids = np.arange(50)
    path = tmp_path / "codes.faiss"
    error = faiss_sq8.write(path, rows)
    assert not list(tmp_path.glob("*.partial"))
    whole = path.read_bytes()
    for broken in (b"", whole[: len(whole) // 2], b"XXXX" + whole[4:]):
        path.write_bytes(broken)
        with pytest.raises(ValueError, match=r"codes\.faiss"):
            FaissSq8Index(path, ids, rows, error)
    path.write_bytes(whole)
    with pytest.raises(ValueError, match="50 x 8"):
        FaissSq8Index(path, ids[:49], rows[:49], error)


def test_codes_replaced_by_rename_keep_old_readers_alive(tmp_path: Path) -> None:
    """Promise 43: replacing a file under a reader that maps it never ends the process."""
    rows = spaces.clustered(list(range(2000)), 32)
    ids = np.arange(2000)
    path = tmp_path / "codes.faiss"
    error = faiss_sq8.write(path, rows)
    reader = FaissSq8Index(path, ids, rows, error)
    before = reader.candidates(rows[:1], 50)
    faiss_sq8.write(path, rows[::-1][:500])
    after = reader.candidates(rows[:1], 50)
    np.testing.assert_array_equal(before.ids, after.ids)
    np.testing.assert_array_equal(before.scores, after.scores)


def test_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Promise 14: a full disk keeps the old file."""
    rows = spaces.clustered(list(range(50)), 8)
    path = tmp_path / "codes.faiss"
    faiss_sq8.write(path, rows)
    whole = path.read_bytes()

    def short_write(index: object, name: str) -> None:
        Path(name).write_bytes(b"half")
        raise RuntimeError("write error: No space left on device")

    monkeypatch.setattr(faiss_sq8.faiss, "write_index", short_write)
    with pytest.raises(OSError, match="No space left"):
        faiss_sq8.write(path, rows[:5])
    assert path.read_bytes() == whole
    assert sorted(tmp_path.iterdir()) == [path]


def test_rows_of_a_file_are_those_written(tmp_path: Path) -> None:
    rows = spaces.clustered(list(range(70)), 12)
    np.save(tmp_path / "rows.npy", rows)
    file = RowFile(tmp_path / "rows.npy")
    assert (len(file), file.shape) == (70, (70, 12))
    np.testing.assert_array_equal(file[3:9], rows[3:9])
    np.testing.assert_array_equal(file[60:100], rows[60:])
    np.testing.assert_array_equal(file[80:90], rows[80:90])
    some = np.array([69, 0, 5, 5], dtype=np.intp)
    np.testing.assert_array_equal(file[some], rows[some])
    assert file[some].flags.writeable
    with pytest.raises(ValueError, match="steps of 2"):
        file[0:10:2]


def test_a_file_that_holds_no_rows_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.npy"
    np.save(path, np.arange(5))
    with pytest.raises(ValueError, match="not rows"):
        RowFile(path)
    np.save(path, spaces.clustered([0, 1], 8))
    whole = path.read_bytes()
    path.write_bytes(whole[:-4])
    with pytest.raises(ValueError, match=r"mmap|size"):
        RowFile(path)
    path.write_bytes(whole)
    file = RowFile(path)
    path.write_bytes(whole[:-4])
    with pytest.raises(OSError, match="ends before row 1"):
        file[1:2]
