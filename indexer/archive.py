"""Owns the reading of ZIP files that strangers send: nothing in one can cost more than its limits.

Limits are checked from the directory before anything is unpacked, and again while unpacking,
because a directory can lie. Nothing is written to disk under a name from inside an archive.
"""

from __future__ import annotations

import io
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

_READ_CHUNK: Final = 64 * 1024
_RATIO_FREE_BYTES: Final = 1024 * 1024
_DIRECTORY_BYTES_PER_ENTRY: Final = 1024
_EOCD: Final = struct.Struct("<4s4H2LH")
_EOCD64: Final = struct.Struct("<4sQ2H2L4Q")
_EOCD64_LOCATOR: Final = struct.Struct("<4sLQL")
_ZIP_MAGIC: Final = (b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08")
_FLAG_ENCRYPTED: Final = 0x1
_FLAG_STRONG_ENCRYPTION: Final = 0x40
# bzip2 and LZMA are left out: the standard library unpacks a whole block of them at once, so that
# a few kilobytes could claim gigabytes of memory before any limit is looked at.
_COMPRESSION: Final = {zipfile.ZIP_STORED: "stored", zipfile.ZIP_DEFLATED: "deflate"}
_SYSTEM_NAMES: Final = frozenset({".ds_store", "thumbs.db", "desktop.ini"})


@dataclass(frozen=True, slots=True)
class Skip:
    """One input that was left out: which one, a stable code, and a sentence for a person."""

    entry: str
    code: str
    detail: str


@dataclass(frozen=True, slots=True)
class ZipEntry:
    """One file of an archive: its bytes, or why it was left out. Exactly one of the two is set."""

    name: str
    data: bytes | None
    error: Skip | None


@dataclass(frozen=True, slots=True)
class ZipLimits:
    """What one archive may cost; sizes are in bytes after unpacking."""

    max_entries: int = 10_000
    max_entry_bytes: int = 25 * 2**20
    max_total_bytes: int = 4 * 2**30
    max_ratio: int = 200
    """Unpacked to packed size; entries of up to 1 MiB are exempt (a blank drawing packs well)."""


class BadArchive(Exception):
    """The archive as a whole is refused.

    `code` is one of `empty`, `not_a_zip`, `broken_zip`, `split_zip`, `too_many_entries`,
    `directory_too_large`, `total_too_large`, `compression_ratio`; `detail` is a sentence with the
    values and the limit.
    """

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail


def is_system_file(name: str) -> bool:
    """Whether a file is what an operating system leaves behind, never a photo that a person meant.

    True for everything under `__MACOSX/`, for AppleDouble files (`._x.jpg`), `.DS_Store`,
    `Thumbs.db` and `desktop.ini`.
    """
    parts = name.replace("\\", "/").split("/")
    return "__MACOSX" in parts or parts[-1].startswith("._") or parts[-1].lower() in _SYSTEM_NAMES


def escapes(name: str) -> bool:
    """Whether a name is absolute, names a drive, or climbs with `..`, in POSIX or Windows form."""
    plain = name.replace("\\", "/")
    return (
        plain.startswith("/")
        or re.match(r"[A-Za-z]:", plain) is not None
        or ".." in plain.split("/")
    )


def read_zip(source: bytes | Path, limits: ZipLimits | None = None) -> Iterator[ZipEntry]:
    """The files of an archive, in the order of its directory, each exactly once.

    Folders yield nothing; every other entry yields one item, with bytes or with a `Skip` whose code
    is one of `system_file`, `unsafe_name`, `symlink`, `encrypted`, `duplicate_name`,
    `unsupported_compression`, `too_large_bytes`, `compression_ratio`, `nested_archive`,
    `broken_entry`, `total_too_large`. Only one entry is held in memory at a time.

    Raises:
        BadArchive: at the call, before the first item, when the archive as a whole is refused.
        OSError: `source` is a path that cannot be read.
    """
    limits = limits or ZipLimits()
    stream: IO[bytes] = io.BytesIO(source) if isinstance(source, bytes) else source.open("rb")
    try:
        _check_directory(stream, limits)
        archive = _open(stream)
        _check_totals(archive, limits)
    except BaseException:
        stream.close()
        raise
    return _entries(stream, archive, limits)


def _check_directory(stream: IO[bytes], limits: ZipLimits) -> None:
    """Refuse by what the end record says, before the directory itself is parsed."""
    size = stream.seek(0, io.SEEK_END)
    if size == 0:
        raise BadArchive("empty", "The archive has 0 bytes. Send a ZIP file with photos in it.")
    tail_start = max(0, size - _EOCD.size - 0xFFFF)
    stream.seek(tail_start)
    tail = stream.read()
    at = tail.rfind(b"PK\x05\x06")
    if at < 0 or len(tail) - at < _EOCD.size:
        raise _not_a_zip(stream)
    _, disk, first_disk, _, count, directory_bytes, _, _ = _EOCD.unpack_from(tail, at)
    if count == 0xFFFF or directory_bytes == 0xFFFFFFFF:
        count, directory_bytes = _zip64_counts(stream, tail_start + at) or (count, directory_bytes)
    elif disk or first_disk:
        raise BadArchive("split_zip", "The archive is one part of several. Join the parts first.")
    if count > limits.max_entries:
        raise _too_many(count, limits)
    if directory_bytes > limits.max_entries * _DIRECTORY_BYTES_PER_ENTRY:
        raise BadArchive(
            "directory_too_large",
            f"The archive's directory has {directory_bytes} bytes, more than {limits.max_entries} "
            f"entries need. Split the archive.",
        )


def _not_a_zip(stream: IO[bytes]) -> BadArchive:
    stream.seek(0)
    if stream.read(4) in _ZIP_MAGIC:
        return BadArchive(
            "broken_zip", "The archive ends before its directory: it is cut off. Send it again."
        )
    return BadArchive("not_a_zip", "These bytes are no ZIP file. Send photos packed as .zip.")


def _zip64_counts(stream: IO[bytes], eocd_at: int) -> tuple[int, int] | None:
    """Entries and directory bytes of the ZIP64 end record, if there is one."""
    if eocd_at < _EOCD64_LOCATOR.size:
        return None
    stream.seek(eocd_at - _EOCD64_LOCATOR.size)
    magic, _, record_at, _ = _EOCD64_LOCATOR.unpack(stream.read(_EOCD64_LOCATOR.size))
    if magic != b"PK\x06\x07" or record_at > eocd_at:
        return None
    stream.seek(record_at)
    record = stream.read(_EOCD64.size)
    if len(record) < _EOCD64.size or record[:4] != b"PK\x06\x06":
        return None
    fields = _EOCD64.unpack(record)
    return fields[7], fields[8]


def _open(stream: IO[bytes]) -> zipfile.ZipFile:
    stream.seek(0)
    try:
        return zipfile.ZipFile(stream)
    except (zipfile.BadZipFile, ValueError, NotImplementedError, struct.error, OSError) as error:
        raise BadArchive(
            "broken_zip", f"The archive's directory cannot be read ({error}). Pack it again."
        ) from error


def _check_totals(archive: zipfile.ZipFile, limits: ZipLimits) -> None:
    infos = archive.infolist()
    # Again, from the directory itself: the end record's count is only a claim.
    if len(infos) > limits.max_entries:
        raise _too_many(len(infos), limits)
    total = sum(info.file_size for info in infos)
    if total > limits.max_total_bytes:
        raise BadArchive(
            "total_too_large",
            f"The archive unpacks to {total} bytes, the limit is {limits.max_total_bytes}. "
            f"Split the archive.",
        )
    packed = sum(info.compress_size for info in infos)
    if total > limits.max_entry_bytes and total > packed * limits.max_ratio:
        raise BadArchive(
            "compression_ratio",
            f"The archive unpacks from {packed} to {total} bytes, more than {limits.max_ratio} "
            f"times: it is not an archive of photos.",
        )


def _too_many(count: int, limits: ZipLimits) -> BadArchive:
    return BadArchive(
        "too_many_entries",
        f"The archive has {count} entries, the limit is {limits.max_entries}. Split the archive.",
    )


def _entries(stream: IO[bytes], archive: zipfile.ZipFile, limits: ZipLimits) -> Iterator[ZipEntry]:
    seen: set[str] = set()
    spent = 0
    with stream, archive:
        for info in archive.infolist():
            if info.is_dir():
                continue
            item = _entry(archive, info, seen, limits, limits.max_total_bytes - spent)
            seen.add(info.filename)
            spent += len(item.data or b"")
            yield item


def _entry(
    archive: zipfile.ZipFile, info: zipfile.ZipInfo, seen: set[str], limits: ZipLimits, left: int
) -> ZipEntry:
    refusal = _refusal(info, seen, limits)
    if refusal is None:
        data, refusal = _unpack(archive, info, limits, left)
        if data is not None and data[:4] in _ZIP_MAGIC:
            data, refusal = None, _nested(info)
        if data is not None:
            return ZipEntry(info.filename, data, None)
    code, detail = refusal or ("broken_entry", "The entry cannot be unpacked.")
    return ZipEntry(info.filename, None, Skip(info.filename, code, detail))


Refusal = tuple[str, str]


def _nested(info: zipfile.ZipInfo) -> Refusal:
    return (
        "nested_archive",
        f"{info.filename!r} is an archive itself. Unpack it and send its photos.",
    )


def _refusal(info: zipfile.ZipInfo, seen: set[str], limits: ZipLimits) -> Refusal | None:
    """Why an entry is left out, as far as the directory tells."""
    return (
        _refused_by_name(info.filename, seen)
        or _refused_by_kind(info)
        or _refused_by_size(info, limits)
    )


def _refused_by_name(name: str, seen: set[str]) -> Refusal | None:
    if is_system_file(name):
        return "system_file", f"{name!r} was left by an operating system and is no photo."
    if escapes(name):
        return "unsafe_name", f"{name!r} points outside the archive."
    if name in seen:
        return "duplicate_name", f"{name!r} is in the archive more than once; the first one counts."
    return None


def _refused_by_kind(info: zipfile.ZipInfo) -> Refusal | None:
    if stat.S_ISLNK(info.external_attr >> 16):
        return "symlink", f"{info.filename!r} is a symbolic link. Pack the photo itself."
    if info.flag_bits & (_FLAG_ENCRYPTED | _FLAG_STRONG_ENCRYPTION):
        return "encrypted", f"{info.filename!r} is encrypted. Pack it without a password."
    if info.compress_type not in _COMPRESSION:
        return (
            "unsupported_compression",
            f"{info.filename!r} is packed with method {info.compress_type}; only deflate and "
            f"stored are read. Pack it again with an ordinary ZIP program.",
        )
    return None


def _refused_by_size(info: zipfile.ZipInfo, limits: ZipLimits) -> Refusal | None:
    if info.file_size > limits.max_entry_bytes:
        return _entry_too_large(info, info.file_size, limits)
    if info.file_size > max(_RATIO_FREE_BYTES, info.compress_size * limits.max_ratio):
        return (
            "compression_ratio",
            f"{info.filename!r} unpacks from {info.compress_size} to {info.file_size} bytes, more "
            f"than {limits.max_ratio} times.",
        )
    return None


def _entry_too_large(info: zipfile.ZipInfo, size: int, limits: ZipLimits) -> Refusal:
    return (
        "too_large_bytes",
        f"{info.filename!r} has {size} bytes, the limit is {limits.max_entry_bytes}.",
    )


def _unpack(
    archive: zipfile.ZipFile, info: zipfile.ZipInfo, limits: ZipLimits, left: int
) -> tuple[bytes | None, Refusal | None]:
    """An entry's bytes, counted while they come: never more than its limit or what is `left`."""
    allowed = min(limits.max_entry_bytes, left)
    out = bytearray()
    try:
        with archive.open(info) as entry:
            while chunk := entry.read(_READ_CHUNK):
                out += chunk
                if len(out) > allowed:
                    break
    except (
        zipfile.BadZipFile,
        zlib.error,
        EOFError,
        OSError,
        NotImplementedError,
        ValueError,
    ) as error:
        return None, (
            "broken_entry",
            f"{info.filename!r} cannot be unpacked ({error}). Pack it again.",
        )
    if len(out) <= allowed:
        return bytes(out), None
    if allowed == limits.max_entry_bytes:
        return None, _entry_too_large(info, len(out), limits)
    return None, (
        "total_too_large",
        f"The archive unpacks to more than {limits.max_total_bytes} bytes; {info.filename!r} "
        f"is past the limit.",
    )
