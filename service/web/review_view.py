"""What the review page draws: a query of the desk and one of its candidates, ready to be looked at.

Both come as the JSON of the API. Nothing is computed in the templates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from service.web import figures, review_told
from service.web.queue_view import QueueContext, encounter_title
from service.web.receipt_view import Pair
from service.web.review_told import Fact, VerdictLine, is_blind, score_text, sure_text
from service.web.terms import common_name, latin_name, viewpoint_word
from service.web.terms import photos as photos_text
from service.web.view import Json, crop_url, media_url
from service.web.words import _, lazy

VIEW_PX = 1600
DEEP_PX = 2048
"""Fetched once somebody zooms in; the largest that the media store derives."""
THUMB_PX = 256


@dataclass(frozen=True, slots=True)
class Picture:
    """Addresses of one photo: its region small, large and for deep zoom, and the whole photo where
    the region is a part of it."""

    thumb: str
    large: str
    deep: str
    whole: str | None


@dataclass(frozen=True, slots=True)
class QueryPhoto:
    """One photo of the query. `score` is that of its best pair with the candidate shown, and
    `match_id` the candidate's annotation in that pair."""

    position: int
    annotation_id: str | None
    picture: Picture
    name: str
    caption: str
    viewpoint: str | None
    score: float | None
    match_id: str | None
    individual_url: str | None


@dataclass(frozen=True, slots=True)
class CandidatePhoto:
    """One photo of the candidate; `score` is its cosine with the nearest photo of the query."""

    annotation_id: str
    picture: Picture
    name: str
    caption: str
    viewpoint: str | None
    score: float | None
    is_reference: bool
    chosen: bool


@dataclass(frozen=True, slots=True)
class CandidateCard:
    """One line of the list of candidates; without a rank: one that somebody looked up by name."""

    rank: int | None
    id: str
    name: str
    species: str | None
    score: float | None
    sure: str | None
    support: str
    thumb: str | None
    url: str
    fragment: str
    rejected: bool
    current: bool


@dataclass(frozen=True, slots=True)
class EncounterLine:
    url: str
    title: str
    photos: str


@dataclass(frozen=True, slots=True)
class CandidatePanel:
    """The candidate beside the query: all that changes when another one is chosen."""

    card: CandidateCard
    url: str
    other_names: tuple[str, ...]
    common_name: str | None
    about: str
    sure: str
    photos: tuple[CandidatePhoto, ...]
    encounters: tuple[EncounterLine, ...]
    evidence: tuple[QueryPhoto, ...]
    said: str

    @property
    def pairs(self) -> list[dict[str, str | None]]:
        """For each photo of the query its best score and pair, as the script puts them there."""
        return [
            {"score": score_text(photo.score), "match": photo.match_id} for photo in self.evidence
        ]

    @property
    def shown(self) -> CandidatePhoto | None:
        """The photo to look at first: that of the best pair."""
        chosen = next((photo for photo in self.photos if photo.chosen), None)
        return chosen or (self.photos[0] if self.photos else None)


@dataclass(frozen=True, slots=True)
class ReviewItem:
    """A query, ready to be decided."""

    id: str
    version: int
    state: str
    decided: bool
    title: str
    title_tail: str
    about: str
    encounter_id: str | None
    photos: tuple[QueryPhoto, ...]
    shown: int
    candidates: tuple[CandidateCard, ...]
    panel: CandidatePanel | None
    empty: str
    banner: str | None
    undoable: str | None
    last: str
    blind: str | None
    may_decide: bool
    gate_rejected: bool
    facts: tuple[Fact, ...]
    stronger: str | None
    searched: str | None
    receipt: tuple[Pair, ...]
    verdicts: tuple[VerdictLine, ...]
    taxon: str
    said: str


def present_item(
    query: Json,
    panel: Json | None,
    context: QueueContext,
    *,
    candidate_id: str | None,
    may_decide: bool,
) -> ReviewItem:
    """The whole item; `panel` is the JSON of the chosen candidate's photos, `candidate_id` the one
    that the address asks for, the best one that nobody rejected without it."""
    match = choose(query, candidate_id)
    blind = is_blind(query)
    shown = present_panel(query, panel, context) if panel is not None else None
    photos = shown.evidence if shown else _query_photos(query, None)
    encounter = query.get("encounter")
    first = query["photos"][0] if query["photos"] else {}
    candidates = tuple(_card(query, one, context, match) for one in query["candidates"])
    title = encounter_title(encounter, first.get("name"))
    return ReviewItem(
        id=str(query["id"]),
        version=int(query["version"]),
        state=str(query.get("state") or ""),
        decided=query["state"] in review_told.CLOSED,
        title=title,
        title_tail=photos_text(len(photos)),
        about=review_told.about(query),
        encounter_id=str(encounter["id"]) if encounter else None,
        photos=photos,
        shown=photos.index(best) if (best := _best(photos)) else 0,
        candidates=candidates,
        panel=shown,
        empty=review_told.why_empty(query),
        banner=None if blind else review_told.banner(query),
        undoable=review_told.settled_by(query) if may_decide and not blind else None,
        last="" if blind else review_told.last_word(query),
        blind=review_told.blind_note(query) if blind else None,
        may_decide=may_decide,
        gate_rejected=query["gate"]["state"] == "rejected" and not candidates,
        facts=review_told.facts(query),
        stronger=review_told.stronger(query),
        searched=review_told.searched(query),
        receipt=review_told.receipt_pairs(query),
        verdicts=()
        if blind
        else tuple(review_told.verdict_line(one, may_decide) for one in reversed(query["reviews"])),
        taxon=_likely_taxon(match),
        said=_said(title, shown),
    )


def choose(query: Json, candidate_id: str | None) -> Json | None:
    """The candidate to show: the one that is asked for, else the best that nobody rejected."""
    candidates: Sequence[Json] = query["candidates"]
    for one in candidates:
        if candidate_id is not None and str(one["individual"]["id"]) == candidate_id:
            return one
    return next((one for one in candidates if not one.get("rejected")), None) or (
        candidates[0] if candidates else None
    )


def present_panel(query: Json, panel: Json, context: QueueContext) -> CandidatePanel:
    """The candidate's side of the page; anybody of the catalogue can be put there."""
    individual = panel["individual"]
    match = _match_of(query, str(individual["id"]))
    card = _card(query, match or _looked_up(panel), context, match)
    evidence = _query_photos(query, match)
    best = _best_pair(match, evidence)
    photos = tuple(_candidate_photo(one, best) for one in panel["photos"])
    return CandidatePanel(
        card=card,
        url=f"/individuals/{individual['id']}",
        other_names=tuple(name for name in individual["names"] if name != individual["name"]),
        common_name=common_name(individual.get("taxon"), individual.get("taxon_common")),
        about=_individual_about(individual),
        sure=card.sure or _("not enough verdicts yet"),
        photos=photos,
        encounters=tuple(_encounter(one) for one in panel["encounters"]),
        evidence=evidence,
        said=_panel_said(card),
    )


# ----------------------------------------------------------------------------------------- photos


def _picture(annotation_id: Any, media_id: Any, box_px: Any) -> Picture:
    whole = media_url(media_id, DEEP_PX) if box_px and media_id else None
    # A region may have been deleted since; its photo never is.
    url, of = (media_url, media_id) if annotation_id is None else (crop_url, annotation_id)
    return Picture(url(of, THUMB_PX), url(of, VIEW_PX), url(of, DEEP_PX), whole)


def _query_photos(query: Json, match: Json | None) -> tuple[QueryPhoto, ...]:
    evidence = {str(e["annotation_id"]): e for e in (match or {}).get("evidence") or ()}
    encounter = query.get("encounter") or {}
    return tuple(_query_photo(photo, evidence, encounter) for photo in query["photos"])


def _query_photo(photo: Json, evidence: Mapping[str, Json], encounter: Json) -> QueryPhoto:
    annotation_id = photo.get("annotation_id")
    pair = evidence.get(str(annotation_id)) or {}
    individual = photo.get("individual_id")
    match_id = pair.get("match_annotation_id")
    return QueryPhoto(
        position=int(photo["position"]),
        annotation_id=str(annotation_id) if annotation_id is not None else None,
        picture=_picture(annotation_id, photo.get("media_id"), photo.get("box_px")),
        name=_photo_name(photo, int(photo["position"]) + 1),
        caption=_caption(
            photo, photo.get("taken_at") or encounter.get("started_at"), encounter.get("place")
        ),
        viewpoint=viewpoint_word(photo.get("viewpoint")),
        score=pair.get("score"),
        match_id=str(match_id) if match_id is not None else None,
        individual_url=f"/individuals/{individual}" if individual else None,
    )


def _candidate_photo(photo: Json, best: str | None) -> CandidatePhoto:
    annotation_id = str(photo["annotation_id"])
    return CandidatePhoto(
        annotation_id=annotation_id,
        picture=_picture(annotation_id, photo.get("media_id"), photo.get("box_px")),
        name=_photo_name(photo, None),
        caption=_caption(photo, photo.get("taken_at"), photo.get("place")),
        viewpoint=viewpoint_word(photo.get("viewpoint")),
        score=photo.get("score"),
        is_reference=bool(photo.get("is_reference")),
        chosen=annotation_id == best,
    )


def _photo_name(photo: Json, number: int | None) -> str:
    if photo.get("name"):
        return str(photo["name"])
    return _("Photo %(number)s", number=number or photo.get("annotation_id"))


def _caption(photo: Json, when: Any, place: Any) -> str:
    """Date, place and photographer, what is known of them."""
    by = photo.get("photographer")
    parts = (figures.day(when), place, _("photo by %(name)s", name=by) if by else None)
    return " · ".join(str(part) for part in parts if part)


def _best(photos: Sequence[QueryPhoto]) -> QueryPhoto | None:
    """The photo of the best pair; the first of several."""
    scored = [photo for photo in photos if photo.score is not None]
    return max(scored, key=lambda photo: photo.score or 0.0, default=None)


# -------------------------------------------------------------------------------------- candidates


def _match_of(query: Json, individual_id: str) -> Json | None:
    return next(
        (one for one in query["candidates"] if str(one["individual"]["id"]) == individual_id), None
    )


def _looked_up(panel: Json) -> Json:
    """The line of an individual that the search did not suggest."""
    photos = panel["photos"]
    return {
        "rank": None,
        "individual": panel["individual"],
        "score": photos[0]["score"] if photos else None,
        "annotation_id": photos[0]["annotation_id"] if photos else None,
        "supporting": len(photos),
    }


def _best_pair(match: Json | None, evidence: Sequence[QueryPhoto]) -> str | None:
    """The candidate's annotation that is shown first."""
    best = _best(evidence)
    if best is not None and best.match_id:
        return best.match_id
    return str(match["annotation_id"]) if match else None


def _card(query: Json, match: Json, context: QueueContext, current: Json | None) -> CandidateCard:
    individual = match["individual"]
    individual_id = str(individual["id"])
    url = context.item_url(query["id"], individual_id)
    return CandidateCard(
        rank=match["rank"],
        id=individual_id,
        name=str(individual["name"]),
        species=latin_name(individual.get("taxon")),
        score=match["score"],
        sure=sure_text(match.get("probability")),
        support=photos_text(int(match["supporting"])),
        thumb=crop_url(match["annotation_id"], THUMB_PX) if match["annotation_id"] else None,
        url=url,
        fragment=f"/review/{query['id']}/candidates/{individual_id}?{context.query}",
        rejected=bool(match.get("rejected")) and not is_blind(query),
        current=match is current,
    )


SEXES = {"female": lazy("female"), "male": lazy("male")}
STAGES = {
    "calf": lazy("calf"),
    "juvenile": lazy("juvenile"),
    "subadult": lazy("subadult"),
    "adult": lazy("adult"),
}


def _individual_about(individual: Json) -> str:
    parts = (
        SEXES.get(individual.get("sex") or ""),
        STAGES.get(individual.get("life_stage") or ""),
        _("dead") if individual.get("vitality") == "dead" else None,
    )
    return ", ".join(str(part) for part in parts if part)


def _encounter(encounter: Json) -> EncounterLine:
    return EncounterLine(
        url=f"/encounters/{encounter['id']}",
        title=encounter_title(encounter, None),
        photos=photos_text(int(encounter["photos"])),
    )


# ------------------------------------------------------------------------------ heard, and likely


def _said(title: str, panel: CandidatePanel | None) -> str:
    """What a screen reader hears when the item comes up."""
    if panel is None:
        return title
    return _("%(title)s. %(candidate)s", title=title, candidate=panel.said)


def _panel_said(card: CandidateCard) -> str:
    """What a screen reader hears when the candidate comes up."""
    if card.rank is None:
        return _("%(name)s, looked up by name", name=card.name)
    return _(
        "Candidate %(rank)s: %(name)s, score %(score)s",
        rank=card.rank,
        name=card.name,
        score=score_text(card.score),
    )


def _likely_taxon(match: Json | None) -> str:
    """The species that a new individual most likely is of."""
    return (latin_name(match["individual"].get("taxon")) if match else None) or ""
