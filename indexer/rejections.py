"""Owns how a "no" that was said before shapes an answer: rejected candidates come last, marked, or
not at all."""

from __future__ import annotations

from collections.abc import Iterable, Set
from typing import Final, Literal, Protocol, TypeVar
from uuid import UUID

RejectedPairs = Literal["last", "hide"]

_SPARE: Final = 50


class _Candidate(Protocol):
    @property
    def rejected(self) -> bool: ...


C = TypeVar("C", bound=_Candidate)


def wider(k: int, rejected: Set[UUID]) -> int:
    """How many candidates to look for so that k remain beside those that were rejected; at most 50
    more."""
    return k + min(len(rejected), _SPARE)


def in_order(candidates: Iterable[C], k: int, rejected_pairs: RejectedPairs) -> list[C]:
    """The first k that nobody rejected, then those that somebody did, unless they are hidden."""
    every = list(candidates)
    kept = [one for one in every if not one.rejected][:k]
    if rejected_pairs == "last":
        kept += [one for one in every if one.rejected]
    return kept
