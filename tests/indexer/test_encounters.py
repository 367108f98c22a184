"""Encounters: photos given in any way are stored once and found at once; corrections touch one row
and are undone; where left and right are two things, they are never compared."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import text
from sqlalchemy.orm import Session, sessionmaker

from db.errors import Conflict, Invalid, NotFound
from db.queries import catalogue, changes, embeddings, records, viewpoints
from db.queries.changes import Actor, Journal
from db.queries.embeddings import SpaceRow
from db.queries.encounters import EncounterFilters
from db.queries.filters import SearchFilters
from indexer.encounter_edits import NewRegion
from indexer.encounter_groups import group_by_time, is_near
from indexer.encounter_photos import Labels, NewEncounter
from indexer.encounters import Encounters
from indexer.filling import Filler, Filling
from indexer.identify import NoPhotos, PhotoIn
from indexer.inference import Inference
from indexer.media import MediaStore
from indexer.photos import PhotosRefused
from indexer.search import Searcher, SearchRequest, SearchUnavailable
from indexer.spaces import SLOT
from indexer.viewpoints import applied_rules
from models.preprocess import DecodeLimits, crop, decode
from tests.photos import NOON, taken
from tests.service.small import PixelEmbedder, scene, vector_of

WHO = Actor("ana")
MINUTE = timedelta(minutes=1)
Sessions = sessionmaker[Session]


@dataclass
class Asked:
    """Stands for the desk: what was asked, and a query for it as the desk would store one."""

    sessions: Sessions
    calls: list[tuple[tuple[int, ...], UUID]] = field(default_factory=list)
    fails: Exception | None = None

    def __call__(
        self, annotation_ids: Sequence[int], encounter_id: UUID, actor: Actor, key: str
    ) -> UUID:
        self.calls.append((tuple(annotation_ids), encounter_id))
        if self.fails is not None:
            raise self.fails
        query_id = uuid4()
        with self.sessions.begin() as session:
            session.execute(
                text(
                    "INSERT INTO query (id, kind, principal, k, gate_state, answer, encounter_id,"
                    " state) VALUES (:id, 'encounter', 'ana', 10, 'accepted', '{}', :encounter,"
                    " 'open')"
                ),
                {"id": query_id, "encounter": encounter_id},
            )
            session.execute(
                text(
                    "INSERT INTO query_photo (query_id, position, media_id, annotation_id)"
                    " SELECT :query, row_number() OVER (ORDER BY id), media_id, id FROM annotation"
                    " WHERE id = ANY(:ids)"
                ),
                {"query": query_id, "ids": list(annotation_ids)},
            )
        return query_id


@dataclass
class Bench:
    sessions: Sessions
    store: MediaStore
    filler: Filler
    encounters: Encounters
    searcher: Searcher
    space: SpaceRow
    asked: Asked
    embedder: PixelEmbedder
    looked: list[int]

    def make(self, *photos: bytes, **options: Any) -> Any:
        new = options.pop("new", NewEncounter())
        given = [PhotoIn(f"{i}.jpg", data) for i, data in enumerate(photos)]
        return self.encounters.create(new, given, actor=WHO, **options)

    def vector(self, annotation_id: int | str) -> np.ndarray[Any, Any] | None:
        with self.sessions() as session:
            return embeddings.get_vector(session, self.space.id, int(annotation_id))

    def name(self, annotation_id: int | str, name: str, taxon: str | None = None) -> UUID:
        """Say whom an annotation shows."""
        with self.sessions.begin() as session:
            main = catalogue.default_catalogue(session)
            taxon_id = catalogue.ensure_taxon(session, taxon) if taxon else None
            who = catalogue.ensure_individual(
                session, catalogue_id=main.id, name=name, taxon_id=taxon_id
            )
            journal = Journal(session)
            journal.update("annotation", int(annotation_id), {"individual_id": str(who.id)})
            journal.close(WHO, "named", {})
        return who.id

    def edit(self, annotation_id: int | str, **fields: Any) -> Any:
        if_match = fields.pop("if_match", None)
        return self.encounters.edit_annotation(
            int(annotation_id), fields, if_match=if_match, actor=WHO
        )

    def undo(self, change_id: int) -> None:
        with self.sessions.begin() as session:
            undone = changes.undo(session, change_id, WHO)
            self.filler.embed_after(session, undone.id)

    def nearest(self, photo: bytes, **filters: Any) -> list[tuple[str, float, int]]:
        """(name, cosine, annotation) of the individuals nearest to a photo."""
        request = SearchRequest(
            vectors=vector_of(photo)[None],
            fingerprint=self.space.fingerprint,
            filters=SearchFilters(**filters),
        )
        with self.sessions() as session:
            hits = self.searcher.search(session, request).hits
        return [(hit.name, hit.score, hit.annotation_id) for hit in hits]

    def table(self, name: str) -> list[Any]:
        with self.sessions() as session:
            return list(session.scalars(text(f"SELECT to_jsonb({name}.*) FROM {name} ORDER BY id")))


@pytest.fixture
def bench(sessions: Sessions, tmp_path: Path) -> Iterator[Bench]:
    embedder = PixelEmbedder()
    with sessions.begin() as session:
        spec = embedder.spec
        space = embeddings.register_space(
            session,
            name=spec.name,
            version=spec.version,
            fingerprint=spec.fingerprint,
            dim=spec.dim,
            preprocessing=spec.preprocessing.as_dict(),
            licence=spec.licence,
            digest=spec.digest,
        )
        embeddings.set_slot(session, SLOT, space.id)
    inference = Inference()
    looked: list[int] = []
    store = MediaStore(tmp_path / "media")
    filler = Filler(
        store=store,
        filling=lambda: Filling((embedder, space)),
        look=lambda: looked.append(1),
        inference=inference,
        limits=DecodeLimits(),
    )
    asked = Asked(sessions)
    encounters = Encounters(
        sessions=sessions, store=store, filler=filler, limits=DecodeLimits(), ask=asked
    )
    searcher = Searcher(sessions, tmp_path / "snapshots", "exact")
    yield Bench(sessions, store, filler, encounters, searcher, space, asked, embedder, looked)
    searcher.close()
    inference.close()


# ---------------------------------------------------------------- which photos belong together


TIMES = st.lists(st.none() | st.integers(0, 500).map(lambda m: NOON + m * MINUTE), max_size=30)


@given(TIMES, st.integers(0, 60), st.booleans())
def test_groups_are_runs_without_a_longer_pause(
    times: list[datetime | None], gap_m: int, together: bool
) -> None:
    gap = gap_m * MINUTE
    groups = group_by_time(times, gap, together=together)
    assert sorted(i for group in groups for i in group) == list(range(len(times)))
    spans = []
    for group in groups:
        known = [times[i] for i in group]
        if None in known:
            assert known == [None] * len(group)
            assert together or len(group) == 1
            continue
        ordered = [time for time in known if time is not None]
        assert ordered == sorted(ordered)
        assert all(b - a <= gap for a, b in itertools.pairwise(ordered))
        spans.append((ordered[0], ordered[-1]))
    assert not any(is_near(a, b, gap) for a, b in itertools.pairwise(spans))
    assert sum(times[group[0]] is None for group in groups) <= (1 if together else len(times))


# ---------------------------------------------------------------- photos given


def test_times_and_position_come_from_the_photos_and_what_is_said_wins(bench: Bench) -> None:
    photos = [
        taken(1, NOON + 4 * MINUTE, latitude=-41.0, longitude=174.0, by="Ana"),
        taken(2, NOON, latitude=-42.0, longitude=175.0),
    ]
    made = bench.make(*photos, new=NewEncounter(place=" Kaikōura ", observer="Ben"))
    told = made.encounter
    assert (told.started_at, told.ended_at) == (
        NOON.isoformat(),
        (NOON + 4 * MINUTE).isoformat(),
    )
    assert (told.latitude, told.longitude, told.place) == (-41.0, 174.0, "Kaikōura")
    with bench.sessions() as session:
        view = bench.encounters.read(session, UUID(told.id))
    assert [photo.name for photo in view.photos] == ["1.jpg", "0.jpg"]
    assert view.photos[1].photographer == "Ana"
    assert (view.photos[1].latitude, view.photos[1].longitude) == (-41.0, 174.0)
    said = bench.make(
        taken(3, NOON, latitude=1.0, longitude=1.0),
        new=NewEncounter(started_at=NOON - 60 * MINUTE, latitude=5.0, longitude=6.0),
    ).encounter
    assert (said.started_at, said.ended_at) == ((NOON - 60 * MINUTE).isoformat(), None)
    assert (said.latitude, said.longitude) == (5.0, 6.0)


def test_a_photo_has_its_vector_when_the_answer_comes(bench: Bench) -> None:
    """Promise 38: what was just given is found by the next search."""
    made = bench.make(scene(1), scene(2))
    assert [photo.embedded for photo in made.photos] == [True, True]
    own = made.photos[0].annotation_id
    assert bench.vector(own) == pytest.approx(vector_of(scene(1)), abs=1e-6)
    assert bench.nearest(scene(1)) == []
    bench.name(own, "Tip")
    assert [(name, at) for name, _, at in bench.nearest(scene(1))] == [("Tip", int(own))]


def test_a_photo_that_cannot_be_read_is_named_and_the_others_are_stored(bench: Bench) -> None:
    made = bench.make(scene(1), b"no photo", scene(2))
    assert [photo.position for photo in made.photos] == [0, 1, 2]
    assert made.photos[1].error is not None
    assert made.photos[1].error.code == "unsupported_format"
    assert [bool(photo.annotation_id) for photo in made.photos] == [True, False, True]
    assert len(bench.table("annotation")) == 2


def test_nothing_readable_makes_nothing(bench: Bench) -> None:
    with pytest.raises(PhotosRefused):
        bench.make(b"no photo")
    with pytest.raises(NoPhotos):
        bench.make()
    assert bench.table("encounter") == []


def test_photos_given_again_are_answered_where_they_are(bench: Bench) -> None:
    first = bench.make(scene(1), scene(2))
    before = [bench.table(name) for name in ("encounter", "annotation", "media_asset")]
    again = bench.make(scene(2), scene(1))
    assert (again.created, again.encounter) == (False, first.encounter)
    assert [photo.known for photo in again.photos] == [True, True]
    assert again.query_id == first.query_id
    assert [bench.table(name) for name in ("encounter", "annotation", "media_asset")] == before
    mixed = bench.make(scene(1), scene(3))
    assert mixed.created
    assert [photo.known for photo in mixed.photos] == [True, False]
    assert mixed.photos[0].encounter_id == first.encounter.id
    assert bench.asked.calls[-1][0] == (int(mixed.photos[1].annotation_id),)


def test_the_same_photo_twice_in_one_request_is_one_annotation(bench: Bench) -> None:
    made = bench.make(scene(1), scene(1))
    assert made.photos[0].annotation_id == made.photos[1].annotation_id
    assert [photo.known for photo in made.photos] == [False, True]


def test_a_known_photo_without_an_encounter_joins_and_that_can_be_undone(bench: Bench) -> None:
    made = bench.make(scene(1))
    own = made.photos[0].annotation_id
    bench.edit(own, encounter_id=None)
    bench.name(own, "Tip")
    joined = bench.make(scene(1), scene(2))
    assert joined.created
    assert joined.photos[0].encounter_id == joined.encounter.id
    assert joined.photos[0].individual is not None
    assert bench.asked.calls[-1][0] == (int(joined.photos[1].annotation_id),)
    with bench.sessions() as session:
        change = changes.list_changes(session).items[0]
    assert change.action == "encounter.photos"
    bench.undo(change.id)
    with bench.sessions() as session:
        assert bench.encounters.read_annotation(session, int(own)).encounter_id is None


def test_a_photo_that_was_imported_in_regions_gets_no_other_one(bench: Bench) -> None:
    made = bench.make(scene(1))
    own = made.photos[0].annotation_id
    bench.edit(own, box_px=(10, 10, 100, 80))
    again = bench.make(scene(1))
    assert (again.created, again.photos[0].annotation_id) == (False, own)
    assert len(bench.table("annotation")) == 1


def test_a_key_is_answered_once(bench: Bench) -> None:
    """Promise 49."""
    first = bench.make(scene(1), idempotency_key="k")
    again = bench.make(scene(1), idempotency_key="k")
    assert (first.replayed, again.replayed) == (False, True)
    assert again.as_json() == first.as_json()
    assert len(bench.asked.calls) == 1
    with pytest.raises(Conflict, match="another request"):
        bench.make(scene(2), idempotency_key="k")


def test_the_same_photos_given_by_many_at_once_are_one_encounter(bench: Bench) -> None:
    photos = [scene(1), scene(2)]
    with ThreadPoolExecutor(6) as pool:
        made = list(pool.map(lambda _: bench.make(*photos, ask=False), range(6)))
    assert sum(one.created for one in made) == 1
    assert len({one.encounter.id for one in made}) == 1
    assert len(bench.table("encounter")) == 1
    assert len(bench.table("annotation")) == 2


def test_viewpoints_are_one_for_all_or_one_for_each(bench: Bench) -> None:
    labels = Labels("humpback whale", ("left", "right"), ("flank",))
    made = bench.make(scene(1), scene(2), new=NewEncounter(labels=labels))
    with bench.sessions() as session:
        view = bench.encounters.read(session, UUID(made.encounter.id))
    assert [(p.viewpoint, p.body_part, p.taxon) for p in view.photos] == [
        ("left", "flank", "Megaptera novaeangliae"),
        ("right", "flank", "Megaptera novaeangliae"),
    ]
    with pytest.raises(Invalid, match="2 values of viewpoint came with 3 photos"):
        bench.make(scene(3), scene(4), scene(5), new=NewEncounter(labels=labels))


def test_who_gave_the_photos_is_in_the_audit_trail(bench: Bench) -> None:
    """Promise 55."""
    made = bench.make(scene(1))
    with bench.sessions() as session:
        entry = records.list_audit(session).items[0]
    assert (entry.principal, entry.action, entry.subject) == (
        "ana",
        "encounter.create",
        f"encounter:{made.encounter.id}",
    )


# ---------------------------------------------------------------- more photos, many photos


def test_more_photos_tell_what_was_not_known(bench: Bench) -> None:
    made = bench.make(scene(1), ask=False)
    more = bench.encounters.add_photos(
        UUID(made.encounter.id),
        [PhotoIn("b.jpg", taken(2, NOON, latitude=10.0, longitude=20.0))],
        actor=WHO,
    )
    assert (more.created, more.encounter.id) == (False, made.encounter.id)
    assert (more.encounter.started_at, more.encounter.latitude) == (NOON.isoformat(), 10.0)
    far = bench.encounters.add_photos(
        UUID(made.encounter.id), [PhotoIn("c.jpg", taken(3, NOON + 24 * 60 * MINUTE))], actor=WHO
    )
    assert far.encounter.ended_at == NOON.isoformat()
    with pytest.raises(NotFound):
        bench.encounters.add_photos(uuid4(), [PhotoIn("d.jpg", scene(4))], actor=WHO)


def drop(bench: Bench, *photos: bytes, **options: Any) -> Any:
    given = [PhotoIn(f"{i}.jpg", data) for i, data in enumerate(photos)]
    return bench.encounters.drop(NewEncounter(place="Bay"), given, actor=WHO, **options)


def test_dropped_photos_become_encounters_by_their_times(bench: Bench) -> None:
    dropped = drop(
        bench,
        taken(1, NOON + 30 * MINUTE),
        taken(2, NOON),
        b"no photo",
        taken(3, NOON + 9 * MINUTE),
        scene(4),
        scene(5),
        taken(6, NOON + 41 * MINUTE),
    )
    names = [[photo.name for photo in one.photos] for one in dropped.encounters]
    assert names == [["1.jpg", "3.jpg"], ["0.jpg"], ["6.jpg"], ["4.jpg"], ["5.jpg"]]
    assert [photo.name for photo in dropped.refused] == ["2.jpg"]
    assert {one.encounter.place for one in dropped.encounters} == {"Bay"}
    assert [len(call[0]) for call in bench.asked.calls] == [2, 1, 1, 1, 1]
    assert [photo.position for photo in dropped.encounters[0].photos] == [1, 3]


def test_photos_without_a_time_can_be_kept_together(bench: Bench) -> None:
    dropped = drop(bench, scene(1), scene(2), taken(3, NOON), together=True)
    assert [len(one.photos) for one in dropped.encounters] == [1, 2]
    before = [UUID(one.encounter.id) for one in dropped.encounters]
    more = drop(bench, scene(4), together=True, continues=before)
    assert [one.encounter.id for one in more.encounters] == [str(before[1])]


def test_what_was_dropped_before_is_recognised_and_continued(bench: Bench) -> None:
    burst = [taken(i, NOON + i * MINUTE) for i in range(4)]
    whole = drop(bench, *burst[:2], idempotency_key="k")
    first = whole.encounters[0].encounter
    assert drop(bench, *burst[:2], idempotency_key="k").as_json() == whole.as_json()
    rest = drop(bench, *burst[2:], continues=[UUID(first.id)])
    assert [one.encounter.id for one in rest.encounters] == [first.id]
    assert rest.encounters[0].encounter.ended_at == (NOON + 3 * MINUTE).isoformat()
    alone = drop(bench, taken(9, NOON + 60 * MINUTE), continues=[UUID(first.id)])
    assert alone.encounters[0].created
    assert len(bench.table("encounter")) == 2


# ---------------------------------------------------------------- asking


def test_the_photos_are_asked_about_once_and_together(bench: Bench) -> None:
    made = bench.make(scene(1), scene(2))
    ids = tuple(int(photo.annotation_id) for photo in made.photos)
    assert bench.asked.calls == [(ids, UUID(made.encounter.id))]
    assert made.query_id is not None
    with bench.sessions() as session:
        view = bench.encounters.read(session, UUID(made.encounter.id))
    assert [query.id for query in view.queries] == [made.query_id]


def test_photos_are_kept_when_nobody_can_be_asked(bench: Bench) -> None:
    bench.asked.fails = SearchUnavailable("The vectors are still being loaded.")
    made = bench.make(scene(1))
    assert made.query_id is None
    assert [notice.code for notice in made.notices] == ["not_asked"]
    bench.asked.fails = None
    again = bench.make(scene(1))
    assert again.query_id is not None


def test_nothing_is_asked_where_that_is_not_wanted(bench: Bench) -> None:
    assert bench.make(scene(1), ask=False).query_id is None
    assert bench.asked.calls == []


# ---------------------------------------------------------------- correcting


def test_an_encounter_is_corrected_and_that_is_undone(bench: Bench) -> None:
    made = bench.make(taken(1, NOON))
    id_, tag = UUID(made.encounter.id), made.encounter.etag
    before = bench.table("encounter")
    fields = {"place": "Akaroa", "notes": "calm\x00 sea", "started_at": NOON - 5 * MINUTE}
    edited = bench.encounters.edit(id_, fields, if_match=f'"{tag}"', actor=WHO)
    assert (edited.encounter.place, edited.encounter.notes) == ("Akaroa", "calm sea")
    assert edited.encounter.started_at == (NOON - 5 * MINUTE).isoformat()
    assert edited.change_id is not None
    with pytest.raises(Conflict, match="changed by another") as refused:
        bench.encounters.edit(id_, {"place": "Lyttelton"}, if_match=f'"{tag}"', actor=WHO)
    assert refused.value.values["etag"] == edited.encounter.etag
    assert bench.encounters.edit(id_, {"place": "Akaroa"}, actor=WHO).change_id is None
    bench.undo(edited.change_id)
    assert bench.table("encounter") == before


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"latitude": 4.0}, "position_incomplete"),
        ({"latitude": 91.0, "longitude": 0.0}, "latitude_out_of_range"),
        ({"ended_at": NOON - MINUTE}, "encounter_ends_before_start"),
        ({"catalogue_id": "x"}, "field_not_editable"),
    ],
)
def test_an_impossible_correction_is_refused(
    bench: Bench, fields: dict[str, Any], code: str
) -> None:
    made = bench.make(taken(1, NOON))
    before = bench.table("encounter")
    with pytest.raises(Invalid) as refused:
        bench.encounters.edit(UUID(made.encounter.id), fields, actor=WHO)
    assert refused.value.code == code
    assert bench.table("encounter") == before


def box_vector(photo: bytes, box: tuple[int, int, int, int]) -> Any:
    return PixelEmbedder().embed([crop(decode(photo).rgb, box)]).vectors[0]


BOX = (20, 10, 90, 70)


def test_a_corrected_box_never_answers_as_what_it_was(bench: Bench) -> None:
    """Promise 39: the old vector is gone with the edit, the new one is found by the next search;
    the same after the undo."""
    photo = scene(1)
    own = bench.make(photo).photos[0].annotation_id
    bench.name(own, "Tip")
    assert bench.nearest(photo)[0][1] > 0.999
    edited = bench.edit(own, box_px=BOX)
    assert edited.annotation.box_px == BOX
    assert bench.vector(own) == pytest.approx(box_vector(photo, BOX), abs=1e-6)
    whole, cut = vector_of(photo), box_vector(photo, BOX)
    assert bench.nearest(photo)[0][1] == pytest.approx(float(whole @ cut), abs=1e-5)
    bench.undo(edited.change_id)
    assert bench.vector(own) == pytest.approx(whole, abs=1e-6)
    assert bench.nearest(photo)[0][1] > 0.999


def test_a_box_around_everything_is_the_whole_photo(bench: Bench) -> None:
    own = bench.make(scene(1)).photos[0].annotation_id
    edited = bench.edit(own, box_px=(0, 0, 240, 160))
    assert (edited.annotation.box_px, edited.change_id) == (None, None)


@pytest.mark.parametrize("box", [(0, 0, 0, 10), (200, 0, 60, 10), (-1, 0, 10, 10)])
def test_a_box_outside_the_photo_changes_nothing(
    bench: Bench, box: tuple[int, int, int, int]
) -> None:
    own = bench.make(scene(1)).photos[0].annotation_id
    with pytest.raises(Invalid, match="does not lie inside the photo"):
        bench.edit(own, box_px=box)
    assert bench.vector(own) == pytest.approx(vector_of(scene(1)), abs=1e-6)


def test_a_correction_touches_one_annotation_of_several_in_the_photo(bench: Bench) -> None:
    """Promise 51: with two animals in a photo, only the one that is meant changes."""
    made = bench.make(scene(1))
    left, media = made.photos[0].annotation_id, made.photos[0].media_id
    bench.edit(left, box_px=(0, 0, 100, 160))
    right = bench.encounters.draw(
        NewRegion(int(media), (120, 0, 100, 160)), actor=WHO
    ).annotation.annotation_id
    bench.name(left, "Tip")
    bench.name(right, "Hope")
    others = [row for row in bench.table("annotation") if row["id"] != int(right)]
    vector = bench.vector(left)
    for fields in (
        {"box_px": (121, 1, 90, 150)},
        {"viewpoint": "left", "body_part": "flank"},
        {"is_reference": True},
        {"matchable": False},
        {"encounter_id": None},
    ):
        bench.edit(right, **fields)
        kept = [row for row in bench.table("annotation") if row["id"] != int(right)]
        assert kept == others, fields
    assert np.array_equal(bench.vector(left), vector)
    assert [name for name, _, _ in bench.nearest(scene(1))] == ["Tip"]


def test_two_editors_of_one_annotation(bench: Bench) -> None:
    own = bench.make(scene(1)).photos[0].annotation_id
    with bench.sessions() as session:
        tag = bench.encounters.read_annotation(session, int(own)).etag
    bench.edit(own, viewpoint="left", if_match=f'"{tag}"')
    with pytest.raises(Conflict, match="changed by another"):
        bench.edit(own, viewpoint="right", if_match=f'"{tag}"')
    bench.edit(own, viewpoint="right", if_match="*")


def test_another_region_is_drawn_and_its_drawing_undone(bench: Bench) -> None:
    made = bench.make(scene(1))
    media = int(made.photos[0].media_id)
    before = bench.table("annotation")
    drawn = bench.encounters.draw(NewRegion(media, BOX, viewpoint=" left "), actor=WHO)
    assert (drawn.annotation.encounter_id, drawn.annotation.viewpoint) == (
        made.encounter.id,
        "left",
    )
    own = drawn.annotation.annotation_id
    assert bench.vector(own) == pytest.approx(box_vector(scene(1), BOX), abs=1e-6)
    with pytest.raises(Conflict) as refused:
        bench.encounters.draw(NewRegion(media, BOX), actor=WHO)
    assert refused.value.code == "annotation_exists"
    corrected = bench.edit(own, box_px=(5, 5, 50, 50))
    with pytest.raises(Conflict) as blocked:
        bench.undo(drawn.change_id)
    assert blocked.value.values["blocking_id"] == corrected.change_id
    bench.undo(corrected.change_id)
    bench.undo(drawn.change_id)
    assert bench.table("annotation") == before
    assert bench.vector(own) is None


def test_drawing_with_a_key_draws_once(bench: Bench) -> None:
    media = int(bench.make(scene(1)).photos[0].media_id)
    drawn = [
        bench.encounters.draw(NewRegion(media, BOX), actor=WHO, idempotency_key="k")
        for _ in range(2)
    ]
    assert drawn[0].annotation == drawn[1].annotation


def test_many_are_said_the_same_and_undone_as_one(bench: Bench) -> None:
    made = bench.make(scene(1), scene(2), scene(3))
    ids = [int(photo.annotation_id) for photo in made.photos]
    bench.edit(ids[0], viewpoint="left")
    before = bench.table("annotation")
    preview = bench.encounters.edit_annotations(ids, {"viewpoint": "left"}, preview=True, actor=WHO)
    assert (preview.changed, preview.unchanged, preview.change_id) == (2, 1, None)
    assert bench.table("annotation") == before
    done = bench.encounters.edit_annotations(ids, {"viewpoint": "left"}, actor=WHO)
    assert (done.changed, done.unchanged) == (2, 1)
    assert {row["viewpoint"] for row in bench.table("annotation")} == {"left"}
    bench.undo(done.change_id)
    assert bench.table("annotation") == before
    with pytest.raises(Invalid, match="cannot be set here"):
        bench.encounters.edit_annotations(ids, {"box_px": BOX}, actor=WHO)


def test_an_encounter_of_another_catalogue_takes_no_photo(bench: Bench) -> None:
    own = bench.make(scene(1)).photos[0].annotation_id
    other = bench.make(scene(2), new=NewEncounter(catalogue="other")).encounter.id
    with pytest.raises(Invalid, match="belongs to the catalogue 'other'"):
        bench.edit(own, encounter_id=UUID(other))


def test_a_move_to_another_space_meanwhile_is_followed(bench: Bench) -> None:
    """A photo given just after a switch is tried again once what is searched now was looked for."""
    with bench.sessions.begin() as session:
        other = embeddings.register_space(
            session,
            name="other",
            version="1",
            fingerprint="a" * 64,
            dim=4,
            preprocessing={"size": 8},
            licence="CC0",
            digest="d",
        )
        embeddings.set_slot(session, SLOT, other.id)
    made = bench.make(scene(1))
    assert bench.looked == [1]
    assert made.photos[0].embedded


# ---------------------------------------------------------------- lists


def walk(bench: Bench, limit: int, **filters: Any) -> list[str | None]:
    found: list[str | None] = []
    cursor: str | None = None
    while True:
        with bench.sessions() as session:
            page = bench.encounters.browse(
                session, EncounterFilters(**filters), limit=limit, cursor=cursor
            )
        found += [item.encounter.place for item in page.items]
        if page.next_cursor is None:
            return found
        cursor = page.next_cursor


def test_encounters_are_walked_newest_first_and_filtered(bench: Bench) -> None:
    ids = {}
    for number in range(5):
        new = NewEncounter(place=f"Bay {number}", labels=Labels("orca" if number == 2 else None))
        made = bench.make(taken(number, NOON + number * MINUTE), new=new, ask=False)
        ids[number] = made.photos[0].annotation_id
    who = bench.name(ids[3], "Tip", taxon="Orcinus orca")
    everything = [f"Bay {number}" for number in (4, 3, 2, 1, 0)]
    assert walk(bench, 2) == everything
    assert walk(bench, 50, place="bay 3") == ["Bay 3"]
    assert walk(bench, 50, individual=who) == ["Bay 3"]
    assert walk(bench, 50, taxon="Orcinus orca") == ["Bay 3"]
    assert walk(bench, 50, taxon="orca") == ["Bay 2"]
    assert walk(bench, 50, date_from=NOON + 2 * MINUTE, date_to=NOON + 4 * MINUTE) == [
        "Bay 3",
        "Bay 2",
    ]
    assert walk(bench, 1, unnamed=True) == ["Bay 4", "Bay 2", "Bay 1", "Bay 0"]
    assert walk(bench, 50, catalogue="nowhere") == []
    with bench.sessions() as session:
        item = bench.encounters.browse(session, EncounterFilters(individual=who)).items[0]
    assert [(one.name, one.photos) for one in item.individuals] == [("Tip", 1)]
    assert (item.photo_count, item.unnamed) == (1, 0)
    assert item.covers[0].annotation_id == ids[3]


def test_individuals_seen_together_follow_merges(bench: Bench) -> None:
    made = bench.make(scene(1), scene(2), scene(3))
    ids = [photo.annotation_id for photo in made.photos]
    tip, other = bench.name(ids[0], "Tip"), bench.name(ids[1], "Other")
    bench.name(ids[2], "Hope")
    with bench.sessions.begin() as session:
        journal = Journal(session)
        journal.update("individual", other, {"merged_into_id": str(tip)})
        journal.close(WHO, "merge", {})
    with bench.sessions() as session:
        seen = bench.encounters.read(session, UUID(made.encounter.id)).individuals
    assert [(one.name, one.photos) for one in seen] == [("Tip", 2), ("Hope", 1)]


# ---------------------------------------------------------------- left and right


def test_the_rule_of_taxon_and_part_decides_before_that_of_either(bench: Bench) -> None:
    made = bench.make(scene(1), new=NewEncounter(labels=Labels("orca", ("left",), ("Saddle",))))
    own = int(made.photos[0].annotation_id)

    def sided() -> bool:
        with bench.sessions() as session:
            return applied_rules(session, [own])[own].sided

    def rule(taxon: str | None, part: str | None, value: bool) -> int:
        with bench.sessions.begin() as session:
            return viewpoints.set_rule(
                session, taxon=taxon, body_part=part, sided=value, set_by="ana"
            ).id

    assert not sided()
    rule(None, None, True)
    assert sided()
    rule(None, "saddle", False)
    assert not sided()
    of_taxon = rule("orca", None, True)
    assert sided()
    both = rule("ORCA", "SADDLE", False)
    assert not sided()
    with bench.sessions.begin() as session:
        assert viewpoints.list_rules(session)[0].id == both
        viewpoints.delete_rule(session, both)
        viewpoints.delete_rule(session, of_taxon)
        with pytest.raises(NotFound, match="No taxon is called"):
            viewpoints.set_rule(session, taxon="nobody", body_part=None, sided=True, set_by="ana")
    assert not sided()


@pytest.mark.parametrize(
    ("viewpoint", "part", "left_out"),
    [
        ("left", "flank", "right"),
        ("Right", "dorsal fin", "left"),
        ("left", "fluke", None),
        ("left", None, None),
        (None, "flank", None),
        ("front", "flank", None),
    ],
)
def test_seeded_rules(
    bench: Bench, viewpoint: str | None, part: str | None, left_out: str | None
) -> None:
    labels = Labels(None, (viewpoint,) if viewpoint else (), (part,) if part else ())
    own = int(bench.make(scene(1), new=NewEncounter(labels=labels)).photos[0].annotation_id)
    with bench.sessions() as session:
        assert applied_rules(session, [own])[own].left_out == left_out


@pytest.mark.parametrize("others", [(), ("right",), ("RIGHT", "front")])
def test_left_out_viewpoints_are_exactly_those(bench: Bench, others: tuple[str, ...]) -> None:
    """As comparing with every row that shows none of them; unknown viewpoints stay in."""
    shown = ["left", "Right", None, "front", "right", "left"]
    names: Callable[[int], str] = "i{}".format
    for number, viewpoint in enumerate(shown):
        labels = Labels(None, (viewpoint,) if viewpoint else ())
        made = bench.make(scene(number), new=NewEncounter(labels=labels), ask=False)
        bench.name(made.photos[0].annotation_id, names(number))
    query = scene(9)
    refused = {other.lower() for other in others}
    kept = [n for n, one in enumerate(shown) if (one or "").lower() not in refused]
    scores = {names(n): float(vector_of(query) @ vector_of(scene(n))) for n in kept}
    found = bench.nearest(query, not_viewpoint=others)
    assert [name for name, _, _ in found] == sorted(scores, key=lambda n: -scores[n])
    assert [score for _, score, _ in found] == pytest.approx(
        sorted(scores.values(), reverse=True), abs=1e-5
    )
    with bench.sessions() as session:
        filters = SearchFilters(not_viewpoint=others)
        counted = embeddings.count_eligible(session, bench.space.id, filters)
    assert counted == len(kept)
