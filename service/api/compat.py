"""Routes that older clients of cetacean identification call, with their names and shapes."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from fastapi import Depends, Query, Request
from fastapi.responses import JSONResponse, StreamingResponse

from db.queries import records
from db.types import QueryKind
from indexer.archive import ZipEntry, ZipLimits, read_zip
from indexer.identify import IdentifyOptions, NoReadablePhoto, PhotoIn
from indexer.inference import Busy
from service.api import api_router
from service.compat import corrupted, prediction
from service.csv_text import csv_lines
from service.deps import AppState, Reviewer, Runtime, State, Viewer
from service.errors import FieldError, Problem
from service.observe import identify_observed
from service.runtime import Resight
from service.schemas import DriftStats, Prediction
from service.uploads import Part, read_upload

router = api_router("compatible")
PHOTO_TYPES = frozenset(
    {
        "image/jpeg",
        "image/jpg",
        "image/pjpeg",
        "image/png",
        "image/webp",
        "image/bmp",
        "image/x-ms-bmp",
        "image/tiff",
        "application/octet-stream",
    }
)
ZIP_TYPES = frozenset(
    {
        "application/zip",
        "application/x-zip",
        "application/x-zip-compressed",
        "multipart/x-zip",
        "application/octet-stream",
    }
)
EXPORT_COLUMNS = (
    "query_id",
    "created_at",
    "kind",
    "principal",
    "image",
    "gate_state",
    "gate_score",
    "status",
    "individual",
    "taxon",
    "probability",
    "best_match",
    "best_score",
    "model",
)
BUSY_TRIES = 30


async def single_photo(request: Request) -> Part:
    """The one photo in the field `file`."""
    return await _one_file(request, "file", PHOTO_TYPES, "a photo (JPEG, PNG, WEBP, BMP or TIFF)")


async def one_archive(request: Request) -> Part:
    """The one ZIP in the field `archive`."""
    return await _one_file(request, "archive", ZIP_TYPES, "a ZIP (application/zip)")


async def _one_file(request: Request, field: str, types: frozenset[str], wanted: str) -> Part:
    upload = await read_upload(request, field, max_files=1)
    if not upload.files:
        raise Problem(
            422,
            "file_missing",
            f"The field `{field}` is missing.",
            errors=[FieldError(f"/{field}", "required")],
        )
    part = upload.files[0]
    declared = (part.content_type or "").partition(";")[0].strip().lower()
    if declared and declared not in types:
        raise Problem(
            415, "unsupported_media_type", f"`{field}` is declared as {declared}; send {wanted}."
        )
    if not part.data:
        raise Problem(400, "empty", f"`{field}` is empty (0 bytes).")
    return part


@router.post("/v1/predict-single", response_model=Prediction, summary="One photo (compatible)")
@router.post("/predict-single", response_model=Prediction, include_in_schema=False)
def predict_single(
    principal: Reviewer, part: Annotated[Part, Depends(single_photo)], state: State
) -> JSONResponse:
    """Rejections are results (200), with `rejected` and `rejection_reason`."""
    limit = state.runtime.settings.max_photo_bytes
    if len(part.data) > limit:
        raise Problem(413, "too_large_bytes", f"The photo has more than {limit:,} bytes.")
    return JSONResponse(_predict(state, part.name or "", part.data, principal.name))


@router.post(
    "/v1/predict-batch", response_model=list[Prediction], summary="A ZIP of photos (compatible)"
)
@router.post("/predict-batch", response_model=list[Prediction], include_in_schema=False)
def predict_batch(
    principal: Reviewer, part: Annotated[Part, Depends(one_archive)], state: State
) -> JSONResponse:
    """One result per entry, in the order of the archive; a broken entry is `corrupted_image`."""
    settings = state.runtime.settings
    entries = read_zip(
        part.data,
        ZipLimits(max_entries=settings.max_batch_entries, max_entry_bytes=settings.max_photo_bytes),
    )
    return JSONResponse([_predict_entry(state, entry, principal.name) for entry in entries])


@router.get("/v1/drift-stats", summary="Running statistics (compatible)")
@router.get("/drift-stats", include_in_schema=False)
def drift_stats(_: Viewer, state: State) -> DriftStats:
    """Gate scores and probabilities of the last 1,000 answers of this process."""
    return DriftStats.model_validate(state.drift.stats())


@router.get(
    "/v1/export",
    summary="Stored queries with their answers",
    responses={200: {"content": {"application/json": {}, "text/csv": {}}}},
)
@router.get("/export", include_in_schema=False)
def export(
    _: Viewer,
    runtime: Runtime,
    format_: Annotated[Literal["json", "csv"], Query(alias="format")] = "json",
    since: Annotated[
        datetime | None, Query(description="Only queries from this time on; UTC without a zone.")
    ] = None,
) -> StreamingResponse:
    """Oldest first, streamed. Cells of the CSV that a spreadsheet would compute are escaped."""
    rows = _exported(runtime, since.replace(tzinfo=UTC) if since and not since.tzinfo else since)
    if format_ == "json":
        return StreamingResponse(_as_json(rows), media_type="application/json")
    return StreamingResponse(
        csv_lines(rows, EXPORT_COLUMNS),
        media_type="text/csv; charset=utf-8",
        headers={"Content-Disposition": 'attachment; filename="resight-queries.csv"'},
    )


def _predict_entry(state: AppState, entry: ZipEntry, principal: str) -> dict[str, Any]:
    if entry.data is None:
        return corrupted(entry.name, _model_version(state))
    # A batch that is under way waits for its turn rather than losing what it has answered.
    for _ in range(BUSY_TRIES):
        try:
            return _predict(state, entry.name, entry.data, principal)
        except Busy as busy:
            time.sleep(busy.retry_after_s)
    return _predict(state, entry.name, entry.data, principal)


def _predict(state: AppState, name: str, data: bytes, principal: str) -> dict[str, Any]:
    try:
        answer = identify_observed(
            state, [PhotoIn(name, data)], IdentifyOptions(k=5), principal, QueryKind.PREDICT
        )
    except NoReadablePhoto:
        return corrupted(name, _model_version(state))
    return prediction(name, answer)


def _model_version(state: AppState) -> str:
    embedder = state.runtime.serving.embedder
    return f"{embedder.spec.name} {embedder.spec.version}" if embedder else "none"


def _exported(runtime: Resight, since: datetime | None) -> Iterator[dict[str, Any]]:
    with runtime.sessions() as session:
        for query in records.export_queries(session, since):
            yield _export_row(query)


def _export_row(query: records.QueryRow) -> dict[str, Any]:
    answer = query.answer
    default = answer["default_answer"]
    individual = default["individual"] or {}
    best = answer["matches"][0] if answer["matches"] else None
    return {
        "query_id": str(query.id),
        "created_at": query.created_at.isoformat(),
        "kind": str(query.kind),
        "principal": query.principal,
        "image": " | ".join(photo.file_name or "" for photo in query.photos),
        "gate_state": answer["gate"]["state"],
        "gate_score": answer["gate"]["score"],
        "status": default["status"],
        "individual": individual.get("name"),
        "taxon": individual.get("taxon"),
        "probability": default["probability"],
        "best_match": best["individual"]["name"] if best else None,
        "best_score": best["score"] if best else None,
        "model": default["model"] or answer["gate"]["model"],
    }


def _as_json(rows: Iterator[dict[str, Any]]) -> Iterator[str]:
    separator = "["
    for row in rows:
        yield separator + json.dumps(row)
        separator = ","
    yield "[]" if separator == "[" else "]"
