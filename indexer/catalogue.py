"""Changes that people make to the catalogue.

Adding an individual stores, names and embeds its photos in one transaction: the next
identification can answer it, without any training, also while the catalogue moves from one space
to another.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal
from uuid import UUID

from sqlalchemy.orm import Session, sessionmaker

from db.queries import catalogue as rows
from db.queries import names, records
from db.queries.catalogue import AnnotationRow, IndividualRow
from db.queries.changes import Actor, Journal
from db.queries.media import belongs_to_other
from db.types import LifeStage, Sex, Vitality
from indexer.answers import AddedAnswer, AddedPhoto, IndividualRef, Json
from indexer.filling import Embed, Embedded, Filler
from indexer.identify import NoPhotos, PhotoIn
from indexer.identity import assign, new_individual
from indexer.ingest import add_photos
from indexer.media import MediaStore
from indexer.once import Asked, once
from indexer.outcomes import Counts
from indexer.spaces import register_bundle as register_bundle
from models.preprocess import DecodeLimits

Photo = tuple[str | None, bytes]
LOCAL: Final = Actor("local")


@dataclass(frozen=True, slots=True)
class NewIndividual:
    """Who is to be added; `name` None means the next free one of the catalogue's sequence,
    `catalogue` None the default one."""

    name: str | None = None
    taxon: str | None = None
    sex: Sex = Sex.UNKNOWN
    life_stage: LifeStage = LifeStage.UNKNOWN
    vitality: Vitality = Vitality.UNKNOWN
    notes: str | None = None
    catalogue: str | None = None


@dataclass(frozen=True, slots=True)
class Added:
    """What was answered; `replayed`: the same request had been answered before."""

    answer: AddedAnswer
    replayed: bool


class Curator:
    """Adds individuals and photos, each call in one transaction. Thread-safe."""

    def __init__(
        self,
        *,
        sessions: sessionmaker[Session],
        store: MediaStore,
        filler: Filler,
        limits: DecodeLimits,
    ) -> None:
        self._sessions = sessions
        self._store = store
        self._filler = filler
        self._limits = limits

    def add_individual(
        self,
        new: NewIndividual,
        photos: Sequence[PhotoIn],
        *,
        query_id: UUID | None = None,
        actor: Actor = LOCAL,
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

        def work(session: Session, embed: Embed) -> AddedAnswer:
            journal = Journal(session)
            home = _catalogue(session, new.catalogue).id
            taxon_id = rows.ensure_taxon(session, new.taxon) if new.taxon else None
            individual = new_individual(
                session,
                journal,
                actor,
                catalogue_id=home,
                name=names.reserve_next(session, home, taxon_id, actor.principal).name
                if new.name is None
                else new.name,
                taxon_id=taxon_id,
                sex=new.sex,
                life_stage=new.life_stage,
                vitality=new.vitality,
                notes=new.notes,
            )
            given = self._given(session, photos, query_id)
            annotations = self._store_photos(session, journal, individual, given)
            embedded = embed(session, [annotation.id for annotation in annotations])
            change_id = _close(session, journal, actor, "add", individual, annotations)
            return _answer(individual, annotations, given, embedded, change_id)

        asked = _asked(
            actor.principal, idempotency_key, "individual", asdict(new), photos, query_id
        )
        return self._once(asked, work)

    def add_photos(
        self,
        individual_id: UUID,
        photos: Sequence[PhotoIn],
        *,
        query_id: UUID | None = None,
        actor: Actor = LOCAL,
        idempotency_key: str | None = None,
    ) -> Added:
        """More photos of an individual; one it has already is answered as it is.

        Raises:
            NotFound: no such individual. Otherwise as `add_individual`.
        """

        def work(session: Session, embed: Embed) -> AddedAnswer:
            individual = rows.get_individual(session, individual_id)
            journal = Journal(session)
            given = self._given(session, photos, query_id)
            annotations = self._store_photos(session, journal, individual, given)
            embedded = embed(session, [annotation.id for annotation in annotations])
            change_id = _close(session, journal, actor, "photos", individual, annotations)
            return _answer(individual, annotations, given, embedded, change_id)

        fields = {"individual": individual_id}
        asked = _asked(actor.principal, idempotency_key, "photos", fields, photos, query_id)
        return self._once(asked, work)

    def _once(self, asked: Asked, work: _Work) -> Added:
        """Does the work in one transaction, or repeats the answer that the key got before."""

        def attempt(embed: Embed) -> tuple[Json, bool]:
            return once(self._sessions, asked, lambda session: work(session, embed).as_json())

        answer, replayed = self._filler.settled(attempt)
        return Added(AddedAnswer.from_json(answer), replayed)

    def _given(
        self, session: Session, photos: Sequence[PhotoIn], query_id: UUID | None
    ) -> list[Photo]:
        given = [(photo.name, photo.data) for photo in photos]
        if query_id is not None:
            given += self._photos_of_query(session, query_id)
        if not given:
            raise NoPhotos
        return given

    def _store_photos(
        self,
        session: Session,
        journal: Journal,
        individual: IndividualRow,
        given: Sequence[Photo],
    ) -> list[AnnotationRow]:
        """Stored as photos of nobody, and then given to the individual, so that an undo takes the
        individual away and not the photos."""
        annotations = add_photos(
            session,
            self._store,
            catalogue_id=individual.catalogue_id,
            individual_id=None,
            photos=given,
            taxon_id=individual.taxon_id,
            limits=self._limits,
        )
        for annotation in annotations:
            if annotation.individual_id not in (None, individual.id):
                raise belongs_to_other(annotation.id, annotation.individual_id, individual.id)
        assign(session, journal, [annotation.id for annotation in annotations], individual.id)
        return annotations

    def _photos_of_query(self, session: Session, query_id: UUID) -> list[Photo]:
        query = records.get_query(session, query_id)
        return [
            (photo.file_name, self._store.read(rows.get_media(session, photo.media_id).sha256))
            for photo in query.photos
        ]


_Work = Callable[[Session, Embed], AddedAnswer]


def _close(
    session: Session,
    journal: Journal,
    actor: Actor,
    action: Literal["add", "photos"],
    individual: IndividualRow,
    annotations: Sequence[AnnotationRow],
) -> int | None:
    """The change, where anything was different, and the entry of the audit trail. Last of all:
    other writers of the trail wait from here until the transaction ends."""
    change_id = None
    if journal.images:
        new = sum(image.entity == "annotation" for image in journal.images)
        detail = {
            "individual": {"id": str(individual.id), "name": individual.name},
            "counts": asdict(Counts(annotations=new, photos=new, names=action == "add")),
        }
        change = journal.close(actor, action, detail)
        change_id = change.id if change else None
    records.add_audit(
        session,
        actor.principal,
        f"individual.{action}",
        f"individual:{individual.id}",
        {"name": individual.name, "annotations": [a.id for a in annotations]},
    )
    return change_id


def _answer(
    individual: IndividualRow,
    annotations: Sequence[AnnotationRow],
    given: Sequence[Photo],
    embedded: Embedded,
    change_id: int | None,
) -> AddedAnswer:
    return AddedAnswer(
        individual=IndividualRef(str(individual.id), individual.name, individual.taxon),
        photos=tuple(
            AddedPhoto(i, name, str(a.id), str(a.media_id), a.id in embedded.ids)
            for i, ((name, _), a) in enumerate(zip(given, annotations, strict=True))
        ),
        notices=embedded.notices,
        change_id=change_id,
    )


def _asked(
    principal: str,
    key: str | None,
    kind: str,
    fields: dict[str, Any],
    photos: Sequence[PhotoIn],
    query_id: UUID | None,
) -> Asked:
    said = fields | {"query_id": query_id}
    return Asked.of(principal, key, kind, said, [photo.data for photo in photos])


def _catalogue(session: Session, name: str | None) -> rows.CatalogueRow:
    return rows.ensure_catalogue(session, name) if name else rows.default_catalogue(session)
