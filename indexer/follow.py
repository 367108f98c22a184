"""Owns keeping spaces complete: what lacks a vector gets one, in every space that is kept.

This is how annotations that arrive or change while a model is exchanged are in both spaces at the
switch, and still are when somebody goes back.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from sqlalchemy import text
from sqlalchemy.orm import Session, sessionmaker

from db.queries import embeddings, runs
from db.queries.embeddings import MissingAnnotation
from db.queries.jobs import ItemFailure
from db.queries.runs import KeptSpace
from indexer.embed import EmbeddedPhotos, EmbedderBroken, embed_photos
from indexer.media import MediaStore
from models.embedder import Embedder
from models.errors import BundleError
from models.preprocess import DecodeLimits

log = logging.getLogger(__name__)

EmbedderOf = Callable[[str], Embedder]
"""The embedder of a space's fingerprint; BundleError where this machine lacks its bundle."""

BLOCK: Final = 64
"""Ids that a worker holds at a time."""
_LEFT_ALONE_S: Final = 60.0
_FOLLOW_LOCK: Final = 0x4E000000
"""Plus the space's id: first half of the advisory lock on a block of ids."""


def item_failures(photos: EmbeddedPhotos) -> list[ItemFailure]:
    """What failed, as jobs name it."""
    return [
        ItemFailure(
            embeddings.failure_item(one.annotation_id, one.region_version), one.code, one.reason
        )
        for one in photos.failed
    ]


class Follower:
    """The tick that gives what lacks a vector one, in every space that is kept: what slots search,
    candidates, and the spaces that a rollback returns to. Workers share it by blocks of ids."""

    def __init__(
        self,
        sessions: sessionmaker[Session],
        store: MediaStore,
        embedder_of: EmbedderOf,
        *,
        batch: int = 16,
        limits: DecodeLimits | None = None,
    ) -> None:
        self._sessions = sessions
        self._store = store
        self._limits = limits
        self._embedder_of = embedder_of
        self._batch = batch
        self._failed: dict[int, set[str]] = {}
        """By space, items that failed here and that no run takes note of."""
        self._left_alone: dict[int, float] = {}
        """Spaces that cannot be embedded here, until when."""

    def __call__(self, stopping: Callable[[], bool]) -> bool:
        """Embed up to one block in each space; whether there was anything to do."""
        with self._sessions() as session:
            kept = runs.kept_spaces(session)
        done = False
        for space in kept:
            if stopping():
                break
            if self._left_alone.get(space.model_id, 0.0) <= time.monotonic():
                done = self._follow(space, stopping) or done
        return done

    def _follow(self, space: KeptSpace, stopping: Callable[[], bool]) -> bool:
        try:
            return self._embed_block(space, stopping)
        except (BundleError, EmbedderBroken) as error:
            log.warning("The space %s is not kept complete here: %s", space.fingerprint[:12], error)
            self._left_alone[space.model_id] = time.monotonic() + _LEFT_ALONE_S
            return False

    def _embed_block(self, space: KeptSpace, stopping: Callable[[], bool]) -> bool:
        with self._block(space) as wanted:
            if not wanted:
                return False
            photos = embed_photos(
                self._store,
                self._embedder_of(space.fingerprint),
                wanted,
                batch=self._batch,
                stopping=stopping,
                limits=self._limits,
            )
            if photos is None:
                return False
            with self._sessions.begin() as session:
                photos.put(session, space.model_id)
                if photos.failed and space.run_id is not None:
                    runs.note_failures(session, space.run_id, item_failures(photos))
            if space.run_id is None:
                failed = self._failed.setdefault(space.model_id, set())
                failed.update(failure.item for failure in item_failures(photos))
            return True

    @contextmanager
    def _block(self, space: KeptSpace) -> Iterator[list[MissingAnnotation]]:
        """A block of missing annotations that no other worker is at; its lock is held meanwhile by
        a transaction that has written nothing, which holds nothing else up."""
        with self._sessions() as session:
            for block in self._blocks(session, space):
                free = session.scalar(
                    text("SELECT pg_try_advisory_xact_lock(:lock, :block)"),
                    {"lock": _FOLLOW_LOCK + space.model_id, "block": block % 2**31},
                )
                if free:
                    # Another worker may have done it between the look and the lock.
                    yield self._missing(session, space, block)
                    return
        yield []

    def _blocks(self, session: Session, space: KeptSpace) -> list[int]:
        return sorted({one.annotation_id // BLOCK for one in self._missing(session, space)})

    def _missing(
        self, session: Session, space: KeptSpace, block: int | None = None
    ) -> list[MissingAnnotation]:
        failed = self._failed.get(space.model_id, set())
        found = embeddings.missing(
            session,
            space.model_id,
            limit=16 * BLOCK + len(failed),
            after_id=0 if block is None else block * BLOCK - 1,
            until_id=None if block is None else block * BLOCK + BLOCK - 1,
            job_id=space.run_id,
        )
        return [
            one
            for one in found
            if embeddings.failure_item(one.annotation_id, one.region_version) not in failed
        ]
