"""Owns the search inside Milvus: a connection, a space's collection, and candidates from it.

pymilvus is an extra and is imported when the first connection is made. Whatever Milvus answers but
rows is an error with its reason: an outage never looks like an empty space.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from db.deadline import seconds_left
from indexer.vector_index.protocol import (
    NO_IDS,
    Candidates,
    Ids,
    IndexGone,
    IndexTimeout,
    IndexUnavailable,
    Scores,
    Vectors,
    best_first,
    float32_error,
)

IndexKind = Literal["FLAT", "HNSW"]

M = 16
EF_CONSTRUCTION = 200

_CONNECT_S = 3.0
_CALL_S = 30.0
"""Longest call where the caller has no deadline."""
_MOST_ROWS = 16_384
"""Milvus gives no more rows than this in one answer."""
_FILTER_IDS = 16_384
"""Ids in one filter expression, which Milvus parses as text."""
_FETCH_IDS = 1_024
_INSERT_BYTES = 2**24
_NOT_FOUND = (100, 1600)
"""Of a collection, and of an alias."""
_NOT_LOADED = 101
_CHANNEL = {"grpc.keepalive_permit_without_calls": False, "grpc.keepalive_time_ms": 2**31 - 1}
"""No pings: pymilvus would ping each idle connection every ten seconds, and a server that is not
configured for that hangs up ("too many pings"). Here every call has a deadline of its own."""


@dataclass(frozen=True, slots=True)
class MilvusAt:
    """Where Milvus is and how it searches. `FLAT` compares with every row, on as many machines as
    Milvus has; `HNSW` is faster and finds most."""

    uri: str
    token: str = ""
    index: IndexKind = "FLAT"


def _pymilvus() -> Any:
    try:
        import pymilvus
    except ImportError as problem:
        raise IndexUnavailable(
            "The search backend is milvus, and its client is not installed; install it with "
            "`pip install 'resight[milvus]'`."
        ) from problem
    return pymilvus


class MilvusServer:
    """A connection, made at the first call and again after an outage. Safe for many threads."""

    def __init__(self, at: MilvusAt) -> None:
        self.at = at
        self._lock = threading.Lock()
        self._client: Any = None

    def call(self, name: str, *args: Any, timeout: float = _CALL_S, **options: Any) -> Any:
        """The answer of `MilvusClient.name(…)`, within the deadline of the calling thread.

        Raises:
            IndexGone: the collection or alias does not exist.
            IndexTimeout: Milvus did not answer in time.
            IndexUnavailable: Milvus is not there or refuses.
        """
        left = seconds_left()
        limit = timeout if left is None else min(timeout, left)
        if limit <= 0:
            raise IndexTimeout(f"Milvus at {self.at.uri} was not asked in time.")
        client = self._connected(min(limit, _CONNECT_S))
        try:
            return getattr(client, name)(*args, timeout=limit, **options)
        except Exception as problem:
            raise self._translated(problem) from problem

    def close(self) -> None:
        with self._lock:
            client, self._client = self._client, None
        if client is not None:
            client.close()

    def _connected(self, timeout: float) -> Any:
        with self._lock:
            if self._client is None:
                self._client = self._connect(timeout)
            return self._client

    def _connect(self, timeout: float) -> Any:
        pymilvus = _pymilvus()
        # Each failed call is logged there with two pages of traceback; here it becomes one error.
        logging.getLogger("pymilvus").setLevel(logging.CRITICAL)
        try:
            return pymilvus.MilvusClient(
                uri=self.at.uri, token=self.at.token, timeout=timeout, grpc_options=_CHANNEL
            )
        except Exception as problem:
            raise self._translated(problem) from problem

    def _translated(self, problem: Exception) -> Exception:
        code = getattr(problem, "code", None)
        words = str(getattr(problem, "message", None) or problem).strip().splitlines()
        reason = words[0] if words else type(problem).__name__
        if code in _NOT_FOUND or "not exist" in reason or "can't find collection" in reason:
            return IndexGone(f"Milvus at {self.at.uri} lacks the vectors ({reason}).")
        if "DEADLINE_EXCEEDED" in str(problem) or "timeout" in reason.lower():
            return IndexTimeout(f"Milvus at {self.at.uri} did not answer in time ({reason}).")
        return IndexUnavailable(
            f"Milvus at {self.at.uri} does not answer ({reason}); start it, or choose another "
            "RESIGHT_SEARCH_BACKEND."
        )


class MilvusCollection:
    """The copy of a space: unit vectors by annotation id, under a name or an alias."""

    def __init__(self, server: MilvusServer, name: str) -> None:
        self._server = server
        self.name = name

    def create(self, dim: int, description: str) -> None:
        """Make it, empty, with its index."""
        pymilvus = _pymilvus()
        schema = pymilvus.CollectionSchema(
            [
                pymilvus.FieldSchema("id", pymilvus.DataType.INT64, is_primary=True),
                pymilvus.FieldSchema("v", pymilvus.DataType.FLOAT_VECTOR, dim=dim),
            ],
            description=description,
        )
        index = pymilvus.MilvusClient.prepare_index_params()
        how = {"M": M, "efConstruction": EF_CONSTRUCTION}
        kind = self._server.at.index
        index.add_index(
            field_name="v",
            index_type=kind,
            metric_type="IP",
            params=how if kind == "HNSW" else {},
        )
        self._server.call(
            "create_collection",
            self.name,
            schema=schema,
            index_params=index,
            consistency_level="Bounded",
        )

    def put(self, ids: Ids, vectors: Vectors) -> None:
        """Insert rows or replace them."""
        block = max(1, _INSERT_BYTES // (4 * vectors.shape[1]))
        for start in range(0, len(ids), block):
            rows = slice(start, start + block)
            self._server.call(
                "upsert",
                self.name,
                [
                    {"id": id_, "v": vector}
                    for id_, vector in zip(ids[rows].tolist(), vectors[rows], strict=True)
                ],
                timeout=300.0,
            )

    def delete(self, ids: Ids) -> None:
        for some in _blocks(ids, _FETCH_IDS):
            self._server.call("delete", self.name, ids=some.tolist(), timeout=300.0)

    def ready(self) -> None:
        """Everything put so far can be searched when this returns."""
        self._server.call("flush", self.name, timeout=3600.0)
        self.load()

    def load(self) -> None:
        self._server.call("load_collection", self.name, timeout=3600.0)

    def count(self, allowed: Ids | None = None) -> int:
        """Rows there are now, among the allowed ones."""
        if allowed is None:
            return self._count("id >= 0")
        return sum(self._count(_among(some)) for some in _blocks(allowed, _FILTER_IDS))

    def _count(self, condition: str) -> int:
        rows = self.ask(
            "query", filter=condition, output_fields=["count(*)"], consistency_level="Strong"
        )
        return int(rows[0]["count(*)"])

    def rows(self, ids: Ids, dim: int) -> tuple[Ids, Vectors]:
        """Those of the ids that are there, ascending, with their vectors (m, dim)."""
        found = [
            row
            for some in _blocks(ids, _FETCH_IDS)
            for row in self.ask("query", ids=some.tolist(), output_fields=["id", "v"])
        ]
        held = np.array([row["id"] for row in found], dtype=np.int64)
        vectors = np.array([row["v"] for row in found], dtype=np.float32).reshape(len(held), dim)
        order = np.argsort(held)
        return held[order], vectors[order]

    def search(
        self, queries: Vectors, n: int, condition: str, ef_search: int
    ) -> list[tuple[Ids, Scores]]:
        """Up to n rows for each query, best first by Milvus's own scores."""
        params = {"ef": max(ef_search, n)} if self._server.at.index == "HNSW" else {}
        answers = self.ask(
            "search",
            data=list(queries),
            anns_field="v",
            limit=n,
            filter=condition,
            output_fields=["id"],
            search_params={"metric_type": "IP", "params": params},
            consistency_level="Bounded",
        )
        return [
            (
                np.array([hit["id"] for hit in answer], dtype=np.int64),
                np.array([hit["distance"] for hit in answer], dtype=np.float32),
            )
            for answer in answers
        ]

    def ask(self, name: str, **options: Any) -> Any:
        """A call that reads; a collection that a restart of Milvus has put aside is loaded."""
        try:
            return self._server.call(name, self.name, **options)
        except IndexUnavailable as problem:
            if getattr(problem.__cause__, "code", None) != _NOT_LOADED:
                raise
        self.load()
        return self._server.call(name, self.name, **options)


class MilvusIndex:
    """A space inside Milvus. Read-only; the collection behind it may come to hold newer rows."""

    def __init__(
        self, collection: MilvusCollection, ids: Ids, dim: int, *, approximate: bool, ef_search: int
    ) -> None:
        """`ids` int64 (N,) ascending are those of the space."""
        self._collection = collection
        self._ids = ids
        self._dim = dim
        self._approximate = approximate
        self._ef_search = ef_search

    @property
    def size(self) -> int:
        return len(self._ids)

    def candidates(self, queries: Vectors, n: int, allowed: Ids | None = None) -> Candidates:
        """As the protocol says.

        Raises:
            IndexUnavailable: Milvus does not answer, or gives fewer rows than it holds.
        """
        queries = np.ascontiguousarray(queries, dtype=np.float32)
        among = self._ids if allowed is None else allowed
        found: list[tuple[Ids, Scores]] = [(NO_IDS, np.zeros(0, np.float32)) for _ in queries]
        for condition, most in self._conditions(n, allowed):
            answers = self._collection.search(queries, most, condition, self._ef_search)
            found = [_merged(old, new, n) for old, new in zip(found, answers, strict=True)]
        m = min(len(ids) for ids, _ in found)
        if m < min(n, len(among)):
            self._check_complete(m, n, allowed)
        return Candidates(
            ids=np.stack([ids[:m] for ids, _ in found]),
            scores=np.stack([scores[:m] for _, scores in found]),
            max_error=2 * float32_error(self._dim),
            approximate=self._approximate,
        )

    def fetch(self, ids: Ids) -> tuple[Ids, Vectors]:
        return self._collection.rows(ids, self._dim)

    def _conditions(self, n: int, allowed: Ids | None) -> Iterator[tuple[str, int]]:
        """(filter expression, rows to ask for), together all that is asked for."""
        if allowed is not None:
            for some in _blocks(allowed, _FILTER_IDS):
                yield _among(some), min(n, len(some))
        elif n <= _MOST_ROWS:
            yield "", n
        else:
            # Block by block: more than this Milvus never gives at once. Half as many, since rows
            # that are newer than these ids may lie between them.
            for some in _blocks(self._ids, _MOST_ROWS // 2):
                yield f"id >= {some[0]} and id <= {some[-1]}", _MOST_ROWS

    def _check_complete(self, m: int, n: int, allowed: Ids | None) -> None:
        """Rows deleted since may be gone from the collection; others may not be left out."""
        there = self._collection.count(allowed)
        if m < min(n, there) and not self._approximate:
            raise IndexUnavailable(
                f"Milvus gave {m} of {min(n, there)} rows of {self._collection.name}; see its log."
            )
        if m < min(n, there):
            raise IndexUnavailable(
                f"Milvus's index found only {m} of {min(n, there)} rows; ask for fewer "
                "individuals, or set RESIGHT_MILVUS_INDEX=FLAT."
            )


def _blocks(ids: Ids, size: int) -> Iterator[Ids]:
    for start in range(0, len(ids), size):
        yield ids[start : start + size]


def _among(ids: Ids) -> str:
    return f"id in {ids.tolist()}"


def _merged(old: tuple[Ids, Scores], new: tuple[Ids, Scores], n: int) -> tuple[Ids, Scores]:
    ids = np.concatenate([old[0], new[0]])
    scores = np.concatenate([old[1], new[1]])
    order = best_first(ids, scores)[:n]
    return ids[order], scores[order]
