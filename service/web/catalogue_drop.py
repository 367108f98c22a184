"""The page on which photos are dropped: they become encounters, which are looked at and asked."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Header, Query, Request
from fastapi.responses import RedirectResponse, Response

from db.errors import DbError
from db.queries import portraits
from indexer.encounter_answers import Dropped, EncounterMade
from indexer.identify import NoPhotos
from indexer.photos import PhotosRefused
from service.api.encounters import PhotosDropped
from service.deps import Db, Reviewer, Runtime
from service.encounter_schemas import DropFields
from service.errors import Problem, problem_of
from service.runtime import Resight
from service.uploads import parse_fields
from service.web import encounter_view as view
from service.web.catalogue_common import (
    FormProblem,
    photo_limits,
    photos_problem,
    query,
    read_uuids,
    refusals,
)
from service.web.pages import PageRoute, is_fragment, render

SHOWN_AGAIN = 60
"""Encounters of a drop that its address remembers."""
AT_ONCE = 8
"""Photos in one request of the page: the bar moves while hundreds are on their way."""

router = APIRouter(route_class=PageRoute, include_in_schema=False)


@router.get("/encounters/new")
def drop_page(
    request: Request,
    _: Reviewer,
    session: Db,
    runtime: Runtime,
    made: Annotated[str, Query(max_length=4_000)] = "",
) -> Response:
    """Where photos are dropped; with `made` the encounters that they have become."""
    cards = [
        view.drop_card(runtime.encounters.read(session, id_))
        for id_ in read_uuids(made.split(","))[:SHOWN_AGAIN]
    ]
    return _drop_page(request, runtime, cards)


def _drop_page(
    request: Request,
    runtime: Resight,
    cards: list[view.DropCard],
    *,
    typed: dict[str, Any] | None = None,
    form_error: FormProblem | None = None,
    status: int = 200,
) -> Response:
    settings = runtime.settings
    with runtime.sessions() as session:
        viewpoints, body_parts = portraits.viewpoints(session)
    return render(
        request,
        "encounters_new.html",
        status=status,
        here="encounters",
        cards=cards,
        typed=dict.fromkeys(DropFields.model_fields, "") | (typed or {}),
        opened=bool(typed),
        form_error=form_error,
        viewpoints=viewpoints,
        body_parts=body_parts,
        at_once=min(AT_ONCE, settings.max_photos_per_drop),
        bytes_at_once=settings.max_upload_bytes * 9 // 10,
        limits=photo_limits(settings, settings.max_photos_per_drop),
    )


@router.post("/encounters/new")
def drop(
    request: Request,
    principal: Reviewer,
    upload: PhotosDropped,
    runtime: Runtime,
    idempotency_key: Annotated[str | None, Header(alias="Idempotency-Key")] = None,
) -> Response:
    """Sorts photos into encounters. The page's script sends a few at a time and gets their cards; a
    plain form sends all and is led to them."""
    given = dict(upload.fields)
    into = read_uuids([str(given.pop("into", ""))])
    photos = upload.chosen()
    try:
        fields = parse_fields(DropFields, given)
        if into:
            made = runtime.encounters.add_photos(
                into[0],
                photos,
                labels=fields.labels(),
                ask=fields.ask,
                actor=principal.actor,
                idempotency_key=idempotency_key,
            )
            dropped = Dropped((made,), ())
        else:
            dropped = runtime.encounters.drop(
                fields.to_new(),
                photos,
                gap=timedelta(minutes=fields.gap_minutes),
                together=fields.together,
                continues=fields.continues,
                ask=fields.ask,
                actor=principal.actor,
                idempotency_key=idempotency_key,
            )
    except (DbError, NoPhotos, PhotosRefused, Problem) as error:
        return _refused(request, runtime, given, error)
    return _dropped(request, runtime, dropped)


def _dropped(request: Request, runtime: Resight, dropped: Dropped) -> Response:
    if not is_fragment(request):
        ids = ",".join(one.encounter.id for one in dropped.encounters[:SHOWN_AGAIN])
        return RedirectResponse(f"/encounters/new?{query({'made': ids})}", status_code=303)
    with runtime.sessions() as session:
        cards = [_card_of(runtime, session, one) for one in dropped.encounters]
    return render(
        request,
        "_dropped.html",
        cards=cards,
        refused=[view.refusal(photo) for photo in dropped.refused],
    )


def _card_of(runtime: Resight, session: Db, made: EncounterMade) -> view.DropCard:
    found = runtime.encounters.read(session, UUID(made.encounter.id))
    return view.drop_card(found, notices=view.notices_of(made))


def _refused(
    request: Request, runtime: Resight, given: dict[str, Any], error: Exception
) -> Response:
    """Why nothing was stored; without a script the form comes back as it was, but for the photos,
    which a browser does not put into a form again."""
    if is_fragment(request):
        if not isinstance(error, PhotosRefused):
            raise error
        return render(request, "_dropped.html", cards=[], refused=refusals(error))
    return _drop_page(
        request,
        runtime,
        [],
        typed=given,
        form_error=photos_problem(error),
        status=problem_of(error).status,
    )
