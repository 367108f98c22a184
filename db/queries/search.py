"""What a search asks at request time besides labels: what changed, what to leave out, the scan."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import numpy as np
from numpy.typing import NDArray
from sqlalchemy.orm import Session

from db.errors import NotFound
from db.queries.copying import Float32s, Int64s, as_ids, fetch, fetch_ids, id_array
from db.queries.filters import LABELLED, SearchFilters
from db.queries.taxa import find_taxa
from db.types import Vector, vector_to_text

KEEP_CHANGES_DAYS = 7


@dataclass(frozen=True, slots=True)
class SpaceChanges:
    """What transactions at or after a horizon left behind in a space.

    `written` are the vectors inserted or replaced and `altered` the annotations that lost their
    vector, got their first individual or lost it, both as (annotation id, transaction). `horizon`
    is what to ask from next time: a transaction still open now is at or above it. `own_tx` is the
    caller's own transaction, whose rows nobody else sees yet; None while it has written nothing.
    Asked from before `floor`, `altered` lacks entries that were deleted since.
    """

    horizon: int
    floor: int
    own_tx: int | None
    written: frozenset[tuple[int, int]]
    altered: frozenset[tuple[int, int]]


@dataclass(frozen=True, slots=True, eq=False)
class SpaceRows:
    """Rows of a space: `ids` int64 (N,) ascending, `vectors` float32 (N, D) as stored (N, 0 where
    they were not asked for), `labelled` bool (N,): whether the annotation has an individual."""

    ids: Int64s
    vectors: Float32s
    labelled: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Labelled annotations with a vector in the space that a request does not want to see."""

    own: tuple[int, ...]
    encounter: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class CandidateRow:
    """An annotation that may answer for an individual (after merges)."""

    annotation_id: int
    individual_id: UUID
    media_id: int
    perceptual_hash: int | None


@dataclass(frozen=True, slots=True, eq=False)
class Companions:
    """Annotations of some individuals: `ids` int64 (N,) ascending, `individuals` and `encounters`
    text (N,): equal where they are the same. A photo without an encounter is one of its own."""

    ids: Int64s
    individuals: NDArray[np.str_]
    encounters: NDArray[np.str_]


def space_changes(session: Session, model_id: int, horizon: int) -> SpaceChanges:
    """Changes since `horizon`: one statement, and a cheap one when there are none.

    Raises:
        NotFound: the vectors of the space were dropped.
    """
    rows = fetch(
        session,
        f"""
        SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint,
               {_FLOOR},
               pg_current_xact_id_if_assigned()::text::bigint,
               to_regclass('embedding_m' || %(model)s::text) IS NOT NULL,
               written.ids, written.txs, altered.ids, altered.txs
        FROM (SELECT array_agg(annotation_id) AS ids, array_agg(tx::text::bigint) AS txs
              FROM embedding WHERE model_id = %(model)s AND tx >= %(horizon)s::text::xid8
             ) AS written,
             (SELECT array_agg(annotation_id) AS ids, array_agg(tx::text::bigint) AS txs
              FROM annotation_change WHERE tx >= %(horizon)s::text::xid8) AS altered
        """,
        {"model": model_id, "horizon": str(horizon)},
    )
    seen, floor, own_tx, present, written_ids, written_txs, altered_ids, altered_txs = rows[0]
    if not present:
        raise NotFound("space_dropped", f"The vectors of the space {model_id} were dropped.")
    return SpaceChanges(
        horizon=seen,
        floor=floor,
        own_tx=own_tx,
        written=frozenset(zip(written_ids or (), written_txs or (), strict=True)),
        altered=frozenset(zip(altered_ids or (), altered_txs or (), strict=True)),
    )


# A floor in the future came with a dump from another cluster and says nothing of this one.
_FLOOR = """coalesce((SELECT tx::text::bigint FROM change_floor
    WHERE tx <= pg_snapshot_xmin(pg_current_snapshot())), 0)"""


def change_floor(session: Session) -> int:
    """The transaction before which entries of `annotation_change` may have been deleted."""
    return int(fetch(session, f"SELECT {_FLOOR}")[0][0])


def space_rows(session: Session, model_id: int, ids: Sequence[int] | Int64s, dim: int) -> SpaceRows:
    """Those of the annotations that have a vector in the space; with `dim` 0 without the vector."""
    rows = fetch(
        session,
        f"""
        SELECT v.annotation_id, a.individual_id IS NOT NULL AND a.matchable{", v.v" if dim else ""}
        FROM embedding v JOIN annotation a ON a.id = v.annotation_id
        WHERE v.model_id = %s AND v.annotation_id = ANY(%s::bigint[]) ORDER BY v.annotation_id
        """,
        [model_id, id_array(as_ids(ids))],
    )
    return SpaceRows(
        ids=np.array([row[0] for row in rows], dtype=np.int64),
        vectors=_unpack_vectors([row[2] for row in rows], dim)
        if dim
        else np.empty((len(rows), 0), dtype=np.float32),
        labelled=np.array([row[1] for row in rows], dtype=np.bool_),
    )


def space_ids(session: Session, model_id: int) -> tuple[Int64s, int]:
    """(int64 (N,) ascending: every annotation with a vector in the space, horizon taken before)."""
    horizon = fetch(session, "SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint")[0][0]
    query = "SELECT annotation_id AS id FROM embedding WHERE model_id = %s"
    return fetch_ids(session, query, [model_id]), int(horizon)


def adopt_foreign_rows(session: Session, model_id: int) -> int:
    """Give rows that come from another PostgreSQL cluster (a restored dump) a transaction of this
    one; how many vectors there were. The caller commits.

    Their transactions lie in this cluster's future: each would count as new at every search.
    """
    return int(
        fetch(
            session,
            f"""
            WITH adopted AS (
                UPDATE embedding SET tx = pg_current_xact_id()
                WHERE model_id = %(model)s AND {_FUTURE} RETURNING 1),
            forgotten AS (DELETE FROM annotation_change WHERE {_FUTURE})
            SELECT count(*) FROM adopted
            """,
            {"model": model_id},
        )[0][0]
    )


_FUTURE = """
    tx >= pg_snapshot_xmax(pg_current_snapshot())
    AND tx IS DISTINCT FROM pg_current_xact_id_if_assigned()
"""


def prune_changes(session: Session) -> int:
    """Delete entries of `annotation_change` that nobody needs any more; how many. The caller
    commits.

    Kept is what is younger than the newest snapshot of any space, and than the newest snapshot that
    is a week old: a process that has not looked for longer reads everything again (`floor`).
    """
    return int(
        fetch(
            session,
            """
            WITH bound AS (
                SELECT least(
                    (SELECT max(horizon_tx::text::bigint) FROM index_snapshot
                     WHERE created_at < now() - make_interval(days => %(days)s)),
                    (SELECT min(newest.tx) FROM (
                        SELECT max(horizon_tx::text::bigint) AS tx FROM index_snapshot
                        WHERE state = 'ready' GROUP BY model_id) AS newest),
                    pg_snapshot_xmin(pg_current_snapshot())::text::bigint) AS tx
                WHERE EXISTS (SELECT FROM index_snapshot
                              WHERE created_at < now() - make_interval(days => %(days)s))),
            gone AS (
                DELETE FROM annotation_change USING bound
                WHERE annotation_change.tx < bound.tx::text::xid8
                RETURNING annotation_change.tx::text::bigint AS tx),
            raised AS (
                INSERT INTO change_floor AS floor (tx)
                SELECT (max(tx) + 1)::text::xid8 FROM gone HAVING count(*) > 0
                ON CONFLICT (single) DO UPDATE SET tx = excluded.tx)
            SELECT count(*) FROM gone
            """,
            {"days": KEEP_CHANGES_DAYS},
        )[0][0]
    )


def left_out(
    session: Session,
    model_id: int,
    *,
    annotations: Collection[int],
    sha256s: Collection[str],
    encounter: UUID | None,
) -> LeftOut:
    """The annotations named and those on photos with these bytes (`own`), and the others of the
    encounter; ascending by id."""
    rows = fetch(
        session,
        """
        SELECT found.id, bool_or(found.own)
        FROM (SELECT id, true AS own FROM annotation WHERE id = ANY(%(annotations)s::bigint[])
              UNION ALL
              SELECT a.id, true FROM media_asset m JOIN annotation a ON a.media_id = m.id
              WHERE m.sha256 = ANY(%(sha256s)s::text[])
              UNION ALL
              SELECT id, false FROM annotation WHERE encounter_id = %(encounter)s::uuid) AS found
        JOIN annotation a ON a.id = found.id AND a.individual_id IS NOT NULL AND a.matchable
        JOIN embedding v ON v.model_id = %(model)s AND v.annotation_id = found.id
        GROUP BY found.id ORDER BY found.id
        """,
        {
            "annotations": id_array(as_ids(list(annotations))),
            "sha256s": list(sha256s),
            "encounter": encounter,
            "model": model_id,
        },
    )
    return LeftOut(
        own=tuple(id_ for id_, own in rows if own),
        encounter=tuple(id_ for id_, own in rows if not own),
    )


def annotations_of_individuals(session: Session, ids: Sequence[UUID]) -> list[CandidateRow]:
    """Every annotation that a search may answer with of these individuals (after merges) and those
    merged into them, ascending by id."""
    rows = fetch(
        session,
        """
        SELECT a.id, coalesce(named.merged_into_id, named.id), a.media_id, m.perceptual_hash
        FROM individual named
        JOIN annotation a ON a.individual_id = named.id AND a.matchable
        JOIN media_asset m ON m.id = a.media_id
        WHERE coalesce(named.merged_into_id, named.id) = ANY(%s::uuid[]) ORDER BY a.id
        """,
        [list(ids)],
    )
    return [CandidateRow(*row) for row in rows]


def individuals_inside(
    session: Session, model_id: int, ids: Sequence[UUID], filters: SearchFilters
) -> set[UUID]:
    """Those among these individuals that have an annotation which the filters admit."""
    conditions, parameters = filters.alternatives(
        find_taxa(session, filters.taxon) if filters.taxon else []
    )
    rows = fetch(
        session,
        f"""
        SELECT DISTINCT i.id FROM annotation a {LABELLED}
        JOIN embedding v ON v.model_id = %(model)s AND v.annotation_id = a.id
        WHERE i.id = ANY(%(wanted)s::uuid[]) AND ({" OR ".join(conditions)})
        """,
        {"model": model_id, "wanted": list(ids), **parameters},
    )
    return {row[0] for row in rows}


def companions(session: Session, model_id: int, ids: Int64s) -> Companions:
    """All labelled annotations, with a vector in the space, of the individuals on these ones."""
    rows = fetch(
        session,
        """
        WITH wanted AS MATERIALIZED (
            SELECT DISTINCT coalesce(named.merged_into_id, named.id) AS id
            FROM annotation a JOIN individual named ON named.id = a.individual_id
            WHERE a.id = ANY(%s::bigint[]))
        SELECT a.id, wanted.id::text, coalesce('e' || a.encounter_id, 'm' || a.media_id)
        FROM wanted
        JOIN individual named ON coalesce(named.merged_into_id, named.id) = wanted.id
        JOIN annotation a ON a.individual_id = named.id
        JOIN embedding v ON v.model_id = %s AND v.annotation_id = a.id
        ORDER BY a.id
        """,
        [id_array(ids), model_id],
    )
    return Companions(
        ids=np.array([row[0] for row in rows], dtype=np.int64),
        individuals=np.array([row[1] for row in rows], dtype=np.str_),
        encounters=np.array([row[2] for row in rows], dtype=np.str_),
    )


def nearest_rows(
    session: Session, model_id: int, query: Vector, n: int, allowed: Int64s | None = None
) -> tuple[Int64s, Float32s]:
    """The n vectors of the space with the highest cosine to `query`, computed by pgvector over
    every row: ids int64 (m,) and cosines float32 (m,), by cosine descending, then id."""
    limited = "" if allowed is None else "AND annotation_id = ANY(%(allowed)s::bigint[])"
    parameters: dict[str, Any] = {"query": vector_to_text(query), "model": model_id, "n": n}
    if allowed is not None:
        parameters["allowed"] = id_array(allowed)
    rows = fetch(
        session,
        "SELECT annotation_id, 1 - (v <=> %(query)s::vector) FROM embedding"
        f" WHERE model_id = %(model)s {limited} ORDER BY 2 DESC, 1 LIMIT %(n)s",
        parameters,
    )
    return (
        np.array([row[0] for row in rows], dtype=np.int64),
        np.array([row[1] for row in rows], dtype=np.float32),
    )


def _unpack_vectors(packed: Sequence[bytes], dim: int) -> Float32s:
    # pgvector's binary form: dimensions and a reserved field as int16, then float4, big-endian.
    layout = np.dtype([("dim", ">i2"), ("reserved", ">i2"), ("v", ">f4", (dim,))])
    return np.frombuffer(b"".join(packed), dtype=layout)["v"].astype(np.float32)
