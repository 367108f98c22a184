"""Owns the sentences of the lower layers (errors, notices, reasons) in the reader's language.

The API speaks English, and stored answers keep the sentence that was given. A page knows the forms
that such sentences have, finds the values in them and words the form anew; a sentence whose form is
not among `FORMS` is shown as it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache

from service.web.figures import number, percent
from service.web.told_forms import FORMS
from service.web.words import ENGLISH, gettext, language

_PLACEHOLDER = re.compile(r"%\((\w+)\)s")
_FIGURE = re.compile(r"[-−]?\d{1,3}(?:,\d{3})*(?:\.(\d+))?(%)?")
_BEGINNING = 12
"""Characters by which forms are told apart before their patterns are tried."""


def told(detail: str) -> str:
    """The sentence in the reader's language where its form is known."""
    if language() == ENGLISH:
        return detail
    for pattern, form in _candidates(detail):
        found = pattern.fullmatch(detail)
        if found:
            values = {name: _figure(value) for name, value in found.groupdict().items()}
            return gettext(form) % values
    return detail


def _candidates(detail: str) -> Iterator[tuple[re.Pattern[str], str]]:
    for begins, pattern, form in _patterns():
        if detail.startswith(begins):
            yield pattern, form


@lru_cache(maxsize=1)
def _patterns() -> tuple[tuple[str, re.Pattern[str], str], ...]:
    """(how its sentences begin, pattern, form) of every form."""
    made = []
    for lazily in FORMS:
        form = lazily.text
        pieces = _PLACEHOLDER.split(form)
        pattern = "".join(
            f"(?P<{piece}>.+?)" if i % 2 else re.escape(piece.replace("%%", "%"))
            for i, piece in enumerate(pieces)
        )
        made.append((pieces[0][:_BEGINNING], re.compile(pattern, re.DOTALL), form))
    return tuple(made)


def _figure(value: str) -> str:
    """A number as the reader's language writes it; anything else as it is."""
    found = _FIGURE.fullmatch(value)
    if not found:
        return value
    digits = len(found[1] or "")
    plain = float(value.replace(",", "").replace("−", "-").rstrip("%"))
    return percent(plain / 100, digits) if found[2] else number(plain, digits)
