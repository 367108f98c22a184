"""Encounters on the command line."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from db import embedded
from service.cli.common import Exit
from tests.photos import NOON, taken
from tests.service.test_cli import Cli


@pytest.fixture(scope="module")
def cli(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cli]:
    data_dir = tmp_path_factory.mktemp("cli")
    yield Cli(data_dir)
    embedded.stop(data_dir)


def test_photos_become_encounters_that_are_listed_and_shown(cli: Cli, tmp_path: Path) -> None:
    photos = []
    for number, minutes in enumerate((0, 5, 60)):
        path = tmp_path / f"{number}.jpg"
        path.write_bytes(taken(number, NOON + timedelta(minutes=minutes)))
        photos.append(path)
    bad = tmp_path / "bad.jpg"
    bad.write_text("no photo")
    made = cli.json("encounters", "add", *photos, bad, "--by-time", "--place", "Kaikōura")
    assert [len(one["photos"]) for one in made] == [2, 1]
    assert all(one["query_id"] for one in made)
    again = cli("encounters", "add", photos[0], bad, "--strict")
    assert (again.returncode, "there already" in again.stdout) == (Exit.PARTIAL, True), again
    assert "left out: bad.jpg" in again.stderr
    listed = cli.json("encounters", "list", "--place", "kaik")
    assert [one["photo_count"] for one in listed] == [1, 2]
    shown = cli("encounters", "show", made[0]["encounter"]["id"])
    assert (shown.returncode, "Kaikōura" in shown.stdout) == (Exit.OK, True)
    assert made[0]["query_id"] in shown.stdout
    more = tmp_path / "more.jpg"
    more.write_bytes(taken(9))
    added = cli.json("encounters", "add", more, "--to", made[1]["encounter"]["id"], "--no-ask")
    assert added[0]["encounter"]["id"] == made[1]["encounter"]["id"]
    wrong = cli("encounters", "show", "Kaikōura")
    assert (wrong.returncode, "is an id" in wrong.stderr) == (Exit.USAGE, True)
