"""What operations on identities answer: how much they move, and what people said against it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from uuid import UUID

from db.queries.identity import VerdictRow
from db.types import Verdict
from indexer.answers import IndividualRef, Json


@dataclass(frozen=True, slots=True)
class Counts:
    """What an operation moves or writes."""

    annotations: int = 0
    photos: int = 0
    encounters: int = 0
    names: int = 0


@dataclass(frozen=True, slots=True)
class Contradiction:
    """A verdict that speaks against an operation: of `annotation_id`, or (None) of `individual` and
    `other` as such."""

    decision_id: UUID
    verdict: Verdict
    annotation_id: str | None
    individual: IndividualRef
    other: IndividualRef | None
    reviewer: str
    at: datetime
    note: str | None

    def as_json(self) -> Json:
        """The JSON form: ids and times as text."""
        return asdict(self) | {"decision_id": str(self.decision_id), "at": self.at.isoformat()}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an operation did, or would do. `change_id` is what an undo names; None for a preview and
    where nothing was different. `individual` is the one that it left behind."""

    action: str
    preview: bool
    change_id: int | None
    individual: IndividualRef | None
    counts: Counts
    contradictions: tuple[Contradiction, ...] = ()

    def as_json(self) -> Json:
        """The JSON form: ids and times as text."""
        return asdict(self) | {"contradictions": [one.as_json() for one in self.contradictions]}


def contradictions_of(verdicts: Sequence[VerdictRow]) -> tuple[Contradiction, ...]:
    """The same, with the individuals as answers name them."""
    return tuple(
        Contradiction(
            decision_id=one.decision_id,
            verdict=one.verdict,
            annotation_id=None if one.annotation_id is None else str(one.annotation_id),
            individual=IndividualRef(str(one.individual_id), one.individual_name or "", None),
            other=None
            if one.other_id is None
            else IndividualRef(str(one.other_id), one.other_name or "", None),
            reviewer=one.reviewer,
            at=one.created_at,
            note=one.note,
        )
        for one in verdicts
    )
