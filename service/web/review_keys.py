"""The keys of the review page, as its dialog shows them, and the reasons that a digit chooses."""

from __future__ import annotations

from service.web.words import lazy

KEYS = (
    (
        lazy("Decide"),
        (
            (("S",), lazy("same animal")),
            (("D",), lazy("different: not this candidate")),
            (("U",), lazy("unsure")),
            (("N",), lazy("new individual")),
            (("M",), lazy("none of these candidates")),
            (("X",), lazy("photos not usable, then a digit")),
            (("G",), lazy("an animal is to be seen, where the gate said no")),
            (("C",), lazy("comment")),
            (("T",), lazy("leave this photo of the query out, or in")),
        ),
    ),
    (
        lazy("Go on"),
        (
            (("→", "J"), lazy("next candidate")),
            (("←", "K"), lazy("previous candidate")),
            (("↓",), lazy("next photo of the candidate")),
            (("↑",), lazy("previous photo of the candidate")),
            (("⇧↓",), lazy("next photo of the query")),
            (("⇧↑",), lazy("previous photo of the query")),
            (("⇧→",), lazy("skip: the next of the queue")),
            (("⇧←",), lazy("back to the one before")),
            (("Z",), lazy("undo the last decision")),
            (("/",), lazy("compare with another individual")),
        ),
    ),
    (
        lazy("Look"),
        (
            (("+", "−", "0"), lazy("zoom in, out, whole photos")),
            (("1", "…", "9"), lazy("a ninth of both photos, as on a number pad")),
            (("L",), lazy("move both photos as one, or apart")),
            (("O",), lazy("lay one photo over the other")),
            (("F", "⇧F"), lazy("flip the candidate, the query")),
            (("R", "⇧R"), lazy("rotate the candidate, the query")),
            (("B", "⇧B"), lazy("brightness and contrast")),
            (("W",), lazy("the whole photos, not only the regions")),
            (("?",), lazy("these keys")),
        ),
    ),
)
"""(title, ((keys, what they do), …)) of each group."""

REASONS = (
    ("blurred", "1", lazy("Too blurred")),
    ("no_animal", "2", lazy("No animal")),
    ("several_animals", "3", lazy("Several animals")),
    ("other", "4", lazy("Another reason")),
)
