"""Owns which viewpoint a photo is not compared with: the other side, where a rule says sided."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from sqlalchemy.orm import Session

from db.queries import viewpoints as rows
from db.queries.viewpoints import ViewedRow

OPPOSITE: Final = {"left": "right", "right": "left"}

Sides = NDArray[np.int8]
"""1 for an annotation of the left side and -1 for one of the right, where a rule keeps them apart;
else 0, which is compared with both."""


@dataclass(frozen=True, slots=True)
class AppliedRule:
    """How a rule was applied to a photo, as a receipt tells it. `left_out` is the viewpoint whose
    annotations were not compared with it, None where all were: nothing is sided, or the photo
    shows no side. Annotations of an unknown viewpoint are always compared."""

    sided: bool
    viewpoint: str | None
    body_part: str | None
    left_out: str | None


def applied_rules(session: Session, annotation_ids: Sequence[int]) -> dict[int, AppliedRule]:
    """The rule as it applies to each of the annotations that exist, by id."""
    found = rows.viewed(session, annotation_ids)
    return {annotation_id: _applied(row) for annotation_id, row in found.items()}


def sides_of(session: Session, annotation_ids: Sequence[int]) -> Sides:
    """int8 (N,), in the order of the ids."""
    if not rows.list_rules(session):
        return np.zeros(len(annotation_ids), np.int8)
    side = {"right": 1, "left": -1, None: 0}
    found = applied_rules(session, annotation_ids)
    return np.array([side[found[id_].left_out] for id_ in annotation_ids], np.int8)


def told_rule(rules: Sequence[AppliedRule]) -> dict[str, Any] | None:
    """The rules of the photos of one question as a receipt tells them, in one; None where every
    side was compared with every other."""
    if not any(rule.sided for rule in rules):
        return None
    return {
        "sided": True,
        "viewpoint": _listed(rule.viewpoint for rule in rules),
        "body_part": _listed(rule.body_part for rule in rules),
        "left_out": _listed(rule.left_out for rule in rules),
    }


def _listed(values: Iterable[str | None]) -> str | None:
    return ", ".join(dict.fromkeys(value for value in values if value)) or None


def _applied(row: ViewedRow) -> AppliedRule:
    side = (row.viewpoint or "").strip().lower()
    left_out = OPPOSITE.get(side) if row.sided else None
    return AppliedRule(row.sided, row.viewpoint, row.body_part, left_out)
