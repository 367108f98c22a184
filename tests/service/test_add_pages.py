"""Adding individuals and photos on pages: with a script and without, refused and taken back."""

from __future__ import annotations

import re
from typing import Any

from fastapi.testclient import TestClient

from tests.service.small import add, identify, scene

FRAGMENT = {"HX-Request": "true"}
EDGE = b"between-two-parts"


def send(client: TestClient, url: str, *photos: bytes, script: bool = False, **typed: str) -> Any:
    """The form as a browser sends it: with nothing chosen, an empty file with an empty name."""
    files = [(f"{i}.jpg", photo) for i, photo in enumerate(photos)] or [("", b"")]
    parts = [(f'name="{name}"', text.encode()) for name, text in typed.items()]
    parts += [(f'name="file"; filename="{name}"', photo) for name, photo in files]
    body = b"".join(
        b"--%b\r\nContent-Disposition: form-data; %b\r\n\r\n%b\r\n" % (EDGE, head.encode(), data)
        for head, data in parts
    )
    return client.post(
        url,
        content=body + b"--%b--\r\n" % EDGE,
        headers={"Content-Type": f"multipart/form-data; boundary={EDGE.decode()}"}
        | (FRAGMENT if script else {}),
        follow_redirects=False,
    )


def test_an_individual_is_added_found_and_taken_back(client: TestClient) -> None:
    typed = {"name": "Nori", "taxon": "humpback whale", "sex": "female", "life_stage": "calf"}
    answer = send(client, "/individuals/new", scene(1), scene(1, shift=1), **typed)
    assert answer.status_code == 303
    page = client.get(answer.headers["location"]).text
    assert "Nori" in page
    assert identify(client, scene(1, shift=3))["matches"][0]["individual"]["name"] == "Nori"
    [made] = client.get("/v1/individuals").json()["items"]
    read = client.get(f"/v1/individuals/{made['id']}").json()
    assert (read["sex"], read["life_stage"], len(read["photos"])) == ("female", "calf", 2)
    undo = re.search(r'action="(/changes/\d+/undo)"', page)
    assert undo is not None
    client.post(undo[1], data={"back": "/individuals"})
    assert client.get("/v1/individuals").json()["items"] == []


def test_without_a_name_it_gets_the_next_free_one(client: TestClient) -> None:
    add(client, "HW-0041", scene(1))
    assert "HW-0042" in client.get("/individuals/new").text
    assert send(client, "/individuals/new", scene(2), name="").status_code == 303
    client.post(
        "/v1/individuals", files={"file": ("a.jpg", scene(3))}, data={"sex": "male"}
    ).raise_for_status()
    names = {one["name"] for one in client.get("/v1/individuals").json()["items"]}
    assert names == {"HW-0041", "HW-0042", "HW-0043"}


def test_a_script_is_led_to_the_individual_and_told_what_is_wrong(client: TestClient) -> None:
    answer = send(client, "/individuals/new", scene(1), script=True, name="Nori")
    assert answer.status_code == 204
    where = answer.headers["hx-redirect"]
    assert where.startswith("/individuals/")

    taken = send(client, "/individuals/new", scene(2), script=True, name="nori")
    assert taken.status_code == 409
    assert where.partition("?")[0] in taken.text
    assert "<form" not in taken.text


def test_what_was_typed_stays_where_photos_are_refused(client: TestClient) -> None:
    typed = {"name": "Nori", "notes": "white left edge", "sex": "female"}
    for photos, status, said in (
        ((b"text",), 415, "0.jpg"),
        ((), 422, "Choose at least one photo"),
    ):
        page = send(client, "/individuals/new", *photos, **typed)
        assert page.status_code == status, page.text
        assert said in page.text
        assert 'value="Nori"' in page.text
        assert "white left edge" in page.text
        assert '<option value="female" selected' in page.text
    assert client.get("/v1/individuals").json()["items"] == []


def test_photos_are_added_to_one_that_is_there(client: TestClient) -> None:
    who = add(client, "Nori", scene(1))["individual"]["id"]
    other = add(client, "Otto", scene(5))["individual"]["id"]
    url = f"/individuals/{who}/add"
    assert "Add photos of Nori" in client.get(url).text
    answer = send(client, url, scene(1, shift=1), scene(1))
    assert (answer.status_code, "done=" in answer.headers["location"]) == (303, True)
    assert len(client.get(f"/v1/individuals/{who}").json()["photos"]) == 2
    # Nothing new is no change that could be undone.
    assert send(client, url, scene(1)).headers["location"] == f"/individuals/{who}"
    refused = send(client, url, scene(5))
    assert refused.status_code == 409
    assert f"/individuals/{other}" in refused.text


def test_an_answer_names_whom_it_adds(client: TestClient) -> None:
    """A blank name is a name that was forgotten, not a wish for the next free one."""
    query = identify(client, scene(1))["query_id"]
    for name in ("", "  "):
        refused = client.post(f"/queries/{query}/individual", data={"name": name})
        assert refused.status_code == 422
    assert client.get("/v1/individuals").json()["items"] == []
