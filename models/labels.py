"""Owns the class list and the species map of a head: reading them safely, checking them together.

Ids are text from end to end. `encoder_classes.npy` is a pickle inside a NumPy file; it is read
through an unpickler that knows arrays and strings and nothing else.
"""

from __future__ import annotations

import csv
import io
import json
import pickle
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from models.errors import BadCheckpoint, name_some


def read_classes(path: Path) -> list[str]:
    """The class list, position = head slot, from a `.npy` object array or a JSON list of strings.

    Raises:
        BadCheckpoint: `bad_class_list`, `duplicate_classes`.
    """
    try:
        names = _read_npy(path) if path.suffix == ".npy" else json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, EOFError, MemoryError, pickle.UnpicklingError) as error:
        raise BadCheckpoint(
            "bad_class_list", f"{path.name} is no readable class list: {error}"
        ) from error
    if not isinstance(names, list) or not names:
        raise BadCheckpoint("bad_class_list", f"{path.name} holds no list of class names")
    bad = [f"slot {i}: {name!r}" for i, name in enumerate(names) if not _is_id(name)]
    if bad:
        raise BadCheckpoint(
            "bad_class_list",
            f"{path.name} holds entries that are no text or are empty: {name_some(bad)}",
            tuple(bad),
        )
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise BadCheckpoint(
            "duplicate_classes",
            f"{path.name} names {len(twice):,} classes more than once: {name_some(twice)}",
            tuple(twice),
        )
    return [str(name) for name in names]


def read_species(path: Path) -> dict[str, str]:
    """`individual_id,species` as a mapping of raw labels.

    Raises:
        BadCheckpoint: `bad_species_map` (no such columns, one id with two species).
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            if not {"individual_id", "species"} <= set(reader.fieldnames or ()):
                raise BadCheckpoint(
                    "bad_species_map",
                    f"{path.name} needs the columns individual_id,species, has "
                    f"{','.join(reader.fieldnames or ()) or 'none'}",
                )
            rows = [(row["individual_id"] or "", row["species"] or "") for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BadCheckpoint("bad_species_map", f"{path.name} cannot be read: {error}") from error
    species: dict[str, str] = {}
    for individual, label in rows:
        if species.setdefault(individual, label) != label:
            raise BadCheckpoint(
                "bad_species_map",
                f"{path.name} gives {individual} two species: {species[individual]} and {label}",
                (individual,),
            )
    return species


def check_labels(classes: list[str], slots: int, species: dict[str, str]) -> None:
    """Check class list, slot count and species map against each other.

    A head may have more slots than names: those individuals have photos but no name here. The
    species map may hold them too, so up to `slots - len(classes)` further ids are in order.

    Raises:
        BadCheckpoint: `too_many_classes`, `species_missing`, `species_extra`.
    """
    if len(classes) > slots:
        surplus = classes[slots:]
        raise BadCheckpoint(
            "too_many_classes",
            f"the class list names {len(classes):,} individuals, the head has {slots:,} slots: "
            f"nothing for {name_some(surplus)}",
            tuple(surplus),
        )
    lacking = [name for name in classes if not species.get(name)]
    if lacking:
        raise BadCheckpoint(
            "species_missing",
            f"the species map lacks {len(lacking):,} of {len(classes):,} classes: "
            f"{name_some(lacking)}",
            tuple(lacking),
        )
    extra = sorted(set(species) - set(classes))
    if len(extra) > slots - len(classes):
        raise BadCheckpoint(
            "species_extra",
            f"the species map holds {len(extra):,} ids that are no class, the head has only "
            f"{slots - len(classes):,} unnamed slots: {name_some(extra)}",
            tuple(extra),
        )


def _is_id(name: object) -> bool:
    return isinstance(name, str) and bool(name.strip())


def _read_npy(path: Path) -> list[Any]:
    data = path.read_bytes()
    stream = io.BytesIO(data)
    version = np.lib.format.read_magic(stream)
    read_header = (
        np.lib.format.read_array_header_1_0
        if version == (1, 0)
        else np.lib.format.read_array_header_2_0
    )
    shape, _, dtype = read_header(stream)
    if not dtype.hasobject:
        array = np.load(io.BytesIO(data), allow_pickle=False)
    else:
        array = _ArrayUnpickler(stream).load()
    if not isinstance(array, np.ndarray) or array.ndim != 1 or array.shape != shape:
        raise ValueError(f"it announces shape {shape} and does not hold a list of that length")
    names: list[Any] = array.tolist()
    return names


class _ArrayUnpickler(pickle.Unpickler):
    """Builds NumPy arrays and the values that pickle knows itself, and calls nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if module in ("numpy.core.multiarray", "numpy._core.multiarray"):
            if name == "_reconstruct":
                return _empty_array
            if name == "scalar":
                return _text_scalar
        if (module, name) == ("numpy", "ndarray"):
            return np.ndarray
        if (module, name) == ("numpy", "dtype"):
            return np.dtype
        if (module, name) == ("_codecs", "encode"):
            return _latin1
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, only arrays and text are read")


def _empty_array(kind: object, shape: object, _code: object) -> Any:
    if kind is not np.ndarray or shape != (0,):
        raise pickle.UnpicklingError(f"it asks for an array of {kind} and shape {shape}")
    return np.ndarray((0,), dtype="b")


def _text_scalar(dtype: object, data: object) -> str:
    if not isinstance(dtype, np.dtype) or dtype.kind != "U" or not isinstance(data, bytes):
        raise pickle.UnpicklingError(f"it holds a scalar of {dtype}, only text is read")
    return str(np.frombuffer(data, dtype=dtype)[0])


def _latin1(text: object, encoding: object) -> bytes:
    if not isinstance(text, str) or encoding != "latin1":
        raise pickle.UnpicklingError(f"it asks for the codec {encoding!r}")
    return text.encode("latin1")
