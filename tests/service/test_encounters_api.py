"""Encounters, annotations and rules of viewpoints over HTTP: roles, tags, keys, bad input."""

from __future__ import annotations

import io
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from fastapi.testclient import TestClient
from PIL import Image

from db.queries import records
from db.types import Role
from tests.photos import NOON, taken
from tests.service.conftest import Service
from tests.service.small import add, scene

MINUTE = timedelta(minutes=1)
Files = list[tuple[str, tuple[str, bytes, str]]]


def files_of(*photos: bytes) -> Files:
    return [("file", (f"{i}.jpg", data, "image/jpeg")) for i, data in enumerate(photos)]


def make(client: TestClient, *photos: bytes, **fields: object) -> dict[str, Any]:
    data = {"ask": "false", **{name: str(value) for name, value in fields.items()}}
    response = client.post("/v1/encounters", files=files_of(*photos), data=data)
    assert response.status_code == 201, response.text
    answer: dict[str, Any] = response.json()
    return answer


def test_an_encounter_is_made_read_and_corrected(client: TestClient) -> None:
    photo = taken(1, NOON, latitude=-41.0, longitude=174.0, by="Ana Kahu")
    response = client.post(
        "/v1/encounters",
        files=files_of(photo, b"no photo"),
        data={"place": "Kaikōura", "viewpoint": "left", "body_part": "flank", "ask": "false"},
    )
    assert response.status_code == 201, response.text
    made = response.json()
    where = response.headers["location"]
    assert where == f"/v1/encounters/{made['encounter']['id']}"
    assert [bool(one["error"]) for one in made["photos"]] == [False, True]
    assert (made["created"], made["query_id"]) == (True, None)
    read = client.get(where)
    view = read.json()
    assert view["encounter"] == made["encounter"]
    assert view["photos"][0]["photographer"] == "Ana Kahu"
    assert (view["photos"][0]["viewpoint"], view["photos"][0]["latitude"]) == ("left", -41.0)
    tag = read.headers["etag"]
    assert tag == f'"{view["encounter"]["etag"]}"'
    body = {"place": "Akaroa", "started_at": "2024-06-01", "longitude": None, "latitude": None}
    edited = client.patch(where, json=body, headers={"If-Match": tag})
    assert edited.status_code == 200, edited.text
    told = edited.json()["encounter"]
    assert (told["place"], told["started_at"]) == ("Akaroa", "2024-06-01T00:00:00+00:00")
    assert (told["latitude"], told["longitude"]) == (None, None)
    assert edited.json()["change_id"] is not None
    late = client.patch(where, json={"place": "Lyttelton"}, headers={"If-Match": tag})
    assert (late.status_code, late.json()["code"]) == (412, "changed_meanwhile")
    assert client.get(where).headers["etag"] == edited.headers["etag"]


def test_more_photos_and_a_key(client: TestClient) -> None:
    where = f"/v1/encounters/{make(client, scene(1))['encounter']['id']}"
    answers = [
        client.post(
            f"{where}/photos",
            files=files_of(scene(2)),
            data={"ask": "false"},
            headers={"Idempotency-Key": "k"},
        )
        for _ in range(2)
    ]
    assert [answer.status_code for answer in answers] == [201, 201]
    assert answers[0].json() == answers[1].json()
    assert answers[1].headers["idempotency-replayed"] == "true"
    assert len(client.get(where).json()["photos"]) == 2
    unknown = client.post(f"/v1/encounters/{uuid4()}/photos", files=files_of(scene(3)))
    assert (unknown.status_code, unknown.json()["code"]) == (404, "encounter_unknown")


def test_dropped_photos_are_sorted(client: TestClient) -> None:
    photos = [taken(i, NOON + i * 7 * MINUTE) for i in range(3)]
    response = client.post(
        "/v1/encounters/drop",
        files=files_of(*photos, b"no photo"),
        data={"gap_minutes": "6.5", "ask": "false", "observer": "Ben"},
    )
    assert response.status_code == 201, response.text
    dropped = response.json()
    assert [[p["position"] for p in one["photos"]] for one in dropped["encounters"]] == [
        [0],
        [1],
        [2],
    ]
    assert [one["position"] for one in dropped["refused"]] == [3]
    together = client.post(
        "/v1/encounters/drop",
        files=files_of(taken(9, NOON + 21 * MINUTE)),
        data={"ask": "false", "continues": dropped["encounters"][2]["encounter"]["id"]},
    ).json()
    assert (
        together["encounters"][0]["encounter"]["id"] == dropped["encounters"][2]["encounter"]["id"]
    )


def test_more_photos_than_allowed_are_refused(serve: Service) -> None:
    client = serve(max_photos_per_drop=2)
    assert client.get("/v1/limits").json()["max_photos_per_drop"] == 2
    for path in ("/v1/encounters", "/v1/encounters/drop"):
        refused = client.post(path, files=files_of(scene(1), scene(2), scene(3)))
        assert (refused.status_code, refused.json()["code"]) == (413, "too_many_photos")


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"latitude": "91", "longitude": "0"}, "invalid"),
        ({"latitude": "9"}, "position_incomplete"),
        ({"started_at": "soon"}, "invalid"),
        ({"started_at": "2024-06-02", "ended_at": "2024-06-01"}, "encounter_ends_before_start"),
        ({"viewpoint": ["left", "right", "left"]}, "labels_do_not_fit"),
        ({"colour": "blue"}, "invalid"),
    ],
)
def test_bad_fields_are_told_and_nothing_is_stored(
    client: TestClient, fields: dict[str, Any], code: str
) -> None:
    response = client.post("/v1/encounters", files=files_of(scene(1)), data=fields)
    assert (response.status_code, response.json()["code"]) == (422, code)
    assert client.get("/v1/encounters").json()["items"] == []


def test_nothing_readable_is_an_error_that_names_each(client: TestClient) -> None:
    response = client.post("/v1/encounters", files=files_of(b"no photo", b""))
    assert response.status_code in (400, 415)
    assert [error["pointer"] for error in response.json()["errors"]] == ["/file/0", "/file/1"]
    none = client.post(
        "/v1/encounters",
        content=b"--b--\r\n",
        headers={"Content-Type": "multipart/form-data; boundary=b"},
    )
    assert (none.status_code, none.json()["code"]) == (422, "no_photos")


def test_encounters_are_listed_in_pages(client: TestClient) -> None:
    for number in range(5):
        make(client, taken(number, NOON + number * MINUTE), place=f"Bay {number}")
    walked: list[str] = []
    url: str | None = "/v1/encounters?limit=2&place=bay"
    while url:
        response = client.get(url)
        walked += [item["encounter"]["place"] for item in response.json()["items"]]
        link = response.headers.get("link")
        url = link.partition(">")[0].removeprefix("<") if link else None
    assert walked == [f"Bay {number}" for number in (4, 3, 2, 1, 0)]
    oldest = client.get("/v1/encounters?oldest_first=true&limit=1").json()["items"]
    assert oldest[0]["encounter"]["place"] == "Bay 0"
    bad = client.get("/v1/encounters?cursor=x")
    assert (bad.status_code, bad.json()["code"]) == (422, "cursor_invalid")


# ---------------------------------------------------------------- annotations


def test_a_box_is_corrected_and_answers_at_once(client: TestClient) -> None:
    """Promise 39."""
    own = add(client, "anna", scene(1))["photos"][0]["annotation_id"]
    add(client, "bert", scene(2))
    where = f"/v1/annotations/{own}"
    before = client.get(f"{where}/embedding").json()["vector"]
    read = client.get(where)
    assert read.json()["individual"]["name"] == "anna"
    box = [20, 10, 90, 70]
    edited = client.patch(
        where, json={"box_px": box, "viewpoint": "left"}, headers={"If-Match": read.headers["etag"]}
    )
    assert edited.status_code == 200, edited.text
    assert (edited.json()["annotation"]["box_px"], edited.json()["notices"]) == (box, [])
    assert client.get(f"{where}/embedding").json()["vector"] != before
    crop = client.get(f"{where}/crop?size=4096")
    assert Image.open(io.BytesIO(crop.content)).size == (90, 70)
    stale = client.patch(where, json={"box_px": None}, headers={"If-Match": read.headers["etag"]})
    assert stale.status_code == 412
    undone = client.post(f"/v1/changes/{edited.json()['change_id']}/undo")
    assert undone.status_code in (200, 201), undone.text
    assert client.get(where).json()["box_px"] is None
    assert client.get(f"{where}/embedding").json()["vector"] == pytest.approx(before, abs=1e-6)


def test_a_second_animal_is_drawn(client: TestClient) -> None:
    """Promise 51: what is done with one of two regions leaves the other as it is."""
    first = add(client, "anna", scene(1))["photos"][0]
    body = {"media_id": first["media_id"], "box_px": [120, 0, 100, 100]}
    drawn = client.post("/v1/annotations", json=body)
    assert drawn.status_code == 201, drawn.text
    second = drawn.json()["annotation"]
    assert second["individual"] is None
    assert drawn.headers["location"] == f"/v1/annotations/{second['annotation_id']}"
    again = client.post("/v1/annotations", json=body)
    assert (again.status_code, again.json()["code"]) == (409, "annotation_exists")
    other = client.get(f"/v1/annotations/{first['annotation_id']}").json()
    client.patch(f"/v1/annotations/{second['annotation_id']}", json={"matchable": False})
    assert client.get(f"/v1/annotations/{first['annotation_id']}").json() == other


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"box_px": [0, 0, 500, 10]}, 422, "box_invalid"),
        ({"box_px": [0, 0, 10]}, 422, "invalid"),
        ({"matchable": None}, 422, "invalid"),
        ({"individual_id": str(uuid4())}, 422, "invalid"),
        ({"encounter_id": str(uuid4())}, 404, "encounter_unknown"),
    ],
)
def test_an_impossible_correction_is_refused(
    client: TestClient, body: dict[str, Any], status: int, code: str
) -> None:
    own = make(client, scene(1))["photos"][0]["annotation_id"]
    before = client.get(f"/v1/annotations/{own}").json()
    response = client.patch(f"/v1/annotations/{own}", json=body)
    assert (response.status_code, response.json()["code"]) == (status, code)
    assert client.get(f"/v1/annotations/{own}").json() == before


def test_many_annotations_are_edited_as_one_change(client: TestClient) -> None:
    ids = [photo["annotation_id"] for photo in make(client, scene(1), scene(2))["photos"]]
    body = {"annotation_ids": ids, "viewpoint": "left"}
    preview = client.post("/v1/annotations/edit", json=body | {"preview": True}).json()
    assert preview == {"preview": True, "changed": 2, "unchanged": 0, "change_id": None}
    done = client.post("/v1/annotations/edit", json=body).json()
    assert (done["changed"], done["change_id"] is None) == (2, False)
    assert client.post("/v1/annotations/edit", json={"annotation_ids": ids}).status_code == 422


def test_nothing_served_of_a_photo_carries_its_header(client: TestClient) -> None:
    """Pictures on pages tell neither where nor by whom they were taken."""
    photo = taken(1, NOON, latitude=-41.0, longitude=174.0, by="Ana Kahu")
    made = make(client, photo)["photos"][0]
    for path in (
        f"/v1/media/{made['media_id']}/thumbnail",
        f"/v1/annotations/{made['annotation_id']}/crop?size=4096",
    ):
        served = client.get(path).content
        assert b"Exif" not in served
        assert b"Kahu" not in served
        assert len(Image.open(io.BytesIO(served)).getexif()) == 0


# ---------------------------------------------------------------- rules of viewpoints


def test_left_is_not_compared_with_right_where_a_rule_says_so(client: TestClient) -> None:
    people = {}
    for number, (name, side) in enumerate([("anna", "left"), ("bert", "right"), ("cleo", None)]):
        own = add(client, name, scene(number))["photos"][0]["annotation_id"]
        people[name] = own
        body = {"viewpoint": side, "body_part": "flank"}
        assert client.patch(f"/v1/annotations/{own}", json=body).status_code == 200
    query = f"/v1/annotations/{people['anna']}/similar"
    found = client.post(query).json()
    assert [match["individual"]["name"] for match in found["matches"]] == ["cleo"]
    assert found["receipt"]["viewpoint_rule"] == {
        "sided": True,
        "viewpoint": "left",
        "body_part": "flank",
        "left_out": "right",
    }
    assert found["receipt"]["filters"] == {}
    rule = client.put("/v1/viewpoint-rules", json={"body_part": "Flank", "sided": False})
    assert rule.status_code == 200, rule.text
    assert rule.json()["set_by"] == "local"
    both = client.post(query).json()
    assert {match["individual"]["name"] for match in both["matches"]} == {"bert", "cleo"}
    assert both["receipt"]["viewpoint_rule"] is None


def test_rules_are_listed_set_and_deleted(client: TestClient) -> None:
    add(client, "anna", scene(1), taxon="killer whale")
    listed = client.get("/v1/viewpoint-rules").json()["items"]
    assert {rule["body_part"] for rule in listed} >= {"fluke", "flank", "dorsal fin", None}
    body = {"taxon": "orcinus orca", "body_part": " Saddle ", "sided": True}
    made = client.put("/v1/viewpoint-rules", json=body).json()
    assert (made["taxon"], made["body_part"]) == ("Orcinus orca", "Saddle")
    assert client.get("/v1/viewpoint-rules").json()["items"][0] == made
    unknown = client.put("/v1/viewpoint-rules", json=body | {"taxon": "nobody"})
    assert (unknown.status_code, unknown.json()["code"]) == (404, "taxon_unknown")
    gone = [client.delete(f"/v1/viewpoint-rules/{made['id']}").status_code for _ in range(2)]
    assert gone == [204, 404]
    with client.app.state.resight.runtime.sessions() as session:  # type: ignore[attr-defined]
        trail = [entry.action for entry in records.list_audit(session).items]
    assert trail[:2] == ["viewpoint_rule.delete", "viewpoint_rule.set"]


# ---------------------------------------------------------------- roles


@pytest.fixture
def keyed(serve: Service) -> Callable[[Role], tuple[TestClient, dict[str, str]]]:
    client = serve()
    keys: dict[Role, str] = {}
    with client.app.state.resight.runtime.sessions.begin() as session:  # type: ignore[attr-defined]
        for role in Role:
            keys[role] = records.create_key(session, f"a {role}", role)[1]

    def headers(role: Role) -> tuple[TestClient, dict[str, str]]:
        return client, {"Authorization": f"Bearer {keys[role]}"}

    return headers


def test_who_may_do_what(keyed: Callable[[Role], tuple[TestClient, dict[str, str]]]) -> None:
    client, reviewer = keyed(Role.REVIEWER)
    made = client.post(
        "/v1/encounters", files=files_of(scene(1)), data={"ask": "false"}, headers=reviewer
    )
    assert made.status_code == 201, made.text
    own = f"/v1/annotations/{made.json()['photos'][0]['annotation_id']}"
    where = made.headers["location"]
    _, viewer = keyed(Role.VIEWER)
    refused = client.post("/v1/encounters", files=files_of(scene(2)), headers=viewer)
    assert refused.status_code == 403
    assert client.patch(where, json={"place": "x"}, headers=viewer).status_code == 403
    for path in (where, own, "/v1/encounters", "/v1/viewpoint-rules"):
        assert client.get(path, headers=viewer).status_code == 200
    assert client.patch(where, json={"place": "x"}, headers=reviewer).status_code == 200
    assert client.patch(own, json={"viewpoint": "left"}, headers=reviewer).status_code == 403
    _, curator = keyed(Role.CURATOR)
    assert client.patch(own, json={"viewpoint": "left"}, headers=curator).status_code == 200
    with client.app.state.resight.runtime.sessions() as session:  # type: ignore[attr-defined]
        entry = records.list_audit(session).items[0]
    assert (entry.principal, entry.action) == ("a curator", "identity.annotation.edit")


# ---------------------------------------------------------------- asking


def test_photos_wait_on_the_desk_as_one_question(client: TestClient) -> None:
    add(client, "anna", scene(1))
    add(client, "bert", scene(2))
    response = client.post(
        "/v1/encounters",
        files=files_of(scene(1, shift=1), scene(1, shift=2)),
        headers={"Idempotency-Key": "k"},
    )
    made = response.json()
    assert (response.status_code, made["notices"]) == (201, [])
    view = client.get(response.headers["location"]).json()
    assert [query["id"] for query in view["queries"]] == [made["query_id"]]
    assert view["queries"][0]["state"] == "open"
    answer = client.get(f"/v1/queries/{made['query_id']}")
    assert answer.status_code == 200, answer.text
    again = client.post(
        "/v1/encounters",
        files=files_of(scene(1, shift=1), scene(1, shift=2)),
        headers={"Idempotency-Key": "k"},
    )
    assert again.json() == made
    more = client.post("/v1/encounters", files=files_of(scene(1, shift=1))).json()
    assert (more["created"], more["query_id"]) == (False, made["query_id"])
