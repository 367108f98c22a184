"""A service killed while individuals are being added: what was acknowledged is there, whole."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from db import embedded
from indexer.doctor import Installation, diagnose
from indexer.media import MediaStore
from service.database import open_database
from service.settings import Settings
from tests.service.small import scene

pytestmark = pytest.mark.faults

REPOSITORY = Path(__file__).resolve().parent.parent.parent
SERVE = """
import sys
from pathlib import Path
import uvicorn
from service.app import create_app
from service.runtime import open_resight
from service.settings import Settings
from tests.service.small import serving_of
settings = Settings(data_dir=Path(sys.argv[1]), port=int(sys.argv[2]))
resight = open_resight(settings, serving=serving_of())
uvicorn.run(create_app(settings, resight=resight), port=settings.port, log_level="warning")
"""
KILLS = 10
WRITERS = 4


@dataclass
class Ledger:
    """What was asked, by key, and which individual was acknowledged for it."""

    asked: dict[str, tuple[str, int]] = field(default_factory=dict)
    acknowledged: dict[str, str] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start(data_dir: Path, port: int) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        [sys.executable, "-c", SERVE, str(data_dir), str(port)],
        cwd=REPOSITORY,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
    )
    for _ in range(1200):
        try:
            httpx.get(f"http://127.0.0.1:{port}/health", timeout=1)
        except httpx.TransportError:
            assert process.poll() is None, "the service ended while starting"
            time.sleep(0.05)
        else:
            return process
    raise AssertionError("the service did not start")


def post(client: httpx.Client, key: str, name: str, seed: int) -> httpx.Response:
    return client.post(
        "/v1/individuals",
        data={"name": name},
        files=[("file", (f"{i}.jpg", scene(seed, shift=i), "image/jpeg")) for i in range(2)],
        headers={"Idempotency-Key": key},
    )


def write_until_killed(url: str, ledger: Ledger, numbers: list[int]) -> None:
    with httpx.Client(base_url=url, timeout=30) as client:
        for number in numbers:
            key, name = f"key-{number}", f"individual-{number}"
            with ledger.lock:
                ledger.asked[key] = (name, number)
            try:
                response = post(client, key, name, number)
            except httpx.TransportError:
                return
            assert response.status_code == 201, response.text
            with ledger.lock:
                ledger.acknowledged[key] = response.json()["individual"]["id"]


def kill_in_the_middle(data_dir: Path, ledger: Ledger, first: int, rng: random.Random) -> None:
    port = free_port()
    process = start(data_dir, port)
    writers = [
        threading.Thread(
            target=write_until_killed,
            args=(f"http://127.0.0.1:{port}", ledger, list(range(first + i, first + 200, WRITERS))),
        )
        for i in range(WRITERS)
    ]
    for writer in writers:
        writer.start()
    time.sleep(rng.uniform(0.2, 1.5))
    process.send_signal(signal.SIGKILL)
    process.wait(30)
    for writer in writers:
        writer.join(60)


@pytest.mark.timeout(900)
def test_no_acknowledged_individual_is_lost(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    ledger, rng = Ledger(), random.Random(1)
    try:
        for round_ in range(KILLS):
            kill_in_the_middle(data_dir, ledger, round_ * 200, rng)
        assert len(ledger.acknowledged) >= KILLS
        check(data_dir, ledger)
    finally:
        embedded.stop(data_dir)


def check(data_dir: Path, ledger: Ledger) -> None:
    port = free_port()
    process = start(data_dir, port)
    unanswered = [key for key in ledger.asked if key not in ledger.acknowledged]
    assert unanswered, "no request was under way when the service was killed"
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            for key, individual in ledger.acknowledged.items():
                read = client.get(f"/v1/individuals/{individual}").json()
                assert len(read["photos"]) == 2
                for photo in read["photos"]:
                    assert client.get(f"/v1/media/{photo['media_id']}").status_code == 200
                    vector = client.get(f"/v1/annotations/{photo['annotation_id']}/embedding")
                    assert vector.status_code == 200
                again = post(client, key, *ledger.asked[key])
                assert again.headers["idempotency-replayed"] == "true"
                assert again.json()["individual"]["id"] == individual
            for key in unanswered:
                name = ledger.asked[key][0]
                items = client.get("/v1/individuals", params={"text": name}).json()["items"]
                assert all(item["photo_count"] == 2 for item in items if item["name"] == name)
                assert post(client, key, *ledger.asked[key]).status_code == 201
    finally:
        process.terminate()
        process.wait(30)
    healthy(data_dir)


def healthy(data_dir: Path) -> None:
    settings = Settings(data_dir=data_dir)
    database = open_database(settings)
    findings = diagnose(
        Installation(
            engine=database.engine,
            store=MediaStore(settings.media_dir),
            models_dir=settings.models_dir,
            snapshots_dir=settings.snapshots_dir,
        ),
        deep=True,
    )
    database.engine.dispose()
    about_data = [f for f in findings if f.subject not in ("bundle", "space", "head")]
    assert [f for f in about_data if f.state == "wrong"] == []
