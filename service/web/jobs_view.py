"""What the pages of jobs draw: the JSON of a job turned into sentences, shares and addresses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from service.job_schemas import FailureOut, JobOut
from service.web.figures import duration, moment, number, took
from service.web.view import crop_url, sentence
from service.web.words import Lazy, LazyPlural, gettext, lazy, ngettext, nlazy

Tone = Literal["live", "plain", "caution"]

OPEN_STATES = frozenset({"queued", "running", "paused", "cancelling"})


@dataclass(frozen=True, slots=True)
class Unit:
    """What a kind of job counts: `so_far` without a known end, `of` with one, and its speed."""

    so_far: LazyPlural
    of: LazyPlural
    pace: Lazy


ITEMS = Unit(
    nlazy("%(num)d item so far", "%(num)d items so far"),
    nlazy("%(done)s of %(num)d item", "%(done)s of %(num)d items"),
    lazy("%(rate)s items/s"),
)
PHOTOS = Unit(
    nlazy("%(num)d photo so far", "%(num)d photos so far"),
    nlazy("%(done)s of %(num)d photo", "%(done)s of %(num)d photos"),
    lazy("%(rate)s photos/s"),
)
VECTORS = Unit(
    nlazy("%(num)d vector so far", "%(num)d vectors so far"),
    nlazy("%(done)s of %(num)d vector", "%(done)s of %(num)d vectors"),
    lazy("%(rate)s vectors/s"),
)
PASSES = Unit(
    nlazy("%(num)d pass so far", "%(num)d passes so far"),
    nlazy("%(done)s of %(num)d pass", "%(done)s of %(num)d passes"),
    lazy("%(rate)s passes/s"),
)
LINES = Unit(
    nlazy("%(num)d line so far", "%(num)d lines so far"),
    nlazy("%(done)s of %(num)d line", "%(done)s of %(num)d lines"),
    lazy("%(rate)s lines/s"),
)

KINDS: dict[str, tuple[Lazy, Unit]] = {
    "embed_missing": (lazy("Embed what has no vector"), PHOTOS),
    "reindex": (lazy("Re-index"), PHOTOS),
    "build_snapshot": (lazy("Build a search snapshot"), VECTORS),
    "build_ann": (lazy("Build an approximate index"), VECTORS),
    "import": (lazy("Import"), PHOTOS),
    "fit_head": (lazy("Fit the head"), PASSES),
    "evaluate": (lazy("Measure the model on this catalogue"), PHOTOS),
    "export": (lazy("Export the catalogue"), LINES),
    "calibrate": (lazy("Measure how sure scores are"), PHOTOS),
}
"""Title and unit of each kind of job."""

STATES: dict[str, tuple[Lazy, Tone]] = {
    "queued": (lazy("Waiting"), "plain"),
    "running": (lazy("Running"), "live"),
    "paused": (lazy("Paused"), "caution"),
    "cancelling": (lazy("Cancelling"), "plain"),
    "cancelled": (lazy("Cancelled"), "plain"),
    "failed": (lazy("Failed"), "caution"),
    "done": (lazy("Done"), "plain"),
}
STAGES = {
    "embedding": lazy("Embedding"),
    "building": lazy("Building"),
    "verifying": lazy("Comparing"),
    "importing": lazy("Importing"),
    "asking": lazy("Asking"),
    "writing": lazy("Writing"),
    "fitting": lazy("Fitting"),
}
RESULTS = {
    "embedded": lazy("Embedded"),
    "failed": lazy("Failed"),
    "snapshot": lazy("Snapshot"),
    "vectors": lazy("Vectors"),
    "recall": lazy("Recall"),
    "run_id": lazy("Run"),
    "imported": lazy("Imported"),
    "already_known": lazy("Known already"),
    "skipped": lazy("Left out"),
    "top1": lazy("First is right"),
    "top5": lazy("Right among the first five"),
    "map": lazy("Mean average precision"),
    "n": lazy("Questions"),
    "annotations": lazy("Annotations"),
    "gallery": lazy("Compared with"),
    "asked": lazy("Asked"),
    "file": lazy("File"),
    "lines": lazy("Lines"),
    "head_id": lazy("Head"),
    "version": lazy("Version"),
    "seconds": lazy("Seconds"),
    "rows": lazy("Rows"),
}
"""What a job says at its end, by the name of the value."""


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
    name, tone = STATES.get(job.state, (lazy(job.state.capitalize()), "plain"))
    label, failed = str(name), job.progress.failed
    if job.state == "done" and failed:
        label = ngettext("Done, %(num)d failure", "Done, %(num)d failures", failed)
        tone = "caution"
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
        return gettext("Export the queries and reviews")
    title = str(KINDS.get(job.kind, (_spelled(job.kind), ITEMS))[0])
    model = job.params.get("model") or job.params.get("to")
    if not isinstance(model, str):
        return title
    return gettext("%(title)s: %(model)s", title=title, model=model)


def _spelled(name: str) -> str:
    return name.replace("_", " ").capitalize()


def _progress(job: JobOut) -> Progress:
    now, unit = job.progress, KINDS.get(job.kind, ("", ITEMS))[1]
    handled = now.done + now.failed
    if job.state == "queued":
        counts = gettext("Waits for a worker")
    elif now.total is None:
        counts = unit.so_far(now.done) if now.done else ""
        counts = counts or (gettext("Being planned") if job.state in OPEN_STATES else "")
    elif now.total == 0:
        counts = gettext("Nothing to do")
    else:
        counts = unit.of(now.total, done=number(handled))
    pace = []
    if job.state == "running" and now.rate:
        pace.append(unit.pace % {"rate": number(now.rate, 1)})
    if job.state == "running" and now.eta_s is not None:
        pace.append(gettext("%(time)s left", time=duration(now.eta_s)))
    share: float | None = None
    if now.total:
        share = min(1.0, handled / now.total)
    elif now.total == 0 or job.state == "done":
        share = 1.0
    failed = ngettext("%(num)d failed", "%(num)d failed", now.failed) if now.failed else ""
    return Progress(share, counts, ", ".join(pace), failed)


def _about(job: JobOut, stage: str | None) -> str:
    parts = [gettext("Asked for by %(name)s.", name=job.requested_by)]
    if stage:
        parts.insert(0, gettext("%(stage)s.", stage=str(STAGES.get(stage, _spelled(stage)))))
    if job.state == "paused" and job.paused_by:
        parts.append(gettext("Paused by %(name)s.", name=job.paused_by))
    if job.state in ("cancelling", "cancelled") and job.cancelled_by:
        parts.append(gettext("Cancelled by %(name)s.", name=job.cancelled_by))
    return " ".join(parts)


def _when(job: JobOut) -> str:
    if job.finished_at is not None and job.started_at is not None:
        spent = max(0.0, (job.finished_at - job.started_at).total_seconds())
        return gettext(
            "%(moment)s, took %(time)s", moment=moment(job.finished_at), time=took(spent)
        )
    if job.finished_at is not None:
        return moment(job.finished_at)
    return gettext("since %(moment)s", moment=moment(job.started_at or job.created_at))


def _result(result: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """The plain values of a result; what is nested has a page of its own."""
    return tuple(
        (str(RESULTS.get(name, _spelled(name))), _value(value))
        for name, value in result.items()
        if isinstance(value, str | int | float) and not isinstance(value, bool)
    )


def _value(value: str | float) -> str:
    if isinstance(value, float):
        return number(round(value, 3), None)
    return number(value) if isinstance(value, int) else value


def _actions(job: JobOut) -> tuple[tuple[str, str], ...]:
    """(action, label) of each button that does something in this state."""
    actions = []
    if job.state in ("queued", "running"):
        actions.append(("pause", gettext("Pause")))
    if job.state in ("paused", "cancelled"):
        actions.append(("resume", gettext("Resume")))
    if job.state in ("queued", "running", "paused"):
        actions.append(("cancel", gettext("Cancel")))
    if job.state == "failed":
        actions.append(("retry", gettext("Try again")))
    elif job.state == "done" and job.progress.failed:
        failed = job.progress.failed
        label = ngettext("Retry %(num)d failed", "Retry %(num)d failed", failed)
        actions.append(("retry", label))
    return tuple(actions)


def _item_title(item: str) -> str:
    annotation = annotation_of(item)
    return gettext("Photo %(number)s", number=annotation) if annotation is not None else item


def _item_thumb(item: str) -> str | None:
    annotation = annotation_of(item)
    return crop_url(annotation, 160) if annotation is not None else None


def annotation_of(item: str) -> str | None:
    """The annotation's number, where an item names one: `17`, or `17@2` for a changed region."""
    annotation = item.partition("@")[0]
    return annotation if annotation.isdecimal() else None
