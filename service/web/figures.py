"""Owns numbers, dates and spans of time as the reader's language writes them."""

from __future__ import annotations

from datetime import UTC, date, datetime

from babel.dates import format_skeleton
from babel.numbers import format_decimal, format_percent

from service.web.words import gettext, locale

MISSING = "–"


def number(value: float | None, digits: int | None = None) -> str:
    """`1,204`; `0.910` with three digits; a dash where there is nothing."""
    if value is None:
        return MISSING
    pattern = None if digits is None else "#,##0" + ("." + "0" * digits if digits else "")
    return str(format_decimal(value, format=pattern, locale=locale()))


def percent(share: float | None, digits: int = 0) -> str:
    """`87%` of a share of 0.87, `87.1%` with one digit; a dash where nothing was measured."""
    if share is None:
        return MISSING
    pattern = str(locale().percent_formats[None].pattern)
    if digits:
        pattern = pattern.replace("0", "0." + "0" * digits, 1)
    return str(format_percent(share, format=pattern, locale=locale()))


def sure(probability: float | None) -> str | None:
    """A calibrated probability, never a certainty: `97%`, `over 99%`; None where there is none."""
    if probability is None:
        return None
    if probability > 0.99:
        return gettext("over %(percent)s", percent=percent(0.99))
    if probability < 0.01:
        return gettext("under %(percent)s", percent=percent(0.01))
    return percent(probability)


def day(when: date | datetime | str | None) -> str:
    """`25 Nov 2026`; nothing where there is no date."""
    if when is None or when == "":
        return ""
    moment_or_day = _read(when)
    if isinstance(moment_or_day, datetime):
        moment_or_day = moment_or_day.astimezone(UTC).date()
    return str(format_skeleton("yMMMd", moment_or_day, locale=locale()))


def clock(when: datetime | str) -> str:
    """`10:32 UTC`."""
    return gettext("%(time)s UTC", time=f"{_moment(when).astimezone(UTC):%H:%M}")


def moment(when: datetime | str | None, now: datetime | None = None) -> str:
    """`10:32 UTC` today, else with its day, and the year where that is another one."""
    if when is None or when == "":
        return ""
    at, today = _moment(when).astimezone(UTC), (now or datetime.now(UTC)).astimezone(UTC)
    if at.date() == today.date():
        return clock(at)
    skeleton = "MMMd" if at.year == today.year else "yMMMd"
    return gettext(
        "%(day)s, %(time)s",
        day=format_skeleton(skeleton, at.date(), locale=locale()),
        time=clock(at),
    )


def _read(when: date | datetime | str) -> date | datetime:
    return datetime.fromisoformat(when) if isinstance(when, str) else when


def _moment(when: datetime | str) -> datetime:
    read = datetime.fromisoformat(when) if isinstance(when, str) else when
    return read if read.tzinfo else read.replace(tzinfo=UTC)


def duration(seconds: float) -> str:
    """`about 40 s`, `about 3 min`, `about 2 h 10 min`: no finer than it is known."""
    if seconds < 90:
        return gettext("about %(seconds)s s", seconds=max(1, round(seconds)))
    minutes = round(seconds / 60)
    if minutes < 90:
        return gettext("about %(minutes)s min", minutes=minutes)
    hours, rest = divmod(round(minutes / 10) * 10, 60)
    if rest:
        return gettext("about %(hours)s h %(minutes)s min", hours=hours, minutes=rest)
    return gettext("about %(hours)s h", hours=hours)


def took(seconds: float) -> str:
    """`0.4 s`, `42 s`, `3 min 12 s`, `2 h 5 min`."""
    if seconds < 10:
        return gettext("%(seconds)s s", seconds=number(seconds, 1))
    whole = round(seconds)
    if whole < 60:
        return gettext("%(seconds)s s", seconds=whole)
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return gettext("%(minutes)s min %(seconds)s s", minutes=minutes, seconds=rest)
    return gettext("%(hours)s h %(minutes)s min", hours=minutes // 60, minutes=minutes % 60)
