"""Adds, deletes and searches at once from several processes, while snapshots are rebuilt.

`RESIGHT_HAMMER_S` says for how long; 600 for the ten minutes before a release.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session, sessionmaker

from db.queries.embeddings import SpaceRow
from indexer import live, shelf
from indexer.search import Searcher, SearchRequest
from tests import spaces

pytestmark = [pytest.mark.faults, pytest.mark.timeout(900)]

ROOT = Path(__file__).resolve().parents[2]
SECONDS = float(os.environ.get("RESIGHT_HAMMER_S", "20"))
DIM = 16
START = 1_500
NOVEL = 4_000

READER = """
import sys, time
import numpy as np
from pathlib import Path
from db.session import make_engine, make_sessions
from indexer import live, shelf
from indexer.search import Searcher, SearchRequest
from tests import spaces

url, folder, fingerprint, seconds, seed = sys.argv[1:]
shelf.MEMORY_ROWS, live.STALE_ROWS, live.STALE_SHARE = 0, 30, 0.0
sessions = make_sessions(make_engine(url))
searcher = Searcher(sessions, Path(folder), "faiss")
rng = np.random.default_rng(int(seed))
vectors = spaces.clustered(list(range(1500)), 16)
end = time.monotonic() + float(seconds)
asked = 0
while time.monotonic() < end:
    row = int(rng.integers(0, 1500))
    with sessions() as session:
        hits = searcher.search(session, SearchRequest(vectors[[row]], fingerprint)).hits
    assert hits[0].individual_id == spaces.individual_id(row), row
    assert hits[0].score >= 0.999, row
    assert len(hits) == 10, row
    asked += 1
searcher.close()
print(asked)
"""


@dataclass
class Hammer:
    """One writer and several readers over one space; `there` is what must be found."""

    sessions: sessionmaker[Session]
    space: SpaceRow
    searcher: Searcher
    there: dict[int, int] = field(default_factory=dict)
    gone: set[int] = field(default_factory=set)
    lock: threading.Lock = field(default_factory=threading.Lock)
    stop: threading.Event = field(default_factory=threading.Event)

    def write(self) -> int:
        """Adds a new individual or deletes one, again and again; how often."""
        rng = np.random.default_rng(7)
        novel = spaces.clustered(list(range(NOVEL)), DIM, seed=99)
        count = 0
        while not self.stop.is_set() and count < NOVEL:
            with self.sessions.begin() as session:
                (id_,) = spaces.fill(
                    session, self.space, novel[[count]], [10_000 + count]
                ).ids.tolist()
            with self.lock:
                self.there[count] = id_
            if len(self.there) > 50:
                self._delete(int(rng.choice(list(self.there))))
            count += 1
        return count

    def _delete(self, number: int) -> None:
        with self.lock:
            id_ = self.there.pop(number)
        with self.sessions.begin() as session:
            session.execute(text("DELETE FROM annotation WHERE id = :id"), {"id": id_})
        with self.lock:
            self.gone.add(id_)

    def read(self, seed: int) -> int:
        """Asks for what was acknowledged before the question; how often."""
        rng = np.random.default_rng(seed)
        novel = spaces.clustered(list(range(NOVEL)), DIM, seed=99)
        asked = 0
        while not self.stop.is_set():
            with self.lock:
                gone, there = set(self.gone), dict(self.there)
            if not there:
                continue
            number = int(rng.choice(list(there)))
            with self.sessions() as session:
                request = SearchRequest(novel[[number]], self.space.fingerprint)
                hits = self.searcher.search(session, request).hits
            with self.lock:
                still = self.there.get(number) == there[number]
            assert not gone & {hit.annotation_id for hit in hits}
            if still:
                assert hits[0].annotation_id == there[number]
            asked += 1
        return asked


@pytest.fixture
def hammer(
    sessions: sessionmaker[Session], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Hammer]:
    monkeypatch.setattr(shelf, "MEMORY_ROWS", 0)
    monkeypatch.setattr(live, "STALE_ROWS", 30)
    monkeypatch.setattr(live, "STALE_SHARE", 0.0)
    with sessions.begin() as session:
        space = spaces.make_space(session, DIM)
        vectors = spaces.clustered(list(range(START)), DIM)
        spaces.fill(session, space, vectors, list(range(START)))
    searcher = Searcher(sessions, tmp_path, "faiss")
    yield Hammer(sessions, space, searcher)
    searcher.close()


def test_adds_deletes_and_searches_at_once_are_never_wrong(
    hammer: Hammer, database_url: str, tmp_path: Path
) -> None:
    """Promise 42: no crash, no wrong id, in threads and in other processes."""
    hammer.searcher.ensure(hammer.space.fingerprint)
    first = hammer.searcher.status(hammer.space.fingerprint).snapshot
    others = [
        subprocess.Popen(
            [sys.executable, "-c", READER, database_url, str(tmp_path),
             hammer.space.fingerprint, str(SECONDS), str(seed)],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for seed in range(2)
    ]  # fmt: skip
    with ThreadPoolExecutor(3) as pool:
        writing = pool.submit(hammer.write)
        reading = [pool.submit(hammer.read, seed) for seed in range(2)]
        end = time.monotonic() + SECONDS
        while time.monotonic() < end and not any(job.done() for job in (writing, *reading)):
            time.sleep(0.1)
        hammer.stop.set()
        assert writing.result() > 10
        assert all(job.result() > 0 for job in reading)
    for other in others:
        answered, _ = other.communicate(timeout=120)
        assert other.returncode == 0
        assert int(answered) > 0
    hammer.searcher.refresh(hammer.space.fingerprint)
    last = hammer.searcher.status(hammer.space.fingerprint)
    assert last.snapshot != first, "snapshots were replaced meanwhile"
    assert last.size == START + len(hammer.there)
