"""What the history says of a change: one sentence, who did it, and whether it can be undone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from markupsafe import Markup

from db.queries.changes import ChangeRow
from service.web import figures, terms
from service.web.catalogue_view import LIFE_STAGE, SEX, VITALITY
from service.web.words import Lazy, gettext, lazy, markup, ngettext

Json = Mapping[str, Any]

FIELDS: Mapping[str, Lazy] = {
    "sex": lazy("Sex"),
    "life_stage": lazy("Life stage"),
    "vitality": lazy("Alive or dead"),
    "taxon": lazy("Species"),
    "notes": lazy("Notes"),
    "links": lazy("Links"),
}
SAID: Mapping[str, Lazy] = {"viewpoint": lazy("Viewpoint"), "body_part": lazy("Body part")}
VALUES: Mapping[str, Mapping[str, Lazy]] = {
    "sex": SEX,
    "life_stage": LIFE_STAGE,
    "vitality": VITALITY,
}
LONG_TEXT = 80


@dataclass(frozen=True, slots=True)
class ChangeView:
    """One change in the history. `sentence` may hold links to individuals and encounters."""

    id: int
    anchor: str
    sentence: Markup
    notes: tuple[str, ...]
    who: str
    when: str
    is_undo: bool
    undone_by: int | None
    may_undo: bool

    @property
    def undo_url(self) -> str:
        return f"/changes/{self.id}/undo"


def change_view(row: ChangeRow, names: Mapping[UUID, str], *, may_undo: bool) -> ChangeView:
    """`names` are what the individuals are called today; those who have none any more are named as
    the change did."""
    action = str(row.detail.get("undone", row.action)) if row.action == "undo" else row.action
    told = _Told(row.detail, {str(key): name for key, name in names.items()})
    sentence = SENTENCES.get(action, _unknown(action))(told)
    if row.action == "undo":
        sentence = markup("Undone: %(what)s", what=sentence)
    return ChangeView(
        id=row.id,
        anchor=f"change-{row.id}",
        sentence=sentence,
        notes=_notes(action, row.detail),
        who=row.principal,
        when=figures.moment(row.at),
        is_undo=row.action == "undo",
        undone_by=row.undone_by,
        # A decision that was taken back is decided again, on its own page.
        may_undo=may_undo
        and row.undone_by is None
        and not (row.action == "undo" and action.startswith("review.")),
    )


@dataclass(frozen=True, slots=True)
class _Told:
    """The detail of a change, with what it names as links."""

    detail: Json
    names: Mapping[str, str]

    def who(self, key: str) -> Markup:
        """The individual under this key, by its name of today."""
        ref = self.detail.get(key)
        if not isinstance(ref, Mapping):
            return Markup(gettext("nobody known"))
        return self.link(ref)

    def link(self, ref: Json) -> Markup:
        id_, name = str(ref.get("id", "")), str(ref.get("name", ""))
        now = self.names.get(id_)
        if now is None:
            return Markup("{}").format(name)
        return Markup('<a href="/individuals/{}">{}</a>').format(id_, name or now)

    def several(self, key: str) -> Markup:
        refs = self.detail.get(key) or ()
        return Markup(", ").join(self.link(ref) for ref in refs if isinstance(ref, Mapping))

    def text(self, key: str) -> str:
        value = self.detail.get(key)
        return "" if value is None else str(value)

    @property
    def photos(self) -> str:
        counts = self.detail.get("counts") or {}
        return terms.photos(int(counts.get("photos", self.detail.get("photos", 0)) or 0))

    @property
    def encounter(self) -> Markup:
        place, id_ = self.text("place"), self.text("encounter_id")
        label = gettext("Encounter at %(place)s", place=place) if place else gettext("Encounter")
        return Markup('<a href="/encounters/{}">{}</a>').format(id_, label)

    @property
    def annotation(self) -> Markup:
        id_, name = self.text("annotation_id"), self.text("individual")
        label = gettext("a photo of %(name)s", name=name) if name else gettext("a photo")
        return Markup('<a href="/annotations/{}">{}</a>').format(id_, label)


def _add(told: _Told) -> Markup:
    return markup(
        "%(who)s was added, with %(photos)s", who=told.who("individual"), photos=told.photos
    )


def _add_photos(told: _Told) -> Markup:
    return markup("%(who)s got %(photos)s more", who=told.who("individual"), photos=told.photos)


def _rename(told: _Told) -> Markup:
    return markup(
        "Renamed %(before)s to %(after)s",
        before=told.text("from"),
        after=told.link({"id": told.detail["individual"]["id"], "name": told.text("to")}),
    )


def _edit_many(told: _Told) -> Markup:
    count = int(told.detail.get("individuals", 0))
    return Markup(
        ngettext("%(num)d individual was edited", "%(num)d individuals were edited", count)
    )


def _add_name(told: _Told) -> Markup:
    return markup(
        "%(who)s got the name %(name)s", who=told.who("individual"), name=told.text("name")
    )


def _remove_name(told: _Told) -> Markup:
    return markup(
        "%(who)s lost the name %(name)s", who=told.who("individual"), name=told.text("name")
    )


def _edit(told: _Told) -> Markup:
    return markup("%(who)s was edited", who=told.who("individual"))


def _merge(told: _Told) -> Markup:
    return markup(
        "%(other)s was merged into %(kept)s, with %(photos)s",
        other=told.who("other"),
        kept=told.who("kept"),
        photos=told.photos,
    )


def _split(told: _Told) -> Markup:
    values = {"source": told.who("from"), "target": told.who("to"), "photos": told.photos}
    if told.detail.get("made"):
        return markup("%(target)s was split off %(source)s, with %(photos)s", **values)
    return markup("%(photos)s went from %(source)s to %(target)s", **values)


def _reassign(told: _Told) -> Markup:
    source = told.several("from")
    if not source:
        return markup("%(photos)s: now %(target)s", photos=told.photos, target=told.who("to"))
    return markup(
        "%(photos)s of %(source)s: now %(target)s",
        photos=told.photos,
        source=source,
        target=told.who("to"),
    )


def _flag(told: _Told) -> Markup:
    flags = told.detail.get("flags") or {}
    values = {"photos": told.photos}
    if "matchable" in flags:
        if flags["matchable"]:
            return markup("%(photos)s: for matching again", **values)
        return markup("%(photos)s: not for matching", **values)
    if flags.get("is_reference"):
        return markup("%(photos)s: chosen as reference", **values)
    return markup("%(photos)s: no longer a reference", **values)


def _encounter(told: _Told) -> Markup:
    return markup("%(encounter)s: edited", encounter=told.encounter)


def _encounter_photos(told: _Told) -> Markup:
    return markup("%(encounter)s: photos were added", encounter=told.encounter)


def _annotation(told: _Told) -> Markup:
    if "photos" in told.detail:
        count = int(told.detail["photos"])
        return Markup(ngettext("%(num)d photo was edited", "%(num)d photos were edited", count))
    return markup("The region on %(photo)s was edited", photo=told.annotation)


def _draw(told: _Told) -> Markup:
    return markup("A region was drawn on %(photo)s", photo=told.annotation)


def _same(told: _Told) -> Markup:
    return markup("A review said: this is %(who)s", who=told.who("individual"))


def _new(told: _Told) -> Markup:
    return markup("A review said: a new individual, %(who)s", who=told.who("individual"))


def _not_usable(_told: _Told) -> Markup:
    return markup("A review said: not usable, so no search answers with it")


def _unknown(action: str) -> Callable[[_Told], Markup]:
    return lambda _told: Markup("{}").format(action.replace("_", " "))


SENTENCES: Mapping[str, Callable[[_Told], Markup]] = {
    "add": _add,
    "photos": _add_photos,
    "rename": _rename,
    "add_name": _add_name,
    "remove_name": _remove_name,
    "edit": _edit,
    "edit_many": _edit_many,
    "merge": _merge,
    "split": _split,
    "reassign": _reassign,
    "flag": _flag,
    "encounter.edit": _encounter,
    "encounter.photos": _encounter_photos,
    "annotation.edit": _annotation,
    "annotation.draw": _draw,
    "review.same": _same,
    "review.new": _new,
    "review.not_usable": _not_usable,
}


def _notes(action: str, detail: Json) -> tuple[str, ...]:
    """What was written instead of what, and what was known to speak against it."""
    notes = []
    if action == "edit":
        for name, (before, after) in (detail.get("fields") or {}).items():
            if before is None and after is None:
                continue
            notes.append(
                gettext(
                    "%(field)s: %(before)s → %(after)s",
                    field=str(FIELDS.get(name, name)),
                    before=value_word(name, before),
                    after=value_word(name, after),
                )
            )
    if action == "edit_many":
        notes += [
            gettext("%(field)s: %(value)s", field=str(FIELDS[name]), value=value_word(name, value))
            for name, value in (detail.get("set") or {}).items()
            if name in FIELDS
        ]
    if action == "annotation.edit" and "photos" in detail:
        notes += [
            gettext("%(field)s: %(value)s", field=str(SAID[name]), value=str(detail[name]))
            for name in SAID
            if detail.get(name)
        ]
    if detail.get("rejected"):
        notes.append(gettext("Somebody had said that they are different."))
    return tuple(notes)


def value_word(name: str, value: Any) -> str:
    """A value of a field as people read it."""
    if value in (None, "", []):
        return gettext("nothing")
    if name in VALUES:
        return str(VALUES[name].get(str(value), value))
    if name == "taxon":
        return str(terms.common_name(value) or value)
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return text if len(text) <= LONG_TEXT else f"{text[:LONG_TEXT]}…"
