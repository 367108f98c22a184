"""Owns the examination of an installation: database, tables, bundles, index, photos, keys."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from sqlalchemy.orm import Session, sessionmaker

    from indexer.media import MediaStore
    from service.runtime import Resight
    from service.settings import Settings

State = Literal["ok", "note", "wrong"]
LOW_DISK_BYTES = 2**30
PAGE = 1000
SHOWN = 3
LEFTOVER_AGE_S = 3600.0
"""Younger half-written files may belong to a process that is at work."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. `wrong` needs a person; `note` is worth knowing."""

    subject: str
    state: State
    detail: str
    next_step: str | None = None


def examine(settings: Settings, *, fix: bool = False, deep: bool = False) -> list[Finding]:
    """Looks at everything that can be looked at; a failure ends only what depends on it.

    `fix` embeds what lacks a vector and removes half-written files. `deep` reads every photo and
    compares its SHA-256.
    """
    findings = [_disk(settings.data_dir)]
    resight, database = _open(settings)
    findings += database
    if resight is None:
        return findings
    try:
        findings += _bundles(resight)
        findings += _index(resight, fix=fix)
        findings += _media(resight.sessions, resight.store, fix=fix, deep=deep)
        findings.append(_keys(resight))
    finally:
        resight.close()
    return findings


def _disk(data_dir: Path) -> Finding:
    place = data_dir
    while not place.exists() and place != place.parent:
        place = place.parent
    free = shutil.disk_usage(place).free
    if free < LOW_DISK_BYTES:
        step = f"Free some space on the disk of {data_dir}."
        return Finding("disk", "wrong", f"only {free / 1e6:.0f} MB are free", step)
    return Finding("disk", "ok", f"{free / 1e9:.1f} GB free at {data_dir}")


def _open(settings: Settings) -> tuple[Resight | None, list[Finding]]:
    from sqlalchemy.exc import OperationalError

    from db import migrate
    from db.errors import DbError
    from db.session import check_server
    from service.runtime import open_resight

    try:
        resight = open_resight(settings)
        server = check_server(resight.engine)
        revision = migrate.status(resight.engine).head
    except DbError as error:
        return None, [Finding("database", "wrong", error.detail)]
    except OperationalError as error:
        reason = str(error.orig).strip().splitlines()[0]
        step = "Check that it runs and that RESIGHT_DATABASE_URL is right."
        return None, [Finding("database", "wrong", f"it does not answer: {reason}", step)]
    versions = f"PostgreSQL {server.postgres_version}, pgvector {server.pgvector_version}"
    return resight, [
        Finding("database", "ok", versions),
        Finding("tables", "ok", f"at revision {revision}"),
    ]


def _bundles(resight: Resight) -> Iterator[Finding]:
    """Every bundle's checksums and golden vectors, and who speaks."""
    from models.bundles import list_installed, verify

    models_dir = resight.settings.models_dir
    for installed in list_installed(models_dir):
        problems = verify(models_dir, installed.name)
        for problem in problems:
            step = f"Install {installed.name} again, or remove {installed.path}."
            yield Finding("bundle", "wrong", f"{installed.name}: {problem.detail}", step)
        if not problems:
            yield Finding("bundle", "ok", f"{installed.name}: checksums and golden vectors agree")
    if resight.serving.embedder is None:
        step = "resight models pull effb4-arcface-v1"
        yield Finding("model", "wrong", "no bundle can identify", step)
    else:
        yield Finding("model", "ok", f"{resight.serving.bundle} identifies")
    for notice in resight.serving.notices:
        yield Finding("gate", "note", notice.detail)


def _index(resight: Resight, *, fix: bool) -> Iterator[Finding]:
    """The space in use, its snapshot, and candidates without vectors."""
    from db.queries import embeddings

    space = resight.space
    if space is None:
        return
    if resight.active.problem is not None:
        yield Finding("space", "wrong", resight.active.problem.detail)
        return
    if fix:
        _embed(resight)
    with resight.sessions() as session:
        vectors = embeddings.count_vectors(session, space.id)
        missing = embeddings.count_missing(session, space.id)
    yield Finding("space", "ok", f"{space.name} {space.version}, {vectors} vectors")
    status = resight.searcher.status(space.fingerprint)
    if status.ready:
        size = f"{status.size} vectors, {status.delta} newer ones beside it"
        yield Finding("snapshot", "ok", size)
    else:
        yield Finding("snapshot", "wrong", status.reason or "not ready", "Start the service again.")
    if missing:
        step = "resight worker --once"
        yield Finding("vectors", "note", f"{missing} photos cannot be found: no vector yet", step)


def _embed(resight: Resight) -> None:
    from service.worker import work

    work(resight, interval_s=0.0, once=True, tell=lambda _: None)


def _media(
    sessions: sessionmaker[Session], store: MediaStore, *, fix: bool, deep: bool
) -> Iterator[Finding]:
    """Rows without their file, files without a row, half-written files."""
    if fix:
        store.sweep(LEFTOVER_AGE_S)
    check: Callable[[str], bool] = store.verify if deep else store.has
    rows: set[str] = set()
    bad: list[str] = []
    for sha256 in _stored_rows(sessions):
        rows.add(sha256)
        if not check(sha256):
            bad.append(sha256)
    if bad:
        step = f"Restore them under {store.root} from a backup, or import the photos again."
        what = "damaged or missing" if deep else "missing"
        yield Finding("photos", "wrong", f"{len(bad)} files are {what}: {_some(bad)}", step)
    else:
        how = "there and unchanged" if deep else "there"
        yield Finding("photos", "ok", f"all {len(rows)} are {how}")
    orphans = [sha256 for sha256 in store.stored() if sha256 not in rows]
    if orphans:
        detail = f"{len(orphans)} files have no row, left by an add that was interrupted"
        yield Finding("photos", "note", detail, "Harmless; the same photo added again uses it.")
    leftovers = store.leftovers(LEFTOVER_AGE_S)
    if leftovers:
        yield Finding(
            "photos", "note", f"{len(leftovers)} half-written files", "resight doctor --fix"
        )


def _stored_rows(sessions: sessionmaker[Session]) -> Iterator[str]:
    from db.queries.catalogue import list_media

    after = 0
    while True:
        with sessions() as session:
            page = list_media(session, after_id=after, limit=PAGE)
        if not page:
            return
        yield from (row.sha256 for row in page)
        after = page[-1].id


def _keys(resight: Resight) -> Finding:
    from service.runtime import StartRefused, require_keys

    try:
        require_keys(resight.settings, resight.sessions)
    except StartRefused as error:
        return Finding("keys", "wrong", str(error))
    if resight.settings.on_loopback:
        return Finding("keys", "ok", "none needed: the service listens on this machine only")
    return Finding("keys", "ok", "the service can listen beyond this machine")


def _some(names: list[str]) -> str:
    shown = ", ".join(name[:12] + "…" for name in islice(names, SHOWN))
    return shown if len(names) <= SHOWN else f"{shown} and {len(names) - SHOWN} more"
