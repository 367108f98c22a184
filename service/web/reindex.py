"""Pages of re-index runs: start one, watch it, read its report, switch, roll back."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Form, Request
from fastapi.responses import RedirectResponse, Response
from sqlalchemy.orm import Session

from db.errors import Conflict
from db.queries import jobs, runs
from db.queries.runs import RunRow
from db.types import ReindexState, Role
from indexer import reindex
from service import steering
from service.api.reindex import ACTIVATE_WAIT_S
from service.deps import Admin, Db, Principal, Runtime, Viewer, get_runtime
from service.job_schemas import StartReindexBody, run_out
from service.uploads import parse_fields
from service.web.jobs import card
from service.web.pages import PageRoute, is_fragment, render
from service.web.report_view import present_report, present_run
from service.web.told import told

router = APIRouter(route_class=PageRoute, include_in_schema=False)


@router.post("/reindex")
def start(principal: Admin, runtime: Runtime, model: Annotated[str, Form()] = "") -> Response:
    """Starts a run and shows it."""
    body = parse_fields(StartReindexBody, {"model": model})
    run = steering.start_reindex(runtime.sessions, runtime.settings, body, principal.name)
    return RedirectResponse(f"/reindex/{run.id}", status_code=303)


@router.get("/reindex/{run_id}")
def run(request: Request, run_id: UUID, principal: Viewer, session: Db) -> Response:
    """Where a run is, its job, and its report once there is one."""
    return _draw(request, session, runs.get_run(session, run_id), principal)


@router.post("/reindex/{run_id}/activate")
def activate(
    request: Request,
    run_id: UUID,
    principal: Admin,
    runtime: Runtime,
    force: Annotated[bool, Form()] = False,
) -> Response:
    """Switches to the run's space."""
    acted = reindex.activate(
        runtime.sessions, run_id, principal=principal.name, force=force, wait_s=ACTIVATE_WAIT_S
    )
    return _acted(request, acted, principal)


@router.post("/reindex/{run_id}/rollback")
def rollback(request: Request, run_id: UUID, principal: Admin, runtime: Runtime) -> Response:
    """Undoes the switch of this run, where it was the last one.

    Raises:
        Conflict: another run was activated since.
    """
    with runtime.sessions() as session:
        asked = runs.get_run(session, run_id)
    if asked.state != ReindexState.ACTIVE:
        raise Conflict(
            "nothing_to_roll_back",
            f"This run is {asked.state}: it is not what {asked.slot} searches with now.",
            run_id=str(run_id),
        )
    acted = reindex.rollback(runtime.sessions, asked.slot, principal=principal.name)
    return _acted(request, acted, principal)


@router.post("/reindex/{run_id}/abandon")
def abandon(request: Request, run_id: UUID, principal: Admin, runtime: Runtime) -> Response:
    """Gives a run up."""
    acted = reindex.abandon(runtime.sessions, run_id, principal=principal.name)
    return _acted(request, acted, principal)


def _acted(request: Request, acted: RunRow, principal: Principal) -> Response:
    if not is_fragment(request):
        return RedirectResponse(f"/reindex/{acted.id}", status_code=303)
    with get_runtime(request).sessions() as session:
        return _draw(request, session, acted, principal)


def _draw(request: Request, session: Session, row: RunRow, principal: Principal) -> Response:
    job = jobs.get_job(session, row.id)
    problems = [told(one.detail) for one in steering.why_not(session, row)]
    may_act = principal.may(Role.ADMIN)
    return render(
        request,
        "_run.html" if is_fragment(request) else "reindex.html",
        here="jobs",
        run=present_run(run_out(row, job), row.report, problems, may_act=may_act),
        report=present_report(row.report) if row.report else None,
        job=card(job, principal),
        job_page=False,
    )
