"""Who is who over HTTP: what programs may ask, change and take back."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi.testclient import TestClient
from psycopg.errors import DeadlockDetected
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from db.queries import records
from db.types import Role
from indexer.identity import Identity
from indexer.outcomes import Outcome
from tests.service.conftest import Service
from tests.service.small import add, identify, scene


@pytest.fixture
def pair(client: TestClient) -> tuple[str, str]:
    """Two individuals, anna with three photos and bert with one."""
    anna = add(client, "anna", scene(1), scene(1, shift=1), scene(2))
    bert = add(client, "bert", scene(3))
    return anna["individual"]["id"], bert["individual"]["id"]


def annotations(client: TestClient, individual: str) -> list[str]:
    photos = client.get(f"/v1/individuals/{individual}").json()["photos"]
    return [photo["annotation_id"] for photo in photos]


def ok(response: Any, status: int = 200) -> Any:
    assert response.status_code == status, response.text
    return response.json()


def refused(response: Any, status: int, code: str) -> Any:
    assert (response.status_code, response.json()["code"]) == (status, code)
    assert response.headers["content-type"] == "application/problem+json"
    return response.json()


def test_added_individual_can_be_taken_back_and_its_photos_stay(client: TestClient) -> None:
    who = add(client, "anna", scene(1))["individual"]["id"]
    [change] = ok(client.get("/v1/changes"))["items"]
    assert (change["action"], change["by"], change["individuals"]) == (
        "add",
        "local",
        [{"id": who, "name": "anna"}],
    )
    [photo] = annotations(client, who)
    undone = ok(client.post(f"/v1/changes/{change['id']}/undo"))
    refused(client.get(f"/v1/individuals/{who}"), 404, "individual_withdrawn")
    assert ok(client.get("/v1/individuals"))["items"] == []
    assert ok(client.get(f"/v1/annotations/{photo}"))["individual"] is None
    assert identify(client, scene(1, shift=1))["matches"] == []
    history = ok(client.get(f"/v1/individuals/{who}/history"))["items"]
    assert [item["action"] for item in history] == ["undo", "add"]
    assert history[1]["undone_by"] == undone["change_id"]
    ok(client.post(f"/v1/changes/{undone['change_id']}/undo"))
    assert identify(client, scene(1, shift=1))["matches"][0]["individual"]["name"] == "anna"


def test_added_photos_can_be_taken_back(client: TestClient) -> None:
    who = add(client, "anna", scene(1))["individual"]["id"]
    client.post(f"/v1/individuals/{who}/photos", files={"file": ("b.jpg", scene(2))})
    again = client.post(f"/v1/individuals/{who}/photos", files={"file": ("b.jpg", scene(2))})
    assert again.status_code == 201
    items = ok(client.get("/v1/changes"))["items"]
    assert [item["action"] for item in items] == ["photos", "add"]
    assert items[0]["detail"]["counts"]["photos"] == 1
    ok(client.post(f"/v1/changes/{items[0]['id']}/undo"))
    assert len(annotations(client, who)) == 1


def test_edit_needs_what_was_read_to_be_there_still(client: TestClient, pair: Any) -> None:
    where = f"/v1/individuals/{pair[0]}"
    tag = client.get(where).headers["etag"]
    assert client.get(f"{where}?limit=1").headers["etag"] == tag
    body = {"sex": "female", "life_stage": "adult", "links": ["https://example.org/1"]}
    response = client.patch(where, json=body, headers={"If-Match": tag})
    edited = ok(response)
    assert edited["individual"]["links"] == ["https://example.org/1"]
    assert response.headers["etag"] == client.get(where).headers["etag"] != tag
    stale = client.patch(where, json={"notes": "x"}, headers={"If-Match": tag})
    refused(stale, 412, "changed_meanwhile")
    assert ok(client.patch(where, json={"taxon": "killer whale"}))["individual"]["taxon"] == (
        "Orcinus orca"
    )
    now = ok(client.get(where))
    assert (now["sex"], now["life_stage"], now["notes"]) == ("female", "adult", None)
    refused(client.patch(where, json={"name": "x"}), 422, "invalid")
    refused(client.patch(where, json={"links": ["javascript:x"]}), 422, "link_invalid")


def test_names_are_added_and_removed_and_one_is_primary(client: TestClient, pair: Any) -> None:
    where = f"/v1/individuals/{pair[0]}"
    added = {"name": "HW-1", "catalogue": "HappyWhale"}
    first = client.post(f"{where}/names", json=added, headers={"Idempotency-Key": "k"})
    again = client.post(f"{where}/names", json=added, headers={"Idempotency-Key": "k"})
    assert ok(first, 201) == ok(again, 201)
    assert again.headers["idempotency-replayed"] == "true"
    ok(client.post(f"{where}/rename", json={"name": "Ännchen"}))
    names = ok(client.get(f"{where}/names"))["items"]
    assert [(n["name"], n["catalogue"], n["is_primary"]) for n in names] == [
        ("Ännchen", "main", True),
        ("HW-1", "HappyWhale", False),
        ("anna", "main", False),
    ]
    refused(client.delete(f"{where}/names/{names[0]['id']}"), 409, "name_is_primary")
    ok(client.delete(f"{where}/names/{names[2]['id']}"))
    taken = refused(
        client.post(f"{where}/rename", json={"name": "BERT"}), 409, "individual_name_taken"
    )
    assert taken["individual_id"] == pair[1]


def test_merge_previews_redirects_and_is_undone(client: TestClient, pair: Any) -> None:
    kept, other = pair
    url = f"/v1/individuals/{kept}/merge"
    preview = ok(client.post(url, json={"other_id": other, "preview": True}))
    assert preview["preview"] is True
    assert preview["counts"] == {"annotations": 1, "photos": 1, "encounters": 0, "names": 1}
    assert ok(client.get(f"/v1/individuals/{other}"))["name"] == "bert"
    done = ok(client.post(url, json={"other_id": other}))
    assert ok(client.get(f"/v1/individuals/{other}"))["names"] == ["anna", "bert"]
    match = identify(client, scene(3, shift=1))["matches"][0]
    assert match["individual"]["id"] == kept
    refused(client.post(url, json={"other_id": other}), 409, "individual_merged")
    refused(client.post(url, json={"other_id": kept}), 422, "merge_with_itself")
    ok(client.post(f"/v1/changes/{done['change_id']}/undo"))
    again = refused(client.post(f"/v1/changes/{done['change_id']}/undo"), 409, "change_undone")
    assert again["by"] == done["change_id"] + 1
    assert identify(client, scene(3, shift=1))["matches"][0]["individual"]["name"] == "bert"


def test_dismissed_pair_asks_before_it_is_merged(client: TestClient, pair: Any) -> None:
    kept, other = pair
    suggested = ok(client.get("/v1/suggestions/merges"))
    assert suggested["state"] == "ready"
    assert len(suggested["items"]) == 1
    body = {"individual_id": other, "other_id": kept}
    decision = ok(client.post("/v1/suggestions/merges/dismiss", json=body), 201)["decision_id"]
    assert ok(client.get("/v1/suggestions/merges"))["items"] == []
    url = f"/v1/individuals/{kept}/merge"
    problem = refused(client.post(url, json={"other_id": other}), 409, "merge_rejected_pair")
    assert problem["contradictions"][0]["decision_id"] == decision
    preview = ok(client.post(url, json={"other_id": other, "preview": True}))
    assert preview["contradictions"] == problem["contradictions"]
    ok(client.post(f"/v1/reviews/{decision}/undo"), 201)
    assert len(ok(client.get("/v1/suggestions/merges"))["items"]) == 1
    ok(client.post("/v1/suggestions/merges/dismiss", json=body), 201)
    ok(client.post(url, json={"other_id": other, "confirm_rejected": True}))


def test_split_and_its_suggestion(client: TestClient, pair: Any) -> None:
    who = pair[0]
    own = annotations(client, who)
    found = ok(client.get(f"/v1/individuals/{who}/split/suggestion", params={"groups": 2}))
    assert sorted(id_ for group in found["groups"] for id_ in group["annotation_ids"]) == own
    assert found["groups"][1]["annotation_ids"] == own[2:]
    url = f"/v1/individuals/{who}/split"
    preview = ok(client.post(url, json={"annotation_ids": own[2:], "preview": True}))
    assert preview["individual"]["name"] == "anna 2"
    done = ok(client.post(url, json={"annotation_ids": own[2:], "name": "cleo"}))
    assert annotations(client, done["individual"]["id"]) == own[2:]
    assert identify(client, scene(2, shift=1))["matches"][0]["individual"]["name"] == "cleo"
    refused(client.post(url, json={"annotation_ids": own[2:]}), 409, "annotation_of_other")
    refused(client.post(url, json={"annotation_ids": own[:2]}), 422, "split_takes_all")
    refused(client.post(url, json={"annotation_ids": []}), 422, "invalid")


def test_reassign_many_and_what_stands_in_the_way_of_undoing_it(
    client: TestClient, pair: Any
) -> None:
    """Promise 52: a superseded undo is 409 with the blocking id."""
    anna, bert = pair
    own = annotations(client, anna)
    first = ok(
        client.post(
            "/v1/annotations/reassign", json={"annotation_ids": own[:2], "individual_id": bert}
        )
    )
    assert first["counts"]["annotations"] == 2
    second = ok(
        client.post("/v1/annotations/reassign", json={"annotation_ids": own, "individual_id": None})
    )
    problem = refused(
        client.post(f"/v1/changes/{first['change_id']}/undo"), 409, "change_superseded"
    )
    assert problem["blocking_id"] == second["change_id"]
    for change in (second, first):
        ok(client.post(f"/v1/changes/{change['change_id']}/undo"))
    assert annotations(client, anna) == own
    outliers = ok(client.get("/v1/suggestions/outliers"))
    assert outliers["compared"] == 4


def test_feed_of_changes_is_followed_without_a_gap(client: TestClient, pair: Any) -> None:
    for name in ("b", "c", "d", "e"):
        ok(client.post(f"/v1/individuals/{pair[0]}/rename", json={"name": name}))
    dismissed = {"individual_id": pair[0], "other_id": pair[1]}
    ok(client.post("/v1/suggestions/merges/dismiss", json=dismissed), 201)
    seen: list[dict[str, Any]] = []
    while True:
        after = seen[-1]["seq"] if seen else 0
        page = ok(client.get("/v1/changes", params={"after": after, "limit": 4}))
        seen += page["items"]
        if not page["items"]:
            break
    assert [item["action"] for item in seen] == [
        "add",
        "add",
        *["rename"] * 4,
        "review.different",
    ]
    said = seen[-1]
    assert (said["id"], said["detail"]["verdict"]) == (None, "different")
    assert {one["id"] for one in said["individuals"]} == set(pair)
    newest = ok(client.get("/v1/changes", params={"limit": 3}))
    assert newest["items"] == seen[::-1][:3]
    rest = client.get("/v1/changes", params={"limit": 3, "cursor": newest["next_cursor"]})
    assert rest.json()["items"] == seen[::-1][3:6]
    assert ok(client.get("/v1/changes", params={"since": "2020-01-01"}))["items"] == seen
    assert ok(client.get("/v1/changes", params={"since": "2999-01-01"}))["items"] == []
    one = ok(client.get(f"/v1/changes/{seen[-2]['id']}"))
    assert (one["action"], one["detail"]["to"]) == ("rename", "e")
    refused(client.get("/v1/changes/999999"), 404, "change_unknown")
    refused(client.get("/v1/changes?cursor=x"), 422, "cursor_invalid")


def test_roles_and_the_audit_trail(serve: Service) -> None:
    client = serve()
    runtime = client.app.state.resight.runtime  # type: ignore[attr-defined]
    who = add(client, "anna", scene(1))["individual"]["id"]
    with runtime.sessions.begin() as session:
        keys = {role: records.create_key(session, role.value, role)[1] for role in Role}
    asked = [
        ("PATCH", f"/v1/individuals/{who}", {"notes": "x"}),
        ("POST", f"/v1/individuals/{who}/names", {"name": "a"}),
        ("POST", f"/v1/individuals/{who}/rename", {"name": "b"}),
    ]
    for method, path, body in asked:
        for role, expected in ((Role.VIEWER, 403), (Role.REVIEWER, 403), (Role.CURATOR, 2)):
            headers = {"Authorization": f"Bearer {keys[role]}"}
            status = client.request(method, path, json=body, headers=headers).status_code
            assert status == expected or status // 100 == expected, (path, role)
    viewer = {"Authorization": f"Bearer {keys[Role.VIEWER]}"}
    for path in ("/v1/changes", f"/v1/individuals/{who}/history", "/v1/suggestions/merges"):
        assert client.get(path, headers=viewer).status_code == 200
    with runtime.sessions() as session:
        trail = [(e.principal, e.action) for e in records.list_audit(session).items][:3]
        assert records.verify_audit(session) == []
        written = session.execute(text("SELECT count(*) FROM change")).scalar_one()
    assert trail == [
        ("curator", "identity.rename"),
        ("curator", "identity.add_name"),
        ("curator", "identity.edit"),
    ]
    assert written == 4


def test_a_page_carries_out_anew_what_met_another_change(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    who = add(client, "Nori", scene(1))["individual"]["id"]
    rename, met = Identity.rename, iter([DeadlockDetected("met")])

    def first_meets(self: Identity, *args: Any) -> Outcome:
        outcome = rename(self, *args)
        for problem in met:
            raise OperationalError("UPDATE", {}, problem)
        return outcome

    monkeypatch.setattr(Identity, "rename", first_meets)
    form = {"name": "Noriko", "how": "rename"}
    client.post(f"/individuals/{who}/names", data=form).raise_for_status()
    assert client.get(f"/v1/individuals/{who}").json()["name"] == "Noriko"
    history = client.get(f"/v1/individuals/{who}/history").json()["items"]
    assert [change["action"] for change in history].count("rename") == 1
