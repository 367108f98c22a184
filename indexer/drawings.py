"""Folders of drawings: a catalogue, photos to ask with, and what a day at sea brings home."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.ExifTags import GPS, IFD, Base

from indexer.synthetic import (
    PHOTO_SIZE_PX,
    Fluke,
    Scene,
    draw_fluke,
    draw_negative,
    spoken_word,
    stream,
)

DEMO_SEED: Final = 20
DEMO_INDIVIDUALS: Final = 120
DEMO_PHOTOS_PER_INDIVIDUAL: Final = (4, 6)
SPECIES: Final = "humpback_whale"
FIELD_PHOTOS: Final = 40
FIELD_DAY: Final = datetime(2026, 6, 14, 7, 30, tzinfo=UTC)
ORIENTATION: Final = "fluke"
JPEG_QUALITY: Final = 90
_STREAM_CATALOGUE: Final = 5


def individual_names(count: int, *, seed: int = DEMO_SEED) -> list[str]:
    """Distinct, pronounceable names; the first n are the same whatever `count` is."""
    rng = stream(_STREAM_CATALOGUE, seed, 1)
    names: list[str] = []
    taken: set[str] = set()
    while len(names) < count:
        name = spoken_word(rng, int(rng.integers(2, 4))).capitalize()
        key = name.lower()[:4]
        if 4 <= len(name) <= 8 and (key not in taken or len(names) > 400) and name not in names:
            taken.add(key)
            names.append(name)
    return names


def individual_seed(position: int, *, seed: int = DEMO_SEED) -> int:
    """Seed of the individual at a position (0, 1, …) of the catalogue of this seed."""
    return seed * 1_000_000 + position


@dataclass(frozen=True, slots=True)
class CatalogueRow:
    """One photo of a catalogue; `path` is relative to the catalogue's folder."""

    image_id: str
    identity: str
    path: str
    species: str
    date: str
    orientation: str
    encounter: str
    fluke_seed: int
    scene_seed: int
    photo: int


@dataclass(frozen=True, slots=True)
class Catalogue:
    """What `write_catalogue` wrote."""

    folder: Path
    names: tuple[str, ...]
    rows: tuple[CatalogueRow, ...]


def plan_catalogue(
    *,
    individuals: int = DEMO_INDIVIDUALS,
    photos_per_individual: tuple[int, int] = DEMO_PHOTOS_PER_INDIVIDUAL,
    seed: int = DEMO_SEED,
) -> tuple[CatalogueRow, ...]:
    """The photos of a catalogue, by individual, encounter and date; draws nothing.

    `photos_per_individual` is (fewest, most); they fall into two or three encounters.
    """
    rng = stream(_STREAM_CATALOGUE, seed, 2)
    rows: list[CatalogueRow] = []
    for position, name in enumerate(individual_names(individuals, seed=seed)):
        photos = int(rng.integers(photos_per_individual[0], photos_per_individual[1] + 1))
        encounters = min(photos, int(rng.integers(2, 4)))
        days = np.sort(rng.choice(2_500, size=encounters, replace=False)).tolist()
        for number in range(photos):
            at = number * encounters // photos
            day = date(2019, 1, 5) + timedelta(days=int(days[at]))
            image_id = f"{seed:02d}-{position:04d}-{number:02d}"
            rows.append(
                CatalogueRow(
                    image_id=image_id,
                    identity=name,
                    path=f"{name}/{image_id}.jpg",
                    species=SPECIES,
                    date=day.isoformat(),
                    orientation=ORIENTATION,
                    encounter=f"{day.isoformat()}-{position:04d}",
                    fluke_seed=individual_seed(position, seed=seed),
                    scene_seed=individual_seed(position, seed=seed) * 100 + at,
                    photo=number,
                )
            )
    return tuple(rows)


_COLUMNS: Final = ("image_id", "identity", "path", "species", "date", "orientation", "encounter")


def write_catalogue(
    folder: Path,
    *,
    individuals: int = DEMO_INDIVIDUALS,
    photos_per_individual: tuple[int, int] = DEMO_PHOTOS_PER_INDIVIDUAL,
    seed: int = DEMO_SEED,
    size_px: tuple[int, int] = PHOTO_SIZE_PX,
    workers: int = 2,
    progress: Callable[[int, int], None] | None = None,
) -> Catalogue:
    """Draw a catalogue: a folder per individual, and `metadata.csv` (wildlife-datasets columns).

    `progress` is called with (photos written, photos in all). `metadata.csv` is written last, so
    where it lies the catalogue is complete.
    """
    rows = plan_catalogue(
        individuals=individuals, photos_per_individual=photos_per_individual, seed=seed
    )
    names = tuple(dict.fromkeys(row.identity for row in rows))
    for name in names:
        (folder / name).mkdir(parents=True, exist_ok=True)

    def draw(row: CatalogueRow) -> None:
        scene = Scene.from_seed(row.scene_seed, photo=row.photo)
        photo = draw_fluke(Fluke.from_seed(row.fluke_seed), scene, size_px=size_px)
        _save(photo, folder / row.path)

    with ThreadPoolExecutor(max_workers=workers) as pool:
        for done, _ in enumerate(pool.map(draw, rows), start=1):
            if progress is not None:
                progress(done, len(rows))
    with (folder / "metadata.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(_COLUMNS)
        writer.writerows([getattr(row, column) for column in _COLUMNS] for row in rows)
    return Catalogue(folder=folder, names=names, rows=rows)


@dataclass(frozen=True, slots=True)
class Queries:
    """What `write_queries` wrote, and the name of the individual on `known`."""

    known: Path
    unknown: Path
    not_a_whale: Path
    manifest: Path
    known_individual: str


def write_queries(
    folder: Path,
    *,
    individuals: int = DEMO_INDIVIDUALS,
    seed: int = DEMO_SEED,
    known_position: int = 0,
    unknown_position: int | None = None,
    size_px: tuple[int, int] = PHOTO_SIZE_PX,
) -> Queries:
    """Draw the three sample queries of a catalogue of `individuals` and their `manifest.json`.

    `known.jpg` is an individual of the catalogue in a new encounter, `unknown.jpg` one that is not
    in it, `not_a_whale.jpg` a page of text.
    """
    stranger = individuals if unknown_position is None else unknown_position
    if not 0 <= known_position < individuals <= stranger:
        raise ValueError(
            f"known_position {known_position} must lie inside the catalogue of {individuals} "
            f"individuals and unknown_position {stranger} outside it"
        )
    folder.mkdir(parents=True, exist_ok=True)
    name = individual_names(individuals, seed=seed)[known_position]
    queries = Queries(
        known=folder / "known.jpg",
        unknown=folder / "unknown.jpg",
        not_a_whale=folder / "not_a_whale.jpg",
        manifest=folder / "manifest.json",
        known_individual=name,
    )
    for path, position in ((queries.known, known_position), (queries.unknown, stranger)):
        fluke = Fluke.from_seed(individual_seed(position, seed=seed))
        scene = Scene.from_seed(individual_seed(position, seed=seed) * 100 + 50)
        _save(draw_fluke(fluke, scene, size_px=size_px), path)
    _save(draw_negative("text", seed, size_px=size_px), queries.not_a_whale)
    manifest = {
        "known": {"individual": name},
        "unknown": {"individual": None},
        "not_a_whale": {"individual": None, "kind": "text"},
    }
    queries.manifest.write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    return queries


@dataclass(frozen=True, slots=True)
class FieldPhoto:
    """One photo of a day at sea. `identity` is who it shows, None for an animal that is not in the
    catalogue; photos of one animal have the same `encounter`."""

    path: Path
    encounter: int
    position: int
    identity: str | None


def write_fieldwork(
    folder: Path,
    *,
    photos: int = FIELD_PHOTOS,
    known: int = 10,
    strangers: int = 5,
    individuals: int = DEMO_INDIVIDUALS,
    seed: int = DEMO_SEED,
    size_px: tuple[int, int] = PHOTO_SIZE_PX,
    workers: int = 2,
) -> tuple[FieldPhoto, ...]:
    """Draw what somebody brings home from a day at sea: `photos` files named as a camera does, with
    the time and place in their EXIF, of `known` individuals of the catalogue and of `strangers`,
    in turn; half an hour lies between encounters, seconds between photos of one.
    """
    encounters = known + strangers
    if not 0 < encounters <= photos:
        raise ValueError(f"{photos} photos cannot show {encounters} encounters")
    folder.mkdir(parents=True, exist_ok=True)
    names = individual_names(individuals, seed=seed)
    who = [1 + number * (individuals - 1) // known for number in range(known)]
    who += [individuals + 100 + number for number in range(strangers)]
    stream(_STREAM_CATALOGUE, seed, 3).shuffle(who)
    written: list[FieldPhoto] = []
    for number in range(photos):
        encounter = number * encounters // photos
        position = who[encounter]
        identity = names[position] if position < individuals else None
        path = folder / f"IMG_{2001 + number:04d}.jpg"
        written.append(FieldPhoto(path, encounter, position, identity))

    def draw(number: int) -> None:
        photo = written[number]
        own_seed = individual_seed(photo.position, seed=seed)
        scene = Scene.from_seed(own_seed * 100 + 60, photo=number)
        taken_at = FIELD_DAY + timedelta(minutes=30 * photo.encounter, seconds=7 * number)
        place = (64.15 + 0.01 * photo.encounter, -22.4 - 0.02 * photo.encounter)
        drawn = draw_fluke(Fluke.from_seed(own_seed), scene, size_px=size_px)
        _save(drawn, photo.path, _camera_exif(taken_at, place))

    with ThreadPoolExecutor(max_workers=workers) as pool:
        for _ in pool.map(draw, range(photos)):
            pass
    return tuple(written)


def _camera_exif(taken_at: datetime, place: tuple[float, float]) -> Image.Exif:
    exif = Image.Exif()
    exif[Base.Artist] = "A. Observer"
    exif.get_ifd(IFD.Exif)[Base.DateTimeOriginal] = f"{taken_at:%Y:%m:%d %H:%M:%S}"
    gps = exif.get_ifd(IFD.GPSInfo)
    for value, negative, positive, ref, tag in (
        (place[0], "S", "N", GPS.GPSLatitudeRef, GPS.GPSLatitude),
        (place[1], "W", "E", GPS.GPSLongitudeRef, GPS.GPSLongitude),
    ):
        minutes, degrees = math.modf(abs(value))
        seconds, whole = math.modf(minutes * 60)
        gps[ref] = negative if value < 0 else positive
        gps[tag] = (degrees, whole, round(seconds * 60, 2))
    return exif


def _save(photo: NDArray[np.uint8], path: Path, exif: Image.Exif | None = None) -> None:
    Image.fromarray(photo).save(path, format="JPEG", quality=JPEG_QUALITY, exif=exif or b"")
