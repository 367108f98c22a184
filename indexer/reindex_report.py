"""Owns the report of a re-index run: is the new space better on this catalogue?

Both spaces answer the same questions: annotations that people confirmed, asked against the others
of other encounters. Large catalogues are sampled, always by the same seed, and every number says
of how many it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

import numpy as np
from numpy.typing import NDArray
from sqlalchemy.orm import Session, sessionmaker

from db.queries import catalogue, embeddings, jobs, runs
from db.queries.runs import Confirmed, RunRow, RunSpace
from indexer.evaluate import Codes, Ranks, codes, leave_one_encounter_out, summary, top_k
from indexer.snapshot import Snapshot
from indexer.vector_index.protocol import (
    NO_IDS,
    Ids,
    Part,
    Scores,
    Vectors,
    exact_cosines,
    nearest,
    unit_rows,
)

Json = dict[str, Any]

QUERIES: Final = 2_000
"""Confirmed annotations that ask who they are, of those that another encounter could answer."""
LONERS: Final = 500
"""Annotations of individuals met once: asked for the individual they resemble most."""
GALLERY: Final = 100_000
"""Annotations that are compared with, whole individuals: 200 MB for each 512-d space."""
CHANGED: Final = 50
RECALL_QUERIES: Final = 100
RECALL_K: Final = 10

_BLOCK_ROWS = 256
_SEED = 1
_Z95 = 1.96
_SHOWN_FAILURES = 20
_EDGES = np.linspace(-1.0, 1.0, 41)
_QUANTILES = (5, 25, 50, 75, 95)

Alive = Callable[[], None]
"""Called between blocks of work; raises where the work should not go on."""


@dataclass(frozen=True, slots=True, eq=False)
class Questions:
    """Who is compared with whom: `gallery` int64 (G,) rows of the confirmed annotations, codes
    int64 (G,), and `queries` int64 (Q,), places in the gallery."""

    gallery: Codes
    individual: Codes
    encounter: Codes
    queries: Codes


@dataclass(frozen=True, slots=True, eq=False)
class Answers:
    """How one space answers: `ranks` of the queries that have a true match; for all Q queries the
    `nearest` place int64 (Q,) in another encounter (-1 for none) and its cosine `score`; cosines of
    pairs of the `same` and of `different` individuals, and of each query to the nearest other one.
    """

    ranks: Ranks
    nearest: Codes
    score: Scores
    same: Scores
    different: Scores
    nearest_different: Scores


# ---------------------------------------------------------------- pure measures


def choose_questions(
    confirmed: Confirmed,
    *,
    queries: int = QUERIES,
    loners: int = LONERS,
    gallery: int = GALLERY,
    seed: int = _SEED,
) -> Questions:
    """The gallery (whole individuals) and the queries; drawn where there are more than these."""
    rng = np.random.default_rng(seed)
    who, met = codes(confirmed.individuals), codes(confirmed.encounters)
    rows = whole_individuals(who, gallery, rng)
    who, met = who[rows], met[rows]
    pairs = np.unique(np.stack([who, met], axis=1), axis=0)
    encounters = np.bincount(pairs[:, 0], minlength=int(who.max(initial=-1)) + 1)
    answerable = encounters[who] > 1
    asked = np.concatenate(
        [
            _drawn(np.flatnonzero(answerable), queries, rng),
            _drawn(np.flatnonzero(~answerable), loners, rng),
        ]
    )
    return Questions(rows, who, met, np.sort(asked))


def whole_individuals(who: Codes, most: int, rng: np.random.Generator) -> Codes:
    """Rows int64 of individuals drawn as wholes, at most so many of them."""
    if len(who) <= most:
        return np.arange(len(who))
    order = rng.permutation(int(who.max()) + 1)
    sizes = np.bincount(who)[order]
    chosen = order[: int(np.searchsorted(np.cumsum(sizes), most, side="right"))]
    return np.flatnonzero(np.isin(who, chosen))


def _drawn(places: NDArray[np.intp], most: int, rng: np.random.Generator) -> NDArray[np.intp]:
    return places if len(places) <= most else rng.choice(places, most, replace=False)


def ask(vectors: Vectors, questions: Questions, alive: Alive = lambda: None) -> Answers:
    """What the space of these unit vectors, float32 (G, D), answers."""
    rng = np.random.default_rng(_SEED)
    who, met = questions.individual, questions.encounter
    ranks: list[Ranks] = []
    columns: list[tuple[Codes, Scores, Scores, Scores, Scores]] = []
    for asking in _blocks(questions.queries):
        alive()
        ranks.append(leave_one_encounter_out(vectors, who, met, queries=asking))
        columns.append(_pairs(vectors, who, met, asking, rng))
    empty: tuple[Any, ...] = (np.zeros(0, np.int64), *(np.zeros(0, np.float32),) * 4)
    where, score, same, different, stranger = (
        np.concatenate([column[i] for column in (empty, *columns)]) for i in range(5)
    )
    return Answers(_joined(ranks), where, score, same, different, stranger)


def _blocks(queries: Codes) -> Iterator[Codes]:
    for start in range(0, len(queries), _BLOCK_ROWS):
        yield queries[start : start + _BLOCK_ROWS]


def _joined(parts: Sequence[Ranks]) -> Ranks:
    nothing = np.zeros(0, np.int64)
    return Ranks(
        np.concatenate([nothing, *(part.queries for part in parts)]),
        np.concatenate([nothing, *(part.rank for part in parts)]),
        np.concatenate([np.zeros(0), *(part.average_precision for part in parts)]),
        sum(part.skipped for part in parts),
    )


def _pairs(
    vectors: Vectors, who: Codes, met: Codes, asking: Codes, rng: np.random.Generator
) -> tuple[Codes, Scores, Scores, Scores, Scores]:
    scores = vectors[asking] @ vectors.T
    elsewhere = met[asking][:, None] != met[None, :]
    own = who[asking][:, None] == who[None, :]
    compared = np.where(elsewhere, scores, -np.inf)
    where = compared.argmax(axis=1)
    best = compared.max(axis=1)
    stranger = np.where(own, -np.inf, compared).max(axis=1)
    any_other = rng.integers(0, len(vectors), len(asking))
    rows = np.arange(len(asking))
    strangers = ~own[rows, any_other] & elsewhere[rows, any_other]
    return (
        np.where(np.isneginf(best), -1, where).astype(np.int64),
        np.where(np.isneginf(best), np.nan, best).astype(np.float32),
        scores[own & elsewhere],
        scores[rows, any_other][strangers],
        stranger[~np.isneginf(stranger)].astype(np.float32),
    )


def wilson(successes: int, n: int) -> tuple[float, float]:
    """95 % interval of a share (Wilson, 1927); (0, 1) of nothing."""
    if n == 0:
        return 0.0, 1.0
    share, z2 = successes / n, _Z95**2
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = _Z95 / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


def accuracy(ranks: Ranks) -> Json:
    """Top-1, top-5 and mean average precision with their 95 % intervals and denominator."""
    found = summary(ranks)
    n = found.n
    precision = ranks.average_precision
    spread = _Z95 * float(precision.std()) / math.sqrt(n) if n else 0.0
    middle = found.mean_average_precision
    return {
        "n": n,
        "skipped": found.skipped,
        "top1": found.top_1,
        "top5": found.top_5,
        "map": middle,
        "ci95": {
            "top1": list(wilson(int(np.count_nonzero(ranks.rank <= 1)), n)) if n else None,
            "top5": list(wilson(int(np.count_nonzero(ranks.rank <= 5)), n)) if n else None,
            "map": None
            if middle is None
            else [max(0.0, middle - spread), min(1.0, middle + spread)],
        },
    }


def difference(old: Ranks, new: Ranks) -> Json:
    """New less old, question by question: `top1` with its 95 % interval (paired), top-5 and mAP;
    `lost` were right and are wrong now, `gained` the other way round."""
    n = len(new.rank)
    if n == 0:
        return {"n": 0, "top1": None, "top1_ci95": None, "top5": None, "map": None}
    lost = int(np.count_nonzero((old.rank == 1) & (new.rank > 1)))
    gained = int(np.count_nonzero((old.rank > 1) & (new.rank == 1)))
    change = (gained - lost) / n
    half = _Z95 * math.sqrt(max(0.0, gained + lost - (gained - lost) ** 2 / n)) / n
    return {
        "n": n,
        "top1": change,
        "top1_ci95": [change - half, change + half],
        "top5": top_k(new.rank, 5) - top_k(old.rank, 5),
        "map": float(new.average_precision.mean() - old.average_precision.mean()),
        "lost": lost,
        "gained": gained,
    }


def distribution(scores: Scores) -> Json:
    """Count, quantiles and histogram of cosines; all spaces have the same edges."""
    inside = np.clip(scores, -1.0, 1.0)
    quantiles = np.percentile(inside, _QUANTILES) if len(inside) else [None] * len(_QUANTILES)
    return {
        "count": len(inside),
        "quantiles": {
            str(percent): None if value is None else round(float(value), 4)
            for percent, value in zip(_QUANTILES, quantiles, strict=True)
        },
        "histogram": {
            "edges": [round(float(edge), 3) for edge in _EDGES],
            "counts": np.histogram(inside, _EDGES)[0].tolist(),
        },
    }


@dataclass(frozen=True, slots=True)
class Change:
    """A query whose nearest individual is another one now: places in the gallery, cosines. `kind`
    is `lost` (was right), `other` (was wrong and is), `gained` (is right now) or `lookalike` (of an
    individual met once: nobody could be right)."""

    query: int
    old: int
    new: int
    old_score: float
    new_score: float
    kind: str


_WORST_FIRST = {"lost": 0, "other": 1, "lookalike": 2, "gained": 3}


def changes(questions: Questions, old: Answers, new: Answers) -> list[Change]:
    """One for each individual whose nearest individual changed (its worst query), worst first:
    right answers lost, then by how sure the new space is of its answer."""
    who = questions.individual
    answerable = set(new.ranks.queries.tolist())
    found = [
        _change(who, int(query), int(was), int(is_), float(old_score), float(new_score), answerable)
        for query, was, is_, old_score, new_score in zip(
            questions.queries, old.nearest, new.nearest, old.score, new.score, strict=True
        )
        if was >= 0 and is_ >= 0 and who[was] != who[is_]
    ]
    found.sort(key=lambda one: (_WORST_FIRST[one.kind], -one.new_score, one.query))
    worst: dict[int, Change] = {}
    for one in found:
        worst.setdefault(int(who[one.query]), one)
    return list(worst.values())


def _change(
    who: Codes,
    query: int,
    old: int,
    new: int,
    old_score: float,
    new_score: float,
    answerable: set[int],
) -> Change:
    if query not in answerable:
        kind = "lookalike"
    elif who[old] == who[query]:
        kind = "lost"
    else:
        kind = "gained" if who[new] == who[query] else "other"
    return Change(query, old, new, old_score, new_score, kind)


# ---------------------------------------------------------------- the snapshot against the oracle


def snapshot_recall(
    sessions: sessionmaker[Session], space_id: int, snapshot: Snapshot, alive: Alive
) -> tuple[float, int]:
    """(recall, queries): of the ten nearest by comparing with every row that PostgreSQL has, the
    share that the snapshot answers; vectors that came or went since it was built are left out."""
    places = np.linspace(0, len(snapshot.ids) - 1, min(RECALL_QUERIES, len(snapshot.ids)))
    asked = snapshot.ids[np.unique(places.astype(np.intp))]
    with sessions() as session:
        _, queries = embeddings.vectors_of(session, space_id, asked)
        if not len(queries):
            return 1.0, 0
        queries = unit_rows(queries)
        wanted = _Nearest(len(queries), RECALL_K)
        there = []
        with closing(embeddings.read_space_chunks(session, space_id)) as chunks:
            for ids, rows in chunks:
                alive()
                known = np.isin(ids, snapshot.ids, assume_unique=True)
                there.append(ids[known])
                wanted.add(ids[known], exact_cosines(unit_rows(rows[known]), queries).T)
    gone = np.setdiff1d(snapshot.ids, np.concatenate([NO_IDS, *there]), assume_unique=True)
    part = Part(snapshot.index, gone)
    found = total = 0
    for query, truth in zip(queries, wanted.ids, strict=True):
        alive()
        truth = truth[truth >= 0]
        answered, _ = nearest([part], query[None, :], max(len(truth), 1))
        found += len(np.intersect1d(answered, truth))
        total += len(truth)
    return (found / total if total else 1.0), len(queries)


class _Nearest:
    """The k best of each query among rows that come in blocks."""

    def __init__(self, queries: int, k: int) -> None:
        self._k = k
        self.ids: Ids = np.full((queries, k), -1, np.int64)
        self._scores: Scores = np.full((queries, k), -np.inf, np.float32)

    def add(self, ids: Ids, scores: Scores) -> None:
        all_ids = np.concatenate([self.ids, np.broadcast_to(ids, scores.shape)], axis=1)
        all_scores = np.concatenate([self._scores, scores], axis=1)
        order = np.lexsort((all_ids, -all_scores))[:, : self._k]
        self.ids = np.take_along_axis(all_ids, order, axis=1)
        self._scores = np.take_along_axis(all_scores, order, axis=1)


# ---------------------------------------------------------------- building it


def build_report(
    sessions: sessionmaker[Session],
    run: RunRow,
    snapshot: Snapshot | None,
    *,
    alive: Alive = lambda: None,
) -> Json:
    """The whole report, as JSON. `snapshot` is the candidate's; None for an empty space."""
    old_space = run.from_space if run.from_space is not None and run.from_space.kept else None
    spaces = [run.to_space] if old_space is None else [run.to_space, old_space]
    with sessions() as session:
        counts = runs.count_run(session, run)
        speed = runs.throughput(session, run.id)
        by_code = runs.failures_by_code(session, run.id)
        failures = jobs.failures(session, run.id, limit=_SHOWN_FAILURES).items
        confirmed = runs.confirmed(session, [space.id for space in spaces])
    questions = choose_questions(confirmed)
    ids = confirmed.ids[questions.gallery]
    new = ask(_vectors(sessions, run.to_space, ids), questions, alive)
    old = ask(_vectors(sessions, old_space, ids), questions, alive) if old_space else None
    recall, recall_queries = (
        snapshot_recall(sessions, run.to_space.id, snapshot, alive) if snapshot else (None, 0)
    )
    changed = changes(questions, old, new) if old else []
    return {
        "recall": recall,
        "snapshot": snapshot
        and {
            "id": str(snapshot.id),
            "vectors": snapshot.manifest.count,
            "k": RECALL_K,
            "queries": recall_queries,
            "codes_recall": snapshot.manifest.recall,
        },
        "counts": {
            "annotations": counts.annotations,
            "embedded": counts.embedded,
            "before": counts.before,
            "lost": counts.lost,
            "failed": counts.failed,
            "confirmed": len(confirmed.ids),
            "gallery": len(ids),
            "individuals": len(np.unique(questions.individual)),
            "queries": len(questions.queries),
        },
        "old": old_space and old and {"space": _space(old_space), **accuracy(old.ranks)},
        "new": {"space": _space(run.to_space), **accuracy(new.ranks)},
        "difference": difference(old.ranks, new.ranks) if old else None,
        "similarity": {
            kind: {
                "old": distribution(getattr(old, kind)) if old else None,
                "new": distribution(getattr(new, kind)),
            }
            for kind in ("same", "different", "nearest_different")
        },
        "changed_count": len(changed),
        "changed": _described(sessions, confirmed, questions, changed[:CHANGED]),
        "throughput": {
            "items": speed.items,
            "chunks": speed.chunks,
            "workers": speed.workers,
            "seconds": round(speed.seconds, 3),
            "per_s": round(speed.items / speed.seconds, 3) if speed.seconds > 0 else None,
        },
        "failures": {
            "count": sum(by_code.values()),
            "by_code": by_code,
            "first": [
                {"item": one.item, "code": one.code, "detail": one.detail} for one in failures
            ],
        },
    }


def _vectors(sessions: sessionmaker[Session], space: RunSpace, ids: Ids) -> Vectors:
    with sessions() as session:
        there, rows = embeddings.vectors_of(session, space.id, ids)
    # One deleted since the questions were chosen is a row that resembles nothing.
    vectors = np.zeros((len(ids), space.dim), np.float32)
    vectors[np.searchsorted(ids, there)] = unit_rows(rows)
    return vectors


def _space(space: RunSpace) -> Json:
    return {
        "name": space.name,
        "version": space.version,
        "fingerprint": space.fingerprint,
        "dim": space.dim,
    }


def _described(
    sessions: sessionmaker[Session],
    confirmed: Confirmed,
    questions: Questions,
    found: Sequence[Change],
) -> list[Json]:
    def individual_at(place: int) -> UUID:
        return UUID(str(confirmed.individuals[questions.gallery[place]]))

    def photo(place: int) -> Json:
        row = questions.gallery[place]
        return {
            "annotation_id": int(confirmed.ids[row]),
            "media_id": int(confirmed.media[row]),
        }

    places = {place for one in found for place in (one.query, one.old, one.new)}
    with sessions() as session:
        known = catalogue.get_individuals(session, [individual_at(place) for place in places])

    def named(place: int) -> Json:
        individual = individual_at(place)
        return {
            "id": str(individual),
            "name": known[individual].name if individual in known else None,
        }

    return [
        {
            "change": one.kind,
            "individual": named(one.query),
            "old_nearest": named(one.old),
            "new_nearest": named(one.new),
            "old_score": round(one.old_score, 4),
            "new_score": round(one.new_score, 4),
            "photos": {
                "query": photo(one.query),
                "old": photo(one.old),
                "new": photo(one.new),
            },
        }
        for one in found
    ]
