"""Pages of the review: the queues, and one query beside its candidates. What is decided there goes
to the API."""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import parse_qsl, urlencode
from uuid import UUID

from fastapi import APIRouter, Form, Path, Request
from fastapi.responses import RedirectResponse, Response
from sqlalchemy.orm import Session

from db.errors import Invalid
from db.queries import catalogue
from db.queries.paging import Page
from db.queries.queues import Sort
from db.types import Role
from indexer.desk_answers import QueueItem, QueueName
from service.deps import Db, Principal, Reviewer, Runtime, Viewer
from service.desk_schemas import QueueFields
from service.errors import Problem
from service.runtime import Resight
from service.uploads import parse_fields
from service.web import queue_view, review_view
from service.web.catalogue_common import catalogue_names
from service.web.pages import PageRoute, is_fragment, render
from service.web.queue_view import QUEUES, QueueContext
from service.web.review_keys import KEYS, REASONS
from service.web.told import told
from service.web.words import _, ngettext

PAGE = "review"
"""The page that views are saved for."""
ITEMS_ON_A_PAGE = 50
PHOTOS_IN_A_STRIP = 60

router = APIRouter(route_class=PageRoute, include_in_schema=False)
NO_ITEMS: Page[QueueItem] = Page((), None)


# ---------------------------------------------------------------------------------------- queues


@router.get("/review")
def queues(
    request: Request,
    principal: Viewer,
    session: Db,
    runtime: Runtime,
    cursor: str | None = None,
) -> Response:
    """The queues with their counts, and one of them as a list."""
    return _draw_list(request, principal, session, runtime, cursor=cursor)


def _draw_list(
    request: Request,
    principal: Principal,
    session: Session,
    runtime: Resight,
    *,
    context: QueueContext | None = None,
    cursor: str | None = None,
    view_name: str = "",
    view_problem: str = "",
) -> Response:
    context = context or QueueContext.of(request.query_params)
    page, problem = NO_ITEMS, ""
    try:
        page = _listed(runtime, session, principal, context, cursor)
    except (Problem, Invalid) as error:
        # What was typed stays in the form, with what is wrong above it.
        problem = _what_is_wrong(error)
    views = runtime.desk.views(session, page=PAGE, actor=principal.actor)
    more = urlencode({"cursor": page.next_cursor}) if page.next_cursor else None
    species = sorted({taxon.scientific_name for taxon in catalogue.list_taxa(session)})
    return render(
        request,
        "review.html",
        status=422 if problem or view_problem else 200,
        here="review",
        context=context,
        may_decide=principal.may(Role.REVIEWER),
        tabs=queue_view.tabs(_counts(runtime, session, principal), context),
        help=str(QUEUES[context.name][1]),
        empty=str(QUEUES[context.name][2]),
        rows=queue_view.rows((item.as_json() for item in page.items), context),
        more_url=f"{context.list_url}&{more}" if more else None,
        chips=queue_view.chips(context),
        fields=queue_view.fields(context, species=species, catalogues=catalogue_names(session)),
        sorts=[(value, str(label)) for value, label in queue_view.SORTS.items()],
        views=queue_view.saved_views((view.as_json() for view in views), context),
        problem_text=problem,
        view_name=view_name,
        view_problem=view_problem,
    )


def _counts(runtime: Resight, session: Session, principal: Principal) -> dict[str, int]:
    return {one.name: one.count for one in runtime.desk.queues(session, actor=principal.actor)}


def _what_is_wrong(error: Problem | Invalid) -> str:
    if isinstance(error, Problem) and error.errors:
        named = {f"/{name}": str(label) for name, label in queue_view.FILTERS.items()}
        return " ".join(
            _("%(field)s: %(problem)s.", field=named.get(e.pointer, e.pointer), problem=e.detail)
            for e in error.errors
        )
    return told(str(error))


def _listed(
    runtime: Resight,
    session: Session,
    principal: Principal,
    context: QueueContext,
    cursor: str | None,
) -> Page[QueueItem]:
    fields = parse_fields(QueueFields, dict(context.filters))
    name: QueueName = context.name  # type: ignore[assignment]
    sort: Sort | None = context.sort or None  # type: ignore[assignment]
    return runtime.desk.queue(
        session,
        name,
        filters=fields.to_queue_filters(),
        sort=sort,
        limit=ITEMS_ON_A_PAGE,
        cursor=cursor,
        actor=principal.actor,
    )


@router.post("/review/views")
def keep_view(
    request: Request,
    principal: Viewer,
    session: Db,
    runtime: Runtime,
    name: Annotated[str, Form(max_length=100)] = "",
    params: Annotated[str, Form(max_length=2000)] = "",
) -> Response:
    """Keeps the queue, its filters and its order under a name."""
    context = QueueContext.of(dict(parse_qsl(params)))
    try:
        runtime.desk.save_view(page=PAGE, name=name, params=context.query, actor=principal.actor)
    except Invalid as error:
        return _draw_list(
            request,
            principal,
            session,
            runtime,
            context=context,
            view_name=name,
            view_problem=told(str(error)),
        )
    return RedirectResponse(context.list_url, status_code=303)


@router.post("/review/views/{view_id}/drop")
def drop_view(
    principal: Viewer,
    runtime: Runtime,
    view_id: Annotated[int, Path(ge=1, le=2**62)],
    params: Annotated[str, Form(max_length=2000)] = "",
) -> Response:
    """Forgets a saved view; what it showed stays."""
    runtime.desk.drop_view(view_id, actor=principal.actor)
    context = QueueContext.of(dict(parse_qsl(params)))
    return RedirectResponse(context.list_url, status_code=303)


# ------------------------------------------------------------------------------------ one query

# The addresses of other pages under /review are not ids.


@router.get("/review/{query_id:uuid}")
def item(
    request: Request,
    query_id: UUID,
    principal: Viewer,
    session: Db,
    runtime: Runtime,
    candidate: UUID | None = None,
) -> Response:
    """A query beside a candidate; as a fragment the part of the page that a decision replaces."""
    context = QueueContext.of(request.query_params)
    shown = _item(runtime, session, principal, query_id, candidate, context)
    if is_fragment(request):
        return render(request, "_review_item.html", item=shown)
    left = _counts(runtime, session, principal).get(context.name, 0)
    return render(
        request,
        "review_item.html",
        here="review",
        item=shown,
        context=context,
        count=left,
        left=ngettext("%(num)d left", "%(num)d left", left),
        key_groups=KEYS,
        reasons=REASONS,
    )


def _item(
    runtime: Resight,
    session: Session,
    principal: Principal,
    query_id: UUID,
    candidate: UUID | None,
    context: QueueContext,
) -> review_view.ReviewItem:
    query = runtime.desk.read(session, query_id, actor=principal.actor).as_json()
    wanted = str(candidate) if candidate is not None else None
    match = review_view.choose(query, wanted)
    chosen = wanted or (str(match["individual"]["id"]) if match else None)
    return review_view.present_item(
        query,
        _panel(runtime, session, query_id, UUID(chosen)) if chosen else None,
        context,
        candidate_id=chosen,
        may_decide=principal.may(Role.REVIEWER),
    )


def _panel(
    runtime: Resight, session: Session, query_id: UUID, individual_id: UUID
) -> dict[str, Any]:
    return runtime.desk.candidate(
        session, query_id, individual_id, limit=PHOTOS_IN_A_STRIP
    ).as_json()


@router.post("/queries/{query_id:uuid}/review")
def bring(query_id: UUID, principal: Reviewer, runtime: Runtime) -> Response:
    """Brings a stored answer to the desk, once however often it is pressed."""
    asked = runtime.desk.ask_of_query(
        query_id, actor=principal.actor, idempotency_key=f"review of {query_id}"
    )
    return RedirectResponse(f"/review/{asked}", status_code=303)


@router.get("/review/{query_id:uuid}/candidates/{individual_id:uuid}")
def candidate_beside(
    request: Request,
    query_id: UUID,
    individual_id: UUID,
    principal: Viewer,
    session: Db,
    runtime: Runtime,
) -> Response:
    """The candidate's side of the page alone; without a script, the whole page with it."""
    context = QueueContext.of(request.query_params)
    if not is_fragment(request):
        return RedirectResponse(context.item_url(query_id, str(individual_id)), status_code=303)
    query = runtime.desk.read(session, query_id, actor=principal.actor).as_json()
    panel = _panel(runtime, session, query_id, individual_id)
    return render(
        request,
        "_review_candidate.html",
        panel=review_view.present_panel(query, panel, context),
        may_decide=principal.may(Role.REVIEWER),
    )
