"""Commands for the head that gives the default answer: fit, list, report, activate, rollback."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

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
    from sqlalchemy.orm import Session, sessionmaker

    from db.queries.embeddings import SpaceRow
    from db.queries.heads import HeadRow
    from indexer.head import Switched
    from service.settings import Settings

head = typer.Typer(
    help="Fit the default answer to the individuals there are now.", no_args_is_help=True
)

Model = Annotated[
    str | None,
    typer.Option("--model", help="A space by its name.", show_default="the one in use"),
]
Version = Annotated[str, typer.Argument(metavar="HEAD", help="A head's version (fit-3) or its id.")]


@head.command("fit")
def fit_head(
    model: Model = None,
    wait: Annotated[
        bool,
        typer.Option("--wait/--no-wait", help="Work on it here and show how far it is."),
    ] = True,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """Fit a head for all individuals from their stored vectors, and measure it.

    No photos and no network are needed. What is answered changes with `resight head activate`
    only.
    """
    from db.queries import heads
    from service import steering
    from service.cli.jobs import end_as
    from service.cli.jobs import watch as follow
    from service.job_schemas import StartJobBody, job_out

    settings = settings_from(data_dir)
    with opened_database(settings) as sessions:
        job = steering.start(sessions, StartJobBody(kind="fit_head", model=model), "local")
        if not wait:
            if as_json:
                print_json(job_out(job).model_dump(mode="json"))
            else:
                err.print(
                    f"A worker fits it; `resight jobs watch {str(job.id)[:8]}` follows it, "
                    "`resight head report` shows what came of it."
                )
            return
        with _working_here(settings, sessions):
            ended = follow(sessions, job.id)
        with sessions() as session:
            made = heads.head_of_job(session, job.id)
            report = heads.head_report(session, made.id) if made else None
    if made is not None and report is not None:
        _show(made, report, as_json)
    end_as(ended)


@contextmanager
def _working_here(settings: Settings, sessions: sessionmaker[Session]) -> Iterator[None]:
    """Fits in this process until the block ends, unless a worker takes the job first; what was not
    finished then is left to the workers."""
    from indexer.head import FitHeadHandler
    from indexer.jobs import JobRunner, this_worker
    from models.bundles import load_head

    stop = threading.Event()
    runner = JobRunner(
        sessions,
        [FitHeadHandler(lambda fingerprint: load_head(settings.models_dir, fingerprint))],
        worker=this_worker(),
        poll_s=0.5,
    )
    thread = threading.Thread(target=runner.run, args=(stop,), name="fit", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        runner.wake()
        thread.join()


@head.command("list")
def list_heads(model: Model = None, as_json: AsJson = False, data_dir: DataDir = None) -> None:
    """The heads of the space in use, newest first; the marked one gives the default answers."""
    from db.queries import heads

    with opened_database(settings_from(data_dir)) as sessions, sessions() as session:
        rows = heads.list_heads(session, _space(session, model).id)
    if as_json:
        print_json([asdict(row) for row in rows])
        return
    if not rows:
        err.print("The space has no head; `resight head fit` makes one.")
        return
    numbers = ("individuals", "from probability")
    listed = table("", "head", "made by", *numbers, "at (UTC)", right=numbers)
    for row in rows:
        listed.add_row(
            "*" if row.is_active else "",
            escape(row.version),
            "the bundle" if row.source == "bundle" else "a fit",
            f"{row.mapped_count:,}",
            f"{row.min_probability:.3f}",
            f"{row.created_at:%Y-%m-%d %H:%M}",
        )
    out.print(listed)


@head.command("report")
def show_report(
    version: Annotated[
        str | None,
        typer.Argument(
            metavar="[HEAD]", help="A head's version (fit-3) or its id.", show_default="the newest"
        ),
    ] = None,
    model: Model = None,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """What a fit measured, beside the head in use before: how often it is right when it speaks."""
    from db.queries import heads

    with opened_database(settings_from(data_dir)) as sessions, sessions() as session:
        if version is not None:
            row = _find(session, version, model)
        else:
            rows = heads.list_heads(session, _space(session, model).id)
            fitted = [one for one in rows if one.source == "fit"]
            if not fitted:
                raise Stop("No head was fitted on this space yet; `resight head fit` makes one.")
            row = fitted[0]
        report = heads.head_report(session, row.id)
    if report is None:
        raise Stop(f"{row.version} is the bundle's head; only a fitted head has a report.")
    _show(row, report, as_json)


@head.command("activate")
def activate(
    version: Version, model: Model = None, as_json: AsJson = False, data_dir: DataDir = None
) -> None:
    """Let a head give the default answers; services take it up at once."""
    from indexer.head import activate_head

    with opened_database(settings_from(data_dir)) as sessions, sessions.begin() as session:
        row = _find(session, version, model)
        switched = activate_head(session, row.id, principal="local")
    _tell(switched, as_json)


@head.command("rollback")
def rollback(model: Model = None, as_json: AsJson = False, data_dir: DataDir = None) -> None:
    """Back to the head that was in use before; the same again undoes it."""
    from indexer.head import rollback_head

    with opened_database(settings_from(data_dir)) as sessions, sessions.begin() as session:
        switched = rollback_head(session, _space(session, model).id, principal="local")
    _tell(switched, as_json)


def _tell(switched: Switched, as_json: bool) -> None:
    if as_json:
        print_json(asdict(switched))
        return
    instead = f" instead of {switched.former.version}" if switched.former else ""
    err.print(escape(f"{switched.head.version} gives the default answers{instead}."))


def _space(session: Session, model: str | None) -> SpaceRow:
    from db.queries import embeddings
    from indexer.reindex import find_space

    if model is not None:
        return find_space(session, model)
    space = embeddings.active_space(session)
    if space is None:
        raise Stop("The catalogue is not searched in any space yet; add photos first.")
    return space


def _find(session: Session, version: str, model: str | None) -> HeadRow:
    from db.queries import heads

    for row in heads.list_heads(session, _space(session, model).id):
        if version in (row.version, str(row.id)):
            return row
    raise Stop(f"The space has no head {version!r}; `resight head list` lists them.", Exit.USAGE)


def _show(row: HeadRow, report: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json({"head": asdict(row), "report": report})
        return
    held = report["held_out"]
    out.print(
        f"[bold]{escape(row.version)}[/]: {report['individuals']:,} individuals with "
        f"{report['photos']:,} photos, fitted in {report['seconds']:,.0f} s"
    )
    out.print(
        f"measured on {held['known']['photos']:,} photos of {held['known']['encounters']:,} "
        f"encounters and {held['strangers']['photos']:,} of {held['strangers']['individuals']:,} "
        "individuals, all left out of the fit"
    )
    former = report.get("former_head", {})
    before, after = report["before"], report["after"]
    sides = (
        escape(f"before ({former.get('version') or 'none'})"),
        escape(f"after ({row.version})"),
    )
    compared = table("", *sides, right=sides)
    shares = {
        "right individual first": "top_1",
        "answered (coverage)": "coverage",
        "right when answered": "accuracy",
        "answered wrongly": "wrong_rate",
    }
    for label, key in shares.items():
        compared.add_row(label, _share(before, key), _share(after, key))
    compared.add_row(
        "answers from probability",
        "" if before is None else f"{before['min_probability']:.3f}",
        f"{after['min_probability']:.3f}",
    )
    out.print(compared)
    out.print(f"nearest class mean: {report['top_1']['class_means']:.1%} right first")
    for sentence in (former.get("not_measured"), report["rule"]):
        if sentence:
            out.print(escape(sentence))
    if not row.is_active:
        err.print(f"`resight head activate {row.version}` puts it into use.")


def _share(record: dict[str, Any] | None, key: str) -> str:
    value = record[key] if record is not None else None
    return "" if value is None else f"{value:.1%}"
