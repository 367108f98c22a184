"""The core tables: catalogue, media, embeddings, heads, snapshots, queries, reviews, audit.

Revision: 0001
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql
from sqlalchemy.types import UserDefinedType

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


class Vector(UserDefinedType[object]):
    cache_ok = True

    def get_col_spec(self, **_kw: object) -> str:
        return "VECTOR"


class Xid8(UserDefinedType[object]):
    cache_ok = True

    def get_col_spec(self, **_kw: object) -> str:
        return "XID8"


APPEND_ONLY = """
CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'Rows of % are never changed or deleted; add a new row instead.', TG_TABLE_NAME
        USING ERRCODE = 'restrict_violation';
END $$;

CREATE TRIGGER review_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON review
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER audit_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
"""

# The number is taken after the lock, so that the order of numbers is the order of the chain.
AUDIT_CHAIN = """
CREATE FUNCTION audit_row_hash(entry audit) RETURNS text LANGUAGE sql STABLE AS $$
    SELECT encode(sha256(convert_to(entry.previous_hash || E'\n' || jsonb_build_array(
        entry.id,
        to_char(entry.at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
        entry.principal, entry.action, entry.subject, entry.detail)::text, 'UTF8')), 'hex')
$$;

CREATE FUNCTION audit_chain() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('audit_chain'));
    NEW.id := nextval(pg_get_serial_sequence('audit', 'id'));
    NEW.previous_hash := coalesce(
        (SELECT hash FROM audit ORDER BY id DESC LIMIT 1), repeat('0', 64));
    NEW.hash := audit_row_hash(NEW);
    RETURN NEW;
END $$;

CREATE TRIGGER audit_chain BEFORE INSERT ON audit
    FOR EACH ROW EXECUTE FUNCTION audit_chain();
"""

# A deleted annotation takes its vectors along, so that the trigger on them sees it too.
ANNOTATION_CHANGES = """
CREATE FUNCTION log_deleted_embedding() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO annotation_change (annotation_id) VALUES (OLD.annotation_id);
    RETURN NULL;
END $$;

CREATE TRIGGER embedding_deleted AFTER DELETE ON embedding
    FOR EACH ROW EXECUTE FUNCTION log_deleted_embedding();

CREATE FUNCTION log_annotation_label() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO annotation_change (annotation_id) VALUES (NEW.id);
    RETURN NULL;
END $$;

CREATE TRIGGER annotation_labelled AFTER UPDATE OF individual_id ON annotation
    FOR EACH ROW WHEN ((OLD.individual_id IS NULL) <> (NEW.individual_id IS NULL))
    EXECUTE FUNCTION log_annotation_label();
"""


def upgrade() -> None:
    op.create_table(
        "api_key",
        sa.Column("id", sa.Integer(), sa.Identity(always=False), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("prefix", sa.Text(), nullable=False),
        sa.Column("sha256", sa.Text(), nullable=False),
        sa.Column("role", sa.String(), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "role IN ('viewer', 'reviewer', 'curator', 'admin')", name=op.f("ck_api_key_role_known")
        ),
        sa.PrimaryKeyConstraint("id", name="pk_api_key"),
        sa.UniqueConstraint("name", name="uq_api_key_name"),
        sa.UniqueConstraint("prefix", name="uq_api_key_prefix"),
    )
    op.create_table(
        "audit",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column(
            "at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False
        ),
        sa.Column("principal", sa.Text(), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column(
            "detail", postgresql.JSONB(), server_default=sa.text("'{}'::jsonb"), nullable=False
        ),
        sa.Column("previous_hash", sa.Text(), nullable=False),
        sa.Column("hash", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_audit"),
        sa.UniqueConstraint("previous_hash", name="uq_audit_previous_hash"),
    )
    op.create_table(
        "catalogue",
        sa.Column("id", sa.UUID(), server_default=sa.text("gen_random_uuid()"), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.CheckConstraint("btrim(name) <> ''", name=op.f("ck_catalogue_name_not_blank")),
        sa.PrimaryKeyConstraint("id", name="pk_catalogue"),
    )
    op.create_index(
        "uq_catalogue_name", "catalogue", [sa.literal_column("lower(name)")], unique=True
    )
    op.create_table(
        "embedding_model",
        sa.Column("id", sa.Integer(), sa.Identity(always=False), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column("fingerprint", sa.Text(), nullable=False),
        sa.Column("dim", sa.Integer(), nullable=False),
        sa.Column("modality", sa.String(), nullable=False),
        sa.Column("preprocessing", postgresql.JSONB(), nullable=False),
        sa.Column("licence", sa.Text(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.CheckConstraint(
            "modality IN ('photo', 'sound', 'text')", name=op.f("ck_embedding_model_modality_known")
        ),
        sa.CheckConstraint(
            "preprocessing <> '{}'::jsonb", name=op.f("ck_embedding_model_preprocessing_given")
        ),
        sa.CheckConstraint("dim BETWEEN 1 AND 4000", name=op.f("ck_embedding_model_dim_indexable")),
        sa.PrimaryKeyConstraint("id", name="pk_embedding_model"),
        sa.UniqueConstraint("fingerprint", name="uq_embedding_model_fingerprint"),
        sa.UniqueConstraint("name", "version", name="uq_embedding_model_name_version"),
    )
    op.create_table(
        "idempotency_key",
        sa.Column("principal", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("request_sha256", sa.Text(), nullable=False),
        sa.Column("status", sa.SmallInteger(), nullable=False),
        sa.Column("answer", postgresql.JSONB(), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.PrimaryKeyConstraint("principal", "key", name="pk_idempotency_key"),
    )
    op.create_table(
        "import_run",
        sa.Column("id", sa.UUID(), server_default=sa.text("gen_random_uuid()"), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("layout", sa.Text(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("total", sa.BigInteger(), nullable=False),
        sa.Column("imported", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("already_known", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("skipped", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column(
            "started_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "state IN ('running', 'done', 'failed')", name=op.f("ck_import_run_state_known")
        ),
        sa.PrimaryKeyConstraint("id", name="pk_import_run"),
    )
    op.create_table(
        "media_asset",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("sha256", sa.Text(), nullable=False),
        sa.Column("media_type", sa.Text(), nullable=False),
        sa.Column("byte_size", sa.BigInteger(), nullable=False),
        sa.Column("width_px", sa.Integer(), nullable=False),
        sa.Column("height_px", sa.Integer(), nullable=False),
        sa.Column("original_name", sa.Text(), nullable=True),
        sa.Column("taken_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("perceptual_hash", sa.BigInteger(), nullable=True),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.CheckConstraint("sha256 ~ '^[0-9a-f]{64}$'", name=op.f("ck_media_asset_sha256_is_hex")),
        sa.CheckConstraint("byte_size > 0", name=op.f("ck_media_asset_byte_size_positive")),
        sa.CheckConstraint(
            "width_px > 0 AND height_px > 0", name=op.f("ck_media_asset_size_positive")
        ),
        sa.PrimaryKeyConstraint("id", name="pk_media_asset"),
        sa.UniqueConstraint("sha256", name="uq_media_asset_sha256"),
    )
    op.create_index(
        "ix_media_asset_perceptual_hash", "media_asset", ["perceptual_hash"], unique=False
    )
    op.create_table(
        "taxon",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("scientific_name", sa.Text(), nullable=False),
        sa.Column("common_name", sa.Text(), nullable=True),
        sa.Column("aphia_id", sa.Integer(), nullable=True),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.CheckConstraint(
            "btrim(scientific_name) <> ''", name=op.f("ck_taxon_scientific_name_not_blank")
        ),
        sa.PrimaryKeyConstraint("id", name="pk_taxon"),
        sa.UniqueConstraint("aphia_id", name="uq_taxon_aphia_id"),
    )
    op.create_index(
        "uq_taxon_scientific_name",
        "taxon",
        [sa.literal_column("lower(scientific_name)")],
        unique=True,
    )
    op.create_table(
        "encounter",
        sa.Column("id", sa.UUID(), server_default=sa.text("gen_random_uuid()"), nullable=False),
        sa.Column("catalogue_id", sa.UUID(), nullable=False),
        sa.Column("external_id", sa.Text(), nullable=True),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("place", sa.Text(), nullable=True),
        sa.Column("latitude", sa.Double(), nullable=True),
        sa.Column("longitude", sa.Double(), nullable=True),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.CheckConstraint("ended_at >= started_at", name=op.f("ck_encounter_ends_after_start")),
        sa.CheckConstraint(
            "latitude BETWEEN -90 AND 90", name=op.f("ck_encounter_latitude_in_range")
        ),
        sa.CheckConstraint(
            "longitude BETWEEN -180 AND 180", name=op.f("ck_encounter_longitude_in_range")
        ),
        sa.ForeignKeyConstraint(
            ["catalogue_id"], ["catalogue.id"], name="fk_encounter_catalogue_id"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_encounter"),
    )
    op.create_index(
        "uq_encounter_external_id",
        "encounter",
        ["catalogue_id", "external_id"],
        unique=True,
        postgresql_where=sa.text("external_id IS NOT NULL"),
    )
    op.create_table(
        "head",
        sa.Column("id", sa.Integer(), sa.Identity(always=False), nullable=False),
        sa.Column("model_id", sa.Integer(), nullable=False),
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column("slot_count", sa.Integer(), nullable=False),
        sa.Column("mapped_count", sa.Integer(), nullable=False),
        sa.Column("scale", sa.Double(), nullable=False),
        sa.Column("min_probability", sa.Double(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("is_active", sa.Boolean(), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.CheckConstraint(
            "mapped_count BETWEEN 0 AND slot_count", name=op.f("ck_head_mapped_within_slots")
        ),
        sa.CheckConstraint(
            "min_probability BETWEEN 0 AND 1", name=op.f("ck_head_min_probability_in_range")
        ),
        sa.ForeignKeyConstraint(["model_id"], ["embedding_model.id"], name="fk_head_model_id"),
        sa.PrimaryKeyConstraint("id", name="pk_head"),
        sa.UniqueConstraint("model_id", "version", name="uq_head_model_id_version"),
    )
    op.create_index(
        "uq_head_active", "head", ["model_id"], unique=True, postgresql_where=sa.text("is_active")
    )
    op.create_table(
        "import_skip",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("run_id", sa.UUID(), nullable=False),
        sa.Column("entry", sa.Text(), nullable=False),
        sa.Column("code", sa.Text(), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["run_id"], ["import_run.id"], name="fk_import_skip_run_id", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_import_skip"),
    )
    op.create_index("ix_import_skip_run_id", "import_skip", ["run_id"], unique=False)
    op.create_table(
        "index_snapshot",
        sa.Column("id", sa.UUID(), server_default=sa.text("gen_random_uuid()"), nullable=False),
        sa.Column("model_id", sa.Integer(), nullable=False),
        sa.Column("backend", sa.Text(), nullable=False),
        sa.Column("vector_count", sa.BigInteger(), nullable=False),
        sa.Column("horizon_tx", Xid8(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("recall", sa.Double(), nullable=True),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.CheckConstraint(
            "state IN ('ready', 'retired')", name=op.f("ck_index_snapshot_state_known")
        ),
        sa.CheckConstraint(
            "recall BETWEEN 0 AND 1", name=op.f("ck_index_snapshot_recall_in_range")
        ),
        sa.CheckConstraint(
            "vector_count >= 0", name=op.f("ck_index_snapshot_vector_count_not_negative")
        ),
        sa.ForeignKeyConstraint(
            ["model_id"], ["embedding_model.id"], name="fk_index_snapshot_model_id"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_index_snapshot"),
    )
    op.create_index("ix_index_snapshot_model_id", "index_snapshot", ["model_id"], unique=False)
    op.create_table(
        "individual",
        sa.Column("id", sa.UUID(), server_default=sa.text("gen_random_uuid()"), nullable=False),
        sa.Column("catalogue_id", sa.UUID(), nullable=False),
        sa.Column("taxon_id", sa.BigInteger(), nullable=True),
        sa.Column("sex", sa.String(), server_default="unknown", nullable=False),
        sa.Column("vitality", sa.String(), server_default="unknown", nullable=False),
        sa.Column("notes", sa.Text(), nullable=True),
        sa.Column("merged_into_id", sa.UUID(), nullable=True),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.CheckConstraint(
            "sex IN ('female', 'male', 'unknown')", name=op.f("ck_individual_sex_known")
        ),
        sa.CheckConstraint(
            "vitality IN ('alive', 'dead', 'unknown')", name=op.f("ck_individual_vitality_known")
        ),
        sa.CheckConstraint(
            "merged_into_id <> id", name=op.f("ck_individual_not_merged_into_itself")
        ),
        sa.ForeignKeyConstraint(
            ["catalogue_id"], ["catalogue.id"], name="fk_individual_catalogue_id"
        ),
        sa.ForeignKeyConstraint(
            ["merged_into_id"], ["individual.id"], name="fk_individual_merged_into_id"
        ),
        sa.ForeignKeyConstraint(["taxon_id"], ["taxon.id"], name="fk_individual_taxon_id"),
        sa.PrimaryKeyConstraint("id", name="pk_individual"),
    )
    op.create_index(
        "ix_individual_catalogue_id_created_at_id",
        "individual",
        ["catalogue_id", "created_at", "id"],
        unique=False,
    )
    op.create_index("ix_individual_merged_into_id", "individual", ["merged_into_id"], unique=False)
    op.create_index("ix_individual_taxon_id", "individual", ["taxon_id"], unique=False)
    op.create_table(
        "model_slot",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("model_id", sa.Integer(), nullable=False),
        sa.Column(
            "switched_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.ForeignKeyConstraint(
            ["model_id"], ["embedding_model.id"], name="fk_model_slot_model_id"
        ),
        sa.PrimaryKeyConstraint("name", name="pk_model_slot"),
    )
    op.create_table(
        "query",
        sa.Column("id", sa.UUID(), server_default=sa.text("gen_random_uuid()"), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("model_id", sa.Integer(), nullable=True),
        sa.Column("principal", sa.Text(), nullable=False),
        sa.Column("k", sa.Integer(), nullable=False),
        sa.Column("gate_state", sa.String(), nullable=False),
        sa.Column("answer", postgresql.JSONB(), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.CheckConstraint(
            "gate_state IN ('accepted', 'rejected', 'abstained')",
            name=op.f("ck_query_gate_state_known"),
        ),
        sa.CheckConstraint("kind IN ('identify', 'predict')", name=op.f("ck_query_kind_known")),
        sa.CheckConstraint("k > 0", name=op.f("ck_query_k_positive")),
        sa.ForeignKeyConstraint(["model_id"], ["embedding_model.id"], name="fk_query_model_id"),
        sa.PrimaryKeyConstraint("id", name="pk_query"),
    )
    op.create_index("ix_query_created_at_id", "query", ["created_at", "id"], unique=False)
    op.create_table(
        "taxon_synonym",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("taxon_id", sa.BigInteger(), nullable=False),
        sa.Column("label", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["taxon_id"], ["taxon.id"], name="fk_taxon_synonym_taxon_id", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_taxon_synonym"),
    )
    op.create_index("ix_taxon_synonym_taxon_id", "taxon_synonym", ["taxon_id"], unique=False)
    op.create_index(
        "uq_taxon_synonym_label", "taxon_synonym", [sa.literal_column("lower(label)")], unique=True
    )
    op.create_table(
        "annotation",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("catalogue_id", sa.UUID(), nullable=False),
        sa.Column("media_id", sa.BigInteger(), nullable=False),
        sa.Column("individual_id", sa.UUID(), nullable=True),
        sa.Column("encounter_id", sa.UUID(), nullable=True),
        sa.Column("taxon_id", sa.BigInteger(), nullable=True),
        sa.Column("box_x_px", sa.Integer(), nullable=True),
        sa.Column("box_y_px", sa.Integer(), nullable=True),
        sa.Column("box_w_px", sa.Integer(), nullable=True),
        sa.Column("box_h_px", sa.Integer(), nullable=True),
        sa.Column("viewpoint", sa.Text(), nullable=True),
        sa.Column("source_ref", sa.Text(), nullable=True),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.CheckConstraint(
            "box_x_px >= 0 AND box_y_px >= 0 AND box_w_px > 0 AND box_h_px > 0",
            name=op.f("ck_annotation_box_not_empty"),
        ),
        sa.CheckConstraint(
            "num_nulls(box_x_px, box_y_px, box_w_px, box_h_px) IN (0, 4)",
            name=op.f("ck_annotation_box_whole_or_none"),
        ),
        sa.ForeignKeyConstraint(
            ["catalogue_id"], ["catalogue.id"], name="fk_annotation_catalogue_id"
        ),
        sa.ForeignKeyConstraint(
            ["encounter_id"], ["encounter.id"], name="fk_annotation_encounter_id"
        ),
        sa.ForeignKeyConstraint(
            ["individual_id"], ["individual.id"], name="fk_annotation_individual_id"
        ),
        sa.ForeignKeyConstraint(["media_id"], ["media_asset.id"], name="fk_annotation_media_id"),
        sa.ForeignKeyConstraint(["taxon_id"], ["taxon.id"], name="fk_annotation_taxon_id"),
        sa.PrimaryKeyConstraint("id", name="pk_annotation"),
    )
    op.create_index("ix_annotation_encounter_id", "annotation", ["encounter_id"], unique=False)
    op.create_index("ix_annotation_individual_id", "annotation", ["individual_id"], unique=False)
    op.create_index("ix_annotation_media_id", "annotation", ["media_id"], unique=False)
    op.create_index("ix_annotation_taxon_id", "annotation", ["taxon_id"], unique=False)
    op.create_index(
        "uq_annotation_region",
        "annotation",
        ["catalogue_id", "media_id", "box_x_px", "box_y_px", "box_w_px", "box_h_px"],
        unique=True,
        postgresql_nulls_not_distinct=True,
    )
    op.create_table(
        "head_slot",
        sa.Column("head_id", sa.Integer(), nullable=False),
        sa.Column("slot", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("label", sa.Text(), nullable=True),
        sa.Column("species", sa.Text(), nullable=True),
        sa.CheckConstraint("slot >= 0", name=op.f("ck_head_slot_slot_not_negative")),
        sa.ForeignKeyConstraint(
            ["head_id"], ["head.id"], name="fk_head_slot_head_id", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("head_id", "slot", name="pk_head_slot"),
    )
    op.create_index(
        "ix_head_slot_label",
        "head_slot",
        ["head_id", sa.literal_column("lower(label)")],
        unique=False,
    )
    op.create_table(
        "individual_name",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("individual_id", sa.UUID(), nullable=False),
        sa.Column("catalogue_id", sa.UUID(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("is_primary", sa.Boolean(), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.CheckConstraint("btrim(name) <> ''", name=op.f("ck_individual_name_name_not_blank")),
        sa.ForeignKeyConstraint(
            ["catalogue_id"], ["catalogue.id"], name="fk_individual_name_catalogue_id"
        ),
        sa.ForeignKeyConstraint(
            ["individual_id"],
            ["individual.id"],
            name="fk_individual_name_individual_id",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name="pk_individual_name"),
    )
    op.create_index(
        "ix_individual_name_individual_id", "individual_name", ["individual_id"], unique=False
    )
    op.create_index(
        "uq_individual_name_name",
        "individual_name",
        ["catalogue_id", sa.literal_column("lower(name)")],
        unique=True,
    )
    op.create_index(
        "uq_individual_name_primary",
        "individual_name",
        ["individual_id"],
        unique=True,
        postgresql_where=sa.text("is_primary"),
    )
    op.create_table(
        "match",
        sa.Column("query_id", sa.UUID(), nullable=False),
        sa.Column("rank", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("individual_id", sa.UUID(), nullable=False),
        sa.Column("annotation_id", sa.BigInteger(), nullable=False),
        sa.Column("score", sa.Double(), nullable=False),
        sa.Column("supporting", sa.Integer(), nullable=False),
        sa.CheckConstraint("rank > 0", name=op.f("ck_match_rank_positive")),
        sa.CheckConstraint("score BETWEEN -1.001 AND 1.001", name=op.f("ck_match_score_is_cosine")),
        sa.CheckConstraint("supporting > 0", name=op.f("ck_match_supporting_positive")),
        sa.ForeignKeyConstraint(
            ["individual_id"], ["individual.id"], name="fk_match_individual_id"
        ),
        sa.ForeignKeyConstraint(
            ["query_id"], ["query.id"], name="fk_match_query_id", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("query_id", "rank", name="pk_match"),
        sa.UniqueConstraint("query_id", "individual_id", name="uq_match_query_id_individual_id"),
    )
    op.create_index("ix_match_individual_id", "match", ["individual_id"], unique=False)
    op.create_table(
        "query_photo",
        sa.Column("query_id", sa.UUID(), nullable=False),
        sa.Column("position", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("media_id", sa.BigInteger(), nullable=False),
        sa.Column("file_name", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["media_id"], ["media_asset.id"], name="fk_query_photo_media_id"),
        sa.ForeignKeyConstraint(
            ["query_id"], ["query.id"], name="fk_query_photo_query_id", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("query_id", "position", name="pk_query_photo"),
    )
    op.create_index("ix_query_photo_media_id", "query_photo", ["media_id"], unique=False)
    op.create_table(
        "review",
        sa.Column("id", sa.UUID(), server_default=sa.text("gen_random_uuid()"), nullable=False),
        sa.Column("query_id", sa.UUID(), nullable=False),
        sa.Column("individual_id", sa.UUID(), nullable=True),
        sa.Column("verdict", sa.String(), nullable=False),
        sa.Column("reviewer", sa.Text(), nullable=False),
        sa.Column("note", sa.Text(), nullable=True),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.CheckConstraint(
            "(verdict IN ('same', 'different')) <= (individual_id IS NOT NULL)",
            name=op.f("ck_review_same_and_different_name_an_individual"),
        ),
        sa.CheckConstraint(
            "verdict IN ('same', 'different', 'unsure', 'new')",
            name=op.f("ck_review_verdict_known"),
        ),
        sa.ForeignKeyConstraint(
            ["individual_id"], ["individual.id"], name="fk_review_individual_id"
        ),
        sa.ForeignKeyConstraint(["query_id"], ["query.id"], name="fk_review_query_id"),
        sa.PrimaryKeyConstraint("id", name="pk_review"),
    )
    op.create_index("ix_review_individual_id", "review", ["individual_id"], unique=False)
    op.create_index("ix_review_query_id", "review", ["query_id"], unique=False)
    op.create_table(
        "embedding",
        sa.Column("model_id", sa.Integer(), nullable=False),
        sa.Column("annotation_id", sa.BigInteger(), nullable=False),
        sa.Column("v", Vector(), nullable=False),
        sa.Column("tx", Xid8(), server_default=sa.text("pg_current_xact_id()"), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.CheckConstraint("vector_norm(v) > 0", name=op.f("ck_embedding_not_zero")),
        sa.ForeignKeyConstraint(
            ["annotation_id"],
            ["annotation.id"],
            name="fk_embedding_annotation_id",
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(["model_id"], ["embedding_model.id"], name="fk_embedding_model_id"),
        sa.PrimaryKeyConstraint("model_id", "annotation_id", name="pk_embedding"),
        postgresql_partition_by="LIST (model_id)",
    )
    op.create_index("ix_embedding_annotation_id", "embedding", ["annotation_id"], unique=False)
    op.create_index("ix_embedding_tx", "embedding", ["model_id", "tx"], unique=False)
    op.create_table(
        "annotation_change",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("annotation_id", sa.BigInteger(), nullable=False),
        sa.Column("tx", Xid8(), server_default=sa.text("pg_current_xact_id()"), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_annotation_change"),
    )
    op.create_index("ix_annotation_change_tx", "annotation_change", ["tx"], unique=False)
    op.execute(APPEND_ONLY)
    op.execute(AUDIT_CHAIN)
    op.execute(ANNOTATION_CHANGES)
    op.execute("INSERT INTO catalogue (name) VALUES ('main')")


def downgrade() -> None:
    op.execute("DROP TRIGGER audit_chain ON audit")
    op.execute("DROP FUNCTION audit_row_hash")
    op.drop_index("ix_annotation_change_tx", table_name="annotation_change")
    op.drop_table("annotation_change")
    op.drop_index("ix_embedding_tx", table_name="embedding")
    op.drop_index("ix_embedding_annotation_id", table_name="embedding")
    op.drop_table("embedding")
    op.drop_index("ix_review_query_id", table_name="review")
    op.drop_index("ix_review_individual_id", table_name="review")
    op.drop_table("review")
    op.drop_index("ix_query_photo_media_id", table_name="query_photo")
    op.drop_table("query_photo")
    op.drop_index("ix_match_individual_id", table_name="match")
    op.drop_table("match")
    op.drop_index(
        "uq_individual_name_primary",
        table_name="individual_name",
        postgresql_where=sa.text("is_primary"),
    )
    op.drop_index("uq_individual_name_name", table_name="individual_name")
    op.drop_index("ix_individual_name_individual_id", table_name="individual_name")
    op.drop_table("individual_name")
    op.drop_index("ix_head_slot_label", table_name="head_slot")
    op.drop_table("head_slot")
    op.drop_index(
        "uq_annotation_region", table_name="annotation", postgresql_nulls_not_distinct=True
    )
    op.drop_index("ix_annotation_taxon_id", table_name="annotation")
    op.drop_index("ix_annotation_media_id", table_name="annotation")
    op.drop_index("ix_annotation_individual_id", table_name="annotation")
    op.drop_index("ix_annotation_encounter_id", table_name="annotation")
    op.drop_table("annotation")
    op.drop_index("uq_taxon_synonym_label", table_name="taxon_synonym")
    op.drop_index("ix_taxon_synonym_taxon_id", table_name="taxon_synonym")
    op.drop_table("taxon_synonym")
    op.drop_index("ix_query_created_at_id", table_name="query")
    op.drop_table("query")
    op.drop_table("model_slot")
    op.drop_index("ix_individual_taxon_id", table_name="individual")
    op.drop_index("ix_individual_merged_into_id", table_name="individual")
    op.drop_index("ix_individual_catalogue_id_created_at_id", table_name="individual")
    op.drop_table("individual")
    op.drop_index("ix_index_snapshot_model_id", table_name="index_snapshot")
    op.drop_table("index_snapshot")
    op.drop_index("ix_import_skip_run_id", table_name="import_skip")
    op.drop_table("import_skip")
    op.drop_index("uq_head_active", table_name="head", postgresql_where=sa.text("is_active"))
    op.drop_table("head")
    op.drop_index(
        "uq_encounter_external_id",
        table_name="encounter",
        postgresql_where=sa.text("external_id IS NOT NULL"),
    )
    op.drop_table("encounter")
    op.drop_index("uq_taxon_scientific_name", table_name="taxon")
    op.drop_table("taxon")
    op.drop_index("ix_media_asset_perceptual_hash", table_name="media_asset")
    op.drop_table("media_asset")
    op.drop_table("import_run")
    op.drop_table("idempotency_key")
    op.drop_table("embedding_model")
    op.drop_index("uq_catalogue_name", table_name="catalogue")
    op.drop_table("catalogue")
    op.drop_table("audit")
    op.drop_table("api_key")
    op.execute("DROP FUNCTION log_annotation_label")
    op.execute("DROP FUNCTION log_deleted_embedding")
    op.execute("DROP FUNCTION audit_chain")
    op.execute("DROP FUNCTION refuse_change")
