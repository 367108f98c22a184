"""What the page of a re-index run draws: where the run is, its report as sentences and pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from service.job_schemas import RunOut
from service.web.jobs_view import moment, took
from service.web.view import (
    STRIP_HEIGHT,
    STRIP_WIDTH,
    VIEW_PX,
    Pair,
    StripBar,
    crop_url,
    plural,
)

Json = Mapping[str, Any]

STEPS = {
    "requested": "Asked for",
    "embedding": "Embedding",
    "building": "Building",
    "verifying": "Comparing",
    "ready": "Ready",
    "active": "In use",
}
MEASURES = {
    "top1": ("First is right", "top-1"),
    "top5": ("Right among the first five", "top-5"),
    "map": ("Mean average precision", "mAP"),
}
CHANGES = {
    "lost": "was found before, another individual is nearer now",
    "other": "was not found before and is not now",
    "gained": "was not found before and is now",
    "lookalike": "met once only, so nobody can be right",
}


@dataclass(frozen=True, slots=True)
class Step:
    """`place` is done, now, or ahead."""

    name: str
    place: str


@dataclass(frozen=True, slots=True)
class Choice:
    """A button: what it is called, where it is sent and with which hidden fields."""

    key: str
    label: str
    url: str
    main: bool = False
    fields: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class RunView:
    url: str
    title: str
    about: str
    old_name: str
    new_name: str
    steps: tuple[Step, ...]
    sentence: str
    checks: tuple[str, ...]
    choices: tuple[Choice, ...]
    choices_note: str


def present_run(
    run: RunOut, report: Json | None, problems: Sequence[str], *, may_act: bool
) -> RunView:
    """Where a run is, what that means for searches, and what can be done now; `problems` forbid
    its activation."""
    old, new = run.from_space, run.to_space
    old_name = f"{old.name} {old.version}" if old else "nothing"
    new_name = f"{new.name} {new.version}"
    ready = run.state == "ready"
    choices, note = _choices(run, old_name, bool(problems)) if may_act else ((), "")
    return RunView(
        url=f"/reindex/{run.id}",
        title=f"Re-index with {new_name}",
        about=f"{run.slot}: from {old_name} to {new_name}. Asked for by {run.requested_by}, "
        f"{moment(run.created_at)}.",
        old_name=old_name,
        new_name=new_name,
        steps=_steps(run.state, run.job.stage),
        sentence=_sentence(run, report, old_name, new_name),
        checks=tuple(problems) if ready else (),
        choices=choices,
        choices_note=note,
    )


def _steps(state: str, stage: str | None) -> tuple[Step, ...]:
    names = list(STEPS)
    if state == "retired":
        reached = len(names)
    elif state in STEPS:
        reached = names.index(state)
    else:
        # It stopped on the way; the job knows where.
        reached = names.index(stage) if stage in STEPS else 0
    return tuple(
        Step(name, "done" if i < reached else "now" if i == reached else "ahead")
        for i, name in enumerate(STEPS.values())
    )


def _sentence(run: RunOut, report: Json | None, old_name: str, new_name: str) -> str:
    unchanged = f"Searches go on in {old_name}."
    if run.state == "active":
        when = moment(run.activated_at) if run.activated_at else "now"
        forced = " It was switched against the limits." if run.forced else ""
        kept = (
            f" The vectors of {old_name} are kept for the way back, until somebody runs "
            f"`resight models retire {run.from_space.name}`."
            if run.from_space and run.from_space.kept
            else ""
        )
        return f"The catalogue is searched with {new_name} since {when}.{forced}{kept}"
    if run.state == "ready":
        return f"{verdict(report) if report else 'The run is complete.'} {unchanged}"
    sentences = {
        "requested": f"Waits for a worker. {unchanged}",
        "embedding": f"Every photo gets its vector of {new_name}. {unchanged}",
        "building": f"The search snapshot of {new_name} is being built. {unchanged}",
        "verifying": f"Both models answer the same questions now. {unchanged}",
        "cancelling": f"Ends as soon as the chunk under way is over. {unchanged}",
        "cancelled": "This run was given up. Its vectors are kept: started or resumed again, it "
        "goes on from there.",
        "failed": f"This run failed; the reason is below. {unchanged}",
        "retired": "This run is over: the catalogue was moved on, or back, since.",
    }
    return sentences.get(run.state, run.state)


def _choices(run: RunOut, old_name: str, refused: bool) -> tuple[tuple[Choice, ...], str]:
    url = f"/reindex/{run.id}"
    abandon = Choice("abandon", "Abandon", f"{url}/abandon")
    if run.state == "ready":
        switch = Choice("activate", f"Switch to {run.to_space.name}", f"{url}/activate", main=True)
        note = "Services follow within seconds and answer all the while; the way back stays open."
        if not refused:
            return (switch, abandon), note
        force = Choice("force", "Switch anyway", f"{url}/activate", fields=(("force", "on"),))
        return (switch, force, abandon), "“Switch anyway” is written into the audit trail."
    if run.state == "active" and run.from_space and run.from_space.kept:
        back = Choice("rollback", f"Roll back to {old_name}", f"{url}/rollback")
        return (back,), "Services follow within seconds; nothing is computed again."
    if run.state in ("requested", "embedding", "building", "verifying"):
        return (abandon,), "What is embedded already is kept."
    return (), ""


@dataclass(frozen=True, slots=True)
class Measure:
    """One row of the table; `short` is its name where there is little room."""

    name: str
    short: str
    old: str
    old_range: str
    new: str
    new_range: str
    difference: str


@dataclass(frozen=True, slots=True)
class Distribution:
    """Cosines of same and of different animals in one space, as bars of a strip."""

    name: str
    label: str
    same: tuple[StripBar, ...]
    different: tuple[StripBar, ...]
    low: str
    high: str


@dataclass(frozen=True, slots=True)
class Side:
    """One of the photos that stand beside each other, and who is on it."""

    label: str
    name: str
    alt: str
    url: str | None
    thumb: str
    full: str
    score: str


@dataclass(frozen=True, slots=True)
class ChangeView:
    name: str
    url: str | None
    note: str
    sides: tuple[Side, ...]


@dataclass(frozen=True, slots=True)
class ReportView:
    asked: str
    measures: tuple[Measure, ...]
    distributions: tuple[Distribution, ...]
    changed: tuple[ChangeView, ...]
    changed_note: str
    pairs: tuple[Pair, ...]


def present_report(report: Json) -> ReportView:
    """The report of a run, drawn; the old side is missing where there was no space before."""
    old, new = report.get("old"), report["new"]
    changed = tuple(_change(one) for one in report["changed"])
    return ReportView(
        asked=_asked(report),
        measures=_measures(old, new, report.get("difference")) if new["n"] else (),
        distributions=_distributions(report["similarity"], old, new),
        changed=changed,
        changed_note=_changed_note(int(report["changed_count"]), len(changed), old is not None),
        pairs=_pairs(report),
    )


def space_name(space: Json) -> str:
    """A space as people call it."""
    return f"{space['name']} {space['version']}"


# --------------------------------------------------------------------------------------- measures


def _asked(report: Json) -> str:
    n, counts = int(report["new"]["n"]), report["counts"]
    if not n:
        return (
            "Nothing could be measured: no individual has photos of two encounters, so there is "
            "no question with a known answer."
        )
    return (
        f"{plural(n, 'photo')} asked who they are, against {plural(counts['gallery'], 'photo')} of "
        f"{plural(counts['individuals'], 'individual')}, never those of the same encounter."
    )


def _measures(old: Json | None, new: Json, difference: Json | None) -> tuple[Measure, ...]:
    rows = []
    for key, (name, short) in MEASURES.items():
        change = difference.get(key) if difference else None
        rows.append(
            Measure(
                name=name,
                short=short,
                old=percent(old[key]) if old else "",
                old_range=_range(old["ci95"][key]) if old else "",
                new=percent(new[key]),
                new_range=_range(new["ci95"][key]),
                difference=points(change) if change is not None else "",
            )
        )
    return tuple(rows)


def percent(share: float | None) -> str:
    """`87.1 %`, or a dash where nothing was measured."""
    return "–" if share is None else f"{share * 100:.1f} %"


def points(change: float) -> str:
    """A difference of two shares, with its sign: `+1.2`, `−0.4`, `0.0`."""
    rounded = round(change * 100, 1)
    sign = "+" if rounded > 0 else "−" if rounded < 0 else ""
    return f"{sign}{abs(rounded):.1f}"


def _range(interval: tuple[float, float] | None) -> str:
    return f"{interval[0] * 100:.1f} to {interval[1] * 100:.1f}" if interval else ""


def verdict(report: Json) -> str:
    """The report in one sentence: better, worse, or no difference that could not be chance."""
    difference, new = report.get("difference"), report["new"]
    if not new["n"]:
        return "The two models could not be compared on this catalogue."
    if not difference or difference["top1"] is None:
        return f"The model puts the right individual first for {percent(new['top1'])} of photos."
    low, high = difference["top1_ci95"]
    told = (
        f"the right individual is first for {percent(new['top1'])} of photos, "
        f"{percent(report['old']['top1'])} before"
    )
    if low > 0:
        return f"Better on this catalogue: {told}."
    if high < 0:
        return f"Worse on this catalogue: {told}."
    return f"No clear difference on this catalogue: {told}."


# ----------------------------------------------------------------------------------- distributions


def _distributions(similarity: Json, old: Json | None, new: Json) -> tuple[Distribution, ...]:
    sides = (("old", old), ("new", new))
    drawn = []
    for side, measured in sides:
        same, different = similarity["same"].get(side), similarity["different"].get(side)
        if measured and same and different and same["count"] and different["count"]:
            drawn.append(_distribution(space_name(measured["space"]), same, different))
    return tuple(drawn)


def _distribution(name: str, same: Json, different: Json) -> Distribution:
    edges = same["histogram"]["edges"]
    full = [
        i
        for counts in (same["histogram"]["counts"], different["histogram"]["counts"])
        for i, count in enumerate(counts)
        if count
    ]
    first, last = min(full), max(full) + 1
    low, high = edges[first], edges[last]
    label = (
        f"Scores in {name}: half of the same animals above {same['quantiles']['50']:.2f}, half of "
        f"the different ones above {different['quantiles']['50']:.2f}"
    )
    return Distribution(
        name=name,
        label=label,
        same=_bars(same["histogram"], first, last),
        different=_bars(different["histogram"], first, last),
        low=f"{low:.2f}".replace("-", "−"),
        high=f"{high:.2f}".replace("-", "−"),
    )


def _bars(histogram: Json, first: int, last: int) -> tuple[StripBar, ...]:
    """Bars between two edges; each kind of pair is as tall as its own tallest bar."""
    counts = histogram["counts"][first:last]
    tallest, width = max(counts), STRIP_WIDTH / len(counts)
    bars = []
    for place, count in enumerate(counts):
        if count:
            height = max(0.5, round(count / tallest * STRIP_HEIGHT, 1))
            x = round(place * width, 1)
            bars.append(StripBar(x, round(STRIP_HEIGHT - height, 1), round(width - 1, 1), height))
    return tuple(bars)


# -------------------------------------------------------------------------------- who changed


def _changed_note(count: int, shown: int, compared: bool) -> str:
    if not compared:
        return "There was no model before, so there is nothing to compare with."
    if not count:
        return "None: every individual that was asked about has the nearest individual it had."
    text = f"{plural(count, 'individual')}, worst first"
    return f"{text}; the first {shown} are shown." if shown < count else f"{text}."


def _change(one: Json) -> ChangeView:
    who, old, new = one["individual"], one["old_nearest"], one["new_nearest"]
    photos = one["photos"]
    return ChangeView(
        name=_name(who),
        url=_url(who),
        note=CHANGES.get(one["change"], ""),
        sides=(
            _side("Asked", who, photos["query"], ""),
            _side("Nearest before", old, photos["old"], f"{one['old_score']:.3f}"),
            _side("Nearest now", new, photos["new"], f"{one['new_score']:.3f}"),
        ),
    )


def _side(label: str, who: Json, photo: Json, score: str) -> Side:
    return Side(
        label=label,
        name=_name(who),
        alt=f"{label}: {_name(who)}",
        url=_url(who),
        thumb=crop_url(photo["annotation_id"]),
        full=crop_url(photo["annotation_id"], VIEW_PX),
        score=score,
    )


def _name(who: Json) -> str:
    return str(who["name"] or "no longer there")


def _url(who: Json) -> str | None:
    return f"/individuals/{who['id']}" if who["name"] else None


# --------------------------------------------------------------------------------------- figures


def _pairs(report: Json) -> tuple[Pair, ...]:
    counts, speed, failures = report["counts"], report["throughput"], report["failures"]
    snapshot = report.get("snapshot")
    pairs = [
        Pair(
            "Photos", f"{counts['annotations']:,} in the catalogue, {counts['embedded']:,} embedded"
        ),
        Pair("Failed", _failed(failures)),
    ]
    if speed["per_s"]:
        pairs.append(
            Pair(
                "Speed",
                f"{speed['per_s']:,.1f} photos/s by {plural(speed['workers'], 'worker')}, "
                f"{took(speed['seconds'])} in all",
            )
        )
    if snapshot:
        pairs.append(Pair("Snapshot", f"{plural(snapshot['vectors'], 'vector')}"))
        pairs.append(
            Pair(
                "Recall",
                f"{report['recall']:.4f} of the true nearest {snapshot['k']}, "
                f"for {plural(snapshot['queries'], 'query').replace('querys', 'queries')}",
            )
        )
    for name in ("old", "new"):
        if report.get(name):
            space = report[name]["space"]
            label = "Space before" if name == "old" else "Space now"
            pairs.append(Pair(label, f"{space['fingerprint']} ({space['dim']})", mono=True))
    return tuple(pairs)


def _failed(failures: Json) -> str:
    if not failures["count"]:
        return "none"
    parts = ", ".join(f"{count:,} {code}" for code, count in failures["by_code"].items())
    return f"{failures['count']:,}: {parts}"
