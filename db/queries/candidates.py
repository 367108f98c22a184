"""Labels of search candidates, and which annotations a filter admits: the path of every search."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import numpy as np
from sqlalchemy.orm import Session

from db.queries.copying import Int64s, as_ids, fetch, fetch_ids, id_array
from db.queries.filters import LABELLED, SearchFilters
from db.queries.taxa import find_taxa


@dataclass(frozen=True, slots=True, eq=False)
class Candidates:
    """Labels of n annotations, one entry each, in the order in which the ids were asked for.

    `annotation_ids` and `media_ids` are int64 (n,). Individuals, with their primary names and the
    scientific names of their taxa, are those after merges. The perceptual hash is a signed 64-bit
    integer.
    """

    annotation_ids: Int64s
    individual_ids: tuple[UUID, ...]
    names: tuple[str, ...]
    taxa: tuple[str | None, ...]
    media_ids: Int64s
    encounter_ids: tuple[UUID | None, ...]
    sha256: tuple[str, ...]
    perceptual_hashes: tuple[int | None, ...]

    def __len__(self) -> int:
        return len(self.individual_ids)


_NO_FILTERS = SearchFilters()


def label_candidates(
    session: Session, ids: Sequence[int] | Int64s, filters: SearchFilters = _NO_FILTERS
) -> Candidates:
    """Labels of those among `ids` that still exist, have an individual and fulfil the filters."""
    conditions, parameters = _alternatives(session, filters)
    rows = fetch(
        session,
        "SELECT a.id, i.id,"
        " coalesce((SELECT n.name FROM individual_name n WHERE n.individual_id = i.id"
        "   ORDER BY n.is_primary DESC, n.id LIMIT 1), i.id::text),"
        " (SELECT t.scientific_name FROM taxon t WHERE t.id = i.taxon_id),"
        " a.media_id, a.encounter_id, m.sha256, m.perceptual_hash"
        " FROM unnest(%(ids)s::bigint[]) WITH ORDINALITY wanted(id, position)"
        f" JOIN annotation a ON a.id = wanted.id {LABELLED} WHERE {' OR '.join(conditions)}"
        " ORDER BY wanted.position",
        {"ids": id_array(as_ids(ids)), **parameters},
    )
    columns = tuple(zip(*rows, strict=True)) if rows else ((),) * 8
    return Candidates(
        annotation_ids=np.array(columns[0], np.int64),
        individual_ids=columns[1],
        names=columns[2],
        taxa=columns[3],
        media_ids=np.array(columns[4], np.int64),
        encounter_ids=columns[5],
        sha256=columns[6],
        perceptual_hashes=columns[7],
    )


def eligible_ids(session: Session, model_id: int, filters: SearchFilters = _NO_FILTERS) -> Int64s:
    """int64 (n,) ascending: annotations with a vector in this space and an individual that fulfil
    the filters."""
    query, parameters = _eligible(session, model_id, filters)
    return fetch_ids(session, query, parameters)


def count_eligible(session: Session, model_id: int, filters: SearchFilters = _NO_FILTERS) -> int:
    """How many annotations `eligible_ids` would give."""
    query, parameters = _eligible(session, model_id, filters)
    return int(fetch(session, f"SELECT count(*) FROM ({query}) found", parameters)[0][0])


def _eligible(
    session: Session, model_id: int, filters: SearchFilters
) -> tuple[str, dict[str, Any]]:
    conditions, parameters = _alternatives(session, filters)
    query = " UNION ALL ".join(f"SELECT a.id {_ELIGIBLE} AND {made}" for made in conditions)
    return query, {"model": model_id, **parameters}


def _alternatives(
    session: Session, filters: SearchFilters
) -> tuple[tuple[str, ...], dict[str, Any]]:
    # The ids of the taxa are looked up first: with them at hand the planner knows how many
    # individuals they are, and takes an index for few and a scan for many.
    taxa = find_taxa(session, filters.taxon) if filters.taxon else []
    return filters.alternatives(taxa)


_ELIGIBLE = f"""
    FROM embedding v JOIN annotation a ON a.id = v.annotation_id {LABELLED}
    WHERE v.model_id = %(model)s
"""
