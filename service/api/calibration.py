"""How sure: what scores mean, from which score on a match can be trusted, and a new fit."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query
from fastapi.responses import JSONResponse

from service import steering
from service.api import api_router
from service.api.jobs import accepted
from service.calibration_schemas import CalibrateBody, HowSure, how_sure
from service.deps import Curator, Db, Runtime, Viewer
from service.job_schemas import JobOut, StartJobBody, job_out, job_url

router = api_router("calibration")

Rate = Annotated[float, Query(gt=0, lt=1)]


@router.get("/v1/calibration", summary="What scores mean")
def read_calibration(
    _: Viewer,
    session: Db,
    model: Annotated[
        str | None, Query(max_length=200, description="A space by its name; else the one in use.")
    ] = None,
    false_match_rate: Annotated[
        list[Rate] | None,
        Query(max_length=20, description="Thresholds for these rates instead of the usual ones."),
    ] = None,
) -> HowSure:
    """Probabilities are of pairs that were suggested, in one space. `calibration` is null while
    there are not enough verdicts yet, and `verdicts` says how many there are."""
    return how_sure(session, steering.space_of(session, model), false_match_rate or ())


@router.post(
    "/v1/calibrations",
    status_code=202,
    response_model=JobOut,
    summary="Fit a calibration anew",
)
def fit_calibration(principal: Curator, runtime: Runtime, body: CalibrateBody) -> JSONResponse:
    """202 with the job's place; 409 with the place of the one that does the same already. What it
    finds is used at once; with too few verdicts it ends without a calibration and says how many."""
    asked = StartJobBody(kind="calibrate", model=body.model)
    row = steering.start(runtime.sessions, asked, principal.name)
    return accepted(job_out(row), job_url(row.id))
