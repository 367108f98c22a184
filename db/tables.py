"""Every table, constraint and naming convention. PostgreSQL is the only truth."""

from __future__ import annotations

import uuid
from datetime import datetime
from enum import StrEnum
from typing import Any, ClassVar

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    ForeignKey,
    Identity,
    Index,
    Integer,
    MetaData,
    SmallInteger,
    Text,
    UniqueConstraint,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB, UUID
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from db.types import (
    ChunkState,
    EnumText,
    GateState,
    HeadSource,
    JobKind,
    JobState,
    Modality,
    QueryKind,
    ReindexState,
    Role,
    RunState,
    Sex,
    SnapshotState,
    UtcDateTime,
    Vector,
    Vector32,
    Verdict,
    Vitality,
    Xid8,
)

MAX_DIM = 4000
"""pgvector indexes `halfvec` up to this many dimensions; a wider space is refused."""

Json = dict[str, Any]


def one_of(column: str, enum: type[StrEnum]) -> CheckConstraint:
    """CHECK that a text column holds one of the enumeration's values."""
    allowed = ", ".join(f"'{member.value}'" for member in enum)
    return CheckConstraint(f"{column} IN ({allowed})", name=f"{column}_known")


class Base(DeclarativeBase):
    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map: ClassVar[dict[Any, Any]] = {
        datetime: UtcDateTime,
        uuid.UUID: UUID(as_uuid=True),
        str: Text,
        int: BigInteger,
        Json: JSONB,
    }


def uuid_key() -> Mapped[uuid.UUID]:
    return mapped_column(primary_key=True, server_default=func.gen_random_uuid())


def serial_key() -> Mapped[int]:
    return mapped_column(BigInteger, Identity(), primary_key=True)


def now() -> Mapped[datetime]:
    return mapped_column(server_default=func.now())


class Catalogue(Base):
    """A set of individuals inside which names are unique."""

    __tablename__ = "catalogue"
    __table_args__ = (
        CheckConstraint("btrim(name) <> ''", name="name_not_blank"),
        Index("uq_catalogue_name", text("lower(name)"), unique=True),
    )

    id: Mapped[uuid.UUID] = uuid_key()
    name: Mapped[str]
    created_at: Mapped[datetime] = now()


class Taxon(Base):
    __tablename__ = "taxon"
    __table_args__ = (
        CheckConstraint("btrim(scientific_name) <> ''", name="scientific_name_not_blank"),
        Index("uq_taxon_scientific_name", text("lower(scientific_name)"), unique=True),
    )

    id: Mapped[int] = serial_key()
    scientific_name: Mapped[str]
    common_name: Mapped[str | None]
    aphia_id: Mapped[int | None] = mapped_column(Integer, unique=True)
    """Identifier in the World Register of Marine Species."""
    created_at: Mapped[datetime] = now()


class TaxonSynonym(Base):
    """A raw label (typos included) that means a taxon."""

    __tablename__ = "taxon_synonym"
    __table_args__ = (Index("uq_taxon_synonym_label", text("lower(label)"), unique=True),)

    id: Mapped[int] = serial_key()
    taxon_id: Mapped[int] = mapped_column(ForeignKey("taxon.id", ondelete="CASCADE"), index=True)
    label: Mapped[str]


class Individual(Base):
    """A named animal. Never deleted by a merge: `merged_into_id` redirects to the one that stays,
    and always to one that is not itself redirected."""

    __tablename__ = "individual"
    __table_args__ = (
        CheckConstraint("merged_into_id <> id", name="not_merged_into_itself"),
        one_of("sex", Sex),
        one_of("vitality", Vitality),
        Index("ix_individual_catalogue_id_created_at_id", "catalogue_id", "created_at", "id"),
        Index("ix_individual_survivor", text("coalesce(merged_into_id, id)")),
    )

    id: Mapped[uuid.UUID] = uuid_key()
    catalogue_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("catalogue.id"))
    taxon_id: Mapped[int | None] = mapped_column(ForeignKey("taxon.id"), index=True)
    sex: Mapped[Sex] = mapped_column(EnumText(Sex), server_default="unknown")
    vitality: Mapped[Vitality] = mapped_column(EnumText(Vitality), server_default="unknown")
    notes: Mapped[str | None]
    merged_into_id: Mapped[uuid.UUID | None] = mapped_column(
        ForeignKey("individual.id"), index=True
    )
    created_at: Mapped[datetime] = now()


class IndividualName(Base):
    """One of an individual's names: unique inside its catalogue, whatever the case."""

    __tablename__ = "individual_name"
    __table_args__ = (
        CheckConstraint("btrim(name) <> ''", name="name_not_blank"),
        Index("uq_individual_name_name", "catalogue_id", text("lower(name)"), unique=True),
        Index(
            "uq_individual_name_primary",
            "individual_id",
            unique=True,
            postgresql_where=text("is_primary"),
        ),
    )

    id: Mapped[int] = serial_key()
    individual_id: Mapped[uuid.UUID] = mapped_column(
        ForeignKey("individual.id", ondelete="CASCADE"), index=True
    )
    catalogue_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("catalogue.id"))
    name: Mapped[str]
    is_primary: Mapped[bool]
    created_at: Mapped[datetime] = now()


class Encounter(Base):
    """One individual (or one group) at one place and time; groups annotations."""

    __tablename__ = "encounter"
    __table_args__ = (
        CheckConstraint("ended_at >= started_at", name="ends_after_start"),
        CheckConstraint("latitude BETWEEN -90 AND 90", name="latitude_in_range"),
        CheckConstraint("longitude BETWEEN -180 AND 180", name="longitude_in_range"),
        Index(
            "uq_encounter_external_id",
            "catalogue_id",
            "external_id",
            unique=True,
            postgresql_where=text("external_id IS NOT NULL"),
        ),
    )

    id: Mapped[uuid.UUID] = uuid_key()
    catalogue_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("catalogue.id"))
    external_id: Mapped[str | None]
    """The name that the source of the data gives this encounter."""
    started_at: Mapped[datetime | None] = mapped_column(index=True)
    ended_at: Mapped[datetime | None]
    place: Mapped[str | None]
    latitude: Mapped[float | None]
    longitude: Mapped[float | None]
    created_at: Mapped[datetime] = now()


class MediaAsset(Base):
    """One stored photo, immutable, unique by SHA-256; its bytes lie in the media store."""

    __tablename__ = "media_asset"
    __table_args__ = (
        UniqueConstraint("sha256"),
        CheckConstraint("sha256 ~ '^[0-9a-f]{64}$'", name="sha256_is_hex"),
        CheckConstraint("width_px > 0 AND height_px > 0", name="size_positive"),
        CheckConstraint("byte_size > 0", name="byte_size_positive"),
        CheckConstraint("location ~ '^[a-z][a-z0-9]*://.'", name="location_is_uri"),
        Index("ix_media_asset_perceptual_hash", "perceptual_hash"),
    )

    id: Mapped[int] = serial_key()
    sha256: Mapped[str]
    media_type: Mapped[str]
    byte_size: Mapped[int]
    width_px: Mapped[int] = mapped_column(Integer)
    """Width after turning by the EXIF orientation."""
    height_px: Mapped[int] = mapped_column(Integer)
    original_name: Mapped[str | None]
    taken_at: Mapped[datetime | None] = mapped_column(index=True)
    perceptual_hash: Mapped[int | None]
    """64-bit difference hash (dHash) of the oriented photo, as a signed integer."""
    created_at: Mapped[datetime] = now()
    location: Mapped[str | None]
    """URI of the bytes where they were left in place; null where they lie in the media store."""


class Annotation(Base):
    """A region of an asset: a box in pixels of the oriented photo, or the whole photo (no box)."""

    __tablename__ = "annotation"
    __table_args__ = (
        CheckConstraint(
            "num_nulls(box_x_px, box_y_px, box_w_px, box_h_px) IN (0, 4)", name="box_whole_or_none"
        ),
        CheckConstraint(
            "box_x_px >= 0 AND box_y_px >= 0 AND box_w_px > 0 AND box_h_px > 0",
            name="box_not_empty",
        ),
        Index(
            "uq_annotation_region",
            "catalogue_id",
            "media_id",
            "box_x_px",
            "box_y_px",
            "box_w_px",
            "box_h_px",
            unique=True,
            postgresql_nulls_not_distinct=True,
        ),
        Index("ix_annotation_viewpoint", text("lower(viewpoint)")),
    )

    id: Mapped[int] = serial_key()
    catalogue_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("catalogue.id"))
    media_id: Mapped[int] = mapped_column(ForeignKey("media_asset.id"), index=True)
    individual_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("individual.id"), index=True)
    """Null while nobody has said who this is."""
    encounter_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("encounter.id"), index=True)
    taxon_id: Mapped[int | None] = mapped_column(ForeignKey("taxon.id"), index=True)
    box_x_px: Mapped[int | None] = mapped_column(Integer)
    box_y_px: Mapped[int | None] = mapped_column(Integer)
    box_w_px: Mapped[int | None] = mapped_column(Integer)
    box_h_px: Mapped[int | None] = mapped_column(Integer)
    viewpoint: Mapped[str | None]
    source_ref: Mapped[str | None]
    """The identifier that the source of the data gives this photo."""
    region_version: Mapped[int] = mapped_column(Integer, server_default="0")
    """Counts the changes of its box or photo; a trigger counts, and deletes the old vectors."""
    created_at: Mapped[datetime] = now()


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


class Query(Base):
    """One identification request, with everything it saw and answered."""

    __tablename__ = "query"
    __table_args__ = (
        CheckConstraint("k > 0", name="k_positive"),
        one_of("kind", QueryKind),
        one_of("gate_state", GateState),
        Index("ix_query_created_at_id", "created_at", "id"),
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
    created_at: Mapped[datetime] = now()


class QueryPhoto(Base):
    """One photo of a query, in the order given."""

    __tablename__ = "query_photo"

    query_id: Mapped[uuid.UUID] = mapped_column(
        ForeignKey("query.id", ondelete="CASCADE"), primary_key=True
    )
    position: Mapped[int] = mapped_column(SmallInteger, primary_key=True, autoincrement=False)
    media_id: Mapped[int] = mapped_column(ForeignKey("media_asset.id"), index=True)
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


class Review(Base):
    """A person's verdict on a query or a match. Append-only: undo is a new row."""

    __tablename__ = "review"
    __table_args__ = (
        one_of("verdict", Verdict),
        CheckConstraint(
            "(verdict IN ('same', 'different')) <= (individual_id IS NOT NULL)",
            name="same_and_different_name_an_individual",
        ),
    )

    id: Mapped[uuid.UUID] = uuid_key()
    query_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("query.id"), index=True)
    individual_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("individual.id"), index=True)
    verdict: Mapped[Verdict] = mapped_column(EnumText(Verdict))
    reviewer: Mapped[str]
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


class ApiKey(Base):
    """A key's name, role and SHA-256; the key itself is shown once and never stored."""

    __tablename__ = "api_key"
    __table_args__ = (UniqueConstraint("prefix"), UniqueConstraint("name"), one_of("role", Role))

    id: Mapped[int] = mapped_column(Integer, Identity(), primary_key=True)
    name: Mapped[str]
    prefix: Mapped[str]
    sha256: Mapped[str]
    role: Mapped[Role] = mapped_column(EnumText(Role))
    created_at: Mapped[datetime] = now()
    expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]


class IdempotencyKey(Base):
    """The stored answer of a POST that named an `Idempotency-Key`."""

    __tablename__ = "idempotency_key"

    principal: Mapped[str] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    request_sha256: Mapped[str]
    status: Mapped[int] = mapped_column(SmallInteger)
    answer: Mapped[Json]
    created_at: Mapped[datetime] = now()


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
