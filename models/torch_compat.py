"""Owns the lazy way to torch, timm and open_clip, and the one repair that they need here.

torchvision from the package index is built for CUDA. Beside a CPU torch its compiled operators do
not load, and `import torchvision` (so timm and open_clip) fails with "operator torchvision::nms
does not exist", because it registers fake kernels for operators that nobody declared. Only its
Python-level transforms are used, so declaring the two schemas first is enough. Where the operators
exist, the declaration is skipped.
"""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from typing import Any

from models.errors import ModelsExtraMissing
from models.threads import silence_telemetry

_BOXES_OPERATOR = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_OPERATORS = ("nms", "qnms")
# A library object takes its declarations with it when it is collected.
_declared: list[Any] = []


def load_torch() -> Any:
    """The torch module, ready for timm and open_clip.

    Raises:
        ModelsExtraMissing: torch is not installed.
    """
    silence_telemetry()
    torch = _load("torch")
    _declare_torchvision_operators(torch)
    return torch


def load_timm() -> Any:
    """The timm module (backbones)."""
    load_torch()
    return _load("timm")


def load_open_clip() -> Any:
    """The open_clip module (the gate's image and text towers)."""
    load_torch()
    return _load("open_clip")


def cuda_available() -> bool:
    """Whether a CUDA device can be used. Imports torch only where an NVIDIA driver is present."""
    if not Path("/dev/nvidiactl").exists() or importlib.util.find_spec("torch") is None:
        return False
    return bool(load_torch().cuda.is_available())


def _load(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        raise ModelsExtraMissing(name) from error


def _declare_torchvision_operators(torch: Any) -> None:
    if _declared or _has_compiled_operators(torch):
        return
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in _OPERATORS:
        library.define(f"{name}{_BOXES_OPERATOR}")
    _declared.append(library)


def _has_compiled_operators(torch: Any) -> bool:
    """Whether torchvision's own library declares the operators (its import loads that library)."""
    spec = importlib.util.find_spec("torchvision")
    if spec is None or not spec.submodule_search_locations:
        return True
    for folder in spec.submodule_search_locations:
        for library in sorted(Path(folder).glob("_C*.so")):
            try:
                torch.ops.load_library(str(library))
            except (OSError, RuntimeError):
                continue
    return hasattr(torch.ops.torchvision, "nms")
