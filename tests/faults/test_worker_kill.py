"""Workers as processes: killed, stopped, with a wrong clock, four at one job, without a database.

Each worker is a child process over the toy job of `tests.toy_jobs`, which writes every number once
and notes every time it worked on one.
"""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session, sessionmaker

from db import embedded, migrate
from db.queries import jobs
from db.queries.jobs import JobRow
from db.session import make_engine, make_sessions
from db.types import JobKind, JobState
from indexer import failpoints
from indexer.jobs import start_job
from tests.toy_jobs import make_table, wait_for, written

pytestmark = [pytest.mark.faults, pytest.mark.timeout(600)]

ROOT = Path(__file__).resolve().parents[2]
LEASE_S = 2.0
POLL_S = 0.5
STARTING_S = 30.0
"""A worker's imports take so long at most, on a busy machine."""

WORKER = """
import sys, threading
from db.session import make_engine, make_sessions
from indexer.jobs import JobRunner
from indexer.waker import Waker
from tests.toy_jobs import ToyHandler

url, name, lease_s, poll_s = sys.argv[1:]
engine = make_engine(url)
runner = JobRunner(
    make_sessions(engine),
    [ToyHandler(name)],
    worker=name,
    lease_s=float(lease_s),
    poll_s=float(poll_s),
    tell=lambda line: print(line, flush=True),
)
waker = Waker(engine, runner, poll_s=float(poll_s))
waker.start()
print("ready", flush=True)
runner.run(threading.Event())
"""

Sessions = sessionmaker[Session]


@dataclass
class Crew:
    """Worker processes over one database; those still there are killed at the end."""

    url: str
    processes: list[subprocess.Popen[str]] = field(default_factory=list)

    def start(
        self,
        name: str,
        *,
        failpoint: str | None = None,
        lease_s: float = LEASE_S,
        poll_s: float = POLL_S,
        **environment: str,
    ) -> subprocess.Popen[str]:
        """A worker that is ready."""
        given = {"PYTHONPATH": str(ROOT), **environment}
        if failpoint is not None:
            given[failpoints.VARIABLE] = failpoint
        process = subprocess.Popen(
            [sys.executable, "-c", WORKER, self.url, name, str(lease_s), str(poll_s)],
            env={**os.environ, **given},
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.processes.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return process

    def end(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()


@pytest.fixture
def sessions(engine: Engine, sessions: Sessions) -> Sessions:
    make_table(engine)
    return sessions


@pytest.fixture
def crew(database_url: str) -> Iterator[Crew]:
    made = Crew(database_url)
    yield made
    made.end()


def _start(sessions: Sessions, **params: Any) -> JobRow:
    return start_job(sessions, kind=JobKind.EVALUATE, params=params, principal="anna")


def _job(sessions: Sessions, job: JobRow) -> JobRow:
    with sessions() as session:
        return jobs.get_job(session, job.id)


def _done(sessions: Sessions, job: JobRow) -> bool:
    now = _job(sessions, job)
    assert now.state not in (JobState.FAILED, JobState.CANCELLED), now.error
    return now.state == JobState.DONE


def _calls(engine: Engine) -> tuple[int, int]:
    """(numbers worked on, repetitions included; different ones)."""
    with engine.connect() as connection:
        row = connection.execute(
            text("SELECT count(*), count(DISTINCT number) FROM toy_call")
        ).one()
    return int(row[0]), int(row[1])


NUMBERS, SIZE = 40, 5
FIRST, MIDDLE, LAST = 1, NUMBERS // SIZE // 2, NUMBERS // SIZE


@pytest.mark.parametrize("chunk", [FIRST, MIDDLE, LAST])
@pytest.mark.parametrize(
    "place", ["chunk.after_claim", "chunk.before_commit", "chunk.after_commit"]
)
def test_a_worker_killed_at_a_chunk_is_taken_over_within_two_leases(
    engine: Engine, sessions: Sessions, crew: Crew, place: str, chunk: int
) -> None:
    """Promises 3 and 15: nothing missed, nothing kept twice, at most the chunk in flight redone,
    and the job is not left running."""
    job = _start(sessions, numbers=NUMBERS, size=SIZE, seconds=0.005)
    dying = crew.start("dying", failpoint=f"{place}:{chunk}")
    heir = crew.start("heir") if chunk == LAST else None
    if heir is not None:
        # Both share the job, so which worker does the last chunk is open: it may not die at all.
        wait_for(lambda: _done(sessions, job) or dying.poll() is not None)
    else:
        assert dying.wait(60) == failpoints.EXIT_CODE
        assert _job(sessions, job).state == JobState.RUNNING
        crew.start("heir")
    began = time.monotonic()
    wait_for(lambda: _done(sessions, job))
    assert time.monotonic() - began < 2 * LEASE_S + 2 * POLL_S + 1
    ended = _job(sessions, job)
    assert (ended.done, ended.failed) == (NUMBERS, 0)
    assert written(engine) == list(range(NUMBERS))
    calls, different = _calls(engine)
    assert different == NUMBERS
    assert calls <= NUMBERS + SIZE


def test_a_worker_killed_at_any_moment_loses_its_chunk_to_another(
    engine: Engine, sessions: Sessions, crew: Crew
) -> None:
    """Promise 15: `kill -9`, six times; the job ends, the set of numbers is exact."""
    numbers = 240
    job = _start(sessions, numbers=numbers, size=SIZE, seconds=0.02)
    kills = 6
    for n in range(kills):
        worker = crew.start(f"w{n}")
        before = _calls(engine)[1]
        wait_for(lambda before=before: _calls(engine)[1] > before + 7)  # type: ignore[misc]
        worker.kill()
        worker.wait()
    crew.start("last")
    wait_for(lambda: _done(sessions, job), 60)
    assert written(engine) == list(range(numbers))
    calls, different = _calls(engine)
    assert different == numbers
    assert calls <= numbers + kills * SIZE


def test_a_chunk_that_kills_every_worker_fails_its_job(sessions: Sessions, crew: Crew) -> None:
    """Promise 15: never running for ever."""
    job = _start(sessions, numbers=SIZE, size=SIZE)
    for n in range(jobs.MAX_ATTEMPTS):
        dying = crew.start(f"w{n}", failpoint="chunk.before_commit", lease_s=1)
        assert dying.wait(60) == failpoints.EXIT_CODE
    crew.start("heir", lease_s=1)
    wait_for(lambda: _job(sessions, job).state == JobState.FAILED)
    ended = _job(sessions, job)
    assert ended.error_code == "chunk_abandoned"
    assert "its worker died" in (ended.error or "")


def test_a_worker_that_was_stopped_for_longer_than_its_lease_keeps_nothing(
    engine: Engine, sessions: Sessions, crew: Crew
) -> None:
    """Promise 15: SIGSTOP and SIGCONT: what wakes up late finds its chunk taken."""
    job = _start(sessions, numbers=SIZE, size=SIZE, seconds=0.3)
    sleeper = crew.start("sleeper")
    wait_for(lambda: _calls(engine)[0] > 1)
    sleeper.send_signal(signal.SIGSTOP)
    crew.start("heir")
    wait_for(lambda: _done(sessions, job))
    sleeper.send_signal(signal.SIGCONT)
    again = _start(sessions, numbers=0)
    wait_for(lambda: _done(sessions, again))
    assert written(engine) == list(range(SIZE))
    assert _job(sessions, job).done == SIZE


# ---------------------------------------------------------------- clocks


def _clock(offset: str) -> dict[str, str]:
    """The environment of a process whose clock is off; its durations are right.

    Debian's `faketime` names the library, which is loaded here without it: the process that is
    killed is then the worker itself.
    """
    faketime = shutil.which("faketime")
    if faketime is None:
        pytest.fail(
            "This check needs Debian's `faketime` and did NOT run: apt-get install -y faketime"
        )
    library = subprocess.run(
        [faketime, "-f", offset, "printenv", "LD_PRELOAD"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    environment = {
        "LD_PRELOAD": library,
        "FAKETIME": offset,
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    shown = subprocess.run(
        [sys.executable, "-c", "import time; print(time.time())"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, **environment},
    ).stdout
    assert abs(float(shown) - time.time()) > 86_000, "faketime does not change the clock here"
    return environment


@pytest.mark.parametrize("offset", ["-1d", "+1d"])
def test_a_worker_whose_clock_is_a_day_off_neither_steals_nor_hoards(
    engine: Engine, sessions: Sessions, crew: Crew, offset: str
) -> None:
    """Promise 32: leases by the database's clock; no double run, no negative time left."""
    numbers = 120
    job = _start(sessions, numbers=numbers, size=SIZE, seconds=0.02)
    crew.start("right")
    crew.start("wrong", **_clock(offset))
    etas, leases = [], []
    while not _done(sessions, job):
        now = _job(sessions, job)
        etas += [value for value in (now.rate, now.eta_s) if value is not None]
        with engine.connect() as connection:
            leases += connection.scalars(
                text(
                    "SELECT extract(epoch FROM lease_until - clock_timestamp()) FROM job_chunk"
                    " WHERE state = 'running'"
                )
            ).all()
        time.sleep(0.02)
    assert etas
    assert min(etas) >= 0
    assert max(leases) <= LEASE_S + 0.01
    assert written(engine) == list(range(numbers))
    assert _calls(engine) == (numbers, numbers)
    with engine.connect() as connection:
        workers = set(connection.scalars(text("SELECT DISTINCT worker FROM toy_call")))
        ages = connection.scalars(
            text("SELECT extract(epoch FROM clock_timestamp() - finished_at) FROM job_chunk")
        ).all()
    assert workers == {"right", "wrong"}
    assert all(0 <= age < 600 for age in ages)


def test_a_dead_worker_with_a_wrong_clock_is_taken_over_in_time(
    engine: Engine, sessions: Sessions, crew: Crew
) -> None:
    """Promises 15 and 32: a lease given by a worker that lives a day ahead ends when it should."""
    job = _start(sessions, numbers=SIZE, size=SIZE)
    dying = crew.start("ahead", failpoint="chunk.before_commit", **_clock("+1d"))
    assert dying.wait(60) == failpoints.EXIT_CODE
    crew.start("heir")
    began = time.monotonic()
    wait_for(lambda: _done(sessions, job))
    assert time.monotonic() - began < 2 * LEASE_S + 2 * POLL_S + 1
    assert written(engine) == list(range(SIZE))


# ---------------------------------------------------------------- several workers


def test_four_processes_share_one_job_without_double_work_or_idle_gaps(
    engine: Engine, sessions: Sessions, crew: Crew
) -> None:
    """Four workers at one job: every number once, all of them busy from their start to the end."""
    numbers, size, seconds, poll_s = 400, 5, 0.04, 10.0
    for n in range(4):
        crew.start(f"w{n}", lease_s=10, poll_s=poll_s)
    job = _start(sessions, numbers=numbers, size=size, seconds=seconds)
    wait_for(lambda: _done(sessions, job), 60)
    assert _calls(engine) == (numbers, numbers)
    assert written(engine) == list(range(numbers))
    with engine.connect() as connection:
        rows = connection.execute(
            text(
                "SELECT worker, extract(epoch FROM started_at)::float8,"
                " extract(epoch FROM finished_at)::float8 FROM job_chunk WHERE stage = 'write'"
                " ORDER BY started_at"
            )
        ).all()
    assert len(rows) == numbers // size
    start, end = min(row[1] for row in rows), max(row[2] for row in rows)
    for name in ("w0", "w1", "w2", "w3"):
        mine = [(began, ended) for worker, began, ended in rows if worker == name]
        # Each does its share, up to what a busy machine shifts between them.
        assert len(mine) > len(rows) / 8
        # One is woken, which wakes the next: nobody waits to look by itself.
        assert mine[0][0] - start < poll_s / 5
        gaps = [later[0] - earlier[1] for earlier, later in itertools.pairwise(mine)]
        assert min(gaps) >= 0, "a worker did two chunks at once"
        assert max(gaps) < poll_s / 10, gaps
    busy = sum(ended - began for _, began, ended in rows)
    assert busy / (4 * (end - start)) > 0.8


# ---------------------------------------------------------------- the database goes away


@pytest.fixture
def own_server() -> Iterator[Path]:
    """A data directory with a PostgreSQL of its own, which may be killed."""
    with tempfile.TemporaryDirectory(prefix="resight-worker-") as name:
        data_dir = Path(name)
        yield data_dir
        embedded.stop(data_dir)


def test_a_killed_database_delays_a_job_and_loses_nothing(own_server: Path) -> None:
    """Promises 4 and 16: PostgreSQL killed with -9 in the middle, twice; workers go on by
    themselves, without being started again."""
    url = embedded.start(own_server).url
    engine = make_engine(url)
    migrate.upgrade(engine)
    make_table(engine)
    sessions = make_sessions(engine)
    numbers = 300
    crew = Crew(url)
    try:
        job = _start(sessions, numbers=numbers, size=SIZE, seconds=0.02)
        for n in range(2):
            crew.start(f"w{n}", lease_s=10)
        for at in (60, 160):
            wait_for(lambda at=at: _calls(engine)[1] > at)  # type: ignore[misc]
            _kill_postgres(own_server)
            engine.dispose()
            assert embedded.start(own_server).url == url
        wait_for(lambda: _quietly_done(sessions, job), 120)
        assert [process.poll() for process in crew.processes] == [None, None]
        assert written(engine) == list(range(numbers))
        calls, different = _calls(engine)
        assert different == numbers
        assert calls <= numbers + 2 * 2 * SIZE
    finally:
        crew.end()
        engine.dispose()


def _quietly_done(sessions: Sessions, job: JobRow) -> bool:
    try:
        return _done(sessions, job)
    except OperationalError:
        return False


def _kill_postgres(data_dir: Path) -> None:
    pid = int((data_dir / "postgres" / "postmaster.pid").read_text().splitlines()[0])
    os.kill(pid, signal.SIGKILL)
