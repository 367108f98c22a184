"""Owns how a "no" that was said before shapes an answer: rejected candidates come last, marked, or
not at all."""

from __future__ import annotations

from collections.abc import Iterable, Set
from dataclasses import replace
from typing import Any, ClassVar, Final, Literal, Protocol, TypeVar
from uuid import UUID

RejectedPairs = Literal["last", "hide"]

_SPARE: Final = 50


class _Candidate(Protocol):
    """A frozen dataclass with these among its fields."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def rank(self) -> int: ...
    @property
    def rejected(self) -> bool: ...


C = TypeVar("C", bound=_Candidate)


def wider(k: int, rejected: Set[UUID]) -> int:
    """How many candidates to look for so that k remain beside those that were rejected; at most 50
    more."""
    return k + min(len(rejected), _SPARE)


def in_order(candidates: Iterable[C], k: int, rejected_pairs: RejectedPairs) -> tuple[C, ...]:
    """The first k that nobody rejected, then those that somebody did, unless they are hidden; each
    with the rank that it has there."""
    every = list(candidates)
    kept = [one for one in every if not one.rejected][:k]
    if rejected_pairs == "last":
        kept += [one for one in every if one.rejected]
    return tuple(replace(one, rank=rank) for rank, one in enumerate(kept, start=1))
