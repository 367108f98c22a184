"""Errors on the wire: problem+json (RFC 9457), and the one table from error to status."""

from __future__ import annotations

import errno
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import psycopg
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.exceptions import HTTPException

from db.errors import Conflict, DbError, Invalid, NotFound, SchemaMismatch, UnsupportedDatabase
from indexer.archive import BadArchive
from indexer.identify import GateUnavailable, NoPhotos, NoReadablePhoto, TooManyPhotos
from indexer.inference import Busy
from indexer.ingest import PhotosRefused
from indexer.media import MediaError
from indexer.search import SearchTimeout, SearchUnavailable, WrongSpace
from models.errors import BundleError
from models.preprocess import BadPhoto

log = logging.getLogger("resight")

PROBLEM_JSON = "application/problem+json"
TYPE_PREFIX = "urn:resight:problem:"


@dataclass(frozen=True, slots=True)
class FieldError:
    """One thing that is wrong, and where: a JSON pointer into the request."""

    pointer: str
    detail: str


class Problem(Exception):
    """An error that a route raises by itself; everything else meets the table below."""

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        *,
        errors: Sequence[FieldError] = (),
        headers: Mapping[str, str] | None = None,
        links: Mapping[str, str] | None = None,
        members: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail
        self.errors = tuple(errors)
        self.headers = dict(headers or {})
        self.links = dict(links or {})
        self.members = dict(members or {})


BAD_PHOTO_STATUS = {
    "empty": 400,
    "too_large_bytes": 413,
    "too_many_pixels": 413,
    "unsupported_format": 415,
    "animated": 415,
    "truncated": 422,
    "corrupted": 422,
}

BAD_ARCHIVE_STATUS = {
    "empty": 400,
    "not_a_zip": 400,
    "broken_zip": 400,
    "split_zip": 400,
    "too_many_entries": 413,
    "directory_too_large": 413,
    "total_too_large": 413,
    "compression_ratio": 413,
}

MEDIA_STATUS = {
    "media_missing": 404,
    "media_damaged": 500,
    "not_a_sha256": 422,
    "bad_size": 422,
    "bad_box": 422,
    "bad_location": 422,
    "disk_full": 507,
    "store_unavailable": 503,
    "store_refused": 503,
}

STATUS: tuple[tuple[type[Exception], int, str], ...] = (
    (NotFound, 404, "not_found"),
    (Conflict, 409, "conflict"),
    (Invalid, 422, "invalid"),
    (UnsupportedDatabase, 503, "unsupported_database"),
    (SchemaMismatch, 503, "schema_mismatch"),
    (DbError, 500, "database_error"),
    (NoPhotos, 422, "no_photos"),
    (TooManyPhotos, 413, "too_many_photos"),
    (NoReadablePhoto, 422, "corrupted"),
    (PhotosRefused, 422, "corrupted"),
    (BadPhoto, 422, "corrupted"),
    (BadArchive, 400, "broken_zip"),
    (MediaError, 500, "media_error"),
    (WrongSpace, 422, "wrong_space"),
    (SearchTimeout, 504, "search_timeout"),
    (SearchUnavailable, 503, "search_unavailable"),
    (BundleError, 422, "bundle_error"),
    (GateUnavailable, 503, "gate_unavailable"),
    (Busy, 503, "busy"),
    (OperationalError, 503, "database_unavailable"),
    (InterfaceError, 503, "database_unavailable"),
    (psycopg.OperationalError, 503, "database_unavailable"),
    (psycopg.InterfaceError, 503, "database_unavailable"),
    (PoolTimeout, 503, "database_busy"),
)
"""The first row whose type fits gives the status, and the code where the error has none itself."""

CODE_STATUS = (
    BAD_PHOTO_STATUS
    | BAD_ARCHIVE_STATUS
    | MEDIA_STATUS
    | {
        "idempotency_key_reused": 422,
        "changed_meanwhile": 412,
        "not_installed": 404,
    }
)
"""Codes that say more than their type."""


def problem_of(error: BaseException) -> Problem:
    """The problem that an error is shown as; anything unknown is a 500 that tells nothing."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return Problem(
            507, "storage_full", "The disk of the media store is full; free space and try again."
        )
    for kind, status, code in STATUS:
        if isinstance(error, kind):
            code, errors = _code_and_errors(error, code)
            sentence = OUTAGE_SENTENCES.get(code) or str(getattr(error, "detail", error))
            return Problem(
                CODE_STATUS.get(code, status),
                code,
                sentence,
                errors=errors,
                links=_links(error),
                members=_members(error),
            )
    return Problem(500, "internal_error", "Something failed inside; the log has the request id.")


def _links(error: Exception) -> dict[str, str]:
    """Where that can be read which is in the way: the job that runs already, and its run."""
    values = error.values if isinstance(error, Conflict) else {}
    links = {}
    if values.get("job_id"):
        links["job"] = f"/v1/jobs/{values['job_id']}"
    if values.get("run_id"):
        links["run"] = f"/v1/reindex/{values['run_id']}"
    return links


TOLD = ("present", "blocking_id", "by", "decision_id", "individual_id", "contradictions")
"""What a conflict tells programs beside its sentence: what is so now, and what is in the way."""


def _members(error: Exception) -> dict[str, Any]:
    values = error.values if isinstance(error, Conflict) else {}
    return {name: values[name] for name in TOLD if name in values}


def _code_and_errors(error: BaseException, code: str) -> tuple[str, list[FieldError]]:
    if isinstance(error, NoReadablePhoto | PhotosRefused):
        named = [FieldError(f"/file/{p.position}", p.detail) for p in error.problems]
        return error.problems[0].code, named
    if isinstance(error, BadPhoto):
        return error.code, [FieldError("/file", error.detail)]
    if isinstance(error, BadArchive):
        return error.code, [FieldError("/archive", error.detail)]
    if isinstance(error, Invalid):
        reasons = error.values.get("problems")
        told = reasons if isinstance(reasons, list) else []
        return error.code, [FieldError("", str(reason["detail"])) for reason in told]
    return str(getattr(error, "code", code)), []


def respond(problem: Problem, *, request_id: str, instance: str) -> Response:
    """The response that carries a problem."""
    headers = dict(problem.headers)
    if problem.status in (429, 503) and "Retry-After" not in headers:
        headers["Retry-After"] = "2"
    if "job" in problem.links:
        headers.setdefault("Location", problem.links["job"])
    return JSONResponse(
        body_of(problem, request_id=request_id, instance=instance),
        status_code=problem.status,
        media_type=PROBLEM_JSON,
        headers=headers,
    )


def body_of(problem: Problem, *, request_id: str, instance: str) -> dict[str, Any]:
    """The members of RFC 9457, and ours."""
    return {
        "type": TYPE_PREFIX + problem.code,
        "title": HTTPStatus(problem.status).phrase,
        "status": problem.status,
        "detail": problem.detail,
        "instance": instance,
        "code": problem.code,
        "errors": [{"pointer": e.pointer, "detail": e.detail} for e in problem.errors],
        "request_id": request_id,
        **problem.members,
        **problem.links,
    }


OUTAGE_SENTENCES = {
    "database_unavailable": "The database does not answer; try again in a moment.",
    "database_busy": "Every connection to the database is in use; try again in a moment.",
    "store_unavailable": "The store of photos does not answer; try again in a moment.",
    "store_refused": "The store of photos refuses this service; its operator has to look.",
    "disk_full": "There is no room left for photos; nothing was stored.",
}
"""Said instead of the driver's own words, which may name hosts, folders and statements."""

HTTP_CODES = {
    400: "bad_request",
    401: "unauthorized",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    408: "request_timeout",
    413: "body_too_large",
    415: "unsupported_media_type",
    422: "invalid",
    429: "rate_limited",
}


def install(app: FastAPI) -> None:
    """Every error of the application, FastAPI's own included, becomes problem+json."""

    def answer(request: Request, problem: Problem) -> Response:
        return respond(
            problem,
            request_id=str(request.scope.get("request_id", "")),
            instance=request.url.path,
        )

    def on_http(request: Request, error: Exception) -> Response:
        if not isinstance(error, HTTPException):
            raise error
        code = HTTP_CODES.get(error.status_code, f"http_{error.status_code}")
        return answer(
            request, Problem(error.status_code, code, str(error.detail), headers=error.headers)
        )

    def on_validation(request: Request, error: Exception) -> Response:
        if not isinstance(error, RequestValidationError):
            raise error
        errors = [
            FieldError("/" + "/".join(str(part) for part in e["loc"][1:]), str(e["msg"]))
            for e in error.errors()
        ]
        return answer(
            request,
            Problem(422, "invalid", "The request does not fit; see `errors`.", errors=errors),
        )

    def on_any(request: Request, error: Exception) -> Response:
        problem = problem_of(error)
        if problem.status >= 500:
            log.error(
                "%s %s failed (request %s)",
                request.method,
                request.url.path,
                request.scope.get("request_id"),
                exc_info=error,
            )
        return answer(request, problem)

    app.add_exception_handler(HTTPException, on_http)
    app.add_exception_handler(RequestValidationError, on_validation)
    app.add_exception_handler(Exception, on_any)
    for kind in (Problem, OSError, *(row[0] for row in STATUS)):
        app.add_exception_handler(kind, on_any)
