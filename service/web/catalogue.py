"""Pages of individuals: the list, and one individual with all that is known of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import Response
from sqlalchemy.orm import Session

from db.queries import catalogue, changes, listing, portraits
from db.queries.listing import ListFilters, Sort
from db.queries.portraits import PortraitPhoto
from db.types import LifeStage, Role, Sex, Vitality
from service.deps import Db, Runtime, Viewer
from service.web import catalogue_view as view
from service.web import terms
from service.web.catalogue_common import catalogue_names, change_views, done_change, query
from service.web.pages import PageRoute, is_fragment, render
from service.web.words import gettext

ON_A_PAGE = 30
PHOTOS_ON_A_PAGE = 48
CHANGES_ON_A_PAGE = 8
NOT_GIVEN = "-"
"""Stands in an address for photos whose viewpoint nobody has said."""

router = APIRouter(route_class=PageRoute, include_in_schema=False)

Text = Annotated[str, Query(max_length=200)]


class Wanted:
    """What a list of individuals is asked for, read from its address; what is empty is any."""

    def __init__(
        self,
        text: Text = "",
        taxon: Text = "",
        sex: Literal["", "female", "male", "unknown"] = "",
        vitality: Literal["", "alive", "dead", "unknown"] = "",
        life_stage: Literal["", "calf", "juvenile", "subadult", "adult", "unknown"] = "",
        catalogue: Text = "",
        sort: Sort = "name",
        view: Literal["grid", "list"] = "grid",
    ) -> None:
        self.text, self.taxon, self.catalogue = text.strip(), taxon.strip(), catalogue.strip()
        self.sex, self.vitality, self.life_stage = sex, vitality, life_stage
        self.sort, self.view = sort, view

    def filters(self, session: Session) -> ListFilters:
        """As the database is asked."""
        home = catalogue.find_catalogue(session, self.catalogue) if self.catalogue else None
        return ListFilters(
            catalogue_id=home.id if home else None,
            text=self.text or None,
            taxon=self.taxon or None,
            sex=Sex(self.sex) if self.sex else None,
            vitality=Vitality(self.vitality) if self.vitality else None,
            life_stage=LifeStage(self.life_stage) if self.life_stage else None,
        )

    @property
    def narrowed(self) -> bool:
        """Whether anybody may be left out."""
        given = (self.text, self.taxon, self.sex, self.vitality, self.life_stage, self.catalogue)
        return any(given)

    @property
    def more_filters(self) -> bool:
        """Whether a filter is set that is not seen at once."""
        return any((self.sex, self.vitality, self.life_stage, self.catalogue))

    def url(self, **changed: str | None) -> str:
        """The address of the same list with something changed; what is usual is left out."""
        usual = {"sort": "name", "view": "grid"}
        said = {
            "text": self.text,
            "taxon": self.taxon,
            "sex": self.sex,
            "vitality": self.vitality,
            "life_stage": self.life_stage,
            "catalogue": self.catalogue,
            "sort": self.sort,
            "view": self.view,
        } | changed
        asked = query({name: value for name, value in said.items() if usual.get(name) != value})
        return f"/individuals?{asked}" if asked else "/individuals"


@router.get("/individuals")
def individuals(
    request: Request,
    principal: Viewer,
    runtime: Runtime,
    session: Db,
    wanted: Annotated[Wanted, Depends()],
    cursor: str | None = None,
    done: int | None = None,
) -> Response:
    """The catalogue as a grid or a list; with a cursor what comes after, for a page that
    scrolls."""
    filters = wanted.filters(session)
    page = listing.list_individuals(
        session,
        **{field.name: getattr(filters, field.name) for field in fields(filters)},
        sort=wanted.sort,
        limit=ON_A_PAGE,
        cursor=cursor,
    )
    context: dict[str, Any] = {
        "cards": [view.card_of(row, wanted.text) for row in page.items],
        "wanted": wanted,
        "more_url": wanted.url(cursor=page.next_cursor) if page.next_cursor else None,
        "may_edit": principal.may(Role.CURATOR),
    }
    if is_fragment(request) and cursor:
        return render(request, "_cards.html", **context)
    found = (
        listing.count_individuals(session, filters)
        if wanted.narrowed
        else runtime.sizes(session).individuals
    )
    context["found"] = terms.individuals(found)
    if is_fragment(request):
        fragment = render(request, "_individuals.html", **context)
        fragment.headers["HX-Push-Url"] = wanted.url()
        return fragment
    return render(
        request,
        "individuals.html",
        here="individuals",
        sexes=view.choices(view.SEX),
        vitalities=view.choices(view.VITALITY),
        life_stages=view.choices(view.LIFE_STAGE),
        sorts=view.choices(view.SORTS),
        catalogues=catalogue_names(session),
        done=done_change(session, done, principal),
        **context,
    )


# ------------------------------------------------------------------------------- one individual


@dataclass(frozen=True, slots=True)
class Side:
    """A way to see the photos of one viewpoint only."""

    url: str
    label: str
    chosen: bool


@router.get("/individuals/{individual_id}")
def individual(
    request: Request,
    individual_id: UUID,
    principal: Viewer,
    session: Db,
    cursor: str | None = None,
    viewpoint: str | None = None,
    done: int | None = None,
) -> Response:
    """One individual: its best photos, where and when it was seen, its names, all photos, and the
    history of what was said of it."""
    row = catalogue.get_individual(session, individual_id)
    page = portraits.photos_of(
        session,
        row.id,
        viewpoint="" if viewpoint == NOT_GIVEN else viewpoint,
        limit=PHOTOS_ON_A_PAGE,
        cursor=cursor,
    )
    url = f"/individuals/{row.id}"
    after = {"viewpoint": viewpoint, "cursor": page.next_cursor}
    context: dict[str, Any] = {
        "url": url,
        "photos": [view.photo_card(photo) for photo in page.items],
        "more_url": f"{url}?{query(after)}" if page.next_cursor else None,
        "may_edit": principal.may(Role.CURATOR),
    }
    if is_fragment(request):
        return render(request, "_photos_page.html", **context)
    history = changes.list_changes(session, individual_id=row.id, limit=CHANGES_ON_A_PAGE)
    best = portraits.best_photos(session, row.id)
    return render(
        request,
        "individual.html",
        here="individuals",
        one=row,
        facts=view.facts_of(row),
        best=[view.photo_card(photo) for photo in best],
        sides=_sides(url, best, viewpoint),
        seen=view.seen_where(portraits.encounters_of(session, row.id)),
        tally=view.tally_of(portraits.tally(session, row.id)),
        names=view.names_by_catalogue(portraits.names_of(session, row.id)),
        catalogues=catalogue_names(session),
        history=change_views(session, history.items, principal),
        history_url=f"/changes?individual={row.id}" if history.next_cursor else None,
        done=done_change(session, done, principal),
        **context,
    )


def _sides(url: str, best: Sequence[PortraitPhoto], chosen: str | None) -> list[Side]:
    """The viewpoints that an individual has photos of; nothing where all are alike."""
    found = {(photo.viewpoint or "").lower(): photo.viewpoint for photo in best}
    if len(found) < 2 and chosen is None:
        return []
    sides = [Side(f"{url}#photos", gettext("All"), chosen is None)]
    for key, viewpoint in sorted(found.items(), key=lambda one: (not one[0], one[0])):
        label = view.viewpoint_of(viewpoint, None) or gettext("Not given")
        asked = query({"viewpoint": key or NOT_GIVEN})
        sides.append(Side(f"{url}?{asked}#photos", label, (key or NOT_GIVEN) == chosen))
    return sides
