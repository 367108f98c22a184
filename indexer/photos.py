"""Owns how the bytes of a photo become a file in the store, a media row, and an annotation."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy.orm import Session

from db.queries import media
from db.queries.media import AnnotationRow, MediaRow
from indexer.failpoints import failpoint
from indexer.media import MediaStore
from models.preprocess import BadPhoto, DecodeLimits, decode, dhash64


@dataclass(frozen=True, slots=True)
class PhotoProblem:
    """A photo that was refused: its position in the request (from 0), its name, and why."""

    position: int
    name: str | None
    code: str
    detail: str


class PhotosRefused(Exception):
    """Some photos cannot be added, so none was; `problems` names each of them."""

    def __init__(self, problems: Sequence[PhotoProblem]) -> None:
        self.problems = tuple(problems)
        first = self.problems[0]
        others = f" ({len(self.problems) - 1} more)" if len(self.problems) > 1 else ""
        name = first.name or f"Photo {first.position + 1}"
        super().__init__(f"{name}: {first.detail}{others}. Nothing was added.")


@dataclass(frozen=True, slots=True)
class StoredPhoto:
    """A photo whose file lies in the store, with what its media row holds or will hold."""

    sha256: str
    media_id: int | None
    """None: no row yet."""
    media_type: str
    byte_size: int
    width_px: int
    height_px: int
    taken_at: datetime | None
    perceptual_hash: int | None
    latitude: float | None = None
    longitude: float | None = None
    photographer: str | None = None
    location: str | None = None
    """Where the bytes lie; None: in the store."""
    moved: bool = False
    """The row says that they lie elsewhere."""


@dataclass(frozen=True, slots=True, eq=False)
class ReadPhoto:
    """A photo of a request that could be read: its position in it (from 0), its name as it can be
    stored, its bytes, and what they say."""

    position: int
    name: str | None
    data: bytes
    stored: StoredPhoto


def read_photos(
    photos: Sequence[tuple[str | None, bytes]], limits: DecodeLimits
) -> tuple[list[ReadPhoto], list[PhotoProblem]]:
    """Those that can be read, and why the others cannot; in order, none stored yet."""
    read: list[ReadPhoto] = []
    problems: list[PhotoProblem] = []
    for position, (name, data) in enumerate(photos):
        try:
            read.append(ReadPhoto(position, _storable(name), data, describe(data, limits)))
        except BadPhoto as error:
            problems.append(PhotoProblem(position, name, error.code, error.detail))
    return read, problems


def describe(data: bytes, limits: DecodeLimits) -> StoredPhoto:
    """What a photo's bytes say, whole and decoded.

    Raises:
        BadPhoto: it cannot be read.
    """
    photo = decode(data, limits)
    return StoredPhoto(
        sha256=hashlib.sha256(data).hexdigest(),
        media_id=None,
        media_type=photo.media_type,
        byte_size=len(data),
        width_px=photo.width_px,
        height_px=photo.height_px,
        taken_at=photo.taken_at,
        perceptual_hash=dhash64(photo.rgb),
        latitude=photo.latitude,
        longitude=photo.longitude,
        photographer=photo.photographer,
    )


def of_row(row: MediaRow) -> StoredPhoto:
    """The photo of a row that is there."""
    return StoredPhoto(
        sha256=row.sha256,
        media_id=row.id,
        media_type=row.media_type,
        byte_size=row.byte_size,
        width_px=row.width_px,
        height_px=row.height_px,
        taken_at=row.taken_at,
        perceptual_hash=row.perceptual_hash,
        latitude=row.latitude,
        longitude=row.longitude,
        photographer=row.photographer,
        location=row.location,
    )


def ensure_media(session: Session, stored: StoredPhoto, name: str | None) -> tuple[int, bool]:
    """The media row's id, and whether this call made it."""
    if stored.media_id is not None:
        if stored.moved:
            media.move_media(session, stored.media_id, stored.location)
        return stored.media_id, False
    row = media.ensure_media(
        session,
        sha256=stored.sha256,
        media_type=stored.media_type,
        byte_size=stored.byte_size,
        width_px=stored.width_px,
        height_px=stored.height_px,
        original_name=name,
        taken_at=stored.taken_at,
        perceptual_hash=stored.perceptual_hash,
        location=stored.location,
        latitude=stored.latitude,
        longitude=stored.longitude,
        photographer=stored.photographer,
    )
    return row.id, row.created


def put_photo(session: Session, store: MediaStore, photo: ReadPhoto) -> int:
    """Its file, durable, then its row; the row's id.

    Raises:
        indexer.media.MediaError: `disk_full`.
    """
    store.put(photo.data)
    failpoint("upload.before_row")
    return ensure_media(session, photo.stored, photo.name)[0]


def add_photos(
    session: Session,
    store: MediaStore,
    *,
    catalogue_id: UUID,
    individual_id: UUID | None,
    photos: Sequence[tuple[str | None, bytes]],
    taxon_id: int | None = None,
    encounter_id: UUID | None = None,
    viewpoint: str | None = None,
    limits: DecodeLimits | None = None,
) -> list[AnnotationRow]:
    """Add whole photos (name, bytes) to an individual (None: of nobody that is known) inside the
    caller's transaction.

    One annotation per photo, in order; a photo that this individual has already gives the one it
    has. All or nothing: rows appear with the caller's commit only, and files that stay behind after
    a rollback are swept later.

    Raises:
        PhotosRefused: a photo cannot be read; names all that cannot.
        db.errors.Conflict: `annotation_belongs_to_other`, a photo shows another individual already.
        indexer.media.MediaError: `disk_full`.
    """
    read, problems = read_photos(photos, limits or DecodeLimits())
    if problems:
        raise PhotosRefused(problems)
    added: list[AnnotationRow] = []
    for photo in read:
        annotation, _ = media.ensure_annotation(
            session,
            catalogue_id=catalogue_id,
            media_id=put_photo(session, store, photo),
            individual_id=individual_id,
            encounter_id=encounter_id,
            taxon_id=taxon_id,
            box_px=None,
            viewpoint=viewpoint,
            source_ref=photo.name,
        )
        added.append(annotation)
    failpoint("upload.after_row")
    return added


def _storable(name: str | None) -> str | None:
    """A file name as PostgreSQL's text can hold it: no NUL, no half of a surrogate pair."""
    return name and name.replace("\0", "").encode(errors="replace").decode()
