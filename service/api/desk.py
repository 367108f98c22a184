"""The desk: encounters asked as one question, queues, verdicts and their undo, names, views."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlencode
from uuid import UUID

from fastapi import Path, Query, Request
from fastapi.responses import JSONResponse, Response

from db.queries import records
from db.queries.changes import Actor
from db.types import QueryKind
from indexer.answers import IdentifyAnswer
from indexer.desk_answers import (
    QUEUES,
    Decided,
    DeskCandidate,
    DeskQuery,
    QueueName,
    ReservedName,
    SavedView,
)
from service.api import api_router
from service.api.identify import wanted_k
from service.api.individuals import IdempotencyKey
from service.deps import Db, Reviewer, Runtime, Viewer
from service.desk_schemas import (
    NextNameBody,
    QueryBody,
    QueuePage,
    QueueParams,
    QueuesOut,
    ReviewBody,
    UndoBody,
    ViewBody,
    ViewsOut,
)
from service.runtime import Resight

router = api_router("desk")
ViewId = Annotated[int, Path(ge=1, le=2**62)]


# ---------------------------------------------------------------- queries


@router.post("/v1/queries", status_code=201, response_model=DeskQuery, summary="Ask who it is")
def ask(
    body: QueryBody,
    principal: Reviewer,
    runtime: Runtime,
    session: Db,
    idempotency_key: IdempotencyKey = None,
) -> JSONResponse:
    """Several photos as one question with one ranked list of candidates, each with what every
    photo scores best with it. It waits on the desk until somebody decides."""
    query_id = _asked(runtime, body, principal.actor, idempotency_key)
    query = runtime.desk.read(session, query_id, actor=principal.actor)
    headers = {"Location": f"/v1/queries/{query_id}"}
    return JSONResponse(query.as_json(), status_code=201, headers=headers)


def _asked(runtime: Resight, body: QueryBody, actor: Actor, key: str | None) -> UUID:
    if body.query_id is not None:
        return runtime.desk.ask_of_query(
            body.query_id, wanted_votes=body.wanted_votes, actor=actor, idempotency_key=key
        )
    return runtime.desk.ask(
        [int(one) for one in body.annotation_ids],
        encounter_id=body.encounter_id,
        k=wanted_k(body.k, runtime.settings.top_k, runtime.settings.max_k),
        filters=body.filters.to_filters(),
        fuse=body.fuse,
        wanted_votes=body.wanted_votes,
        actor=actor,
        idempotency_key=key,
    )


@router.get(
    "/v1/queries/{query_id}",
    response_model=DeskQuery | IdentifyAnswer,
    summary="A query of the desk, or a stored answer",
)
def read_query(query_id: UUID, principal: Viewer, runtime: Runtime, session: Db) -> JSONResponse:
    """A query of the desk as it is now: while opinions are wanted, those of others are shown only
    after one's own. An identification as it was answered."""
    stored = records.get_query(session, query_id)
    if stored.kind != QueryKind.ENCOUNTER:
        return JSONResponse(stored.answer)
    return JSONResponse(runtime.desk.read(session, query_id, actor=principal.actor).as_json())


@router.get(
    "/v1/queries/{query_id}/candidates/{individual_id}",
    response_model=DeskCandidate,
    summary="A candidate beside a query",
)
def read_candidate(
    query_id: UUID,
    individual_id: UUID,
    _: Viewer,
    runtime: Runtime,
    session: Db,
    limit: Annotated[int, Query(ge=1, le=500)] = 60,
) -> JSONResponse:
    """The individual's photos, closest to the query first, and its encounters."""
    found = runtime.desk.candidate(session, query_id, individual_id, limit=limit)
    return JSONResponse(found.as_json())


# ---------------------------------------------------------------- queues


@router.get("/v1/queues", summary="How many queries wait in each queue")
def list_queues(principal: Viewer, runtime: Runtime, session: Db) -> QueuesOut:
    """For the caller: what they gave an opinion on no longer waits for them."""
    return QueuesOut(items=list(runtime.desk.queues(session, actor=principal.actor)))


@router.get("/v1/queues/{name}", response_model=QueuePage, summary="One queue, a page at a time")
def read_queue(
    request: Request,
    name: Annotated[QueueName, Path(description=f"One of {', '.join(QUEUES)}.")],
    asked: Annotated[QueueParams, Query()],
    principal: Viewer,
    runtime: Runtime,
    session: Db,
) -> JSONResponse:
    """A walk over all pages gives no query twice and misses none that waited all the time."""
    page = runtime.desk.queue(
        session,
        name,
        filters=asked.to_queue_filters(),
        sort=asked.sort,
        limit=asked.limit,
        cursor=asked.cursor,
        after=asked.after,
        actor=principal.actor,
    )
    headers = {}
    if page.next_cursor is not None:
        params = [(k, v) for k, v in request.query_params.multi_items() if k not in _PLACE]
        query = urlencode([*params, ("cursor", page.next_cursor)])
        headers["Link"] = f'<{request.url.path}?{query}>; rel="next"'
    items = [item.as_json() for item in page.items]
    return JSONResponse({"items": items, "next_cursor": page.next_cursor}, headers=headers)


_PLACE = ("cursor", "after")


# ---------------------------------------------------------------- reviews


@router.post("/v1/reviews", status_code=201, response_model=Decided, summary="Decide")
def decide(
    body: ReviewBody, principal: Reviewer, runtime: Runtime, idempotency_key: IdempotencyKey = None
) -> JSONResponse:
    """Of several who decide the same at once one wins; the others get 409 with the `present`
    state and who decided what. A new individual is made, named and given its photos at once."""
    decided = runtime.desk.decide(
        body.to_decision(), actor=principal.actor, idempotency_key=idempotency_key
    )
    return _decided(decided)


@router.post(
    "/v1/reviews/{decision_id}/undo",
    status_code=201,
    response_model=Decided,
    summary="Take a decision back",
)
def undo(
    decision_id: UUID,
    principal: Reviewer,
    runtime: Runtime,
    body: UndoBody | None = None,
    idempotency_key: IdempotencyKey = None,
) -> JSONResponse:
    """A new row; the query is what it was without the decision, and so is the catalogue. 409 with
    `blocking_id` where a later change stands in the way."""
    decided = runtime.desk.undo(
        decision_id,
        version=body.version if body else None,
        actor=principal.actor,
        idempotency_key=idempotency_key,
    )
    return _decided(decided)


def _decided(decided: Decided) -> JSONResponse:
    headers = {}
    if decided.query is not None:
        headers["Location"] = f"/v1/queries/{decided.query.id}"
    if decided.replayed:
        headers["Idempotency-Replayed"] = "true"
    return JSONResponse(decided.as_json(), status_code=201, headers=headers)


# ---------------------------------------------------------------- names and views


@router.post(
    "/v1/names/next", status_code=201, response_model=ReservedName, summary="The next free name"
)
def next_name(
    principal: Reviewer, runtime: Runtime, body: NextNameBody | None = None
) -> JSONResponse:
    """Of the catalogue's most common numbered names, kept for the caller for 15 minutes."""
    asked = body or NextNameBody()
    reserved = runtime.desk.next_name(
        catalogue=asked.catalogue, taxon=asked.taxon, actor=principal.actor
    )
    return JSONResponse(reserved.as_json(), status_code=201)


@router.delete("/v1/names/reserved/{name}", status_code=204, summary="Give a name back")
def release_name(
    name: Annotated[str, Path(max_length=200)],
    principal: Reviewer,
    runtime: Runtime,
    catalogue: Annotated[str | None, Query(max_length=200)] = None,
) -> Response:
    """A name that was reserved and is not wanted after all."""
    runtime.desk.release_name(name, catalogue=catalogue, actor=principal.actor)
    return Response(status_code=204)


@router.get("/v1/views", summary="One's saved views")
def list_views(
    principal: Viewer,
    runtime: Runtime,
    session: Db,
    page: Annotated[str | None, Query(max_length=50)] = None,
) -> ViewsOut:
    """Filters and order of pages, by page and name."""
    return ViewsOut(items=runtime.desk.views(session, page=page, actor=principal.actor))


@router.post("/v1/views", status_code=201, response_model=SavedView, summary="Save a view")
def save_view(body: ViewBody, principal: Viewer, runtime: Runtime) -> JSONResponse:
    """The same name on the same page is replaced."""
    view = runtime.desk.save_view(
        page=body.page, name=body.name, params=body.params, actor=principal.actor
    )
    return JSONResponse(view.as_json(), status_code=201)


@router.delete("/v1/views/{view_id}", status_code=204, summary="Forget a saved view")
def drop_view(view_id: ViewId, principal: Viewer, runtime: Runtime) -> Response:
    """What it showed stays."""
    runtime.desk.drop_view(view_id, actor=principal.actor)
    return Response(status_code=204)
