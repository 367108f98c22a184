"""Owns doing jobs: planning their stages, doing their chunks under a lease, giving them up in time.

The truth about jobs is in our own tables (`db.queries.jobs`); any number of runners on any number
of machines share it. A handler says what a kind of job does: `plan` cuts the next stage into
chunks, `work` does one chunk and commits its results together with its end.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol
from uuid import UUID

import psycopg
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.orm import Session, sessionmaker

from db.deadline import deadline
from db.queries import jobs
from db.queries.jobs import ChunkRow as ChunkRow
from db.queries.jobs import ChunkSpec as ChunkSpec
from db.queries.jobs import ItemFailure as ItemFailure
from db.queries.jobs import JobRow as JobRow
from db.types import ChunkState, JobKind, JobState
from indexer.failpoints import failpoint
from indexer.originals import StoreUnavailable

log = logging.getLogger("resight")

Sessions = sessionmaker[Session]
Json = dict[str, Any]
Tell = Callable[[str], None]
Stopping = Callable[[], bool]
Tick = Callable[[Stopping], bool]
"""What an idle runner does besides jobs; it is told when to stop, and says whether it did
anything."""

LEASE_S: Final = 30.0
POLL_S: Final = 2.0
LOOK_S: Final = 1.0
"""Seconds between two looks at whether a chunk under way should be given up."""
UNABLE_S: Final = 60.0
"""Seconds that a runner leaves a job alone that it lacks the means for."""
OUTAGE_S: Final = 1.0


class LostChunk(Exception):
    """The chunk belongs to another worker by now, or its job has ended; nothing was written."""


class Stopped(Exception):
    """The chunk under way is to be given up; `ChunkContext.check` raises it through the work."""


class JobFailed(Exception):
    """The job cannot be done, however often it is tried: it fails at once, with these words."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail


class Unable(Exception):
    """This worker lacks something for the chunk (a bundle, say) that another may have."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail


@dataclass(frozen=True, slots=True)
class Plan:
    """A job's next stage, or its end. Make it with `next_stage` or `end`."""

    stage: str | None
    chunks: tuple[ChunkSpec, ...] = ()
    total: int | None = None
    result: Json | None = None

    @staticmethod
    def next_stage(stage: str, chunks: Sequence[ChunkSpec], total: int | None = None) -> Plan:
        """Do these chunks, in any order and side by side; then `plan` is asked again.

        `total` is how many items the job has; without it, those done so far and those planned.

        Raises:
            ValueError: there are no chunks, so the job would never move on.
        """
        if not chunks:
            raise ValueError(
                f"the stage {stage!r} has no chunks; plan the one after it, or the end"
            )
        return Plan(stage, tuple(chunks), total)

    @staticmethod
    def end(result: Json | None = None) -> Plan:
        """The job is done; `result` is stored on it."""
        return Plan(None, result=result)


class ChunkContext:
    """A claimed chunk, while a handler works on it. `job` is as it was when it was claimed."""

    def __init__(
        self, sessions: Sessions, job: JobRow, row: ChunkRow, stop: threading.Event, lease_s: float
    ) -> None:
        self.sessions = sessions
        self.job = job
        self.row = row
        self.committed = False
        self._stop = stop
        self._lost = threading.Event()
        self._ended = threading.Event()
        self._lease_s = lease_s
        self._done: int | None = None
        self._items: int | None = None

    def stopping(self) -> bool:
        """Whether to give the chunk up now: return from `work` without a commit.

        Costs nothing: a thread beside asks the database about once a second, and renews the lease.
        """
        return self._stop.is_set() or self._lost.is_set()

    def check(self) -> None:
        """Raises:
        Stopped: the chunk is to be given up now.
        """
        if self.stopping():
            raise Stopped

    def progress(self, done: int, items: int | None = None) -> None:
        """Tell how many of the chunk's items are done, shown within a second or so; and how many
        there are, where only the work found out."""
        self._done = done
        self._items = self._items if items is None else items

    def commit(self, write: Callable[[Session], Iterable[ItemFailure]], done: int) -> None:
        """End the chunk in one transaction: `write` stores its results and gives its failures,
        `done` is how many items did not fail.

        `write` is called again where the database went away before the end was certain.

        Raises:
            LostChunk: another worker has the chunk by now, or the job has ended; nothing is kept.
        """
        failpoint("chunk.before_commit")
        give_up = time.monotonic() + 2 * self._lease_s
        while True:
            try:
                with self.sessions.begin() as session:
                    if not self._write(session, write, done):
                        raise LostChunk(f"chunk {self.row.number} of job {self.row.job_id}")
                break
            except Exception as error:
                if not is_outage(error) or time.monotonic() > give_up:
                    raise
                self._stop.wait(OUTAGE_S)
        self.committed = True
        failpoint("chunk.after_commit")

    def _write(
        self, session: Session, write: Callable[[Session], Iterable[ItemFailure]], done: int
    ) -> bool:
        state = jobs.hold_chunk(session, self.row)
        if state == ChunkState.DONE:
            return True  # the commit before the outage had succeeded
        if state != ChunkState.RUNNING:
            return False
        failures = list(write(session))
        return jobs.finish_chunk(session, self.row, done=done, failures=failures, items=self._items)

    @contextlib.contextmanager
    def leased(self) -> Iterator[None]:
        """Renew the lease until the block ends, and notice when the chunk is to be given up."""
        thread = threading.Thread(target=self._renew, name="lease", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._ended.set()
            thread.join()

    def _renew(self) -> None:
        while not self._ended.wait(min(LOOK_S, self._lease_s / 3)):
            try:
                with deadline(self._lease_s), self.sessions.begin() as session:
                    kept = jobs.renew(
                        session, self.row, self._lease_s, done=self._done, items=self._items
                    )
            except Exception as error:
                if not is_outage(error):
                    log.exception("The lease of %s could not be renewed", self.row.job_id)
                continue  # the commit finds out whether the chunk is still ours
            if not kept and not self._ended.is_set():
                self._lost.set()
                return


class JobHandler(Protocol):
    """What a kind of job does."""

    @property
    def kind(self) -> JobKind: ...

    def plan(self, session: Session, job: JobRow) -> Plan:
        """The next stage of a job that has no chunk to do, or its end; `job.stage` is the stage
        that is over, None at first. Called under the job's row lock: quick, below a second.

        What is written in `session` commits with the plan. After "retry failed", `job.stage` is
        the stage that was repeated.
        """

    def work(self, chunk: ChunkContext) -> None:
        """Do one chunk outside any transaction, and end it with `chunk.commit`.

        Ask `chunk.stopping()` every second or so and return without a commit if it says so, or
        call `chunk.check()`, whose exception may pass through. A
        chunk with `chunk.row.retry` is to do those items instead of its params' own. May be called
        again for the same chunk, by another worker, after a crash.

        Raises:
            JobFailed: the whole job fails.
            Unable: this worker cannot, others may.
            Exception: the chunk is tried again, `jobs.MAX_ATTEMPTS` times in all.
        """


def this_worker() -> str:
    """A name for what this process works on: its machine and its number."""
    return f"{socket.gethostname()} {os.getpid()}"


def start_job(
    sessions: Sessions,
    *,
    kind: JobKind,
    params: Json | None = None,
    principal: str,
    exclusive_key: str | None = None,
    total: int | None = None,
) -> JobRow:
    """Ask for a job in a transaction of its own; an idle worker is woken when it commits.

    Raises:
        Conflict: `job_running`, an open job has this key.
    """
    with sessions.begin() as session:
        return jobs.create_job(
            session,
            kind=kind,
            params=params or {},
            principal=principal,
            exclusive_key=exclusive_key,
            total=total,
        )


def is_outage(error: BaseException) -> bool:
    """Whether an error says that the database, or the store of photos, is away or busy, and not
    that we asked wrongly."""
    if isinstance(error, OperationalError | InterfaceError | StoreUnavailable):
        return True
    if isinstance(error, DBAPIError):
        return error.connection_invalidated
    return isinstance(error, psycopg.OperationalError | psycopg.InterfaceError)


class JobRunner:
    """Does chunks one at a time, whichever jobs they belong to, and ticks while there are none."""

    def __init__(
        self,
        sessions: Sessions,
        handlers: Sequence[JobHandler],
        *,
        worker: str,
        lease_s: float = LEASE_S,
        poll_s: float = POLL_S,
        ticks: Sequence[Tick] = (),
        revive: Callable[[], object] | None = None,
        tell: Tell = log.info,
    ) -> None:
        """`revive` is called while the database does not answer."""
        self.worker = worker
        self.rests = 0
        """How often it has found nothing to do."""
        self._sessions = sessions
        self._handlers = {handler.kind: handler for handler in handlers}
        self._lease_s = lease_s
        self._poll_s = poll_s
        self._ticks = tuple(ticks)
        self._revive = revive
        self._tell = tell
        self._stop = threading.Event()
        self._woken = threading.Event()
        self._last: UUID | None = None
        self._idle = True
        self._unable: dict[UUID, float] = {}
        self._given_up: list[ChunkRow] = []
        self._outage_was: str | None = None

    def wake(self) -> None:
        """Look for work now; any thread may call this."""
        self._woken.set()

    def run(self, stop: threading.Event) -> None:
        """Work until `stop` is set; the chunk under way is given back then."""
        self._stop = stop
        while not stop.is_set():
            self._woken.clear()
            try:
                busy = self.run_one() or self._tick()
            except Exception as error:
                if not is_outage(error):
                    raise
                self._outage(error)
                continue
            if not busy:
                self._idle = True
                self.rests += 1
                self._woken.wait(self._poll_s)

    def run_until_idle(self) -> None:
        """Work until no chunk is free, no job is to be planned and no tick finds anything."""
        while self.run_one() or self._tick():
            pass

    def run_one(self) -> bool:
        """Plan one job, or do one chunk; False where there was neither."""
        self._give_back()
        if self._plan():
            return True
        with self._sessions.begin() as session:
            jobs.settle(session)
            chunk = jobs.claim_chunk(
                session,
                worker=self.worker,
                lease_s=self._lease_s,
                kinds=list(self._handlers),
                skip=self._avoided(),
                after=self._last,
            )
            job = None if chunk is None else jobs.get_job(session, chunk.job_id)
            if chunk is not None and self._idle:
                jobs.wake(session)  # let the next idle worker see whether there is more
        if chunk is None or job is None:
            return False
        self._idle = False
        self._last = job.id
        failpoint("chunk.after_claim")
        self._do(job, chunk)
        return True

    def _avoided(self) -> list[UUID]:
        now = time.monotonic()
        self._unable = {job: until for job, until in self._unable.items() if until > now}
        return list(self._unable)

    def _plan(self) -> bool:
        job: JobRow | None = None
        try:
            with self._sessions.begin() as session:
                job = jobs.claim_planning(session, kinds=list(self._handlers), skip=self._avoided())
                if job is None:
                    return False
                self._apply(session, job, self._handlers[job.kind].plan(session, job))
        except Exception as error:
            if is_outage(error) or job is None:
                raise
            self._plan_failed(job, error)
        return True

    def _apply(self, session: Session, job: JobRow, plan: Plan) -> None:
        if plan.stage is None:
            jobs.end_job(session, job.id, JobState.DONE, result=plan.result)
            return
        items = sum(spec.items for spec in plan.chunks)
        total = plan.total
        if total is None and items:
            total = job.done + job.failed + items
        jobs.add_chunks(session, job.id, plan.chunks)
        jobs.advance_job(session, job.id, stage=plan.stage, total=total)
        if len(plan.chunks) > 1:
            jobs.wake(session)

    def _plan_failed(self, job: JobRow, error: Exception) -> None:
        if isinstance(error, Unable):
            self._note_unable(job, error)
            return
        if isinstance(error, JobFailed):
            code, detail = error.code, error.detail
        else:
            log.error("Planning the %s job %s failed", job.kind, job.id, exc_info=error)
            code, detail = "plan_failed", _sentence(error)
        with self._sessions.begin() as session:
            jobs.end_job(session, job.id, JobState.FAILED, error_code=code, error=detail)

    def _do(self, job: JobRow, row: ChunkRow) -> None:
        context = ChunkContext(self._sessions, job, row, self._stop, self._lease_s)
        self._given_up = [row]  # until it is known to be ended; an outage leaves it here
        try:
            with context.leased(), contextlib.suppress(Stopped):
                self._handlers[job.kind].work(context)
            if not context.committed and not context.stopping():
                raise RuntimeError(f"the handler of {job.kind} returned without a commit")
        except LostChunk as lost:
            self._tell(f"{lost} was taken over by another worker")
        except (Unable, StoreUnavailable) as unable:
            # The store of photos may answer another worker, or this one in a while.
            self._note_unable(job, unable)
        except JobFailed as failed:
            with self._sessions.begin() as session:
                if jobs.release_chunk(session, row):
                    jobs.end_job(
                        session,
                        job.id,
                        JobState.FAILED,
                        error_code=failed.code,
                        error=failed.detail,
                    )
        except Exception as error:
            if is_outage(error):
                raise
            log.error(
                "Chunk %s of the %s job %s failed", row.number, job.kind, job.id, exc_info=error
            )
            with self._sessions.begin() as session:
                jobs.release_chunk(session, row, error=_sentence(error))
        if context.committed:
            self._given_up = []
        self._give_back()

    def _give_back(self) -> None:
        """Release what was not ended; nothing happens to a chunk that is no longer ours."""
        if self._given_up:
            with self._sessions.begin() as session:
                for row in self._given_up:
                    released = jobs.release_chunk(session, row)
                    if released and self._outage_was is not None:
                        jobs.note_trouble(
                            session, row.job_id, code="outage", detail=self._outage_was
                        )
                jobs.settle(session)
            self._given_up, self._outage_was = [], None

    def _note_unable(self, job: JobRow, unable: Unable | StoreUnavailable) -> None:
        self._tell(f"the {job.kind} job {job.id} is left to another worker: {unable.detail}")
        self._unable[job.id] = time.monotonic() + UNABLE_S
        with self._sessions.begin() as session:
            jobs.note_trouble(session, job.id, code=unable.code, detail=unable.detail)

    def _tick(self) -> bool:
        done = False
        for tick in self._ticks:
            if self._stop.is_set():
                break
            done = tick(self._stop.is_set) or done
        return done

    def _outage(self, error: Exception) -> None:
        away = "store of photos" if isinstance(error, StoreUnavailable) else "database"
        self._outage_was = f"The {away} does not answer ({_sentence(error)}); trying again."
        self._tell(self._outage_was)
        self._stop.wait(OUTAGE_S)
        if self._revive is not None and not self._stop.is_set():
            try:
                self._revive()
            except Exception:
                log.exception("The database could not be started again")


def _sentence(error: BaseException) -> str:
    lines = str(getattr(error, "orig", None) or error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
