"""What an operation on identities has to know: who is locked, what moves, what people said."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Row, text
from sqlalchemy.orm import Session

from db.errors import Conflict, NotFound
from db.types import Verdict


@dataclass(frozen=True, slots=True)
class LockedIndividual:
    """An individual that nobody else can change before the transaction ends."""

    id: UUID
    catalogue_id: UUID
    taxon_id: int | None
    name: str
    taxon: str | None


@dataclass(frozen=True, slots=True)
class OwnName:
    """One of an individual's names."""

    id: int
    name: str
    catalogue_id: UUID
    is_primary: bool


@dataclass(frozen=True, slots=True)
class Extent:
    """How much annotations are: themselves, their photos, the encounters they belong to."""

    annotations: int
    photos: int
    encounters: int


@dataclass(frozen=True, slots=True)
class VerdictRow:
    """A verdict that stands, with the names of today. Individuals are those after merges; `other`
    is the second of two that were called different, or else whom the annotation shows now."""

    decision_id: UUID
    verdict: Verdict
    annotation_id: int | None
    individual_id: UUID
    individual_name: str | None
    other_id: UUID | None
    other_name: str | None
    reviewer: str
    note: str | None
    created_at: datetime


# ---------------------------------------------------------------- locks


def lock_individuals(
    session: Session, ids: Iterable[UUID], *, follow: bool
) -> list[LockedIndividual]:
    """The individuals in the order asked for, locked; `follow`: the ones they were merged into.

    Raises:
        NotFound: `individual_unknown`, `individual_withdrawn`.
        Conflict: `individual_merged`, without `follow`; `values` hold into whom.
    """
    wanted = list(ids)
    while True:
        if follow:
            wanted = [row.merged_into_id or row.id for row in _individuals(session, wanted)]
        session.execute(
            text("SELECT id FROM individual WHERE id = ANY(:ids) ORDER BY id FOR UPDATE"),
            {"ids": wanted},
        )
        rows = _individuals(session, wanted)
        # One of them may have been merged while this waited for its lock.
        if not follow or all(row.merged_into_id is None for row in rows):
            break
    for row in rows:
        if row.withdrawn:
            raise withdrawn(row.id)
        if row.merged_into_id is not None:
            raise Conflict(
                "individual_merged",
                f"Individual {row.id} was merged into {row.merged_into_id}; name that one.",
                individual_id=str(row.id),
                merged_into_id=str(row.merged_into_id),
            )
    return [
        LockedIndividual(row.id, row.catalogue_id, row.taxon_id, row.name, row.scientific_name)
        for row in rows
    ]


def _individuals(session: Session, ids: Sequence[UUID]) -> list[Row[Any]]:
    rows = session.execute(
        text(
            "SELECT i.id, i.catalogue_id, i.taxon_id, i.withdrawn, i.merged_into_id,"
            " t.scientific_name, coalesce((SELECT n.name FROM individual_name n"
            "  WHERE n.individual_id = i.id ORDER BY n.is_primary DESC, n.id LIMIT 1),"
            "  i.id::text) AS name"
            " FROM individual i LEFT JOIN taxon t ON t.id = i.taxon_id WHERE i.id = ANY(:ids)"
        ),
        {"ids": list(ids)},
    )
    found = {row.id: row for row in rows}
    for individual_id in ids:
        if individual_id not in found:
            raise NotFound(
                "individual_unknown",
                f"No individual has the id {individual_id}.",
                individual_id=str(individual_id),
            )
    return [found[individual_id] for individual_id in ids]


def withdrawn(individual_id: UUID) -> NotFound:
    """The error for an individual whose making was undone."""
    return NotFound(
        "individual_withdrawn",
        f"Individual {individual_id} is no more: adding it was undone. Its history says by whom.",
        individual_id=str(individual_id),
    )


def lock_annotations(session: Session, ids: Iterable[int]) -> dict[int, UUID | None]:
    """Whom the annotations show, merges followed; all of them locked.

    Raises:
        NotFound: `annotation_unknown`.
    """
    wanted = sorted(set(ids))
    session.execute(
        text("SELECT id FROM annotation WHERE id = ANY(:ids) ORDER BY id FOR UPDATE"),
        {"ids": wanted},
    )
    rows = session.execute(
        text(
            "SELECT a.id, coalesce(i.merged_into_id, i.id) AS individual_id FROM annotation a"
            " LEFT JOIN individual i ON i.id = a.individual_id WHERE a.id = ANY(:ids)"
        ),
        {"ids": wanted},
    )
    found = {row.id: row.individual_id for row in rows}
    for annotation_id in wanted:
        if annotation_id not in found:
            raise NotFound(
                "annotation_unknown",
                f"No annotation has the id {annotation_id}.",
                annotation_id=annotation_id,
            )
    return found


# ---------------------------------------------------------------- individuals


def insert_withdrawn(session: Session, catalogue_id: UUID, values: dict[str, Any]) -> UUID:
    """A row for an individual that is to be: it counts nowhere before it is no longer withdrawn."""
    columns = ", ".join(values)
    made: UUID = session.execute(
        text(
            f"INSERT INTO individual (catalogue_id, withdrawn, {columns})"
            f" VALUES (:catalogue_id, true, {', '.join(f':{name}' for name in values)})"
            " RETURNING id"
        ),
        {"catalogue_id": catalogue_id, **values},
    ).scalar_one()
    return made


def merged_into(session: Session, individual_id: UUID) -> list[UUID]:
    """Those that were merged into this one, itself not among them."""
    return list(
        session.scalars(
            text("SELECT id FROM individual WHERE merged_into_id = :id ORDER BY id"),
            {"id": individual_id},
        )
    )


def names_of(session: Session, individual_ids: Sequence[UUID]) -> list[OwnName]:
    """The names that these very individuals have, the primary ones first."""
    rows = session.execute(
        text(
            "SELECT id, name, catalogue_id, is_primary FROM individual_name"
            " WHERE individual_id = ANY(:ids) ORDER BY is_primary DESC, id"
        ),
        {"ids": list(individual_ids)},
    )
    return [OwnName(*row) for row in rows]


def name_holder(session: Session, catalogue_id: UUID, name: str) -> tuple[int, UUID] | None:
    """(name row, individual after merges) that has this name in the catalogue, whatever the
    case."""
    row = session.execute(
        text(
            "SELECT n.id, coalesce(i.merged_into_id, i.id) FROM individual_name n"
            " JOIN individual i ON i.id = n.individual_id"
            " WHERE n.catalogue_id = :catalogue AND lower(n.name) = lower(:name)"
        ),
        {"catalogue": catalogue_id, "name": name},
    ).one_or_none()
    return None if row is None else (row[0], row[1])


def take_reservation(session: Session, catalogue_id: UUID, name: str, principal: str) -> str | None:
    """Give up the caller's own reservation of a name, which is about to be given; who else has
    reserved it, if anybody has."""
    row = session.execute(
        text(
            "SELECT principal FROM name_reservation WHERE catalogue_id = :catalogue"
            " AND lower(name) = lower(:name) AND until > now() AND principal <> :principal"
        ),
        {"catalogue": catalogue_id, "name": name, "principal": principal},
    ).one_or_none()
    if row is not None:
        return str(row.principal)
    session.execute(
        text(
            "DELETE FROM name_reservation WHERE catalogue_id = :catalogue"
            " AND lower(name) = lower(:name)"
        ),
        {"catalogue": catalogue_id, "name": name},
    )
    return None


# ---------------------------------------------------------------- annotations


def annotations_of(session: Session, individual_id: UUID) -> list[int]:
    """Every annotation of an individual and of those merged into it, ascending."""
    return list(
        session.scalars(
            text(
                "SELECT a.id FROM annotation a JOIN individual i ON i.id = a.individual_id"
                " WHERE coalesce(i.merged_into_id, i.id) = :id ORDER BY a.id"
            ),
            {"id": individual_id},
        )
    )


def extent_of(session: Session, annotation_ids: Sequence[int]) -> Extent:
    """How many photos and encounters these annotations belong to."""
    row = session.execute(
        text(
            "SELECT count(*), count(DISTINCT media_id), count(DISTINCT encounter_id)"
            " FROM annotation WHERE id = ANY(:ids)"
        ),
        {"ids": list(annotation_ids)},
    ).one()
    return Extent(*row)


# ---------------------------------------------------------------- verdicts

# Votes are opinions before a decision; a decision that was undone says nothing any more.
_STANDING = """
    FROM review r
    JOIN individual named ON named.id = r.individual_id
    JOIN individual i ON i.id = coalesce(named.merged_into_id, named.id)
    LEFT JOIN annotation a ON a.id = r.annotation_id
    LEFT JOIN individual shown ON shown.id = coalesce(r.other_individual_id, a.individual_id)
    LEFT JOIN individual o ON o.id = coalesce(shown.merged_into_id, shown.id)
    WHERE NOT r.is_vote AND NOT EXISTS (SELECT FROM review u WHERE u.undoes = r.decision_id)
"""

_VERDICT = f"""
    SELECT r.decision_id, r.verdict, r.annotation_id,
        i.id AS individual_id, (SELECT n.name FROM individual_name n
            WHERE n.individual_id = i.id AND n.is_primary) AS individual_name,
        o.id AS other_id, (SELECT n.name FROM individual_name n
            WHERE n.individual_id = o.id AND n.is_primary) AS other_name,
        r.reviewer, r.note, r.created_at
    {_STANDING}
"""


def verdicts_between(session: Session, one: UUID, other: UUID) -> list[VerdictRow]:
    """Who said that two individuals are different, of the two or of an annotation of one and the
    other; the latest first."""
    rows = session.execute(
        text(
            f"{_VERDICT} AND r.verdict = 'different' AND r.individual_id IN (SELECT id FROM"
            "  individual WHERE coalesce(merged_into_id, id) IN (:one, :other))"
            " AND (i.id, o.id) IN ((:one, :other), (:other, :one))"
            " ORDER BY r.created_at DESC, r.id"
        ),
        {"one": one, "other": other},
    )
    return [_verdict(row) for row in rows]


def verdicts_against(
    session: Session, annotation_ids: Sequence[int], individual_id: UUID | None
) -> list[VerdictRow]:
    """What speaks against giving annotations to an individual (or to nobody): who said that they
    show another, or that they do not show this one; the latest first."""
    rows = session.execute(
        text(
            f"{_VERDICT} AND r.annotation_id = ANY(:annotations) AND ((r.verdict = 'different'"
            "  AND r.other_individual_id IS NULL AND i.id = cast(:individual AS uuid))"
            " OR (r.verdict IN ('same', 'new')"
            "  AND i.id IS DISTINCT FROM cast(:individual AS uuid)"
            "  AND i.id = o.id)) ORDER BY r.created_at DESC, r.id"
        ),
        {"annotations": list(annotation_ids), "individual": individual_id},
    )
    return [_verdict(row) for row in rows]


def _verdict(row: Row[Any]) -> VerdictRow:
    return VerdictRow(
        decision_id=row.decision_id,
        verdict=Verdict(row.verdict),
        annotation_id=row.annotation_id,
        individual_id=row.individual_id,
        individual_name=row.individual_name,
        other_id=row.other_id,
        other_name=row.other_name,
        reviewer=row.reviewer,
        note=row.note,
        created_at=row.created_at,
    )


def rejected_pairs(session: Session) -> set[tuple[UUID, UUID]]:
    """Every two individuals that somebody said are different, the smaller id first."""
    rows = session.execute(
        text(
            "SELECT DISTINCT least(i.id, o.id), greatest(i.id, o.id)"
            f" {_STANDING} AND r.verdict = 'different' AND i.id <> o.id"
        )
    )
    return {(row[0], row[1]) for row in rows}


# ---------------------------------------------------------------- what suggestions are made of


@dataclass(frozen=True, slots=True)
class ShownRow:
    """Whom an annotation shows now, merges followed, and on which photo."""

    annotation_id: int
    media_id: int
    individual_id: UUID


@dataclass(frozen=True, slots=True)
class Pulse:
    """What changes when suggestions may be others."""

    model_id: int
    vectors: int
    last_change: int
    verdicts: int
    rules: str


def pulse(session: Session, model_id: int) -> Pulse:
    """Read it before what is computed from it."""
    row = session.execute(
        text(
            "SELECT (SELECT count(*) FROM embedding WHERE model_id = :model),"
            " (SELECT coalesce(max(id), 0) FROM change),"
            " (SELECT count(*) FROM review WHERE verdict IN ('different', 'undo')),"
            " (SELECT concat(count(*), ' ', max(created_at)) FROM viewpoint_rule)"
        ),
        {"model": model_id},
    ).one()
    return Pulse(model_id, *row)


def matchable_annotations(session: Session, individual_id: UUID | None = None) -> list[ShownRow]:
    """Annotations that a search may answer with, of one individual or all; by individual, then
    ascending."""
    own = "AND coalesce(i.merged_into_id, i.id) = :individual" if individual_id else ""
    rows = session.execute(
        text(
            "SELECT a.id, a.media_id, coalesce(i.merged_into_id, i.id) AS individual_id"
            " FROM annotation a JOIN individual i ON i.id = a.individual_id"
            f" WHERE a.matchable {own} ORDER BY 3, 1"
        ),
        {"individual": individual_id},
    )
    return [ShownRow(*row) for row in rows]


def shown_now(session: Session, annotation_ids: Sequence[int]) -> dict[int, ShownRow]:
    """Those among `annotation_ids` that show somebody and are searched, by id."""
    rows = session.execute(
        text(
            "SELECT a.id, a.media_id, coalesce(i.merged_into_id, i.id) AS individual_id"
            " FROM annotation a JOIN individual i ON i.id = a.individual_id"
            " WHERE a.matchable AND a.id = ANY(:ids)"
        ),
        {"ids": list(annotation_ids)},
    )
    return {row.id: ShownRow(*row) for row in rows}


def photo_counts(session: Session, individual_ids: Sequence[UUID]) -> dict[UUID, int]:
    """How many photos show each of these individuals, merges included."""
    rows = session.execute(
        text(
            "SELECT wanted.id, count(DISTINCT a.media_id) FROM unnest(cast(:ids AS uuid[]))"
            " wanted(id) JOIN individual i ON coalesce(i.merged_into_id, i.id) = wanted.id"
            " LEFT JOIN annotation a ON a.individual_id = i.id GROUP BY wanted.id"
        ),
        {"ids": list(individual_ids)},
    )
    return {row[0]: row[1] for row in rows}


def photographed_together(session: Session) -> set[tuple[UUID, UUID]]:
    """Every two individuals that one photo shows side by side, the smaller id first: they are not
    one animal."""
    rows = session.execute(
        text(
            "SELECT DISTINCT coalesce(i.merged_into_id, i.id), coalesce(o.merged_into_id, o.id)"
            " FROM annotation a JOIN annotation b ON b.media_id = a.media_id"
            "  AND b.catalogue_id = a.catalogue_id AND b.id <> a.id"
            " JOIN individual i ON i.id = a.individual_id"
            " JOIN individual o ON o.id = b.individual_id"
            " WHERE coalesce(i.merged_into_id, i.id) < coalesce(o.merged_into_id, o.id)"
        )
    )
    return {(row[0], row[1]) for row in rows}


def add_rejected_pair(
    session: Session,
    one: UUID,
    other: UUID,
    reviewer: str,
    account_id: int | None,
    note: str | None,
) -> UUID:
    """Somebody says that two individuals are different; the decision."""
    decision: UUID = session.execute(
        text(
            "INSERT INTO review (verdict, individual_id, other_individual_id, reviewer, account_id,"
            " note) VALUES ('different', :one, :other, :reviewer, :account, :note)"
            " RETURNING decision_id"
        ),
        {
            "one": one,
            "other": other,
            "reviewer": reviewer,
            "account": account_id,
            "note": note,
        },
    ).scalar_one()
    return decision
