"""The running statistics of `/v1/drift-stats`: has the stream of photos changed?"""

from __future__ import annotations

import math
from collections import deque
from threading import Lock

WINDOW = 1000
WARM_UP = 50
FALL = 0.10


class DriftWatch:
    """Gate scores and probabilities of the last 1,000 answers of this process.

    The baseline is the mean of the first 50 gate scores. From the fiftieth on, a mean of the
    window 0.10 or more below it is an episode; it counts once, until the mean has recovered.
    """

    def __init__(self) -> None:
        self._scores: deque[float] = deque(maxlen=WINDOW)
        self._probabilities: deque[float] = deque(maxlen=WINDOW)
        self._first: list[float] = []
        self._in_episode = False
        self._alarms = 0
        self._lock = Lock()

    def record(self, score: float | None, probability: float | None) -> bool:
        """Takes one answer in; whether it began an episode."""
        with self._lock:
            if probability is not None:
                self._probabilities.append(probability)
            if score is None:
                return False
            self._scores.append(score)
            if len(self._first) < WARM_UP:
                self._first.append(score)
                return False
            baseline = sum(self._first) / WARM_UP
            fallen = sum(self._scores) / len(self._scores) <= baseline - FALL
            began = fallen and not self._in_episode
            self._in_episode = fallen
            self._alarms += began
            return began

    def stats(self) -> dict[str, float | int | None]:
        """`n`, `alarms_total`, and means and deviation (None while there is nothing to average)."""
        with self._lock:
            mean = _mean(self._scores)
            return {
                "n": len(self._scores),
                "alarms_total": self._alarms,
                "score_mean": mean,
                "score_std": _deviation(self._scores, mean),
                "probability_mean": _mean(self._probabilities),
            }


def _mean(values: deque[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _deviation(values: deque[float], mean: float | None) -> float | None:
    if mean is None:
        return None
    return math.sqrt(sum((value - mean) ** 2 for value in values) / len(values))
