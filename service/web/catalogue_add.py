"""Pages that add: an individual with its first photos, and photos to one that is there."""

from __future__ import annotations

from collections.abc import Callable
from uuid import UUID

from fastapi import APIRouter, Request
from fastapi.responses import Response

from db.errors import DbError
from db.queries import catalogue, names
from db.queries.catalogue import IndividualRow
from indexer.catalogue import Added
from indexer.identify import NoPhotos
from indexer.photos import PhotosRefused
from service.api.encounters import PhotosDropped
from service.deps import Curator, Db, Runtime, State
from service.errors import Problem, problem_of
from service.runtime import Resight
from service.schemas import IndividualFields
from service.uploads import Upload, parse_fields
from service.web import catalogue_view as view
from service.web.catalogue_common import FormProblem, go_on, photo_limits, photos_problem
from service.web.pages import PageRoute, is_fragment, render

router = APIRouter(route_class=PageRoute, include_in_schema=False)


@router.get("/individuals/new")
def new_form(request: Request, _: Curator, session: Db, runtime: Runtime) -> Response:
    """Who is to be added, and the first photos."""
    return _page(request, session, runtime, None)


@router.post("/individuals/new")
def add_individual(
    request: Request, principal: Curator, upload: PhotosDropped, state: State
) -> Response:
    """Adds it; the next question can find it. Without a name it gets the next free one."""

    def work() -> Added:
        new = parse_fields(IndividualFields, upload.fields).to_new()
        added = state.runtime.curator.add_individual(new, upload.chosen(), actor=principal.actor)
        state.metrics.individuals_added.inc()
        return added

    return _carried_out(request, state.runtime, upload, work)


@router.get("/individuals/{individual_id}/add")
def photos_form(
    request: Request, individual_id: UUID, _: Curator, session: Db, runtime: Runtime
) -> Response:
    """More photos of an individual."""
    return _page(request, session, runtime, catalogue.get_individual(session, individual_id))


@router.post("/individuals/{individual_id}/add")
def add_photos(
    request: Request,
    individual_id: UUID,
    principal: Curator,
    upload: PhotosDropped,
    runtime: Runtime,
) -> Response:
    """Adds them; those that the individual has already stay as they are."""

    def work() -> Added:
        return runtime.curator.add_photos(individual_id, upload.chosen(), actor=principal.actor)

    return _carried_out(request, runtime, upload, work, individual_id)


def _carried_out(
    request: Request,
    runtime: Resight,
    upload: Upload,
    work: Callable[[], Added],
    individual_id: UUID | None = None,
) -> Response:
    try:
        added = work().answer
    except (DbError, NoPhotos, PhotosRefused, Problem) as error:
        problem, status = photos_problem(error), problem_of(error).status
    else:
        return go_on(request, f"/individuals/{added.individual.id}", added.change_id)
    if is_fragment(request):
        return render(request, "_refused.html", status=status, form_error=problem)
    # Without a script: a browser does not put the photos into a form again.
    with runtime.sessions() as session:
        one = catalogue.get_individual(session, individual_id) if individual_id else None
        return _page(request, session, runtime, one, upload=upload, problem=problem, status=status)


def _page(
    request: Request,
    session: Db,
    runtime: Resight,
    one: IndividualRow | None,
    *,
    upload: Upload | None = None,
    problem: FormProblem | None = None,
    status: int = 200,
) -> Response:
    home = catalogue.default_catalogue(session)
    return render(
        request,
        "individual_add.html",
        status=status,
        here="individuals",
        one=one,
        url=f"/individuals/{one.id}" if one else "/individuals",
        next_name=None if one else names.next_in(session, home.id),
        typed=dict.fromkeys(IndividualFields.model_fields, "") | (upload.fields if upload else {}),
        form_error=problem,
        sexes=view.choices(view.SEX),
        life_stages=view.choices(view.LIFE_STAGE),
        vitalities=view.choices(view.VITALITY),
        limits=photo_limits(runtime.settings, runtime.settings.max_photos_per_drop),
    )
