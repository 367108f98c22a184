"""The queues of the desk: which queries wait for whom, filtered, in order, a page at a time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal, get_args
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from db.errors import NotFound
from db.queries.paging import Page, make_page, read_cursor
from db.queries.taxa import find_taxa
from db.types import QueryState, Sex, Vitality

Sort = Literal["oldest", "newest", "score", "sample"]
"""`score`: highest best score first. `sample`: in an order that is random and stays, so that the
first n are a fair sample however many are looked at."""


@dataclass(frozen=True, slots=True)
class QueueFilters:
    """What a query must fulfil to be listed; fields left out filter nothing, values of one field
    are alternatives. `taxon`, `viewpoint` and `catalogue` are of its photos, `taxon` also of the
    best candidate; `sex` and `vitality` are the best candidate's. The dates compare with the
    encounter's start, or without one with the time a photo was taken; `date_to` is exclusive."""

    taxon: tuple[str, ...] = ()
    place: str | None = None
    date_from: datetime | None = None
    date_to: datetime | None = None
    viewpoint: tuple[str, ...] = ()
    sex: Sex | None = None
    vitality: Vitality | None = None
    catalogue: str | None = None
    score_min: float | None = None
    score_max: float | None = None
    uploader: str | None = None


@dataclass(frozen=True, slots=True)
class QueueRow:
    """A query in a queue. The first photo stands for all `photos`; the best candidate that nobody
    rejected has a `best_*` each, None where there is none or the gate withholds it. `sort_score`
    is the score it was stored with, -2 for none."""

    id: UUID
    state: QueryState
    version: int
    created_at: datetime
    principal: str
    encounter_id: UUID | None
    started_at: datetime | None
    place: str | None
    observer: str | None
    annotation_id: int | None
    media_id: int | None
    file_name: str | None
    photos: int
    best_id: UUID | None
    best_name: str | None
    best_taxon: str | None
    best_score: float | None
    best_annotation_id: int | None
    default_answer: dict[str, Any]
    sort_score: float


WITHHELD: Final = "(q.gate_state = 'rejected' AND NOT q.gate_overruled)"
"""The gate said no and nobody contradicted it: no identity is suggested."""

NOT_UNDONE: Final = "NOT EXISTS (SELECT FROM review u WHERE u.undoes = r.decision_id)"
"""The decision of `review r` stands."""

_MY_VOTE: Final = (
    "EXISTS (SELECT FROM review r WHERE r.query_id = q.id AND r.is_vote AND r.reviewer = :me"
    f" AND r.verdict NOT IN ('different', 'undo') AND {NOT_UNDONE})"
)

_ASKED_AGAIN: Final = """(q.state NOT IN ('same', 'new', 'not_usable') AND NOT EXISTS (
    SELECT FROM query_photo mine WHERE mine.query_id = q.id AND NOT EXISTS (
        SELECT FROM query_photo theirs JOIN query later ON later.id = theirs.query_id
        WHERE theirs.annotation_id = mine.annotation_id AND later.state IS NOT NULL
            AND later.created_at > q.created_at)))"""
"""Undecided, and later questions ask about all of its photos: one of the two is enough."""

_QUEUES: Final = {
    "to_review": f"q.state = 'open' AND NOT {WITHHELD}",
    "unsure": "q.state = 'unsure'",
    "no_match": "q.state = 'no_match'",
    # The first 32 bits of a random id are a lot drawn once.
    "gate_rejected": f"q.state = 'open' AND {WITHHELD}"
    " AND ('x' || left(q.id::text, 8))::bit(32)::bigint < :sample * 4294967296.0",
    "disagreement": "q.state = 'open' AND q.disagrees",
    "second_opinion": f"q.state = 'second' AND NOT {_MY_VOTE}",
    "decided": "q.state IN ('same', 'new', 'not_usable')",
}
_ORDERS: Final[Mapping[Sort, tuple[str, str, str]]] = {
    "oldest": ("q.created_at, q.id", "(q.created_at, q.id) > (:after_at, :after_id)", "at"),
    "newest": (
        "q.created_at DESC, q.id DESC",
        "(q.created_at, q.id) < (:after_at, :after_id)",
        "at",
    ),
    "score": (
        "coalesce(q.best_score, -2) DESC, q.id DESC",
        "(coalesce(q.best_score, -2), q.id) < (:after_score, :after_id)",
        "score",
    ),
    "sample": ("q.id", "q.id > :after_id", "id"),
}
"""ORDER BY, the condition for what comes after, and what a cursor holds beside the id."""
_OWN_ORDER: Final[Mapping[str, Sort]] = {"gate_rejected": "sample", "decided": "newest"}

SURVIVOR: Final = """
    JOIN individual named ON named.id = {of}
    JOIN individual i ON i.id = coalesce(named.merged_into_id, named.id) AND NOT i.withdrawn
"""
"""`i` is the individual after merges."""

STILL_NO: Final = f"""
    r.verdict = 'different' AND NOT r.is_vote AND {NOT_UNDONE} AND NOT EXISTS (
        SELECT FROM review r2 JOIN individual yes ON yes.id = r2.individual_id
        WHERE r2.annotation_id = r.annotation_id AND r2.verdict = 'same' AND NOT r2.is_vote
            AND r2.created_at > r.created_at
            AND coalesce(yes.merged_into_id, yes.id) = coalesce(gone.merged_into_id, gone.id)
            AND NOT EXISTS (SELECT FROM review u WHERE u.undoes = r2.decision_id))
"""
"""`review r`, of the individual `gone`, is a no that stands: nobody said "same" after it."""

REJECTED: Final = f"""
    EXISTS (SELECT FROM query_photo p JOIN review r ON r.annotation_id = p.annotation_id
        JOIN individual gone ON gone.id = r.individual_id
        WHERE p.query_id = q.id AND coalesce(gone.merged_into_id, gone.id) = i.id AND {STILL_NO})
"""
"""Somebody said that a photo of query `q` does not show individual `i`, under whatever model."""

NAME_OF: Final = """coalesce((SELECT n.name FROM individual_name n WHERE n.individual_id = i.id
    ORDER BY n.is_primary DESC, n.id LIMIT 1), i.id::text)"""

_BEST: Final = f"""
    LEFT JOIN LATERAL (
        SELECT i.id, {NAME_OF} AS name, i.taxon_id, i.sex, i.vitality, m.score, m.annotation_id,
            (SELECT t.scientific_name FROM taxon t WHERE t.id = i.taxon_id) AS taxon
        FROM match m {SURVIVOR.format(of="m.individual_id")}
        WHERE m.query_id = q.id AND NOT {WITHHELD} AND NOT {REJECTED}
        ORDER BY m.rank LIMIT 1
    ) best ON true
"""

_PHOTOS: Final = """
    EXISTS (SELECT FROM query_photo p JOIN annotation a ON a.id = p.annotation_id
        JOIN media_asset m ON m.id = p.media_id WHERE p.query_id = q.id AND {condition})
"""
_CONDITIONS: Final[Mapping[str, str]] = {
    "taxon": "(best.taxon_id = ANY(:taxa)"
    f" OR {_PHOTOS.format(condition='a.taxon_id = ANY(:taxa)')})",
    "place": "strpos(lower(e.place), lower(:place)) > 0",
    "date_from": "(e.started_at >= :date_from OR (e.started_at IS NULL AND"
    f" {_PHOTOS.format(condition='m.taken_at >= :date_from')}))",
    "date_to": "(e.started_at < :date_to OR (e.started_at IS NULL AND"
    f" {_PHOTOS.format(condition='m.taken_at < :date_to')}))",
    "viewpoint": _PHOTOS.format(condition="lower(a.viewpoint) = ANY(:viewpoint)"),
    "sex": "best.sex = :sex",
    "vitality": "best.vitality = :vitality",
    "catalogue": _PHOTOS.format(
        condition="a.catalogue_id = (SELECT id FROM catalogue WHERE lower(name) ="
        " lower(:catalogue))"
    ),
    "score_min": "q.best_score >= :score_min",
    "score_max": "q.best_score <= :score_max",
    "uploader": "q.principal = :uploader",
}


def count_queues(session: Session, *, principal: str, gate_sample: float = 1.0) -> dict[str, int]:
    """How many queries wait in each queue, for this person."""
    counts = ", ".join(
        f"count(*) FILTER (WHERE {condition}) AS {name}" for name, condition in _QUEUES.items()
    )
    row = session.execute(
        text(f"SELECT {counts} FROM query q WHERE q.state IS NOT NULL AND NOT {_ASKED_AGAIN}"),
        {"me": principal, "sample": gate_sample},
    )
    return dict(row.mappings().one())


def list_queue(
    session: Session,
    name: str,
    *,
    filters: QueueFilters | None = None,
    sort: Sort | None = None,
    limit: int = 50,
    cursor: str | None = None,
    after: UUID | None = None,
    principal: str,
    gate_sample: float = 1.0,
) -> Page[QueueRow]:
    """One queue, `limit` queries a page; `after` gives what follows that query in this order.

    Raises:
        NotFound: `queue_unknown`; `query_unknown`, `after` names no query of the desk.
        Invalid: `cursor_invalid`.
    """
    if name not in _QUEUES:
        raise NotFound(
            "queue_unknown",
            f"There is no queue {name!r}; there are {', '.join(_QUEUES)}.",
            queue=name,
        )
    sort = sort or _OWN_ORDER.get(name, "oldest")
    order, follows, kind = _ORDERS[sort]
    start = _start(session, kind, cursor, after)
    filters = filters or QueueFilters()
    given = [field for field in _CONDITIONS if getattr(filters, field) not in (None, ())]
    conditions = [_QUEUES[name], f"NOT {_ASKED_AGAIN}", *(_CONDITIONS[field] for field in given)]
    if start is not None:
        conditions.append(follows)
    parameters = {**_parameters(session, filters), **(start or {})}
    rows = session.execute(
        text(f"{_ROW} WHERE {' AND '.join(conditions)} ORDER BY {order} LIMIT :limit + 1"),
        {"me": principal, "sample": gate_sample, "limit": limit, **parameters},
    )
    return make_page([QueueRow(**row) for row in rows.mappings()], limit, _KEYS[kind])


_ROW: Final = f"""
    SELECT q.id, q.state, q.version, q.created_at, q.principal, e.id AS encounter_id,
        e.started_at, e.place, e.observer, first.annotation_id, first.media_id, first.file_name,
        (SELECT count(*) FROM query_photo p WHERE p.query_id = q.id) AS photos,
        best.id AS best_id, best.name AS best_name, best.taxon AS best_taxon,
        best.score AS best_score, best.annotation_id AS best_annotation_id,
        q.answer->'default_answer' AS default_answer, coalesce(q.best_score, -2) AS sort_score
    FROM query q
    LEFT JOIN encounter e ON e.id = q.encounter_id
    LEFT JOIN LATERAL (SELECT p.annotation_id, p.media_id, p.file_name FROM query_photo p
        WHERE p.query_id = q.id ORDER BY p.position LIMIT 1) first ON true
    {_BEST}
"""
_KEYS: Final = {
    "at": lambda row: (row.created_at, row.id),
    "score": lambda row: (row.sort_score, row.id),
    "id": lambda row: (row.id,),
}


def _start(
    session: Session, kind: str, cursor: str | None, after: UUID | None
) -> dict[str, Any] | None:
    """What the page follows, as parameters of the order's condition."""
    if after is not None:
        row = session.execute(
            text("SELECT created_at, coalesce(best_score, -2) FROM query WHERE id = :id"),
            {"id": after},
        ).one_or_none()
        if row is None:
            raise NotFound("query_unknown", f"No query has the id {after}.", query_id=str(after))
        return {"after_id": after, "after_at": row[0], "after_score": row[1]}
    readers: dict[str, tuple[Any, ...]] = {
        "at": (datetime.fromisoformat, UUID),
        "score": (float, UUID),
        "id": (UUID,),
    }
    parts = read_cursor(cursor, *readers[kind])
    if parts is None:
        return None
    names = {"at": ("after_at", "after_id"), "score": ("after_score", "after_id")}
    return dict(zip(names.get(kind, ("after_id",)), parts, strict=True))


def _parameters(session: Session, filters: QueueFilters) -> dict[str, Any]:
    return {
        "taxa": find_taxa(session, filters.taxon) if filters.taxon else [],
        "place": filters.place,
        "date_from": filters.date_from,
        "date_to": filters.date_to,
        "viewpoint": [viewpoint.lower() for viewpoint in filters.viewpoint],
        "sex": filters.sex and str(filters.sex),
        "vitality": filters.vitality and str(filters.vitality),
        "catalogue": filters.catalogue,
        "score_min": filters.score_min,
        "score_max": filters.score_max,
        "uploader": filters.uploader,
    }


SORTS: Final[tuple[Sort, ...]] = get_args(Sort)
