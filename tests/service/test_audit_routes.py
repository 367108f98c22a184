"""Promise 55: every route that changes anything writes an entry of the audit trail.

Each changing route stands once in `DEEDS`, with a request that succeeds, in `REINDEX_DEEDS`, whose
order matters, or in `NOTHING_KEPT`, with why it writes none. A route in none of them fails.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from pydantic import SecretStr

from db.queries import records
from db.queries.records import AuditRow
from db.types import Role
from service.app import create_app
from service.runtime import open_resight
from service.settings import Settings
from tests.conftest import TestServer
from tests.routes import Route, routes_of
from tests.service.household import Browser, add_account, cheap_passwords, key_for, sign_in
from tests.service.small import OtherPixels, PixelEmbedder, scene, serving_of
from tests.service.test_jobs_api import do_chunk, end_job, make_job
from tests.service.test_reindex_api import register, worker_of

ME = "Ann Admin"
Files = list[tuple[str, tuple[str, bytes, str]]]


@dataclass(frozen=True)
class Ask:
    """The rest of a request: what stands for the path's parameters, and what is sent."""

    given: dict[str, Any] = field(default_factory=dict)
    sent: dict[str, Any] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)


def to(__sent: dict[str, Any] | None = None, /, **given: Any) -> Ask:
    """JSON to the resource that the parameters name."""
    return Ask(given, {"json": __sent} if __sent is not None else {})


def form(__sent: dict[str, Any] | None = None, /, **given: Any) -> Ask:
    """A form to the page that the parameters name."""
    return Ask(given, {"data": __sent or {}})


@dataclass
class World:
    """A service, an admin's key and browser, and things to do something to."""

    client: TestClient
    headers: dict[str, str]
    browser: Browser
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def do(self, method: str, url: str, **sent: Any) -> Any:
        answer = self.client.request(method, url, headers=self.headers, **sent)
        assert answer.status_code < 300, f"{method} {url}: {answer.text[:500]}"
        return answer.json() if answer.content else None

    def name(self) -> str:
        return f"name {next(self.numbers)}"

    def photos(self, count: int = 1) -> Files:
        """Photos that nobody has seen yet."""
        made = [scene(1000 + next(self.numbers)) for _ in range(count)]
        return [("file", (f"{i}.jpg", data, "image/jpeg")) for i, data in enumerate(made)]

    def individual(self, photos: int = 1) -> str:
        made = self.do(
            "POST", "/v1/individuals", files=self.photos(photos), data={"name": self.name()}
        )
        return str(made["individual"]["id"])

    def annotations(self, individual: str) -> list[str]:
        shown = self.do("GET", f"/v1/individuals/{individual}")["photos"]
        return [photo["annotation_id"] for photo in shown]

    def annotation(self) -> dict[str, Any]:
        [shown] = self.do("GET", f"/v1/individuals/{self.individual()}")["photos"]
        return dict(shown)

    def alias(self) -> tuple[str, str]:
        """An individual, and the id of a name that it can do without."""
        who = self.individual()
        self.do("POST", f"/v1/individuals/{who}/names", json={"name": self.name()})
        names = self.do("GET", f"/v1/individuals/{who}/names")["items"]
        return who, next(str(one["id"]) for one in names if not one["is_primary"])

    def change(self) -> int:
        renamed = self.do(
            "POST", f"/v1/individuals/{self.individual()}/rename", json={"name": self.name()}
        )
        return int(renamed["change_id"])

    def encounter(self) -> str:
        made = self.do("POST", "/v1/encounters", files=self.photos(), data={"ask": "false"})
        return str(made["encounter"]["id"])

    def query(self) -> dict[str, Any]:
        made = self.do("POST", "/v1/queries", json={"encounter_id": self.encounter()})
        return dict(made)

    def decision(self) -> str:
        query = self.query()
        words = {"query_id": query["id"], "version": query["version"], "verdict": "unsure"}
        return str(self.do("POST", "/v1/reviews", json=words)["decision_id"])

    def apart(self) -> str:
        body = {"individual_id": self.individual(), "other_id": self.individual()}
        dismissed = self.do("POST", "/v1/suggestions/merges/dismiss", json=body)
        return str(dismissed["decision_id"])

    def rule(self) -> str:
        rule = self.do("PUT", "/v1/viewpoint-rules", json={"body_part": self.name(), "sided": True})
        return str(rule["id"])

    def job(self, *steps: str) -> str:
        """A job of its own, led through steps; what another deed left running is cancelled."""
        for one in self.do("GET", "/v1/jobs")["items"]:
            if one["state"] in ("queued", "running", "paused"):
                self.do("POST", f"/v1/jobs/{one['id']}/cancel")
        made = self.do("POST", "/v1/jobs", json={"kind": "embed_missing"})
        for step in steps:
            self.do("POST", f"/v1/jobs/{made['id']}/{step}")
        return str(made["id"])

    def person(self) -> int:
        return add_account(self.client, f"p{next(self.numbers)}", Role.VIEWER, name=self.name())

    def key(self) -> int:
        return int(self.do("POST", "/v1/me/keys", json={"name": self.name()})["id"])

    def mine(self, __sent: dict[str, Any] | None = None, **given: Any) -> Ask:
        """A form that only a person's browser may send."""
        token = {"csrf": self.browser.token}
        return Ask(given, {"data": (__sent or {}) | token}, self.browser.headers)

    def new_password(self) -> str:
        return f"four words in a row {next(self.numbers)}"


def merged(world: World) -> dict[str, str]:
    return {"individual_id": world.individual(), "other_id": world.individual()}


def split_off(world: World) -> tuple[str, str]:
    """An individual of two photos, and one of them."""
    who = world.individual(photos=2)
    return who, world.annotations(who)[0]


def stored_answer(world: World) -> str:
    """A question of the match page, whose photos are in no individual yet."""
    return str(world.do("POST", "/v1/identify", files=world.photos())["query_id"])


def failed_job(world: World) -> str:
    """A job that ended with an item that failed."""
    world.job("cancel")
    made = make_job(world.client, chunks=1)
    do_chunk(world.client, "17")
    end_job(world.client, made.id)
    return str(made.id)


DEEDS: dict[str, Callable[[World], Ask]] = {
    # Individuals.
    "POST /v1/individuals": lambda w: Ask(sent={"files": w.photos(), "data": {"name": w.name()}}),
    "POST /v1/individuals/{individual_id}/photos": lambda w: Ask(
        {"individual_id": w.individual()}, {"files": w.photos()}
    ),
    "POST /queries/{query_id}/individual": lambda w: form(
        {"name": w.name()}, query_id=stored_answer(w)
    ),
    "POST /individuals/new": lambda w: Ask(sent={"files": w.photos(), "data": {"name": w.name()}}),
    "POST /individuals/{individual_id}/add": lambda w: Ask(
        {"individual_id": w.individual()}, {"files": w.photos()}
    ),
    "PATCH /v1/individuals/{individual_id}": lambda w: to(
        {"sex": "female"}, individual_id=w.individual()
    ),
    "POST /individuals/{individual_id}/edit": lambda w: form(
        {"notes": w.name()}, individual_id=w.individual()
    ),
    "POST /individuals/edit": lambda w: form({"ids": w.individual(), "sex": "male", "step": "do"}),
    "POST /v1/individuals/{individual_id}/names": lambda w: to(
        {"name": w.name()}, individual_id=w.individual()
    ),
    "POST /individuals/{individual_id}/names": lambda w: form(
        {"name": w.name()}, individual_id=w.individual()
    ),
    "DELETE /v1/individuals/{individual_id}/names/{name_id}": lambda w: Ask(
        dict(zip(("individual_id", "name_id"), w.alias(), strict=True))
    ),
    "POST /individuals/{individual_id}/names/{name_id}/remove": lambda w: Ask(
        dict(zip(("individual_id", "name_id"), w.alias(), strict=True))
    ),
    "POST /v1/individuals/{individual_id}/rename": lambda w: to(
        {"name": w.name()}, individual_id=w.individual()
    ),
    # Who is who.
    "POST /v1/individuals/{individual_id}/merge": lambda w: to(
        {"other_id": w.individual()}, individual_id=w.individual()
    ),
    "POST /individuals/{individual_id}/merge": lambda w: form(
        {"other_id": w.individual()}, individual_id=w.individual()
    ),
    "POST /v1/individuals/{individual_id}/split": lambda w: (
        lambda who, photo: to({"annotation_ids": [photo], "name": w.name()}, individual_id=who)
    )(*split_off(w)),
    "POST /individuals/{individual_id}/split": lambda w: (
        lambda who, photo: form({"id": [photo], "step": "do"}, individual_id=who)
    )(*split_off(w)),
    "POST /v1/annotations/reassign": lambda w: to(
        {"annotation_ids": [w.annotation()["annotation_id"]], "individual_id": w.individual()}
    ),
    "POST /annotations/describe": lambda w: form(
        {"ids": w.annotation()["annotation_id"], "viewpoint": "left", "step": "do"}
    ),
    "POST /annotations/move": lambda w: form(
        {"ids": w.annotation()["annotation_id"], "to": w.individual()}
    ),
    "POST /annotations/picked": lambda w: form(
        {"act": "reference", "id": [w.annotation()["annotation_id"]]}
    ),
    "POST /v1/suggestions/merges/dismiss": lambda w: to(merged(w)),
    "POST /individuals/suggestions/apart": lambda w: form(merged(w)),
    "POST /individuals/suggestions/{decision_id}/undo": lambda w: form(decision_id=w.apart()),
    "POST /v1/changes/{change_id}/undo": lambda w: Ask({"change_id": w.change()}),
    "POST /changes/{change_id}/undo": lambda w: form(change_id=w.change()),
    # Encounters and annotations.
    "POST /v1/encounters": lambda w: Ask(sent={"files": w.photos()}),
    "POST /v1/encounters/drop": lambda w: Ask(sent={"files": w.photos(2)}),
    "POST /encounters/new": lambda w: Ask(sent={"files": w.photos(2)}),
    "POST /v1/encounters/{encounter_id}/photos": lambda w: Ask(
        {"encounter_id": w.encounter()}, {"files": w.photos()}
    ),
    "PATCH /v1/encounters/{encounter_id}": lambda w: to(
        {"place": w.name()}, encounter_id=w.encounter()
    ),
    "POST /encounters/{encounter_id}/edit": lambda w: form(
        {"place": w.name()}, encounter_id=w.encounter()
    ),
    "POST /v1/annotations": lambda w: to(
        {"media_id": w.annotation()["media_id"], "box_px": [10, 10, 90, 80]}
    ),
    "POST /annotations/new": lambda w: form(
        {"media": w.annotation()["media_id"], "x": 10, "y": 10, "width": 90, "height": 80}
    ),
    "PATCH /v1/annotations/{annotation_id}": lambda w: to(
        {"viewpoint": "left"}, annotation_id=w.annotation()["annotation_id"]
    ),
    "POST /annotations/{annotation_id}": lambda w: form(
        {"viewpoint": "left", "matchable": "true"}, annotation_id=w.annotation()["annotation_id"]
    ),
    "POST /v1/annotations/edit": lambda w: to(
        {"annotation_ids": [w.annotation()["annotation_id"]], "viewpoint": "left"}
    ),
    "PUT /v1/viewpoint-rules": lambda w: to({"body_part": w.name(), "sided": False}),
    "POST /settings/viewpoints": lambda w: form({"body_part": w.name(), "sided": "false"}),
    "DELETE /v1/viewpoint-rules/{rule_id}": lambda w: Ask({"rule_id": w.rule()}),
    "POST /settings/viewpoints/{rule_id}/delete": lambda w: form(rule_id=w.rule()),
    # Decisions.
    "POST /queries/{query_id:uuid}/review": lambda w: form(query_id=stored_answer(w)),
    "POST /v1/reviews": lambda w: (
        lambda query: to({"query_id": query["id"], "version": query["version"], "verdict": "new"})
    )(w.query()),
    "POST /v1/reviews/{decision_id}/undo": lambda w: Ask({"decision_id": w.decision()}),
    # Jobs.
    "POST /v1/jobs": lambda w: (w.job("cancel"), to({"kind": "embed_missing"}))[1],
    "POST /jobs": lambda w: (w.job("cancel"), form({"kind": "embed_missing"}))[1],
    "POST /v1/calibrations": lambda w: (w.job(), to({}))[1],
    "POST /review/how-sure": lambda w: (w.job(), form())[1],
    "POST /v1/jobs/{job_id}/pause": lambda w: Ask({"job_id": w.job()}),
    "POST /v1/jobs/{job_id}/resume": lambda w: Ask({"job_id": w.job("pause")}),
    "POST /v1/jobs/{job_id}/cancel": lambda w: Ask({"job_id": w.job()}),
    "POST /jobs/{job_id}/{action}": lambda w: form(job_id=w.job(), action="pause"),
    "POST /v1/jobs/{job_id}/retry": lambda w: Ask({"job_id": failed_job(w)}),
    # People.
    "PATCH /v1/me": lambda w: (w.do("PATCH", "/v1/me", json={"name": "A"}), to({"name": ME}))[1],
    "POST /people/me/name": lambda w: (
        w.do("PATCH", "/v1/me", json={"name": "A"}),
        w.mine({"name": ME}),
    )[1],
    "POST /v1/me/keys": lambda w: to({"name": w.name()}),
    "POST /people/me/keys": lambda w: w.mine({"name": w.name()}),
    "DELETE /v1/me/keys/{key_id}": lambda w: Ask({"key_id": w.key()}),
    "POST /people/me/keys/{key_id}/revoke": lambda w: w.mine(key_id=w.key()),
    "POST /people/me/sign-out-others": lambda w: w.mine(),
    "POST /people/me/password": lambda w: own_password(w),
    "POST /v1/people": lambda w: to({"login": f"q{next(w.numbers)}", "name": w.name()}),
    "PATCH /v1/people/{account_id}": lambda w: to({"role": "curator"}, account_id=w.person()),
    "POST /people": lambda w: form({"login": f"q{next(w.numbers)}", "name": w.name()}),
    "POST /people/{account_id}/role": lambda w: form({"role": "curator"}, account_id=w.person()),
    "POST /people/{account_id}/disable": lambda w: form(account_id=w.person()),
    "POST /people/{account_id}/enable": lambda w: (
        lambda who: (
            w.do("PATCH", f"/v1/people/{who}", json={"disabled": True}),
            form(account_id=who),
        )[1]
    )(w.person()),
    "POST /people/{account_id}/password": lambda w: form(account_id=w.person()),
    "POST /sign-in": lambda _: form({"login": "ann", "password": PASSWORDS[-1]}),
    "POST /sign-out": lambda w: (
        lambda browser: Ask({}, {"data": {"csrf": browser.token}}, browser.headers)
    )(sign_in(w.client, "ann", PASSWORDS[-1])),
}

PASSWORDS = ["four words in a row"]


def own_password(world: World) -> Ask:
    PASSWORDS.append(world.new_password())
    present, wanted = PASSWORDS[-2:]
    return world.mine({"present": present, "wanted": wanted, "again": wanted})


REINDEX_DEEDS = (
    "POST /v1/reindex",
    "POST /v1/reindex/{run_id}/abandon",
    "POST /reindex",
    "POST /reindex/{run_id}/abandon",
    "POST /v1/reindex",
    "POST /v1/reindex/{run_id}/activate",
    "POST /v1/reindex/rollback",
    "POST /reindex/{run_id}/activate",
    "POST /reindex/{run_id}/rollback",
)
"""One run after another, in the order in which each step is allowed."""

_QUESTION = "a question: the query that it stores says who asked, when and what was answered"
_OWN = "one's own filters by name, which say nothing of the catalogue"
NOTHING_KEPT = {
    "POST /v1/identify": _QUESTION,
    "POST /identify": _QUESTION,
    "POST /samples/{key}": _QUESTION,
    "POST /predict-single": _QUESTION,
    "POST /v1/predict-single": _QUESTION,
    "POST /predict-batch": _QUESTION,
    "POST /v1/predict-batch": _QUESTION,
    "POST /v1/queries": _QUESTION,
    "POST /encounters/{encounter_id}/ask": _QUESTION,
    "POST /v1/search": "a search: it stores nothing",
    "POST /v1/annotations/{annotation_id}/similar": "a search: it stores nothing",
    "POST /v1/names/next": "a name kept for a quarter of an hour; giving it is what is audited",
    "DELETE /v1/names/reserved/{name}": "a name that is given back unused",
    "POST /v1/views": _OWN,
    "DELETE /v1/views/{view_id}": _OWN,
    "POST /review/views": _OWN,
    "POST /review/views/{view_id}/drop": _OWN,
    "POST /settings/appearance": "two cookies of the reader's browser",
}
"""What by its nature writes no entry."""


@pytest.fixture(scope="module")
def world(
    server: TestServer, template: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[World]:
    url = server.new_database(template)
    settings = Settings(data_dir=tmp_path_factory.mktemp("audit"), database_url=SecretStr(url))
    resight = open_resight(settings, serving=serving_of())
    app = create_app(settings, resight=resight, passwords=cheap_passwords())
    with TestClient(app, base_url="http://127.0.0.1:8000", raise_server_exceptions=False) as client:
        add_account(client, "ann", name=ME)
        yield World(client, key_for(client, "ann"), sign_in(client, "ann"))
    resight.close()
    server.drop_database(url)


def trail(world: World) -> list[AuditRow]:
    """The newest entries, newest first."""
    with world.client.app.state.resight.runtime.sessions() as session:  # type: ignore[attr-defined]
        return list(records.list_audit(session, limit=50).items)


def told(body: str) -> str:
    """What a refusal says, of a page without the page around it."""
    return " ".join(re.sub(r"<[^>]*>", " ", body.partition("<main")[2] or body).split())[:500]


def carry_out(world: World, name: str, asked: Ask) -> None:
    """Sends the request, which has to succeed, to leave an entry, and to leave it in one's name."""
    method, path = name.split()
    url = path
    for parameter, value in asked.given.items():
        url, found = re.subn(rf"{{{parameter}(:\w+)?}}", str(value), url)
        assert found == 1, name
    assert "{" not in url, url
    before = {entry.id for entry in trail(world)}
    world.client.cookies.clear()
    answer = world.client.request(
        method, url, headers=asked.headers or world.headers, follow_redirects=False, **asked.sent
    )
    assert answer.status_code < 400, f"{name}: {answer.status_code} {told(answer.text)}"
    written = [entry for entry in trail(world) if entry.id not in before]
    assert written, f"{name} succeeded ({answer.status_code}) and wrote no entry"
    assert {entry.principal for entry in written} <= {ME, "A"}, written


def test_promise_55_every_changing_route_is_accounted_for(world: World) -> None:
    app: FastAPI = world.client.app  # type: ignore[assignment]
    changing = {str(route) for route in routes_of(app) if route.changes}
    told = [*DEEDS, *dict.fromkeys(REINDEX_DEEDS), *NOTHING_KEPT]
    assert len(told) == len(set(told)), "told twice"
    assert sorted(changing - set(told)) == [], "changing routes that nobody speaks for"
    assert sorted(set(told) - changing) == [], "told of, but gone"


@pytest.mark.parametrize("name", DEEDS)
def test_promise_55_what_a_route_changes_is_in_the_audit_trail(world: World, name: str) -> None:
    """Promise 55: walked over every changing route of the application."""
    carry_out(world, name, DEEDS[name](world))


def test_promise_55_so_is_every_step_of_a_re_index(world: World) -> None:
    other = OtherPixels()
    for _ in range(4):
        world.individual(photos=2)
    register(world.client, other)
    work = worker_of(world.client, PixelEmbedder(), other)
    started = ""
    for name in REINDEX_DEEDS:
        if name.endswith("/reindex"):
            body = {"model": "other"}
            asked = to(body) if "/v1/" in name else form(body)
            carry_out(world, name, asked)
            started = world.do("GET", "/v1/reindex")["items"][0]["id"]
            continue
        if name.endswith("activate"):
            work()
        given = {"run_id": started} if "{run_id}" in name else {}
        # Two photos of an individual are too few to tell a better space from a worse one.
        body = {"force": True} if name.endswith("activate") else {}
        carry_out(world, name, Ask(given, {"json" if "/v1/" in name else "data": body}))


def test_the_trail_of_all_that_is_whole(world: World) -> None:
    with world.client.app.state.resight.runtime.sessions() as session:  # type: ignore[attr-defined]
        assert records.verify_audit(session) == []


def test_the_routes_are_what_they_are_called() -> None:
    for name in (*DEEDS, *REINDEX_DEEDS, *NOTHING_KEPT):
        method, path = name.split()
        assert Route(method, path).changes
