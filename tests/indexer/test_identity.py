"""Operations on identities: what each does, what it says before, and that it can be undone."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session, sessionmaker

from db.errors import Conflict, Invalid, NotFound
from db.queries import catalogue, changes, records
from db.queries.changes import Journal
from indexer.identity import Identity, etag_of_individual, new_individual
from indexer.outcomes import Counts, Outcome
from tests.identities import (
    ANNA,
    BERT,
    add_encounter,
    add_photo,
    add_photos,
    broken,
    create,
    home,
    individual,
    photos_of,
    rows_of,
    say,
    take_back,
)


def names(session: Session, who: UUID) -> tuple[str, ...]:
    return catalogue.get_individual(session, who).names


def refused(code: str, act: Callable[[], object]) -> dict[str, object]:
    with pytest.raises((Conflict, Invalid, NotFound)) as error:
        act()
    assert error.value.code == code
    return error.value.values


# ---------------------------------------------------------------- making


def test_made_individual_is_withdrawn_by_undo_and_comes_back_by_undoing_that(
    session: Session,
) -> None:
    photo = add_photo(session)
    before = rows_of(session)
    who, change = create(session, "Tip", [photo])
    with_tip = rows_of(session)
    undone = Identity(session, ANNA).undo(change)
    assert rows_of(session) == before
    assert undone.change_id is not None
    Identity(session, ANNA).undo(undone.change_id)
    assert rows_of(session) == with_tip
    assert photos_of(session, who) == [photo]


def test_withdrawn_individual_is_nowhere_but_in_its_history(session: Session) -> None:
    counted = catalogue.counts(session).individuals
    who, change = create(session, "Tip", [add_photo(session)])
    Identity(session, ANNA).undo(change)
    refused("individual_withdrawn", lambda: catalogue.get_individual(session, who))
    assert catalogue.counts(session).individuals == counted
    assert catalogue.find_individual(session, catalogue_id=home(session), name="Tip") is None
    for search in (None, "tip", str(who)):
        page = catalogue.list_individuals(session, text=search, limit=200)
        assert who not in [item.id for item in page.items]
    history = changes.list_changes(session, individual_id=who).items
    assert [row.action for row in history] == ["undo", "create"]
    refused("individual_withdrawn", lambda: Identity(session, ANNA).rename(who, "Top"))
    refused("individual_withdrawn", lambda: Identity(session, ANNA).reassign([1], who))
    assert create(session, "Tip")[0] != who


def test_name_that_is_taken_or_reserved_is_refused_and_the_session_goes_on(
    session: Session,
) -> None:
    tip = individual(session, "Tip")
    reserve = text(
        "INSERT INTO name_reservation (catalogue_id, name, principal, until)"
        " VALUES (:home, 'RN-7', 'bert', now() + interval '1 hour')"
    )
    session.execute(reserve, {"home": home(session)})

    def make(name: str) -> object:
        return new_individual(
            session, Journal(session), ANNA, catalogue_id=home(session), name=name
        )

    assert refused("individual_name_taken", lambda: make(" tip "))["individual_id"] == str(tip)
    assert refused("name_reserved", lambda: make("rn-7"))["by"] == "bert"
    refused("name_blank", lambda: make("  "))
    create(session, "RN-7", actor=BERT)
    assert session.execute(text("SELECT count(*) FROM name_reservation")).scalar_one() == 0


def test_fifty_at_once_make_one_individual(sessions: sessionmaker[Session]) -> None:
    """Promise 50: 50 concurrent "create individual X" = one individual."""

    def make(_: int) -> UUID | str:
        try:
            with sessions.begin() as session:
                return create(session, "X")[0]
        except Conflict as error:
            return str(error.values["individual_id"])

    with ThreadPoolExecutor(50) as pool:
        made = list(pool.map(make, range(50)))
    assert sum(isinstance(one, UUID) for one in made) == 1
    assert len({str(one) for one in made}) == 1
    with sessions() as session:
        assert catalogue.counts(session).individuals == 1
        assert len(changes.list_changes(session).items) == 1
        assert records.verify_audit(session) == []


# ---------------------------------------------------------------- names


def test_rename_keeps_the_old_name_as_an_alias_unless_told_otherwise(session: Session) -> None:
    who = individual(session, "Tip")
    outcome = Identity(session, ANNA).rename(who, "Tippy")
    assert outcome.individual is not None
    assert outcome.individual.name == "Tippy"
    assert names(session, who) == ("Tippy", "Tip")
    Identity(session, ANNA).rename(who, "Tim", keep_alias=False)
    assert names(session, who) == ("Tim", "Tip")
    Identity(session, ANNA).rename(who, "tip")
    assert names(session, who) == ("tip", "Tim")
    Identity(session, ANNA).rename(who, "TIP")
    assert names(session, who) == ("TIP", "Tim")
    assert Identity(session, ANNA).rename(who, "TIP").change_id is None


def test_names_in_other_catalogues_are_their_own(session: Session) -> None:
    tip, top = individual(session, "Tip"), individual(session, "Top")
    Identity(session, ANNA).add_name(tip, "HW-1", catalogue_name="HappyWhale")
    refused(
        "individual_name_taken",
        lambda: Identity(session, ANNA).add_name(top, "hw-1", catalogue_name="happywhale"),
    )
    Identity(session, ANNA).add_name(top, "HW-1")
    refused("individual_name_taken", lambda: Identity(session, ANNA).rename(top, "Tip"))
    refused(
        "individual_name_taken",
        lambda: Identity(session, ANNA).rename(top, "tip", keep_alias=False),
    )
    other = catalogue.find_catalogue(session, "HappyWhale")
    assert other is not None
    found = catalogue.find_individual(session, catalogue_id=other.id, name="hw-1")
    assert found is not None
    assert found.id == tip


def test_primary_name_is_not_removed_and_an_alias_comes_back(session: Session) -> None:
    who = individual(session, "Tip")
    Identity(session, ANNA).rename(who, "Tippy")
    by_name = {
        name: id_
        for id_, name in session.execute(
            text("SELECT id, name FROM individual_name WHERE individual_id = :who"), {"who": who}
        )
    }
    refused("name_is_primary", lambda: Identity(session, ANNA).remove_name(who, by_name["Tippy"]))
    refused("name_unknown", lambda: Identity(session, ANNA).remove_name(who, -1))
    before = rows_of(session)
    removed = Identity(session, ANNA).remove_name(who, by_name["Tip"]).change_id
    assert names(session, who) == ("Tippy",)
    assert removed is not None
    Identity(session, ANNA).undo(removed)
    assert rows_of(session) == before


def test_removed_name_that_another_got_names_the_change_in_the_way(session: Session) -> None:
    """Promise 52: a superseded undo is 409 with the blocking id."""
    tip, top = individual(session, "Tip"), individual(session, "Top")
    renamed = Identity(session, ANNA).rename(tip, "Tippy", keep_alias=False).change_id
    given = Identity(session, ANNA).add_name(top, "TIP").change_id
    assert renamed is not None
    assert given is not None
    values = refused("change_superseded", lambda: Identity(session, ANNA).undo(renamed))
    assert values["blocking_id"] == given
    Identity(session, ANNA).undo(given)
    Identity(session, ANNA).undo(renamed)
    assert names(session, tip) == ("Tip",)


# ---------------------------------------------------------------- fields


def test_edit_writes_what_is_given_and_says_what_it_was(session: Session) -> None:
    who = individual(session, "Tip")
    before = rows_of(session)
    fields = {"sex": "female", "taxon": "killer whale", "links": ["https://example.org/tip"]}
    change = Identity(session, ANNA).edit(who, fields).change_id
    assert change is not None
    row = catalogue.get_individual(session, who)
    assert (row.sex, row.taxon, row.links) == (
        "female",
        "Orcinus orca",
        ("https://example.org/tip",),
    )
    assert changes.get_change(session, change).detail["fields"] == {
        "sex": ["unknown", "female"],
        "taxon": [None, "Orcinus orca"],
        "links": [[], ["https://example.org/tip"]],
    }
    for link in ("javascript:alert(1)", "example.org", "https://a b"):
        with pytest.raises(Invalid, match="not the address of a page"):
            Identity(session, ANNA).edit(who, {"links": [link]})
    refused("value_invalid", lambda: Identity(session, ANNA).edit(who, {"sex": "both"}))
    refused("field_unknown", lambda: Identity(session, ANNA).edit(who, {"withdrawn": True}))
    Identity(session, ANNA).undo(change)
    assert rows_of(session) == before


def test_edit_of_what_another_changed_meanwhile_is_refused(session: Session) -> None:
    who = individual(session, "Tip")
    seen = etag_of_individual(catalogue.get_individual(session, who))
    Identity(session, BERT).edit(who, {"notes": "torn fin"}, if_match=f'"{seen}"')
    refused(
        "changed_meanwhile",
        lambda: Identity(session, ANNA).edit(who, {"notes": "scar"}, if_match=f'"{seen}"'),
    )
    assert catalogue.get_individual(session, who).notes == "torn fin"


# ---------------------------------------------------------------- merge


def test_merge_redirects_moves_names_and_leaves_annotations_alone(session: Session) -> None:
    kept, other = individual(session, "Tip", 2), individual(session, "Top", 3)
    Identity(session, ANNA).rename(other, "Topsy")
    before = rows_of(session)
    outcome = Identity(session, ANNA).merge(kept, other)
    assert outcome.counts == Counts(annotations=3, photos=3, encounters=0, names=2)
    assert catalogue.get_individual(session, other).id == kept
    assert set(names(session, kept)) == {"Tip", "Top", "Topsy"}
    assert names(session, kept)[0] == "Tip"
    assert len(photos_of(session, kept)) == 5
    assert rows_of(session)["annotation"] == before["annotation"]
    assert outcome.change_id is not None
    Identity(session, ANNA).undo(outcome.change_id)
    assert rows_of(session) == before


def test_redirects_stay_one_deep(session: Session) -> None:
    first, second, third = (individual(session, name, 1) for name in ("A", "B", "C"))
    early = Identity(session, ANNA).merge(second, first).change_id
    late = Identity(session, ANNA).merge(third, second).change_id
    assert broken(session) == []
    assert catalogue.get_individual(session, first).id == third
    assert len(photos_of(session, third)) == 3
    assert early is not None
    assert late is not None
    values = refused("change_superseded", lambda: Identity(session, ANNA).undo(early))
    assert values["blocking_id"] == late
    Identity(session, ANNA).undo(late)
    assert catalogue.get_individual(session, first).id == second


def test_merge_that_makes_no_sense_is_refused(session: Session) -> None:
    kept, other, third = (individual(session, name) for name in ("A", "B", "C"))
    refused("merge_with_itself", lambda: Identity(session, ANNA).merge(kept, kept))
    refused("individual_unknown", lambda: Identity(session, ANNA).merge(kept, uuid4()))
    Identity(session, ANNA).merge(kept, other)
    values = refused("individual_merged", lambda: Identity(session, ANNA).merge(third, other))
    assert values["merged_into_id"] == str(kept)
    refused("individual_merged", lambda: Identity(session, ANNA).merge(other, third))


@pytest.mark.parametrize("how", ["of the two", "of a photo", "of what was merged"])
def test_merge_of_a_rejected_pair_asks_first(session: Session, how: str) -> None:
    kept, other = individual(session, "Tip", 1), individual(session, "Top", 1)
    if how == "of the two":
        decision = say(session, "different", other, other=kept)
    elif how == "of a photo":
        decision = say(session, "different", kept, annotation=photos_of(session, other)[0])
    else:
        third = individual(session, "Third", 1)
        decision = say(session, "different", third, annotation=photos_of(session, kept)[0])
        Identity(session, ANNA).merge(other, third)
    merge = Identity(session, ANNA).merge
    values = refused("merge_rejected_pair", lambda: merge(kept, other))
    [told] = values["contradictions"]  # type: ignore[misc]
    assert told["decision_id"] == str(decision)  # type: ignore[index]
    preview = Identity(session, ANNA, preview=True).merge(kept, other)
    assert [one.decision_id for one in preview.contradictions] == [decision]
    assert merge(kept, other, confirm_rejected=True).change_id is not None


def test_verdicts_that_were_undone_or_are_votes_do_not_stand_in_the_way(session: Session) -> None:
    kept, other = individual(session, "Tip", 1), individual(session, "Top", 1)
    say(session, "different", kept, other=other, is_vote=True)
    take_back(session, say(session, "different", kept, other=other))
    assert Identity(session, ANNA).merge(kept, other).contradictions == ()


# ---------------------------------------------------------------- split, reassign, flag


def test_split_takes_photos_to_a_new_individual_and_back(session: Session) -> None:
    met = add_encounter(session)
    photos = [*add_photos(session, 2), add_photo(session, met)]
    who, _ = create(session, "Tip", photos)
    Identity(session, ANNA).edit(who, {"taxon": "killer whale"})
    before = rows_of(session)
    outcome = Identity(session, ANNA).split(who, photos[1:], name="Top")
    assert outcome.individual is not None
    assert (outcome.individual.name, outcome.individual.taxon) == ("Top", "Orcinus orca")
    assert outcome.counts == Counts(annotations=2, photos=2, encounters=1, names=1)
    assert photos_of(session, who) == photos[:1]
    assert outcome.change_id is not None
    Identity(session, ANNA).undo(outcome.change_id)
    assert rows_of(session) == before


def test_split_finds_a_name_by_itself_and_may_go_to_one_that_is_there(session: Session) -> None:
    who, other = individual(session, "Tip", 4), individual(session, "Top", 1)
    create(session, "Tip 2")
    photos = photos_of(session, who)
    made = Identity(session, ANNA).split(who, photos[:1]).individual
    assert made is not None
    assert made.name == "Tip 3"
    Identity(session, ANNA).split(who, photos[1:2], into=other)
    assert len(photos_of(session, other)) == 2


def test_split_that_makes_no_sense_is_refused(session: Session) -> None:
    who, other = individual(session, "Tip", 2), individual(session, "Top", 1)
    own = photos_of(session, who)
    split = Identity(session, ANNA).split
    refused("split_takes_all", lambda: split(who, own))
    refused("no_annotations", lambda: split(who, []))
    refused("annotation_of_other", lambda: split(who, photos_of(session, other)))
    refused("annotation_unknown", lambda: split(who, [-1]))
    refused("split_into_itself", lambda: split(who, own[:1], into=who))
    refused("individual_name_taken", lambda: split(who, own[:1], name="top"))


def test_split_of_what_was_merged_undoes_only_after_it(session: Session) -> None:
    kept, other = individual(session, "Tip", 1), individual(session, "Top", 2)
    start = rows_of(session)
    merged = Identity(session, ANNA).merge(kept, other).change_id
    split = Identity(session, ANNA).split(kept, photos_of(session, other)[1:]).change_id
    assert merged is not None
    assert split is not None
    Identity(session, ANNA).undo(split)
    Identity(session, ANNA).undo(merged)
    assert rows_of(session) == start


def test_reassign_many_at_once_and_back(session: Session) -> None:
    tip, top = individual(session, "Tip", 2), individual(session, "Top", 1)
    loose = add_photos(session, 2)
    before = rows_of(session)
    every = [*photos_of(session, tip), *photos_of(session, top), *loose]
    outcome = Identity(session, ANNA).reassign(every, top)
    assert outcome.counts.annotations == 4
    assert photos_of(session, tip) == []
    assert sorted(photos_of(session, top)) == sorted(every)
    nobody = Identity(session, ANNA).reassign(every, None)
    assert nobody.counts.annotations == 5
    for change in (nobody.change_id, outcome.change_id):
        assert change is not None
        Identity(session, ANNA).undo(change)
    assert rows_of(session) == before


def test_reassign_tells_of_verdicts_that_say_otherwise(session: Session) -> None:
    tip, top = individual(session, "Tip", 2), individual(session, "Top", 1)
    first, second = photos_of(session, tip)
    was = say(session, "same", tip, annotation=first)
    no = say(session, "different", top, annotation=second)
    outcome = Identity(session, ANNA, preview=True).reassign([first, second], top)
    assert {one.decision_id for one in outcome.contradictions} == {was, no}
    assert Identity(session, ANNA).reassign([first, second], tip).contradictions == ()


def test_flags_of_many_annotations(session: Session) -> None:
    photos = add_photos(session, 3)
    before = rows_of(session)
    Identity(session, ANNA).flag(photos[:1], is_reference=True)
    outcome = Identity(session, ANNA).flag(photos, is_reference=True, matchable=False)
    assert outcome.counts.annotations == 3
    again = Identity(session, ANNA).flag(photos, matchable=False)
    assert (again.counts.annotations, again.change_id) == (0, None)
    refused("nothing_to_set", lambda: Identity(session, ANNA).flag(photos))
    for row in changes.list_changes(session).items[:2]:
        Identity(session, ANNA).undo(row.id)
    assert rows_of(session) == before


# ---------------------------------------------------------------- preview, undo


def test_preview_says_what_would_happen_and_changes_nothing(session: Session) -> None:
    kept, other = individual(session, "Tip", 2), individual(session, "Top", 2)
    merged = Identity(session, ANNA).merge(kept, individual(session, "Third", 1)).change_id
    assert merged is not None
    photo = photos_of(session, kept)[0]
    operations: list[Callable[[Identity], Outcome]] = [
        lambda made: made.rename(kept, "Tippy"),
        lambda made: made.add_name(kept, "Tippy"),
        lambda made: made.edit(kept, {"sex": "male"}),
        lambda made: made.merge(kept, other),
        lambda made: made.split(kept, [photo]),
        lambda made: made.reassign([photo], other),
        lambda made: made.flag([photo], matchable=False),
        lambda made: made.undo(merged),
    ]
    for operation in operations:
        before = rows_of(session), len(changes.list_changes(session).items)
        preview = operation(Identity(session, ANNA, preview=True))
        assert (rows_of(session), len(changes.list_changes(session).items)) == before
        savepoint = session.begin_nested()
        done = operation(Identity(session, ANNA))
        savepoint.rollback()
        assert preview.change_id is None
        assert done.change_id is not None
        assert (preview.counts, preview.contradictions) == (done.counts, done.contradictions)
        assert preview.as_json()["preview"] is True


def test_change_of_a_decision_is_undone_with_the_decision(session: Session) -> None:
    decision = uuid4()
    who = individual(session, "Tip", 1)
    journal = Journal(session)
    journal.update("annotation", photos_of(session, who)[0], {"individual_id": None})
    change = journal.close(ANNA, "review.same", {}, decision_id=decision).id
    values = refused("change_of_decision", lambda: Identity(session, ANNA).undo(change))
    assert values["decision_id"] == str(decision)
    redo = changes.undo(session, change, ANNA).id
    refused("change_of_decision", lambda: Identity(session, ANNA).undo(redo))


def test_redo_to_an_individual_that_is_gone_names_what_stands_in_the_way(
    session: Session,
) -> None:
    photo = add_photo(session)
    who, made = create(session, "Tip")
    moved = Identity(session, ANNA).reassign([photo], who).change_id
    assert moved is not None
    assert refused("change_superseded", lambda: Identity(session, ANNA).undo(made)) == {
        "blocking_id": moved
    }
    back = Identity(session, ANNA).undo(moved).change_id
    gone = Identity(session, ANNA).undo(made).change_id
    assert back is not None
    assert refused("change_superseded", lambda: Identity(session, ANNA).undo(back)) == {
        "blocking_id": gone
    }
    assert broken(session) == []


def test_numbers_of_changes_are_in_the_order_of_their_commits(
    sessions: sessionmaker[Session],
) -> None:
    with sessions.begin() as session:
        who = individual(session, "Tip")
    first, second = sessions(), sessions()
    late = Identity(first, ANNA).edit(who, {"notes": "a"}).change_id
    with ThreadPoolExecutor(1) as pool:

        def other() -> int | None:
            made = create(second, "Top")[1]
            second.commit()
            return made

        waiting = pool.submit(other)
        with pytest.raises(TimeoutError):
            waiting.result(0.2)
        first.commit()
        made = waiting.result(10)
    first.close()
    second.close()
    assert late is not None
    assert made is not None
    assert made > late
