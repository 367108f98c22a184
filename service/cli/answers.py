"""Commands that answer for photos: identify, predict, batch, verify."""

from __future__ import annotations

import csv
import os
import time
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from service.cli.common import (
    AsJson,
    CatalogueName,
    DataDir,
    Exit,
    Stop,
    Strict,
    bar,
    err,
    opened,
    out,
    print_json,
    read_photo,
    sentence_of,
    settings_from,
    table,
)

if TYPE_CHECKING:
    from indexer.answers import DefaultAnswer, GateAnswer, IdentifyAnswer, IndividualRef
    from indexer.identify import IdentifyOptions
    from service.runtime import Resight

Photo = Annotated[Path, typer.Argument(metavar="PHOTO", help="A photo file.")]
K = Annotated[
    int | None,
    typer.Option("-k", "--k", min=1, help="Individuals to show.", show_default="RESIGHT_TOP_K"),
]
SCORE_CELLS = 12
SHOWN_IN_CSV = 5


def identify(
    photos: Annotated[
        list[Path], typer.Argument(metavar="PHOTO…", help="Photos of one encounter.")
    ],
    k: K = None,
    taxon: Annotated[
        list[str] | None, typer.Option(help="Search this taxon only; may be repeated.")
    ] = None,
    viewpoint: Annotated[
        list[str] | None, typer.Option(help="Search this viewpoint only; may be repeated.")
    ] = None,
    place: Annotated[str | None, typer.Option(help="Search encounters at this place only.")] = None,
    date_from: Annotated[
        str | None, typer.Option("--from", metavar="DATE", help="Encounters from this day on.")
    ] = None,
    date_to: Annotated[
        str | None, typer.Option("--to", metavar="DATE", help="Encounters up to this day.")
    ] = None,
    catalogue: CatalogueName = None,
    exclude_encounter: Annotated[
        str | None,
        typer.Option(
            metavar="ID|own", help="Leave out an encounter; `own`: that of the photo itself."
        ),
    ] = None,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """Ask who is on the photos: gate, default answer, nearest individuals."""
    from indexer.identify import PhotoIn

    settings = settings_from(data_dir)
    options = _options(
        k or settings.top_k,
        exclude_encounter,
        taxon=tuple(taxon or ()),
        viewpoint=tuple(viewpoint or ()),
        place=place,
        date_from=_day(date_from),
        date_to=_day(date_to, end=True),
        catalogue=catalogue,
    )
    given = [PhotoIn(path.name, read_photo(path)) for path in photos]
    with opened(settings) as resight:
        answer = resight.identifier.identify(given, options)
    if as_json:
        print_json(answer.as_json())
    else:
        show(answer)
    _end(answer)


def predict(
    photo: Photo,
    as_json: AsJson = False,  # noqa: ARG001 the answer is JSON with or without it
    data_dir: DataDir = None,
) -> None:
    """The compatible answer of POST /v1/predict-single, as JSON."""
    from db.types import QueryKind
    from indexer.identify import PhotoIn
    from service.compat import prediction

    settings = settings_from(data_dir)
    given = [PhotoIn(photo.name, read_photo(photo))]
    with opened(settings) as resight:
        answer = resight.identifier.identify(
            given, _options(settings.top_k), kind=QueryKind.PREDICT
        )
        print_json(prediction(photo.name, answer))
    _end(answer)


def batch(
    folder: Annotated[
        Path,
        typer.Argument(metavar="DIR", exists=True, file_okay=False, help="A folder of photos."),
    ],
    csv_path: Annotated[Path, typer.Option("--csv", metavar="OUT", help="The CSV to write.")],
    k: K = None,
    strict: Strict = False,
    data_dir: DataDir = None,
) -> None:
    """Identify every file of a folder, one by one, into a CSV: a row for each file, in order."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path != csv_path)
    if not files:
        raise Stop(f"{folder} holds no files. Name a folder of photos.")
    settings = settings_from(data_dir)
    started = time.perf_counter()
    failed = 0
    part = csv_path.with_name(csv_path.name + ".part")
    with (
        opened(settings) as resight,
        part.open("w", newline="", encoding="utf-8") as file,
        bar("batch") as step,
    ):
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        options = _options(k or settings.top_k)
        for done, row in enumerate(_rows(resight, folder, files, options), start=1):
            writer.writerow({name: escaped(value) for name, value in row.items()})
            failed += bool(row["error"])
            step(done, len(files))
    os.replace(part, csv_path)
    seconds = time.perf_counter() - started
    err.print(
        f"{len(files)} rows in {csv_path} ({len(files) / seconds:.1f} photos/s), "
        f"{failed} without an answer: their column `error` says why."
    )
    if strict and failed:
        raise typer.Exit(Exit.PARTIAL)


def verify(photo: Photo, as_json: AsJson = False, data_dir: DataDir = None) -> None:
    """Ask the gate alone whether this is a photo it lets pass: 0 yes, 3 no, 4 cannot tell."""
    from indexer.identify import PhotoIn

    settings = settings_from(data_dir)
    given = PhotoIn(photo.name, read_photo(photo))
    with opened(settings) as resight:
        decision = resight.identifier.judge(given)
    if as_json:
        print_json({"image_ind": photo.name, "gate": asdict(decision)})
    else:
        out.print(gate_line(decision))
    codes = {"accepted": Exit.OK, "rejected": Exit.REJECTED, "abstained": Exit.ABSTAINED}
    raise typer.Exit(codes[decision.state])


COLUMNS = (
    "file",
    "gate",
    "gate_score",
    "default_status",
    "default_individual",
    "default_taxon",
    "default_probability",
    "verdict",
    *(
        column
        for rank in range(1, SHOWN_IN_CSV + 1)
        for column in (f"match_{rank}", f"score_{rank}")
    ),
    "query_id",
    "error",
    "detail",
)


def _rows(
    resight: Resight, folder: Path, files: list[Path], options: IdentifyOptions
) -> Iterator[dict[str, Any]]:
    """One row for each file, in order; what fails is a row that says why."""
    from indexer.identify import PhotoIn

    for path in files:
        row: dict[str, Any] = dict.fromkeys(COLUMNS, "")
        row["file"] = path.relative_to(folder).as_posix()
        try:
            answer = resight.identifier.identify([PhotoIn(path.name, path.read_bytes())], options)
        except Exception as error:
            sentence = sentence_of(error)
            if sentence is None:
                raise
            row["error"], row["detail"] = _code_of(error), sentence
        else:
            row |= _cells(answer)
        yield row


def _cells(answer: IdentifyAnswer) -> dict[str, Any]:
    given = answer.default_answer
    cells = {
        "gate": answer.gate.state,
        "gate_score": _number(answer.gate.score),
        "default_status": given.status,
        "default_individual": given.individual.name if given.individual else "",
        "default_taxon": (given.individual.taxon or "") if given.individual else "",
        "default_probability": _number(given.probability),
        "verdict": answer.novelty.verdict if answer.novelty else "",
        "query_id": answer.query_id,
    }
    for match in answer.matches[:SHOWN_IN_CSV]:
        cells[f"match_{match.rank}"] = match.individual.name
        cells[f"score_{match.rank}"] = _number(match.score)
    return cells


def escaped(value: object) -> str:
    """A CSV cell that no spreadsheet takes for a formula; a number of ours stays a number."""
    text = str(value)
    if text[:1] in ("=", "+", "-", "@", "\t", "\r") and not _is_number(text):
        return "'" + text
    return text


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _code_of(error: Exception) -> str:
    from indexer.identify import NoReadablePhoto

    if isinstance(error, NoReadablePhoto):
        return error.problems[0].code
    return str(getattr(error, "code", type(error).__name__))


def _options(k: int, exclude_encounter: str | None = None, **filters: Any) -> IdentifyOptions:
    from uuid import UUID

    from db.queries.filters import SearchFilters
    from indexer.identify import IdentifyOptions

    encounter: Any = exclude_encounter
    if exclude_encounter not in (None, "own"):
        try:
            encounter = UUID(exclude_encounter)
        except ValueError:
            raise Stop(
                f"--exclude-encounter takes an encounter's id or `own`, not {exclude_encounter!r}.",
                Exit.USAGE,
            ) from None
    return IdentifyOptions(k=k, filters=SearchFilters(**filters), exclude_encounter=encounter)


def _day(text: str | None, *, end: bool = False) -> datetime | None:
    if text is None:
        return None
    try:
        day = datetime.fromisoformat(text)
    except ValueError:
        raise Stop(f"{text!r} is no date; write it as 2024-05-31.", Exit.USAGE) from None
    if end and len(text) <= len("2024-05-31"):
        day = day.replace(hour=23, minute=59, second=59, microsecond=999_999)
    return day if day.tzinfo else day.replace(tzinfo=UTC)


def _end(answer: IdentifyAnswer) -> None:
    if answer.gate.state == "rejected":
        raise typer.Exit(Exit.REJECTED)


def show(answer: IdentifyAnswer) -> None:
    """One answer for a person at a terminal."""
    for photo in answer.photos:
        if photo.error is not None:
            err.print(f"[yellow]{escape(photo.name or '')}:[/] {escape(photo.error.detail)}")
    out.print(gate_line(answer.gate))
    out.print(f"default answer   {_default(answer.default_answer)}")
    if answer.novelty is not None:
        out.print(f"nearest          {escape(answer.novelty.explanation)}")
    if answer.matches:
        out.print(_table(answer))
    if answer.receipt is not None:
        searched = _searched(answer.as_json()["receipt"])
        out.print(f"[dim]{searched} · query {answer.query_id}[/]")
    for notice in answer.notices:
        err.print(f"[yellow]note:[/] {escape(notice.detail)}")


def gate_line(gate: GateAnswer) -> str:
    """What the gate thinks, in one line."""
    colour = {"accepted": "green", "rejected": "red", "abstained": "yellow"}[gate.state]
    score = "" if gate.score is None else f"  {gate.score:.2f}"
    if gate.score is not None and gate.threshold is not None:
        score += f" {'≥' if gate.score >= gate.threshold else '<'} {gate.threshold:.2f}"
    reason = f"  [dim]{escape(gate.reason)}[/]" if gate.reason else ""
    return (
        f"gate             [{colour}]{gate.state}[/]{score}  [dim]{escape(gate.model)}[/]{reason}"
    )


def _default(answer: DefaultAnswer) -> str:
    probability = "" if answer.probability is None else f", probability {answer.probability:.2f}"
    if answer.status == "given" and answer.individual is not None:
        return f"[bold]{_named(answer.individual)}[/]{probability}"
    reason = f": {answer.reason}" if answer.reason else ""
    return f"none ({answer.status.replace('_', ' ')}{probability}){escape(reason)}"


def _named(individual: IndividualRef) -> str:
    taxon = f" ({individual.taxon})" if individual.taxon else ""
    return escape(individual.name + taxon)


def _table(answer: IdentifyAnswer) -> Table:
    matches = table("", "individual", "species", "score", " ", "photos", right=("score", "photos"))
    for match in answer.matches:
        cells = "█" * round(max(0.0, match.score) * SCORE_CELLS)
        matches.add_row(
            str(match.rank),
            escape(match.individual.name) + (" [yellow](rejected)[/]" if match.rejected else ""),
            escape(match.individual.taxon or ""),
            f"{match.score:.3f}",
            f"[cyan]{cells:<{SCORE_CELLS}}[/]",
            str(match.supporting),
        )
    return matches


def _searched(receipt: dict[str, Any]) -> str:
    left_out = sum(receipt["excluded"].values())
    return (
        f"{receipt['scanned']} of {receipt['eligible']} searched ({receipt['mode']}), "
        f"{left_out} left out, {receipt['timings_ms'].get('total', 0):.0f} ms"
    )
