"""Owns the 8-bit scalar-quantised FAISS scan: its file, and candidates from it."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import faiss as untyped_faiss
import numpy as np
from numpy.typing import NDArray

from indexer.vector_index.exact import ExactIndex
from indexer.vector_index.protocol import (
    Candidates,
    Ids,
    Vectors,
    best_first,
    float32_error,
    positions_of,
)
from indexer.vector_index.rows import RowFile

faiss: Any = untyped_faiss
"""Its stubs know neither keyword arguments nor arrays where SWIG accepts them."""

_BLOCK_ROWS = 16_384
_COARSE_SHARE = 8
"""Asked for more than one row in this many, the full-precision scan settles the order at once."""
_SPLIT_ROWS = 20_000
"""From here on a scan takes long enough to be shared between two cores."""


class FaissSq8Index:
    """A memory-mapped 8-bit scan over the rows of `vectors`, which re-score its candidates."""

    def __init__(self, path: Path, ids: Ids, vectors: Vectors | RowFile, max_error: float) -> None:
        """Opens a file of `write`; check its SHA-256 first, a flipped bit inside loads silently.

        `ids` int64 (N,) ascending and `vectors` float32 (N, D) are the rows it was written from,
        `max_error` what `write` returned.

        Raises:
            ValueError: FAISS cannot read the file, or it does not fit the rows.
        """
        try:
            index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
        except RuntimeError as error:
            raise ValueError(f"FAISS cannot read {path}: {error}") from error
        if (index.ntotal, index.d) != vectors.shape or len(ids) != len(vectors):
            raise ValueError(
                f"{path} holds {index.ntotal} x {index.d} codes for {len(ids)} ids and vectors of "
                f"shape {vectors.shape}"
            )
        self._index = index
        self._ids = ids
        self._rows = ExactIndex(ids, vectors)
        self._max_error = max_error + float32_error(vectors.shape[1])
        self._helper = ThreadPoolExecutor(1, thread_name_prefix="scan")

    @property
    def size(self) -> int:
        return len(self._ids)

    def candidates(self, queries: Vectors, n: int, allowed: Ids | None = None) -> Candidates:
        rows = None if allowed is None else positions_of(self._ids, allowed)
        available = self.size if rows is None else len(rows)
        if n * _COARSE_SHARE > available:
            return self._rows.candidates(queries, n, allowed)
        scores, found = self._scan(np.ascontiguousarray(queries), n, rows)
        ids = self._ids[found]
        order = np.stack([best_first(*row)[:n] for row in zip(ids, scores, strict=True)])
        return Candidates(
            np.take_along_axis(ids, order, axis=1),
            np.take_along_axis(scores, order, axis=1),
            self._max_error,
        )

    def _scan(
        self, queries: Vectors, n: int, rows: NDArray[np.int64] | None
    ) -> tuple[Vectors, NDArray[np.int64]]:
        """At least the best `n` of the rows asked for: scores and positions, in no order."""
        if rows is not None:
            chosen = np.zeros(self.size, dtype=bool)
            chosen[rows] = True
            bits = np.packbits(chosen, bitorder="little")
            return self._search(queries, n, faiss.IDSelectorBitmap(bits))
        if self.size < _SPLIT_ROWS:
            return self._search(queries, n, None)
        # FAISS scans for one query on one core; two halves use two.
        middle = self.size // 2
        later = self._helper.submit(
            self._search, queries, n, faiss.IDSelectorRange(middle, self.size)
        )
        first = self._search(queries, n, faiss.IDSelectorRange(0, middle))
        second = later.result()
        return (
            np.concatenate((first[0], second[0]), axis=1),
            np.concatenate((first[1], second[1]), axis=1),
        )

    def _search(self, queries: Vectors, n: int, selector: Any) -> tuple[Vectors, NDArray[np.int64]]:
        # OpenMP keeps this per calling thread: threads of FAISS would spin after the scan on the
        # cores that the embedding needs.
        faiss.omp_set_num_threads(1)
        parameters = None if selector is None else faiss.SearchParameters(sel=selector)
        scores, found = self._index.search(queries, n, params=parameters)
        return scores, found

    def fetch(self, ids: Ids) -> tuple[Ids, Vectors]:
        return self._rows.fetch(ids)


def write(path: Path, vectors: Vectors | RowFile) -> float:
    """Quantise unit rows (N, D) into a new file; returns a bound on the error of its scores.

    The bound is the longest difference between a row and its quantised form: no cosine can move
    by more. The file appears under its name only when it is whole and on the disk.

    Raises:
        OSError: the file cannot be written, for instance because the disk is full.
    """
    dim = vectors.shape[1]
    index = faiss.IndexScalarQuantizer(
        dim, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT
    )
    blocks = [slice(start, start + _BLOCK_ROWS) for start in range(0, len(vectors), _BLOCK_ROWS)]
    low = high = vectors[:1].sum(axis=0)
    for block in blocks:
        rows = vectors[block]
        low, high = np.minimum(low, rows.min(axis=0)), np.maximum(high, rows.max(axis=0))
    faiss.omp_set_num_threads(1)
    # The quantiser learns the range of each dimension only, so its two ends teach it all.
    index.train(np.stack([low, high]))
    # Room for all codes at once: growing step by step would hold them twice.
    index.codes.resize(len(vectors) * index.code_size)
    index.codes.resize(0)
    error = 0.0
    for block in blocks:
        rows = np.ascontiguousarray(vectors[block])
        index.add(rows)
        decoded = index.reconstruct_n(block.start, len(rows))
        lost = np.linalg.norm(rows.astype(np.float64) - decoded, axis=1)
        error = max(error, float(lost.max()))
    partial = path.with_name(path.name + ".partial")
    try:
        try:
            faiss.write_index(index, str(partial))
        except RuntimeError as problem:
            raise OSError(f"FAISS could not write {partial}: {problem}") from problem
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.rename(path)
    finally:
        partial.unlink(missing_ok=True)
    return error
