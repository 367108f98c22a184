"""Owns what is known about a bundle before it is built: `configs/models.toml` and `bundle.toml`.

A recipe says which files hold weights, class list and species, which architecture they fill and how
photos are prepared for it. Both files have the same fields; `bundle.toml` lies beside the files and
describes one bundle.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from models.arcface import Architecture
from models.errors import BundleError
from models.preprocess import DECODE, Preprocessing

ROOT: Final = Path(__file__).resolve().parents[1]
REGISTRY: Final = ROOT / "configs" / "models.toml"
GATE_CONFIG: Final = ROOT / "configs" / "gate.toml"
STARTER: Final = Path(__file__).resolve().parent / "starter"
BUNDLE_FILE: Final = "bundle.toml"


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file of a bundle as it is published; `also` are other names under which it goes."""

    path: str
    sha256: str | None = None
    also: tuple[str, ...] = ()

    def find(self, folder: Path) -> Path | None:
        """The file in `folder`, under any of its names."""
        for name in (self.path, *self.also):
            if (folder / name).is_file():
                return folder / name
        return None


@dataclass(frozen=True, slots=True)
class Recipe:
    """One entry of `configs/models.toml`, or one `bundle.toml`."""

    name: str
    version: str
    kind: Literal["embedder", "gate"]
    stage: str
    licence: str
    architecture: str
    summary: str
    files: dict[str, SourceFile]
    preprocessing: Preprocessing | None
    repo: str | None = None
    pooled_from: Literal["forward", "forward_features"] = "forward_features"
    dim: int = 512
    scale: float = 30.0
    min_probability: float = 0.05
    pickled: bool = False

    @property
    def network(self) -> Architecture:
        return Architecture(self.architecture, self.dim, self.pooled_from)

    @classmethod
    def from_dict(cls, fields: dict[str, Any], origin: str) -> Recipe:
        """Read the fields of TOML.

        Raises:
            BundleError: `bad_recipe`, with what is wrong in `origin`.
        """
        try:
            known = dict(fields)
            files = {role: _source_file(file) for role, file in known.pop("files", {}).items()}
            prepare = known.pop("preprocessing", None)
            preprocessing = (
                None if prepare is None else Preprocessing.from_dict({"decode": DECODE} | prepare)
            )
            name = _safe_name(known.pop("name"))
            _safe_name(known.get("version", "1"), "version")
            defaults = {"kind": "embedder", "stage": name, "summary": "", "version": "1"}
            recipe = cls(name=name, files=files, preprocessing=preprocessing, **defaults | known)
        except (KeyError, TypeError, ValueError) as error:
            raise BundleError("bad_recipe", f"{origin}: {error!r}") from error
        if recipe.kind not in ("embedder", "gate"):
            raise BundleError("bad_recipe", f"{origin}: kind {recipe.kind!r} is unknown")
        if recipe.pooled_from not in ("forward", "forward_features"):
            raise BundleError("bad_recipe", f"{origin}: pooled_from {recipe.pooled_from!r}")
        return recipe


def load_registry(path: Path = REGISTRY) -> dict[str, Recipe]:
    """The models known by name, in the order of fallback."""
    try:
        entries = tomllib.loads(path.read_text("utf-8"))["model"]
    except (OSError, ValueError, KeyError) as error:
        raise BundleError("bad_recipe", f"{path}: {error!r}") from error
    recipes = [Recipe.from_dict(entry, f"{path.name} entry {i}") for i, entry in enumerate(entries)]
    return {recipe.name: recipe for recipe in recipes}


def recipe_of(folder: Path, registry: dict[str, Recipe]) -> Recipe:
    """What a source folder holds: its `bundle.toml`, else the known model whose files lie there.

    Raises:
        BundleError: `no_bundle`, with what was looked for.
    """
    own = folder / BUNDLE_FILE
    if own.is_file():
        try:
            return Recipe.from_dict(tomllib.loads(own.read_text("utf-8")), str(own))
        except (OSError, ValueError) as error:
            raise BundleError("bad_recipe", f"{own}: {error}") from error
    for recipe in registry.values():
        if recipe.files and all(file.find(folder) for file in recipe.files.values()):
            return recipe
    known = "; ".join(
        f"{recipe.name}: {', '.join(file.path for file in recipe.files.values())}"
        for recipe in registry.values()
        if recipe.files
    )
    raise BundleError(
        "no_bundle",
        f"{folder} holds neither {BUNDLE_FILE} nor all files of a known model ({known})",
    )


def _source_file(value: Any) -> SourceFile:
    if isinstance(value, str):
        value = {"path": value}
    file = SourceFile(value["path"], value.get("sha256"), tuple(value.get("also", ())))
    for name in (file.path, *file.also):
        if Path(name).name != name or name in ("", ".", ".."):
            raise ValueError(f"file name {name!r} must be a plain name inside the folder")
    return file


def _safe_name(name: Any, what: str = "name") -> str:
    if (
        not isinstance(name, str)
        or not name
        or not name.replace("-", "").replace("_", "").replace(".", "").isalnum()
        or name.startswith(".")
    ):
        raise ValueError(f"{what} {name!r} may hold letters, digits, '-', '_' and '.' only")
    return name
