"""Owns the worker's loop: photos that lack a vector get one, again and again, until told to end."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING

from sqlalchemy.exc import OperationalError

if TYPE_CHECKING:
    from models.embedder import Embedder
    from service.runtime import Resight

Tell = Callable[[str], None]
BACK_OFF_S = 5.0


class NothingToServe(Exception):
    """No bundle is loaded that could embed anything."""


def work(resight: Resight, *, interval_s: float, once: bool, tell: Tell) -> None:
    """Embeds what is missing, then looks again every `interval_s` seconds; SIGTERM ends it.

    Photos that cannot be embedded are told once, and left alone after.

    Raises:
        NothingToServe: there is no embedder.
    """
    embedder, space = resight.serving.embedder, resight.space
    if embedder is None or space is None or not resight.active.usable:
        raise NothingToServe(
            "No bundle is loaded that embeds into the space in use; `resight doctor` says why."
        )
    stop = threading.Event()

    def end(_signal: int, _frame: FrameType | None) -> None:
        stop.set()

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, end)
    told: set[int] = set()
    while not stop.is_set():
        try:
            _round(resight, embedder, space.id, told, tell)
        except OperationalError:
            if once:
                raise
            tell(f"The database does not answer; trying again in {BACK_OFF_S:.0f} s.")
            stop.wait(BACK_OFF_S)
            continue
        if once:
            return
        stop.wait(interval_s)


def _round(resight: Resight, embedder: Embedder, space_id: int, told: set[int], tell: Tell) -> None:
    from indexer.embed import embed_missing

    report = embed_missing(resight.sessions, resight.store, embedder, space_id)
    for failure in report.failed:
        if failure.annotation_id not in told:
            told.add(failure.annotation_id)
            tell(f"annotation {failure.annotation_id} was not embedded: {failure.reason}")
    if report.embedded:
        tell(f"{report.embedded} embedded, {report.photos_per_s:.1f} photos/s")
