"""What the page of a re-index run draws: where the run is, its report as sentences and pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from service.job_schemas import RunOut
from service.web.figures import moment, number, took
from service.web.figures import percent as share_of_hundred
from service.web.receipt_view import Pair
from service.web.terms import individuals, photos
from service.web.view import STRIP_HEIGHT, STRIP_WIDTH, VIEW_PX, StripBar, crop_url
from service.web.words import gettext, lazy, ngettext

Json = Mapping[str, Any]

STEPS = {
    "requested": lazy("Asked for"),
    "embedding": lazy("Embedding"),
    "building": lazy("Building"),
    "verifying": lazy("Comparing"),
    "ready": lazy("Ready"),
    "active": lazy("In use"),
}
MEASURES = {
    "top1": (lazy("First is right"), "top-1"),
    "top5": (lazy("Right among the first five"), "top-5"),
    "map": (lazy("Mean average precision"), "mAP"),
}
CHANGES = {
    "lost": lazy("was found before, another individual is nearer now"),
    "other": lazy("was not found before and is not now"),
    "gained": lazy("was not found before and is now"),
    "lookalike": lazy("met once only, so nobody can be right"),
}
UNCHANGED = lazy("Searches go on in %(old)s.")
UNDER_WAY = {
    "requested": lazy("Waits for a worker."),
    "embedding": lazy("Every photo gets its vector of %(new)s."),
    "building": lazy("The search snapshot of %(new)s is being built."),
    "verifying": lazy("Both models answer the same questions now."),
    "cancelling": lazy("Ends as soon as the chunk under way is over."),
    "failed": lazy("This run failed; the reason is below."),
}
"""What a run does that has not replaced anything; each is followed by `UNCHANGED`."""

OVER = {
    "cancelled": lazy(
        "This run was given up. Its vectors are kept: started or resumed again, it goes on from "
        "there."
    ),
    "retired": lazy("This run is over: the catalogue was moved on, or back, since."),
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
    old_name = f"{old.name} {old.version}" if old else gettext("nothing")
    new_name = f"{new.name} {new.version}"
    ready = run.state == "ready"
    choices, note = _choices(run, old_name, bool(problems)) if may_act else ((), "")
    return RunView(
        url=f"/reindex/{run.id}",
        title=gettext("Re-index with %(model)s", model=new_name),
        about=gettext(
            "%(slot)s: from %(old)s to %(new)s. Asked for by %(name)s, %(moment)s.",
            slot=run.slot,
            old=old_name,
            new=new_name,
            name=run.requested_by,
            moment=moment(run.created_at),
        ),
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
        Step(str(name), "done" if i < reached else "now" if i == reached else "ahead")
        for i, name in enumerate(STEPS.values())
    )


def _sentence(run: RunOut, report: Json | None, old_name: str, new_name: str) -> str:
    names = {"old": old_name, "new": new_name}
    if run.state == "active":
        return " ".join(_in_use(run, old_name, new_name))
    if run.state == "ready":
        told = verdict(report) if report else gettext("The run is complete.")
        return f"{told} {UNCHANGED % names}"
    if run.state in UNDER_WAY:
        return f"{UNDER_WAY[run.state] % names} {UNCHANGED % names}"
    return str(OVER.get(run.state, run.state))


def _in_use(run: RunOut, old_name: str, new_name: str) -> list[str]:
    """The sentences about a run that searches use."""
    when = moment(run.activated_at) if run.activated_at else gettext("now")
    told = [
        gettext(
            "The catalogue is searched with %(new)s since %(moment)s.", new=new_name, moment=when
        )
    ]
    if run.forced:
        told.append(gettext("It was switched against the limits."))
    if run.from_space and run.from_space.kept:
        told.append(
            gettext(
                "The vectors of %(old)s are kept for the way back, until somebody runs "
                "`resight models retire %(model)s`.",
                old=old_name,
                model=run.from_space.name,
            )
        )
    return told


def _choices(run: RunOut, old_name: str, refused: bool) -> tuple[tuple[Choice, ...], str]:
    url = f"/reindex/{run.id}"
    abandon = Choice("abandon", gettext("Abandon"), f"{url}/abandon")
    if run.state == "ready":
        label = gettext("Switch to %(model)s", model=run.to_space.name)
        switch = Choice("activate", label, f"{url}/activate", main=True)
        if not refused:
            return (switch, abandon), gettext(
                "Services follow within seconds and answer all the while; the way back stays open."
            )
        anyway = gettext("Switch anyway")
        force = Choice("force", anyway, f"{url}/activate", fields=(("force", "on"),))
        return (switch, force, abandon), gettext("“Switch anyway” is written into the audit trail.")
    if run.state == "active" and run.from_space and run.from_space.kept:
        label = gettext("Roll back to %(model)s", model=old_name)
        return (Choice("rollback", label, f"{url}/rollback"),), gettext(
            "Services follow within seconds; nothing is computed again."
        )
    if run.state in UNDER_WAY and run.state not in ("cancelling", "failed"):
        return (abandon,), gettext("What is embedded already is kept.")
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
        return gettext(
            "Nothing could be measured: no individual has photos of two encounters, so there is "
            "no question with a known answer."
        )
    return gettext(
        "%(questions)s asked who they are, against %(photos)s of %(individuals)s, never those of "
        "the same encounter.",
        questions=photos(n),
        photos=photos(counts["gallery"]),
        individuals=individuals(counts["individuals"]),
    )


def _measures(old: Json | None, new: Json, difference: Json | None) -> tuple[Measure, ...]:
    rows = []
    for key, (name, short) in MEASURES.items():
        change = difference.get(key) if difference else None
        rows.append(
            Measure(
                name=str(name),
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
    """`87.1%`, or a dash where nothing was measured."""
    return share_of_hundred(share, 1)


def points(change: float) -> str:
    """A difference of two shares, with its sign: `+1.2`, `−0.4`, `0.0`."""
    rounded = round(change * 100, 1)
    sign = "+" if rounded > 0 else "−" if rounded < 0 else ""
    return f"{sign}{number(abs(rounded), 1)}"


def _range(interval: tuple[float, float] | None) -> str:
    if not interval:
        return ""
    low, high = (number(end * 100, 1) for end in interval)
    return gettext("%(low)s to %(high)s", low=low, high=high)


def verdict(report: Json) -> str:
    """The report in one sentence: better, worse, or no difference that could not be chance."""
    difference, new = report.get("difference"), report["new"]
    if not new["n"]:
        return gettext("The two models could not be compared on this catalogue.")
    now = percent(new["top1"])
    if not difference or difference["top1"] is None:
        return gettext("The model puts the right individual first for %(now)s of photos.", now=now)
    low, high = difference["top1_ci95"]
    told = {"now": now, "before": percent(report["old"]["top1"])}
    if low > 0:
        return gettext(
            "Better on this catalogue: the right individual is first for %(now)s of photos, "
            "%(before)s before.",
            **told,
        )
    if high < 0:
        return gettext(
            "Worse on this catalogue: the right individual is first for %(now)s of photos, "
            "%(before)s before.",
            **told,
        )
    return gettext(
        "No clear difference on this catalogue: the right individual is first for %(now)s of "
        "photos, %(before)s before.",
        **told,
    )


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
    label = gettext(
        "Scores in %(model)s: half of the same animals above %(same)s, half of the different ones "
        "above %(different)s",
        model=name,
        same=number(same["quantiles"]["50"], 2),
        different=number(different["quantiles"]["50"], 2),
    )
    return Distribution(
        name=name,
        label=label,
        same=_bars(same["histogram"], first, last),
        different=_bars(different["histogram"], first, last),
        low=number(low, 2).replace("-", "−"),
        high=number(high, 2).replace("-", "−"),
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
        return gettext("There was no model before, so there is nothing to compare with.")
    if not count:
        return gettext(
            "None: every individual that was asked about has the nearest individual it had."
        )
    if shown < count:
        return ngettext(
            "%(num)d individual, worst first; the first %(shown)s are shown.",
            "%(num)d individuals, worst first; the first %(shown)s are shown.",
            count,
            shown=number(shown),
        )
    return ngettext("%(num)d individual, worst first.", "%(num)d individuals, worst first.", count)


def _change(one: Json) -> ChangeView:
    who, old, new = one["individual"], one["old_nearest"], one["new_nearest"]
    shown = one["photos"]
    return ChangeView(
        name=_name(who),
        url=_url(who),
        note=str(CHANGES.get(one["change"], "")),
        sides=(
            _side(gettext("Asked"), who, shown["query"], ""),
            _side(gettext("Nearest before"), old, shown["old"], number(one["old_score"], 3)),
            _side(gettext("Nearest now"), new, shown["new"], number(one["new_score"], 3)),
        ),
    )


def _side(label: str, who: Json, photo: Json, score: str) -> Side:
    return Side(
        label=label,
        name=_name(who),
        alt=gettext("%(label)s: %(name)s", label=label, name=_name(who)),
        url=_url(who),
        thumb=crop_url(photo["annotation_id"]),
        full=crop_url(photo["annotation_id"], VIEW_PX),
        score=score,
    )


def _name(who: Json) -> str:
    return str(who["name"] or gettext("no longer there"))


def _url(who: Json) -> str | None:
    return f"/individuals/{who['id']}" if who["name"] else None


# --------------------------------------------------------------------------------------- figures


def _pairs(report: Json) -> tuple[Pair, ...]:
    counts, speed, failures = report["counts"], report["throughput"], report["failures"]
    snapshot = report.get("snapshot")
    in_all = gettext(
        "%(photos)s in the catalogue, %(embedded)s embedded",
        photos=number(counts["annotations"]),
        embedded=number(counts["embedded"]),
    )
    pairs = [Pair(gettext("Photos"), in_all), Pair(gettext("Failed"), _failed(failures))]
    if speed["per_s"]:
        pairs.append(Pair(gettext("Speed"), _speed(speed)))
    if snapshot:
        vectors = ngettext("%(num)d vector", "%(num)d vectors", snapshot["vectors"])
        pairs.append(Pair(gettext("Snapshot"), vectors))
        pairs.append(Pair(gettext("Recall"), _recall(report["recall"], snapshot)))
    for name, label in (("old", gettext("Space before")), ("new", gettext("Space now"))):
        if report.get(name):
            space = report[name]["space"]
            pairs.append(Pair(label, f"{space['fingerprint']} ({space['dim']})", mono=True))
    return tuple(pairs)


def _speed(speed: Json) -> str:
    return ngettext(
        "%(rate)s photos/s by %(num)d worker, %(time)s in all",
        "%(rate)s photos/s by %(num)d workers, %(time)s in all",
        speed["workers"],
        rate=number(speed["per_s"], 1),
        time=took(speed["seconds"]),
    )


def _recall(recall: float, snapshot: Json) -> str:
    return ngettext(
        "%(recall)s of the true nearest %(k)s, for %(num)d query",
        "%(recall)s of the true nearest %(k)s, for %(num)d queries",
        snapshot["queries"],
        recall=number(recall, 4),
        k=number(snapshot["k"]),
    )


def _failed(failures: Json) -> str:
    if not failures["count"]:
        return gettext("none")
    parts = ", ".join(f"{number(count)} {code}" for code, count in failures["by_code"].items())
    return gettext("%(count)s: %(parts)s", count=number(failures["count"]), parts=parts)
