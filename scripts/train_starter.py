"""Owns the training of the starter bundle: drawings in, `models/starter/` out.

Stages, each resumable, all seeded (`--stage` runs one of them, the default all in order):

backbone   the network learns which photos show the same drawn individual (InfoNCE over views of
           different encounters), helped by two auxiliary tasks that only drawings can offer: the
           flat tail of the individual, and fluke / drawn negative / something else
head       an ArcFace head (s 30, m 0.50) on the frozen embedding: the individuals of the demo
           catalogue by name, then unnamed others
gate       a small gate on the frozen pooled features (`models/starter_gate.py`)
evaluate   the numbers of the model card, on individuals and encounters never trained on
write      the bundle folder

Training photos come from `indexer.synthetic`, drawn smaller than the demo's by other processes.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import sys
import time
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

ROOT: Final = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from indexer import drawings, synthetic  # noqa: E402
from models.starter_gate import StarterGate  # noqa: E402
from models.torch_compat import load_timm, load_torch  # noqa: E402

ARCHITECTURE: Final = "mobilenetv4_conv_small_050"
INPUT_PX: Final = (96, 128)
DIM: Final = 512
MEAN: Final = (0.485, 0.456, 0.406)
STD: Final = (0.229, 0.224, 0.225)
SCALE: Final = 30.0
MARGIN: Final = 0.50
DRAWN_PX: Final = (160, 120)

CHUNK_INDIVIDUALS: Final = 128
CHUNK_VIEWS: Final = 4
CHUNK_OTHERS: Final = 64
TARGET_PX: Final = (26, 16)

# Seeds of individuals: the demo catalogue's are far below, and these ranges never meet.
TRAIN_SEEDS: Final = 1_000_000_000
TEST_SEEDS: Final = 2_000_000_000
EXTRA_SEEDS: Final = 3_000_000_000
OTHER_SEEDS: Final = 4_000_000_000


def squash(photo: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The model's plain resize: (h, w, 3) → (*INPUT_PX, 3) uint8, bilinear with antialias."""
    size = (INPUT_PX[1], INPUT_PX[0])
    return np.asarray(Image.fromarray(photo).resize(size, Image.Resampling.BILINEAR))


# --- drawing


def draw_other(seed: int, size_px: tuple[int, int]) -> NDArray[np.uint8]:
    """Something that is neither fluke nor drawn negative, so that the gate learns to abstain."""
    rng = np.random.default_rng([77, seed])
    kind = int(rng.integers(10))
    if kind >= 3:
        return _muted_scene(rng, size_px)
    if kind == 0:
        return _coloured_noise(rng, size_px)
    leaves = _dead_leaves(rng, size_px)
    if kind == 1:
        return leaves
    share = rng.uniform(0.3, 0.7)
    mixed = leaves * share + _coloured_noise(rng, size_px) * (1 - share)
    return np.clip(mixed, 0, 255).astype(np.uint8)


def _coloured_noise(rng: np.random.Generator, size_px: tuple[int, int]) -> NDArray[np.uint8]:
    """Noise with a 1/f^a spectrum, as natural photos have, in correlated colours."""
    width, height = size_px
    fy, fx = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None, :]
    stretch = float(np.exp(rng.uniform(-1.0, 1.0)))
    power = np.maximum(np.hypot(fy * stretch, fx), 1.0 / width) ** -float(rng.uniform(0.8, 2.2))
    planes = []
    for _ in range(3):
        phase = rng.normal(size=power.shape) + 1j * rng.normal(size=power.shape)
        plane = np.fft.irfft2(phase * power, s=(height, width))
        planes.append((plane - plane.mean()) / plane.std())
    mix = np.full((3, 3), 0.55) + 0.45 * rng.normal(size=(3, 3)) * rng.uniform(0, 1)
    noise = np.stack(planes, axis=-1) @ mix
    photo = rng.uniform(60, 190, 3) + noise * rng.uniform(12, 55)
    return np.clip(photo, 0, 255).astype(np.uint8)


def _muted_scene(rng: np.random.Generator, size_px: tuple[int, int]) -> NDArray[np.uint8]:
    """Bands of 1/f noise in greyish blues and greens, often with smooth dark or pale shapes."""
    width, height = size_px
    fx = np.fft.rfftfreq(width)[None, :]
    fy = np.fft.fftfreq(height)[:, None] * float(np.exp(rng.uniform(-1.8, 0.3)))
    power = np.maximum(np.hypot(fy, fx), 1.0 / width) ** -float(rng.uniform(0.4, 1.9))
    wave = np.fft.irfft2(power * np.exp(2j * math.pi * rng.random(power.shape)), s=(height, width))
    wave = wave / wave.std()
    if rng.random() < 0.5:
        wave = np.abs(wave) ** float(rng.uniform(0.6, 1.6)) - 0.8
    down = np.linspace(-1.0, 1.0, height)[:, None]
    tint = np.array([0.0, rng.uniform(-4.0, 26.0), rng.uniform(-8.0, 55.0)])
    level = float(rng.uniform(40.0, 190.0)) + float(rng.uniform(-35.0, 35.0)) * down
    photo = (level + wave * float(rng.uniform(3.0, 38.0)))[..., None] + tint * rng.uniform(0.2, 1.0)
    line = int(height * rng.uniform(-0.6, 0.6))
    if line > 0:
        photo[:line] = (
            rng.uniform(90, 235) + tint * 0.6 + 0.1 * (photo[:line] - photo[:line].mean())
        )
    for _ in range(int(rng.integers(0, 4))):
        shape, tone = _smooth_shape(rng, size_px), float(rng.uniform(5.0, 110.0))
        if rng.random() < 0.25:
            tone = float(rng.uniform(130.0, 240.0))
        relief = float(rng.uniform(0.0, 0.7))
        inside = tone + tint * 0.25 + relief * (photo - photo.mean())
        photo = photo + (inside - photo) * shape[..., None]
    photo = photo + rng.normal(0.0, rng.uniform(0.5, 8.0), (height, width, 1))
    return np.clip(photo, 0.0, 255.0).astype(np.uint8)


def _smooth_shape(rng: np.random.Generator, size_px: tuple[int, int]) -> NDArray[np.float32]:
    """Coverage (H, W) in 0…1 of a smooth closed curve of any size and elongation."""
    width, height = size_px
    angles = np.linspace(0.0, 2.0 * math.pi, 48, endpoint=False)
    reach = np.ones(48)
    for wave in range(1, 6):
        swing = float(rng.normal(0.0, 0.45 / wave))
        reach = reach + swing * np.cos(wave * angles + float(rng.uniform(0.0, 2.0 * math.pi)))
    reach = np.clip(reach, 0.15, 2.5)
    size = width * float(rng.uniform(0.05, 0.4))
    flat, turn = float(rng.uniform(0.15, 1.0)), float(rng.normal(0.0, 0.5))
    x, y = size * reach * np.cos(angles), size * flat * reach * np.sin(angles)
    x0, y0 = float(rng.uniform(0.2, 0.8)) * width, float(rng.uniform(0.3, 0.9)) * height
    points = zip(
        (x0 + x * math.cos(turn) - y * math.sin(turn)).tolist(),
        (y0 + x * math.sin(turn) + y * math.cos(turn)).tolist(),
        strict=True,
    )
    page = Image.new("L", size_px)
    ImageDraw.Draw(page).polygon(list(points), fill=255)
    blurred = page.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.2, 3.0))))
    return np.asarray(blurred, dtype=np.float32) / np.float32(255.0)


def _dead_leaves(rng: np.random.Generator, size_px: tuple[int, int]) -> NDArray[np.uint8]:
    """Overlapping discs and boxes of all sizes, shaded and lightly textured."""
    width, height = size_px
    base = rng.uniform(40, 200, 3)
    page = Image.new("RGB", size_px)
    pen = ImageDraw.Draw(page)
    spread = rng.uniform(15, 80)
    for _ in range(int(rng.integers(15, 220))):
        radius = float(np.clip(4 * (1 - rng.random()) ** -0.9, 3, width / 2))
        x, y = float(rng.uniform(0, width)), float(rng.uniform(0, height))
        tone = np.clip(base + rng.normal(0, spread, 3), 0, 255).astype(int).tolist()
        box = (x - radius, y - radius * float(rng.uniform(0.2, 1)), x + radius, y + radius)
        if rng.random() < 0.6:
            pen.ellipse(box, fill=tuple(tone))
        else:
            pen.rectangle(box, fill=tuple(tone))
    page = page.filter(ImageFilter.GaussianBlur(float(rng.uniform(0, 2.5))))
    grain = rng.normal(0, rng.uniform(1, 10), (height, width, 1))
    return np.clip(np.asarray(page) + grain, 0, 255).astype(np.uint8)


def draw_chunk(index: int, folder: str) -> int:
    """Draw chunk `index` of the training photos into `folder` unless it is there."""
    path = Path(folder) / f"{index:05d}.npz"
    if path.exists():
        return index
    shape = (CHUNK_INDIVIDUALS, CHUNK_VIEWS, *INPUT_PX, 3)
    photos = np.empty(shape, dtype=np.uint8)
    targets = []
    for row in range(CHUNK_INDIVIDUALS):
        seed = TRAIN_SEEDS + index * CHUNK_INDIVIDUALS + row
        fluke = synthetic.Fluke.from_seed(seed)
        for view in range(CHUNK_VIEWS):
            scene = synthetic.Scene.from_seed(seed * 10 + view)
            photos[row, view] = squash(synthetic.draw_fluke(fluke, scene, size_px=DRAWN_PX))
        flat = np.asarray(synthetic.flat_tail(fluke, 16 * 11), dtype=np.float32) / 255.0
        planes = (flat[..., 0], flat[..., 0] * flat[..., 1])
        small = [
            np.asarray(Image.fromarray(p).resize(TARGET_PX, Image.Resampling.BOX)) for p in planes
        ]
        targets.append(np.stack(small).ravel())
    others, labels = [], []
    for row in range(CHUNK_OTHERS):
        seed = OTHER_SEEDS + index * CHUNK_OTHERS + row
        if row % 2:
            others.append(squash(draw_other(seed, DRAWN_PX)))
            labels.append(2)
        else:
            kind = synthetic.NEGATIVE_KINDS[(row // 2) % len(synthetic.NEGATIVE_KINDS)]
            others.append(squash(synthetic.draw_negative(kind, seed, size_px=DRAWN_PX)))
            labels.append(1)
    partial = path.with_suffix(".partial.npz")
    np.savez(
        partial,
        photos=photos,
        targets=np.asarray(targets, dtype=np.float32),
        others=np.asarray(others),
        labels=np.asarray(labels, dtype=np.int64),
    )
    partial.rename(path)
    return index


# --- network


def build_network(seed: int) -> Any:
    """Backbone and neck with the published key names (`model.*`, `embedding.*`), random weights."""
    torch, timm = load_torch(), load_timm()

    class Network(torch.nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.model = timm.create_model(ARCHITECTURE, num_classes=0, global_pool="")
            with torch.no_grad():
                width = self.model.eval()(torch.zeros(1, 3, *INPUT_PX)).shape[1]
            self.embedding = torch.nn.Linear(width, DIM)

        def pooled(self, photos: Any) -> Any:
            """(N, H, W, 3) uint8 tensor → pooled features (N, C) float32."""
            scale = photos.new_tensor(STD, dtype=torch.float32) * 255.0
            shift = photos.new_tensor(MEAN, dtype=torch.float32) * 255.0
            x = ((photos.float() - shift) / scale).permute(0, 3, 1, 2)
            return self.model(x).float().mean((2, 3))

        def forward(self, photos: Any) -> tuple[Any, Any]:
            """Pooled features (N, C) and unit embeddings (N, DIM), both float32."""
            features = self.pooled(photos)
            vectors = self.embedding(features).float()
            return features, torch.nn.functional.normalize(vectors, dim=1)

    torch.manual_seed(seed)
    return Network().to(memory_format=torch.channels_last)


def describe(network: Any, photos: NDArray[np.uint8]) -> tuple[NDArray[Any], NDArray[Any]]:
    """(N, *INPUT_PX, 3) uint8 → pooled features (N, C) and unit embeddings (N, DIM), float32."""
    torch = load_torch()
    network.eval()
    features, vectors = [], []
    with torch.no_grad():
        for start in range(0, len(photos), 128):
            found = network(torch.from_numpy(photos[start : start + 128]))
            features.append(found[0].numpy())
            vectors.append(found[1].numpy())
    return np.concatenate(features), np.concatenate(vectors)


# --- backbone


@dataclass(frozen=True, slots=True)
class Recipe:
    """What decides the result of the backbone stage, besides the drawing code."""

    steps: int = 1100
    chunks: int = 144
    first_chunks: int = 48
    individuals: int = 112
    others: int = 24
    learning_rate: float = 3e-3
    weight_decay: float = 0.05
    temperature: float = 0.07
    flat_tail_weight: float = 1.0
    gate_weight: float = 0.2
    warm_up: int = 60
    decay_from: float = 0.55
    polish_steps: int = 140
    polish_individuals: int = 72
    polish_others: int = 112
    seed: int = 0

    def rate(self, step: int) -> float:
        """Learning rate: linear warm-up, constant, then linear decay to 1 % of it."""
        fall = (step / self.steps - self.decay_from) / (1.0 - self.decay_from)
        return self.learning_rate * min(1.0, (step + 1) / self.warm_up, max(0.01, 1.0 - fall))

    def chunks_at(self, step: int) -> int:
        """How many chunks a step samples from: grows over the first third of the training."""
        share = min(1.0, step / (self.steps / 3))
        return self.first_chunks + int(share * (self.chunks - self.first_chunks))


class Drawings:
    """The chunks of training photos: drawn by other processes, loaded as they are needed."""

    def __init__(self, folder: Path, chunks: int, workers: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"))
        self._pending: list[Future[int]] = [
            self._pool.submit(draw_chunk, index, str(folder)) for index in range(chunks)
        ]
        self.photos: list[NDArray[np.uint8]] = []
        self.targets: list[NDArray[np.float32]] = []
        self.others: list[NDArray[np.uint8]] = []
        self.labels: list[NDArray[np.int64]] = []

    def need(self, chunks: int) -> None:
        """Wait until the first `chunks` chunks are loaded."""
        while len(self.photos) < chunks:
            index = self._pending[len(self.photos)].result()
            with np.load(self._folder / f"{index:05d}.npz") as chunk:
                self.photos.append(chunk["photos"])
                self.targets.append(chunk["targets"])
                self.others.append(chunk["others"])
                self.labels.append(chunk["labels"])

    def close(self) -> None:
        """End the drawing processes; chunks not begun are not drawn."""
        self._pool.shutdown(wait=True, cancel_futures=True)


def train_backbone(work: Path, recipe: Recipe, *, resume: bool, workers: int) -> None:
    """Train and leave `backbone.pt` (resumable state) in `work`."""
    torch = load_torch()
    torch.set_num_threads(2)
    functional = torch.nn.functional
    drawings = Drawings(work / "chunks", recipe.chunks, workers)
    drawings.need(recipe.first_chunks)
    first = np.concatenate(drawings.targets)
    mean, spread = first.mean(0), first.std(0)
    kept = spread > 0.04

    network = build_network(recipe.seed)
    width = network.embedding.in_features
    flat_tail = torch.nn.Linear(width, int(kept.sum()))
    gate = torch.nn.Linear(width, 3)
    everything = torch.nn.ModuleDict({"network": network, "flat_tail": flat_tail, "gate": gate})
    optimiser = torch.optim.AdamW(
        everything.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay
    )
    path, step = work / "backbone.pt", 0
    if resume and path.exists():
        state = torch.load(path, weights_only=True)
        everything.load_state_dict(state["everything"])
        optimiser.load_state_dict(state["optimiser"])
        step = int(state["step"])
        print(f"backbone: resumed at step {step}")
    began = time.monotonic()
    while step < recipe.steps:
        drawings.need(recipe.chunks_at(step))
        rng = np.random.default_rng([recipe.seed, step])
        batch = _batch(drawings, recipe, recipe.chunks_at(step), rng)
        everything.train()
        for group in optimiser.param_groups:
            group["lr"] = recipe.rate(step)
        with torch.autocast("cpu", torch.bfloat16):
            features, vectors = network(torch.from_numpy(batch.photos))
        count = recipe.individuals
        pairs = vectors[: 2 * count].view(count, 2, -1)
        likeness = pairs[:, 0] @ pairs[:, 1].T / recipe.temperature
        same = torch.arange(count)
        contrast = functional.cross_entropy(likeness, same)
        contrast = 0.5 * (contrast + functional.cross_entropy(likeness.T, same))
        wanted = torch.from_numpy(((batch.targets - mean) / (spread + 1e-6))[:, kept])
        drawn = flat_tail(features[: 2 * count]).view(count, 2, -1)
        flat = functional.mse_loss(drawn, wanted[:, None].expand_as(drawn))
        sorted_out = functional.cross_entropy(gate(features), torch.from_numpy(batch.labels))
        loss = contrast + recipe.flat_tail_weight * flat + recipe.gate_weight * sorted_out
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(everything.parameters(), 5.0)
        optimiser.step()
        step += 1
        if step % 25 == 0:
            print(
                f"backbone: step {step}/{recipe.steps} contrast {contrast.item():.3f} "
                f"flat tail {flat.item():.3f} gate {sorted_out.item():.3f} "
                f"{time.monotonic() - began:.0f} s",
                flush=True,
            )
        if step % 200 == 0 or step == recipe.steps:
            state = {
                "everything": everything.state_dict(),
                "optimiser": optimiser.state_dict(),
                "step": step,
            }
            torch.save(state, path.with_suffix(".partial"))
            path.with_suffix(".partial").rename(path)
    drawings.close()


def polish(work: Path, recipe: Recipe, *, workers: int) -> None:
    """Train on with many photos for the gate in every batch; leaves `polished.pt` in `work`.

    The contrast between individuals alone makes the pooled features forget what the gate needs.
    """
    torch = load_torch()
    torch.set_num_threads(2)
    functional = torch.nn.functional
    drawings = Drawings(work / "chunks", recipe.chunks, workers)
    drawings.need(recipe.chunks)
    known, labels = gate_training_photos(work, workers)
    network = load_network(work, "backbone.pt")
    gate = torch.nn.Linear(network.embedding.in_features, 3)
    everything = torch.nn.ModuleDict({"network": network, "gate": gate}).train()
    optimiser = torch.optim.AdamW(everything.parameters(), lr=1e-3, weight_decay=0.05)
    count = recipe.polish_individuals
    same = torch.arange(count)
    for step in range(recipe.polish_steps):
        rng = np.random.default_rng([recipe.seed, 1, step])
        batch = _batch(drawings, replace(recipe, individuals=count, others=0), recipe.chunks, rng)
        rows = rng.choice(len(known), recipe.polish_others, replace=False)
        photos = np.concatenate([batch.photos, known[rows]])
        wanted = np.concatenate([batch.labels, labels[rows]])
        for group in optimiser.param_groups:
            group["lr"] = 1.2e-3 * min((step + 1) / 10, 1.02 - step / recipe.polish_steps)
        with torch.autocast("cpu", torch.bfloat16):
            features, vectors = network(torch.from_numpy(photos))
        pairs = vectors[: 2 * count].view(count, 2, -1)
        likeness = pairs[:, 0] @ pairs[:, 1].T / recipe.temperature
        contrast = functional.cross_entropy(likeness, same)
        contrast = 0.5 * (contrast + functional.cross_entropy(likeness.T, same))
        sorted_out = functional.cross_entropy(gate(features), torch.from_numpy(wanted))
        optimiser.zero_grad(set_to_none=True)
        (contrast + sorted_out).backward()
        torch.nn.utils.clip_grad_norm_(everything.parameters(), 5.0)
        optimiser.step()
        if (step + 1) % 10 == 0:
            print(
                f"polish: step {step + 1}/{recipe.polish_steps} contrast {contrast.item():.3f} "
                f"gate {sorted_out.item():.3f}",
                flush=True,
            )
    drawings.close()
    torch.save({"everything": everything.state_dict()}, work / "polished.pt")


@dataclass(frozen=True, slots=True)
class Batch:
    """`photos`: two views of each individual in turn, then the others; `labels` are the gate's."""

    photos: NDArray[np.uint8]
    targets: NDArray[np.float32]
    labels: NDArray[np.int64]


def _batch(drawings: Drawings, recipe: Recipe, chunks: int, rng: np.random.Generator) -> Batch:
    """The photos of one step, from the first `chunks` chunks."""
    rows = rng.choice(chunks * CHUNK_INDIVIDUALS, recipe.individuals, replace=False)
    photos, targets = [], []
    for row in rows.tolist():
        chunk, place = divmod(row, CHUNK_INDIVIDUALS)
        views = rng.permutation(CHUNK_VIEWS)[:2].tolist()
        photos.extend(drawings.photos[chunk][place, view] for view in views)
        targets.append(drawings.targets[chunk][place])
    labels = [0] * len(photos)
    for row in rng.choice(chunks * CHUNK_OTHERS, recipe.others, replace=False).tolist():
        chunk, place = divmod(row, CHUNK_OTHERS)
        photos.append(drawings.others[chunk][place])
        labels.append(int(drawings.labels[chunk][place]))
    return Batch(_varied(np.stack(photos), rng), np.stack(targets), np.asarray(labels))


def _varied(photos: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """A little more variety for photos seen more than once: contrast and brightness."""
    gain = rng.uniform(0.85, 1.15, (len(photos), 1, 1, 1)).astype(np.float32)
    shift = rng.uniform(-14.0, 14.0, (len(photos), 1, 1, 1)).astype(np.float32)
    return np.clip(photos * gain + shift, 0.0, 255.0).astype(np.uint8)


def load_network(work: Path, name: str = "polished.pt") -> Any:
    """A trained network, in evaluation mode."""
    torch = load_torch()
    network = build_network(0)
    state = torch.load(work / name, weights_only=True)["everything"]
    prefix = "network."
    network.load_state_dict(
        {key.removeprefix(prefix): v for key, v in state.items() if key.startswith(prefix)}
    )
    return network.eval()


# --- head

EXTRA_SLOTS: Final = 600
HEAD_VIEWS: Final = 24
# Encounter seeds of one individual: training, the demo's catalogue and queries, and tests differ.
HEAD_SCENES: Final = 5_000_000_000_000
TEST_SCENES: Final = 6_000_000_000_000


def head_individuals() -> list[int]:
    """Seeds of the individuals behind the head's slots: the demo catalogue's, then unnamed ones."""
    named = [drawings.individual_seed(p) for p in range(drawings.DEMO_INDIVIDUALS)]
    return named + [EXTRA_SEEDS + n for n in range(EXTRA_SLOTS)]


def draw_many(jobs: list[tuple[int, int, int]], size_px: tuple[int, int]) -> NDArray[np.uint8]:
    """Photos of (individual seed, encounter seed, photo number) jobs, squashed, (N, H, W, 3)."""
    photos = np.empty((len(jobs), *INPUT_PX, 3), dtype=np.uint8)
    for row, (individual, encounter, number) in enumerate(jobs):
        scene = synthetic.Scene.from_seed(encounter, photo=number)
        fluke = synthetic.Fluke.from_seed(individual)
        photos[row] = squash(synthetic.draw_fluke(fluke, scene, size_px=size_px))
    return photos


def drawn(
    work: Path, name: str, jobs: list[tuple[int, int, int]], size_px: tuple[int, int], workers: int
) -> NDArray[np.uint8]:
    """`draw_many` by several processes, kept in `work` for the next time."""
    path = work / f"drawn_{name}.npy"
    if not path.exists():
        parts = [jobs[start : start + 240] for start in range(0, len(jobs), 240)]
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            done = list(pool.map(draw_many, parts, [size_px] * len(parts)))
        np.save(path, np.concatenate(done))
    photos: NDArray[np.uint8] = np.load(path)
    return photos


def train_head(work: Path, network: Any, *, workers: int, steps: int = 1500) -> None:
    """Fit `arc.weight` on frozen embeddings and leave `head.npy` (slots, DIM) in `work`."""
    torch = load_torch()
    functional = torch.nn.functional
    seeds = head_individuals()
    jobs = [(s, HEAD_SCENES + s * 100 + view, 0) for s in seeds for view in range(HEAD_VIEWS)]
    photos = drawn(work, "head", jobs, DRAWN_PX, workers)
    _, found = describe(network, photos)
    vectors = torch.from_numpy(found)
    slots = torch.arange(len(seeds)).repeat_interleave(HEAD_VIEWS)
    rows = vectors.view(len(seeds), HEAD_VIEWS, DIM).mean(1).clone().requires_grad_()
    optimiser = torch.optim.Adam([rows], lr=2e-3)
    generator = torch.Generator().manual_seed(1)
    for step in range(steps):
        picked = torch.randint(len(vectors), (512,), generator=generator)
        cosine = vectors[picked] @ functional.normalize(rows, dim=1).T
        angle = torch.arccos(cosine.clamp(-1 + 1e-6, 1 - 1e-6))
        own = functional.one_hot(slots[picked], len(seeds)).bool()
        with_margin = torch.where(own, torch.cos((angle + MARGIN).clamp(max=math.pi)), cosine)
        loss = functional.cross_entropy(SCALE * with_margin, slots[picked])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if step % 500 == 0 or step == steps - 1:
            print(f"head: step {step} loss {loss.item():.3f}", flush=True)
    np.save(work / "head.npy", functional.normalize(rows.detach(), dim=1).numpy())


# --- gate

GATE_SEEDS: Final = 7_000_000_000
GATE_DIRECTIONS: Final = 96
GATE_HIDDEN: Final = 64
GATE_OTHER_LIMIT: Final = 0.4
# Real photos of whales and dolphins look like drawn boats to features that were taught on drawings
# (a dark shape on water), so the gate abstains on what is nearest to a boat.
GATE_NEVER_REJECTED: Final = ("boat",)
GATE_LABELS: Final = {"flukes": 0, "negatives": 1, "others": 2}
GATE_COUNTS: Final = (1200, 240, 3000)


def negative_photos(first: int, per_kind: int, size_px: tuple[int, int]) -> NDArray[np.uint8]:
    """Drawn negatives, kind by kind, (kinds × per_kind, H, W, 3) uint8."""
    photos = [
        squash(synthetic.draw_negative(kind, first + n, size_px=size_px))
        for kind in synthetic.NEGATIVE_KINDS
        for n in range(per_kind)
    ]
    return np.stack(photos)


def other_photos(first: int, count: int, size_px: tuple[int, int]) -> NDArray[np.uint8]:
    """Photos of neither kind, (count, H, W, 3) uint8."""
    return np.stack([squash(draw_other(first + n, size_px)) for n in range(count)])


def gate_photos(
    work: Path,
    name: str,
    first: int,
    counts: tuple[int, int, int],
    size_px: tuple[int, int],
    workers: int,
) -> Any:
    """Drawn from seeds at `first` on: flukes, negatives and others, kept in `work`.

    `counts` are flukes, negatives of each kind, others.
    """
    path = work / f"{name}.npz"
    if not path.exists():
        jobs = [(first + n, first + n, 0) for n in range(counts[0])]
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            flukes = pool.submit(draw_many, jobs, size_px)
            negatives = pool.submit(negative_photos, first, counts[1], size_px)
            others = pool.submit(other_photos, first, counts[2], size_px)
            np.savez(
                path,
                flukes=flukes.result(),
                negatives=negatives.result(),
                others=others.result(),
            )
    return np.load(path)


def gate_training_photos(work: Path, workers: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Negatives (label 1) and others (label 2) of the gate's training, at both sizes."""
    sets = gate_training_sets(work, workers)
    parts = [(part[name], label) for part in sets for name, label in GATE_LABELS.items() if label]
    labels = [np.full(len(photos), label, dtype=np.int64) for photos, label in parts]
    return np.concatenate([photos for photos, _ in parts]), np.concatenate(labels)


def gate_training_sets(work: Path, workers: int) -> tuple[Any, Any]:
    """The gate's training photos, drawn small and larger."""
    return (
        gate_photos(work, "gate_small", GATE_SEEDS, GATE_COUNTS, DRAWN_PX, workers),
        gate_photos(work, "gate_large", GATE_SEEDS + 100_000, GATE_COUNTS, (320, 240), workers),
    )


def train_gate(work: Path, network: Any, *, workers: int) -> None:
    """Fit the gate on frozen features and leave `gate.npz` in `work`."""
    torch = load_torch()
    kinds = len(synthetic.NEGATIVE_KINDS)
    small, large = gate_training_sets(work, workers)
    groups = {
        name: np.concatenate([describe(network, part[name])[0] for part in (small, large)])
        for name in GATE_LABELS
    }
    per_kind = len(groups["negatives"]) // 2 // kinds
    kind_of = np.tile(np.repeat(np.arange(1, kinds + 1), per_kind), 2)
    features = np.concatenate([groups["flukes"], groups["negatives"], groups["others"]])
    labels = np.repeat(np.arange(3), [len(group) for group in groups.values()])
    centre = features.mean(0)
    projection = _directions(features - centre, GATE_DIRECTIONS)
    points = ((features - centre) @ projection).astype(np.float32)

    torch.manual_seed(2)
    layers = torch.nn.Sequential(
        torch.nn.Linear(GATE_DIRECTIONS, GATE_HIDDEN),
        torch.nn.ReLU(),
        torch.nn.Linear(GATE_HIDDEN, 3),
    )
    optimiser = torch.optim.AdamW(layers.parameters(), lr=3e-3, weight_decay=0.02)
    inputs, wanted = torch.from_numpy(points), torch.from_numpy(labels)
    for _ in range(1500):
        picked = torch.randint(len(inputs), (256,))
        noisy = inputs[picked] + 0.1 * torch.randn(256, GATE_DIRECTIONS)
        loss = torch.nn.functional.cross_entropy(layers(noisy), wanted[picked])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    print(f"gate: loss {loss.item():.3f}", flush=True)
    kind = np.concatenate([np.zeros(len(groups["flukes"]), dtype=int), kind_of])
    means, whitenings, limits = _kinds(points[labels < 2], kind, kinds + 1)
    weights = [parameter.detach().numpy() for parameter in layers.parameters()]
    StarterGate(
        centre=centre.astype(np.float32),
        projection=projection,
        hidden_weight=np.ascontiguousarray(weights[0].T),
        hidden_bias=weights[1],
        output_weight=np.ascontiguousarray(weights[2].T),
        output_bias=weights[3],
        kind_mean=means,
        kind_whitening=whitenings,
        kind_limit=limits,
        threshold=0.5,
        other_limit=np.array(
            [
                -1.0 if kind_name in GATE_NEVER_REJECTED else GATE_OTHER_LIMIT
                for kind_name in ("fluke", *synthetic.NEGATIVE_KINDS)
            ],
            dtype=np.float32,
        ),
    ).save(work / "gate.npz")


def _directions(centred: NDArray[np.float32], count: int) -> NDArray[np.float32]:
    """The first principal directions, scaled to unit variance, (C, count) float32."""
    _, spread, rows = np.linalg.svd(centred.astype(np.float64), full_matrices=False)
    scale = math.sqrt(len(centred)) / spread[:count]
    return np.asarray(rows[:count].T * scale, dtype=np.float32)


def _kinds(
    points: NDArray[np.float32], kind: NDArray[np.int_], kinds: int
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Mean, whitening matrix and limit (99 % of the kind, with 10 % to spare) of each kind."""
    means, whitenings, limits = [], [], []
    for index in range(kinds):
        own = points[kind == index].astype(np.float64)
        mean = own.mean(0)
        spread = np.cov(own.T) + 0.02 * np.eye(own.shape[1])
        values, vectors = np.linalg.eigh(spread)
        whitening = vectors / np.sqrt(values)
        distance = (((own - mean) @ whitening) ** 2).sum(1)
        means.append(mean)
        whitenings.append(whitening)
        limits.append(1.1 * np.quantile(distance, 0.99))
    stacked = (np.stack(means), np.stack(whitenings), np.asarray(limits))
    return tuple(array.astype(np.float32) for array in stacked)  # type: ignore[return-value]


# --- evaluation

TEST_INDIVIDUALS: Final = 200
TEST_GALLERY: Final = 4
TEST_QUERIES: Final = 2


def evaluation_jobs() -> list[tuple[int, int, int]]:
    """Gallery (two encounters, two photos each) then queries (a third encounter), by individual."""
    return [
        (TEST_SEEDS + n, TEST_SCENES + (TEST_SEEDS + n) * 100 + number // 2, number)
        for n in range(TEST_INDIVIDUALS)
        for number in range(TEST_GALLERY + TEST_QUERIES)
    ]


@dataclass(frozen=True, slots=True)
class Ranked:
    """Share of queries whose individual is first, among the first five; `queries` asked."""

    top1: float
    top5: float
    queries: int

    @classmethod
    def of(cls, likeness: NDArray[Any]) -> Ranked:
        """From (individuals, queries each, gallery individuals) best likeness per individual."""
        own = likeness[np.arange(len(likeness)), :, np.arange(len(likeness))][..., None]
        better = (likeness > own).sum(2)
        return cls(
            top1=round(float((better == 0).mean()), 4),
            top5=round(float((better < 5).mean()), 4),
            queries=better.size,
        )


def dhash(photo: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """64-bit difference hash: which of horizontally neighbouring cells is brighter, (64,) bool."""
    grey = Image.fromarray(photo).convert("L").resize((9, 8), Image.Resampling.BILINEAR)
    cells = np.asarray(grey, dtype=np.int16)
    return np.asarray(cells[:, 1:] > cells[:, :-1]).ravel()


def likeness_of(vectors: NDArray[Any]) -> NDArray[Any]:
    """(N, D) vectors of `evaluation_jobs` → best similarity per gallery individual (I, Q, I)."""
    shaped = vectors.reshape(TEST_INDIVIDUALS, TEST_GALLERY + TEST_QUERIES, -1).astype(np.float32)
    gallery, queries = shaped[:, :TEST_GALLERY], shaped[:, TEST_GALLERY:]
    return np.einsum("iqd,jgd->iqjg", queries, gallery, optimize=True).max(3)


def evaluate(work: Path, network: Any, options: argparse.Namespace) -> dict[str, Any]:
    """All numbers of the model card, as JSON-ready values; also left in `evaluation.json`."""
    photos = drawn(work, "test", evaluation_jobs(), synthetic.PHOTO_SIZE_PX, options.workers)
    random_network = build_network(9).eval()
    hashes = np.stack([dhash(photo) for photo in photos]) * 2.0 - 1.0
    result: dict[str, Any] = {
        "drawn_unseen": {
            "gallery_individuals": TEST_INDIVIDUALS,
            "gallery_photos_each": TEST_GALLERY,
            "starter": _ranked(likeness_of(describe(network, photos)[1])),
            "random_weights": _ranked(likeness_of(describe(random_network, photos)[1])),
            "dhash64": _ranked(likeness_of(hashes)),
        },
        "default_answer": evaluate_head(work, network, options.workers),
        "gate": evaluate_gate(work, network, options.real_photos, options.workers),
    }
    if options.nyala is not None:
        result["nyala"] = evaluate_nyala(options.nyala, network, random_network)
    (work / "evaluation.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return result


def _ranked(likeness: NDArray[Any]) -> dict[str, Any]:
    ranked = Ranked.of(likeness)
    return {"top1": ranked.top1, "top5": ranked.top5, "queries": ranked.queries}


def evaluate_head(work: Path, network: Any, workers: int) -> dict[str, Any]:
    """The default answer on new encounters of the named, and on strangers; picks its threshold."""
    named = head_individuals()[: drawings.DEMO_INDIVIDUALS]
    strangers = [TEST_SEEDS + 10_000 + n for n in range(400)]
    jobs = [(s, TEST_SCENES + s * 100 + view, 0) for s in named for view in range(4)]
    jobs += [(s, TEST_SCENES + s * 100, 0) for s in strangers]
    photos = drawn(work, "answers", jobs, (320, 240), workers)
    rows = np.load(work / "head.npy")
    logits = SCALE * describe(network, photos)[1] @ rows.T
    mapped = logits[:, : len(named)]
    share = np.exp(mapped - mapped.max(1, keepdims=True))
    probability = (share / share.sum(1, keepdims=True)).max(1)
    by_name = logits.argmax(1) < len(named)
    known = np.arange(len(jobs)) < len(named) * 4
    right = np.zeros(len(jobs), dtype=bool)
    right[known] = mapped[known].argmax(1) == np.repeat(np.arange(len(named)), 4)
    table = []
    for threshold in np.arange(0.05, 0.996, 0.01):
        given = by_name & (probability >= threshold)
        right_given, wrong_given = (given & right)[known].mean(), given[~known].mean()
        table.append((round(float(threshold), 2), float(right_given), float(wrong_given)))
    best = max(table, key=lambda row: row[1] - row[2])
    return {
        "min_probability": best[0],
        "named_photos": int(known.sum()),
        "named_right_and_given": round(best[1], 4),
        "named_top1": round(float(right[known].mean()), 4),
        "unknown_photos": int((~known).sum()),
        "unknown_given": round(best[2], 4),
        "unknown_in_unmapped_slot": round(float((~by_name)[~known].mean()), 4),
    }


def evaluate_gate(work: Path, network: Any, real: Path | None, workers: int) -> dict[str, Any]:
    """The gate on drawings of unseen seeds at the demo's size, and on real photos."""
    stored = gate_photos(
        work, "gate_test", GATE_SEEDS + 900_000, (200, 40, 300), synthetic.PHOTO_SIZE_PX, workers
    )
    gate = StarterGate.load(work / "gate.npz")
    scores = {}
    result: dict[str, Any] = {"threshold": gate.threshold}
    for name in ("flukes", "negatives", "others"):
        decided = gate.decide(describe(network, stored[name])[0])
        scores[name] = np.array([score for _, score in decided])
        result[name] = _states(decided)
    above = (scores["flukes"][:, None] > scores["negatives"][None, :]).mean()
    equal = (scores["flukes"][:, None] == scores["negatives"][None, :]).mean()
    result["auc"] = round(float(above + 0.5 * equal), 5)
    if real is not None:
        for folder in sorted(path for path in real.iterdir() if path.is_dir()):
            photos = np.stack([_read(path) for path in sorted(folder.iterdir())])
            result[f"real_{folder.name}"] = _states(gate.decide(describe(network, photos)[0]))
    return result


def _states(decided: list[tuple[Any, float]]) -> dict[str, int]:
    states = [state for state, _ in decided]
    return {name: states.count(name) for name in ("accepted", "rejected", "abstained")}


def _read(path: Path) -> NDArray[np.uint8]:
    with Image.open(path) as photo:
        return squash(np.asarray(photo.convert("RGB")))


def evaluate_nyala(folder: Path, network: Any, random_network: Any) -> dict[str, Any]:
    """Real antelopes: each photo against the same flank in other encounters."""
    with (folder / "metadata.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    photos = np.stack([_read(folder / row["path"]) for row in rows])
    hashes = np.stack([dhash(photo) for photo in photos]) * 2.0 - 1.0
    columns = [np.array([row[key] for row in rows]) for key in ("identity", "orientation")]
    who, flank = columns
    meeting = np.array([f"{row['identity']}/{row['encounter']}" for row in rows])
    result: dict[str, Any] = {}
    for name, vectors in (
        ("starter", describe(network, photos)[1]),
        ("random_weights", describe(random_network, photos)[1]),
        ("dhash64", hashes),
    ):
        likeness = vectors @ vectors.T
        ranks = []
        for query in range(len(rows)):
            allowed = (flank == flank[query]) & (meeting != meeting[query])
            if not (who[allowed] == who[query]).any():
                continue
            best: dict[str, float] = {}
            for other in np.flatnonzero(allowed).tolist():
                best[who[other]] = max(best.get(who[other], -1e9), float(likeness[query, other]))
            own = best[who[query]]
            ranks.append(sum(score > own for score in best.values()))
        array = np.array(ranks)
        result[name] = {
            "top1": round(float((array == 0).mean()), 4),
            "top5": round(float((array < 5).mean()), 4),
            "queries": len(ranks),
        }
    return result


# --- bundle


def write_bundle(work: Path, network: Any, out: Path, recipe: Recipe) -> None:
    """The folder that `models.bundles.convert_starter` completes: weights, lists, gate, card."""
    from safetensors.torch import save_file

    torch = load_torch()
    rows = torch.from_numpy(np.load(work / "head.npy"))
    state = {
        key: value.half().contiguous() if value.ndim > 1 else value.contiguous()
        for key, value in network.state_dict().items()
    }
    out.mkdir(parents=True, exist_ok=True)
    save_file(state | {"arc.weight": rows.half().contiguous()}, out / "checkpoint.safetensors")
    names = drawings.individual_names(drawings.DEMO_INDIVIDUALS)
    (out / "classes.json").write_text(json.dumps(names, indent=0) + "\n", encoding="utf-8")
    with (out / "species.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("individual_id", "species"))
        writer.writerows((name, drawings.SPECIES) for name in names)
    StarterGate.load(work / "gate.npz").save(out / "gate.npz")
    numbers = json.loads((work / "evaluation.json").read_text(encoding="utf-8"))
    training = {"recipe": asdict(recipe), "slots": len(rows), "measured": numbers}
    (out / "training.json").write_text(json.dumps(training, indent=2) + "\n", encoding="utf-8")
    minimum = numbers["default_answer"]["min_probability"]
    (out / "bundle.toml").write_text(_bundle_toml(minimum), encoding="utf-8")
    (out / "README.md").write_text(_card(numbers, recipe, len(rows)), encoding="utf-8")


def _bundle_toml(min_probability: float) -> str:
    return f"""# Written by scripts/train_starter.py; training and measurements: training.json.
name = "starter"
version = "2"
kind = "embedder"
stage = "starter"
licence = "Apache-2.0"
architecture = "{ARCHITECTURE}"
pooled_from = "forward"
dim = {DIM}
scale = {SCALE}
min_probability = {min_probability}
summary = "Small ArcFace network that knows drawn flukes only, for the demo"

[preprocessing]
height_px = {INPUT_PX[0]}
width_px = {INPUT_PX[1]}
interpolation = "bilinear"
mean = {list(MEAN)}
std = {list(STD)}

[files]
checkpoint = "checkpoint.safetensors"
classes = "classes.json"
species = "species.csv"
gate = "gate.npz"
"""


def _card(numbers: dict[str, Any], recipe: Recipe, slots: int) -> str:
    """The model card, with every number from `evaluation.json`."""
    unseen, answer, gate = (numbers[key] for key in ("drawn_unseen", "default_answer", "gate"))
    methods = (
        ("starter", "this model"),
        ("random_weights", "the same network, random weights"),
        ("dhash64", "64-bit difference hash"),
    )

    def table(part: dict[str, Any]) -> str:
        lines = [
            f"| {name} | {part[key]['top1']:.3f} | {part[key]['top5']:.3f} |"
            for key, name in methods
        ]
        return "\n".join(("| | top-1 | top-5 |", "| --- | --- | --- |", *lines))

    def states(name: str) -> str:
        counts = gate[name]
        return f"| {counts['accepted']} | {counts['rejected']} | {counts['abstained']} |"

    groups = [
        ("flukes", "drawn flukes of unseen individuals"),
        ("negatives", "drawn negatives (a fifth each sea, boat, bird, text, blank)"),
        ("others", "procedural images of neither kind"),
        ("real_positives", "real photos of whales and dolphins"),
        ("real_negatives", "real photos of land and sea"),
    ]
    gate_rows = "\n".join(f"| {title} {states(key)}" for key, title in groups if key in gate)
    front = f"""---
license: apache-2.0
library_name: timm
pipeline_tag: image-feature-extraction
tags: [re-identification, arcface, synthetic]
base_model: none (trained from random weights)
architecture: {ARCHITECTURE}
input_px: [{INPUT_PX[0]}, {INPUT_PX[1]}]
embedding_dim: {DIM}
head_slots: {slots}
default_answer_min_probability: {answer["min_probability"]}
metrics:
  drawn_unseen_top1: {unseen["starter"]["top1"]}
  drawn_unseen_top5: {unseen["starter"]["top5"]}
  gate_auc: {gate["auc"]}
---
"""
    body = f"""
# Starter: an embedder that knows drawn flukes

**It knows drawings and nothing else.** This network has never seen a photo of an animal. It exists
so that a fresh clone can show the whole of Resight at work, on the flukes that Resight draws itself
(`indexer/synthetic.py`). Do not use it to identify real animals: on real photos it is no better
than chance or a simple hash, as the last table shows.

## What it is

timm `{ARCHITECTURE}` at {INPUT_PX[1]} × {INPUT_PX[0]} px (plain resize, ImageNet normalisation),
global average pooling, a linear layer to {DIM} dimensions, L2 normalisation; an ArcFace head
(s = {SCALE:.0f}, m = {MARGIN:.2f}) of {slots} slots, of which the first
{drawings.DEMO_INDIVIDUALS} carry the names of the demo catalogue and the others stand for animals
without a name. `gate.npz` is described in `models/starter_gate.py`.

## How well it does on drawings

Individuals and encounters never seen in training, drawn at 640 × 480 px; gallery of
{unseen["gallery_individuals"]} individuals with {unseen["gallery_photos_each"]} photos each,
{unseen["starter"]["queries"]} queries from other encounters, best photo per individual:

{table(unseen)}

Default answer, given from probability {answer["min_probability"]} on: right and given for
{answer["named_right_and_given"]:.1%} of {answer["named_photos"]} new photos of named individuals
(top-1 {answer["named_top1"]:.1%}); given, wrongly, for {answer["unknown_given"]:.1%} of
{answer["unknown_photos"]} photos of strangers.

Gate (AUC {gate["auc"]:.4f} between drawn flukes and drawn negatives). It was taught drawings only
and abstains on what is unlike all of them, and on what looks most like a boat: to features
taught on drawings, a real whale is a dark shape on water as well.

| photos | accepted | rejected | abstained |
| --- | --- | --- | --- |
{gate_rows}
"""
    if "nyala" in numbers:
        body += f"""
## How badly it does on real animals

{numbers["nyala"]["starter"]["queries"]} flank photos of nyala antelopes, each searched among
photos of the same flank in other encounters:

{table(numbers["nyala"])}
"""
    body += f"""
## How it was trained

`scripts/train_starter.py`, seed {recipe.seed}, on two CPU cores, from random weights, on drawings:

1. backbone and embedding: InfoNCE (temperature {recipe.temperature}) over two views of
   {recipe.individuals} individuals per step in different encounters, {recipe.steps} steps,
   {recipe.chunks * CHUNK_INDIVIDUALS:,} individuals with {CHUNK_VIEWS} photos each; beside it the
   network had to draw the flat tail (coverage and pigment on a grid of {TARGET_PX[0]} ×
   {TARGET_PX[1]} cells) and to tell flukes, negatives and procedural images apart;
2. polish: {recipe.polish_steps} more steps in which {recipe.polish_others} photos of each batch are
   negatives and procedural images, because the contrast alone made the features forget them;
3. head: ArcFace on the frozen embedding, {HEAD_VIEWS} photos per slot;
4. gate: a small network and one Gaussian per kind of photo on the frozen pooled features.

Again: `python scripts/train_starter.py --work DIR` (about an hour; resumes where it was stopped).
The shipped weights come from a run that was stopped and resumed twice with fewer steps planned each
time (2400, from step 400 on 1300, from step 800 on 1100), so learning rate and choice of photos
followed each plan in turn: a fresh run gives a similar network, not this one.

## What these numbers are not

- The gate's row of real whales and dolphins is **not held out**. No real photo was trained on, but
  an earlier gate rejected 19 of these 100 photos, 15 of them as boats. The rule never to
  reject what is nearest to a boat, and the limit {GATE_OTHER_LIMIT} on "other", were chosen after
  seeing that.
  On other real photos expect more rejections.
- That rule costs drawn negatives: the boats are never rejected, and some seas and birds lie nearest
  to a boat too. Before it, 183 of the 200 drawn negatives were rejected.
- The probability {answer["min_probability"]} was chosen on the very photos whose shares stand
  beside it.
- A second polish with drawn fins among the procedural images was tried and dropped: 13 real photos
  rejected, 166 drawn negatives rejected, top-1 0.9975.
- Poses and framing of the drawings were made calmer early on so that training would fit its time;
  the drawn task is therefore easy (top-1 1.000), though not for a hash or random weights.
Licence: Apache-2.0, as the code; no third-party weights or photos went into it.
"""
    return front + body


STAGES: Final = ("backbone", "polish", "head", "gate", "evaluate", "write")


def main() -> None:
    """Run the stages asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--work", type=Path, required=True, help="folder for drawings and states")
    parser.add_argument("--out", type=Path, default=ROOT / "models" / "starter")
    parser.add_argument("--stage", choices=("all", *STAGES), default="all")
    parser.add_argument("--evaluate", action="store_true", help="same as --stage evaluate")
    parser.add_argument("--steps", type=int, default=Recipe().steps, help="steps of the backbone")
    parser.add_argument("--resume", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--workers", type=int, default=2, help="drawing processes")
    parser.add_argument("--nyala", type=Path, help="folder with real photos and metadata.csv")
    parser.add_argument("--real-photos", type=Path, help="folder of folders, for the gate")
    options = parser.parse_args()
    wanted = "evaluate" if options.evaluate else options.stage
    stages = STAGES if wanted == "all" else (wanted,)
    recipe = Recipe(steps=options.steps)
    options.work.mkdir(parents=True, exist_ok=True)
    if "backbone" in stages:
        train_backbone(options.work, recipe, resume=options.resume, workers=options.workers)
    if "polish" in stages:
        polish(options.work, recipe, workers=options.workers)
    if stages in (("backbone",), ("polish",)):
        return
    network = load_network(options.work)
    if "head" in stages:
        train_head(options.work, network, workers=options.workers)
    if "gate" in stages:
        train_gate(options.work, network, workers=options.workers)
    if "evaluate" in stages:
        print(json.dumps(evaluate(options.work, network, options), indent=2))
    if "write" in stages:
        write_bundle(options.work, network, options.out, recipe)


if __name__ == "__main__":
    main()
