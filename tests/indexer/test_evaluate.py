"""Measures of retrieval on cases small enough to check by eye."""

from __future__ import annotations

import numpy as np
import pytest

from indexer.evaluate import (
    codes,
    leave_one_encounter_out,
    summary,
    top_k,
    true_match_scores,
)
from tests import spaces

NOBODY = np.zeros((0, 2), dtype=np.float32)


def _at(*degrees: float) -> np.ndarray:
    angles = np.radians(np.array(degrees))
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def test_codes_are_equal_where_labels_are() -> None:
    assert codes(np.array(["b", "a", "b"])).tolist() == [1, 0, 1]


def test_ranks_by_the_best_annotation_of_other_encounters() -> None:
    # Individual 0 at 0°, 1° and 10°; the photo at 1° is of the same encounter as the one at 0°.
    vectors = _at(0, 1, 10, 5)
    individual = np.array([0, 0, 0, 1])
    encounter = np.array([0, 0, 1, 2])
    ranks = leave_one_encounter_out(vectors, individual, encounter)
    assert ranks.queries.tolist() == [0, 1, 2]
    # From 0° and 1° the stranger at 5° is nearer than 10°; so it is from 10°.
    assert ranks.rank.tolist() == [2, 2, 2]
    assert ranks.skipped == 1
    assert summary(ranks).top_1 == 0.0
    assert summary(ranks).top_5 == 1.0
    assert summary(ranks).median_rank == 2.0


def test_average_precision_counts_annotations() -> None:
    # From 0°: right at 1°, wrong at 2°, right at 3°.
    vectors = _at(0, 1, 2, 3)
    ranks = leave_one_encounter_out(vectors, np.array([0, 0, 1, 0]), np.arange(4))
    assert ranks.average_precision[0] == pytest.approx((1 / 1 + 2 / 3) / 2)
    assert ranks.rank[0] == 1


def test_a_constant_score_is_no_success() -> None:
    vectors = np.repeat(_at(0), 6, axis=0)
    ranks = leave_one_encounter_out(vectors, np.array([0, 0, 1, 1, 2, 2]), np.arange(6))
    assert ranks.rank.tolist() == [3] * 6
    assert summary(ranks).top_1 == 0.0
    assert ranks.average_precision.max() < 0.25


def test_only_the_same_viewpoint_is_compared() -> None:
    vectors = _at(0, 1, 2, 3)
    individual, encounter = np.array([0, 1, 0, 1]), np.arange(4)
    both = leave_one_encounter_out(vectors, individual, encounter)
    left = leave_one_encounter_out(vectors, individual, encounter, np.array([0, 1, 0, 1]))
    assert both.rank.tolist() == [2, 2, 2, 2]
    assert left.rank.tolist() == [1, 1, 1, 1]
    apart = leave_one_encounter_out(vectors, individual, encounter, np.array([0, 0, 1, 1]))
    assert (len(apart.rank), apart.skipped) == (0, 4)


def test_no_query_no_measure() -> None:
    nothing = np.zeros(0, dtype=np.int64)
    none = summary(leave_one_encounter_out(NOBODY, nothing, nothing))
    assert (none.n, none.top_1, none.median_rank, none.mean_average_precision) == (
        0,
        None,
        None,
        None,
    )
    with pytest.raises(ValueError, match="no queries"):
        top_k(nothing, 1)


def test_shares_are_of_those_that_could_be_answered() -> None:
    assert top_k(np.array([1, 2, 6, 11]), 1) == 0.25
    assert top_k(np.array([1, 2, 6, 11]), 6) == 0.75


def test_true_matches_against_a_double_loop() -> None:
    rng = np.random.default_rng(3)
    individual = rng.integers(0, 40, 300)
    encounter = individual * 10 + rng.integers(0, 3, 300)
    vectors = spaces.clustered(individual.tolist(), 24)
    queries = rng.choice(300, 120, replace=False)
    scores = true_match_scores(vectors, individual, encounter, queries)
    for query, score in zip(queries, scores, strict=True):
        wanted = [
            float(vectors[query] @ vectors[other])
            for other in range(300)
            if individual[other] == individual[query] and encounter[other] != encounter[query]
        ]
        assert score == pytest.approx(max(wanted), abs=1e-6) if wanted else np.isnan(score)
    assert np.isnan(scores).sum() < 60
    everyone = true_match_scores(vectors, individual, encounter)
    np.testing.assert_allclose(everyone[queries], scores, atol=1e-6)


def test_no_true_matches_of_nobody() -> None:
    nothing = np.zeros(0, dtype=np.int64)
    assert true_match_scores(NOBODY, nothing, nothing).shape == (0,)
