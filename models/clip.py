"""Owns the zero-shot gate: OpenCLIP image vectors against cached vectors of prompts.

score = share of the positive prompts in softmax(scale × cosine over all prompts). Prompts and
threshold lie in `configs/gate.toml`; the text tower runs once, when the gate is installed.
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from models.arcface import State, check_state
from models.embedder import Floats, l2_normalize
from models.errors import BundleError
from models.gate import GateDecision
from models.preprocess import Preprocessing, Rgb
from models.runtime import Run
from models.torch_compat import load_open_clip, load_torch


@dataclass(frozen=True, slots=True)
class GateConfig:
    """`configs/gate.toml`: which bundle judges, with which prompts, from which score upwards."""

    bundle: str
    scale: float
    threshold: float
    positive: tuple[str, ...]
    negative: tuple[str, ...]

    @property
    def prompts(self) -> tuple[str, ...]:
        """Positive prompts first, then negative ones."""
        return self.positive + self.negative

    @classmethod
    def load(cls, path: Path) -> GateConfig:
        """Read the file.

        Raises:
            BundleError: `bad_gate_config`, with what is wrong in which file.
        """
        try:
            fields = tomllib.loads(path.read_text("utf-8"))
            config = cls(
                bundle=str(fields["gate"]["bundle"]),
                scale=float(fields["gate"]["scale"]),
                threshold=float(fields["threshold"]["value"]),
                positive=tuple(map(str, fields["prompts"]["positive"])),
                negative=tuple(map(str, fields["prompts"]["negative"])),
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise BundleError("bad_gate_config", f"{path}: {error!r}") from error
        if not config.positive or not config.negative or not 0 < config.threshold < 1:
            raise BundleError(
                "bad_gate_config",
                f"{path}: needs prompts of both kinds and a threshold between 0 and 1, has "
                f"{len(config.positive)}, {len(config.negative)} and {config.threshold}",
            )
        return config


class ClipGate:
    """Accepts photos whose score reaches the threshold and rejects the others. Thread-safe."""

    needs_features = False

    def __init__(
        self, run: Run, preprocessing: Preprocessing, text: Floats, config: GateConfig
    ) -> None:
        """`text` are the prompts' unit vectors float32 (P, D) in the order of `config.prompts`."""
        if len(text) != len(config.prompts):
            raise ValueError(f"{len(text)} text vectors for {len(config.prompts)} prompts")
        self._run = run
        self._preprocessing = preprocessing
        self._text = text
        self._config = config

    @property
    def model(self) -> str:
        return self._config.bundle

    @property
    def threshold(self) -> float:
        return self._config.threshold

    def scores(self, photos: Sequence[Rgb]) -> Floats:
        """Share of the positive prompts, float32 (N,), each 0..1."""
        if not photos:
            return np.zeros(0, dtype=np.float32)
        pixels = np.stack([self._preprocessing.apply(photo) for photo in photos])
        vectors, _ = self._run(pixels)
        logits = self._config.scale * (vectors @ self._text.T)
        weights = np.exp(logits - logits.max(axis=1, keepdims=True))
        positive = weights[:, : len(self._config.positive)].sum(axis=1)
        scores: Floats = (positive / weights.sum(axis=1)).astype(np.float32)
        return scores

    def decide(self, photos: Sequence[Rgb], features: Floats | None = None) -> list[GateDecision]:  # noqa: ARG002
        threshold = self._config.threshold
        return [
            GateDecision("accepted", score, threshold, self.model, None)
            if score >= threshold
            else GateDecision("rejected", score, threshold, self.model, "not_a_marine_mammal")
            for score in map(float, self.scores(photos))
        ]


def load_clip(state: State, architecture: str) -> Any:
    """An open_clip model of `architecture` filled from `state`, nothing missing or left over.

    Raises:
        BadCheckpoint: as `models.arcface.check_state`.
    """
    open_clip = load_open_clip()
    model = open_clip.create_model(architecture, pretrained=None)
    check_state(state, {name: tuple(value.shape) for name, value in model.state_dict().items()})
    model.load_state_dict(state)
    return model.float().eval()


def image_network(model: Any) -> Any:
    """The image tower as a network with the outputs that `models.runtime` expects."""
    torch = load_torch()

    class ImageTower(torch.nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.visual = model.visual

        def forward(self, photos: Any) -> tuple[Any, Any]:
            features = self.visual(photos)
            return torch.nn.functional.normalize(features, dim=1), features

    return ImageTower().eval()


def text_vectors(model: Any, architecture: str, prompts: Sequence[str]) -> Floats:
    """Unit vectors float32 (P, D) of the prompts."""
    torch, open_clip = load_torch(), load_open_clip()
    tokens = open_clip.get_tokenizer(architecture)(list(prompts))
    with torch.inference_mode():
        return l2_normalize(model.encode_text(tokens).float().numpy())
