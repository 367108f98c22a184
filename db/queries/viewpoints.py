"""Rules of viewpoints: of which body part, of which taxon, left and right are never compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Row, text
from sqlalchemy.orm import Session

from db.errors import NotFound, translated
from db.queries.media import SHOWN_INDIVIDUAL
from db.queries.taxa import find_taxon


@dataclass(frozen=True, slots=True)
class RuleRow:
    """A rule. `taxon` None speaks of all taxa, `body_part` None of all parts."""

    id: int
    taxon: str | None
    taxon_common: str | None
    body_part: str | None
    sided: bool
    set_by: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class ViewedRow:
    """What an annotation shows, and whether the rule that decides for it calls that sided."""

    annotation_id: int
    viewpoint: str | None
    body_part: str | None
    sided: bool


_RULE = """
    SELECT r.id, t.scientific_name AS taxon, t.common_name AS taxon_common, r.body_part, r.sided,
        r.set_by, r.created_at
    FROM viewpoint_rule r LEFT JOIN taxon t ON t.id = r.taxon_id
"""


def _rule(row: Row[Any]) -> RuleRow:
    return RuleRow(
        id=row.id,
        taxon=row.taxon,
        taxon_common=row.taxon_common,
        body_part=row.body_part,
        sided=row.sided,
        set_by=row.set_by,
        created_at=row.created_at,
    )


def list_rules(session: Session) -> list[RuleRow]:
    """Every rule, the deciding ones first: of a taxon and a part, of a taxon, of a part, of all."""
    rows = session.execute(
        text(
            f"{_RULE} ORDER BY r.taxon_id IS NULL, r.body_part IS NULL, t.scientific_name,"
            " lower(r.body_part)"
        )
    )
    return [_rule(row) for row in rows]


def set_rule(
    session: Session, *, taxon: str | None, body_part: str | None, sided: bool, set_by: str
) -> RuleRow:
    """The rule for a taxon (any of its names) and a part of the body, made or changed.

    Raises:
        NotFound: nobody knows the taxon.
    """
    taxon_id = None
    if taxon is not None:
        taxon_id = find_taxon(session, taxon)
        if taxon_id is None:
            raise NotFound(
                "taxon_unknown",
                f"No taxon is called {taxon!r}; give a scientific or common name that the "
                "catalogue has.",
                taxon=taxon,
            )
    with translated():
        made = session.execute(
            text(
                "INSERT INTO viewpoint_rule (taxon_id, body_part, sided, set_by)"
                " VALUES (:taxon, :part, :sided, :by)"
                " ON CONFLICT (taxon_id, lower(body_part)) DO UPDATE SET sided = excluded.sided,"
                " set_by = excluded.set_by, created_at = now() RETURNING id"
            ),
            {"taxon": taxon_id, "part": body_part, "sided": sided, "by": set_by},
        ).scalar_one()
    return get_rule(session, made)


def get_rule(session: Session, rule_id: int) -> RuleRow:
    """Raises:
    NotFound: there is no such rule.
    """
    row = session.execute(text(f"{_RULE} WHERE r.id = :id"), {"id": rule_id}).one_or_none()
    if row is None:
        raise NotFound(
            "rule_unknown", f"No rule of viewpoints has the id {rule_id}.", rule_id=rule_id
        )
    return _rule(row)


def delete_rule(session: Session, rule_id: int) -> RuleRow:
    """What the rule was; a wider one decides from now on.

    Raises:
        NotFound: there is no such rule.
    """
    rule = get_rule(session, rule_id)
    session.execute(text("DELETE FROM viewpoint_rule WHERE id = :id"), {"id": rule_id})
    return rule


def viewed(session: Session, annotation_ids: Sequence[int]) -> dict[int, ViewedRow]:
    """Those of the annotations that exist, by id. The taxon is the individual's, or else the
    annotation's own. Without any rule nothing is sided."""
    rows = session.execute(
        text(
            "SELECT a.id, a.viewpoint, a.body_part, coalesce(rule.sided, false)"
            f" FROM annotation a {SHOWN_INDIVIDUAL}"
            " LEFT JOIN LATERAL (SELECT r.sided FROM viewpoint_rule r"
            "  WHERE (r.taxon_id IS NULL OR r.taxon_id = coalesce(i.taxon_id, a.taxon_id))"
            "  AND (r.body_part IS NULL OR lower(r.body_part) = lower(a.body_part))"
            "  ORDER BY r.taxon_id IS NULL, r.body_part IS NULL LIMIT 1) rule ON true"
            " WHERE a.id = ANY(:ids)"
        ),
        {"ids": list(annotation_ids)},
    )
    return {row[0]: ViewedRow(*row) for row in rows}
