"""The default answer: what the head says, and whether it may be said.

Given only when the gate accepted, the best slot has a name, and the probability is high enough.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy.orm import Session

from db.queries import embeddings
from db.queries.embeddings import SlotRow
from indexer.answers import DefaultAnswer, GateAnswer, HeadCandidate, IndividualRef
from models.head import HeadAnswer, SlotScore

CANDIDATES = 5
"""Ranks that a default answer carries, its first included."""


def default_answer(
    session: Session,
    gate: GateAnswer,
    head: HeadAnswer | None,
    *,
    head_id: int | None,
    model: str,
    min_probability: float,
) -> DefaultAnswer:
    """What the head says of an encounter, None where no head is loaded or nothing was embedded.

    `head_id` are the head's slots in the database: without them a label is named as it is.
    """
    if gate.state == "rejected":
        return DefaultAnswer(
            "withheld", model=model, reason="The gate rejected the photo; no name is suggested."
        )
    if head is None:
        return DefaultAnswer(
            "unavailable", reason="No head is loaded: only the gate and retrieval can speak."
        )
    if gate.state == "abstained":
        return DefaultAnswer(
            "withheld",
            model=model,
            reason="The gate abstained, so no name is given; the matches are for review.",
        )
    if not head.winner_mapped:
        return DefaultAnswer(
            "unmapped_slot",
            model=model,
            reason=f"The head's best slot ({head.winner_slot}) is of an individual with no name in "
            "its list; the matches may know it.",
        )
    best = head.top[0].probability
    if best < min_probability:
        return DefaultAnswer(
            "low_confidence",
            probability=best,
            model=model,
            reason=f"The best probability is {best:.3f}, below {min_probability:.3f}.",
        )
    candidates = _name_slots(session, head_id, head.top)
    return DefaultAnswer(
        "given",
        individual=candidates[0].individual,
        probability=best,
        model=model,
        candidates=candidates,
    )


def _name_slots(
    session: Session, head_id: int | None, top: Sequence[SlotScore]
) -> tuple[HeadCandidate, ...]:
    slots = [score.slot for score in top]
    rows = embeddings.slot_labels(session, head_id, slots) if head_id is not None else []
    by_slot = {row.slot: row for row in rows}
    return tuple(
        HeadCandidate(_named(s, by_slot.get(s.slot)), s.probability, s.species) for s in top
    )


def _named(score: SlotScore, row: SlotRow | None) -> IndividualRef:
    if row is None or row.individual_id is None:
        taxon = row.taxon if row is not None else None
        return IndividualRef(None, score.label, taxon or score.species)
    return IndividualRef(
        str(row.individual_id), row.individual_name or score.label, row.taxon or score.species
    )
