"""What a worker holds in memory, and when a service runs one beside itself."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr
from sqlalchemy import Engine
from sqlalchemy.orm import Session, sessionmaker

from db.queries import jobs
from db.types import JobKind, JobState
from indexer.jobs import start_job
from models.errors import BundleError
from service import worker
from service.runtime import Database
from service.settings import Settings
from service.worker import Embedders, Worker, beside
from tests import zoo
from tests.reindexing import Catalogue, TinyEmbedder


class Loader:
    """Loads tiny embedders, and notes which."""

    def __init__(self) -> None:
        self.there = {one.spec.fingerprint: one for one in map(TinyEmbedder, (1, 2, 3))}
        self.loads: list[str] = []

    def __call__(self, fingerprint: str) -> TinyEmbedder:
        if fingerprint not in self.there:
            raise BundleError("not_installed", "no bundle of this space is installed here")
        self.loads.append(fingerprint)
        return self.there[fingerprint]


def test_an_embedder_is_loaded_when_it_is_asked_for_and_kept() -> None:
    load = Loader()
    embedders = Embedders(load)
    first, *_ = load.there
    assert load.loads == []
    for _ in range(3):
        assert embedders(first).spec == load.there[first].spec
    assert load.loads == [first]


def test_of_three_embedders_the_one_asked_for_longest_ago_is_let_go() -> None:
    load = Loader()
    embedders = Embedders(load, most=2)
    one, two, three = load.there
    embedders(one)
    embedders(two)
    embedders(one)
    embedders(three)
    assert embedders.loaded == {one, three}


def test_idle_embedders_are_let_go() -> None:
    load = Loader()
    first, *_ = load.there
    kept, dropped = Embedders(load), Embedders(load, idle_s=0)
    for embedders in (kept, dropped):
        embedders(first)
        embedders.drop_idle()
    assert (kept.loaded, dropped.loaded) == ({first}, set())


def test_a_bundle_that_is_not_installed_displaces_no_other() -> None:
    load = Loader()
    embedders = Embedders(load, most=1)
    first, *_ = load.there
    embedders(first)
    with pytest.raises(BundleError):
        embedders("f" * 64)
    assert embedders.loaded == {first}


def test_a_worker_does_a_job_and_says_how_many_photos_it_embedded(
    engine: Engine,
    sessions: sessionmaker[Session],
    database_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    place = Catalogue(sessions, tmp_path)
    embedder = TinyEmbedder(1)
    space = place.space(embedder)
    ids = place.fill(3)
    monkeypatch.setattr(worker, "load_embedder", lambda *_, **__: embedder)
    settings = Settings(data_dir=tmp_path, database_url=SecretStr(database_url))
    told: list[str] = []
    one = Worker(settings, Database(engine, sessions), tell=told.append)
    job = start_job(
        sessions, kind=JobKind.EMBED_MISSING, params={"model_id": space.id}, principal="anna"
    )
    one.run_once()
    with sessions() as session:
        assert jobs.get_job(session, job.id).state == JobState.DONE
    assert [line.partition(",")[0] for line in told] == [f"{len(ids)} embedded"]
    place.check(space)


def test_completing_embeds_what_is_missing_and_does_no_jobs(
    engine: Engine,
    sessions: sessionmaker[Session],
    database_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    place = Catalogue(sessions, tmp_path)
    embedder = TinyEmbedder(1)
    space = place.space(embedder)
    place.use(space)
    place.add("luna", zoo.photo(1))
    monkeypatch.setattr(worker, "load_embedder", lambda *_, **__: embedder)
    settings = Settings(data_dir=tmp_path, database_url=SecretStr(database_url))
    job = start_job(sessions, kind=JobKind.EXPORT, principal="anna")
    Worker(settings, Database(engine, sessions), tell=lambda _: None).complete()
    place.check(space)
    with sessions() as session:
        assert jobs.get_job(session, job.id).state == JobState.QUEUED


@pytest.mark.parametrize(
    ("chosen", "own_database", "runs"),
    [
        ("auto", False, True),
        ("auto", True, False),
        ("on", True, True),
        ("on", False, True),
        ("off", False, False),
        ("off", True, False),
    ],
)
def test_a_service_runs_a_worker_on_the_embedded_database_unless_told_otherwise(
    chosen: str, own_database: bool, runs: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[tuple[int, int]] = []

    @contextlib.contextmanager
    def crew(settings: Settings, count: int, *, nice: int, tell: object) -> Iterator[None]:
        started.append((count, nice))
        yield

    monkeypatch.setattr(worker, "crew", crew)
    url = SecretStr("postgresql://somewhere/else") if own_database else None
    settings = Settings(worker=chosen, database_url=url)  # type: ignore[arg-type]
    with beside(settings, tell=lambda _: None):
        assert started == ([(1, 10)] if runs else [])
