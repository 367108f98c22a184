"""Starting and steering jobs, each with its line in the audit trail; for API, pages, commands."""

from __future__ import annotations

from typing import Any, Final, Literal, get_args
from uuid import UUID

from sqlalchemy.orm import Session, sessionmaker

from db.errors import NotFound
from db.queries import embeddings, jobs, records
from db.queries.embeddings import SpaceRow
from db.queries.jobs import JobRow
from db.types import JobKind, JobState
from service.job_schemas import StartableKind, StartJobBody

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
        space = _space(session, body.model)
        params: dict[str, Any] = {"model_id": space.id, "model": space.name}
        row = jobs.create_job(
            session,
            kind=kind,
            params=params,
            principal=principal,
            exclusive_key=f"{kind}:{space.id}",
        )
        detail = {"kind": str(kind), "model": space.name}
        records.add_audit(session, principal, "job.start", f"job:{row.id}", detail)
    return row


def _space(session: Session, name: str | None) -> SpaceRow:
    """The newest space of this name, or the one that is searched in.

    Raises:
        NotFound: there is none.
    """
    if name is None:
        space = embeddings.active_space(session)
        if space is None:
            raise NotFound("space_unknown", "The catalogue is not searched in any space yet.")
        return space
    named = [space for space in embeddings.list_spaces(session) if space.name == name]
    if not named:
        raise NotFound(
            "space_unknown",
            f"The catalogue has no space of the model {name!r}; `resight models list` names those "
            "that are installed.",
            name=name,
        )
    return named[-1]
