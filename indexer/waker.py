"""Owns waking idle workers: a procrastinate worker in a thread, which does nothing but wake.

What is to be done, and by whom, is not its business: a lost or repeated wake costs a poll interval
at most. A worker keeps its wake until it is idle again, so that the next wake goes to another one.
Our rows use neither `lock` nor `queueing_lock`, which together can deadlock.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from typing import Final

from procrastinate import App, PsycopgConnector
from sqlalchemy import Engine, text

from db.queries.jobs import QUEUE, WAKE_TASK
from indexer.jobs import JobRunner

_LOOK_S: Final = 0.1
"""Seconds between two looks at whether the runner is idle again."""

_PRUNE = text(
    "DELETE FROM procrastinate_jobs WHERE queue_name = :queue"
    " AND (status NOT IN ('todo', 'doing') OR status = 'doing' AND worker_id IS NULL)"
)


class Waker:
    """Wakes a runner when the database tells of work; goes on after outages until `stop`."""

    def __init__(self, engine: Engine, runner: JobRunner, *, poll_s: float) -> None:
        self._engine = engine
        self._runner = runner
        self._poll_s = poll_s
        self._stop = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._running: asyncio.Task[None] | None = None
        self._thread = threading.Thread(target=self._keep_running, name="waker", daemon=True)

    def start(self) -> None:
        # It would log each lost connection as an error; losing one is nothing to us.
        logging.getLogger("procrastinate").setLevel(logging.CRITICAL)
        logging.getLogger("psycopg.pool").setLevel(logging.CRITICAL)
        self._thread.start()

    def stop(self) -> None:
        """End the thread and its connections."""
        self._stop.set()
        loop, running = self._loop, self._running
        if loop is not None and running is not None:
            with contextlib.suppress(RuntimeError):  # it has ended by itself
                loop.call_soon_threadsafe(running.cancel)
        self._thread.join()

    def _keep_running(self) -> None:
        while not self._stop.is_set():
            try:
                asyncio.run(self._run())
            except Exception:
                logging.getLogger("resight").debug("The waker lost the database", exc_info=True)
            self._stop.wait(self._poll_s)

    async def _run(self) -> None:
        self._loop, self._running = asyncio.get_running_loop(), asyncio.current_task()
        if self._stop.is_set():
            return
        try:
            await self._listen()
        except asyncio.CancelledError:
            if not self._stop.is_set():
                raise
        finally:
            self._loop = self._running = None

    async def _listen(self) -> None:
        url = self._engine.url.set(drivername="postgresql")
        connector = PsycopgConnector(
            conninfo=url.render_as_string(hide_password=False),
            kwargs={"application_name": "resight waker", "connect_timeout": 10},
            min_size=1,
            max_size=2,
        )
        app = App(connector=connector)

        @app.task(name=WAKE_TASK, queue=QUEUE)
        async def wake() -> None:
            rests = self._runner.rests
            self._runner.wake()
            while self._runner.rests == rests and not self._stop.is_set():
                await asyncio.sleep(_LOOK_S)

        async with app.open_async():
            await app.run_worker_async(
                queues=[QUEUE],
                name="resight",
                fetch_job_polling_interval=self._poll_s,
                delete_jobs="always",
                install_signal_handlers=False,
                update_heartbeat_interval=max(self._poll_s, 10.0),
                stalled_worker_timeout=max(3 * self._poll_s, 60.0),
            )


def prune(engine: Engine) -> int:
    """Remove rows of procrastinate that workers left behind when they were killed; how many."""
    with engine.begin() as connection:
        return connection.execute(_PRUNE, {"queue": QUEUE}).rowcount
