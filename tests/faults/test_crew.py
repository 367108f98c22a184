"""Worker processes as they are run: started again when they die, ended with who started them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import httpx
import psutil
import pytest
from pydantic import SecretStr
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session, sessionmaker

from db import embedded
from db.queries import jobs
from db.session import make_engine, make_sessions
from db.types import JobKind, JobState
from indexer.jobs import start_job
from service.settings import Settings
from service.worker import Crew
from tests.toy_jobs import wait_for

pytestmark = [pytest.mark.faults, pytest.mark.timeout(300)]

ROOT = Path(__file__).resolve().parents[2]
SLOW_S = 60.0
"""Starting a process of the whole program takes so long at most, on a busy machine."""

Sessions = sessionmaker[Session]


def _workers() -> list[psutil.Process]:
    """The workers below this process."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if "worker" in process.cmdline() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return found


def _listening(sessions: Sessions) -> int:
    with sessions() as session:
        return int(
            session.scalar(
                text(
                    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
                    " AND application_name = 'resight waker' AND query LIKE 'LISTEN%'"
                )
            )
            or 0
        )


def _export(sessions: Sessions) -> UUID:
    return start_job(sessions, kind=JobKind.EXPORT, principal="anna").id


def _is_done(sessions: Sessions, job_id: UUID) -> bool:
    with sessions() as session:
        return jobs.get_job(session, job_id).state == JobState.DONE


def test_a_crew_starts_a_killed_worker_again_and_ends_all_of_them(
    sessions: Sessions, database_url: str, tmp_path: Path
) -> None:
    """Promise 15: jobs go on by themselves after `kill -9` of the worker."""
    settings = Settings(data_dir=tmp_path, database_url=SecretStr(database_url))
    told: list[str] = []
    crew = Crew(settings, 2, tell=told.append)
    crew.start()
    try:
        wait_for(lambda: _listening(sessions) == 2, SLOW_S)
        job = _export(sessions)
        wait_for(lambda: _is_done(sessions, job))
        workers = _workers()
        assert len(workers) == 2
        for process in workers:
            process.kill()
        job = _export(sessions)
        wait_for(lambda: _is_done(sessions, job), SLOW_S)
        assert any("starting it again" in line for line in told)
        wait_for(lambda: _listening(sessions) == 2, SLOW_S)
    finally:
        crew.stop()
    assert _workers() == []


PARENT = """
import sys
from pathlib import Path
from pydantic import SecretStr
from service.settings import Settings
from service.worker import Crew

crew = Crew(Settings(data_dir=Path(sys.argv[1]), database_url=SecretStr(sys.argv[2])), 1)
crew.start()
sys.stdin.read()
"""


def test_a_worker_ends_when_who_started_it_is_killed(
    sessions: Sessions, database_url: str, tmp_path: Path
) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(tmp_path), database_url],
        stdin=subprocess.PIPE,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    try:
        wait_for(lambda: _listening(sessions) == 1, SLOW_S)
        [child] = psutil.Process(parent.pid).children()
    finally:
        parent.kill()
        parent.communicate()
    assert child.wait(20) in (0, None)
    wait_for(lambda: _listening(sessions) == 0)


@pytest.fixture
def data_dir(tmp_path: Path) -> Iterator[Path]:
    made = tmp_path / "d"
    yield made
    embedded.stop(made)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_service_on_the_embedded_database_brings_a_worker_and_takes_it_along(
    data_dir: Path, how: signal.Signals
) -> None:
    service = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "from service.cli import main; main()",
            "serve",
            "--port",
            "0",
            "--data-dir",
            str(data_dir),
        ],
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    engine = None
    try:
        assert service.stderr is not None
        for line in service.stderr:
            if "running on http" in line:
                address = line.split("running on ")[1].split()[0]
                break
        else:
            pytest.fail("the service did not start")
        assert httpx.get(f"{address}/health", timeout=20).status_code == 200
        engine = make_engine(embedded.start(data_dir).url)
        sessions = make_sessions(engine)
        wait_for(lambda: _listening(sessions) == 1, SLOW_S)
        [worker] = [
            child for child in psutil.Process(service.pid).children() if "worker" in child.cmdline()
        ]
        assert worker.nice() == min(psutil.Process(service.pid).nice() + 10, 19)
        job = _export(sessions)
        wait_for(lambda: _is_done(sessions, job))
        service.send_signal(how)
        service.wait(60)
        worker.wait(20)
        with pytest.raises(psutil.NoSuchProcess):
            worker.status()
        wait_for(lambda: _quiet(sessions))
    finally:
        if engine is not None:
            engine.dispose()
        if service.poll() is None:
            service.kill()
        service.communicate()


def _quiet(sessions: Sessions) -> bool:
    try:
        return _listening(sessions) == 0
    except DBAPIError:
        return True
