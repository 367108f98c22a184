"""The desk: encounters asked as one question, decided by people, and every decision taken back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from uuid import UUID

from sqlalchemy.orm import Session, sessionmaker

from db.errors import NotFound
from db.queries import catalogue as rows
from db.queries import names, queues
from db.queries.catalogue import CatalogueRow
from db.queries.changes import Actor
from db.queries.filters import SearchFilters
from db.queries.names import ViewRow
from db.queries.paging import Page
from db.queries.queues import QueueFilters, Sort
from db.queries.taxa import find_taxon
from indexer.desk_answers import (
    QUEUES,
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
from indexer.desk_ask import Asker, Question
from indexer.desk_decide import Decider, VotePolicy
from indexer.desk_read import queue_item, read_candidate, read_query
from indexer.filling import Filler
from indexer.identify import Identifier
from indexer.media import MediaStore
from indexer.rejections import RejectedPairs
from models.preprocess import DecodeLimits

NO_FILTERS = SearchFilters()
NO_QUEUE_FILTERS = QueueFilters()


@dataclass(frozen=True, slots=True)
class DeskPolicy:
    """What the operator decided. `rejected_pairs`: candidates that somebody rejected come last, or
    not at all. Votes agree when `votes_min` are given and `votes_share` of them say the same.
    `gate_sample` is the share of the gate's rejections that people are asked to check."""

    k: int = 10
    rejected_pairs: RejectedPairs = "last"
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
        filler: Filler,
        policy: DeskPolicy,
    ) -> None:
        """`identifier` gives what answers now; `filler` embeds photos that come to the desk."""
        self._sessions = sessions
        self._policy = policy
        self._asker = Asker(
            sessions=sessions,
            store=store,
            identifier=identifier,
            filler=filler,
            limits=policy.limits,
        )
        self._decider = Decider(
            sessions,
            rejected_pairs=policy.rejected_pairs,
            votes=VotePolicy(policy.votes_min, policy.votes_share),
        )

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
        question = Question(
            tuple(annotation_ids),
            encounter_id,
            k or self._policy.k,
            filters,
            fuse,
            wanted_votes,
        )
        return self._asker.ask(question, actor=actor, idempotency_key=idempotency_key)

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
        return self._asker.ask_of_query(
            query_id,
            k=self._policy.k,
            wanted_votes=wanted_votes,
            actor=actor,
            key=idempotency_key,
        )

    # ------------------------------------------------------------ reading

    def read(self, session: Session, query_id: UUID, *, actor: Actor) -> DeskQuery:
        """One query of the desk, as this person may see it now.

        Raises:
            NotFound: `query_unknown`; it is not one of the desk.
        """
        return read_query(
            session,
            query_id,
            principal=actor.principal,
            rejected_pairs=self._policy.rejected_pairs,
        )

    def candidate(
        self, session: Session, query_id: UUID, individual_id: UUID, *, limit: int = 60
    ) -> DeskCandidate:
        """An individual beside the query: its photos closest first, `limit` at most.

        Raises:
            NotFound: there is no such query or individual.
        """
        return read_candidate(session, query_id, individual_id, limit=limit)

    def queues(self, session: Session, *, actor: Actor) -> tuple[QueueCount, ...]:
        """How many queries wait in each queue for this person."""
        counts = queues.count_queues(
            session, principal=actor.principal, gate_sample=self._policy.gate_sample
        )
        return tuple(QueueCount(name, counts[name]) for name in QUEUES)

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
        page = queues.list_queue(
            session,
            name,
            filters=filters,
            sort=sort,
            limit=limit,
            cursor=cursor,
            after=after,
            principal=actor.principal,
            gate_sample=self._policy.gate_sample,
        )
        return Page(tuple(queue_item(row) for row in page.items), page.next_cursor)

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
        return self._decider.decide(decision, actor=actor, idempotency_key=idempotency_key)

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
        return self._decider.undo(
            decision_id, version=version, actor=actor, idempotency_key=idempotency_key
        )

    # ------------------------------------------------------------ names and views

    def next_name(
        self, *, catalogue: str | None = None, taxon: str | None = None, actor: Actor
    ) -> ReservedName:
        """The next free name of the catalogue's sequence, kept for this person for 15 minutes.

        Raises:
            NotFound: no such catalogue.
        """
        with self._sessions.begin() as session:
            home = _catalogue(session, catalogue)
            taxon_id = find_taxon(session, taxon) if taxon else None
            reserved = names.reserve_next(session, home.id, taxon_id, actor.principal)
        return ReservedName(reserved.name, home.name, reserved.until.isoformat())

    def release_name(self, name: str, *, catalogue: str | None = None, actor: Actor) -> None:
        """Give a reserved name back.

        Raises:
            NotFound: this person has not reserved it.
        """
        with self._sessions.begin() as session:
            home = _catalogue(session, catalogue)
            names.release(session, home.id, name, actor.principal)

    def views(self, session: Session, *, page: str | None = None, actor: Actor) -> list[SavedView]:
        """This person's saved views, by name."""
        return [_view(row) for row in names.list_views(session, actor.principal, page)]

    def save_view(self, *, page: str, name: str, params: str, actor: Actor) -> SavedView:
        """Keep filters and order under a name; the same name on the same page is replaced.

        Raises:
            Invalid: the name is blank.
        """
        with self._sessions.begin() as session:
            return _view(names.put_view(session, actor.principal, page, name, params))

    def drop_view(self, view_id: int, *, actor: Actor) -> None:
        """Raises:
        NotFound: this person has no such view.
        """
        with self._sessions.begin() as session:
            names.delete_view(session, actor.principal, view_id)


def _catalogue(session: Session, name: str | None) -> CatalogueRow:
    if name is None:
        return rows.default_catalogue(session)
    found = rows.find_catalogue(session, name)
    if found is None:
        raise NotFound("catalogue_unknown", f"No catalogue is named {name!r}.", name=name)
    return found


def _view(row: ViewRow) -> SavedView:
    return SavedView(str(row.id), row.page, row.name, row.params)
