"""The composition root: one application, its state, its errors and its edge."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.responses import JSONResponse
from starlette.types import ASGIApp, Scope

from service import errors
from service.accounts import Passwords
from service.api import (
    calibration,
    compat,
    desk,
    encounters,
    export,
    identify,
    identity,
    individuals,
    jobs,
    media,
    people,
    reindex,
    search,
    system,
)
from service.deps import AppState, DocsReader
from service.drift import DriftWatch
from service.edge import Edge, RateLimiter
from service.metrics import Metrics, program_version
from service.runtime import Resight, open_resight, require_keys
from service.settings import MIB, Settings
from service.sign_in import Household, SignIns
from service.web.appearance import router as appearance
from service.web.catalogue import router as catalogue_pages
from service.web.catalogue_add import router as add_pages
from service.web.catalogue_changes import router as change_pages
from service.web.catalogue_describe import router as describe_pages
from service.web.catalogue_drop import router as drop_pages
from service.web.catalogue_edit import router as edit_pages
from service.web.catalogue_encounters import router as encounter_pages
from service.web.catalogue_identity import router as identity_pages
from service.web.catalogue_photos import router as photo_pages
from service.web.catalogue_settings import router as viewpoint_pages
from service.web.catalogue_suggestions import router as suggestion_pages
from service.web.how_sure import router as how_sure_pages
from service.web.jobs import router as job_pages
from service.web.people import router as people_pages
from service.web.reindex import router as reindex_pages
from service.web.review import router as review_pages
from service.web.routes import router as pages
from service.web.sign_in import router as sign_in_pages

WRONG_KEYS_PER_MINUTE = 20
UPLOADS = (
    "/v1/identify",
    "/v1/individuals",
    "/v1/encounters",
    "/v1/predict-single",
    "/predict-single",
)
ARCHIVES = ("/v1/predict-batch", "/predict-batch")
API_ROUTERS = (
    identify.router,
    search.router,
    individuals.router,
    identity.router,
    encounters.router,
    desk.router,
    media.router,
    export.router,
    jobs.router,
    reindex.router,
    calibration.router,
    people.router,
    system.router,
    compat.router,
)
PAGE_ROUTERS = (
    pages,
    review_pages,
    # Before the pages of queries, whose addresses it looks like.
    how_sure_pages,
    sign_in_pages,
    people_pages,
    appearance,
    change_pages,
    viewpoint_pages,
    suggestion_pages,
    add_pages,
    edit_pages,
    identity_pages,
    describe_pages,
    drop_pages,
    encounter_pages,
    photo_pages,
    catalogue_pages,
    job_pages,
    reindex_pages,
)
DESCRIPTION = (
    "Have we seen this individual before? A photo passes a gate, becomes a vector, and is answered "
    "twice: the default answer of a classifier, given only when confident, and the nearest "
    "individuals with their scores, for a person to review."
)


class Application(FastAPI):
    """FastAPI inside the edge: its limits and headers hold for every answer, a 500 included."""

    edge_options: dict[str, Any]

    def build_middleware_stack(self) -> ASGIApp:
        """The whole stack, with the edge outermost."""
        return Edge(super().build_middleware_stack(), **self.edge_options)


def create_app(
    settings: Settings | None = None,
    *,
    resight: Resight | None = None,
    passwords: Passwords | None = None,
) -> FastAPI:
    """The application. A `resight` that is given is used and left open; without one it is opened
    when the application starts and closed when it ends. `passwords` hashes at another cost.

    Raises (when it starts):
        StartRefused: it would listen beyond loopback without a key or an account.
        UnsupportedDatabase, SchemaMismatch: the database cannot be used.
    """
    settings = settings or (resight.settings if resight else Settings())
    metrics = Metrics()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        runtime = resight or open_resight(settings)
        try:
            require_keys(settings, runtime.sessions)
            runtime.watch()
            app.state.resight = AppState(
                runtime,
                metrics,
                DriftWatch(),
                failures=RateLimiter(WRONG_KEYS_PER_MINUTE),
                household=Household(runtime.sessions),
                sign_ins=SignIns(
                    runtime.sessions,
                    timedelta(days=settings.sign_in_days),
                    passwords or Passwords(),
                ),
            )
            yield
        finally:
            runtime.stop_watching()
            if resight is None:
                runtime.close()

    app = Application(
        title="Resight",
        version=program_version(),
        description=DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
    )
    app.edge_options = {
        "on_loopback": settings.on_loopback,
        "allowed_hosts": settings.allowed_hosts,
        "body_limit": lambda path: _body_limit(settings, path),
        "body_timeout_s": settings.body_timeout_s,
        "limiter": RateLimiter(settings.requests_per_minute),
        "observe": lambda scope, status, seconds: _observe(metrics, scope, status, seconds),
    }
    errors.install(app)
    # As they are: an included router would build each of its routes once more, for every
    # application, while the first request waits.
    for router in (*API_ROUTERS, _documentation(app), *PAGE_ROUTERS):
        app.router.routes.extend(router.routes)
    return app


def _documentation(app: FastAPI) -> APIRouter:
    router = APIRouter()

    @router.get("/openapi.json", include_in_schema=False)
    def openapi(_: DocsReader) -> JSONResponse:
        return JSONResponse(app.openapi())

    return router


def _body_limit(settings: Settings, path: str) -> int:
    """Bytes that a body may have, known from the path alone."""
    if path in ARCHIVES:
        return settings.max_batch_bytes + MIB
    if path.startswith(UPLOADS) or not path.startswith("/v1/"):
        return settings.max_upload_bytes
    return MIB


def _observe(metrics: Metrics, scope: Scope, status: int, seconds: float) -> None:
    route = scope.get("route")
    path = getattr(route, "path", "unmatched")
    metrics.requests.labels(scope["method"], path, str(status)).inc()
    metrics.request_seconds.labels(scope["method"], path).observe(seconds)
