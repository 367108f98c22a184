"""Pages of jobs: what is under way, what ended and how, the buttons, one job with its failures."""

from __future__ import annotations

from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Form, Request
from fastapi.responses import RedirectResponse, Response, StreamingResponse
from sqlalchemy.orm import Session

from db.queries import jobs as rows
from db.queries import runs
from db.types import ReindexState, Role
from service import steering
from service.api.jobs import open_and_known
from service.deps import Admin, Db, Principal, Runtime, State, Viewer
from service.job_schemas import StartJobBody, failure_out, job_out, run_out
from service.streams import Look
from service.uploads import parse_fields
from service.web import words
from service.web.jobs_view import KINDS, JobView, present_failures, present_job
from service.web.pages import PageRoute, is_fragment, render
from service.web.report_view import RunView, present_run
from service.web.told import told

ENDED_ON_A_PAGE = 20
FAILURES_IN_A_CARD = 10
FAILURES_ON_A_PAGE = 100

router = APIRouter(route_class=PageRoute, include_in_schema=False)


def card(row: rows.JobRow, principal: Principal) -> JobView:
    """The card of a job as the caller may see and steer it."""
    return present_job(job_out(row), may_act=principal.may(Role.ADMIN))


@router.get("/jobs")
def jobs(
    request: Request, principal: Viewer, session: Db, runtime: Runtime, cursor: str | None = None
) -> Response:
    """What is under way, what can be started, and what ended, newest first."""
    ended = rows.list_jobs(
        session, states=steering.ENDED_STATES, limit=ENDED_ON_A_PAGE, cursor=cursor
    )
    under_way = rows.list_jobs(session, states=steering.OPEN_STATES, limit=200)
    return render(
        request,
        "jobs.html",
        here="jobs",
        job_page=False,
        open_jobs=[card(row, principal) for row in under_way.items],
        ended_jobs=[card(row, principal) for row in ended.items],
        more_url=f"/jobs?cursor={ended.next_cursor}" if ended.next_cursor else None,
        may_act=principal.may(Role.ADMIN),
        kinds=[(kind, str(KINDS[kind][0])) for kind in steering.STARTABLE],
        models=steering.candidates(session, runtime.settings),
        spaces=[_space(use) for use in steering.space_uses(session)],
        ready_runs=_ready_runs(session),
    )


def _space(use: steering.SpaceUse) -> dict[str, str]:
    """A space whose vectors are kept, and the reasons why."""
    reasons = "; ".join(told(reason) for reason in use.use.split("; "))
    return {"name": f"{use.name} {use.version}", "use": reasons}


def _ready_runs(session: Session) -> list[RunView]:
    """Runs that wait for somebody to read their report."""
    return [
        present_run(run_out(run, rows.get_job(session, run.id)), run.report, (), may_act=False)
        for run in runs.list_runs(session, states=[ReindexState.READY]).items
    ]


@router.post("/jobs")
def start(principal: Admin, runtime: Runtime, kind: Annotated[str, Form()] = "") -> Response:
    """Starts a job of a kind with its usual parameters."""
    row = steering.start(
        runtime.sessions, parse_fields(StartJobBody, {"kind": kind}), principal.name
    )
    return RedirectResponse(f"/jobs/{row.id}", status_code=303)


@router.get("/jobs/events")
async def follow(_: Viewer, state: State) -> StreamingResponse:
    """The moving parts of all cards, worded as the cards are."""
    sessions, language = state.runtime.sessions, words.language()
    known: set[UUID] = set()

    def look() -> Look:
        with sessions() as session:
            seen = open_and_known(session, known)
        with words.speaking(language):
            cards = [present_job(job_out(row), may_act=False) for row in seen]
        return Look({one.id: one.moving for one in cards}, False)

    return await state.streams.answer("job", look)


@router.get("/jobs/{job_id}")
def job(
    request: Request, job_id: UUID, principal: Viewer, session: Db, cursor: str | None = None
) -> Response:
    """One job with what failed in it; as a fragment its card alone."""
    row = rows.get_job(session, job_id)
    shown = card(row, principal)
    if is_fragment(request):
        return render(request, "_job.html", job=shown, job_page=_on_its_page(request, shown))
    return render(
        request,
        "job.html",
        here="jobs",
        job=shown,
        job_page=True,
        **_failures(session, job_id, FAILURES_ON_A_PAGE, cursor),
    )


def _on_its_page(request: Request, shown: JobView) -> bool:
    return request.headers.get("hx-current-url", "").partition("?")[0].endswith(shown.url)


@router.get("/jobs/{job_id}/failures")
def failures(
    request: Request, job_id: UUID, _: Viewer, session: Db, cursor: str | None = None
) -> Response:
    """The first failures of a job, for its card."""
    if not is_fragment(request):
        return RedirectResponse(f"/jobs/{job_id}", status_code=303)
    found = _failures(session, job_id, FAILURES_IN_A_CARD, cursor)
    if found["more_url"]:
        found["more_url"] = f"/jobs/{job_id}"
    return render(request, "_failures.html", **found)


def _failures(session: Session, job_id: UUID, limit: int, cursor: str | None) -> dict[str, Any]:
    page = rows.failures(session, job_id, limit=limit, cursor=cursor)
    return {
        "failures": present_failures([failure_out(row) for row in page.items]),
        "more_url": f"/jobs/{job_id}?cursor={page.next_cursor}" if page.next_cursor else None,
    }


@router.post("/jobs/{job_id}/{action}")
def steer(
    request: Request,
    job_id: UUID,
    action: Literal["pause", "resume", "cancel", "retry"],
    principal: Admin,
    runtime: Runtime,
) -> Response:
    """Presses a button of a card."""
    admin = principal.may(Role.ADMIN)
    row = steering.steer(runtime.sessions, job_id, action, principal.name, admin=admin)
    if not is_fragment(request):
        return RedirectResponse(f"/jobs/{job_id}", status_code=303)
    shown = present_job(job_out(row), may_act=True)
    return render(request, "_job.html", job=shown, job_page=_on_its_page(request, shown))
