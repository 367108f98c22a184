"""Keyset pages: the rows after a cursor, and the cursor of the next page."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from db.errors import Invalid

Row = TypeVar("Row")


@dataclass(frozen=True, slots=True)
class Page(Generic[Row]):
    """`next_cursor` is None on the last page."""

    items: tuple[Row, ...]
    next_cursor: str | None


def make_page(rows: Sequence[Row], limit: int, key: Callable[[Row], Sequence[object]]) -> Page[Row]:
    """The first `limit` of `limit + 1` fetched rows; `key` is what the next page follows."""
    if len(rows) <= limit:
        return Page(tuple(rows), None)
    kept = tuple(rows[:limit])
    packed = json.dumps([str(part) for part in key(kept[-1])]).encode()
    return Page(kept, base64.urlsafe_b64encode(packed).decode().rstrip("="))


def read_cursor(cursor: str | None, *readers: Callable[[str], Any]) -> list[Any] | None:
    """The key in a cursor, each part through its reader; None without a cursor.

    Raises:
        Invalid: it is not a cursor of such a list.
    """
    if cursor is None:
        return None
    try:
        parts = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
        return [reader(part) for reader, part in zip(readers, parts, strict=True)]
    except (ValueError, TypeError, binascii.Error) as error:
        raise Invalid(
            "cursor_invalid",
            f"{cursor!r} is not a cursor of this list; take `next_cursor` of the page before, "
            "unchanged, or leave it out to start again.",
            cursor=cursor,
        ) from error
