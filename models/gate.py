"""Owns what a gate is: it accepts, rejects or abstains before any identity is suggested."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, Protocol

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


class FeatureJudge(Protocol):
    """A small gate on an embedder's own pooled features, such as the starter bundle's."""

    @property
    def threshold(self) -> float: ...

    def decide(self, features: Floats) -> list[tuple[GateState, float]]:
        """State and score (0..1) of each row of `features`, float32 (N, C)."""
        ...


_REASONS: Final[dict[GateState, str | None]] = {
    "accepted": None,
    "rejected": "not_a_marine_mammal",
    "abstained": "the photo is unlike everything that this small gate was trained on",
}


@dataclass(frozen=True, slots=True)
class FeatureGate:
    """A gate that asks a `FeatureJudge`; the photos themselves play no part."""

    judge: FeatureJudge
    model: str
    needs_features: bool = True

    def decide(self, photos: Sequence[Rgb], features: Floats | None) -> list[GateDecision]:
        if features is None or len(features) != len(photos):
            raise ValueError(f"{self.model} needs the features of all {len(photos)} photos")
        if not len(features):
            return []
        threshold = self.judge.threshold
        return [
            GateDecision(state, score, threshold, self.model, _REASONS[state])
            for state, score in self.judge.decide(features)
        ]


@dataclass(frozen=True, slots=True)
class AbsentGate:
    """Stands where no gate could be loaded: abstains on every photo and says why."""

    reason: str
    model: str = "none"
    needs_features: bool = False

    def decide(self, photos: Sequence[Rgb], features: Floats | None) -> list[GateDecision]:  # noqa: ARG002
        return [GateDecision("abstained", None, None, self.model, self.reason) for _ in photos]
