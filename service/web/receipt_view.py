"""What the pages draw of a receipt: what was searched, what was left out, how long it took."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from service.web.figures import number
from service.web.terms import photos
from service.web.words import gettext, lazy, ngettext, nlazy

Json = Mapping[str, Any]

STAGES = {
    "decode": lazy("Read the photo"),
    "gate": lazy("Gate"),
    "embed": lazy("Embedding"),
    "head": lazy("Default answer"),
    "search": lazy("Search"),
    "store": lazy("Store the query"),
    "total": lazy("In all"),
}
STAGE_PARTS = {
    "filter": lazy("filter"),
    "exclude": lazy("leave out"),
    "scan": lazy("compare"),
    "group": lazy("group"),
    "labels": lazy("names"),
}
FILTERS = {
    "taxon": lazy("species"),
    "place": lazy("place"),
    "date_from": lazy("from"),
    "date_to": lazy("until"),
    "viewpoint": lazy("viewpoint"),
    "sex": lazy("sex"),
    "vitality": lazy("alive or dead"),
    "catalogue": lazy("catalogue"),
    "individuals": lazy("individuals"),
}
ALL_COMPARED = {
    "exact": nlazy(
        "Compared with the one photo of the catalogue, so nothing was overlooked.",
        "Compared with all %(num)d photos of the catalogue, one by one, so nothing was overlooked.",
    ),
    "approximate": nlazy(
        "Compared with the one photo of the catalogue, through an approximate index.",
        "Compared with all %(num)d photos of the catalogue, through an approximate index, which "
        "may overlook a few.",
    ),
}
SOME_COMPARED = {
    "exact": nlazy(
        "Compared with one photo of the catalogue, so none of those was overlooked.",
        "Compared with %(num)d photos of the catalogue, one by one, so none of those was "
        "overlooked.",
    ),
    "approximate": nlazy(
        "Compared with one photo of the catalogue, through an approximate index.",
        "Compared with %(num)d photos of the catalogue, through an approximate index, which may "
        "overlook a few.",
    ),
}
LEFT_OUT = {
    "self": nlazy("the photo itself", "%(num)d photos of the question itself"),
    "duplicate": nlazy("%(num)d near duplicate", "%(num)d near duplicates"),
    "encounter": nlazy(
        "%(num)d photo of the same encounter", "%(num)d photos of the same encounter"
    ),
}
"""Why photos were left out, by the receipt's own names."""


@dataclass(frozen=True, slots=True)
class Pair:
    term: str
    value: str
    mono: bool = False


@dataclass(frozen=True, slots=True)
class Timing:
    label: str
    ms: float
    share: float


@dataclass(frozen=True, slots=True)
class ReceiptView:
    sentence: str
    pairs: tuple[Pair, ...]
    timings: tuple[Timing, ...]


def present_receipt(receipt: Json | None) -> ReceiptView | None:
    """What was compared, what was left out and why; None where nothing was searched."""
    if receipt is None:
        return None
    excluded = receipt["excluded"]
    pairs = [
        Pair(gettext("Eligible"), photos(int(receipt["eligible"]))),
        Pair(gettext("Compared"), _compared(receipt)),
        Pair(gettext("Left out"), _left_out(excluded)),
        Pair(gettext("Filters"), _filters(receipt.get("filters") or {})),
        Pair(gettext("Added since the snapshot"), number(int(receipt.get("delta") or 0))),
        Pair(gettext("Vector space"), str(receipt["fingerprint"]), mono=True),
        Pair(gettext("Snapshot"), str(receipt.get("snapshot") or gettext("none")), mono=True),
    ]
    return ReceiptView(_receipt_sentence(receipt), tuple(pairs), _timings(receipt["timings_ms"]))


def _receipt_sentence(receipt: Json) -> str:
    eligible, scanned = int(receipt["eligible"]), int(receipt["scanned"])
    told_how = ALL_COMPARED if scanned >= eligible else SOME_COMPARED
    how = "exact" if receipt["mode"] == "exact" else "approximate"
    # A photo that shows nobody named was compared with as well, and can be no answer.
    parts = [told_how[how](min(scanned, eligible))]
    if receipt.get("truncated"):
        parts.append(gettext("The search was cut short before the list was complete."))
    return " ".join(parts)


def _compared(receipt: Json) -> str:
    scanned = int(receipt["scanned"])
    nobody = scanned - int(receipt["eligible"])
    if nobody <= 0:
        return number(scanned)
    return ngettext(
        "%(all)s, of which %(num)d shows nobody named yet",
        "%(all)s, of which %(num)d show nobody named yet",
        nobody,
        all=number(scanned),
    )


def _left_out(excluded: Json) -> str:
    parts = [form(excluded[why]) for why, form in LEFT_OUT.items() if excluded.get(why)]
    return ", ".join(parts) or gettext("nothing")


def _filters(filters: Json) -> str:
    parts = (
        gettext("%(filter)s: %(value)s", filter=FILTERS.get(name, name), value=_listed(value))
        for name, value in filters.items()
    )
    return "; ".join(parts) or gettext("none")


def _listed(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _timings(timings: Json) -> tuple[Timing, ...]:
    """In the order of work: the database does not keep the order of a stored answer."""
    longest = max([float(ms) for ms in timings.values()] or [1.0]) or 1.0
    order = {stage: place for place, stage in enumerate(STAGES)}

    def place(stage: str) -> tuple[int, str]:
        return order.get(stage.partition("_")[0], order["total"] - 1), stage

    return tuple(
        Timing(_stage_label(stage), float(timings[stage]), round(timings[stage] / longest * 100, 1))
        for stage in sorted(timings, key=place)
        # The same work as `search`, seen from inside.
        if stage != "search_total"
    )


def _stage_label(stage: str) -> str:
    whole, _, part = stage.partition("_")
    if part and whole in STAGES:
        return gettext("%(stage)s: %(part)s", stage=STAGES[whole], part=STAGE_PARTS.get(part, part))
    return str(STAGES.get(stage, stage.replace("_", " ").capitalize()))
