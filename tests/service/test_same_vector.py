"""One photo has one vector, whoever embeds it: request, addition, import, job, tick or re-index."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient
from sqlalchemy import text

from db.queries import embeddings
from db.types import JobKind
from indexer import reindex
from indexer.embed import embed_missing
from indexer.follow import Follower
from indexer.job_kinds import Means, handlers
from indexer.jobs import JobRunner, start_job
from indexer.snapshot import SnapshotStore
from indexer.spaces import SLOT, register_bundle
from models.bundles import load_serving
from models.embedder import Embedded, Embedder, EmbedderSpec, Floats
from models.preprocess import Rgb
from service.app import create_app
from service.runtime import Resight, open_resight
from service.settings import Settings
from tests import zoo
from tests.commands import resight
from tests.service.small import PixelEmbedder, add, identify

DIFFICULT = {
    "turned by its EXIF": zoo.turned(6, seed=3),
    "with transparency": zoo.encode(zoo.picture(4, (300, 200)).convert("RGBA"), "PNG"),
    "in CMYK": zoo.encode(zoo.picture(5, (640, 480)).convert("CMYK"), "JPEG", quality=80),
    "large, where a decoder could take a shortcut": zoo.photo(6, size=(1600, 1200), quality=85),
    "grey": zoo.encode(zoo.picture(7, (222, 333)).convert("L"), "JPEG", quality=70),
}


@dataclass
class Recorded:
    """The starter's embedder, which remembers what it answered last."""

    inner: Embedder
    last: list[Floats] = field(default_factory=list)

    @property
    def spec(self) -> EmbedderSpec:
        return self.inner.spec

    def embed(self, photos: Sequence[Rgb]) -> Embedded:
        embedded = self.inner.embed(photos)
        self.last.extend(embedded.vectors)
        return embedded


@dataclass(frozen=True)
class Here:
    """A service on the starter bundle, and the vector of one annotation in its space."""

    client: TestClient
    resight: Resight
    embedder: Recorded

    @property
    def means(self) -> Means:
        return Means(
            self.resight.sessions,
            self.resight.store,
            SnapshotStore(self.resight.settings.snapshots_dir),
            self.resight.settings.data_dir / "exports",
            embedder_of=lambda _: self.embedder,
            head_of=lambda _: None,
        )

    def space_id(self) -> int:
        assert self.resight.space is not None
        return self.resight.space.id

    def forget(self) -> None:
        with self.resight.sessions.begin() as session:
            session.execute(
                text("DELETE FROM embedding WHERE model_id = :space"), {"space": self.space_id()}
            )

    def vector(self, annotation_id: int) -> Floats:
        with self.resight.sessions() as session:
            found = embeddings.get_vector(session, self.space_id(), annotation_id)
        assert found is not None
        return found


@pytest.fixture
def here(settings: Settings) -> Iterator[Here]:
    serving = load_serving(settings.models_dir, device="cpu")
    assert serving.embedder is not None
    recorded = Recorded(serving.embedder)
    resight = open_resight(settings, serving=replace(serving, embedder=recorded))
    app = create_app(settings, resight=resight)
    with TestClient(app, base_url="http://127.0.0.1:8000") as client:
        resight.stop_watching()
        yield Here(client, resight, recorded)
    resight.close()


def by_import(here: Here) -> None:
    embed_missing(here.resight.sessions, here.resight.store, here.embedder, here.space_id())


def by_job(here: Here) -> None:
    start_job(
        here.resight.sessions,
        kind=JobKind.EMBED_MISSING,
        params={"model_id": here.space_id()},
        principal="test",
    )
    JobRunner(here.resight.sessions, handlers(here.means), worker="test").run_until_idle()


def by_tick(here: Here) -> None:
    follow = Follower(here.resight.sessions, here.resight.store, lambda _: here.embedder)
    while follow(threading.Event().is_set):
        pass


def by_reindex(here: Here) -> None:
    sessions, space = here.resight.sessions, here.resight.space
    assert space is not None
    with sessions.begin() as session:
        other, _ = register_bundle(session, PixelEmbedder().spec, None)
        embeddings.set_slot(session, SLOT, other.id)
    reindex.start(sessions, space=space)
    JobRunner(sessions, handlers(here.means), worker="test").run_until_idle()


def typed(here: Here, *arguments: object) -> subprocess.CompletedProcess[str]:
    """A command in a process of its own, as on another machine, with the installed bundle."""
    settings = here.resight.settings
    assert settings.database_url is not None
    where = {
        "RESIGHT_DATA_DIR": str(settings.data_dir),
        "RESIGHT_DATABASE_URL": settings.database_url.get_secret_value(),
    }
    return resight(*arguments, environment=where)


def by_worker_process(here: Here) -> None:
    done = typed(here, "worker", "--once")
    assert done.returncode == 0, done.stderr


WAYS: dict[str, Callable[[Here], None]] = {
    "import": by_import,
    "job": by_job,
    "tick": by_tick,
    "re-index": by_reindex,
    "worker process": by_worker_process,
}


def test_every_way_of_embedding_gives_the_same_vector(here: Here) -> None:
    """Promise 28: one preprocessing path; decoding, turning, resizing and the network are the same
    for the API, the command line, jobs and re-indexing."""
    added = [
        int(add(here.client, name, photo)["photos"][0]["annotation_id"])
        for name, photo in DIFFICULT.items()
    ]
    wanted = {id_: here.vector(id_) for id_ in added}
    assert np.linalg.matrix_rank(np.stack(list(wanted.values()))) == len(wanted)
    for (name, photo), id_ in zip(DIFFICULT.items(), added, strict=True):
        here.embedder.last.clear()
        answer = identify(here.client, photo, exclude_known="false")
        same(here.embedder.last[0], wanted[id_], f"a request, {name}")
        assert answer["matches"][0]["annotation_id"] == str(id_)
        assert answer["matches"][0]["score"] > 0.99999
    for way, embed in WAYS.items():
        here.forget()
        embed(here)
        for name, id_ in zip(DIFFICULT, added, strict=True):
            same(here.vector(id_), wanted[id_], f"{way}, {name}")


def test_the_command_line_asks_with_the_same_vector(here: Here, tmp_path: Path) -> None:
    """Promise 28: `resight identify` finds the very photo with a cosine of 1."""
    photo = tmp_path / "photo.jpg"
    photo.write_bytes(DIFFICULT["turned by its EXIF"])
    add(here.client, "anna", photo.read_bytes())
    done = typed(here, "identify", photo, "--json")
    assert done.returncode in (0, 3, 4), done.stderr
    match = json.loads(done.stdout)["matches"][0]
    assert match["individual"]["name"] == "anna"
    assert match["score"] > 0.99999


def same(one: Floats, other: Floats, what: str) -> None:
    assert float(one @ other) > 0.999999, what
    assert float(np.abs(one - other).max()) < 1e-4, what
