"""Encounters of photos, annotations drawn and corrected, rules of viewpoints."""

from __future__ import annotations

from dataclasses import asdict
from datetime import timedelta
from typing import Annotated
from urllib.parse import urlencode
from uuid import UUID

from fastapi import Depends, Header, Path, Query, Request
from fastapi.responses import JSONResponse, Response

from db.queries import records
from db.queries import viewpoints as rules
from db.queries.encounters import EncounterFilters
from indexer.encounter_answers import (
    AnnotationEdited,
    AnnotationOut,
    AnnotationsEdited,
    Dropped,
    EncounterEdited,
    EncounterMade,
    EncounterView,
)
from indexer.encounter_photos import clean
from service.api import api_router
from service.api.individuals import Cursor, IdempotencyKey, Limit
from service.deps import Curator, Db, Reviewer, Runtime, Viewer, get_runtime
from service.encounter_schemas import (
    AnnotationEdit,
    AnnotationsEdit,
    AskFields,
    DropFields,
    EncounterEdit,
    EncounterFields,
    EncounterPage,
    RegionBody,
    RuleBody,
    RuleOut,
    RulesOut,
    When,
)
from service.uploads import Upload, multipart_schema, parse_fields, read_upload

router = api_router("encounters")
AnnotationId = Annotated[int, Path(ge=1, le=2**62)]
RuleId = Annotated[int, Path(ge=1, le=2**62)]
IfMatch = Annotated[
    str | None,
    Header(
        alias="If-Match",
        description="The ETag of what was read; refused (412) where it has changed.",
    ),
]


async def dropped_photos(request: Request) -> Upload:
    """The photos in the field `file`, up to what one request may drop."""
    settings = get_runtime(request).settings
    return await read_upload(request, "file", max_files=settings.max_photos_per_drop)


PhotosDropped = Annotated[Upload, Depends(dropped_photos)]


@router.get("/v1/encounters", summary="Encounters, the newest first")
def list_encounters(
    request: Request,
    response: Response,
    _: Viewer,
    session: Db,
    runtime: Runtime,
    place: Annotated[str | None, Query(max_length=200, description="Part of the place.")] = None,
    taxon: Annotated[str | None, Query(max_length=200, description="Seen in it.")] = None,
    date_from: Annotated[When | None, Query(description="Started at or after this.")] = None,
    date_to: Annotated[When | None, Query(description="Started before this.")] = None,
    individual: Annotated[UUID | None, Query(description="Seen in it, merges followed.")] = None,
    catalogue: Annotated[str | None, Query(max_length=200)] = None,
    unnamed: Annotated[bool, Query(description="With photos that show nobody known.")] = False,
    oldest_first: bool = False,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> EncounterPage:
    """By their start; one without a start by when it was made. A walk over all pages gives none
    twice and misses none that was there."""
    filters = EncounterFilters(
        place=place,
        taxon=taxon,
        date_from=date_from,
        date_to=date_to,
        individual=individual,
        catalogue=catalogue,
        unnamed=unnamed,
    )
    page = runtime.encounters.browse(
        session, filters, newest_first=not oldest_first, limit=limit, cursor=cursor
    )
    if page.next_cursor is not None:
        asked = {**request.query_params, "limit": limit, "cursor": page.next_cursor}
        response.headers["Link"] = f'<{request.url.path}?{urlencode(asked)}>; rel="next"'
    return EncounterPage(items=list(page.items), next_cursor=page.next_cursor)


@router.post(
    "/v1/encounters",
    status_code=201,
    response_model=EncounterMade,
    summary="An encounter of photos",
    openapi_extra=multipart_schema(
        EncounterFields, "file", "Photos of one encounter, 1 or more.", many=True
    ),
)
def create_encounter(
    principal: Reviewer,
    upload: PhotosDropped,
    runtime: Runtime,
    idempotency_key: IdempotencyKey = None,
) -> JSONResponse:
    """A photo that cannot be read is named, the others are stored and can be found at once. One
    that the catalogue has already is answered as it is there."""
    fields = parse_fields(EncounterFields, upload.fields)
    made = runtime.encounters.create(
        fields.to_new(),
        upload.photos(),
        ask=fields.ask,
        actor=principal.actor,
        idempotency_key=idempotency_key,
    )
    return _made(made)


@router.post(
    "/v1/encounters/drop",
    status_code=201,
    response_model=Dropped,
    summary="Photos sorted into encounters by their times",
    openapi_extra=multipart_schema(
        DropFields, "file", "Photos as they come off a camera.", many=True
    ),
)
def drop_photos(
    principal: Reviewer,
    upload: PhotosDropped,
    runtime: Runtime,
    idempotency_key: IdempotencyKey = None,
) -> JSONResponse:
    """Each encounter is stored whole; sent again after a failure, what is stored is recognised. For
    more photos than one request may have, name the encounters made so far in `continues`."""
    fields = parse_fields(DropFields, upload.fields)
    dropped = runtime.encounters.drop(
        fields.to_new(),
        upload.photos(),
        gap=timedelta(minutes=fields.gap_minutes),
        together=fields.together,
        continues=fields.continues,
        ask=fields.ask,
        actor=principal.actor,
        idempotency_key=idempotency_key,
    )
    return JSONResponse(dropped.as_json(), status_code=201)


@router.get("/v1/encounters/{encounter_id}", response_model=EncounterView, summary="One encounter")
def read_encounter(encounter_id: UUID, _: Viewer, session: Db, runtime: Runtime) -> JSONResponse:
    """Its photos, who was seen together, and what was asked about it. The ETag stands for the
    encounter's own fields."""
    view = runtime.encounters.read(session, encounter_id)
    return JSONResponse(view.as_json(), headers=_tag(view.encounter.etag))


@router.patch(
    "/v1/encounters/{encounter_id}", response_model=EncounterEdited, summary="Correct an encounter"
)
def edit_encounter(
    encounter_id: UUID,
    body: EncounterEdit,
    principal: Reviewer,
    runtime: Runtime,
    if_match: IfMatch = None,
) -> JSONResponse:
    """Can be undone: `change_id` names the change."""
    fields = {name: getattr(body, name) for name in body.model_fields_set}
    edited = runtime.encounters.edit(encounter_id, fields, if_match=if_match, actor=principal.actor)
    return JSONResponse(edited.as_json(), headers=_tag(edited.encounter.etag))


@router.post(
    "/v1/encounters/{encounter_id}/photos",
    status_code=201,
    response_model=EncounterMade,
    summary="More photos of an encounter",
    openapi_extra=multipart_schema(AskFields, "file", "Photos of the encounter.", many=True),
)
def add_encounter_photos(
    encounter_id: UUID,
    principal: Reviewer,
    upload: PhotosDropped,
    runtime: Runtime,
    idempotency_key: IdempotencyKey = None,
) -> JSONResponse:
    """The new ones are asked about, as one question."""
    fields = parse_fields(AskFields, upload.fields)
    made = runtime.encounters.add_photos(
        encounter_id,
        upload.photos(),
        labels=fields.labels(),
        ask=fields.ask,
        actor=principal.actor,
        idempotency_key=idempotency_key,
    )
    return _made(made)


# ---------------------------------------------------------------- annotations


@router.post(
    "/v1/annotations",
    status_code=201,
    response_model=AnnotationEdited,
    summary="Annotate a region of a stored photo",
)
def draw_annotation(
    body: RegionBody, principal: Curator, runtime: Runtime, idempotency_key: IdempotencyKey = None
) -> JSONResponse:
    """It is embedded before this answers, and shows nobody known until somebody says who it is."""
    drawn = runtime.encounters.draw(
        body.to_new(), actor=principal.actor, idempotency_key=idempotency_key
    )
    headers = _tag(drawn.annotation.etag) | {
        "Location": f"/v1/annotations/{drawn.annotation.annotation_id}"
    }
    return JSONResponse(drawn.as_json(), status_code=201, headers=headers)


@router.get(
    "/v1/annotations/{annotation_id}", response_model=AnnotationOut, summary="One annotation"
)
def read_annotation(
    annotation_id: AnnotationId, _: Viewer, session: Db, runtime: Runtime
) -> JSONResponse:
    """A region of a photo, what is known of it, and whom it shows."""
    annotation = runtime.encounters.read_annotation(session, annotation_id)
    return JSONResponse(annotation.as_json(), headers=_tag(annotation.etag))


@router.patch(
    "/v1/annotations/{annotation_id}",
    response_model=AnnotationEdited,
    summary="Correct an annotation",
)
def edit_annotation(
    annotation_id: AnnotationId,
    body: AnnotationEdit,
    principal: Curator,
    runtime: Runtime,
    if_match: IfMatch = None,
) -> JSONResponse:
    """This one and no other of the photo. With another box it is embedded again before this
    answers: its old vector never answers from then on. Can be undone."""
    edited = runtime.encounters.edit_annotation(
        annotation_id, body.changes(), if_match=if_match, actor=principal.actor
    )
    return JSONResponse(edited.as_json(), headers=_tag(edited.annotation.etag))


@router.post(
    "/v1/annotations/edit",
    response_model=AnnotationsEdited,
    summary="Say the same of many annotations",
)
def edit_annotations(body: AnnotationsEdit, principal: Curator, runtime: Runtime) -> JSONResponse:
    """One change, to be undone as one; with `preview` it is only counted."""
    edited = runtime.encounters.edit_annotations(
        [int(id_) for id_ in body.annotation_ids],
        body.changes(),
        preview=body.preview,
        actor=principal.actor,
    )
    return JSONResponse(edited.as_json())


# ---------------------------------------------------------------- rules of viewpoints


@router.get("/v1/viewpoint-rules", summary="Where left and right are never compared")
def list_viewpoint_rules(_: Viewer, session: Db) -> RulesOut:
    """The first that fits a photo decides: of its taxon and body part, of its taxon, of its part,
    of all."""
    return RulesOut(items=[RuleOut.of(row) for row in rules.list_rules(session)])


@router.put("/v1/viewpoint-rules", summary="Make or change a rule of viewpoints")
def set_viewpoint_rule(body: RuleBody, principal: Curator, runtime: Runtime) -> RuleOut:
    """There is one rule for a taxon and a body part; the next search follows it."""
    with runtime.sessions.begin() as session:
        row = rules.set_rule(
            session,
            taxon=body.taxon,
            body_part=clean(body.body_part),
            sided=body.sided,
            set_by=principal.name,
        )
        _note(session, principal.name, "set", row)
    return RuleOut.of(row)


@router.delete(
    "/v1/viewpoint-rules/{rule_id}", status_code=204, summary="Delete a rule of viewpoints"
)
def delete_viewpoint_rule(rule_id: RuleId, principal: Curator, runtime: Runtime) -> None:
    """A wider rule decides from then on; without any, left and right are compared."""
    with runtime.sessions.begin() as session:
        row = rules.delete_rule(session, rule_id)
        _note(session, principal.name, "delete", row)


def _note(session: Db, principal: str, what: str, row: rules.RuleRow) -> None:
    told = {name: value for name, value in asdict(row).items() if name != "created_at"}
    records.add_audit(
        session, principal, f"viewpoint_rule.{what}", f"viewpoint_rule:{row.id}", told
    )


def _made(made: EncounterMade) -> JSONResponse:
    headers = _tag(made.encounter.etag) | {"Location": f"/v1/encounters/{made.encounter.id}"}
    if made.replayed:
        headers["Idempotency-Replayed"] = "true"
    return JSONResponse(made.as_json(), status_code=201, headers=headers)


def _tag(etag: str) -> dict[str, str]:
    return {"ETag": f'"{etag}"'}
