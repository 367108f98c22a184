"""Pages of encounters: the list, one encounter, its form, and asking who it is again."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Depends, Form, Query, Request
from fastapi.responses import RedirectResponse, Response
from sqlalchemy.orm import Session

from db.errors import Conflict, DbError, Invalid
from db.queries import listing
from db.queries.encounters import EncounterFilters
from db.types import Role
from indexer.encounter_answers import EncounterOut
from indexer.search import SearchError
from service.deps import Db, Principal, Reviewer, Runtime, Viewer
from service.encounter_schemas import EncounterEdit
from service.errors import Problem, problem_of
from service.runtime import Resight
from service.uploads import parse_fields
from service.web import encounter_view as view
from service.web.catalogue_common import FormProblem, done_change, go_on, query
from service.web.charts import world
from service.web.pages import PageRoute, is_fragment, render
from service.web.told import told
from service.web.view import sentence

ON_A_PAGE = 30

router = APIRouter(route_class=PageRoute, include_in_schema=False)

Text = Annotated[str, Query(max_length=200)]
Short = Annotated[str, Form(max_length=200)]
ShortIfGiven = Annotated[str | None, Form(max_length=200)]
LongIfGiven = Annotated[str | None, Form(max_length=20_000)]


class Wanted:
    """What a list of encounters is asked for, read from its address; what is empty is any."""

    def __init__(
        self,
        place: Text = "",
        individual: Text = "",
        date_from: Text = "",
        date_to: Text = "",
        unnamed: bool = False,
    ) -> None:
        self.place, self.individual = place.strip(), individual.strip()
        self.date_from, self.date_to = _day(date_from), _day(date_to)
        self.unnamed = unnamed

    def filters(self, session: Session) -> tuple[EncounterFilters, str | None]:
        """As the database is asked, and what the individual is called; (filters, None) where
        nobody is asked for or nobody is called so."""
        found = _find(session, self.individual) if self.individual else None
        return (
            EncounterFilters(
                place=self.place or None,
                date_from=_moment(self.date_from),
                date_to=_moment(self.date_to, after=True),
                individual=found[0] if found else None,
                unnamed=self.unnamed,
            ),
            found[1] if found else None,
        )

    @property
    def narrowed(self) -> bool:
        """Whether any encounter may be left out."""
        return any((self.place, self.individual, self.date_from, self.date_to, self.unnamed))

    def url(self, cursor: str | None = None) -> str:
        """The address of the list, from a cursor on."""
        asked = query(
            {
                "place": self.place,
                "individual": self.individual,
                "date_from": self.date_from,
                "date_to": self.date_to,
                "unnamed": "true" if self.unnamed else "",
                "cursor": cursor,
            }
        )
        return f"/encounters?{asked}" if asked else "/encounters"


def _day(text: str) -> str:
    """The day, where it is one."""
    try:
        return date.fromisoformat(text.strip()).isoformat()
    except ValueError:
        return ""


def _moment(day: str, *, after: bool = False) -> datetime | None:
    """The first moment of a day, or of the day after it."""
    if not day:
        return None
    start = datetime.combine(date.fromisoformat(day), time.min, UTC)
    return start + timedelta(days=1) if after else start


def _find(session: Session, text: str) -> tuple[UUID, str] | None:
    """Who is meant: by id, by a whole name, or else the first whose name has it in it."""
    rows = listing.list_individuals(session, text=text, sort="name", limit=60).items
    exact = [row for row in rows if text.lower() in {name.lower() for name in row.names}]
    found = next(iter([*exact, *rows]), None)
    return None if found is None else (found.id, found.name)


@router.get("/encounters")
def encounters(
    request: Request,
    principal: Viewer,
    session: Db,
    runtime: Runtime,
    wanted: Annotated[Wanted, Depends()],
    cursor: str | None = None,
    done: int | None = None,
) -> Response:
    """Encounters, the newest first."""
    filters, who = wanted.filters(session)
    nobody = bool(wanted.individual) and who is None
    page = None
    if not nobody:
        page = runtime.encounters.browse(session, filters, limit=ON_A_PAGE, cursor=cursor)
    context: dict[str, Any] = {
        "lines": [view.line_of(item) for item in page.items] if page else [],
        "more_url": wanted.url(page.next_cursor) if page and page.next_cursor else None,
        "wanted": wanted,
        "who": who,
        "nobody": nobody,
    }
    if is_fragment(request) and cursor:
        return render(request, "_encounter_lines.html", **context)
    if is_fragment(request):
        fragment = render(request, "_encounters.html", **context)
        fragment.headers["HX-Push-Url"] = wanted.url()
        return fragment
    return render(
        request,
        "encounters.html",
        here="encounters",
        may_add=principal.may(Role.REVIEWER),
        done=done_change(session, done, principal),
        **context,
    )


@router.get("/encounters/{encounter_id}")
def encounter(
    request: Request,
    encounter_id: UUID,
    principal: Viewer,
    session: Db,
    runtime: Runtime,
    done: int | None = None,
) -> Response:
    """One encounter: its photos, who was seen together, where, and what was asked about it."""
    return _page(request, session, runtime, principal, encounter_id, done=done)


def _page(
    request: Request,
    session: Session,
    runtime: Resight,
    principal: Principal,
    encounter_id: UUID,
    *,
    done: int | None = None,
    problem: str | None = None,
    status: int = 200,
) -> Response:
    found = runtime.encounters.read(session, encounter_id)
    return render(
        request,
        "encounter.html",
        status=status,
        here="encounters",
        one=view.page_of(found),
        form_error=FormProblem(problem) if problem else None,
        may_ask=principal.may(Role.REVIEWER),
        may_edit=principal.may(Role.CURATOR),
        done=done_change(session, done, principal),
    )


@router.post("/encounters/{encounter_id}/ask")
def ask(request: Request, encounter_id: UUID, principal: Reviewer, runtime: Runtime) -> Response:
    """Asks who is on the photos that show nobody known, or, where all are named, on all."""
    try:
        query_id = _ask(runtime, principal, encounter_id)
    except (DbError, SearchError) as error:
        detail = sentence(told(getattr(error, "detail", str(error))))
        if is_fragment(request):
            return _card(request, runtime, encounter_id, error=detail)
        with runtime.sessions() as session:
            return _page(
                request,
                session,
                runtime,
                principal,
                encounter_id,
                problem=detail,
                status=problem_of(error).status,
            )
    if is_fragment(request):
        return _card(request, runtime, encounter_id)
    return RedirectResponse(f"/review/{query_id}", status_code=303)


def _ask(runtime: Resight, principal: Principal, encounter_id: UUID) -> UUID:
    with runtime.sessions() as session:
        photos = runtime.encounters.read(session, encounter_id).photos
    usable = [photo for photo in photos if photo.matchable]
    unnamed = [photo for photo in usable if photo.individual is None]
    ids = [int(photo.annotation_id) for photo in unnamed or usable]
    if not ids:
        raise Invalid("no_annotations", "No photo of this encounter is for matching.")
    return runtime.desk.ask(ids, encounter_id=encounter_id, actor=principal.actor)


def _card(
    request: Request,
    runtime: Resight,
    encounter_id: UUID,
    *,
    typed: dict[str, str] | None = None,
    error: str | None = None,
    status: int = 200,
) -> Response:
    """An encounter as the page of a drop shows it."""
    with runtime.sessions() as session:
        found = runtime.encounters.read(session, encounter_id)
    card = view.drop_card(found, typed=typed, error=error)
    return render(request, "_drop_card.html", status=status, card=card)


# ------------------------------------------------------------------------------- its form


@router.get("/encounters/{encounter_id}/edit")
def edit_form(
    request: Request, encounter_id: UUID, _: Reviewer, session: Db, runtime: Runtime
) -> Response:
    """What is known of an encounter, to be corrected."""
    found = runtime.encounters.read(session, encounter_id).encounter
    return _edit_page(request, found, view.typed_of(found))


@router.post("/encounters/{encounter_id}/edit")
def edit(
    request: Request,
    encounter_id: UUID,
    principal: Reviewer,
    runtime: Runtime,
    etag: Short = "",
    started_at: ShortIfGiven = None,
    ended_at: ShortIfGiven = None,
    place: ShortIfGiven = None,
    latitude: ShortIfGiven = None,
    longitude: ShortIfGiven = None,
    observer: ShortIfGiven = None,
    notes: LongIfGiven = None,
) -> Response:
    """Corrects it; what the form did not hold stays, what was emptied goes."""
    given = {
        "started_at": started_at,
        "ended_at": ended_at,
        "place": place,
        "latitude": latitude,
        "longitude": longitude,
        "observer": observer,
        "notes": notes and notes.replace("\r\n", "\n"),
    }
    typed = {name: value.strip() for name, value in given.items() if value is not None}
    with runtime.sessions() as session:
        present = runtime.encounters.read(session, encounter_id).encounter
    before = view.typed_of(present)
    # What a field cannot show, the seconds of a time, must not be lost by saving it as it was.
    changed = {name: value or None for name, value in typed.items() if before[name] != value}
    try:
        body = parse_fields(EncounterEdit, changed)
        fields = {name: getattr(body, name) for name in body.model_fields_set}
        edited = runtime.encounters.edit(
            encounter_id, fields, if_match=etag or None, actor=principal.actor
        )
    except (Conflict, Invalid, Problem) as error:
        refused = problem_of(error)
        why = " ".join(one.detail for one in refused.errors) or refused.detail
        detail = sentence(told(why))
        if is_fragment(request):
            return _card(
                request, runtime, encounter_id, typed=before | typed, error=detail, status=422
            )
        page = _edit_page(request, present, before | typed, FormProblem(detail))
        page.status_code = refused.status
        return page
    if is_fragment(request):
        return _card(request, runtime, encounter_id)
    return go_on(request, f"/encounters/{encounter_id}", edited.change_id)


def _edit_page(
    request: Request,
    encounter: EncounterOut,
    typed: dict[str, str],
    form_error: FormProblem | None = None,
) -> Response:
    return render(
        request,
        "encounter_edit.html",
        here="encounters",
        url=f"/encounters/{encounter.id}",
        title=view.title_of(encounter),
        typed=typed,
        etag=encounter.etag,
        map=view.map_of_encounter(encounter) or world(),
        form_error=form_error,
    )
