"""Owns the measures of retrieval: ranks, top-k, mean average precision; pure functions of arrays.

Nothing is ever compared with its own encounter: photos of one encounter resemble each other for
reasons (light, distance, burst) that have nothing to do with who is on them.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from indexer.vector_index.protocol import Scores, Vectors

Codes = NDArray[np.int64]
"""Equal numbers mean the same individual, encounter or viewpoint."""

_BLOCK_ROWS = 256


@dataclass(frozen=True, slots=True, eq=False)
class Ranks:
    """Of n queries with a true match: `queries` int64 (n,) their rows, `rank` int64 (n,) the
    place of the right individual (1 is first), `average_precision` float64 (n,) over
    annotations."""

    queries: Codes
    rank: Codes
    average_precision: NDArray[np.float64]
    skipped: int
    """Rows that no other encounter could have answered."""


@dataclass(frozen=True, slots=True)
class Summary:
    """Shares are of `n` queries; without any, every measure is None."""

    n: int
    skipped: int
    top_1: float | None
    top_5: float | None
    median_rank: float | None
    mean_average_precision: float | None


def codes(labels: NDArray[np.generic]) -> Codes:
    """Integer codes (N,) of labels (N,) of any kind."""
    numbers: Codes = np.unique(labels, return_inverse=True)[1].astype(np.int64)
    return numbers


def leave_one_encounter_out(
    vectors: Vectors,
    individual: Codes,
    encounter: Codes,
    viewpoint: Codes | None = None,
    queries: Codes | None = None,
) -> Ranks:
    """Ask annotations who they are, against all annotations of other encounters.

    `vectors` float32 (N, D) of unit length, the codes int64 (N,); `queries` int64 (Q,) are the rows
    that ask, all for None. With `viewpoint` only the same viewpoint is compared. An individual
    scores as high as its best annotation; of equal scores the right one counts as last, so that a
    constant score is never a success.
    """
    rows = np.arange(len(vectors)) if queries is None else queries
    found, ranks, precisions = [], [], []
    skipped = 0
    for start in range(0, len(rows), _BLOCK_ROWS):
        asking = rows[start : start + _BLOCK_ROWS]
        scores = vectors[asking] @ vectors.T
        for query, of_query in zip(asking, scores, strict=True):
            compared = encounter != encounter[query]
            if viewpoint is not None:
                compared &= viewpoint == viewpoint[query]
            right = individual[compared] == individual[query]
            if not right.any():
                skipped += 1
                continue
            found.append(query)
            ranks.append(_rank(of_query[compared], individual[compared], right))
            precisions.append(_average_precision(of_query[compared], right))
    return Ranks(
        np.array(found, dtype=np.int64),
        np.array(ranks, dtype=np.int64),
        np.array(precisions, dtype=np.float64),
        skipped,
    )


def _rank(scores: Scores, individual: Codes, right: NDArray[np.bool_]) -> int:
    at_least = (scores >= scores[right].max()) & ~right
    return 1 + len(np.unique(individual[at_least]))


def _average_precision(scores: Scores, right: NDArray[np.bool_]) -> float:
    # What scores below every right annotation changes nothing.
    near = scores >= scores[right].min()
    scores, right = scores[near], right[near]
    # A wrong annotation comes before a right one of the same score.
    order = np.lexsort((right, -scores))
    places = np.flatnonzero(right[order]) + 1
    return float(np.mean(np.arange(1, len(places) + 1) / places))


def top_k(rank: Codes, k: int) -> float:
    """Share of the queries whose right individual is among the first k.

    Raises:
        ValueError: there are no queries.
    """
    if not len(rank):
        raise ValueError("there are no queries to take a share of")
    return float(np.mean(rank <= k))


def summary(ranks: Ranks) -> Summary:
    """The measures people compare, with their denominator."""
    n = len(ranks.rank)
    if not n:
        return Summary(0, ranks.skipped, None, None, None, None)
    return Summary(
        n=n,
        skipped=ranks.skipped,
        top_1=top_k(ranks.rank, 1),
        top_5=top_k(ranks.rank, 5),
        median_rank=float(np.median(ranks.rank)),
        mean_average_precision=float(ranks.average_precision.mean()),
    )


def true_match_scores(
    vectors: Vectors, individual: Codes, encounter: Codes, queries: Codes | None = None
) -> Scores:
    """float32 (Q,): for each query row (all for None) the best cosine to its own individual in
    another encounter; NaN where the individual was met only once."""
    rows = np.arange(len(vectors)) if queries is None else queries
    scores = np.full(len(rows), np.nan, dtype=np.float32)
    by_individual = np.argsort(individual[rows], kind="stable")
    groups = np.flatnonzero(np.diff(individual[rows][by_individual], prepend=-1, append=-1))
    members_in_order = np.argsort(individual, kind="stable")
    ordered = individual[members_in_order]
    for start, stop in itertools.pairwise(groups):
        places = by_individual[start:stop]
        who = individual[rows[places[0]]]
        first, last = np.searchsorted(ordered, [who, who + 1])
        members = members_in_order[first:last]
        scores[places] = _best_elsewhere(vectors, encounter, rows[places], members)
    return scores


def _best_elsewhere(
    vectors: Vectors, encounter: Codes, rows: Codes, members: NDArray[np.intp]
) -> Scores:
    best = np.full(len(rows), np.nan, dtype=np.float32)
    theirs, where = vectors[members], encounter[members]
    for start in range(0, len(rows), _BLOCK_ROWS):
        block = rows[start : start + _BLOCK_ROWS]
        scores = vectors[block] @ theirs.T
        scores[encounter[block][:, None] == where[None, :]] = -np.inf
        highest = scores.max(axis=1)
        best[start : start + _BLOCK_ROWS] = np.where(np.isneginf(highest), np.nan, highest)
    return best
