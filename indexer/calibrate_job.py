"""Owns the fit of a space's calibration: where the pairs come from, and the job that fits.

The verdicts of people come first. Where there are too few, the catalogue is asked about itself:
each encounter of an individual that was met again asks who it is, as the desk does, all its photos
as one question and nothing of the same encounter compared. Somebody then walks down the candidates:
asked as a known animal, to its own individual, which is a pair of the same animal, past those that
score higher, which are pairs of different ones; asked as a stranger, without its own individual,
past all that are shown. Half of the questions are strangers, which is an assumption and not a
measurement. What follows from it is said wherever the numbers are shown.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from sqlalchemy.orm import Session

from db.queries import calibrations, embeddings, jobs, records, runs
from db.queries.calibrations import CalibrationRow
from db.queries.embeddings import SpaceRow
from db.queries.jobs import ChunkSpec, ItemFailure, JobRow
from db.types import JobKind
from indexer.calibrate import ENOUGH, Evidence, Floats, fit
from indexer.evaluate import Codes, codes
from indexer.jobs import ChunkContext, Plan
from indexer.reindex_report import GALLERY, whole_individuals
from indexer.vector_index.protocol import Vectors, unit_rows

Json = dict[str, Any]
Alive = Callable[[int, int], None]
"""Called with (questions asked, questions in all); raises where the work should not go on."""

QUESTIONS: Final = 2_000
"""Encounters of the catalogue that ask, drawn where there are more."""

SHOWN: Final = 10
"""Candidates that somebody walks down, as the desk shows by default."""

_BLOCK = 64
_SEED = 16


@dataclass(frozen=True, slots=True)
class Given:
    """Verdicts of a space there are: pairs of the `same` and of `different` animals, and queries
    decided as `known` or as `new`; `ENOUGH` of each kind are wanted."""

    same: int
    different: int
    known: int
    new: int

    @property
    def enough(self) -> bool:
        return min(self.same, self.different) >= ENOUGH


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """What can be fitted on; None where neither verdicts nor the catalogue have enough."""

    pair: Evidence | None
    known: Evidence | None
    given: Given
    catalogue: int
    """Questions that the catalogue could ask itself; 0 where it was not needed."""


def verdicts(session: Session, space: SpaceRow) -> tuple[Evidence, Evidence]:
    """What people decided in a space: (pairs, queries; "same" means that it is known)."""
    pairs = calibrations.judged_pairs(session, space.fingerprint)
    queries = calibrations.decided_queries(session, space.id)
    return (
        Evidence(
            scores=np.array([pair.score for pair in pairs], dtype=np.float64),
            same=np.array([pair.same for pair in pairs], dtype=np.bool_),
            encounters=codes(np.array([pair.encounter for pair in pairs], dtype=np.str_)),
            source="verdicts",
            implied=sum(pair.implied for pair in pairs),
        ),
        Evidence(
            scores=np.array([query.best_score for query in queries], dtype=np.float64),
            same=np.array([not query.new for query in queries], dtype=np.bool_),
            encounters=codes(np.array([query.encounter for query in queries], dtype=np.str_)),
            source="verdicts",
        ),
    )


def given(session: Session, space: SpaceRow) -> Given:
    """How many verdicts a space has."""
    return _given(*verdicts(session, space))


def _given(pair: Evidence, known: Evidence) -> Given:
    return Given(pair.yes, pair.no, known.yes, known.no)


def catalogue(
    session: Session, space: SpaceRow, alive: Alive = lambda _done, _all: None
) -> tuple[Evidence, Evidence]:
    """What the catalogue says of itself, an encounter left out at a time: (pairs, queries)."""
    confirmed = runs.confirmed(session, [space.id])
    rng = np.random.default_rng(_SEED)
    who, met = codes(confirmed.individuals), codes(confirmed.encounters)
    rows = whole_individuals(who, GALLERY, rng)
    _, found = embeddings.vectors_of(session, space.id, confirmed.ids[rows])
    return walked(ask_itself(unit_rows(found), who[rows], met[rows], rng, alive))


@dataclass(frozen=True, slots=True, eq=False)
class Asked:
    """Of q questions: `own` float64 (q,) the cosine of the own individual, `others` float64 (q, s)
    those of the nearest others, descending and -inf where there are no more, `encounter` int64 (q,)
    whose question it is."""

    own: Floats
    others: Floats
    encounter: Codes


def ask_itself(
    vectors: Vectors,
    who: Codes,
    met: Codes,
    rng: np.random.Generator,
    alive: Alive = lambda _done, _all: None,
) -> Asked:
    """Each encounter of an individual asks the other encounters; `QUESTIONS` of them are drawn.

    `vectors` float32 (N, D) of unit length, `who` and `met` int64 (N,). Only an individual that was
    met twice can be known again, and only where there is another can it be mistaken.
    """
    order = np.lexsort((met, who))
    vectors, who, met = vectors[order], who[order], met[order]
    individuals, first_of = np.unique(who, return_index=True)
    new = np.ones(len(who), dtype=np.bool_)
    new[1:] = (np.diff(who) != 0) | (np.diff(met) != 0)
    starts = np.flatnonzero(new)
    ends = np.append(starts[1:], len(who))
    asking = np.flatnonzero(np.isin(who[starts], _met_twice(who[starts])))
    if len(asking) > QUESTIONS:
        asking = np.sort(rng.choice(asking, QUESTIONS, replace=False))
    if len(individuals) < 2:
        asking = asking[:0]
    own, others = np.empty(len(asking)), np.empty((len(asking), min(SHOWN, len(individuals))))
    for start in range(0, len(asking), _BLOCK):
        alive(start, len(asking))
        block = asking[start : start + _BLOCK]
        rows = np.concatenate([np.arange(starts[one], ends[one]) for one in block])
        scores = vectors[rows] @ vectors.T
        scores[met[rows][:, None] == met[None, :]] = -np.inf
        sizes = ends[block] - starts[block]
        scores = np.maximum.reduceat(scores, np.cumsum(sizes) - sizes, axis=0)
        by_individual = np.maximum.reduceat(scores, first_of, axis=1)
        at = np.arange(len(block)), np.searchsorted(individuals, who[starts[block]])
        own[start : start + _BLOCK] = by_individual[at]
        by_individual[at] = -np.inf
        best = -np.sort(-by_individual, axis=1)[:, : others.shape[1]]
        others[start : start + _BLOCK] = best
    kept = np.isfinite(own) & np.isfinite(others[:, :1]).all(axis=1)
    return Asked(own[kept], others[kept], met[starts[asking]][kept])


def _met_twice(who: Codes) -> Codes:
    """The individuals that occur more than once."""
    found, times = np.unique(who, return_counts=True)
    return found[times > 1]


def walked(asked: Asked) -> tuple[Evidence, Evidence]:
    """(pairs, queries) of somebody who walks down the candidates of each question, once with its
    own individual among them and once without."""
    higher = asked.others > asked.own[:, None]
    shown = higher.sum(axis=1) < SHOWN
    there = np.isfinite(asked.others)
    question, _ = np.nonzero(higher)
    stranger, _ = np.nonzero(there)
    pair = Evidence(
        scores=np.concatenate([asked.own[shown], asked.others[higher], asked.others[there]]),
        same=np.repeat([True, False], [int(shown.sum()), len(question) + len(stranger)]),
        encounters=np.concatenate(
            [asked.encounter[shown], asked.encounter[question], asked.encounter[stranger]]
        ),
        source="catalogue",
    )
    best = asked.others[:, 0] if len(asked.own) else asked.own
    known = Evidence(
        scores=np.concatenate([np.maximum(asked.own, best), best]),
        same=np.repeat([True, False], len(asked.own)),
        encounters=np.concatenate([asked.encounter, asked.encounter]),
        source="catalogue",
    )
    return pair, known


def gather(session: Session, space: SpaceRow, alive: Alive = lambda _done, _all: None) -> Found:
    """The evidence of each curve: verdicts where they are enough, or else the catalogue."""
    pair, known = verdicts(session, space)
    told = _given(pair, known)
    if pair.enough and known.enough:
        return Found(pair, known, told, 0)
    own_pair, own_known = catalogue(session, space, alive)
    return Found(_first_enough(pair, own_pair), _first_enough(known, own_known), told, own_pair.yes)


def _first_enough(*several: Evidence) -> Evidence | None:
    return next((one for one in several if one.enough), None)


def fit_space(
    session: Session, space: SpaceRow, found: Found, principal: str
) -> CalibrationRow | None:
    """Fit and store a calibration, audited; None, and nothing stored, where there is too little."""
    if found.pair is None:
        return None
    params, report = fit(found.pair, found.known)
    report["verdicts"] = _verdicts(found.given)
    row = calibrations.put_calibration(
        session, space.id, params=params, report=report, fitted_by=principal
    )
    detail = {"model": space.name, "source": found.pair.source, "ece": report["pair"]["ece"]}
    records.add_audit(session, principal, "calibration.fit", f"calibration:{row.id}", detail)
    return row


def _verdicts(told: Given) -> Json:
    return {
        "same": told.same,
        "different": told.different,
        "known": told.known,
        "new": told.new,
        "wanted": ENOUGH,
    }


class CalibrateHandler:
    """Params: `model_id`. One chunk, whose items are photos that ask; nothing is stored before its
    end. With too little to fit on it ends without a calibration, and says how little."""

    kind = JobKind.CALIBRATE

    def plan(self, session: Session, job: JobRow) -> Plan:  # noqa: ARG002
        if job.stage is not None:
            return Plan.end()
        return Plan.next_stage("asking", [ChunkSpec("asking")])

    def work(self, chunk: ChunkContext) -> None:
        asked = 0

        def alive(done: int, total: int) -> None:
            nonlocal asked
            asked = total
            chunk.check()
            chunk.progress(done, total)

        with chunk.sessions() as session:
            space = embeddings.get_space_by_id(session, int(chunk.job.params["model_id"]))
            found = gather(session, space, alive)
        chunk.progress(asked, asked)

        def write(session: Session) -> Iterable[ItemFailure]:
            row = fit_space(session, space, found, chunk.job.requested_by)
            jobs.put_result(session, chunk.job.id, _result(row, found))
            return ()

        chunk.commit(write, asked)


def _result(row: CalibrationRow | None, found: Found) -> Json:
    """What became of a fit; the counts are those of the verdicts."""
    told = _verdicts(found.given)
    if row is None:
        return {
            "calibration_id": None,
            "outcome": "not enough verdicts yet",
            "catalogue_questions": found.catalogue,
        } | told
    pair = row.report["pair"]
    return {
        "calibration_id": row.id,
        "outcome": "fitted",
        "fitted_on": pair["source"],
        "method": pair["method"],
        "calibration_error": pair["ece"],
    } | told
