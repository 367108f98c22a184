"""The desk: encounters asked as one question, decided by people, and every decision taken back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal
from uuid import UUID

from sqlalchemy.orm import Session, sessionmaker

from db.queries.changes import Actor
from db.queries.filters import SearchFilters
from db.queries.paging import Page
from db.queries.queues import QueueFilters, Sort
from indexer.desk_answers import (
    Decided,
    Decision,
    DeskCandidate,
    DeskQuery,
    Fuse,
    QueueCount,
    QueueItem,
    QueueName,
    ReservedName,
    SavedView,
)
from indexer.identify import Identifier
from indexer.media import MediaStore
from models.preprocess import DecodeLimits

NO_FILTERS = SearchFilters()
NO_QUEUE_FILTERS = QueueFilters()


@dataclass(frozen=True, slots=True)
class DeskPolicy:
    """What the operator decided. `rejected_pairs`: candidates that somebody rejected come last, or
    not at all. Votes agree when `votes_min` are given and `votes_share` of them say the same.
    `gate_sample` is the share of the gate's rejections that people are asked to check."""

    k: int = 10
    rejected_pairs: Literal["last", "hide"] = "last"
    votes_min: int = 2
    votes_share: float = 0.667
    gate_sample: float = 1.0
    limits: DecodeLimits = field(default_factory=DecodeLimits)


class Desk:
    """Asks, shows, decides and takes back. Thread-safe.

    What only reads goes through the caller's session; what writes is a transaction of its own.
    """

    def __init__(
        self,
        *,
        sessions: sessionmaker[Session],
        store: MediaStore,
        identifier: Callable[[], Identifier],
        policy: DeskPolicy,
    ) -> None:
        """`identifier` gives what answers now."""
        self._sessions = sessions
        self._store = store
        self._identifier = identifier
        self._policy = policy

    # ------------------------------------------------------------ asking

    def ask(
        self,
        annotation_ids: Sequence[int] = (),
        *,
        encounter_id: UUID | None = None,
        k: int | None = None,
        filters: SearchFilters = NO_FILTERS,
        fuse: Fuse = "max",
        wanted_votes: int = 1,
        actor: Actor,
        idempotency_key: str | None = None,
    ) -> UUID:
        """Ask about annotations of the catalogue, or all of an encounter, as one question; the id
        of the query, which waits on the desk.

        Raises:
            NotFound: an annotation or the encounter does not exist; `vector_missing`.
            Invalid: neither annotations nor an encounter, or an encounter without photos.
            SearchUnavailable, SearchTimeout, Busy: nothing is stored.
        """
        raise NotImplementedError

    def ask_of_query(
        self,
        query_id: UUID,
        *,
        wanted_votes: int = 1,
        actor: Actor,
        idempotency_key: str | None = None,
    ) -> UUID:
        """Bring the photos of a stored identification to the desk: they become annotations (the
        whole photo) of an encounter, and that is asked about; the id of the new query."""
        raise NotImplementedError

    # ------------------------------------------------------------ reading

    def read(self, session: Session, query_id: UUID, *, actor: Actor) -> DeskQuery:
        """One query of the desk, as this person may see it now.

        Raises:
            NotFound: `query_unknown`; it is not one of the desk.
        """
        raise NotImplementedError

    def candidate(
        self, session: Session, query_id: UUID, individual_id: UUID, *, limit: int = 60
    ) -> DeskCandidate:
        """An individual beside the query: its photos closest first, `limit` at most.

        Raises:
            NotFound: there is no such query or individual.
        """
        raise NotImplementedError

    def queues(self, session: Session, *, actor: Actor) -> tuple[QueueCount, ...]:
        """How many queries wait in each queue for this person."""
        raise NotImplementedError

    def queue(
        self,
        session: Session,
        name: QueueName,
        *,
        filters: QueueFilters = NO_QUEUE_FILTERS,
        sort: Sort | None = None,
        limit: int = 50,
        cursor: str | None = None,
        after: UUID | None = None,
        actor: Actor,
    ) -> Page[QueueItem]:
        """One queue, a page at a time. `after` gives what follows that query in this order, whether
        or not it still is in the queue; `sort` None is the queue's own order.

        Raises:
            NotFound: `queue_unknown`; `after` names no query.
            Invalid: `cursor_invalid`.
        """
        raise NotImplementedError

    # ------------------------------------------------------------ deciding

    def decide(
        self, decision: Decision, *, actor: Actor, idempotency_key: str | None = None
    ) -> Decided:
        """Carry out what a person says, whole or not at all.

        Raises:
            NotFound: the query, the individual or the taxon does not exist.
            Conflict: `query_moved_on`: somebody decided meanwhile, `values["present"]` says what;
                `query_decided`: the decision that stands has to be undone first; `vote_given`;
                `pair_rejected`: without `confirm_rejected`; `annotation_named`: a photo shows
                another individual already; `individual_name_taken`, `name_reserved`;
                `idempotency_key_reused`.
            Invalid: the verdict lacks an individual or a reason, or names a photo of another query.
        """
        raise NotImplementedError

    def undo(
        self,
        decision_id: UUID,
        *,
        version: int | None = None,
        actor: Actor,
        idempotency_key: str | None = None,
    ) -> Decided:
        """Take a decision back with all it changed; the query is what it was without it.

        Raises:
            NotFound: `decision_unknown`.
            Conflict: `decision_undone`; `change_superseded` with `blocking_id`; `query_moved_on`.
        """
        raise NotImplementedError

    # ------------------------------------------------------------ names and views

    def next_name(
        self, *, catalogue: str | None = None, taxon: str | None = None, actor: Actor
    ) -> ReservedName:
        """The next free name of the catalogue's sequence, kept for this person for 15 minutes.

        Raises:
            NotFound: no such catalogue or taxon.
        """
        raise NotImplementedError

    def release_name(self, name: str, *, catalogue: str | None = None, actor: Actor) -> None:
        """Give a reserved name back.

        Raises:
            NotFound: this person has not reserved it.
        """
        raise NotImplementedError

    def views(self, session: Session, *, page: str | None = None, actor: Actor) -> list[SavedView]:
        """This person's saved views, by name."""
        raise NotImplementedError

    def save_view(self, *, page: str, name: str, params: str, actor: Actor) -> SavedView:
        """Keep filters and order under a name; the same name on the same page is replaced.

        Raises:
            Invalid: the name is blank.
        """
        raise NotImplementedError

    def drop_view(self, view_id: int, *, actor: Actor) -> None:
        """Raises:
        NotFound: this person has no such view.
        """
        raise NotImplementedError
