"""A service small enough to be looked through: its models, its photos, its calls.

The embedder is real (it sees pixels and answers vectors of a space of its own) but plain: a fixed
projection of the photo shrunk to 8 × 8 pixels. The gate rejects a photo without any structure and
abstains on a purely red one. The head's rows are vectors of given photos.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from fastapi.testclient import TestClient
from PIL import Image

from models.bundles import Serving
from models.embedder import Embedded, EmbedderSpec, Floats, l2_normalize
from models.gate import Gate, GateDecision
from models.head import Head
from models.preprocess import Preprocessing, Rgb, decode

DIM = 48
SIDE = 8
PREPROCESSING = Preprocessing(SIDE, SIDE, "bilinear", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


class PixelEmbedder:
    """Vectors float32 (N, 48) from photos shrunk to 8 × 8."""

    def __init__(self, name: str = "pixels", version: str = "1") -> None:
        self.spec = EmbedderSpec(
            name=name,
            version=version,
            fingerprint=f"{name}-{version}".encode().hex().ljust(64, "0")[:64],
            dim=DIM,
            modality="photo",
            preprocessing=PREPROCESSING,
            licence="Apache-2.0",
            digest="0" * 64,
        )
        self._projection = np.random.default_rng(7).normal(size=(SIDE * SIDE * 3, DIM))

    def embed(self, photos: Sequence[Rgb]) -> Embedded:
        pixels = np.stack([self.spec.preprocessing.apply(photo) for photo in photos])
        features = pixels.reshape(len(photos), -1).astype(np.float32) / 127.5 - 1
        vectors = l2_normalize(features @ self._projection.astype(np.float32))
        return Embedded(vectors, features)


class OtherPixels(PixelEmbedder):
    """Another space: the same pixels under another projection."""

    def __init__(self, *, blind: bool = False) -> None:
        """`blind` sees the first two pixels only, and is worse."""
        super().__init__("other", "1")
        mixed = np.random.default_rng(11).normal(size=(SIDE * SIDE * 3, DIM))
        if blind:
            mixed[6:] = 0.0
        self._projection = mixed


class StructureGate:
    """Rejects a photo without structure, abstains on a red one, accepts everything else."""

    needs_features = False
    model = "structure-gate"

    def decide(self, photos: Sequence[Rgb], features: Floats | None) -> list[GateDecision]:
        return [self._decide(photo) for photo in photos]

    def _decide(self, photo: Rgb) -> GateDecision:
        if photo.std() < 2:
            return GateDecision("rejected", 0.03, 0.5, self.model, None)
        if photo[..., 0].mean() > 200 and photo[..., 1:].mean() < 60:
            return GateDecision("abstained", 0.5, 0.5, self.model, "unlike anything it knows")
        return GateDecision("accepted", 0.97, 0.5, self.model, None)


def scene(seed: int, *, shift: int = 0, size: tuple[int, int] = (240, 160)) -> bytes:
    """A JPEG of blotches; another `shift` is another photo of the same scene: other grain, and a
    dark pattern of its own over it, enough for a perceptual hash to tell the two apart."""
    rng = np.random.default_rng(seed)
    small = rng.uniform(60, 255, (6, 6, 3)).astype(np.uint8)
    image = Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)
    own = np.random.default_rng((seed, shift))
    grain = own.normal(0, 6, (size[1], size[0], 3))
    pattern = Image.fromarray(own.integers(0, 2, (8, 9)).astype(np.uint8) * 60).resize(size)
    pixels = np.asarray(image).astype(float) + grain - np.asarray(pattern)[:, :, None]
    return jpeg(np.clip(pixels, 0, 255).astype(np.uint8))


def jpeg(pixels: Rgb) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG", quality=95)
    return out.getvalue()


def blank(grey: int = 200) -> bytes:
    return jpeg(np.full((120, 180, 3), grey, np.uint8))


def red() -> bytes:
    pixels = np.random.default_rng(1).integers(0, 30, (120, 180, 3)).astype(np.uint8)
    pixels[..., 0] = 230
    return jpeg(pixels)


def vector_of(data: bytes, embedder: PixelEmbedder | None = None) -> Floats:
    """float32 (48,): what the embedder sees in a photo."""
    return (embedder or PixelEmbedder()).embed([decode(data).rgb]).vectors[0]


def head_of(rows: Sequence[tuple[str | None, bytes]], *, scale: float = 30.0) -> Head:
    """A head whose slots are photos, under the given labels."""
    return Head(
        rows=np.stack([vector_of(data) for _, data in rows]),
        labels=tuple(label for label, _ in rows),
        species=tuple("humpback_whale" if label else None for label, _ in rows),
        scale=scale,
        min_probability=0.05,
        version="1",
        digest="1" * 64,
    )


def serving_of(
    head: Head | None = None, *, gate: Gate | None = None, embedder: PixelEmbedder | None = None
) -> Serving:
    return Serving(
        embedder=embedder or PixelEmbedder(),
        head=head,
        gate=gate or StructureGate(),
        stage="pixels",
        bundle="pixels",
        problems=(),
        notices=(),
        default_min_probability=0.05,
    )


def add(client: TestClient, name: str, *photos: bytes, **fields: str) -> dict[str, Any]:
    """Adds an individual over HTTP."""
    files = [("file", (f"{name}-{i}.jpg", data, "image/jpeg")) for i, data in enumerate(photos)]
    response = client.post("/v1/individuals", files=files, data={"name": name, **fields})
    assert response.status_code == 201, response.text
    answer: dict[str, Any] = response.json()
    return answer


def identify(client: TestClient, *photos: bytes, **fields: object) -> dict[str, Any]:
    """Identifies over HTTP."""
    files = [("file", (f"{i}.jpg", data, "image/jpeg")) for i, data in enumerate(photos)]
    data = {name: str(value) for name, value in fields.items()}
    response = client.post("/v1/identify", files=files, data=data)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer
