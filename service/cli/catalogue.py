"""Commands that fill and read the catalogue: import, individuals."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
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
    bar,
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
    from sqlalchemy.orm import Session

    from db.queries.catalogue import IndividualRow
    from indexer.answers import AddedAnswer
    from indexer.embed import EmbedFailure
    from indexer.identify import PhotoIn
    from indexer.ingest import ImportPlan, ImportReport, Layout
    from models.preprocess import DecodeLimits
    from service.runtime import Resight
    from service.settings import Settings

individuals = typer.Typer(help="List, read and add individuals.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="NAME|ID", help="An individual's name or id.")]
Photos = Annotated[list[Path], typer.Argument(metavar="PHOTO…", help="Photo files.")]
SKIPS_SHOWN = 20


def import_photos(
    path: Annotated[
        str,
        typer.Argument(
            metavar="PATH|URI",
            help="A folder with a folder per individual, a folder with metadata.csv, or a CSV. "
            "Photos at a URI (file://, s3://, gs://, az://) are left where they are.",
        ),
    ],
    layout: Annotated[
        str | None,
        typer.Option(
            help="folders, wildlife-datasets or happywhale.", show_default="recognised by itself"
        ),
    ] = None,
    catalogue: CatalogueName = None,
    embed: Annotated[
        bool, typer.Option("--embed/--no-embed", help="Embed the photos right away.")
    ] = True,
    background: Annotated[
        bool, typer.Option("--background", help="Leave it to a worker; `resight jobs watch last`.")
    ] = False,
    strict: Strict = False,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """Import photos of known (or unknown) individuals; what is known already is not doubled."""
    settings = settings_from(data_dir)
    if background:
        _import_later(settings, path, _layout(layout), catalogue, as_json=as_json)
        return
    plan = _plan(path, _layout(layout), settings)
    with opened(settings) as resight:
        report = ingest(resight, plan, catalogue)
        failed = embed_all(resight) if embed else []
    if as_json:
        print_json({"import": asdict(report), "not_embedded": [asdict(one) for one in failed]})
    else:
        show_import(report)
    if report.total and not report.imported and not report.already_known:
        raise typer.Exit(Exit.FAILED)
    if strict and (report.skipped or failed):
        raise typer.Exit(Exit.PARTIAL)


def _import_later(
    settings: Settings, path: str, layout: Layout | None, catalogue: str | None, *, as_json: bool
) -> None:
    from db.queries import records
    from db.queries.jobs import create_job
    from db.types import JobKind
    from indexer.locations import is_uri

    if not is_uri(path):
        if not Path(path).exists():
            raise Stop(f"There is nothing at {path}. Check the path.", Exit.USAGE)
        path = str(Path(path).resolve())
    params = {"path": path, "layout": layout and str(layout), "catalogue": catalogue}
    with opened_database(settings) as sessions, sessions.begin() as session:
        job = create_job(
            session,
            kind=JobKind.IMPORT,
            params=params,
            principal="local",
            exclusive_key=f"import:{path}",
        )
        records.add_audit(session, "local", "job.start", f"job:{job.id}", {"kind": "import"})
    if as_json:
        print_json({"job_id": str(job.id)})
    err.print(f"A worker imports it: resight jobs watch {job.id}")


def _plan(path: str, layout: Layout | None, settings: Settings) -> ImportPlan:
    from indexer.ingest import plan_import
    from indexer.locations import is_uri
    from indexer.remote_layouts import plan_uri

    if is_uri(path):
        return plan_uri(path, layout, allowed=settings.import_prefixes)
    if not Path(path).exists():
        raise Stop(f"There is nothing at {path}. Check the path.", Exit.USAGE)
    return plan_import(Path(path), layout)


def ingest(resight: Resight, plan: ImportPlan, catalogue: str | None = None) -> ImportReport:
    """Carries out an import with a progress bar."""
    from indexer.ingest import ImportProgress, run_import

    with bar("import") as step:

        def progress(now: ImportProgress) -> None:
            step(now.done, now.total)

        return run_import(
            resight.sessions,
            resight.store,
            plan,
            catalogue_name=catalogue,
            progress=progress,
            limits=_limits(resight),
        )


def embed_all(resight: Resight) -> list[EmbedFailure]:
    """Embeds what lacks a vector, with a progress bar; what could not be embedded, and why."""
    from indexer.embed import EmbedProgress, embed_missing

    embedder, space = resight.serving.embedder, resight.space
    if embedder is None or space is None or not resight.active.usable:
        problem = resight.active.problem
        why = problem.detail if problem else "`resight doctor` says why."
        err.print(f"[yellow]note:[/] the photos are stored but not embedded. {escape(why)}")
        return []
    with bar("embed") as step:

        def progress(now: EmbedProgress) -> None:
            step(now.embedded + now.failed, now.total)

        report = embed_missing(
            resight.sessions,
            resight.store,
            embedder,
            space.id,
            progress=progress,
            limits=_limits(resight),
        )
    for failure in report.failed:
        err.print(f"[yellow]not embedded:[/] {failure.annotation_id}: {escape(failure.reason)}")
    if report.embedded:
        err.print(f"{report.embedded} embedded, {report.photos_per_s:.1f} photos/s")
    return list(report.failed)


def show_import(report: ImportReport) -> None:
    """What an import did, and every reason for which it left something out."""
    err.print(
        f"{report.total} found: {report.imported} imported, {report.already_known} known already, "
        f"{len(report.skipped)} left out ({report.photos_per_s:.1f} photos/s)"
    )
    for what, skips in (("left out", report.skipped), ("note", report.warnings)):
        for code, count in Counter(skip.code for skip in skips).most_common():
            err.print(f"  {what}: {count} × {code}")
        for skip in skips[:SKIPS_SHOWN]:
            err.print(f"    {escape(skip.entry)}: {escape(skip.detail)}")
        if len(skips) > SKIPS_SHOWN:
            err.print(f"    … and {len(skips) - SKIPS_SHOWN} more; --json lists them all")


@individuals.command("list")
def list_individuals(
    text: Annotated[str | None, typer.Option(help="Names that contain this.")] = None,
    taxon: Annotated[str | None, typer.Option(help="Of this taxon only.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most this many.")] = 50,
    catalogue: CatalogueName = None,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """Individuals with their species and how many photos show them."""
    from db.queries import catalogue as queries

    with opened_database(settings_from(data_dir)) as sessions, sessions() as session:
        page = queries.list_individuals(
            session,
            catalogue_id=_catalogue_id(session, catalogue) if catalogue else None,
            text=text,
            taxon=taxon,
            limit=limit,
        )
    if as_json:
        print_json([asdict(item) for item in page.items])
        return
    listed = table("name", "species", "photos", "id", right=("photos",))
    for item in page.items:
        listed.add_row(
            escape(item.name), escape(item.taxon or ""), str(item.photo_count), str(item.id)
        )
    out.print(listed)
    if page.next_cursor:
        err.print(f"more than {limit}: narrow with --text, or raise --limit")


@individuals.command("show")
def show_individual(
    name: Name, catalogue: CatalogueName = None, as_json: AsJson = False, data_dir: DataDir = None
) -> None:
    """One individual: its names, species and photos."""
    from db.queries import catalogue as queries

    with opened_database(settings_from(data_dir)) as sessions, sessions() as session:
        found = find_individual(session, name, catalogue)
        photos = queries.annotations_of(session, found.id, limit=200)
    if as_json:
        print_json(asdict(found) | {"annotations": [asdict(item) for item in photos.items]})
        return
    out.print(f"[bold]{escape(found.name)}[/]  {escape(found.taxon or 'species unknown')}")
    out.print(f"[dim]{found.id}[/]")
    for item in photos.items:
        out.print(f"  annotation {item.id}  photo {item.media_id}  {item.source_ref or ''}")


@individuals.command("add")
def add_individual(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A new name.")],
    photos: Photos,
    taxon: Annotated[str | None, typer.Option(help="Species, by any of its names.")] = None,
    catalogue: CatalogueName = None,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """Add an individual by its photos; the next identification can return it."""
    from indexer.catalogue import NewIndividual

    given = _given(photos)
    with opened(settings_from(data_dir)) as resight:
        added = resight.curator.add_individual(
            NewIndividual(name, taxon=taxon, catalogue=catalogue), given
        )
    _show_added(added.answer, as_json)


@individuals.command("add-photos")
def add_photos(
    name: Name,
    photos: Photos,
    catalogue: CatalogueName = None,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """Add photos to an individual that is there already."""
    given = _given(photos)
    with opened(settings_from(data_dir)) as resight:
        with resight.sessions() as session:
            found = find_individual(session, name, catalogue)
        added = resight.curator.add_photos(found.id, given)
    _show_added(added.answer, as_json)


def _limits(resight: Resight) -> DecodeLimits:
    from models.preprocess import DecodeLimits

    return DecodeLimits(resight.settings.max_photo_bytes, resight.settings.max_photo_pixels)


def _layout(name: str | None) -> Layout | None:
    from indexer.ingest import Layout

    try:
        return None if name is None else Layout(name)
    except ValueError:
        known = ", ".join(Layout)
        raise Stop(f"--layout is one of {known}, not {name!r}.", Exit.USAGE) from None


def _catalogue_id(session: Session, name: str | None) -> UUID:
    from db.queries import catalogue as queries

    if name is None:
        return queries.default_catalogue(session).id
    found = queries.find_catalogue(session, name)
    if found is None:
        raise Stop(f"There is no catalogue {name!r}; an import with --catalogue makes one.")
    return found.id


def find_individual(session: Session, name: str, catalogue: str | None) -> IndividualRow:
    """By name, else by id.

    Raises:
        Stop, NotFound: there is none.
    """
    from db.queries import catalogue as queries

    found = queries.find_individual(
        session, catalogue_id=_catalogue_id(session, catalogue), name=name
    )
    if found is not None:
        return found
    try:
        wanted = UUID(name)
    except ValueError:
        raise Stop(
            f"No individual is called {name!r}. `resight individuals list --text` finds names."
        ) from None
    return queries.get_individual(session, wanted)


def _given(photos: list[Path]) -> list[PhotoIn]:
    from indexer.identify import PhotoIn

    return [PhotoIn(path.name, read_photo(path)) for path in photos]


def _show_added(added: AddedAnswer, as_json: bool) -> None:
    if as_json:
        print_json(added.as_json())
        return
    out.print(f"[bold]{escape(added.individual.name)}[/]  {added.individual.id}")
    for photo in added.photos:
        state = "can be found" if photo.embedded else "cannot be found yet"
        out.print(f"  {escape(photo.name or '')}  annotation {photo.annotation_id}  {state}")
    for notice in added.notices:
        err.print(f"[yellow]note:[/] {escape(notice.detail)}")
