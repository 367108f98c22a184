"""The page of one annotation: its box on the photo, drawn or corrected, and what is said of it."""

from __future__ import annotations

from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Form, Path, Query, Request
from fastapi.responses import Response
from sqlalchemy.orm import Session

from db.errors import Conflict, Invalid
from db.queries import encounters as rows
from db.queries import media, portraits
from db.types import Role
from indexer.encounter_answers import AnnotationOut, annotation_out
from indexer.encounter_edits import NewRegion
from service.deps import Curator, Db, Principal, Runtime, Viewer
from service.errors import problem_of
from service.runtime import Resight
from service.web import encounter_view as view
from service.web.catalogue_common import FormProblem, done_change, form_problem, go_on
from service.web.pages import PageRoute, render
from service.web.words import gettext

router = APIRouter(route_class=PageRoute, include_in_schema=False)

AnnotationId = Annotated[int, Path(ge=1, le=2**62)]
Short = Annotated[str, Form(max_length=200)]
Pixels = Annotated[str, Form(max_length=12)]
Box = tuple[int, int, int, int]


@router.get("/annotations/new")
def draw_form(
    request: Request,
    media_id: Annotated[int, Query(alias="media", ge=1, le=2**62)],
    _: Curator,
    session: Db,
) -> Response:
    """A photo on which another region is to be drawn."""
    return _draw_page(request, session, media_id, {})


@router.post("/annotations/new")
def draw(
    request: Request,
    principal: Curator,
    runtime: Runtime,
    media_id: Annotated[int, Form(alias="media", ge=1, le=2**62)],
    x: Pixels = "",
    y: Pixels = "",
    width: Pixels = "",
    height: Pixels = "",
    viewpoint: Short = "",
    body_part: Short = "",
) -> Response:
    """Draws it: from then on it is found, and shows nobody known until somebody says who it is."""
    typed = {
        "x": x,
        "y": y,
        "width": width,
        "height": height,
        "viewpoint": viewpoint,
        "body_part": body_part,
    }
    try:
        drawn = runtime.encounters.draw(
            NewRegion(
                media_id,
                _box(x, y, width, height),
                viewpoint=viewpoint.strip() or None,
                body_part=body_part.strip() or None,
            ),
            actor=principal.actor,
        )
    except (Conflict, Invalid) as error:
        with runtime.sessions() as session:
            page = _draw_page(request, session, media_id, typed, form_problem(error))
        page.status_code = problem_of(error).status
        return page
    return go_on(request, f"/annotations/{drawn.annotation.annotation_id}", drawn.change_id)


def _draw_page(
    request: Request,
    session: Session,
    media_id: int,
    typed: dict[str, Any],
    form_error: FormProblem | None = None,
) -> Response:
    photo = media.get_media(session, media_id)
    others = _on(session, media_id)
    shown = view.photo_view(photo, others)
    viewpoints, body_parts = portraits.viewpoints(session)
    return render(
        request,
        "annotation.html",
        here="encounters",
        one=None,
        photo=shown,
        media=media_id,
        typed=dict.fromkeys(("x", "y", "width", "height", "viewpoint", "body_part"), "") | typed,
        etag="",
        form_error=form_error,
        viewpoints=viewpoints,
        body_parts=body_parts,
        may_edit=True,
        done=None,
        notice=None,
        before=None,
        after=None,
    )


@router.get("/annotations/{annotation_id}")
def annotation(
    request: Request,
    annotation_id: AnnotationId,
    principal: Viewer,
    session: Db,
    runtime: Runtime,
    done: int | None = None,
) -> Response:
    """One annotation on its photo."""
    return _page(request, session, runtime, principal, annotation_id, done=done)


def _page(
    request: Request,
    session: Session,
    runtime: Resight,
    principal: Principal,
    annotation_id: int,
    *,
    done: int | None = None,
    typed: dict[str, Any] | None = None,
    form_error: FormProblem | None = None,
    status: int = 200,
) -> Response:
    one = runtime.encounters.read_annotation(session, annotation_id)
    media_id = int(one.media_id)
    before, after = _neighbours(session, one)
    viewpoints, body_parts = portraits.viewpoints(session)
    return render(
        request,
        "annotation.html",
        status=status,
        here="encounters",
        one=one,
        photo=view.region_view(one, _on(session, media_id)),
        media=media_id,
        typed=typed or view.typed_of_region(one),
        etag=one.etag,
        form_error=form_error,
        viewpoints=viewpoints,
        body_parts=body_parts,
        may_edit=principal.may(Role.CURATOR),
        done=done_change(session, done, principal),
        notice=None,
        before=before,
        after=after,
    )


def _on(session: Session, media_id: int) -> list[AnnotationOut]:
    ids = [row.id for row in media.annotations_on(session, media_id)]
    return [annotation_out(row) for row in rows.shown_among(session, ids).values()]


def _neighbours(session: Session, one: AnnotationOut) -> tuple[str | None, str | None]:
    """The photos before and after this one, in the order of their encounter."""
    if one.encounter_id is None:
        return None, None
    ids = [row.id for row in rows.shown_of(session, UUID(one.encounter_id))]
    at = ids.index(int(one.annotation_id))
    before = f"/annotations/{ids[at - 1]}" if at > 0 else None
    after = f"/annotations/{ids[at + 1]}" if at + 1 < len(ids) else None
    return before, after


@router.post("/annotations/{annotation_id}")
def edit(
    request: Request,
    annotation_id: AnnotationId,
    principal: Curator,
    runtime: Runtime,
    etag: Short = "",
    x: Pixels = "",
    y: Pixels = "",
    width: Pixels = "",
    height: Pixels = "",
    viewpoint: Short = "",
    body_part: Short = "",
    is_reference: Annotated[bool, Form()] = False,
    matchable: Annotated[bool, Form()] = False,
) -> Response:
    """Corrects it. With another box it is embedded again: the old one never answers from then
    on."""
    typed = {
        "x": x,
        "y": y,
        "width": width,
        "height": height,
        "viewpoint": viewpoint,
        "body_part": body_part,
        "is_reference": is_reference,
        "matchable": matchable,
    }
    try:
        with runtime.sessions() as session:
            present = runtime.encounters.read_annotation(session, annotation_id)
        fields: dict[Any, Any] = {
            "box_px": _box(x, y, width, height),
            "viewpoint": viewpoint.strip() or None,
            "body_part": body_part.strip() or None,
            "is_reference": is_reference,
            "matchable": matchable,
        }
        changed = {name: v for name, v in fields.items() if getattr(present, name) != v}
        edited = runtime.encounters.edit_annotation(
            annotation_id, changed, if_match=etag or None, actor=principal.actor
        )
    except (Conflict, Invalid) as error:
        with runtime.sessions() as session:
            return _page(
                request,
                session,
                runtime,
                principal,
                annotation_id,
                typed=typed,
                form_error=form_problem(error),
                status=problem_of(error).status,
            )
    return go_on(request, f"/annotations/{annotation_id}", edited.change_id)


def _box(x: str, y: str, width: str, height: str) -> Box | None:
    """The box that was typed; None, the whole photo, where nothing was."""
    given = [part.strip() for part in (x, y, width, height)]
    if not any(given):
        return None
    try:
        left, top, wide, high = (round(float(part)) for part in given)
    except ValueError as error:
        detail = gettext("A box needs all four numbers, in pixels; leave all empty for the photo.")
        raise Invalid("box_invalid", detail) from error
    return left, top, wide, high
