"""Jobs in chunks, re-index runs, fitted heads, regions that change, notices of a switch.

Revision: 0002
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from procrastinate.schema import SchemaManager
from sqlalchemy.dialects import postgresql

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

# A vector belongs to the region it was made from: a changed region loses its vectors in every
# space, in the same transaction. Who embeds compares the version it read with the present one.
REGIONS = """
CREATE FUNCTION count_region_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.region_version := OLD.region_version + 1;
    RETURN NEW;
END $$;

CREATE TRIGGER annotation_region_counted BEFORE UPDATE ON annotation
    FOR EACH ROW WHEN (
        (OLD.media_id, OLD.box_x_px, OLD.box_y_px, OLD.box_w_px, OLD.box_h_px)
        IS DISTINCT FROM
        (NEW.media_id, NEW.box_x_px, NEW.box_y_px, NEW.box_w_px, NEW.box_h_px))
    EXECUTE FUNCTION count_region_change();

CREATE FUNCTION drop_stale_embeddings() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM embedding WHERE annotation_id = NEW.id;
    RETURN NULL;
END $$;

CREATE TRIGGER annotation_region_changed AFTER UPDATE ON annotation
    FOR EACH ROW WHEN (OLD.region_version <> NEW.region_version)
    EXECUTE FUNCTION drop_stale_embeddings();
"""

NOTICES = """
CREATE FUNCTION tell_slot() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('resight_slot', NEW.name);
    RETURN NULL;
END $$;

CREATE TRIGGER model_slot_told AFTER INSERT OR UPDATE ON model_slot
    FOR EACH ROW EXECUTE FUNCTION tell_slot();

CREATE FUNCTION tell_head() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('resight_head', NEW.model_id::text);
    RETURN NULL;
END $$;

CREATE TRIGGER head_added_told AFTER INSERT ON head
    FOR EACH ROW WHEN (NEW.is_active) EXECUTE FUNCTION tell_head();
CREATE TRIGGER head_switched_told AFTER UPDATE OF is_active ON head
    FOR EACH ROW WHEN (OLD.is_active IS DISTINCT FROM NEW.is_active) EXECUTE FUNCTION tell_head();
"""

DROP_PROCRASTINATE = """
DROP TABLE procrastinate_events, procrastinate_periodic_defers, procrastinate_jobs,
    procrastinate_workers CASCADE;
DO $$
DECLARE
    routine regprocedure;
BEGIN
    FOR routine IN SELECT oid FROM pg_proc
        WHERE pronamespace = current_schema()::regnamespace
            AND starts_with(proname, 'procrastinate_')
    LOOP
        EXECUTE 'DROP FUNCTION ' || routine || ' CASCADE';
    END LOOP;
END $$;
DROP TYPE procrastinate_job_to_defer_v1;
DROP TYPE procrastinate_job_status;
DROP TYPE procrastinate_job_event_type;
"""


def upgrade() -> None:
    op.create_table(
        "job",
        sa.Column("id", sa.UUID(), server_default=sa.text("gen_random_uuid()"), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("stage", sa.Text(), nullable=True),
        sa.Column("exclusive_key", sa.Text(), nullable=True),
        sa.Column(
            "params", postgresql.JSONB(), server_default=sa.text("'{}'::jsonb"), nullable=False
        ),
        sa.Column("result", postgresql.JSONB(), nullable=True),
        sa.Column("error_code", sa.Text(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("total", sa.BigInteger(), nullable=True),
        sa.Column("done", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("failed", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("requested_by", sa.Text(), nullable=False),
        sa.Column("paused_by", sa.Text(), nullable=True),
        sa.Column("cancelled_by", sa.Text(), nullable=True),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "(state = 'paused') <= (paused_by IS NOT NULL)", name=op.f("ck_job_pause_has_owner")
        ),
        sa.CheckConstraint(
            "kind IN ('embed_missing', 'reindex', 'build_snapshot', 'build_ann', 'import', "
            "'fit_head', 'evaluate', 'export')",
            name=op.f("ck_job_kind_known"),
        ),
        sa.CheckConstraint(
            "state IN ('queued', 'running', 'paused', 'cancelling', 'cancelled', 'failed', 'done')",
            name=op.f("ck_job_state_known"),
        ),
        sa.CheckConstraint("done >= 0 AND failed >= 0", name=op.f("ck_job_counts_not_negative")),
        sa.CheckConstraint("total >= 0", name=op.f("ck_job_total_not_negative")),
        sa.PrimaryKeyConstraint("id", name="pk_job"),
    )
    op.create_index("ix_job_created_at_id", "job", ["created_at", "id"], unique=False)
    op.create_index(
        "ix_job_open",
        "job",
        ["created_at", "id"],
        unique=False,
        postgresql_where=sa.text("state IN ('queued', 'running', 'paused', 'cancelling')"),
    )
    op.create_index(
        "uq_job_exclusive",
        "job",
        ["exclusive_key"],
        unique=True,
        postgresql_where=sa.text("state IN ('queued', 'running', 'paused', 'cancelling')"),
    )
    op.create_table(
        "job_chunk",
        sa.Column("job_id", sa.UUID(), nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("stage", sa.Text(), nullable=False),
        sa.Column("state", sa.String(), server_default="queued", nullable=False),
        sa.Column(
            "params", postgresql.JSONB(), server_default=sa.text("'{}'::jsonb"), nullable=False
        ),
        sa.Column("items", sa.Integer(), nullable=False),
        sa.Column("done", sa.Integer(), server_default="0", nullable=False),
        sa.Column("failed", sa.Integer(), server_default="0", nullable=False),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False),
        sa.Column("worker", sa.Text(), nullable=True),
        sa.Column("token", sa.UUID(), nullable=True),
        sa.Column("lease_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.CheckConstraint(
            "(state = 'running') <= (num_nulls(worker, token, lease_until) = 0)",
            name=op.f("ck_job_chunk_running_is_leased"),
        ),
        sa.CheckConstraint(
            "state IN ('queued', 'running', 'done', 'cancelled')",
            name=op.f("ck_job_chunk_state_known"),
        ),
        sa.CheckConstraint(
            "items >= 0 AND done >= 0 AND failed >= 0",
            name=op.f("ck_job_chunk_counts_not_negative"),
        ),
        sa.CheckConstraint("number >= 0", name=op.f("ck_job_chunk_number_not_negative")),
        sa.ForeignKeyConstraint(
            ["job_id"], ["job.id"], name="fk_job_chunk_job_id", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("job_id", "number", name="pk_job_chunk"),
    )
    op.create_index(
        "ix_job_chunk_open",
        "job_chunk",
        ["job_id", "number"],
        unique=False,
        postgresql_where=sa.text("state IN ('queued', 'running')"),
    )
    op.create_index(
        "ix_job_chunk_finished",
        "job_chunk",
        ["job_id", "finished_at"],
        unique=False,
        postgresql_where=sa.text("state = 'done'"),
    )
    op.create_table(
        "job_failure",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("job_id", sa.UUID(), nullable=False),
        sa.Column("item", sa.Text(), nullable=False),
        sa.Column("stage", sa.Text(), nullable=False),
        sa.Column("code", sa.Text(), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("attempts", sa.Integer(), server_default="1", nullable=False),
        sa.Column(
            "at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False
        ),
        sa.ForeignKeyConstraint(
            ["job_id"], ["job.id"], name="fk_job_failure_job_id", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_job_failure"),
        sa.UniqueConstraint("job_id", "item", name="uq_job_failure_job_id_item"),
    )
    op.create_table(
        "reindex_run",
        sa.Column("id", sa.UUID(), nullable=False),
        sa.Column("slot", sa.Text(), nullable=False),
        sa.Column("from_model_id", sa.Integer(), nullable=True),
        sa.Column("to_model_id", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("previous_head_id", sa.Integer(), nullable=True),
        sa.Column("snapshot_id", sa.UUID(), nullable=True),
        sa.Column("report", postgresql.JSONB(), nullable=True),
        sa.Column("requested_by", sa.Text(), nullable=False),
        sa.Column("activated_by", sa.Text(), nullable=True),
        sa.Column("forced", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column("ready_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("activated_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "state IN ('requested', 'embedding', 'building', 'verifying', 'ready', 'active', "
            "'retired', 'cancelling', 'cancelled', 'failed')",
            name=op.f("ck_reindex_run_state_known"),
        ),
        sa.CheckConstraint(
            "from_model_id <> to_model_id", name=op.f("ck_reindex_run_between_two_spaces")
        ),
        sa.ForeignKeyConstraint(
            ["from_model_id"], ["embedding_model.id"], name="fk_reindex_run_from_model_id"
        ),
        sa.ForeignKeyConstraint(["id"], ["job.id"], name="fk_reindex_run_id"),
        sa.ForeignKeyConstraint(
            ["to_model_id"], ["embedding_model.id"], name="fk_reindex_run_to_model_id"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_reindex_run"),
    )
    op.create_index(
        "ix_reindex_run_created_at_id", "reindex_run", ["created_at", "id"], unique=False
    )
    op.create_index(
        "uq_reindex_run_open",
        "reindex_run",
        ["slot"],
        unique=True,
        postgresql_where=sa.text(
            "state IN ('requested', 'embedding', 'building', 'verifying', 'ready')"
        ),
    )
    op.create_table(
        "head_rows",
        sa.Column("head_id", sa.Integer(), nullable=False),
        sa.Column("part", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("rows", sa.LargeBinary(), nullable=False),
        sa.CheckConstraint("part >= 0", name=op.f("ck_head_rows_part_not_negative")),
        sa.ForeignKeyConstraint(
            ["head_id"], ["head.id"], name="fk_head_rows_head_id", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("head_id", "part", name="pk_head_rows"),
    )
    op.add_column(
        "annotation", sa.Column("region_version", sa.Integer(), server_default="0", nullable=False)
    )
    op.add_column("head", sa.Column("source", sa.String(), server_default="bundle", nullable=False))
    op.add_column("head", sa.Column("report", postgresql.JSONB(), nullable=True))
    op.add_column("head", sa.Column("activated_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("head_slot", sa.Column("individual_id", sa.UUID(), nullable=True))
    op.create_index("ix_head_slot_individual_id", "head_slot", ["individual_id"], unique=False)
    op.create_foreign_key(
        "fk_head_slot_individual_id", "head_slot", "individual", ["individual_id"], ["id"]
    )
    op.create_check_constraint("source_known", "head", "source IN ('bundle', 'fit')")
    op.execute(REGIONS)
    op.execute(NOTICES)
    # The SQL of the version that pyproject.toml pins.
    op.execute(SchemaManager.get_schema())


def downgrade() -> None:
    op.execute(DROP_PROCRASTINATE)
    op.execute("DROP TRIGGER head_switched_told ON head")
    op.execute("DROP TRIGGER head_added_told ON head")
    op.execute("DROP TRIGGER model_slot_told ON model_slot")
    op.execute("DROP FUNCTION tell_head, tell_slot")
    op.execute("DROP TRIGGER annotation_region_changed ON annotation")
    op.execute("DROP TRIGGER annotation_region_counted ON annotation")
    op.execute("DROP FUNCTION drop_stale_embeddings, count_region_change")
    op.drop_constraint("fk_head_slot_individual_id", "head_slot", type_="foreignkey")
    op.drop_index("ix_head_slot_individual_id", table_name="head_slot")
    op.drop_column("head_slot", "individual_id")
    op.drop_column("head", "activated_at")
    op.drop_column("head", "report")
    op.drop_column("head", "source")
    op.drop_column("annotation", "region_version")
    op.drop_table("head_rows")
    op.drop_index(
        "uq_reindex_run_open",
        table_name="reindex_run",
        postgresql_where=sa.text(
            "state IN ('requested', 'embedding', 'building', 'verifying', 'ready')"
        ),
    )
    op.drop_index("ix_reindex_run_created_at_id", table_name="reindex_run")
    op.drop_table("reindex_run")
    op.drop_table("job_failure")
    op.drop_index(
        "ix_job_chunk_finished",
        table_name="job_chunk",
        postgresql_where=sa.text("state = 'done'"),
    )
    op.drop_index(
        "ix_job_chunk_open",
        table_name="job_chunk",
        postgresql_where=sa.text("state IN ('queued', 'running')"),
    )
    op.drop_table("job_chunk")
    op.drop_index(
        "uq_job_exclusive",
        table_name="job",
        postgresql_where=sa.text("state IN ('queued', 'running', 'paused', 'cancelling')"),
    )
    op.drop_index(
        "ix_job_open",
        table_name="job",
        postgresql_where=sa.text("state IN ('queued', 'running', 'paused', 'cancelling')"),
    )
    op.drop_index("ix_job_created_at_id", table_name="job")
    op.drop_table("job")
