"""Requests and responses of the API that are not answers of an identification."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from db.queries.filters import SearchFilters
from db.types import LifeStage, Sex, Vitality
from indexer.answers import Notice
from indexer.catalogue import NewIndividual


def as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def as_time(value: Any) -> Any:
    """A bare date means its first moment, in UTC; a time without a zone is read as UTC."""
    if isinstance(value, str) and len(value) == len("2026-01-31"):
        value = date.fromisoformat(value)
    if isinstance(value, date) and not isinstance(value, datetime):
        return datetime.combine(value, time.min, UTC)
    return value


def as_end(value: Any) -> Any:
    """A bare date is included: the end is the first moment of the next day, in UTC."""
    if isinstance(value, str) and len(value) == len("2026-01-31"):
        return datetime.combine(date.fromisoformat(value) + timedelta(days=1), time.min, UTC)
    return value


def in_utc(value: datetime) -> datetime:
    return value if value.tzinfo else value.replace(tzinfo=UTC)


Texts = Annotated[list[str], BeforeValidator(as_list)]


class Strict(BaseModel):
    """A request: a misspelt field is an error, never a filter that silently does nothing."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Filters(Strict):
    """Which photos of the catalogue are searched; every filter that is set must hold."""

    taxon: Texts = Field(default=[], description="Scientific or common names, or synonyms.")
    place: str | None = Field(None, description="Place of the encounter.")
    date_from: Annotated[datetime | None, BeforeValidator(as_time)] = Field(
        None, description="Encounters from this date or time on."
    )
    date_to: Annotated[datetime | None, BeforeValidator(as_end)] = Field(
        None, description="Encounters up to this date (inclusive), or before this time."
    )
    viewpoint: Texts = Field(default=[], description="Viewpoints, for example `left`.")
    sex: Literal["female", "male", "unknown"] | None = None
    vitality: Literal["alive", "dead", "unknown"] | None = None
    catalogue: str | None = Field(None, description="Name of a catalogue.")

    def to_filters(self) -> SearchFilters:
        """The same as the search understands it."""
        return SearchFilters(
            taxon=tuple(self.taxon),
            place=self.place,
            date_from=in_utc(self.date_from) if self.date_from else None,
            date_to=in_utc(self.date_to) if self.date_to else None,
            viewpoint=tuple(self.viewpoint),
            sex=Sex(self.sex) if self.sex else None,
            vitality=Vitality(self.vitality) if self.vitality else None,
            catalogue=self.catalogue,
        )


class IdentifyFields(Filters):
    """Fields beside the photos of `POST /v1/identify`."""

    k: int | None = Field(None, ge=1, description="How many individuals to answer.")
    exclude_encounter: UUID | Literal["own"] | None = Field(
        None,
        description="Leave an encounter out: its id, or `own` for that of the stored photo with "
        "the same bytes.",
    )
    exclude_known: bool | None = Field(
        None,
        description="Whether a photo that is stored already is left out as itself. Without it: "
        "unless its individual has no other photo, so that one just added is found.",
    )


class SimilarBody(Strict):
    """`POST /v1/annotations/{id}/similar`."""

    k: int | None = Field(None, ge=1)
    filters: Filters = Field(default_factory=Filters)
    exclude_self: bool = True
    exclude_encounter: UUID | Literal["own"] | None = None


class SearchBody(Strict):
    """`POST /v1/search`: a vector with the fingerprint of its space, or a stored annotation."""

    vector: list[float] | None = Field(None, min_length=1, max_length=4000)
    fingerprint: str | None = Field(
        None, description="Fingerprint of the model that made the vector; needed with `vector`."
    )
    annotation_id: str | None = Field(None, pattern=r"^[0-9]{1,18}$")
    k: int | None = Field(None, ge=1)
    filters: Filters = Field(default_factory=Filters)
    exclude_self: bool = True
    exclude_encounter: UUID | Literal["own"] | None = None

    @model_validator(mode="after")
    def one_of_two(self) -> SearchBody:
        """Exactly one way to say what is searched for."""
        if (self.vector is None) == (self.annotation_id is None):
            raise ValueError("give either `vector` with its `fingerprint`, or `annotation_id`")
        return self


class IndividualFields(Strict):
    """Fields beside the photos of `POST /v1/individuals`."""

    name: str | None = Field(
        None,
        min_length=1,
        max_length=200,
        description="Without one it gets the next free name of the catalogue's sequence.",
    )
    taxon: str | None = Field(None, max_length=200)
    sex: Sex = Sex.UNKNOWN
    life_stage: LifeStage = LifeStage.UNKNOWN
    vitality: Vitality = Vitality.UNKNOWN
    notes: str | None = Field(None, max_length=10_000)
    catalogue: str | None = Field(None, max_length=200)
    query_id: UUID | None = Field(
        None, description="Take the photos of this query, beside or instead of those sent."
    )

    def to_new(self) -> NewIndividual:
        return NewIndividual(
            name=self.name,
            taxon=self.taxon,
            sex=self.sex,
            life_stage=self.life_stage,
            vitality=self.vitality,
            notes=self.notes,
            catalogue=self.catalogue,
        )


class PhotosFields(Strict):
    """Fields beside the photos of `POST /v1/individuals/{id}/photos`."""

    query_id: UUID | None = Field(None, description="Take the photos of this query as well.")


class EmbeddingOut(BaseModel):
    """One annotation's vector, of unit length, and the space it belongs to."""

    annotation_id: str
    fingerprint: str
    dim: int
    vector: list[float]


class IndividualBase(BaseModel):
    """Who it is; `name` is the primary one of `names`."""

    id: UUID
    name: str
    names: list[str]
    taxon: str | None
    taxon_common: str | None
    created_at: datetime


class IndividualOut(IndividualBase):
    """An individual as lists show it."""

    photo_count: int
    best_media_id: str | None


class PhotoOut(BaseModel):
    """A photo of an individual."""

    annotation_id: str
    media_id: str
    encounter_id: UUID | None
    viewpoint: str | None
    added_at: datetime


class IndividualCard(IndividualBase):
    """All that is said of an individual itself; the ETag stands for these fields."""

    sex: str
    vitality: str
    life_stage: str
    notes: str | None
    links: list[str]


class IndividualDetail(IndividualCard):
    """An individual with one page of its photos, in the order they were added."""

    photos: list[PhotoOut]
    next_photos_cursor: str | None


class IndividualPage(BaseModel):
    """One page of individuals; `next_cursor` is null on the last."""

    items: list[IndividualOut]
    next_cursor: str | None


class Candidate(BaseModel):
    """Ranks 2 to 5 of the compatible answer."""

    class_animal: str
    id_animal: str
    probability: float


class Prediction(BaseModel):
    """The compatible answer. `class_animal` is the individual, `id_animal` the species."""

    image_ind: str
    bbox: list[int]
    class_animal: str
    id_animal: str
    probability: float
    mask: str | None
    is_cetacean: bool | None
    cetacean_score: float | None
    rejected: bool
    rejection_reason: Literal["not_a_marine_mammal", "low_confidence", "corrupted_image"] | None
    model_version: str
    candidates: list[Candidate]


class DriftStats(BaseModel):
    """Running statistics of this process since its start; null while nothing was measured."""

    n: int
    alarms_total: int
    score_mean: float | None
    score_std: float | None
    probability_mean: float | None


class FieldErrorOut(BaseModel):
    """One thing that is wrong, and where."""

    pointer: str
    detail: str


class ProblemOut(BaseModel):
    """Every error: RFC 9457, with a code for programs."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    code: str
    errors: list[FieldErrorOut]
    request_id: str
    job: str | None = Field(None, description="The job that is in the way, where one is.")
    run: str | None = Field(None, description="The re-index run that is in the way.")
    present: dict[str, Any] | None = Field(
        None, description="409: what is so now: state, version, who decided what when."
    )
    blocking_id: str | int | None = Field(
        None, description="409: the later change or decision that has to be undone first."
    )
    decision_id: str | None = Field(None, description="409: the decision that stands.")


class Health(BaseModel):
    """The process is alive."""

    status: Literal["ok"]
    version: str


class ReadyOut(BaseModel):
    """Whether identification is complete, and why not."""

    ready: bool
    reasons: list[Notice]
    notices: list[Notice]
    stage: str
    bundle: str | None
    index: dict[str, Any]


class LimitsOut(BaseModel):
    """What one request may cost."""

    max_photo_bytes: int
    max_photo_pixels: int
    max_photos_per_request: int
    max_photos_per_drop: int
    max_upload_bytes: int
    max_batch_bytes: int
    max_batch_entries: int
    default_k: int
    max_k: int
    requests_per_minute: int | None
    inference_queue: int
    formats: list[str]
