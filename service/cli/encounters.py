"""Commands about encounters: list, show, and photos that become some."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from uuid import UUID

import typer
from rich.markup import escape

from service.cli.common import (
    AsJson,
    CatalogueName,
    DataDir,
    Exit,
    Stop,
    Strict,
    err,
    opened,
    opened_database,
    out,
    print_json,
    read_photo,
    settings_from,
    table,
)

if TYPE_CHECKING:
    from indexer.encounter_answers import EncounterMade, EncounterOut, GivenPhoto
    from indexer.encounter_photos import NewEncounter
    from indexer.encounters import Encounters
    from indexer.identify import PhotoIn

encounters = typer.Typer(
    help="List and read encounters, and make them of photos.", no_args_is_help=True
)
Photos = Annotated[list[Path], typer.Argument(metavar="PHOTO…", help="Photo files.")]
GAP_MINUTES = 10.0


@encounters.command("list")
def list_encounters(
    place: Annotated[str | None, typer.Option(help="Places that contain this.")] = None,
    taxon: Annotated[str | None, typer.Option(help="With this species.")] = None,
    individual: Annotated[str | None, typer.Option(help="With this individual, by id.")] = None,
    since: Annotated[str | None, typer.Option(metavar="DATE", help="From this date on.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most this many.")] = 50,
    catalogue: CatalogueName = None,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """Encounters, the newest first, with who was seen."""
    from db.queries.encounters import EncounterFilters
    from indexer.encounters import browse_encounters

    filters = EncounterFilters(
        place=place,
        taxon=taxon,
        individual=_id(individual, "--individual") if individual else None,
        date_from=_date(since) if since else None,
        catalogue=catalogue,
    )
    with opened_database(settings_from(data_dir)) as sessions, sessions() as session:
        page = browse_encounters(session, filters, limit=limit)
    if as_json:
        print_json([item.as_json() for item in page.items])
        return
    listed = table("started", "place", "photos", "individuals", "id", right=("photos",))
    for item in page.items:
        who = ", ".join(one.name for one in item.individuals)
        listed.add_row(
            _when(item.encounter),
            escape(item.encounter.place or ""),
            str(item.photo_count),
            escape(who),
            item.encounter.id,
        )
    out.print(listed)
    if page.next_cursor:
        err.print(f"more than {limit}: narrow with --place, or raise --limit")


@encounters.command("show")
def show_encounter(
    encounter: Annotated[str, typer.Argument(metavar="ID", help="An encounter's id.")],
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """One encounter: its photos, and who was seen together."""
    from indexer.encounters import read_encounter

    wanted = _id(encounter, "ID")
    with opened_database(settings_from(data_dir)) as sessions, sessions() as session:
        view = read_encounter(session, wanted)
    if as_json:
        print_json(view.as_json())
        return
    told = view.encounter
    out.print(f"[bold]{_when(told)}[/]  {escape(told.place or 'place unknown')}")
    if told.latitude is not None:
        out.print(f"{told.latitude}, {told.longitude}")
    out.print(f"[dim]{told.id}[/]")
    for photo in view.photos:
        who = photo.individual.name if photo.individual else "nobody known"
        name = escape(photo.name or "")
        out.print(f"  annotation {photo.annotation_id}  {name}  {escape(who)}")
    for query in view.queries:
        out.print(f"  query {query.id}  {query.state or ''}")


@encounters.command("add")
def add_encounter(
    photos: Photos,
    by_time: Annotated[
        bool,
        typer.Option(
            "--by-time", help="Several encounters: a new one after each pause (--gap-minutes)."
        ),
    ] = False,
    gap_minutes: Annotated[
        float, typer.Option(min=0, help="The pause between two encounters, with --by-time.")
    ] = GAP_MINUTES,
    to: Annotated[
        str | None, typer.Option("--to", metavar="ID", help="Add to this encounter.")
    ] = None,
    place: Annotated[str | None, typer.Option(help="Where it was.")] = None,
    observer: Annotated[str | None, typer.Option(help="Who saw it.")] = None,
    taxon: Annotated[str | None, typer.Option(help="Species, by any of its names.")] = None,
    viewpoint: Annotated[str | None, typer.Option(help="For example left.")] = None,
    body_part: Annotated[str | None, typer.Option(help="For example flank or fluke.")] = None,
    ask: Annotated[
        bool, typer.Option("--ask/--no-ask", help="Ask who it is; the answer waits for review.")
    ] = True,
    catalogue: CatalogueName = None,
    strict: Strict = False,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """Photos become an encounter; dates and positions are taken from their EXIF."""
    from indexer.encounter_photos import Labels, NewEncounter
    from indexer.identify import PhotoIn

    if to and by_time:
        raise Stop("--to names one encounter, --by-time makes several; give one of the two.")
    labels = Labels(taxon, (viewpoint,) if viewpoint else (), (body_part,) if body_part else ())
    new = NewEncounter(place=place, observer=observer, catalogue=catalogue, labels=labels)
    given = [PhotoIn(path.name, read_photo(path)) for path in photos]
    gap = timedelta(minutes=gap_minutes) if by_time else None
    with opened(settings_from(data_dir)) as resight:
        made, refused = _added(resight.encounters, new, given, to, gap, ask=ask)
    if as_json:
        print_json([one.as_json() for one in made])
    else:
        _show(made)
    for photo in refused:
        detail = photo.error.detail if photo.error else ""
        err.print(f"[yellow]left out:[/] {escape(photo.name or '')}: {escape(detail)}")
    if strict and refused:
        raise typer.Exit(Exit.PARTIAL)


def _added(
    service: Encounters,
    new: NewEncounter,
    given: list[PhotoIn],
    to: str | None,
    gap: timedelta | None,
    *,
    ask: bool,
) -> tuple[list[EncounterMade], list[GivenPhoto]]:
    from indexer.catalogue import LOCAL

    if gap is not None:
        dropped = service.drop(new, given, gap=gap, ask=ask, actor=LOCAL)
        return list(dropped.encounters), list(dropped.refused)
    if to is not None:
        made = service.add_photos(_id(to, "--to"), given, labels=new.labels, ask=ask, actor=LOCAL)
    else:
        made = service.create(new, given, ask=ask, actor=LOCAL)
    return [made], [photo for photo in made.photos if photo.error]


def _show(made: list[EncounterMade]) -> None:
    for one in made:
        state = "made" if one.created else "there already"
        out.print(f"[bold]{_when(one.encounter)}[/]  {one.encounter.id}  {state}")
        for photo in one.photos:
            if photo.annotation_id:
                known = "known already" if photo.known else "new"
                name = escape(photo.name or "")
                out.print(f"  {name}  annotation {photo.annotation_id}  {known}")
        if one.query_id:
            out.print(f"  query {one.query_id}")
        for notice in one.notices:
            err.print(f"[yellow]note:[/] {escape(notice.detail)}")


def _when(encounter: EncounterOut) -> str:
    return (encounter.started_at or "time unknown")[:16].replace("T", " ")


def _id(text: str, what: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise Stop(f"{what} is an id, not {text!r}; `--json` shows ids.", Exit.USAGE) from None


def _date(text: str) -> datetime:
    try:
        return datetime.fromisoformat(text).replace(tzinfo=UTC)
    except ValueError:
        raise Stop(f"--since is a date like 2026-01-31, not {text!r}.", Exit.USAGE) from None
