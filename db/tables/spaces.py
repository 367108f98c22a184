"""Vector spaces: embeddings, heads, snapshots, and the log that readers in memory follow."""

from __future__ import annotations

import uuid
from datetime import datetime

from sqlalchemy import (
    CheckConstraint,
    ForeignKey,
    Identity,
    Index,
    Integer,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from db.tables.base import MAX_DIM, Base, Json, now, one_of, serial_key, uuid_key
from db.types import (
    EnumText,
    HeadSource,
    Modality,
    SnapshotState,
    Vector,
    Vector32,
    Xid8,
)


class EmbeddingModel(Base):
    """A vector space. Two spaces are never compared; the fingerprint tells them apart."""

    __tablename__ = "embedding_model"
    __table_args__ = (
        UniqueConstraint("fingerprint"),
        UniqueConstraint("name", "version"),
        CheckConstraint(f"dim BETWEEN 1 AND {MAX_DIM}", name="dim_indexable"),
        CheckConstraint("preprocessing <> '{}'::jsonb", name="preprocessing_given"),
        one_of("modality", Modality),
    )

    id: Mapped[int] = mapped_column(Integer, Identity(), primary_key=True)
    name: Mapped[str]
    version: Mapped[str]
    fingerprint: Mapped[str]
    dim: Mapped[int] = mapped_column(Integer)
    modality: Mapped[Modality] = mapped_column(EnumText(Modality))
    preprocessing: Mapped[Json]
    licence: Mapped[str]
    digest: Mapped[str]
    """SHA-256 of the weights file."""
    created_at: Mapped[datetime] = now()


class ModelSlot(Base):
    """Which space a use (`identify.photo`) searches now; a switch is one row, one transaction."""

    __tablename__ = "model_slot"

    name: Mapped[str] = mapped_column(primary_key=True)
    model_id: Mapped[int] = mapped_column(Integer, ForeignKey("embedding_model.id"))
    switched_at: Mapped[datetime] = now()


class Embedding(Base):
    """One annotation in one space; LIST-partitioned by space, each partition checks its dimension.

    `tx` is the transaction that wrote the row: readers ask for what was written since the oldest
    transaction still open at their last look, so that a late commit is never missed.
    """

    __tablename__ = "embedding"
    __table_args__ = (
        CheckConstraint("vector_norm(v) > 0", name="not_zero"),
        Index("ix_embedding_tx", "model_id", "tx"),
        {"postgresql_partition_by": "LIST (model_id)"},
    )

    model_id: Mapped[int] = mapped_column(
        Integer, ForeignKey("embedding_model.id"), primary_key=True
    )
    annotation_id: Mapped[int] = mapped_column(
        ForeignKey("annotation.id", ondelete="CASCADE"), primary_key=True, index=True
    )
    v: Mapped[Vector] = mapped_column(Vector32)
    tx: Mapped[int] = mapped_column(Xid8, server_default=text("pg_current_xact_id()"))
    created_at: Mapped[datetime] = now()


class AnnotationChange(Base):
    """An annotation whose place in searches changed without a new vector: it was deleted, got its
    first individual or lost it, or its vector was deleted. Written by triggers only.

    Readers that keep vectors in memory ask for the changes since they last looked, by `tx` as for
    `Embedding`.
    """

    __tablename__ = "annotation_change"
    __table_args__ = (Index("ix_annotation_change_tx", "tx"),)

    id: Mapped[int] = serial_key()
    annotation_id: Mapped[int]
    tx: Mapped[int] = mapped_column(Xid8, server_default=text("pg_current_xact_id()"))


class ChangeFloor(Base):
    """One row, once entries of `annotation_change` were deleted: those of transactions before `tx`
    are gone, and a reader that last looked before it must read everything again."""

    __tablename__ = "change_floor"
    __table_args__ = (CheckConstraint("single", name="one_row"),)

    single: Mapped[bool] = mapped_column(primary_key=True, server_default=text("true"))
    tx: Mapped[int] = mapped_column(Xid8)


class Head(Base):
    """ArcFace rows of one space. The rows of a fitted head are in `head_rows`, those of a bundle's
    head lie in the bundle; the slots of both are here."""

    __tablename__ = "head"
    __table_args__ = (
        UniqueConstraint("model_id", "version"),
        CheckConstraint("mapped_count BETWEEN 0 AND slot_count", name="mapped_within_slots"),
        CheckConstraint("min_probability BETWEEN 0 AND 1", name="min_probability_in_range"),
        one_of("source", HeadSource),
        Index("uq_head_active", "model_id", unique=True, postgresql_where=text("is_active")),
    )

    id: Mapped[int] = mapped_column(Integer, Identity(), primary_key=True)
    model_id: Mapped[int] = mapped_column(Integer, ForeignKey("embedding_model.id"))
    version: Mapped[str]
    slot_count: Mapped[int] = mapped_column(Integer)
    mapped_count: Mapped[int] = mapped_column(Integer)
    scale: Mapped[float]
    min_probability: Mapped[float]
    digest: Mapped[str]
    is_active: Mapped[bool]
    source: Mapped[HeadSource] = mapped_column(EnumText(HeadSource), server_default="bundle")
    report: Mapped[Json | None] = mapped_column(JSONB(none_as_null=True))
    """What a fit measured: accuracy and coverage before and after."""
    created_at: Mapped[datetime] = now()
    activated_at: Mapped[datetime | None]


class HeadRows(Base):
    """Unit rows of a fitted head, float32 little-endian in slot order, 4,096 slots a part."""

    __tablename__ = "head_rows"
    __table_args__ = (CheckConstraint("part >= 0", name="part_not_negative"),)

    head_id: Mapped[int] = mapped_column(
        Integer, ForeignKey("head.id", ondelete="CASCADE"), primary_key=True
    )
    part: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    rows: Mapped[bytes]


class HeadSlot(Base):
    """One ArcFace row: its label in the class list, if it has one, and the species listed for it.

    A bundle's head finds the individual by its name, so that a label learns its individual when
    one is added; a fitted head knows the individual itself.
    """

    __tablename__ = "head_slot"
    __table_args__ = (
        CheckConstraint("slot >= 0", name="slot_not_negative"),
        Index("ix_head_slot_label", "head_id", text("lower(label)")),
    )

    head_id: Mapped[int] = mapped_column(
        Integer, ForeignKey("head.id", ondelete="CASCADE"), primary_key=True
    )
    slot: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    label: Mapped[str | None]
    species: Mapped[str | None]
    individual_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("individual.id"), index=True)


class IndexSnapshot(Base):
    """An immutable, checksummed search structure built from one space; a disposable copy."""

    __tablename__ = "index_snapshot"
    __table_args__ = (
        CheckConstraint("vector_count >= 0", name="vector_count_not_negative"),
        CheckConstraint("recall BETWEEN 0 AND 1", name="recall_in_range"),
        one_of("state", SnapshotState),
    )

    id: Mapped[uuid.UUID] = uuid_key()
    model_id: Mapped[int] = mapped_column(Integer, ForeignKey("embedding_model.id"), index=True)
    backend: Mapped[str]
    vector_count: Mapped[int]
    horizon_tx: Mapped[int] = mapped_column(Xid8)
    """Rows written by transactions before this one are in the snapshot."""
    digest: Mapped[str]
    """SHA-256 over the checksums of its files."""
    recall: Mapped[float | None]
    """Share of the oracle's nearest ten found before the exact re-score."""
    report: Mapped[Json | None] = mapped_column(JSONB)
    """How it was built and measured, where that decides how it is used."""
    state: Mapped[SnapshotState] = mapped_column(EnumText(SnapshotState))
    created_at: Mapped[datetime] = now()
