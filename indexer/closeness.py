"""How close annotations and individuals are: nearest others, and groups inside one individual.

Pure functions of arrays. Rows are unit vectors, scores cosines; no more than a block of the table
of all pairs is ever held.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from indexer.evaluate import Codes
from indexer.vector_index.protocol import Ids, Scores, Vectors
from indexer.viewpoints import Sides

BLOCK_ROWS: Final = 256
Told = Callable[[float], None]
"""Is told how much is done, 0 to 1."""


@dataclass(frozen=True, slots=True, eq=False)
class Closest:
    """Of n annotations: `own` float32 (n,) the best cosine to another annotation of the same
    individual, -inf where there is none; `other` float32 (n,) the best to one of another
    individual, and `other_row` int64 (n,) which; -inf and -1 where there is none. Of equals the
    first row counts."""

    own: Scores
    other: Scores
    other_row: Ids


def closest(
    vectors: Vectors,
    who: Codes,
    sides: Sides,
    apart: Collection[tuple[int, int]] = (),
    told: Told = lambda _: None,
) -> Closest:
    """`vectors` float32 (n, D) of the individuals `who` int64 (n,) ascending; what is in `apart`,
    pairs of individuals, is never compared, nor is one side with the other.

    Each pair of rows is multiplied once, a block of rows with all rows from there on.
    """
    n = len(vectors)
    groups = _Groups(who)
    kept_apart = _both_ways(apart)
    other = np.full(n, -np.inf, np.float32)
    other_row = np.full(n, -1, np.int64)
    # One buffer for all blocks: to get fresh memory for each costs as much as to fill it.
    buffer = np.empty(min(BLOCK_ROWS, n) * n, np.float32)
    for start in range(0, n, BLOCK_ROWS):
        end = min(start + BLOCK_ROWS, n)
        shape = (end - start, n - start)
        scores = buffer[: shape[0] * shape[1]].reshape(shape)
        np.matmul(vectors[start:end], vectors[start:].T, out=scores)
        _hide(scores, groups, kept_apart, start, end)
        _hide_sides(scores, sides[start:end], sides[start:])
        places = scores.argmax(axis=1)
        found = scores[np.arange(len(scores)), places]
        _keep_better(other[start:end], other_row[start:end], found, places + start)
        _take_columns(other[end:], other_row[end:], scores[:, end - start :], start)
        told(1 - ((n - end) / n) ** 2)
    return Closest(_own(vectors, groups, sides), other, other_row)


class _Groups:
    """Which rows are those of an individual; rows are in the order of the individuals."""

    def __init__(self, who: Codes) -> None:
        self._codes, firsts = np.unique(who, return_index=True)
        self._bounds = np.append(firsts, len(who))
        self._who = who

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """First row and the one after the last of each individual."""
        return iter(zip(self._bounds[:-1].tolist(), self._bounds[1:].tolist(), strict=True))

    def between(self, start: int, end: int) -> list[int]:
        """The individuals with rows in this range."""
        return [int(code) for code in np.unique(self._who[start:end])]

    def rows(self, code: int) -> tuple[int, int]:
        """First row and the one after the last; an empty range for an unknown individual."""
        place = int(np.searchsorted(self._codes, code))
        if place == len(self._codes) or self._codes[place] != code:
            return 0, 0
        return int(self._bounds[place]), int(self._bounds[place + 1])


def _both_ways(apart: Collection[tuple[int, int]]) -> dict[int, list[int]]:
    others: dict[int, list[int]] = {}
    for one, other in apart:
        others.setdefault(one, []).append(other)
        others.setdefault(other, []).append(one)
    return others


def _hide(
    scores: NDArray[np.float32], groups: _Groups, apart: dict[int, list[int]], start: int, end: int
) -> None:
    """No row meets its own individual, or one that it is kept apart from."""
    for code in groups.between(start, end):
        first, last = groups.rows(code)
        rows = slice(max(first, start) - start, min(last, end) - start)
        for hidden in (code, *apart.get(code, ())):
            from_, to = groups.rows(hidden)
            scores[rows, max(from_ - start, 0) : max(to - start, 0)] = -np.inf


def _hide_sides(scores: NDArray[np.float32], rows: Sides, columns: Sides) -> None:
    """No row of one side meets a column of the other."""
    for side in (1, -1):
        facing = np.flatnonzero(rows == side)
        if len(facing):
            hidden = np.where(columns == -side, np.float32(-np.inf), np.float32(0))
            for row in facing.tolist():
                scores[row] += hidden


def _take_columns(
    best: NDArray[np.float32],
    best_row: NDArray[np.int64],
    scores: NDArray[np.float32],
    start: int,
) -> None:
    """Take the best of each column of a block that begins at row `start`, where it is better."""
    if not scores.size:
        return
    found = scores.max(axis=0)
    better = np.flatnonzero(found > best)
    # Few are better after the first blocks, and the place of a maximum costs more than itself.
    best_row[better] = scores[:, better].argmax(axis=0) + start
    best[better] = found[better]


def _keep_better(
    best: NDArray[np.float32],
    best_row: NDArray[np.int64],
    found: NDArray[np.float32],
    rows: NDArray[np.int64],
) -> None:
    better = found > best
    best[better] = found[better]
    best_row[better] = rows[better]


def _own(vectors: Vectors, groups: _Groups, sides: Sides) -> Scores:
    own = np.full(len(vectors), -np.inf, np.float32)
    for first, last in groups:
        rows = vectors[first:last]
        for start in range(0, len(rows) if len(rows) > 1 else 0, BLOCK_ROWS):
            scores = rows[start : start + BLOCK_ROWS] @ rows.T
            place = np.arange(len(scores))
            scores[place, place + start] = -np.inf
            _hide_sides(
                scores, sides[first + start : first + start + len(scores)], sides[first:last]
            )
            own[first + start : first + start + len(scores)] = scores.max(axis=1)
    return own


# ---------------------------------------------------------------- groups


@dataclass(frozen=True, slots=True, eq=False)
class Linkage:
    """Average linkage of n rows: n - 1 joins, the most alike first. `pairs` int64 (n - 1, 2) are
    rows that lie in the two groups joined, `scores` float64 (n - 1,) the mean cosine between
    them."""

    pairs: NDArray[np.int64]
    scores: NDArray[np.float64]

    def cut(self, groups: int) -> NDArray[np.int64]:
        """int64 (n,): the group of each row when `groups` of them are left; numbered by their
        first rows."""
        n = len(self.scores) + 1
        leader = np.arange(n)
        for one, other in self.pairs[: max(n - groups, 0)]:
            leader[leader == leader[other]] = leader[one]
        firsts = {lead: place for place, lead in reversed(list(enumerate(leader.tolist())))}
        number = {lead: rank for rank, lead in enumerate(sorted(firsts, key=lambda x: firsts[x]))}
        return np.array([number[lead] for lead in leader.tolist()], np.int64)

    def widest(self, at_most: int, gap_min: float) -> int:
        """How many groups, up to `at_most`, the widest gap between two joins leaves; 1 where none
        reaches `gap_min`."""
        gaps = self.scores[:-1] - self.scores[1:]
        left = np.arange(len(self.scores), 1, -1)
        fitting = left <= at_most
        if not fitting.any() or gaps[fitting].max() < gap_min:
            return 1
        return int(left[fitting][np.argmax(gaps[fitting])])


def cosines(vectors: Vectors, sides: Sides) -> NDArray[np.float64]:
    """float64 (n, n): the cosine of each row of `vectors` float32 (n, D) to each other one; NaN
    where they are not compared, which are a row with itself and one side with the other."""
    scores = (vectors @ vectors.T).astype(np.float64)
    scores[np.multiply.outer(sides, sides) < 0] = np.nan
    np.fill_diagonal(scores, np.nan)
    return scores


def average_linkage(cosines: NDArray[np.float64]) -> Linkage:
    """Groups joined by the mean cosine between their rows, by chains of nearest neighbours
    (Murtagh 1983): n² memory, n² time. `cosines` float64 (n, n), n at least 1; what was not
    compared speaks neither for a join nor against it, so it counts as the mean of what was."""
    n = len(cosines)
    known = ~np.isnan(cosines)
    scores = np.where(known, cosines, cosines[known].mean() if known.any() else 1.0)
    np.fill_diagonal(scores, -np.inf)
    sizes = np.ones(n)
    joins: list[tuple[float, int, int]] = []
    chain: list[int] = []
    alive = np.ones(n, bool)
    while len(joins) < n - 1:
        if not chain:
            chain.append(int(np.argmax(alive)))
        here = chain[-1]
        there = int(np.argmax(scores[here]))
        if len(chain) > 1 and scores[here, chain[-2]] >= scores[here, there]:
            there = chain[-2]
        if len(chain) < 2 or there != chain[-2]:
            chain.append(there)
            continue
        del chain[-2:]
        kept, gone = min(here, there), max(here, there)
        joins.append((float(scores[kept, gone]), kept, gone))
        weight = sizes[[kept, gone]] / sizes[[kept, gone]].sum()
        with np.errstate(invalid="ignore"):
            mean = weight[0] * scores[kept] + weight[1] * scores[gone]
        mean[[kept, gone]] = -np.inf
        scores[kept], scores[:, kept] = mean, mean
        scores[gone], scores[:, gone] = -np.inf, -np.inf
        sizes[kept] += sizes[gone]
        alive[gone] = False
    # Joins are found out of order; equals keep theirs, which joins parts before the whole.
    order = sorted(range(len(joins)), key=lambda place: -joins[place][0])
    return Linkage(
        np.array([joins[place][1:] for place in order], np.int64).reshape(-1, 2),
        np.array([joins[place][0] for place in order], np.float64),
    )
