"""The desk over HTTP: one question for an encounter, verdicts and their undo, opinions, names."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import text

from db.queries import records
from db.queries.changes import Actor
from indexer.identity import Identity
from indexer.outcomes import Outcome
from service.runtime import Resight
from tests.service.conftest import Service
from tests.service.desk import Desk, new_key
from tests.service.small import add, blank, head_of, identify, scene, serving_of


@pytest.fixture(scope="module")
def catalogue(shared_client: TestClient) -> Desk:
    """Three individuals of two photos each."""
    desk = Desk(shared_client)
    for name, seed in (("RN-0001", 1), ("RN-0002", 2), ("RN-0003", 3)):
        desk.known(name, seed, taxon="humpback whale")
    return desk


@pytest.fixture
def desk(catalogue: Desk) -> Desk:
    return catalogue


def runtime_of(desk: Desk) -> Resight:
    runtime: Resight = desk.client.app.state.resight.runtime  # type: ignore[attr-defined]
    return runtime


def person(desk: Desk, name: str, role: str = "reviewer") -> Desk:
    """The same desk with somebody else at it."""
    with runtime_of(desk).sessions.begin() as session:
        _, key = records.create_key(session, name, role)
    return Desk(desk.client, {"Authorization": f"Bearer {key}"})


def curated(desk: Desk, work: Callable[[Identity], Outcome]) -> int | None:
    """An operation of a curator; its change."""
    with runtime_of(desk).sessions.begin() as session:
        return work(Identity(session, Actor("curator"))).change_id


def rows(desk: Desk, query: str, **parameters: Any) -> list[Any]:
    with runtime_of(desk).sessions() as session:
        return list(session.execute(text(query), parameters).all())


# ---------------------------------------------------------------- one question


def test_several_photos_are_one_question_with_one_ranked_list(desk: Desk) -> None:
    query = desk.ask(scene(1, shift=51), scene(1, shift=52))

    assert query["state"] == "open"
    assert query["version"] == 0
    assert [photo["position"] for photo in query["photos"]] == [0, 1]
    assert query["candidates"][0]["individual"]["name"] == "RN-0001"
    assert [one["rank"] for one in query["candidates"]] == [1, 2, 3]
    ids = [photo["annotation_id"] for photo in query["photos"]]
    for candidate in query["candidates"]:
        evidence = candidate["evidence"]
        assert [one["annotation_id"] for one in evidence] == ids
        best = max(evidence, key=lambda one: one["score"])
        assert candidate["score"] == best["score"]
        assert candidate["annotation_id"] == best["match_annotation_id"]
    assert desk.read(query) == query


def test_by_the_mean_each_photo_counts(desk: Desk) -> None:
    query = desk.ask(scene(1, shift=53), scene(2, shift=53), fuse="mean_top")

    assert query["fuse"] == "mean_top"
    for candidate in query["candidates"]:
        scores = [one["score"] for one in candidate["evidence"]]
        assert candidate["score"] == pytest.approx(sum(scores) / 2, abs=1e-6)
    scores = [one["score"] for one in query["candidates"]]
    assert scores == sorted(scores, reverse=True)


def test_a_question_never_finds_itself_nor_its_encounter(desk: Desk) -> None:
    made = desk.encounter(scene(7, shift=1), scene(7, shift=2), scene(7, shift=3))
    first, second, third = (photo["annotation_id"] for photo in made["photos"])
    named = desk.sent("/v1/queries", {"annotation_ids": [first, second]})
    desk.say(named, "new", name="Own encounter")

    query = desk.sent("/v1/queries", {"annotation_ids": [third]})

    assert "Own encounter" not in {one["individual"]["name"] for one in query["candidates"]}
    assert query["receipt"]["excluded"]["encounter"] == 2
    again = desk.sent("/v1/queries", {"annotation_ids": [first]})
    assert again["receipt"]["excluded"] == {"self": 1, "duplicate": 0, "encounter": 1}


def test_a_photo_without_a_vector_is_not_asked_about(desk: Desk) -> None:
    made = desk.encounter(scene(8, shift=1))
    annotation = made["photos"][0]["annotation_id"]
    with runtime_of(desk).sessions.begin() as session:
        session.execute(text("DELETE FROM embedding WHERE annotation_id = :id"), {"id": annotation})

    refused = desk.post("/v1/queries", {"annotation_ids": [annotation]})

    assert refused.status_code == 404
    assert refused.json()["code"] == "vector_missing"
    assert "resight doctor" in refused.json()["detail"]


def test_what_is_asked_twice_with_a_key_is_one_query(desk: Desk) -> None:
    made = desk.encounter(scene(9, shift=1))
    body, key = {"encounter_id": made["encounter"]["id"]}, new_key()

    one, two = desk.sent("/v1/queries", body, key), desk.sent("/v1/queries", body, key)

    assert one["id"] == two["id"]


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"annotation_ids": ["999999"]},
        {"annotation_ids": ["1", "1"]},
        {"annotation_ids": ["1"], "k": 10_000},
        {"annotation_ids": ["1"], "wanted_votes": 0},
        {"encounter_id": "00000000-0000-0000-0000-000000000001"},
        {"query_id": "00000000-0000-0000-0000-000000000001"},
    ],
)
def test_what_cannot_be_asked_is_refused(desk: Desk, body: dict[str, Any]) -> None:
    assert desk.post("/v1/queries", body).status_code in (404, 422)


def test_stronger_candidates_outside_the_filter_are_counted(desk: Desk) -> None:
    desk.known("Orca outside", 40, taxon="killer whale")
    made = desk.encounter(scene(40, shift=9))
    body = {"encounter_id": made["encounter"]["id"], "filters": {"taxon": "humpback whale"}}

    narrow = desk.sent("/v1/queries", body)
    wide = desk.sent("/v1/queries", {"encounter_id": made["encounter"]["id"]})

    assert narrow["filters"] == {"taxon": ["humpback whale"]}
    assert "Orca outside" not in {one["individual"]["name"] for one in narrow["candidates"]}
    better = [
        one
        for one in wide["candidates"]
        if one["score"] > narrow["candidates"][0]["score"]
        and one["individual"]["taxon"] != "Megaptera novaeangliae"
    ]
    assert narrow["stronger_outside"] == len(better) >= 1
    assert wide["stronger_outside"] is None


def test_the_candidates_photos_come_closest_first(desk: Desk) -> None:
    individual = desk.known("Many photos", 41, photos=3)
    add(desk.client, "Merged away", scene(42, shift=1))
    query = desk.ask(scene(41, shift=99))

    found = desk.got(f"/v1/queries/{query['id']}/candidates/{individual}")

    scores = [photo["score"] for photo in found["photos"]]
    assert len(scores) == 3
    assert scores == sorted(scores, reverse=True)
    shown = next(one for one in query["candidates"] if one["individual"]["id"] == individual)
    assert shown["score"] == scores[0]
    assert shown["annotation_id"] == found["photos"][0]["annotation_id"]
    assert found["individual"]["names"] == ["Many photos"]
    few = desk.got(f"/v1/queries/{query['id']}/candidates/{individual}", limit=1)
    assert [photo["score"] for photo in few["photos"]] == scores[:1]


def test_a_photo_identified_on_the_match_page_comes_to_the_desk(desk: Desk) -> None:
    answer = identify(desk.client, scene(1, shift=61), scene(1, shift=62))

    query = desk.sent("/v1/queries", {"query_id": answer["query_id"]})

    assert query["id"] != answer["query_id"]
    assert [p["media_id"] for p in query["photos"]] == [p["media_id"] for p in answer["photos"]]
    assert query["encounter"] is not None
    assert query["candidates"][0]["individual"]["name"] == "RN-0001"
    assert query["id"] in desk.queue("to_review")
    # What was answered stays what it was.
    assert desk.got(f"/v1/queries/{answer['query_id']}") == answer


# ---------------------------------------------------------------- verdicts


def test_same_names_the_photos_and_can_be_undone(desk: Desk) -> None:
    query = desk.ask(scene(2, shift=71), scene(2, shift=72))
    best = query["candidates"][0]["individual"]

    decided = desk.say(query, "same", individual_id=best["id"], rank=1, note="The notch.")

    assert decided["individual"] == best
    assert decided["query"] == {"id": query["id"], "state": "same", "version": 1}
    assert decided["change_id"] is not None
    now = desk.read(query)
    assert {photo["individual_id"] for photo in now["photos"]} == {best["id"]}
    assert [one["verdict"] for one in now["reviews"]] == ["same"]
    assert query["id"] in desk.queue("decided")
    assert query["id"] not in desk.queue("to_review")

    undone = desk.undo(decided)

    assert undone["query"] == {"id": query["id"], "state": "open", "version": 2}
    now = desk.read(query)
    assert {photo["individual_id"] for photo in now["photos"]} == {None}
    assert now["reviews"][0]["undone"]
    assert query["id"] in desk.queue("to_review")


def test_a_verdict_keeps_what_was_on_the_screen(desk: Desk) -> None:
    made = desk.encounter(scene(2, shift=73))
    body = {"encounter_id": made["encounter"]["id"], "filters": {"taxon": "humpback whale"}}
    query = desk.sent("/v1/queries", body)
    second = query["candidates"][1]

    desk.say(
        query,
        "different",
        individual_id=second["individual"]["id"],
        rank=2,
        match_annotation_id=second["annotation_id"],
        note="Other edge.",
    )

    [kept] = rows(
        desk,
        "SELECT annotation_id, individual_id::text, verdict, reviewer, rank, score,"
        " match_annotation_id, fingerprint, filters, note, is_vote FROM review"
        " WHERE query_id = :id",
        id=query["id"],
    )
    assert kept == (
        int(query["photos"][0]["annotation_id"]),
        second["individual"]["id"],
        "different",
        "local",
        2,
        second["score"],
        int(second["annotation_id"]),
        query["receipt"]["fingerprint"],
        {"taxon": ["humpback whale"]},
        "Other edge.",
        False,
    )


def test_a_new_individual_is_made_named_and_found_at_once(desk: Desk) -> None:
    query = desk.ask(scene(20, shift=1))
    seen = [one["individual"]["id"] for one in query["candidates"]]

    decided = desk.say(
        query, "new", name="Fresh", taxon="humpback whale", rejected_individual_ids=seen
    )

    assert decided["individual"]["name"] == "Fresh"
    assert decided["query"]["state"] == "new"
    found = desk.ask(scene(20, shift=2))
    assert found["candidates"][0]["individual"] == decided["individual"]
    assert all(one["rejected"] for one in desk.read(query)["candidates"])


def test_undoing_a_new_individual_withdraws_it(desk: Desk) -> None:
    query = desk.ask(scene(21, shift=1))
    decided = desk.say(query, "new", name="Short-lived")

    desk.undo(decided)

    assert desk.got("/v1/individuals", text="Short-lived")["items"] == []
    assert desk.read(query)["state"] == "open"
    again = desk.say(desk.read(query), "new", name="Short-lived")
    assert again["individual"]["name"] == "Short-lived"


def test_a_name_that_is_taken_changes_nothing(desk: Desk) -> None:
    query = desk.ask(scene(22, shift=1))

    refused = desk.refused(query, "new", name="rn-0001")

    assert refused["status"] == 409
    assert refused["code"] == "individual_name_taken"
    now = desk.read(query)
    assert (now["state"], now["version"], now["reviews"]) == ("open", 0, [])


def test_unsure_waits_for_fresh_eyes(desk: Desk) -> None:
    query = desk.ask(scene(3, shift=71))

    decided = desk.say(query, "unsure")

    assert desk.queue("unsure") == [query["id"]]
    later = {**query, "version": decided["query"]["version"]}
    best = query["candidates"][0]["individual"]["id"]
    assert desk.say(later, "same", individual_id=best)["query"]["state"] == "same"
    assert desk.queue("unsure") == []


def test_none_rejects_everybody_shown(desk: Desk) -> None:
    query = desk.ask(scene(23, shift=1))

    decided = desk.say(query, "none")

    assert decided["query"]["state"] == "no_match"
    assert desk.queue("no_match") == [query["id"]]
    now = desk.read(query)
    assert all(one["rejected"] for one in now["candidates"])
    assert [one["verdict"] for one in now["reviews"]] == ["none"]
    made = desk.say(now, "new", name="After nobody matched")
    assert made["query"]["state"] == "new"


def test_not_usable_leaves_photos_out_of_every_search(desk: Desk) -> None:
    made = desk.encounter(scene(24, shift=1))
    query = desk.sent("/v1/queries", {"encounter_id": made["encounter"]["id"]})
    assert desk.refused(query, "not_usable")["code"] == "reason_missing"

    decided = desk.say(query, "not_usable", reason="blurred")

    [annotation] = [photo["annotation_id"] for photo in query["photos"]]
    wanted = "SELECT matchable FROM annotation WHERE id = :id"
    assert rows(desk, wanted, id=int(annotation)) == [(False,)]
    assert desk.read(query)["reviews"][0]["reason"] == "blurred"
    desk.undo(decided)
    assert rows(desk, wanted, id=int(annotation)) == [(True,)]


def test_a_verdict_touches_one_annotation_only(desk: Desk) -> None:
    """Promise 51: with several animals in the photo too."""
    made = desk.encounter(scene(25, shift=1, size=(320, 160)))
    media = made["photos"][0]["media_id"]
    boxes = ([0, 0, 150, 150], [160, 0, 150, 150])
    left, right = (
        desk.sent("/v1/annotations", {"media_id": media, "box_px": box})["annotation"]
        for box in boxes
    )
    query = desk.sent("/v1/queries", {"annotation_ids": [left["annotation_id"]]})

    desk.say(query, "new", name="On the left")

    shown = "SELECT id, individual_id IS NOT NULL FROM annotation WHERE media_id = :media"
    assert dict(map(tuple, rows(desk, shown, media=int(media)))) == {
        int(made["photos"][0]["annotation_id"]): False,
        int(left["annotation_id"]): True,
        int(right["annotation_id"]): False,
    }
    assert len(rows(desk, "SELECT FROM review WHERE query_id = :id", id=query["id"])) == 1


def test_a_verdict_may_be_of_some_photos_only(desk: Desk) -> None:
    query = desk.ask(scene(26, shift=1), scene(27, shift=1))
    first, second = (photo["annotation_id"] for photo in query["photos"])
    assert desk.refused(query, "new", annotation_ids=["999999"])["code"] == "annotation_not_asked"

    made = desk.say(query, "new", name="Only the first", annotation_ids=[first])

    photos = {one["annotation_id"]: one["individual_id"] for one in desk.read(query)["photos"]}
    assert photos == {first: made["individual"]["id"], second: None}


def test_a_photo_that_shows_somebody_is_not_given_to_another(desk: Desk) -> None:
    made = desk.encounter(scene(28, shift=1))
    body = {"encounter_id": made["encounter"]["id"]}
    one, two = desk.sent("/v1/queries", body), desk.sent("/v1/queries", body)
    desk.say(two, "new", name="Was first")

    refused = desk.refused(one, "new", name="Came second")

    assert refused["code"] == "annotation_named"
    assert "Was first" in refused["detail"]
    assert desk.got("/v1/individuals", text="Came second")["items"] == []


# ---------------------------------------------------------------- a "no" is remembered


def test_a_rejected_pair_comes_last_and_marked(desk: Desk) -> None:
    """Promise 54: in this query, and in every later one about the photo."""
    query = desk.ask(scene(1, shift=81))
    first = query["candidates"][0]["individual"]["id"]

    decided = desk.say(query, "different", individual_id=first)

    assert decided["query"] == {"id": query["id"], "state": "open", "version": 1}
    assert decided["change_id"] is None
    for shown in (
        desk.read(query),
        desk.sent("/v1/queries", {"encounter_id": query["encounter"]["id"]}),
    ):
        assert shown["candidates"][-1]["individual"]["id"] == first
        assert [one["rejected"] for one in shown["candidates"]].count(True) == 1
        assert [one["rank"] for one in shown["candidates"]] == list(
            range(1, len(shown["candidates"]) + 1)
        )


def test_a_rejection_is_remembered_beside_the_desk(desk: Desk) -> None:
    """Promise 54: where the photo is dropped again, and where a program asks who is near it."""
    photo = scene(1, shift=86)
    query = desk.ask(photo)
    first, second = (one["individual"]["id"] for one in query["candidates"][:2])
    before = identify(desk.client, photo)
    assert before["matches"][0]["individual"]["id"] == first
    assert not any(one["rejected"] for one in before["matches"])

    decided = desk.say(query, "different", individual_id=first)

    annotation = query["photos"][0]["annotation_id"]
    answers = [
        identify(desk.client, photo),
        desk.client.post(f"/v1/annotations/{annotation}/similar", json={}).json(),
    ]
    for answer in answers:
        matches = answer["matches"]
        assert matches[0]["individual"]["id"] == second
        assert matches[-1]["individual"]["id"] == first
        assert [one["rejected"] for one in matches].count(True) == 1
        assert [one["rank"] for one in matches] == list(range(1, len(matches) + 1))
    # How new it is, and whether both answers agree, is said of the best that is left.
    assert answers[0]["novelty"]["best_score"] == answers[0]["matches"][0]["score"]
    page = desk.client.get(f"/queries/{answers[0]['query_id']}").text
    assert page.count("tag-no") == 1
    desk.undo(decided)
    assert identify(desk.client, photo)["matches"][0]["individual"]["id"] == first


def test_the_default_answer_names_nobody_who_was_rejected(serve: Service) -> None:
    """Promise 54: the head knows nothing of verdicts, so what it would say is withheld."""
    desk = Desk(serve(serving_of(head_of([("RN-0001", scene(1)), ("RN-0002", scene(2))]))))
    first = desk.known("RN-0001", 1, taxon="humpback whale")
    desk.known("RN-0002", 2, taxon="humpback whale")
    photo = scene(1, shift=86)
    query = desk.ask(photo)
    assert query["default_answer"]["individual"]["id"] == first

    decided = desk.say(query, "different", individual_id=first)

    for answer in (identify(desk.client, photo), desk.ask(photo)):
        default = answer["default_answer"]
        assert (default["status"], default["individual"]) == ("withheld", None)
        assert "is not RN-0001" in default["reason"]
        assert (default["candidates"], answer["agreement"]) == ([], None)
    desk.undo(decided)
    assert identify(desk.client, photo)["default_answer"]["individual"]["id"] == first


def test_a_rejection_follows_merges(desk: Desk) -> None:
    """Promise 54: whoever is merged with somebody rejected is rejected as well."""
    desk.known("Kept", 43)
    other = desk.known("Other", 44)
    query = desk.ask(scene(44, shift=99))
    assert query["candidates"][0]["individual"]["id"] == other
    desk.say(query, "different", individual_id=other)
    kept = desk.got("/v1/individuals", text="Kept")["items"][0]["id"]
    curated(desk, lambda identity: identity.merge(UUID(kept), UUID(other)))

    again = desk.sent("/v1/queries", {"encounter_id": query["encounter"]["id"]})

    assert again["candidates"][-1]["individual"]["id"] == kept
    assert again["candidates"][-1]["rejected"]


def test_same_after_a_rejection_asks_first(desk: Desk) -> None:
    query = desk.ask(scene(1, shift=82))
    first = query["candidates"][0]["individual"]["id"]
    desk.say(query, "different", individual_id=first)
    now = desk.read(query)

    assert desk.refused(now, "same", individual_id=first)["code"] == "pair_rejected"
    decided = desk.say(now, "same", individual_id=first, confirm_rejected=True)

    assert decided["query"]["state"] == "same"
    shown = {one["individual"]["id"]: one["rejected"] for one in desk.read(query)["candidates"]}
    assert shown[first] is False


def test_a_rejection_that_is_undone_is_none(desk: Desk) -> None:
    query = desk.ask(scene(1, shift=83))
    first = query["candidates"][0]["individual"]["id"]
    decided = desk.say(query, "different", individual_id=first)

    desk.undo(decided)

    assert not any(one["rejected"] for one in desk.read(query)["candidates"])


def test_rejected_candidates_can_be_hidden(serve: Service) -> None:
    """Promise 54: not offered at all, by setting; others take their place."""
    desk = Desk(serve(rejected_pairs="hide", top_k=2))
    for name, seed in (("a", 1), ("b", 2), ("c", 3)):
        desk.known(name, seed)
    query = desk.ask(scene(1, shift=1))
    first = query["candidates"][0]["individual"]["name"]

    desk.say(query, "different", individual_id=query["candidates"][0]["individual"]["id"])

    names = [one["individual"]["name"] for one in desk.read(query)["candidates"]]
    assert first not in names
    again = desk.sent("/v1/queries", {"encounter_id": query["encounter"]["id"]})
    shown = [one["individual"]["name"] for one in again["candidates"]]
    assert len(shown) == 2
    assert first not in shown
    matches = identify(desk.client, scene(1, shift=1))["matches"]
    assert [one["individual"]["name"] for one in matches] == shown


# ---------------------------------------------------------------- several people


def test_of_twenty_who_decide_at_once_one_wins(desk: Desk) -> None:
    """Promise 48: nineteen see the present state, and there is one decision."""
    query = desk.ask(scene(29, shift=1))

    with ThreadPoolExecutor(20) as pool:
        bodies = [desk.words(query, "new", name=f"Winner {n}") for n in range(20)]
        answers = list(pool.map(lambda body: desk.post("/v1/reviews", body), bodies))

    codes = sorted(answer.status_code for answer in answers)
    assert codes == [201] + [409] * 19
    [won] = [answer.json() for answer in answers if answer.status_code == 201]
    for answer in answers:
        if answer.status_code == 409:
            problem = answer.json()
            assert problem["code"] == "query_moved_on"
            assert problem["present"]["state"] == "new"
            assert problem["present"]["version"] == 1
            assert problem["present"]["decided"]["decision_id"] == won["decision_id"]
            assert problem["present"]["decided"]["individual"] == won["individual"]
    decisions = "SELECT DISTINCT decision_id::text FROM review WHERE query_id = :id"
    assert rows(desk, decisions, id=query["id"]) == [(won["decision_id"],)]
    assert len(desk.got("/v1/individuals", text="Winner")["items"]) == 1


def test_a_double_click_is_one_decision(desk: Desk) -> None:
    """Promise 49: with a key the same answer, at once or later; without one a conflict."""
    query = desk.ask(scene(30, shift=1))
    body, key = desk.words(query, "new", name="Clicked twice"), new_key()

    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: desk.post("/v1/reviews", body, key), range(4)))
    later = desk.post("/v1/reviews", body, key)
    without = desk.post("/v1/reviews", body)

    assert {answer.status_code for answer in [*answers, later]} == {201}
    assert len({answer.json()["decision_id"] for answer in [*answers, later]}) == 1
    assert later.headers["Idempotency-Replayed"] == "true"
    assert without.status_code == 409
    assert len(rows(desk, "SELECT FROM review WHERE query_id = :id", id=query["id"])) == 1


def test_what_is_decided_is_undone_before_it_is_decided_again(desk: Desk) -> None:
    query = desk.ask(scene(31, shift=1))
    decided = desk.say(query, "new", name="Decided once")

    refused = desk.refused(desk.read(query), "none")

    assert refused["code"] == "query_decided"
    assert refused["decision_id"] == decided["decision_id"]


def test_a_decision_is_taken_back_once(desk: Desk) -> None:
    query = desk.ask(scene(32, shift=1))
    decided = desk.say(query, "unsure")
    url = f"/v1/reviews/{decided['decision_id']}/undo"
    assert desk.post(url, {"version": 0}).json()["code"] == "query_moved_on"

    undone = desk.undo(decided)

    again = desk.post(url)
    assert again.status_code == 409
    assert again.json()["code"] == "decision_undone"
    assert again.json()["present"]["state"] == "open"
    assert desk.post(f"/v1/reviews/{undone['decision_id']}/undo").status_code == 422
    assert desk.post(f"/v1/reviews/{query['id']}/undo").status_code == 404


def test_an_undo_that_a_later_change_forbids_names_it(desk: Desk) -> None:
    query = desk.ask(scene(33, shift=1))
    decided = desk.say(query, "new", name="Moved on")
    [annotation] = [photo["annotation_id"] for photo in query["photos"]]
    elsewhere = desk.got("/v1/individuals", text="RN-0002")["items"][0]["id"]
    changed = curated(desk, lambda it: it.reassign([int(annotation)], UUID(elsewhere)))

    refused = desk.post(f"/v1/reviews/{decided['decision_id']}/undo")

    assert refused.status_code == 409
    assert refused.json()["code"] == "change_superseded"
    assert refused.json()["blocking_id"] == changed
    assert desk.read(query)["state"] == "new"


def test_an_earlier_decision_undone_leaves_the_later_one(desk: Desk) -> None:
    query = desk.ask(scene(34, shift=1))
    unsure = desk.say(query, "unsure")
    desk.say(desk.read(query), "none")

    assert desk.undo(unsure)["query"]["state"] == "no_match"


def test_a_viewer_reads_and_does_not_decide(desk: Desk) -> None:
    query = desk.ask(scene(35, shift=1))
    viewer = person(desk, "viewer", "viewer")

    assert viewer.read(query)["id"] == query["id"]
    assert viewer.counts()["to_review"] >= 1
    assert viewer.refused(query, "unsure")["status"] == 403
    assert viewer.post("/v1/queries", {"annotation_ids": ["1"]}).status_code == 403
    assert viewer.post("/v1/names/next").status_code == 403


# ---------------------------------------------------------------- second opinions


def test_opinions_are_given_blind_and_decide_together(desk: Desk) -> None:
    query = desk.ask(scene(2, shift=91), wanted_votes=2)
    best = query["candidates"][0]["individual"]
    anna, bert = person(desk, "anna"), person(desk, "bert")
    assert query["state"] == "second"
    assert query["id"] in anna.queue("second_opinion")

    first = anna.say(query, "same", individual_id=best["id"])

    assert first["query"]["state"] == "second"
    assert first["change_id"] is None
    assert query["id"] not in anna.queue("second_opinion")
    assert [one["reviewer"] for one in anna.read(query)["reviews"]] == ["anna"]
    hidden = bert.read(query)
    assert hidden["reviews"] == []
    assert hidden["votes"] == {"wanted": 2, "given": 1, "mine": False}
    assert {photo["individual_id"] for photo in hidden["photos"]} == {None}

    # Bert still has the version from before: what others said does not make his stale.
    second = bert.say(query, "same", individual_id=best["id"])

    assert second["query"]["state"] == "same"
    assert second["individual"] == best
    now = bert.read(query)
    assert {photo["individual_id"] for photo in now["photos"]} == {best["id"]}
    assert [(one["reviewer"], one["vote"]) for one in now["reviews"]] == [
        ("anna", True),
        ("bert", True),
        ("bert", False),
    ]
    assert now["reviews"][2]["note"] == "2 of 2 opinions agree."


def test_two_of_three_opinions_are_enough(desk: Desk) -> None:
    query = desk.ask(scene(36, shift=1), wanted_votes=2)
    one, two, three = (person(desk, f"voter {n}") for n in range(3))
    one.say(query, "new", name="By the first")

    assert two.say(query, "unsure")["query"]["state"] == "second"
    decided = three.say(query, "new", name="By the third")

    assert decided["query"]["state"] == "new"
    assert decided["individual"]["name"] == "By the third"


def test_one_person_has_one_opinion_and_may_change_it(desk: Desk) -> None:
    query = desk.ask(scene(37, shift=1), wanted_votes=2)
    dora, emil = person(desk, "dora"), person(desk, "emil")
    vote = dora.say(query, "unsure")

    assert dora.refused(query, "none")["code"] == "vote_given"
    dora.undo(vote)
    dora.say(dora.read(query), "none")
    decided = emil.say(query, "none")

    assert decided["query"]["state"] == "no_match"
    votes = [one for one in dora.read(query)["reviews"] if one["vote"] and one["mine"]]
    blocked = dora.post(f"/v1/reviews/{votes[-1]['decision_id']}/undo")
    assert blocked.json()["code"] == "decision_superseded"
    assert blocked.json()["blocking_id"] == dora.read(query)["reviews"][-1]["decision_id"]


def test_the_decision_of_a_consensus_is_undone_and_opinions_stay(desk: Desk) -> None:
    query = desk.ask(scene(38, shift=1), wanted_votes=2)
    fred, gina = person(desk, "fred"), person(desk, "gina")
    fred.say(query, "none")
    gina.say(query, "none")
    [decision] = [one for one in fred.read(query)["reviews"] if not one["vote"]]

    undone = fred.undo(decision)

    assert undone["query"]["state"] == "second"
    assert fred.read(query)["votes"] == {"wanted": 2, "given": 2, "mine": True}
    assert not any(one["rejected"] for one in desk.read(query)["candidates"])


# ---------------------------------------------------------------- the gate


def test_what_the_gate_rejected_is_checked_and_named_only_then(desk: Desk) -> None:
    query = desk.ask(blank())
    assert query["gate"]["state"] == "rejected"
    assert query["candidates"] == []
    assert query["default_answer"]["status"] == "withheld"
    assert desk.queue("gate_rejected") == [query["id"]]
    assert query["id"] not in desk.queue("to_review")

    decided = desk.say(query, "usable")

    assert decided["query"]["state"] == "open"
    assert desk.queue("gate_rejected") == []
    assert query["id"] in desk.queue("to_review")
    assert desk.read(query)["candidates"] != []
    desk.undo(decided)
    assert desk.queue("gate_rejected") == [query["id"]]
    now = desk.read(query)
    assert now["candidates"] == []
    desk.say(now, "not_usable", reason="no_animal")
    assert desk.queue("gate_rejected") == []


def test_one_good_photo_of_an_encounter_is_enough_for_the_gate(desk: Desk) -> None:
    query = desk.ask(blank(190), scene(1, shift=84))

    assert query["gate"]["state"] == "accepted"
    assert [photo["gate"] for photo in query["photos"]] == ["rejected", "accepted"]
    good = query["photos"][1]["annotation_id"]
    assert [one["annotation_id"] for one in query["candidates"][0]["evidence"]] == [good]


def test_default_answer_and_matches_that_disagree_have_a_queue(serve: Service) -> None:
    # The head's slot of "b" looks like "a".
    desk = Desk(serve(serving_of(head_of([("b", scene(1)), ("a", scene(2))]))))
    for name, seed in (("a", 1), ("b", 2)):
        desk.known(name, seed)

    query = desk.ask(scene(1, shift=1))

    assert query["default_answer"]["individual"]["name"] == "b"
    assert query["candidates"][0]["individual"]["name"] == "a"
    assert query["agreement"] is False
    assert desk.queue("disagreement") == [query["id"]]


# ---------------------------------------------------------------- queues


def test_queues_are_filtered_sorted_and_walked(serve: Service) -> None:
    desk = Desk(serve())
    desk.known("humpback", 1, taxon="humpback whale", sex="female")
    desk.known("orca", 2, taxon="killer whale", sex="male")
    asked = []
    for number in range(5):
        made = desk.encounter(
            scene(1 + number % 2, shift=200 + number),
            place=f"Bay {number}",
            started_at=f"2024-05-0{number + 1}T10:00:00Z",
            viewpoint="left" if number < 2 else "right",
        )
        query = desk.sent("/v1/queries", {"encounter_id": made["encounter"]["id"]})
        asked.append(query)
    ids = [query["id"] for query in asked]
    best = {q["id"]: q["candidates"][0]["score"] for q in asked}

    assert desk.queue("to_review") == ids
    assert desk.queue("to_review", sort="newest") == ids[::-1]
    by_score = sorted(ids, key=lambda one: -best[one])
    assert desk.queue("to_review", sort="score") == by_score
    assert desk.queue("to_review", place="bay 3") == [ids[3]]
    assert desk.queue("to_review", date_from="2024-05-04") == ids[3:]
    assert desk.queue("to_review", date_to="2024-05-02") == ids[:2]
    assert desk.queue("to_review", viewpoint="LEFT") == ids[:2]
    assert desk.queue("to_review", taxon="killer whale") == ids[1::2]
    assert desk.queue("to_review", sex="female") == ids[0::2]
    assert desk.queue("to_review", uploader="local") == ids
    assert desk.queue("to_review", uploader="nobody") == []
    assert desk.queue("to_review", score_min=1) == []
    assert desk.queue("to_review", after=ids[2]) == ids[3:]
    assert desk.client.get("/v1/queues/lost").status_code == 422
    assert desk.client.get("/v1/queues/to_review?colour=red").status_code == 422

    for sort, order in (("oldest", ids), ("newest", ids[::-1]), ("score", by_score)):
        walked: list[str] = []
        params: dict[str, Any] = {"sort": sort, "limit": 2}
        while True:
            page = desk.got("/v1/queues/to_review", **params)
            walked += [item["id"] for item in page["items"]]
            if page["next_cursor"] is None:
                break
            params["cursor"] = page["next_cursor"]
        assert walked == order

    item = desk.got("/v1/queues/to_review")["items"][0]
    assert item["photos"] == 1
    assert item["best"]["individual"]["name"] == "humpback"
    assert item["encounter"]["place"] == "Bay 0"
    desk.say(asked[0], "different", individual_id=item["best"]["individual"]["id"])
    item = desk.got("/v1/queues/to_review")["items"][0]
    assert item["best"]["individual"]["name"] == "orca"


def test_a_question_asked_again_waits_once(desk: Desk) -> None:
    made = desk.encounter(scene(39, shift=1), scene(39, shift=2))
    body = {"encounter_id": made["encounter"]["id"]}
    first = desk.sent("/v1/queries", body)
    before = desk.counts()["to_review"]
    part = desk.sent("/v1/queries", {"annotation_ids": [made["photos"][0]["annotation_id"]]})
    assert {first["id"], part["id"]} <= set(desk.queue("to_review"))

    again = desk.sent("/v1/queries", body)

    waiting = desk.queue("to_review", limit=200)
    assert again["id"] in waiting
    assert first["id"] not in waiting
    assert part["id"] not in waiting
    assert desk.counts()["to_review"] == before == len(waiting)


# ---------------------------------------------------------------- names and views


def test_the_next_name_continues_the_catalogues_sequence(desk: Desk) -> None:
    first = desk.sent("/v1/names/next", {"taxon": "humpback whale"})["name"]
    second = desk.sent("/v1/names/next", {})["name"]

    assert (first, second) == ("RN-0004", "RN-0005")
    url = f"/v1/names/reserved/{first}"
    assert desk.client.delete(url).status_code == 204
    assert desk.client.delete(url).status_code == 404
    assert desk.sent("/v1/names/next", {})["name"] == first


def test_twenty_at_once_get_twenty_names(desk: Desk) -> None:
    """Promise 50: nobody gives a name that somebody else is about to give."""
    with ThreadPoolExecutor(20) as pool:
        names = list(pool.map(lambda _: desk.sent("/v1/names/next", {})["name"], range(20)))

    assert len(set(names)) == 20
    other = person(desk, "hans")
    query = desk.ask(scene(50, shift=1))
    assert other.refused(query, "new", name=names[0])["code"] == "name_reserved"
    assert desk.say(query, "new", name=names[0])["individual"]["name"] == names[0]


def test_a_new_individual_without_a_name_gets_the_next(serve: Service) -> None:
    desk = Desk(serve())
    query = desk.ask(scene(1))

    assert desk.say(query, "new")["individual"]["name"] == "ID-0001"
    assert desk.sent("/v1/names/next")["name"] == "ID-0002"


def test_views_are_ones_own(desk: Desk) -> None:
    body = {"page": "review", "name": "Left flanks", "params": "queue=to_review&viewpoint=left"}

    saved = desk.sent("/v1/views", body)
    replaced = desk.sent("/v1/views", {**body, "name": "left FLANKS", "params": "viewpoint=left"})

    assert replaced["id"] == saved["id"]
    assert desk.got("/v1/views", page="review")["items"] == [replaced]
    ida = person(desk, "ida", "viewer")
    assert ida.got("/v1/views")["items"] == []
    url = f"/v1/views/{saved['id']}"
    assert ida.client.delete(url, headers=ida.headers).status_code == 404
    assert desk.client.delete(url).status_code == 204
    assert desk.got("/v1/views")["items"] == []
