"""What the page says about an answer: the headline, the strip, the receipt."""

from __future__ import annotations

from typing import Any

import pytest

from service.web.view import AnswerView, present

BAHUN = {"id": "6f1c2f1e-0000-4000-8000-000000000001", "name": "Bahun", "taxon": "Orcinus orca"}


def answer(**changes: Any) -> dict[str, Any]:
    base: dict[str, Any] = {
        "query_id": "6f1c2f1e-0000-4000-8000-0000000000ff",
        "created_at": "2026-05-01T10:20:30+00:00",
        "gate": {
            "state": "accepted",
            "score": 0.97,
            "threshold": 0.52,
            "model": "clip",
            "reason": None,
        },
        "default_answer": {
            "status": "low_confidence",
            "individual": None,
            "probability": 0.02,
            "model": "m 1",
            "reason": "The best probability is 0.020, below 0.050.",
        },
        "matches": [
            {
                "rank": 1,
                "individual": BAHUN,
                "score": 0.8125,
                "annotation_id": "12",
                "media_id": "7",
                "supporting": 1,
            }
        ],
        "agreement": None,
        "receipt": {
            "mode": "exact",
            "eligible": 612,
            "scanned": 612,
            "excluded": {"self": 1, "duplicate": 2, "encounter": 0},
            "truncated": False,
            "filters": {"taxon": ["beluga"]},
            "fingerprint": "abc",
            "snapshot": None,
            "delta": 3,
            "timings_ms": {
                "total": 20.0,
                "search_scan": 6.0,
                "search_total": 9.0,
                "search": 10.0,
                "decode": 2.0,
            },
        },
        "novelty": {
            "verdict": "known",
            "best_score": 0.8125,
            "true_match_quantile": 0.5,
            "n": 3,
            "explanation": "Half of them score lower.",
            "reference": {"count": 3, "edges": [0.4, 0.6, 0.8, 1.0], "counts": [0, 1, 2]},
            "other": None,
        },
        "known_photo": None,
        "photos": [
            {
                "position": 0,
                "name": "a.jpg",
                "media_id": "3",
                "width_px": 640,
                "height_px": 480,
                "gate": None,
                "known": None,
                "error": None,
            }
        ],
        "stage": "starter",
        "bundle": "starter",
        "notices": [],
    }
    return base | changes


GIVEN = {
    "status": "given",
    "individual": BAHUN,
    "probability": 0.83,
    "model": "m 1",
    "reason": None,
}
REJECTED = {"state": "rejected", "score": 0.03, "threshold": 0.52, "model": "clip", "reason": None}


@pytest.mark.parametrize(
    ("changes", "headline", "tone"),
    [
        ({}, "Most like Bahun", "plain"),
        ({"default_answer": GIVEN, "agreement": True}, "Bahun", "named"),
        ({"gate": REJECTED, "matches": [], "receipt": None, "novelty": None},
         "No whale or dolphin seen", "rejected"),
        ({"novelty": {"verdict": "probably_new", "best_score": 0.2, "n": 0, "explanation": "",
                      "reference": None, "other": None}}, "Probably new", "new"),
        ({"novelty": {"verdict": "probably_new", "best_score": 0.2, "n": 0, "explanation": "",
                      "reference": None, "other": None}, "default_answer": GIVEN},
         "Probably new", "new"),
        ({"matches": [], "receipt": None, "novelty": None}, "Nothing could be searched", "plain"),
        ({"matches": [], "novelty": None}, "Nothing to compare with", "plain"),
        ({"known_photo": {"individual": BAHUN}, "gate": REJECTED}, "Bahun", "named"),
        ({"known_photo": {"individual": None}}, "Most like Bahun", "plain"),
    ],
)  # fmt: skip
def test_the_headline_says_the_one_thing_that_matters(
    changes: dict[str, Any], headline: str, tone: str
) -> None:
    shown = present(answer(**changes))
    assert (shown.headline, shown.tone) == (headline, tone)


def test_a_disagreement_is_told() -> None:
    assert "disagree" in present(answer(default_answer=GIVEN, agreement=False)).lead
    assert "agree." in present(answer(default_answer=GIVEN, agreement=True)).lead


def test_only_an_answer_that_is_given_or_too_weak_shows_a_probability() -> None:
    def probability(status: str) -> float | None:
        default = {"status": status, "probability": 0.4, "model": "m", "individual": None}
        return present(answer(default_answer=default)).default.probability

    shown = {s: probability(s) for s in ("low_confidence", "unmapped_slot", "withheld")}
    assert shown == {"low_confidence": 0.4, "unmapped_slot": None, "withheld": None}


def strip(view: AnswerView) -> list[tuple[float, float, float, float]]:
    assert view.novelty is not None
    return [(bar.x, bar.y, bar.width, bar.height) for bar in view.novelty.same]


def test_the_strip_draws_bars_and_the_mark_on_one_scale() -> None:
    view = present(answer())
    assert view.novelty is not None
    # Measured from 0.6 (less a margin, outwards to tenths: 0.5) to 1.0 over 400 units.
    assert (view.novelty.low, view.novelty.high) == ("0.5", "1.0")
    assert strip(view) == [(80.0, 32.0, 159.0, 32.0), (240.0, 0.0, 159.0, 64.0)]
    assert view.novelty.mark_x == 250.0


def test_a_score_below_everything_measured_still_lies_on_the_strip() -> None:
    novelty = answer()["novelty"] | {"best_score": -0.31}
    view = present(answer(novelty=novelty))
    assert view.novelty is not None
    assert view.novelty.low == "-0.4"
    assert view.novelty.mark_x is not None
    assert 0 <= view.novelty.mark_x <= 400


def test_without_measured_matches_there_is_no_strip() -> None:
    novelty = answer()["novelty"] | {"reference": None}
    view = present(answer(novelty=novelty))
    assert strip(view) == []


def test_the_receipt_in_words() -> None:
    receipt = present(answer()).receipt
    assert receipt is not None
    assert receipt.sentence.startswith("Compared with all 612 photos of the catalogue, one by one")
    values = {pair.term: pair.value for pair in receipt.pairs}
    assert values["Left out"] == "the photo itself, 2 near duplicates"
    assert values["Filters"] == "species: beluga"
    steps = [timing.label for timing in receipt.timings]
    assert steps == ["Read the photo", "Search", "Search: compare", "In all"]


def test_a_truncated_search_is_never_hidden() -> None:
    receipt = answer()["receipt"] | {"truncated": True, "mode": "ann", "scanned": 40}
    shown = present(answer(receipt=receipt)).receipt
    assert shown is not None
    assert "cut short" in shown.sentence
    assert "approximate" in shown.sentence
    assert "all" not in shown.sentence.split("photos")[0]


def test_photos_of_nobody_named_can_be_no_answer() -> None:
    receipt = answer()["receipt"] | {"eligible": 160, "scanned": 226}
    shown = present(answer(receipt=receipt)).receipt
    assert shown is not None
    assert "all 160 photos" in shown.sentence
    told = {pair.term: pair.value for pair in shown.pairs}
    assert told["Compared"] == "226, of which 66 show nobody named yet"


def test_an_unreadable_photo_is_named_and_not_drawn() -> None:
    broken = {
        "position": 1,
        "name": None,
        "media_id": None,
        "width_px": None,
        "height_px": None,
        "gate": None,
        "known": None,
        "error": {"code": "truncated", "detail": "It ends too early."},
    }
    view = present(answer(photos=[*answer()["photos"], broken]))
    assert [photo.name for photo in view.problems] == ["Photo 2"]
    assert len(view.shown_photos) == 1
