"""Owns the fit of ArcFace rows to stored vectors: loss, gradient, the descent; pure functions.

ArcFace (Deng et al. 2019): the cosine of a photo to its own row is replaced by cos(θ + m), all
cosines are multiplied by s, and softmax with cross-entropy follows. Here the photos' vectors stay
as they are and only the rows move. Full softmax: every row is a rival of every photo.

All individuals weigh alike: a photo counts for less the more its individual has. Unweighted, rows
of individuals with few photos are pushed aside by those with many, and are then answered less often
than class means would answer them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Codes = NDArray[np.int64]
Reals = NDArray[np.floating[Any]]

MAX_SCALE = 40.0
"""exp(scale) times the number of rows must be a float32."""

_LEAST_SINE = 1e-3
_LEAST_LENGTH = 1e-6
_SMALLEST_BATCH = 64
_LEAST_GAIN = 1e-3
"""An epoch that lowers the loss by a smaller share than this is no better."""


@dataclass(frozen=True, slots=True)
class FitOptions:
    """How rows are fitted; the defaults are what `scripts/bench_head.py` measures.

    An epoch has `steps` steps, or more where a batch would exceed `largest_batch` photos: that and
    the number of rows bound the memory. `learning_rate` is about the angle (radians) that a row
    turns in one step. `prior_photos`: a row is held at its individual's mean as if by so many
    more of its photos, so that few photos move it little. A row that is pulled by less than
    `still_photos` of a photo hardly moves.
    """

    scale: float = 30.0
    margin: float = 0.50
    epochs: int = 16
    patience: int = 3
    steps: int = 24
    largest_batch: int = 2048
    learning_rate: float = 0.02
    prior_photos: float = 1.0
    still_photos: float = 0.02
    seed: int = 0
    threads: int = 2

    def __post_init__(self) -> None:
        if not 0 < self.scale <= MAX_SCALE:
            raise ValueError(f"the scale lies in (0, {MAX_SCALE:g}], got {self.scale}")
        if not 0 <= self.margin < math.pi / 2:
            raise ValueError(f"the margin lies in [0, π/2), got {self.margin}")
        if min(self.patience, self.steps, self.largest_batch, self.threads) < 1 or self.epochs < 0:
            raise ValueError(f"what is counted is at least 1, the epochs at least 0: {self}")

    def batch(self, photos: int) -> int:
        """Photos of one step, of so many in all."""
        return min(self.largest_batch, max(_SMALLEST_BATCH, -(-photos // self.steps)))


class FitStopped(Exception):
    """`stopping` asked the fit to end; nothing of it is kept."""


@dataclass(frozen=True, slots=True)
class Epoch:
    """After `number` passes: the mean training `loss` (with margin), and of the vectors kept for
    stopping the share whose best row is their own, and their mean `stop_loss` (no margin)."""

    number: int
    loss: float | None
    top_1: float | None
    stop_loss: float | None


@dataclass(frozen=True, slots=True, eq=False)
class Fitted:
    """`rows` float32 (C, D) of unit length; `epochs` from the class means (0) to the last tried;
    `best` is the number of the one whose rows these are."""

    rows: Floats
    best: int
    epochs: tuple[Epoch, ...]


def class_means(vectors: Floats, labels: Codes, classes: int) -> tuple[Floats, Codes]:
    """(unit rows float32 (C, D), photos int64 (C,)): the direction of each class's mean, or of its
    first vector where they cancel out.

    Raises:
        ValueError: a class has no vector.
    """
    counts = np.bincount(labels, minlength=classes).astype(np.int64)
    if not counts.all():
        raise ValueError(f"class {int(np.argmin(counts))} has no vector")
    order = np.argsort(labels, kind="stable")
    starts = np.cumsum(counts) - counts
    sums = np.add.reduceat(vectors[order].astype(np.float64), starts, axis=0)
    norms = np.linalg.norm(sums, axis=1)
    cancelled = norms < _LEAST_LENGTH
    sums[cancelled] = vectors[order[starts[cancelled]]]
    norms[cancelled] = np.linalg.norm(sums[cancelled], axis=1)
    return (sums / norms[:, None]).astype(np.float32), counts


def with_margin(cosine: Reals, margin: float) -> tuple[Reals, Reals]:
    """(cos(θ + m), its derivative by cos θ), each (n,). Past θ = π - m, where cos(θ + m) would
    rise again, it goes on as the straight line cos θ - m·sin m, as in the authors' code."""
    sine = np.sqrt(np.maximum(1.0 - cosine * cosine, _LEAST_SINE**2))
    sin_m, cos_m = math.sin(margin), math.cos(margin)
    turned = cosine > -cos_m
    value = np.where(turned, cosine * cos_m - sine * sin_m, cosine - margin * sin_m)
    slope = np.where(turned, cos_m + sin_m * cosine / sine, 1.0)
    return value.astype(cosine.dtype), slope.astype(cosine.dtype)


def loss_and_pull(
    rows: Reals,
    vectors: Reals,
    labels: Codes,
    weights: Reals,
    *,
    scale: float,
    margin: float,
    logits: Reals | None = None,
    pull: Reals | None = None,
) -> tuple[float, Reals]:
    """(weighted sum of ArcFace losses, its gradient by the rows divided by `scale`, (C, D)).

    rows (C, D) and vectors (n, D) of unit length, weights (n,), all of one dtype; labels int64
    (n,). The gradient's unit is a photo: a photo of weight 1 pulls with 1 at most. The rows
    count as free vectors: project the gradient to stay on the sphere. `logits` (≥ n, C) and
    `pull` (C, D) are overwritten when given, so that a caller can use memory again.
    """
    n = len(vectors)
    if logits is None:
        logits = np.empty((n, len(rows)), dtype=rows.dtype)
    odds = logits[:n]
    scaled = vectors * vectors.dtype.type(scale)
    np.matmul(scaled, rows.T, out=odds)
    at = np.arange(n), labels
    value, slope = with_margin(odds[at] / vectors.dtype.type(scale), margin)
    odds[at] = value * vectors.dtype.type(scale)
    np.exp(odds, out=odds)  # at most exp(scale): no need to subtract the largest
    total = odds.sum(axis=1)
    losses = np.log(total.astype(np.float64)) - scale * value.astype(np.float64)
    odds[at] = (odds[at] - total) * slope
    loss = float(np.sum(weights * losses))
    return loss, np.matmul(odds.T, vectors * (weights / total)[:, None], out=pull)


class _Descent:
    """Adam on rows of unit length. One second moment per row (the mean square length of its
    gradient), so that the step does not depend on the choice of axes, and costs one array."""

    beta_1 = 0.9
    beta_2 = 0.99

    def __init__(
        self,
        means: Floats,
        weights: Floats,
        options: FitOptions,
        batch: int,
        pool: ThreadPoolExecutor,
    ) -> None:
        """`weights` float32 (C,): that of each photo of a class."""
        self.rows = means.copy()
        self._weights = weights
        self._means = means
        self._options = options
        self._pool = pool
        self._momentum = np.zeros_like(means)
        self._square = np.zeros(len(means), dtype=np.float32)
        self._steps = 0
        share = -(-batch // options.threads)
        self._share = share
        self._logits = [np.empty((share, len(means)), np.float32) for _ in range(options.threads)]
        self._pulls = [np.empty_like(means) for _ in range(options.threads)]

    def step(self, vectors: Floats, labels: Codes, share_of_epoch: float) -> float:
        """One step over a batch; its summed loss. `share_of_epoch`: what part of all it is."""
        parts = range(0, len(vectors), self._share)
        losses = list(self._pool.map(self._pull, range(len(parts)), self._cut(vectors, labels)))
        self._steps += 1
        pieces = np.array_split(np.arange(len(self.rows)), self._options.threads)
        moves = [
            self._pool.submit(
                self._move, slice(int(p[0]), int(p[-1]) + 1), len(parts), share_of_epoch
            )
            for p in pieces
            if len(p)
        ]
        for move in moves:
            move.result()
        return sum(losses)

    def _cut(self, vectors: Floats, labels: Codes) -> Iterator[tuple[Floats, Codes]]:
        for start in range(0, len(vectors), self._share):
            yield vectors[start : start + self._share], labels[start : start + self._share]

    def _pull(self, worker: int, part: tuple[Floats, Codes]) -> float:
        return loss_and_pull(
            self.rows,
            *part,
            self._weights[part[1]],
            scale=self._options.scale,
            margin=self._options.margin,
            logits=self._logits[worker],
            pull=self._pulls[worker],
        )[0]

    def _move(self, at: slice, parts: int, share_of_epoch: float) -> None:
        rows, options = self.rows[at], self._options
        pull = self._pulls[0][at]
        for other in self._pulls[1:parts]:
            pull += other[at]
        held = np.float32(options.prior_photos * share_of_epoch) * self._weights[at]
        pull -= held[:, None] * self._means[at]
        pull -= np.einsum("ij,ij->i", pull, rows)[:, None] * rows
        momentum, square = self._momentum[at], self._square[at]
        momentum *= np.float32(self.beta_1)
        momentum += np.float32(1 - self.beta_1) * pull
        square *= np.float32(self.beta_2)
        square += np.float32(1 - self.beta_2) * np.einsum("ij,ij->i", pull, pull)
        length = np.sqrt(square / np.float32(1 - self.beta_2**self._steps))
        rate = options.learning_rate / (1 - self.beta_1**self._steps)
        rows -= (np.float32(rate) / (length + np.float32(options.still_photos)))[:, None] * momentum
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """Of unit vectors (n, D): `right` bool (n,) whether the best row is their own, a tie is not;
    `losses` float64 (n,) without margin, as the head is served."""

    right: NDArray[np.bool_]
    losses: NDArray[np.float64]

    @property
    def top_1(self) -> float:
        return float(self.right.mean())

    @property
    def loss(self) -> float:
        return float(self.losses.mean())

    def beats(self, other: Judged) -> bool:
        """Whether no fewer are named rightly, and the mean loss is lower by more than its standard
        error: a difference that so many photos show by chance is none."""
        gain = other.losses - self.losses
        error = float(gain.std()) / math.sqrt(len(gain))
        return self.top_1 >= other.top_1 and float(gain.mean()) > error


def judge(rows: Floats, vectors: Floats, labels: Codes, scale: float, block: int = 512) -> Judged:
    """How rows float32 (C, D) name unit vectors float32 (n, D), n ≥ 1, of labels int64 (n,)."""
    right, losses = [], []
    for start in range(0, len(vectors), block):
        cosines = vectors[start : start + block] @ rows.T
        at = np.arange(len(cosines)), labels[start : start + block]
        own = cosines[at].copy()
        total = np.exp(np.float32(scale) * cosines).sum(axis=1, dtype=np.float64)
        losses.append(np.log(total) - scale * own.astype(np.float64))
        cosines[at] = -2.0
        right.append(cosines.max(axis=1) < own)
    return Judged(np.concatenate(right), np.concatenate(losses))


def fit_rows(
    vectors: Floats,
    labels: Codes,
    classes: int,
    options: FitOptions,
    *,
    stop: tuple[Floats, Codes] | None = None,
    stopping: Callable[[], bool] = lambda: False,
    tell: Callable[[Epoch], None] = lambda _: None,
) -> Fitted:
    """Rows float32 (C, D) from unit vectors float32 (N, D) and labels int64 (N,) in 0..C-1.

    Starts from the class means. With `stop` (vectors, labels of other encounters) the rows of the
    best epoch are kept, and `patience` epochs without a better one end the fit: the lowest loss
    among those whose top-1 is not below that of the means (epoch 0). If that one does not beat the
    means (`Judged.beats`), the means are kept. Without, all epochs are run and the last is kept.

    Raises:
        FitStopped: `stopping` answered True; it is asked before every batch.
        ValueError: a class has no vector.
    """
    means, counts = class_means(vectors, labels, classes)
    weights = (len(labels) / (classes * counts)).astype(np.float32)
    rng = np.random.default_rng(options.seed)
    at_means = _judge(means, stop, options)
    epochs = [_epoch(0, None, at_means)]
    tell(epochs[0])
    best = _Best(means, 0, at_means)
    with ThreadPoolExecutor(options.threads, thread_name_prefix="fit") as pool:
        batch = options.batch(len(vectors))
        descent = _Descent(means, weights, options, batch, pool)
        for number in range(1, options.epochs + 1):
            order = rng.permutation(len(vectors))
            loss = _pass(descent, vectors, labels, order, batch, stopping)
            judged = _judge(descent.rows, stop, options)
            epochs.append(_epoch(number, loss, judged))
            tell(epochs[-1])
            if _is_better(judged, best.judged, at_means):
                best = _Best(descent.rows.copy(), number, judged)
            elif number - best.number >= options.patience:
                break
    if best.judged is not None and at_means is not None and not best.judged.beats(at_means):
        best = _Best(means, 0, at_means)
    return Fitted(best.rows, best.number, tuple(epochs))


@dataclass(frozen=True, slots=True, eq=False)
class _Best:
    rows: Floats
    number: int
    judged: Judged | None


def _is_better(judged: Judged | None, best: Judged | None, means: Judged | None) -> bool:
    """By the loss, which many photos move a little, among those that name no fewer than the means;
    without anything to judge by, later is better."""
    if judged is None or best is None or means is None:
        return True
    return judged.top_1 >= means.top_1 and judged.loss < best.loss * (1 - _LEAST_GAIN)


def _pass(
    descent: _Descent,
    vectors: Floats,
    labels: Codes,
    order: Codes,
    batch: int,
    stopping: Callable[[], bool],
) -> float:
    loss = 0.0
    for start in range(0, len(order), batch):
        if stopping():
            raise FitStopped
        chosen = order[start : start + batch]
        loss += descent.step(vectors[chosen], labels[chosen], len(chosen) / len(order))
    return loss / len(order)


def _judge(rows: Floats, stop: tuple[Floats, Codes] | None, options: FitOptions) -> Judged | None:
    return None if stop is None else judge(rows, *stop, options.scale)


def _epoch(number: int, loss: float | None, judged: Judged | None) -> Epoch:
    if judged is None:
        return Epoch(number, loss, None, None)
    return Epoch(number, loss, judged.top_1, judged.loss)
