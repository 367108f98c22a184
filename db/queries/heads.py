"""Heads, the individuals behind their slots, and index snapshots."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import func, select, text, update
from sqlalchemy.orm import Session

from db.errors import Conflict, NotFound, translated
from db.queries.copying import fetch
from db.queries.taxa import TAXON_BY_LABEL
from db.tables import EmbeddingModel, Head, HeadRows, HeadSlot, IndexSnapshot
from db.types import HeadSource, SnapshotState


@dataclass(frozen=True, slots=True)
class HeadRow:
    id: int
    model_id: int
    version: str
    slot_count: int
    mapped_count: int
    scale: float
    min_probability: float
    digest: str
    is_active: bool
    created_at: datetime
    source: HeadSource = HeadSource.BUNDLE
    activated_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class FittedSlot:
    """Whom a row of a fitted head stands for; `species` is a raw label, as class lists have."""

    individual_id: UUID
    label: str
    species: str | None


@dataclass(frozen=True, slots=True)
class SlotRow:
    """One ArcFace row. `label` is None for an individual without a name in the class list.

    `species` is the raw label of the class list; `taxon` and `taxon_common` are of the individual,
    or else of what that label means. `individual_id` is None while nobody of that name is known.
    """

    slot: int
    label: str | None
    species: str | None
    individual_id: UUID | None
    individual_name: str | None
    taxon: str | None
    taxon_common: str | None


@dataclass(frozen=True, slots=True)
class SnapshotRow:
    id: UUID
    model_id: int
    backend: str
    vector_count: int
    horizon_tx: int
    digest: str
    recall: float | None
    state: SnapshotState
    created_at: datetime


def register_head(
    session: Session,
    *,
    model_id: int,
    version: str,
    slots: Sequence[tuple[str | None, str | None]],
    scale: float,
    min_probability: float,
    digest: str,
) -> HeadRow:
    """Record a bundle's head; `slots` are (label, species) by slot number.

    A new one takes over from another one of a bundle. One that is known already stays as it is:
    which of two is in use is a person's decision then, as it is against a head that was fitted on
    this catalogue. Where no head is active, this one is.

    Raises:
        Conflict: the version exists with another digest.
    """
    _lock_space(session, model_id)
    active = active_head(session, model_id)
    known = session.scalar(
        select(Head.id).where(Head.model_id == model_id, Head.version == version)
    )
    takes_over = active is None or (active.source == HeadSource.BUNDLE and known is None)
    if takes_over:
        _deactivate(session, model_id)
    with translated():
        head_id: int | None = session.scalar(
            text(
                "INSERT INTO head (model_id, version, slot_count, mapped_count, scale,"
                " min_probability, digest, is_active, activated_at)"
                " VALUES (:model, :version, :slots, :mapped, :scale, :minimum, :digest, :active,"
                " CASE WHEN :active THEN clock_timestamp() END)"
                " ON CONFLICT (model_id, version) DO UPDATE"
                " SET is_active = head.is_active OR excluded.is_active,"
                " activated_at = coalesce(excluded.activated_at, head.activated_at)"
                " WHERE head.digest = excluded.digest RETURNING id"
            ),
            {
                "model": model_id,
                "version": version,
                "slots": len(slots),
                "mapped": sum(label is not None for label, _ in slots),
                "scale": scale,
                "minimum": min_probability,
                "digest": digest,
                "active": takes_over,
            },
        )
    if head_id is None:
        raise Conflict(
            "head_version_taken",
            f"The space {model_id} has a head {version!r} with another content; give the new one "
            "another version.",
            model_id=model_id,
            version=version,
        )
    session.execute(
        text(
            "INSERT INTO head_slot (head_id, slot, label, species)"
            " SELECT :head, number - 1, label, species"
            " FROM unnest(cast(:labels AS text[]), cast(:species AS text[]))"
            " WITH ORDINALITY slot(label, species, number) ON CONFLICT DO NOTHING"
        ),
        {
            "head": head_id,
            "labels": [label for label, _ in slots],
            "species": [species for _, species in slots],
        },
    )
    return _head(session.get_one(Head, head_id, populate_existing=True))


def _lock_space(session: Session, model_id: int) -> None:
    """Changes of a space's heads follow one another."""
    session.execute(
        select(EmbeddingModel.id)
        .where(EmbeddingModel.id == model_id)
        .with_for_update(key_share=True)
    )


def _deactivate(session: Session, model_id: int) -> None:
    session.execute(
        update(Head).where(Head.model_id == model_id, Head.is_active).values(is_active=False)
    )


def active_head(session: Session, model_id: int) -> HeadRow | None:
    found = session.scalars(
        select(Head)
        .where(Head.model_id == model_id, Head.is_active)
        .execution_options(populate_existing=True)
    ).one_or_none()
    return None if found is None else _head(found)


def get_head(session: Session, head_id: int) -> HeadRow:
    """Raises:
    NotFound: no head has this id.
    """
    found = session.get(Head, head_id, populate_existing=True)
    if found is None:
        raise NotFound(
            "head_unknown",
            f"No head has the id {head_id}; `resight head list` names those there are.",
            id=head_id,
        )
    return _head(found)


def list_heads(session: Session, model_id: int | None = None) -> list[HeadRow]:
    """Heads of a space (of all for None), newest first."""
    query = select(Head).order_by(Head.created_at.desc(), Head.id.desc())
    if model_id is not None:
        query = query.where(Head.model_id == model_id)
    return [_head(head) for head in session.scalars(query)]


def head_report(session: Session, head_id: int) -> dict[str, Any] | None:
    """What its fit measured; None for a bundle's head.

    Raises:
        NotFound: no head has this id.
    """
    get_head(session, head_id)
    report: dict[str, Any] | None = session.scalar(select(Head.report).where(Head.id == head_id))
    return report


def head_of_job(session: Session, job_id: UUID) -> HeadRow | None:
    """The head that a fit's job made."""
    found = session.scalars(
        select(Head).where(Head.report["job_id"].astext == str(job_id))
    ).one_or_none()
    return None if found is None else _head(found)


PART_SLOTS = 4096
"""Slots of one part of a fitted head's rows."""


def register_fitted(
    session: Session,
    *,
    model_id: int,
    slots: Sequence[FittedSlot],
    parts: Sequence[bytes],
    scale: float,
    min_probability: float,
    digest: str,
    report: dict[str, Any],
) -> HeadRow:
    """Store a fitted head under the next version `fit-N`; it is not active yet.

    `slots` by slot number, `parts` their unit rows, float32 little-endian, PART_SLOTS a part.
    """
    _lock_space(session, model_id)
    number = session.scalar(
        text(
            "SELECT coalesce(max(substr(version, 5)::int), 0) + 1 FROM head"
            " WHERE model_id = :model AND source = 'fit' AND version ~ '^fit-[0-9]{1,9}$'"
        ),
        {"model": model_id},
    )
    head = Head(
        model_id=model_id,
        version=f"fit-{number}",
        slot_count=len(slots),
        mapped_count=len(slots),
        scale=scale,
        min_probability=min_probability,
        digest=digest,
        is_active=False,
        source=HeadSource.FIT,
        report=report,
    )
    session.add(head)
    with translated():
        session.flush()
        session.execute(
            text(
                "INSERT INTO head_slot (head_id, slot, label, species, individual_id)"
                " SELECT :head, number - 1, label, species, individual FROM unnest("
                " cast(:labels AS text[]), cast(:species AS text[]), cast(:who AS uuid[]))"
                " WITH ORDINALITY slot(label, species, individual, number)"
            ),
            {
                "head": head.id,
                "labels": [slot.label for slot in slots],
                "species": [slot.species for slot in slots],
                "who": [slot.individual_id for slot in slots],
            },
        )
        session.add_all(
            HeadRows(head_id=head.id, part=part, rows=rows) for part, rows in enumerate(parts)
        )
        session.flush()
    return _head(head)


def head_rows(session: Session, head_id: int) -> list[bytes]:
    """The parts of a fitted head's rows, in slot order; none for a bundle's head."""
    return list(
        session.scalars(
            select(HeadRows.rows).where(HeadRows.head_id == head_id).order_by(HeadRows.part)
        )
    )


def head_slots(session: Session, head_id: int) -> list[tuple[str | None, str | None, UUID | None]]:
    """(label, species, individual of a fitted head) of every slot, in slot order."""
    return [
        (row.label, row.species, row.individual_id)
        for row in session.execute(
            select(HeadSlot.label, HeadSlot.species, HeadSlot.individual_id)
            .where(HeadSlot.head_id == head_id)
            .order_by(HeadSlot.slot)
        )
    ]


def activate_head(session: Session, head_id: int) -> HeadRow | None:
    """Make it the active head of its space; the one it takes over from, if there was one.

    Raises:
        NotFound: no head has this id.
        Conflict: it is active already.
    """
    wanted = get_head(session, head_id)
    _lock_space(session, wanted.model_id)
    former = active_head(session, wanted.model_id)
    if former is not None and former.id == head_id:
        raise Conflict(
            "head_active",
            f"The head {former.version} is the active one already.",
            id=head_id,
            version=former.version,
        )
    _deactivate(session, wanted.model_id)
    session.execute(
        update(Head)
        .where(Head.id == head_id)
        .values(is_active=True, activated_at=func.clock_timestamp())
    )
    return former


def former_head(session: Session, model_id: int) -> HeadRow | None:
    """The head that was active before the present one: of those not active, the one activated
    last. Heads of a bundle that were there before activations were dated come last."""
    found = session.scalars(
        select(Head)
        .where(
            Head.model_id == model_id,
            ~Head.is_active,
            Head.activated_at.is_not(None) | (Head.source == HeadSource.BUNDLE),
        )
        .order_by(Head.activated_at.desc().nulls_last(), Head.id.desc())
        .limit(1)
    ).one_or_none()
    return None if found is None else _head(found)


def _head(head: Head) -> HeadRow:
    return HeadRow(
        id=head.id,
        model_id=head.model_id,
        version=head.version,
        slot_count=head.slot_count,
        mapped_count=head.mapped_count,
        scale=head.scale,
        min_probability=head.min_probability,
        digest=head.digest,
        is_active=head.is_active,
        created_at=head.created_at,
        source=HeadSource(head.source),
        activated_at=head.activated_at,
    )


_SLOTS = f"""
    SELECT s.slot, s.label, s.species, i.id, shown.name, t.scientific_name, t.common_name
    FROM unnest(%(slots)s::int[]) WITH ORDINALITY wanted(slot, position)
    JOIN head_slot s ON s.head_id = %(head)s AND s.slot = wanted.slot
    JOIN head h ON h.id = s.head_id
    LEFT JOIN individual_name n
        ON h.source = 'bundle' AND n.catalogue_id = coalesce(%(catalogue)s,
            (SELECT id FROM catalogue WHERE lower(name) = 'main'))
        AND lower(n.name) = lower(s.label)
    LEFT JOIN individual named ON named.id = coalesce(s.individual_id, n.individual_id)
    LEFT JOIN individual i ON i.id = coalesce(named.merged_into_id, named.id) AND NOT i.withdrawn
    LEFT JOIN individual_name shown ON shown.individual_id = i.id AND shown.is_primary
    LEFT JOIN taxon t ON t.id = coalesce(i.taxon_id,
        {TAXON_BY_LABEL.format(label="lower(replace(s.species, '_', ' '))")})
    ORDER BY wanted.position
"""


def slot_labels(
    session: Session, head_id: int, slots: Sequence[int], catalogue_id: UUID | None = None
) -> list[SlotRow]:
    """Who the slots stand for, in the order asked; slots that the head does not have are left out.

    A slot of a fitted head knows its individual; the label of a bundle's head is an individual's
    name in the catalogue (the default one for None). Merges are followed.
    """
    parameters = {
        "slots": [int(slot) for slot in slots],
        "head": head_id,
        "catalogue": catalogue_id,
    }
    return [SlotRow(*row) for row in fetch(session, _SLOTS, parameters)]


_KNOWS = """
    SELECT EXISTS (
        SELECT FROM individual i JOIN head_slot s ON s.individual_id = i.id
        WHERE (i.id = %(who)s OR i.merged_into_id = %(who)s) AND s.head_id = %(head)s
    ) OR EXISTS (
        SELECT FROM individual i
        JOIN individual_name n ON n.individual_id = i.id
        JOIN head_slot s ON lower(s.label) = lower(n.name)
        JOIN head h ON h.id = s.head_id AND h.source = 'bundle'
        WHERE (i.id = %(who)s OR i.merged_into_id = %(who)s) AND s.head_id = %(head)s
    )
"""


def head_knows(session: Session, head_id: int, individual_id: UUID) -> bool:
    """Whether a slot stands for this individual, or for one that was merged into it."""
    return bool(fetch(session, _KNOWS, {"who": individual_id, "head": head_id})[0][0])


_LABELLED = """
    SELECT a.id, coalesce(i.merged_into_id, i.id), a.encounter_id
    FROM embedding e
    JOIN annotation a ON a.id = e.annotation_id
    JOIN individual i ON i.id = a.individual_id
    WHERE e.model_id = %s ORDER BY a.id
"""


def labelled(session: Session, model_id: int) -> list[tuple[int, UUID, UUID | None]]:
    """(annotation, individual, encounter) of every annotation with a vector in this space and an
    individual, merges followed, by annotation."""
    return [(row[0], row[1], row[2]) for row in fetch(session, _LABELLED, [model_id])]


_FITTED_SLOTS = """
    SELECT i.id, coalesce(n.name, i.id::text),
        coalesce(listed.species,
            replace(lower(coalesce(t.common_name, t.scientific_name)), ' ', '_'))
    FROM unnest(%(who)s::uuid[]) WITH ORDINALITY wanted(id, position)
    JOIN individual i ON i.id = wanted.id
    LEFT JOIN individual_name n ON n.individual_id = i.id AND n.is_primary
    LEFT JOIN taxon t ON t.id = i.taxon_id
    LEFT JOIN LATERAL (
        SELECT s.species FROM head h JOIN head_slot s ON s.head_id = h.id
        WHERE h.model_id = %(model)s AND h.source = 'bundle' AND lower(s.label) = lower(n.name)
        ORDER BY h.id DESC LIMIT 1
    ) listed ON true
    ORDER BY wanted.position
"""


def fitted_slots(session: Session, model_id: int, individuals: Sequence[UUID]) -> list[FittedSlot]:
    """The slots that individuals get in a fitted head of this space, in the order given. The
    species is the raw label that a bundle's head of the space has for them, else written alike."""
    rows = fetch(session, _FITTED_SLOTS, {"who": list(individuals), "model": model_id})
    return [FittedSlot(*row) for row in rows]


# ---------------------------------------------------------------- snapshots


def register_snapshot(
    session: Session,
    *,
    model_id: int,
    backend: str,
    vector_count: int,
    horizon_tx: int,
    digest: str,
    recall: float | None = None,
    snapshot_id: UUID | None = None,
) -> SnapshotRow:
    """Record a built and verified snapshot, ready to be loaded."""
    snapshot = IndexSnapshot(
        model_id=model_id,
        backend=backend,
        vector_count=vector_count,
        horizon_tx=horizon_tx,
        digest=digest,
        recall=recall,
        state=SnapshotState.READY,
    )
    if snapshot_id is not None:
        snapshot.id = snapshot_id
    session.add(snapshot)
    with translated():
        session.flush()
    return _snapshot(snapshot)


def list_snapshots(
    session: Session,
    model_id: int | None = None,
    state: SnapshotState | None = SnapshotState.READY,
) -> list[SnapshotRow]:
    """Snapshots of a space (of all for None), newest first."""
    query = select(IndexSnapshot).order_by(IndexSnapshot.created_at.desc(), IndexSnapshot.id)
    if model_id is not None:
        query = query.where(IndexSnapshot.model_id == model_id)
    if state is not None:
        query = query.where(IndexSnapshot.state == state)
    return [_snapshot(snapshot) for snapshot in session.scalars(query)]


def retire_snapshot(session: Session, snapshot_id: UUID) -> None:
    """Nobody loads this snapshot any more; its files may go.

    Raises:
        NotFound: no snapshot has this id.
    """
    retired = session.scalar(
        update(IndexSnapshot)
        .where(IndexSnapshot.id == snapshot_id)
        .values(state=SnapshotState.RETIRED)
        .returning(IndexSnapshot.id)
    )
    if retired is None:
        raise NotFound("snapshot_unknown", f"No snapshot has the id {snapshot_id}.")


def _snapshot(snapshot: IndexSnapshot) -> SnapshotRow:
    return SnapshotRow(
        id=snapshot.id,
        model_id=snapshot.model_id,
        backend=snapshot.backend,
        vector_count=snapshot.vector_count,
        horizon_tx=snapshot.horizon_tx,
        digest=snapshot.digest,
        recall=snapshot.recall,
        state=snapshot.state,
        created_at=snapshot.created_at,
    )
