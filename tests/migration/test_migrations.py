"""Migrations: from empty to head, no difference to the tables, down and up, refusals."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from alembic import command
from sqlalchemy import Engine, text

from db import migrate
from db.errors import SchemaMismatch
from db.session import make_engine
from db.tables import Base

_CATALOGUE = text(
    """
    SELECT 'constraint ' || conrelid::regclass || ' ' || pg_get_constraintdef(oid) || ' ' || conname
      FROM pg_constraint WHERE connamespace = 'public'::regnamespace
    UNION ALL
    SELECT 'index ' || pg_get_indexdef(indexrelid) FROM pg_index
      JOIN pg_class ON pg_class.oid = indrelid WHERE relnamespace = 'public'::regnamespace
    UNION ALL
    SELECT 'column ' || c.relname || ' ' || attname || ' ' || format_type(atttypid, atttypmod)
        || ' ' || attnotnull || ' ' || attidentity::text || ' '
        || coalesce(pg_get_expr(adbin, adrelid), '')
      FROM pg_attribute JOIN pg_class c ON c.oid = attrelid
      LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
      WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') AND attnum > 0
        AND NOT attisdropped
    ORDER BY 1
    """
)


def _described(engine: Engine) -> list[str]:
    with engine.connect() as connection:
        lines = connection.scalars(_CATALOGUE).all()
    return [line for line in lines if "alembic_version" not in line]


def test_empty_to_head_leaves_nothing_to_migrate(engine: Engine) -> None:
    with engine.begin() as connection:
        command.check(migrate.make_config(connection))


def test_partitions_are_no_difference(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(
            text("CREATE TABLE embedding_m7 PARTITION OF embedding FOR VALUES IN (7)")
        )
        command.check(migrate.make_config(connection))


def test_migrated_schema_is_that_of_the_tables(engine: Engine, empty_url: str) -> None:
    created = make_engine(empty_url)
    with created.begin() as connection:
        connection.execute(text("CREATE EXTENSION vector"))
        Base.metadata.create_all(connection)
    expected = _described(created)
    created.dispose()
    assert len(expected) > 200
    assert _described(engine) == expected


def test_newest_migration_goes_down_and_up(engine: Engine) -> None:
    before = _described(engine)
    with engine.begin() as connection:
        command.downgrade(migrate.make_config(connection), "-1")
    assert not migrate.status(engine).up_to_date
    migrate.upgrade(engine)
    assert migrate.status(engine).up_to_date
    assert _described(engine) == before


def test_processes_that_upgrade_at_once_take_turns(empty_url: str) -> None:
    engines = [make_engine(empty_url) for _ in range(4)]
    with ThreadPoolExecutor(len(engines)) as pool:
        list(pool.map(migrate.upgrade, engines))
    with engines[0].connect() as connection:
        assert connection.scalar(text("SELECT count(*) FROM catalogue")) == 1
        assert connection.scalar(text("SELECT count(*) FROM taxon")) == 28
    for made in engines:
        made.dispose()


def test_empty_database_is_told_to_upgrade(empty_url: str) -> None:
    made = make_engine(empty_url)
    assert migrate.status(made).current is None
    with pytest.raises(SchemaMismatch, match=r"is empty.*resight db upgrade") as refused:
        migrate.require_current(made)
    assert refused.value.code == "schema_outdated"
    made.dispose()


def test_newer_database_is_refused(engine: Engine) -> None:
    migrate.require_current(engine)
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    for attempt in (migrate.require_current, migrate.upgrade):
        with pytest.raises(SchemaMismatch, match=r"9999.*newer") as refused:
            attempt(engine)
        assert refused.value.code == "schema_newer"
