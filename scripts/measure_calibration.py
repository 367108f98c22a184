"""Measures how well probabilities of pairs come true: cosine, logistic, isotonic, on drawn data.

    python scripts/measure_calibration.py [--individuals 300] [--difficulty 1.8] [--keep FILE.npz]

Draws individuals that the starter bundle was not trained on, in worse weather than the demo's so
that it errs: two encounters of each are the catalogue, a third asks later, and as many strangers
ask too. Printed are the calibration error (ten bins of equal mass) and the Brier score
(1) of the catalogue asked about itself, encounters left out; (2) of the same curves on the new
encounters, as many strangers as known, of pairs and of queries; (3) of a desk where somebody walks
down the candidates to the right one, or rejects ten, for several shares of strangers: what was
fitted on the catalogue, and what is fitted on the verdicts on one half of the encounters, both
measured on the other half. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from models.threads import configure_threads

configure_threads(1)

import numpy as np  # noqa: E402

from indexer.calibrate import (  # noqa: E402
    FITS,
    Evidence,
    Flags,
    Floats,
    brier,
    calibration_error,
    error_by_chance,
    fit_curve,
    reliability,
)
from indexer.calibrate_job import SHOWN, ask_itself, walked  # noqa: E402
from indexer.drawings import individual_seed  # noqa: E402
from indexer.evaluate import Codes  # noqa: E402
from indexer.synthetic import Fluke, Scene, draw_fluke  # noqa: E402
from models.bundles import load_serving  # noqa: E402

SIZE_PX = (320, 240)
PHOTOS, ENCOUNTERS = 2, 3
BATCH = 32
STRANGERS = (0.1, 0.3, 0.5)
DRAWS = 20


def say(line: str) -> None:
    print(line, flush=True)


@dataclass(frozen=True)
class Drawn:
    """Photos in rows: `vectors` float32 (N, 512), `who` and `met` int64 (N,). Individuals from
    `individuals` on are strangers; encounters are numbered within an individual, 2 asks later."""

    vectors: np.ndarray
    who: Codes
    met: Codes
    individuals: int


def drawn(individuals: int, difficulty: float, seed: int) -> Drawn:
    """Draws and embeds everything, a batch at a time."""
    serving = load_serving(Path("no models here"), device="cpu", threads=1)
    if serving.embedder is None:
        raise SystemExit("The starter bundle cannot be loaded.")
    rows = [
        (who, met, photo)
        for who in range(2 * individuals)
        for met in (range(ENCOUNTERS) if who < individuals else (ENCOUNTERS - 1,))
        for photo in range(PHOTOS)
    ]
    vectors = []
    for start in range(0, len(rows), BATCH):
        photos = []
        for who, met, photo in rows[start : start + BATCH]:
            one = individual_seed(who, seed=seed)
            scene = Scene.from_seed(one * 100 + met, photo=photo, difficulty=difficulty)
            photos.append(draw_fluke(Fluke.from_seed(one), scene, size_px=SIZE_PX))
        vectors.append(serving.embedder.embed(photos).vectors)
        print(f"\r{start + len(photos)} of {len(rows)} photos", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    table = np.array(rows, dtype=np.int64)
    return Drawn(np.concatenate(vectors), table[:, 0], table[:, 1], individuals)


def measured(predicted: Floats, same: Flags) -> dict[str, float]:
    bins = reliability(predicted, same)
    return {
        "ece": round(calibration_error(bins), 4),
        "by_chance": round(error_by_chance(bins), 4),
        "brier": round(brier(predicted, same), 4),
    }


def tell(title: str, found: dict[str, dict[str, float]]) -> None:
    say(title)
    for name, numbers in found.items():
        say("  " + f"{name:<24}" + "".join(f"{k} {v:<10.4f}" for k, v in numbers.items()))


def catalogue_of(data: Drawn) -> tuple[Evidence, Evidence, np.ndarray]:
    """What the catalogue says of itself (pairs, queries), and its vectors, by individual."""
    kept = (data.met < ENCOUNTERS - 1) & (data.who < data.individuals)
    vectors, who = data.vectors[kept], data.who[kept]
    met = who * ENCOUNTERS + data.met[kept]
    pair, known = walked(ask_itself(vectors, who, met, np.random.default_rng(0)))
    return pair, known, vectors


def scores_of(data: Drawn, vectors: np.ndarray) -> Floats:
    """float64 (2 · individuals, individuals): how each new encounter scores with each individual
    of the catalogue, its photos as one question."""
    asks = data.met == ENCOUNTERS - 1
    by_photo = data.vectors[asks] @ vectors.T
    by_individual = by_photo.reshape(len(by_photo), data.individuals, -1).max(axis=2)
    of_whom = data.who[asks]
    return np.stack(
        [by_individual[of_whom == one].max(axis=0) for one in range(2 * data.individuals)]
    ).astype(np.float64)


def judged(scores: Floats, asking: Codes) -> tuple[Floats, Flags, Codes]:
    """(scores, same, encounters) of the pairs that somebody judges who walks down the candidates to
    the right one, or says "none of these" where it is not among those shown."""
    found: list[tuple[float, bool, int]] = []
    for one in asking.tolist():
        shown = np.argsort(-scores[one], kind="stable")[:SHOWN]
        right = np.flatnonzero(shown == one)
        seen = shown[: right[0] + 1] if len(right) else shown
        found += [(scores[one, other], other == one, one) for other in seen.tolist()]
    columns = list(zip(*found, strict=True))
    return (
        np.array(columns[0], dtype=np.float64),
        np.array(columns[1], dtype=np.bool_),
        np.array(columns[2], dtype=np.int64),
    )


def desk(scores: Floats, share: float, curve: Any, seed: int) -> dict[str, dict[str, float]]:
    """Means over draws of who asks: each measured on the half that was not fitted on."""
    individuals = scores.shape[1]
    found: dict[str, list[dict[str, float]]] = {}
    for draw in range(DRAWS):
        rng = np.random.default_rng((seed, draw))
        strangers = round(individuals * share / (1 - share))
        asking = np.concatenate(
            [
                np.arange(individuals),
                rng.permutation(np.arange(individuals, 2 * individuals))[:strangers],
            ]
        )
        rng.shuffle(asking)
        half = len(asking) // 2
        first, second = judged(scores, asking[:half]), judged(scores, asking[half:])
        verdicts = Evidence(first[0], first[1], first[2], "verdicts")
        predicted = {
            "cosine": np.clip(second[0], 0, 1),
            "fitted on the catalogue": curve.values(second[0]),
        }
        if verdicts.enough:
            chosen = fit_curve(verdicts)
            predicted["fitted on verdicts"] = chosen.curve.values(second[0])
        for name, values in predicted.items():
            found.setdefault(name, []).append(measured(values, second[1]))
    return {
        name: {key: round(float(np.mean([one[key] for one in many])), 4) for key in many[0]}
        for name, many in found.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--individuals", type=int, default=300)
    parser.add_argument("--difficulty", type=float, default=1.8)
    parser.add_argument("--seed", type=int, default=77)
    parser.add_argument("--keep", type=Path, help="vectors, kept from one run to the next")
    args = parser.parse_args()
    if args.keep is not None and args.keep.is_file():
        with np.load(args.keep) as kept:
            data = Drawn(kept["vectors"], kept["who"], kept["met"], int(kept["individuals"]))
    else:
        data = drawn(args.individuals, args.difficulty, args.seed)
        if args.keep is not None:
            np.savez(
                args.keep,
                vectors=data.vectors,
                who=data.who,
                met=data.met,
                individuals=data.individuals,
            )

    evidence, queries, vectors = catalogue_of(data)
    scores = scores_of(data, vectors)
    known = scores[: data.individuals]
    top_1 = float(np.mean(known.argmax(axis=1) == np.arange(len(known))))
    say(f"{data.individuals} individuals, right one first for {top_1:.1%} of new encounters")

    chosen = fit_curve(evidence)
    itself = chosen.report["measured"]
    tell(f"1. the catalogue about itself (chosen: {chosen.report['method']})", itself)

    fresh, truth, _ = judged(scores, np.arange(len(scores)))
    curves = {name: fit(evidence.scores, evidence.same) for name, fit in FITS.items()}
    new = {"cosine": measured(np.clip(fresh, 0, 1), truth)} | {
        name: measured(curve.values(fresh), truth) for name, curve in curves.items()
    }
    tell("2. new encounters, as many strangers as known", new)

    best, is_known = scores.max(axis=1), np.arange(len(scores)) < data.individuals
    settled = {"score": measured(np.clip(best, 0, 1), is_known)} | {
        name: measured(fit(queries.scores, queries.same).values(best), is_known)
        for name, fit in FITS.items()
    }
    tell("   of these, known or new by the best score", settled)

    desks = {}
    for share in STRANGERS:
        desks[str(share)] = desk(scores, share, chosen.curve, args.seed)
        tell(f"3. a desk where {share:.0%} of the encounters are strangers", desks[str(share)])
    print(
        json.dumps(
            {
                "individuals": data.individuals,
                "top_1": round(top_1, 4),
                "method": chosen.report["method"],
                "ece_by_chance": chosen.report["ece_by_chance"],
                "itself": itself,
                "new": new,
                "known_or_new": settled,
                "desk": desks,
            }
        )
    )


if __name__ == "__main__":
    main()
