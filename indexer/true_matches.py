"""Owns how true matches score in a space: what a best score is held against."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import dataclass

import numpy as np
from sqlalchemy.orm import Session, sessionmaker

from db.queries import embeddings
from db.queries.embeddings import SpaceRow
from db.queries.search import companions
from indexer.evaluate import codes, true_match_scores
from indexer.live import View
from indexer.vector_index.protocol import Ids, Part, Scores, Vectors, fetch_from, nearest

log = logging.getLogger(__name__)

SAMPLE = 2_000
OTHER_SAMPLE = 200
"""Annotations measured: the true matches cost one product per individual, the nearest others a
search each."""
MIN_MEASURED = 20
"""With fewer true matches no share of them is stated."""
AT_ONCE = 2_000
"""A space of up to this many annotations is measured while the caller waits (under 0.2 s)."""

_REMEASURE_SHARE = 0.1
_MAX_COMPANIONS = 20_000
_BINS = 30
_SEED = 20


@dataclass(frozen=True, slots=True)
class Histogram:
    """`counts[i]` of `count` scores lie in `[edges[i], edges[i + 1])`; the last bin is closed."""

    count: int
    edges: tuple[float, ...]
    counts: tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False)
class TrueMatchDistribution:
    """Of a sample of annotations: `scores` float32 (n,) ascending, the best cosine of each to its
    own individual in another encounter (a photo without an encounter is one of its own), and
    `others` float32 (m,) ascending, the best to a different individual."""

    scores: Scores
    others: Scores

    @classmethod
    def empty(cls) -> TrueMatchDistribution:
        nothing = np.zeros(0, dtype=np.float32)
        return cls(nothing, nothing)

    @property
    def n(self) -> int:
        return len(self.scores)

    @property
    def fifth_percentile(self) -> float | None:
        """The score that 95 % of the true matches reach; None with too few of them."""
        return float(np.quantile(self.scores, 0.05)) if self.n >= MIN_MEASURED else None

    def quantile(self, score: float) -> float | None:
        """Share of the true matches that score no higher; None with too few of them."""
        if self.n < MIN_MEASURED:
            return None
        return float(np.searchsorted(self.scores, np.float32(score), side="right") / self.n)

    @property
    def reference(self) -> Histogram | None:
        """The true matches, in the same bins as `other`."""
        return self._histogram(self.scores)

    @property
    def other(self) -> Histogram | None:
        """The nearest different individuals, in the same bins as `reference`."""
        return self._histogram(self.others)

    def _histogram(self, scores: Scores) -> Histogram | None:
        if self.n < MIN_MEASURED or not len(scores):
            return None
        every = np.concatenate([self.scores, self.others])
        counts, edges = np.histogram(scores, bins=_BINS, range=(every.min(), every.max()))
        return Histogram(len(scores), tuple(edges.tolist()), tuple(counts.tolist()))


class TrueMatches:
    """Distributions by space, measured again when the space has grown or shrunk by a tenth."""

    def __init__(
        self,
        sessions: sessionmaker[Session],
        background: Executor,
        view_of: Callable[[Session, SpaceRow], View],
    ) -> None:
        self._sessions = sessions
        self._background = background
        self._view_of = view_of
        self._lock = threading.Lock()
        self._measured: dict[str, tuple[int, TrueMatchDistribution]] = {}
        self._jobs: dict[str, Future[None]] = {}

    def get(self, session: Session, space: SpaceRow, view: View) -> TrueMatchDistribution:
        """The distribution, or an older or empty one while it is measured in the background."""
        at, known = self._measured.get(space.fingerprint, (-1, TrueMatchDistribution.empty()))
        if at >= 0 and abs(view.eligible - at) <= _REMEASURE_SHARE * at:
            return known
        if view.eligible <= AT_ONCE:
            self._measure(session, space, view)
            return self._measured[space.fingerprint][1]
        self.measure_soon(space)
        return known

    def measure_soon(self, space: SpaceRow) -> None:
        with self._lock:
            job = self._jobs.get(space.fingerprint)
            if job is None or job.done():
                self._jobs[space.fingerprint] = self._background.submit(self._run, space)

    def _run(self, space: SpaceRow) -> None:
        try:
            with self._sessions() as session:
                self._measure(session, space, self._view_of(session, space))
        except Exception:
            # Nobody waits for this job: the next answer asks for it again.
            log.exception("Measuring the true matches of %s failed.", space.fingerprint[:12])

    def _measure(self, session: Session, space: SpaceRow, view: View) -> None:
        measured = measure(session, space, view)
        self._measured[space.fingerprint] = (view.eligible, measured)


def measure(session: Session, space: SpaceRow, view: View) -> TrueMatchDistribution:
    """The distribution over a sample that is the same for the same annotations."""
    eligible = embeddings.eligible_ids(session, space.id)
    if not len(eligible):
        return TrueMatchDistribution.empty()
    shuffled = np.random.default_rng(_SEED).permutation(eligible)
    sample = shuffled[:SAMPLE]
    around = companions(session, space.id, sample)
    ids, vectors = fetch_from(view.parts, around.ids[:_MAX_COMPANIONS])
    at = np.searchsorted(around.ids, ids)
    individual = codes(around.individuals)[at]
    sampled = np.flatnonzero(np.isin(ids, sample))
    scores = true_match_scores(vectors, individual, codes(around.encounters)[at], sampled)
    others = _nearest_others(view.parts, ids, vectors, individual, sampled, eligible)
    return TrueMatchDistribution(np.sort(scores[~np.isnan(scores)]), np.sort(others))


def _nearest_others(
    parts: tuple[Part, ...],
    ids: Ids,
    vectors: Vectors,
    individual: Ids,
    sampled: Ids,
    eligible: Ids,
) -> Scores:
    others = []
    step = max(1, len(sampled) // OTHER_SAMPLE)
    for row in sampled[::step][:OTHER_SAMPLE]:
        own = ids[individual == individual[row]]
        found, cosines = nearest(parts, vectors[row : row + 1], len(own) + 1)
        different = np.isin(found, eligible) & ~np.isin(found, own)
        if different.any():
            others.append(cosines[np.argmax(different)])
    return np.array(others, dtype=np.float32)
