"""What a cosine means: curves that never fall, measured on what they have not seen."""

from __future__ import annotations

import numpy as np
import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session, sessionmaker

from db.queries import calibrations, jobs
from db.queries.embeddings import SpaceRow
from db.queries.records import MatchRow
from db.types import JobKind, JobState
from indexer.calibrate import (
    ENOUGH,
    FITS,
    Bin,
    Calibrated,
    Evidence,
    ScoreCounts,
    calibration_error,
    calibration_of,
    curve_from,
    error_by_chance,
    fit_curve,
    fit_isotonic,
    fit_logistic,
    held_out,
    pool_adjacent_violators,
    reliability,
)
from indexer.calibrate_job import (
    Asked,
    CalibrateHandler,
    ask_itself,
    fit_space,
    gather,
    given,
    verdicts,
    walked,
)
from indexer.jobs import JobRunner, start_job
from tests import spaces
from tests.verdicts import Desk, curve, drawn

GRID = np.linspace(-1.0, 1.0, 4001)


def _evidence(n: int, seed: int = 1, per_encounter: int = 3) -> Evidence:
    scores, same = drawn(n, seed)
    return Evidence(scores, same, np.arange(n) // per_encounter, "verdicts")


@pytest.fixture
def space(session: Session) -> SpaceRow:
    return spaces.make_space(session, 8, "a" * 64)


@pytest.fixture
def desk(session: Session, space: SpaceRow) -> Desk:
    return Desk(session, space)


# ---------------------------------------------------------------- the curves


def test_neighbours_that_fall_are_pooled_into_their_mean() -> None:
    values = np.array([1.0, 3.0, 2.0, 2.0, 5.0, 4.0])
    pooled = pool_adjacent_violators(values, np.array([1.0, 1.0, 1.0, 2.0, 3.0, 1.0]))
    assert pooled.tolist() == [1.0, 2.25, 2.25, 2.25, 4.75, 4.75]


@pytest.mark.parametrize("method", list(FITS))
@pytest.mark.parametrize("seed", range(8))
def test_a_higher_score_is_never_less_probably_the_same(method: str, seed: int) -> None:
    """Promise 47: calibrated probability is monotone in similarity, whatever was judged."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(2, 400))
    scores = np.round(rng.uniform(-0.2, 1.0, n), int(rng.integers(1, 4)))
    # Even where the verdicts say the opposite of what scores say.
    same = rng.random(n) < (curve(scores) if seed % 2 else 1 - curve(scores))
    fitted = FITS[method](scores, same)  # type: ignore[index]
    for one in (fitted, curve_from(fitted.as_json())):
        values = one.values(GRID)
        assert (np.diff(values) >= 0).all()
        assert values.min() > 0
        assert values.max() < 1


@pytest.mark.parametrize("method", list(FITS))
def test_a_known_curve_is_recovered(method: str) -> None:
    scores, same = drawn(4_000)
    fitted = FITS[method](scores, same)  # type: ignore[index]
    grid = np.linspace(0.25, 0.93, 200)
    assert np.abs(fitted.values(grid) - curve(grid)).mean() < 0.03


def test_so_many_without_an_exception_are_no_certainty() -> None:
    """The next pair may be the exception: n of n say no more than (n + 1) / (n + 2)."""
    scores = np.concatenate([np.linspace(0.1, 0.3, 60), np.linspace(0.7, 0.9, 60)])
    same = scores > 0.5
    assert fit_logistic(scores, same).values(GRID).max() <= 61 / 62
    isotonic = fit_isotonic(scores, same).values(GRID)
    assert (isotonic.min(), isotonic.max()) == pytest.approx((1 / 61, 60 / 61))


# ---------------------------------------------------------------- what is measured


def test_calibration_error_is_the_mean_gap_of_the_bins() -> None:
    predicted = np.repeat([0.1, 0.9], 10)
    same = np.array([True] * 3 + [False] * 7 + [True] * 8 + [False] * 2)
    bins = reliability(predicted, same, 2)
    assert [(one.n, one.same, one.observed) for one in bins] == [(10, 3, 0.3), (10, 8, 0.8)]
    assert calibration_error(bins) == pytest.approx((0.2 + 0.1) / 2)
    low, high = bins[0].ci95
    assert low < 0.3 < high


def test_bins_have_equal_mass() -> None:
    sizes = [one.n for one in reliability(np.linspace(0, 1, 103), np.ones(103, bool))]
    assert len(sizes) == 10
    assert max(sizes) - min(sizes) <= 1


def test_chance_alone_makes_a_calibration_error() -> None:
    bin_ = Bin(100, 50, 0.5, 0.5, 0.5, 0.5, (0.4, 0.6))
    gaps = np.abs(np.random.default_rng(0).binomial(100, 0.5, 20_000) / 100 - 0.5)
    assert error_by_chance([bin_]) == pytest.approx(gaps.mean(), rel=0.03)


def test_calibration_error_on_held_out_pairs_is_small_and_printed() -> None:
    """Promise 47: calibration error on held-out pairs is printed, beside that of the cosine."""
    report = fit_curve(_evidence(3_000)).report
    assert report["ece"] < 0.03
    assert report["ece"] == report["measured"][report["method"]]["ece"]
    assert report["ece"] < report["measured"]["cosine"]["ece"] / 3
    assert report["brier"] < report["measured"]["cosine"]["brier"]
    assert (report["n"], report["yes"] + report["no"]) == (3_000, 3_000)
    assert sum(one["n"] for one in report["bins"]) == 3_000


def test_an_encounter_never_measures_what_was_fitted_on_it() -> None:
    """Each encounter says the opposite of all others: who had seen it would know."""
    encounters = np.repeat(np.arange(40), 10)
    same = np.zeros(400, bool)
    same[encounters == 7] = True
    evidence = Evidence(np.full(400, 0.5), same, encounters, "verdicts")
    for method in FITS:
        predicted = held_out(evidence, method)
        assert predicted[encounters == 7].max() < 0.02
        assert np.ptp(predicted[encounters == 7]) == 0


def test_the_method_with_the_smaller_held_out_error_is_taken() -> None:
    rng = np.random.default_rng(5)
    scores = rng.uniform(0, 1, 6_000)
    # A step with a slope behind it, which no logistic curve bends to.
    truth = np.where(scores < 0.3, 0.02, np.where(scores < 0.7, 0.5, 0.97))
    evidence = Evidence(scores, rng.random(6_000) < truth, np.arange(6_000), "catalogue")
    fitted = fit_curve(evidence)
    measured = fitted.report["measured"]
    assert fitted.report["method"] == "isotonic"
    assert measured["isotonic"]["ece"] < measured["logistic"]["ece"]


def test_too_few_pairs_are_refused() -> None:
    scores, same = drawn(2_000)
    few = np.flatnonzero(same)[: ENOUGH - 1]
    rows = np.concatenate([few, np.flatnonzero(~same)])
    evidence = Evidence(scores[rows], same[rows], rows, "verdicts")
    assert not evidence.enough
    with pytest.raises(ValueError, match=f"{ENOUGH} pairs of each kind"):
        fit_curve(evidence)
    one_encounter = Evidence(scores, same, np.zeros(2_000, np.int64), "verdicts")
    assert not one_encounter.enough


# ---------------------------------------------------------------- thresholds


def _counts(same: list[float], different: list[float]) -> ScoreCounts:
    scores = np.array(same + different)
    truth = np.array([True] * len(same) + [False] * len(different))
    return ScoreCounts.of(Evidence(scores, truth, np.arange(len(scores)), "verdicts"))


def test_a_threshold_keeps_to_the_rate_with_one_more_pair() -> None:
    different = [round(0.001 * n, 3) for n in range(199)]
    found = _counts([0.15, 0.197, 0.5], different).threshold(0.05)
    # 9 of 199 lie above 0.190: (9 + 1) / (199 + 1) is the rate.
    assert (found.score, found.different_above, found.different) == (0.19, 9, 199)
    assert (found.same_above, found.same) == (2, 3)
    assert found.different_ci95 is not None
    assert found.different_ci95[0] < 9 / 199 < found.different_ci95[1]


def test_a_new_different_pair_is_let_through_no_more_often_than_wanted() -> None:
    rng = np.random.default_rng(2)
    let = []
    for _ in range(300):
        scores = rng.normal(0.4, 0.1, 150).clip(-1, 1)
        found = _counts([0.9], scores.tolist()).threshold(0.05)
        assert found.score is not None
        let.append(float((rng.normal(0.4, 0.1, 1_000) >= found.score).mean()))
    assert 0.03 < float(np.mean(let)) <= 0.052


def test_a_rate_that_so_few_pairs_cannot_tell_has_no_threshold() -> None:
    found = _counts([0.9], [0.1] * 200).threshold(0.001)
    assert (found.score, found.needed, found.different) == (None, 999, 200)
    with pytest.raises(ValueError, match="between 0 and 1"):
        _counts([0.9], [0.1]).threshold(1.0)


def test_counted_scores_come_back_from_the_database() -> None:
    counts = _counts([0.9, 0.57, 1.0], [-1.0, 0.29, 0.29])
    again = ScoreCounts.from_json(counts.as_json())
    assert again.same.tolist() == counts.same.tolist()
    assert again.different.tolist() == counts.different.tolist()
    drawn_ = counts.histogram()
    assert (sum(drawn_["same"]), sum(drawn_["different"])) == (3, 3)
    assert len(drawn_["edges"]) == len(drawn_["same"]) + 1


# ---------------------------------------------------------------- verdicts


def _fit(session: Session, space: SpaceRow) -> Calibrated | None:
    fit_space(session, space, gather(session, space), "anna")
    return calibration_of(session, space.id)


def test_verdicts_make_a_calibration(session: Session, desk: Desk, space: SpaceRow) -> None:
    desk.many(*drawn(1_500))
    found = _fit(session, space)
    assert found is not None
    assert found.report["pair"]["source"] == "verdicts"
    assert found.report["pair"]["n"] == 1_500
    scores = np.linspace(0.25, 0.95, 50)
    said = np.array([found.p_same(score) for score in scores.tolist()])
    assert np.abs(said - curve(scores)).mean() < 0.05
    new = np.array([found.p_new(score) for score in scores.tolist()])
    assert np.abs(new - (1 - said)).max() < 0.01
    assert found.p_same(None) is None
    assert calibration_of(session, space.id) is found


def test_a_newer_fit_is_taken_up(session: Session, desk: Desk, space: SpaceRow) -> None:
    desk.many(*drawn(400))
    before = _fit(session, space)
    desk.many(*drawn(400, seed=9))
    after = _fit(session, space)
    assert before is not None
    assert after is not None
    assert after.id > before.id
    assert after.report["pair"]["n"] == 800


def test_below_the_minimum_nothing_is_stated(session: Session, desk: Desk, space: SpaceRow) -> None:
    """No invented figure: 49 pairs of the same animal are not enough."""
    scores = np.linspace(0.2, 0.9, 200)
    desk.many(scores, np.arange(200) < ENOUGH - 1)
    assert _fit(session, space) is None
    told = given(session, space)
    assert (told.same, told.different, told.enough) == (49, 151, False)
    assert session.scalar(text("SELECT count(*) FROM calibration")) == 0


def test_verdicts_that_were_undone_do_not_count(
    session: Session, desk: Desk, space: SpaceRow
) -> None:
    ada = desk.individual("ada")
    kept = desk.says("same", ada, 0.9)
    undone = desk.says("different", ada, 0.3)
    desk.undo(undone)
    assert kept != undone
    pairs = calibrations.judged_pairs(session, space.fingerprint)
    assert [(pair.score, pair.same) for pair in pairs] == [(0.9, True)]


def test_the_newest_verdict_on_an_annotation_and_an_individual_counts(
    session: Session, desk: Desk, space: SpaceRow
) -> None:
    ada, photo = desk.individual("ada"), desk.annotation()
    desk.says("different", ada, 0.7, annotations=[photo])
    desk.says("same", ada, 0.71, annotations=[photo])
    pairs = calibrations.judged_pairs(session, space.fingerprint)
    assert [(pair.score, pair.same) for pair in pairs] == [(0.71, True)]


def test_several_photos_of_one_decision_are_one_pair(
    session: Session, desk: Desk, space: SpaceRow
) -> None:
    photos = [desk.annotation() for _ in range(5)]
    desk.says("same", desk.individual("ada"), 0.8, annotations=photos)
    assert len(calibrations.judged_pairs(session, space.fingerprint)) == 1


def test_votes_and_verdicts_without_a_score_do_not_count(
    session: Session, desk: Desk, space: SpaceRow
) -> None:
    ada = desk.individual("ada")
    desk.says("same", ada, 0.8, vote=True)
    desk.says("same", ada, None)
    desk.says("unsure", ada, 0.8)
    assert calibrations.judged_pairs(session, space.fingerprint) == []


def test_means_over_photos_are_on_a_scale_of_their_own(
    session: Session, desk: Desk, space: SpaceRow
) -> None:
    by_mean = desk.query("same", 0.6)
    desk.says("same", desk.individual("ada"), 0.6, query=by_mean)
    session.execute(
        text('UPDATE query SET answer = \'{"fuse": "mean_top"}\' WHERE id = :id'), {"id": by_mean}
    )
    assert calibrations.judged_pairs(session, space.fingerprint) == []
    assert calibrations.decided_queries(session, space.id) == []


def test_other_spaces_do_not_mix(session: Session, desk: Desk, space: SpaceRow) -> None:
    """Promise 47: thresholds belong to one model digest."""
    other = spaces.make_space(session, 8, "b" * 64)
    scores, same = drawn(600)
    desk.many(scores, same)
    desk.says("same", desk.individual("ada"), 0.1, fingerprint=other.fingerprint)
    assert given(session, space).same == int(same.sum())
    assert given(session, other).same == 1
    here = _fit(session, space)
    assert here is not None
    assert _fit(session, other) is None
    Desk(session, other).many(scores - 0.15, same)
    there = _fit(session, other)
    assert there is not None
    lower, higher = there.threshold(0.02).score, here.threshold(0.02).score
    assert lower is not None
    assert lower + 0.15 == pytest.approx(higher, abs=0.002)
    assert calibration_of(session, space.id) is here


def test_what_scored_higher_than_the_confirmed_one_was_passed_over(
    session: Session, desk: Desk, space: SpaceRow
) -> None:
    """Who takes the third candidate has seen the first two; one of them was rejected in words."""
    names = ("ada", "bea", "cleo", "dora")
    ada, bea, cleo, dora = (desk.individual(name) for name in names)
    matches = [
        MatchRow(rank, who, rank, 0.9 - rank / 10, 1)
        for rank, who in enumerate((ada, bea, cleo, dora), start=1)
    ]
    query = desk.query("same", 0.8, matches)
    photo = desk.annotation()
    desk.says("different", bea, 0.7, query=query, annotations=[photo])
    desk.says("same", cleo, 0.6, query=query, annotations=[photo])
    pairs = calibrations.judged_pairs(session, space.fingerprint)
    assert [(round(pair.score, 1), pair.same, pair.implied) for pair in pairs] == [
        (0.6, True, False),
        (0.7, False, False),
        (0.8, False, True),
    ]
    pair, _ = verdicts(session, space)
    assert (pair.no, pair.implied) == (2, 1)


def test_a_merge_makes_one_individual_of_two(session: Session, desk: Desk, space: SpaceRow) -> None:
    ada, bea = desk.individual("ada"), desk.individual("bea")
    matches = [MatchRow(1, ada, 1, 0.9, 1), MatchRow(2, bea, 2, 0.8, 1)]
    desk.says("same", bea, 0.8, query=desk.query("same", 0.9, matches))
    assert [pair.implied for pair in calibrations.judged_pairs(session, space.fingerprint)] == [
        False,
        True,
    ]
    session.execute(
        text("UPDATE individual SET merged_into_id = :into WHERE id = :one"),
        {"one": ada, "into": bea},
    )
    [pair] = calibrations.judged_pairs(session, space.fingerprint)
    assert pair.same


def test_what_the_catalogue_says_otherwise_by_now_does_not_count(
    session: Session, desk: Desk, space: SpaceRow
) -> None:
    filled = spaces.fill(session, space, spaces.unit(np.eye(8)[:2]), [1, 2])
    first, second = (int(one) for one in filled.ids)
    desk.says("same", filled.who[1], 0.9, annotations=[first])
    desk.says("same", filled.who[1], 0.8, annotations=[second])
    desk.says("different", filled.who[2], 0.7, annotations=[second])
    pairs = calibrations.judged_pairs(session, space.fingerprint)
    assert [(pair.score, pair.same) for pair in pairs] == [(0.9, True)]


def test_queries_that_nobody_settled_say_nothing_about_new_ones(
    session: Session, desk: Desk, space: SpaceRow
) -> None:
    for state, best in (("open", 0.1), ("no_match", 0.2), ("unsure", 0.3), ("same", 0.9)):
        desk.query(state, best)
    desk.query("new", 0.4)
    found = calibrations.decided_queries(session, space.id)
    assert sorted((one.best_score, one.new) for one in found) == [(0.4, True), (0.9, False)]


# ---------------------------------------------------------------- the catalogue about itself


def test_an_encounter_asks_as_one_question_and_never_itself() -> None:
    angles = np.radians(np.array([0.0, 4.0, 10.0, 12.0, 30.0, 31.0]))
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    who = np.array([0, 0, 0, 1, 1, 2])
    met = np.array([0, 0, 1, 2, 3, 3])
    asked = ask_itself(vectors, who, met, np.random.default_rng(0))
    # 0 in meeting 0: its photo at 4° is 6° from its own at 10° and 8° from the other at 12°.
    # 1 in meeting 3: the photo of 2 at 31° is of the same meeting and is not looked at.
    degrees = np.degrees(np.arccos(np.column_stack([asked.own, asked.others[:, 0]]))).round()
    assert asked.encounter.tolist() == [0, 1, 2, 3]
    assert degrees.tolist() == [[6, 8], [6, 2], [18, 2], [18, 20]]
    assert np.isfinite(asked.others).sum(axis=1).tolist() == [2, 2, 2, 1]


def test_somebody_walks_down_to_the_right_one_or_past_all_of_them() -> None:
    asked = Asked(
        own=np.array([0.9, 0.6]),
        others=np.array([[0.8, 0.7, -np.inf], [0.75, 0.65, 0.5]]),
        encounter=np.array([4, 5]),
    )
    pair, known = walked(asked)
    rows = zip(pair.scores.tolist(), pair.same.tolist(), pair.encounters.tolist(), strict=True)
    assert sorted(rows) == sorted(
        [
            (0.9, True, 4),
            (0.6, True, 5),
            # Passed over on the way to the right one, and rejected where it is not there.
            (0.75, False, 5),
            (0.65, False, 5),
            (0.8, False, 4),
            (0.7, False, 4),
            (0.75, False, 5),
            (0.65, False, 5),
            (0.5, False, 5),
        ]
    )
    assert known.scores.tolist() == [0.9, 0.75, 0.8, 0.75]
    assert known.same.tolist() == [True, True, False, False]


def test_a_catalogue_without_verdicts_is_asked_about_itself(
    session: Session, space: SpaceRow
) -> None:
    rng = np.random.default_rng(3)
    centres = spaces.unit(rng.standard_normal((80, 8)))
    who = np.repeat(np.arange(80), 2)
    vectors = spaces.unit(centres[who] + 0.1 * rng.standard_normal((160, 8)))
    spaces.fill(session, space, vectors, who.tolist(), list(range(160)))
    found = _fit(session, space)
    assert found is not None
    pair, known = found.report["pair"], found.report["known"]
    assert (pair["source"], pair["yes"]) == ("catalogue", 160)
    assert pair["no"] >= 1_600
    assert (known["source"], known["yes"], known["no"]) == ("catalogue", 160, 160)
    low, high = found.p_same(0.5), found.p_same(0.98)
    assert low is not None
    assert high is not None
    assert low < 0.2 < 0.8 < high
    session.execute(text("UPDATE annotation SET matchable = false"))
    assert gather(session, space).pair is None


def test_an_empty_catalogue_has_nothing_to_fit_on(session: Session, space: SpaceRow) -> None:
    found = gather(session, space)
    assert (found.pair, found.known, found.catalogue) == (None, None, 0)


# ---------------------------------------------------------------- the job


def test_a_job_fits_and_is_audited(sessions: sessionmaker[Session]) -> None:
    with sessions.begin() as session:
        space = spaces.make_space(session, 8)
        Desk(session, space).many(*drawn(500))
    job = start_job(
        sessions, kind=JobKind.CALIBRATE, params={"model_id": space.id}, principal="anna"
    )
    JobRunner(sessions, [CalibrateHandler()], worker="w").run_until_idle()
    with sessions() as session:
        ended = jobs.get_job(session, job.id)
        found = calibration_of(session, space.id)
        trail = session.execute(
            text("SELECT principal, subject FROM audit WHERE action = 'calibration.fit'")
        ).one()
    assert found is not None
    assert (ended.state, found.fitted_by) == (JobState.DONE, "anna")
    assert ended.result is not None
    assert ended.result["calibration_id"] == found.id
    assert tuple(trail) == ("anna", f"calibration:{found.id}")


def test_a_job_with_too_little_ends_and_says_how_little(sessions: sessionmaker[Session]) -> None:
    with sessions.begin() as session:
        space = spaces.make_space(session, 8)
        Desk(session, space).many([0.9, 0.2], [True, False])
    job = start_job(
        sessions, kind=JobKind.CALIBRATE, params={"model_id": space.id}, principal="anna"
    )
    JobRunner(sessions, [CalibrateHandler()], worker="w").run_until_idle()
    with sessions() as session:
        ended = jobs.get_job(session, job.id)
        assert calibration_of(session, space.id) is None
    assert ended.state == JobState.DONE
    assert ended.result is not None
    assert ended.result["outcome"] == "not enough verdicts yet"
    assert (ended.result["same"], ended.result["wanted"]) == (1, ENOUGH)
