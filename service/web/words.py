"""Owns the words of the pages: what the reader's language calls them, its plurals and its figures.

English texts are the keys. Other languages are the `.po` files under `locale/`, read as they are
when first needed: a translator edits one file and starts the service again, nothing is built.
"""

from __future__ import annotations

import gettext as _gettext
import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from babel import Locale
from babel.core import negotiate_locale
from babel.messages.catalog import Catalog, Message
from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po
from babel.numbers import format_decimal
from markupsafe import Markup

LOCALE = Path(__file__).resolve().parent / "locale"
DOMAIN = "resight"
ENGLISH = "en"
FIGURES = {ENGLISH: "en_GB"}
"""How a language writes numbers and dates, where that is not its own name."""

_language: ContextVar[str] = ContextVar("resight_language", default=ENGLISH)


@dataclass(frozen=True, slots=True)
class Words:
    """One language: its translations, and those that scripts need, with the plural forms by
    the names that `Intl.PluralRules` gives them."""

    translations: _gettext.NullTranslations
    scripts: Mapping[str, str | Mapping[str, str]]


@lru_cache(maxsize=1)
def languages() -> Mapping[str, str]:
    """Each language there is, by what it calls itself; English first."""
    others = sorted(path.name for path in LOCALE.iterdir() if (_po_of(path.name)).is_file())
    names = {code: Locale.parse(code).get_display_name(code) or code for code in [ENGLISH, *others]}
    return {code: name[:1].upper() + name[1:] for code, name in names.items()}


def _po_of(code: str) -> Path:
    return LOCALE / code / "LC_MESSAGES" / f"{DOMAIN}.po"


@lru_cache(maxsize=16)
def _words(code: str) -> Words:
    if code == ENGLISH:
        return Words(_gettext.NullTranslations(), {})
    with _po_of(code).open("rb") as file:
        catalogue = read_po(file, locale=code, domain=DOMAIN)
    compiled = io.BytesIO()
    write_mo(compiled, catalogue)
    compiled.seek(0)
    return Words(_gettext.GNUTranslations(compiled), _of_scripts(catalogue))


def _of_scripts(catalogue: Catalog) -> dict[str, str | Mapping[str, str]]:
    """What static JavaScript says; the catalogue knows where each text is used."""
    found: dict[str, str | Mapping[str, str]] = {}
    for message in catalogue:
        if not any(place.endswith(".js") for place, _line in message.locations):
            continue
        if isinstance(message.id, tuple | list):
            found[message.id[0]] = _plural_forms(catalogue, message)
        elif message.id and message.string and not message.fuzzy:
            found[message.id] = str(message.string)
    return found


def _plural_forms(catalogue: Catalog, message: Message) -> dict[str, str]:
    rule = Locale.parse(str(catalogue.locale)).plural_form
    index_of = _gettext.c2py(catalogue.plural_expr)
    forms = list(message.string or ())
    return {rule(n): forms[index_of(n)] for n in range(200)}


# ---------------------------------------------------------------------------- the reader's language


def language() -> str:
    """The language of the page being drawn; English outside one."""
    return _language.get()


def locale() -> Locale:
    """How that language writes numbers and dates."""
    return Locale.parse(FIGURES.get(language(), language()))


@contextmanager
def speaking(code: str) -> Iterator[None]:
    """Everything inside is worded in a language of `languages()`; an unknown one is English."""
    token = _language.set(code if code in languages() else ENGLISH)
    try:
        yield
    finally:
        _language.reset(token)


def choose(explicit: str | None, accepted: str | None) -> str:
    """The language for a reader: the one chosen, else the best that an Accept-Language header
    names, else English."""
    if explicit in languages():
        return str(explicit)
    preferred = [code for code in _by_quality(accepted or "") if code != "*"]
    return negotiate_locale(preferred, list(languages()), sep="-") or ENGLISH


def _by_quality(header: str) -> list[str]:
    weighed = []
    for part in header.split(",")[:50]:
        code, _, parameters = part.strip().partition(";")
        quality = parameters.strip().removeprefix("q=") or "1"
        try:
            weight = float(quality)
        except ValueError:
            continue
        if code and weight > 0:
            weighed.append((weight, code.strip()))
    return [code for _weight, code in sorted(weighed, key=lambda one: -one[0])]


# --------------------------------------------------------------------------------------- the words


def gettext(text: str, /, **values: object) -> str:
    """The text in the reader's language, with `%(name)s` filled in where values are given."""
    translated = _words(language()).translations.gettext(text)
    return translated % values if values else translated


_ = gettext


def pgettext(context: str, text: str, /, **values: object) -> str:
    """As `gettext`, for a word that means several things: `context` says which one."""
    translated = _words(language()).translations.pgettext(context, text)
    return translated % values if values else translated


def ngettext(one: str, many: str, n: int, /, **values: object) -> str:
    """The form for `n`, with `%(num)d` (in groups of three) and other values filled in."""
    translated = _words(language()).translations.ngettext(one, many, n)
    grouped = format_decimal(n, locale=locale())
    return translated.replace("%(num)d", "%(num)s") % ({"num": grouped} | values)


def markup(text: str, /, **values: object) -> Markup:
    """As `gettext`, for a sentence with HTML in it (a link, a Latin name): the text is ours, every
    value is escaped unless it is Markup itself."""
    return Markup(gettext(text)) % values if values else Markup(gettext(text))


class Lazy:
    """A text of a module's table, put into the reader's language whenever it is shown."""

    __slots__ = ("context", "text")

    def __init__(self, text: str, context: str | None = None) -> None:
        self.text = text
        self.context = context

    def __str__(self) -> str:
        return pgettext(self.context, self.text) if self.context else gettext(self.text)

    def __mod__(self, values: Mapping[str, object]) -> str:
        return str(self) % values

    def __repr__(self) -> str:
        return f"Lazy({self.text!r})"


def lazy(text: str) -> Lazy:
    """Marks a text of a table that is made before anybody reads it; `str()` gives its words."""
    return Lazy(text)


@dataclass(frozen=True, slots=True)
class LazyPlural:
    """Both English forms of a counted noun; called with a number it gives the form for it."""

    one: str
    many: str

    def __call__(self, n: int, /, **values: object) -> str:
        return ngettext(self.one, self.many, n, **values)


def nlazy(one: str, many: str) -> LazyPlural:
    """As `lazy`, for a counted noun of a table."""
    return LazyPlural(one, many)


def for_scripts() -> dict[str, Any]:
    """What `words.js` reads from the page: nothing but the language where that is English."""
    return {"language": language(), "words": _words(language()).scripts}
