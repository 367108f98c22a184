"""Owns the demo: a catalogue to play with, made once and kept, and what to try with it."""

from __future__ import annotations

import json
import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape

from service.cli.catalogue import embed_all, ingest, show_import
from service.cli.common import Stop, bar, opened, out
from service.serving import refuse_taken_port, serve
from service.worker import beside

if TYPE_CHECKING:
    from service.runtime import Resight
    from service.settings import Settings

DRAWN = "drawings"
ON_THE_DESK = 8
"""Encounters of the drawn day at sea that wait for review; the others are there to be dropped."""
OWN_PHOTOS_FOLDER = "own-photos"


def run(settings: Settings, photos: Path | None = None) -> None:
    """Makes the catalogue where it is not complete yet, then serves it until Ctrl-C.

    `photos` is a folder with a folder per individual; without it flukes are drawn.

    Raises:
        PortTaken: nothing was made.
        Stop: the data directory holds another catalogue.
    """
    if photos is not None and "data_dir" not in settings.model_fields_set:
        # Own photos and drawings in one catalogue would answer for each other.
        data_dir = settings.data_dir / OWN_PHOTOS_FOLDER
        settings = settings.model_copy(update={"data_dir": data_dir})
    refuse_taken_port(settings.host, settings.port, "resight demo --port N")
    folder = settings.data_dir / "demo"
    source = DRAWN if photos is None else str(photos.resolve())
    complete = folder / "complete.json"
    with opened(settings) as resight:
        if photos is not None or _read(complete) != source:
            _claim(folder, source, resight)
            _fill(resight, folder, photos)
            _write(complete, source)
        with beside(settings, tell=lambda line: out.print(escape(line))):
            serve(resight, when_ready=lambda url: _tell(url, settings, folder, photos))


def _claim(folder: Path, source: str, resight: Resight) -> None:
    """Notes what this data directory is for; refuses one that is for something else."""
    from db.queries.catalogue import counts

    where = resight.settings.data_dir
    begun = _read(folder / "source.json")
    with resight.sessions() as session:
        individuals = counts(session).individuals
    if begun is None and individuals:
        raise Stop(
            f"{where} holds a catalogue of {individuals} individuals that is not the demo's. "
            "Name another place: resight demo --data-dir DIR. To serve this one: resight serve."
        )
    if begun not in (None, source):
        raise Stop(
            f"{where} holds the demo of {begun}; name another place for {source}: "
            "resight demo --data-dir DIR."
        )
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / "source.json", source)


def _fill(resight: Resight, folder: Path, photos: Path | None) -> None:
    """Draws, imports, embeds: each step goes on where an earlier start was ended."""
    from indexer.ingest import plan_import

    drawn = photos is None
    if photos is None:
        photos = folder / "photos"
        _draw(photos, folder / "queries")
    report = ingest(resight, plan_import(photos))
    if report.imported or report.skipped:
        show_import(report)
    if not resight.active.usable:
        raise Stop(
            "The photos are stored, but no model is there to embed them: `resight doctor` says "
            "why. The next start goes on from here."
        )
    embed_all(resight)
    if drawn:
        _bring_home(resight, folder / "fieldwork")


def _bring_home(resight: Resight, folder: Path) -> None:
    """Photos of a day at sea, the first of them on the desk: something to review at once."""
    from db.queries.changes import Actor
    from indexer.drawings import write_fieldwork
    from indexer.encounter_photos import NewEncounter
    from indexer.identify import PhotoIn

    photos = write_fieldwork(folder, workers=os.cpu_count() or 1)
    brought = [photo.path for photo in photos if photo.encounter < ON_THE_DESK]
    resight.encounters.drop(
        NewEncounter(),
        [PhotoIn(path.name, path.read_bytes()) for path in brought],
        actor=Actor("demo"),
        idempotency_key="demo",
    )


def _draw(photos: Path, queries: Path) -> None:
    from indexer.drawings import write_catalogue, write_queries

    if not (photos / "metadata.csv").is_file():
        with bar("draw") as step:
            write_catalogue(photos, workers=os.cpu_count() or 1, progress=step)
    write_queries(queries)


def _read(path: Path) -> str | None:
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))["source"])
    except (FileNotFoundError, ValueError, KeyError):
        return None


def _write(path: Path, source: str) -> None:
    part = path.with_suffix(".part")
    part.write_text(json.dumps({"source": source}) + "\n", encoding="utf-8")
    os.replace(part, path)


def _tell(url: str, settings: Settings, folder: Path, photos: Path | None) -> None:
    """What to try, as lines that can be copied."""
    sample = shlex.quote(str(folder / "queries" / "known.jpg")) if photos is None else "PHOTO.jpg"
    place = shlex.quote(str(settings.data_dir))
    at = "" if settings.data_dir == Path(".resight") else f" --data-dir {place}"
    lines = [
        "",
        f"[bold]Resight answers at {escape(url)}[/]",
        f"  page      open it and drop [cyan]{escape(sample)}[/] on it",
        f"  API       curl -F file=@{escape(sample)} {escape(url)}/v1/identify",
        f"  command   {escape(_command())} identify{escape(at)} {escape(sample)}",
    ]
    if photos is None:
        known = json.loads((folder / "queries" / "manifest.json").read_text(encoding="utf-8"))
        name = escape(known["known"]["individual"])
        lines.append(
            f"  samples   known.jpg is {name}, unknown.jpg is in no catalogue, "
            "not_a_whale.jpg is a page of text"
        )
        fieldwork = escape(shlex.quote(str(folder / "fieldwork")))
        lines.append(
            f"  desk      {escape(url)}/review has encounters of a day at sea to decide; drop the "
            f"rest of [cyan]{fieldwork}[/] on {escape(url)}/encounters/new"
        )
    lines += [f"Ctrl-C ends it; what you add stays in {escape(str(settings.data_dir))}.", ""]
    out.print("\n".join(lines))


def _command() -> str:
    program = Path(sys.argv[0])
    if program.is_absolute() and program.is_relative_to(Path.cwd()):
        program = program.relative_to(Path.cwd())
    return shlex.quote(str(program))
