"""Identification with its numbers kept: metrics and drift see every answer and every failure."""

from __future__ import annotations

from collections.abc import Sequence

from db.types import QueryKind
from indexer.answers import IdentifyAnswer
from indexer.identify import IdentifyOptions, NoReadablePhoto, PhotoIn
from indexer.search import SearchTimeout, SearchUnavailable
from service.deps import AppState


def identify_observed(
    state: AppState,
    photos: Sequence[PhotoIn],
    options: IdentifyOptions,
    principal: str,
    kind: QueryKind,
) -> IdentifyAnswer:
    """`Identifier.identify`, counted."""
    metrics = state.metrics
    try:
        answer = state.runtime.identifier.identify(photos, options, principal=principal, kind=kind)
    except NoReadablePhoto as error:
        for problem in error.problems:
            metrics.photos_refused.labels(problem.code).inc()
        raise
    except (SearchTimeout, SearchUnavailable) as error:
        metrics.search_failures.labels(type(error).__name__).inc()
        raise
    _count(state, answer)
    return answer


def _count(state: AppState, answer: IdentifyAnswer) -> None:
    metrics = state.metrics
    for photo in answer.photos:
        if photo.gate is not None:
            metrics.gate.labels(photo.gate.state, photo.gate.model).inc()
        if photo.error is not None:
            metrics.photos_refused.labels(photo.error.code).inc()
    metrics.default_answers.labels(answer.default_answer.status).inc()
    receipt = answer.receipt
    if receipt is not None:
        timings = receipt.timings_ms
        metrics.search_seconds.labels(receipt.mode).observe(timings["search"] / 1000)
        metrics.embed_seconds.labels(answer.bundle or "none").observe(timings["embed"] / 1000)
        metrics.truncated.inc(receipt.truncated)
    if state.drift.record(answer.gate.score, answer.default_answer.probability):
        metrics.drift_alarms.inc()
