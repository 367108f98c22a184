"""Owns the worker process: what it does jobs with, how it ends, and the processes beside a service.

A worker is one process that does one chunk at a time. Several are several processes, started and
started again by a `Crew`; each ends when its standard input does, so that none outlives its parent.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from indexer.job_kinds import Means, handlers, ticks
from indexer.jobs import JobRunner, this_worker
from indexer.media import open_media
from indexer.snapshot import SnapshotStore
from indexer.waker import Waker, prune
from models.bundles import load_embedder, load_head
from models.preprocess import DecodeLimits

if TYPE_CHECKING:
    from models.embedder import Embedded, Embedder, EmbedderSpec
    from models.preprocess import Rgb
    from service.database import Database
    from service.settings import Settings

Tell = Callable[[str], None]

MOST_EMBEDDERS = 2
"""A worker holds the embedders of a re-index at most: the old space's and the new one's."""
IDLE_S = 300.0
"""An embedder that was not asked for so long is let go."""
GRACE_S = 15.0
"""How long a worker has to give its chunk back before it is killed."""
RESTART_S = (1.0, 30.0)
"""A worker that died is started again after the first, twice as late each time up to the other."""
CHILD = "RESIGHT_WORKER_CHILD"
"""Set in a worker that ends when its standard input does."""


class Embedders:
    """Embedders by their space, loaded when they are asked for, at most two at a time."""

    def __init__(
        self, load: Callable[[str], Embedder], *, most: int = MOST_EMBEDDERS, idle_s: float = IDLE_S
    ) -> None:
        self._load = load
        self._most = most
        self._idle_s = idle_s
        self._loaded: dict[str, Embedder] = {}
        self._asked: dict[str, float] = {}
        self.photos = 0
        """How many photos they have embedded in all."""

    def __call__(self, fingerprint: str) -> Embedder:
        """Raises:
        BundleError: no bundle of this space is installed here, or it is broken.
        """
        if fingerprint not in self._loaded:
            loaded = self._load(fingerprint)  # first: one that is not here displaces no other
            while len(self._loaded) >= self._most:
                self._forget(min(self._loaded, key=self._asked.__getitem__))
            self._loaded[fingerprint] = loaded
        self._asked[fingerprint] = time.monotonic()
        return _Counted(self, self._loaded[fingerprint])

    @property
    def loaded(self) -> frozenset[str]:
        return frozenset(self._loaded)

    def drop_idle(self) -> None:
        """Let go of those that were not asked for in a while."""
        oldest = time.monotonic() - self._idle_s
        for fingerprint in [one for one, asked in self._asked.items() if asked <= oldest]:
            self._forget(fingerprint)

    def _forget(self, fingerprint: str) -> None:
        del self._loaded[fingerprint], self._asked[fingerprint]


class _Counted:
    """An embedder that counts its photos."""

    def __init__(self, home: Embedders, embedder: Embedder) -> None:
        self._home = home
        self._embedder = embedder

    @property
    def spec(self) -> EmbedderSpec:
        return self._embedder.spec

    def embed(self, photos: Sequence[Rgb]) -> Embedded:
        embedded = self._embedder.embed(photos)
        self._home.photos += len(photos)
        return embedded


class Worker:
    """One worker over an opened database."""

    def __init__(self, settings: Settings, database: Database, *, tell: Tell) -> None:
        limits = DecodeLimits(settings.max_photo_bytes, settings.max_photo_pixels)
        self._database = database
        self._poll_s = settings.worker_poll_s
        self._tell = tell
        self._told = 0
        self._told_at = time.monotonic()
        self.embedders = Embedders(
            lambda fingerprint: load_embedder(
                settings.models_dir,
                fingerprint,
                device=settings.device,
                threads=settings.threads or None,
            )
        )
        means = Means(
            sessions=database.sessions,
            store=open_media(
                settings.media_dir, settings.media_url, sessions=database.sessions, limits=limits
            ),
            snapshots=SnapshotStore(settings.snapshots_dir),
            exports_dir=settings.exports_dir,
            embedder_of=self.embedders,
            head_of=lambda fingerprint: load_head(settings.models_dir, fingerprint),
            limits=limits,
            import_prefixes=settings.import_prefixes,
        )
        self._ticks = ticks(means)
        self._runner = JobRunner(
            database.sessions,
            handlers(means),
            worker=this_worker(),
            lease_s=settings.worker_lease_s,
            poll_s=self._poll_s,
            ticks=[*self._ticks, self._rest],
            revive=_reviver(settings),
            tell=tell,
        )

    def run_once(self) -> None:
        """Do what there is to do, then return."""
        self._runner.run_until_idle()

    def complete(self) -> None:
        """Embed what lacks a vector in the spaces that are kept, and do no jobs."""
        while any(tick(lambda: False) for tick in self._ticks):
            pass

    def run(self, stop: threading.Event) -> None:
        """Work until `stop` is set; `wake` makes it look."""
        waker = Waker(self._database.engine, self._runner, poll_s=self._poll_s)
        prune(self._database.engine)
        waker.start()
        try:
            self._runner.run(stop)
        finally:
            waker.stop()

    def wake(self) -> None:
        self._runner.wake()

    def _rest(self, _stopping: Callable[[], bool]) -> bool:
        """The last tick: say what was done since the last time, and let idle embedders go."""
        embedded, now = self.embedders.photos - self._told, time.monotonic()
        if embedded:
            speed = embedded / max(now - self._told_at, 1e-9)
            self._tell(f"{embedded} embedded, {speed:.1f} photos/s")
        self._told, self._told_at = self.embedders.photos, now
        self.embedders.drop_idle()
        return False


def _reviver(settings: Settings) -> Callable[[], object] | None:
    """How to start the database again; None for one that is not ours."""
    if settings.database_url is not None:
        return None
    from db import embedded

    return lambda: embedded.start(settings.data_dir)


def work(settings: Settings, *, once: bool, tell: Tell) -> None:
    """Run one worker in this process until SIGTERM or Ctrl-C, or until there is nothing to do.

    Raises:
        UnsupportedDatabase, SchemaMismatch: the database cannot be used.
    """
    from service.database import open_database

    database = open_database(settings)
    try:
        worker = Worker(settings, database, tell=tell)
        if once:
            worker.run_once()
            return
        stop = threading.Event()

        def end(*_: object) -> None:
            stop.set()
            worker.wake()

        _on_signals(end)
        if os.environ.get(CHILD):
            threading.Thread(target=_at_end_of_input, args=(end,), daemon=True).start()
        worker.run(stop)
    finally:
        database.engine.dispose()


def _on_signals(end: Callable[..., None]) -> None:
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, end)
        signal.signal(signal.SIGINT, end)


def _at_end_of_input(end: Callable[[], None]) -> None:
    while os.read(0, 1024):
        pass
    end()


class Crew:
    """Worker processes: those that die are started again, all end together."""

    def __init__(
        self, settings: Settings, count: int, *, nice: int = 0, tell: Tell = lambda _: None
    ) -> None:
        self._command = [sys.executable, "-c", "from service.cli import main; main()", "worker"]
        self._command += ["--data-dir", str(settings.data_dir), "--nice", str(nice)]
        self._environment = _environment(settings, count)
        self._tell = tell
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._keep, name=f"crew {n}", daemon=True) for n in range(count)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End them; a chunk under way is given back."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _keep(self) -> None:
        wait, longest = RESTART_S
        while not self._stop.is_set():
            began = time.monotonic()
            code = self._run()
            if self._stop.is_set():
                return
            if time.monotonic() - began > longest:
                wait = RESTART_S[0]
            self._tell(f"A worker ended (exit code {code}); starting it again in {wait:.0f} s.")
            self._stop.wait(wait)
            wait = min(2 * wait, longest)

    def _run(self) -> int:
        process = subprocess.Popen(
            self._command,
            env=self._environment,
            stdin=subprocess.PIPE,
            # Ctrl-C is for us to hear; the end of its input tells the worker.
            start_new_session=True,
        )
        while process.poll() is None and not self._stop.is_set():
            self._stop.wait(0.2)
        return _ended(process)


def _ended(process: subprocess.Popen[Any]) -> int:
    if process.stdin is not None:
        process.stdin.close()
    try:
        return process.wait(GRACE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def _environment(settings: Settings, count: int) -> dict[str, str]:
    """Ours, with the cores shared out among several, and a database of one's own named."""
    environment = {**os.environ, CHILD: "1"}
    if settings.database_url is not None:
        environment["RESIGHT_DATABASE_URL"] = settings.database_url.get_secret_value()
    if count > 1 and not settings.threads:
        environment["RESIGHT_THREADS"] = str(max(1, (os.cpu_count() or 1) // count))
    return environment


@contextmanager
def crew(settings: Settings, count: int, *, nice: int = 0, tell: Tell) -> Iterator[Crew]:
    """So many worker processes while the block lasts."""
    made = Crew(settings, count, nice=nice, tell=tell)
    made.start()
    try:
        yield made
    finally:
        made.stop()


@contextmanager
def beside(settings: Settings, *, tell: Tell) -> Iterator[None]:
    """A worker beside a service while the block lasts, where the settings want one: by default on
    the embedded database alone. It yields to the service (nice 10)."""
    wanted = settings.worker == "on" or (
        settings.worker == "auto" and settings.database_url is None
    )
    if not wanted:
        yield
        return
    with crew(settings, 1, nice=10, tell=tell):
        yield
