"""Rebuilds the converted files (graph, golden vectors, manifest) of the starter; needs torch."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from models.threads import configure_threads

configure_threads()

from models.bundles import convert_starter  # noqa: E402


def main() -> None:
    installed = convert_starter(say=print)
    manifest = installed.manifest
    if manifest is None:
        raise SystemExit(installed.problem.detail if installed.problem else "conversion failed")
    print(f"{installed.path}: {installed.size / 1e6:.1f} MB, space {manifest.fingerprint[:12]}")


if __name__ == "__main__":
    main()
