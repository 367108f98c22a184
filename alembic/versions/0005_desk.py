"""The desk: encounters asked as one question, verdicts, identity changes, people, calibration.

Revision: 0005
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

APPEND_ONLY = """
CREATE TRIGGER change_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON change
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER change_row_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON change_row
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
"""

# Readers that keep vectors in memory count those that a search may answer with.
LABELLED = """
DROP TRIGGER annotation_labelled ON annotation;
CREATE TRIGGER annotation_labelled AFTER UPDATE OF individual_id, matchable ON annotation
    FOR EACH ROW WHEN ((OLD.individual_id IS NULL OR NOT OLD.matchable)
        <> (NEW.individual_id IS NULL OR NOT NEW.matchable))
    EXECUTE FUNCTION log_annotation_label();
"""
LABELLED_BEFORE = """
DROP TRIGGER annotation_labelled ON annotation;
CREATE TRIGGER annotation_labelled AFTER UPDATE OF individual_id ON annotation
    FOR EACH ROW WHEN ((OLD.individual_id IS NULL) <> (NEW.individual_id IS NULL))
    EXECUTE FUNCTION log_annotation_label();
"""

# A fluke is seen from behind or below and has no side; a flank or a dorsal fin shows another
# pattern on the left than on the right.
RULES = """
INSERT INTO viewpoint_rule (body_part, sided, set_by) VALUES
    ('fluke', false, 'resight'), ('flank', true, 'resight'), ('dorsal fin', true, 'resight'),
    ('head', true, 'resight'), (NULL, false, 'resight');
"""

VERDICTS = ("same", "different", "unsure", "new")
NEW_VERDICTS = (*VERDICTS, "none", "not_usable", "usable", "undo")
KINDS = ("identify", "predict")
JOBS = (
    "embed_missing",
    "reindex",
    "build_snapshot",
    "build_ann",
    "import",
    "fit_head",
    "evaluate",
    "export",
)
STATES = ("open", "second", "unsure", "no_match", "same", "new", "not_usable")


def one_of(column: str, values: tuple[str, ...]) -> str:
    allowed = ", ".join(f"'{value}'" for value in values)
    return f"{column} IN ({allowed})"


NEW_CHECKS = {
    ("individual", "life_stage_known"): one_of(
        "life_stage", ("calf", "juvenile", "subadult", "adult", "unknown")
    ),
    ("query", "state_known"): one_of("state", STATES),
    ("query", "wanted_votes_positive"): "wanted_votes >= 1",
    ("review", "reason_known"): one_of(
        "reason", ("blurred", "no_animal", "several_animals", "other")
    ),
    ("review", "undo_names_a_decision"): "(verdict = 'undo') = (undoes IS NOT NULL)",
    ("review", "not_usable_has_a_reason"): "(verdict = 'not_usable') = (reason IS NOT NULL)",
}
WIDENED = {
    ("job", "kind_known"): (one_of("kind", JOBS), one_of("kind", (*JOBS, "calibrate"))),
    ("query", "kind_known"): (one_of("kind", KINDS), one_of("kind", (*KINDS, "encounter"))),
    ("review", "verdict_known"): (one_of("verdict", VERDICTS), one_of("verdict", NEW_VERDICTS)),
}


def name_of(table: str, check: str) -> str:
    return f"ck_{table}_{check}"


def upgrade() -> None:
    op.create_table(
        "account",
        sa.Column("id", sa.Integer(), sa.Identity(always=False), nullable=False),
        sa.Column("login", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("role", sa.String(), nullable=False),
        sa.Column("password_hash", sa.Text(), nullable=True),
        sa.Column("is_local", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column("disabled_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("btrim(login) <> ''", name=op.f("ck_account_login_not_blank")),
        sa.CheckConstraint("btrim(name) <> ''", name=op.f("ck_account_name_not_blank")),
        sa.CheckConstraint(
            "role IN ('viewer', 'reviewer', 'curator', 'admin')", name=op.f("ck_account_role_known")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_account")),
    )
    op.create_index(
        "uq_account_local",
        "account",
        ["is_local"],
        unique=True,
        postgresql_where=sa.text("is_local"),
    )
    op.create_index("uq_account_login", "account", [sa.literal_column("lower(login)")], unique=True)
    op.create_index("uq_account_name", "account", [sa.literal_column("lower(name)")], unique=True)
    op.create_table(
        "saved_view",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("page", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("params", sa.Text(), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.CheckConstraint("btrim(name) <> ''", name=op.f("ck_saved_view_name_not_blank")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_saved_view")),
    )
    op.create_index(
        "uq_saved_view_name",
        "saved_view",
        ["owner", "page", sa.literal_column("lower(name)")],
        unique=True,
    )
    op.create_table(
        "calibration",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("model_id", sa.Integer(), nullable=False),
        sa.Column("params", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("report", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("fitted_by", sa.Text(), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.ForeignKeyConstraint(
            ["model_id"],
            ["embedding_model.id"],
            name=op.f("fk_calibration_model_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_calibration")),
    )
    op.create_index("ix_calibration_model_id_id", "calibration", ["model_id", "id"], unique=False)
    op.create_table(
        "change",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column(
            "at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False
        ),
        sa.Column("principal", sa.Text(), nullable=False),
        sa.Column("account_id", sa.Integer(), nullable=True),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("undoes_id", sa.BigInteger(), nullable=True),
        sa.Column("decision_id", sa.UUID(), nullable=True),
        sa.Column("individual_ids", postgresql.ARRAY(sa.UUID()), nullable=False),
        sa.Column(
            "detail",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default=sa.text("'{}'::jsonb"),
            nullable=False,
        ),
        sa.ForeignKeyConstraint(["account_id"], ["account.id"], name=op.f("fk_change_account_id")),
        sa.ForeignKeyConstraint(["undoes_id"], ["change.id"], name=op.f("fk_change_undoes_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_change")),
    )
    op.create_index(op.f("ix_change_decision_id"), "change", ["decision_id"], unique=False)
    op.create_index(
        "ix_change_individual_ids",
        "change",
        ["individual_ids"],
        unique=False,
        postgresql_using="gin",
    )
    op.create_index("uq_change_undoes", "change", ["undoes_id"], unique=True)
    op.create_table(
        "name_reservation",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("catalogue_id", sa.UUID(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("principal", sa.Text(), nullable=False),
        sa.Column("until", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["catalogue_id"],
            ["catalogue.id"],
            name=op.f("fk_name_reservation_catalogue_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_name_reservation")),
    )
    op.create_index(
        "uq_name_reservation_name",
        "name_reservation",
        ["catalogue_id", sa.literal_column("lower(name)")],
        unique=True,
    )
    op.create_table(
        "sign_in",
        sa.Column("sha256", sa.Text(), nullable=False),
        sa.Column("account_id", sa.Integer(), nullable=False),
        sa.Column("api_key_id", sa.Integer(), nullable=True),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["account_id"], ["account.id"], name=op.f("fk_sign_in_account_id"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["api_key_id"], ["api_key.id"], name=op.f("fk_sign_in_api_key_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("sha256", name=op.f("pk_sign_in")),
    )
    op.create_index(op.f("ix_sign_in_account_id"), "sign_in", ["account_id"], unique=False)
    op.create_index(op.f("ix_sign_in_api_key_id"), "sign_in", ["api_key_id"], unique=False)
    op.create_table(
        "viewpoint_rule",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("taxon_id", sa.BigInteger(), nullable=True),
        sa.Column("body_part", sa.Text(), nullable=True),
        sa.Column("sided", sa.Boolean(), nullable=False),
        sa.Column("set_by", sa.Text(), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.ForeignKeyConstraint(
            ["taxon_id"], ["taxon.id"], name=op.f("fk_viewpoint_rule_taxon_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_viewpoint_rule")),
    )
    op.create_index(
        "uq_viewpoint_rule_subject",
        "viewpoint_rule",
        ["taxon_id", sa.literal_column("lower(body_part)")],
        unique=True,
        postgresql_nulls_not_distinct=True,
    )
    op.create_table(
        "change_row",
        sa.Column("change_id", sa.BigInteger(), nullable=False),
        sa.Column("position", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("entity", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column(
            "before", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=True
        ),
        sa.Column(
            "after", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=True
        ),
        sa.CheckConstraint(
            "entity IN ('individual', 'individual_name', 'annotation', 'encounter')",
            name=op.f("ck_change_row_entity_known"),
        ),
        sa.CheckConstraint(
            "num_nulls(before, after) < 2", name=op.f("ck_change_row_says_something")
        ),
        sa.ForeignKeyConstraint(["change_id"], ["change.id"], name=op.f("fk_change_row_change_id")),
        sa.PrimaryKeyConstraint("change_id", "position", name=op.f("pk_change_row")),
    )
    op.create_index(
        "ix_change_row_entity_key", "change_row", ["entity", "key", "change_id"], unique=False
    )
    op.add_column("annotation", sa.Column("body_part", sa.Text(), nullable=True))
    op.add_column(
        "annotation",
        sa.Column("is_reference", sa.Boolean(), server_default=sa.text("false"), nullable=False),
    )
    op.add_column(
        "annotation",
        sa.Column("matchable", sa.Boolean(), server_default=sa.text("true"), nullable=False),
    )
    op.add_column("api_key", sa.Column("account_id", sa.Integer(), nullable=True))
    op.create_index(op.f("ix_api_key_account_id"), "api_key", ["account_id"], unique=False)
    op.create_foreign_key(
        op.f("fk_api_key_account_id"),
        "api_key",
        "account",
        ["account_id"],
        ["id"],
        ondelete="CASCADE",
    )
    op.add_column("encounter", sa.Column("observer", sa.Text(), nullable=True))
    op.add_column("encounter", sa.Column("notes", sa.Text(), nullable=True))
    op.create_index(
        "ix_encounter_when",
        "encounter",
        [sa.literal_column("coalesce(started_at, created_at)"), "id"],
        unique=False,
    )
    op.create_index("ix_individual_created_at_id", "individual", ["created_at", "id"], unique=False)
    op.create_index(
        "ix_individual_name_order",
        "individual_name",
        [sa.literal_column("lower(name)"), "individual_id"],
        unique=False,
        postgresql_where=sa.text("is_primary"),
    )
    op.add_column(
        "individual", sa.Column("life_stage", sa.String(), server_default="unknown", nullable=False)
    )
    op.add_column(
        "individual",
        sa.Column(
            "links",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default=sa.text("'[]'::jsonb"),
            nullable=False,
        ),
    )
    op.add_column(
        "individual",
        sa.Column("withdrawn", sa.Boolean(), server_default=sa.text("false"), nullable=False),
    )
    op.add_column(
        "match",
        sa.Column(
            "evidence", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=True
        ),
    )
    op.add_column("media_asset", sa.Column("latitude", sa.Double(), nullable=True))
    op.add_column("media_asset", sa.Column("longitude", sa.Double(), nullable=True))
    op.add_column("media_asset", sa.Column("photographer", sa.Text(), nullable=True))
    op.add_column("query", sa.Column("encounter_id", sa.UUID(), nullable=True))
    op.add_column("query", sa.Column("state", sa.String(), nullable=True))
    op.add_column("query", sa.Column("version", sa.Integer(), server_default="0", nullable=False))
    op.add_column(
        "query", sa.Column("wanted_votes", sa.SmallInteger(), server_default="1", nullable=False)
    )
    op.add_column("query", sa.Column("best_score", sa.Double(), nullable=True))
    op.add_column(
        "query",
        sa.Column("disagrees", sa.Boolean(), server_default=sa.text("false"), nullable=False),
    )
    op.add_column(
        "query",
        sa.Column("gate_overruled", sa.Boolean(), server_default=sa.text("false"), nullable=False),
    )
    op.create_index(
        "ix_query_desk",
        "query",
        ["state", "created_at", "id"],
        unique=False,
        postgresql_where=sa.text("state IS NOT NULL"),
    )
    op.create_index(op.f("ix_query_encounter_id"), "query", ["encounter_id"], unique=False)
    op.create_foreign_key(
        op.f("fk_query_encounter_id"), "query", "encounter", ["encounter_id"], ["id"]
    )
    op.add_column("query_photo", sa.Column("annotation_id", sa.BigInteger(), nullable=True))
    op.create_index(
        op.f("ix_query_photo_annotation_id"), "query_photo", ["annotation_id"], unique=False
    )
    op.create_foreign_key(
        op.f("fk_query_photo_annotation_id"),
        "query_photo",
        "annotation",
        ["annotation_id"],
        ["id"],
        ondelete="SET NULL",
    )
    op.add_column(
        "review",
        sa.Column(
            "decision_id", sa.UUID(), server_default=sa.text("gen_random_uuid()"), nullable=False
        ),
    )
    op.add_column("review", sa.Column("annotation_id", sa.BigInteger(), nullable=True))
    op.add_column("review", sa.Column("other_individual_id", sa.UUID(), nullable=True))
    op.add_column("review", sa.Column("reason", sa.String(), nullable=True))
    op.add_column(
        "review",
        sa.Column("is_vote", sa.Boolean(), server_default=sa.text("false"), nullable=False),
    )
    op.add_column("review", sa.Column("undoes", sa.UUID(), nullable=True))
    op.add_column("review", sa.Column("account_id", sa.Integer(), nullable=True))
    op.add_column("review", sa.Column("rank", sa.SmallInteger(), nullable=True))
    op.add_column("review", sa.Column("score", sa.Double(), nullable=True))
    op.add_column("review", sa.Column("match_annotation_id", sa.BigInteger(), nullable=True))
    op.add_column("review", sa.Column("fingerprint", sa.Text(), nullable=True))
    op.add_column("review", sa.Column("snapshot", sa.Text(), nullable=True))
    op.add_column(
        "review",
        sa.Column(
            "filters", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=True
        ),
    )
    op.alter_column("review", "query_id", existing_type=sa.UUID(), nullable=True)
    op.create_index(op.f("ix_review_annotation_id"), "review", ["annotation_id"], unique=False)
    op.create_index(op.f("ix_review_decision_id"), "review", ["decision_id"], unique=False)
    op.create_index("ix_review_created_at_id", "review", ["created_at", "id"], unique=False)
    op.create_index(
        "ix_review_rejected",
        "review",
        ["annotation_id", "individual_id"],
        unique=False,
        postgresql_where=sa.text("verdict = 'different'"),
    )
    op.create_index(
        "uq_review_undoes",
        "review",
        ["undoes"],
        unique=True,
        postgresql_where=sa.text("undoes IS NOT NULL"),
    )
    op.create_foreign_key(
        op.f("fk_review_other_individual_id"),
        "review",
        "individual",
        ["other_individual_id"],
        ["id"],
    )
    op.create_foreign_key(op.f("fk_review_account_id"), "review", "account", ["account_id"], ["id"])
    for (table, check), condition in NEW_CHECKS.items():
        op.create_check_constraint(op.f(name_of(table, check)), table, condition)
    for (table, check), (_, condition) in WIDENED.items():
        op.drop_constraint(op.f(name_of(table, check)), table, type_="check")
        op.create_check_constraint(op.f(name_of(table, check)), table, condition)
    op.execute(APPEND_ONLY)
    op.execute(LABELLED)
    op.execute(RULES)


def downgrade() -> None:
    op.execute(LABELLED_BEFORE)
    for (table, check), (condition, _) in WIDENED.items():
        op.drop_constraint(op.f(name_of(table, check)), table, type_="check")
        op.create_check_constraint(op.f(name_of(table, check)), table, condition)
    for table, check in NEW_CHECKS:
        op.drop_constraint(op.f(name_of(table, check)), table, type_="check")
    op.drop_constraint(op.f("fk_review_account_id"), "review", type_="foreignkey")
    op.drop_constraint(op.f("fk_review_other_individual_id"), "review", type_="foreignkey")
    op.drop_index(
        "uq_review_undoes", table_name="review", postgresql_where=sa.text("undoes IS NOT NULL")
    )
    op.drop_index(
        "ix_review_rejected", table_name="review", postgresql_where=sa.text("verdict = 'different'")
    )
    op.drop_index("ix_review_created_at_id", table_name="review")
    op.drop_index(op.f("ix_review_decision_id"), table_name="review")
    op.drop_index(op.f("ix_review_annotation_id"), table_name="review")
    op.alter_column("review", "query_id", existing_type=sa.UUID(), nullable=False)
    op.drop_column("review", "filters")
    op.drop_column("review", "snapshot")
    op.drop_column("review", "fingerprint")
    op.drop_column("review", "match_annotation_id")
    op.drop_column("review", "score")
    op.drop_column("review", "rank")
    op.drop_column("review", "account_id")
    op.drop_column("review", "undoes")
    op.drop_column("review", "is_vote")
    op.drop_column("review", "reason")
    op.drop_column("review", "other_individual_id")
    op.drop_column("review", "annotation_id")
    op.drop_column("review", "decision_id")
    op.drop_constraint(op.f("fk_query_photo_annotation_id"), "query_photo", type_="foreignkey")
    op.drop_index(op.f("ix_query_photo_annotation_id"), table_name="query_photo")
    op.drop_column("query_photo", "annotation_id")
    op.drop_constraint(op.f("fk_query_encounter_id"), "query", type_="foreignkey")
    op.drop_index(op.f("ix_query_encounter_id"), table_name="query")
    op.drop_index(
        "ix_query_desk", table_name="query", postgresql_where=sa.text("state IS NOT NULL")
    )
    op.drop_column("query", "gate_overruled")
    op.drop_column("query", "disagrees")
    op.drop_column("query", "best_score")
    op.drop_column("query", "wanted_votes")
    op.drop_column("query", "version")
    op.drop_column("query", "state")
    op.drop_column("query", "encounter_id")
    op.drop_column("media_asset", "photographer")
    op.drop_column("media_asset", "longitude")
    op.drop_column("media_asset", "latitude")
    op.drop_column("match", "evidence")
    op.drop_column("individual", "withdrawn")
    op.drop_column("individual", "links")
    op.drop_column("individual", "life_stage")
    op.drop_index("ix_individual_name_order", table_name="individual_name")
    op.drop_index("ix_individual_created_at_id", table_name="individual")
    op.drop_index("ix_encounter_when", table_name="encounter")
    op.drop_column("encounter", "notes")
    op.drop_column("encounter", "observer")
    op.drop_constraint(op.f("fk_api_key_account_id"), "api_key", type_="foreignkey")
    op.drop_index(op.f("ix_api_key_account_id"), table_name="api_key")
    op.drop_column("api_key", "account_id")
    op.drop_column("annotation", "matchable")
    op.drop_column("annotation", "is_reference")
    op.drop_column("annotation", "body_part")
    op.drop_index("ix_change_row_entity_key", table_name="change_row")
    op.drop_table("change_row")
    op.drop_index(
        "uq_viewpoint_rule_subject", table_name="viewpoint_rule", postgresql_nulls_not_distinct=True
    )
    op.drop_table("viewpoint_rule")
    op.drop_index(op.f("ix_sign_in_api_key_id"), table_name="sign_in")
    op.drop_index(op.f("ix_sign_in_account_id"), table_name="sign_in")
    op.drop_table("sign_in")
    op.drop_index("uq_name_reservation_name", table_name="name_reservation")
    op.drop_table("name_reservation")
    op.drop_index("uq_change_undoes", table_name="change")
    op.drop_index("ix_change_individual_ids", table_name="change", postgresql_using="gin")
    op.drop_index(op.f("ix_change_decision_id"), table_name="change")
    op.drop_table("change")
    op.drop_index("ix_calibration_model_id_id", table_name="calibration")
    op.drop_table("calibration")
    op.drop_index("uq_saved_view_name", table_name="saved_view")
    op.drop_table("saved_view")
    op.drop_index("uq_account_name", table_name="account")
    op.drop_index("uq_account_login", table_name="account")
    op.drop_index("uq_account_local", table_name="account", postgresql_where=sa.text("is_local"))
    op.drop_table("account")
