"""Is it alive, is it ready, what is loaded, what is allowed, and the numbers behind."""

from __future__ import annotations

from typing import Any

from fastapi.responses import JSONResponse, Response

from db.queries import embeddings
from service import metrics as exposition
from service.api import api_router
from service.deps import Db, MetricsReader, Runtime, State, Viewer
from service.schemas import Health, LimitsOut, ReadyOut

router = api_router("system")


@router.get("/health", summary="The process is alive")
def health() -> Health:
    """Says nothing about models or the database; see /ready."""
    return Health(status="ok", version=exposition.program_version())


@router.get(
    "/ready",
    response_model=ReadyOut,
    summary="Identification is complete",
    responses={503: {"model": ReadyOut, "description": "Not ready; `reasons` say why."}},
)
def ready(runtime: Runtime) -> JSONResponse:
    """200 when gate, default answer and search can all speak; else 503 with the reasons."""
    readiness = runtime.readiness()
    body = ReadyOut(
        ready=readiness.ready,
        reasons=list(readiness.reasons),
        notices=list(readiness.notices),
        stage=readiness.generation.serving.stage,
        bundle=readiness.generation.serving.bundle,
        index=readiness.index,
    )
    return JSONResponse(body.model_dump(), status_code=200 if readiness.ready else 503)


@router.get("/metrics", summary="Prometheus metrics", response_class=Response)
def metrics(_: MetricsReader, state: State) -> Response:
    """Text exposition format."""
    runtime, shown = state.runtime, state.metrics
    readiness = runtime.readiness()
    shown.ready.set(readiness.ready)
    shown.gate_installed.set(readiness.generation.gate_installed)
    shown.inference_waiting.set(runtime.inference.waiting)
    shown.embeddings.clear()  # of a space that was searched before
    if readiness.sizes is not None and readiness.generation.space is not None:
        searched, sizes = readiness.generation.label, readiness.sizes
        shown.embeddings.labels(searched, "present").set(sizes.vectors)
        shown.embeddings.labels(searched, "missing").set(sizes.missing)
    shown.index_delta.set(readiness.index.get("delta") or 0)
    return Response(shown.text(), media_type=exposition.CONTENT_TYPE)


@router.get("/v1/models", summary="Loaded models and registered spaces")
def list_models(_: Viewer, runtime: Runtime, session: Db) -> dict[str, Any]:
    """What speaks now, which spaces the catalogue has, and what could not be loaded."""
    return runtime.describe_models(embeddings.list_spaces(session))


@router.get("/v1/limits", summary="What one request may cost")
def read_limits(_: Viewer, runtime: Runtime) -> LimitsOut:
    """Limits that are in force."""
    settings = runtime.settings
    return LimitsOut(
        max_photo_bytes=settings.max_photo_bytes,
        max_photo_pixels=settings.max_photo_pixels,
        max_photos_per_request=settings.max_photos_per_request,
        max_photos_per_drop=settings.max_photos_per_drop,
        max_upload_bytes=settings.max_upload_bytes,
        max_batch_bytes=settings.max_batch_bytes,
        max_batch_entries=settings.max_batch_entries,
        default_k=settings.top_k,
        max_k=settings.max_k,
        requests_per_minute=settings.requests_per_minute or None,
        inference_queue=settings.inference_queue,
        formats=["JPEG", "PNG", "WEBP", "BMP", "TIFF"],
    )
