"""The journal of identity changes: rows are written together with what they were, to be undone.

An operation writes through a `Journal`, which keeps the written columns of every row before and
after. Undoing writes the former values back, in a change of its own, and only where the rows are
still as the change left them: otherwise the later change that stands in the way is named.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from db.errors import Conflict, NotFound, translated
from db.queries.paging import Page, make_page, read_cursor
from db.queries.records import add_audit

Json = dict[str, Any]
Entity = Literal["individual", "individual_name", "annotation", "encounter"]

_KEY_TYPE: Final[dict[str, str]] = {
    "individual": "uuid",
    "individual_name": "bigint",
    "annotation": "bigint",
    "encounter": "uuid",
}


@dataclass(frozen=True, slots=True)
class Actor:
    """Who acts: the name that is kept, and the account behind it where there is one."""

    principal: str
    account_id: int | None = None


@dataclass(frozen=True, slots=True)
class Image:
    """One row that a change wrote: the columns written, before and after. `before` None: the row
    was made; `after` None: it was deleted."""

    entity: Entity
    key: str
    before: Json | None
    after: Json | None


@dataclass(frozen=True, slots=True)
class ChangeRow:
    """One change. `undone_by` is the change that took it back; `detail` is what people read."""

    id: int
    at: datetime
    principal: str
    action: str
    undoes_id: int | None
    undone_by: int | None
    decision_id: UUID | None
    individual_ids: tuple[UUID, ...]
    detail: Json


class Journal:
    """Writes the rows of one operation, inside the caller's transaction. Values are JSON: ids and
    times as text, enumerations as their value."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._images: list[Image] = []

    @property
    def images(self) -> tuple[Image, ...]:
        return tuple(self._images)

    def update(self, entity: Entity, key: object, values: Mapping[str, Any]) -> bool:
        """Write columns of a row; whether anything was different. The row is locked.

        Raises:
            NotFound: there is no such row.
            Conflict, Invalid: a constraint refuses the values.
        """
        row = self._locked(entity, str(key))
        if row is None:
            raise NotFound(f"{entity}_unknown", f"There is no {entity} {key}.", key=str(key))
        wanted = self._as_stored(entity, dict(values))
        changed = {name: value for name, value in wanted.items() if row[name] != value}
        if not changed:
            return False
        self._write(entity, str(key), changed)
        before = {name: row[name] for name in changed}
        self._images.append(Image(entity, str(key), before, changed))
        return True

    def insert(self, entity: Entity, values: Mapping[str, Any]) -> Json:
        """A new row, defaults filled in; all its columns as JSON.

        Raises:
            Conflict, Invalid, NotFound: a constraint refuses the values.
        """
        columns = ", ".join(values)
        with translated():
            row: Json = self._session.execute(
                text(
                    f"INSERT INTO {entity} ({columns}) SELECT {columns}"
                    f" FROM jsonb_populate_record(NULL::{entity}, cast(:values AS jsonb))"
                    f" RETURNING to_jsonb({entity}.*)"
                ),
                {"values": json.dumps(dict(values))},
            ).scalar_one()
        self._images.append(Image(entity, str(row["id"]), None, row))
        return row

    def delete(self, entity: Entity, key: object) -> None:
        """Raises:
        NotFound: there is no such row.
        """
        row = self._locked(entity, str(key))
        if row is None:
            raise NotFound(f"{entity}_unknown", f"There is no {entity} {key}.", key=str(key))
        self._delete(entity, str(key))
        self._images.append(Image(entity, str(key), row, None))

    def restore(self, image: Image) -> bool:
        """Write a row back to what it was before `image`; False, and nothing is written, where it
        is no longer what `image` left behind."""
        row = self._locked(image.entity, image.key)
        present = None if row is None or image.after is None else {n: row[n] for n in image.after}
        if (row is None) != (image.after is None) or present != image.after:
            return False
        if image.before is None:
            self._delete(image.entity, image.key)
        elif image.after is None:
            self.insert(image.entity, image.before)
            return True
        else:
            self._write(image.entity, image.key, image.before)
        self._images.append(Image(image.entity, image.key, image.after, image.before))
        return True

    def close(
        self,
        actor: Actor,
        action: str,
        detail: Mapping[str, Any],
        *,
        undoes_id: int | None = None,
        decision_id: UUID | None = None,
    ) -> ChangeRow:
        """Keep the change with its images, and an entry of the audit trail.

        Raises:
            Conflict: `change_undone`: `undoes_id` was undone meanwhile.
        """
        with translated():
            made = self._session.execute(
                text(
                    "INSERT INTO change (principal, account_id, action, undoes_id, decision_id,"
                    " individual_ids, detail) VALUES (:principal, :account, :action, :undoes,"
                    " :decision, :individuals, cast(:detail AS jsonb)) RETURNING id, at"
                ),
                {
                    "principal": actor.principal,
                    "account": actor.account_id,
                    "action": action,
                    "undoes": undoes_id,
                    "decision": decision_id,
                    "individuals": _individuals(self._images),
                    "detail": json.dumps(dict(detail), default=str),
                },
            ).one()
        if self._images:
            self._session.execute(
                text(
                    "INSERT INTO change_row (change_id, position, entity, key, before, after)"
                    " VALUES (:change, :position, :entity, :key, cast(:before AS jsonb),"
                    " cast(:after AS jsonb))"
                ),
                [
                    {
                        "change": made.id,
                        "position": position,
                        "entity": image.entity,
                        "key": image.key,
                        "before": None if image.before is None else json.dumps(image.before),
                        "after": None if image.after is None else json.dumps(image.after),
                    }
                    for position, image in enumerate(self._images)
                ],
            )
        add_audit(
            self._session,
            actor.principal,
            f"identity.{action}",
            f"change:{made.id}",
            json.loads(json.dumps(dict(detail), default=str)),
        )
        return ChangeRow(
            id=made.id,
            at=made.at,
            principal=actor.principal,
            action=action,
            undoes_id=undoes_id,
            undone_by=None,
            decision_id=decision_id,
            individual_ids=tuple(_individuals(self._images)),
            detail=dict(detail),
        )

    def _locked(self, entity: Entity, key: str) -> Json | None:
        row: Json | None = self._session.execute(
            text(
                f"SELECT to_jsonb({entity}.*) FROM {entity}"
                f" WHERE id = cast(:key AS {_KEY_TYPE[entity]}) FOR UPDATE"
            ),
            {"key": key},
        ).scalar_one_or_none()
        return row

    def _as_stored(self, entity: Entity, values: Json) -> Json:
        """The values as a row would give them back, so that they can be compared."""
        stored: Json = self._session.execute(
            text(f"SELECT to_jsonb(jsonb_populate_record(NULL::{entity}, cast(:values AS jsonb)))"),
            {"values": json.dumps(values, default=str)},
        ).scalar_one()
        return {name: stored[name] for name in values}

    def _write(self, entity: Entity, key: str, values: Json) -> None:
        columns = ", ".join(values)
        with translated():
            self._session.execute(
                text(
                    f"UPDATE {entity} SET ({columns}) = (SELECT {columns} FROM"
                    f" jsonb_populate_record(NULL::{entity}, cast(:values AS jsonb)))"
                    f" WHERE id = cast(:key AS {_KEY_TYPE[entity]})"
                ),
                {"values": json.dumps(values), "key": key},
            )

    def _delete(self, entity: Entity, key: str) -> None:
        with translated():
            self._session.execute(
                text(f"DELETE FROM {entity} WHERE id = cast(:key AS {_KEY_TYPE[entity]})"),
                {"key": key},
            )


def undo(session: Session, change_id: int, actor: Actor) -> ChangeRow:
    """Take a change back, whole: its rows become what they were before it.

    Raises:
        NotFound: no such change.
        Conflict: `change_undone` with `by`; `change_superseded` with `blocking_id`, the later
            change that has to be undone first (None: the row was written outside any change).
    """
    change = get_change(session, change_id)
    if change.undone_by is not None:
        raise Conflict(
            "change_undone",
            f"Change {change_id} was undone already, by change {change.undone_by}; undo that one "
            "to have it again.",
            by=change.undone_by,
        )
    journal = Journal(session)
    for image in reversed(images_of(session, change_id)):
        if not journal.restore(image):
            raise _superseded(session, change_id, image)
    _check_whole(session, change_id, journal.images)
    detail = {"undone": change.action, **change.detail}
    return journal.close(actor, "undo", detail, undoes_id=change_id)


def _superseded(session: Session, change_id: int, image: Image) -> Conflict:
    blocking = session.execute(
        text(
            "SELECT c.id, c.action, c.principal"
            " FROM change_row r JOIN change c ON c.id = r.change_id"
            " WHERE r.entity = :entity AND r.key = :key AND c.id > :id AND c.undoes_id IS NULL"
            " AND NOT EXISTS (SELECT FROM change u WHERE u.undoes_id = c.id)"
            " ORDER BY c.id DESC LIMIT 1"
        ),
        {"entity": image.entity, "key": image.key, "id": change_id},
    ).one_or_none()
    return _blocked(change_id, blocking)


def _blocked(change_id: int, blocking: Any) -> Conflict:
    if blocking is None:
        return Conflict(
            "change_superseded",
            f"Change {change_id} cannot be undone: what it changed was changed again since, "
            "outside the journal (an import, or photos that were added).",
            blocking_id=None,
        )
    return Conflict(
        "change_superseded",
        f"Change {change_id} cannot be undone before change {blocking.id} "
        f"({blocking.action}, by {blocking.principal}), which came after it.",
        blocking_id=blocking.id,
    )


def _check_whole(session: Session, change_id: int, images: Sequence[Image]) -> None:
    """What single rows cannot tell: nothing may point at an individual that is no more, nor at one
    that is redirected itself."""
    touched = _individuals(images)
    pointing = session.execute(
        text(
            "SELECT target.id FROM individual target WHERE target.id = ANY(:ids)"
            " AND (target.withdrawn OR target.merged_into_id IS NOT NULL)"
            " AND (EXISTS (SELECT FROM individual m WHERE m.merged_into_id = target.id)"
            "  OR (target.withdrawn AND (EXISTS (SELECT FROM annotation a"
            "   WHERE a.individual_id = target.id) OR EXISTS (SELECT FROM individual_name n"
            "   WHERE n.individual_id = target.id)))) LIMIT 1"
        ),
        {"ids": touched},
    ).scalar_one_or_none()
    if pointing is None:
        return
    blocking = session.execute(
        text(
            "SELECT c.id, c.action, c.principal"
            " FROM change_row r JOIN change c ON c.id = r.change_id"
            " WHERE c.id > :id AND c.undoes_id IS NULL"
            " AND (r.after->>'individual_id' = :pointing OR r.after->>'merged_into_id' = :pointing)"
            " AND c.individual_ids @> ARRAY[cast(:pointing AS uuid)]"
            " AND NOT EXISTS (SELECT FROM change u WHERE u.undoes_id = c.id)"
            " ORDER BY c.id DESC LIMIT 1"
        ),
        {"id": change_id, "pointing": str(pointing)},
    ).one_or_none()
    raise _blocked(change_id, blocking)


def _individuals(images: Iterable[Image]) -> list[UUID]:
    """Whose history the rows belong to, each once, in order."""
    found: dict[UUID, None] = {}
    for image in images:
        if image.entity == "individual":
            found[UUID(image.key)] = None
        for side in (image.before, image.after):
            for column in ("individual_id", "merged_into_id"):
                if side and side.get(column):
                    found[UUID(side[column])] = None
    return list(found)


_CHANGE = """
    SELECT c.id, c.at, c.principal, c.action, c.undoes_id,
        (SELECT u.id FROM change u WHERE u.undoes_id = c.id) AS undone_by,
        c.decision_id, c.individual_ids, c.detail
    FROM change c
"""


def _change(row: Any) -> ChangeRow:
    return ChangeRow(
        id=row.id,
        at=row.at,
        principal=row.principal,
        action=row.action,
        undoes_id=row.undoes_id,
        undone_by=row.undone_by,
        decision_id=row.decision_id,
        individual_ids=tuple(row.individual_ids),
        detail=row.detail,
    )


def get_change(session: Session, change_id: int) -> ChangeRow:
    """Raises:
    NotFound: no change has this id.
    """
    row = session.execute(text(f"{_CHANGE} WHERE c.id = :id"), {"id": change_id}).one_or_none()
    if row is None:
        raise NotFound("change_unknown", f"No change has the id {change_id}.", change_id=change_id)
    return _change(row)


def images_of(session: Session, change_id: int) -> list[Image]:
    """The rows of a change, in the order in which it wrote them."""
    rows = session.execute(
        text(
            "SELECT entity, key, before, after FROM change_row WHERE change_id = :id"
            " ORDER BY position"
        ),
        {"id": change_id},
    )
    return [Image(*row) for row in rows]


def changes_of_decision(session: Session, decision_id: UUID) -> list[ChangeRow]:
    """What carried out a review's decision, oldest first."""
    rows = session.execute(
        text(f"{_CHANGE} WHERE c.decision_id = :id ORDER BY c.id"), {"id": decision_id}
    )
    return [_change(row) for row in rows]


def list_changes(
    session: Session,
    *,
    individual_id: UUID | None = None,
    since: datetime | None = None,
    newest_first: bool = True,
    limit: int = 50,
    cursor: str | None = None,
) -> Page[ChangeRow]:
    """Changes, of one individual (and those merged into it) or all; `since` is inclusive."""
    after = read_cursor(cursor, int)
    conditions = ["true"]
    if individual_id is not None:
        conditions.append(
            "c.individual_ids && ARRAY(SELECT id FROM individual"
            " WHERE id = :individual OR merged_into_id = :individual)"
        )
    if since is not None:
        conditions.append("c.at >= :since")
    if after is not None:
        conditions.append(f"c.id {'<' if newest_first else '>'} :after")
    rows = session.execute(
        text(
            f"{_CHANGE} WHERE {' AND '.join(conditions)}"
            f" ORDER BY c.id {'DESC' if newest_first else 'ASC'} LIMIT :limit + 1"
        ),
        {
            "individual": individual_id,
            "since": since,
            "after": after[0] if after else None,
            "limit": limit,
        },
    )
    return make_page([_change(row) for row in rows], limit, lambda row: (row.id,))
