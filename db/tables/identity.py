"""What people changed in the catalogue, with all that it takes to change it back."""

from __future__ import annotations

import uuid
from datetime import datetime

from sqlalchemy import CheckConstraint, ForeignKey, Index, Integer, SmallInteger, text
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, UUID
from sqlalchemy.orm import Mapped, mapped_column

from db.tables.base import Base, Json, now, serial_key


class Change(Base):
    """One operation on identities, whole or not at all. Append-only: its undo is another one."""

    __tablename__ = "change"
    __table_args__ = (
        Index("uq_change_undoes", "undoes_id", unique=True),
        Index("ix_change_individual_ids", "individual_ids", postgresql_using="gin"),
    )

    id: Mapped[int] = serial_key()
    at: Mapped[datetime] = now()
    principal: Mapped[str]
    account_id: Mapped[int | None] = mapped_column(Integer, ForeignKey("account.id"))
    action: Mapped[str]
    undoes_id: Mapped[int | None] = mapped_column(ForeignKey("change.id"))
    decision_id: Mapped[uuid.UUID | None] = mapped_column(index=True)
    """The review that it carried out."""
    individual_ids: Mapped[list[uuid.UUID]] = mapped_column(ARRAY(UUID(as_uuid=True)))
    """Whose history it belongs to."""
    detail: Mapped[Json] = mapped_column(JSONB, server_default=text("'{}'::jsonb"))
    """What people read: names and numbers as they were."""


class ChangeRow(Base):
    """One row of the catalogue that a change wrote: the columns it wrote, before and after. Null
    before: the row was made; null after: it was deleted."""

    __tablename__ = "change_row"
    __table_args__ = (
        CheckConstraint(
            "entity IN ('individual', 'individual_name', 'annotation', 'encounter')",
            name="entity_known",
        ),
        CheckConstraint("num_nulls(before, after) < 2", name="says_something"),
        Index("ix_change_row_entity_key", "entity", "key", "change_id"),
    )

    change_id: Mapped[int] = mapped_column(ForeignKey("change.id"), primary_key=True)
    position: Mapped[int] = mapped_column(SmallInteger, primary_key=True, autoincrement=False)
    entity: Mapped[str]
    key: Mapped[str]
    before: Mapped[Json | None] = mapped_column(JSONB(none_as_null=True))
    after: Mapped[Json | None] = mapped_column(JSONB(none_as_null=True))


class NameReservation(Base):
    """A name that somebody is about to give, kept from others until then."""

    __tablename__ = "name_reservation"
    __table_args__ = (
        Index("uq_name_reservation_name", "catalogue_id", text("lower(name)"), unique=True),
    )

    id: Mapped[int] = serial_key()
    catalogue_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("catalogue.id", ondelete="CASCADE"))
    name: Mapped[str]
    principal: Mapped[str]
    until: Mapped[datetime]


class Calibration(Base):
    """What a cosine of a space means: fitted on verdicts, measured on others. The newest counts."""

    __tablename__ = "calibration"
    __table_args__ = (Index("ix_calibration_model_id_id", "model_id", "id"),)

    id: Mapped[int] = serial_key()
    model_id: Mapped[int] = mapped_column(
        Integer, ForeignKey("embedding_model.id", ondelete="CASCADE")
    )
    params: Mapped[Json]
    """The fitted curves."""
    report: Mapped[Json]
    """Counts, calibration error, reliability, thresholds."""
    fitted_by: Mapped[str]
    created_at: Mapped[datetime] = now()
