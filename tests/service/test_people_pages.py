"""Pages of people: asked once for a name, accounts given, passwords shown once."""

from __future__ import annotations

import html
import re

from fastapi.testclient import TestClient

from db.queries import people, records
from db.types import Role
from service.web.me import initials
from tests.service.household import BROWSER, PASSWORD, Browser, add_account, sign_in

QUESTION = "What is your name?"


def see(client: TestClient, path: str, browser: Browser | None = None) -> str:
    headers = BROWSER | (browser.headers if browser else {})
    answer = client.get(path, headers=headers)
    assert answer.status_code == 200, answer.text[:500]
    return html.unescape(answer.text)


def secret_on(page: str) -> str:
    found = re.search(r"data-secret>([^<]+)<", page)
    assert found, page
    return found[1]


def test_the_local_user_is_asked_once(client: TestClient) -> None:
    assert QUESTION in see(client, "/individuals?text=a")
    form = {"name": "Anna Berg", "back": "/individuals?text=a"}
    answer = client.post("/people/me/name", data=form, follow_redirects=False)
    assert (answer.status_code, answer.headers["location"]) == (303, "/individuals?text=a")
    page = see(client, "/individuals")
    assert QUESTION not in page
    assert "Anna Berg" in page
    assert "Sign out" not in page


def test_the_question_can_be_skipped_and_answered_later(client: TestClient) -> None:
    client.post("/people/me/name", data={"skip": "1", "name": ""})
    assert QUESTION not in see(client, "/")
    assert client.get("/v1/me").json()["name"] == "local"
    later = client.post("/people/me/name", data={"name": "Anna"}, follow_redirects=False)
    assert later.headers["location"] == "/people/me"
    assert client.get("/v1/me").json()["name"] == "Anna"


def test_a_name_that_cannot_be_kept_stays_in_its_field(client: TestClient) -> None:
    page = client.post("/people/me/name", data={"name": "x" * 81})
    assert page.status_code == 422
    assert "x" * 81 in page.text
    assert "at most 80 characters" in page.text


def test_the_first_account_signs_its_maker_in(client: TestClient) -> None:
    client.post("/people/me/name", data={"name": "Anna Berg"})
    page = see(client, "/people")
    assert "Nobody has an account yet" in page
    assert 'value="Anna Berg"' in page
    form = {"login": "anna", "name": "Anna Berg", "role": "viewer", "password": ""}
    refused = client.post("/people", data=form)
    assert refused.status_code == 422
    assert "Choose a password" in refused.text
    made = client.post("/people", data=form | {"password": PASSWORD}, follow_redirects=False)
    assert made.status_code == 303
    me = client.get("/v1/me").json()
    assert (me["login"], me["role"], me["how"]) == ("anna", "admin", "cookie")
    client.cookies.clear()
    assert client.get("/people", headers=BROWSER, follow_redirects=False).status_code == 303


def test_an_admin_gives_an_account_with_a_password_that_is_shown_once(client: TestClient) -> None:
    add_account(client, "anna")
    anna = sign_in(client, "anna")
    form = {"login": "bo", "name": "Bo <b>Lind</b>", "role": "reviewer", "csrf": anna.token}
    made = client.post("/people", data=form, headers=anna.headers)
    assert made.status_code == 201
    assert "<b>Lind" not in made.text
    password = secret_on(made.text)
    assert password not in see(client, "/people", anna)
    bo = sign_in(client, "bo", password)
    assert client.get("/people", headers=bo.headers | BROWSER).status_code == 403
    taken = client.post("/people", data=form | {"name": "Other"}, headers=anna.headers)
    assert taken.status_code == 409
    assert 'value="Other"' in taken.text


def test_an_admin_changes_role_password_and_state(client: TestClient) -> None:
    add_account(client, "anna")
    bo = add_account(client, "bo", Role.VIEWER)
    anna = sign_in(client, "anna")

    def press(what: str, **form: str) -> str:
        answer = client.post(
            f"/people/{bo}/{what}",
            data=form | {"csrf": anna.token},
            headers=anna.headers,
            follow_redirects=False,
        )
        assert answer.status_code in (201, 303), answer.text
        return answer.text

    press("role", role="curator")
    with client.app.state.resight.runtime.sessions() as session:
        assert people.get_account(session, bo).role is Role.CURATOR
    assert sign_in(client, "bo", secret_on(press("password"))).cookie
    press("disable")
    assert "disabled" in see(client, "/people", anna)
    press("enable")
    wrong = client.post(
        f"/people/{bo}/role", data={"role": "owner", "csrf": anna.token}, headers=anna.headers
    )
    assert wrong.status_code == 422
    me = client.get("/v1/me", headers=anna.headers).json()["account_id"]
    last = client.post(f"/people/{me}/disable", data={"csrf": anna.token}, headers=anna.headers)
    assert last.status_code == 409
    assert "only admin" in last.text


def test_ones_own_page_changes_the_password_and_makes_keys(client: TestClient) -> None:
    add_account(client, "anna")
    anna, other = sign_in(client, "anna"), sign_in(client, "anna")
    assert "2 browsers are signed in" in see(client, "/people/me", anna)
    token = {"csrf": anna.token}

    def send(path: str, **form: str) -> tuple[int, str]:
        answer = client.post(path, data=form | token, headers=anna.headers, follow_redirects=False)
        return answer.status_code, html.unescape(answer.text)

    new = "another four words"
    assert send("/people/me/password", present=PASSWORD, wanted=new, again="x")[0] == 422
    status, page = send("/people/me/password", present="wrong", wanted=new, again=new)
    assert status == 422
    assert "The present password is not right." in page
    assert send("/people/me/password", present=PASSWORD, wanted=new, again=new)[0] == 303
    assert client.get("/v1/me", headers=other.headers).status_code == 401
    status, page = send("/people/me/keys", name="laptop", role="viewer", days="30")
    assert status == 201
    key = {"Authorization": f"Bearer {secret_on(page)}"}
    assert client.get("/v1/me", headers=key).json()["role"] == "viewer"
    assert send("/people/me/keys", name="laptop", role="viewer", days="30")[0] == 409
    assert send("/people/me/keys", name="pad", role="owner")[0] == 422
    with client.app.state.resight.runtime.sessions() as session:
        key_id = next(row.id for row in records.list_keys(session) if row.name == "anna/laptop")
    assert send(f"/people/me/keys/{key_id}/revoke")[0] == 303
    assert client.get("/v1/me", headers=key).status_code == 401
    third = sign_in(client, "anna", new)
    assert send("/people/me/sign-out-others")[0] == 303
    assert client.get("/v1/me", headers=third.headers).status_code == 401
    assert client.get("/v1/me", headers=anna.headers).status_code == 200


def test_a_wrong_password_keeps_the_login_that_was_typed(client: TestClient) -> None:
    add_account(client, "anna")
    page = client.post("/sign-in", data={"login": 'an"na', "password": "x", "next": "/jobs"})
    assert page.status_code == 401
    assert 'value="an&#34;na"' in page.text
    assert 'value="/jobs"' in page.text
    assert 'value="x"' not in page.text


def test_a_service_beyond_loopback_without_people_says_how_to_get_in(serve) -> None:  # type: ignore[no-untyped-def]
    with serve().app.state.resight.runtime.sessions.begin() as session:
        records.create_key(session, "first", Role.ADMIN)
    wide = serve(host="0.0.0.0")
    assert "resight users add" in wide.get("/sign-in").text
    # A browser may still be given a key, as before anybody had an account.
    page = wide.get("/", headers=BROWSER)
    assert page.status_code == 401
    assert "Basic" in page.headers["www-authenticate"]


def test_initials_stand_for_a_name() -> None:
    shown = {
        name: initials(name) for name in ("Anna Berg", "bo", "A. B. Chiara-Rossi", "«»", "Ю К")
    }
    assert list(shown.values()) == ["AB", "B", "AC", "·", "ЮК"]
