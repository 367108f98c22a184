"""Jobs and re-index runs on the command line: exit codes, sentences, and what programs read."""

from __future__ import annotations

import contextlib
import io
import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from db import embedded
from service.cli.commands import app
from service.cli.common import Exit, run
from tests.flukes import draw
from tests.service.test_cli import Cli


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for individual, name in enumerate(("Ada", "Bo")):
        for photo in range(2):
            draw(folder / name / f"{photo}.jpg", individual, photo)
    return folder


@dataclass(frozen=True)
class Here:
    """Runs `resight` in this process: a second each is saved."""

    data_dir: Path

    def __call__(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        out, err = io.StringIO(), io.StringIO()
        argv = [*map(str, arguments), "--data-dir", str(self.data_dir)]
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = run(app, argv)
        return subprocess.CompletedProcess(argv, code, out.getvalue(), err.getvalue())

    def json(self, *arguments: object) -> Any:
        done = self(*arguments, "--json")
        assert done.returncode == Exit.OK, done.stderr
        return json.loads(done.stdout)

    def work(self) -> None:
        """A worker does what there is to do."""
        done = Cli(self.data_dir)("worker", "--once")
        assert done.returncode == Exit.OK, done.stderr


@pytest.fixture(scope="module")
def cli(tmp_path_factory: pytest.TempPathFactory, photos: Path) -> Iterator[Here]:
    """A data directory with four photos that are embedded."""
    data_dir = tmp_path_factory.mktemp("cli")
    assert Cli(data_dir).json("import", photos)["import"]["imported"] == 4
    yield Here(data_dir)
    embedded.stop(data_dir)


def ended(done: subprocess.CompletedProcess[str], code: Exit) -> str:
    """Standard error of a command that ended with this code."""
    assert done.returncode == code, done.stdout + done.stderr
    return done.stderr


def test_a_job_is_started_listed_paused_resumed_and_cancelled(cli: Here) -> None:
    assert cli.json("jobs", "list") == []
    job = cli.json("jobs", "start", "evaluate")
    assert (job["kind"], job["state"]) == ("evaluate", "queued")
    assert job["id"] in ended(cli("jobs", "start", "evaluate"), Exit.FAILED)
    [listed] = cli.json("jobs", "list")
    assert listed == job
    beginning = job["id"][:8]
    assert beginning in cli("jobs", "list").stdout
    assert cli.json("jobs", "pause", beginning)["paused_by"] == "local"
    assert cli.json("jobs", "resume", job["id"])["state"] == "queued"
    assert cli.json("jobs", "cancel", "last")["state"] == "cancelled"
    assert cli.json("jobs", "list") == []
    assert [one["id"] for one in cli.json("jobs", "list", "--all")] == [job["id"]]
    ended(cli("jobs", "watch", "last"), Exit.FAILED)


def test_watching_a_job_ends_as_the_job_ends(cli: Here) -> None:
    job = cli.json("jobs", "start", "export")
    cli.work()
    told = ended(cli("jobs", "watch", job["id"]), Exit.OK)
    assert f"{job['id'][:8]} export: done" in told
    # Nothing is open, so there is nothing to follow.
    ended(cli("jobs", "watch"), Exit.OK)
    result = cli.json("jobs", "show", job["id"])["result"]
    lines = Path(result["file"]).read_text(encoding="utf-8").splitlines()
    assert {json.loads(line)["names"][0] for line in lines} == {"Ada", "Bo"}


def test_spaces_are_listed_with_what_keeps_them(cli: Here) -> None:
    [one] = cli.json("models", "spaces")
    assert (one["name"], one["use"]) == ("starter", "searched by identify.photo")
    assert "searched by identify.photo" in cli("models", "spaces").stdout


def test_a_poison_photo_fails_alone_and_is_tried_again_alone(cli: Here, tmp_path: Path) -> None:
    """Promise 29: the job ends "done with 1 failure", and "retry failed" touches only it."""
    for photo in range(2):
        draw(tmp_path / "Cleo" / f"{photo}.jpg", 7, photo)
    cli.json("import", "--no-embed", tmp_path)
    before = {path: path.stat().st_mtime for path in (cli.data_dir / "media").rglob("*")}
    poison = max((path for path in before if path.is_file()), key=lambda path: before[path])
    kept = poison.read_bytes()
    poison.chmod(0o600)
    poison.write_bytes(kept[:200])
    job = cli.json("jobs", "start", "embed_missing")
    cli.work()
    ended(cli("jobs", "watch", job["id"]), Exit.PARTIAL)
    shown = cli.json("jobs", "show", job["id"])
    assert shown["state"] == "done"
    assert (shown["progress"]["done"], shown["progress"]["failed"]) == (1, 1)
    [failure] = shown["failures"]
    assert failure["detail"]
    told = cli("jobs", "show", job["id"])
    assert "done with 1 failure" in told.stdout
    assert f"failed {failure['item']}" in told.stderr
    poison.write_bytes(kept)
    cli.json("jobs", "retry", job["id"])
    cli.work()
    ended(cli("jobs", "watch", job["id"]), Exit.OK)
    progress = cli.json("jobs", "show", job["id"])["progress"]
    assert (progress["done"], progress["failed"], progress["total"]) == (2, 0, 2)
    ended(cli("jobs", "retry", job["id"]), Exit.FAILED)


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["jobs", "show", "nonsense"], Exit.FAILED, "There is no job 'nonsense'"),
        (["jobs", "start", "nonsense"], Exit.USAGE, "kind='nonsense'"),
        (["jobs", "start", "evaluate", "--model", "nobody"], Exit.FAILED, "'nobody'"),
        (["reindex", "start", "nobody"], Exit.FAILED, "'nobody'"),
        (["reindex", "start", "starter"], Exit.FAILED, "there is nothing to re-index"),
        (["reindex", "start", "starter", "--slot", "smell"], Exit.USAGE, "--slot is one of"),
        (["reindex", "status"], Exit.FAILED, "Nothing has been re-indexed yet"),
        (["reindex", "report"], Exit.FAILED, "Nothing has been re-indexed yet"),
        (["reindex", "activate", "abc"], Exit.FAILED, "No runs begin with 'abc'"),
        (["reindex", "rollback"], Exit.FAILED, "reindex start MODEL"),
        (["models", "retire", "starter"], Exit.FAILED, "identify.photo searches"),
        (["models", "retire", "nobody"], Exit.FAILED, "'nobody'"),
    ],
)
def test_what_cannot_be_done_is_a_sentence(
    cli: Here, arguments: list[str], code: Exit, says: str
) -> None:
    told = ended(cli(*arguments), code)
    assert says in told
    assert len(told.strip().splitlines()) == 1
