"""Stored photos: the originals as received, and the pictures derived from them."""

from __future__ import annotations

from base64 import b64encode
from typing import Annotated
from urllib.parse import quote

from fastapi import Path, Query
from fastapi.responses import FileResponse, Response

from db.queries import catalogue
from service.api import api_router
from service.deps import Curator, Db, Runtime, Viewer

router = api_router("media")
MediaId = Annotated[int, Path(ge=1, le=2**62)]
SizePx = Annotated[
    int | None, Query(ge=1, le=4096, description="Longest side in pixels, raised to the next step.")
]
UNCHANGING = {"Cache-Control": "private, max-age=31536000, immutable"}


@router.get(
    "/v1/media/{media_id}",
    summary="A stored photo, byte for byte",
    response_class=FileResponse,
)
def read_media(media_id: MediaId, _: Curator, runtime: Runtime, session: Db) -> Response:
    """As received, for curators: its EXIF may say where an animal was. Offered as a download, never
    shown by the browser; everybody else has the thumbnail, which carries none."""
    media = catalogue.get_media(session, media_id)
    name = media.original_name or f"{media.sha256}.{media.media_type.partition('/')[2]}"
    headers = UNCHANGING | {
        "Content-Disposition": f"attachment; filename*=UTF-8''{quote(name, safe='')}",
        "ETag": f'"{media.sha256}"',
        "Repr-Digest": f"sha-256=:{_base64(media.sha256)}:",
    }
    path = runtime.store.path(media.sha256)
    if path is not None and path.is_file():
        return FileResponse(path, media_type=media.media_type, headers=headers)
    data = runtime.store.read(media.sha256, media.location)
    return Response(data, media_type=media.media_type, headers=headers)


@router.get(
    "/v1/media/{media_id}/thumbnail", summary="A small upright JPEG", response_class=FileResponse
)
def read_thumbnail(
    media_id: MediaId, _: Viewer, runtime: Runtime, session: Db, size: SizePx = None
) -> FileResponse:
    """Turned upright, without EXIF."""
    media = catalogue.get_media(session, media_id)
    path = runtime.store.derived(media.sha256, "thumb", size, location=media.location)
    return FileResponse(path, media_type="image/jpeg", headers=UNCHANGING)


@router.get(
    "/v1/annotations/{annotation_id}/crop",
    summary="The annotated region as an upright JPEG",
    response_class=FileResponse,
)
def read_crop(
    annotation_id: Annotated[int, Path(ge=1, le=2**62)],
    _: Viewer,
    runtime: Runtime,
    session: Db,
    size: SizePx = None,
) -> FileResponse:
    """The whole photo where the annotation has no box."""
    annotation = catalogue.get_annotation(session, annotation_id)
    media = catalogue.get_media(session, annotation.media_id)
    path = runtime.store.derived(
        media.sha256, "crop", size, annotation.box_px, location=media.location
    )
    return FileResponse(path, media_type="image/jpeg", headers=UNCHANGING)


def _base64(sha256: str) -> str:
    return b64encode(bytes.fromhex(sha256)).decode()
