"""Plans: every problem of a source is told before anything is stored, and ids stay text."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import pytest

from indexer.archive import Skip
from indexer.layouts import (
    ImportEntry,
    ImportPlan,
    ImportPlanError,
    Layout,
    encounter_id,
    plan_import,
)
from tests import zoo


def fill(root: Path, *names: str) -> Path:
    for number, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(zoo.photo(number))
    return root


def table(root: Path, text: str, name: str = "metadata.csv", encoding: str = "utf-8") -> Path:
    root.mkdir(parents=True, exist_ok=True)
    (root / name).write_bytes(text.encode(encoding))
    return root


def codes(found: tuple[Skip, ...]) -> dict[str, str]:
    return {skip.entry: skip.code for skip in found}


def by_name(plan: ImportPlan) -> dict[str, ImportEntry]:
    return {entry.name: entry for entry in plan.entries}


def refused(path: Path, layout: str | None = None) -> ImportPlanError:
    with pytest.raises(ImportPlanError) as caught:
        plan_import(path, layout)
    return caught.value


# --- folders


def test_a_folder_per_individual(tmp_path: Path) -> None:
    fill(tmp_path, "Luna/a.jpg", "Luna/2019/b.jpg", "007/c.png", "unknown/d.jpg")
    plan = plan_import(tmp_path)
    assert plan.layout is Layout.FOLDERS
    assert [(entry.name, entry.individual) for entry in plan.entries] == [
        ("007/c.png", "007"),
        ("Luna/a.jpg", "Luna"),
        ("Luna/2019/b.jpg", "Luna"),
        ("unknown/d.jpg", None),
    ]
    assert plan.individuals == 2
    assert plan.total == 4
    assert all(entry.path.read_bytes() for entry in plan.entries)


def test_what_is_no_photo_of_anybody_is_named(tmp_path: Path) -> None:
    root = fill(
        tmp_path / "photos",
        "Luna/a.jpg",
        "Luna/.DS_Store",
        "Luna/._a.jpg",
        "loose.jpg",
        "Thumbs.db",
        ".cache/x.jpg",
        "Luna/.git/y.jpg",
    )
    (root / "Empty").mkdir()
    fill(tmp_path, "elsewhere/secret.jpg")
    (root / "Luna" / "link.jpg").symlink_to(tmp_path / "elsewhere" / "secret.jpg")
    (root / "Luna" / "inside.jpg").symlink_to(root / "loose.jpg")
    (root / "Luna" / "broken.jpg").symlink_to(root / "none.jpg")
    (root / "Luna" / "loop").symlink_to(root)
    (root / "Other").symlink_to(tmp_path / "elsewhere")

    plan = plan_import(root)
    assert {entry.name for entry in plan.entries} == {"Luna/a.jpg", "Luna/inside.jpg"}
    assert codes(plan.skips) == {
        "Luna/.DS_Store": "system_file",
        "Luna/._a.jpg": "system_file",
        "loose.jpg": "no_individual",
        "Thumbs.db": "system_file",
        ".cache": "system_file",
        "Luna/.git": "system_file",
        "Luna/link.jpg": "outside_folder",
        "Luna/broken.jpg": "file_missing",
        "Luna/loop": "symlink",
        "Other": "symlink",
    }
    assert codes(plan.warnings) == {"Empty": "empty_folder"}
    assert plan.total == 12


def test_names_that_are_no_text_are_named_readably(tmp_path: Path) -> None:
    fill(tmp_path, "Luna/a.jpg")
    undecodable = tmp_path.joinpath("Luna", b"caf\xe9.jpg".decode("utf-8", "surrogateescape"))
    undecodable.write_bytes(zoo.photo())
    plan = plan_import(tmp_path)
    assert [skip.code for skip in plan.skips] == ["bad_text"]
    plan.skips[0].entry.encode()


def test_a_folder_without_individuals_says_what_to_do(tmp_path: Path) -> None:
    fill(tmp_path, "a.jpg")
    error = refused(tmp_path)
    assert error.code == "no_individuals"
    assert "folder with its name" in error.detail


@pytest.mark.parametrize(
    ("make", "layout", "code"),
    [
        (lambda root: root / "none", None, "not_found"),
        (lambda root: fill(root, "a.zip") / "a.zip", None, "unknown_columns"),
        (lambda root: table(root, "id,name\n1,2\n") / "metadata.csv", None, "unknown_columns"),
        (lambda root: table(root, "identity,path\n") / "metadata.csv", None, "no_rows"),
        (lambda root: table(root, "") / "metadata.csv", None, "unknown_columns"),
        (lambda root: table(root, "identity,path\n") / "metadata.csv", "folders", "not_a_source"),
        (lambda root: table(root, "identity,path\n1,2\n"), "happywhale", "unknown_columns"),
        (lambda root: table(root, 'identity,path\n1,"' + "x" * 200_000), None, "not_a_table"),
    ],
)  # fmt: skip
def test_a_source_that_makes_no_sense_is_refused(
    tmp_path: Path, make: object, layout: str | None, code: str
) -> None:
    path = make(tmp_path)  # type: ignore[operator]
    error = refused(path, layout)
    assert error.code == code
    assert error.detail.endswith(".")


def test_an_archive_is_to_be_unpacked_first(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(zoo.packed([("a.jpg", zoo.photo())]))
    assert "Unpack" in refused(tmp_path / "a.zip").detail


# --- tables


WILDLIFE = """image_id,identity,path,bbox,date,orientation,species,encounter
x1,007,a.jpg,"[0, 1, 10.5, 20]",2024-05-31 10:00:00,left,humpback_whale,14
x2,unknown,b.jpg,,2024-06-01,right,humpback_whale,15
7013564429e6,7013564429e6,images/c.jpg,nan,,NA,,
x4,1,a.jpg,"[10, 10, 5, 5]",2024-05-30,left,humpback_whale,14
"""


def test_the_table_of_wildlife_datasets(tmp_path: Path) -> None:
    fill(tmp_path, "a.jpg", "b.jpg", "images/c.jpg")
    plan = plan_import(table(tmp_path, WILDLIFE), source="set")
    assert plan.layout is Layout.WILDLIFE
    first, second, third, fourth = plan.entries
    assert first == ImportEntry(
        name="a.jpg",
        path=tmp_path / "a.jpg",
        individual="007",
        taxon="humpback_whale",
        box_px=(0, 1, 11, 20),
        viewpoint="left",
        encounter="set/007/14",
        started_at=datetime(2024, 5, 31, 10, tzinfo=UTC),
        source_ref="x1",
    )
    assert second.individual is None
    assert second.encounter == "set/unknown/15"
    assert third.individual == third.source_ref == "7013564429e6"
    assert (third.box_px, third.viewpoint, third.taxon, third.encounter) == (None,) * 4
    assert fourth.individual == "1"
    assert fourth.encounter == "set/1/14"
    assert fourth.box_px == (10, 10, 5, 5)
    assert plan.warnings == plan.skips == ()


@pytest.mark.parametrize(
    ("delimiter", "newline", "encoding"),
    [
        (",", "\n", "utf-8"),
        (",", "\r\n", "utf-8-sig"),
        (";", "\r\n", "utf-8-sig"),
        ("\t", "\n", "utf-16"),
        (";", "\r\n", "cp1252"),
    ],
)
def test_tables_as_programs_write_them(
    tmp_path: Path, delimiter: str, newline: str, encoding: str
) -> None:
    fill(tmp_path, "a.jpg", "b.jpg")
    rows = [
        ["Identity", "Path", "species"],
        ["Zoë", "a.jpg", "fin whale"],
        [f'"x{delimiter}y"', '"b.jpg"', ""],
        ["", "", ""],
    ]
    text = newline.join(delimiter.join(row) for row in rows) + newline
    plan = plan_import(table(tmp_path, text, encoding=encoding))
    assert [entry.individual for entry in plan.entries] == ["Zoë", f"x{delimiter}y"]
    assert [skip.code for skip in plan.warnings] == (
        ["encoding_guessed"] if encoding == "cp1252" else []
    )


def test_every_bad_row_is_named_at_once(tmp_path: Path) -> None:
    root = fill(tmp_path / "set", "a.jpg", "b.jpg", "sub/c.jpg")
    fill(tmp_path, "secret.jpg")
    (root / "link.jpg").symlink_to(tmp_path / "secret.jpg")
    long = "x" * 5000
    text = f"""identity,path,bbox,date
1,none.jpg,,
1,../secret.jpg,,
1,{tmp_path}/secret.jpg,,
1,C:\\secret.jpg,,
1,link.jpg,,
1,sub,,
1,,,
1,"a.jpg","[1, 2, 3]",
1,"b.jpg","[1, 2, 0, 3]",
1,a.jpg,,,,more
1
{long},b.jpg,,
1,{long},,
2,sub\\c.jpg,,
"""
    plan = plan_import(table(root, text))
    assert [skip.code for skip in plan.skips] == [
        "file_missing",
        "outside_folder",
        "outside_folder",
        "outside_folder",
        "outside_folder",
        "file_missing",
        "missing_path",
        "bad_box",
        "bad_box",
        "bad_row",
        "bad_row",
        "bad_text",
        "file_missing",
    ]
    assert all("ine " in skip.detail for skip in plan.skips)
    assert [entry.path for entry in plan.entries] == [root / "sub" / "c.jpg"]
    assert plan.total == 14


def test_doubtful_details_are_told_and_the_photo_kept(tmp_path: Path) -> None:
    fill(tmp_path, *(f"{number}.jpg" for number in range(5)))
    text = """identity,path,date
,0.jpg,
NA,1.jpg,
7.01356E+18,2.jpg,
5,3.jpg,31/05/2024
Nan,4.jpg,2024-05-31T10:00:00+02:00
"""
    plan = plan_import(table(tmp_path, text), source="set")
    assert codes(plan.warnings) == {
        "0.jpg": "blank_identity",
        "1.jpg": "blank_identity",
        "2.jpg": "spreadsheet_number",
        "3.jpg": "bad_date",
    }
    assert [entry.individual for entry in plan.entries] == [None, None, "7.01356E+18", "5", "Nan"]
    assert [entry.encounter for entry in plan.entries][-2:] == [None, "set/Nan/day 2024-05-31"]
    assert plan.entries[4].started_at == datetime(2024, 5, 31, 8, tzinfo=UTC)


def test_encounter_numbers_are_each_animals_own(tmp_path: Path) -> None:
    fill(tmp_path, "a.jpg", "b.jpg", "c.jpg", "d.jpg")
    text = """identity,path,encounter,date
A,a.jpg,1,2024-05-02
B,b.jpg,1,2024-05-09
A,c.jpg,1,2024-05-01
A,d.jpg,,2024-05-01
"""
    entries = by_name(plan_import(table(tmp_path, text), source="set"))
    assert entries["a.jpg"].encounter == entries["c.jpg"].encounter == "set/A/1"
    assert entries["b.jpg"].encounter == "set/B/1"
    assert entries["d.jpg"].encounter == "set/A/day 2024-05-01"
    assert entries["a.jpg"].started_at == datetime(2024, 5, 1, tzinfo=UTC)


def test_encounter_ids_cannot_be_mistaken_for_each_other() -> None:
    assert encounter_id("s", "a/b", "c") != encounter_id("s", "a", "b/c")
    assert encounter_id("s", "a%2Fb", "c") != encounter_id("s", "a/b", "c")


def test_a_day_makes_no_encounter_for_an_unknown_animal(tmp_path: Path) -> None:
    fill(tmp_path, "a.jpg")
    plan = plan_import(table(tmp_path, "identity,path,date\nunknown,a.jpg,2024-05-31\n"))
    assert plan.entries[0].encounter is None


@pytest.mark.parametrize("folder", ["train_images", "images", "."])
def test_the_table_of_happywhale(tmp_path: Path, folder: str) -> None:
    fill(tmp_path / folder, "00021adfb725ed.jpg", "000562241d384d.jpg")
    text = """image,species,individual_id
00021adfb725ed.jpg,melon_headed_whale,cadddb1636b9
000562241d384d.jpg,bottlenose_dolpin,1a71fbb72250
0007.jpg,beluga,5
"""
    table(tmp_path, "image,predictions\n1,2\n", "sample_submission.csv")
    plan = plan_import(table(tmp_path, text, "train.csv"))
    assert plan.layout is Layout.HAPPYWHALE
    assert [(entry.individual, entry.taxon) for entry in plan.entries] == [
        ("cadddb1636b9", "melon_headed_whale"),
        ("1a71fbb72250", "bottlenose_dolpin"),
    ]
    assert codes(plan.skips) == {"0007.jpg": "file_missing"}
    assert plan_import(tmp_path / "train.csv", "happywhale") == plan


def test_the_older_happywhale_table_and_its_new_whales(tmp_path: Path) -> None:
    fill(tmp_path, "a.jpg", "b.jpg")
    plan = plan_import(table(tmp_path, "Image,Id\na.jpg,w_1\nb.jpg,new_whale\n", "train.csv"))
    assert [entry.individual for entry in plan.entries] == ["w_1", None]


def test_two_tables_are_not_guessed_between(tmp_path: Path) -> None:
    fill(tmp_path, "a.jpg")
    table(tmp_path, "identity,path\n1,a.jpg\n", "one.csv")
    table(tmp_path, "image,individual_id\na.jpg,1\n", "two.csv")
    error = refused(tmp_path)
    assert error.code == "several_tables"
    assert "one.csv, two.csv" in error.detail
    assert plan_import(tmp_path, "happywhale").layout is Layout.HAPPYWHALE
    assert plan_import(tmp_path / "one.csv").layout is Layout.WILDLIFE


def test_a_table_with_other_columns_beside_folders_is_told(tmp_path: Path) -> None:
    fill(tmp_path, "Luna/a.jpg")
    plan = plan_import(table(tmp_path, "photo,who\na,b\n", "notes.csv"))
    assert plan.layout is Layout.FOLDERS
    assert codes(plan.warnings) == {"notes.csv": "table_ignored"}
    assert plan.skips == ()


def test_a_large_table_is_planned_quickly(tmp_path: Path) -> None:
    fill(tmp_path, "a.jpg")
    rows = "".join(f'{number % 999},a.jpg,"[1, 2, 3, 4]"\n' for number in range(20_000))
    plan = plan_import(table(tmp_path, "identity,path,bbox\n" + rows))
    assert Counter(entry.individual for entry in plan.entries)["7"] == 21
    assert plan.total == 20_000
