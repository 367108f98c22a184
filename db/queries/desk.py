"""Queries that people decide: with their photos, their candidates, and a candidate's photos."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from db.errors import NotFound
from db.queries.media import BoxPx, box_of
from db.queries.queues import NAME_OF, NOT_UNDONE, REJECTED, STILL_NO, SURVIVOR, WITHHELD
from db.types import GateState, QueryState

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class DeskQueryRow:
    """`withheld`: the gate said no and nobody contradicted it. `answer` is as it was given."""

    id: UUID
    state: QueryState
    version: int
    model_id: int | None
    principal: str
    k: int
    gate_state: GateState
    gate_overruled: bool
    withheld: bool
    wanted_votes: int
    best_score: float | None
    answer: Json
    created_at: datetime
    encounter_id: UUID | None
    started_at: datetime | None
    place: str | None
    observer: str | None


@dataclass(frozen=True, slots=True)
class PhotoRow:
    """One photo of a query. `annotation_id` None: the region was deleted since. The individual is
    that after merges."""

    position: int
    annotation_id: int | None
    media_id: int
    file_name: str | None
    viewpoint: str | None
    body_part: str | None
    taken_at: datetime | None
    photographer: str | None
    width_px: int
    height_px: int
    box_px: BoxPx | None
    individual_id: UUID | None
    catalogue_id: UUID | None
    taxon_id: int | None


@dataclass(frozen=True, slots=True)
class CandidateRow:
    """A candidate as it was found, under the individual that it is now. `media_id` None: the
    annotation that won was deleted since."""

    rank: int
    score: float
    supporting: int
    annotation_id: int
    media_id: int | None
    viewpoint: str | None
    evidence: list[Json]
    individual_id: UUID
    name: str
    taxon: str | None
    rejected: bool


@dataclass(frozen=True, slots=True)
class CandidatePhotoRow:
    """A photo of an individual that may be shown beside a query."""

    annotation_id: int
    media_id: int
    viewpoint: str | None
    body_part: str | None
    is_reference: bool
    name: str | None
    taken_at: datetime | None
    photographer: str | None
    width_px: int
    height_px: int
    box_px: BoxPx | None
    encounter_id: UUID | None
    started_at: datetime | None
    place: str | None


_QUERY: Final = f"""
    SELECT q.id, q.state, q.version, q.model_id, q.principal, q.k, q.gate_state, q.gate_overruled,
        {WITHHELD} AS withheld, q.wanted_votes, q.best_score, q.answer, q.created_at,
        e.id AS encounter_id, e.started_at, e.place, e.observer
    FROM query q LEFT JOIN encounter e ON e.id = q.encounter_id
    WHERE q.id = :id AND q.state IS NOT NULL
"""


def get_desk_query(session: Session, query_id: UUID, *, lock: bool = False) -> DeskQueryRow:
    """A query that people decide; with `lock` nobody else decides it before the transaction ends.

    Raises:
        NotFound: `query_unknown`; `query_not_on_desk`: nobody is asked to decide it.
    """
    row = session.execute(text(f"{_QUERY} {'FOR UPDATE OF q' if lock else ''}"), {"id": query_id})
    found = row.mappings().one_or_none()
    if found is None:
        raise _unknown(session, query_id)
    state, gate = QueryState(found["state"]), GateState(found["gate_state"])
    return DeskQueryRow(**{**found, "state": state, "gate_state": gate})


def _unknown(session: Session, query_id: UUID) -> NotFound:
    known = session.execute(
        text("SELECT EXISTS (SELECT FROM query WHERE id = :id)"), {"id": query_id}
    ).scalar_one()
    if known:
        return NotFound(
            "query_not_on_desk",
            f"The query {query_id} was answered and is not to be decided; send it to the desk "
            "first (`POST /v1/queries` with its `query_id`).",
            query_id=str(query_id),
        )
    return NotFound("query_unknown", f"No query has the id {query_id}.", query_id=str(query_id))


def write_state(
    session: Session, query_id: UUID, state: QueryState, *, gate_overruled: bool
) -> int:
    """What the query is from now on; its new version. The caller holds the lock."""
    version: int = session.execute(
        text(
            "UPDATE query SET state = :state, gate_overruled = :overruled, version = version + 1"
            " WHERE id = :id RETURNING version"
        ),
        {"id": query_id, "state": str(state), "overruled": gate_overruled},
    ).scalar_one()
    return version


_BOX: Final = "a.box_x_px, a.box_y_px, a.box_w_px, a.box_h_px"


def photos_of_query(session: Session, query_id: UUID) -> list[PhotoRow]:
    """The photos of a query, in the order given."""
    rows = session.execute(
        text(
            "SELECT p.position, a.id AS annotation_id, p.media_id,"
            " coalesce(p.file_name, m.original_name) AS file_name, a.viewpoint, a.body_part,"
            f" m.taken_at, m.photographer, m.width_px, m.height_px, {_BOX},"
            " coalesce(named.merged_into_id, named.id) AS individual_id, a.catalogue_id, a.taxon_id"
            " FROM query_photo p JOIN media_asset m ON m.id = p.media_id"
            " LEFT JOIN annotation a ON a.id = p.annotation_id"
            " LEFT JOIN individual named ON named.id = a.individual_id"
            " WHERE p.query_id = :id ORDER BY p.position"
        ),
        {"id": query_id},
    )
    return [
        PhotoRow(
            position=row.position,
            annotation_id=row.annotation_id,
            media_id=row.media_id,
            file_name=row.file_name,
            viewpoint=row.viewpoint,
            body_part=row.body_part,
            taken_at=row.taken_at,
            photographer=row.photographer,
            width_px=row.width_px,
            height_px=row.height_px,
            box_px=box_of(row),
            individual_id=row.individual_id,
            catalogue_id=row.catalogue_id,
            taxon_id=row.taxon_id,
        )
        for row in rows
    ]


_MINE: Final = f"""
    EXISTS (SELECT FROM review r JOIN individual gone ON gone.id = r.individual_id
        WHERE r.query_id = q.id AND r.verdict = 'different' AND r.is_vote AND r.reviewer = :me
        AND coalesce(gone.merged_into_id, gone.id) = i.id AND {NOT_UNDONE})
"""


def candidates_of(session: Session, query_id: UUID, principal: str) -> list[CandidateRow]:
    """The candidates of a query by rank. `rejected`: somebody said that a photo of the query does
    not show this individual, or this person's own vote says so."""
    rows = session.execute(
        text(
            "SELECT m.rank, m.score, m.supporting, m.annotation_id, a.media_id, a.viewpoint,"
            f" coalesce(m.evidence, '[]'::jsonb) AS evidence, i.id AS individual_id, {NAME_OF},"
            " (SELECT t.scientific_name FROM taxon t WHERE t.id = i.taxon_id) AS taxon,"
            f" {REJECTED} OR {_MINE} AS rejected"
            " FROM query q JOIN match m ON m.query_id = q.id"
            f" {SURVIVOR.format(of='m.individual_id')}"
            " LEFT JOIN annotation a ON a.id = m.annotation_id"
            " WHERE q.id = :id ORDER BY m.rank"
        ),
        {"id": query_id, "me": principal},
    )
    return [CandidateRow(*row) for row in rows]


def rejected_for(session: Session, annotation_ids: list[int]) -> set[UUID]:
    """Individuals (after merges) that one of these annotations does not show, as somebody said."""
    rows = session.scalars(
        text(
            "SELECT DISTINCT coalesce(gone.merged_into_id, gone.id) FROM review r"
            " JOIN individual gone ON gone.id = r.individual_id"
            f" WHERE r.annotation_id = ANY(:ids) AND {STILL_NO}"
        ),
        {"ids": annotation_ids},
    )
    return set(rows)


def candidate_photos(
    session: Session, individual_id: UUID, query_id: UUID
) -> list[CandidatePhotoRow]:
    """Every photo of an individual (merged ones included) but those of the query itself."""
    rows = session.execute(
        text(
            "SELECT a.id AS annotation_id, a.media_id, a.viewpoint, a.body_part, a.is_reference,"
            f" m.original_name, m.taken_at, m.photographer, m.width_px, m.height_px, {_BOX},"
            " e.id AS encounter_id, e.started_at, e.place"
            " FROM individual named JOIN annotation a ON a.individual_id = named.id"
            " JOIN media_asset m ON m.id = a.media_id"
            " LEFT JOIN encounter e ON e.id = a.encounter_id"
            " WHERE coalesce(named.merged_into_id, named.id) = :individual AND NOT EXISTS"
            " (SELECT FROM query_photo p WHERE p.query_id = :query AND p.annotation_id = a.id)"
            " ORDER BY a.id"
        ),
        {"individual": individual_id, "query": query_id},
    )
    return [
        CandidatePhotoRow(
            annotation_id=row.annotation_id,
            media_id=row.media_id,
            viewpoint=row.viewpoint,
            body_part=row.body_part,
            is_reference=row.is_reference,
            name=row.original_name,
            taken_at=row.taken_at,
            photographer=row.photographer,
            width_px=row.width_px,
            height_px=row.height_px,
            box_px=box_of(row),
            encounter_id=row.encounter_id,
            started_at=row.started_at,
            place=row.place,
        )
        for row in rows
    ]


@dataclass(frozen=True, slots=True)
class AskedRow:
    """An annotation that is to be asked about, with what its photo is looked at by."""

    annotation_id: int
    media_id: int
    encounter_id: UUID | None
    catalogue_id: UUID
    sha256: str
    perceptual_hash: int | None
    width_px: int
    height_px: int
    file_name: str | None
    box_px: BoxPx | None


def annotations_asked(
    session: Session, annotation_ids: list[int], encounter_id: UUID | None
) -> list[AskedRow]:
    """The annotations named that exist, in their order; where none is named those of the encounter
    that are nobody's yet and that a search may use, ascending."""
    rows = session.execute(
        text(
            "SELECT a.id AS annotation_id, a.media_id, a.encounter_id, a.catalogue_id, m.sha256,"
            f" m.perceptual_hash, m.width_px, m.height_px, m.original_name, {_BOX}"
            " FROM annotation a JOIN media_asset m ON m.id = a.media_id"
            " WHERE a.id = ANY(cast(:ids AS bigint[])) OR (cardinality(cast(:ids AS bigint[])) = 0"
            "  AND a.encounter_id = cast(:encounter AS uuid) AND a.individual_id IS NULL"
            "  AND a.matchable)"
            " ORDER BY array_position(cast(:ids AS bigint[]), a.id), a.id"
        ),
        {"ids": annotation_ids, "encounter": encounter_id},
    )
    return [
        AskedRow(
            annotation_id=row.annotation_id,
            media_id=row.media_id,
            encounter_id=row.encounter_id,
            catalogue_id=row.catalogue_id,
            sha256=row.sha256,
            perceptual_hash=row.perceptual_hash,
            width_px=row.width_px,
            height_px=row.height_px,
            file_name=row.original_name,
            box_px=box_of(row),
        )
        for row in rows
    ]


def companions_in(session: Session, encounter_ids: list[UUID]) -> list[int]:
    """Every annotation of these encounters."""
    rows = session.scalars(
        text("SELECT id FROM annotation WHERE encounter_id = ANY(:ids)"), {"ids": encounter_ids}
    )
    return list(rows)


def join_encounter(session: Session, annotation_ids: list[int], encounter_id: UUID) -> None:
    """Annotations without an encounter get this one."""
    session.execute(
        text(
            "UPDATE annotation SET encounter_id = :encounter"
            " WHERE id = ANY(:ids) AND encounter_id IS NULL"
        ),
        {"ids": annotation_ids, "encounter": encounter_id},
    )
