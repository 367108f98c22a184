"""The catalogue as CSV: what went in comes out, and can go in again."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from fastapi.testclient import TestClient

from indexer.layouts import Layout, plan_import
from tests.service.small import add, scene


def _rows(client: TestClient) -> list[dict[str, str]]:
    answer = client.get("/v1/annotations.csv")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/csv")
    return list(csv.DictReader(io.StringIO(answer.text)))


def test_each_annotation_is_a_line_with_the_name_after_merges(client: TestClient) -> None:
    files = [("file", ("=1+1.jpg", scene(1)))]
    made = client.post("/v1/individuals", data={"name": "=Tip", "taxon": "orca"}, files=files)
    assert made.status_code == 201, made.text
    [row] = _rows(client)
    assert row["identity"] == "'=Tip"
    assert row["original_name"] == "'=1+1.jpg"
    assert row["individual_id"] == made.json()["individual"]["id"]
    assert row["image_id"] == made.json()["photos"][0]["annotation_id"]
    assert (row["bbox"], row["encounter"]) == ("", "")


def test_the_table_is_one_that_import_reads(client: TestClient, tmp_path: Path) -> None:
    for name, number in (("Tip", 1), ("Tap", 2)):
        add(client, name, scene(number))
    text = client.get("/v1/annotations.csv").text
    for row in csv.DictReader(io.StringIO(text)):
        (tmp_path / row["path"]).write_bytes(client.get(_media(client, row)).content)
    (tmp_path / "metadata.csv").write_text(text, encoding="utf-8")
    plan = plan_import(tmp_path / "metadata.csv")
    assert plan.layout is Layout.WILDLIFE
    assert [entry.individual for entry in plan.entries] == ["Tip", "Tap"]
    assert not plan.skips


def _media(client: TestClient, row: dict[str, str]) -> str:
    photo = client.get(f"/v1/individuals/{row['individual_id']}").json()["photos"][0]
    return f"/v1/media/{photo['media_id']}"
