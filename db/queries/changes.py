"""The journal of identity changes: rows are written together with what they were, to be undone.

An operation writes through a `Journal`, which keeps the written columns of every row before and
after. Undoing writes the former values back, in a change of its own, and only where the rows are
still as the change left them: otherwise the later change that stands in the way is named.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from db.errors import Conflict, DbError, NotFound, translated
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


class InTheWay(Exception):
    """A row that cannot be put back; `clash` is what the database said, where it refused."""

    def __init__(self, image: Image, clash: DbError | None = None) -> None:
        super().__init__(f"{image.entity} {image.key}")
        self.image = image
        self.clash = clash


class Journal:
    """Writes the rows of one operation, inside the caller's transaction. Values are JSON: ids and
    times as text, enumerations as their value."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._images: list[Image] = []
        self._owners: dict[UUID, None] = {}

    @property
    def images(self) -> tuple[Image, ...]:
        return tuple(self._images)

    def update(self, entity: Entity, key: object, values: Mapping[str, Any]) -> bool:
        """Write columns of a row; whether anything was different. The row is locked.

        Raises:
            NotFound: there is no such row.
            Conflict, Invalid: a constraint refuses the values.
        """
        return bool(self.update_many(entity, [key], values))

    def update_many(
        self, entity: Entity, keys: Iterable[object], values: Mapping[str, Any]
    ) -> tuple[str, ...]:
        """Write the same columns of many rows, all locked; the keys of those that were different.

        Raises:
            NotFound: there is no such row.
            Conflict, Invalid: a constraint refuses the values.
        """
        named = list(dict.fromkeys(str(key) for key in keys))
        rows = self._locked(entity, named)
        for key in named:
            if key not in rows:
                raise NotFound(f"{entity}_unknown", f"There is no {entity} {key}.", key=key)
        wanted = self._as_stored(entity, dict(values))
        images = []
        for key in named:
            after = {name: value for name, value in wanted.items() if rows[key][name] != value}
            if after:
                before = {name: rows[key][name] for name in after}
                images.append(Image(entity, key, before, after))
        for columns in dict.fromkeys(frozenset(image.after or ()) for image in images):
            alike = [image for image in images if frozenset(image.after or ()) == columns]
            self._write(entity, {image.key: image.after or {} for image in alike})
        self._images += images
        self._note_owners(rows[image.key] for image in images)
        return tuple(image.key for image in images)

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
        row = self._locked(entity, [str(key)]).get(str(key))
        if row is None:
            raise NotFound(f"{entity}_unknown", f"There is no {entity} {key}.", key=str(key))
        self._delete(entity, str(key))
        self._images.append(Image(entity, str(key), row, None))

    def restore(self, images: Sequence[Image]) -> None:
        """Write rows back to what they were before `images`, the last one first.

        Raises:
            InTheWay: a row is no longer what its image left behind, or cannot be as it was.
        """
        for alike in _alike(tuple(reversed(images))):
            rows = self._locked(alike[0].entity, [image.key for image in alike])
            for image in alike:
                if not _is_as_left(image, rows.get(image.key)):
                    raise InTheWay(image)
            self._note_owners(rows.values())
            try:
                self._put_back(alike)
            except DbError as clash:
                raise InTheWay(alike[0], clash) from clash

    def _note_owners(self, rows: Iterable[Json]) -> None:
        """Whose the rows are, though it be another column that is written."""
        for row in rows:
            if row.get("individual_id"):
                self._owners[UUID(row["individual_id"])] = None

    def _put_back(self, images: Sequence[Image]) -> None:
        """`images` are those of one row, or updates of the same columns of several."""
        first = images[0]
        if first.after is None:
            self.insert(first.entity, first.before or {})
            return
        if first.before is None:
            self._delete(first.entity, first.key)
        else:
            self._write(first.entity, {image.key: image.before or {} for image in images})
        self._images += [Image(one.entity, one.key, one.after, one.before) for one in images]

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
        about = list(self._owners | dict.fromkeys(_individuals(self._images)))
        # Taken before the change gets its number, so that numbers are in the order of the commits:
        # whoever follows the changes by number misses none. The audit trail takes it anyway.
        self._session.execute(text("SELECT pg_advisory_xact_lock(hashtext('audit_chain'))"))
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
                    "individuals": about,
                    "detail": json.dumps(dict(detail), default=str),
                },
            ).one()
        self._session.execute(
            text(
                "INSERT INTO change_row (change_id, position, entity, key, before, after)"
                " SELECT :change, image.position - 1, image.entity, image.key, image.before,"
                " image.after FROM unnest(cast(:entities AS text[]), cast(:keys AS text[]),"
                " cast(:before AS jsonb[]), cast(:after AS jsonb[]))"
                " WITH ORDINALITY image(entity, key, before, after, position)"
            ),
            {
                "change": made.id,
                "entities": [image.entity for image in self._images],
                "keys": [image.key for image in self._images],
                "before": [_json(image.before) for image in self._images],
                "after": [_json(image.after) for image in self._images],
            },
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
            individual_ids=tuple(about),
            detail=dict(detail),
        )

    def _locked(self, entity: Entity, keys: Sequence[str]) -> dict[str, Json]:
        """The rows that exist, by key, locked in the order of their keys."""
        rows = self._session.execute(
            text(
                f"SELECT to_jsonb({entity}.*) FROM {entity}"
                f" WHERE id = ANY(cast(:keys AS {_KEY_TYPE[entity]}[])) ORDER BY id FOR UPDATE"
            ),
            {"keys": list(keys)},
        ).scalars()
        return {str(row["id"]): row for row in rows}

    def _as_stored(self, entity: Entity, values: Json) -> Json:
        """The values as a row would give them back, so that they can be compared."""
        stored: Json = self._session.execute(
            text(f"SELECT to_jsonb(jsonb_populate_record(NULL::{entity}, cast(:values AS jsonb)))"),
            {"values": json.dumps(values, default=str)},
        ).scalar_one()
        return {name: stored[name] for name in values}

    def _write(self, entity: Entity, rows: Mapping[str, Json]) -> None:
        """`rows` are values by key, all of the same columns."""
        columns = ", ".join(next(iter(rows.values())))
        with translated():
            self._session.execute(
                text(
                    f"UPDATE {entity} SET ({columns}) = (SELECT {columns} FROM"
                    f" jsonb_populate_record(NULL::{entity}, wanted.row))"
                    f" FROM unnest(cast(:keys AS {_KEY_TYPE[entity]}[]),"
                    f" cast(:rows AS jsonb[])) wanted(key, row) WHERE {entity}.id = wanted.key"
                ),
                {"keys": list(rows), "rows": [json.dumps(row) for row in rows.values()]},
            )

    def _delete(self, entity: Entity, key: str) -> None:
        with translated():
            self._session.execute(
                text(f"DELETE FROM {entity} WHERE id = cast(:key AS {_KEY_TYPE[entity]})"),
                {"key": key},
            )


def _json(values: Json | None) -> str | None:
    return None if values is None else json.dumps(values)


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
    # In the order in which everybody locks: individuals before what belongs to them.
    session.execute(
        text("SELECT id FROM individual WHERE id = ANY(:ids) ORDER BY id FOR UPDATE"),
        {"ids": list(change.individual_ids)},
    )
    _check_last(session, change_id)
    try:
        with session.begin_nested():
            journal.restore(images_of(session, change_id))
    except InTheWay as found:
        raise _superseded(session, change_id, found) from found
    _check_whole(session, change_id, journal.images)
    detail = {"undone": change.action, **change.detail}
    return journal.close(actor, "undo", detail, undoes_id=change_id)


def _alike(images: Sequence[Image]) -> Iterator[list[Image]]:
    """Runs of images that one statement can write: updates of the same columns of other rows."""
    run: list[Image] = []
    keys: set[str] = set()
    for image in images:
        if run and (_kind(image) != _kind(run[0]) or image.key in keys):
            yield run
            run, keys = [], set()
        run.append(image)
        keys.add(image.key)
    if run:
        yield run


def _kind(image: Image) -> object:
    # Names go one by one: in one statement, two that swap places would be refused half-way.
    if image.before is None or image.after is None or image.entity == "individual_name":
        return image
    return image.entity, frozenset(image.after)


# Counted by a trigger: an undo counts on, and what it brings back is the same nevertheless.
_COUNTED: Final = frozenset({"region_version"})


def _is_as_left(image: Image, row: Json | None) -> bool:
    if row is None or image.after is None:
        return row is None and image.after is None
    return all(row[name] == image.after[name] for name in image.after.keys() - _COUNTED)


# Of a change, its undo, the undo of that and so on, the last one stands in the way if an odd number
# of them came later: two that are next to each other in such a chain cancel out.
_STANDING = """
    FROM change_row r JOIN change c ON c.id = r.change_id
    WHERE c.id > :id AND NOT EXISTS (SELECT FROM change u WHERE u.undoes_id = c.id)
    AND (WITH RECURSIVE chain AS (
            SELECT c.undoes_id AS before
            UNION ALL SELECT e.undoes_id FROM chain JOIN change e ON e.id = chain.before
            WHERE e.id > :id)
        SELECT count(*) % 2 = 1 FROM chain)
"""


def _check_last(session: Session, change_id: int) -> None:
    """No later change that stands wrote the same columns of the same rows, though they may be what
    this change left behind by chance."""
    blocking = session.execute(
        text(
            f"SELECT c.id, c.action, c.principal {_STANDING} AND EXISTS ("
            " SELECT FROM change_row own WHERE own.change_id = :id AND own.entity = r.entity"
            " AND own.key = r.key AND (own.before IS NULL OR own.after IS NULL OR r.before IS NULL"
            "  OR r.after IS NULL OR EXISTS (SELECT FROM jsonb_object_keys(r.after) name"
            "   WHERE jsonb_exists(own.after, name)))) ORDER BY c.id DESC LIMIT 1"
        ),
        {"id": change_id},
    ).one_or_none()
    if blocking is not None:
        raise _blocked(change_id, blocking)


def _superseded(session: Session, change_id: int, found: InTheWay) -> Conflict:
    image = found.image
    blocking = session.execute(
        text(
            f"SELECT c.id, c.action, c.principal {_STANDING} AND ("
            " (r.entity = 'individual_name' AND r.key = :holder)"
            " OR (:entity = 'encounter' AND r.after->>'encounter_id' = :key))"
            " ORDER BY c.id DESC LIMIT 1"
        ),
        {
            "entity": image.entity,
            "key": image.key,
            "holder": _name_holder(session, image),
            "id": change_id,
        },
    ).one_or_none()
    return _blocked(change_id, blocking, found.clash)


def _name_holder(session: Session, image: Image) -> str | None:
    """The row that has the name which `image` would bring back."""
    before = image.before or {}
    if image.entity != "individual_name" or "name" not in before:
        return None
    holder: str | None = session.execute(
        text(
            "SELECT n.id::text FROM individual_name n WHERE lower(n.name) = lower(:name)"
            " AND n.id::text <> :key AND n.catalogue_id = coalesce(cast(:catalogue AS uuid),"
            " (SELECT catalogue_id FROM individual_name WHERE id::text = :key))"
        ),
        {"name": before["name"], "key": image.key, "catalogue": before.get("catalogue_id")},
    ).scalar_one_or_none()
    return holder


_OUTSIDE = (
    "what it changed was changed again since, outside the journal (an import, or photos that were "
    "added)."
)


def _blocked(change_id: int, blocking: Any, clash: DbError | None = None) -> Conflict:
    if blocking is None:
        why = clash.detail if clash else _OUTSIDE
        return Conflict(
            "change_superseded",
            f"Change {change_id} cannot be undone: {why}",
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
    pointing = session.execute(
        text(
            "SELECT target.id FROM individual target WHERE target.id = ANY(:ids)"
            " AND (target.withdrawn OR target.merged_into_id IS NOT NULL)"
            " AND (EXISTS (SELECT FROM individual m WHERE m.merged_into_id = target.id)"
            "  OR (target.withdrawn AND (EXISTS (SELECT FROM annotation a"
            "   WHERE a.individual_id = target.id) OR EXISTS (SELECT FROM individual_name n"
            "   WHERE n.individual_id = target.id)))) LIMIT 1"
        ),
        {"ids": _individuals(images)},
    ).scalar_one_or_none()
    if pointing is None:
        return
    blocking = session.execute(
        text(
            f"SELECT c.id, c.action, c.principal {_STANDING}"
            " AND (r.after->>'individual_id' = :pointing OR r.after->>'merged_into_id' = :pointing"
            "  OR (r.entity = 'individual' AND r.key = :pointing"
            "   AND (r.after->'withdrawn' = 'true' OR r.after->>'merged_into_id' IS NOT NULL)))"
            " AND c.individual_ids @> ARRAY[cast(:pointing AS uuid)]"
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


def get_changes(session: Session, ids: Sequence[int]) -> dict[int, ChangeRow]:
    """The changes that exist among `ids`, by id."""
    rows = session.execute(text(f"{_CHANGE} WHERE c.id = ANY(:ids)"), {"ids": list(ids)})
    return {row.id: _change(row) for row in rows}


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
