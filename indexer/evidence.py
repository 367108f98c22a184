"""Owns what each photo of a question scores best with a candidate: every pair compared exactly."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from uuid import UUID

import numpy as np
from sqlalchemy.orm import Session

from db.queries.search import CandidateRow, annotations_of_individuals
from indexer.vector_index.protocol import (
    Ids,
    Part,
    Scores,
    Vectors,
    exact_cosines,
    fetch_from,
    positions_of,
)


@dataclass(frozen=True, slots=True)
class Pair:
    """The annotation of a candidate that scores best with one query, and its cosine."""

    score: float
    annotation_id: int
    media_id: int


@dataclass(frozen=True, slots=True, eq=False)
class Compared:
    """One candidate: a pair for each query, in their order; `scores` the best of each of its
    annotations over the queries."""

    pairs: tuple[Pair, ...]
    scores: tuple[float, ...]

    @property
    def best(self) -> Pair:
        return min(self.pairs, key=lambda pair: (-pair.score, pair.annotation_id))

    @property
    def mean(self) -> float:
        """The mean over the queries of what each scores best."""
        return sum(pair.score for pair in self.pairs) / len(self.pairs)


def compare(
    session: Session,
    parts: Sequence[Part],
    queries: Vectors,
    individuals: Collection[UUID],
    *,
    allowed: Ids | None,
    left_out: Callable[[CandidateRow, float], bool],
) -> dict[UUID, Compared]:
    """Each of the individuals against unit queries (P, D), by all of its annotations that the space
    holds, that are among `allowed` (ascending; None: all) and that `left_out` does not name, which
    is asked with the best score. An individual of whom nothing is left is missing."""
    rows = annotations_of_individuals(session, sorted(individuals))
    ids = np.array([row.annotation_id for row in rows], dtype=np.int64)
    if allowed is not None:
        ids = allowed[positions_of(allowed, ids)]
    held, vectors = fetch_from(parts, ids)
    if not len(held):
        return {}
    cosines = exact_cosines(vectors, queries)
    by_id = {row.annotation_id: row for row in rows}
    groups: dict[UUID, list[tuple[CandidateRow, Scores]]] = {}
    for id_, scores in zip(held.tolist(), cosines, strict=True):
        row = by_id[id_]
        if not left_out(row, float(scores.max())):
            groups.setdefault(row.individual_id, []).append((row, scores))
    return {individual: _compared(group) for individual, group in groups.items()}


def _compared(group: Sequence[tuple[CandidateRow, Scores]]) -> Compared:
    scores = np.stack([some for _, some in group])
    # Of equal ones the first: rows come by ascending id.
    winners = scores.argmax(axis=0)
    return Compared(
        tuple(
            Pair(float(scores[at, query]), group[at][0].annotation_id, group[at][0].media_id)
            for query, at in enumerate(winners.tolist())
        ),
        tuple(scores.max(axis=1).tolist()),
    )
