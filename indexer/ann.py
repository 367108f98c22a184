"""Owns HNSW indexes inside PostgreSQL: built beside searches, measured, published, repaired.

An index is used only after its recall was measured against a comparison with every row, and only
for filters down to the selectivity at which it was found good enough. Until then, and whenever it
is missing, broken or not the one that was measured, searches compare with every row.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
import psycopg
from sqlalchemy import Connection, Engine, exc
from sqlalchemy.orm import Session, sessionmaker

from db.queries import ann, embeddings
from db.queries.ann import HNSW, Published
from db.queries.copying import Int64s
from db.queries.embeddings import SpaceRow
from db.queries.jobs import ChunkSpec, JobRow
from db.queries.search import nearest_rows, prune_changes, space_ids
from db.types import JobKind
from indexer.jobs import ChunkContext, Plan
from indexer.vector_index.pgvector import Ann, PgVectorIndex
from indexer.vector_index.protocol import Vectors, unit_rows

log = logging.getLogger(__name__)

Sessions = sessionmaker[Session]
Stopping = Callable[[], bool]

M: Final = 16
EF_CONSTRUCTION: Final = 128
SHARES: Final = (1.0, 0.1, 0.01, 0.001)
"""Shares of the space that a filter admits, at which recall is measured."""
MIN_RECALL: Final = 0.95
"""Below this the planner compares with every row."""
WANTED_RECALL: Final = 0.99
"""The search goes wider until it reaches this on the whole space."""
_WIDTHS: Final = (100, 200, 400, 800)
_NEIGHBOURS: Final = 10
_BATCH: Final = 128
"""Candidates asked for, as in a search."""
_WORK: Final = 20_000_000
_MOST_QUERIES: Final = 200
_SEED: Final = 5
_LOCK: Final = 0x5E516877
"""First half of the advisory lock under which one process builds the index of a space."""
_POLL_S: Final = 0.5
_MOST_MEMORY_MB: Final = 2_048
_ROW_OVERHEAD: Final = 240
_REPAIR_S = 30.0


class Stopped(Exception):
    """The build was given up as asked; nothing is left of it."""


@dataclass(frozen=True, slots=True)
class AnnReport:
    """`recall` by share of the space that a filter admits (as text, for JSON), each the share of
    the oracle's nearest ten. `min_share` is the smallest share at which the index is used, None
    where it is not good enough for anything. `queries` were measured on `rows` vectors."""

    rows: int
    queries: int
    ef_search: int
    recall: dict[str, float]
    min_share: float | None
    m: int
    ef_construction: int
    memory_mb: int
    build_s: float
    size_mb: float

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def use_of(published: Published | None, size: int) -> Ann | None:
    """How to search by a published index, None for not at all: it was found too poor, or the space
    has more than doubled since it was measured."""
    if published is None or size > 2 * published.vector_count:
        return None
    min_share = published.report.get("min_share")
    return None if min_share is None else Ann(int(published.report["ef_search"]), float(min_share))


def memory_needed_mb(rows: int, dim: int) -> int:
    """maintenance_work_mem with which the whole graph is built in memory."""
    return 64 + int(rows * (2 * dim + 32 * M + _ROW_OVERHEAD) / 2**20)


def build(
    sessions: Sessions,
    space: SpaceRow,
    *,
    memory_mb: int | None = None,
    stopping: Stopping = lambda: False,
    progress: Callable[[float], None] = lambda _share: None,
    again: bool = True,
) -> Published:
    """Build, measure and publish the HNSW index of a space; minutes for a large one.

    One that is whole is only measured, and without `again` left as it is if it was measured.
    Waits for another process that is building it. `progress` is told the share that is done.

    Raises:
        Stopped: `stopping` said so; with `again` nothing is left of the build.
    """
    with _maintenance(sessions) as connection, _alone(connection, space.id, stopping):
        with sessions() as session:
            rows = embeddings.count_vectors(session, space.id)
            index = ann.ann_index(session, space.id)
            usable = ann.usable_ann(session, space.id)
        if usable is not None and not again:
            return usable
        needed = memory_needed_mb(rows, space.dim)
        memory = memory_mb or min(needed, _MOST_MEMORY_MB)
        started = time.monotonic()
        if index is None or not index.valid:
            if index is not None:
                log.warning("The index %s is not whole and is built again.", index.name)
            # What a repair leaves behind, the next one finds: it is still wanted.
            _create(connection, sessions, space, memory, stopping, progress, keep_remains=not again)
        build_s = time.monotonic() - started
        with sessions.begin() as session:
            return _measured(session, space, memory, build_s, stopping)


def repair(sessions: Sessions, stopping: Stopping = lambda: False) -> list[int]:
    """Build again what a crash left behind broken, and measure what was restored; which spaces."""
    with sessions() as session:
        broken = ann.left_over(session)
        spaces = [embeddings.get_space_by_id(session, model_id) for model_id in broken]
    for space in spaces:
        build(sessions, space, stopping=stopping, again=False)
    return broken


class Repairs:
    """Repairs of one process, in a thread of their own."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="ann-repair")
        self._closing = threading.Event()
        self._lock = threading.Lock()
        self._next = 0.0

    def soon(self) -> None:
        """Look, at most every half minute, for an index that a crash left broken."""
        now = time.monotonic()
        with self._lock:
            if now < self._next or self._closing.is_set():
                return
            self._next = now + _REPAIR_S
            self._thread.submit(self._run)

    def close(self) -> None:
        """Ends; a build under way is given up."""
        with self._lock:
            self._closing.set()
        self._thread.shutdown(wait=True, cancel_futures=True)

    def _run(self) -> None:
        try:
            repair(self._sessions, self._closing.is_set)
        except Stopped:
            pass
        except Exception as problem:
            # Nobody waits for this: the next search without an index asks for it again.
            log.warning("A broken index could not be built again: %s", problem)


# ---------------------------------------------------------------- building


def _engine(sessions: Sessions) -> Engine:
    with sessions() as session:
        bind = session.get_bind()
    return bind if isinstance(bind, Engine) else bind.engine


@contextmanager
def _maintenance(sessions: Sessions) -> Iterator[Connection]:
    """A connection of its own in autocommit, closed at the end with all its settings."""
    engine = _engine(sessions)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("SET statement_timeout = 0")
        connection.exec_driver_sql("SET lock_timeout = 0")
        # Without this a build goes on for nobody after its client was killed. Not on every system.
        try:
            connection.exec_driver_sql("SET client_connection_check_interval = '2s'")
        except exc.DBAPIError as problem:
            log.info("A build does not notice that its client is gone: %s", problem.orig)
        try:
            yield connection
        finally:
            connection.invalidate()


@contextmanager
def _alone(connection: Connection, model_id: int, stopping: Stopping) -> Iterator[None]:
    while not connection.exec_driver_sql(
        "SELECT pg_try_advisory_lock(%s, %s)", (_LOCK, model_id)
    ).scalar_one():
        if stopping():
            raise Stopped
        time.sleep(_POLL_S)
    yield


def _create(
    connection: Connection,
    sessions: Sessions,
    space: SpaceRow,
    memory_mb: int,
    stopping: Stopping,
    progress: Callable[[float], None],
    *,
    keep_remains: bool,
) -> None:
    connection.exec_driver_sql(f"SET maintenance_work_mem = '{int(memory_mb)}MB'")
    ann.drop_ann_index(connection, space.id)
    try:
        _create_watched(connection, sessions, space, stopping, progress)
    except Stopped:
        if not keep_remains:
            ann.drop_ann_index(connection, space.id)
        raise
    except exc.DBAPIError as problem:
        if problem.connection_invalidated:
            raise  # what is left is found and replaced later
        ann.drop_ann_index(connection, space.id)
        if not isinstance(problem.orig, psycopg.errors.DiskFull):
            raise
        # Workers share the graph in /dev/shm, which containers keep small.
        log.warning("The index is built by one process alone: %s", problem.orig)
        connection.exec_driver_sql("SET max_parallel_maintenance_workers = 0")
        _create_watched(connection, sessions, space, stopping, progress)


def _create_watched(
    connection: Connection,
    sessions: Sessions,
    space: SpaceRow,
    stopping: Stopping,
    progress: Callable[[float], None],
) -> None:
    driver = connection.connection.driver_connection
    if not isinstance(driver, psycopg.Connection):
        raise TypeError(f"the session is not on psycopg 3 but on {type(driver)}")
    done = threading.Event()

    def create() -> None:
        try:
            ann.create_ann_index(
                connection, space.id, space.dim, m=M, ef_construction=EF_CONSTRUCTION
            )
        finally:
            done.set()

    with ThreadPoolExecutor(1, thread_name_prefix="ann-build") as pool:
        building = pool.submit(create)
        while not done.wait(_POLL_S):
            if stopping():
                driver.cancel_safe()
                break
            with sessions() as session:
                share = ann.build_share(session, space.id)
            if share is not None:
                progress(share)
        try:
            building.result()
        except exc.DBAPIError as problem:
            if not isinstance(problem.orig, psycopg.errors.QueryCanceled):
                raise
            raise Stopped from problem


# ---------------------------------------------------------------- measuring


def _measured(
    session: Session, space: SpaceRow, memory_mb: int, build_s: float, stopping: Stopping
) -> Published:
    ids, horizon = space_ids(session, space.id)
    index = ann.ann_index(session, space.id)
    if index is None or not index.valid:
        raise RuntimeError(f"the index of {space.name} did not become valid; build it again")
    measuring = _Measuring(session, space, ids, stopping)
    ef_search, recall = measuring.run()
    report = AnnReport(
        rows=len(ids),
        queries=len(measuring.sample),
        ef_search=ef_search,
        recall={f"{share:g}": value for share, value in recall.items()},
        min_share=min_share(recall),
        m=M,
        ef_construction=EF_CONSTRUCTION,
        memory_mb=memory_mb,
        build_s=round(build_s, 1),
        size_mb=round(index.size_bytes / 2**20, 1),
    )
    published = ann.publish_index(
        session,
        model_id=space.id,
        backend=HNSW,
        vector_count=len(ids),
        horizon_tx=horizon,
        digest=index.identity,
        recall=recall.get(1.0),
        report=report.as_json(),
    )
    prune_changes(session)
    return published


def min_share(recall: dict[float, float]) -> float | None:
    """The smallest measured share down to which recall is at least `MIN_RECALL` throughout."""
    smallest = None
    for share in sorted(recall, reverse=True):
        if recall[share] < MIN_RECALL:
            break
        smallest = share
    return smallest


class _Measuring:
    """Recall of one index over rows spread evenly through the space, themselves left out."""

    def __init__(self, session: Session, space: SpaceRow, ids: Int64s, stopping: Stopping) -> None:
        self._session = session
        self._space = space
        self._ids = ids
        self._stopping = stopping
        count = min(len(ids), _MOST_QUERIES, max(10, _WORK // max(len(ids), 1)))
        chosen = np.linspace(0, max(len(ids) - 1, 0), count).astype(np.intp)
        self.sample, vectors = embeddings.vectors_of(session, space.id, ids[chosen])
        self._queries: Vectors = unit_rows(vectors)

    def run(self) -> tuple[int, dict[float, float]]:
        """(ef_search, recall by share); a share is left out where a scan is as good anyway."""
        whole = self._oracle(None)
        recall: dict[float, float] = {}
        ef_search = _WIDTHS[0]
        if len(self._ids) < _BATCH * 8:
            return ef_search, recall
        for ef_search in _WIDTHS:
            recall[1.0] = self._recall(None, whole, ef_search)
            if recall[1.0] >= WANTED_RECALL:
                break
        rng = np.random.default_rng(_SEED)
        for share in SHARES[1:]:
            size = int(share * len(self._ids))
            if size < _BATCH * 8:
                break
            allowed = np.sort(rng.choice(self._ids, size, replace=False))
            recall[share] = self._recall(allowed, self._oracle(allowed), ef_search)
        return ef_search, recall

    def _oracle(self, allowed: Int64s | None) -> list[set[int]]:
        return [
            self._others(
                own,
                nearest_rows(self._session, self._space.id, query, _NEIGHBOURS + 1, allowed)[0],
            )
            for own, query in self._each()
        ]

    def _recall(self, allowed: Int64s | None, oracle: list[set[int]], ef_search: int) -> float:
        index = PgVectorIndex(
            self._session,
            self._space.id,
            self._space.dim,
            len(self._ids),
            Ann(ef_search, 0.0),
        )
        found = wanted = 0
        for (own, query), expected in zip(self._each(), oracle, strict=True):
            given = index.candidates(query[None, :], _BATCH, allowed)
            found += len(self._others(own, given.ids[0]) & expected)
            wanted += len(expected)
        return found / wanted if wanted else 1.0

    def _each(self) -> Iterator[tuple[int, Vectors]]:
        for own, query in zip(self.sample.tolist(), self._queries, strict=True):
            if self._stopping():
                raise Stopped
            yield own, query

    @staticmethod
    def _others(own: int, ids: Int64s) -> set[int]:
        return set([id_ for id_ in ids.tolist() if id_ != own][:_NEIGHBOURS])


# ---------------------------------------------------------------- as a job


class BuildAnnHandler:
    """Params: `model_id`, and `memory_mb` where the build is to have another amount of memory.
    The result is the report of the index."""

    kind = JobKind.BUILD_ANN

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions

    def plan(self, session: Session, job: JobRow) -> Plan:
        if job.stage is not None:
            published = ann.usable_ann(session, job.params["model_id"])
            return Plan.end(published.report if published else None)
        rows = embeddings.count_vectors(session, job.params["model_id"])
        return Plan.next_stage("building", [ChunkSpec("building", {}, rows)])

    def work(self, chunk: ChunkContext) -> None:
        with self._sessions() as session:
            space = embeddings.get_space_by_id(session, chunk.job.params["model_id"])
        try:
            build(
                self._sessions,
                space,
                memory_mb=chunk.job.params.get("memory_mb"),
                stopping=chunk.stopping,
                progress=lambda share: chunk.progress(int(share * chunk.row.items)),
            )
        except Stopped:
            return
        chunk.commit(lambda _session: (), chunk.row.items)
