"""Bringing a database to this program's schema, and telling how far it is.

Every command asks how far, few of them migrate: Alembic is loaded by those alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sqlalchemy import Connection, Engine, text
from sqlalchemy.orm import Session

from db.errors import SchemaMismatch, UnsupportedDatabase
from db.queries.taxa import seed_taxa

if TYPE_CHECKING:
    from alembic.config import Config

SCRIPTS = Path(__file__).resolve().parent.parent / "alembic"

HEAD: Final = "0005"
"""The newest revision in `SCRIPTS`, the one that this program needs."""

_UPGRADE_LOCK = 0x5E516874
"""Advisory lock that lets one process upgrade while the others wait."""


@dataclass(frozen=True, slots=True)
class MigrationStatus:
    """`current` is None in an empty database."""

    current: str | None
    head: str
    up_to_date: bool


def make_config(connection: Connection | None = None) -> Config:
    """Alembic's configuration without a file; `connection` is the one migrations run on."""
    from alembic.config import Config

    if not (SCRIPTS / "env.py").exists():
        raise SchemaMismatch(
            "migrations_missing",
            f"The migrations are not at {SCRIPTS}; install Resight from its checkout "
            "(pip install -e .).",
        )
    config = Config()
    config.set_main_option("script_location", str(SCRIPTS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config


def upgrade(engine: Engine, revision: str = "head") -> None:
    """Create or upgrade the schema and the known taxa, in one transaction.

    Processes that call this at once take turns.

    Raises:
        SchemaMismatch: the database was made by a newer program.
        UnsupportedDatabase: the extension `vector` cannot be created.
    """
    from alembic import command

    with engine.begin() as connection:
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _UPGRADE_LOCK})
        _ensure_extension(connection)
        _refuse_newer(_current(connection))
        command.upgrade(make_config(connection), revision)
        if revision == "head":
            with Session(connection, join_transaction_mode="create_savepoint") as session:
                seed_taxa(session)
                session.commit()


def status(engine: Engine) -> MigrationStatus:
    """Which revision the database is at, and which one this program needs."""
    with engine.connect() as connection:
        current = _current(connection)
    return MigrationStatus(current, HEAD, current == HEAD)


def require_current(engine: Engine) -> None:
    """Refuse to work on a schema that is not this program's.

    Raises:
        SchemaMismatch: empty, older, or newer; the sentence says what to do.
    """
    found = status(engine)
    if found.up_to_date:
        return
    _refuse_newer(found.current)
    state = "is empty" if found.current is None else f"is at revision {found.current}"
    raise SchemaMismatch(
        "schema_outdated",
        f"The database {state}, this program needs {found.head}; run `resight db upgrade`.",
        current=found.current,
        head=found.head,
    )


def _current(connection: Connection) -> str | None:
    if connection.scalar(text("SELECT to_regclass('alembic_version')")) is None:
        return None
    current: str | None = connection.scalar(text("SELECT version_num FROM alembic_version"))
    return current


def _refuse_newer(current: str | None) -> None:
    if current in (None, HEAD):
        return
    from alembic.script import ScriptDirectory
    from alembic.util import CommandError

    try:
        ScriptDirectory.from_config(make_config()).get_revision(current)
    except CommandError as error:
        raise SchemaMismatch(
            "schema_newer",
            f"The database is at revision {current}, which this program does not know: a newer "
            "Resight has upgraded it. Run that newer version.",
            current=current,
            head=HEAD,
        ) from error


def _ensure_extension(connection: Connection) -> None:
    installed = connection.scalar(text("SELECT 1 FROM pg_extension WHERE extname = 'vector'"))
    if installed:
        return
    try:
        with connection.begin_nested():
            connection.execute(text("CREATE EXTENSION IF NOT EXISTS vector"))
    except Exception as error:
        raise UnsupportedDatabase(
            "pgvector_not_created",
            "The extension `vector` could not be created in the database "
            f"({str(error).splitlines()[0]}). Let a superuser run CREATE EXTENSION vector there.",
        ) from error
