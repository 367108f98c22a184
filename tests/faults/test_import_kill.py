"""Imports and additions under `kill -9`: nothing acknowledged is lost, and a second try completes.

A child process works on a data directory of its own and prints what is committed; it, or its
PostgreSQL, or both are killed at random moments.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from sqlalchemy import text

from db import embedded, migrate
from db.session import make_engine, make_sessions
from indexer.doctor import Installation, diagnose, sweep
from indexer.ingest import plan_import, run_import
from indexer.media import MediaStore
from tests import zoo

pytestmark = [pytest.mark.faults, pytest.mark.timeout(600)]

PHOTOS = 200
INDIVIDUALS = 20

IMPORT = """
import sys
from pathlib import Path
from db import embedded
from db.session import make_engine, make_sessions
from indexer.ingest import plan_import, run_import
from indexer.media import MediaStore

data_dir, source = map(Path, sys.argv[1:])
sessions = make_sessions(make_engine(embedded.start(data_dir).url))
plan = plan_import(source)
print("begun", flush=True)
run_import(
    sessions,
    MediaStore(data_dir / "media"),
    plan,
    progress=lambda now: print("committed", *now.committed, sep="\\t", flush=True),
)
print("done", flush=True)
"""

ADD = """
import sys
from pathlib import Path
from db import embedded
from db.queries import catalogue
from db.session import make_engine, make_sessions
from indexer.ingest import add_photos, plan_import
from indexer.media import MediaStore

data_dir, source = map(Path, sys.argv[1:])
sessions = make_sessions(make_engine(embedded.start(data_dir).url))
store = MediaStore(data_dir / "media")
print("begun", flush=True)
for entry in plan_import(source).entries:
    with sessions.begin() as session:
        home = catalogue.default_catalogue(session)
        one = catalogue.ensure_individual(session, catalogue_id=home.id, name=entry.individual)
        add_photos(
            session,
            store,
            catalogue_id=home.id,
            individual_id=one.id,
            photos=[(entry.name, entry.path.read_bytes())],
        )
    print("committed", entry.name, sep="\\t", flush=True)
print("done", flush=True)
"""


@dataclass(frozen=True)
class Place:
    """A data directory with its own PostgreSQL, and photos to put into it."""

    data_dir: Path
    source: Path

    @property
    def store(self) -> MediaStore:
        return MediaStore(self.data_dir / "media")

    def names(self) -> set[str]:
        return {str(path.relative_to(self.source)) for path in self.source.rglob("*.jpg")}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos large enough that decoding takes its time, so that kills meet work under way."""
    root = tmp_path_factory.mktemp("photos")
    for number in range(PHOTOS):
        path = root / f"animal {number % INDIVIDUALS}" / f"{number}.jpg"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(zoo.photo(number, size=(1200, 900)))
    return root


@pytest.fixture
def place(photos: Path) -> Iterator[Place]:
    # Not under pytest's folder: every start of a pytest locks that one against other users again,
    # the one that runs PostgreSQL for root included.
    with tempfile.TemporaryDirectory(prefix="resight-kill-") as folder:
        data_dir = Path(folder)
        engine = make_engine(embedded.start(data_dir).url)
        migrate.upgrade(engine)
        engine.dispose()
        yield Place(data_dir, photos)
        embedded.stop(data_dir)


def begin(script: str, place: Place) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", script, str(place.data_dir), str(place.source)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )


def kill_child(child: subprocess.Popen[str], _place: Place) -> None:
    child.send_signal(signal.SIGKILL)


def kill_postgres(_child: subprocess.Popen[str], place: Place) -> None:
    """Kill the postmaster and every process of its own, as a power cut would."""
    postmaster = int((place.data_dir / "postgres/postmaster.pid").read_text().split()[0])
    children = Path(f"/proc/{postmaster}/task/{postmaster}/children").read_text().split()
    for pid in (postmaster, *map(int, children)):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def kill_both(child: subprocess.Popen[str], place: Place) -> None:
    kill_postgres(child, place)
    kill_child(child, place)


Kill = Callable[[subprocess.Popen[str], Place], None]


def work_until_killed(
    script: str, place: Place, kill: Kill, after_lines: int, delay_s: float
) -> tuple[set[str], bool]:
    """Names acknowledged before the end, and whether the work was done before the kill."""
    child = begin(script, place)
    assert child.stdout is not None
    lines = [child.stdout.readline() for _ in range(after_lines + 1)]
    time.sleep(delay_s)
    kill(child, place)
    rest, errors = child.communicate(timeout=120)
    lines += rest.splitlines()
    assert lines[0].strip() == "begun", errors
    done = any(line.strip() == "done" for line in lines)
    assert done or child.returncode != 0
    committed = [line.rstrip("\n").split("\t") for line in lines if line.startswith("committed")]
    return {name for line in committed for name in line[1:]}, done


def check(place: Place, acknowledged: set[str]) -> set[str]:
    """The names that are stored, after the doctor found nothing wrong and no name missing."""
    engine = make_engine(embedded.start(place.data_dir).url)
    try:
        installation = Installation(
            engine, place.store, place.data_dir / "models", place.data_dir / "snapshots"
        )
        findings = diagnose(installation, deep=True)
        # Which models are installed has nothing to do with these data.
        wrong = [one for one in findings if one.state == "wrong" and one.subject != "bundle"]
        assert wrong == []
        with engine.connect() as connection:
            stored = set(connection.scalars(text("SELECT source_ref FROM annotation")))
            half = connection.scalar(
                text("SELECT count(*) FROM annotation WHERE individual_id IS NULL")
            )
    finally:
        engine.dispose()
    assert half == 0
    assert acknowledged <= stored
    return stored


def complete(script: str, place: Place) -> None:
    child = begin(script, place)
    output, errors = child.communicate(timeout=120)
    assert child.returncode == 0, errors
    assert output.splitlines()[-1] == "done"


def check_exact(place: Place) -> None:
    """The rows and files are exactly those of the source, and nothing is left beside them."""
    assert check(place, place.names()) == place.names()
    engine = make_engine(embedded.start(place.data_dir).url)
    sessions = make_sessions(engine)
    with sessions() as session:
        count = {
            table: session.scalar(text(f"SELECT count(*) FROM {table}"))
            for table in ("media_asset", "annotation", "individual", "individual_name")
        }
        rows = set(session.scalars(text("SELECT sha256 FROM media_asset")))
    assert count == {
        "media_asset": PHOTOS,
        "annotation": PHOTOS,
        "individual": INDIVIDUALS,
        "individual_name": INDIVIDUALS,
    }
    sweep(sessions, place.store, older_than_s=0.0)
    engine.dispose()
    assert set(place.store.stored()) == rows
    assert place.store.leftovers() == []


@pytest.mark.parametrize("seed", range(3))
def test_an_import_survives_every_kill(place: Place, seed: int) -> None:
    rng = random.Random(seed)
    kills: list[Kill] = [kill_child, kill_postgres, kill_child, kill_both]
    interrupted = 0
    stored: set[str] = set()
    for round_, kill in enumerate(kills):
        # The first line says that it has begun, the second that the plan is recorded; each
        # further one is a commit. Later rounds pass what earlier ones stored.
        lines = 2 + round_
        acknowledged, done = work_until_killed(IMPORT, place, kill, lines, rng.uniform(0, 0.15))
        now = check(place, acknowledged)
        assert stored <= now
        stored = now
        interrupted += not done
    assert interrupted >= 2, "the kills came too late to prove anything"

    complete(IMPORT, place)
    check_exact(place)

    engine = make_engine(embedded.start(place.data_dir).url)
    report = run_import(make_sessions(engine), place.store, plan_import(place.source))
    findings = diagnose(
        Installation(engine, place.store, place.data_dir / "models", place.data_dir / "snapshots")
    )
    engine.dispose()
    assert (report.imported, report.already_known, report.skipped) == (0, PHOTOS, ())
    assert [finding for finding in findings if finding.subject == "import"] == []


def test_additions_survive_every_kill(place: Place) -> None:
    rng = random.Random(7)
    kills: list[Kill] = [kill_child, kill_postgres, kill_both, kill_child]
    stored: set[str] = set()
    for round_, kill in enumerate(kills):
        lines = rng.randrange(5, 20) + 20 * round_
        acknowledged, done = work_until_killed(ADD, place, kill, lines, rng.uniform(0, 0.05))
        assert not done
        assert len(acknowledged) >= lines
        now = check(place, acknowledged)
        # At most the one addition that was under way may be there without having been told.
        assert stored <= now
        assert len(now - stored - acknowledged) <= 1
        stored = now
    complete(ADD, place)
    check_exact(place)
