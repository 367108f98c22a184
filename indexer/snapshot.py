"""Owns snapshots on disk: built from PostgreSQL, verified, published whole, loaded only if intact.

A snapshot lies in `<root>/<fingerprint, 12 digits>/<uuid>/`:

    ids.npy        int64 (N,), ascending
    vectors.npy    float32 (N, D), rows of unit length
    codes.faiss    the 8-bit codes of the rows
    manifest.json  what it is, and the SHA-256 of the other files

It is a disposable copy: whatever is wrong with it, it is deleted and built again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import numpy as np
from sqlalchemy import text
from sqlalchemy.orm import Session

from db.queries import embeddings
from db.queries.embeddings import SpaceRow
from db.queries.search import change_floor, prune_changes
from db.types import SnapshotState
from indexer.vector_index.exact import ExactIndex
from indexer.vector_index.faiss_sq8 import FaissSq8Index, write
from indexer.vector_index.protocol import Ids, Part, Vectors, nearest, unit_rows
from indexer.vector_index.rows import RowFile

log = logging.getLogger(__name__)

_FORMAT = 1
_BUILD_LOCK = 0x5E516875
"""First half of the advisory lock under which one process builds a snapshot of a space."""
_FILES = ("ids.npy", "vectors.npy", "codes.faiss")
_MANIFEST = "manifest.json"
_BUILDING = ".building-"
_READ_ROWS = 8_192
_VERIFIED_NEIGHBOURS = 10
_VERIFIED_SPARE = 64
_VERIFIED_WORK = 20_000_000
"""Rows times queries that a verification compares: seconds, not minutes, at a million rows."""
_VERIFIED_QUERIES = 200


def hold_build(session: Session, model_id: int) -> None:
    """Wait until nobody else builds a snapshot of the space, and keep others from it until the
    transaction ends."""
    session.execute(
        text("SELECT pg_advisory_xact_lock(:lock, :model)"),
        {"lock": _BUILD_LOCK, "model": model_id},
    )


class SnapshotUnusable(Exception):
    """A snapshot cannot be trusted; the sentence says why. Build it again."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a snapshot holds. `recall` is the share of the oracle's nearest ten among the ten best
    by code alone; `max_error` bounds the error of a score by code."""

    format: int
    id: str
    fingerprint: str
    dim: int
    count: int
    horizon_tx: int
    system_identifier: int
    max_error: float
    recall: float
    files: dict[str, str]

    @property
    def digest(self) -> str:
        """SHA-256 over all of it, the checksums of the files included."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, slots=True, eq=False)
class Snapshot:
    """An opened snapshot. The files may be deleted while it is in use: open ones stay."""

    manifest: Manifest
    ids: Ids
    index: FaissSq8Index

    @property
    def id(self) -> UUID:
        return UUID(self.manifest.id)


class SnapshotStore:
    """The snapshots of one machine. Safe beside other processes that use the same folder."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def newest(self, session: Session, space: SpaceRow) -> Snapshot | None:
        """The newest published snapshot of the space that lies here and is intact.

        One that is not intact is retired and deleted. The caller commits.
        """
        system, horizon = _system_identifier(session), embeddings.horizon(session)
        floor = change_floor(session)
        for row in embeddings.list_snapshots(session, space.id, SnapshotState.READY):
            folder = self._home(space) / str(row.id)
            # Another machine may have published it, or another process replaced it just now.
            if not folder.is_dir():
                continue
            try:
                snapshot = _open(folder, space)
                _check_published(snapshot.manifest, row, system, horizon, floor)
            except SnapshotUnusable as problem:
                log.warning("Snapshot %s is discarded: %s.", folder, problem)
                embeddings.retire_snapshot(session, row.id)
                shutil.rmtree(folder, ignore_errors=True)
            else:
                return snapshot
        return None

    def build(self, session: Session, space: SpaceRow) -> Snapshot:
        """Read the space, write, verify and publish a snapshot of it; older ones are retired.

        The caller commits, and holds whatever lock keeps others from building the same.

        Raises:
            SnapshotUnusable: the space is empty, or the snapshot does not answer like the oracle.
            OSError: the files cannot be written; nothing was published.
        """
        home = self._home(space)
        home.mkdir(parents=True, exist_ok=True)
        for abandoned in home.glob(f"{_BUILDING}*"):
            shutil.rmtree(abandoned, ignore_errors=True)
        identifier = uuid4()
        building = home / f"{_BUILDING}{identifier}"
        building.mkdir()
        try:
            manifest = _write(session, space, building, identifier)
            building.rename(home / str(identifier))
        finally:
            shutil.rmtree(building, ignore_errors=True)
        _sync_folder(home)
        self._publish(session, space, manifest)
        return _open(home / str(identifier), space)

    def _publish(self, session: Session, space: SpaceRow, manifest: Manifest) -> None:
        older = {
            row.id for row in embeddings.list_snapshots(session, space.id, SnapshotState.READY)
        }
        embeddings.register_snapshot(
            session,
            model_id=space.id,
            backend="faiss",
            vector_count=manifest.count,
            horizon_tx=manifest.horizon_tx,
            digest=manifest.digest,
            recall=manifest.recall,
            snapshot_id=UUID(manifest.id),
        )
        # Other machines have folders of their own; only what lies here is retired here. Some may
        # never have been listed, after a crash.
        for folder in self._home(space).iterdir():
            identifier = _uuid_of(folder)
            if identifier == UUID(manifest.id):
                continue
            if identifier in older:
                embeddings.retire_snapshot(session, identifier)
            shutil.rmtree(folder, ignore_errors=True)
        prune_changes(session)

    def _home(self, space: SpaceRow) -> Path:
        return self._root / space.fingerprint[:12]


def _uuid_of(folder: Path) -> UUID | None:
    try:
        return UUID(folder.name)
    except ValueError:
        return None


def _system_identifier(session: Session) -> int:
    return int(
        session.execute(text("SELECT system_identifier FROM pg_control_system()")).scalar_one()
    )


# ---------------------------------------------------------------- writing


def _write(session: Session, space: SpaceRow, folder: Path, identifier: UUID) -> Manifest:
    # The horizon is read first: what commits later is at or above it, so nothing falls between.
    horizon = embeddings.horizon(session)
    # Closed whatever happens: a reading that is left half-way blocks its connection for ever.
    with closing(embeddings.read_space_chunks(session, space.id, _READ_ROWS)) as chunks:
        _write_rows(folder, chunks, space.dim)
    ids, vectors = _rows(folder)
    max_error = write(folder / "codes.faiss", vectors)
    index = FaissSq8Index(folder / "codes.faiss", ids, vectors, max_error)
    recall = _verify(index, ExactIndex(ids, vectors), vectors)
    manifest = Manifest(
        format=_FORMAT,
        id=str(identifier),
        fingerprint=space.fingerprint,
        dim=space.dim,
        count=len(ids),
        horizon_tx=horizon,
        system_identifier=_system_identifier(session),
        max_error=max_error,
        recall=recall,
        files={name: _sha256(folder / name) for name in _FILES},
    )
    with (folder / _MANIFEST).open("w") as file:
        json.dump(asdict(manifest), file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    _sync_folder(folder)
    return manifest


def _write_rows(folder: Path, chunks: Iterator[tuple[Ids, Vectors]], dim: int) -> None:
    first = next(chunks, None)
    if first is None:
        raise SnapshotUnusable("the space has no vectors yet; there is nothing to scan")
    ids = []
    with (folder / "vectors.npy").open("wb") as file:
        _write_header(file, 0, dim)
        for some_ids, rows in chain([first], chunks):
            ids.append(some_ids)
            file.write(unit_rows(rows).tobytes())
        all_ids = np.concatenate(ids)
        file.seek(0)
        _write_header(file, len(all_ids), dim)
        file.flush()
        os.fsync(file.fileno())
    with (folder / "ids.npy").open("wb") as file:
        np.save(file, all_ids)
        file.flush()
        os.fsync(file.fileno())


def _write_header(file: Any, count: int, dim: int) -> None:
    # NumPy pads the header so that the row count can grow in place.
    header = {"descr": "<f4", "fortran_order": False, "shape": (count, dim)}
    np.lib.format.write_array_header_1_0(file, header)


def _verify(index: FaissSq8Index, oracle: ExactIndex, vectors: RowFile) -> float:
    """Recall of the codes alone, over rows spread evenly through the space.

    Raises:
        SnapshotUnusable: an error above its bound, or an order that is not the oracle's.
    """
    count = len(vectors)
    queries = min(count, _VERIFIED_QUERIES, max(8, _VERIFIED_WORK // count))
    sample = vectors[np.linspace(0, count - 1, queries).astype(np.intp)]
    k = min(_VERIFIED_NEIGHBOURS, count)
    found = 0
    # One pass over the file for all queries; by itself it settles nearly every one of them.
    compared = oracle.candidates(sample, k + _VERIFIED_SPARE)
    for query, ids, scores in zip(sample[:, None, :], compared.ids, compared.scores, strict=True):
        near = ExactIndex(*oracle.fetch(np.sort(ids)))
        wanted, cosines = nearest([Part(near)], query, k)
        if len(ids) < count and cosines[-1] <= scores[-1] + compared.max_error:
            wanted, cosines = nearest([Part(oracle)], query, k)
        coarse = index.candidates(query, k)
        found += len(np.intersect1d(coarse.ids[0], wanted))
        settled, settled_cosines = nearest([Part(index)], query, k)
        if not (np.array_equal(settled, wanted) and np.array_equal(settled_cosines, cosines)):
            raise SnapshotUnusable(
                f"its nearest {k} are {settled.tolist()}, the oracle's {wanted.tolist()}"
            )
    return found / (k * queries)


# ---------------------------------------------------------------- loading


def _open(folder: Path, space: SpaceRow) -> Snapshot:
    try:
        manifest = Manifest(**json.loads((folder / _MANIFEST).read_text()))
        _check_manifest(manifest, folder, space)
        ids, vectors = _rows(folder)
        if ids.shape != (manifest.count,) or vectors.shape != (manifest.count, manifest.dim):
            raise SnapshotUnusable(
                f"{ids.shape} ids and {vectors.shape} vectors, not {manifest.count} rows"
            )
        index = FaissSq8Index(folder / "codes.faiss", ids, vectors, manifest.max_error)
    except (OSError, ValueError, TypeError) as problem:
        raise SnapshotUnusable(str(problem)) from problem
    return Snapshot(manifest, ids, index)


def _check_manifest(manifest: Manifest, folder: Path, space: SpaceRow) -> None:
    if manifest.format != _FORMAT:
        raise SnapshotUnusable(f"its format is {manifest.format}, this program reads {_FORMAT}")
    if (manifest.fingerprint, manifest.dim) != (space.fingerprint, space.dim):
        raise SnapshotUnusable(
            f"it is of the space {manifest.fingerprint} with {manifest.dim} dimensions, not of "
            f"{space.fingerprint} with {space.dim}"
        )
    if sorted(manifest.files) != sorted(_FILES):
        raise SnapshotUnusable(f"its manifest lists {sorted(manifest.files)}")
    for name, expected in manifest.files.items():
        actual = _sha256(folder / name)
        if actual != expected:
            raise SnapshotUnusable(f"the SHA-256 of {name} is {actual}, not {expected}")


def _check_published(
    manifest: Manifest, row: embeddings.SnapshotRow, system: int, horizon: int, floor: int
) -> None:
    if manifest.system_identifier != system:
        raise SnapshotUnusable(
            f"it was built from PostgreSQL {manifest.system_identifier}, this one is {system}"
        )
    if (manifest.id, manifest.digest) != (str(row.id), row.digest):
        raise SnapshotUnusable("its manifest is not the one that the database lists")
    if manifest.horizon_tx > horizon:
        raise SnapshotUnusable(
            f"it knows transaction {manifest.horizon_tx}, this database is at {horizon}: the "
            "database was restored to an earlier time"
        )
    if manifest.horizon_tx < floor:
        raise SnapshotUnusable(
            f"it knows transaction {manifest.horizon_tx}, and changes before {floor} are no longer "
            "on record"
        )


def _rows(folder: Path) -> tuple[Ids, RowFile]:
    ids: Ids = np.load(folder / "ids.npy", allow_pickle=False)
    return ids, RowFile(folder / "vectors.npy")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
