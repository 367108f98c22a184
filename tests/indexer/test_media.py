"""The media store: bytes are kept whole or not at all; what is derived from them tells no tales."""

from __future__ import annotations

import errno
import hashlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from indexer.media import SIZE_STEPS_PX, MediaError, MediaStore
from tests import zoo

DAY_S = 86_400.0


@pytest.fixture
def store(tmp_path: Path) -> MediaStore:
    return MediaStore(tmp_path / "media")


def files(store: MediaStore) -> list[Path]:
    return sorted(path for path in store.root.rglob("*") if path.is_file() and path.name != ".lock")


def make_old(path: Path, age_s: float = 2 * DAY_S) -> None:
    then = time.time() - age_s
    os.utime(path, (then, then))


def test_bytes_come_back_as_they_were(store: MediaStore) -> None:
    data = zoo.photo()
    sha256 = store.put(data)
    assert sha256 == hashlib.sha256(data).hexdigest()
    assert store.read(sha256) == data
    assert store.path(sha256).relative_to(store.root) == Path("originals", sha256[:2], sha256)
    assert store.has(sha256)
    assert store.verify(sha256)


def test_put_is_idempotent(store: MediaStore) -> None:
    first = store.put(b"same")
    before = files(store)
    assert store.put(b"same") == first
    assert files(store) == before
    assert list(store.stored()) == [first]


def test_a_cut_off_original_is_written_again(store: MediaStore) -> None:
    sha256 = store.put(b"whole photo")
    store.path(sha256).write_bytes(b"who")
    assert not store.verify(sha256)
    store.put(b"whole photo")
    assert store.verify(sha256)


def test_one_flipped_bit_is_found(store: MediaStore) -> None:
    sha256 = store.put(zoo.photo())
    data = bytearray(store.read(sha256))
    data[100] ^= 1
    store.path(sha256).write_bytes(data)
    assert not store.verify(sha256)


def test_a_missing_original_is_an_error_with_its_name(store: MediaStore) -> None:
    sha256 = hashlib.sha256(b"never").hexdigest()
    assert not store.has(sha256)
    assert not store.verify(sha256)
    with pytest.raises(MediaError, match=sha256) as caught:
        store.read(sha256)
    assert caught.value.code == "media_missing"
    with pytest.raises(MediaError) as caught:
        store.derived(sha256, "thumb")
    assert caught.value.code == "media_missing"


@pytest.mark.parametrize("name", ["", "../../etc/passwd", "A" * 64, "0" * 63, "0" * 64 + "\n"])
def test_only_a_sha256_names_a_file(store: MediaStore, name: str) -> None:
    with pytest.raises(MediaError) as caught:
        store.path(name)
    assert caught.value.code == "not_a_sha256"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_leaves_nothing_and_heals(
    store: MediaStore, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def full(_handle: int) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(MediaError) as caught:
            store.put(b"photo")
    assert caught.value.code == "disk_full"
    assert "5 bytes" in caught.value.detail
    assert files(store) == []
    assert store.verify(store.put(b"photo"))


def test_a_file_size_limit_of_the_system_is_a_full_disk(tmp_path: Path) -> None:
    script = """
import resource, signal, sys
from pathlib import Path
from indexer.media import MediaError, MediaStore
store = MediaStore(Path(sys.argv[1]))
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
try:
    store.put(bytes(5000))
except MediaError as error:
    print(error.code, list(store.stored()), store.leftovers())
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
print(store.verify(store.put(bytes(5000))))
"""
    command = [sys.executable, "-c", script, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.splitlines() == ["disk_full [] []", "True"]


def test_many_threads_and_one_photo(store: MediaStore) -> None:
    data = [zoo.photo(number) for number in range(4)]
    failures: list[BaseException] = []

    def work() -> None:
        try:
            for _ in range(5):
                for one in data:
                    store.derived(store.put(one), "thumb")
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(list(store.stored())) == 4
    assert len(files(store)) == 8
    assert store.leftovers() == []


@pytest.mark.parametrize("orientation", range(1, 9))
def test_derived_pictures_are_upright_and_carry_no_metadata(
    store: MediaStore, orientation: int
) -> None:
    sha256 = store.put(zoo.turned(orientation))
    assert b"SECRET-DESCRIPTION" in store.read(sha256)
    path = store.derived(sha256, "thumb")
    data = path.read_bytes()
    assert b"Exif" not in data
    assert b"SECRET" not in data
    with Image.open(path) as image:
        assert image.format == "JPEG"
        assert image.size == (96, 64)
        assert not image.getexif()
        red, green, blue = np.asarray(image)[10, 10]
    assert red > 200
    assert max(green, blue) < 80


def test_derived_pictures_are_cached_and_can_be_deleted(store: MediaStore) -> None:
    sha256 = store.put(zoo.photo(size=(640, 480)))
    path = store.derived(sha256, "view")
    written = path.stat().st_mtime_ns
    assert store.derived(sha256, "view") == path
    assert path.stat().st_mtime_ns == written
    path.unlink()
    assert store.derived(sha256, "view").is_file()
    assert list(store.stored()) == [sha256]


def test_a_crop_is_what_the_box_says(store: MediaStore) -> None:
    sha256 = store.put(zoo.turned(6))
    path = store.derived(sha256, "crop", 2048, (0, 0, 48, 32))
    with Image.open(path) as image:
        assert image.size == (48, 32)
        pixels = np.asarray(image).astype(int)
    assert pixels[4:-4, 4:-4, 0].min() > 180
    assert pixels[4:-4, 4:-4, 1:].max() < 90
    assert store.derived(sha256, "crop", 2048, (0, 0, 20, 20)) != path
    with pytest.raises(MediaError) as caught:
        store.derived(sha256, "crop", 64, (500, 500, 10, 10))
    assert caught.value.code == "bad_box"


def test_sizes_are_raised_to_a_step_and_never_enlarge(store: MediaStore) -> None:
    sha256 = store.put(zoo.photo(size=(700, 350)))
    for wanted, got in ((1, 64), (65, 128), (320, 320), (1300, 700), (999_999, 700)):
        with Image.open(store.derived(sha256, "thumb", wanted)) as image:
            assert max(image.size) == got
    for wanted in range(1, 3000, 7):
        store.derived(sha256, "thumb", wanted)
    assert len(files(store)) == 1 + len(SIZE_STEPS_PX)
    with pytest.raises(MediaError) as caught:
        store.derived(sha256, "thumb", 0)
    assert caught.value.code == "bad_size"


def test_a_damaged_original_is_told_apart(store: MediaStore) -> None:
    sha256 = store.put(zoo.photo())
    store.path(sha256).write_bytes(b"rotten")
    with pytest.raises(MediaError) as caught:
        store.derived(sha256, "thumb")
    assert caught.value.code == "media_damaged"


def test_a_sweep_takes_only_what_is_old_and_unknown(store: MediaStore) -> None:
    known, young, orphan = (store.put(data) for data in (b"known", b"young", b"orphan"))
    for sha256 in (known, orphan):
        make_old(store.path(sha256))
    half = store.root / "tmp" / "half"
    half.write_bytes(b"half a photo")
    make_old(half)
    being_written = store.root / "tmp" / "being-written"
    being_written.write_bytes(b"half")
    assert store.leftovers(DAY_S) == [half]
    asked: list[str] = []

    def rows(names: Sequence[str]) -> list[str]:
        asked.extend(names)
        return [known]

    swept = store.sweep(DAY_S, rows)
    assert (swept.temporary, swept.orphans) == (1, 1)
    assert swept.freed_bytes == len(b"half a photo") + len(b"orphan")
    assert sorted(asked) == sorted([known, orphan])
    assert sorted(store.stored()) == sorted([known, young])
    assert store.leftovers() == [being_written]


def test_without_rows_to_ask_a_sweep_leaves_originals_alone(store: MediaStore) -> None:
    sha256 = store.put(b"photo")
    make_old(store.path(sha256))
    assert store.sweep(0.0).orphans == 0
    assert store.has(sha256)


def test_a_photo_put_again_is_young_again(store: MediaStore) -> None:
    sha256 = store.put(b"photo")
    make_old(store.path(sha256))

    def rows(_names: Sequence[str]) -> list[str]:
        # Added between the look and the removal: its row is not yet visible.
        store.put(b"photo")
        return []

    assert store.sweep(DAY_S, rows).orphans == 0
    assert store.has(sha256)
