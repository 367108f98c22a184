"""Every runtime that may serve a space makes the vectors that are on record for it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from indexer.synthetic import Fluke, Scene, draw_fluke
from models import runtime
from models.arcface import Architecture, load_network, read_state
from models.bundles import load_embedder, verify
from models.embedder import Floats
from models.manifest import Manifest
from models.preprocess import Rgb
from models.recipes import STARTER
from models.runtime import (
    Golden,
    Run,
    agreement,
    golden_photos,
    openvino_runner,
    torch_runner,
    with_normalisation,
)
from models.torch_compat import cuda_available

SAME_BACKEND, ACROSS_BACKENDS = 0.9999, 0.999
"""The lowest cosine to the vectors on record, of the runtime that made them and of any other."""
MANIFEST = Manifest.load(STARTER)
GOLDEN = Golden.load(STARTER / MANIFEST.roles["golden"])


def from_torch(device: str, *, half: bool) -> Run:
    state = read_state(STARTER / MANIFEST.roles["weights"])
    architecture = Architecture(MANIFEST.architecture, MANIFEST.dim, "forward")
    network, _ = load_network(state, architecture)
    return torch_runner(with_normalisation(network, MANIFEST.preprocessing), device, half=half)


def from_openvino(precision: str) -> Run:
    core = runtime._openvino().Core()
    return runtime._compile(core, STARTER / MANIFEST.roles["ir"], precision, None)


def runtimes() -> Iterator[Any]:
    torch = pytest.mark.torch
    yield pytest.param("torch", SAME_BACKEND, id="torch float32", marks=torch)
    yield pytest.param("openvino f32", ACROSS_BACKENDS, id="OpenVINO float32")
    yield pytest.param("openvino", ACROSS_BACKENDS, id="OpenVINO as it serves")
    yield pytest.param("cuda", ACROSS_BACKENDS, id="CUDA float16", marks=torch)


def run_of(name: str) -> Run:
    if name == "torch":
        return from_torch("cpu", half=False)
    if name == "cuda":
        if not cuda_available():
            pytest.skip("no CUDA here")
        return from_torch("cuda", half=True)
    if name == "openvino f32":
        return from_openvino("f32")
    ir = STARTER / MANIFEST.roles["ir"]
    return openvino_runner(ir, MANIFEST.preprocessing, GOLDEN)


@pytest.mark.parametrize(("name", "least"), list(runtimes()))
def test_each_runtime_agrees_with_the_golden_vectors(name: str, least: float) -> None:
    """Promise 27: golden photos, cosine above 0.9999 to the vectors on record for the backend that
    made them, above 0.999 for every other."""
    assert agreement(run_of(name), MANIFEST.preprocessing, GOLDEN) > least


def flukes(encounter: int) -> list[Rgb]:
    return [
        draw_fluke(Fluke.from_seed(who), Scene.from_seed(who * 100 + encounter), size_px=(320, 240))
        for who in range(900, 916)
    ]


@pytest.fixture(scope="module")
def canary() -> tuple[Floats, Floats]:
    """Pixels uint8 of 16 drawn individuals, and of the same in another encounter."""
    apply = MANIFEST.preprocessing.apply
    return tuple(np.stack([apply(photo) for photo in flukes(e)]) for e in (1, 2))  # type: ignore[return-value]


@pytest.mark.parametrize("name", [case.values[0] for case in runtimes() if not case.marks])
def test_each_runtime_answers_the_canary_alike(
    canary: tuple[Any, Any], name: str, tmp_path: Path
) -> None:
    """Promise 27: the same top-1 on the canary, whatever computes the vectors."""
    reference = load_embedder(tmp_path, MANIFEST.fingerprint, device="cpu")
    wanted = nearest(
        reference.embed(list(canary[0])).vectors, reference.embed(list(canary[1])).vectors
    )
    run = run_of(name)
    assert nearest(run(canary[0])[0], run(canary[1])[0]) == wanted
    assert np.mean([a == b for a, b in enumerate(wanted)]) > 0.9


@pytest.mark.torch
@pytest.mark.parametrize("name", ["torch", "cuda"])
def test_the_canary_is_the_same_for_torch_and_openvino(canary: tuple[Any, Any], name: str) -> None:
    """Promise 27: vectors of two backends may be searched together."""
    torch_run, served = run_of(name), run_of("openvino")
    gallery = served(canary[0])[0]
    assert nearest(gallery, torch_run(canary[1])[0]) == nearest(gallery, served(canary[1])[0])


def nearest(gallery: Floats, queries: Floats) -> list[int]:
    found: list[int] = (queries @ gallery.T).argmax(axis=1).tolist()
    return found


def test_the_golden_photos_are_checked_when_a_bundle_is_verified(tmp_path: Path) -> None:
    assert len(golden_photos()) == len(GOLDEN.vectors)
    assert verify(tmp_path, "starter") == []
