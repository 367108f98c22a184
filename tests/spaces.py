"""A catalogue filled at once with vectors, individuals and encounters, for tests of the search."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID, uuid5

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import text
from sqlalchemy.orm import Session

from db.queries import catalogue, embeddings
from db.queries.embeddings import SpaceRow

_NAMESPACE = UUID("6b1f7a52-6d4b-4c8e-9a53-1f0f7f3d9c10")
_numbers = itertools.count(1)


@dataclass(frozen=True)
class Filled:
    """`ids[i]` is the annotation of row i; `who[n]` the individual with the number n."""

    space: SpaceRow
    ids: NDArray[np.int64]
    who: dict[int, UUID]


def individual_id(number: int) -> UUID:
    return uuid5(_NAMESPACE, f"individual {number}")


def encounter_id(number: int) -> UUID:
    return uuid5(_NAMESPACE, f"encounter {number}")


def sha256_of(annotation_id: int) -> str:
    return hashlib.sha256(str(annotation_id).encode()).hexdigest()


def make_space(session: Session, dim: int, fingerprint: str = "f" * 64) -> SpaceRow:
    return embeddings.register_space(
        session,
        name="test",
        version=fingerprint[:8],
        fingerprint=fingerprint,
        dim=dim,
        preprocessing={"size": 8},
        licence="CC0",
        digest="d",
    )


def fill(
    session: Session,
    space: SpaceRow,
    vectors: NDArray[np.float32],
    individuals: Sequence[int | None],
    encounters: Sequence[int | None] | None = None,
    ids: Sequence[int] | None = None,
    hashes: Sequence[int | None] | None = None,
) -> Filled:
    """One photo and annotation for each row; None is an annotation nobody has named.

    Equal numbers mean the same individual or encounter, in every call.
    """
    main = catalogue.default_catalogue(session).id
    numbers = sorted({number for number in individuals if number is not None})
    meetings = sorted({number for number in encounters or () if number is not None})
    made = list(ids) if ids is not None else [next(_numbers) for _ in vectors]
    # PostgreSQL would fill up a column that is too short.
    nothing = [None] * len(made)
    rows = list(zip(made, individuals, encounters or nothing, hashes or nothing, strict=True))
    who = [individual_id(number) for number in numbers]
    _insert(
        session,
        "individual (id, catalogue_id) SELECT id, :main FROM unnest(CAST(:ids AS uuid[])) AS id"
        " ON CONFLICT DO NOTHING",
        main=main,
        ids=who,
    )
    _insert(
        session,
        "individual_name (individual_id, catalogue_id, name, is_primary)"
        " SELECT id, :main, name, true"
        " FROM unnest(CAST(:ids AS uuid[]), CAST(:names AS text[])) AS given (id, name)"
        " ON CONFLICT DO NOTHING",
        main=main,
        ids=who,
        names=[f"i{number}" for number in numbers],
    )
    _insert(
        session,
        "encounter (id, catalogue_id) SELECT id, :main FROM unnest(CAST(:ids AS uuid[])) AS id"
        " ON CONFLICT DO NOTHING",
        main=main,
        ids=[encounter_id(number) for number in meetings],
    )
    _insert(
        session,
        "media_asset (id, sha256, media_type, byte_size, width_px, height_px, perceptual_hash)"
        " SELECT id, sha256, 'image/png', 1, 9, 9, hash FROM unnest("
        "CAST(:ids AS bigint[]), CAST(:sha256 AS text[]), CAST(:hashes AS bigint[])"
        ") AS given (id, sha256, hash)",
        ids=made,
        sha256=[sha256_of(id_) for id_ in made],
        hashes=[hash_ for _, _, _, hash_ in rows],
    )
    _insert(
        session,
        "annotation (id, catalogue_id, media_id, individual_id, encounter_id)"
        " SELECT id, :main, id, who, met FROM unnest("
        "CAST(:ids AS bigint[]), CAST(:who AS uuid[]), CAST(:met AS uuid[])"
        ") AS given (id, who, met)",
        main=main,
        ids=made,
        who=[None if number is None else individual_id(number) for _, number, _, _ in rows],
        met=[None if number is None else encounter_id(number) for _, _, number, _ in rows],
    )
    embeddings.put_vectors(session, space.id, made, vectors)
    return Filled(
        space, np.array(made, dtype=np.int64), {number: individual_id(number) for number in numbers}
    )


def unit(rows: NDArray[np.floating]) -> NDArray[np.float32]:
    wide = rows.astype(np.float64)
    return (wide / np.linalg.norm(wide, axis=1, keepdims=True)).astype(np.float32)


def clustered(
    individuals: Sequence[int], dim: int, spread: float = 0.6, seed: int = 0
) -> NDArray[np.float32]:
    """Unit vectors like those of a re-identification network: one tight cluster each."""
    rng = np.random.default_rng(seed)
    centres = unit(rng.standard_normal((max(individuals, default=0) + 1, dim)))
    noise = rng.standard_normal((len(individuals), dim)) / np.sqrt(dim)
    return unit(centres[np.array(individuals, dtype=np.int64)] + spread * noise)


def _insert(session: Session, what: str, **columns: object) -> None:
    """All rows of a table by one statement."""
    session.execute(text(f"INSERT INTO {what}"), columns)
