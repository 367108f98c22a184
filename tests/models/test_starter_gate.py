"""The starter gate: three outcomes from hand-made arrays, and a strict file format."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from models.errors import BundleError
from models.starter_gate import StarterGate


def small_gate() -> StarterGate:
    """Two features: the first says fluke (+) or negative (-); flukes lie at +3, negatives at -3."""
    eye = np.eye(2, dtype=np.float32)
    return StarterGate(
        centre=np.array([1.0, 1.0], dtype=np.float32),
        projection=eye,
        hidden_weight=np.array([[1, -1, 0], [0, 0, 1]], dtype=np.float32),
        hidden_bias=np.zeros(3, dtype=np.float32),
        output_weight=np.array([[2, 0, 0], [0, 2, 0], [0, 0, 2]], dtype=np.float32),
        output_bias=np.zeros(3, dtype=np.float32),
        kind_mean=np.array([[3.0, 0.0], [-3.0, 0.0]], dtype=np.float32),
        kind_whitening=np.stack([eye, eye]),
        kind_limit=np.array([4.0, 1.0], dtype=np.float32),
        other_limit=np.array([0.5, 0.5], dtype=np.float32),
        threshold=0.5,
    )


@pytest.mark.parametrize(
    ("feature", "state"),
    [
        ((4.0, 1.0), "accepted"),
        ((-2.0, 1.0), "rejected"),
        ((1.0, 1.0), "abstained"),  # between both kinds
        ((30.0, 1.0), "abstained"),  # fluke-like, but far beyond every fluke
        ((-3.5, 1.0), "abstained"),  # negative-like, beyond the tighter limit of negatives
        ((4.0, 9.0), "abstained"),  # the network says "other"
    ],
)
def test_decides_by_kind_and_distance(feature: tuple[float, float], state: str) -> None:
    [(decided, score)] = small_gate().decide(np.array([feature], dtype=np.float32))
    assert decided == state
    assert 0.0 <= score <= 1.0


def test_a_kind_can_be_spared_from_rejection() -> None:
    gate = replace(small_gate(), other_limit=np.array([0.5, -1.0], dtype=np.float32))
    rows = np.array([[-2.0, 1.0], [4.0, 1.0]], dtype=np.float32)
    assert [state for state, _ in gate.decide(rows)] == ["abstained", "accepted"]


def test_score_formula() -> None:
    score, other, distance = small_gate().scores(np.array([[3.0, 1.0]], dtype=np.float32))
    assert score[0] == pytest.approx(1.0 / (1.0 + np.exp(-4.0)), abs=1e-6)
    assert other[0] == pytest.approx(1.0 / (np.exp(4.0) + 2.0), abs=1e-6)
    assert distance[0].tolist() == pytest.approx([0.25, 25.0])


def test_rows_keep_their_order_and_none_is_fine() -> None:
    gate = small_gate()
    rows = np.array([[4, 1], [-2, 1], [4, 1]], dtype=np.float32)
    assert [state for state, _ in gate.decide(rows)] == ["accepted", "rejected", "accepted"]
    assert gate.decide(np.empty((0, 2), dtype=np.float32)) == []


def test_saved_and_loaded_decides_the_same(tmp_path: Path) -> None:
    gate = small_gate()
    gate.save(tmp_path / "gate.npz")
    rows = np.random.default_rng(0).normal(0.0, 4.0, (50, 2)).astype(np.float32)
    assert StarterGate.load(tmp_path / "gate.npz").decide(rows) == gate.decide(rows)


def test_wrong_width_names_both_shapes() -> None:
    with pytest.raises(ValueError, match=r"\(N, 2\).*\(1, 3\)"):
        small_gate().decide(np.zeros((1, 3), dtype=np.float32))


def test_wrong_shapes_are_refused() -> None:
    with pytest.raises(BundleError, match="kind_mean"):
        replace(small_gate(), kind_mean=np.zeros((3, 2), dtype=np.float32))


def test_missing_array_is_named(tmp_path: Path) -> None:
    np.savez(tmp_path / "gate.npz", centre=np.zeros(2))
    with pytest.raises(BundleError, match="projection"):
        StarterGate.load(tmp_path / "gate.npz")


def test_broken_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "gate.npz").write_bytes(b"not an archive")
    with pytest.raises(BundleError, match=r"gate\.npz"):
        StarterGate.load(tmp_path / "gate.npz")
