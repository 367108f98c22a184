"""Fills a database with as many individuals, annotations and vectors as the published catalogue.

Vectors are clustered as those of re-identification are: one direction per individual, photos around
it. Media rows have no files: nothing here can be shown, only searched.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from uuid import UUID

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import text
from sqlalchemy.orm import Session, sessionmaker

from db.queries import catalogue, embeddings

VECTORS, NAMED, UNNAMED = 51_034, 13_837, 1_750
SPREAD = 0.55
"""Length of the noise beside an individual's direction: cosines of true matches about 0.77."""
CHUNK = 10_000


@dataclass(frozen=True, slots=True, eq=False)
class Filled:
    """`names[i]` is individual i; `owner[j]` the individual of row j of `matrix` (N, dim) float32,
    whose annotation is `annotation_ids[j]`."""

    names: list[str]
    owner: NDArray[np.int64]
    annotation_ids: NDArray[np.int64]
    matrix: NDArray[np.float32]


def class_names(count: int, seed: int = 1) -> list[str]:
    """Ids like those of the published class list: 12 hexadecimal digits, distinct."""
    return [sha256(f"{seed}/{i}".encode()).hexdigest()[:12] for i in range(count)]


def owners(vectors: int, individuals: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Whose each vector is: everyone has one, the rest falls unevenly, as photos of animals do."""
    weights = rng.pareto(1.6, individuals) + 0.2
    more = rng.choice(individuals, size=vectors - individuals, p=weights / weights.sum())
    return np.concatenate([np.arange(individuals), more]).astype(np.int64)


def clustered(
    owner: NDArray[np.int64], individuals: int, dim: int, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Unit vectors (N, dim) float32 around one random direction per individual."""
    centres = rng.standard_normal((individuals, dim), dtype=np.float32)
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    noise = rng.standard_normal((len(owner), dim), dtype=np.float32)
    noise *= SPREAD / np.linalg.norm(noise, axis=1, keepdims=True)
    matrix: NDArray[np.float32] = centres[owner] + noise
    matrix /= np.linalg.norm(matrix, axis=1, keepdims=True)
    return matrix


def fill(
    sessions: sessionmaker[Session],
    model_id: int,
    *,
    dim: int,
    vectors: int = VECTORS,
    named: int = NAMED,
    unnamed: int = UNNAMED,
    seed: int = 1,
) -> Filled:
    """Writes everything in bulk into the default catalogue, which must be empty."""
    rng = np.random.default_rng(seed)
    individuals = named + unnamed
    names = class_names(individuals, seed)
    owner = owners(vectors, individuals, rng)
    matrix = clustered(owner, individuals, dim, rng)
    with sessions.begin() as session:
        catalogue_id = catalogue.default_catalogue(session).id
        ids = _individuals(session, catalogue_id, names)
        annotation_ids = _annotations(session, catalogue_id, [ids[i] for i in owner], seed)
    for start in range(0, vectors, CHUNK):
        rows = slice(start, start + CHUNK)
        with sessions.begin() as session:
            embeddings.put_vectors(session, model_id, annotation_ids[rows], matrix[rows])
    with sessions.begin() as session:
        session.execute(text("ANALYZE"))
    return Filled(names, owner, annotation_ids, matrix)


def _individuals(session: Session, catalogue_id: UUID, names: list[str]) -> list[UUID]:
    rows = session.execute(
        text(
            "WITH made AS (INSERT INTO individual (id, catalogue_id)"
            " SELECT gen_random_uuid(), :catalogue FROM unnest(cast(:names AS text[]))"
            " RETURNING id),"
            " numbered AS (SELECT id, row_number() OVER () AS n FROM made)"
            " INSERT INTO individual_name (individual_id, catalogue_id, name, is_primary)"
            " SELECT numbered.id, :catalogue, given.name, true"
            " FROM unnest(cast(:names AS text[])) WITH ORDINALITY AS given(name, n)"
            " JOIN numbered USING (n) RETURNING name, individual_id"
        ),
        {"catalogue": catalogue_id, "names": names},
    )
    by_name: dict[str, UUID] = {row.name: row.individual_id for row in rows}
    return [by_name[name] for name in names]


def _annotations(
    session: Session, catalogue_id: UUID, individuals: list[UUID], seed: int
) -> NDArray[np.int64]:
    digests = [sha256(f"{seed}/media/{i}".encode()).hexdigest() for i in range(len(individuals))]
    hashes = np.random.default_rng(seed).integers(-(2**62), 2**62, len(individuals)).tolist()
    rows = session.execute(
        text(
            "WITH given AS (SELECT * FROM unnest(cast(:digests AS text[]),"
            "  cast(:hashes AS bigint[]), cast(:individuals AS uuid[]))"
            "  WITH ORDINALITY AS g(digest, hash, individual, n)),"
            " media AS (INSERT INTO media_asset"
            "  (sha256, media_type, byte_size, width_px, height_px, perceptual_hash)"
            "  SELECT digest, 'image/jpeg', 100000, 1024, 683, hash FROM given"
            "  RETURNING id, sha256),"
            " made AS (INSERT INTO annotation (catalogue_id, media_id, individual_id)"
            "  SELECT :catalogue, media.id, given.individual"
            "  FROM given JOIN media ON media.sha256 = given.digest ORDER BY given.n"
            "  RETURNING id, media_id)"
            " SELECT made.id FROM made JOIN media ON media.id = made.media_id"
            " JOIN given ON given.digest = media.sha256 ORDER BY given.n"
        ),
        {
            "catalogue": catalogue_id,
            "digests": digests,
            "hashes": hashes,
            "individuals": individuals,
        },
    )
    return np.fromiter(rows.scalars(), dtype=np.int64, count=len(individuals))
