"""What was asked, answered, decided and imported, and the audit trail."""

from __future__ import annotations

import uuid
from datetime import datetime

from sqlalchemy import (
    CheckConstraint,
    ForeignKey,
    Index,
    Integer,
    SmallInteger,
    UniqueConstraint,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from db.tables.base import Base, Json, now, one_of, serial_key, uuid_key
from db.types import (
    EnumText,
    GateState,
    QueryKind,
    QueryState,
    RunState,
    UnusableReason,
    Verdict,
)


class Query(Base):
    """One identification request, with everything it saw and answered."""

    __tablename__ = "query"
    __table_args__ = (
        CheckConstraint("k > 0", name="k_positive"),
        one_of("kind", QueryKind),
        one_of("gate_state", GateState),
        one_of("state", QueryState),
        CheckConstraint("wanted_votes >= 1", name="wanted_votes_positive"),
        Index("ix_query_created_at_id", "created_at", "id"),
        Index(
            "ix_query_desk",
            "state",
            "created_at",
            "id",
            postgresql_where=text("state IS NOT NULL"),
        ),
    )

    id: Mapped[uuid.UUID] = uuid_key()
    kind: Mapped[QueryKind] = mapped_column(EnumText(QueryKind))
    model_id: Mapped[int | None] = mapped_column(Integer, ForeignKey("embedding_model.id"))
    principal: Mapped[str]
    """Who asked: a key's name, or `local`."""
    k: Mapped[int] = mapped_column(Integer)
    gate_state: Mapped[GateState] = mapped_column(EnumText(GateState))
    answer: Mapped[Json]
    """The whole answer as it was given: gate, default answer, matches, receipt, models."""
    encounter_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("encounter.id"), index=True)
    state: Mapped[QueryState | None] = mapped_column(EnumText(QueryState))
    """Null for questions that nobody is to decide."""
    version: Mapped[int] = mapped_column(Integer, server_default="0")
    """Counts decisions, votes and undos: who decides names the one that they saw."""
    wanted_votes: Mapped[int] = mapped_column(SmallInteger, server_default="1")
    best_score: Mapped[float | None]
    disagrees: Mapped[bool] = mapped_column(server_default=text("false"))
    """The default answer names another individual than the best match."""
    gate_overruled: Mapped[bool] = mapped_column(server_default=text("false"))
    """Somebody found an animal where the gate found none."""
    created_at: Mapped[datetime] = now()


class QueryPhoto(Base):
    """One photo of a query, in the order given."""

    __tablename__ = "query_photo"

    query_id: Mapped[uuid.UUID] = mapped_column(
        ForeignKey("query.id", ondelete="CASCADE"), primary_key=True
    )
    position: Mapped[int] = mapped_column(SmallInteger, primary_key=True, autoincrement=False)
    media_id: Mapped[int] = mapped_column(ForeignKey("media_asset.id"), index=True)
    annotation_id: Mapped[int | None] = mapped_column(
        ForeignKey("annotation.id", ondelete="SET NULL"), index=True
    )
    """The region that was asked about, where it is one of the catalogue."""
    file_name: Mapped[str | None]


class Match(Base):
    """A candidate individual for a query: rank, cosine score, winning annotation.

    The annotation is kept by its number alone, so that the answer outlives it.
    """

    __tablename__ = "match"
    __table_args__ = (
        UniqueConstraint("query_id", "individual_id"),
        CheckConstraint("rank > 0", name="rank_positive"),
        CheckConstraint("supporting > 0", name="supporting_positive"),
        CheckConstraint("score BETWEEN -1.001 AND 1.001", name="score_is_cosine"),
    )

    query_id: Mapped[uuid.UUID] = mapped_column(
        ForeignKey("query.id", ondelete="CASCADE"), primary_key=True
    )
    rank: Mapped[int] = mapped_column(SmallInteger, primary_key=True, autoincrement=False)
    individual_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("individual.id"), index=True)
    annotation_id: Mapped[int]
    score: Mapped[float]
    supporting: Mapped[int] = mapped_column(Integer)
    evidence: Mapped[list[Json] | None] = mapped_column(JSONB(none_as_null=True))
    """Of a query of several photos: each one's own best score and annotation, in their order."""


class Review(Base):
    """A person's verdict on an annotation (and an individual), one row for each annotation of a
    decision. Append-only: undo is a new row that names the decision."""

    __tablename__ = "review"
    __table_args__ = (
        one_of("verdict", Verdict),
        one_of("reason", UnusableReason),
        CheckConstraint(
            "(verdict IN ('same', 'different')) <= (individual_id IS NOT NULL)",
            name="same_and_different_name_an_individual",
        ),
        CheckConstraint("(verdict = 'undo') = (undoes IS NOT NULL)", name="undo_names_a_decision"),
        CheckConstraint(
            "(verdict = 'not_usable') = (reason IS NOT NULL)", name="not_usable_has_a_reason"
        ),
        Index(
            "uq_review_undoes", "undoes", unique=True, postgresql_where=text("undoes IS NOT NULL")
        ),
        Index(
            "ix_review_rejected",
            "annotation_id",
            "individual_id",
            postgresql_where=text("verdict = 'different'"),
        ),
        Index("ix_review_created_at_id", "created_at", "id"),
    )

    id: Mapped[uuid.UUID] = uuid_key()
    decision_id: Mapped[uuid.UUID] = mapped_column(
        server_default=func.gen_random_uuid(), index=True
    )
    query_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("query.id"), index=True)
    """Null for a verdict on two individuals, outside any query."""
    annotation_id: Mapped[int | None] = mapped_column(index=True)
    """By its number alone: the verdict outlives the annotation."""
    individual_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("individual.id"), index=True)
    other_individual_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("individual.id"))
    """`different`: these two are not one animal."""
    verdict: Mapped[Verdict] = mapped_column(EnumText(Verdict))
    reason: Mapped[UnusableReason | None] = mapped_column(EnumText(UnusableReason))
    is_vote: Mapped[bool] = mapped_column(server_default=text("false"))
    """One opinion of several that are wanted; it changes no identity by itself."""
    undoes: Mapped[uuid.UUID | None]
    reviewer: Mapped[str]
    account_id: Mapped[int | None] = mapped_column(Integer, ForeignKey("account.id"))
    rank: Mapped[int | None] = mapped_column(SmallInteger)
    score: Mapped[float | None]
    """As they were shown."""
    match_annotation_id: Mapped[int | None]
    """The candidate's annotation that was shown beside it."""
    fingerprint: Mapped[str | None]
    snapshot: Mapped[str | None]
    filters: Mapped[Json | None] = mapped_column(JSONB(none_as_null=True))
    note: Mapped[str | None]
    created_at: Mapped[datetime] = now()


class Audit(Base):
    """Who changed what. Append-only, hash-chained by a trigger; one row follows each row."""

    __tablename__ = "audit"
    __table_args__ = (UniqueConstraint("previous_hash"),)

    id: Mapped[int] = serial_key()
    at: Mapped[datetime] = now()
    principal: Mapped[str]
    action: Mapped[str]
    subject: Mapped[str]
    """What was changed, as `kind:id`."""
    detail: Mapped[Json] = mapped_column(server_default=text("'{}'::jsonb"))
    previous_hash: Mapped[str]
    hash: Mapped[str]


class ImportRun(Base):
    """One run of an import; what it skipped is in `import_skip`."""

    __tablename__ = "import_run"
    __table_args__ = (one_of("state", RunState),)

    id: Mapped[uuid.UUID] = uuid_key()
    source: Mapped[str]
    layout: Mapped[str]
    state: Mapped[RunState] = mapped_column(EnumText(RunState))
    total: Mapped[int]
    imported: Mapped[int] = mapped_column(server_default="0")
    already_known: Mapped[int] = mapped_column(server_default="0")
    skipped: Mapped[int] = mapped_column(server_default="0")
    started_at: Mapped[datetime] = now()
    finished_at: Mapped[datetime | None]


class ImportSkip(Base):
    """One entry that an import left out, and why."""

    __tablename__ = "import_skip"

    id: Mapped[int] = serial_key()
    run_id: Mapped[uuid.UUID] = mapped_column(
        ForeignKey("import_run.id", ondelete="CASCADE"), index=True
    )
    entry: Mapped[str]
    code: Mapped[str]
    detail: Mapped[str]
