"""The starter bundle as it ships: small, in order, loadable without torch and without writing."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from models.bundles import load_serving, verify
from models.manifest import MANIFEST, Manifest
from models.recipes import STARTER, recipe_of
from tests.models.conftest import draw_photo


def test_it_fits_into_the_repository() -> None:
    size = sum(path.stat().st_size for path in STARTER.iterdir())
    assert size <= 20_000_000, f"{size:,} bytes"


def test_what_ships_is_what_was_converted(tmp_path: Path) -> None:
    """Fails when the trained files were replaced: run `python scripts/convert_starter.py`."""
    assert verify(tmp_path, "starter") == []
    manifest = Manifest.load(STARTER)
    recipe = recipe_of(STARTER, {})
    assert manifest.preprocessing == recipe.preprocessing
    assert (manifest.architecture, manifest.min_probability, manifest.scale) == (
        recipe.architecture,
        recipe.min_probability,
        recipe.scale,
    )
    assert set(manifest.files) >= {file.path for file in recipe.files.values()}
    assert MANIFEST not in manifest.files


def test_it_serves_where_nothing_is_installed(tmp_path: Path) -> None:
    serving = load_serving(tmp_path / "models", device="cpu")
    assert serving.problems == ()
    assert (serving.bundle, serving.stage) == ("starter", "starter")
    assert [notice.code for notice in serving.notices] == ["real_gate_not_installed"]
    assert serving.embedder is not None
    assert serving.head is not None
    assert 0 < serving.head.mapped < len(serving.head.labels)
    photos = [draw_photo(1), draw_photo(2)]
    embedded = serving.embedder.embed(photos)
    assert embedded.vectors.shape == (2, 512)
    assert np.isfinite(embedded.features).all()
    decisions = serving.gate.decide(photos, embedded.features)
    assert all("starter" in decision.model for decision in decisions)
    assert not (tmp_path / "models").exists()
