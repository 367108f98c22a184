"""Jobs, chunks and failures as rows: what they are, and reading them with their progress."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from sqlalchemy import RowMapping, text
from sqlalchemy.orm import Session

from db.errors import NotFound
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

OPEN = "state IN ('queued', 'running', 'paused', 'cancelling')"
WORKABLE = "state IN ('queued', 'running')"
"""SQL: jobs that have not ended; jobs that workers take up, and chunks that are not done."""
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
    WHERE c.job_id = j.id AND c.{WORKABLE} AND j.{OPEN}
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
        raise unknown_job(job_id)
    return _job(row)


def unknown_job(job_id: UUID) -> NotFound:
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
        raise unknown_job(job_id)
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
