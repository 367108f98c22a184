"""What all commands share: exit codes, options, consoles, errors as sentences, progress bars."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol

import typer
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from sqlalchemy import Engine
    from sqlalchemy.orm import Session, sessionmaker

    from service.runtime import Resight
    from service.settings import Settings


class Exit(IntEnum):
    """What a command's exit code means; `docs/cli.md` lists them from here."""

    OK = 0
    FAILED = 1
    USAGE = 2
    REJECTED = 3
    ABSTAINED = 4
    PARTIAL = 5
    INTERRUPTED = 130


EXIT_MEANING = {
    Exit.OK: "done",
    Exit.FAILED: "failed; one sentence on standard error says why and what to do next; "
    "`--watch`, `jobs watch`: a job failed or was cancelled",
    Exit.USAGE: "the command line or a setting is wrong",
    Exit.REJECTED: "`identify`, `predict`, `verify`: the gate rejected the photo",
    Exit.ABSTAINED: "`verify`: the gate could not judge the photo",
    Exit.PARTIAL: "with `--strict`: finished, but some photos were left out; "
    "`--watch`, `jobs watch`: done, but some items failed",
    Exit.INTERRUPTED: "interrupted (Ctrl-C)",
}

OUR_PACKAGES = frozenset({"db", "models", "indexer", "service"})

DataDir = Annotated[
    Path | None,
    typer.Option(
        "--data-dir",
        envvar="RESIGHT_DATA_DIR",
        help="Where photos, models, snapshots and the embedded database lie.",
        show_default=".resight",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, as the API answers it.")]
Strict = Annotated[bool, typer.Option("--strict", help="Exit with 5 when any photo was left out.")]
CatalogueName = Annotated[
    str | None,
    typer.Option("--catalogue", help="Catalogue by name.", show_default="the default one"),
]

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)


class Stop(Exception):
    """Ends the command with a sentence for the person who typed it."""

    def __init__(self, sentence: str, code: Exit = Exit.FAILED) -> None:
        super().__init__(sentence)
        self.code = code


def settings_from(data_dir: Path | None, **overrides: Any) -> Settings:
    """Settings from the environment; an option that was given wins over it.

    Raises:
        Stop: a value that does not fit, named as its environment variable.
    """
    from pydantic import ValidationError

    from service.settings import Settings

    given = {name: value for name, value in overrides.items() if value is not None}
    if data_dir is not None:
        given["data_dir"] = data_dir
    try:
        return Settings(**given)
    except ValidationError as error:
        first = error.errors()[0]
        name = "RESIGHT_" + str(first["loc"][0]).upper()
        raise Stop(f"{name}={first['input']!r} does not fit: {first['msg']}.", Exit.USAGE) from None


@contextmanager
def opened(settings: Settings) -> Iterator[Resight]:
    """Everything that answers questions: database, models, searcher."""
    from service.runtime import open_resight

    resight = open_resight(settings)
    try:
        yield resight
    finally:
        resight.close()


@contextmanager
def opened_database(settings: Settings) -> Iterator[sessionmaker[Session]]:
    """The database alone, without models."""
    from service.database import open_database

    database = open_database(settings)
    try:
        yield database.sessions
    finally:
        database.engine.dispose()


@contextmanager
def connected(settings: Settings) -> Iterator[Engine]:
    """The database as it is: its tables may be missing, old or new."""
    from db import embedded
    from db.session import make_engine

    if settings.database_url is None:
        engine = make_engine(embedded.start(settings.data_dir).url)
    else:
        engine = make_engine(settings.database_url.get_secret_value())
    try:
        yield engine
    finally:
        engine.dispose()


def print_json(value: object) -> None:
    """One JSON document on standard output."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False, indent=2, default=str) + "\n")


def table(*headings: str, right: tuple[str, ...] = ()) -> Table:
    """An empty table as all commands draw theirs; the columns of `right` are numbers."""
    drawn = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for heading in headings:
        drawn.add_column(heading, justify="right" if heading in right else "left")
    return drawn


def read_photo(path: Path) -> bytes:
    """The bytes of a photo.

    Raises:
        Stop: there is no such file, or it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise Stop(f"{path}: {error.strerror}. Name a photo that can be read.") from None


def sentence_of(error: BaseException) -> str | None:
    """What to tell a person about an error; None where it is a bug of ours."""
    if isinstance(error, Stop):
        return str(error)
    if type(error).__module__.split(".")[0] in OUR_PACKAGES:
        return str(getattr(error, "detail", None) or error)
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror or error}."
    if type(error).__module__.startswith("sqlalchemy") and type(error).__name__ == (
        "OperationalError"
    ):
        reason = str(getattr(error, "orig", error)).strip().splitlines()[0]
        return f"The database does not answer ({reason}). Check RESIGHT_DATABASE_URL."
    return None


def run(app: typer.Typer, argv: list[str] | None = None) -> int:
    """Runs an app; errors become one sentence on standard error and an exit code."""
    # Without a handler Python prints warnings itself; what they say is in the answers already.
    logging.getLogger("resight").addHandler(logging.NullHandler())
    try:
        typer.main.get_command(app).main(argv, prog_name="resight")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else Exit.OK
    except Exception as error:
        return _explain(error)
    return Exit.OK


def _explain(error: Exception) -> int:
    if os.environ.get("RESIGHT_DEBUG"):
        raise error
    sentence = sentence_of(error)
    if sentence is None:
        sentence = (
            f"Unexpected {type(error).__name__}: {error}. This is a fault of Resight; "
            "RESIGHT_DEBUG=1 shows where it happened."
        )
    err.print(f"[bold red]resight:[/] {_plain(sentence)}")
    return error.code if isinstance(error, Stop) else Exit.FAILED


def _plain(text: str) -> str:
    from rich.markup import escape

    return escape(text)


def write_secret(path: Path, secret: str) -> None:
    """A file that nobody else of this machine may read, there whole or not at all."""
    part = path.with_name(path.name + ".part")
    part.unlink(missing_ok=True)
    handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(handle, "w", encoding="ascii") as file:
        file.write(secret + "\n")
    os.replace(part, path)


class Step(Protocol):
    """Tells a bar how far it is: (done, total)."""

    def __call__(self, done: int, total: int) -> None: ...


@contextmanager
def bar(label: str, *, unit: str = "photos") -> Iterator[Step]:
    """A progress bar with throughput on standard error; one line where it is no terminal."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        Task,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    class PerSecond(ProgressColumn):
        def render(self, task: Task) -> Text:
            speed = task.finished_speed or task.speed
            return Text(f"{speed:.1f} {unit}/s" if speed else "")

    columns = (
        TextColumn("{task.description:<10}"),
        BarColumn(),
        MofNCompleteColumn(),
        PerSecond(),
        TimeRemainingColumn(),
    )
    if not err.is_terminal:
        err.print(f"{label} …")
    with Progress(*columns, console=err, disable=not err.is_terminal) as progress:
        task = progress.add_task(label, total=None)

        def step(done: int, total: int) -> None:
            progress.update(task, completed=done, total=total)

        yield step
