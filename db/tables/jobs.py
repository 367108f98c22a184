"""Work for workers, and re-index runs."""

from __future__ import annotations

import uuid
from datetime import datetime

from sqlalchemy import (
    CheckConstraint,
    ForeignKey,
    Index,
    Integer,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from db.tables.base import Base, Json, now, one_of, serial_key, uuid_key
from db.types import (
    ChunkState,
    EnumText,
    JobKind,
    JobState,
    ReindexState,
)

_OPEN_JOB = "state IN ('queued', 'running', 'paused', 'cancelling')"
_OPEN_RUN = "state IN ('requested', 'embedding', 'building', 'verifying', 'ready')"


class Job(Base):
    """Work for workers: what is asked, how far it is, how it ended. Cut into `job_chunk`s.

    `done` and `failed` count the items of finished chunks. Of jobs with the same `exclusive_key`
    only one is open at a time.
    """

    __tablename__ = "job"
    __table_args__ = (
        CheckConstraint("total >= 0", name="total_not_negative"),
        CheckConstraint("done >= 0 AND failed >= 0", name="counts_not_negative"),
        CheckConstraint("(state = 'paused') <= (paused_by IS NOT NULL)", name="pause_has_owner"),
        one_of("kind", JobKind),
        one_of("state", JobState),
        Index("uq_job_exclusive", "exclusive_key", unique=True, postgresql_where=text(_OPEN_JOB)),
        Index("ix_job_created_at_id", "created_at", "id"),
        Index("ix_job_open", "created_at", "id", postgresql_where=text(_OPEN_JOB)),
    )

    id: Mapped[uuid.UUID] = uuid_key()
    kind: Mapped[JobKind] = mapped_column(EnumText(JobKind))
    state: Mapped[JobState] = mapped_column(EnumText(JobState))
    stage: Mapped[str | None]
    exclusive_key: Mapped[str | None]
    params: Mapped[Json] = mapped_column(server_default=text("'{}'::jsonb"))
    result: Mapped[Json | None] = mapped_column(JSONB(none_as_null=True))
    error_code: Mapped[str | None]
    error: Mapped[str | None]
    total: Mapped[int | None]
    done: Mapped[int] = mapped_column(server_default="0")
    failed: Mapped[int] = mapped_column(server_default="0")
    requested_by: Mapped[str]
    paused_by: Mapped[str | None]
    cancelled_by: Mapped[str | None]
    created_at: Mapped[datetime] = now()
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]


class JobChunk(Base):
    """A part of a job that one worker does at a time, and whose results commit at once.

    A running chunk is leased until `lease_until` by the database's clock; each claim has a token
    of its own, so that a worker that lost its lease cannot finish the chunk.
    """

    __tablename__ = "job_chunk"
    __table_args__ = (
        CheckConstraint("number >= 0", name="number_not_negative"),
        CheckConstraint("items >= 0 AND done >= 0 AND failed >= 0", name="counts_not_negative"),
        CheckConstraint(
            "(state = 'running') <= (num_nulls(worker, token, lease_until) = 0)",
            name="running_is_leased",
        ),
        one_of("state", ChunkState),
        Index(
            "ix_job_chunk_open",
            "job_id",
            "number",
            postgresql_where=text("state IN ('queued', 'running')"),
        ),
        Index(
            "ix_job_chunk_finished",
            "job_id",
            "finished_at",
            postgresql_where=text("state = 'done'"),
        ),
    )

    job_id: Mapped[uuid.UUID] = mapped_column(
        ForeignKey("job.id", ondelete="CASCADE"), primary_key=True
    )
    number: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    stage: Mapped[str]
    state: Mapped[ChunkState] = mapped_column(EnumText(ChunkState), server_default="queued")
    params: Mapped[Json] = mapped_column(server_default=text("'{}'::jsonb"))
    items: Mapped[int] = mapped_column(Integer)
    done: Mapped[int] = mapped_column(Integer, server_default="0")
    failed: Mapped[int] = mapped_column(Integer, server_default="0")
    attempts: Mapped[int] = mapped_column(Integer, server_default="0")
    worker: Mapped[str | None]
    token: Mapped[uuid.UUID | None]
    lease_until: Mapped[datetime | None]
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    error: Mapped[str | None]


class JobFailure(Base):
    """One item that failed alone, and why."""

    __tablename__ = "job_failure"
    __table_args__ = (UniqueConstraint("job_id", "item"),)

    id: Mapped[int] = serial_key()
    job_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("job.id", ondelete="CASCADE"))
    item: Mapped[str]
    stage: Mapped[str]
    code: Mapped[str]
    detail: Mapped[str]
    attempts: Mapped[int] = mapped_column(Integer, server_default="1")
    at: Mapped[datetime] = now()


class ReindexRun(Base):
    """Moving a slot from one space to another; its work is the job of the same id."""

    __tablename__ = "reindex_run"
    __table_args__ = (
        CheckConstraint("from_model_id <> to_model_id", name="between_two_spaces"),
        one_of("state", ReindexState),
        Index("uq_reindex_run_open", "slot", unique=True, postgresql_where=text(_OPEN_RUN)),
        Index("ix_reindex_run_created_at_id", "created_at", "id"),
    )

    id: Mapped[uuid.UUID] = mapped_column(ForeignKey("job.id"), primary_key=True)
    slot: Mapped[str]
    from_model_id: Mapped[int | None] = mapped_column(Integer, ForeignKey("embedding_model.id"))
    to_model_id: Mapped[int] = mapped_column(Integer, ForeignKey("embedding_model.id"))
    state: Mapped[ReindexState] = mapped_column(EnumText(ReindexState))
    previous_head_id: Mapped[int | None] = mapped_column(Integer)
    """The head that was active in the slot's former space, for the way back."""
    snapshot_id: Mapped[uuid.UUID | None]
    report: Mapped[Json | None] = mapped_column(JSONB(none_as_null=True))
    requested_by: Mapped[str]
    activated_by: Mapped[str | None]
    forced: Mapped[bool] = mapped_column(server_default=text("false"))
    created_at: Mapped[datetime] = now()
    ready_at: Mapped[datetime | None]
    activated_at: Mapped[datetime | None]
    ended_at: Mapped[datetime | None]
