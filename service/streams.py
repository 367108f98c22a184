"""Owns server-sent events: what changed since a listener's last look, heartbeats, and the end."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from fastapi.concurrency import run_in_threadpool
from fastapi.responses import StreamingResponse

from service.errors import Problem, problem_of

log = logging.getLogger("resight")

LOOK_S = 1.0
HEARTBEAT_S = 15.0
RECONNECT_MS = 3000
MOST_LISTENERS = 100


@dataclass(frozen=True, slots=True)
class Look:
    """What there is to see now: JSON by name, and whether nothing more will ever come."""

    items: Mapping[str, Mapping[str, Any]]
    over: bool


class Streams:
    """The listeners of one process. A stream looks every `look_s` seconds and sends what is not as
    it was; after `heartbeat_s` seconds of silence it sends a comment, so that proxies keep it."""

    def __init__(
        self,
        *,
        look_s: float = LOOK_S,
        heartbeat_s: float = HEARTBEAT_S,
        most: int = MOST_LISTENERS,
    ) -> None:
        self._look_s = look_s
        self._heartbeat_s = heartbeat_s
        self._most = most
        self._open = 0
        self._ending = False

    @property
    def listening(self) -> int:
        """How many streams are open."""
        return self._open

    def end(self) -> None:
        """Ends every stream within one look: the service is about to stop."""
        self._ending = True

    async def answer(self, event: str, look: Callable[[], Look]) -> StreamingResponse:
        """The response that streams; each item that is new or changed is sent as one `event`.

        When it is over an `end` event follows: a browser would otherwise ask again. `look` is
        called in a thread, once before the response begins, so that its errors are problems.

        Raises:
            Problem: 503, too many listen already.
        """
        if self._open >= self._most:
            raise Problem(
                503, "busy", f"{self._open} listeners follow jobs here already; ask again later."
            )
        first = await run_in_threadpool(look)
        return StreamingResponse(
            self._events(event, first, look),
            media_type="text/event-stream",
            # Asks a proxy before this service not to hold parts back.
            headers={"X-Accel-Buffering": "no"},
        )

    async def _events(self, event: str, seen: Look, look: Callable[[], Look]) -> AsyncIterator[str]:
        self._open += 1
        sent: dict[str, str] = {}
        spoke = time.monotonic()
        try:
            yield f"retry: {RECONNECT_MS}\n\n"
            while True:
                for text in _changed(event, seen, sent):
                    spoke = time.monotonic()
                    yield text
                if seen.over:
                    yield "event: end\ndata: {}\n\n"
                    return
                if time.monotonic() - spoke >= self._heartbeat_s:
                    spoke = time.monotonic()
                    yield ": still here\n\n"
                await asyncio.sleep(self._look_s)
                if self._ending:
                    return
                try:
                    seen = await run_in_threadpool(look)
                except Exception as error:
                    # The status line is long gone; the listener asks again by itself.
                    problem = problem_of(error)
                    if problem.status >= 500:
                        log.error("A stream of events ended", exc_info=error)
                    told = json.dumps({"code": problem.code, "detail": problem.detail})
                    yield f"event: problem\ndata: {told}\n\n"
                    return
        finally:
            self._open -= 1


def _changed(event: str, seen: Look, sent: dict[str, str]) -> list[str]:
    """The events for what differs from `sent`, which is brought up to date."""
    events = []
    for name, item in seen.items.items():
        data = json.dumps(item, ensure_ascii=False, default=str)
        if sent.get(name) != data:
            sent[name] = data
            events.append(f"event: {event}\ndata: {data}\n\n")
    return events
