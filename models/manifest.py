"""Owns `reid.json`, the record of a built bundle: what it is, its files and their checksums."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal

from models.embedder import EmbedderSpec
from models.errors import BundleError
from models.preprocess import Preprocessing

MANIFEST: Final = "reid.json"
VERSION_SIGN: Final = "@"
"""Between name and version, where both are needed to tell a bundle."""
MAX_DIM: Final = 4000
"""pgvector indexes no wider vector, as halfvec or otherwise."""
_FORMAT: Final = 1
_PLAIN: Final = re.compile(r"[\w.+-]+")


@dataclass(frozen=True, slots=True)
class FileRecord:
    """A file as it was when the bundle was built."""

    sha256: str
    size: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """A built bundle. `roles` names its files: weights, ir, golden, and where it has them classes,
    species, gate, text. `published` says whether the weights are byte for byte the published ones.
    """

    name: str
    version: str
    kind: Literal["embedder", "gate"]
    stage: str
    licence: str
    architecture: str
    pooled_from: str
    dim: int
    slots: int
    mapped: int
    scale: float
    min_probability: float
    preprocessing: Preprocessing
    fingerprint: str
    digest: str
    published: bool
    prompts: tuple[str, ...]
    created: str
    roles: dict[str, str]
    files: dict[str, FileRecord]

    @property
    def spec(self) -> EmbedderSpec:
        return EmbedderSpec(
            name=self.name,
            version=self.version,
            fingerprint=self.fingerprint,
            dim=self.dim,
            modality="photo",
            preprocessing=self.preprocessing,
            licence=self.licence,
            digest=self.digest,
        )

    def save(self, folder: Path) -> None:
        fields = asdict(self) | {
            "format": _FORMAT,
            "preprocessing": self.preprocessing.as_dict(),
        }
        text = json.dumps(fields, indent=1, sort_keys=True, ensure_ascii=False)
        (folder / MANIFEST).write_text(text + "\n", "utf-8")

    @classmethod
    def load(cls, folder: Path) -> Manifest:
        """Read a folder's record.

        Raises:
            BundleError: `not_built` (there is none), `bad_manifest` (it cannot be read).
        """
        try:
            fields: dict[str, Any] = json.loads((folder / MANIFEST).read_text("utf-8"))
            if fields.pop("format") != _FORMAT:
                raise ValueError(f"its format is not {_FORMAT}")
            preprocessing = Preprocessing.from_dict(fields.pop("preprocessing"))
            files = {name: FileRecord(**record) for name, record in fields.pop("files").items()}
            prompts = tuple(fields.pop("prompts"))
            manifest = cls(preprocessing=preprocessing, files=files, prompts=prompts, **fields)
            manifest.check_roles()
            manifest.check_space()
            return manifest
        except FileNotFoundError as error:
            raise BundleError(
                "not_built", f"{folder} has no {MANIFEST}: install the bundle again"
            ) from error
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise BundleError(
                "bad_manifest", f"{folder / MANIFEST} cannot be read ({error!r}): install it again"
            ) from error

    def check_roles(self) -> None:
        """Every file that this kind of bundle needs is named, on record and inside the folder.

        Raises:
            ValueError: with the role or the name at fault.
        """
        needed = ["weights", "ir", "ir_weights", "golden"]
        needed += ["text"] if self.kind == "gate" else []
        needed += ["classes", "species"] if self.slots else []
        for role in needed:
            if self.roles.get(role) not in self.files:
                raise ValueError(f"it has no file for {role}")
        for name in (self.name, *self.files):
            if Path(name).name != name or name.startswith("."):
                raise ValueError(f"{name!r} is no plain name")

    def check_space(self) -> None:
        """The name, the version and the space can be registered.

        Raises:
            ValueError: with what cannot.
            BundleError: `dim_too_large`.
        """
        for text in (self.name, self.version):
            if not _PLAIN.fullmatch(text):
                raise ValueError(f"{text!r} may hold letters, digits, '-', '+', '_' and '.' only")
        if not re.fullmatch(r"[0-9a-f]{64}", self.fingerprint):
            raise ValueError(f"its fingerprint is no SHA-256: {self.fingerprint!r}")
        check_dim(self.name, self.dim)

    def check_files(self, folder: Path, names: Iterable[str] | None = None) -> None:
        """Compare files with their record; None compares all.

        Raises:
            BundleError: `file_missing`, `file_changed`; the first one is named.
        """
        for name in self.files if names is None else names:
            record, path = self.files.get(name), folder / name
            if record is None or not path.is_file():
                raise BundleError(
                    "file_missing", f"{path} is missing: install the bundle {self.name} again"
                )
            size = path.stat().st_size
            if size != record.size or sha256_of(path) != record.sha256:
                raise BundleError(
                    "file_changed",
                    f"{path} is not what was installed ({size:,} bytes, expected {record.size:,} "
                    f"with SHA-256 {record.sha256[:12]}…): install the bundle {self.name} again",
                )


def check_dim(name: str, dim: int) -> None:
    """Refuse a space that could not be indexed.

    Raises:
        BundleError: `dim_too_large`, or `bad_dim` below 1.
    """
    if dim < 1:
        raise BundleError("bad_dim", f"{name} has {dim} dimensions: a vector needs at least one")
    if dim > MAX_DIM:
        raise BundleError(
            "dim_too_large",
            f"{name} has {dim:,} dimensions, and pgvector indexes at most {MAX_DIM:,}: use a model "
            "with fewer, or project its vectors down",
        )


def record_files(folder: Path, names: Iterable[str]) -> dict[str, FileRecord]:
    """Checksums and sizes of files in `folder`."""
    return {
        name: FileRecord(sha256_of(folder / name), (folder / name).stat().st_size)
        for name in sorted(names)
    }


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def space_fingerprint(**parts: object) -> str:
    """SHA-256 (hex) over everything that decides what a vector is, as canonical JSON."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()
