"""Owns what a gate is: it accepts, rejects or abstains before any identity is suggested."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from models.embedder import Floats
from models.preprocess import Rgb

GateState = Literal["accepted", "rejected", "abstained"]


@dataclass(frozen=True, slots=True)
class GateDecision:
    """What a gate thinks of one photo; score and threshold are 0..1, None where there is none."""

    state: GateState
    score: float | None
    threshold: float | None
    model: str
    reason: str | None


class Gate(Protocol):
    """Judges photos. `needs_features` asks the caller to embed first and pass the features."""

    @property
    def needs_features(self) -> bool: ...

    @property
    def model(self) -> str: ...

    def decide(self, photos: Sequence[Rgb], features: Floats | None) -> list[GateDecision]:
        """One decision per photo uint8 (H, W, 3), in order; `features` float32 (N, C) or None."""
        ...


@dataclass(frozen=True, slots=True)
class AbsentGate:
    """Stands where no gate could be loaded: abstains on every photo and says why."""

    reason: str
    model: str = "none"
    needs_features: bool = False

    def decide(self, photos: Sequence[Rgb], features: Floats | None) -> list[GateDecision]:  # noqa: ARG002
        return [GateDecision("abstained", None, None, self.model, self.reason) for _ in photos]
