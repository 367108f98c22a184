"""Owns the copies of spaces inside Milvus: filled from PostgreSQL, kept in step, switched by alias.

A collection holds every row of transactions before the horizon under which it is published, and
possibly newer ones: readers take what changed at or after their horizon from PostgreSQL
(`indexer.live`), and hide it in the copy. So a collection may be brought forward, or replaced by
another through its alias, under readers that know an older horizon. It can be dropped at any time.
"""

from __future__ import annotations

import hashlib
import logging
import time
from contextlib import closing
from dataclasses import dataclass
from uuid import uuid4

import numpy as np
from sqlalchemy import text
from sqlalchemy.orm import Session

from db.queries import ann, embeddings
from db.queries.ann import Published
from db.queries.copying import fetch, fetch_ids
from db.queries.embeddings import SpaceRow
from db.queries.search import (
    change_floor,
    nearest_rows,
    prune_changes,
    space_changes,
    space_ids,
    space_rows,
)
from indexer.live import Base, LiveSpace
from indexer.vector_index.milvus import MilvusCollection, MilvusIndex, MilvusServer
from indexer.vector_index.protocol import Ids, IndexGone, IndexUnavailable, unit_rows

log = logging.getLogger(__name__)

BACKEND = "milvus"
_BUILD_LOCK = 0x5E516878
"""First half of the advisory lock under which one process fills the copy of a space."""
_READ_ROWS = 8_192
_REFILL_SHARE = 0.5
"""If more than this share changed, a new collection is filled instead."""
_NEIGHBOURS = 10
_SPARE = 54
_WORK = 20_000_000
_MOST_QUERIES = 50
_COMPARED = 64
_WIDTHS = (100, 200, 400, 800)
_WANTED_RECALL = 0.99
STALENESS_S = 5.0
"""Milvus may answer with what it knew so long ago; a copy is published when that has passed."""


@dataclass(frozen=True, slots=True)
class _Names:
    """The alias of a space in one database, and the prefix of its collections."""

    alias: str

    @classmethod
    def of(cls, session: Session, space: SpaceRow) -> _Names:
        """Several databases may share one Milvus, and hold the same space."""
        (database,) = fetch(
            session,
            "SELECT (SELECT system_identifier FROM pg_control_system())::text || '/' || d.oid::text"
            " FROM pg_database d WHERE d.datname = current_database()",
        )[0]
        digest = hashlib.sha256(f"{database}/{space.fingerprint}".encode()).hexdigest()
        return cls(f"resight_{digest[:16]}")

    def new_collection(self) -> str:
        return f"{self.alias}_{uuid4().hex[:8]}"


class MilvusCopies:
    """Where the base of a space comes from, with the backend milvus."""

    def __init__(self, server: MilvusServer) -> None:
        self._server = server

    def base(self, session: Session, space: SpaceRow, old: LiveSpace | None) -> Base | None:
        """The published copy; filled, or brought forward, where it is missing or far behind.

        Raises:
            IndexUnavailable: Milvus does not answer, or gives other rows than it was given.
        """
        if old is not None and not old.stale:
            return None
        names = _Names.of(session, space)
        published = self._usable(session, space, names)
        if published is None or (old is not None and published.horizon_tx <= old.base.horizon):
            session.execute(
                text("SELECT pg_advisory_xact_lock(:lock, :model)"),
                {"lock": _BUILD_LOCK, "model": space.id},
            )
            published = self._usable(session, space, names)
            if published is None or (old is not None and published.horizon_tx <= old.base.horizon):
                published = self._forward(session, space, names, published)
                session.commit()
        return self._base_of(session, space, names, published)

    def _base_of(
        self, session: Session, space: SpaceRow, names: _Names, published: Published
    ) -> Base:
        ids, _ = space_ids(session, space.id)
        index = MilvusIndex(
            MilvusCollection(self._server, names.alias),
            ids,
            space.dim,
            approximate=published.report["index"] != "FLAT",
            ef_search=int(published.report["ef_search"]),
        )
        return Base(ids, index, published.horizon_tx, str(published.id), brought_forward=True)

    # ------------------------------------------------------------ trust

    def _usable(self, session: Session, space: SpaceRow, names: _Names) -> Published | None:
        """What is published, if Milvus still holds it and its changes since are on record."""
        published = ann.published_index(session, space.id, BACKEND)
        if published is None or published.digest != names.alias:
            return None
        if published.report.get("index") != self._server.at.index:
            return None
        horizon = published.horizon_tx
        if not change_floor(session) <= horizon <= embeddings.horizon(session):
            return None
        try:
            return published if self._holds(session, space, names, horizon) else None
        except IndexGone:
            return None

    def _holds(self, session: Session, space: SpaceRow, names: _Names, horizon: int) -> bool:
        """Whether the copy has as many rows as it must, and the newest of them to the last bit."""
        collection = MilvusCollection(self._server, names.alias)
        there = collection.count()
        old = "FROM embedding WHERE model_id = %s AND tx < %s::text::xid8"
        (must,) = fetch(session, f"SELECT count(*) {old}", [space.id, str(horizon)])[0]
        newest = fetch_ids(
            session,
            f"SELECT annotation_id AS id {old} ORDER BY tx DESC, annotation_id DESC"
            f" LIMIT {_COMPARED}",
            [space.id, str(horizon)],
        )
        rows = space_rows(session, space.id, newest, space.dim)
        ids, vectors = collection.rows(newest, space.dim)
        same = np.array_equal(ids, rows.ids) and np.array_equal(vectors, unit_rows(rows.vectors))
        if there >= must and same:
            return True
        log.warning(
            "Milvus holds %d of at least %d vectors of %s%s: they are filled in again.",
            there,
            must,
            space.fingerprint[:12],
            "" if same else ", and others than those written last",
        )
        return False

    # ------------------------------------------------------------ filling

    def _forward(
        self, session: Session, space: SpaceRow, names: _Names, published: Published | None
    ) -> Published:
        if published is None:
            return self._fill(session, space, names)
        changes = space_changes(session, space.id, published.horizon_tx)
        changed = np.unique(
            np.array([id_ for id_, _ in (*changes.written, *changes.altered)], dtype=np.int64)
        )
        if len(changed) > _REFILL_SHARE * max(published.vector_count, 1):
            return self._fill(session, space, names)
        collection = MilvusCollection(self._server, names.alias)
        self._bring(session, space, collection, changed)
        return self._publish(session, space, names, collection, changes.horizon)

    def _bring(
        self, session: Session, space: SpaceRow, collection: MilvusCollection, changed: Ids
    ) -> None:
        """What a deletion took away after it was read here is at or above the horizon taken
        before, so that readers hide it: deletes win."""
        for start in range(0, len(changed), _READ_ROWS):
            some = changed[start : start + _READ_ROWS]
            rows = space_rows(session, space.id, some, space.dim)
            if len(rows.ids):
                collection.put(rows.ids, unit_rows(rows.vectors))
            collection.delete(np.setdiff1d(some, rows.ids))
        collection.ready()

    def _fill(self, session: Session, space: SpaceRow, names: _Names) -> Published:
        """A new collection from PostgreSQL; the alias moves to it when it is whole."""
        # The horizon is taken first: what commits later is at or above it.
        horizon = embeddings.horizon(session)
        collection = MilvusCollection(self._server, names.new_collection())
        collection.create(
            space.dim, f"Resight {space.name} {space.version}, space {space.fingerprint}"
        )
        # Closed whatever happens: a reading that is left half-way blocks its connection for ever.
        with closing(embeddings.read_space_chunks(session, space.id, _READ_ROWS)) as chunks:
            for ids, vectors in chunks:
                collection.put(ids, unit_rows(vectors))
        collection.ready()
        published = self._publish(session, space, names, collection, horizon)
        self._switch(names, collection.name)
        return published

    def _switch(self, names: _Names, collection: str) -> None:
        there = self._server.call("list_collections")
        try:
            self._server.call("describe_alias", names.alias)
        except IndexGone:
            self._server.call("create_alias", collection, names.alias)
        else:
            self._server.call("alter_alias", collection, names.alias)
        for name in there:
            if name.startswith(f"{names.alias}_") and name != collection:
                self._server.call("drop_collection", name)

    def _publish(
        self,
        session: Session,
        space: SpaceRow,
        names: _Names,
        collection: MilvusCollection,
        horizon: int,
    ) -> Published:
        if "lite" not in str(self._server.call("get_server_version")):
            time.sleep(STALENESS_S)
        ids, _ = space_ids(session, space.id)
        ef_search, recall = self._measured(session, space, collection, ids, horizon)
        published = ann.publish_index(
            session,
            model_id=space.id,
            backend=BACKEND,
            vector_count=len(ids),
            horizon_tx=horizon,
            digest=names.alias,
            recall=recall,
            report={"index": self._server.at.index, "ef_search": ef_search, "recall": recall},
        )
        prune_changes(session)
        return published

    def _measured(
        self,
        session: Session,
        space: SpaceRow,
        collection: MilvusCollection,
        ids: Ids,
        horizon: int,
    ) -> tuple[int, float]:
        """(ef_search, share of the nearest ten that Milvus finds), against every row in PostgreSQL.

        Raises:
            IndexUnavailable: it compares with every row and finds others than PostgreSQL.
        """
        if not len(ids):
            return _WIDTHS[0], 1.0
        count = min(len(ids), _MOST_QUERIES, max(5, _WORK // len(ids)))
        chosen = ids[np.linspace(0, len(ids) - 1, count).astype(np.intp)]
        queries = unit_rows(space_rows(session, space.id, chosen, space.dim).vectors)
        oracle = [nearest_rows(session, space.id, query, _NEIGHBOURS) for query in queries]
        flat = self._server.at.index == "FLAT"
        recall = 0.0
        for ef_search in _WIDTHS:
            index = MilvusIndex(
                collection, ids, space.dim, approximate=not flat, ef_search=ef_search
            )
            given = [index.candidates(query[None, :], _NEIGHBOURS + _SPARE) for query in queries]
            # What others write meanwhile may be on one side only.
            changes = space_changes(session, space.id, horizon)
            young = np.array(
                [id_ for id_, _ in (*changes.written, *changes.altered)], dtype=np.int64
            )
            found = wanted = 0
            for some, (expected, cosines) in zip(given, oracle, strict=True):
                # By score and not by id: rows that tie are all as good.
                best = some.scores[0][~np.isin(some.ids[0], young)]
                least = cosines[~np.isin(expected, young)] - some.max_error
                m = min(len(best), len(least))
                found += int(np.sum(best[:m] >= least[:m]))
                wanted += len(least)
            recall = found / wanted if wanted else 1.0
            if flat or recall >= _WANTED_RECALL:
                break
        if flat and recall < 1.0:
            raise IndexUnavailable(
                f"Milvus at {self._server.at.uri} finds {recall:.1%} of the nearest vectors of "
                f"{space.name} though it compares with all of them; look into its log."
            )
        return ef_search, recall
