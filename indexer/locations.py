"""Owns photos that stay where they are: their URIs, which may be imported, how they are read.

A URI is `file:///folder/name` (percent-encoded, as everywhere) or `s3://bucket/key`, `gs://…`,
`az://container/key` with the key as it is, without any encoding.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from obstore.store import ObjectStore

from indexer.object_store import OBJECT_SCHEMES, open_objects, translated
from indexer.originals import MediaError, StoreUnavailable

SCHEMES: Final = ("file", *OBJECT_SCHEMES)
_LIST_PAGE: Final = 1000


@dataclass(frozen=True, slots=True)
class Listed:
    """An object below a prefix: its name relative to that prefix, and its bytes."""

    name: str
    size: int


def is_uri(text: str) -> bool:
    """Whether this is meant as a URI and not as a path."""
    return "://" in text


def require_allowed(uri: str, prefixes: Sequence[str]) -> None:
    """Refuse what lies under none of the allowed prefixes (`file://`, `s3://bucket/folder`).

    Raises:
        MediaError: `bad_location`.
    """
    scheme = uri.partition("://")[0]
    if scheme not in SCHEMES:
        known = ", ".join(f"{one}://" for one in SCHEMES)
        raise MediaError("bad_location", f"Photos can be left at {known}, not at {scheme}://.")
    listed = ", ".join(prefixes) or "nothing"
    if scheme == "file":
        uri = _resolved(uri)
        prefixes = [_resolved(prefix) for prefix in prefixes if prefix.startswith("file:")]
    elif ".." in uri.split("/"):
        raise MediaError("bad_location", f"{uri} leads upwards by `..`; give the place itself.")
    if not any(uri == prefix or uri.startswith(_closed(prefix)) for prefix in prefixes):
        raise MediaError(
            "bad_location",
            f"Photos at {uri} may not be imported: RESIGHT_IMPORT_PREFIXES allows {listed}. "
            f"Add the bucket or folder there if it is trusted.",
        )


def _resolved(uri: str) -> str:
    """Behind links, so that none leads out of what is allowed."""
    return file_of(uri).resolve().as_uri()


def _closed(prefix: str) -> str:
    """So that `s3://photos` does not allow `s3://photos-of-others`."""
    return prefix if prefix.endswith("/") else f"{prefix}/"


def file_of(uri: str) -> Path:
    """The path that a `file:` URI means.

    Raises:
        MediaError: `bad_location`, it is not absolute or names another machine.
    """
    parts = urlsplit(uri)
    path = unquote(parts.path)
    if parts.netloc not in ("", "localhost") or not path.startswith("/") or "\0" in path:
        raise MediaError(
            "bad_location", f"{uri!r} is no file of this machine; write file:///folder/name."
        )
    return Path(path)


class Locations:
    """Reads photos where they lie; one connection pool for each bucket, any number of threads."""

    def __init__(self) -> None:
        self._stores: dict[str, ObjectStore] = {}
        self._lock = threading.Lock()

    def read(self, uri: str, max_bytes: int) -> bytes:
        """The bytes that lie there now.

        Raises:
            MediaError: `media_missing`, or `media_damaged` when there are more than `max_bytes`.
            StoreUnavailable: the store does not answer or refuses us.
        """
        if uri.startswith("file:"):
            return _read_file(uri, max_bytes)
        store, key = self._find(uri)
        with translated(uri):
            try:
                found = store.get(key)
                if found.meta["size"] > max_bytes:
                    raise _too_large(uri, found.meta["size"], max_bytes)
                return bytes(found.bytes())
            except FileNotFoundError as error:
                self._require_bucket(store, uri)
                raise _missing(uri) from error

    def read_same(self, uri: str, sha256: str, max_bytes: int) -> bytes:
        """The bytes there, if they are still those that were imported.

        Raises:
            MediaError: `media_missing`; `media_damaged`, others lie there now.
            StoreUnavailable: as `read`.
        """
        data = self.read(uri, max_bytes)
        if hashlib.sha256(data).hexdigest() != sha256:
            raise MediaError(
                "media_damaged",
                f"What lies at {uri} is not the photo {sha256} any more. Restore the object, or "
                f"import it again as a new photo.",
            )
        return data

    def size(self, uri: str) -> int | None:
        """Bytes that lie there; None where nothing does.

        Raises:
            StoreUnavailable: as `read`.
        """
        if uri.startswith("file:"):
            path = file_of(uri)
            return path.stat().st_size if path.is_file() else None
        store, key = self._find(uri)
        with translated(uri):
            try:
                return store.head(key)["size"]
            except FileNotFoundError:
                self._require_bucket(store, uri)
                return None

    def below(self, uri: str) -> Iterator[Listed]:
        """Objects below a prefix (`s3://bucket/folder`), as the store lists them.

        Raises:
            MediaError: `bad_location`, a name cannot be read.
            StoreUnavailable: as `read`.
        """
        store, prefix = self._find(uri)
        prefix = prefix.rstrip("/")
        cut = len(prefix) + 1 if prefix else 0
        with translated(uri):
            for page in store.list(prefix or None, chunk_size=_LIST_PAGE):
                yield from (Listed(there["path"][cut:], there["size"]) for there in page)

    def _find(self, uri: str) -> tuple[ObjectStore, str]:
        """The store of the bucket, and the key. Not split by a parser: `#` and `?` are letters."""
        scheme, _, rest = uri.partition("://")
        bucket, _, key = rest.partition("/")
        root = f"{scheme}://{bucket}"
        with self._lock:
            if root not in self._stores:
                self._stores[root] = open_objects(root)
            return self._stores[root], key

    def _require_bucket(self, store: ObjectStore, uri: str) -> None:
        """A missing bucket makes every object look missing, though nothing is known of them."""
        with translated(uri):
            next(iter(store.list(chunk_size=1)), None)


def _read_file(uri: str, max_bytes: int) -> bytes:
    path = file_of(uri)
    try:
        if not path.is_file():
            raise _missing(uri)
        size = path.stat().st_size
        if size > max_bytes:
            raise _too_large(uri, size, max_bytes)
        return path.read_bytes()
    except OSError as error:
        raise StoreUnavailable(
            "store_unavailable", f"{uri} cannot be read ({error.strerror or error})."
        ) from error


def _missing(uri: str) -> MediaError:
    return MediaError(
        "media_missing", f"Nothing lies at {uri} any more. Restore it, or import the photo again."
    )


def _too_large(uri: str, size: int, max_bytes: int) -> MediaError:
    return MediaError(
        "media_damaged", f"{uri} has {size:,} bytes, at most {max_bytes:,} are accepted."
    )
