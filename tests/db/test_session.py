"""Engines, the floor under server versions, and constraints put into words."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from db import errors
from db import session as db_session
from db.errors import Conflict, Invalid, NotFound, UnsupportedDatabase, translated
from db.session import check_server, make_engine, unless_met
from db.tables import Base


def test_a_good_server_is_described(engine: Engine) -> None:
    info = check_server(engine)
    assert info.postgres_version.startswith("18.")
    assert info.pgvector_version == "0.8.5"
    assert info.system_identifier > 2**32


def test_pgvector_may_still_have_to_be_created(empty_url: str) -> None:
    made = make_engine(empty_url)
    assert check_server(made).pgvector_version == "0.8.5"
    made.dispose()


@pytest.mark.parametrize(
    ("found", "code", "sentence"),
    [
        ((140012, "14.12", "0.8.5", 1), "postgres_too_old", "PostgreSQL 14.12; Resight needs 15"),
        ((150001, "15.1", None, 1), "pgvector_missing", "install pgvector 0.8.4 or newer"),
        ((150001, "15.1", "0.8.3", 1), "pgvector_too_old", "pgvector 0.8.3, not 0.8.4 or newer"),
        ((180004, "18.4", "0.7", 1), "pgvector_too_old", "ALTER EXTENSION vector UPDATE"),
    ],
)
def test_older_servers_are_refused_with_a_sentence(
    engine: Engine,
    monkeypatch: pytest.MonkeyPatch,
    found: tuple[int, str, str | None, int],
    code: str,
    sentence: str,
) -> None:
    monkeypatch.setattr(db_session, "read_versions", lambda _connection: found)
    with pytest.raises(UnsupportedDatabase, match=re.escape(sentence)) as refused:
        check_server(engine)
    assert refused.value.code == code


@pytest.mark.parametrize("found", ["0.8.4", "0.8.10", "0.9.0", "1.0"])
def test_newer_pgvector_is_welcome(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, found: str
) -> None:
    monkeypatch.setattr(db_session, "read_versions", lambda _connection: (150000, "15.0", found, 1))
    assert check_server(engine).pgvector_version == found


def test_all_three_spellings_of_the_url_work(database_url: str) -> None:
    rest = database_url.removeprefix("postgresql://")
    for scheme in ("postgresql", "postgres", "postgresql+psycopg"):
        made = make_engine(f"{scheme}://{rest}")
        with made.connect() as connection:
            assert connection.scalar(text("SELECT 1")) == 1
        made.dispose()
    with pytest.raises(UnsupportedDatabase, match="'mysql'"):
        make_engine("mysql://localhost/x")


def test_statements_are_never_prepared(engine: Engine) -> None:
    with engine.connect() as connection:
        for _ in range(8):
            connection.execute(text("SELECT :one"), {"one": 1})
        assert connection.scalar(text("SELECT count(*) FROM pg_prepared_statements")) == 0


def test_every_constraint_with_a_sentence_exists(session: Session) -> None:
    found = set(session.scalars(text("SELECT conname FROM pg_constraint")))
    found |= set(session.scalars(text("SELECT indexname FROM pg_indexes")))
    assert set(errors._CONSTRAINTS) <= found


def test_constraint_names_fit_postgresql() -> None:
    names = [c.name for table in Base.metadata.tables.values() for c in table.constraints]
    assert all(name is not None and len(str(name)) <= 63 for name in names)


@pytest.mark.parametrize(
    ("statement", "error", "code"),
    [
        ("INSERT INTO catalogue (name) VALUES ('MAIN')", Conflict, "catalogue_name_taken"),
        ("INSERT INTO catalogue (name) VALUES (' ')", Invalid, "name_blank"),
        (
            "INSERT INTO taxon (scientific_name) VALUES ('orcinus ORCA')",
            Conflict,
            "taxon_exists",
        ),
        (
            "INSERT INTO taxon (scientific_name, aphia_id) VALUES ('x', 137102)",
            Conflict,
            "aphia_id_taken",
        ),
        (
            "INSERT INTO taxon_synonym (taxon_id, label) SELECT id, 'GLOBIS' FROM taxon LIMIT 1",
            Conflict,
            "synonym_taken",
        ),
        (
            "INSERT INTO taxon_synonym (taxon_id, label) VALUES (-1, 'x')",
            NotFound,
            "referenced_row_missing",
        ),
        (
            "INSERT INTO import_run (source, layout, state, total) VALUES ('', '', 'odd', 1)",
            Invalid,
            "value_invalid",
        ),
        ("INSERT INTO catalogue (id, name) VALUES ('x', 'y')", Invalid, "value_invalid"),
        (
            "INSERT INTO catalogue (id, name) SELECT id, 'z' FROM catalogue",
            Conflict,
            "constraint_violated",
        ),
    ],
)
def test_a_constraint_becomes_an_error_with_a_code(
    session: Session, statement: str, error: type[errors.DbError], code: str
) -> None:
    with pytest.raises(error) as refused, session.begin_nested(), translated():
        session.execute(text(statement))
    assert refused.value.code == code
    assert str(refused.value).endswith(".")


def test_of_two_transactions_that_wait_for_each_other_both_are_carried_out(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE met (id int PRIMARY KEY, seen text DEFAULT '')"))
        connection.execute(text("INSERT INTO met (id) VALUES (1), (2)"))
    both_hold_one = Barrier(2)
    attempts = []

    def write(who: str, *order: int) -> None:
        def attempt() -> None:
            attempts.append(who)
            with engine.begin() as connection:
                for place, id_ in enumerate(order):
                    connection.execute(
                        text("UPDATE met SET seen = seen || :who WHERE id = :id"),
                        {"who": who, "id": id_},
                    )
                    if place == 0 and attempts.count(who) == 1:
                        both_hold_one.wait(timeout=30)

        unless_met(attempt)

    with ThreadPoolExecutor(2) as threads:
        for one in (threads.submit(write, "a", 1, 2), threads.submit(write, "b", 2, 1)):
            one.result(timeout=60)

    assert sorted(attempts) in (["a", "a", "b"], ["a", "b", "b"])
    with engine.begin() as connection:
        seen = connection.execute(text("SELECT DISTINCT seen FROM met")).scalars().all()
        connection.execute(text("DROP TABLE met"))
    assert len(seen) == 1
    assert sorted(seen[0]) == ["a", "b"]


def test_what_is_no_meeting_is_tried_once(engine: Engine) -> None:
    attempts = []

    def attempt() -> None:
        attempts.append(1)
        with engine.begin() as connection:
            connection.execute(text("SET LOCAL statement_timeout = 1"))
            connection.execute(text("SELECT pg_sleep(1)"))

    with pytest.raises(OperationalError):
        unless_met(attempt)
    assert len(attempts) == 1
