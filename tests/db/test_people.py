"""Accounts, personal keys and sign-ins as they are stored: who may still come in, and as what."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session, sessionmaker

from db.errors import Conflict, DbError, NotFound, translated
from db.queries import people, records
from db.types import Role

MONTH = timedelta(days=30)


def add(session: Session, login: str, role: Role = Role.REVIEWER, **given: str) -> int:
    named = {"name": login.title(), "password_hash": "$argon2id$…"} | given
    return people.add_account(session, login=login, role=role, **named).id


def age(session: Session, days: float) -> None:
    """Lets time pass for every sign-in."""
    session.execute(
        text(
            "UPDATE sign_in SET expires_at = expires_at - cast(:past AS interval),"
            " created_at = created_at - cast(:past AS interval)"
        ),
        {"past": timedelta(days=days)},
    )


# --------------------------------------------------------------------------------------- accounts


def test_a_login_and_a_name_belong_to_one_person(session: Session) -> None:
    anna = people.add_account(session, login="anna", name="Anna Berg", role=Role.CURATOR)
    assert (anna.has_password, anna.disabled_at, anna.is_local) == (False, None, False)
    records.create_key(session, "importer", Role.ADMIN)
    attempts: list[tuple[str, Callable[[], object]]] = [
        ("login_taken", lambda: add(session, "ANNA")),
        ("person_name_taken", lambda: add(session, "ann", name="ANNA berg")),
        ("person_name_taken", lambda: add(session, "ann", name="Importer")),
        ("login_invalid", lambda: add(session, " ")),
        ("name_blank", lambda: add(session, "ann", name=" ")),
        ("person_name_taken", lambda: people.rename(session, add(session, "bo"), "Anna Berg")),
        ("person_unknown", lambda: people.rename(session, 999_999, "Nobody")),
        ("person_unknown", lambda: people.named_account(session, "nobody")),
    ]
    for code, attempt in attempts:
        with pytest.raises(DbError) as refused, session.begin_nested():
            attempt()
        assert refused.value.code == code
    assert people.named_account(session, "Anna").id == anna.id
    assert people.rename(session, anna.id, "anna BERG").name == "anna BERG"


def test_the_local_user_is_one_and_becomes_the_account_of_the_same_name(session: Session) -> None:
    assert (people.anybody(session), people.local_account(session)) == (False, None)
    first = people.name_local(session, "Anna Berg")
    again = people.name_local(session, "Anna B.")
    assert (again.id, again.name, again.role, again.is_local) == (
        first.id,
        "Anna B.",
        Role.ADMIN,
        True,
    )
    assert [row.name for row in people.list_accounts(session)] == ["Anna B."]
    assert not people.anybody(session)
    assert people.find_account(session, "local") is None
    given = {"role": Role.ADMIN, "password_hash": "h"}
    assert people.adopt_local(session, login="bo", name="Bo", **given) is None
    adopted = people.adopt_local(session, login="anna", name="ANNA B.", **given)
    assert adopted is not None
    assert (adopted.id, adopted.login, adopted.is_local) == (first.id, "anna", False)
    assert people.anybody(session)
    assert people.local_account(session) is None


def test_the_last_admin_stays_one(session: Session) -> None:
    anna, bo = add(session, "anna", Role.ADMIN), add(session, "bo", Role.ADMIN)
    people.set_role(session, anna, Role.VIEWER)
    refusals: list[Callable[[], object]] = [
        lambda: people.set_role(session, bo, Role.CURATOR),
        lambda: people.set_disabled(session, bo, True),
    ]
    for attempt in refusals:
        with pytest.raises(Conflict) as refused:
            attempt()
        assert refused.value.code == "last_admin"
    assert people.set_role(session, bo, Role.ADMIN).role is Role.ADMIN


def test_two_admins_cannot_demote_each_other_at_once(sessions: sessionmaker[Session]) -> None:
    with sessions.begin() as session:
        ids = [add(session, login, Role.ADMIN) for login in ("anna", "bo")]
    together = threading.Barrier(2)
    refused: list[str] = []

    def demote(account_id: int) -> None:
        together.wait()
        try:
            with sessions.begin() as session:
                people.set_role(session, account_id, Role.VIEWER)
        except Conflict as error:
            refused.append(error.code)

    threads = [threading.Thread(target=demote, args=(account_id,)) for account_id in ids]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert refused == ["last_admin"]


def test_a_password_lets_in_only_who_has_one_and_is_not_disabled(session: Session) -> None:
    assert not people.can_sign_in(session)
    people.add_account(session, login="keys", name="Keys", role=Role.VIEWER)
    assert not people.can_sign_in(session)
    anna = add(session, "anna", password_hash="h")
    found = people.password_of(session, "ANNA")
    assert found is not None
    assert (found[0].id, found[1]) == (anna, "h")
    assert people.can_sign_in(session)
    people.set_disabled(session, anna, True)
    nobody = [people.password_of(session, login) for login in ("anna", "keys", "nobody", "\x00")]
    assert nobody == [None] * 4
    assert not people.can_sign_in(session)


# ---------------------------------------------------------------------------------- personal keys


def test_a_personal_key_acts_as_its_person_and_never_beyond(session: Session) -> None:
    anna = add(session, "anna", Role.CURATOR, name="Anna Berg")
    wide, secret = records.create_key(session, "anna/laptop", Role.ADMIN, account_id=anna)
    narrow, less = records.create_key(session, "anna/script", Role.VIEWER, account_id=anna)
    found = records.authenticate(session, secret)
    assert found is not None
    assert (found.account_id, found.person, found.role) == (anna, "Anna Berg", Role.CURATOR)
    people.set_role(session, anna, Role.REVIEWER)
    roles = [getattr(records.authenticate(session, key), "role", None) for key in (secret, less)]
    assert roles == [Role.REVIEWER, Role.VIEWER]
    assert [key.id for key in people.keys_of(session, anna)] == [wide.id, narrow.id]
    with pytest.raises(NotFound):
        people.revoke_key_of(session, add(session, "bo"), wide.id)
    assert people.revoke_key_of(session, anna, wide.id).revoked_at is not None
    assert records.authenticate(session, secret) is None
    assert records.has_active_key(session)
    people.set_disabled(session, anna, True)
    assert records.authenticate(session, less) is None
    assert not records.has_active_key(session)


# --------------------------------------------------------------------------------------- sign-ins


def test_promise_64_a_dump_of_sign_ins_and_keys_holds_nothing_usable(session: Session) -> None:
    """Promise 64: cookies and keys are 256 random bits, and only their SHA-256 is stored."""
    anna = add(session, "anna")
    cookie = people.begin_sign_in(session, anna, MONTH)
    _, secret = records.create_key(session, "anna/laptop", Role.VIEWER, account_id=anna)
    assert len(cookie) == 43  # 256 bits in base64url
    dump = str(session.execute(text("SELECT s.*, k.* FROM sign_in s, api_key k")).all())
    assert cookie not in dump
    assert secret not in dump
    assert secret.split("_", 2)[2] not in dump
    digest = session.execute(text("SELECT sha256 FROM sign_in")).scalar_one()
    assert people.resume_sign_in(session, digest, MONTH) is None


def test_a_sign_in_ends_with_disuse_and_in_any_case_after_90_days(session: Session) -> None:
    anna = add(session, "anna")
    cookie = people.begin_sign_in(session, anna, MONTH)
    for _ in range(3):
        age(session, 29)
        signed_in = people.resume_sign_in(session, cookie, MONTH)
        assert signed_in is not None
        assert (signed_in.account_id, signed_in.role) == (anna, Role.REVIEWER)
    age(session, 2.9)
    assert people.resume_sign_in(session, cookie, MONTH) is not None
    age(session, 0.2)
    assert people.resume_sign_in(session, cookie, MONTH) is None
    unused = people.begin_sign_in(session, anna, timedelta(hours=12))
    age(session, 0.51)
    assert people.resume_sign_in(session, unused, timedelta(hours=12)) is None


def test_using_a_sign_in_writes_seldom(session: Session) -> None:
    cookie = people.begin_sign_in(session, add(session, "anna"), MONTH)
    ends = text("SELECT expires_at FROM sign_in")
    before = session.execute(ends).scalar_one()
    people.resume_sign_in(session, cookie, MONTH)
    assert session.execute(ends).scalar_one() == before
    age(session, 0.1)
    people.resume_sign_in(session, cookie, MONTH)
    assert session.execute(ends).scalar_one() > before - timedelta(days=0.1)


def test_sign_ins_end_one_by_one_all_at_once_and_with_the_person(session: Session) -> None:
    anna, bo = add(session, "anna", Role.ADMIN), add(session, "bo", Role.ADMIN)
    here, there, elsewhere = (people.begin_sign_in(session, anna, MONTH) for _ in range(3))
    other = people.begin_sign_in(session, bo, MONTH)
    assert people.count_sign_ins(session, anna) == 3
    assert people.end_sign_in(session, there)
    assert not people.end_sign_in(session, there)
    assert people.end_sign_ins(session, anna, but=here) == 1
    alive = [people.resume_sign_in(session, c, MONTH) is not None for c in (here, there, elsewhere)]
    assert alive == [True, False, False]
    people.set_disabled(session, anna, True)
    people.set_disabled(session, anna, False)
    assert people.resume_sign_in(session, here, MONTH) is None
    assert people.resume_sign_in(session, other, MONTH) is not None


def test_a_sign_in_by_key_may_what_the_key_may_and_ends_with_it(session: Session) -> None:
    anna = add(session, "anna", Role.ADMIN)
    key, _ = records.create_key(session, "anna/pad", Role.VIEWER, account_id=anna)
    soon = datetime.now(UTC) + timedelta(hours=1)
    lasting, _ = records.create_key(session, "anna/day", Role.ADMIN, soon, account_id=anna)
    by_key = people.begin_sign_in(session, anna, MONTH, key.id)
    by_lasting = people.begin_sign_in(session, anna, MONTH, lasting.id)
    found = people.resume_sign_in(session, by_key, MONTH)
    assert found is not None
    assert found.role is Role.VIEWER
    people.revoke_key_of(session, anna, key.id)
    session.execute(
        text("UPDATE api_key SET expires_at = now() - interval '1 s' WHERE id = :id"),
        {"id": lasting.id},
    )
    assert people.resume_sign_in(session, by_key, MONTH) is None
    assert people.resume_sign_in(session, by_lasting, MONTH) is None


def test_ended_sign_ins_are_forgotten_in_time(session: Session) -> None:
    anna = add(session, "anna")
    people.begin_sign_in(session, anna, MONTH)
    age(session, 121)
    people.begin_sign_in(session, anna, MONTH)
    assert session.execute(text("SELECT count(*) FROM sign_in")).scalar_one() == 1


@pytest.mark.parametrize(
    "statement", ["UPDATE audit SET principal = 'bo'", "DELETE FROM audit", "TRUNCATE audit"]
)
def test_promise_55_the_audit_trail_can_only_grow(session: Session, statement: str) -> None:
    """Promise 55: entries are neither changed nor deleted, not even by the application itself."""
    records.add_audit(session, "anna", "account.role", "account:1", {"role": "admin"})
    with pytest.raises(Conflict) as refused, session.begin_nested(), translated():
        session.execute(text(statement))
    assert refused.value.code == "append_only"
    assert records.verify_audit(session) == []
