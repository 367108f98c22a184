"""Owns the sentences of the lower layers (errors, notices, reasons) in the reader's language.

The API speaks English, and stored answers keep the sentence that was given. A page knows the forms
that such sentences have, finds the values in them and words the form anew; a sentence whose form is
not among `FORMS` is shown as it is.
"""

from __future__ import annotations

import re
from functools import lru_cache

from service.web.figures import number, percent
from service.web.told_forms import FORMS
from service.web.words import ENGLISH, gettext, language

_PLACEHOLDER = re.compile(r"%\((\w+)\)s")
_FIGURE = re.compile(r"[-−]?\d{1,3}(?:,\d{3})*(?:\.(\d+))?(%)?")
_SENTENCE_END = re.compile(r"(?<=[.!?]) (?=[A-Z])")
_BEGINNING = 12
"""Characters by which forms are told apart before their patterns are tried."""


def told(detail: str) -> str:
    """The sentence in the reader's language where its form is known; of several, each by itself."""
    if language() == ENGLISH or not detail:
        return detail
    sentences = _SENTENCE_END.split(detail)
    # A value at the end of a form would take all that follows for its own.
    several = len(sentences) > 1 and _worded(sentences[0]) is not None
    whole = None if several else _worded(detail)
    if whole is not None:
        return whole
    return " ".join(_worded(one) or one for one in sentences)


def _worded(detail: str) -> str | None:
    for begins, pattern, form in _patterns():
        found = pattern.fullmatch(detail) if detail.startswith(begins) else None
        if found:
            return gettext(form) % {name: _value(one) for name, one in found.groupdict().items()}
    return None


@lru_cache(maxsize=1)
def _patterns() -> tuple[tuple[str, re.Pattern[str], str], ...]:
    """(how its sentences begin, pattern, form) of every form."""
    made = []
    for lazily in FORMS:
        form = lazily.text
        pieces = _PLACEHOLDER.split(form)
        pattern = "".join(
            f"(?P<{piece}>.*?)" if i % 2 else re.escape(piece.replace("%%", "%"))
            for i, piece in enumerate(pieces)
        )
        made.append((pieces[0][:_BEGINNING], re.compile(pattern, re.DOTALL), form))
    return tuple(made)


def _value(value: str) -> str:
    """A number as the reader's language writes it, a form that is known anew, the rest as it is."""
    found = _FIGURE.fullmatch(value)
    if not found:
        return _worded(value) or value
    digits = len(found[1] or "")
    plain = float(value.replace(",", "").replace("−", "-").rstrip("%"))
    return percent(plain / 100, digits) if found[2] else number(plain, digits)
