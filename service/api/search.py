"""Search by vector or by stored annotation, and the vectors themselves."""

from __future__ import annotations

from typing import Annotated

from fastapi import Path
from fastapi.responses import JSONResponse
from sqlalchemy.orm import Session

from indexer.answers import SearchAnswer
from indexer.identify import IdentifyOptions
from service.api import api_router
from service.api.identify import wanted_k
from service.deps import Db, Reviewer, Runtime, Viewer
from service.errors import FieldError, Problem
from service.runtime import Resight
from service.schemas import EmbeddingOut, SearchBody, SimilarBody

router = api_router("search")
AnnotationId = Annotated[int, Path(ge=1, le=2**62)]


def search_options(runtime: Resight, body: SearchBody | SimilarBody) -> IdentifyOptions:
    """What the body asks for, within the limits."""
    return IdentifyOptions(
        k=wanted_k(body.k, runtime.settings.top_k, runtime.settings.max_k),
        filters=body.filters.to_filters(),
        exclude_encounter=body.exclude_encounter,
    )


@router.post(
    "/v1/search", response_model=SearchAnswer, summary="Individuals near a vector or annotation"
)
def search(body: SearchBody, _: Reviewer, runtime: Runtime, session: Db) -> JSONResponse:
    """A vector needs the fingerprint of the model that made it: two spaces are never compared."""
    options = search_options(runtime, body)
    if body.annotation_id is not None:
        answer = runtime.identifier.search_annotation(
            session, int(body.annotation_id), options, exclude_self=body.exclude_self
        )
    else:
        answer = _by_vector(runtime, session, body, options)
    return JSONResponse(answer.as_json())


def _by_vector(
    runtime: Resight, session: Session, body: SearchBody, options: IdentifyOptions
) -> SearchAnswer:
    if body.fingerprint is None:
        detail = "a vector search names the fingerprint of the model that made the vector"
        raise Problem(
            422,
            "fingerprint_missing",
            detail + "; see /v1/models.",
            errors=[FieldError("/fingerprint", detail)],
        )
    if body.exclude_encounter == "own":
        detail = "a vector has no encounter of its own; give an encounter's id"
        raise Problem(422, "invalid", detail, errors=[FieldError("/exclude_encounter", detail)])
    return runtime.identifier.search_vector(session, body.vector or [], body.fingerprint, options)


@router.post(
    "/v1/annotations/{annotation_id}/similar",
    response_model=SearchAnswer,
    summary="Individuals near a stored annotation",
)
def similar_to_annotation(
    annotation_id: AnnotationId,
    _: Reviewer,
    runtime: Runtime,
    session: Db,
    body: SimilarBody | None = None,
) -> JSONResponse:
    """The annotation's own photo and near-duplicates of it are left out, unless asked for."""
    asked = body or SimilarBody()
    answer = runtime.identifier.search_annotation(
        session, annotation_id, search_options(runtime, asked), exclude_self=asked.exclude_self
    )
    return JSONResponse(answer.as_json())


@router.get("/v1/annotations/{annotation_id}/embedding", summary="A stored vector")
def read_embedding(
    annotation_id: AnnotationId, _: Viewer, runtime: Runtime, session: Db
) -> EmbeddingOut:
    """The annotation's vector in the space that is searched, of unit length."""
    vector, fingerprint = runtime.identifier.embedding(session, annotation_id)
    return EmbeddingOut(
        annotation_id=str(annotation_id),
        fingerprint=fingerprint,
        dim=len(vector),
        vector=vector,
    )
