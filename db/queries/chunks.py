"""Doing jobs: claim a chunk, lease it, finish it, give it back; plan and end a job.

All times are the database's, so that no worker's clock matters. Locks are taken in the order
chunk, job by who does a chunk, and job, chunk by who changes a job; the former skips what the
latter holds, so the two never wait for each other in a circle.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import RowMapping, text
from sqlalchemy.orm import Session

from db.errors import translated
from db.queries.job_rows import (
    MAX_ATTEMPTS,
    OPEN,
    WORKABLE,
    ChunkRow,
    ChunkSpec,
    ItemFailure,
    JobRow,
    Json,
    get_job,
)
from db.types import ChunkState, JobKind, JobState


def add_chunks(session: Session, job_id: UUID, specs: Sequence[ChunkSpec]) -> None:
    """Queue chunks behind those there are; the caller holds the job's row or has just made it."""
    with translated():
        session.execute(
            text(
                "INSERT INTO job_chunk (job_id, number, stage, params, items)"
                " SELECT :job, last.number + spec.position, spec.stage, spec.params, spec.items"
                " FROM (SELECT coalesce(max(number), -1) AS number FROM job_chunk"
                "  WHERE job_id = :job) last,"
                " unnest(cast(:stages AS text[]), cast(:params AS jsonb[]), cast(:items AS int[]))"
                "  WITH ORDINALITY spec(stage, params, items, position)"
            ),
            {
                "job": job_id,
                "stages": [spec.stage for spec in specs],
                "params": [json.dumps(spec.params) for spec in specs],
                "items": [spec.items for spec in specs],
            },
        )


def claim_chunk(
    session: Session,
    *,
    worker: str,
    lease_s: float,
    kinds: Sequence[JobKind] | None = None,
    skip: Sequence[UUID] = (),
    after: UUID | None = None,
) -> ChunkRow | None:
    """The next chunk to do, leased to `worker` under a token of its own; None if there is none.

    Only of jobs of these kinds, and of none of those to skip. Chunks whose lease has expired are
    taken over. `after` is the job this worker did last: the others come first, so that a small job
    does not wait for the end of a large one.
    """
    jobs = session.scalars(
        text(
            f"SELECT j.id FROM job j WHERE j.{WORKABLE} AND {_WANTED}"
            " AND EXISTS (SELECT FROM job_chunk c WHERE c.job_id = j.id AND c.state = 'queued'"
            "  OR c.job_id = j.id AND c.state = 'running' AND c.lease_until < clock_timestamp())"
            " ORDER BY j.id <= coalesce(:after, '00000000-0000-0000-0000-000000000000'::uuid), j.id"
        ),
        {"kinds": _kinds(kinds), "skip": list(skip), "after": after},
    ).all()
    for job_id in jobs:
        row = (
            session.execute(
                _CLAIM,
                {"job": job_id, "worker": worker, "lease": lease_s, "most": MAX_ATTEMPTS},
            )
            .mappings()
            .first()
        )
        if row is not None:
            session.execute(_BEGIN, {"id": job_id})
            return _chunk(row)
    return None


_WANTED = (
    "(cast(:kinds AS text[]) IS NULL OR j.kind = ANY(cast(:kinds AS text[])))"
    " AND NOT (j.id = ANY(cast(:skip AS uuid[])))"
)

# FOR KEY SHARE waits for nobody who only counts results, and skips a job that is being changed.
_CLAIM = text(
    "UPDATE job_chunk SET state = 'running', worker = :worker, token = gen_random_uuid(),"
    " lease_until = clock_timestamp() + make_interval(secs => :lease),"
    " attempts = job_chunk.attempts + 1, done = 0, started_at = clock_timestamp()"
    " FROM (SELECT c.job_id, c.number FROM job_chunk c JOIN job j ON j.id = c.job_id"
    f"  WHERE c.job_id = :job AND j.{WORKABLE} AND c.attempts < :most"
    "  AND (c.state = 'queued' OR c.state = 'running' AND c.lease_until < clock_timestamp())"
    "  ORDER BY c.number LIMIT 1"
    "  FOR UPDATE OF c SKIP LOCKED FOR KEY SHARE OF j SKIP LOCKED) free"
    " WHERE job_chunk.job_id = free.job_id AND job_chunk.number = free.number"
    " RETURNING job_chunk.*"
)
_BEGIN = text(
    "UPDATE job SET state = 'running', started_at = coalesce(started_at, clock_timestamp())"
    " WHERE id = :id AND state = 'queued'"
)


def _kinds(kinds: Sequence[JobKind] | None) -> list[str] | None:
    return None if kinds is None else [str(JobKind(kind)) for kind in kinds]


def _chunk(row: RowMapping) -> ChunkRow:
    return ChunkRow(
        job_id=row["job_id"],
        number=row["number"],
        stage=row["stage"],
        state=ChunkState(row["state"]),
        params=row["params"],
        items=row["items"],
        attempts=row["attempts"],
        worker=row["worker"],
        token=row["token"],
    )


_MINE = "job_id = :job AND number = :number AND token = :token"


def _key(chunk: ChunkRow) -> dict[str, object]:
    return {"job": chunk.job_id, "number": chunk.number, "token": chunk.token}


def renew(
    session: Session,
    chunk: ChunkRow,
    lease_s: float,
    *,
    done: int | None = None,
    items: int | None = None,
) -> bool:
    """Lengthen the lease; False to stop working: the chunk was taken over, or its job is paused,
    cancelled or ended.

    `done` tells how many items are done so far, `items` how many there are, where only the work
    itself found out.
    """
    state = session.scalar(
        text(
            "UPDATE job_chunk SET lease_until = clock_timestamp() + make_interval(secs => :lease),"
            " done = coalesce(cast(:done AS int), done)"
            f" WHERE {_MINE} AND state = 'running'"
            " RETURNING (SELECT j.state FROM job j WHERE j.id = job_chunk.job_id)"
        ),
        {**_key(chunk), "lease": lease_s, "done": done},
    )
    if state == JobState.RUNNING and items is not None:
        _count_items(session, chunk, items)
    return bool(state == JobState.RUNNING)


def _count_items(session: Session, chunk: ChunkRow, items: int) -> None:
    session.execute(
        text(
            "WITH counted AS (UPDATE job_chunk c SET items = :items FROM job_chunk before"
            "  WHERE c.job_id = :job AND c.number = :number AND c.token = :token"
            "  AND before.job_id = c.job_id AND before.number = c.number AND c.items <> :items"
            "  RETURNING :items - before.items AS more)"
            " UPDATE job SET total = coalesce(total, 0) + counted.more FROM counted"
            " WHERE job.id = :job"
        ),
        {**_key(chunk), "items": items},
    )


def hold_chunk(session: Session, chunk: ChunkRow) -> ChunkState | None:
    """Lock the claimed chunk until the transaction ends: `running` while the claim is good,
    `done` where this claim has finished it already, None where another has it."""
    state = session.scalar(
        text(f"SELECT state FROM job_chunk WHERE {_MINE} FOR UPDATE"), _key(chunk)
    )
    return None if state is None else ChunkState(state)


def finish_chunk(
    session: Session,
    chunk: ChunkRow,
    *,
    done: int,
    failures: Sequence[ItemFailure] = (),
    items: int | None = None,
) -> bool:
    """Mark the chunk done and count it into its job; False where the claim is no longer good:
    then the caller rolls back. Of several failures of one item the last counts. `items` is as for
    `renew`."""
    failures = list({failure.item: failure for failure in failures}.values())
    if items is not None:
        _count_items(session, chunk, items)
    finished = session.execute(
        text(
            "UPDATE job_chunk SET state = 'done', done = :done, failed = :failed,"
            " finished_at = clock_timestamp(), lease_until = NULL, error = NULL"
            f" WHERE {_MINE} AND state = 'running' RETURNING number"
        ),
        {**_key(chunk), "done": done, "failed": len(failures)},
    ).first()
    if finished is None:
        return False
    new_failures = _record_failures(session, chunk, failures)
    # Last, since every worker of the job waits here until the transaction ends.
    counted = session.execute(
        text(
            "UPDATE job SET done = done + :done, failed = greatest(failed + :failed, 0),"
            " error_code = NULL, error = NULL"
            " WHERE id = :job AND state IN ('running', 'paused', 'cancelling') RETURNING id"
        ),
        {"job": chunk.job_id, "done": done, "failed": new_failures},
    ).first()
    return counted is not None


def _record_failures(session: Session, chunk: ChunkRow, failures: Sequence[ItemFailure]) -> int:
    """How many more items of the job have failed now than before the chunk."""
    cleared = 0
    if chunk.retry is not None:
        good = sorted(set(chunk.retry) - {failure.item for failure in failures})
        cleared = len(
            session.execute(
                text(
                    "DELETE FROM job_failure WHERE job_id = :job AND item = ANY(:items)"
                    " RETURNING id"
                ),
                {"job": chunk.job_id, "items": good},
            ).all()
        )
    if not failures:
        return -cleared
    added = session.execute(
        text(
            "INSERT INTO job_failure (job_id, item, stage, code, detail)"
            " SELECT :job, f.item, :stage, f.code, f.detail"
            " FROM unnest(cast(:items AS text[]), cast(:codes AS text[]), cast(:details AS text[]))"
            "  f(item, code, detail)"
            " ON CONFLICT (job_id, item) DO UPDATE SET stage = excluded.stage,"
            "  code = excluded.code, detail = excluded.detail, at = now(),"
            "  attempts = job_failure.attempts + 1"
            " RETURNING xmax = 0"
        ),
        {
            "job": chunk.job_id,
            "stage": chunk.stage,
            "items": [failure.item for failure in failures],
            "codes": [failure.code for failure in failures],
            "details": [failure.detail.replace("\x00", "") for failure in failures],
        },
    ).scalars()
    return sum(bool(new) for new in added) - cleared


def release_chunk(session: Session, chunk: ChunkRow, *, error: str | None = None) -> bool:
    """Give an unfinished chunk back; False where it was taken over already.

    Without an error the attempt does not count. With one it does, and the last attempt fails the
    job with that error.
    """
    attempts = session.scalar(
        text(
            "UPDATE job_chunk SET state = 'queued', token = NULL, worker = NULL,"
            " lease_until = NULL, done = 0, error = coalesce(:error, error),"
            " attempts = attempts - CASE WHEN cast(:error AS text) IS NULL THEN 1 ELSE 0 END"
            f" WHERE {_MINE} AND state = 'running' RETURNING attempts"
        ),
        {**_key(chunk), "error": error},
    )
    if attempts is None:
        return False
    if error is not None and attempts >= MAX_ATTEMPTS:
        end_job(session, chunk.job_id, JobState.FAILED, error_code="chunk_failed", error=error)
    return True


def settle(session: Session) -> None:
    """End jobs whose end is due: cancelled ones that nobody works on any more, and those with a
    chunk whose every worker died."""
    due = session.execute(
        text(
            "SELECT j.id, j.state, dead.number FROM job j"
            " LEFT JOIN LATERAL (SELECT c.number FROM job_chunk c WHERE c.job_id = j.id"
            "  AND c.attempts >= :most AND (c.state = 'queued'"
            "  OR c.state = 'running' AND c.lease_until < clock_timestamp()) LIMIT 1) dead ON true"
            " WHERE j.state = 'cancelling' AND NOT EXISTS (SELECT FROM job_chunk c"
            "  WHERE c.job_id = j.id AND c.state = 'running'"
            "  AND c.lease_until >= clock_timestamp())"
            f" OR j.{WORKABLE} AND dead.number IS NOT NULL"
            " FOR UPDATE OF j SKIP LOCKED"
        ),
        {"most": MAX_ATTEMPTS},
    ).all()
    for job_id, state, number in due:
        if state == JobState.CANCELLING:
            end_job(session, job_id, JobState.CANCELLED)
        else:
            end_job(
                session,
                job_id,
                JobState.FAILED,
                error_code="chunk_abandoned",
                error=f"Chunk {number} was begun {MAX_ATTEMPTS} times, and each time its worker "
                "died. Look at the log of `resight worker`, then retry the job.",
            )


def claim_planning(
    session: Session, *, kinds: Sequence[JobKind] | None = None, skip: Sequence[UUID] = ()
) -> JobRow | None:
    """A queued or running job that has no chunk to do, its row locked until the transaction ends;
    None if there is none. It needs its next stage's chunks, or its end."""
    idle = (
        f"j.{WORKABLE} AND NOT EXISTS (SELECT FROM job_chunk c"
        f" WHERE c.job_id = j.id AND c.{WORKABLE})"
    )
    found = session.scalars(
        text(
            f"SELECT j.id FROM job j WHERE {idle} AND {_WANTED}"
            " ORDER BY j.created_at, j.id LIMIT 1 FOR UPDATE OF j SKIP LOCKED"
        ),
        {"kinds": _kinds(kinds), "skip": list(skip)},
    ).first()
    if found is None:
        return None
    # The lock may have come after another worker's plan: look again at what is there now.
    still = session.scalar(text(f"SELECT {idle} FROM job j WHERE j.id = :id"), {"id": found})
    return get_job(session, found) if still else None


def advance_job(session: Session, job_id: UUID, *, stage: str, total: int | None = None) -> None:
    """The job is running, at this stage; `total` items in all, where it is known now."""
    session.execute(
        text(
            "UPDATE job SET state = 'running', stage = :stage, total = coalesce(:total, total),"
            " started_at = coalesce(started_at, clock_timestamp()) WHERE id = :id"
        ),
        {"id": job_id, "stage": stage, "total": total},
    )


def note_trouble(session: Session, job_id: UUID, *, code: str, detail: str) -> None:
    """Say on an open job why it does not move on; its end replaces this."""
    session.execute(
        text(f"UPDATE job SET error_code = :code, error = :detail WHERE id = :id AND {OPEN}"),
        {"id": job_id, "code": code, "detail": detail},
    )


def put_result(session: Session, job_id: UUID, result: Json) -> None:
    """What a job found; its end adds nothing where it gives no result of its own."""
    session.execute(
        text("UPDATE job SET result = cast(:result AS jsonb) WHERE id = :id"),
        {"id": job_id, "result": json.dumps(result)},
    )


def end_job(
    session: Session,
    job_id: UUID,
    state: JobState,
    *,
    result: Json | None = None,
    error_code: str | None = None,
    error: str | None = None,
) -> None:
    """End a job that is open. Chunks that were not done stay, for the job to go on with later; an
    unfinished re-index run of the job ends with it, unless the job is done."""
    ended = session.execute(
        text(
            "UPDATE job SET state = :state, result = coalesce(cast(:result AS jsonb), result),"
            " error_code = :code, error = :error, finished_at = clock_timestamp(),"
            " started_at = coalesce(started_at, clock_timestamp())"
            f" WHERE id = :id AND {OPEN} RETURNING id"
        ),
        {
            "id": job_id,
            "state": str(JobState(state)),
            "result": None if result is None else json.dumps(result),
            "code": error_code,
            "error": error,
        },
    ).first()
    if ended is None or state == JobState.DONE:
        return
    session.execute(
        text(
            "UPDATE job_chunk SET state = 'cancelled', token = NULL, lease_until = NULL"
            f" WHERE job_id = :id AND {WORKABLE}"
        ),
        {"id": job_id},
    )
    session.execute(
        text(
            "UPDATE reindex_run SET state = :state, ended_at = clock_timestamp() WHERE id = :id"
            " AND state IN ('requested', 'embedding', 'building', 'verifying', 'cancelling')"
        ),
        {"id": job_id, "state": str(JobState(state))},
    )
