"""Promise 62: who may use which route, tried for every route and every role.

The tables below are the specification. A route that stands in none of them, or in two, fails; so
does a line whose route is gone. Add a line for every new route, under the least role that may use
it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient
from pydantic import SecretStr

from db.types import Role
from service.app import create_app
from service.runtime import open_resight
from service.settings import Settings
from tests.conftest import TestServer
from tests.routes import Route, routes_of, table
from tests.service.household import (
    BROWSER,
    Browser,
    add_account,
    cheap_passwords,
    key_for,
    sign_in,
)
from tests.service.small import serving_of

OPEN = table("""
    GET /health
    GET /ready
    GET /static/{version}/{path:path}
    GET,POST /sign-in
    POST /sign-out
    POST /settings/appearance
""")
"""For everybody: they tell nothing of the catalogue and change nothing but one's own browser."""

PUBLIC = table("""
    GET /metrics
    GET /openapi.json
""")
"""For everybody, unless RESIGHT_PUBLIC_DOCS is off."""

VIEWER = table("""
    GET /
    GET /annotations/{annotation_id}
    GET /changes
    GET /drift-stats
    GET /encounters
    GET /encounters/{encounter_id}
    GET /export
    GET /individuals
    GET /individuals/picked
    GET /individuals/suggestions
    GET /individuals/{individual_id}
    GET /jobs
    GET /jobs/events
    GET /jobs/{job_id}
    GET /jobs/{job_id}/failures
    GET /people/me
    POST /people/me/keys
    POST /people/me/keys/{key_id}/revoke
    POST /people/me/name
    POST /people/me/password
    POST /people/me/sign-out-others
    GET /queries/{query_id}
    GET /queries/{query_id}/matches/{rank}
    GET /reindex/{run_id}
    GET /review
    GET /review/how-sure
    GET /review/{query_id:uuid}
    GET /review/{query_id:uuid}/candidates/{individual_id:uuid}
    POST /review/views
    POST /review/views/{view_id}/drop
    GET /samples/{key}.jpg
    GET /settings/viewpoints
    GET /v1/annotations/{annotation_id}
    GET /v1/annotations/{annotation_id}/crop
    GET /v1/annotations/{annotation_id}/embedding
    GET /v1/calibration
    GET /v1/changes
    GET /v1/changes/{change_id}
    GET /v1/drift-stats
    GET /v1/encounters
    GET /v1/encounters/{encounter_id}
    GET /v1/export
    GET /v1/individuals
    GET /v1/individuals/{individual_id}
    GET /v1/individuals/{individual_id}/history
    GET /v1/individuals/{individual_id}/names
    GET /v1/individuals/{individual_id}/split/suggestion
    GET /v1/jobs
    GET /v1/jobs/events
    GET /v1/jobs/{job_id}
    GET /v1/jobs/{job_id}/events
    GET /v1/jobs/{job_id}/failures
    GET /v1/limits
    GET,PATCH /v1/me
    GET,POST /v1/me/keys
    DELETE /v1/me/keys/{key_id}
    GET /v1/media/{media_id}/thumbnail
    GET /v1/models
    GET /v1/queries/{query_id}
    GET /v1/queries/{query_id}/candidates/{individual_id}
    GET /v1/queues
    GET /v1/queues/{name}
    GET /v1/reindex
    GET /v1/reindex/{run_id}
    GET /v1/reindex/{run_id}/report
    GET /v1/suggestions/merges
    GET /v1/suggestions/outliers
    GET /v1/viewpoint-rules
    GET,POST /v1/views
    DELETE /v1/views/{view_id}
""")
"""Who may see everything and change nothing but what is their own."""

REVIEWER = table("""
    GET,POST /encounters/new
    POST /encounters/{encounter_id}/ask
    GET,POST /encounters/{encounter_id}/edit
    POST /identify
    POST /predict-batch
    POST /predict-single
    POST /queries/{query_id:uuid}/review
    POST /samples/{key}
    GET /v1/annotations.csv
    POST /v1/annotations/{annotation_id}/similar
    POST /v1/encounters
    POST /v1/encounters/drop
    PATCH /v1/encounters/{encounter_id}
    POST /v1/encounters/{encounter_id}/photos
    POST /v1/identify
    POST /v1/names/next
    DELETE /v1/names/reserved/{name}
    POST /v1/predict-batch
    POST /v1/predict-single
    POST /v1/queries
    POST /v1/reviews
    POST /v1/reviews/{decision_id}/undo
    POST /v1/search
""")
"""Who may ask, bring photos and decide."""

CURATOR = table("""
    POST /annotations/{annotation_id}
    GET,POST /annotations/describe
    GET,POST /annotations/move
    GET,POST /annotations/new
    POST /annotations/picked
    POST /changes/{change_id}/undo
    GET,POST /individuals/edit
    GET,POST /individuals/new
    GET,POST /individuals/{individual_id}/add
    GET,POST /individuals/{individual_id}/edit
    GET,POST /individuals/{individual_id}/merge
    POST /individuals/{individual_id}/names
    POST /individuals/{individual_id}/names/{name_id}/remove
    GET,POST /individuals/{individual_id}/split
    POST /individuals/suggestions/apart
    POST /individuals/suggestions/{decision_id}/undo
    POST /queries/{query_id}/individual
    POST /settings/viewpoints
    POST /settings/viewpoints/{rule_id}/delete
    POST /review/how-sure
    POST /v1/annotations
    PATCH /v1/annotations/{annotation_id}
    POST /v1/annotations/edit
    POST /v1/annotations/reassign
    POST /v1/calibrations
    POST /v1/changes/{change_id}/undo
    POST /v1/individuals
    GET /v1/media/{media_id}
    PATCH /v1/individuals/{individual_id}
    POST /v1/individuals/{individual_id}/merge
    POST /v1/individuals/{individual_id}/names
    DELETE /v1/individuals/{individual_id}/names/{name_id}
    POST /v1/individuals/{individual_id}/photos
    POST /v1/individuals/{individual_id}/rename
    POST /v1/individuals/{individual_id}/split
    POST /v1/suggestions/merges/dismiss
    PUT /v1/viewpoint-rules
    DELETE /v1/viewpoint-rules/{rule_id}
""")
"""Who may change the catalogue and who is who."""

ADMIN = table("""
    POST /jobs
    POST /jobs/{job_id}/{action}
    GET,POST /people
    POST /people/{account_id}/disable
    POST /people/{account_id}/enable
    POST /people/{account_id}/password
    POST /people/{account_id}/role
    POST /reindex
    POST /reindex/{run_id}/abandon
    POST /reindex/{run_id}/activate
    POST /reindex/{run_id}/rollback
    POST /v1/jobs
    POST /v1/jobs/{job_id}/cancel
    POST /v1/jobs/{job_id}/pause
    POST /v1/jobs/{job_id}/resume
    POST /v1/jobs/{job_id}/retry
    GET,POST /v1/people
    GET,PATCH /v1/people/{account_id}
    POST /v1/reindex
    POST /v1/reindex/rollback
    POST /v1/reindex/{run_id}/abandon
    POST /v1/reindex/{run_id}/activate
""")
"""Who may run jobs, switch models and manage people."""

BY_ROLE = {
    Role.VIEWER: VIEWER,
    Role.REVIEWER: REVIEWER,
    Role.CURATOR: CURATOR,
    Role.ADMIN: ADMIN,
}
GUARDED = {route: role for role, routes in BY_ROLE.items() for route in routes}
STREAMS = table("""
    GET /jobs/events
    GET /v1/jobs/events
""")
"""What has no end by itself: only the refusals are tried."""


@pytest.fixture(scope="module")
def service(
    server: TestServer, template: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TestClient]:
    """A service beyond loopback, whose people have a role each."""
    url = server.new_database(template)
    settings = Settings(
        data_dir=tmp_path_factory.mktemp("roles"),
        database_url=SecretStr(url),
        rate_limit_per_minute=0,
    )
    resight = open_resight(settings, serving=serving_of())
    inside = create_app(settings, resight=resight, passwords=cheap_passwords())
    with TestClient(inside) as client:
        for role in reversed(Role):
            add_account(client, role.value, role)
    wide = create_app(
        settings.model_copy(update={"host": "0.0.0.0"}),
        resight=resight,
        passwords=cheap_passwords(),
    )
    with TestClient(wide, raise_server_exceptions=False) as client:
        yield client
    resight.close()
    server.drop_database(url)


@pytest.fixture(scope="module")
def keys(service: TestClient) -> dict[Role, dict[str, str]]:
    return {role: key_for(service, role.value) for role in Role}


@pytest.fixture(scope="module")
def browsers(service: TestClient) -> dict[Role, Browser]:
    return {role: sign_in(service, role.value) for role in Role}


def ask(client: TestClient, route: Route, headers: dict[str, str]) -> tuple[int, str]:
    """Status and code (of a page: where it leads)."""
    client.cookies.clear()
    body = {} if route.method == "GET" else {"json": {}}
    answer = client.request(
        route.method, route.url, headers=headers, follow_redirects=False, **body
    )
    if answer.headers.get("content-type") == "application/problem+json":
        return answer.status_code, answer.json()["code"]
    return answer.status_code, answer.headers.get("location", "")


def test_promise_62_every_route_has_one_entry(service: TestClient) -> None:
    """Promise 62: a route without an entry fails the build."""
    tables = (OPEN, PUBLIC, *BY_ROLE.values())
    entries = Counter(route for routes in tables for route in routes)
    routes = routes_of(service.app)  # type: ignore[arg-type]
    assert {str(route) for route, times in entries.items() if times > 1} == set()
    assert sorted(map(str, routes.keys() - entries.keys())) == [], "routes without an entry"
    assert sorted(map(str, entries.keys() - routes.keys())) == [], "entries without a route"


def test_the_documented_operations_are_among_them(service: TestClient) -> None:
    documented = {
        Route(method.upper(), path)
        for path, operations in service.app.openapi()["paths"].items()  # type: ignore[attr-defined]
        for method in operations
    }
    assert documented <= routes_of(service.app).keys()  # type: ignore[arg-type]


def test_every_route_declares_the_role_of_its_entry(service: TestClient) -> None:
    expected = {route: frozenset({role.value}) for route, role in GUARDED.items()}
    expected |= {route: frozenset() for route in OPEN}
    expected |= {route: frozenset({"reads_public"}) for route in PUBLIC}
    declared = routes_of(service.app)  # type: ignore[arg-type]
    wrong = {str(r): sorted(roles) for r, roles in declared.items() if expected.get(r) != roles}
    assert wrong == {}


def test_promise_62_nobody_uses_a_guarded_route_without_a_role(service: TestClient) -> None:
    """Promise 62: strangers beyond loopback are sent to sign in, or refused."""
    let_in = []
    for route in sorted(GUARDED):
        status, where = ask(service, route, BROWSER if route.is_page else {})
        led = route.is_page and route.method == "GET"
        refused = status == 303 and where.startswith("/sign-in") if led else status == 401
        if not refused:
            let_in.append(f"{route}: {status} {where}")
    assert let_in == []


@pytest.mark.parametrize("role", list(Role))
def test_promise_62_a_key_opens_what_its_role_may_and_nothing_more(
    service: TestClient, keys: dict[Role, dict[str, str]], role: Role
) -> None:
    """Promise 62: every route by the key of each role."""
    wrong = []
    for route, least in sorted(GUARDED.items()):
        allowed = role.includes(least)
        if route in STREAMS and allowed:
            continue
        status, code = ask(service, route, keys[role])
        if not (status not in (401, 403) and status < 500 if allowed else status == 403):
            wrong.append(f"{route}: {status} {code}")
    assert wrong == []


@pytest.mark.parametrize("least", list(Role))
def test_promise_62_a_browser_opens_what_its_person_may_and_nothing_more(
    service: TestClient, browsers: dict[Role, Browser], least: Role
) -> None:
    """Promise 62: the same for who is signed in, on both sides of each border."""
    own = browsers[least].own
    below = [browsers[role].own for role in Role if not role.includes(least)][-1:]
    wrong = []
    for route in sorted(BY_ROLE[least] - STREAMS - SPOILING):
        status, code = ask(service, route, own)
        if status in (401, 403) or status >= 500:
            wrong.append(f"{route} refuses a {least}: {status} {code}")
        for headers in below:
            status, code = ask(service, route, headers)
            if status != 403:
                wrong.append(f"{route} lets in who is no {least}: {status} {code}")
    assert wrong == []


SPOILING = table("POST /people/me/sign-out-others")
"""What would end the other sign-ins of these tests."""


def test_promise_67_no_change_by_cookie_without_its_token(
    service: TestClient, browsers: dict[Role, Browser]
) -> None:
    """Promise 67: on every route that changes anything."""
    headers = browsers[Role.ADMIN].headers
    wrong = [
        f"{route}: {answer}"
        for route in sorted(GUARDED)
        if route.changes
        and (answer := ask(service, route, headers)) not in ((403, "csrf_token"), (403, ""))
    ]
    assert wrong == []
    assert ask(service, Route("POST", "/sign-out"), headers)[0] == 403
    assert ask(service, Route("GET", "/v1/me"), headers)[0] == 200


def test_documentation_follows_its_setting(service: TestClient) -> None:
    for route in PUBLIC | OPEN:
        if route.method == "GET":
            assert ask(service, route, {})[0] == 200, route
