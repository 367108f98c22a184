"""Signing in: the cookie, the token beside it, what ends it, and how little can be guessed."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import text

from db.queries import people, records
from db.types import Role
from service.accounts import Cost, Passwords, check_password, clean_login, clean_name, make_password
from service.runtime import StartRefused, open_resight, require_keys
from service.settings import Settings
from service.sign_in import WRONG_PER_ACCOUNT_AND_ADDRESS, csrf_right, csrf_token, local_path
from tests.service.household import BROWSER, PASSWORD, add_account, key_for, sign_in
from tests.service.small import scene, serving_of

PHOTO = {"file": ("a.jpg", scene(1), "image/jpeg")}


def attempt(client: TestClient, login: str, password: str) -> Any:
    return client.post(
        "/sign-in", data={"login": login, "password": password}, follow_redirects=False
    )


def from_address(client: TestClient, address: str) -> TestClient:
    """The same service, asked from elsewhere."""
    return TestClient(client.app, base_url="http://127.0.0.1:8000", client=(address, 40_000))


# ------------------------------------------------------------------------------ who has to sign in


def test_on_loopback_without_accounts_nobody_signs_in(client: TestClient) -> None:
    assert client.get("/v1/individuals").status_code == 200
    assert client.get("/", headers=BROWSER).status_code == 200
    led_on = client.get("/sign-in?next=/individuals", follow_redirects=False)
    assert (led_on.status_code, led_on.headers["location"]) == (303, "/individuals")


def test_from_the_first_account_on_everybody_signs_in_on_loopback_too(client: TestClient) -> None:
    add_account(client, "anna")
    refused = client.get("/v1/individuals")
    assert (refused.status_code, refused.json()["code"]) == (401, "unauthorized")
    # A challenge that a browser answers with a dialog of its own would get in the page's way.
    assert refused.headers["www-authenticate"] == 'Bearer realm="resight"'
    page = client.get("/individuals?text=a%26b", headers=BROWSER, follow_redirects=False)
    assert page.status_code == 303
    assert page.headers["location"] == "/sign-in?next=%2Findividuals%3Ftext%3Da%2526b"
    form = client.get(page.headers["location"])
    assert 'value="/individuals?text=a%26b"' in form.text
    script = client.get("/individuals", headers={"Sec-Fetch-Mode": "cors", "Accept": "*/*"})
    assert script.status_code == 401
    # Programs go on with keys: a person's own, or their own.
    assert client.get("/v1/individuals", headers=key_for(client, "anna")).status_code == 200
    with client.app.state.resight.runtime.sessions.begin() as session:
        _, key = records.create_key(session, "importer", Role.VIEWER)
    assert client.get("/v1/limits", headers={"Authorization": f"Bearer {key}"}).status_code == 200


def test_who_is_disabled_does_not_open_the_door_to_all(client: TestClient) -> None:
    anna = add_account(client, "anna")
    with client.app.state.resight.runtime.sessions.begin() as session:
        session.execute(text("UPDATE account SET disabled_at = now() WHERE id = :id"), {"id": anna})
    client.app.state.resight.household.forget()
    assert client.get("/v1/individuals").status_code == 401


def test_an_account_of_another_process_is_noticed_within_a_second(client: TestClient) -> None:
    assert client.get("/v1/limits").status_code == 200
    with client.app.state.resight.runtime.sessions.begin() as session:
        people.add_account(session, login="anna", name="Anna", role=Role.ADMIN)
    time.sleep(1.05)
    assert client.get("/v1/limits").status_code == 401


def test_a_fragment_leads_the_whole_page_to_signing_in(client: TestClient) -> None:
    add_account(client, "anna")
    headers = {"HX-Request": "true", "HX-Current-URL": "http://127.0.0.1:8000/jobs?cursor=3"}
    part = client.get("/jobs/events", headers=headers)
    assert part.status_code == 401
    assert part.headers["hx-redirect"] == "/sign-in?next=%2Fjobs%3Fcursor%3D3"
    # What was typed into a form would be lost by leading it away.
    sent = client.post("/identify", files=PHOTO, headers=headers)
    assert sent.status_code == 401
    assert "hx-redirect" not in sent.headers


def test_beyond_loopback_a_key_or_an_account_with_a_password_is_needed(settings: Settings) -> None:
    wide = settings.model_copy(update={"host": "0.0.0.0"})
    behind = settings.model_copy(update={"trusted_proxies": ("10.0.0.1",)})
    resight = open_resight(wide, serving=serving_of())
    anna = None
    for given in ("nothing", "an account with keys alone", "a password"):
        if given == "an account with keys alone":
            with resight.sessions.begin() as session:
                row = people.add_account(session, login="anna", name="Anna", role=Role.ADMIN)
                anna = row.id
        if given == "a password" and anna is not None:
            with resight.sessions.begin() as session:
                people.set_password(session, anna, "hash")
            require_keys(wide, resight.sessions)
            require_keys(behind, resight.sessions)
            continue
        with pytest.raises(StartRefused, match="resight users add"):
            require_keys(wide, resight.sessions)
        # A proxy in front makes others reach a service that listens on loopback.
        with pytest.raises(StartRefused, match="behind a proxy"):
            require_keys(behind, resight.sessions)
    resight.close()


# --------------------------------------------------------------------------------------- the cookie


@pytest.mark.parametrize(("scheme", "secure"), [("http", False), ("https", True)])
def test_the_cookie_is_out_of_reach_of_scripts_and_of_other_sites(
    client: TestClient, scheme: str, secure: bool
) -> None:
    add_account(client, "anna")
    there = TestClient(client.app, base_url=f"{scheme}://127.0.0.1:8000")
    answer = attempt(there, "Anna", PASSWORD)
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    parts = {part.strip().lower() for part in answer.headers["set-cookie"].split(";")}
    assert {"httponly", "samesite=lax", "path=/"} <= parts
    assert ("secure" in parts) is secure


@pytest.mark.parametrize(
    ("wanted", "gone_to"),
    [
        ("/review?state=open", "/review?state=open"),
        ("https://evil.example/", "/"),
        ("//evil.example/", "/"),
        ("/\\evil.example", "/"),
        ("/\t/evil.example", "/"),
        ("javascript:alert(1)", "/"),
        ("/sign-in?next=/", "/"),
        ("", "/"),
    ],
)
def test_signing_in_leads_to_where_one_wanted_to_go_within_this_site(
    client: TestClient, wanted: str, gone_to: str
) -> None:
    assert local_path(wanted) == gone_to
    add_account(client, "anna")
    form = {"login": "anna", "password": PASSWORD, "next": wanted}
    answer = client.post("/sign-in", data=form, follow_redirects=False)
    assert answer.headers["location"] == gone_to


def test_a_sign_in_carries_the_person_and_the_role(client: TestClient) -> None:
    add_account(client, "anna")
    add_account(client, "bo", Role.VIEWER, name="Bo Lind")
    bo = sign_in(client, "bo")
    me = client.get("/v1/me", headers=bo.headers).json()
    assert (me["name"], me["role"], me["how"]) == ("Bo Lind", "viewer", "cookie")
    refused = client.post("/v1/identify", files=PHOTO, headers=bo.own)
    assert (refused.status_code, refused.json()["code"]) == (403, "forbidden")
    with client.app.state.resight.runtime.sessions.begin() as session:
        people.set_role(session, me["account_id"], Role.REVIEWER)
    asked = client.post("/v1/identify", files=PHOTO, headers=bo.own)
    assert asked.status_code == 200
    with client.app.state.resight.runtime.sessions() as session:
        assert records.get_query(session, asked.json()["query_id"]).principal == "Bo Lind"


def test_a_key_goes_before_the_cookie(client: TestClient) -> None:
    add_account(client, "anna", name="Anna Berg")
    add_account(client, "bo", Role.VIEWER)
    both = sign_in(client, "anna").headers | key_for(client, "bo")
    assert client.get("/v1/me", headers=both).json()["name"] == "Bo"
    wrong = sign_in(client, "anna").headers | {"Authorization": "Bearer rs_wrong_key"}
    assert client.get("/v1/me", headers=wrong).status_code == 401


def ends_by_signing_out(client: TestClient) -> None:
    browser = sign_in(client, "bo")
    answer = client.post("/sign-out", headers=browser.own, follow_redirects=False)
    assert (answer.status_code, answer.headers["location"]) == (303, "/sign-in")
    assert client.get("/v1/me", headers=browser.headers).status_code == 401


def ends_with_a_new_password(client: TestClient) -> None:
    browser, other = sign_in(client, "bo"), sign_in(client, "bo")
    body = {"current_password": PASSWORD, "password": "another four words"}
    assert client.patch("/v1/me", headers=browser.own, json=body).status_code == 200
    assert client.get("/v1/me", headers=browser.headers).status_code == 200
    assert client.get("/v1/me", headers=other.headers).status_code == 401
    assert attempt(client, "bo", PASSWORD).status_code == 401


def ends_with_the_person(client: TestClient) -> None:
    browser = sign_in(client, "bo")
    anna = sign_in(client, "anna")
    bo = client.get("/v1/me", headers=browser.headers).json()["account_id"]
    assert (
        client.patch(f"/v1/people/{bo}", headers=anna.own, json={"disabled": True}).status_code
        == 200
    )
    assert client.get("/v1/me", headers=browser.headers).status_code == 401
    assert attempt(client, "bo", PASSWORD).status_code == 401


def ends_by_signing_in_again(client: TestClient) -> None:
    browser = sign_in(client, "bo")
    again = client.post(
        "/sign-in",
        data={"login": "bo", "password": PASSWORD},
        headers=browser.headers,
        follow_redirects=False,
    )
    assert again.status_code == 303
    client.cookies.clear()
    assert client.get("/v1/me", headers=browser.headers).status_code == 401


@pytest.mark.parametrize(
    "ends",
    [
        ends_by_signing_out,
        ends_with_a_new_password,
        ends_with_the_person,
        ends_by_signing_in_again,
    ],
)
def test_a_sign_in_ends(client: TestClient, ends: Callable[[TestClient], None]) -> None:
    add_account(client, "anna")
    add_account(client, "bo", Role.CURATOR)
    ends(client)


def test_a_personal_key_signs_a_browser_in_and_a_programs_does_not(client: TestClient) -> None:
    add_account(client, "anna", password=None)
    key = key_for(client, "anna", Role.VIEWER)["Authorization"].removeprefix("Bearer ")
    answer = client.post("/sign-in", data={"key": f" {key} "}, follow_redirects=False)
    assert answer.status_code == 303
    me = client.get("/v1/me").json()
    assert (me["name"], me["role"]) == ("Anna", "viewer")
    client.cookies.clear()
    with client.app.state.resight.runtime.sessions.begin() as session:
        _, program = records.create_key(session, "importer", Role.ADMIN)
    for wrong in (program, "rs_wrong_key"):
        refused = client.post("/sign-in", data={"key": wrong})
        assert refused.status_code == 401
        assert "not a valid key of a person" in refused.text


# ------------------------------------------------------------------------------- the token (67)


def test_promise_67_a_change_by_cookie_needs_the_token_of_its_sign_in(client: TestClient) -> None:
    """Promise 67: a page elsewhere may have the cookie sent along, and still changes nothing."""
    add_account(client, "anna")
    browser, other = sign_in(client, "anna"), sign_in(client, "anna")
    body = {"name": "Anna Berg"}
    without = client.patch("/v1/me", headers=browser.headers, json=body)
    assert (without.status_code, without.json()["code"]) == (403, "csrf_token")
    for wrong in ("", "x", other.token, browser.cookie):
        headers = browser.headers | {"X-CSRF-Token": wrong}
        assert client.patch("/v1/me", headers=headers, json=body).status_code == 403
    assert client.patch("/v1/me", headers=browser.own, json=body).status_code == 200
    foreign = browser.own | {"Origin": "https://evil.example"}
    assert client.patch("/v1/me", headers=foreign, json=body).json()["code"] == "cross_origin"
    # A key is never sent by a browser on its own.
    assert client.patch("/v1/me", headers=key_for(client, "anna"), json=body).status_code == 200


def test_the_token_may_come_in_a_form(client: TestClient) -> None:
    add_account(client, "anna")
    browser = sign_in(client, "anna")
    plain = {"name": "Anna B.", "csrf": browser.token}
    renamed = client.post(
        "/people/me/name", data=plain, headers=browser.headers, follow_redirects=False
    )
    assert renamed.status_code == 303
    wrong = plain | {"csrf": "x"}
    assert client.post("/people/me/name", data=wrong, headers=browser.headers).status_code == 403
    # Photos come as multipart, which a route of the API reads by itself.
    data = {"k": "3", "csrf": browser.token}
    asked = client.post("/v1/identify", files=PHOTO, data=data, headers=browser.headers)
    assert asked.status_code == 200, asked.text
    del data["csrf"]
    refused = client.post("/v1/identify", files=PHOTO, data=data, headers=browser.headers)
    assert refused.json()["code"] == "csrf_token"


def test_every_form_of_a_page_carries_the_token(client: TestClient) -> None:
    add_account(client, "anna")
    browser = sign_in(client, "anna")
    for path in ("/", "/jobs", "/people", "/people/me"):
        page = client.get(path, headers=browser.headers | BROWSER).text
        posting = page.count('method="post"')
        assert posting >= 1
        assert page.count(f'name="csrf" value="{browser.token}"') == posting, path
    assert 'name="csrf"' not in client.get("/sign-in").text


def test_the_token_does_not_tell_the_cookie() -> None:
    assert csrf_token("a") != csrf_token("b")
    assert csrf_right("a", csrf_token("a"))
    assert not any(csrf_right("a", wrong) for wrong in (None, "", "a", csrf_token("b"), "ü\udcff"))


# ------------------------------------------------------------------------------ guessing (64, 65)


def test_promise_65_guessing_is_limited_the_same_for_unknown_people(client: TestClient) -> None:
    """Promise 65: per account and address, 429 with Retry-After, in the same words for a person
    who does not exist."""
    add_account(client, "anna")
    seen = {}
    for login in ("anna", "nobody"):
        there = from_address(client, f"10.0.0.{len(login)}")
        answers = [attempt(there, login, f"wrong {i}") for i in range(7)]
        statuses = [answer.status_code for answer in answers]
        assert statuses == [401] * WRONG_PER_ACCOUNT_AND_ADDRESS + [429] * 2
        assert 1 <= int(answers[-1].headers["retry-after"]) <= 13
        # The right password is not tried either, or a guess would be told from a refusal.
        assert attempt(there, login, PASSWORD).status_code == 429
        seen[login] = [answer.text.replace(login, "…") for answer in answers]
    assert seen["anna"] == seen["nobody"]
    # The person comes in from elsewhere.
    assert attempt(from_address(client, "10.0.0.99"), "anna", PASSWORD).status_code == 303


def test_one_address_guesses_little_whomever_it_tries(client: TestClient) -> None:
    add_account(client, "anna")
    there = from_address(client, "10.0.0.7")
    statuses = [attempt(there, f"person{i}", "wrong").status_code for i in range(25)]
    assert statuses == [401] * 20 + [429] * 5


def test_right_passwords_use_up_no_attempts(client: TestClient) -> None:
    add_account(client, "anna")
    assert [attempt(client, "anna", PASSWORD).status_code for _ in range(8)] == [303] * 8


def test_guessing_keys_is_limited_per_key_and_address(client: TestClient) -> None:
    add_account(client, "anna")
    prefix = key_for(client, "anna")["Authorization"].rsplit("_", 1)[0]
    statuses = []
    for i in range(25):
        there = from_address(client, f"10.0.1.{i}")
        headers = {"Authorization": f"{prefix}_{i}"}
        statuses.append(there.get("/v1/limits", headers=headers).status_code)
    assert statuses == [401] * 20 + [429] * 5


def test_an_unknown_person_takes_as_long_as_a_wrong_password(client: TestClient) -> None:
    """Promise 65: the time does not tell who has an account."""
    slow = Passwords(Cost(passes=2, memory_kib=8 * 1024, lanes=1))
    stored = slow.hash(PASSWORD)

    def took_s(hashed: str | None) -> float:
        started = time.perf_counter()
        assert not slow.verify(hashed, "wrong")
        return time.perf_counter() - started

    took_s(None)
    # In turn, and the quickest of each: whatever else the machine does slows both.
    pairs = [(took_s(stored), took_s(None)) for _ in range(15)]
    known, unknown = (min(times) for times in zip(*pairs, strict=True))
    assert 0.5 < known / unknown < 2


def test_promise_64_a_dump_holds_no_usable_secret(client: TestClient) -> None:
    """Promise 64: passwords lie as argon2id, keys and cookies as SHA-256, the token not at all."""
    add_account(client, "anna")
    browser = sign_in(client, "anna")
    made = client.post("/v1/me/keys", headers=browser.own, json={"name": "laptop"}).json()
    headers = browser.own | {"Idempotency-Key": "k1"}
    body = {"login": "bo", "name": "Bo", "password": "a password for Bo"}
    assert client.post("/v1/people", headers=headers, json=body).status_code == 201
    tables = ("account", "sign_in", "api_key", "audit", "idempotency_key")
    with client.app.state.resight.runtime.sessions() as session:
        dump = json.dumps(
            [
                [row[0] for row in session.execute(text(f"SELECT to_jsonb({t}.*) FROM {t}"))]
                for t in tables
            ]
        )
    for secret in (PASSWORD, "a password for Bo", made["key"], browser.cookie, browser.token):
        assert secret not in dump
    assert dump.count("$argon2id$") == 2


def test_a_hash_made_at_another_cost_is_renewed_at_the_next_sign_in(client: TestClient) -> None:
    anna = add_account(client, "anna")
    old = Passwords(Cost(passes=2, memory_kib=128, lanes=1)).hash(PASSWORD)
    runtime = client.app.state.resight.runtime
    with runtime.sessions.begin() as session:
        people.set_password(session, anna, old)
    assert attempt(client, "anna", PASSWORD).status_code == 303
    with runtime.sessions() as session:
        found = people.password_of(session, "anna")
    assert found is not None
    assert found[1] != old
    assert attempt(client, "anna", PASSWORD).status_code == 303


# ------------------------------------------------------------------------------------------ rules


def test_passwords_are_hashed_as_rfc_9106_says() -> None:
    hashed = Passwords().hash("fünf wörter und noch eins")
    assert hashed.startswith("$argon2id$v=19$m=65536,t=3,p=4$")
    composed, decomposed = "fünf wörter", "fu\u0308nf wo\u0308rter"
    cheap = Passwords(Cost(1, 64, 1))
    assert cheap.verify(cheap.hash(composed), decomposed)
    assert not cheap.verify("no hash at all", "x")
    assert not cheap.verify(None, "x")


@pytest.mark.parametrize(
    "weak", ["", "eleven char", "aaaaaaaaaaaaaaa", "anna.berg@sea", "ANNA.BERG@sea", "password1234"]
)
def test_weak_passwords_are_refused(weak: str) -> None:
    with pytest.raises(Exception, match=r"password"):
        check_password(weak, "anna.berg@sea", "Anna Berg")


def test_made_passwords_are_good_ones() -> None:
    made = {make_password() for _ in range(100)}
    assert len(made) == 100
    for password in made:
        assert check_password(password) == password


def test_names_and_logins_are_kept_tidy() -> None:
    assert clean_name("  Anna \u202e\n Berg\x00 ") == "Anna Berg"
    assert clean_login(" Anna.Berg@Sea-Lab ") == "anna.berg@sea-lab"
    for wrong in ("", " ", "\u200b", "x" * 81, "Local", "RESIGHT"):
        with pytest.raises(Exception, match=r"name|kept"):
            clean_name(wrong)
    for wrong in ("", "anna berg", "-anna", "änna", "a/b", "x" * 65, "local"):
        with pytest.raises(Exception, match=r"login"):
            clean_login(wrong)


def test_an_expired_sign_in_is_nobody(client: TestClient) -> None:
    add_account(client, "anna")
    browser = sign_in(client, "anna")
    past = datetime.now(UTC) - timedelta(seconds=1)
    with client.app.state.resight.runtime.sessions.begin() as session:
        session.execute(text("UPDATE sign_in SET expires_at = :past"), {"past": past})
    page = client.get("/jobs", headers=browser.headers | BROWSER, follow_redirects=False)
    assert page.headers["location"] == "/sign-in?next=%2Fjobs"
