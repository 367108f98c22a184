"""Re-indexing under `kill -9`: of workers at every stage, of PostgreSQL, around the switch.

After each the run finishes, every annotation has its vector in both spaces, and no more was
embedded again than what was under way.
"""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

import pytest
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session, sessionmaker

from db import embedded, migrate
from db.queries import jobs, records, runs
from db.queries.embeddings import SpaceRow
from db.session import make_engine, make_sessions
from db.types import JobState, ReindexState
from indexer import failpoints, reindex
from indexer.catalogue import register_bundle
from indexer.reindex import Limits
from models.bundles import install, load_embedder
from models.manifest import Manifest
from models.recipes import STARTER
from tests import zoo
from tests.reindexing import Catalogue, TinyEmbedder
from tests.toy_jobs import wait_for

pytestmark = [pytest.mark.faults, pytest.mark.timeout(600)]

Sessions = sessionmaker[Session]

ROOT = Path(__file__).resolve().parents[2]
LENIENT = Limits(lost_share_max=1.0)
CHUNK = 8
BATCH = 4
PHOTOS = 40
CHUNKS = PHOTOS // CHUNK
LEASE_S = 3.0
OLD, NEW = 1, 2

SETUP = """
import sys, threading
from pathlib import Path
from db import embedded
from db.session import make_engine, make_sessions
from indexer import reindex
from indexer.jobs import JobRunner
from tests.reindexing import Catalogue, TinyEmbedder

url, root, name = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
place = Catalogue(make_sessions(make_engine(url)), root)
for seed in (1, 2):
    place.install(TinyEmbedder(seed, log=root / "embedded", delay_s=0.2))
"""
WORKER = (
    SETUP
    + """
server = root / "server"
runner = JobRunner(
    place.sessions,
    [place.handler()],
    worker=name,
    lease_s=3.0,
    poll_s=0.3,
    ticks=[place.follower()],
    revive=(lambda: embedded.start(server)) if server.is_dir() else None,
)
print("ready", flush=True)
runner.run(threading.Event())
"""
)
SWITCH = (
    SETUP + "reindex.activate(place.sessions, name, limits=reindex.Limits(lost_share_max=1.0))\n"
)
RETIRE = SETUP + "reindex.retire_model(place.sessions, name)\n"


def begin(place: Catalogue, script: str, name: str, failpoint: str | None = None) -> Child:
    given = {"PYTHONPATH": str(ROOT)}
    if failpoint is not None:
        given[failpoints.VARIABLE] = failpoint
    url = place.sessions.kw["bind"].url.render_as_string(hide_password=False)
    return subprocess.Popen(
        [sys.executable, "-c", script, url.replace("+psycopg", ""), str(place.root), name],
        env={**os.environ, **given},
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


Child = subprocess.Popen[str]


def exit_code(place: Catalogue, script: str, name: str, failpoint: str | None = None) -> int:
    with begin(place, script, name, failpoint) as child:
        return child.wait(60)


@dataclass
class Crew:
    """Worker processes over one catalogue; those still there are killed at the end."""

    place: Catalogue
    children: list[Child] = field(default_factory=list)

    def start(self, failpoint: str | None = None) -> Child:
        """A worker that is ready."""
        child = begin(self.place, WORKER, f"w{len(self.children)}", failpoint)
        self.children.append(child)
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        return child

    def end(self) -> None:
        for child in self.children:
            child.kill()
            child.wait()
            if child.stdout is not None:
                child.stdout.close()


@dataclass
class Site:
    """A catalogue with a vector for each photo in the space in use, and a run to another one."""

    place: Catalogue
    before: SpaceRow
    after: SpaceRow
    run_id: UUID
    crew: Crew

    def embedded(self) -> int:
        """How many photos the new space's embedder was given, in all processes."""
        log = self.place.root / "embedded"
        counts: Counter[str] = Counter()
        for line in log.read_text().splitlines() if log.exists() else []:
            name, number = line.split()
            counts[name] += int(number)
        return counts[f"tiny{NEW}"]

    def state(self) -> ReindexState:
        with self.place.sessions() as session:
            return runs.get_run(session, self.run_id).state

    def is_ready(self) -> bool:
        with self.place.sessions() as session:
            job = jobs.get_job(session, self.run_id)
        assert job.state not in (JobState.FAILED, JobState.CANCELLED), job.error
        return job.state == JobState.DONE

    def finish(self) -> None:
        """Ready, complete and exact; the switch works."""
        wait_for(self.is_ready, 90)
        self.place.check(self.before, self.after)
        assert self.state() == ReindexState.READY
        assert self.place.active() == self.before
        reindex.activate(self.place.sessions, self.run_id, limits=LENIENT)
        assert self.place.active() == self.after


def make_site(sessions: Sessions, root: Path) -> Site:
    place = Catalogue(sessions, root)
    before, after = place.space(TinyEmbedder(OLD)), place.space(TinyEmbedder(NEW))
    for number in range(PHOTOS):
        place.add(f"i{number % 8}", zoo.photo(number), f"e{number}")
    place.use(before)
    run = reindex.start(place.sessions, space=after)
    return Site(place, before, after, run.id, Crew(place))


@pytest.fixture
def site(sessions: Sessions, tmp_path: Path) -> Iterator[Site]:
    made = make_site(sessions, tmp_path)
    yield made
    made.crew.end()


# ---------------------------------------------------------------- workers


@pytest.mark.parametrize("chunk", [0, CHUNKS // 2, CHUNKS - 1], ids=["first", "middle", "last"])
def test_a_worker_killed_in_a_chunk_is_taken_over(site: Site, chunk: int) -> None:
    """Promise 3: `kill -9` at the first, a middle and the last chunk: nothing missed, and no more
    embedded twice than the chunk that was under way."""
    victim = site.crew.start()
    wait_for(lambda: site.embedded() >= chunk * CHUNK + BATCH, 60)
    victim.kill()
    assert victim.wait() == -signal.SIGKILL
    assert chunk * CHUNK <= len(site.place.vectors(site.after)) < PHOTOS
    site.crew.start()
    site.finish()
    assert PHOTOS < site.embedded() <= PHOTOS + CHUNK


@pytest.mark.parametrize(
    "failpoint",
    [
        "chunk.after_claim:1",
        f"chunk.before_commit:{CHUNKS}",
        f"chunk.after_commit:{CHUNKS}",
        f"chunk.before_commit:{CHUNKS + 1}",
        f"chunk.after_commit:{CHUNKS + 1}",
        f"chunk.before_commit:{CHUNKS + 2}",
        f"chunk.after_commit:{CHUNKS + 2}",
    ],
    ids=[
        "first claimed",
        "last embedded",
        "last stored",
        "snapshot built",
        "snapshot noted",
        "report written",
        "report stored",
    ],
)
def test_a_worker_that_dies_between_two_steps_is_taken_over(site: Site, failpoint: str) -> None:
    """Promises 3 and 7: at the places where something is done and not yet known."""
    victim = site.crew.start(failpoint)
    assert victim.wait(60) == failpoints.EXIT_CODE
    site.crew.start()
    site.finish()
    redone = CHUNK if failpoint == f"chunk.before_commit:{CHUNKS}" else 0
    assert site.embedded() == PHOTOS + redone


def test_four_workers_share_a_run_and_two_are_killed(site: Site) -> None:
    """Promise 3, with several chunks in flight."""
    workers = [site.crew.start() for _ in range(4)]
    for victim, at in zip(workers, (2 * BATCH, 5 * BATCH), strict=False):
        wait_for(lambda at=at: site.embedded() >= at, 60)  # type: ignore[misc]
        victim.kill()
    site.finish()
    assert site.embedded() <= PHOTOS + 2 * CHUNK
    with site.place.sessions() as session:
        report = runs.get_run(session, site.run_id).report
    assert report is not None
    assert report["throughput"]["items"] == PHOTOS


def test_annotations_change_while_workers_are_killed(site: Site) -> None:
    """Promises 3 and 20 together."""
    ids = sorted(site.place.photos)
    changes = [
        lambda: site.place.rebox(ids[0], (2, 2, 40, 40)),
        lambda: site.place.delete(ids[1]),
        lambda: site.place.rebox(ids[-1], (2, 2, 40, 40)),
        lambda: site.place.add("late", zoo.photo(500)),
    ]
    for number, change in enumerate(changes):
        victim = site.crew.start()
        wait_for(lambda n=number: site.embedded() >= n * CHUNK + BATCH, 60)  # type: ignore[misc]
        change()
        victim.kill()
    del site.place.photos[ids[1]]
    site.crew.start()
    wait_for(site.is_ready, 90)
    reindex.activate(site.place.sessions, site.run_id, limits=LENIENT)
    wait_for(lambda: _missing(site) == 0, 60)
    site.place.check(site.before, site.after)


def _missing(site: Site) -> int:
    count = len(site.place.photos)
    return 2 * count - sum(len(site.place.vectors(one)) for one in (site.before, site.after))


# ---------------------------------------------------------------- the switch


@pytest.mark.parametrize("place_", ["switch.before_flip", "switch.before_notify"])
def test_a_switch_that_dies_before_its_commit_did_not_happen(site: Site, place_: str) -> None:
    """Promise 7: the slot, the run and the audit trail are as before; the next try succeeds."""
    worker = site.crew.start()
    wait_for(site.is_ready, 90)
    died = exit_code(site.place, SWITCH, str(site.run_id), place_)
    assert died == failpoints.EXIT_CODE
    assert site.place.active() == site.before
    assert site.state() == ReindexState.READY
    assert _actions(site) == ["reindex.start"]
    worker.kill()
    site.place.add("late", zoo.photo(500))
    site.crew.start()
    assert exit_code(site.place, SWITCH, str(site.run_id)) == 0
    assert site.place.active() == site.after
    site.place.check(site.after)


def test_a_switch_that_dies_after_its_commit_did_happen(site: Site) -> None:
    """Promises 3 and 7: workers killed after the switch too: both spaces are completed, and the way
    back is open."""
    worker = site.crew.start()
    wait_for(site.is_ready, 90)
    died = exit_code(site.place, SWITCH, str(site.run_id), "switch.after_flip")
    assert died == failpoints.EXIT_CODE
    assert site.place.active() == site.after
    assert site.state() == ReindexState.ACTIVE
    assert _actions(site) == ["reindex.start", "reindex.activate"]
    worker.kill()
    site.place.add("late", zoo.photo(500))
    site.place.rebox(min(site.place.photos), (2, 2, 40, 40))
    site.crew.start()
    wait_for(lambda: _missing(site) == 0, 60)
    site.place.check(site.before, site.after)
    reindex.rollback(site.place.sessions)
    assert site.place.active() == site.before


def test_a_clean_up_that_dies_leaves_the_space_whole(site: Site) -> None:
    """Promise 7."""
    site.crew.start()
    wait_for(site.is_ready, 90)
    reindex.abandon(site.place.sessions, site.run_id)
    name = site.after.name
    died = exit_code(site.place, RETIRE, name, "cleanup.before")
    assert died == failpoints.EXIT_CODE
    assert len(site.place.vectors(site.after)) == PHOTOS
    assert exit_code(site.place, RETIRE, name) == 0
    assert _actions(site)[-1] == "space.retire"


def _actions(site: Site) -> list[str]:
    with site.place.sessions() as session:
        assert records.verify_audit(session) == []
        return [row.action for row in records.list_audit(session).items[::-1]]


# ---------------------------------------------------------------- PostgreSQL


def test_postgresql_killed_in_the_middle_of_a_run(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Promise 4: twice; workers start it again and go on by themselves."""
    with tempfile.TemporaryDirectory(prefix="resight-reindex-") as folder:
        server = Path(folder) / "server"
        server.mkdir()
        engine = make_engine(embedded.start(server).url)
        migrate.upgrade(engine)
        site = make_site(make_sessions(engine), Path(folder))
        try:
            workers = [site.crew.start() for _ in range(2)]
            for at in (2 * BATCH, 5 * BATCH):
                wait_for(lambda at=at: site.embedded() >= at, 60)  # type: ignore[misc]
                _kill_postgres(server)
                engine.dispose()
            wait_for(lambda: _quietly(site), 120)
            assert [worker.poll() for worker in workers] == [None, None]
            site.finish()
            assert site.embedded() <= PHOTOS + 2 * 2 * CHUNK
        finally:
            site.crew.end()
            engine.dispose()
            embedded.stop(server)


def _kill_postgres(data_dir: Path) -> None:
    """The postmaster and every process of its own, as a power cut would."""
    postmaster = int((data_dir / "postgres/postmaster.pid").read_text().split()[0])
    children = Path(f"/proc/{postmaster}/task/{postmaster}/children").read_text().split()
    for pid in (postmaster, *map(int, children)):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def _quietly(site: Site) -> bool:
    try:
        return site.is_ready()
    except OperationalError:
        return False


# ---------------------------------------------------------------- the real worker


@pytest.mark.torch
@pytest.mark.skipif(
    importlib.util.find_spec("torch") is None,
    reason="torch makes the second bundle: pip install -e '.[models]'",
)
def test_the_real_worker_is_killed_between_two_real_bundles(
    sessions: Sessions, database_url: str, tmp_path: Path
) -> None:
    """Promise 3 with `resight worker`, the starter and a wider variant of it: three workers, one
    after the other, of which two are killed."""
    made, models = tmp_path / "made", tmp_path / "models"
    subprocess.run(
        [sys.executable, "scripts/make_variant.py", "--out", str(made)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    install(made, models)
    place = Catalogue(sessions, tmp_path)
    before, after = (
        _registered(sessions, models, Manifest.load(folder).fingerprint)
        for folder in (STARTER, made)
    )
    for number in range(PHOTOS * 3):
        place.add(f"i{number % 8}", zoo.photo(number), f"e{number}")
    place.embedders[before.fingerprint] = load_embedder(models, before.fingerprint)  # type: ignore[assignment]
    place.use(before)
    run = reindex.start(sessions, space=after)
    site = Site(place, before, after, run.id, Crew(place))
    environment = {
        **os.environ,
        "RESIGHT_DATABASE_URL": database_url,
        "RESIGHT_WORKER_LEASE_S": "5",
        "RESIGHT_WORKER_POLL_S": "0.5",
    }
    command = [sys.executable, "-c", "from service.cli import main; main()", "worker"]
    command += ["--data-dir", str(tmp_path)]
    for kill_at in (1, PHOTOS, None):
        child = subprocess.Popen(command, env=environment, cwd=ROOT)
        try:
            if kill_at is None:
                wait_for(site.is_ready, 120)
            else:
                wait_for(lambda at=kill_at: len(place.vectors(after)) >= at, 120)  # type: ignore[misc]
        finally:
            child.kill()
            child.wait()
    found = place.vectors(after)
    assert sorted(found) == sorted(place.vectors(before)) == sorted(place.photos)
    assert next(iter(found.values())).shape == (768,)
    reindex.activate(sessions, run.id, limits=Limits(top1_drop_max=1.0))
    assert place.active() == after


def _registered(sessions: Sessions, models: Path, fingerprint: str) -> SpaceRow:
    embedder = load_embedder(models, fingerprint)
    with sessions.begin() as session:
        return register_bundle(session, embedder.spec, None)[0]
