"""Who may ask, from where, how much and how fast; what is shown of the service's state."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient

from db.queries import records
from db.types import Role
from service.app import create_app
from service.runtime import StartRefused, open_resight, require_keys
from service.settings import Settings
from tests.service.conftest import Service
from tests.service.small import add, head_of, identify, scene, serving_of

WIDE = {"host": "0.0.0.0"}
PHOTO = {"file": ("a.jpg", scene(1))}


def make_key(client: TestClient, name: str, role: Role) -> dict[str, str]:
    with client.app.state.resight.runtime.sessions.begin() as session:
        _, key = records.create_key(session, name, role)
    return {"Authorization": f"Bearer {key}"}


@pytest.fixture
def wide(serve: Service) -> TestClient:
    """A service that listens beyond loopback; made with the one key that it needs."""
    inside = serve()
    make_key(inside, "first", Role.ADMIN)
    return serve(**WIDE)


def test_listening_wider_needs_a_key(settings: Settings) -> None:
    wide = settings.model_copy(update=WIDE)
    resight = open_resight(wide, serving=serving_of())
    with pytest.raises(StartRefused, match="resight keys create"):
        require_keys(wide, resight.sessions)
    with (
        pytest.raises(StartRefused),
        TestClient(create_app(wide, resight=resight), base_url="http://example.org"),
    ):
        pass
    with resight.sessions.begin() as session:
        records.create_key(session, "someone", Role.VIEWER)
    require_keys(wide, resight.sessions)
    resight.close()


def test_key_is_needed_and_carries_its_role(wide: TestClient) -> None:
    keys = {role: make_key(wide, role.value, role) for role in Role}
    nobody = wide.get("/v1/individuals")
    assert (nobody.status_code, nobody.json()["code"]) == (401, "unauthorized")
    assert nobody.headers["www-authenticate"].startswith("Bearer")
    wrong = wide.get("/v1/individuals", headers={"Authorization": "Bearer rs_nope_nope"})
    assert wrong.status_code == 401

    allowed = {role: [] for role in Role}
    for role, headers in keys.items():
        asked = {
            "read": wide.get("/v1/individuals", headers=headers),
            "identify": wide.post("/v1/identify", headers=headers, files=PHOTO),
            "add": wide.post(
                "/v1/individuals", headers=headers, files=PHOTO, data={"name": role.value}
            ),
        }
        allowed[role] = [what for what, answer in asked.items() if answer.status_code != 403]
    assert allowed == {
        Role.VIEWER: ["read"],
        Role.REVIEWER: ["read", "identify"],
        Role.CURATOR: ["read", "identify", "add"],
        Role.ADMIN: ["read", "identify", "add"],
    }


def test_revoked_key_stops_working(wide: TestClient) -> None:
    headers = make_key(wide, "leaving", Role.VIEWER)
    assert wide.get("/v1/limits", headers=headers).status_code == 200
    with wide.app.state.resight.runtime.sessions.begin() as session:
        records.revoke_key(session, "leaving")
    assert wide.get("/v1/limits", headers=headers).status_code == 401


def test_browser_may_send_the_key_as_a_password(wide: TestClient) -> None:
    key = make_key(wide, "browser", Role.VIEWER)["Authorization"].removeprefix("Bearer ")
    basic = base64.b64encode(f"anyone:{key}".encode()).decode()
    assert wide.get("/v1/limits", headers={"Authorization": f"Basic {basic}"}).status_code == 200
    broken = wide.get("/v1/limits", headers={"Authorization": "Basic !!!"})
    assert broken.status_code == 401


def test_guessing_keys_is_limited(wide: TestClient) -> None:
    statuses = [
        wide.get("/v1/limits", headers={"Authorization": f"Bearer rs_{i:012}_x"}).status_code
        for i in range(25)
    ]
    assert statuses[:20] == [401] * 20
    assert set(statuses[20:]) == {429}
    assert wide.get("/v1/limits", headers=make_key(wide, "ok", Role.VIEWER)).status_code == 200


def test_no_route_of_the_api_is_open_without_a_key(wide: TestClient) -> None:
    asked = 0
    for path, operations in wide.app.openapi()["paths"].items():
        if path in ("/health", "/ready", "/metrics"):
            continue
        for method in operations:
            url = path.replace("{individual_id}", "0" * 8 + "-0000-0000-0000-" + "0" * 12)
            url = url.replace("{query_id}", "0" * 8 + "-0000-0000-0000-" + "0" * 12)
            url = url.replace("{annotation_id}", "1").replace("{media_id}", "1")
            files = {"archive" if "batch" in path else "file": ("a.jpg", b"x")}
            kwargs: dict[str, Any] = {} if method == "get" else {"files": files}
            if path == "/v1/search":
                kwargs = {"json": {"annotation_id": "1"}}
            response = wide.request(method.upper(), url, **kwargs)
            assert response.status_code == 401, (method, path, response.text)
            asked += 1
    assert asked >= 17


def test_public_docs_follow_the_setting(serve: Service) -> None:
    make_key(serve(), "first", Role.ADMIN)
    assert serve(**WIDE).get("/metrics").status_code == 200
    closed = serve(**WIDE, public_docs=False)
    assert closed.get("/metrics").status_code == 401
    assert closed.get("/openapi.json").status_code == 401
    assert closed.get("/health").status_code == 200


def test_foreign_host_and_origin_are_refused(client: TestClient) -> None:
    rebound = client.get("/v1/limits", headers={"Host": "evil.example:8000"})
    assert (rebound.status_code, rebound.json()["code"]) == (421, "unknown_host")
    for host in ("localhost:8000", "127.0.0.1", "[::1]:8000"):
        assert client.get("/v1/limits", headers={"Host": host}).status_code == 200
    foreign = client.post("/v1/identify", files=PHOTO, headers={"Origin": "https://evil.example"})
    assert (foreign.status_code, foreign.json()["code"]) == (403, "cross_origin")
    null = client.post("/v1/identify", files=PHOTO, headers={"Origin": "null"})
    assert null.status_code == 403
    own = client.post("/v1/identify", files=PHOTO, headers={"Origin": "http://127.0.0.1:8000"})
    assert own.status_code == 200
    site = client.post("/v1/identify", files=PHOTO, headers={"Sec-Fetch-Site": "cross-site"})
    assert site.status_code == 403


def test_allowed_hosts_hold_beyond_loopback(serve: Service) -> None:
    headers = make_key(serve(), "first", Role.ADMIN)
    client = serve(**WIDE, allowed_hosts=("whales.example",))
    assert client.get("/v1/limits", headers=headers | {"Host": "other"}).status_code == 421
    named = client.get("/v1/limits", headers=headers | {"Host": "whales.example:443"})
    assert named.status_code == 200


def test_body_limit_holds_with_and_without_a_length(serve: Service) -> None:
    client = serve(max_photo_bytes=10_000, max_photos_per_request=1)
    large = b"x" * (2 * 2**20)
    with_length = client.post("/v1/identify", files={"file": ("a.jpg", large)})
    assert (with_length.status_code, with_length.json()["code"]) == (413, "body_too_large")

    def endless() -> Iterator[bytes]:
        yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.jpg"\r\n\r\n'
        for _ in range(64):
            yield large

    without = client.post(
        "/v1/identify",
        content=endless(),
        headers={"Content-Type": "multipart/form-data; boundary=b"},
    )
    assert (without.status_code, without.json()["code"]) == (413, "body_too_large")
    text = client.post("/v1/search", content=b"[" + b"1," * 2**20)
    assert text.status_code == 413
    wrong = client.post("/v1/search", content=b"{}", headers={"Content-Length": "many"})
    assert wrong.status_code == 400


def test_rate_limit_says_when_to_come_back(serve: Service) -> None:
    client = serve(rate_limit_per_minute=3)
    statuses = [client.post("/v1/identify", files=PHOTO).status_code for _ in range(4)]
    assert statuses == [200, 200, 200, 429]
    refused = client.post("/v1/identify", files=PHOTO)
    assert refused.json()["code"] == "rate_limited"
    assert 1 <= int(refused.headers["retry-after"]) <= 21
    assert client.get("/v1/limits").status_code == 200


def test_full_queue_is_503_with_a_time(serve: Service) -> None:
    import threading

    entered, leave = threading.Event(), threading.Event()
    serving = serving_of()
    real = serving.embedder.embed

    def slow(photos: Any) -> Any:
        entered.set()
        leave.wait(20)
        return real(photos)

    serving.embedder.embed = slow
    client = serve(serving, inference_queue=1)
    codes: list[int] = []
    threads = [
        threading.Thread(
            target=lambda: codes.append(client.post("/v1/identify", files=PHOTO).status_code)
        )
        for _ in range(2)
    ]
    threads[0].start()
    assert entered.wait(20)
    threads[1].start()
    runtime = client.app.state.resight.runtime
    for _ in range(200):
        if runtime.inference.waiting == 2:
            break
        threading.Event().wait(0.02)
    refused = client.post("/v1/identify", files=PHOTO)
    assert (refused.status_code, refused.json()["code"]) == (503, "busy")
    assert refused.headers["retry-after"] == "2"
    assert client.get("/health").status_code == 200
    leave.set()
    for thread in threads:
        thread.join(20)
    assert codes == [200, 200]


def test_every_answer_has_its_headers(client: TestClient) -> None:
    for response in (client.get("/health"), client.get("/nowhere")):
        assert response.headers["x-content-type-options"] == "nosniff"
        assert "unsafe-inline" not in response.headers["content-security-policy"]
        assert response.headers["x-frame-options"] == "DENY"
        assert len(response.headers["x-request-id"]) == 32


def test_health_ready_models_limits(serve: Service) -> None:
    client = serve(serving_of(head_of([("anna", scene(1)), (None, scene(2))])))
    assert client.get("/health").json()["status"] == "ok"
    ready = client.get("/ready")
    assert (ready.status_code, ready.json()["ready"], ready.json()["stage"]) == (
        200,
        True,
        "pixels",
    )
    models = client.get("/v1/models").json()
    assert models["head"] == {
        "version": "1",
        "slots": 2,
        "mapped": 1,
        "scale": 30.0,
        "min_probability": 0.05,
    }
    assert [space["active"] for space in models["spaces"]] == [True]
    limits = client.get("/v1/limits").json()
    assert limits["max_photo_pixels"] == 50_000_000
    assert limits["formats"] == ["JPEG", "PNG", "WEBP", "BMP", "TIFF"]


def test_dead_database_is_an_error_and_not_ready(serve: Service, server: Any) -> None:
    client = serve()
    add(client, "anna", scene(1))
    runtime = client.app.state.resight.runtime
    server.drop_database(runtime.engine.url.render_as_string(hide_password=False))
    response = client.post("/v1/identify", files={"file": ("a.jpg", scene(1, shift=1))})
    assert response.status_code == 503
    assert response.headers["content-type"] == "application/problem+json"
    ready = client.get("/ready")
    assert (ready.status_code, ready.json()["reasons"][0]["code"]) == (503, "database_unavailable")
    assert client.get("/health").status_code == 200


def test_metrics_count_what_happened(serve: Service) -> None:
    client = serve(serving_of(head_of([("anna", scene(1))])))
    add(client, "anna", scene(1))
    identify(client, scene(1, shift=1))
    client.post("/v1/identify", files={"file": ("a.jpg", b"text")})
    text = client.get("/metrics").text
    for line in (
        'resight_gate_decisions_total{model="structure-gate",state="accepted"} 1.0',
        'resight_default_answers_total{status="given"} 1.0',
        'resight_photos_refused_total{code="unsupported_format"} 1.0',
        'resight_search_duration_seconds_count{mode="exact"} 1.0',
        'resight_embeddings{model="pixels 1",state="present"} 1.0',
        'resight_embeddings{model="pixels 1",state="missing"} 0.0',
        "resight_individuals_added_total 1.0",
        "resight_ready 1.0",
        "resight_gate_installed 1.0",
    ):
        assert line in text, line
    assert 'route="/v1/identify",status="415"' in text
