"""Bundles for the tests: the published layout at full size with random weights, built once."""

from __future__ import annotations

import csv
import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from models.threads import configure_threads

configure_threads()

SLOTS, MAPPED, DIM = 15_587, 13_837, 512


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if importlib.util.find_spec("torch") is not None:
        return
    skip = pytest.mark.skip(reason="torch is not installed: pip install -e '.[models]'")
    for item in items:
        if item.get_closest_marker("torch"):
            item.add_marker(skip)


def draw_photo(seed: int, height: int = 333, width: int = 500) -> NDArray[np.uint8]:
    """A photo with structure at several scales: blotches, edges and grain."""
    rng = np.random.default_rng(seed)
    photo = np.zeros((height, width, 3))
    for cells in (3, 9, 40):
        coarse = rng.uniform(0, 255, (cells, cells, 3))
        rows = np.arange(height) * cells // height
        columns = np.arange(width) * cells // width
        photo += coarse[rows][:, columns]
    photo = photo / 3 + rng.normal(0, 8, photo.shape)
    return np.clip(photo, 0, 255).astype(np.uint8)


def calibrate_norms(network: Any, pixels: int) -> None:
    """Give batch norms the statistics of photos, so that random weights keep photos apart."""
    import torch

    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None
            module.reset_running_stats()
    photos = np.stack([draw_photo(100 + i, pixels, pixels) for i in range(6)])
    mean, std = (
        torch.tensor(x).view(1, 3, 1, 1) for x in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    )
    batch = (torch.from_numpy(photos).permute(0, 3, 1, 2) / 255.0 - mean) / std
    network.train()
    with torch.no_grad():
        network(batch)
    network.eval()


def write_labels(folder: Path, classes: list[str], *, npy: bool) -> None:
    if npy:
        np.save(folder / "encoder_classes.npy", np.array(classes, dtype=object), allow_pickle=True)
    else:
        (folder / "classes.json").write_text(json.dumps(classes), "utf-8")
    name = "species_map.csv" if npy else "species.csv"
    with (folder / name).open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["individual_id", "species"])
        writer.writerows([name, "bottlenose_dolpin"] for name in classes)


def class_names(count: int) -> list[str]:
    return [f"{i * 2654435761 % 2**48:012x}" for i in range(count)]


@dataclass(frozen=True)
class Published:
    """A source folder of the published layout and what is in it."""

    folder: Path
    photos: list[NDArray[np.uint8]]
    classes: list[str]


@pytest.fixture(scope="session")
def effb4(tmp_path_factory: pytest.TempPathFactory) -> Published:
    """`effb4-arcface-v1` as published, at full size, with random weights.

    Some rows of the head are put near the photos' own vectors, so that the softmax has something to
    say: uniform probabilities would agree with anything.
    """
    import torch

    from models.torch_compat import load_timm

    torch.manual_seed(7)
    backbone = load_timm().create_model("efficientnet_b4", num_classes=0, global_pool="")
    calibrate_norms(backbone, 256)
    linear = torch.nn.Linear(1792, DIM)
    photos = [draw_photo(1), draw_photo(2, 700, 512), draw_photo(3, 240, 1024)]
    rows = torch.randn(SLOTS, DIM)
    for i, photo in enumerate(photos):
        vector, _ = plain_forward(backbone, linear, photo)
        for place in range(6):
            near = torch.randn(DIM) / DIM**0.5
            strength = 0.36 + 0.02 * place
            rows[100 * i + place] = 3.0 * (strength * vector + (1 - strength**2) ** 0.5 * near)
    folder = tmp_path_factory.mktemp("published")
    state = {f"model.{name}": value for name, value in backbone.state_dict().items()}
    state |= {"embedding.weight": linear.weight.data, "embedding.bias": linear.bias.data}
    state |= {"arc.weight": rows}
    torch.save(
        {"state_dict": state, "epoch": 9, "pytorch-lightning_version": "2.1.0"},
        folder / "efficientnet_b4_512_fold0.ckpt",
    )
    classes = class_names(MAPPED)
    write_labels(folder, classes, npy=True)
    return Published(folder, photos, classes)


def plain_forward(backbone: Any, linear: Any, photo: NDArray[np.uint8]) -> tuple[Any, Any]:
    """Embedding (D,) and features (C,) as the published code computes them, eager float32."""
    import torch
    from PIL import Image
    from torchvision.transforms import Compose, Normalize, Resize, ToTensor

    prepare = Compose(
        [
            Resize((512, 512)),
            ToTensor(),
            Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    with torch.no_grad():
        features = backbone(prepare(Image.fromarray(photo))[None]).mean((2, 3))
        return torch.nn.functional.normalize(linear(features), dim=1)[0], features[0]


@pytest.fixture(scope="session")
def installed(effb4: Published, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A models folder with the full-size bundle in it."""
    from models.bundles import install

    models_dir = tmp_path_factory.mktemp("models")
    install(effb4.folder, models_dir)
    return models_dir


TINY = "test_efficientnet"
"""timm's smallest EfficientNet, 0.4 million weights: the same code path in milliseconds."""


@dataclass(frozen=True)
class Tiny:
    """A bundle's source folder with the smallest network, and the recipe's parts to vary."""

    folder: Path
    state: dict[str, Any]
    classes: list[str]


def write_tiny(folder: Path, state: dict[str, Any], classes: list[str], name: str = "tiny") -> None:
    """A source folder with `bundle.toml`."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    save_file({key: value.contiguous() for key, value in state.items()}, folder / "w.safetensors")
    write_labels(folder, classes, npy=False)
    (folder / "bundle.toml").write_text(
        f"""
        name = "{name}"
        version = "3"
        stage = "{name}"
        architecture = "{TINY}"
        dim = 64
        licence = "Apache-2.0"
        scale = 20.0
        min_probability = 0.1
        [preprocessing]
        height_px = 96
        width_px = 128
        interpolation = "bilinear"
        mean = [0.485, 0.456, 0.406]
        std = [0.229, 0.224, 0.225]
        [files]
        checkpoint = "w.safetensors"
        classes = "classes.json"
        species = "species.csv"
        """,
        "utf-8",
    )


@pytest.fixture(scope="session")
def tiny_state() -> dict[str, Any]:
    """float16 weights of the smallest network with ten slots, as the starter stores them."""
    import torch

    from models.arcface import Architecture, build_network

    torch.manual_seed(11)
    network = build_network(Architecture(TINY, 64, "forward_features"))
    calibrate_norms(network.model, 96)
    state = dict(network.state_dict()) | {"arc.weight": torch.randn(10, 64)}
    return {k: v.half() if v.is_floating_point() else v for k, v in state.items()}


@pytest.fixture(scope="session")
def tiny(tiny_state: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """A source folder that installs in a second; do not write into it."""
    folder = tmp_path_factory.mktemp("tiny")
    classes = class_names(8)
    write_tiny(folder, tiny_state, classes)
    return Tiny(folder, tiny_state, classes)


@pytest.fixture(scope="session")
def tiny_models(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A models folder with the tiny bundle; copy it before you break it."""
    from models.bundles import install

    models_dir = tmp_path_factory.mktemp("tiny-models")
    install(tiny.folder, models_dir)
    return models_dir
