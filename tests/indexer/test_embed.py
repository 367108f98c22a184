"""Filling a space: every annotation gets a vector or a reason, whatever happens on the way."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session, sessionmaker

from db.queries import catalogue, embeddings, media
from indexer.embed import (
    EmbedderBroken,
    EmbedProgress,
    SpaceMismatch,
    embed_annotations,
    embed_missing,
)
from indexer.ingest import add_photos
from indexer.media import MediaStore
from models.embedder import Embedded, EmbedderSpec, l2_normalize
from models.preprocess import Preprocessing, Rgb, crop, decode
from tests import zoo

Sessions = sessionmaker[Session]
PREPROCESSING = Preprocessing(16, 24, "bilinear", (0.5, 0.5, 0.5), (0.2, 0.2, 0.2))
DIM = 16 * 24 * 3


class PixelEmbedder:
    """A true embedder: the vector is the preprocessed photo itself, so every pixel counts."""

    def __init__(self, fingerprint: str = "f" * 64) -> None:
        self.spec = EmbedderSpec(
            "pixels", "1", fingerprint, DIM, "photo", PREPROCESSING, "none", "d" * 64
        )
        self.batches: list[int] = []
        self.poison: set[bytes] = set()
        self.down = False

    def embed(self, photos: Sequence[Rgb]) -> Embedded:
        self.batches.append(len(photos))
        pixels = [PREPROCESSING.apply(photo) for photo in photos]
        if self.down or any(one.tobytes() in self.poison for one in pixels):
            raise RuntimeError("row 0 has no direction")
        flat = np.stack([one.reshape(-1).astype(np.float32) - 127.3 for one in pixels])
        return Embedded(l2_normalize(flat), flat)

    def vector_of(self, photo: bytes, box: tuple[int, int, int, int] | None = None) -> np.ndarray:
        rgb = decode(photo).rgb
        return self.embed([rgb if box is None else crop(rgb, box)]).vectors[0]


@pytest.fixture
def store(tmp_path: Path) -> MediaStore:
    return MediaStore(tmp_path / "media")


@pytest.fixture
def embedder() -> PixelEmbedder:
    return PixelEmbedder()


def register(session: Session, embedder: PixelEmbedder, name: str = "pixels") -> int:
    spec = embedder.spec
    return embeddings.register_space(
        session,
        name=name,
        version=spec.version,
        fingerprint=spec.fingerprint,
        dim=spec.dim,
        preprocessing=spec.preprocessing.as_dict(),
        licence=spec.licence,
        digest=spec.digest,
    ).id


@pytest.fixture
def space(sessions: Sessions, embedder: PixelEmbedder) -> int:
    with sessions.begin() as session:
        return register(session, embedder)


def add(sessions: Sessions, store: MediaStore, photos: Sequence[bytes]) -> list[int]:
    with sessions.begin() as session:
        home = catalogue.default_catalogue(session)
        luna = catalogue.ensure_individual(session, catalogue_id=home.id, name="Luna")
        added = add_photos(
            session,
            store,
            catalogue_id=home.id,
            individual_id=luna.id,
            photos=[(f"{number}.jpg", data) for number, data in enumerate(photos)],
        )
    return [row.id for row in added]


def vectors(sessions: Sessions, space: int) -> dict[int, np.ndarray]:
    with sessions() as session:
        ids, matrix, _ = embeddings.read_space(session, space)
    return dict(zip(ids.tolist(), matrix, strict=True))


def test_every_annotation_gets_its_own_vector(
    sessions: Sessions, store: MediaStore, embedder: PixelEmbedder, space: int
) -> None:
    photos = [zoo.photo(number) for number in range(37)] + [zoo.turned(6, seed=50)]
    ids = add(sessions, store, photos)
    seen: list[EmbedProgress] = []
    report = embed_missing(sessions, store, embedder, space, batch=16, progress=seen.append)
    assert (report.embedded, report.failed, report.vanished) == (38, (), 0)
    assert report.photos_per_s > 0
    assert [(one.embedded, one.total) for one in seen] == [(16, 38), (32, 38), (38, 38)]
    assert embedder.batches == [16, 16, 6]
    found = vectors(sessions, space)
    assert list(found) == ids
    for annotation_id, photo in zip(ids, photos, strict=True):
        np.testing.assert_allclose(found[annotation_id], embedder.vector_of(photo), atol=1e-6)


def test_resizing_beforehand_changes_nothing() -> None:
    rgb = decode(zoo.photo(3)).rgb
    for way in (PREPROCESSING, Preprocessing(16, 16, "bicubic", (0, 0, 0), (1, 1, 1), fit="crop")):
        once = way.apply(rgb)
        assert np.array_equal(way.apply(once), once)


def test_a_box_is_cut_first(
    sessions: Sessions, store: MediaStore, embedder: PixelEmbedder, space: int
) -> None:
    [first] = add(sessions, store, [zoo.photo(1)])
    box = (10, 5, 40, 30)
    with sessions.begin() as session:
        whole = media.get_annotation(session, first)
        boxed, _ = media.ensure_annotation(
            session,
            catalogue_id=whole.catalogue_id,
            media_id=whole.media_id,
            individual_id=None,
            box_px=box,
        )
    assert embed_missing(sessions, store, embedder, space).embedded == 2
    found = vectors(sessions, space)
    np.testing.assert_allclose(found[boxed.id], embedder.vector_of(zoo.photo(1), box), atol=1e-6)
    assert found[boxed.id] @ found[first] < 0.99


def test_a_second_run_does_nothing(
    sessions: Sessions, store: MediaStore, embedder: PixelEmbedder, space: int
) -> None:
    add(sessions, store, [zoo.photo(number) for number in range(5)])
    embed_missing(sessions, store, embedder, space)
    embedder.batches.clear()
    report = embed_missing(sessions, store, embedder, space)
    assert (report.embedded, report.failed) == (0, ())
    assert embedder.batches == []


def test_a_poison_photo_fails_alone_and_is_tried_again_alone(
    sessions: Sessions, store: MediaStore, embedder: PixelEmbedder, space: int
) -> None:
    photos = [zoo.photo(number) for number in range(20)]
    ids = add(sessions, store, photos)
    embedder.poison = {PREPROCESSING.apply(decode(photos[3]).rgb).tobytes()}
    report = embed_missing(sessions, store, embedder, space, batch=8)
    assert report.embedded == 19
    [failure] = report.failed
    assert (failure.annotation_id, failure.code) == (ids[3], "not_embedded")
    assert "no direction" in failure.reason
    assert sorted(vectors(sessions, space)) == sorted(set(ids) - {ids[3]})

    embedder.batches.clear()
    embedder.poison.clear()
    assert embed_missing(sessions, store, embedder, space, batch=8).embedded == 1
    assert embedder.batches == [1]


def test_a_lost_or_rotten_file_fails_alone(
    sessions: Sessions, store: MediaStore, embedder: PixelEmbedder, space: int
) -> None:
    photos = [zoo.photo(number) for number in range(6)]
    ids = add(sessions, store, photos)
    with sessions() as session:
        sha256s = [media.get_annotation(session, one).sha256 for one in ids]
    store.path(sha256s[1]).unlink()
    store.path(sha256s[4]).write_bytes(b"rotten")
    report = embed_missing(sessions, store, embedder, space, batch=4)
    assert report.embedded == 4
    assert [(failure.annotation_id, failure.code) for failure in report.failed] == [
        (ids[1], "media_missing"),
        (ids[4], "unsupported_format"),
    ]


def test_a_broken_embedder_stops_the_run(
    sessions: Sessions, store: MediaStore, embedder: PixelEmbedder, space: int
) -> None:
    add(sessions, store, [zoo.photo(number) for number in range(20)])
    embedder.down = True
    with pytest.raises(EmbedderBroken, match="resight models verify"):
        embed_missing(sessions, store, embedder, space, batch=8)
    embedder.down = False
    assert embed_missing(sessions, store, embedder, space, batch=8).embedded == 20


def test_an_interrupted_run_goes_on_where_it_stopped(
    sessions: Sessions, store: MediaStore, embedder: PixelEmbedder, space: int
) -> None:
    class Stop(BaseException):
        pass

    def stop(progress: EmbedProgress) -> None:
        if progress.embedded >= 16:
            raise Stop

    ids = add(sessions, store, [zoo.photo(number) for number in range(40)])
    with pytest.raises(Stop):
        embed_missing(sessions, store, embedder, space, batch=8, progress=stop)
    assert sorted(vectors(sessions, space)) == ids[:16]
    embedder.batches.clear()
    assert embed_missing(sessions, store, embedder, space, batch=8).embedded == 24
    assert embedder.batches == [8, 8, 8]
    assert sorted(vectors(sessions, space)) == ids


def test_an_annotation_that_vanishes_meanwhile_is_counted(
    sessions: Sessions, store: MediaStore, embedder: PixelEmbedder, space: int
) -> None:
    ids = add(sessions, store, [zoo.photo(number) for number in range(4)])
    embed = embedder.embed

    def delete_meanwhile(photos: Sequence[Rgb]) -> Embedded:
        with sessions.begin() as session:
            session.execute(text("DELETE FROM annotation WHERE id = :id"), {"id": ids[2]})
        return embed(photos)

    embedder.embed = delete_meanwhile  # type: ignore[method-assign]
    report = embed_missing(sessions, store, embedder, space)
    assert (report.embedded, report.vanished, report.failed) == (3, 1, ())


def test_two_runs_at_once_fill_the_space_once(
    sessions: Sessions, store: MediaStore, embedder: PixelEmbedder, space: int
) -> None:
    ids = add(sessions, store, [zoo.photo(number) for number in range(40)])
    failures: list[BaseException] = []

    def work() -> None:
        try:
            embed_missing(sessions, store, embedder, space, batch=4)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert sorted(vectors(sessions, space)) == ids


def test_spaces_are_never_mixed(
    sessions: Sessions, store: MediaStore, embedder: PixelEmbedder, space: int
) -> None:
    ids = add(sessions, store, [zoo.photo(1)])
    other = PixelEmbedder(fingerprint="e" * 64)
    with pytest.raises(SpaceMismatch, match="eeeeeeeeeeee"):
        embed_missing(sessions, store, other, space)
    with sessions() as session, pytest.raises(SpaceMismatch):
        embed_annotations(session, store, other, space, ids)
    assert vectors(sessions, space) == {}


# --- photos added one by one


def test_added_photos_are_embedded_in_the_same_transaction(
    sessions: Sessions, store: MediaStore, embedder: PixelEmbedder, space: int
) -> None:
    before = add(sessions, store, [zoo.photo(0)])
    embed_missing(sessions, store, embedder, space)
    embedder.batches.clear()

    def add_two(session: Session) -> list[int]:
        home = catalogue.default_catalogue(session)
        sol = catalogue.ensure_individual(session, catalogue_id=home.id, name="Sol")
        rows = add_photos(
            session,
            store,
            catalogue_id=home.id,
            individual_id=sol.id,
            photos=[("a.jpg", zoo.photo(1)), ("b.jpg", zoo.photo(2)), ("a.jpg", zoo.photo(1))],
        )
        ids = [row.id for row in rows]
        report = embed_annotations(session, store, embedder, space, [*before, *ids])
        assert (report.embedded, report.failed) == (2, ())
        return ids

    with sessions() as session:
        add_two(session)
        session.rollback()
    assert list(vectors(sessions, space)) == before

    with sessions.begin() as session:
        added = add_two(session)
    assert added[0] == added[2]
    assert sorted(vectors(sessions, space)) == sorted({*before, *added})
    assert embedder.batches == [2, 2]


def test_nothing_to_embed_is_no_error(
    sessions: Sessions, store: MediaStore, embedder: PixelEmbedder, space: int
) -> None:
    assert embed_missing(sessions, store, embedder, space).embedded == 0
    with sessions() as session:
        assert embed_annotations(session, store, embedder, space, []).embedded == 0
        assert embed_annotations(session, store, embedder, space, [12345]).embedded == 0


def test_an_unknown_space_is_an_error(
    sessions: Sessions, store: MediaStore, embedder: PixelEmbedder
) -> None:
    with pytest.raises(Exception, match="No vector space has the id 4711"):
        embed_missing(sessions, store, embedder, 4711)
