"""Small spaces that really look at photos, and a catalogue to move between them."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

import numpy as np
from sqlalchemy import text
from sqlalchemy.orm import Session, sessionmaker

from db.queries import catalogue, embeddings, media
from db.queries.embeddings import SpaceRow
from indexer.catalogue import register_bundle
from indexer.ingest import add_photos
from indexer.jobs import JobRunner
from indexer.media import MediaStore
from indexer.reindex import Follower, ReindexHandler
from indexer.snapshot import SnapshotStore
from models.embedder import Embedded, EmbedderSpec, l2_normalize
from models.errors import BundleError
from models.preprocess import Preprocessing, Rgb, crop, decode
from tests import zoo

Sessions = sessionmaker[Session]
Box = tuple[int, int, int, int]

PREPROCESSING = Preprocessing(8, 12, "bilinear", (0.5, 0.5, 0.5), (0.2, 0.2, 0.2))


class TinyEmbedder:
    """The pixels of the reduced photo, mixed at random by `seed`: the same photo gives the same
    vector on every machine, and other seeds other spaces. Counts what it embeds."""

    def __init__(
        self, seed: int, dim: int = 32, *, log: Path | None = None, delay_s: float = 0.0
    ) -> None:
        """`log` gets a line with the number of photos of each batch, from all processes; a batch
        takes `delay_s` longer."""
        fingerprint = hashlib.sha256(f"tiny {seed} {dim}".encode()).hexdigest()
        self.spec = EmbedderSpec(
            f"tiny{seed}", str(dim), fingerprint, dim, "photo", PREPROCESSING, "CC0", "d" * 64
        )
        pixels = PREPROCESSING.width_px * PREPROCESSING.height_px * 3
        self._mix = np.random.default_rng(seed).standard_normal((pixels, dim)).astype(np.float32)
        self._log = log
        self._delay_s = delay_s
        self.embedded = 0
        self.poison: set[bytes] = set()
        self._known: dict[tuple[bytes, Box | None], np.ndarray] = {}

    def embed(self, photos: Sequence[Rgb]) -> Embedded:
        pixels = [PREPROCESSING.apply(photo) for photo in photos]
        if any(one.tobytes() in self.poison for one in pixels):
            raise RuntimeError("row 0 has no direction")
        self.embedded += len(photos)
        if self._log is not None:
            line = os.open(self._log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
            os.write(line, f"{self.spec.name} {len(photos)}\n".encode())
            os.close(line)
        time.sleep(self._delay_s)
        flat, vectors = self._vectors(pixels)
        return Embedded(vectors, flat)

    def _vectors(self, pixels: Sequence[Rgb]) -> tuple[np.ndarray, np.ndarray]:
        flat = np.stack([one.reshape(-1).astype(np.float32) - 127.3 for one in pixels])
        return flat, l2_normalize(flat @ self._mix)

    def vector_of(self, photo: bytes, box: Box | None = None) -> np.ndarray:
        """What the space holds for this region, computed apart from what is under test."""
        if (photo, box) not in self._known:
            rgb = decode(photo).rgb
            pixels = PREPROCESSING.apply(rgb if box is None else crop(rgb, box))
            self._known[photo, box] = self._vectors([pixels])[1][0]
        return self._known[photo, box]

    def poisoned_by(self, photo: bytes) -> None:
        """This photo fails from now on."""
        self.poison.add(PREPROCESSING.apply(decode(photo).rgb).tobytes())


@dataclass
class Catalogue:
    """A database, a media folder and a snapshot folder, with embedders by fingerprint."""

    sessions: Sessions
    root: Path
    embedders: dict[str, TinyEmbedder] = field(default_factory=dict)
    photos: dict[int, bytes] = field(default_factory=dict)
    """The bytes behind each annotation."""

    @property
    def store(self) -> MediaStore:
        return MediaStore(self.root / "media")

    @property
    def snapshots(self) -> SnapshotStore:
        return SnapshotStore(self.root / "snapshots")

    def embedder_of(self, fingerprint: str) -> TinyEmbedder:
        if fingerprint not in self.embedders:
            raise BundleError("not_installed", f"no bundle has the fingerprint {fingerprint}")
        return self.embedders[fingerprint]

    def install(self, embedder: TinyEmbedder) -> None:
        self.embedders[embedder.spec.fingerprint] = embedder

    def space(self, embedder: TinyEmbedder) -> SpaceRow:
        """The embedder's space, registered and installed here."""
        self.install(embedder)
        with self.sessions.begin() as session:
            return register_bundle(session, embedder.spec, None)[0]

    def use(self, space: SpaceRow, slot: str = embeddings.PHOTO_SLOT) -> None:
        """Search this space, with a vector for everything there is."""
        with self.sessions.begin() as session:
            embeddings.set_slot(session, slot, space.id)
        follow = self.follower()
        while follow(lambda: False):
            pass

    def follower(self) -> Follower:
        return Follower(self.sessions, self.store, self.embedder_of)

    def handler(self, chunk: int = 8) -> ReindexHandler:
        return ReindexHandler(self.store, self.snapshots, self.embedder_of, chunk=chunk, batch=4)

    def runner(self, worker: str = "w", *, chunk: int = 8, follow: bool = True) -> JobRunner:
        ticks = [self.follower()] if follow else []
        return JobRunner(self.sessions, [self.handler(chunk)], worker=worker, ticks=ticks)

    def add(self, name: str | None, photo: bytes, encounter: str | None = None) -> int:
        """An annotation of a whole photo; its id."""
        with self.sessions.begin() as session:
            home = catalogue.default_catalogue(session).id
            who = (
                catalogue.ensure_individual(session, catalogue_id=home, name=name).id
                if name
                else None
            )
            [row] = add_photos(
                session,
                self.store,
                catalogue_id=home,
                individual_id=who,
                photos=[(None, photo)],
            )
            if encounter is not None:
                session.execute(
                    text(
                        "WITH met AS (INSERT INTO encounter (catalogue_id, external_id)"
                        " VALUES (:home, :name) ON CONFLICT (catalogue_id, external_id)"
                        " WHERE external_id IS NOT NULL DO UPDATE SET external_id = :name"
                        " RETURNING id) UPDATE annotation SET encounter_id = met.id FROM met"
                        " WHERE annotation.id = :id"
                    ),
                    {"home": home, "name": encounter, "id": row.id},
                )
        self.photos[row.id] = photo
        return row.id

    def fill(self, individuals: int, photos: int = 3) -> list[int]:
        """Individuals with some photos of one scene each, every photo in an encounter of its own.

        The photos of an individual differ in their compression alone, so that any space finds it.
        """
        return [
            self.add(f"i{who}", zoo.photo(who, quality=60 + 10 * n), f"e{who}-{n}")
            for who in range(individuals)
            for n in range(photos)
        ]

    def rebox(self, annotation_id: int, box: Box | None) -> None:
        x, y, w, h = box or (None,) * 4
        with self.sessions.begin() as session:
            session.execute(
                text(
                    "UPDATE annotation SET box_x_px = :x, box_y_px = :y, box_w_px = :w,"
                    " box_h_px = :h WHERE id = :id"
                ),
                {"x": x, "y": y, "w": w, "h": h, "id": annotation_id},
            )

    def delete(self, annotation_id: int) -> None:
        with self.sessions.begin() as session:
            session.execute(text("DELETE FROM annotation WHERE id = :id"), {"id": annotation_id})

    def merge(self, one: UUID, into: UUID) -> None:
        with self.sessions.begin() as session:
            session.execute(
                text(
                    "UPDATE individual SET merged_into_id = :into"
                    " WHERE id = :one OR merged_into_id = :one"
                ),
                {"one": one, "into": into},
            )

    def vectors(self, space: SpaceRow) -> dict[int, np.ndarray]:
        with self.sessions() as session:
            ids, rows, _ = embeddings.read_space(session, space.id)
        return dict(zip(ids.tolist(), rows, strict=True))

    def active(self, slot: str = embeddings.PHOTO_SLOT) -> SpaceRow | None:
        with self.sessions() as session:
            return embeddings.active_space(session, slot)

    def check(self, *spaces: SpaceRow) -> None:
        """Each space holds exactly the vectors of the present regions of the annotations."""
        ids = self.check_present(*spaces)
        for space in spaces:
            assert sorted(self.vectors(space)) == ids

    def check_present(self, *spaces: SpaceRow) -> list[int]:
        """Each vector of the spaces is of an annotation's present region; the annotations."""
        with self.sessions() as session:
            ids = list(session.scalars(text("SELECT id FROM annotation ORDER BY id")))
            boxes = {id_: row.box_px for id_, row in media.get_annotations(session, ids).items()}
        for space in spaces:
            embedder = self.embedders[space.fingerprint]
            for id_, vector in self.vectors(space).items():
                wanted = embedder.vector_of(self.photos[id_], boxes[id_])
                np.testing.assert_allclose(vector, wanted, atol=1e-5)
        return ids
