"""What the pages of the catalogue share: the change just made, the ways on, forms read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit
from uuid import UUID

from fastapi import Request
from fastapi.responses import RedirectResponse, Response
from sqlalchemy import text
from sqlalchemy.orm import Session

from db.errors import DbError, NotFound
from db.queries import changes, portraits
from db.queries.changes import ChangeRow
from db.session import unless_met
from db.types import Role
from indexer.identify import NoPhotos
from indexer.identity import Identity
from indexer.photos import PhotosRefused
from service.deps import Principal
from service.errors import problem_of
from service.runtime import Resight
from service.settings import Settings
from service.sign_in import local_path
from service.web.changes_view import ChangeView, change_view
from service.web.encounter_view import refusal_of
from service.web.pages import is_fragment
from service.web.told import told
from service.web.view import sentence
from service.web.words import gettext

T = TypeVar("T")


def query(values: Mapping[str, object]) -> str:
    """The values as the query of an address, what is empty left out."""
    return urlencode({name: value for name, value in values.items() if value not in (None, "")})


def with_query(url: str, **values: object) -> str:
    """The address with these values set, and without those that are empty."""
    parts = urlsplit(url)
    said: dict[str, object] = dict(parse_qsl(parts.query))
    return urlunsplit(("", "", parts.path, query(said | values), parts.fragment))


def go_on(request: Request, back: str, change_id: int | None) -> Response:
    """The page that a form belongs to, which tells of the change and offers to undo it."""
    url = with_query(local_path(back), done=change_id)
    if is_fragment(request):
        return Response(status_code=204, headers={"HX-Redirect": url})
    return RedirectResponse(url, status_code=303)


def carried_out(
    runtime: Resight, principal: Principal, work: Callable[[Identity], T], *, preview: bool = False
) -> T:
    """What an operation gives, in a transaction of its own; anew where that met another one."""

    def attempt() -> T:
        with runtime.sessions.begin() as session:
            return work(Identity(session, principal.actor, preview=preview))

    return unless_met(attempt)


def photo_limits(settings: Settings, photos: int) -> dict[str, int]:
    """What a form says of the photos that it takes, `photos` of them at most."""
    return {
        "photo_mib": settings.max_photo_bytes // 2**20,
        "photo_bytes": settings.max_photo_bytes,
        "megapixels": settings.max_photo_pixels // 1_000_000,
        "photos": photos,
    }


def change_views(
    session: Session, rows: Sequence[ChangeRow], principal: Principal
) -> list[ChangeView]:
    """Changes as the caller may see and undo them."""
    ids = [id_ for row in rows for id_ in row.individual_ids]
    names = portraits.names_by_id(session, list(dict.fromkeys(ids)))
    may_undo = principal.may(Role.CURATOR)
    return [change_view(row, names, may_undo=may_undo) for row in rows]


def done_change(session: Session, change_id: int | None, principal: Principal) -> ChangeView | None:
    """The change that a page was led to after; None where it was undone meanwhile."""
    if change_id is None:
        return None
    try:
        row = changes.get_change(session, change_id)
    except NotFound:
        return None
    return None if row.undone_by else change_views(session, [row], principal)[0]


@dataclass(frozen=True, slots=True)
class FormProblem:
    """Why a form was not carried out, told above it while what was typed stays; `url` is the
    individual that stands in the way."""

    detail: str
    url: str | None = None


def form_problem(error: DbError) -> FormProblem:
    other = error.values.get("individual_id")
    return FormProblem(told(error.detail), f"/individuals/{other}" if other else None)


def refusals(error: PhotosRefused) -> list[str]:
    """Why each of the photos was refused."""
    return [refusal_of(one.name, one.position, one.detail) for one in error.problems]


def photos_problem(error: Exception) -> FormProblem:
    """Why photos and what came with them were not taken."""
    if isinstance(error, PhotosRefused):
        return FormProblem(" ".join(refusals(error)))
    if isinstance(error, NoPhotos):
        return FormProblem(gettext("Choose at least one photo."))
    if isinstance(error, DbError):
        return form_problem(error)
    problem = problem_of(error)
    said = " ".join(one.detail for one in problem.errors) or problem.detail
    return FormProblem(sentence(told(said)))


def read_ids(values: Sequence[str]) -> list[int]:
    """The ids of annotations in a form or an address: repeated, or with commas between."""
    return [int(part) for value in values for part in value.split(",") if part.strip().isdigit()]


def read_uuids(values: Sequence[str]) -> list[UUID]:
    """The ids of individuals, each once; what is none is left out."""
    found: dict[UUID, None] = {}
    for value in values:
        try:
            found[UUID(value)] = None
        except ValueError:
            continue
    return list(found)


def catalogue_names(session: Session) -> list[str]:
    """What the catalogues are called, the one that every database has first."""
    return list(session.scalars(text("SELECT name FROM catalogue ORDER BY created_at, id")))
