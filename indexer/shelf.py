"""Owns the spaces that a process holds in memory: loads them, renews them, one job at a time."""

from __future__ import annotations

import logging
import threading
import time
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Protocol

from sqlalchemy.orm import Session, sessionmaker

from db.queries import embeddings
from db.queries.embeddings import SpaceRow
from db.queries.search import adopt_foreign_rows, space_changes
from indexer.live import (
    STALE_ROWS,
    Base,
    LiveSpace,
    Outrun,
    View,
    counting_base,
    memory_base,
    snapshot_base,
)
from indexer.snapshot import Snapshot, SnapshotStore, SnapshotUnusable, hold_build

log = logging.getLogger(__name__)

MEMORY_ROWS = 5_000
"""Up to here a space lives in memory: a float32 scan takes under a millisecond."""

_RETRY_S = 600.0


class Loading(Exception):
    """The space is not in memory yet."""


class Source(Protocol):
    """Where the base of a space comes from."""

    def base(self, session: Session, space: SpaceRow, old: LiveSpace | None) -> Base | None:
        """The first base, or one to replace that of `old`; None to keep that. May commit."""
        ...


class Memory:
    """Every space in memory, compared with in float32."""

    def base(self, session: Session, space: SpaceRow, old: LiveSpace | None) -> Base | None:
        return memory_base(session, space) if old is None or old.stale else None


class Counted:
    """The ids of every space, which PostgreSQL searches."""

    def base(self, session: Session, space: SpaceRow, old: LiveSpace | None) -> Base | None:
        return counting_base(session, space) if old is None or old.stale else None


class Snapshots:
    """Small spaces in memory, others as snapshots in a folder, built where there is none."""

    def __init__(self, root: Path) -> None:
        self._store = SnapshotStore(root)

    def base(self, session: Session, space: SpaceRow, old: LiveSpace | None) -> Base | None:
        return self._first(session, space) if old is None else self._renewed(session, old)

    def _first(self, session: Session, space: SpaceRow) -> Base:
        """The newest snapshot if it is of use, else one that is built now."""
        snapshot = self._usable(session, space)
        if snapshot is None and embeddings.count_vectors(session, space.id) > MEMORY_ROWS:
            snapshot = self._built(session, space, after=-1)
        return snapshot_base(snapshot) if snapshot else memory_base(session, space)

    def _renewed(self, session: Session, old: LiveSpace) -> Base | None:
        if not old.stale:
            return None
        space = old.space
        if embeddings.count_vectors(session, space.id) <= MEMORY_ROWS:
            return memory_base(session, space)
        snapshot = self._built(session, space, after=old.base.horizon)
        return snapshot_base(snapshot) if snapshot else None

    def _built(self, session: Session, space: SpaceRow, after: int) -> Snapshot | None:
        """A snapshot newer than transaction `after`, built here unless another process just did;
        None if it could not be built."""
        hold_build(session, space.id)
        other = self._usable(session, space)
        if other is not None and other.manifest.horizon_tx > after:
            return other
        try:
            snapshot = self._store.build(session, space)
            session.commit()
        except (OSError, SnapshotUnusable) as problem:
            session.rollback()
            log.warning("No snapshot of %s could be built: %s", space.fingerprint[:12], problem)
            return None
        return snapshot

    def _usable(self, session: Session, space: SpaceRow) -> Snapshot | None:
        """The newest intact snapshot, if less changed since than it holds."""
        snapshot = self._store.newest(session, space)
        if snapshot is None:
            return None
        manifest = snapshot.manifest
        changes = space_changes(session, space.id, manifest.horizon_tx)
        changed = len(changes.written) + len(changes.altered)
        return snapshot if changed <= max(STALE_ROWS, manifest.count) else None


class Shelf:
    """Spaces by fingerprint. Readers take a `LiveSpace` by pointer; a new one replaces it."""

    def __init__(
        self, sessions: sessionmaker[Session], source: Source, background: Executor
    ) -> None:
        self._sessions = sessions
        self._source = source
        self._background = background
        self._lock = threading.Lock()
        self._lives: dict[str, LiveSpace] = {}
        self._jobs: dict[str, Future[None]] = {}
        self._problems: dict[str, str] = {}
        self._retry_at: dict[str, float] = {}

    def known(self, fingerprint: str) -> SpaceRow | None:
        """The space, if it is in memory."""
        live = self._lives.get(fingerprint)
        return live.space if live else None

    def release(self, fingerprint: str) -> None:
        """Keep the space no longer."""
        with self._lock:
            self._lives.pop(fingerprint, None)

    def state_of(self, space: SpaceRow) -> tuple[LiveSpace | None, str]:
        """The space, or None and why it is not in memory."""
        live = self._lives.get(space.fingerprint)
        default = "The vectors are not loaded yet."
        return live, self._problems.get(space.fingerprint, default)

    def live(self, space: SpaceRow, timeout_s: float | None) -> LiveSpace:
        """The space, loaded first if need be.

        Raises:
            Loading: that takes longer than `timeout_s`; it goes on.
            Exception: whatever loading failed with; the next call tries again.
        """
        live = self._lives.get(space.fingerprint)
        if live is not None:
            return live
        try:
            self._start(space).result(timeout_s)
        except TimeoutError as problem:
            raise Loading(space.fingerprint) from problem
        return self._lives[space.fingerprint]

    def view(self, session: Session, space: SpaceRow, timeout_s: float | None) -> View:
        """What the session's transaction sees of the space, loaded first if need be.

        Raises:
            Loading, Exception: as `live`.
            NotFound: the space was dropped.
        """
        live = self.live(space, timeout_s)
        try:
            view = live.catch_up(session)
        except Outrun:
            self.release(space.fingerprint)
            try:
                view = self.live(space, timeout_s).catch_up(session)
            except Outrun as problem:
                raise Loading(space.fingerprint) from problem
        if live.stale:
            self.rebuild_soon(space)
        return view

    def rebuild_soon(self, space: SpaceRow) -> None:
        """Renew the base in the background, unless that is under way or failed just now."""
        if time.monotonic() >= self._retry_at.get(space.fingerprint, 0.0):
            self._start(space)

    def refresh(self, space: SpaceRow) -> None:
        """Load the space, and renew its base if enough has changed, before returning."""
        with self._sessions() as session:
            self.view(session, space, None)
        if self.live(space, None).stale:
            self._start(space).result()

    def _start(self, space: SpaceRow) -> Future[None]:
        with self._lock:
            job = self._jobs.get(space.fingerprint)
            if job is None or job.done():
                job = self._background.submit(self._run, space)
                self._jobs[space.fingerprint] = job
            return job

    def _run(self, space: SpaceRow) -> None:
        try:
            with self._sessions() as session:
                if adopt_foreign_rows(session, space.id):
                    log.warning(
                        "The vectors of %s come from another PostgreSQL: taken over.",
                        space.fingerprint[:12],
                    )
                session.commit()
                old = self._lives.get(space.fingerprint)
                base = self._source.base(session, space, old)
                session.commit()
                if base is None:
                    self._retry_at[space.fingerprint] = time.monotonic() + _RETRY_S
                    return
                live = LiveSpace(session, space, base)
                live.catch_up(session)
        except Exception as problem:
            log.warning("Loading the space %s failed: %s", space.fingerprint[:12], problem)
            self._problems[space.fingerprint] = f"Loading the vectors failed: {problem}"
            self._retry_at[space.fingerprint] = time.monotonic() + _RETRY_S
            raise
        self._problems.pop(space.fingerprint, None)
        with self._lock:
            self._lives[space.fingerprint] = live
