"""Services over a real database, started and ended for each test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from pydantic import SecretStr

from indexer.archive import ZipLimits
from models.bundles import Serving
from service.app import create_app
from service.runtime import Resight, open_resight
from service.settings import Settings
from tests.conftest import TestServer
from tests.service.household import cheap_passwords
from tests.service.small import serving_of

Service = Callable[..., TestClient]


@pytest.fixture
def settings(tmp_path: Path, database_url: str) -> Settings:
    return Settings(data_dir=tmp_path / "data", database_url=SecretStr(database_url))


@pytest.fixture
def serve(settings: Settings) -> Iterator[Service]:
    """Starts services over the same database: `serve(serving, host=…)` answers a client."""
    opened: list[tuple[TestClient, Resight]] = []

    def start(serving: Serving | None = None, **changes: object) -> TestClient:
        chosen = settings.model_copy(update=changes)
        resight = open_resight(chosen, serving=serving or serving_of())
        client = TestClient(
            create_app(chosen, resight=resight, passwords=cheap_passwords()),
            base_url="http://127.0.0.1:8000",
            raise_server_exceptions=False,
        )
        client.__enter__()
        opened.append((client, resight))
        return client

    yield start
    for client, resight in opened:
        client.__exit__(None, None, None)
        resight.close()


@pytest.fixture
def client(serve: Service) -> TestClient:
    return serve()


@pytest.fixture(scope="module")
def shared_client(
    server: TestServer, template: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TestClient]:
    """One service for tests that only ask, or that clean up by being refused."""
    url = server.new_database(template)
    settings = Settings(
        data_dir=tmp_path_factory.mktemp("data"),
        database_url=SecretStr(url),
        max_batch_entries=ZipLimits().max_entries,
    )
    resight = open_resight(settings, serving=serving_of())
    app = create_app(settings, resight=resight, passwords=cheap_passwords())
    with TestClient(app, base_url="http://127.0.0.1:8000", raise_server_exceptions=False) as client:
        yield client
    resight.close()
    server.drop_database(url)
