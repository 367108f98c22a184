"""The whole of a re-index as an operator does it: by commands, beside a service that answers."""

from __future__ import annotations

import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from db import embedded
from service.cli.common import Exit
from tests.commands import RESIGHT, clean_environment
from tests.flukes import draw
from tests.service.test_cli import Cli

pytestmark = pytest.mark.faults
NAMES = tuple("abcdefgh")
START_S = 90.0


@pytest.fixture(scope="module")
def variant(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The starter's network in another space."""
    pytest.importorskip("torch")
    from scripts.make_variant import make_variant

    folder = tmp_path_factory.mktemp("variant") / "starter-wide"
    make_variant(folder)
    return folder


@pytest.fixture
def cli(tmp_path: Path) -> Iterator[Cli]:
    """A catalogue of eight individuals with three photos each, in the starter's space."""
    for individual, name in enumerate(NAMES):
        for photo in range(3):
            draw(tmp_path / "photos" / name / f"{photo}.jpg", individual, photo)
    run = Cli(tmp_path / "data")
    assert run.json("import", tmp_path / "photos")["import"]["imported"] == 24
    yield run
    embedded.stop(run.data_dir)


class Asking:
    """Asks the same photo again and again; every answer is kept."""

    def __init__(self, url: str, photo: bytes) -> None:
        self.answers: list[dict[str, Any]] = []
        self.failures: list[str] = []
        self._url = url
        self._photo = photo
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._ask)

    def __enter__(self) -> Asking:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _ask(self) -> None:
        with httpx.Client(base_url=self._url, timeout=60) as client:
            while not self._stop.is_set():
                answer = client.post("/v1/identify", files={"file": ("a.jpg", self._photo)})
                if answer.status_code == 200:
                    self.answers.append(answer.json())
                else:
                    self.failures.append(answer.text)

    def until_answered_by(self, bundle: str) -> None:
        deadline = time.monotonic() + START_S
        while not self.answers or self.answers[-1]["bundle"] != bundle:
            assert time.monotonic() < deadline, f"{bundle} does not answer: {self.failures}"
            time.sleep(0.05)


@pytest.fixture
def url(cli: Cli) -> Iterator[str]:
    """The service over the catalogue, with a worker beside it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [RESIGHT, "serve", "--port", str(port)],
        env=clean_environment() | {"RESIGHT_DATA_DIR": str(cli.data_dir)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    address = f"http://127.0.0.1:{port}"
    deadline = time.monotonic() + START_S
    while True:
        try:
            if httpx.get(f"{address}/ready", timeout=5).status_code == 200:
                break
        except httpx.TransportError:
            pass
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)
    yield address
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) in (0, -signal.SIGTERM)


def test_a_model_is_installed_compared_switched_to_and_left_again(
    cli: Cli, variant: Path, url: str, tmp_path: Path
) -> None:
    """Nothing fails and no answer mixes two spaces from the start to the way back."""
    photo = draw(tmp_path / "asked.jpg", 2, 9).read_bytes()
    assert cli("models", "add", variant).returncode == Exit.OK
    spaces = {
        name: cli.json("models", "show", name)["fingerprint"]
        for name in ("starter", "starter-wide")
    }
    with Asking(url, photo) as asking:
        asking.until_answered_by("starter")
        started = cli("reindex", "start", "starter-wide", "--watch")
        assert started.returncode == Exit.OK, started.stderr
        report = cli.json("reindex", "report")
        assert report["recall"] == 1.0
        assert (report["old"]["space"]["name"], report["new"]["space"]["name"]) == (
            "starter",
            "starter-wide",
        )
        assert report["new"]["n"] == 24
        assert asking.answers[-1]["bundle"] == "starter"
        assert cli.json("reindex", "activate")["state"] == "active"
        asking.until_answered_by("starter-wide")
        assert cli.json("reindex", "rollback")["state"] == "ready"
        asking.until_answered_by("starter")
    assert asking.failures == []
    for answer in asking.answers:
        assert answer["receipt"]["fingerprint"] == spaces[answer["bundle"]]
        assert answer["matches"][0]["individual"]["name"] == NAMES[2]
    assert cli.json("reindex", "abandon")["state"] == "cancelled"
    gone = cli.json("models", "retire", "starter-wide")
    assert (gone["name"], gone["vectors"]) == ("starter-wide", 24)
