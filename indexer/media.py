"""Owns the photo files: content-addressed originals, and the small pictures derived from them.

A file is durable before its row is written, so a row never lacks its file; a file without a row is
a harmless leftover that `sweep` removes. Storage names come from content, never from file names.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import re
import secrets
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final, Literal, get_args

from models.preprocess import BadPhoto, DecodeLimits, Rgb, crop, decode, thumbnail_jpeg

DerivedKind = Literal["thumb", "view", "crop"]

DEFAULT_SIZE_PX: Final[dict[DerivedKind, int]] = {"thumb": 320, "view": 1280, "crop": 640}
SIZE_STEPS_PX: Final = (64, 128, 256, 320, 512, 640, 1024, 1280, 1600, 2048)
"""A wanted size is raised to the next of these, so that nobody can fill the disk with sizes."""

_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_FULL_DISK: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_SWEEP_PAGE: Final = 1000


class MediaError(Exception):
    """The store cannot do what was asked. `code` is `media_missing`, `disk_full`,
    `not_a_sha256`, `bad_size`, `bad_box` or `media_damaged`."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail


@dataclass(frozen=True, slots=True)
class Swept:
    """What a sweep removed: half-written files, originals without a row, and their bytes."""

    temporary: int
    orphans: int
    freed_bytes: int


class MediaStore:
    """Photos under one folder, safe for any number of threads and processes at once.

    `originals/ab/<sha256>` holds the bytes as received, `derived/<kind>/ab/…jpg` what is made from
    them (deletable at any time), `tmp/` what is being written.
    """

    def __init__(self, root: Path, limits: DecodeLimits | None = None) -> None:
        self.root = root
        self._limits = limits or DecodeLimits()
        self._originals = root / "originals"
        self._derived = root / "derived"
        self._tmp = root / "tmp"
        for folder in (self._originals, self._derived, self._tmp):
            folder.mkdir(parents=True, exist_ok=True)

    def put(self, data: bytes) -> str:
        """Store bytes and answer their SHA-256; on return they survive a power cut. Idempotent.

        Raises:
            MediaError: `disk_full`; nothing is left behind, and a later call works again.
        """
        sha256 = hashlib.sha256(data).hexdigest()
        target = self.path(sha256)
        with self._lock(fcntl.LOCK_SH):
            if _has_size(target, len(data)):
                # Young again: a sweep must not take it before its row is written.
                os.utime(target)
                _fsync_folder(target.parent)
            else:
                self._write(target, data)
        return sha256

    def path(self, sha256: str) -> Path:
        """Where the original lies, or would lie.

        Raises:
            MediaError: `not_a_sha256`.
        """
        if _SHA256.fullmatch(sha256) is None:
            raise MediaError("not_a_sha256", f"{sha256!r} is no SHA-256 of 64 hexadecimal digits.")
        return self._originals / sha256[:2] / sha256

    def has(self, sha256: str) -> bool:
        return self.path(sha256).is_file()

    def read(self, sha256: str) -> bytes:
        """The bytes as received.

        Raises:
            MediaError: `media_missing`.
        """
        try:
            return self.path(sha256).read_bytes()
        except FileNotFoundError as error:
            raise MediaError(
                "media_missing",
                f"The file of photo {sha256} is gone from {self._originals}. "
                f"Restore it from a backup, or import the photo again.",
            ) from error

    def verify(self, sha256: str) -> bool:
        """Whether the original is there and still hashes to its name."""
        try:
            with self.path(sha256).open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest() == sha256
        except FileNotFoundError:
            return False

    def derived(
        self,
        sha256: str,
        kind: DerivedKind,
        size_px: int | None = None,
        box_px: tuple[int, int, int, int] | None = None,
    ) -> Path:
        """A JPEG made from an original: turned upright, no EXIF, cached.

        `size_px` bounds the longer side and is raised to the next of `SIZE_STEPS_PX`; `box_px` is
        (x, y, width, height) in the upright photo and cuts it first.

        Raises:
            MediaError: `media_missing`, `media_damaged` (it no longer decodes), `bad_size`,
                `bad_box`, `disk_full`.
        """
        target = self._derived_path(sha256, kind, size_px, box_px)
        if not target.is_file():
            rgb = self._decoded(sha256)
            if box_px is not None:
                rgb = _cut(rgb, box_px)
            self._write(target, thumbnail_jpeg(rgb, _step(kind, size_px)))
        return target

    def stored(self) -> Iterator[str]:
        """The SHA-256 of every original that lies in the store, ascending."""
        for folder in sorted(self._originals.iterdir()):
            for name in sorted(os.listdir(folder)) if folder.is_dir() else ():
                if _SHA256.fullmatch(name):
                    yield name

    def leftovers(self, older_than_s: float = 0.0) -> list[Path]:
        """Half-written files that nobody has touched for that long."""
        oldest = time.time() - older_than_s
        return [path for path in sorted(self._tmp.iterdir()) if _modified_at(path) <= oldest]

    def sweep(
        self,
        older_than_s: float = 86_400.0,
        known: Callable[[Sequence[str]], Collection[str]] | None = None,
    ) -> Swept:
        """Remove half-written files, and originals without a row, older than `older_than_s`.

        `known` answers which of some SHA-256 have a row; without it originals are left alone. The
        age must exceed the longest transaction that stores photos: a photo being added has its file
        before its row.
        """
        temporary = self._remove(self.leftovers(older_than_s), older_than_s)
        orphans = (
            self._remove(self._old_orphans(known, older_than_s), older_than_s) if known else []
        )
        return Swept(len(temporary), len(orphans), sum(temporary) + sum(orphans))

    def _old_orphans(
        self, known: Callable[[Sequence[str]], Collection[str]], older_than_s: float
    ) -> Iterator[Path]:
        oldest = time.time() - older_than_s
        names = self.stored()
        while page := list(islice(names, _SWEEP_PAGE)):
            old = [sha256 for sha256 in page if _modified_at(self.path(sha256)) <= oldest]
            with_row = set(known(old)) if old else set()
            yield from (self.path(sha256) for sha256 in old if sha256 not in with_row)

    def _remove(self, paths: Iterable[Path], older_than_s: float) -> list[int]:
        """Remove files unless they were touched meanwhile; the size of each that went."""
        sizes: list[int] = []
        for path in paths:
            with self._lock(fcntl.LOCK_EX), suppress(FileNotFoundError):
                state = path.stat()
                if state.st_mtime <= time.time() - older_than_s:
                    path.unlink()
                    sizes.append(state.st_size)
        return sizes

    def _decoded(self, sha256: str) -> Rgb:
        try:
            return decode(self.read(sha256), self._limits).rgb
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
        name = self.path(sha256).name
        box = "" if box_px is None else "_" + "x".join(map(str, box_px))
        return self._derived / kind / sha256[:2] / f"{name}_{_step(kind, size_px)}{box}.jpg"

    def _write(self, target: Path, data: bytes) -> None:
        temporary = self._tmp / secrets.token_hex(16)
        try:
            _write_synced(temporary, data)
            _make_folder(target.parent)
            temporary.rename(target)
            _fsync_folder(target.parent)
        except OSError as error:
            if error.errno in _FULL_DISK:
                raise MediaError(
                    "disk_full",
                    f"There is no room for {len(data)} bytes under {self.root} ({error.strerror}). "
                    f"Free some space; nothing was stored.",
                ) from error
            raise
        finally:
            temporary.unlink(missing_ok=True)

    @contextmanager
    def _lock(self, how: int) -> Iterator[None]:
        """Writers share it; a sweep takes it alone for the moment between look and removal."""
        handle = os.open(self.root / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(handle, how)
            yield
        finally:
            os.close(handle)


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


def _has_size(path: Path, size: int) -> bool:
    try:
        return path.stat().st_size == size
    except FileNotFoundError:
        return False


def _modified_at(path: Path) -> float:
    """Seconds since the epoch; now for a file that has just gone, so that it counts as young."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return time.time()


def _write_synced(path: Path, data: bytes) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    with open(handle, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _make_folder(folder: Path) -> None:
    """Make a folder so that its own name survives a power cut too."""
    if folder.is_dir():
        return
    _make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    _fsync_folder(folder.parent)


def _fsync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
