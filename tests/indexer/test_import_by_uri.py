"""Imports that leave photos where they are: read once, found by their row, never trusted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.orm import Session, sessionmaker

from db.queries import catalogue, media
from indexer.doctor import Installation, diagnose, sweep
from indexer.ingest import ImportReport, add_photos, run_import
from indexer.layouts import ImportPlan, ImportPlanError, plan_import
from indexer.media import MediaError, MediaStore, StoreUnavailable, open_media
from indexer.remote_layouts import plan_uri
from tests import s3, zoo

Sessions = sessionmaker[Session]
ALLOWED = ("file:///", "s3://photos/")


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[s3.S3]:
    with s3.serving() as started:
        for name, value in started.environment.items():
            monkeypatch.setenv(name, value)
        yield started


@pytest.fixture
def store(sessions: Sessions, tmp_path: Path) -> MediaStore:
    return open_media(tmp_path / "media", sessions=sessions)


def tree(individuals: int = 3, photos: int = 4) -> dict[str, bytes]:
    return {
        f"animal {one}/{number}.jpg": zoo.photo(100 * one + number)
        for one in range(individuals)
        for number in range(photos)
    }


def upload(bucket: s3.S3, files: dict[str, bytes], prefix: str = "field season") -> str:
    for name, data in files.items():
        bucket.put(f"{prefix}/{name}", data)
    return f"s3://photos/{prefix}"


def write(root: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root


def imported(sessions: Sessions, store: MediaStore, uri: str) -> ImportReport:
    report = run_import(sessions, store, plan_uri(uri, allowed=ALLOWED))
    assert report.total == report.imported + report.already_known + len(report.skipped)
    return report


def rows(sessions: Sessions) -> list[media.MediaRow]:
    with sessions() as session:
        return media.list_media(session)


def told(plan: ImportPlan) -> tuple[object, ...]:
    """What a plan says, whatever place it was read from."""
    entries = {
        (one.name, one.individual, one.taxon, one.box_px, one.started_at, one.source_ref)
        for one in plan.entries
    }
    return plan.layout, entries, {(one.entry, one.code) for one in plan.skips}


# --- what stays where it is


def test_photos_stay_and_are_read_where_they_are(
    sessions: Sessions, store: MediaStore, bucket: s3.S3
) -> None:
    files = tree()
    uri = upload(bucket, files)
    bucket.requests.clear()
    report = imported(sessions, store, uri)
    assert (report.imported, len(report.skipped)) == (12, 0)
    assert bucket.requests == Counter({"GET": 12 + 1})  # each photo once, and the listing
    assert list(store.stored()) == []
    by_location = {row.location: row for row in rows(sessions)}
    assert set(by_location) == {f"{uri}/{name}" for name in files}
    for name, data in files.items():
        row = by_location[f"{uri}/{name}"]
        assert row.original_name == name.rpartition("/")[2]
        assert (row.width_px, row.height_px, row.byte_size) == (96, 64, len(data))
        assert row.perceptual_hash is not None
        assert store.read(row.sha256) == store.read(row.sha256, row.location) == data
        assert store.verify(row.sha256, row.location)
    assert store.derived(row.sha256, "thumb").is_file()
    assert {key.partition("/")[0] for key in bucket.objects} == {"field season"}


def test_files_stay_where_they_are_too(
    sessions: Sessions, store: MediaStore, tmp_path: Path
) -> None:
    source = write(tmp_path / "field é %20 #1", tree())
    assert imported(sessions, store, source.as_uri()).imported == 12
    assert list(store.stored()) == []
    for row in rows(sessions):
        assert row.location is not None
        assert row.location.startswith("file:///")
        assert store.read(row.sha256) == store.locations.read(row.location, 10**6)


def test_a_second_run_changes_nothing(sessions: Sessions, store: MediaStore, bucket: s3.S3) -> None:
    uri = upload(bucket, tree())
    imported(sessions, store, uri)
    before = rows(sessions)
    report = imported(sessions, store, uri)
    assert (report.imported, report.already_known) == (0, 12)
    assert rows(sessions) == before


def test_names_are_kept_whatever_they_are(
    sessions: Sessions, store: MediaStore, bucket: s3.S3
) -> None:
    """Promise 60: any Unicode in a name is kept and shown; the bytes are found again under it."""
    names = ["Ωλ 🐋/é%20b%2F.jpg", "a#b/c?d=e&f.jpg", "+ plus/ ~!@$.jpg", "日本/写真.jpg"]
    uri = upload(bucket, {name: zoo.photo(one) for one, name in enumerate(names)})
    assert imported(sessions, store, uri).imported == len(names)
    found = rows(sessions)
    assert {row.location for row in found} == {f"{uri}/{name}" for name in names}
    assert {store.read(row.sha256) for row in found} == set(map(zoo.photo, range(len(names))))
    with sessions() as session:
        home = catalogue.default_catalogue(session)
        listed = catalogue.list_individuals(session, catalogue_id=home.id)
    assert {one.name for one in listed.items} == {name.partition("/")[0] for name in names}


# --- the layouts are those of a folder


def test_a_prefix_is_planned_like_the_same_folder(bucket: s3.S3, tmp_path: Path) -> None:
    files = tree() | {
        "unknown/who.jpg": zoo.photo(900),
        "animal 0/deeper/5.jpg": zoo.photo(901),
        "animal 0/.hidden/x.jpg": b"x",
        "animal 0/.hidden/y.jpg": b"y",
        ".trash/1.jpg": b"x",
        "animal 1/Thumbs.db": b"x",
        "loose.jpg": b"x",
        ".DS_Store": b"x",
        "notes.csv": b"a,b\n1,2\n",
    }
    uri = upload(bucket, files)
    for marker in ("", "animal 0/", "animal 0/deeper/"):
        bucket.put(f"field season/{marker}", b"")
    remote, local = plan_uri(uri + "/", allowed=ALLOWED), plan_import(write(tmp_path / "f", files))
    assert told(remote) == told(local)
    assert [one.code for one in remote.warnings] == ["table_ignored"]
    assert remote.source == "field season"


@pytest.mark.parametrize("end", ["", "/", "/metadata.csv"])
def test_a_table_in_a_prefix_is_planned_like_the_same_file(
    bucket: s3.S3, tmp_path: Path, end: str
) -> None:
    table = (
        b"path,identity,species,bbox,date\n"
        b'images/1.jpg,Luna,humpback whale,"[1, 2, 30, 40]",2024-05-31\n'
        b"2.jpg,Sol,,,\n"
        b"./images/1.jpg,Luna,,,\n"
        b"gone.jpg,Sol,,,\n"
        b"../secret.jpg,Sol,,,\n"
        b"/etc/passwd,Sol,,,\n"
        b"s3://photos/other/1.jpg,Sol,,,\n"
    )
    files = {"metadata.csv": table, "images/1.jpg": zoo.photo(1), "images/2.jpg": zoo.photo(2)}
    bucket.put("secret.jpg", zoo.photo(3))
    remote = plan_uri(upload(bucket, files) + end, allowed=ALLOWED)
    local = plan_import(write(tmp_path / "field season", files) / end.strip("/"))
    assert told(remote) == told(local)
    assert {one.location for one in remote.entries} == {
        "s3://photos/field season/images/1.jpg",
        "s3://photos/field season/images/2.jpg",
    }


def test_a_source_that_makes_no_sense_is_refused_as_a_whole(bucket: s3.S3) -> None:
    upload(bucket, {"loose.jpg": b"x", "table.csv": b"a,b\n1,2\n"})
    cases = {
        "s3://photos/nothing": "not_found",
        "s3://photos/field season/none.csv": "not_found",
        "s3://photos/field season": "no_individuals",
        "s3://photos/field season/table.csv": "unknown_columns",
    }
    for uri, code in cases.items():
        with pytest.raises(ImportPlanError) as caught:
            plan_uri(uri, allowed=ALLOWED)
        assert caught.value.code == code, uri


@pytest.mark.parametrize("key", ["a//b.jpg", "a/../b.jpg", "a/./b.jpg"])
def test_a_name_that_cannot_be_read_refuses_the_listing_with_its_name(
    bucket: s3.S3, key: str
) -> None:
    uri = upload(bucket, {"a/good.jpg": zoo.photo(), key: zoo.photo(1)})
    with pytest.raises(MediaError, match="Rename it") as caught:
        plan_uri(uri, allowed=ALLOWED)
    assert caught.value.code == "bad_location"


# --- what may be imported


@pytest.mark.parametrize(
    ("uri", "allowed"),
    [
        ("s3://photos/field", ("file:///",)),
        ("s3://photos-of-others/field", ("s3://photos",)),
        ("s3://photos/field-2/x", ("s3://photos/field",)),
        ("s3://photos/field/../secret", ("s3://photos/field",)),
        ("file:///etc", ("file:///data",)),
        ("file:///data/../etc", ("file:///data",)),
        ("file://host/data", ("file:///",)),
        ("http://169.254.169.254/latest", ("http://", "file:///")),
        ("https://photos.example.org/x", ("https://",)),
        ("memory:///x", ("memory://",)),
        ("ftp://host/x", ("ftp://",)),
        ("s3://photos/field", ()),
    ],
)
def test_what_is_not_allowed_is_not_asked_for(
    bucket: s3.S3, uri: str, allowed: tuple[str, ...]
) -> None:
    """Promise 66: an import reads from nowhere but the places that the operator has listed."""
    with pytest.raises(MediaError) as caught:
        plan_uri(uri, allowed=allowed)
    assert caught.value.code == "bad_location"
    assert bucket.requests == Counter()


def test_a_link_does_not_lead_out_of_what_is_allowed(tmp_path: Path) -> None:
    secret = write(tmp_path / "secret", tree())
    allowed = tmp_path / "allowed"
    allowed.mkdir()
    (allowed / "way out").symlink_to(secret)
    with pytest.raises(MediaError, match="IMPORT_PREFIXES"):
        plan_uri((allowed / "way out").as_uri(), allowed=(allowed.as_uri(),))
    (tmp_path / "link").symlink_to(secret)
    assert plan_uri(secret.as_uri(), allowed=((tmp_path / "link").as_uri(),)).total == 12


# --- what goes wrong


def test_the_whole_photo_zoo_is_answered(
    sessions: Sessions, store: MediaStore, bucket: s3.S3
) -> None:
    cases = zoo.photos()
    uri = upload(bucket, {f"zoo/{name}": case.data for name, case in cases.items()})
    report = imported(sessions, store, uri)
    assert report.total == len(cases)
    expected = {f"zoo/{name}": case.code for name, case in cases.items() if case.code}
    assert {skip.entry: skip.code for skip in report.skipped} == expected
    assert report.imported == len({case.data for case in cases.values() if case.code is None})


def test_an_object_that_went_between_listing_and_reading_is_a_skip(
    sessions: Sessions, store: MediaStore, bucket: s3.S3
) -> None:
    plan = plan_uri(upload(bucket, tree()), allowed=ALLOWED)
    del bucket.objects["field season/animal 0/1.jpg"]
    report = run_import(sessions, store, plan)
    assert report.imported == 11
    assert [(one.entry, one.code) for one in report.skipped] == [("animal 0/1.jpg", "file_missing")]


def test_an_outage_ends_an_import_and_the_next_one_completes_it(
    sessions: Sessions, store: MediaStore, bucket: s3.S3
) -> None:
    plan = plan_uri(upload(bucket, tree()), allowed=ALLOWED)
    bucket.fail = 503
    with pytest.raises(StoreUnavailable):
        run_import(sessions, store, plan)
    assert rows(sessions) == []
    bucket.fail = None
    assert run_import(sessions, store, plan).imported == 12


def test_a_changed_object_is_damaged_and_doctor_finds_it_alone(
    sessions: Sessions, store: MediaStore, bucket: s3.S3, engine: Engine, tmp_path: Path
) -> None:
    """Promise 9: bytes that are not those of the row are never used, wherever they lie."""
    uri = upload(bucket, tree(1, 3))
    imported(sessions, store, uri)
    changed, gone, whole = rows(sessions)
    installation = Installation(engine, store, tmp_path / "models", tmp_path / "snapshots")

    def photos(*, deep: bool) -> list[tuple[str, str]]:
        found = diagnose(installation, deep=deep)
        return [(one.state, one.detail) for one in found if one.subject == "photos"]

    assert photos(deep=True) == [
        ("ok", "all 0 are unchanged"),
        ("ok", "all 3 left in place are unchanged"),
    ]
    data = bytearray(store.read(changed.sha256))
    data[100] ^= 1
    bucket.put(_key(changed), bytes(data))
    del bucket.objects[_key(gone)]
    with pytest.raises(MediaError, match="not the photo") as caught:
        store.read(changed.sha256)
    assert caught.value.code == "media_damaged"
    with pytest.raises(MediaError, match="Nothing lies at") as caught:
        store.read(gone.sha256)
    assert caught.value.code == "media_missing"
    assert store.read(whole.sha256) == zoo.photo(2)
    [_, (state, detail)] = photos(deep=False)
    assert (state, detail.partition(" left")[0]) == ("wrong", "1 of 3")
    [_, (state, detail)] = photos(deep=True)
    assert (state, detail.partition(" left")[0]) == ("wrong", "2 of 3")
    assert changed.sha256[:12] in detail
    assert whole.sha256[:12] not in detail
    bucket.fail = 503
    [(state, detail)] = photos(deep=False)
    assert state == "wrong"
    assert "does not answer" in detail


def _key(row: media.MediaRow) -> str:
    assert row.location is not None
    return row.location.removeprefix("s3://photos/")


# --- photos that move


def test_a_lost_photo_is_found_again_where_it_is_now(
    sessions: Sessions, store: MediaStore, bucket: s3.S3
) -> None:
    imported(sessions, store, upload(bucket, tree()))
    bucket.objects.clear()
    report = imported(sessions, store, upload(bucket, tree(), "moved"))
    assert (report.imported, report.already_known) == (0, 12)
    for row in rows(sessions):
        assert row.location is not None
        assert row.location.startswith("s3://photos/moved/")
        assert store.read(row.sha256)


def test_a_copy_elsewhere_moves_nothing_while_the_first_is_there(
    sessions: Sessions, store: MediaStore, bucket: s3.S3
) -> None:
    imported(sessions, store, upload(bucket, tree()))
    before = rows(sessions)
    imported(sessions, store, upload(bucket, tree(), "copy"))
    assert rows(sessions) == before


def test_a_photo_of_the_store_stays_in_the_store(
    sessions: Sessions, store: MediaStore, bucket: s3.S3, tmp_path: Path
) -> None:
    run_import(sessions, store, plan_import(write(tmp_path / "copied", tree())))
    imported(sessions, store, upload(bucket, tree()))
    assert {row.location for row in rows(sessions)} == {None}


def test_a_lost_file_of_the_store_is_read_where_it_was_imported_again(
    sessions: Sessions, store: MediaStore, bucket: s3.S3, tmp_path: Path
) -> None:
    run_import(sessions, store, plan_import(write(tmp_path / "copied", tree())))
    lost = next(iter(store.stored()))
    path = store.path(lost)
    assert path is not None
    path.unlink()
    imported(sessions, store, upload(bucket, tree()))
    located = [row for row in rows(sessions) if row.location is not None]
    assert [row.sha256 for row in located] == [lost]
    assert store.verify(lost, located[0].location)


def test_a_copying_import_brings_photos_into_the_store(
    sessions: Sessions, store: MediaStore, bucket: s3.S3, tmp_path: Path
) -> None:
    imported(sessions, store, upload(bucket, tree()))
    report = run_import(sessions, store, plan_import(write(tmp_path / "copied", tree())))
    assert (report.imported, report.already_known) == (0, 12)
    bucket.objects.clear()
    for row in rows(sessions):
        assert row.location is None
        assert store.verify(row.sha256)


def test_an_upload_of_a_photo_that_stays_elsewhere_keeps_it_here(
    sessions: Sessions, store: MediaStore, bucket: s3.S3
) -> None:
    imported(sessions, store, upload(bucket, {"Luna/1.jpg": zoo.photo(1)}))
    with sessions.begin() as session:
        home = catalogue.default_catalogue(session)
        luna = catalogue.find_individual(session, catalogue_id=home.id, name="Luna")
        assert luna is not None
        add_photos(
            session,
            store,
            catalogue_id=home.id,
            individual_id=luna.id,
            photos=[("again.jpg", zoo.photo(1))],
        )
    [row] = rows(sessions)
    assert row.location is None
    bucket.objects.clear()
    assert store.read(row.sha256) == zoo.photo(1)


def test_a_sweep_touches_nothing_that_is_not_ours(
    sessions: Sessions, store: MediaStore, bucket: s3.S3
) -> None:
    imported(sessions, store, upload(bucket, tree()))
    before = dict(bucket.objects)
    assert sweep(sessions, store, 0.0).orphans == 0
    with sessions.begin() as session:
        session.execute(text("TRUNCATE media_asset CASCADE"))
    assert sweep(sessions, store, 0.0).orphans == 0
    assert bucket.objects == before
