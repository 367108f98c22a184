"""Spaces, vectors, what changed, what is missing; candidates, filters, heads, snapshots."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID, uuid4

import numpy as np
import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session, sessionmaker

from db.errors import Conflict, Invalid, NotFound
from db.queries import catalogue, embeddings
from db.queries.embeddings import SpaceRow
from db.queries.filters import SearchFilters
from db.types import Sex, SnapshotState, Vitality

DIM = 4


def _space(session: Session, version: str = "1", dim: int = DIM) -> SpaceRow:
    return embeddings.register_space(
        session,
        name="m",
        version=version,
        fingerprint=f"f{version}",
        dim=dim,
        preprocessing={"size": 8},
        licence="CC0",
        digest="d",
    )


def _annotate(session: Session, *names: str | None, **extra: object) -> list[int]:
    """One annotation on a new photo for each individual's name; their ids."""
    main = catalogue.default_catalogue(session).id
    made = []
    for name in names:
        sha256 = hashlib.sha256(uuid4().bytes).hexdigest()
        photo = catalogue.ensure_media(
            session,
            sha256=sha256,
            media_type="image/png",
            byte_size=1,
            width_px=9,
            height_px=9,
            perceptual_hash=-(2**63),
        )
        who = name and catalogue.ensure_individual(session, catalogue_id=main, name=name).id
        annotation, _ = catalogue.ensure_annotation(
            session,
            catalogue_id=main,
            media_id=photo.id,
            individual_id=who or None,
            **extra,  # type: ignore[arg-type]
        )
        made.append(annotation.id)
    return made


def _vectors(count: int, seed: int = 0, dim: int = DIM) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, dim)).astype(np.float32)


# ---------------------------------------------------------------- spaces


def test_a_space_is_registered_once(session: Session) -> None:
    space = _space(session)
    assert _space(session) == space
    assert embeddings.list_spaces(session) == [space]
    assert embeddings.get_space(session, "f1") == space
    with pytest.raises(NotFound, match="'nobody'"):
        embeddings.get_space(session, "nobody")


def test_a_version_belongs_to_one_fingerprint(session: Session) -> None:
    _space(session)
    with pytest.raises(Conflict) as refused, session.begin_nested():
        embeddings.register_space(
            session,
            name="m",
            version="1",
            fingerprint="another",
            dim=DIM,
            preprocessing={"size": 8},
            licence="CC0",
            digest="d",
        )
    assert refused.value.code == "space_version_taken"


@pytest.mark.parametrize("dim", [0, 4001])
def test_dimensions_that_cannot_be_indexed_are_refused(session: Session, dim: int) -> None:
    with pytest.raises(Invalid, match=f"has {dim} dimensions; pgvector indexes 1 to 4,000"):
        _space(session, dim=dim)


def test_a_slot_switches_between_spaces(session: Session) -> None:
    assert embeddings.active_space(session) is None
    one, two = _space(session, "1"), _space(session, "2", dim=7)
    for space in (one, two, one):
        embeddings.set_slot(session, "identify.photo", space.id)
        assert embeddings.active_space(session) == space
    with pytest.raises(Conflict, match=r"identify\.photo searches"):
        embeddings.drop_space(session, one.id)
    with pytest.raises(NotFound), session.begin_nested():
        embeddings.set_slot(session, "identify.photo", 10**6)


def test_a_dropped_space_is_gone_and_can_come_back(session: Session) -> None:
    one, two = _space(session, "1"), _space(session, "2")
    ids = _annotate(session, "a", "b")
    for space in (one, two):
        embeddings.put_vectors(session, space.id, ids, _vectors(2))
        embeddings.register_head(
            session,
            model_id=space.id,
            version="1",
            slots=[("a", None)],
            scale=30,
            min_probability=0.05,
            digest="d",
        )
    embeddings.drop_space(session, one.id)
    assert embeddings.list_spaces(session) == [two]
    assert embeddings.count_vectors(session, two.id) == 2
    session.expire_all()
    again = _space(session, "1")
    assert embeddings.count_vectors(session, again.id) == 0


# ---------------------------------------------------------------- vectors


def test_vectors_come_back_to_the_last_bit(session: Session) -> None:
    space = _space(session)
    ids = _annotate(session, "a", "b", None)
    vectors = _vectors(3)
    vectors[0] = [1e-38, -0.0, 6.5e4, 0.1]
    shuffled = [2, 0, 1]
    wanted = np.array(ids)[shuffled]
    assert embeddings.put_vectors(session, space.id, wanted, vectors[shuffled]) == 3

    read_ids, read, _ = embeddings.read_space(session, space.id)
    assert read_ids.dtype == np.int64
    assert read.dtype == np.float32
    assert read_ids.tolist() == ids
    assert read.tobytes() == vectors.tobytes()
    some_ids, some = embeddings.vectors_of(session, space.id, [ids[2], ids[0], 10**9])
    assert some_ids.tolist() == [ids[0], ids[2]]
    assert some.tobytes() == vectors[[0, 2]].tobytes()
    one = embeddings.get_vector(session, space.id, ids[1])
    assert one is not None
    assert one.tobytes() == vectors[1].tobytes()
    assert embeddings.get_vector(session, space.id, 10**9) is None


@pytest.mark.parametrize("chunk", [1, 3, 5, 8])
def test_chunks_add_up_to_the_space(session: Session, chunk: int) -> None:
    space = _space(session)
    ids = _annotate(session, *"abcde")
    vectors = _vectors(5)
    embeddings.put_vectors(session, space.id, ids, vectors)
    chunks = list(embeddings.read_space_chunks(session, space.id, chunk))
    assert all(len(part) <= chunk for part, _ in chunks)
    assert np.concatenate([part for part, _ in chunks]).tolist() == ids
    assert np.concatenate([part for _, part in chunks]).tobytes() == vectors.tobytes()


def test_an_empty_space_reads_as_empty(session: Session) -> None:
    space = _space(session)
    ids, vectors, horizon = embeddings.read_space(session, space.id)
    assert (ids.shape, vectors.shape) == ((0,), (0, DIM))
    assert horizon > 0
    assert embeddings.vectors_of(session, space.id, [])[1].shape == (0, DIM)
    assert embeddings.put_vectors(session, space.id, [], np.empty((0, DIM), np.float32)) == 0
    assert embeddings.eligible_ids(session, space.id).tolist() == []


def test_a_second_vector_replaces_the_first(session: Session) -> None:
    space = _space(session)
    ids = _annotate(session, "a", "b")
    embeddings.put_vectors(session, space.id, ids, _vectors(2))
    again = _vectors(1, seed=5)
    assert embeddings.put_vectors(session, space.id, ids[1:], again) == 1
    assert embeddings.count_vectors(session, space.id) == 2
    assert embeddings.read_space(session, space.id)[1][1].tobytes() == again[0].tobytes()


def test_spaces_keep_apart(session: Session) -> None:
    one, two = _space(session, "1", dim=4), _space(session, "2", dim=2500)
    ids = _annotate(session, "a")
    embeddings.put_vectors(session, one.id, ids, _vectors(1))
    wide = _vectors(1, dim=2500)
    embeddings.put_vectors(session, two.id, ids, wide)
    assert embeddings.read_space(session, two.id)[1].tobytes() == wide.tobytes()
    assert embeddings.read_space(session, one.id)[1].shape == (1, 4)


def test_vectors_of_another_dimension_are_refused_by_both_sides(session: Session) -> None:
    space = _space(session)
    ids = _annotate(session, "a")
    with pytest.raises(Invalid, match=r"have the shape \(1, 4\), got \(1, 5\)") as refused:
        embeddings.put_vectors(session, space.id, ids, _vectors(1, dim=5))
    assert refused.value.code == "vector_dim_wrong"
    with pytest.raises(Exception, match=f"ck_embedding_m{space.id}_dim"), session.begin_nested():
        session.execute(
            text("INSERT INTO embedding (model_id, annotation_id, v) VALUES (:m, :a, '[1,2]')"),
            {"m": space.id, "a": ids[0]},
        )


@pytest.mark.parametrize(
    ("vector", "code"),
    [
        ([0.0, 0.0, 0.0, 0.0], "vector_zero"),
        ([np.nan, 0, 0, 1], "vector_not_finite"),
        ([np.inf, 0, 0, 1], "vector_not_finite"),
        ([66_000.0, 0, 0, 1], "vector_out_of_range"),
        ([1e-5, 0, -1e-4, 1e-5], "vector_out_of_range"),
    ],
)
def test_vectors_without_direction_are_refused(
    session: Session, vector: list[float], code: str
) -> None:
    """Promise 44: zero, NaN, infinite and half-precision-overflow vectors, with the reason."""
    space = _space(session)
    ids = _annotate(session, "a", "b")
    vectors = np.array([[1, 0, 0, 0], vector], np.float32)
    with pytest.raises(Invalid, match=f"annotation {ids[1]}") as refused:
        embeddings.put_vectors(session, space.id, ids, vectors)
    assert refused.value.code == code
    assert embeddings.count_vectors(session, space.id) == 0


def test_the_table_refuses_a_zero_vector_too(session: Session) -> None:
    space = _space(session)
    ids = _annotate(session, "a")
    with pytest.raises(Exception, match="not_zero"), session.begin_nested():
        session.execute(
            text("INSERT INTO embedding (model_id, annotation_id, v) VALUES (:m, :a, '[0,0,0,0]')"),
            {"m": space.id, "a": ids[0]},
        )


def test_one_annotation_has_one_vector_a_call(session: Session) -> None:
    space = _space(session)
    ids = _annotate(session, "a")
    with pytest.raises(Invalid, match="more than one vector"):
        embeddings.put_vectors(session, space.id, ids * 2, _vectors(2))


def test_deletes_win(session: Session) -> None:
    space = _space(session)
    ids = _annotate(session, "a", "b")
    session.execute(text("DELETE FROM annotation WHERE id = :id"), {"id": ids[0]})
    assert embeddings.put_vectors(session, space.id, ids, _vectors(2)) == 1
    session.execute(text("DELETE FROM annotation WHERE id = :id"), {"id": ids[1]})
    assert embeddings.count_vectors(session, space.id) == 0


def test_a_delete_meanwhile_wins_over_the_vector(sessions: sessionmaker[Session]) -> None:
    with sessions.begin() as own:
        space = _space(own)
        ids = _annotate(own, "a", "b")
    written: list[int] = []

    def put() -> None:
        with sessions.begin() as own:
            written.append(embeddings.put_vectors(own, space.id, ids, _vectors(2)))

    with sessions() as deleting:
        deleting.execute(text("DELETE FROM annotation WHERE id = :id"), {"id": ids[0]})
        writer = threading.Thread(target=put)
        writer.start()
        writer.join(0.3)
        assert writer.is_alive()  # it waits for the delete to end
        deleting.commit()
        writer.join(20)
    assert written == [1]


_REBOX = text(
    "UPDATE annotation SET box_x_px = 1, box_y_px = 1, box_w_px = 2, box_h_px = 2 WHERE id = :id"
)


def test_a_new_region_takes_the_vectors_of_the_old_one_away_in_every_space(
    session: Session,
) -> None:
    one, two = _space(session, "1"), _space(session, "2")
    ids = _annotate(session, "a", "b")
    for space in (one, two):
        embeddings.put_vectors(session, space.id, ids, _vectors(2))
    session.execute(_REBOX, {"id": ids[0]})
    for space in (one, two):
        [missing] = embeddings.missing(session, space.id)
        assert (missing.annotation_id, missing.region_version) == (ids[0], 1)
        assert missing.box_px == (1, 1, 2, 2)


def test_a_vector_of_a_former_region_is_not_written(session: Session) -> None:
    space = _space(session)
    ids = _annotate(session, "a", "b")
    session.execute(_REBOX, {"id": ids[0]})
    assert embeddings.put_vectors(session, space.id, ids, _vectors(2), [0, 0]) == 1
    assert embeddings.vectors_of(session, space.id, ids)[0].tolist() == ids[1:]
    assert embeddings.put_vectors(session, space.id, ids, _vectors(2), [1, 0]) == 2


def test_a_region_that_changes_meanwhile_wins_over_the_vector(
    sessions: sessionmaker[Session],
) -> None:
    with sessions.begin() as own:
        space = _space(own)
        ids = _annotate(own, "a", "b")
    written: list[int] = []

    def put() -> None:
        with sessions.begin() as own:
            written.append(embeddings.put_vectors(own, space.id, ids, _vectors(2), [0, 0]))

    def rebox() -> None:
        with sessions.begin() as own:
            own.execute(_REBOX, {"id": ids[1]})

    with sessions() as changing:
        changing.execute(_REBOX, {"id": ids[0]})
        writer = threading.Thread(target=put)
        writer.start()
        writer.join(0.3)
        assert writer.is_alive()  # it waits for the change to end
        changing.commit()
        writer.join(20)
    assert written == [1]

    # And the other way round: the change waits for the vector, then takes it away.
    with sessions() as putting:
        assert embeddings.put_vectors(putting, space.id, ids[1:], _vectors(1), [0]) == 1
        changer = threading.Thread(target=rebox)
        changer.start()
        changer.join(0.3)
        assert changer.is_alive()
        putting.commit()
        changer.join(20)
    with sessions() as own:
        assert [one.region_version for one in embeddings.missing(own, space.id)] == [1, 1]


def test_naming_an_annotation_does_not_wait_for_its_vector(
    sessions: sessionmaker[Session],
) -> None:
    with sessions.begin() as own:
        space = _space(own)
        ids = _annotate(own, None)
    with sessions() as putting, sessions() as naming:
        embeddings.put_vectors(putting, space.id, ids, _vectors(1), [0])
        naming.execute(text("SET LOCAL lock_timeout = '2s'"))
        naming.execute(
            text("UPDATE annotation SET viewpoint = 'left' WHERE id = :i"), {"i": ids[0]}
        )
        naming.commit()
        putting.commit()


def test_missing_annotations_come_in_ranges(session: Session) -> None:
    space = _space(session)
    ids = _annotate(session, *"abcdefg")
    embeddings.put_vectors(session, space.id, ids[2:3], _vectors(1))
    left = [id_ for id_ in ids if id_ != ids[2]]
    assert embeddings.missing_ranges(session, space.id, 4) == [
        (left[0], left[3], 4),
        (left[4], left[5], 2),
    ]
    inside = embeddings.missing(session, space.id, after_id=left[0] - 1, until_id=left[3])
    assert [one.annotation_id for one in inside] == left[:4]
    among = embeddings.missing(session, space.id, among=[ids[2], ids[6], 10**9])
    assert [one.annotation_id for one in among] == [ids[6]]


# ---------------------------------------------------------------- what changed


def test_changes_are_those_since_the_horizon(sessions: sessionmaker[Session]) -> None:
    with sessions.begin() as own:
        space = _space(own)
        ids = _annotate(own, "a", "b", "c")
        embeddings.put_vectors(own, space.id, ids[:1], _vectors(1))
    with sessions.begin() as own:
        _, _, horizon = embeddings.read_space(own, space.id)
    with sessions.begin() as own:
        changed, _, horizon = embeddings.changed_since(own, space.id, horizon)
        assert changed.tolist() == []
    with sessions.begin() as own:
        embeddings.put_vectors(own, space.id, ids[1:], _vectors(2))
    with sessions.begin() as own:
        changed, transactions, after = embeddings.changed_since(own, space.id, horizon)
        assert sorted(changed.tolist()) == ids[1:]
        assert (transactions >= horizon).all()
        assert (transactions < after).all()
        assert embeddings.changed_since(own, space.id, after)[0].tolist() == []
    with sessions.begin() as own:  # replacing is a change
        embeddings.put_vectors(own, space.id, ids[:1], _vectors(1, seed=9))
    with sessions.begin() as own:
        assert embeddings.changed_since(own, space.id, after)[0].tolist() == ids[:1]


def test_a_late_commit_is_not_missed(sessions: sessionmaker[Session]) -> None:
    with sessions.begin() as own:
        space = _space(own)
        ids = _annotate(own, "early", "late")
    with sessions() as late, sessions() as early, sessions() as reader:
        embeddings.put_vectors(late, space.id, ids[1:], _vectors(1))  # open, the older transaction
        embeddings.put_vectors(early, space.id, ids[:1], _vectors(1))
        early.commit()

        read, _, horizon = embeddings.read_space(reader, space.id)
        assert read.tolist() == ids[:1]
        again, again_tx, horizon = embeddings.changed_since(reader, space.id, horizon)
        assert again.tolist() == ids[:1]
        reader.commit()

        late.commit()
        found, found_tx, horizon = embeddings.changed_since(reader, space.id, horizon)
        pairs = set(zip(found.tolist(), found_tx.tolist(), strict=True))
        assert {number for number, _ in pairs} == set(ids)
        assert set(zip(again.tolist(), again_tx.tolist(), strict=True)) <= pairs
        assert embeddings.changed_since(reader, space.id, horizon)[0].tolist() == []


def test_missing_is_what_has_no_vector_in_this_space(session: Session) -> None:
    one, two = _space(session, "1"), _space(session, "2")
    ids = _annotate(session, "a", "b", None) + _annotate(session, "d", box_px=(1, 2, 3, 4))
    embeddings.put_vectors(session, one.id, ids[:1], _vectors(1))
    found = embeddings.missing(session, one.id, limit=2)
    assert [row.annotation_id for row in found] == ids[1:3]
    (last,) = embeddings.missing(session, one.id, limit=5, after_id=ids[2])
    assert (last.annotation_id, last.box_px) == (ids[3], (1, 2, 3, 4))
    assert last.sha256 == catalogue.get_annotation(session, ids[3]).sha256
    assert found[0].box_px is None
    assert embeddings.count_missing(session, one.id) == 3
    assert embeddings.count_missing(session, two.id) == 4


# ---------------------------------------------------------------- candidates


def test_labels_follow_the_order_of_the_ids(session: Session) -> None:
    ids = _annotate(session, "a", "b", None, "c")
    asked = [ids[3], 10**9, ids[0], ids[2], ids[1]]
    found = embeddings.label_candidates(session, asked)
    assert found.annotation_ids.tolist() == [ids[3], ids[0], ids[1]]
    assert len(found) == 3
    for position, annotation_id in enumerate(found.annotation_ids.tolist()):
        row = catalogue.get_annotation(session, annotation_id)
        assert found.individual_ids[position] == row.individual_id
        assert found.media_ids[position] == row.media_id
        assert found.sha256[position] == row.sha256
        assert found.encounter_ids[position] is None
        assert found.perceptual_hashes[position] == -(2**63)
    assert len(embeddings.label_candidates(session, [])) == 0


def test_labels_follow_merges(session: Session) -> None:
    ids = _annotate(session, "loser", "winner")
    before = embeddings.label_candidates(session, ids).individual_ids
    session.execute(
        text("UPDATE individual SET merged_into_id = :winner WHERE id = :loser"),
        {"loser": before[0], "winner": before[1]},
    )
    assert embeddings.label_candidates(session, ids).individual_ids == (before[1], before[1])


@dataclass(frozen=True)
class Sea:
    """Annotations to filter, by what is special about them."""

    space: SpaceRow
    ids: dict[str, int]
    merged: UUID


@pytest.fixture
def sea(session: Session) -> Sea:
    main = catalogue.default_catalogue(session).id
    orca = catalogue.ensure_taxon(session, "killer whale")
    nyala = catalogue.ensure_taxon(session, "nyala")
    azores = catalogue.ensure_encounter(
        session,
        catalogue_id=main,
        external_id="e",
        place="Pico, Azores",
        started_at=datetime(2020, 6, 1, tzinfo=UTC),
    )
    catalogue.create_individual(
        session,
        catalogue_id=main,
        name="orca",
        taxon_id=orca,
        sex=Sex.FEMALE,
        vitality=Vitality.DEAD,
    )
    ids = {
        "orca": _annotate(session, "orca")[0],
        "nyala": _annotate(session, "nyala", taxon_id=nyala, viewpoint="Left")[0],
        "azores": _annotate(session, "azores", encounter_id=azores)[0],
        "plain": _annotate(session, "plain")[0],
        "unknown": _annotate(session, None)[0],
        "merged": _annotate(session, "merged")[0],
    }
    session.execute(
        text("UPDATE media_asset SET taken_at = '2021-01-01T00:00Z' WHERE id ="
             " (SELECT media_id FROM annotation WHERE id = :id)"),
        {"id": ids["plain"]},
    )  # fmt: skip
    merged = catalogue.get_annotation(session, ids["merged"]).individual_id
    assert merged is not None
    session.execute(
        text("UPDATE individual SET merged_into_id = :orca WHERE id = :merged"),
        {"orca": catalogue.get_annotation(session, ids["orca"]).individual_id, "merged": merged},
    )
    space = _space(session)
    embeddings.put_vectors(session, space.id, list(ids.values()), _vectors(len(ids)))
    return Sea(space, ids, merged)


_NAMED = {"orca", "nyala", "azores", "plain", "merged"}


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        (SearchFilters(), _NAMED),
        (SearchFilters(taxon=("Kiler_Whale",)), {"orca", "merged"}),
        (SearchFilters(taxon=("orcinus orca", "nyala")), {"orca", "merged", "nyala"}),
        (SearchFilters(taxon=("dragon",)), set()),
        (SearchFilters(place="azor"), {"azores"}),
        (SearchFilters(place="100%"), set()),
        (SearchFilters(date_from=datetime(2020, 6, 1, tzinfo=UTC)), {"azores", "plain"}),
        (SearchFilters(date_to=datetime(2020, 6, 1, tzinfo=UTC)), set()),
        (SearchFilters(date_to=datetime(2020, 6, 2, tzinfo=UTC)), {"azores"}),
        (SearchFilters(viewpoint=("LEFT", "up")), {"nyala"}),
        (SearchFilters(sex=Sex.FEMALE), {"orca", "merged"}),
        (SearchFilters(vitality=Vitality.UNKNOWN), {"nyala", "azores", "plain"}),
        (SearchFilters(catalogue="MAIN"), _NAMED),
        (SearchFilters(catalogue="other"), set()),
        (SearchFilters(sex=Sex.FEMALE, place="azores"), set()),
    ],
    ids=lambda value: str(value.as_dict()) if isinstance(value, SearchFilters) else "",
)
def test_filters(session: Session, sea: Sea, filters: SearchFilters, expected: set[str]) -> None:
    by_id = {number: name for name, number in sea.ids.items()}
    eligible = embeddings.eligible_ids(session, sea.space.id, filters)
    assert {by_id[number] for number in eligible.tolist()} == expected
    assert eligible.tolist() == sorted(eligible.tolist())
    assert embeddings.count_eligible(session, sea.space.id, filters) == len(expected)
    labelled = embeddings.label_candidates(session, list(sea.ids.values()), filters)
    assert {by_id[number] for number in labelled.annotation_ids.tolist()} == expected


def test_filter_by_individual_follows_merges(session: Session, sea: Sea) -> None:
    filters = SearchFilters(individuals=(sea.merged,))
    found = embeddings.eligible_ids(session, sea.space.id, filters).tolist()
    assert found == sorted([sea.ids["orca"], sea.ids["merged"]])


def test_filters_say_what_is_set() -> None:
    individual = uuid4()
    filters = SearchFilters(
        taxon=("orca",),
        date_from=datetime(2020, 1, 2, tzinfo=UTC),
        sex=Sex.MALE,
        individuals=(individual,),
    )
    assert filters.as_dict() == {
        "taxon": ["orca"],
        "date_from": "2020-01-02T00:00:00+00:00",
        "sex": "male",
        "individuals": [str(individual)],
    }
    assert not filters.is_empty
    assert SearchFilters().is_empty
    assert SearchFilters().alternatives()[0] == ("true",)


# ---------------------------------------------------------------- heads and snapshots


def _head(session: Session, space: SpaceRow, version: str, digest: str = "d") -> embeddings.HeadRow:
    return embeddings.register_head(
        session,
        model_id=space.id,
        version=version,
        slots=[("Granny", "kiler_whale"), ("Nobody", "mystery"), (None, None)],
        scale=30.0,
        min_probability=0.05,
        digest=digest,
    )


def test_one_head_of_a_space_is_active(session: Session) -> None:
    space = _space(session)
    assert embeddings.active_head(session, space.id) is None
    one = _head(session, space, "1")
    assert (one.slot_count, one.mapped_count, one.is_active) == (3, 2, True)
    two = _head(session, space, "2")
    assert embeddings.active_head(session, space.id) == two
    assert _head(session, space, "1").id == one.id
    active = embeddings.active_head(session, space.id)
    assert active is not None
    assert active.version == "2", "which of two known ones is used is a person's decision"
    with pytest.raises(Conflict) as refused:
        _head(session, space, "1", digest="other")
    assert refused.value.code == "head_version_taken"


def test_slots_find_their_individual_by_name_when_there_is_one(session: Session) -> None:
    head = _head(session, _space(session), "1")
    unnamed, nobody, granny = embeddings.slot_labels(session, head.id, [2, 1, 0, 99])
    assert (unnamed.slot, unnamed.label, unnamed.taxon) == (2, None, None)
    assert (nobody.slot, nobody.species, nobody.taxon) == (1, "mystery", None)
    assert (granny.label, granny.individual_id) == ("Granny", None)
    assert (granny.taxon, granny.taxon_common) == ("Orcinus orca", "killer whale")

    main = catalogue.default_catalogue(session).id
    j2 = catalogue.create_individual(session, catalogue_id=main, name="GRANNY")
    (found,) = embeddings.slot_labels(session, head.id, [0])
    assert (found.individual_id, found.individual_name) == (j2.id, "GRANNY")
    other = catalogue.ensure_catalogue(session, "other").id
    assert embeddings.slot_labels(session, head.id, [0], other)[0].individual_id is None


def test_snapshots_are_listed_until_retired(session: Session) -> None:
    space = _space(session)
    known: UUID = uuid4()

    def register(**changes: object) -> embeddings.SnapshotRow:
        values: dict[str, object] = {
            "model_id": space.id,
            "backend": "faiss",
            "vector_count": 5,
            "horizon_tx": 2**40,
            "digest": "d",
        }
        return embeddings.register_snapshot(session, **{**values, **changes})  # type: ignore[arg-type]

    made = register(snapshot_id=known, recall=0.99)
    assert (made.id, made.horizon_tx, made.state) == (known, 2**40, SnapshotState.READY)
    assert embeddings.list_snapshots(session, space.id) == [made]
    embeddings.retire_snapshot(session, known)
    assert embeddings.list_snapshots(session, space.id) == []
    (retired,) = embeddings.list_snapshots(session, space.id, state=None)
    assert retired.state is SnapshotState.RETIRED
    refusals: list[tuple[type[Exception], Callable[[], object]]] = [
        (NotFound, lambda: embeddings.retire_snapshot(session, uuid4())),
        (Invalid, lambda: register(recall=1.5)),
    ]
    for error, attempt in refusals:
        with pytest.raises(error), session.begin_nested():
            attempt()
