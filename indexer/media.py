"""Owns the photo files: originals in a folder or an object store, and the pictures made from them.

Originals are content-addressed and durable before their row is written; photos that were imported
without copying are read where they lie. Derived pictures are cached in a local folder.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, get_args

from sqlalchemy.orm import Session, sessionmaker

from db.queries import media as rows
from indexer.locations import Locations, file_of
from indexer.object_store import ObjectOriginals, open_objects
from indexer.originals import (
    SHA256,
    FolderOriginals,
    Known,
    MediaError,
    Originals,
    SafeFolder,
    StoreUnavailable,
)
from models.preprocess import BadPhoto, DecodeLimits, Rgb, crop, decode, thumbnail_jpeg

__all__ = ["DerivedKind", "MediaError", "MediaStore", "StoreUnavailable", "Swept", "open_media"]

DerivedKind = Literal["thumb", "view", "crop"]

DEFAULT_SIZE_PX: Final[dict[DerivedKind, int]] = {"thumb": 320, "view": 1280, "crop": 640}
SIZE_STEPS_PX: Final = (64, 128, 256, 320, 512, 640, 1024, 1280, 1600, 2048)
"""A wanted size is raised to the next of these, so that nobody can fill the disk with sizes."""

Locate = Callable[[str], str | None]
"""Where the bytes of a SHA-256 were left, if they were not put into the store."""


@dataclass(frozen=True, slots=True)
class Swept:
    """What a sweep removed: half-written files, originals without a row, and their bytes.

    An object store keeps what was swept until the next sweep (see `ObjectOriginals`)."""

    temporary: int
    orphans: int
    freed_bytes: int


class MediaStore:
    """Photos by their SHA-256, safe for any number of threads and processes at once.

    Under `root` lie `derived/<kind>/ab/…jpg`, what is made from originals (deletable at any time),
    `tmp/`, what is being written, and by default the originals as `originals/ab/<sha256>`.
    Every method may raise `StoreUnavailable` where originals or locations are not local.
    """

    def __init__(
        self,
        root: Path,
        limits: DecodeLimits | None = None,
        *,
        originals: Originals | None = None,
        locate: Locate | None = None,
    ) -> None:
        self.root = root
        self.locations = Locations()
        self._limits = limits or DecodeLimits()
        self._cache = SafeFolder(root)
        self._derived = root / "derived"
        self._originals = originals or FolderOriginals(self._cache)
        self._locate = locate

    @property
    def place(self) -> str:
        """Where originals lie, for people."""
        return self._originals.place

    @property
    def is_local(self) -> bool:
        """Whether originals are files, and reading one is no journey."""
        return isinstance(self._originals, FolderOriginals)

    def put(self, data: bytes) -> str:
        """Store bytes and answer their SHA-256; on return they survive a power cut. Idempotent.

        Raises:
            MediaError: `disk_full`; nothing is left behind, and a later call works again.
        """
        sha256 = hashlib.sha256(data).hexdigest()
        self._originals.put(sha256, data)
        return sha256

    def path(self, sha256: str) -> Path | None:
        """Where the original lies, or would lie, as a local file; None in an object store.

        Raises:
            MediaError: `not_a_sha256`.
        """
        return self._originals.path(_checked(sha256))

    def has(self, sha256: str) -> bool:
        """Whether the store itself has the original, wherever else it may lie."""
        return self._originals.size(_checked(sha256)) is not None

    def size(self, sha256: str, location: str | None = None) -> int | None:
        """Bytes of the original, in the store or at its location; None where it is gone."""
        if location is not None:
            return self.locations.size(location)
        return self._originals.size(_checked(sha256))

    def read(self, sha256: str, location: str | None = None) -> bytes:
        """The bytes as received.

        `location` is where the photo's row says that they were left; without it that is looked up
        when the store does not have them.

        Raises:
            MediaError: `media_missing`; `media_damaged`, something else lies at the location.
        """
        data = self._originals.read(_checked(sha256))
        if data is not None:
            return data
        if location is None and self._locate is not None:
            location = self._locate(sha256)
        if location is not None:
            return self.locations.read_same(location, sha256, self._limits.max_bytes)
        raise MediaError(
            "media_missing",
            f"The file of photo {sha256} is gone from {self.place}. "
            f"Restore it from a backup, or import the photo again.",
        )

    def verify(self, sha256: str, location: str | None = None) -> bool:
        """Whether the original is there and still hashes to its name."""
        if location is None:
            return self._originals.digest(_checked(sha256)) == sha256
        try:
            self.locations.read_same(location, _checked(sha256), self._limits.max_bytes)
        except StoreUnavailable:
            raise
        except MediaError:
            return False
        return True

    def set_aside(self, sha256: str) -> bool:
        """Move a damaged original to `damaged/`, so that the photo counts as missing and can be
        put again; whether it was there."""
        return self._originals.set_aside(_checked(sha256))

    def derived(
        self,
        sha256: str,
        kind: DerivedKind,
        size_px: int | None = None,
        box_px: tuple[int, int, int, int] | None = None,
        location: str | None = None,
    ) -> Path:
        """A JPEG made from an original: turned upright, no EXIF, cached; `location` as in `read`.

        `size_px` bounds the longer side and is raised to the next of `SIZE_STEPS_PX`; `box_px` is
        (x, y, width, height) in the upright photo and cuts it first.

        Raises:
            MediaError: `media_missing`, `media_damaged` (it no longer decodes), `bad_size`,
                `bad_box`, `disk_full`.
        """
        target = self._derived_path(sha256, kind, size_px, box_px)
        if not target.is_file():
            rgb = self._decoded(sha256, location)
            if box_px is not None:
                rgb = _cut(rgb, box_px)
            self._cache.write(target, thumbnail_jpeg(rgb, _step(kind, size_px)))
        return target

    def stored(self) -> Iterator[str]:
        """The SHA-256 of every original that lies in the store, in any order."""
        return self._originals.stored()

    def leftovers(self, older_than_s: float = 0.0) -> list[Path]:
        """Half-written files that nobody has touched for that long."""
        return [path for folder in self._folders() for path in folder.leftovers(older_than_s)]

    def sweep(self, older_than_s: float = 86_400.0, known: Known | None = None) -> Swept:
        """Remove half-written files, and originals without a row, older than `older_than_s`.

        `known` answers which of some SHA-256 have a row; without it originals are left alone. The
        age must exceed the longest transaction that stores photos: a photo being added has its file
        before its row.
        """
        temporary = [
            size
            for folder in self._folders()
            for size in folder.remove(folder.leftovers(older_than_s), older_than_s)
        ]
        orphans = self._originals.sweep(older_than_s, known) if known else []
        return Swept(len(temporary), len(orphans), sum(temporary) + sum(orphans))

    def _folders(self) -> list[SafeFolder]:
        """Folders of this machine in which files are written."""
        if (
            isinstance(self._originals, FolderOriginals)
            and self._originals.folder is not self._cache
        ):
            return [self._cache, self._originals.folder]
        return [self._cache]

    def _decoded(self, sha256: str, location: str | None) -> Rgb:
        try:
            return decode(self.read(sha256, location), self._limits).rgb
        except BadPhoto as error:
            raise MediaError(
                "media_damaged",
                f"Photo {sha256} no longer decodes ({error.detail}). "
                f"Run `resight doctor` and restore its file from a backup.",
            ) from error

    def _derived_path(
        self,
        sha256: str,
        kind: DerivedKind,
        size_px: int | None,
        box_px: tuple[int, int, int, int] | None,
    ) -> Path:
        if kind not in get_args(DerivedKind):
            raise MediaError("bad_size", f"{kind!r} is none of {', '.join(get_args(DerivedKind))}.")
        name = _checked(sha256)
        box = "" if box_px is None else "_" + "x".join(map(str, box_px))
        return self._derived / kind / sha256[:2] / f"{name}_{_step(kind, size_px)}{box}.jpg"


def open_media(
    root: Path,
    url: str | None = None,
    *,
    sessions: sessionmaker[Session] | None = None,
    limits: DecodeLimits | None = None,
) -> MediaStore:
    """The store whose originals lie at `url`, by default under `root`, with its cache under `root`.

    `url` is `file:///folder` or an object store (see `open_objects`). With `sessions` photos that
    were imported without copying are found by their row.

    Raises:
        MediaError: `bad_media_url` or `bad_location`, the URL names no store.
        StoreUnavailable: what the environment says about the store does not suffice.
    """
    return MediaStore(root, limits, originals=_originals(url), locate=_located_by(sessions))


def _originals(url: str | None) -> Originals | None:
    if url is None:
        return None
    if url.startswith("file:"):
        return FolderOriginals(SafeFolder(file_of(url)))
    return ObjectOriginals(open_objects(url), url)


def _located_by(sessions: sessionmaker[Session] | None) -> Locate | None:
    if sessions is None:
        return None

    def locate(sha256: str) -> str | None:
        with sessions() as session:
            row = rows.find_media(session, sha256)
        return None if row is None else row.location

    return locate


def _checked(sha256: str) -> str:
    if SHA256.fullmatch(sha256) is None:
        raise MediaError("not_a_sha256", f"{sha256!r} is no SHA-256 of 64 hexadecimal digits.")
    return sha256


def _step(kind: DerivedKind, size_px: int | None) -> int:
    wanted = DEFAULT_SIZE_PX[kind] if size_px is None else size_px
    if wanted < 1:
        raise MediaError(
            "bad_size", f"A picture cannot be {wanted} pixels long; ask for 1 or more."
        )
    return next((step for step in SIZE_STEPS_PX if step >= wanted), SIZE_STEPS_PX[-1])


def _cut(rgb: Rgb, box_px: tuple[int, int, int, int]) -> Rgb:
    try:
        return crop(rgb, box_px)
    except ValueError as error:
        raise MediaError("bad_box", f"{error}.") from error
