"""Pages that correct what is known of individuals: one with its names, or many together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Form, Query, Request
from fastapi.responses import RedirectResponse, Response
from sqlalchemy.orm import Session

from db.errors import Conflict, Invalid
from db.queries import catalogue, portraits
from db.queries.catalogue import IndividualRow
from indexer.bulk import edit_individuals
from indexer.identity import Identity, etag_of_individual
from indexer.outcomes import Outcome
from service.deps import Curator, Db, Runtime, Viewer
from service.errors import problem_of
from service.web import catalogue_view as view
from service.web import identity_view
from service.web.catalogue_common import (
    FormProblem,
    carried_out,
    form_problem,
    go_on,
    query,
    read_uuids,
)
from service.web.pages import PageRoute, render
from service.web.words import ngettext

router = APIRouter(route_class=PageRoute, include_in_schema=False)

TOGETHER = ("sex", "life_stage", "vitality", "taxon")
"""What can be said of many individuals at once."""

Typed = Annotated[str, Form(max_length=20_000)]
Short = Annotated[str, Form(max_length=200)]


# ------------------------------------------------------------------------------- one individual


@router.get("/individuals/{individual_id}/edit")
def edit_form(request: Request, individual_id: UUID, _: Curator, session: Db) -> Response:
    """What is known of an individual, to be corrected."""
    row = catalogue.get_individual(session, individual_id)
    return _edit_page(request, row, _typed(row), etag_of_individual(row))


@router.post("/individuals/{individual_id}/edit")
def edit(
    request: Request,
    individual_id: UUID,
    principal: Curator,
    runtime: Runtime,
    etag: Short = "",
    sex: Short = "unknown",
    life_stage: Short = "unknown",
    vitality: Short = "unknown",
    taxon: Short = "",
    notes: Typed = "",
    links: Typed = "",
) -> Response:
    """Corrects it. Where somebody else has done so meanwhile, the form comes back with what was
    typed and what is there now."""
    typed = {
        "sex": sex,
        "life_stage": life_stage,
        "vitality": vitality,
        "taxon": taxon.strip(),
        "notes": notes.strip().replace("\r\n", "\n"),
        "links": links.strip().replace("\r\n", "\n"),
    }
    fields: dict[str, Any] = typed | {
        "taxon": typed["taxon"] or None,
        "notes": typed["notes"] or None,
        "links": typed["links"].split(),
    }
    try:
        outcome = carried_out(
            runtime,
            principal,
            lambda identity: identity.edit(individual_id, fields, if_match=etag or None),
        )
    except (Conflict, Invalid) as error:
        with runtime.sessions() as session:
            row = catalogue.get_individual(session, individual_id)
        page = _edit_page(request, row, typed, etag_of_individual(row), form_problem(error))
        page.status_code = problem_of(error).status
        return page
    return go_on(request, f"/individuals/{individual_id}", outcome.change_id)


def _typed(row: IndividualRow) -> dict[str, str]:
    """What a form shows before anybody typed."""
    return {
        "sex": row.sex.value,
        "life_stage": row.life_stage.value,
        "vitality": row.vitality.value,
        "taxon": row.taxon or "",
        "notes": row.notes or "",
        "links": "\n".join(row.links),
    }


def _edit_page(
    request: Request,
    row: IndividualRow,
    typed: dict[str, str],
    etag: str,
    form_error: FormProblem | None = None,
) -> Response:
    present = _typed(row)
    differs = [name for name in typed if typed[name] != present[name]] if form_error else []
    return render(
        request,
        "individual_edit.html",
        here="individuals",
        one=row,
        url=f"/individuals/{row.id}",
        typed=typed,
        etag=etag,
        form_error=form_error,
        differs=identity_view.differences(present, differs),
        sexes=view.choices(view.SEX),
        vitalities=view.choices(view.VITALITY),
        life_stages=view.choices(view.LIFE_STAGE),
    )


@router.post("/individuals/{individual_id}/names")
def name(
    request: Request,
    individual_id: UUID,
    principal: Curator,
    runtime: Runtime,
    name: Short = "",
    catalogue_name: Annotated[str, Form(alias="catalogue", max_length=200)] = "",
    how: Literal["add", "rename"] = Form("add"),
) -> Response:
    """One more name, or another one to go by."""

    def work(identity: Identity) -> Outcome:
        if how == "rename":
            return identity.rename(individual_id, name)
        return identity.add_name(individual_id, name, catalogue_name=catalogue_name.strip() or None)

    outcome = carried_out(runtime, principal, work)
    return go_on(request, f"/individuals/{individual_id}", outcome.change_id)


@router.post("/individuals/{individual_id}/names/{name_id}/remove")
def remove_name(
    request: Request, individual_id: UUID, name_id: int, principal: Curator, runtime: Runtime
) -> Response:
    """One name less."""
    outcome = carried_out(
        runtime, principal, lambda identity: identity.remove_name(individual_id, name_id)
    )
    return go_on(request, f"/individuals/{individual_id}", outcome.change_id)


# ------------------------------------------------------------------------------- many individuals


@router.get("/individuals/picked")
def picked_individuals(
    _: Viewer,
    ids: Annotated[list[str] | None, Query(alias="id")] = None,
    act: Literal["merge", "edit"] = "merge",
) -> Response:
    """Leads those that were ticked to what is to be done with them."""
    chosen = read_uuids(ids or ())
    if act == "merge" and len(chosen) == 2:
        return RedirectResponse(f"/individuals/{chosen[0]}/merge?with={chosen[1]}", 303)
    if act == "edit" and chosen:
        return RedirectResponse(
            f"/individuals/edit?{query({'ids': ','.join(map(str, chosen))})}", 303
        )
    raise Invalid("nothing_picked", "Tick two individuals to merge them, or any to edit them.")


@router.get("/individuals/edit")
def edit_many_form(
    request: Request, _: Curator, session: Db, ids: Annotated[str, Query(max_length=80_000)] = ""
) -> Response:
    """The same to be said of many individuals."""
    return _many_page(request, session, read_uuids(ids.split(",")), dict.fromkeys(TOGETHER, ""))


@router.post("/individuals/edit")
def edit_many(
    request: Request,
    principal: Curator,
    runtime: Runtime,
    ids: Annotated[str, Form(max_length=80_000)] = "",
    sex: Short = "",
    life_stage: Short = "",
    vitality: Short = "",
    taxon: Short = "",
    step: Literal["preview", "do"] = Form("preview"),
) -> Response:
    """Counts what would change, and then changes it, as one change."""
    chosen = read_uuids(ids.split(","))
    typed = {"sex": sex, "life_stage": life_stage, "vitality": vitality, "taxon": taxon.strip()}
    fields = {name: value for name, value in typed.items() if value}
    try:
        told = carried_out(
            runtime,
            principal,
            lambda identity: edit_individuals(
                identity.session, principal.actor, chosen, fields, preview=step == "preview"
            ),
        )
    except (Conflict, Invalid) as error:
        with runtime.sessions() as session:
            page = _many_page(request, session, chosen, typed, form_error=form_problem(error))
        page.status_code = problem_of(error).status
        return page
    if told.preview:
        with runtime.sessions() as session:
            return _many_page(request, session, chosen, typed, changed=told.changed)
    return go_on(request, "/individuals", told.change_id)


def _many_page(
    request: Request,
    session: Session,
    ids: Sequence[UUID],
    typed: dict[str, str],
    *,
    changed: int | None = None,
    form_error: FormProblem | None = None,
) -> Response:
    names = portraits.names_by_id(session, ids)
    return render(
        request,
        "individuals_edit.html",
        here="individuals",
        ids=",".join(map(str, ids)),
        title=ngettext("Edit %(num)d individual", "Edit %(num)d individuals", len(ids)),
        names=[names[id_] for id_ in ids if id_ in names],
        typed=typed,
        preview=None if changed is None else identity_view.will_change(changed, len(ids)),
        may_go_on=bool(changed),
        form_error=form_error,
        sexes=view.choices(view.SEX),
        vitalities=view.choices(view.VITALITY),
        life_stages=view.choices(view.LIFE_STAGE),
    )
