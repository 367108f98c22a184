"""Owns how given photos come into an encounter, inside the caller's transaction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from sqlalchemy.orm import Session

from db.errors import Invalid
from db.queries import catalogue, media
from db.queries import encounters as rows
from db.queries.changes import Journal
from db.queries.encounters import ShownRow
from indexer.answers import PhotoError
from indexer.encounter_answers import GivenPhoto, annotation_out
from indexer.encounter_groups import Span, is_near, span_of
from indexer.failpoints import failpoint
from indexer.media import MediaStore
from indexer.photos import PhotoProblem, ReadPhoto, put_photo


@dataclass(frozen=True, slots=True)
class Labels:
    """What is said of the photos themselves: viewpoints and body parts by position in the request,
    or one for all; any name of a taxon."""

    taxon: str | None = None
    viewpoints: tuple[str, ...] = ()
    body_parts: tuple[str, ...] = ()

    def check(self, count: int) -> None:
        """Raises:
        Invalid: neither one for all `count` photos nor one for each.
        """
        for what, given in (("viewpoint", self.viewpoints), ("body part", self.body_parts)):
            if len(given) not in (0, 1, count):
                raise Invalid(
                    "labels_do_not_fit",
                    f"{len(given)} values of {what} came with {count} photos; give one for all, or "
                    "one for each.",
                    given=len(given),
                    photos=count,
                )


NO_LABELS: Final = Labels()


@dataclass(frozen=True, slots=True)
class NewEncounter:
    """What is known of the encounter that photos belong to; what is None is taken from the photos'
    headers where they tell it. `catalogue` None is the default one."""

    place: str | None = None
    latitude: float | None = None
    longitude: float | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    observer: str | None = None
    notes: str | None = None
    catalogue: str | None = None
    labels: Labels = NO_LABELS


@dataclass(frozen=True, slots=True, eq=False)
class Placed:
    """A photo with the annotation that shows it: `known` if that was there before."""

    photo: ReadPhoto
    row: ShownRow
    known: bool


def known_rows(
    session: Session, catalogue_id: UUID, photos: Sequence[ReadPhoto]
) -> dict[str, ShownRow]:
    """By SHA-256: the annotation that shows each photo which the catalogue has already, one of
    somebody known before others."""
    found = {}
    for photo in photos:
        row = media.find_media(session, photo.stored.sha256)
        shown = rows.shown_on(session, row.id, catalogue_id) if row is not None else []
        if shown:
            found[photo.stored.sha256] = shown[0]
    return found


def place(
    session: Session,
    store: MediaStore,
    journal: Journal,
    encounter: rows.EncounterRow,
    photos: Sequence[ReadPhoto],
    labels: Labels,
) -> list[Placed]:
    """One annotation per photo, in order. A photo that the catalogue has is left as it is, but that
    it joins the encounter if it was in none."""
    taxon_id = catalogue.ensure_taxon(session, labels.taxon) if labels.taxon else None
    known = known_rows(session, encounter.catalogue_id, photos)
    ids: list[tuple[int, bool]] = []
    for photo in photos:
        media_id = put_photo(session, store, photo)
        found = known.get(photo.stored.sha256)
        if found is None:
            row, made = media.ensure_annotation(
                session,
                catalogue_id=encounter.catalogue_id,
                media_id=media_id,
                individual_id=None,
                encounter_id=encounter.id,
                taxon_id=taxon_id,
                viewpoint=_label(labels.viewpoints, photo.position),
                body_part=_label(labels.body_parts, photo.position),
                source_ref=photo.name,
            )
            id_, encounter_id = row.id, row.encounter_id
        else:
            made, id_, encounter_id = False, found.id, found.encounter_id
        if encounter_id is None:
            journal.update("annotation", id_, {"encounter_id": str(encounter.id)})
        ids.append((id_, not made))
    failpoint("upload.after_row")
    shown = rows.shown_among(session, [id_ for id_, _ in ids])
    return [
        Placed(photo, shown[id_], was_known)
        for photo, (id_, was_known) in zip(photos, ids, strict=True)
    ]


def _label(given: Sequence[str], position: int) -> str | None:
    if not given:
        return None
    return clean(given[position] if len(given) > 1 else given[0])


def clean(text: str | None) -> str | None:
    """Text as PostgreSQL can hold it, single blanks at most at its edges; None for a blank one."""
    if text is None:
        return None
    return text.replace("\x00", "").encode(errors="replace").decode().strip() or None


def span_of_photos(photos: Sequence[ReadPhoto]) -> Span | None:
    """From the first to the last photo; None where none tells its time."""
    return span_of([photo.stored.taken_at for photo in photos])


def position_of(photos: Sequence[ReadPhoto]) -> tuple[float | None, float | None]:
    """Latitude and longitude of the first photo that tells them."""
    for photo in photos:
        if photo.stored.latitude is not None:
            return photo.stored.latitude, photo.stored.longitude
    return None, None


def told_by_photos(new: NewEncounter, photos: Sequence[ReadPhoto]) -> dict[str, Any]:
    """The columns of a new encounter: what was said of it, and what its photos tell besides.

    Raises:
        Invalid: half a position.
    """
    check_position(new.latitude, new.longitude)
    latitude, longitude = new.latitude, new.longitude
    if latitude is None:
        latitude, longitude = position_of(photos)
    started_at, ended_at = new.started_at, new.ended_at
    if started_at is None and ended_at is None:
        started_at, ended_at = span_of_photos(photos) or (None, None)
    return {
        "place": clean(new.place),
        "latitude": latitude,
        "longitude": longitude,
        "started_at": started_at,
        "ended_at": ended_at,
        "observer": clean(new.observer),
        "notes": clean(new.notes),
    }


def missing_facts(
    encounter: rows.EncounterRow, photos: Sequence[ReadPhoto], gap: timedelta
) -> dict[str, Any]:
    """What more photos tell of an encounter, as the journal writes it: what was not known, and a
    longer span where they go on from it without a pause of more than `gap`."""
    facts: dict[str, Any] = {}
    span = span_of_photos(photos)
    if span is not None and encounter.started_at is None and encounter.ended_at is None:
        facts |= {"started_at": span[0].isoformat(), "ended_at": span[1].isoformat()}
    elif span is not None and encounter.started_at is not None:
        known = (encounter.started_at, encounter.ended_at or encounter.started_at)
        if is_near(known, span, gap):
            facts["started_at"] = min(known[0], span[0]).isoformat()
            facts["ended_at"] = max(known[1], span[1]).isoformat()
    latitude, longitude = position_of(photos)
    if encounter.latitude is None and latitude is not None:
        facts |= {"latitude": latitude, "longitude": longitude}
    return facts


def check_position(latitude: float | None, longitude: float | None) -> None:
    """Raises:
    Invalid: `position_incomplete`.
    """
    if (latitude is None) != (longitude is None):
        raise Invalid(
            "position_incomplete",
            "A position is a latitude and a longitude; give both, or neither.",
            latitude=latitude,
            longitude=longitude,
        )


def given_photo(placed: Placed, embedded: frozenset[int]) -> GivenPhoto:
    shown = annotation_out(placed.row)
    return GivenPhoto(
        position=placed.photo.position,
        name=placed.photo.name,
        annotation_id=shown.annotation_id,
        media_id=shown.media_id,
        encounter_id=shown.encounter_id,
        taken_at=shown.taken_at,
        individual=shown.individual,
        known=placed.known,
        embedded=placed.row.id in embedded,
        error=None,
    )


def refused_photo(problem: PhotoProblem) -> GivenPhoto:
    return GivenPhoto(
        position=problem.position,
        name=problem.name,
        annotation_id=None,
        media_id=None,
        encounter_id=None,
        taken_at=None,
        individual=None,
        known=False,
        embedded=False,
        error=PhotoError(problem.code, problem.detail),
    )
