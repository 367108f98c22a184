"""Owns whole imports: how the photos of a source become MediaAsset and Annotation rows.

A photo's file is durable before its row is committed, and rows are committed in small batches, so
an import that is killed loses nothing it reported, and running it again finishes it. N inputs give
`imported + already_known + skipped`, and every skip says why.
"""

from __future__ import annotations

import hashlib
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import islice
from typing import Final
from uuid import UUID

from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session, sessionmaker

from db.errors import Conflict, Invalid
from db.queries import catalogue, media, records
from db.queries.media import MediaRow
from db.session import unless_met
from db.types import RunState
from indexer.archive import Skip
from indexer.layouts import (
    Box,
    ImportEntry,
    ImportPlan,
    ImportPlanError,
    Layout,
    day_encounter,
    plan_import,
)
from indexer.media import MediaError, MediaStore, StoreUnavailable
from indexer.photos import (
    PhotoProblem,
    PhotosRefused,
    StoredPhoto,
    add_photos,
    describe,
    ensure_media,
    of_row,
)
from models.preprocess import BadPhoto, DecodeLimits

__all__ = [
    "ImportPlan",
    "ImportPlanError",
    "ImportProgress",
    "ImportReport",
    "Layout",
    "PhotoProblem",
    "PhotosRefused",
    "Skip",
    "add_photos",
    "plan_import",
    "run_import",
]

_BATCH: Final = 32
_WORKERS: Final = 2
_REMOTE_WORKERS: Final = 8
"""Who reads over a network waits more than it works."""
_BATCHES_AHEAD: Final = 2
_BOX_INSIDE_MIN: Final = 0.9
_SKIP_CODES: Final = {"media_missing": "file_missing", "media_damaged": "too_large_bytes"}
"""How an import calls what the reading of a location calls otherwise."""


@dataclass(frozen=True, slots=True)
class ImportProgress:
    """Where an import stands after a commit; everything counted here is durable."""

    total: int
    imported: int
    already_known: int
    skipped: int
    seconds: float
    photos_per_s: float
    committed: tuple[str, ...]
    """Names of the entries that this commit made durable or found to be so."""

    @property
    def done(self) -> int:
        return self.imported + self.already_known + self.skipped


@dataclass(frozen=True, slots=True)
class ImportReport:
    """What an import did: `total` = `imported` + `already_known` + `len(skipped)`.

    `already_known` are entries whose photo, region and individual were there before, a second copy
    of a photo inside the same source included. `photos_per_s` is over all inputs.
    """

    run_id: UUID
    total: int
    imported: int
    already_known: int
    skipped: tuple[Skip, ...]
    warnings: tuple[Skip, ...]
    seconds: float
    photos_per_s: float


def run_import(
    sessions: sessionmaker[Session],
    store: MediaStore,
    plan: ImportPlan,
    *,
    catalogue_name: str | None = None,
    progress: Callable[[ImportProgress], None] | None = None,
    limits: DecodeLimits | None = None,
) -> ImportReport:
    """Carry out a plan: store files, write rows, commit every few photos, report every skip.

    Entries with a location are read once and left where they are. Photos are decoded in threads
    while the former batch is being written. Running it again, or after a crash, recognises what is
    stored by its content. `progress` is called after each commit.

    Raises:
        indexer.media.MediaError: `disk_full`, or the store is away (`StoreUnavailable`); what was
            committed stays, run it again.
        sqlalchemy.exc.OperationalError: the database went away; the same holds.
    """
    run = _ImportRun(sessions, store, plan, limits or DecodeLimits(), progress)
    run.begin(catalogue_name)
    try:
        run.carry_out()
    except BaseException:
        run.give_up()
        raise
    return run.finish()


@dataclass(slots=True)
class _Tally:
    imported: int = 0
    already_known: int = 0
    skipped: list[Skip] = field(default_factory=list)

    def add(self, other: _Tally) -> None:
        self.imported += other.imported
        self.already_known += other.already_known
        self.skipped += other.skipped

    @property
    def done(self) -> int:
        return self.imported + self.already_known + len(self.skipped)


Prepared = tuple[ImportEntry, StoredPhoto | Skip]
Write = Callable[[Session, ImportEntry, StoredPhoto], bool | Skip]


class _ImportRun:
    """One run: threads prepare photos (read, hash, decode, store), the caller's thread writes."""

    def __init__(
        self,
        sessions: sessionmaker[Session],
        store: MediaStore,
        plan: ImportPlan,
        limits: DecodeLimits,
        progress: Callable[[ImportProgress], None] | None,
    ) -> None:
        self._sessions = sessions
        self._store = store
        self._plan = plan
        self._limits = limits
        self._progress = progress
        self._tally = _Tally()
        self._known = _KnownRows()
        self._started = time.monotonic()

    def begin(self, catalogue_name: str | None) -> None:
        name = catalogue_name or catalogue.DEFAULT_CATALOGUE
        with self._sessions.begin() as session:
            self._catalogue_id = catalogue.ensure_catalogue(session, name).id
            self._run_id = records.start_import(
                session,
                source=str(self._plan.root),
                layout=str(self._plan.layout),
                total=self._plan.total,
            )
            refused = _Tally(skipped=list(self._plan.skips))
            self._write_tally(session, refused)
        self._committed(refused, ())

    def carry_out(self) -> None:
        remote = any(entry.location for entry in self._plan.entries)
        workers = _REMOTE_WORKERS if remote else _WORKERS
        with ThreadPoolExecutor(workers, thread_name_prefix="import") as pool:
            batches = _batches(self._plan.entries)
            ahead: deque[list[Future[Prepared]]] = deque()
            try:
                while True:
                    for batch in islice(batches, _BATCHES_AHEAD - len(ahead)):
                        ahead.append([pool.submit(self._prepare, entry) for entry in batch])
                    if not ahead:
                        return
                    self._write([future.result() for future in ahead.popleft()])
            except BaseException:
                pool.shutdown(wait=True, cancel_futures=True)
                raise

    def finish(self) -> ImportReport:
        with self._sessions.begin() as session:
            for earlier in records.list_imports(session):
                # Killed runs of the same source: this one has done their work.
                if earlier.source == str(self._plan.root) and earlier.state is RunState.RUNNING:
                    records.finish_import(session, earlier.id, RunState.FAILED)
            records.finish_import(session, self._run_id, RunState.DONE)
        seconds = time.monotonic() - self._started
        return ImportReport(
            run_id=self._run_id,
            total=self._plan.total,
            imported=self._tally.imported,
            already_known=self._tally.already_known,
            skipped=tuple(self._tally.skipped),
            warnings=self._plan.warnings,
            seconds=seconds,
            photos_per_s=self._tally.done / max(seconds, 1e-9),
        )

    def give_up(self) -> None:
        """Mark the run as failed, if the database is still there to be told."""
        try:
            with self._sessions.begin() as session:
                records.finish_import(session, self._run_id, RunState.FAILED)
        except OperationalError:
            return

    # --- in the worker threads

    def _prepare(self, entry: ImportEntry) -> Prepared:
        try:
            data = self._read(entry)
        except StoreUnavailable:
            raise
        except MediaError as error:
            return entry, Skip(entry.name, _SKIP_CODES.get(error.code, error.code), error.detail)
        except OSError as error:
            detail = f"{entry.name!r} cannot be read ({error.strerror or error})."
            return entry, Skip(entry.name, "unreadable", detail)
        except BadPhoto as error:
            return entry, Skip(entry.name, error.code, error.detail)
        sha256 = hashlib.sha256(data).hexdigest()
        with self._sessions() as session:
            row = media.find_media(session, sha256)
        if row is not None and self._is_kept(row, entry):
            return entry, of_row(row)
        try:
            described = describe(data, self._limits)
        except BadPhoto as error:
            return entry, Skip(entry.name, error.code, error.detail)
        if entry.location is None:
            self._store.put(data)
        stored = described if row is None else of_row(row)
        moved = row is not None and row.location != entry.location
        return entry, replace(stored, location=entry.location, moved=moved)

    def _is_kept(self, row: MediaRow, entry: ImportEntry) -> bool:
        """Whether the bytes lie where the row says; a copy beside a photo that stays elsewhere is
        wanted nevertheless."""
        if row.location is None:
            return self._store.has(row.sha256)
        if entry.location is None:
            return False
        return row.location == entry.location or (
            self._store.size(row.sha256, row.location) == row.byte_size
        )

    def _read(self, entry: ImportEntry) -> bytes:
        if entry.location is not None:
            return self._store.locations.read(entry.location, self._limits.max_bytes)
        size = entry.path.stat().st_size
        if size > self._limits.max_bytes:
            raise BadPhoto(
                "too_large_bytes",
                f"the file has {size:,} bytes, at most {self._limits.max_bytes:,} are accepted",
            )
        return entry.path.read_bytes()

    # --- in the caller's thread

    def _write(self, batch: list[Prepared]) -> None:
        try:
            tally = self._commit(batch, self._write_one)
        except (Conflict, Invalid):
            self._known = _KnownRows()
            tally = self._commit(batch, self._write_alone)
        self._committed(tally, tuple(entry.name for entry, _ in batch))

    def _commit(self, batch: list[Prepared], write: Write) -> _Tally:
        def attempt() -> _Tally:
            try:
                with self._sessions.begin() as session:
                    return self._write_batch(session, batch, write)
            except OperationalError:
                # What a rolled-back transaction found or made may not exist.
                self._known = _KnownRows()
                raise

        return unless_met(attempt)

    def _write_batch(self, session: Session, batch: list[Prepared], write: Write) -> _Tally:
        tally = _Tally()
        for entry, stored in batch:
            outcome = stored if isinstance(stored, Skip) else write(session, entry, stored)
            if isinstance(outcome, Skip):
                tally.skipped.append(outcome)
            elif outcome:
                tally.imported += 1
            else:
                tally.already_known += 1
        self._write_tally(session, tally)
        return tally

    def _write_alone(
        self, session: Session, entry: ImportEntry, stored: StoredPhoto
    ) -> bool | Skip:
        """In a savepoint, so that one refused photo leaves nothing and the batch goes on; that
        costs a third more statements, so it is done only for batches that need it."""
        try:
            with session.begin_nested():
                return self._write_one(session, entry, stored)
        except (Conflict, Invalid) as error:
            self._known = _KnownRows()
            return Skip(entry.name, error.code, error.detail)

    def _write_one(self, session: Session, entry: ImportEntry, stored: StoredPhoto) -> bool | Skip:
        """True: something new was written; False: it was all there before."""
        box = _fit_box(entry, stored)
        if isinstance(box, Skip):
            return box
        media_id, is_new = ensure_media(session, stored, entry.path.name)
        if not is_new and self._is_known(session, entry, media_id, box):
            return False
        self._annotate(session, entry, stored, media_id, box)
        return True

    def _is_known(
        self, session: Session, entry: ImportEntry, media_id: int, box: Box | None
    ) -> bool:
        found = next(
            (
                one
                for one in media.annotations_on(session, media_id)
                if one.catalogue_id == self._catalogue_id and one.box_px == box
            ),
            None,
        )
        if found is None or entry.individual is None:
            return found is not None
        individual_id = self._known.find_individual(session, self._catalogue_id, entry.individual)
        return individual_id is not None and individual_id == found.individual_id

    def _annotate(
        self,
        session: Session,
        entry: ImportEntry,
        stored: StoredPhoto,
        media_id: int,
        box: Box | None,
    ) -> None:
        taxon_id = self._known.taxon(session, entry.taxon)
        media.ensure_annotation(
            session,
            catalogue_id=self._catalogue_id,
            media_id=media_id,
            individual_id=self._known.individual(
                session, self._catalogue_id, entry.individual, taxon_id
            ),
            encounter_id=self._encounter(session, entry, stored),
            taxon_id=taxon_id,
            box_px=box,
            viewpoint=entry.viewpoint,
            source_ref=entry.source_ref,
        )

    def _encounter(self, session: Session, entry: ImportEntry, stored: StoredPhoto) -> UUID | None:
        external_id, started_at = entry.encounter, entry.started_at
        if external_id is None and stored.taken_at is not None:
            day = stored.taken_at.date().isoformat()
            external_id = day_encounter(self._plan.source, entry.individual, day)
            started_at = stored.taken_at
        return self._known.encounter(session, self._catalogue_id, external_id, started_at, stored)

    def _write_tally(self, session: Session, tally: _Tally) -> None:
        records.advance_import(
            session,
            self._run_id,
            imported=tally.imported,
            already_known=tally.already_known,
            skips=[
                records.ImportSkipRow(skip.entry, skip.code, skip.detail) for skip in tally.skipped
            ],
        )

    def _committed(self, tally: _Tally, names: tuple[str, ...]) -> None:
        self._tally.add(tally)
        if self._progress is None:
            return
        seconds = time.monotonic() - self._started
        self._progress(
            ImportProgress(
                total=self._plan.total,
                imported=self._tally.imported,
                already_known=self._tally.already_known,
                skipped=len(self._tally.skipped),
                seconds=seconds,
                photos_per_s=self._tally.done / max(seconds, 1e-9),
                committed=names,
            )
        )


class _KnownRows:
    """Taxa, individuals and encounters that this run has met already."""

    def __init__(self) -> None:
        self._taxa: dict[str, int | None] = {}
        self._individuals: dict[str, UUID] = {}
        self._encounters: dict[str, UUID] = {}

    def taxon(self, session: Session, label: str | None) -> int | None:
        if label is None:
            return None
        if label not in self._taxa:
            self._taxa[label] = catalogue.ensure_taxon(session, label)
        return self._taxa[label]

    def individual(
        self, session: Session, catalogue_id: UUID, name: str | None, taxon_id: int | None
    ) -> UUID | None:
        if name is None:
            return None
        if name not in self._individuals:
            self._individuals[name] = catalogue.ensure_individual(
                session, catalogue_id=catalogue_id, name=name, taxon_id=taxon_id
            ).id
        return self._individuals[name]

    def find_individual(self, session: Session, catalogue_id: UUID, name: str) -> UUID | None:
        """As `individual`, but nobody is made."""
        if name not in self._individuals:
            found = catalogue.find_individual(session, catalogue_id=catalogue_id, name=name)
            if found is None:
                return None
            self._individuals[name] = found.id
        return self._individuals[name]

    def encounter(
        self,
        session: Session,
        catalogue_id: UUID,
        external_id: str | None,
        started_at: datetime | None,
        photo: StoredPhoto,
    ) -> UUID | None:
        if external_id is None:
            return None
        if external_id not in self._encounters:
            self._encounters[external_id] = catalogue.ensure_encounter(
                session,
                catalogue_id=catalogue_id,
                external_id=external_id,
                started_at=started_at,
                latitude=photo.latitude,
                longitude=photo.longitude,
            )
        return self._encounters[external_id]


def _fit_box(entry: ImportEntry, stored: StoredPhoto) -> Box | Skip | None:
    """The box cut to the photo; None for the whole photo. Boxes that hang out far are refused:
    they were drawn on another version of the photo."""
    if entry.box_px is None:
        return None
    x, y, w, h = entry.box_px
    left, top = max(x, 0), max(y, 0)
    right, bottom = min(x + w, stored.width_px), min(y + h, stored.height_px)
    inside = max(right - left, 0) * max(bottom - top, 0)
    if inside < _BOX_INSIDE_MIN * w * h:
        return Skip(
            entry.name,
            "box_outside",
            f"The box {entry.box_px} does not fit the photo of {stored.width_px} × "
            f"{stored.height_px} px: {100 * inside / (w * h):.0f} % of it lies inside.",
        )
    if (right - left, bottom - top) == (stored.width_px, stored.height_px):
        return None
    return left, top, right - left, bottom - top


def _batches(entries: Sequence[ImportEntry]) -> Iterator[list[ImportEntry]]:
    for start in range(0, len(entries), _BATCH):
        yield list(entries[start : start + _BATCH])
