"""Many individuals edited at once: one change, counted before and undone once."""

from __future__ import annotations

from uuid import UUID, uuid4

import pytest
from sqlalchemy.orm import Session

from db.errors import Invalid, NotFound
from db.queries import catalogue, changes
from db.queries.changes import Actor
from db.types import Sex
from indexer.bulk import edit_individuals

ANN = Actor("Ann")


@pytest.fixture
def three(session: Session) -> list[UUID]:
    main = catalogue.default_catalogue(session).id
    return [
        catalogue.create_individual(session, catalogue_id=main, name=name, sex=sex).id
        for name, sex in (("a", Sex.FEMALE), ("b", Sex.MALE), ("c", Sex.UNKNOWN))
    ]


def sexes(session: Session, ids: list[UUID]) -> list[Sex]:
    return [catalogue.get_individual(session, one).sex for one in ids]


def test_a_preview_counts_and_writes_nothing(session: Session, three: list[UUID]) -> None:
    told = edit_individuals(session, ANN, three, {"sex": "female"}, preview=True)
    assert (told.changed, told.unchanged, told.change_id) == (2, 1, None)
    assert sexes(session, three) == [Sex.FEMALE, Sex.MALE, Sex.UNKNOWN]


def test_one_undo_takes_all_back(session: Session, three: list[UUID]) -> None:
    done = edit_individuals(session, ANN, three, {"sex": "female", "taxon": "humpback_whale"})
    assert done.changed == 3
    assert sexes(session, three) == [Sex.FEMALE] * 3
    assert catalogue.get_individual(session, three[0]).taxon == "Megaptera novaeangliae"
    assert done.change_id is not None
    changes.undo(session, done.change_id, ANN)
    assert sexes(session, three) == [Sex.FEMALE, Sex.MALE, Sex.UNKNOWN]
    assert catalogue.get_individual(session, three[0]).taxon is None


def test_nothing_different_is_no_change(session: Session, three: list[UUID]) -> None:
    assert edit_individuals(session, ANN, three[:1], {"sex": "female"}).change_id is None


def test_one_unknown_individual_stops_all(session: Session, three: list[UUID]) -> None:
    with pytest.raises(NotFound):
        edit_individuals(session, ANN, [*three, uuid4()], {"sex": "male"})
    assert sexes(session, three) == [Sex.FEMALE, Sex.MALE, Sex.UNKNOWN]


def test_what_is_one_individuals_own_is_not_edited_together(
    session: Session, three: list[UUID]
) -> None:
    for fields in ({"notes": "scar"}, {}):
        with pytest.raises(Invalid):
            edit_individuals(session, ANN, three, fields)
