"""The environment of a process: threads wait passively, and nothing is reported to anybody."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


def run(code: str, home: Path, **environment: str) -> str:
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("OMP", "OPENBLAS", "MKL"))}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=clean | {"HOME": str(home)} | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_it_loads_nothing_heavy(tmp_path: Path) -> None:
    code = (
        "import sys; from models.threads import configure_threads; configure_threads(2); "
        "print([m for m in ('numpy', 'torch', 'openvino', 'PIL', 'faiss') if m in sys.modules])"
    )
    assert run(code, tmp_path) == "[]"


def test_counts_and_wait_policy_are_set_and_the_users_own_win(tmp_path: Path) -> None:
    code = (
        "import os; from models.threads import configure_threads; configure_threads(3); "
        "print(*(os.environ[n] for n in ('OMP_NUM_THREADS', 'OPENBLAS_NUM_THREADS', "
        "'MKL_NUM_THREADS', 'OMP_WAIT_POLICY')))"
    )
    assert run(code, tmp_path) == "3 1 3 PASSIVE"
    assert run(code, tmp_path, OMP_NUM_THREADS="1") == "1 1 3 PASSIVE"


def test_fewer_than_one_thread_is_refused(tmp_path: Path) -> None:
    code = "from models.threads import configure_threads; configure_threads(0)"
    with pytest.raises(AssertionError, match="at least 1, got 0"):
        run(code, tmp_path)


def test_openvino_reports_nothing_and_leaves_no_consent_file(tmp_path: Path) -> None:
    code = (
        "import sys; from models.runtime import _openvino; ov = _openvino(); "
        "from openvino.tools.ovc import telemetry_utils; "
        "print(telemetry_utils.tm.__name__, sys.modules['openvino_telemetry'])"
    )
    assert run(code, tmp_path, CI="") == "openvino.tools.ovc.telemetry_stub None"
    assert list(tmp_path.iterdir()) == []


def test_coming_too_late_is_an_error(tmp_path: Path) -> None:
    code = (
        "import types, sys; sys.modules['openvino_telemetry'] = types.ModuleType('t'); "
        "from models.threads import configure_threads; configure_threads()"
    )
    with pytest.raises(AssertionError, match="before importing openvino"):
        run(code, tmp_path)
