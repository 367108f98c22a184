"""Queries, reviews, the audit chain, keys, idempotent answers, import runs."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, sessionmaker

from db.errors import Conflict, Invalid, NotFound, translated
from db.queries import catalogue, records
from db.queries.records import ImportSkipRow, MatchRow, QueryPhotoRow
from db.types import GateState, QueryKind, Role, RunState, Verdict


def _individual(session: Session, name: str = "one") -> UUID:
    main = catalogue.default_catalogue(session).id
    return catalogue.ensure_individual(session, catalogue_id=main, name=name).id


def _query(session: Session, **changes: object) -> UUID:
    values: dict[str, object] = {
        "kind": QueryKind.IDENTIFY,
        "model_id": None,
        "principal": "local",
        "k": 10,
        "gate_state": GateState.ACCEPTED,
        "answer": {"matches": []},
    }
    return records.add_query(session, **{**values, **changes})  # type: ignore[arg-type]


def test_a_query_comes_back_whole(session: Session) -> None:
    photo = catalogue.ensure_media(
        session,
        sha256=hashlib.sha256(b"q").hexdigest(),
        media_type="image/png",
        byte_size=1,
        width_px=1,
        height_px=1,
    )
    one, two = _individual(session, "one"), _individual(session, "two")
    photos = (QueryPhotoRow(photo.id, "b.jpg"), QueryPhotoRow(photo.id, None))
    matches = (MatchRow(1, one, 77, 0.5, 3), MatchRow(2, two, 78, -0.25, 1))
    wanted = uuid4()
    answer = {"gate": {"score": 0.125}, "matches": [1, None, "ü"]}
    made = _query(session, query_id=wanted, photos=photos, matches=matches, answer=answer)
    assert made == wanted
    found = records.get_query(session, made)
    assert (found.photos, found.matches, found.answer) == (photos, matches, answer)
    assert (found.kind, found.gate_state, found.k) == (QueryKind.IDENTIFY, GateState.ACCEPTED, 10)
    with pytest.raises(NotFound):
        records.get_query(session, uuid4())


def test_impossible_queries_are_refused(session: Session) -> None:
    one = _individual(session)
    refusals: list[tuple[type[Exception], dict[str, object]]] = [
        (Invalid, {"k": 0}),
        (Invalid, {"matches": [MatchRow(1, one, 1, 1.5, 1)]}),
        (Conflict, {"matches": [MatchRow(1, one, 1, 0.5, 1), MatchRow(2, one, 2, 0.4, 1)]}),
        (NotFound, {"matches": [MatchRow(1, uuid4(), 1, 0.5, 1)]}),
        (NotFound, {"photos": [QueryPhotoRow(10**9, None)]}),
    ]
    for error, changes in refusals:
        with pytest.raises(error), session.begin_nested():
            _query(session, **changes)


def test_export_walks_in_order_across_batches(session: Session) -> None:
    ids = [_query(session, k=number + 1) for number in range(7)]
    for number, made in enumerate(ids):
        session.execute(
            text("UPDATE query SET created_at = :at WHERE id = :id"),
            {"at": datetime(2024, 1, 1 + number // 2, tzinfo=UTC), "id": made},
        )
    session.expire_all()
    everything = list(records.export_queries(session, batch=2))
    assert {row.id for row in everything} == set(ids)
    assert len(everything) == 7
    assert everything == sorted(everything, key=lambda row: (row.created_at, row.id))
    third = datetime(2024, 1, 3, tzinfo=UTC)
    assert {row.id for row in records.export_queries(session, since=third)} == set(ids[4:])
    assert {row.id for row in records.export_queries(session, until=third)} == set(ids[:4])


def test_reviews_are_only_added(session: Session) -> None:
    query, one = _query(session), _individual(session)
    review = records.add_review(
        session, query_id=query, individual_id=one, verdict=Verdict.SAME, reviewer="ann"
    )
    assert records.list_reviews(session, query) == [review]
    with pytest.raises(Invalid, match="name the individual") as refused, session.begin_nested():
        records.add_review(
            session, query_id=query, individual_id=None, verdict=Verdict.DIFFERENT, reviewer="ann"
        )
    assert refused.value.code == "review_needs_individual"
    records.add_review(
        session, query_id=query, individual_id=None, verdict=Verdict.NEW, reviewer="bob"
    )
    assert len(records.list_reviews(session, query)) == 2


@pytest.mark.parametrize("table", ["review", "audit"])
@pytest.mark.parametrize(
    "statement", ["UPDATE {} SET id = id", "DELETE FROM {}", "TRUNCATE {} CASCADE"]
)
def test_append_only_tables_refuse_changes(session: Session, table: str, statement: str) -> None:
    sentence = f"Rows of {table} are never changed or deleted; add a new row instead"
    with pytest.raises(IntegrityError, match=sentence), session.begin_nested():
        session.execute(text(statement.format(table)))
    with pytest.raises(Conflict, match=sentence) as refused, session.begin_nested(), translated():
        session.execute(text(statement.format(table)))
    assert refused.value.code == "append_only"


def test_the_audit_trail_is_one_chain_even_under_concurrency(
    sessions: sessionmaker[Session],
) -> None:
    def write(number: int) -> int:
        with sessions.begin() as own:
            detail = {"n": number, "text": "ü\n"}
            return records.add_audit(own, "ann", "merge", f"individual:{number}", detail)

    with ThreadPoolExecutor(8) as pool:
        numbers = list(pool.map(write, range(40)))
    assert len(set(numbers)) == 40
    with sessions() as own:
        assert records.verify_audit(own) == []
        first = records.list_audit(own, limit=30)
        second = records.list_audit(own, limit=30, cursor=first.next_cursor)
    entries = [*first.items, *second.items][::-1]
    assert [entry.id for entry in entries] == sorted(numbers)
    assert entries[0].previous_hash == "0" * 64
    for before, after in itertools.pairwise(entries):
        assert after.previous_hash == before.hash


@pytest.mark.parametrize(
    ("tampering", "broken"),
    [
        ("UPDATE audit SET detail = '{\"n\": 9}' WHERE id = :second", [1]),
        ("UPDATE audit SET at = at + interval '1 s' WHERE id = :second", [1]),
        ("DELETE FROM audit WHERE id = :second", [2]),
        ("UPDATE audit SET hash = 'x' WHERE id = :second", [1, 2]),
    ],
)
def test_tampering_with_the_audit_trail_is_found(
    session: Session, tampering: str, broken: list[int]
) -> None:
    numbers = [records.add_audit(session, "ann", "act", f"thing:{n}", {"n": n}) for n in range(4)]
    assert records.verify_audit(session) == []
    # Whoever owns the database can switch the trigger off; the chain still tells.
    session.execute(text("ALTER TABLE audit DISABLE TRIGGER audit_append_only"))
    session.execute(text(tampering), {"second": numbers[1]})
    assert records.verify_audit(session) == [numbers[position] for position in broken]


# ---------------------------------------------------------------- keys


def test_a_key_is_shown_once_and_stored_hashed(session: Session) -> None:
    row, key = records.create_key(session, "ann", Role.REVIEWER)
    scheme, prefix, secret = key.split("_", 2)
    assert (scheme, prefix) == ("rs", row.prefix)
    assert len(secret) == 43  # 256 bits in base64url
    found = records.authenticate(session, key)
    assert found is not None
    assert (found.name, found.role) == ("ann", Role.REVIEWER)
    dumped = session.scalars(text("SELECT row_to_json(k)::text FROM api_key k")).all()
    assert secret not in "".join(dumped)
    with pytest.raises(Conflict) as refused, session.begin_nested():
        records.create_key(session, "ann", Role.VIEWER)
    assert refused.value.code == "key_name_taken"
    with pytest.raises(Invalid):
        records.create_key(session, " ", Role.VIEWER)


def test_wrong_keys_are_nobody(session: Session) -> None:
    _, key = records.create_key(session, "ann", "admin")
    wrong: list[str] = ["", "_", "rs", "rs__", key[:-1], key + "x", key.upper(), "xx" + key[2:]]
    wrong += ["rs_\x00_a", "rs_ü_\udcff", key.replace("_", "-")]
    assert [records.authenticate(session, attempt) for attempt in wrong] == [None] * len(wrong)


def test_expired_and_revoked_keys_are_nobody(session: Session) -> None:
    assert not records.has_active_key(session)
    past = datetime.now(UTC) - timedelta(seconds=1)
    _, expired = records.create_key(session, "old", Role.ADMIN, past)
    assert records.authenticate(session, expired) is None
    assert not records.has_active_key(session)
    _, key = records.create_key(session, "new", Role.ADMIN, past + timedelta(hours=1))
    assert records.has_active_key(session)
    revoked = records.revoke_key(session, "new")
    assert revoked.revoked_at is not None
    assert records.authenticate(session, key) is None
    assert records.revoke_key(session, "new").revoked_at == revoked.revoked_at
    assert [row.name for row in records.list_keys(session)] == ["old", "new"]
    with pytest.raises(NotFound, match="'nobody'"):
        records.revoke_key(session, "nobody")


# ---------------------------------------------------------------- idempotency


def test_an_answer_is_kept_for_its_request(session: Session) -> None:
    def get(principal: str = "ann", request: str = "r1") -> records.StoredAnswer | None:
        return records.get_idempotent(session, principal=principal, key="k", request_sha256=request)

    def put() -> records.StoredAnswer:
        return records.put_idempotent(
            session,
            principal="ann",
            key="k",
            request_sha256="r1",
            status=201,
            answer={"id": 1},
        )

    assert get() is None
    stored = put()
    assert get() == stored
    assert (stored.status, stored.answer) == (201, {"id": 1})
    assert get(principal="bob") is None
    refusals: list[tuple[str, Callable[[], object]]] = [
        ("idempotency_key_reused", lambda: get(request="r2")),
        ("idempotency_key_used", put),
    ]
    for code, attempt in refusals:
        with pytest.raises(Conflict) as refused:
            attempt()
        assert refused.value.code == code


# ---------------------------------------------------------------- imports


def test_an_import_accounts_for_every_entry(session: Session) -> None:
    run = records.start_import(session, source="/photos", layout="folders", total=4)
    skip = ImportSkipRow("a/b\x00.jpg", "truncated", "The photo ends early.")
    records.advance_import(session, run, imported=1, already_known=1, skips=[skip])
    records.advance_import(session, run, imported=1)
    found = records.get_import(session, run)
    assert (found.imported, found.already_known, found.skipped) == (2, 1, 1)
    assert (found.state, found.finished_at) == (RunState.RUNNING, None)
    records.finish_import(session, run)
    found = records.get_import(session, run)
    assert found.state is RunState.DONE
    assert found.finished_at is not None
    assert found.finished_at >= found.started_at
    assert records.list_imports(session) == [found]
    assert [row.entry for row in records.import_skips(session, run)] == ["a/b.jpg"]
    with pytest.raises(NotFound):
        records.get_import(session, uuid4())
