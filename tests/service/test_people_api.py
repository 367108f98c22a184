"""People over HTTP: oneself, personal keys, and everybody for admins."""

from __future__ import annotations

import pytest
from fastapi.testclient import TestClient

from db.queries import people, records
from db.types import Role
from tests.service.household import PASSWORD, add_account, key_for, sign_in
from tests.service.small import scene

NEW = {"login": "bo", "name": "Bo Lind", "role": "curator", "password": "a password for Bo"}


def program_key(client: TestClient, name: str, role: Role) -> dict[str, str]:
    with client.app.state.resight.runtime.sessions.begin() as session:
        _, key = records.create_key(session, name, role)
    return {"Authorization": f"Bearer {key}"}


# ---------------------------------------------------------------------------------------- oneself


def test_the_local_user_is_asked_for_a_name_that_decisions_then_carry(client: TestClient) -> None:
    me = client.get("/v1/me").json()
    assert (me["name"], me["role"], me["account_id"], me["how"]) == (
        "local",
        "admin",
        None,
        "local",
    )
    named = client.patch("/v1/me", json={"name": " Anna  Berg "})
    assert named.status_code == 200
    assert client.get("/v1/me").json() == named.json()
    assert (named.json()["name"], named.json()["login"]) == ("Anna Berg", None)
    asked = client.post("/v1/identify", files={"file": ("a.jpg", scene(1))}).json()
    with client.app.state.resight.runtime.sessions() as session:
        assert records.get_query(session, asked["query_id"]).principal == "Anna Berg"
        entry = records.list_audit(session).items[0]
    assert (entry.action, entry.principal) == ("account.name", "Anna Berg")
    for wrong in ("", "local", "x" * 81):
        assert client.patch("/v1/me", json={"name": wrong}).status_code == 422
    assert client.post("/v1/me/keys", json={"name": "laptop"}).json()["code"] == "local_user"


def test_the_local_user_becomes_the_first_account_and_keeps_what_was_decided(
    client: TestClient,
) -> None:
    local = client.patch("/v1/me", json={"name": "Anna Berg"}).json()["account_id"]
    viewer = {"login": "anna", "name": "Anna Berg", "role": "viewer", "password": PASSWORD}
    refused = client.post("/v1/people", json=viewer)
    assert (refused.status_code, refused.json()["code"]) == (422, "first_not_admin")
    made = client.post("/v1/people", json=viewer | {"role": "admin"})
    assert made.status_code == 201
    assert (made.json()["id"], made.json()["is_local"]) == (local, False)
    assert client.get("/v1/me").status_code == 401
    assert client.get("/v1/me", headers=sign_in(client, "anna").headers).json()["login"] == "anna"


def test_a_key_of_a_program_is_nobody(client: TestClient) -> None:
    headers = program_key(client, "importer", Role.ADMIN)
    me = client.get("/v1/me", headers=headers).json()
    assert (me["name"], me["account_id"], me["how"]) == ("importer", None, "key")
    for method, path, body in (
        ("PATCH", "/v1/me", {"name": "Anna"}),
        ("POST", "/v1/me/keys", {"name": "laptop"}),
        ("GET", "/v1/me/keys", None),
    ):
        answer = client.request(method, path, headers=headers, json=body)
        assert (answer.status_code, answer.json()["code"]) == (409, "no_account")


def test_ones_name_is_ones_own(client: TestClient) -> None:
    add_account(client, "anna", name="Anna Berg")
    add_account(client, "bo", Role.VIEWER, name="Bo Lind")
    program_key(client, "importer", Role.VIEWER)
    bo = key_for(client, "bo")
    for taken in ("anna berg", "Importer"):
        answer = client.patch("/v1/me", headers=bo, json={"name": taken})
        assert (answer.status_code, answer.json()["code"]) == (409, "person_name_taken")
    assert client.patch("/v1/me", headers=bo, json={"name": "Bo L."}).json()["name"] == "Bo L."


def test_a_password_is_changed_by_who_knows_it(client: TestClient) -> None:
    add_account(client, "anna")
    browser = sign_in(client, "anna")
    new = "another four words"

    def change(**body: str) -> tuple[int, str]:
        answer = client.patch("/v1/me", headers=browser.own, json=body)
        return answer.status_code, answer.json().get("code", "")

    assert change(password=new) == (422, "wrong_password")
    assert change(password=new, current_password="wrong") == (422, "wrong_password")
    assert change(password="short", current_password=PASSWORD) == (422, "password_weak")
    assert change(password=new, current_password=PASSWORD) == (200, "")
    assert sign_in(client, "anna", new).cookie
    statuses = [change(password=new, current_password="guess")[0] for _ in range(7)]
    assert statuses[-1] == 429


def test_a_key_that_may_little_opens_nothing_more(client: TestClient) -> None:
    """A viewer's key of an admin makes no wider key, no password, and no account."""
    add_account(client, "anna", password=None)
    narrow = key_for(client, "anna", Role.VIEWER)
    wide = client.post("/v1/me/keys", headers=narrow, json={"name": "x", "role": "admin"})
    assert (wide.status_code, wide.json()["code"]) == (422, "role_too_wide")
    made = client.post("/v1/me/keys", headers=narrow, json={"name": "x"}).json()
    assert made["role"] == "viewer"
    first = client.patch("/v1/me", headers=narrow, json={"password": "another four words"})
    assert (first.status_code, first.json()["code"]) == (409, "no_password")
    assert client.get("/v1/people", headers=narrow).status_code == 403
    assert client.post("/v1/people", headers=narrow, json=NEW).status_code == 403


def test_personal_keys_are_made_listed_and_revoked(client: TestClient) -> None:
    add_account(client, "anna", name="Anna Berg")
    browser = sign_in(client, "anna")
    body = {"name": "laptop", "role": "reviewer", "days": 30}
    made = client.post("/v1/me/keys", headers=browser.own, json=body)
    assert made.status_code == 201
    key = {"Authorization": f"Bearer {made.json()['key']}"}
    me = client.get("/v1/me", headers=key).json()
    assert (me["name"], me["role"], me["how"]) == ("Anna Berg", "reviewer", "key")
    again = client.post("/v1/me/keys", headers=browser.own, json=body)
    assert (again.status_code, again.json()["code"]) == (409, "key_name_taken")
    listed = client.get("/v1/me/keys", headers=browser.headers).json()["items"]
    assert [(row["name"], row["revoked_at"]) for row in listed] == [("laptop", None)]
    assert "key" not in listed[0]
    url = f"/v1/me/keys/{listed[0]['id']}"
    add_account(client, "bo", Role.ADMIN)
    assert client.delete(url, headers=key_for(client, "bo")).status_code == 404
    assert client.delete(url, headers=browser.own).status_code == 204
    assert client.get("/v1/me", headers=key).status_code == 401


# ----------------------------------------------------------------------------------------- others


@pytest.fixture
def admin(client: TestClient) -> dict[str, str]:
    add_account(client, "anna")
    return key_for(client, "anna")


def test_an_admin_adds_reads_and_changes_people(client: TestClient, admin: dict[str, str]) -> None:
    made = client.post("/v1/people", headers=admin, json=NEW)
    assert made.status_code == 201
    url = made.headers["location"]
    read = client.get(url, headers=admin)
    assert read.json() == made.json()
    assert read.headers["etag"] == made.headers["etag"]
    listed = client.get("/v1/people", headers=admin).json()["items"]
    assert [row["login"] for row in listed] == ["anna", "bo"]
    bo = sign_in(client, "bo", NEW["password"])
    changed = client.patch(
        url,
        headers=admin | {"If-Match": read.headers["etag"]},
        json={"name": "Bo L.", "role": "viewer"},
    )
    assert changed.status_code == 200
    assert client.get("/v1/me", headers=bo.headers).json()["role"] == "viewer"
    stale = client.patch(
        url, headers=admin | {"If-Match": read.headers["etag"]}, json={"role": "admin"}
    )
    assert (stale.status_code, stale.json()["code"]) == (412, "changed_meanwhile")
    assert client.get(url, headers=admin).json()["role"] == "viewer"
    assert client.patch(url, headers=admin, json={"password": "x" * 12}).status_code == 422
    reset = client.patch(url, headers=admin, json={"password": "a third four words"})
    assert reset.status_code == 200
    assert client.get("/v1/me", headers=bo.headers).status_code == 401
    assert sign_in(client, "bo", "a third four words").cookie
    with client.app.state.resight.runtime.sessions() as session:
        actions = [row.action for row in records.list_audit(session).items]
        assert records.verify_audit(session) == []
    assert actions[:6] == [
        "account.sign_in",
        "account.password",
        "account.role",
        "account.name",
        "account.sign_in",
        "account.add",
    ]


def test_a_change_of_a_person_is_whole_or_nothing(
    client: TestClient, admin: dict[str, str]
) -> None:
    url = client.post("/v1/people", headers=admin, json=NEW).headers["location"]
    refused = client.patch(url, headers=admin, json={"role": "admin", "password": "short"})
    assert refused.status_code == 422
    assert client.get(url, headers=admin).json()["role"] == "curator"


@pytest.mark.parametrize("change", [{"role": "viewer"}, {"disabled": True}])
def test_the_last_admin_stays_one(
    client: TestClient, admin: dict[str, str], change: dict[str, object]
) -> None:
    anna = client.get("/v1/me", headers=admin).json()["account_id"]
    refused = client.patch(f"/v1/people/{anna}", headers=admin, json=change)
    assert (refused.status_code, refused.json()["code"]) == (409, "last_admin")


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (NEW | {"login": "Anna"}, 409, "login_taken"),
        (NEW | {"name": "ANNA"}, 409, "person_name_taken"),
        (NEW | {"login": "bo lind"}, 422, "login_invalid"),
        (NEW | {"password": "short"}, 422, "password_weak"),
        (NEW | {"password": "BO LIND"}, 422, "password_weak"),
        (NEW | {"role": "owner"}, 422, "invalid"),
        (NEW | {"passwort": "x"}, 422, "invalid"),
    ],
)
def test_what_cannot_be_an_account_is_refused(
    client: TestClient, admin: dict[str, str], body: dict[str, str], status: int, code: str
) -> None:
    answer = client.post("/v1/people", headers=admin, json=body)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert len(client.get("/v1/people", headers=admin).json()["items"]) == 1
    assert "password for" not in answer.text


def test_adding_a_person_twice_with_one_key_adds_one(
    client: TestClient, admin: dict[str, str]
) -> None:
    headers = admin | {"Idempotency-Key": "k1"}
    first, again = (client.post("/v1/people", headers=headers, json=NEW) for _ in range(2))
    assert first.json() == again.json()
    assert again.headers["idempotency-replayed"] == "true"
    other = client.post("/v1/people", headers=headers, json=NEW | {"login": "bob"})
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")


def test_nobody_unknown_is_changed(client: TestClient, admin: dict[str, str]) -> None:
    for account_id in (999_999, 0, 2**40):
        url = f"/v1/people/{account_id}"
        assert client.patch(url, headers=admin, json={"role": "viewer"}).status_code in (404, 422)
    assert client.delete("/v1/me/keys/999999", headers=admin).status_code == 404


def test_the_local_user_has_no_role_to_lose(client: TestClient) -> None:
    local = client.patch("/v1/me", json={"name": "Anna"}).json()["account_id"]
    for change in ({"role": "viewer"}, {"disabled": True}, {"password": "four words in a row"}):
        refused = client.patch(f"/v1/people/{local}", json=change)
        assert (refused.status_code, refused.json()["code"]) == (409, "local_user")
    with client.app.state.resight.runtime.sessions() as session:
        assert people.local_account(session) is not None
