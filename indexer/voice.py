"""Owns what answers: the models of a bundle with the space that is searched, and what they say.

Shared by questions about photos that are sent and about photos that are stored.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass, field
from uuid import UUID

import numpy as np
from sqlalchemy.orm import Session

from db.errors import NotFound
from db.queries import embeddings
from db.queries.embeddings import SpaceRow
from indexer.answering import agreement, best_of, searched
from indexer.answers import DefaultAnswer, GateAnswer, Notice, Novelty, SearchAnswer
from indexer.calibrate import calibration_of
from indexer.default_answer import CANDIDATES, default_answer, unknown_to_head
from indexer.novelty import judge_novelty
from indexer.rejections import RejectedPairs
from indexer.search import (
    Searcher,
    SearchRequest,
    SearchResult,
    SearchUnavailable,
    WrongSpace,
)
from models.bundles import Serving
from models.embedder import Embedder, Floats
from models.gate import GateDecision
from models.head import HeadAnswer
from models.preprocess import DecodeLimits, Rgb


@dataclass(frozen=True, slots=True)
class IdentifyPolicy:
    """What the operator decided: limits, what happens without a gate or confidence, and with
    candidates that somebody rejected for the same photo."""

    limits: DecodeLimits = field(default_factory=DecodeLimits)
    max_photos: int = 10
    refuse_without_gate: bool = False
    min_probability: float | None = None
    search_timeout_s: float = 10.0
    rejected_pairs: RejectedPairs = "last"


@dataclass(frozen=True, slots=True, eq=False)
class Heard:
    """What a search found, and how the best score that nobody rejected compares with those of true
    matches."""

    found: SearchAnswer
    result: SearchResult
    novelty: Novelty


@dataclass(frozen=True, slots=True)
class Said:
    """The default answer, whether retrieval agrees, and what a person should know of it."""

    default: DefaultAnswer
    agreement: bool | None
    notices: tuple[Notice, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Voice:
    """`space` is the one the catalogue is searched in, or None when the loaded bundle cannot search
    it; `head_id` are the head's slots in the database."""

    serving: Serving
    space: SpaceRow | None
    head_id: int | None
    searcher: Searcher
    policy: IdentifyPolicy
    notices: tuple[Notice, ...] = ()

    @property
    def embedder(self) -> Embedder | None:
        return self.serving.embedder

    @property
    def model(self) -> str:
        """The embedder's name and version, for people."""
        spec = self.embedder.spec if self.embedder else None
        return f"{spec.name} {spec.version}" if spec else "none"

    @property
    def min_probability(self) -> float:
        """From which probability on a default answer is given."""
        if self.policy.min_probability is not None:
            return self.policy.min_probability
        return self.serving.default_min_probability

    def searched_space(self) -> SpaceRow:
        """Raises:
        SearchUnavailable: nothing can be searched.
        """
        if self.space is None:
            raise SearchUnavailable(
                "No space can be searched: no embedding model is loaded that fits the catalogue. "
                "See /ready, or run `resight doctor`."
            )
        return self.space

    def stored_vectors(self, session: Session, annotation_ids: Sequence[int]) -> Floats:
        """float32 (N, D), in the order of the ids.

        Raises:
            NotFound: `vector_missing`: an annotation has none in the space that is searched.
            SearchUnavailable: nothing can be searched.
        """
        space = self.searched_space()
        ids, vectors = embeddings.vectors_of(session, space.id, annotation_ids)
        at = {id_: position for position, id_ in enumerate(ids.tolist())}
        for annotation_id in annotation_ids:
            if annotation_id not in at:
                raise NotFound(
                    "vector_missing",
                    f"Annotation {annotation_id} has no vector in the space {space.name} "
                    f"{space.version} yet; run `resight doctor` to see what is missing.",
                    annotation_id=annotation_id,
                )
        return vectors[np.array([at[id_] for id_ in annotation_ids], dtype=np.intp)]

    def judge(self, photos: Sequence[Rgb]) -> list[GateDecision]:
        """What the gate thinks of each photo. Belongs on the inference thread."""
        gate = self.serving.gate
        if gate.needs_features and self.embedder is not None:
            return gate.decide(photos, self.embedder.embed(photos).features)
        return gate.decide(photos, None)

    def head_answer(self, vectors: Floats | None) -> HeadAnswer | None:
        """What the head says of the photos of one encounter, float32 (N, D)."""
        if vectors is None or self.serving.head is None:
            return None
        # The cosines of the mean vector are the means of the photos' cosines.
        return self.serving.head.answer(vectors.mean(axis=0, keepdims=True), CANDIDATES)[0]

    def hear(self, session: Session, request: SearchRequest, rejected: Set[UUID]) -> Heard:
        """Search the space that is answered in; the matches come best first, those marked that are
        `rejected`.

        Raises:
            SearchUnavailable, SearchTimeout: as `Searcher.search`, and where the space was retired.
        """
        space = self.searched_space()
        try:
            result = self.searcher.search(session, request)
        except WrongSpace as error:
            # The caller named no space: this process still answers in one that was let go.
            raise SearchUnavailable(
                f"The space {space.name} {space.version} was retired while this service answered "
                "in it; ask again in a moment, or see /ready."
            ) from error
        found = searched(result, calibration_of(session, space.id), rejected)
        known = self.searcher.true_match_distribution(session, space.fingerprint, result.view)
        best = best_of(found.matches)
        return Heard(found, result, judge_novelty(best.score if best else None, known))

    def say(
        self,
        session: Session,
        gate: GateAnswer,
        head: HeadAnswer | None,
        found: SearchAnswer | None,
        rejected: Set[UUID],
    ) -> Said:
        """The default answer beside what was found; it names nobody who is `rejected`."""
        default = default_answer(
            session,
            gate,
            head,
            head_id=self.head_id,
            model=self.model,
            min_probability=self.min_probability,
            rejected=rejected,
        )
        best = best_of(found.matches) if found else None
        nearest = best.individual if best and head else None
        unknown = unknown_to_head(session, self.head_id, nearest)
        return Said(default, agreement(default, best), unknown)
