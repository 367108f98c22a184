"""The simple kinds of jobs: what they do, what they leave, what they say when there is nothing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session, sessionmaker

from db.errors import Conflict
from db.queries import catalogue, embeddings, jobs, records
from db.queries.embeddings import SpaceRow
from db.queries.jobs import JobRow
from db.types import GateState, JobKind, JobState, QueryKind, SnapshotState
from indexer import job_kinds
from indexer.job_kinds import Means
from indexer.jobs import JobRunner, Tick, start_job
from models.embedder import Embedded
from models.preprocess import Rgb
from tests import zoo
from tests.reindexing import Catalogue, TinyEmbedder

Sessions = sessionmaker[Session]


@pytest.fixture
def place(sessions: Sessions, tmp_path: Path) -> Catalogue:
    return Catalogue(sessions, tmp_path)


@pytest.fixture
def embedder() -> TinyEmbedder:
    return TinyEmbedder(1)


@pytest.fixture
def space(place: Catalogue, embedder: TinyEmbedder) -> SpaceRow:
    return place.space(embedder)


def _means(place: Catalogue) -> Means:
    return Means(
        sessions=place.sessions,
        store=place.store,
        snapshots=place.snapshots,
        exports_dir=place.root / "exports",
        embedder_of=place.embedder_of,
        head_of=lambda _: None,
        import_prefixes=((place.root / "source").as_uri(),),
    )


def _runner(place: Catalogue, ticks: Sequence[Tick] = ()) -> JobRunner:
    return JobRunner(place.sessions, job_kinds.handlers(_means(place)), worker="w", ticks=ticks)


def _start(place: Catalogue, kind: JobKind, key: str | None = None, **params: Any) -> JobRow:
    return start_job(place.sessions, kind=kind, params=params, principal="anna", exclusive_key=key)


def _job(place: Catalogue, job: JobRow) -> JobRow:
    with place.sessions() as session:
        return jobs.get_job(session, job.id)


def _run(place: Catalogue, kind: JobKind, **params: Any) -> JobRow:
    job = _start(place, kind, **params)
    _runner(place).run_until_idle()
    return _job(place, job)


def test_every_kind_of_job_has_one_handler(place: Catalogue) -> None:
    kinds = [handler.kind for handler in job_kinds.handlers(_means(place))]
    assert sorted(kinds) == sorted(JobKind)


# ---------------------------------------------------------------- embed missing


def test_what_lacks_a_vector_gets_one(
    place: Catalogue, embedder: TinyEmbedder, space: SpaceRow
) -> None:
    ids = place.fill(25)
    job = _run(place, JobKind.EMBED_MISSING, model_id=space.id)
    assert (job.state, job.total, job.done, job.failed) == (JobState.DONE, len(ids), len(ids), 0)
    assert job.result == {"embedded": len(ids), "failed": 0}
    assert embedder.embedded == len(ids)
    place.check(space)


def test_a_second_run_embeds_nothing(
    place: Catalogue, embedder: TinyEmbedder, space: SpaceRow
) -> None:
    """Promise 30: a second "embed what is missing" does nothing."""
    place.fill(4)
    _run(place, JobKind.EMBED_MISSING, model_id=space.id)
    before = embedder.embedded
    job = _run(place, JobKind.EMBED_MISSING, model_id=space.id)
    assert (job.state, job.result) == (JobState.DONE, {"embedded": 0, "failed": 0})
    assert embedder.embedded == before


def test_a_photo_without_a_region_is_not_missing(place: Catalogue, space: SpaceRow) -> None:
    """Promise 30: "nothing detected" is not "missing"."""
    place.delete(place.add(None, zoo.photo(1)))
    with place.sessions() as session:
        assert session.scalar(text("SELECT count(*) FROM media_asset")) == 1
    job = _run(place, JobKind.EMBED_MISSING, model_id=space.id)
    assert (job.state, job.total, job.result) == (
        JobState.DONE,
        None,
        {"embedded": 0, "failed": 0},
    )


def test_one_poison_photo_fails_alone_and_retry_embeds_only_it(
    place: Catalogue, embedder: TinyEmbedder, space: SpaceRow
) -> None:
    """Promise 29: done with 1 failure and its reason; "retry failed" touches only that photo."""
    ids = place.fill(6)
    bad = ids[7]
    embedder.poisoned_by(place.photos[bad])
    job = _run(place, JobKind.EMBED_MISSING, model_id=space.id)
    assert (job.state, job.done, job.failed) == (JobState.DONE, len(ids) - 1, 1)
    with place.sessions() as session:
        [failure] = jobs.failures(session, job.id).items
    assert (failure.item, failure.code) == (str(bad), "not_embedded")
    assert "no direction" in failure.detail

    embedder.poison.clear()
    before = embedder.embedded
    with place.sessions.begin() as session:
        jobs.retry_failed(session, job.id, "anna")
    _runner(place).run_until_idle()
    mended = _job(place, job)
    assert (mended.state, mended.done, mended.failed) == (JobState.DONE, len(ids), 0)
    assert embedder.embedded == before + 1
    place.check(space)


def test_a_photo_that_arrives_during_the_run_is_embedded_too(
    place: Catalogue, embedder: TinyEmbedder, space: SpaceRow
) -> None:
    place.fill(3)
    late: list[int] = []

    class Adding(TinyEmbedder):
        def embed(self, photos: Sequence[Rgb]) -> Embedded:
            if not late:
                late.append(place.add("late", zoo.photo(50)))
            return super().embed(photos)

    place.embedders[space.fingerprint] = Adding(1)
    job = _run(place, JobKind.EMBED_MISSING, model_id=space.id)
    assert (job.state, job.total, job.done) == (JobState.DONE, 10, 10)
    place.check(space)


def test_a_worker_without_the_bundle_leaves_the_job_to_one_that_has_it(
    place: Catalogue, embedder: TinyEmbedder, space: SpaceRow
) -> None:
    place.fill(2)
    place.embedders.clear()
    job = _run(place, JobKind.EMBED_MISSING, model_id=space.id)
    assert (job.state, job.error_code) == (JobState.RUNNING, "not_installed")
    place.embedders[space.fingerprint] = embedder
    _runner(place).run_until_idle()
    assert _job(place, job).state == JobState.DONE
    place.check(space)


def test_the_tick_leaves_to_a_job_what_the_job_embeds(
    place: Catalogue, embedder: TinyEmbedder, space: SpaceRow
) -> None:
    place.use(space)
    ids = place.fill(3)
    [tick] = job_kinds.ticks(_means(place))
    _start(place, JobKind.EMBED_MISSING, model_id=space.id)
    assert not tick(lambda: False)
    assert embedder.embedded == 0
    _runner(place, [tick]).run_until_idle()
    assert embedder.embedded == len(ids)
    place.add("more", zoo.photo(40))
    _runner(place, [tick]).run_until_idle()
    assert embedder.embedded == len(ids) + 1
    place.check(space)


# ---------------------------------------------------------------- build a snapshot


def test_a_snapshot_is_built_and_found(place: Catalogue, space: SpaceRow) -> None:
    ids = place.fill(4)
    place.use(space)
    job = _run(place, JobKind.BUILD_SNAPSHOT, model_id=space.id)
    assert job.state == JobState.DONE
    assert job.result is not None
    assert job.result["vectors"] == len(ids)
    with place.sessions() as session:
        [row] = embeddings.list_snapshots(session, space.id, SnapshotState.READY)
        snapshot = place.snapshots.newest(session, space)
    assert snapshot is not None
    assert str(row.id) == str(snapshot.id) == job.result["snapshot"]


def test_an_empty_space_needs_no_snapshot(place: Catalogue, space: SpaceRow) -> None:
    job = _run(place, JobKind.BUILD_SNAPSHOT, model_id=space.id)
    assert (job.state, job.result) == (JobState.DONE, {"snapshot": None, "vectors": 0})


# ---------------------------------------------------------------- import


def _folder(root: Path) -> Path:
    source = root / "source"
    for name, seeds in (("Luna", (1, 2)), ("Nova", (3,))):
        (source / name).mkdir(parents=True)
        for seed in seeds:
            (source / name / f"{seed}.jpg").write_bytes(zoo.photo(seed))
    (source / "Nova" / "broken.jpg").write_bytes(zoo.photo(9)[:200])
    return source


def test_an_import_stores_photos_and_names_what_it_skipped(place: Catalogue) -> None:
    source = _folder(place.root)
    job = _run(place, JobKind.IMPORT, path=str(source))
    assert (job.state, job.total, job.done, job.failed) == (JobState.DONE, 4, 3, 1)
    assert job.result is not None
    assert (job.result["imported"], job.result["skipped"]) == (3, 1)
    with place.sessions() as session:
        assert catalogue.counts(session).individuals == 2
        [failure] = jobs.failures(session, job.id).items
    assert failure.item.endswith("broken.jpg")

    (source / "Nova" / "broken.jpg").write_bytes(zoo.photo(9))
    with place.sessions.begin() as session:
        jobs.retry_failed(session, job.id, "anna")
    _runner(place).run_until_idle()
    mended = _job(place, job)
    assert (mended.state, mended.total, mended.done, mended.failed) == (JobState.DONE, 4, 4, 0)
    assert mended.result is not None
    assert (mended.result["imported"], mended.result["already_known"]) == (1, 0)


def test_an_import_that_is_repeated_stores_nothing_twice(place: Catalogue) -> None:
    source = _folder(place.root)
    _run(place, JobKind.IMPORT, path=str(source))
    again = _run(place, JobKind.IMPORT, path=str(source))
    assert again.result is not None
    assert (again.result["imported"], again.result["already_known"]) == (0, 3)


def test_a_source_that_cannot_be_read_fails_the_import_with_the_reason(place: Catalogue) -> None:
    job = _run(place, JobKind.IMPORT, path=str(place.root / "nowhere"))
    assert (job.state, job.error_code) == (JobState.FAILED, "not_found")
    assert "nowhere" in (job.error or "")


def test_photos_at_a_uri_are_imported_from_allowed_places_and_stay_there(place: Catalogue) -> None:
    source = _folder(place.root)
    job = _run(place, JobKind.IMPORT, path=source.as_uri())
    assert (job.state, job.done, job.failed) == (JobState.DONE, 3, 1)
    assert not list((place.root / "media").glob("originals/*/*"))
    elsewhere = _run(place, JobKind.IMPORT, path=place.root.as_uri())
    assert (elsewhere.state, elsewhere.error_code) == (JobState.FAILED, "bad_location")


# ---------------------------------------------------------------- evaluate


def test_an_evaluation_asks_photos_of_other_encounters(place: Catalogue, space: SpaceRow) -> None:
    ids = place.fill(5, photos=3)
    place.add("alone", zoo.photo(77), "e-alone")
    place.use(space)
    job = _run(place, JobKind.EVALUATE, model_id=space.id)
    assert job.state == JobState.DONE
    assert job.result is not None
    assert (job.result["n"], job.result["skipped"]) == (len(ids), 1)
    assert job.result["top1"] == 1.0
    assert job.result["annotations"] == len(ids) + 1
    assert job.total == job.done == len(ids) + 1


def test_an_evaluation_of_nothing_says_so(place: Catalogue, space: SpaceRow) -> None:
    job = _run(place, JobKind.EVALUATE, model_id=space.id)
    assert job.state == JobState.DONE
    assert job.result is not None
    assert (job.result["n"], job.result["top1"]) == (0, None)


# ---------------------------------------------------------------- export


def _lines(job: JobRow) -> list[dict[str, Any]]:
    assert job.result is not None
    text_lines = Path(job.result["file"]).read_text(encoding="utf-8").splitlines()
    assert len(text_lines) == job.result["lines"]
    return [json.loads(line) for line in text_lines]


def test_the_catalogue_is_exported_as_json_lines(place: Catalogue) -> None:
    place.fill(3, photos=2)
    job = _run(place, JobKind.EXPORT)
    assert (job.state, job.total, job.done) == (JobState.DONE, 3, 3)
    lines = _lines(job)
    assert sorted(line["names"][0] for line in lines) == ["i0", "i1", "i2"]
    assert [len(line["photos"]) for line in lines] == [2, 2, 2]
    exported = {photo["annotation_id"] for line in lines for photo in line["photos"]}
    assert exported == set(place.photos)
    assert list((place.root / "exports").glob("*.part")) == []


def test_queries_are_exported_with_their_reviews(place: Catalogue) -> None:
    with place.sessions.begin() as session:
        stored = records.add_query(
            session,
            kind=QueryKind.IDENTIFY,
            model_id=None,
            principal="anna",
            k=5,
            gate_state=GateState.ACCEPTED,
            answer={"matches": []},
        )
        records.add_review(
            session, query_id=stored, individual_id=None, verdict="unsure", reviewer="ben"
        )
    [line] = _lines(_run(place, JobKind.EXPORT, what="queries"))
    assert line["query_id"] == str(stored)
    assert [review["verdict"] for review in line["reviews"]] == ["unsure"]


def test_what_cannot_be_exported_is_refused_with_the_choices(place: Catalogue) -> None:
    job = _run(place, JobKind.EXPORT, what="secrets")
    assert (job.state, job.error_code) == (JobState.FAILED, "export_unknown")
    assert "catalogue or queries" in (job.error or "")


def test_two_jobs_of_one_kind_for_one_space_do_not_run_at_once(
    place: Catalogue, space: SpaceRow
) -> None:
    """Promise 17: the second start is told the running job."""
    key = f"embed_missing:{space.id}"
    first = _start(place, JobKind.EMBED_MISSING, key, model_id=space.id)
    with pytest.raises(Conflict) as refused:
        _start(place, JobKind.EMBED_MISSING, key, model_id=space.id)
    assert refused.value.values["job_id"] == str(first.id)
