"""What an identification answers: frozen values, and the one JSON form of each.

The same JSON is stored with the query, sent over HTTP, drawn on the page and printed by the
command line. Ids are text. Scores are cosines (-1..1), probabilities and quantiles 0..1,
times milliseconds.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from indexer.search import Receipt
from indexer.true_matches import Histogram

DefaultStatus = Literal["given", "low_confidence", "unmapped_slot", "withheld", "unavailable"]
NoveltyVerdict = Literal["known", "uncertain", "probably_new"]
Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class IndividualRef:
    """An individual as an answer names it; `id` is None when only the head knows the name."""

    id: str | None
    name: str
    taxon: str | None


@dataclass(frozen=True, slots=True)
class GateAnswer:
    """The gate on one photo, or on all photos of the encounter together."""

    state: Literal["accepted", "rejected", "abstained"]
    score: float | None
    threshold: float | None
    model: str
    reason: str | None


@dataclass(frozen=True, slots=True)
class HeadCandidate:
    """One named slot of the head; `species` is the raw label of the bundle's class list."""

    individual: IndividualRef
    probability: float
    species: str | None


@dataclass(frozen=True, slots=True)
class DefaultAnswer:
    """ArcFace's answer. `candidates` are the head's best, best first, only when one is given."""

    status: DefaultStatus
    individual: IndividualRef | None = None
    probability: float | None = None
    model: str | None = None
    reason: str | None = None
    candidates: tuple[HeadCandidate, ...] = ()


@dataclass(frozen=True, slots=True)
class MatchAnswer:
    """One candidate individual; `supporting` of its annotations were among the candidates.
    `probability` that it is the same animal, None while nothing is calibrated in this space;
    `rejected`: somebody said that a photo of the question does not show it."""

    rank: int
    individual: IndividualRef
    score: float
    annotation_id: str
    media_id: str
    supporting: int
    probability: float | None = None
    rejected: bool = False


@dataclass(frozen=True, slots=True)
class PhotoError:
    code: str
    detail: str


@dataclass(frozen=True, slots=True)
class KnownPhoto:
    """These very bytes are in the catalogue already, as this annotation."""

    annotation_id: str
    media_id: str
    encounter_id: str | None
    individual: IndividualRef | None


@dataclass(frozen=True, slots=True)
class PhotoAnswer:
    """What became of one photo of the request, in the order sent."""

    position: int
    name: str | None
    media_id: str | None
    width_px: int | None
    height_px: int | None
    gate: GateAnswer | None
    known: KnownPhoto | None
    error: PhotoError | None


@dataclass(frozen=True, slots=True)
class Novelty:
    """The best score beside the scores that true matches of this space have.

    `true_match_quantile` is the share of true matches whose score is not above the best score;
    `n` is how many true matches were measured.
    """

    verdict: NoveltyVerdict
    best_score: float | None
    true_match_quantile: float | None
    n: int
    explanation: str
    reference: Histogram | None
    other: Histogram | None


@dataclass(frozen=True, slots=True)
class Notice:
    code: str
    detail: str


@dataclass(frozen=True, slots=True)
class SearchAnswer:
    """Matches with the receipt of the search that found them."""

    matches: tuple[MatchAnswer, ...]
    receipt: Receipt

    def as_json(self) -> Json:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class IdentifyAnswer:
    """One identification. `receipt` and `novelty` are None when no search could run."""

    query_id: str
    created_at: str
    gate: GateAnswer
    default_answer: DefaultAnswer
    matches: tuple[MatchAnswer, ...]
    agreement: bool | None
    receipt: Receipt | None
    novelty: Novelty | None
    known_photo: KnownPhoto | None
    photos: tuple[PhotoAnswer, ...]
    stage: str
    bundle: str | None
    notices: tuple[Notice, ...] = field(default=())

    def as_json(self) -> Json:
        """The binding JSON form."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class AddedPhoto:
    """One photo of an individual; `embedded`: it has a vector and can be found from now on."""

    position: int
    name: str | None
    annotation_id: str
    media_id: str
    embedded: bool


@dataclass(frozen=True, slots=True)
class AddedAnswer:
    """An individual after photos were added to it; `change_id` can be undone, None where it had
    them all."""

    individual: IndividualRef
    photos: tuple[AddedPhoto, ...]
    notices: tuple[Notice, ...]
    change_id: int | None = None

    def as_json(self) -> Json:
        """The JSON form."""
        return asdict(self)

    @classmethod
    def from_json(cls, answer: Json) -> AddedAnswer:
        """The value that `as_json` was made from."""
        return cls(
            individual=IndividualRef(**answer["individual"]),
            photos=tuple(AddedPhoto(**photo) for photo in answer["photos"]),
            notices=tuple(Notice(**notice) for notice in answer["notices"]),
            change_id=answer.get("change_id"),
        )
