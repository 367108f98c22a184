"""Owns what a vector index is, and how approximate candidates become an exact order.

An index names candidates with approximate scores and a bound on their error. `settle` scores the
candidates again in double precision and says down to which score the result is complete, so that
every index, however coarse, leads to the same answer as comparing with every row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]
Vectors = NDArray[np.float32]
Scores = NDArray[np.float32]

NO_IDS: Ids = np.zeros(0, dtype=np.int64)
_BLOCK_ROWS = 8_192


class IndexUnavailable(Exception):
    """An index that lies elsewhere gave no answer; the sentence says why and what to do."""


class IndexTimeout(IndexUnavailable):
    """It did not answer in time."""


class IndexGone(IndexUnavailable):
    """It does not hold the space; it has to be filled again."""


@dataclass(frozen=True, slots=True, eq=False)
class Candidates:
    """The m best rows of an index for each of P queries, by the index's own scores.

    `ids` int64 (P, m) and `scores` float32 (P, m), ordered by score descending, then id ascending.
    No score is further than `max_error` from the cosine. `approximate`: rows that are left out may
    score higher than those given; how often, only a measurement tells.
    """

    ids: Ids
    scores: Scores
    max_error: float
    approximate: bool = False


class VectorIndex(Protocol):
    """Vectors of one space by annotation id. Read-only and safe under concurrent readers."""

    @property
    def size(self) -> int:
        """Number of vectors."""
        ...

    def candidates(self, queries: Vectors, n: int, allowed: Ids | None = None) -> Candidates:
        """The best min(n, available) rows for each unit query (P, D), P and n at least 1.

        `allowed` (ascending) limits the rows to these ids; ids that the index lacks are ignored.
        """
        ...

    def fetch(self, ids: Ids) -> tuple[Ids, Vectors]:
        """The unit vectors of those ids that the index holds: ids (m,) and float32 (m, D)."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """One index of several that make up a space, less the ids that no longer count there."""

    index: VectorIndex
    hidden: Ids = field(default_factory=lambda: NO_IDS)


@dataclass(frozen=True, slots=True, eq=False)
class Settled:
    """Annotations in their exact order: best cosine descending, then id ascending.

    `ids` int64 (m,), `best` float32 (m,) the highest cosine over the queries, `cosines` float32
    (m, P). Complete above `level`: no other row has a best cosine greater than it, nor one with
    query p greater than `levels[p]`, unless a part was `approximate` about it. With every row
    present they are minus infinity.
    """

    ids: Ids
    best: Scores
    cosines: Scores
    levels: tuple[float, ...]
    approximate: bool = False

    @property
    def level(self) -> float:
        return max(self.levels)

    @property
    def exhausted(self) -> bool:
        return self.level == -np.inf


def unit_rows(rows: NDArray[np.floating]) -> Vectors:
    """Rows (N, D) scaled to length 1, float32 (N, D), the same bits for the same row anywhere.

    Raises:
        ValueError: not 2-D, or a row is zero or holds NaN or an infinity; it gives the position.
    """
    if rows.ndim != 2:
        raise ValueError(f"vectors come as rows (N, D), got shape {rows.shape}")
    # Squares of large float32 numbers overflow float32.
    wide = np.asarray(rows, dtype=np.float64)
    norms = np.sqrt(np.einsum("nd,nd->n", wide, wide))
    bad = np.flatnonzero(~(np.isfinite(norms) & (norms > 0)))
    if bad.size:
        raise ValueError(
            f"vector {bad[0]} of {len(wide)} has length {norms[bad[0]]} and so no direction; "
            "send finite numbers that are not all zero"
        )
    unit: Vectors = (wide / norms[:, None]).astype(np.float32)
    return unit


def exact_cosines(rows: Vectors, queries: Vectors) -> Scores:
    """Cosines float32 (N, P) of unit rows (N, D) and unit queries (P, D).

    Summed in double precision and rounded once: the value does not depend on how many rows or
    queries are scored together, as it does with float32 BLAS, so that equal rows tie.
    """
    wide = queries.astype(np.float64).T
    scores = np.empty((len(rows), len(queries)), dtype=np.float32)
    for start in range(0, len(rows), _BLOCK_ROWS):
        stop = start + _BLOCK_ROWS
        scores[start:stop] = rows[start:stop].astype(np.float64) @ wide
    return scores


def best_first(ids: Ids, scores: Scores) -> NDArray[np.intp]:
    """Positions by score descending, then id ascending."""
    return np.lexsort((ids, -scores))


def best_n(ids: Ids, scores: Scores, n: int) -> NDArray[np.intp]:
    """The first n positions of `best_first`, ties at the end decided by id too."""
    if n >= len(ids):
        return best_first(ids, scores)
    worst = np.partition(scores, len(scores) - n)[len(scores) - n]
    kept = np.flatnonzero(scores >= worst)
    return kept[best_first(ids[kept], scores[kept])[:n]]


def positions_of(sorted_ids: Ids, wanted: Ids) -> NDArray[np.intp]:
    """Positions in the ascending `sorted_ids` of those wanted ids that are in it."""
    if not len(sorted_ids):
        return np.zeros(0, dtype=np.intp)
    found = np.searchsorted(sorted_ids, wanted)
    found[found == len(sorted_ids)] = 0
    held: NDArray[np.intp] = found[sorted_ids[found] == wanted]
    return held


def float32_error(dim: int) -> float:
    """Bound on the error of a float32 dot product of two unit vectors, summed in any order."""
    return dim * 2.0**-23


def settle(parts: Sequence[Part], queries: Vectors, n: int, allowed: Ids | None = None) -> Settled:
    """The best of several parts in exact order, from the best n candidates of each part.

    Raises:
        ValueError: no query, or n below 1.
    """
    if not len(queries) or n < 1:
        raise ValueError(f"a search has at least 1 query and n >= 1, got {len(queries)} and {n}")
    ids, cosines = [NO_IDS], [np.zeros((0, len(queries)), np.float32)]
    levels = np.full(len(queries), -np.inf)
    approximate = False
    for part in parts:
        found = part.index.candidates(queries, n, allowed)
        approximate = approximate or found.approximate
        if found.ids.shape[1] >= n:
            levels = np.maximum(levels, found.scores[:, -1].astype(np.float64) + found.max_error)
        unique = np.unique(found.ids)
        if len(part.hidden):
            unique = np.setdiff1d(unique, part.hidden, assume_unique=True)
        held, rows = part.index.fetch(unique)
        ids.append(held)
        cosines.append(exact_cosines(rows, queries))
    all_ids, all_cosines = np.concatenate(ids), np.concatenate(cosines)
    best = all_cosines.max(axis=1, initial=-np.inf)
    order = best_first(all_ids, best)
    return Settled(
        all_ids[order], best[order], all_cosines[order], tuple(levels.tolist()), approximate
    )


def fetch_from(parts: Sequence[Part], ids: Ids) -> tuple[Ids, Vectors]:
    """Those ids that a space holds, ascending, with their unit vectors, each from the part where
    it counts."""
    found = [part.index.fetch(np.setdiff1d(ids, part.hidden)) for part in parts]
    if not found:
        return NO_IDS, np.zeros((0, 0), dtype=np.float32)
    all_ids = np.concatenate([some for some, _ in found])
    order = np.argsort(all_ids)
    return all_ids[order], np.concatenate([rows for _, rows in found])[order]


def nearest(
    parts: Sequence[Part], queries: Vectors, n: int, allowed: Ids | None = None
) -> tuple[Ids, Scores]:
    """The n best annotations by cosine (the highest over the queries): ids (m,), scores (m,)."""
    batch = n + 64
    while True:
        settled = settle(parts, queries, batch, allowed)
        if settled.exhausted or np.count_nonzero(settled.best > settled.level) >= n:
            return settled.ids[:n], settled.best[:n]
        batch *= 8
