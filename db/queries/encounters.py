"""Encounters with their photos: who was seen together, where and when."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Row, text
from sqlalchemy.orm import Session

from db.errors import NotFound, translated
from db.queries.media import SHOWN_INDIVIDUAL, BoxPx, box_of
from db.queries.paging import Page, make_page, read_cursor
from db.queries.taxa import find_taxa

COVERS = 4


@dataclass(frozen=True, slots=True)
class EncounterRow:
    """`catalogue` is its name; positions in decimal degrees."""

    id: UUID
    catalogue_id: UUID
    catalogue: str
    external_id: str | None
    started_at: datetime | None
    ended_at: datetime | None
    place: str | None
    latitude: float | None
    longitude: float | None
    observer: str | None
    notes: str | None
    created_at: datetime


@dataclass(frozen=True, slots=True)
class ShownRow:
    """An annotation as it is shown and edited, with what its photo's header told. The individual is
    that after merges; `taxon` its scientific name, or else the annotation's own."""

    id: int
    catalogue_id: UUID
    catalogue: str
    media_id: int
    encounter_id: UUID | None
    name: str | None
    taken_at: datetime | None
    latitude: float | None
    longitude: float | None
    photographer: str | None
    width_px: int
    height_px: int
    box_px: BoxPx | None
    viewpoint: str | None
    body_part: str | None
    is_reference: bool
    matchable: bool
    taxon: str | None
    individual_id: UUID | None
    individual_name: str | None
    created_at: datetime


@dataclass(frozen=True, slots=True)
class SeenRow:
    """An individual of an encounter; `photos` of the encounter show it."""

    encounter_id: UUID
    id: UUID
    name: str
    taxon: str | None
    taxon_common: str | None
    photos: int


@dataclass(frozen=True, slots=True)
class QueryRow:
    """A question about an encounter."""

    id: UUID
    state: str | None
    created_at: datetime


@dataclass(frozen=True, slots=True)
class EncounterSummary:
    """`covers` are the first photos as (annotation id, media id)."""

    encounter: EncounterRow
    photo_count: int
    unnamed: int
    covers: tuple[tuple[int, int], ...]
    individuals: tuple[SeenRow, ...]


@dataclass(frozen=True, slots=True)
class EncounterFilters:
    """`place` is part of the encounter's place, `taxon` any name of a taxon seen in it; the dates
    compare with its start, `date_to` exclusive; `individual` was seen in it, merges followed. What
    is left out filters nothing."""

    place: str | None = None
    taxon: str | None = None
    date_from: datetime | None = None
    date_to: datetime | None = None
    individual: UUID | None = None
    catalogue: str | None = None
    unnamed: bool = False
    """Only those with a photo that shows nobody known."""


_ENCOUNTER = """
    SELECT e.id, e.catalogue_id, c.name AS catalogue, e.external_id, e.started_at, e.ended_at,
        e.place, e.latitude, e.longitude, e.observer, e.notes, e.created_at
    FROM encounter e JOIN catalogue c ON c.id = e.catalogue_id
"""


def get_encounter(session: Session, encounter_id: UUID, *, lock: bool = False) -> EncounterRow:
    """The encounter; with `lock` nobody else changes it until the transaction ends.

    Raises:
        NotFound: no encounter has this id.
    """
    locked = " FOR UPDATE OF e" if lock else ""
    row = session.execute(
        text(f"{_ENCOUNTER} WHERE e.id = :id{locked}"), {"id": encounter_id}
    ).one_or_none()
    if row is None:
        raise NotFound(
            "encounter_unknown",
            f"No encounter has the id {encounter_id}.",
            encounter_id=str(encounter_id),
        )
    return EncounterRow(*row)


def add_encounter(
    session: Session,
    *,
    catalogue_id: UUID,
    started_at: datetime | None,
    ended_at: datetime | None,
    place: str | None,
    latitude: float | None,
    longitude: float | None,
    observer: str | None,
    notes: str | None,
) -> UUID:
    """A new encounter; its id.

    Raises:
        Invalid: the times or the position are impossible.
    """
    with translated():
        made: UUID = session.execute(
            text(
                "INSERT INTO encounter (catalogue_id, started_at, ended_at, place, latitude,"
                " longitude, observer, notes) VALUES (:catalogue, :started, :ended, :place,"
                " :latitude, :longitude, :observer, :notes) RETURNING id"
            ),
            {
                "catalogue": catalogue_id,
                "started": started_at,
                "ended": ended_at,
                "place": place,
                "latitude": latitude,
                "longitude": longitude,
                "observer": observer,
                "notes": notes,
            },
        ).scalar_one()
    return made


def drop_empty_encounter(session: Session, encounter_id: UUID) -> bool:
    """Delete an encounter that no photo came into; whether it was empty."""
    gone = session.execute(
        text(
            "DELETE FROM encounter WHERE id = :id AND NOT EXISTS"
            " (SELECT FROM annotation WHERE encounter_id = :id) RETURNING id"
        ),
        {"id": encounter_id},
    ).one_or_none()
    return gone is not None


# ---------------------------------------------------------------- annotations

_SHOWN = f"""
    SELECT a.id, a.catalogue_id, c.name AS catalogue, a.media_id, a.encounter_id,
        coalesce(m.original_name, a.source_ref) AS name, m.taken_at, m.latitude, m.longitude,
        m.photographer, m.width_px, m.height_px, a.box_x_px, a.box_y_px, a.box_w_px, a.box_h_px,
        a.viewpoint, a.body_part, a.is_reference, a.matchable, t.scientific_name AS taxon,
        i.id AS individual_id, n.name AS individual_name, a.created_at
    FROM annotation a
    JOIN media_asset m ON m.id = a.media_id
    JOIN catalogue c ON c.id = a.catalogue_id
    {SHOWN_INDIVIDUAL}
    LEFT JOIN individual_name n ON n.individual_id = i.id AND n.is_primary
    LEFT JOIN taxon t ON t.id = coalesce(i.taxon_id, a.taxon_id)
"""


def _shown(row: Row[Any]) -> ShownRow:
    return ShownRow(
        id=row.id,
        catalogue_id=row.catalogue_id,
        catalogue=row.catalogue,
        media_id=row.media_id,
        encounter_id=row.encounter_id,
        name=row.name,
        taken_at=row.taken_at,
        latitude=row.latitude,
        longitude=row.longitude,
        photographer=row.photographer,
        width_px=row.width_px,
        height_px=row.height_px,
        box_px=box_of(row),
        viewpoint=row.viewpoint,
        body_part=row.body_part,
        is_reference=row.is_reference,
        matchable=row.matchable,
        taxon=row.taxon,
        individual_id=row.individual_id,
        individual_name=row.individual_name,
        created_at=row.created_at,
    )


def get_shown(session: Session, annotation_id: int, *, lock: bool = False) -> ShownRow:
    """The annotation; with `lock` nobody else changes it until the transaction ends.

    Raises:
        NotFound: no annotation has this id.
    """
    locked = " FOR UPDATE OF a" if lock else ""
    row = session.execute(
        text(f"{_SHOWN} WHERE a.id = :id{locked}"), {"id": annotation_id}
    ).one_or_none()
    if row is None:
        raise NotFound(
            "annotation_unknown",
            f"No annotation has the id {annotation_id}.",
            annotation_id=annotation_id,
        )
    return _shown(row)


def shown_among(session: Session, annotation_ids: Iterable[int]) -> dict[int, ShownRow]:
    """The annotations that exist among these, by id."""
    rows = session.execute(
        text(f"{_SHOWN} WHERE a.id = ANY(:ids)"), {"ids": sorted(set(annotation_ids))}
    )
    return {row.id: _shown(row) for row in rows}


def shown_of(session: Session, encounter_id: UUID) -> list[ShownRow]:
    """The annotations of an encounter in the order in which their photos were taken."""
    rows = session.execute(
        text(f"{_SHOWN} WHERE a.encounter_id = :id ORDER BY m.taken_at, a.id"),
        {"id": encounter_id},
    )
    return [_shown(row) for row in rows]


def shown_on(session: Session, media_id: int, catalogue_id: UUID) -> list[ShownRow]:
    """The annotations of a photo in a catalogue: those that show somebody known first."""
    rows = session.execute(
        text(
            f"{_SHOWN} WHERE a.media_id = :media AND a.catalogue_id = :catalogue"
            " ORDER BY a.individual_id IS NULL, a.id"
        ),
        {"media": media_id, "catalogue": catalogue_id},
    )
    return [_shown(row) for row in rows]


# ---------------------------------------------------------------- who, and what was asked


def seen_together(session: Session, encounter_ids: Sequence[UUID]) -> list[SeenRow]:
    """The individuals in these encounters, merges followed, most photos first."""
    rows = session.execute(
        text(
            "SELECT a.encounter_id, i.id, coalesce(n.name, i.id::text), t.scientific_name,"
            " t.common_name, count(DISTINCT a.media_id) AS photos"
            " FROM annotation a JOIN individual named ON named.id = a.individual_id"
            " JOIN individual i ON i.id = coalesce(named.merged_into_id, named.id)"
            " LEFT JOIN individual_name n ON n.individual_id = i.id AND n.is_primary"
            " LEFT JOIN taxon t ON t.id = i.taxon_id"
            " WHERE a.encounter_id = ANY(:ids) GROUP BY a.encounter_id, i.id, n.name, t.id"
            " ORDER BY a.encounter_id, photos DESC, 3"
        ),
        {"ids": list(encounter_ids)},
    )
    return [SeenRow(*row) for row in rows]


def queries_of(session: Session, encounter_id: UUID) -> list[QueryRow]:
    """What was asked about an encounter, newest first."""
    rows = session.execute(
        text(
            "SELECT id, state, created_at FROM query WHERE encounter_id = :id"
            " ORDER BY created_at DESC, id"
        ),
        {"id": encounter_id},
    )
    return [QueryRow(*row) for row in rows]


def queries_about(session: Session, annotation_ids: Sequence[int]) -> dict[int, QueryRow]:
    """The newest question of the desk about each of these annotations that was asked about."""
    rows = session.execute(
        text(
            "SELECT DISTINCT ON (p.annotation_id) p.annotation_id, q.id, q.state, q.created_at"
            " FROM query_photo p JOIN query q ON q.id = p.query_id AND q.state IS NOT NULL"
            " WHERE p.annotation_id = ANY(:ids) ORDER BY p.annotation_id, q.created_at DESC, q.id"
        ),
        {"ids": list(annotation_ids)},
    )
    return {row[0]: QueryRow(*row[1:]) for row in rows}


# ---------------------------------------------------------------- lists


@translated()
def list_encounters(
    session: Session,
    filters: EncounterFilters | None = None,
    *,
    newest_first: bool = True,
    limit: int = 50,
    cursor: str | None = None,
) -> Page[EncounterSummary]:
    """Encounters by their start, or without one by when they were made, `limit` a page.

    A walk over all pages shows each encounter that was there, and is not moved meanwhile, once.
    """
    filters = filters or EncounterFilters()
    after = read_cursor(cursor, datetime.fromisoformat, UUID)
    conditions = _conditions(filters)
    if after is not None:
        sign = "<" if newest_first else ">"
        conditions.append(f"({_WHEN}, e.id) {sign} (:after_at, :after_id)")
    order = "DESC" if newest_first else "ASC"
    rows = session.execute(
        text(
            f"{_ENCOUNTER} WHERE {' AND '.join(conditions)}"
            f" ORDER BY {_WHEN} {order}, e.id {order} LIMIT :limit + 1"
        ),
        {
            "place": filters.place,
            "taxa": find_taxa(session, [filters.taxon]) if filters.taxon else [],
            "date_from": filters.date_from,
            "date_to": filters.date_to,
            "individual": filters.individual,
            "catalogue": filters.catalogue,
            "after_at": after and after[0],
            "after_id": after and after[1],
            "limit": limit,
        },
    )
    page = make_page(
        [EncounterRow(*row) for row in rows],
        limit,
        lambda row: (row.started_at or row.created_at, row.id),
    )
    return Page(_summaries(session, page.items), page.next_cursor)


_WHEN = "coalesce(e.started_at, e.created_at)"


def _conditions(filters: EncounterFilters) -> list[str]:
    made = {
        "strpos(lower(e.place), lower(:place)) > 0": filters.place,
        f"EXISTS (SELECT FROM annotation a {SHOWN_INDIVIDUAL}"
        " WHERE a.encounter_id = e.id AND coalesce(i.taxon_id, a.taxon_id) = ANY(:taxa))": (
            filters.taxon
        ),
        "e.started_at >= :date_from": filters.date_from,
        "e.started_at < :date_to": filters.date_to,
        "e.id IN (SELECT a.encounter_id FROM annotation a JOIN individual named"
        " ON named.id = a.individual_id WHERE coalesce(named.merged_into_id, named.id) ="
        " (SELECT coalesce(merged_into_id, id) FROM individual WHERE id = :individual))": (
            filters.individual
        ),
        "lower(c.name) = lower(:catalogue)": filters.catalogue,
        "EXISTS (SELECT FROM annotation a WHERE a.encounter_id = e.id"
        " AND a.individual_id IS NULL AND a.matchable)": filters.unnamed,
    }
    return ["true", *(condition for condition, value in made.items() if value)]


def _summaries(
    session: Session, encounters: Sequence[EncounterRow]
) -> tuple[EncounterSummary, ...]:
    ids = [encounter.id for encounter in encounters]
    seen: dict[UUID, list[SeenRow]] = {}
    for row in seen_together(session, ids):
        seen.setdefault(row.encounter_id, []).append(row)
    counted = {
        row.encounter_id: row
        for row in session.execute(
            text(
                "SELECT a.encounter_id, count(DISTINCT a.media_id) AS photos,"
                " count(*) FILTER (WHERE a.individual_id IS NULL AND a.matchable) AS unnamed,"
                f" (array_agg(a.id ORDER BY m.taken_at, a.id))[1:{COVERS}] AS annotations,"
                f" (array_agg(a.media_id ORDER BY m.taken_at, a.id))[1:{COVERS}] AS media"
                " FROM annotation a JOIN media_asset m ON m.id = a.media_id"
                " WHERE a.encounter_id = ANY(:ids) GROUP BY a.encounter_id"
            ),
            {"ids": ids},
        )
    }
    return tuple(
        EncounterSummary(
            encounter=encounter,
            photo_count=counts.photos if (counts := counted.get(encounter.id)) else 0,
            unnamed=counts.unnamed if counts else 0,
            covers=tuple(zip(counts.annotations, counts.media, strict=True)) if counts else (),
            individuals=tuple(seen.get(encounter.id, ())),
        )
        for encounter in encounters
    )
