"""A running service follows a switch of the catalogue to another space, and back, unbroken."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from sqlalchemy import text

from db.queries import embeddings, heads
from db.queries.embeddings import SpaceRow
from indexer import reindex
from indexer.catalogue import NewIndividual
from indexer.embed import embed_missing
from indexer.identify import IdentifyOptions, PhotoIn
from indexer.jobs import JobRunner
from indexer.search import SearchUnavailable
from indexer.snapshot import SnapshotStore
from indexer.spaces import SLOT, activate, registered
from models.bundles import Serving
from models.errors import BundleError
from models.gate import Gate
from models.head import Head
from models.preprocess import decode
from service.app import create_app
from service.generations import LISTENER, Generation
from service.runtime import Resight, open_resight
from service.settings import Settings
from tests.service.small import (
    PixelEmbedder,
    add,
    head_of,
    identify,
    scene,
    serving_of,
    vector_of,
)

NAMES = ("anna", "bert", "cora", "dina")
SOON_S = 20.0
"""Long enough for a machine with other work; what must be quick is measured."""


class TurnedPixels(PixelEmbedder):
    """Another space: the same pixels under another projection."""

    def __init__(self, name: str = "turned", seed: int = 8) -> None:
        super().__init__(name, "1")
        self._projection = np.random.default_rng(seed).normal(size=self._projection.shape)


def bundle_of(embedder: PixelEmbedder) -> Serving:
    """A bundle with a head that knows the four animals."""
    rows = np.stack([vector_of(scene(i), embedder) for i in range(len(NAMES))])
    head = replace(head_of([(name, scene(i)) for i, name in enumerate(NAMES)]), rows=rows)
    return replace(
        serving_of(head, embedder=embedder), bundle=embedder.spec.name, stage=embedder.spec.name
    )


@dataclass
class Shelf:
    """Bundles that are installed, by the fingerprint of their space."""

    there: dict[str, Serving] = field(default_factory=dict)
    loads: list[str] = field(default_factory=list)

    def install(self, embedder: PixelEmbedder) -> Serving:
        self.there[embedder.spec.fingerprint] = bundle_of(embedder)
        return self.there[embedder.spec.fingerprint]

    def load(self, fingerprint: str, gate: Gate) -> Serving:
        if fingerprint not in self.there:
            raise BundleError("not_installed", "no such bundle here: `resight models add DIR`")
        self.loads.append(self.there[fingerprint].bundle or "")
        return self.there[fingerprint]


@dataclass
class Running:
    """A running service, and what an operator does beside it."""

    client: TestClient
    resight: Resight
    shelf: Shelf

    def space(self, embedder: PixelEmbedder) -> SpaceRow:
        """The embedder's space, with a vector for every annotation."""
        with self.resight.sessions.begin() as session:
            space, _ = registered(session, bundle_of(embedder))
        embed_missing(self.resight.sessions, self.resight.store, embedder, space.id)
        return space

    def flip(self, space: SpaceRow) -> None:
        with self.resight.sessions.begin() as session:
            embeddings.set_slot(session, SLOT, space.id)

    def answers_with(self, name: str) -> bool:
        return self.resight.generation.serving.bundle == name

    def run_ready(self, embedder: PixelEmbedder) -> reindex.RunRow:
        """A re-index run to the embedder's space that may be activated."""
        sessions, store = self.resight.sessions, self.resight.store
        with sessions.begin() as session:
            space, _ = registered(session, bundle_of(embedder))
        run = reindex.start(sessions, space=space)
        snapshots = SnapshotStore(self.resight.settings.snapshots_dir)
        handler = reindex.ReindexHandler(store, snapshots, lambda _: embedder)
        JobRunner(sessions, [handler], worker="test").run_until_idle()
        return run


@pytest.fixture
def start(settings: Settings) -> Iterator[Callable[..., Running]]:
    """Starts services over one database, each with its own bundles, pixels first."""
    opened: list[Running] = []

    def start(*more: PixelEmbedder, poll_s: float = 0.3) -> Running:
        shelf = Shelf()
        first = shelf.install(PixelEmbedder())
        for embedder in more:
            shelf.install(embedder)
        resight = open_resight(settings, serving=first, load=shelf.load)
        app = create_app(settings, resight=resight)
        client = TestClient(app, base_url="http://127.0.0.1:8000", raise_server_exceptions=False)
        client.__enter__()
        resight.stop_watching()
        resight.watch(poll_s=poll_s)
        opened.append(Running(client, resight, shelf))
        return opened[-1]

    yield start
    for one in opened:
        one.client.__exit__(None, None, None)
        one.resight.close()


def soon(condition: Callable[[], bool], within_s: float = SOON_S) -> float:
    """Waits until the condition holds; how many seconds that took."""
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < within_s, "it did not come about"
        time.sleep(0.01)
    return time.monotonic() - started


def fill(client: TestClient) -> list[dict[str, Any]]:
    return [add(client, name, scene(i), scene(i, shift=1)) for i, name in enumerate(NAMES)]


def codes(client: TestClient, part: str) -> list[str]:
    return [notice["code"] for notice in client.get("/ready").json()[part]]


# --- noticing


def test_a_service_notices_a_switch_by_what_the_database_tells(
    start: Callable[..., Running],
) -> None:
    """Promise 19: long before the next poll, and without a restart."""
    turned = TurnedPixels()
    running = start(turned, poll_s=3600.0)
    fill(running.client)
    before = identify(running.client, scene(2, shift=5))
    space = running.space(turned)
    running.flip(space)
    soon(lambda: running.answers_with("turned"))
    after = identify(running.client, scene(2, shift=5))
    assert before["receipt"]["fingerprint"] == PixelEmbedder().spec.fingerprint
    assert (after["receipt"]["fingerprint"], after["bundle"]) == (space.fingerprint, "turned")
    assert after["default_answer"]["model"] == "turned 1"
    assert after["matches"][0]["individual"]["name"] == "cora"
    assert running.client.get("/ready").status_code == 200
    models = running.client.get("/v1/models").json()
    assert models["embedder"]["fingerprint"] == space.fingerprint
    assert models["beside"]["name"] == "pixels"
    assert [s["name"] for s in models["spaces"] if s["active"]] == ["turned"]


def test_a_switch_that_nobody_tells_of_is_found_by_polling(start: Callable[..., Running]) -> None:
    """Promise 16: what the database tells is a hint; losing it costs one poll interval."""
    turned = TurnedPixels()
    running = start(turned)
    fill(running.client)
    space = running.space(turned)
    with running.resight.sessions.begin() as session:
        session.execute(text("ALTER TABLE model_slot DISABLE TRIGGER model_slot_told"))
    running.flip(space)
    soon(lambda: running.answers_with("turned"))


def test_a_listening_connection_that_is_cut_is_opened_again(start: Callable[..., Running]) -> None:
    """Promise 16: a terminated LISTEN connection delays a switch by the poll interval at most, and
    the next one is told of again."""
    turned = TurnedPixels()
    running = start(turned)
    fill(running.client)
    space = running.space(turned)
    pixels = running.resight.space
    assert pixels is not None

    def listeners() -> list[int]:
        with running.resight.sessions() as session:
            return list(
                session.scalars(
                    text(
                        "SELECT pid FROM pg_stat_activity WHERE application_name = :name"
                        " AND datname = current_database()"
                    ),
                    {"name": LISTENER},
                )
            )

    def cut() -> list[int]:
        with running.resight.sessions.begin() as session:
            pids = listeners()
            for pid in pids:
                session.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": pid})
        return pids

    soon(lambda: bool(listeners()))
    first = cut()
    running.flip(space)
    soon(lambda: running.answers_with("turned"))
    soon(lambda: bool(listeners()) and listeners() != first)
    running.resight.stop_watching()
    running.resight.watch(poll_s=3600.0)
    soon(lambda: bool(listeners()))
    running.flip(pixels)
    soon(lambda: running.answers_with("pixels"))


def test_several_services_follow_one_switch(start: Callable[..., Running]) -> None:
    turned = TurnedPixels()
    one, two = start(turned), start(turned)
    fill(one.client)
    one.flip(one.space(turned))
    for running in (one, two):
        soon(lambda running=running: running.answers_with("turned"))  # type: ignore[misc]
        assert identify(running.client, scene(1, shift=9))["matches"][0]["individual"]["name"] == (
            "bert"
        )


# --- whole answers


def test_no_answer_mixes_two_spaces_while_the_catalogue_moves_to_and_fro(
    start: Callable[..., Running],
) -> None:
    """Promise 19: 4 readers, 20 flips; gate, head, vectors, matches, scores and the receipt of each
    answer come from one space."""
    turned = TurnedPixels()
    running = start(turned)
    added = fill(running.client)
    pixels, other = running.resight.space, running.space(turned)
    assert pixels is not None
    asked = added[3]["photos"][0]["annotation_id"]
    photo = scene(3, shift=5)
    wanted = {space.name: expected(running, space, photo, asked) for space in (pixels, other)}
    assert abs(wanted["pixels"].score - wanted["turned"].score) > 0.003
    stop, seen, wrong = threading.Event(), [], []

    def read(part: int) -> None:
        while not stop.is_set():
            try:
                whole = READS[part % len(READS)](running.client, photo, asked)
                seen.append(whole.name)
                if not whole.same(wanted[whole.name]):
                    wrong.append((whole, wanted[whole.name]))
            except BaseException as error:
                wrong.append(error)

    readers = [threading.Thread(target=read, args=(i,)) for i in range(4)]
    for reader in readers:
        reader.start()
    for flip in range(20):
        target = other if flip % 2 == 0 else pixels
        running.flip(target)
        soon(lambda: running.answers_with(target.name))  # noqa: B023
        enough = len(seen) + 4
        soon(lambda: len(seen) >= enough or bool(wrong))  # noqa: B023
    stop.set()
    for reader in readers:
        reader.join()
    assert wrong == []
    assert {"pixels", "turned"} == set(seen)
    assert len(seen) >= 80
    # The two bundles stay in memory: each was loaded once.
    assert running.shelf.loads == ["turned"]


@dataclass(frozen=True)
class Whole:
    """What tells in which space an answer was made; None where this kind of answer is silent."""

    name: str
    fingerprint: str
    head: str | None = None
    score: float = 0.0
    similar: float | None = None
    vector: tuple[float, ...] | None = None

    def same(self, other: Whole) -> bool:
        return (
            self.fingerprint == other.fingerprint
            and self.head in (None, other.head)
            and (not self.score or abs(self.score - other.score) < 1e-5)
            and (self.similar is None or abs(self.similar - (other.similar or 0)) < 1e-5)
            and (self.vector is None or np.allclose(self.vector, other.vector, atol=1e-6))
        )


def expected(running: Running, space: SpaceRow, photo: bytes, asked: str) -> Whole:
    running.flip(space)
    soon(lambda: running.answers_with(space.name))
    found = by_photo(running.client, photo, asked)
    return replace(
        found,
        similar=by_annotation(running.client, photo, asked).similar,
        vector=by_vector(running.client, photo, asked).vector,
    )


def name_of(fingerprint: str) -> str:
    return "pixels" if fingerprint == PixelEmbedder().spec.fingerprint else "turned"


def by_photo(client: TestClient, photo: bytes, _asked: str) -> Whole:
    answer = identify(client, photo)
    assert answer["bundle"] == answer["stage"] == name_of(answer["receipt"]["fingerprint"])
    assert answer["default_answer"]["individual"]["name"] == "dina"
    return Whole(
        answer["bundle"],
        answer["receipt"]["fingerprint"],
        head=answer["default_answer"]["model"],
        score=answer["matches"][0]["score"],
    )


def by_annotation(client: TestClient, _photo: bytes, asked: str) -> Whole:
    response = client.post("/v1/search", json={"annotation_id": asked})
    assert response.status_code == 200, response.text
    fingerprint = response.json()["receipt"]["fingerprint"]
    similar = response.json()["matches"][0]["score"]
    return Whole(name_of(fingerprint), fingerprint, similar=similar)


def by_vector(client: TestClient, _photo: bytes, asked: str) -> Whole:
    response = client.get(f"/v1/annotations/{asked}/embedding")
    assert response.status_code == 200, response.text
    answer = response.json()
    return Whole(name_of(answer["fingerprint"]), answer["fingerprint"], vector=answer["vector"])


READS = (by_photo, by_annotation, by_vector, by_photo)


# --- adding while the catalogue moves


def test_who_is_added_is_found_by_the_next_request_whatever_is_searched_by_then(
    start: Callable[..., Running],
) -> None:
    """Promises 20 and 38: a service adds to both spaces that it may answer from."""
    turned = TurnedPixels()
    running = start(turned)
    fill(running.client)
    pixels, other = running.resight.space, running.space(turned)
    assert pixels is not None
    running.flip(other)
    soon(lambda: running.answers_with("turned"))
    stop = threading.Event()

    def flip() -> None:
        while not stop.is_set():
            for target in (pixels, other):
                running.flip(target)
                soon(lambda: running.answers_with(target.name))  # noqa: B023

    flipping = threading.Thread(target=flip)
    flipping.start()
    try:
        for number in range(15):
            add(running.client, f"new{number}", scene(100 + number))
            answer = identify(running.client, scene(100 + number, shift=1))
            assert answer["matches"][0]["individual"]["name"] == f"new{number}"
    finally:
        stop.set()
        flipping.join()
    with running.resight.sessions() as session:
        assert [embeddings.count_missing(session, space.id) for space in (pixels, other)] == [0, 0]


def test_an_addition_that_comes_right_after_a_switch_is_in_the_new_space(
    start: Callable[..., Running],
) -> None:
    """Promise 38: a service that has not noticed the switch yet takes it up before it adds."""
    turned = TurnedPixels()
    running, other = start(turned), start(turned)
    fill(running.client)
    running.resight.stop_watching()
    running.flip(running.space(turned))
    soon(lambda: other.answers_with("turned"))
    assert running.answers_with("pixels")
    added = add(running.client, "new", scene(77))
    assert [photo["embedded"] for photo in added["photos"]] == [True]
    assert running.answers_with("turned")
    found = identify(other.client, scene(77, shift=1))["matches"][0]["individual"]
    assert found["name"] == "new"


def test_an_addition_where_the_new_bundle_is_missing_is_kept_and_found_here(
    start: Callable[..., Running],
) -> None:
    turned = TurnedPixels()
    running = start()
    fill(running.client)
    running.resight.stop_watching()
    running.flip(running.space(turned))
    added = add(running.client, "new", scene(77))
    assert [photo["embedded"] for photo in added["photos"]] == [True]
    assert identify(running.client, scene(77, shift=1))["matches"][0]["individual"]["name"] == "new"


def test_a_vector_of_the_former_space_is_refused_though_it_has_the_same_dimension(
    start: Callable[..., Running],
) -> None:
    """Promise 25: two models of equal dimension never meet."""
    turned = TurnedPixels()
    running = start(turned)
    fill(running.client)
    old = {
        "vector": vector_of(scene(1)).tolist(),
        "fingerprint": PixelEmbedder().spec.fingerprint,
    }
    assert running.client.post("/v1/search", json=old).status_code == 200
    space = running.space(turned)
    running.flip(space)
    soon(lambda: running.answers_with("turned"))
    refused = running.client.post("/v1/search", json=old)
    assert (refused.status_code, refused.json()["code"]) == (422, "wrong_space")
    assert space.fingerprint in refused.json()["detail"]
    new = {"vector": vector_of(scene(1), turned).tolist(), "fingerprint": space.fingerprint}
    found = running.client.post("/v1/search", json=new).json()["matches"][0]
    assert found["individual"]["name"] == "bert"


# --- back again, and what is kept


def test_a_rollback_is_answered_within_a_second(start: Callable[..., Running]) -> None:
    """Promise 22: the former bundle and its vectors are still in memory, complete."""
    turned = TurnedPixels()
    running = start(turned)
    fill(running.client)
    run = running.run_ready(turned)
    soon(lambda: beside_of(running) == "turned")
    started = time.monotonic()
    reindex.activate(running.resight.sessions, run.id)
    soon(lambda: running.answers_with("turned"))
    switch_s = time.monotonic() - started
    add(running.client, "new", scene(50))
    started = time.monotonic()
    reindex.rollback(running.resight.sessions)
    soon(lambda: running.answers_with("pixels"))
    rollback_s = time.monotonic() - started
    assert identify(running.client, scene(50, shift=1))["matches"][0]["individual"]["name"] == "new"
    assert beside_of(running) == "turned"
    assert running.shelf.loads == ["turned"]
    assert rollback_s < 1.0, f"the switch took {switch_s:.2f} s, the rollback {rollback_s:.2f} s"


def beside_of(running: Running) -> str | None:
    beside = running.client.get("/v1/models").json()["beside"]
    return beside["name"] if beside else None


def test_a_run_that_is_ready_has_its_bundle_loaded_before_the_switch(
    start: Callable[..., Running],
) -> None:
    """Promise 23: one extra model at most, and none once nothing leads to it."""
    turned, third = TurnedPixels(), TurnedPixels("third", 9)
    running = start(turned, third)
    fill(running.client)
    assert beside_of(running) is None
    run = running.run_ready(turned)
    soon(lambda: beside_of(running) == "turned")
    reindex.abandon(running.resight.sessions, run.id)
    soon(lambda: beside_of(running) is None)
    run = running.run_ready(third)
    soon(lambda: beside_of(running) == "third")
    reindex.activate(running.resight.sessions, run.id)
    soon(lambda: beside_of(running) == "pixels")
    assert running.answers_with("third")
    reindex.retire_model(running.resight.sessions, "pixels", force=True)
    soon(lambda: beside_of(running) is None)
    assert identify(running.client, scene(1, shift=4))["matches"][0]["individual"]["name"] == "bert"


def test_a_request_under_way_finishes_in_the_space_it_began_in(
    start: Callable[..., Running],
) -> None:
    turned = TurnedPixels()
    running = start(turned)
    fill(running.client)
    held = running.resight.generation
    running.flip(running.space(turned))
    soon(lambda: running.answers_with("turned"))
    answer = held.identifier.identify([PhotoIn(None, scene(2, shift=3))], IdentifyOptions())
    assert answer.receipt is not None
    assert answer.receipt.fingerprint == PixelEmbedder().spec.fingerprint
    assert answer.default_answer.model == "pixels 1"


# --- what cannot be taken up


def test_a_space_without_a_bundle_here_keeps_the_old_answers_and_says_so(
    start: Callable[..., Running],
) -> None:
    """Promise 23: nothing is down where the new bundle is not installed; once it is, the running
    service takes it up."""
    turned = TurnedPixels()
    running = start()
    fill(running.client)
    running.flip(running.space(turned))
    soon(lambda: "space_switched" in codes(running.client, "reasons"))
    ready = running.client.get("/ready")
    assert ready.status_code == 503
    detail = ready.json()["reasons"][0]["detail"]
    assert "turned 1" in detail
    assert "resight models add" in detail
    answer = identify(running.client, scene(0, shift=4))
    assert answer["matches"][0]["individual"]["name"] == "anna"
    assert answer["receipt"]["fingerprint"] == PixelEmbedder().spec.fingerprint
    running.shelf.install(turned)
    soon(lambda: running.answers_with("turned"))
    assert running.client.get("/ready").status_code == 200


def test_a_service_left_in_a_space_that_was_retired_says_so_and_blames_nobody(
    start: Callable[..., Running],
) -> None:
    turned = TurnedPixels()
    running = start(turned)
    fill(running.client)
    held = running.resight.generation
    running.flip(running.space(turned))
    soon(lambda: running.answers_with("turned"))
    reindex.retire_model(running.resight.sessions, "pixels", force=True)
    soon(lambda: beside_of(running) is None)
    with pytest.raises(SearchUnavailable, match="retired"):
        held.identifier.identify([PhotoIn(None, scene(2, shift=3))], IdentifyOptions())


def test_while_a_bundle_loads_the_service_is_ready_and_says_what_goes_on(
    start: Callable[..., Running],
) -> None:
    turned = TurnedPixels()
    running = start(turned)
    fill(running.client)
    waiting, go_on = threading.Event(), threading.Event()
    load = running.shelf.load

    def slowly(fingerprint: str, gate: Gate) -> Serving:
        waiting.set()
        assert go_on.wait(SOON_S)
        return load(fingerprint, gate)

    running.resight._generations._load = slowly
    running.flip(running.space(turned))
    assert waiting.wait(SOON_S)
    try:
        assert running.client.get("/ready").status_code == 200
        assert "space_switching" in codes(running.client, "notices")
        assert identify(running.client, scene(0, shift=4))["bundle"] == "pixels"
    finally:
        go_on.set()
    soon(lambda: running.answers_with("turned"))
    assert "space_switching" not in codes(running.client, "notices")


def test_a_bundle_that_is_broken_is_not_loaded_again_and_again(
    start: Callable[..., Running],
) -> None:
    """Promise 26: a broken bundle is refused, the old model goes on."""
    turned = TurnedPixels()
    running = start(turned, poll_s=0.05)
    fill(running.client)
    tries: list[str] = []

    def broken(fingerprint: str, gate: Gate) -> Serving:
        tries.append(fingerprint)
        raise BundleError("file_changed", "network.bin is not what was installed")

    running.resight._generations._load = broken
    running.flip(running.space(turned))
    soon(lambda: "space_switched" in codes(running.client, "reasons"))
    for _ in range(5):
        running.resight.look()
    assert len(tries) == 1
    assert identify(running.client, scene(0, shift=4))["bundle"] == "pixels"


# --- heads, and starting


def activate_fitted(running: Running, rows: np.ndarray) -> None:
    """A head fitted on this catalogue, its rows by name of individual; in use from now on."""
    space = running.resight.space
    assert space is not None
    data = rows.astype("<f4").tobytes()
    with running.resight.sessions.begin() as session:
        known = session.execute(
            text("SELECT individual_id, name FROM individual_name WHERE is_primary ORDER BY name")
        ).all()
        row = heads.register_fitted(
            session,
            model_id=space.id,
            slots=[heads.FittedSlot(id_, name, "humpback_whale") for id_, name in known],
            parts=[data],
            scale=30.0,
            min_probability=0.05,
            digest=hashlib.sha256(data).hexdigest(),
            report={},
        )
        heads.activate_head(session, row.id)


def test_a_head_that_was_fitted_answers_when_it_is_activated(
    start: Callable[..., Running],
) -> None:
    """The head is switched like the space: told by the database, whole answers, the way back."""
    running = start(poll_s=3600.0)
    fill(running.client)
    before: Generation = running.resight.generation
    bundle_head = before.serving.head
    assert isinstance(bundle_head, Head)
    embedder = PixelEmbedder()
    shifted = np.stack(
        [embedder.embed([decode(scene((i + 1) % 4)).rgb]).vectors[0] for i in range(4)]
    )
    activate_fitted(running, shifted)
    soon(lambda: running.client.get("/v1/models").json()["head"]["version"] == "fit-1")
    answer = identify(running.client, scene(1, shift=5))
    # The fitted rows are shifted by one on purpose: that they speak is seen.
    assert answer["default_answer"]["individual"]["name"] == "anna"
    assert answer["matches"][0]["individual"]["name"] == "bert"
    assert before.space is not None
    with running.resight.sessions.begin() as session:
        former = heads.former_head(session, before.space.id)
        assert former is not None
        heads.activate_head(session, former.id)
    soon(lambda: running.resight.generation.serving.head is bundle_head)
    answer = identify(running.client, scene(1, shift=5))
    assert answer["default_answer"]["individual"]["name"] == "bert"


def test_starting_with_another_bundle_leaves_the_catalogue_where_it_is(
    start: Callable[..., Running], settings: Settings
) -> None:
    """Promise 21: a space that holds vectors is left by a checked switch only."""
    turned = TurnedPixels()
    running = start(turned)
    fill(running.client)
    shelf = Shelf()
    shelf.install(PixelEmbedder())
    with_turned = open_resight(settings, serving=shelf.install(turned), load=shelf.load)
    try:
        assert running.resight.space is not None
        with with_turned.sessions() as session:
            active = embeddings.active_space(session)
        assert active is not None
        assert active.id == running.resight.space.id
        assert not with_turned.active.usable
        with_turned.look()
        assert with_turned.generation.serving.bundle == "pixels"
        assert with_turned.active.usable
    finally:
        with_turned.close()


def test_a_synchronous_activation_is_a_run_like_any_other(start: Callable[..., Running]) -> None:
    """Promise 21: it leaves a report and entries in the audit trail, and can be rolled back."""
    turned = TurnedPixels()
    running = start(turned)
    fill(running.client)
    done: list[tuple[int, int]] = []
    failures = activate(
        running.resight.sessions,
        running.resight.store,
        running.shelf.there[turned.spec.fingerprint],
        snapshots_dir=running.resight.settings.snapshots_dir,
        principal="tester",
        progress=lambda now, total: done.append((now, total)),
    )
    assert failures == ()
    assert done[-1] == (8, 8)
    soon(lambda: running.answers_with("turned"))
    with running.resight.sessions() as session:
        actions = list(
            session.scalars(text("SELECT action FROM audit WHERE principal = 'tester' ORDER BY id"))
        )
    assert actions == ["reindex.start", "reindex.activate"]
    reindex.rollback(running.resight.sessions)
    soon(lambda: running.answers_with("pixels"))


def test_a_bundle_that_is_asked_for_while_another_is_in_use_is_named_and_not_loaded(
    settings: Settings,
) -> None:
    """RESIGHT_MODEL decides while there are no vectors; after that a switch does."""
    first = open_resight(settings)
    try:
        first.curator.add_individual(NewIndividual("anna"), [PhotoIn(None, scene(1))])
    finally:
        first.close()
    again = open_resight(settings.model_copy(update={"model": "effb4-arcface-v1"}))
    try:
        assert again.generation.serving.bundle == "starter"
        assert again.active.usable
        told = again.readiness()
        assert told.ready
        [notice] = [n for n in told.notices if n.code == "model_not_in_use"]
        assert "resight reindex start effb4-arcface-v1" in notice.detail
        assert notice not in again.generation.notices
    finally:
        again.close()
    quiet = open_resight(settings.model_copy(update={"model": "starter"}))
    try:
        assert "model_not_in_use" not in [notice.code for notice in quiet.readiness().notices]
    finally:
        quiet.close()
