"""Imports: every input ends as imported, known or skipped with a reason, on every try."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session, sessionmaker

from db.errors import Conflict
from db.queries import catalogue, media
from indexer import photos as reading
from indexer.ingest import (
    ImportProgress,
    ImportReport,
    PhotosRefused,
    add_photos,
    plan_import,
    run_import,
)
from indexer.media import MediaError, MediaStore
from tests import zoo

Sessions = sessionmaker[Session]


@pytest.fixture
def store(tmp_path: Path) -> MediaStore:
    return MediaStore(tmp_path / "media")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    root = tmp_path / "source"
    root.mkdir()
    return root


def write(root: Path, photos: dict[str, bytes]) -> Path:
    for name, data in photos.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root


def people(root: Path, individuals: int = 3, photos: int = 4) -> Path:
    return write(
        root,
        {
            f"animal {one}/{number}.jpg": zoo.photo(100 * one + number)
            for one in range(individuals)
            for number in range(photos)
        },
    )


def rows_of(sessions: Sessions, table: str, columns: str = "*") -> list[tuple[object, ...]]:
    with sessions() as session:
        found = session.execute(text(f"SELECT {columns} FROM {table} ORDER BY 1"))
        return [tuple(row) for row in found]


def count(sessions: Sessions, table: str) -> int:
    return len(rows_of(sessions, table))


def whole(report: ImportReport) -> bool:
    return report.total == report.imported + report.already_known + len(report.skipped)


def individual_of(sessions: Sessions, name: str) -> UUID:
    with sessions() as session:
        home = catalogue.default_catalogue(session)
        found = catalogue.find_individual(session, catalogue_id=home.id, name=name)
    assert found is not None
    return found.id


# --- whole imports


def test_folders_become_individuals(sessions: Sessions, store: MediaStore, source: Path) -> None:
    report = run_import(sessions, store, plan_import(people(source)))
    assert whole(report)
    assert (report.total, report.imported, report.already_known) == (12, 12, 0)
    assert report.photos_per_s > 0
    names = {name for (name,) in rows_of(sessions, "individual_name", "name")}
    assert names == {"animal 0", "animal 1", "animal 2"}
    stored = {sha256 for (sha256,) in rows_of(sessions, "media_asset", "sha256")}
    assert stored == set(store.stored())
    assert all(store.verify(sha256) for sha256 in stored)
    described = rows_of(
        sessions, "media_asset", "original_name, width_px, height_px, media_type, byte_size"
    )
    assert described[-1][:-1] == ("3.jpg", 96, 64, "image/jpeg")
    assert sum(int(str(row[-1])) for row in described) == sum(
        path.stat().st_size for path in source.rglob("*.jpg")
    )


def test_a_second_run_changes_nothing(
    sessions: Sessions, store: MediaStore, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_import(people(source))
    run_import(sessions, store, plan)
    before = {
        table: rows_of(sessions, table)
        for table in ("annotation", "media_asset", "individual", "encounter", "individual_name")
    }

    def never(*_: object) -> None:
        raise AssertionError("a photo that is stored was decoded again")

    monkeypatch.setattr(reading, "decode", never)
    report = run_import(sessions, store, plan)
    assert whole(report)
    assert (report.imported, report.already_known) == (0, 12)
    assert {table: rows_of(sessions, table) for table in before} == before


def test_the_same_photos_elsewhere_are_known_too(
    sessions: Sessions, store: MediaStore, source: Path, tmp_path: Path
) -> None:
    run_import(sessions, store, plan_import(people(source)))
    source.rename(tmp_path / "moved")
    report = run_import(sessions, store, plan_import(tmp_path / "moved"))
    assert (report.imported, report.already_known) == (0, 12)


def test_the_whole_photo_zoo_is_answered(
    sessions: Sessions, store: MediaStore, source: Path
) -> None:
    cases = zoo.photos()
    write(source, {f"zoo/{name}": case.data for name, case in cases.items()})
    report = run_import(sessions, store, plan_import(source))
    assert whole(report)
    assert report.total == len(cases)
    expected = {f"zoo/{name}": case.code for name, case in cases.items() if case.code}
    assert {skip.entry: skip.code for skip in report.skipped} == expected
    assert all(len(skip.detail) > 10 for skip in report.skipped)
    good = {case.data for case in cases.values() if case.code is None}
    assert report.imported == len(good) == len(list(store.stored()))
    assert report.imported + report.already_known == len(cases) - len(expected)
    assert store.leftovers() == []


def test_skips_are_kept_with_the_run(sessions: Sessions, store: MediaStore, source: Path) -> None:
    write(source, {"A/good.jpg": zoo.photo(), "A/bad.jpg": b"text", "loose.jpg": zoo.photo(1)})
    report = run_import(sessions, store, plan_import(source))
    [run] = rows_of(
        sessions,
        "import_run",
        "id, source, layout, state, total, imported, already_known, skipped, finished_at",
    )
    assert run[:-1] == (report.run_id, str(source), "folders", "done", 3, 1, 0, 2)
    assert run[-1] is not None
    assert rows_of(sessions, "import_skip", "entry, code") == [
        ("A/bad.jpg", "unsupported_format"),
        ("loose.jpg", "no_individual"),
    ]


def test_progress_tells_only_what_is_committed(
    sessions: Sessions, store: MediaStore, source: Path
) -> None:
    people(source, individuals=5, photos=20)
    seen: list[ImportProgress] = []

    def check(progress: ImportProgress) -> None:
        assert count(sessions, "annotation") == progress.imported
        seen.append(progress)

    report = run_import(sessions, store, plan_import(source), progress=check)
    assert report.imported == 100
    assert [progress.done for progress in seen] == [0, 32, 64, 96, 100]
    assert [name for progress in seen for name in progress.committed] == [
        entry.name for entry in plan_import(source).entries
    ]


def test_an_interrupted_import_goes_on_where_it_stopped(
    sessions: Sessions, store: MediaStore, source: Path
) -> None:
    class Stop(BaseException):
        pass

    def stop_in_the_middle(progress: ImportProgress) -> None:
        if progress.done >= 32:
            raise Stop

    plan = plan_import(people(source, individuals=5, photos=20))
    with pytest.raises(Stop):
        run_import(sessions, store, plan, progress=stop_in_the_middle)
    assert count(sessions, "annotation") == 32

    report = run_import(sessions, store, plan)
    assert whole(report)
    assert (report.imported, report.already_known) == (68, 32)
    states = Counter(state for (state,) in rows_of(sessions, "import_run", "state"))
    assert states == {"failed": 1, "done": 1}


def test_a_full_disk_stops_the_import_and_keeps_what_was_committed(
    sessions: Sessions, store: MediaStore, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_import(people(source, individuals=5, photos=20))
    put, calls = store.put, Counter[str]()

    def full_after_fifty(data: bytes) -> str:
        calls["put"] += 1
        if calls["put"] > 50:
            raise MediaError("disk_full", "There is no room.")
        return put(data)

    with monkeypatch.context() as patched:
        patched.setattr(store, "put", full_after_fifty)
        with pytest.raises(MediaError):
            run_import(sessions, store, plan)
    assert count(sessions, "annotation") == 32
    assert rows_of(sessions, "import_run", "state") == [("failed",)]
    assert run_import(sessions, store, plan).imported == 68


def test_a_lost_file_is_put_back(sessions: Sessions, store: MediaStore, source: Path) -> None:
    plan = plan_import(people(source, 1, 2))
    run_import(sessions, store, plan)
    lost = next(store.stored())
    store.path(lost).unlink()
    assert run_import(sessions, store, plan).already_known == 2
    assert store.verify(lost)


def test_a_file_that_vanishes_after_planning_is_a_skip(
    sessions: Sessions, store: MediaStore, source: Path
) -> None:
    plan = plan_import(people(source, 1, 3))
    (source / "animal 0" / "1.jpg").unlink()
    report = run_import(sessions, store, plan)
    assert whole(report)
    assert [(skip.entry, skip.code) for skip in report.skipped] == [
        ("animal 0/1.jpg", "unreadable")
    ]


def test_two_imports_at_once_share_the_work(
    sessions: Sessions, store: MediaStore, source: Path
) -> None:
    plan = plan_import(people(source, individuals=6, photos=20))
    reports: list[ImportReport] = []
    threads = [
        threading.Thread(target=lambda: reports.append(run_import(sessions, store, plan)))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(reports) == 3
    assert all(whole(report) and not report.skipped for report in reports)
    assert sum(report.imported for report in reports) == 120
    assert count(sessions, "annotation") == count(sessions, "media_asset") == 120
    assert count(sessions, "individual") == 6


# --- who is who


def test_a_photo_of_another_individual_is_a_skip_that_names_it(
    sessions: Sessions, store: MediaStore, source: Path
) -> None:
    same = zoo.photo(7)
    write(source, {"A/1.jpg": same, "B/1.jpg": same, "B/2.jpg": zoo.photo(8), "C/1.jpg": same})
    report = run_import(sessions, store, plan_import(source))
    assert whole(report)
    assert report.imported == 2
    assert {skip.entry: skip.code for skip in report.skipped} == {
        "B/1.jpg": "annotation_belongs_to_other",
        "C/1.jpg": "annotation_belongs_to_other",
    }
    assert {name for (name,) in rows_of(sessions, "individual_name", "name")} == {"A", "B"}


def test_copies_of_a_photo_are_known(sessions: Sessions, store: MediaStore, source: Path) -> None:
    write(source, {f"A/{number}.jpg": zoo.photo(7) for number in range(3)})
    report = run_import(sessions, store, plan_import(source))
    assert (report.imported, report.already_known, report.skipped) == (1, 2, ())


def test_an_unknown_animal_is_named_by_a_later_import(
    sessions: Sessions, store: MediaStore, source: Path, tmp_path: Path
) -> None:
    write(source, {"unknown/1.jpg": zoo.photo(1), "unknown/2.jpg": zoo.photo(2)})
    assert run_import(sessions, store, plan_import(source)).imported == 2
    assert rows_of(sessions, "annotation", "individual_id") == [(None,), (None,)]

    named = write(tmp_path / "named", {"Luna/x.jpg": zoo.photo(2)})
    assert run_import(sessions, store, plan_import(named)).imported == 1
    assert run_import(sessions, store, plan_import(source)).already_known == 2
    luna = individual_of(sessions, "luna")
    assert rows_of(sessions, "annotation", "individual_id") == [(luna,), (None,)]


def test_catalogues_keep_their_individuals_apart(
    sessions: Sessions, store: MediaStore, source: Path
) -> None:
    plan = plan_import(people(source, 1, 2))
    run_import(sessions, store, plan)
    report = run_import(sessions, store, plan, catalogue_name="Other")
    assert report.imported == 2
    assert count(sessions, "media_asset") == 2
    assert count(sessions, "annotation") == 4
    assert count(sessions, "individual") == 2


def test_an_import_finds_an_individual_through_its_merge(
    sessions: Sessions, store: MediaStore, source: Path
) -> None:
    plan = plan_import(people(source, 2, 2))
    run_import(sessions, store, plan)
    kept, merged = (individual_of(sessions, f"animal {n}") for n in range(2))
    with sessions.begin() as session:
        session.execute(
            text("UPDATE individual SET merged_into_id = :kept WHERE id = :merged"),
            {"kept": kept, "merged": merged},
        )
    report = run_import(sessions, store, plan)
    assert (report.imported, report.already_known, report.skipped) == (0, 4, ())


# --- what a table tells

TABLE = """image_id,identity,path,bbox,date,orientation,species,encounter
x1,007,a.jpg,,2024-05-31 10:00:00,left,humpback_whale,14
x2,7013564429e6,a.jpg,"[10, 5, 20, 30]",2024-05-30,right,bottlenose_dolpin,14
x3,unknown,b.jpg,"[0, 0, 96, 64]",,,,
x4,1,b.jpg,"[90, 0, 50, 50]",,,,
x5,1,b.jpg,"[-1, -1, 50, 50]",2024-06-01,,,
"""


def test_what_a_table_tells_is_kept(sessions: Sessions, store: MediaStore, source: Path) -> None:
    write(source, {"a.jpg": zoo.photo(1), "b.jpg": zoo.photo(2)})
    (source / "metadata.csv").write_text(TABLE)
    report = run_import(sessions, store, plan_import(source))
    assert whole(report)
    assert {skip.entry: skip.code for skip in report.skipped} == {"b.jpg": "box_outside"}
    assert "10 %" in report.skipped[0].detail or "12 %" in report.skipped[0].detail

    found = rows_of(
        sessions,
        "annotation a LEFT JOIN individual_name n USING (individual_id)"
        " LEFT JOIN taxon t ON t.id = a.taxon_id LEFT JOIN encounter e ON e.id = a.encounter_id",
        "a.source_ref, n.name, t.common_name, a.viewpoint, e.external_id, e.started_at,"
        " a.box_x_px, a.box_y_px, a.box_w_px, a.box_h_px",
    )
    day = datetime(2024, 5, 31, 10, tzinfo=UTC)
    assert found == [
        ("x1", "007", "humpback whale", "left", "source/007/14", day) + (None,) * 4,
        (
            "x2",
            "7013564429e6",
            "common bottlenose dolphin",
            "right",
            "source/7013564429e6/14",
            datetime(2024, 5, 30, tzinfo=UTC),
            10,
            5,
            20,
            30,
        ),
        ("x3",) + (None,) * 9,
        (
            "x5",
            "1",
            None,
            None,
            "source/1/day 2024-06-01",
            datetime(2024, 6, 1, tzinfo=UTC),
            0,
            0,
            49,
            49,
        ),
    ]


def test_a_box_is_in_pixels_of_the_upright_photo(
    sessions: Sessions, store: MediaStore, source: Path
) -> None:
    write(source, {"a.jpg": zoo.turned(6)})
    (source / "metadata.csv").write_text('identity,path,bbox\nA,a.jpg,"[90, 0, 6, 64]"\n')
    assert run_import(sessions, store, plan_import(source)).imported == 1
    assert rows_of(sessions, "media_asset", "width_px, height_px") == [(96, 64)]


def test_the_camera_clock_makes_encounters_by_day(
    sessions: Sessions, store: MediaStore, source: Path
) -> None:
    def taken(seed: int, when: str) -> bytes:
        return zoo.photo(seed, exif=zoo.exif(taken=when))

    write(
        source,
        {
            "A/1.jpg": taken(1, "2024:05:31 10:00:00"),
            "A/2.jpg": taken(2, "2024:05:31 18:30:00"),
            "A/3.jpg": taken(3, "2024:06:01 09:00:00"),
            "B/1.jpg": taken(4, "2024:05:31 10:00:00"),
            "unknown/1.jpg": taken(5, "2024:05:31 10:00:00"),
            "B/2.jpg": zoo.photo(6),
        },
    )
    run_import(sessions, store, plan_import(source, source="S"))
    grouped = Counter(
        name
        for (name,) in rows_of(
            sessions, "annotation a LEFT JOIN encounter e ON e.id = a.encounter_id", "external_id"
        )
    )
    assert grouped == {
        "S/A/day 2024-05-31": 2,
        "S/A/day 2024-06-01": 1,
        "S/B/day 2024-05-31": 1,
        None: 2,
    }


# --- photos added one by one


@pytest.fixture
def luna(session: Session) -> catalogue.IndividualRow:
    home = catalogue.default_catalogue(session)
    return catalogue.create_individual(session, catalogue_id=home.id, name="Luna")


Add = Callable[..., list[media.AnnotationRow]]


@pytest.fixture
def add(session: Session, store: MediaStore, luna: catalogue.IndividualRow) -> Add:
    def call(
        *photos: tuple[str | None, bytes], to: UUID | None = None
    ) -> list[media.AnnotationRow]:
        return add_photos(
            session,
            store,
            catalogue_id=luna.catalogue_id,
            individual_id=to or luna.id,
            photos=photos,
        )

    return call


def test_photos_are_added_in_order(
    add: Add, luna: catalogue.IndividualRow, store: MediaStore
) -> None:
    photos = [("a.jpg", zoo.photo(1)), (None, zoo.photo(2)), ("Ω\u202e.jpg", zoo.photo(3))]
    added = add(*photos)
    assert [row.source_ref for row in added] == ["a.jpg", None, "Ω\u202e.jpg"]
    assert [store.read(row.sha256) for row in added] == [data for _, data in photos]
    assert {row.individual_id for row in added} == {luna.id}
    assert add(*photos) == added


def test_one_bad_photo_refuses_all_and_all_bad_ones_are_named(
    add: Add, session: Session, store: MediaStore
) -> None:
    before = catalogue.counts(session)
    with pytest.raises(PhotosRefused) as caught:
        add(("a.jpg", zoo.photo(1)), ("b.jpg", b""), ("c.jpg", b"text"))
    problems = [(one.position, one.name, one.code) for one in caught.value.problems]
    assert problems == [(1, "b.jpg", "empty"), (2, "c.jpg", "unsupported_format")]
    assert "Nothing was added" in str(caught.value)
    assert catalogue.counts(session) == before
    assert list(store.stored()) == []


def test_a_photo_of_somebody_else_is_a_conflict(
    add: Add, session: Session, luna: catalogue.IndividualRow
) -> None:
    other = catalogue.create_individual(session, catalogue_id=luna.catalogue_id, name="Sol")
    add(("a.jpg", zoo.photo(1)))
    with pytest.raises(Conflict) as caught:
        add(("b.jpg", zoo.photo(2)), ("a.jpg", zoo.photo(1)), to=other.id)
    assert caught.value.code == "annotation_belongs_to_other"


def test_rows_follow_the_callers_transaction(sessions: Sessions, store: MediaStore) -> None:
    with sessions() as session:
        home = catalogue.default_catalogue(session)
        sol = catalogue.create_individual(session, catalogue_id=home.id, name="Sol")
        add_photos(
            session,
            store,
            catalogue_id=home.id,
            individual_id=sol.id,
            photos=[("a.jpg", zoo.photo(1))],
        )
        session.rollback()
    assert count(sessions, "media_asset") == count(sessions, "annotation") == 0
    assert len(list(store.stored())) == 1


@pytest.mark.parametrize("name", ["a\0b.jpg", "x" * 5000, "caf\udce9.jpg", "../../etc/passwd", ""])
def test_any_file_name_is_only_a_text(add: Add, store: MediaStore, name: str) -> None:
    [row] = add((name, zoo.photo(1)))
    assert store.read(row.sha256) == zoo.photo(1)
    assert row.source_ref == name.replace("\0", "").replace("\udce9", "?")
