"""Owns the bytes of photos as received, by content: what a store of them promises, and the folder.

A file is durable before its row is written, so a row never lacks its file; a file without a row is
a harmless leftover that a sweep removes. Storage names come from content, never from file names.
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
from itertools import islice
from pathlib import Path
from typing import Final, Protocol

from indexer.failpoints import failpoint

SHA256: Final = re.compile(r"[0-9a-f]{64}")
SWEEP_PAGE: Final = 1000
FULL_DISK: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})

Known = Callable[[Sequence[str]], Collection[str]]
"""Which of some SHA-256 have a row."""


class MediaError(Exception):
    """The store cannot do what was asked. `code` is `media_missing`, `media_damaged`, `disk_full`,
    `not_a_sha256`, `bad_size`, `bad_box`, `bad_media_url` or `bad_location`."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail


class StoreUnavailable(MediaError):
    """The store as a whole does not answer (`store_unavailable`) or refuses our credentials
    (`store_refused`): nothing is said about any photo, and the same may work in a moment."""


class Originals(Protocol):
    """Bytes by their SHA-256; every method may be called by any number of threads and processes.

    Every method may raise `StoreUnavailable`.
    """

    @property
    def place(self) -> str:
        """Where the bytes lie, for people."""
        ...

    def put(self, sha256: str, data: bytes) -> None:
        """Store bytes durably; what is there with the same size is taken as the same, and counts
        as young from now on. Raises `MediaError` `disk_full`, leaving nothing behind."""
        ...

    def size(self, sha256: str) -> int | None:
        """Bytes that are there; None when there are none."""
        ...

    def read(self, sha256: str) -> bytes | None: ...

    def digest(self, sha256: str) -> str | None:
        """The SHA-256 of what is there now."""
        ...

    def path(self, sha256: str) -> Path | None:
        """Where the local file is or would be; None where there are no local files."""
        ...

    def stored(self) -> Iterator[str]:
        """Every SHA-256 that is there, in any order."""
        ...

    def sweep(self, older_than_s: float, known: Known) -> list[int]:
        """Remove what is older and has no row, unless it was put again meanwhile; the sizes."""
        ...

    def set_aside(self, sha256: str) -> bool:
        """Move damaged bytes out of the way, so that the photo can be put again; whether they
        were there."""
        ...


class SafeFolder:
    """A folder whose files appear whole or not at all, and survive a power cut once written."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._tmp = root / "tmp"
        self._tmp.mkdir(parents=True, exist_ok=True)

    def write(self, target: Path, data: bytes) -> None:
        """Raises:
        MediaError: `disk_full`; nothing is left behind, and a later call works again.
        """
        temporary = self._tmp / secrets.token_hex(16)
        try:
            _write_synced(temporary, data)
            make_folder(target.parent)
            temporary.rename(target)
            fsync_folder(target.parent)
        except OSError as error:
            if error.errno in FULL_DISK:
                raise MediaError(
                    "disk_full",
                    f"There is no room for {len(data)} bytes under {self.root} ({error.strerror}). "
                    f"Free some space; nothing was stored.",
                ) from error
            raise
        finally:
            temporary.unlink(missing_ok=True)

    def leftovers(self, older_than_s: float) -> list[Path]:
        """Half-written files that nobody has touched for that long."""
        oldest = time.time() - older_than_s
        return [path for path in sorted(self._tmp.iterdir()) if modified_at(path) <= oldest]

    def remove(self, paths: Iterable[Path], older_than_s: float) -> list[int]:
        """Remove files unless they were touched meanwhile; the size of each that went."""
        sizes: list[int] = []
        for path in paths:
            with self.lock(fcntl.LOCK_EX), suppress(FileNotFoundError):
                state = path.stat()
                if state.st_mtime <= time.time() - older_than_s:
                    path.unlink()
                    sizes.append(state.st_size)
        return sizes

    @contextmanager
    def lock(self, how: int) -> Iterator[None]:
        """Writers share it; a sweep takes it alone for the moment between look and removal."""
        handle = os.open(self.root / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(handle, how)
            yield
        finally:
            os.close(handle)


class FolderOriginals:
    """Originals as files `originals/ab/<sha256>` of a local (or mounted) folder."""

    def __init__(self, folder: SafeFolder) -> None:
        self.folder = folder
        self._root = folder.root / "originals"
        self._root.mkdir(parents=True, exist_ok=True)

    @property
    def place(self) -> str:
        return str(self._root)

    def put(self, sha256: str, data: bytes) -> None:
        target = self.path(sha256)
        with self.folder.lock(fcntl.LOCK_SH):
            if self.size(sha256) == len(data):
                # Young again: a sweep must not take it before its row is written.
                os.utime(target)
                fsync_folder(target.parent)
            else:
                self.folder.write(target, data)
        failpoint("upload.after_fsync")

    def size(self, sha256: str) -> int | None:
        try:
            return self.path(sha256).stat().st_size
        except FileNotFoundError:
            return None

    def read(self, sha256: str) -> bytes | None:
        try:
            return self.path(sha256).read_bytes()
        except FileNotFoundError:
            return None

    def digest(self, sha256: str) -> str | None:
        try:
            with self.path(sha256).open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        except FileNotFoundError:
            return None

    def path(self, sha256: str) -> Path:
        return self._root / sha256[:2] / sha256

    def stored(self) -> Iterator[str]:
        for folder in sorted(self._root.iterdir()):
            for name in sorted(os.listdir(folder)) if folder.is_dir() else ():
                if SHA256.fullmatch(name):
                    yield name

    def sweep(self, older_than_s: float, known: Known) -> list[int]:
        return self.folder.remove(self._old_orphans(older_than_s, known), older_than_s)

    def set_aside(self, sha256: str) -> bool:
        aside = self.folder.root / "damaged"
        make_folder(aside)
        with self.folder.lock(fcntl.LOCK_EX):
            try:
                self.path(sha256).rename(aside / sha256)
            except FileNotFoundError:
                return False
        fsync_folder(aside)
        return True

    def _old_orphans(self, older_than_s: float, known: Known) -> Iterator[Path]:
        oldest = time.time() - older_than_s
        names = self.stored()
        while page := list(islice(names, SWEEP_PAGE)):
            old = [sha256 for sha256 in page if modified_at(self.path(sha256)) <= oldest]
            with_row = set(known(old)) if old else set()
            yield from (self.path(sha256) for sha256 in old if sha256 not in with_row)


def modified_at(path: Path) -> float:
    """Seconds since the epoch; now for a file that has just gone, so that it counts as young."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return time.time()


def make_folder(folder: Path) -> None:
    """Make a folder so that its own name survives a power cut too."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    fsync_folder(folder.parent)


def fsync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _write_synced(path: Path, data: bytes) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    with open(handle, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
