"""Jobs in the database: states, leases by its clock, fencing, owners of a pause, exclusive keys."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session, sessionmaker

from db.errors import Conflict, NotFound
from db.queries import jobs
from db.queries.jobs import ChunkRow, ChunkSpec, ItemFailure, JobRow
from db.types import ChunkState, JobKind, JobState

Sessions = sessionmaker[Session]


def _job(session: Session, chunks: int = 2, items: int = 4, key: str | None = None) -> JobRow:
    """A job at the stage "work", with chunks of some items each."""
    job = jobs.create_job(
        session,
        kind=JobKind.EMBED_MISSING,
        params={"model": 1},
        principal="anna",
        exclusive_key=key,
    )
    jobs.add_chunks(session, job.id, [ChunkSpec("work", {"part": n}, items) for n in range(chunks)])
    jobs.advance_job(session, job.id, stage="work", total=chunks * items)
    return jobs.get_job(session, job.id)


def _claim(session: Session, worker: str = "w1", lease_s: float = 30) -> ChunkRow:
    chunk = jobs.claim_chunk(session, worker=worker, lease_s=lease_s)
    assert chunk is not None
    return chunk


def _expire(session: Session, chunk: ChunkRow) -> None:
    session.execute(
        text(
            "UPDATE job_chunk SET lease_until = clock_timestamp() - interval '1 second'"
            " WHERE job_id = :job AND number = :number"
        ),
        {"job": chunk.job_id, "number": chunk.number},
    )


def _finish_all(session: Session, failures: list[ItemFailure] | None = None) -> None:
    while (chunk := jobs.claim_chunk(session, worker="w1", lease_s=30)) is not None:
        bad = failures or []
        assert jobs.finish_chunk(session, chunk, done=chunk.items - len(bad), failures=bad)
        failures = None


def test_a_new_job_is_queued_and_remembers_who_asked(session: Session) -> None:
    job = jobs.create_job(
        session, kind=JobKind.EVALUATE, params={"k": 5}, principal="anna", total=7
    )
    assert (job.state, job.requested_by, job.params) == (JobState.QUEUED, "anna", {"k": 5})
    assert (job.total, job.done, job.failed) == (7, 0, 0)
    assert job.rate is None
    assert job.eta_s is None
    assert not job.ended
    assert jobs.get_job(session, job.id) == job


def test_a_new_job_wakes_a_worker_in_the_same_transaction(sessions: Sessions) -> None:
    count = text("SELECT count(*) FROM procrastinate_jobs WHERE task_name = 'resight.wake'")
    with sessions() as session:
        _job(session)
        session.rollback()
        assert session.scalar(count) == 0
    with sessions.begin() as session:
        _job(session)
    with sessions() as session:
        assert session.scalar(count) == 1


def test_an_unknown_job_is_named_in_the_error(session: Session) -> None:
    unknown = uuid4()
    for ask in (jobs.get_job, jobs.failures):
        with pytest.raises(NotFound, match=str(unknown)):
            ask(session, unknown)


def test_of_five_starts_for_one_key_one_wins_and_the_rest_name_it(sessions: Sessions) -> None:
    """Promise 17: two starts for one slot: one wins, the other is told the running job."""
    barrier = threading.Barrier(5)

    def start(n: int) -> UUID | str:
        barrier.wait(10)
        try:
            with sessions.begin() as session:
                return _job(session, key="reindex:identify.photo").id
        except Conflict as refused:
            return str(refused.values["job_id"])

    with ThreadPoolExecutor(5) as pool:
        answers = list(pool.map(start, range(5)))
    [winner] = [answer for answer in answers if isinstance(answer, UUID)]
    assert [answer for answer in answers if isinstance(answer, str)] == [str(winner)] * 4
    with sessions() as session:
        assert len(jobs.list_jobs(session).items) == 1


def test_other_keys_and_ended_jobs_do_not_stand_in_the_way(session: Session) -> None:
    """Promise 18: jobs of different slots may overlap."""
    first = _job(session, key="reindex:a")
    _job(session, key="reindex:b")
    _job(session)
    _job(session)
    jobs.end_job(session, first.id, JobState.DONE)
    second = _job(session, key="reindex:a")
    with pytest.raises(Conflict, match=str(second.id)):
        _job(session, key="reindex:a")


def test_chunks_are_claimed_in_order_each_once(session: Session) -> None:
    job = _job(session, chunks=3)
    claimed = [_claim(session, f"w{n}") for n in range(3)]
    assert [chunk.number for chunk in claimed] == [0, 1, 2]
    assert [chunk.params for chunk in claimed] == [{"part": 0}, {"part": 1}, {"part": 2}]
    assert len({chunk.token for chunk in claimed}) == 3
    assert {chunk.job_id for chunk in claimed} == {job.id}
    assert jobs.claim_chunk(session, worker="w4", lease_s=30) is None
    assert jobs.get_job(session, job.id).state == JobState.RUNNING


def test_workers_that_claim_at_once_never_get_the_same_chunk(sessions: Sessions) -> None:
    with sessions.begin() as session:
        _job(session, chunks=40)

    def drain(worker: int) -> list[int]:
        mine = []
        while True:
            with sessions.begin() as session:
                chunk = jobs.claim_chunk(session, worker=f"w{worker}", lease_s=30)
                if chunk is None:
                    return mine
                assert jobs.finish_chunk(session, chunk, done=4)
            mine.append(chunk.number)

    with ThreadPoolExecutor(4) as pool:
        taken = [number for mine in pool.map(drain, range(4)) for number in mine]
    assert sorted(taken) == list(range(40))
    with sessions() as session:
        [job] = jobs.list_jobs(session).items
        assert job.done == 160


def test_a_worker_takes_turns_between_jobs(session: Session) -> None:
    first, second = _job(session, chunks=2), _job(session, chunks=2)
    turns, after = [], None
    for _ in range(4):
        chunk = jobs.claim_chunk(session, worker="w", lease_s=30, after=after)
        assert chunk is not None
        turns.append(chunk.job_id)
        after = chunk.job_id
    assert turns[0] != turns[1]
    assert turns[:2] == turns[2:]
    assert set(turns) == {first.id, second.id}


def test_only_the_kinds_a_worker_knows_are_claimed_and_planned(session: Session) -> None:
    _job(session)
    evaluate = jobs.create_job(session, kind=JobKind.EVALUATE, params={}, principal="anna")
    kinds = [JobKind.EVALUATE]
    assert jobs.claim_chunk(session, worker="w", lease_s=30, kinds=kinds) is None
    planned = jobs.claim_planning(session, kinds=kinds)
    assert planned is not None
    assert planned.id == evaluate.id
    assert jobs.claim_planning(session, kinds=[JobKind.EXPORT]) is None


def test_a_lease_that_expired_by_the_databases_clock_is_taken_over(session: Session) -> None:
    """Promise 15: a dead worker's chunk is taken over; a lease that holds is not."""
    _job(session, chunks=1)
    first = _claim(session, "dead")
    assert jobs.claim_chunk(session, worker="w2", lease_s=30) is None
    _expire(session, first)
    second = _claim(session, "w2")
    assert (second.number, second.attempts) == (first.number, 2)
    assert second.token != first.token


def test_a_worker_that_lost_its_lease_can_neither_renew_nor_finish(session: Session) -> None:
    job = _job(session, chunks=1)
    first = _claim(session, "slow")
    _expire(session, first)
    second = _claim(session, "w2")
    assert not jobs.renew(session, first, 30)
    assert jobs.hold_chunk(session, first) is None
    assert not jobs.finish_chunk(session, first, done=4)
    assert not jobs.release_chunk(session, first)
    assert jobs.finish_chunk(session, second, done=4)
    assert jobs.get_job(session, job.id).done == 4


def test_a_finished_chunk_knows_who_finished_it(session: Session) -> None:
    _job(session, chunks=1)
    chunk = _claim(session)
    assert jobs.hold_chunk(session, chunk) == ChunkState.RUNNING
    assert jobs.finish_chunk(session, chunk, done=4)
    assert jobs.hold_chunk(session, chunk) == ChunkState.DONE
    assert not jobs.finish_chunk(session, chunk, done=4)


def test_a_chunk_whose_workers_all_died_fails_its_job(session: Session) -> None:
    """Promise 15: never running for ever."""
    job = _job(session, chunks=1)
    for _ in range(jobs.MAX_ATTEMPTS):
        _expire(session, _claim(session))
    assert jobs.claim_chunk(session, worker="w", lease_s=30) is None
    jobs.settle(session)
    ended = jobs.get_job(session, job.id)
    assert (ended.state, ended.error_code) == (JobState.FAILED, "chunk_abandoned")
    assert ended.finished_at is not None
    again = jobs.retry_failed(session, job.id, "anna")
    assert (again.state, again.error, again.finished_at) == (JobState.RUNNING, None, None)
    assert _claim(session).attempts == 1


def test_an_error_counts_as_an_attempt_and_a_release_does_not(session: Session) -> None:
    job = _job(session, chunks=1)
    for _ in range(5):
        assert jobs.release_chunk(session, _claim(session))
    for attempt in range(1, jobs.MAX_ATTEMPTS + 1):
        chunk = _claim(session)
        assert chunk.attempts == attempt
        assert jobs.release_chunk(session, chunk, error="the disk is full")
    ended = jobs.get_job(session, job.id)
    assert (ended.state, ended.error) == (JobState.FAILED, "the disk is full")


def test_a_poison_item_fails_alone_and_retry_does_only_it(session: Session) -> None:
    """Promise 29: done with 1 failure; "retry failed" touches only that one."""
    job = _job(session, chunks=2)
    _finish_all(session, [ItemFailure("17", "truncated", "the file ends early")])
    planned = jobs.claim_planning(session)
    assert planned is not None
    jobs.end_job(session, planned.id, JobState.DONE, result={"embedded": 7})
    ended = jobs.get_job(session, job.id)
    assert (ended.state, ended.done, ended.failed) == (JobState.DONE, 7, 1)
    [failure] = jobs.failures(session, job.id).items
    assert (failure.item, failure.code, failure.attempts) == ("17", "truncated", 1)
    assert failure.stage == "work"

    again = jobs.retry_failed(session, job.id, "anna")
    assert (again.state, again.stage, again.total) == (JobState.RUNNING, "work", 8)
    chunk = _claim(session)
    assert (chunk.retry, chunk.items) == (("17",), 1)
    worse = [ItemFailure("17", "truncated", "it still ends early")]
    assert jobs.finish_chunk(session, chunk, done=0, failures=worse)
    [failure] = jobs.failures(session, job.id).items
    assert (failure.detail, failure.attempts) == ("it still ends early", 2)
    assert jobs.claim_chunk(session, worker="w", lease_s=30) is None

    jobs.end_job(session, job.id, JobState.DONE)
    jobs.retry_failed(session, job.id, "anna")
    assert jobs.finish_chunk(session, _claim(session), done=1)
    mended = jobs.get_job(session, job.id)
    assert (mended.done, mended.failed) == (8, 0)
    assert jobs.failures(session, job.id).items == ()
    jobs.end_job(session, job.id, JobState.DONE)
    with pytest.raises(Conflict, match="nothing to retry"):
        jobs.retry_failed(session, job.id, "anna")


def test_only_an_ended_job_is_retried(session: Session) -> None:
    job = _job(session)
    with pytest.raises(Conflict, match="when it has ended") as refused:
        jobs.retry_failed(session, job.id, "anna")
    assert refused.value.code == "job_not_ended"


def test_a_pause_stops_claims_and_belongs_to_who_paused(session: Session) -> None:
    """Promise 31: resumed only by its owner or an admin."""
    job = _job(session)
    chunk = _claim(session)
    paused = jobs.pause(session, job.id, "anna")
    assert (paused.state, paused.paused_by) == (JobState.PAUSED, "anna")
    assert not jobs.renew(session, chunk, 30)
    assert jobs.claim_chunk(session, worker="w2", lease_s=30) is None
    assert jobs.claim_planning(session) is None
    assert jobs.pause(session, job.id, "anna") == paused
    with pytest.raises(Conflict, match="anna paused this job") as refused:
        jobs.resume(session, job.id, "ben", admin=False)
    assert refused.value.values["paused_by"] == "anna"
    assert jobs.resume(session, job.id, "ben", admin=True).state == JobState.RUNNING
    jobs.pause(session, job.id, "anna")
    resumed = jobs.resume(session, job.id, "anna", admin=False)
    assert (resumed.state, resumed.paused_by) == (JobState.RUNNING, None)
    assert _claim(session).number == 1


def test_a_chunk_that_was_finished_before_its_worker_saw_the_pause_counts(
    session: Session,
) -> None:
    job = _job(session)
    chunk = _claim(session)
    jobs.pause(session, job.id, "anna")
    assert jobs.finish_chunk(session, chunk, done=4)
    assert jobs.get_job(session, job.id).done == 4


def test_a_job_that_nobody_works_on_is_cancelled_at_once(session: Session) -> None:
    queued = jobs.create_job(session, kind=JobKind.EXPORT, params={}, principal="anna")
    assert jobs.cancel(session, queued.id, "ben").state == JobState.CANCELLED
    paused = _job(session)
    jobs.pause(session, paused.id, "anna")
    cancelled = jobs.cancel(session, paused.id, "ben")
    assert (cancelled.state, cancelled.cancelled_by) == (JobState.CANCELLED, "ben")
    assert cancelled.finished_at is not None
    assert jobs.cancel(session, paused.id, "ben") == cancelled


def test_a_cancel_waits_for_the_chunk_under_way_and_leaves_the_rest_resumable(
    session: Session,
) -> None:
    """Promise 31: cancel stops within one chunk and leaves a resumable state."""
    job = _job(session, chunks=3)
    chunk = _claim(session)
    assert jobs.cancel(session, job.id, "anna").state == JobState.CANCELLING
    assert not jobs.renew(session, chunk, 30)
    assert jobs.claim_chunk(session, worker="w2", lease_s=30) is None
    jobs.settle(session)
    assert jobs.get_job(session, job.id).state == JobState.CANCELLING
    assert jobs.finish_chunk(session, chunk, done=4)
    jobs.settle(session)
    assert jobs.get_job(session, job.id).state == JobState.CANCELLED

    assert jobs.resume(session, job.id, "ben", admin=False).state == JobState.RUNNING
    assert [_claim(session).number for _ in range(2)] == [1, 2]
    assert jobs.get_job(session, job.id).done == 4


def test_a_cancel_ends_when_the_worker_of_the_chunk_is_dead(session: Session) -> None:
    """Promise 15: a cancelled job whose worker died ends with the lease."""
    job = _job(session)
    chunk = _claim(session)
    jobs.cancel(session, job.id, "anna")
    _expire(session, chunk)
    jobs.settle(session)
    assert jobs.get_job(session, job.id).state == JobState.CANCELLED
    assert jobs.hold_chunk(session, chunk) is None


def test_a_cancelled_job_is_not_resumed_beside_its_successor(session: Session) -> None:
    first = _job(session, key="reindex:a")
    jobs.cancel(session, first.id, "anna")
    second = _job(session, key="reindex:a")
    with pytest.raises(Conflict, match=str(second.id)):
        jobs.resume(session, first.id, "anna", admin=True)


def test_an_ended_job_is_neither_paused_resumed_nor_cancelled(session: Session) -> None:
    job = _job(session)
    jobs.end_job(session, job.id, JobState.DONE)
    for change in (
        lambda: jobs.pause(session, job.id, "anna"),
        lambda: jobs.resume(session, job.id, "anna", admin=True),
        lambda: jobs.cancel(session, job.id, "anna"),
    ):
        with pytest.raises(Conflict) as refused:
            change()
        assert refused.value.code == "job_ended"


def test_a_job_without_open_chunks_is_planned_by_one_worker(sessions: Sessions) -> None:
    with sessions.begin() as session:
        job = jobs.create_job(session, kind=JobKind.EVALUATE, params={}, principal="anna")
    with sessions() as one, sessions() as other:
        planned = jobs.claim_planning(one)
        assert planned is not None
        assert planned.id == job.id
        assert jobs.claim_planning(other) is None
        other.rollback()
        jobs.add_chunks(one, job.id, [ChunkSpec("work")])
        jobs.advance_job(one, job.id, stage="work")
        one.commit()
        assert jobs.claim_planning(other) is None


def test_progress_comes_from_the_database_and_is_never_negative(session: Session) -> None:
    """Promise 32: durations by the database's clock, no negative time left."""
    job = _job(session, chunks=4, items=10)
    assert jobs.get_job(session, job.id).rate is None
    for _ in range(2):
        chunk = _claim(session)
        session.execute(
            text(
                "UPDATE job_chunk SET started_at = clock_timestamp() - interval '5 seconds'"
                " WHERE number = :number"
            ),
            {"number": chunk.number},
        )
        assert jobs.finish_chunk(session, chunk, done=10)
    running = jobs.get_job(session, job.id)
    assert running.rate == pytest.approx(2, rel=0.05)
    assert running.eta_s == pytest.approx(10, rel=0.05)
    chunk = _claim(session, "w2")
    assert jobs.renew(session, chunk, 30, done=3)
    assert jobs.get_job(session, job.id).done == 23
    # A clock that was set back gives no rate rather than a negative one.
    session.execute(text("UPDATE job_chunk SET started_at = now() + interval '1 day'"))
    odd = jobs.get_job(session, job.id)
    assert odd.rate is None
    assert odd.eta_s is None
    jobs.end_job(session, job.id, JobState.DONE)
    assert jobs.get_job(session, job.id).rate is None


def test_jobs_are_listed_newest_first_in_pages(session: Session) -> None:
    made = []
    for n in range(5):
        job = _job(session)
        session.execute(
            text("UPDATE job SET created_at = now() + make_interval(secs => :n) WHERE id = :id"),
            {"n": n, "id": job.id},
        )
        made.append(job.id)
    jobs.end_job(session, made[0], JobState.DONE)
    first = jobs.list_jobs(session, limit=3)
    rest = jobs.list_jobs(session, limit=3, cursor=first.next_cursor)
    assert [row.id for row in first.items + rest.items] == made[::-1]
    assert rest.next_cursor is None
    done = jobs.list_jobs(session, states=[JobState.DONE])
    assert [row.id for row in done.items] == made[:1]
    assert jobs.list_jobs(session, kinds=[JobKind.EXPORT]).items == ()


def test_failures_are_listed_in_pages(session: Session) -> None:
    job = _job(session, chunks=1, items=5)
    bad = [ItemFailure(str(n), "truncated", f"photo {n}") for n in range(5)]
    assert jobs.finish_chunk(session, _claim(session), done=0, failures=bad)
    first = jobs.failures(session, job.id, limit=3)
    rest = jobs.failures(session, job.id, limit=3, cursor=first.next_cursor)
    assert [row.item for row in first.items + rest.items] == list("01234")
    assert jobs.get_job(session, job.id).failed == 5


def test_a_chunk_may_learn_its_items_while_it_is_done(session: Session) -> None:
    job = jobs.create_job(session, kind=JobKind.IMPORT, params={}, principal="anna")
    jobs.add_chunks(session, job.id, [ChunkSpec("import")])
    jobs.advance_job(session, job.id, stage="import")
    chunk = _claim(session)
    assert jobs.renew(session, chunk, 30, done=2, items=9)
    learned = jobs.get_job(session, job.id)
    assert (learned.total, learned.done) == (9, 2)
    bad = [ItemFailure("a.png", "truncated", "first"), ItemFailure("a.png", "truncated", "second")]
    assert jobs.finish_chunk(session, chunk, done=9, failures=bad, items=10)
    ended = jobs.get_job(session, job.id)
    assert (ended.total, ended.done, ended.failed) == (10, 9, 1)
    assert [row.detail for row in jobs.failures(session, job.id).items] == ["second"]
