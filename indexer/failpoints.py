"""Places where a test may end the process as a crash would, named by the environment.

`RESIGHT_FAILPOINT=NAME` ends it at the first passing of that place, `NAME:3` at the third.
"""

from __future__ import annotations

import os
from collections import Counter
from typing import Final

VARIABLE: Final = "RESIGHT_FAILPOINT"
EXIT_CODE: Final = 9
NAMES: Final = frozenset(
    {
        "upload.after_fsync",
        "upload.before_row",
        "upload.after_row",
        "chunk.after_claim",
        "chunk.before_commit",
        "chunk.after_commit",
        "switch.before_notify",
        "switch.before_flip",
        "switch.after_flip",
        "cleanup.before",
    }
)

_passed: Counter[str] = Counter()


def failpoint(name: str) -> None:
    """Ends the process here, without any clean-up, where the environment names this place.

    Raises:
        ValueError: no such place is listed in `NAMES`.
    """
    if name not in NAMES:
        raise ValueError(f"the fail-point {name!r} is not listed in {__name__}.NAMES")
    wanted = os.environ.get(VARIABLE)
    if wanted is None:
        return
    place, _, passing = wanted.partition(":")
    if place == name:
        _passed[name] += 1
        if _passed[name] >= int(passing or 1):
            os._exit(EXIT_CODE)
