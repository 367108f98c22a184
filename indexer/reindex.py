"""Owns re-index runs: asking for one, and the stages that its job does.

A run embeds every annotation in the new space, builds a snapshot, writes a report and is `ready`;
nothing that answers requests notices. From then on a tick (`indexer.follow`) keeps the space
complete, so that the switch (`indexer.switch`), one row in one transaction, finds every annotation
in both spaces. Only machine-made tables are written: vectors, snapshots, jobs, runs, the slot; and
the audit trail.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from sqlalchemy import text
from sqlalchemy.orm import Session, sessionmaker

from db.errors import Conflict, Invalid
from db.queries import embeddings, jobs, records, runs
from db.queries.embeddings import PHOTO_SLOT, MissingAnnotation, SpaceRow
from db.queries.jobs import ChunkSpec, ItemFailure, JobRow
from db.queries.runs import RunRow as RunRow
from db.types import JobKind, Modality, ReindexState
from indexer.embed import embed_photos
from indexer.follow import EmbedderOf as EmbedderOf
from indexer.follow import Follower as Follower
from indexer.follow import item_failures
from indexer.jobs import ChunkContext, Plan, Unable
from indexer.media import MediaStore
from indexer.reindex_report import build_report
from indexer.shelf import BUILD_LOCK
from indexer.snapshot import Snapshot, SnapshotStore
from indexer.switch import Limits as Limits
from indexer.switch import Retired as Retired
from indexer.switch import abandon as abandon
from indexer.switch import activate as activate
from indexer.switch import find_space as find_space
from indexer.switch import retire_model as retire_model
from indexer.switch import rollback as rollback
from indexer.switch import run_subject, space_detail
from models.errors import BundleError
from models.preprocess import DecodeLimits

CHUNK: Final = 64
"""Annotations that a worker embeds before it commits."""
_ROUNDS: Final = 3
"""After so many looks for annotations that came meanwhile, the rest is left to the tick."""

_SLOT_MODALITY: Final = {PHOTO_SLOT: Modality.PHOTO, "identify.sound": Modality.SOUND}


# ---------------------------------------------------------------- asking


def start(
    sessions: sessionmaker[Session],
    *,
    space: SpaceRow,
    slot: str = PHOTO_SLOT,
    principal: str = "local",
) -> RunRow:
    """A run that moves `slot` to a registered space; workers begin when this returns.

    Raises:
        Conflict: `reindex_running`, the slot has a run under way or ready; `values` hold its
            `run_id` and `job_id`.
        Invalid: `reindex_same_space`, the slot searches this space already; `modality_wrong`.
    """
    wanted = _SLOT_MODALITY.get(slot)
    if wanted is not None and space.modality != wanted:
        raise Invalid(
            "modality_wrong",
            f"{slot} searches {wanted} vectors; {space.name} {space.version} makes "
            f"{space.modality} vectors.",
            slot=slot,
            modality=str(space.modality),
        )
    try:
        with sessions.begin() as session:
            active = embeddings.active_space(session, slot)
            if active is not None and active.id == space.id:
                raise Invalid(
                    "reindex_same_space",
                    f"{slot} searches the space of {space.name} {space.version} already; there is "
                    "nothing to re-index.",
                    slot=slot,
                    fingerprint=space.fingerprint,
                )
            job = jobs.create_job(
                session,
                kind=JobKind.REINDEX,
                params={"slot": slot, "model": space.name, "fingerprint": space.fingerprint},
                principal=principal,
                exclusive_key=f"reindex:{slot}",
            )
            run = runs.create_run(
                session,
                job.id,
                slot=slot,
                from_model_id=active.id if active else None,
                to_model_id=space.id,
                principal=principal,
            )
            records.add_audit(
                session,
                principal,
                "reindex.start",
                run_subject(run),
                {
                    "slot": slot,
                    "from": space_detail(run.from_space),
                    "to": space_detail(run.to_space),
                },
            )
    except Conflict as error:
        raise _running(sessions, slot, error) from error
    return run


def _running(sessions: sessionmaker[Session], slot: str, error: Conflict) -> Conflict:
    if error.code not in ("job_running", "reindex_running"):
        return error
    with sessions() as session:
        run = runs.open_run(session, slot)
    if run is None:  # it ended just now
        return error
    ready = run.state == ReindexState.READY
    step = (
        f"It is ready: activate it with `resight reindex activate {run.id}`, or abandon it"
        if ready
        else f"Watch it with `resight jobs watch {run.id}`, or abandon it"
    )
    return Conflict(
        "reindex_running",
        f"{slot} is being moved to {run.to_space.name} {run.to_space.version} already. {step} "
        "first.",
        run_id=str(run.id),
        job_id=str(run.id),
        slot=slot,
        state=str(run.state),
    )


# ---------------------------------------------------------------- the stages


class ReindexHandler:
    """Does re-index jobs: embedding, building, verifying; the job is done when the run is ready."""

    kind = JobKind.REINDEX

    def __init__(
        self,
        store: MediaStore,
        snapshots: SnapshotStore,
        embedder_of: EmbedderOf,
        *,
        chunk: int = CHUNK,
        batch: int = 16,
        limits: DecodeLimits | None = None,
    ) -> None:
        self._store = store
        self._snapshots = snapshots
        self._limits = limits
        self._embedder_of = embedder_of
        self._chunk = chunk
        self._batch = batch

    def plan(self, session: Session, job: JobRow) -> Plan:
        run = runs.get_run(session, job.id, lock=True)
        if run.state in (ReindexState.REQUESTED, ReindexState.EMBEDDING):
            chunks = self._embedding(session, run, job)
            if chunks:
                runs.set_run_state(session, run.id, ReindexState.EMBEDDING)
                return Plan.next_stage(ReindexState.EMBEDDING, chunks)
            runs.set_run_state(session, run.id, ReindexState.BUILDING)
            return Plan.next_stage(ReindexState.BUILDING, [ChunkSpec(ReindexState.BUILDING)])
        if run.state in (ReindexState.BUILDING, ReindexState.VERIFYING):
            return Plan.next_stage(run.state, [ChunkSpec(run.state)])
        return Plan.end({"run_id": str(run.id), "failed": job.failed})

    def _embedding(self, session: Session, run: RunRow, job: JobRow) -> list[ChunkSpec]:
        """What lacks a vector, in ranges; nothing after some rounds: annotations that keep coming
        are the tick's, or the run would never end."""
        rounds = runs.stage_rounds(session, job.id, ReindexState.EMBEDDING)
        if rounds >= _ROUNDS:
            return []
        return [
            ChunkSpec(
                ReindexState.EMBEDDING,
                {"first": first, "last": last, "round": rounds + 1},
                count,
            )
            for first, last, count in embeddings.missing_ranges(
                session, run.to_model_id, self._chunk, job.id
            )
        ]

    def work(self, chunk: ChunkContext) -> None:
        with chunk.sessions() as session:
            run = runs.get_run(session, chunk.job.id)
        try:
            if chunk.row.stage == ReindexState.EMBEDDING:
                self._embed(chunk, run)
            elif chunk.row.stage == ReindexState.BUILDING:
                self._build(chunk, run)
            else:
                self._verify(chunk, run)
        except _Stopped:
            return

    def _embed(self, chunk: ChunkContext, run: RunRow) -> None:
        wanted = self._wanted(chunk, run.to_model_id)
        try:
            embedder = self._embedder_of(run.to_space.fingerprint)
        except BundleError as error:
            raise Unable(error.code, str(error)) from error
        photos = embed_photos(
            self._store,
            embedder,
            wanted,
            batch=self._batch,
            stopping=chunk.stopping,
            limits=self._limits,
        )
        if photos is None:
            return

        def write(session: Session) -> list[ItemFailure]:
            photos.put(session, run.to_model_id)
            return item_failures(photos)

        chunk.commit(write, max(chunk.row.items - len(photos.failed), 0))

    def _wanted(self, chunk: ChunkContext, model_id: int) -> list[MissingAnnotation]:
        with chunk.sessions() as session:
            if chunk.row.retry is not None:
                return embeddings.missing(
                    session, model_id, among=[int(item.split("@")[0]) for item in chunk.row.retry]
                )
            params = chunk.row.params
            return embeddings.missing(
                session,
                model_id,
                after_id=params["first"] - 1,
                until_id=params["last"],
                job_id=chunk.job.id,
            )

    def _build(self, chunk: ChunkContext, run: RunRow) -> None:
        self._snapshot(chunk, run, newest=False)
        chunk.commit(_moved(run, ReindexState.VERIFYING), 0)

    def _verify(self, chunk: ChunkContext, run: RunRow) -> None:
        snapshot = self._snapshot(chunk, run, newest=True)

        def alive() -> None:
            if chunk.stopping():
                raise _Stopped

        report = build_report(chunk.sessions, run, snapshot, alive=alive)

        def write(session: Session) -> list[ItemFailure]:
            runs.put_run_report(session, run.id, report, snapshot.id if snapshot else None)
            runs.set_run_state(session, run.id, ReindexState.READY)
            return []

        chunk.commit(write, 0)

    def _snapshot(self, chunk: ChunkContext, run: RunRow, *, newest: bool) -> Snapshot | None:
        """A snapshot of the candidate in this machine's folder; None for an empty space."""
        with chunk.sessions.begin() as session:
            if embeddings.count_vectors(session, run.to_model_id) == 0:
                return None
            space = embeddings.get_space_by_id(session, run.to_model_id)
            session.execute(
                text("SELECT pg_advisory_xact_lock(:lock, :model)"),
                {"lock": BUILD_LOCK, "model": space.id},
            )
            found = self._snapshots.newest(session, space) if newest else None
            return found or self._snapshots.build(session, space)


class _Stopped(Exception):
    """The chunk is to be given up."""


def _moved(run: RunRow, state: ReindexState) -> Callable[[Session], list[ItemFailure]]:
    def write(session: Session) -> list[ItemFailure]:
        runs.set_run_state(session, run.id, state)
        return []

    return write
