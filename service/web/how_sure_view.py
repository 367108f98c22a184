"""What the page "How sure?" draws: a calibration turned into sentences, points and bars."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from service.calibration_schemas import (
    BinOut,
    CalibrationOut,
    CurveOut,
    HowSure,
    ScoresOut,
    ThresholdOut,
)
from service.web.figures import moment, number, percent
from service.web.words import gettext, lazy, ngettext

PLOT = 260
LEFT, TOP = 60, 10
"""Side of the square plot and where it begins, in the drawing's own units."""

METHODS = {
    "logistic": lazy("logistic curve"),
    "isotonic": lazy("isotonic curve"),
}


@dataclass(frozen=True, slots=True)
class Fact:
    term: str
    value: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class Point:
    """A bin of the reliability plot: its middle and the ends of its interval; y grows downwards."""

    x: float
    y: float
    top: float
    bottom: float
    said: str
    was: str
    interval: str
    counts: str


@dataclass(frozen=True, slots=True)
class Tick:
    """`at` in the drawing's own units, or in per cent of the width."""

    at: float
    label: str


@dataclass(frozen=True, slots=True)
class Bar:
    """In per cent of the drawing's width and height; y grows downwards."""

    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True, slots=True)
class ScoresView:
    """Bars of both kinds in one scale, the curve as points of a polyline, ticks of the axis."""

    same: tuple[Bar, ...]
    different: tuple[Bar, ...]
    line: str
    ticks: tuple[Tick, ...]
    label: str


@dataclass(frozen=True, slots=True)
class ThresholdView:
    rate: str
    score: str
    different: str
    different_range: str
    same: str
    same_range: str
    missing: str


@dataclass(frozen=True, slots=True)
class FittedView:
    lead: str
    meaning: str
    facts: tuple[Fact, ...]
    points: tuple[Point, ...]
    plot_label: str
    ticks: tuple[Tick, ...]
    scores: ScoresView
    thresholds: tuple[ThresholdView, ...]


@dataclass(frozen=True, slots=True)
class Missing:
    """How many verdicts of one kind there are, of those that are wanted."""

    label: str
    told: str
    share: float


@dataclass(frozen=True, slots=True)
class HowSureView:
    """`fitted` is None while there are not enough verdicts; `missing` says how many there are."""

    space: str
    fitted: FittedView | None
    missing: tuple[Missing, ...]
    since: str


def present_how_sure(found: HowSure) -> HowSureView:
    """The page of a space."""
    told = found.verdicts
    return HowSureView(
        space=f"{found.space.name} {found.space.version}",
        fitted=_fitted(found.calibration) if found.calibration else None,
        missing=(
            _missing(gettext("Judged the same animal"), told.same, told.wanted),
            _missing(gettext("Judged different animals"), told.different, told.wanted),
        ),
        since=gettext(
            "By now people judged %(same)s pairs the same animal and %(different)s different ones.",
            same=number(told.same),
            different=number(told.different),
        ),
    )


def _missing(label: str, there: int, wanted: int) -> Missing:
    told = gettext("%(there)s of %(wanted)s", there=number(there), wanted=number(wanted))
    return Missing(label, told, min(1.0, there / wanted))


def _fitted(fitted: CalibrationOut) -> FittedView:
    return FittedView(
        lead=_lead(fitted),
        meaning=_meaning(fitted.pair),
        facts=_facts(fitted),
        points=tuple(_point(one) for one in fitted.pair.bins),
        plot_label=_plot_label(fitted.pair),
        ticks=tuple(Tick(share * PLOT, percent(share)) for share in (0.0, 0.25, 0.5, 0.75, 1.0)),
        scores=_scores(fitted.scores, fitted.curve),
        thresholds=tuple(_threshold(one) for one in fitted.thresholds),
    )


# ---------------------------------------------------------------- sentences


def _lead(fitted: CalibrationOut) -> str:
    pair = fitted.pair
    if pair.source == "verdicts":
        text = gettext(
            "Fitted on what people judged: %(same)s pairs of the same animal and %(different)s of "
            "different ones, from %(encounters)s."
        )
    else:
        text = gettext(
            "There are not enough verdicts yet, so this was fitted on the catalogue itself: "
            "%(same)s pairs of the same animal and %(different)s of different ones, from "
            "%(encounters)s."
        )
    return text % {
        "same": number(pair.counts["same"]),
        "different": number(pair.counts["different"]),
        "encounters": _encounters(pair.encounters),
    }


def _encounters(count: int) -> str:
    return ngettext("%(num)d encounter", "%(num)d encounters", count)


def _meaning(pair: CurveOut) -> str:
    if pair.source == "verdicts":
        return gettext(
            "A probability is the share of pairs with about this score that turned out to be the "
            "same animal when somebody judged them. It is about suggested pairs, not about any two "
            "photos, and it holds for this model alone."
        )
    return gettext(
        "Every encounter of an animal that was met again asked who it is, once as itself and once "
        "as a stranger. Where fewer of your animals are new than every second one, a match is more "
        "probable than stated here. It holds for this model alone."
    )


def _facts(fitted: CalibrationOut) -> tuple[Fact, ...]:
    pair, query = fitted.pair, fitted.query
    facts = [
        Fact(
            gettext("Fitted"),
            gettext("%(when)s by %(name)s", when=moment(fitted.fitted_at), name=fitted.fitted_by),
        ),
        Fact(
            gettext("Calibration error"),
            percent(pair.ece, 1),
            gettext(
                "by chance alone it would be %(chance)s; of the score itself it is %(cosine)s",
                chance=percent(pair.ece_by_chance, 1),
                cosine=percent(pair.measured["cosine"].ece, 1),
            ),
        ),
        Fact(
            gettext("Brier score"),
            number(pair.brier, 3),
            gettext(
                "of the score itself %(brier)s", brier=number(pair.measured["cosine"].brier, 3)
            ),
        ),
        Fact(
            gettext("Method"),
            str(METHODS[pair.method]),
            gettext("measured on encounters that the fit had not seen"),
        ),
    ]
    if pair.implied:
        facts.append(
            Fact(
                gettext("Passed over"),
                number(pair.implied),
                gettext("different ones that nobody rejected in words: a lower one was confirmed"),
            )
        )
    facts.append(_new_fact(query))
    return tuple(facts)


def _new_fact(query: CurveOut | None) -> Fact:
    term = gettext("New individuals")
    if query is None:
        return Fact(term, gettext("not stated"), gettext("too few queries were decided as new"))
    value = gettext(
        "from %(known)s known and %(new)s new ones",
        known=number(query.counts["known"]),
        new=number(query.counts["new"]),
    )
    source = (
        gettext("as people decided") if query.source == "verdicts" else gettext("of the catalogue")
    )
    note = gettext(
        "%(source)s; calibration error %(ece)s", source=source, ece=percent(query.ece, 1)
    )
    return Fact(term, value, note)


# ---------------------------------------------------------------- drawings


def _point(one: BinOut) -> Point:
    low, high = one.ci95
    return Point(
        x=round(LEFT + one.predicted * PLOT, 1),
        y=_down(one.observed),
        top=_down(high),
        bottom=_down(low),
        said=percent(one.predicted, 1),
        was=percent(one.observed, 1),
        interval=gettext("%(low)s to %(high)s", low=percent(low), high=percent(high)),
        counts=gettext("%(part)s of %(all)s", part=number(one.positive), all=number(one.n)),
    )


def _down(share: float) -> float:
    return round(TOP + (1 - share) * PLOT, 1)


def _plot_label(pair: CurveOut) -> str:
    return gettext(
        "Stated probability against the share that came true, in %(bins)s groups; the mean gap is "
        "%(ece)s",
        bins=len(pair.bins),
        ece=percent(pair.ece, 1),
    )


def _scores(scores: ScoresOut, curve: Sequence[tuple[float, float]]) -> ScoresView:
    low, high = scores.edges[0], scores.edges[-1]

    def across(score: float) -> float:
        return round((score - low) / (high - low) * 100, 2)

    tallest = max(1, *scores.same, *scores.different)
    places = [(across(a), across(b)) for a, b in zip(scores.edges, scores.edges[1:], strict=False)]
    half = next((score for score, share in curve if share >= 0.5), None)
    label = gettext("How many pairs have which score, and how probable the same animal is at each")
    if half is not None:
        label = gettext(
            "How many pairs have which score; from a score of %(score)s on the same animal is more "
            "probable than not",
            score=number(half, 2),
        )
    return ScoresView(
        same=_bars(scores.same, places, tallest),
        different=_bars(scores.different, places, tallest),
        line=" ".join(f"{across(x)},{round((1 - y) * 100, 2)}" for x, y in curve),
        ticks=_score_ticks(low, high, across),
        label=label,
    )


def _bars(
    counts: Sequence[int], places: Sequence[tuple[float, float]], tallest: int
) -> tuple[Bar, ...]:
    bars = []
    for count, (left, right) in zip(counts, places, strict=True):
        if count:
            height = max(0.6, round(count / tallest * 100, 2))
            bars.append(Bar(left, round(100 - height, 2), round(right - left, 2), height))
    return tuple(bars)


def _score_ticks(low: float, high: float, across: Callable[[float], float]) -> tuple[Tick, ...]:
    """Round scores inside the axis, four to nine of them, none so near an end that it is cut."""
    step = next(step for step in (0.05, 0.1, 0.2, 0.5) if (high - low) / step <= 9)
    first, last = int(low / step) - 1, int(high / step) + 1
    ticks = [(n * step, across(n * step)) for n in range(first, last + 1)]
    return tuple(Tick(at, number(score, 2)) for score, at in ticks if 3 <= at <= 97)


def _threshold(one: ThresholdOut) -> ThresholdView:
    rate = percent(one.false_match_rate, _digits(one.false_match_rate))
    if one.score is None:
        return ThresholdView(rate, "–", "", "", "", "", _why_none(one))
    return ThresholdView(
        rate=rate,
        score=number(one.score, 3),
        different=_share(one.different_above, one.different),
        different_range=_range(one.different_ci95),
        same=_share(one.same_above, one.same),
        same_range=_range(one.same_ci95),
        missing="",
    )


def _why_none(one: ThresholdOut) -> str:
    if one.different < one.needed:
        return gettext(
            "needs %(needed)s pairs of different animals, there are %(there)s",
            needed=number(one.needed),
            there=number(one.different),
        )
    return gettext("no score is high enough")


def _digits(rate: float) -> int:
    return 0 if rate >= 0.01 else 1 if rate >= 0.001 else 2


def _share(part: int, of: int) -> str:
    return gettext("%(part)s of %(all)s", part=number(part), all=number(of))


def _range(interval: tuple[float, float] | None) -> str:
    if interval is None:
        return ""
    low, high = interval
    return gettext("%(low)s to %(high)s", low=percent(low, 1), high=percent(high, 1))
