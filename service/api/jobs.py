"""Jobs: start, list, read, steer, and follow as server-sent events."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any
from urllib.parse import urlencode
from uuid import UUID

from fastapi import Query, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from pydantic import BaseModel
from sqlalchemy.orm import Session

from db.queries import jobs as rows
from db.types import JobKind, JobState, Role
from service import steering
from service.api import api_router
from service.deps import Admin, Db, Principal, Runtime, State, Viewer
from service.job_schemas import (
    FailurePage,
    JobOut,
    JobPage,
    StartJobBody,
    failure_out,
    job_out,
    job_url,
)
from service.runtime import Resight
from service.streams import Look

router = api_router("jobs")

RETRY_AFTER_S = 2
"""When to ask for a job that has just been started."""

Limit = Annotated[int, Query(ge=1, le=200)]
Cursor = Annotated[str | None, Query(description="`next_cursor` of the page before.")]
EVENTS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Events `job` (data: the job as `GET /v1/jobs/{id}` answers it) whenever it "
        "changes, a comment as a heartbeat, and `end` when nothing more will come.",
        "content": {"text/event-stream": {"schema": {"type": "string"}}},
    }
}


def accepted(body: BaseModel, location: str) -> JSONResponse:
    """202 for work that goes on after this answer, at `location`."""
    headers = {"Location": location, "Retry-After": str(RETRY_AFTER_S)}
    return JSONResponse(body.model_dump(mode="json"), status_code=202, headers=headers)


def link_next(
    request: Request, response: Response, asked: dict[str, Any], cursor: str | None
) -> None:
    """The `Link` to the next page, which asks for the same; none on the last."""
    if cursor is None:
        return
    given = {name: value for name, value in asked.items() if value is not None}
    query = urlencode(given | {"cursor": cursor}, doseq=True)
    response.headers["Link"] = f'<{request.url.path}?{query}>; rel="next"'


@router.get("/v1/jobs", summary="Jobs, newest first")
def list_jobs(
    request: Request,
    response: Response,
    _: Viewer,
    session: Db,
    state: Annotated[list[JobState] | None, Query(description="Only in these states.")] = None,
    kind: Annotated[list[JobKind] | None, Query(description="Only of these kinds.")] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> JobPage:
    """A walk over all pages gives no job twice and misses none that was there."""
    page = rows.list_jobs(session, states=state or (), kinds=kind or (), limit=limit, cursor=cursor)
    asked = {"state": state, "kind": kind, "limit": limit}
    link_next(request, response, asked, page.next_cursor)
    return JobPage(items=[job_out(row) for row in page.items], next_cursor=page.next_cursor)


@router.post(
    "/v1/jobs",
    status_code=202,
    response_model=JobOut,
    summary="Start a job",
)
def start_job(principal: Admin, runtime: Runtime, body: StartJobBody) -> JSONResponse:
    """202 with the job's place; 409 with the place of the job that does the same already. A
    re-index is started with `POST /v1/reindex`, an import on the command line."""
    row = steering.start(runtime.sessions, body, principal.name)
    return accepted(job_out(row), job_url(row.id))


@router.get(
    "/v1/jobs/events",
    response_class=StreamingResponse,
    summary="Follow all jobs",
    responses=EVENTS,
)
async def follow_jobs(_: Viewer, state: State) -> StreamingResponse:
    """Every open job, and each that ends while this is followed. It has no end of its own."""
    return await state.streams.answer("job", _look_at_all(state.runtime.sessions))


def open_and_known(session: Session, known: set[UUID]) -> list[rows.JobRow]:
    """The open jobs, and those of `known` that have ended since, which are then forgotten."""
    found = list(rows.list_jobs(session, states=steering.OPEN_STATES, limit=200).items)
    ended = known - {row.id for row in found}
    known.clear()
    known.update(row.id for row in found)
    return found + [rows.get_job(session, job_id) for job_id in ended]


def _look_at_all(sessions: Callable[[], Session]) -> Callable[[], Look]:
    known: set[UUID] = set()

    def look() -> Look:
        with sessions() as session:
            seen = open_and_known(session, known)
        return Look({str(row.id): job_out(row).model_dump(mode="json") for row in seen}, False)

    return look


@router.get("/v1/jobs/{job_id}", summary="One job")
def read_job(job_id: UUID, _: Viewer, session: Db) -> JobOut:
    """Its state and how far it is now."""
    return job_out(rows.get_job(session, job_id))


@router.get("/v1/jobs/{job_id}/failures", summary="Items of a job that failed, and why")
def list_failures(
    job_id: UUID, _: Viewer, session: Db, limit: Limit = 50, cursor: Cursor = None
) -> FailurePage:
    """One poison photo fails alone; each has its reason."""
    page = rows.failures(session, job_id, limit=limit, cursor=cursor)
    return FailurePage(items=[failure_out(row) for row in page.items], next_cursor=page.next_cursor)


@router.get(
    "/v1/jobs/{job_id}/events",
    response_class=StreamingResponse,
    summary="Follow one job",
    responses=EVENTS,
)
async def follow_job(job_id: UUID, _: Viewer, state: State) -> StreamingResponse:
    """Ends with the job."""
    sessions = state.runtime.sessions

    def look() -> Look:
        with sessions() as session:
            row = rows.get_job(session, job_id)
        shown = job_out(row).model_dump(mode="json")
        return Look({str(job_id): shown}, row.ended)

    return await state.streams.answer("job", look)


def _steered(
    runtime: Resight, job_id: UUID, action: steering.Action, principal: Principal
) -> JobOut:
    admin = principal.may(Role.ADMIN)
    return job_out(steering.steer(runtime.sessions, job_id, action, principal.name, admin=admin))


@router.post("/v1/jobs/{job_id}/pause", summary="Pause a job")
def pause_job(job_id: UUID, principal: Admin, runtime: Runtime) -> JobOut:
    """Chunks under way end first. A pause has an owner and survives restarts."""
    return _steered(runtime, job_id, "pause", principal)


@router.post("/v1/jobs/{job_id}/resume", summary="Resume a paused job")
def resume_job(job_id: UUID, principal: Admin, runtime: Runtime) -> JobOut:
    """It goes on where it stopped."""
    return _steered(runtime, job_id, "resume", principal)


@router.post("/v1/jobs/{job_id}/cancel", summary="Cancel a job")
def cancel_job(job_id: UUID, principal: Admin, runtime: Runtime) -> JobOut:
    """Stops within one chunk; what is done stays."""
    return _steered(runtime, job_id, "cancel", principal)


@router.post("/v1/jobs/{job_id}/retry", summary="Try again what failed")
def retry_job(job_id: UUID, principal: Admin, runtime: Runtime) -> JobOut:
    """Only the failed items of an ended job run again."""
    return _steered(runtime, job_id, "retry", principal)
