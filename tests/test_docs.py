"""What the documents say is so: README commands run, generated pages are fresh, links lead on."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from db import embedded
from tests.commands import clean_environment

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
BLOCK = re.compile(r"^```(sh|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")
README_ADDRESS = "http://127.0.0.1:8000"


def blocks(*, needing: bool) -> list[tuple[str, str]]:
    """(language, text) of the README's blocks that begin with `# needs …`, or of the others."""
    return [
        (language, text)
        for language, text in BLOCK.findall(README)
        if text.startswith("# needs ") is needing
    ]


@dataclass(frozen=True)
class Demo:
    """A demo that runs in a folder where `.venv` and `.resight` lie as in a clone."""

    folder: Path
    port: int
    process: subprocess.Popen[bytes]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def identify(self, name: str) -> Any:
        photo = self.folder / ".resight" / "demo" / "queries" / name
        files = {"file": (name, photo.read_bytes())}
        return httpx.post(f"{self.url}/v1/identify", files=files, timeout=60).json()

    def run(self, language: str, text: str) -> subprocess.CompletedProcess[str]:
        """A block of the README, here."""
        text = text.replace(README_ADDRESS, self.url)
        command = ["bash", "-euo", "pipefail", "-c", text]
        if language == "python":
            command = [sys.executable, "-c", text]
        return subprocess.run(
            command,
            cwd=self.folder,
            env=clean_environment(),
            capture_output=True,
            text=True,
            timeout=180,
        )


def start(folder: Path, port: int, log: Path, timeout_s: float) -> Demo:
    """Starts a demo and waits until it answers."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            [".venv/bin/resight", "demo", "--port", str(port)],
            cwd=folder,
            env=clean_environment(),
            stdout=output,
            stderr=output,
        )
    demo = Demo(folder, port, process)
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()
        try:
            if httpx.get(f"{demo.url}/ready", timeout=5).status_code == 200:
                return demo
        except httpx.TransportError:
            time.sleep(0.1)
    process.kill()
    pytest.fail(f"not ready in {timeout_s} s: {log.read_text()}")


def end(demo: Demo) -> None:
    demo.process.send_signal(signal.SIGINT)
    demo.process.wait(timeout=30)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    folder = tmp_path_factory.mktemp("clone")
    (folder / ".venv").symlink_to(sys.prefix, target_is_directory=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = folder / "demo.log"
    first = start(folder, port, log, timeout_s=240)
    manifest = json.loads((folder / ".resight/demo/queries/manifest.json").read_text())
    told = log.read_text()
    assert f"Resight answers at {first.url}" in told
    assert manifest["known"]["individual"] in told
    yield first
    if first.process.poll() is None:
        end(first)
    embedded.stop(folder / ".resight")


# ---------------------------------------------------------------- the demo


def test_a_known_fluke_is_recognised(demo: Demo) -> None:
    manifest = json.loads((demo.folder / ".resight/demo/queries/manifest.json").read_text())
    answer = demo.identify("known.jpg")
    assert answer["gate"]["state"] == "accepted"
    assert answer["matches"][0]["individual"]["name"] == manifest["known"]["individual"]
    assert answer["novelty"]["verdict"] != "probably_new"


def test_an_unknown_fluke_is_probably_new(demo: Demo) -> None:
    answer = demo.identify("unknown.jpg")
    assert answer["gate"]["state"] == "accepted"
    assert answer["novelty"]["verdict"] == "probably_new"
    assert answer["novelty"]["n"] > 0


def test_a_boat_is_rejected(demo: Demo) -> None:
    answer = demo.identify("not_a_whale.jpg")
    assert (answer["gate"]["state"], answer["matches"]) == ("rejected", [])


def test_the_command_line_gives_the_same_answer(demo: Demo) -> None:
    done = demo.run("sh", ".venv/bin/resight identify --json .resight/demo/queries/known.jpg")
    assert done.returncode == 0, done.stderr
    here, there = json.loads(done.stdout), demo.identify("known.jpg")
    for key in ("gate", "default_answer", "matches", "agreement", "stage", "bundle"):
        assert here[key] == there[key], key
    rejected = demo.run("sh", ".venv/bin/resight verify .resight/demo/queries/not_a_whale.jpg")
    assert rejected.returncode == 3


@pytest.mark.parametrize(("language", "text"), blocks(needing=False))
def test_a_readme_block_runs(demo: Demo, language: str, text: str) -> None:
    done = demo.run(language, text)
    assert done.returncode == 0, done.stdout + done.stderr
    problem = re.search(r'"status": ?[45]\d\d', done.stdout)
    assert problem is None, done.stdout


def test_a_second_start_is_quick_and_keeps_what_was_added(demo: Demo) -> None:
    added = ".venv/bin/resight individuals add Keeper .resight/demo/queries/known.jpg"
    demo.run("sh", added)  # the README's blocks may have added this very photo already
    before = httpx.get(f"{demo.url}/v1/individuals", params={"limit": 200}).json()
    assert len(before["items"]) > 120
    end(demo)
    started = time.monotonic()
    again = start(demo.folder, demo.port, demo.folder / "demo.log", timeout_s=60)
    try:
        seconds = time.monotonic() - started
        after = httpx.get(f"{again.url}/v1/individuals", params={"limit": 200}).json()
        assert after["items"] == before["items"]
        assert seconds < 15  # 5 s on an idle machine
    finally:
        end(again)


# ---------------------------------------------------------------- pages


def test_the_readme_shows_every_way_in() -> None:
    run = "".join(text for _, text in blocks(needing=False))
    needing = "".join(text for _, text in blocks(needing=True))
    for command in ("curl", "import httpx", "identify", "individuals add", "import ", "batch"):
        assert command in run
    for command in ("make demo", "make test", "models pull", "models add", "docker compose up"):
        assert command in needing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    targets = [link for link in LINK.findall(page.read_text(encoding="utf-8")) if "://" not in link]
    missing = [link for link in targets if not (page.parent / link).exists()]
    assert missing == []


def test_generated_pages_are_fresh() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "write_docs.py", "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def test_make_targets_of_the_documents_exist() -> None:
    targets = set(
        re.findall(r"^([a-z][a-z-]*(?: [a-z-]+)*):", (ROOT / "Makefile").read_text(), re.M)
    )
    known = {name for line in targets for name in line.split()}
    for page in PAGES:
        for name in re.findall(r"(?:^|`| {4})make ([a-z][a-z-]*)", page.read_text(), re.M):
            assert name in known, f"{page.name}: make {name}"


# ---------------------------------------------------------------- packaging


def test_constraints_cover_what_is_installed() -> None:
    """Each package that Resight needs is pinned, to the version that is tested here."""
    from importlib.metadata import version

    pinned = dict(
        line.split("==")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if "==" in line
    )
    for name in ("numpy", "openvino", "sqlalchemy", "fastapi", "pytest", "torch"):
        assert version(name).split("+")[0] == pinned[name], name


def test_compose_file_is_whole() -> None:
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    services = compose["services"]
    assert set(services) == {"database", "setup", "service", "worker"}
    for name in ("database", "service", "worker"):
        assert services[name]["healthcheck"]["test"], name
    for name in ("service", "worker"):
        assert services[name]["depends_on"]["setup"] == {
            "condition": "service_completed_successfully"
        }
    named = {volume.split(":")[0] for one in services.values() for volume in one["volumes"]}
    assert named == set(compose["volumes"])
    assert services["service"]["ports"] == ["127.0.0.1:8000:8000"]


def test_the_image_is_not_root_and_installs_as_the_makefile_does() -> None:
    steps = (ROOT / "Dockerfile").read_text()
    assert "RUN make models" in steps
    assert steps.index("USER resight") < steps.index("RUN make models")
    assert "/health" in steps
