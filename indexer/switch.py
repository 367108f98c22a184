"""Owns the switch of a slot to a re-indexed space, the way back, and dropping a space.

Each is one transaction and one entry in the audit trail. A switch that would lose annotations, or
answer worse than before by more than the limits, is refused unless it is forced.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Final
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session, sessionmaker

from db.errors import Conflict, Invalid, NotFound
from db.queries import embeddings, jobs, records, runs
from db.queries.embeddings import PHOTO_SLOT, SpaceRow
from db.queries.runs import RunRow, RunSpace
from db.types import ReindexState
from indexer.failpoints import failpoint

log = logging.getLogger(__name__)

Sessions = sessionmaker[Session]
Json = dict[str, Any]

_POLL_S: Final = 0.1
_LOCK_WAIT_S: Final = 5.0
"""How long a switch makes writers of annotations wait for the last vectors."""
_DROP_WAIT_S: Final = 2.0
"""How long readers queue behind a drop that waits for other readers."""
_LOCK_TRIES: Final = 5


@dataclass(frozen=True, slots=True)
class Limits:
    """What a switch needs unless it is forced: the least recall of the snapshot, the most that
    top-1 may fall, and the largest share of annotations that may lose their vector."""

    recall_min: float = 0.99
    top1_drop_max: float = 0.02
    lost_share_max: float = 0.01


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a run should not be activated: a code and a sentence."""

    code: str
    detail: str


@dataclass(frozen=True, slots=True)
class Retired:
    """A space whose vectors were dropped."""

    name: str
    version: str
    fingerprint: str
    vectors: int


def run_subject(run: RunRow) -> str:
    """A run as audit entries name it."""
    return f"reindex:{run.id}"


def space_detail(space: RunSpace | None) -> Json | None:
    """A space as audit entries name it."""
    if space is None:
        return None
    return {"name": space.name, "version": space.version, "fingerprint": space.fingerprint}


def check(session: Session, run: RunRow, limits: Limits) -> list[Problem]:
    """Why the run should not be activated now; nothing if it may be."""
    problems = [*_incomplete(session, run), *_below(run, limits)]
    active = embeddings.active_space(session, run.slot)
    if (active.id if active else None) != run.from_model_id:
        now = f"{active.name} {active.version}" if active else "nothing"
        problems.append(
            Problem(
                "reindex_outdated",
                f"{run.slot} searches {now} by now, and the report compares with another space; "
                "start a new run.",
            )
        )
    return problems


def _incomplete(session: Session, run: RunRow) -> list[Problem]:
    missing = embeddings.count_missing(session, run.to_model_id, run.id)
    if not missing:
        return []
    return [
        Problem(
            "reindex_incomplete",
            f"{missing} annotations have no vector in {run.to_space.name} {run.to_space.version} "
            "yet; a running `resight worker` that has the bundle embeds them, then try again.",
        )
    ]


def _below(run: RunRow, limits: Limits) -> list[Problem]:
    report = run.report
    if report is None:
        return [Problem("reindex_unverified", "The run has no report; start a new run.")]
    found = []
    recall, counts = report["recall"], report["counts"]
    if recall is not None and recall < limits.recall_min:
        found.append(f"recall of the snapshot is {recall:.4f}, below {limits.recall_min}")
    change = report["difference"] and report["difference"]["top1"]
    if change is not None and -change > limits.top1_drop_max:
        found.append(
            f"top-1 falls by {-change:.3f} (of {report['difference']['n']} questions), by more "
            f"than {limits.top1_drop_max}"
        )
    if counts["before"] and counts["lost"] / counts["before"] > limits.lost_share_max:
        found.append(
            f"{counts['lost']} of {counts['before']} annotations would lose their vector, more "
            f"than {limits.lost_share_max:.0%}"
        )
    return [
        Problem("reindex_below_limits", f"The new space is worse here: {why}.") for why in found
    ]


def activate(
    sessions: Sessions,
    run_id: UUID,
    *,
    principal: str = "local",
    force: bool = False,
    limits: Limits | None = None,
    wait_s: float = 30.0,
    wait_embed: Callable[[RunRow], object] | None = None,
) -> RunRow:
    """Let the run's slot search its new space, from one transaction to the next.

    Annotations that came a moment ago are waited for, up to `wait_s`: workers embed them, or
    `wait_embed` does. In the switch itself, writers of annotations wait a moment; nothing else
    does. With `force` neither completeness nor the limits matter; the audit trail says so. A run
    that is active already is returned as it is.

    Raises:
        NotFound: no such run.
        Conflict: `reindex_not_ready`; `catalogue_busy`, writers hold the annotations for too long.
        Invalid: `reindex_incomplete`, `reindex_below_limits` or `reindex_outdated`, with all
            `problems` in `values`.
    """
    limits = limits or Limits()
    give_up = time.monotonic() + wait_s
    while not force:
        with sessions.begin() as session:
            run = runs.get_run(session, run_id)
            if run.state != ReindexState.READY or not _incomplete(session, run):
                break
            jobs.wake(session)
        if time.monotonic() >= give_up:
            break
        _embed_or_wait(run, wait_embed)
    for attempt in range(_LOCK_TRIES):
        try:
            return _switch(sessions, run_id, principal, limits, force, give_up, wait_embed)
        except OperationalError as error:
            if getattr(error.orig, "sqlstate", None) not in ("55P03", "40P01"):
                raise
            log.info("Switch %d waits: %s", attempt + 1, error.orig)
    raise Conflict(
        "catalogue_busy",
        "Photos are being added in one long transaction, so that the switch could not begin; "
        "nothing has changed. Try again when it is over.",
        run_id=str(run_id),
    )


def _embed_or_wait(run: RunRow, wait_embed: Callable[[RunRow], object] | None) -> None:
    if wait_embed is not None:
        wait_embed(run)
    time.sleep(_POLL_S)


def _switch(
    sessions: Sessions,
    run_id: UUID,
    principal: str,
    limits: Limits,
    force: bool,
    give_up: float,
    wait_embed: Callable[[RunRow], object] | None,
) -> RunRow:
    with sessions.begin() as session:
        run = runs.get_run(session, run_id, lock=True)
        if run.state == ReindexState.ACTIVE:
            return run
        if run.state != ReindexState.READY:
            raise _not_ready(run)
        if not force:
            _hold_annotations(session)
            give_up = min(give_up, time.monotonic() + _LOCK_WAIT_S)
            # Vectors are written while annotations are held, so the last ones can be waited for.
            while _incomplete(session, run) and time.monotonic() < give_up:
                _embed_or_wait(run, wait_embed)
        problems = check(session, run, limits)
        if problems and not force:
            raise Invalid(
                problems[0].code,
                " ".join(problem.detail for problem in problems),
                run_id=str(run.id),
                problems=[asdict(problem) for problem in problems],
            )
        failpoint("switch.before_flip")
        active = embeddings.active_space(session, run.slot)
        head = embeddings.active_head(session, active.id) if active else None
        embeddings.set_slot(session, run.slot, run.to_model_id)
        runs.note_activation(
            session,
            run.id,
            principal=principal,
            forced=force,
            from_model_id=active.id if active else None,
            previous_head_id=head.id if head else None,
        )
        records.add_audit(
            session,
            principal,
            "reindex.activate",
            run_subject(run),
            {
                "slot": run.slot,
                "from": space_detail(run.from_space),
                "to": space_detail(run.to_space),
                "forced": force,
                "problems": [asdict(problem) for problem in problems],
            },
        )
        run = runs.get_run(session, run.id)
        failpoint("switch.before_notify")
    failpoint("switch.after_flip")
    return run


def _hold_annotations(session: Session) -> None:
    """Wait until writers of annotations have committed, and keep others from beginning."""
    session.execute(text(f"SET LOCAL lock_timeout = '{_LOCK_WAIT_S}s'"))
    session.execute(text("LOCK TABLE annotation IN SHARE MODE"))
    session.execute(text("SET LOCAL lock_timeout = 0"))


def _not_ready(run: RunRow) -> Conflict:
    under_way = run.state in runs.WORKING
    step = "wait until it is ready" if under_way else "start a new one"
    return Conflict(
        "reindex_not_ready",
        f"The run is {run.state}, not ready; {step}.",
        run_id=str(run.id),
        job_id=str(run.id),
        state=str(run.state),
    )


def rollback(sessions: Sessions, slot: str = PHOTO_SLOT, *, principal: str = "local") -> RunRow:
    """Let the slot search the space that it searched before its last switch; one transaction.

    The run is ready again, or retired where another one is under way.

    Raises:
        Conflict: `nothing_to_roll_back`; `rollback_gone`, the former space's vectors were dropped.
    """
    with sessions.begin() as session:
        run = runs.active_run(session, slot, lock=True)
        if run is None or run.from_space is None:
            raise Conflict(
                "nothing_to_roll_back",
                f"No re-index run led to what {slot} searches now; `resight reindex start MODEL` "
                "moves it to any installed model.",
                slot=slot,
            )
        if not run.from_space.kept:
            raise Conflict(
                "rollback_gone",
                f"The vectors of {run.from_space.name} {run.from_space.version} were dropped; "
                f"`resight reindex start {run.from_space.name}` makes them anew.",
                slot=slot,
                run_id=str(run.id),
            )
        other = runs.open_run(session, slot)
        embeddings.set_slot(session, slot, run.from_space.id)
        runs.note_rollback(session, run.id, retire=other is not None)
        records.add_audit(
            session,
            principal,
            "reindex.rollback",
            run_subject(run),
            {
                "slot": slot,
                "from": space_detail(run.to_space),
                "to": space_detail(run.from_space),
                "missing": embeddings.count_missing(session, run.from_space.id),
            },
        )
        return runs.get_run(session, run.id)


def abandon(sessions: Sessions, run_id: UUID, *, principal: str = "local") -> RunRow:
    """Give a run up that is under way or ready; its vectors stay until the model is retired.

    Raises:
        NotFound: no such run.
        Conflict: `reindex_ended`, it is active or over.
    """
    with sessions.begin() as session:
        run = runs.get_run(session, run_id)
        if run.state in runs.WORKING:
            jobs.cancel(session, run_id, principal)
        elif run.state == ReindexState.READY:
            runs.get_run(session, run_id, lock=True)
            runs.set_run_state(session, run_id, ReindexState.CANCELLED)
        elif run.state != ReindexState.CANCELLING:
            step = (
                "; `resight reindex rollback` returns to the former model"
                if run.state == ReindexState.ACTIVE
                else ""
            )
            raise Conflict(
                "reindex_ended",
                f"The run is {run.state} and cannot be abandoned{step}.",
                run_id=str(run_id),
                state=str(run.state),
            )
        records.add_audit(
            session,
            principal,
            "reindex.abandon",
            run_subject(run),
            {"slot": run.slot, "to": space_detail(run.to_space), "state": str(run.state)},
        )
        return runs.get_run(session, run_id)


# ---------------------------------------------------------------- dropping a space


def find_space(session: Session, model: str) -> SpaceRow:
    """The space that holds vectors and is called `model`: a name, `name@version`, or the beginning
    of a fingerprint (8 digits or more).

    Raises:
        NotFound: there is none.
        Conflict: `model_ambiguous`, a name with several versions.
    """
    found = [
        space
        for space in embeddings.list_spaces(session)
        if model in (space.name, f"{space.name}@{space.version}")
        or (len(model) >= 8 and space.fingerprint.startswith(model))
    ]
    if not found:
        raise NotFound(
            "space_unknown",
            f"No space with vectors is called {model!r}; `resight models spaces` names those there "
            "are.",
            model=model,
        )
    if len(found) > 1:
        raise Conflict(
            "model_ambiguous",
            f"{model!r} has several versions: "
            f"{', '.join(f'{space.name}@{space.version}' for space in found)}. Name one of them.",
            model=model,
        )
    return found[0]


def retire_model(
    sessions: Sessions, model: str, *, principal: str = "local", force: bool = False
) -> Retired:
    """Drop a space's vectors, heads and snapshots; `model` as in `find_space`. With `force` also
    the space that a rollback would return to.

    Raises:
        NotFound: no such space.
        Conflict: `space_in_use`, `space_in_run`, `space_kept_for_rollback`, `model_ambiguous`, or
            `catalogue_busy`: it is being read for too long.
    """
    for attempt in range(_LOCK_TRIES):
        try:
            return _retire(sessions, model, principal, force)
        except OperationalError as error:
            if getattr(error.orig, "sqlstate", None) not in ("55P03", "40P01"):
                raise
            log.info("Dropping %s waits (%d): %s", model, attempt + 1, error.orig)
    raise Conflict(
        "catalogue_busy",
        f"The vectors of {model} are being read for too long; try again in a moment.",
        model=model,
    )


def _retire(sessions: Sessions, model: str, principal: str, force: bool) -> Retired:
    with sessions.begin() as session:
        space = find_space(session, model)
        for run in runs.holders(session, space.id):
            if run.state != ReindexState.ACTIVE:
                raise Conflict(
                    "space_in_run",
                    f"The re-index run {run.id} ({run.state}) needs {space.name} {space.version}; "
                    "abandon it first.",
                    run_id=str(run.id),
                )
            if not force:
                raise Conflict(
                    "space_kept_for_rollback",
                    f"{space.name} {space.version} is what `resight reindex rollback` returns "
                    f"{run.slot} to; retire it with --force to give that up.",
                    run_id=str(run.id),
                    slot=run.slot,
                )
        count = embeddings.count_vectors(session, space.id)
        failpoint("cleanup.before")
        session.execute(text(f"SET LOCAL lock_timeout = '{_DROP_WAIT_S}s'"))
        embeddings.drop_space(session, space.id)
        records.add_audit(
            session,
            principal,
            "space.retire",
            f"space:{space.id}",
            {
                "name": space.name,
                "version": space.version,
                "fingerprint": space.fingerprint,
                "vectors": count,
                "forced": force,
            },
        )
    return Retired(space.name, space.version, space.fingerprint, count)
