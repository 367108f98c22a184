"""Owns which photos are one encounter: those that were taken without a long pause between them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

Span = tuple[datetime, datetime]


def group_by_time(
    times: Sequence[datetime | None], gap: timedelta, *, together: bool = False
) -> list[list[int]]:
    """Positions of photos in groups: a new one begins where more than `gap` lies between two.

    Groups come in order of time, and the positions in one too (at the same moment, as given); the
    photos without a time follow, each alone, or with `together` as one group. Every position is in
    exactly one group.
    """
    timed = sorted((time, position) for position, time in enumerate(times) if time is not None)
    groups: list[list[int]] = []
    last: datetime | None = None
    for time, position in timed:
        if last is None or time - last > gap:
            groups.append([])
        groups[-1].append(position)
        last = time
    timeless = [position for position, time in enumerate(times) if time is None]
    if together:
        return groups + ([timeless] if timeless else [])
    return groups + [[position] for position in timeless]


def span_of(times: Sequence[datetime | None]) -> Span | None:
    """From the first to the last time; None where nothing has one."""
    known = [time for time in times if time is not None]
    return (min(known), max(known)) if known else None


def is_near(span: Span, other: Span, gap: timedelta) -> bool:
    """Whether no more than `gap` lies between the two; those that overlap are near."""
    return span[0] - other[1] <= gap and other[0] - span[1] <= gap
