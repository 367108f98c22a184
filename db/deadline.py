"""A limit on how long the statements of a thread may take together, even on a silent server."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from typing import Any

import psycopg

_CANCEL_TIMEOUT_S = 1.0
_limit = threading.local()


class DeadlineExceeded(psycopg.OperationalError):
    """The deadline passed while waiting for the server; the connection is closed."""


@contextlib.contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """Inside the block, waiting for PostgreSQL ends after `seconds` with `DeadlineExceeded`.

    The statement is cancelled on the server, and the connection closed, so that the deadline
    holds for a server that no longer answers at all. An outer, earlier deadline stays in force.
    """
    outer: float | None = getattr(_limit, "at", None)
    wanted = time.monotonic() + seconds
    _limit.at = wanted if outer is None else min(outer, wanted)
    try:
        yield
    finally:
        _limit.at = outer


def seconds_left() -> float | None:
    """Until the deadline of the calling thread, never negative; None without one."""
    at: float | None = getattr(_limit, "at", None)
    return None if at is None else max(at - time.monotonic(), 0.0)


class TimedConnection(psycopg.Connection[Any]):
    """A psycopg connection that keeps the `deadline` of the calling thread.

    Rolling back a lost connection does nothing, since the server has done it: whoever closes a
    session after an error then sees that error and not a second one. The pool's ping replaces the
    connection.
    """

    def rollback(self) -> None:
        if not self.closed:
            super().rollback()

    def wait(self, gen: Any, interval: float = 0.1, timeout: float | None = None) -> Any:
        at: float | None = getattr(_limit, "at", None)
        if at is None or timeout is not None:
            return super().wait(gen, interval, timeout)
        left = at - time.monotonic()
        try:
            return super().wait(gen, interval, max(left, 0.001))
        except psycopg.errors._WaitTimeout:  # noqa: SLF001
            self._give_up()
            raise DeadlineExceeded(
                "the database did not answer in time; the statement was cancelled"
            ) from None

    def _give_up(self) -> None:
        with contextlib.suppress(psycopg.Error):
            self.cancel_safe(timeout=_CANCEL_TIMEOUT_S)
        self.close()
