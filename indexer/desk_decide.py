"""Owns decisions: what each verdict does, votes and their consensus, and taking back.

A query is locked while it is decided, and whoever decides names the version that they saw: of many
at once one wins. What changes the catalogue goes through the journal, and an undo through it back.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Final, NoReturn, cast
from uuid import UUID, uuid4

from sqlalchemy.orm import Session, sessionmaker

from db.errors import Conflict, Invalid
from db.queries import catalogue, changes, desk, names, records, reviews
from db.queries import identity as identities
from db.queries.changes import Actor, Journal
from db.queries.desk import DeskQueryRow, PhotoRow
from db.queries.reviews import Circumstances, DecisionRow, Shown, Word
from db.types import QueryState, Verdict
from indexer.answers import IndividualRef
from indexer.desk_answers import Decided, Decision, DeskMatch, Json, QueryNow, Saying
from indexer.desk_read import (
    my_vote,
    shown_candidates,
    standing_votes,
    told_individual,
)
from indexer.identity import assign, new_individual
from indexer.once import Asked, once
from indexer.outcomes import Counts
from indexer.rejections import RejectedPairs

LEADS_TO: Final = {
    Verdict.SAME: QueryState.SAME,
    Verdict.NEW: QueryState.NEW,
    Verdict.NONE: QueryState.NO_MATCH,
    Verdict.UNSURE: QueryState.UNSURE,
    Verdict.NOT_USABLE: QueryState.NOT_USABLE,
}
"""Where a verdict leaves a query. `different` leaves it as it is, `usable` overrules the gate."""
CLOSED: Final = frozenset({QueryState.SAME, QueryState.NEW, QueryState.NOT_USABLE})
"""Nothing is decided on top of these: they are undone first."""


@dataclass(frozen=True, slots=True)
class VotePolicy:
    """Opinions agree when `least` are given and `share` of them say the same, to three digits."""

    least: int = 2
    share: float = 0.667


@dataclass(frozen=True, slots=True)
class _Case:
    """One decision under way, with the query locked."""

    session: Session
    actor: Actor
    said: Decision
    query: DeskQueryRow
    decisions: tuple[DecisionRow, ...]
    photos: tuple[PhotoRow, ...]
    shown: tuple[DeskMatch, ...]
    decision_id: UUID

    @property
    def verdict(self) -> Verdict:
        return Verdict(self.said.verdict)

    @property
    def annotation_ids(self) -> list[int]:
        return [one.annotation_id for one in self.photos if one.annotation_id is not None]

    def record(self, words: Sequence[Word], *, is_vote: bool = False) -> None:
        receipt = self.query.answer["receipt"] or {}
        reviews.add_decision(
            self.session,
            decision_id=self.decision_id,
            query_id=self.query.id,
            annotation_ids=self.annotation_ids,
            words=words,
            actor=self.actor,
            circumstances=Circumstances(
                receipt.get("fingerprint"), receipt.get("snapshot"), receipt.get("filters")
            ),
            reason=self.said.reason,
            note=self.said.note,
            is_vote=is_vote,
        )

    def word(self, verdict: Verdict, individual_id: UUID | None = None) -> Word:
        """A verdict with the pair as it was on the screen."""
        match = next((one for one in self.shown if one.individual.id == str(individual_id)), None)
        said = self.said
        if individual_id is None or individual_id != said.individual_id:
            if match is None:
                return Word(verdict, individual_id)
            return Word(
                verdict, individual_id, Shown(match.rank, match.score, int(match.annotation_id))
            )
        return Word(
            verdict,
            individual_id,
            Shown(
                said.rank or (match.rank if match else None),
                match.score if match else None,
                said.match_annotation_id or (int(match.annotation_id) if match else None),
            ),
        )


@dataclass(frozen=True, slots=True)
class _Effect:
    """What a verdict does: the words to keep, and how the catalogue changes, if it does."""

    words: tuple[Word, ...]
    individual: IndividualRef | None = None
    journal: Journal | None = None


class Decider:
    """Decides and takes back, each in one transaction. Thread-safe."""

    def __init__(
        self,
        sessions: sessionmaker[Session],
        *,
        rejected_pairs: RejectedPairs,
        votes: VotePolicy,
    ) -> None:
        self._sessions = sessions
        self._rejected_pairs = rejected_pairs
        self._votes = votes

    def decide(self, said: Decision, *, actor: Actor, idempotency_key: str | None) -> Decided:
        """Raises: as `Desk.decide`."""
        asked = Asked.of(actor.principal, idempotency_key, "review", asdict(said))
        answer, replayed = once(
            self._sessions, asked, lambda session: self._decide(session, said, actor).as_json()
        )
        return Decided.from_json(answer, replayed=replayed)

    def undo(
        self,
        decision_id: UUID,
        *,
        version: int | None,
        actor: Actor,
        idempotency_key: str | None,
    ) -> Decided:
        """Raises: as `Desk.undo`."""
        fields = {"decision": decision_id, "version": version}
        asked = Asked.of(actor.principal, idempotency_key, "review.undo", fields)
        answer, replayed = once(
            self._sessions,
            asked,
            lambda session: _undo(session, decision_id, version, actor).as_json(),
        )
        return Decided.from_json(answer, replayed=replayed)

    # ------------------------------------------------------------ deciding

    def _decide(self, session: Session, said: Decision, actor: Actor) -> Decided:
        case = self._case(session, said, actor)
        votes = case.query.state == QueryState.SECOND and case.verdict in LEADS_TO
        if case.query.version != said.version and not votes:
            # An opinion is given without the others, so that theirs do not make it stale.
            raise _moved_on(case.query, case.decisions, actor)
        if case.query.state in CLOSED:
            raise _decided_already(case.query, case.decisions, actor)
        _check(case)
        return self._vote(case) if votes else _carry_out(case)

    def _case(self, session: Session, said: Decision, actor: Actor) -> _Case:
        query = desk.get_desk_query(session, said.query_id, lock=True)
        photos = desk.photos_of_query(session, query.id)
        found = [] if query.withheld else desk.candidates_of(session, query.id, actor.principal)
        if said.individual_id is not None:
            said = replace(
                said, individual_id=catalogue.get_individual(session, said.individual_id).id
            )
        return _Case(
            session=session,
            actor=actor,
            said=said,
            query=query,
            decisions=tuple(reviews.decisions_on(session, query.id)),
            photos=_chosen(photos, said),
            shown=shown_candidates(
                found, k=query.k, calibrated=None, rejected_pairs=self._rejected_pairs
            ),
            decision_id=uuid4(),
        )

    def _vote(self, case: _Case) -> Decided:
        given = my_vote(case.decisions, case.actor.principal)
        if given is not None:
            raise Conflict(
                "vote_given",
                "You have given your opinion already; undo it to give another one.",
                decision_id=str(given.decision_id),
                present=_present(case.query, case.decisions, case.actor),
            )
        case.record(_words(case), is_vote=True)
        decisions = reviews.decisions_on(case.session, case.query.id)
        agreed = self._agreed(standing_votes(decisions), case.query.wanted_votes)
        if agreed is None:
            _audit(case)
            now = _write(case.session, case.query, decisions)
            return Decided(str(case.decision_id), now, None, None)
        carried = _carry_out(_by_consensus(case, agreed, standing_votes(decisions)))
        return replace(carried, decision_id=str(case.decision_id))

    def _agreed(self, votes: Sequence[DecisionRow], wanted: int) -> Sequence[DecisionRow] | None:
        """The votes that say the same, once there are enough of them."""
        if len(votes) < max(wanted, self._votes.least):
            return None
        (most, count), *_ = Counter(map(_opinion, votes)).most_common(1)
        if round(count / len(votes), 3) < self._votes.share:
            return None
        return [one for one in votes if _opinion(one) == most]


def _opinion(vote: DecisionRow) -> tuple[Verdict, UUID | None]:
    """What makes two votes the same."""
    return vote.verdict, vote.individual_id if vote.verdict == Verdict.SAME else None


def _by_consensus(
    case: _Case, agreed: Sequence[DecisionRow], votes: Sequence[DecisionRow]
) -> _Case:
    """What the votes that agree say together, as a decision of whoever gave the last one."""
    last = agreed[-1]
    own = last.decision_id == case.decision_id
    said = replace(
        case.said,
        verdict=cast(Saying, last.verdict.value),
        individual_id=last.individual_id,
        rejected_individual_ids=tuple(dict.fromkeys(who for one in agreed for who in one.rejected)),
        name=case.said.name if own else None,
        taxon=case.said.taxon if own else None,
        reason=last.reason,
        note=f"{len(agreed)} of {len(votes)} opinions agree.",
        rank=case.said.rank if own else None,
        match_annotation_id=case.said.match_annotation_id if own else None,
        confirm_rejected=True,
    )
    return replace(case, said=said, decision_id=uuid4())


def _chosen(photos: Sequence[PhotoRow], said: Decision) -> tuple[PhotoRow, ...]:
    """The photos that the verdict is on: those named, or all that still are annotations."""
    there = {one.annotation_id: one for one in photos if one.annotation_id is not None}
    for annotation_id in said.annotation_ids:
        if annotation_id not in there:
            raise Invalid(
                "annotation_not_asked",
                f"Annotation {annotation_id} is not one of this query's; name its own, or none "
                "for all of them.",
                annotation_id=annotation_id,
            )
    if not there:
        raise Invalid(
            "annotations_gone", "The regions that were asked about were deleted; ask again."
        )
    return tuple(
        one for id_, one in there.items() if not said.annotation_ids or id_ in said.annotation_ids
    )


def _check(case: _Case) -> None:
    """What a verdict has to name, and what speaks against it."""
    said = case.said
    if case.verdict in (Verdict.SAME, Verdict.DIFFERENT) and said.individual_id is None:
        raise Invalid(
            "review_needs_individual",
            "The verdicts `same` and `different` name the individual they speak of.",
        )
    if case.verdict == Verdict.NOT_USABLE and said.reason is None:
        raise Invalid("reason_missing", "Say why the photo cannot be used: give a `reason`.")
    if case.verdict == Verdict.SAME and said.individual_id is not None:
        _check_rejected(case, said.individual_id)
        _check_named(case, said.individual_id)
    if case.verdict == Verdict.NEW:
        _check_named(case, None)


def _check_rejected(case: _Case, individual_id: UUID) -> None:
    if case.said.confirm_rejected:
        return
    if individual_id not in desk.rejected_for(case.session, case.annotation_ids):
        return
    raise Conflict(
        "pair_rejected",
        "Somebody said that this is another animal; undo that, or say `same` with "
        "`confirm_rejected`.",
        individual_id=str(individual_id),
        present=_present(case.query, case.decisions, case.actor),
    )


def _check_named(case: _Case, individual_id: UUID | None) -> None:
    """A photo that shows somebody is not given to another here."""
    shown = identities.lock_annotations(case.session, case.annotation_ids)
    for annotation_id, who in shown.items():
        if who is not None and who != individual_id:
            name = catalogue.get_individual(case.session, who).name
            raise Conflict(
                "annotation_named",
                f"Annotation {annotation_id} shows {name} already; a curator can reassign it, or "
                "decide on the other photos alone.",
                annotation_id=annotation_id,
                individual_id=str(who),
                present=_present(case.query, case.decisions, case.actor),
            )


# ---------------------------------------------------------------- what a verdict does


def _carry_out(case: _Case) -> Decided:
    effect = _effect(case)
    case.record(effect.words)
    now = _write(case.session, case.query, reviews.decisions_on(case.session, case.query.id))
    change_id = None
    # Last, because others who change identities wait from here on.
    if effect.journal is not None and effect.journal.images:
        change = effect.journal.close(
            case.actor,
            f"review.{case.verdict}",
            _detail(case, effect.individual),
            decision_id=case.decision_id,
        )
        change_id = change.id
    else:
        _audit(case)
    return Decided(str(case.decision_id), now, effect.individual, change_id)


def _effect(case: _Case) -> _Effect:
    if case.verdict == Verdict.SAME and case.said.individual_id is not None:
        journal = Journal(case.session)
        assign(case.session, journal, case.annotation_ids, case.said.individual_id)
        who = told_individual(case.session, case.said.individual_id)
        return _Effect(_words(case), who, journal)
    if case.verdict == Verdict.NEW:
        return _made(case)
    if case.verdict == Verdict.NOT_USABLE:
        journal = Journal(case.session)
        journal.update_many("annotation", case.annotation_ids, {"matchable": False})
        return _Effect(_words(case), None, journal)
    return _Effect(_words(case))


def _made(case: _Case) -> _Effect:
    """A new individual of these photos, with the next free name where none is given."""
    said, first = case.said, case.photos[0]
    if first.catalogue_id is None:
        raise AssertionError
    taxon_id = next((one.taxon_id for one in case.photos if one.taxon_id is not None), None)
    if said.taxon is not None:
        taxon_id = catalogue.ensure_taxon(case.session, said.taxon)
    name = said.name
    if name is None:
        name = names.reserve_next(
            case.session, first.catalogue_id, taxon_id, case.actor.principal
        ).name
    journal = Journal(case.session)
    made = new_individual(
        case.session,
        journal,
        case.actor,
        catalogue_id=first.catalogue_id,
        name=name,
        taxon_id=taxon_id,
    )
    assign(case.session, journal, case.annotation_ids, made.id)
    who = IndividualRef(str(made.id), made.name, made.taxon)
    return _Effect((case.word(Verdict.NEW, made.id), *_rejections(case)), who, journal)


def _words(case: _Case) -> tuple[Word, ...]:
    verdict, said = case.verdict, case.said
    if verdict in (Verdict.SAME, Verdict.DIFFERENT):
        others = _rejections(case) if verdict == Verdict.SAME else ()
        return (case.word(verdict, said.individual_id), *others)
    if verdict in (Verdict.NEW, Verdict.NONE):
        return (Word(verdict), *_rejections(case))
    if verdict == Verdict.UNSURE and said.individual_id is not None:
        return (case.word(verdict, said.individual_id),)
    return (Word(verdict),)


def _rejections(case: _Case) -> tuple[Word, ...]:
    """`different` of those named, or for `none` of everybody shown."""
    individuals = [
        catalogue.get_individual(case.session, one).id for one in case.said.rejected_individual_ids
    ]
    if case.verdict == Verdict.NONE and not individuals:
        individuals = [UUID(one.individual.id) for one in case.shown if one.individual.id]
    return tuple(
        case.word(Verdict.DIFFERENT, one)
        for one in dict.fromkeys(individuals)
        if one != case.said.individual_id
    )


def _detail(case: _Case, individual: IndividualRef | None) -> Json:
    extent = identities.extent_of(case.session, case.annotation_ids)
    return {
        "individual": {"id": individual.id, "name": individual.name} if individual else None,
        "query_id": str(case.query.id),
        "reason": case.said.reason and str(case.said.reason),
        "counts": asdict(Counts(**asdict(extent), names=int(case.verdict == Verdict.NEW))),
    }


def _audit(case: _Case) -> None:
    records.add_audit(
        case.session,
        case.actor.principal,
        f"review.{case.verdict}",
        f"query:{case.query.id}",
        {
            "decision_id": str(case.decision_id),
            "individual_id": case.said.individual_id and str(case.said.individual_id),
        },
    )


# ---------------------------------------------------------------- what a query is


def _write(session: Session, query: DeskQueryRow, decisions: Sequence[DecisionRow]) -> QueryNow:
    """The query as its decisions that stand leave it, at a new version."""
    state = QueryState.OPEN if query.wanted_votes == 1 else QueryState.SECOND
    overruled = False
    for one in decisions:
        if not one.is_vote and one.undone_by is None:
            state = LEADS_TO.get(one.verdict, state)
            overruled = overruled or one.verdict == Verdict.USABLE
    version = desk.write_state(session, query.id, state, gate_overruled=overruled)
    return QueryNow(str(query.id), str(state), version)


def _present(query: DeskQueryRow, decisions: Sequence[DecisionRow], actor: Actor) -> Json:
    """What a query is now, and who made it so; opinions of others only after one's own."""
    standing = [one for one in decisions if not one.is_vote and one.undone_by is None]
    return {
        "id": str(query.id),
        "state": str(query.state),
        "version": query.version,
        "decided": _told(standing[-1]) if standing else None,
        "votes": len(standing_votes(decisions)),
        "voted": my_vote(decisions, actor.principal) is not None,
    }


def _told(one: DecisionRow) -> Json:
    return {
        "decision_id": str(one.decision_id),
        "verdict": str(one.verdict),
        "individual": one.individual_id
        and {
            "id": str(one.individual_id),
            "name": one.individual_name,
            "taxon": one.individual_taxon,
        },
        "reviewer": one.reviewer,
        "at": one.at.isoformat(),
    }


def _moved_on(query: DeskQueryRow, decisions: Sequence[DecisionRow], actor: Actor) -> Conflict:
    present = _present(query, decisions, actor)
    by = present["decided"]
    who = f" by {by['reviewer']} ({by['verdict']})" if by else ""
    return Conflict(
        "query_moved_on",
        f"This query was decided{who} while you looked at it; see what it is now.",
        present=present,
    )


def _decided_already(
    query: DeskQueryRow, decisions: Sequence[DecisionRow], actor: Actor
) -> Conflict:
    present = _present(query, decisions, actor)
    by = present["decided"]
    return Conflict(
        "query_decided",
        f"{by['reviewer']} has decided this query ({by['verdict']}); undo that first.",
        present=present,
        decision_id=by["decision_id"],
    )


# ---------------------------------------------------------------- taking back


def _undo(session: Session, decision_id: UUID, version: int | None, actor: Actor) -> Decided:
    found = reviews.get_decision(session, decision_id)
    if found.verdict == Verdict.UNDO:
        raise Invalid("undo_is_final", "An undo is not taken back; decide the query again instead.")
    query, decisions = None, []
    if found.query_id is not None:
        query = desk.get_desk_query(session, found.query_id, lock=True)
        decisions = reviews.decisions_on(session, query.id)
        found = next(one for one in decisions if one.decision_id == decision_id)
        _check_undo(found, query, decisions, version, actor)
    elif found.undone_by is not None:
        _undone_already(found, None)
    undo_id = uuid4()
    reviews.add_undo(
        session, decision_id=undo_id, query_id=found.query_id, undoes=decision_id, actor=actor
    )
    now = None
    if query is not None:
        now = _write(session, query, reviews.decisions_on(session, query.id))
    change_id = None
    for change in reversed(changes.changes_of_decision(session, decision_id)):
        change_id = changes.undo(session, change.id, actor).id
    if change_id is None:
        subject = f"query:{found.query_id}" if found.query_id else f"decision:{decision_id}"
        records.add_audit(
            session, actor.principal, "review.undo", subject, {"decision_id": str(decision_id)}
        )
    return Decided(str(undo_id), now, None, change_id)


def _check_undo(
    found: DecisionRow,
    query: DeskQueryRow,
    decisions: Sequence[DecisionRow],
    version: int | None,
    actor: Actor,
) -> None:
    if found.undone_by is not None:
        _undone_already(found, _present(query, decisions, actor))
    if version is not None and version != query.version:
        raise _moved_on(query, decisions, actor)
    if not found.is_vote:
        return
    settled = [
        one
        for one in decisions
        if not one.is_vote and one.undone_by is None and one.verdict in LEADS_TO
    ]
    if settled:
        raise Conflict(
            "decision_superseded",
            "The opinions have led to a decision; undo that one first.",
            blocking_id=str(settled[-1].decision_id),
            present=_present(query, decisions, actor),
        )


def _undone_already(found: DecisionRow, present: Json | None) -> NoReturn:
    raise Conflict(
        "decision_undone",
        f"{found.undone_by} has taken this decision back already.",
        by=found.undone_by,
        present=present,
    )
