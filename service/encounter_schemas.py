"""Requests and lists of the API about encounters, annotations and rules of viewpoints."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated, Any
from uuid import UUID

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, model_validator

from db.queries.viewpoints import RuleRow
from indexer.encounter_answers import EncounterItem
from indexer.encounter_edits import NewRegion
from indexer.encounter_photos import Labels, NewEncounter
from indexer.encounters import GAP
from service.schemas import Strict, Texts, as_list, as_time, in_utc

When = Annotated[datetime, BeforeValidator(as_time), AfterValidator(in_utc)]
"""A bare date means its first moment, in UTC; a time without a zone is read as UTC."""
Latitude = Annotated[float, Field(ge=-90, le=90, description="Decimal degrees, north positive.")]
Longitude = Annotated[float, Field(ge=-180, le=180, description="Decimal degrees, east positive.")]
Short = Annotated[str, Field(max_length=200)]
Long = Annotated[str, Field(max_length=10_000)]
Pixel = Annotated[int, Field(ge=0, le=10**6)]
Box = tuple[Pixel, Pixel, Pixel, Pixel]
Id = Annotated[str, Field(pattern=r"^[0-9]{1,18}$")]


class PhotoLabels(Strict):
    """What is said of the photos themselves."""

    taxon: Short | None = Field(None, description="Any name of the species; one not known is made.")
    viewpoint: Texts = Field(
        default=[], description="One for all photos, or the field once for each, in their order."
    )
    body_part: Texts = Field(
        default=[], description="For example `flank` or `fluke`; as for `viewpoint`."
    )

    def labels(self) -> Labels:
        return Labels(self.taxon, tuple(self.viewpoint), tuple(self.body_part))


class AskFields(PhotoLabels):
    """Fields beside the photos of `POST /v1/encounters/{id}/photos`."""

    ask: bool = Field(True, description="Ask who it is, as one question that waits on the desk.")


class EncounterFields(AskFields):
    """Fields beside the photos of `POST /v1/encounters`. Times and position are taken from the
    photos' EXIF where they are not given."""

    place: Short | None = None
    latitude: Latitude | None = None
    longitude: Longitude | None = None
    started_at: When | None = None
    ended_at: When | None = None
    observer: Short | None = None
    notes: Long | None = None
    catalogue: Short | None = Field(None, description="Name of a catalogue; made when new.")

    def to_new(self) -> NewEncounter:
        return NewEncounter(
            place=self.place,
            latitude=self.latitude,
            longitude=self.longitude,
            started_at=self.started_at,
            ended_at=self.ended_at,
            observer=self.observer,
            notes=self.notes,
            catalogue=self.catalogue,
            labels=self.labels(),
        )


class DropFields(EncounterFields):
    """Fields beside the photos of `POST /v1/encounters/drop`."""

    gap_minutes: float = Field(
        GAP / timedelta(minutes=1),
        ge=0,
        le=7 * 24 * 60,
        description="A new encounter begins where more than this lies between two photos.",
    )
    together: bool = Field(
        False, description="Photos without a time are one encounter, instead of each its own."
    )
    continues: Annotated[list[UUID], BeforeValidator(as_list)] = Field(
        default=[],
        max_length=200,
        description="Encounters of photos sent before; photos near one of them join it.",
    )


class EncounterEdit(Strict):
    """`PATCH /v1/encounters/{id}`: what is left out stays, null removes."""

    place: Short | None = None
    latitude: Latitude | None = None
    longitude: Longitude | None = None
    started_at: When | None = None
    ended_at: When | None = None
    observer: Short | None = None
    notes: Long | None = None


class AnnotationEdit(Strict):
    """`PATCH /v1/annotations/{id}`: what is left out stays, null removes."""

    box_px: Box | None = Field(
        None, description="x, y, width, height in pixels of the upright photo; null: all of it."
    )
    viewpoint: Short | None = None
    body_part: Short | None = None
    encounter_id: UUID | None = None
    is_reference: bool = False
    matchable: bool = True

    def changes(self) -> dict[str, Any]:
        """The fields that were sent."""
        return {name: getattr(self, name) for name in self.model_fields_set}


class AnnotationsEdit(Strict):
    """`POST /v1/annotations/edit`: the same said of many."""

    annotation_ids: list[Id] = Field(min_length=1, max_length=10_000)
    viewpoint: Short | None = None
    body_part: Short | None = None
    encounter_id: UUID | None = None
    preview: bool = Field(False, description="Only count what would change.")

    @model_validator(mode="after")
    def says_something(self) -> AnnotationsEdit:
        """At least one field to be changed."""
        if not self.changes():
            raise ValueError("give `viewpoint`, `body_part` or `encounter_id`")
        return self

    def changes(self) -> dict[str, Any]:
        """The fields that were sent."""
        sent = self.model_fields_set - {"annotation_ids", "preview"}
        return {name: getattr(self, name) for name in sent}


class RegionBody(Strict):
    """`POST /v1/annotations`: a region of a stored photo."""

    media_id: Id
    box_px: Box | None = Field(
        None, description="x, y, width, height in pixels of the upright photo; null: all of it."
    )
    encounter_id: UUID | None = Field(
        None, description="Without it, the encounter of the photo's other annotations."
    )
    viewpoint: Short | None = None
    body_part: Short | None = None
    taxon: Short | None = None

    def to_new(self) -> NewRegion:
        return NewRegion(
            media_id=int(self.media_id),
            box_px=self.box_px,
            encounter_id=self.encounter_id,
            viewpoint=self.viewpoint,
            body_part=self.body_part,
            taxon=self.taxon,
        )


class RuleBody(Strict):
    """`PUT /v1/viewpoint-rules`."""

    taxon: Short | None = Field(None, description="Any name of a known taxon; null: of all.")
    body_part: Short | None = Field(None, description="For example `flank`; null: all parts.")
    sided: bool = Field(description="Left and right are two things that are never compared.")


# ---------------------------------------------------------------- answers


class EncounterPage(BaseModel):
    """One page of encounters; `next_cursor` is null on the last."""

    items: list[EncounterItem]
    next_cursor: str | None


class RuleOut(BaseModel):
    """A rule; the first of a list that fits a photo decides for it."""

    id: str
    taxon: str | None
    taxon_common: str | None
    body_part: str | None
    sided: bool
    set_by: str
    set_at: datetime

    @classmethod
    def of(cls, row: RuleRow) -> RuleOut:
        return cls(
            id=str(row.id),
            taxon=row.taxon,
            taxon_common=row.taxon_common,
            body_part=row.body_part,
            sided=row.sided,
            set_by=row.set_by,
            set_at=row.created_at,
        )


class RulesOut(BaseModel):
    """Every rule of viewpoints, the deciding ones first."""

    items: list[RuleOut]
