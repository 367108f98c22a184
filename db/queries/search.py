"""What a search asks at request time: changes of a space, labels, exclusions, the pgvector scan.

These statements are on the path of every answer, so they go to psycopg directly, in binary, one
round trip each.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import numpy as np
import psycopg
from numpy.typing import NDArray
from psycopg import sql
from sqlalchemy.orm import Session

from db.types import Vector, vector_to_text

Ids = NDArray[np.int64]
Matrix = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class SpaceChanges:
    """What transactions at or after a horizon left behind in a space.

    `written` are the vectors inserted or replaced and `altered` the annotations deleted, labelled
    for the first time or unlabelled, both as (annotation id, transaction). `horizon` is what to
    ask from next time: a transaction still open now will be at or above it. `own_tx` is the
    caller's own transaction, whose rows nobody else sees yet; None while it has written nothing.
    """

    horizon: int
    own_tx: int | None
    written: tuple[tuple[int, int], ...]
    altered: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True, eq=False)
class SpaceRows:
    """Rows of a space: `ids` int64 (N,) ascending, `vectors` float32 (N, D) as stored, `labelled`
    bool (N,): whether the annotation has an individual."""

    ids: Ids
    vectors: Matrix
    labelled: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Label:
    """Who an annotation shows, merges followed, and its photo."""

    annotation_id: int
    individual_id: UUID
    media_id: int
    perceptual_hash: int | None


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Labelled annotations with a vector in the space that a request does not want to see."""

    own: tuple[int, ...]
    encounter: tuple[int, ...]


def connection_of(session: Session) -> psycopg.Connection[Any]:
    """The session's own psycopg connection, inside the session's transaction."""
    driver = session.connection().connection.driver_connection
    if not isinstance(driver, psycopg.Connection):
        raise TypeError(f"the session is not on psycopg 3 but on {type(driver)}")
    return driver


def space_changes(session: Session, model_id: int, horizon: int) -> SpaceChanges:
    """Changes since `horizon`; one cheap statement when there are none."""
    with connection_of(session).cursor(binary=True) as cursor:
        cursor.execute(
            """
            SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint,
                   pg_current_xact_id_if_assigned()::text::bigint,
                   written.ids, written.txs, altered.ids, altered.txs
            FROM (SELECT array_agg(annotation_id) AS ids, array_agg(tx::text::bigint) AS txs
                  FROM embedding WHERE model_id = %s::int AND tx >= %s::xid8) AS written,
                 (SELECT array_agg(annotation_id) AS ids, array_agg(tx::text::bigint) AS txs
                  FROM annotation_change WHERE tx >= %s::xid8) AS altered
            """,
            (model_id, str(horizon), str(horizon)),
        )
        row = _only_row(cursor)
    return SpaceChanges(
        horizon=row[0],
        own_tx=row[1],
        written=tuple(zip(row[2] or (), row[3] or (), strict=True)),
        altered=tuple(zip(row[4] or (), row[5] or (), strict=True)),
    )


def space_rows(session: Session, model_id: int, ids: Sequence[int] | Ids, dim: int) -> SpaceRows:
    """Those of the annotations that have a vector in the space."""
    with connection_of(session).cursor(binary=True) as cursor:
        cursor.execute(
            """
            SELECT e.annotation_id, e.v, a.individual_id IS NOT NULL
            FROM embedding e JOIN annotation a ON a.id = e.annotation_id
            WHERE e.model_id = %s::int AND e.annotation_id = ANY(%s::bigint[])
            ORDER BY e.annotation_id
            """,
            (model_id, _as_list(ids)),
        )
        rows = cursor.fetchall()
    return SpaceRows(
        ids=np.array([row[0] for row in rows], dtype=np.int64),
        vectors=_unpack_vectors([row[1] for row in rows], dim),
        labelled=np.array([row[2] for row in rows], dtype=np.bool_),
    )


def labelled_ids(session: Session, model_id: int) -> tuple[Ids, int]:
    """Every annotation with an individual and a vector in the space, ascending, and the horizon
    from which `space_changes` tells what changed since."""
    with connection_of(session).cursor(binary=True) as cursor:
        cursor.execute(
            """
            SELECT string_agg(int8send(a.id), ''::bytea ORDER BY a.id),
                   pg_snapshot_xmin(pg_current_snapshot())::text::bigint
            FROM embedding e JOIN annotation a ON a.id = e.annotation_id
            WHERE e.model_id = %s::int AND a.individual_id IS NOT NULL
            """,
            (model_id,),
        )
        row = _only_row(cursor)
    return _unpack_ids(row[0]), row[1]


def labels(session: Session, ids: Sequence[int] | Ids, *, with_hashes: bool = False) -> list[Label]:
    """Who these annotations show now, in any order; deleted or unlabelled ones are left out."""
    hashes = (
        ("m.perceptual_hash", "JOIN media_asset m ON m.id = a.media_id")
        if with_hashes
        else ("NULL::bigint", "")
    )
    with connection_of(session).cursor(binary=True) as cursor:
        cursor.execute(
            sql.SQL(
                """
                SELECT a.id, coalesce(i.merged_into_id, i.id), a.media_id, {}
                FROM annotation a JOIN individual i ON i.id = a.individual_id {}
                WHERE a.id = ANY(%s::bigint[])
                """
            ).format(sql.SQL(hashes[0]), sql.SQL(hashes[1])),
            (_as_list(ids),),
        )
        return [Label(*row) for row in cursor.fetchall()]


def left_out(
    session: Session,
    model_id: int,
    *,
    annotations: Collection[int],
    sha256s: Collection[str],
    encounter: UUID | None,
) -> LeftOut:
    """The annotations named, those on photos with these bytes (`own`), and those of the encounter
    that are not `own`."""
    with connection_of(session).cursor(binary=True) as cursor:
        cursor.execute(
            """
            SELECT found.id, bool_or(found.own)
            FROM (SELECT id, true AS own FROM annotation WHERE id = ANY(%s::bigint[])
                  UNION ALL
                  SELECT a.id, true FROM media_asset m JOIN annotation a ON a.media_id = m.id
                  WHERE m.sha256 = ANY(%s::text[])
                  UNION ALL
                  SELECT id, false FROM annotation WHERE encounter_id = %s::uuid) AS found
            JOIN annotation a ON a.id = found.id AND a.individual_id IS NOT NULL
            WHERE EXISTS (SELECT FROM embedding e
                          WHERE e.model_id = %s::int AND e.annotation_id = found.id)
            GROUP BY found.id ORDER BY found.id
            """,
            (list(annotations), list(sha256s), encounter, model_id),
        )
        rows = cursor.fetchall()
    return LeftOut(
        own=tuple(id_ for id_, own in rows if own),
        encounter=tuple(id_ for id_, own in rows if not own),
    )


def count_space(session: Session, model_id: int) -> tuple[int, int]:
    """(vectors in the space, those of annotations with an individual)."""
    with connection_of(session).cursor(binary=True) as cursor:
        cursor.execute(
            """
            SELECT count(*), count(a.individual_id)
            FROM embedding e JOIN annotation a ON a.id = e.annotation_id
            WHERE e.model_id = %s::int
            """,
            (model_id,),
        )
        row = _only_row(cursor)
    return row[0], row[1]


def nearest_rows(
    session: Session,
    model_id: int,
    query: Vector,
    n: int,
    allowed: Sequence[int] | Ids | None = None,
) -> tuple[Ids, Matrix]:
    """The n vectors of the space with the highest cosine to `query`, computed by pgvector over
    every row: ids int64 (m,) and cosines float32 (m,), by cosine descending, then id."""
    limited = sql.SQL("" if allowed is None else "AND annotation_id = ANY(%s::bigint[])")
    given: list[Any] = [vector_to_text(query), model_id]
    if allowed is not None:
        given.append(_as_list(allowed))
    with connection_of(session).cursor(binary=True) as cursor:
        cursor.execute(
            sql.SQL(
                """
                SELECT annotation_id, 1 - (v <=> %s::vector)
                FROM embedding WHERE model_id = %s::int {} ORDER BY 2 DESC, 1 LIMIT %s::bigint
                """
            ).format(limited),
            (*given, n),
        )
        rows = cursor.fetchall()
    return (
        np.array([row[0] for row in rows], dtype=np.int64),
        np.array([row[1] for row in rows], dtype=np.float32),
    )


def _only_row(cursor: psycopg.Cursor[Any]) -> tuple[Any, ...]:
    row: tuple[Any, ...] | None = cursor.fetchone()
    if row is None:
        raise LookupError("a statement without FROM or GROUP BY answered no row")
    return row


def _as_list(ids: Sequence[int] | Ids) -> list[int]:
    return ids.tolist() if isinstance(ids, np.ndarray) else list(ids)


def _unpack_ids(packed: bytes | None) -> Ids:
    return np.frombuffer(packed or b"", dtype=">i8").astype(np.int64)


def _unpack_vectors(packed: Sequence[bytes], dim: int) -> Matrix:
    # pgvector's binary form: dimensions and a reserved field as int16, then float4, big-endian.
    layout = np.dtype([("dim", ">i2"), ("reserved", ">i2"), ("v", ">f4", (dim,))])
    return np.frombuffer(b"".join(packed), dtype=layout)["v"].astype(np.float32)
