"""Owns the tag of what is shown: an edit that names it is made only while that is still so."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from db.errors import Conflict


def etag_of(shown: dict[str, Any]) -> str:
    """32 hexadecimal digits that change when any value does; times and ids as their text."""
    text = json.dumps(shown, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def require_etag(if_match: str | None, present: str, what: str) -> None:
    """Let an edit through whose If-Match header names what is there now; None lets any through.

    Raises:
        Conflict: `changed_meanwhile`, with the tag of now: `what` was changed since it was read.
    """
    if if_match is None or if_match.strip() == "*":
        return
    named = {one.strip().removeprefix("W/").strip('"') for one in if_match.split(",")}
    if present not in named:
        raise Conflict(
            "changed_meanwhile",
            f"{what} was changed by another since you read it; reload it, and make your change to "
            "what is there now.",
            etag=present,
        )
