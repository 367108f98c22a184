"""A service in which every page has something to show, and the table of those pages.

Drawn animals, a day at sea, verdicts, changes, jobs and a re-index run: what the accessibility
tests look at, and what `scripts/make_screenshots.py` takes pictures of.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from playwright.sync_api import BrowserContext
from sqlalchemy.orm import Session, sessionmaker

from db import embedded
from db.queries import jobs
from db.queries.jobs import ChunkSpec, ItemFailure
from db.session import make_engine, make_sessions
from db.types import JobKind
from indexer.catalogue import register_bundle
from indexer.drawings import FieldPhoto, write_catalogue, write_fieldwork, write_queries
from indexer.job_kinds import Means, handlers
from indexer.jobs import JobRunner
from indexer.media import MediaStore
from indexer.snapshot import SnapshotStore
from indexer.synthetic import PHOTO_SIZE_PX
from tests.browser import running
from tests.service.small import OtherPixels

LOGIN = "vera"
PASSWORD = "four grey whales swimming"
SIGNED_OUT = ("sign-in",)
"""Pages that are for those who have not signed in."""
Json = Mapping[str, Any]

PAGES: dict[str, str] = {
    "match": "/",
    "answer": "/queries/{answer}",
    "compare": "/queries/{answer}/matches/1",
    "review": "/review",
    "review-pair": "/review/{asked}",
    "how-sure": "/review/how-sure",
    "encounters": "/encounters",
    "encounters-new": "/encounters/new",
    "encounter": "/encounters/{encounter}",
    "encounter-edit": "/encounters/{encounter}/edit",
    "annotation": "/annotations/{annotation}",
    "annotations-describe": "/annotations/describe?ids={annotation}",
    "annotations-move": "/annotations/move?ids={annotation}",
    "individuals": "/individuals",
    "individual": "/individuals/{individual}",
    "individual-add": "/individuals/new",
    "individual-add-photos": "/individuals/{individual}/add",
    "individual-edit": "/individuals/{individual}/edit",
    "individual-merge": "/individuals/{individual}/merge?with={other}",
    "individual-split": "/individuals/{individual}/split",
    "individuals-edit": "/individuals/edit?ids={individual},{other}",
    "suggestions": "/individuals/suggestions",
    "changes": "/changes",
    "viewpoints": "/settings/viewpoints",
    "jobs": "/jobs",
    "job": "/jobs/{job}",
    "reindex": "/reindex/{run}",
    "people": "/people",
    "me": "/people/me",
    "sign-in": "/sign-in",
    "problem": "/individuals/00000000-0000-4000-8000-000000000000",
}
"""Every page, by the name of its picture; addresses take what `DrawnDesk.ids` says."""


@dataclass(frozen=True)
class DrawnDesk:
    """The running service and what its pages are about."""

    url: str
    ids: Mapping[str, str]

    def sign_in(self, context: BrowserContext) -> None:
        """Signs a browser in as the admin."""
        form = {"login": LOGIN, "password": PASSWORD}
        answer = context.request.post(f"{self.url}/sign-in", form=form)
        assert answer.ok, answer.text()

    def address(self, page: str) -> str:
        """Where a page of the table lies."""
        return self.url + PAGES[page].format_map(self.ids)


@contextmanager
def drawn_desk(
    folder: Path, *, individuals: int = 16, size_px: tuple[int, int] = PHOTO_SIZE_PX
) -> Iterator[DrawnDesk]:
    """Draws, imports, starts the service, and lets people work a little."""
    demo = folder / "demo"
    write_catalogue(
        demo / "photos", individuals=individuals, photos_per_individual=(4, 4), size_px=size_px
    )
    write_queries(demo / "queries", individuals=individuals, unknown_position=400, size_px=size_px)
    brought = write_fieldwork(
        folder / "field",
        photos=14,
        known=4,
        strangers=2,
        individuals=individuals,
        size_px=size_px,
    )
    running.run(folder, "import", str(demo / "photos"))
    with running.serving(folder) as url:
        engine = make_engine(embedded.start(folder).url)
        try:
            with httpx.Client(base_url=url, timeout=120) as client:
                ids = _work(client, make_sessions(engine), folder, brought)
        finally:
            engine.dispose()
        yield DrawnDesk(url, ids)


# ------------------------------------------------------------------------------------ some work


def _work(
    client: httpx.Client,
    sessions: sessionmaker[Session],
    folder: Path,
    brought: tuple[FieldPhoto, ...],
) -> dict[str, str]:
    _said(client.patch("/v1/me", json={"name": "Vera Holm"}))
    known = folder / "demo" / "queries" / "known.jpg"
    answer = _said(client.post("/v1/identify", files={"file": (known.name, known.read_bytes())}))
    ids = {
        "answer": str(answer["query_id"]),
        **_drop(client, brought),
        **_keep_the_catalogue(client),
        "run": _reindex(client, sessions, folder),
        "job": _job_with_a_failure(sessions),
    }
    _people(client)
    return ids


def _said(answer: httpx.Response) -> Json:
    if answer.is_error:
        raise RuntimeError(f"{answer.request.method} {answer.request.url}: {answer.text}")
    said: Json = answer.json()
    return said


def _drop(client: httpx.Client, brought: tuple[FieldPhoto, ...]) -> dict[str, str]:
    """Drops a day at sea and decides some of it."""
    files = [("file", (photo.path.name, photo.path.read_bytes())) for photo in brought]
    fields = {"place": "Skjálfandi", "observer": "Vera", "body_part": "fluke"}
    dropped = _said(client.post("/v1/encounters/drop", files=files, data=fields))
    queries = [made["query_id"] for made in dropped["encounters"] if made["query_id"]]
    first, second, third = (_said(client.get(f"/v1/queries/{id_}")) for id_ in queries[:3])
    best = first["candidates"][0]["individual"]["id"]
    _decide(client, first, "same", individual_id=best)
    other = second["candidates"][-1]["individual"]["id"]
    _decide(client, second, "different", individual_id=other, note="another notch on the left")
    _decide(client, third, "unsure", note="too far away")
    made = dropped["encounters"][0]
    return {
        "asked": str(second["id"]),
        "encounter": str(made["encounter"]["id"]),
        "annotation": str(made["photos"][0]["annotation_id"]),
    }


def _decide(client: httpx.Client, query: Json, verdict: str, **fields: object) -> Json:
    body = {"query_id": query["id"], "version": query["version"], "verdict": verdict, **fields}
    return _said(client.post("/v1/reviews", json=body))


def _keep_the_catalogue(client: httpx.Client) -> dict[str, str]:
    """Gives one individual what can be known, and merges two others."""
    listed = _said(client.get("/v1/individuals", params={"limit": 4}))["items"]
    one, two, three, four = listed
    at = f"/v1/individuals/{one['id']}"
    tag = client.get(at).headers["ETag"]
    known = {
        "sex": "female",
        "life_stage": "adult",
        "vitality": "alive",
        "notes": "A calf in 2024.",
    }
    _said(client.patch(at, json=known, headers={"If-Match": tag}))
    _said(client.post(f"{at}/names", json={"name": "HW-0417"}))
    _said(client.post(f"/v1/individuals/{two['id']}/merge", json={"other_id": three["id"]}))
    return {"individual": str(one["id"]), "other": str(four["id"])}


def _people(client: httpx.Client) -> None:
    """Gives people accounts; from here on everybody signs in."""
    admin = {"login": LOGIN, "name": "Vera Holm", "role": "admin", "password": PASSWORD}
    _said(client.post("/v1/people", json=admin))
    client.post("/sign-in", data={"login": LOGIN, "password": PASSWORD})
    token = re.search(r'name="csrf-token" content="([^"]+)"', client.get("/jobs").text)
    assert token is not None
    own = {"X-CSRF-Token": token[1]}
    for login, name, role in (
        ("ole", "Ole Brandt", "reviewer"),
        ("anna", "Анна Лаптева", "curator"),
    ):
        person = {"login": login, "name": name, "role": role, "password": PASSWORD}
        _said(client.post("/v1/people", json=person, headers=own))
    _said(client.post("/v1/me/keys", json={"name": "field laptop"}, headers=own))


def _reindex(client: httpx.Client, sessions: sessionmaker[Session], folder: Path) -> str:
    """A run whose report waits to be read."""
    other = OtherPixels(blind=True)
    with sessions.begin() as session:
        register_bundle(session, other.spec, None)
    run = _said(client.post("/v1/reindex", json={"model": "other"}))
    _said(client.post("/v1/jobs", json={"kind": "calibrate"}))
    means = Means(
        sessions=sessions,
        store=MediaStore(folder / "media"),
        snapshots=SnapshotStore(folder / "snapshots"),
        exports_dir=folder / "exports",
        embedder_of=lambda _: other,
        head_of=lambda _: None,
    )
    worker = JobRunner(sessions, handlers(means), worker="here")
    while worker.run_one():
        pass
    return str(run["id"])


def _job_with_a_failure(sessions: sessionmaker[Session]) -> str:
    """A job that is half done, with a photo that failed."""
    items = 250
    with sessions.begin() as session:
        job = jobs.create_job(
            session,
            kind=JobKind.EMBED_MISSING,
            params={"model": "starter"},
            principal="Vera",
            total=4 * items,
        )
        specs = [ChunkSpec("embedding", {"number": number}, items) for number in range(4)]
        jobs.add_chunks(session, job.id, specs)
        jobs.advance_job(session, job.id, stage="embedding")
    for failed in ((), ("17",)):
        with sessions.begin() as session:
            chunk = jobs.claim_chunk(session, worker="here", lease_s=600)
        assert chunk is not None
        failures = [ItemFailure(item, "truncated", "the photo ends too early") for item in failed]
        with sessions.begin() as session:
            jobs.finish_chunk(session, chunk, done=items - len(failed), failures=failures)
    return str(job.id)
