"""What the desk answers and is told: frozen values, and the one JSON form of each.

Ids are text, times ISO 8601, scores cosines (-1..1), probabilities 0..1, boxes pixels of the
upright photo.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from db.queries.media import BoxPx
from db.types import UnusableReason
from indexer.answers import IndividualRef
from indexer.ranking import Fuse as Fuse

Json = dict[str, Any]
Saying = Literal["same", "different", "unsure", "new", "none", "not_usable", "usable"]
"""What a person may say of a query; `none`: none of those shown."""
QueueName = Literal[
    "to_review",
    "unsure",
    "no_match",
    "gate_rejected",
    "disagreement",
    "second_opinion",
    "decided",
]
QUEUES: tuple[QueueName, ...] = (
    "to_review",
    "unsure",
    "no_match",
    "gate_rejected",
    "disagreement",
    "second_opinion",
    "decided",
)


@dataclass(frozen=True, slots=True)
class DeskEncounter:
    id: str
    started_at: str | None
    place: str | None
    observer: str | None


@dataclass(frozen=True, slots=True)
class DeskPhoto:
    """One photo of the question. `annotation_id` is None where the region was deleted since;
    `gate` is what the gate said of it; `individual_id` whom it shows by now."""

    position: int
    annotation_id: str | None
    media_id: str
    name: str | None
    viewpoint: str | None
    body_part: str | None
    taken_at: str | None
    photographer: str | None
    width_px: int
    height_px: int
    box_px: BoxPx | None
    individual_id: str | None
    gate: str | None


@dataclass(frozen=True, slots=True)
class PhotoEvidence:
    """What one photo of the question scores best with a candidate, and with which photo of it.
    `score` and the rest are None where nothing of the candidate may be compared with the photo."""

    annotation_id: str
    score: float | None
    match_annotation_id: str | None
    match_media_id: str | None


@dataclass(frozen=True, slots=True)
class DeskMatch:
    """A candidate. `rank` is the place shown, rejected ones last; `probability` that it is the
    same animal, None while nothing is calibrated."""

    rank: int
    individual: IndividualRef
    score: float
    probability: float | None
    rejected: bool
    supporting: int
    annotation_id: str
    media_id: str
    viewpoint: str | None
    evidence: tuple[PhotoEvidence, ...]


@dataclass(frozen=True, slots=True)
class DeskReview:
    """A decision on the query, whole: `undone` when it was taken back, `vote` when it was one
    opinion of several."""

    decision_id: str
    verdict: str
    individual: IndividualRef | None
    reviewer: str
    at: str
    note: str | None
    reason: str | None
    vote: bool
    undone: bool
    mine: bool


@dataclass(frozen=True, slots=True)
class Votes:
    wanted: int
    given: int
    mine: bool


@dataclass(frozen=True, slots=True)
class DeskQuery:
    """An encounter asked as one question, with what was found and what people said."""

    id: str
    state: str
    version: int
    created_at: str
    asked_by: str
    fuse: Fuse
    filters: Json
    encounter: DeskEncounter | None
    photos: tuple[DeskPhoto, ...]
    gate: Json
    default_answer: Json
    agreement: bool | None
    novelty: Json | None
    p_new: float | None
    candidates: tuple[DeskMatch, ...]
    receipt: Json | None
    stronger_outside: int | None
    reviews: tuple[DeskReview, ...]
    votes: Votes
    notices: tuple[Json, ...] = ()

    def as_json(self) -> Json:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class CandidateIndividual:
    id: str
    name: str
    names: tuple[str, ...]
    taxon: str | None
    taxon_common: str | None
    sex: str
    vitality: str
    life_stage: str


@dataclass(frozen=True, slots=True)
class CandidatePhoto:
    """A photo of the candidate; `score` is its best cosine with any photo of the question, None
    where it has no vector or may not be compared."""

    annotation_id: str
    media_id: str
    score: float | None
    viewpoint: str | None
    body_part: str | None
    is_reference: bool
    name: str | None
    taken_at: str | None
    place: str | None
    photographer: str | None
    encounter_id: str | None
    width_px: int
    height_px: int
    box_px: BoxPx | None


@dataclass(frozen=True, slots=True)
class CandidateEncounter:
    id: str
    started_at: str | None
    place: str | None
    photos: int


@dataclass(frozen=True, slots=True)
class DeskCandidate:
    """A candidate beside the question: its photos closest first, its encounters newest first."""

    individual: CandidateIndividual
    photos: tuple[CandidatePhoto, ...]
    encounters: tuple[CandidateEncounter, ...]

    def as_json(self) -> Json:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class QueueCount:
    name: QueueName
    count: int


@dataclass(frozen=True, slots=True)
class QueuePhoto:
    annotation_id: str | None
    media_id: str
    name: str | None


@dataclass(frozen=True, slots=True)
class QueueBest:
    individual: IndividualRef
    score: float
    annotation_id: str


@dataclass(frozen=True, slots=True)
class QueueItem:
    """A query in a queue; `best` is the best candidate that nobody rejected."""

    id: str
    state: str
    version: int
    created_at: str
    encounter: DeskEncounter | None
    photo: QueuePhoto | None
    photos: int
    best: QueueBest | None
    default_answer: Json
    asked_by: str

    def as_json(self) -> Json:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Decision:
    """What a person says of a query whose `version` they saw. `annotation_ids` empty means all of
    its photos; `rank` and `match_annotation_id` are what was on the screen; `name` and `taxon` are
    of a new individual. `confirm_rejected`: said although the pair was rejected before."""

    query_id: UUID
    version: int
    verdict: Saying
    individual_id: UUID | None = None
    rejected_individual_ids: tuple[UUID, ...] = ()
    annotation_ids: tuple[int, ...] = ()
    name: str | None = None
    taxon: str | None = None
    reason: UnusableReason | None = None
    note: str | None = None
    rank: int | None = None
    match_annotation_id: int | None = None
    confirm_rejected: bool = False


@dataclass(frozen=True, slots=True)
class QueryNow:
    id: str
    state: str
    version: int


@dataclass(frozen=True, slots=True)
class Decided:
    """What became of a decision or an undo. `change_id` is the change of the catalogue that it
    made, None where it made none; `replayed`: the same request was answered before."""

    decision_id: str
    query: QueryNow | None
    individual: IndividualRef | None
    change_id: int | None
    replayed: bool = field(default=False, compare=False)

    def as_json(self) -> Json:
        answer = asdict(self)
        del answer["replayed"]
        return answer

    @classmethod
    def from_json(cls, answer: Mapping[str, Any], *, replayed: bool) -> Decided:
        """The value that `as_json` was made from."""
        query, individual = answer["query"], answer["individual"]
        return cls(
            answer["decision_id"],
            QueryNow(**query) if query else None,
            IndividualRef(**individual) if individual else None,
            answer["change_id"],
            replayed,
        )


@dataclass(frozen=True, slots=True)
class ReservedName:
    """A free name that is the caller's alone until then."""

    name: str
    catalogue: str
    until: str

    def as_json(self) -> Json:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class SavedView:
    """Filters and order of a page under a name; `params` is the query string."""

    id: str
    page: str
    name: str
    params: str

    def as_json(self) -> Json:
        return asdict(self)


def instant(at: datetime | None) -> str | None:
    return at.isoformat() if at is not None else None
