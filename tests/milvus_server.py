"""A milvus-lite server process on 127.0.0.1 for the tests of the Milvus backend."""

from __future__ import annotations

import contextlib
import importlib.util
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from indexer.vector_index.milvus import IndexKind, MilvusAt, MilvusServer
from indexer.vector_index.protocol import IndexUnavailable

_STARTING_S = 60.0
_SERVE = "from milvus_lite.cmdline import main; import sys; sys.exit(main(sys.argv[1:]))"


@dataclass
class LiteServer:
    """A Milvus that can be killed, stopped for a while, and started again."""

    data_dir: Path
    port: int
    process: subprocess.Popen[bytes] | None = None
    _servers: list[MilvusServer] = field(default_factory=list)

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def at(self, index: IndexKind = "FLAT") -> MilvusAt:
        return MilvusAt(self.uri, index=index)

    def connection(self, index: IndexKind = "FLAT") -> MilvusServer:
        """Closed with the server."""
        made = MilvusServer(self.at(index))
        self._servers.append(made)
        return made

    def start(self) -> None:
        """Returns when it answers."""
        self.process = subprocess.Popen(
            [sys.executable, "-c", _SERVE, "server", "--data-dir", str(self.data_dir),
             "--host", "127.0.0.1", "--port", str(self.port)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        end = time.monotonic() + _STARTING_S
        asking = MilvusServer(self.at())
        while True:
            try:
                asking.call("list_collections", timeout=2.0)
                break
            except IndexUnavailable:
                assert self.process.poll() is None, "milvus-lite did not start"
                assert time.monotonic() < end, "milvus-lite does not answer"
                asking.close()
                time.sleep(0.1)
        asking.close()

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    @contextlib.contextmanager
    def silent(self) -> Iterator[None]:
        """It is there and does not answer."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)

    def forget_everything(self) -> None:
        """Drop every collection and alias."""
        server = self.connection()
        for name in server.call("list_collections"):
            for alias in server.call("list_aliases", name)["aliases"]:
                server.call("drop_alias", alias)
            server.call("drop_collection", name)

    def close(self) -> None:
        for server in self._servers:
            server.close()
        if self.process is not None and self.process.poll() is None:
            self.kill()


def lite_server() -> Iterator[LiteServer]:
    """A server until the generator is closed; without milvus-lite the test is skipped."""
    missing = [m for m in ("pymilvus", "milvus_lite") if importlib.util.find_spec(m) is None]
    if missing:
        pytest.skip(f"NOT TESTED: {', '.join(missing)} not installed; pip install -e '.[dev]'")
    with tempfile.TemporaryDirectory(prefix="resight-milvus-") as name:
        with socket.socket() as asked:
            asked.bind(("127.0.0.1", 0))
            port = asked.getsockname()[1]
        server = LiteServer(Path(name) / "milvus", port)
        try:
            server.start()
            yield server
        finally:
            server.close()
