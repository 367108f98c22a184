"""Class list and species map: ids stay text, pickles run nothing, disagreement is named."""

from __future__ import annotations

import pickle
import re
from pathlib import Path

import numpy as np
import pytest

from models.errors import BadCheckpoint
from models.labels import check_labels, read_classes, read_species

IDS = ["7013564429e6", "000000000012", "1e10"]


def write(path: Path, value: object) -> Path:
    np.save(path, np.array(value, dtype=object), allow_pickle=True)
    return path


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_object_arrays_of_every_pickle_protocol_are_read(tmp_path: Path, protocol: int) -> None:
    array = np.array(IDS, dtype=object)
    path = tmp_path / "encoder_classes.npy"
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(array))
        pickle.dump(array, file, protocol=protocol)
    assert read_classes(path) == IDS


def test_strings_of_numpy_and_fixed_width_arrays_are_text_too(tmp_path: Path) -> None:
    assert read_classes(write(tmp_path / "a.npy", [np.str_(name) for name in IDS])) == IDS
    np.save(tmp_path / "b.npy", np.array(IDS))
    assert read_classes(tmp_path / "b.npy") == IDS


class Attack:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (exec, ("raise SystemExit('the pickle ran')",))


@pytest.mark.parametrize(
    "value",
    [[Attack()], [np.datetime64("2020-01-01")], [np.dtype("f4").type(1)], [Path("x")]],
)
def test_a_pickle_that_asks_for_more_than_text_is_refused(tmp_path: Path, value: object) -> None:
    with pytest.raises(BadCheckpoint, match="bad_class_list"):
        read_classes(write(tmp_path / "c.npy", value))


def test_a_huge_array_is_not_allocated(tmp_path: Path) -> None:
    path = tmp_path / "c.npy"
    array = np.array(IDS, dtype=object)
    bomb = pickle.dumps(array, protocol=2).replace(b"K\x00\x85", b"J\xff\xff\xff\x7f\x85", 1)
    assert bomb != pickle.dumps(array, protocol=2)
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(array))
        file.write(bomb)
    with pytest.raises(BadCheckpoint, match="2147483647"):
        read_classes(path)


@pytest.mark.parametrize(
    "content", [b"", b"\x93NUMPY", b"not an array", b"\x93NUMPY\x01\x00v\x00{"]
)
def test_what_is_no_array_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "c.npy").write_bytes(content)
    with pytest.raises(BadCheckpoint, match=r"c\.npy is no readable class list"):
        read_classes(tmp_path / "c.npy")


@pytest.mark.parametrize(
    ("value", "culprit"),
    [(["a", 7, "b"], "slot 1: 7"), (["a", ""], "slot 1: ''"), ([None], "slot 0: None")],
)
def test_entries_that_are_no_text_are_named(
    tmp_path: Path, value: list[object], culprit: str
) -> None:
    with pytest.raises(BadCheckpoint, match=re.escape(culprit)) as caught:
        read_classes(write(tmp_path / "c.npy", value))
    assert caught.value.culprits == (culprit,)


def test_numbers_in_a_json_list_are_no_ids(tmp_path: Path) -> None:
    (tmp_path / "classes.json").write_text('["a", 1e10]')
    with pytest.raises(BadCheckpoint, match=r"slot 1: 10000000000\.0"):
        read_classes(tmp_path / "classes.json")


def test_a_class_named_twice_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadCheckpoint, match="duplicate_classes") as caught:
        read_classes(write(tmp_path / "c.npy", ["a", "b", "a"]))
    assert caught.value.culprits == ("a",)


def species_file(tmp_path: Path, text: str) -> Path:
    (tmp_path / "species_map.csv").write_text(text, "utf-8")
    return tmp_path / "species_map.csv"


def test_the_species_map_keeps_raw_labels_and_text_ids(tmp_path: Path) -> None:
    path = species_file(tmp_path, "\ufeffindividual_id,species\n1e10,kiler_whale\n007,globis\n")
    assert read_species(path) == {"1e10": "kiler_whale", "007": "globis"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,species\na,b\n", "needs the columns"),
        ("", "has none"),
        ("individual_id,species\na,orca\na,beluga\n", "a two species: orca and beluga"),
    ],
)
def test_a_bad_species_map_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(BadCheckpoint, match=message):
        read_species(species_file(tmp_path, text))


def test_lists_are_checked_against_each_other() -> None:
    check_labels(["a", "b"], 2, {"a": "x", "b": "x"})
    check_labels(["a", "b"], 4, {"a": "x", "b": "x", "unnamed 1": "x", "unnamed 2": "x"})
    with pytest.raises(BadCheckpoint, match=r"2 individuals, the head has 1 slots.*b"):
        check_labels(["a", "b"], 1, {"a": "x", "b": "x"})
    with pytest.raises(BadCheckpoint, match=r"species_missing.*lacks 1 of 2 classes: b"):
        check_labels(["a", "b"], 2, {"a": "x", "b": ""})
    with pytest.raises(BadCheckpoint, match=r"species_extra.*2 ids.*only 1 unnamed.*c, d"):
        check_labels(["a", "b"], 3, {"a": "x", "b": "x", "c": "x", "d": "x"})
