"""What happened: queries with their answers, reviews, the audit trail, import runs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import insert, select, text, tuple_, update
from sqlalchemy.orm import Session

from db.errors import NotFound, translated
from db.queries.access import ApiKeyRow as ApiKeyRow
from db.queries.access import StoredAnswer as StoredAnswer
from db.queries.access import authenticate as authenticate
from db.queries.access import create_key as create_key
from db.queries.access import get_idempotent as get_idempotent
from db.queries.access import has_active_key as has_active_key
from db.queries.access import list_keys as list_keys
from db.queries.access import put_idempotent as put_idempotent
from db.queries.access import revoke_key as revoke_key
from db.queries.paging import Page, make_page, read_cursor
from db.tables import Audit, ImportRun, ImportSkip, Match, Query, QueryPhoto, Review
from db.types import GateState, QueryKind, QueryState, RunState, Verdict

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class QueryPhotoRow:
    """One photo of a query, in the order given; the region asked about, where it is one of the
    catalogue."""

    media_id: int
    file_name: str | None
    annotation_id: int | None = None


@dataclass(frozen=True, slots=True)
class MatchRow:
    """A candidate individual: `score` is a cosine, `supporting` counts its annotations found,
    `evidence` is each photo's own best, in their order, where it was kept."""

    rank: int
    individual_id: UUID
    annotation_id: int
    score: float
    supporting: int
    evidence: list[Json] | None = None


@dataclass(frozen=True, slots=True)
class DeskPart:
    """What a query has more that people are to decide. `best_score` is a cosine; `disagrees`: the
    default answer names another individual than the best match."""

    encounter_id: UUID | None
    state: QueryState = QueryState.OPEN
    wanted_votes: int = 1
    best_score: float | None = None
    disagrees: bool = False


@dataclass(frozen=True, slots=True)
class QueryRow:
    """`answer` is the whole answer as it was given."""

    id: UUID
    kind: QueryKind
    model_id: int | None
    principal: str
    k: int
    gate_state: GateState
    answer: Json
    created_at: datetime
    photos: tuple[QueryPhotoRow, ...]
    matches: tuple[MatchRow, ...]


@dataclass(frozen=True, slots=True)
class ReviewRow:
    id: UUID
    query_id: UUID | None
    individual_id: UUID | None
    verdict: Verdict
    reviewer: str
    note: str | None
    created_at: datetime


@dataclass(frozen=True, slots=True)
class AuditRow:
    id: int
    at: datetime
    principal: str
    action: str
    subject: str
    detail: Json
    previous_hash: str
    hash: str


@dataclass(frozen=True, slots=True)
class ImportRunRow:
    """`total` entries planned; imported + already_known + skipped reach it when it is done."""

    id: UUID
    source: str
    layout: str
    state: RunState
    total: int
    imported: int
    already_known: int
    skipped: int
    started_at: datetime
    finished_at: datetime | None


@dataclass(frozen=True, slots=True)
class ImportSkipRow:
    entry: str
    code: str
    detail: str


# ---------------------------------------------------------------- queries


def add_query(
    session: Session,
    *,
    kind: QueryKind,
    model_id: int | None,
    principal: str,
    k: int,
    gate_state: GateState,
    answer: Json,
    photos: Sequence[QueryPhotoRow] = (),
    matches: Sequence[MatchRow] = (),
    query_id: UUID | None = None,
    desk: DeskPart | None = None,
) -> UUID:
    """Store one identification request with what it saw and answered; its id.

    `query_id` is the id that the answer names already; a new one is made for None. With `desk` it
    waits for a decision.

    Raises:
        NotFound: a photo, individual or space does not exist.
        Invalid: a rank, score or count is impossible.
    """
    with translated():
        stored: UUID = session.execute(
            _ADD_QUERY,
            {
                "id": query_id,
                "kind": str(QueryKind(kind)),
                "model": model_id,
                "principal": principal,
                "k": k,
                "gate": str(GateState(gate_state)),
                "answer": json.dumps(answer),
                "media": [photo.media_id for photo in photos],
                "regions": [photo.annotation_id for photo in photos],
                "names": [
                    photo.file_name and photo.file_name.replace("\x00", "") for photo in photos
                ],
                "ranks": [match.rank for match in matches],
                "individuals": [match.individual_id for match in matches],
                "annotations": [match.annotation_id for match in matches],
                "scores": [match.score for match in matches],
                "supporting": [match.supporting for match in matches],
                "evidence": [
                    None if match.evidence is None else json.dumps(match.evidence)
                    for match in matches
                ],
                "encounter": desk and desk.encounter_id,
                "state": desk and str(desk.state),
                "votes": desk.wanted_votes if desk else 1,
                "best": desk and desk.best_score,
                "disagrees": desk is not None and desk.disagrees,
            },
        ).scalar_one()
    return stored


# One round trip: this is on the path of every answer.
_ADD_QUERY = text(
    "WITH stored AS ("
    " INSERT INTO query (id, kind, model_id, principal, k, gate_state, answer, encounter_id, state,"
    "  wanted_votes, best_score, disagrees)"
    " VALUES (coalesce(:id, gen_random_uuid()), :kind, :model, :principal, :k, :gate,"
    "  cast(:answer AS jsonb), :encounter, :state, :votes, :best, :disagrees) RETURNING id),"
    " photos AS ("
    " INSERT INTO query_photo (query_id, position, media_id, file_name, annotation_id)"
    " SELECT stored.id, photo.position - 1, photo.media_id, photo.file_name, photo.annotation_id"
    " FROM stored, unnest(cast(:media AS bigint[]), cast(:names AS text[]),"
    "  cast(:regions AS bigint[]))"
    "  WITH ORDINALITY photo(media_id, file_name, annotation_id, position)),"
    " matches AS ("
    " INSERT INTO match (query_id, rank, individual_id, annotation_id, score, supporting, evidence)"
    " SELECT stored.id, found.* FROM stored, unnest(cast(:ranks AS int[]),"
    "  cast(:individuals AS uuid[]), cast(:annotations AS bigint[]), cast(:scores AS float8[]),"
    "  cast(:supporting AS int[]), cast(:evidence AS jsonb[])) found)"
    " SELECT id FROM stored"
)


def get_query(session: Session, query_id: UUID) -> QueryRow:
    """Raises:
    NotFound: no query has this id.
    """
    found = session.get(Query, query_id)
    if found is None:
        raise NotFound("query_unknown", f"No query has the id {query_id}.", query_id=str(query_id))
    return _with_parts(session, [found])[0]


def export_queries(
    session: Session, since: datetime | None = None, until: datetime | None = None, batch: int = 500
) -> Iterator[QueryRow]:
    """Queries from `since` (inclusive) to `until` (exclusive), oldest first, `batch` at a time."""
    after: tuple[datetime, UUID] | None = None
    while True:
        query = select(Query).order_by(Query.created_at, Query.id).limit(batch)
        if since is not None:
            query = query.where(Query.created_at >= since)
        if until is not None:
            query = query.where(Query.created_at < until)
        if after is not None:
            query = query.where(tuple_(Query.created_at, Query.id) > tuple_(*after))
        found = list(session.scalars(query))
        if not found:
            return
        rows = _with_parts(session, found)
        after = (rows[-1].created_at, rows[-1].id)
        for stored in found:
            session.expunge(stored)
        yield from rows


def _with_parts(session: Session, queries: list[Query]) -> list[QueryRow]:
    ids = [query.id for query in queries]
    photos: dict[UUID, list[QueryPhotoRow]] = {query_id: [] for query_id in ids}
    matches: dict[UUID, list[MatchRow]] = {query_id: [] for query_id in ids}
    for photo in session.execute(
        select(
            QueryPhoto.query_id,
            QueryPhoto.media_id,
            QueryPhoto.file_name,
            QueryPhoto.annotation_id,
        )
        .where(QueryPhoto.query_id.in_(ids))
        .order_by(QueryPhoto.query_id, QueryPhoto.position)
    ):
        photos[photo.query_id].append(QueryPhotoRow(*photo[1:]))
    for match in session.execute(
        select(
            Match.query_id,
            Match.rank,
            Match.individual_id,
            Match.annotation_id,
            Match.score,
            Match.supporting,
            Match.evidence,
        )
        .where(Match.query_id.in_(ids))
        .order_by(Match.query_id, Match.rank)
    ):
        matches[match.query_id].append(MatchRow(*match[1:]))
    return [
        QueryRow(
            id=query.id,
            kind=query.kind,
            model_id=query.model_id,
            principal=query.principal,
            k=query.k,
            gate_state=query.gate_state,
            answer=query.answer,
            created_at=query.created_at,
            photos=tuple(photos[query.id]),
            matches=tuple(matches[query.id]),
        )
        for query in queries
    ]


# ---------------------------------------------------------------- reviews


def add_review(
    session: Session,
    *,
    query_id: UUID,
    individual_id: UUID | None,
    verdict: Verdict,
    reviewer: str,
    note: str | None = None,
) -> ReviewRow:
    """Record a person's verdict; rows are never changed, a later verdict is a new row.

    Raises:
        Invalid: the verdict needs an individual and has none.
        NotFound: the query or the individual does not exist.
    """
    review = Review(
        query_id=query_id,
        individual_id=individual_id,
        verdict=Verdict(verdict),
        reviewer=reviewer,
        note=note,
    )
    with translated():
        session.add(review)
        session.flush()
    return _review(review)


def list_reviews(session: Session, query_id: UUID) -> list[ReviewRow]:
    """Every verdict on a query, oldest first."""
    found = session.scalars(
        select(Review).where(Review.query_id == query_id).order_by(Review.created_at, Review.id)
    )
    return [_review(review) for review in found]


def _review(review: Review) -> ReviewRow:
    return ReviewRow(
        id=review.id,
        query_id=review.query_id,
        individual_id=review.individual_id,
        verdict=review.verdict,
        reviewer=review.reviewer,
        note=review.note,
        created_at=review.created_at,
    )


# ---------------------------------------------------------------- audit


def add_audit(
    session: Session, principal: str, action: str, subject: str, detail: Json | None = None
) -> int:
    """Append to the audit trail; `subject` is `kind:id`. The entry's number.

    Other writers of the trail wait until this transaction ends: the chain has one order.
    """
    number: int = session.scalars(
        insert(Audit)
        .values(principal=principal, action=action, subject=subject, detail=detail or {})
        .returning(Audit.id)
    ).one()
    return number


def list_audit(session: Session, *, limit: int = 50, cursor: str | None = None) -> Page[AuditRow]:
    """The audit trail, newest first."""
    before = read_cursor(cursor, int)
    query = select(Audit).order_by(Audit.id.desc()).limit(limit + 1)
    if before is not None:
        query = query.where(Audit.id < before[0])
    rows = [
        AuditRow(
            id=entry.id,
            at=entry.at,
            principal=entry.principal,
            action=entry.action,
            subject=entry.subject,
            detail=entry.detail,
            previous_hash=entry.previous_hash,
            hash=entry.hash,
        )
        for entry in session.scalars(query)
    ]
    return make_page(rows, limit, lambda row: (row.id,))


def verify_audit(session: Session) -> list[int]:
    """Numbers of the entries that were altered, or follow one that was altered or removed."""
    return list(
        session.scalars(
            text(
                "SELECT id FROM (SELECT a.id, a.hash <> audit_row_hash(a) OR a.previous_hash <>"
                " lag(a.hash, 1, repeat('0', 64)) OVER (ORDER BY a.id) AS broken FROM audit a)"
                " checked WHERE broken ORDER BY id"
            )
        )
    )


# ---------------------------------------------------------------- imports


def start_import(session: Session, *, source: str, layout: str, total: int) -> UUID:
    """Record the start of an import; its id."""
    run: UUID = session.scalars(
        insert(ImportRun)
        .values(source=source, layout=layout, state=RunState.RUNNING, total=total)
        .returning(ImportRun.id)
    ).one()
    return run


def advance_import(
    session: Session,
    run_id: UUID,
    *,
    imported: int = 0,
    already_known: int = 0,
    skips: Sequence[ImportSkipRow] = (),
) -> None:
    """Add to the counts of a running import, and say what was skipped and why."""
    session.execute(
        update(ImportRun)
        .where(ImportRun.id == run_id)
        .values(
            imported=ImportRun.imported + imported,
            already_known=ImportRun.already_known + already_known,
            skipped=ImportRun.skipped + len(skips),
        )
        .execution_options(synchronize_session=False)
    )
    if skips:
        with translated():
            session.execute(
                insert(ImportSkip),
                [
                    {
                        "run_id": run_id,
                        "entry": skip.entry.replace("\x00", ""),
                        "code": skip.code,
                        "detail": skip.detail.replace("\x00", ""),
                    }
                    for skip in skips
                ],
            )


def finish_import(session: Session, run_id: UUID, state: RunState = RunState.DONE) -> None:
    """The import has ended, as done or failed."""
    session.execute(
        text(
            "UPDATE import_run SET state = :state, finished_at = clock_timestamp() WHERE id = :id"
        ),
        {"state": str(RunState(state)), "id": run_id},
    )


def get_import(session: Session, run_id: UUID) -> ImportRunRow:
    """Raises:
    NotFound: no import has this id.
    """
    run = session.get(ImportRun, run_id, populate_existing=True)
    if run is None:
        raise NotFound("import_unknown", f"No import has the id {run_id}.", run_id=str(run_id))
    return _import_run(run)


def list_imports(session: Session, limit: int = 50) -> list[ImportRunRow]:
    """The latest imports, newest first."""
    query = select(ImportRun).order_by(ImportRun.started_at.desc(), ImportRun.id).limit(limit)
    found = session.scalars(query.execution_options(populate_existing=True))
    return [_import_run(run) for run in found]


def import_skips(session: Session, run_id: UUID) -> list[ImportSkipRow]:
    """What an import left out, in the order it met them."""
    rows = session.execute(
        select(ImportSkip.entry, ImportSkip.code, ImportSkip.detail)
        .where(ImportSkip.run_id == run_id)
        .order_by(ImportSkip.id)
    )
    return [ImportSkipRow(*row) for row in rows]


def _import_run(run: ImportRun) -> ImportRunRow:
    return ImportRunRow(
        id=run.id,
        source=run.source,
        layout=run.layout,
        state=run.state,
        total=run.total,
        imported=run.imported,
        already_known=run.already_known,
        skipped=run.skipped,
        started_at=run.started_at,
        finished_at=run.finished_at,
    )
