"""Individuals in a list, and an individual as its page shows it."""

from __future__ import annotations

from datetime import UTC, datetime
from hashlib import sha256
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from db.errors import Invalid
from db.queries import catalogue, listing, portraits
from db.queries.listing import ListFilters, Sort
from db.types import LifeStage, Sex, Vitality


@pytest.fixture
def main(session: Session) -> UUID:
    return catalogue.default_catalogue(session).id


def individual(session: Session, main: UUID, name: str, **columns: Any) -> UUID:
    made = catalogue.create_individual(session, catalogue_id=main, name=name).id
    for column, value in columns.items():
        session.execute(
            text(f"UPDATE individual SET {column} = :value WHERE id = :id"),
            {"value": value, "id": made},
        )
    return made


def photo(
    session: Session, main: UUID, individual_id: UUID | None, name: str, **columns: Any
) -> int:
    """A photo of 400 × 300 pixels; columns are those of its annotation."""
    media = catalogue.ensure_media(
        session,
        sha256=sha256(name.encode()).hexdigest(),
        media_type="image/jpeg",
        byte_size=1,
        width_px=400,
        height_px=300,
        original_name=f"{name}.jpg",
        taken_at=datetime(2024, 1, 1, tzinfo=UTC),
    )
    made = catalogue.ensure_annotation(
        session, catalogue_id=main, media_id=media.id, individual_id=individual_id
    )[0].id
    if columns:
        written = ", ".join(f"{column} = :{column}" for column in columns)
        session.execute(
            text(f"UPDATE annotation SET {written} WHERE id = :id"), columns | {"id": made}
        )
    return made


def names(session: Session, **filters: Any) -> list[str]:
    # Of one transaction, all have the same time: only their names order them.
    return [row.name for row in listing.list_individuals(session, sort="name", **filters).items]


@pytest.mark.parametrize(
    ("sort", "expected"),
    [
        ("name", ["anna", "Bruno", "Carla"]),
        ("added", ["Carla", "anna", "Bruno"]),
        ("newest", ["Bruno", "anna", "Carla"]),
    ],
)
def test_order_and_pages(session: Session, main: UUID, sort: Sort, expected: list[str]) -> None:
    for day, name in enumerate(("Carla", "anna", "Bruno"), start=1):
        individual(session, main, name, created_at=datetime(2024, 1, day, tzinfo=UTC))
    seen: list[str] = []
    cursor: str | None = None
    while True:
        page = listing.list_individuals(session, sort=sort, limit=1, cursor=cursor)
        seen += [row.name for row in page.items]
        cursor = page.next_cursor
        if cursor is None:
            break
    assert seen == expected


def test_a_cursor_of_another_order_is_refused(session: Session, main: UUID) -> None:
    individual(session, main, "one")
    individual(session, main, "two")
    cursor = listing.list_individuals(session, sort="name", limit=1).next_cursor
    with pytest.raises(Invalid, match="is not a cursor"):
        listing.list_individuals(session, sort="added", cursor=cursor)


def test_filters_add_up(session: Session, main: UUID) -> None:
    individual(session, main, "a", sex="female", vitality="alive", life_stage="calf")
    individual(session, main, "b", sex="female", vitality="dead")
    individual(session, main, "c", sex="male", vitality="alive")
    assert names(session, sex=Sex.FEMALE) == ["a", "b"]
    assert names(session, sex=Sex.FEMALE, vitality=Vitality.DEAD) == ["b"]
    assert names(session, life_stage=LifeStage.CALF) == ["a"]
    assert listing.count_individuals(session, ListFilters(sex=Sex.FEMALE)) == 2


def test_found_by_the_start_of_the_id(session: Session, main: UUID) -> None:
    one = individual(session, main, "one")
    individual(session, main, "two")
    assert names(session, text=str(one)[:8]) == ["one"]
    assert names(session, text=str(one).upper()) == ["one"]


def test_a_name_of_a_merged_one_finds_the_survivor(session: Session, main: UUID) -> None:
    kept = individual(session, main, "Kept")
    individual(session, main, "Gone", merged_into_id=kept)
    assert names(session, text="gone") == ["Kept"]
    assert listing.count_individuals(session, ListFilters()) == 1


def test_withdrawn_ones_are_not_listed(session: Session, main: UUID) -> None:
    individual(session, main, "one", withdrawn=True)
    assert names(session) == []
    assert listing.count_individuals(session, ListFilters()) == 0


def test_a_reference_photo_stands_for_its_individual(session: Session, main: UUID) -> None:
    one = individual(session, main, "one")
    photo(session, main, one, "large")
    small = photo(
        session,
        main,
        one,
        "small",
        box_x_px=0,
        box_y_px=0,
        box_w_px=9,
        box_h_px=9,
        is_reference=True,
    )
    (row,) = listing.list_individuals(session).items
    assert row.best_annotation_id == small


def test_the_best_photo_of_each_viewpoint(session: Session, main: UUID) -> None:
    one = individual(session, main, "one")
    photo(session, main, one, "left 1", viewpoint="left", matchable=False)
    left = photo(session, main, one, "left 2", viewpoint="Left")
    photo(session, main, one, "right 1", viewpoint="right")
    right = photo(session, main, one, "right 2", viewpoint="right", is_reference=True)
    other = photo(session, main, one, "unknown")
    best = portraits.best_photos(session, one)
    assert [row.annotation_id for row in best] == [right, left, other]


def test_photos_come_latest_first_in_pages(session: Session, main: UUID) -> None:
    one = individual(session, main, "one")
    merged = individual(session, main, "two", merged_into_id=one)
    late = catalogue.ensure_encounter(
        session,
        catalogue_id=main,
        external_id=None,
        started_at=datetime(2025, 6, 1, tzinfo=UTC),
        place="Bay",
    )
    old = photo(session, main, one, "old")
    new = photo(session, main, merged, "new", encounter_id=late, viewpoint="left")
    first = portraits.photos_of(session, one, limit=1)
    second = portraits.photos_of(session, one, limit=1, cursor=first.next_cursor)
    assert [row.annotation_id for row in (*first.items, *second.items)] == [new, old]
    assert (first.items[0].individual_name, first.items[0].place) == ("one", "Bay")
    assert second.next_cursor is None
    assert [p.annotation_id for p in portraits.photos_of(session, one, viewpoint="").items] == [old]
    assert portraits.tally(session, one) == portraits.Tally(2, 0, 0, 1)
    (seen,) = portraits.encounters_of(session, one)
    assert (seen.place, seen.photos) == ("Bay", 1)
    assert [p.annotation_id for p in portraits.photos_by_id(session, [new, 0, old])] == [new, old]


def test_names_of_those_who_were_merged(session: Session, main: UUID) -> None:
    one = individual(session, main, "one")
    two = individual(session, main, "two", merged_into_id=one)
    assert portraits.names_by_id(session, [one, two]) == {one: "one", two: "one"}
    assert [row.name for row in portraits.names_of(session, one)] == ["one"]
