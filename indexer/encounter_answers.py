"""What is told of encounters and annotations: frozen values, and the one JSON form of each.

Ids are text, times ISO 8601, positions decimal degrees, boxes (x, y, width, height) in pixels of
the upright photo. An `etag` stands for the fields that can be edited, and for nothing else.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from db.queries.encounters import EncounterRow, SeenRow, ShownRow
from db.queries.media import BoxPx
from indexer.answers import IndividualRef, Notice, PhotoError
from indexer.etags import etag_of

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class EncounterOut:
    """An encounter without its photos."""

    id: str
    catalogue: str
    external_id: str | None
    started_at: str | None
    ended_at: str | None
    place: str | None
    latitude: float | None
    longitude: float | None
    observer: str | None
    notes: str | None
    created_at: str
    etag: str


@dataclass(frozen=True, slots=True)
class AnnotationOut:
    """A region of a photo; `box_px` None is the whole photo. `name`, `taken_at`, the position and
    the photographer are those of the photo. `catalogue` is a name."""

    annotation_id: str
    media_id: str
    encounter_id: str | None
    catalogue: str
    name: str | None
    taken_at: str | None
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
    individual: IndividualRef | None
    created_at: str
    etag: str

    def as_json(self) -> Json:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class SeenIndividual:
    """An individual in an encounter, and how many photos of the encounter show it."""

    id: str
    name: str
    taxon: str | None
    taxon_common: str | None
    photos: int


@dataclass(frozen=True, slots=True)
class AskedQuery:
    """A question that was asked about an encounter; `state` as on the desk."""

    id: str
    state: str | None
    created_at: str


@dataclass(frozen=True, slots=True)
class EncounterView:
    """An encounter with its photos in the order taken, who was seen together, and what was asked,
    newest first."""

    encounter: EncounterOut
    photos: tuple[AnnotationOut, ...]
    individuals: tuple[SeenIndividual, ...]
    queries: tuple[AskedQuery, ...]

    def as_json(self) -> Json:
        """The encounter's fields with the three lists beside them."""
        told = asdict(self)
        fields: Json = told.pop("encounter")
        return fields | told


@dataclass(frozen=True, slots=True)
class Cover:
    """A photo that stands for an encounter in a list."""

    annotation_id: str
    media_id: str


@dataclass(frozen=True, slots=True)
class EncounterItem:
    """An encounter in a list: `covers` are its first photos, `unnamed` how many photos show nobody
    that is known yet."""

    encounter: EncounterOut
    photo_count: int
    unnamed: int
    covers: tuple[Cover, ...]
    individuals: tuple[SeenIndividual, ...]

    def as_json(self) -> Json:
        told = asdict(self)
        fields: Json = told.pop("encounter")
        return fields | told


@dataclass(frozen=True, slots=True)
class GivenPhoto:
    """What became of one photo of the request, in the order sent. `known`: its bytes were in the
    catalogue already, and it is answered as it is there, in `encounter_id`."""

    position: int
    name: str | None
    annotation_id: str | None
    media_id: str | None
    encounter_id: str | None
    taken_at: str | None
    individual: IndividualRef | None
    known: bool
    embedded: bool
    error: PhotoError | None


@dataclass(frozen=True, slots=True)
class EncounterMade:
    """An encounter after photos were given. `created` False: there was nothing new in them, and
    this is the encounter in which they are. `query_id` is the question that waits on the desk."""

    encounter: EncounterOut
    created: bool
    photos: tuple[GivenPhoto, ...]
    query_id: str | None
    notices: tuple[Notice, ...]

    def as_json(self) -> Json:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Dropped:
    """Photos sorted into encounters by their times; `refused` could not be read."""

    encounters: tuple[EncounterMade, ...]
    refused: tuple[GivenPhoto, ...]
    notices: tuple[Notice, ...]

    def as_json(self) -> Json:
        return asdict(self)


def encounter_out(row: EncounterRow) -> EncounterOut:
    edited = {
        "started_at": row.started_at and row.started_at.isoformat(),
        "ended_at": row.ended_at and row.ended_at.isoformat(),
        "place": row.place,
        "latitude": row.latitude,
        "longitude": row.longitude,
        "observer": row.observer,
        "notes": row.notes,
    }
    return EncounterOut(
        id=str(row.id),
        catalogue=row.catalogue,
        external_id=row.external_id,
        created_at=row.created_at.isoformat(),
        etag=etag_of({"encounter": row.id, **edited}),
        **edited,
    )


def annotation_out(row: ShownRow) -> AnnotationOut:
    edited = {
        "encounter_id": row.encounter_id and str(row.encounter_id),
        "box_px": row.box_px,
        "viewpoint": row.viewpoint,
        "body_part": row.body_part,
        "is_reference": row.is_reference,
        "matchable": row.matchable,
    }
    individual = (
        IndividualRef(str(row.individual_id), row.individual_name or "", row.taxon)
        if row.individual_id
        else None
    )
    return AnnotationOut(
        annotation_id=str(row.id),
        media_id=str(row.media_id),
        catalogue=row.catalogue,
        name=row.name,
        taken_at=row.taken_at and row.taken_at.isoformat(),
        latitude=row.latitude,
        longitude=row.longitude,
        photographer=row.photographer,
        width_px=row.width_px,
        height_px=row.height_px,
        taxon=row.taxon,
        individual=individual,
        created_at=row.created_at.isoformat(),
        etag=etag_of({"annotation": row.id, "individual": row.individual_id, **edited}),
        **edited,
    )


def seen_out(row: SeenRow) -> SeenIndividual:
    return SeenIndividual(str(row.id), row.name, row.taxon, row.taxon_common, row.photos)
