"""Owns the starter bundle's gate: drawn fluke, drawn negative, or nothing that it was taught.

It works on the embedder's own pooled features (before the neck) with a few small arrays, and it
knows only drawings. So it has two questions instead of one. *Which?* A small network says fluke,
negative or other. *Do I know such photos at all?* The Mahalanobis distance to the nearest kind of
training photo (fluke, sea, boat, bird, text, blank) says how far off a photo is. Only a photo that
both call a known negative is rejected; what is unlike all kinds is abstained on.

With features x (N, C), everything float32:

    p      = (x - centre) @ projection                        (N, K)
    h      = max(p @ hidden_weight + hidden_bias, 0)          (N, M)
    l      = h @ output_weight + output_bias                  (N, 3): fluke, negative, other
    score  = 1 / (1 + exp(l_negative - l_fluke))              (N,)
    other  = softmax(l)_other                                 (N,)
    d_k    = |(p - kind_mean_k) @ kind_whitening_k|² / kind_limit_k   (N, kinds), 1 = the limit

accepted: score ≥ threshold, d_fluke ≤ 1, other ≤ other_limit_fluke;
rejected: score < threshold and, for the nearest negative kind k, d_k ≤ 1, other ≤ other_limit_k;
abstained: everything else. A kind that is never rejected has a negative other_limit.
"""

from __future__ import annotations

import zipfile
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Final, Literal, Self

import numpy as np
from numpy.typing import NDArray

from models.errors import BundleError

StarterState = Literal["accepted", "rejected", "abstained"]
Array = NDArray[np.float32]

FLUKE_KIND: Final = 0


@dataclass(frozen=True, slots=True, eq=False)
class StarterGate:
    """The arrays of the gate, all float32; kind 0 is the fluke, the others are negatives."""

    centre: Array
    projection: Array
    hidden_weight: Array
    hidden_bias: Array
    output_weight: Array
    output_bias: Array
    kind_mean: Array
    kind_whitening: Array
    kind_limit: Array
    other_limit: Array
    threshold: float

    def __post_init__(self) -> None:
        """Check shapes: C features, K directions, M hidden units, three outputs, any kinds."""
        channels, directions = self.projection.shape
        hidden, kinds = self.hidden_bias.shape[0], self.kind_limit.shape[0]
        wanted = {
            "centre": (channels,),
            "hidden_weight": (directions, hidden),
            "output_weight": (hidden, 3),
            "output_bias": (3,),
            "kind_mean": (kinds, directions),
            "other_limit": (kinds,),
            "kind_whitening": (kinds, directions, directions),
        }
        for name, shape in wanted.items():
            found = getattr(self, name).shape
            if found != shape:
                raise BundleError("bad_gate", f"{name} of the gate is {found}, must be {shape}")

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read `gate.npz`.

        Raises:
            BundleError: `bad_gate` (unreadable, an array missing, wrong shapes).
        """
        try:
            with np.load(path, allow_pickle=False) as stored:
                found = {name: stored[name].astype(np.float32) for name in stored.files}
        except (OSError, ValueError, zipfile.BadZipFile) as error:
            raise BundleError("bad_gate", f"{path.name} cannot be read: {error}") from error
        names = {field.name for field in fields(cls)}
        if names != set(found):
            odd = ", ".join(sorted(names ^ set(found)))
            raise BundleError("bad_gate", f"{path.name} has missing or unknown arrays: {odd}")
        threshold = float(found.pop("threshold"))
        return cls(**found, threshold=threshold)

    def save(self, path: Path) -> None:
        """Write `gate.npz`."""
        arrays = {
            field.name: np.asarray(getattr(self, field.name), dtype=np.float32)
            for field in fields(self)
        }
        with path.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, **arrays)

    def scores(self, features: Array) -> tuple[Array, Array, Array]:
        """Features (N, C) → score (N,), share of "other" (N,), relative distances (N, kinds)."""
        if features.ndim != 2 or features.shape[1] != self.centre.shape[0]:
            raise ValueError(
                f"features must be (N, {self.centre.shape[0]}), these are {features.shape}"
            )
        directions = (features.astype(np.float32) - self.centre) @ self.projection
        hidden = np.maximum(directions @ self.hidden_weight + self.hidden_bias, 0.0)
        logits = hidden @ self.output_weight + self.output_bias
        logits = logits - logits.max(axis=1, keepdims=True)
        share = np.exp(logits)
        share /= share.sum(axis=1, keepdims=True)
        score = 1.0 / (1.0 + np.exp(np.clip(logits[:, 1] - logits[:, 0], -60.0, 60.0)))
        away = directions[:, None, :] - self.kind_mean[None, :, :]
        whitened = np.einsum("nkd,kde->nke", away, self.kind_whitening)
        distance = (whitened**2).sum(axis=2) / self.kind_limit
        return score.astype(np.float32), share[:, 2], distance.astype(np.float32)

    def decide(self, features: Array) -> list[tuple[StarterState, float]]:
        """State and score (0 = negative … 1 = fluke) of each row of features (N, C)."""
        score, other, distance = self.scores(features)
        is_fluke = (distance[:, FLUKE_KIND] <= 1.0) & (other <= self.other_limit[FLUKE_KIND])
        accepted = (score >= self.threshold) & is_fluke
        apart = distance.copy()
        apart[:, FLUKE_KIND] = np.inf
        nearest = apart.argmin(axis=1)
        is_negative = (apart.min(axis=1) <= 1.0) & (other <= self.other_limit[nearest])
        rejected = (score < self.threshold) & is_negative
        return [
            ("accepted" if yes else "rejected" if no else "abstained", float(value))
            for yes, no, value in zip(accepted, rejected, score, strict=True)
        ]
