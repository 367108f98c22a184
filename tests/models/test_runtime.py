"""Running networks: the golden photos never change, and the precision follows the agreement."""

from __future__ import annotations

import hashlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from models import runtime
from models.errors import BundleError
from models.preprocess import Preprocessing, Rgb
from models.runtime import Golden, agreement, golden_input, golden_photos, openvino_runner

SMALL = Preprocessing(32, 48, "bilinear", (0.5,) * 3, (0.5,) * 3)


def test_the_golden_photos_are_the_same_everywhere() -> None:
    photos = golden_photos()
    assert {photo.shape for photo in photos} == {(300, 400, 3)}
    digest = hashlib.sha256(b"".join(photo.tobytes() for photo in photos)).hexdigest()
    assert digest == "86e1e830aeb24a72d9d8118a7a122cc4f1cbff0c009ddf5b81f0c7919b1ca517"
    assert golden_input(SMALL).shape == (3, 32, 48, 3)


def turned_by(cosine: float) -> runtime.Run:
    """A runtime whose vectors have this cosine to (1, 0)."""

    def run(pixels: Rgb) -> tuple[Any, Any]:
        row = np.array([cosine, (1 - cosine**2) ** 0.5], np.float32)
        return np.tile(row, (len(pixels), 1)), np.ones((len(pixels), 3), np.float32)

    return run


GOLDEN = Golden(np.tile(np.array([1, 0], np.float32), (3, 1)), np.ones((3, 3), np.float32))


@pytest.mark.parametrize("cosine", [1.0, 0.9995, 0.5, -1.0])
def test_agreement_is_the_lowest_cosine(cosine: float) -> None:
    assert agreement(turned_by(cosine), SMALL, GOLDEN) == pytest.approx(cosine, abs=1e-6)


def test_vectors_that_are_no_numbers_or_of_another_shape_do_not_agree() -> None:
    assert agreement(turned_by(float("nan")), SMALL, GOLDEN) == -1.0
    other = Golden(np.ones((3, 5), np.float32), GOLDEN.features)
    with pytest.raises(BundleError, match=r"golden_mismatch.*\(3, 2\), on record \(3, 5\)"):
        agreement(turned_by(1.0), SMALL, other)


@pytest.mark.parametrize(
    ("bf16", "f32", "chosen"),
    [(0.99995, 1.0, "bf16"), (0.99985, 1.0, "f32"), (0.5, 0.9991, "f32"), (0.5, 0.9989, None)],
)
def test_half_precision_is_kept_only_where_it_stays_true(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, bf16: float, f32: float, chosen: str | None
) -> None:
    class Core:
        def get_property(self, *_: str) -> list[str]:
            return ["FP32", "BF16"]

    compiled = {"bf16": turned_by(bf16), "f32": turned_by(f32)}
    monkeypatch.setattr(runtime, "_openvino", lambda: SimpleNamespace(Core=Core))
    monkeypatch.setattr(runtime, "_compile", lambda _core, _ir, precision, _n: compiled[precision])
    if chosen is None:
        with pytest.raises(BundleError, match=r"golden_mismatch.*cosine 0\.9989"):
            openvino_runner(tmp_path / "x.xml", SMALL, GOLDEN)
    else:
        assert openvino_runner(tmp_path / "x.xml", SMALL, GOLDEN) is compiled[chosen]


def test_a_graph_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "network.xml").write_text("<net/>")
    with pytest.raises(BundleError, match=r"bad_ir: OpenVINO cannot read network\.xml"):
        openvino_runner(tmp_path / "network.xml", SMALL, GOLDEN)
