"""Writes openapi.json, the description of the API that clients are generated from.

`python scripts/export_openapi.py` writes it; with `--check` it only says whether it is up to date.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from service.app import create_app
from service.settings import Settings

TARGET = Path(__file__).resolve().parent.parent / "openapi.json"


def description() -> str:
    """The API's description as the text of openapi.json."""
    settings = Settings.model_construct(**{n: f.default for n, f in Settings.model_fields.items()})
    return json.dumps(create_app(settings).openapi(), indent=2, ensure_ascii=False) + "\n"


def main() -> int:
    """Write or check; the exit code is 1 when the file is out of date."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing")
    if not parser.parse_args().check:
        TARGET.write_text(description(), encoding="utf-8")
        return 0
    if TARGET.read_text(encoding="utf-8") == description():
        return 0
    print(f"{TARGET} is out of date: run python scripts/export_openapi.py", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
