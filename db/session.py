"""Engines and sessions, and the check that a server is one we can trust with vectors."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session, sessionmaker

from db.deadline import TimedConnection
from db.errors import UnsupportedDatabase

MIN_POSTGRES = 15
MIN_PGVECTOR = (0, 8, 4)
"""Earlier pgvector releases can corrupt an HNSW index."""

_ATTEMPTS: Final = 4
_MET: Final = frozenset({"40001", "40P01"})
"""PostgreSQL's serialization failure and deadlock: of two transactions that met, one was ended."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ServerInfo:
    postgres_version: str
    pgvector_version: str
    system_identifier: int
    """Tells two PostgreSQL clusters apart: transaction ids of different ones are not comparable."""


def make_engine(url: str, *, pool_size: int = 8) -> Engine:
    """An engine over psycopg 3 for a `postgresql://` URL; opens no connection yet.

    Statements are never prepared on the server: cached generic plans would ignore the planner
    settings and the array sizes of later searches. Connections keep `db.deadline.deadline`.
    """
    parsed = make_url(
        "postgresql" + url.removeprefix("postgres") if url[:9] == "postgres:" else url
    )
    if parsed.get_backend_name() != "postgresql":
        raise UnsupportedDatabase(
            "not_postgresql",
            f"The database URL starts with {parsed.drivername!r}; Resight needs PostgreSQL: "
            "use postgresql://user:password@host/name.",
        )
    engine = create_engine(
        parsed.set(drivername="postgresql+psycopg"),
        pool_size=pool_size,
        max_overflow=pool_size,
        pool_pre_ping=True,
        connect_args={
            "prepare_threshold": None,
            "connect_timeout": 10,
            "application_name": "resight",
        },
    )
    event.listen(engine, "do_connect", _connect)
    return engine


def _connect(_dialect: object, _record: object, args: list[Any], options: dict[str, Any]) -> Any:
    return TimedConnection.connect(*args, **options)


def make_sessions(engine: Engine) -> sessionmaker[Session]:
    """Sessions whose rows stay readable after commit."""
    return sessionmaker(engine, expire_on_commit=False)


def unless_met(transaction: Callable[[], T]) -> T:
    """What a whole transaction gives; one that PostgreSQL ended because it met another is carried
    out again, three times at most.

    Raises:
        OperationalError: it met others each time. What `transaction` raises.
    """
    for _ in range(_ATTEMPTS - 1):
        try:
            return transaction()
        except OperationalError as error:
            if getattr(error.orig, "sqlstate", None) not in _MET:
                raise
    return transaction()


def read_versions(connection: Connection) -> tuple[int, str, str | None, int]:
    """(server_version_num, server_version, pgvector version or None, system identifier).

    The pgvector version is the installed one, else the one that would be installed.
    """
    row = connection.execute(
        text(
            "SELECT current_setting('server_version_num')::int, current_setting('server_version'),"
            " (SELECT coalesce(installed_version, default_version)"
            "    FROM pg_available_extensions WHERE name = 'vector'),"
            " (SELECT system_identifier FROM pg_control_system())"
        )
    ).one()
    return int(row[0]), str(row[1]), row[2], int(row[3])


def check_server(engine: Engine) -> ServerInfo:
    """Versions of the server.

    Raises:
        UnsupportedDatabase: PostgreSQL older than 15, or pgvector missing or older than 0.8.4.
    """
    with engine.connect() as connection:
        number, version, pgvector, identifier = read_versions(connection)
    if number < MIN_POSTGRES * 10_000:
        raise UnsupportedDatabase(
            "postgres_too_old",
            f"The database server is PostgreSQL {version}; Resight needs {MIN_POSTGRES} or newer. "
            "Upgrade the server, or unset RESIGHT_DATABASE_URL to use the embedded one.",
            found=version,
            needed=str(MIN_POSTGRES),
        )
    if pgvector is None:
        raise UnsupportedDatabase(
            "pgvector_missing",
            "The database server does not offer the extension `vector`; install pgvector "
            f"{_dotted(MIN_PGVECTOR)} or newer on it.",
            found=None,
            needed=_dotted(MIN_PGVECTOR),
        )
    if tuple(int(part) for part in re.findall(r"\d+", pgvector)[:3]) < MIN_PGVECTOR:
        raise UnsupportedDatabase(
            "pgvector_too_old",
            f"The database has pgvector {pgvector}, not {_dotted(MIN_PGVECTOR)} or newer: "
            "earlier releases can corrupt an index. Install it on the server, then run "
            "ALTER EXTENSION vector UPDATE in the database.",
            found=pgvector,
            needed=_dotted(MIN_PGVECTOR),
        )
    return ServerInfo(version, pgvector, identifier)


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))
