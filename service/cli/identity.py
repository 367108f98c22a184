"""Commands that say who is who, and take that back: individuals rename, merge, split, history;
changes list, undo."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import typer
from rich.markup import escape

from service.cli.catalogue import Name, find_individual, individuals
from service.cli.common import (
    AsJson,
    CatalogueName,
    DataDir,
    err,
    opened,
    opened_database,
    out,
    print_json,
    settings_from,
    table,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sqlalchemy.orm import Session

    from db.queries.changes import ChangeRow
    from indexer.identity import Identity
    from indexer.outcomes import Outcome

changes = typer.Typer(help="List what was said of individuals, and undo it.", no_args_is_help=True)

Preview = Annotated[
    bool, typer.Option("--preview", help="Say what would happen, and change nothing.")
]
Limit = Annotated[int, typer.Option(min=1, max=1000, help="At most this many.")]
ChangeId = Annotated[int, typer.Argument(metavar="CHANGE", help="A number of `changes list`.")]


@individuals.command("rename")
def rename(
    name: Name,
    new_name: Annotated[str, typer.Argument(metavar="NEW-NAME", help="The new primary name.")],
    keep_alias: Annotated[
        bool, typer.Option("--alias/--no-alias", help="Keep the old name as an alias.")
    ] = True,
    preview: Preview = False,
    catalogue: CatalogueName = None,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """Give an individual another primary name."""

    def work(session: Session, identity: Identity) -> Outcome:
        who = find_individual(session, name, catalogue)
        return identity.rename(who.id, new_name, keep_alias=keep_alias)

    _show(_do(work, preview, data_dir), as_json)


@individuals.command("merge")
def merge(
    name: Name,
    other: Annotated[
        str, typer.Argument(metavar="OTHER", help="Name or id of the one that it also is.")
    ],
    preview: Preview = False,
    although_rejected: Annotated[
        bool,
        typer.Option("--although-rejected", help="Even if somebody said that they are different."),
    ] = False,
    catalogue: CatalogueName = None,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """Say that two individuals are one; the first stays, the other's names become aliases."""

    def work(session: Session, identity: Identity) -> Outcome:
        kept = find_individual(session, name, catalogue)
        gone = find_individual(session, other, catalogue)
        return identity.merge(kept.id, gone.id, confirm_rejected=although_rejected)

    _show(_do(work, preview, data_dir), as_json)


@individuals.command("split")
def split(
    name: Name,
    annotations: Annotated[
        list[int], typer.Argument(metavar="ANNOTATION…", help="Numbers of `individuals show`.")
    ],
    new_name: Annotated[
        str | None,
        typer.Option("--name", help="Of the new individual.", show_default="made of the old one"),
    ] = None,
    into: Annotated[
        str | None, typer.Option(help="Name or id of one that is there, instead of a new one.")
    ] = None,
    preview: Preview = False,
    catalogue: CatalogueName = None,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """Take photos out of an individual, to a new one or one that is there."""

    def work(session: Session, identity: Identity) -> Outcome:
        who = find_individual(session, name, catalogue)
        target = find_individual(session, into, catalogue).id if into is not None else None
        return identity.split(who.id, annotations, name=new_name, into=target)

    _show(_do(work, preview, data_dir), as_json)


@individuals.command("history")
def history(
    name: Name,
    limit: Limit = 50,
    catalogue: CatalogueName = None,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """What was said of an individual, by whom and when, newest first."""
    from db.queries import changes as queries

    with opened_database(settings_from(data_dir)) as sessions, sessions() as session:
        who = find_individual(session, name, catalogue)
        page = queries.list_changes(session, individual_id=who.id, limit=limit)
    _list(page.items, as_json)


@changes.command("list")
def list_changes(limit: Limit = 50, as_json: AsJson = False, data_dir: DataDir = None) -> None:
    """What was said of individuals, by whom and when, newest first."""
    from db.queries import changes as queries

    with opened_database(settings_from(data_dir)) as sessions, sessions() as session:
        page = queries.list_changes(session, limit=limit)
    _list(page.items, as_json)


@changes.command("undo")
def undo(
    change: ChangeId, preview: Preview = False, as_json: AsJson = False, data_dir: DataDir = None
) -> None:
    """Take a change back, whole; an undo can be undone."""
    from indexer.catalogue import LOCAL
    from indexer.identity import Identity

    with opened(settings_from(data_dir)) as resight, resight.sessions.begin() as session:
        outcome = Identity(session, LOCAL, preview=preview).undo(change)
        if outcome.change_id is not None:
            for notice in resight.filler.embed_after(session, outcome.change_id).notices:
                err.print(f"[yellow]note:[/] {escape(notice.detail)}")
    _show(outcome, as_json)


def _do(work: Callable[[Session, Identity], Outcome], preview: bool, data_dir: Any) -> Outcome:
    from indexer.catalogue import LOCAL
    from indexer.identity import Identity

    settings = settings_from(data_dir)
    with opened_database(settings) as sessions, sessions.begin() as session:
        return work(session, Identity(session, LOCAL, preview=preview))


def _show(outcome: Outcome, as_json: bool) -> None:
    if as_json:
        print_json(outcome.as_json())
        return
    if outcome.individual is not None:
        out.print(f"[bold]{escape(outcome.individual.name)}[/]  {outcome.individual.id}")
    counts = outcome.counts
    told = [
        f"{number} {what if number == 1 else what + 's'}"
        for number, what in (
            (counts.photos, "photo"),
            (counts.encounters, "encounter"),
            (counts.names, "name"),
        )
        if number
    ]
    if told:
        out.print(f"  {outcome.action}: {', '.join(told)}")
    for one in outcome.contradictions:
        about = f"annotation {one.annotation_id}, " if one.annotation_id else ""
        err.print(
            f"[yellow]note:[/] {escape(one.reviewer)} said {one.verdict} ({about}"
            f"{escape(one.individual.name)}) on {one.at:%Y-%m-%d}"
        )
    if outcome.preview:
        err.print("Nothing was changed; without --preview it is.")
    elif outcome.change_id is None:
        err.print("It is so already; nothing was changed.")
    else:
        err.print(f"Undo it with: resight changes undo {outcome.change_id}")


def _list(rows: Sequence[ChangeRow], as_json: bool) -> None:
    if as_json:
        print_json([_as_json(row) for row in rows])
        return
    listed = table("change", "when", "who", "what", "", right=("change",))
    for row in rows:
        listed.add_row(
            str(row.id),
            f"{row.at:%Y-%m-%d %H:%M}",
            escape(row.principal),
            escape(_what(row)),
            f"undone by {row.undone_by}" if row.undone_by else "",
        )
    out.print(listed)


def _what(row: ChangeRow) -> str:
    """The action with the names that it was about, as they were."""
    named = [_name(row.detail.get(key)) for key in ("individual", "kept", "other", "from", "to")]
    action = f"undo of {row.undoes_id}" if row.undoes_id is not None else row.action
    return " ".join([action, *dict.fromkeys(name for name in named if name)])


def _name(value: Any) -> str | None:
    if isinstance(value, dict):
        return str(value.get("name"))
    if isinstance(value, list):
        return ", ".join(name for name in map(_name, value) if name) or None
    return value if isinstance(value, str) else None


def _as_json(row: ChangeRow) -> dict[str, Any]:
    def text(value: UUID | None) -> str | None:
        return None if value is None else str(value)

    return {
        "id": row.id,
        "at": row.at.isoformat(),
        "by": row.principal,
        "action": row.action,
        "individual_ids": [str(one) for one in row.individual_ids],
        "undoes": row.undoes_id,
        "undone_by": row.undone_by,
        "decision_id": text(row.decision_id),
        "detail": row.detail,
    }
