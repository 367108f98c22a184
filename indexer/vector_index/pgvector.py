"""Owns the search inside PostgreSQL: every row of the space's partition, or its HNSW index."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from sqlalchemy.orm import Session

from db.queries import ann, embeddings
from db.queries import search as rows_of
from indexer.vector_index.protocol import (
    Candidates,
    Ids,
    Scores,
    Vectors,
    float32_error,
    unit_rows,
)

ANN_MOST = 1_024
"""Asked for more rows than this the index would be walked farther than it was measured."""
_EXACT_SHARE = 8
"""Asked for more than one row in this many, comparing with all of them costs no more."""
_HALF_ERROR = 2.0**-9
"""Twice the error of a cosine in half precision: 2^-11 of each component, on both sides."""
_SCAN_TUPLES = 20_000


@dataclass(frozen=True, slots=True)
class Ann:
    """How the HNSW index is used. Of filters that admit a smaller share of the space than
    `min_share` every row is compared with: the index was measured to miss too many there."""

    ef_search: int
    min_share: float


class PgVectorIndex:
    """The rows of a space as the session's transaction sees them. Made per request; not shared."""

    def __init__(
        self,
        session: Session,
        model_id: int,
        dim: int,
        size: int | None = None,
        use: Ann | None = None,
    ) -> None:
        """`size` is how many rows the transaction sees, where the caller knows; with `use` None
        every row is compared with."""
        self._session = session
        self._model_id = model_id
        self._dim = dim
        self._size = size
        self._use = use

    @property
    def size(self) -> int:
        if self._size is None:
            self._size = embeddings.count_vectors(self._session, self._model_id)
        return self._size

    def candidates(self, queries: Vectors, n: int, allowed: Ids | None = None) -> Candidates:
        available = self.size if allowed is None else len(allowed)
        if self._use is not None and self._trusted(self._use, n, available):
            found = [self._by_index(self._use, query, n, allowed) for query in queries]
            # What the index could not fill up is not all there is: then nothing less than a scan.
            if all(len(ids) == n for ids, _ in found):
                return _stacked(found, _HALF_ERROR + 2 * float32_error(self._dim), True)
        found = [
            rows_of.nearest_rows(self._session, self._model_id, query, n, allowed)
            for query in queries
        ]
        return _stacked(found, 2 * float32_error(self._dim), False)

    def _trusted(self, use: Ann, n: int, available: int) -> bool:
        return (
            n <= ANN_MOST
            and n * _EXACT_SHARE <= available
            and available >= use.min_share * self.size
        )

    def _by_index(
        self, use: Ann, query: Vectors, n: int, allowed: Ids | None
    ) -> tuple[Ids, Scores]:
        share = 1.0 if allowed is None else len(allowed) / max(self.size, 1)
        return ann.nearest_by_index(
            self._session,
            self._model_id,
            self._dim,
            query,
            n,
            allowed,
            ef_search=max(use.ef_search, n),
            max_scan_tuples=max(_SCAN_TUPLES, int(4 * n / share)),
        )

    def fetch(self, ids: Ids) -> tuple[Ids, Vectors]:
        rows = rows_of.space_rows(self._session, self._model_id, ids, self._dim)
        return rows.ids, unit_rows(rows.vectors)


def _stacked(found: list[tuple[Ids, Scores]], max_error: float, approximate: bool) -> Candidates:
    # Two statements may see different rows; what both saw is what can be compared.
    m = min(len(ids) for ids, _ in found)
    return Candidates(
        ids=np.stack([ids[:m] for ids, _ in found]),
        scores=np.stack([scores[:m] for _, scores in found]),
        max_error=max_error,
        approximate=approximate,
    )
