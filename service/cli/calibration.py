"""The command `resight calibrate`: what scores mean, thresholds for false-match rates, a fit."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

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

    from service.calibration_schemas import CalibrationOut, CurveOut, HowSure


def calibrate(
    fit: Annotated[
        bool, typer.Option("--fit", help="Fit anew on the verdicts there are, and wait for it.")
    ] = False,
    rates: Annotated[
        list[float] | None,
        typer.Option(
            "--false-match-rate",
            help="A threshold for this rate, such as 0.01; may be given several times.",
            show_default="a table of usual ones",
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option("--model", help="A space by its name.", show_default="the one in use"),
    ] = None,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """How sure: what a score means, and from which score on few matches would be false."""
    from service import steering
    from service.calibration_schemas import how_sure
    from service.cli.jobs import end_as
    from service.cli.jobs import watch as follow
    from service.job_schemas import StartJobBody

    if any(not 0 < rate < 1 for rate in rates or ()):
        raise Stop("A false-match rate lies between 0 and 1, such as 0.01.", Exit.USAGE)
    with opened_database(settings_from(data_dir)) as sessions:
        if fit:
            job = steering.start(sessions, StartJobBody(kind="calibrate", model=model), "local")
            with _working_here(sessions):
                ended = follow(sessions, job.id)
        with sessions() as session:
            found = how_sure(session, steering.space_of(session, model), rates or ())
    if as_json:
        print_json(found.model_dump(mode="json"))
    else:
        _show(found)
    if fit:
        end_as(ended)


@contextmanager
def _working_here(sessions: sessionmaker[Session]) -> Iterator[None]:
    """Calibrates in this process until the block ends, unless a worker takes the job first."""
    from indexer.calibrate_job import CalibrateHandler
    from indexer.jobs import JobRunner, this_worker

    stop = threading.Event()
    runner = JobRunner(sessions, [CalibrateHandler()], worker=this_worker(), poll_s=0.5)
    thread = threading.Thread(target=runner.run, args=(stop,), name="calibrate", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        runner.wake()
        thread.join()


def _show(found: HowSure) -> None:
    told = found.verdicts
    space = escape(f"{found.space.name} {found.space.version}")
    if found.calibration is None:
        out.print(
            f"{space}: not enough verdicts yet, so no probability is stated: {told.same} same and "
            f"{told.different} different, {told.wanted} of each are wanted."
        )
        err.print(
            "Review more, or let the catalogue be asked about itself: `resight calibrate --fit`."
        )
        return
    fitted = found.calibration
    out.print(
        f"{space}: fitted {fitted.fitted_at:%Y-%m-%d %H:%M} UTC by {escape(fitted.fitted_by)}"
    )
    _tell("suggested pairs", fitted.pair)
    if fitted.query is not None:
        _tell("queries", fitted.query)
    _thresholds(fitted)
    err.print(
        f"Verdicts by now: {told.same} same, {told.different} different; `--fit` takes them in."
    )


def _tell(what: str, curve: CurveOut) -> None:
    counts = ", ".join(f"{count:,} {kind}" for kind, count in curve.counts.items())
    source = "verdicts" if curve.source == "verdicts" else "the catalogue asked about itself"
    out.print(
        f"{what}: {counts}, from {source}; {curve.method}; calibration error {curve.ece:.3f} on "
        f"encounters left out ({curve.ece_by_chance:.3f} would be chance), Brier {curve.brier:.3f}"
    )


def _thresholds(fitted: CalibrationOut) -> None:
    numbers = ("false matches", "from score", "different above", "same above")
    shown = table(*numbers, right=numbers)
    for one in fitted.thresholds:
        shown.add_row(
            f"{one.false_match_rate:.2%}",
            "–" if one.score is None else f"{one.score:.3f}",
            f"needs {one.needed:,} different pairs"
            if one.score is None and one.different < one.needed
            else f"{one.different_above:,} of {one.different:,}",
            "" if one.score is None else f"{one.same_above:,} of {one.same:,}",
        )
    out.print(shown)
