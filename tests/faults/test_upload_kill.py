"""Uploads that end in the middle: at each step of an addition, and inside a large body.

Nothing is acknowledged here, so nothing need be there afterwards; what counts is that every row has
its bytes, that leftovers are found and swept, and that the same addition then works.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from sqlalchemy import Engine, text
from sqlalchemy.orm import Session, sessionmaker

from db.session import make_engine, make_sessions
from indexer.doctor import Installation, diagnose, sweep
from indexer.failpoints import EXIT_CODE, VARIABLE
from indexer.media import MediaStore, open_media
from tests import s3
from tests.service.small import scene

pytestmark = [pytest.mark.faults, pytest.mark.timeout(300)]

REPOSITORY = Path(__file__).resolve().parents[2]
ADD = """
import sys
from pathlib import Path
from indexer.identify import PhotoIn
from indexer.catalogue import NewIndividual
from service.runtime import open_resight
from service.settings import Settings
from tests.service.small import scene, serving_of
resight = open_resight(Settings(data_dir=Path(sys.argv[1])), serving=serving_of())
photos = [PhotoIn(f"{one}.jpg", scene(one)) for one in range(2)]
added = resight.curator.add_individual(NewIndividual("Luna"), photos)
print(len(added.answer.photos), flush=True)
resight.close()
"""
SERVE = """
import sys
from pathlib import Path
import uvicorn
from service.app import create_app
from service.runtime import open_resight
from service.settings import Settings
from tests.service.small import serving_of
settings = Settings(
    data_dir=Path(sys.argv[1]), port=int(sys.argv[2]), max_photo_bytes=100 * 2**20
)
resight = open_resight(settings, serving=serving_of())
uvicorn.run(create_app(settings, resight=resight), port=settings.port, log_level="warning")
"""


@dataclass(frozen=True)
class Place:
    """A data directory, its database, and where its originals lie."""

    data_dir: Path
    engine: Engine
    environment: dict[str, str]

    @property
    def sessions(self) -> sessionmaker[Session]:
        return make_sessions(self.engine)

    @property
    def store(self) -> MediaStore:
        url = self.environment.get("RESIGHT_MEDIA_URL")
        return open_media(self.data_dir / "media", url, sessions=self.sessions)

    def child(self, script: str, *arguments: object, **more: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", script, str(self.data_dir), *map(str, arguments)],
            cwd=REPOSITORY,
            env=os.environ | self.environment | more | {"PYTHONPATH": str(REPOSITORY)},
            stdout=subprocess.PIPE,
            text=True,
        )

    def counts(self) -> tuple[int, int]:
        with self.engine.connect() as connection:
            statement = (
                "SELECT (SELECT count(*) FROM media_asset), (SELECT count(*) FROM embedding)"
            )
            photos, vectors = connection.execute(text(statement)).one()
        return photos, vectors

    def wrong(self) -> list[str]:
        place = Installation(
            self.engine, self.store, self.data_dir / "models", self.data_dir / "snapshots"
        )
        found = diagnose(place, deep=True)
        subjects = ("bundle", "space", "head")
        return [one.detail for one in found if one.state == "wrong" and one.subject not in subjects]


@pytest.fixture(params=["folder", "object store"])
def place(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Place]:
    engine = make_engine(database_url)
    data_dir = tmp_path / "data"
    with s3.serving() as bucket:
        environment = {"RESIGHT_DATABASE_URL": database_url} | bucket.environment
        for name, value in bucket.environment.items():
            monkeypatch.setenv(name, value)
        if request.param == "object store":
            environment["RESIGHT_MEDIA_URL"] = "s3://photos/resight"
        yield Place(data_dir, engine, environment)
    engine.dispose()


def sweep_all(place: Place, expected: int) -> int:
    """Orphans that sweeps without an age take; a store that counts in whole seconds holds what it
    got in this one back."""
    swept, until = 0, time.monotonic() + 5
    while swept < expected and time.monotonic() < until:
        swept += sweep(place.sessions, place.store, 0.0).orphans
    return swept


@pytest.mark.parametrize(
    ("point", "stored"),
    [
        ("upload.after_fsync", 1),
        ("upload.after_fsync:2", 2),
        ("upload.before_row", 1),
        ("upload.before_row:2", 2),
        ("upload.after_row", 2),
    ],
)
def test_an_addition_that_dies_at_any_step_leaves_nothing_wrong(
    place: Place, point: str, stored: int
) -> None:
    """Promise 7: at every named point a crash leaves no violation, and the sweep takes the rest."""
    child = place.child(ADD, **{VARIABLE: point})
    child.communicate(timeout=120)
    assert child.returncode == EXIT_CODE
    assert place.counts() == (0, 0)
    assert place.wrong() == []
    assert len(list(place.store.stored())) == stored
    assert sweep(place.sessions, place.store).orphans == 0, "what is young may be under way"
    assert sweep_all(place, stored) == stored
    assert list(place.store.stored()) == []
    again = place.child(ADD)
    out, _ = again.communicate(timeout=120)
    assert (again.returncode, out) == (0, "2\n")
    assert place.counts() == (2, 2)
    assert place.wrong() == []
    assert sorted(map(place.store.read, place.store.stored())) == sorted([scene(0), scene(1)])


def test_a_service_killed_inside_a_large_body_leaves_no_file_to_be_seen(
    place: Place,
) -> None:
    """Promise 8: no row without file, no visible file without row, and the sweeper takes what is
    half-written, but only when it is old."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    process = place.child(SERVE, port)
    _until_it_answers(process, port)
    head = b'--x\r\nContent-Disposition: form-data; name="file"; filename="big.jpg"\r\n\r\n'
    size = 50 * 2**20
    with socket.create_connection(("127.0.0.1", port), timeout=30) as client:
        request = (
            f"POST /v1/identify HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {size}\r\n"
            "Content-Type: multipart/form-data; boundary=x\r\n\r\n"
        )
        client.sendall(request.encode() + head + scene(1))
        for _ in range(25):
            client.sendall(bytes(2**20))
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=30)
    assert place.counts() == (0, 0)
    assert list(place.store.stored()) == []
    assert place.wrong() == []
    half = place.store.root / "tmp" / "half-written"
    half.write_bytes(scene(1)[:1000])
    assert sweep(place.sessions, place.store).temporary == 0
    os.utime(half, (time.time() - 2 * 86_400, time.time() - 2 * 86_400))
    assert sweep(place.sessions, place.store).temporary == 1
    assert not half.exists()


def _until_it_answers(process: subprocess.Popen[str], port: int) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            httpx.get(f"http://127.0.0.1:{port}/health", timeout=1)
        except httpx.TransportError:
            assert process.poll() is None, "the service ended while starting"
            time.sleep(0.05)
        else:
            return
    raise AssertionError("the service did not start")
