"""PostgreSQL for the tests: one embedded server per run, a migrated template, cheap clones.

Fixtures, cheapest first:

- `session`: a session on a clone that all tests share, inside a transaction that is rolled back
  afterwards. `commit()` ends a savepoint only, so code under test may commit. Other connections
  see nothing of it.
- `database_url`, `engine`, `sessions`: a clone of its own for one test, for what needs real
  commits, several connections or schema changes.
- `empty_url`: an empty database of its own, without any schema.
- `server`: the server, for tests that make databases themselves (`new_database`).

Tests that stop or kill PostgreSQL start their own server with `db.embedded.start`.
"""

from __future__ import annotations

import gc
import itertools
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import Engine, make_url
from sqlalchemy.orm import Session, sessionmaker
from xdist.scheduler import LoadFileScheduling

from db import embedded, migrate
from db.session import make_engine, make_sessions
from tests.milvus_server import LiteServer, lite_server

_TEMPLATE = "resight_template"
_PLENTY_BYTES = 4 * 2**30
_LOG_MB = 256
_TOGETHER = {
    "tests/models/": "torch and the bundles made with it",
    "tests/browser/test_how_sure_page.py": "the drawn site",
    "tests/browser/test_jobs_page.py": "the drawn site",
    "tests/browser/test_match_page.py": "the drawn site",
    "tests/browser/test_review_page.py": "the drawn site",
}
"""What sets up the same for long, by where it lies."""


# A full collection looks through all that the libraries keep: at Python's own threshold a tenth of
# the time of the service's tests.
gc.set_threshold(50_000, 20, 20)


class SetUpOnce(LoadFileScheduling):
    """Tests of a file share a process, and so do files that set up the same for long."""

    def _split_scope(self, nodeid: str) -> str:
        for place, what in _TOGETHER.items():
            if nodeid.startswith(place):
                return what
        return super()._split_scope(nodeid)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> SetUpOnce:
    return SetUpOnce(config, log)


@dataclass(frozen=True)
class TestServer:
    """The server of the run; each database made here is dropped by the caller."""

    __test__ = False

    url: str
    data_dir: Path
    _numbers: itertools.count[int] = field(default_factory=itertools.count)

    def database(self, name: str) -> str:
        """The URL of a database of this server."""
        return make_url(self.url).set(database=name).render_as_string(hide_password=False)

    def new_database(self, template: str = "template1") -> str:
        """A new database; its URL."""
        name = f"test_{next(self._numbers)}"
        self.run(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy")
        return self.database(name)

    def drop_database(self, url: str) -> None:
        self.run(f"DROP DATABASE IF EXISTS {make_url(url).database} WITH (FORCE)")

    def run(self, statement: str) -> None:
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(statement.encode())


@pytest.fixture(scope="session")
def server() -> Iterator[TestServer]:
    # Not in pytest's own directory: each further pytest of root closes that one to all others,
    # the server's user included.
    with tempfile.TemporaryDirectory(prefix="resight-test-", dir=_quick_folder()) as name:
        yield from _serve(Path(name))


def _quick_folder() -> Path | None:
    """Memory, where there is plenty: a disk may take 0.4 s for the hundreds of files of a clone."""
    memory = Path("/dev/shm")
    usable = memory.is_dir() and os.access(memory, os.W_OK | os.X_OK)
    return memory if usable and shutil.disk_usage(memory).free >= _PLENTY_BYTES else None


def _serve(data_dir: Path) -> Iterator[TestServer]:
    started = embedded.start(data_dir)
    test_server = TestServer(started.url, data_dir)
    # A test run may lose its data when the machine dies: no waiting for the disk.
    test_server.run("ALTER SYSTEM SET fsync = off")
    test_server.run("ALTER SYSTEM SET full_page_writes = off")
    test_server.run(f"ALTER SYSTEM SET max_wal_size = '{_LOG_MB}MB'")
    test_server.run("SELECT pg_reload_conf()")
    yield test_server
    embedded.stop(data_dir)


@pytest.fixture(scope="session")
def template(server: TestServer) -> str:
    """The name of a database at the newest revision, to be cloned."""
    server.run(f"CREATE DATABASE {_TEMPLATE}")
    engine = make_engine(server.database(_TEMPLATE))
    migrate.upgrade(engine)
    engine.dispose()
    return _TEMPLATE


@pytest.fixture
def empty_url(server: TestServer) -> Iterator[str]:
    url = server.new_database()
    yield url
    server.drop_database(url)


@pytest.fixture
def database_url(server: TestServer, template: str) -> Iterator[str]:
    url = server.new_database(template)
    yield url
    server.drop_database(url)


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    made = make_engine(database_url)
    yield made
    made.dispose()


@pytest.fixture
def sessions(engine: Engine) -> sessionmaker[Session]:
    return make_sessions(engine)


@pytest.fixture(scope="session")
def milvus() -> Iterator[LiteServer]:
    """One milvus-lite server for the run; what tests put into it has names of its own."""
    yield from lite_server()


@pytest.fixture(scope="session")
def shared_engine(server: TestServer, template: str) -> Iterator[Engine]:
    url = server.new_database(template)
    made = make_engine(url)
    yield made
    made.dispose()
    server.drop_database(url)


@pytest.fixture
def session(shared_engine: Engine) -> Iterator[Session]:
    with shared_engine.connect() as connection:
        outer = connection.begin()
        with Session(
            connection, expire_on_commit=False, join_transaction_mode="create_savepoint"
        ) as made:
            yield made
        outer.rollback()
