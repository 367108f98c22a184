"""Re-index runs: which slot moves from which space to which, and how far it is."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Row, text
from sqlalchemy.orm import Session

from db.errors import NotFound, translated
from db.queries.paging import Page, make_page, read_cursor
from db.types import ReindexState

Json = dict[str, Any]

OPEN = (
    ReindexState.REQUESTED,
    ReindexState.EMBEDDING,
    ReindexState.BUILDING,
    ReindexState.VERIFYING,
    ReindexState.READY,
)
"""A slot has at most one run in these states."""


@dataclass(frozen=True, slots=True)
class RunRow:
    """A run; its work is the job of the same id. `report` is None until it is written."""

    id: UUID
    slot: str
    from_model_id: int | None
    to_model_id: int
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


_COLUMNS = (
    "id, slot, from_model_id, to_model_id, state, previous_head_id, snapshot_id, report,"
    " requested_by, activated_by, forced, created_at, ready_at, activated_at, ended_at"
)


def _run(row: Row[Any]) -> RunRow:
    values = dict(row._mapping)  # noqa: SLF001
    for name in ("created_at", "ready_at", "activated_at", "ended_at"):
        at: datetime | None = values[name]
        values[name] = None if at is None else at.astimezone(UTC)
    values["state"] = ReindexState(values["state"])
    return RunRow(**values)


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
    """With `lock` the row is locked until the transaction ends.

    Raises:
        NotFound: no run has this id.
    """
    row = session.execute(
        text(
            f"SELECT {_COLUMNS} FROM reindex_run WHERE id = :id" + (" FOR UPDATE" if lock else "")
        ),
        {"id": run_id},
    ).first()
    if row is None:
        raise NotFound(
            "run_unknown",
            f"No re-index run has the id {run_id}; `resight reindex status` shows the last one.",
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
            f"SELECT {_COLUMNS} FROM reindex_run"
            " WHERE (cast(:slot AS text) IS NULL OR slot = :slot)"
            " AND (cast(:states AS text[]) IS NULL OR state = ANY(cast(:states AS text[])))"
            " AND (cast(:at AS timestamptz) IS NULL"
            "  OR (created_at, id) < (cast(:at AS timestamptz), cast(:id AS uuid)))"
            " ORDER BY created_at DESC, id DESC LIMIT :limit"
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
    page = list_runs(session, limit=1, slot=slot, states=OPEN)
    return page.items[0] if page.items else None


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
    previous_head_id: int | None,
) -> None:
    """The run is `active`: who switched, whether against the limits, and the head to go back to."""
    set_run_state(session, run_id, ReindexState.ACTIVE)
    session.execute(
        text(
            "UPDATE reindex_run SET activated_by = :by, forced = :forced, previous_head_id = :head"
            " WHERE id = :id"
        ),
        {"id": run_id, "by": principal, "forced": forced, "head": previous_head_id},
    )
