"""Owns one space in memory: a base that never changes and a delta kept in step with PostgreSQL.

Every search asks PostgreSQL what changed since the last look, so that what one process commits is
found by the next request of every process. What changed leaves the base and, while it still has
a vector, joins the delta, which is compared with exactly.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from sqlalchemy.orm import Session

from db.queries import embeddings
from db.queries.embeddings import SpaceRow
from db.queries.search import SpaceChanges, SpaceRows, space_changes, space_ids, space_rows
from indexer.snapshot import Snapshot
from indexer.vector_index.exact import ExactIndex
from indexer.vector_index.protocol import (
    NO_IDS,
    Ids,
    Part,
    VectorIndex,
    Vectors,
    positions_of,
    unit_rows,
)

STALE_ROWS = 5_000
STALE_SHARE = 0.1
"""A delta above both 5,000 rows and a tenth of the base is worth a new snapshot: scanning it
then costs more than a tenth of a scan, and rebuilding a small space costs little."""


@dataclass(frozen=True, slots=True, eq=False)
class Base:
    """Vectors as of `horizon`: `ids` int64 (N,) ascending. `snapshot` is None for one in memory.

    The index may hold rows that are newer than the horizon too. With `index` None no vector is
    kept here: the ids serve to count, and PostgreSQL itself is searched.
    """

    ids: Ids
    index: VectorIndex | None
    horizon: int
    snapshot: str | None
    brought_forward: bool = False
    """Renewing it costs what has changed, and not a new build."""


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """What one search sees. `eligible` of the vectors belong to an annotation with an individual;
    `delta` of them are newer than the base."""

    parts: tuple[Part, ...]
    size: int
    eligible: int
    delta: int
    snapshot: str | None


@dataclass(frozen=True, slots=True, eq=False)
class _State:
    base: Base
    base_labelled: NDArray[np.bool_]
    hidden: Ids
    """Annotations that changed since the base, ascending, whether or not they were in it."""
    delta_ids: Ids
    delta_vectors: Vectors
    delta_labelled: NDArray[np.bool_]
    horizon: int
    seen: frozenset[tuple[str, int, int]]
    """Changes at or above the horizon that are in here already: (kind, annotation, transaction)."""
    view: View


class Outrun(Exception):
    """The changes since the space was last looked at are no longer on record: read it again."""


def memory_base(session: Session, space: SpaceRow) -> Base:
    """The whole space in memory, in float32."""
    ids, vectors, horizon = embeddings.read_space(session, space.id)
    return Base(ids, ExactIndex(ids, unit_rows(vectors)), horizon, None)


def counting_base(session: Session, space: SpaceRow) -> Base:
    """The ids of the space alone, for an index that lies in PostgreSQL."""
    ids, horizon = space_ids(session, space.id)
    return Base(ids, None, horizon, None)


def snapshot_base(snapshot: Snapshot) -> Base:
    """The space as of a snapshot."""
    manifest = snapshot.manifest
    return Base(snapshot.ids, snapshot.index, manifest.horizon_tx, manifest.id)


class LiveSpace:
    """One space as PostgreSQL has it now. Safe for concurrent searches; replaced, never mutated,
    when its base is."""

    def __init__(self, session: Session, space: SpaceRow, base: Base) -> None:
        """Reads which annotations of the base have an individual."""
        self.space = space
        self._lock = threading.Lock()
        labelled = np.zeros(len(base.ids), dtype=np.bool_)
        labelled[positions_of(base.ids, embeddings.eligible_ids(session, space.id))] = True
        self._state = _with_view(
            _State(
                base=base,
                base_labelled=labelled,
                hidden=NO_IDS,
                delta_ids=NO_IDS,
                delta_vectors=np.zeros(
                    (0, 0 if base.index is None else space.dim), dtype=np.float32
                ),
                delta_labelled=np.zeros(0, dtype=np.bool_),
                horizon=base.horizon,
                seen=frozenset(),
                view=View((), 0, 0, 0, None),
            )
        )

    @property
    def view(self) -> View:
        """What the last search saw."""
        return self._state.view

    @property
    def base(self) -> Base:
        return self._state.base

    @property
    def stale(self) -> bool:
        """Whether a new base is worth its cost."""
        base = self._state.base
        changed = max(len(self._state.delta_ids), len(self._state.hidden))
        share = 0.0 if base.brought_forward else STALE_SHARE
        return changed > max(STALE_ROWS, share * len(base.ids))

    def catch_up(self, session: Session) -> View:
        """What the session's transaction sees now, its own uncommitted rows included.

        Raises:
            Outrun: nobody looked for so long that the changes since are not known any more.
            NotFound: the space was dropped.
        """
        state = self._state
        changes = self._changes(session, state)
        if not _unseen(changes, state):
            self._advance(changes)
            return state.view
        if _own(changes):
            # What is not committed yet may never be: nobody else is to see it.
            return self._applied(session, state, changes).view
        with self._lock:
            # Asked again under the lock, changes are applied in the order they are seen.
            state = self._state
            changes = self._changes(session, state)
            if _own(changes):
                return self._applied(session, state, changes).view
            self._state = self._applied(session, state, changes)
            return self._state.view

    def _changes(self, session: Session, state: _State) -> SpaceChanges:
        changes = space_changes(session, self.space.id, state.horizon)
        if state.horizon < changes.floor:
            raise Outrun(self.space.fingerprint)
        return changes

    def _advance(self, changes: SpaceChanges) -> None:
        if changes.horizon <= self._state.horizon:
            return
        with self._lock:
            if changes.horizon > self._state.horizon:
                seen = frozenset(c for c in self._state.seen if c[2] >= changes.horizon)
                self._state = replace(self._state, horizon=changes.horizon, seen=seen)

    def _applied(self, session: Session, state: _State, changes: SpaceChanges) -> _State:
        unseen = _unseen(changes, state)
        ids = np.unique(np.array([id_ for _, id_, _ in unseen], dtype=np.int64))
        if len(ids):
            dim = 0 if state.base.index is None else self.space.dim
            rows = space_rows(session, self.space.id, ids, dim)
            state = _changed(state, ids, rows)
        # A change that is open to nobody any more need not be remembered.
        seen = frozenset(c for c in state.seen | unseen if c[2] >= changes.horizon)
        return replace(state, horizon=max(state.horizon, changes.horizon), seen=seen)


def _all_of(changes: SpaceChanges) -> Iterable[tuple[str, int, int]]:
    yield from (("written", id_, tx) for id_, tx in changes.written)
    yield from (("altered", id_, tx) for id_, tx in changes.altered)


def _unseen(changes: SpaceChanges, state: _State) -> frozenset[tuple[str, int, int]]:
    if not changes.written and not changes.altered:
        return frozenset()
    return frozenset(_all_of(changes)) - state.seen


def _own(changes: SpaceChanges) -> bool:
    return any(tx == changes.own_tx for _, _, tx in _all_of(changes))


def _changed(state: _State, ids: Ids, rows: SpaceRows) -> _State:
    kept = ~np.isin(state.delta_ids, ids)
    vectors = rows.vectors if state.base.index is None else unit_rows(rows.vectors)
    return _with_view(
        replace(
            state,
            hidden=np.union1d(state.hidden, ids),
            delta_ids=np.concatenate([state.delta_ids[kept], rows.ids]),
            delta_vectors=np.concatenate([state.delta_vectors[kept], vectors]),
            delta_labelled=np.concatenate([state.delta_labelled[kept], rows.labelled]),
        )
    )


def _with_view(state: _State) -> _State:
    base = state.base
    hidden = positions_of(base.ids, state.hidden)
    in_base = np.count_nonzero(state.base_labelled) - np.count_nonzero(state.base_labelled[hidden])
    parts = []
    if base.index is not None and len(base.ids):
        parts.append(Part(base.index, state.hidden))
    if base.index is not None and len(state.delta_ids):
        parts.append(Part(ExactIndex(state.delta_ids, state.delta_vectors)))
    view = View(
        parts=tuple(parts),
        size=len(base.ids) - len(hidden) + len(state.delta_ids),
        eligible=int(in_base + np.count_nonzero(state.delta_labelled)),
        delta=len(state.delta_ids),
        snapshot=base.snapshot,
    )
    return replace(state, view=view)
