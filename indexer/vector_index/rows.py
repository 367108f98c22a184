"""Owns rows of vectors in a file, read where they are needed.

A memory map would count every page that a search ever touched, and its neighbours, as memory of the
process: two gigabytes after a while at a million rows. Reading 128 rows takes as long either way.
"""

from __future__ import annotations

import os
import weakref
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from indexer.vector_index.protocol import Vectors

Positions = NDArray[np.intp]


class RowFile:
    """float32 (N, D) of a `.npy` file. Safe under concurrent readers; the file may be deleted
    while it is in use."""

    def __init__(self, path: Path) -> None:
        """
        Raises:
            ValueError: not a whole `.npy` file of float32 rows.
            OSError: it cannot be opened.
        """
        mapped = np.load(path, mmap_mode="r", allow_pickle=False)
        if mapped.ndim != 2 or mapped.dtype != np.dtype("<f4") or np.isfortran(mapped):
            raise ValueError(f"{path} holds {mapped.dtype} of shape {mapped.shape}, not rows")
        self.shape: tuple[int, int] = mapped.shape
        self._start = int(mapped.offset)
        self._row_bytes = mapped.dtype.itemsize * mapped.shape[1]
        self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        weakref.finalize(self, os.close, self._file)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: slice | Positions) -> Vectors:
        """Rows by slice (step 1) or by positions, as an array of their own."""
        if isinstance(key, slice):
            start, stop, step = key.indices(len(self))
            if step != 1:
                raise ValueError(f"rows are read one after another, not by steps of {step}")
            return self._read(start, max(stop - start, 0))
        rows = np.empty((len(key), self.shape[1]), dtype=np.float32)
        for row, position in zip(rows, key.tolist(), strict=True):
            self._fill(row, position)
        return rows

    def _read(self, start: int, count: int) -> Vectors:
        rows = np.empty((count, self.shape[1]), dtype=np.float32)
        self._fill(rows, start)
        return rows

    def _fill(self, rows: Vectors, position: int) -> None:
        wanted = rows.data.cast("B") if rows.size else memoryview(b"")
        offset = self._start + position * self._row_bytes
        done = 0
        while done < len(wanted):
            got = os.preadv(self._file, [wanted[done:]], offset + done)
            if not got:
                raise OSError(f"the file of vectors ends before row {position}")
            done += got
