"""The same catalogue asked through every backend, warm and cold: the same individuals."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text
from sqlalchemy.orm import Session, sessionmaker

from db.queries.embeddings import SpaceRow
from db.queries.filters import SearchFilters
from indexer import ann, shelf
from indexer.search import MatchHit, Searcher, SearchRequest, SearchResult
from tests import spaces
from tests.milvus_server import LiteServer

DIM = 24
ROWS = 1_500
PHOTOS = 3
Sessions = sessionmaker[Session]


class Place:
    """Five hundred individuals with three photos each; every fifth photo is of the left side."""

    def __init__(self, sessions: Sessions, folder: Path, milvus: LiteServer) -> None:
        self.sessions = sessions
        self._folder = folder
        self._milvus = milvus
        self.who = [number // PHOTOS for number in range(ROWS)]
        self.vectors = spaces.clustered(self.who, DIM)
        self._searchers: list[Searcher] = []
        with sessions.begin() as session:
            self.space: SpaceRow = spaces.make_space(session, DIM)
            self.ids = spaces.fill(session, self.space, self.vectors, self.who).ids
            session.execute(
                text("UPDATE annotation SET viewpoint = 'left' WHERE id = ANY(:ids)"),
                {"ids": self.ids[::5].tolist()},
            )

    def searcher(self, backend: str) -> Searcher:
        """A new process, as it were."""
        at = self._milvus.at() if backend == "milvus" else None
        made = Searcher(self.sessions, self._folder, backend, at)  # type: ignore[arg-type]
        self._searchers.append(made)
        return made

    def ask(self, searcher: Searcher, row: int, **options: object) -> SearchResult:
        request = SearchRequest(
            self.vectors[row : row + 1],
            self.space.fingerprint,
            **options,  # type: ignore[arg-type]
        )
        with self.sessions() as session:
            return searcher.search(session, request)

    def close(self) -> None:
        for searcher in self._searchers:
            searcher.close()


@pytest.fixture
def place(
    sessions: Sessions, tmp_path: Path, milvus: LiteServer, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Place]:
    monkeypatch.setattr(shelf, "MEMORY_ROWS", 0)
    made = Place(sessions, tmp_path, milvus)
    yield made
    made.close()


def test_every_backend_gives_the_same_answer_warm_and_cold(place: Place) -> None:
    """Promise 40: FAISS on, off and cold, PostgreSQL and Milvus give the same ids and scores."""
    answers: dict[str, list[tuple[MatchHit, ...]]] = {}
    asked: list[dict[str, object]] = [
        {},
        {"k": 40},
        {"filters": SearchFilters(viewpoint=("left",))},
        {"exclude_annotations": frozenset(place.ids[:9].tolist())},
    ]
    for backend in ("exact", "faiss", "pgvector", "milvus"):
        for state in ("built", "cold", "warm"):
            searcher = place.searcher(backend)
            if state == "warm":
                place.ask(searcher, 0)
            results = [place.ask(searcher, row, **options) for row in (0, 700) for options in asked]
            assert {result.receipt.mode for result in results} == {"exact"}
            answers[f"{backend} {state}"] = [result.hits for result in results]
    first = answers.pop("exact built")
    for how, answer in answers.items():
        assert answer == first, how


def test_an_approximate_index_finds_nearly_the_same(place: Place) -> None:
    """Promise 40: with HNSW, recall of at least 0.95."""
    ann.build(place.sessions, place.space)
    exact, approximate = place.searcher("exact"), place.searcher("pgvector")
    found = wanted = 0
    for row in range(0, ROWS, 50):
        result = place.ask(approximate, row)
        assert result.receipt.mode == "ann"
        oracle = {hit.individual_id for hit in place.ask(exact, row).hits}
        found += len(oracle & {hit.individual_id for hit in result.hits})
        wanted += len(oracle)
    assert found / wanted >= 0.95


@pytest.mark.parametrize("backend", ["exact", "faiss", "pgvector", "milvus"])
def test_a_stored_photo_finds_itself_first_unless_it_is_left_out(
    place: Place, backend: str
) -> None:
    """Promise 37: itself first with a score of at least 0.999 unless excluded."""
    searcher = place.searcher(backend)
    for row in range(0, ROWS, 300):
        own = int(place.ids[row])
        best = place.ask(searcher, row).hits[0]
        assert (best.annotation_id, best.individual_id) == (
            own,
            spaces.individual_id(place.who[row]),
        )
        assert best.score >= 0.999
        without = place.ask(searcher, row, exclude_annotations=frozenset({own}))
        assert own not in [hit.annotation_id for hit in without.hits]
        assert without.receipt.excluded.self == 1


@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    row=st.integers(0, ROWS - 1),
    k=st.integers(1, 600),
    left=st.booleans(),
    excluded=st.sets(st.integers(0, ROWS - 1), max_size=30),
)
def test_never_fewer_than_k_or_all_there_are(
    place: Place, row: int, k: int, left: bool, excluded: set[int]
) -> None:
    """Promise 35: min(k, eligible) individuals, and `truncated` is never needed."""
    if not place._searchers:
        place.searcher("faiss")
    kept = [r for r in range(0, ROWS, 5 if left else 1) if r not in excluded]
    result = place.ask(
        place._searchers[0],
        row,
        k=k,
        filters=SearchFilters(viewpoint=("left",)) if left else SearchFilters(),
        exclude_annotations=frozenset(place.ids[list(excluded)].tolist()),
    )
    assert len(result.hits) == min(k, len({place.who[r] for r in kept}))
    assert not result.receipt.truncated
    scores = np.array([hit.score for hit in result.hits])
    assert np.all(np.diff(scores) <= 0)
