"""`POST /v1/identify`: the gate, the default answer, the matches, and what is stored of them."""

from __future__ import annotations

import dataclasses
import uuid
from typing import Any

import pytest
from fastapi.testclient import TestClient
from pydantic import TypeAdapter

from indexer.answers import IdentifyAnswer
from models.gate import AbsentGate
from tests.service.conftest import Service
from tests.service.small import add, blank, head_of, identify, red, scene, serving_of

EXACT = TypeAdapter(IdentifyAnswer)


def test_answer_has_the_published_names(serve: Service) -> None:
    client = serve(serving_of(head_of([("anna", scene(1)), ("bert", scene(2))])))
    added = add(client, "anna", scene(1), scene(1, shift=1), taxon="humpback whale")
    add(client, "bert", scene(2))
    answer = identify(client, scene(1, shift=2), k=2)

    assert uuid.UUID(answer["query_id"])
    assert answer["gate"] == {
        "state": "accepted",
        "score": 0.97,
        "threshold": 0.5,
        "model": "structure-gate",
        "reason": None,
    }
    anna = {"id": added["individual"]["id"], "name": "anna", "taxon": "Megaptera novaeangliae"}
    default = answer["default_answer"]
    assert (default["status"], default["individual"]) == ("given", anna)
    assert 0.05 <= default["probability"] <= 1
    first = answer["matches"][0]
    assert (first["rank"], first["individual"], first["supporting"]) == (1, anna, 2)
    assert first["score"] > 0.8
    assert {first["annotation_id"], first["media_id"]} <= {
        text for photo in added["photos"] for text in (photo["annotation_id"], photo["media_id"])
    }
    assert [match["rank"] for match in answer["matches"]] == [1, 2]
    assert answer["agreement"] is True
    receipt = answer["receipt"]
    assert (receipt["mode"], receipt["eligible"], receipt["truncated"]) == ("exact", 3, False)
    assert receipt["excluded"] == {"self": 0, "duplicate": 0, "encounter": 0}
    assert {"decode", "gate", "embed", "search", "total"} <= set(receipt["timings_ms"])
    assert answer["stage"] == "pixels"


def test_answer_fits_its_schema(serve: Service) -> None:
    client = serve(serving_of(head_of([("anna", scene(1))])))
    add(client, "anna", scene(1))
    for photo in (scene(1, shift=1), blank(), red()):
        answer = identify(client, photo)
        assert EXACT.validate_python(answer, strict=False)
        known = {field.name for field in dataclasses.fields(IdentifyAnswer)}
        assert set(answer) == known


def test_new_individual_is_found_by_the_next_request(client: TestClient) -> None:
    before = identify(client, scene(5, shift=1))
    assert before["matches"] == []
    added = add(client, "carla", scene(5))
    assert [photo["embedded"] for photo in added["photos"]] == [True]
    after = identify(client, scene(5, shift=1))
    assert after["matches"][0]["individual"]["name"] == "carla"


def test_rejected_photo_is_a_result_without_names(serve: Service) -> None:
    client = serve(serving_of(head_of([("anna", scene(1))])))
    add(client, "anna", scene(1))
    answer = identify(client, blank())
    assert (answer["gate"]["state"], answer["gate"]["score"]) == ("rejected", 0.03)
    assert answer["default_answer"]["status"] == "withheld"
    assert answer["matches"] == []
    assert answer["receipt"] is None


def test_abstaining_gate_withholds_the_default_answer_and_shows_matches(serve: Service) -> None:
    client = serve(serving_of(head_of([("anna", red())])))
    add(client, "anna", scene(1))
    answer = identify(client, red())
    assert answer["gate"]["state"] == "abstained"
    assert answer["default_answer"]["status"] == "withheld"
    assert answer["default_answer"]["individual"] is None
    assert [match["individual"]["name"] for match in answer["matches"]] == ["anna"]
    assert answer["agreement"] is None


def test_individual_of_an_unnamed_slot_is_found_by_retrieval_alone(serve: Service) -> None:
    client = serve(serving_of(head_of([("anna", scene(1)), (None, scene(9))])))
    add(client, "anna", scene(1))
    add(client, "nobody-in-the-list", scene(9))
    answer = identify(client, scene(9, shift=1))
    default = answer["default_answer"]
    assert default["status"] == "unmapped_slot"
    assert default["individual"] is None
    assert "no name" in default["reason"]
    assert answer["matches"][0]["individual"]["name"] == "nobody-in-the-list"
    assert answer["agreement"] is None


def test_low_confidence_gives_no_name(serve: Service) -> None:
    client = serve(
        serving_of(head_of([("anna", scene(1)), ("bert", scene(2))], scale=0.01)),
        min_probability=0.6,
    )
    answer = identify(client, scene(1, shift=1))
    default = answer["default_answer"]
    assert (default["status"], default["individual"]) == ("low_confidence", None)
    assert default["probability"] < 0.6


def test_head_knows_a_name_that_the_catalogue_lacks(serve: Service) -> None:
    client = serve(serving_of(head_of([("7013564429e6", scene(1))])))
    default = identify(client, scene(1, shift=1))["default_answer"]
    assert default["status"] == "given"
    assert default["individual"] == {
        "id": None,
        "name": "7013564429e6",
        "taxon": "Megaptera novaeangliae",
    }


def test_head_and_retrieval_may_disagree(serve: Service) -> None:
    client = serve(serving_of(head_of([("anna", scene(1)), ("bert", scene(2))])))
    add(client, "anna", scene(2))
    add(client, "bert", scene(1))
    assert identify(client, scene(1, shift=1))["agreement"] is False


def test_no_head_is_unavailable_and_matches_speak(client: TestClient) -> None:
    add(client, "anna", scene(1))
    answer = identify(client, scene(1, shift=1))
    assert answer["default_answer"]["status"] == "unavailable"
    assert answer["matches"][0]["individual"]["name"] == "anna"


def test_without_models_the_gate_alone_answers(serve: Service) -> None:
    serving = dataclasses.replace(serving_of(), embedder=None, stage="gate", bundle=None)
    client = serve(serving)
    answer = identify(client, scene(1))
    assert (answer["stage"], answer["gate"]["state"]) == ("gate", "accepted")
    assert answer["default_answer"]["status"] == "unavailable"
    assert (answer["matches"], answer["receipt"], answer["novelty"]) == ([], None, None)
    ready = client.get("/ready")
    assert ready.status_code == 503
    assert ready.json()["reasons"][0]["code"] == "no_embedder"


def test_absent_gate_is_named_or_refused_by_policy(serve: Service) -> None:
    head = head_of([("anna", scene(1))])
    absent = serving_of(head, gate=AbsentGate("no weights"))
    answer = identify(serve(absent), scene(1, shift=1))
    assert answer["gate"]["state"] == "abstained"
    assert answer["default_answer"]["status"] == "withheld"
    assert "gate_absent" in [notice["code"] for notice in answer["notices"]]
    refusing = serve(absent, gate_policy="refuse")
    response = refusing.post("/v1/identify", files={"file": ("a.jpg", scene(1))})
    assert (response.status_code, response.json()["code"]) == (503, "gate_unavailable")


def test_individual_known_by_this_very_photo_alone_is_found(client: TestClient) -> None:
    add(client, "anna", scene(1))
    add(client, "bert", scene(2))
    answer = identify(client, scene(1))
    assert [match["individual"]["name"] for match in answer["matches"]] == ["anna", "bert"]
    assert answer["matches"][0]["score"] >= 0.999
    assert answer["receipt"]["excluded"]["self"] == 0
    strict = identify(client, scene(1), exclude_known="true")
    assert [match["individual"]["name"] for match in strict["matches"]] == ["bert"]


def test_stored_photo_is_left_out_as_itself_and_named(client: TestClient) -> None:
    add(client, "anna", scene(1), scene(3))
    add(client, "bert", scene(2))
    answer = identify(client, scene(1))
    assert answer["known_photo"]["individual"]["name"] == "anna"
    assert answer["matches"][0]["score"] < 0.999
    assert answer["receipt"]["excluded"]["self"] == 1
    found = identify(client, scene(1), exclude_known="false")
    assert found["matches"][0]["individual"]["name"] == "anna"
    assert found["matches"][0]["score"] >= 0.999


def test_photos_of_one_encounter_are_answered_together(client: TestClient) -> None:
    add(client, "anna", scene(1), scene(2))
    add(client, "bert", scene(3))
    answer = identify(client, scene(1, shift=1), scene(2, shift=1), b"not a photo", blank())
    assert [photo["position"] for photo in answer["photos"]] == [0, 1, 2, 3]
    states = [photo["gate"] and photo["gate"]["state"] for photo in answer["photos"]]
    assert states == ["accepted", "accepted", None, "rejected"]
    assert answer["photos"][2]["error"]["code"] == "unsupported_format"
    assert answer["gate"]["state"] == "accepted"
    assert answer["matches"][0]["individual"]["name"] == "anna"
    assert "photos_skipped" in [notice["code"] for notice in answer["notices"]]


def test_filters_narrow_and_are_repeated_in_the_receipt(client: TestClient) -> None:
    add(client, "anna", scene(1), taxon="humpback whale")
    add(client, "bert", scene(2), taxon="killer whale")
    answer = identify(client, scene(1, shift=1), taxon="orcinus orca")
    assert [match["individual"]["name"] for match in answer["matches"]] == ["bert"]
    assert answer["receipt"]["filters"] == {"taxon": ["orcinus orca"]}
    assert answer["receipt"]["eligible"] == 1


@pytest.mark.parametrize(
    ("fields", "pointer"),
    [
        ({"k": "0"}, "/k"),
        ({"k": "5000"}, "/k"),
        ({"sex": "both"}, "/sex"),
        ({"date_from": "yesterday"}, "/date_from"),
        ({"exclude_encounter": "mine"}, "/exclude_encounter/uuid"),
        ({"taxn": "humpback"}, "/taxn"),
    ],
)
def test_fields_that_do_not_fit_are_named(
    client: TestClient, fields: dict[str, str], pointer: str
) -> None:
    response = client.post("/v1/identify", files={"file": ("a.jpg", scene(1))}, data=fields)
    assert response.status_code == 422
    assert pointer in [error["pointer"] for error in response.json()["errors"]]


def test_query_is_stored_as_it_was_answered(client: TestClient) -> None:
    add(client, "anna", scene(1))
    answer = identify(client, scene(1, shift=1))
    stored: dict[str, Any] = client.get(f"/v1/queries/{answer['query_id']}").json()
    assert stored == answer
    assert client.get(f"/v1/media/{answer['photos'][0]['media_id']}").content == scene(1, shift=1)


def test_own_encounter_is_left_out_on_request(client: TestClient) -> None:
    add(client, "anna", scene(1))
    missing = uuid.uuid4()
    own = identify(client, scene(1, shift=1), exclude_encounter="own")
    assert own["receipt"]["excluded"]["encounter"] == 0
    response = client.post(
        "/v1/identify",
        files={"file": ("a.jpg", scene(1))},
        data={"exclude_encounter": str(missing)},
    )
    assert (response.status_code, response.json()["code"]) == (404, "encounter_unknown")


def test_equal_requests_give_equal_answers(client: TestClient) -> None:
    for name in range(12):
        add(client, f"twin-{name}", scene(3, shift=name))
    answers = [identify(client, scene(3, shift=20), k=12)["matches"] for _ in range(3)]
    assert answers[0] == answers[1] == answers[2]
    assert len({match["individual"]["id"] for match in answers[0]}) == 12
