"""Owns one search: candidates in exact order, grouped by individual, and the receipt of how.

Candidates come in their exact order (`vector_index.protocol.settle`), get their labels from
PostgreSQL, and are grouped until k individuals are complete or the space is exhausted.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal
from uuid import UUID

import numpy as np
from sqlalchemy.orm import Session

from db.queries import embeddings
from db.queries.embeddings import SpaceRow
from db.queries.filters import SearchFilters
from db.queries.search import CandidateRow, LeftOut, left_out
from indexer.evidence import Compared, Pair, compare
from indexer.live import View
from indexer.vector_index.protocol import NO_IDS, Ids, Settled, Vectors, settle

Fuse = Literal["max", "mean_top"]
"""How the photos of a question make one score of an individual: the best of all, or the mean of
what each photo scores best with it."""

SUPPORT_DEPTH = 10
"""`supporting` counts the photos that score at least as high as the tenth individual: photos that
on their own would have brought theirs among the first ten, whatever k was asked for."""

NEAR_DUPLICATE_BITS = 4
NEAR_DUPLICATE_COSINE = 0.95
"""A re-encoded or resized copy keeps its 64-bit difference hash up to a few bits, but so do two
photos of an empty sea. A copy also embeds almost to the same vector; both must hold."""

_FIRST_BATCH = 128
_BATCH_GROWTH = 8
_FIRST_LABELS = 32
_LABEL_GROWTH = 4


@dataclass(frozen=True, slots=True, eq=False)
class SearchRequest:
    """One question. `vectors` float32 (P, D) are P photos of one encounter, of any length but
    zero; an individual scores as high as its best annotation does with any of them, or by
    `mean_top` the mean of what each photo scores best with it. `evidence`: what that is.

    `not_compared` gives for each vector the viewpoint that it is not compared with, or None; empty:
    every vector is compared with all.

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
    fuse: Fuse = "max"
    evidence: bool = False
    not_compared: tuple[str | None, ...] = ()


@dataclass(frozen=True, slots=True)
class MatchHit:
    """A candidate individual: `score` is the cosine of its best annotation, or by `mean_top` a mean
    of cosines. `supporting` is the number of its annotations that score as high as the tenth
    individual (or the last, if there are fewer), and at least 1. `evidence` has an entry for each
    query where it was asked for, None where nothing of it is compared with that one."""

    rank: int
    individual_id: UUID
    name: str
    taxon: str | None
    score: float
    annotation_id: int
    media_id: int
    supporting: int
    evidence: tuple[Pair | None, ...] = ()


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
    or PostgreSQL scans it). `viewpoint_rule` says which side was not compared (`viewpoints`)."""

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
    viewpoint_rule: dict[str, Any] | None = None

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class SearchResult:
    """`view` is what was searched, so that who asks on need not look for changes again."""

    hits: tuple[MatchHit, ...]
    receipt: Receipt
    view: View = field(repr=False, compare=False)


class Watch:
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
    """An individual met on the way down; its photos' scores descend."""

    label: _Label
    annotation_id: int
    scores: list[float]
    score: float


@dataclass(slots=True)
class _Walk:
    """How far down the settled annotations the individuals are known."""

    found: dict[UUID, _Found] = field(default_factory=dict)
    duplicates: int = 0
    complete: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class _Side:
    """Queries float32 (p, D) that are compared with the same annotations: `allowed` ascending, None
    for all. `at` are their positions among all queries."""

    at: tuple[int, ...]
    queries: Vectors
    allowed: Ids | None


class OneSearch:
    """One request under way."""

    def __init__(
        self,
        session: Session,
        space: SpaceRow,
        view: View,
        request: SearchRequest,
        queries: Vectors,
        watch: Watch,
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
        sides = self._sides()
        eligible, scanned = self._counted(sides)
        out = self._left_out(sides)
        excluded = frozenset(out.own + out.encounter)
        if request.fuse == "max" and len(sides) == 1:
            walk = self._nearest(sides[0], excluded)
        elif request.fuse == "max":
            walk = self._nearest_of_sides(sides, excluded)
        else:
            walk = self._nearest_by_mean(sides, excluded)
        hits = self._with_evidence(_hits(walk, request.k), sides, excluded)
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
        return SearchResult(hits, receipt, view)

    def _sides(self) -> list[_Side]:
        """The queries by what they are compared with; most often one side."""
        request = self._request
        others = request.not_compared or (None,) * len(self._queries)
        sides = []
        for other in dict.fromkeys(others):
            at = tuple(i for i, one in enumerate(others) if one == other)
            filters = request.filters
            if other is not None:
                filters = replace(filters, not_viewpoint=(*filters.not_viewpoint, other))
            allowed = None
            if not filters.is_empty:
                allowed = embeddings.eligible_ids(self._session, self._space.id, filters)
                self._watch.stage("filter")
            sides.append(_Side(at, self._queries[list(at)], allowed))
        return sides

    def _counted(self, sides: Sequence[_Side]) -> tuple[int, int]:
        """(eligible, scanned)"""
        allowed = _union(sides)
        if allowed is None:
            return self._view.eligible, self._view.size
        return len(allowed), len(allowed)

    def _left_out(self, sides: Sequence[_Side]) -> LeftOut:
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
        allowed = _union(sides)
        if allowed is None:
            return out
        return LeftOut(_among(out.own, allowed), _among(out.encounter, allowed))

    def _settled(self, side: _Side, batch: int) -> Settled:
        if side.allowed is not None and not len(side.allowed):
            none = np.zeros((0, len(side.queries)), np.float32)
            return Settled(NO_IDS, none[:, 0], none, (-np.inf,) * len(side.queries))
        settled = settle(self._view.parts, side.queries, batch, side.allowed)
        self._watch.stage("scan")
        self._approximate = self._approximate or settled.approximate
        self._compared = max(self._compared, len(settled.ids))
        return settled

    def _nearest(self, side: _Side, excluded: frozenset[int]) -> _Walk:
        batch = _FIRST_BATCH
        while True:
            settled = self._settled(side, batch)
            walk = self._walk(settled, excluded)
            if walk.complete or settled.exhausted:
                return walk
            batch *= _BATCH_GROWTH

    def _nearest_of_sides(self, sides: Sequence[_Side], excluded: frozenset[int]) -> _Walk:
        """Whoever is among the first of all is so on the side of its best annotation."""
        found = [self._nearest(side, excluded).found for side in sides]
        labels = {who: one.label for walk in found for who, one in walk.items()}
        return self._fused(labels, sides, excluded)

    def _nearest_by_mean(self, sides: Sequence[_Side], excluded: frozenset[int]) -> _Walk:
        """Of whom no annotation was met, no query scores above its level; whoever was met is
        compared by all annotations."""
        batch = _FIRST_BATCH
        while True:
            settled = [self._settled(side, batch) for side in sides]
            ids = np.unique(np.concatenate([some.ids for some in settled])).tolist()
            labels = self._labels_of([id_ for id_ in ids if id_ not in excluded])
            walk = self._fused(labels, sides, excluded)
            ranked = sorted((found.score for found in walk.found.values()), reverse=True)
            levels = [level for some in settled for level in some.levels]
            # The mean of somebody who is not compared with every query is of fewer.
            beyond = sum(levels) / len(levels) if len(sides) == 1 else max(levels)
            if len(ranked) >= self._depth and ranked[self._depth - 1] > beyond:
                return walk
            if all(some.exhausted for some in settled):
                return walk
            batch *= _BATCH_GROWTH

    def _fused(
        self, labels: dict[UUID, _Label], sides: Sequence[_Side], excluded: frozenset[int]
    ) -> _Walk:
        walk = _Walk(complete=True)
        for who, one in self._compare(labels, sides, excluded, walk).items():
            best = one.best
            score = best.score if self._request.fuse == "max" else one.mean
            label = replace(labels[who], media_id=best.media_id)
            walk.found[who] = _Found(label, best.annotation_id, list(one.scores), score)
        self._watch.stage("evidence")
        return walk

    def _compare(
        self,
        individuals: Collection[UUID],
        sides: Sequence[_Side],
        excluded: frozenset[int],
        walk: _Walk,
    ) -> dict[UUID, Compared]:
        def left_out(row: CandidateRow, score: float) -> bool:
            if row.annotation_id in excluded:
                return True
            copy = self._is_copy(row.perceptual_hash, score)
            walk.duplicates += copy
            return copy

        allowed: list[Ids | None] = [None] * len(self._queries)
        for side in sides:
            for at in side.at:
                allowed[at] = side.allowed
        return compare(
            self._session,
            self._view.parts,
            self._queries,
            individuals,
            allowed=allowed,
            left_out=left_out,
        )

    def _with_evidence(
        self, hits: tuple[MatchHit, ...], sides: Sequence[_Side], excluded: frozenset[int]
    ) -> tuple[MatchHit, ...]:
        if not self._request.evidence or not hits:
            return hits
        compared = self._compare({hit.individual_id for hit in hits}, sides, excluded, _Walk())
        self._watch.stage("evidence")
        return tuple(replace(hit, evidence=compared[hit.individual_id].pairs) for hit in hits)

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
            if self._is_copy(label.perceptual_hash, score):
                walk.duplicates += 1
                continue
            found = walk.found.get(label.individual_id)
            if found is None:
                found = _Found(label, id_, [], score)
                walk.found[label.individual_id] = found
                if len(walk.found) == self._depth:
                    floor = score
            found.scores.append(score)
        return walk

    def _label(self, ids: Sequence[int], position: int) -> _Label | None:
        """The label of the annotation at `position`, fetched with those that come next."""
        if ids[position] not in self._labels:
            count = max(_FIRST_LABELS, len(self._labels) * (_LABEL_GROWTH - 1))
            self._fetch_labels(ids[position : position + count])
        return self._labels[ids[position]]

    def _labels_of(self, ids: Sequence[int]) -> dict[UUID, _Label]:
        """The individuals on these annotations, each with one of its labels."""
        self._fetch_labels(ids)
        labels = (self._labels[id_] for id_ in ids)
        return {label.individual_id: label for label in labels if label is not None}

    def _fetch_labels(self, ids: Sequence[int]) -> None:
        self._watch.stage("group")
        wanted = [id_ for id_ in ids if id_ not in self._labels]
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

    def _is_copy(self, perceptual_hash: int | None, score: float) -> bool:
        if perceptual_hash is None or score < NEAR_DUPLICATE_COSINE:
            return False
        return any(
            ((perceptual_hash ^ hash_) & 0xFFFF_FFFF_FFFF_FFFF).bit_count() <= NEAR_DUPLICATE_BITS
            for hash_ in self._request.near_duplicate_of
        )


def _union(sides: Sequence[_Side]) -> Ids | None:
    """What any query is compared with, ascending; None for all."""
    some = [side.allowed for side in sides if side.allowed is not None]
    return np.unique(np.concatenate(some)) if len(some) == len(sides) else None


def _among(ids: tuple[int, ...], allowed: Ids) -> tuple[int, ...]:
    kept = np.isin(np.array(ids, dtype=np.int64) if ids else NO_IDS, allowed)
    return tuple(id_ for id_, keep in zip(ids, kept, strict=True) if keep)


def _hits(walk: _Walk, k: int) -> tuple[MatchHit, ...]:
    ranked = sorted(
        walk.found.values(), key=lambda found: (-found.score, found.label.individual_id)
    )
    if not ranked:
        return ()
    level = ranked[min(SUPPORT_DEPTH, len(ranked)) - 1].score
    return tuple(
        MatchHit(
            rank=rank,
            individual_id=found.label.individual_id,
            name=found.label.name,
            taxon=found.label.taxon,
            score=found.score,
            annotation_id=found.annotation_id,
            media_id=found.label.media_id,
            supporting=max(1, sum(score >= level for score in found.scores)),
        )
        for rank, found in enumerate(ranked[:k], start=1)
    )
