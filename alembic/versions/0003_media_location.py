"""Photos that stay where they are: the URI of their bytes.

Revision: 0003
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("media_asset", sa.Column("location", sa.Text(), nullable=True))
    op.create_check_constraint(
        op.f("ck_media_asset_location_is_uri"), "media_asset", "location ~ '^[a-z][a-z0-9]*://.'"
    )


def downgrade() -> None:
    op.drop_constraint(op.f("ck_media_asset_location_is_uri"), "media_asset", type_="check")
    op.drop_column("media_asset", "location")
