"""Verdicts of a desk, written straight into the tables: what calibrations are fitted on."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID, uuid4

import numpy as np
from sqlalchemy import text
from sqlalchemy.orm import Session

from db.queries import catalogue, records
from db.queries.embeddings import SpaceRow
from db.queries.records import MatchRow
from db.types import GateState, QueryKind

_numbers = itertools.count(1_000_000_000)


def curve(scores: np.ndarray) -> np.ndarray:
    """The probability that drawn pairs have: a half at 0.6."""
    return 1.0 / (1.0 + np.exp(-14.0 * (scores - 0.6)))


def drawn(n: int, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """(scores float64 (n,), same bool (n,)) by that curve."""
    rng = np.random.default_rng(seed)
    scores = rng.uniform(0.2, 0.98, n)
    return scores, rng.random(n) < curve(scores)


@dataclass
class Desk:
    """Decisions in one space."""

    session: Session
    space: SpaceRow

    def individual(self, name: str) -> UUID:
        home = catalogue.default_catalogue(self.session).id
        return catalogue.ensure_individual(self.session, catalogue_id=home, name=name).id

    def annotation(self) -> int:
        """The number of an annotation; verdicts outlive theirs, so none need be there."""
        return next(_numbers)

    def query(
        self, state: str = "open", best: float | None = None, matches: Sequence[MatchRow] = ()
    ) -> UUID:
        made = records.add_query(
            self.session,
            kind=QueryKind.ENCOUNTER,
            model_id=self.space.id,
            principal="anna",
            k=10,
            gate_state=GateState.ACCEPTED,
            answer={},
            matches=matches,
        )
        self.session.execute(
            text("UPDATE query SET state = :state, best_score = :best WHERE id = :id"),
            {"state": state, "best": best, "id": made},
        )
        return made

    def says(
        self,
        verdict: str,
        individual: UUID,
        score: float | None,
        *,
        annotations: Sequence[int] = (),
        query: UUID | None = None,
        vote: bool = False,
        fingerprint: str | None = None,
    ) -> UUID:
        """A decision, one row for each annotation; its id. Later ones are newer."""
        decision = uuid4()
        query = query or self.query()
        for annotation in annotations or [self.annotation()]:
            self.session.execute(
                text(
                    "INSERT INTO review (decision_id, query_id, annotation_id, individual_id,"
                    " verdict, is_vote, reviewer, score, fingerprint, created_at) VALUES"
                    " (:decision, :query, :annotation, :individual, :verdict, :vote, 'anna',"
                    " :score, :print, clock_timestamp())"
                ),
                {
                    "decision": decision,
                    "query": query,
                    "annotation": annotation,
                    "individual": individual,
                    "verdict": verdict,
                    "vote": vote,
                    "score": score,
                    "print": fingerprint or self.space.fingerprint,
                },
            )
        return decision

    def undo(self, decision: UUID) -> None:
        self.session.execute(
            text(
                "INSERT INTO review (query_id, verdict, undoes, reviewer)"
                " SELECT query_id, 'undo', decision_id, 'anna' FROM review"
                " WHERE decision_id = :id LIMIT 1"
            ),
            {"id": decision},
        )

    def many(self, scores: Sequence[float] | np.ndarray, same: Sequence[bool] | np.ndarray) -> None:
        """A query and a verdict for each score, all about one individual: "same", or "none of
        these: new"."""
        self.session.execute(
            text(
                "WITH asked AS (INSERT INTO query (kind, model_id, principal, k, gate_state,"
                "  answer, state, best_score)"
                "  SELECT 'encounter', :model, 'anna', 10, 'accepted', '{}',"
                "  CASE WHEN same THEN 'same' ELSE 'new' END, score"
                "  FROM unnest(cast(:scores AS float8[]), cast(:same AS boolean[])) t(score, same)"
                "  RETURNING id, best_score, state)"
                " INSERT INTO review (query_id, annotation_id, individual_id, verdict, reviewer,"
                "  score, fingerprint) SELECT id, number, :individual,"
                "  CASE state WHEN 'same' THEN 'same' ELSE 'different' END, 'anna', best_score,"
                "  :print FROM (SELECT *, row_number() OVER () FROM asked) a"
                "  JOIN unnest(cast(:numbers AS bigint[])) WITH ORDINALITY n(number, row_number)"
                "  USING (row_number)"
            ),
            {
                "model": self.space.id,
                "scores": [float(score) for score in scores],
                "same": [bool(one) for one in same],
                "numbers": [self.annotation() for _ in scores],
                "individual": self.individual("judged"),
                "print": self.space.fingerprint,
            },
        )
