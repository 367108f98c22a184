"""Checkpoints are read strictly: whatever does not fit is refused and named."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from models.arcface import Architecture, load_network, load_pickled_module, read_state
from models.errors import BadCheckpoint
from tests.models.conftest import TINY, Tiny

pytestmark = pytest.mark.torch
ARCHITECTURE = Architecture(TINY, 64, "forward_features")
State = dict[str, Any]


def without(name: str) -> Callable[[State], State]:
    return lambda state: {key: value for key, value in state.items() if key != name}


def broken(name: str, value: float) -> Callable[[State], State]:
    def change(state: State) -> State:
        tensor = state[name].clone()
        tensor.view(-1)[3] = value
        return state | {name: tensor}

    return change


@pytest.mark.parametrize(
    ("change", "code", "culprit"),
    [
        (without("embedding.bias"), "missing_keys", "embedding.bias"),
        (without("arc.weight"), "missing_keys", "arc.weight"),
        (without("model.bn1.running_var"), "missing_keys", "model.bn1.running_var"),
        (lambda s: s | {"arc.bias": s["embedding.bias"]}, "unexpected_keys", "arc.bias"),
        (
            lambda s: s | {"embedding.weight": s["embedding.weight"][:, 1:]},
            "wrong_shape",
            "embedding.weight is (64, 255), needs (64, 256)",
        ),
        (lambda s: s | {"arc.weight": s["arc.weight"][0]}, "wrong_shape", "arc.weight is (64,)"),
        (lambda s: s | {"arc.weight": s["arc.weight"].T}, "wrong_shape", "arc.weight is (64, 10)"),
        (broken("model.conv_stem.weight", float("nan")), "not_finite", "model.conv_stem.weight"),
        (broken("arc.weight", float("inf")), "not_finite", "arc.weight"),
        (lambda s: s | {"arc.weight": s["arc.weight"] * 0}, "zero_rows", "arc.weight[0]"),
    ],
)
def test_what_does_not_fit_is_named(
    tiny_state: State, change: Callable[[State], State], code: str, culprit: str
) -> None:
    with pytest.raises(BadCheckpoint) as caught:
        load_network(change(tiny_state), ARCHITECTURE)
    assert caught.value.code == code
    assert culprit in caught.value.detail
    assert culprit in caught.value.culprits[0]


def test_a_good_state_fills_every_parameter(tiny_state: State) -> None:
    import torch

    network, rows = load_network(tiny_state, ARCHITECTURE)
    for name, value in network.state_dict().items():
        assert torch.equal(value, tiny_state[name].to(value.dtype)), name
    assert rows.shape == (10, 64)


def test_lightning_and_plain_files_are_read_alike(tiny_state: State, tmp_path: Path) -> None:
    import torch

    torch.save({"state_dict": tiny_state, "hyper_parameters": {"lr": 1e-3}}, tmp_path / "a.ckpt")
    torch.save(tiny_state, tmp_path / "b.pth")
    torch.save(tiny_state, tmp_path / "c.pth", _use_new_zipfile_serialization=False)
    for name in ("a.ckpt", "b.pth", "c.pth"):
        state = read_state(tmp_path / name)
        assert set(state) == set(tiny_state)
        assert torch.equal(state["arc.weight"], tiny_state["arc.weight"])


class Attack:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (exec, ("raise SystemExit('the pickle ran')",))


def test_a_checkpoint_that_runs_code_is_refused(tiny_state: State, tmp_path: Path) -> None:
    import torch

    torch.save({"state_dict": tiny_state, "callbacks": Attack()}, tmp_path / "a.ckpt")
    with pytest.raises(BadCheckpoint, match="unreadable"):
        read_state(tmp_path / "a.ckpt")


def lying_header(length: int, header: bytes, body: bytes = b"") -> bytes:
    return struct.pack("<Q", length) + header + body


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x80\x04\x95pickle",
        lying_header(10 * 2**30, b"{}"),
        lying_header(2, b"{}"),
        lying_header(
            len(h := json.dumps({"a": {"dtype": "F32", "shape": [9], "data_offsets": [0, 36]}})),
            h.encode(),
            b"1234",
        ),
    ],
    ids=["empty", "pickle", "header of 10 GB", "nothing inside", "shorter than it says"],
)
@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt"])
def test_files_that_are_not_what_they_claim_are_refused(
    tmp_path: Path, content: bytes, suffix: str
) -> None:
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(content)
    with pytest.raises(BadCheckpoint, match=f"unreadable: weights{suffix} holds no weights"):
        read_state(path)


def test_a_cut_file_is_refused(tiny: Tiny, tmp_path: Path) -> None:
    data = (tiny.folder / "w.safetensors").read_bytes()
    (tmp_path / "w.safetensors").write_bytes(data[:-1000])
    with pytest.raises(BadCheckpoint, match="unreadable"):
        read_state(tmp_path / "w.safetensors")


def test_a_state_with_other_things_than_tensors_is_refused(tmp_path: Path) -> None:
    import torch

    torch.save({"state_dict": {"a": torch.ones(1), "b": 3}}, tmp_path / "a.ckpt")
    with pytest.raises(BadCheckpoint, match="more than tensors: b"):
        read_state(tmp_path / "a.ckpt")


def test_a_pickled_module_is_loaded_by_its_own_door_only(tmp_path: Path) -> None:
    import torch

    module = torch.nn.Sequential(torch.nn.Conv2d(3, 5, 3), torch.nn.AdaptiveAvgPool2d(1))
    torch.save(module, tmp_path / "whole.pth")
    with pytest.raises(BadCheckpoint, match="unreadable"):
        read_state(tmp_path / "whole.pth")
    embedding, features = load_pickled_module(tmp_path / "whole.pth")(torch.rand(2, 3, 8, 8))
    assert features.shape == (2, 5)
    assert torch.allclose(embedding.norm(dim=1), torch.ones(2))
    torch.save({"a": torch.ones(1)}, tmp_path / "state.pth")
    with pytest.raises(BadCheckpoint, match="not_a_module"):
        load_pickled_module(tmp_path / "state.pth")
