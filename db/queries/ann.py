"""Approximate indexes: HNSW on a space's partition, and what is published of indexes elsewhere.

An index counts only with a row of `index_snapshot` that says how well it was found to do; without
one, and while it is built or broken, PostgreSQL compares with every row.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import numpy as np
from psycopg import sql as pgsql
from sqlalchemy import Connection, text
from sqlalchemy.orm import Session

from db.errors import translated
from db.queries.copying import Float32s, Int64s, connection_of, fetch, id_array
from db.types import SnapshotState, Vector, vector_to_text

HNSW = "pgvector-hnsw"
"""The backend under which an HNSW index is published."""
MAX_EF_SEARCH = 1000
"""pgvector's limit."""

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class AnnIndex:
    """An HNSW index in the catalogue of PostgreSQL. `identity` is that of its present content."""

    name: str
    valid: bool
    building: bool
    identity: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Published:
    """An index that may be used, as it was when it was measured."""

    id: UUID
    vector_count: int
    horizon_tx: int
    digest: str
    recall: float | None
    report: Json


def index_name(model_id: int) -> str:
    return f"ix_embedding_m{int(model_id)}_hnsw"


# ---------------------------------------------------------------- what is published


def publish_index(
    session: Session,
    *,
    model_id: int,
    backend: str,
    vector_count: int,
    horizon_tx: int,
    digest: str,
    recall: float | None,
    report: Json,
) -> Published:
    """Record that an index may be used; the former of this space and backend is retired."""
    retire_index(session, model_id, backend)
    with translated():
        made: UUID = session.execute(
            text(
                "INSERT INTO index_snapshot (id, model_id, backend, vector_count, horizon_tx,"
                " digest, recall, state, report) VALUES (gen_random_uuid(), :model, :backend,"
                " :count, cast(:horizon AS text)::xid8, :digest, :recall, :state,"
                " cast(:report AS jsonb)) RETURNING id"
            ),
            {
                "model": model_id,
                "backend": backend,
                "count": vector_count,
                "horizon": str(horizon_tx),
                "digest": digest,
                "recall": recall,
                "state": SnapshotState.READY.value,
                "report": json.dumps(report),
            },
        ).scalar_one()
    return Published(made, vector_count, horizon_tx, digest, recall, report)


def retire_index(session: Session, model_id: int, backend: str) -> None:
    """Nobody uses the published index of this space and backend any more."""
    session.execute(
        text(
            "UPDATE index_snapshot SET state = :retired"
            " WHERE model_id = :model AND backend = :backend AND state = :ready"
        ),
        {
            "model": model_id,
            "backend": backend,
            "retired": SnapshotState.RETIRED.value,
            "ready": SnapshotState.READY.value,
        },
    )


_PUBLISHED = """
    s.id, s.vector_count, s.horizon_tx::text::bigint, s.digest, s.recall,
    coalesce(s.report, '{}'::jsonb)
"""


def published_index(session: Session, model_id: int, backend: str) -> Published | None:
    """The newest published index of the space and backend."""
    rows = fetch(
        session,
        f"SELECT {_PUBLISHED} FROM index_snapshot s WHERE s.model_id = %s AND s.backend = %s"
        " AND s.state = 'ready' ORDER BY s.created_at DESC, s.id LIMIT 1",
        [model_id, backend],
    )
    return Published(*rows[0]) if rows else None


# ---------------------------------------------------------------- HNSW in PostgreSQL

_IDENTITY = "c.oid::text || '/' || coalesce(pg_relation_filenode(c.oid), 0)::text"


def ann_index(session: Session, model_id: int) -> AnnIndex | None:
    """The HNSW index of the space, whole or not; None if there is none."""
    rows = fetch(
        session,
        "SELECT c.relname::text, i.indisvalid, EXISTS (SELECT FROM pg_stat_progress_create_index p"
        f" WHERE p.index_relid = c.oid), {_IDENTITY}, pg_relation_size(c.oid)"
        " FROM pg_class c JOIN pg_index i ON i.indexrelid = c.oid"
        " WHERE c.oid = to_regclass(%s)",
        [index_name(model_id)],
    )
    return AnnIndex(*rows[0]) if rows else None


def usable_ann(session: Session, model_id: int) -> Published | None:
    """The published measurement of the space's index, if the index is valid and the one measured.

    Asked at every search: an index that was dropped, is being built or broke is not used.
    """
    rows = fetch(
        session,
        f"SELECT {_PUBLISHED} FROM pg_class c JOIN pg_index i ON i.indexrelid = c.oid"
        " JOIN index_snapshot s ON s.model_id = %s AND s.backend = %s AND s.state = 'ready'"
        f" AND s.digest = {_IDENTITY}"
        " WHERE c.oid = to_regclass(%s) AND i.indisvalid ORDER BY s.created_at DESC LIMIT 1",
        [model_id, HNSW, index_name(model_id)],
    )
    return Published(*rows[0]) if rows else None


def left_over(session: Session) -> list[int]:
    """Spaces whose HNSW index is invalid or unmeasured, and not being built: what a crash or a
    restored dump leaves behind."""
    rows = fetch(
        session,
        f"""
        SELECT m.id FROM embedding_model m
        JOIN pg_class c ON c.oid = to_regclass('ix_embedding_m' || m.id || '_hnsw')
        JOIN pg_index i ON i.indexrelid = c.oid
        WHERE NOT EXISTS (SELECT FROM pg_stat_progress_create_index p WHERE p.index_relid = c.oid)
          AND NOT (i.indisvalid AND EXISTS (SELECT FROM index_snapshot s
            WHERE s.model_id = m.id AND s.backend = %s AND s.state = 'ready'
              AND s.digest = {_IDENTITY}))
        ORDER BY m.id
        """,
        [HNSW],
    )
    return [model_id for (model_id,) in rows]


def create_ann_index(
    connection: Connection, model_id: int, dim: int, *, m: int, ef_construction: int
) -> None:
    """Build the HNSW index of the space beside readers and writers; takes minutes.

    `connection` is in autocommit: PostgreSQL builds an index concurrently outside a transaction
    only. What fails or is cancelled leaves an invalid index, which `drop_ann_index` removes.
    """
    connection.exec_driver_sql(
        f"CREATE INDEX CONCURRENTLY {index_name(model_id)} ON embedding_m{int(model_id)}"
        f" USING hnsw ((v::halfvec({int(dim)})) halfvec_cosine_ops)"
        f" WITH (m = {int(m)}, ef_construction = {int(ef_construction)})"
    )


def drop_ann_index(connection: Connection, model_id: int) -> None:
    """Remove the index if there is one; `connection` is in autocommit."""
    connection.exec_driver_sql(f"DROP INDEX CONCURRENTLY IF EXISTS {index_name(model_id)}")


def build_share(session: Session, model_id: int) -> float | None:
    """How far the build of the space's index is, 0 to 1; None while nothing is being built."""
    rows = fetch(
        session,
        "SELECT phase, blocks_done, blocks_total FROM pg_stat_progress_create_index"
        " WHERE relid = to_regclass(%s)",
        [f"embedding_m{int(model_id)}"],
    )
    if not rows:
        return None
    phase, done, total = rows[0]
    if phase.startswith("building index"):
        return float(done) / total if total else 0.0
    return 1.0 if phase.startswith(("index validation", "waiting for old snapshots")) else 0.0


def nearest_by_index(
    session: Session,
    model_id: int,
    dim: int,
    query: Vector,
    n: int,
    allowed: Int64s | None,
    *,
    ef_search: int,
    max_scan_tuples: int,
) -> tuple[Int64s, Float32s]:
    """Up to n vectors that the HNSW index finds near `query`: ids int64 (m,) and their exact
    cosines float32 (m,), by cosine descending, then id. The scan goes on until n rows are allowed
    or `max_scan_tuples` were looked at."""
    # Without a sort at hand only the index gives rows in order, whatever the planner estimates.
    fetch(
        session,
        "SELECT set_config('hnsw.ef_search', %s, true),"
        " set_config('hnsw.iterative_scan', 'relaxed_order', true),"
        " set_config('hnsw.max_scan_tuples', %s, true),"
        " set_config('enable_sort', 'off', true)",
        [str(min(max(ef_search, 1), MAX_EF_SEARCH)), str(max_scan_tuples)],
    )
    statement = pgsql.SQL(
        "SELECT annotation_id, 1 - (v <=> %(query)s::vector) FROM {table}"
        " WHERE {limited} ORDER BY v::halfvec({dim}) <=> %(query)s::halfvec({dim}) LIMIT %(n)s"
    ).format(
        table=pgsql.Identifier(f"embedding_m{int(model_id)}"),
        limited=pgsql.SQL(
            "true" if allowed is None else "annotation_id = ANY(%(allowed)s::bigint[])"
        ),
        dim=pgsql.Literal(int(dim)),
    )
    parameters: Json = {"query": vector_to_text(query), "n": n}
    if allowed is not None:
        parameters["allowed"] = id_array(allowed)
    rows = fetch(session, statement, parameters)
    with connection_of(session).cursor() as cursor:
        cursor.execute("SET LOCAL enable_sort TO DEFAULT")
    ids = np.array([row[0] for row in rows], dtype=np.int64)
    scores = np.array([row[1] for row in rows], dtype=np.float32)
    order = np.lexsort((ids, -scores))
    return ids[order], scores[order]
