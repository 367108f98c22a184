"""Owns the stage of a job that embeds what lacks a vector in a space, in chunks, on any worker."""

from __future__ import annotations

from typing import Final

from sqlalchemy.orm import Session

from db.queries import embeddings, runs
from db.queries.embeddings import MissingAnnotation
from db.queries.jobs import ChunkSpec, ItemFailure, JobRow
from indexer.embed import embed_photos
from indexer.follow import EmbedderOf, item_failures
from indexer.jobs import ChunkContext, Unable
from indexer.media import MediaStore
from models.errors import BundleError
from models.preprocess import DecodeLimits

CHUNK: Final = 64
"""Annotations that a worker embeds before it commits."""
STAGE: Final = "embedding"
_ROUNDS: Final = 3
"""After so many looks for annotations that came meanwhile, the rest is left to the tick."""


class EmbeddingStage:
    """What embed-missing and re-index jobs share. Annotations that cannot be embedded are failures;
    photos without annotations lack nothing."""

    def __init__(
        self,
        store: MediaStore,
        embedder_of: EmbedderOf,
        *,
        chunk: int = CHUNK,
        batch: int = 16,
        limits: DecodeLimits | None = None,
    ) -> None:
        self._store = store
        self._embedder_of = embedder_of
        self._chunk = chunk
        self._batch = batch
        self._limits = limits

    def plan(self, session: Session, job: JobRow, model_id: int) -> list[ChunkSpec]:
        """What lacks a vector, in ranges of ids; nothing after some rounds: annotations that keep
        coming are the tick's, or the job would never end."""
        rounds = runs.stage_rounds(session, job.id, STAGE)
        if rounds >= _ROUNDS:
            return []
        return [
            ChunkSpec(STAGE, {"first": first, "last": last, "round": rounds + 1}, count)
            for first, last, count in embeddings.missing_ranges(
                session, model_id, self._chunk, job.id
            )
        ]

    def work(self, chunk: ChunkContext, model_id: int) -> None:
        """Embed a chunk's annotations; vectors, failures and the chunk's end commit together.

        Raises:
            Unable: the bundle of the space is not here.
        """
        with chunk.sessions() as session:
            fingerprint = embeddings.get_space_by_id(session, model_id).fingerprint
            wanted = _wanted(session, chunk, model_id)
        try:
            embedder = self._embedder_of(fingerprint)
        except BundleError as error:
            raise Unable(error.code, str(error)) from error
        photos = embed_photos(
            self._store,
            embedder,
            wanted,
            batch=self._batch,
            stopping=chunk.stopping,
            limits=self._limits,
        )
        if photos is None:
            return

        def write(session: Session) -> list[ItemFailure]:
            photos.put(session, model_id)
            return item_failures(photos)

        chunk.commit(write, max(chunk.row.items - len(photos.failed), 0))


def _wanted(session: Session, chunk: ChunkContext, model_id: int) -> list[MissingAnnotation]:
    if chunk.row.retry is not None:
        among = [int(item.split("@")[0]) for item in chunk.row.retry]
        return embeddings.missing(session, model_id, among=among)
    first, last = chunk.row.params["first"], chunk.row.params["last"]
    return embeddings.missing(
        session, model_id, after_id=first - 1, until_id=last, job_id=chunk.job.id
    )
