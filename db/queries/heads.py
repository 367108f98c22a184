"""Heads, the individuals behind their slots, and index snapshots."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import select, text, update
from sqlalchemy.orm import Session

from db.errors import Conflict, NotFound, translated
from db.queries.copying import fetch
from db.queries.taxa import TAXON_BY_LABEL
from db.tables import Head, IndexSnapshot
from db.types import SnapshotState


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
    """Make this the active head of its space; `slots` are (label, species) by slot number.

    A head that is registered already is only made active.

    Raises:
        Conflict: the version exists with another digest.
    """
    session.execute(
        update(Head)
        .where(Head.model_id == model_id, Head.is_active, Head.version != version)
        .values(is_active=False)
    )
    with translated():
        head_id: int | None = session.scalar(
            text(
                "INSERT INTO head (model_id, version, slot_count, mapped_count, scale,"
                " min_probability, digest, is_active)"
                " VALUES (:model, :version, :slots, :mapped, :scale, :minimum, :digest, true)"
                " ON CONFLICT (model_id, version) DO UPDATE SET is_active = true"
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


def active_head(session: Session, model_id: int) -> HeadRow | None:
    found = session.scalars(
        select(Head).where(Head.model_id == model_id, Head.is_active)
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
    )


_SLOTS = f"""
    SELECT s.slot, s.label, s.species, i.id, shown.name, t.scientific_name, t.common_name
    FROM unnest(%(slots)s::int[]) WITH ORDINALITY wanted(slot, position)
    JOIN head_slot s ON s.head_id = %(head)s AND s.slot = wanted.slot
    LEFT JOIN individual_name n
        ON n.catalogue_id = coalesce(%(catalogue)s, (SELECT id FROM catalogue
            WHERE lower(name) = 'main')) AND lower(n.name) = lower(s.label)
    LEFT JOIN individual named ON named.id = n.individual_id
    LEFT JOIN individual i ON i.id = coalesce(named.merged_into_id, named.id)
    LEFT JOIN individual_name shown ON shown.individual_id = i.id AND shown.is_primary
    LEFT JOIN taxon t ON t.id = coalesce(i.taxon_id,
        {TAXON_BY_LABEL.format(label="lower(replace(s.species, '_', ' '))")})
    ORDER BY wanted.position
"""


def slot_labels(
    session: Session, head_id: int, slots: Sequence[int], catalogue_id: UUID | None = None
) -> list[SlotRow]:
    """Who the slots stand for, in the order asked; slots that the head does not have are left out.

    A label is an individual's name in the catalogue (the default one for None), merges followed.
    """
    parameters = {
        "slots": [int(slot) for slot in slots],
        "head": head_id,
        "catalogue": catalogue_id,
    }
    return [SlotRow(*row) for row in fetch(session, _SLOTS, parameters)]


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
