"""Nearest others and groups, against the table of all pairs."""

from __future__ import annotations

from collections.abc import Sized

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from indexer import closeness
from indexer.closeness import Linkage, average_linkage, closest, cosines
from indexer.vector_index.protocol import Vectors
from indexer.viewpoints import Sides
from tests.spaces import clustered, unit


def plain(vectors, who, sides, apart):  # type: ignore[no-untyped-def]
    scores = vectors @ vectors.T
    own, other, row = [], [], []
    for i in range(len(who)):
        met = [j for j in range(len(who)) if j != i and sides[j] * sides[i] >= 0]
        mine = [j for j in met if who[j] == who[i]]
        theirs = [
            j
            for j in met
            if who[j] != who[i] and not {(who[i], who[j]), (who[j], who[i])} & set(apart)
        ]
        own.append(max((scores[i, j] for j in mine), default=-np.inf))
        best = max(theirs, key=lambda j: (scores[i, j], -j), default=-1)
        row.append(best)
        other.append(scores[i, best] if theirs else -np.inf)
    return np.array(own), np.array(other), np.array(row)


@pytest.mark.parametrize("block", [1, 3, 256])
@given(
    sizes=st.lists(st.integers(1, 5), min_size=1, max_size=6),
    seed=st.integers(0, 99),
    pairs=st.sets(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=4),
    sided=st.booleans(),
)
@settings(max_examples=25, deadline=None)
def test_closest_is_that_of_comparing_all(
    block: int, sizes: list[int], seed: int, pairs: set[tuple[int, int]], sided: bool
) -> None:
    who = np.repeat(np.arange(len(sizes)), sizes).astype(np.int64)
    random = np.random.default_rng(seed)
    vectors = unit(random.standard_normal((len(who), 5)))
    sides = random.integers(-1, 2, len(who)).astype(np.int8) * np.int8(sided)
    apart = {(one, other) for one, other in pairs if one != other}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(closeness, "BLOCK_ROWS", block)
        found = closest(vectors, who, sides, apart)
    own, other, row = plain(vectors, who.tolist(), sides, apart)
    np.testing.assert_allclose(found.own, own, atol=1e-6)
    np.testing.assert_allclose(found.other, other, atol=1e-6)
    assert found.other_row.tolist() == row.tolist()


def unsided(rows: Sized) -> Sides:
    return np.zeros(len(rows), np.int8)


def linked(vectors: Vectors) -> Linkage:
    return average_linkage(cosines(vectors, unsided(vectors)))


def test_progress_is_told_to_the_end() -> None:
    told: list[float] = []
    who = np.arange(600, dtype=np.int64)
    closest(clustered(who.tolist(), 4), who, unsided(who), told=told.append)
    assert told == sorted(told)
    assert told[-1] == 1.0


@given(n=st.integers(1, 12), seed=st.integers(0, 99))
@settings(max_examples=50, deadline=None)
def test_linkage_joins_the_two_groups_that_are_most_alike(n: int, seed: int) -> None:
    vectors = unit(np.random.default_rng(seed).standard_normal((n, 4)))
    scores = vectors.astype(np.float64) @ vectors.T
    groups = [[i] for i in range(n)]
    joined = []
    while len(groups) > 1:
        pairs = [
            (scores[np.ix_(one, other)].mean(), i, j)
            for i, one in enumerate(groups)
            for j, other in enumerate(groups)
            if i < j
        ]
        best, i, j = max(pairs)
        joined.append(best)
        groups[i] += groups.pop(j)
    np.testing.assert_allclose(linked(vectors).scores, joined, atol=1e-6)


def test_three_clear_groups_are_found() -> None:
    who = [0, 1, 0, 2, 1, 0, 2]
    linkage = linked(clustered(who, 32, spread=0.2, seed=3))
    assert linkage.widest(8, 0.15) == 3
    assert linkage.cut(3).tolist() == who
    assert set(linkage.cut(1).tolist()) == {0}
    assert linkage.cut(7).tolist() == list(range(7))


def test_one_individual_is_left_whole() -> None:
    same = np.tile(unit(np.ones((1, 8))), (5, 1))
    assert linked(same).widest(8, 0.15) == 1
    assert linked(same[:1]).widest(8, 0.15) == 1
    assert linked(same[:1]).cut(3).tolist() == [0]


def test_what_is_not_compared_divides_nobody() -> None:
    """Left and right of one animal look like two, and of the left ones one is another animal's."""
    looks = [0, 0, 0, 1, 1, 1, 2]
    sides = np.array([1, 1, 1, -1, -1, -1, 1], np.int8)
    vectors = clustered(looks, 32, spread=0.2, seed=3)
    assert linked(vectors).widest(8, 0.15) == 3
    linkage = average_linkage(cosines(vectors, sides))
    assert linkage.widest(8, 0.15) == 2
    assert linkage.cut(2).tolist() == [0, 0, 0, 0, 0, 0, 1]
    two = cosines(vectors[[0, 3]], sides[[0, 3]])
    assert np.isnan(two).all()
    assert average_linkage(two).widest(8, 0.15) == 1
