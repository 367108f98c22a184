"""Suggestions of where the catalogue may be wrong: who may be one, whose photo may be another's,
and where one individual falls apart. Nothing here decides; a "no" is not suggested again.

The whole catalogue is compared in the background, a small one while the caller waits. What is shown
is held against the catalogue of the moment: what was merged, moved or rejected since is left out.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Final, Literal
from uuid import UUID

import numpy as np
from sqlalchemy.orm import Session, sessionmaker

from db.errors import Conflict, Invalid
from db.queries import catalogue, embeddings, records
from db.queries import identity as rows
from db.queries.changes import Actor
from db.queries.embeddings import SpaceRow
from db.queries.identity import Pulse, ShownRow
from db.queries.paging import Page, make_page, read_cursor
from indexer.answers import IndividualRef, Json
from indexer.closeness import Closest, Told, average_linkage, closest, cosines
from indexer.evaluate import Codes
from indexer.spaces import SLOT
from indexer.vector_index.protocol import Vectors, unit_rows
from indexer.viewpoints import Sides, sides_of

log = logging.getLogger("resight")

KEPT: Final = 1_000
"""Suggestions of each kind that are kept, the strongest."""
AT_ONCE: Final = 4_000
"""Up to this many vectors are compared while the caller waits (under a second)."""
MAX_SPLIT: Final = 2_000
"""Photos of one individual that are grouped; the first ones, where there are more."""
MAX_GROUPS: Final = 8
GAP_MIN: Final = 0.15
"""Mean cosines that are this far apart, from one join of groups to the next, suggest a split."""
_REST: Final = 20
"""After comparing for a second, nothing is compared anew for this many."""

State = Literal["ready", "counting"]


@dataclass(frozen=True, slots=True)
class MergeSuggestion:
    """Two individuals that may be one, with the two annotations that look most alike; `score` is
    their cosine. `individual` is the one with more photos."""

    individual: IndividualRef
    photos: int
    other: IndividualRef
    other_photos: int
    score: float
    annotation_id: str
    media_id: str
    other_annotation_id: str
    other_media_id: str


@dataclass(frozen=True, slots=True)
class Outlier:
    """A photo that looks more like another individual (`other_score`, a cosine, with
    `other_annotation_id`) than like any other photo of its own (`own_score`)."""

    annotation_id: str
    media_id: str
    individual: IndividualRef
    own_score: float
    other: IndividualRef
    other_score: float
    other_annotation_id: str
    other_media_id: str


@dataclass(frozen=True, slots=True)
class Suggested:
    """One page. `counting`: the catalogue is being compared, `progress` 0 to 1, and the items are
    those of `as_of`, or none yet. `compared` photos of `individuals` were compared."""

    items: tuple[MergeSuggestion | Outlier, ...]
    next_cursor: str | None
    state: State
    progress: float
    as_of: datetime | None
    compared: int
    individuals: int

    def as_json(self) -> Json:
        """The JSON form: times as text."""
        return asdict(self) | {
            "items": [asdict(item) for item in self.items],
            "as_of": self.as_of and self.as_of.isoformat(),
        }


@dataclass(frozen=True, slots=True)
class Group:
    """Photos that belong together. `mean_score` is the mean cosine between two of them,
    `nearest_score` the best to a photo of another group; None where no two are compared."""

    annotation_ids: tuple[str, ...]
    mean_score: float | None
    nearest_score: float | None


@dataclass(frozen=True, slots=True)
class SplitSuggestion:
    """The photos of an individual in groups, the largest first; one group where nothing suggests a
    split. `left_out` has no vector, is not for matching, or was too much."""

    individual: IndividualRef
    groups: tuple[Group, ...]
    left_out: tuple[str, ...]

    def as_json(self) -> Json:
        """The JSON form."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class _Pair:
    """Two annotations and their cosine; `margin` is what the photos are ordered by."""

    annotation_id: int
    other_id: int
    score: float
    own_score: float

    @property
    def margin(self) -> float:
        return self.score - self.own_score


@dataclass(frozen=True, slots=True)
class _Compared:
    pulse: Pulse
    at: datetime
    seconds: float
    annotations: int
    individuals: int
    merges: tuple[_Pair, ...]
    outliers: tuple[_Pair, ...]


class Suggester:
    """Compares the catalogue and keeps what stands out. Thread-safe."""

    def __init__(self, sessions: sessionmaker[Session], at_once: int = AT_ONCE) -> None:
        self._sessions = sessions
        self._at_once = at_once
        self._background = ThreadPoolExecutor(1, thread_name_prefix="suggest")
        self._lock = threading.Lock()
        self._compared: _Compared | None = None
        self._job: Future[None] | None = None
        self._progress = 0.0

    def merges(self, session: Session, *, limit: int = 50, cursor: str | None = None) -> Suggested:
        """Individuals that may be one, the closest first; not those that somebody called
        different, nor those that one photo shows together."""
        compared = self._present(session)
        apart = rows.rejected_pairs(session)
        pairs = () if compared is None else compared.merges
        shown = rows.shown_now(session, [i for pair in pairs for i in _both(pair)])
        found, seen = [], set()
        for pair in pairs:
            one, other = (shown.get(id_) for id_ in _both(pair))
            if one is None or other is None or one.individual_id == other.individual_id:
                continue
            key = _key(one.individual_id, other.individual_id)
            if key not in apart and key not in seen:
                seen.add(key)
                found.append(pair)
        page = _page(found, lambda pair: -pair.score, limit, cursor)
        refs = _refs(session, page.items, shown)
        counts = rows.photo_counts(session, list(refs))
        return self._suggested(
            compared, page, [_merge(pair, shown, refs, counts) for pair in page.items]
        )

    def outliers(
        self, session: Session, *, limit: int = 50, cursor: str | None = None
    ) -> Suggested:
        """Photos that look more like another individual than like the rest of their own, the worst
        first; not where somebody called that other one different."""
        compared = self._present(session)
        apart = rows.rejected_pairs(session)
        pairs = () if compared is None else compared.outliers
        shown = rows.shown_now(session, [i for pair in pairs for i in _both(pair)])
        found = []
        for pair in pairs:
            one, other = (shown.get(id_) for id_ in _both(pair))
            if one is None or other is None or one.individual_id == other.individual_id:
                continue
            if _key(one.individual_id, other.individual_id) not in apart:
                found.append(pair)
        page = _page(found, lambda pair: -pair.margin, limit, cursor)
        refs = _refs(session, page.items, shown)
        return self._suggested(compared, page, [_outlier(pair, shown, refs) for pair in page.items])

    def close(self) -> None:
        """Ends the background work once what is being compared is."""
        self._background.shutdown(wait=True, cancel_futures=True)

    def _suggested(
        self,
        compared: _Compared | None,
        page: Page[_Pair],
        items: Sequence[MergeSuggestion | Outlier],
    ) -> Suggested:
        counting = self._job is not None and not self._job.done()
        return Suggested(
            items=tuple(items),
            next_cursor=page.next_cursor,
            state="counting" if counting else "ready",
            progress=self._progress if counting else 1.0,
            as_of=None if compared is None else compared.at,
            compared=compared.annotations if compared else 0,
            individuals=compared.individuals if compared else 0,
        )

    def _present(self, session: Session) -> _Compared | None:
        """The last comparison; a new one first where the catalogue changed and is small."""
        space = embeddings.active_space(session, SLOT)
        if space is None:
            return None
        pulse = rows.pulse(session, space.id)
        known = self._compared
        if known is not None and known.pulse == pulse:
            return known
        if pulse.vectors <= self._at_once:
            self._compared = _compare(_read(session, space))
            return self._compared
        if known is not None and known.pulse.model_id != space.id:
            known = None
        if known is None or _age_s(known) > _REST * known.seconds:
            self._compare_soon(space)
        return known

    def _compare_soon(self, space: SpaceRow) -> None:
        with self._lock:
            if self._job is None or self._job.done():
                self._progress = 0.0
                self._job = self._background.submit(self._run, space)

    def _run(self, space: SpaceRow) -> None:
        def told(share: float) -> None:
            self._progress = share

        try:
            with self._sessions() as session:
                read = _read(session, space)
            self._compared = _compare(read, told)
        except Exception:
            # Nobody waits for this job: whoever looks next asks for it again.
            log.exception("Comparing the individuals of %s failed.", space.name)


def dismiss(
    session: Session, one: UUID, other: UUID, actor: Actor, note: str | None = None
) -> UUID:
    """Say that two individuals are different: they are not suggested again, and merging them asks
    first. The decision, which can be undone.

    Raises:
        NotFound: one of them is not there (any more).
        Conflict: `individual_merged`: they are one by now.
    """
    first, second = rows.lock_individuals(session, [one, other], follow=True)
    if first.id == second.id:
        raise Conflict(
            "individual_merged",
            f"They were merged into {first.name}; undo that, or split it.",
            individual_id=str(first.id),
        )
    decision = rows.add_rejected_pair(
        session, first.id, second.id, actor.principal, actor.account_id, note
    )
    told = {
        "decision_id": str(decision),
        "individual_id": str(first.id),
        "other_id": str(second.id),
    }
    records.add_audit(session, actor.principal, "review.different", f"review:{decision}", told)
    return decision


def suggest_split(
    session: Session, individual_id: UUID, *, groups: int | None = None
) -> SplitSuggestion:
    """The photos of an individual in groups by likeness: as many as asked for, or as the widest gap
    suggests. The same photos always give the same groups.

    Raises:
        NotFound: no such individual.
        Invalid: `groups` is not between 1 and 8.
    """
    if groups is not None and not 1 <= groups <= MAX_GROUPS:
        raise Invalid("groups_out_of_range", f"Ask for 1 to {MAX_GROUPS} groups, not {groups}.")
    who = catalogue.get_individual(session, individual_id)
    ref = IndividualRef(str(who.id), who.name, who.taxon)
    every = rows.annotations_of(session, who.id)
    ids, vectors = _vectors_of(session, who.id)
    left_out = tuple(str(id_) for id_ in every if id_ not in set(ids))
    if not ids:
        return SplitSuggestion(ref, (), left_out)
    scores = cosines(vectors, sides_of(session, ids))
    linkage = average_linkage(scores)
    number = linkage.cut(groups or linkage.widest(MAX_GROUPS, GAP_MIN))
    made = [_group(ids, scores, number == label) for label in range(number.max() + 1)]
    made.sort(key=lambda group: -len(group.annotation_ids))
    return SplitSuggestion(ref, tuple(made), left_out)


def _vectors_of(session: Session, individual_id: UUID) -> tuple[list[int], Vectors]:
    space = embeddings.active_space(session, SLOT)
    if space is None:
        return [], np.zeros((0, 1), np.float32)
    wanted = [row.annotation_id for row in rows.matchable_annotations(session, individual_id)]
    ids, vectors = embeddings.vectors_of(session, space.id, sorted(wanted)[:MAX_SPLIT])
    return ids.tolist(), unit_rows(vectors)


def _group(ids: Sequence[int], scores: np.ndarray[Any, Any], inside: np.ndarray[Any, Any]) -> Group:
    own = scores[np.ix_(inside, inside)]
    across = scores[np.ix_(inside, ~inside)]
    own, across = own[~np.isnan(own)], across[~np.isnan(across)]
    return Group(
        annotation_ids=tuple(str(ids[place]) for place in np.flatnonzero(inside).tolist()),
        mean_score=float(own.mean()) if own.size else None,
        nearest_score=float(across.max()) if across.size else None,
    )


# ---------------------------------------------------------------- comparing


@dataclass(frozen=True, slots=True, eq=False)
class _Read:
    """What is compared: annotations by individual and then ascending, and `vectors` float32 (n, D)
    of unit length in that order; `who` int64 (n,), which of those are kept apart, and `sides`
    int8 (n,)."""

    pulse: Pulse
    shown: list[ShownRow]
    vectors: Vectors
    who: Codes
    apart: set[tuple[int, int]]
    sides: Sides


def _read(session: Session, space: SpaceRow) -> _Read:
    pulse = rows.pulse(session, space.id)
    shown, vectors = _labelled(session, space)
    individuals = sorted({row.individual_id for row in shown})
    code = {individual_id: number for number, individual_id in enumerate(individuals)}
    who = np.array([code[row.individual_id] for row in shown], np.int64)
    apart = rows.rejected_pairs(session) | rows.photographed_together(session)
    known = {(code[a], code[b]) for a, b in apart if a in code and b in code}
    sides = sides_of(session, [row.annotation_id for row in shown])
    return _Read(pulse, shown, vectors, who, known, sides)


def _compare(read: _Read, told: Told = lambda _: None) -> _Compared:
    started = time.monotonic()
    found = closest(read.vectors, read.who, read.sides, read.apart, told)
    return _Compared(
        pulse=read.pulse,
        at=datetime.now(UTC),
        seconds=time.monotonic() - started,
        annotations=len(read.shown),
        individuals=len(np.unique(read.who)),
        merges=tuple(_closest_pairs(read.shown, read.who, found)),
        outliers=tuple(_outlying(read.shown, found)),
    )


def _labelled(session: Session, space: SpaceRow) -> tuple[list[ShownRow], Vectors]:
    ids, vectors, _ = embeddings.read_space(session, space.id)
    shown = rows.matchable_annotations(session)
    wanted = np.array([row.annotation_id for row in shown], np.int64)
    if not len(ids):
        return [], np.zeros((0, space.dim), np.float32)
    place = np.minimum(np.searchsorted(ids, wanted), len(ids) - 1)
    has = ids[place] == wanted
    kept = [row for row, there in zip(shown, has.tolist(), strict=True) if there]
    return kept, unit_rows(vectors[place[has]])


def _closest_pairs(shown: Sequence[ShownRow], who: Codes, found: Closest) -> Iterable[_Pair]:
    """For each individual the nearest other one, each pair once, the closest first."""
    if not len(who):
        return []
    order = np.lexsort((np.arange(len(who)), -found.other, who))
    _, firsts = np.unique(who[order], return_index=True)
    pairs: dict[tuple[int, int], _Pair] = {}
    for row in order[firsts].tolist():
        other = int(found.other_row[row])
        if other < 0:
            continue
        key = (min(who[row], who[other]), max(who[row], who[other]))
        first, second = min(row, other), max(row, other)
        pair = _pair(shown, found, first, second, float(found.other[row]))
        if key not in pairs or pair.score > pairs[key].score:
            pairs[key] = pair
    return sorted(pairs.values(), key=lambda p: (-p.score, p.annotation_id, p.other_id))[:KEPT]


def _outlying(shown: Sequence[ShownRow], found: Closest) -> Iterable[_Pair]:
    places = np.flatnonzero(np.isfinite(found.own) & (found.other > found.own))
    margins = found.other[places] - found.own[places]
    worst = places[np.lexsort((places, -margins))][:KEPT]
    return [
        _pair(shown, found, row, int(found.other_row[row]), float(found.other[row]))
        for row in worst.tolist()
    ]


def _pair(shown: Sequence[ShownRow], found: Closest, row: int, other: int, score: float) -> _Pair:
    return _Pair(
        annotation_id=shown[row].annotation_id,
        other_id=shown[other].annotation_id,
        score=score,
        own_score=float(found.own[row]),
    )


# ---------------------------------------------------------------- showing


def _both(pair: _Pair) -> tuple[int, int]:
    return pair.annotation_id, pair.other_id


def _key(one: UUID, other: UUID) -> tuple[UUID, UUID]:
    return (one, other) if one < other else (other, one)


def _age_s(compared: _Compared) -> float:
    return (datetime.now(UTC) - compared.at).total_seconds()


def _page(found: Sequence[_Pair], rank: Any, limit: int, cursor: str | None) -> Page[_Pair]:
    """The pairs after the cursor, in the order of `rank` and then of the annotations."""

    def key(pair: _Pair) -> tuple[float, int, int]:
        return rank(pair), pair.annotation_id, pair.other_id

    after = read_cursor(cursor, float, int, int)
    ordered = sorted(found, key=key)
    rest = ordered if after is None else [pair for pair in ordered if key(pair) > tuple(after)]
    return make_page(rest[: limit + 1], limit, key)


def _refs(
    session: Session, pairs: Iterable[_Pair], shown: dict[int, ShownRow]
) -> dict[UUID, IndividualRef]:
    ids = sorted({shown[id_].individual_id for pair in pairs for id_ in _both(pair)})
    found = catalogue.get_individuals(session, ids)
    return {id_: IndividualRef(str(id_), row.name, row.taxon) for id_, row in found.items()}


def _merge(
    pair: _Pair,
    shown: dict[int, ShownRow],
    refs: dict[UUID, IndividualRef],
    counts: dict[UUID, int],
) -> MergeSuggestion:
    one, other = shown[pair.annotation_id], shown[pair.other_id]
    if counts[other.individual_id] > counts[one.individual_id]:
        one, other = other, one
    return MergeSuggestion(
        individual=refs[one.individual_id],
        photos=counts[one.individual_id],
        other=refs[other.individual_id],
        other_photos=counts[other.individual_id],
        score=pair.score,
        annotation_id=str(one.annotation_id),
        media_id=str(one.media_id),
        other_annotation_id=str(other.annotation_id),
        other_media_id=str(other.media_id),
    )


def _outlier(pair: _Pair, shown: dict[int, ShownRow], refs: dict[UUID, IndividualRef]) -> Outlier:
    own, other = shown[pair.annotation_id], shown[pair.other_id]
    return Outlier(
        annotation_id=str(own.annotation_id),
        media_id=str(own.media_id),
        individual=refs[own.individual_id],
        own_score=pair.own_score,
        other=refs[other.individual_id],
        other_score=pair.score,
        other_annotation_id=str(other.annotation_id),
        other_media_id=str(other.media_id),
    )
