"""Labels of search candidates, and which annotations a filter admits: the path of every search."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

import numpy as np
from sqlalchemy.orm import Session

from db.queries.copying import Int64s, as_ids, fetch, fetch_ids, id_array
from db.queries.filters import LABELLED, SearchFilters


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
    condition, parameters = filters.where()
    rows = fetch(
        session,
        "SELECT a.id, i.id,"
        " coalesce((SELECT n.name FROM individual_name n WHERE n.individual_id = i.id"
        "   ORDER BY n.is_primary DESC, n.id LIMIT 1), i.id::text),"
        " (SELECT t.scientific_name FROM taxon t WHERE t.id = i.taxon_id),"
        " a.media_id, a.encounter_id, m.sha256, m.perceptual_hash"
        " FROM unnest(%(ids)s::bigint[]) WITH ORDINALITY wanted(id, position)"
        f" JOIN annotation a ON a.id = wanted.id {LABELLED} WHERE {condition}"
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
    condition, parameters = filters.where()
    query = f"SELECT a.id {_ELIGIBLE} AND {condition}"
    return fetch_ids(session, query, {"model": model_id, **parameters})


def count_eligible(session: Session, model_id: int, filters: SearchFilters = _NO_FILTERS) -> int:
    """How many annotations `eligible_ids` would give."""
    condition, parameters = filters.where()
    query = f"SELECT count(*) {_ELIGIBLE} AND {condition}"
    return int(fetch(session, query, {"model": model_id, **parameters})[0][0])


_ELIGIBLE = f"""
    FROM embedding v JOIN annotation a ON a.id = v.annotation_id {LABELLED}
    WHERE v.model_id = %(model)s
"""
