"""Re-index runs: start, read with their report, activate, roll back, abandon."""

from __future__ import annotations

from typing import Annotated, Any
from uuid import UUID

from fastapi import Query, Request
from fastapi.responses import JSONResponse, Response
from sqlalchemy.orm import Session

from db.errors import NotFound
from db.queries import jobs, runs
from db.queries.runs import RunRow
from indexer import reindex
from service import steering
from service.api import api_router
from service.api.jobs import Cursor, Limit, accepted, link_next
from service.deps import Admin, Db, Runtime, Viewer
from service.job_schemas import (
    ActivateBody,
    ReasonOut,
    RollbackBody,
    RunDetail,
    RunOut,
    RunPage,
    StartReindexBody,
    run_out,
    run_url,
)
from service.runtime import Resight

router = api_router("reindex")

ACTIVATE_WAIT_S = 10.0
"""How long a request to activate waits for photos that were added a moment ago."""


@router.post(
    "/v1/reindex", status_code=202, response_model=RunOut, summary="Re-index with another model"
)
def start_reindex(principal: Admin, runtime: Runtime, body: StartReindexBody) -> JSONResponse:
    """202 with the run's place; 409 with the place of the run that is under way for this slot.
    Nothing that is searched changes before the run is activated."""
    run = steering.start_reindex(runtime.sessions, runtime.settings, body, principal.name)
    with runtime.sessions() as session:
        shown = _shown(session, run)
    return accepted(shown, run_url(run.id))


@router.get("/v1/reindex", summary="Re-index runs, newest first")
def list_runs(
    request: Request,
    response: Response,
    _: Viewer,
    session: Db,
    slot: Annotated[str | None, Query(max_length=100, description="Of this slot only.")] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> RunPage:
    """Those under way, ready, in use, and all that were before."""
    page = runs.list_runs(session, slot=slot, limit=limit, cursor=cursor)
    link_next(request, response, {"slot": slot, "limit": limit}, page.next_cursor)
    items = [_shown(session, run) for run in page.items]
    return RunPage(items=items, next_cursor=page.next_cursor)


@router.post("/v1/reindex/rollback", summary="Return to the model before the last switch")
def rollback_reindex(
    principal: Admin, runtime: Runtime, body: RollbackBody | None = None
) -> RunOut:
    """One transaction, below a second, while the former space's vectors are kept."""
    slot = (body or RollbackBody()).slot
    return _acted(runtime, reindex.rollback(runtime.sessions, slot, principal=principal.name))


@router.get("/v1/reindex/{run_id}", summary="One re-index run")
def read_run(run_id: UUID, _: Viewer, session: Db) -> RunDetail:
    """Its state, its job with the progress, and what forbids its activation now."""
    run = runs.get_run(session, run_id)
    problems = [
        ReasonOut(code=one.code, detail=one.detail) for one in steering.why_not(session, run)
    ]
    return RunDetail(**_shown(session, run).model_dump(), problems=problems)


@router.get("/v1/reindex/{run_id}/report", summary="The report of a re-index run")
def read_report(run_id: UUID, _: Viewer, session: Db) -> dict[str, Any]:
    """Old against new on this catalogue: `recall` of the snapshot, `old` and `new` accuracy with
    their intervals and their `difference`, distributions of `similarity`, individuals whose
    nearest individual `changed` (worst first, with the photos), `throughput`, `failures`."""
    run = runs.get_run(session, run_id)
    if run.report is None:
        raise NotFound(
            "report_unknown",
            f"The run is {run.state} and has no report yet; it is written before the run is ready.",
            run_id=str(run_id),
        )
    return run.report


@router.post("/v1/reindex/{run_id}/activate", summary="Search with the new model from now on")
def activate_run(
    run_id: UUID, principal: Admin, runtime: Runtime, body: ActivateBody | None = None
) -> RunOut:
    """One transaction. 422 while a photo lacks its vector or the report is below the limits, with
    all reasons in `errors`; `force` switches all the same, and is audited."""
    force = (body or ActivateBody()).force
    run = reindex.activate(
        runtime.sessions, run_id, principal=principal.name, force=force, wait_s=ACTIVATE_WAIT_S
    )
    return _acted(runtime, run)


@router.post("/v1/reindex/{run_id}/abandon", summary="Give a re-index run up")
def abandon_run(run_id: UUID, principal: Admin, runtime: Runtime) -> RunOut:
    """Its vectors stay until the model is retired."""
    return _acted(runtime, reindex.abandon(runtime.sessions, run_id, principal=principal.name))


def _shown(session: Session, run: RunRow) -> RunOut:
    return run_out(run, jobs.get_job(session, run.id))


def _acted(runtime: Resight, run: RunRow) -> RunOut:
    with runtime.sessions() as session:
        return _shown(session, run)
