"""The journal: changes are undone exactly, once, and never over a later change."""

from __future__ import annotations

from uuid import UUID

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from db.errors import Conflict
from db.queries import catalogue, changes
from db.queries.changes import Actor, Journal

WHO = Actor("tester")


def _individual(session: Session, name: str) -> UUID:
    main = catalogue.default_catalogue(session)
    return catalogue.create_individual(session, catalogue_id=main.id, name=name).id


def _state(session: Session) -> list[object]:
    return [
        session.execute(text(f"SELECT to_jsonb({t}.*) FROM {t} ORDER BY id")).scalars().all()
        for t in ("individual", "individual_name", "annotation", "encounter")
    ]


def _edit(session: Session, who: UUID, **values: object) -> int:
    journal = Journal(session)
    journal.update("individual", who, values)
    return journal.close(WHO, "edit", {}).id


def test_update_keeps_only_what_differs_and_is_undone_exactly(session: Session) -> None:
    who = _individual(session, "Tip")
    before = _state(session)
    change = _edit(session, who, notes="torn fin", sex="unknown")
    [image] = changes.images_of(session, change)
    assert (image.before, image.after) == ({"notes": None}, {"notes": "torn fin"})
    undone = changes.undo(session, change, WHO)
    assert _state(session) == before
    assert changes.get_change(session, change).undone_by == undone.id
    assert changes.get_change(session, undone.id).individual_ids == (who,)


def test_rows_made_and_deleted_come_back_with_their_ids(session: Session) -> None:
    who = _individual(session, "Tip")
    main = catalogue.default_catalogue(session)
    journal = Journal(session)
    journal.insert(
        "individual_name",
        {
            "individual_id": str(who),
            "catalogue_id": str(main.id),
            "name": "Tippy",
            "is_primary": False,
        },
    )
    added = journal.close(WHO, "name", {}).id
    with_name = _state(session)
    undone = changes.undo(session, added, WHO)
    assert catalogue.get_individual(session, who).names == ("Tip",)
    changes.undo(session, undone.id, WHO)
    assert _state(session) == with_name


def test_a_later_change_of_the_same_column_stands_in_the_way_and_is_named(
    session: Session,
) -> None:
    who = _individual(session, "Tip")
    first = _edit(session, who, notes="one")
    other_column = _edit(session, who, sex="female")
    second = _edit(session, who, notes="two")
    with pytest.raises(Conflict) as refused:
        changes.undo(session, first, WHO)
    assert refused.value.code == "change_superseded"
    assert refused.value.values["blocking_id"] == second
    changes.undo(session, second, WHO)
    changes.undo(session, first, WHO)
    assert catalogue.get_individual(session, who).notes is None
    assert catalogue.get_individual(session, who).sex == "female"
    changes.undo(session, other_column, WHO)


def test_a_later_change_stands_in_the_way_though_the_value_is_the_same_by_chance(
    session: Session,
) -> None:
    who = _individual(session, "Tip")
    first, second, third = (_edit(session, who, notes=note) for note in ("a", "b", "a"))
    for expected in (third, second):
        with pytest.raises(Conflict) as refused:
            changes.undo(session, first, WHO)
        assert refused.value.values["blocking_id"] == expected
        changes.undo(session, expected, WHO)
    changes.undo(session, first, WHO)
    assert catalogue.get_individual(session, who).notes is None


def test_a_change_is_undone_once(session: Session) -> None:
    change = _edit(session, _individual(session, "Tip"), notes="x")
    undone = changes.undo(session, change, WHO)
    with pytest.raises(Conflict) as refused:
        changes.undo(session, change, WHO)
    assert (refused.value.code, refused.value.values["by"]) == ("change_undone", undone.id)


def test_history_of_an_individual_follows_merges(session: Session) -> None:
    kept, other = _individual(session, "Kept"), _individual(session, "Other")
    early = _edit(session, other, notes="x")
    journal = Journal(session)
    journal.update("individual", other, {"merged_into_id": str(kept)})
    merged = journal.close(WHO, "merge", {}).id
    _edit(session, _individual(session, "Third"), notes="y")
    page = changes.list_changes(session, individual_id=kept)
    assert [row.id for row in page.items] == [merged, early]


def test_history_of_an_individual_has_what_happened_to_its_names(session: Session) -> None:
    who = _individual(session, "Tip")
    [name] = session.execute(
        text("SELECT id FROM individual_name WHERE individual_id = :who"), {"who": who}
    ).scalars()
    journal = Journal(session)
    journal.update("individual_name", name, {"name": "Tippy"})
    change = journal.close(WHO, "rename", {}).id
    undone = changes.undo(session, change, WHO).id
    page = changes.list_changes(session, individual_id=who)
    assert [row.id for row in page.items] == [undone, change]


def test_changes_are_never_altered(session: Session) -> None:
    _edit(session, _individual(session, "Tip"), notes="x")
    for statement in ("UPDATE change SET action = 'z'", "DELETE FROM change_row"):
        with pytest.raises(Exception, match="never changed or deleted"), session.begin_nested():
            session.execute(text(statement))
