"""A head from the command line: fitted, read about, put into use, and left again."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from sqlalchemy.orm import Session, sessionmaker

from db.queries import embeddings
from service.cli.common import Exit
from tests.commands import resight
from tests.indexer.test_head_fit import met_again
from tests.spaces import fill, make_space

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run(tmp_path: Path, database_url: str, sessions: sessionmaker[Session]) -> Run:
    with sessions.begin() as session:
        vectors, labels, encounters = met_again(40)
        space = make_space(session, vectors.shape[1])
        embeddings.set_slot(session, "identify.photo", space.id)
        fill(session, space, vectors, labels.tolist(), encounters.tolist())

    where = {"RESIGHT_DATA_DIR": str(tmp_path), "RESIGHT_DATABASE_URL": database_url}
    return partial(resight, environment=where)


def test_a_head_is_fitted_read_about_activated_and_rolled_back(run: Run) -> None:
    nothing = run("head", "report")
    assert nothing.returncode == Exit.FAILED
    assert "resight head fit" in nothing.stderr

    fitted = run("head", "fit")
    assert fitted.returncode == Exit.OK, fitted.stderr
    assert "40 individuals with 240 photos" in fitted.stdout
    assert "resight head activate fit-1" in fitted.stderr
    again = run("head", "fit", "--json")
    assert again.returncode == Exit.OK, again.stderr
    assert json.loads(again.stdout)["head"]["version"] == "fit-2"

    for version in ("fit-1", "fit-2"):
        done = run("head", "activate", version)
        assert done.returncode == Exit.OK, done.stderr
    assert run("head", "activate", "fit-2").returncode == Exit.FAILED
    back = json.loads(run("head", "rollback", "--json").stdout)
    assert (back["head"]["version"], back["former"]["version"]) == ("fit-1", "fit-2")

    rows = json.loads(run("head", "list", "--json").stdout)
    assert [(row["version"], row["is_active"]) for row in rows] == [
        ("fit-2", False),
        ("fit-1", True),
    ]
    report = json.loads(run("head", "report", "fit-2", "--json").stdout)["report"]
    assert report["after"]["wrong_rate"] <= 0.05
    assert run("head", "report", "fit-9").returncode == Exit.USAGE


def test_without_waiting_the_job_is_left_to_a_worker(run: Run) -> None:
    started = run("head", "fit", "--no-wait", "--json")
    job = json.loads(started.stdout)
    assert (job["kind"], job["state"]) == ("fit_head", "queued")
    twice = run("head", "fit", "--no-wait")
    assert twice.returncode == Exit.FAILED
    assert run("head", "list").stdout == ""
