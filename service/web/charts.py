"""Geometry of the small drawings: encounters along a line of time, and their positions on a map.

Drawings of time are in per cent of their width and in pixels of their height, so that text keeps
its size on every screen. Maps are equirectangular, true to shape at their middle.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from babel.dates import format_skeleton

from service.web import figures
from service.web.words import gettext, locale, ngettext

# ---------------------------------------------------------------------------------------- time


@dataclass(frozen=True, slots=True)
class Moment:
    """Something that happened: when, where its page is, and what it is called."""

    at: datetime
    url: str
    label: str


@dataclass(frozen=True, slots=True)
class Dot:
    """`x` in per cent of the width, `y` in pixels from the top; `more` others lie under it."""

    x: str
    y: int
    url: str
    label: str
    more: int = 0


@dataclass(frozen=True, slots=True)
class Tick:
    """`anchor` keeps the label inside the drawing; a `minor` label gives way where it is narrow."""

    x: str
    label: str
    anchor: str
    minor: bool


@dataclass(frozen=True, slots=True)
class TimelineView:
    dots: tuple[Dot, ...]
    ticks: tuple[Tick, ...]
    height: int
    axis_y: int
    span: str


COLUMNS = 64
"""Encounters closer than this part of the line stand on top of each other."""
STACK = 6
DOT_PX = 12
LABEL_PX = 26
MAX_TICKS = 8
NARROW_TICKS = 4
"""Labels for which a phone has room."""
YEAR_STEPS = (1, 2, 5, 10, 20, 50)
DAY = timedelta(days=1)


def timeline(moments: Sequence[Moment]) -> TimelineView | None:
    """The moments along a line; None where there are none."""
    if not moments:
        return None
    ordered = sorted(moments, key=lambda moment: moment.at)
    first, last = ordered[0].at, ordered[-1].at
    margin = max((last - first) * 0.02, timedelta(days=15) if last - first < DAY else DAY)
    start, end = first - margin, last + margin

    def share(at: datetime) -> float:
        return (at - start) / (end - start)

    columns: dict[int, list[Moment]] = {}
    for moment in ordered:
        columns.setdefault(int(share(moment.at) * COLUMNS), []).append(moment)
    tallest = min(STACK, max(len(column) for column in columns.values()))
    axis_y = 8 + tallest * DOT_PX
    dots = [
        _dot(column, position, share(column[0].at), axis_y)
        for column in columns.values()
        for position in range(min(len(column), STACK))
    ]
    found = list(_ticks(start, end))
    apart = math.ceil(len(found) / NARROW_TICKS)
    ticks = [
        Tick(f"{100 * share(at):.2f}%", label, _anchor(share(at)), number % apart > 0)
        for number, (at, label) in enumerate(found)
    ]
    return TimelineView(
        tuple(dots), tuple(ticks), axis_y + LABEL_PX, axis_y, _span(first, last, len(moments))
    )


def _dot(column: Sequence[Moment], position: int, share: float, axis_y: int) -> Dot:
    moment = column[position]
    more = len(column) - STACK if position == STACK - 1 else 0
    label = f"{figures.day(moment.at)} · {moment.label}" if moment.label else figures.day(moment.at)
    if more > 0:
        label = ngettext(
            "%(day)s, and %(num)d more",
            "%(day)s, and %(num)d more",
            more,
            day=figures.day(moment.at),
        )
    return Dot(
        f"{100 * share:.2f}%", axis_y - 8 - position * DOT_PX, moment.url, label, max(0, more)
    )


def _anchor(share: float) -> str:
    return "start" if share < 0.06 else "end" if share > 0.94 else "middle"


def _span(first: datetime, last: datetime, count: int) -> str:
    if first.date() == last.date():
        return ngettext(
            "%(num)d encounter, %(day)s",
            "%(num)d encounters, %(day)s",
            count,
            day=figures.day(first),
        )
    return ngettext(
        "%(num)d encounter, %(first)s to %(last)s",
        "%(num)d encounters, %(first)s to %(last)s",
        count,
        first=figures.day(first),
        last=figures.day(last),
    )


def _ticks(start: datetime, end: datetime) -> Iterator[tuple[datetime, str]]:
    """Round moments inside, at most a handful: days, months or years."""
    days = (end - start).days
    if days <= 62:
        step = timedelta(days=max(1, math.ceil(days / MAX_TICKS)))
        at = datetime(start.year, start.month, start.day, tzinfo=UTC) + DAY
        while at <= end:
            yield at, str(format_skeleton("MMMd", at.date(), locale=locale()))
            at += step
    elif days <= 900:
        months = max(1, math.ceil(days / 30 / MAX_TICKS))
        number = start.year * 12 + start.month
        while (at := datetime(number // 12, number % 12 + 1, 1, tzinfo=UTC)) <= end:
            yield at, str(format_skeleton("yMMM", at.date(), locale=locale()))
            number += months
    else:
        step_years = next(
            (one for one in YEAR_STEPS if days / 365 / one <= MAX_TICKS), YEAR_STEPS[-1]
        )
        year = start.year + 1
        year += -year % step_years
        while (at := datetime(year, 1, 1, tzinfo=UTC)) <= end:
            yield at, str(year)
            year += step_years


# ---------------------------------------------------------------------------------------- maps


@dataclass(frozen=True, slots=True)
class Place:
    """A position in decimal degrees, and what is there."""

    latitude: float
    longitude: float
    url: str
    label: str


@dataclass(frozen=True, slots=True)
class Spot:
    """A point of the map in its own units; `path` draws it as a dot of constant size."""

    path: str
    url: str
    label: str
    count: int


@dataclass(frozen=True, slots=True)
class MapView:
    """`view_box` in degrees, x times `stretch`; the land is drawn once for each of `turns`, which
    are degrees of longitude."""

    view_box: str
    stretch: float
    turns: tuple[float, ...]
    spots: tuple[Spot, ...]
    label: str


MAP_RATIO = 16 / 9
LEAST_HEIGHT = 2.5
"""Degrees of latitude: closer, the coastline is too coarse to say where one is."""


def map_of(places: Sequence[Place]) -> MapView | None:
    """The map around all places; None where there are none."""
    if not places:
        return None
    west = _west(places)
    eastwards = [(place.longitude - west) % 360 + west for place in places]
    south, north = (f(place.latitude for place in places) for f in (min, max))
    middle = (south + north) / 2
    stretch = round(max(0.2, math.cos(math.radians(middle))), 4)
    left, right = min(eastwards) * stretch, max(eastwards) * stretch
    height = max(LEAST_HEIGHT, (north - south) * 1.3, (right - left) * 1.25 / MAP_RATIO)
    height = min(height, 180.0, 360 * stretch / MAP_RATIO)
    width = height * MAP_RATIO
    x = (left + right - width) / 2
    y = min(max(-middle - height / 2, -90.0), 90.0 - height)
    return MapView(
        view_box=f"{x:.4f} {y:.4f} {width:.4f} {height:.4f}",
        stretch=stretch,
        turns=tuple(
            turn
            for turn in (-360.0, 0.0, 360.0)
            if (turn - 180) * stretch < x + 2 * width and (turn + 180) * stretch > x - width
        ),
        spots=_spots(places, eastwards, stretch),
        label=_map_label(places),
    )


def world() -> MapView:
    """The whole map, to choose a position on."""
    return MapView(
        view_box="-180 -90 360 180",
        stretch=1.0,
        turns=(0.0,),
        spots=(),
        label=gettext("The whole world"),
    )


def _west(places: Sequence[Place]) -> float:
    """The longitude from which eastwards all places lie closest: a group astride the date line
    stays together."""
    ordered = sorted({place.longitude for place in places})
    gaps = [
        ((after - before) % 360 or 360.0, after)
        for before, after in zip(ordered, ordered[1:] + ordered[:1], strict=True)
    ]
    return max(gaps)[1]


def _spots(places: Sequence[Place], eastwards: Sequence[float], stretch: float) -> tuple[Spot, ...]:
    groups: dict[tuple[float, float], list[Place]] = {}
    for place, longitude in zip(places, eastwards, strict=True):
        key = (round(longitude * stretch, 4), round(-place.latitude, 4))
        groups.setdefault(key, []).append(place)
    return tuple(
        Spot(
            f"M{x} {y}h0",
            here[0].url,
            here[0].label
            if len(here) == 1
            else ngettext(
                "%(label)s, and %(num)d more here",
                "%(label)s, and %(num)d more here",
                len(here) - 1,
                label=here[0].label,
            ),
            len(here),
        )
        for (x, y), here in groups.items()
    )


def _map_label(places: Sequence[Place]) -> str:
    if len({(place.latitude, place.longitude) for place in places}) == 1:
        return position(places[0].latitude, places[0].longitude)
    return ngettext(
        "%(num)d encounter with a position", "%(num)d encounters with a position", len(places)
    )


def position(latitude: float, longitude: float) -> str:
    """`36.6180° N, 121.9020° W`."""
    north = gettext("%(degrees)s° N") if latitude >= 0 else gettext("%(degrees)s° S")
    east = gettext("%(degrees)s° E") if longitude >= 0 else gettext("%(degrees)s° W")
    return ", ".join(
        (
            north % {"degrees": figures.number(abs(latitude), 4)},
            east % {"degrees": figures.number(abs(longitude), 4)},
        )
    )
