"""Calibration on the wire: what scores of a space mean, with the numbers behind it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, Field
from sqlalchemy.orm import Session

from db.queries.embeddings import SpaceRow
from indexer.calibrate import ENOUGH, RATES, Calibrated, Threshold, calibration_of
from indexer.calibrate_job import given
from service.schemas import Strict


class CalibrateBody(Strict):
    """`POST /v1/calibrations`."""

    model: str | None = Field(
        None, description="Name of a space. Without it the one that the catalogue is searched in."
    )


class MeasuredOut(BaseModel):
    """Calibration error (Guo et al., 2017; ten bins of equal mass) and Brier score on pairs of
    encounters that the fit had not seen."""

    ece: float
    brier: float


class BinOut(BaseModel):
    """`n` pairs with probabilities from `low` to `high`, `predicted` on average; `positive` of them
    were, a share of `observed`, with its 95 % interval."""

    n: int
    positive: int
    low: float
    high: float
    predicted: float
    observed: float
    ci95: tuple[float, float]


class CurveOut(BaseModel):
    """One fitted curve and what was measured. `counts` are `same` and `different` pairs, or `known`
    and `new` queries."""

    source: Literal["verdicts", "catalogue"] = Field(
        description="Verdicts of people, or the catalogue asked about itself."
    )
    method: Literal["logistic", "isotonic"]
    counts: dict[str, int]
    implied: int = Field(
        description="Of the different ones, those that were passed over for one further down."
    )
    encounters: int
    folds: int
    ece: float
    ece_by_chance: float = Field(description="What exactly right probabilities would show.")
    brier: float
    measured: dict[str, MeasuredOut] = Field(
        description="Both methods, and the cosine taken for a probability, for comparison."
    )
    bins: list[BinOut]


class ThresholdOut(BaseModel):
    """From `score` on at most `false_match_rate` of different pairs are let through. Null where
    fewer than `needed` different pairs cannot tell, or no score does."""

    false_match_rate: float
    score: float | None
    needed: int
    different: int
    different_above: int
    different_ci95: tuple[float, float] | None
    same: int
    same_above: int
    same_ci95: tuple[float, float] | None


class ScoresOut(BaseModel):
    """How many pairs lie between neighbouring `edges`."""

    edges: list[float]
    same: list[int]
    different: list[int]


class CalibrationOut(BaseModel):
    """The calibration of a space. `curve` are points (score, probability of the same animal)."""

    id: int
    fitted_at: datetime
    fitted_by: str
    pair: CurveOut
    query: CurveOut | None = Field(
        description="Known or new; null where there were too few queries of either kind."
    )
    curve: list[tuple[float, float]]
    scores: ScoresOut
    thresholds: list[ThresholdOut]


class VerdictsOut(BaseModel):
    """Verdicts of the space there are now; `wanted` of each kind make a calibration."""

    same: int
    different: int
    known: int
    new: int
    wanted: int


class SpaceName(BaseModel):
    name: str
    version: str
    fingerprint: str


class HowSure(BaseModel):
    """`GET /v1/calibration`. `calibration` is null while there are not enough verdicts yet."""

    space: SpaceName
    calibration: CalibrationOut | None
    verdicts: VerdictsOut


def how_sure(session: Session, space: SpaceRow, rates: Sequence[float] = ()) -> HowSure:
    """What scores of a space mean, with thresholds for these false-match rates, or the usual ones.

    Raises:
        ValueError: a rate is not between 0 and 1.
    """
    found = calibration_of(session, space.id)
    told = given(session, space)
    return HowSure(
        space=SpaceName(name=space.name, version=space.version, fingerprint=space.fingerprint),
        calibration=_calibration(found, rates or RATES) if found else None,
        verdicts=VerdictsOut(
            same=told.same,
            different=told.different,
            known=told.known,
            new=told.new,
            wanted=ENOUGH,
        ),
    )


def _calibration(found: Calibrated, rates: Sequence[float]) -> CalibrationOut:
    known = found.report["known"]
    return CalibrationOut(
        id=found.id,
        fitted_at=found.fitted_at,
        fitted_by=found.fitted_by,
        pair=_curve(found.report["pair"], ("same", "different")),
        query=_curve(known, ("known", "new")) if known else None,
        curve=found.drawn(),
        scores=ScoresOut(**found.counts.histogram()),
        thresholds=[_threshold(one) for one in found.thresholds(rates)],
    )


def _curve(report: dict[str, Any], kinds: tuple[str, str]) -> CurveOut:
    counts = dict(zip(kinds, (report["yes"], report["no"]), strict=True))
    bins = [BinOut(positive=one["same"], **_without(one, "same")) for one in report["bins"]]
    return CurveOut(counts=counts, bins=bins, **_without(report, "yes", "no", "n", "bins"))


def _without(values: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name not in names}


def _threshold(one: Threshold) -> ThresholdOut:
    return ThresholdOut(
        false_match_rate=one.rate,
        score=one.score,
        needed=one.needed,
        different=one.different,
        different_above=one.different_above,
        different_ci95=one.different_ci95,
        same=one.same,
        same_above=one.same_above,
        same_ci95=one.same_ci95,
    )
