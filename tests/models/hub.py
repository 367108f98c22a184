"""A mirror of the model hub on this machine: the few answers that a download asks for."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Hub:
    """Files by `owner/name/path`; `asked` collects the paths and `tokens` the credentials sent."""

    def __init__(self, files: dict[str, bytes], *, digests: bool = True) -> None:
        self.files = files
        self.digests = digests
        self.cut: set[str] = set()
        self.asked: list[str] = []
        self.tokens: list[str] = []
        self.address = ""


@contextmanager
def serve(hub: Hub) -> Iterator[Hub]:
    """Answer on a free port of 127.0.0.1 while the context lasts."""

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.answer(body=False)

        def do_GET(self) -> None:
            self.answer(body=True)

        def answer(self, *, body: bool) -> None:
            hub.asked.append(self.path)
            if token := self.headers.get("Authorization"):
                hub.tokens.append(token)
            repo, _, name = self.path.strip("/").partition("/resolve/main/")
            data = hub.files.get(f"{repo}/{name}")
            if data is None:
                self.send_response(404)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            digest = hashlib.sha256(data).hexdigest() if hub.digests else "0123456789abcdef" * 2
            self.send_response(200)
            self.send_header("X-Repo-Commit", "1" * 40)
            self.send_header("ETag", f'"{digest}"')
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if body:
                self.wfile.write(data[: len(data) // 2] if name in hub.cut else data)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    hub.address = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
