"""The catalogue as one line for each annotation, for tables elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from db.queries.media import SHOWN_INDIVIDUAL, BoxPx, box_of

_BATCH = 1_000


@dataclass(frozen=True, slots=True)
class ExportedAnnotation:
    """One annotation with all that is known of it; the individual is the one after merges."""

    annotation_id: int
    sha256: str
    media_type: str
    original_name: str | None
    individual_id: UUID | None
    name: str | None
    taxon: str | None
    box_px: BoxPx | None
    viewpoint: str | None
    body_part: str | None
    encounter_id: UUID | None
    at: datetime | None
    place: str | None


def export_annotations(session: Session) -> Iterator[ExportedAnnotation]:
    """Every annotation, ascending by id, a thousand at a time."""
    after = 0
    while True:
        rows = session.execute(_PAGE, {"after": after, "limit": _BATCH}).all()
        if not rows:
            return
        after = rows[-1].id
        for row in rows:
            yield ExportedAnnotation(
                annotation_id=row.id,
                sha256=row.sha256,
                media_type=row.media_type,
                original_name=row.original_name,
                individual_id=row.individual_id,
                name=row.name,
                taxon=row.taxon,
                box_px=box_of(row),
                viewpoint=row.viewpoint,
                body_part=row.body_part,
                encounter_id=row.encounter_id,
                at=row.at,
                place=row.place,
            )


_PAGE = text(
    "SELECT a.id, m.sha256, m.media_type, m.original_name, i.id AS individual_id, n.name,"
    " t.scientific_name AS taxon, a.box_x_px, a.box_y_px, a.box_w_px, a.box_h_px, a.viewpoint,"
    " a.body_part, a.encounter_id, coalesce(m.taken_at, e.started_at) AS at, e.place"
    " FROM annotation a JOIN media_asset m ON m.id = a.media_id"
    f" {SHOWN_INDIVIDUAL}"
    " LEFT JOIN individual_name n ON n.individual_id = i.id AND n.is_primary"
    " LEFT JOIN taxon t ON t.id = coalesce(i.taxon_id, a.taxon_id)"
    " LEFT JOIN encounter e ON e.id = a.encounter_id"
    " WHERE a.id > :after ORDER BY a.id LIMIT :limit"
)
