"""`resight serve` as a process of its own, for what a browser looks at."""

from __future__ import annotations

import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from db import embedded
from tests.commands import RESIGHT, clean_environment, resight

START_S = 120.0


def environment(data_dir: Path) -> dict[str, str]:
    """That of a service on this data directory, whatever is set here."""
    # Without a worker of its own: tests of jobs do the work, one chunk at a time.
    own = {"RESIGHT_DATA_DIR": str(data_dir), "RESIGHT_WORKER": "off"}
    return clean_environment() | own


def run(data_dir: Path, *arguments: str) -> None:
    """Runs a command of `resight` to its end; RuntimeError with what it printed if it fails."""
    done = resight(*arguments, environment=environment(data_dir))
    if done.returncode:
        raise RuntimeError(done.stdout + done.stderr)


@contextmanager
def serving(data_dir: Path) -> Iterator[str]:
    """The address of a ready service, which must be there to the end; its database ends with it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url, log = f"http://127.0.0.1:{port}", data_dir / "service.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [RESIGHT, "serve", "--port", str(port)],
            env=environment(data_dir),
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        wait_until_ready(url, process, log)
        yield url
        assert process.poll() is None, f"The service died:\n{log.read_text()[-4000:]}"
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        embedded.stop(data_dir)


def wait_until_ready(url: str, process: subprocess.Popen[bytes], log: Path | None = None) -> None:
    """Waits for a service that was just started; RuntimeError with the end of its log if it ends
    first, or takes too long."""
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if httpx.get(f"{url}/ready", timeout=5).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    told = log.read_text()[-4000:] if log else f"its exit status is {process.poll()}"
    raise RuntimeError(f"The service did not become ready:\n{told}")
