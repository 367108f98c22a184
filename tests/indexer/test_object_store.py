"""Every place in which originals may lie keeps the same promises: folder, obstore's stores, S3."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from obstore.exceptions import GenericError
from obstore.store import LocalStore, MemoryStore, ObjectStore
from PIL import Image
from sqlalchemy import Engine
from sqlalchemy.orm import Session, sessionmaker

from db.queries import jobs
from db.queries.embeddings import MissingAnnotation
from db.queries.jobs import MAX_ATTEMPTS
from db.types import JobState
from indexer.embed import embed_photos
from indexer.jobs import ChunkContext, JobRunner, start_job
from indexer.media import MediaError, MediaStore, StoreUnavailable, open_media
from indexer.object_store import ObjectOriginals, open_objects, translated
from tests import s3, zoo
from tests.service.small import PixelEmbedder
from tests.toy_jobs import ToyHandler, make_table, written

DAY_S = 86_400.0


@dataclass(frozen=True)
class Place:
    """A store and how a test gets behind its back."""

    store: MediaStore
    write: Callable[[str, bytes], object]
    """Key (`originals/ab/…`) and what lies there from now on."""
    remove: Callable[[str], object]
    make_old: Callable[[str], object]

    def spoil(self, sha256: str, data: bytes) -> None:
        self.write(_key(sha256), data)


def _key(sha256: str, folder: str = "originals") -> str:
    return f"{folder}/{sha256[:2]}/{sha256}"


def _in_folder(root: Path, store: MediaStore) -> Place:
    def make_old(key: str) -> None:
        then = time.time() - 2 * DAY_S
        os.utime(root / key, (then, then))

    return Place(
        store,
        lambda key, data: (root / key).write_bytes(data),
        lambda key: (root / key).unlink(),
        make_old,
    )


def _over(root: Path, objects: ObjectStore, make_old: Callable[[str], object]) -> Place:
    return Place(
        MediaStore(root, originals=ObjectOriginals(objects, "the store under test")),
        objects.put,
        objects.delete,
        make_old,
    )


def _no_past(key: str) -> None:
    raise AssertionError(f"{key} in memory cannot be made old")


FOLDERS = ("folder", "folder elsewhere")
OBJECTS = ("obstore local", "s3", "s3 without conditions")


@pytest.fixture(params=[*FOLDERS, *OBJECTS, "obstore memory"])
def place(request: pytest.FixtureRequest, opened: Callable[[str], Place]) -> Place:
    return opened(request.param)


@pytest.fixture(params=[*FOLDERS, *OBJECTS])
def aging(request: pytest.FixtureRequest, opened: Callable[[str], Place]) -> Place:
    """A place whose files a test can make old."""
    return opened(request.param)


@pytest.fixture(params=OBJECTS)
def aging_objects(request: pytest.FixtureRequest, opened: Callable[[str], Place]) -> Place:
    return opened(request.param)


@pytest.fixture
def opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Place]]:
    with ExitStack() as stack:
        yield lambda kind: stack.enter_context(_opened(kind, tmp_path, monkeypatch))


@contextmanager
def _opened(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    media, away = tmp_path / "media", tmp_path / "away folder é"
    if kind == "folder":
        yield _in_folder(media, MediaStore(media))
    elif kind == "folder elsewhere":
        yield _in_folder(away, open_media(media, away.as_uri()))
    elif kind == "obstore local":
        away.mkdir()
        make_old = _in_folder(away, MediaStore(media)).make_old
        yield _over(media, LocalStore(away), make_old)
    elif kind == "obstore memory":
        yield _over(media, MemoryStore(), _no_past)
    else:
        if kind == "s3 without conditions":
            monkeypatch.setenv("AWS_CONDITIONAL_PUT", "disabled")
            monkeypatch.setenv("AWS_CHECKSUM_ALGORITHM", "sha256")
        with s3.serving() as bucket:
            for name, value in bucket.environment.items():
                monkeypatch.setenv(name, value)
            then = datetime.now(UTC) - timedelta(days=2)
            yield Place(
                open_media(media, "s3://photos/some prefix"),
                lambda key, data: bucket.put(f"some prefix/{key}", data),
                lambda key: bucket.objects.pop(f"some prefix/{key}"),
                lambda key: bucket.age(f"some prefix/{key}", then),
            )


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[s3.S3]:
    with s3.serving() as started:
        for name, value in started.environment.items():
            monkeypatch.setenv(name, value)
        yield started


@pytest.fixture
def store(place: Place) -> MediaStore:
    return place.store


# --- what every place promises


def test_bytes_come_back_as_they_were(store: MediaStore) -> None:
    """Promise 9: stored bytes are received bytes, named by their SHA-256."""
    for data in (zoo.photo(), b"", b"\0\xff" * 3_000_000):
        sha256 = store.put(data)
        assert sha256 == hashlib.sha256(data).hexdigest()
        assert store.read(sha256) == data
        assert store.has(sha256)
        assert store.size(sha256) == len(data)
        assert store.verify(sha256)


def test_put_is_idempotent(store: MediaStore) -> None:
    first = store.put(b"same")
    assert store.put(b"same") == first
    assert list(store.stored()) == [first]


def test_what_was_cut_off_is_written_again(place: Place) -> None:
    sha256 = place.store.put(b"whole photo")
    place.spoil(sha256, b"who")
    assert not place.store.verify(sha256)
    place.store.put(b"whole photo")
    assert place.store.verify(sha256)


def test_one_flipped_bit_is_found_and_only_that_photo_is_put_aside(place: Place) -> None:
    """Promise 9: `verify` finds one flipped bit, and only that photo leaves the store."""
    store = place.store
    good, bad = store.put(zoo.photo(1)), store.put(zoo.photo(2))
    data = bytearray(store.read(bad))
    data[100] ^= 1
    place.spoil(bad, bytes(data))
    assert (store.verify(good), store.verify(bad)) == (True, False)
    assert store.set_aside(bad)
    assert (store.has(good), store.has(bad)) == (True, False)
    assert store.put(zoo.photo(2)) == bad
    assert store.verify(bad)
    assert not store.set_aside(hashlib.sha256(b"never").hexdigest())


def test_a_missing_original_is_an_error_with_its_name(place: Place) -> None:
    sha256 = place.store.put(zoo.photo())
    place.remove(_key(sha256))
    assert not place.store.has(sha256)
    assert place.store.size(sha256) is None
    assert not place.store.verify(sha256)
    for ask in (place.store.read, lambda name: place.store.derived(name, "thumb")):
        with pytest.raises(MediaError, match=sha256) as caught:
            ask(sha256)
        assert caught.value.code == "media_missing"
        assert not isinstance(caught.value, StoreUnavailable)


@pytest.mark.parametrize("name", ["", "../../etc/passwd", "A" * 64, "0" * 63, "0" * 64 + "\n"])
def test_only_a_sha256_names_a_photo(store: MediaStore, name: str) -> None:
    """Promise 60: storage keys never derive from a name that somebody gave."""
    for ask in (store.read, store.has, store.verify, store.size, store.path, store.set_aside):
        with pytest.raises(MediaError) as caught:
            ask(name)
        assert caught.value.code == "not_a_sha256"


def test_many_threads_put_one_photo_at_once(store: MediaStore) -> None:
    data = [zoo.photo(number) for number in range(4)]
    barrier = threading.Barrier(8)

    def work(_number: int) -> list[str]:
        barrier.wait()
        return [store.put(one) for one in data]

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(work, range(8)))
    assert all(answer == answers[0] for answer in answers)
    assert sorted(store.stored()) == sorted(set(answers[0]))
    assert all(store.verify(sha256) for sha256 in answers[0])
    assert store.leftovers() == []


def test_derived_pictures_lie_here_wherever_the_original_is(store: MediaStore) -> None:
    sha256 = store.put(zoo.turned(6))
    path = store.derived(sha256, "thumb")
    assert path.is_relative_to(store.root / "derived")
    with Image.open(path) as image:
        assert image.size == (96, 64)
    written = path.stat().st_mtime_ns
    assert store.derived(sha256, "thumb").stat().st_mtime_ns == written


def test_a_damaged_original_is_told_apart(place: Place) -> None:
    sha256 = place.store.put(zoo.photo())
    place.spoil(sha256, b"rotten")
    with pytest.raises(MediaError) as caught:
        place.store.derived(sha256, "thumb")
    assert caught.value.code == "media_damaged"


def test_strangers_in_the_store_are_no_photos(place: Place) -> None:
    """Promise 60: any Unicode may lie beside the originals; it is neither listed nor swept."""
    sha256 = place.store.put(b"photo")
    strangers = [f"originals/{sha256[:2]}/Ωλ 🐋%20.jpg", f"originals/{sha256[:2]}/{sha256}.bak"]
    for key in strangers:
        place.write(key, b"somebody's")
    assert list(place.store.stored()) == [sha256]
    place.store.sweep(0.0, lambda names: names)
    for key in strangers:
        place.remove(key)


def test_a_sweep_takes_only_what_is_old_and_unknown(aging: Place) -> None:
    """Promise 8: the sweeper removes nothing that is young or has a row."""
    store = aging.store
    known, young, orphan = (store.put(data) for data in (b"known", b"young", b"orphan"))
    for sha256 in (known, orphan):
        aging.make_old(_key(sha256))
    asked: list[str] = []

    def rows(names: Sequence[str]) -> list[str]:
        asked.extend(names)
        return [known]

    swept = store.sweep(DAY_S, rows)
    assert (swept.temporary, swept.orphans, swept.freed_bytes) == (0, 1, len(b"orphan"))
    assert sorted(asked) == sorted([known, orphan])
    assert sorted(store.stored()) == sorted([known, young])


def test_without_rows_to_ask_a_sweep_leaves_originals_alone(store: MediaStore) -> None:
    sha256 = store.put(b"photo")
    assert store.sweep(0.0).orphans == 0
    assert store.has(sha256)


def test_a_photo_put_again_is_young_again(aging: Place) -> None:
    store = aging.store
    sha256 = store.put(b"photo")
    aging.make_old(_key(sha256))

    def rows(_names: Sequence[str]) -> list[str]:
        # Added between the look and the removal: its row is not yet visible.
        store.put(b"photo")
        return []

    assert store.sweep(DAY_S, rows).orphans == 0
    assert store.has(sha256)


def test_a_photo_that_got_its_row_while_it_was_swept_is_not_lost(aging_objects: Place) -> None:
    """No lock reaches from one machine to another: the object store keeps what it swept."""
    sha256 = aging_objects.store.put(b"photo")
    aging_objects.make_old(_key(sha256))
    assert aging_objects.store.sweep(DAY_S, lambda _: []).orphans == 1
    assert not aging_objects.store.has(sha256)
    assert aging_objects.store.read(sha256) == b"photo"
    aging_objects.store.sweep(DAY_S, lambda names: names)
    assert aging_objects.store.verify(sha256)


def test_what_stays_without_a_row_is_gone_after_a_second_sweep(aging: Place) -> None:
    sha256 = aging.store.put(b"photo")
    aging.make_old(_key(sha256))
    nobody: Callable[[Sequence[str]], Collection[str]] = lambda _: []  # noqa: E731
    aging.store.sweep(DAY_S, nobody)
    if aging.store.path(sha256) is None:
        aging.make_old(_key(sha256, "swept"))
        aging.store.sweep(DAY_S, nobody)
    with pytest.raises(MediaError, match="gone"):
        aging.store.read(sha256)


# --- what only an object store can do wrong


def test_a_photo_travels_once_to_s3_and_is_known_there(bucket: s3.S3, tmp_path: Path) -> None:
    store = open_media(tmp_path, "s3://photos/prefix")
    sha256 = store.put(b"photo")
    assert list(bucket.objects) == [f"prefix/originals/{sha256[:2]}/{sha256}"]
    first = bucket.objects[f"prefix/{_key(sha256)}"].modified
    store.put(b"photo")
    assert bucket.objects[f"prefix/{_key(sha256)}"].modified == first
    other_machine = open_media(tmp_path / "elsewhere", "s3://photos/prefix")
    assert other_machine.read(sha256) == b"photo"


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (500, "store_unavailable"),
        (503, "store_unavailable"),
        (429, "store_unavailable"),
        (403, "store_refused"),
        (401, "store_refused"),
    ],
)
def test_a_failing_store_is_an_outage_and_never_a_missing_photo(
    bucket: s3.S3, tmp_path: Path, status: int, code: str
) -> None:
    store = open_media(tmp_path, "s3://photos/prefix")
    sha256 = store.put(zoo.photo())
    bucket.fail = status
    asks: list[Callable[[], object]] = [
        lambda: store.read(sha256),
        lambda: store.put(zoo.photo(5)),
        lambda: store.has(sha256),
        lambda: store.verify(sha256),
        lambda: list(store.stored()),
        lambda: store.sweep(0.0, lambda _: []),
        lambda: store.derived(sha256, "thumb"),
    ]
    with ThreadPoolExecutor(len(asks)) as pool:
        errors = [future.exception() for future in [pool.submit(ask) for ask in asks]]
    assert [type(error) for error in errors] == [StoreUnavailable] * len(asks)
    assert {getattr(error, "code", None) for error in errors} == {code}
    bucket.fail = None
    assert store.read(sha256) == zoo.photo()


def test_a_duration_in_an_error_is_no_status() -> None:
    """What took 507 ms is no full store."""
    told = "Error performing GET http://store/p/x in 507.3ms, after 3 retries - 503 Unavailable"
    with pytest.raises(StoreUnavailable) as caught, translated("s3://photos"):
        raise GenericError(told)
    assert caught.value.code == "store_unavailable"


def test_a_store_that_is_not_there_is_an_outage(bucket: s3.S3, tmp_path: Path) -> None:
    sha256 = hashlib.sha256(b"photo").hexdigest()
    no_bucket = open_media(tmp_path, "s3://nothing/prefix")
    with pytest.raises(StoreUnavailable, match="s3://nothing/prefix"):
        no_bucket.read(sha256)
    with pytest.raises(StoreUnavailable):
        no_bucket.put(b"photo")


def test_a_store_that_nobody_answers_for_is_an_outage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with s3.serving() as gone:
        for name, value in gone.environment.items():
            monkeypatch.setenv(name, value)
    store = open_media(tmp_path, "s3://photos/prefix")
    with pytest.raises(StoreUnavailable) as caught:
        store.put(b"photo")
    assert caught.value.code == "store_unavailable"
    assert store.leftovers() == []


def test_a_store_without_room_is_a_full_disk_and_works_again(bucket: s3.S3, tmp_path: Path) -> None:
    """Promise 12: no room is `disk_full`, nothing stays, and later it works without a restart."""
    store = open_media(tmp_path, "s3://photos/prefix")
    bucket.fail = 507
    with pytest.raises(MediaError) as caught:
        store.put(b"photo")
    assert caught.value.code == "disk_full"
    assert bucket.objects == {}
    bucket.fail = None
    assert store.verify(store.put(b"photo"))


@pytest.mark.parametrize("days", [-2, 2])
def test_a_clock_that_is_days_off_sweeps_nothing_young_and_all_that_is_old(
    bucket: s3.S3, tmp_path: Path, days: int
) -> None:
    """Promise 32: ages are told by the store's own clock, whatever this machine believes."""
    bucket.skew = timedelta(days=days)
    store = open_media(tmp_path, "s3://photos/prefix")
    young, old = store.put(b"young"), store.put(b"old")
    bucket.age(f"prefix/{_key(old)}", datetime.now(UTC) + timedelta(days=days - 2))
    assert store.sweep(DAY_S, lambda _: []).orphans == 1
    assert list(store.stored()) == [young]


def test_many_pages_are_listed_whole(bucket: s3.S3, tmp_path: Path) -> None:
    store = open_media(tmp_path, "s3://photos/prefix")
    names = [hashlib.sha256(str(number).encode()).hexdigest() for number in range(2500)]
    for name in names:
        bucket.put(f"prefix/{_key(name)}", b"photo")
    assert sorted(store.stored()) == sorted(names)


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("ftp://host/x", "bad_media_url"),
        ("https://host/x", "bad_media_url"),
        ("s3://", "bad_media_url"),
        ("s3://key:secret@bucket/x", "bad_media_url"),
        ("file://other-machine/x", "bad_location"),
        ("file:relative", "bad_location"),
    ],
)
def test_only_stores_are_opened_and_no_secret_is_repeated(
    tmp_path: Path, url: str, code: str
) -> None:
    with pytest.raises(MediaError) as caught:
        open_media(tmp_path, url)
    assert caught.value.code == code
    assert "secret" not in caught.value.detail


def test_what_the_environment_lacks_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith("AZURE_")]:
        monkeypatch.delenv(name)
    with pytest.raises(StoreUnavailable, match="Account"):
        open_objects("az://container/prefix")


# --- embedding from a store that is far away


def _wanted(store: MediaStore, count: int) -> list[MissingAnnotation]:
    return [
        MissingAnnotation(number, number, store.put(zoo.photo(number)), None, 0)
        for number in range(count)
    ]


def test_several_photos_travel_at_once_while_others_are_embedded(
    bucket: s3.S3, tmp_path: Path
) -> None:
    store = open_media(tmp_path, "s3://photos/prefix")
    wanted = _wanted(store, 8)
    bucket.gate = threading.Barrier(4)
    embedded = embed_photos(store, PixelEmbedder(), wanted, batch=4)
    assert embedded is not None
    assert embedded.annotations == tuple(wanted)
    assert embedded.failed == ()


def test_an_outage_fails_no_photo(bucket: s3.S3, tmp_path: Path) -> None:
    """A photo that is gone fails alone; a store that is away says nothing about any photo."""
    store = open_media(tmp_path, "s3://photos/prefix")
    wanted = _wanted(store, 3)
    del bucket.objects[f"prefix/{_key(wanted[1].sha256)}"]
    embedded = embed_photos(store, PixelEmbedder(), wanted)
    assert embedded is not None
    assert [(one.annotation_id, one.code) for one in embedded.failed] == [(1, "media_missing")]
    bucket.fail = 503
    with pytest.raises(StoreUnavailable):
        embed_photos(store, PixelEmbedder(), wanted)


def test_a_job_waits_for_the_store_and_then_ends_well(
    bucket: s3.S3, tmp_path: Path, sessions: sessionmaker[Session], engine: Engine
) -> None:
    """No attempt counts and nothing fails while the store is away; the job says why it waits."""
    store = open_media(tmp_path, "s3://photos/prefix")
    sha256 = store.put(zoo.photo())

    class Reading(ToyHandler):
        def work(self, chunk: ChunkContext) -> None:
            store.read(sha256)
            super().work(chunk)

    make_table(engine)
    job = start_job(sessions, kind=Reading.kind, params={"numbers": 8}, principal="anna")
    bucket.fail = 503
    for _ in range(MAX_ATTEMPTS + 1):
        JobRunner(sessions, [Reading()], worker="w").run_until_idle()
    with sessions() as session:
        waiting = jobs.get_job(session, job.id)
    assert (waiting.state, waiting.error_code) == (JobState.RUNNING, "store_unavailable")
    bucket.fail = None
    JobRunner(sessions, [Reading()], worker="w").run_until_idle()
    with sessions() as session:
        ended = jobs.get_job(session, job.id)
    assert (ended.state, ended.done, ended.failed, ended.error_code) == (JobState.DONE, 8, 0, None)
    assert written(engine) == list(range(8))
