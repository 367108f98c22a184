"""`POST /v1/identify`."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request
from fastapi.responses import JSONResponse

from db.types import QueryKind
from indexer.answers import IdentifyAnswer
from indexer.identify import IdentifyOptions
from service.api import api_router
from service.deps import Reviewer, State, get_runtime
from service.errors import FieldError, Problem
from service.observe import identify_observed
from service.schemas import IdentifyFields
from service.uploads import Upload, multipart_schema, parse_fields, read_upload

router = api_router("identify")


async def photos_upload(request: Request) -> Upload:
    """The photos of one encounter in the field `file`."""
    settings = get_runtime(request).settings
    return await read_upload(request, "file", max_files=settings.max_photos_per_request)


PhotosUpload = Annotated[Upload, Depends(photos_upload)]


def wanted_k(asked: int | None, default: int, largest: int) -> int:
    """How many individuals to answer.

    Raises:
        Problem: 422 when more are asked for than allowed.
    """
    if asked is not None and asked > largest:
        detail = f"at most {largest} individuals are answered, {asked} were asked for"
        raise Problem(422, "k_too_large", detail + ".", errors=[FieldError("/k", detail)])
    return asked if asked is not None else default


@router.post(
    "/v1/identify",
    response_model=IdentifyAnswer,
    summary="Who is this?",
    openapi_extra=multipart_schema(
        IdentifyFields, "file", "Photos of one encounter, 1 or more.", many=True
    ),
)
def identify(principal: Reviewer, upload: PhotosUpload, state: State) -> JSONResponse:
    """Gate, default answer and nearest individuals for the photos of one encounter.

    A photo that the gate rejects is a result (200). The query is stored before it is answered.
    """
    fields = parse_fields(IdentifyFields, upload.fields)
    settings = state.runtime.settings
    options = IdentifyOptions(
        k=wanted_k(fields.k, settings.top_k, settings.max_k),
        filters=fields.to_filters(),
        exclude_encounter=fields.exclude_encounter,
        exclude_known=fields.exclude_known,
    )
    answer = identify_observed(state, upload.photos(), options, principal.name, QueryKind.IDENTIFY)
    return JSONResponse(answer.as_json())
