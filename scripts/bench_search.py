"""Measures the search: grouping and SQL included, against the bare FAISS scan of the same matrix.

    python scripts/bench_search.py [--n 51034] [--queries 200]

Fills a database of its own (or the one of --database-url, which should be empty) with drawn
vectors of 13,837 + 1,750 individuals per 51,034, many with one photo and a few with hundreds, and
asks for photos that are not in it. The last line is JSON; `recall` is the share of the oracle's k
individuals that were answered, `load_s` how long a process that starts later takes until it can
search, and `filtered` the same searches among about one photo in a thousand.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import json
import os
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID, uuid5

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from models.threads import configure_threads

configure_threads(1)

import faiss  # noqa: E402
import numpy as np  # noqa: E402
import psycopg  # noqa: E402
from numpy.typing import NDArray  # noqa: E402
from sqlalchemy.orm import Session, sessionmaker  # noqa: E402

from db import embedded, migrate  # noqa: E402
from db.queries import catalogue, embeddings  # noqa: E402
from db.queries.copying import connection_of, pack_vectors  # noqa: E402
from db.queries.embeddings import SpaceRow  # noqa: E402
from db.queries.filters import SearchFilters  # noqa: E402
from db.session import make_engine, make_sessions  # noqa: E402
from indexer.search import Searcher, SearchRequest  # noqa: E402

DIM = 512
INDIVIDUALS_PER_PHOTO = (13_837 + 1_750) / 51_034
SPREAD = 0.9
"""Length of the noise beside a centre of length 1: cosines of one animal are about 0.55."""
_NAMESPACE = UUID("0f6a7a0e-5f0d-4b53-8c61-95d2a1a7c0de")
_BLOCK = 20_000
_RARE = 1_000
"""One annotation in so many has the viewpoint, and one individual in so many the taxon, that the
filtered searches ask for."""
_VIEWPOINT = "ventral"
_TAXON = "Megaptera novaeangliae"


def individuals_of(n: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Individual of each of n photos: half have one or two, the most photographed have hundreds."""
    count = max(1, round(n * INDIVIDUALS_PER_PHOTO))
    weights = rng.pareto(1.6, count) + 0.05
    extra = rng.choice(count, n - count, p=weights / weights.sum())
    return np.sort(np.concatenate([np.arange(count), extra])).astype(np.int64)


def vectors_of(individuals: NDArray[np.int64], seed: int) -> NDArray[np.float32]:
    """A fresh photo of each of these individuals, float32 (N, 512) of unit length."""
    rng = np.random.default_rng(seed)
    rows = np.empty((len(individuals), DIM), dtype=np.float32)
    for start in range(0, len(individuals), _BLOCK):
        some = individuals[start : start + _BLOCK]
        centres = _centres(np.unique(some))
        noise = rng.standard_normal((len(some), DIM), dtype=np.float32) / np.sqrt(DIM)
        mixed = centres[np.searchsorted(np.unique(some), some)] + SPREAD * noise
        rows[start : start + _BLOCK] = mixed / np.linalg.norm(mixed, axis=1, keepdims=True)
    return rows


def _centres(numbers: NDArray[np.int64]) -> NDArray[np.float32]:
    drawn = np.stack(
        [np.random.default_rng(number).standard_normal(DIM, dtype=np.float32) for number in numbers]
    )
    unit: NDArray[np.float32] = drawn / np.linalg.norm(drawn, axis=1, keepdims=True)
    return unit


def fill(sessions: sessionmaker[Session], n: int) -> tuple[SpaceRow, NDArray[np.int64]]:
    """The space, and the individual's number of each annotation 1..n."""
    individuals = individuals_of(n, np.random.default_rng(1))
    with sessions.begin() as session:
        main = catalogue.default_catalogue(session).id
        space = embeddings.register_space(
            session,
            name="bench",
            version=str(n),
            fingerprint=hashlib.sha256(f"bench {n}".encode()).hexdigest(),
            dim=DIM,
            preprocessing={"drawn": True},
            licence="CC0-1.0",
            digest="none",
        )
        embeddings.set_slot(session, embeddings.PHOTO_SLOT, space.id)
        with connection_of(session).cursor() as cursor:
            _copy_catalogue(cursor, str(main), individuals)
            _copy_vectors(cursor, space, individuals)
    with sessions() as session:
        connection = connection_of(session)
        connection.commit()
        connection.autocommit = True
        connection.execute("VACUUM ANALYZE")
        connection.autocommit = False
    return space, individuals


def _copy_catalogue(cursor: psycopg.Cursor[Any], main: str, individuals: NDArray[np.int64]) -> None:
    numbers = np.unique(individuals).tolist()
    who = {number: str(uuid5(_NAMESPACE, str(number))) for number in numbers}
    cursor.execute("SELECT id FROM taxon WHERE scientific_name = %s", [_TAXON])
    (taxon,) = cursor.fetchone() or (None,)
    with cursor.copy("COPY individual (id, catalogue_id, taxon_id) FROM STDIN") as copy:
        for number in numbers:
            copy.write_row((who[number], main, None if number % _RARE else taxon))
    names = "COPY individual_name (individual_id, catalogue_id, name, is_primary) FROM STDIN"
    with cursor.copy(names) as copy:
        for number in numbers:
            copy.write_row((who[number], main, f"animal {number}", True))
    media = (
        "COPY media_asset (id, sha256, media_type, byte_size, width_px, height_px, perceptual_hash)"
        " FROM STDIN"
    )
    with cursor.copy(media) as copy:
        for id_ in range(1, len(individuals) + 1):
            sha256 = hashlib.sha256(str(id_).encode()).hexdigest()
            hash_ = int.from_bytes(bytes.fromhex(sha256[:16]), signed=True)
            copy.write_row((id_, sha256, "image/jpeg", 100_000, 1024, 768, hash_))
    annotations = (
        "COPY annotation (id, catalogue_id, media_id, individual_id, viewpoint) FROM STDIN"
    )
    with cursor.copy(annotations) as copy:
        for id_, number in enumerate(individuals.tolist(), start=1):
            copy.write_row((id_, main, id_, who[number], None if id_ % _RARE else _VIEWPOINT))


def _copy_vectors(
    cursor: psycopg.Cursor[Any], space: SpaceRow, individuals: NDArray[np.int64]
) -> None:
    cursor.execute(f"ALTER TABLE embedding_m{space.id} ALTER model_id SET DEFAULT {space.id}")
    for start in range(0, len(individuals), _BLOCK):
        some = individuals[start : start + _BLOCK]
        ids = np.arange(start + 1, start + 1 + len(some), dtype=np.int64)
        statement = f"COPY embedding_m{space.id} (annotation_id, v) FROM STDIN (FORMAT binary)"
        with cursor.copy(statement) as copy:
            copy.write(pack_vectors(ids, vectors_of(some, seed=start)))


def measure(
    sessions: sessionmaker[Session], space: SpaceRow, folder: Path, options: argparse.Namespace
) -> dict[str, Any]:
    """Times and recall, the bare scan interleaved with the searches."""
    searcher = Searcher(sessions, folder)
    started = time.perf_counter()
    searcher.ensure(space.fingerprint)
    _say(f"snapshot built and verified in {time.perf_counter() - started:.1f} s")
    codes = next(folder.glob("*/*/codes.faiss"), None)
    if codes is None:
        raise SystemExit(f"{options.n} vectors live in memory; ask for more than 5,000 with --n")
    searcher.close()
    # What it has mapped goes with it, so that memory is counted once.
    del searcher
    gc.collect()
    searcher = Searcher(sessions, folder)
    started = time.perf_counter()
    searcher.ensure(space.fingerprint)
    load_s = time.perf_counter() - started
    index: Any = faiss.read_index(str(codes), faiss.IO_FLAG_MMAP_IFC)
    individuals = individuals_of(options.n, np.random.default_rng(1))
    asked = np.random.default_rng(2).choice(individuals, options.queries)
    queries = vectors_of(np.sort(asked), seed=10**9)
    with sessions() as session:
        searcher.true_match_distribution(session, space.fingerprint)
    bench = _Bench(sessions, searcher, space, folder, individuals, queries, options)
    bare_ms, search_ms, recall = bench.run(SearchFilters(), np.ones(len(individuals), bool), index)
    rss_mb = _rss_mb()
    ids = np.arange(1, len(individuals) + 1)
    filtered = {}
    for name, filters, mask in (
        ("viewpoint", SearchFilters(viewpoint=(_VIEWPOINT,)), ids % _RARE == 0),
        ("taxon", SearchFilters(taxon=(_TAXON,)), individuals % _RARE == 0),
    ):
        _, some_ms, some_recall = bench.run(filters, mask, None)
        filtered[name] = {
            "rows": int(mask.sum()),
            "p50_ms": round(float(np.median(some_ms)), 2),
            "recall": some_recall,
        }
    searcher.close()
    p50, p95 = np.percentile(search_ms, [50, 95])
    bare = float(np.median(bare_ms))
    return {
        "n": options.n,
        "k": options.k,
        "p50_ms": round(float(p50), 2),
        "p95_ms": round(float(p95), 2),
        "bare_scan_ms": round(bare, 2),
        "ratio_to_bare": round(float(p50) / bare, 2),
        "recall": recall,
        "rss_mb": rss_mb,
        "load_s": round(load_s, 2),
        "filtered": filtered,
    }


@dataclass(frozen=True, slots=True, eq=False)
class _Bench:
    """`individuals` are of the annotations 1..n; each of `queries` is asked once a run."""

    sessions: sessionmaker[Session]
    searcher: Searcher
    space: SpaceRow
    folder: Path
    individuals: NDArray[np.int64]
    queries: NDArray[np.float32]
    options: argparse.Namespace

    def run(
        self, filters: SearchFilters, mask: NDArray[np.bool_], bare: Any
    ) -> tuple[list[float], list[float], float]:
        """(times of the bare scan before each search, times of the searches, recall)."""
        bare_ms, search_ms, answers = [], [], []
        for number, query in enumerate(self.queries):
            started = time.perf_counter()
            if bare is not None:
                # As FAISS comes: the searcher has set one thread for what it starts itself.
                faiss.omp_set_num_threads(os.cpu_count() or 1)
                bare.search(query[None, :], self.options.k)
            middle = time.perf_counter()
            with self.sessions() as session:
                request = SearchRequest(
                    query[None, :], self.space.fingerprint, self.options.k, filters
                )
                result = self.searcher.search(session, request)
            ended = time.perf_counter()
            if result.receipt.mode != "exact" or result.receipt.eligible != int(mask.sum()):
                raise SystemExit(f"not what was asked for: {result.receipt}")
            answers.append([hit.individual_id for hit in result.hits])
            if number >= self.options.warm_up:
                bare_ms.append((middle - started) * 1000)
                search_ms.append((ended - middle) * 1000)
        _say(f"last receipt: {json.dumps(result.receipt.as_json())}")
        return bare_ms, search_ms, self._recall(answers, mask)

    def _recall(self, answers: list[list[UUID]], mask: NDArray[np.bool_]) -> float:
        """Share of the oracle's k individuals: float64 NumPy over every vector, in blocks."""
        vectors = np.load(next(self.folder.glob("*/*/vectors.npy")), mmap_mode="r")
        best = np.full((len(self.queries), int(self.individuals.max()) + 1), -2.0)
        wide = self.queries.astype(np.float64)
        for start in range(0, len(vectors), _BLOCK):
            kept = start + np.flatnonzero(mask[start : start + _BLOCK])
            rows = vectors[kept].astype(np.float64)
            for scores, of_query in zip(best, wide @ rows.T, strict=True):
                np.maximum.at(scores, self.individuals[kept], of_query)
        found = wanted = 0
        for scores, answer in zip(best, answers, strict=True):
            nearest = np.argsort(-scores, kind="stable")[: self.options.k]
            oracle = {uuid5(_NAMESPACE, str(n)) for n in nearest if scores[n] > -2.0}
            found += len(oracle & set(answer))
            wanted += len(oracle)
        return found / wanted


def _rss_mb() -> float:
    status = Path("/proc/self/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmRSS"))
    return round(int(line.split()[1]) / 1024, 1)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--n", type=int, default=51_034, help="number of photos")
    parser.add_argument("--k", type=int, default=10)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--warm-up", type=int, default=20, help="queries not counted in the times")
    parser.add_argument("--data-dir", type=Path, help="keep the embedded database here")
    parser.add_argument("--database-url", help="an empty PostgreSQL database of your own")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="resight-bench-") as temporary:
        data_dir = (options.data_dir or Path(temporary)).resolve()
        server = None if options.database_url else embedded.start(data_dir)
        engine = make_engine(server.url if server else options.database_url)
        try:
            migrate.upgrade(engine)
            sessions = make_sessions(engine)
            started = time.perf_counter()
            space, _ = fill(sessions, options.n)
            _say(f"{options.n} vectors written in {time.perf_counter() - started:.1f} s")
            print(json.dumps(measure(sessions, space, data_dir / "snapshots", options)))
        finally:
            engine.dispose()
            if server:
                embedded.stop(data_dir)


if __name__ == "__main__":
    main()
