"""Archives from strangers: each of the zoo has its declared outcome and costs no more than that."""

from __future__ import annotations

import time
import tracemalloc
import zipfile
from pathlib import Path

import pytest

from indexer.archive import BadArchive, ZipEntry, ZipLimits, escapes, is_system_file, read_zip
from tests import zoo

WHOLE = sorted(name for name, case in zoo.archives().items() if case.code is not None)
BY_ENTRY = sorted(name for name, case in zoo.archives().items() if case.code is None)


def outcomes(entries: list[ZipEntry]) -> tuple[tuple[str, str | None], ...]:
    return tuple((entry.name, entry.error.code if entry.error else None) for entry in entries)


@pytest.mark.parametrize("name", WHOLE)
def test_a_bad_archive_is_refused_before_the_first_entry(name: str) -> None:
    case = zoo.archives()[name]
    with pytest.raises(BadArchive) as caught:
        read_zip(case.data)
    assert caught.value.code == case.code
    assert caught.value.detail.endswith(".")


@pytest.mark.parametrize("name", BY_ENTRY)
def test_every_file_of_an_archive_is_answered_once_and_in_order(name: str, tmp_path: Path) -> None:
    case = zoo.archives()[name]
    from_bytes = list(read_zip(case.data))
    assert outcomes(from_bytes) == case.entries
    for entry in from_bytes:
        assert (entry.data is None) != (entry.error is None)
        assert entry.error is None or entry.error.entry == entry.name

    path = tmp_path / "photos.zip"
    path.write_bytes(case.data)
    assert list(read_zip(path)) == from_bytes


def test_data_is_what_was_packed() -> None:
    members = [(f"{number}.jpg", zoo.photo(number)) for number in range(5)]
    assert [(entry.name, entry.data) for entry in read_zip(zoo.packed(members))] == members


def test_a_hundred_thousand_entries_cost_almost_nothing() -> None:
    data = zoo.archives()["hundred_thousand"].data
    tracemalloc.start()
    started = time.perf_counter()
    with pytest.raises(BadArchive):
        read_zip(data)
    elapsed = time.perf_counter() - started
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert elapsed < 0.5
    assert peak < 2 * zoo.MIB


def test_a_bomb_never_takes_more_memory_than_one_entry_may() -> None:
    # The directory says 1 MiB, which no limit refuses; the data would unpack to 200 MiB.
    packed = zoo.packed([("a.jpg", bytes(200 * zoo.MIB))])
    lying = zoo._claim_sizes(packed, zoo.MIB)
    tracemalloc.start()
    [entry] = read_zip(lying)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert entry.error is not None
    assert entry.error.code == "broken_entry"
    assert peak < 8 * zoo.MIB


def test_entries_past_the_total_are_named_not_dropped() -> None:
    members = [(f"{number}.jpg", zoo._noise(1000)) for number in range(4)]
    data = zoo.packed(members, zipfile.ZIP_STORED)
    limits = ZipLimits(max_total_bytes=2500)
    with pytest.raises(BadArchive) as caught:
        read_zip(data, limits)
    assert caught.value.code == "total_too_large"

    # A directory that understates the sizes gets past that check, and fails entry by entry.
    lying = zoo._claim_sizes(data, 100)
    assert [entry.error.code for entry in read_zip(lying, limits) if entry.error] == [
        "broken_entry"
    ] * 4


def test_the_limits_of_the_caller_count() -> None:
    data = zoo.packed([("a.jpg", zoo._noise(1001)), ("b.jpg", zoo._noise(1000))])
    assert outcomes(list(read_zip(data, ZipLimits(max_entry_bytes=1000)))) == (
        ("a.jpg", "too_large_bytes"),
        ("b.jpg", None),
    )
    with pytest.raises(BadArchive) as caught:
        read_zip(data, ZipLimits(max_entries=1))
    assert caught.value.code == "too_many_entries"
    assert "2 entries" in caught.value.detail


def test_entries_that_overlap_are_refused(tmp_path: Path) -> None:
    # A quoted-overlap bomb: both directory entries point at one local entry.
    data = zoo.packed([("a.jpg", zoo.photo(1)), ("b.jpg", zoo.photo(2))])
    first, second = zoo._directory(data)
    both = bytearray(data)
    both[second + 42 : second + 46] = both[first + 42 : first + 46]
    codes = [entry.error.code if entry.error else None for entry in read_zip(bytes(both))]
    assert codes[1] == "broken_entry"


@pytest.mark.parametrize(
    ("name", "bad"),
    [
        ("a.jpg", False),
        ("x/a..b.jpg", False),
        ("..a.jpg", False),
        ("../a.jpg", True),
        ("x/..", True),
        ("/a.jpg", True),
        ("\\\\server\\a.jpg", True),
        ("D:a.jpg", True),
        ("", False),
    ],
)
def test_escapes(name: str, bad: bool) -> None:
    assert escapes(name) is bad


def test_system_files() -> None:
    assert is_system_file("__MACOSX/x/._a.jpg")
    assert is_system_file("x/.DS_Store")
    assert not is_system_file("x/a.jpg")
    assert not is_system_file("x/.hidden.jpg")


def test_a_missing_path_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_zip(tmp_path / "none.zip")
