"""Drawn photos with a header: when, where and by whom they were taken."""

from __future__ import annotations

import io
from datetime import UTC, datetime

from PIL import Image

from tests.service.small import scene

NOON = datetime(2024, 6, 1, 12, 0, tzinfo=UTC)


def taken(
    seed: int,
    at: datetime | None = None,
    *,
    shift: int = 0,
    latitude: float | None = None,
    longitude: float | None = None,
    by: str | None = None,
) -> bytes:
    """A photo of the scene `seed` as a camera writes it; another `shift` is another photo of it."""
    exif = Image.Exif()
    if at is not None:
        details = exif.get_ifd(0x8769)
        details[0x9003] = at.strftime("%Y:%m:%d %H:%M:%S")
        details[0x9011] = "+00:00"
    if latitude is not None and longitude is not None:
        exif[0x8825] = {
            1: "N" if latitude >= 0 else "S",
            2: (abs(latitude), 0.0, 0.0),
            3: "E" if longitude >= 0 else "W",
            4: (abs(longitude), 0.0, 0.0),
        }
    if by is not None:
        exif[0x013B] = by
    out = io.BytesIO()
    image = Image.open(io.BytesIO(scene(seed, shift=shift)))
    image.save(out, "JPEG", quality=95, exif=exif.tobytes())
    return out.getvalue()
