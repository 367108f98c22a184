"""Commands for jobs: list, show, watch, start, and steer them."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import typer
from rich.markup import escape

from service.cli.common import (
    AsJson,
    DataDir,
    Exit,
    Stop,
    err,
    opened_database,
    out,
    print_json,
    settings_from,
    table,
)

if TYPE_CHECKING:
    from rich.progress import Progress
    from sqlalchemy.orm import Session, sessionmaker

    from db.queries.jobs import JobRow

jobs = typer.Typer(help="Work in the background: watch it, pause it, end it.", no_args_is_help=True)

JobId = Annotated[
    str,
    typer.Argument(metavar="JOB", help="A job's id, or the beginning of it; `last`: the newest."),
]
LOOK_S = 0.5
FAILURES_SHOWN = 20


@jobs.command("list")
def list_jobs(
    every: Annotated[bool, typer.Option("--all", help="Ended jobs as well.")] = False,
    limit: Annotated[int, typer.Option(min=1, max=200, help="At most this many.")] = 20,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """Jobs that are under way, newest first; with --all those that ended too."""
    from db.queries import jobs as rows
    from service import steering
    from service.job_schemas import job_out

    with opened_database(settings_from(data_dir)) as sessions, sessions() as session:
        states = () if every else steering.OPEN_STATES
        page = rows.list_jobs(session, states=states, limit=limit)
    if as_json:
        print_json([job_out(row).model_dump(mode="json") for row in page.items])
        return
    if not page.items:
        err.print("No jobs." if every else "Nothing is under way; --all lists ended jobs too.")
        return
    listed = table(
        "job", "kind", "state", "done", "failed", "started by", "at (UTC)", right=("done", "failed")
    )
    for row in page.items:
        listed.add_row(
            str(row.id)[:8],
            str(row.kind),
            _state(row),
            f"{row.done}/{'?' if row.total is None else row.total}",
            str(row.failed or ""),
            escape(row.requested_by),
            f"{row.created_at:%Y-%m-%d %H:%M}",
        )
    out.print(listed)
    if page.next_cursor:
        err.print(f"more than {limit}: raise --limit")


@jobs.command("start")
def start_job(
    kind: Annotated[
        str,
        typer.Argument(
            metavar="KIND",
            help="embed_missing, build_snapshot, build_ann, fit_head, evaluate, export or "
            "calibrate.",
        ),
    ],
    model: Annotated[
        str | None, typer.Option(help="A space by its name.", show_default="the one in use")
    ] = None,
    what: Annotated[str, typer.Option(help="For export: catalogue or queries.")] = "catalogue",
    follow: Annotated[
        bool, typer.Option("--watch", help="Follow it with a progress bar until it ends.")
    ] = False,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """Ask for a job; a worker does it. A re-index has a command of its own."""
    from pydantic import ValidationError

    from service import steering
    from service.job_schemas import StartJobBody, job_out

    try:
        body = StartJobBody.model_validate({"kind": kind, "model": model, "what": what})
    except ValidationError as error:
        first = error.errors()[0]
        raise Stop(f"{first['loc'][0]}={first['input']!r}: {first['msg']}.", Exit.USAGE) from None
    with opened_database(settings_from(data_dir)) as sessions:
        row = steering.start(sessions, body, "local")
        if as_json:
            print_json(job_out(row).model_dump(mode="json"))
        else:
            err.print(f"The job {row.id} waits for a worker.")
        ended = watch(sessions, row.id) if follow else []
    end_as(ended)


@jobs.command("show")
def show_job(job: JobId, as_json: AsJson = False, data_dir: DataDir = None) -> None:
    """One job: its state, how far it is, what failed in it and why."""
    from db.queries import jobs as rows
    from service.job_schemas import failure_out, job_out

    with opened_database(settings_from(data_dir)) as sessions, sessions() as session:
        row = find(session, job)
        failures = rows.failures(session, row.id, limit=FAILURES_SHOWN)
    if as_json:
        failed = [failure_out(one).model_dump(mode="json") for one in failures.items]
        print_json(job_out(row).model_dump(mode="json") | {"failures": failed})
        return
    show(row)
    show_failures(row, failures.items)


@jobs.command("watch")
def watch_job(
    job: Annotated[
        str | None,
        typer.Argument(metavar="[JOB]", help="A job; without it all until none is open."),
    ] = None,
    data_dir: DataDir = None,
) -> None:
    """Follow jobs with progress bars until they end. Ctrl-C leaves them running."""
    with opened_database(settings_from(data_dir)) as sessions:
        with sessions() as session:
            followed = find(session, job).id if job else None
        ended = watch(sessions, followed)
    end_as(ended)


def watch(sessions: sessionmaker[Session], job_id: UUID | None) -> list[JobRow]:
    """Draws bars until the job, or every open one, has ended; the rows as they ended."""
    from db.queries import jobs as rows
    from service import steering

    ended: dict[UUID, JobRow] = {}
    known: set[UUID] = {job_id} if job_id else set()
    with ExitStack() as stack:
        draw = stack.enter_context(_Bars())
        while True:
            with sessions() as session:
                if job_id is None:
                    page = rows.list_jobs(session, states=steering.OPEN_STATES, limit=200)
                    known.update(row.id for row in page.items)
                now = [rows.get_job(session, one) for one in known - ended.keys()]
            for row in now:
                draw(row)
                if row.ended:
                    ended[row.id] = row
            if known <= ended.keys():
                return list(ended.values())
            time.sleep(LOOK_S)


class _Bars:
    """One progress bar for each job on standard error; a line for each change of state where it
    is no terminal."""

    def __init__(self) -> None:
        self._progress: Progress | None = None
        self._tasks: dict[UUID, Any] = {}
        self._told: dict[UUID, str] = {}

    def __enter__(self) -> Callable[[JobRow], None]:
        from rich.progress import BarColumn, Progress, TextColumn

        if not err.is_terminal:
            return self._tell
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[counts]}"),
            TextColumn("[dim]{task.fields[pace]}[/]"),
            console=err,
        )
        self._progress.start()
        return self._draw

    def __exit__(self, *_: object) -> None:
        if self._progress is not None:
            self._progress.stop()

    def _tell(self, row: JobRow) -> None:
        line = f"{str(row.id)[:8]} {row.kind}: {_state(row)}"
        line += f", {row.stage}" if row.stage and row.state == "running" else ""
        if self._told.get(row.id) != line:
            self._told[row.id] = line
            err.print(escape(line))

    def _draw(self, row: JobRow) -> None:
        assert self._progress is not None
        if row.id not in self._tasks:
            self._tasks[row.id] = self._progress.add_task("", counts="", pace="")
        total = "?" if row.total is None else f"{row.total:,}"
        failed = f", {row.failed:,} failed" if row.failed else ""
        self._progress.update(
            self._tasks[row.id],
            description=escape(f"{row.kind} {_state(row)}{_stage(row)}"),
            completed=row.done + row.failed,
            total=row.total,
            counts=f"{row.done + row.failed:,}/{total}{failed}",
            pace=_pace(row),
        )


def _pace(row: JobRow) -> str:
    from service.web.figures import duration

    if row.state != "running" or not row.rate:
        return ""
    left = f", {duration(row.eta_s)} left" if row.eta_s is not None else ""
    return f"{row.rate:,.1f}/s{left}"


@jobs.command("pause")
def pause_job(job: JobId, as_json: AsJson = False, data_dir: DataDir = None) -> None:
    """Pause a job; what is being worked on ends first."""
    _steer(job, "pause", as_json, data_dir)


@jobs.command("resume")
def resume_job(job: JobId, as_json: AsJson = False, data_dir: DataDir = None) -> None:
    """Let a paused job go on."""
    _steer(job, "resume", as_json, data_dir)


@jobs.command("cancel")
def cancel_job(job: JobId, as_json: AsJson = False, data_dir: DataDir = None) -> None:
    """End a job within one chunk; what is done stays."""
    _steer(job, "cancel", as_json, data_dir)


@jobs.command("retry")
def retry_job(job: JobId, as_json: AsJson = False, data_dir: DataDir = None) -> None:
    """Run the failed items of an ended job again, and nothing else."""
    _steer(job, "retry", as_json, data_dir)


def _steer(job: str, action: Any, as_json: bool, data_dir: Any) -> None:
    from service import steering
    from service.job_schemas import job_out

    with opened_database(settings_from(data_dir)) as sessions:
        with sessions() as session:
            job_id = find(session, job).id
        row = steering.steer(sessions, job_id, action, "local", admin=True)
    if as_json:
        print_json(job_out(row).model_dump(mode="json"))
    else:
        show(row)


def find(session: Session, job: str) -> JobRow:
    """The job of an id, of the beginning of one among the newest 200, or the newest (`last`).

    Raises:
        Stop: there is none, or more than one.
    """
    from db.queries import jobs as rows

    try:
        return rows.get_job(session, UUID(job))
    except ValueError:
        pass
    newest = rows.list_jobs(session, limit=200).items
    found = (
        newest[:1] if job == "last" else [r for r in newest if str(r.id).startswith(job.lower())]
    )
    if len(found) == 1:
        return found[0]
    if not found:
        raise Stop(f"There is no job {job!r}; `resight jobs list --all` lists them.")
    raise Stop(f"{len(found)} jobs begin with {job!r}; type more of the id.")


def show(row: JobRow) -> None:
    """A job in a few lines."""
    out.print(f"[bold]{row.kind}[/]  {row.id}")
    total = "?" if row.total is None else f"{row.total:,}"
    lines = {
        "state": _state(row) + _stage(row),
        "progress": f"{row.done:,} of {total} done, {row.failed:,} failed"
        + (f", {_pace(row)}" if _pace(row) else ""),
        "started by": row.requested_by,
        "paused by": row.paused_by if row.state == "paused" else None,
        "cancelled by": row.cancelled_by,
        "error": row.error,
    }
    for name, value in lines.items():
        if value:
            out.print(f"  {name:<14}{escape(str(value))}")
    for name, value in (row.result or {}).items():
        # The other two are in the lines above.
        if not isinstance(value, dict | list) and name not in ("failed", "run_id"):
            out.print(f"  {name:<14}{escape(str(value))}")


def show_failures(row: JobRow, failures: Any) -> None:
    """The failed items, each with its reason, on standard error."""
    for one in failures:
        err.print(f"  [yellow]failed[/] {escape(one.item)}: {escape(one.detail)}")
    if row.failed > len(failures):
        err.print(f"  … and {row.failed - len(failures)} more")
    if row.failed:
        err.print(f"`resight jobs retry {str(row.id)[:8]}` runs these again.")


def end_as(ended: list[JobRow]) -> None:
    """Ends the command as the jobs ended: 1 where one failed or was cancelled, 5 where items
    failed."""
    for row in ended:
        if row.error:
            err.print(f"[red]{row.kind}:[/] {escape(row.error)}")
    if any(row.state != "done" for row in ended):
        raise typer.Exit(Exit.FAILED)
    if any(row.failed for row in ended):
        raise typer.Exit(Exit.PARTIAL)


def _stage(row: JobRow) -> str:
    return f" ({row.stage})" if row.stage and not row.ended else ""


def _state(row: JobRow) -> str:
    if row.state == "done" and row.failed:
        return f"done with {row.failed} failure" + ("" if row.failed == 1 else "s")
    return str(row.state)
