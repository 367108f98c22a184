"""The one bounded executor through which every gate and embedder call passes.

A fixed set of threads, because each thread that enters OpenMP gets a pool of its own; a bounded
queue, because a request that would wait for minutes is better told to come back.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class Busy(Exception):
    """The queue is full; `retry_after_s` is a fair time to ask again."""

    def __init__(self, waiting: int, retry_after_s: int) -> None:
        super().__init__(
            f"{waiting} requests are already waiting for inference; "
            f"ask again in {retry_after_s} seconds"
        )
        self.waiting = waiting
        self.retry_after_s = retry_after_s


class Inference:
    """Runs calls on `workers` threads; at most `queue` more may wait."""

    def __init__(self, *, workers: int = 1, queue: int = 32) -> None:
        self._executor = ThreadPoolExecutor(workers, thread_name_prefix="inference")
        self._places = workers + queue
        self._taken = 0
        self._lock = threading.Lock()

    @property
    def waiting(self) -> int:
        """Calls running or waiting now."""
        return self._taken

    def submit(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Queues one call.

        Raises:
            Busy: all places are taken.
        """
        with self._lock:
            if self._taken >= self._places:
                raise Busy(self._taken, retry_after_s=2)
            self._taken += 1
        try:
            future = self._executor.submit(call, *args, **kwargs)
        except BaseException:
            self._leave()
            raise
        future.add_done_callback(lambda _: self._leave())
        return future

    def close(self) -> None:
        """Lets running calls end and drops the waiting ones."""
        self._executor.shutdown(wait=True, cancel_futures=True)

    def _leave(self) -> None:
        with self._lock:
            self._taken -= 1
