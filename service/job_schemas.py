"""Jobs and re-index runs on the wire: what is asked, what is answered, and how rows become it."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from pydantic import BaseModel, Field

from db.queries.jobs import FailureRow, JobRow
from db.queries.runs import RunRow, RunSpace
from service.schemas import Strict

StartableKind = Literal[
    "embed_missing", "build_snapshot", "build_ann", "fit_head", "evaluate", "export", "calibrate"
]

Slot = Literal["identify.photo", "search.text", "identify.sound"]
"""The uses of a space; each searches one."""


class StartJobBody(Strict):
    """`POST /v1/jobs`."""

    kind: StartableKind
    model: str | None = Field(
        None, description="Name of a space. Without it the one that the catalogue is searched in."
    )
    what: Literal["catalogue", "queries"] = Field(
        "catalogue", description="What an `export` writes; other kinds ignore it."
    )


class ProgressOut(BaseModel):
    """How far a job is, in its own units (photos, vectors, passes)."""

    done: int
    total: int | None = Field(description="Null until the job is planned.")
    failed: int = Field(description="Items that failed alone; `failures` names each.")
    rate: float | None = Field(description="Items a second; null while there is nothing to tell.")
    eta_s: float | None = Field(description="Seconds left at this rate; null while unknown.")


class JobErrorOut(BaseModel):
    """Why a job as a whole failed."""

    code: str
    detail: str


class JobOut(BaseModel):
    """One job. `done` with `progress.failed` above zero is done with that many failures."""

    id: UUID
    kind: str
    state: str
    stage: str | None
    params: dict[str, Any]
    progress: ProgressOut
    requested_by: str
    paused_by: str | None
    cancelled_by: str | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    error: JobErrorOut | None
    result: dict[str, Any] | None
    links: dict[str, str]


class JobPage(BaseModel):
    """One page of jobs, newest first; `next_cursor` is null on the last."""

    items: list[JobOut]
    next_cursor: str | None


class FailureOut(BaseModel):
    """One item that failed alone, after `attempts` attempts."""

    item: str
    stage: str
    code: str
    detail: str
    attempts: int
    at: datetime


class FailurePage(BaseModel):
    """One page of failures; `next_cursor` is null on the last."""

    items: list[FailureOut]
    next_cursor: str | None


class StartReindexBody(Strict):
    """`POST /v1/reindex`."""

    model: str = Field(
        min_length=1,
        max_length=200,
        description="Name of an installed bundle, or of a space that is registered already.",
    )
    slot: Slot = "identify.photo"


class ActivateBody(Strict):
    """`POST /v1/reindex/{id}/activate`."""

    force: bool = Field(
        False, description="Switch although the run is not complete, or worse; this is audited."
    )


class SpaceOut(BaseModel):
    """One end of a run; `kept`: its vectors are still there, so it can be searched again."""

    name: str
    version: str
    fingerprint: str
    dim: int
    kept: bool


class RunOut(BaseModel):
    """One re-index run: a slot that moves from one space to another. `from_space` is null where
    nothing was searched before; `has_report`: `links.report` answers."""

    id: UUID
    slot: str
    state: str
    from_space: SpaceOut | None
    to_space: SpaceOut
    requested_by: str
    activated_by: str | None
    forced: bool
    has_report: bool
    created_at: datetime
    ready_at: datetime | None
    activated_at: datetime | None
    ended_at: datetime | None
    job: JobOut
    links: dict[str, str]


class ReasonOut(BaseModel):
    """A reason, with its code."""

    code: str
    detail: str


class RunDetail(RunOut):
    """One run, with what forbids its activation now; always empty before it is ready."""

    problems: list[ReasonOut]


class RollbackBody(Strict):
    """`POST /v1/reindex/rollback`."""

    slot: Slot = "identify.photo"


class RunPage(BaseModel):
    """One page of runs, newest first; `next_cursor` is null on the last."""

    items: list[RunOut]
    next_cursor: str | None


def job_url(job_id: UUID) -> str:
    """Where a job is read."""
    return f"/v1/jobs/{job_id}"


def job_out(row: JobRow) -> JobOut:
    """A job as it is shown; `links.run` is there for a re-index."""
    url = job_url(row.id)
    links = {"self": url, "failures": f"{url}/failures", "events": f"{url}/events"}
    if row.kind == "reindex":
        links["run"] = f"/v1/reindex/{row.id}"
    return JobOut(
        id=row.id,
        kind=row.kind,
        state=row.state,
        stage=row.stage,
        params=dict(row.params),
        progress=ProgressOut(
            done=row.done, total=row.total, failed=row.failed, rate=row.rate, eta_s=row.eta_s
        ),
        requested_by=row.requested_by,
        paused_by=row.paused_by,
        cancelled_by=row.cancelled_by,
        created_at=row.created_at,
        started_at=row.started_at,
        finished_at=row.finished_at,
        error=JobErrorOut(code=row.error_code or "failed", detail=row.error) if row.error else None,
        result=dict(row.result) if row.result is not None else None,
        links=links,
    )


def failure_out(row: FailureRow) -> FailureOut:
    """A failed item as it is shown."""
    return FailureOut(
        item=row.item,
        stage=row.stage,
        code=row.code,
        detail=row.detail,
        attempts=row.attempts,
        at=row.at,
    )


def run_url(run_id: UUID) -> str:
    """Where a re-index run is read."""
    return f"/v1/reindex/{run_id}"


def run_out(run: RunRow, job: JobRow) -> RunOut:
    """A run with its job as they are shown."""
    url = run_url(run.id)
    return RunOut(
        id=run.id,
        slot=run.slot,
        state=run.state,
        from_space=_space_out(run.from_space) if run.from_space else None,
        to_space=_space_out(run.to_space),
        requested_by=run.requested_by,
        activated_by=run.activated_by,
        forced=run.forced,
        has_report=run.report is not None,
        created_at=run.created_at,
        ready_at=run.ready_at,
        activated_at=run.activated_at,
        ended_at=run.ended_at,
        job=job_out(job),
        links={
            "self": url,
            "report": f"{url}/report",
            "activate": f"{url}/activate",
            "abandon": f"{url}/abandon",
            "job": job_url(job.id),
            "events": f"{job_url(job.id)}/events",
        },
    )


def _space_out(space: RunSpace) -> SpaceOut:
    return SpaceOut(
        name=space.name,
        version=space.version,
        fingerprint=space.fingerprint,
        dim=space.dim,
        kept=space.kept,
    )
