"""Adding, listing and reading individuals; search and vectors of stored annotations."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from fastapi.testclient import TestClient

from tests.service.conftest import Service
from tests.service.small import PixelEmbedder, add, identify, scene, serving_of, vector_of


def post(client: TestClient, name: str, photo: bytes, key: str | None = None, **fields: str) -> Any:
    return client.post(
        "/v1/individuals",
        files={"file": ("a.jpg", photo)},
        data={"name": name, **fields},
        headers={"Idempotency-Key": key} if key else {},
    )


def test_added_individual_can_be_read(client: TestClient) -> None:
    response = post(client, "anna", scene(1), taxon="killer_whale", sex="female", notes="scar")
    assert response.status_code == 201
    where = response.headers["location"]
    assert where == f"/v1/individuals/{response.json()['individual']['id']}"
    read = client.get(where).json()
    assert (read["name"], read["names"], read["taxon"]) == ("anna", ["anna"], "Orcinus orca")
    assert (read["sex"], read["vitality"], read["notes"]) == ("female", "unknown", "scar")
    photo = response.json()["photos"][0]
    assert [p["annotation_id"] for p in read["photos"]] == [photo["annotation_id"]]
    thumbnail = client.get(f"/v1/media/{photo['media_id']}/thumbnail?size=100")
    assert thumbnail.headers["content-type"] == "image/jpeg"
    crop = client.get(f"/v1/annotations/{photo['annotation_id']}/crop")
    assert crop.content[:3] == b"\xff\xd8\xff"
    original = client.get(f"/v1/media/{photo['media_id']}")
    assert original.content == scene(1)
    assert original.headers["content-disposition"].startswith("attachment")


def test_name_is_taken_whatever_the_case(client: TestClient) -> None:
    first = add(client, "Anna", scene(1))
    response = post(client, "anna", scene(2))
    assert (response.status_code, response.json()["code"]) == (409, "individual_name_taken")
    assert client.get("/v1/individuals").json()["items"][0]["id"] == first["individual"]["id"]


def test_photo_of_another_individual_is_refused_whole(client: TestClient) -> None:
    add(client, "anna", scene(1))
    response = post(client, "bert", scene(1))
    assert (response.status_code, response.json()["code"]) == (409, "annotation_belongs_to_other")
    assert [one["name"] for one in client.get("/v1/individuals").json()["items"]] == ["anna"]


def test_idempotency_key_repeats_the_answer(client: TestClient) -> None:
    first = post(client, "anna", scene(1), key="k1")
    again = post(client, "anna", scene(1), key="k1")
    assert (again.status_code, again.json()) == (201, first.json())
    assert again.headers["idempotency-replayed"] == "true"
    other = post(client, "bert", scene(1), key="k1")
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")


def test_same_key_at_once_makes_one_individual(client: TestClient) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: post(client, "anna", scene(1), key="k"), range(8)))
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.json()["individual"]["id"] for answer in answers}) == 1
    assert len(client.get("/v1/individuals").json()["items"]) == 1


def test_same_name_at_once_makes_one_individual(client: TestClient) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda i: post(client, "anna", scene(i)), range(8)))
    assert sorted(answer.status_code for answer in answers) == [201] + [409] * 7


def test_more_photos_are_added_once(client: TestClient) -> None:
    individual = add(client, "anna", scene(1))["individual"]["id"]
    where = f"/v1/individuals/{individual}/photos"
    first = client.post(where, files={"file": ("b.jpg", scene(2))})
    again = client.post(where, files={"file": ("b.jpg", scene(2))})
    assert first.status_code == again.status_code == 201
    assert first.json()["photos"] == again.json()["photos"]
    assert client.get("/v1/individuals").json()["items"][0]["photo_count"] == 2
    assert identify(client, scene(2, shift=1))["matches"][0]["supporting"] >= 1


def test_unknown_query_becomes_an_individual(client: TestClient) -> None:
    add(client, "anna", scene(1))
    query = identify(client, scene(7))["query_id"]
    response = client.post(
        "/v1/individuals",
        data={"name": "newcomer", "query_id": query},
        files={},
        headers={"Content-Type": "multipart/form-data; boundary=b"},
        content=None,
    )
    # httpx sends no multipart body without files, so the body is written by hand.
    body = b"".join(
        b'--b\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s\r\n' % (name, value)
        for name, value in ((b"name", b"newcomer"), (b"query_id", query.encode()))
    )
    response = client.post(
        "/v1/individuals",
        content=body + b"--b--\r\n",
        headers={"Content-Type": "multipart/form-data; boundary=b"},
    )
    assert response.status_code == 201, response.text
    found = identify(client, scene(7, shift=1))["matches"][0]
    assert found["individual"]["name"] == "newcomer"


def test_list_walks_in_pages_without_gap_or_double(client: TestClient) -> None:
    names = [f"i{number:02}" for number in range(7)]
    for number, name in enumerate(names):
        add(client, name, scene(number))
    walked: list[str] = []
    url: str | None = "/v1/individuals?limit=3"
    while url:
        response = client.get(url)
        walked += [item["name"] for item in response.json()["items"]]
        link = response.headers.get("link")
        assert (link is None) == (response.json()["next_cursor"] is None)
        url = link.partition(">")[0].removeprefix("<") if link else None
    assert walked == names
    found = client.get("/v1/individuals", params={"text": "I03"}).json()["items"]
    assert [item["name"] for item in found] == ["i03"]


def test_audit_names_who_added_what(client: TestClient) -> None:
    from db.queries import records

    individual = add(client, "anna", scene(1))["individual"]["id"]
    with client.app.state.resight.runtime.sessions() as session:
        entry = records.list_audit(session).items[0]
    assert (entry.principal, entry.action, entry.subject) == (
        "local",
        "individual.add",
        f"individual:{individual}",
    )


def test_embedding_is_the_vector_with_its_space(client: TestClient) -> None:
    annotation = add(client, "anna", scene(1))["photos"][0]["annotation_id"]
    answer = client.get(f"/v1/annotations/{annotation}/embedding").json()
    assert answer["fingerprint"] == PixelEmbedder().spec.fingerprint
    assert answer["vector"] == pytest.approx(vector_of(scene(1)).tolist(), abs=1e-6)


def test_search_by_vector_needs_the_fingerprint_of_its_space(client: TestClient) -> None:
    add(client, "anna", scene(1))
    fingerprint = client.get("/v1/models").json()["embedder"]["fingerprint"]
    vector = vector_of(scene(1, shift=1)).tolist()
    good = client.post("/v1/search", json={"vector": vector, "fingerprint": fingerprint})
    assert good.json()["matches"][0]["individual"]["name"] == "anna"
    assert good.json()["receipt"]["fingerprint"] == fingerprint
    bad: list[tuple[dict[str, Any], str]] = [
        ({"vector": vector}, "fingerprint_missing"),
        ({"vector": vector, "fingerprint": "f" * 64}, "wrong_space"),
        ({"vector": vector[:-1], "fingerprint": fingerprint}, "wrong_space"),
        ({"vector": [0.0] * len(vector), "fingerprint": fingerprint}, "vector_invalid"),
        ({"vector": [1e39] * len(vector), "fingerprint": fingerprint}, "vector_invalid"),
        ({"vector": [], "fingerprint": fingerprint}, "invalid"),
        ({"fingerprint": fingerprint}, "invalid"),
        ({"vector": vector, "annotation_id": "1"}, "invalid"),
    ]
    for body, code in bad:
        response = client.post("/v1/search", json=body)
        assert (response.status_code, response.json()["code"]) == (422, code), body
    nan = json.dumps({"vector": [float("nan")] * len(vector), "fingerprint": fingerprint})
    response = client.post("/v1/search", content=nan, headers={"Content-Type": "application/json"})
    assert response.status_code == 422


def test_similar_leaves_itself_out_unless_asked(client: TestClient) -> None:
    own = add(client, "anna", scene(1))["photos"][0]["annotation_id"]
    add(client, "bert", scene(2))
    url = f"/v1/annotations/{own}/similar"
    others = client.post(url).json()
    assert [match["individual"]["name"] for match in others["matches"]] == ["bert"]
    assert others["receipt"]["excluded"]["self"] == 1
    with_self = client.post(url, json={"exclude_self": False}).json()["matches"][0]
    assert (with_self["annotation_id"], with_self["individual"]["name"]) == (own, "anna")
    assert with_self["score"] >= 0.999
    same = client.post("/v1/search", json={"annotation_id": own}).json()
    assert same["matches"] == others["matches"]


def test_another_bundle_answers_degraded_and_says_so(serve: Service) -> None:
    first = serve()
    add(first, "anna", scene(1))
    other = serve(serving_of(embedder=PixelEmbedder("other", "2")))
    ready = other.get("/ready")
    assert ready.status_code == 503
    assert ready.json()["reasons"][0]["code"] == "other_space_active"
    answer = identify(other, scene(1, shift=1))
    assert (answer["matches"], answer["receipt"]) == ([], None)
    assert "other_space_active" in [notice["code"] for notice in answer["notices"]]
    added = add(other, "bert", scene(2))
    assert [photo["embedded"] for photo in added["photos"]] == [False]
    assert added["notices"][0]["code"] == "not_embedded"


def test_activation_embeds_everything_and_switches(serve: Service) -> None:
    from indexer.spaces import activate

    first = serve()
    add(first, "anna", scene(1))
    runtime = first.app.state.resight.runtime
    new = serving_of(embedder=PixelEmbedder("other", "2"))
    snapshots = runtime.settings.snapshots_dir
    failures = activate(runtime.sessions, runtime.store, new, snapshots_dir=snapshots)
    assert failures == ()
    runtime.look()
    reasons = {r["code"]: r["detail"] for r in first.get("/ready").json()["reasons"]}
    assert "resight models add" in reasons["space_switched"]
    assert identify(first, scene(1, shift=1))["matches"][0]["individual"]["name"] == "anna"
    second = serve(new)
    assert second.get("/ready").status_code == 200
    assert identify(second, scene(1, shift=1))["matches"][0]["individual"]["name"] == "anna"
