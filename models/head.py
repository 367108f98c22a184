"""Owns the ArcFace head: slots mapped to individuals, and the default answer that they give.

Plain NumPy: cosine to the slots' unit rows × scale, softmax over the *mapped* slots. A slot without
a label belongs to an individual whose name is not known; softmax never answers it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from models.embedder import Floats


@dataclass(frozen=True, slots=True)
class SlotScore:
    """One mapped slot for one vector: cosine -1..1, probability 0..1 over the mapped slots."""

    slot: int
    label: str
    species: str | None
    cosine: float
    probability: float


@dataclass(frozen=True, slots=True)
class HeadAnswer:
    """What the head says about one vector.

    `top` are the best mapped slots, probability descending, then slot. `winner_slot` has the
    highest cosine of *all* slots; where `winner_mapped` is false, the head has no name for it.
    """

    top: tuple[SlotScore, ...]
    winner_slot: int
    winner_cosine: float
    winner_mapped: bool


def _best(values: NDArray[np.float64], n: int) -> NDArray[np.int64]:
    """Positions of the n largest values, descending, then by position; without sorting them all."""
    if 0 < n < len(values):
        least = np.partition(values, len(values) - n)[len(values) - n]
        at = np.flatnonzero(values >= least)
    else:
        at = np.arange(len(values))
    return at[np.argsort(-values[at], kind="stable")][:n]


@dataclass(frozen=True, slots=True, eq=False)
class Head:
    """`rows` float32 (S, D) of unit length; `labels`, `species` of length S (None = unmapped)."""

    rows: Floats
    labels: tuple[str | None, ...]
    species: tuple[str | None, ...]
    scale: float
    min_probability: float
    version: str
    digest: str
    mapped_slots: NDArray[np.int64] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        slots = len(self.rows)
        if len(self.labels) != slots or len(self.species) != slots:
            raise ValueError(
                f"{slots} rows, {len(self.labels)} labels and {len(self.species)} species disagree"
            )
        mapped = [slot for slot, label in enumerate(self.labels) if label is not None]
        object.__setattr__(self, "mapped_slots", np.array(mapped, dtype=np.int64))

    @property
    def mapped(self) -> int:
        """How many slots have a label."""
        return len(self.mapped_slots)

    def slots(self) -> tuple[tuple[str | None, str | None], ...]:
        """(label, species) of every slot, in slot order."""
        return tuple(zip(self.labels, self.species, strict=True))

    def answer(self, vectors: Floats, n: int = 5) -> list[HeadAnswer]:
        """One answer with the `n` best slots per row of `vectors`, float32 (N, D), unit length."""
        if vectors.ndim != 2 or vectors.shape[1] != self.rows.shape[1]:
            raise ValueError(f"vectors {vectors.shape} do not fit rows {self.rows.shape}")
        cosines: Floats = vectors @ self.rows.T
        return [self._answer(row, n) for row in cosines]

    def _answer(self, cosines: Floats, n: int) -> HeadAnswer:
        mapped = self.mapped_slots
        logits = self.scale * cosines[mapped].astype(np.float64)
        weights = np.exp(logits - logits.max(initial=-np.inf))
        probabilities = weights / max(weights.sum(), 1.0)  # the largest weight is 1
        best = _best(probabilities, n)
        winner = int(cosines.argmax())
        return HeadAnswer(
            top=tuple(
                SlotScore(
                    slot=int(mapped[i]),
                    label=str(self.labels[mapped[i]]),
                    species=self.species[mapped[i]],
                    cosine=float(cosines[mapped[i]]),
                    probability=float(probabilities[i]),
                )
                for i in best
            ),
            winner_slot=winner,
            winner_cosine=float(cosines[winner]),
            winner_mapped=self.labels[winner] is not None,
        )
