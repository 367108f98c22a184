"""The composed application: what HTTP, pages and command line all stand on."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session, sessionmaker

from db import embedded, migrate
from db.queries import embeddings, records
from db.queries.embeddings import SpaceRow
from db.session import check_server, make_engine, make_sessions
from indexer.answers import Notice
from indexer.catalogue import ActiveSpace, Curator, active_bundle, register_serving
from indexer.identify import Identifier, IdentifyPolicy
from indexer.inference import Inference
from indexer.media import MediaStore
from indexer.search import Searcher
from models.bundles import Serving, load_serving
from models.gate import AbsentGate
from models.preprocess import DecodeLimits
from models.recipes import GATE_CONFIG
from service.settings import Settings

log = logging.getLogger("resight")


class StartRefused(Exception):
    """The service must not start as it is configured; the message says what to change."""


@dataclass(frozen=True, slots=True)
class Readiness:
    """Whether identification is complete, why not, and what else is worth knowing."""

    ready: bool
    reasons: tuple[Notice, ...]
    notices: tuple[Notice, ...]
    index: dict[str, Any]
    vector_counts: dict[str, int]


@dataclass(frozen=True, slots=True, eq=False)
class Database:
    """A checked, migrated database."""

    engine: Engine
    sessions: sessionmaker[Session]


@dataclass(frozen=True, slots=True, eq=False)
class Resight:
    """Everything that lives as long as the process. Close it at the end."""

    settings: Settings
    engine: Engine
    sessions: sessionmaker[Session]
    store: MediaStore
    serving: Serving
    active: ActiveSpace
    notices: tuple[Notice, ...]
    inference: Inference
    searcher: Searcher
    identifier: Identifier
    curator: Curator

    @property
    def space(self) -> SpaceRow | None:
        """The space that the catalogue is searched in."""
        return self.active.space

    @property
    def gate_installed(self) -> bool:
        """Whether any gate judges photos."""
        return not isinstance(self.serving.gate, AbsentGate)

    @property
    def space_label(self) -> str:
        """The space's name and version, for people and metrics."""
        return f"{self.space.name} {self.space.version}" if self.space else "none"

    def readiness(self) -> Readiness:
        """Looks at the database, the models and the index now; never raises."""
        reasons: list[Notice] = []
        counts: dict[str, int] = {}
        try:
            with self.sessions() as session:
                reasons += self._switched(session)
                if self.space is not None:
                    counts["present"] = embeddings.count_vectors(session, self.space.id)
                    counts["missing"] = embeddings.count_missing(session, self.space.id)
        except SQLAlchemyError:
            reasons.append(Notice("database_unavailable", "The database does not answer."))
        if self.serving.embedder is None:
            reasons.append(_first_problem(self.serving))
        if self.active.problem is not None and self.serving.embedder is not None:
            reasons.append(self.active.problem)
        index, index_problem = self._index()
        if index_problem is not None and not reasons:
            reasons.append(index_problem)
        notices = list(self.notices)
        if counts.get("missing"):
            notices.append(_missing(counts["missing"]))
        return Readiness(not reasons, tuple(reasons), tuple(notices), index, counts)

    def describe_models(self, spaces: Sequence[SpaceRow]) -> dict[str, Any]:
        """What speaks now, the registered spaces, and what could not be loaded."""
        spec = self.serving.embedder.spec if self.serving.embedder else None
        head = self.serving.head
        return {
            "stage": self.serving.stage,
            "bundle": self.serving.bundle,
            "embedder": None
            if spec is None
            else {
                "name": spec.name,
                "version": spec.version,
                "fingerprint": spec.fingerprint,
                "dim": spec.dim,
                "licence": spec.licence,
                "preprocessing": spec.preprocessing.as_dict(),
            },
            "head": None
            if head is None
            else {
                "version": head.version,
                "slots": len(head.labels),
                "mapped": head.mapped,
                "scale": head.scale,
                "min_probability": self.identifier.min_probability,
            },
            "gate": {"model": self.serving.gate.model, "installed": self.gate_installed},
            "spaces": [
                {
                    "name": space.name,
                    "version": space.version,
                    "fingerprint": space.fingerprint,
                    "dim": space.dim,
                    "modality": str(space.modality),
                    "licence": space.licence,
                    "active": self.space is not None and space.id == self.space.id,
                }
                for space in spaces
            ],
            "problems": [
                {"bundle": p.bundle, "code": p.code, "detail": p.detail}
                for p in self.serving.problems
            ],
            "notices": [{"code": n.code, "detail": n.detail} for n in self.notices],
        }

    def close(self) -> None:
        """Ends threads and connections; the embedded database goes on for other processes."""
        self.inference.close()
        self.identifier.close()
        self.searcher.close()
        self.engine.dispose()

    def _switched(self, session: Session) -> list[Notice]:
        now = embeddings.active_space(session)
        if now is None or self.space is None or now.id == self.space.id:
            return []
        return [
            Notice(
                "space_switched",
                f"The catalogue is searched in the space of {now.name} {now.version} by now; start "
                "the service again.",
            )
        ]

    def _index(self) -> tuple[dict[str, Any], Notice | None]:
        if not self.active.usable or self.space is None:
            return {}, None
        status = self.searcher.status(self.space.fingerprint)
        index = {
            "backend": self.settings.search_backend,
            "snapshot": status.snapshot,
            "size": status.size,
            "delta": status.delta,
        }
        problem = None if status.ready else Notice("index_not_ready", status.reason or "Loading.")
        return index, problem


def open_database(settings: Settings) -> Database:
    """Finds or starts the database and brings the embedded one up to date.

    Raises:
        UnsupportedDatabase: too old, without pgvector, or not to be started.
        SchemaMismatch: a database of your own is not at this program's version.
    """
    if settings.database_url is None:
        settings.data_dir.mkdir(parents=True, exist_ok=True)
        engine = make_engine(embedded.start(settings.data_dir).url)
    else:
        engine = make_engine(settings.database_url.get_secret_value())
    try:
        check_server(engine)
        if settings.database_url is None and not migrate.status(engine).up_to_date:
            migrate.upgrade(engine)
        migrate.require_current(engine)
    except BaseException:
        engine.dispose()
        raise
    return Database(engine, make_sessions(engine))


def open_resight(settings: Settings, *, serving: Serving | None = None) -> Resight:
    """Opens the database, loads what can be loaded, and takes the space into use.

    A broken model never stops this: it degrades identification, and `readiness` says why.
    `serving` is used instead of the installed bundles where the caller has loaded one.

    Raises:
        UnsupportedDatabase, SchemaMismatch: as `open_database`.
    """
    database = open_database(settings)
    limits = DecodeLimits(settings.max_photo_bytes, settings.max_photo_pixels)
    serving = serving or _load(settings, database)
    active = register_serving(database.sessions, serving)
    notices = _notices(serving, active)
    store = MediaStore(settings.media_dir, limits)
    inference = Inference(workers=settings.inference_workers, queue=settings.inference_queue)
    searcher = Searcher(database.sessions, settings.snapshots_dir, settings.search_backend)
    if active.usable and active.space is not None:
        searcher.ensure(active.space.fingerprint)
    identifier = Identifier(
        sessions=database.sessions,
        store=store,
        serving=serving,
        space=active.space if active.usable else None,
        head_id=active.head_id,
        searcher=searcher,
        inference=inference,
        policy=IdentifyPolicy(
            limits=limits,
            max_photos=settings.max_photos_per_request,
            refuse_without_gate=settings.gate_policy == "refuse",
            min_probability=settings.min_probability,
            search_timeout_s=settings.search_timeout_s,
        ),
        notices=notices,
    )
    curator = Curator(
        sessions=database.sessions,
        store=store,
        serving=serving,
        active=active,
        inference=inference,
        limits=limits,
    )
    for notice in notices:
        log.warning("%s", notice.detail)
    return Resight(
        settings=settings,
        engine=database.engine,
        sessions=database.sessions,
        store=store,
        serving=serving,
        active=active,
        notices=notices,
        inference=inference,
        searcher=searcher,
        identifier=identifier,
        curator=curator,
    )


def _load(settings: Settings, database: Database) -> Serving:
    with database.sessions() as session:
        preferred = settings.model or active_bundle(session)
    return load_serving(
        settings.models_dir,
        preferred=preferred,
        device=settings.device,
        gate_config=settings.gate_config or GATE_CONFIG,
        threads=settings.threads or None,
    )


def require_keys(settings: Settings, sessions: sessionmaker[Session]) -> None:
    """Refuses to listen beyond this machine without a single API key.

    Raises:
        StartRefused: with what to do.
    """
    if settings.on_loopback:
        return
    with sessions() as session:
        has_key = records.has_active_key(session)
    if not has_key:
        raise StartRefused(
            f"Listening on {settings.host} lets others reach this service, and it has no API key "
            "yet. Make one with `resight keys create NAME --role admin`, or listen on 127.0.0.1."
        )


def _notices(serving: Serving, active: ActiveSpace) -> tuple[Notice, ...]:
    notices = [Notice(p.code, p.detail) for p in (*serving.notices, *serving.problems)]
    if isinstance(serving.gate, AbsentGate):
        notices.append(Notice("gate_absent", f"No gate judges photos: {serving.gate.reason}"))
    if active.problem is not None:
        notices.append(active.problem)
    return tuple(notices)


def _first_problem(serving: Serving) -> Notice:
    if serving.problems:
        problem = serving.problems[0]
        return Notice(problem.code, f"{problem.bundle}: {problem.detail}")
    return Notice("no_embedder", "No embedding model is installed; see `resight models list`.")


def _missing(count: int) -> Notice:
    return Notice(
        "vectors_missing",
        f"{count} stored photos have no vector yet and cannot be found; `resight worker` or "
        "`resight import` embeds them.",
    )
