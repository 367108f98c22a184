"""What cosines of a space mean: calibrations, and the verdicts that they are fitted on."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import text
from sqlalchemy.orm import Session

from db.errors import translated

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class CalibrationRow:
    """`params` are the fitted curves, `report` is what was measured when they were fitted."""

    id: int
    model_id: int
    params: Json
    report: Json
    fitted_by: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class JudgedPair:
    """A query and an individual that somebody judged: `score` is the cosine that was shown.

    `implied`: nobody said "different", but the individual scored higher than the one that was
    confirmed, so it was seen and passed over. `encounter` is that of the query, or the query."""

    encounter: str
    score: float
    same: bool
    implied: bool


@dataclass(frozen=True, slots=True)
class DecidedQuery:
    """A query that somebody decided: `new`, or else an individual of the catalogue."""

    encounter: str
    best_score: float
    new: bool


def put_calibration(
    session: Session, model_id: int, *, params: Json, report: Json, fitted_by: str
) -> CalibrationRow:
    """Store a calibration, which is the one of its space from now on.

    Raises:
        NotFound: no such space.
    """
    with translated():
        row = session.execute(
            text(
                "INSERT INTO calibration (model_id, params, report, fitted_by) VALUES"
                " (:model, cast(:params AS jsonb), cast(:report AS jsonb), :by)"
                " RETURNING id, created_at"
            ),
            {
                "model": model_id,
                "params": json.dumps(params),
                "report": json.dumps(report),
                "by": fitted_by,
            },
        ).one()
    return CalibrationRow(
        row.id, model_id, params, report, fitted_by, row.created_at.astimezone(UTC)
    )


def newest_key(session: Session, model_id: int) -> tuple[int, datetime] | None:
    """Number and time of the space's calibration; None where it has none."""
    row = session.execute(_NEWEST, {"model": model_id}).first()
    return None if row is None else (row.id, row.created_at.astimezone(UTC))


_NEWEST = text(
    "SELECT id, created_at FROM calibration WHERE model_id = :model ORDER BY id DESC LIMIT 1"
)


def newest(session: Session, model_id: int) -> CalibrationRow | None:
    """The space's calibration."""
    row = session.execute(
        text(
            "SELECT id, model_id, params, report, fitted_by, created_at FROM calibration"
            " WHERE model_id = :model ORDER BY id DESC LIMIT 1"
        ),
        {"model": model_id},
    ).first()
    if row is None:
        return None
    return CalibrationRow(
        row.id, row.model_id, row.params, row.report, row.fitted_by, row.created_at.astimezone(UTC)
    )


# The newest verdict on an annotation and an individual counts, and only if it was made in this
# space. Votes are opinions, not decisions. What the catalogue says otherwise by now was corrected
# outside the review, so the verdict is no longer anybody's word. Means over photos are on another
# scale than the best of all.
_FUSED_BY_MAX = "coalesce(q.answer ->> 'fuse', 'max') = 'max'"
_JUDGED = f"""
    WITH said AS (
        SELECT DISTINCT ON (r.annotation_id, coalesce(i.merged_into_id, i.id))
            r.query_id, r.verdict, r.score, r.fingerprint, r.created_at,
            coalesce(i.merged_into_id, i.id) AS individual_id,
            coalesce(who.merged_into_id, who.id) AS individual_now
        FROM review r JOIN individual i ON i.id = r.individual_id
        LEFT JOIN annotation a ON a.id = r.annotation_id
        LEFT JOIN individual who ON who.id = a.individual_id
        WHERE r.verdict IN ('same', 'different') AND r.annotation_id IS NOT NULL
            AND NOT r.is_vote
            AND NOT EXISTS (SELECT FROM review u WHERE u.undoes = r.decision_id)
        ORDER BY r.annotation_id, coalesce(i.merged_into_id, i.id), r.created_at DESC, r.id DESC
    ), explicit AS (
        SELECT DISTINCT ON (coalesce(q.encounter_id, s.query_id), s.individual_id)
            coalesce(q.encounter_id, s.query_id) AS encounter, s.query_id, s.individual_id,
            s.score, s.verdict = 'same' AS same
        FROM said s JOIN query q ON q.id = s.query_id
        WHERE s.score IS NOT NULL AND s.fingerprint = :fingerprint AND {_FUSED_BY_MAX}
            AND (s.individual_now IS NULL
                OR (s.verdict = 'same') = (s.individual_now = s.individual_id))
        ORDER BY coalesce(q.encounter_id, s.query_id), s.individual_id, s.created_at DESC
    ), passed_over AS (
        SELECT DISTINCT ON (e.encounter, coalesce(i.merged_into_id, i.id))
            e.encounter, coalesce(i.merged_into_id, i.id) AS individual_id, m.score
        FROM explicit e JOIN match m ON m.query_id = e.query_id AND m.score > e.score
        JOIN individual i ON i.id = m.individual_id
        WHERE e.same
        ORDER BY e.encounter, coalesce(i.merged_into_id, i.id), m.score DESC
    )
    SELECT encounter::text, score, same, false AS implied FROM explicit
    UNION ALL
    SELECT p.encounter::text, p.score, false, true FROM passed_over p
    WHERE NOT EXISTS (SELECT FROM explicit e
        WHERE e.encounter = p.encounter AND e.individual_id = p.individual_id)
    ORDER BY 1, 2
"""

_DECIDED = f"""
    SELECT DISTINCT ON (coalesce(q.encounter_id, q.id))
        coalesce(q.encounter_id, q.id)::text AS encounter, q.best_score, q.state = 'new' AS new
    FROM query q
    WHERE q.state IN ('same', 'new') AND q.model_id = :model AND q.best_score IS NOT NULL
        AND {_FUSED_BY_MAX}
    ORDER BY coalesce(q.encounter_id, q.id), q.created_at DESC, q.id
"""


def judged_pairs(session: Session, fingerprint: str) -> list[JudgedPair]:
    """The pairs that people judged in a space, one for each query's encounter and individual: not
    undone, the newest verdict, merges followed, not contradicted by the catalogue as it is."""
    rows = session.execute(text(_JUDGED), {"fingerprint": fingerprint})
    return [JudgedPair(row.encounter, row.score, row.same, row.implied) for row in rows]


def decided_queries(session: Session, model_id: int) -> list[DecidedQuery]:
    """The queries that were answered in a space and decided as one of the catalogue or as new, the
    newest of each encounter. Those that are open, unsure or without a match say neither."""
    rows = session.execute(text(_DECIDED), {"model": model_id})
    return [DecidedQuery(row.encounter, row.best_score, row.new) for row in rows]
