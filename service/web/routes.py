"""Pages: matching, stored answers, side by side. Each calls what the API calls."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Form, Request
from fastapi.responses import FileResponse, RedirectResponse, Response
from sqlalchemy.orm import Session
from starlette.staticfiles import StaticFiles

from db.errors import Conflict, Invalid, NotFound
from db.queries import catalogue, records
from db.types import QueryKind
from indexer.catalogue import NewIndividual
from indexer.identify import IdentifyOptions, PhotoIn
from service.api.identify import PhotosUpload, wanted_k
from service.deps import AppState, Curator, Db, Reviewer, Runtime, State, Viewer, get_runtime
from service.errors import problem_of
from service.observe import identify_observed
from service.runtime import Resight
from service.schemas import IdentifyFields
from service.uploads import parse_fields
from service.web import figures, terms, view
from service.web.catalogue_common import photo_limits
from service.web.pages import STATIC, PageRoute, asset_version, is_fragment, render
from service.web.words import gettext, lazy

PAGE_K = 12
"""Individuals in an answer on a page: fills rows of two, three, four and six."""
FILM_LENGTH = 24
SAMPLES = {
    "known": (lazy("An animal of the catalogue"), lazy("in a new encounter")),
    "unknown": (lazy("A stranger"), lazy("not in the catalogue")),
    "not_a_whale": (lazy("Not a whale"), lazy("the gate should say so")),
}


@dataclass(frozen=True, slots=True)
class SampleView:
    key: str
    url: str
    title: str
    hint: str


@dataclass(frozen=True, slots=True)
class StoredPhotoView:
    full: str
    thumb: str
    caption: str
    size: str


router = APIRouter(route_class=PageRoute, include_in_schema=False)


_static = StaticFiles(directory=STATIC)


@router.get("/static/{version}/{path:path}")
async def static_file(request: Request, version: str, path: str) -> Response:
    """Style, scripts and the mark; open to all, so that a refusal can be drawn too. A page that was
    opened before an update gets what there is now, and keeps it for this once."""
    response = await _static.get_response(path, request.scope)
    kept = "public, max-age=31536000, immutable" if version == asset_version() else "no-cache"
    response.headers["Cache-Control"] = kept
    return response


# -------------------------------------------------------------------------------------- match page


@router.get("/")
def match_page(request: Request, _: Viewer, runtime: Runtime) -> Response:
    """The empty match page, which says what to do."""
    return render(
        request, "match.html", limits=_limits(runtime), samples=_samples(runtime.settings.data_dir)
    )


def _limits(runtime: Resight) -> dict[str, int]:
    return photo_limits(runtime.settings, runtime.settings.max_photos_per_request)


def _samples_dir(data_dir: Path) -> Path:
    return data_dir / "demo" / "queries"


def _samples(data_dir: Path) -> tuple[SampleView, ...]:
    """The demo's sample queries, where the demo was made."""
    return tuple(
        SampleView(key, f"/samples/{key}.jpg", str(title), str(hint))
        for key, (title, hint) in SAMPLES.items()
        if (_samples_dir(data_dir) / f"{key}.jpg").is_file()
    )


def _sample_path(runtime: Resight, key: str) -> Path:
    path = _samples_dir(runtime.settings.data_dir) / f"{key}.jpg"
    if key not in SAMPLES or not path.is_file():
        raise NotFound("sample_unknown", "There is no such sample; the demo makes them.")
    return path


@router.get("/samples/{key}.jpg")
def sample_photo(key: str, _: Viewer, runtime: Runtime) -> Response:
    """A sample query as it lies on the disk."""
    return FileResponse(_sample_path(runtime, key), media_type="image/jpeg")


@router.post("/samples/{key}")
def ask_sample(
    request: Request,
    key: str,
    principal: Reviewer,
    state: State,
    k: Annotated[str, Form()] = "",
    taxon: Annotated[str, Form()] = "",
) -> Response:
    """Asks about a sample query."""
    photo = PhotoIn(f"{key}.jpg", _sample_path(state.runtime, key).read_bytes())
    fields = parse_fields(IdentifyFields, {"k": k, "taxon": taxon})
    return _ask(request, state, [photo], fields, principal.name)


@router.post("/identify")
def identify(request: Request, principal: Reviewer, upload: PhotosUpload, state: State) -> Response:
    """Asks about photos; with `again`, about those of an earlier query together with new ones."""
    given: dict[str, Any] = dict(upload.fields)
    again = given.pop("again", "")
    photos = upload.chosen()
    if again:
        photos = _photos_of(state.runtime, str(again)) + photos
    return _ask(request, state, photos, parse_fields(IdentifyFields, given), principal.name)


def _photos_of(runtime: Resight, query_id: str) -> list[PhotoIn]:
    """The photos of a stored query, each once."""
    try:
        wanted = UUID(query_id)
    except ValueError as error:
        raise NotFound("query_unknown", f"There is no query {query_id!r}.") from error
    with runtime.sessions() as session:
        answer = records.get_query(session, wanted).answer
        stored = [
            (photo["name"], catalogue.get_media(session, int(photo["media_id"])).sha256)
            for photo in answer["photos"]
            if photo["media_id"]
        ]
    return [PhotoIn(name, runtime.store.read(sha256)) for name, sha256 in stored]


def _ask(
    request: Request,
    state: AppState,
    photos: list[PhotoIn],
    fields: IdentifyFields,
    principal: str,
) -> Response:
    settings = state.runtime.settings
    options = IdentifyOptions(
        k=wanted_k(fields.k, min(PAGE_K, settings.max_k), settings.max_k),
        filters=fields.to_filters(),
        exclude_encounter=fields.exclude_encounter,
        exclude_known=fields.exclude_known,
    )
    answer = identify_observed(state, photos, options, principal, QueryKind.IDENTIFY)
    url = f"/queries/{answer.query_id}"
    if not is_fragment(request):
        return RedirectResponse(url, status_code=303)
    shown = view.present(_as_stored(answer.as_json()))
    page = render(request, "_answer.html", answer=shown)
    page.headers["HX-Push-Url"] = url
    return page


def _as_stored(answer: dict[str, Any]) -> dict[str, Any]:
    """Plain JSON, as the stored form is: what the page shows now is what its permalink will."""
    plain: dict[str, Any] = json.loads(json.dumps(answer))
    return plain


@router.get("/queries/{query_id}")
def stored_answer(
    request: Request, query_id: UUID, _: Viewer, runtime: Runtime, session: Db
) -> Response:
    """An answer as it was given."""
    answer = view.present(records.get_query(session, query_id).answer)
    return render(request, "match.html", answer=answer, limits=_limits(runtime))


@router.get("/queries/{query_id}/matches/{rank}")
def side_by_side(request: Request, query_id: UUID, rank: int, _: Viewer, session: Db) -> Response:
    """Query and candidate beside each other, with all photos of the candidate to choose from."""
    answer = view.present(records.get_query(session, query_id).answer)
    if not 1 <= rank <= len(answer.candidates):
        raise NotFound("match_unknown", f"This query has {len(answer.candidates)} candidates.")
    if not answer.shown_photos:
        raise NotFound("photo_missing", "No photo of this query is stored.")
    card = answer.candidates[rank - 1]
    template = "_compare.html" if is_fragment(request) else "compare.html"
    return render(
        request,
        template,
        answer=answer,
        card=card,
        count=len(answer.candidates),
        query_photo=answer.shown_photos[0],
        film=_film(session, card),
        previous_url=answer.candidates[rank - 2].url if rank > 1 else None,
        next_url=answer.candidates[rank].url if rank < len(answer.candidates) else None,
    )


def _film(session: Session, card: view.CandidateView) -> list[StoredPhotoView]:
    """The candidate's photos, the winning one first."""
    if card.individual.id is None:
        return []
    page = catalogue.annotations_of(session, UUID(card.individual.id), FILM_LENGTH)
    photos = [_stored_photo(session, row) for row in page.items]
    return sorted(photos, key=lambda photo: photo.full != card.full)


def _stored_photo(session: Session, row: catalogue.AnnotationRow) -> StoredPhotoView:
    media = catalogue.get_media(session, row.media_id)
    viewpoint = terms.viewpoint_word(row.viewpoint)
    caption = " · ".join(part for part in (_when(session, row, media), viewpoint) if part)
    return StoredPhotoView(
        full=view.crop_url(row.id, view.VIEW_PX),
        thumb=view.crop_url(row.id),
        caption=caption,
        size=f"{media.width_px} × {media.height_px}",
    )


def _when(session: Session, row: catalogue.AnnotationRow, media: catalogue.MediaRow) -> str:
    """The day of the encounter, or else of the photo."""
    encounter = catalogue.get_encounter(session, row.encounter_id) if row.encounter_id else None
    started = encounter.started_at if encounter else None
    moment = started or media.taken_at
    return figures.day(moment)


# ---------------------------------------------------------------------------- adding an individual


@dataclass(frozen=True, slots=True)
class AddProblem:
    detail: str
    url: str | None


@dataclass(frozen=True, slots=True)
class AddedView:
    name: str
    url: str
    detail: str


@router.post("/queries/{query_id}/individual")
def add_individual(
    request: Request,
    query_id: UUID,
    principal: Curator,
    runtime: Runtime,
    name: Annotated[str, Form(max_length=200)] = "",
    taxon: Annotated[str, Form(max_length=200)] = "",
) -> Response:
    """Adds the photos of a query as a new individual, which the next question can find."""
    try:
        added = runtime.curator.add_individual(
            NewIndividual(name=name, taxon=taxon.strip() or None),
            [],
            query_id=query_id,
            actor=principal.actor,
        ).answer
    except (Conflict, Invalid) as error:
        return _not_added(request, query_id, error, name, taxon)
    url = f"/individuals/{added.individual.id}"
    if not is_fragment(request):
        return RedirectResponse(url, status_code=303)
    findable = sum(photo.embedded for photo in added.photos)
    told = gettext(
        "%(photos)s added, %(findable)s can be found from now on.",
        photos=terms.photos(len(added.photos)),
        findable=figures.number(findable),
    )
    notices = [view.sentence(notice.detail) for notice in added.notices]
    shown = AddedView(
        name=added.individual.name,
        url=url,
        detail=" ".join((told, *notices)),
    )
    return render(request, "_added.html", added=shown)


def _not_added(
    request: Request, query_id: UUID, error: Conflict | Invalid, name: str, taxon: str
) -> Response:
    """The form once more, with what was typed, and the way to the individual in the way."""
    other = error.values.get("individual_id")
    with get_runtime(request).sessions() as session:
        answer = view.present(records.get_query(session, query_id).answer)
    return render(
        request,
        "_add.html" if is_fragment(request) else "match.html",
        status=problem_of(error).status,
        answer=answer,
        limits=_limits(get_runtime(request)),
        add_problem=AddProblem(
            view.sentence(str(error)), f"/individuals/{other}" if other else None
        ),
        add_name=name,
        add_taxon=taxon,
    )
