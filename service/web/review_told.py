"""What the review page says of a query: who asked, what the model thinks, what people decided, and
what was searched."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from service.web import figures
from service.web.queue_view import state_word
from service.web.receipt_view import Pair, present_receipt
from service.web.terms import individuals
from service.web.view import Json, sentence
from service.web.words import _, lazy, ngettext

CLOSED = frozenset({"same", "new", "not_usable"})
"""Nothing is decided on top of these: they are undone first."""


@dataclass(frozen=True, slots=True)
class VerdictLine:
    """One earlier decision; `may_undo`: the reader may take it back."""

    decision_id: str
    text: str
    about: str
    note: str | None
    vote: bool
    undone: bool
    may_undo: bool


@dataclass(frozen=True, slots=True)
class Fact:
    """One of the model's own words on the query."""

    label: str
    value: str
    note: str = ""


def score_text(score: Any) -> str | None:
    """A cosine with two digits: finer than that, no eye and no model can tell."""
    return figures.number(float(score), 2) if score is not None else None


def sure_text(probability: Any) -> str | None:
    """A calibrated probability; never a certainty."""
    return figures.sure(probability)


def is_blind(query: Json) -> bool:
    """Whether earlier verdicts stay hidden: several are wanted, and the reader gave none yet."""
    return query.get("state") == "second" and not query["votes"]["mine"]


def about(query: Json) -> str:
    """Who observed and who asked, and how the photos make one score where that is unusual."""
    parts = [
        _(
            "asked by %(name)s, %(when)s",
            name=query["asked_by"],
            when=figures.moment(query["created_at"]),
        )
    ]
    observer = (query.get("encounter") or {}).get("observer")
    if observer:
        parts.insert(0, _("observed by %(name)s", name=observer))
    if query.get("fuse") == "mean_top":
        parts.append(_("scores are means of the best pairs"))
    return " · ".join(parts)


def why_empty(query: Json) -> str:
    """Why there is no candidate to compare with; nothing where there is one."""
    if query["candidates"]:
        return ""
    if query["gate"]["state"] == "rejected":
        return _("The gate saw no animal in these photos, so nobody was suggested.")
    if query.get("filters"):
        return _("No photo of the catalogue fits the filters of this question.")
    return _("There is nobody to compare with: no individual has photos that may be compared.")


# --------------------------------------------------------------------------------- what was decided


VERDICTS = {
    "same": lazy("Same as %(name)s"),
    "different": lazy("Not %(name)s"),
    "unsure": lazy("Unsure"),
    "new": lazy("New individual %(name)s"),
    "none": lazy("None of these"),
    "not_usable": lazy("Not usable"),
    "usable": lazy("An animal is to be seen"),
}
REASONS = {
    "blurred": lazy("Not usable: too blurred"),
    "no_animal": lazy("Not usable: no animal"),
    "several_animals": lazy("Not usable: several animals"),
    "other": lazy("Not usable"),
}


def verdict_text(review: Json) -> str:
    """A verdict in few words."""
    individual = review.get("individual") or {}
    verdict = str(review["verdict"])
    if verdict == "not_usable" and review.get("reason"):
        return str(REASONS.get(review["reason"], VERDICTS["not_usable"]))
    if verdict == "new" and not individual:
        return _("New individual")
    return VERDICTS.get(verdict, lazy(verdict)) % {"name": individual.get("name") or "–"}


def banner(query: Json) -> str | None:
    """What was decided, where it was."""
    if query["state"] in ("open", "second"):
        return None
    last = _settled(query)
    return decided_text(last) if last is not None else state_word(query["state"])


def last_word(query: Json) -> str:
    """The newest decision that stands, whatever became of the query."""
    newest = next((one for one in reversed(query["reviews"]) if not one["undone"]), None)
    return decided_text(newest) if newest is not None else ""


def settled_by(query: Json) -> str | None:
    """The decision that stands, by its id."""
    last = _settled(query) if query["state"] not in ("open", "second") else None
    return str(last["decision_id"]) if last is not None else None


def _settled(query: Json) -> Json | None:
    settling = (one for one in reversed(query["reviews"]) if one["verdict"] != "different")
    return next((one for one in settling if not one["undone"] and not one["vote"]), None)


def decided_text(review: Json) -> str:
    """Who decided what, and when."""
    return _(
        "%(verdict)s: decided by %(name)s, %(when)s",
        verdict=verdict_text(review),
        name=review["reviewer"],
        when=figures.moment(review["at"]),
    )


def verdict_line(review: Json, may_decide: bool) -> VerdictLine:
    """One decision of the query's history."""
    undone = bool(review.get("undone"))
    return VerdictLine(
        decision_id=str(review["decision_id"]),
        text=verdict_text(review),
        about=_("%(name)s, %(when)s", name=review["reviewer"], when=figures.moment(review["at"])),
        note=review.get("note"),
        vote=bool(review["vote"]),
        undone=undone,
        may_undo=may_decide and not undone,
    )


def blind_note(query: Json) -> str:
    """That votes are wanted, and how many there are."""
    votes = query["votes"]
    return _(
        "Several opinions are wanted here; %(given)s of %(wanted)s given. You see the others after "
        "yours.",
        given=votes["given"],
        wanted=votes["wanted"],
    )


# -------------------------------------------------------------------------- what the model thinks


def facts(query: Json) -> tuple[Fact, ...]:
    """The gate, the default answer and how likely a stranger is."""
    told = [_gate(query["gate"]), _default(query)]
    if query.get("p_new") is not None:
        told.append(Fact(_("Not in the catalogue"), sure_text(query["p_new"]) or ""))
    elif query.get("novelty"):
        words = {
            "known": _("like a known animal"),
            "uncertain": _("uncertain"),
            "probably_new": _("probably new"),
        }
        verdict = str(query["novelty"]["verdict"])
        told.append(Fact(_("Best score"), words.get(verdict, verdict)))
    return tuple(told)


def _gate(gate: Json) -> Fact:
    words = {
        "accepted": _("an animal is to be seen"),
        "rejected": _("no animal seen"),
        "abstained": _("no judgement"),
    }
    state = str(gate["state"])
    return Fact(_("Gate"), words.get(state, state), score_text(gate.get("score")) or "")


def _default(query: Json) -> Fact:
    default = query.get("default_answer") or {}
    given = default.get("individual") if default.get("status") == "given" else None
    if not given:
        return Fact(_("Default answer"), _("none"))
    agreement = query.get("agreement")
    note = ""
    if agreement is not None:
        note = _("agrees with the best candidate") if agreement else _("not the best candidate")
    return Fact(_("Default answer"), str(given["name"]), note)


def stronger(query: Json) -> str | None:
    """That the filters of the question hide candidates with higher scores."""
    count = int(query.get("stronger_outside") or 0)
    if not count:
        return None
    return ngettext(
        "%(num)d stronger candidate lies outside your filter",
        "%(num)d stronger candidates lie outside your filter",
        count,
    )


# -------------------------------------------------------------------------------- what was searched


def searched(query: Json) -> str | None:
    """What was compared, in one sentence."""
    shown = present_receipt(query.get("receipt"))
    return shown.sentence if shown is not None else None


def receipt_pairs(query: Json) -> tuple[Pair, ...]:
    """The receipt of the search, line by line."""
    receipt = query.get("receipt")
    shown = present_receipt(receipt)
    if receipt is None or shown is None:
        return ()
    pairs = list(shown.pairs)
    if receipt.get("individuals") is not None:
        pairs.insert(1, Pair(_("Of them"), individuals(int(receipt["individuals"]))))
    pairs.insert(-2, Pair(_("Viewpoint rule"), rule_text(receipt.get("viewpoint_rule"))))
    pairs += [Pair(_("Note"), sentence(note["detail"])) for note in query.get("notices") or ()]
    return tuple(pairs)


def rule_text(rule: Any) -> str:
    """A viewpoint rule in words."""
    if not rule:
        return _("every viewpoint is compared with every other")
    if isinstance(rule, Mapping):
        return "; ".join(f"{name.replace('_', ' ')}: {value}" for name, value in rule.items())
    return str(rule)
