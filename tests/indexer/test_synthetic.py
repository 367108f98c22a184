"""Drawn flukes: the same from the same seeds, one individual alike, laid out as promised."""

from __future__ import annotations

import csv
import hashlib
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from indexer import drawings, synthetic
from indexer.synthetic import Fluke, Scene
from models.preprocess import decode

SMALL = (160, 120)


def digest(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def laid_flat(seed: int) -> NDArray[np.float32]:
    """Pigment where there is skin, (H, W)."""
    planes = np.asarray(synthetic.flat_tail(Fluke.from_seed(seed), 128), dtype=np.float32)
    return planes[..., 0] * planes[..., 1] / np.float32(255.0**2)


def test_same_seeds_draw_the_same_pixels() -> None:
    def draw() -> NDArray[np.uint8]:
        return synthetic.draw_fluke(Fluke.from_seed(5), Scene.from_seed(6, photo=1), size_px=SMALL)

    first = draw()
    synthetic.flat_tail.cache_clear()
    assert first.shape == (120, 160, 3)
    assert first.dtype == np.uint8
    assert np.array_equal(first, draw())
    assert Fluke.from_seed(5) == Fluke.from_seed(5)


def test_every_seed_is_another_individual() -> None:
    flats = [laid_flat(seed) for seed in range(12)]
    for one in range(12):
        assert np.array_equal(flats[one], laid_flat(one))
        for other in range(one):
            assert np.abs(flats[one] - flats[other]).mean() > 0.02


def test_photos_of_an_encounter_share_its_light_and_vary_in_pose() -> None:
    photos = [Scene.from_seed(3, photo=number) for number in range(3)]
    assert len({scene.water_deep for scene in photos}) == 1
    assert len({scene.roll_deg for scene in photos}) == 3
    assert Scene.from_seed(4).water_deep != photos[0].water_deep


def test_no_difficulty_is_a_square_view() -> None:
    scene = Scene.from_seed(8, difficulty=0.0)
    assert (scene.roll_deg, scene.yaw_deg, scene.pitch_deg) == (0.0, 0.0, 0.0)
    assert (scene.blur, scene.haze, scene.spray) == (0.0, 0.0, 0.0)


def test_pattern_survives_a_change_of_encounter() -> None:
    """In a square view without weather, one individual's photos are nearer than another's."""
    photos = np.stack(
        [
            np.stack(
                [
                    synthetic.draw_fluke(
                        Fluke.from_seed(seed), Scene.from_seed(day, difficulty=0.0), size_px=SMALL
                    )
                    .astype(np.float32)[20:80, 20:140]
                    .mean(axis=2)
                    .ravel()
                    for seed in range(6)
                ]
            )
            for day in (100, 200)
        ]
    )
    photos -= photos.mean(axis=2, keepdims=True)
    photos /= np.linalg.norm(photos, axis=2, keepdims=True)
    assert (photos[0] @ photos[1].T).argmax(axis=1).tolist() == list(range(6))


def test_a_drawing_is_the_same_scene_at_every_size() -> None:
    fluke, scene = Fluke.from_seed(11), Scene.from_seed(12, difficulty=0.0)
    large = synthetic.draw_fluke(fluke, scene, size_px=(320, 240))
    small = synthetic.draw_fluke(fluke, scene, size_px=SMALL)
    halved = np.asarray(Image.fromarray(large).resize(SMALL, Image.Resampling.BOX))
    likeness = np.corrcoef(halved.mean(axis=2).ravel(), small.mean(axis=2).ravel())[0, 1]
    assert likeness > 0.85


@pytest.mark.parametrize("kind", synthetic.NEGATIVE_KINDS)
def test_negatives_are_drawn_from_their_seed(kind: synthetic.NegativeKind) -> None:
    photo = synthetic.draw_negative(kind, 1, size_px=SMALL)
    assert photo.shape == (120, 160, 3)
    assert photo.dtype == np.uint8
    assert np.array_equal(photo, synthetic.draw_negative(kind, 1, size_px=SMALL))
    assert not np.array_equal(photo, synthetic.draw_negative(kind, 2, size_px=SMALL))


def test_names_are_distinct_and_do_not_depend_on_their_number() -> None:
    names = drawings.individual_names(300)
    assert len({name.lower() for name in names}) == 300
    assert all(name.isalpha() and name.istitle() and 4 <= len(name) <= 8 for name in names)
    assert drawings.individual_names(20) == names[:20]


def test_demo_catalogue_has_about_600_photos_in_two_or_three_encounters() -> None:
    rows = drawings.plan_catalogue()
    assert len({row.identity for row in rows}) == drawings.DEMO_INDIVIDUALS == 120
    assert 550 <= len(rows) <= 650
    for name in {row.identity for row in rows}:
        own = [row for row in rows if row.identity == name]
        assert 2 <= len({row.encounter for row in own}) <= 3
        assert len({row.scene_seed for row in own}) == len({row.encounter for row in own})


def test_catalogue_on_disk(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    written = drawings.write_catalogue(
        tmp_path / "one",
        individuals=3,
        photos_per_individual=(2, 3),
        size_px=SMALL,
        progress=lambda done, total: seen.append((done, total)),
    )
    with (tmp_path / "one" / "metadata.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["image_id"] for row in rows] == [row.image_id for row in written.rows]
    assert {row["identity"] for row in rows} == set(written.names)
    assert set(rows[0]) == {
        *("image_id", "identity", "path", "species", "date", "orientation", "encounter")
    }
    assert seen[-1] == (len(rows), len(rows))
    for row in rows:
        path = tmp_path / "one" / row["path"]
        assert path.parent.name == row["identity"]
        with Image.open(path) as photo:
            assert (photo.format, photo.size) == ("JPEG", SMALL)

    drawings.write_catalogue(
        tmp_path / "two", individuals=3, photos_per_individual=(2, 3), size_px=SMALL
    )
    assert digest(tmp_path / "one") == digest(tmp_path / "two")


def test_queries_on_disk(tmp_path: Path) -> None:
    queries = drawings.write_queries(tmp_path, individuals=3, size_px=SMALL)
    manifest = json.loads(queries.manifest.read_text(encoding="utf-8"))
    assert manifest["known"] == {"individual": queries.known_individual}
    assert queries.known_individual in drawings.individual_names(3)
    assert set(manifest) == {"known", "unknown", "not_a_whale"}
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *("known.jpg", "manifest.json", "not_a_whale.jpg", "unknown.jpg")
    ]


def test_an_unknown_inside_the_catalogue_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="outside"):
        drawings.write_queries(tmp_path, individuals=10, unknown_position=9)


def test_a_day_at_sea_has_time_and_place_and_animals_in_turn(tmp_path: Path) -> None:
    photos = drawings.write_fieldwork(
        tmp_path, photos=6, known=2, strangers=1, individuals=20, size_px=(64, 48)
    )
    assert [photo.encounter for photo in photos] == [0, 0, 1, 1, 2, 2]
    names = drawings.individual_names(20)
    assert sorted(photo.identity or "" for photo in photos[::2])[0] == ""
    assert {photo.identity for photo in photos} - {None} <= set(names)
    read = [decode(photo.path.read_bytes()) for photo in photos]
    gaps = [
        (second.taken_at - first.taken_at).total_seconds()
        for first, second in itertools.pairwise(read)
    ]
    assert gaps == [7, 30 * 60 + 7, 7, 30 * 60 + 7, 7]
    assert (read[0].latitude, read[0].longitude) == (64.15, -22.4)
    assert read[0].photographer == "A. Observer"
