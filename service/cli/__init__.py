"""The command line `resight`, by subject. Nothing heavy is imported before it is needed."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Entry point of the `resight` command."""
    from models.threads import configure_threads

    # Before numpy, FAISS or OpenVINO load; a value that is no number is refused with the settings.
    threads = os.environ.get("RESIGHT_THREADS", "")
    configure_threads(int(threads) if threads.isdigit() and int(threads) > 0 else None)

    from service.cli.commands import app
    from service.cli.common import run

    sys.exit(run(app))
