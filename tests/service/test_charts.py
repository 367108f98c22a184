"""Encounters along a line of time and on a map: what is drawn where."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from service.web.charts import LEAST_HEIGHT, MAP_RATIO, Moment, Place, map_of, position, timeline

FIRST = datetime(2019, 3, 4, tzinfo=UTC)


def moments(*days: int) -> list[Moment]:
    return [Moment(FIRST + timedelta(days=day), f"/{day}", "Bay") for day in days]


def places(*positions: tuple[float, float]) -> list[Place]:
    return [Place(latitude, longitude, "/", "Bay") for latitude, longitude in positions]


def numbers(view_box: str) -> list[float]:
    return [float(part) for part in view_box.split()]


def test_nothing_to_draw() -> None:
    assert timeline([]) is None
    assert map_of([]) is None


def test_one_moment_stands_in_the_middle() -> None:
    drawn = timeline(moments(0))
    assert drawn is not None
    assert [dot.x for dot in drawn.dots] == ["50.00%"]
    assert drawn.span == "1 encounter, 4 Mar 2019"
    assert drawn.ticks


@pytest.mark.parametrize("days", [10, 100, 700, 3000, 20_000])
def test_a_handful_of_ticks_whatever_the_span(days: int) -> None:
    drawn = timeline(moments(0, days))
    assert drawn is not None
    assert 2 <= len(drawn.ticks) <= 10
    assert all(0 <= float(tick.x.rstrip("%")) <= 100 for tick in drawn.ticks)
    assert 2 <= sum(not tick.minor for tick in drawn.ticks) <= 5


def test_close_moments_stand_on_top_of_each_other_and_the_last_says_how_many_more() -> None:
    drawn = timeline(moments(*range(9), 3000))
    assert drawn is not None
    stack = [dot for dot in drawn.dots if dot.x == drawn.dots[0].x]
    assert len(stack) == 6
    assert len({dot.y for dot in stack}) == 6
    assert (stack[-1].more, stack[-1].label) == (3, "9 Mar 2019, and 3 more")


def test_a_map_of_one_place_shows_its_surroundings() -> None:
    drawn = map_of(places((36.6, -121.9)))
    assert drawn is not None
    x, y, width, height = numbers(drawn.view_box)
    assert height == pytest.approx(LEAST_HEIGHT)
    assert width / height == pytest.approx(MAP_RATIO, abs=1e-3)
    assert y < -36.6 < y + height
    assert x < -121.9 * drawn.stretch < x + width
    assert drawn.label == "36.6000° N, 121.9000° W"


def test_a_map_astride_the_date_line_stays_together() -> None:
    drawn = map_of(places((-17.0, 179.5), (-18.0, -179.0)))
    assert drawn is not None
    _, _, width, _ = numbers(drawn.view_box)
    assert width < 10
    assert {0.0, 360.0} <= set(drawn.turns)


def test_a_map_of_the_whole_world_is_no_larger_than_that() -> None:
    drawn = map_of(places((80, -170), (-70, -60), (0, 60), (10, 170)))
    assert drawn is not None
    _, y, width, height = numbers(drawn.view_box)
    assert height <= 180
    assert width <= 360
    assert y >= -90


def test_encounters_at_one_position_are_one_spot() -> None:
    drawn = map_of(places((1, 2), (1, 2), (3, 4)))
    assert drawn is not None
    assert [(spot.count, spot.label) for spot in drawn.spots] == [
        (2, "Bay, and 1 more here"),
        (1, "Bay"),
    ]


def test_positions_are_written_with_their_hemispheres() -> None:
    assert position(-36.5, 174.75) == "36.5000° S, 174.7500° E"
