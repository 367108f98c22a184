"""Where the catalogue may be wrong: who may be one, whose photo may be another's. Nothing here
decides by itself, and a "no" is not suggested again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Form, Query, Request
from fastapi.responses import RedirectResponse, Response

from db.types import Role
from indexer.suggestions import MergeSuggestion, Outlier, Suggested, dismiss
from service.deps import Curator, Db, Runtime, Viewer
from service.web import figures, terms
from service.web.catalogue_common import carried_out, query
from service.web.pages import PageRoute, is_fragment, render
from service.web.view import VIEW_PX, crop_url
from service.web.words import gettext

ON_A_PAGE = 12
Kind = Literal["merges", "outliers"]

router = APIRouter(route_class=PageRoute, include_in_schema=False)


@dataclass(frozen=True, slots=True)
class Half:
    """One side of a suggestion."""

    id: str
    name: str
    url: str
    note: str
    thumb: str
    large: str
    photo_url: str


@dataclass(frozen=True, slots=True)
class Suggestion:
    """Two photos side by side, and what could be done."""

    key: str
    one: Half
    other: Half
    score: str
    sentence: str
    merge_url: str
    move_url: str


@dataclass(frozen=True, slots=True)
class Kept:
    """Two that somebody has just called different, and the way back."""

    names: str
    undo_url: str


@router.get("/individuals/suggestions")
def suggestions(
    request: Request,
    principal: Viewer,
    session: Db,
    runtime: Runtime,
    kind: Kind = "merges",
    cursor: str | None = None,
    kept: Annotated[UUID | None, Query()] = None,
) -> Response:
    """Pairs of individuals so close that they may be one, or photos so far from their own."""
    suggester = runtime.suggester
    ask = suggester.merges if kind == "merges" else suggester.outliers
    found = ask(session, limit=ON_A_PAGE, cursor=cursor)
    asked = query({"kind": kind, "cursor": found.next_cursor})
    context: dict[str, Any] = {
        "kind": kind,
        "items": [_shown(item) for item in found.items],
        "more_url": f"/individuals/suggestions?{asked}" if found.next_cursor else None,
        "may_edit": principal.may(Role.CURATOR),
    }
    if is_fragment(request) and cursor:
        return render(request, "_suggestions.html", **context)
    return render(
        request,
        "suggestions.html",
        here="individuals",
        told=_told(found),
        counting=found.state == "counting",
        progress=round(found.progress, 3),
        kept=f"/individuals/suggestions/{kept}/undo" if kept else None,
        **context,
    )


def _shown(item: MergeSuggestion | Outlier) -> Suggestion:
    if isinstance(item, MergeSuggestion):
        one = _half(item.individual, item.annotation_id, terms.photos(item.photos))
        other = _half(item.other, item.other_annotation_id, terms.photos(item.other_photos))
        sentence = gettext(
            "Their closest photos score %(score)s.", score=figures.number(item.score, 3)
        )
        score = item.score
    else:
        own = figures.number(item.own_score, 3)
        one = _half(item.individual, item.annotation_id, gettext("its photo"))
        other = _half(item.other, item.other_annotation_id, gettext("looks more like this"))
        sentence = gettext(
            "Scores %(other)s here, and at most %(own)s with the rest of %(name)s.",
            other=figures.number(item.other_score, 3),
            own=own,
            name=item.individual.name,
        )
        score = item.other_score
    return Suggestion(
        key=f"{one.id}-{other.id}-{item.annotation_id}",
        one=one,
        other=other,
        score=figures.number(score, 3),
        sentence=sentence,
        merge_url=f"/individuals/{one.id}/merge?with={other.id}",
        move_url=f"/annotations/move?{query({'ids': item.annotation_id, 'to': other.id})}",
    )


def _half(ref: Any, annotation_id: str, note: str) -> Half:
    return Half(
        id=ref.id,
        name=ref.name,
        url=f"/individuals/{ref.id}",
        note=note,
        thumb=crop_url(annotation_id),
        large=crop_url(annotation_id, VIEW_PX),
        photo_url=f"/annotations/{annotation_id}",
    )


def _told(found: Suggested) -> str:
    """What was compared, and when."""
    if found.as_of is None:
        return ""
    return gettext(
        "%(photos)s of %(individuals)s were compared, %(when)s.",
        photos=terms.photos(found.compared),
        individuals=terms.individuals(found.individuals),
        when=figures.moment(found.as_of),
    )


@router.post("/individuals/suggestions/apart")
def keep_apart(
    request: Request,
    principal: Curator,
    runtime: Runtime,
    individual_id: Annotated[UUID, Form()],
    other_id: Annotated[UUID, Form()],
    names: Annotated[str, Form(max_length=500)] = "",
    kind: Kind = Form("merges"),
) -> Response:
    """Says that two are different: they are not suggested again, and merging them asks first."""
    decision = carried_out(
        runtime,
        principal,
        lambda identity: dismiss(identity.session, individual_id, other_id, principal.actor),
    )
    if is_fragment(request):
        kept = Kept(names, f"/individuals/suggestions/{decision}/undo")
        return render(request, "_kept_apart.html", kept=kept)
    return RedirectResponse(f"/individuals/suggestions?kind={kind}&kept={decision}", 303)


@router.post("/individuals/suggestions/{decision_id}/undo")
def undo_apart(decision_id: UUID, principal: Curator, runtime: Runtime) -> Response:
    """Takes such a word back."""
    runtime.desk.undo(decision_id, actor=principal.actor)
    return RedirectResponse("/individuals/suggestions", status_code=303)
