"""Owns what an embedder is: a named vector space and one batch method that fills it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from models.preprocess import Preprocessing, Rgb

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class EmbedderSpec:
    """A vector space. Two vectors may be compared only if their fingerprints are equal.

    `fingerprint` (64 hex digits) covers architecture, embedder weights, dimension and
    preprocessing; `digest` (64 hex digits) is the SHA-256 of the weights file.
    """

    name: str
    version: str
    fingerprint: str
    dim: int
    modality: str
    preprocessing: Preprocessing
    licence: str
    digest: str


@dataclass(frozen=True, slots=True, eq=False)
class Embedded:
    """A batch: `vectors` float32 (N, dim) of unit length, `features` float32 (N, C) as pooled."""

    vectors: Floats
    features: Floats


class Embedder(Protocol):
    """Turns upright photos of any size, uint8 (H, W, 3), into vectors of one space. Thread-safe."""

    @property
    def spec(self) -> EmbedderSpec: ...

    def embed(self, photos: Sequence[Rgb]) -> Embedded:
        """One row per photo, in order; no photos give arrays of shape (0, dim) and (0, C)."""
        ...


def l2_normalize(rows: NDArray[np.floating]) -> Floats:
    """Rows (N, D) scaled to unit length, float32.

    Raises:
        ValueError: a row is zero or holds NaN or an infinity; the message gives its position.
    """
    matrix = np.asarray(rows, dtype=np.float32)
    norms = np.linalg.norm(matrix, axis=1)
    bad = np.flatnonzero(~(np.isfinite(norms) & (norms > 0)))
    if bad.size:
        raise ValueError(
            f"row {bad[0]} of {len(matrix)} has length {norms[bad[0]]}: no direction to keep"
        )
    normalized: Floats = matrix / norms[:, None]
    return normalized
