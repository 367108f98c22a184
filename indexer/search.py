"""Owns a search: from query vectors to k distinct individuals, with a receipt of how.

Candidates come in their exact order (`vector_index.protocol.settle`), get their labels from
PostgreSQL, and are grouped until k individuals are complete or the space is exhausted. The answer
is the same whatever the backend, and a search that cannot run to its end is an error.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal
from uuid import UUID

import numpy as np
import psycopg
from sqlalchemy import exc
from sqlalchemy.orm import Session, sessionmaker

from db.deadline import DeadlineExceeded, deadline
from db.errors import NotFound
from db.queries import embeddings
from db.queries.ann import usable_ann
from db.queries.embeddings import SpaceRow
from db.queries.filters import SearchFilters
from db.queries.search import LeftOut, left_out
from indexer import ann
from indexer.live import View
from indexer.milvus import MilvusCopies
from indexer.shelf import Counted, Loading, Memory, Shelf, Snapshots, Source
from indexer.true_matches import Histogram as Histogram
from indexer.true_matches import TrueMatchDistribution as TrueMatchDistribution
from indexer.true_matches import TrueMatches
from indexer.vector_index.milvus import MilvusAt, MilvusServer
from indexer.vector_index.pgvector import PgVectorIndex
from indexer.vector_index.protocol import (
    NO_IDS,
    Ids,
    IndexGone,
    IndexTimeout,
    IndexUnavailable,
    Part,
    Settled,
    Vectors,
    settle,
    unit_rows,
)

Backend = Literal["faiss", "exact", "pgvector", "milvus"]

SUPPORT_DEPTH = 10
"""`supporting` counts the photos that score at least as high as the tenth individual: photos that
on their own would have brought theirs among the first ten, whatever k was asked for."""

NEAR_DUPLICATE_BITS = 4
NEAR_DUPLICATE_COSINE = 0.95
"""A re-encoded or resized copy keeps its 64-bit difference hash up to a few bits, but so do two
photos of an empty sea. A copy also embeds almost to the same vector; both must hold."""

_ALIVE_S = 2.0
_FIRST_BATCH = 128
_BATCH_GROWTH = 8
_FIRST_LABELS = 32
_LABEL_GROWTH = 4


class SearchError(Exception):
    """A search that gave no answer. `str()` says why and what to do."""


class WrongSpace(SearchError):
    """The vectors are not of a space that can be searched."""


class SearchUnavailable(SearchError):
    """The database or Milvus does not answer, or the space is still being loaded."""


class SearchTimeout(SearchError):
    """The search did not end within its time."""


@dataclass(frozen=True, slots=True, eq=False)
class SearchRequest:
    """One question. `vectors` float32 (P, D) are P photos of one encounter, of any length but
    zero; an individual scores as high as its best annotation does with any of them.

    `exclude_annotations` and `exclude_media` (SHA-256 of the bytes) leave out the query itself,
    `near_duplicate_of` (perceptual hashes) copies of its photos, `exclude_encounter` an encounter.
    """

    vectors: Vectors
    fingerprint: str
    k: int = 10
    filters: SearchFilters = field(default_factory=SearchFilters)
    exclude_annotations: frozenset[int] = frozenset()
    exclude_media: frozenset[str] = frozenset()
    near_duplicate_of: tuple[int, ...] = ()
    exclude_encounter: UUID | None = None
    timeout_s: float = 10.0


@dataclass(frozen=True, slots=True)
class MatchHit:
    """A candidate individual: `score` is the cosine of its best annotation. `supporting` is the
    number of its annotations that score as high as the tenth individual (or the last, if there
    are fewer), and at least 1."""

    rank: int
    individual_id: UUID
    name: str
    taxon: str | None
    score: float
    annotation_id: int
    media_id: int
    supporting: int


@dataclass(frozen=True, slots=True)
class Excluded:
    """Annotations left out: the query itself; copies of it that score as high as the last match
    looked at; and the rest of the encounter."""

    self: int
    duplicate: int
    encounter: int


@dataclass(frozen=True, slots=True)
class Receipt:
    """What was searched. `mode` is `exact` where the answer is that of comparing with every row,
    and `ann` where an approximate index chose the rows. `eligible` annotations have a vector, an
    individual and pass the filters; `scanned` vectors were compared with; `delta` of the space's
    are newer than its `snapshot`, or than the index (None: the space is small and lives in memory,
    or PostgreSQL scans it)."""

    mode: Literal["exact", "ann"]
    eligible: int
    scanned: int
    excluded: Excluded
    truncated: bool
    filters: dict[str, Any]
    fingerprint: str
    snapshot: str | None
    delta: int
    timings_ms: dict[str, float]

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class SearchResult:
    """`view` is what was searched, so that who asks on need not look for changes again."""

    hits: tuple[MatchHit, ...]
    receipt: Receipt
    view: View = field(repr=False, compare=False)


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
        watch = _Watch()
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
                return _Search(session, space, view, request, queries, watch).run()
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


class _Watch:
    """Milliseconds by stage, each from the end of the one before."""

    def __init__(self) -> None:
        self._start = self._last = time.perf_counter()
        self._stages: dict[str, float] = {}

    def stage(self, name: str) -> None:
        now = time.perf_counter()
        self._stages[name] = self._stages.get(name, 0.0) + now - self._last
        self._last = now

    def timings_ms(self) -> dict[str, float]:
        spent = self._stages | {"total": time.perf_counter() - self._start}
        return {name: round(seconds * 1000, 3) for name, seconds in spent.items()}


@dataclass(frozen=True, slots=True)
class _Label:
    individual_id: UUID
    name: str
    taxon: str | None
    media_id: int
    perceptual_hash: int | None


@dataclass(slots=True)
class _Found:
    """An individual met on the way down; its scores descend."""

    label: _Label
    annotation_id: int
    scores: list[float]


@dataclass(slots=True)
class _Walk:
    """How far down the settled annotations the individuals are known."""

    found: dict[UUID, _Found] = field(default_factory=dict)
    duplicates: int = 0
    complete: bool = False


class _Search:
    """One request under way."""

    def __init__(
        self,
        session: Session,
        space: SpaceRow,
        view: View,
        request: SearchRequest,
        queries: Vectors,
        watch: _Watch,
    ) -> None:
        self._session = session
        self._space = space
        self._view = view
        self._request = request
        self._queries = queries
        self._watch = watch
        self._labels: dict[int, _Label | None] = {}
        self._depth = max(request.k, SUPPORT_DEPTH)
        self._approximate = False
        self._compared = 0

    def run(self) -> SearchResult:
        request, view = self._request, self._view
        eligible, scanned, allowed = view.eligible, view.size, None
        if not request.filters.is_empty:
            allowed = embeddings.eligible_ids(self._session, self._space.id, request.filters)
            eligible = scanned = len(allowed)
            self._watch.stage("filter")
        out = self._left_out(allowed)
        walk = self._nearest(allowed, frozenset(out.own + out.encounter))
        receipt = Receipt(
            mode="ann" if self._approximate else "exact",
            eligible=eligible,
            scanned=self._compared if self._approximate else scanned,
            excluded=Excluded(len(out.own), walk.duplicates, len(out.encounter)),
            truncated=False,
            filters=request.filters.as_dict(),
            fingerprint=self._space.fingerprint,
            snapshot=view.snapshot,
            delta=view.delta,
            timings_ms=self._watch.timings_ms(),
        )
        return SearchResult(_hits(walk, request.k), receipt, view)

    def _left_out(self, allowed: Ids | None) -> LeftOut:
        request = self._request
        if not (request.exclude_annotations or request.exclude_media or request.exclude_encounter):
            return LeftOut((), ())
        out = left_out(
            self._session,
            self._space.id,
            annotations=request.exclude_annotations,
            sha256s=request.exclude_media,
            encounter=request.exclude_encounter,
        )
        self._watch.stage("exclude")
        if allowed is None:
            return out
        return LeftOut(_among(out.own, allowed), _among(out.encounter, allowed))

    def _nearest(self, allowed: Ids | None, excluded: frozenset[int]) -> _Walk:
        if allowed is not None and not len(allowed):
            return _Walk()
        batch = _FIRST_BATCH
        while True:
            settled = settle(self._view.parts, self._queries, batch, allowed)
            self._watch.stage("scan")
            self._approximate = settled.approximate
            self._compared = len(settled.ids)
            walk = self._walk(settled, excluded)
            if walk.complete or settled.exhausted:
                return walk
            batch *= _BATCH_GROWTH

    def _walk(self, settled: Settled, excluded: frozenset[int]) -> _Walk:
        """Group annotations from the best down, past the last individual that is needed and all
        that tie with it; complete if the settled part reaches that far."""
        walk = _Walk()
        certain = int(np.count_nonzero(settled.best > settled.level))
        ids, scores = settled.ids[:certain].tolist(), settled.best[:certain].tolist()
        floor = -np.inf
        for position, (id_, score) in enumerate(zip(ids, scores, strict=True)):
            if score < floor:
                walk.complete = True
                break
            if id_ in excluded:
                continue
            label = self._label(ids, position)
            if label is None:
                continue
            if self._is_copy(label, score):
                walk.duplicates += 1
                continue
            found = walk.found.get(label.individual_id)
            if found is None:
                found = _Found(label, id_, [])
                walk.found[label.individual_id] = found
                if len(walk.found) == self._depth:
                    floor = score
            found.scores.append(score)
        return walk

    def _label(self, ids: Sequence[int], position: int) -> _Label | None:
        """The label of the annotation at `position`, fetched with those that come next."""
        if ids[position] not in self._labels:
            self._watch.stage("group")
            count = max(_FIRST_LABELS, len(self._labels) * (_LABEL_GROWTH - 1))
            wanted = [i for i in ids[position : position + count] if i not in self._labels]
            rows = embeddings.label_candidates(self._session, wanted)
            self._labels.update(dict.fromkeys(wanted))
            labels = zip(
                rows.individual_ids,
                rows.names,
                rows.taxa,
                rows.media_ids.tolist(),
                rows.perceptual_hashes,
                strict=True,
            )
            self._labels.update(
                (id_, _Label(*label))
                for id_, label in zip(rows.annotation_ids.tolist(), labels, strict=True)
            )
            self._watch.stage("labels")
        return self._labels[ids[position]]

    def _is_copy(self, label: _Label, score: float) -> bool:
        if label.perceptual_hash is None or score < NEAR_DUPLICATE_COSINE:
            return False
        return any(
            ((label.perceptual_hash ^ hash_) & 0xFFFF_FFFF_FFFF_FFFF).bit_count()
            <= NEAR_DUPLICATE_BITS
            for hash_ in self._request.near_duplicate_of
        )


def _among(ids: tuple[int, ...], allowed: Ids) -> tuple[int, ...]:
    kept = np.isin(np.array(ids, dtype=np.int64) if ids else NO_IDS, allowed)
    return tuple(id_ for id_, keep in zip(ids, kept, strict=True) if keep)


def _hits(walk: _Walk, k: int) -> tuple[MatchHit, ...]:
    ranked = sorted(
        walk.found.values(), key=lambda found: (-found.scores[0], found.label.individual_id)
    )
    if not ranked:
        return ()
    level = ranked[min(SUPPORT_DEPTH, len(ranked)) - 1].scores[0]
    return tuple(
        MatchHit(
            rank=rank,
            individual_id=found.label.individual_id,
            name=found.label.name,
            taxon=found.label.taxon,
            score=found.scores[0],
            annotation_id=found.annotation_id,
            media_id=found.label.media_id,
            supporting=max(1, sum(score >= level for score in found.scores)),
        )
        for rank, found in enumerate(ranked[:k], start=1)
    )
