"""Indexes of the filters of a search, how far the change log reaches back, reports of indexes.

Revision: 0004
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from db.types import Xid8

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index(
        "ix_individual_survivor",
        "individual",
        [sa.text("coalesce(merged_into_id, id)")],
        unique=False,
    )
    op.create_index(
        "ix_annotation_viewpoint", "annotation", [sa.text("lower(viewpoint)")], unique=False
    )
    op.create_index("ix_media_asset_taken_at", "media_asset", ["taken_at"], unique=False)
    op.create_index("ix_encounter_started_at", "encounter", ["started_at"], unique=False)
    op.create_table(
        "change_floor",
        sa.Column("single", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("tx", Xid8(), nullable=False),
        sa.CheckConstraint("single", name=op.f("ck_change_floor_one_row")),
        sa.PrimaryKeyConstraint("single", name="pk_change_floor"),
    )
    op.add_column("index_snapshot", sa.Column("report", postgresql.JSONB(), nullable=True))


def downgrade() -> None:
    op.drop_column("index_snapshot", "report")
    op.drop_table("change_floor")
    op.drop_index("ix_encounter_started_at", table_name="encounter")
    op.drop_index("ix_media_asset_taken_at", table_name="media_asset")
    op.drop_index("ix_annotation_viewpoint", table_name="annotation")
    op.drop_index("ix_individual_survivor", table_name="individual")
