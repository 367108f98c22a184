"""Individuals, names, encounters, photos and annotations, with races and merges."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session, sessionmaker

from db.errors import Conflict, Invalid, NotFound
from db.queries import catalogue, embeddings, media, taxa
from db.queries.catalogue import MediaRow
from db.queries.filters import SearchFilters
from db.types import Sex


def _photo(session: Session, content: str, **changes: object) -> MediaRow:
    values: dict[str, object] = {
        "sha256": hashlib.sha256(content.encode()).hexdigest(),
        "media_type": "image/jpeg",
        "byte_size": 10,
        "width_px": 640,
        "height_px": 480,
        "original_name": f"{content}.jpg",
        "taken_at": None,
        "perceptual_hash": -5,
    }
    return catalogue.ensure_media(session, **{**values, **changes})  # type: ignore[arg-type]


def _merge(session: Session, loser: UUID, winner: UUID) -> None:
    session.execute(
        text("UPDATE individual SET merged_into_id = :winner WHERE id = :loser"),
        {"winner": winner, "loser": loser},
    )


@pytest.fixture
def main(session: Session) -> UUID:
    return catalogue.default_catalogue(session).id


def test_default_catalogue_exists_once(session: Session) -> None:
    first = catalogue.default_catalogue(session)
    assert first.name == "main"
    assert catalogue.ensure_catalogue(session, "MAIN") == first
    assert catalogue.ensure_catalogue(session, "other") != first


@pytest.mark.parametrize(
    ("label", "scientific"),
    [
        ("humpback_whale", "Megaptera novaeangliae"),
        ("Humpback Whale", "Megaptera novaeangliae"),
        ("megaptera NOVAEANGLIAE", "Megaptera novaeangliae"),
        ("kiler_whale", "Orcinus orca"),
        ("bottlenose_dolpin", "Tursiops truncatus"),
        ("globis", "Globicephala sp."),
        (" cuviers  beaked whale ", "Ziphius cavirostris"),
        ("Cuvier's beaked whale", "Ziphius cavirostris"),
    ],
)
def test_labels_mean_their_taxon(session: Session, label: str, scientific: str) -> None:
    taxon = catalogue.ensure_taxon(session, label)
    assert taxon is not None
    assert taxa.get_taxon(session, taxon).scientific_name == scientific


def test_every_happywhale_label_is_known(session: Session) -> None:
    labels = {label for taxon in taxa.list_taxa(session) for label in taxon.labels}
    assert len(labels - {"nyala"}) == 30
    before = len(taxa.list_taxa(session))
    for label in labels:
        assert catalogue.ensure_taxon(session, label) is not None
    assert len(taxa.list_taxa(session)) == before
    assert taxa.seed_taxa(session) == 0


@pytest.mark.parametrize("label", ["", "  ", "unknown", "Unknown", "____", "NA"])
def test_no_label_no_taxon(session: Session, label: str) -> None:
    assert catalogue.ensure_taxon(session, label) is None


def test_unknown_label_makes_one_taxon(session: Session) -> None:
    made = catalogue.ensure_taxon(session, "Panthera_onca")
    assert made is not None
    assert catalogue.ensure_taxon(session, "panthera  ONCA") == made
    assert taxa.get_taxon(session, made).scientific_name == "Panthera onca"


def test_a_name_is_taken_whatever_its_case(session: Session, main: UUID) -> None:
    first = catalogue.create_individual(session, catalogue_id=main, name=" Ärla ", sex=Sex.FEMALE)
    assert (first.name, first.names, first.sex) == ("Ärla", ("Ärla",), Sex.FEMALE)
    with pytest.raises(Conflict, match="named 'ÄRLA' is in this catalogue") as refused:
        catalogue.create_individual(session, catalogue_id=main, name="ÄRLA")
    assert refused.value.code == "individual_name_taken"
    assert refused.value.values["individual_id"] == str(first.id)
    assert catalogue.counts(session).individuals == 1
    other = catalogue.ensure_catalogue(session, "other").id
    assert catalogue.create_individual(session, catalogue_id=other, name="ärla").id != first.id


@pytest.mark.parametrize("name", ["", "  ", "a\x00b"])
def test_blank_names_are_refused(session: Session, main: UUID, name: str) -> None:
    with pytest.raises(Invalid, match="cannot be blank"):
        catalogue.create_individual(session, catalogue_id=main, name=name)


def test_fifty_at_once_make_one_individual(sessions: sessionmaker[Session]) -> None:
    def ensure(_number: int) -> UUID:
        with sessions.begin() as own:
            main = catalogue.default_catalogue(own).id
            return catalogue.ensure_individual(own, catalogue_id=main, name="X", taxon_id=None).id

    with ThreadPoolExecutor(16) as pool:
        found = set(pool.map(ensure, range(50)))
    assert len(found) == 1
    with sessions() as own:
        assert catalogue.counts(own).individuals == 1


def test_twenty_at_once_create_one_individual_and_nineteen_conflicts(
    sessions: sessionmaker[Session],
) -> None:
    def create(number: int) -> str:
        try:
            with sessions.begin() as own:
                main = catalogue.default_catalogue(own).id
                name = "x" if number % 2 else "X"
                return str(catalogue.create_individual(own, catalogue_id=main, name=name).id)
        except Conflict as refused:
            return f"refused {refused.values['individual_id']}"

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(create, range(20)))
    made = [answer for answer in answers if not answer.startswith("refused")]
    assert len(made) == 1
    assert answers.count(f"refused {made[0]}") == 19


def test_merges_redirect(session: Session, main: UUID) -> None:
    loser = catalogue.create_individual(session, catalogue_id=main, name="Loser")
    winner = catalogue.create_individual(session, catalogue_id=main, name="Winner")
    photo = _photo(session, "one")
    old, created = catalogue.ensure_annotation(
        session, catalogue_id=main, media_id=photo.id, individual_id=loser.id
    )
    assert created
    assert old.individual_name == "Loser"
    _merge(session, loser.id, winner.id)

    assert catalogue.get_individual(session, loser.id).id == winner.id
    found = catalogue.find_individual(session, catalogue_id=main, name="loser")
    assert found is not None
    assert found.id == winner.id
    assert catalogue.ensure_individual(session, catalogue_id=main, name="LOSER").id == winner.id
    assert catalogue.get_annotation(session, old.id).individual_name == "Winner"
    assert catalogue.annotations_of(session, winner.id).items[0].id == old.id
    listed = catalogue.list_individuals(session).items
    assert [(row.name, row.photo_count) for row in listed] == [("Winner", 1)]
    same, created = catalogue.ensure_annotation(
        session, catalogue_id=main, media_id=photo.id, individual_id=winner.id
    )
    assert (same.id, created) == (old.id, False)


def test_list_finds_by_part_of_any_name_and_by_taxon(session: Session, main: UUID) -> None:
    orca = catalogue.ensure_taxon(session, "killer whale")
    nyala = catalogue.ensure_taxon(session, "nyala")
    granny = catalogue.create_individual(session, catalogue_id=main, name="J2_a", taxon_id=orca)
    catalogue.create_individual(session, catalogue_id=main, name="J2xa", taxon_id=nyala)
    session.execute(
        text(
            "INSERT INTO individual_name (individual_id, catalogue_id, name, is_primary)"
            " VALUES (:id, :main, 'Granny', false)"
        ),
        {"id": granny.id, "main": main},
    )
    session.commit()

    def names(**filters: str) -> list[str]:
        return [row.name for row in catalogue.list_individuals(session, **filters).items]

    assert names(text="rann") == ["J2_a"]
    assert names(text="j2_") == ["J2_a"]
    assert names(taxon="Kiler_Whale") == ["J2_a"]
    assert names(taxon="griffin") == []
    assert sorted(names()) == ["J2_a", "J2xa"]
    assert catalogue.list_individuals(session, text="granny").items[0].names == ("J2_a", "Granny")


def test_best_photo_is_the_largest_region(session: Session, main: UUID) -> None:
    one = catalogue.create_individual(session, catalogue_id=main, name="one")
    small = _photo(session, "small", width_px=200, height_px=100)
    large = _photo(session, "large", width_px=300, height_px=200)
    boxed = _photo(session, "boxed", width_px=4000, height_px=3000)
    for photo, box in ((small, None), (large, None), (boxed, (0, 0, 50, 50))):
        catalogue.ensure_annotation(
            session, catalogue_id=main, media_id=photo.id, individual_id=one.id, box_px=box
        )
    (row,) = catalogue.list_individuals(session).items
    assert (row.photo_count, row.best_media_id, row.best_sha256) == (3, large.id, large.sha256)


def test_walk_under_inserts_has_no_duplicate_and_no_gap(sessions: sessionmaker[Session]) -> None:
    with sessions.begin() as own:
        main = catalogue.default_catalogue(own).id
        # One transaction: all have the same time, and only the id orders them.
        wanted = {
            catalogue.create_individual(own, catalogue_id=main, name=f"old {number}").id
            for number in range(25)
        }
    seen: list[UUID] = []
    cursor: str | None = None
    while True:
        with sessions.begin() as own:
            page = catalogue.list_individuals(own, catalogue_id=main, limit=4, cursor=cursor)
            seen += [row.id for row in page.items]
            catalogue.create_individual(own, catalogue_id=main, name=f"new {len(seen)}")
        cursor = page.next_cursor
        if cursor is None or len(seen) > 100:
            break
    assert len(seen) == len(set(seen))
    assert wanted <= set(seen)


@pytest.mark.parametrize("cursor", ["nonsense", "W10", "ü", "WyJ4IiwgInkiXQ"])
def test_strange_cursors_are_refused(session: Session, cursor: str) -> None:
    with pytest.raises(Invalid, match="is not a cursor") as refused:
        catalogue.list_individuals(session, cursor=cursor)
    assert refused.value.code == "cursor_invalid"


def test_pages_of_annotations(session: Session, main: UUID) -> None:
    one = catalogue.create_individual(session, catalogue_id=main, name="one")
    ids = [
        catalogue.ensure_annotation(
            session,
            catalogue_id=main,
            media_id=_photo(session, str(number)).id,
            individual_id=one.id,
        )[0].id
        for number in range(5)
    ]
    first = catalogue.annotations_of(session, one.id, limit=3)
    second = catalogue.annotations_of(session, one.id, limit=3, cursor=first.next_cursor)
    assert [row.id for row in (*first.items, *second.items)] == ids
    assert second.next_cursor is None


def test_unknown_ids_are_named(session: Session) -> None:
    lookups: list[tuple[Callable[[], object], str]] = [
        (lambda: catalogue.get_individual(session, uuid4()), "individual_unknown"),
        (lambda: catalogue.get_encounter(session, uuid4()), "encounter_unknown"),
        (lambda: catalogue.get_media(session, 99), "media_unknown"),
        (lambda: catalogue.get_annotation(session, 99), "annotation_unknown"),
    ]
    for lookup, code in lookups:
        with pytest.raises(NotFound) as refused:
            lookup()
        assert refused.value.code == code


def test_same_bytes_are_one_photo(session: Session) -> None:
    first = _photo(session, "same", original_name="a\x00b.jpg")
    again = _photo(session, "same", original_name="other.jpg")
    assert first.created
    assert not again.created
    assert (again.id, again.original_name) == (first.id, "ab.jpg")
    assert catalogue.find_media(session, first.sha256) == again
    assert catalogue.find_media(session, "0" * 64) is None
    assert media.list_media(session, after_id=first.id - 1) == [again]


def test_impossible_photos_are_refused(session: Session) -> None:
    for changes in ({"sha256": "XYZ"}, {"width_px": 0}, {"byte_size": 0}):
        with pytest.raises(Invalid), session.begin_nested():
            _photo(session, "bad", **changes)


def test_a_region_has_one_individual(session: Session, main: UUID) -> None:
    photo = _photo(session, "pair")
    one = catalogue.create_individual(session, catalogue_id=main, name="one")
    two = catalogue.create_individual(session, catalogue_id=main, name="two")
    encounter = catalogue.ensure_encounter(session, catalogue_id=main, external_id="e1")

    unknown, _ = catalogue.ensure_annotation(
        session, catalogue_id=main, media_id=photo.id, individual_id=None, viewpoint="left"
    )
    named, created = catalogue.ensure_annotation(
        session,
        catalogue_id=main,
        media_id=photo.id,
        individual_id=one.id,
        encounter_id=encounter,
        viewpoint="right",
    )
    assert (named.id, created, named.individual_id) == (unknown.id, False, one.id)
    assert (named.encounter_id, named.viewpoint) == (encounter, "left")

    again, created = catalogue.ensure_annotation(
        session, catalogue_id=main, media_id=photo.id, individual_id=None
    )
    assert (again.individual_id, created) == (one.id, False)
    with pytest.raises(Conflict) as refused:
        catalogue.ensure_annotation(
            session, catalogue_id=main, media_id=photo.id, individual_id=two.id
        )
    assert refused.value.code == "annotation_belongs_to_other"
    assert refused.value.values == {
        "annotation_id": named.id,
        "individual_id": str(one.id),
        "wanted_individual_id": str(two.id),
    }
    boxed, created = catalogue.ensure_annotation(
        session,
        catalogue_id=main,
        media_id=photo.id,
        individual_id=two.id,
        box_px=(10, 20, 30, 40),
    )
    assert created
    assert boxed.box_px == (10, 20, 30, 40)
    assert [row.id for row in media.annotations_on(session, photo.id)] == [named.id, boxed.id]
    assert set(media.get_annotations(session, [named.id, boxed.id, 10**9])) == {named.id, boxed.id}


@pytest.mark.parametrize("box", [(0, 0, 641, 480), (-1, 0, 5, 5), (0, 0, 0, 5), (600, 470, 40, 11)])
def test_boxes_lie_inside_the_photo(
    session: Session, main: UUID, box: tuple[int, int, int, int]
) -> None:
    photo = _photo(session, "box")
    with pytest.raises(Invalid, match="640 × 480") as refused:
        catalogue.ensure_annotation(
            session, catalogue_id=main, media_id=photo.id, individual_id=None, box_px=box
        )
    assert refused.value.code == "box_invalid"


def test_encounters_are_one_per_external_id_and_keep_what_is_known(
    session: Session, main: UUID
) -> None:
    start = datetime(2024, 5, 1, 12, tzinfo=UTC)
    first = catalogue.ensure_encounter(session, catalogue_id=main, external_id="e", place="Azores")
    again = catalogue.ensure_encounter(
        session, catalogue_id=main, external_id="e", place="elsewhere", started_at=start
    )
    assert again == first
    found = catalogue.get_encounter(session, first)
    assert (found.place, found.started_at) == ("Azores", start)
    unnamed = {
        catalogue.ensure_encounter(session, catalogue_id=main, external_id=None) for _ in range(2)
    }
    assert len(unnamed) == 2
    for impossible in (
        {"started_at": start, "ended_at": start - timedelta(hours=1)},
        {"latitude": 91.0},
        {"longitude": 200.0},
    ):
        with pytest.raises(Invalid), session.begin_nested():
            catalogue.ensure_encounter(
                session,
                catalogue_id=main,
                external_id=None,
                **impossible,  # type: ignore[arg-type]
            )


def test_text_that_postgresql_cannot_hold_is_refused(session: Session, main: UUID) -> None:
    attempts: list[Callable[[], object]] = [
        lambda: catalogue.list_individuals(session, text="a\x00"),
        lambda: catalogue.find_individual(session, catalogue_id=main, name="a\x00"),
        lambda: catalogue.ensure_taxon(session, "a\x00"),
        lambda: catalogue.find_catalogue(session, "a\x00"),
        lambda: embeddings.get_space(session, "a\x00"),
        lambda: embeddings.label_candidates(session, [1], SearchFilters(place="a\x00")),
    ]
    for attempt in attempts:
        with pytest.raises(Invalid) as refused:
            attempt()
        assert refused.value.code == "value_invalid"
