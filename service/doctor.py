"""Owns the examination of an installation: database, tables, bundles, index, photos, keys."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from sqlalchemy.exc import OperationalError

from db.errors import DbError
from indexer.doctor import Finding, Installation, diagnose, set_aside_damaged, sweep
from indexer.media import MediaError, MediaStore, StoreUnavailable, open_media
from service.database import Database, open_database
from service.runtime import Resight, StartRefused, open_resight, require_keys
from service.settings import Settings
from service.worker import Worker

LOW_DISK_BYTES = 2**30


def examine(settings: Settings, *, fix: bool = False, deep: bool = False) -> list[Finding]:
    """Looks at everything that can be looked at; a failure ends only what depends on it.

    `fix` embeds what lacks a vector and removes what interrupted additions left behind. `deep`
    reads every photo and compares its SHA-256; with `fix` damaged files are put aside.
    """
    findings = [_disk(settings.data_dir)]
    try:
        database = open_database(settings)
    except DbError as error:
        return [*findings, Finding("database", "wrong", error.detail)]
    except OperationalError as error:
        reason = str(error.orig).strip().splitlines()[0]
        step = "Check that it runs and that RESIGHT_DATABASE_URL is right."
        return [*findings, Finding("database", "wrong", f"it does not answer: {reason}", step)]
    try:
        # Before the service's own parts are opened: they would mend a snapshot unseen.
        store = open_media(settings.media_dir, settings.media_url, sessions=database.sessions)
        installation = Installation(
            database.engine, store, settings.models_dir, settings.snapshots_dir
        )
        if fix:
            _mend(settings, database, store, deep=deep)
        findings += diagnose(installation, deep=deep)
        findings.append(_keys(settings, database))
    except MediaError as error:
        return [*findings, Finding("photos", "wrong", error.detail)]
    finally:
        database.engine.dispose()
    resight = open_resight(settings)
    try:
        findings += _serving(resight)
    finally:
        resight.close()
    return findings


def _mend(settings: Settings, database: Database, store: MediaStore, *, deep: bool) -> None:
    with suppress(StoreUnavailable):  # it is a finding by itself
        sweep(database.sessions, store)
        if deep:
            set_aside_damaged(database.sessions, store)
        Worker(settings, database, tell=lambda _: None).complete()


def _disk(data_dir: Path) -> Finding:
    place = data_dir
    while not place.exists() and place != place.parent:
        place = place.parent
    free = shutil.disk_usage(place).free
    if free < LOW_DISK_BYTES:
        step = f"Free some space on the disk of {data_dir}."
        return Finding("disk", "wrong", f"only {free / 1e6:.0f} MB are free", step)
    return Finding("disk", "ok", f"{free / 1e9:.1f} GB free at {data_dir}")


def _serving(resight: Resight) -> Iterator[Finding]:
    """Who speaks, and whether the index answers."""
    if resight.serving.embedder is None:
        step = "resight models pull effb4-arcface-v1"
        yield Finding("model", "wrong", "no bundle can identify", step)
    else:
        yield Finding("model", "ok", f"{resight.serving.bundle} identifies")
    for notice in resight.serving.notices:
        yield Finding("gate", "note", notice.detail)
    if resight.active.problem is not None:
        yield Finding("space", "wrong", resight.active.problem.detail)
    elif resight.space is not None:
        status = resight.searcher.status(resight.space.fingerprint)
        if status.ready:
            size = f"{status.size} vectors, {status.delta} newer ones beside it"
            yield Finding("index", "ok", size)
        else:
            reason = status.reason or "not ready"
            yield Finding("index", "wrong", reason, "Start the service again.")


def _keys(settings: Settings, database: Database) -> Finding:
    try:
        require_keys(settings, database.sessions)
    except StartRefused as error:
        return Finding("keys", "wrong", str(error))
    if settings.on_loopback:
        return Finding("keys", "ok", "none needed: the service listens on this machine only")
    return Finding("keys", "ok", "the service can listen beyond this machine")
