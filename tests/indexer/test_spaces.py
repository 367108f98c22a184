"""Which space is searched: bundles are registered once, vectors in use never lost sight of."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session, sessionmaker

from db.errors import Conflict, Invalid
from db.queries import embeddings
from indexer import reindex
from indexer.spaces import (
    SLOT,
    activate,
    register_bundle,
    register_serving,
    registered,
    space_in_use,
)
from models.bundles import Serving
from models.gate import AbsentGate
from tests.reindexing import Catalogue, TinyEmbedder

Sessions = sessionmaker[Session]


@pytest.fixture
def here(sessions: Sessions, tmp_path: Path) -> Catalogue:
    return Catalogue(sessions, tmp_path)


def serving_of(embedder: TinyEmbedder | None) -> Serving:
    gate = AbsentGate("none in this test")
    name = embedder.spec.name if embedder else None
    return Serving(embedder, None, gate, "tiny", name, (), (), 0.05)


def audited(sessions: Sessions) -> list[str]:
    with sessions() as session:
        return list(session.scalars(text("SELECT action FROM audit ORDER BY id")))


def test_a_registered_bundle_has_a_row_and_a_partition_of_its_dimension(here: Catalogue) -> None:
    one, other = TinyEmbedder(1, dim=256), TinyEmbedder(2, dim=2152)
    for embedder in (one, other, one):
        with here.sessions.begin() as session:
            space, _ = registered(session, serving_of(embedder))
        assert (space.name, space.dim, space.modality) == (
            embedder.spec.name,
            embedder.spec.dim,
            "photo",
        )
        assert space.preprocessing == embedder.spec.preprocessing.as_dict()
    with here.sessions() as session:
        assert [space.dim for space in embeddings.list_spaces(session)] == [256, 2152]


def test_more_than_4000_dimensions_are_refused_and_leave_nothing(here: Catalogue) -> None:
    """Promise 24: what could never be indexed is refused when the model is registered."""
    wide = TinyEmbedder(1, dim=8)
    wide.spec = replace(wide.spec, dim=4001)
    with pytest.raises(Invalid, match="4001 dimensions"), here.sessions.begin() as session:
        register_bundle(session, wide.spec, None)
    assert not register_serving(here.sessions, serving_of(wide)).usable
    with here.sessions() as session:
        assert embeddings.list_spaces(session) == []


def test_one_space_is_not_registered_under_a_second_name(here: Catalogue) -> None:
    """Promise 25: a fingerprint has one name, a name and version one fingerprint."""
    embedder = TinyEmbedder(1)
    here.space(embedder)
    renamed = replace(embedder.spec, name="another")
    with pytest.raises(Conflict, match="registered as tiny1"), here.sessions.begin() as session:
        register_bundle(session, renamed, None)
    retrained = replace(embedder.spec, fingerprint="a" * 64)
    with pytest.raises(Conflict), here.sessions.begin() as session:
        register_bundle(session, retrained, None)
    with here.sessions() as session:
        assert [space.name for space in embeddings.list_spaces(session)] == ["tiny1"]


def test_missing_preprocessing_is_refused(here: Catalogue) -> None:
    """Promise 26: vectors without the way they were made could never be made again."""
    with pytest.raises(Invalid), here.sessions.begin() as session:
        embeddings.register_space(
            session,
            name="tiny",
            version="1",
            fingerprint="b" * 64,
            dim=8,
            preprocessing={},
            licence="CC0",
            digest="d" * 64,
        )


def test_the_first_bundle_is_taken_into_use_and_that_is_recorded(here: Catalogue) -> None:
    first = register_serving(here.sessions, serving_of(TinyEmbedder(1)))
    assert first.usable
    assert audited(here.sessions) == ["space.activate"]
    again = register_serving(here.sessions, serving_of(TinyEmbedder(1)))
    assert again == first
    assert audited(here.sessions) == ["space.activate"]


def test_while_there_are_no_vectors_another_bundle_may_take_over(here: Catalogue) -> None:
    register_serving(here.sessions, serving_of(TinyEmbedder(1)))
    second = register_serving(here.sessions, serving_of(TinyEmbedder(2)))
    assert second.usable
    assert here.active() == second.space
    with here.sessions() as session:
        assert space_in_use(session) is None


def test_a_space_with_vectors_is_left_by_no_start_of_a_service(here: Catalogue) -> None:
    """Promise 21: there is one way to another space, and it is checked."""
    space = here.space(TinyEmbedder(1))
    here.fill(2)
    here.use(space)
    other = register_serving(here.sessions, serving_of(TinyEmbedder(2)))
    assert not other.usable
    assert other.problem is not None
    assert other.problem.code == "other_space_active"
    assert "resight reindex start tiny2" in other.problem.detail
    assert here.active() == space
    assert audited(here.sessions) == []


def test_a_run_under_way_keeps_others_from_taking_the_slot(here: Catalogue) -> None:
    register_serving(here.sessions, serving_of(TinyEmbedder(1)))
    target = here.space(TinyEmbedder(2))
    reindex.start(here.sessions, space=target)
    third = register_serving(here.sessions, serving_of(TinyEmbedder(3)))
    assert not third.usable
    assert (here.active() or target).name == "tiny1"


def test_an_activation_on_the_spot_is_a_run_with_report_and_rollback(here: Catalogue) -> None:
    """Promise 21: the same checks and the same entries as a run that workers do."""
    old, new = TinyEmbedder(1), TinyEmbedder(2, dim=48)
    space = here.space(old)
    here.fill(6)
    here.use(space)
    steps: list[tuple[int, int]] = []
    failures = activate(
        here.sessions,
        here.store,
        serving_of(new),
        snapshots_dir=here.root / "snapshots",
        principal="anna",
        progress=lambda done, total: steps.append((done, total)),
    )
    assert failures == ()
    assert steps[-1] == (18, 18)
    active = here.active()
    assert active is not None
    assert active.fingerprint == new.spec.fingerprint
    assert audited(here.sessions) == ["reindex.start", "reindex.activate"]
    here.embedders[new.spec.fingerprint] = new
    here.check(space, active)
    run = reindex.rollback(here.sessions)
    assert run.report is not None
    assert here.active() == space


def test_an_activation_of_what_is_in_use_embeds_what_is_missing(here: Catalogue) -> None:
    embedder = TinyEmbedder(1)
    space = here.space(embedder)
    here.fill(1)
    here.use(space)
    late = here.add("late", b"".join([here.photos[min(here.photos)], b"\0"]))
    failures = activate(
        here.sessions, here.store, serving_of(embedder), snapshots_dir=here.root / "snapshots"
    )
    assert failures == ()
    assert late in here.vectors(space)
    assert audited(here.sessions) == []


def test_a_photo_that_cannot_be_embedded_is_named_by_an_activation(here: Catalogue) -> None:
    """Promise 29: one poison photo fails alone, with its reason."""
    space = here.space(TinyEmbedder(1))
    ids = here.fill(40)
    here.use(space)
    new = TinyEmbedder(2)
    new.poisoned_by(here.photos[ids[5]])
    (failure,) = activate(
        here.sessions, here.store, serving_of(new), snapshots_dir=here.root / "snapshots"
    )
    assert failure.item == str(ids[5])
    active = here.active()
    assert active is not None
    assert active.name == "tiny2"


def test_without_a_bundle_nothing_is_activated(here: Catalogue) -> None:
    with pytest.raises(Invalid, match="No embedding model is loaded"):
        activate(here.sessions, here.store, serving_of(None), snapshots_dir=here.root)
    assert register_serving(here.sessions, serving_of(None)).problem is not None
    assert here.active(SLOT) is None
