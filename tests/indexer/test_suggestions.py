"""What may be wrong in the catalogue: suggested with scores, and never again after a "no"."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import numpy as np
import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session, sessionmaker

from db.errors import Conflict, Invalid, NotFound
from db.queries import embeddings, viewpoints
from db.queries import identity as rows
from indexer import suggestions
from indexer.identity import Identity
from indexer.spaces import SLOT
from indexer.suggestions import MergeSuggestion, Outlier, Suggester, dismiss, suggest_split
from tests.identities import ANNA, take_back
from tests.spaces import Filled, clustered, fill, individual_id, make_space, unit

DIM = 32
TWINS = (0, 1)
"""Two numbers for one animal; the third row of individual 5 is a photo of individual 6."""
WHO = [*[0] * 3, *[1] * 2, *[n for n in range(2, 9) for _ in range(3)]]
LOOKS = [0 if who in TWINS else who for who in WHO]
WRONG = 16
LOOKS[WRONG] = 6


@pytest.fixture
def filled(session: Session) -> Filled:
    space = make_space(session, DIM)
    embeddings.set_slot(session, SLOT, space.id)
    return fill(session, space, clustered(LOOKS, DIM, spread=0.4, seed=1), WHO)


@pytest.fixture
def suggester(shared_engine: Any) -> Iterator[Suggester]:
    made = Suggester(sessionmaker(shared_engine))
    yield made
    made.close()


def pairs(found: suggestions.Suggested) -> list[set[str]]:
    assert all(isinstance(item, MergeSuggestion) for item in found.items)
    return [{str(item.individual.id), str(item.other.id)} for item in found.items]


TWIN_IDS = {str(individual_id(number)) for number in TWINS}


def test_two_that_look_alike_come_first_and_others_far_behind(
    session: Session, filled: Filled, suggester: Suggester
) -> None:
    found = suggester.merges(session)
    assert pairs(found)[0] == TWIN_IDS
    first = found.items[0]
    assert isinstance(first, MergeSuggestion)
    assert (first.photos, first.other_photos) == (3, 2)
    assert first.individual.name == "i0"
    vectors = dict(zip(*embeddings.vectors_of(session, filled.space.id, filled.ids), strict=True))
    score = vectors[int(first.annotation_id)] @ vectors[int(first.other_annotation_id)]
    assert first.score == pytest.approx(float(score), abs=1e-6)
    assert (found.state, found.compared, found.individuals) == ("ready", len(WHO), 9)
    assert found.as_json()["items"][0]["score"] == first.score
    scores = [item.score for item in found.items if isinstance(item, MergeSuggestion)]
    assert scores == sorted(scores, reverse=True)
    assert len(found.items) <= 9


def test_a_no_is_not_suggested_again(
    session: Session, filled: Filled, suggester: Suggester
) -> None:
    """Promise 54: a rejected pair is not offered as a suggestion again, under any later model."""
    decision = dismiss(session, individual_id(0), individual_id(1), ANNA)
    assert TWIN_IDS not in pairs(suggester.merges(session))
    with pytest.raises(Conflict) as refused:
        Identity(session, ANNA).merge(individual_id(0), individual_id(1))
    assert refused.value.code == "merge_rejected_pair"
    later = make_space(session, 8, "e" * 64)
    vectors = unit(np.random.default_rng(0).standard_normal((len(WHO), 8)))
    vectors[:5] = vectors[0]
    embeddings.put_vectors(session, later.id, filled.ids, vectors)
    embeddings.set_slot(session, SLOT, later.id)
    assert TWIN_IDS not in pairs(suggester.merges(session))
    take_back(session, decision)
    assert pairs(suggester.merges(session))[0] == TWIN_IDS


def test_what_was_merged_or_moved_since_is_left_out(
    session: Session, filled: Filled, suggester: Suggester
) -> None:
    assert pairs(suggester.merges(session))[0] == TWIN_IDS
    Identity(session, ANNA).merge(individual_id(0), individual_id(1))
    assert TWIN_IDS not in pairs(suggester.merges(session))
    with pytest.raises(Conflict):
        dismiss(session, individual_id(0), individual_id(1), ANNA)


def test_two_on_one_photo_are_not_one(
    session: Session, filled: Filled, suggester: Suggester
) -> None:
    session.execute(
        text(
            "UPDATE annotation SET media_id = :media, box_x_px = 0, box_y_px = 0, box_w_px = 4,"
            " box_h_px = 4 WHERE id = :id"
        ),
        {"media": int(filled.ids[0]), "id": int(filled.ids[3])},
    )
    assert rows.photographed_together(session) == {
        tuple(sorted((individual_id(0), individual_id(1))))
    }
    assert TWIN_IDS not in pairs(suggester.merges(session))


def test_photo_that_looks_like_another_individual_is_found(
    session: Session, filled: Filled, suggester: Suggester
) -> None:
    found = suggester.outliers(session)
    worst = found.items[0]
    assert isinstance(worst, Outlier)
    assert worst.annotation_id == str(filled.ids[WRONG])
    assert worst.individual.id == str(individual_id(5))
    assert worst.other.id == str(individual_id(6))
    assert worst.other_score > worst.own_score
    Identity(session, ANNA).reassign([int(worst.annotation_id)], UUID(worst.other.id))
    assert worst not in suggester.outliers(session).items


def test_photos_that_are_not_for_matching_suggest_nothing(
    session: Session, filled: Filled, suggester: Suggester
) -> None:
    Identity(session, ANNA).flag([int(filled.ids[WRONG])], matchable=False)
    found = suggester.outliers(session)
    assert str(filled.ids[WRONG]) not in [item.annotation_id for item in found.items]
    assert found.compared == len(WHO) - 1


def test_one_side_suggests_nothing_about_the_other(
    session: Session, filled: Filled, suggester: Suggester
) -> None:
    """Individual 0 was seen from the left, its twin from the right, like the stray photo's own."""
    side = "UPDATE annotation SET viewpoint = :side WHERE id = ANY(:ids)"
    for name, ids in (("left", [*filled.ids[:3], filled.ids[WRONG]]), ("Right", filled.ids[3:16])):
        session.execute(text(side), {"side": name, "ids": [int(id_) for id_ in ids]})
    stray = str(filled.ids[WRONG])
    assert pairs(suggester.merges(session))[0] == TWIN_IDS
    assert stray in {item.annotation_id for item in suggester.outliers(session).items}

    rule = viewpoints.set_rule(session, taxon=None, body_part=None, sided=True, set_by="anna")

    assert TWIN_IDS not in pairs(suggester.merges(session))
    # None of its own shows its side: nothing says that it looks less like them.
    assert stray not in {item.annotation_id for item in suggester.outliers(session).items}
    viewpoints.delete_rule(session, rule.id)
    assert pairs(suggester.merges(session))[0] == TWIN_IDS


def test_pages_walk_over_all_without_gap_or_double(
    session: Session, filled: Filled, suggester: Suggester
) -> None:
    every = suggester.merges(session).items
    walked: list[object] = []
    cursor = None
    while True:
        page = suggester.merges(session, limit=2, cursor=cursor)
        walked += page.items
        cursor = page.next_cursor
        if cursor is None:
            break
    assert walked == list(every)
    with pytest.raises(Invalid):
        suggester.merges(session, cursor="x")


def test_without_a_space_or_vectors_nothing_is_suggested(
    session: Session, suggester: Suggester
) -> None:
    assert suggester.merges(session).items == ()
    space = make_space(session, DIM)
    embeddings.set_slot(session, SLOT, space.id)
    assert suggester.outliers(session).items == ()


def test_a_large_catalogue_is_compared_in_the_background(
    sessions: sessionmaker[Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    with sessions.begin() as session:
        space = make_space(session, DIM)
        embeddings.set_slot(session, SLOT, space.id)
        fill(session, space, clustered(LOOKS, DIM, spread=0.4, seed=1), WHO)
    go = threading.Event()
    compare = suggestions._compare

    def slow(*args: Any) -> Any:
        assert go.wait(10)
        return compare(*args)

    monkeypatch.setattr(suggestions, "_compare", slow)
    suggester = Suggester(sessions, at_once=1)
    with sessions() as session:
        waiting = suggester.merges(session)
        assert (waiting.items, waiting.state, waiting.as_of) == ((), "counting", None)
        go.set()
        assert suggester._job is not None
        suggester._job.result(10)
        assert pairs(suggester.merges(session))[0] == TWIN_IDS
    suggester.close()


# ---------------------------------------------------------------- split


def test_split_follows_what_photos_look_like(session: Session) -> None:
    space = make_space(session, DIM)
    embeddings.set_slot(session, SLOT, space.id)
    looks = [0, 1, 0, 1, 0]
    made = fill(session, space, clustered(looks, DIM, spread=0.3, seed=2), [7] * 5)
    blurred = int(made.ids[4])
    Identity(session, ANNA).flag([blurred], matchable=False)
    found = suggest_split(session, individual_id(7))
    assert [group.annotation_ids for group in found.groups] == [
        tuple(str(made.ids[place]) for place in (0, 2)),
        tuple(str(made.ids[place]) for place in (1, 3)),
    ]
    assert found.left_out == (str(blurred),)
    first = found.groups[0]
    assert first.mean_score is not None
    assert first.nearest_score is not None
    assert first.mean_score > first.nearest_score
    assert len(suggest_split(session, individual_id(7), groups=4).groups) == 4
    assert len(suggest_split(session, individual_id(7), groups=1).groups) == 1
    assert suggest_split(session, individual_id(7)) == found
    with pytest.raises(Invalid):
        suggest_split(session, individual_id(7), groups=9)


def test_split_of_who_is_one_or_has_no_vectors(session: Session, filled: Filled) -> None:
    assert len(suggest_split(session, individual_id(8)).groups) == 1
    with pytest.raises(NotFound):
        suggest_split(session, individual_id(99))
