"""Services and workers whose photos lie elsewhere: in an object store, or where they were."""

from __future__ import annotations

import json
import resource
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import text

from db.session import make_engine
from indexer.ingest import run_import
from indexer.remote_layouts import plan_uri
from service.errors import PROBLEM_JSON
from service.runtime import Resight
from service.settings import Settings
from tests import s3
from tests.commands import resight
from tests.service.conftest import Service
from tests.service.small import add, identify, scene


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[s3.S3]:
    with s3.serving() as started:
        for name, value in started.environment.items():
            monkeypatch.setenv(name, value)
        yield started


def runtime_of(client: TestClient) -> Resight:
    runtime: Resight = client.app.state.resight.runtime  # type: ignore[attr-defined]
    return runtime


def counts(client: TestClient) -> tuple[int, int]:
    with runtime_of(client).sessions() as session:
        statement = "SELECT (SELECT count(*) FROM media_asset), (SELECT count(*) FROM annotation)"
        photos, annotations = session.execute(text(statement)).one()
    return photos, annotations


def files_below(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and path.name != ".lock"]


# --- originals in an object store


def test_a_service_over_an_object_store_answers_as_ever(serve: Service, bucket: s3.S3) -> None:
    client = serve(media_url="s3://photos/resight")
    added = add(client, "Luna", scene(1), scene(2))
    assert len(bucket.objects) == 2
    answer = identify(client, scene(3))
    assert answer["matches"][0]["individual"]["name"] == "Luna"
    media_id = added["photos"][0]["media_id"]
    original = client.get(f"/v1/media/{media_id}")
    assert original.content == scene(1)
    assert original.headers["content-disposition"].startswith("attachment")
    assert client.get(f"/v1/media/{media_id}/thumbnail").headers["content-type"] == "image/jpeg"
    originals = runtime_of(client).settings.media_dir / "originals"
    assert not originals.exists()


def test_an_outage_of_the_store_is_503_and_tells_no_address(serve: Service, bucket: s3.S3) -> None:
    """Promise 36, for photos: a dead dependency is an error, never an empty or a wrong answer."""
    client = serve(media_url="s3://photos/resight")
    media_id = add(client, "Luna", scene(1))["photos"][0]["media_id"]
    before = counts(client)
    bucket.fail = 500
    new = {"file": ("new.jpg", scene(9), "image/jpeg")}
    for response in (
        client.get(f"/v1/media/{media_id}"),
        client.get(f"/v1/media/{media_id}/thumbnail?size=64"),
        client.post("/v1/identify", files=new),
        client.post("/v1/individuals", files=new, data={"name": "Sol"}),
    ):
        assert response.status_code == 503, response.text
        assert response.headers["content-type"] == PROBLEM_JSON
        assert response.headers["retry-after"]
        assert response.json()["code"] == "store_unavailable"
        assert bucket.url not in response.text
        assert "127.0.0.1" not in response.text
    assert counts(client) == before
    bucket.fail = None
    assert client.get(f"/v1/media/{media_id}").content == scene(1)
    add(client, "Sol", scene(9))


# --- a full disk


@contextmanager
def disk_with_room_for(size: int) -> Iterator[None]:
    """No file of this process may grow beyond that, which the system tells like a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("where", ["folder", "object store"])
def test_a_full_disk_is_507_and_works_again_without_a_restart(
    serve: Service, bucket: s3.S3, where: str
) -> None:
    """Promise 12: 507 problem+json, no row, nothing half-written, and later it works again."""
    client = serve(media_url="s3://photos/resight" if where == "object store" else None)
    add(client, "Luna", scene(1))
    before = counts(client)
    kept = files_below(runtime_of(client).settings.media_dir)
    new = {"file": ("new.jpg", scene(2), "image/jpeg")}
    with disk_with_room_for(100):
        bucket.fail = 507
        for response in (
            client.post("/v1/individuals", files=new, data={"name": "Sol"}),
            client.post("/v1/identify", files=new),
        ):
            assert response.status_code == 507, response.text
            assert response.headers["content-type"] == PROBLEM_JSON
            assert response.json()["code"] == "disk_full"
            assert str(runtime_of(client).settings.data_dir) not in response.text
    assert counts(client) == before
    assert files_below(runtime_of(client).settings.media_dir) == kept
    bucket.fail = None
    assert add(client, "Sol", scene(2))["photos"][0]["embedded"]


# --- photos that stay where they were imported


def test_photos_left_in_place_are_shown_and_a_changed_one_is_not(
    serve: Service, bucket: s3.S3
) -> None:
    client = serve()
    runtime = runtime_of(client)
    for number in range(3):
        bucket.put(f"field/Luna/{number}.jpg", scene(number))
    run_import(runtime.sessions, runtime.store, plan_uri("s3://photos/field", allowed=["s3://"]))
    with runtime.sessions() as session:
        ids = session.scalars(text("SELECT id FROM media_asset ORDER BY location")).all()
    bucket.put("field/Luna/1.jpg", scene(99))
    del bucket.objects["field/Luna/2.jpg"]
    statuses = []
    for media_id in ids:
        original = client.get(f"/v1/media/{media_id}")
        thumbnail = client.get(f"/v1/media/{media_id}/thumbnail")
        assert original.status_code == thumbnail.status_code
        statuses.append((original.status_code, original.headers["content-type"]))
    assert statuses == [(200, "image/jpeg"), (500, PROBLEM_JSON), (404, PROBLEM_JSON)]


# --- the command line, and another machine


class Machine:
    """`resight` with nothing but a data directory of its own and what the environment says."""

    def __init__(self, data_dir: Path, settings: Settings, bucket: s3.S3, **more: str) -> None:
        assert settings.database_url is not None
        self.data_dir = data_dir
        self.environment = bucket.environment | more
        self.environment["RESIGHT_DATA_DIR"] = str(data_dir)
        self.environment["RESIGHT_DATABASE_URL"] = settings.database_url.get_secret_value()

    def __call__(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return resight(*arguments, environment=self.environment)

    def json(self, *arguments: str) -> Any:
        done = self(*arguments, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


def test_a_worker_on_another_machine_needs_the_database_and_the_store_alone(
    settings: Settings, bucket: s3.S3, tmp_path: Path
) -> None:
    store = {"RESIGHT_MEDIA_URL": "s3://photos/resight"}
    here = Machine(tmp_path / "here", settings, bucket, **store)
    there = Machine(tmp_path / "there", settings, bucket, **store)
    for number in range(4):
        path = tmp_path / "source" / f"animal {number % 2}" / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(scene(number))
    report = here.json("import", str(tmp_path / "source"), "--no-embed")
    assert report["import"]["imported"] == 4
    assert vectors(settings) == 0
    worked = there("worker", "--once")
    assert worked.returncode == 0, worked.stderr
    assert vectors(settings) == 4
    assert [path for path in files_below(tmp_path / "there") if "originals" in path.parts] == []
    assert {key.split("/")[0] for key in bucket.objects} == {"resight"}


def test_import_by_uri_is_for_places_that_the_operator_lists(
    settings: Settings, bucket: s3.S3, tmp_path: Path
) -> None:
    """Promise 66: import by URI is off but for files of this machine, until a place is listed."""
    for number in range(3):
        bucket.put(f"field/Luna/{number}.jpg", scene(number))
    machine = Machine(tmp_path / "here", settings, bucket)
    refused = machine("import", "s3://photos/field")
    assert refused.returncode != 0
    assert "RESIGHT_IMPORT_PREFIXES" in refused.stderr
    assert bucket.requests.total() == 0
    allowing = Machine(
        tmp_path / "here", settings, bucket, RESIGHT_IMPORT_PREFIXES='["s3://photos/field"]'
    )
    report = allowing.json("import", "s3://photos/field")
    assert (report["import"]["imported"], report["not_embedded"]) == (3, [])
    assert vectors(settings) == 3
    assert "nothing at" in machine("import", str(tmp_path / "nowhere")).stderr


def vectors(settings: Settings) -> int:
    assert settings.database_url is not None
    engine = make_engine(settings.database_url.get_secret_value())
    with engine.connect() as connection:
        count = connection.scalar(text("SELECT count(*) FROM embedding"))
    engine.dispose()
    assert isinstance(count, int)
    return count
