"""Re-index runs: moving a slot from one space to another, and which spaces are kept complete."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Row, text
from sqlalchemy.orm import Session

from db.errors import NotFound, translated
from db.queries.copying import Int64s, fetch
from db.queries.embeddings import FAILURE_ITEM
from db.queries.jobs import ItemFailure
from db.queries.paging import Page, make_page, read_cursor
from db.types import ReindexState

Json = dict[str, Any]

WORKING = (
    ReindexState.REQUESTED,
    ReindexState.EMBEDDING,
    ReindexState.BUILDING,
    ReindexState.VERIFYING,
)
"""States in which the run's job works."""
OPEN = (*WORKING, ReindexState.READY)
"""A slot has at most one run in these states."""


@dataclass(frozen=True, slots=True)
class RunSpace:
    """One end of a run; `kept`: its vectors are still there."""

    id: int
    name: str
    version: str
    fingerprint: str
    dim: int
    kept: bool


@dataclass(frozen=True, slots=True)
class RunRow:
    """A run; its work is the job of the same id. `from_space` is None for a slot that searched
    nothing before, `report` until it is written."""

    id: UUID
    slot: str
    from_space: RunSpace | None
    to_space: RunSpace
    state: ReindexState
    previous_head_id: int | None
    snapshot_id: UUID | None
    report: Json | None
    requested_by: str
    activated_by: str | None
    forced: bool
    created_at: datetime
    ready_at: datetime | None
    activated_at: datetime | None
    ended_at: datetime | None

    @property
    def from_model_id(self) -> int | None:
        return self.from_space.id if self.from_space else None

    @property
    def to_model_id(self) -> int:
        return self.to_space.id


@dataclass(frozen=True, slots=True)
class KeptSpace:
    """A space in which every annotation gets its vector; `run_id` is the run that leads to it."""

    model_id: int
    fingerprint: str
    run_id: UUID | None


@dataclass(frozen=True, slots=True)
class RunCounts:
    """Annotations: all of them, with a vector in the new space, in the old one (0 without one);
    `failed` have a reason instead of one in the new space, and `lost` are those of them with one in
    the old. What came a moment ago and still waits for its vector is neither."""

    annotations: int
    embedded: int
    before: int
    lost: int
    failed: int


@dataclass(frozen=True, slots=True)
class Throughput:
    """Embedding of a run: `items` in `chunks` by `workers`, from first start to last end."""

    items: int
    chunks: int
    workers: int
    seconds: float


@dataclass(frozen=True, slots=True, eq=False)
class Confirmed:
    """Annotations that somebody named and that have a vector in all of some spaces, ascending by
    id: `ids` and `media` int64 (N,), `individuals` (merges followed) and `encounters` text (N,): a
    photo without an encounter is one of its own."""

    ids: Int64s
    media: Int64s
    individuals: NDArray[np.str_]
    encounters: NDArray[np.str_]


# The run of a job that is being cancelled shows so until the job has ended.
_STATE = (
    "CASE WHEN r.state IN ('requested', 'embedding', 'building', 'verifying')"
    " AND j.state = 'cancelling' THEN j.state ELSE r.state END"
)
_SPACE = (
    "json_build_array({0}.id, {0}.name, {0}.version, {0}.fingerprint, {0}.dim,"
    " to_regclass('embedding_m' || {0}.id) IS NOT NULL)"
)
_RUN = f"""
    SELECT r.*, {_STATE} AS now,
        CASE WHEN f.id IS NOT NULL THEN {_SPACE.format("f")} END AS from_space,
        {_SPACE.format("t")} AS to_space
    FROM reindex_run r
    JOIN job j ON j.id = r.id
    JOIN embedding_model t ON t.id = r.to_model_id
    LEFT JOIN embedding_model f ON f.id = r.from_model_id
"""


def _run(row: Row[Any]) -> RunRow:
    return RunRow(
        id=row.id,
        slot=row.slot,
        from_space=None if row.from_space is None else RunSpace(*row.from_space),
        to_space=RunSpace(*row.to_space),
        state=ReindexState(row.now),
        previous_head_id=row.previous_head_id,
        snapshot_id=row.snapshot_id,
        report=row.report,
        requested_by=row.requested_by,
        activated_by=row.activated_by,
        forced=row.forced,
        created_at=row.created_at.astimezone(UTC),
        ready_at=_utc(row.ready_at),
        activated_at=_utc(row.activated_at),
        ended_at=_utc(row.ended_at),
    )


def _utc(at: datetime | None) -> datetime | None:
    return None if at is None else at.astimezone(UTC)


def create_run(
    session: Session,
    job_id: UUID,
    *,
    slot: str,
    from_model_id: int | None,
    to_model_id: int,
    principal: str,
) -> RunRow:
    """The run of a job that was just made, `requested`.

    Raises:
        Conflict: `reindex_running`, the slot has an open run.
        NotFound: a space does not exist.
    """
    with translated():
        session.execute(
            text(
                "INSERT INTO reindex_run (id, slot, from_model_id, to_model_id, state,"
                " requested_by) VALUES (:id, :slot, :from, :to, 'requested', :by)"
            ),
            {"id": job_id, "slot": slot, "from": from_model_id, "to": to_model_id, "by": principal},
        )
    return get_run(session, job_id)


def get_run(session: Session, run_id: UUID, *, lock: bool = False) -> RunRow:
    """With `lock` nobody else changes the run until the transaction ends.

    Raises:
        NotFound: no run has this id.
    """
    row = session.execute(
        text(f"{_RUN} WHERE r.id = :id {'FOR UPDATE OF r' if lock else ''}"), {"id": run_id}
    ).first()
    if row is None:
        raise NotFound(
            "run_unknown",
            f"No re-index run has the id {run_id}; `resight reindex status` lists those there are.",
            run_id=str(run_id),
        )
    return _run(row)


def list_runs(
    session: Session,
    *,
    limit: int = 50,
    cursor: str | None = None,
    slot: str | None = None,
    states: Sequence[ReindexState] = (),
) -> Page[RunRow]:
    """Runs, newest first; only those of a slot or of some states where these are given."""
    before = read_cursor(cursor, datetime.fromisoformat, UUID)
    rows = session.execute(
        text(
            f"{_RUN} WHERE (cast(:slot AS text) IS NULL OR r.slot = :slot)"
            f" AND (cast(:states AS text[]) IS NULL OR {_STATE} = ANY(cast(:states AS text[])))"
            " AND (cast(:at AS timestamptz) IS NULL"
            "  OR (r.created_at, r.id) < (cast(:at AS timestamptz), cast(:id AS uuid)))"
            " ORDER BY r.created_at DESC, r.id DESC LIMIT :limit"
        ),
        {
            "slot": slot,
            "states": [str(ReindexState(state)) for state in states] or None,
            "at": before[0] if before else None,
            "id": before[1] if before else None,
            "limit": limit + 1,
        },
    )
    return make_page(
        [_run(row) for row in rows], limit, lambda row: (row.created_at.isoformat(), row.id)
    )


def open_run(session: Session, slot: str) -> RunRow | None:
    """The slot's run that is under way or ready, if there is one."""
    page = list_runs(session, limit=1, slot=slot, states=(*OPEN, ReindexState.CANCELLING))
    return page.items[0] if page.items else None


def active_run(session: Session, slot: str, *, lock: bool = False) -> RunRow | None:
    """The run that led to what the slot searches now."""
    row = session.execute(
        text(
            f"{_RUN} JOIN model_slot s ON s.name = r.slot AND s.model_id = r.to_model_id"
            " WHERE r.slot = :slot AND r.state = 'active'"
            f" {'FOR UPDATE OF r' if lock else ''}"
        ),
        {"slot": slot},
    ).one_or_none()
    return None if row is None else _run(row)


_TIMES = {
    ReindexState.READY: "ready_at",
    ReindexState.ACTIVE: "activated_at",
    ReindexState.RETIRED: "ended_at",
    ReindexState.CANCELLED: "ended_at",
    ReindexState.FAILED: "ended_at",
}


def set_run_state(session: Session, run_id: UUID, state: ReindexState) -> None:
    """Move a run to a state, and note the time where the state has one."""
    noted = f", {_TIMES[state]} = clock_timestamp()" if state in _TIMES else ""
    with translated():
        session.execute(
            text(f"UPDATE reindex_run SET state = :state{noted} WHERE id = :id"),
            {"id": run_id, "state": str(ReindexState(state))},
        )


def put_run_report(session: Session, run_id: UUID, report: Json, snapshot_id: UUID | None) -> None:
    """Store what a run measured, and the snapshot it measured."""
    session.execute(
        text(
            "UPDATE reindex_run SET report = cast(:report AS jsonb), snapshot_id = :snapshot"
            " WHERE id = :id"
        ),
        {"id": run_id, "report": json.dumps(report), "snapshot": snapshot_id},
    )


def note_activation(
    session: Session,
    run_id: UUID,
    *,
    principal: str,
    forced: bool,
    from_model_id: int | None,
    previous_head_id: int | None,
) -> None:
    """The run is `active`: who switched, whether against the limits, and the space and head to go
    back to. The slot's former run is `retired`."""
    session.execute(
        text(
            "UPDATE reindex_run SET state = 'retired', ended_at = clock_timestamp() WHERE id <> :id"
            " AND state = 'active' AND slot = (SELECT slot FROM reindex_run WHERE id = :id)"
        ),
        {"id": run_id},
    )
    set_run_state(session, run_id, ReindexState.ACTIVE)
    session.execute(
        text(
            "UPDATE reindex_run SET activated_by = :by, forced = :forced, from_model_id = :from,"
            " previous_head_id = :head, ended_at = NULL WHERE id = :id"
        ),
        {
            "id": run_id,
            "by": principal,
            "forced": forced,
            "from": from_model_id,
            "head": previous_head_id,
        },
    )


def note_rollback(session: Session, run_id: UUID, *, retire: bool) -> None:
    """The slot left the run's space: the run is ready again, or `retired`."""
    session.execute(
        text(
            "UPDATE reindex_run SET state = CASE WHEN :retire THEN 'retired' ELSE 'ready' END,"
            " ended_at = CASE WHEN :retire THEN clock_timestamp() END WHERE id = :id"
        ),
        {"id": run_id, "retire": retire},
    )


def stage_rounds(session: Session, job_id: UUID, stage: str) -> int:
    """How often the stage has been planned, by what its chunks say."""
    return int(
        session.execute(
            text(
                "SELECT coalesce(max((params ->> 'round')::int), 0) FROM job_chunk"
                " WHERE job_id = :job AND stage = :stage"
            ),
            {"job": job_id, "stage": stage},
        ).scalar_one()
    )


def note_failures(session: Session, run_id: UUID, failures: Sequence[ItemFailure]) -> None:
    """Add annotations that failed outside the chunks of the run's job, as "retry failed" finds
    them; one that is there already is left as it is."""
    added = session.execute(
        text(
            "INSERT INTO job_failure (job_id, item, stage, code, detail)"
            " SELECT :job, f.item, 'embedding', f.code, f.detail"
            " FROM unnest(cast(:items AS text[]), cast(:codes AS text[]), cast(:details AS text[]))"
            "  f(item, code, detail)"
            " ON CONFLICT (job_id, item) DO NOTHING RETURNING id"
        ),
        {
            "job": run_id,
            "items": [failure.item for failure in failures],
            "codes": [failure.code for failure in failures],
            "details": [failure.detail.replace("\x00", "") for failure in failures],
        },
    ).all()
    session.execute(
        text("UPDATE job SET failed = failed + :added WHERE id = :job"),
        {"job": run_id, "added": len(added)},
    )


# ---------------------------------------------------------------- spaces that runs hold


def kept_spaces(session: Session) -> list[KeptSpace]:
    """The spaces that must stay complete: what slots search, candidates that are embedded, and the
    spaces that a rollback returns to. One that an `embed_missing` job is at is left to the job."""
    rows = session.execute(
        text(
            "SELECT m.id, m.fingerprint,"
            " (SELECT r.id FROM reindex_run r WHERE r.to_model_id = m.id"
            "   AND r.state IN ('building', 'verifying', 'ready', 'active')"
            "  ORDER BY r.created_at DESC LIMIT 1)"
            " FROM embedding_model m WHERE to_regclass('embedding_m' || m.id) IS NOT NULL"
            " AND (EXISTS (SELECT FROM model_slot s WHERE s.model_id = m.id)"
            "  OR EXISTS (SELECT FROM reindex_run r JOIN job j ON j.id = r.id"
            "   WHERE r.to_model_id = m.id AND j.state <> 'cancelling'"
            "   AND r.state IN ('building', 'verifying', 'ready'))"
            "  OR EXISTS (SELECT FROM reindex_run r JOIN model_slot s ON s.name = r.slot"
            "   WHERE r.from_model_id = m.id AND r.state = 'active'"
            "   AND s.model_id = r.to_model_id))"
            " AND NOT EXISTS (SELECT FROM job j WHERE j.kind = 'embed_missing'"
            "  AND j.state IN ('queued', 'running') AND j.params ->> 'model_id' = m.id::text)"
            " ORDER BY m.id"
        )
    )
    return [KeptSpace(*row) for row in rows]


def holders(session: Session, model_id: int) -> list[RunRow]:
    """The runs that need a space: open ones at either end, and those it is the way back of."""
    rows = session.execute(
        text(
            f"{_RUN} LEFT JOIN model_slot s ON s.name = r.slot"
            " WHERE (:model IN (r.from_model_id, r.to_model_id) AND r.state = ANY(:open))"
            " OR (r.from_model_id = :model AND r.state = 'active' AND s.model_id = r.to_model_id)"
            " ORDER BY r.created_at"
        ),
        {"model": model_id, "open": [str(state) for state in OPEN]},
    )
    return [_run(row) for row in rows]


# ---------------------------------------------------------------- what the report counts


def count_run(session: Session, run: RunRow) -> RunCounts:
    row = session.execute(
        text(
            "SELECT count(*), count(n.annotation_id), count(o.annotation_id),"
            " count(*) FILTER (WHERE o.annotation_id IS NOT NULL AND n.annotation_id IS NULL"
            "  AND EXISTS (SELECT FROM job_failure f"
            f"  WHERE f.job_id = :job AND f.item = {FAILURE_ITEM})),"
            " (SELECT count(*) FROM job_failure WHERE job_id = :job)"
            " FROM annotation a"
            " LEFT JOIN embedding n ON n.annotation_id = a.id AND n.model_id = :new"
            " LEFT JOIN embedding o ON o.annotation_id = a.id AND o.model_id = :old"
        ),
        {"job": run.id, "new": run.to_model_id, "old": run.from_model_id},
    ).one()
    return RunCounts(*row)


def throughput(session: Session, run_id: UUID) -> Throughput:
    row = session.execute(
        text(
            "SELECT coalesce(sum(done), 0)::bigint, count(*), count(DISTINCT worker), coalesce("
            " extract(epoch FROM max(finished_at) - min(started_at)), 0)::float8"
            " FROM job_chunk WHERE job_id = :job AND stage = 'embedding' AND state = 'done'"
        ),
        {"job": run_id},
    ).one()
    return Throughput(*row)


def failures_by_code(session: Session, run_id: UUID) -> dict[str, int]:
    rows = session.execute(
        text("SELECT code, count(*) FROM job_failure WHERE job_id = :job GROUP BY code ORDER BY 1"),
        {"job": run_id},
    )
    return {row[0]: row[1] for row in rows}


def confirmed(session: Session, model_ids: Sequence[int]) -> Confirmed:
    """The annotations that somebody named, that may be matched, and that have a vector in each of
    these spaces."""
    rows = fetch(
        session,
        """
        SELECT a.id, a.media_id, coalesce(named.merged_into_id, named.id)::text,
               coalesce('e' || a.encounter_id, 'm' || a.media_id)
        FROM annotation a JOIN individual named ON named.id = a.individual_id
        JOIN (SELECT annotation_id FROM embedding WHERE model_id = ANY(%s::int[])
              GROUP BY annotation_id HAVING count(*) = %s) there ON there.annotation_id = a.id
        WHERE a.matchable
        ORDER BY a.id
        """,
        [list(model_ids), len(set(model_ids))],
    )
    return Confirmed(
        ids=np.array([row[0] for row in rows], dtype=np.int64),
        media=np.array([row[1] for row in rows], dtype=np.int64),
        individuals=np.array([row[2] for row in rows], dtype=np.str_),
        encounters=np.array([row[3] for row in rows], dtype=np.str_),
    )
