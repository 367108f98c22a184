"""Is this somebody new? The best score of a query beside the scores of true matches."""

from __future__ import annotations

from indexer.answers import Novelty, NoveltyVerdict
from indexer.search import TrueMatchDistribution

KNOWN_FROM = 0.05
NEW_BELOW = 0.01
ENOUGH_TRUE_MATCHES = 30
"""Fewer measured true matches than this say nothing about a single score."""


def _verdict(best: float | None, quantile: float | None, n: int) -> NoveltyVerdict:
    if best is None:
        return "probably_new"
    if quantile is None or n < ENOUGH_TRUE_MATCHES:
        return "uncertain"
    if quantile >= KNOWN_FROM:
        return "known"
    return "uncertain" if quantile >= NEW_BELOW else "probably_new"


def _explanation(
    verdict: NoveltyVerdict, best: float | None, quantile: float | None, n: int
) -> str:
    if best is None:
        return "Nothing was there to compare with."
    if quantile is None or n < ENOUGH_TRUE_MATCHES:
        return (
            f"The best score is {best:.2f}; only {n} true matches are known to compare it with, "
            f"{ENOUGH_TRUE_MATCHES} are needed."
        )
    share = "none" if quantile == 0 else f"{quantile:.1%}"
    compared = (
        f"The best score is {best:.2f}; of {n} true matches of this catalogue, {share} scored as "
        "low as that."
    )
    conclusion = {
        "known": "It is where true matches are.",
        "uncertain": "Look closely: it is at the lower end of true matches.",
        "probably_new": "Probably an individual that is not in the catalogue.",
    }
    return f"{compared} {conclusion[verdict]}"


def judge_novelty(best: float | None, known: TrueMatchDistribution) -> Novelty:
    """What the best score of a query (None: there was no candidate) says, measured on `known`."""
    quantile = known.quantile(best) if best is not None else None
    verdict = _verdict(best, quantile, known.n)
    return Novelty(
        verdict=verdict,
        best_score=best,
        true_match_quantile=quantile,
        n=known.n,
        explanation=_explanation(verdict, best, quantile, known.n),
        reference=known.reference,
        other=known.other,
    )
