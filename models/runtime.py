"""Owns the running of networks: OpenVINO on a CPU, torch on CUDA, and the check that they agree.

A network takes uint8 (N, H, W, 3) at its input size and gives two float32 arrays: `embedding`
(N, D) of unit length and `features` (N, C). Normalisation is inside the graph. torch is needed to
make an OpenVINO graph and to run on CUDA, never to serve on a CPU.
"""

from __future__ import annotations

import ctypes
import mmap
import threading
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from models.embedder import Floats
from models.errors import BundleError
from models.preprocess import Preprocessing, Rgb
from models.threads import silence_telemetry
from models.torch_compat import load_torch

Run = Callable[[Rgb], tuple[Floats, Floats]]

REFUSE_BELOW: Final = 0.999
"""A runtime whose golden vectors have a lower cosine to torch float32 is refused."""
BF16_NEEDS: Final = 0.9999
"""bfloat16 (half the time where the CPU has it) is kept only at this agreement, else float32."""
_CUDA_BATCH: Final = 64


@dataclass(frozen=True, slots=True, eq=False)
class Golden:
    """What torch in float32 made of the golden photos: vectors (N, D) and features (N, C)."""

    vectors: Floats
    features: Floats

    def save(self, path: Path) -> None:
        np.savez(path, vectors=self.vectors, features=self.features)

    @classmethod
    def load(cls, path: Path) -> Golden:
        with np.load(path, allow_pickle=False) as arrays:
            return cls(arrays["vectors"], arrays["features"])


def golden_photos() -> list[Rgb]:
    """Three small photos, uint8, made by integer arithmetic alone: the same on every machine.

    A gradient, blotches of several sizes, and both with grain: no network was made for plain noise,
    and what it makes of it says little. They are not of any network's input size, so that resizing
    is checked as well.
    """
    y, x = np.mgrid[0:300, 0:400].astype(np.int64)
    ramp = np.stack((x * 255 // 399, y * 255 // 299, (x + y) * 255 // 698), axis=-1)
    blotches = sum((_hashed(y // size, x // size, size) for size in (100, 40, 10)), 0 * ramp) // 3
    grain = (ramp + 2 * blotches) // 3 + _hashed(y, x, 1) // 16 - 8
    photos = (ramp, blotches, np.clip(grain, 0, 255))
    return [np.ascontiguousarray(photo.astype(np.uint8)) for photo in photos]


def _hashed(y: NDArray[np.int64], x: NDArray[np.int64], salt: int) -> NDArray[np.int64]:
    """A value 0..255 per cell and channel that looks random."""
    cells = ((y * 1009 + x) * 3)[..., None] + np.arange(3) + salt * 7919
    mixed = cells * 2654435761 % 2**32
    mixed = (mixed ^ (mixed >> 15)) * 2246822519 % 2**32
    values: NDArray[np.int64] = (mixed ^ (mixed >> 13)) // 2**16 % 256
    return values


def golden_input(preprocessing: Preprocessing) -> Rgb:
    """The golden photos at a network's input size, uint8 (3, H, W, 3)."""
    return np.stack([preprocessing.apply(photo) for photo in golden_photos()])


def agreement(run: Run, preprocessing: Preprocessing, golden: Golden) -> float:
    """The lowest cosine between what `run` makes of the golden photos and what is on record."""
    vectors, features = run(golden_input(preprocessing))
    pairs = ((vectors, golden.vectors), (features, golden.features))
    for ours, theirs in pairs:
        if ours.shape != theirs.shape:
            raise BundleError(
                "golden_mismatch", f"the runtime gives shape {ours.shape}, on record {theirs.shape}"
            )
    lowest = min(float(_cosines(ours, theirs).min()) for ours, theirs in pairs)
    return lowest if np.isfinite(lowest) else -1.0


def check_agreement(measured: float, runtime: str) -> None:
    """Refuse a runtime that does not make of the golden photos what torch made at install.

    Raises:
        BundleError: `golden_mismatch`, with the measured cosine.
    """
    if measured < REFUSE_BELOW:
        raise BundleError(
            "golden_mismatch",
            f"{runtime} gives other vectors than at install: cosine {measured:.6f}, needs "
            f"{REFUSE_BELOW}; install the bundle again, and report it if that does not help",
        )


def with_normalisation(network: Any, preprocessing: Preprocessing) -> Any:
    """A torch module from uint8 (N, H, W, 3) to the network's two outputs."""
    torch = load_torch()

    class FromPixels(torch.nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.network = network
            for name in ("mean", "std"):
                values = torch.tensor(getattr(preprocessing, name)).view(1, 3, 1, 1) * 255
                self.register_buffer(name, values)

        def forward(self, pixels: Any) -> tuple[Any, Any]:
            photos = pixels.permute(0, 3, 1, 2).to(self.mean.dtype)
            embedding, features = self.network((photos - self.mean) / self.std)
            return embedding, features

    return FromPixels().eval()


def torch_runner(module: Any, device: str, *, half: bool = False) -> Run:
    """Run a module of `with_normalisation` in torch; `half` computes in float16."""
    torch = load_torch()
    module = module.to(device)
    lock = threading.Lock()

    def run(pixels: Rgb) -> tuple[Floats, Floats]:
        batches = []
        with lock, torch.inference_mode(), torch.autocast(device, torch.float16, enabled=half):
            for start in range(0, len(pixels), _CUDA_BATCH):
                batch = torch.from_numpy(pixels[start : start + _CUDA_BATCH]).to(device)
                batches.append([out.float().cpu().numpy() for out in module(batch)])
        vectors, features = (np.concatenate(parts) for parts in zip(*batches, strict=True))
        return vectors, features

    return run


def export_ir(module: Any, preprocessing: Preprocessing, target: Path, *, half: bool) -> None:
    """Write a module of `with_normalisation` as OpenVINO IR; `half` stores weights in float16."""
    torch = load_torch()
    openvino = _openvino()
    # The fused attention of inference mode has no decomposition that OpenVINO knows.
    torch.backends.mha.set_fastpath_enabled(False)
    shape = [1, preprocessing.height_px, preprocessing.width_px, 3]
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # deprecations inside torch.export and the converter
        exported = torch.export.export(module, (torch.zeros(shape, dtype=torch.uint8),))
        model = openvino.convert_model(exported)
    model.reshape({0: shape})
    for output, name in zip(model.outputs, ("embedding", "features"), strict=True):
        output.get_tensor().set_names({name})
    openvino.save_model(model, target, compress_to_fp16=half)


def openvino_runner(
    ir: Path, preprocessing: Preprocessing, golden: Golden, threads: int | None = None
) -> Run:
    """Compile IR for the CPU and check it against the golden vectors.

    bfloat16 is used where the CPU computes it and the vectors stay true, else float32.

    Raises:
        BundleError: `bad_ir` (the graph cannot be read), `golden_mismatch`.
    """
    core = _openvino().Core()
    capabilities = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    precisions = ("bf16", "f32") if "BF16" in capabilities else ("f32",)
    measured = -1.0
    for precision in precisions:
        run = _compile(core, ir, precision, threads)
        measured = agreement(run, preprocessing, golden)
        if measured >= (BF16_NEEDS if precision == "bf16" else REFUSE_BELOW):
            _release_pages(ir.with_suffix(".bin"))
            return run
    check_agreement(measured, "OpenVINO on this CPU")
    raise AssertionError("unreachable: the last precision passed and was not returned")


def _compile(core: Any, ir: Path, precision: str, threads: int | None) -> Run:
    hints: dict[str, object] = {
        "INFERENCE_PRECISION_HINT": precision,
        "PERFORMANCE_HINT": "LATENCY",
        "ENABLE_MMAP": True,
    }
    if threads is not None:
        hints["INFERENCE_NUM_THREADS"] = threads
    try:
        request = core.compile_model(str(ir), "CPU", hints).create_infer_request()
    except RuntimeError as error:
        raise BundleError("bad_ir", f"OpenVINO cannot read {ir.name}: {error}") from error
    lock = threading.Lock()

    def run(pixels: Rgb) -> tuple[Floats, Floats]:
        vectors, features = [], []
        for one in pixels:
            with lock:
                out = request.infer({0: one[None]}, share_inputs=True)
                vectors.append(np.array(out["embedding"][0], dtype=np.float32))
                features.append(np.array(out["features"][0], dtype=np.float32))
        return np.stack(vectors), np.stack(features)

    return run


def _release_pages(mapped: Path) -> None:
    """Give back the resident pages of a read-only file mapping of this process (Linux).

    OpenVINO keeps the weights file mapped after it has repacked the weights for this CPU: for both
    networks that is a quarter of a gigabyte that nobody reads again. Were it read, it would be
    paged in again from the file.
    """
    maps = Path("/proc/self/maps")
    if not maps.exists():
        return
    libc = ctypes.CDLL(None, use_errno=True)
    for line in maps.read_text("utf-8", "replace").splitlines():
        span, permissions, *_, last = line.split(maxsplit=5)
        if permissions.startswith("r--") and last == str(mapped.resolve()):
            start, end = (int(address, 16) for address in span.split("-"))
            libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), mmap.MADV_DONTNEED)


def _cosines(a: Floats, b: Floats) -> Floats:
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    cosines: Floats = (a * b).sum(axis=1) / np.maximum(norms, np.finfo(np.float32).tiny)
    return cosines


def _openvino() -> Any:
    silence_telemetry()
    import openvino

    return openvino
