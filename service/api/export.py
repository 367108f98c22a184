"""The catalogue as a table that other programs read, and that `resight import` reads again."""

from __future__ import annotations

import json
from collections.abc import Iterator

from fastapi.responses import StreamingResponse

from db.queries.exports import ExportedAnnotation, export_annotations
from service.api import api_router
from service.csv_text import csv_lines
from service.deps import Reviewer, Runtime
from service.runtime import Resight

router = api_router("individuals")
COLUMNS = (
    "image_id",
    "identity",
    "path",
    "bbox",
    "date",
    "orientation",
    "species",
    "encounter",
    "body_part",
    "place",
    "original_name",
    "individual_id",
)
UNKNOWN = "unknown"
"""What wildlife-datasets calls an individual that nobody has named."""


@router.get(
    "/v1/annotations.csv",
    summary="The catalogue as a wildlife-datasets CSV",
    response_class=StreamingResponse,
    responses={200: {"content": {"text/csv": {}}}},
)
def export_catalogue(_: Reviewer, runtime: Runtime) -> StreamingResponse:
    """A line for each annotation, streamed: `identity` is the name after merges, `path` the photo's
    SHA-256, under which `/v1/media` has it."""
    return StreamingResponse(
        csv_lines(_rows(runtime), COLUMNS),
        media_type="text/csv; charset=utf-8",
        headers={"Content-Disposition": 'attachment; filename="resight-catalogue.csv"'},
    )


def _rows(runtime: Resight) -> Iterator[dict[str, object]]:
    with runtime.sessions() as session:
        for one in export_annotations(session):
            yield _row(one)


def _row(one: ExportedAnnotation) -> dict[str, object]:
    return {
        "image_id": str(one.annotation_id),
        "identity": one.name or UNKNOWN,
        "path": f"{one.sha256}.{one.media_type.partition('/')[2]}",
        "bbox": json.dumps(one.box_px) if one.box_px else "",
        "date": f"{one.at:%Y-%m-%d %H:%M:%S}" if one.at else "",
        "orientation": one.viewpoint or "",
        "species": one.taxon or "",
        "encounter": str(one.encounter_id or ""),
        "body_part": one.body_part or "",
        "place": one.place or "",
        "original_name": one.original_name or "",
        "individual_id": str(one.individual_id or ""),
    }
