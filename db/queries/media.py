"""What is stored: photos, and the annotations that say who is on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Row, text
from sqlalchemy.orm import Session

from db.errors import Conflict, Invalid, NotFound, translated
from db.queries.paging import Page, make_page, read_cursor

BoxPx = tuple[int, int, int, int]
"""x, y, width, height in pixels of the oriented photo."""


@dataclass(frozen=True, slots=True)
class MediaRow:
    """`location` is the URI of the bytes where they were left in place, None where the media store
    has them. `created`: this call made the row. `perceptual_hash` is a signed 64-bit dHash. The
    position and the photographer are what the photo's header tells."""

    id: int
    sha256: str
    media_type: str
    byte_size: int
    width_px: int
    height_px: int
    original_name: str | None
    taken_at: datetime | None
    perceptual_hash: int | None
    location: str | None = None
    latitude: float | None = None
    longitude: float | None = None
    photographer: str | None = None
    created: bool = False


@dataclass(frozen=True, slots=True)
class AnnotationRow:
    """`individual_id` after merges, None while unknown; `box_px` None for the whole photo;
    `taxon` is the scientific name of the individual's taxon, or else of the annotation's."""

    id: int
    catalogue_id: UUID
    media_id: int
    sha256: str
    individual_id: UUID | None
    individual_name: str | None
    encounter_id: UUID | None
    taxon: str | None
    box_px: BoxPx | None
    viewpoint: str | None
    source_ref: str | None
    created_at: datetime


_MEDIA = (
    "id, sha256, media_type, byte_size, width_px, height_px, original_name, taken_at,"
    " perceptual_hash, location, latitude, longitude, photographer"
)


def ensure_media(
    session: Session,
    *,
    sha256: str,
    media_type: str,
    byte_size: int,
    width_px: int,
    height_px: int,
    original_name: str | None = None,
    taken_at: datetime | None = None,
    perceptual_hash: int | None = None,
    location: str | None = None,
    latitude: float | None = None,
    longitude: float | None = None,
    photographer: str | None = None,
) -> MediaRow:
    """The photo with these bytes, added when it is new; any number of callers get one row.

    Without `location` the caller has put the bytes into the media store, so that a row that pointed
    elsewhere now points there; with it, a row that is there already is left as it is.

    Raises:
        Invalid: a size is not positive, or `sha256` is not 64 lower-case hexadecimal digits.
    """
    with translated():
        made = session.execute(
            text(
                "INSERT INTO media_asset (sha256, media_type, byte_size, width_px, height_px,"
                " original_name, taken_at, perceptual_hash, location, latitude, longitude,"
                " photographer) VALUES (:sha256, :media_type, :byte_size, :width_px, :height_px,"
                " :original_name, :taken_at, :perceptual_hash, :location, :latitude, :longitude,"
                " :photographer)"
                f" ON CONFLICT (sha256) DO NOTHING RETURNING {_MEDIA}"
            ),
            {
                "sha256": sha256,
                "media_type": media_type,
                "byte_size": byte_size,
                "width_px": width_px,
                "height_px": height_px,
                # PostgreSQL's text holds every character but this one.
                "original_name": original_name and original_name.replace("\x00", ""),
                "taken_at": taken_at,
                "perceptual_hash": perceptual_hash,
                "location": location,
                "latitude": latitude,
                "longitude": longitude,
                "photographer": photographer,
            },
        ).one_or_none()
    if made is not None:
        return replace(MediaRow(*made), created=True)
    found = find_media(session, sha256)
    if found is None:  # only where the snapshot is older than another's insert
        raise Conflict("media_exists", f"Photo {sha256} was just added by another; try again.")
    if found.location is not None and location is None:
        move_media(session, found.id, None)
        return replace(found, location=None)
    return found


def move_media(session: Session, media_id: int, location: str | None) -> None:
    """Say where a photo's bytes lie now: at a URI, or (None) in the media store.

    Raises:
        Invalid: `location` is no URI.
    """
    with translated():
        session.execute(
            text("UPDATE media_asset SET location = :location WHERE id = :id"),
            {"id": media_id, "location": location},
        )


@translated()
def find_media(session: Session, sha256: str) -> MediaRow | None:
    row = session.execute(
        text(f"SELECT {_MEDIA} FROM media_asset WHERE sha256 = :sha256"), {"sha256": sha256}
    ).one_or_none()
    return None if row is None else MediaRow(*row)


def get_media(session: Session, media_id: int) -> MediaRow:
    """Raises:
    NotFound: no photo has this id.
    """
    row = session.execute(
        text(f"SELECT {_MEDIA} FROM media_asset WHERE id = :id"), {"id": media_id}
    ).one_or_none()
    if row is None:
        raise NotFound("media_unknown", f"No photo has the id {media_id}.", media_id=media_id)
    return MediaRow(*row)


def known_media(session: Session, sha256s: Sequence[str]) -> set[str]:
    """Which of these photos have a row."""
    rows = session.scalars(
        text("SELECT sha256 FROM media_asset WHERE sha256 = ANY(:sha256s)"),
        {"sha256s": list(sha256s)},
    )
    return set(rows)


def list_media(session: Session, *, after_id: int = 0, limit: int = 1000) -> list[MediaRow]:
    """Photos with an id greater than `after_id`, ascending."""
    rows = session.execute(
        text(f"SELECT {_MEDIA} FROM media_asset WHERE id > :after ORDER BY id LIMIT :limit"),
        {"after": after_id, "limit": limit},
    )
    return [MediaRow(*row) for row in rows]


# ---------------------------------------------------------------- annotations

SHOWN_INDIVIDUAL = """
    LEFT JOIN individual named ON named.id = a.individual_id
    LEFT JOIN individual i ON i.id = coalesce(named.merged_into_id, named.id)
"""
"""Joins that follow `annotation a`: `i` is whom it shows after merges, null while nobody knows."""

_ANNOTATION = f"""
    SELECT a.id, a.catalogue_id, a.media_id, m.sha256, i.id AS individual_id,
        n.name AS individual_name, a.encounter_id, t.scientific_name AS taxon,
        a.box_x_px, a.box_y_px, a.box_w_px, a.box_h_px, a.viewpoint, a.source_ref, a.created_at
    FROM annotation a
    JOIN media_asset m ON m.id = a.media_id
    {SHOWN_INDIVIDUAL}
    LEFT JOIN individual_name n ON n.individual_id = i.id AND n.is_primary
    LEFT JOIN taxon t ON t.id = coalesce(i.taxon_id, a.taxon_id)
"""


def box_of(row: Row[Any]) -> BoxPx | None:
    """The box of a row with its four columns; None for the whole photo."""
    if row.box_x_px is None:
        return None
    return row.box_x_px, row.box_y_px, row.box_w_px, row.box_h_px


def _annotation(row: Row[Any]) -> AnnotationRow:
    return AnnotationRow(
        id=row.id,
        catalogue_id=row.catalogue_id,
        media_id=row.media_id,
        sha256=row.sha256,
        individual_id=row.individual_id,
        individual_name=row.individual_name,
        encounter_id=row.encounter_id,
        taxon=row.taxon,
        box_px=box_of(row),
        viewpoint=row.viewpoint,
        source_ref=row.source_ref,
        created_at=row.created_at,
    )


def get_annotation(session: Session, annotation_id: int) -> AnnotationRow:
    """Raises:
    NotFound: no annotation has this id.
    """
    row = session.execute(
        text(f"{_ANNOTATION} WHERE a.id = :id"), {"id": annotation_id}
    ).one_or_none()
    if row is None:
        raise NotFound(
            "annotation_unknown",
            f"No annotation has the id {annotation_id}.",
            annotation_id=annotation_id,
        )
    return _annotation(row)


def get_annotations(session: Session, ids: list[int]) -> dict[int, AnnotationRow]:
    """The annotations that exist among `ids`, by id."""
    rows = session.execute(text(f"{_ANNOTATION} WHERE a.id = ANY(:ids)"), {"ids": ids})
    return {row.id: _annotation(row) for row in rows}


def annotations_on(session: Session, media_id: int) -> list[AnnotationRow]:
    """Every annotation of a photo, in all catalogues, ascending by id."""
    rows = session.execute(
        text(f"{_ANNOTATION} WHERE a.media_id = :media ORDER BY a.id"), {"media": media_id}
    )
    return [_annotation(row) for row in rows]


def shown_elsewhere(session: Session, individual_id: UUID, media_ids: Sequence[int]) -> bool:
    """Whether an individual, merges included, is annotated on any photo but these."""
    found = session.execute(
        text(
            "SELECT EXISTS (SELECT FROM annotation WHERE individual_id IN (SELECT id FROM"
            " individual WHERE id = :individual OR merged_into_id = :individual)"
            " AND media_id <> ALL (CAST(:media AS bigint[])))"
        ),
        {"individual": individual_id, "media": list(media_ids)},
    )
    return bool(found.scalar_one())


def annotations_of(
    session: Session, individual_id: UUID, limit: int = 50, cursor: str | None = None
) -> Page[AnnotationRow]:
    """Annotations of an individual and of those merged into it, ascending by id."""
    after = read_cursor(cursor, int)
    rows = session.execute(
        text(
            f"{_ANNOTATION} WHERE a.individual_id IN (SELECT id FROM individual"
            " WHERE id = :individual OR merged_into_id = :individual)"
            " AND a.id > :after ORDER BY a.id LIMIT :limit + 1"
        ),
        {"individual": individual_id, "after": after[0] if after else 0, "limit": limit},
    )
    return make_page([_annotation(row) for row in rows], limit, lambda row: (row.id,))


def ensure_annotation(
    session: Session,
    *,
    catalogue_id: UUID,
    media_id: int,
    individual_id: UUID | None,
    encounter_id: UUID | None = None,
    taxon_id: int | None = None,
    box_px: BoxPx | None = None,
    viewpoint: str | None = None,
    body_part: str | None = None,
    source_ref: str | None = None,
) -> tuple[AnnotationRow, bool]:
    """The annotation of this region of this photo, and whether this call made it.

    A region is annotated once in a catalogue. One that nobody had named yet gets the individual
    (and the encounter, taxon, viewpoint and body part where they were missing); what is known is
    kept.

    Raises:
        Conflict: `annotation_belongs_to_other`: the region is another individual's;
            `values` hold both individuals and the annotation.
        Invalid: the box is empty or starts outside the photo.
        NotFound: the photo, individual, encounter or taxon does not exist.
    """
    values: dict[str, Any] = {
        "catalogue_id": catalogue_id,
        "media_id": media_id,
        "individual_id": individual_id,
        "encounter_id": encounter_id,
        "taxon_id": taxon_id,
        "viewpoint": viewpoint,
        "body_part": body_part,
        "source_ref": source_ref,
        **dict(zip(("x", "y", "w", "h"), box_px or (None,) * 4, strict=True)),
    }
    check_box(session, media_id, box_px)
    with translated():
        made = session.scalar(
            text(
                "INSERT INTO annotation (catalogue_id, media_id, individual_id, encounter_id,"
                " taxon_id, box_x_px, box_y_px, box_w_px, box_h_px, viewpoint, body_part,"
                " source_ref) VALUES (:catalogue_id, :media_id, :individual_id, :encounter_id,"
                " :taxon_id, :x, :y, :w, :h, :viewpoint, :body_part, :source_ref)"
                " ON CONFLICT (catalogue_id, media_id, box_x_px, box_y_px, box_w_px, box_h_px)"
                " DO NOTHING RETURNING id"
            ),
            values,
        )
        if made is not None:
            return get_annotation(session, made), True
        return _name_annotation(session, values), False


def check_box(session: Session, media_id: int, box_px: BoxPx | None) -> None:
    """Raises:
    NotFound: no photo has this id.
    Invalid: `box_invalid`: the box is empty or reaches over the photo's edges.
    """
    if box_px is None:
        return
    media = get_media(session, media_id)
    x, y, width, height = box_px
    inside = x + width <= media.width_px and y + height <= media.height_px
    if x < 0 or y < 0 or width <= 0 or height <= 0 or not inside:
        raise Invalid(
            "box_invalid",
            f"The box x={x}, y={y}, width={width}, height={height} does not lie inside the photo "
            f"of {media.width_px} × {media.height_px} pixels; give it in pixels of the photo "
            "turned upright.",
            box_px=list(box_px),
            width_px=media.width_px,
            height_px=media.height_px,
        )


def belongs_to_other(annotation_id: int, shown: UUID | None, wanted: UUID) -> Conflict:
    """The error for an annotation that shows another individual than the one wanted."""
    return Conflict(
        "annotation_belongs_to_other",
        f"This region of the photo is annotated as individual {shown}, not {wanted}; correct that "
        "annotation, or give a box for the other animal.",
        annotation_id=annotation_id,
        individual_id=str(shown),
        wanted_individual_id=str(wanted),
    )


def _name_annotation(session: Session, values: dict[str, Any]) -> AnnotationRow:
    """The annotation that is there already, given the individual if it had none."""
    # Locked, so that of two callers with different individuals one sees the other's.
    found = session.execute(
        text(
            "SELECT a.id, a.individual_id,"
            " (SELECT coalesce(merged_into_id, id) FROM individual WHERE id = a.individual_id)"
            " IS NOT DISTINCT FROM"
            " (SELECT coalesce(merged_into_id, id) FROM individual"
            "  WHERE id = cast(:individual_id AS uuid)) AS same"
            " FROM annotation a WHERE a.catalogue_id = :catalogue_id AND a.media_id = :media_id"
            " AND (a.box_x_px, a.box_y_px, a.box_w_px, a.box_h_px) IS NOT DISTINCT FROM"
            " (cast(:x AS int), cast(:y AS int), cast(:w AS int), cast(:h AS int)) FOR UPDATE OF a"
        ),
        values,
    ).one_or_none()
    if found is None:
        raise Conflict(
            "annotation_exists", "This region was just annotated or removed by another; try again."
        )
    if found.same or values["individual_id"] is None:
        return get_annotation(session, found.id)
    if found.individual_id is not None:
        raise belongs_to_other(found.id, found.individual_id, values["individual_id"])
    session.execute(
        text(
            "UPDATE annotation SET individual_id = :individual_id,"
            " encounter_id = coalesce(encounter_id, :encounter_id),"
            " taxon_id = coalesce(taxon_id, :taxon_id),"
            " viewpoint = coalesce(viewpoint, :viewpoint),"
            " body_part = coalesce(body_part, :body_part),"
            " source_ref = coalesce(source_ref, :source_ref) WHERE id = :id"
        ),
        {**values, "id": found.id},
    )
    return get_annotation(session, found.id)
