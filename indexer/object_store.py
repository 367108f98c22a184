"""Owns the way to object stores (S3, GCS, Azure): opening, errors in our words, originals in one.

Credentials come from the environment as obstore reads them (AWS_*, GOOGLE_*, AZURE_*).
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    InvalidPathError,
    PermissionDeniedError,
    UnauthenticatedError,
)
from obstore.store import MemoryStore, ObjectStore, from_url

from indexer.failpoints import failpoint
from indexer.originals import SHA256, SWEEP_PAGE, Known, MediaError, StoreUnavailable

if TYPE_CHECKING:
    from obstore import ObjectMeta

OBJECT_SCHEMES: Final = ("s3", "gs", "az")
_RETRIES: Final = 3
_RETRY_FOR: Final = timedelta(seconds=20)
_YOUNG_S: Final = 3600.0
"""What was put within this time needs no renewal; a sweep takes nothing that is younger by far."""
_NO_BUCKET: Final = re.compile(r"NoSuchBucket|ContainerNotFound|bucket does not exist")
_REFUSED: Final = re.compile(r"\b40[13] (Unauthorized|Forbidden)")
_NO_ROOM: Final = re.compile(
    r"\b507 Insufficient|QuotaExceeded|StorageFull|os error 28\b|os error 122\b"
)


def open_objects(url: str) -> ObjectStore:
    """The store behind `s3://bucket[/prefix]`, `gs://…`, `az://container[/prefix]` or `memory://`.

    Requests are tried again for some seconds, no longer: who waits for a page learns that the store
    is away. Nothing is asked of the store yet.

    Raises:
        MediaError: `bad_media_url`, the URL names no object store or carries credentials.
        StoreUnavailable: what the environment says about the store does not suffice.
    """
    parts = urlsplit(url)
    if parts.scheme == "memory":
        return MemoryStore()
    if parts.scheme not in OBJECT_SCHEMES or not parts.netloc or "@" in parts.netloc:
        known = ", ".join(f"{scheme}://bucket/prefix" for scheme in OBJECT_SCHEMES)
        raise MediaError(
            "bad_media_url",
            f"{_without_secrets(url)!r} names no object store. Give {known}; credentials belong "
            f"into the environment.",
        )
    with translated(url):
        return from_url(
            url,
            retry_config={
                "max_retries": _RETRIES,
                "retry_timeout": _RETRY_FOR,
                "backoff": {"max_backoff": timedelta(seconds=2)},
            },
        )


@contextmanager
def translated(place: str) -> Iterator[None]:
    """Errors of a store as `MediaError`; a missing object stays `FileNotFoundError`.

    Raises:
        MediaError: `disk_full`, or `bad_location` for a name that no store can hold.
        StoreUnavailable: the store, or its bucket, cannot be reached or refuses us.
    """
    try:
        yield
    except FileNotFoundError as error:
        if _NO_BUCKET.search(str(error)) is None:
            raise
        raise StoreUnavailable(
            "store_unavailable", f"There is no bucket or container for {place}. Check the name."
        ) from error
    except (PermissionDeniedError, UnauthenticatedError) as error:
        raise _refused(place, error) from error
    except (InvalidPathError, ValueError) as error:
        raise MediaError(
            "bad_location", f"{place} has a name that cannot be read ({_reason(error)}). Rename it."
        ) from error
    except BaseError as error:
        if _REFUSED.search(str(error)):
            raise _refused(place, error) from error
        if _NO_ROOM.search(str(error)):
            raise MediaError(
                "disk_full", f"There is no room left in {place} ({_reason(error)})."
            ) from error
        raise StoreUnavailable(
            "store_unavailable", f"{place} does not answer as it should ({_reason(error)})."
        ) from error


def _refused(place: str, error: Exception) -> StoreUnavailable:
    return StoreUnavailable(
        "store_refused",
        f"{place} refuses our credentials ({_reason(error)}). Check the environment of this "
        f"process, and what its account may do.",
    )


def _reason(error: Exception) -> str:
    """The first line; what follows is the library's own debugging."""
    return str(error).strip().split("\n", 1)[0][:300]


def _without_secrets(url: str) -> str:
    return re.sub(r"//[^/@]*@", "//…@", url)


class ObjectOriginals:
    """Originals as objects `originals/ab/<sha256>`; each appears whole or not at all.

    No lock reaches over several machines. Therefore a sweep only moves orphans to `swept/`, where
    they can still be read, and the sweep after brings back those that have got a row meanwhile.
    """

    def __init__(self, store: ObjectStore, place: str) -> None:
        self._store = store
        self._place = place

    @property
    def place(self) -> str:
        return self._place

    def put(self, sha256: str, data: bytes) -> None:
        key = _key("originals", sha256)
        with translated(self._place):
            try:
                self._store.put(key, data, mode="create", use_multipart=False)
            except (AlreadyExistsError, NotImplementedError):
                there = self._head(key)
                if there is None or there["size"] != len(data) or not _is_young(there):
                    self._store.put(key, data, use_multipart=False)
        failpoint("upload.after_fsync")

    def size(self, sha256: str) -> int | None:
        with translated(self._place):
            there = self._head(_key("originals", sha256))
        return None if there is None else there["size"]

    def read(self, sha256: str) -> bytes | None:
        for folder in ("originals", "swept"):
            with translated(self._place):
                try:
                    return bytes(self._store.get(_key(folder, sha256)).bytes())
                except FileNotFoundError as error:
                    if _NO_BUCKET.search(str(error)):
                        raise
        return None

    def digest(self, sha256: str) -> str | None:
        found = hashlib.sha256()
        with translated(self._place):
            try:
                for part in self._store.get(_key("originals", sha256)).stream():
                    found.update(part)
            except FileNotFoundError as error:
                if _NO_BUCKET.search(str(error)):
                    raise
                return None
        return found.hexdigest()

    def path(self, _sha256: str) -> Path | None:
        return None

    def stored(self) -> Iterator[str]:
        for page in self._pages("originals"):
            yield from page

    def sweep(self, older_than_s: float, known: Known) -> list[int]:
        oldest = self._now() - timedelta(seconds=older_than_s)
        for page in self._pages("swept"):
            with_row = set(known(list(page)))
            for sha256, there in page.items():
                if sha256 in with_row:
                    self._move("swept", "originals", sha256)
                elif there["last_modified"] <= oldest:
                    self._delete(_key("swept", sha256))
        sizes: list[int] = []
        for page in self._pages("originals"):
            old = [sha256 for sha256, there in page.items() if there["last_modified"] <= oldest]
            with_row = set(known(old)) if old else set()
            for sha256 in old:
                if sha256 not in with_row and self._is_unchanged(page[sha256]):
                    self._move("originals", "swept", sha256)
                    sizes.append(page[sha256]["size"])
        return sizes

    def set_aside(self, sha256: str) -> bool:
        return self._move("originals", "damaged", sha256)

    def _now(self) -> datetime:
        """The store's own clock: that of this machine may be a day off."""
        with translated(self._place):
            self._store.put("clock", b"", use_multipart=False)
            return self._store.head("clock")["last_modified"]

    def _pages(self, folder: str) -> Iterator[dict[str, ObjectMeta]]:
        with translated(self._place):
            for page in self._store.list(folder, chunk_size=SWEEP_PAGE):
                named = {there["path"].rpartition("/")[2]: there for there in page}
                yield {name: there for name, there in named.items() if SHA256.fullmatch(name)}

    def _is_unchanged(self, seen: ObjectMeta) -> bool:
        with translated(self._place):
            there = self._head(seen["path"])
        if there is None:
            return False
        # A listing may tell the time more finely than the object itself does.
        times = [one["last_modified"].replace(microsecond=0) for one in (there, seen)]
        return times[0] == times[1]

    def _move(self, source: str, target: str, sha256: str) -> bool:
        with translated(self._place):
            try:
                self._store.copy(_key(source, sha256), _key(target, sha256))
            except FileNotFoundError:
                return False
        self._delete(_key(source, sha256))
        return True

    def _delete(self, key: str) -> None:
        with translated(self._place):
            try:
                self._store.delete(key)
            except FileNotFoundError:
                return

    def _head(self, key: str) -> ObjectMeta | None:
        try:
            return self._store.head(key)
        except FileNotFoundError:
            return None


def _key(folder: str, sha256: str) -> str:
    return f"{folder}/{sha256[:2]}/{sha256}"


def _is_young(there: ObjectMeta) -> bool:
    """By this machine's clock; a wrong one costs an upload, and a sweep forgives it."""
    return abs(time.time() - there["last_modified"].timestamp()) < _YOUNG_S
