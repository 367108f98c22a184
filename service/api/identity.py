"""Who is who: names, edits, merges, splits, suggestions of them, and the changes, to be undone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any
from uuid import UUID

from fastapi import Path, Query, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel

from db.queries import catalogue, changes, feed, portraits
from db.queries.changes import ChangeRow
from db.queries.paging import Page
from indexer import suggestions
from indexer.identity import Identity, etag_of_individual
from indexer.once import Asked, once
from indexer.outcomes import Outcome
from indexer.suggestions import SplitSuggestion
from service.api import api_router
from service.api.encounters import IfMatch
from service.api.individuals import Cursor, IdempotencyKey, Limit, card_of, next_link
from service.deps import Curator, Db, Principal, Runtime, Viewer
from service.identity_schemas import (
    ChangeOut,
    ChangePage,
    DismissBody,
    Dismissed,
    IndividualEdit,
    IndividualEdited,
    MergeBody,
    NameBody,
    NameOut,
    NamesOut,
    ReassignBody,
    RenameBody,
    SplitBody,
    SuggestedMerges,
    SuggestedOutliers,
    UndoBody,
    When,
)
from service.runtime import Resight

router = api_router("identity")
Number = Annotated[int, Path(ge=1, le=2**62)]

# ---------------------------------------------------------------- one individual


@router.patch("/v1/individuals/{individual_id}", summary="Edit an individual")
def edit_individual(
    individual_id: UUID,
    body: IndividualEdit,
    principal: Curator,
    runtime: Runtime,
    response: Response,
    if_match: IfMatch = None,
) -> IndividualEdited:
    """Can be undone: `change_id` names the change."""
    fields = body.model_dump(include=body.model_fields_set)
    with runtime.sessions.begin() as session:
        outcome = Identity(session, principal.actor).edit(individual_id, fields, if_match=if_match)
        row = catalogue.get_individual(session, individual_id)
    response.headers["ETag"] = f'"{etag_of_individual(row)}"'
    return IndividualEdited(individual=card_of(row), change_id=outcome.change_id)


@router.get("/v1/individuals/{individual_id}/names", summary="Names of an individual")
def list_names(individual_id: UUID, _: Viewer, session: Db) -> NamesOut:
    """Inside a catalogue a name means one individual, whatever the case."""
    row = catalogue.get_individual(session, individual_id)
    return NamesOut(items=[NameOut.of(name) for name in portraits.names_of(session, row.id)])


@router.post(
    "/v1/individuals/{individual_id}/names",
    status_code=201,
    response_model=Outcome,
    summary="One more name",
)
def add_name(
    individual_id: UUID,
    body: NameBody,
    principal: Curator,
    runtime: Runtime,
    idempotency_key: IdempotencyKey = None,
) -> JSONResponse:
    """An alias, in its own catalogue or another."""
    return _carried_out(
        runtime,
        principal,
        idempotency_key,
        f"names {individual_id}",
        body,
        lambda identity: identity.add_name(individual_id, body.name, catalogue_name=body.catalogue),
        status=201,
    )


@router.delete(
    "/v1/individuals/{individual_id}/names/{name_id}",
    response_model=Outcome,
    summary="One name less",
)
def remove_name(
    individual_id: UUID, name_id: Number, principal: Curator, runtime: Runtime
) -> JSONResponse:
    """Not the primary one: rename the individual first. Can be undone."""
    with runtime.sessions.begin() as session:
        outcome = Identity(session, principal.actor).remove_name(individual_id, name_id)
    return JSONResponse(outcome.as_json())


@router.post(
    "/v1/individuals/{individual_id}/rename",
    response_model=Outcome,
    summary="Rename an individual",
)
def rename(
    individual_id: UUID,
    body: RenameBody,
    principal: Curator,
    runtime: Runtime,
    idempotency_key: IdempotencyKey = None,
) -> JSONResponse:
    """The old name stays an alias unless told otherwise."""
    return _carried_out(
        runtime,
        principal,
        idempotency_key,
        f"rename {individual_id}",
        body,
        lambda identity: identity.rename(individual_id, body.name, keep_alias=body.keep_alias),
    )


@router.get("/v1/individuals/{individual_id}/history", summary="Changes of an individual")
def read_history(
    request: Request,
    response: Response,
    individual_id: UUID,
    _: Viewer,
    session: Db,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> ChangePage:
    """Newest first, those of what was merged into it among them; also of an individual that is no
    more because adding it was undone."""
    page = changes.list_changes(session, individual_id=individual_id, limit=limit, cursor=cursor)
    if not page.items:
        catalogue.get_individual(session, individual_id)
    next_link(request, response, page.next_cursor)
    return _changes(session, page)


# ---------------------------------------------------------------- who is who


@router.post(
    "/v1/individuals/{individual_id}/merge",
    response_model=Outcome,
    summary="Say that two individuals are one",
)
def merge(
    individual_id: UUID,
    body: MergeBody,
    principal: Curator,
    runtime: Runtime,
    idempotency_key: IdempotencyKey = None,
) -> JSONResponse:
    """The individual of the path stays; the other redirects to it, its names become aliases. 409
    where somebody said that they are different, unless `confirm_rejected`."""
    return _carried_out(
        runtime,
        principal,
        idempotency_key,
        f"merge {individual_id}",
        body,
        lambda identity: identity.merge(
            individual_id, body.other_id, confirm_rejected=body.confirm_rejected
        ),
    )


@router.post(
    "/v1/individuals/{individual_id}/split",
    response_model=Outcome,
    summary="Take photos out of an individual",
)
def split(
    individual_id: UUID,
    body: SplitBody,
    principal: Curator,
    runtime: Runtime,
    idempotency_key: IdempotencyKey = None,
) -> JSONResponse:
    """To a new individual or one that is there, which is answered."""
    return _carried_out(
        runtime,
        principal,
        idempotency_key,
        f"split {individual_id}",
        body,
        lambda identity: identity.split(
            individual_id, _numbers(body.annotation_ids), name=body.name, into=body.into
        ),
    )


@router.get(
    "/v1/individuals/{individual_id}/split/suggestion",
    response_model=SplitSuggestion,
    summary="How an individual may fall apart",
)
def read_split_suggestion(
    individual_id: UUID,
    _: Viewer,
    session: Db,
    groups: Annotated[
        int | None, Query(ge=1, le=suggestions.MAX_GROUPS, description="As many groups.")
    ] = None,
) -> JSONResponse:
    """Its photos in groups by likeness: one group where nothing suggests a split."""
    found = suggestions.suggest_split(session, individual_id, groups=groups)
    return JSONResponse(found.as_json())


@router.post(
    "/v1/annotations/reassign", response_model=Outcome, summary="Say whom annotations show"
)
def reassign(
    body: ReassignBody,
    principal: Curator,
    runtime: Runtime,
    idempotency_key: IdempotencyKey = None,
) -> JSONResponse:
    """Of whomever they were before, as one change. Verdicts that say otherwise are answered."""
    return _carried_out(
        runtime,
        principal,
        idempotency_key,
        "reassign",
        body,
        lambda identity: identity.reassign(_numbers(body.annotation_ids), body.individual_id),
    )


# ---------------------------------------------------------------- changes


@router.get("/v1/changes", summary="Changes of who is who, and decisions")
def list_changes(
    request: Request,
    response: Response,
    _: Viewer,
    session: Db,
    since: Annotated[
        When | None, Query(description="From this date or time on, the oldest first.")
    ] = None,
    after: Annotated[
        int | None, Query(ge=0, description="After this `seq`, the oldest first.")
    ] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> ChangePage:
    """A feed for other programs: one that asks each time for what came `after` the last `seq` it
    has seen misses nothing. Without `since` or `after` the newest come first. An undo is an entry
    of its own, and names what it undoes."""
    page = feed.follow(
        session,
        since=since,
        after=after,
        newest_first=since is None and after is None,
        limit=limit,
        cursor=cursor,
    )
    next_link(request, response, page.next_cursor)
    ids = {id_ for row in page.items for id_ in feed.individuals_of(row)}
    names = portraits.names_by_id(session, sorted(ids))
    return ChangePage(
        items=[ChangeOut.of_feed(row, names) for row in page.items], next_cursor=page.next_cursor
    )


@router.get("/v1/changes/{change_id}", summary="One change")
def read_change(change_id: Number, _: Viewer, session: Db) -> ChangeOut:
    """What it did, and whether it was undone."""
    row = changes.get_change(session, change_id)
    return _changes(session, Page((row,), None)).items[0]


@router.post("/v1/changes/{change_id}/undo", response_model=Outcome, summary="Take a change back")
def undo_change(
    change_id: Number,
    principal: Curator,
    runtime: Runtime,
    body: UndoBody | None = None,
    idempotency_key: IdempotencyKey = None,
) -> JSONResponse:
    """Whole or not at all; an undo can be undone. 409 with `blocking_id` where a later change
    stands in the way, and with `decision_id` where a review is to be undone instead."""

    def work(identity: Identity) -> Outcome:
        outcome = identity.undo(change_id)
        if outcome.change_id is not None:
            # A box that is what it was before has lost its vector on the way.
            runtime.filler.embed_after(identity.session, outcome.change_id)
        return outcome

    asked = body or UndoBody()
    return _carried_out(runtime, principal, idempotency_key, f"undo {change_id}", asked, work)


# ---------------------------------------------------------------- suggestions


@router.get(
    "/v1/suggestions/merges",
    response_model=SuggestedMerges,
    summary="Individuals that may be one",
)
def suggest_merges(
    request: Request,
    _: Viewer,
    session: Db,
    runtime: Runtime,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> JSONResponse:
    """The closest first; not those that somebody called different."""
    return _suggested(request, runtime.suggester.merges(session, limit=limit, cursor=cursor))


@router.post(
    "/v1/suggestions/merges/dismiss", status_code=201, summary="Say that two are different"
)
def dismiss_merge(
    body: DismissBody,
    principal: Curator,
    runtime: Runtime,
    response: Response,
    idempotency_key: IdempotencyKey = None,
) -> Dismissed:
    """They are not suggested again, under any model, and merging them asks first."""

    def work(session: Db) -> dict[str, Any]:
        decision = suggestions.dismiss(
            session, body.individual_id, body.other_id, principal.actor, body.note
        )
        return {"decision_id": str(decision)}

    asked = Asked.of(principal.name, idempotency_key, "dismiss", body.model_dump())
    answer, replayed = once(runtime.sessions, asked, work)
    if replayed:
        response.headers["Idempotency-Replayed"] = "true"
    return Dismissed(decision_id=UUID(answer["decision_id"]))


@router.get(
    "/v1/suggestions/outliers",
    response_model=SuggestedOutliers,
    summary="Photos that may show another individual",
)
def suggest_outliers(
    request: Request,
    _: Viewer,
    session: Db,
    runtime: Runtime,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> JSONResponse:
    """Those that look more like another individual than like any other photo of their own."""
    return _suggested(request, runtime.suggester.outliers(session, limit=limit, cursor=cursor))


# ---------------------------------------------------------------- shared


def _carried_out(
    runtime: Resight,
    principal: Principal,
    key: str | None,
    kind: str,
    body: BaseModel,
    work: Callable[[Identity], Outcome],
    status: int = 200,
) -> JSONResponse:
    """The operation in a transaction of its own, or what it would do."""
    if getattr(body, "preview", False):
        with runtime.sessions() as session:
            outcome = work(Identity(session, principal.actor, preview=True))
        return JSONResponse(outcome.as_json())
    asked = Asked.of(principal.name, key, kind, body.model_dump())
    answer, replayed = once(
        runtime.sessions,
        asked,
        lambda session: work(Identity(session, principal.actor)).as_json(),
    )
    headers = {"Idempotency-Replayed": "true"} if replayed else {}
    return JSONResponse(answer, status_code=status, headers=headers)


def _changes(session: Db, page: Page[ChangeRow]) -> ChangePage:
    ids = {id_ for row in page.items for id_ in row.individual_ids}
    names = portraits.names_by_id(session, sorted(ids))
    return ChangePage(
        items=[ChangeOut.of(row, names) for row in page.items], next_cursor=page.next_cursor
    )


def _suggested(request: Request, found: suggestions.Suggested) -> JSONResponse:
    answer = JSONResponse(found.as_json())
    next_link(request, answer, found.next_cursor)
    return answer


def _numbers(ids: list[str]) -> list[int]:
    return [int(id_) for id_ in ids]
