"""A small S3 on loopback for tests: real HTTP, the subset that Resight uses, objects in memory.

It does not check signatures. `fail` answers every request with that status, `objects` may be read
and spoiled by a test, `requests` counts what was asked for by method; with a `gate` a GET waits
until so many are under way at once.
"""

from __future__ import annotations

import hashlib
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, quote, unquote, urlsplit
from xml.sax.saxutils import escape

ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_REGION": "eu-central-1",
    "AWS_ALLOW_HTTP": "true",
}
PAGE = 1000


@dataclass(frozen=True)
class Stored:
    data: bytes
    modified: datetime

    @property
    def etag(self) -> str:
        return f'"{hashlib.sha256(self.data).hexdigest()[:32]}"'


@dataclass
class S3:
    """One bucket `photos`; keys as they are, without any escaping."""

    url: str = ""
    bucket: str = "photos"
    objects: dict[str, Stored] = field(default_factory=dict)
    requests: Counter[str] = field(default_factory=Counter)
    fail: int | None = None
    gate: threading.Barrier | None = None
    skew: timedelta = timedelta(0)
    """How far its clock is ahead of ours."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def environment(self) -> dict[str, str]:
        return ENVIRONMENT | {"AWS_ENDPOINT": self.url}

    def put(self, key: str, data: bytes) -> None:
        self.objects[key] = Stored(data, datetime.now(UTC) + self.skew)

    def age(self, key: str, modified: datetime) -> None:
        self.objects[key] = Stored(self.objects[key].data, modified)


@contextmanager
def serving() -> Iterator[S3]:
    """A server on a free port of 127.0.0.1, until the block ends."""
    s3 = S3()
    server = _Server(s3)
    s3.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield s3
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Server(ThreadingHTTPServer):
    def __init__(self, s3: S3) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.s3 = s3


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    wbufsize = -1

    def setup(self) -> None:
        super().setup()
        self.connection.settimeout(5)

    @property
    def s3(self) -> S3:
        assert isinstance(self.server, _Server)
        return self.server.s3

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        return

    def reply(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if "Content_Length" not in headers:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def refuse(self, status: int, code: str) -> None:
        self.reply(status, f"<Error><Code>{code}</Code></Error>".encode())

    def parse(self) -> tuple[str, dict[str, str]] | None:
        self.s3.requests[self.command] += 1
        if self.s3.fail is not None:
            self.refuse(self.s3.fail, "Failing")
            return None
        url = urlsplit(self.path)
        bucket, _, key = unquote(url.path).removeprefix("/").partition("/")
        if bucket != self.s3.bucket:
            self.refuse(404, "NoSuchBucket")
            return None
        query = parse_qs(url.query, keep_blank_values=True)
        return key, {name: values[0] for name, values in query.items()}

    def do_GET(self) -> None:
        asked = self.parse()
        if asked is None:
            return
        key, query = asked
        if self.s3.gate is not None:
            self.s3.gate.wait(10)
        if "list-type" in query:
            self.reply(200, _listing(self.s3, query).encode(), Content_Type="application/xml")
            return
        found = self.s3.objects.get(key)
        if found is None:
            self.refuse(404, "NoSuchKey")
            return
        modified = found.modified.strftime("%a, %d %b %Y %H:%M:%S GMT")
        headers = {"ETag": found.etag, "Last_Modified": modified}
        if self.command == "HEAD":
            headers["Content_Length"] = str(len(found.data))
        self.reply(200, found.data, **headers)

    do_HEAD = do_GET  # noqa: N815

    def do_PUT(self) -> None:
        data = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        asked = self.parse()
        if asked is None:
            return
        key, _ = asked
        source = self.headers.get("x-amz-copy-source")
        with self.s3.lock:
            if source is not None:
                original = unquote(source).removeprefix("/").partition("/")[2]
                if original not in self.s3.objects:
                    self.refuse(404, "NoSuchKey")
                    return
                self.s3.put(key, self.s3.objects[original].data)
                self.reply(200, b"<CopyObjectResult><ETag>x</ETag></CopyObjectResult>")
                return
            if self.headers.get("If-None-Match") == "*" and key in self.s3.objects:
                self.refuse(412, "PreconditionFailed")
                return
            self.s3.put(key, data)
        self.reply(200, ETag=self.s3.objects[key].etag)

    def do_DELETE(self) -> None:
        asked = self.parse()
        if asked is not None:
            self.s3.objects.pop(asked[0], None)
            self.reply(204)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", "0"))).decode()
        if self.parse() is None:
            return
        keys = [part.partition("</Key>")[0] for part in body.split("<Key>")[1:]]
        for key in keys:
            self.s3.objects.pop(key, None)
        deleted = "".join(f"<Deleted><Key>{key}</Key></Deleted>" for key in keys)
        self.reply(200, f"<DeleteResult>{deleted}</DeleteResult>".encode())


def _listing(s3: S3, query: dict[str, str]) -> str:
    after = query.get("continuation-token") or query.get("start-after", "")
    prefix = query.get("prefix", "")
    keys = sorted(key for key in list(s3.objects) if key.startswith(prefix) and key > after)
    encoded = query.get("encoding-type") == "url"
    page, rest = keys[:PAGE], keys[PAGE:]
    contents = "".join(
        f"<Contents><Key>{quote(key) if encoded else escape(key)}</Key>"
        f"<LastModified>{s3.objects[key].modified.isoformat().replace('+00:00', 'Z')}"
        f"</LastModified><ETag>{escape(s3.objects[key].etag)}</ETag>"
        f"<Size>{len(s3.objects[key].data)}</Size></Contents>"
        for key in page
    )
    more = f"<NextContinuationToken>{escape(page[-1])}</NextContinuationToken>" if rest else ""
    return (
        f"<ListBucketResult><IsTruncated>{str(bool(rest)).lower()}</IsTruncated>"
        f"{contents}{more}</ListBucketResult>"
    )
