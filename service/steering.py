"""Starting and steering jobs and re-index runs, audited; for API, pages and command line alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal, get_args
from uuid import UUID

from sqlalchemy.orm import Session, sessionmaker

from db.errors import NotFound
from db.queries import embeddings, jobs, records, runs
from db.queries.embeddings import SpaceRow
from db.queries.jobs import JobRow
from db.queries.runs import RunRow
from db.types import JobKind, JobState, ReindexState
from indexer import reindex, switch
from indexer.catalogue import register_bundle
from models.bundles import list_installed, load_space
from models.errors import BundleError
from service.job_schemas import Slot, StartableKind, StartJobBody, StartReindexBody
from service.settings import Settings

OPEN_STATES = (JobState.QUEUED, JobState.RUNNING, JobState.PAUSED, JobState.CANCELLING)
ENDED_STATES = tuple(state for state in JobState if state not in OPEN_STATES)

STARTABLE: Final[tuple[StartableKind, ...]] = get_args(StartableKind)
"""Kinds that are started by `POST /v1/jobs`; others have a way of their own."""

Action = Literal["pause", "resume", "cancel", "retry"]


def steer(
    sessions: sessionmaker[Session], job_id: UUID, action: Action, principal: str, *, admin: bool
) -> JobRow:
    """Pauses, resumes or cancels a job, or runs its failed items again; the job as it is then.

    Raises:
        NotFound: no job has this id.
        Conflict: the job's state forbids it, or somebody else paused it.
    """
    with sessions.begin() as session:
        if action == "pause":
            row = jobs.pause(session, job_id, principal)
        elif action == "resume":
            row = jobs.resume(session, job_id, principal, admin=admin)
        elif action == "cancel":
            row = jobs.cancel(session, job_id, principal)
        else:
            row = jobs.retry_failed(session, job_id, principal)
        detail = {"kind": str(row.kind), "state": str(row.state)}
        records.add_audit(session, principal, f"job.{action}", f"job:{job_id}", detail)
    return row


def start(sessions: sessionmaker[Session], body: StartJobBody, principal: str) -> JobRow:
    """A new job; a worker takes it up.

    Raises:
        Conflict: `job_running`, such a job is under way for this space.
        NotFound: no such space, or none is searched in yet.
    """
    kind = JobKind(body.kind)
    with sessions.begin() as session:
        if kind == JobKind.EXPORT:
            params: dict[str, Any] = {"what": body.what}
            key = f"{kind}:{body.what}"
        else:
            space = space_of(session, body.model)
            params = {"model_id": space.id, "model": space.name}
            key = f"{kind}:{space.id}"
        row = jobs.create_job(
            session, kind=kind, params=params, principal=principal, exclusive_key=key
        )
        detail = {"kind": str(kind)} | params
        records.add_audit(session, principal, "job.start", f"job:{row.id}", detail)
    return row


def space_of(session: Session, name: str | None) -> SpaceRow:
    """The space that is called so, or the one that is searched in.

    Raises:
        NotFound, Conflict: there is none, or more than one.
    """
    if name is not None:
        return reindex.find_space(session, name)
    space = embeddings.active_space(session)
    if space is None:
        raise NotFound("space_unknown", "The catalogue is not searched in any space yet.")
    return space


def start_reindex(
    sessions: sessionmaker[Session], settings: Settings, body: StartReindexBody, principal: str
) -> RunRow:
    """A run that moves a slot to the space of an installed bundle, which is registered first where
    it is new; a space that is known already needs no bundle here: workers that have it embed.

    Raises:
        NotFound, Conflict: no space and no bundle is called so, or more than one.
        BundleError: the bundle is broken; nothing was registered.
        Conflict: `reindex_running`, the slot is being moved already.
        Invalid: `reindex_same_space`, it searches there already.
    """
    found = next(
        (one for one in list_installed(settings.models_dir) if one.name == body.model), None
    )
    if found is not None and found.problem is not None:
        raise BundleError(found.problem.code, found.problem.detail)
    with sessions() as session:
        if found is None or found.manifest is None:
            space = reindex.find_space(session, body.model)
        else:
            fingerprint = found.manifest.fingerprint
            known = {one.fingerprint: one for one in embeddings.list_spaces(session)}
            space = known.get(fingerprint) or _register(sessions, settings, fingerprint)
    return reindex.start(sessions, space=space, slot=body.slot, principal=principal)


def _register(sessions: sessionmaker[Session], settings: Settings, fingerprint: str) -> SpaceRow:
    """Registers a bundle's space and head. Loading the bundle is the proof that it can be used:
    checksums, shapes, golden vectors on this machine."""
    bundle = load_space(settings.models_dir, fingerprint, device=settings.device)
    if bundle.embedder is None:
        raise BundleError("no_embedder", f"{bundle.bundle} has no embedder: name another bundle")
    with sessions.begin() as session:
        return register_bundle(session, bundle.embedder.spec, bundle.head)[0]


def candidates(session: Session, settings: Settings) -> list[str]:
    """Names of installed bundles whose space is another one than that in use."""
    active = embeddings.active_space(session)
    return [
        one.name
        for one in list_installed(settings.models_dir)
        if one.manifest is not None
        and one.manifest.kind == "embedder"
        and (active is None or one.manifest.fingerprint != active.fingerprint)
    ]


def why_not(session: Session, run: RunRow) -> list[switch.Problem]:
    """Why a ready run would not be activated now without force."""
    return switch.check(session, run, reindex.Limits()) if run.state == ReindexState.READY else []


@dataclass(frozen=True, slots=True)
class SpaceUse:
    """A space whose vectors are kept, and what for; `needed` is False where nothing needs it."""

    name: str
    version: str
    fingerprint: str
    dim: int
    needed: bool
    use: str
    model_id: int


def space_uses(session: Session) -> list[SpaceUse]:
    """Every space that has vectors or can take them, oldest first, and why it is kept."""
    searched: dict[int, list[str]] = {}
    for slot in get_args(Slot):
        space = embeddings.active_space(session, slot)
        if space is not None:
            searched.setdefault(space.id, []).append(slot)
    uses = []
    for space in embeddings.list_spaces(session):
        reasons = [f"searched by {', '.join(searched[space.id])}"] if space.id in searched else []
        for run in runs.holders(session, space.id):
            if run.to_model_id == space.id:
                reasons.append(f"the run {str(run.id)[:8]} moves {run.slot} here ({run.state})")
            elif run.state == ReindexState.ACTIVE:
                reasons.append(f"kept for the way back of {run.slot}, until it is retired")
        uses.append(
            SpaceUse(
                name=space.name,
                version=space.version,
                fingerprint=space.fingerprint,
                dim=space.dim,
                needed=bool(reasons),
                use="; ".join(reasons) or f"not needed: `resight models retire {space.name}`",
                model_id=space.id,
            )
        )
    return uses
