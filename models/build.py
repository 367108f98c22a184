"""Owns the one conversion from published files to a bundle that serving can load. Needs torch.

Everything is written into an empty folder that the caller moves into place when it is complete:
weights as safetensors, the OpenVINO graph, golden vectors, class list, cached text vectors, and the
manifest over all of them.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np

from models.arcface import (
    State,
    embedder_digest,
    load_network,
    load_pickled_module,
    read_state,
)
from models.clip import GateConfig, image_network, load_clip, text_vectors
from models.embedder import Floats
from models.errors import BundleError
from models.labels import check_labels, read_classes, read_species
from models.manifest import Manifest, check_dim, record_files, sha256_of, space_fingerprint
from models.preprocess import Preprocessing
from models.recipes import Recipe, SourceFile
from models.runtime import (
    Golden,
    export_ir,
    golden_input,
    openvino_runner,
    torch_runner,
    with_normalisation,
)

IR, IR_WEIGHTS, GOLDEN, TEXT = "network.xml", "network.bin", "golden.npz", "text.npz"
WEIGHTS, CLASSES, SPECIES, GATE = "weights.safetensors", "classes.json", "species.csv", "gate.npz"
_NONE: Final[dict[str, Any]] = {
    "pooled_from": "forward",
    "slots": 0,
    "mapped": 0,
    "scale": 0.0,
    "min_probability": 0.0,
    "prompts": (),
}
Say = Callable[[str], None]


def build_embedder(
    recipe: Recipe, source: Path, out: Path, say: Say, *, in_place: bool
) -> Manifest:
    """Build an identification model from `source` into the empty folder `out`.

    `in_place` leaves weights and lists where they are and records them under their own names: the
    caller moves the new files beside them.

    Raises:
        BundleError, BadCheckpoint, ModelsExtraMissing: with the culprit and what to do.
    """
    preprocessing = _preprocessing(recipe)
    check_dim(recipe.name, recipe.dim)
    paths = {role: _find(recipe, role, source) for role in ("checkpoint", "classes", "species")}
    gate = _find(recipe, "gate", source) if "gate" in recipe.files else None
    say("reading class list and weights")
    classes, species = read_classes(paths["classes"]), read_species(paths["species"])
    state = read_state(paths["checkpoint"])
    network, rows = load_network(state, recipe.network)
    check_labels(classes, len(rows), species)

    # Rounding weights to float16 costs a random network cosine 1e-4; where they are float16 already
    # it costs next to nothing.
    half = all(value.element_size() <= 2 for value in state.values() if value.ndim > 1)
    _convert(network, preprocessing, out, say, half=half)
    roles = {"ir": IR, "ir_weights": IR_WEIGHTS, "golden": GOLDEN}
    if in_place:
        roles |= {"weights": paths["checkpoint"].name, "classes": paths["classes"].name}
        roles |= {"species": paths["species"].name}
        roles |= {"gate": gate.name} if gate else {}
    else:
        say("writing weights")
        _save_weights(state, out / WEIGHTS)
        (out / CLASSES).write_text(json.dumps(classes, ensure_ascii=False, indent=0), "utf-8")
        shutil.copyfile(paths["species"], out / SPECIES)
        roles |= {"weights": WEIGHTS, "classes": CLASSES, "species": SPECIES}
        if gate:
            shutil.copyfile(gate, out / GATE)
            roles |= {"gate": GATE}
    files = record_files(out, [n for n in roles.values() if (out / n).is_file()])
    files |= record_files(source, [n for n in roles.values() if n not in files])
    manifest = Manifest(
        name=recipe.name,
        version=recipe.version,
        kind="embedder",
        stage=recipe.stage,
        licence=recipe.licence,
        architecture=recipe.architecture,
        pooled_from=recipe.pooled_from,
        dim=recipe.dim,
        slots=len(rows),
        mapped=len(classes),
        scale=recipe.scale,
        min_probability=recipe.min_probability,
        preprocessing=preprocessing,
        fingerprint=space_fingerprint(
            architecture=recipe.architecture,
            pooled_from=recipe.pooled_from,
            dim=recipe.dim,
            weights=embedder_digest(network),
            preprocessing=preprocessing.as_dict(),
        ),
        digest=sha256_of(paths["checkpoint"]),
        published=_is_published(recipe, source),
        prompts=(),
        created=_now(),
        roles=roles,
        files=files,
    )
    manifest.save(out)
    return manifest


def build_pickled(recipe: Recipe, path: Path, out: Path, say: Say) -> Manifest:
    """Build a coarse model from a pickled whole module: vectors, but no head and no class list."""
    preprocessing = _preprocessing(recipe)
    say("unpickling: this runs the code that the file holds")
    network = load_pickled_module(path)
    golden = _convert(network, preprocessing, out, say, half=False)
    _save_weights(network.state_dict(), out / WEIGHTS)
    roles = {"weights": WEIGHTS, "ir": IR, "ir_weights": IR_WEIGHTS, "golden": GOLDEN}
    dim = golden.vectors.shape[1]
    check_dim(recipe.name, dim)
    manifest = Manifest(
        **_NONE,
        name=recipe.name,
        version=recipe.version,
        kind="embedder",
        stage=recipe.stage,
        licence=recipe.licence,
        architecture=f"{recipe.architecture} (pickled module)",
        dim=dim,
        preprocessing=preprocessing,
        fingerprint=space_fingerprint(
            architecture=recipe.architecture,
            dim=dim,
            weights=embedder_digest(network),
            preprocessing=preprocessing.as_dict(),
        ),
        digest=sha256_of(path),
        published=recipe.files["checkpoint"].sha256 == sha256_of(path),
        created=_now(),
        roles=roles,
        files=record_files(out, roles.values()),
    )
    manifest.save(out)
    return manifest


def build_gate(recipe: Recipe, source: Path, out: Path, say: Say, config: GateConfig) -> Manifest:
    """Build the OpenCLIP gate from `source`: image tower as a graph, vectors of the prompts."""
    preprocessing = _preprocessing(recipe)
    checkpoint = _find(recipe, "checkpoint", source)
    say("reading weights")
    state = read_state(checkpoint)
    model = load_clip(state, recipe.architecture)
    golden = _convert(image_network(model), preprocessing, out, say, half=True)
    say(f"encoding {len(config.prompts)} prompts")
    save_text(out / TEXT, text_vectors(model, recipe.architecture, config.prompts))
    say("writing weights")
    # Read again only for CUDA, which computes in float16, and for other prompts.
    _save_weights({name: value.half() for name, value in state.items()}, out / WEIGHTS)
    roles = {"weights": WEIGHTS, "ir": IR, "ir_weights": IR_WEIGHTS, "golden": GOLDEN, "text": TEXT}
    manifest = Manifest(
        **_NONE | {"prompts": config.prompts},
        name=recipe.name,
        version=recipe.version,
        kind="gate",
        stage=recipe.stage,
        licence=recipe.licence,
        architecture=recipe.architecture,
        dim=golden.vectors.shape[1],
        preprocessing=preprocessing,
        fingerprint=space_fingerprint(
            architecture=recipe.architecture,
            weights=embedder_digest(model),
            preprocessing=preprocessing.as_dict(),
        ),
        digest=sha256_of(checkpoint),
        published=_is_published(recipe, source),
        created=_now(),
        roles=roles,
        files=record_files(out, roles.values()),
    )
    manifest.save(out)
    return manifest


def encode_prompts(folder: Path, manifest: Manifest, prompts: tuple[str, ...]) -> Floats:
    """The vectors of other prompts, from the text tower of an installed gate."""
    state = read_state(folder / manifest.roles["weights"])
    model = load_clip(state, manifest.architecture)
    return text_vectors(model, manifest.architecture, prompts)


def save_text(path: Path, vectors: Floats) -> None:
    """Cache prompt vectors float32 (P, D)."""
    np.savez(path, vectors=vectors)


def _convert(
    network: Any, preprocessing: Preprocessing, out: Path, say: Say, *, half: bool
) -> Golden:
    module = with_normalisation(network, preprocessing)
    vectors, features = torch_runner(module, "cpu")(golden_input(preprocessing))
    golden = Golden(vectors, features)
    golden.save(out / GOLDEN)
    say("converting to OpenVINO")
    export_ir(module, preprocessing, out / IR, half=half)
    openvino_runner(out / IR, preprocessing, golden)
    return golden


def _save_weights(state: State, path: Path) -> None:
    from safetensors.torch import save_file

    # Tensors of a checkpoint may share memory or be views; safetensors stores each on its own.
    save_file({name: value.detach().contiguous().clone() for name, value in state.items()}, path)
    path.chmod(0o644)  # safetensors writes for the owner alone


def _preprocessing(recipe: Recipe) -> Preprocessing:
    if recipe.preprocessing is None:
        raise BundleError("bad_recipe", f"{recipe.name} has no [preprocessing]: describe it there")
    return recipe.preprocessing


def _find(recipe: Recipe, role: str, source: Path) -> Path:
    file = recipe.files.get(role)
    if file is None:
        raise BundleError("bad_recipe", f"{recipe.name} names no file for {role} under [files]")
    path = file.find(source)
    if path is None:
        raise BundleError("file_missing", f"{source / file.path} ({role}) is missing")
    return path


def _is_published(recipe: Recipe, source: Path) -> bool:
    return all(_matches(file, source) for file in recipe.files.values())


def _matches(file: SourceFile, source: Path) -> bool:
    path = file.find(source)
    return file.sha256 is not None and path is not None and sha256_of(path) == file.sha256


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
