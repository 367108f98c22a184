"""Nearest others and groups, against the table of all pairs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from indexer import closeness
from indexer.closeness import average_linkage, closest
from tests.spaces import clustered, unit


def plain(vectors, who, apart):  # type: ignore[no-untyped-def]
    scores = vectors @ vectors.T
    own, other, row = [], [], []
    for i in range(len(who)):
        mine = [j for j in range(len(who)) if who[j] == who[i] and j != i]
        theirs = [
            j
            for j in range(len(who))
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
)
@settings(max_examples=25, deadline=None)
def test_closest_is_that_of_comparing_all(
    block: int, sizes: list[int], seed: int, pairs: set[tuple[int, int]]
) -> None:
    who = np.repeat(np.arange(len(sizes)), sizes).astype(np.int64)
    vectors = unit(np.random.default_rng(seed).standard_normal((len(who), 5)))
    apart = {(one, other) for one, other in pairs if one != other}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(closeness, "BLOCK_ROWS", block)
        found = closest(vectors, who, apart)
    own, other, row = plain(vectors, who.tolist(), apart)
    np.testing.assert_allclose(found.own, own, atol=1e-6)
    np.testing.assert_allclose(found.other, other, atol=1e-6)
    assert found.other_row.tolist() == row.tolist()


def test_progress_is_told_to_the_end() -> None:
    told: list[float] = []
    who = np.arange(600, dtype=np.int64)
    closest(clustered(who.tolist(), 4), who, told=told.append)
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
    np.testing.assert_allclose(average_linkage(vectors).scores, joined, atol=1e-6)


def test_three_clear_groups_are_found() -> None:
    who = [0, 1, 0, 2, 1, 0, 2]
    linkage = average_linkage(clustered(who, 32, spread=0.2, seed=3))
    assert linkage.widest(8, 0.15) == 3
    assert linkage.cut(3).tolist() == who
    assert set(linkage.cut(1).tolist()) == {0}
    assert linkage.cut(7).tolist() == list(range(7))


def test_one_individual_is_left_whole() -> None:
    same = np.tile(unit(np.ones((1, 8))), (5, 1))
    assert average_linkage(same).widest(8, 0.15) == 1
    assert average_linkage(same[:1]).widest(8, 0.15) == 1
    assert average_linkage(same[:1]).cut(3).tolist() == [0]
