"""What pages have sent to be kept and is not answered yet: a verdict is on its way while the next
pair is already shown."""

from __future__ import annotations

import time
from weakref import WeakKeyDictionary

from playwright.sync_api import Page, Request

PATIENCE_MS = 30_000
"""A busy machine is no failure of the page."""

_sent: WeakKeyDictionary[Page, set[Request]] = WeakKeyDictionary()


def follow(page: Page) -> None:
    """From now on; for `answered`."""
    sent = _sent[page] = set()
    page.on("request", lambda one: sent.add(one) if one.method != "GET" else None)
    page.on("requestfinished", lambda one: sent.discard(one))
    page.on("requestfailed", lambda one: sent.discard(one))


def answered(page: Page) -> None:
    """Waits until all that the page has sent to be kept is answered."""
    deadline = time.monotonic() + PATIENCE_MS / 1000
    page.wait_for_timeout(50)
    while _sent[page] and time.monotonic() < deadline:
        page.wait_for_timeout(20)
    assert not _sent[page]
