"""The embedded server outlives its starters, is shared, and comes back after every kind of kill."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from db import embedded
from db.errors import UnsupportedDatabase

_START = (
    # A test that runs under nohup or in the background inherits that these are ignored.
    "import signal; signal.signal(signal.SIGINT, signal.SIG_DFL);"
    " signal.signal(signal.SIGHUP, signal.SIG_DFL);"
    " import sys; from pathlib import Path; from db.embedded import start;"
    " print(start(Path(sys.argv[1])).url)"
)


def _starter(data_dir: Path) -> subprocess.Popen[str]:
    wait = "import time; time.sleep(60)"
    return subprocess.Popen(
        [sys.executable, "-c", f"{_START}; sys.stdout.flush(); {wait}", str(data_dir)],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def _pid(data_dir: Path) -> int:
    return int((data_dir / "postgres/postmaster.pid").read_text().split()[0])


def _kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


@contextlib.contextmanager
def _stopped_afterwards() -> Iterator[Path]:
    # pytest's own directory will not do, see the fixture `server`.
    with tempfile.TemporaryDirectory(prefix="resight-test-") as name:
        try:
            yield Path(name)
        finally:
            embedded.stop(Path(name))


@pytest.fixture(scope="module")
def pristine() -> Iterator[Path]:
    """A stopped server, to be copied: making one takes seconds."""
    with _stopped_afterwards() as made:
        embedded.start(made)
        embedded.stop(made)
        yield made


@pytest.fixture
def empty_dir() -> Iterator[Path]:
    with _stopped_afterwards() as made:
        yield made


@pytest.fixture
def data_dir(empty_dir: Path, pristine: Path) -> Path:
    subprocess.run(["cp", "-a", str(pristine / "postgres"), str(empty_dir)], check=True)
    return empty_dir


def test_starting_is_silent_and_a_second_process_finds_the_server(empty_dir: Path) -> None:
    outputs = []
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-W", "always", "-c", _START, str(empty_dir)],
            capture_output=True,
            text=True,
            check=True,
        )
        outputs.append(done.stdout)
        assert done.stderr == ""
        pid = _pid(empty_dir)
    assert outputs[0] == outputs[1] == f"{embedded.start(empty_dir).url}\n"
    assert _pid(empty_dir) == pid


def test_settings_are_for_keeping_data(data_dir: Path) -> None:
    with psycopg.connect(embedded.start(data_dir).url) as connection:
        shown = {
            name: connection.execute(f"SHOW {name}".encode()).fetchone()
            for name in ("synchronous_commit", "fsync", "listen_addresses", "server_encoding")
        }
        lowered = connection.execute("SELECT lower('ÄÉ')").fetchone()
        connections = connection.execute("SHOW max_connections").fetchone()
    assert shown == {
        "synchronous_commit": ("on",),
        "fsync": ("on",),
        "listen_addresses": ("",),
        "server_encoding": ("UTF8",),
    }
    assert lowered == ("äé",)
    assert connections is not None
    assert int(connections[0]) >= 60


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL, signal.SIGHUP])
def test_the_server_outlives_its_starter(data_dir: Path, how: signal.Signals) -> None:
    with _starter(data_dir) as starter:
        assert starter.stdout is not None
        url = starter.stdout.readline().strip()
        server = _pid(data_dir)
        os.killpg(starter.pid, how)  # as the terminal does: the whole group
        starter.wait(20)
    time.sleep(0.2)
    with psycopg.connect(url) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
    assert _pid(data_dir) == server


def test_many_that_start_at_once_share_one_server(empty_dir: Path) -> None:
    starters = [_starter(empty_dir) for _ in range(6)]
    urls = set()
    for starter in starters:
        assert starter.stdout is not None
        urls.add(starter.stdout.readline().strip())
    for starter in starters:
        starter.kill()
        starter.communicate()
    assert urls == {embedded.start(empty_dir).url}
    log = (empty_dir / "postgres/server.log").read_text()
    assert log.count("ready to accept connections") == 1


def test_no_acknowledged_row_is_lost_when_the_server_is_killed(data_dir: Path) -> None:
    acknowledged: list[int] = []
    with psycopg.connect(embedded.start(data_dir).url) as connection:
        connection.execute("CREATE TABLE kept (n int PRIMARY KEY)")

    def insert(url: str) -> None:
        with contextlib.suppress(psycopg.OperationalError), psycopg.connect(url) as connection:
            for number in range(len(acknowledged), 10**9):
                connection.execute("INSERT INTO kept VALUES (%s) ON CONFLICT DO NOTHING", [number])
                connection.commit()
                acknowledged.append(number)

    for _ in range(2):
        before = len(acknowledged)
        writer = threading.Thread(target=insert, args=[embedded.start(data_dir).url])
        writer.start()
        time.sleep(0.4)
        # The server's parent collects it late; until then its pid exists. Both are coped with.
        _kill(_pid(data_dir))
        writer.join(30)
        assert len(acknowledged) > before
    with psycopg.connect(embedded.start(data_dir).url) as connection:
        kept = {row[0] for row in connection.execute("SELECT n FROM kept")}
    assert set(acknowledged) <= kept


def test_every_process_of_the_server_killed_at_once(data_dir: Path) -> None:
    with psycopg.connect(embedded.start(data_dir).url) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 7 AS n")
    first = _pid(data_dir)
    for pid in embedded._cluster_pids(data_dir / "postgres"):
        _kill(pid)
    with psycopg.connect(embedded.start(data_dir).url) as connection:
        assert connection.execute("SELECT n FROM kept").fetchone() == (7,)
    assert _pid(data_dir) != first


def test_a_strangers_process_with_the_old_pid_is_no_server(data_dir: Path) -> None:
    embedded.start(data_dir)
    pid_file = data_dir / "postgres/postmaster.pid"
    lines = pid_file.read_text().splitlines()
    assert embedded.stop(data_dir)
    pid_file.write_text("\n".join([str(os.getpid()), *lines[1:]]) + "\n")
    assert not embedded.stop(data_dir)
    with psycopg.connect(embedded.start(data_dir).url) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_stop_says_whether_there_was_a_server(data_dir: Path) -> None:
    assert not embedded.stop(data_dir)
    embedded.start(data_dir)
    assert embedded.stop(data_dir)
    assert not embedded.stop(data_dir)
    assert not (data_dir / "postgres/postmaster.pid").exists()


@pytest.mark.parametrize("name", ["x" * 120, "a,b", "with 'quotes\" $HOME %s"])
def test_any_directory_name_will_do(empty_dir: Path, pristine: Path, name: str) -> None:
    data_dir = empty_dir / name
    data_dir.mkdir()
    subprocess.run(["cp", "-a", str(pristine / "postgres"), str(data_dir)], check=True)
    try:
        url = embedded.start(data_dir).url
        with psycopg.connect(url) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)
        assert embedded.start(data_dir).url == url
    finally:
        assert embedded.stop(data_dir)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has to run the server as another user")
def test_root_opens_a_closed_parent_to_the_servers_user_only() -> None:
    with tempfile.TemporaryDirectory() as name:
        closed = Path(name)
        embedded.start(closed / "data")
        try:
            assert closed.stat().st_mode & 0o007 == 0
            assert (closed / "data/postgres").stat().st_mode & 0o077 == 0
            assert (closed / "data/postgres").stat().st_uid != 0
        finally:
            embedded.stop(closed / "data")


def test_a_half_made_cluster_is_made_again(empty_dir: Path) -> None:
    (empty_dir / "postgres.new/base").mkdir(parents=True)
    embedded.start(empty_dir)
    assert not (empty_dir / "postgres.new").exists()


def test_a_cluster_of_another_version_is_refused(tmp_path: Path) -> None:
    cluster = tmp_path / "postgres"
    cluster.mkdir()
    (cluster / "PG_VERSION").write_text("16\n")
    with pytest.raises(UnsupportedDatabase, match="made by PostgreSQL 16"):
        embedded.start(tmp_path)


def test_a_server_that_cannot_start_says_why(data_dir: Path) -> None:
    embedded.start(data_dir)
    embedded.stop(data_dir)
    with (data_dir / "postgres/postgresql.conf").open("a") as handle:
        handle.write("no_such_setting = 1\n")
    with pytest.raises(UnsupportedDatabase, match="no_such_setting") as refused:
        embedded.start(data_dir)
    assert refused.value.code == "postgres_not_starting"


def test_a_data_directory_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UnsupportedDatabase, match="RESIGHT_DATA_DIR") as refused:
        embedded.start(tmp_path / "file")
    assert refused.value.code == "data_dir_not_writable"
