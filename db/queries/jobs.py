"""Jobs and their chunks: ask, claim, lease, finish, pause, cancel, retry; progress and failures.

All times are the database's, so that no worker's clock matters. Locks are taken in the order
chunk, job by who does a chunk, and job, chunk by who changes a job; the former skips what the
latter holds, so the two never wait for each other in a circle.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from sqlalchemy import RowMapping, text
from sqlalchemy.orm import Session

from db.errors import Conflict, NotFound, translated
from db.queries.paging import Page, make_page, read_cursor
from db.types import ChunkState, JobKind, JobState

Json = dict[str, Any]

MAX_ATTEMPTS = 3
"""A chunk that was begun this often and never finished fails its job."""
RETRY_ITEMS = 64
"""Failed items that "retry failed" puts into one chunk."""
RETRY = "retry"
"""The key of a chunk's `params` that lists the items to do again, in place of the usual params."""
QUEUE = "resight"
WAKE_TASK = "resight.wake"
ENDED = frozenset({JobState.CANCELLED, JobState.FAILED, JobState.DONE})

_OPEN = "state IN ('queued', 'running', 'paused', 'cancelling')"
_WORKABLE = "state IN ('queued', 'running')"
_RATE_CHUNKS = 16
_RATE_IDLE_S = 10


@dataclass(frozen=True, slots=True)
class JobRow:
    """`rate` is items/s and `eta_s` seconds, both None while unknown and never negative.

    `done` counts what running chunks told of themselves too.
    """

    id: UUID
    kind: JobKind
    state: JobState
    stage: str | None
    exclusive_key: str | None
    params: Json
    result: Json | None
    error_code: str | None
    error: str | None
    total: int | None
    done: int
    failed: int
    requested_by: str
    paused_by: str | None
    cancelled_by: str | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    rate: float | None
    eta_s: float | None

    @property
    def ended(self) -> bool:
        return self.state in ENDED


@dataclass(frozen=True, slots=True)
class ChunkSpec:
    """A chunk to be made: `items` is how many of the job's items it covers, 0 for none."""

    stage: str
    params: Json = field(default_factory=dict)
    items: int = 0


@dataclass(frozen=True, slots=True)
class ChunkRow:
    """A chunk as its claimer got it; `token` is that claim's and no other's."""

    job_id: UUID
    number: int
    stage: str
    state: ChunkState
    params: Json
    items: int
    attempts: int
    worker: str | None
    token: UUID | None

    @property
    def retry(self) -> tuple[str, ...] | None:
        """The items to do again, where this chunk repeats failed ones."""
        return tuple(self.params[RETRY]) if RETRY in self.params else None


@dataclass(frozen=True, slots=True)
class ItemFailure:
    """One item that failed alone: what, a code for programs, a sentence for people."""

    item: str
    code: str
    detail: str


@dataclass(frozen=True, slots=True)
class FailureRow:
    id: int
    item: str
    stage: str
    code: str
    detail: str
    attempts: int
    at: datetime


# ---------------------------------------------------------------- asking and looking


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
                    f" ON CONFLICT (exclusive_key) WHERE {_OPEN} DO NOTHING RETURNING id"
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
        text(f"SELECT id FROM job WHERE exclusive_key = :key AND {_OPEN}"), {"key": exclusive_key}
    )
    if other is not None:
        raise Conflict(
            "job_running",
            f"The job {other} does this already; watch it with `resight jobs watch {other}`, or "
            "cancel it first.",
            job_id=str(other),
            exclusive_key=exclusive_key,
        )


def wake(session: Session) -> None:
    """Wake one idle worker when the transaction commits; it wakes the next if there is more."""
    session.execute(
        text(
            "SELECT procrastinate_defer_jobs_v1(ARRAY["
            "ROW(:queue, :task, 0, NULL, NULL, '{}', NULL)::procrastinate_job_to_defer_v1])"
        ),
        {"queue": QUEUE, "task": WAKE_TASK},
    )


_COLUMNS = (
    "j.id, j.kind, j.state, j.stage, j.exclusive_key, j.params, j.result, j.error_code, j.error,"
    " j.total, j.done, j.failed, j.requested_by, j.paused_by, j.cancelled_by, j.created_at,"
    " j.started_at, j.finished_at"
)

# Items per second of work, times the workers at it: pauses and restarts do not count as slowness.
_SELECT = f"""
SELECT {_COLUMNS}, open.told, open.remaining, recent.items, recent.seconds, recent.workers
FROM job j
LEFT JOIN LATERAL (
    SELECT sum(c.done) FILTER (WHERE c.state = 'running') AS told,
        sum(greatest(c.items - c.done, 0)) AS remaining
    FROM job_chunk c
    WHERE c.job_id = j.id AND c.{_WORKABLE} AND j.{_OPEN}
) open ON true
LEFT JOIN LATERAL (
    SELECT sum(c.done + c.failed) AS items,
        sum(extract(epoch FROM coalesce(c.finished_at, clock_timestamp()) - c.started_at))
            FILTER (WHERE c.state = 'done' OR c.done > 0) AS seconds,
        count(DISTINCT c.worker) FILTER (WHERE coalesce(c.finished_at, c.lease_until)
            > clock_timestamp() - make_interval(secs => {_RATE_IDLE_S})) AS workers
    FROM (
        (SELECT * FROM job_chunk
            WHERE job_id = j.id AND state = 'done' AND stage = j.stage
            ORDER BY finished_at DESC LIMIT {_RATE_CHUNKS})
        UNION ALL
        (SELECT * FROM job_chunk WHERE job_id = j.id AND state = 'running')
    ) c
    WHERE j.state = 'running'
) recent ON true
"""


def get_job(session: Session, job_id: UUID) -> JobRow:
    """Raises:
    NotFound: no job has this id.
    """
    row = session.execute(text(f"{_SELECT} WHERE j.id = :id"), {"id": job_id}).mappings().first()
    if row is None:
        raise _unknown(job_id)
    return _job(row)


def _unknown(job_id: UUID) -> NotFound:
    return NotFound(
        "job_unknown",
        f"No job has the id {job_id}; `resight jobs list` names those there are.",
        job_id=str(job_id),
    )


def list_jobs(
    session: Session,
    *,
    limit: int = 50,
    cursor: str | None = None,
    states: Sequence[JobState] = (),
    kinds: Sequence[JobKind] = (),
) -> Page[JobRow]:
    """Jobs, newest first; only those of some states or kinds where any are given."""
    before = read_cursor(cursor, datetime.fromisoformat, UUID)
    conditions, values = ["true"], {"limit": limit + 1}
    if states:
        conditions.append("j.state = ANY(:states)")
        values["states"] = [str(JobState(state)) for state in states]  # type: ignore[assignment]
    if kinds:
        conditions.append("j.kind = ANY(:kinds)")
        values["kinds"] = [str(JobKind(kind)) for kind in kinds]  # type: ignore[assignment]
    if before is not None:
        conditions.append("(j.created_at, j.id) < (:at, :id)")
        values["at"], values["id"] = before
    found = session.execute(
        text(
            f"{_SELECT} WHERE {' AND '.join(conditions)}"
            " ORDER BY j.created_at DESC, j.id DESC LIMIT :limit"
        ),
        values,
    ).mappings()
    return make_page(
        [_job(row) for row in found], limit, lambda row: (row.created_at.isoformat(), row.id)
    )


def failures(
    session: Session, job_id: UUID, *, limit: int = 50, cursor: str | None = None
) -> Page[FailureRow]:
    """Items of a job that failed, in the order they did.

    Raises:
        NotFound: no job has this id.
    """
    after = read_cursor(cursor, int)
    if not session.scalar(text("SELECT EXISTS (SELECT FROM job WHERE id = :id)"), {"id": job_id}):
        raise _unknown(job_id)
    found = session.execute(
        text(
            "SELECT id, item, stage, code, detail, attempts, at FROM job_failure"
            " WHERE job_id = :job AND id > :after ORDER BY id LIMIT :limit"
        ),
        {"job": job_id, "after": 0 if after is None else after[0], "limit": limit + 1},
    )
    rows = [
        FailureRow(number, item, stage, code, detail, attempts, at.astimezone(UTC))
        for number, item, stage, code, detail, attempts, at in found
    ]
    return make_page(rows, limit, lambda row: (row.id,))


def _job(row: RowMapping) -> JobRow:
    items, seconds, workers = row["items"], row["seconds"], row["workers"]
    rate = None
    if items and seconds and workers and seconds > 0:
        rate = float(items) / float(seconds) * int(workers)
    remaining = row["remaining"]
    return JobRow(
        id=row["id"],
        kind=JobKind(row["kind"]),
        state=JobState(row["state"]),
        stage=row["stage"],
        exclusive_key=row["exclusive_key"],
        params=row["params"],
        result=row["result"],
        error_code=row["error_code"],
        error=row["error"],
        total=row["total"],
        done=row["done"] + int(row["told"] or 0),
        failed=row["failed"],
        requested_by=row["requested_by"],
        paused_by=row["paused_by"],
        cancelled_by=row["cancelled_by"],
        created_at=row["created_at"].astimezone(UTC),
        started_at=_utc(row["started_at"]),
        finished_at=_utc(row["finished_at"]),
        rate=rate,
        eta_s=None if rate is None or remaining is None else float(remaining) / rate,
    )


def _utc(at: datetime | None) -> datetime | None:
    return None if at is None else at.astimezone(UTC)


# ---------------------------------------------------------------- doing


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
            f"SELECT j.id FROM job j WHERE j.{_WORKABLE} AND {_WANTED}"
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
    f"  WHERE c.job_id = :job AND j.{_WORKABLE} AND c.attempts < :most"
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
            f" OR j.{_WORKABLE} AND dead.number IS NOT NULL"
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
        f"j.{_WORKABLE} AND NOT EXISTS (SELECT FROM job_chunk c"
        f" WHERE c.job_id = j.id AND c.{_WORKABLE})"
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
        text(f"UPDATE job SET error_code = :code, error = :detail WHERE id = :id AND {_OPEN}"),
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
            f" WHERE id = :id AND {_OPEN} RETURNING id"
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
            f" WHERE job_id = :id AND {_WORKABLE}"
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


# ---------------------------------------------------------------- steering


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
