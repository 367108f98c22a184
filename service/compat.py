"""The answer that older clients of cetacean identification expect, made from ours.

`class_animal` holds the individual and `id_animal` the species: the two names are swapped, and
clients rely on it. A rejection is a result, not an error.
"""

from __future__ import annotations

from typing import Any

from indexer.answers import HeadCandidate, IdentifyAnswer

NO_INDIVIDUAL = ""
UNKNOWN_SPECIES = "unknown"


def prediction(name: str, answer: IdentifyAnswer) -> dict[str, Any]:
    """The compatible JSON for an answer about one photo called `name`."""
    default = answer.default_answer
    given = default.status == "given"
    photo = answer.photos[0]
    return {
        "image_ind": name,
        "bbox": [0, 0, photo.width_px or 0, photo.height_px or 0],
        **_named(default.candidates[0] if given else None),
        "probability": _probability(answer),
        "mask": None,
        "is_cetacean": _is_cetacean(answer),
        "cetacean_score": answer.gate.score,
        "rejected": not given,
        "rejection_reason": None if given else _reason(answer),
        "model_version": default.model or answer.gate.model,
        "candidates": [
            _named(candidate) | {"probability": candidate.probability}
            for candidate in default.candidates[1:5]
        ],
    }


def corrupted(name: str, model_version: str) -> dict[str, Any]:
    """The compatible JSON for a photo that could not be read."""
    return {
        "image_ind": name,
        "bbox": [0, 0, 0, 0],
        **_named(None),
        "probability": 0.0,
        "mask": None,
        "is_cetacean": False,
        "cetacean_score": 0.0,
        "rejected": True,
        "rejection_reason": "corrupted_image",
        "model_version": model_version,
        "candidates": [],
    }


def _named(candidate: HeadCandidate | None) -> dict[str, str]:
    """The species is the raw label that the published class list has, as these clients know it."""
    if candidate is None:
        return {"class_animal": NO_INDIVIDUAL, "id_animal": UNKNOWN_SPECIES}
    return {
        "class_animal": candidate.individual.name,
        "id_animal": candidate.species or candidate.individual.taxon or UNKNOWN_SPECIES,
    }


def _probability(answer: IdentifyAnswer) -> float:
    if answer.gate.state == "rejected":
        return 0.0
    return answer.default_answer.probability or 0.0


def _is_cetacean(answer: IdentifyAnswer) -> bool | None:
    """None where the gate abstained: nobody has said that it is none."""
    return {"accepted": True, "rejected": False, "abstained": None}[answer.gate.state]


def _reason(answer: IdentifyAnswer) -> str:
    return "not_a_marine_mammal" if answer.gate.state == "rejected" else "low_confidence"
