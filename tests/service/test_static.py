"""Static files: kept for ever under the version that a page names, imports included."""

from __future__ import annotations

import re

import pytest
from fastapi.testclient import TestClient

from service.web.pages import STATIC, asset_url, asset_version

IMPORT = re.compile(r'\bfrom "(\.[^"]+)"')


def test_what_a_page_names_is_kept_for_ever(shared_client: TestClient) -> None:
    page = shared_client.get("/individuals").text
    named = re.findall(r'(?:src|href)="(/static/[^"]+)"', page)
    assert named
    for address in named:
        answer = shared_client.get(address)
        assert answer.status_code == 200, address
        assert "immutable" in answer.headers["cache-control"]


def test_modules_import_by_relative_addresses_so_that_these_are_kept_as_well() -> None:
    for path in STATIC.rglob("*.js"):
        for address in IMPORT.findall(path.read_text(encoding="utf-8")):
            assert (path.parent / address).resolve().is_file(), f"{path.name}: {address}"


def test_an_old_page_gets_what_there_is_now_and_keeps_nothing(shared_client: TestClient) -> None:
    answer = shared_client.get("/static/000000000000/main.js")
    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "no-cache"


def test_a_file_that_is_not_there(shared_client: TestClient) -> None:
    assert shared_client.get(f"/static/{asset_version()}/none.js").status_code == 404
    assert shared_client.get(f"/static/{asset_version()}/../pages.py").status_code == 404
    with pytest.raises(KeyError):
        asset_url("none.js")
