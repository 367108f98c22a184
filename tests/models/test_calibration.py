"""The gate's threshold: the sweep, its refusals, and writing it without losing a comment."""

from __future__ import annotations

import tomllib
from datetime import date
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.calibration import (
    Calibration,
    Skipped,
    area_under_curve,
    calibrate,
    read_manifest,
    score_manifest,
    write_calibration,
)
from models.clip import GateConfig
from models.errors import BundleError
from models.recipes import GATE_CONFIG
from tests import zoo


def test_the_smallest_threshold_that_does_both_is_taken() -> None:
    negatives = [0.1] * 17 + [0.445] + [0.9] * 2
    positives = [0.95] * 17 + [0.2] * 3
    found = calibrate(positives + negatives, [True] * 20 + [False] * 20)
    assert found.threshold == 0.45
    assert (found.true_positive_rate, found.true_negative_rate) == (0.85, 0.90)
    assert (found.positives, found.negatives) == (20, 20)
    above = sum((p > n) + (p == n) / 2 for p in positives for n in negatives)
    assert found.auc == pytest.approx(above / 400)


def test_the_sweep_ends_are_030_and_080() -> None:
    low = calibrate([0.9, 0.0], [True, False])
    assert low.threshold == 0.30
    assert calibrate([0.80, 0.7999], [True, False]).threshold == 0.80
    with pytest.raises(BundleError, match="no_threshold"):
        calibrate([0.85, 0.801], [True, False])


def test_inseparable_photos_are_refused_with_the_best_there_is() -> None:
    with pytest.raises(BundleError, match=r"no_threshold.*TPR \d.*TNR \d") as caught:
        calibrate([0.5, 0.5, 0.5, 0.5], [True, False, True, False])
    assert "2 positives and 2 negatives" in caught.value.detail


@pytest.mark.parametrize("labels", [[True, True], [False, False]])
def test_one_kind_alone_is_refused(labels: list[bool]) -> None:
    with pytest.raises(BundleError, match="not_enough_photos"):
        calibrate([0.1, 0.9], labels)


def test_scores_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="finite"):
        calibrate([0.1, float("nan")], [True, False])


score = st.integers(0, 20).map(lambda n: n / 20)


@given(st.lists(score, min_size=1, max_size=30), st.lists(score, min_size=1, max_size=30))
def test_the_area_is_the_chance_of_the_right_order(a: list[float], b: list[float]) -> None:
    counted = sum((p > n) + (p == n) / 2 for p in a for n in b) / (len(a) * len(b))
    assert area_under_curve(np.array(a), np.array(b)) == pytest.approx(counted)


FOUND = Calibration(0.41, 0.97, 0.9123, 0.9876, 33, 44, date(2025, 1, 2))


def test_writing_keeps_everything_but_the_threshold(tmp_path: Path) -> None:
    path = tmp_path / "gate.toml"
    text = GATE_CONFIG.read_text("utf-8")
    path.write_text(text, "utf-8")
    write_calibration(path, FOUND, 'photos "of" mine\\here')
    new = path.read_text("utf-8")
    fields = tomllib.loads(new)
    assert fields["threshold"] == {
        "value": 0.41,
        "true_positive_rate": 0.97,
        "true_negative_rate": 0.9123,
        "auc": 0.9876,
        "positives": 33,
        "negatives": 44,
        "date": date(2025, 1, 2),
        "source": 'photos "of" mine\\here',
    }
    before = GateConfig.load(GATE_CONFIG)
    assert GateConfig.load(path).prompts == before.prompts
    comments = [line for line in text.splitlines() if line.startswith("#")]
    assert [line for line in new.splitlines() if line.startswith("#")] == comments
    write_calibration(path, FOUND, 'photos "of" mine\\here')
    assert path.read_text("utf-8") == new
    assert [p.name for p in tmp_path.iterdir()] == ["gate.toml"]


def test_a_file_without_the_section_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "gate.toml"
    path.write_text("[gate]\nbundle = 'x'\n", "utf-8")
    with pytest.raises(BundleError, match="no \\[threshold\\] section"):
        write_calibration(path, FOUND, "x")
    assert path.read_text("utf-8") == "[gate]\nbundle = 'x'\n"


def test_a_manifest_gives_a_score_or_a_reason_for_every_line(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "whale.jpg").write_bytes(zoo.photo(1))
    (tmp_path / "cut.jpg").write_bytes(zoo.photo(2)[:50])
    (tmp_path / "m.csv").write_text(
        "file_id,path,label\n1,sub/whale.jpg,cetacean\n2,cut.jpg,non_cetacean\n3,gone.jpg,negative\n"
    )
    entries = read_manifest(tmp_path / "m.csv")
    assert [label for _, label in entries] == [True, False, False]
    results = list(score_manifest(entries, lambda rgb: rgb.shape[1] / 100))
    assert results[0] == (0.96, True)
    codes = [result.code for result in results[1:] if isinstance(result, Skipped)]
    assert codes == ["truncated", "unreadable"]


@pytest.mark.parametrize(
    ("text", "message"),
    [("photo,kind_of\na,b\n", "needs the columns"), ("path,label\na.jpg,maybe\n", "line 2.*maybe")],
)
def test_a_bad_manifest_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "m.csv").write_text(text)
    with pytest.raises(BundleError, match=message):
        read_manifest(tmp_path / "m.csv")
