"""The history of changes, and taking one back."""

from __future__ import annotations

import re
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Form, Request
from fastapi.responses import Response
from sqlalchemy.orm import Session

from db.errors import Conflict
from db.queries import catalogue, changes, portraits
from indexer.identity import Identity
from service.deps import Curator, Db, Principal, Runtime, Viewer
from service.runtime import Resight
from service.web.catalogue_common import carried_out, change_views, done_change, go_on, query
from service.web.pages import PageRoute, is_fragment, render
from service.web.told import told

ON_A_PAGE = 40
OF_INDIVIDUAL = re.compile(r"/individuals/([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})")

router = APIRouter(route_class=PageRoute, include_in_schema=False)


@router.get("/changes")
def history(
    request: Request,
    principal: Viewer,
    session: Db,
    individual: UUID | None = None,
    cursor: str | None = None,
    done: int | None = None,
) -> Response:
    """What was said of the catalogue, by whom and when, newest first."""
    who = None if individual is None else catalogue.get_individual(session, individual)
    page = changes.list_changes(session, individual_id=individual, limit=ON_A_PAGE, cursor=cursor)
    asked = query({"individual": individual, "cursor": page.next_cursor})
    context: dict[str, Any] = {
        "changes": change_views(session, page.items, principal),
        "more_url": f"/changes?{asked}" if page.next_cursor else None,
        "url": "/changes" if individual is None else f"/changes?individual={individual}",
    }
    if is_fragment(request):
        return render(request, "_changes.html", **context)
    return render(
        request,
        "changes.html",
        here="individuals",
        who=who,
        done=done_change(session, done, principal),
        **context,
    )


@router.post("/changes/{change_id}/undo")
def undo(
    request: Request,
    change_id: int,
    principal: Curator,
    runtime: Runtime,
    back: Annotated[str, Form(max_length=500)] = "/changes",
) -> Response:
    """Takes a change back, whole. Where a later one stands in the way, that one is shown."""
    try:
        undone = _undo(runtime, principal, change_id)
    except Conflict as error:
        return _refused(request, runtime, principal, change_id, error, back)
    with runtime.sessions() as session:
        home = _home(session, back, undone)
    return go_on(request, home, undone)


def _home(session: Session, back: str, undone: int | None) -> str:
    """Where one goes on: not to an individual that is no more, but to one that is left."""
    found = OF_INDIVIDUAL.match(back)
    if found is None or undone is None:
        return back
    touched = changes.get_change(session, undone).individual_ids
    there = portraits.names_by_id(session, [UUID(found[1]), *touched])
    if UUID(found[1]) in there:
        return back
    return f"/individuals/{next(iter(there))}" if there else "/individuals"


def _undo(runtime: Resight, principal: Principal, change_id: int) -> int | None:
    """The change that took it back. What carried out a review's decision is undone with it."""
    with runtime.sessions() as session:
        decision_id = changes.get_change(session, change_id).decision_id
    if decision_id is not None:
        return runtime.desk.undo(decision_id, actor=principal.actor).change_id

    def work(identity: Identity) -> int | None:
        undone = identity.undo(change_id).change_id
        if undone is not None:
            # A box that is what it was before has lost its vector on the way.
            runtime.filler.embed_after(identity.session, undone)
        return undone

    return carried_out(runtime, principal, work)


def _refused(
    request: Request,
    runtime: Resight,
    principal: Principal,
    change_id: int,
    error: Conflict,
    back: str,
) -> Response:
    """Why it cannot be undone, and what to undo first."""
    in_the_way = error.values.get("blocking_id") or error.values.get("by")
    of_review = error.code in ("change_of_decision", "query_moved_on", "decision_undone")
    with runtime.sessions() as session:
        asked = [changes.get_change(session, change_id)]
        if isinstance(in_the_way, int):
            asked.append(changes.get_change(session, in_the_way))
        views = change_views(session, asked, principal)
    return render(
        request,
        "change_refused.html",
        status=409,
        here="individuals",
        detail=told(error.detail),
        wanted=views[0],
        blocking=views[1] if len(views) > 1 else None,
        of_review=of_review,
        back_to=back,
    )
