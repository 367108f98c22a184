"""The doctor: each thing that can go wrong is found, called by its weight, and told what to do."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import Engine
from sqlalchemy.orm import Session, sessionmaker

from db.queries import catalogue, embeddings, records
from db.session import make_engine
from indexer import doctor
from indexer.doctor import (
    LEFTOVER_AGE_S,
    Finding,
    Installation,
    diagnose,
    set_aside_damaged,
    sweep,
)
from indexer.ingest import add_photos, plan_import, run_import
from indexer.media import MediaStore
from indexer.snapshot import SnapshotStore
from models.bundles import Installed, Problem
from tests import zoo

Sessions = sessionmaker[Session]


@pytest.fixture
def installation(engine: Engine, tmp_path: Path) -> Installation:
    return Installation(
        engine, MediaStore(tmp_path / "media"), tmp_path / "models", tmp_path / "snapshots"
    )


@pytest.fixture(autouse=True)
def bundles(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, list[Problem]]:
    """Installed bundles by name, and what `verify` says of each; files are tried elsewhere."""
    found: dict[str, list[Problem]] = {"small": []}
    monkeypatch.setattr(
        doctor,
        "list_installed",
        lambda _: [Installed(name, tmp_path / name, None, None, 1) for name in found],
    )
    monkeypatch.setattr(doctor, "verify", lambda _, name: found[name])
    return found


def add(sessions: Sessions, store: MediaStore, count: int) -> list[str]:
    with sessions.begin() as session:
        home = catalogue.default_catalogue(session)
        luna = catalogue.ensure_individual(session, catalogue_id=home.id, name="Luna")
        rows = add_photos(
            session,
            store,
            catalogue_id=home.id,
            individual_id=luna.id,
            photos=[(None, zoo.photo(number)) for number in range(count)],
        )
    return [row.sha256 for row in rows]


def put_space(sessions: Sessions) -> int:
    with sessions.begin() as session:
        space = embeddings.register_space(
            session,
            name="small",
            version="1",
            fingerprint="f" * 64,
            dim=8,
            preprocessing={"height_px": 8},
            licence="none",
            digest="d" * 64,
        )
        embeddings.set_slot(session, embeddings.PHOTO_SLOT, space.id)
    return space.id


def fill_space(sessions: Sessions, space: int) -> None:
    with sessions.begin() as session:
        ids = [one.annotation_id for one in embeddings.missing(session, space, limit=100)]
        rng = np.random.default_rng(1)
        embeddings.put_vectors(
            session, space, ids, rng.normal(size=(len(ids), 8)).astype(np.float32)
        )


def found(findings: list[Finding], subject: str) -> list[Finding]:
    return [finding for finding in findings if finding.subject == subject]


def wrong(findings: list[Finding]) -> list[str]:
    return [finding.subject for finding in findings if finding.state == "wrong"]


def test_a_fresh_installation_is_well(installation: Installation) -> None:
    findings = diagnose(installation)
    assert wrong(findings) == []
    assert [finding.subject for finding in findings] == [
        "database",
        "tables",
        "bundle",
        "space",
        "photos",
    ]
    assert "pgvector" in findings[0].detail


def test_lost_and_damaged_photos_are_serious(
    installation: Installation, sessions: Sessions
) -> None:
    store = installation.store
    first, second, third = add(sessions, store, 3)
    assert found(diagnose(installation), "photos")[0].detail == "all 3 are there"

    data = bytearray(store.read(second))
    data[50] ^= 1
    store.path(second).write_bytes(data)
    assert wrong(diagnose(installation)) == []
    [finding] = found(diagnose(installation, deep=True), "photos")
    assert finding.state == "wrong"
    assert second[:12] in finding.detail
    assert "1 of 3" in finding.detail

    store.path(third).unlink()
    [finding] = found(diagnose(installation), "photos")
    assert finding.state == "wrong"
    assert third[:12] in finding.detail
    assert first[:12] not in finding.detail
    assert finding.next_step is not None


def test_damaged_photos_are_put_aside_and_an_import_puts_them_back(
    installation: Installation, sessions: Sessions, tmp_path: Path
) -> None:
    """Promise 9: the photo with a flipped bit is taken out of use, that photo only."""
    store = installation.store
    sha256s = add(sessions, store, 3)
    data = bytearray(store.read(sha256s[1]))
    data[50] ^= 1
    store.path(sha256s[1]).write_bytes(data)
    assert set_aside_damaged(sessions, store) == [sha256s[1]]
    assert set_aside_damaged(sessions, store) == []
    assert [store.has(sha256) for sha256 in sha256s] == [True, False, True]
    assert (store.root / "damaged" / sha256s[1]).read_bytes() == data
    data[50] ^= 1
    source = tmp_path / "again" / "somebody" / "1.jpg"
    source.parent.mkdir(parents=True)
    source.write_bytes(data)
    run_import(sessions, store, plan_import(tmp_path / "again"))
    assert [store.verify(sha256) for sha256 in sha256s] == [True, True, True]
    assert wrong(diagnose(installation, deep=True)) == []


def test_photos_without_a_row_are_harmless_and_can_be_swept(
    installation: Installation, sessions: Sessions
) -> None:
    store = installation.store
    kept = add(sessions, store, 2)
    orphans = [store.put(zoo.photo(number)) for number in range(10, 15)]
    half = store.root / "tmp" / "half"
    half.write_bytes(b"half")
    findings = diagnose(installation)
    assert wrong(findings) == []
    [_, note] = found(findings, "photos")
    assert note.state == "note"
    assert note.detail.startswith("5 files have no row")
    assert "and 2 more" in note.detail

    assert sweep(sessions, store).orphans == 0
    old = time.time() - 2 * LEFTOVER_AGE_S
    for path in (half, *(store.path(sha256) for sha256 in (*orphans[:4], *kept))):
        os.utime(path, (old, old))
    assert [f.state for f in found(diagnose(installation), "photos")] == ["ok", "note", "note"]
    swept = sweep(sessions, store)
    assert (swept.temporary, swept.orphans) == (1, 4)
    assert sorted(store.stored()) == sorted([*kept, orphans[4]])


def test_photos_without_a_vector_are_counted(
    installation: Installation, sessions: Sessions
) -> None:
    add(sessions, installation.store, 3)
    space = put_space(sessions)
    [note] = found(diagnose(installation), "vectors")
    assert (note.state, note.next_step) == ("note", "resight worker --once")
    assert note.detail.startswith("3 photos")
    fill_space(sessions, space)
    assert found(diagnose(installation), "vectors") == []


def test_a_space_that_no_bundle_fills_is_serious(
    installation: Installation, sessions: Sessions
) -> None:
    put_space(sessions)
    [finding] = found(diagnose(installation), "space")
    assert finding.state == "wrong"
    assert "ffffffffffff" in finding.detail


def test_a_broken_bundle_is_named(
    installation: Installation, bundles: dict[str, list[Problem]]
) -> None:
    bundles["torn"] = [Problem("torn", "file_changed", "weights.safetensors is not the same")]
    ok, torn = found(diagnose(installation), "bundle")
    assert ok.state == "ok"
    assert torn.state == "wrong"
    assert torn.detail == "torn: weights.safetensors is not the same"
    bundles.clear()
    [none] = found(diagnose(installation), "bundle")
    assert none.state == "wrong"


@pytest.fixture
def snapshot(installation: Installation, sessions: Sessions) -> Path:
    """The folder of a published snapshot of five vectors."""
    add(sessions, installation.store, 5)
    fill_space(sessions, put_space(sessions))
    with sessions.begin() as session:
        space = embeddings.active_space(session)
        assert space is not None
        built = SnapshotStore(installation.snapshots_dir).build(session, space)
    return installation.snapshots_dir / space.fingerprint[:12] / str(built.id)


def test_a_sound_snapshot(installation: Installation, snapshot: Path) -> None:
    [finding] = found(diagnose(installation), "snapshot")
    assert (finding.state, finding.detail) == ("ok", "5 vectors, checksums agree")


@pytest.mark.parametrize("name", ["ids.npy", "vectors.npy", "codes.faiss", "manifest.json"])
@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_a_damaged_snapshot_is_found(
    installation: Installation, snapshot: Path, name: str, damage: str
) -> None:
    path = snapshot / name
    data = bytearray(path.read_bytes())
    if damage == "flip":
        data[-20] ^= 1
    path.write_bytes(data[:-20] if damage == "cut" else data)
    if damage == "remove":
        path.unlink()
    [finding] = found(diagnose(installation), "snapshot")
    assert finding.state == "wrong"
    assert str(snapshot) in finding.detail
    assert snapshot.is_dir()


def test_a_snapshot_that_is_elsewhere_is_no_matter(
    installation: Installation, snapshot: Path
) -> None:
    shutil.rmtree(snapshot)
    assert found(diagnose(installation), "snapshot") == []


def test_names_of_the_head_are_counted(installation: Installation, sessions: Sessions) -> None:
    add(sessions, installation.store, 1)
    space = put_space(sessions)
    with sessions.begin() as session:
        embeddings.register_head(
            session,
            model_id=space,
            version="1",
            slots=[("luna", None), ("Sol", None), (None, None)],
            scale=30.0,
            min_probability=0.05,
            digest="d" * 64,
        )
    [finding] = found(diagnose(installation), "head")
    assert finding.state == "ok"
    assert finding.detail == (
        "2 of 3 slots have a name; 1 of these names are individuals of the catalogue"
    )


def test_an_import_that_did_not_end_is_noted(
    installation: Installation, sessions: Sessions
) -> None:
    with sessions.begin() as session:
        run = records.start_import(session, source="/photos", layout="folders", total=10)
        records.advance_import(session, run, imported=4)
    [note] = found(diagnose(installation), "import")
    assert note.state == "note"
    assert "4 of 10" in note.detail
    assert note.next_step is not None
    assert "resight import /photos" in note.next_step
    with sessions.begin() as session:
        records.finish_import(session, run)
    assert found(diagnose(installation), "import") == []


def test_an_empty_database_says_how_to_upgrade(tmp_path: Path, empty_url: str) -> None:
    engine = make_engine(empty_url)
    findings = diagnose(
        Installation(engine, MediaStore(tmp_path / "m"), tmp_path / "b", tmp_path / "s")
    )
    engine.dispose()
    assert wrong(findings) == ["database"]
    assert "resight db upgrade" in next(f for f in findings if f.state == "wrong").detail


def test_a_database_that_is_away_ends_only_what_needs_it(tmp_path: Path) -> None:
    engine = make_engine("postgresql://nobody@127.0.0.1:1/none")
    findings = diagnose(
        Installation(engine, MediaStore(tmp_path / "m"), tmp_path / "b", tmp_path / "s")
    )
    engine.dispose()
    assert wrong(findings) == ["database"]
    assert [finding.subject for finding in findings] == ["database", "bundle"]
    assert "does not answer" in findings[0].detail
