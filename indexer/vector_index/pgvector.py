"""Owns the scan inside PostgreSQL: pgvector compares with every row of the space's partition."""

from __future__ import annotations

import numpy as np
from sqlalchemy.orm import Session

from db.queries import embeddings
from db.queries import search as rows_of
from indexer.vector_index.protocol import Candidates, Ids, Vectors, float32_error, unit_rows


class PgVectorIndex:
    """The rows of a space as the session's transaction sees them. Made per request; not shared."""

    def __init__(self, session: Session, model_id: int, dim: int, size: int | None = None) -> None:
        """`size` is how many rows the transaction sees, where the caller knows."""
        self._session = session
        self._model_id = model_id
        self._dim = dim
        self._size = size

    @property
    def size(self) -> int:
        if self._size is None:
            self._size = embeddings.count_vectors(self._session, self._model_id)
        return self._size

    def candidates(self, queries: Vectors, n: int, allowed: Ids | None = None) -> Candidates:
        found = [
            rows_of.nearest_rows(self._session, self._model_id, query, n, allowed)
            for query in queries
        ]
        # Two statements may see different rows; what both saw is what can be compared.
        m = min(len(ids) for ids, _ in found)
        return Candidates(
            ids=np.stack([ids[:m] for ids, _ in found]),
            scores=np.stack([scores[:m] for _, scores in found]),
            max_error=2 * float32_error(self._dim),
        )

    def fetch(self, ids: Ids) -> tuple[Ids, Vectors]:
        rows = rows_of.space_rows(self._session, self._model_id, ids, self._dim)
        return rows.ids, unit_rows(rows.vectors)
