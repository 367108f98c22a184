"""The filters of a search, and the SQL condition that they are."""

from __future__ import annotations

from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any
from uuid import UUID

from db.queries.taxa import TAXON_BY_LABEL, normal_label
from db.types import Sex, Vitality


@dataclass(frozen=True, slots=True)
class SearchFilters:
    """What an annotation must fulfil to be a candidate; fields left out filter nothing.

    Values of one field are alternatives, fields add up. `taxon` takes scientific names, common
    names and synonyms; the dates compare with the encounter's start, or without one with the
    time the photo was taken, and `date_to` is exclusive. `place` is part of the encounter's place.
    """

    taxon: tuple[str, ...] = ()
    place: str | None = None
    date_from: datetime | None = None
    date_to: datetime | None = None
    viewpoint: tuple[str, ...] = ()
    sex: Sex | None = None
    vitality: Vitality | None = None
    catalogue: str | None = None
    individuals: tuple[UUID, ...] = ()

    @property
    def is_empty(self) -> bool:
        return not self.as_dict()

    def as_dict(self) -> dict[str, Any]:
        """The fields that are set, as JSON values."""
        return {
            field.name: _json(value)
            for field in fields(self)
            if (value := getattr(self, field.name)) not in (None, ())
        }

    def where(self) -> tuple[str, dict[str, Any]]:
        """(condition, psycopg parameters) over `LABELLED`, or ("true", {}) when nothing is set."""
        made = {name: made for name, made in self._conditions().items() if name in self.as_dict()}
        condition = " AND ".join(sql for sql, _ in made.values())
        parameters = {f"filter_{name}": value for name, (_, value) in made.items()}
        return condition or "true", parameters

    def _conditions(self) -> dict[str, tuple[str, Any]]:
        taxon = TAXON_BY_LABEL.format(label="wanted.label")
        date = "coalesce(e.started_at, m.taken_at)"
        return {
            "taxon": (
                f"coalesce(i.taxon_id, a.taxon_id) IN (SELECT {taxon}"
                " FROM unnest(%(filter_taxon)s::text[]) wanted(label))",
                [normal_label(label) for label in self.taxon],
            ),
            "place": ("strpos(lower(e.place), lower(%(filter_place)s)) > 0", self.place),
            "date_from": (f"{date} >= %(filter_date_from)s", self.date_from),
            "date_to": (f"{date} < %(filter_date_to)s", self.date_to),
            "viewpoint": (
                "lower(a.viewpoint) = ANY(%(filter_viewpoint)s::text[])",
                [viewpoint.lower() for viewpoint in self.viewpoint],
            ),
            "sex": ("i.sex = %(filter_sex)s", self.sex and str(self.sex)),
            "vitality": ("i.vitality = %(filter_vitality)s", self.vitality and str(self.vitality)),
            "catalogue": (
                "i.catalogue_id = (SELECT id FROM catalogue"
                " WHERE lower(name) = lower(%(filter_catalogue)s))",
                self.catalogue,
            ),
            "individuals": (
                "i.id IN (SELECT coalesce(merged_into_id, id) FROM individual"
                " WHERE id = ANY(%(filter_individuals)s::uuid[]))",
                list(self.individuals),
            ),
        }


# `i` is the individual after merges. The planner drops the joins that a statement does not use.
LABELLED = """
    JOIN individual named ON named.id = a.individual_id
    LEFT JOIN individual i ON i.id = coalesce(named.merged_into_id, named.id)
    LEFT JOIN media_asset m ON m.id = a.media_id
    LEFT JOIN encounter e ON e.id = a.encounter_id
"""
"""Joins that follow `annotation a` wherever a candidate is labelled or filtered."""


def _json(value: object) -> Any:
    if isinstance(value, tuple):
        return [str(item) for item in value]
    return value.isoformat() if isinstance(value, datetime) else str(value)
