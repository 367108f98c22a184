"""The composed application: what HTTP, pages and command line all stand on."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session, sessionmaker

from db.queries import embeddings, people, records
from db.queries.catalogue import Sizes
from db.queries.changes import Actor
from db.queries.embeddings import SpaceRow, active_space
from indexer.answers import Notice
from indexer.catalogue import Curator
from indexer.desk import Desk, DeskPolicy
from indexer.encounters import Encounters
from indexer.filling import Filler
from indexer.identify import Identifier, IdentifyPolicy
from indexer.inference import Inference
from indexer.media import MediaStore, open_media
from indexer.search import Searcher
from indexer.spaces import ActiveSpace, space_in_use
from indexer.suggestions import Suggester
from indexer.vector_index.milvus import MilvusAt
from models.bundles import Serving, load_serving, load_space, show
from models.errors import BundleError
from models.gate import AbsentGate, Gate
from models.preprocess import DecodeLimits
from models.recipes import GATE_CONFIG
from service.counted import Counted
from service.database import Database, open_database
from service.generations import POLL_S, Generations, Load, Watcher
from service.generations import Generation as Generation
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
    sizes: Sizes | None
    """None while the database does not answer."""
    generation: Generation
    """What it is about."""


class Resight:
    """Everything that lives as long as the process. Close it at the end.

    Which model answers may change meanwhile: a request takes `generation` once and asks nothing
    else who answers.
    """

    def __init__(
        self,
        settings: Settings,
        database: Database,
        *,
        store: MediaStore,
        inference: Inference,
        helpers: ThreadPoolExecutor,
        searcher: Searcher,
        generations: Generations,
        notices: tuple[Notice, ...] = (),
    ) -> None:
        """`notices` are about how the service was started, and go into no answer."""
        self.settings = settings
        self.engine: Engine = database.engine
        self.sessions: sessionmaker[Session] = database.sessions
        self.store = store
        self.inference = inference
        self.searcher = searcher
        limits = photo_limits(settings)
        self.filler = Filler(
            store=store,
            filling=generations.filling,
            look=generations.look,
            inference=inference,
            limits=limits,
        )
        self.curator = Curator(
            sessions=database.sessions, store=store, filler=self.filler, limits=limits
        )
        self.desk = Desk(
            sessions=database.sessions,
            store=store,
            identifier=lambda: generations.current.identifier,
            filler=self.filler,
            policy=desk_policy(settings),
        )
        self.encounters = Encounters(
            sessions=database.sessions,
            store=store,
            filler=self.filler,
            limits=limits,
            ask=self._ask,
        )
        self.suggester = Suggester(database.sessions)
        self._helpers = helpers
        self._generations = generations
        self._notices = notices
        self._watcher: Watcher | None = None
        self._counted = Counted(database.sessions)

    @property
    def generation(self) -> Generation:
        """What answers now, as a whole."""
        return self._generations.current

    @property
    def serving(self) -> Serving:
        return self.generation.serving

    @property
    def active(self) -> ActiveSpace:
        return self.generation.active

    @property
    def space(self) -> SpaceRow | None:
        """The space that the catalogue is searched in."""
        return self.generation.space

    @property
    def identifier(self) -> Identifier:
        return self.generation.identifier

    @property
    def notices(self) -> tuple[Notice, ...]:
        """What every answer tells."""
        return self.generation.notices

    def watch(self, *, poll_s: float = POLL_S) -> None:
        """Follow switches from now on, until `close` or `stop_watching`: when the database tells of
        one, and every `poll_s` seconds besides."""
        if self._watcher is None:
            self._watcher = Watcher(self.engine, self.look, poll_s=poll_s)
            self._watcher.start()

    def stop_watching(self) -> None:
        """Stay with what answers now."""
        if self._watcher is not None:
            self._watcher.stop()
            self._watcher = None

    def look(self) -> None:
        """Take up what the catalogue is searched in by now, as far as the bundles here allow."""
        self._generations.look()

    def sizes(self, session: Session) -> Sizes:
        """How large the catalogue is, with the vectors of the space that is searched."""
        return self._sizes(session, self.generation)

    def readiness(self) -> Readiness:
        """Looks at the database, the models and the index now; never raises."""
        now = self.generation
        reasons: list[Notice] = []
        notices = list(now.notices + self._notices)
        sizes: Sizes | None = None
        try:
            with self.sessions() as session:
                switch = self._switch(session, now)
                sizes = self._sizes(session, now)
        except SQLAlchemyError:
            reasons.append(Notice("database_unavailable", "The database does not answer."))
        else:
            if switch is not None:
                (notices if switch.code == "space_switching" else reasons).append(switch)
        if now.serving.embedder is None:
            reasons.append(_first_problem(now.serving))
        if now.active.problem is not None and now.serving.embedder is not None:
            reasons.append(now.active.problem)
        index, index_problem = self._index(now)
        if index_problem is not None and not reasons:
            reasons.append(index_problem)
        if sizes is not None and now.space is not None and sizes.missing:
            notices.append(_missing(sizes.missing))
        return Readiness(not reasons, tuple(reasons), tuple(notices), index, sizes, now)

    def describe_models(self, spaces: Sequence[SpaceRow]) -> dict[str, Any]:
        """What speaks now, the registered spaces, and what could not be loaded."""
        now, beside = self.generation, self._generations.beside
        serving = now.serving
        spec = serving.embedder.spec if serving.embedder else None
        head = serving.head
        return {
            "stage": serving.stage,
            "bundle": serving.bundle,
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
                "min_probability": now.identifier.min_probability,
            },
            "gate": {"model": serving.gate.model, "installed": now.gate_installed},
            "beside": None
            if beside is None or beside.space is None
            else {
                "name": beside.space.name,
                "version": beside.space.version,
                "fingerprint": beside.space.fingerprint,
            },
            "spaces": [
                {
                    "name": space.name,
                    "version": space.version,
                    "fingerprint": space.fingerprint,
                    "dim": space.dim,
                    "modality": str(space.modality),
                    "licence": space.licence,
                    "active": now.space is not None and space.id == now.space.id,
                }
                for space in spaces
            ],
            "problems": [
                {"bundle": p.bundle, "code": p.code, "detail": p.detail} for p in serving.problems
            ],
            "notices": [{"code": n.code, "detail": n.detail} for n in now.notices + self._notices],
        }

    def close(self) -> None:
        """Ends threads and connections; the embedded database goes on for other processes."""
        self.stop_watching()
        self.inference.close()
        self._helpers.shutdown(wait=True)
        self.suggester.close()
        self.searcher.close()
        self.engine.dispose()

    def _ask(
        self, annotation_ids: Sequence[int], encounter_id: UUID, actor: Actor, key: str
    ) -> UUID:
        return self.desk.ask(
            annotation_ids, encounter_id=encounter_id, actor=actor, idempotency_key=key
        )

    def _sizes(self, session: Session, now: Generation) -> Sizes:
        return self._counted.sizes(session, now.space.id if now.space else None)

    def _switch(self, session: Session, now: Generation) -> Notice | None:
        """What to tell of a space that is in use by now and does not answer here yet."""
        space = embeddings.active_space(session)
        if space is None or now.space is None or now.searches(space) or not now.active.usable:
            return None
        return self._generations.problem_of(space) or Notice(
            "space_switching",
            f"The space of {space.name} {space.version} is in use by now and is being loaded; "
            f"until then answers come from {now.label}.",
        )

    def _index(self, now: Generation) -> tuple[dict[str, Any], Notice | None]:
        if not now.active.usable or now.space is None:
            return {}, None
        status = self.searcher.status(now.space.fingerprint)
        index = {
            "backend": self.settings.search_backend,
            "snapshot": status.snapshot,
            "size": status.size,
            "delta": status.delta,
        }
        problem = None if status.ready else Notice("index_not_ready", status.reason or "Loading.")
        return index, problem


def open_resight(
    settings: Settings, *, serving: Serving | None = None, load: Load | None = None
) -> Resight:
    """Opens the database, loads what can be loaded, and takes the space into use.

    A broken model never stops this: it degrades identification, and `readiness` says why.
    `serving` is used instead of the installed bundles where the caller has loaded one, and `load`
    to take up the bundle of another space later.

    Raises:
        UnsupportedDatabase, SchemaMismatch: as `open_database`.
        StartRefused: the backend is milvus, and no setting says where that is.
    """
    milvus = _milvus(settings)
    database = open_database(settings)
    first, notices = _first_bundle(settings, database) if serving is None else (serving, ())
    store = open_media(
        settings.media_dir,
        settings.media_url,
        sessions=database.sessions,
        limits=photo_limits(settings),
    )
    inference = Inference(workers=settings.inference_workers, queue=settings.inference_queue)
    helpers = ThreadPoolExecutor(4, thread_name_prefix="identify")
    searcher = Searcher(database.sessions, settings.snapshots_dir, settings.search_backend, milvus)
    policy = IdentifyPolicy(
        limits=photo_limits(settings),
        max_photos=settings.max_photos_per_request,
        refuse_without_gate=settings.gate_policy == "refuse",
        min_probability=settings.min_probability,
        search_timeout_s=settings.search_timeout_s,
        rejected_pairs=settings.rejected_pairs,
    )

    def make_identifier(
        serving: Serving, active: ActiveSpace, told: tuple[Notice, ...]
    ) -> Identifier:
        return Identifier(
            sessions=database.sessions,
            store=store,
            serving=serving,
            space=active.space if active.usable else None,
            head_id=active.head_id,
            searcher=searcher,
            inference=inference,
            helpers=helpers,
            policy=policy,
            notices=told,
        )

    generations = Generations(
        database.sessions, searcher, load or _loader(settings), make_identifier, first
    )
    for notice in generations.current.notices + notices:
        log.warning("%s", notice.detail)
    return Resight(
        settings,
        database,
        store=store,
        inference=inference,
        helpers=helpers,
        searcher=searcher,
        generations=generations,
        notices=notices,
    )


def desk_policy(settings: Settings) -> DeskPolicy:
    """What the settings say of the desk."""
    return DeskPolicy(
        k=settings.top_k,
        rejected_pairs=settings.rejected_pairs,
        votes_min=settings.votes_min,
        votes_share=settings.votes_share,
        gate_sample=settings.gate_sample,
        limits=photo_limits(settings),
    )


def photo_limits(settings: Settings) -> DecodeLimits:
    """How large a photo may be."""
    return DecodeLimits(settings.max_photo_bytes, settings.max_photo_pixels)


def _milvus(settings: Settings) -> MilvusAt | None:
    if settings.search_backend != "milvus":
        return None
    if settings.milvus_uri is None:
        raise StartRefused(
            "RESIGHT_SEARCH_BACKEND is milvus; set RESIGHT_MILVUS_URI to say where Milvus is, for "
            "example http://127.0.0.1:19530."
        )
    token = settings.milvus_token.get_secret_value() if settings.milvus_token else ""
    return MilvusAt(settings.milvus_uri, token, settings.milvus_index)


def _loader(settings: Settings) -> Load:
    def load(fingerprint: str, gate: Gate) -> Serving:
        return load_space(
            settings.models_dir,
            fingerprint,
            device=settings.device,
            gate_config=settings.gate_config or GATE_CONFIG,
            threads=settings.threads or None,
            gate=gate,
        )

    return load


def _first_bundle(settings: Settings, database: Database) -> tuple[Serving, tuple[Notice, ...]]:
    """The bundle of the space in use; the one that was asked for only where none is. And what an
    operator should know of that."""
    with database.sessions() as session:
        active, in_use = active_space(session), space_in_use(session)
    notices: tuple[Notice, ...] = ()
    if in_use is not None:
        notices = _not_asked_for(settings, in_use)
        try:
            return _loader(settings)(in_use.fingerprint, AbsentGate("none is loaded yet")), notices
        except BundleError as error:
            log.warning("The bundle of the space in use cannot be loaded: %s", error.detail)
    # Whatever is loaded now can at least judge photos, and say why it cannot search.
    preferred = settings.model if in_use is None else None
    preferred = preferred or (active.name if active else None)
    serving = load_serving(
        settings.models_dir,
        preferred=preferred,
        device=settings.device,
        gate_config=settings.gate_config or GATE_CONFIG,
        threads=settings.threads or None,
    )
    return serving, notices


def _not_asked_for(settings: Settings, in_use: SpaceRow) -> tuple[Notice, ...]:
    if settings.model is None:
        return ()
    try:
        asked = show(settings.models_dir, settings.model).manifest
    except BundleError:
        asked = None
    if asked is not None and asked.fingerprint == in_use.fingerprint:
        return ()
    return (
        Notice(
            "model_not_in_use",
            f"RESIGHT_MODEL names {settings.model}, but the catalogue is searched with "
            f"{in_use.name} {in_use.version}; `resight reindex start {settings.model}` moves it.",
        ),
    )


def require_keys(settings: Settings, sessions: sessionmaker[Session]) -> None:
    """Refuses to be reached from elsewhere without an API key or an account with a password.

    Raises:
        StartRefused: with what to do.
    """
    if settings.on_loopback:
        return
    with sessions() as session:
        guarded = records.has_active_key(session) or people.can_sign_in(session)
    if not guarded:
        raise StartRefused(
            f"Listening on {settings.host}"
            f"{' behind a proxy' if settings.trusted_proxies else ''} lets others reach this "
            "service, and it has neither an account with a password nor an API key yet. Make one "
            "with `resight users add LOGIN --role admin` or `resight keys create NAME --role "
            "admin`, or listen on 127.0.0.1."
        )


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
