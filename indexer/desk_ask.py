"""Owns asking about stored photos: the annotations of an encounter as one question for the desk.

Gate, default answer and search are those of an identification; the vectors are those that the
catalogue has already.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Final
from uuid import UUID, uuid4

from sqlalchemy.orm import Session, sessionmaker

from db.errors import Invalid, NotFound
from db.queries import catalogue, desk, records, search
from db.queries.changes import Actor
from db.queries.desk import AskedRow
from db.queries.filters import SearchFilters
from db.queries.records import DeskPart, MatchRow, QueryPhotoRow
from db.types import GateState, QueryKind, QueryState
from indexer.answering import best_of, encounter_gate, gate_answer
from indexer.answers import IdentifyAnswer, PhotoAnswer, PhotoError
from indexer.desk_answers import Json
from indexer.filling import Embed, Filler
from indexer.identify import Identifier
from indexer.media import MediaError, MediaStore, StoreUnavailable
from indexer.once import Asked, once
from indexer.ranking import Fuse, MatchHit, SearchRequest
from indexer.rejections import wider
from indexer.vector_index.protocol import unit_rows
from indexer.viewpoints import applied_rules, told_rule
from indexer.voice import Heard, Voice
from models.gate import GateDecision
from models.preprocess import BadPhoto, DecodeLimits, Rgb, crop, decode

MAX_PHOTOS: Final = 200
"""Photos of one question."""
MAX_VOTES: Final = 20
_OUTSIDE: Final = 100
"""Individuals beside a filter that are looked at."""


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked: annotations in their order, or else the unnamed ones of an encounter."""

    annotation_ids: tuple[int, ...]
    encounter_id: UUID | None
    k: int
    filters: SearchFilters = field(default_factory=SearchFilters)
    fuse: Fuse = "max"
    wanted_votes: int = 1

    def as_json(self) -> Json:
        return {
            "annotations": list(self.annotation_ids),
            "encounter": self.encounter_id and str(self.encounter_id),
            "k": self.k,
            "filters": self.filters.as_dict(),
            "fuse": self.fuse,
            "wanted_votes": self.wanted_votes,
        }


@dataclass(frozen=True, slots=True, eq=False)
class _Seen:
    """The photos asked about, what the gate said of each, and which of them are searched with: one
    that was rejected only where all were."""

    photos: list[AskedRow]
    gates: list[GateDecision]
    problems: list[PhotoError | None]

    @property
    def kept(self) -> list[AskedRow]:
        decided = zip(self.photos, self.gates, strict=True)
        return [photo for photo, gate in decided if gate.state != "rejected"] or self.photos

    @property
    def encounters(self) -> list[UUID]:
        met = (photo.encounter_id for photo in self.photos)
        return list(dict.fromkeys(one for one in met if one is not None))


class Asker:
    """Asks about stored photos. Thread-safe."""

    def __init__(
        self,
        *,
        sessions: sessionmaker[Session],
        store: MediaStore,
        identifier: Callable[[], Identifier],
        filler: Filler,
        limits: DecodeLimits,
    ) -> None:
        self._sessions = sessions
        self._store = store
        self._identifier = identifier
        self._filler = filler
        self._limits = limits

    def ask(self, question: Question, *, actor: Actor, idempotency_key: str | None) -> UUID:
        """Raises: as `Desk.ask`."""
        identifier = self._identifier()
        seen = self._look(identifier, question)

        def work(session: Session) -> Json:
            return {"id": str(_store(session, identifier.voice, question, seen, actor))}

        asked = Asked.of(actor.principal, idempotency_key, "query", question.as_json())
        answer, _ = once(self._sessions, asked, work)
        return UUID(answer["id"])

    def ask_of_query(
        self, query_id: UUID, *, k: int, wanted_votes: int, actor: Actor, key: str | None
    ) -> UUID:
        """Raises: as `Desk.ask_of_query`."""

        def bring(embed: Embed) -> Json:
            return once(
                self._sessions,
                Asked.of(actor.principal, key, "query_photos", {"query_id": str(query_id)}),
                lambda session: _annotated(session, query_id, embed, actor),
            )[0]

        brought = self._filler.settled(bring)
        encounter = brought["encounter_id"]
        question = Question(
            tuple(brought["annotation_ids"]),
            UUID(encounter) if encounter else None,
            k,
            wanted_votes=wanted_votes,
        )
        return self.ask(question, actor=actor, idempotency_key=key and f"{key} ?")

    def _look(self, identifier: Identifier, question: Question) -> _Seen:
        _check(question)
        with self._sessions() as session:
            photos = _photos(session, question)
        regions = [self._region(photo) for photo in photos]
        readable = [region for region in regions if not isinstance(region, PhotoError)]
        decided = iter(identifier.judge_regions(readable))
        model = identifier.voice.serving.gate.model
        gates = [
            GateDecision("abstained", None, None, model, region.detail)
            if isinstance(region, PhotoError)
            else next(decided)
            for region in regions
        ]
        problems = [region if isinstance(region, PhotoError) else None for region in regions]
        return _Seen(photos, gates, problems)

    def _region(self, photo: AskedRow) -> Rgb | PhotoError:
        try:
            rgb = decode(self._store.read(photo.sha256), self._limits).rgb
            return rgb if photo.box_px is None else crop(rgb, photo.box_px)
        except StoreUnavailable:
            # Says nothing about this photo: whoever asked tries again.
            raise
        except (BadPhoto, MediaError) as error:
            return PhotoError(error.code, error.detail)
        except ValueError as error:
            return PhotoError("box_outside", str(error))


def _check(question: Question) -> None:
    if len(set(question.annotation_ids)) < len(question.annotation_ids):
        raise Invalid("annotation_twice", "Name each annotation once.")
    if len(question.annotation_ids) > MAX_PHOTOS:
        raise Invalid(
            "too_many_photos",
            f"One question has at most {MAX_PHOTOS} photos, not {len(question.annotation_ids)}; "
            "ask about them in parts.",
        )
    if not 1 <= question.wanted_votes <= MAX_VOTES:
        raise Invalid(
            "votes_impossible", f"Between 1 and {MAX_VOTES} opinions can be wanted of a question."
        )


def _photos(session: Session, question: Question) -> list[AskedRow]:
    if question.encounter_id is not None:
        catalogue.get_encounter(session, question.encounter_id)
    photos = desk.annotations_asked(session, list(question.annotation_ids), question.encounter_id)
    found = {photo.annotation_id for photo in photos}
    for annotation_id in question.annotation_ids:
        if annotation_id not in found:
            raise NotFound(
                "annotation_unknown",
                f"No annotation has the id {annotation_id}.",
                annotation_id=annotation_id,
            )
    if not photos:
        raise Invalid(
            "nothing_to_ask",
            "Everybody on the photos of this encounter is named already, or there are none; name "
            "the annotations that are to be asked about."
            if question.encounter_id
            else "Name annotations or an encounter to ask about.",
        )
    return photos[:MAX_PHOTOS]


def _store(session: Session, voice: Voice, question: Question, seen: _Seen, actor: Actor) -> UUID:
    """Search, and keep the question with its answer; the query's id."""
    kept = seen.kept
    ids = [photo.annotation_id for photo in kept]
    vectors = unit_rows(voice.stored_vectors(session, ids))
    rules = applied_rules(session, ids)
    rejected = desk.rejected_for(session, [photo.annotation_id for photo in seen.photos])
    request = SearchRequest(
        vectors=vectors,
        fingerprint=voice.searched_space().fingerprint,
        k=wider(question.k, rejected),
        filters=question.filters,
        exclude_annotations=_left_out(session, seen),
        exclude_media=frozenset(photo.sha256 for photo in seen.photos),
        near_duplicate_of=tuple(
            photo.perceptual_hash for photo in seen.photos if photo.perceptual_hash is not None
        ),
        exclude_encounter=seen.encounters[0] if len(seen.encounters) == 1 else None,
        timeout_s=voice.policy.search_timeout_s,
        fuse=question.fuse,
        evidence=True,
        not_compared=tuple(rules[id_].left_out for id_ in ids),
    )
    heard = voice.hear(session, request, rejected)
    gate = encounter_gate(seen.gates)
    said = voice.say(session, gate, voice.head_answer(vectors), heard.found, rejected)
    answer = IdentifyAnswer(
        query_id=str(uuid4()),
        created_at=datetime.now(UTC).isoformat(),
        gate=gate,
        default_answer=said.default,
        matches=heard.found.matches,
        agreement=said.agreement,
        receipt=replace(heard.found.receipt, viewpoint_rule=told_rule([rules[id_] for id_ in ids])),
        novelty=heard.novelty,
        known_photo=None,
        photos=_photo_answers(seen),
        stage=voice.serving.stage,
        bundle=voice.serving.bundle,
        notices=voice.notices + said.notices,
    )
    kept_json = answer.as_json()
    kept_json |= {
        "fuse": question.fuse,
        "stronger_outside": _stronger_outside(session, voice, request, heard),
    }
    best = best_of(heard.found.matches)
    return records.add_query(
        session,
        query_id=UUID(answer.query_id),
        kind=QueryKind.ENCOUNTER,
        model_id=voice.searched_space().id,
        principal=actor.principal,
        k=question.k,
        gate_state=GateState(gate.state),
        answer=kept_json,
        photos=[
            QueryPhotoRow(photo.media_id, photo.file_name, photo.annotation_id)
            for photo in seen.photos
        ],
        matches=[_match(hit, kept) for hit in heard.result.hits],
        desk=DeskPart(
            encounter_id=question.encounter_id or next(iter(seen.encounters), None),
            state=QueryState.OPEN if question.wanted_votes == 1 else QueryState.SECOND,
            wanted_votes=question.wanted_votes,
            best_score=best.score if best else None,
            disagrees=said.agreement is False,
        ),
    )


def _left_out(session: Session, seen: _Seen) -> frozenset[int]:
    """The question itself; where it is of several encounters, all of those."""
    own = frozenset(photo.annotation_id for photo in seen.photos)
    if len(seen.encounters) < 2:
        return own
    return own | frozenset(desk.companions_in(session, seen.encounters))


def _stronger_outside(
    session: Session, voice: Voice, request: SearchRequest, heard: Heard
) -> int | None:
    """How many individuals that the filters leave out score higher than the best one inside; of
    the first hundred. None without filters."""
    if request.filters.is_empty:
        return None
    wide = replace(request, filters=SearchFilters(), k=_OUTSIDE, evidence=False)
    best = heard.result.hits[0].score if heard.result.hits else None
    hits = voice.searcher.search(session, wide).hits[: _OUTSIDE if best is not None else request.k]
    above = [hit.individual_id for hit in hits if best is None or hit.score > best]
    inside = search.individuals_inside(session, voice.searched_space().id, above, request.filters)
    return len(above) - len(inside)


def _match(hit: MatchHit, kept: Sequence[AskedRow]) -> MatchRow:
    evidence = [
        {
            "annotation_id": str(photo.annotation_id),
            "score": pair and pair.score,
            "match_annotation_id": pair and str(pair.annotation_id),
            "match_media_id": pair and str(pair.media_id),
        }
        for photo, pair in zip(kept, hit.evidence, strict=True)
    ]
    return MatchRow(
        hit.rank, hit.individual_id, hit.annotation_id, hit.score, hit.supporting, evidence
    )


def _photo_answers(seen: _Seen) -> tuple[PhotoAnswer, ...]:
    return tuple(
        PhotoAnswer(
            position=position,
            name=photo.file_name,
            media_id=str(photo.media_id),
            width_px=photo.width_px,
            height_px=photo.height_px,
            gate=gate_answer(gate),
            known=None,
            error=problem,
        )
        for position, (photo, gate, problem) in enumerate(
            zip(seen.photos, seen.gates, seen.problems, strict=True)
        )
    )


def _annotated(session: Session, query_id: UUID, embed: Embed, actor: Actor) -> Json:
    """Annotations of the whole photos of a stored query, in an encounter that they have already or
    a new one, each with a vector."""
    query = records.get_query(session, query_id)
    if not query.photos:
        raise Invalid("nothing_to_ask", f"The query {query_id} has no photos that are stored.")
    home = catalogue.default_catalogue(session)
    media = list(dict.fromkeys(photo.media_id for photo in query.photos))
    found = [
        catalogue.ensure_annotation(
            session, catalogue_id=home.id, media_id=media_id, individual_id=None
        )[0]
        for media_id in media
    ]
    encounter = next((one.encounter_id for one in found if one.encounter_id is not None), None)
    alone = [one.id for one in found if one.encounter_id is None]
    if encounter is None:
        taken = [one for id_ in media if (one := catalogue.get_media(session, id_).taken_at)]
        encounter = catalogue.ensure_encounter(
            session,
            catalogue_id=home.id,
            external_id=None,
            started_at=min(taken, default=None),
            ended_at=max(taken, default=None),
        )
    desk.join_encounter(session, alone, encounter)
    embed(session, [one.id for one in found])
    records.add_audit(
        session,
        actor.principal,
        "query.to_desk",
        f"query:{query_id}",
        {"annotations": [one.id for one in found], "encounter": str(encounter)},
    )
    return {"annotation_ids": [one.id for one in found], "encounter_id": str(encounter)}
