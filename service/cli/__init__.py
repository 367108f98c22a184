"""The command line `resight`, by subject. Nothing heavy is imported before it is needed."""

from __future__ import annotations

import gc
import os
import sys
from contextlib import suppress
from typing import NoReturn

_ALLOCATIONS = 50_000
"""Objects between two collections of garbage."""


def main() -> NoReturn:
    """Entry point of the `resight` command."""
    from models.threads import configure_threads

    # Importing makes a few hundred thousand objects and no garbage.
    gc.set_threshold(_ALLOCATIONS, 20, 20)
    # Before numpy, FAISS or OpenVINO load; a value that is no number is refused with the settings.
    threads = os.environ.get("RESIGHT_THREADS", "")
    configure_threads(int(threads) if threads.isdigit() and int(threads) > 0 else None)

    from service.cli.commands import app
    from service.cli.common import run

    code = run(app)
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    # All is committed and closed by now. Taking the interpreter down under the thread pools of
    # native libraries has crashed (once in a hundred runs, on a busy machine), and a success must
    # not end as a segmentation fault.
    os._exit(code)
