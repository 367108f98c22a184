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

from sqlalchemy.orm import Session, sessionmaker

from db.errors import Conflict, Invalid
from db.queries import embeddings, jobs, records, runs
from db.queries.embeddings import PHOTO_SLOT, SpaceRow
from db.queries.jobs import ChunkSpec, ItemFailure, JobRow
from db.queries.runs import RunRow as RunRow
from db.types import JobKind, Modality, ReindexState
from indexer.embedding_stage import CHUNK, EmbeddingStage
from indexer.follow import EmbedderOf as EmbedderOf
from indexer.follow import Follower as Follower
from indexer.jobs import ChunkContext, Plan
from indexer.media import MediaStore
from indexer.reindex_report import build_report
from indexer.snapshot import Snapshot, SnapshotStore, hold_build
from indexer.switch import Limits as Limits
from indexer.switch import Retired as Retired
from indexer.switch import abandon as abandon
from indexer.switch import activate as activate
from indexer.switch import find_space as find_space
from indexer.switch import retire_model as retire_model
from indexer.switch import rollback as rollback
from indexer.switch import run_subject, space_detail
from models.preprocess import DecodeLimits

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
        self._snapshots = snapshots
        self._embedding = EmbeddingStage(
            store, embedder_of, chunk=chunk, batch=batch, limits=limits
        )

    def plan(self, session: Session, job: JobRow) -> Plan:
        run = runs.get_run(session, job.id, lock=True)
        if run.state in (ReindexState.REQUESTED, ReindexState.EMBEDDING):
            chunks = self._embedding.plan(session, job, run.to_model_id)
            if chunks:
                runs.set_run_state(session, run.id, ReindexState.EMBEDDING)
                return Plan.next_stage(ReindexState.EMBEDDING, chunks)
            runs.set_run_state(session, run.id, ReindexState.BUILDING)
            return Plan.next_stage(ReindexState.BUILDING, [ChunkSpec(ReindexState.BUILDING)])
        if run.state in (ReindexState.BUILDING, ReindexState.VERIFYING):
            return Plan.next_stage(run.state, [ChunkSpec(run.state)])
        return Plan.end({"run_id": str(run.id), "failed": job.failed})

    def work(self, chunk: ChunkContext) -> None:
        with chunk.sessions() as session:
            run = runs.get_run(session, chunk.job.id)
        if chunk.row.stage == ReindexState.EMBEDDING:
            self._embedding.work(chunk, run.to_model_id)
        elif chunk.row.stage == ReindexState.BUILDING:
            self._build(chunk, run)
        else:
            self._verify(chunk, run)

    def _build(self, chunk: ChunkContext, run: RunRow) -> None:
        self._snapshot(chunk, run, newest=False)
        chunk.commit(_moved(run, ReindexState.VERIFYING), 0)

    def _verify(self, chunk: ChunkContext, run: RunRow) -> None:
        snapshot = self._snapshot(chunk, run, newest=True)
        report = build_report(chunk.sessions, run, snapshot, alive=chunk.check)

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
            hold_build(session, space.id)
            found = self._snapshots.newest(session, space) if newest else None
            return found or self._snapshots.build(session, space)


def _moved(run: RunRow, state: ReindexState) -> Callable[[Session], list[ItemFailure]]:
    def write(session: Session) -> list[ItemFailure]:
        runs.set_run_state(session, run.id, state)
        return []

    return write
