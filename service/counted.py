"""Owns how large the catalogue is, as every page tells: counted again only where something was
written since."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from sqlalchemy import event
from sqlalchemy.orm import Session, sessionmaker

from db.queries import catalogue
from db.queries.catalogue import Sizes

MAX_AGE_S = 60.0
"""Counted again after this in any case."""


@dataclass(frozen=True, slots=True)
class _Kept:
    asked: tuple[int | None, int, object]
    """The space, how much had been written by then, and this process's last commit."""
    at: float
    sizes: Sizes


class Counted:
    """What this process writes shows at once, what others write within ten seconds. Thread-safe."""

    def __init__(self, sessions: sessionmaker[Session]) -> None:
        """Follows what is committed through `sessions`."""
        self._last_commit = object()
        self._kept: _Kept | None = None
        event.listen(sessions, "after_commit", self._committed)

    def sizes(self, session: Session, model_id: int | None) -> Sizes:
        """The sizes, with the vectors of the space `model_id`."""
        asked = (model_id, catalogue.writes(session), self._last_commit)
        kept, now = self._kept, time.monotonic()
        if kept is not None and kept.asked == asked and now - kept.at < MAX_AGE_S:
            return kept.sizes
        sizes = catalogue.sizes(session, model_id)
        self._kept = _Kept(asked, now, sizes)
        return sizes

    def _committed(self, _session: Any) -> None:
        self._last_commit = object()
