"""Owns what can be wrong with a model bundle, in words that say what to do next."""

from __future__ import annotations


class BundleError(Exception):
    """A bundle that cannot be used. `code` is for programs, `detail` is a sentence for people."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail


class BadCheckpoint(BundleError):
    """Weights, class list or species map that do not hold what the architecture needs.

    `culprits` names the keys, ids or rows at fault, at most the first ten.
    """

    def __init__(self, code: str, detail: str, culprits: tuple[str, ...] = ()) -> None:
        super().__init__(code, detail)
        self.culprits = culprits[:10]


class ModelsExtraMissing(BundleError):
    """torch or a library beside it is not installed; serving needs none of them."""

    def __init__(self, module: str) -> None:
        super().__init__(
            "models_extra_missing",
            f"this needs the Python package {module}, which serving does not install: run "
            'pip install -e ".[models]" (on a machine without a GPU, take torch from the CPU index '
            "of pytorch.org first, it is much smaller) and try again",
        )


def name_some(names: list[str]) -> str:
    """The first names of a list that may be long, for an error message."""
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3:,} more"
