"""Names that are about to be given, and filters of pages that have been given a name."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from db.errors import Invalid, NotFound, translated

KEEP: Final = timedelta(minutes=15)
"""How long a name stays somebody's own before it is given."""
_TRIES: Final = 10_000


@dataclass(frozen=True, slots=True)
class Sequence:
    """Numbered names of a catalogue: `prefix`, then a number of at least `width` digits; `highest`
    is the highest number given."""

    prefix: str
    width: int
    highest: int

    def name(self, number: int) -> str:
        return f"{self.prefix}{number:0{self.width}d}"


FIRST: Final = Sequence("ID-", 4, 0)
"""For a catalogue without numbered names."""


@dataclass(frozen=True, slots=True)
class Reserved:
    name: str
    until: datetime


@dataclass(frozen=True, slots=True)
class ViewRow:
    """A saved view: `params` is the query string."""

    id: int
    page: str
    name: str
    params: str


def sequence_of(session: Session, catalogue_id: UUID, taxon_id: int | None = None) -> Sequence:
    """The numbered names that are most common in the catalogue, among individuals of the taxon if
    any of those has one."""
    for taxon in dict.fromkeys((taxon_id, None)):
        row = session.execute(_SEQUENCE, {"catalogue": catalogue_id, "taxon": taxon}).first()
        if row is not None:
            return Sequence(row.prefix, row.width, row.highest)
    return FIRST


def next_in(session: Session, catalogue_id: UUID) -> str:
    """The name after the highest, which somebody may have reserved."""
    sequence = sequence_of(session, catalogue_id)
    return sequence.name(sequence.highest + 1)


# Numbers with leading zeros have a width; the most common one counts. Of two sequences that are as
# common as each other the one that was continued last.
_SEQUENCE: Final = text(r"""
    SELECT parts[1] AS prefix,
        coalesce(mode() WITHIN GROUP (ORDER BY length(parts[2]))
            FILTER (WHERE padded), 1) AS width,
        max(cast(parts[2] AS bigint)) AS highest
    FROM (
        SELECT n.id, parts, bool_or(parts[2] LIKE '0%') OVER (PARTITION BY parts[1]) AS padded
        FROM individual_name n
        JOIN individual i ON i.id = n.individual_id
        CROSS JOIN LATERAL regexp_match(n.name, '^(.*[^0-9]|)([0-9]{1,9})$') parts
        WHERE n.catalogue_id = :catalogue AND parts IS NOT NULL
            AND (cast(:taxon AS bigint) IS NULL OR i.taxon_id = :taxon)
    ) numbered
    GROUP BY parts[1] ORDER BY count(*) DESC, max(id) DESC LIMIT 1
""")


def reserve_next(
    session: Session, catalogue_id: UUID, taxon_id: int | None, principal: str
) -> Reserved:
    """The first name after the highest of the sequence that is neither given nor reserved, kept for
    this person. Any number of callers get as many names."""
    sequence = sequence_of(session, catalogue_id, taxon_id)
    session.execute(text("DELETE FROM name_reservation WHERE until <= now()"))
    for number in range(sequence.highest + 1, sequence.highest + _TRIES):
        # Waits for whoever is about to reserve the same name.
        row = session.execute(
            text(
                "INSERT INTO name_reservation (catalogue_id, name, principal, until)"
                " SELECT :catalogue, :name, :principal, now() + :keep"
                " WHERE NOT EXISTS (SELECT FROM individual_name n"
                "  WHERE n.catalogue_id = :catalogue AND lower(n.name) = lower(:name))"
                " ON CONFLICT (catalogue_id, lower(name)) DO NOTHING RETURNING name, until"
            ),
            {
                "catalogue": catalogue_id,
                "name": sequence.name(number),
                "principal": principal,
                "keep": KEEP,
            },
        ).one_or_none()
        if row is not None:
            return Reserved(*row)
    raise Invalid(
        "names_used_up",
        f"The {_TRIES} names after {sequence.name(sequence.highest)} are all taken; type a name.",
    )


def release(session: Session, catalogue_id: UUID, name: str, principal: str) -> None:
    """Raises:
    NotFound: `name_not_reserved`.
    """
    gone = session.execute(
        text(
            "DELETE FROM name_reservation WHERE catalogue_id = :catalogue"
            " AND lower(name) = lower(:name) AND principal = :principal RETURNING id"
        ),
        {"catalogue": catalogue_id, "name": name, "principal": principal},
    ).one_or_none()
    if gone is None:
        raise NotFound("name_not_reserved", f"You have not reserved the name {name!r}.", name=name)


# ---------------------------------------------------------------- views


def list_views(session: Session, owner: str, page: str | None = None) -> list[ViewRow]:
    """A person's saved views (of one page), by page and name."""
    rows = session.execute(
        text(
            "SELECT id, page, name, params FROM saved_view WHERE owner = :owner"
            " AND (cast(:page AS text) IS NULL OR page = :page) ORDER BY page, lower(name)"
        ),
        {"owner": owner, "page": page},
    )
    return [ViewRow(*row) for row in rows]


@translated()
def put_view(session: Session, owner: str, page: str, name: str, params: str) -> ViewRow:
    """Keep a view; one of the same name on the same page is replaced.

    Raises:
        Invalid: the name is blank.
    """
    if not name.strip():
        raise Invalid("name_blank", "A saved view needs a name.")
    row = session.execute(
        text(
            "INSERT INTO saved_view (owner, page, name, params)"
            " VALUES (:owner, :page, :name, :params)"
            " ON CONFLICT (owner, page, lower(name)) DO UPDATE SET name = excluded.name,"
            " params = excluded.params RETURNING id, page, name, params"
        ),
        {"owner": owner, "page": page, "name": name.strip(), "params": params},
    ).one()
    return ViewRow(*row)


def delete_view(session: Session, owner: str, view_id: int) -> None:
    """Raises:
    NotFound: `view_unknown`.
    """
    gone = session.execute(
        text("DELETE FROM saved_view WHERE id = :id AND owner = :owner RETURNING id"),
        {"id": view_id, "owner": owner},
    ).one_or_none()
    if gone is None:
        raise NotFound("view_unknown", f"You have no saved view {view_id}.", view_id=view_id)
