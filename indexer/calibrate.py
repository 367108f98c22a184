"""Owns what a cosine means in one space: how probable it is that a pair shows the same animal.

`p_same` is about a pair that was *suggested*: among the pairs of a query and a candidate that came
before a person with this score, the share that was the same animal. It says nothing about a pair
taken at random, whose chance is far smaller, and it moves with what is suggested: a catalogue that
grows brings closer strangers. `p_new` is about a query: among those whose best candidate scored so,
the share of individuals that the catalogue did not have.

Both curves are monotone: a higher score never makes "same" less probable, nor "new" more. Neither
says 0 or 1: with N pairs, none of them an exception, the next one may be (Platt, 1999: at most
(N + 1) / (N + 2) of either kind).

Every measured number is from pairs that the fit had not seen, whole encounters left out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any, Final, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from sqlalchemy.orm import Session

from db.queries import calibrations
from db.queries.calibrations import CalibrationRow
from indexer.reindex_report import wilson

Json = dict[str, Any]
Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
Codes = NDArray[np.int64]
Method = Literal["logistic", "isotonic"]

ENOUGH: Final = 50
"""Pairs of each kind without which nothing is stated: a reliability bin of ten would hold ten."""
FOLDS: Final = 10
BINS: Final = 10
RATES: Final = (0.1, 0.05, 0.02, 0.01, 0.005, 0.001, 0.0001)
"""False-match rates for which thresholds are stored; any other is asked of `Calibrated`."""

_STEPS = 1_000
"""Scores are counted, and thresholds stated, in thousandths: as finely as scores are shown."""
_NEWTON_STEPS = 50
_SEED = 16
_CACHED = 16


# ---------------------------------------------------------------- curves


class Curve(Protocol):
    """A non-decreasing probability of a score."""

    def values(self, scores: Floats) -> Floats:
        """float64 (n,) of scores (n,), strictly between 0 and 1."""
        ...

    def as_json(self) -> Json:
        """What `curve_from` makes it of again."""
        ...


@dataclass(frozen=True, slots=True)
class Logistic:
    """1 / (1 + exp(-(slope · score + intercept))) between `low` and `high`; slope ≥ 0."""

    slope: float
    intercept: float
    low: float
    high: float

    def values(self, scores: Floats) -> Floats:
        return np.clip(_sigmoid(self.slope * scores + self.intercept), self.low, self.high)

    def as_json(self) -> Json:
        return {"method": "logistic"} | asdict(self)


@dataclass(frozen=True, slots=True)
class Isotonic:
    """Straight lines between knots, both ascending; level beyond the first and the last."""

    scores: tuple[float, ...]
    probabilities: tuple[float, ...]

    def values(self, scores: Floats) -> Floats:
        x, y = np.array(self.scores), np.array(self.probabilities)
        if len(x) == 1:
            return np.full(len(scores), y[0])
        left = np.clip(np.searchsorted(x, scores, side="right") - 1, 0, len(x) - 2)
        share = np.clip((scores - x[left]) / (x[left + 1] - x[left]), 0.0, 1.0)
        # Rounding must not lift the end of one line above the start of the next.
        lines: Floats = np.minimum(y[left] + (y[left + 1] - y[left]) * share, y[left + 1])
        return lines

    def as_json(self) -> Json:
        return {"method": "isotonic"} | asdict(self)


def curve_from(stored: Json) -> Logistic | Isotonic:
    """The curve that `as_json` wrote."""
    if stored["method"] == "isotonic":
        return Isotonic(tuple(stored["scores"]), tuple(stored["probabilities"]))
    return Logistic(**{name: float(stored[name]) for name in ("slope", "intercept", "low", "high")})


def _sigmoid(x: Floats) -> Floats:
    small = np.exp(-np.abs(x))
    return np.where(x >= 0, 1.0, small) / (1.0 + small)


def _bounds(same: Flags) -> tuple[float, float]:
    """The least and the most probable that so many pairs of each kind allow (Platt, 1999)."""
    yes, no = int(same.sum()), int((~same).sum())
    return 1.0 / (no + 2), (yes + 1.0) / (yes + 2)


def fit_logistic(scores: Floats, same: Flags) -> Logistic:
    """Platt (1999) with his targets in place of 0 and 1, by Newton's method with halved steps
    (Lin, Lin and Weng, 2007). A slope that would fall is level."""
    low, high = _bounds(same)
    target = np.where(same, high, low)
    middle, spread = float(scores.mean()), float(scores.std()) or 1.0
    x = np.stack([(scores - middle) / spread, np.ones(len(scores))], axis=1)

    def loss(weights: Floats) -> float:
        z = x @ weights
        return float(np.sum(np.logaddexp(0.0, z) - target * z))

    level = float(target.mean())
    flat = np.array([0.0, math.log(level / (1 - level))])
    weights = flat
    for _ in range(_NEWTON_STEPS):
        p = _sigmoid(x @ weights)
        slope = x.T @ (p - target)
        curvature = (x * (p * (1 - p))[:, None]).T @ x + 1e-9 * np.eye(2)
        step = np.linalg.solve(curvature, slope)
        size = 1.0
        while size > 1e-6 and loss(weights - size * step) > loss(weights):
            size /= 2
        weights = weights - size * step
        if np.abs(size * step).max() < 1e-9:
            break
    if weights[0] < 0:
        weights = flat
    a = float(weights[0]) / spread
    return Logistic(a, float(weights[1]) - a * middle, low, high)


def pool_adjacent_violators(values: Floats, weights: Floats) -> Floats:
    """The non-decreasing float64 (n,) nearest to `values` by weighted squares (Ayer et al., 1955):
    neighbours that fall are pooled into their mean until none do."""
    pooled: list[tuple[float, float, int]] = []
    for value, weight in zip(values.tolist(), weights.tolist(), strict=True):
        mean, mass, count = value, weight, 1
        while pooled and pooled[-1][0] >= mean:
            before, before_mass, before_count = pooled.pop()
            mean = (before * before_mass + mean * mass) / (before_mass + mass)
            mass, count = before_mass + mass, before_count + count
        pooled.append((mean, mass, count))
    return np.repeat([mean for mean, _, _ in pooled], [count for _, _, count in pooled])


def fit_isotonic(scores: Floats, same: Flags) -> Isotonic:
    """Pooled shares of "same", each at the mean score of its pool, joined by straight lines.

    One imagined pair of the other kind lies at each end. So the highest pool of n pairs, all the
    same, says n / (n + 1) and not 1."""
    every = np.concatenate([scores, [scores.min(), scores.max()]])
    truth = np.concatenate([same.astype(np.float64), [1.0, 0.0]])
    at, inverse, counts = np.unique(every, return_inverse=True, return_counts=True)
    weights = counts.astype(np.float64)
    fitted = pool_adjacent_violators(np.bincount(inverse, truth) / weights, weights)
    knots, pool = np.unique(fitted, return_inverse=True)
    centre = np.bincount(pool, weights * at) / np.bincount(pool, weights)
    low, high = _bounds(same)
    return Isotonic(tuple(centre.tolist()), tuple(np.clip(knots, low, high).tolist()))


FITS: Final[dict[Method, Callable[[Floats, Flags], Logistic | Isotonic]]] = {
    "logistic": fit_logistic,
    "isotonic": fit_isotonic,
}


# ---------------------------------------------------------------- what is measured


@dataclass(frozen=True, slots=True, eq=False)
class Evidence:
    """n pairs whose truth is known: `scores` float64 (n,) cosines, `same` bool (n,), and
    `encounters` int64 (n,): equal numbers are left out together. `source` says where from."""

    scores: Floats
    same: Flags
    encounters: Codes
    source: Literal["verdicts", "catalogue"]
    implied: int = 0
    """Of the different ones, those that nobody called different in so many words."""

    @property
    def yes(self) -> int:
        return int(self.same.sum())

    @property
    def no(self) -> int:
        return len(self.same) - self.yes

    @property
    def enough(self) -> bool:
        """Whether there are `ENOUGH` of each kind, and encounters to leave out."""
        return min(self.yes, self.no) >= ENOUGH and len(np.unique(self.encounters)) > 1

    def by_score(self) -> Evidence:
        """The same in an order that knows nothing of the truth: bins part pairs of equal
        probability in it."""
        order = np.lexsort((self.encounters, self.scores))
        return replace(
            self,
            scores=self.scores[order],
            same=self.same[order],
            encounters=self.encounters[order],
        )


@dataclass(frozen=True, slots=True)
class Bin:
    """Of `n` pairs, `same` were; `predicted` is their mean probability, `ci95` Wilson's interval
    of the share `observed`. Pairs of one query are counted as if they knew nothing of each other.
    """

    n: int
    same: int
    low: float
    high: float
    predicted: float
    observed: float
    ci95: tuple[float, float]


def reliability(predicted: Floats, same: Flags, bins: int = BINS) -> tuple[Bin, ...]:
    """Bins of equal mass, least probable first; of equal probabilities the order is that given."""
    order = np.argsort(predicted, kind="stable")
    return tuple(
        _bin(predicted[part], same[part])
        for part in np.array_split(order, min(bins, len(order)))
        if len(part)
    )


def _bin(predicted: Floats, same: Flags) -> Bin:
    n, yes = len(same), int(same.sum())
    return Bin(
        n=n,
        same=yes,
        low=float(predicted.min()),
        high=float(predicted.max()),
        predicted=float(predicted.mean()),
        observed=yes / n,
        ci95=wilson(yes, n),
    )


def calibration_error(bins: Sequence[Bin]) -> float:
    """Expected calibration error (Guo et al., 2017) over the bins given, weighted by their n."""
    n = sum(one.n for one in bins)
    return sum(one.n * abs(one.observed - one.predicted) for one in bins) / n


def error_by_chance(bins: Sequence[Bin]) -> float:
    """The calibration error that probabilities which are exactly right would show in bins of this
    size: the mean of |share - p| over binomial samples, by the normal approximation."""
    n = sum(one.n for one in bins)
    spread = (one.n * math.sqrt(one.predicted * (1 - one.predicted) / one.n) for one in bins)
    return math.sqrt(2 / math.pi) * sum(spread) / n


def brier(predicted: Floats, same: Flags) -> float:
    """Mean squared difference of probability and truth (Brier, 1950)."""
    return float(np.mean((predicted - same) ** 2))


def held_out(evidence: Evidence, method: Method, folds: int = FOLDS) -> Floats:
    """float64 (n,): the probability of each pair by a fit on the pairs of other encounters."""
    groups, code = np.unique(evidence.encounters, return_inverse=True)
    folds = min(folds, len(groups))
    part = np.random.default_rng(_SEED).permutation(len(groups))[code] % folds
    predicted = np.empty(len(code))
    for fold in range(folds):
        asked, known = part == fold, part != fold
        curve = FITS[method](evidence.scores[known], evidence.same[known])
        predicted[asked] = curve.values(evidence.scores[asked])
    return predicted


@dataclass(frozen=True, slots=True, eq=False)
class FittedCurve:
    """The curve of everything, and what the fits on all but one fold measured."""

    curve: Logistic | Isotonic
    report: Json


def fit_curve(evidence: Evidence) -> FittedCurve:
    """The logistic curve, or the isotonic one where that has both the smaller calibration error and
    the smaller Brier score on held-out pairs: one calibration error can be smaller by luck, and a
    curve that learns more from the same pairs is the more often lucky. Fitted on everything.

    Raises:
        ValueError: fewer than `ENOUGH` pairs of a kind, or all of one encounter.
    """
    if not evidence.enough:
        raise ValueError(
            f"a curve needs {ENOUGH} pairs of each kind from several encounters, got "
            f"{evidence.yes} and {evidence.no}"
        )
    evidence = evidence.by_score()
    predicted = {method: held_out(evidence, method) for method in FITS}
    measured = {name: _measured(p, evidence.same) for name, p in predicted.items()}
    method: Method = "logistic"
    if all(measured["isotonic"][what] < measured[method][what] for what in ("ece", "brier")):
        method = "isotonic"
    bins = reliability(predicted[method], evidence.same)
    report = {
        "source": evidence.source,
        "n": len(evidence.same),
        "yes": evidence.yes,
        "no": evidence.no,
        "implied": evidence.implied,
        "encounters": len(np.unique(evidence.encounters)),
        "method": method,
        "folds": min(FOLDS, len(np.unique(evidence.encounters))),
        **measured[method],
        "ece_by_chance": round(error_by_chance(bins), 4),
        "measured": measured
        | {"cosine": _measured(np.clip(evidence.scores, 0.0, 1.0), evidence.same)},
        "bins": [asdict(one) for one in bins],
    }
    return FittedCurve(FITS[method](evidence.scores, evidence.same), report)


def _measured(predicted: Floats, same: Flags) -> Json:
    return {
        "ece": round(calibration_error(reliability(predicted, same)), 4),
        "brier": round(brier(predicted, same), 4),
    }


# ---------------------------------------------------------------- thresholds


@dataclass(frozen=True, slots=True)
class Threshold:
    """The smallest score (a thousandth) from which on a pair of different animals is let through
    at the wanted rate: k of n were, and (k + 1) / (n + 1) is no more than `rate`, so that the next
    different pair is let through with no greater chance. `score` is None where no score does, or
    where there are fewer than `needed` different pairs and the rate cannot be told."""

    rate: float
    score: float | None
    needed: int
    different: int
    different_above: int
    different_ci95: tuple[float, float] | None
    same: int
    same_above: int
    same_ci95: tuple[float, float] | None


@dataclass(frozen=True, slots=True, eq=False)
class ScoreCounts:
    """How many pairs have each score in thousandths: `same` and `different` int64 (2001,), from -1
    to 1."""

    same: Codes
    different: Codes

    @classmethod
    def of(cls, evidence: Evidence) -> ScoreCounts:
        at = np.floor(evidence.scores * _STEPS + 1e-9).astype(np.int64) + _STEPS
        at = np.clip(at, 0, 2 * _STEPS)
        same, different = (
            np.bincount(at[chosen], minlength=2 * _STEPS + 1)
            for chosen in (evidence.same, ~evidence.same)
        )
        return cls(same, different)

    @classmethod
    def from_json(cls, stored: Json) -> ScoreCounts:
        return cls(*(_unpacked(stored[kind]) for kind in ("same", "different")))

    def as_json(self) -> Json:
        return {"same": _packed(self.same), "different": _packed(self.different)}

    def threshold(self, rate: float) -> Threshold:
        """Raises:
        ValueError: the rate is not between 0 and 1.
        """
        if not 0.0 < rate < 1.0:
            raise ValueError(f"a false-match rate lies between 0 and 1, got {rate}")
        n, yes = int(self.different.sum()), int(self.same.sum())
        needed = math.ceil(1 / rate - 1e-9) - 1
        above = np.cumsum(self.different[::-1])[::-1]
        fits = np.flatnonzero((above + 1) / (n + 1) <= rate * (1 + 1e-12))
        if n < needed or not len(fits):
            return Threshold(rate, None, needed, n, 0, None, yes, 0, None)
        at = int(fits[0])
        let, kept = int(above[at]), int(self.same[at:].sum())
        score = (at - _STEPS) / _STEPS
        ci_let, ci_kept = wilson(let, n), wilson(kept, yes)
        return Threshold(rate, score, needed, n, let, ci_let, yes, kept, ci_kept)

    def histogram(self, bins: int = 50) -> Json:
        """Both kinds in the same bins of equal width, between the least and the greatest score."""
        there = np.flatnonzero(self.same + self.different)
        first, last = int(there[0]), int(there[-1]) + 1
        edges = np.unique(np.linspace(first, last, bins + 1).round().astype(np.int64))
        return {
            "edges": ((edges - _STEPS) / _STEPS).tolist(),
            "same": np.add.reduceat(self.same[:last], edges[:-1]).tolist(),
            "different": np.add.reduceat(self.different[:last], edges[:-1]).tolist(),
        }


def _packed(counts: Codes) -> Json:
    there = np.flatnonzero(counts)
    first, last = (int(there[0]), int(there[-1]) + 1) if len(there) else (0, 0)
    return {"first": first, "counts": counts[first:last].tolist()}


def _unpacked(stored: Json) -> Codes:
    counts = np.zeros(2 * _STEPS + 1, dtype=np.int64)
    counts[stored["first"] : stored["first"] + len(stored["counts"])] = stored["counts"]
    return counts


# ---------------------------------------------------------------- a space's calibration


@dataclass(frozen=True, slots=True, eq=False)
class Calibrated:
    """The calibration of one space; its probabilities and thresholds mean nothing in another."""

    id: int
    model_id: int
    fitted_by: str
    fitted_at: datetime
    pair: Curve
    known: Curve | None
    counts: ScoreCounts
    report: Json

    @classmethod
    def of(cls, row: CalibrationRow) -> Calibrated:
        known = row.params["known"]
        return cls(
            id=row.id,
            model_id=row.model_id,
            fitted_by=row.fitted_by,
            fitted_at=row.created_at,
            pair=curve_from(row.params["pair"]),
            known=curve_from(known) if known is not None else None,
            counts=ScoreCounts.from_json(row.params["counts"]),
            report=row.report,
        )

    def p_same(self, score: float | None) -> float | None:
        """How probable it is that a suggested pair with this cosine is the same animal."""
        return None if score is None else _at(self.pair, score)

    def p_new(self, best_score: float | None) -> float | None:
        """How probable it is that a query whose best candidate has this cosine is of an individual
        that the catalogue does not have; None where that could not be fitted."""
        if best_score is None or self.known is None:
            return None
        return round(1.0 - _at(self.known, best_score), 4)

    def threshold(self, rate: float) -> Threshold:
        """From which score on at most this share of different pairs is let through.

        Raises:
            ValueError: the rate is not between 0 and 1.
        """
        return self.counts.threshold(rate)

    def thresholds(self, rates: Iterable[float] = RATES) -> tuple[Threshold, ...]:
        return tuple(self.threshold(rate) for rate in rates)

    def drawn(self, points: int = 101) -> list[tuple[float, float]]:
        """(score, probability) of the curve, evenly between the least and the greatest score."""
        edges = self.counts.histogram()["edges"]
        scores = np.linspace(edges[0], edges[-1], points)
        return list(zip(scores.tolist(), self.pair.values(scores).tolist(), strict=True))


def _at(curve: Curve, score: float) -> float:
    return round(float(curve.values(np.array([score], dtype=np.float64))[0]), 4)


def fit(pair: Evidence, known: Evidence | None) -> tuple[Json, Json]:
    """(params, report) of a calibration: of pairs, and of queries where there are enough of those.

    Raises:
        ValueError: there are not enough pairs.
    """
    pairs = fit_curve(pair)
    queries = fit_curve(known) if known is not None else None
    params = {
        "pair": pairs.curve.as_json(),
        "known": queries.curve.as_json() if queries else None,
        "counts": ScoreCounts.of(pair).as_json(),
    }
    return params, {"pair": pairs.report, "known": queries.report if queries else None}


_read: dict[int, Calibrated] = {}


def calibration_of(session: Session, model_id: int) -> Calibrated | None:
    """The newest calibration of a space, or None: "not enough verdicts yet".

    One look at an index for each call; what was read stays read."""
    newest = calibrations.newest_key(session, model_id)
    if newest is None:
        return None
    number, at = newest
    known = _read.get(number)
    if known is not None and (known.fitted_at, known.model_id) == (at, model_id):
        return known
    row = calibrations.newest(session, model_id)
    if row is None:
        return None
    if len(_read) >= _CACHED:
        _read.clear()
    found = _read[row.id] = Calibrated.of(row)
    return found
