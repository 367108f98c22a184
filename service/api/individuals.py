"""Individuals: list, read, add, and add photos. No training is needed to find a new one."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlencode
from uuid import UUID

from fastapi import Depends, Header, Query, Request
from fastapi.responses import JSONResponse, Response

from db.queries import catalogue
from indexer.answers import AddedAnswer
from indexer.catalogue import Added
from indexer.identity import etag_of_individual
from service.api import api_router
from service.deps import Curator, Db, State, Viewer, get_runtime
from service.schemas import (
    IndividualCard,
    IndividualDetail,
    IndividualFields,
    IndividualOut,
    IndividualPage,
    PhotoOut,
    PhotosFields,
)
from service.uploads import Upload, multipart_schema, parse_fields, read_upload

router = api_router("individuals")
Limit = Annotated[int, Query(ge=1, le=200)]
Cursor = Annotated[str | None, Query(description="`next_cursor` of the page before.")]
IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=200,
        description="The same key with the same request is answered once and repeated afterwards.",
    ),
]


async def photos_to_add(request: Request) -> Upload:
    """The photos in the field `file`; none when a query's photos are taken."""
    settings = get_runtime(request).settings
    return await read_upload(request, "file", max_files=settings.max_photos_per_request)


PhotosToAdd = Annotated[Upload, Depends(photos_to_add)]


@router.get("/v1/individuals", summary="Individuals, in the order they were added")
def list_individuals(
    request: Request,
    response: Response,
    _: Viewer,
    session: Db,
    text: Annotated[str | None, Query(max_length=200, description="Part of any name.")] = None,
    taxon: Annotated[str | None, Query(max_length=200)] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> IndividualPage:
    """A walk over all pages gives no individual twice and misses none that was there."""
    page = catalogue.list_individuals(session, text=text, taxon=taxon, limit=limit, cursor=cursor)
    next_link(request, response, page.next_cursor)
    return IndividualPage(
        items=[_summary(item) for item in page.items], next_cursor=page.next_cursor
    )


@router.get("/v1/individuals/{individual_id}", summary="One individual with its photos")
def read_individual(
    individual_id: UUID,
    response: Response,
    _: Viewer,
    session: Db,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> IndividualDetail:
    """The one it was merged into, when it was. `cursor` walks over its photos; the ETag stands for
    the other fields."""
    row = catalogue.get_individual(session, individual_id)
    photos = catalogue.annotations_of(session, row.id, limit, cursor)
    response.headers["ETag"] = f'"{etag_of_individual(row)}"'
    return IndividualDetail(
        **card_of(row).model_dump(),
        photos=[
            PhotoOut(
                annotation_id=str(photo.id),
                media_id=str(photo.media_id),
                encounter_id=photo.encounter_id,
                viewpoint=photo.viewpoint,
                added_at=photo.created_at,
            )
            for photo in photos.items
        ],
        next_photos_cursor=photos.next_cursor,
    )


@router.post(
    "/v1/individuals",
    status_code=201,
    response_model=AddedAnswer,
    summary="Add an individual",
    openapi_extra=multipart_schema(
        IndividualFields, "file", "Photos of the individual.", many=True
    ),
)
def create_individual(
    principal: Curator,
    upload: PhotosToAdd,
    state: State,
    idempotency_key: IdempotencyKey = None,
) -> JSONResponse:
    """All or nothing. The photos are embedded before this answers: the next identification can
    return the individual."""
    fields = parse_fields(IndividualFields, upload.fields)
    added = state.runtime.curator.add_individual(
        fields.to_new(),
        upload.photos(),
        query_id=fields.query_id,
        actor=principal.actor,
        idempotency_key=idempotency_key,
    )
    if not added.replayed:
        state.metrics.individuals_added.inc()
    return _added(added)


@router.post(
    "/v1/individuals/{individual_id}/photos",
    status_code=201,
    response_model=AddedAnswer,
    summary="Add photos to an individual",
    openapi_extra=multipart_schema(PhotosFields, "file", "Photos of the individual.", many=True),
)
def add_photos(
    individual_id: UUID,
    principal: Curator,
    upload: PhotosToAdd,
    state: State,
    idempotency_key: IdempotencyKey = None,
) -> JSONResponse:
    """All or nothing; a photo that the individual has already is answered as it is."""
    fields = parse_fields(PhotosFields, upload.fields)
    added = state.runtime.curator.add_photos(
        individual_id,
        upload.photos(),
        query_id=fields.query_id,
        actor=principal.actor,
        idempotency_key=idempotency_key,
    )
    return _added(added)


def _added(added: Added) -> JSONResponse:
    headers = {"Location": f"/v1/individuals/{added.answer.individual.id}"}
    if added.replayed:
        headers["Idempotency-Replayed"] = "true"
    return JSONResponse(added.answer.as_json(), status_code=201, headers=headers)


def next_link(request: Request, response: Response, cursor: str | None) -> None:
    """Says where the next page is, with all that this one was asked for."""
    if cursor is not None:
        asked = urlencode({**request.query_params, "cursor": cursor})
        response.headers["Link"] = f'<{request.url.path}?{asked}>; rel="next"'


def card_of(row: catalogue.IndividualRow) -> IndividualCard:
    """An individual's own fields, as they are answered."""
    return IndividualCard(
        id=row.id,
        name=row.name,
        names=list(row.names),
        taxon=row.taxon,
        taxon_common=row.taxon_common,
        created_at=row.created_at,
        sex=row.sex,
        vitality=row.vitality,
        life_stage=row.life_stage,
        notes=row.notes,
        links=list(row.links),
    )


def _summary(row: catalogue.IndividualSummary) -> IndividualOut:
    return IndividualOut(
        id=row.id,
        name=row.name,
        names=list(row.names),
        taxon=row.taxon,
        taxon_common=row.taxon_common,
        photo_count=row.photo_count,
        best_media_id=str(row.best_media_id) if row.best_media_id is not None else None,
        created_at=row.created_at,
    )
