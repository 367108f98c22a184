"""Owns the gate's threshold: choosing it from labelled scores, writing it down."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.errors import BundleError
from models.preprocess import BadPhoto, Rgb, decode

NEEDS_TNR: Final = 0.90
NEEDS_TPR: Final = 0.85
_SWEEP: Final = tuple(step / 100 for step in range(30, 81))
_POSITIVE: Final = frozenset({"1", "true", "positive", "cetacean", "accepted", "yes"})
_NEGATIVE: Final = frozenset({"0", "false", "negative", "non_cetacean", "rejected", "no"})


@dataclass(frozen=True, slots=True)
class Calibration:
    """A threshold and what it does on the photos it was chosen on; rates and AUC are 0..1."""

    threshold: float
    true_positive_rate: float
    true_negative_rate: float
    auc: float
    positives: int
    negatives: int
    date: date


@dataclass(frozen=True, slots=True)
class Skipped:
    """A line of the manifest that gave no score, and why."""

    path: str
    code: str
    detail: str


def calibrate(scores: Sequence[float], labels: Sequence[bool]) -> Calibration:
    """The smallest threshold of 0.30, 0.31 … 0.80 with TNR ≥ 0.90 and TPR ≥ 0.85.

    `labels[i]` says whether photo i shows what the gate is to accept (score ≥ threshold).

    Raises:
        BundleError: `not_enough_photos` (one kind is missing), `no_threshold` (none will do).
    """
    values = np.asarray(scores, dtype=np.float64)
    truth = np.asarray(labels, dtype=bool)
    if values.shape != truth.shape or not np.isfinite(values).all():
        raise ValueError(f"{values.shape} finite scores and {truth.shape} labels must agree")
    positive, negative = values[truth], values[~truth]
    if not positive.size or not negative.size:
        raise BundleError(
            "not_enough_photos",
            f"calibration needs photos of both kinds, got {positive.size} positive and "
            f"{negative.size} negative",
        )
    rates = [(t, float((positive >= t).mean()), float((negative < t).mean())) for t in _SWEEP]
    for threshold, tpr, tnr in rates:
        if tnr >= NEEDS_TNR and tpr >= NEEDS_TPR:
            return Calibration(
                threshold=threshold,
                true_positive_rate=tpr,
                true_negative_rate=tnr,
                auc=area_under_curve(positive, negative),
                positives=positive.size,
                negatives=negative.size,
                date=datetime.now(UTC).date(),
            )
    best = max(rates, key=lambda rate: min(rate[1] - NEEDS_TPR, rate[2] - NEEDS_TNR))
    raise BundleError(
        "no_threshold",
        f"no threshold from {_SWEEP[0]} to {_SWEEP[-1]} reaches TPR {NEEDS_TPR} and TNR "
        f"{NEEDS_TNR} on {positive.size} positives and {negative.size} negatives; the best, "
        f"{best[0]}, has TPR {best[1]:.3f} and TNR {best[2]:.3f}: check the labels",
    )


def area_under_curve(positive: NDArray[np.float64], negative: NDArray[np.float64]) -> float:
    """Chance that a positive scores above a negative; a tie counts half."""
    ordered = np.sort(negative)
    below = np.searchsorted(ordered, positive, side="left")
    not_above = np.searchsorted(ordered, positive, side="right")
    return float((below + not_above).sum() / (2 * positive.size * negative.size))


def read_manifest(path: Path) -> list[tuple[Path, bool]]:
    """Photos and labels of a CSV with the columns `path` and `label` (positive / negative).

    Paths are relative to the manifest's folder.

    Raises:
        BundleError: `bad_manifest`, with the line at fault.
    """
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        columns = set(reader.fieldnames or ())
        label_column = next((c for c in ("label", "is_cetacean", "kind") if c in columns), None)
        path_column = next((c for c in ("path", "file", "filename") if c in columns), None)
        if label_column is None or path_column is None:
            raise BundleError(
                "bad_manifest",
                f"{path.name} needs the columns path,label, has {','.join(sorted(columns))}",
            )
        entries = []
        for number, row in enumerate(reader, start=2):
            word = (row[label_column] or "").strip().lower()
            if word not in _POSITIVE | _NEGATIVE:
                raise BundleError(
                    "bad_manifest", f"{path.name} line {number}: label {word!r} is unknown"
                )
            entries.append((path.parent / (row[path_column] or ""), word in _POSITIVE))
    return entries


def score_manifest(
    entries: Sequence[tuple[Path, bool]], score: Callable[[Rgb], float]
) -> Iterator[tuple[float, bool] | Skipped]:
    """(score, label) of each entry in order, or why there is none."""
    for path, label in entries:
        try:
            yield score(decode(path.read_bytes()).rgb), label
        except OSError as error:
            yield Skipped(str(path), "unreadable", str(error))
        except BadPhoto as error:
            yield Skipped(str(path), error.code, error.detail)


def write_calibration(path: Path, calibration: Calibration, source: str) -> None:
    """Replace the values of the `[threshold]` section; comments and other sections stay.

    Raises:
        BundleError: `bad_gate_config` where the file has no such section.
    """
    quoted = source.replace("\\", "\\\\").replace('"', '\\"').replace("\n", " ")
    values = (
        f"value = {calibration.threshold:.2f}",
        f"true_positive_rate = {calibration.true_positive_rate:.4f}",
        f"true_negative_rate = {calibration.true_negative_rate:.4f}",
        f"auc = {calibration.auc:.4f}",
        f"positives = {calibration.positives}",
        f"negatives = {calibration.negatives}",
        f"date = {calibration.date.isoformat()}",
        f'source = "{quoted}"',
        "",
    )
    lines: list[str] = []
    inside = found = False
    for line in path.read_text("utf-8").splitlines():
        if line.startswith("["):
            inside = line.startswith("[threshold]")
        if not inside or line.startswith("#"):
            lines.append(line)
        elif line.startswith("["):
            found = True
            lines += [line, *values]
    if not found:
        raise BundleError("bad_gate_config", f"{path} has no [threshold] section to write to")
    temporary = path.with_name(f".{path.name}.new")
    temporary.write_text("\n".join(lines) + "\n", "utf-8")
    temporary.replace(path)
