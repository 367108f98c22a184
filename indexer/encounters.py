"""Owns what people do with encounters and annotations: photos given, boxes drawn, facts corrected.

Each call is one transaction. Photos are stored and embedded in it, so that a search finds them at
once; a region that was corrected loses its old vector and gets the new one in it. What is edited is
written through the journal, and can be undone.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

from sqlalchemy.orm import Session, sessionmaker

from db.errors import DbError
from db.queries import catalogue, records
from db.queries import encounters as rows
from db.queries.changes import Actor, Journal
from db.queries.encounters import EncounterFilters, EncounterRow
from db.queries.paging import Page
from indexer.answers import IndividualRef, Notice, PhotoError
from indexer.encounter_answers import (
    AnnotationEdited,
    AnnotationOut,
    AnnotationsEdited,
    AskedQuery,
    Cover,
    Dropped,
    EncounterEdited,
    EncounterItem,
    EncounterMade,
    EncounterView,
    GivenPhoto,
    annotation_out,
    encounter_out,
    seen_out,
)
from indexer.encounter_edits import (
    NewRegion,
    draw_region,
    edit_encounter,
    edit_many,
    edit_one,
)
from indexer.encounter_groups import Span, group_by_time, is_near
from indexer.encounter_photos import (
    NO_LABELS,
    Labels,
    NewEncounter,
    Placed,
    given_photo,
    known_rows,
    missing_facts,
    place,
    refused_photo,
    span_of_photos,
    told_by_photos,
)
from indexer.filling import Embed, Filler
from indexer.identify import GateUnavailable, NoPhotos, PhotoIn
from indexer.inference import Busy
from indexer.media import MediaError, MediaStore
from indexer.once import Asked, Json, once
from indexer.photos import PhotoProblem, PhotosRefused, ReadPhoto, read_photos
from indexer.search import SearchError
from models.preprocess import DecodeLimits

GAP: Final = timedelta(minutes=10)
"""Photos further apart than this are of two encounters."""

Ask = Callable[[Sequence[int], UUID, Actor, str], UUID]
"""Asks about annotations of an encounter as one question of the desk, once for the key given; the
id of the query."""

_NOT_ASKED = (SearchError, Busy, DbError, MediaError, GateUnavailable)
"""What asking may end with: the photos are stored, and the question can be asked later."""


class Encounters:
    """Makes, reads and edits encounters and annotations. Thread-safe.

    What only reads goes through the caller's session; what writes is a transaction of its own.
    """

    def __init__(
        self,
        *,
        sessions: sessionmaker[Session],
        store: MediaStore,
        filler: Filler,
        limits: DecodeLimits,
        ask: Ask | None = None,
    ) -> None:
        """`ask` brings photos to the desk; None: nothing is asked."""
        self._sessions = sessions
        self._store = store
        self._filler = filler
        self._limits = limits
        self._ask = ask

    # ------------------------------------------------------------ photos

    def create(
        self,
        new: NewEncounter,
        photos: Sequence[PhotoIn],
        *,
        ask: bool = True,
        actor: Actor,
        idempotency_key: str | None = None,
    ) -> EncounterMade:
        """One encounter of these photos, asked about as one question if `ask`.

        A photo that cannot be read is named in the answer, the others are stored. One that the
        catalogue has already is answered as it is there; it joins the encounter if it had none.
        With nothing new, no encounter is made, and the answer is where the photos are.

        Raises:
            NoPhotos: there is none. PhotosRefused: none can be read.
            Invalid: the times or the position are impossible, or the viewpoints do not fit.
            Conflict: `idempotency_key_reused`.
            Busy: the inference queue is full; nothing is stored.
        """
        read, refused = self._read(photos, new.labels)
        asked = _asked(actor, idempotency_key, "encounter", asdict(new), read)
        return self._create(new, read, refused, asked, ask=ask, actor=actor)

    def add_photos(
        self,
        encounter_id: UUID,
        photos: Sequence[PhotoIn],
        *,
        labels: Labels = NO_LABELS,
        ask: bool = True,
        actor: Actor,
        idempotency_key: str | None = None,
    ) -> EncounterMade:
        """More photos of an encounter; the new ones are asked about, as one question.

        Raises:
            NotFound: no such encounter. Otherwise as `create`.
        """
        read, refused = self._read(photos, labels)
        fields = {"encounter": encounter_id, **asdict(labels)}
        asked = _asked(actor, idempotency_key, "encounter photos", fields, read)
        return self._add(encounter_id, labels, read, refused, asked, ask=ask, actor=actor)

    def drop(
        self,
        new: NewEncounter,
        photos: Sequence[PhotoIn],
        *,
        gap: timedelta = GAP,
        together: bool = False,
        continues: Sequence[UUID] = (),
        ask: bool = True,
        actor: Actor,
        idempotency_key: str | None = None,
    ) -> Dropped:
        """Encounters of photos as they come off a camera: a new one begins where more than `gap`
        lies between two. Photos without a time are each alone, or with `together` one encounter.

        `continues` are encounters of photos sent before: who is within `gap` of one joins it, and
        with `together` those without a time join one that has none. Each encounter is a transaction
        of its own; sent again, what is stored is recognised.

        Raises:
            As `create`. NotFound: one of `continues` is none.
        """
        read, refused = self._read(photos, new.labels)
        with self._sessions() as session:
            earlier = {id_: _span(rows.get_encounter(session, id_)) for id_ in continues}
        made: list[EncounterMade] = []
        times = [photo.stored.taken_at for photo in read]
        for number, positions in enumerate(group_by_time(times, gap, together=together)):
            group = [read[position] for position in positions]
            key = idempotency_key and f"{idempotency_key} #{number}"
            asked = _asked(actor, key, "drop", {"gap": gap, **asdict(new)}, group)
            joined = _near(earlier, span_of_photos(group), gap, together=together)
            if joined is None:
                done = self._create(new, group, (), asked, ask=ask, actor=actor)
            else:
                done = self._add(joined, new.labels, group, (), asked, ask=ask, actor=actor)
            made.append(done)
        return Dropped(tuple(made), tuple(refused_photo(problem) for problem in refused))

    # ------------------------------------------------------------ reading

    def read(self, session: Session, encounter_id: UUID) -> EncounterView:
        """Raises:
        NotFound: no such encounter.
        """
        return read_encounter(session, encounter_id)

    def browse(
        self,
        session: Session,
        filters: EncounterFilters | None = None,
        *,
        newest_first: bool = True,
        limit: int = 50,
        cursor: str | None = None,
    ) -> Page[EncounterItem]:
        """Encounters by their start, a page at a time.

        Raises:
            Invalid: `cursor_invalid`.
        """
        return browse_encounters(
            session, filters, newest_first=newest_first, limit=limit, cursor=cursor
        )

    def read_annotation(self, session: Session, annotation_id: int) -> AnnotationOut:
        """Raises:
        NotFound: no such annotation.
        """
        return annotation_out(rows.get_shown(session, annotation_id))

    # ------------------------------------------------------------ correcting

    def edit(
        self,
        encounter_id: UUID,
        fields: Mapping[str, Any],
        *,
        if_match: str | None = None,
        actor: Actor,
    ) -> EncounterEdited:
        """The encounter with these fields (`OF_ENCOUNTERS`) changed, the others as they were.

        Raises:
            NotFound: no such encounter.
            Conflict: `changed_meanwhile`: it is no longer what `if_match` names.
            Invalid: the times or the position are impossible, or half a position.
        """
        with self._sessions.begin() as session:
            return edit_encounter(session, encounter_id, fields, if_match, actor)

    def edit_annotation(
        self,
        annotation_id: int,
        fields: Mapping[str, Any],
        *,
        if_match: str | None = None,
        actor: Actor,
    ) -> AnnotationEdited:
        """This one annotation with these fields (`OF_ANNOTATIONS`) changed. With another box it is
        embedded again: its old vector never answers from then on, the next search finds the new.

        Raises:
            NotFound: no such annotation or encounter.
            Conflict: `changed_meanwhile`; `annotation_exists`: the photo has this region already.
            Invalid: the box is not inside the photo, or the encounter is of another catalogue.
            Busy: the inference queue is full; nothing is changed.
        """

        def attempt(embed: Embed) -> AnnotationEdited:
            with self._sessions.begin() as session:
                return edit_one(session, embed, annotation_id, fields, if_match, actor)

        return self._filler.settled(attempt)

    def edit_annotations(
        self,
        annotation_ids: Sequence[int],
        fields: Mapping[str, Any],
        *,
        preview: bool = False,
        actor: Actor,
    ) -> AnnotationsEdited:
        """The same viewpoint, body part or encounter said of many annotations, as one change; with
        `preview` only counted.

        Raises:
            NotFound: an annotation or the encounter does not exist.
            Invalid: another field, or an encounter of another catalogue.
        """
        with self._sessions.begin() as session:
            return edit_many(session, annotation_ids, fields, actor, preview=preview)

    def draw(
        self, new: NewRegion, *, actor: Actor, idempotency_key: str | None = None
    ) -> AnnotationEdited:
        """Annotate a region of a stored photo; it is embedded at once.

        Raises:
            NotFound: no such photo or encounter.
            Conflict: `annotation_exists`: the photo has this region already.
            Invalid, Busy: as `edit_annotation`.
        """
        asked = _asked(actor, idempotency_key, "region", asdict(new), ())

        def work(session: Session, embed: Embed) -> Json:
            return draw_region(session, embed, new, actor).as_json()

        answer, _ = self._carry_out(asked, work)
        with self._sessions() as session:
            drawn = self.read_annotation(session, int(answer["annotation"]["annotation_id"]))
        notices = tuple(Notice(**notice) for notice in answer["notices"])
        return AnnotationEdited(drawn, answer["change_id"], notices)

    # ------------------------------------------------------------ within

    def _read(
        self, photos: Sequence[PhotoIn], labels: Labels
    ) -> tuple[list[ReadPhoto], list[PhotoProblem]]:
        if not photos:
            raise NoPhotos
        labels.check(len(photos))
        given = [(photo.name, photo.data) for photo in photos]
        read, refused = read_photos(given, self._limits)
        if not read:
            raise PhotosRefused(refused)
        return read, refused

    def _carry_out(self, asked: Asked, work: Callable[[Session, Embed], Json]) -> tuple[Json, bool]:
        def attempt(embed: Embed) -> tuple[Json, bool]:
            return once(self._sessions, asked, lambda session: work(session, embed))

        return self._filler.settled(attempt)

    def _create(
        self,
        new: NewEncounter,
        read: Sequence[ReadPhoto],
        refused: Sequence[PhotoProblem],
        asked: Asked,
        *,
        ask: bool,
        actor: Actor,
    ) -> EncounterMade:
        def work(session: Session, embed: Embed) -> Json:
            chosen = (
                catalogue.ensure_catalogue(session, new.catalogue)
                if new.catalogue
                else catalogue.default_catalogue(session)
            )
            known = known_rows(session, chosen.id, read)
            fresh = [
                photo
                for photo in read
                if (row := known.get(photo.stored.sha256)) is None or row.encounter_id is None
            ]
            made = (
                rows.add_encounter(session, catalogue_id=chosen.id, **told_by_photos(new, fresh))
                if fresh
                else None
            )
            there = [row.encounter_id for row in known.values() if row.encounter_id is not None]
            encounter = rows.get_encounter(session, made or there[0])
            journal = Journal(session)
            placed = place(session, self._store, journal, encounter, read, new.labels)
            if made is not None and rows.drop_empty_encounter(session, made):
                # Others stored the same photos meanwhile.
                made, there = None, [p.row.encounter_id for p in placed if p.row.encounter_id]
                encounter = rows.get_encounter(session, there[0])
            return self._placed(
                session, embed, journal, encounter, placed, refused, actor, made=made is not None
            )

        answer, replayed = self._carry_out(asked, work)
        return self._made(answer, replayed=replayed, ask=ask, actor=actor)

    def _add(
        self,
        encounter_id: UUID,
        labels: Labels,
        read: Sequence[ReadPhoto],
        refused: Sequence[PhotoProblem],
        asked: Asked,
        *,
        ask: bool,
        actor: Actor,
    ) -> EncounterMade:
        def work(session: Session, embed: Embed) -> Json:
            encounter = rows.get_encounter(session, encounter_id, lock=True)
            journal = Journal(session)
            placed = place(session, self._store, journal, encounter, read, labels)
            here = [one.photo for one in placed if one.row.encounter_id == encounter_id]
            journal.update("encounter", encounter_id, missing_facts(encounter, here, GAP))
            return self._placed(
                session, embed, journal, encounter, placed, refused, actor, made=False
            )

        answer, replayed = self._carry_out(asked, work)
        return self._made(answer, replayed=replayed, ask=ask, actor=actor)

    def _placed(
        self,
        session: Session,
        embed: Embed,
        journal: Journal,
        encounter: EncounterRow,
        placed: Sequence[Placed],
        refused: Sequence[PhotoProblem],
        actor: Actor,
        *,
        made: bool,
    ) -> Json:
        """Embeds, and only then writes the trail, whose other writers wait for this one."""
        embedded = embed(session, [one.row.id for one in placed])
        new = [one.row.id for one in placed if not one.known]
        if new:
            action = "encounter.create" if made else "encounter.photos"
            told = {"annotations": new, "place": encounter.place}
            records.add_audit(session, actor.principal, action, f"encounter:{encounter.id}", told)
        if journal.images:
            told = {"encounter_id": str(encounter.id), "place": encounter.place}
            journal.close(actor, "encounter.photos", told)
        photos = [given_photo(one, embedded.ids) for one in placed]
        photos += [refused_photo(problem) for problem in refused]
        return {
            "encounter_id": str(encounter.id),
            "created": made,
            "photos": [asdict(photo) for photo in sorted(photos, key=lambda one: one.position)],
            "notices": [asdict(notice) for notice in embedded.notices],
        }

    def _made(self, answer: Json, *, replayed: bool, ask: bool, actor: Actor) -> EncounterMade:
        encounter_id = UUID(answer["encounter_id"])
        photos = tuple(_given(photo) for photo in answer["photos"])
        notices = tuple(Notice(**notice) for notice in answer["notices"])
        query_id, told = self._question(encounter_id, photos, ask=ask, actor=actor)
        with self._sessions() as session:
            encounter = encounter_out(rows.get_encounter(session, encounter_id))
        return EncounterMade(
            encounter, answer["created"], photos, query_id, notices + told, replayed
        )

    def _question(
        self,
        encounter_id: UUID,
        photos: Sequence[GivenPhoto],
        *,
        ask: bool,
        actor: Actor,
    ) -> tuple[str | None, tuple[Notice, ...]]:
        """The query about those of the photos that show nobody known, asked if none was."""
        ids = [
            int(photo.annotation_id)
            for photo in photos
            if photo.annotation_id
            and photo.encounter_id == str(encounter_id)
            and photo.individual is None
        ]
        with self._sessions() as session:
            asked = rows.queries_about(session, ids)
        unasked = [id_ for id_ in ids if id_ not in asked]
        if not ask or not unasked or self._ask is None:
            latest = max(asked.values(), key=lambda one: one.created_at, default=None)
            return (str(latest.id) if latest else None), ()
        try:
            query_id = self._ask(unasked, encounter_id, actor, _key_of(encounter_id, unasked))
        except _NOT_ASKED as error:
            why = str(getattr(error, "detail", error))
            detail = f"The photos are stored, but nobody was asked who it is: {why}"
            return None, (Notice("not_asked", detail),)
        return str(query_id), ()


def read_encounter(session: Session, encounter_id: UUID) -> EncounterView:
    """As `Encounters.read`."""
    encounter = rows.get_encounter(session, encounter_id)
    return EncounterView(
        encounter=encounter_out(encounter),
        photos=tuple(annotation_out(row) for row in rows.shown_of(session, encounter_id)),
        individuals=tuple(seen_out(row) for row in rows.seen_together(session, [encounter_id])),
        queries=tuple(
            AskedQuery(str(row.id), row.state, row.created_at.isoformat())
            for row in rows.queries_of(session, encounter_id)
        ),
    )


def browse_encounters(
    session: Session,
    filters: EncounterFilters | None = None,
    *,
    newest_first: bool = True,
    limit: int = 50,
    cursor: str | None = None,
) -> Page[EncounterItem]:
    """As `Encounters.browse`."""
    page = rows.list_encounters(
        session, filters, newest_first=newest_first, limit=limit, cursor=cursor
    )
    items = tuple(
        EncounterItem(
            encounter=encounter_out(item.encounter),
            photo_count=item.photo_count,
            unnamed=item.unnamed,
            covers=tuple(Cover(str(a), str(m)) for a, m in item.covers),
            individuals=tuple(seen_out(row) for row in item.individuals),
        )
        for item in page.items
    )
    return Page(items, page.next_cursor)


def _asked(
    actor: Actor, key: str | None, kind: str, fields: Mapping[str, Any], photos: Sequence[ReadPhoto]
) -> Asked:
    return Asked.of(actor.principal, key, kind, fields, [photo.data for photo in photos])


def _key_of(encounter_id: UUID, annotation_ids: Sequence[int]) -> str:
    """Of two who give the same photos at once, one asks."""
    ids = hashlib.sha256(json.dumps(sorted(annotation_ids)).encode()).hexdigest()
    return f"encounter {encounter_id} {ids}"


def _given(told: Json) -> GivenPhoto:
    individual, error = told["individual"], told["error"]
    return GivenPhoto(
        **told
        | {
            "individual": individual and IndividualRef(**individual),
            "error": error and PhotoError(**error),
        }
    )


def _span(encounter: EncounterRow) -> Span | None:
    if encounter.started_at is None:
        return None
    return encounter.started_at, encounter.ended_at or encounter.started_at


def _near(
    earlier: Mapping[UUID, Span | None], span: Span | None, gap: timedelta, *, together: bool
) -> UUID | None:
    if span is None:
        return next((id_ for id_, one in earlier.items() if one is None and together), None)
    return next((id_ for id_, one in earlier.items() if one and is_near(one, span, gap)), None)
