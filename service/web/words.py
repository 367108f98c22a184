"""Owns the words of the pages: what a reader's language calls them."""

from __future__ import annotations


def _(text: str) -> str:
    """The text in the reader's language."""
    return text


def ngettext(one: str, many: str, n: int) -> str:
    """The form for `n`, with `%(num)d` filled in."""
    return (one if n == 1 else many) % {"num": n}
