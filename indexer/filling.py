"""Owns the vectors of what people add or change: made in the transaction that writes it.

The next search finds a new photo, and a region that was corrected answers as what it is now, also
while the catalogue moves from one space to another.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeVar

from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from db.errors import DbError
from db.queries import changes, embeddings
from db.queries.embeddings import SpaceRow
from indexer.answers import Notice
from indexer.embed import EmbedderBroken, EmbedReport, embed_annotations
from indexer.inference import Inference
from indexer.media import MediaStore
from indexer.spaces import SLOT
from models.embedder import Embedder
from models.preprocess import DecodeLimits

log = logging.getLogger("resight")

_AT_ONCE: Final = 16
"""Photos after which others get their turn on the inference thread."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True, eq=False)
class Filling:
    """What an added photo is embedded with. `main` makes vectors of the space that is searched
    here; None for `problem`. `beside` is the space that a switch or a rollback would lead to, where
    its bundle is loaded: what is added now is found at once then."""

    main: tuple[Embedder, SpaceRow] | None
    problem: Notice | None = None
    beside: tuple[Embedder, SpaceRow] | None = None

    def fills(self, space: SpaceRow) -> bool:
        return space.id in {one[1].id for one in (self.main, self.beside) if one is not None}


@dataclass(frozen=True, slots=True)
class Embedded:
    """The annotations that have a vector now, and what a person should know."""

    ids: frozenset[int]
    notices: tuple[Notice, ...] = ()


Embed = Callable[[Session, Iterable[int]], Embedded]
"""Gives annotations that lack a vector theirs, inside the session's transaction."""


class SpaceMoved(Exception):
    """The catalogue is searched in a space that what is loaded here does not fill."""


class Filler:
    """Embeds at once, inside the caller's transaction. Thread-safe."""

    def __init__(
        self,
        *,
        store: MediaStore,
        filling: Callable[[], Filling],
        look: Callable[[], None],
        inference: Inference,
        limits: DecodeLimits,
    ) -> None:
        """`filling` is what photos are embedded with now; `look` takes up what the catalogue is
        searched in by now, as far as it can, before it returns."""
        self._store = store
        self._filling = filling
        self._look = look
        self._inference = inference
        self._limits = limits

    def settled(self, attempt: Callable[[Embed], T]) -> T:
        """What `attempt` answers, which opens a transaction of its own and embeds with what it is
        given. It is called again where the catalogue moved to another space meanwhile.

        Raises:
            What `attempt` raises.
        """
        try:
            return attempt(partial(self._embed, strict=True))
        except SpaceMoved:
            self._look()
            # Where the bundle of the new space is not here, the photos wait for a worker.
            return attempt(self.embed_missing_now)

    def embed_missing_now(self, session: Session, annotation_ids: Iterable[int]) -> Embedded:
        """Vectors for those of the annotations that have none, seen from this transaction's commit
        on: after any change of a box, its undo included.

        Raises:
            Busy: the inference queue is full; roll back.
        """
        return self._embed(session, annotation_ids, strict=False)

    def embed_after(self, session: Session, change_id: int) -> Embedded:
        """As `embed_missing_now`, for the annotations that a change (an undo, for one) has written
        and that are still there."""
        written = [
            int(image.key)
            for image in changes.images_of(session, change_id)
            if image.entity == "annotation" and image.after is not None
        ]
        return self.embed_missing_now(session, written)

    def _embed(self, session: Session, annotation_ids: Iterable[int], *, strict: bool) -> Embedded:
        """A switch waits for this transaction, which has written the annotations: so what the
        catalogue is searched in now is what the next request sees, or else the switch finds them.
        """
        filling = self._filling()
        ids = sorted(set(annotation_ids))
        if strict:
            active = embeddings.active_space(session, SLOT)
            if active is not None and filling.main is not None and not filling.fills(active):
                raise SpaceMoved
        if filling.main is None:
            why = filling.problem.detail if filling.problem else "No model is loaded."
            told = Notice("not_embedded", f"The photos cannot be found yet. {why}")
            return Embedded(frozenset(), (told,) if ids else ())
        failed: dict[int, str] = {}
        for start in range(0, len(ids), _AT_ONCE):
            some = ids[start : start + _AT_ONCE]
            # The session is lent to the inference thread while this one waits.
            report = self._inference.submit(self._fill, session, filling, some).result()
            failed |= {failure.annotation_id: failure.reason for failure in report.failed}
        notices = tuple(
            Notice("not_embedded", f"Annotation {id_}: {reason}") for id_, reason in failed.items()
        )
        return Embedded(frozenset(ids) - failed.keys(), notices)

    def _fill(self, session: Session, filling: Filling, ids: Sequence[int]) -> EmbedReport:
        if filling.main is None:
            raise AssertionError
        embedder, space = filling.main
        report = embed_annotations(
            session, self._store, embedder, space.id, ids, limits=self._limits
        )
        if filling.beside is not None:
            embedder, space = filling.beside
            try:
                with session.begin_nested():
                    embed_annotations(
                        session, self._store, embedder, space.id, ids, limits=self._limits
                    )
            except (DbError, DBAPIError, EmbedderBroken) as error:
                # It may have been dropped meanwhile; whoever keeps it complete does the rest.
                log.info("Nothing was added to %s %s: %s", space.name, space.version, error)
        return report
