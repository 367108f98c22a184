"""What the pages draw: the JSON of an answer, turned into sentences, bars and addresses.

Fresh and stored answers have the same JSON, so both are drawn by the same code.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from service.web.figures import moment, number, sure
from service.web.receipt_view import ReceiptView, present_receipt
from service.web.terms import latin_name, photos
from service.web.told import told
from service.web.words import gettext, lazy

Json = Mapping[str, Any]
Tone = Literal["plain", "named", "new", "rejected"]

STRIP_WIDTH = 400.0
STRIP_HEIGHT = 64.0
THUMB_PX = 480
VIEW_PX = 1600

GATE_STATES = {
    "accepted": lazy("Accepted"),
    "rejected": lazy("Rejected"),
    "abstained": lazy("No judgement"),
}
DEFAULT_STATES = {
    "low_confidence": (
        lazy("Not confident"),
        lazy("No individual is probable enough to be named."),
    ),
    "unmapped_slot": (
        lazy("No name for it"),
        lazy("The model knows this animal, but its list has no name for it: see the candidates."),
    ),
    "withheld": (lazy("Withheld"), lazy("Given only when the gate accepts the photo.")),
    "unavailable": (
        lazy("No default answer"),
        lazy("The model in use has no list of individuals."),
    ),
}
"""Label and usual note of each state in which no individual is named."""

NOVELTY = {
    "known": lazy("Like a known animal"),
    "uncertain": lazy("Uncertain"),
    "probably_new": lazy("Probably new"),
}


def media_url(media_id: str | int, size_px: int = THUMB_PX) -> str:
    """A whole stored photo, at most so large."""
    return f"/v1/media/{media_id}/thumbnail?size={size_px}"


def crop_url(annotation_id: str | int, size_px: int = THUMB_PX) -> str:
    """The region of an annotation, at most so large."""
    return f"/v1/annotations/{annotation_id}/crop?size={size_px}"


@dataclass(frozen=True, slots=True)
class IndividualView:
    id: str | None
    name: str
    species: str | None

    @property
    def url(self) -> str | None:
        return f"/individuals/{self.id}" if self.id else None


@dataclass(frozen=True, slots=True)
class PhotoView:
    """One photo of the query; `thumb` and `full` are None when it could not be read."""

    position: int
    name: str
    thumb: str | None
    full: str | None
    size: str
    problem: str | None


@dataclass(frozen=True, slots=True)
class GateView:
    label: str
    score: float | None
    threshold: float | None
    note: str


@dataclass(frozen=True, slots=True)
class DefaultView:
    label: str
    probability: float | None
    note: str
    url: str | None


@dataclass(frozen=True, slots=True)
class StripBar:
    """One bar of the novelty strip, in the strip's own units; y grows downwards."""

    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True, slots=True)
class NoveltyView:
    """Where the best score stands among the scores of true matches."""

    label: str
    note: str
    best: float | None
    same: tuple[StripBar, ...]
    other: tuple[StripBar, ...]
    mark_x: float | None
    mark_anchor: Literal["start", "middle", "end"]
    low: str
    high: str
    count: int


@dataclass(frozen=True, slots=True)
class CandidateView:
    """`sure`: how probable it is that it is the same animal, where that is known; `rejected`:
    somebody said that it is not."""

    rank: int
    individual: IndividualView
    score: float
    sure: str | None
    rejected: bool
    support: str
    thumb: str
    full: str
    url: str


@dataclass(frozen=True, slots=True)
class AnswerView:
    """Everything that the answer's template needs; nothing is computed in the template."""

    query_id: str
    url: str
    asked_at: str
    tone: Tone
    headline: str
    headline_url: str | None
    species: str | None
    lead: str
    photos: tuple[PhotoView, ...]
    gate: GateView
    default: DefaultView
    novelty: NoveltyView | None
    candidates: tuple[CandidateView, ...]
    receipt: ReceiptView | None
    notices: tuple[str, ...]
    model: str
    may_add: bool

    @property
    def shown_photos(self) -> tuple[PhotoView, ...]:
        return tuple(photo for photo in self.photos if photo.thumb)

    @property
    def problems(self) -> tuple[PhotoView, ...]:
        return tuple(photo for photo in self.photos if photo.problem)


def present(answer: Json) -> AnswerView:
    """The view of an answer's JSON."""
    query_id = str(answer["query_id"])
    candidates = tuple(_candidate(query_id, match) for match in answer["matches"])
    headline = _headline(answer, candidates)
    photos = tuple(_photo(photo) for photo in answer["photos"])
    return AnswerView(
        query_id=query_id,
        url=f"/queries/{query_id}",
        asked_at=moment(answer.get("created_at")),
        tone=headline.tone,
        headline=headline.text,
        headline_url=headline.url,
        species=headline.species,
        lead=headline.lead,
        photos=photos,
        gate=_gate(answer["gate"]),
        default=_default(answer["default_answer"]),
        novelty=_novelty(answer.get("novelty")),
        candidates=candidates,
        receipt=present_receipt(answer.get("receipt")),
        notices=tuple(told(notice["detail"]) for notice in answer.get("notices", ())),
        model=" · ".join(part for part in (answer.get("bundle"), answer.get("stage")) if part),
        may_add=answer["gate"]["state"] != "rejected"
        and not answer.get("known_photo")
        and any(photo.thumb for photo in photos),
    )


def individual_of(ref: Json) -> IndividualView:
    taxon = ref.get("taxon")
    return IndividualView(
        id=str(ref["id"]) if ref.get("id") else None,
        name=str(ref["name"]),
        species=species_name(taxon),
    )


def species_name(taxon: str | None) -> str | None:
    """A taxon as people write it."""
    return latin_name(taxon)


# ------------------------------------------------------------------------------------ the headline


@dataclass(frozen=True, slots=True)
class _Headline:
    tone: Tone
    text: str
    lead: str
    species: str | None = None
    url: str | None = None


def _headline(answer: Json, candidates: Sequence[CandidateView]) -> _Headline:
    """The one thing to read first: known photo, rejected, new, named, or look for yourself."""
    known = answer.get("known_photo")
    if known and known.get("individual"):
        return _known_photo(individual_of(known["individual"]))
    if answer["gate"]["state"] == "rejected":
        return _Headline(
            "rejected",
            gettext("No whale or dolphin seen"),
            gettext(
                "The gate takes this for something other than a marine mammal, so no individual is "
                "suggested."
            ),
        )
    best = next((one for one in candidates if not one.rejected), None)
    if best is not None and _verdict(answer) == "probably_new":
        return _probably_new(answer["default_answer"])
    if answer["default_answer"]["status"] == "given":
        return _named(answer)
    if best is None:
        return _nothing_found(answer.get("receipt"), all_rejected=bool(candidates))
    return _most_like(best.individual, _verdict(answer))


def _probably_new(default: Json) -> _Headline:
    lead = [gettext("Even the best candidate scores lower than photos of one animal usually do.")]
    if default["status"] == "given":
        # The head must choose among the names it has: a stranger gets the least unlikely one.
        name = default["individual"]["name"]
        lead.append(
            gettext("The model's own answer is %(name)s: do not take it as it is.", name=name)
        )
    lead.append(gettext("Look through the candidates; if none is it, add it to the catalogue."))
    return _Headline("new", gettext("Probably new"), " ".join(lead))


def _most_like(best: IndividualView, verdict: str | None) -> _Headline:
    lead = (
        gettext(
            "Photos of one animal usually score like this. The model gives no name by itself, so "
            "compare before you decide."
        )
        if verdict == "known"
        else gettext("The score alone does not settle it: compare the candidates side by side.")
    )
    title = gettext("Most like %(name)s", name=best.name)
    return _Headline("plain", title, lead, best.species, best.url)


def _verdict(answer: Json) -> str | None:
    novelty = answer.get("novelty")
    return str(novelty["verdict"]) if novelty else None


def _known_photo(individual: IndividualView) -> _Headline:
    return _Headline(
        "named",
        individual.name,
        gettext("This very photo is in the catalogue already. The candidates below leave it out."),
        individual.species,
        individual.url,
    )


def _named(answer: Json) -> _Headline:
    individual = individual_of(answer["default_answer"]["individual"])
    agreement = answer.get("agreement")
    if agreement is True:
        lead = gettext("The model and the nearest photos of the catalogue agree.")
    elif agreement is False:
        lead = gettext(
            "The model and the catalogue disagree: the nearest photos show another individual. "
            "Compare both."
        )
    else:
        lead = gettext("The model's own answer; compare it with the candidates.")
    return _Headline("named", individual.name, lead, individual.species, individual.url)


def _nothing_found(receipt: Json | None, *, all_rejected: bool) -> _Headline:
    if all_rejected:
        return _Headline(
            "new",
            gettext("None of the candidates"),
            gettext(
                "Somebody has said of each of them that it is not on this photo. If you do not "
                "agree, look again; if nobody is left, add it to the catalogue."
            ),
        )
    if receipt is None:
        return _Headline(
            "plain",
            gettext("Nothing could be searched"),
            gettext(
                "No embedding model is loaded, so the photo has been looked at by the gate alone."
            ),
        )
    if receipt.get("filters") and not receipt.get("eligible"):
        lead = gettext("No photo of the catalogue fits the filters.")
    else:
        lead = gettext(
            "The catalogue has no photos yet. Add this one as its first individual, or import a "
            "folder of photos with `resight import`."
        )
    return _Headline("plain", gettext("Nothing to compare with"), lead)


# ------------------------------------------------------------------------------- parts of an answer


def _photo(photo: Json) -> PhotoView:
    media_id = photo.get("media_id")
    error = photo.get("error")
    width, height = photo.get("width_px"), photo.get("height_px")
    position = int(photo["position"])
    return PhotoView(
        position=position,
        name=str(photo.get("name") or gettext("Photo %(number)s", number=position + 1)),
        thumb=media_url(media_id, 960) if media_id else None,
        full=media_url(media_id, VIEW_PX) if media_id else None,
        size=f"{width} × {height}" if width and height else "",
        problem=sentence(error["detail"]) if error else None,
    )


def _gate(gate: Json) -> GateView:
    score, threshold = gate.get("score"), gate.get("threshold")
    reason, model = gate.get("reason"), gate.get("model")
    if gate["state"] == "abstained":
        note = sentence(reason) if reason else gettext("The gate cannot judge this photo.")
    elif threshold is None:
        note = str(model)
    else:
        note = gettext(
            "Accepted from %(threshold)s on · %(model)s",
            threshold=number(threshold, 2),
            model=model,
        )
    return GateView(str(GATE_STATES[gate["state"]]), score, threshold, note)


def sentence(text: str) -> str:
    """A clause of the lower layers as a sentence, in the reader's language where it is known."""
    worded = told(text)
    return f"{worded[:1].upper()}{worded[1:].rstrip('.')}."


def _default(default: Json) -> DefaultView:
    status, model = default["status"], default.get("model")
    ref, probability = default.get("individual"), default.get("probability")
    individual = individual_of(ref) if ref else None
    if status == "given" and individual is not None:
        note = gettext("Probability given by %(model)s", model=model)
        return DefaultView(individual.name, probability, note, individual.url)
    label, usual = DEFAULT_STATES.get(status, (status, ""))
    note = told(default["reason"]) if default.get("reason") else str(usual)
    # A withheld answer keeps its number to itself: a probability invites trust.
    shown = probability if status == "low_confidence" else None
    return DefaultView(str(label), shown, note, None)


def _candidate(query_id: str, match: Json) -> CandidateView:
    rank = int(match["rank"])
    return CandidateView(
        rank=rank,
        individual=individual_of(match["individual"]),
        score=float(match["score"]),
        sure=_sure(match.get("probability")),
        rejected=bool(match.get("rejected")),
        support=photos(int(match["supporting"])),
        thumb=crop_url(match["annotation_id"]),
        full=crop_url(match["annotation_id"], VIEW_PX),
        url=f"/queries/{query_id}/matches/{rank}",
    )


def _sure(probability: float | None) -> str | None:
    told = sure(probability)
    return gettext("%(percent)s same animal", percent=told) if told else None


def _novelty(novelty: Json | None) -> NoveltyView | None:
    if novelty is None or novelty.get("best_score") is None:
        return None
    best = float(novelty["best_score"])
    reference, other = novelty.get("reference"), novelty.get("other")
    low, high = _score_range(best, reference, other)

    def x_of(score: float) -> float:
        return round((score - low) / (high - low) * STRIP_WIDTH, 1)

    mark = x_of(best)
    return NoveltyView(
        label=str(NOVELTY.get(novelty["verdict"], novelty["verdict"])),
        note=told(novelty.get("explanation") or ""),
        best=best,
        same=_bars(reference, x_of),
        other=_bars(other, x_of),
        mark_x=mark,
        mark_anchor="start" if mark < 40 else "end" if mark > STRIP_WIDTH - 40 else "middle",
        low=number(low, 1),
        high=number(high, 1),
        count=int(reference["count"]) if reference else 0,
    )


def _score_range(best: float, *histograms: Json | None) -> tuple[float, float]:
    """Where the strip begins and ends: what was measured, rounded outwards to tenths."""
    scores = [best]
    for histogram in histograms:
        if histogram:
            full = [i for i, count in enumerate(histogram["counts"]) if count]
            if full:
                scores += [histogram["edges"][full[0]], histogram["edges"][full[-1] + 1]]
    low = min(0.0, *scores) if min(scores) < 0 else max(0.0, min(scores) - 0.05)
    tenths_low, tenths_high = int(low * 10 - (low < 0)), int(max(scores) * 10 + 0.999)
    return tenths_low / 10, max(tenths_high, tenths_low + 2) / 10


def _bars(histogram: Json | None, x_of: Any) -> tuple[StripBar, ...]:
    if not histogram or not any(histogram["counts"]):
        return ()
    edges, counts = histogram["edges"], histogram["counts"]
    tallest = max(counts)
    bars = []
    for left, right, count in zip(edges[:-1], edges[1:], counts, strict=True):
        if count:
            height = round(count / tallest * STRIP_HEIGHT, 1)
            x = x_of(left)
            width = max(0.5, round(x_of(right) - x - 1.0, 1))
            bars.append(StripBar(x, round(STRIP_HEIGHT - height, 1), width, height))
    return tuple(bars)
