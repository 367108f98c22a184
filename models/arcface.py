"""Owns the ArcFace network: backbone, embedding layer, and the strict reading of their weights.

Layout of the weights: `model.*` is timm's backbone created with `num_classes=0, global_pool=""`,
`embedding.weight` (D × C) and `embedding.bias` the linear layer after global average pooling,
`arc.weight` (S × D) the rows of the head. Nothing may be missing, left over, of another shape or
not finite: a silently half-loaded network gives uniform answers.
"""

from __future__ import annotations

import hashlib
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from models.embedder import Floats
from models.errors import BadCheckpoint, name_some
from models.torch_compat import load_timm, load_torch

HEAD_KEY = "arc.weight"
_NUMPY_FLOATS = frozenset({"F16", "F32", "F64"})
State = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Architecture:
    """A backbone by its timm name, and the size of its embedding.

    `pooled_from` says which of timm's outputs is averaged: "forward" (all but the classifier) or
    "forward_features" (the last feature map, without a convolution that belongs to the head).
    """

    backbone: str
    dim: int
    pooled_from: Literal["forward", "forward_features"] = "forward"


def read_state(path: Path) -> State:
    """The tensors of a checkpoint by name: Lightning or plain torch file, or safetensors.

    Pickled files are read with `weights_only=True` and never otherwise.

    Raises:
        BadCheckpoint: `unreadable`.
    """
    torch = load_torch()
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state: Any = load_file(path)
        else:
            mapped = zipfile.is_zipfile(path)
            state = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
            state = state.get("state_dict", state) if isinstance(state, dict) else state
    except Exception as error:
        # torch and safetensors raise a dozen types here; all mean that this file is no checkpoint.
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BadCheckpoint("unreadable", f"{path.name} holds no weights: {reason}") from error
    if not isinstance(state, dict) or not state:
        raise BadCheckpoint("unreadable", f"{path.name} holds no weights: no named tensors in it")
    foreign = [str(name) for name, value in state.items() if not isinstance(value, torch.Tensor)]
    if foreign:
        raise BadCheckpoint(
            "unreadable",
            f"{path.name} holds more than tensors: {name_some(foreign)}",
            tuple(foreign),
        )
    return state


def check_weights(path: Path) -> None:
    """Look through a safetensors file without torch: intact, not empty, every value a number.

    Raises:
        BadCheckpoint: `unreadable`, `not_finite`.
    """
    from safetensors import SafetensorError, safe_open

    broken = []
    try:
        with safe_open(path, framework="numpy") as weights:
            names = list(weights.keys())
            for name in names:
                # NumPy knows no bfloat16; torch looks at such weights when it loads them.
                if weights.get_slice(name).get_dtype() in _NUMPY_FLOATS:
                    values = weights.get_tensor(name)
                    broken += [] if np.isfinite(values).all() else [name]
    except (SafetensorError, OSError) as error:
        raise BadCheckpoint("unreadable", f"{path.name} holds no weights: {error}") from error
    if not names:
        raise BadCheckpoint("unreadable", f"{path.name} holds no weights: no tensors in it")
    _refuse_broken(broken)


def build_network(architecture: Architecture) -> Any:
    """An `ArcFaceNet` with fresh weights, in evaluation mode.

    Its forward takes float32 (N, 3, H, W), normalised, and gives the embedding (N, dim) of unit
    length and the pooled features (N, C).
    """
    torch, timm = load_torch(), load_timm()
    backbone = timm.create_model(architecture.backbone, num_classes=0, global_pool="")
    backbone.eval()

    class ArcFaceNet(torch.nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.model = backbone

        def pool(self, photos: Any) -> Any:
            whole = architecture.pooled_from == "forward"
            out = self.model(photos) if whole else self.model.forward_features(photos)
            # A convolutional map is averaged; of a transformer's tokens the first speaks for all.
            return out.mean((2, 3)) if out.ndim == 4 else out[:, 0]

        def forward(self, photos: Any) -> tuple[Any, Any]:
            pooled = self.pool(photos)
            embedding = torch.nn.functional.normalize(self.embedding(pooled), dim=1)
            return embedding, pooled

    network = ArcFaceNet()
    side = (backbone.pretrained_cfg or {}).get("input_size", (3, 64, 64))[-1]
    with torch.no_grad():
        features = int(network.pool(torch.zeros(1, 3, side, side)).shape[1])
    network.embedding = torch.nn.Linear(features, architecture.dim)
    return network.eval()


def load_network(state: State, architecture: Architecture) -> tuple[Any, Floats]:
    """The network filled from `state`, and the head's rows float32 (S, D), as stored.

    Raises:
        BadCheckpoint: `missing_keys`, `unexpected_keys`, `wrong_shape`, `not_finite`, `zero_rows`;
            each names the culprits.
    """
    torch = load_torch()
    network = build_network(architecture)
    wanted = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    slots = state[HEAD_KEY].shape[0] if HEAD_KEY in state and state[HEAD_KEY].ndim else 0
    check_state(state, wanted | {HEAD_KEY: (slots, architecture.dim)})
    network.load_state_dict({name: value for name, value in state.items() if name != HEAD_KEY})
    rows: Floats = state[HEAD_KEY].to(torch.float32).numpy()
    empty = np.flatnonzero(~rows.any(axis=1)).tolist()
    if empty:
        names = [f"{HEAD_KEY}[{slot}]" for slot in empty]
        raise BadCheckpoint(
            "zero_rows", f"the head has empty rows: {name_some(names)}", tuple(names)
        )
    return network.float(), rows


def check_state(state: State, wanted: dict[str, tuple[int, ...]]) -> None:
    """Compare names, shapes and values of `state` with what the architecture needs."""
    missing = sorted(set(wanted) - set(state))
    if missing:
        raise BadCheckpoint(
            "missing_keys",
            f"the checkpoint lacks {len(missing):,} of {len(wanted):,} tensors: "
            f"{name_some(missing)}",
            tuple(missing),
        )
    unexpected = sorted(set(state) - set(wanted))
    if unexpected:
        raise BadCheckpoint(
            "unexpected_keys",
            f"the checkpoint holds {len(unexpected):,} tensors that the architecture does not "
            f"know: {name_some(unexpected)}",
            tuple(unexpected),
        )
    misshapen = [
        f"{name} is {tuple(state[name].shape)}, needs {shape}"
        for name, shape in wanted.items()
        if tuple(state[name].shape) != shape
    ]
    if misshapen:
        raise BadCheckpoint("wrong_shape", name_some(misshapen), tuple(misshapen))
    torch = load_torch()
    broken = [
        name
        for name, value in state.items()
        if value.is_floating_point() and not bool(torch.isfinite(value).all())
    ]
    _refuse_broken(broken)


def _refuse_broken(names: list[str]) -> None:
    if names:
        raise BadCheckpoint(
            "not_finite",
            f"{len(names):,} tensors hold NaN or infinity: {name_some(names)}",
            tuple(names),
        )


def embedder_digest(network: Any) -> str:
    """SHA-256 (hex) over names, shapes and float32 values of everything that makes the vector.

    The head is not part of it: re-fitting the head leaves the space as it is.
    """
    digest = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        if name.endswith("num_batches_tracked"):
            continue
        digest.update(f"{name}{tuple(value.shape)}".encode())
        digest.update(np.ascontiguousarray(value.float().numpy(), dtype="<f4").tobytes())
    return digest.hexdigest()


def load_pickled_module(path: Path) -> Any:
    """A *pickled whole module* as a network with the outputs (embedding, features).

    Unpickling runs whatever code the file holds: do this only with a file that you trust, best in
    a container. Nothing else in Resight ever loads such a file. The module's own output is the
    feature vector, and, scaled to unit length, the embedding.

    Raises:
        BadCheckpoint: `unreadable`, or `not_a_module` where the file holds something else.
    """
    torch = load_torch()
    try:
        module = torch.load(path, map_location="cpu", weights_only=False)
    except Exception as error:  # a pickle runs code, and code raises anything
        raise BadCheckpoint("unreadable", f"{path.name} cannot be unpickled: {error}") from error
    if not isinstance(module, torch.nn.Module):
        raise BadCheckpoint(
            "not_a_module", f"{path.name} holds a {type(module).__name__}, not a whole module"
        )

    class WholeModule(torch.nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.model = module

        def forward(self, photos: Any) -> tuple[Any, Any]:
            out = self.model(photos)
            pooled = out.mean((2, 3)) if out.ndim == 4 else out
            return torch.nn.functional.normalize(pooled, dim=1), pooled

    return WholeModule().float().eval()
