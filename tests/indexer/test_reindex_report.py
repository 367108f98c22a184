"""The report of a re-index: the same questions to both spaces, on cases that the eye can check."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session, sessionmaker

from db.queries import embeddings, jobs, runs
from db.queries.runs import Confirmed
from db.types import JobKind
from indexer.reindex_report import (
    Questions,
    accuracy,
    ask,
    build_report,
    changes,
    choose_questions,
    difference,
    distribution,
    snapshot_recall,
    wilson,
)
from indexer.snapshot import SnapshotStore
from tests import spaces


def at(*degrees: float) -> np.ndarray:
    angles = np.radians(np.array(degrees))
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def confirmed(individuals: list[str], encounters: list[str]) -> Confirmed:
    ids = np.arange(len(individuals), dtype=np.int64)
    return Confirmed(ids + 100, ids + 500, np.array(individuals), np.array(encounters))


# Two photos each of a and b in encounters of their own, and one photo of c.
FIVE = confirmed(["a", "a", "b", "b", "c"], ["1", "2", "3", "4", "5"])
GOOD = at(0, 5, 90, 95, 180)
# In the bad space the first photo of a lies beside those of b.
BAD = at(88, 5, 90, 95, 180)


def test_every_annotation_asks_when_there_are_few() -> None:
    questions = choose_questions(FIVE)
    assert questions.gallery.tolist() == [0, 1, 2, 3, 4]
    assert questions.queries.tolist() == [0, 1, 2, 3, 4]


def test_a_large_catalogue_is_sampled_by_whole_individuals_and_always_alike() -> None:
    many = confirmed([f"{n % 300}" for n in range(1200)], [f"{n}" for n in range(1200)])
    one = choose_questions(many, queries=50, gallery=400)
    again = choose_questions(many, queries=50, gallery=400)
    assert one.gallery.tolist() == again.gallery.tolist()
    assert one.queries.tolist() == again.queries.tolist()
    assert 380 <= len(one.gallery) <= 400
    assert len(one.queries) == 50
    # Each individual has all four of its photos there, or none.
    assert set(np.bincount(one.individual).tolist()) <= {0, 4}


def test_individuals_met_once_ask_for_their_lookalike_only() -> None:
    singles = confirmed(["a", "a", *map(str, range(40))], [str(n) for n in range(42)])
    questions = choose_questions(singles, loners=10)
    assert len(questions.queries) == 12
    assert questions.queries.tolist()[:2] == [0, 1]


def test_both_spaces_answer_the_same_questions() -> None:
    questions = choose_questions(FIVE)
    good, bad = ask(GOOD, questions), ask(BAD, questions)
    assert good.ranks.queries.tolist() == bad.ranks.queries.tolist() == [0, 1, 2, 3]
    assert good.ranks.skipped == 1  # c was met once
    assert accuracy(good.ranks)["top1"] == 1.0
    # The photo beside b is answered as b, and so is the other photo of a.
    assert bad.ranks.rank.tolist() == [2, 1, 2, 1]
    assert good.nearest.tolist() == [1, 0, 3, 2, 3]
    assert bad.nearest.tolist() == [2, 0, 0, 2, 3]
    np.testing.assert_allclose(good.score[0], np.cos(np.radians(5)), atol=1e-6)


def test_same_and_different_pairs_are_told_apart() -> None:
    answers = ask(GOOD, choose_questions(FIVE))
    np.testing.assert_allclose(answers.same, np.cos(np.radians([5, 5, 5, 5])), atol=1e-6)
    assert len(answers.nearest_different) == 5
    assert answers.nearest_different.max() < answers.same.min()
    assert answers.different.max(initial=-1.0) <= answers.nearest_different.max() + 1e-6


def test_the_paired_difference_counts_what_was_lost_and_gained() -> None:
    questions = choose_questions(FIVE)
    good, bad = ask(GOOD, questions).ranks, ask(BAD, questions).ranks
    worse = difference(good, bad)
    assert (worse["n"], worse["top1"], worse["lost"], worse["gained"]) == (4, -0.5, 2, 0)
    low, high = worse["top1_ci95"]
    assert low < -0.5 < high
    assert difference(bad, good)["top1"] == 0.5
    assert difference(good, good)["top1_ci95"] == [0.0, 0.0]


def test_changed_individuals_come_worst_first_and_once() -> None:
    questions = choose_questions(FIVE)
    found = changes(questions, ask(GOOD, questions), ask(BAD, questions))
    # Of a: its first photo is taken for b now. Of b: its first photo is taken for a now.
    assert [(one.kind, one.query, one.old, one.new) for one in found] == [
        ("lost", 0, 1, 2),
        ("lost", 2, 3, 0),
    ]
    back = changes(questions, ask(BAD, questions), ask(GOOD, questions))
    assert [one.kind for one in back] == ["gained", "gained"]
    assert changes(questions, ask(GOOD, questions), ask(GOOD, questions)) == []


def test_a_lookalike_that_changed_is_told_after_lost_answers() -> None:
    questions = choose_questions(FIVE)
    turned = GOOD.copy()
    turned[4] = at(-40)[0]  # c lies near a now
    turned[0] = at(86)[0]  # and a is lost
    kinds = [one.kind for one in changes(questions, ask(GOOD, questions), ask(turned, questions))]
    assert kinds == ["lost", "lost", "lookalike"]


def test_nobody_to_compare_with_is_no_answer() -> None:
    one = Questions(np.arange(1), np.zeros(1, np.int64), np.zeros(1, np.int64), np.arange(1))
    answers = ask(at(0), one)
    assert answers.nearest.tolist() == [-1]
    assert accuracy(answers.ranks)["n"] == 0
    assert difference(answers.ranks, answers.ranks)["top1"] is None


def test_an_empty_catalogue_has_a_report_too() -> None:
    questions = choose_questions(confirmed([], []))
    answers = ask(np.zeros((0, 2), np.float32), questions)
    assert accuracy(answers.ranks)["top1"] is None
    assert distribution(answers.same)["count"] == 0


def test_the_interval_of_a_share_is_wilsons() -> None:
    low, high = wilson(8, 10)
    assert (round(low, 4), round(high, 4)) == (0.4902, 0.9433)
    assert wilson(0, 0) == (0.0, 1.0)
    low, high = wilson(10, 10)
    assert low > 0.7
    assert high == 1.0


def test_distributions_of_two_spaces_have_the_same_edges() -> None:
    one = distribution(np.array([0.1, 0.2, 0.3], np.float32))
    two = distribution(np.array([-0.5, 1.0000001], np.float32))
    assert one["histogram"]["edges"] == two["histogram"]["edges"]
    assert sum(one["histogram"]["counts"]) == 3
    assert sum(two["histogram"]["counts"]) == 2
    assert one["quantiles"]["50"] == pytest.approx(0.2)


# ---------------------------------------------------------------- from the database


@pytest.fixture
def store(tmp_path: Path) -> SnapshotStore:
    return SnapshotStore(tmp_path / "snapshots")


def test_the_recall_of_a_snapshot_is_measured_against_postgresql(
    sessions: sessionmaker[Session], store: SnapshotStore
) -> None:
    rng = np.random.default_rng(0)
    rows = spaces.unit(rng.standard_normal((300, 16)))
    with sessions.begin() as session:
        space = spaces.make_space(session, 16)
        filled = spaces.fill(session, space, rows, [n % 100 for n in range(300)])
        snapshot = store.build(session, space)
    assert snapshot_recall(sessions, space.id, snapshot, lambda: None) == (1.0, 100)
    with sessions.begin() as session:  # what came and went since is no fault of the snapshot
        session.execute(text("DELETE FROM annotation WHERE id = ANY(:i)"), {"i": [*filled.ids[:9]]})
        spaces.fill(session, space, rows[:5], [0] * 5)
    recall, queries = snapshot_recall(sessions, space.id, snapshot, lambda: None)
    assert recall == 1.0
    assert 90 <= queries < 100
    with sessions.begin() as session:  # a space whose rows are not those of the snapshot
        embeddings.put_vectors(session, space.id, filled.ids[9:], -rows[9:] + 0.3)
    assert snapshot_recall(sessions, space.id, snapshot, lambda: None)[0] < 0.9


def test_a_report_compares_two_spaces_on_what_people_confirmed(
    sessions: sessionmaker[Session], store: SnapshotStore
) -> None:
    with sessions.begin() as session:
        old = spaces.make_space(session, 2, "a" * 64)
        new = spaces.make_space(session, 2, "b" * 64)
        # The last annotation nobody has named.
        who: list[int | None] = [0, 0, 1, 1, 2, None]
        ids = spaces.fill(session, old, at(0, 5, 90, 95, 180, 200), who).ids
        embeddings.put_vectors(session, new.id, ids, at(88, 5, 90, 95, 180, 200))
        job = jobs.create_job(session, kind=JobKind.REINDEX, params={}, principal="kim")
        run = runs.create_run(
            session,
            job.id,
            slot="identify.photo",
            from_model_id=old.id,
            to_model_id=new.id,
            principal="kim",
        )
        snapshot = store.build(session, new)
    report = build_report(sessions, run, snapshot)
    assert report["recall"] == 1.0
    assert report["snapshot"]["vectors"] == 6
    assert report["counts"] == {
        "annotations": 6,
        "embedded": 6,
        "before": 6,
        "lost": 0,
        "failed": 0,
        "confirmed": 5,
        "gallery": 5,
        "individuals": 3,
        "queries": 5,
    }
    assert (report["old"]["top1"], report["new"]["top1"]) == (1.0, 0.5)
    assert report["old"]["space"]["fingerprint"] == "a" * 64
    assert report["new"]["n"] == 4
    assert report["difference"]["top1"] == -0.5
    assert report["similarity"]["same"]["old"]["count"] == 4
    assert report["changed_count"] == 2
    worst = report["changed"][0]
    assert worst["change"] == "lost"
    assert (worst["individual"]["name"], worst["new_nearest"]["name"]) == ("i0", "i1")
    assert worst["photos"]["query"]["annotation_id"] == ids[0]
    assert worst["photos"]["new"]["annotation_id"] == ids[2]
    assert report["throughput"]["items"] == 0
    assert report["failures"] == {"count": 0, "by_code": {}, "first": []}


def test_merged_individuals_are_one_in_the_report(sessions: sessionmaker[Session]) -> None:
    with sessions.begin() as session:
        space = spaces.make_space(session, 2)
        spaces.fill(session, space, at(0, 5, 10), [0, 1, 2])
        session.execute(
            text("UPDATE individual SET merged_into_id = :into WHERE id = :one"),
            {"one": spaces.individual_id(1), "into": spaces.individual_id(0)},
        )
        rows = runs.confirmed(session, [space.id])
    assert rows.individuals.tolist()[:2] == [str(spaces.individual_id(0))] * 2
    assert len(set(rows.encounters.tolist())) == 3


def test_a_report_on_many_annotations_takes_a_sample(
    sessions: sessionmaker[Session],
) -> None:
    count = 3_000
    rows = spaces.clustered([n // 3 for n in range(count)], 32)
    with sessions.begin() as session:
        old = spaces.make_space(session, 32, "a" * 64)
        new = spaces.make_space(session, 32, "b" * 64)
        ids = spaces.fill(session, old, rows, [n // 3 for n in range(count)]).ids
        embeddings.put_vectors(session, new.id, ids, rows[:, ::-1])
        job = jobs.create_job(session, kind=JobKind.REINDEX, params={}, principal="kim")
        run = runs.create_run(
            session,
            job.id,
            slot="identify.photo",
            from_model_id=old.id,
            to_model_id=new.id,
            principal="kim",
        )
    asked: list[int] = []
    report = build_report(sessions, run, None, alive=lambda: asked.append(1))
    assert len(asked) >= 16  # between blocks it can be given up
    assert report["counts"]["queries"] == 2_000
    assert report["counts"]["gallery"] == count
    # The new space is the old one with its axes in another order.
    assert report["difference"]["top1"] == 0.0
    assert report["changed"] == []
    assert report["recall"] is None
