"""Re-indexing over HTTP: start, report, activate, roll back, abandon; roles, audit, pages."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID

import pytest
from fastapi.testclient import TestClient

from db.queries import embeddings, records, runs
from db.types import Role
from indexer.catalogue import register_bundle
from indexer.job_kinds import Means, handlers, ticks
from indexer.jobs import JobRunner
from indexer.snapshot import SnapshotStore
from models.embedder import Embedder
from models.errors import BundleError
from service.runtime import Resight
from service.steering import space_uses
from tests.service.conftest import Service
from tests.service.small import OtherPixels, PixelEmbedder, add, scene

Work = Callable[[], None]


def resight_of(client: TestClient) -> Resight:
    resight: Resight = client.app.state.resight.runtime  # type: ignore[attr-defined]
    return resight


def worker_of(client: TestClient, *embedders: Embedder) -> Work:
    """A worker that has these embedders; called, it works until nothing is left."""
    resight = resight_of(client)
    by_fingerprint = {embedder.spec.fingerprint: embedder for embedder in embedders}

    def embedder_of(fingerprint: str) -> Embedder:
        if fingerprint not in by_fingerprint:
            raise BundleError("not_installed", f"{fingerprint} is not here")
        return by_fingerprint[fingerprint]

    means = Means(
        sessions=resight.sessions,
        store=resight.store,
        snapshots=SnapshotStore(resight.settings.snapshots_dir),
        exports_dir=resight.settings.data_dir / "exports",
        embedder_of=embedder_of,
        head_of=lambda _: None,
    )
    runner = JobRunner(resight.sessions, handlers(means), worker="test", ticks=ticks(means))
    return runner.run_until_idle


def fill(client: TestClient, individuals: int = 4) -> None:
    """Individuals of two photos each; without an encounter each photo is one of its own."""
    for number in range(individuals):
        add(client, f"whale {number}", scene(number), scene(number, shift=1))


def register(client: TestClient, embedder: Embedder) -> None:
    with resight_of(client).sessions.begin() as session:
        register_bundle(session, embedder.spec, None)


def start(client: TestClient, model: str = "other") -> dict[str, Any]:
    response = client.post("/v1/reindex", json={"model": model})
    assert response.status_code == 202, response.text
    run: dict[str, Any] = response.json()
    return run


def active_name(client: TestClient) -> str:
    with resight_of(client).sessions() as session:
        space = embeddings.active_space(session)
    assert space is not None
    return space.name


@pytest.fixture
def moving(client: TestClient) -> tuple[TestClient, Work]:
    """A filled service, a second space that is registered, and a worker for both."""
    other = OtherPixels()
    fill(client)
    register(client, other)
    return client, worker_of(client, PixelEmbedder(), other)


@pytest.fixture
def ready(moving: tuple[TestClient, Work]) -> tuple[TestClient, Work, str]:
    """The same with a run that is ready, and the run's place."""
    client, work = moving
    run = start(client)
    work()
    return client, work, run["links"]["self"]


# ---------------------------------------------------------------- starting


def test_a_started_run_is_accepted_with_its_place(moving: tuple[TestClient, Work]) -> None:
    client, _ = moving
    response = client.post("/v1/reindex", json={"model": "other"})
    assert response.status_code == 202
    run = response.json()
    assert response.headers["location"] == f"/v1/reindex/{run['id']}" == run["links"]["self"]
    assert int(response.headers["retry-after"]) > 0
    assert (run["state"], run["slot"], run["job"]["state"]) == (
        "requested",
        "identify.photo",
        "queued",
    )
    assert (run["from_space"]["name"], run["to_space"]["name"]) == ("pixels", "other")
    assert client.get(run["links"]["job"]).json()["links"]["run"] == run["links"]["self"]
    assert client.get(run["links"]["report"]).json()["code"] == "report_unknown"


def test_of_two_starts_one_wins_and_the_other_is_led_to_it(
    moving: tuple[TestClient, Work],
) -> None:
    """Promise 17: two starts for one slot: one wins, the other gets 409 with the run's link."""
    client, _ = moving
    with ThreadPoolExecutor(4) as pool:
        answers = list(
            pool.map(lambda _: client.post("/v1/reindex", json={"model": "other"}), range(4))
        )
    assert sorted(answer.status_code for answer in answers) == [202, 409, 409, 409]
    [won] = [answer.json() for answer in answers if answer.status_code == 202]
    for lost in (answer for answer in answers if answer.status_code == 409):
        problem = lost.json()
        assert problem["code"] == "reindex_running"
        assert problem["run"] == won["links"]["self"]
        assert problem["job"] == lost.headers["location"] == won["links"]["job"]


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"model": "nobody"}, 404, "space_unknown"),
        ({"model": "pixels"}, 422, "reindex_same_space"),
        ({"model": "other", "slot": "identify.smell"}, 422, "invalid"),
        ({}, 422, "invalid"),
    ],
)
def test_a_start_that_leads_nowhere_is_refused(
    moving: tuple[TestClient, Work], body: dict[str, str], status: int, code: str
) -> None:
    client, _ = moving
    response = client.post("/v1/reindex", json=body)
    assert (response.status_code, response.json()["code"]) == (status, code)
    assert client.get("/v1/reindex").json()["items"] == []


# ---------------------------------------------------------------- report, switch, and back


def test_a_ready_run_has_a_report_and_changes_nothing_yet(
    ready: tuple[TestClient, Work, str],
) -> None:
    client, _, place = ready
    run = client.get(place).json()
    assert (run["state"], run["has_report"], run["problems"]) == ("ready", True, [])
    assert run["job"]["state"] == "done"
    report = client.get(run["links"]["report"]).json()
    assert report["recall"] == 1.0
    assert report["counts"]["annotations"] == report["counts"]["embedded"] == 8
    assert (report["old"]["n"], report["new"]["n"]) == (8, 8)
    assert active_name(client) == "pixels"


def test_activation_and_rollback_move_the_catalogue_there_and_back(
    ready: tuple[TestClient, Work, str],
) -> None:
    client, _, place = ready
    switched = client.post(f"{place}/activate")
    assert (switched.status_code, switched.json()["state"]) == (200, "active")
    assert (switched.json()["activated_by"], switched.json()["forced"]) == ("local", False)
    assert active_name(client) == "other"
    back = client.post("/v1/reindex/rollback")
    assert (back.status_code, back.json()["state"]) == (200, "ready")
    assert active_name(client) == "pixels"
    again = client.post("/v1/reindex/rollback")
    assert (again.status_code, again.json()["code"]) == (409, "nothing_to_roll_back")


def test_a_run_that_is_not_ready_is_not_activated(moving: tuple[TestClient, Work]) -> None:
    client, _ = moving
    run = start(client)
    response = client.post(f"{run['links']['self']}/activate")
    assert (response.status_code, response.json()["code"]) == (409, "reindex_not_ready")
    assert response.json()["job"] == run["links"]["job"]


def test_a_worse_space_is_refused_unless_it_is_forced(client: TestClient) -> None:
    """Promise 21: the switch is refused below the limits; a forced one is in the audit trail."""
    blind = OtherPixels(blind=True)
    fill(client, 6)
    register(client, blind)
    run = start(client)
    worker_of(client, PixelEmbedder(), blind)()
    place = run["links"]["self"]
    assert [one["code"] for one in client.get(place).json()["problems"]] == ["reindex_below_limits"]
    refused = client.post(f"{place}/activate")
    assert (refused.status_code, refused.json()["code"]) == (422, "reindex_below_limits")
    assert "top-1 falls" in refused.json()["errors"][0]["detail"]
    assert active_name(client) == "pixels"
    forced = client.post(f"{place}/activate", json={"force": True})
    assert (forced.status_code, forced.json()["forced"]) == (200, True)
    with resight_of(client).sessions() as session:
        entry = records.list_audit(session, limit=1).items[0]
    assert (entry.action, entry.detail["forced"]) == ("reindex.activate", True)
    page = client.get(f"/reindex/{run['id']}").text
    assert "switched against the limits" in page


def test_an_abandoned_run_makes_way_for_another(moving: tuple[TestClient, Work]) -> None:
    client, work = moving
    first = start(client)
    response = client.post(f"{first['links']['self']}/abandon")
    assert (response.status_code, response.json()["state"]) == (200, "cancelled")
    second = start(client)
    work()
    assert client.get(second["links"]["self"]).json()["state"] == "ready"
    listed = client.get("/v1/reindex?limit=1")
    assert [one["id"] for one in listed.json()["items"]] == [second["id"]]
    rest = client.get(listed.links["next"]["url"]).json()
    assert [one["id"] for one in rest["items"]] == [first["id"]]


def test_every_step_of_a_run_is_in_the_audit_trail(ready: tuple[TestClient, Work, str]) -> None:
    client, _, place = ready
    client.post(f"{place}/activate")
    client.post("/v1/reindex/rollback")
    client.post(f"{place}/abandon")
    run_id = place.rpartition("/")[2]
    with resight_of(client).sessions() as session:
        trail = records.list_audit(session).items
        assert records.verify_audit(session) == []
    told = [row.action for row in trail if row.subject == f"reindex:{run_id}"][::-1]
    assert told == [
        "reindex.start",
        "reindex.activate",
        "reindex.rollback",
        "reindex.abandon",
    ]


def test_an_unknown_run_is_not_found(client: TestClient) -> None:
    for path in ("", "/report"):
        response = client.get(f"/v1/reindex/{UUID(int=7)}{path}")
        assert (response.status_code, response.json()["code"]) == (404, "run_unknown")


def test_what_is_kept_is_told_with_its_reason(ready: tuple[TestClient, Work, str]) -> None:
    """Promise 22: which former model a rollback returns to, and how long it is kept, is shown."""
    client, _, place = ready

    def told() -> dict[str, str]:
        with resight_of(client).sessions() as session:
            return {one.name: one.use for one in space_uses(session)}

    assert told()["pixels"] == "searched by identify.photo"
    assert "moves identify.photo here (ready)" in told()["other"]
    client.post(f"{place}/activate")
    assert told()["other"] == "searched by identify.photo"
    assert told()["pixels"] == "kept for the way back of identify.photo, until it is retired"
    assert told()["pixels"] in client.get("/jobs").text
    assert "are kept for the way back" in client.get(place.removeprefix("/v1")).text
    client.post("/v1/reindex/rollback")
    client.post(f"{place}/abandon")
    assert told()["other"] == "not needed: `resight models retire other`"


# ---------------------------------------------------------------- roles and pages


def test_reading_runs_is_for_viewers_and_acting_for_admins(
    ready: tuple[TestClient, Work, str], serve: Service
) -> None:
    here, _, place = ready
    with resight_of(here).sessions.begin() as session:
        key = {
            str(role): records.create_key(session, name=str(role), role=role)[1] for role in Role
        }
    client = serve(host="0.0.0.0", allowed_hosts=("127.0.0.1",))

    def status(role: str, method: str, path: str, body: dict[str, str] | None = None) -> int:
        headers = {"Authorization": f"Bearer {key[role]}"}
        return client.request(method, path, headers=headers, json=body).status_code

    page = place.removeprefix("/v1")
    for path in ("/v1/reindex", place, f"{place}/report", page):
        assert status("viewer", "GET", path) == 200, path
    acts: list[tuple[str, dict[str, str] | None]] = [
        ("/v1/reindex", {"model": "other"}),
        (f"{place}/activate", None),
        (f"{place}/abandon", None),
        ("/v1/reindex/rollback", None),
        (f"{page}/activate", None),
        (f"{page}/abandon", None),
        (f"{page}/rollback", None),
    ]
    for path, body in acts:
        for role in ("viewer", "reviewer", "curator"):
            assert status(role, "POST", path, body) == 403, (role, path)
    assert status("admin", "POST", f"{place}/activate") == 200
    described = client.get("/openapi.json").json()["paths"]
    acting = {path for path, methods in described.items() if "post" in methods}
    assert {path for path in acting if path.startswith("/v1/reindex")} == {
        path.replace(place, "/v1/reindex/{run_id}") for path, _ in acts if path.startswith("/v1/")
    }
    with resight_of(client).sessions() as session:
        assert runs.list_runs(session).items[0].activated_by == "admin"


def test_the_page_of_a_run_shows_the_report_with_photos(client: TestClient) -> None:
    blind = OtherPixels(blind=True)
    fill(client, 6)
    register(client, blind)
    run = start(client)
    before = client.get(f"/reindex/{run['id']}").text
    assert "Waits for a worker" in before
    worker_of(client, PixelEmbedder(), blind)()
    report = client.get(run["links"]["report"]).json()
    page = client.get(f"/reindex/{run['id']}").text
    assert "Individuals whose nearest individual changed" in page
    assert report["changed"], "the worse space changed nobody's nearest individual"
    places = [page.index(f">{one['individual']['name']}<") for one in report["changed"][:1]]
    for photo in report["changed"][0]["photos"].values():
        assert f"/v1/annotations/{photo['annotation_id']}/crop" in page[places[0] :]
    assert "Switch anyway" in page
    assert client.get("/jobs").text.count("Re-index: other") >= 1
