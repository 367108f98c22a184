"""Owns what people do with encounters and annotations: photos given, boxes drawn, facts corrected.

Each call is one transaction. Photos are stored and embedded in it, so that a search finds them at
once; a region that was corrected loses its old vector and gets the new one in it. What is edited is
written through the journal, and can be undone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, Literal
from uuid import UUID

from sqlalchemy.orm import Session, sessionmaker

from db.queries import encounters as rows
from db.queries.changes import Actor
from db.queries.encounters import EncounterFilters
from db.queries.media import BoxPx
from db.queries.paging import Page
from indexer.encounter_answers import (
    AnnotationOut,
    AskedQuery,
    Cover,
    Dropped,
    EncounterItem,
    EncounterMade,
    EncounterOut,
    EncounterView,
    annotation_out,
    encounter_out,
    seen_out,
)
from indexer.filling import Filler
from indexer.identify import PhotoIn
from indexer.media import MediaStore
from models.preprocess import DecodeLimits

GAP: Final = timedelta(minutes=10)
"""Photos further apart than this are of two encounters."""

Ask = Callable[[Sequence[int], UUID, Actor], UUID]
"""Asks about annotations of an encounter as one question of the desk; the id of the query."""


@dataclass(frozen=True, slots=True)
class NewEncounter:
    """What is known of the encounter that photos belong to; what is None is taken from the photos'
    headers where they tell it. `viewpoints` and `body_parts` are one for all photos or one for
    each; `taxon` any of a taxon's names; `catalogue` None is the default one."""

    place: str | None = None
    latitude: float | None = None
    longitude: float | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    observer: str | None = None
    notes: str | None = None
    taxon: str | None = None
    viewpoints: tuple[str, ...] = ()
    body_parts: tuple[str, ...] = ()
    catalogue: str | None = None


@dataclass(frozen=True, slots=True)
class NewRegion:
    """A region to be annotated on a photo that is stored; `box_px` None is the whole photo. Without
    `encounter_id` it belongs to the encounter of the photo's other regions, if they have one."""

    media_id: int
    box_px: BoxPx | None
    encounter_id: UUID | None = None
    viewpoint: str | None = None
    body_part: str | None = None
    taxon: str | None = None


EncounterField = Literal[
    "place", "latitude", "longitude", "started_at", "ended_at", "observer", "notes"
]
AnnotationField = Literal[
    "box_px", "viewpoint", "body_part", "encounter_id", "is_reference", "matchable"
]


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
        raise NotImplementedError

    def add_photos(
        self,
        encounter_id: UUID,
        photos: Sequence[PhotoIn],
        *,
        viewpoints: Sequence[str] = (),
        body_parts: Sequence[str] = (),
        taxon: str | None = None,
        ask: bool = True,
        actor: Actor,
        idempotency_key: str | None = None,
    ) -> EncounterMade:
        """More photos of an encounter; the new ones are asked about, as one question.

        Raises:
            NotFound: no such encounter. Otherwise as `create`.
        """
        raise NotImplementedError

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

        `continues` are encounters of photos sent before: who is within `gap` of one joins it. Each
        encounter is a transaction of its own; sent again, what is stored is recognised.

        Raises:
            As `create`.
        """
        raise NotImplementedError

    # ------------------------------------------------------------ reading

    def read(self, session: Session, encounter_id: UUID) -> EncounterView:
        """Raises:
        NotFound: no such encounter.
        """
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

    def list(
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

    def read_annotation(self, session: Session, annotation_id: int) -> AnnotationOut:
        """Raises:
        NotFound: no such annotation.
        """
        return annotation_out(rows.get_shown(session, annotation_id))

    # ------------------------------------------------------------ correcting

    def edit(
        self,
        encounter_id: UUID,
        fields: Mapping[EncounterField, Any],
        *,
        if_match: str | None = None,
        actor: Actor,
    ) -> EncounterOut:
        """The encounter with these fields changed, the others as they were.

        Raises:
            NotFound: no such encounter.
            Conflict: `changed_meanwhile`: it is no longer what `if_match` names.
            Invalid: the times or the position are impossible, or half a position.
        """
        raise NotImplementedError

    def edit_annotation(
        self,
        annotation_id: int,
        fields: Mapping[AnnotationField, Any],
        *,
        if_match: str | None = None,
        actor: Actor,
    ) -> AnnotationOut:
        """This one annotation with these fields changed. With another box it is embedded again:
        its old vector never answers from then on, and the next search finds the new one.

        Raises:
            NotFound: no such annotation or encounter.
            Conflict: `changed_meanwhile`; `annotation_exists`: the photo has this region already.
            Invalid: the box is not inside the photo, or the encounter is of another catalogue.
            Busy: the inference queue is full; nothing is changed.
        """
        raise NotImplementedError

    def draw(
        self, new: NewRegion, *, actor: Actor, idempotency_key: str | None = None
    ) -> AnnotationOut:
        """Annotate a region of a stored photo; it is embedded at once.

        Raises:
            NotFound: no such photo or encounter.
            Conflict: `annotation_exists`: the photo has this region already.
            Invalid, Busy: as `edit_annotation`.
        """
        raise NotImplementedError
