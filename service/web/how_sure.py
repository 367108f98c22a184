"""The page "How sure?": what scores mean here, how well that holds, and a fit that is asked for."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import RedirectResponse, Response

from db.queries import embeddings, jobs
from db.queries.embeddings import SpaceRow
from db.queries.jobs import JobRow
from db.types import JobKind, Role
from service import steering
from service.calibration_schemas import how_sure
from service.deps import Curator, Db, Runtime, Viewer
from service.job_schemas import StartJobBody
from service.web.how_sure_view import present_how_sure
from service.web.pages import PageRoute, is_fragment, render

router = APIRouter(route_class=PageRoute, include_in_schema=False)


@router.get("/review/how-sure")
def page(request: Request, principal: Viewer, session: Db) -> Response:
    """The calibration of the space in use; as a fragment without the frame, while a fit is under
    way."""
    space = embeddings.active_space(session)
    under_way = jobs.list_jobs(
        session, states=steering.OPEN_STATES, kinds=[JobKind.CALIBRATE], limit=20
    )
    return render(
        request,
        "_how_sure.html" if is_fragment(request) else "how_sure.html",
        here="review",
        how=present_how_sure(how_sure(session, space)) if space else None,
        job_url=next((f"/jobs/{row.id}" for row in under_way.items if _is_of(row, space)), None),
        may_fit=principal.may(Role.CURATOR),
    )


def _is_of(job: JobRow, space: SpaceRow | None) -> bool:
    return space is not None and job.params.get("model_id") == space.id


@router.post("/review/how-sure")
def fit(principal: Curator, runtime: Runtime) -> Response:
    """Starts a fit on the verdicts there are by now."""
    steering.start(runtime.sessions, StartJobBody(kind="calibrate"), principal.name)
    return RedirectResponse("/review/how-sure", status_code=303)
