"""The rules of viewpoints: where left and right are never compared. What the API does is called."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Form, Request
from fastapi.responses import RedirectResponse, Response

from db.errors import DbError
from db.queries import portraits
from db.queries import viewpoints as rules
from db.types import Role
from service.api.encounters import delete_viewpoint_rule, set_viewpoint_rule
from service.deps import Curator, Db, Principal, Runtime, Viewer
from service.encounter_schemas import RuleBody
from service.errors import problem_of
from service.runtime import Resight
from service.web.catalogue_common import FormProblem, form_problem
from service.web.pages import PageRoute, render

router = APIRouter(route_class=PageRoute, include_in_schema=False)

PAGE = "/settings/viewpoints"
Short = Annotated[str, Form(max_length=200)]


@router.get(PAGE)
def viewpoint_rules(request: Request, principal: Viewer, _: Db, runtime: Runtime) -> Response:
    """The rules, the deciding ones first."""
    return _page(request, runtime, principal)


def _page(
    request: Request,
    runtime: Resight,
    principal: Principal,
    *,
    typed: dict[str, str] | None = None,
    form_error: FormProblem | None = None,
    status: int = 200,
) -> Response:
    with runtime.sessions() as session:
        rows = rules.list_rules(session)
        body_parts = portraits.viewpoints(session)[1]
    known = [row.body_part for row in rows if row.body_part]
    return render(
        request,
        "viewpoint_rules.html",
        status=status,
        here="encounters",
        rules=rows,
        body_parts=list(dict.fromkeys([*known, *body_parts])),
        typed={"taxon": "", "body_part": "", "sided": "true"} | (typed or {}),
        form_error=form_error,
        may_edit=principal.may(Role.CURATOR),
    )


@router.post(PAGE)
def set_rule(
    request: Request,
    principal: Curator,
    runtime: Runtime,
    taxon: Short = "",
    body_part: Short = "",
    sided: Literal["true", "false"] = Form("true"),
) -> Response:
    """Makes a rule, or changes the one for the same taxon and part; the next search follows it."""
    body = RuleBody(
        taxon=taxon.strip() or None, body_part=body_part.strip() or None, sided=sided == "true"
    )
    try:
        set_viewpoint_rule(body, principal, runtime)
    except DbError as error:
        return _page(
            request,
            runtime,
            principal,
            typed={"taxon": taxon, "body_part": body_part, "sided": sided},
            form_error=form_problem(error),
            status=problem_of(error).status,
        )
    return RedirectResponse(PAGE, status_code=303)


@router.post(PAGE + "/{rule_id}/delete")
def delete_rule(rule_id: int, principal: Curator, runtime: Runtime) -> Response:
    """A wider rule decides from then on."""
    delete_viewpoint_rule(rule_id, principal, runtime)
    return RedirectResponse(PAGE, status_code=303)
