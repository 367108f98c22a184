"""Owns fitted heads: made from the vectors of a space alone, measured, registered, put into use.

A fit needs neither photos nor the backbone. It is measured on encounters and individuals that were
left out of it; the head that is registered is then fitted on everything, for as many epochs. It is
not active until somebody has read its report and says so.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final
from uuid import UUID

import numpy as np
from sqlalchemy.orm import Session

from db.errors import Conflict, Invalid
from db.queries import embeddings, heads, records
from db.queries.heads import FittedSlot, HeadRow
from db.queries.jobs import ChunkSpec, ItemFailure, JobRow
from db.types import HeadSource, JobKind
from indexer.head_fit import (
    Codes,
    FitOptions,
    FitStopped,
    Floats,
    class_means,
    fit_rows,
)
from indexer.head_measure import (
    ELSEWHERE,
    UNMAPPED,
    Candidate,
    MeasureOptions,
    Record,
    TooFew,
    allowed_wrong,
    ask,
    probability_for,
    record,
    split,
)
from indexer.jobs import ChunkContext, JobFailed, Plan
from models.embedder import l2_normalize
from models.errors import BundleError
from models.head import Head

Json = dict[str, Any]
HeadOf = Callable[[str], Head | None]
"""The head in the bundle of a space's fingerprint, None where that has none; BundleError where
this machine lacks the bundle."""

STAGE: Final = "fitting"
_FLOAT: Final = np.dtype("<f4")


@dataclass(frozen=True, slots=True)
class HeadOptions:
    """How a head is fitted and how it is measured."""

    fit: FitOptions = field(default_factory=FitOptions)
    measure: MeasureOptions = field(default_factory=MeasureOptions)


@dataclass(frozen=True, slots=True, eq=False)
class Former:
    """The head in use: its rows by the photos' codes, and from which probability on it speaks."""

    candidate: Candidate
    min_probability: float


@dataclass(frozen=True, slots=True, eq=False)
class FittedHead:
    """`rows` float32 (C, D) of unit length, row c for label c; `report` is what was measured."""

    rows: Floats
    scale: float
    min_probability: float
    report: Json


def fit(
    vectors: Floats,
    labels: Codes,
    encounters: Codes,
    options: HeadOptions | None = None,
    *,
    former: Former | None = None,
    stopping: Callable[[], bool] = lambda: False,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> FittedHead:
    """A head for all labels, from unit vectors float32 (N, D), labels and encounters int64 (N,)
    counted from 0. `progress` is told passes over the photos: done, and of how many at most.

    Raises:
        TooFew: too few individuals have two encounters to measure anything.
        FitStopped: `stopping` answered True.
    """
    options = options or HeadOptions()
    started = time.perf_counter()
    individuals = int(labels.max(initial=-1)) + 1
    parts = split(labels, encounters, options.measure)
    strange = np.zeros(individuals, dtype=np.bool_)
    strange[labels[parts.strangers]] = True
    known = np.flatnonzero(~strange)  # label of each row of the measured fit
    code = np.cumsum(~strange) - 1

    most = 2 * options.fit.epochs
    trial = fit_rows(
        vectors[parts.fit],
        code[labels[parts.fit]],
        len(known),
        options.fit,
        stop=(vectors[parts.stop], code[labels[parts.stop]]),
        stopping=stopping,
        tell=lambda epoch: progress(epoch.number, most),
    )
    tried, best = trial.epochs[-1].number, trial.best
    final = fit_rows(
        vectors,
        labels,
        individuals,
        replace(options.fit, epochs=best),
        stopping=stopping,
        tell=lambda epoch: progress(tried + epoch.number, tried + best),
    )

    asked = parts.known | parts.strangers
    questions = _Questions(vectors[asked], labels[asked], parts.known[asked])
    means, _ = class_means(vectors[parts.fit], code[labels[parts.fit]], len(known))
    before = None
    if former is not None:
        before = questions.put(former.candidate.without(strange), former.min_probability)
    wrong, rule = allowed_wrong(before, len(questions.truth), options.measure)
    scale = options.fit.scale
    after = questions.put_best(Candidate(trial.rows, known, scale), wrong)
    report = {
        "individuals": individuals,
        "photos": len(vectors),
        "individuals_with_one_photo": int((np.bincount(labels) == 1).sum()),
        "held_out": {
            "stopping": _counted(labels, encounters, parts.stop),
            "known": _counted(labels, encounters, parts.known),
            "strangers": _counted(labels, encounters, parts.strangers),
        },
        "fit": asdict(options.fit),
        "epochs": [asdict(epoch) for epoch in trial.epochs],
        "best_epoch": best,
        "top_1": {
            "n": after.known,
            "head": after.top_1,
            "class_means": questions.put_best(Candidate(means, known, scale), wrong).top_1,
            "former_head": before.top_1 if before else None,
        },
        "rule": rule,
        "before": before.as_json() if before else None,
        "after": after.as_json(),
        "seconds": round(time.perf_counter() - started, 1),
    }
    return FittedHead(final.rows, scale, after.min_probability, report)


@dataclass(frozen=True, slots=True, eq=False)
class _Questions:
    """Photos left out of the fit, who is on them, and whether a head has a row for that one."""

    vectors: Floats
    truth: Codes
    known: Any

    def put(self, head: Candidate, min_probability: float) -> Record:
        return record(ask(head, self.vectors), self.truth, self.known, min_probability)

    def put_best(self, head: Candidate, wrong: int) -> Record:
        """With the smallest probability that gives at most so many wrong answers."""
        said = ask(head, self.vectors)
        chosen = probability_for(said, self.truth, self.known, wrong)
        return record(said, self.truth, self.known, chosen)


def _counted(labels: Codes, encounters: Codes, mask: Any) -> Json:
    return {
        "individuals": len(np.unique(labels[mask])),
        "encounters": len(np.unique(encounters[mask])),
        "photos": int(mask.sum()),
    }


# ---------------------------------------------------------------- from and to the database


@dataclass(frozen=True, slots=True, eq=False)
class Labelled:
    """The named photos of a space: unit `vectors` float32 (N, D); `labels` int64 (N,) positions in
    `individuals`; `encounters` int64 (N,), where a photo without one is one of its own."""

    vectors: Floats
    labels: Codes
    encounters: Codes
    individuals: tuple[UUID, ...]


def read_labelled(session: Session, model_id: int) -> Labelled:
    """Every annotation that has a vector in this space and an individual, merges followed."""
    rows = heads.labelled(session, model_id)
    ids = np.array([row[0] for row in rows], dtype=np.int64)
    dim = embeddings.get_space_by_id(session, model_id).dim
    vectors = np.empty((len(ids), dim), dtype=np.float32)
    there = np.zeros(len(ids), dtype=np.bool_)
    with closing(embeddings.read_space_chunks(session, model_id)) as chunks:
        for some_ids, some in chunks:
            at = np.searchsorted(ids, some_ids)
            found = (at < len(ids)) & (ids[np.minimum(at, len(ids) - 1)] == some_ids)
            vectors[at[found]] = l2_normalize(some[found])
            there[at[found]] = True
    individuals: dict[UUID, int] = {}
    meetings: dict[UUID | int, int] = {}
    kept = [row for row, has_vector in zip(rows, there, strict=True) if has_vector]
    labels = [individuals.setdefault(who, len(individuals)) for _, who, _ in kept]
    met = [meetings.setdefault(meeting or id_, len(meetings)) for id_, _, meeting in kept]
    return Labelled(
        vectors if there.all() else vectors[there],
        np.array(labels, dtype=np.int64),
        np.array(met, dtype=np.int64),
        tuple(individuals),
    )


def former_of(
    session: Session, model_id: int, individuals: Sequence[UUID], head_of: HeadOf
) -> tuple[HeadRow | None, Former | None, str | None]:
    """The active head of the space as its row, as what can be measured, and why it cannot be."""
    row = heads.active_head(session, model_id)
    if row is None:
        return None, None, "The space had no head."
    if row.source == HeadSource.FIT:
        head = load_fitted(session, row.id)
    else:
        try:
            loaded = head_of(embeddings.get_space_by_id(session, model_id).fingerprint)
        except BundleError as error:
            return row, None, f"The head of the bundle cannot be read here: {error}"
        if loaded is None or loaded.digest != row.digest:
            return row, None, "The bundle that is installed here has another head, or none."
        head = loaded
    codes = {individual: code for code, individual in enumerate(individuals)}
    who = np.full(len(head.rows), UNMAPPED, dtype=np.int64)
    named = heads.slot_labels(session, row.id, head.mapped_slots.tolist())
    for slot in named:
        known = slot.individual_id is not None and slot.individual_id in codes
        who[slot.slot] = codes[slot.individual_id] if known and slot.individual_id else ELSEWHERE
    return row, Former(Candidate(head.rows, who, head.scale), row.min_probability), None


def register(
    session: Session,
    model_id: int,
    fitted: FittedHead,
    slots: Sequence[FittedSlot],
    *,
    principal: str,
    job_id: UUID | None = None,
) -> HeadRow:
    """Store a fitted head as the next version `fit-N` of its space, audited; it is not active."""
    rows = np.ascontiguousarray(fitted.rows, dtype=_FLOAT)
    if len(slots) != len(rows):
        raise ValueError(f"{len(rows)} rows and {len(slots)} slots disagree")
    report = fitted.report | {"job_id": str(job_id) if job_id else None}
    row = heads.register_fitted(
        session,
        model_id=model_id,
        slots=slots,
        parts=[
            rows[start : start + heads.PART_SLOTS].tobytes()
            for start in range(0, len(rows), heads.PART_SLOTS)
        ],
        scale=fitted.scale,
        min_probability=fitted.min_probability,
        digest=hashlib.sha256(rows.tobytes()).hexdigest(),
        report=report,
    )
    detail = {"model_id": model_id, "version": row.version, "individuals": len(slots)}
    records.add_audit(session, principal, "head.fit", f"head:{row.id}", detail)
    return row


def load_fitted(session: Session, head_id: int) -> Head:
    """A fitted head, ready to answer. Whom a slot stands for is asked when it answers.

    Raises:
        NotFound: no head has this id.
        Invalid: `head_damaged`, its rows are not the ones that were stored; or it is a bundle's.
    """
    row = heads.get_head(session, head_id)
    parts = heads.head_rows(session, head_id)
    slots = heads.head_slots(session, head_id)
    data = b"".join(parts)
    dim = embeddings.get_space_by_id(session, row.model_id).dim
    whole = len(slots) == row.slot_count and len(data) == row.slot_count * dim * _FLOAT.itemsize
    if not whole or hashlib.sha256(data).hexdigest() != row.digest:
        raise Invalid(
            "head_damaged",
            f"The head {row.version} has no rows here that agree with its checksum; activate "
            "another one (`resight head list`) or fit it again.",
            id=head_id,
        )
    return Head(
        rows=np.frombuffer(data, dtype=_FLOAT).reshape(row.slot_count, dim).astype(np.float32),
        labels=tuple(label for label, _, _ in slots),
        species=tuple(species for _, species, _ in slots),
        scale=row.scale,
        min_probability=row.min_probability,
        version=row.version,
        digest=row.digest,
    )


# ---------------------------------------------------------------- into use


@dataclass(frozen=True, slots=True)
class Switched:
    """The head in use from the end of the transaction on, and the one before it, if any."""

    head: HeadRow
    former: HeadRow | None


def activate_head(session: Session, head_id: int, *, principal: str) -> Switched:
    """Let a head give the default answers of its space; services take it up at once.

    Raises:
        NotFound: no head has this id.
        Conflict: it is the active one already.
    """
    return _switch(session, head_id, principal, "head.activate")


def rollback_head(session: Session, model_id: int, *, principal: str) -> Switched:
    """Back to the head that was active before the present one; the same again undoes it.

    Raises:
        Conflict: `no_former_head`, no other head of this space was ever active.
    """
    former = heads.former_head(session, model_id)
    if former is None:
        raise Conflict(
            "no_former_head",
            "No other head of this space was ever active, so there is none to go back to.",
            model_id=model_id,
        )
    return _switch(session, former.id, principal, "head.rollback")


def _switch(session: Session, head_id: int, principal: str, action: str) -> Switched:
    former = heads.activate_head(session, head_id)
    head = heads.get_head(session, head_id)
    detail = {
        "model_id": head.model_id,
        "version": head.version,
        "former": former.version if former else None,
        "former_id": former.id if former else None,
    }
    records.add_audit(session, principal, action, f"head:{head_id}", detail)
    return Switched(head, former)


# ---------------------------------------------------------------- as a job


class FitHeadHandler:
    """Params: `model_id`. One chunk, whose items are passes over the photos; nothing is stored
    before its end, so that a fit that was stopped leaves no trace and begins anew."""

    kind = JobKind.FIT_HEAD

    def __init__(self, head_of: HeadOf, options: HeadOptions | None = None) -> None:
        self._head_of = head_of
        self._options = options or HeadOptions()

    def plan(self, session: Session, job: JobRow) -> Plan:
        if job.stage is None:
            passes = 2 * self._options.fit.epochs
            return Plan.next_stage(STAGE, [ChunkSpec(STAGE, items=passes)])
        made = heads.head_of_job(session, job.id)
        return Plan.end({"head_id": made.id, "version": made.version} if made else None)

    def work(self, chunk: ChunkContext) -> None:
        model_id = int(chunk.job.params["model_id"])
        with chunk.sessions() as session:
            labelled = read_labelled(session, model_id)
            row, former, why_not = former_of(session, model_id, labelled.individuals, self._head_of)
        passes = _Passes(chunk)
        try:
            fitted = fit(
                labelled.vectors,
                labelled.labels,
                labelled.encounters,
                self._options,
                former=former,
                stopping=chunk.stopping,
                progress=passes,
            )
        except FitStopped:
            return
        except TooFew as error:
            raise JobFailed("too_little_to_measure", str(error)) from error
        fitted.report["former_head"] = {
            "id": row.id if row else None,
            "version": row.version if row else None,
            "not_measured": why_not,
        }

        def write(session: Session) -> list[ItemFailure]:
            slots = heads.fitted_slots(session, model_id, labelled.individuals)
            principal = chunk.job.requested_by
            register(session, model_id, fitted, slots, principal=principal, job_id=chunk.job.id)
            return []

        chunk.commit(write, passes.done)


class _Passes:
    """Tells a job how many passes are done, and remembers."""

    def __init__(self, chunk: ChunkContext) -> None:
        self._chunk = chunk
        self.done = 0

    def __call__(self, done: int, total: int) -> None:
        self.done = done
        self._chunk.progress(done, total)
