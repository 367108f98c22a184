"""The job engine: stages, failures that stay alone, giving up in time, taking over, being woken."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID

import psycopg
import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session, sessionmaker

from db.queries import jobs
from db.queries.jobs import ChunkSpec, ItemFailure, JobRow
from db.types import JobKind, JobState
from indexer.failpoints import failpoint
from indexer.jobs import (
    ChunkContext,
    JobFailed,
    JobRunner,
    LostChunk,
    Plan,
    Unable,
    start_job,
)
from indexer.waker import Waker, prune
from tests.toy_jobs import ToyHandler, make_table, wait_for, written

Sessions = sessionmaker[Session]


@pytest.fixture
def sessions(engine: Engine, sessions: Sessions) -> Sessions:
    make_table(engine)
    return sessions


def _start(sessions: Sessions, **params: object) -> JobRow:
    return start_job(sessions, kind=JobKind.EVALUATE, params=params, principal="anna")


def _job(sessions: Sessions, job_id: UUID) -> JobRow:
    with sessions() as session:
        return jobs.get_job(session, job_id)


def _runner(sessions: Sessions, handler: object | None = None, **options: object) -> JobRunner:
    return JobRunner(
        sessions,
        [handler or ToyHandler()],  # type: ignore[list-item]
        worker="w",
        **options,  # type: ignore[arg-type]
    )


@contextlib.contextmanager
def _running(runner: JobRunner) -> Iterator[threading.Event]:
    """The runner in a thread; what it raises is raised here."""
    stop = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        ended = pool.submit(runner.run, stop)
        try:
            yield stop
        finally:
            stop.set()
            runner.wake()
            ended.result(30)


def test_a_job_goes_through_its_stages_and_ends_with_a_result(
    engine: Engine, sessions: Sessions
) -> None:
    job = _start(sessions, numbers=10)
    handler = ToyHandler()
    _runner(sessions, handler).run_until_idle()
    ended = _job(sessions, job.id)
    assert (ended.state, ended.stage, ended.result) == (JobState.DONE, "sum", {"sum": 45})
    assert (ended.total, ended.done, ended.failed) == (10, 10, 0)
    assert ended.started_at is not None
    assert ended.finished_at is not None
    assert handler.planned == [None, "write", "sum"]
    assert written(engine) == list(range(10))


def test_a_job_with_nothing_to_do_is_done_at_once(sessions: Sessions) -> None:
    """Promise 30: "nothing to do" is an answer of its own."""
    job = _start(sessions, numbers=0)
    handler = ToyHandler()
    _runner(sessions, handler).run_until_idle()
    assert _job(sessions, job.id).result == {"sum": 0}
    assert not handler.begun.is_set()


def test_one_poison_item_fails_alone_and_retry_touches_only_it(
    engine: Engine, sessions: Sessions
) -> None:
    """Promise 29: done with 1 failure, then "retry failed" does that one alone."""
    job = _start(sessions, numbers=10, poison=[5])
    _runner(sessions).run_until_idle()
    ended = _job(sessions, job.id)
    assert (ended.state, ended.done, ended.failed) == (JobState.DONE, 9, 1)
    with sessions.begin() as session:
        [failure] = jobs.failures(session, job.id).items
        assert (failure.item, failure.code, failure.detail) == ("5", "poison", "5 is poison")
        session.execute(text("UPDATE job SET params = params - 'poison'"))
        session.execute(text("TRUNCATE toy_call"))
        jobs.retry_failed(session, job.id, "anna")
    handler = ToyHandler()
    _runner(sessions, handler).run_until_idle()
    mended = _job(sessions, job.id)
    assert (mended.state, mended.done, mended.failed) == (JobState.DONE, 10, 0)
    assert handler.planned == ["write", "sum"]
    with sessions() as session:
        assert session.scalars(text("SELECT number FROM toy_call")).all() == [5]
    assert written(engine) == list(range(10))


def test_a_runner_that_is_told_to_stop_gives_its_chunk_back(
    engine: Engine, sessions: Sessions
) -> None:
    job = _start(sessions, numbers=4, seconds=0.2)
    handler = ToyHandler()
    with _running(_runner(sessions, handler)):
        assert handler.begun.wait(20)
    with sessions() as session:
        chunk = session.execute(text("SELECT state, attempts, worker FROM job_chunk")).one()
    assert chunk == ("queued", 0, None)
    assert _job(sessions, job.id).state == JobState.RUNNING
    _runner(sessions).run_until_idle()
    assert written(engine) == [0, 1, 2, 3]


def test_a_cancel_stops_within_one_chunk_and_what_is_done_stays_done(
    engine: Engine, sessions: Sessions
) -> None:
    """Promise 31: cancel stops within one chunk and leaves a resumable state."""
    job = _start(sessions, numbers=400, size=100, seconds=0.05)
    with _running(_runner(sessions)):
        wait_for(lambda: _job(sessions, job.id).done >= 3)
        with sessions.begin() as session:
            assert jobs.cancel(session, job.id, "anna").state == JobState.CANCELLING
        wait_for(lambda: _job(sessions, job.id).state == JobState.CANCELLED, 20)
    with sessions.begin() as session:
        calls = session.scalar(text("SELECT count(*) FROM toy_call"))
        assert calls is not None
        assert calls < 100
        session.execute(text("UPDATE job SET params = params || '{\"seconds\": 0}'"))
        jobs.resume(session, job.id, "anna", admin=False)
    _runner(sessions).run_until_idle()
    assert _job(sessions, job.id).state == JobState.DONE
    assert written(engine) == list(range(400))


def test_a_pause_survives_restarts_until_its_owner_resumes(
    engine: Engine, sessions: Sessions
) -> None:
    """Promise 31: a pause survives a restart of the workers."""
    job = _start(sessions, numbers=200, size=20, seconds=0.02)
    handler = ToyHandler()
    with _running(_runner(sessions, handler)):
        assert handler.begun.wait(20)
        with sessions.begin() as session:
            jobs.pause(session, job.id, "anna")
        wait_for(lambda: not _busy(sessions))
    for _ in range(2):
        _runner(sessions).run_until_idle()
    paused = _job(sessions, job.id)
    assert (paused.state, paused.paused_by) == (JobState.PAUSED, "anna")
    assert paused.done < 200
    with sessions.begin() as session:
        session.execute(text("UPDATE job SET params = params || '{\"seconds\": 0}'"))
        jobs.resume(session, job.id, "anna", admin=False)
    _runner(sessions).run_until_idle()
    assert _job(sessions, job.id).state == JobState.DONE
    assert written(engine) == list(range(200))


def _busy(sessions: Sessions) -> bool:
    with sessions() as session:
        return bool(session.scalar(text("SELECT count(*) FROM job_chunk WHERE state = 'running'")))


class _Refusing(ToyHandler):
    """Raises an error that was given, so many times."""

    def __init__(self, error: Exception, times: int = 1000) -> None:
        super().__init__()
        self.error, self.times = error, times

    def work(self, chunk: ChunkContext) -> None:
        if self.times > 0:
            self.times -= 1
            raise self.error
        super().work(chunk)


def test_a_chunk_that_raises_is_tried_again(engine: Engine, sessions: Sessions) -> None:
    job = _start(sessions, numbers=4)
    refusing = _Refusing(ValueError("the disk is full"), times=jobs.MAX_ATTEMPTS - 1)
    _runner(sessions, refusing).run_until_idle()
    assert _job(sessions, job.id).state == JobState.DONE
    assert written(engine) == [0, 1, 2, 3]


def test_a_chunk_that_always_raises_fails_its_job_with_the_reason(sessions: Sessions) -> None:
    job = _start(sessions, numbers=4)
    refusing = _Refusing(ValueError("the disk is full"))
    _runner(sessions, refusing).run_until_idle()
    ended = _job(sessions, job.id)
    assert (ended.state, ended.error_code) == (JobState.FAILED, "chunk_failed")
    assert ended.error == "ValueError: the disk is full"
    assert refusing.times == 1000 - jobs.MAX_ATTEMPTS


def test_a_handler_may_fail_its_job_at_once(sessions: Sessions) -> None:
    job = _start(sessions, numbers=4)
    refusing = _Refusing(JobFailed("model_broken", "The model fails on every photo."))
    _runner(sessions, refusing).run_until_idle()
    ended = _job(sessions, job.id)
    assert (ended.state, ended.error_code) == (JobState.FAILED, "model_broken")
    assert refusing.times == 999


def test_a_worker_that_lacks_the_means_leaves_the_job_to_another(
    engine: Engine, sessions: Sessions
) -> None:
    job = _start(sessions, numbers=4)
    lacking = _Refusing(Unable("not_installed", "The bundle is not installed here."))
    _runner(sessions, lacking).run_until_idle()
    waiting = _job(sessions, job.id)
    assert (waiting.state, waiting.error_code) == (JobState.RUNNING, "not_installed")
    assert lacking.times == 999
    _runner(sessions).run_until_idle()
    ended = _job(sessions, job.id)
    assert (ended.state, ended.error) == (JobState.DONE, None)
    assert written(engine) == [0, 1, 2, 3]


def test_a_plan_that_raises_fails_the_job(sessions: Sessions) -> None:
    job = _start(sessions)
    _runner(sessions).run_until_idle()
    ended = _job(sessions, job.id)
    assert (ended.state, ended.error_code) == (JobState.FAILED, "plan_failed")
    assert "numbers" in (ended.error or "")


def test_a_plan_without_chunks_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="plan the one after it, or the end"):
        Plan.next_stage("write", [])


def test_a_handler_that_forgets_to_commit_is_found_out(sessions: Sessions) -> None:
    class Forgetful(ToyHandler):
        def work(self, chunk: ChunkContext) -> None:
            return

    job = _start(sessions, numbers=4)
    _runner(sessions, Forgetful()).run_until_idle()
    assert "without a commit" in (_job(sessions, job.id).error or "")


def test_a_small_job_does_not_wait_for_the_end_of_a_large_one(sessions: Sessions) -> None:
    large = _start(sessions, numbers=400, size=4)
    runner = _runner(sessions)
    for _ in range(3):
        assert runner.run_one()
    small = start_job(
        sessions, kind=JobKind.EVALUATE, params={"numbers": 0, "size": 1}, principal="ben"
    )
    for _ in range(3):
        assert runner.run_one()
    assert _job(sessions, small.id).state == JobState.DONE
    assert _job(sessions, large.id).state == JobState.RUNNING


def test_what_a_worker_did_with_a_lost_lease_is_not_kept(
    engine: Engine, sessions: Sessions
) -> None:
    """Promise 15: a chunk is taken over when its lease ends, and counted once."""
    job = _start(sessions, numbers=4)
    with sessions.begin() as session:
        jobs.add_chunks(session, job.id, [ChunkSpec("write", {"first": 0, "last": 4}, 4)])
        jobs.advance_job(session, job.id, stage="write", total=4)
        slow = jobs.claim_chunk(session, worker="slow", lease_s=0.05)
    assert slow is not None
    runner = _runner(sessions)
    wait_for(runner.run_one)
    assert written(engine) == [0, 1, 2, 3]

    # Never leased: as a process that was stopped for longer than its lease.
    late = ChunkContext(sessions, job, slow, threading.Event(), 0.05)

    def write(session: Session) -> list[ItemFailure]:
        session.execute(text("INSERT INTO toy VALUES (99)"))
        return []

    with pytest.raises(LostChunk):
        late.commit(write, 4)
    runner.run_until_idle()
    assert written(engine) == [0, 1, 2, 3]
    assert _job(sessions, job.id).done == 4


def test_a_lease_is_renewed_as_long_as_the_work_takes(engine: Engine, sessions: Sessions) -> None:
    job = _start(sessions, numbers=4, seconds=0.4)
    rival = _runner(sessions)
    with _running(_runner(sessions, lease_s=0.6)):
        while not _job(sessions, job.id).ended:
            rival.run_one() if not _busy(sessions) else time.sleep(0.02)
            with sessions() as session:
                most = session.scalar(text("SELECT max(attempts) FROM job_chunk"))
            assert most in (None, 0, 1)
    assert written(engine) == [0, 1, 2, 3]


def test_a_commit_is_repeated_when_the_database_went_away_in_the_middle(
    engine: Engine, sessions: Sessions
) -> None:
    """Promise 4: an outage at the commit neither loses nor doubles a chunk."""
    job = _start(sessions, numbers=4)

    class Interrupted(ToyHandler):
        def work(self, chunk: ChunkContext) -> None:
            commit, tries = chunk.commit, iter([True, False])

            def flaky(write: Callable[[Session], list[ItemFailure]], done: int) -> None:
                def once(session: Session) -> list[ItemFailure]:
                    failures = write(session)
                    if next(tries, False):
                        session.connection().execute(
                            text("SELECT pg_terminate_backend(pg_backend_pid())")
                        )
                    return failures

                commit(once, done)

            chunk.commit = flaky  # type: ignore[assignment,method-assign]
            super().work(chunk)

    _runner(sessions, Interrupted()).run_until_idle()
    assert _job(sessions, job.id).state == JobState.DONE
    assert written(engine) == [0, 1, 2, 3]


def test_a_commit_that_is_repeated_after_it_succeeded_changes_nothing(
    engine: Engine, sessions: Sessions
) -> None:
    job = _start(sessions, numbers=4)
    with sessions.begin() as session:
        jobs.add_chunks(session, job.id, [ChunkSpec("write", {}, 4)])
        jobs.advance_job(session, job.id, stage="write", total=4)
        row = jobs.claim_chunk(session, worker="w", lease_s=30)
    assert row is not None
    chunk = ChunkContext(sessions, job, row, threading.Event(), 30)

    def write(session: Session) -> list[ItemFailure]:
        session.execute(text("INSERT INTO toy VALUES (1)"))
        return []

    chunk.commit(write, 4)
    chunk.commit(write, 4)
    assert written(engine) == [1]
    assert _job(sessions, job.id).done == 4


def test_four_runners_share_one_job_without_doing_anything_twice(
    engine: Engine, sessions: Sessions
) -> None:
    job = _start(sessions, numbers=200, size=5)
    runners = [_runner(sessions, ToyHandler(f"w{n}"), poll_s=0.05) for n in range(4)]
    with contextlib.ExitStack() as stack:
        for runner in runners:
            stack.enter_context(_running(runner))
        wait_for(lambda: _job(sessions, job.id).ended)
    assert _job(sessions, job.id).state == JobState.DONE
    with sessions() as session:
        calls = session.execute(text("SELECT count(*), count(DISTINCT number) FROM toy_call")).one()
    assert calls == (200, 200)
    assert written(engine) == list(range(200))


def test_ticks_come_when_there_is_no_job_to_do(sessions: Sessions) -> None:
    job = _start(sessions, numbers=8)
    states: list[JobState] = []

    def tick(stopping: Callable[[], bool]) -> bool:
        assert not stopping()
        states.append(_job(sessions, job.id).state)
        return len(states) < 3

    _runner(sessions, ticks=[tick]).run_until_idle()
    assert states == [JobState.DONE] * 3


def test_an_outage_ends_no_runner_and_the_database_is_revived(sessions: Sessions) -> None:
    revived = threading.Event()
    calls = iter([OperationalError("SELECT", {}, psycopg.OperationalError("gone"))])

    def tick(stopping: Callable[[], bool]) -> bool:
        for error in calls:
            raise error
        return False

    with _running(_runner(sessions, ticks=[tick], revive=revived.set)):
        assert revived.wait(20)
        job = _start(sessions, numbers=4)
        wait_for(lambda: _job(sessions, job.id).state == JobState.DONE)


def test_an_outage_in_the_middle_is_shown_on_the_job_and_counts_as_no_attempt(
    engine: Engine, sessions: Sessions
) -> None:
    gone = OperationalError("SELECT", {}, psycopg.OperationalError("out of shared memory"))
    refusing = _Refusing(gone, times=jobs.MAX_ATTEMPTS + 2)
    job = _start(sessions, numbers=4)
    shown: set[str | None] = set()

    runner = _runner(sessions, refusing, revive=lambda: shown.add(_error(sessions)))
    with _running(runner):
        wait_for(lambda: _job(sessions, job.id).ended)
    assert _job(sessions, job.id).error is None
    assert _job(sessions, job.id).state == JobState.DONE
    assert any("out of shared memory" in (error or "") for error in shown)
    assert written(engine) == [0, 1, 2, 3]


def _error(sessions: Sessions) -> str | None:
    with sessions() as session:
        return jobs.list_jobs(session).items[0].error


# ---------------------------------------------------------------- being woken


def _listening(engine: Engine) -> list[int]:
    with engine.connect() as connection:
        return list(
            connection.scalars(
                text(
                    "SELECT pid FROM pg_stat_activity WHERE datname = current_database()"
                    " AND application_name = 'resight waker' AND query LIKE 'LISTEN%'"
                )
            )
        )


@contextlib.contextmanager
def _woken(engine: Engine, runner: JobRunner, *, poll_s: float) -> Iterator[None]:
    waker = Waker(engine, runner, poll_s=poll_s)
    waker.start()
    try:
        wait_for(lambda: len(_listening(engine)) == 1)
        yield
    finally:
        waker.stop()


def test_an_idle_worker_is_woken_long_before_it_would_look_again(
    engine: Engine, sessions: Sessions
) -> None:
    runner = _runner(sessions, poll_s=600)
    with _woken(engine, runner, poll_s=600), _running(runner):
        for _ in range(3):
            job = _start(sessions, numbers=4)
            wait_for(lambda job=job: _job(sessions, job.id).ended, 20)  # type: ignore[misc]
            with sessions.begin() as session:
                session.execute(text("TRUNCATE toy"))


def test_a_lost_listen_connection_delays_a_job_by_the_poll_interval_at_most(
    engine: Engine, sessions: Sessions
) -> None:
    """Promise 16: `pg_terminate_backend` on the listener; jobs go on, and it listens again."""
    poll_s = 1.0
    runner = _runner(sessions, poll_s=poll_s)
    with _woken(engine, runner, poll_s=poll_s), _running(runner):
        [listener] = _listening(engine)
        with engine.begin() as connection:
            connection.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": listener})
        wait_for(lambda: listener not in _listening(engine))
        job = _start(sessions, numbers=4)
        wait_for(lambda: _job(sessions, job.id).started_at is not None)
        begun = _job(sessions, job.id)
        assert begun.started_at is not None
        # Half a second for a busy machine; the promise is about the poll interval.
        assert (begun.started_at - begun.created_at).total_seconds() < poll_s + 0.5
        wait_for(lambda: len(_listening(engine)) == 1)
        assert _listening(engine) != [listener]


def test_rows_that_killed_workers_left_behind_are_pruned(
    engine: Engine, sessions: Sessions
) -> None:
    _start(sessions, numbers=4)
    with engine.begin() as connection:
        connection.execute(text("UPDATE procrastinate_jobs SET status = 'doing'"))
    _start(sessions, numbers=4)
    assert prune(engine) == 1
    assert prune(engine) == 0


def test_an_unlisted_failpoint_is_refused() -> None:
    with pytest.raises(ValueError, match="not listed"):
        failpoint("nowhere")
