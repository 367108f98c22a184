"""Jobs: ask for one, look, pause, resume, cancel, retry. Doing them is in `db.queries.chunks`."""

from __future__ import annotations

import json
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from db.errors import Conflict, translated
from db.queries.chunks import add_chunks as add_chunks
from db.queries.chunks import advance_job as advance_job
from db.queries.chunks import claim_chunk as claim_chunk
from db.queries.chunks import claim_planning as claim_planning
from db.queries.chunks import end_job as end_job
from db.queries.chunks import finish_chunk as finish_chunk
from db.queries.chunks import hold_chunk as hold_chunk
from db.queries.chunks import note_trouble as note_trouble
from db.queries.chunks import put_result as put_result
from db.queries.chunks import release_chunk as release_chunk
from db.queries.chunks import renew as renew
from db.queries.chunks import settle as settle
from db.queries.job_rows import ENDED as ENDED
from db.queries.job_rows import MAX_ATTEMPTS as MAX_ATTEMPTS
from db.queries.job_rows import OPEN
from db.queries.job_rows import QUEUE as QUEUE
from db.queries.job_rows import RETRY as RETRY
from db.queries.job_rows import RETRY_ITEMS as RETRY_ITEMS
from db.queries.job_rows import WAKE_TASK as WAKE_TASK
from db.queries.job_rows import ChunkRow as ChunkRow
from db.queries.job_rows import ChunkSpec as ChunkSpec
from db.queries.job_rows import FailureRow as FailureRow
from db.queries.job_rows import ItemFailure as ItemFailure
from db.queries.job_rows import JobRow as JobRow
from db.queries.job_rows import Json as Json
from db.queries.job_rows import failures as failures
from db.queries.job_rows import get_job as get_job
from db.queries.job_rows import list_jobs as list_jobs
from db.queries.job_rows import wake as wake
from db.types import JobKind, JobState


def create_job(
    session: Session,
    *,
    kind: JobKind,
    params: Json,
    principal: str,
    exclusive_key: str | None = None,
    total: int | None = None,
) -> JobRow:
    """A new queued job; workers are woken when the transaction commits.

    Raises:
        Conflict: `job_running`, an open job has this key; its id is `values["job_id"]`.
    """
    made = None
    while made is None:
        with translated():
            made = session.scalar(
                text(
                    "INSERT INTO job (kind, state, params, requested_by, exclusive_key, total)"
                    " VALUES (:kind, 'queued', cast(:params AS jsonb), :principal, :key, :total)"
                    f" ON CONFLICT (exclusive_key) WHERE {OPEN} DO NOTHING RETURNING id"
                ),
                {
                    "kind": str(JobKind(kind)),
                    "params": json.dumps(params),
                    "principal": principal,
                    "key": exclusive_key,
                    "total": total,
                },
            )
        if made is None:
            # Nothing is found where the other job has ended since: then it is our turn.
            _refuse_second(session, exclusive_key)
    wake(session)
    return get_job(session, made)


def _refuse_second(session: Session, exclusive_key: str | None) -> None:
    other = session.scalar(
        text(f"SELECT id FROM job WHERE exclusive_key = :key AND {OPEN}"), {"key": exclusive_key}
    )
    if other is not None:
        raise Conflict(
            "job_running",
            f"The job {other} does this already; watch it with `resight jobs watch {other}`, or "
            "cancel it first.",
            job_id=str(other),
            exclusive_key=exclusive_key,
        )


def pause(session: Session, job_id: UUID, principal: str) -> JobRow:
    """Stop a job until it is resumed, by `principal` or an admin; its workers stop within a chunk.

    Raises:
        NotFound: no job has this id.
        Conflict: `job_ended`, `job_cancelling`, or `job_paused` by someone else.
    """
    job = _locked(session, job_id)
    if job.state == JobState.PAUSED:
        if job.paused_by == principal:
            return job
        raise _paused_by_other(job)
    if job.state not in (JobState.QUEUED, JobState.RUNNING):
        raise _not_possible(job, "paused")
    session.execute(
        text("UPDATE job SET state = 'paused', paused_by = :by WHERE id = :id"),
        {"id": job_id, "by": principal},
    )
    return get_job(session, job_id)


def resume(session: Session, job_id: UUID, principal: str, *, admin: bool) -> JobRow:
    """Let a paused job go on, or one that was cancelled, with what it has not done yet.

    A pause is ended only by who made it, or an admin. A job that is running is left as it is.

    Raises:
        NotFound: no job has this id.
        Conflict: `paused_by_other`, `job_ended` or `job_cancelling`; `job_running` where another
            job has taken the cancelled one's place.
    """
    job = _locked(session, job_id)
    if job.state in (JobState.QUEUED, JobState.RUNNING):
        return job
    if job.state == JobState.PAUSED:
        if not admin and job.paused_by != principal:
            raise _paused_by_other(job)
    elif job.state != JobState.CANCELLED:
        raise _not_possible(job, "resumed")
    return _reopen(session, job)


def cancel(session: Session, job_id: UUID, principal: str) -> JobRow:
    """Stop a job: at once where nobody works on it, else when its chunks under way are ended
    (`cancelling` until then). What is done stays; `resume` goes on from there.

    Raises:
        NotFound: no job has this id.
        Conflict: `job_ended`, it is done or has failed.
    """
    job = _locked(session, job_id)
    if job.state in (JobState.CANCELLING, JobState.CANCELLED):
        return job
    if job.ended:
        raise _not_possible(job, "cancelled")
    session.execute(
        text(
            "UPDATE job SET state = 'cancelling', cancelled_by = :by, paused_by = NULL"
            " WHERE id = :id"
        ),
        {"id": job_id, "by": principal},
    )
    session.execute(
        text("UPDATE job_chunk SET state = 'cancelled' WHERE job_id = :id AND state = 'queued'"),
        {"id": job_id},
    )
    settle(session)
    return get_job(session, job_id)


def retry_failed(session: Session, job_id: UUID, principal: str) -> JobRow:
    """Do the failed items of an ended job again, and the chunks that failed it; nothing else. A
    cancelled job is resumed.

    Raises:
        NotFound: no job has this id.
        Conflict: `job_not_ended`; `nothing_failed`; `job_running` where another job has taken
            its place.
    """
    job = _locked(session, job_id)
    if job.state == JobState.CANCELLED:
        return resume(session, job_id, principal, admin=True)
    if job.state not in (JobState.DONE, JobState.FAILED):
        raise Conflict(
            "job_not_ended",
            f"The job is {job.state}; what failed can be retried when it has ended.",
            job_id=str(job_id),
            state=str(job.state),
        )
    if job.state == JobState.DONE and not job.failed:
        raise Conflict(
            "nothing_failed",
            "No item of this job failed; there is nothing to retry.",
            job_id=str(job_id),
        )
    failed = session.execute(
        text("SELECT stage, item FROM job_failure WHERE job_id = :id ORDER BY id"), {"id": job_id}
    ).all()
    specs: list[ChunkSpec] = []
    for stage in dict.fromkeys(stage for stage, _ in failed):
        items = [item for of_stage, item in failed if of_stage == stage]
        for first in range(0, len(items), RETRY_ITEMS):
            part = items[first : first + RETRY_ITEMS]
            specs.append(ChunkSpec(stage, {RETRY: part}, len(part)))
    reopened = _reopen(session, job)
    if specs:
        add_chunks(session, job_id, specs)
        advance_job(session, job_id, stage=specs[0].stage)
        return get_job(session, job_id)
    return reopened


def _locked(session: Session, job_id: UUID) -> JobRow:
    session.execute(text("SELECT FROM job WHERE id = :id FOR UPDATE"), {"id": job_id})
    return get_job(session, job_id)


def _reopen(session: Session, job: JobRow) -> JobRow:
    # Another open job with its key lets the unique index refuse; asking first gives the words.
    if job.ended and job.exclusive_key is not None:
        _refuse_second(session, job.exclusive_key)
    with translated():
        session.execute(
            text(
                "UPDATE job SET paused_by = NULL, cancelled_by = NULL, error = NULL,"
                " error_code = NULL, finished_at = NULL,"
                " state = CASE WHEN started_at IS NULL THEN 'queued' ELSE 'running' END"
                " WHERE id = :id"
            ),
            {"id": job.id},
        )
        session.execute(
            text(
                "UPDATE job_chunk SET state = 'queued', attempts = 0, error = NULL"
                " WHERE job_id = :id AND state = 'cancelled'"
            ),
            {"id": job.id},
        )
        session.execute(
            text(
                "UPDATE reindex_run SET ended_at = NULL,"
                " state = coalesce((SELECT stage FROM job WHERE job.id = :id), 'requested')"
                " WHERE id = :id AND state IN ('cancelled', 'failed')"
            ),
            {"id": job.id},
        )
    wake(session)
    return get_job(session, job.id)


def _paused_by_other(job: JobRow) -> Conflict:
    return Conflict(
        "paused_by_other",
        f"{job.paused_by} paused this job; let that person or an admin resume it.",
        paused_by=job.paused_by,
        job_id=str(job.id),
    )


def _not_possible(job: JobRow, wanted: str) -> Conflict:
    if job.state == JobState.CANCELLING:
        return Conflict(
            "job_cancelling",
            f"The job is being cancelled and cannot be {wanted}; wait until it is cancelled.",
            job_id=str(job.id),
            state=str(job.state),
        )
    return Conflict(
        "job_ended",
        f"The job is {job.state} and cannot be {wanted}; start a new one, or retry what failed.",
        job_id=str(job.id),
        state=str(job.state),
    )
