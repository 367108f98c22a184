"""What is told of encounters and annotations: frozen values, and the one JSON form of each.

Ids are text, times ISO 8601, positions decimal degrees, boxes (x, y, width, height) in pixels of
the upright photo. An `etag` stands for a value's own fields.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from datetime import datetime
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
class EncounterEdited:
    """An encounter after an edit. `change_id` is what undoes it; None: nothing was different."""

    encounter: EncounterOut
    change_id: int | None

    def as_json(self) -> Json:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class AnnotationEdited:
    """An annotation after an edit; `change_id` as of an encounter. `notices` say why it has no
    vector, where it has none."""

    annotation: AnnotationOut
    change_id: int | None
    notices: tuple[Notice, ...] = ()

    def as_json(self) -> Json:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class AnnotationsEdited:
    """Many annotations edited as one change. With `preview` nothing was written: `changed` is how
    many an edit would change."""

    preview: bool
    changed: int
    unchanged: int
    change_id: int | None

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
        return asdict(self)


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
        return asdict(self)


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
    replayed: bool
    """The same request had been answered before."""

    def as_json(self) -> Json:
        told = asdict(self)
        del told["replayed"]
        return told


@dataclass(frozen=True, slots=True)
class Dropped:
    """Photos sorted into encounters by their times; `refused` could not be read."""

    encounters: tuple[EncounterMade, ...]
    refused: tuple[GivenPhoto, ...]

    def as_json(self) -> Json:
        return {
            "encounters": [one.as_json() for one in self.encounters],
            "refused": [asdict(photo) for photo in self.refused],
        }


def encounter_out(row: EncounterRow) -> EncounterOut:
    told = EncounterOut(
        id=str(row.id),
        catalogue=row.catalogue,
        external_id=row.external_id,
        started_at=_time(row.started_at),
        ended_at=_time(row.ended_at),
        place=row.place,
        latitude=row.latitude,
        longitude=row.longitude,
        observer=row.observer,
        notes=row.notes,
        created_at=row.created_at.isoformat(),
        etag="",
    )
    return replace(told, etag=etag_of(asdict(told)))


def annotation_out(row: ShownRow) -> AnnotationOut:
    told = AnnotationOut(
        annotation_id=str(row.id),
        media_id=str(row.media_id),
        encounter_id=str(row.encounter_id) if row.encounter_id else None,
        catalogue=row.catalogue,
        name=row.name,
        taken_at=_time(row.taken_at),
        latitude=row.latitude,
        longitude=row.longitude,
        photographer=row.photographer,
        width_px=row.width_px,
        height_px=row.height_px,
        box_px=row.box_px,
        viewpoint=row.viewpoint,
        body_part=row.body_part,
        is_reference=row.is_reference,
        matchable=row.matchable,
        taxon=row.taxon,
        individual=individual_ref(row),
        created_at=row.created_at.isoformat(),
        etag="",
    )
    # Another name of its individual is no change of the annotation.
    named = {"individual": row.individual_id, "taxon": None}
    return replace(told, etag=etag_of(asdict(told) | named))


def individual_ref(row: ShownRow) -> IndividualRef | None:
    """Whom the annotation shows, if anybody known."""
    if row.individual_id is None:
        return None
    return IndividualRef(str(row.individual_id), row.individual_name or "", row.taxon)


def _time(time: datetime | None) -> str | None:
    return time.isoformat() if time is not None else None


def seen_out(row: SeenRow) -> SeenIndividual:
    return SeenIndividual(str(row.id), row.name, row.taxon, row.taxon_common, row.photos)
