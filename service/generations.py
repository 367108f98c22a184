"""Owns which model answers in this process: one generation behind one pointer, and one beside it.

A generation is a bundle with its space and its head, and what answers with them. The database says
which space the catalogue is searched in; when it says another, the generation of that space is made
ready first and the pointer moved last, so that each request sees one generation from start to end.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import psycopg
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session, sessionmaker

from db.errors import DbError, Invalid
from db.queries import embeddings, heads, runs
from db.queries.embeddings import HeadRow, SpaceRow
from db.types import HeadSource, ReindexState
from indexer.answers import Notice
from indexer.filling import Filling
from indexer.identify import Identifier
from indexer.search import Searcher, SearchError, SearchUnavailable
from indexer.spaces import SLOT, ActiveSpace, register_serving, registered
from models.bundles import Problem, Serving
from models.embedder import Embedder
from models.errors import BundleError
from models.gate import AbsentGate, Gate

log = logging.getLogger("resight")

POLL_S: Final = 2.0
RETRY_S: Final = 60.0
"""How long a bundle that could not be loaded is left alone."""
_TICK_S: Final = 0.2
CHANNELS: Final = ("resight_slot", "resight_head")
LISTENER: Final = "resight watcher"
"""The name of the listening connection in PostgreSQL."""

Load = Callable[[str, Gate], Serving]
"""The bundle of a fingerprint, with a gate that is loaded already; raises BundleError."""
MakeIdentifier = Callable[[Serving, ActiveSpace, tuple[Notice, ...]], Identifier]


@dataclass(frozen=True, slots=True, eq=False)
class Generation:
    """What answers a request, as a whole. `loaded` is the bundle as it is installed, `serving` the
    same with the head in use, `head` the one that the database had in use then."""

    loaded: Serving
    serving: Serving
    active: ActiveSpace
    head: int | None
    identifier: Identifier
    notices: tuple[Notice, ...]

    @property
    def space(self) -> SpaceRow | None:
        """The space that the catalogue is searched in."""
        return self.active.space

    @property
    def label(self) -> str:
        """The space's name and version, for people and metrics."""
        return f"{self.space.name} {self.space.version}" if self.space else "none"

    @property
    def gate_installed(self) -> bool:
        """Whether any gate judges photos."""
        return not isinstance(self.serving.gate, AbsentGate)

    def answers_in(self, space: SpaceRow, head: HeadRow | None) -> bool:
        return self.searches(space) and self.head == (head.id if head else None)

    def searches(self, space: SpaceRow) -> bool:
        return self.active.usable and self.space is not None and self.space.id == space.id


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What the database says: the space in use with its head, the space of a run that is ready to
    be activated with its head, and the ids of all spaces that hold vectors."""

    space: SpaceRow | None
    head: HeadRow | None
    candidate: SpaceRow | None
    candidate_head: HeadRow | None
    kept: frozenset[int]


class Generations:
    """The pointer, and who moves it. Reading it takes no lock; `look` may be called by anyone."""

    def __init__(
        self,
        sessions: sessionmaker[Session],
        searcher: Searcher,
        load: Load,
        make_identifier: MakeIdentifier,
        serving: Serving,
    ) -> None:
        """Begins with a bundle that is loaded already."""
        self._sessions = sessions
        self._searcher = searcher
        self._load = load
        self._make_identifier = make_identifier
        self._lock = threading.Lock()
        self._left: int | None = None
        self._problems: dict[int, Notice] = {}
        self._retry_at: dict[tuple[int, int | None], float] = {}
        self._both: tuple[Generation, Generation | None] = (self._first(serving), None)

    @property
    def current(self) -> Generation:
        """What answers now. Take it once for each request."""
        return self._both[0]

    @property
    def beside(self) -> Generation | None:
        """The one that a switch or a rollback leads to, loaded and warm."""
        return self._both[1]

    def problem_of(self, space: SpaceRow) -> Notice | None:
        """Why a space that is in use by now has not been taken up; None while that goes on."""
        return self._problems.get(space.id)

    def filling(self) -> Filling:
        """What added photos are embedded with."""
        current, beside = self._both
        return Filling(
            _embedding(current) if current.active.usable else None,
            current.active.problem,
            _embedding(beside) if beside is not None else None,
        )

    def look(self) -> None:
        """Take up what the database says now, as far as the bundles here allow.

        Raises:
            SQLAlchemyError: the database does not answer; nothing has changed.
        """
        with self._lock:
            with self._sessions() as session:
                wanted = _wanted(session)
            if wanted.space is not None:
                self._take_up(wanted.space, wanted.head)
            self._tend(wanted)

    def _first(self, serving: Serving) -> Generation:
        active = register_serving(self._sessions, serving)
        if active.usable and active.space is not None:
            try:
                self._searcher.ensure(active.space.fingerprint)
            except SearchUnavailable as error:
                # /ready says so too, and each search tries again.
                log.warning("Not searchable yet: %s", error)
        return self._made(serving, active)

    def _take_up(self, space: SpaceRow, head: HeadRow | None) -> None:
        former, beside = self._both
        if former.answers_in(space, head):
            return
        made = self._ready(space, head)
        if made is None:
            return
        if former.searches(space):
            self._point_at(made, beside)
            return
        if former.active.usable:
            self._left = former.space.id if former.space else None
            beside = former
        elif beside is not None and beside.searches(space):
            beside = None
        self._point_at(made, beside)
        log.info("Answers come from %s now, before from %s", made.label, former.label)

    def _tend(self, wanted: _Wanted) -> None:
        """Keep the right one beside: a candidate that may be switched to, else the one before."""
        current, beside = self._both
        candidate = wanted.candidate
        if candidate is not None and not current.searches(candidate):
            if beside is not None and not beside.searches(candidate):
                self._point_at(current, None)  # the way back is let go before a third loads
            beside = self._ready(candidate, wanted.candidate_head)
        elif beside is not None and not self._worth_keeping(beside, wanted):
            beside = None
        self._point_at(current, beside)
        if beside is not None and beside.space is not None:
            try:
                self._searcher.refresh(beside.space.fingerprint)
            except SearchError as error:
                log.info("%s is not kept warm: %s", beside.label, error)

    def _worth_keeping(self, beside: Generation, wanted: _Wanted) -> bool:
        space = beside.space
        if space is None or space.id not in wanted.kept or self.current.searches(space):
            return False
        return space.id == self._left

    def _point_at(self, current: Generation, beside: Generation | None) -> None:
        """Move the pointer, and let go of what it no longer reaches. Requests that hold that still
        finish with it; its memory goes with the last of them."""
        before, self._both = self._both, (current, beside)
        kept = {one.space.id for one in self._both if one is not None and one.space is not None}
        for one in before:
            if one is not None and one.space is not None and one.space.id not in kept:
                self._searcher.release(one.space.fingerprint)

    def _ready(self, space: SpaceRow, head: HeadRow | None) -> Generation | None:
        """The generation of a space, its vectors in memory; None where it cannot be had now."""
        beside = self.beside
        if beside is not None and beside.answers_in(space, head):
            return beside
        key = (space.id, head.id if head else None)
        if self._retry_at.get(key, 0.0) > time.monotonic():
            return None
        try:
            loaded = self._loaded(space.fingerprint)
            with self._sessions.begin() as session:
                _, in_use = registered(session, loaded)
            active = ActiveSpace(space, in_use.id if in_use else None, None)
            self._searcher.ensure(space.fingerprint)
            made = self._made(loaded, active)
        except (BundleError, DbError, SearchError) as error:
            self._note(key, space, error)
            return None
        self._retry_at.pop(key, None)
        self._problems.pop(space.id, None)
        return made

    def _note(self, key: tuple[int, int | None], space: SpaceRow, error: Exception) -> None:
        why = str(getattr(error, "detail", None) or error)
        # Whether a bundle is there by now is quickly seen; one that is broken takes time to load.
        if getattr(error, "code", None) != "not_installed":
            self._retry_at[key] = time.monotonic() + RETRY_S
        told = Notice(
            "space_switched",
            f"The catalogue is searched in the space of {space.name} {space.version} by now, which "
            f"cannot be taken up here: {why}. Until then answers come from {self.current.label}.",
        )
        if self._problems.get(space.id) != told:
            log.warning("%s %s cannot be taken up: %s", space.name, space.version, why)
        self._problems[space.id] = told

    def _loaded(self, fingerprint: str) -> Serving:
        for one in self._both:
            if one is not None and _fingerprint(one.loaded) == fingerprint:
                return one.loaded
        return self._load(fingerprint, self.current.serving.gate)

    def _made(self, loaded: Serving, active: ActiveSpace) -> Generation:
        serving, head_id = loaded, active.head_id
        if head_id is not None:
            try:
                with self._sessions() as session:
                    serving = _with_head(session, loaded, head_id)
            except DbError as error:
                problem = Problem(str(loaded.bundle), error.code, error.detail)
                serving = replace(loaded, problems=(*loaded.problems, problem))
                # The rows are the bundle's, so the slots in the database are not theirs.
                active = replace(active, head_id=None)
        notices = _notices(serving, active)
        return Generation(
            loaded,
            serving,
            active,
            head_id,
            self._make_identifier(serving, active, notices),
            notices,
        )


def _wanted(session: Session) -> _Wanted:
    space = embeddings.active_space(session, SLOT)
    run = runs.open_run(session, SLOT)
    ready = run is not None and run.state == ReindexState.READY and run.to_space.kept
    candidate = embeddings.get_space_by_id(session, run.to_model_id) if run and ready else None
    return _Wanted(
        space,
        embeddings.active_head(session, space.id) if space else None,
        candidate,
        embeddings.active_head(session, candidate.id) if candidate else None,
        frozenset(one.id for one in embeddings.list_spaces(session)),
    )


def _with_head(session: Session, loaded: Serving, head_id: int) -> Serving:
    """The bundle with the head that is in use: its own, or one fitted on this catalogue."""
    from indexer.head import load_fitted

    row = heads.get_head(session, head_id)
    if row.source != HeadSource.FIT:
        if loaded.head is not None and loaded.head.digest != row.digest:
            raise Invalid(
                "head_not_here",
                f"The head {row.version} in use is not the one of the bundle {loaded.bundle} that "
                "is installed here; activate another one (`resight head list`).",
            )
        return loaded
    head = load_fitted(session, head_id)
    return replace(loaded, head=head, default_min_probability=head.min_probability)


def _embedding(generation: Generation) -> tuple[Embedder, SpaceRow] | None:
    embedder, space = generation.serving.embedder, generation.space
    return (embedder, space) if embedder is not None and space is not None else None


def _fingerprint(serving: Serving) -> str | None:
    return serving.embedder.spec.fingerprint if serving.embedder else None


def _notices(serving: Serving, active: ActiveSpace) -> tuple[Notice, ...]:
    notices = [Notice(p.code, p.detail) for p in (*serving.notices, *serving.problems)]
    if isinstance(serving.gate, AbsentGate):
        notices.append(Notice("gate_absent", f"No gate judges photos: {serving.gate.reason}"))
    if active.problem is not None:
        notices.append(active.problem)
    return tuple(notices)


class Watcher:
    """Calls `look` when the database tells of a switch, and every `poll_s` seconds besides."""

    def __init__(self, engine: Engine, look: Callable[[], None], *, poll_s: float) -> None:
        self._engine = engine
        self._look = look
        self._poll_s = poll_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watcher", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread and its connection; a bundle that is being loaded is finished first."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        url = self._engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
        while not self._stop.is_set():
            try:
                with psycopg.connect(
                    url, autocommit=True, connect_timeout=10, application_name=LISTENER
                ) as listening:
                    for channel in CHANNELS:
                        listening.execute(f"LISTEN {channel}".encode())
                    while not self._stop.is_set():
                        self._look_now()
                        self._wait(listening)
            except psycopg.Error as error:
                log.debug("The watcher lost the database: %s", error)
                self._stop.wait(_TICK_S)
                self._look_now()
                self._stop.wait(self._poll_s)

    def _wait(self, listening: psycopg.Connection[object]) -> None:
        """Until something is told, or the poll interval is over."""
        until = time.monotonic() + self._poll_s
        while not self._stop.is_set() and time.monotonic() < until:
            if any(True for _ in listening.notifies(timeout=_TICK_S, stop_after=1)):
                return

    def _look_now(self) -> None:
        if self._stop.is_set():
            return
        try:
            self._look()
        except SQLAlchemyError as error:
            log.debug("The watcher could not look: %s", error)
        except Exception:
            # Whatever it is, what answers now goes on answering.
            log.exception("Looking for a switch failed")
