"""Moving a slot to another space: the whole run, what is refused, what is never touched."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID

import numpy as np
import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session, sessionmaker

from db.errors import Conflict, Invalid, NotFound
from db.queries import catalogue, embeddings, jobs, records, runs
from db.queries.embeddings import SpaceRow
from db.queries.jobs import ItemFailure
from db.queries.runs import RunRow
from db.types import GateState, JobKind, JobState, QueryKind, ReindexState, Verdict
from indexer import reindex, switch
from indexer.catalogue import register_bundle
from indexer.reindex import Limits
from models.bundles import load_embedder
from models.manifest import Manifest
from models.recipes import STARTER
from tests import zoo
from tests.reindexing import Catalogue, TinyEmbedder

Sessions = sessionmaker[Session]

LENIENT = Limits(lost_share_max=1.0)


@pytest.fixture
def place(sessions: Sessions, tmp_path: Path) -> Catalogue:
    return Catalogue(sessions, tmp_path)


@pytest.fixture
def two(place: Catalogue) -> tuple[SpaceRow, SpaceRow]:
    """The space in use, complete, and one to move to."""
    place.fill(4)
    before, after = place.space(TinyEmbedder(1)), place.space(TinyEmbedder(2, dim=48))
    place.use(before)
    return before, after


def ready(place: Catalogue, space: SpaceRow, **options: str) -> RunRow:
    run = reindex.start(place.sessions, space=space, **options)
    place.runner(follow=False).run_until_idle()
    run = look(place, run.id)
    assert run.state == ReindexState.READY
    return run


def look(place: Catalogue, run_id: UUID) -> RunRow:
    with place.sessions() as session:
        return runs.get_run(session, run_id)


def audit(place: Catalogue) -> list[records.AuditRow]:
    """Oldest first."""
    with place.sessions() as session:
        assert records.verify_audit(session) == []
        return list(records.list_audit(session).items[::-1])


@contextmanager
def worker(place: Catalogue) -> Iterator[None]:
    """A worker in the background that keeps spaces complete."""
    stop = threading.Event()
    runner = place.runner("background")
    thread = threading.Thread(target=runner.run, args=(stop,))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        runner.wake()
        thread.join(30)


# ---------------------------------------------------------------- the whole run


def test_a_run_goes_from_start_to_the_switch_and_back(place: Catalogue) -> None:
    ids = place.fill(6)
    old, new = TinyEmbedder(1), TinyEmbedder(2, dim=48)
    before, after = place.space(old), place.space(new)
    place.use(before)
    run = reindex.start(place.sessions, space=after, principal="kim")
    assert run.state == ReindexState.REQUESTED
    assert (run.from_model_id, run.to_model_id) == (before.id, after.id)
    place.runner().run_until_idle()
    run = look(place, run.id)
    assert run.state == ReindexState.READY
    assert run.snapshot_id is not None
    assert run.report is not None
    assert run.report["recall"] == 1.0
    assert run.report["new"]["top1"] == run.report["old"]["top1"] == 1.0
    assert run.report["throughput"]["items"] == len(ids)
    assert place.active() == before
    place.check(before, after)
    assert new.embedded == len(ids)

    active = reindex.activate(place.sessions, run.id, principal="kim")
    assert (active.state, active.activated_by, active.forced) == ("active", "kim", False)
    assert place.active() == after
    assert reindex.activate(place.sessions, run.id) == active  # once more changes nothing

    back = reindex.rollback(place.sessions, principal="lee")
    assert back.state == ReindexState.READY
    assert place.active() == before
    assert reindex.activate(place.sessions, run.id).state == ReindexState.ACTIVE
    assert [(row.principal, row.action) for row in audit(place)] == [
        ("kim", "reindex.start"),
        ("kim", "reindex.activate"),
        ("lee", "reindex.rollback"),
        ("local", "reindex.activate"),
    ]


def test_the_job_tells_each_stage_and_ends_when_the_run_is_ready(
    place: Catalogue, two: tuple[SpaceRow, SpaceRow]
) -> None:
    run = reindex.start(place.sessions, space=two[1])
    runner = place.runner(chunk=5, follow=False)
    states = []
    while runner.run_one():
        with place.sessions() as session:
            job = jobs.get_job(session, run.id)
        states.append((str(look(place, run.id).state), job.done, job.total))
    assert list(dict.fromkeys(state for state, _, _ in states)) == [
        "embedding",
        "building",
        "verifying",
        "ready",
    ]
    done = [done for _, done, _ in states]
    assert done == sorted(done)
    assert done[-1] == 12
    assert {total for _, _, total in states} == {12}
    assert (job.state, job.failed) == (JobState.DONE, 0)


def test_the_starter_bundle_is_left_and_returned_to(place: Catalogue, tmp_path: Path) -> None:
    """With the embedder that ships: real photos through the one preprocessing path."""
    place.fill(3)
    fingerprint = Manifest.load(STARTER).fingerprint
    starter = load_embedder(tmp_path / "models", fingerprint, device="cpu")
    place.embedders[fingerprint] = starter  # type: ignore[assignment]
    with place.sessions.begin() as session:
        before, _ = register_bundle(session, starter.spec, None)
    after = place.space(TinyEmbedder(2))
    place.use(before)
    run = ready(place, after)
    reindex.activate(place.sessions, run.id)
    place.check(after)
    reindex.rollback(place.sessions)
    assert place.active() == before
    found = place.vectors(before)
    assert sorted(found) == sorted(place.photos)
    assert next(iter(found.values())).shape == (512,)


def test_an_empty_catalogue_can_change_its_model(place: Catalogue) -> None:
    run = ready(place, place.space(TinyEmbedder(1)))
    assert run.from_space is None
    reindex.activate(place.sessions, run.id)
    assert place.active() is not None
    with pytest.raises(Conflict) as refused:
        reindex.rollback(place.sessions)
    assert refused.value.code == "nothing_to_roll_back"


def test_nothing_is_embedded_twice_by_a_second_run(
    place: Catalogue, two: tuple[SpaceRow, SpaceRow]
) -> None:
    """Promise 30: a second "process missing" run does nothing."""
    first = ready(place, two[1])
    new = place.embedders[two[1].fingerprint]
    embedded = new.embedded
    reindex.abandon(place.sessions, first.id)
    second = ready(place, two[1])
    assert second.id != first.id
    assert new.embedded == embedded == 12


# ---------------------------------------------------------------- human decisions

_HUMAN = (
    "individual",
    "individual_name",
    "annotation",
    "encounter",
    "media_asset",
    "query",
    "query_photo",
    "match",
    "review",
    "catalogue",
    "taxon",
    "api_key",
)


def checksums(place: Catalogue) -> dict[str, str]:
    with place.sessions() as session:
        return {
            table: session.execute(
                text(
                    "SELECT md5(coalesce(string_agg(t::text, '|' ORDER BY t::text), ''))"
                    f" FROM {table} t"
                )
            ).scalar_one()
            for table in _HUMAN
        }


def test_no_run_switch_or_rollback_touches_what_people_decided(
    place: Catalogue, two: tuple[SpaceRow, SpaceRow]
) -> None:
    """Promise 53: re-index changes no human decision, by checksums of the tables."""
    with place.sessions.begin() as session:
        home = catalogue.default_catalogue(session).id
        one, other = (
            catalogue.ensure_individual(session, catalogue_id=home, name=name).id
            for name in ("i0", "i1")
        )
        photo = catalogue.get_annotation(session, min(place.photos)).media_id
        query = records.add_query(
            session,
            kind=QueryKind.IDENTIFY,
            model_id=two[0].id,
            principal="kim",
            k=5,
            gate_state=GateState.ACCEPTED,
            answer={"matches": []},
            photos=[records.QueryPhotoRow(photo, "a.jpg")],
            matches=[records.MatchRow(1, one, min(place.photos), 0.9, 1)],
        )
        records.add_review(
            session, query_id=query, individual_id=one, verdict=Verdict.SAME, reviewer="kim"
        )
        records.add_audit(session, "kim", "individual.merge", f"individual:{other}")
    place.merge(other, one)
    before, trail = checksums(place), audit(place)

    run = ready(place, two[1])
    reindex.activate(place.sessions, run.id, limits=LENIENT)
    reindex.rollback(place.sessions)
    reindex.abandon(place.sessions, run.id)
    reindex.retire_model(place.sessions, two[1].name)

    assert checksums(place) == before
    after = audit(place)
    assert after[: len(trail)] == trail
    assert [row.action for row in after[len(trail) :]] == [
        "reindex.start",
        "reindex.activate",
        "reindex.rollback",
        "reindex.abandon",
        "space.retire",
    ]


# ---------------------------------------------------------------- one slot, one run


def test_of_two_starts_for_one_slot_one_wins(
    place: Catalogue, two: tuple[SpaceRow, SpaceRow]
) -> None:
    """Promise 17: the other gets a conflict with the run's id."""
    third = place.space(TinyEmbedder(3))
    started: list[RunRow] = []
    refused: list[Conflict] = []

    def start(space: SpaceRow) -> None:
        try:
            started.append(reindex.start(place.sessions, space=space))
        except Conflict as error:
            refused.append(error)

    threads = [threading.Thread(target=start, args=(s,)) for s in (two[1], third) * 3]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert (len(started), len(refused)) == (1, 5)
    for error in refused:
        assert error.code == "reindex_running"
        assert error.values["run_id"] == error.values["job_id"] == str(started[0].id)
    assert [row.action for row in audit(place)] == ["reindex.start"]


def test_a_run_that_is_ready_keeps_its_slot_until_it_is_decided(
    place: Catalogue, two: tuple[SpaceRow, SpaceRow]
) -> None:
    run = ready(place, two[1])
    third = place.space(TinyEmbedder(3))
    with pytest.raises(Conflict, match="activate it with") as refused:
        reindex.start(place.sessions, space=third)
    assert refused.value.values["run_id"] == str(run.id)
    assert reindex.abandon(place.sessions, run.id).state == ReindexState.CANCELLED
    assert reindex.start(place.sessions, space=third).state == ReindexState.REQUESTED


def test_runs_of_different_slots_overlap(place: Catalogue, two: tuple[SpaceRow, SpaceRow]) -> None:
    """Promise 18: both finish, and both slots move."""
    other = place.space(TinyEmbedder(3, dim=40))
    photo = reindex.start(place.sessions, space=two[1])
    words = reindex.start(place.sessions, space=other, slot="search.text")
    place.runner(chunk=3, follow=False).run_until_idle()
    for run in (photo, words):
        assert look(place, run.id).state == ReindexState.READY
        reindex.activate(place.sessions, run.id)
    place.check(two[0], two[1], other)
    assert (place.active(), place.active("search.text")) == (two[1], other)


def test_the_space_in_use_and_another_modality_are_no_candidates(
    place: Catalogue, two: tuple[SpaceRow, SpaceRow]
) -> None:
    with pytest.raises(Invalid) as same:
        reindex.start(place.sessions, space=two[0])
    assert same.value.code == "reindex_same_space"
    with pytest.raises(Invalid) as wrong:
        reindex.start(place.sessions, space=two[1], slot="identify.sound")
    assert wrong.value.code == "modality_wrong"
    with place.sessions() as session:
        assert jobs.list_jobs(session).items == ()


# ---------------------------------------------------------------- dimensions


def test_a_change_of_dimension_needs_nothing_special(place: Catalogue) -> None:
    """Promise 24: 256 to 2,152 dimensions; both spaces answer during the run."""
    place.fill(3)
    narrow, wide = place.space(TinyEmbedder(1, dim=256)), place.space(TinyEmbedder(2, dim=2152))
    place.use(narrow)
    run = ready(place, wide)
    reindex.activate(place.sessions, run.id)
    place.check(narrow, wide)
    assert place.active() == wide
    reindex.rollback(place.sessions)
    assert place.active() == narrow


def test_more_dimensions_than_can_be_indexed_are_refused(place: Catalogue) -> None:
    """Promise 24: at registration, before anything is embedded."""
    place.space(TinyEmbedder(1, dim=4000))
    with pytest.raises(Invalid, match="4001 dimensions"):
        place.space(TinyEmbedder(2, dim=4001))


# ---------------------------------------------------------------- failures


def test_one_poison_photo_fails_alone(place: Catalogue, two: tuple[SpaceRow, SpaceRow]) -> None:
    """Promise 29: the run is ready with one failure, and "retry failed" touches only it."""
    new = place.embedders[two[1].fingerprint]
    bad = place.add("poison", zoo.photo(99))
    new.poisoned_by(zoo.photo(99))
    place.use(two[0])
    run = ready(place, two[1])
    assert run.report is not None
    assert run.report["failures"]["by_code"] == {"not_embedded": 1}
    assert run.report["counts"]["lost"] == 1
    with place.sessions() as session:
        job = jobs.get_job(session, run.id)
        [failure] = jobs.failures(session, run.id).items
    assert (job.state, job.failed, job.done) == (JobState.DONE, 1, 12)
    assert failure.item == str(bad)
    assert sorted(place.vectors(two[1])) == sorted(set(place.photos) - {bad})

    new.poison.clear()
    embedded = new.embedded
    with place.sessions.begin() as session:
        jobs.retry_failed(session, run.id, "kim")
    place.runner(follow=False).run_until_idle()
    assert new.embedded == embedded + 1
    place.check(two[1])
    with place.sessions() as session:
        assert jobs.get_job(session, run.id).failed == 0
    assert look(place, run.id).state == ReindexState.READY


def test_a_failed_photo_with_a_new_region_is_missing_again(
    place: Catalogue, two: tuple[SpaceRow, SpaceRow]
) -> None:
    new = place.embedders[two[1].fingerprint]
    bad = place.add("poison", zoo.photo(99))
    new.poisoned_by(zoo.photo(99))
    place.use(two[0])
    run = ready(place, two[1])
    place.rebox(bad, (4, 4, 30, 30))
    with pytest.raises(Invalid) as refused:
        reindex.activate(place.sessions, run.id, limits=LENIENT, wait_s=0)
    assert refused.value.code == "reindex_incomplete"
    place.runner().run_until_idle()
    place.check(*two)
    reindex.activate(place.sessions, run.id, limits=LENIENT)


def test_a_worker_without_the_bundle_leaves_the_run_to_another(
    place: Catalogue, two: tuple[SpaceRow, SpaceRow]
) -> None:
    new = place.embedders.pop(two[1].fingerprint)
    run = reindex.start(place.sessions, space=two[1])
    place.runner("poor").run_until_idle()
    with place.sessions() as session:
        job = jobs.get_job(session, run.id)
    assert (job.state, job.error_code) == (JobState.RUNNING, "not_installed")
    place.embedders[two[1].fingerprint] = new
    place.runner("rich").run_until_idle()
    assert look(place, run.id).state == ReindexState.READY


def test_a_cancelled_run_goes_on_where_it_stopped(
    place: Catalogue, two: tuple[SpaceRow, SpaceRow]
) -> None:
    """Promise 31: cancel leaves a state that can be resumed; nothing is embedded twice."""
    run = reindex.start(place.sessions, space=two[1])
    runner = place.runner(chunk=5, follow=False)
    runner.run_one()  # planning
    runner.run_one()
    assert reindex.abandon(place.sessions, run.id).state == ReindexState.CANCELLED
    assert not runner.run_one()
    assert len(place.vectors(two[1])) == 5
    with place.sessions.begin() as session:
        jobs.resume(session, run.id, "kim", admin=True)
    runner.run_until_idle()
    assert look(place, run.id).state == ReindexState.READY
    place.check(*two)
    assert place.embedders[two[1].fingerprint].embedded == 12


def test_a_cancelled_run_whose_slot_is_taken_is_not_resumed(
    place: Catalogue, two: tuple[SpaceRow, SpaceRow]
) -> None:
    run = reindex.start(place.sessions, space=two[1])
    reindex.abandon(place.sessions, run.id)
    ready(place, place.space(TinyEmbedder(3)))
    with pytest.raises(Conflict) as refused, place.sessions.begin() as session:
        jobs.resume(session, run.id, "kim", admin=True)
    assert refused.value.code == "reindex_running"
    assert look(place, run.id).state == ReindexState.CANCELLED


# ---------------------------------------------------------------- annotations that change


def test_annotations_of_the_time_of_the_run_are_right_in_both_spaces(
    place: Catalogue, two: tuple[SpaceRow, SpaceRow]
) -> None:
    """Promise 20: added, re-boxed, deleted while a chunk was being embedded."""
    ids = sorted(place.photos)
    new = place.embedders[two[1].fingerprint]
    acts: list[Callable[[], object]] = [
        lambda: place.rebox(ids[0], (2, 2, 40, 40)),
        lambda: place.delete(ids[1]),
        lambda: place.add("later", zoo.photo(77)),
        lambda: place.rebox(ids[2], (2, 2, 40, 40)),
    ]
    embed = new.embed

    def meanwhile(photos):  # type: ignore[no-untyped-def]
        if acts:
            acts.pop(0)()
        return embed(photos)

    new.embed = meanwhile  # type: ignore[method-assign]
    run = reindex.start(place.sessions, space=two[1])
    place.runner(follow=False).run_until_idle()
    assert acts == []
    assert look(place, run.id).state == ReindexState.READY
    place.check(two[1])
    place.runner().run_until_idle()
    place.check(*two)
    reindex.activate(place.sessions, run.id, limits=LENIENT)


def test_a_run_ends_although_annotations_keep_coming(
    place: Catalogue, two: tuple[SpaceRow, SpaceRow]
) -> None:
    new = place.embedders[two[1].fingerprint]
    embed = new.embed
    seeds = iter(range(200, 220))

    def meanwhile(photos):  # type: ignore[no-untyped-def]
        place.add("later", zoo.photo(next(seeds)))
        return embed(photos)

    new.embed = meanwhile  # type: ignore[method-assign]
    run = ready(place, two[1])
    new.embed = embed  # type: ignore[method-assign]
    with pytest.raises(Invalid) as refused:
        reindex.activate(place.sessions, run.id, wait_s=0)
    assert refused.value.code == "reindex_incomplete"
    place.runner().run_until_idle()
    place.check(*two)


def test_ready_and_former_spaces_are_kept_complete(
    place: Catalogue, two: tuple[SpaceRow, SpaceRow]
) -> None:
    run = ready(place, two[1])
    place.add("new", zoo.photo(50))
    place.rebox(min(place.photos), (1, 1, 30, 30))
    place.runner().run_until_idle()
    place.check(*two)
    reindex.activate(place.sessions, run.id, limits=LENIENT)
    place.add("newer", zoo.photo(51))
    place.delete(min(place.photos))
    place.runner().run_until_idle()
    place.check(*two)
    reindex.rollback(place.sessions)
    reindex.abandon(place.sessions, run.id)
    late = place.add("newest", zoo.photo(52))
    place.runner().run_until_idle()
    place.check(two[0])
    assert late not in place.vectors(two[1])  # nobody needs that space any more


def test_workers_share_what_is_missing(place: Catalogue, two: tuple[SpaceRow, SpaceRow]) -> None:
    new = place.embedders[two[1].fingerprint]
    run = ready(place, two[1])
    embedded = new.embedded
    for seed in range(300, 310):
        place.add("more", zoo.photo(seed))
    barrier = threading.Barrier(4)

    def follow() -> None:
        tick = place.follower()
        barrier.wait(10)
        while tick(lambda: False):
            pass

    threads = [threading.Thread(target=follow) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    place.check(*two)
    assert new.embedded == embedded + 10
    assert look(place, run.id).state == ReindexState.READY


def test_a_photo_that_fails_later_is_noted_once_and_does_not_hold_the_switch_up(
    place: Catalogue, two: tuple[SpaceRow, SpaceRow]
) -> None:
    run = ready(place, two[1])
    new = place.embedders[two[1].fingerprint]
    new.poisoned_by(zoo.photo(60))
    bad = place.add("poison", zoo.photo(60))
    for _ in range(2):
        place.runner().run_until_idle()
    with place.sessions() as session:
        [failure] = jobs.failures(session, run.id).items
    assert (failure.item, failure.attempts) == (str(bad), 1)
    reindex.activate(place.sessions, run.id, limits=LENIENT)


def test_a_photo_that_fails_where_no_run_takes_note_is_tried_once_by_a_worker(
    place: Catalogue, two: tuple[SpaceRow, SpaceRow]
) -> None:
    old = place.embedders[two[0].fingerprint]
    old.poisoned_by(zoo.photo(60))
    place.add("poison", zoo.photo(60))
    tick = place.follower()
    assert tick(lambda: False)
    assert not tick(lambda: False)
    place.add("good", zoo.photo(61))
    assert tick(lambda: False)
    assert not tick(lambda: False)
    assert len(place.vectors(two[0])) == 13


def test_a_space_that_a_job_embeds_is_left_to_the_job(
    place: Catalogue, two: tuple[SpaceRow, SpaceRow]
) -> None:
    ready(place, two[1])
    with place.sessions.begin() as session:
        jobs.create_job(
            session,
            kind=JobKind.EMBED_MISSING,
            params={"model_id": two[0].id},
            principal="kim",
        )
    late = place.add("new", zoo.photo(50))
    tick = place.follower()
    while tick(lambda: False):
        pass
    assert late in place.vectors(two[1])
    assert late not in place.vectors(two[0])


# ---------------------------------------------------------------- the switch


def test_the_switch_is_refused_while_a_candidate_lacks_a_vector(
    place: Catalogue, two: tuple[SpaceRow, SpaceRow]
) -> None:
    """Promise 21."""
    run = ready(place, two[1])
    place.add("new", zoo.photo(50))
    with pytest.raises(Invalid, match="1 annotations have no vector") as refused:
        reindex.activate(place.sessions, run.id, wait_s=0.3)
    assert refused.value.code == "reindex_incomplete"
    assert place.active() == two[0]
    assert [row.action for row in audit(place)] == ["reindex.start"]


def test_the_switch_waits_for_the_last_vectors(
    place: Catalogue, two: tuple[SpaceRow, SpaceRow]
) -> None:
    run = ready(place, two[1])
    place.add("new", zoo.photo(50))
    with worker(place):
        assert reindex.activate(place.sessions, run.id).state == ReindexState.ACTIVE
        place.check(two[1])


def test_the_switch_can_embed_the_last_vectors_itself(
    place: Catalogue, two: tuple[SpaceRow, SpaceRow]
) -> None:
    run = ready(place, two[1])
    place.add("new", zoo.photo(50))
    follow = place.follower()
    asked: list[UUID] = []

    def embed(wanted: RunRow) -> None:
        asked.append(wanted.id)
        follow(lambda: False)

    reindex.activate(place.sessions, run.id, wait_embed=embed)
    assert asked == [run.id]
    place.check(*two)


def test_who_waits_for_a_vector_is_not_counted_as_lost(
    place: Catalogue, two: tuple[SpaceRow, SpaceRow]
) -> None:
    """Promise 20: only a photo that fails is lost; what came a moment ago is waited for."""
    run = ready(place, two[1])
    late = place.add("late", zoo.photo(200))
    with place.sessions.begin() as session:
        embeddings.put_vectors(session, two[0].id, [late], np.eye(1, two[0].dim, dtype=np.float32))
        waiting = runs.count_run(session, run)
        item = embeddings.failure_item(late, 0)
        runs.note_failures(session, run.id, [ItemFailure(item, "not_embedded", "no direction")])
        failed = runs.count_run(session, run)
    assert (waiting.before - waiting.embedded, waiting.lost, waiting.failed) == (1, 0, 0)
    assert (failed.lost, failed.failed) == (1, 1)


def test_an_annotation_that_commits_during_the_switch_is_waited_for(
    place: Catalogue, two: tuple[SpaceRow, SpaceRow]
) -> None:
    """Promise 20: of a writer and a switch that meet, the switch comes second, and whole."""
    run = ready(place, two[1])
    switched = threading.Event()

    def activate() -> None:
        reindex.activate(place.sessions, run.id, limits=LENIENT)
        switched.set()

    late = place.add("late", zoo.photo(70))
    place.delete(late)
    thread = threading.Thread(target=activate)
    with place.sessions() as writer:
        writer.execute(
            text(
                "INSERT INTO annotation (catalogue_id, media_id) SELECT :home, max(id)"
                " FROM media_asset"
            ),
            {"home": catalogue.default_catalogue(writer).id},
        )
        [made] = writer.scalars(text("SELECT max(id) FROM annotation"))
        place.photos[made] = zoo.photo(70)
        thread.start()
        assert not switched.wait(0.5)
        with worker(place):
            writer.commit()
            thread.join(30)
    assert switched.is_set()
    assert made in place.vectors(two[1])


def test_a_long_writer_makes_the_switch_give_up_and_nothing_changes(
    place: Catalogue, two: tuple[SpaceRow, SpaceRow], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(switch, "_LOCK_WAIT_S", 0.1)
    run = ready(place, two[1])
    with place.sessions() as writer:
        writer.execute(text("UPDATE annotation SET viewpoint = 'left'"))
        with pytest.raises(Conflict) as refused:
            reindex.activate(place.sessions, run.id)
    assert refused.value.code == "catalogue_busy"
    assert place.active() == two[0]
    assert reindex.activate(place.sessions, run.id).state == ReindexState.ACTIVE


def spoil(place: Catalogue, run: RunRow, path: str, value: object) -> None:
    with place.sessions.begin() as session:
        session.execute(
            text(
                "UPDATE reindex_run SET report = jsonb_set(report, cast(:path AS text[]),"
                " to_jsonb(cast(:value AS float8))) WHERE id = :id"
            ),
            {"id": run.id, "path": path, "value": value},
        )


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("{recall}", 0.9, "recall of the snapshot is 0.9000"),
        ("{difference,top1}", -0.05, "top-1 falls by 0.050"),
        ("{counts,lost}", 3, "3 of 12 annotations would lose their vector"),
    ],
)
def test_the_switch_is_refused_below_the_limits_and_a_forced_one_is_in_the_audit_trail(
    place: Catalogue,
    two: tuple[SpaceRow, SpaceRow],
    path: str,
    value: float,
    words: str,
) -> None:
    """Promise 21."""
    run = ready(place, two[1])
    spoil(place, run, path, value)
    with pytest.raises(Invalid, match=words) as refused:
        reindex.activate(place.sessions, run.id)
    assert refused.value.code == "reindex_below_limits"
    assert place.active() == two[0]
    forced = reindex.activate(place.sessions, run.id, force=True, principal="kim")
    assert forced.forced
    assert place.active() == two[1]
    entry = audit(place)[-1]
    assert (entry.principal, entry.action) == ("kim", "reindex.activate")
    assert entry.detail["forced"] is True
    assert [problem["code"] for problem in entry.detail["problems"]] == ["reindex_below_limits"]


def test_a_worse_space_is_refused_by_its_own_report(place: Catalogue) -> None:
    """Promise 21: the canary is measured, not given."""

    class Blind(TinyEmbedder):
        """Sees one pixel of the background, which many photos share."""

        def embed(self, photos):  # type: ignore[no-untyped-def]
            return super().embed([photo * 0 + photo[-1:, :1] // 64 * 64 for photo in photos])

    place.fill(6)
    before, after = place.space(TinyEmbedder(1)), place.space(Blind(2))
    place.use(before)
    run = ready(place, after)
    assert run.report is not None
    assert run.report["difference"]["top1"] < -0.02
    assert run.report["changed_count"] > 0
    with pytest.raises(Invalid, match="top-1 falls by"):
        reindex.activate(place.sessions, run.id)


def test_a_run_against_a_slot_that_moved_meanwhile_is_outdated(
    place: Catalogue, two: tuple[SpaceRow, SpaceRow]
) -> None:
    run = ready(place, two[1])
    third = place.space(TinyEmbedder(3))
    place.use(third)
    with pytest.raises(Invalid) as refused:
        reindex.activate(place.sessions, run.id)
    assert refused.value.code == "reindex_outdated"
    reindex.activate(place.sessions, run.id, force=True)
    assert reindex.rollback(place.sessions).from_model_id == third.id
    assert place.active() == third


def test_only_a_ready_run_is_activated(place: Catalogue, two: tuple[SpaceRow, SpaceRow]) -> None:
    run = reindex.start(place.sessions, space=two[1])
    for force in (False, True):
        with pytest.raises(Conflict, match="wait until it is ready"):
            reindex.activate(place.sessions, run.id, force=force)
    reindex.abandon(place.sessions, run.id)
    with pytest.raises(Conflict, match="start a new one"):
        reindex.activate(place.sessions, run.id)
    with pytest.raises(NotFound):
        reindex.activate(place.sessions, UUID(int=0))


def test_the_flip_is_atomic(place: Catalogue, two: tuple[SpaceRow, SpaceRow]) -> None:
    """Promise 19: four readers during 200 flips see one space or the other, never a mixture."""
    run = ready(place, two[1])
    done = threading.Event()
    mixed: list[object] = []
    reads = [0] * 4

    def read(number: int) -> None:
        while not done.is_set():
            with place.sessions() as session:
                seen = session.execute(
                    text(
                        "SELECT s.model_id, m.dim, r.state, (SELECT array_agg(DISTINCT"
                        " vector_dims(e.v)) FROM embedding e WHERE e.model_id = s.model_id)"
                        " FROM model_slot s JOIN embedding_model m ON m.id = s.model_id,"
                        " reindex_run r WHERE r.id = :run"
                    ),
                    {"run": run.id},
                ).one()
            reads[number] += 1
            state = "active" if seen[0] == two[1].id else "ready"
            if seen[2] != state or seen[3] != [seen[1]]:
                mixed.append(seen)

    readers = [threading.Thread(target=read, args=(number,)) for number in range(4)]
    for reader in readers:
        reader.start()
    try:
        for flip in range(200):
            if flip % 2:
                reindex.rollback(place.sessions)
            else:
                reindex.activate(place.sessions, run.id)
    finally:
        done.set()
        for reader in readers:
            reader.join(30)
    assert mixed == []
    assert min(reads) > 50
    with place.sessions() as session:
        count = session.scalar(text("SELECT count(*) FROM audit"))
    assert count == 201


# ---------------------------------------------------------------- the way back


def test_the_way_back_takes_less_than_a_second(
    place: Catalogue, two: tuple[SpaceRow, SpaceRow]
) -> None:
    """Promise 22: while the former vectors are kept, and the run says that they are."""
    run = ready(place, two[1])
    active = reindex.activate(place.sessions, run.id)
    assert active.from_space is not None
    assert active.from_space.kept
    began = time.monotonic()
    reindex.rollback(place.sessions)
    assert time.monotonic() - began < 1.0
    assert place.active() == two[0]
    with pytest.raises(Conflict) as refused:
        reindex.rollback(place.sessions)
    assert refused.value.code == "nothing_to_roll_back"


def test_the_way_back_does_not_wait_for_writers(
    place: Catalogue, two: tuple[SpaceRow, SpaceRow]
) -> None:
    run = ready(place, two[1])
    reindex.activate(place.sessions, run.id)
    with place.sessions() as writer:
        writer.execute(text("UPDATE annotation SET viewpoint = 'left'"))
        began = time.monotonic()
        reindex.rollback(place.sessions)
        assert time.monotonic() - began < 1.0


def test_the_way_back_is_open_while_another_run_is_under_way(
    place: Catalogue, two: tuple[SpaceRow, SpaceRow]
) -> None:
    run = ready(place, two[1])
    reindex.activate(place.sessions, run.id)
    next_ = reindex.start(place.sessions, space=place.space(TinyEmbedder(3)))
    assert reindex.rollback(place.sessions).state == ReindexState.RETIRED
    assert place.active() == two[0]
    assert look(place, next_.id).state == ReindexState.REQUESTED


def test_a_second_switch_retires_the_first_run(
    place: Catalogue, two: tuple[SpaceRow, SpaceRow]
) -> None:
    first = ready(place, two[1])
    reindex.activate(place.sessions, first.id)
    third = place.space(TinyEmbedder(3))
    second = ready(place, third)
    reindex.activate(place.sessions, second.id)
    assert look(place, first.id).state == ReindexState.RETIRED
    assert look(place, second.id).state == ReindexState.ACTIVE
    reindex.rollback(place.sessions)
    assert place.active() == two[1]


def test_an_active_run_is_not_abandoned_but_rolled_back(
    place: Catalogue, two: tuple[SpaceRow, SpaceRow]
) -> None:
    run = ready(place, two[1])
    reindex.activate(place.sessions, run.id)
    with pytest.raises(Conflict, match="resight reindex rollback"):
        reindex.abandon(place.sessions, run.id)


# ---------------------------------------------------------------- dropping a space


def test_a_space_that_is_needed_is_not_retired(
    place: Catalogue, two: tuple[SpaceRow, SpaceRow]
) -> None:
    def refused(model: str) -> str:
        with pytest.raises(Conflict) as error:
            reindex.retire_model(place.sessions, model)
        return error.value.code

    assert refused(two[0].name) == "space_in_use"
    run = ready(place, two[1])
    assert refused(two[1].name) == "space_in_run"
    reindex.activate(place.sessions, run.id)
    assert refused(two[1].fingerprint) == "space_in_use"
    assert refused(two[0].fingerprint[:8]) == "space_kept_for_rollback"
    with pytest.raises(NotFound):
        reindex.retire_model(place.sessions, "nobody")

    gone = reindex.retire_model(place.sessions, two[0].name, force=True, principal="kim")
    assert (gone.name, gone.vectors) == (two[0].name, 12)
    assert audit(place)[-1].action == "space.retire"
    with pytest.raises(Conflict) as no_way_back:
        reindex.rollback(place.sessions)
    assert no_way_back.value.code == "rollback_gone"
    former = look(place, run.id).from_space
    assert former is not None
    assert (former.name, former.kept) == (two[0].name, False)


def test_a_retired_model_can_come_back(place: Catalogue, two: tuple[SpaceRow, SpaceRow]) -> None:
    run = ready(place, two[1])
    reindex.abandon(place.sessions, run.id)
    reindex.retire_model(place.sessions, f"{two[1].name}@{two[1].version}")
    again = place.space(place.embedders[two[1].fingerprint])
    assert again.id == two[1].id
    ready(place, again)
    place.check(*two)


def test_a_name_with_two_versions_is_ambiguous(place: Catalogue) -> None:
    place.space(TinyEmbedder(1, dim=16))
    place.space(TinyEmbedder(1, dim=24))
    with pytest.raises(Conflict, match="tiny1@16, tiny1@24"):
        reindex.retire_model(place.sessions, "tiny1")
    assert reindex.retire_model(place.sessions, "tiny1@16").version == "16"


def test_dropping_a_space_does_not_wait_behind_a_long_reader(
    place: Catalogue, two: tuple[SpaceRow, SpaceRow], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(switch, "_DROP_WAIT_S", 0.1)
    with place.sessions() as reader:
        reader.execute(text("SELECT count(*) FROM embedding"))
        with pytest.raises(Conflict) as refused:
            reindex.retire_model(place.sessions, two[1].name)
    assert refused.value.code == "catalogue_busy"
    reindex.retire_model(place.sessions, two[1].name)
