"""Owns the process environment that numerical libraries read once, when they load.

Call `configure_threads` first thing in every entry point: once numpy, FAISS or OpenVINO are
imported it comes too late. Workers that spin after their work take the cores that inference needs.
OpenMP can be told to wait passively; OpenBLAS cannot, so it gets one thread: what it computes here
takes a few milliseconds either way (identify p50 137 ms with its two threads spinning, 104 ms with
one, on two cores).
"""

from __future__ import annotations

import os
import sys
import types

_POOL_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


def configure_threads(n: int | None = None) -> None:
    """Set thread counts and the wait policy of OpenMP and BLAS, and silence OpenVINO's telemetry.

    Args:
        n: threads of OpenMP and MKL; None leaves them to the libraries and what the user has set.
            A variable that the user has set already wins over `n`.
    """
    if n is not None and n < 1:
        raise ValueError(
            f"the number of threads is at least 1, got {n}; leave it out for automatic"
        )
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    if n is not None:
        for name in _POOL_VARIABLES:
            os.environ.setdefault(name, str(n))
    silence_telemetry()


def silence_telemetry() -> None:
    """Make `openvino_telemetry` unimportable in this process, so that nothing is ever reported.

    OpenVINO reports its own import unless the user has opted out in a file in the home folder.
    It imports the reporter inside `try … except ImportError` and goes on with a stub that does
    nothing; a None in `sys.modules` is Python's own way to make an import fail. Nothing is
    written to disk.
    """
    loaded: types.ModuleType | None = sys.modules.get("openvino_telemetry")
    if loaded is not None:
        raise RuntimeError(
            "openvino_telemetry is loaded: call configure_threads() before importing openvino"
        )
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
