"""Owns filling a space: annotations that lack a vector get one, in chunks that survive a crash.

A photo that cannot be embedded fails alone, with its reason in the report, and the run goes on.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from sqlalchemy.orm import Session, sessionmaker

from db.queries import embeddings
from db.queries.embeddings import MissingAnnotation
from indexer.media import MediaError, MediaStore, StoreUnavailable
from models.embedder import Embedder, Floats
from models.preprocess import BadPhoto, DecodeLimits, Rgb, crop, decode

_DECODERS: Final = 1
"""Decoding runs beside inference, which uses the other cores itself."""
_REMOTE_DECODERS: Final = 4
"""Who reads over a network waits more than it decodes."""
_CHUNKS_AHEAD: Final = 2
_BROKEN_MIN: Final = 4
"""Fewer photos than this may all be bad by chance; from here on the embedder is to blame."""


class EmbedderBroken(Exception):
    """The embedder failed on every photo of a chunk one by one: it is not the photos' fault."""


class SpaceMismatch(Exception):
    """The embedder does not fill the space that was asked for."""


@dataclass(frozen=True, slots=True)
class EmbedFailure:
    """An annotation that got no vector, and why."""

    annotation_id: int
    sha256: str
    code: str
    reason: str
    region_version: int = 0
    """Which of its regions failed."""


@dataclass(frozen=True, slots=True, eq=False)
class EmbeddedPhotos:
    """Vectors float32 (n, dim), one for each of n `annotations`, and who got none; not stored."""

    annotations: tuple[MissingAnnotation, ...]
    vectors: Floats
    failed: tuple[EmbedFailure, ...]

    def put(self, session: Session, model_id: int) -> int:
        """Write the vectors of annotations that are there with the same region; how many."""
        if not self.annotations:
            return 0
        return embeddings.put_vectors(
            session,
            model_id,
            [one.annotation_id for one in self.annotations],
            self.vectors,
            [one.region_version for one in self.annotations],
        )


@dataclass(frozen=True, slots=True)
class EmbedProgress:
    """Where a run stands after a commit: `embedded` vectors are durable."""

    total: int
    embedded: int
    failed: int
    seconds: float
    photos_per_s: float


@dataclass(frozen=True, slots=True)
class EmbedReport:
    """What a run did. `vanished` annotations were deleted, or got another region, meanwhile: their
    vectors were dropped."""

    embedded: int
    failed: tuple[EmbedFailure, ...]
    vanished: int
    seconds: float
    photos_per_s: float


@dataclass(slots=True)
class _Tally:
    embedded: int = 0
    vanished: int = 0
    failed: list[EmbedFailure] = field(default_factory=list)


Loaded = tuple[MissingAnnotation, Rgb | EmbedFailure]


def embed_missing(
    sessions: sessionmaker[Session],
    store: MediaStore,
    embedder: Embedder,
    model_id: int,
    *,
    batch: int = 16,
    progress: Callable[[EmbedProgress], None] | None = None,
    limits: DecodeLimits | None = None,
) -> EmbedReport:
    """Embed every annotation that lacks a vector in the space, one commit per `batch` photos.

    Photos are decoded in a thread while the former ones are embedded. Killed and started again, it
    goes on where it stopped; a second run does nothing but try the failed ones again.

    Raises:
        SpaceMismatch: `model_id` is the space of another fingerprint.
        db.errors.NotFound: there is no such space.
        EmbedderBroken: the embedder fails whatever it is given; vectors committed so far stay.
    """
    started = time.monotonic()
    tally = _Tally()
    with sessions() as session:
        _check_space(session, embedder, model_id)
        total = embeddings.count_missing(session, model_id)

    def fetch(after_id: int) -> Sequence[MissingAnnotation]:
        with sessions() as session:
            return embeddings.missing(session, model_id, limit=batch, after_id=after_id)

    limits = limits or DecodeLimits()
    with _loaders(store) as pool:
        for chunk in _loaded_ahead(pool, _pages(fetch), store, embedder, limits):
            photos = _embed_chunk(embedder, chunk)
            with sessions.begin() as session:
                _put(session, model_id, photos, tally)
            if progress is not None:
                seconds = time.monotonic() - started
                progress(
                    EmbedProgress(
                        total,
                        tally.embedded,
                        len(tally.failed),
                        seconds,
                        tally.embedded / max(seconds, 1e-9),
                    )
                )
    seconds = time.monotonic() - started
    return EmbedReport(
        embedded=tally.embedded,
        failed=tuple(tally.failed),
        vanished=tally.vanished,
        seconds=seconds,
        photos_per_s=tally.embedded / max(seconds, 1e-9),
    )


def embed_annotations(
    session: Session,
    store: MediaStore,
    embedder: Embedder,
    model_id: int,
    annotation_ids: Sequence[int],
    *,
    limits: DecodeLimits | None = None,
) -> EmbedReport:
    """Embed some annotations at once inside the caller's transaction; those with a vector are left.

    Raises:
        SpaceMismatch: `model_id` is the space of another fingerprint.
        db.errors.NotFound: there is no such space.
        EmbedderBroken: the embedder fails whatever it is given.
    """
    started = time.monotonic()
    _check_space(session, embedder, model_id)
    tally = _Tally()
    wanted = embeddings.missing(session, model_id, among=annotation_ids)
    limits = limits or DecodeLimits()
    chunk = [(one, _load(store, embedder, one, limits)) for one in wanted]
    _put(session, model_id, _embed_chunk(embedder, chunk), tally)
    seconds = time.monotonic() - started
    return EmbedReport(
        embedded=tally.embedded,
        failed=tuple(tally.failed),
        vanished=tally.vanished,
        seconds=seconds,
        photos_per_s=tally.embedded / max(seconds, 1e-9),
    )


def embed_photos(
    store: MediaStore,
    embedder: Embedder,
    wanted: Sequence[MissingAnnotation],
    *,
    batch: int = 16,
    stopping: Callable[[], bool] = lambda: False,
    limits: DecodeLimits | None = None,
) -> EmbeddedPhotos | None:
    """Vectors for these annotations, outside any transaction; None when told to stop.

    `stopping` is asked before each `batch` photos. Photos are decoded in a thread while the former
    ones are embedded.

    Raises:
        EmbedderBroken: the embedder fails whatever it is given.
    """
    done: list[EmbeddedPhotos] = []
    pages = (wanted[start : start + batch] for start in range(0, len(wanted), batch))
    with _loaders(store) as pool:
        for chunk in _loaded_ahead(pool, pages, store, embedder, limits or DecodeLimits()):
            if stopping():
                return None
            done.append(_embed_chunk(embedder, chunk))
    return EmbeddedPhotos(
        tuple(one for photos in done for one in photos.annotations),
        np.concatenate([np.zeros((0, embedder.spec.dim), np.float32)] + [p.vectors for p in done]),
        tuple(one for photos in done for one in photos.failed),
    )


def _loaders(store: MediaStore) -> ThreadPoolExecutor:
    count = _DECODERS if store.is_local else _REMOTE_DECODERS
    return ThreadPoolExecutor(count, thread_name_prefix="decode")


def _check_space(session: Session, embedder: Embedder, model_id: int) -> None:
    space = embeddings.get_space_by_id(session, model_id)
    if space.fingerprint != embedder.spec.fingerprint:
        raise SpaceMismatch(
            f"The space {space.name} {space.version} has the fingerprint "
            f"{space.fingerprint[:12]}…, the loaded model {embedder.spec.name} has "
            f"{embedder.spec.fingerprint[:12]}…: two spaces are never mixed. Load the model of "
            f"that space, or register the loaded one."
        )


def _pages(
    fetch: Callable[[int], Sequence[MissingAnnotation]],
) -> Iterator[Sequence[MissingAnnotation]]:
    """Pages by ascending id, so that what failed is met again by the next run only."""
    after_id = 0
    while page := fetch(after_id):
        yield page
        after_id = page[-1].annotation_id


def _loaded_ahead(
    pool: ThreadPoolExecutor,
    pages: Iterator[Sequence[MissingAnnotation]],
    store: MediaStore,
    embedder: Embedder,
    limits: DecodeLimits,
) -> Iterator[list[Loaded]]:
    """Each page with its photos, the next pages being decoded meanwhile."""
    ahead: deque[tuple[Sequence[MissingAnnotation], list[Future[Rgb | EmbedFailure]]]] = deque()
    try:
        for page in pages:
            loads = [pool.submit(_load, store, embedder, one, limits) for one in page]
            ahead.append((page, loads))
            if len(ahead) > _CHUNKS_AHEAD:
                yield _wait(*ahead.popleft())
        while ahead:
            yield _wait(*ahead.popleft())
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _wait(
    page: Sequence[MissingAnnotation], loads: list[Future[Rgb | EmbedFailure]]
) -> list[Loaded]:
    return [(one, load.result()) for one, load in zip(page, loads, strict=True)]


def _load(
    store: MediaStore, embedder: Embedder, wanted: MissingAnnotation, limits: DecodeLimits
) -> Rgb | EmbedFailure:
    """The pixels that the embedder will see, cut to the box and brought to its input size."""
    try:
        rgb = decode(store.read(wanted.sha256), limits).rgb
        if wanted.box_px is not None:
            rgb = crop(rgb, wanted.box_px)
    except StoreUnavailable:
        # Says nothing about this photo: whoever asked tries again.
        raise
    except (BadPhoto, MediaError) as error:
        return _failure(wanted, error.code, error.detail)
    except ValueError as error:
        return _failure(wanted, "box_outside", str(error))
    # Applied again by the embedder it changes nothing, and here it runs beside the inference.
    return embedder.spec.preprocessing.apply(rgb)


def _failure(wanted: MissingAnnotation, code: str, reason: str) -> EmbedFailure:
    return EmbedFailure(wanted.annotation_id, wanted.sha256, code, reason, wanted.region_version)


def _embed_chunk(embedder: Embedder, chunk: Sequence[Loaded]) -> EmbeddedPhotos:
    ready: list[tuple[MissingAnnotation, Rgb]] = []
    failed: list[EmbedFailure] = []
    for wanted, loaded in chunk:
        if isinstance(loaded, EmbedFailure):
            failed.append(loaded)
        else:
            ready.append((wanted, loaded))
    found: list[tuple[MissingAnnotation, Floats]] = []
    vectors = _vectors(embedder, [rgb for _, rgb in ready]) if ready else []
    for (wanted, _), vector in zip(ready, vectors, strict=True):
        if isinstance(vector, str):
            failed.append(_failure(wanted, "not_embedded", vector))
        else:
            found.append((wanted, vector))
    return EmbeddedPhotos(
        tuple(wanted for wanted, _ in found),
        np.stack([vector for _, vector in found])
        if found
        else np.zeros((0, embedder.spec.dim), np.float32),
        tuple(failed),
    )


def _vectors(embedder: Embedder, photos: Sequence[Rgb]) -> list[Floats | str]:
    """A vector or a reason for each photo: all together, or one by one if that fails."""
    try:
        return [_checked(vector) for vector in embedder.embed(photos).vectors]
    except Exception as error:
        if len(photos) == 1:
            return [f"the embedder failed: {error}"]
        alone = [_vectors(embedder, [photo])[0] for photo in photos]
        if len(photos) >= _BROKEN_MIN and all(isinstance(vector, str) for vector in alone):
            raise EmbedderBroken(
                f"The embedder {embedder.spec.name} failed on each of {len(photos)} photos: "
                f"{error}. Run `resight models verify`."
            ) from error
        return alone


def _checked(vector: Floats) -> Floats | str:
    length = float(np.linalg.norm(vector))
    if not np.isfinite(length) or length == 0:
        return f"the embedder gave a vector of length {length}, which has no direction"
    return vector


def _put(session: Session, model_id: int, photos: EmbeddedPhotos, tally: _Tally) -> None:
    written = photos.put(session, model_id)
    tally.embedded += written
    tally.vanished += len(photos.annotations) - written
    tally.failed.extend(photos.failed)
