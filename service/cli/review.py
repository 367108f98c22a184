"""Commands about the desk: queue (how much waits), review list (what was decided)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from service.cli.common import (
    AsJson,
    DataDir,
    opened_database,
    out,
    print_json,
    settings_from,
    table,
)

if TYPE_CHECKING:
    from db.queries.reviews import DecisionRow

review = typer.Typer(help="What people decided.", no_args_is_help=True)


def show_queues(as_json: AsJson = False, data_dir: DataDir = None) -> None:
    """How many questions wait in each queue of the desk."""
    from db.queries.queues import count_queues

    settings = settings_from(data_dir)
    with opened_database(settings) as sessions, sessions() as session:
        counts = count_queues(session, principal="", gate_sample=settings.gate_sample)
    if as_json:
        print_json(counts)
        return
    listed = table("queue", "waiting", right=("waiting",))
    for name, count in counts.items():
        listed.add_row(name, str(count))
    out.print(listed)


@review.command("list")
def list_reviews(
    limit: Annotated[int, typer.Option(min=1, max=1000, help="At most this many.")] = 20,
    reviewer: Annotated[str | None, typer.Option(help="Of one person.")] = None,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """The latest decisions; opinions that wait for others are not among them."""
    from db.queries.reviews import latest_decisions

    with opened_database(settings_from(data_dir)) as sessions, sessions() as session:
        rows = latest_decisions(session, limit=limit, reviewer=reviewer)
    if as_json:
        print_json([_json(row) for row in rows])
        return
    listed = table("when", "who", "verdict", "individual", "query", "")
    for row in rows:
        listed.add_row(
            f"{row.at:%Y-%m-%d %H:%M}",
            escape(row.reviewer),
            str(row.verdict),
            escape(row.individual_name or ""),
            str(row.query_id or ""),
            f"undone by {escape(row.undone_by)}" if row.undone_by else "",
        )
    out.print(listed)


def _json(row: DecisionRow) -> dict[str, object]:
    return {
        "decision_id": str(row.decision_id),
        "query_id": row.query_id and str(row.query_id),
        "verdict": str(row.verdict),
        "individual_id": row.individual_id and str(row.individual_id),
        "individual": row.individual_name,
        "annotation_ids": [str(one) for one in row.annotation_ids],
        "reason": row.reason and str(row.reason),
        "reviewer": row.reviewer,
        "at": row.at.isoformat(),
        "note": row.note,
        "undone_by": row.undone_by,
    }
