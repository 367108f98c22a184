"""What is said of many photos at once: viewpoint, body part, and the encounter they belong to."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Form, Query, Request
from fastapi.responses import Response
from sqlalchemy.orm import Session

from db.errors import DbError, Invalid, NotFound
from db.queries import portraits
from db.queries.encounters import EncounterFilters, list_encounters
from db.queries.portraits import PortraitPhoto
from indexer.encounter_answers import encounter_out
from service.deps import Curator, Db, Runtime
from service.errors import problem_of
from service.runtime import Resight
from service.web import catalogue_view as view
from service.web import encounter_view, terms
from service.web.catalogue_common import FormProblem, form_problem, go_on, read_ids, read_uuids
from service.web.pages import PageRoute, render
from service.web.words import gettext, ngettext

ENCOUNTERS_AROUND = 40
AROUND = timedelta(days=1)
"""Encounters this near to those of the photos are offered to put them into."""

router = APIRouter(route_class=PageRoute, include_in_schema=False)

Short = Annotated[str, Form(max_length=200)]
Many = Annotated[str, Form(max_length=80_000)]
TYPED = ("viewpoint", "body_part", "encounter")


@router.get("/annotations/describe")
def describe_form(
    request: Request, _: Curator, session: Db, ids: Annotated[str, Query(max_length=80_000)] = ""
) -> Response:
    """The photos that were ticked, and what can be said of all of them."""
    return _page(request, session, read_ids([ids]), dict.fromkeys(TYPED, ""))


@router.post("/annotations/describe")
def describe(
    request: Request,
    principal: Curator,
    runtime: Runtime,
    ids: Many = "",
    viewpoint: Short = "",
    body_part: Short = "",
    encounter: Short = "",
    step: Literal["preview", "do"] = Form("preview"),
) -> Response:
    """Counts what would change, and then changes it, as one change that can be undone at once."""
    chosen = read_ids([ids])
    typed = {"viewpoint": viewpoint, "body_part": body_part, "encounter": encounter}
    try:
        edited = runtime.encounters.edit_annotations(
            chosen, _fields(typed), preview=step == "preview", actor=principal.actor
        )
    except DbError as error:
        with runtime.sessions() as session:
            page = _page(request, session, chosen, typed, form_error=form_problem(error))
        page.status_code = problem_of(error).status
        return page
    if edited.preview:
        with runtime.sessions() as session:
            return _page(request, session, chosen, typed, changed=edited.changed)
    return go_on(request, _back(runtime, chosen, typed), edited.change_id)


def _fields(typed: dict[str, str]) -> dict[Any, Any]:
    """What is to be said; what was left empty stays as it is."""
    fields: dict[Any, Any] = {
        name: typed[name].strip() for name in ("viewpoint", "body_part") if typed[name].strip()
    }
    encounters = read_uuids([typed["encounter"]])
    if encounters:
        fields["encounter_id"] = encounters[0]
    if not fields:
        raise Invalid("nothing_to_set", gettext("Say at least one thing of these photos."))
    return fields


def _back(runtime: Resight, chosen: Sequence[int], typed: dict[str, str]) -> str:
    """The encounter that they came into, or where they were ticked."""
    encounters = read_uuids([typed["encounter"]])
    if encounters:
        return f"/encounters/{encounters[0]}"
    with runtime.sessions() as session:
        return home_of(portraits.photos_by_id(session, chosen[:1]))


def home_of(shots: Sequence[PortraitPhoto]) -> str:
    """Where one goes on after something was said of photos: their individual or encounter."""
    for shot in shots:
        if shot.individual_id is not None:
            return f"/individuals/{shot.individual_id}"
        if shot.encounter_id is not None:
            return f"/encounters/{shot.encounter_id}"
    return "/individuals"


def _page(
    request: Request,
    session: Session,
    chosen: Sequence[int],
    typed: dict[str, str],
    *,
    changed: int | None = None,
    form_error: FormProblem | None = None,
) -> Response:
    shots = portraits.photos_by_id(session, chosen)
    if not shots:
        raise NotFound("annotation_unknown", "None of these photos is in the catalogue.")
    viewpoints, body_parts = portraits.viewpoints(session)
    return render(
        request,
        "annotations_describe.html",
        here="encounters",
        ids=",".join(map(str, chosen)),
        photos=[view.photo_card(shot) for shot in shots],
        title=ngettext("Describe %(num)d photo", "Describe %(num)d photos", len(shots)),
        typed=typed,
        encounters=_encounters(session, shots, typed["encounter"]),
        viewpoints=viewpoints,
        body_parts=body_parts,
        preview=None if changed is None else _will_change(changed),
        may_go_on=bool(changed),
        back_url=home_of(shots),
        form_error=form_error,
    )


def _will_change(changed: int) -> str:
    if not changed:
        return gettext("Nothing changes: all are so already.")
    return gettext("Of these, %(photos)s change.", photos=terms.photos(changed))


def _encounters(session: Session, shots: Sequence[PortraitPhoto], chosen: str) -> list[view.Choice]:
    """Encounters around the time of these photos, the newest first."""
    seen = [shot.seen_at for shot in shots if shot.seen_at is not None]
    around = EncounterFilters(
        date_from=min(seen) - AROUND if seen else None,
        date_to=max(seen) + AROUND if seen else None,
    )
    rows = list_encounters(session, around, limit=ENCOUNTERS_AROUND).items
    own = {shot.encounter_id for shot in shots}
    return [
        view.Choice(str(row.encounter.id), encounter_view.option_of(encounter_out(row.encounter)))
        for row in rows
        if own != {row.encounter.id} or chosen == str(row.encounter.id)
    ]
