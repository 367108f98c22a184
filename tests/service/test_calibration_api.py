"""How sure over HTTP and on the command line: what scores mean, and a fit that is asked for."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy.orm import Session, sessionmaker

from db.queries import embeddings, records
from db.queries.embeddings import SpaceRow
from db.types import Role
from indexer.calibrate_job import CalibrateHandler, fit_space, gather
from indexer.jobs import JobRunner
from service.cli.common import Exit
from tests.commands import resight
from tests.service.conftest import Service
from tests.service.small import add, identify, scene, vector_of
from tests.verdicts import Desk, drawn


@pytest.fixture
def found(client: TestClient) -> dict[str, Any]:
    """An individual, so that a space is searched."""
    return add(client, "Ada", scene(1), scene(1, shift=1))


@pytest.fixture
def space(sessions: sessionmaker[Session], found: dict[str, Any]) -> SpaceRow:
    with sessions() as session:
        active = embeddings.active_space(session)
    assert active is not None
    return active


@pytest.fixture
def judged(sessions: sessionmaker[Session], space: SpaceRow) -> SpaceRow:
    """The space, with 600 verdicts."""
    with sessions.begin() as session:
        Desk(session, space).many(*drawn(600))
    return space


@pytest.fixture
def fitted(sessions: sessionmaker[Session], judged: SpaceRow) -> Iterator[SpaceRow]:
    with sessions.begin() as session:
        assert fit_space(session, judged, gather(session, judged), "anna") is not None
    return judged


def test_not_enough_verdicts_yet(client: TestClient, space: SpaceRow) -> None:
    """No invented figure: how many verdicts there are, and how many are wanted."""
    answer = client.get("/v1/calibration").json()
    assert answer["calibration"] is None
    assert answer["space"]["fingerprint"] == space.fingerprint
    assert answer["verdicts"] == {"same": 0, "different": 0, "known": 0, "new": 0, "wanted": 50}
    [match] = identify(client, scene(1, shift=2))["matches"]
    assert match["probability"] is None


def test_a_fit_is_a_job(
    client: TestClient, judged: SpaceRow, sessions: sessionmaker[Session]
) -> None:
    started = client.post("/v1/calibrations", json={})
    assert started.status_code == 202
    assert started.json()["kind"] == "calibrate"
    again = client.post("/v1/calibrations", json={})
    assert (again.status_code, again.json()["code"]) == (409, "job_running")
    JobRunner(sessions, [CalibrateHandler()], worker="w").run_until_idle()
    job = client.get(started.headers["Location"]).json()
    answer = client.get("/v1/calibration").json()["calibration"]
    assert (job["state"], job["result"]["calibration_id"]) == ("done", answer["id"])
    assert answer["fitted_by"] == "local"


def test_what_was_measured_is_told_with_its_counts(client: TestClient, fitted: SpaceRow) -> None:
    """Promise 47: the calibration error on held-out pairs, beside the raw cosine's."""
    answer = client.get("/v1/calibration").json()["calibration"]
    pair = answer["pair"]
    assert pair["source"] == "verdicts"
    assert sum(pair["counts"].values()) == sum(one["n"] for one in pair["bins"]) == 600
    assert set(pair["measured"]) == {"logistic", "isotonic", "cosine"}
    assert pair["ece"] < pair["measured"]["cosine"]["ece"]
    probabilities = [point[1] for point in answer["curve"]]
    assert probabilities == sorted(probabilities)
    assert len(answer["scores"]["edges"]) == len(answer["scores"]["same"]) + 1
    assert set(answer["query"]["counts"]) == {"known", "new"}
    by_rate = {one["false_match_rate"]: one for one in answer["thresholds"]}
    assert by_rate[0.01]["different_above"] <= 0.01 * by_rate[0.01]["different"]
    assert by_rate[0.1]["score"] < by_rate[0.01]["score"]
    assert (by_rate[0.0001]["score"], by_rate[0.0001]["needed"]) == (None, 9_999)


def test_thresholds_for_the_rates_that_are_wanted(client: TestClient, fitted: SpaceRow) -> None:
    url = "/v1/calibration?false_match_rate=0.03&false_match_rate=0.2"
    rates = client.get(url).json()["calibration"]["thresholds"]
    assert [one["false_match_rate"] for one in rates] == [0.03, 0.2]
    assert client.get("/v1/calibration?false_match_rate=1.5").status_code == 422
    assert client.get("/v1/calibration?model=nobody").status_code == 404


def test_matches_carry_the_probability_of_the_same_animal(
    client: TestClient, fitted: SpaceRow
) -> None:
    answer = identify(client, scene(1, shift=2))
    [match] = answer["matches"]
    assert match["score"] > 0.6
    assert 0.5 < match["probability"] < 1
    by_vector = client.post(
        "/v1/search",
        json={
            "vector": vector_of(scene(1, shift=2)).tolist(),
            "fingerprint": fitted.fingerprint,
        },
    )
    assert by_vector.status_code == 200, by_vector.text
    assert by_vector.json()["matches"][0]["probability"] == match["probability"]


@pytest.mark.parametrize(
    ("role", "reads", "fits"),
    [(Role.VIEWER, 200, 403), (Role.REVIEWER, 200, 403), (Role.CURATOR, 200, 202)],
)
def test_viewers_read_and_curators_fit(
    serve: Service,
    sessions: sessionmaker[Session],
    role: Role,
    reads: int,
    fits: int,
) -> None:
    add(serve(), "Ada", scene(1))
    with sessions.begin() as session:
        key = records.create_key(session, name=f"a {role}", role=role)[1]
    asking = {"Authorization": f"Bearer {key}"}
    client = serve(host="0.0.0.0", allowed_hosts=("127.0.0.1",))
    assert client.get("/v1/calibration").status_code == 401
    assert client.get("/v1/calibration", headers=asking).status_code == reads
    assert client.post("/v1/calibrations", json={}, headers=asking).status_code == fits


def test_the_command_line_says_the_same(
    judged: SpaceRow, tmp_path: Path, database_url: str
) -> None:
    where = {"RESIGHT_DATA_DIR": str(tmp_path), "RESIGHT_DATABASE_URL": database_url}
    calibrate = partial(resight, "calibrate", environment=where)
    before = calibrate()
    assert before.returncode == Exit.OK, before.stderr
    assert "not enough verdicts yet" in before.stdout
    assert "resight calibrate --fit" in before.stderr
    fitted = calibrate("--fit", "--false-match-rate", "0.02", "--json")
    assert fitted.returncode == Exit.OK, fitted.stderr
    answer = json.loads(fitted.stdout)["calibration"]
    assert sum(answer["pair"]["counts"].values()) == 600
    [threshold] = answer["thresholds"]
    shown = calibrate("--false-match-rate", "0.02")
    assert f"{threshold['score']:.3f}" in shown.stdout
    assert "from verdicts" in shown.stdout
    assert "on encounters left out" in shown.stdout
    assert calibrate("--false-match-rate", "2").returncode == Exit.USAGE
