"""Owns the diagnosis of an installation: rows, files, vectors, snapshots and bundles, side by side.

It only looks. Every finding says what was seen and, where something is to be done, what.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final, Literal

from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.orm import Session, sessionmaker

from db import migrate
from db.errors import DbError
from db.queries import embeddings, media, records
from db.queries.embeddings import PHOTO_SLOT, SnapshotRow, SpaceRow
from db.queries.media import MediaRow
from db.session import check_server, make_sessions
from db.types import RunState
from indexer.media import MediaStore, StoreUnavailable, Swept
from indexer.snapshot import Manifest as SnapshotManifest
from models.bundles import list_installed, verify

State = Literal["ok", "note", "wrong"]

LEFTOVER_AGE_S: Final = 86_400.0
"""A younger file may belong to an addition that is under way: its file comes before its row."""
_PAGE: Final = 1000
_SHOWN: Final = 3
_READERS: Final = 8
"""Who asks an object store waits more than it works."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. `wrong` needs a person; `note` is worth knowing."""

    subject: str
    state: State
    detail: str
    next_step: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Installation:
    """What is to be looked at."""

    engine: Engine
    store: MediaStore
    models_dir: Path
    snapshots_dir: Path
    slot: str = PHOTO_SLOT


def diagnose(installation: Installation, *, deep: bool = False) -> list[Finding]:
    """Look at everything that can be looked at; a failure ends only what depends on it.

    `deep` reads every photo and compares its SHA-256.
    """
    findings = list(_database(installation.engine))
    findings += _bundles(installation.models_dir)
    if any(finding.state == "wrong" for finding in findings if finding.subject == "database"):
        return findings + list(_half_written(installation.store))
    sessions = make_sessions(installation.engine)
    checks: tuple[Callable[[], Iterator[Finding]], ...] = (
        lambda: _space(sessions, installation),
        lambda: _photos(sessions, installation.store, deep=deep),
        lambda: _orphans(sessions, installation.store),
        lambda: _half_written(installation.store),
        lambda: _imports(sessions),
    )
    for check in checks:
        try:
            findings += check()
        except StoreUnavailable as error:
            findings.append(_away(error))
        except DBAPIError as error:
            findings.append(_refused(error))
            break
    return findings


def sweep(
    sessions: sessionmaker[Session], store: MediaStore, older_than_s: float = LEFTOVER_AGE_S
) -> Swept:
    """Remove half-written files, and photos without a row, that are older than `older_than_s`."""

    def known(sha256s: Sequence[str]) -> set[str]:
        with sessions() as session:
            return media.known_media(session, sha256s)

    return store.sweep(older_than_s, known)


def set_aside_damaged(sessions: sessionmaker[Session], store: MediaStore) -> list[str]:
    """Read every photo of the store and move those that are not what was stored out of the way, so
    that they count as missing and an import puts them back; their SHA-256. Others are not touched.

    Raises:
        StoreUnavailable: the store does not answer; what was moved so far stays so.
    """
    damaged: list[str] = []
    for row in _rows(sessions):
        if row.location is None and store.has(row.sha256) and not store.verify(row.sha256):
            store.set_aside(row.sha256)
            damaged.append(row.sha256)
    return damaged


# --- database -----------------------------------------------------------------------------------


def _database(engine: Engine) -> Iterator[Finding]:
    try:
        server = check_server(engine)
        yield Finding(
            "database",
            "ok",
            f"PostgreSQL {server.postgres_version}, pgvector {server.pgvector_version}",
        )
        revision = migrate.status(engine)
        migrate.require_current(engine)
        yield Finding("tables", "ok", f"at revision {revision.head}")
    except DbError as error:
        yield Finding("database", "wrong", error.detail)
    except DBAPIError as error:
        yield _refused(error)


def _refused(error: DBAPIError) -> Finding:
    reason = (str(error.orig).strip().splitlines() or [type(error).__name__])[0]
    step = "Check that it runs and that RESIGHT_DATABASE_URL is right."
    what = "it does not answer" if isinstance(error, OperationalError) else "it answers an error"
    return Finding("database", "wrong", f"{what}: {reason}", step)


def _imports(sessions: sessionmaker[Session]) -> Iterator[Finding]:
    with sessions() as session:
        unfinished = [run for run in records.list_imports(session) if run.state == RunState.RUNNING]
    for run in unfinished:
        done = run.imported + run.already_known + run.skipped
        yield Finding(
            "import",
            "note",
            f"the import of {run.source}, started {run.started_at:%Y-%m-%d %H:%M} UTC, stands at "
            f"{done} of {run.total}: it is under way, or it was interrupted",
            f"If it was interrupted: resight import {run.source} (what is stored is recognised).",
        )


# --- models -------------------------------------------------------------------------------------


def _bundles(models_dir: Path) -> Iterator[Finding]:
    """Every bundle's checksums and golden vectors."""
    installed = list_installed(models_dir)
    if not installed:
        yield Finding(
            "bundle", "wrong", "no model is installed", "resight models pull effb4-arcface-v1"
        )
    for bundle in installed:
        problems = verify(models_dir, bundle.name)
        for problem in problems:
            step = f"Install {bundle.name} again, or remove {bundle.path}."
            yield Finding("bundle", "wrong", f"{bundle.name}: {problem.detail}", step)
        if not problems:
            yield Finding("bundle", "ok", f"{bundle.name}: checksums and golden vectors agree")


def _space(sessions: sessionmaker[Session], installation: Installation) -> Iterator[Finding]:
    """The space in use: who can fill it, its vectors, its head, its snapshots."""
    with sessions() as session:
        space = embeddings.active_space(session, installation.slot)
        if space is None:
            step = "Start the service once, or import photos."
            yield Finding("space", "note", "no vector space is in use yet", step)
            return
        vectors = embeddings.count_vectors(session, space.id)
        missing = embeddings.count_missing(session, space.id)
        head = _head(session, space)
        published = embeddings.list_snapshots(session, space.id)
    yield _who_fills(space, vectors, installation.models_dir)
    if missing:
        yield Finding(
            "vectors",
            "note",
            f"{missing} photos cannot be found: no vector yet",
            "resight worker --once",
        )
    if head is not None:
        yield head
    yield from _snapshots(installation.snapshots_dir / space.fingerprint[:12], published)


def _who_fills(space: SpaceRow, vectors: int, models_dir: Path) -> Finding:
    bundles = [
        bundle.name
        for bundle in list_installed(models_dir)
        if bundle.manifest is not None and bundle.manifest.fingerprint == space.fingerprint
    ]
    if bundles:
        seen = f"{space.name} {space.version}, {vectors} vectors"
        return Finding("space", "ok", f"{seen}, filled by the bundle {bundles[0]}")
    return Finding(
        "space",
        "wrong",
        f"photos are searched in the space of {space.name} {space.version} "
        f"({space.fingerprint[:12]}…), and no installed bundle has that fingerprint",
        f"Install the bundle {space.name} {space.version} again, or change over to an installed "
        f"one: resight models activate NAME",
    )


def _head(session: Session, space: SpaceRow) -> Finding | None:
    head = embeddings.active_head(session, space.id)
    if head is None:
        return None
    slots = embeddings.slot_labels(session, head.id, range(head.slot_count))
    known = sum(slot.individual_id is not None for slot in slots)
    return Finding(
        "head",
        "ok",
        f"{head.mapped_count} of {head.slot_count} slots have a name; {known} of these names are "
        f"individuals of the catalogue",
    )


# --- snapshots ----------------------------------------------------------------------------------


def _snapshots(folder: Path, published: Sequence[SnapshotRow]) -> Iterator[Finding]:
    for row in published:
        here = folder / str(row.id)
        if not here.is_dir():
            # Published by another machine, or its folder was removed: it is built again.
            continue
        problem = _snapshot_problem(here, row)
        if problem is None:
            yield Finding("snapshot", "ok", f"{row.vector_count} vectors, checksums agree")
        else:
            step = "It is discarded and built again when the service starts."
            yield Finding("snapshot", "wrong", f"{here}: {problem}", step)


def _snapshot_problem(folder: Path, row: SnapshotRow) -> str | None:
    try:
        manifest = SnapshotManifest(**json.loads((folder / "manifest.json").read_text()))
        if manifest.digest != row.digest:
            return "its manifest is not the one that the database lists"
        for name, expected in manifest.files.items():
            with (folder / name).open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != expected:
                    return f"{name} is not what was written: its SHA-256 differs"
    except (OSError, ValueError, TypeError, AttributeError) as error:
        return f"it cannot be read ({error})"
    return None


# --- photos -------------------------------------------------------------------------------------


def _photos(sessions: sessionmaker[Session], store: MediaStore, *, deep: bool) -> Iterator[Finding]:
    """Rows whose bytes are gone, or no longer what they were."""
    next(store.stored(), None)  # a store that is away is one finding, not one for each photo

    def is_good(row: MediaRow) -> bool:
        if deep:
            return store.verify(row.sha256, row.location)
        return store.size(row.sha256, row.location) == row.byte_size

    kept = left = 0
    bad_kept: list[str] = []
    bad_left: list[str] = []
    with ThreadPoolExecutor(_READERS, thread_name_prefix="doctor") as pool:
        for page in _row_pages(sessions):
            for row, good in zip(page, pool.map(is_good, page), strict=True):
                kept += row.location is None
                left += row.location is not None
                if not good and row.location is None:
                    bad_kept.append(f"{row.sha256[:12]}…")
                elif not good:
                    bad_left.append(f"{row.sha256[:12]}… ({row.location})")
    step = f"Import the photos again, or restore them in {store.place} from a backup."
    if deep and bad_kept:
        step = f"resight doctor --deep --fix puts damaged files aside. {step}"
    yield _condition("", kept, bad_kept, step, deep=deep)
    if left:
        step = "Restore what lay there, or import the photos again from where they are now."
        yield _condition("left in place ", left, bad_left, step, deep=deep)


def _condition(which: str, count: int, bad: Sequence[str], step: str, *, deep: bool) -> Finding:
    if not bad:
        state = "unchanged" if deep else "there"
        return Finding("photos", "ok", f"all {count} {which}are {state}")
    detail = f"{len(bad)} of {count} {which}are damaged or missing: {_some(bad)}"
    return Finding("photos", "wrong", detail, step)


def _away(error: StoreUnavailable) -> Finding:
    step = "Check RESIGHT_MEDIA_URL, the network and the credentials in the environment."
    return Finding("photos", "wrong", error.detail, step)


def _rows(sessions: sessionmaker[Session]) -> Iterator[MediaRow]:
    for page in _row_pages(sessions):
        yield from page


def _row_pages(sessions: sessionmaker[Session]) -> Iterator[list[MediaRow]]:
    after = 0
    while True:
        with sessions() as session:
            page = media.list_media(session, after_id=after, limit=_PAGE)
        if not page:
            return
        yield page
        after = page[-1].id


def _orphans(sessions: sessionmaker[Session], store: MediaStore) -> Iterator[Finding]:
    """Files without a row: an addition under way, or one that was interrupted."""
    orphans: list[str] = []
    names = store.stored()
    while page := list(islice(names, _PAGE)):
        with sessions() as session:
            known = media.known_media(session, page)
        orphans += [sha256 for sha256 in page if sha256 not in known]
    if orphans:
        yield Finding(
            "photos",
            "note",
            f"{len(orphans)} files have no row, left by an addition that was interrupted: "
            f"{_some([f'{name[:12]}…' for name in orphans])}",
            "Harmless: the same photo added again uses it. resight doctor --fix removes those "
            "older than a day.",
        )


def _half_written(store: MediaStore) -> Iterator[Finding]:
    leftovers = store.leftovers(LEFTOVER_AGE_S)
    if leftovers:
        detail = f"{len(leftovers)} half-written files are older than a day"
        yield Finding("photos", "note", detail, "resight doctor --fix")


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_SHOWN])
    return shown if len(names) <= _SHOWN else f"{shown} and {len(names) - _SHOWN} more"
