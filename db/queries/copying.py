"""Bulk transport of ids and vectors: PostgreSQL's binary COPY to and from NumPy arrays."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from typing import Any

import numpy as np
import psycopg
from numpy.typing import NDArray
from psycopg import sql
from sqlalchemy.orm import Session

from db.errors import translated

Int64s = NDArray[np.int64]
Float32s = NDArray[np.float32]
Query = str | sql.Composed
Parameters = Sequence[Any] | Mapping[str, Any] | None

# The format, from the manual's page on COPY: signature, flags and extension length, then per row
# a 16-bit field count and per field a 32-bit length and its bytes, all big-endian; then -1.
_HEADER = b"PGCOPY\n\xff\r\n\x00" + bytes(8)
_TRAILER = b"\xff\xff"


def connection_of(session: Session) -> psycopg.Connection[Any]:
    """The psycopg connection of the session's transaction, for what SQLAlchemy is too slow for."""
    connection = session.connection().connection.driver_connection
    if not isinstance(connection, psycopg.Connection):
        raise TypeError(f"the session is not on psycopg 3 but on {type(connection)}")
    return connection


@translated()
def fetch(session: Session, query: Query, parameters: Parameters = None) -> list[tuple[Any, ...]]:
    """All rows of a statement, transferred in binary."""
    with connection_of(session).cursor(binary=True) as cursor:
        return cursor.execute(query, parameters).fetchall()


def as_ids(ids: Sequence[int] | Int64s) -> Int64s:
    """A contiguous 1-D int64 array."""
    array = np.ascontiguousarray(ids, dtype=np.int64)
    if array.ndim != 1:
        raise ValueError(f"ids are 1-D, got shape {array.shape}")
    return array


def id_array(ids: Int64s) -> str:
    """The ids as PostgreSQL's text form of `bigint[]`."""
    return "{" + ",".join(map(str, ids.tolist())) + "}"


def fetch_ids(session: Session, query: str, parameters: Parameters = None) -> Int64s:
    """int64 (N,) ascending: the `id` of every row of a statement, none of them null."""
    # One value of packed bytes: reading a row at a time would take longer than finding them.
    packed = f"SELECT string_agg(int8send(id), ''::bytea ORDER BY id) FROM ({query}) found"
    ids = fetch(session, packed, parameters)[0][0]
    return np.frombuffer(ids or b"", dtype=">i8").astype(np.int64)


def copy_vectors(
    session: Session, query: Query, parameters: Parameters, dim: int, chunk: int
) -> Generator[tuple[Int64s, Float32s], None, None]:
    """(ids int64 (n,), vectors float32 (n, dim)) with n ≤ `chunk`, of a statement with the columns
    `bigint` and `vector`; memory stays at one chunk."""
    row = _vector_row(dim)
    connection = connection_of(session)
    statement = _copy_out(connection, query, parameters)
    with connection.cursor() as cursor, cursor.copy(statement) as copy:
        pending = bytearray()
        start = len(_HEADER)
        for block in copy:
            pending += block
            if len(pending) >= start + chunk * row.itemsize:
                yield _unpack(pending, start, chunk, row)
                del pending[: start + chunk * row.itemsize]
                start = 0
        count = (len(pending) - start - len(_TRAILER)) // row.itemsize
        if count > 0:
            yield _unpack(pending, start, count, row)


def pack_vectors(ids: Int64s, vectors: Float32s) -> bytes:
    """The COPY input of two columns, `bigint` and `vector`."""
    count, dim = vectors.shape
    rows = np.empty(count, dtype=_vector_row(dim))
    rows["fields"], rows["id_size"], rows["id"] = 2, 8, ids
    rows["v_size"], rows["dim"], rows["unused"], rows["v"] = 4 + 4 * dim, dim, 0, vectors
    return _HEADER + rows.tobytes() + _TRAILER


def _copy_out(connection: psycopg.Connection[Any], query: Query, parameters: Parameters) -> bytes:
    # COPY takes no server-side parameters, so the client writes them into the statement.
    bound = psycopg.ClientCursor(connection).mogrify(query, parameters)
    return f"COPY ({bound}) TO STDOUT (FORMAT binary)".encode()


def _vector_row(dim: int) -> np.dtype[np.void]:
    return np.dtype(
        [
            ("fields", ">i2"),
            ("id_size", ">i4"),
            ("id", ">i8"),
            ("v_size", ">i4"),
            ("dim", ">i2"),
            ("unused", ">i2"),
            ("v", ">f4", (dim,)),
        ]
    )


def _unpack(
    payload: bytearray, start: int, count: int, row: np.dtype[np.void]
) -> tuple[Int64s, Float32s]:
    rows = np.frombuffer(bytes(payload[start : start + count * row.itemsize]), dtype=row)
    return rows["id"].astype(np.int64), rows["v"].astype(np.float32)
