"""The filters of a search, and the SQL condition that they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from itertools import product
from typing import Any
from uuid import UUID

from db.types import Sex, Vitality


@dataclass(frozen=True, slots=True)
class SearchFilters:
    """What an annotation must fulfil to be a candidate; fields left out filter nothing.

    Values of one field are alternatives, fields add up. `taxon` takes scientific names, common
    names and synonyms; the dates compare with the encounter's start, or without one with the
    time the photo was taken, and `date_to` is exclusive. `place` is part of the encounter's place.
    `not_viewpoint` leaves out those that show one of these, and keeps those of an unknown one.
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
    not_viewpoint: tuple[str, ...] = ()

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

    def alternatives(self, taxa: Sequence[int] = ()) -> tuple[tuple[str, ...], dict[str, Any]]:
        """(conditions over `LABELLED` of which at most one holds for a row, psycopg parameters).

        An annotation passes if one of them holds. They are apart so that each can use an index:
        an OR over two tables cannot. `taxa` are the ids that `taxon` means.
        """
        wanted = self.as_dict()
        made = [made for name, made in self._conditions().items() if wanted.keys() & _fields(name)]
        conditions = tuple(" AND ".join(chosen) or "true" for chosen in product(*made))
        return conditions, self._parameters(taxa)

    def _conditions(self) -> dict[str, tuple[str, ...]]:
        return {
            "taxon": (
                "i.taxon_id = ANY(%(taxa)s::int[])",
                "(i.taxon_id IS NULL AND a.taxon_id = ANY(%(taxa)s::int[]))",
            ),
            "date_from date_to": (
                self._date("e.started_at"),
                f"(e.started_at IS NULL AND {self._date('m.taken_at')})",
            ),
            "place": ("strpos(lower(e.place), lower(%(place)s)) > 0",),
            "viewpoint": ("lower(a.viewpoint) = ANY(%(viewpoint)s::text[])",),
            "not_viewpoint": ("(lower(a.viewpoint) = ANY(%(not_viewpoint)s::text[])) IS NOT TRUE",),
            "sex": ("i.sex = %(sex)s",),
            "vitality": ("i.vitality = %(vitality)s",),
            "catalogue": (
                "i.catalogue_id = (SELECT id FROM catalogue WHERE lower(name) ="
                " lower(%(catalogue)s))",
            ),
            "individuals": (
                "i.id IN (SELECT coalesce(merged_into_id, id) FROM individual"
                " WHERE id = ANY(%(individuals)s::uuid[]))",
            ),
        }

    def _date(self, column: str) -> str:
        bounds = [f"{column} >= %(date_from)s"] * (self.date_from is not None)
        bounds += [f"{column} < %(date_to)s"] * (self.date_to is not None)
        return " AND ".join(bounds)

    def _parameters(self, taxa: Sequence[int]) -> dict[str, Any]:
        return {
            "taxa": list(taxa),
            "place": self.place,
            "date_from": self.date_from,
            "date_to": self.date_to,
            "viewpoint": [viewpoint.lower() for viewpoint in self.viewpoint],
            "not_viewpoint": [viewpoint.lower() for viewpoint in self.not_viewpoint],
            "sex": self.sex and str(self.sex),
            "vitality": self.vitality and str(self.vitality),
            "catalogue": self.catalogue,
            "individuals": list(self.individuals),
        }


def _fields(names: str) -> set[str]:
    return set(names.split())


# `i` is the individual after merges. The planner drops the joins that a statement does not use.
LABELLED = """
    JOIN individual named ON named.id = a.individual_id AND a.matchable
    LEFT JOIN individual i ON i.id = coalesce(named.merged_into_id, named.id)
    LEFT JOIN media_asset m ON m.id = a.media_id
    LEFT JOIN encounter e ON e.id = a.encounter_id
"""
"""Joins that follow `annotation a` wherever a candidate is labelled or filtered."""


def _json(value: object) -> Any:
    if isinstance(value, tuple):
        return [str(item) for item in value]
    return value.isoformat() if isinstance(value, datetime) else str(value)
