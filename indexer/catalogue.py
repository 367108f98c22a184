"""Changes that people make to the catalogue.

Adding an individual stores, names and embeds its photos in one transaction: the next
identification can answer it, without any training, also while the catalogue moves from one space
to another.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any
from uuid import UUID

from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session, sessionmaker

from db.errors import Conflict, DbError
from db.queries import catalogue as rows
from db.queries import embeddings, records
from db.queries.catalogue import AnnotationRow, IndividualRow
from db.queries.embeddings import SpaceRow
from db.types import Sex, Vitality
from indexer.answers import AddedAnswer, AddedPhoto, IndividualRef, Notice
from indexer.embed import EmbedderBroken, EmbedReport, embed_annotations
from indexer.identify import NoPhotos, PhotoIn
from indexer.inference import Inference
from indexer.ingest import add_photos
from indexer.media import MediaStore
from indexer.spaces import SLOT
from indexer.spaces import register_bundle as register_bundle
from models.embedder import Embedder
from models.preprocess import DecodeLimits

log = logging.getLogger("resight")

Photo = tuple[str | None, bytes]


@dataclass(frozen=True, slots=True)
class NewIndividual:
    """Who is to be added; `catalogue` None means the default one."""

    name: str
    taxon: str | None = None
    sex: Sex = Sex.UNKNOWN
    vitality: Vitality = Vitality.UNKNOWN
    notes: str | None = None
    catalogue: str | None = None


@dataclass(frozen=True, slots=True)
class Added:
    """What was answered; `replayed`: the same request had been answered before."""

    answer: AddedAnswer
    replayed: bool


@dataclass(frozen=True, slots=True, eq=False)
class Filling:
    """What an added photo is embedded with. `main` makes vectors of the space that is searched
    here; None for `problem`. `beside` is the space that a switch or a rollback would lead to, where
    its bundle is loaded: what is added now is found at once then."""

    main: tuple[Embedder, SpaceRow] | None
    problem: Notice | None = None
    beside: tuple[Embedder, SpaceRow] | None = None

    def fills(self, space: SpaceRow) -> bool:
        return space.id in {one[1].id for one in (self.main, self.beside) if one is not None}


class Curator:
    """Adds individuals and photos, each call in one transaction. Thread-safe."""

    def __init__(
        self,
        *,
        sessions: sessionmaker[Session],
        store: MediaStore,
        filling: Callable[[], Filling],
        look: Callable[[], None],
        inference: Inference,
        limits: DecodeLimits,
    ) -> None:
        """`filling` is what photos are embedded with now; `look` takes up what the catalogue is
        searched in by now, as far as it can, before it returns."""
        self._sessions = sessions
        self._store = store
        self._filling = filling
        self._look = look
        self._inference = inference
        self._limits = limits

    def add_individual(
        self,
        new: NewIndividual,
        photos: Sequence[PhotoIn],
        *,
        query_id: UUID | None = None,
        principal: str = "local",
        idempotency_key: str | None = None,
    ) -> Added:
        """A new individual with its photos, and those of a stored query if one is named.

        Raises:
            Conflict: `individual_name_taken`; `annotation_belongs_to_other`: a photo shows another
                individual already; `idempotency_key_reused`: the key came with another request.
            NoPhotos: neither photos nor a query with photos.
            PhotosRefused: photos cannot be read; nothing is added.
            Busy: the inference queue is full; nothing is added.
        """

        def work(session: Session, filling: Filling, strict: bool) -> AddedAnswer:
            individual = rows.create_individual(
                session,
                catalogue_id=_catalogue(session, new.catalogue).id,
                name=new.name,
                taxon_id=rows.ensure_taxon(session, new.taxon) if new.taxon else None,
                sex=new.sex,
                vitality=new.vitality,
                notes=new.notes,
            )
            annotations, given = self._store_photos(session, individual, photos, query_id)
            embedded = self._embed(session, annotations, filling, strict)
            return _added(session, individual, annotations, given, embedded, principal, "add")

        request = _Request.of("individual", asdict(new), photos, query_id)
        return self._once(request, principal, idempotency_key, work)

    def add_photos(
        self,
        individual_id: UUID,
        photos: Sequence[PhotoIn],
        *,
        query_id: UUID | None = None,
        principal: str = "local",
        idempotency_key: str | None = None,
    ) -> Added:
        """More photos of an individual; one it has already is answered as it is.

        Raises:
            NotFound: no such individual. Otherwise as `add_individual`.
        """

        def work(session: Session, filling: Filling, strict: bool) -> AddedAnswer:
            individual = rows.get_individual(session, individual_id)
            annotations, given = self._store_photos(session, individual, photos, query_id)
            embedded = self._embed(session, annotations, filling, strict)
            return _added(session, individual, annotations, given, embedded, principal, "photos")

        request = _Request.of("photos", {"individual": str(individual_id)}, photos, query_id)
        return self._once(request, principal, idempotency_key, work)

    def _once(self, request: _Request, principal: str, key: str | None, work: _Work) -> Added:
        """Does the work in one transaction, or repeats the answer that the key got before."""
        try:
            return self._attempt(request, principal, key, work, strict=True)
        except _SpaceMoved:
            self._look()
            # Where the bundle of the new space is not here, the photos wait for a worker.
            return self._attempt(request, principal, key, work, strict=False)

    def _attempt(
        self, request: _Request, principal: str, key: str | None, work: _Work, *, strict: bool
    ) -> Added:
        try:
            with self._sessions.begin() as session:
                done = _stored_answer(session, request, principal, key)
                if done is not None:
                    return Added(done, replayed=True)
                answer = work(session, self._filling(), strict)
                if key is not None:
                    records.put_idempotent(
                        session,
                        principal=principal,
                        key=key,
                        request_sha256=request.sha256,
                        status=201,
                        answer=answer.as_json(),
                    )
        except Conflict:
            # A twin of this request may have been committed while this one was under way.
            with self._sessions() as session:
                done = _stored_answer(session, request, principal, key)
            if done is None:
                raise
            return Added(done, replayed=True)
        return Added(answer, replayed=False)

    def _store_photos(
        self,
        session: Session,
        individual: IndividualRow,
        photos: Sequence[PhotoIn],
        query_id: UUID | None,
    ) -> tuple[list[AnnotationRow], list[Photo]]:
        given = [(photo.name, photo.data) for photo in photos]
        if query_id is not None:
            given += self._photos_of_query(session, query_id)
        if not given:
            raise NoPhotos
        annotations = add_photos(
            session,
            self._store,
            catalogue_id=individual.catalogue_id,
            individual_id=individual.id,
            photos=given,
            taxon_id=individual.taxon_id,
            limits=self._limits,
        )
        return annotations, given

    def _photos_of_query(self, session: Session, query_id: UUID) -> list[Photo]:
        query = records.get_query(session, query_id)
        return [
            (photo.file_name, self._store.read(rows.get_media(session, photo.media_id).sha256))
            for photo in query.photos
        ]

    def _embed(
        self,
        session: Session,
        annotations: Sequence[AnnotationRow],
        filling: Filling,
        strict: bool,
    ) -> _Embedded:
        """Vectors for annotations that this transaction has written: a switch waits for it, so
        what the catalogue is searched in now is what the next request sees, or else the switch
        finds the annotations."""
        if strict:
            active = embeddings.active_space(session, SLOT)
            if active is not None and filling.main is not None and not filling.fills(active):
                raise _SpaceMoved
        if filling.main is None:
            why = filling.problem.detail if filling.problem else "No model is loaded."
            return _Embedded(
                frozenset(), (Notice("not_embedded", f"The photos cannot be found yet. {why}"),)
            )
        ids = frozenset(annotation.id for annotation in annotations)
        # The session is lent to the inference thread while this one waits.
        report = self._inference.submit(self._fill, session, filling, sorted(ids)).result()
        notices = tuple(
            Notice("not_embedded", f"Annotation {failure.annotation_id}: {failure.reason}")
            for failure in report.failed
        )
        return _Embedded(ids - {failure.annotation_id for failure in report.failed}, notices)

    def _fill(self, session: Session, filling: Filling, ids: Sequence[int]) -> EmbedReport:
        if filling.main is None:
            raise AssertionError
        embedder, space = filling.main
        report = embed_annotations(
            session, self._store, embedder, space.id, ids, limits=self._limits
        )
        if filling.beside is not None:
            embedder, space = filling.beside
            try:
                with session.begin_nested():
                    embed_annotations(
                        session, self._store, embedder, space.id, ids, limits=self._limits
                    )
            except (DbError, DBAPIError, EmbedderBroken) as error:
                # It may have been dropped meanwhile; whoever keeps it complete does the rest.
                log.info("Nothing was added to %s %s: %s", space.name, space.version, error)
        return report


class _SpaceMoved(Exception):
    """The catalogue is searched in a space that what is loaded here does not fill."""


@dataclass(frozen=True, slots=True)
class _Embedded:
    """The annotations that have a vector now, and what a person should know."""

    ids: frozenset[int]
    notices: tuple[Notice, ...]


_Work = Callable[[Session, Filling, bool], AddedAnswer]


def _added(
    session: Session,
    individual: IndividualRow,
    annotations: Sequence[AnnotationRow],
    given: Sequence[Photo],
    embedded: _Embedded,
    principal: str,
    action: str,
) -> AddedAnswer:
    records.add_audit(
        session,
        principal,
        f"individual.{action}",
        f"individual:{individual.id}",
        {"name": individual.name, "annotations": [a.id for a in annotations]},
    )
    return AddedAnswer(
        individual=IndividualRef(str(individual.id), individual.name, individual.taxon),
        photos=tuple(
            AddedPhoto(i, name, str(a.id), str(a.media_id), a.id in embedded.ids)
            for i, ((name, _), a) in enumerate(zip(given, annotations, strict=True))
        ),
        notices=embedded.notices,
    )


@dataclass(frozen=True, slots=True)
class _Request:
    """What tells two requests apart: what they ask for, photos by content."""

    sha256: str

    @classmethod
    def of(
        cls, kind: str, fields: dict[str, Any], photos: Sequence[PhotoIn], query_id: UUID | None
    ) -> _Request:
        asked = {
            "kind": kind,
            "fields": fields,
            "photos": [hashlib.sha256(photo.data).hexdigest() for photo in photos],
            "query_id": str(query_id) if query_id else None,
        }
        return cls(hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest())


def _catalogue(session: Session, name: str | None) -> rows.CatalogueRow:
    return rows.ensure_catalogue(session, name) if name else rows.default_catalogue(session)


def _stored_answer(
    session: Session, request: _Request, principal: str, key: str | None
) -> AddedAnswer | None:
    if key is None:
        return None
    stored = records.get_idempotent(
        session, principal=principal, key=key, request_sha256=request.sha256
    )
    return AddedAnswer.from_json(stored.answer) if stored is not None else None
