"""How jobs and reports are put into words: durations, moments, counts, verdicts."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from service.job_schemas import JobOut, ProgressOut
from service.web.figures import duration, moment, took
from service.web.jobs_view import annotation_of, present_job
from service.web.report_view import points, verdict

NOON = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)


def job(state: str = "running", **changes: Any) -> JobOut:
    progress = {"done": 0, "total": None, "failed": 0, "rate": None, "eta_s": None}
    progress |= {name: changes.pop(name) for name in list(changes) if name in progress}
    fields: dict[str, Any] = {
        "id": UUID(int=1),
        "kind": "embed_missing",
        "state": state,
        "stage": None,
        "params": {},
        "progress": ProgressOut(**progress),
        "requested_by": "local",
        "paused_by": None,
        "cancelled_by": None,
        "created_at": NOON,
        "started_at": NOON,
        "finished_at": None,
        "error": None,
        "result": None,
        "links": {},
    }
    return JobOut(**fields | changes)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "about 1 s"),
        (44.6, "about 45 s"),
        (100, "about 2 min"),
        (3600, "about 60 min"),
        (7800, "about 2 h 10 min"),
        (7200, "about 2 h"),
    ],
)
def test_what_is_left_is_no_finer_than_it_is_known(seconds: float, words: str) -> None:
    assert duration(seconds) == words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.42, "0.4 s"), (42, "42 s"), (192, "3 min 12 s"), (7500, "2 h 5 min")],
)
def test_what_it_took_is_told_in_full(seconds: float, words: str) -> None:
    assert took(seconds) == words


def test_a_moment_of_another_day_has_its_date() -> None:
    assert moment(NOON, NOON) == "12:00 UTC"
    assert moment(NOON - timedelta(days=1), NOON) == "3 May, 12:00 UTC"
    assert moment(NOON.replace(year=2025), NOON) == "4 May 2025, 12:00 UTC"


@pytest.mark.parametrize(
    ("shown", "counts", "share"),
    [
        (job("queued"), "Waits for a worker", None),
        (job(), "Being planned", None),
        (job(done=7), "7 photos so far", None),
        (job(done=10, failed=2, total=1000), "12 of 1,000 photos", 0.012),
        (job(total=0), "Nothing to do", 1.0),
        (job("done"), "", 1.0),
        (job("failed"), "", None),
    ],
)
def test_progress_is_told_for_what_is_known(
    shown: JobOut, counts: str, share: float | None
) -> None:
    progress = present_job(shown, may_act=True).progress
    assert (progress.counts, progress.share) == (counts, share)


@pytest.mark.parametrize(
    ("shown", "buttons"),
    [
        (job("queued"), ["Pause", "Cancel"]),
        (job("running"), ["Pause", "Cancel"]),
        (job("paused"), ["Resume", "Cancel"]),
        (job("cancelling"), []),
        (job("cancelled"), ["Resume"]),
        (job("failed"), ["Try again"]),
        (job("done"), []),
        (job("done", failed=3), ["Retry 3 failed"]),
    ],
)
def test_a_card_has_the_buttons_that_do_something(shown: JobOut, buttons: list[str]) -> None:
    assert [label for _, label in present_job(shown, may_act=True).actions] == buttons
    assert present_job(shown, may_act=False).actions == ()


def test_an_item_that_is_an_annotation_has_a_photo() -> None:
    assert (annotation_of("17"), annotation_of("17@2")) == ("17", "17")
    assert annotation_of("photos/17.jpg") is None


def test_a_difference_has_its_sign() -> None:
    assert [points(change) for change in (0.0424, -0.011, 0.0, -0.0001)] == [
        "+4.2",
        "−1.1",
        "0.0",
        "0.0",
    ]


@pytest.mark.parametrize(
    ("interval", "words"),
    [
        ([0.01, 0.08], "Better on this catalogue"),
        ([-0.08, -0.01], "Worse on this catalogue"),
        ([-0.01, 0.08], "No clear difference"),
    ],
)
def test_a_verdict_needs_an_interval_without_zero(interval: list[float], words: str) -> None:
    report = {
        "old": {"top1": 0.87},
        "new": {"top1": 0.91, "n": 160},
        "difference": {"top1": sum(interval) / 2, "top1_ci95": interval},
    }
    assert verdict(report).startswith(words)
    assert "91.0% of photos, 87.0% before" in verdict(report)


def test_nothing_measured_is_no_verdict() -> None:
    report = {"old": None, "new": {"top1": None, "n": 0}, "difference": None}
    assert "could not be compared" in verdict(report)
