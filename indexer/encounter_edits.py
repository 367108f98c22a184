"""Owns how encounters and annotations are corrected, inside the caller's transaction.

Every edit is one change of the journal. It touches the annotation it names and no other, however
many animals the photo shows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from sqlalchemy.orm import Session

from db.errors import Invalid
from db.queries import catalogue, media
from db.queries import encounters as rows
from db.queries.changes import Actor, Journal
from db.queries.encounters import ShownRow
from db.queries.media import BoxPx
from indexer.encounter_answers import (
    AnnotationEdited,
    AnnotationsEdited,
    EncounterEdited,
    annotation_out,
    encounter_out,
)
from indexer.encounter_photos import check_position, clean
from indexer.etags import require_etag
from indexer.filling import Embed

OF_ENCOUNTERS: Final = frozenset(
    {"place", "latitude", "longitude", "started_at", "ended_at", "observer", "notes"}
)
OF_ANNOTATIONS: Final = frozenset(
    {"box_px", "viewpoint", "body_part", "encounter_id", "is_reference", "matchable"}
)
OF_MANY: Final = frozenset({"viewpoint", "body_part", "encounter_id"})
_BOX: Final = ("box_x_px", "box_y_px", "box_w_px", "box_h_px")


@dataclass(frozen=True, slots=True)
class NewRegion:
    """A region to be annotated on a photo that is stored; `box_px` None is the whole photo. Without
    `encounter_id` it belongs to the encounter of the photo's other regions, if they have one."""

    media_id: int
    box_px: BoxPx | None
    encounter_id: UUID | None = None
    viewpoint: str | None = None
    body_part: str | None = None
    taxon: str | None = None


def edit_encounter(
    session: Session,
    encounter_id: UUID,
    fields: Mapping[str, Any],
    if_match: str | None,
    actor: Actor,
) -> EncounterEdited:
    _check_fields(fields, OF_ENCOUNTERS)
    before = rows.get_encounter(session, encounter_id, lock=True)
    require_etag(if_match, encounter_out(before).etag, "The encounter")
    check_position(
        fields.get("latitude", before.latitude), fields.get("longitude", before.longitude)
    )
    journal = Journal(session)
    journal.update("encounter", encounter_id, {n: _value(v) for n, v in fields.items()})
    after = rows.get_encounter(session, encounter_id)
    detail = {"encounter_id": str(encounter_id), "place": after.place}
    change_id = _closed(journal, actor, "encounter.edit", detail)
    return EncounterEdited(encounter_out(after), change_id)


def edit_one(
    session: Session,
    embed: Embed,
    annotation_id: int,
    fields: Mapping[str, Any],
    if_match: str | None,
    actor: Actor,
) -> AnnotationEdited:
    _check_fields(fields, OF_ANNOTATIONS)
    before = rows.get_shown(session, annotation_id, lock=True)
    require_etag(if_match, annotation_out(before).etag, "The annotation")
    values = _values(session, before, fields)
    journal = Journal(session)
    journal.update("annotation", annotation_id, values)
    notices = embed(session, [annotation_id]).notices if "box_px" in fields else ()
    after = rows.get_shown(session, annotation_id)
    detail = {
        "annotation_id": str(annotation_id),
        "media_id": str(before.media_id),
        "individual": before.individual_name,
    }
    change_id = _closed(journal, actor, "annotation.edit", detail)
    return AnnotationEdited(annotation_out(after), change_id, notices)


def edit_many(
    session: Session,
    annotation_ids: Sequence[int],
    fields: Mapping[str, Any],
    actor: Actor,
    *,
    preview: bool,
) -> AnnotationsEdited:
    _check_fields(fields, OF_MANY)
    wanted = sorted(set(annotation_ids))
    found = rows.shown_among(session, wanted)
    for row in found.values():
        _check_encounter(session, row, fields.get("encounter_id"))
    told = {name: _value(value) for name, value in fields.items()}
    journal = Journal(session)
    with session.begin_nested() as tried:
        changed = len(journal.update_many("annotation", wanted, told))
        if preview:
            tried.rollback()
    change_id = None
    if changed and not preview:
        change_id = journal.close(actor, "annotation.edit", {"photos": changed, **told}).id
    return AnnotationsEdited(preview, changed, len(wanted) - changed, change_id)


def draw_region(session: Session, embed: Embed, new: NewRegion, actor: Actor) -> AnnotationEdited:
    photo = media.get_media(session, new.media_id)
    others = media.annotations_on(session, photo.id)
    encounter_id = new.encounter_id or next(
        (o.encounter_id for o in others if o.encounter_id), None
    )
    if encounter_id is not None:
        catalogue_id = rows.get_encounter(session, encounter_id).catalogue_id
    elif others:
        catalogue_id = others[0].catalogue_id
    else:
        catalogue_id = catalogue.default_catalogue(session).id
    journal = Journal(session)
    row = journal.insert(
        "annotation",
        {
            "catalogue_id": str(catalogue_id),
            "media_id": photo.id,
            "encounter_id": encounter_id and str(encounter_id),
            "taxon_id": catalogue.ensure_taxon(session, new.taxon) if new.taxon else None,
            "viewpoint": clean(new.viewpoint),
            "body_part": clean(new.body_part),
            "source_ref": photo.original_name,
            **_box(session, photo.id, new.box_px),
        },
    )
    notices = embed(session, [row["id"]]).notices
    detail = {"annotation_id": str(row["id"]), "media_id": str(photo.id)}
    change_id = _closed(journal, actor, "annotation.draw", detail)
    return AnnotationEdited(annotation_out(rows.get_shown(session, row["id"])), change_id, notices)


def _check_fields(fields: Mapping[str, Any], editable: frozenset[str]) -> None:
    others = sorted(set(fields) - editable)
    if others:
        raise Invalid(
            "field_not_editable",
            f"{others[0]} cannot be set here; what can is {', '.join(sorted(editable))}.",
            field=others[0],
        )


def _values(session: Session, before: ShownRow, fields: Mapping[str, Any]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, value in fields.items():
        if name == "box_px":
            values |= _box(session, before.media_id, value)
        else:
            values[name] = _value(value)
    _check_encounter(session, before, fields.get("encounter_id"))
    return values


def _check_encounter(session: Session, row: ShownRow, encounter_id: UUID | None) -> None:
    if encounter_id is None:
        return
    encounter = rows.get_encounter(session, encounter_id)
    if encounter.catalogue_id != row.catalogue_id:
        raise Invalid(
            "encounter_elsewhere",
            f"The encounter belongs to the catalogue {encounter.catalogue!r}, annotation {row.id} "
            f"to {row.catalogue!r}; choose an encounter of that one.",
            encounter_id=str(encounter_id),
            annotation_id=row.id,
        )


def _box(session: Session, media_id: int, box_px: BoxPx | None) -> dict[str, int | None]:
    """The columns of a box. One around the whole photo is the whole photo, which has none.

    Raises:
        Invalid: it does not lie inside the photo.
    """
    media.check_box(session, media_id, box_px)
    photo = media.get_media(session, media_id)
    if box_px is None or tuple(box_px) == (0, 0, photo.width_px, photo.height_px):
        return dict.fromkeys(_BOX)
    return dict(zip(_BOX, box_px, strict=True))


def _value(value: object) -> object:
    """As the journal takes it: ids and times as text, no blank texts."""
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, datetime):
        return value.isoformat()
    return str(value) if isinstance(value, UUID) else value


def _closed(journal: Journal, actor: Actor, action: str, detail: dict[str, Any]) -> int | None:
    return journal.close(actor, action, detail).id if journal.images else None
