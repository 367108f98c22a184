"""Owns what the desk shows: a query as one person may see it, a candidate beside it, the queues."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

import numpy as np
from sqlalchemy.orm import Session

from db.queries import catalogue, desk, embeddings, reviews
from db.queries.desk import CandidatePhotoRow, CandidateRow, DeskQueryRow, PhotoRow
from db.queries.queues import QueueRow
from db.queries.reviews import DecisionRow
from db.types import QueryState, Verdict
from indexer.answers import IndividualRef
from indexer.calibrate import Calibrated, calibration_of
from indexer.desk_answers import (
    CandidateEncounter,
    CandidateIndividual,
    CandidatePhoto,
    DeskCandidate,
    DeskEncounter,
    DeskMatch,
    DeskPhoto,
    DeskQuery,
    DeskReview,
    Json,
    PhotoEvidence,
    QueueBest,
    QueueItem,
    QueuePhoto,
    Votes,
    instant,
)
from indexer.rejections import RejectedPairs, in_order
from indexer.vector_index.protocol import exact_cosines, unit_rows
from indexer.viewpoints import applied_rules


def read_query(
    session: Session, query_id: UUID, *, principal: str, rejected_pairs: RejectedPairs
) -> DeskQuery:
    """Raises:
    NotFound: as `get_desk_query`.
    """
    row = desk.get_desk_query(session, query_id)
    answer = row.answer
    decisions = reviews.decisions_on(session, query_id)
    mine = my_vote(decisions, principal) is not None
    blind = row.state == QueryState.SECOND and not mine
    calibrated = calibration_of(session, row.model_id) if row.model_id is not None else None
    found = [] if row.withheld else desk.candidates_of(session, query_id, principal)
    # A mean over photos is not what the curves were fitted on.
    usable = calibrated if answer["fuse"] == "max" else None
    p_new = None
    if usable is not None and row.best_score is not None and not row.withheld:
        p_new = usable.p_new(row.best_score)
    return DeskQuery(
        id=str(row.id),
        state=str(row.state),
        version=row.version,
        created_at=row.created_at.isoformat(),
        asked_by=row.principal,
        fuse=answer["fuse"],
        filters=(answer["receipt"] or {}).get("filters", {}),
        encounter=_encounter(row),
        photos=tuple(
            _photo(photo, answer["photos"]) for photo in desk.photos_of_query(session, query_id)
        ),
        gate=answer["gate"],
        default_answer=answer["default_answer"],
        agreement=answer["agreement"],
        novelty=answer["novelty"],
        p_new=p_new,
        candidates=shown_candidates(
            found, k=row.k, calibrated=usable, rejected_pairs=rejected_pairs
        ),
        receipt=answer["receipt"],
        stronger_outside=answer["stronger_outside"],
        reviews=() if blind else tuple(_review(one, principal) for one in decisions),
        votes=Votes(row.wanted_votes, len(standing_votes(decisions)), mine),
        notices=tuple(answer["notices"]),
    )


def standing_votes(decisions: Sequence[DecisionRow]) -> list[DecisionRow]:
    """The opinions that count towards a consensus, oldest first."""
    return [
        one
        for one in decisions
        if one.is_vote and one.undone_by is None and one.verdict != Verdict.DIFFERENT
    ]


def my_vote(decisions: Sequence[DecisionRow], principal: str) -> DecisionRow | None:
    return next((one for one in standing_votes(decisions) if one.reviewer == principal), None)


def _encounter(row: DeskQueryRow | QueueRow) -> DeskEncounter | None:
    if row.encounter_id is None:
        return None
    return DeskEncounter(str(row.encounter_id), instant(row.started_at), row.place, row.observer)


def _photo(row: PhotoRow, answered: Sequence[Json]) -> DeskPhoto:
    gate = next((one["gate"] for one in answered if one["position"] == row.position), None)
    return DeskPhoto(
        position=row.position,
        annotation_id=_text(row.annotation_id),
        media_id=str(row.media_id),
        name=row.file_name,
        viewpoint=row.viewpoint,
        body_part=row.body_part,
        taken_at=instant(row.taken_at),
        photographer=row.photographer,
        width_px=row.width_px,
        height_px=row.height_px,
        box_px=row.box_px,
        individual_id=_text(row.individual_id),
        gate=gate["state"] if gate else None,
    )


def shown_candidates(
    rows: Sequence[CandidateRow],
    *,
    k: int,
    calibrated: Calibrated | None,
    rejected_pairs: RejectedPairs,
) -> tuple[DeskMatch, ...]:
    """The candidates as they are shown (`in_order`). Two that were merged since are one."""
    seen: dict[UUID, DeskMatch] = {}
    for row in rows:
        match = _match(row, calibrated)
        if match is not None:
            seen.setdefault(row.individual_id, match)
    return in_order(seen.values(), k, rejected_pairs)


def _match(row: CandidateRow, calibrated: Calibrated | None) -> DeskMatch | None:
    evidence = tuple(PhotoEvidence(**one) for one in row.evidence)
    media_id = _text(row.media_id) or next(
        (
            one.match_media_id
            for one in evidence
            if one.match_annotation_id == str(row.annotation_id)
        ),
        None,
    )
    if media_id is None:
        return None
    return DeskMatch(
        rank=row.rank,
        individual=IndividualRef(str(row.individual_id), row.name, row.taxon),
        score=row.score,
        probability=calibrated.p_same(row.score) if calibrated else None,
        rejected=row.rejected,
        supporting=row.supporting,
        annotation_id=str(row.annotation_id),
        media_id=media_id,
        viewpoint=row.viewpoint,
        evidence=evidence,
    )


def told_individual(session: Session, individual_id: UUID) -> IndividualRef:
    """The individual as answers name it; the one it was merged into, when it was.

    Raises:
        NotFound: `individual_unknown`.
    """
    row = catalogue.get_individual(session, individual_id)
    return IndividualRef(str(row.id), row.name, row.taxon)


def _review(row: DecisionRow, principal: str) -> DeskReview:
    individual = None
    if row.individual_id is not None:
        name = row.individual_name or str(row.individual_id)
        individual = IndividualRef(str(row.individual_id), name, row.individual_taxon)
    return DeskReview(
        decision_id=str(row.decision_id),
        verdict=str(row.verdict),
        individual=individual,
        reviewer=row.reviewer,
        at=row.at.isoformat(),
        note=row.note,
        reason=row.reason and str(row.reason),
        vote=row.is_vote,
        undone=row.undone_by is not None,
        mine=row.reviewer == principal,
    )


def _text(value: object) -> str | None:
    return None if value is None else str(value)


# ---------------------------------------------------------------- a candidate


def read_candidate(
    session: Session, query_id: UUID, individual_id: UUID, *, limit: int
) -> DeskCandidate:
    """Raises:
    NotFound: there is no such query or individual.
    """
    row = desk.get_desk_query(session, query_id)
    individual = catalogue.get_individual(session, individual_id)
    photos = desk.candidate_photos(session, individual.id, query_id)
    asked = [
        photo.annotation_id
        for photo in desk.photos_of_query(session, query_id)
        if photo.annotation_id is not None
    ]
    scores = _scores(session, row.model_id, asked, photos)
    closest = sorted(
        photos,
        key=lambda photo: (-scores.get(photo.annotation_id, -np.inf), photo.annotation_id),
    )
    return DeskCandidate(
        individual=CandidateIndividual(
            id=str(individual.id),
            name=individual.name,
            names=individual.names,
            taxon=individual.taxon,
            taxon_common=individual.taxon_common,
            sex=str(individual.sex),
            vitality=str(individual.vitality),
            life_stage=str(individual.life_stage),
        ),
        photos=tuple(
            _candidate_photo(photo, scores.get(photo.annotation_id)) for photo in closest[:limit]
        ),
        encounters=_encounters(photos, row.encounter_id),
    )


def _scores(
    session: Session,
    model_id: int | None,
    asked: Sequence[int],
    photos: Sequence[CandidatePhotoRow],
) -> dict[int, float]:
    """The best cosine of each photo with any of those asked about that it may be compared with, in
    the space of the query; or in the one that is searched now, where that was dropped."""
    spaces = {space.id: space for space in embeddings.list_spaces(session)}
    active = embeddings.active_space(session)
    if model_id not in spaces:
        model_id = active.id if active is not None else None
    if model_id is None or not photos or not asked:
        return {}
    asked_ids, asked_vectors = embeddings.vectors_of(session, model_id, asked)
    ids, vectors = embeddings.vectors_of(session, model_id, [one.annotation_id for one in photos])
    if not len(ids) or not len(asked_ids):
        return {}
    cosines = exact_cosines(unit_rows(vectors), unit_rows(asked_vectors))
    rules = applied_rules(session, asked_ids.tolist())
    shown = {one.annotation_id: (one.viewpoint or "").lower() for one in photos}
    sides = np.array([shown[id_] for id_ in ids.tolist()])
    for query, id_ in enumerate(asked_ids.tolist()):
        other = rules[id_].left_out
        if other is not None:
            cosines[sides == other, query] = -np.inf
    best = cosines.max(axis=1)
    return {
        id_: score
        for id_, score in zip(ids.tolist(), best.tolist(), strict=True)
        if score > -np.inf
    }


def _candidate_photo(row: CandidatePhotoRow, score: float | None) -> CandidatePhoto:
    return CandidatePhoto(
        annotation_id=str(row.annotation_id),
        media_id=str(row.media_id),
        score=score,
        viewpoint=row.viewpoint,
        body_part=row.body_part,
        is_reference=row.is_reference,
        name=row.name,
        taken_at=instant(row.taken_at or row.started_at),
        place=row.place,
        photographer=row.photographer,
        encounter_id=_text(row.encounter_id),
        width_px=row.width_px,
        height_px=row.height_px,
        box_px=row.box_px,
    )


def _encounters(
    photos: Sequence[CandidatePhotoRow], own: UUID | None
) -> tuple[CandidateEncounter, ...]:
    """Newest first, those without a date last; the query's own is not among them."""
    met: dict[UUID, list[CandidatePhotoRow]] = {}
    for photo in photos:
        if photo.encounter_id is not None and photo.encounter_id != own:
            met.setdefault(photo.encounter_id, []).append(photo)
    found = [
        CandidateEncounter(str(id_), instant(some[0].started_at), some[0].place, len(some))
        for id_, some in met.items()
    ]
    return tuple(sorted(found, key=lambda one: one.started_at or "", reverse=True))


# ---------------------------------------------------------------- queues


def queue_item(row: QueueRow) -> QueueItem:
    best = None
    if row.best_id is not None and row.best_score is not None:
        individual = IndividualRef(str(row.best_id), row.best_name or "", row.best_taxon)
        best = QueueBest(individual, row.best_score, str(row.best_annotation_id))
    photo = None
    if row.media_id is not None:
        photo = QueuePhoto(_text(row.annotation_id), str(row.media_id), row.file_name)
    return QueueItem(
        id=str(row.id),
        state=str(row.state),
        version=row.version,
        created_at=row.created_at.isoformat(),
        encounter=_encounter(row),
        photo=photo,
        photos=row.photos,
        best=best,
        default_answer=row.default_answer,
        asked_by=row.principal,
    )
