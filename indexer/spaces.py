"""Which space the catalogue is searched in: registering bundles, the first one, moving to another.

A space that holds vectors is left only through a re-index run, with its report, its checks and its
entry in the audit trail; starting a service with another bundle changes nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from uuid import UUID

from sqlalchemy.orm import Session, sessionmaker

from db.errors import Conflict, Invalid
from db.queries import embeddings, jobs, records, runs
from db.queries.embeddings import HeadRow, SpaceRow
from db.queries.jobs import ItemFailure
from db.types import JobState, ReindexState
from indexer import reindex
from indexer.answers import Notice
from indexer.embed import EmbedProgress, embed_missing
from indexer.jobs import JobRunner
from indexer.media import MediaStore
from indexer.snapshot import SnapshotStore
from models.bundles import Serving
from models.embedder import Embedder, EmbedderSpec
from models.errors import BundleError
from models.head import Head

SLOT = "identify.photo"
"""The use of a space that identification searches."""


_WAIT_S: Final = 0.2
_TOLD: Final = 200
"""Failures that `activate` names; the job has them all."""


@dataclass(frozen=True, slots=True)
class ActiveSpace:
    """The space that the catalogue is searched in. `usable` when the loaded bundle embeds into it;
    otherwise `problem` says why not."""

    space: SpaceRow | None
    head_id: int | None
    problem: Notice | None

    @property
    def usable(self) -> bool:
        return self.space is not None and self.problem is None


def space_in_use(session: Session) -> SpaceRow | None:
    """The space that the catalogue is searched in, if it holds a vector: only a re-index moves the
    catalogue away from it."""
    space = embeddings.active_space(session, SLOT)
    if space is None or embeddings.count_vectors(session, space.id) == 0:
        return None
    return space


def register_serving(sessions: sessionmaker[Session], serving: Serving) -> ActiveSpace:
    """Registers the loaded bundle's space and head, and takes the space into use where none is,
    or where the one in use holds no vector yet. A bundle that the database refuses is a problem in
    the answer, never an exception."""
    try:
        with sessions.begin() as session:
            if serving.embedder is not None:
                space, _ = registered(session, serving)
                return _take_into_use(session, space)
    except (Conflict, Invalid) as error:
        problem = Notice(error.code, f"The bundle {serving.bundle} cannot be used: {error.detail}")
    else:
        problem = Notice("no_embedder", "No embedding model is loaded, so nothing can be searched.")
    with sessions() as session:
        return ActiveSpace(embeddings.active_space(session, SLOT), None, problem)


def registered(session: Session, serving: Serving) -> tuple[SpaceRow, HeadRow | None]:
    """The loaded bundle's space and the head in use there, registered where they are not; the
    head is the bundle's own, or one that was fitted on this catalogue.

    Raises:
        Invalid, Conflict: as `register_bundle`; `no_embedder`, nothing is loaded.
    """
    if serving.embedder is None:
        raise Invalid("no_embedder", "No embedding model is loaded; see `resight models list`.")
    space, _ = register_bundle(session, serving.embedder.spec, serving.head)
    return space, embeddings.active_head(session, space.id)


def register_bundle(
    session: Session, spec: EmbedderSpec, head: Head | None
) -> tuple[SpaceRow, int | None]:
    """The space of a bundle, with its partition and its head's id, registered where they are not.

    Raises:
        Invalid: the space has more dimensions than can be indexed.
        Conflict: another space has its name and version, its fingerprint has another name, or
            another head has its version.
    """
    space = embeddings.register_space(
        session,
        name=spec.name,
        version=spec.version,
        fingerprint=spec.fingerprint,
        dim=spec.dim,
        modality=spec.modality,
        preprocessing=spec.preprocessing.as_dict(),
        licence=spec.licence,
        digest=spec.digest,
    )
    if space.name != spec.name:
        raise Conflict(
            "space_exists",
            f"The space of {spec.name} is registered as {space.name}: two names for one space "
            f"would be taken for two. Install the bundle as {space.name}.",
            name=spec.name,
            registered=space.name,
        )
    if head is None:
        return space, None
    made = embeddings.register_head(
        session,
        model_id=space.id,
        version=head.version,
        slots=head.slots(),
        scale=head.scale,
        min_probability=head.min_probability,
        digest=head.digest,
    )
    return space, made.id


def _take_into_use(session: Session, space: SpaceRow) -> ActiveSpace:
    head = embeddings.active_head(session, space.id)
    head_id = head.id if head is not None else None
    active = embeddings.active_space(session, SLOT)
    if active is None or (active.id != space.id and _free(session)):
        embeddings.set_slot(session, SLOT, space.id)
        records.add_audit(
            session,
            "local",
            "space.activate",
            f"space:{space.id}",
            {
                "name": space.name,
                "version": space.version,
                "fingerprint": space.fingerprint,
                "reason": "no space with vectors was in use",
            },
        )
        active = space
    if active.id == space.id:
        return ActiveSpace(space, head_id, None)
    return ActiveSpace(active, head_id, _other_space(active, space))


def _free(session: Session) -> bool:
    """Whether no vector would be lost sight of, and no run is about to move the catalogue."""
    return space_in_use(session) is None and runs.open_run(session, SLOT) is None


def activate(
    sessions: sessionmaker[Session],
    store: MediaStore,
    serving: Serving,
    *,
    snapshots_dir: Path,
    principal: str = "local",
    force: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[ItemFailure, ...]:
    """Moves the catalogue to the loaded bundle's space before this returns: a re-index run that is
    worked on here and activated when it is ready. Who could not be embedded, and why.

    It is checked and recorded like any other run, `rollback` undoes it, and running services take
    the new space up. Where the catalogue is searched there already, only what lacks a vector is
    embedded. `progress` is called with (done, in all).

    Raises:
        Invalid: no embedding model is loaded; or the new space answers worse than the limits allow
            and `force` is not given: the run stays ready.
        Conflict: another run is under way; or this one failed.
    """
    with sessions.begin() as session:
        space, _ = registered(session, serving)
        _take_into_use(session, space)
        active = embeddings.active_space(session, SLOT)
    embedder = serving.embedder
    if embedder is None:  # refused by `registered` already
        raise AssertionError
    if active is not None and active.id == space.id:
        report = embed_missing(sessions, store, embedder, space.id, progress=_counted(progress))
        return tuple(
            ItemFailure(str(one.annotation_id), one.code, one.reason) for one in report.failed
        )
    run = reindex.start(sessions, space=space, slot=SLOT, principal=principal)
    handler = reindex.ReindexHandler(
        store, SnapshotStore(snapshots_dir), lambda fingerprint: _only(embedder, fingerprint)
    )
    _work_on(JobRunner(sessions, [handler], worker="activation"), sessions, run.id, progress)
    reindex.activate(
        sessions,
        run.id,
        principal=principal,
        force=force,
        wait_embed=lambda run: embed_missing(sessions, store, embedder, run.to_model_id),
    )
    with sessions() as session:
        failures = jobs.failures(session, run.id, limit=_TOLD).items
    return tuple(ItemFailure(one.item.split("@")[0], one.code, one.detail) for one in failures)


def _only(embedder: Embedder, fingerprint: str) -> Embedder:
    if embedder.spec.fingerprint != fingerprint:
        raise BundleError("not_installed", "another worker has the bundle of that space")
    return embedder


def _work_on(
    runner: JobRunner,
    sessions: sessionmaker[Session],
    run_id: UUID,
    progress: Callable[[int, int], None] | None,
) -> None:
    """Do the run's chunks, beside whoever else does, until it is ready."""
    while True:
        with sessions() as session:
            run, job = runs.get_run(session, run_id), jobs.get_job(session, run_id)
        if progress is not None:
            progress(job.done + job.failed, job.total or 0)
        if run.state == ReindexState.READY:
            return
        if run.state not in runs.WORKING or job.state == JobState.FAILED:
            raise Conflict(
                "reindex_ended",
                f"The re-index run was {run.state} before it was ready"
                f"{f': {job.error}' if job.error else ''}; nothing was switched.",
                run_id=str(run_id),
            )
        if not runner.run_one():
            time.sleep(_WAIT_S)


def _counted(
    progress: Callable[[int, int], None] | None,
) -> Callable[[EmbedProgress], None] | None:
    if progress is None:
        return None
    return lambda now: progress(now.embedded + now.failed, now.total)


def _other_space(active: SpaceRow, loaded: SpaceRow) -> Notice:
    return Notice(
        "other_space_active",
        f"The catalogue is searched in the space of {active.name} {active.version}, but the loaded "
        f"bundle is {loaded.name} {loaded.version}, and two spaces are never compared: no matches "
        f"are given. Install the bundle {active.name} here, or move the catalogue: `resight "
        f"reindex start {loaded.name}`.",
    )
