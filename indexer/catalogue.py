"""Changes that people make to the catalogue, and which space it is searched in.

Adding an individual stores, names and embeds its photos in one transaction: the next
identification can answer it, without any training.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any
from uuid import UUID

from sqlalchemy.orm import Session, sessionmaker

from db.errors import Conflict, Invalid
from db.queries import catalogue as rows
from db.queries import embeddings, records
from db.queries.catalogue import AnnotationRow, IndividualRow
from db.queries.embeddings import SpaceRow
from db.types import Sex, Vitality
from indexer.answers import AddedAnswer, AddedPhoto, IndividualRef, Notice
from indexer.embed import EmbedProgress, EmbedReport, embed_annotations, embed_missing
from indexer.identify import NoPhotos, PhotoIn
from indexer.inference import Inference
from indexer.ingest import add_photos
from indexer.media import MediaStore
from models.bundles import Serving
from models.embedder import EmbedderSpec
from models.head import Head
from models.preprocess import DecodeLimits

SLOT = "identify.photo"
"""The use of a space that identification searches."""


@dataclass(frozen=True, slots=True)
class ActiveSpace:
    """The space that the catalogue is searched in. `usable` when the loaded bundle embeds into it;
    otherwise `problem` says why not."""

    space: SpaceRow | None
    head_id: int | None
    problem: Notice | None

    @property
    def usable(self) -> bool:
        return self.space is not None and self.problem is None


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


def active_bundle(session: Session) -> str | None:
    """Name of the bundle whose space the catalogue is searched in; None before the first one."""
    space = embeddings.active_space(session, SLOT)
    return space.name if space is not None else None


def register_serving(sessions: sessionmaker[Session], serving: Serving) -> ActiveSpace:
    """Registers the loaded bundle's space and head, and takes the space into use where none is,
    or where the one in use holds no vector yet. A bundle that the database refuses is a problem in
    the answer, never an exception."""
    try:
        with sessions.begin() as session:
            if serving.embedder is not None:
                return _take_into_use(session, *_register(session, serving))
    except (Conflict, Invalid) as error:
        problem = Notice(error.code, f"The bundle {serving.bundle} cannot be used: {error.detail}")
    else:
        problem = Notice("no_embedder", "No embedding model is loaded, so nothing can be searched.")
    with sessions() as session:
        return ActiveSpace(embeddings.active_space(session, SLOT), None, problem)


def _take_into_use(session: Session, space: SpaceRow, head_id: int | None) -> ActiveSpace:
    active = embeddings.active_space(session, SLOT)
    unused = active is not None and embeddings.count_vectors(session, active.id) == 0
    if active is None or (active.id != space.id and unused):
        embeddings.set_slot(session, SLOT, space.id)
        active = space
    if active.id == space.id:
        return ActiveSpace(space, head_id, None)
    return ActiveSpace(active, head_id, _other_space(active, space))


def activate(
    sessions: sessionmaker[Session],
    store: MediaStore,
    serving: Serving,
    *,
    principal: str = "local",
    progress: Callable[[EmbedProgress], None] | None = None,
    limits: DecodeLimits | None = None,
) -> EmbedReport:
    """Embeds the whole catalogue in the loaded bundle's space, then searches it from then on.

    Photos that cannot be embedded are in the report and stay out of the new space; a running
    service takes the new space up when it is started again.

    Raises:
        Invalid: no embedding model is loaded.
    """
    if serving.embedder is None:
        raise Invalid("no_embedder", "No embedding model is loaded; see `resight models list`.")
    with sessions.begin() as session:
        space, _ = _register(session, serving)
    report = embed_missing(
        sessions, store, serving.embedder, space.id, progress=progress, limits=limits
    )
    with sessions.begin() as session:
        embeddings.set_slot(session, SLOT, space.id)
        records.add_audit(
            session,
            principal,
            "space.activate",
            f"space:{space.id}",
            {"name": space.name, "version": space.version, "fingerprint": space.fingerprint},
        )
    return report


def _register(session: Session, serving: Serving) -> tuple[SpaceRow, int | None]:
    if serving.embedder is None:
        raise Invalid("no_embedder", "No embedding model is loaded; see `resight models list`.")
    return register_bundle(session, serving.embedder.spec, serving.head)


def register_bundle(
    session: Session, spec: EmbedderSpec, head: Head | None
) -> tuple[SpaceRow, int | None]:
    """The space of a bundle, with its partition and its head's id, registered where they are not.

    Raises:
        Invalid: the space has more dimensions than can be indexed.
        Conflict: another space has its name and version, or another head its version.
    """
    space = embeddings.register_space(
        session,
        name=spec.name,
        version=spec.version,
        fingerprint=spec.fingerprint,
        dim=spec.dim,
        modality=spec.modality,
        preprocessing=spec.preprocessing.as_dict(),
        licence=spec.licence,
        digest=spec.digest,
    )
    if head is None:
        return space, None
    registered = embeddings.register_head(
        session,
        model_id=space.id,
        version=head.version,
        slots=head.slots(),
        scale=head.scale,
        min_probability=head.min_probability,
        digest=head.digest,
    )
    return space, registered.id


def _other_space(active: SpaceRow, loaded: SpaceRow) -> Notice:
    return Notice(
        "other_space_active",
        f"The catalogue is searched in the space of {active.name} {active.version}, but the loaded "
        f"bundle is {loaded.name} {loaded.version}, and two spaces are never compared: no matches "
        f"are given. Start with RESIGHT_MODEL={active.name}, or run `resight models activate "
        f"{loaded.name}` to embed the catalogue with the loaded bundle.",
    )


class Curator:
    """Adds individuals and photos, each call in one transaction. Thread-safe."""

    def __init__(
        self,
        *,
        sessions: sessionmaker[Session],
        store: MediaStore,
        serving: Serving,
        active: ActiveSpace,
        inference: Inference,
        limits: DecodeLimits,
    ) -> None:
        self._sessions = sessions
        self._store = store
        self._serving = serving
        self._active = active
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

        def work(session: Session) -> AddedAnswer:
            individual = rows.create_individual(
                session,
                catalogue_id=_catalogue(session, new.catalogue).id,
                name=new.name,
                taxon_id=rows.ensure_taxon(session, new.taxon) if new.taxon else None,
                sex=new.sex,
                vitality=new.vitality,
                notes=new.notes,
            )
            return self._add(session, individual, photos, query_id, principal, "individual.add")

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

        def work(session: Session) -> AddedAnswer:
            individual = rows.get_individual(session, individual_id)
            return self._add(session, individual, photos, query_id, principal, "individual.photos")

        request = _Request.of("photos", {"individual": str(individual_id)}, photos, query_id)
        return self._once(request, principal, idempotency_key, work)

    def _once(
        self,
        request: _Request,
        principal: str,
        key: str | None,
        work: Callable[[Session], AddedAnswer],
    ) -> Added:
        """Does the work in one transaction, or repeats the answer that the key got before."""
        try:
            with self._sessions.begin() as session:
                done = _stored_answer(session, request, principal, key)
                if done is not None:
                    return Added(done, replayed=True)
                answer = work(session)
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

    def _add(
        self,
        session: Session,
        individual: IndividualRow,
        photos: Sequence[PhotoIn],
        query_id: UUID | None,
        principal: str,
        action: str,
    ) -> AddedAnswer:
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
        embedded, notices = self._embed(session, annotations)
        records.add_audit(
            session,
            principal,
            action,
            f"individual:{individual.id}",
            {"name": individual.name, "annotations": [a.id for a in annotations]},
        )
        return AddedAnswer(
            individual=IndividualRef(str(individual.id), individual.name, individual.taxon),
            photos=tuple(
                AddedPhoto(i, name, str(a.id), str(a.media_id), a.id in embedded)
                for i, ((name, _), a) in enumerate(zip(given, annotations, strict=True))
            ),
            notices=notices,
        )

    def _photos_of_query(self, session: Session, query_id: UUID) -> list[tuple[str | None, bytes]]:
        query = records.get_query(session, query_id)
        return [
            (photo.file_name, self._store.read(rows.get_media(session, photo.media_id).sha256))
            for photo in query.photos
        ]

    def _embed(
        self, session: Session, annotations: Sequence[AnnotationRow]
    ) -> tuple[frozenset[int], tuple[Notice, ...]]:
        """The annotations that have a vector now, and what a person should know."""
        embedder, space = self._serving.embedder, self._active.space
        if embedder is None or space is None or self._active.problem is not None:
            why = self._active.problem.detail if self._active.problem else "No model is loaded."
            return frozenset(), (Notice("not_embedded", f"The photos cannot be found yet. {why}"),)
        ids = frozenset(annotation.id for annotation in annotations)
        # The session is lent to the inference thread while this one waits.
        report = self._inference.submit(
            embed_annotations,
            session,
            self._store,
            embedder,
            space.id,
            sorted(ids),
            limits=self._limits,
        ).result()
        notices = tuple(
            Notice("not_embedded", f"Annotation {failure.annotation_id}: {failure.reason}")
            for failure in report.failed
        )
        return ids - {failure.annotation_id for failure in report.failed}, notices


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
