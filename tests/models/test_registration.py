"""What is refused when a bundle is installed, versions side by side, and one space by its name."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.bundles import install, list_installed, load_embedder, load_serving, load_space, show
from models.errors import BundleError
from models.manifest import MANIFEST, Manifest, sha256_of
from tests.models.conftest import Tiny, draw_photo, write_tiny

pytestmark = pytest.mark.torch


def built_copy(tiny_models: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_models / "tiny", tmp_path / "built"))


def rewrite(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the manifest, and let its checksums fit the files as they are now."""
    record = json.loads((folder / MANIFEST).read_text("utf-8"))
    change(record)
    for name in record["files"]:
        path = folder / name
        record["files"][name] = {"sha256": sha256_of(path), "size": path.stat().st_size}
    (folder / MANIFEST).write_text(json.dumps(record), "utf-8")


def spoil_tensor(folder: Path, name: str) -> None:
    from safetensors.torch import load_file, save_file

    state = load_file(folder / "weights.safetensors")
    state[name].view(-1)[0] = float("nan")
    save_file(state, folder / "weights.safetensors")


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def zero_golden(folder: Path) -> None:
    with np.load(folder / "golden.npz") as arrays:
        zeros = {name: np.zeros_like(array) for name, array in arrays.items()}
    np.savez(folder / "golden.npz", **zeros)


def pickle_golden(folder: Path) -> None:
    np.savez(folder / "golden.npz", vectors=np.array([{}], dtype=object), features=np.zeros(1))


FAITHFUL: list[tuple[str, Callable[[Path], object], str]] = [
    ("truncated", lambda f: (f / "weights.safetensors").write_bytes(b"\0" * 4), "unreadable"),
    (
        "pickle under another name",
        lambda f: (f / "weights.safetensors").write_bytes(b"\x80\x04\x95" + b"x" * 64),
        "unreadable",
    ),
    (
        "header of 10 GB",
        lambda f: (f / "weights.safetensors").write_bytes(struct.pack("<Q", 10 * 2**30) + b"{}"),
        "unreadable",
    ),
    ("NaN in the network", lambda f: spoil_tensor(f, "embedding.weight"), "not_finite"),
    ("NaN in the head", lambda f: spoil_tensor(f, "arc.weight"), "not_finite"),
    ("graph that is none", lambda f: (f / "network.xml").write_text("<net/>"), "bad_ir"),
    ("graph without weights", lambda f: (f / "network.bin").write_bytes(b""), "bad_ir"),
    ("golden vectors of zero", zero_golden, "golden_mismatch"),
    ("pickled golden vectors", pickle_golden, "bad_golden"),
    ("no preprocessing", lambda f: rewrite(f, lambda m: m.pop("preprocessing")), "bad_manifest"),
    ("4,001 dimensions", lambda f: rewrite(f, lambda m: m.update(dim=4001)), "dim_too_large"),
    ("no fingerprint", lambda f: rewrite(f, lambda m: m.update(fingerprint="")), "bad_manifest"),
    ("a path as version", lambda f: rewrite(f, lambda m: m.update(version="../1")), "bad_manifest"),
]


@pytest.mark.parametrize(
    ("spoil", "code"), [case[1:] for case in FAITHFUL], ids=[case[0] for case in FAITHFUL]
)
def test_a_built_bundle_is_refused_even_where_its_checksums_fit(
    tiny_models: Path, tmp_path: Path, spoil: Callable[[Path], object], code: str
) -> None:
    """Promise 26: broken weights are refused at registration, and what serves is untouched."""
    built = built_copy(tiny_models, tmp_path)
    spoil(built)
    if code != "bad_manifest":
        rewrite(built, lambda _: None)
    models_dir = Path(shutil.copytree(tiny_models, tmp_path / "models"))
    with pytest.raises(BundleError) as caught:
        install(built, models_dir)
    assert caught.value.code == code
    assert [path.name for path in models_dir.iterdir()] == ["tiny"]
    assert load_serving(models_dir, device="cpu", starter=None).problems == ()


def test_a_flipped_byte_is_refused(tiny_models: Path, tmp_path: Path) -> None:
    """Promise 26: a flipped byte is found by its checksum before anything is loaded."""
    for name in ("weights.safetensors", "network.bin", "golden.npz"):
        shutil.rmtree(tmp_path / "built", ignore_errors=True)
        built = built_copy(tiny_models, tmp_path)
        flip(built / name)
        with pytest.raises(BundleError, match="file_changed"):
            install(built, tmp_path / "models")


def test_more_dimensions_than_can_be_indexed_are_refused_before_the_weights_are_read(
    tiny: Tiny, tmp_path: Path
) -> None:
    """Promise 24: more than 4,000 dimensions are refused when the model is registered."""
    source = Path(shutil.copytree(tiny.folder, tmp_path / "source"))
    text = (source / "bundle.toml").read_text("utf-8")
    (source / "bundle.toml").write_text(text.replace("dim = 64", "dim = 4001"), "utf-8")
    with pytest.raises(BundleError, match=r"dim_too_large.*4,001 dimensions.*at most 4,000"):
        install(source, tmp_path / "models")


def test_a_recipe_without_preprocessing_is_refused(tiny: Tiny, tmp_path: Path) -> None:
    """Promise 26: without its preprocessing a model makes no vector that means anything."""
    source = Path(shutil.copytree(tiny.folder, tmp_path / "source"))
    text = (source / "bundle.toml").read_text("utf-8")
    kept = text[: text.index("[preprocessing]")] + text[text.index("[files]") :]
    (source / "bundle.toml").write_text(kept, "utf-8")
    with pytest.raises(BundleError, match=r"bad_recipe.*preprocessing"):
        install(source, tmp_path / "models")


def test_one_space_has_one_name(tiny: Tiny, tmp_path: Path) -> None:
    """Promise 25: a second name for the same vectors would be a second space to move between."""
    models_dir = tmp_path / "models"
    install(tiny.folder, models_dir)
    write_tiny(tmp_path / "twin", tiny.state, tiny.classes, name="twin")
    with pytest.raises(BundleError, match="duplicate_space: twin makes the very vectors of tiny"):
        install(tmp_path / "twin", models_dir)
    assert [one.name for one in list_installed(models_dir, starter=None)] == ["tiny"]


# --- two versions of one name


def other_version(tiny: Tiny, folder: Path, version: str) -> Path:
    nudged = tiny.state["embedding.bias"].clone()
    nudged[: len(nudged) // 2] += 1
    write_tiny(folder, tiny.state | {"embedding.bias": nudged}, tiny.classes)
    text = (folder / "bundle.toml").read_text("utf-8")
    (folder / "bundle.toml").write_text(text.replace('"3"', f'"{version}"'), "utf-8")
    return folder


def manifest_of(models_dir: Path, name: str) -> Manifest:
    manifest = show(models_dir, name).manifest
    assert manifest is not None
    return manifest


def test_two_versions_of_one_name_lie_side_by_side(tiny: Tiny, tmp_path: Path) -> None:
    """Promise 23: the former model stays there, to go back to, when its successor is installed."""
    models_dir = tmp_path / "models"
    install(tiny.folder, models_dir)
    newer = install(other_version(tiny, tmp_path / "four", "4"), models_dir)
    assert newer.name == "tiny@4"
    assert newer.path == models_dir / "tiny@4"
    assert [one.name for one in list_installed(models_dir, starter=None)] == ["tiny", "tiny@4"]
    old, new = manifest_of(models_dir, "tiny"), manifest_of(models_dir, "tiny@4")
    assert (old.version, new.version) == ("3", "4")
    assert old.fingerprint != new.fingerprint
    assert manifest_of(models_dir, "tiny@3") == old
    assert manifest_of(models_dir, new.fingerprint) == new
    photo = [draw_photo(1)]
    for manifest, name in ((old, "tiny"), (new, "tiny@4")):
        embedder = load_embedder(models_dir, manifest.fingerprint, device="cpu", starter=None)
        assert embedder.spec.fingerprint == manifest.fingerprint
        serving = load_serving(models_dir, preferred=name, device="cpu", starter=None)
        assert serving.bundle == name
        assert serving.embedder is not None
        assert serving.embedder.spec.fingerprint == manifest.fingerprint
        by_space = load_space(models_dir, manifest.fingerprint, device="cpu", starter=None)
        assert by_space.bundle == name
        assert by_space.embedder is not None
        vectors = [one.embed(photo).vectors for one in (embedder, by_space.embedder)]
        assert np.array_equal(*vectors)


def test_the_same_space_again_replaces_its_bundle(tiny: Tiny, tmp_path: Path) -> None:
    models_dir = tmp_path / "models"
    install(tiny.folder, models_dir)
    install(other_version(tiny, tmp_path / "four", "4"), models_dir)
    again = install(other_version(tiny, tmp_path / "five", "5"), models_dir)
    assert again.path == models_dir / "tiny@4"
    assert manifest_of(models_dir, "tiny@5").version == "5"
    assert len(list_installed(models_dir, starter=None)) == 2


def test_the_same_version_with_other_vectors_is_refused(tiny: Tiny, tmp_path: Path) -> None:
    models_dir = tmp_path / "models"
    install(tiny.folder, models_dir)
    with pytest.raises(BundleError, match=r"version_taken: tiny 3 .* give the new one another"):
        install(other_version(tiny, tmp_path / "three", "3"), models_dir)
    assert [path.name for path in models_dir.iterdir()] == ["tiny"]


def test_a_space_that_no_bundle_here_fills_is_named(tiny_models: Path) -> None:
    for load in (load_embedder, load_space):
        with pytest.raises(BundleError, match=r"not_installed: no bundle .* ffffffffffff…"):
            load(tiny_models, "f" * 64, device="cpu", starter=None)


def test_a_gate_that_is_loaded_already_is_taken_over(tiny_models: Path) -> None:
    from models.gate import GateDecision

    class Judge:
        needs_features = False
        model = "judge"

        def decide(self, photos: Any, features: Any) -> list[GateDecision]:
            return []

    judge = Judge()
    fingerprint = manifest_of(tiny_models, "tiny").fingerprint
    assert load_space(tiny_models, fingerprint, device="cpu", gate=judge).gate is judge
