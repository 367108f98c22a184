"""Who is who: operations on individuals, each whole or not at all, and each to be undone.

An operation is one change of the journal inside the caller's transaction. With `preview` the same
code runs and what it wrote is taken back, so that a preview says what would really happen.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final
from uuid import UUID

from sqlalchemy.orm import Session

from db.errors import Conflict, Invalid, NotFound
from db.queries import catalogue, changes
from db.queries import identity as rows
from db.queries.catalogue import IndividualRow
from db.queries.changes import Actor, Journal
from db.queries.identity import Extent, LockedIndividual, OwnName
from db.types import LifeStage, Sex, Vitality
from indexer.answers import IndividualRef, Json
from indexer.etags import etag_of, require_etag
from indexer.outcomes import Contradiction, Counts, Outcome, contradictions_of

MAX_ANNOTATIONS: Final = 10_000
"""Annotations that one change may write."""
_LINK: Final = re.compile(r"https?://[^\s<>\"]+")
"""What can be shown as a link: nothing that a browser would run."""
EDITABLE: Final = frozenset({"sex", "vitality", "life_stage", "taxon", "notes", "links"})


# ---------------------------------------------------------------- parts of other operations


def new_individual(
    session: Session,
    journal: Journal,
    actor: Actor,
    *,
    catalogue_id: UUID,
    name: str,
    taxon_id: int | None = None,
    sex: Sex = Sex.UNKNOWN,
    vitality: Vitality = Vitality.UNKNOWN,
    life_stage: LifeStage = LifeStage.UNKNOWN,
    notes: str | None = None,
) -> IndividualRow:
    """A new individual, written through `journal`: undoing the change withdraws it.

    Raises:
        Conflict: `individual_name_taken` with the `individual_id` that has the name;
            `name_reserved`: somebody else is about to give it. The session can be used on.
        Invalid: the name is blank.
    """
    cleaned = catalogue.clean_name(name)
    _check_reserved(session, actor, catalogue_id, cleaned)
    with session.begin_nested():
        made = rows.insert_withdrawn(
            session,
            catalogue_id,
            {
                "taxon_id": taxon_id,
                "sex": str(sex),
                "vitality": str(vitality),
                "life_stage": str(life_stage),
                "notes": notes,
            },
        )
        _insert_name(session, journal, made, catalogue_id, cleaned, is_primary=True)
        journal.update("individual", made, {"withdrawn": False})
    return catalogue.get_individual(session, made)


def assign(
    session: Session,
    journal: Journal,
    annotation_ids: Sequence[int],
    individual_id: UUID | None,
) -> tuple[int, ...]:
    """Say whom annotations show, None for nobody knows; those that showed another before. Merges
    are followed.

    Raises:
        NotFound: an annotation or the individual is not there (any more).
    """
    target = individual_id
    if individual_id is not None:
        target = rows.lock_individuals(session, [individual_id], follow=True)[0].id
    present = rows.lock_annotations(session, annotation_ids)
    moved = tuple(id_ for id_, shown in present.items() if shown != target)
    journal.update_many("annotation", moved, {"individual_id": target and str(target)})
    return moved


# ---------------------------------------------------------------- the operations


@dataclass(frozen=True, slots=True)
class _Done:
    """What an operation tells of itself."""

    action: str
    detail: Json
    individual: LockedIndividual | None = None
    extent: Extent | None = None
    names: int = 0
    contradictions: tuple[Contradiction, ...] = ()


@dataclass(frozen=True, slots=True)
class Identity:
    """The operations of one person in one transaction; the caller commits.

    Each raises `NotFound` for ids that are unknown or withdrawn, and leaves the session usable.
    """

    session: Session
    actor: Actor
    preview: bool = field(default=False)

    # ------------------------------------------------------------ names

    def rename(self, individual_id: UUID, name: str, *, keep_alias: bool = True) -> Outcome:
        """Another primary name; the old one stays an alias unless told otherwise.

        Raises:
            Conflict: `individual_name_taken`, `name_reserved`.
            Invalid: the name is blank.
        """

        def work(journal: Journal) -> _Done:
            [who] = rows.lock_individuals(self.session, [individual_id], follow=True)
            names = rows.names_of(self.session, [who.id])
            old = next((one for one in names if one.is_primary), None)
            written = self._rename(journal, who, names, old, catalogue.clean_name(name), keep_alias)
            detail = {"individual": _ref(who), "from": who.name, "to": name.strip()}
            return _Done("rename", detail, who, names=written)

        return self._run(work)

    def _rename(
        self,
        journal: Journal,
        who: LockedIndividual,
        names: list[OwnName],
        old: OwnName | None,
        name: str,
        keep_alias: bool,
    ) -> int:
        """How many names were written."""
        before = len(journal.images)
        home = old.catalogue_id if old is not None else who.catalogue_id
        alias = next((n for n in names if _is(n, home, name)), None)
        if alias is None:
            _check_reserved(self.session, self.actor, home, name)
        if old is not None and (alias == old or (alias is None and not keep_alias)):
            self._write_name(journal, old.id, home, name)
        else:
            if old is not None and keep_alias:
                journal.update("individual_name", old.id, {"is_primary": False})
            elif old is not None:
                journal.delete("individual_name", old.id)
            if alias is not None:
                journal.update("individual_name", alias.id, {"name": name, "is_primary": True})
            else:
                _insert_name(self.session, journal, who.id, home, name, is_primary=True)
        return len(journal.images) - before

    def _write_name(self, journal: Journal, name_id: int, catalogue_id: UUID, name: str) -> None:
        holder = rows.name_holder(self.session, catalogue_id, name)
        if holder is not None and holder[0] != name_id:
            raise _taken(name, holder[1])
        journal.update("individual_name", name_id, {"name": name})

    def add_name(
        self, individual_id: UUID, name: str, *, catalogue_name: str | None = None
    ) -> Outcome:
        """One more name, in the individual's own catalogue or another, which is made if need be.

        Raises:
            Conflict: `individual_name_taken`, `name_reserved`.
            Invalid: the name is blank.
        """

        def work(journal: Journal) -> _Done:
            [who] = rows.lock_individuals(self.session, [individual_id], follow=True)
            home = who.catalogue_id
            if catalogue_name is not None:
                home = catalogue.ensure_catalogue(self.session, catalogue_name).id
            cleaned = catalogue.clean_name(name)
            _check_reserved(self.session, self.actor, home, cleaned)
            primary = not any(n.is_primary for n in rows.names_of(self.session, [who.id]))
            made = _insert_name(self.session, journal, who.id, home, cleaned, is_primary=primary)
            detail = {"individual": _ref(who), "name": cleaned, "name_id": made}
            return _Done("add_name", detail, who, names=1)

        return self._run(work)

    def remove_name(self, individual_id: UUID, name_id: int) -> Outcome:
        """One name less; another has to be the primary one first.

        Raises:
            NotFound: `name_unknown`: it is not one of this individual.
            Conflict: `name_is_primary`.
        """

        def work(journal: Journal) -> _Done:
            [who] = rows.lock_individuals(self.session, [individual_id], follow=True)
            own = [who.id, *rows.merged_into(self.session, who.id)]
            found = [n for n in rows.names_of(self.session, own) if n.id == name_id]
            if not found:
                raise NotFound(
                    "name_unknown", f"{who.name} has no name with the id {name_id}.", id=name_id
                )
            if found[0].is_primary:
                raise Conflict(
                    "name_is_primary",
                    f"{found[0].name!r} is the name that {who.name} is shown under; rename it "
                    "first, and then remove this one.",
                    name_id=name_id,
                )
            journal.delete("individual_name", name_id)
            detail = {"individual": _ref(who), "name": found[0].name}
            return _Done("remove_name", detail, who, names=1)

        return self._run(work)

    # ------------------------------------------------------------ fields

    def edit(
        self, individual_id: UUID, fields: Mapping[str, Any], *, if_match: str | None = None
    ) -> Outcome:
        """Write some of sex, vitality, life_stage, taxon (any of its names, or None), notes and
        links (a list of addresses); what is left out stays.

        Raises:
            Conflict: `changed_meanwhile`: `if_match` is not the tag of what is there now.
            Invalid: a field is unknown or has an impossible value.
        """

        def work(journal: Journal) -> _Done:
            [who] = rows.lock_individuals(self.session, [individual_id], follow=True)
            present = catalogue.get_individual(self.session, who.id)
            require_etag(if_match, etag_of_individual(present), present.name)
            unknown = set(fields) - EDITABLE
            if unknown:
                raise Invalid(
                    "field_unknown",
                    f"Of an individual {', '.join(sorted(EDITABLE))} can be edited, not "
                    f"{', '.join(sorted(unknown))}.",
                )
            _check_links(fields.get("links"))
            values = {name: value for name, value in fields.items() if name != "taxon"}
            if "taxon" in fields:
                label = fields["taxon"]
                values["taxon_id"] = catalogue.ensure_taxon(self.session, label) if label else None
            journal.update("individual", who.id, values)
            written = {
                name: [image.before and image.before[name], image.after and image.after[name]]
                for image in journal.images
                for name in image.after or {}
            }
            if "taxon_id" in written:
                del written["taxon_id"]
                now = catalogue.get_individual(self.session, who.id)
                written["taxon"] = [present.taxon, now.taxon]
            return _Done("edit", {"individual": _ref(who), "fields": written}, who)

        return self._run(work)

    # ------------------------------------------------------------ who is who

    def merge(self, kept_id: UUID, other_id: UUID, *, confirm_rejected: bool = False) -> Outcome:
        """Say that `other` is `kept`: from now on it redirects there, as do all that redirected to
        it, and its names become aliases. Annotations keep knowing whose they were.

        Raises:
            Conflict: `merge_rejected_pair`, unless confirmed: somebody said that they are
                different, `contradictions` say who; `individual_merged`: one of them is merged
                already.
            Invalid: `merge_with_itself`.
        """

        def work(journal: Journal) -> _Done:
            if kept_id == other_id:
                raise Invalid("merge_with_itself", "An individual cannot be merged with itself.")
            kept, other = rows.lock_individuals(self.session, [kept_id, other_id], follow=False)
            against = contradictions_of(rows.verdicts_between(self.session, kept.id, other.id))
            if against and not confirm_rejected and not self.preview:
                raise Conflict(
                    "merge_rejected_pair",
                    f"{against[0].reviewer} said that {kept.name} and {other.name} are different; "
                    "merge them with `confirm_rejected` if that was a mistake.",
                    contradictions=[one.as_json() for one in against],
                )
            moved = rows.annotations_of(self.session, other.id)
            pointing = [other.id, *rows.merged_into(self.session, other.id)]
            names = rows.names_of(self.session, pointing)
            journal.update_many(
                "individual_name",
                [one.id for one in names],
                {"individual_id": str(kept.id), "is_primary": False},
            )
            journal.update_many("individual", pointing, {"merged_into_id": str(kept.id)})
            extent = rows.extent_of(self.session, moved)
            detail = {"kept": _ref(kept), "other": _ref(other), "rejected": len(against)}
            return _Done("merge", detail, kept, extent, len(names), against)

        return self._run(work)

    def split(
        self,
        individual_id: UUID,
        annotation_ids: Sequence[int],
        *,
        name: str | None = None,
        into: UUID | None = None,
    ) -> Outcome:
        """Take some annotations of an individual to a new one (with a name, or one made of the
        old) or to one that is there (`into`).

        Raises:
            Conflict: `annotation_of_other`: one shows another individual;
                `individual_name_taken`, `name_reserved`.
            Invalid: `split_takes_all`: none would be left; `split_into_itself`; none is given.
        """

        def work(journal: Journal) -> _Done:
            both = [individual_id] if into is None else [individual_id, into]
            source, *given = rows.lock_individuals(self.session, both, follow=True)
            self._check_split(source, annotation_ids)
            if not given:
                target = self._split_off(journal, source, name)
            elif given[0].id == source.id:
                raise Invalid("split_into_itself", f"{source.name} cannot be split into itself.")
            else:
                target = given[0]
            moved = self._move(journal, annotation_ids, target.id)
            detail = {"from": _ref(source), "to": _ref(target), "made": not given}
            return _Done("split", detail, target, moved[0], not given, moved[1])

        return self._run(work)

    def _check_split(self, source: LockedIndividual, annotation_ids: Sequence[int]) -> None:
        shown = rows.lock_annotations(self.session, _some(annotation_ids))
        foreign = sorted(id_ for id_, who in shown.items() if who != source.id)
        if foreign:
            raise Conflict(
                "annotation_of_other",
                f"Annotation {foreign[0]} does not show {source.name} (any more); reload and "
                "choose again.",
                annotation_ids=[str(id_) for id_ in foreign],
            )
        if len(shown) == len(rows.annotations_of(self.session, source.id)):
            raise Invalid(
                "split_takes_all",
                f"Those are all photos of {source.name}; leave at least one, or rename it.",
            )

    def _split_off(
        self, journal: Journal, source: LockedIndividual, name: str | None
    ) -> LockedIndividual:
        made = new_individual(
            self.session,
            journal,
            self.actor,
            catalogue_id=source.catalogue_id,
            name=self._free_name(source) if name is None else name,
            taxon_id=source.taxon_id,
        )
        return LockedIndividual(made.id, made.catalogue_id, made.taxon_id, made.name, made.taxon)

    def _free_name(self, source: LockedIndividual) -> str:
        number = 2
        while rows.name_holder(self.session, source.catalogue_id, f"{source.name} {number}"):
            number += 1
        return f"{source.name} {number}"

    def reassign(self, annotation_ids: Sequence[int], individual_id: UUID | None) -> Outcome:
        """Say whom annotations show, of whomever they were; None: nobody knows. Those that show
        this individual already are left as they are, and not counted."""

        def work(journal: Journal) -> _Done:
            target = None
            if individual_id is not None:
                [target] = rows.lock_individuals(self.session, [individual_id], follow=True)
            shown = rows.lock_annotations(self.session, _some(annotation_ids))
            before = {who for who in shown.values() if who is not None}
            named = catalogue.get_individuals(self.session, sorted(before))
            wanted = None if target is None else target.id
            extent, against = self._move(journal, annotation_ids, wanted)
            detail = {
                "from": [{"id": str(one.id), "name": one.name} for one in named.values()],
                "to": None if target is None else _ref(target),
            }
            return _Done("reassign", detail, target, extent, 0, against)

        return self._run(work)

    def _move(
        self, journal: Journal, annotation_ids: Sequence[int], target: UUID | None
    ) -> tuple[Extent, tuple[Contradiction, ...]]:
        # Read before: a verdict contradicts where the annotations are now, not where they will be.
        against = rows.verdicts_against(self.session, annotation_ids, target)
        moved = assign(self.session, journal, annotation_ids, target)
        speaking = [one for one in against if one.annotation_id in set(moved)]
        return rows.extent_of(self.session, moved), contradictions_of(speaking)

    def flag(
        self,
        annotation_ids: Sequence[int],
        *,
        is_reference: bool | None = None,
        matchable: bool | None = None,
    ) -> Outcome:
        """Choose annotations to stand for their individuals, or leave them out of every search;
        those that are so already are not counted."""

        def work(journal: Journal) -> _Done:
            given = {"is_reference": is_reference, "matchable": matchable}
            flags = {name: value for name, value in given.items() if value is not None}
            if not flags:
                raise Invalid("nothing_to_set", "Give `is_reference` or `matchable`.")
            rows.lock_annotations(self.session, _some(annotation_ids))
            written = journal.update_many("annotation", annotation_ids, flags)
            extent = rows.extent_of(self.session, [int(key) for key in written])
            return _Done("flag", {"flags": flags}, None, extent)

        return self._run(work)

    # ------------------------------------------------------------ undo

    def undo(self, change_id: int) -> Outcome:
        """Take a change back, whole, an undo included; its counts are those of the change.

        Raises:
            NotFound: `change_unknown`.
            Conflict: `change_superseded` with `blocking_id`; `change_undone`;
                `change_of_decision`: it carried out the decision `decision_id`, which is undone
                instead.
        """
        self._check_own(change_id)
        with self.session.begin_nested() as savepoint:
            made = changes.undo(self.session, change_id, self.actor)
            if self.preview:
                savepoint.rollback()
        counts = Counts(**made.detail.get("counts", {}))
        return Outcome("undo", self.preview, None if self.preview else made.id, None, counts)

    def _check_own(self, change_id: int) -> None:
        change = changes.get_change(self.session, change_id)
        origin = change
        if change.undoes_id is not None:
            origin = changes.get_change(self.session, change.undoes_id)
        if origin.decision_id is not None:
            raise Conflict(
                "change_of_decision",
                f"Change {change_id} belongs to a review by {origin.principal}; undo the review, "
                "or decide it again.",
                decision_id=str(origin.decision_id),
            )

    # ------------------------------------------------------------ how all of them run

    def _run(self, work: Callable[[Journal], _Done]) -> Outcome:
        with self.session.begin_nested() as savepoint:
            journal = Journal(self.session)
            done = work(journal)
            counts = Counts(**asdict(done.extent) if done.extent else {}, names=done.names)
            individual = self._ref_now(done.individual)
            change = None
            if self.preview:
                savepoint.rollback()
            elif journal.images:
                detail = done.detail | {"counts": asdict(counts)}
                change = journal.close(self.actor, done.action, detail)
        return Outcome(
            action=done.action,
            preview=self.preview,
            change_id=None if change is None else change.id,
            individual=individual,
            counts=counts,
            contradictions=done.contradictions,
        )

    def _ref_now(self, individual: LockedIndividual | None) -> IndividualRef | None:
        if individual is None:
            return None
        now = catalogue.get_individual(self.session, individual.id)
        return IndividualRef(str(now.id), now.name, now.taxon)


def etag_of_individual(individual: IndividualRow) -> str:
    """The tag of an individual's own fields and names; its photos do not count."""
    return etag_of(asdict(individual))


def _some(annotation_ids: Sequence[int]) -> Sequence[int]:
    if not annotation_ids:
        raise Invalid("no_annotations", "Name at least one annotation.")
    if len(annotation_ids) > MAX_ANNOTATIONS:
        raise Invalid(
            "too_many_annotations",
            f"One change writes up to {MAX_ANNOTATIONS:,} annotations, not "
            f"{len(annotation_ids):,}; do it in parts.",
        )
    return annotation_ids


def _check_links(links: Sequence[str] | None) -> None:
    for link in links or ():
        if not _LINK.fullmatch(link):
            raise Invalid(
                "link_invalid",
                f"{link!r} is not the address of a page; it starts with http:// or https://.",
                link=link,
            )


def _insert_name(
    session: Session,
    journal: Journal,
    individual_id: UUID,
    catalogue_id: UUID,
    name: str,
    *,
    is_primary: bool,
) -> int:
    """The new name's id; of two at once that give the same name, one waits and is refused."""
    values = {
        "individual_id": str(individual_id),
        "catalogue_id": str(catalogue_id),
        "name": name,
        "is_primary": is_primary,
    }
    try:
        with session.begin_nested():
            return int(journal.insert("individual_name", values)["id"])
    except Conflict as refused:
        holder = rows.name_holder(session, catalogue_id, name)
        if holder is None:
            raise
        raise _taken(name, holder[1]) from refused


def _taken(name: str, holder: UUID) -> Conflict:
    return Conflict(
        "individual_name_taken",
        f"An individual named {name!r} is in this catalogue already (upper and lower case are the "
        "same); use that one, or choose another name.",
        name=name,
        individual_id=str(holder),
    )


def _check_reserved(session: Session, actor: Actor, catalogue_id: UUID, name: str) -> None:
    by = rows.take_reservation(session, catalogue_id, name, actor.principal)
    if by is not None:
        raise Conflict(
            "name_reserved",
            f"{by} is about to give the name {name!r}; choose another one.",
            name=name,
            by=by,
        )


def _is(one: OwnName, catalogue_id: UUID, name: str) -> bool:
    return one.catalogue_id == catalogue_id and one.name.lower() == name.lower()


def _ref(individual: LockedIndividual) -> Json:
    return {"id": str(individual.id), "name": individual.name}
