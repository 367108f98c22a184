"""Snapshots: built, verified, published whole; whatever is wrong with one, it is built again."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from sqlalchemy import text
from sqlalchemy.orm import Session, sessionmaker

from db.queries import embeddings
from db.queries.embeddings import SpaceRow
from db.types import SnapshotState
from indexer import live, shelf, snapshot
from indexer.search import Searcher, SearchRequest, SearchResult
from indexer.snapshot import SnapshotStore, SnapshotUnusable
from indexer.vector_index import faiss_sq8
from tests import spaces

DIM = 16
ROWS = 1500
Sessions = sessionmaker[Session]


@dataclass
class Place:
    """A space of 1,500 vectors and the folder of its snapshots."""

    sessions: Sessions
    folder: Path
    space: SpaceRow
    vectors: NDArray[np.float32]

    def searcher(self) -> Searcher:
        return Searcher(self.sessions, self.folder)

    def ask(self, searcher: Searcher) -> SearchResult:
        with self.sessions() as session:
            return searcher.search(session, SearchRequest(self.vectors[:1], self.space.fingerprint))

    def answer_of_a_new_process(self) -> SearchResult:
        searcher = self.searcher()
        try:
            return self.ask(searcher)
        finally:
            searcher.close()

    @property
    def folders(self) -> list[Path]:
        return sorted((self.folder / self.space.fingerprint[:12]).iterdir())

    def published(self) -> list[str]:
        with self.sessions() as session:
            rows = embeddings.list_snapshots(session, self.space.id, SnapshotState.READY)
        return [str(row.id) for row in rows]


@pytest.fixture
def place(sessions: Sessions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.setattr(shelf, "MEMORY_ROWS", 100)
    numbers = [number // 3 for number in range(ROWS)]
    vectors = spaces.clustered(numbers, DIM)
    with sessions.begin() as session:
        space = spaces.make_space(session, DIM)
        spaces.fill(session, space, vectors, numbers)
    return Place(sessions, tmp_path / "snapshots", space, vectors)


def test_built_once_and_published_whole(place: Place) -> None:
    first = place.answer_of_a_new_process()
    (folder,) = place.folders
    assert place.published() == [folder.name] == [first.receipt.snapshot]
    manifest = json.loads((folder / "manifest.json").read_text())
    assert (manifest["count"], manifest["dim"]) == (ROWS, DIM)
    assert manifest["fingerprint"] == place.space.fingerprint
    assert sorted(manifest["files"]) == ["codes.faiss", "ids.npy", "vectors.npy"]
    assert 0.9 < manifest["recall"] <= 1
    assert 0 < manifest["max_error"] < 0.05
    with place.sessions() as session:
        (row,) = embeddings.list_snapshots(session, place.space.id)
    assert (row.vector_count, row.recall) == (ROWS, manifest["recall"])
    vectors = np.load(folder / "vectors.npy")
    np.testing.assert_allclose(vectors, place.vectors, atol=1e-6)

    again = place.answer_of_a_new_process()
    assert again.receipt.snapshot == first.receipt.snapshot
    assert again.hits == first.hits
    assert again.receipt.delta == 0


def _empty(folder: Path) -> None:
    (folder / "codes.faiss").write_bytes(b"")


def _truncated(folder: Path) -> None:
    path = folder / "vectors.npy"
    path.write_bytes(path.read_bytes()[:-1000])


def _flipped_header(folder: Path) -> None:
    _flip(folder / "codes.faiss", 2)


def _flipped_payload(folder: Path) -> None:
    _flip(folder / "codes.faiss", -500)


def _flipped_vector(folder: Path) -> None:
    _flip(folder / "vectors.npy", -501)


def _swapped_ids(folder: Path) -> None:
    ids = np.load(folder / "ids.npy")
    np.save(folder / "ids.npy", ids[::-1])


def _no_manifest(folder: Path) -> None:
    (folder / "manifest.json").unlink()


def _half_manifest(folder: Path) -> None:
    path = folder / "manifest.json"
    path.write_text(path.read_text()[:100])


def _other(**values: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "manifest.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    change.__name__ = "other_" + "_".join(values)
    return change


def _flip(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 0b0001_0000
    path.write_bytes(bytes(data))


@pytest.mark.parametrize(
    "damage",
    [
        _empty,
        _truncated,
        _flipped_header,
        _flipped_payload,
        _flipped_vector,
        _swapped_ids,
        _no_manifest,
        _half_manifest,
        _other(fingerprint="0" * 64),
        _other(system_identifier=1),
        _other(max_error=0.0),
        _other(horizon_tx=2**60),
        _other(format=99),
        _other(surprise=1),
    ],
)
def test_whatever_is_wrong_it_is_discarded_and_built_again(
    place: Place, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    """Promise 41: empty, truncated, a flipped bit, of another model: discarded and rebuilt."""
    before = place.answer_of_a_new_process()
    (folder,) = place.folders
    damage(folder)
    with caplog.at_level(logging.WARNING):
        after = place.answer_of_a_new_process()
    assert after.hits == before.hits
    assert after.receipt.snapshot not in (None, folder.name)
    assert [f.name for f in place.folders] == [after.receipt.snapshot] == place.published()
    assert f"{folder} is discarded" in caplog.text


def test_a_snapshot_of_another_cluster_is_discarded(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The manifest and the row agree, but PostgreSQL is another one: a copied database."""
    monkeypatch.setattr(snapshot, "_system_identifier", lambda _: 12345)
    first = place.answer_of_a_new_process()
    monkeypatch.undo()
    monkeypatch.setattr(shelf, "MEMORY_ROWS", 100)
    again = place.answer_of_a_new_process()
    assert again.receipt.snapshot not in (None, first.receipt.snapshot)
    assert again.hits == first.hits


def test_a_database_restored_to_an_earlier_time_is_noticed(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = embeddings.horizon
    monkeypatch.setattr(embeddings, "horizon", lambda session: real(session) + 10**6)
    first = place.answer_of_a_new_process()
    monkeypatch.setattr(embeddings, "horizon", real)
    assert place.answer_of_a_new_process().receipt.snapshot != first.receipt.snapshot


def test_a_disk_that_is_full_never_stops_a_search(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Promise 14: a full disk keeps the old snapshot and never stops a search."""

    def no_space(*_: object) -> float:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(snapshot, "write", no_space)
    full = place.answer_of_a_new_process()
    assert full.receipt.snapshot is None
    assert place.folders == []
    assert place.published() == []
    monkeypatch.setattr(snapshot, "write", faiss_sq8.write)
    built = place.answer_of_a_new_process()
    assert built.receipt.snapshot is not None
    assert built.hits == full.hits


def test_codes_that_disagree_with_the_oracle_are_not_published(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    def claims_perfection(path: Path, vectors: NDArray[np.float32]) -> float:
        noise = np.random.default_rng(0).standard_normal(vectors.shape).astype(np.float32)
        faiss_sq8.write(path, spaces.unit(vectors[:] + noise))
        return 0.0

    monkeypatch.setattr(snapshot, "write", claims_perfection)
    with place.sessions() as session, pytest.raises(SnapshotUnusable, match="the oracle's"):
        SnapshotStore(place.folder).build(session, place.space)
    assert place.folders == []
    assert place.published() == []


def test_an_empty_space_has_no_snapshot(place: Place) -> None:
    with place.sessions.begin() as session:
        session.execute(text("DELETE FROM embedding"))
        with pytest.raises(SnapshotUnusable, match="no vectors"):
            SnapshotStore(place.folder).build(session, place.space)


def test_remains_of_a_crash_are_swept(place: Place) -> None:
    home = place.folder / place.space.fingerprint[:12]
    (home / ".building-x").mkdir(parents=True)
    (home / ".building-x" / "vectors.npy").write_bytes(b"half")
    # Renamed, but the process died before the database knew of it.
    never_listed = home / "4f1c7f0e-93b5-4b86-8e33-0a4c0b7f6f7a"
    never_listed.mkdir()
    answer = place.answer_of_a_new_process()
    assert [folder.name for folder in place.folders] == [answer.receipt.snapshot]


def test_processes_that_start_at_once_build_once(place: Place) -> None:
    searchers = [place.searcher() for _ in range(3)]
    with ThreadPoolExecutor(3) as pool:
        answers = list(pool.map(place.ask, searchers))
    for searcher in searchers:
        searcher.close()
    assert len({answer.receipt.snapshot for answer in answers}) == 1
    assert len(place.folders) == 1
    with place.sessions() as session:
        assert len(embeddings.list_snapshots(session, place.space.id, state=None)) == 1


def test_renewed_when_enough_has_changed(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "STALE_ROWS", 50)
    monkeypatch.setattr(live, "STALE_SHARE", 0.0)
    searcher, other = place.searcher(), place.searcher()
    old = place.ask(searcher)
    assert place.ask(other).receipt.snapshot == old.receipt.snapshot
    more = spaces.clustered(list(range(60)), DIM, seed=5)
    with place.sessions.begin() as session:
        spaces.fill(session, place.space, more[:40], [900] * 40)
    searcher.refresh(place.space.fingerprint)
    kept = place.ask(searcher).receipt
    assert (kept.snapshot, kept.delta, kept.scanned) == (old.receipt.snapshot, 40, ROWS + 40)

    with place.sessions.begin() as session:
        spaces.fill(session, place.space, more[40:], [901] * 20)
    searcher.refresh(place.space.fingerprint)
    new = place.ask(searcher).receipt
    assert new.snapshot not in (None, old.receipt.snapshot)
    assert (new.delta, new.scanned, new.eligible) == (0, ROWS + 60, ROWS + 60)
    assert [folder.name for folder in place.folders] == [new.snapshot] == place.published()

    # The other process still reads files that are deleted by now, and then takes over the new ones.
    answer = place.ask(other)
    assert answer.receipt.scanned == ROWS + 60
    other.refresh(place.space.fingerprint)
    assert place.ask(other).receipt.snapshot == new.snapshot
    assert place.ask(other).hits == place.ask(searcher).hits == answer.hits
    searcher.close()
    other.close()


def test_what_was_written_while_no_process_ran_is_found(place: Place) -> None:
    """Promises 38 and 39: what was written and deleted before a restart counts."""
    first = place.answer_of_a_new_process()
    novel = spaces.clustered([0], DIM, seed=5)
    with place.sessions.begin() as session:
        new = spaces.fill(session, place.space, novel, [900]).ids
        session.execute(
            text("DELETE FROM annotation WHERE id = :id"), {"id": first.hits[0].annotation_id}
        )
    place.vectors = np.concatenate([novel, place.vectors])
    answer = place.answer_of_a_new_process()
    assert answer.receipt.snapshot == first.receipt.snapshot
    assert answer.hits[0].annotation_id == new[0]
    assert (answer.receipt.delta, answer.receipt.eligible) == (1, ROWS)


def test_a_small_space_lives_in_memory(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shelf, "MEMORY_ROWS", ROWS)
    answer = place.answer_of_a_new_process()
    assert answer.receipt.snapshot is None
    assert answer.receipt.delta == 0
    assert answer.receipt.scanned == ROWS
    assert not place.folder.exists()


def test_ready_once_loaded(place: Place) -> None:
    searcher = place.searcher()
    status = searcher.status(place.space.fingerprint)
    assert not status.ready
    assert status.reason is not None
    assert "not loaded" in status.reason
    searcher.ensure(place.space.fingerprint)
    status = searcher.status(place.space.fingerprint)
    assert (status.ready, status.size, status.snapshot) == (True, ROWS, place.published()[0])
    searcher.close()
