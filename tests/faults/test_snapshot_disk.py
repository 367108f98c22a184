"""A snapshot that does not fit on the disk: the one before stays, and searches go on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy.orm import Session, sessionmaker

from db.queries import embeddings
from indexer.snapshot import SnapshotStore
from tests import spaces

pytestmark = pytest.mark.faults

ROOT = Path(__file__).resolve().parents[2]
DIM = 64
ROWS = 3_000
LIMIT = 400_000
"""Bytes a file may have: enough for the ids, too few for the vectors."""

PROCESS = """
import resource, signal, sys
from pathlib import Path
from db.session import make_engine, make_sessions
from indexer import live, shelf
from indexer.search import Searcher, SearchRequest
from tests import spaces

url, folder, fingerprint, limit = sys.argv[1:]
shelf.MEMORY_ROWS, live.STALE_ROWS, live.STALE_SHARE = 0, 10, 0.0
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))
sessions = make_sessions(make_engine(url))
searcher = Searcher(sessions, Path(folder), "faiss")
vectors = spaces.clustered(list(range(3000)), 64)
searcher.ensure(fingerprint)
searcher.refresh(fingerprint)
with sessions() as session:
    result = searcher.search(session, SearchRequest(vectors[5:6], fingerprint))
print(result.receipt.snapshot, result.receipt.eligible, len(result.hits))
assert result.hits[0].individual_id == spaces.individual_id(5)
searcher.close()
"""


def test_a_snapshot_that_does_not_fit_keeps_the_old_one(
    sessions: sessionmaker[Session], database_url: str, tmp_path: Path
) -> None:
    """Promise 14: writing a FAISS snapshot on a full disk keeps the old snapshot."""
    with sessions.begin() as session:
        space = spaces.make_space(session, DIM)
        vectors = spaces.clustered(list(range(ROWS)), DIM)
        spaces.fill(session, space, vectors, list(range(ROWS)))
        old = SnapshotStore(tmp_path).build(session, space)
    before = _files(tmp_path)
    with sessions.begin() as session:
        novel = spaces.clustered(list(range(40)), DIM, seed=5)
        spaces.fill(session, space, novel, list(range(5000, 5040)))
    done = subprocess.run(
        [sys.executable, "-c", PROCESS, database_url, str(tmp_path), space.fingerprint, str(LIMIT)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "No snapshot of ffffffffffff could be built" in done.stderr
    assert done.stdout.split() == [str(old.id), str(ROWS + 40), "10"]
    assert _files(tmp_path) == before, "nothing half-written is left"
    with sessions() as session:
        (published,) = embeddings.list_snapshots(session, space.id)
    assert published.id == old.id


def _files(folder: Path) -> dict[str, int]:
    return {
        str(file.relative_to(folder)): file.stat().st_size
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }
