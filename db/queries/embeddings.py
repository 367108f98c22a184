"""Vector spaces and the vectors in them: register, write, read, what changed, what is missing."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import numpy as np
from psycopg import sql as pgsql
from sqlalchemy import select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from db.errors import Conflict, Invalid, NotFound, translated
from db.queries.candidates import Candidates as Candidates
from db.queries.candidates import count_eligible as count_eligible
from db.queries.candidates import eligible_ids as eligible_ids
from db.queries.candidates import label_candidates as label_candidates
from db.queries.copying import (
    Float32s,
    Int64s,
    as_ids,
    connection_of,
    copy_vectors,
    fetch,
    id_array,
    pack_vectors,
)
from db.queries.heads import HeadRow as HeadRow
from db.queries.heads import SlotRow as SlotRow
from db.queries.heads import SnapshotRow as SnapshotRow
from db.queries.heads import active_head as active_head
from db.queries.heads import list_snapshots as list_snapshots
from db.queries.heads import register_head as register_head
from db.queries.heads import register_snapshot as register_snapshot
from db.queries.heads import retire_snapshot as retire_snapshot
from db.queries.heads import slot_labels as slot_labels
from db.queries.media import BoxPx
from db.tables import MAX_DIM, EmbeddingModel
from db.types import Modality

PHOTO_SLOT = "identify.photo"
READ_CHUNK = 8192
_HALF_MAX, _HALF_MIN = 65_504.0, 2.0**-10


@dataclass(frozen=True, slots=True)
class SpaceRow:
    id: int
    name: str
    version: str
    fingerprint: str
    dim: int
    modality: Modality
    preprocessing: dict[str, Any]
    licence: str
    digest: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class MissingAnnotation:
    """An annotation without a vector in a space; `box_px` None for the whole photo.

    `region_version` counts the changes of its region: a vector made from this one is written only
    while it is still the present one.
    """

    annotation_id: int
    media_id: int
    sha256: str
    box_px: BoxPx | None
    region_version: int


# ---------------------------------------------------------------- spaces


def register_space(
    session: Session,
    *,
    name: str,
    version: str,
    fingerprint: str,
    dim: int,
    modality: Modality | str = Modality.PHOTO,
    preprocessing: dict[str, Any],
    licence: str,
    digest: str,
) -> SpaceRow:
    """The space with this fingerprint and its partition, made when there is none.

    Raises:
        Invalid: `dim` is not between 1 and 4,000, or the preprocessing is missing.
        Conflict: another space has this name and version.
    """
    if not 1 <= dim <= MAX_DIM:
        raise Invalid(
            "dim_not_indexable",
            f"The space {name} {version} has {dim} dimensions; pgvector indexes 1 to {MAX_DIM:,}. "
            "Use a model with fewer, or project its vectors down.",
            dim=dim,
            max_dim=MAX_DIM,
        )
    statement = (
        insert(EmbeddingModel)
        .values(
            name=name,
            version=version,
            fingerprint=fingerprint,
            dim=dim,
            modality=Modality(modality),
            preprocessing=preprocessing,
            licence=licence,
            digest=digest,
        )
        .on_conflict_do_nothing(index_elements=["fingerprint"])
    )
    with translated():
        session.execute(statement)
    space = get_space(session, fingerprint)
    if space.dim != dim:
        raise Conflict(
            "space_exists",
            f"The fingerprint {fingerprint} belongs to a space of {space.dim} dimensions, not "
            f"{dim}; install the model again, so that it gets a fingerprint of its own.",
            dim=dim,
            registered_dim=space.dim,
        )
    _ensure_partition(session, space)
    return space


def _ensure_partition(session: Session, space: SpaceRow) -> None:
    table = _partition(space.id)
    if session.scalar(text("SELECT to_regclass(:table) IS NOT NULL"), {"table": table}):
        return
    # Attaching locks the other spaces less than creating the partition in place.
    # A vector stays in its row as long as a page holds it: reading a space is then one scan.
    for statement in (
        f"CREATE TABLE {table} (LIKE embedding INCLUDING ALL)",
        f"ALTER TABLE {table} SET (toast_tuple_target = 8160),"
        f" ADD CONSTRAINT ck_{table}_dim CHECK (vector_dims(v) = {space.dim}),"
        f" ADD CONSTRAINT ck_{table}_model CHECK (model_id = {space.id})",
        f"ALTER TABLE embedding ATTACH PARTITION {table} FOR VALUES IN ({space.id})",
    ):
        session.execute(text(statement))


def _partition(model_id: int) -> str:
    return f"embedding_m{int(model_id)}"


def _space(model: EmbeddingModel) -> SpaceRow:
    return SpaceRow(
        id=model.id,
        name=model.name,
        version=model.version,
        fingerprint=model.fingerprint,
        dim=model.dim,
        modality=model.modality,
        preprocessing=model.preprocessing,
        licence=model.licence,
        digest=model.digest,
        created_at=model.created_at,
    )


@translated()
def get_space(session: Session, fingerprint: str) -> SpaceRow:
    """Raises:
    NotFound: no space has this fingerprint.
    """
    model = session.scalars(
        select(EmbeddingModel).where(EmbeddingModel.fingerprint == fingerprint)
    ).one_or_none()
    if model is None:
        raise NotFound(
            "space_unknown",
            f"No vector space has the fingerprint {fingerprint!r}; GET /v1/models or "
            "`resight models spaces` names those there are.",
            fingerprint=fingerprint,
        )
    return _space(model)


def get_space_by_id(session: Session, model_id: int) -> SpaceRow:
    """Raises:
    NotFound: no space has this id.
    """
    model = session.get(EmbeddingModel, model_id)
    if model is None:
        raise NotFound("space_unknown", f"No vector space has the id {model_id}.", id=model_id)
    return _space(model)


def list_spaces(session: Session) -> list[SpaceRow]:
    """The spaces that hold vectors or can take them, oldest first; dropped ones are left out."""
    models = session.scalars(
        select(EmbeddingModel)
        .where(text("to_regclass('embedding_m' || embedding_model.id) IS NOT NULL"))
        .order_by(EmbeddingModel.id)
    )
    return [_space(model) for model in models]


def set_slot(session: Session, slot_name: str, model_id: int) -> None:
    """Make `slot_name` search this space from the end of the transaction on."""
    with translated():
        session.execute(
            text(
                "INSERT INTO model_slot (name, model_id) VALUES (:name, :model)"
                " ON CONFLICT (name) DO UPDATE SET model_id = excluded.model_id,"
                " switched_at = now() WHERE model_slot.model_id <> excluded.model_id"
            ),
            {"name": slot_name, "model": model_id},
        )


@translated()
def active_space(session: Session, slot_name: str = PHOTO_SLOT) -> SpaceRow | None:
    """The space that this use searches now; None before the first `set_slot`."""
    model = session.scalars(
        select(EmbeddingModel).where(
            EmbeddingModel.id
            == select(text("model_id"))
            .select_from(text("model_slot"))
            .where(text("name = :slot").bindparams(slot=slot_name))
            .scalar_subquery()
        )
    ).one_or_none()
    return None if model is None else _space(model)


def drop_space(session: Session, model_id: int) -> None:
    """Drop a space's vectors, heads and snapshots at once; stored queries keep their answers, and
    a space that queries or re-index runs speak of keeps its name.

    Raises:
        Conflict: the space is in use.
    """
    used = session.scalar(
        text("SELECT name FROM model_slot WHERE model_id = :model LIMIT 1"), {"model": model_id}
    )
    if used is not None:
        raise Conflict(
            "space_in_use",
            f"The space {model_id} is what {used} searches; switch that to another space first.",
            slot=used,
            model_id=model_id,
        )
    session.execute(text(f"DROP TABLE IF EXISTS {_partition(model_id)}"))
    for statement in (
        "DELETE FROM head WHERE model_id = :model",
        "DELETE FROM index_snapshot WHERE model_id = :model",
        "DELETE FROM embedding_model WHERE id = :model"
        " AND NOT EXISTS (SELECT FROM query WHERE model_id = :model)"
        " AND NOT EXISTS (SELECT FROM reindex_run WHERE :model IN (from_model_id, to_model_id))",
    ):
        session.execute(text(statement), {"model": model_id})


# ---------------------------------------------------------------- writing


def put_vectors(
    session: Session,
    model_id: int,
    annotation_ids: Sequence[int] | Int64s,
    vectors: Float32s,
    region_versions: Sequence[int] | None = None,
) -> int:
    """Write float32 (N, D) vectors of N distinct annotations; how many were written.

    A vector that is there is replaced. An annotation that no longer exists is skipped, and so is
    one whose region is no longer that of its `region_versions` (N,), when they are given.

    Raises:
        Invalid: the shape is not (N, D of the space), an id occurs twice, or a vector is zero,
            holds NaN or an infinity, or is too large or small for half precision; nothing is
            written.
    """
    ids = as_ids(annotation_ids)
    matrix = np.ascontiguousarray(vectors, dtype=np.float32)
    _check_vectors(get_space_by_id(session, model_id), ids, matrix)
    if not len(ids):
        return 0
    connection = connection_of(session)
    with translated(), connection.cursor() as cursor:
        # One staging table per connection: making one per call would bloat the system tables.
        cursor.execute("SELECT to_regclass('pg_temp.incoming_vector') IS NULL")
        if cursor.fetchone() == (True,):
            cursor.execute(
                "CREATE TEMP TABLE incoming_vector (annotation_id bigint, v vector)"
                " ON COMMIT DELETE ROWS"
            )
        regions = list(region_versions) if region_versions is not None else [None] * len(ids)
        with cursor.copy("COPY pg_temp.incoming_vector FROM STDIN (FORMAT binary)") as copy:
            copy.write(pack_vectors(ids, matrix))
        # Locking the annotations first makes one that is deleted or gets another region meanwhile
        # vanish from the selection, where the foreign key would fail the statement; the order
        # avoids deadlocks. A region is part of a unique key, so that this lock, which lets others
        # name the annotation, holds its region too.
        cursor.execute(
            "INSERT INTO embedding (model_id, annotation_id, v)"
            " SELECT %s, a.id, incoming.v FROM pg_temp.incoming_vector incoming"
            " JOIN unnest(%s::bigint[], %s::int[]) region(id, version)"
            "  ON region.id = incoming.annotation_id"
            " JOIN annotation a ON a.id = region.id"
            "  AND a.region_version = coalesce(region.version, a.region_version)"
            " ORDER BY a.id FOR KEY SHARE OF a"
            " ON CONFLICT (model_id, annotation_id) DO UPDATE"
            " SET v = excluded.v, tx = pg_current_xact_id(), created_at = now()",
            [model_id, ids.tolist(), regions],
        )
        written = cursor.rowcount
        cursor.execute("DELETE FROM pg_temp.incoming_vector")
    return written


def _check_vectors(space: SpaceRow, ids: Int64s, vectors: Float32s) -> None:
    if vectors.shape != (len(ids), space.dim):
        raise Invalid(
            "vector_dim_wrong",
            f"{len(ids)} vectors of {space.name} {space.version} have the shape "
            f"({len(ids)}, {space.dim}), got {vectors.shape}; embed them with that model.",
            expected=[len(ids), space.dim],
            got=list(vectors.shape),
        )
    unique, occurrences = np.unique(ids, return_counts=True)
    if len(unique) < len(ids):
        repeated = int(unique[occurrences > 1][0])
        raise Invalid(
            "annotation_repeated",
            f"Annotation {repeated} has more than one vector; give one per annotation.",
            annotation_id=repeated,
        )
    finite = np.isfinite(vectors).all(axis=1)
    if not finite.all():
        bad = int(ids[np.argmin(finite)])
        raise Invalid(
            "vector_not_finite",
            f"The vector of annotation {bad} holds NaN or an infinity; check the photo and model.",
            annotation_id=bad,
        )
    # pgvector's norm, which the table checks, is zero where the squares underflow.
    zero = np.square(vectors.astype(np.float64)).sum(axis=1) == 0
    if zero.any():
        bad = int(ids[np.argmax(zero)])
        raise Invalid(
            "vector_zero",
            f"The vector of annotation {bad} is zero and has no direction; check the photo and "
            "model.",
            annotation_id=bad,
        )
    # An index holds half precision: a larger number would fail every write of it, and of a smaller
    # vector nothing would be left.
    largest = np.abs(vectors).max(axis=1)
    odd = (largest > _HALF_MAX) | (largest < _HALF_MIN)
    if odd.any():
        bad = int(ids[np.argmax(odd)])
        raise Invalid(
            "vector_out_of_range",
            f"The longest component of the vector of annotation {bad} is "
            f"{largest[np.argmax(odd)]:.3g}, not between {_HALF_MIN:.3g} and {_HALF_MAX:,.0f}; "
            "scale the model's vectors to length 1.",
            annotation_id=bad,
        )


# ---------------------------------------------------------------- reading


def horizon(session: Session) -> int:
    """The oldest transaction still open: what it and later ones write is not all visible yet."""
    return int(fetch(session, f"SELECT {_HORIZON}")[0][0])


_HORIZON = "pg_snapshot_xmin(pg_current_snapshot())::text::bigint"


def read_space(session: Session, model_id: int) -> tuple[Int64s, Float32s, int]:
    """(ids int64 (N,) ascending, vectors float32 (N, D), horizon).

    `changed_since(horizon)` gives every row that is newer than this reading, and some that are in
    it: the horizon is taken first, so nothing falls between.
    """
    seen = horizon(session)
    dim = get_space_by_id(session, model_id).dim
    count = count_vectors(session, model_id)
    # One more row than counted, in case others arrive meanwhile: then the list has the rest.
    ids, vectors = np.empty(count, np.int64), np.empty((count, dim), np.float32)
    filled = 0
    rest: list[tuple[Int64s, Float32s]] = []
    for some_ids, some_vectors in read_space_chunks(session, model_id):
        fitting = min(len(some_ids), count - filled)
        ids[filled : filled + fitting] = some_ids[:fitting]
        vectors[filled : filled + fitting] = some_vectors[:fitting]
        filled += fitting
        if fitting < len(some_ids):
            rest.append((some_ids[fitting:], some_vectors[fitting:]))
    if rest or filled < count:
        ids = np.concatenate([ids[:filled], *(part[0] for part in rest)])
        vectors = np.concatenate([vectors[:filled], *(part[1] for part in rest)])
    return ids, vectors, seen


def read_space_chunks(
    session: Session, model_id: int, chunk: int = READ_CHUNK
) -> Generator[tuple[Int64s, Float32s], None, None]:
    """The space in chunks (ids int64 (n,), vectors float32 (n, D)), n ≤ `chunk`, ids ascending.

    The session can do nothing else, rolling back included, until the last chunk is taken or the
    generator is closed: use `contextlib.closing` where something may fail in between.
    """
    query = pgsql.SQL("SELECT annotation_id, v FROM {} ORDER BY annotation_id").format(
        pgsql.Identifier(_partition(model_id))
    )
    dim = get_space_by_id(session, model_id).dim
    yield from copy_vectors(session, query, None, dim, chunk)


def changed_since(session: Session, model_id: int, horizon_tx: int) -> tuple[Int64s, Int64s, int]:
    """(ids int64 (n,), transactions int64 (n,), new horizon) of the rows written by `horizon_tx`
    or later, by what this statement sees. Ask with the new horizon next time; a row may come
    again, with the same transaction, until its transaction is older than every open one."""
    rows = fetch(
        session,
        f"SELECT {_HORIZON}, e.annotation_id, e.tx::text::bigint FROM (SELECT) one"
        " LEFT JOIN embedding e ON e.model_id = %s AND e.tx >= %s::text::xid8",
        [model_id, str(horizon_tx)],
    )
    found = np.array([row[1:] for row in rows if row[1] is not None], np.int64).reshape(-1, 2)
    return found[:, 0].copy(), found[:, 1].copy(), int(rows[0][0])


def vectors_of(
    session: Session, model_id: int, ids: Sequence[int] | Int64s
) -> tuple[Int64s, Float32s]:
    """(ids int64 (n,) ascending, vectors float32 (n, D)) of those among `ids` that have one."""
    dim = get_space_by_id(session, model_id).dim
    query = pgsql.SQL(
        "SELECT annotation_id, v FROM {} WHERE annotation_id = ANY(%s::bigint[])"
        " ORDER BY annotation_id"
    ).format(pgsql.Identifier(_partition(model_id)))
    wanted = as_ids(ids)
    chunks = list(copy_vectors(session, query, [id_array(wanted)], dim, max(len(wanted), 1)))
    return chunks[0] if chunks else (np.empty(0, np.int64), np.empty((0, dim), np.float32))


def get_vector(session: Session, model_id: int, annotation_id: int) -> Float32s | None:
    """float32 (D,): the annotation's vector in this space, or None."""
    vectors = vectors_of(session, model_id, [annotation_id])[1]
    return vectors[0] if len(vectors) else None


def count_vectors(session: Session, model_id: int) -> int:
    return int(
        fetch(session, "SELECT count(*) FROM embedding WHERE model_id = %s", [model_id])[0][0]
    )


FAILURE_ITEM = "a.id || CASE WHEN a.region_version > 0 THEN '@' || a.region_version ELSE '' END"
"""`failure_item` of the annotation `a`, in SQL."""
_MISSING = (
    "FROM annotation a JOIN media_asset m ON m.id = a.media_id"
    " WHERE NOT EXISTS (SELECT FROM embedding e"
    " WHERE e.model_id = :model AND e.annotation_id = a.id)"
    " AND (cast(:job AS uuid) IS NULL OR NOT EXISTS (SELECT FROM job_failure f"
    f" WHERE f.job_id = :job AND f.item = {FAILURE_ITEM}))"
)


def failure_item(annotation_id: int, region_version: int) -> str:
    """How a job's failures name an annotation: its id, with the version of a changed region, so
    that a failure speaks of the region that failed only."""
    return f"{annotation_id}@{region_version}" if region_version else str(annotation_id)


def missing(
    session: Session,
    model_id: int,
    limit: int | None = None,
    after_id: int = 0,
    until_id: int | None = None,
    among: Sequence[int] | None = None,
    job_id: UUID | None = None,
) -> list[MissingAnnotation]:
    """Annotations without a vector in this space, ascending by id, not counting those that failed
    in `job_id`; those after `after_id`, up to `until_id`, `among` these, and `limit` of them."""
    rows = session.execute(
        text(
            "SELECT a.id, a.media_id, m.sha256, a.region_version,"
            f" a.box_x_px, a.box_y_px, a.box_w_px, a.box_h_px {_MISSING}"
            " AND a.id > :after AND (cast(:until AS bigint) IS NULL OR a.id <= :until)"
            " AND (cast(:among AS bigint[]) IS NULL OR a.id = ANY(:among))"
            " ORDER BY a.id LIMIT :limit"
        ),
        {
            "model": model_id,
            "job": job_id,
            "after": after_id,
            "until": until_id,
            "among": None if among is None else list(among),
            "limit": limit,
        },
    )
    return [
        MissingAnnotation(
            annotation_id, media_id, sha256, None if x is None else (x, y, w, h), version
        )
        for annotation_id, media_id, sha256, version, x, y, w, h in rows
    ]


def count_missing(session: Session, model_id: int, job_id: UUID | None = None) -> int:
    """How many annotations have no vector in this space, not counting those that failed in
    `job_id`."""
    return int(
        session.execute(
            text(f"SELECT count(*) {_MISSING}"), {"model": model_id, "job": job_id}
        ).scalar_one()
    )


def missing_ranges(
    session: Session, model_id: int, size: int, job_id: UUID | None = None
) -> list[tuple[int, int, int]]:
    """(first id, last id, count) of the missing annotations in ranges of up to `size`, ascending;
    those that failed in `job_id` are not counted."""
    rows = session.execute(
        text(
            "SELECT min(id), max(id), count(*) FROM (SELECT a.id,"
            f" (row_number() OVER (ORDER BY a.id) - 1) / :size AS number {_MISSING}) numbered"
            " GROUP BY number ORDER BY number"
        ),
        {"model": model_id, "job": job_id, "size": size},
    )
    return [(first, last, count) for first, last, count in rows]
