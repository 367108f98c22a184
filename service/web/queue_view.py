"""What the page of queues draws: queues with their counts, filters as they stand in the address."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlencode
from uuid import UUID

from service.web import figures
from service.web.terms import VIEWPOINTS, latin_name, photos, viewpoint_word
from service.web.view import Json, crop_url
from service.web.words import _, lazy

FIRST_QUEUE = "to_review"
QUEUES = {
    "to_review": (
        lazy("To review"),
        lazy("Encounters that nobody has decided yet."),
        lazy("Nothing waits for a decision"),
    ),
    "second_opinion": (
        lazy("Second opinion"),
        lazy("Several people are asked. You see the other votes after you have given yours."),
        lazy("Nobody asks for a second opinion"),
    ),
    "disagreement": (
        lazy("Disagreement"),
        lazy("The model's own answer and the nearest photos name different individuals."),
        lazy("The model and the catalogue agree on everything"),
    ),
    "unsure": (
        lazy("Unsure"),
        lazy("Somebody looked and could not tell. Fresh eyes, or a new photo, often can."),
        lazy("Nobody is unsure about anything"),
    ),
    "no_match": (
        lazy("Nobody matched"),
        lazy("Every candidate was rejected, and no new individual was made."),
        lazy("Nothing is left without a match"),
    ),
    "gate_rejected": (
        lazy("Gate said no"),
        lazy("The gate saw no animal here. Each verdict tells it whether it was right."),
        lazy("The gate has rejected nothing"),
    ),
    "decided": (
        lazy("Decided"),
        lazy("What has been decided; any of it can be undone."),
        lazy("Nothing has been decided yet"),
    ),
}
"""Label, one sentence of help and the title of the empty state, in the order of the tabs."""

SORTS = {
    "": lazy("In the order of the queue"),
    "oldest": lazy("Oldest first"),
    "newest": lazy("Newest first"),
    "score": lazy("Best score first"),
}
FILTERS = {
    "taxon": lazy("Species"),
    "place": lazy("Place"),
    "date_from": lazy("From"),
    "date_to": lazy("Until"),
    "viewpoint": lazy("Viewpoint"),
    "sex": lazy("Sex of the candidate"),
    "vitality": lazy("Candidate is"),
    "catalogue": lazy("Catalogue"),
    "score_min": lazy("Score at least"),
    "score_max": lazy("Score at most"),
    "uploader": lazy("Added by"),
}
"""Every filter of a queue by its label, in the order of the form."""

CHOICES = {
    "sex": {"female": lazy("female"), "male": lazy("male"), "unknown": lazy("unknown")},
    "vitality": {"alive": lazy("alive"), "dead": lazy("dead"), "unknown": lazy("unknown")},
}


@dataclass(frozen=True, slots=True)
class QueueContext:
    """Which queue is worked through, and how it is filtered and sorted: all of it in the address.
    `sort` is empty for the queue's own order."""

    name: str = FIRST_QUEUE
    filters: tuple[tuple[str, str], ...] = ()
    sort: str = ""

    @classmethod
    def of(cls, params: Mapping[str, str]) -> QueueContext:
        """The context in the parameters of an address; what it does not know is left out."""
        name, sort = params.get("queue", ""), params.get("sort", "")
        return cls(
            name=name if name in QUEUES else FIRST_QUEUE,
            filters=tuple((f, params[f].strip()) for f in FILTERS if params.get(f, "").strip()),
            sort=sort if sort in SORTS else "",
        )

    @property
    def params(self) -> dict[str, str]:
        """Filters and order as parameters, without the queue's name."""
        return dict(self.filters) | ({"sort": self.sort} if self.sort else {})

    @property
    def query(self) -> str:
        """Everything, as the query string that every address of the page carries."""
        return urlencode({"queue": self.name} | self.params)

    @property
    def list_url(self) -> str:
        return f"/review?{self.query}"

    @property
    def api_url(self) -> str:
        """The queue in the API, from its start."""
        return f"/v1/queues/{self.name}?{urlencode(self.params)}"

    @property
    def label(self) -> str:
        return str(QUEUES[self.name][0])

    def item_url(self, query_id: str | UUID, candidate: str | None = None) -> str:
        """The page of an item, so that the next one is the next of this queue."""
        chosen = f"&{urlencode({'candidate': candidate})}" if candidate else ""
        return f"/review/{query_id}?{self.query}{chosen}"


@dataclass(frozen=True, slots=True)
class QueueTab:
    name: str
    label: str
    count: str
    url: str
    current: bool


@dataclass(frozen=True, slots=True)
class Chip:
    """A filter that is set, and the address without it."""

    label: str
    url: str


@dataclass(frozen=True, slots=True)
class FilterField:
    """One field of the form; `choices` (value, label) make it a list to choose from."""

    name: str
    label: str
    value: str
    kind: str
    choices: tuple[tuple[str, str], ...] = ()
    suggestions: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ItemRow:
    """One item of a queue."""

    id: str
    url: str
    title: str
    about: str
    photos: str
    thumb: str | None
    best_name: str | None
    best_species: str | None
    best_score: float | None
    best_thumb: str | None
    default: str | None
    state: str | None


@dataclass(frozen=True, slots=True)
class SavedViewRow:
    id: str
    name: str
    url: str
    current: bool


def tabs(counts: Mapping[str, int], context: QueueContext) -> tuple[QueueTab, ...]:
    """Every queue; filters go along from one to the next."""
    return tuple(
        QueueTab(
            name,
            str(words[0]),
            figures.number(counts.get(name, 0)),
            replace(context, name=name).list_url,
            name == context.name,
        )
        for name, words in QUEUES.items()
    )


def chips(context: QueueContext) -> tuple[Chip, ...]:
    """The filters that are set, as words, each with the way out of it."""
    return tuple(
        Chip(
            _("%(filter)s: %(value)s", filter=FILTERS[name], value=_value_word(name, value)),
            replace(context, filters=tuple(f for f in context.filters if f[0] != name)).list_url,
        )
        for name, value in context.filters
    )


def _value_word(name: str, value: str) -> str:
    if name == "viewpoint":
        return viewpoint_word(value) or value
    return str(CHOICES.get(name, {}).get(value, value))


def fields(
    context: QueueContext, *, species: Sequence[str], catalogues: Sequence[str]
) -> tuple[FilterField, ...]:
    """The form, filled in as the address says."""
    values = dict(context.filters)
    suggestions = {
        "taxon": tuple(species),
        "catalogue": tuple(catalogues),
        "viewpoint": tuple(VIEWPOINTS),
    }
    kinds = {"date_from": "date", "date_to": "date", "score_min": "number", "score_max": "number"}
    return tuple(
        FilterField(
            name=name,
            label=str(label),
            value=values.get(name, ""),
            kind="select" if name in CHOICES else kinds.get(name, "text"),
            choices=tuple((value, str(word)) for value, word in CHOICES.get(name, {}).items()),
            suggestions=suggestions.get(name, ()),
        )
        for name, label in FILTERS.items()
    )


def saved_views(views: Iterable[Json], context: QueueContext) -> tuple[SavedViewRow, ...]:
    """Views by name; `params` of each is the query string it was saved with."""
    return tuple(
        SavedViewRow(
            str(one["id"]),
            str(one["name"]),
            f"/review?{one['params']}",
            one["params"] == context.query,
        )
        for one in views
    )


def rows(items: Iterable[Json], context: QueueContext) -> tuple[ItemRow, ...]:
    """The items of one page of a queue."""
    return tuple(_row(item, context) for item in items)


def _row(item: Json, context: QueueContext) -> ItemRow:
    photo, best = item.get("photo") or {}, item.get("best")
    individual = best["individual"] if best else {}
    return ItemRow(
        id=str(item["id"]),
        url=context.item_url(item["id"]),
        title=encounter_title(item.get("encounter"), photo.get("name")),
        about=_("asked by %(name)s, %(when)s", name=item["asked_by"], when=_when(item)),
        photos=photos(int(item["photos"])),
        thumb=crop_url(photo["annotation_id"], 256) if photo.get("annotation_id") else None,
        best_name=individual.get("name"),
        best_species=latin_name(individual.get("taxon")),
        best_score=float(best["score"]) if best else None,
        best_thumb=crop_url(best["annotation_id"], 256) if best else None,
        default=_default(item.get("default_answer"), individual.get("id")),
        state=state_word(item.get("state")) if context.name == "decided" else None,
    )


def _when(item: Json) -> str:
    return figures.moment(item["created_at"])


def _default(default: Json | None, best_id: Any) -> str | None:
    """The model's own answer, where it names another individual than the best candidate."""
    given = default.get("individual") if default and default.get("status") == "given" else None
    if not given or str(given.get("id")) == str(best_id):
        return None
    return _("The model says %(name)s", name=given["name"])


def encounter_title(encounter: Json | None, photo_name: str | None) -> str:
    """When and where; the first photo's name where neither is known."""
    known = encounter or {}
    parts = [figures.day(known.get("started_at")), known.get("place") or ""]
    title = " · ".join(part for part in parts if part)
    return title or photo_name or _("Without date and place")


STATES = {
    "same": lazy("Same animal"),
    "new": lazy("New individual"),
    "no_match": lazy("Nobody matched"),
    "not_usable": lazy("Not usable"),
    "unsure": lazy("Unsure"),
    "second": lazy("Votes are wanted"),
    "open": lazy("To review"),
}


def state_word(state: str | None) -> str:
    return str(STATES.get(state or "", state or ""))
