"""Bad and odd input, generated: every photo and archive here has a declared outcome.

Photos map a name to bytes and the decode code that refuses them, None where the photo is good.
Archives map a name to bytes and the code that refuses them as a whole, None where their entries are
answered one by one.
"""

from __future__ import annotations

import io
import random
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Final

from PIL import Image, ImageDraw
from PIL.TiffImagePlugin import ImageFileDirectory_v2

MIB: Final = 2**20


@dataclass(frozen=True, slots=True)
class BadPhotoCase:
    """A photo of the zoo: bytes, a file name as a person might send it, and the decode code."""

    file_name: str
    data: bytes
    code: str | None


@dataclass(frozen=True, slots=True)
class ArchiveCase:
    """An archive: the code that refuses it whole, or else one code per entry (None = good)."""

    data: bytes
    code: str | None
    entries: tuple[tuple[str, str | None], ...] = ()


def photo(
    seed: int = 0,
    size: tuple[int, int] = (96, 64),
    image_format: str = "JPEG",
    mode: str = "RGB",
    **save: object,
) -> bytes:
    """A small good photo, different for each seed; its upper left corner is red."""
    return encode(picture(seed, size).convert(mode), image_format, **save)


def picture(seed: int = 0, size: tuple[int, int] = (96, 64)) -> Image.Image:
    """An upright picture with a red upper left quarter and blocks that depend on the seed."""
    rng = random.Random(seed)
    width, height = size
    image = Image.new("RGB", size, tuple(rng.randrange(60, 200) for _ in range(3)))
    draw = ImageDraw.Draw(image)
    for _ in range(12):
        x, y = rng.randrange(width), rng.randrange(height)
        colour = tuple(rng.randrange(256) for _ in range(3))
        draw.rectangle((x, y, x + width // 5, y + height // 5), fill=colour)
    image.paste((250, 10, 10), (0, 0, width // 2, height // 2))
    return image


def encode(image: Image.Image, image_format: str, **save: object) -> bytes:
    out = io.BytesIO()
    image.save(out, image_format, **save)  # type: ignore[arg-type]
    return out.getvalue()


def turned(orientation: int, seed: int = 0) -> bytes:
    """The same scene as `photo(seed)`, stored turned, with the EXIF tag that turns it upright."""
    undo: dict[int, Callable[[Image.Image], Image.Image]] = {
        1: lambda image: image,
        2: lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        3: lambda image: image.transpose(Image.Transpose.ROTATE_180),
        4: lambda image: image.transpose(Image.Transpose.FLIP_TOP_BOTTOM),
        5: lambda image: image.transpose(Image.Transpose.TRANSPOSE),
        6: lambda image: image.transpose(Image.Transpose.ROTATE_90),
        7: lambda image: image.transpose(Image.Transpose.TRANSVERSE),
        8: lambda image: image.transpose(Image.Transpose.ROTATE_270),
    }
    return encode(undo[orientation](picture(seed)), "JPEG", exif=exif(orientation), quality=95)


def exif(
    orientation: int = 1, taken: str | None = None, description: str = "SECRET-DESCRIPTION"
) -> bytes:
    """EXIF with an orientation, a GPS position that must never leave, and perhaps a time."""
    tags = Image.Exif()
    tags[0x0112] = orientation
    tags[0x010E] = description
    if taken is not None:
        tags.get_ifd(0x8769)[0x9003] = taken
    tags.get_ifd(0x8825)[1] = "N"
    return tags.tobytes()


@cache
def photos() -> dict[str, BadPhotoCase]:
    """Every photo of the zoo by name. Cached: some take a moment to draw."""
    return {name: case for part in (_good(), _broken(), _huge()) for name, case in part}


def _good() -> Iterator[tuple[str, BadPhotoCase]]:
    def good(name: str, data: bytes, file_name: str | None = None) -> tuple[str, BadPhotoCase]:
        return name, BadPhotoCase(file_name or f"{name}.jpg", data, None)

    yield good("jpeg", photo())
    yield good("progressive", photo(progressive=True))
    yield good("png", photo(image_format="PNG"), "png.png")
    yield good("webp", photo(image_format="WEBP"), "webp.webp")
    yield good("bmp", photo(image_format="BMP"), "bmp.bmp")
    yield good("tiff", photo(image_format="TIFF"), "tiff.tif")
    yield good("grey", photo(mode="L"))
    yield good("one_bit", photo(image_format="PNG", mode="1"), "one_bit.png")
    yield good("palette", photo(image_format="PNG", mode="P"), "palette.png")
    yield good("alpha", photo(image_format="PNG", mode="RGBA"), "alpha.png")
    yield good("cmyk", photo(mode="CMYK"))
    yield good("cmyk_tiff", photo(image_format="TIFF", mode="CMYK"), "cmyk.tif")
    yield good("sixteen_bit", _sixteen_bit_png(), "sixteen_bit.png")
    yield good("one_pixel", photo(size=(1, 1)))
    yield good("very_wide", photo(size=(3000, 2)))
    yield good("wrong_suffix", photo(image_format="PNG"), "wrong_suffix.jpg")
    yield good("no_suffix", photo(), "IMG_0001")
    yield good("polyglot_html", photo() + b"<html><script>alert(1)</script></html>", "a.html.jpg")
    yield good("huge_exif", photo(exif=exif(description="x" * 60_000)))
    yield good("huge_icc", photo(icc_profile=bytes(2 * MIB)))
    yield good("unicode_name", photo(3), "Ωκεανός 鯨 \u202egpj.jpg")
    for orientation in range(1, 9):
        yield good(f"exif_{orientation}", turned(orientation))


def _broken() -> Iterator[tuple[str, BadPhotoCase]]:
    def bad(name: str, data: bytes, code: str, file: str = "") -> tuple[str, BadPhotoCase]:
        return name, BadPhotoCase(file or f"{name}.jpg", data, code)

    jpeg, png = photo(size=(320, 240)), photo(size=(320, 240), image_format="PNG")
    frames = [picture(seed) for seed in range(3)]
    animation = {"save_all": True, "append_images": frames[1:]}
    yield bad("empty", b"", "empty")
    yield bad("truncated", jpeg[: len(jpeg) // 2], "truncated")
    yield bad("truncated_header", jpeg[:20], "truncated")
    yield bad("truncated_png", png[: len(png) // 2], "truncated", "truncated.png")
    yield bad("text", b"These are my field notes of May.\n" * 20, "unsupported_format")
    yield bad("svg", _SVG, "unsupported_format", "drawing.svg")
    yield bad("svg_as_jpg", _SVG, "unsupported_format")
    yield bad("html", b"<!doctype html><title>no photo</title>", "unsupported_format")
    yield bad("pdf", b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n" + bytes(200), "unsupported_format", "a.pdf")
    yield bad(
        "postscript", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "unsupported_format"
    )
    yield bad("gif", encode(frames[0], "GIF"), "unsupported_format", "a.gif")
    yield bad(
        "heic", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(99), "unsupported_format", "a.heic"
    )
    yield bad("fits", b"SIMPLE  =                    T".ljust(2880), "unsupported_format", "a.fits")
    yield bad("zip", packed([("a.jpg", jpeg)]), "unsupported_format")
    yield bad("animated_webp", encode(frames[0], "WEBP", **animation), "animated", "a.webp")
    yield bad("animated_png", encode(frames[0], "PNG", **animation), "animated", "a.png")
    yield bad("pages_tiff", encode(frames[0], "TIFF", **animation), "animated", "a.tif")
    yield bad("bad_crc", _flip(png, png.index(b"IDAT") + 400), "corrupted", "bad_crc.png")


def _huge() -> Iterator[tuple[str, BadPhotoCase]]:
    big_bytes = photo() + bytes(25 * MIB)
    yield "too_many_bytes", BadPhotoCase("big.jpg", big_bytes, "too_large_bytes")
    bomb = flat_png(20_000, 20_000)
    yield "bomb_400_megapixels", BadPhotoCase("bomb.png", bomb, "too_many_pixels")
    yield "over_50_megapixels", BadPhotoCase("wide.png", flat_png(10_001, 5_000), "too_many_pixels")
    lying = _lying_tiff(100_000, 100_000)
    yield "tiff_of_10_gigapixels", BadPhotoCase("lying.tif", lying, "too_many_pixels")


_SVG: Final = (
    b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)">'
    b'<rect width="9" height="9"/></svg>'
)


def flat_png(width: int, height: int) -> bytes:
    """A valid one-bit PNG of one colour: few bytes, many pixels, built without drawing them."""
    row = bytes(1 + (width + 7) // 8)
    packer = zlib.compressobj(9)
    body = b"".join(packer.compress(row * 100) for _ in range(height // 100))
    body += packer.compress(row * (height % 100)) + packer.flush()
    header = struct.pack(">2L5B", width, height, 1, 0, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", body), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">L", len(data)) + kind + data + struct.pack(">L", zlib.crc32(kind + data))
        for kind, data in chunks
    )


def _sixteen_bit_png() -> bytes:
    return encode(picture().convert("I;16"), "PNG")


def _lying_tiff(width: int, height: int) -> bytes:
    tags = ImageFileDirectory_v2()
    tags[256], tags[257], tags[258], tags[259], tags[262] = width, height, 8, 1, 1
    tags[273], tags[278], tags[279] = 8, height, 1
    out = io.BytesIO(b"II*\0\x08\0\0\0")
    out.seek(8)
    tags.save(out)
    return out.getvalue()


def _flip(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :]


# --- archives ---------------------------------------------------------------------------------

Member = tuple[str, bytes]


def packed(members: list[Member], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    """An archive with these entries, in this order."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, data in members:
            archive.writestr(zipfile.ZipInfo(name, (2024, 5, 31, 12, 0, 0)), data, method)
    return out.getvalue()


@cache
def archives() -> dict[str, ArchiveCase]:
    """Every archive of the zoo by name, against the default limits."""
    return {name: case for part in (_whole(), _by_entry()) for name, case in part}


def _whole() -> Iterator[tuple[str, ArchiveCase]]:
    good = packed([("a.jpg", photo(1)), ("b.jpg", photo(2))])
    yield "empty_file", ArchiveCase(b"", "empty")
    yield "text", ArchiveCase(b"this is no archive" * 9, "not_a_zip")
    yield "photo", ArchiveCase(photo(), "not_a_zip")
    yield "cut_off", ArchiveCase(good[: len(good) // 2], "broken_zip")
    directory = good.index(b"PK\x01\x02")
    yield "broken_directory", ArchiveCase(_flip(good, directory), "broken_zip")
    many = [(f"{number}.jpg", b"") for number in range(100_000)]
    hundred_thousand = packed(many, zipfile.ZIP_STORED)
    yield "hundred_thousand", ArchiveCase(hundred_thousand, "too_many_entries")
    yield "hundred_thousand_denied", ArchiveCase(_deny_count(hundred_thousand), "too_many_entries")
    bomb = packed([(f"{number}.jpg", bytes(20 * MIB)) for number in range(10)])
    yield "bomb", ArchiveCase(bomb, "compression_ratio")
    claims = _claim_sizes(packed([(f"{n}.jpg", b"x") for n in range(3)]), 2**31)
    yield "claims_gigabytes", ArchiveCase(claims, "total_too_large")


def _by_entry() -> Iterator[tuple[str, ArchiveCase]]:
    a, b = photo(1), photo(2)

    def case(*members: tuple[str, bytes, str | None]) -> ArchiveCase:
        entries = tuple((name, code) for name, _, code in members)
        return ArchiveCase(packed([member[:2] for member in members]), None, entries)

    yield "good", case(("a.jpg", a, None), ("x/b.jpg", b, None))
    yield "no_entries", ArchiveCase(packed([]), None)
    yield "climbs", case(("../a.jpg", a, "unsafe_name"), ("b.jpg", b, None))
    yield "climbs_inside", case(("x/../../a.jpg", a, "unsafe_name"), ("b.jpg", b, None))
    yield "climbs_windows", case(("x\\..\\..\\a.jpg", a, "unsafe_name"), ("b.jpg", b, None))
    yield "absolute", case(("/etc/a.jpg", a, "unsafe_name"), ("C:\\a.jpg", b, "unsafe_name"))
    yield (
        "nested",
        case(("inner.zip", packed([("a.jpg", a)]), "nested_archive"), ("b.jpg", b, None)),
    )
    yield "nested_as_jpg", case(("a.jpg", packed([("a.jpg", a)]), "nested_archive"))
    yield (
        "system_files",
        case(
            ("a.jpg", a, None),
            ("__MACOSX/._a.jpg", b"mac", "system_file"),
            ("Thumbs.db", b"w", "system_file"),
        ),
    )
    yield (
        "large_entry",
        case(("a.jpg", _noise(25 * MIB + 1), "too_large_bytes"), ("b.jpg", b, None)),
    )
    small_bomb = bytes(20 * MIB)
    yield "bomb_beside_photo", case(("a.jpg", small_bomb, "compression_ratio"), ("b.jpg", b, None))
    yield "bad_photos", case(("a.jpg", b"", None), ("b.jpg", b"text", None), ("c.jpg", a, None))
    yield "unicode", case(("Ωκεανός/鯨.jpg", a, None), ("a b'\"<i>.jpg", b, None))
    yield "folders", ArchiveCase(_with_folders(a), None, (("x/a.jpg", None),))
    yield "symlink", ArchiveCase(_with_link(b), None, (("a.jpg", "symlink"), ("b.jpg", None)))
    yield (
        "duplicates",
        ArchiveCase(
            _with_duplicates(a, b),
            None,
            (("a.jpg", None), ("a.jpg", "duplicate_name"), ("b.jpg", None)),
        ),
    )
    two = packed([("a.jpg", a), ("b.jpg", b)], zipfile.ZIP_STORED)
    pair = (("a.jpg", "broken_entry"), ("b.jpg", None))
    yield "broken_entry", ArchiveCase(_flip(two, two.index(a) + 100), None, pair)
    yield "encrypted", ArchiveCase(_flag_encrypted(two), None, (("a.jpg", "encrypted"), pair[1]))
    odd = packed([("a.jpg", a)], zipfile.ZIP_LZMA)
    yield "lzma", ArchiveCase(odd, None, (("a.jpg", "unsupported_compression"),))
    liar = _claim_sizes(packed([("a.jpg", bytes(3 * MIB))]), 10)
    yield "understates_size", ArchiveCase(liar, None, (("a.jpg", "broken_entry"),))


def _noise(size: int) -> bytes:
    return random.Random(5).randbytes(size)


def _with_folders(data: bytes) -> bytes:
    return packed([("x/", b""), ("x/a.jpg", data), ("y/", b"")])


def _with_link(data: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        link = zipfile.ZipInfo("a.jpg")
        link.create_system = 3
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
        archive.writestr("b.jpg", data)
    return out.getvalue()


def _with_duplicates(a: bytes, b: bytes) -> bytes:
    data = packed([("a.jpg", a), ("z.jpg", b), ("b.jpg", b)])
    return data.replace(b"z.jpg", b"a.jpg")


def _directory(data: bytes) -> Iterator[int]:
    at = data.find(b"PK\x01\x02")
    while at >= 0:
        yield at
        at = data.find(b"PK\x01\x02", at + 4)


def _claim_sizes(data: bytes, size: int) -> bytes:
    """The same archive whose directory says that each entry unpacks to `size` bytes."""
    out = bytearray(data)
    for at in _directory(data):
        struct.pack_into("<L", out, at + 24, size)
    return bytes(out)


def _flag_encrypted(data: bytes) -> bytes:
    """The first entry says that it is encrypted, in the directory and before its data."""
    out = bytearray(data)
    out[next(_directory(data)) + 8] |= 1
    out[data.index(b"PK\x03\x04") + 6] |= 1
    return bytes(out)


def _deny_count(data: bytes) -> bytes:
    """The same archive whose end records claim one entry only."""
    out = bytearray(data)
    end = data.rfind(b"PK\x05\x06")
    struct.pack_into("<2H", out, end + 8, 1, 1)
    end64 = data.rfind(b"PK\x06\x06")
    if end64 >= 0:
        struct.pack_into("<2Q", out, end64 + 24, 1, 1)
    return bytes(out)
