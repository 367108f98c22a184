"""Drawn flukes as files, small enough to be drawn by the hundred."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from PIL import Image

from indexer.synthetic import Fluke, Scene, draw_fluke

SIZE_PX: Final = (320, 240)
"""A quarter of the demo's photos; the starter model sees no more than this."""


def draw(path: Path, individual: int, photo: int) -> Path:
    """A JPEG of the individual with this seed; another `photo` below 100 is another encounter."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scene = Scene.from_seed(individual * 100 + photo)
    drawn = draw_fluke(Fluke.from_seed(individual), scene, size_px=SIZE_PX)
    Image.fromarray(drawn).save(path, quality=90)
    return path
