"""What a merge, a split or a move would do, in sentences, before anybody presses the button."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from db.queries.catalogue import IndividualRow
from indexer.outcomes import Contradiction, Outcome
from indexer.suggestions import Group
from service.web import figures, terms
from service.web.catalogue_view import LIFE_STAGE, SEX, VITALITY, PhotoCard, TallyView, trait
from service.web.changes_view import FIELDS, value_word
from service.web.words import gettext, ngettext


@dataclass(frozen=True, slots=True)
class Preview:
    """`warnings` do not fit together, `against` is what people said; `details` follow of it."""

    sentence: str
    details: tuple[str, ...]
    warnings: tuple[str, ...] = ()
    against: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Beside:
    """One of two individuals that are compared."""

    row: IndividualRow
    photos: Sequence[PhotoCard]
    tally: TallyView

    @property
    def url(self) -> str:
        return f"/individuals/{self.row.id}"

    @property
    def traits(self) -> str:
        row = self.row
        known = (
            trait(SEX, row.sex),
            trait(LIFE_STAGE, row.life_stage),
            trait(VITALITY, row.vitality),
        )
        return " · ".join(part for part in known if part)


def merge_preview(kept: IndividualRow, other: IndividualRow, outcome: Outcome) -> Preview:
    counts = outcome.counts
    return Preview(
        sentence=gettext(
            "%(other)s becomes %(kept)s: from now on they are one individual.",
            other=other.name,
            kept=kept.name,
        ),
        details=(
            gettext(
                "%(photos)s in %(encounters)s come to %(kept)s.",
                photos=terms.photos(counts.photos),
                encounters=ngettext("%(num)d encounter", "%(num)d encounters", counts.encounters),
                kept=kept.name,
            ),
            gettext(
                "It is also called %(names)s from then on, and is found by it.",
                names=", ".join(other.names),
            ),
            gettext("It can be undone as long as nothing later builds on it."),
        ),
        warnings=_disagreements(kept, other),
        against=against(outcome.contradictions),
    )


def _disagreements(kept: IndividualRow, other: IndividualRow) -> tuple[str, ...]:
    """Known facts that two individuals do not share."""
    told = []
    for name, words in (("sex", SEX), ("vitality", VITALITY)):
        mine, theirs = (trait(words, getattr(row, name)) for row in (kept, other))
        if mine and theirs and mine != theirs:
            told.append(
                gettext(
                    "%(field)s: %(kept)s is %(mine)s, %(other)s is %(theirs)s.",
                    field=str(FIELDS[name]),
                    kept=kept.name,
                    mine=mine.lower(),
                    other=other.name,
                    theirs=theirs.lower(),
                )
            )
    if kept.taxon and other.taxon and kept.taxon != other.taxon:
        told.append(
            gettext(
                "They are of two species: %(mine)s and %(theirs)s.",
                mine=terms.common_name(kept.taxon) or kept.taxon,
                theirs=terms.common_name(other.taxon) or other.taxon,
            )
        )
    return tuple(told)


def split_preview(source: IndividualRow, outcome: Outcome) -> Preview:
    name = outcome.individual.name if outcome.individual else ""
    counts = outcome.counts
    return Preview(
        sentence=gettext(
            "%(photos)s go to a new individual, %(name)s.",
            photos=terms.photos(counts.photos),
            name=name,
        ),
        details=(
            gettext("The others stay with %(name)s.", name=source.name),
            gettext("It can be undone as long as nothing later builds on it."),
        ),
        against=against(outcome.contradictions),
    )


def split_suggestion(groups: Sequence[Group]) -> str:
    """What comparing the photos of an individual with each other has shown."""
    if len(groups) < 2:
        return gettext("Its photos look alike: nothing suggests a split.")
    first, second = (len(group.annotation_ids) for group in groups[:2])
    told = gettext(
        "%(photos)s look more like each other than like the other %(rest)s: they are ticked.",
        photos=terms.photos(second),
        rest=figures.number(first),
    )
    if len(groups) == 2:
        return told
    more = ngettext(
        "There is %(num)d more such group; split again after this one.",
        "There are %(num)d more such groups; split again after this one.",
        len(groups) - 2,
    )
    return f"{told} {more}"


def move_preview(outcome: Outcome) -> Preview:
    counts = outcome.counts
    if not counts.annotations:
        return Preview(gettext("Nothing changes: they show this individual already."), ())
    photos = terms.photos(counts.photos)
    if outcome.individual is None:
        sentence = gettext("%(photos)s show nobody known from then on.", photos=photos)
    else:
        sentence = gettext(
            "%(photos)s show %(name)s from then on.", photos=photos, name=outcome.individual.name
        )
    return Preview(
        sentence,
        (gettext("It can be undone as long as nothing later builds on it."),),
        against=against(outcome.contradictions),
    )


def against(contradictions: Sequence[Contradiction]) -> tuple[str, ...]:
    """Who said what that speaks against it."""
    return tuple(_said(one) for one in contradictions)


def _said(one: Contradiction) -> str:
    values = {"who": one.reviewer, "day": figures.day(one.at), "name": one.individual.name}
    if one.verdict != "different":
        told = gettext("%(who)s said on %(day)s that a photo shows %(name)s.", **values)
    elif one.annotation_id is not None:
        told = gettext("%(who)s said on %(day)s that a photo does not show %(name)s.", **values)
    else:
        other = one.other.name if one.other else ""
        told = gettext(
            "%(who)s said on %(day)s that %(name)s and %(other)s are different.",
            **values,
            other=other,
        )
    return f"{told} “{one.note}”" if one.note else told


def will_change(changed: int, chosen: int) -> str:
    """How many of those that were ticked are different afterwards."""
    if not changed:
        return gettext("Nothing changes: all are so already.")
    told = ngettext("%(num)d individual changes.", "%(num)d individuals change.", changed)
    same = chosen - changed
    if same <= 0:
        return told
    rest = ngettext("%(num)d is so already.", "%(num)d are so already.", same)
    return f"{told} {rest}"


def differences(present: Mapping[str, str], names: Sequence[str]) -> tuple[str, ...]:
    """What is there now, of the fields in which somebody typed something else."""
    return tuple(
        gettext(
            "%(field)s is now: %(value)s",
            field=str(FIELDS[name]),
            value=value_word(name, present[name]),
        )
        for name in names
    )
