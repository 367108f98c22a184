"""The default answer's arithmetic, with numbers that the eye can follow."""

from __future__ import annotations

import numpy as np
import pytest

from models.embedder import l2_normalize
from models.head import Head

ROWS = np.eye(4, dtype=np.float32)


def head(labels: tuple[str | None, ...] = ("a", "b", None, None), scale: float = 2.0) -> Head:
    species = tuple(None if label is None else f"species of {label}" for label in labels)
    return Head(ROWS, labels, species, scale, 0.05, "1", "0" * 64)


def test_softmax_runs_over_the_mapped_slots_only() -> None:
    vector = l2_normalize(np.array([[3, 4, 0, 0]], np.float32))
    (answer,) = head().answer(vector)
    weights = np.exp(2.0 * np.array([0.6, 0.8]))
    assert [score.slot for score in answer.top] == [1, 0]
    assert [score.probability for score in answer.top] == pytest.approx(
        [weights[1] / weights.sum(), weights[0] / weights.sum()]
    )
    assert answer.top[0].cosine == pytest.approx(0.8)
    assert (answer.top[0].label, answer.top[0].species) == ("b", "species of b")
    assert answer.winner_mapped


def test_an_unmapped_winner_is_said_and_never_answered() -> None:
    vector = l2_normalize(np.array([[1, 0, 0, 9]], np.float32))
    (answer,) = head().answer(vector)
    assert (answer.winner_slot, answer.winner_mapped) == (3, False)
    assert answer.top[0].label == "a"
    assert sum(score.probability for score in answer.top) == pytest.approx(1.0)


def test_ties_go_to_the_lower_slot_and_n_is_kept() -> None:
    vector = np.full((1, 4), 0.5, np.float32)
    (answer,) = head(("a", "b", "c", "d")).answer(vector, n=2)
    assert [score.slot for score in answer.top] == [0, 1]
    assert answer.winner_slot == 0


def test_large_scales_do_not_overflow() -> None:
    (answer,) = head(scale=1e6).answer(ROWS[:1])
    assert answer.top[0].probability == 1.0


def test_rows_answer_one_by_one_and_in_order() -> None:
    answers = head(("a", "b", "c", "d")).answer(ROWS[::-1])
    assert [answer.winner_slot for answer in answers] == [3, 2, 1, 0]
    assert head().answer(ROWS[:0]) == []


def test_a_head_without_names_has_no_top() -> None:
    (answer,) = head((None, None, None, None)).answer(ROWS[:1])
    assert answer.top == ()
    assert answer.winner_slot == 0


def test_lists_of_other_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="4 rows, 1 labels and 1 species"):
        head(("a",))
    with pytest.raises(ValueError, match=r"\(1, 3\) do not fit rows \(4, 4\)"):
        head().answer(np.ones((1, 3), np.float32))


@pytest.mark.parametrize("bad", [0.0, np.nan, np.inf])
def test_rows_without_direction_are_named(bad: float) -> None:
    rows = np.ones((3, 2), np.float32)
    rows[1] = bad
    with pytest.raises(ValueError, match="row 1 of 3"):
        l2_normalize(rows)
