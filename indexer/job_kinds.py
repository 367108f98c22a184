"""Owns the kinds of jobs: what a worker can do, and what it does while there is no job.

Here are the kinds that need no more than a plan and a loop: embed what is missing, build a
snapshot, import, evaluate, export. Re-indexing, head fits and calibration have modules of their
own.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import numpy as np
from sqlalchemy import text
from sqlalchemy.orm import Session, sessionmaker

from db.queries import catalogue, embeddings, jobs, media, records, runs
from db.queries.jobs import ChunkSpec, ItemFailure, JobRow
from db.queries.media import AnnotationRow
from db.types import JobKind, SnapshotState
from indexer.ann import BuildAnnHandler
from indexer.calibrate_job import CalibrateHandler
from indexer.embedding_stage import STAGE, EmbeddingStage
from indexer.evaluate import Ranks, leave_one_encounter_out
from indexer.follow import EmbedderOf, Follower
from indexer.head import FitHeadHandler, HeadOf
from indexer.ingest import ImportProgress, run_import
from indexer.jobs import ChunkContext, JobFailed, JobHandler, Plan, Tick
from indexer.layouts import ImportPlan, ImportPlanError, plan_import
from indexer.locations import is_uri
from indexer.media import MediaError, MediaStore, StoreUnavailable
from indexer.reindex import ReindexHandler
from indexer.reindex_report import accuracy, choose_questions
from indexer.remote_layouts import plan_uri
from indexer.snapshot import SnapshotStore, hold_build
from indexer.vector_index.protocol import unit_rows
from models.preprocess import DecodeLimits

Sessions = sessionmaker[Session]
Json = dict[str, Any]

_QUERIES: Final = 256
_LINES: Final = 200
"""Questions of an evaluation and lines of an export between two looks at whether to stop."""


@dataclass(frozen=True, slots=True, eq=False)
class Means:
    """What a worker has to do jobs with."""

    sessions: Sessions
    store: MediaStore
    snapshots: SnapshotStore
    exports_dir: Path
    embedder_of: EmbedderOf
    head_of: HeadOf
    limits: DecodeLimits = field(default_factory=DecodeLimits)
    import_prefixes: tuple[str, ...] = ()
    """Where photos may be imported from by URI."""


def handlers(means: Means) -> list[JobHandler]:
    """One for each kind of job."""
    return [
        EmbedMissing(means),
        ReindexHandler(means.store, means.snapshots, means.embedder_of, limits=means.limits),
        BuildSnapshot(means),
        BuildAnnHandler(means.sessions),
        FitHeadHandler(means.head_of),
        ImportPhotos(means),
        Evaluate(),
        Export(means),
        CalibrateHandler(),
    ]


def ticks(means: Means) -> list[Tick]:
    """What a worker does while there is no job: keep spaces complete."""
    return [Follower(means.sessions, means.store, means.embedder_of, limits=means.limits)]


class EmbedMissing:
    """Params: `model_id`. Every annotation that lacks a vector in the space gets one; those that
    cannot be embedded are failures. Photos without annotations lack nothing."""

    kind = JobKind.EMBED_MISSING

    def __init__(self, means: Means) -> None:
        self._stage = EmbeddingStage(means.store, means.embedder_of, limits=means.limits)

    def plan(self, session: Session, job: JobRow) -> Plan:
        chunks = self._stage.plan(session, job, job.params["model_id"])
        if not chunks:
            return Plan.end({"embedded": job.done, "failed": job.failed})
        return Plan.next_stage(STAGE, chunks)

    def work(self, chunk: ChunkContext) -> None:
        self._stage.work(chunk, chunk.job.params["model_id"])


class BuildSnapshot:
    """Params: `model_id`. A snapshot of the space in this machine's folder; its services take it
    into use when they next renew theirs."""

    kind = JobKind.BUILD_SNAPSHOT

    def __init__(self, means: Means) -> None:
        self._snapshots = means.snapshots

    def plan(self, session: Session, job: JobRow) -> Plan:
        if job.stage is not None:
            return Plan.end()
        if embeddings.count_vectors(session, job.params["model_id"]) == 0:
            return Plan.end({"snapshot": None, "vectors": 0})
        return Plan.next_stage("building", [ChunkSpec("building")])

    def work(self, chunk: ChunkContext) -> None:
        model_id = chunk.job.params["model_id"]
        with chunk.sessions.begin() as session:
            space = embeddings.get_space_by_id(session, model_id)
            hold_build(session, model_id)
            self._snapshots.build(session, space)
        with chunk.sessions() as session:
            built = embeddings.list_snapshots(session, model_id, SnapshotState.READY)[0]
        result = {
            "snapshot": str(built.id),
            "vectors": built.vector_count,
            "recall": built.recall,
        }
        chunk.commit(_storing(chunk, result), 0)


class ImportPhotos:
    """Params: `path`, a path on the worker's machine or a URI; `layout` and `catalogue` or None.
    Skips are failures. Done again after a crash, it goes on: what is stored is recognised by its
    content."""

    kind = JobKind.IMPORT

    def __init__(self, means: Means) -> None:
        self._means = means

    def plan(self, session: Session, job: JobRow) -> Plan:  # noqa: ARG002
        if job.stage is not None:
            return Plan.end()
        return Plan.next_stage("importing", [ChunkSpec("importing")])

    def work(self, chunk: ChunkContext) -> None:
        params = chunk.job.params
        try:
            plan = self._plan(params["path"], params.get("layout"))
        except StoreUnavailable:
            raise  # tried again later
        except (ImportPlanError, MediaError) as error:
            raise JobFailed(error.code, error.detail) from error
        plan = _only(plan, chunk.row.retry)

        def progress(now: ImportProgress) -> None:
            chunk.check()
            chunk.progress(now.imported + now.already_known, now.total)

        try:
            report = run_import(
                chunk.sessions,
                self._means.store,
                plan,
                catalogue_name=params.get("catalogue"),
                progress=progress,
                limits=self._means.limits,
            )
        except StoreUnavailable:
            raise  # tried again later
        except MediaError as error:
            raise JobFailed(error.code, error.detail) from error
        skipped = [ItemFailure(one.entry, one.code, one.detail) for one in report.skipped]
        result = {
            "run_id": str(report.run_id),
            "imported": report.imported,
            "already_known": report.already_known,
            "skipped": len(skipped),
        }
        chunk.progress(report.imported + report.already_known, report.total)
        chunk.commit(_storing(chunk, result, skipped), report.imported + report.already_known)

    def _plan(self, path: str, layout: str | None) -> ImportPlan:
        if is_uri(path):
            return plan_uri(path, layout, allowed=self._means.import_prefixes)
        return plan_import(Path(path), layout)


def _only(plan: ImportPlan, names: tuple[str, ...] | None) -> ImportPlan:
    if names is None:
        return plan
    wanted = set(names)
    return replace(
        plan,
        entries=tuple(entry for entry in plan.entries if entry.name in wanted),
        skips=tuple(skip for skip in plan.skips if skip.entry in wanted),
    )


class Evaluate:
    """Params: `model_id`. How well the space knows confirmed annotations again in photos of other
    encounters: top-1, top-5 and mean average precision, with intervals and denominators."""

    kind = JobKind.EVALUATE

    def plan(self, session: Session, job: JobRow) -> Plan:  # noqa: ARG002
        if job.stage is not None:
            return Plan.end()
        return Plan.next_stage("asking", [ChunkSpec("asking")])

    def work(self, chunk: ChunkContext) -> None:
        model_id = chunk.job.params["model_id"]
        with chunk.sessions() as session:
            confirmed = runs.confirmed(session, [model_id])
            questions = choose_questions(confirmed)
            _, found = embeddings.vectors_of(session, model_id, confirmed.ids[questions.gallery])
        vectors = unit_rows(found)
        asked = len(questions.queries)
        answers = []
        for first in range(0, asked, _QUERIES):
            if chunk.stopping():
                return
            chunk.progress(first, asked)
            answers.append(
                leave_one_encounter_out(
                    vectors,
                    questions.individual,
                    questions.encounter,
                    queries=questions.queries[first : first + _QUERIES],
                )
            )
        result = {
            **accuracy(_joined(answers)),
            "annotations": len(confirmed.ids),
            "gallery": len(questions.gallery),
            "asked": asked,
        }
        chunk.progress(asked, asked)
        chunk.commit(_storing(chunk, result), asked)


def _joined(parts: Sequence[Ranks]) -> Ranks:
    nothing = np.zeros(0, np.int64)
    return Ranks(
        np.concatenate([nothing, *(part.queries for part in parts)]),
        np.concatenate([nothing, *(part.rank for part in parts)]),
        np.concatenate([np.zeros(0), *(part.average_precision for part in parts)]),
        sum(part.skipped for part in parts),
    )


class Export:
    """Params: `what`, "queries" or "catalogue" (the default). JSON lines in the folder of exports;
    the file appears when it is whole."""

    kind = JobKind.EXPORT

    def __init__(self, means: Means) -> None:
        self._folder = means.exports_dir

    def plan(self, session: Session, job: JobRow) -> Plan:
        what = job.params.get("what", "catalogue")
        if what not in _LINES_OF:
            raise JobFailed(
                "export_unknown", f"{what!r} cannot be exported; choose {' or '.join(_LINES_OF)}."
            )
        if job.stage is not None:
            return Plan.end()
        count, _ = _LINES_OF[what]
        items = int(session.scalar(text(count)) or 0)
        return Plan.next_stage("writing", [ChunkSpec("writing", {"what": what}, items)])

    def work(self, chunk: ChunkContext) -> None:
        what = chunk.row.params["what"]
        self._folder.mkdir(parents=True, exist_ok=True)
        target = self._folder / f"{what}-{chunk.job.id}.jsonl"
        part = target.with_suffix(f".{chunk.row.token}.part")
        try:
            with chunk.sessions() as session, part.open("w", encoding="utf-8") as file:
                written = 0
                for line in _LINES_OF[what][1](session):
                    file.write(json.dumps(line, ensure_ascii=False, default=str) + "\n")
                    written += 1
                    if written % _LINES == 0:
                        chunk.check()
                        chunk.progress(written)
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, target)
        finally:
            part.unlink(missing_ok=True)
        chunk.progress(written, written)
        chunk.commit(_storing(chunk, {"file": str(target), "lines": written}), written)


def _query_lines(session: Session) -> Iterator[Json]:
    for query in records.export_queries(session):
        reviews = records.list_reviews(session, query.id)
        yield {
            "query_id": str(query.id),
            "created_at": query.created_at.isoformat(),
            "kind": str(query.kind),
            "principal": query.principal,
            "photos": [photo.file_name for photo in query.photos],
            "answer": query.answer,
            "reviews": [
                {
                    "verdict": str(review.verdict),
                    "individual_id": review.individual_id and str(review.individual_id),
                    "reviewer": review.reviewer,
                    "note": review.note,
                    "created_at": review.created_at.isoformat(),
                }
                for review in reviews
            ],
        }


def _individual_lines(session: Session) -> Iterator[Json]:
    cursor = None
    while True:
        page = catalogue.list_individuals(session, limit=100, cursor=cursor)
        for row in catalogue.get_individuals(session, [one.id for one in page.items]).values():
            yield {
                "individual_id": str(row.id),
                "names": row.names,
                "taxon": row.taxon,
                "sex": str(row.sex),
                "vitality": str(row.vitality),
                "life_stage": str(row.life_stage),
                "notes": row.notes,
                "links": list(row.links),
                "created_at": row.created_at.isoformat(),
                "photos": [
                    {
                        "annotation_id": photo.id,
                        "sha256": photo.sha256,
                        "box_px": photo.box_px,
                        "viewpoint": photo.viewpoint,
                        "encounter_id": photo.encounter_id and str(photo.encounter_id),
                    }
                    for photo in _photos(session, row.id)
                ],
            }
        cursor = page.next_cursor
        if cursor is None:
            return


def _photos(session: Session, individual_id: UUID) -> Iterator[AnnotationRow]:
    cursor = None
    while True:
        page = media.annotations_of(session, individual_id, 500, cursor)
        yield from page.items
        cursor = page.next_cursor
        if cursor is None:
            return


_LINES_OF: Final[dict[str, tuple[str, Callable[[Session], Iterable[Json]]]]] = {
    "catalogue": (
        "SELECT count(*) FROM individual WHERE merged_into_id IS NULL AND NOT withdrawn",
        _individual_lines,
    ),
    "queries": ("SELECT count(*) FROM query", _query_lines),
}


def _storing(
    chunk: ChunkContext, result: Json, failures: Iterable[ItemFailure] = ()
) -> Callable[[Session], Iterable[ItemFailure]]:
    def write(session: Session) -> Iterable[ItemFailure]:
        jobs.put_result(session, chunk.job.id, result)
        return failures

    return write
