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
)


@dataclass(frozen=True, slots=True)
class Pair:
    """The annotation of a candidate that scores best with one query, and its cosine."""

    score: float
    annotation_id: int
    media_id: int


@dataclass(frozen=True, slots=True, eq=False)
class Compared:
    """One candidate: a pair for each query, in their order, None where nothing of it is compared
    with that query; `scores` the best of each of its annotations over the queries."""

    pairs: tuple[Pair | None, ...]
    scores: tuple[float, ...]

    @property
    def _found(self) -> list[Pair]:
        return [pair for pair in self.pairs if pair is not None]

    @property
    def best(self) -> Pair:
        return min(self._found, key=lambda pair: (-pair.score, pair.annotation_id))

    @property
    def mean(self) -> float:
        """The mean of what each query scores best, over those that are compared."""
        return sum(pair.score for pair in self._found) / len(self._found)


def compare(
    session: Session,
    parts: Sequence[Part],
    queries: Vectors,
    individuals: Collection[UUID],
    *,
    allowed: Sequence[Ids | None],
    left_out: Callable[[CandidateRow, float], bool],
) -> dict[UUID, Compared]:
    """Each of the individuals against unit queries (P, D), by all of its annotations that the space
    holds, that are among what is `allowed` for a query (ascending; None: all), and that `left_out`
    does not name, which is asked with the best score. One of whom nothing is left is missing."""
    rows = annotations_of_individuals(session, sorted(individuals))
    if not rows:
        return {}
    held, vectors = fetch_from(parts, np.array([row.annotation_id for row in rows], dtype=np.int64))
    if not len(held):
        return {}
    cosines = exact_cosines(vectors, queries)
    for query, some in enumerate(allowed):
        if some is not None:
            cosines[~np.isin(held, some), query] = -np.inf
    by_id = {row.annotation_id: row for row in rows}
    groups: dict[UUID, list[tuple[CandidateRow, Scores]]] = {}
    for id_, scores in zip(held.tolist(), cosines, strict=True):
        row, best = by_id[id_], float(scores.max())
        if best > -np.inf and not left_out(row, best):
            groups.setdefault(row.individual_id, []).append((row, scores))
    return {individual: _compared(group) for individual, group in groups.items()}


def _compared(group: Sequence[tuple[CandidateRow, Scores]]) -> Compared:
    scores = np.stack([some for _, some in group])
    # Of equal ones the first: rows come by ascending id.
    winners = scores.argmax(axis=0).tolist()
    return Compared(
        tuple(_pair(group[at][0], float(scores[at, query])) for query, at in enumerate(winners)),
        tuple(scores.max(axis=1).tolist()),
    )


def _pair(row: CandidateRow, score: float) -> Pair | None:
    return Pair(score, row.annotation_id, row.media_id) if score > -np.inf else None
