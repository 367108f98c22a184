"""Commands for re-indexing: start, status, report, activate, rollback, abandon; models retire."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, cast
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
    from sqlalchemy.orm import Session

    from db.queries.runs import RunRow
    from service.job_schemas import Slot

reindex = typer.Typer(
    help="Move the catalogue to another model, with nothing down meanwhile.", no_args_is_help=True
)

RunId = Annotated[
    str | None,
    typer.Argument(
        metavar="[RUN]", help="A run's id, or the beginning of it.", show_default="the newest"
    ),
]
SlotName = Annotated[
    str, typer.Option("--slot", help="identify.photo, search.text or identify.sound.")
]
SLOT = "identify.photo"
CHANGED_SHOWN = 10
ACTIVATE_WAIT_S = 30.0


@reindex.command("start")
def start_run(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A bundle that is installed, by its name.")
    ],
    slot: SlotName = SLOT,
    watch: Annotated[
        bool, typer.Option("--watch", help="Follow it with a progress bar until it is ready.")
    ] = False,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """Begin to embed the whole catalogue with another model; workers do it, beside all else.

    What is searched changes with `resight reindex activate` only. `--watch` ends as `resight jobs
    watch` does.
    """
    from service import steering
    from service.cli.jobs import end_as
    from service.cli.jobs import watch as follow
    from service.job_schemas import StartReindexBody

    settings = settings_from(data_dir)
    with opened_database(settings) as sessions:
        body = StartReindexBody(model=model, slot=_slot(slot))
        run = steering.start_reindex(sessions, settings, body, "local")
        if as_json:
            with sessions() as session:
                print_json(_json(session, run))
        else:
            err.print(f"The run {run.id} moves {slot} {_from_to(run)}.")
        if not watch:
            if not as_json:
                err.print(
                    f"`resight jobs watch {str(run.id)[:8]}` follows it; workers do it: one runs "
                    "beside `resight serve`, more with `resight worker`."
                )
            return
        ended = follow(sessions, run.id)
    end_as(ended)
    err.print("It is ready: `resight reindex report`, then `resight reindex activate`.")


@reindex.command("status")
def show_status(
    every: Annotated[bool, typer.Option("--all", help="Every run, not the newest alone.")] = False,
    run: RunId = None,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """Where a run is, and what forbids its activation now."""
    from db.queries import jobs, runs
    from service import steering
    from service.cli.jobs import show

    with opened_database(settings_from(data_dir)) as sessions, sessions() as session:
        if every:
            rows = runs.list_runs(session, limit=200).items
            if as_json:
                print_json([_json(session, row) for row in rows])
            else:
                _show_runs(rows)
            return
        row = find(session, run)
        problems = steering.why_not(session, row)
        if as_json:
            print_json(_json(session, row) | {"problems": [asdict(one) for one in problems]})
            return
        job = jobs.get_job(session, row.id)
    out.print(f"[bold]{row.slot}[/] {escape(_from_to(row))}: [bold]{row.state}[/]")
    show(job)
    for problem in problems:
        err.print(f"  [yellow]{problem.code}[/] {escape(problem.detail)}")
    if row.state == "ready":
        err.print("`resight reindex report` compares the two; `resight reindex activate` switches.")


@reindex.command("report")
def show_report(run: RunId = None, as_json: AsJson = False, data_dir: DataDir = None) -> None:
    """Old against new on this catalogue: accuracy, recall, and whose nearest individual changed."""
    with opened_database(settings_from(data_dir)) as sessions, sessions() as session:
        row = find(session, run)
    if row.report is None:
        raise Stop(
            f"The run is {row.state} and has no report yet; it is written before the run is ready."
        )
    if as_json:
        print_json(row.report)
        return
    _show_measures(row.report)
    _show_changed(row.report)


@reindex.command("activate")
def activate_run(
    run: RunId = None,
    force: Annotated[
        bool,
        typer.Option("--force", help="Against the limits; it is written into the audit trail."),
    ] = False,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """Search with the new model from now on; running services follow by themselves."""
    from indexer.reindex import activate

    with opened_database(settings_from(data_dir)) as sessions:
        with sessions() as session:
            wanted = find(session, run)
        done = activate(sessions, wanted.id, force=force, wait_s=ACTIVATE_WAIT_S)
        if as_json:
            with sessions() as session:
                print_json(_json(session, done))
            return
    err.print(f"{done.slot} is searched with {done.to_space.name} {done.to_space.version} now.")
    if done.from_space is not None:
        err.print(f"`resight reindex rollback` returns to {done.from_space.name}.")


@reindex.command("rollback")
def roll_back(slot: SlotName = SLOT, as_json: AsJson = False, data_dir: DataDir = None) -> None:
    """Return to the model before the last switch, at once."""
    from indexer.reindex import rollback

    with opened_database(settings_from(data_dir)) as sessions:
        done = rollback(sessions, _slot(slot))
        if as_json:
            with sessions() as session:
                print_json(_json(session, done))
            return
    if done.from_space is not None:
        space = done.from_space
        err.print(f"{done.slot} is searched with {space.name} {space.version} again.")


@reindex.command("abandon")
def abandon_run(run: RunId = None, as_json: AsJson = False, data_dir: DataDir = None) -> None:
    """Give a run up that is under way or ready; its vectors stay until the model is retired."""
    from indexer.reindex import abandon

    with opened_database(settings_from(data_dir)) as sessions:
        with sessions() as session:
            wanted = find(session, run)
        done = abandon(sessions, wanted.id)
        if as_json:
            with sessions() as session:
                print_json(_json(session, done))
            return
    err.print(f"The run {done.id} is {done.state}.")


def list_spaces(as_json: AsJson = False, data_dir: DataDir = None) -> None:
    """The models whose vectors the catalogue keeps, and what for."""
    from db.queries import embeddings
    from service import steering

    with opened_database(settings_from(data_dir)) as sessions, sessions() as session:
        found = [
            asdict(one) | {"vectors": embeddings.count_vectors(session, one.model_id)}
            for one in steering.space_uses(session)
        ]
    if as_json:
        print_json(found)
        return
    shown_rows = table("model", "dimensions", "vectors", "kept because")
    for one in found:
        shown_rows.add_row(
            escape(f"{one['name']} {one['version']}"),
            str(one["dim"]),
            f"{one['vectors']:,}",
            escape(one["use"]),
        )
    out.print(shown_rows)


def retire_model(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="Its name, name@version, or fingerprint.")
    ],
    force: Annotated[
        bool, typer.Option("--force", help="Even the one that a rollback would return to.")
    ] = False,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """Drop the vectors of a model that nothing searches any more; photos and decisions stay."""
    from indexer.reindex import retire_model as retire

    with opened_database(settings_from(data_dir)) as sessions:
        gone = retire(sessions, model, force=force)
    if as_json:
        print_json(asdict(gone))
    else:
        err.print(f"{gone.vectors:,} vectors of {gone.name} {gone.version} are dropped.")


def find(session: Session, run: str | None) -> RunRow:
    """The run of an id, of the beginning of one, or the newest.

    Raises:
        Stop: there is none, or more than one.
    """
    from db.queries import runs

    try:
        if run is not None:
            return runs.get_run(session, UUID(run))
    except ValueError:
        pass
    newest = runs.list_runs(session, limit=200).items
    if run is None:
        if not newest:
            raise Stop("Nothing has been re-indexed yet; `resight reindex start MODEL` begins.")
        return newest[0]
    found = [one for one in newest if str(one.id).startswith(run.lower())]
    if len(found) != 1:
        raise Stop(
            f"{len(found) or 'No'} runs begin with {run!r}; `resight reindex status --all` lists "
            "them."
        )
    return found[0]


def _slot(name: str) -> Slot:
    from typing import get_args

    from service.job_schemas import Slot

    if name not in get_args(Slot):
        raise Stop(f"--slot is one of {', '.join(get_args(Slot))}, not {name!r}.", Exit.USAGE)
    return cast("Slot", name)


def _json(session: Session, run: RunRow) -> dict[str, Any]:
    from db.queries import jobs
    from service.job_schemas import run_out

    return run_out(run, jobs.get_job(session, run.id)).model_dump(mode="json")


def _from_to(run: RunRow) -> str:
    old = f"{run.from_space.name} {run.from_space.version}" if run.from_space else "nothing"
    return f"from {old} to {run.to_space.name} {run.to_space.version}"


def _show_runs(rows: tuple[RunRow, ...]) -> None:
    shown_rows = table("run", "slot", "from", "to", "state", "started by", "at (UTC)")
    for row in rows:
        old, new = row.from_space, row.to_space
        shown_rows.add_row(
            str(row.id)[:8],
            row.slot,
            escape(f"{old.name} {old.version}" if old else "nothing"),
            escape(f"{new.name} {new.version}"),
            str(row.state),
            escape(row.requested_by),
            f"{row.created_at:%Y-%m-%d %H:%M}",
        )
    out.print(shown_rows)


def _show_measures(report: Mapping[str, Any]) -> None:
    from service.web.report_view import present_report, verdict

    shown = present_report(report)
    out.print(f"[bold]{escape(verdict(report))}[/]")
    out.print(escape(shown.asked))
    if shown.measures:
        shown_rows = table("", "before", "95 %", "now", "95 %", "difference")
        for one in shown.measures:
            shown_rows.add_row(
                one.short, one.old, one.old_range, one.new, one.new_range, one.difference
            )
        out.print(shown_rows)
    for pair in shown.pairs:
        out.print(f"{pair.term:<14}{escape(pair.value)}")


def _show_changed(report: Mapping[str, Any]) -> None:
    from service.web.report_view import present_report

    shown = present_report(report)
    out.print(f"\n[bold]Another nearest individual[/]  {escape(shown.changed_note)}")
    shown_rows = table("individual", "nearest before", "", "nearest now", "", "")
    for one in shown.changed[:CHANGED_SHOWN]:
        _, before, now = one.sides
        shown_rows.add_row(
            escape(one.name),
            escape(before.name),
            before.score,
            escape(now.name),
            now.score,
            f"[dim]{escape(one.note)}[/]",
        )
    if shown.changed:
        out.print(shown_rows)
    if len(shown.changed) > CHANGED_SHOWN:
        err.print(f"… {len(shown.changed) - CHANGED_SHOWN} more with --json, or on the run's page")
