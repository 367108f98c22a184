"""People create, decide, merge, split, reassign, rename and undo in any order: Hypothesis looks for
an order after which something is left that undoing does not take back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import Engine, text
from sqlalchemy.orm import Session, sessionmaker

from db.errors import Conflict, Invalid, NotFound
from db.queries import changes, embeddings
from db.queries import identity as rows
from db.queries.changes import Actor, Journal
from indexer.identity import Identity, assign
from indexer.spaces import SLOT
from indexer.suggestions import Suggester
from tests.identities import ANNA, BERT, add_photos, broken, create, rows_of, say
from tests.spaces import clustered, make_space

PHOTOS = 6
NAMES = st.sampled_from(["Tip", "Top", "tip", "Tap", "Top 2", "Tim"])
WHICH = st.integers(0, 30)
SOME = st.sets(st.integers(0, PHOTOS - 1), min_size=1)
WHO = st.sampled_from([ANNA, BERT])


class Desk(RuleBasedStateMachine):
    """A catalogue, its photos, and people who change their minds.

    An operation that makes no sense is refused by the code under test, never by the machine.
    """

    engine: Engine

    def __init__(self) -> None:
        super().__init__()
        self.connection = self.engine.connect()
        self.outer = self.connection.begin()
        self.session = Session(
            self.connection, expire_on_commit=False, join_transaction_mode="create_savepoint"
        )
        self.made: list[UUID] = []
        self.done: list[int] = []
        self.no: set[tuple[int, UUID]] = set()

    @initialize()
    def begin(self) -> None:
        self.photos = add_photos(self.session, PHOTOS)
        space = make_space(self.session, 4)
        embeddings.set_slot(self.session, SLOT, space.id)
        vectors = clustered([0, 0, 0, 1, 1, 1], 4)
        embeddings.put_vectors(self.session, space.id, self.photos, vectors)
        self.suggester = Suggester(sessionmaker(self.engine))
        self.start = rows_of(self.session)

    def teardown(self) -> None:
        try:
            self._undo_everything()
        finally:
            self.suggester.close()
            self.session.close()
            self.outer.rollback()
            self.connection.close()

    # ------------------------------------------------------------ what people do

    @rule(name=NAMES, some=SOME, who=WHO)
    def create(self, name: str, some: set[int], who: Actor) -> None:
        def act() -> int:
            made, change = create(self.session, name, self._photos(some), who)
            self.made.append(made)
            return change

        self._try(act)

    @precondition(lambda self: self.made)
    @rule(some=SOME, one=WHICH, who=WHO)
    def decide_same(self, some: set[int], one: int, who: Actor) -> None:
        """As a review does: the change belongs to a decision and is undone with it."""

        def act() -> int | None:
            journal = Journal(self.session)
            assign(self.session, journal, self._photos(some), self._one(one))
            if not journal.images:
                return None
            return journal.close(who, "review.same", {}, decision_id=uuid4()).id

        self._try(act)

    @precondition(lambda self: self.made)
    @rule(photo=st.integers(0, PHOTOS - 1), one=WHICH)
    def decide_different(self, photo: int, one: int) -> None:
        say(self.session, "different", self._one(one), annotation=self.photos[photo])
        self.no.add((self.photos[photo], self._one(one)))

    @precondition(lambda self: len(self.made) > 1)
    @rule(one=WHICH, other=WHICH, sure=st.booleans(), who=WHO)
    def merge(self, one: int, other: int, sure: bool, who: Actor) -> None:
        kept, gone = self._one(one), self._one(other)
        rejected = bool(rows.rejected_pairs(self.session) & {self._pair(kept, gone)})

        def act() -> int | None:
            done = Identity(self.session, who).merge(kept, gone, confirm_rejected=sure)
            assert sure or not rejected
            return done.change_id

        self._try(act)

    @precondition(lambda self: self.made)
    @rule(one=WHICH, some=SOME, name=st.none() | NAMES, who=WHO)
    def split(self, one: int, some: set[int], name: str | None, who: Actor) -> None:
        def act() -> int | None:
            done = Identity(self.session, who).split(self._one(one), self._photos(some), name=name)
            assert done.individual is not None
            self.made.append(UUID(done.individual.id))
            return done.change_id

        self._try(act)

    @precondition(lambda self: self.made)
    @rule(one=st.none() | WHICH, some=SOME, who=WHO)
    def reassign(self, one: int | None, some: set[int], who: Actor) -> None:
        to = None if one is None else self._one(one)
        self._try(lambda: Identity(self.session, who).reassign(self._photos(some), to).change_id)

    @precondition(lambda self: self.made)
    @rule(one=WHICH, name=NAMES, keep=st.booleans(), who=WHO)
    def rename(self, one: int, name: str, keep: bool, who: Actor) -> None:
        self._try(
            lambda: (
                Identity(self.session, who).rename(self._one(one), name, keep_alias=keep).change_id
            )
        )

    @precondition(lambda self: self.made)
    @rule(one=WHICH, name=NAMES)
    def add_name(self, one: int, name: str) -> None:
        self._try(lambda: Identity(self.session, ANNA).add_name(self._one(one), name).change_id)

    @precondition(lambda self: self.made)
    @rule(one=WHICH, which=WHICH)
    def remove_name(self, one: int, which: int) -> None:
        own = rows.names_of(self.session, [self._one(one)]) or [None]
        name_id = getattr(own[which % len(own)], "id", -1)
        self._try(
            lambda: Identity(self.session, ANNA).remove_name(self._one(one), name_id).change_id
        )

    @precondition(lambda self: self.made)
    @rule(one=WHICH, notes=st.none() | st.sampled_from(["scar", "torn fin"]))
    def edit(self, one: int, notes: str | None) -> None:
        self._try(
            lambda: Identity(self.session, ANNA).edit(self._one(one), {"notes": notes}).change_id
        )

    @rule(some=SOME, matchable=st.booleans())
    def flag(self, some: set[int], matchable: bool) -> None:
        self._try(
            lambda: (
                Identity(self.session, BERT).flag(self._photos(some), matchable=matchable).change_id
            )
        )

    @precondition(lambda self: self.done)
    @rule(which=WHICH, who=WHO)
    def undo(self, which: int, who: Actor) -> None:
        """Any change, an undo included; where it cannot be, what stands in the way can."""
        change = self.done[which % len(self.done)]
        blocking: int | None = change
        while blocking is not None:
            try:
                with self.session.begin_nested():
                    self.done.append(changes.undo(self.session, blocking, who).id)
                return
            except Conflict as error:
                if error.code == "change_undone":
                    return
                found = error.values["blocking_id"]
                assert isinstance(found, int), f"nothing is named that stands before {blocking}"
                assert found > blocking
                blocking = found

    # ------------------------------------------------------------ what must always hold

    @invariant()
    def nothing_is_broken(self) -> None:
        assert broken(self.session) == []

    @invariant()
    def a_no_is_not_forgotten(self) -> None:
        """Promise 54, whoever was merged, split and named anew since."""
        rejected = {self._pair(*pair) for pair in map(self._now, self.no) if None not in pair}
        assert {(one, other) for one, other in rejected if one != other} <= rows.rejected_pairs(
            self.session
        )
        suggested = self.suggester.merges(self.session).items
        assert not rejected & {
            self._pair(UUID(item.individual.id), UUID(item.other.id)) for item in suggested
        }

    # ------------------------------------------------------------ helpers

    def _undo_everything(self) -> None:
        """Backwards, nothing stands in the way of anything."""
        for change in sorted(self.done, reverse=True):
            if self._stands(change):
                changes.undo(self.session, change, ANNA)
        assert rows_of(self.session) == self.start

    def _stands(self, change_id: int) -> bool:
        """Whether it is the last of itself, its undo, the undo of that and so on, and is no undo
        in the end."""
        change = changes.get_change(self.session, change_id)
        if change.undone_by is not None:
            return False
        length = 1
        while change.undoes_id is not None:
            change = changes.get_change(self.session, change.undoes_id)
            length += 1
        return length % 2 == 1

    def _try(self, act: Callable[[], int | None]) -> None:
        before = rows_of(self.session)
        try:
            with self.session.begin_nested():
                change = act()
        except (Conflict, Invalid, NotFound):
            assert rows_of(self.session) == before
            return
        if change is None:
            assert rows_of(self.session) == before
        else:
            self.done.append(change)

    def _now(self, said: tuple[int, UUID]) -> tuple[Any, Any]:
        """Whom the photo shows now, and who it was said not to be, merges followed."""
        survivor = "(SELECT coalesce(merged_into_id, id) FROM individual WHERE id = {id})"
        shown = f"(SELECT {survivor.format(id='individual_id')} FROM annotation WHERE id = :photo)"
        row = self.session.execute(
            text(f"SELECT {shown}, {survivor.format(id=':who')}"),
            {"photo": said[0], "who": said[1]},
        ).one()
        return row[0], row[1]

    def _photos(self, some: set[int]) -> list[int]:
        return [self.photos[index] for index in sorted(some)]

    def _one(self, which: int) -> UUID:
        return self.made[which % len(self.made)]

    @staticmethod
    def _pair(one: UUID, other: UUID) -> tuple[UUID, UUID]:
        return (one, other) if one < other else (other, one)


@pytest.mark.parametrize("steps", [8, 30])
def test_undoing_everything_returns_to_the_start(shared_engine: Engine, steps: int) -> None:
    """Promise 52: merge, unmerge, reassign and reject are exactly reversible; random sequences
    return to the start, and a superseded undo names what stands in the way."""
    Desk.engine = shared_engine
    run_state_machine_as_test(
        Desk,
        settings=settings(
            max_examples=25 if steps == 8 else 12,
            stateful_step_count=steps,
            deadline=None,
            report_multiple_bugs=False,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.explicit, Phase.generate, Phase.shrink],
        ),
    )
