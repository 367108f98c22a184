"""Runs migrations on a connection given by `db.migrate`, or on the configured database."""

from __future__ import annotations

import os
import re
from pathlib import Path

from alembic import context
from sqlalchemy import Connection
from sqlalchemy.dialects.postgresql.base import ischema_names

from db.embedded import start
from db.session import make_engine
from db.tables import Base
from db.types import Vector32, Xid8

# Reflection would otherwise warn that it does not know these types, and compare nothing.
ischema_names["vector"] = Vector32
ischema_names["xid8"] = Xid8

_PARTITION = re.compile(r"embedding_m\d+")


def include_name(name: str | None, kind: str, parents: object) -> bool:  # noqa: ARG001
    """Not compared: partitions, made when a space is registered, and procrastinate's own tables."""
    if kind != "table" or name is None:
        return True
    return _PARTITION.fullmatch(name) is None and not name.startswith("procrastinate_")


def migrate(connection: Connection) -> None:
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        include_name=include_name,
        compare_type=True,
        compare_server_default=True,
    )
    with context.begin_transaction():
        context.run_migrations()


def main() -> None:
    given = context.config.attributes.get("connection")
    if given is not None:
        migrate(given)
        return
    url = os.environ.get("RESIGHT_DATABASE_URL")
    url = url or start(Path(os.environ.get("RESIGHT_DATA_DIR", ".resight"))).url
    engine = make_engine(url)
    with engine.begin() as connection:
        migrate(connection)
    engine.dispose()


main()
