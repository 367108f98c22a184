"""Plans of the hot queries at sixty thousand photos: which index each uses, and that none scans.

The statements are taken from the functions that send them, so that they cannot drift apart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from db.queries import ann, candidates, copying, embeddings, listing
from db.queries import search as search_queries
from db.queries.embeddings import SpaceRow
from db.queries.filters import SearchFilters
from db.session import make_engine, make_sessions
from tests import spaces
from tests.conftest import TestServer

PHOTOS = 60_000
INDIVIDUALS = 20_000
DIM = 8
LARGE = {
    "annotation",
    "annotation_change",
    "embedding_m1",
    "encounter",
    "individual",
    "individual_name",
    "media_asset",
}
"""Tables that grow with the catalogue: a sequential scan of them is a mistake."""

FILL = f"""
INSERT INTO individual (id, catalogue_id, taxon_id)
    SELECT md5('i' || n)::uuid, catalogue.id,
           CASE WHEN n % 1000 = 0 THEN (SELECT id FROM taxon WHERE scientific_name = 'Orcinus orca')
           END
    FROM catalogue, generate_series(1, {INDIVIDUALS}) n;
INSERT INTO individual_name (individual_id, catalogue_id, name, is_primary)
    SELECT id, catalogue_id, 'name ' || id, true FROM individual;
INSERT INTO encounter (id, catalogue_id, started_at)
    SELECT md5('e' || n)::uuid, catalogue.id, timestamptz '2000-01-01' + n * interval '1 hour'
    FROM catalogue, generate_series(1, {PHOTOS // 4}) n;
INSERT INTO media_asset (id, sha256, media_type, byte_size, width_px, height_px, taken_at)
    SELECT n, encode(sha256(n::text::bytea), 'hex'), 'image/png', 1, 9, 9,
           timestamptz '1990-01-01' + n * interval '1 hour'
    FROM generate_series(1, {PHOTOS}) n;
INSERT INTO annotation (id, catalogue_id, media_id, individual_id, encounter_id, viewpoint)
    SELECT n, catalogue.id, n, md5('i' || (1 + n % {INDIVIDUALS}))::uuid,
           CASE WHEN n % 2 = 0 THEN md5('e' || (1 + n / 4))::uuid END,
           CASE WHEN n % 1000 = 0 THEN 'ventral' END
    FROM catalogue, generate_series(1, {PHOTOS}) n WHERE n / 4 + 1 <= {PHOTOS // 4};
INSERT INTO embedding (model_id, annotation_id, v)
    SELECT 1, id,
           ARRAY[1, id % 7, id % 11, id % 13, id % 17, id % 19, id % 23, id % 29]::real[]::vector
    FROM annotation;
INSERT INTO annotation_change (annotation_id)
    SELECT id FROM annotation WHERE id % 4 = 0;
"""


@pytest.fixture(scope="module")
def filled(server: TestServer, template: str) -> Iterator[tuple[Session, SpaceRow]]:
    url = server.new_database(template)
    engine = make_engine(url)
    with make_sessions(engine)() as session:
        space = spaces.make_space(session, DIM)
        copying.connection_of(session).execute(FILL.encode())
        ann_index = (
            f"CREATE INDEX {ann.index_name(space.id)} ON embedding_m{space.id}"
            f" USING hnsw ((v::halfvec({DIM})) halfvec_cosine_ops)"
        )
        session.execute(text(ann_index))
        session.commit()
        session.connection().exec_driver_sql("ANALYZE")
        session.commit()
        yield session, space
    engine.dispose()
    server.drop_database(url)


def explained(
    session: Session, monkeypatch: pytest.MonkeyPatch, ask: Callable[[], object]
) -> tuple[set[str], set[str]]:
    """(indexes used, tables scanned from end to end) by the statements that `ask` sends."""
    indexes: set[str] = set()
    scanned: set[str] = set()
    fetch = copying.fetch

    def look(session: Session, query: Any, parameters: Any = None) -> list[tuple[Any, ...]]:
        written = query if isinstance(query, str) else query.as_string(None)
        plan = fetch(session, f"EXPLAIN (FORMAT JSON) {written}", parameters)[0][0][0]["Plan"]
        _walk(plan, indexes, scanned)
        return fetch(session, query, parameters)

    with monkeypatch.context() as patched:
        for module in (search_queries, candidates, ann, embeddings, copying):
            patched.setattr(module, "fetch", look)
        ask()
    return indexes, scanned & LARGE


def _walk(node: dict[str, Any], indexes: set[str], scanned: set[str]) -> None:
    if "Index Name" in node:
        indexes.add(node["Index Name"])
    if node["Node Type"] == "Seq Scan":
        scanned.add(node["Relation Name"])
    for child in node.get("Plans", ()):
        _walk(child, indexes, scanned)


def _day(year: int, day: int) -> datetime:
    return datetime(year, 1, day, tzinfo=UTC)


SELECTIVE = {
    "taxon": (SearchFilters(taxon=("killer whale",)), {"ix_individual_taxon_id"}),
    "viewpoint": (SearchFilters(viewpoint=("Ventral",)), {"ix_annotation_viewpoint"}),
    "dates": (
        SearchFilters(date_from=_day(2000, 3), date_to=_day(2000, 4)),
        {"ix_encounter_started_at", "ix_media_asset_taken_at"},
    ),
    "individuals": (
        SearchFilters(individuals=(spaces.UUID("b4c8ef9d-0000-0000-0000-000000000000"),)),
        {"ix_individual_survivor"},
    ),
}


@pytest.mark.parametrize("name", SELECTIVE)
def test_a_selective_filter_uses_an_index_and_scans_nothing(
    filled: tuple[Session, SpaceRow], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Promise 46: the plan of each hot query is pinned."""
    session, space = filled
    filters, wanted = SELECTIVE[name]
    indexes, scanned = explained(
        session, monkeypatch, lambda: embeddings.eligible_ids(session, space.id, filters)
    )
    assert wanted <= indexes
    assert scanned == set()


def test_what_changed_is_found_by_the_transaction(
    filled: tuple[Session, SpaceRow], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Promise 46: every search asks this first."""
    session, space = filled
    horizon = embeddings.horizon(session)
    indexes, scanned = explained(
        session,
        monkeypatch,
        lambda: search_queries.space_changes(session, space.id, horizon),
    )
    assert "ix_annotation_change_tx" in indexes
    assert any(name.endswith("_tx_idx") for name in indexes)
    assert scanned == set()


def test_labels_of_candidates_are_looked_up_by_id(
    filled: tuple[Session, SpaceRow], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Promise 46: every search asks this for its best rows."""
    session, _ = filled
    indexes, scanned = explained(
        session,
        monkeypatch,
        lambda: embeddings.label_candidates(session, list(range(1, 50_000, 1000))),
    )
    assert {"pk_annotation", "pk_individual", "pk_media_asset"} <= indexes
    assert scanned == set()


def test_rows_of_a_space_are_looked_up_by_id(
    filled: tuple[Session, SpaceRow], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Promise 46: what a process reads again of what changed."""
    session, space = filled
    indexes, scanned = explained(
        session,
        monkeypatch,
        lambda: search_queries.space_rows(session, space.id, list(range(1, 3000, 100)), DIM),
    )
    assert any(name.startswith(f"embedding_m{space.id}_") for name in indexes)
    assert scanned == set()


def test_what_a_request_leaves_out_is_looked_up(
    filled: tuple[Session, SpaceRow], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Promise 46: the query itself, its bytes and its encounter."""
    session, space = filled
    indexes, scanned = explained(
        session,
        monkeypatch,
        lambda: search_queries.left_out(
            session,
            space.id,
            annotations=[5],
            sha256s=["a" * 64],
            encounter=spaces.encounter_id(1),
        ),
    )
    assert {"uq_media_asset_sha256", "ix_annotation_encounter_id"} <= indexes
    assert scanned == set()


def test_an_approximate_search_walks_the_index(
    filled: tuple[Session, SpaceRow], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Promise 46: with and without a filter, and whatever the planner thinks of it."""
    session, space = filled
    query = np.ones(DIM, dtype=np.float32)
    for allowed in (None, np.arange(1, 30_000, dtype=np.int64)):
        indexes, scanned = explained(
            session,
            monkeypatch,
            lambda allowed=allowed: ann.nearest_by_index(
                session, space.id, DIM, query, 100, allowed, ef_search=100, max_scan_tuples=9_999
            ),
        )
        assert indexes == {ann.index_name(space.id)}
        assert scanned == set()
        assert session.execute(text("SHOW enable_sort")).scalar_one() == "on"
    session.rollback()


@pytest.mark.parametrize(
    ("sort", "index"),
    [
        ("name", "ix_individual_name_order"),
        ("added", "ix_individual_created_at_id"),
        ("newest", "ix_individual_created_at_id"),
    ],
)
def test_a_page_of_the_list_follows_an_index(
    filled: tuple[Session, SpaceRow], sort: listing.Sort, index: str
) -> None:
    """Promise 46: the tenth page of individuals costs what the first does."""
    session, _ = filled
    plans: list[dict[str, Any]] = []
    execute = session.execute

    def look(statement: Any, parameters: Any) -> Any:
        asked = text(f"EXPLAIN (FORMAT JSON) {statement}")
        plans.append(execute(asked, parameters).scalar_one()[0]["Plan"])
        return execute(statement, parameters)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(session, "execute", look)
        first = listing.list_individuals(session, sort=sort, limit=30)
        listing.list_individuals(session, sort=sort, limit=30, cursor=first.next_cursor)
    assert len(plans) == 2
    for plan in plans:
        indexes: set[str] = set()
        scanned: set[str] = set()
        _walk(plan, indexes, scanned)
        assert index in indexes
        assert scanned & LARGE == set()


def test_whether_an_index_may_be_used_is_a_look_up(
    filled: tuple[Session, SpaceRow], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Promise 46: every search of the backend pgvector asks this."""
    session, space = filled
    _, scanned = explained(session, monkeypatch, lambda: ann.usable_ann(session, space.id))
    assert scanned == set()
