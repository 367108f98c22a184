"""Edits of many individuals as one change: said once, counted before, undone once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from sqlalchemy.orm import Session

from db.errors import Invalid
from db.queries import catalogue
from db.queries import identity as rows
from db.queries.changes import Actor, Journal
from indexer.answers import Json

MAX_INDIVIDUALS: Final = 2_000
EDITABLE_TOGETHER: Final = frozenset({"sex", "vitality", "life_stage", "taxon"})


@dataclass(frozen=True, slots=True)
class ManyEdited:
    """What was, or with a preview would be, different. `change_id` None: nothing was written."""

    preview: bool
    changed: int
    unchanged: int
    change_id: int | None

    def as_json(self) -> Json:
        return {
            "preview": self.preview,
            "changed": self.changed,
            "unchanged": self.unchanged,
            "change_id": self.change_id,
        }


def edit_individuals(
    session: Session,
    actor: Actor,
    individual_ids: Sequence[UUID],
    fields: Mapping[str, Any],
    *,
    preview: bool = False,
) -> ManyEdited:
    """Write sex, vitality, life_stage or taxon (any of its names) of many individuals; merges are
    followed. The caller commits.

    Raises:
        NotFound: one is unknown or withdrawn; nothing is written.
        Invalid: nothing or something else is to be written, or a value is impossible; too many.
    """
    unknown = set(fields) - EDITABLE_TOGETHER
    if unknown or not fields:
        raise Invalid(
            "field_unknown",
            f"Of many individuals {', '.join(sorted(EDITABLE_TOGETHER))} can be edited together; "
            f"got {', '.join(sorted(unknown)) or 'nothing'}.",
        )
    if not 0 < len(individual_ids) <= MAX_INDIVIDUALS:
        raise Invalid(
            "too_many_individuals",
            f"Between 1 and {MAX_INDIVIDUALS:,} individuals are edited together, not "
            f"{len(individual_ids):,}.",
        )
    with session.begin_nested() as savepoint:
        chosen = rows.lock_individuals(session, individual_ids, follow=True)
        who = dict.fromkeys(one.id for one in chosen)
        values = {name: value for name, value in fields.items() if name != "taxon"}
        if "taxon" in fields:
            label = fields["taxon"]
            values["taxon_id"] = catalogue.ensure_taxon(session, label) if label else None
        journal = Journal(session)
        changed = journal.update_many("individual", who, values)
        change = None
        if preview:
            savepoint.rollback()
        elif changed:
            detail = {"individuals": len(changed), "set": dict(fields)}
            change = journal.close(actor, "edit_many", detail)
    return ManyEdited(
        preview, len(changed), len(who) - len(changed), None if change is None else change.id
    )
