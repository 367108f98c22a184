"""Reading multipart bodies: photos, a ZIP, and the fields beside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError
from starlette.datastructures import FormData, UploadFile

from indexer.identify import PhotoIn
from service.errors import FieldError, Problem
from service.sign_in import CSRF_FIELD

MAX_FIELDS = 64
LABELS = 2
"""Fields that may come once for each file: its viewpoint and its body part."""
FieldsT = TypeVar("FieldsT", bound=BaseModel)


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """One file of a body: its name, the type it was declared as, and its bytes."""

    name: str | None
    content_type: str | None
    data: bytes


@dataclass(frozen=True, slots=True, eq=False)
class Upload:
    """The files of one field, in order, and every other field as text (repeated ones as lists)."""

    files: tuple[Part, ...]
    fields: dict[str, str | list[str]]

    def photos(self) -> list[PhotoIn]:
        """The files as photos."""
        return [PhotoIn(part.name, part.data) for part in self.files]

    def chosen(self) -> list[PhotoIn]:
        """The photos of a page's form: a browser sends an empty file for an input in which nothing
        was chosen."""
        return [photo for photo in self.photos() if photo.data or photo.name]


async def read_upload(request: Request, field: str, *, max_files: int) -> Upload:
    """The multipart body; query parameters count as fields that the form does not name.

    Raises:
        Problem: 415 when the body is not multipart, 413 when it has more files than allowed.
        HTTPException: 400 for a malformed body, 413 or 408 from the edge.
    """
    content_type = request.headers.get("content-type", "")
    if not content_type.lower().startswith("multipart/form-data"):
        raise Problem(
            415,
            "unsupported_media_type",
            f"Send multipart/form-data with the file in the field `{field}`, "
            f"not {content_type or 'a body without a type'}.",
        )
    # Twice as many as allowed, so that the answer can say how many came.
    fields = MAX_FIELDS + LABELS * max_files
    async with request.form(max_files=2 * max_files, max_fields=fields) as form:
        uploads = [value for _, value in form.multi_items() if isinstance(value, UploadFile)]
        if len(uploads) > max_files:
            raise Problem(
                413,
                "too_many_photos",
                f"The request carries {len(uploads)} files, at most {max_files} are answered "
                "together; split it.",
                errors=[FieldError(f"/{field}", f"at most {max_files}")],
            )
        _refuse_other_fields(form, field)
        files = [
            Part(_name(part.filename), part.content_type, await part.read()) for part in uploads
        ]
        told = _text_fields(request, form)
    return Upload(tuple(files), told)


def _name(name: str | None) -> str | None:
    """The file name as sent, without the one character that PostgreSQL's text cannot hold."""
    return (name or "").replace("\x00", "") or None


def _refuse_other_fields(form: FormData, field: str) -> None:
    """A file under another name would be silently left out; a text under ours is no file."""
    for name, value in form.multi_items():
        if isinstance(value, UploadFile) != (name == field):
            detail = (
                f"the file is expected in the field `{field}`"
                if isinstance(value, UploadFile)
                else f"`{field}` must be a file with a file name"
            )
            raise Problem(
                422,
                "wrong_field",
                f"Field `{name}`: {detail}.",
                errors=[FieldError(f"/{name}", detail)],
            )


def _text_fields(request: Request, form: FormData) -> dict[str, str | list[str]]:
    fields: dict[str, str | list[str]] = {}
    for source in (request.query_params, form):
        for name in source.keys() - {CSRF_FIELD}:
            values = [value for value in source.getlist(name) if isinstance(value, str)]
            if values:
                fields[name] = values[0] if len(values) == 1 else values
    return fields


def parse_fields(model: type[FieldsT], fields: dict[str, Any]) -> FieldsT:
    """The fields as a checked value.

    Raises:
        Problem: 422 with one entry for each field that does not fit.
    """
    try:
        return model.model_validate({name: value for name, value in fields.items() if value != ""})
    except ValidationError as error:
        errors: Sequence[FieldError] = [
            FieldError("/" + "/".join(map(str, e["loc"])), e["msg"]) for e in error.errors()
        ]
        raise Problem(
            422, "invalid", "The request does not fit; see `errors`.", errors=errors
        ) from error


def multipart_schema(
    model: type[BaseModel], field: str, about: str, *, many: bool
) -> dict[str, Any]:
    """The OpenAPI description of such a body, made from the model of its fields."""
    schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
    schema.pop("$defs", None)
    file = {"type": "string", "contentMediaType": "application/octet-stream"}
    properties = {field: {"type": "array", "items": file, "minItems": 1} if many else file}
    properties[field]["description"] = about
    return {
        "requestBody": {
            "required": True,
            "content": {
                "multipart/form-data": {
                    "schema": {
                        "type": "object",
                        "title": model.__name__,
                        "properties": properties | schema.get("properties", {}),
                        "required": [field, *schema.get("required", [])],
                    }
                }
            },
        }
    }
