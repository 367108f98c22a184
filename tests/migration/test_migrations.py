"""Migrations: from empty to head, no difference to the tables, down and up, refusals."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from alembic import command
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, text
from sqlalchemy.orm import Session

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
    ignored = ("alembic_version", "procrastinate_")
    return [line for line in lines if not any(name in line for name in ignored)]


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


def test_the_newest_migration_is_the_one_that_is_needed() -> None:
    scripts = ScriptDirectory.from_config(migrate.make_config())
    assert scripts.get_current_head() == migrate.HEAD


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


def test_every_migration_goes_down_and_leaves_nothing_of_its_own(empty_url: str) -> None:
    made = make_engine(empty_url)
    with made.begin() as connection:
        connection.execute(text("CREATE EXTENSION vector"))
        command.upgrade(migrate.make_config(connection), "0001")
    before = _everything(made)
    with made.begin() as connection:
        command.upgrade(migrate.make_config(connection), "head")
        command.downgrade(migrate.make_config(connection), "0001")
    assert _everything(made) == before
    made.dispose()


def _everything(engine: Engine) -> list[str]:
    """Tables, functions, types and triggers by name, procrastinate's included."""
    statement = """
        SELECT 'relation ' || relname FROM pg_class WHERE relnamespace = 'public'::regnamespace
        UNION ALL SELECT 'routine ' || proname FROM pg_proc
            WHERE pronamespace = 'public'::regnamespace
        UNION ALL SELECT 'type ' || typname FROM pg_type
            WHERE typnamespace = 'public'::regnamespace
        UNION ALL SELECT 'trigger ' || tgname FROM pg_trigger WHERE NOT tgisinternal
        ORDER BY 1
    """
    with engine.connect() as connection:
        return list(connection.scalars(text(statement)))


def test_a_changed_region_loses_its_vectors_and_counts_a_version(session: Session) -> None:
    annotation = _annotation_with_a_vector(session)
    session.execute(text("UPDATE annotation SET viewpoint = 'left' WHERE id = :id"), annotation)
    assert session.execute(_VERSION_AND_VECTORS, annotation).one() == (0, 1)
    box = "box_x_px = 1, box_y_px = 1, box_w_px = 2, box_h_px = 2"
    session.execute(text(f"UPDATE annotation SET {box} WHERE id = :id"), annotation)
    assert session.execute(_VERSION_AND_VECTORS, annotation).one() == (1, 0)
    session.execute(text(f"UPDATE annotation SET {box} WHERE id = :id"), annotation)
    assert session.execute(_VERSION_AND_VECTORS, annotation).one() == (1, 0)


_VERSION_AND_VECTORS = text(
    "SELECT region_version, (SELECT count(*) FROM embedding WHERE annotation_id = :id)"
    " FROM annotation WHERE id = :id"
)


def _annotation_with_a_vector(session: Session) -> dict[str, int]:
    statement = """
        WITH photo AS (
            INSERT INTO media_asset (sha256, media_type, byte_size, width_px, height_px)
            VALUES (repeat('a', 64), 'image/png', 1, 9, 9) RETURNING id),
        space AS (
            INSERT INTO embedding_model (name, version, fingerprint, dim, modality, preprocessing,
                licence, digest)
            VALUES ('m', '1', 'f', 2, 'photo', '{"size": 1}', 'MIT', 'd') RETURNING id),
        added AS (
            INSERT INTO annotation (catalogue_id, media_id)
            SELECT catalogue.id, photo.id FROM catalogue, photo RETURNING id)
        SELECT added.id, space.id FROM added, space
    """
    annotation_id, model_id = session.execute(text(statement)).one()
    session.execute(
        text(
            f"CREATE TABLE embedding_m{model_id} PARTITION OF embedding FOR VALUES IN ({model_id})"
        )
    )
    session.execute(
        text("INSERT INTO embedding (model_id, annotation_id, v) VALUES (:m, :a, '[1,2]')"),
        {"m": model_id, "a": annotation_id},
    )
    return {"id": annotation_id}


def test_a_switch_of_slot_or_head_is_told_to_who_listens(engine: Engine) -> None:
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as listener:
        listener.execute(text("LISTEN resight_slot"))
        listener.execute(text("LISTEN resight_head"))
        with engine.begin() as connection:
            connection.execute(
                text(
                    "INSERT INTO embedding_model (name, version, fingerprint, dim, modality,"
                    " preprocessing, licence, digest) VALUES ('m', '1', 'f', 2, 'photo',"
                    " '{\"size\": 1}', 'MIT', 'd')"
                )
            )
            connection.execute(text("INSERT INTO model_slot (name, model_id) VALUES ('a', 1)"))
            connection.execute(
                text(
                    "INSERT INTO head (model_id, version, slot_count, mapped_count, scale,"
                    " min_probability, digest, is_active) VALUES (1, '1', 1, 0, 30, 0, 'd', false)"
                )
            )
            connection.execute(text("UPDATE head SET is_active = true"))
        driver = listener.connection.driver_connection
        assert driver is not None
        told = [(n.channel, n.payload) for n in driver.notifies(timeout=5, stop_after=2)]
    assert sorted(told) == [("resight_head", "1"), ("resight_slot", "a")]
