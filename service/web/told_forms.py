"""The forms of sentences that the lower layers say and pages show; a test finds each one there."""

from __future__ import annotations

from service.web.words import lazy

FORMS = (lazy("%(name)r is in no table."),)
