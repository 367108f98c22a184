"""Jobs over HTTP: start, list, read, steer, follow; who may, and what is in the way."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any
from uuid import UUID

import httpx
import pytest
import uvicorn
from fastapi.testclient import TestClient
from sqlalchemy import text
from sqlalchemy.orm import Session, sessionmaker

from db.queries import jobs, records
from db.queries.jobs import ChunkRow, ChunkSpec, ItemFailure, JobRow
from db.types import JobKind, JobState, Role
from service.deps import AppState
from service.streams import Streams
from tests.service.conftest import Service

DEADLINE_S = 30.0


def state_of(client: TestClient) -> AppState:
    state: AppState = client.app.state.resight  # type: ignore[attr-defined]
    return state


def sessions_of(client: TestClient) -> sessionmaker[Session]:
    return state_of(client).runtime.sessions


def make_job(
    client: TestClient,
    chunks: int = 4,
    *,
    kind: JobKind = JobKind.EMBED_MISSING,
    key: str | None = None,
    principal: str = "local",
) -> JobRow:
    """A job of ten items a chunk, planned as a worker plans it."""
    with sessions_of(client).begin() as session:
        made = jobs.create_job(
            session,
            kind=kind,
            params={"model": "pixels"},
            principal=principal,
            exclusive_key=key,
            total=chunks * 10,
        )
        specs = [ChunkSpec("embedding", {"number": number}, 10) for number in range(chunks)]
        jobs.add_chunks(session, made.id, specs)
        jobs.advance_job(session, made.id, stage="embedding")
    return made


def claim(client: TestClient) -> ChunkRow:
    with sessions_of(client).begin() as session:
        chunk = jobs.claim_chunk(session, worker="test", lease_s=60)
    assert chunk is not None
    return chunk


def do_chunk(client: TestClient, *failed: str) -> None:
    """Claims the next chunk and finishes it, with these items failed."""
    chunk = claim(client)
    failures = [ItemFailure(item, "corrupted", f"{item} cannot be read") for item in failed]
    with sessions_of(client).begin() as session:
        assert jobs.finish_chunk(session, chunk, done=10 - len(failed), failures=failures)


def end_job(client: TestClient, job_id: UUID, state: JobState = JobState.DONE) -> None:
    with sessions_of(client).begin() as session:
        jobs.end_job(session, job_id, state, result={"embedded": 40})


# ---------------------------------------------------------------- reading


def test_a_job_tells_how_far_it_is(client: TestClient) -> None:
    made = make_job(client)
    do_chunk(client)
    do_chunk(client, "17")
    shown = client.get(f"/v1/jobs/{made.id}").json()
    assert (shown["kind"], shown["state"], shown["stage"]) == (
        "embed_missing",
        "running",
        "embedding",
    )
    progress = shown["progress"]
    assert (progress["done"], progress["failed"], progress["total"]) == (19, 1, 40)
    assert progress["rate"] > 0
    assert progress["eta_s"] >= 0
    assert shown["links"]["failures"] == f"/v1/jobs/{made.id}/failures"
    failures = client.get(shown["links"]["failures"]).json()
    assert [(one["item"], one["code"]) for one in failures["items"]] == [("17", "corrupted")]


def test_an_unknown_job_is_not_found(client: TestClient) -> None:
    for path in ("", "/failures", "/events"):
        response = client.get(f"/v1/jobs/{UUID(int=7)}{path}")
        assert (response.status_code, response.json()["code"]) == (404, "job_unknown")


def test_a_walk_over_pages_gives_every_job_once(client: TestClient) -> None:
    made = [str(make_job(client, 1).id) for _ in range(5)]
    seen, path = [], "/v1/jobs?limit=2"
    while path:
        response = client.get(path)
        seen += [one["id"] for one in response.json()["items"]]
        path = response.links["next"]["url"] if "next" in response.links else ""
    assert seen == made[::-1]


def test_jobs_are_listed_by_state_and_kind(client: TestClient) -> None:
    ended, running = make_job(client, 1), make_job(client, 1, kind=JobKind.EVALUATE)
    end_job(client, ended.id)

    def listed(query: str) -> list[str]:
        return [one["id"] for one in client.get(f"/v1/jobs?{query}").json()["items"]]

    assert listed("state=done") == [str(ended.id)]
    assert listed("state=running&state=queued") == [str(running.id)]
    assert listed("kind=evaluate") == [str(running.id)]
    assert client.get("/v1/jobs?state=asleep").status_code == 422


def test_failures_come_in_pages(client: TestClient) -> None:
    made = make_job(client, 1)
    do_chunk(client, *(str(number) for number in range(5)))
    first = client.get(f"/v1/jobs/{made.id}/failures?limit=3").json()
    rest = client.get(
        f"/v1/jobs/{made.id}/failures", params={"limit": 3, "cursor": first["next_cursor"]}
    ).json()
    items = [one["item"] for one in (*first["items"], *rest["items"])]
    assert items == ["0", "1", "2", "3", "4"]
    assert rest["next_cursor"] is None


# ---------------------------------------------------------------- starting


def test_a_started_job_is_accepted_with_its_place(client: TestClient) -> None:
    response = client.post("/v1/jobs", json={"kind": "build_snapshot"})
    assert response.status_code == 202
    job = response.json()
    assert response.headers["location"] == f"/v1/jobs/{job['id']}"
    assert int(response.headers["retry-after"]) > 0
    assert client.get(response.headers["location"]).json()["state"] == "queued"


def test_a_second_start_is_refused_with_the_place_of_the_first(client: TestClient) -> None:
    """Promise 17, for any job: of two starts one wins, the other gets 409 with the job's link."""
    first = client.post("/v1/jobs", json={"kind": "build_snapshot"})
    second = client.post("/v1/jobs", json={"kind": "build_snapshot"})
    assert (second.status_code, second.json()["code"]) == (409, "job_running")
    assert second.json()["job"] == second.headers["location"] == first.headers["location"]
    end_job(client, UUID(first.json()["id"]))
    assert client.post("/v1/jobs", json={"kind": "build_snapshot"}).status_code == 202


@pytest.mark.parametrize(
    "body",
    [
        {"kind": "reindex"},
        {"kind": "nonsense"},
        {},
        {"kind": "evaluate", "modle": "pixels"},
    ],
)
def test_a_start_that_does_not_fit_is_refused(client: TestClient, body: dict[str, str]) -> None:
    assert client.post("/v1/jobs", json=body).status_code == 422


def test_a_job_for_an_unknown_space_is_refused(client: TestClient) -> None:
    response = client.post("/v1/jobs", json={"kind": "evaluate", "model": "nobody"})
    assert (response.status_code, response.json()["code"]) == (404, "space_unknown")


# ---------------------------------------------------------------- steering


def test_a_job_is_paused_resumed_and_cancelled(client: TestClient) -> None:
    made = make_job(client)

    def press(action: str) -> dict[str, Any]:
        response = client.post(f"/v1/jobs/{made.id}/{action}")
        assert response.status_code == 200, response.text
        shown: dict[str, Any] = response.json()
        return shown

    assert (press("pause")["state"], press("pause")["paused_by"]) == ("paused", "local")
    resumed = press("resume")
    assert (resumed["state"], resumed["paused_by"]) == ("running", None)
    assert press("cancel")["state"] == "cancelled"
    # What a cancel leaves can go on.
    assert press("resume")["state"] == "running"


def test_only_what_failed_runs_again(client: TestClient) -> None:
    """Promise 29: "retry failed" touches only the poison photo."""
    made = make_job(client, 2)
    do_chunk(client, "17")
    do_chunk(client)
    end_job(client, made.id)
    response = client.post(f"/v1/jobs/{made.id}/retry")
    assert (response.status_code, response.json()["state"]) == (200, "running")
    chunk = claim(client)
    assert chunk.retry == ("17",)


@pytest.mark.parametrize(
    ("action", "code"),
    [
        ("pause", "job_ended"),
        ("resume", "job_ended"),
        ("cancel", "job_ended"),
        ("retry", "nothing_failed"),
    ],
)
def test_what_an_ended_job_forbids_is_a_conflict(
    client: TestClient, action: str, code: str
) -> None:
    made = make_job(client, 1)
    end_job(client, made.id)
    response = client.post(f"/v1/jobs/{made.id}/{action}")
    assert (response.status_code, response.json()["code"]) == (409, code)
    assert response.json()["job"] == f"/v1/jobs/{made.id}"


def test_everything_that_changes_a_job_is_in_the_audit_trail(client: TestClient) -> None:
    started = client.post("/v1/jobs", json={"kind": "build_snapshot"}).json()["id"]
    for action in ("pause", "resume", "cancel"):
        client.post(f"/v1/jobs/{started}/{action}")
    with sessions_of(client)() as session:
        trail = records.list_audit(session).items
        told = [row.action for row in trail if row.subject == f"job:{started}"]
        assert records.verify_audit(session) == []
    assert told == ["job.cancel", "job.resume", "job.pause", "job.start"]


# ---------------------------------------------------------------- roles


@pytest.fixture
def keys(serve: Service) -> tuple[TestClient, dict[str, str]]:
    """A service beyond loopback, and a key of each role."""
    here = serve()
    with sessions_of(here).begin() as session:
        made = {
            str(role): records.create_key(session, name=str(role), role=role)[1] for role in Role
        }
    return serve(host="0.0.0.0", allowed_hosts=("127.0.0.1",)), made


def test_reading_is_for_viewers_and_acting_for_admins(
    keys: tuple[TestClient, dict[str, str]],
) -> None:
    client, key = keys
    made = make_job(client)

    def status(role: str, method: str, path: str) -> int:
        headers = {"Authorization": f"Bearer {key[role]}"}
        body = {"kind": "build_snapshot"} if path == "/v1/jobs" and method == "POST" else None
        return client.request(method, path, headers=headers, json=body).status_code

    assert client.get("/v1/jobs").status_code == 401
    reads = ("/v1/jobs", f"/v1/jobs/{made.id}", f"/v1/jobs/{made.id}/failures", "/jobs")
    for path in (*reads, f"/jobs/{made.id}"):
        assert status("viewer", "GET", path) == 200, path
    acts = [f"/v1/jobs/{made.id}/{action}" for action in ("pause", "resume", "cancel", "retry")]
    for path in ("/v1/jobs", *acts, f"/jobs/{made.id}/pause"):
        for role in ("viewer", "reviewer", "curator"):
            assert status(role, "POST", path) == 403, (role, path)
    assert status("admin", "POST", f"/v1/jobs/{made.id}/pause") == 200
    described = client.get("/openapi.json").json()["paths"]
    acting = {path for path, methods in described.items() if "post" in methods}
    assert {path for path in acting if path.startswith("/v1/jobs")} == {
        "/v1/jobs",
        *(path.replace(str(made.id), "{job_id}") for path in acts),
    }
    with sessions_of(client)() as session:
        assert jobs.get_job(session, made.id).paused_by == "admin"


def test_a_viewer_sees_no_buttons(keys: tuple[TestClient, dict[str, str]]) -> None:
    client, key = keys
    make_job(client)
    page = client.get("/jobs", headers={"Authorization": f"Bearer {key['viewer']}"}).text
    assert "Embed what has no vector" in page
    assert "<form" not in page.split('id="main"')[1].split("</main>")[0]


# ---------------------------------------------------------------- following


class Listener:
    """Reads a stream of a running service, event by event."""

    def __init__(self, response: httpx.Response) -> None:
        self._lines = response.iter_lines()
        self.comments = 0

    def next(self) -> tuple[str, Any] | None:
        """(event, data) of the next event; None at the end of the stream."""
        event = ""
        for line in self._lines:
            name, _, value = line.partition(": ")
            self.comments += line.startswith(":")
            if name == "event":
                event = value
            elif name == "data":
                return event, json.loads(value)
        return None

    def until(self, wanted: Callable[[dict[str, Any]], bool] = bool) -> dict[str, Any]:
        """The first job that is as wanted."""
        while True:
            told = self.next()
            assert told is not None, "the stream ended"
            if told[0] == "job" and wanted(told[1]):
                shown: dict[str, Any] = told[1]
                return shown


Listen = Callable[[str], contextlib.AbstractContextManager[Listener]]


@pytest.fixture
def listen(client: TestClient) -> Iterator[Listen]:
    """A service on a port whose streams look often and are never silent; listens to a path."""
    state = state_of(client)
    client.app.state.resight = dataclasses.replace(  # type: ignore[attr-defined]
        state, streams=Streams(look_s=0.02, heartbeat_s=0.0)
    )
    config = uvicorn.Config(client.app, port=0, log_level="warning", lifespan="off")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    deadline = time.monotonic() + DEADLINE_S
    while not server.started:
        assert time.monotonic() < deadline, "the service did not start"
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]

    @contextlib.contextmanager
    def open_stream(path: str) -> Iterator[Listener]:
        url = f"http://127.0.0.1:{port}{path}"
        with httpx.stream("GET", url, timeout=DEADLINE_S) as response:
            assert response.status_code == 200
            assert response.headers["content-type"].startswith("text/event-stream")
            yield Listener(response)

    yield open_stream
    state_of(client).streams.end()
    server.should_exit = True
    thread.join(DEADLINE_S)
    assert not thread.is_alive()


def test_a_stream_tells_progress_and_ends_with_the_job(client: TestClient, listen: Listen) -> None:
    made = make_job(client, 2)
    with listen(f"/v1/jobs/{made.id}/events") as stream:
        assert stream.until()["progress"]["done"] == 0
        do_chunk(client)
        assert stream.until(lambda job: job["progress"]["done"] == 10)["state"] == "running"
        do_chunk(client, "17")
        assert stream.until(lambda job: job["progress"]["done"] == 19)["progress"]["failed"] == 1
        end_job(client, made.id)
        assert stream.until(lambda job: job["state"] == "done")["result"] == {"embedded": 40}
        assert stream.next() == ("end", {})
        assert stream.next() is None


def test_a_silent_stream_sends_heartbeats(client: TestClient, listen: Listen) -> None:
    made = make_job(client, 1)
    with listen(f"/v1/jobs/{made.id}/events") as stream:
        stream.until()
        do_chunk(client)
        stream.until(lambda job: job["progress"]["done"] == 10)
        # Nothing had changed at the first look, or between it and the second: it said so.
        assert stream.comments > 0


def test_a_stream_of_an_ended_job_ends_at_once(client: TestClient) -> None:
    made = make_job(client, 1)
    end_job(client, made.id)
    response = client.get(f"/v1/jobs/{made.id}/events")
    told = [line for line in response.text.splitlines() if line.startswith("event")]
    assert told == ["event: job", "event: end"]


def test_the_stream_of_all_jobs_tells_of_new_ones_and_of_ends(
    client: TestClient, listen: Listen
) -> None:
    first = make_job(client, 1)
    for path, state in (("/v1/jobs/events", ("state", "done")), ("/jobs/events", ("open", False))):
        with listen(path) as stream:
            assert stream.until()["id"] == str(first.id)
            second = make_job(client, 1)
            stream.until(lambda job: job["id"] == str(second.id))  # noqa: B023
            end_job(client, second.id)
            ended = stream.until(lambda job: job.get(state[0]) == state[1])  # noqa: B023
            assert ended["id"] == str(second.id)


def test_a_stream_without_an_end_of_its_own_ends_with_the_service(
    client: TestClient, listen: Listen
) -> None:
    with listen("/v1/jobs/events") as stream:
        make_job(client, 1)
        stream.until()
        state_of(client).streams.end()
        assert stream.next() is None


def test_a_stream_says_why_it_ends_when_the_database_goes(
    client: TestClient, listen: Listen
) -> None:
    """A dead database is an error with a reason, never a silent stream."""
    made = make_job(client, 1)
    with listen(f"/v1/jobs/{made.id}/events") as stream:
        stream.until()
        with sessions_of(client).begin() as session:
            session.execute(text("ALTER TABLE job RENAME TO job_away"))
        told = stream.next()
        assert told is not None
        assert told[0] == "problem"
        assert stream.next() is None


def test_too_many_listeners_are_sent_away(client: TestClient) -> None:
    made = make_job(client)
    client.app.state.resight = dataclasses.replace(  # type: ignore[attr-defined]
        state_of(client), streams=Streams(most=0)
    )
    response = client.get(f"/v1/jobs/{made.id}/events")
    assert (response.status_code, response.json()["code"]) == (503, "busy")
    assert int(response.headers["retry-after"]) > 0
