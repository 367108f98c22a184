"""An individual as its page shows it: photos by viewpoint and by time, encounters, names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Row, text
from sqlalchemy.orm import Session

from db.queries.media import SHOWN_INDIVIDUAL, BoxPx, box_of
from db.queries.paging import Page, make_page, read_cursor


@dataclass(frozen=True, slots=True)
class PortraitPhoto:
    """A photo with what is written under it; `individual_id` after merges. `seen_at` is the start
    of the encounter, or else the time the photo was taken."""

    annotation_id: int
    media_id: int
    individual_id: UUID | None
    individual_name: str | None
    encounter_id: UUID | None
    viewpoint: str | None
    body_part: str | None
    is_reference: bool
    matchable: bool
    seen_at: datetime | None
    place: str | None
    file_name: str | None
    photographer: str | None
    width_px: int
    height_px: int
    box_px: BoxPx | None


@dataclass(frozen=True, slots=True)
class SeenRow:
    """An encounter in which an individual was seen, with how many photos show it there."""

    id: UUID
    started_at: datetime | None
    place: str | None
    latitude: float | None
    longitude: float | None
    photos: int


@dataclass(frozen=True, slots=True)
class NameRow:
    """One name, and the catalogue inside which it means this individual."""

    id: int
    name: str
    catalogue: str
    is_primary: bool


@dataclass(frozen=True, slots=True)
class Tally:
    """How much there is of an individual, merges included."""

    photos: int
    references: int
    not_for_matching: int
    encounters: int


_OWN = """a.individual_id IN (
    SELECT id FROM individual WHERE id = :individual OR merged_into_id = :individual)"""

_PHOTO = f"""
    SELECT a.id, a.media_id, i.id AS individual_id, n.name AS individual_name, a.encounter_id,
        a.viewpoint, a.body_part, a.is_reference, a.matchable,
        coalesce(e.started_at, m.taken_at) AS seen_at, e.place, m.original_name, m.photographer,
        m.width_px, m.height_px, a.box_x_px, a.box_y_px, a.box_w_px, a.box_h_px,
        coalesce(e.started_at, m.taken_at, a.created_at) AS key
    FROM annotation a
    JOIN media_asset m ON m.id = a.media_id
    LEFT JOIN encounter e ON e.id = a.encounter_id
    {SHOWN_INDIVIDUAL}
    LEFT JOIN individual_name n ON n.individual_id = i.id AND n.is_primary
"""

_AREA = "coalesce(a.box_w_px::bigint * a.box_h_px, m.width_px::bigint * m.height_px)"


def _photo(row: Row[Any]) -> PortraitPhoto:
    return PortraitPhoto(
        annotation_id=row.id,
        media_id=row.media_id,
        individual_id=row.individual_id,
        individual_name=row.individual_name,
        encounter_id=row.encounter_id,
        viewpoint=row.viewpoint,
        body_part=row.body_part,
        is_reference=row.is_reference,
        matchable=row.matchable,
        seen_at=row.seen_at,
        place=row.place,
        file_name=row.original_name,
        photographer=row.photographer,
        width_px=row.width_px,
        height_px=row.height_px,
        box_px=box_of(row),
    )


def best_photos(session: Session, individual_id: UUID) -> list[PortraitPhoto]:
    """One photo of each viewpoint and body part: a chosen reference, or else the largest region
    that is searched; the viewpoints with references first, then by name, unknown last."""
    rows = session.execute(
        text(
            f"SELECT * FROM (SELECT DISTINCT ON (lower(photo.viewpoint), lower(photo.body_part))"
            f" photo.* FROM ({_PHOTO} WHERE {_OWN}) photo"
            " JOIN annotation a ON a.id = photo.id JOIN media_asset m ON m.id = photo.media_id"
            " ORDER BY lower(photo.viewpoint), lower(photo.body_part), photo.is_reference DESC,"
            f" photo.matchable DESC, {_AREA} DESC, photo.id) best"
            " ORDER BY is_reference DESC, lower(viewpoint) NULLS LAST, lower(body_part) NULLS LAST"
        ),
        {"individual": individual_id},
    )
    return [_photo(row) for row in rows]


def photos_of(
    session: Session,
    individual_id: UUID,
    *,
    viewpoint: str | None = None,
    limit: int = 60,
    cursor: str | None = None,
) -> Page[PortraitPhoto]:
    """Photos of an individual and of those merged into it, the latest first."""
    after = read_cursor(cursor, datetime.fromisoformat, int)
    conditions = [_OWN]
    if viewpoint is not None:
        conditions.append("lower(coalesce(a.viewpoint, '')) = lower(:viewpoint)")
    if after is not None:
        conditions.append(
            "(coalesce(e.started_at, m.taken_at, a.created_at), a.id) < (:after_at, :after_id)"
        )
    rows = session.execute(
        text(
            f"{_PHOTO} WHERE {' AND '.join(conditions)} ORDER BY key DESC, a.id DESC"
            " LIMIT :limit + 1"
        ),
        {
            "individual": individual_id,
            "viewpoint": viewpoint,
            "after_at": after and after[0],
            "after_id": after and after[1],
            "limit": limit,
        },
    ).all()
    page = make_page(rows, limit, lambda row: (row.key, row.id))
    return Page(tuple(_photo(row) for row in page.items), page.next_cursor)


def photos_by_id(session: Session, annotation_ids: Sequence[int]) -> list[PortraitPhoto]:
    """Those of the annotations that exist, in the order asked for."""
    rows = session.execute(
        text(
            f"{_PHOTO} JOIN unnest(cast(:ids AS bigint[])) WITH ORDINALITY AS wanted(id, place)"
            " ON wanted.id = a.id ORDER BY wanted.place"
        ),
        {"ids": list(annotation_ids)},
    )
    return [_photo(row) for row in rows]


def encounters_of(session: Session, individual_id: UUID) -> list[SeenRow]:
    """Encounters of an individual and of those merged into it, the latest first."""
    rows = session.execute(
        text(
            "SELECT e.id, e.started_at, e.place, e.latitude, e.longitude,"
            " count(DISTINCT a.media_id) AS photos"
            f" FROM annotation a JOIN encounter e ON e.id = a.encounter_id WHERE {_OWN}"
            " GROUP BY e.id ORDER BY e.started_at DESC NULLS LAST, e.id"
        ),
        {"individual": individual_id},
    )
    return [SeenRow(*row) for row in rows]


def names_of(session: Session, individual_id: UUID) -> list[NameRow]:
    """Names of an individual, the primary one first."""
    rows = session.execute(
        text(
            "SELECT n.id, n.name, c.name, n.is_primary FROM individual_name n"
            " JOIN catalogue c ON c.id = n.catalogue_id WHERE n.individual_id = :individual"
            " ORDER BY n.is_primary DESC, lower(c.name), n.id"
        ),
        {"individual": individual_id},
    )
    return [NameRow(*row) for row in rows]


def tally(session: Session, individual_id: UUID) -> Tally:
    """How much there is of an individual, merges included."""
    row = session.execute(
        text(
            "SELECT count(DISTINCT a.media_id), count(*) FILTER (WHERE a.is_reference),"
            " count(*) FILTER (WHERE NOT a.matchable), count(DISTINCT a.encounter_id)"
            f" FROM annotation a WHERE {_OWN}"
        ),
        {"individual": individual_id},
    ).one()
    return Tally(*row)


def names_by_id(session: Session, ids: Sequence[UUID]) -> dict[UUID, str]:
    """What the individuals are called, those they were merged into where they were; one that was
    withdrawn has no name and is missing."""
    rows = session.execute(
        text(
            "SELECT i.id, n.name FROM individual i JOIN individual_name n"
            " ON n.individual_id = coalesce(i.merged_into_id, i.id) AND n.is_primary"
            " WHERE i.id = ANY(:ids)"
        ),
        {"ids": list(ids)},
    )
    return {row.id: row.name for row in rows}


def viewpoints(session: Session) -> tuple[list[str], list[str]]:
    """(viewpoints, body parts) that annotations have, most common first: what a form suggests."""
    found = []
    for column in ("viewpoint", "body_part"):
        rows = session.scalars(
            text(
                f"SELECT min({column}) FROM annotation WHERE {column} IS NOT NULL"
                f" GROUP BY lower({column}) ORDER BY count(*) DESC, lower({column}) LIMIT 20"
            )
        )
        found.append(list(rows))
    return found[0], found[1]
