"""Measures the search: grouping and SQL included, against the bare FAISS scan of the same matrix.

    python scripts/bench_search.py [--n 51034] [--queries 200]

Fills a database of its own (or the one of --database-url, which should be empty) with drawn
vectors of 13,837 + 1,750 individuals per 51,034, many with one photo and a few with hundreds, and
asks for photos that are not in it. The last line is JSON; `recall` is the share of the oracle's k
individuals that were answered.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import tempfile
import time
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
from db.session import make_engine, make_sessions  # noqa: E402
from indexer.search import Searcher, SearchRequest  # noqa: E402

DIM = 512
INDIVIDUALS_PER_PHOTO = (13_837 + 1_750) / 51_034
SPREAD = 0.9
"""Length of the noise beside a centre of length 1: cosines of one animal are about 0.55."""
_NAMESPACE = UUID("0f6a7a0e-5f0d-4b53-8c61-95d2a1a7c0de")
_BLOCK = 20_000


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
    with cursor.copy("COPY individual (id, catalogue_id) FROM STDIN") as copy:
        for number in numbers:
            copy.write_row((who[number], main))
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
    annotations = "COPY annotation (id, catalogue_id, media_id, individual_id) FROM STDIN"
    with cursor.copy(annotations) as copy:
        for id_, number in enumerate(individuals.tolist(), start=1):
            copy.write_row((id_, main, id_, who[number]))


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
    index: Any = faiss.read_index(str(codes), faiss.IO_FLAG_MMAP_IFC)
    individuals = individuals_of(options.n, np.random.default_rng(1))
    asked = np.random.default_rng(2).choice(individuals, options.queries)
    queries = vectors_of(np.sort(asked), seed=10**9)
    answers, search_ms, bare_ms = [], [], []
    with sessions() as session:
        searcher.true_match_distribution(session, space.fingerprint)
    for number, query in enumerate(queries):
        started = time.perf_counter()
        index.search(query[None, :], options.k)
        middle = time.perf_counter()
        with sessions() as session:
            request = SearchRequest(query[None, :], space.fingerprint, options.k)
            result = searcher.search(session, request)
        ended = time.perf_counter()
        answers.append([hit.individual_id for hit in result.hits])
        if number >= options.warm_up:
            bare_ms.append((middle - started) * 1000)
            search_ms.append((ended - middle) * 1000)
    rss_mb = _rss_mb()
    _say(f"last receipt: {json.dumps(result.receipt.as_json())}")
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
        "recall": _recall(folder, individuals, queries, answers, options.k),
        "rss_mb": rss_mb,
    }


def _recall(
    folder: Path,
    individuals: NDArray[np.int64],
    queries: NDArray[np.float32],
    answers: list[list[UUID]],
    k: int,
) -> float:
    """Share of the oracle's k individuals: float64 NumPy over every vector, in blocks."""
    vectors = np.load(next(folder.glob("*/*/vectors.npy")), mmap_mode="r")
    best = np.full((len(queries), int(individuals.max()) + 1), -2.0)
    for start in range(0, len(vectors), _BLOCK):
        some = individuals[start : start + _BLOCK]
        rows = vectors[start : start + _BLOCK].astype(np.float64)
        for scores, of_query in zip(best, queries.astype(np.float64) @ rows.T, strict=True):
            np.maximum.at(scores, some, of_query)
    found = 0
    for scores, answer in zip(best, answers, strict=True):
        nearest = np.argsort(-scores, kind="stable")[:k]
        found += len({uuid5(_NAMESPACE, str(number)) for number in nearest} & set(answer))
    return found / (k * len(queries))


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
