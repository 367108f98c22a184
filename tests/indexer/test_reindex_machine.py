"""Annotations come, change and go while a slot moves between spaces: Hypothesis looks for an order
of events in which a space is not right at a switch."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from pathlib import Path

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
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from db.errors import Invalid
from db.queries import embeddings, runs
from db.session import make_engine, make_sessions
from db.types import ReindexState
from indexer import reindex
from indexer.reindex import Limits
from models.embedder import Embedded
from models.preprocess import Rgb
from tests import zoo
from tests.conftest import TestServer
from tests.reindexing import Catalogue, TinyEmbedder

LENIENT = Limits(recall_min=0.0, top1_drop_max=1.0, lost_share_max=1.0)
PHOTOS = 10

Act = Callable[[], object]


class Interrupted(TinyEmbedder):
    """Lets something happen between the moment that a photo was read and the commit."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed, dim=8)
        self.meanwhile: list[Act] = []

    def embed(self, photos: Sequence[Rgb]) -> Embedded:
        embedded = super().embed(photos)
        while self.meanwhile:
            self.meanwhile.pop()()
        return embedded


class Moving(RuleBasedStateMachine):
    """One slot, two spaces, one run; any number of switches and ways back."""

    server: TestServer
    template: str

    def __init__(self) -> None:
        super().__init__()
        self.url = self.server.new_database(self.template)
        self.engine = make_engine(self.url)
        self.folder = tempfile.TemporaryDirectory(prefix="resight-machine-")
        self.place = Catalogue(make_sessions(self.engine), Path(self.folder.name))
        self.regions = 0
        self.old, self.new = Interrupted(1), Interrupted(2)
        self.before, self.after = self.place.space(self.old), self.place.space(self.new)

    @initialize(photos=st.integers(0, 5), ready=st.booleans())
    def begin(self, photos: int, ready: bool) -> None:
        for seed in range(photos):
            self.place.add(f"i{seed % 2}", zoo.photo(seed))
        self.place.use(self.before)
        self.run = reindex.start(self.place.sessions, space=self.after)
        self.runner = self.place.runner(chunk=2, follow=False)
        self.tick = self.place.follower()
        if ready:
            self.runner.run_until_idle()

    # ------------------------------------------------ what happens to annotations

    def act(self, kind: str, number: int) -> None:
        ids = sorted(self.place.photos)
        if kind == "add":
            seed = number % PHOTOS
            self.place.add(f"i{seed % 3}", zoo.photo(100 + seed))
        elif not ids:
            return
        elif kind == "rebox":
            self.regions += 1
            # Another annotation of the photo may have this region.
            with suppress(IntegrityError):
                self.place.rebox(ids[number % len(ids)], (self.regions, 2, 30, 30))
        elif kind == "delete":
            self.place.delete(ids[number % len(ids)])
            del self.place.photos[ids[number % len(ids)]]
        else:
            self.merge(number)

    def merge(self, number: int) -> None:
        with self.place.sessions() as session:
            found = list(
                session.scalars(
                    text("SELECT id FROM individual WHERE merged_into_id IS NULL ORDER BY id")
                )
            )
        if len(found) > 1:
            one, into = found[number % len(found)], found[(number + 1) % len(found)]
            self.place.merge(one, into)

    kinds = st.sampled_from(["add", "rebox", "delete", "merge"])
    numbers = st.integers(0, 30)

    @rule(kind=kinds, number=numbers)
    def happens(self, kind: str, number: int) -> None:
        self.act(kind, number)

    @rule(kind=kinds, number=numbers, candidate=st.booleans())
    def happens_while_it_is_embedded(self, kind: str, number: int, candidate: bool) -> None:
        """To an annotation whose photo was read and whose vector is not committed yet."""
        space, embedder = (self.after, self.new) if candidate else (self.before, self.old)
        with self.place.sessions() as session:
            missing = [one.annotation_id for one in embeddings.missing(session, space.id)]
        at = sorted(self.place.photos).index(missing[0]) if missing else number
        embedder.meanwhile = [lambda: self.act(kind, at)]
        if not self.runner.run_one() or (embedder.meanwhile and not self.runner.run_one()):
            self.tick(lambda: False)
        embedder.meanwhile = []

    # ------------------------------------------------ what the workers do

    @rule()
    def a_worker_works(self) -> None:
        self.runner.run_one()

    @rule()
    def workers_do_all_jobs(self) -> None:
        self.runner.run_until_idle()

    @rule()
    def a_worker_is_idle(self) -> None:
        self.tick(lambda: False)

    # ------------------------------------------------ what the operator does

    def state(self) -> ReindexState:
        with self.place.sessions() as session:
            return runs.get_run(session, self.run.id).state

    @rule(kind=kinds, number=numbers)
    def the_operator_switches_at_once_after(self, kind: str, number: int) -> None:
        self.act(kind, number)
        self.the_operator_switches()

    @rule()
    def the_operator_switches(self) -> None:
        if self.state() != ReindexState.READY:
            return
        # Nobody embeds during these attempts, so that a switch needs a space that is complete.
        missing = self.missing(self.after.id)
        with pytest.raises(Invalid) if missing else nullcontext():
            reindex.activate(self.place.sessions, self.run.id, limits=LENIENT, wait_s=0)
        if not missing:
            self.place.check(self.after)

    @precondition(lambda self: hasattr(self, "run") and self.state() == ReindexState.ACTIVE)
    @rule()
    def the_operator_goes_back(self) -> None:
        self.settle()
        reindex.rollback(self.place.sessions)
        self.place.check(self.before, self.after)

    def missing(self, model_id: int) -> int:
        with self.place.sessions() as session:
            return int(
                session.execute(
                    text(
                        "SELECT count(*) FROM annotation a WHERE NOT EXISTS (SELECT FROM embedding"
                        " e WHERE e.annotation_id = a.id AND e.model_id = :model)"
                    ),
                    {"model": model_id},
                ).scalar_one()
            )

    # ------------------------------------------------ what always holds

    @invariant()
    def no_vector_is_stale(self) -> None:
        """A vector is there only for the present region; incomplete is allowed, wrong is not."""
        if hasattr(self, "run"):
            self.place.check_present(self.before, self.after)

    def settle(self) -> None:
        while self.runner.run_one() or self.tick(lambda: False):
            pass

    def teardown(self) -> None:
        try:
            if hasattr(self, "run"):
                self.settle()
                self.place.check(self.before, self.after)
                reindex.activate(self.place.sessions, self.run.id, limits=LENIENT, wait_s=0)
                assert self.place.active() == self.after
        finally:
            self.engine.dispose()
            self.server.drop_database(self.url)
            self.folder.cleanup()


@pytest.mark.timeout(600)
def test_whatever_happens_to_annotations_both_spaces_are_right_at_the_switch(
    server: TestServer, template: str
) -> None:
    """Promise 20: uploaded, edited, merged or deleted during a re-index, right in both spaces at
    the switch; deletes win."""
    Moving.server, Moving.template = server, template
    run_state_machine_as_test(
        Moving,
        settings=settings(
            max_examples=10,
            stateful_step_count=15,
            deadline=None,
            # A found order of events is short already, and shrinking it would take minutes.
            phases=[Phase.generate],
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
