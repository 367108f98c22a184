"""What the pages of the catalogue draw: individuals as cards, photos with their captions, words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from db.queries.catalogue import IndividualRow
from db.queries.listing import IndividualSummary
from db.queries.portraits import NameRow, PortraitPhoto, SeenRow, Tally
from service.web import figures, terms
from service.web.charts import MapView, Moment, Place, TimelineView, map_of, position, timeline
from service.web.view import VIEW_PX, crop_url
from service.web.words import Lazy, gettext, lazy, ngettext

LARGE_PX = 960

SEX: Mapping[str, Lazy] = {
    "female": lazy("female"),
    "male": lazy("male"),
    "unknown": lazy("unknown"),
}
VITALITY: Mapping[str, Lazy] = {
    "alive": lazy("alive"),
    "dead": lazy("dead"),
    "unknown": lazy("unknown"),
}
LIFE_STAGE: Mapping[str, Lazy] = {
    "calf": lazy("calf"),
    "juvenile": lazy("juvenile"),
    "subadult": lazy("subadult"),
    "adult": lazy("adult"),
    "unknown": lazy("unknown"),
}
SORTS: Mapping[str, Lazy] = {
    "name": lazy("by name"),
    "newest": lazy("newest first"),
    "added": lazy("oldest first"),
}


@dataclass(frozen=True, slots=True)
class Choice:
    """One option of a choice."""

    value: str
    word: str


def choices(words: Mapping[str, Lazy]) -> list[Choice]:
    """What a form offers, in the order of the table."""
    return [Choice(value, str(word)) for value, word in words.items()]


def capital(text: str) -> str:
    """The text beginning with a capital."""
    return text[:1].upper() + text[1:]


def trait(words: Mapping[str, Lazy], value: str) -> str | None:
    """The word, beginning with a capital; None where it is unknown."""
    return None if value == "unknown" else capital(str(words[value]))


# ------------------------------------------------------------------------------------- the list


@dataclass(frozen=True, slots=True)
class Card:
    """An individual in a list. `alias` is the name by which it was found, where that is another
    than the one it goes by."""

    id: str
    url: str
    name: str
    alias: str | None
    taxon: str | None
    taxon_common: str | None
    sex: str | None
    life_stage: str | None
    vitality: str | None
    photos: str
    created_at: datetime
    thumb: str | None

    @property
    def traits(self) -> str:
        """What is known, in a few words; that it lives goes without saying."""
        dead = self.vitality if self.vitality != trait(VITALITY, "alive") else None
        return " · ".join(part for part in (self.sex, self.life_stage, dead) if part)


def card_of(row: IndividualSummary, text: str | None = None) -> Card:
    found = (text or "").lower()
    alias = next((name for name in row.names if found and found in name.lower()), None)
    return Card(
        id=str(row.id),
        url=f"/individuals/{row.id}",
        name=row.name,
        alias=alias if alias != row.name else None,
        taxon=row.taxon,
        taxon_common=row.taxon_common,
        sex=trait(SEX, row.sex),
        life_stage=trait(LIFE_STAGE, row.life_stage),
        vitality=trait(VITALITY, row.vitality),
        photos=terms.photos(row.photo_count),
        created_at=row.created_at,
        thumb=crop_url(row.best_annotation_id) if row.best_annotation_id is not None else None,
    )


# ------------------------------------------------------------------------------------- photos


@dataclass(frozen=True, slots=True)
class PhotoCard:
    """An annotation as a photo with what is written under it."""

    id: str
    url: str
    thumb: str
    large: str
    name: str
    viewpoint: str | None
    when: str
    place: str | None
    photographer: str | None
    size: str
    is_reference: bool
    matchable: bool
    individual: str | None
    individual_url: str | None
    encounter_url: str | None

    @property
    def alt(self) -> str:
        """What a screen reader says for the photo."""
        said = (self.viewpoint, self.when, self.place, self.name)
        return ", ".join(part for part in said if part)


def photo_card(row: PortraitPhoto) -> PhotoCard:
    return PhotoCard(
        id=str(row.annotation_id),
        url=f"/annotations/{row.annotation_id}",
        thumb=crop_url(row.annotation_id),
        large=crop_url(row.annotation_id, VIEW_PX),
        name=row.file_name or gettext("Photo %(id)s", id=row.media_id),
        viewpoint=viewpoint_of(row.viewpoint, row.body_part),
        when=figures.day(row.seen_at),
        place=row.place,
        photographer=row.photographer,
        size=f"{row.width_px} × {row.height_px}",
        is_reference=row.is_reference,
        matchable=row.matchable,
        individual=row.individual_name,
        individual_url=f"/individuals/{row.individual_id}" if row.individual_id else None,
        encounter_url=f"/encounters/{row.encounter_id}" if row.encounter_id else None,
    )


def viewpoint_of(viewpoint: str | None, body_part: str | None) -> str | None:
    """`Left`, `Left, dorsal fin`: which side of what."""
    # Catalogues also call `fluke` a viewpoint.
    side = terms.VIEWPOINTS.get(viewpoint or "", terms.body_part_word(viewpoint))
    known = [str(part) for part in (side, terms.body_part_word(body_part)) if part]
    known = list(dict.fromkeys(known))
    return capital(", ".join(known)) if known else None


# ------------------------------------------------------------------------------------- encounters


@dataclass(frozen=True, slots=True)
class SeenView:
    """An encounter of an individual, as one line."""

    url: str
    when: str
    place: str
    photos: str


@dataclass(frozen=True, slots=True)
class SeenWhere:
    """The encounters of an individual: as lines, along a line of time, on a map."""

    lines: tuple[SeenView, ...]
    timeline: TimelineView | None
    map: MapView | None
    first: str
    last: str


def seen_where(rows: Sequence[SeenRow]) -> SeenWhere:
    moments = [
        Moment(row.started_at, f"/encounters/{row.id}", row.place or "")
        for row in rows
        if row.started_at is not None
    ]
    places = [
        Place(row.latitude, row.longitude, f"/encounters/{row.id}", _spot_label(row))
        for row in rows
        if row.latitude is not None and row.longitude is not None
    ]
    return SeenWhere(
        lines=tuple(
            SeenView(
                f"/encounters/{row.id}",
                figures.day(row.started_at) or gettext("no date"),
                _where(row),
                terms.photos(row.photos),
            )
            for row in rows
        ),
        timeline=timeline(moments),
        map=map_of(places),
        first=figures.day(moments[-1].at) if moments else "",
        last=figures.day(moments[0].at) if moments else "",
    )


def _where(row: SeenRow) -> str:
    if row.place:
        return row.place
    if row.latitude is not None and row.longitude is not None:
        return position(row.latitude, row.longitude)
    return ""


def _spot_label(row: SeenRow) -> str:
    return ", ".join(part for part in (figures.day(row.started_at), row.place) if part)


# ------------------------------------------------------------------------------------- names


@dataclass(frozen=True, slots=True)
class NamesIn:
    """The names that an individual has in one catalogue."""

    catalogue: str
    names: tuple[NameRow, ...]


def names_by_catalogue(rows: Sequence[NameRow]) -> list[NamesIn]:
    """In the order in which the catalogues come first."""
    catalogues = dict.fromkeys(row.catalogue for row in rows)
    return [NamesIn(one, tuple(row for row in rows if row.catalogue == one)) for one in catalogues]


# ------------------------------------------------------------------------------------- facts


@dataclass(frozen=True, slots=True)
class Fact:
    """One thing known of an individual; `value` None is not known."""

    term: str
    value: str | None


def facts_of(row: IndividualRow) -> list[Fact]:
    """What can be said of an individual in a word each."""
    return [
        Fact(gettext("Sex"), trait(SEX, row.sex)),
        Fact(gettext("Life stage"), trait(LIFE_STAGE, row.life_stage)),
        Fact(gettext("Alive or dead"), trait(VITALITY, row.vitality)),
    ]


@dataclass(frozen=True, slots=True)
class TallyView:
    """How much there is, in words."""

    photos: str
    references: str | None
    not_for_matching: str | None


def tally_of(tally: Tally) -> TallyView:
    """`12 photos in 4 encounters`, and what is special of them."""
    photos = terms.photos(tally.photos)
    if tally.encounters:
        photos = ngettext(
            "%(photos)s in %(num)d encounter",
            "%(photos)s in %(num)d encounters",
            tally.encounters,
            photos=photos,
        )
    return TallyView(
        photos,
        ngettext("%(num)d reference", "%(num)d references", tally.references)
        if tally.references
        else None,
        ngettext("%(num)d not for matching", "%(num)d not for matching", tally.not_for_matching)
        if tally.not_for_matching
        else None,
    )
