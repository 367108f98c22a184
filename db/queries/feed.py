"""What other programs follow: changes of who is who and decisions of people, in one order.

The audit trail gives the order: its numbers are in the order of the commits, so that whoever asks
for what came after the last number seen misses nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from db.queries.changes import ChangeRow, get_changes
from db.queries.paging import Page, make_page, read_cursor
from db.queries.reviews import DecisionRow, get_decisions


@dataclass(frozen=True, slots=True)
class FeedRow:
    """A change, or (without one) a decision that changed no individual. `action` is the change's,
    or `review.` with what was said."""

    seq: int
    at: datetime
    principal: str
    action: str
    change: ChangeRow | None
    decision: DecisionRow | None
    other_id: UUID | None
    """The second of two that were called different, outside any query."""


def follow(
    session: Session,
    *,
    since: datetime | None = None,
    after: int | None = None,
    newest_first: bool = False,
    limit: int = 50,
    cursor: str | None = None,
) -> Page[FeedRow]:
    """What came at or after `since`, or after the number `after`. Opinions that are no decision
    yet are not among it, so that a page may hold fewer than `limit`."""
    last = read_cursor(cursor, int)
    conditions = ["(a.subject LIKE 'change:%' OR a.action LIKE 'review.%')"]
    if since is not None:
        conditions.append("a.at >= :since")
    if after is not None:
        conditions.append("a.id > :after")
    if last is not None:
        conditions.append(f"a.id {'<' if newest_first else '>'} :last")
    rows = session.execute(
        text(
            "SELECT a.id, a.at, a.principal, a.action,"
            " CASE WHEN a.subject LIKE 'change:%' THEN substr(a.subject, 8)::bigint END AS change,"
            " cast(a.detail->>'decision_id' AS uuid) AS decision,"
            " cast(a.detail->>'other_id' AS uuid) AS other"
            f" FROM audit a WHERE {' AND '.join(conditions)}"
            f" ORDER BY a.id {'DESC' if newest_first else 'ASC'} LIMIT :limit + 1"
        ),
        {"since": since, "after": after, "last": last and last[0], "limit": limit},
    ).all()
    page = make_page(rows, limit, lambda row: (row.id,))
    changed = get_changes(session, [row.change for row in page.items if row.change is not None])
    said = get_decisions(session, [row.decision for row in page.items if row.change is None])
    return Page(
        tuple(
            FeedRow(
                seq=row.id,
                at=row.at,
                principal=row.principal,
                action=row.action.removeprefix("identity."),
                change=changed.get(row.change),
                decision=None if row.change is not None else said.get(row.decision),
                other_id=row.other,
            )
            for row in page.items
            if row.change in changed or _is_decision(said.get(row.decision))
        ),
        page.next_cursor,
    )


def _is_decision(said: DecisionRow | None) -> bool:
    return said is not None and not said.is_vote


def individuals_of(row: FeedRow) -> tuple[UUID, ...]:
    """Whom it is about."""
    if row.change is not None:
        return row.change.individual_ids
    if row.decision is None:
        return ()
    named = () if row.decision.individual_id is None else (row.decision.individual_id,)
    other = () if row.other_id is None else (row.other_id,)
    return tuple(dict.fromkeys((*named, *row.decision.rejected, *other)))
