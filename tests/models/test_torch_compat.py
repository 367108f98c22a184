"""torch, timm and open_clip load beside a CPU torch, and their absence is a sentence."""

from __future__ import annotations

import importlib
import importlib.util
import subprocess
import sys

import pytest

from models.errors import ModelsExtraMissing
from models.torch_compat import load_timm, load_torch


@pytest.mark.torch
def test_torchvision_loads_once_its_operators_are_declared() -> None:
    code = (
        "from models.torch_compat import load_open_clip, load_timm, load_torch; "
        "load_torch(); load_timm(); load_open_clip(); import torch, torchvision; "
        "load_torch(); print(torch.ops.torchvision.nms, torchvision.transforms.Resize)"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "torchvision.nms" in done.stdout


def test_a_missing_torch_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ModelsExtraMissing, match=r'pip install -e "\.\[models\]"') as caught:
        load_torch()
    assert caught.value.code == "models_extra_missing"


@pytest.mark.torch
def test_a_broken_dependency_of_torch_is_not_called_a_missing_torch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(name: str) -> None:
        raise ModuleNotFoundError("No module named 'sympy'", name="sympy")

    load_torch()
    monkeypatch.setattr(importlib, "import_module", broken)
    with pytest.raises(ModuleNotFoundError, match="sympy"):
        load_timm()
