"""An HNSW build that PostgreSQL, its backend or the worker dies under: exact answers, then rebuilt.

The build is held where it can be killed at leisure: a transaction that has written to the space
makes it wait before it reads the first row.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import psycopg
import pytest
from numpy.typing import NDArray
from sqlalchemy import Engine, exc, text
from sqlalchemy.orm import Session, sessionmaker

from db import embedded, migrate
from db.queries import ann as rows
from db.queries import jobs
from db.queries.embeddings import SpaceRow
from db.session import make_engine, make_sessions
from db.types import JobKind, JobState
from indexer import ann
from indexer.jobs import JobRunner, start_job
from indexer.search import Searcher, SearchRequest
from tests import spaces
from tests.toy_jobs import wait_for

pytestmark = [pytest.mark.faults, pytest.mark.timeout(300)]

ROOT = Path(__file__).resolve().parents[2]
DIM = 16
ROWS = 2_000
LEASE_S = 2.0
WORKER = """
import sys, threading
from db.session import make_engine, make_sessions
from indexer.ann import BuildAnnHandler
from indexer.jobs import JobRunner

sessions = make_sessions(make_engine(sys.argv[1]))
runner = JobRunner(
    sessions, [BuildAnnHandler(sessions)], worker="victim", lease_s=float(sys.argv[2]), poll_s=0.2
)
runner.run(threading.Event())
"""


@dataclass
class Place:
    """A PostgreSQL of its own, to be killed."""

    data_dir: Path
    url: str
    engine: Engine
    sessions: sessionmaker[Session]
    space: SpaceRow
    vectors: NDArray
    ids: NDArray

    def mode(self, searcher: Searcher) -> str:
        """How a search was answered; its answer is checked."""
        request = SearchRequest(self.vectors[:1], self.space.fingerprint, k=3)
        with self.sessions() as session:
            result = searcher.search(session, request)
        assert result.hits[0].individual_id == spaces.individual_id(0)
        assert result.receipt.eligible == ROWS
        return result.receipt.mode

    def index(self) -> rows.AnnIndex | None:
        with self.sessions() as session:
            return rows.ann_index(session, self.space.id)

    def building(self) -> bool:
        index = self.index()
        return index is not None and index.building

    @contextmanager
    def held(self) -> Iterator[None]:
        """A build begun inside goes no further than its entry in the catalogue."""
        with suppress(exc.DBAPIError, psycopg.Error), self.sessions() as writer:
            writer.execute(
                text("UPDATE embedding SET created_at = now() WHERE annotation_id = :id"),
                {"id": int(self.ids[0])},
            )
            yield

    def build_in_background(self) -> threading.Thread:
        def build() -> None:
            with suppress(exc.DBAPIError, psycopg.Error, ann.Stopped):
                ann.build(self.sessions, self.space)

        thread = threading.Thread(target=build)
        thread.start()
        wait_for(self.building)
        return thread

    def kill_postgres(self) -> None:
        pid = int((self.data_dir / "postgres/postmaster.pid").read_text().split()[0])
        family = [*psutil.Process(pid).children(recursive=True), psutil.Process(pid)]
        for process in reversed(family):
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(family, timeout=10)


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    monkeypatch.setattr(ann, "_REPAIR_S", 0.2)
    monkeypatch.setattr(ann, "_MOST_QUERIES", 20)
    with tempfile.TemporaryDirectory(prefix="resight-test-") as name:
        data_dir = Path(name)
        url = embedded.start(data_dir).url
        engine = make_engine(url)
        migrate.upgrade(engine)
        sessions = make_sessions(engine)
        who = list(range(ROWS))
        vectors = spaces.clustered(who, DIM)
        with sessions.begin() as session:
            space = spaces.make_space(session, DIM)
            ids = spaces.fill(session, space, vectors, who).ids
        try:
            yield Place(data_dir, url, engine, sessions, space, vectors, ids)
        finally:
            engine.dispose()
            embedded.stop(data_dir)


def test_postgres_killed_during_a_build_is_answered_exactly_and_the_index_comes_back(
    place: Place,
) -> None:
    """Promise 5: search answers exactly (mode=exact), and the index is rebuilt by itself."""
    searcher = Searcher(place.sessions, place.data_dir / "snapshots", "pgvector")
    assert place.mode(searcher) == "exact"
    with place.held():
        thread = place.build_in_background()
        place.kill_postgres()
        thread.join()
    embedded.start(place.data_dir)
    left = place.index()
    assert left is not None
    assert not left.valid
    assert place.mode(searcher) == "exact"
    wait_for(lambda: place.mode(searcher) == "ann", 60)
    searcher.close()


def test_a_build_whose_backend_was_terminated_is_replaced_at_the_next_start(place: Place) -> None:
    """Promise 6: an interrupted CREATE INDEX CONCURRENTLY leaves an invalid index, which start-up
    finds and replaces."""
    with place.held():
        thread = place.build_in_background()
        with place.sessions() as session:
            session.execute(
                text("SELECT pg_terminate_backend(pid) FROM pg_stat_progress_create_index")
            )
        thread.join()
    left = place.index()
    assert left is not None
    assert not left.valid
    searcher = Searcher(place.sessions, place.data_dir / "snapshots", "pgvector")
    searcher.ensure(place.space.fingerprint)
    assert place.mode(searcher) == "exact" or place.index() != left
    wait_for(lambda: place.mode(searcher) == "ann", 60)
    whole = place.index()
    assert whole is not None
    assert whole.valid
    assert whole.identity != left.identity
    searcher.close()


def test_a_worker_killed_while_it_builds_is_taken_over(place: Place) -> None:
    """Promises 3 and 6: the job of a killed worker is finished by another, with a whole index."""
    asked = start_job(
        place.sessions,
        kind=JobKind.BUILD_ANN,
        params={"model_id": place.space.id},
        principal="ann",
    )
    with place.held():
        victim = subprocess.Popen(
            [sys.executable, "-c", WORKER, place.url, str(LEASE_S)],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        wait_for(place.building, 60)
        victim.send_signal(signal.SIGKILL)
        victim.wait()
        # The backend notices that its client is gone, though it waits for the writer.
        wait_for(lambda: not place.building())
    left = place.index()
    assert left is not None
    assert not left.valid
    runner = JobRunner(
        place.sessions,
        [ann.BuildAnnHandler(place.sessions)],
        worker="heir",
        lease_s=LEASE_S,
    )

    def ended() -> bool:
        runner.run_until_idle()
        with place.sessions() as session:
            return jobs.get_job(session, asked.id).ended

    wait_for(ended, 60)
    with place.sessions() as session:
        assert jobs.get_job(session, asked.id).state == JobState.DONE
    searcher = Searcher(place.sessions, place.data_dir / "snapshots", "pgvector")
    assert place.mode(searcher) == "ann"
    searcher.close()
