"""What the pages of encounters draw: one in a list, as a card after a drop, on its own page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from db.queries.media import MediaRow
from indexer.encounter_answers import (
    AnnotationOut,
    AskedQuery,
    EncounterItem,
    EncounterMade,
    EncounterOut,
    EncounterView,
    GivenPhoto,
    SeenIndividual,
)
from service.web import figures, terms
from service.web.catalogue_view import viewpoint_of
from service.web.charts import MapView, Place, map_of, position
from service.web.told import told
from service.web.view import VIEW_PX, crop_url, media_url, sentence
from service.web.words import Lazy, gettext, lazy, ngettext

STATES: Mapping[str, Lazy] = {
    "open": lazy("waits for review"),
    "second": lazy("waits for a second opinion"),
    "unsure": lazy("unsure"),
    "no_match": lazy("nobody matched"),
    "same": lazy("decided: a known individual"),
    "new": lazy("decided: a new individual"),
    "not_usable": lazy("not usable"),
}
WAITING = {"open", "second", "unsure"}
FIELD_TIME = "%Y-%m-%dT%H:%M"
"""How a browser's field for date and time writes one; times are UTC, as photos tell them."""


@dataclass(frozen=True, slots=True)
class Seen:
    """An individual in an encounter."""

    url: str
    name: str
    taxon: str | None
    taxon_common: str | None
    photos: str


@dataclass(frozen=True, slots=True)
class EncounterLine:
    """An encounter in a list. `unnamed` says how many photos show nobody known."""

    id: str
    url: str
    when: str
    place: str
    observer: str | None
    photos: str
    unnamed: str | None
    covers: tuple[str, ...]
    individuals: tuple[Seen, ...]
    more: int


INDIVIDUALS_IN_A_LINE = 5


def line_of(item: EncounterItem) -> EncounterLine:
    encounter = item.encounter
    seen = [seen_of(one) for one in item.individuals]
    return EncounterLine(
        id=encounter.id,
        url=f"/encounters/{encounter.id}",
        when=figures.day(encounter.started_at) or gettext("no date"),
        place=where(encounter) or gettext("no place"),
        observer=encounter.observer,
        photos=terms.photos(item.photo_count),
        unnamed=ngettext("%(num)d unnamed", "%(num)d unnamed", item.unnamed)
        if item.unnamed
        else None,
        covers=tuple(crop_url(cover.annotation_id) for cover in item.covers),
        individuals=tuple(seen[:INDIVIDUALS_IN_A_LINE]),
        more=max(0, len(seen) - INDIVIDUALS_IN_A_LINE),
    )


def seen_of(one: SeenIndividual) -> Seen:
    return Seen(
        f"/individuals/{one.id}", one.name, one.taxon, one.taxon_common, terms.photos(one.photos)
    )


def where(encounter: EncounterOut) -> str:
    """The place, or else the position."""
    if encounter.place:
        return encounter.place
    if encounter.latitude is None or encounter.longitude is None:
        return ""
    return position(encounter.latitude, encounter.longitude)


def option_of(encounter: EncounterOut) -> str:
    """`24 Feb 2023, 10:32 UTC, Monterey Bay`: one of several of a day, to be chosen from."""
    said = (span_word(encounter.started_at), where(encounter))
    return ", ".join(part for part in said if part) or gettext("Encounter without date or place")


def title_of(encounter: EncounterOut) -> str:
    """`24 Feb 2023, Monterey Bay`: what is known of when and where."""
    said = (figures.day(encounter.started_at), where(encounter))
    return ", ".join(part for part in said if part) or gettext("Encounter without date or place")


# ------------------------------------------------------------------------------- its page


@dataclass(frozen=True, slots=True)
class Shot:
    """A photo of an encounter with whom it shows; `id` is the annotation's."""

    id: str
    url: str
    thumb: str
    name: str
    viewpoint: str | None
    individual: str | None
    individual_url: str | None
    is_reference: bool
    matchable: bool

    @property
    def alt(self) -> str:
        """What a screen reader says for the photo."""
        who = self.individual or gettext("nobody known")
        return ", ".join(part for part in (who, self.viewpoint, self.name) if part)


def shot_of(photo: AnnotationOut) -> Shot:
    who = photo.individual
    return Shot(
        id=photo.annotation_id,
        url=f"/annotations/{photo.annotation_id}",
        thumb=crop_url(photo.annotation_id),
        name=photo.name or gettext("Photo %(id)s", id=photo.media_id),
        viewpoint=viewpoint_of(photo.viewpoint, photo.body_part),
        individual=who.name if who else None,
        individual_url=f"/individuals/{who.id}" if who else None,
        is_reference=photo.is_reference,
        matchable=photo.matchable,
    )


@dataclass(frozen=True, slots=True)
class Question:
    """What was asked about an encounter, and where it stands."""

    url: str
    when: str
    state: str
    waits: bool


def question_of(asked: AskedQuery) -> Question:
    # A query that came by way of the match page has no state on the desk.
    url = f"/review/{asked.id}" if asked.state else f"/queries/{asked.id}"
    state = str(STATES.get(asked.state or "", lazy("asked once")))
    return Question(url, figures.moment(asked.created_at), state, asked.state in WAITING)


@dataclass(frozen=True, slots=True)
class PageView:
    """An encounter as its page shows it."""

    id: str
    url: str
    title: str
    when: str
    place: str | None
    position: str | None
    observer: str | None
    notes: str | None
    photos: str
    shots: tuple[Shot, ...]
    individuals: tuple[Seen, ...]
    questions: tuple[Question, ...]
    map: MapView | None
    unnamed: int


def page_of(view: EncounterView) -> PageView:
    encounter = view.encounter
    shots = tuple(shot_of(photo) for photo in view.photos)
    media = {photo.media_id for photo in view.photos}
    return PageView(
        id=encounter.id,
        url=f"/encounters/{encounter.id}",
        title=title_of(encounter),
        when=span_of(encounter),
        place=encounter.place,
        position=_position(encounter),
        observer=encounter.observer,
        notes=encounter.notes,
        photos=terms.photos(len(media)),
        shots=shots,
        individuals=tuple(seen_of(one) for one in view.individuals),
        questions=tuple(question_of(asked) for asked in view.queries),
        map=map_of_encounter(encounter),
        unnamed=sum(shot.individual is None and shot.matchable for shot in shots),
    )


def _position(encounter: EncounterOut) -> str | None:
    if encounter.latitude is None or encounter.longitude is None:
        return None
    return position(encounter.latitude, encounter.longitude)


def map_of_encounter(encounter: EncounterOut) -> MapView | None:
    """Where it was; None where that is not known."""
    if encounter.latitude is None or encounter.longitude is None:
        return None
    return map_of([Place(encounter.latitude, encounter.longitude, "", title_of(encounter))])


def span_of(encounter: EncounterOut) -> str:
    """`24 Feb 2023, 10:32 UTC`, with the end where it has one."""
    if not encounter.started_at:
        return ""
    started = span_word(encounter.started_at)
    if not encounter.ended_at or encounter.ended_at == encounter.started_at:
        return started
    same_day = encounter.ended_at[:10] == encounter.started_at[:10]
    clock = figures.clock(encounter.ended_at)
    ended = clock if same_day else span_word(encounter.ended_at)
    return gettext("%(start)s to %(end)s", start=started, end=ended)


# ------------------------------------------------------------------------------- its form


def typed_of(encounter: EncounterOut) -> dict[str, str]:
    """What its form shows before anybody typed."""
    return {
        "started_at": field_time(encounter.started_at),
        "ended_at": field_time(encounter.ended_at),
        "place": encounter.place or "",
        "latitude": degrees(encounter.latitude),
        "longitude": degrees(encounter.longitude),
        "observer": encounter.observer or "",
        "notes": encounter.notes or "",
    }


def field_time(moment: str | None) -> str:
    """A time as a field for date and time takes it."""
    if not moment:
        return ""
    return datetime.fromisoformat(moment).astimezone(UTC).strftime(FIELD_TIME)


def degrees(value: float | None) -> str:
    return "" if value is None else f"{value:.5f}".rstrip("0").rstrip(".")


# ------------------------------------------------------------------------------- after a drop


@dataclass(frozen=True, slots=True)
class DropCard:
    """An encounter that photos made, to be looked at and corrected."""

    id: str
    url: str
    title: str
    photos: str
    shots: tuple[Shot, ...]
    individuals: tuple[Seen, ...]
    typed: dict[str, str]
    etag: str
    question: Question | None
    may_ask: bool
    notices: tuple[str, ...] = ()
    error: str | None = None
    map: MapView | None = None


SHOTS_ON_A_CARD = 12


def drop_card(
    view: EncounterView,
    *,
    notices: Sequence[str] = (),
    typed: dict[str, str] | None = None,
    error: str | None = None,
) -> DropCard:
    page = page_of(view)
    waiting = [one for one in page.questions if one.waits]
    return DropCard(
        id=page.id,
        url=page.url,
        title=page.title,
        photos=page.photos,
        shots=page.shots,
        individuals=page.individuals,
        typed=typed or typed_of(view.encounter),
        etag=view.encounter.etag,
        question=next(iter([*waiting, *page.questions]), None),
        may_ask=page.unnamed > 0 and not waiting,
        notices=tuple(notices),
        error=error,
        map=page.map,
    )


def notices_of(made: EncounterMade) -> list[str]:
    """What a person should know of how photos were stored: those that were known already."""
    said = [sentence(told(notice.detail)) for notice in made.notices]
    known = [photo for photo in made.photos if photo.known]
    if known:
        said.append(
            ngettext(
                "%(num)d photo was in the catalogue already.",
                "%(num)d photos were in the catalogue already.",
                len(known),
            )
        )
    return said + [refusal(photo) for photo in made.photos if photo.error]


def refusal(photo: GivenPhoto) -> str:
    """Why a photo was left out."""
    return refusal_of(photo.name, photo.position, photo.error.detail if photo.error else "")


def refusal_of(name: str | None, position: int, detail: str) -> str:
    said = name or gettext("Photo %(id)s", id=position + 1)
    return gettext("%(name)s was left out. %(why)s", name=said, why=sentence(told(detail)))


# ------------------------------------------------------------------------------- one annotation


@dataclass(frozen=True, slots=True)
class Region:
    """A box on a photo; the whole photo has none."""

    id: str
    url: str
    box: tuple[int, int, int, int] | None
    label: str


@dataclass(frozen=True, slots=True)
class RegionView:
    """An annotation on its photo, with the others that are on it."""

    photo_url: str
    width: int
    height: int
    name: str
    facts: tuple[tuple[str, str], ...]
    others: tuple[Region, ...]


def region_view(photo: AnnotationOut, on_it: Sequence[AnnotationOut]) -> RegionView:
    """An annotation on its photo; `on_it` are all that are on it."""
    facts = [
        (gettext("Taken"), span_word(photo.taken_at)),
        (gettext("Photographer"), photo.photographer or ""),
        (gettext("Size"), f"{photo.width_px} × {photo.height_px}"),
    ]
    if photo.latitude is not None and photo.longitude is not None:
        facts.append((gettext("Position"), position(photo.latitude, photo.longitude)))
    return RegionView(
        photo_url=media_url(photo.media_id, VIEW_PX),
        width=photo.width_px,
        height=photo.height_px,
        name=photo.name or gettext("Photo %(id)s", id=photo.media_id),
        facts=tuple((term, value) for term, value in facts if value),
        others=_others(on_it, photo.annotation_id),
    )


def photo_view(photo: MediaRow, on_it: Sequence[AnnotationOut]) -> RegionView:
    """A photo on which nothing is chosen."""
    return RegionView(
        photo_url=media_url(photo.id, VIEW_PX),
        width=photo.width_px,
        height=photo.height_px,
        name=photo.original_name or gettext("Photo %(id)s", id=photo.id),
        facts=((gettext("Size"), f"{photo.width_px} × {photo.height_px}"),),
        others=_others(on_it, None),
    )


def _others(on_it: Sequence[AnnotationOut], chosen: str | None) -> tuple[Region, ...]:
    return tuple(
        Region(
            one.annotation_id,
            f"/annotations/{one.annotation_id}",
            one.box_px,
            one.individual.name if one.individual else gettext("nobody known"),
        )
        for one in on_it
        if one.annotation_id != chosen
    )


def span_word(moment: str | None) -> str:
    """`24 Feb 2023, 10:32 UTC`."""
    return f"{figures.day(moment)}, {figures.clock(moment)}" if moment else ""


def typed_of_region(one: AnnotationOut) -> dict[str, object]:
    """What its form shows before anybody typed."""
    x, y, width, height = one.box_px or ("", "", "", "")
    return {
        "x": x,
        "y": y,
        "width": width,
        "height": height,
        "viewpoint": one.viewpoint or "",
        "body_part": one.body_part or "",
        "is_reference": one.is_reference,
        "matchable": one.matchable,
    }
