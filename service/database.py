"""Finding, checking and migrating the database, for whoever needs no models."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Engine
from sqlalchemy.orm import Session, sessionmaker

from db import embedded, migrate
from db.session import check_server, make_engine, make_sessions
from service.settings import Settings


@dataclass(frozen=True, slots=True, eq=False)
class Database:
    """A checked, migrated database."""

    engine: Engine
    sessions: sessionmaker[Session]


def open_database(settings: Settings) -> Database:
    """Finds or starts the database and brings the embedded one up to date.

    Raises:
        UnsupportedDatabase: too old, without pgvector, or not to be started.
        SchemaMismatch: a database of your own is not at this program's version.
    """
    if settings.database_url is None:
        settings.data_dir.mkdir(parents=True, exist_ok=True)
        engine = make_engine(embedded.start(settings.data_dir).url)
    else:
        engine = make_engine(settings.database_url.get_secret_value())
    try:
        check_server(engine)
        if settings.database_url is None and not migrate.status(engine).up_to_date:
            migrate.upgrade(engine)
        migrate.require_current(engine)
    except BaseException:
        engine.dispose()
        raise
    return Database(engine, make_sessions(engine))
