"""Owns the ways to search: the spaces that are searched, by which backend, and what can go wrong.

The answer is the same whatever the backend, and a search that cannot run to its end is an error.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psycopg
from sqlalchemy import exc
from sqlalchemy.orm import Session, sessionmaker

from db.deadline import DeadlineExceeded, deadline
from db.errors import NotFound
from db.queries import embeddings
from db.queries.ann import usable_ann
from db.queries.embeddings import SpaceRow
from indexer import ann
from indexer.live import View
from indexer.milvus import MilvusCopies
from indexer.ranking import SUPPORT_DEPTH as SUPPORT_DEPTH
from indexer.ranking import Excluded as Excluded
from indexer.ranking import Fuse as Fuse
from indexer.ranking import MatchHit as MatchHit
from indexer.ranking import OneSearch, Watch
from indexer.ranking import Receipt as Receipt
from indexer.ranking import SearchRequest as SearchRequest
from indexer.ranking import SearchResult as SearchResult
from indexer.shelf import Counted, Loading, Memory, Shelf, Snapshots, Source
from indexer.true_matches import Histogram as Histogram
from indexer.true_matches import TrueMatchDistribution as TrueMatchDistribution
from indexer.true_matches import TrueMatches
from indexer.vector_index.milvus import MilvusAt, MilvusServer
from indexer.vector_index.pgvector import PgVectorIndex
from indexer.vector_index.protocol import (
    IndexGone,
    IndexTimeout,
    IndexUnavailable,
    Part,
    unit_rows,
)

Backend = Literal["faiss", "exact", "pgvector", "milvus"]
_ALIVE_S = 2.0


class SearchError(Exception):
    """A search that gave no answer. `str()` says why and what to do."""


class WrongSpace(SearchError):
    """The vectors are not of a space that can be searched."""


class SearchUnavailable(SearchError):
    """The database or Milvus does not answer, or the space is still being loaded."""


class SearchTimeout(SearchError):
    """The search did not end within its time."""


@dataclass(frozen=True, slots=True)
class SearcherStatus:
    """`reason` says why it is not ready. `size` vectors, `delta` of them newer than `snapshot`."""

    ready: bool
    reason: str | None
    fingerprint: str | None
    snapshot: str | None
    size: int
    delta: int


class Searcher:
    """Searches any registered space. Thread-safe; several processes may share the folder."""

    def __init__(
        self,
        sessions: sessionmaker[Session],
        snapshots_dir: Path,
        backend: Backend = "faiss",
        milvus: MilvusAt | None = None,
    ) -> None:
        """Opens nothing yet. `sessions` are for work of its own, in the background.

        Raises:
            ValueError: the backend is milvus, and `milvus` does not say where that is.
        """
        self._sessions = sessions
        self._backend = backend
        # Measuring waits for loading, so the two never share a thread.
        self._loading = ThreadPoolExecutor(1, thread_name_prefix="searcher-load")
        self._measuring = ThreadPoolExecutor(1, thread_name_prefix="searcher-measure")
        self._milvus = MilvusServer(milvus) if milvus is not None else None
        source = _source(backend, snapshots_dir, self._milvus)
        self._shelf = Shelf(sessions, source, self._loading)
        self._true_matches = TrueMatches(sessions, self._measuring, self._view)
        self._repairs = ann.Repairs(sessions)

    def ensure(self, fingerprint: str) -> None:
        """Load the space, building its snapshot if there is none that can be trusted; blocks.

        Raises:
            WrongSpace: no space has this fingerprint.
            SearchUnavailable: the database or Milvus does not answer.
        """
        with _failures(), self._sessions() as session:
            space = _space_of(session, fingerprint)
            self._shelf.live(space, timeout_s=None)
        if self._backend == "pgvector":
            self._repairs.soon()
        self._true_matches.measure_soon(space)

    def refresh(self, fingerprint: str | None = None) -> None:
        """Build a new snapshot now if enough changed; of the space given, or of the active one.

        Raises:
            SearchUnavailable: the database or Milvus does not answer.
        """
        with _failures(), self._sessions() as session:
            space = _space_or_active(session, fingerprint)
            if space is not None:
                self._shelf.refresh(space)

    def release(self, fingerprint: str) -> None:
        """Let the memory of a space go; whoever searches it again loads it again."""
        self._shelf.release(fingerprint)

    def search(self, session: Session, request: SearchRequest) -> SearchResult:
        """The k individuals nearest to the query, by score descending, then individual id.

        Fewer than k only if there are no more. Reads through `session` alone, so it sees what the
        caller's transaction sees; after an error other than `WrongSpace`, roll that back.

        Raises:
            WrongSpace: no such space, or vectors of another dimension.
            SearchTimeout: it took longer than `timeout_s`.
            SearchUnavailable: the database or Milvus does not answer, or the space is still being
                loaded.
            ValueError: k below 1, no vector, or one that is zero or not finite.
        """
        if request.k < 1:
            raise ValueError(f"k is at least 1, got {request.k}")
        queries = unit_rows(request.vectors)
        if not len(queries):
            raise ValueError("a search needs at least one vector")
        watch = Watch()
        with _failures(request.timeout_s), deadline(request.timeout_s):
            space = self._known_space(session, request.fingerprint)
            if queries.shape[1] != space.dim:
                raise WrongSpace(
                    f"The vector has {queries.shape[1]} dimensions, the space of {space.name} "
                    f"{space.version} has {space.dim}; embed the photo with that model."
                )
            view = self._view(session, space, request.timeout_s)
            watch.stage("changes")
            try:
                return OneSearch(session, space, view, request, queries, watch).run()
            except IndexGone:
                # Whoever asks next fills it again.
                self._shelf.release(space.fingerprint)
                raise

    def true_match_distribution(
        self, session: Session, fingerprint: str | None = None, view: View | None = None
    ) -> TrueMatchDistribution:
        """How annotations of this space score with their own individual in another encounter.

        Measured in the background, at once only where that is quick; until then it is empty
        (`n` is 0). The space given, or the active one; `view` is that of a search of it in the
        same transaction, where there was one.
        """
        with _failures():
            if fingerprint is not None:
                space = self._known_space(session, fingerprint)
            else:
                active = embeddings.active_space(session)
                if active is None:
                    return TrueMatchDistribution.empty()
                space = active
            return self._true_matches.get(session, space, view or self._view(session, space))

    def status(self, fingerprint: str | None = None) -> SearcherStatus:
        """Whether a search of the space (the active one for None) would be answered."""
        try:
            with _failures(), self._sessions() as session:
                space = _space_or_active(session, fingerprint)
                if space is None:
                    return SearcherStatus(False, "No space is active yet.", None, None, 0, 0)
                if self._milvus is not None:
                    self._milvus.call("get_server_version", timeout=_ALIVE_S)
        except SearchError as problem:
            return SearcherStatus(False, str(problem), fingerprint, None, 0, 0)
        live, reason = self._shelf.state_of(space)
        if live is None:
            return SearcherStatus(False, reason, space.fingerprint, None, 0, 0)
        view = live.view
        return SearcherStatus(True, None, space.fingerprint, view.snapshot, view.size, view.delta)

    def close(self) -> None:
        """Ends the background work; a snapshot under way is finished first."""
        self._repairs.close()
        self._measuring.shutdown(wait=True, cancel_futures=True)
        self._loading.shutdown(wait=True, cancel_futures=True)
        if self._milvus is not None:
            self._milvus.close()

    def _known_space(self, session: Session, fingerprint: str) -> SpaceRow:
        return self._shelf.known(fingerprint) or _space_of(session, fingerprint)

    def _view(self, session: Session, space: SpaceRow, timeout_s: float | None = None) -> View:
        try:
            view = self._shelf.view(session, space, timeout_s)
        except NotFound as problem:
            self._shelf.release(space.fingerprint)
            raise WrongSpace(problem.detail) from problem
        if self._backend == "pgvector":
            return self._in_postgres(session, space, view)
        return view

    def _in_postgres(self, session: Session, space: SpaceRow, view: View) -> View:
        published = usable_ann(session, space.id)
        if published is None:
            self._repairs.soon()
        use = ann.use_of(published, view.size)
        snapshot = str(published.id) if published is not None and use is not None else None
        index = PgVectorIndex(session, space.id, space.dim, view.size, use)
        return View((Part(index),), view.size, view.eligible, 0, snapshot)


def _source(backend: Backend, snapshots_dir: Path, milvus: MilvusServer | None) -> Source:
    match backend:
        case "exact":
            return Memory()
        case "pgvector":
            return Counted()
        case "milvus":
            if milvus is None:
                raise ValueError("the backend milvus needs RESIGHT_MILVUS_URI to say where it is")
            return MilvusCopies(milvus)
        case "faiss":
            return Snapshots(snapshots_dir)


def _space_of(session: Session, fingerprint: str) -> SpaceRow:
    try:
        return embeddings.get_space(session, fingerprint)
    except NotFound as problem:
        raise WrongSpace(problem.detail) from problem


def _space_or_active(session: Session, fingerprint: str | None) -> SpaceRow | None:
    if fingerprint is None:
        return embeddings.active_space(session)
    return _space_of(session, fingerprint)


@contextmanager
def _failures(timeout_s: float | None = None) -> Iterator[None]:
    """Turns a database that is slow, gone or busy into the errors of a search."""
    try:
        yield
    except IndexTimeout as problem:
        raise SearchTimeout(str(problem)) from problem
    except IndexUnavailable as problem:
        raise SearchUnavailable(str(problem)) from problem
    except Loading as problem:
        raise SearchUnavailable(
            "The vectors are still being loaded; try again in a moment."
        ) from problem
    except exc.TimeoutError as problem:
        raise SearchUnavailable(
            "Every connection to the database is in use; try again in a moment."
        ) from problem
    except (exc.DBAPIError, psycopg.Error) as problem:
        cause = problem.orig if isinstance(problem, exc.DBAPIError) else problem
        if isinstance(cause, DeadlineExceeded | psycopg.errors.QueryCanceled):
            limit = "" if timeout_s is None else f" within {timeout_s:g} s"
            raise SearchTimeout(
                f"The search did not end{limit}; narrow it with filters or try again."
            ) from problem
        if isinstance(cause, psycopg.OperationalError | psycopg.InterfaceError):
            raise SearchUnavailable(
                f"The database does not answer ({str(cause).strip()}); see /ready or run "
                "`resight doctor`."
            ) from problem
        raise
