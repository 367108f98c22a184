"""Identification: decode → gate → embed → {default answer, matches} → Query row.

Everything a query saw and answered is stored with it. The photos are stored, file and row, while
the models run, and the head answers while the search runs; the answer is given only after the
query's rows are committed.
"""

from __future__ import annotations

import time
from collections.abc import Sequence, Set
from concurrent.futures import Executor, Future, wait
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Literal
from uuid import UUID, uuid4

import numpy as np
from sqlalchemy.orm import Session, sessionmaker

from db.errors import Invalid
from db.queries import catalogue, desk, records
from db.queries.catalogue import MediaRow
from db.queries.embeddings import SpaceRow
from db.queries.filters import SearchFilters
from db.queries.media import shown_elsewhere
from db.queries.records import MatchRow, QueryPhotoRow
from db.types import GateState, QueryKind
from indexer.answering import (
    SeenPhoto,
    encounter_gate,
    gate_answer,
    known_photo,
    known_photo_of,
    photo_answers,
    searched,
    skipped_notice,
    standing,
)
from indexer.answers import (
    GateAnswer,
    IdentifyAnswer,
    KnownPhoto,
    Notice,
    Novelty,
    SearchAnswer,
)
from indexer.calibrate import calibration_of
from indexer.inference import Inference
from indexer.ingest import PhotoProblem
from indexer.media import MediaStore
from indexer.rejections import wider
from indexer.search import Searcher, SearchRequest, WrongSpace
from indexer.viewpoints import applied_rules, told_rule
from indexer.voice import IdentifyPolicy as IdentifyPolicy
from indexer.voice import Voice
from models.bundles import Serving
from models.embedder import Embedder, Floats, l2_normalize
from models.gate import AbsentGate, GateDecision
from models.head import HeadAnswer
from models.preprocess import BadPhoto, Rgb, decode, dhash64


@dataclass(frozen=True, slots=True, eq=False)
class PhotoIn:
    """One photo as it came: its file name, if it had one, and its bytes."""

    name: str | None
    data: bytes


@dataclass(frozen=True, slots=True)
class IdentifyOptions:
    """`exclude_encounter`: an encounter's id, or `own`: that of the stored photo with the same
    bytes. `exclude_known`: a photo that is stored already does not find itself; None: unless its
    individual has no other, so that one that was just added is found."""

    k: int = 10
    filters: SearchFilters = field(default_factory=SearchFilters)
    exclude_encounter: UUID | Literal["own"] | None = None
    exclude_known: bool | None = None


class NoReadablePhoto(Exception):
    """None of the photos of a request could be read; `problems` has one entry for each."""

    def __init__(self, problems: Sequence[PhotoProblem]) -> None:
        self.problems = tuple(problems)
        first = self.problems[0]
        one = len(self.problems) == 1
        super().__init__(
            first.detail
            if one
            else f"None of {len(self.problems)} photos can be read: {first.detail}"
        )


class NoPhotos(Exception):
    """The request carries no photo."""

    def __init__(self) -> None:
        super().__init__("The request carries no photo; send at least one in the field `file`.")


class TooManyPhotos(Exception):
    """More photos at once than are allowed."""

    def __init__(self, count: int, limit: int) -> None:
        super().__init__(
            f"The request carries {count} photos, at most {limit} are answered together; split it."
        )


class GateUnavailable(Exception):
    """No gate is installed, and the policy is to refuse rather than to answer without one."""


@dataclass(frozen=True, slots=True)
class _Stored:
    """The photos' rows, what the catalogue knows of them, what the search must leave out, and whom
    somebody said that they do not show."""

    media: list[MediaRow]
    known: list[KnownPhoto | None]
    options: IdentifyOptions
    left_out: list[MediaRow]
    rejected: Set[UUID]


@dataclass(frozen=True, slots=True, eq=False)
class _Look:
    """What the models saw: a decision per photo; vectors (P, D) of the photos not rejected. The
    head may still be at work, while the search is."""

    gates: list[GateDecision]
    vectors: Floats | None
    head: Future[HeadAnswer | None]
    gate_ms: float
    embed_ms: float


class Identifier:
    """Answers who is on the photos of one encounter. Thread-safe."""

    def __init__(
        self,
        *,
        sessions: sessionmaker[Session],
        store: MediaStore,
        serving: Serving,
        space: SpaceRow | None,
        head_id: int | None,
        searcher: Searcher,
        inference: Inference,
        helpers: Executor,
        policy: IdentifyPolicy,
        notices: Sequence[Notice] = (),
    ) -> None:
        """`space` is the one the catalogue is searched in, or None when the loaded bundle cannot
        search it; `helpers` run what goes on beside inference; `notices` go into every answer.

        It owns nothing that must be closed: a request that holds one finishes with it."""
        self.voice = Voice(serving, space, head_id, searcher, policy, tuple(notices))
        self._sessions = sessions
        self._store = store
        self._inference = inference
        self._policy = policy
        self._helpers = helpers

    @property
    def min_probability(self) -> float:
        """From which probability on a default answer is given."""
        return self.voice.min_probability

    def identify(
        self,
        photos: Sequence[PhotoIn],
        options: IdentifyOptions,
        *,
        principal: str = "local",
        kind: QueryKind = QueryKind.IDENTIFY,
    ) -> IdentifyAnswer:
        """One answer for the photos of one encounter, stored with all it saw.

        A photo that cannot be read is named in the answer; the others are answered.

        Raises:
            NoPhotos, TooManyPhotos, NoReadablePhoto: nothing is stored.
            Busy: the inference queue is full.
            GateUnavailable: no gate, and the policy is to refuse.
            SearchUnavailable, SearchTimeout: the search could not run to its end.
            NotFound: `exclude_encounter` names no encounter.
        """
        started = time.perf_counter()
        self._refuse_early(photos)
        seen, problems = self._read(photos)
        timings = {"decode": _ms_since(started)}
        look, stored = self._look_and_store(seen, options)
        media, known = stored.media, stored.known
        timings |= {"gate": look.gate_ms, "embed": look.embed_ms}
        with self._sessions.begin() as session:
            found, novelty = self._search(session, look, stored, timings)
            gate = encounter_gate(look.gates)
            said = self.voice.say(session, gate, look.head.result(), found, stored.rejected)
            timings["total"] = _ms_since(started)
            answer = IdentifyAnswer(
                query_id=str(uuid4()),
                created_at=datetime.now(UTC).isoformat(),
                gate=gate,
                default_answer=said.default,
                matches=found.matches if found else (),
                agreement=said.agreement,
                receipt=found.receipt if found else None,
                novelty=novelty,
                known_photo=next((photo for photo in known if photo), None),
                photos=photo_answers(seen, look.gates, media, known, problems),
                stage=self.voice.serving.stage,
                bundle=self.voice.serving.bundle,
                notices=self.voice.notices + said.notices + skipped_notice(problems),
            )
            self._record(session, answer, options, media, seen, principal, kind)
        return answer

    def judge(self, photo: PhotoIn) -> GateAnswer:
        """What the gate thinks of one photo; nothing is stored.

        Raises:
            NoReadablePhoto: the photo cannot be read.
            Busy: the inference queue is full.
        """
        seen, _ = self._read([photo])
        look = self._inference.submit(self._look, [s.photo.rgb for s in seen]).result()
        return gate_answer(look.gates[0])

    def judge_regions(self, regions: Sequence[Rgb]) -> list[GateDecision]:
        """What the gate thinks of regions of stored photos, uint8 (H, W, 3) each.

        Raises:
            Busy: the inference queue is full.
            GateUnavailable: no gate, and the policy is to refuse.
        """
        self._refuse_without_gate()
        if not regions:
            return []
        return self._inference.submit(self.voice.judge, regions).result()

    def search_vector(
        self, session: Session, vector: Sequence[float], fingerprint: str, options: IdentifyOptions
    ) -> SearchAnswer:
        """Individuals near a vector that the caller embedded.

        Raises:
            WrongSpace: `fingerprint` is not the space that is searched.
            Invalid: the vector is zero or not finite.
            NotFound: `exclude_encounter` names no encounter.
        """
        space = self.voice.searched_space()
        if fingerprint != space.fingerprint:
            raise WrongSpace(
                f"The vector is of the space {fingerprint!r}, but {space.name} {space.version} is "
                f"searched, whose fingerprint is {space.fingerprint!r}; two spaces are never "
                "compared. Embed the photo with that model, or send the photo to /v1/identify."
            )
        if isinstance(options.exclude_encounter, UUID):
            catalogue.get_encounter(session, options.exclude_encounter)
        request = self._request(_unit_row(vector), options, fingerprint=fingerprint)
        return searched(
            self.voice.searcher.search(session, request), calibration_of(session, space.id)
        )

    def search_annotation(
        self,
        session: Session,
        annotation_id: int,
        options: IdentifyOptions,
        *,
        exclude_self: bool = True,
    ) -> SearchAnswer:
        """Individuals near a stored annotation; with `exclude_self` its photo and near-duplicates
        of it are left out, and its other side where a rule of viewpoints says so. Individuals that
        somebody said it does not show come last, or not at all.

        Raises:
            NotFound: no such annotation, or it has no vector in the space that is searched.
        """
        space = self.voice.searched_space()
        annotation = catalogue.get_annotation(session, annotation_id)
        vectors = self.voice.stored_vectors(session, [annotation_id])
        media = catalogue.get_media(session, annotation.media_id)
        known = known_photo_of(annotation)
        asked = _with_encounter(session, options, [known])
        rule = applied_rules(session, [annotation_id])[annotation_id]
        rejected = desk.rejected_for(session, [annotation_id])
        request = replace(
            self._request(vectors, asked, fingerprint=space.fingerprint),
            k=wider(options.k, rejected),
            not_compared=(rule.left_out,),
        )
        if exclude_self:
            request = replace(
                request,
                exclude_annotations=frozenset({annotation_id}),
                exclude_media=frozenset({media.sha256}),
                near_duplicate_of=(media.perceptual_hash,)
                if media.perceptual_hash is not None
                else (),
            )
        found = searched(
            self.voice.searcher.search(session, request),
            calibration_of(session, space.id),
            rejected,
        )
        answer = standing(found, options.k, self._policy.rejected_pairs)
        receipt = replace(answer.receipt, viewpoint_rule=told_rule([rule]))
        return replace(answer, receipt=receipt)

    def embedding(self, session: Session, annotation_id: int) -> tuple[list[float], str]:
        """A stored vector of unit length and the fingerprint of its space.

        Raises:
            NotFound: no such annotation, or it has no vector in the space that is searched.
        """
        space = self.voice.searched_space()
        catalogue.get_annotation(session, annotation_id)
        vector: list[float] = self.voice.stored_vectors(session, [annotation_id])[0].tolist()
        return vector, space.fingerprint

    def _refuse_early(self, photos: Sequence[PhotoIn]) -> None:
        if not photos:
            raise NoPhotos
        if len(photos) > self._policy.max_photos:
            raise TooManyPhotos(len(photos), self._policy.max_photos)
        self._refuse_without_gate()

    def _refuse_without_gate(self) -> None:
        if self._policy.refuse_without_gate and isinstance(self.voice.serving.gate, AbsentGate):
            raise GateUnavailable(
                "No gate is installed, and this service is set to refuse without one: "
                f"{self.voice.serving.gate.reason}"
            )

    def _read(self, photos: Sequence[PhotoIn]) -> tuple[list[SeenPhoto], list[PhotoProblem]]:
        seen: list[SeenPhoto] = []
        problems: list[PhotoProblem] = []
        for position, photo in enumerate(photos):
            try:
                decoded = decode(photo.data, self._policy.limits)
            except BadPhoto as error:
                problems.append(PhotoProblem(position, photo.name, error.code, error.detail))
            else:
                seen.append(SeenPhoto(position, photo.name, photo.data, decoded))
        if not seen:
            raise NoReadablePhoto(problems)
        return seen, problems

    def _look_and_store(
        self, seen: Sequence[SeenPhoto], options: IdentifyOptions
    ) -> tuple[_Look, _Stored]:
        looking = self._inference.submit(self._look, [photo.photo.rgb for photo in seen])
        try:
            stored = self._store_photos(seen, options)
        finally:
            # Even after a failure: nothing must go on behind the back of an answered error.
            wait([looking])
        return looking.result(), stored

    def _store_photos(self, seen: Sequence[SeenPhoto], options: IdentifyOptions) -> _Stored:
        """The photos' files and rows, in a transaction of its own: a photo stays when the question
        about it fails, and asking again finds it."""
        writing = [self._helpers.submit(self._store.put, photo.data) for photo in seen]
        hashes = [dhash64(photo.photo.rgb) for photo in seen]
        wait(writing)
        with self._sessions.begin() as session:
            media = [
                _media_row(session, photo, file.result(), hash_)
                for photo, file, hash_ in zip(seen, writing, hashes, strict=True)
            ]
            known = [known_photo(session, row) for row in media]
            asked = _with_encounter(session, options, known)
            annotated = [int(photo.annotation_id) for photo in known if photo]
            rejected = desk.rejected_for(session, annotated) if annotated else set()
            left_out = _left_out(session, options, media, known)
            return _Stored(media, known, asked, left_out, rejected)

    def _look(self, photos: Sequence[Rgb]) -> _Look:
        gate, embedder = self.voice.serving.gate, self.voice.embedder
        started = time.perf_counter()
        if gate.needs_features and embedder is not None:
            embedded = embedder.embed(photos)
            embed_ms = _ms_since(started)
            started = time.perf_counter()
            gates = gate.decide(photos, embedded.features)
            gate_ms = _ms_since(started)
            kept = [i for i, decision in enumerate(gates) if decision.state != "rejected"]
            vectors = embedded.vectors[kept] if kept else None
        else:
            # One core resizes for the embedder while another does for the gate.
            resizing = self._helpers.submit(_resized, photos, embedder)
            gates = gate.decide(photos, None)
            gate_ms = _ms_since(started)
            started = time.perf_counter()
            chosen = [
                photo
                for photo, decision in zip(resizing.result(), gates, strict=True)
                if decision.state != "rejected"
            ]
            vectors = embedder.embed(chosen).vectors if embedder is not None and chosen else None
            embed_ms = _ms_since(started)
        head = self._helpers.submit(self.voice.head_answer, vectors)
        return _Look(gates, vectors, head, gate_ms, embed_ms)

    def _request(
        self, vectors: Floats, options: IdentifyOptions, *, fingerprint: str
    ) -> SearchRequest:
        encounter = options.exclude_encounter
        return SearchRequest(
            vectors=vectors,
            fingerprint=fingerprint,
            k=options.k,
            filters=options.filters,
            exclude_encounter=encounter if isinstance(encounter, UUID) else None,
            timeout_s=self._policy.search_timeout_s,
        )

    def _search(
        self,
        session: Session,
        look: _Look,
        stored: _Stored,
        timings: dict[str, float],
    ) -> tuple[SearchAnswer | None, Novelty | None]:
        if look.vectors is None or self.voice.space is None:
            return None, None
        fingerprint = self.voice.space.fingerprint
        annotated = {int(photo.media_id) for photo in stored.known if photo}
        request = replace(
            self._request(look.vectors, stored.options, fingerprint=fingerprint),
            k=wider(stored.options.k, stored.rejected),
            # A photo without an annotation has nothing in the catalogue to leave out.
            exclude_media=frozenset(row.sha256 for row in stored.left_out if row.id in annotated),
            near_duplicate_of=tuple(
                row.perceptual_hash for row in stored.left_out if row.perceptual_hash is not None
            ),
        )
        started = time.perf_counter()
        heard = self.voice.hear(session, request, stored.rejected)
        answer = standing(heard.found, stored.options.k, self._policy.rejected_pairs)
        timings["search"] = _ms_since(started)
        # The search's own stages stay visible, under its name.
        stages = {f"search_{name}": ms for name, ms in answer.receipt.timings_ms.items()}
        timings |= stages
        found = SearchAnswer(answer.matches, replace(answer.receipt, timings_ms=timings))
        return found, heard.novelty

    def _record(
        self,
        session: Session,
        answer: IdentifyAnswer,
        options: IdentifyOptions,
        media: Sequence[MediaRow],
        seen: Sequence[SeenPhoto],
        principal: str,
        kind: QueryKind,
    ) -> None:
        records.add_query(
            session,
            query_id=UUID(answer.query_id),
            kind=kind,
            model_id=self.voice.space.id if self.voice.space else None,
            principal=principal,
            k=options.k,
            gate_state=GateState(answer.gate.state),
            answer=answer.as_json(),
            photos=[
                QueryPhotoRow(row.id, photo.name) for row, photo in zip(media, seen, strict=True)
            ],
            matches=[
                MatchRow(m.rank, UUID(m.individual.id), int(m.annotation_id), m.score, m.supporting)
                for m in answer.matches
                if m.individual.id is not None
            ],
        )


def _ms_since(started: float) -> float:
    return round((time.perf_counter() - started) * 1000, 3)


def _unit_row(vector: Sequence[float]) -> Floats:
    """float32 (1, D) of unit length from what a caller sent."""
    with np.errstate(over="ignore"):
        row = np.asarray([vector], dtype=np.float32)
    try:
        return l2_normalize(row)
    except ValueError as error:
        raise Invalid(
            "vector_invalid", f"The vector has no direction: {error}. Send finite numbers."
        ) from error


def _media_row(session: Session, seen: SeenPhoto, sha256: str, perceptual_hash: int) -> MediaRow:
    return catalogue.ensure_media(
        session,
        sha256=sha256,
        media_type=seen.photo.media_type,
        byte_size=len(seen.data),
        width_px=seen.photo.width_px,
        height_px=seen.photo.height_px,
        original_name=seen.name,
        taken_at=seen.photo.taken_at,
        perceptual_hash=perceptual_hash,
        latitude=seen.photo.latitude,
        longitude=seen.photo.longitude,
        photographer=seen.photo.photographer,
    )


def _with_encounter(
    session: Session, options: IdentifyOptions, known: Sequence[KnownPhoto | None]
) -> IdentifyOptions:
    """The same with `own` replaced by the encounter it means; an id must exist."""
    if isinstance(options.exclude_encounter, UUID):
        catalogue.get_encounter(session, options.exclude_encounter)
    if options.exclude_encounter != "own":
        return options
    own = next((photo.encounter_id for photo in known if photo and photo.encounter_id), None)
    return replace(options, exclude_encounter=UUID(own) if own else None)


def _left_out(
    session: Session,
    options: IdentifyOptions,
    media: Sequence[MediaRow],
    known: Sequence[KnownPhoto | None],
) -> list[MediaRow]:
    """The photos whose copies in the catalogue the search leaves out, as `exclude_known` asks."""
    if options.exclude_known is not None:
        return list(media) if options.exclude_known else []
    ids = [row.id for row in media]
    return [
        row
        for row, photo in zip(media, known, strict=True)
        if photo is None
        or photo.individual is None
        or shown_elsewhere(session, UUID(photo.individual.id), ids)
    ]


def _resized(photos: Sequence[Rgb], embedder: Embedder | None) -> Sequence[Rgb]:
    """The photos at the embedder's input size, which it takes as they are."""
    if embedder is None:
        return photos
    return [embedder.spec.preprocessing.apply(photo) for photo in photos]
