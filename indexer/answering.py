"""From rows and decisions to the parts of an answer; nothing here decides who it is."""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass, replace
from uuid import UUID

from sqlalchemy.orm import Session

from db.queries.catalogue import AnnotationRow, MediaRow
from db.queries.media import annotations_on
from indexer.answers import (
    DefaultAnswer,
    GateAnswer,
    IndividualRef,
    KnownPhoto,
    MatchAnswer,
    Notice,
    PhotoAnswer,
    PhotoError,
    SearchAnswer,
)
from indexer.calibrate import Calibrated
from indexer.ingest import PhotoProblem
from indexer.rejections import RejectedPairs, in_order
from indexer.search import SearchResult
from models.gate import GateDecision
from models.preprocess import Photo


@dataclass(frozen=True, slots=True, eq=False)
class SeenPhoto:
    """A photo of the request that could be read."""

    position: int
    name: str | None
    data: bytes
    photo: Photo


def gate_answer(decision: GateDecision) -> GateAnswer:
    return GateAnswer(
        decision.state, decision.score, decision.threshold, decision.model, decision.reason
    )


def encounter_gate(decisions: Sequence[GateDecision]) -> GateAnswer:
    """One photo of the animal is enough: the most favourable decision, then the highest score."""
    order = ("rejected", "abstained", "accepted")
    return gate_answer(
        max(decisions, key=lambda d: (order.index(d.state), d.score if d.score is not None else -1))
    )


def known_photo(session: Session, media: MediaRow) -> KnownPhoto | None:
    """The annotation that the catalogue has of these bytes; a named one before an unnamed one."""
    if media.created:
        return None
    annotations = annotations_on(session, media.id)
    if not annotations:
        return None
    return known_photo_of(min(annotations, key=lambda a: (a.individual_id is None, a.id)))


def known_photo_of(found: AnnotationRow) -> KnownPhoto:
    individual = (
        IndividualRef(str(found.individual_id), found.individual_name or "", found.taxon)
        if found.individual_id is not None
        else None
    )
    encounter = str(found.encounter_id) if found.encounter_id is not None else None
    return KnownPhoto(str(found.id), str(found.media_id), encounter, individual)


def searched(
    result: SearchResult, calibrated: Calibrated | None, rejected: Set[UUID] = frozenset()
) -> SearchAnswer:
    """What a search found, best first; `calibrated` is of the space that was searched, `rejected`
    whom the photos do not show, as somebody said."""
    matches = tuple(
        MatchAnswer(
            rank=hit.rank,
            individual=IndividualRef(str(hit.individual_id), hit.name, hit.taxon),
            score=hit.score,
            annotation_id=str(hit.annotation_id),
            media_id=str(hit.media_id),
            supporting=hit.supporting,
            probability=calibrated.p_same(hit.score) if calibrated else None,
            rejected=hit.individual_id in rejected,
        )
        for hit in result.hits
    )
    return SearchAnswer(matches, result.receipt)


def standing(found: SearchAnswer, k: int, rejected_pairs: RejectedPairs) -> SearchAnswer:
    """The matches that an answer shows (`in_order`)."""
    return replace(found, matches=in_order(found.matches, k, rejected_pairs))


def best_of(matches: Sequence[MatchAnswer]) -> MatchAnswer | None:
    """The best one that nobody rejected."""
    return next((match for match in matches if not match.rejected), None)


def agreement(default: DefaultAnswer, best: MatchAnswer | None) -> bool | None:
    """Whether head and retrieval name the same individual; None when either says nothing."""
    if default.individual is None or best is None:
        return None
    first = best.individual
    if default.individual.id is not None:
        return default.individual.id == first.id
    return default.individual.name.lower() == first.name.lower()


def photo_answers(
    seen: Sequence[SeenPhoto],
    gates: Sequence[GateDecision],
    media: Sequence[MediaRow],
    known: Sequence[KnownPhoto | None],
    problems: Sequence[PhotoProblem],
) -> tuple[PhotoAnswer, ...]:
    read = [
        PhotoAnswer(
            position=photo.position,
            name=photo.name,
            media_id=str(row.id),
            width_px=row.width_px,
            height_px=row.height_px,
            gate=gate_answer(gate),
            known=same,
            error=None,
        )
        for photo, gate, row, same in zip(seen, gates, media, known, strict=True)
    ]
    broken = [
        PhotoAnswer(
            position=problem.position,
            name=problem.name,
            media_id=None,
            width_px=None,
            height_px=None,
            gate=None,
            known=None,
            error=PhotoError(problem.code, problem.detail),
        )
        for problem in problems
    ]
    return tuple(sorted(read + broken, key=lambda photo: photo.position))


def skipped_notice(problems: Sequence[PhotoProblem]) -> tuple[Notice, ...]:
    if not problems:
        return ()
    count = len(problems)
    return (
        Notice(
            "photos_skipped",
            f"{count} of the photos could not be read and {'was' if count == 1 else 'were'} "
            "left out; see `photos`.",
        ),
    )
