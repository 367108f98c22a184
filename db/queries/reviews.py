"""What people said of queries: decisions and votes, which of them stand, and which pairs are no."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from db.errors import NotFound, translated
from db.queries.changes import Actor
from db.types import UnusableReason, Verdict

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Shown:
    """The pair that a verdict speaks of, as it was on the screen."""

    rank: int | None = None
    score: float | None = None
    match_annotation_id: int | None = None


@dataclass(frozen=True, slots=True)
class Word:
    """One verdict of a decision, on each of its annotations."""

    verdict: Verdict
    individual_id: UUID | None = None
    shown: Shown = Shown()


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What was searched when a verdict was given."""

    fingerprint: str | None
    snapshot: str | None
    filters: Json | None


@dataclass(frozen=True, slots=True)
class DecisionRow:
    """A decision, whole. `verdict` is its main one: `different` only where there is no other.
    `individual_id` (after merges) is whom that names, `rejected` whom it says it is not.
    `undone_by` took it back."""

    decision_id: UUID
    query_id: UUID | None
    verdict: Verdict
    individual_id: UUID | None
    individual_name: str | None
    individual_taxon: str | None
    rejected: tuple[UUID, ...]
    annotation_ids: tuple[int, ...]
    reason: UnusableReason | None
    is_vote: bool
    reviewer: str
    at: datetime
    note: str | None
    undone_by: str | None


def add_decision(
    session: Session,
    *,
    decision_id: UUID,
    query_id: UUID,
    annotation_ids: Sequence[int],
    words: Sequence[Word],
    actor: Actor,
    circumstances: Circumstances,
    reason: UnusableReason | None = None,
    note: str | None = None,
    is_vote: bool = False,
) -> None:
    """One row for each word and annotation.

    Raises:
        Invalid, NotFound: a constraint refuses it.
    """
    with translated():
        session.execute(
            _ADD,
            {
                "decision": decision_id,
                "query": query_id,
                "annotations": list(annotation_ids),
                "verdicts": [str(word.verdict) for word in words],
                "individuals": [word.individual_id for word in words],
                "ranks": [word.shown.rank for word in words],
                "scores": [word.shown.score for word in words],
                "matches": [word.shown.match_annotation_id for word in words],
                "reason": reason and str(reason),
                "vote": is_vote,
                "reviewer": actor.principal,
                "account": actor.account_id,
                "fingerprint": circumstances.fingerprint,
                "snapshot": circumstances.snapshot,
                "filters": None
                if circumstances.filters is None
                else json.dumps(circumstances.filters),
                "note": note,
            },
        )


# The time of the statement, not of the transaction: decisions on a query wait for each other.
_ADD: Final = text(
    "INSERT INTO review (decision_id, query_id, annotation_id, individual_id, verdict, reason,"
    " is_vote, reviewer, account_id, rank, score, match_annotation_id, fingerprint, snapshot,"
    " filters, note, created_at)"
    " SELECT :decision, :query, wanted.id, word.individual_id, word.verdict,"
    "  CASE word.verdict WHEN 'not_usable' THEN cast(:reason AS text) END, :vote, :reviewer,"
    "  :account, word.rank, word.score, word.match_id, :fingerprint, :snapshot,"
    "  cast(:filters AS jsonb), :note, statement_timestamp()"
    " FROM unnest(cast(:annotations AS bigint[])) wanted(id) CROSS JOIN"
    "  unnest(cast(:verdicts AS text[]), cast(:individuals AS uuid[]), cast(:ranks AS int[]),"
    "   cast(:scores AS float8[]), cast(:matches AS bigint[]))"
    "  word(verdict, individual_id, rank, score, match_id)"
)


def add_undo(
    session: Session, *, decision_id: UUID, query_id: UUID | None, undoes: UUID, actor: Actor
) -> None:
    """Raises:
    Conflict: `decision_undone`.
    """
    with translated():
        session.execute(
            text(
                "INSERT INTO review (decision_id, query_id, verdict, undoes, reviewer, account_id,"
                " created_at) VALUES (:decision, :query, 'undo', :undoes, :reviewer, :account,"
                " statement_timestamp())"
            ),
            {
                "decision": decision_id,
                "query": query_id,
                "undoes": undoes,
                "reviewer": actor.principal,
                "account": actor.account_id,
            },
        )


def get_decision(session: Session, decision_id: UUID) -> DecisionRow:
    """Raises:
    NotFound: `decision_unknown`.
    """
    found = _decisions(session, "r.decision_id = :id", {"id": decision_id})
    if not found:
        raise NotFound(
            "decision_unknown",
            f"No decision has the id {decision_id}.",
            decision_id=str(decision_id),
        )
    return found[0]


def get_decisions(session: Session, ids: Sequence[UUID]) -> dict[UUID, DecisionRow]:
    """The decisions and votes that exist among `ids`, by id; those taken back too."""
    found = _decisions(session, "r.decision_id = ANY(:ids)", {"ids": list(ids)})
    return {row.decision_id: row for row in found}


def decisions_on(session: Session, query_id: UUID) -> list[DecisionRow]:
    """Decisions and votes on a query, those taken back too, oldest first; undos are not among
    them."""
    return _decisions(session, "r.query_id = :id AND r.verdict <> 'undo'", {"id": query_id})


def latest_decisions(
    session: Session, *, limit: int = 50, reviewer: str | None = None
) -> list[DecisionRow]:
    """The latest decisions, newest first. Opinions are among them once they have led to one."""
    found = _decisions(
        session,
        "r.decision_id IN (SELECT said.decision_id FROM review said"
        " LEFT JOIN query q ON q.id = said.query_id"
        " WHERE said.verdict <> 'undo' AND NOT (said.is_vote AND q.state = 'second')"
        " AND (cast(:reviewer AS text) IS NULL OR said.reviewer = :reviewer)"
        " GROUP BY said.decision_id ORDER BY max(said.created_at) DESC LIMIT :limit)",
        {"limit": limit, "reviewer": reviewer},
    )
    return found[::-1]


def _decisions(session: Session, condition: str, parameters: Json) -> list[DecisionRow]:
    rows = session.execute(text(_ROWS.format(condition=condition)), parameters).all()
    grouped: dict[UUID, list[Any]] = {}
    for row in rows:
        grouped.setdefault(row.decision_id, []).append(row)
    return [_decision(group) for group in grouped.values()]


_ROWS: Final = """
    SELECT r.decision_id, r.query_id, r.annotation_id, r.verdict, r.reason, r.is_vote, r.reviewer,
        r.created_at, r.note, i.id AS individual_id, n.name, t.scientific_name,
        (SELECT u.reviewer FROM review u WHERE u.undoes = r.decision_id) AS undone_by
    FROM review r
    LEFT JOIN individual named ON named.id = r.individual_id
    LEFT JOIN individual i ON i.id = coalesce(named.merged_into_id, named.id)
    LEFT JOIN individual_name n ON n.individual_id = i.id AND n.is_primary
    LEFT JOIN taxon t ON t.id = i.taxon_id
    WHERE {condition} ORDER BY r.created_at, r.decision_id, r.id
"""


def _decision(rows: Sequence[Any]) -> DecisionRow:
    main = next((row for row in rows if row.verdict != Verdict.DIFFERENT), rows[0])
    rejected = (row.individual_id for row in rows if row.verdict == Verdict.DIFFERENT)
    annotations = (row.annotation_id for row in rows)
    return DecisionRow(
        decision_id=main.decision_id,
        query_id=main.query_id,
        verdict=Verdict(main.verdict),
        individual_id=main.individual_id,
        individual_name=main.name,
        individual_taxon=main.scientific_name,
        rejected=tuple(dict.fromkeys(one for one in rejected if one is not None)),
        annotation_ids=tuple(dict.fromkeys(one for one in annotations if one is not None)),
        reason=UnusableReason(main.reason) if main.reason else None,
        is_vote=main.is_vote,
        reviewer=main.reviewer,
        at=main.created_at,
        note=main.note,
        undone_by=main.undone_by,
    )


# ---------------------------------------------------------------- what the gate is told


@dataclass(frozen=True, slots=True)
class GateVerdict:
    """A photo that a gate judged, and what a person found: `usable` is there an animal on it.
    `score` is the gate's, of that `model`."""

    annotation_id: int
    model: str
    score: float
    usable: bool


def gate_verdicts(session: Session, model: str | None = None) -> list[GateVerdict]:
    """The latest verdict that stands on each photo which a gate (this one) gave a score: no animal,
    or else usable, or known or named as an individual."""
    rows = session.execute(
        text(
            "SELECT DISTINCT ON (r.annotation_id, photo.gate->>'model')"
            " r.annotation_id, photo.gate->>'model' AS model,"
            " cast(photo.gate->>'score' AS float8) AS score, r.verdict <> 'not_usable' AS usable"
            " FROM review r JOIN query q ON q.id = r.query_id"
            " JOIN query_photo p ON p.query_id = q.id AND p.annotation_id = r.annotation_id"
            " CROSS JOIN LATERAL (SELECT one->'gate' AS gate"
            "  FROM jsonb_array_elements(q.answer->'photos') one"
            "  WHERE cast(one->>'position' AS int) = p.position) photo"
            " WHERE (r.verdict IN ('same', 'new', 'usable') OR r.reason = 'no_animal')"
            " AND NOT r.is_vote AND photo.gate->>'score' IS NOT NULL"
            " AND (cast(:model AS text) IS NULL OR photo.gate->>'model' = :model)"
            " AND NOT EXISTS (SELECT FROM review u WHERE u.undoes = r.decision_id)"
            " ORDER BY r.annotation_id, photo.gate->>'model', r.created_at DESC"
        ),
        {"model": model},
    )
    return [GateVerdict(*row) for row in rows]
