"""Owns the oracle: every row compared with every query, in float32 NumPy blocks."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from indexer.vector_index.protocol import (
    Candidates,
    Ids,
    Scores,
    Vectors,
    best_n,
    float32_error,
    positions_of,
)
from indexer.vector_index.rows import RowFile

_BLOCK_ROWS = 16_384


class ExactIndex:
    """Compares with every row, in memory or in a file."""

    def __init__(self, ids: Ids, vectors: Vectors | RowFile) -> None:
        """`ids` int64 (N,), distinct, in any order; `vectors` float32 (N, D) of unit length."""
        if len(ids) != len(vectors):
            raise ValueError(f"{len(ids)} ids for {len(vectors)} vectors")
        self._ids = ids
        self._vectors = vectors
        self._order = np.argsort(ids) if np.any(np.diff(ids) <= 0) else None
        self._sorted = ids if self._order is None else ids[self._order]

    @property
    def size(self) -> int:
        return len(self._ids)

    def candidates(self, queries: Vectors, n: int, allowed: Ids | None = None) -> Candidates:
        rows = None if allowed is None else self._positions(allowed)
        scores = self._scan(queries, rows)
        ids = self._ids if rows is None else self._ids[rows]
        best = [best_n(ids, of_query, n) for of_query in scores]
        return Candidates(
            ids=np.stack([ids[kept] for kept in best]),
            scores=np.stack([of_query[kept] for of_query, kept in zip(scores, best, strict=True)]),
            max_error=float32_error(queries.shape[1]),
        )

    def fetch(self, ids: Ids) -> tuple[Ids, Vectors]:
        rows = self._positions(ids)
        return self._ids[rows], self._vectors[rows]

    def _positions(self, ids: Ids) -> NDArray[np.intp]:
        found = positions_of(self._sorted, ids)
        return found if self._order is None else self._order[found]

    def _scan(self, queries: Vectors, rows: NDArray[np.intp] | None) -> Scores:
        count = self.size if rows is None else len(rows)
        scores = np.empty((len(queries), count), dtype=np.float32)
        for start in range(0, count, _BLOCK_ROWS):
            stop = min(start + _BLOCK_ROWS, count)
            block = self._vectors[start:stop] if rows is None else self._vectors[rows[start:stop]]
            scores[:, start:stop] = queries @ block.T
        return scores
