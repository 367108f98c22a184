"""What the pages of jobs draw: the JSON of a job turned into sentences, shares and addresses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from service.job_schemas import FailureOut, JobOut
from service.web.view import crop_url, plural, sentence

Tone = Literal["live", "plain", "caution"]

OPEN_STATES = frozenset({"queued", "running", "paused", "cancelling"})

KINDS = {
    "embed_missing": ("Embed what has no vector", "photo"),
    "reindex": ("Re-index", "photo"),
    "build_snapshot": ("Build a search snapshot", "vector"),
    "build_ann": ("Build an approximate index", "vector"),
    "import": ("Import", "photo"),
    "fit_head": ("Fit the head", "pass"),
    "evaluate": ("Measure the model on this catalogue", "photo"),
    "export": ("Export the catalogue", "line"),
    "calibrate": ("Calibrate the scores", "photo"),
}
"""Title and unit of each kind of job."""

STATES: dict[str, tuple[str, Tone]] = {
    "queued": ("Waiting", "plain"),
    "running": ("Running", "live"),
    "paused": ("Paused", "caution"),
    "cancelling": ("Cancelling", "plain"),
    "cancelled": ("Cancelled", "plain"),
    "failed": ("Failed", "caution"),
    "done": ("Done", "plain"),
}


@dataclass(frozen=True, slots=True)
class Progress:
    """The parts of a card that move; sent as they are to the page while the job runs."""

    share: float | None
    counts: str
    pace: str
    failed: str


@dataclass(frozen=True, slots=True)
class JobView:
    """A card. `phase` differs whenever more than the progress has to be drawn anew."""

    id: str
    url: str
    title: str
    state: str
    label: str
    tone: Tone
    phase: str
    progress: Progress
    about: str
    when: str
    error: str | None
    result: tuple[tuple[str, str], ...]
    failed: int
    run_url: str | None
    actions: tuple[tuple[str, str], ...]

    @property
    def open(self) -> bool:
        return self.state in OPEN_STATES

    @property
    def moving(self) -> dict[str, Any]:
        """What the page's own stream says about this job."""
        return {"id": self.id, "phase": self.phase, "open": self.open} | asdict(self.progress)


@dataclass(frozen=True, slots=True)
class FailureView:
    title: str
    detail: str
    thumb: str | None


def present_job(job: JobOut, *, may_act: bool) -> JobView:
    """The card of a job; `may_act`: the reader may press its buttons."""
    label, tone = STATES.get(job.state, (job.state.capitalize(), "plain"))
    failed = job.progress.failed
    if job.state == "done" and failed:
        label, tone = f"Done, {plural(failed, 'failure')}", "caution"
    stage = job.stage if job.state in ("running", "paused") and job.stage else None
    return JobView(
        id=str(job.id),
        url=f"/jobs/{job.id}",
        title=_title(job),
        state=job.state,
        label=label,
        tone=tone,
        phase=f"{job.state}/{job.stage or ''}",
        progress=_progress(job),
        about=_about(job, stage),
        when=_when(job),
        error=sentence(job.error.detail) if job.error else None,
        result=_result(job.result or {}),
        failed=failed,
        run_url=f"/reindex/{job.id}" if job.kind == "reindex" else None,
        actions=_actions(job) if may_act else (),
    )


def present_failures(failures: Sequence[FailureOut]) -> list[FailureView]:
    """One line for each item, with its photo where the item is an annotation."""
    return [
        FailureView(
            title=_item_title(failure.item),
            detail=sentence(failure.detail),
            thumb=_item_thumb(failure.item),
        )
        for failure in failures
    ]


def _title(job: JobOut) -> str:
    if job.kind == "export" and job.params.get("what") == "queries":
        return "Export the queries and reviews"
    title = KINDS.get(job.kind, (job.kind.replace("_", " ").capitalize(), ""))[0]
    model = job.params.get("model") or job.params.get("to")
    return f"{title}: {model}" if isinstance(model, str) else title


def _progress(job: JobOut) -> Progress:
    now, unit = job.progress, KINDS.get(job.kind, ("", "item"))[1]
    handled = now.done + now.failed
    if job.state == "queued":
        counts = "Waits for a worker"
    elif now.total is None:
        counts = f"{_plural(now.done, unit)} so far" if now.done else ""
        counts = counts or ("Being planned" if job.state in OPEN_STATES else "")
    elif now.total == 0:
        counts = "Nothing to do"
    else:
        counts = f"{handled:,} of {_plural(now.total, unit)}"
    pace = []
    if job.state == "running" and now.rate:
        pace.append(f"{now.rate:,.1f} {_plural_word(unit)}/s")
    if job.state == "running" and now.eta_s is not None:
        pace.append(f"{duration(now.eta_s)} left")
    share: float | None = None
    if now.total:
        share = min(1.0, handled / now.total)
    elif now.total == 0 or job.state == "done":
        share = 1.0
    return Progress(share, counts, ", ".join(pace), f"{now.failed:,} failed" if now.failed else "")


def _plural(count: int, unit: str) -> str:
    return f"{count:,} {unit if count == 1 else _plural_word(unit)}"


def _plural_word(unit: str) -> str:
    return "passes" if unit == "pass" else f"{unit}s"


def duration(seconds: float) -> str:
    """`about 40 s`, `about 3 min`, `about 2 h 10 min`: no finer than it is known."""
    if seconds < 90:
        return f"about {max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"about {minutes} min"
    hours, rest = divmod(round(minutes / 10) * 10, 60)
    return f"about {hours} h {rest} min" if rest else f"about {hours} h"


def took(seconds: float) -> str:
    """`0.4 s`, `42 s`, `3 min 12 s`, `2 h 5 min`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def moment(when: datetime, now: datetime | None = None) -> str:
    """`10:32 UTC` today, else with its date."""
    when, now = when.astimezone(UTC), (now or datetime.now(UTC)).astimezone(UTC)
    if when.date() == now.date():
        return f"{when:%H:%M} UTC"
    year = "" if when.year == now.year else f" {when.year}"
    return f"{when.day} {when:%b}{year}, {when:%H:%M} UTC"


def _about(job: JobOut, stage: str | None) -> str:
    parts = [f"asked for by {job.requested_by}"]
    if job.state == "paused" and job.paused_by:
        parts.append(f"paused by {job.paused_by}")
    if job.state in ("cancelling", "cancelled") and job.cancelled_by:
        parts.append(f"cancelled by {job.cancelled_by}")
    text = ", ".join(parts)
    text = text[:1].upper() + text[1:]
    return f"{stage.replace('_', ' ').capitalize()}. {text}" if stage else text


def _when(job: JobOut) -> str:
    if job.finished_at is not None and job.started_at is not None:
        spent = (job.finished_at - job.started_at).total_seconds()
        return f"{moment(job.finished_at)}, took {took(max(0.0, spent))}"
    if job.finished_at is not None:
        return moment(job.finished_at)
    if job.started_at is not None:
        return f"since {moment(job.started_at)}"
    return f"since {moment(job.created_at)}"


def _result(result: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """The plain values of a result; what is nested has a page of its own."""
    return tuple(
        (name.replace("_", " ").capitalize(), _value(value))
        for name, value in result.items()
        if isinstance(value, str | int | float) and not isinstance(value, bool)
    )


def _value(value: str | float) -> str:
    if isinstance(value, float):
        return f"{value:,.3f}".rstrip("0").rstrip(".")
    return f"{value:,}" if isinstance(value, int) else value


def _actions(job: JobOut) -> tuple[tuple[str, str], ...]:
    """(action, label) of each button that does something in this state."""
    actions = []
    if job.state in ("queued", "running"):
        actions.append(("pause", "Pause"))
    if job.state in ("paused", "cancelled"):
        actions.append(("resume", "Resume"))
    if job.state in ("queued", "running", "paused"):
        actions.append(("cancel", "Cancel"))
    if job.state == "failed":
        actions.append(("retry", "Try again"))
    elif job.state == "done" and job.progress.failed:
        actions.append(("retry", f"Retry {job.progress.failed:,} failed"))
    return tuple(actions)


def _item_title(item: str) -> str:
    number = annotation_of(item)
    return f"Photo {number}" if number is not None else item


def _item_thumb(item: str) -> str | None:
    number = annotation_of(item)
    return crop_url(number, 160) if number is not None else None


def annotation_of(item: str) -> str | None:
    """The annotation's number, where an item names one: `17`, or `17@2` for a changed region."""
    number = item.partition("@")[0]
    return number if number.isdecimal() else None
