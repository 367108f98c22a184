"""Individuals in a list: by name, taxon, sex and vitality, in pages of any order."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from sqlalchemy import Row, text
from sqlalchemy.orm import Session

from db.errors import translated
from db.queries.paging import Page, make_page, read_cursor
from db.queries.taxa import TAXON_BY_LABEL, normal_label
from db.types import LifeStage, Sex, Vitality

Sort = Literal["added", "newest", "name"]

_PART_OF_ID = re.compile(r"[0-9a-f]{4}[0-9a-f-]{0,32}", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class ListFilters:
    """`text` is part of any of the names, or the start of an id; `taxon` a scientific or common
    name or synonym. What is left out filters nothing."""

    catalogue_id: UUID | None = None
    text: str | None = None
    taxon: str | None = None
    sex: Sex | None = None
    vitality: Vitality | None = None
    life_stage: LifeStage | None = None


@dataclass(frozen=True, slots=True)
class IndividualSummary:
    """An individual in a list; the best photo is a chosen reference, or else the one with the
    largest region."""

    id: UUID
    catalogue_id: UUID
    name: str
    names: tuple[str, ...]
    taxon: str | None
    taxon_common: str | None
    sex: Sex
    vitality: Vitality
    life_stage: LifeStage
    photo_count: int
    best_annotation_id: int | None
    best_media_id: int | None
    best_sha256: str | None
    created_at: datetime


@dataclass(frozen=True, slots=True)
class _Order:
    """Follows an index from end to end: `key` and then `id_`."""

    key: str
    id_: str = "i.id"
    descending: bool = False
    joined: str = ""

    @property
    def beyond(self) -> str:
        return "<" if self.descending else ">"

    def by(self, key: str, id_: str) -> str:
        direction = "DESC" if self.descending else "ASC"
        return f"{key} {direction}, {id_} {direction}"


_ORDER: dict[Sort, _Order] = {
    "added": _Order("i.created_at"),
    "newest": _Order("i.created_at", descending=True),
    "name": _Order(
        "lower(p.name)",
        id_="p.individual_id",
        joined="JOIN individual_name p ON p.individual_id = i.id AND p.is_primary",
    ),
}


@translated()
def list_individuals(
    session: Session,
    *,
    catalogue_id: UUID | None = None,
    text: str | None = None,
    taxon: str | None = None,
    sex: Sex | None = None,
    vitality: Vitality | None = None,
    life_stage: LifeStage | None = None,
    sort: Sort = "added",
    limit: int = 50,
    cursor: str | None = None,
) -> Page[IndividualSummary]:
    """Individuals `limit` a page; merged and withdrawn ones are not among them.

    A walk over all pages shows each individual that was there at its start exactly once.

    Raises:
        Invalid: the cursor is not one of a list in this order.
    """
    filters = ListFilters(catalogue_id, text, taxon, sex, vitality, life_stage)
    conditions, values = _conditions(filters)
    order = _ORDER[sort]
    after = read_cursor(cursor, str if sort == "name" else datetime.fromisoformat, UUID)
    if after is not None:
        conditions.append(f"({order.key}, {order.id_}) {order.beyond} (:after_key, :after_id)")
        values |= {"after_key": after[0], "after_id": after[1]}
    rows = session.execute(_page(conditions, order), values | {"limit": limit}).all()
    page = make_page(rows, limit, lambda row: (row.key, row.id))
    return Page(tuple(_summary(row) for row in page.items), page.next_cursor)


def _page(conditions: Sequence[str], order: _Order) -> Any:
    return text(
        f"""
        WITH page AS MATERIALIZED (
            SELECT i.id, {order.key} AS key FROM individual i {order.joined}
            WHERE {" AND ".join(conditions)}
            ORDER BY {order.by(order.key, order.id_)} LIMIT :limit + 1)
        SELECT i.id, i.catalogue_id, i.sex, i.vitality, i.life_stage, i.created_at, page.key,
            t.scientific_name, t.common_name, named.names, photos.photo_count,
            best.annotation_id, best.media_id, best.sha256
        FROM page JOIN individual i ON i.id = page.id
        LEFT JOIN taxon t ON t.id = i.taxon_id
        CROSS JOIN LATERAL (
            SELECT array_agg(n.name ORDER BY n.is_primary DESC, n.id) AS names
            FROM individual_name n WHERE n.individual_id = i.id) named
        CROSS JOIN LATERAL (
            SELECT count(DISTINCT a.media_id) AS photo_count
            FROM annotation a WHERE a.individual_id IN (
                SELECT i.id UNION ALL
                SELECT merged.id FROM individual merged WHERE merged.merged_into_id = i.id)
        ) photos
        LEFT JOIN LATERAL (
            SELECT a.id AS annotation_id, a.media_id, m.sha256
            FROM annotation a JOIN media_asset m ON m.id = a.media_id
            WHERE a.individual_id IN (
                SELECT i.id UNION ALL
                SELECT merged.id FROM individual merged WHERE merged.merged_into_id = i.id)
            ORDER BY a.is_reference DESC, a.matchable DESC,
                coalesce(a.box_w_px::bigint * a.box_h_px, m.width_px::bigint * m.height_px) DESC,
                a.id LIMIT 1
        ) best ON true
        ORDER BY {order.by("page.key", "i.id")}
        """
    )


@translated()
def count_individuals(session: Session, filters: ListFilters) -> int:
    """How many there are in such a list, over all its pages."""
    conditions, values = _conditions(filters)
    return int(
        session.execute(
            text(f"SELECT count(*) FROM individual i WHERE {' AND '.join(conditions)}"), values
        ).scalar_one()
    )


def _conditions(filters: ListFilters) -> tuple[list[str], dict[str, Any]]:
    conditions = ["i.merged_into_id IS NULL", "NOT i.withdrawn"]
    if filters.catalogue_id is not None:
        conditions.append("i.catalogue_id = :catalogue")
    if filters.text:
        found = (
            "i.id IN (SELECT coalesce(named.merged_into_id, named.id) FROM individual_name n"
            " JOIN individual named ON named.id = n.individual_id"
            " WHERE strpos(lower(n.name), lower(:part)) > 0)"
        )
        if _PART_OF_ID.fullmatch(filters.text):
            found = f"({found} OR i.id::text LIKE lower(:part) || '%')"
        conditions.append(found)
    if filters.taxon:
        conditions.append(f"i.taxon_id = {TAXON_BY_LABEL.format(label=':taxon')}")
    exact = ("sex", "vitality", "life_stage")
    conditions += [f"i.{name} = :{name}" for name in exact if getattr(filters, name) is not None]
    return conditions, {
        "catalogue": filters.catalogue_id,
        "part": filters.text,
        "taxon": normal_label(filters.taxon or ""),
        "sex": filters.sex and str(filters.sex),
        "vitality": filters.vitality and str(filters.vitality),
        "life_stage": filters.life_stage and str(filters.life_stage),
    }


def _summary(row: Row[Any]) -> IndividualSummary:
    names = tuple(row.names or (str(row.id),))
    return IndividualSummary(
        id=row.id,
        catalogue_id=row.catalogue_id,
        name=names[0],
        names=names,
        taxon=row.scientific_name,
        taxon_common=row.common_name,
        sex=Sex(row.sex),
        vitality=Vitality(row.vitality),
        life_stage=LifeStage(row.life_stage),
        photo_count=row.photo_count,
        best_annotation_id=row.annotation_id,
        best_media_id=row.media_id,
        best_sha256=row.sha256,
        created_at=row.created_at,
    )
