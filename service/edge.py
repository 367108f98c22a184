"""What every request passes before the application: who may ask, how much, and how fast.

Plain ASGI around the whole application, so that its headers and limits hold for errors as well.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
import uuid
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable
from threading import Lock
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import Problem, respond

LOOPBACK_NAMES = frozenset({"127.0.0.1", "localhost", "::1"})
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
CONTENT_SECURITY_POLICY = (
    "default-src 'self'; img-src 'self' data: blob:; object-src 'none'; base-uri 'none'; "
    "form-action 'self'; frame-ancestors 'none'"
)
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
}


class RateLimiter:
    """A token bucket per name; as many at once as are allowed in a minute."""

    def __init__(self, per_minute: int, *, names: int = 10_000) -> None:
        self.per_minute = per_minute
        self._names = names
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._lock = Lock()

    def take(self, name: str) -> float:
        """Takes one token; the seconds to wait when there is none, else 0."""
        if self.per_minute == 0:
            return 0.0
        rate = self.per_minute / 60.0
        with self._lock:
            now = time.monotonic()
            tokens, seen = self._buckets.pop(name, (float(self.per_minute), now))
            tokens = min(float(self.per_minute), tokens + (now - seen) * rate)
            wait = 0.0 if tokens >= 1.0 else (1.0 - tokens) / rate
            self._buckets[name] = (tokens - 1.0 if wait == 0.0 else tokens, now)
            if len(self._buckets) > self._names:
                self._buckets.popitem(last=False)
        return wait

    def give_back(self, name: str) -> None:
        """Returns a token that was taken for what turned out to be harmless."""
        with self._lock:
            if name in self._buckets:
                tokens, seen = self._buckets[name]
                self._buckets[name] = (min(float(self.per_minute), tokens + 1.0), seen)


class Edge:
    """The ASGI layer that refuses before anything is parsed, and puts headers on every answer."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        on_loopback: bool,
        allowed_hosts: Iterable[str],
        body_limit: Callable[[str], int],
        body_timeout_s: float,
        limiter: RateLimiter,
        observe: Callable[[Scope, int, float], None],
    ) -> None:
        self._app = app
        self._on_loopback = on_loopback
        self._allowed_hosts = frozenset(host.lower() for host in allowed_hosts)
        self._body_limit = body_limit
        self._body_timeout_s = body_timeout_s
        self._limiter = limiter
        self._observe = observe

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        status = 500
        scope["request_id"] = uuid.uuid4().hex

        async def send_dressed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                self._dress(scope, message)
            await send(message)

        try:
            problem = self._refusal(scope)
            if problem is None:
                await self._app(scope, self._limited(scope, receive), send_dressed)
            else:
                answer = respond(
                    problem, request_id=scope["request_id"], instance=str(scope["path"])
                )
                await answer(scope, receive, send_dressed)
        finally:
            self._observe(scope, status, time.perf_counter() - started)

    def _refusal(self, scope: Scope) -> Problem | None:
        headers = Headers(scope=scope)
        return (
            self._wrong_host(headers)
            or self._wrong_origin(scope, headers)
            or self._too_fast(scope, headers)
            or self._too_large(scope, headers)
        )

    def _wrong_host(self, headers: Headers) -> Problem | None:
        """A page elsewhere that has its own name resolved to this machine (DNS rebinding)."""
        allowed = self._allowed_hosts | (LOOPBACK_NAMES if self._on_loopback else frozenset())
        if not allowed:
            return None
        host = _host_name(headers.get("host", ""))
        if host in allowed or (not self._on_loopback and host in LOOPBACK_NAMES):
            return None
        return Problem(
            421,
            "unknown_host",
            f"This service is not known as {host!r}; name it in RESIGHT_ALLOWED_HOSTS.",
        )

    def _wrong_origin(self, scope: Scope, headers: Headers) -> Problem | None:
        """A page of another site that posts with this browser's rights."""
        if scope["method"] in SAFE_METHODS:
            return None
        origin = headers.get("origin")
        foreign = origin is not None and urlsplit(origin).netloc != headers.get("host", "")
        if foreign or headers.get("sec-fetch-site") in ("cross-site", "same-site"):
            return Problem(
                403, "cross_origin", f"A page of {origin or 'another site'} may not post here."
            )
        return None

    def _too_fast(self, scope: Scope, headers: Headers) -> Problem | None:
        if scope["method"] in SAFE_METHODS:
            return None
        wait_s = self._limiter.take(_caller(scope, headers))
        if wait_s == 0.0:
            return None
        return Problem(
            429,
            "rate_limited",
            f"More than {self._limiter.per_minute} questions a minute; wait {wait_s:.1f} seconds.",
            headers={"Retry-After": str(int(wait_s) + 1)},
        )

    def _too_large(self, scope: Scope, headers: Headers) -> Problem | None:
        length = headers.get("content-length")
        if length is None:
            return None
        if not length.isdecimal():
            return Problem(400, "bad_request", f"Content-Length {length!r} is not a number.")
        limit = self._body_limit(scope["path"])
        return _body_too_large(limit) if int(length) > limit else None

    def _limited(self, scope: Scope, receive: Receive) -> Receive:
        """The same stream, with an end: by size, and by silence."""
        limit = self._body_limit(scope["path"])
        received = 0
        complete = False

        async def receive_limited() -> Message:
            nonlocal received, complete
            if complete:
                return await receive()
            message = await _within(receive(), self._body_timeout_s)
            received += len(message.get("body", b""))
            complete = not message.get("more_body", False)
            if received > limit:
                # An HTTPException is the one error that FastAPI hands through its body parser.
                raise HTTPException(413, _body_too_large(limit).detail)
            return message

        return receive_limited

    def _dress(self, scope: Scope, message: Message) -> None:
        headers = MutableHeaders(scope=message)
        headers["X-Request-ID"] = scope["request_id"]
        for name, value in HEADERS.items():
            headers.setdefault(name, value)
        headers.setdefault("Cache-Control", "no-store")


async def _within(message: Awaitable[Message], timeout_s: float) -> Message:
    try:
        return await asyncio.wait_for(message, timeout_s)
    except TimeoutError as error:
        raise HTTPException(408, f"No part of the body came for {timeout_s:g} seconds.") from error


def _body_too_large(limit: int) -> Problem:
    return Problem(413, "body_too_large", f"The body is larger than {limit:,} bytes.")


def _host_name(host: str) -> str:
    """`Host` without its port: `[::1]:8000` is `::1`."""
    return (urlsplit("//" + host).hostname or "") if host else ""


def _caller(scope: Scope, headers: Headers) -> str:
    authorization = headers.get("authorization")
    if authorization:
        return "key:" + hashlib.sha256(authorization.encode()).hexdigest()
    client = scope.get("client")
    return "address:" + (client[0] if client else "unknown")
