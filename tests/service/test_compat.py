"""The routes that older clients call: names, shapes, order."""

from __future__ import annotations

import csv
import io
import json

import pytest
from fastapi.testclient import TestClient

from service.drift import FALL, WARM_UP, DriftWatch
from tests import zoo
from tests.service.conftest import Service
from tests.service.small import add, blank, head_of, identify, red, scene, serving_of

NAMES = {
    "image_ind",
    "bbox",
    "class_animal",
    "id_animal",
    "probability",
    "mask",
    "is_cetacean",
    "cetacean_score",
    "rejected",
    "rejection_reason",
    "model_version",
    "candidates",
}


@pytest.fixture
def client(serve: Service) -> TestClient:
    rows = [(f"a{number}", scene(number)) for number in range(7)]
    return serve(serving_of(head_of(rows, scale=3.0)))


@pytest.mark.parametrize("path", ["/v1/predict-single", "/predict-single"])
def test_single_answer(client: TestClient, path: str) -> None:
    response = client.post(path, files={"file": ("fluke.jpg", scene(3, shift=1), "image/jpeg")})
    answer = response.json()
    assert set(answer) == NAMES
    assert answer["image_ind"] == "fluke.jpg"
    assert answer["bbox"] == [0, 0, 240, 160]
    assert (answer["class_animal"], answer["id_animal"]) == ("a3", "humpback_whale")
    assert (answer["rejected"], answer["rejection_reason"]) == (False, None)
    assert (answer["is_cetacean"], answer["cetacean_score"]) == (True, 0.97)
    assert (answer["mask"], answer["model_version"]) == (None, "pixels 1")
    assert len(answer["candidates"]) == 4
    chances = [answer["probability"], *(c["probability"] for c in answer["candidates"])]
    assert chances == sorted(chances, reverse=True)
    assert set(answer["candidates"][0]) == {"class_animal", "id_animal", "probability"}


def test_rejections_are_results(client: TestClient) -> None:
    rejected = client.post("/v1/predict-single", files={"file": ("x.jpg", blank())}).json()
    assert (rejected["class_animal"], rejected["id_animal"]) == ("", "unknown")
    assert (rejected["probability"], rejected["is_cetacean"]) == (0.0, False)
    assert (rejected["rejected"], rejected["rejection_reason"]) == (True, "not_a_marine_mammal")
    unsure = client.post("/v1/predict-single", files={"file": ("x.jpg", red())}).json()
    assert (unsure["is_cetacean"], unsure["rejection_reason"]) == (None, "low_confidence")
    assert unsure["class_animal"] == ""


@pytest.mark.parametrize("path", ["/v1/predict-batch", "/predict-batch"])
def test_batch_answers_every_entry_in_order(client: TestClient, path: str) -> None:
    members = [
        ("b/2.jpg", scene(2, shift=1)),
        ("a/blank.jpg", blank()),
        ("broken.jpg", scene(1)[:500]),
        ("a/1.png", scene(1, shift=1)),
        ("notes.txt", b"hello"),
    ]
    files = {"archive": ("p.zip", zoo.packed(members), "application/zip")}
    answers = client.post(path, files=files).json()
    assert [answer["image_ind"] for answer in answers] == [name for name, _ in members]
    assert [answer["rejection_reason"] for answer in answers] == [
        None,
        "not_a_marine_mammal",
        "corrupted_image",
        None,
        "corrupted_image",
    ]
    assert [answer["class_animal"] for answer in answers] == ["a2", "", "", "a1", ""]
    assert all(set(answer) == NAMES for answer in answers)


def test_export_gives_queries_as_json_and_csv(client: TestClient) -> None:
    add(client, "=cmd()", scene(20))
    files = {"file": ("=HYPERLINK(1).jpg", scene(20, shift=1))}
    client.post("/v1/identify", files=files)
    client.post("/v1/predict-single", files={"file": ("b.jpg", blank())})
    rows = client.get("/v1/export").json()
    assert [(row["kind"], row["gate_state"]) for row in rows] == [
        ("identify", "accepted"),
        ("predict", "rejected"),
    ]
    assert rows[0]["best_match"] == "=cmd()"
    response = client.get("/v1/export?format=csv")
    assert response.headers["content-type"].startswith("text/csv")
    table = list(csv.DictReader(io.StringIO(response.text)))
    assert [row["query_id"] for row in table] == [row["query_id"] for row in rows]
    assert table[0]["image"] == "'=HYPERLINK(1).jpg"
    assert table[0]["best_match"] == "'=cmd()"
    later = client.get("/v1/export", params={"since": "2999-01-01"})
    assert json.loads(later.text) == []
    assert client.get("/v1/export?format=xml").status_code == 422


def test_drift_stats_of_the_service(client: TestClient) -> None:
    empty = client.get("/v1/drift-stats").json()
    assert empty == {
        "n": 0,
        "alarms_total": 0,
        "score_mean": None,
        "score_std": None,
        "probability_mean": None,
    }
    identify(client, scene(1, shift=1))
    identify(client, blank())
    stats = client.get("/v1/drift-stats").json()
    assert (stats["n"], stats["score_mean"]) == (2, pytest.approx(0.5))
    assert stats["score_std"] == pytest.approx(0.47)


def test_drift_alarm_counts_episodes() -> None:
    watch = DriftWatch()
    assert not any(watch.record(0.9, 0.5) for _ in range(WARM_UP))
    began = [watch.record(0.0, None) for _ in range(30)]
    assert began.count(True) == 1
    assert watch.stats()["alarms_total"] == 1
    for _ in range(2000):
        watch.record(0.9, None)
    assert watch.stats()["alarms_total"] == 1
    assert [watch.record(0.0, None) for _ in range(300)].count(True) == 1
    assert watch.stats()["alarms_total"] == 2
    assert pytest.approx(0.10) == FALL
