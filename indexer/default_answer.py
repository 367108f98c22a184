"""The default answer: what the head says, and whether it may be said.

Given only when the gate accepted, the best slot has a name, the probability is high enough, and
nobody said that the photos do not show that individual.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from uuid import UUID

from sqlalchemy.orm import Session

from db.queries import embeddings, heads
from db.queries.embeddings import SlotRow
from indexer.answers import DefaultAnswer, GateAnswer, HeadCandidate, IndividualRef, Notice
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
    rejected: Set[UUID],
) -> DefaultAnswer:
    """What the head says of an encounter, None where no head is loaded or nothing was embedded.

    `head_id` are the head's slots in the database: without them a label is named as it is.
    `rejected` are those whom the photos do not show, as somebody said: the next best slot is not
    named in their place, for the head never meant it.
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
    # Slots of merged individuals count together; where not even all of them would do, it need not
    # be asked who they are.
    if sum(score.probability for score in head.top) < min_probability:
        return _low_confidence(head.top[0].probability, min_probability, model)
    candidates = _name_slots(session, head_id, head.top)
    best = candidates[0].probability
    if best < min_probability:
        return _low_confidence(best, min_probability, model)
    individual = candidates[0].individual
    if individual.id is not None and UUID(individual.id) in rejected:
        return DefaultAnswer(
            "withheld",
            model=model,
            reason=f"The head would name {individual.name}, and somebody said that this is not "
            f"{individual.name}.",
        )
    return DefaultAnswer(
        "given",
        individual=individual,
        probability=best,
        model=model,
        candidates=candidates,
    )


def _low_confidence(best: float, needed: float, model: str) -> DefaultAnswer:
    return DefaultAnswer(
        "low_confidence",
        probability=best,
        model=model,
        reason=f"The best probability is {best:.3f}, below {needed:.3f}.",
    )


def unknown_to_head(
    session: Session, head_id: int | None, nearest: IndividualRef | None
) -> tuple[Notice, ...]:
    """Says so where the nearest match has no slot in the head: until a head is fitted that has one,
    the default answer is always somebody else, and only the matches can be right."""
    if head_id is None or nearest is None or nearest.id is None:
        return ()
    if heads.head_knows(session, head_id, UUID(nearest.id)):
        return ()
    return (
        Notice(
            "head_does_not_know",
            f"The head has no slot for {nearest.name}, the nearest match, so the default answer "
            "cannot name it: go by the matches. `resight head fit` makes a head that can.",
        ),
    )


def _name_slots(
    session: Session, head_id: int | None, top: Sequence[SlotScore]
) -> tuple[HeadCandidate, ...]:
    """Most probable first. Slots of individuals that were merged since count together."""
    slots = [score.slot for score in top]
    rows = embeddings.slot_labels(session, head_id, slots) if head_id is not None else []
    by_slot = {row.slot: row for row in rows}
    named: dict[str | int, HeadCandidate] = {}
    for score in top:
        individual = _named(score, by_slot.get(score.slot))
        key = individual.id or score.slot
        same = named.get(key)
        named[key] = HeadCandidate(
            individual,
            score.probability + (same.probability if same else 0.0),
            same.species if same else score.species,
        )
    return tuple(sorted(named.values(), key=lambda candidate: -candidate.probability))


def _named(score: SlotScore, row: SlotRow | None) -> IndividualRef:
    if row is None or row.individual_id is None:
        taxon = row.taxon if row is not None else None
        return IndividualRef(None, score.label, taxon or score.species)
    return IndividualRef(
        str(row.individual_id), row.individual_name or score.label, row.taxon or score.species
    )
