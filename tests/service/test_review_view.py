"""What the review page draws, from the JSON of the API alone."""

from __future__ import annotations

from typing import Any

import pytest

from service.web import queue_view, review_view
from service.web.queue_view import QueueContext
from service.web.words import speaking

MUBRUR = {"id": "aaaa", "name": "Mubrur", "taxon": "megaptera_novaeangliae"}
DUPAL = {"id": "bbbb", "name": "Dupal", "taxon": None}
HERE = QueueContext.of({"queue": "unsure", "place": "Húsavík", "sort": "score"})


def photo(position: int, **more: Any) -> dict[str, Any]:
    return {
        "position": position,
        "annotation_id": str(10 + position),
        "media_id": str(20 + position),
        "name": f"IMG_{position}.jpg",
        "viewpoint": "left",
        "body_part": None,
        "taken_at": "2026-06-14T08:00:00+00:00",
        "photographer": "Vera",
        "width_px": 640,
        "height_px": 480,
        "box_px": None,
        "individual_id": None,
        "gate": "accepted",
    } | more


def candidate(rank: int, individual: dict[str, Any], score: float, **more: Any) -> dict[str, Any]:
    evidence = [
        {
            "annotation_id": str(10 + position),
            "score": score - 0.1 * (1 - position),
            "match_annotation_id": str(70 + position),
            "match_media_id": "70",
        }
        for position in range(2)
    ]
    return {
        "rank": rank,
        "individual": individual,
        "score": score,
        "probability": None,
        "rejected": False,
        "supporting": 4,
        "annotation_id": "71",
        "media_id": "70",
        "viewpoint": "left",
        "evidence": evidence,
    } | more


def review(verdict: str, **more: Any) -> dict[str, Any]:
    return {
        "decision_id": f"d-{verdict}",
        "verdict": verdict,
        "individual": MUBRUR,
        "reviewer": "Vera",
        "at": "2020-06-14T08:00:00+00:00",
        "note": None,
        "reason": None,
        "vote": False,
        "undone": False,
        "mine": False,
    } | more


def query(**more: Any) -> dict[str, Any]:
    return {
        "id": "q-1",
        "state": "open",
        "version": 3,
        "created_at": "2020-06-14T10:32:00+00:00",
        "asked_by": "Vera",
        "fuse": "max",
        "filters": {},
        "encounter": {
            "id": "e-1",
            "started_at": "2020-06-14T08:00:00+00:00",
            "place": "Skjálfandi",
            "observer": None,
        },
        "photos": [photo(0), photo(1)],
        "gate": {"state": "accepted", "score": 0.93},
        "default_answer": {"status": "given", "individual": DUPAL},
        "agreement": False,
        "novelty": None,
        "p_new": None,
        "candidates": [candidate(1, MUBRUR, 0.91), candidate(2, DUPAL, 0.5)],
        "receipt": None,
        "stronger_outside": None,
        "reviews": [],
        "votes": {"wanted": 1, "given": 0, "mine": False},
        "notices": [],
    } | more


def panel(individual: dict[str, Any] = MUBRUR) -> dict[str, Any]:
    photos = [
        {
            "annotation_id": number,
            "media_id": "70",
            "score": score,
            "viewpoint": None,
            "body_part": None,
            "is_reference": number == "71",
            "name": f"{number}.jpg",
            "taken_at": None,
            "place": None,
            "photographer": None,
            "encounter_id": None,
            "width_px": 640,
            "height_px": 480,
            "box_px": [1, 2, 3, 4],
        }
        for number, score in (("71", 0.91), ("70", 0.81), ("72", None))
    ]
    known = {
        "names": [individual["name"], "HW-1"],
        "taxon_common": None,
        "sex": "female",
        "vitality": "dead",
        "life_stage": "unknown",
    }
    encounters = [{"id": "e-9", "started_at": None, "place": "Húsavík", "photos": 3}]
    return {"individual": individual | known, "photos": photos, "encounters": encounters}


def drawn(asked: dict[str, Any] | None = None, **more: Any) -> review_view.ReviewItem:
    options = {"candidate_id": None, "may_decide": True} | more
    return review_view.present_item(asked or query(), panel(), HERE, **options)


def test_the_best_pair_is_shown_first_with_the_evidence_of_each_photo() -> None:
    item = drawn()
    assert item.shown == 1
    assert [one.score for one in item.photos] == [pytest.approx(0.81), pytest.approx(0.91)]
    assert item.panel is not None
    assert item.panel.shown is not None
    assert item.panel.shown.annotation_id == "71"
    assert item.panel.pairs == [{"score": "0.81", "match": "70"}, {"score": "0.91", "match": "71"}]


def test_a_photo_says_where_when_and_by_whom_it_was_taken() -> None:
    first = drawn().photos[0]
    assert (first.name, first.viewpoint) == ("IMG_0.jpg", "left")
    assert first.caption == "14 Jun 2026 · Skjálfandi · photo by Vera"


def test_without_enough_verdicts_no_probability_is_invented() -> None:
    item = drawn()
    assert item.panel is not None
    assert item.panel.sure == "not enough verdicts yet"
    assert item.candidates[0].sure is None


@pytest.mark.parametrize(
    ("probability", "told"),
    [(0.97, "97%"), (0.9999, "over 99%"), (0.0001, "under 1%")],
)
def test_a_probability_is_never_a_certainty(probability: float, told: str) -> None:
    asked = query(candidates=[candidate(1, MUBRUR, 0.91, probability=probability)])
    assert drawn(asked).candidates[0].sure == told


def test_a_rejected_candidate_is_not_shown_first() -> None:
    asked = query(candidates=[candidate(1, MUBRUR, 0.9, rejected=True), candidate(2, DUPAL, 0.5)])
    chosen = review_view.choose(asked, None)
    assert chosen is not None
    assert chosen["individual"] == DUPAL
    assert review_view.choose(asked, "aaaa") == asked["candidates"][0]


def test_before_ones_own_vote_nothing_of_the_others_is_told() -> None:
    """Promise: a second opinion is blind."""
    asked = query(
        state="second",
        reviews=[review("same", vote=True)],
        votes={"wanted": 2, "given": 1, "mine": False},
        candidates=[candidate(1, MUBRUR, 0.9, rejected=True)],
    )
    item = drawn(asked)
    assert item.verdicts == ()
    assert item.banner is None
    assert item.undoable is None
    assert item.last == ""
    assert not item.candidates[0].rejected
    assert item.blind is not None
    assert "1 of 2" in item.blind
    voted = drawn(asked | {"votes": {"wanted": 2, "given": 2, "mine": True}})
    assert [line.text for line in voted.verdicts] == ["Same as Mubrur"]


def test_the_decision_that_stands_is_told_with_the_way_back() -> None:
    said = [review("unsure", undone=True), review("different"), review("same")]
    item = drawn(query(state="same", reviews=said))
    assert item.decided
    assert item.banner == "Same as Mubrur: decided by Vera, 14 Jun 2020, 08:00 UTC"
    assert item.undoable == "d-same"
    assert [line.text for line in item.verdicts] == ["Same as Mubrur", "Not Mubrur", "Unsure"]
    assert [line.may_undo for line in item.verdicts] == [True, True, False]
    assert drawn(query(state="same", reviews=said), may_decide=False).undoable is None


def test_nobody_matched_can_be_decided_again() -> None:
    item = drawn(query(state="no_match", reviews=[review("none", individual=None)]))
    assert not item.decided
    assert item.banner is not None
    assert item.banner.startswith("None of these")


def test_the_hint_about_stronger_candidates_counts_them() -> None:
    assert drawn().stronger is None
    one, three = (drawn(query(stronger_outside=count)).stronger for count in (1, 3))
    assert one == "1 stronger candidate lies outside your filter"
    assert three == "3 stronger candidates lie outside your filter"


def test_what_the_gate_rejected_is_shown_without_candidates() -> None:
    asked = query(gate={"state": "rejected", "score": 0.1}, candidates=[])
    item = review_view.present_item(asked, None, HERE, candidate_id=None, may_decide=True)
    assert item.gate_rejected
    assert item.panel is None
    assert "gate saw no animal" in item.empty


def test_an_individual_looked_up_by_name_has_no_rank() -> None:
    other = {"id": "cccc", "name": "Troren", "taxon": None}
    shown = review_view.present_panel(query(), panel(other), HERE)
    assert shown.card.rank is None
    assert shown.said == "Troren, looked up by name"
    assert all(photo.score is None for photo in shown.evidence)
    assert shown.about == "female, dead"
    assert shown.other_names == ("HW-1",)


def test_the_queue_stays_in_every_address() -> None:
    assert HERE.query == "queue=unsure&place=H%C3%BAsav%C3%ADk&sort=score"
    assert HERE.item_url("q-1") == f"/review/q-1?{HERE.query}"
    assert drawn().candidates[1].url == f"/review/q-1?{HERE.query}&candidate=bbbb"
    assert HERE.api_url == "/v1/queues/unsure?place=H%C3%BAsav%C3%ADk&sort=score"


def test_what_an_address_holds_beside_is_left_out() -> None:
    context = QueueContext.of({"queue": "nonsense", "sort": "by luck", "place": "  ", "x": "1"})
    assert context == QueueContext()
    assert context.query == "queue=to_review"


def test_a_filter_has_a_way_out_of_it() -> None:
    (chip,) = queue_view.chips(HERE)
    assert chip.label == "Place: Húsavík"
    assert chip.url == "/review?queue=unsure&sort=score"


def test_a_row_says_when_the_model_names_another_one() -> None:
    item = {
        "id": "q-1",
        "state": "open",
        "version": 0,
        "created_at": "2020-06-14T10:32:00+00:00",
        "encounter": None,
        "photo": {"annotation_id": "10", "media_id": "20", "name": "IMG_0.jpg"},
        "photos": 2,
        "best": {"individual": MUBRUR, "score": 0.9, "annotation_id": "71"},
        "default_answer": {"status": "given", "individual": DUPAL},
        "asked_by": "Vera",
    }
    (row,) = queue_view.rows([item], HERE)
    assert (row.title, row.photos) == ("IMG_0.jpg", "2 photos")
    assert row.default == "The model says Dupal"
    agreeing = item | {"default_answer": {"status": "given", "individual": MUBRUR}}
    assert queue_view.rows([agreeing], HERE)[0].default is None


def test_the_page_speaks_the_reader_s_language() -> None:
    with speaking("ru"):
        assert drawn().candidates[0].support != "4 photos"
