"""Owns the one path from the bytes of a photo to the pixels that a network sees.

The command line, the API and the jobs all come through here, and its parameters are part of every
space's fingerprint. Arrays are uint8 (height, width, 3) RGB. Formats are recognised by content, the
file name plays no part.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

Rgb = NDArray[np.uint8]
Code = Literal[
    "empty",
    "too_large_bytes",
    "too_many_pixels",
    "unsupported_format",
    "animated",
    "truncated",
    "corrupted",
]

DECODE: Final = "pillow-full-exif-white-1"
"""Version of the decoding rules below; a change of pixels is a change of every space."""

_MEDIA_TYPES: Final = {
    "JPEG": "image/jpeg",
    "PNG": "image/png",
    "WEBP": "image/webp",
    "BMP": "image/bmp",
    "TIFF": "image/tiff",
}
_ALLOWED = "JPEG, PNG, WebP, BMP and TIFF"
_RESAMPLING: Final = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}
_EXIF_ORIENTATION, _EXIF_IFD, _EXIF_DATETIME = 0x0112, 0x8769, 0x0132
_EXIF_TAKEN, _EXIF_TAKEN_OFFSET = 0x9003, 0x9011
_EXIF_ARTIST, _EXIF_GPS = 0x013B, 0x8825
_GPS_LATITUDE, _GPS_LONGITUDE = (1, 2, "NS", 90.0), (3, 4, "EW", 180.0)
_ARTIST_LENGTH: Final = 200


@dataclass(frozen=True, slots=True)
class DecodeLimits:
    """What a photo may cost: bytes as received, pixels as its header announces them."""

    max_bytes: int = 25 * 2**20
    max_pixels: int = 50_000_000


class BadPhoto(Exception):
    """A photo that is refused. `code` is for programs, `detail` is a sentence for people."""

    def __init__(self, code: Code, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code: Code = code
        self.detail = detail


@dataclass(frozen=True, slots=True, eq=False)
class Photo:
    """A decoded photo: upright pixels uint8 (height_px, width_px, 3), and what its header told.

    `taken_at` has a zone; a camera clock without one is read as UTC. Latitude and longitude are in
    decimal degrees, both or neither.
    """

    rgb: Rgb
    media_type: str
    width_px: int
    height_px: int
    taken_at: datetime | None
    latitude: float | None = None
    longitude: float | None = None
    photographer: str | None = None


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """How upright pixels become network input; every field is part of the space's fingerprint.

    `fit` is "stretch" (plain resize to the target) or "crop" (shortest side to the target, then the
    centre). Mean and standard deviation are of values 0..1, per channel.
    """

    height_px: int
    width_px: int
    interpolation: Literal["bilinear", "bicubic"]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    decode: str = DECODE
    fit: Literal["stretch", "crop"] = "stretch"

    def __post_init__(self) -> None:
        if self.height_px < 1 or self.width_px < 1:
            raise ValueError(f"input size {self.width_px} × {self.height_px} px is not positive")
        if self.interpolation not in _RESAMPLING:
            raise ValueError(f"interpolation {self.interpolation!r} is not bilinear or bicubic")
        if self.fit not in ("stretch", "crop"):
            raise ValueError(f"fit {self.fit!r} is not stretch or crop")
        if self.fit == "crop" and self.height_px != self.width_px:
            raise ValueError(f"fit crop needs a square, got {self.width_px} × {self.height_px} px")
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise ValueError(f"mean {self.mean} and std {self.std} need three values, std above 0")

    def as_dict(self) -> dict[str, Any]:
        """The fields as JSON-ready values, in a fixed order."""
        fields = asdict(self)
        return fields | {"mean": list(self.mean), "std": list(self.std)}

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Preprocessing:
        """The inverse of `as_dict`; an unknown or missing field is a TypeError naming it."""
        mean, std = (tuple(float(x) for x in fields.get(key, ())) for key in ("mean", "std"))
        return cls(**(fields | {"mean": mean, "std": std}))

    def apply(self, rgb: Rgb) -> Rgb:
        """Pixels of the input size: uint8 (height_px, width_px, 3), not yet normalised.

        Pixels that have the input size already are returned as they are.
        """
        if rgb.shape[:2] == (self.height_px, self.width_px):
            return rgb
        if self.fit == "stretch":
            return resize(rgb, (self.height_px, self.width_px), self.interpolation)
        return _centre_crop(rgb, self.height_px, self.interpolation)


def decode(data: bytes, limits: DecodeLimits | None = None) -> Photo:
    """Decode the bytes of one photo into upright RGB pixels.

    The whole file is decoded at full size (no JPEG draft mode). EXIF orientation is applied; CMYK,
    grey, palette and 16-bit photos are converted, transparent pixels are laid on white; of a
    camera's multi-picture JPEG the first frame is taken. The pixel limit is checked on the header,
    before memory is spent.

    Raises:
        BadPhoto: with one of the seven codes.
    """
    limits = limits or DecodeLimits()
    kind = _recognise(data, limits)
    try:
        image = _open(data, kind, limits)
        with image:
            image.load()
            exif = _exif(image)
            taken_at, photographer = _taken_at(exif), _photographer(exif)
            latitude, longitude = _position(exif)
            orientation = _tag(exif, _EXIF_ORIENTATION)
            pixels = _to_rgb(image)
    except BadPhoto:
        raise
    except MemoryError:
        raise
    except Exception as error:
        # Pillow's plug-ins raise whatever their parsing trips over (OSError, SyntaxError,
        # struct.error, KeyError, zlib.error …); each means that these bytes are no whole photo.
        raise _broken(data, kind, error) from error
    rgb = _upright(pixels, orientation)
    height, width = rgb.shape[:2]
    return Photo(
        rgb, _MEDIA_TYPES[kind], width, height, taken_at, latitude, longitude, photographer
    )


def crop(rgb: Rgb, box_px: tuple[int, int, int, int]) -> Rgb:
    """The region `box_px` = (x, y, width, height), cut to the photo's borders.

    Raises:
        ValueError: nothing of the box lies inside the photo.
    """
    x, y, width, height = box_px
    rows, columns = rgb.shape[:2]
    left, top = max(x, 0), max(y, 0)
    right, bottom = min(x + width, columns), min(y + height, rows)
    if left >= right or top >= bottom:
        raise ValueError(f"box {box_px} lies outside the photo of {columns} × {rows} px")
    return np.ascontiguousarray(rgb[top:bottom, left:right])


def resize(
    rgb: Rgb,
    size: tuple[int, int],
    interpolation: Literal["bilinear", "bicubic"] = "bilinear",
) -> Rgb:
    """Resize to `size` = (height, width) with antialias, as torchvision's Resize on a PIL image."""
    height, width = size
    image = Image.fromarray(rgb)
    return np.array(image.resize((width, height), _RESAMPLING[interpolation]), dtype=np.uint8)


def thumbnail_jpeg(rgb: Rgb, max_px: int) -> bytes:
    """A JPEG whose longer side is at most `max_px`, never enlarged, without metadata."""
    image = Image.fromarray(rgb)
    scale = min(1.0, max_px / max(image.size))
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    if size != image.size:
        image = image.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)
    out = io.BytesIO()
    image.save(out, "JPEG", quality=85, optimize=True)
    return out.getvalue()


def dhash64(rgb: Rgb) -> int:
    """Difference hash: 64 bits of "brighter than the left neighbour", as a signed 64-bit int.

    Near-duplicates differ in few bits: count them with `(a ^ b).bit_count()` on the low 64 bits.
    """
    grey = Image.fromarray(rgb).convert("L").resize((9, 8), Image.Resampling.BILINEAR)
    cells = np.asarray(grey, dtype=np.int16)
    bits = np.packbits(cells[:, 1:] > cells[:, :-1])
    return int.from_bytes(bits.tobytes(), "big", signed=True)


def _recognise(data: bytes, limits: DecodeLimits) -> str:
    if not data:
        raise BadPhoto("empty", "the file is empty (0 bytes)")
    if len(data) > limits.max_bytes:
        raise BadPhoto(
            "too_large_bytes",
            f"the file has {len(data):,} bytes, at most {limits.max_bytes:,} are accepted",
        )
    kind = _sniff(data)
    if kind is None:
        raise BadPhoto("unsupported_format", f"this is no photo that can be read: send {_ALLOWED}")
    return kind


def _sniff(data: bytes) -> str | None:
    signatures: tuple[tuple[str, bytes], ...] = (
        ("JPEG", b"\xff\xd8\xff"),
        ("PNG", b"\x89PNG\r\n\x1a\n"),
        ("BMP", b"BM"),
        ("TIFF", b"II*\0"),
        ("TIFF", b"MM\0*"),
        ("TIFF", b"II+\0"),
        ("TIFF", b"MM\0+"),
    )
    for kind, signature in signatures:
        if data.startswith(signature):
            return kind
    return "WEBP" if data[:4] == b"RIFF" and data[8:12] == b"WEBP" else None


def _open(data: bytes, kind: str, limits: DecodeLimits) -> Image.Image:
    if kind == "WEBP":
        # Pillow's WebP plug-in allocates the whole canvas when it opens the file.
        _check_pixels(_webp_size(data), limits)
    try:
        image = Image.open(io.BytesIO(data), formats=(kind,))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise BadPhoto(
            "too_many_pixels", f"{error}; at most {limits.max_pixels:,} pixels are decoded"
        ) from error
    _check_pixels(image.size, limits)
    if kind != "JPEG" and _has_second_frame(image):
        raise BadPhoto("animated", "the file holds more than one picture: send one still photo")
    return image


def _check_pixels(size: tuple[int, int], limits: DecodeLimits) -> None:
    width, height = size
    if width * height > limits.max_pixels:
        raise BadPhoto(
            "too_many_pixels",
            f"the photo has {width} × {height} = {width * height:,} pixels, "
            f"at most {limits.max_pixels:,} are decoded",
        )


def _webp_size(data: bytes) -> tuple[int, int]:
    """Width and height from the first chunk of a WebP file (RFC 9649)."""
    chunk, body = data[12:16], data[20:30]
    if chunk == b"VP8X":
        return 1 + int.from_bytes(body[4:7], "little"), 1 + int.from_bytes(body[7:10], "little")
    if chunk == b"VP8L":
        (bits,) = struct.unpack("<I", body[1:5])
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    width, height = struct.unpack("<HH", body[6:10])
    return width & 0x3FFF, height & 0x3FFF


def _has_second_frame(image: Image.Image) -> bool:
    # n_frames would walk every page of a TIFF that announces a million of them.
    if getattr(image, "is_animated", None) is True and image.format != "TIFF":
        return True
    if image.format != "TIFF":
        return False
    try:
        image.seek(1)
    except EOFError:
        return False
    return True


def _broken(data: bytes, kind: str, error: Exception) -> BadPhoto:
    reason = str(error) or type(error).__name__
    cut = "truncat" in reason.lower() or _ends_early(data, kind)
    if cut:
        return BadPhoto("truncated", f"the {kind} file ends early after {len(data):,} bytes")
    if isinstance(error, UnidentifiedImageError):
        reason = "its header cannot be read"
    return BadPhoto("corrupted", f"the {kind} file is damaged: {reason}")


def _ends_early(data: bytes, kind: str) -> bool:
    if kind == "WEBP":
        return len(data) < 8 + int.from_bytes(data[4:8], "little")
    if kind == "BMP":
        return len(data) < int.from_bytes(data[2:6], "little")
    if kind == "PNG":
        return b"IEND" not in data[-16:]
    return kind == "JPEG" and b"\xff\xd9" not in data[-2048:]


def _exif(image: Image.Image) -> Image.Exif:
    try:
        return image.getexif()
    except Exception:  # damaged metadata is no reason to refuse good pixels
        return Image.Exif()


def _tag(exif: Image.Exif, tag: int) -> object:
    try:
        return exif.get(tag)
    except Exception:  # damaged metadata is no reason to refuse good pixels
        return None


def _ifd(exif: Image.Exif, tag: int) -> dict[int, Any]:
    try:
        return dict(exif.get_ifd(tag))
    except Exception:  # damaged metadata is no reason to refuse good pixels
        return {}


def _taken_at(exif: Image.Exif) -> datetime | None:
    details = _ifd(exif, _EXIF_IFD)
    text = str(details.get(_EXIF_TAKEN) or _tag(exif, _EXIF_DATETIME)).strip("\0 ")
    for zone in (str(details.get(_EXIF_TAKEN_OFFSET)).strip("\0 "), "+00:00"):
        try:
            return datetime.strptime(text + zone, "%Y:%m:%d %H:%M:%S%z").astimezone(UTC)
        except (ValueError, OverflowError):
            continue
    return None


def _position(exif: Image.Exif) -> tuple[float, float] | tuple[None, None]:
    """Latitude and longitude in decimal degrees, where both are told and possible."""
    told = _ifd(exif, _EXIF_GPS)
    latitude, longitude = _degrees(told, *_GPS_LATITUDE), _degrees(told, *_GPS_LONGITUDE)
    # A receiver that has not found itself yet writes zeros.
    if latitude is None or longitude is None or latitude == longitude == 0:
        return None, None
    return latitude, longitude


def _degrees(
    told: dict[int, Any], side: int, value: int, letters: str, most: float
) -> float | None:
    try:
        letter = _text(told[side]).upper()
        degrees, minutes, seconds = (float(part) for part in told[value])
    except Exception:  # whatever stands there instead of three numbers
        return None
    found = degrees + minutes / 60 + seconds / 3600
    possible = degrees >= 0 and 0 <= minutes <= 60 and 0 <= seconds <= 60 and found <= most
    if not possible or len(letter) != 1 or letter not in letters:
        return None
    return round(-found if letter == letters[1] else found, 7)


def _photographer(exif: Image.Exif) -> str | None:
    text = "".join(c if c.isprintable() else " " for c in _text(_tag(exif, _EXIF_ARTIST)))
    return " ".join(text.split())[:_ARTIST_LENGTH].strip() or None


def _text(value: object) -> str:
    """Text of EXIF, which is ASCII by its standard and UTF-8 from many programs; Pillow reads it as
    Latin-1."""
    if isinstance(value, str):
        try:
            value = value.encode("latin-1")
        except UnicodeEncodeError:
            return str(value).strip("\0 ")
    if not isinstance(value, bytes):
        return ""
    try:
        return value.decode().strip("\0 ")
    except UnicodeDecodeError:
        return value.decode("latin-1").strip("\0 ")


def _to_rgb(image: Image.Image) -> Rgb:
    if image.mode.startswith("I;16"):
        samples = np.asarray(image).astype(np.uint32)
        grey = ((samples * 255 + 32767) // 65535).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.mode in ("I", "F", "LAB"):
        raise BadPhoto(
            "unsupported_format",
            f"samples of Pillow mode {image.mode} are not read: save 8 or 16 bits per channel",
        )
    if image.has_transparency_data:
        return _on_white(image)
    return np.array(image if image.mode == "RGB" else image.convert("RGB"), dtype=np.uint8)


def _on_white(image: Image.Image) -> Rgb:
    rgba = image.convert("RGBA")
    canvas = Image.new("RGB", rgba.size, "white")
    canvas.paste(rgba, mask=rgba.getchannel("A"))
    return np.array(canvas, dtype=np.uint8)


_TURNS: Final[dict[int, Callable[[Rgb], Rgb]]] = {
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: a.transpose(1, 0, 2)[:, ::-1],
    7: lambda a: a.transpose(1, 0, 2)[::-1, ::-1],
    8: lambda a: a.transpose(1, 0, 2)[::-1],
}
"""EXIF orientation 2–8 to the turn that makes the pixels upright; anything else is upright."""


def _upright(pixels: Rgb, orientation: object) -> Rgb:
    turn = _TURNS.get(orientation) if isinstance(orientation, int) else None
    return pixels if turn is None else np.ascontiguousarray(turn(pixels))


def _centre_crop(rgb: Rgb, side: int, interpolation: Literal["bilinear", "bicubic"]) -> Rgb:
    # The same integer arithmetic as torchvision's Resize(side) and CenterCrop(side).
    height, width = rgb.shape[:2]
    if width <= height:
        size = (int(side * height / width), side)
    else:
        size = (side, int(side * width / height))
    resized = rgb if size == (height, width) else resize(rgb, size, interpolation)
    top, left = round((size[0] - side) / 2.0), round((size[1] - side) / 2.0)
    return np.ascontiguousarray(resized[top : top + side, left : left + side])
