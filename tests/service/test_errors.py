"""Errors are problem+json, whatever went wrong, and bad input has its declared outcome."""

from __future__ import annotations

import pytest
from fastapi.testclient import TestClient

from service.errors import BAD_ARCHIVE_STATUS, BAD_PHOTO_STATUS
from tests import zoo
from tests.service.conftest import Service
from tests.service.small import scene

MEMBERS = {"type", "title", "status", "detail", "instance", "code", "errors", "request_id"}


def check_problem(response: object, status: int, code: str) -> None:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body = response.json()
    assert set(body) == MEMBERS
    assert (body["status"], body["code"]) == (status, code)
    assert body["type"].endswith(code)
    assert body["request_id"] == response.headers["x-request-id"]


@pytest.mark.parametrize("name", sorted(zoo.photos()))
def test_every_photo_of_the_zoo_has_its_outcome(shared_client: TestClient, name: str) -> None:
    case = zoo.photos()[name]
    response = shared_client.post("/v1/identify", files={"file": (case.file_name, case.data)})
    if case.code is None:
        assert response.status_code == 200, response.text
        assert response.json()["photos"][0]["name"] == case.file_name
    else:
        check_problem(response, BAD_PHOTO_STATUS[case.code], case.code)
        assert response.json()["errors"][0]["pointer"] == "/file/0"


@pytest.mark.parametrize("name", sorted(zoo.photos()))
def test_compatible_route_answers_the_zoo_too(shared_client: TestClient, name: str) -> None:
    case = zoo.photos()[name]
    response = shared_client.post("/v1/predict-single", files={"file": ("x", case.data)})
    if case.code == "empty":
        check_problem(response, 400, "empty")
    elif case.code == "too_large_bytes":
        check_problem(response, 413, "too_large_bytes")
    else:
        assert response.status_code == 200, response.text
        reason = response.json()["rejection_reason"]
        assert (reason == "corrupted_image") == (case.code is not None)


@pytest.mark.parametrize("name", sorted(zoo.archives()))
def test_every_archive_of_the_zoo_has_its_outcome(shared_client: TestClient, name: str) -> None:
    case = zoo.archives()[name]
    files = {"archive": ("photos.zip", case.data, "application/zip")}
    response = shared_client.post("/v1/predict-batch", files=files)
    if case.code is not None:
        check_problem(response, BAD_ARCHIVE_STATUS[case.code], case.code)
        return
    assert response.status_code == 200, response.text
    answered = [(one["image_ind"], one["rejection_reason"]) for one in response.json()]
    assert [entry for entry, _ in answered] == [entry for entry, _ in case.entries]
    for (_, reason), (_, code) in zip(answered, case.entries, strict=True):
        # Without a code of its own an entry is a photo, which may still be a bad one.
        assert code is None or reason == "corrupted_image"


def test_nothing_of_a_refused_request_is_stored(shared_client: TestClient) -> None:
    resight = shared_client.app.state.resight.runtime
    before = sorted(resight.store.stored())
    for case in zoo.photos().values():
        if case.code is not None:
            shared_client.post("/v1/identify", files={"file": (case.file_name, case.data)})
            shared_client.post(
                "/v1/individuals",
                files=[("file", ("good.jpg", scene(77))), ("file", ("bad.jpg", case.data))],
                data={"name": "half"},
            )
    assert sorted(resight.store.stored()) == before
    assert shared_client.get("/v1/individuals?text=half").json()["items"] == []


def test_unknown_route_method_and_id_are_problems(client: TestClient) -> None:
    check_problem(client.get("/v1/nothing-here"), 404, "not_found")
    check_problem(client.get("/v1/identify"), 405, "method_not_allowed")
    check_problem(client.get("/v1/annotations/999999/crop"), 404, "annotation_unknown")
    check_problem(client.get("/v1/media/1x"), 422, "invalid")
    check_problem(
        client.get("/v1/individuals/00000000-0000-0000-0000-000000000000"),
        404,
        "individual_unknown",
    )
    check_problem(client.get("/v1/individuals?cursor=%21"), 422, "cursor_invalid")


def test_bug_is_a_500_that_tells_nothing(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("secret /etc/passwd")

    monkeypatch.setattr("service.observe.identify_observed", broken)
    monkeypatch.setattr("service.api.identify.identify_observed", broken)
    response = client.post("/v1/identify", files={"file": ("a.jpg", scene(1))})
    check_problem(response, 500, "internal_error")
    assert "secret" not in response.text
    assert response.headers["x-content-type-options"] == "nosniff"


def test_body_that_is_not_multipart_is_refused(client: TestClient) -> None:
    check_problem(client.post("/v1/identify", json={}), 415, "unsupported_media_type")
    check_problem(
        client.post(
            "/v1/identify",
            content=b"--x\r\ngarbage",
            headers={"Content-Type": "multipart/form-data; boundary=x"},
        ),
        422,
        "no_photos",
    )
    check_problem(
        client.post(
            "/v1/identify",
            content=b"",
            headers={"Content-Type": "multipart/form-data"},
        ),
        400,
        "bad_request",
    )


def test_file_under_another_name_is_named(client: TestClient) -> None:
    response = client.post("/v1/identify", files={"photo": ("a.jpg", scene(1))})
    check_problem(response, 422, "wrong_field")
    assert "`file`" in response.json()["detail"]


def test_too_many_photos_are_refused(serve: Service) -> None:
    client = serve(max_photos_per_request=2)
    files = [("file", (f"{i}.jpg", scene(i))) for i in range(3)]
    check_problem(client.post("/v1/identify", files=files), 413, "too_many_photos")
    many = [("file", (f"{i}.jpg", b"x")) for i in range(1000)]
    check_problem(client.post("/v1/identify", files=many), 400, "bad_request")


def test_declared_content_type_of_the_compatible_route(client: TestClient) -> None:
    pdf = {"file": ("a.pdf", b"%PDF", "application/pdf")}
    check_problem(client.post("/v1/predict-single", files=pdf), 415, "unsupported_media_type")
    image = {"archive": ("a.jpg", scene(1), "image/jpeg")}
    check_problem(client.post("/v1/predict-batch", files=image), 415, "unsupported_media_type")
    empty = {"archive": ("a.zip", b"", "application/zip")}
    check_problem(client.post("/v1/predict-batch", files=empty), 400, "empty")
    bad = {"archive": ("a.zip", b"PK\x03\x04", "application/zip")}
    check_problem(client.post("/v1/predict-batch", files=bad), 400, "broken_zip")


def test_name_that_the_database_cannot_hold_is_kept_without_that_character(
    client: TestClient,
) -> None:
    body = (
        b'--b\r\nContent-Disposition: form-data; name="file"; filename="a\x00b.jpg"\r\n\r\n'
        + scene(1)
        + b"\r\n--b--\r\n"
    )
    response = client.post(
        "/v1/identify", content=body, headers={"Content-Type": "multipart/form-data; boundary=b"}
    )
    assert response.status_code == 200, response.text
    assert response.json()["photos"][0]["name"] == "ab.jpg"
    nul = client.post(
        "/v1/individuals", files={"file": ("a.jpg", scene(2))}, data={"name": "a\x00b"}
    )
    assert nul.status_code == 422
