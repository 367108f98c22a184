"""openapi.json describes the API as it is."""

from __future__ import annotations

import json

from scripts.export_openapi import TARGET, description


def test_committed_description_is_up_to_date() -> None:
    assert TARGET.read_text(encoding="utf-8") == description(), (
        "run python scripts/export_openapi.py"
    )


def test_names_for_clients_are_clean_and_unique() -> None:
    described = json.loads(TARGET.read_text(encoding="utf-8"))
    assert described["openapi"].startswith("3.1")
    operations = [o for path in described["paths"].values() for o in path.values()]
    names = [operation["operationId"] for operation in operations]
    assert len(set(names)) == len(names)
    assert all(name.replace("_", "").isalpha() and "v1" not in name for name in names)
    assert all("default" in operation["responses"] for operation in operations)
