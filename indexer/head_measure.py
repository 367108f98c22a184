"""Owns what is measured of a head: which photos are kept from its fit, how often it is right when
it speaks, and from which probability on it may speak.

A wrong answer is a given name that is not the photo's. It comes from photos of individuals that
the head knows, in encounters it has not seen, and from strangers: individuals it has no row for.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from indexer.head_fit import Codes, Floats

Mask = NDArray[np.bool_]
Json = dict[str, Any]

UNMAPPED = -1
"""A slot whose individual has no name: it may win, and then no name is given."""
ELSEWHERE = -2
"""A slot of a named individual that is none of those measured: to give its name is wrong."""

MIN_MEASURED = 10
"""With fewer held-out photos nothing is measured."""
_FLOOR = 0.05
_BLOCK = 512


@dataclass(frozen=True, slots=True)
class MeasureOptions:
    """How much is kept from the fit, and how many wrong answers are allowed.

    One encounter each of `held_out_share` of the individuals that have several, but of at least
    `held_out_least` of them; `stranger_share` of all individuals, `most_strangers` at most.
    `wrong_rate` is allowed where there is no former head, `most_wrong_rate` whatever the former
    one did; both are shares of all photos measured.
    """

    held_out_share: float = 0.2
    held_out_least: int = 400
    stranger_share: float = 0.05
    most_strangers: int = 500
    wrong_rate: float = 0.01
    most_wrong_rate: float = 0.05
    seed: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """What the photos (N,) are used for, each bool (N,). `stop` and `known` are whole encounters
    of individuals in `fit`, of different individuals each; `strangers` are whole individuals."""

    fit: Mask
    stop: Mask
    known: Mask
    strangers: Mask


class TooFew(Exception):
    """Too few individuals were met in two encounters to measure anything."""


def split(who: Codes, encounter: Codes, options: MeasureOptions) -> Split:
    """Divide photos by their individuals and encounters, int64 (N,) codes from 0.

    Raises:
        TooFew: fewer than MIN_MEASURED photos would be measured.
    """
    rng = np.random.default_rng(options.seed)
    individuals = int(who.max(initial=-1)) + 1
    count = min(options.most_strangers, int(options.stranger_share * individuals))
    strange = np.zeros(individuals, dtype=np.bool_)
    strange[rng.choice(individuals, count, replace=False)] = True

    ids, first = np.unique(encounter, return_index=True)
    order = rng.permutation(len(ids))  # of the encounters of one individual a random one is last
    ids, owner = ids[order], who[first][order]
    last = np.zeros(individuals, dtype=np.int64)
    last[owner] = ids
    several = np.flatnonzero((np.bincount(owner, minlength=individuals) > 1) & ~strange)
    wanted = max(options.held_out_least, math.ceil(options.held_out_share * len(several)))
    chosen = rng.permutation(several)[:wanted]
    half = len(chosen) // 2
    stop = np.isin(encounter, last[chosen[:half]])
    known = np.isin(encounter, last[chosen[half:]])
    strangers = strange[who]
    if int(stop.sum()) < MIN_MEASURED or int(known.sum()) < MIN_MEASURED:
        raise TooFew(
            f"{len(several)} individuals were met in two encounters or more; one encounter each is "
            f"left out of the fit to measure it, which gives {int(known.sum())} photos, and "
            f"{MIN_MEASURED} are needed, twice. Give more photos an individual and an encounter."
        )
    return Split(~(stop | known | strangers), stop, known, strangers)


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """A head to be measured: `rows` float32 (S, D) of unit length, `who` int64 (S,) whom each row
    stands for in the codes of the photos, or UNMAPPED, or ELSEWHERE."""

    rows: Floats
    who: Codes
    scale: float

    def without(self, individuals: Mask) -> Candidate:
        """The same, had it never known those whose code is marked, bool (C,)."""
        kept = (self.who < 0) | ~individuals[np.maximum(self.who, 0)]
        return Candidate(self.rows[kept], self.who[kept], self.scale)


@dataclass(frozen=True, slots=True, eq=False)
class Said:
    """What a head says of photos, as identification would: `who` int64 (n,) the code of the
    best, `probability` float64 (n,), 0 where an unmapped slot wins."""

    who: Codes
    probability: NDArray[np.float64]


def ask(head: Candidate, vectors: Floats) -> Said:
    """What the head says of unit vectors (n, D); rows of one individual count together."""
    mapped = np.flatnonzero(head.who != UNMAPPED)
    if not len(mapped):
        nothing = np.zeros(len(vectors))
        return Said(np.full(len(vectors), ELSEWHERE, dtype=np.int64), nothing)
    # Each slot elsewhere is an individual of its own.
    key = np.where(head.who == ELSEWHERE, -2 - np.arange(len(head.who)), head.who)[mapped]
    order = np.argsort(key, kind="stable")
    mapped, key = mapped[order], key[order]
    starts = np.flatnonzero(np.diff(key, prepend=key[0] - 1))
    names = np.where(key[starts] < 0, ELSEWHERE, key[starts])
    who, probability = [], []
    for start in range(0, len(vectors), _BLOCK):
        cosines = vectors[start : start + _BLOCK] @ head.rows.T
        odds = np.exp(head.scale * (cosines[:, mapped].astype(np.float64) - 1.0))
        odds = np.add.reduceat(odds / odds.sum(axis=1, keepdims=True), starts, axis=1)
        best = odds.argmax(axis=1)
        silent = head.who[cosines.argmax(axis=1)] == UNMAPPED
        who.append(names[best])
        probability.append(np.where(silent, 0.0, odds[np.arange(len(odds)), best]))
    if not who:
        return Said(np.zeros(0, dtype=np.int64), np.zeros(0))
    return Said(np.concatenate(who).astype(np.int64), np.concatenate(probability))


@dataclass(frozen=True, slots=True)
class Record:
    """How a head does when it speaks from `min_probability` on: counts of photos.

    `known` photos of individuals it has rows for, of which it named `right` rightly and
    `wrong_known` wrongly; `strangers`, of which it named `wrong_strangers`. `best_right`: known
    photos whose best individual is the right one, whether it may be said or not.
    """

    min_probability: float
    known: int
    strangers: int
    right: int
    wrong_known: int
    wrong_strangers: int
    best_right: int

    @property
    def wrong(self) -> int:
        return self.wrong_known + self.wrong_strangers

    @property
    def wrong_rate(self) -> float:
        """Wrong answers among all photos measured."""
        return self.wrong / max(self.known + self.strangers, 1)

    @property
    def coverage(self) -> float:
        """Known photos that got an answer, right or wrong, among all known."""
        return (self.right + self.wrong_known) / max(self.known, 1)

    @property
    def accuracy(self) -> float | None:
        """Right answers among all that were given; None where none was."""
        given = self.right + self.wrong
        return self.right / given if given else None

    @property
    def top_1(self) -> float:
        return self.best_right / max(self.known, 1)

    def as_json(self) -> Json:
        return asdict(self) | {
            "top_1": self.top_1,
            "accuracy": self.accuracy,
            "coverage": self.coverage,
            "wrong_rate": self.wrong_rate,
        }


def record(said: Said, truth: Codes, known: Mask, min_probability: float) -> Record:
    """`truth` int64 (n,) who is on the photos, `known` bool (n,) whether the head has a row."""
    given = said.probability >= min_probability
    same = said.who == truth
    return Record(
        min_probability=min_probability,
        known=int(known.sum()),
        strangers=int((~known).sum()),
        right=int((given & same & known).sum()),
        wrong_known=int((given & ~same & known).sum()),
        wrong_strangers=int((given & ~known).sum()),
        best_right=int((same & known & (said.probability > 0)).sum()),
    )


def probability_for(said: Said, truth: Codes, known: Mask, wrong: int) -> float:
    """The smallest min_probability (0.05 or more) with which at most `wrong` photos are named
    wrongly."""
    mistaken = np.sort(said.probability[(said.who != truth) | ~known])[::-1]
    if len(mistaken) <= wrong:
        return _FLOOR
    return float(min(1.0, max(_FLOOR, np.nextafter(mistaken[wrong], 2.0))))


def allowed_wrong(former: Record | None, photos: int, options: MeasureOptions) -> tuple[int, str]:
    """How many wrong answers a new head may give on `photos`, and the rule as a sentence."""
    if former is None:
        return int(options.wrong_rate * photos), (
            f"No former head was measured: at most {options.wrong_rate:.1%} of the photos measured "
            "are named wrongly."
        )
    most = int(options.most_wrong_rate * photos)
    if former.wrong > most:
        return most, (
            f"The former head names {former.wrong_rate:.1%} of the photos measured wrongly; the "
            f"new one is held to {options.most_wrong_rate:.1%}."
        )
    return former.wrong, (
        f"As many wrong answers as the former head gives: {former.wrong} of {photos} photos."
    )
