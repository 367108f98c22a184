"""Pages that say who is who: merge, split, mark photos, give them to another; with previews.

They call the operations that the API calls. What has a form of its own comes back with what was
ticked and typed where it is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Form, Query, Request
from fastapi.responses import RedirectResponse, Response
from sqlalchemy.orm import Session

from db.errors import Conflict, DbError, Invalid, NotFound
from db.queries import catalogue, listing, portraits
from db.queries.catalogue import IndividualRow
from db.types import Role
from indexer.identity import Identity
from indexer.suggestions import suggest_split
from service.deps import Curator, Db, Runtime
from service.errors import problem_of
from service.web import catalogue_view as view
from service.web import identity_view
from service.web.catalogue_common import (
    FormProblem,
    carried_out,
    done_change,
    form_problem,
    go_on,
    query,
    read_ids,
)
from service.web.catalogue_describe import home_of
from service.web.pages import PageRoute, is_fragment, render
from service.web.words import gettext

FOUND_AT_ONCE = 12
BESIDE = 4
"""Photos of each of two individuals that are compared before they are merged."""
TO_SPLIT = 500
NOBODY = "nobody"
"""Stands in an address for: it is not known who this is."""

router = APIRouter(route_class=PageRoute, include_in_schema=False)

Short = Annotated[str, Form(max_length=200)]
Ids = Annotated[list[str] | None, Form(alias="id")]


# ------------------------------------------------------------------------------- merge


@router.get("/individuals/{individual_id}/merge")
def merge_form(
    request: Request,
    individual_id: UUID,
    principal: Curator,
    runtime: Runtime,
    other: Annotated[UUID | None, Query(alias="with")] = None,
    text: Annotated[str, Query(max_length=200)] = "",
) -> Response:
    """Finds the other one; with it, what a merge would do."""
    with runtime.sessions() as session:
        row = catalogue.get_individual(session, individual_id)
        if other is not None:
            identity = Identity(session, principal.actor, preview=True)
            return _merge_page(request, session, identity, row, other)
        return _find_page(
            request,
            session,
            "individual_merge.html",
            text,
            leave_out=row.id,
            address=lambda id_: f"/individuals/{row.id}/merge?with={id_}",
            action=f"/individuals/{row.id}/merge",
            one=row,
            url=f"/individuals/{row.id}",
            preview=None,
            form_error=None,
        )


@router.post("/individuals/{individual_id}/merge")
def merge(
    request: Request,
    individual_id: UUID,
    principal: Curator,
    runtime: Runtime,
    other_id: Annotated[UUID, Form()],
    confirm_rejected: Annotated[bool, Form()] = False,
) -> Response:
    """Makes one of two; a pair that somebody called different only with a word more."""
    try:
        outcome = carried_out(
            runtime,
            principal,
            lambda identity: identity.merge(
                individual_id, other_id, confirm_rejected=confirm_rejected
            ),
        )
    except Conflict as error:
        if error.code != "merge_rejected_pair":
            raise
        with runtime.sessions() as session:
            row = catalogue.get_individual(session, individual_id)
            identity = Identity(session, principal.actor, preview=True)
            problem = FormProblem(gettext("Say that you have seen what speaks against it."))
            page = _merge_page(request, session, identity, row, other_id, problem)
        page.status_code = 409
        return page
    return go_on(request, f"/individuals/{individual_id}", outcome.change_id)


def _merge_page(
    request: Request,
    session: Session,
    identity: Identity,
    kept: IndividualRow,
    other_id: UUID,
    form_error: FormProblem | None = None,
) -> Response:
    other = catalogue.get_individual(session, other_id)
    if other.id == kept.id:
        raise Invalid("merge_with_itself", "These are one individual already.")
    outcome = identity.merge(kept.id, other.id)
    return render(
        request,
        "individual_merge.html",
        here="individuals",
        one=kept,
        url=f"/individuals/{kept.id}",
        preview=identity_view.merge_preview(kept, other, outcome),
        both=[
            identity_view.Beside(
                row,
                [view.photo_card(p) for p in portraits.best_photos(session, row.id)[:BESIDE]],
                view.tally_of(portraits.tally(session, row.id)),
            )
            for row in (kept, other)
        ],
        form_error=form_error,
    )


def _find_page(
    request: Request,
    session: Session,
    template: str,
    text: str,
    *,
    leave_out: UUID | None,
    address: Callable[[UUID], str],
    action: str,
    **context: Any,
) -> Response:
    """A page on which an individual is looked for by name; as a fragment what was found alone."""
    found = listing.list_individuals(
        session, text=text.strip() or None, sort="name", limit=FOUND_AT_ONCE + 1
    )
    rows = [row for row in found.items if row.id != leave_out][:FOUND_AT_ONCE]
    cards = [(view.card_of(row, text), address(row.id)) for row in rows]
    if is_fragment(request):
        return render(request, "_found.html", found=cards, text=text)
    return render(
        request, template, here="individuals", found=cards, text=text, action=action, **context
    )


# ------------------------------------------------------------------------------- split


@router.get("/individuals/{individual_id}/split")
def split_form(
    request: Request,
    individual_id: UUID,
    _: Curator,
    session: Db,
    ids: Annotated[str, Query(max_length=80_000)] = "",
    suggest: bool = False,
) -> Response:
    """The photos of an individual, to tick those that show another; with `suggest` those are ticked
    that look like each other more than like the rest."""
    row = catalogue.get_individual(session, individual_id)
    if not suggest:
        return _split_page(request, session, row, read_ids([ids]))
    groups = suggest_split(session, row.id).groups
    apart = [int(id_) for group in groups[1:2] for id_ in group.annotation_ids]
    return _split_page(
        request, session, row, apart, suggestion=identity_view.split_suggestion(groups)
    )


@router.post("/individuals/{individual_id}/split")
def split(
    request: Request,
    individual_id: UUID,
    principal: Curator,
    runtime: Runtime,
    ids: Ids = None,
    name: Short = "",
    step: Literal["preview", "do"] = Form("preview"),
) -> Response:
    """Says what a split would do, and then does it."""
    chosen = read_ids(ids or ())
    try:
        outcome = carried_out(
            runtime,
            principal,
            lambda identity: identity.split(individual_id, chosen, name=name.strip() or None),
            preview=step == "preview",
        )
    except (Conflict, Invalid, NotFound) as error:
        return _split_again(request, runtime, individual_id, chosen, name, error)
    if not outcome.preview and outcome.individual is not None:
        return go_on(request, f"/individuals/{outcome.individual.id}", outcome.change_id)
    with runtime.sessions() as session:
        row = catalogue.get_individual(session, individual_id)
        preview = identity_view.split_preview(row, outcome)
        return _split_page(request, session, row, chosen, name=name, preview=preview)


def _split_again(
    request: Request,
    runtime: Runtime,
    individual_id: UUID,
    chosen: Sequence[int],
    name: str,
    error: DbError,
) -> Response:
    with runtime.sessions() as session:
        row = catalogue.get_individual(session, individual_id)
        problem = form_problem(error)
        page = _split_page(request, session, row, chosen, name=name, form_error=problem)
    page.status_code = problem_of(error).status
    return page


def _split_page(
    request: Request,
    session: Session,
    row: IndividualRow,
    chosen: Sequence[int],
    *,
    name: str = "",
    preview: identity_view.Preview | None = None,
    suggestion: str | None = None,
    form_error: FormProblem | None = None,
) -> Response:
    photos = portraits.photos_of(session, row.id, limit=TO_SPLIT).items
    ticked = set(chosen)
    return render(
        request,
        "individual_split.html",
        here="individuals",
        one=row,
        url=f"/individuals/{row.id}",
        photos=[(view.photo_card(photo), photo.annotation_id in ticked) for photo in photos],
        name=name,
        preview=preview,
        suggestion=suggestion,
        form_error=form_error,
    )


# ------------------------------------------------------------------------------- photos

Act = Literal[
    "reference", "not_reference", "matchable", "not_matchable", "split", "move", "describe"
]


@router.post("/annotations/picked")
def picked_annotations(
    request: Request,
    principal: Curator,
    runtime: Runtime,
    act: Annotated[Act, Form()],
    ids: Ids = None,
    individual: Annotated[UUID | None, Form()] = None,
    back: Annotated[str, Form(max_length=500)] = "",
) -> Response:
    """Marks the photos that were ticked, or leads to where they are split off or given away."""
    chosen = read_ids(ids or ())
    asked = query({"ids": ",".join(map(str, chosen))})
    if act == "split" and individual is not None:
        return _lead(request, f"/individuals/{individual}/split?{asked}")
    if act in ("move", "describe"):
        return _lead(request, f"/annotations/{act}?{asked}")
    outcome = carried_out(
        runtime,
        principal,
        lambda identity: identity.flag(
            chosen,
            is_reference={"reference": True, "not_reference": False}.get(act),
            matchable={"matchable": True, "not_matchable": False}.get(act),
        ),
    )
    back = back or (f"/individuals/{individual}#photos" if individual else "/individuals")
    if not is_fragment(request):
        return go_on(request, back, outcome.change_id)
    with runtime.sessions() as session:
        shots = portraits.photos_by_id(session, chosen)
        return render(
            request,
            "_picked.html",
            photos=[view.photo_card(photo) for photo in shots],
            done=done_change(session, outcome.change_id, principal),
            back=back,
            may_edit=principal.may(Role.CURATOR),
            more_url=None,
        )


def _lead(request: Request, url: str) -> Response:
    if is_fragment(request):
        return Response(status_code=204, headers={"HX-Redirect": url})
    return RedirectResponse(url, status_code=303)


@router.get("/annotations/move")
def move_form(
    request: Request,
    principal: Curator,
    runtime: Runtime,
    ids: Annotated[str, Query(max_length=80_000)] = "",
    to: Annotated[str, Query(max_length=40)] = "",
    text: Annotated[str, Query(max_length=200)] = "",
) -> Response:
    """Finds whom photos show; with it, what giving them there would do."""
    chosen = read_ids([ids])
    asked = query({"ids": ids})
    with runtime.sessions() as session:
        shots = portraits.photos_by_id(session, chosen)
        if not shots:
            raise NotFound("annotation_unknown", "None of these photos is in the catalogue.")
        preview = None
        if to:
            outcome = Identity(session, principal.actor, preview=True).reassign(chosen, _who(to))
            preview = identity_view.move_preview(outcome)
        return _find_page(
            request,
            session,
            "annotations_move.html",
            text,
            leave_out=None,
            address=lambda id_: f"/annotations/move?{asked}&to={id_}",
            action="/annotations/move",
            ids=ids,
            to=to,
            nobody_url=f"/annotations/move?{asked}&to={NOBODY}",
            photos=[view.photo_card(photo) for photo in shots],
            preview=preview,
            back_url=home_of(shots),
        )


@router.post("/annotations/move")
def move(
    request: Request,
    principal: Curator,
    runtime: Runtime,
    ids: Annotated[str, Form(max_length=80_000)] = "",
    to: Annotated[str, Form(max_length=40)] = "",
) -> Response:
    """Says whom photos show."""
    chosen = read_ids([ids])
    with runtime.sessions() as session:
        home = home_of(portraits.photos_by_id(session, chosen))
    outcome = carried_out(runtime, principal, lambda identity: identity.reassign(chosen, _who(to)))
    back = f"/individuals/{outcome.individual.id}" if outcome.individual else home
    return go_on(request, back, outcome.change_id)


def _who(to: str) -> UUID | None:
    if to == NOBODY:
        return None
    try:
        return UUID(to)
    except ValueError as error:
        raise Invalid("individual_unknown", "Choose an individual of the catalogue.") from error
