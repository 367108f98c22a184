"""Measures the fit of a head: time, memory, and what it gains over class means.

    python scripts/bench_head.py [--scale 1.0] [--threads 2] [--seed 0]

Drawn vectors as a re-identification network gives them: 13,837 individuals with 51,034 photos at
scale 1, most with few photos and some with many, in encounters of about two photos. What changes
between encounters lies in some directions more than in others. One encounter of a fifth of the
individuals is left out of everything and asked about at the end, and the fit leaves out more to
stop and to measure by. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from models.threads import configure_threads

configure_threads(1)

import numpy as np  # noqa: E402

from indexer.head import HeadOptions, fit  # noqa: E402
from indexer.head_fit import Codes, FitOptions, Floats, class_means, judge  # noqa: E402
from indexer.head_measure import MeasureOptions, split  # noqa: E402

PHOTOS, INDIVIDUALS, DIM = 51_034, 13_837, 512
MOST_PHOTOS = 400
PHOTOS_PER_ENCOUNTER = 2
NUISANCE = 64
"""Directions in which encounters differ most."""
ENCOUNTER, PHOTO = 1.7, 0.85
"""Lengths of what changes between encounters and between photos, beside a centre of length 1."""


def drawn(scale: float, seed: int) -> tuple[Floats, Codes, Codes]:
    """(unit vectors float32 (N, 512), individuals int64 (N,), encounters int64 (N,))."""
    rng = np.random.default_rng(seed)
    photos, individuals = round(PHOTOS * scale), round(INDIVIDUALS * scale)
    raw = 1 + rng.pareto(1.1, individuals)
    counts = np.clip(raw * photos / raw.sum(), 1, MOST_PHOTOS).astype(np.int64)
    np.add.at(counts, rng.integers(individuals, size=max(photos - counts.sum(), 0)), 1)
    who = np.repeat(np.arange(individuals), counts)[:photos]
    first = np.flatnonzero(np.diff(who, prepend=-1))
    number = np.arange(len(who)) - first[who]
    new = (number % PHOTOS_PER_ENCOUNTER) == 0
    encounter = np.cumsum(new) - 1

    fading = 1 / np.sqrt(1 + np.arange(DIM) / 60)
    fading /= np.linalg.norm(fading)
    shift = np.zeros((encounter[-1] + 1, DIM), dtype=np.float32)
    shift[:, 20 : 20 + NUISANCE] = rng.standard_normal((len(shift), NUISANCE)) / NUISANCE**0.5
    rows = (rng.standard_normal((individuals, DIM)) * fading).astype(np.float32)[who]
    rows += ENCOUNTER * shift[encounter]
    rows += PHOTO / DIM**0.5 * rng.standard_normal(rows.shape, dtype=np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True), who, encounter


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scale", type=float, default=1.0, help="share of the full size")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    vectors, who, encounter = drawn(args.scale, args.seed)
    individuals = int(who.max()) + 1
    unseen = split(
        who, encounter, MeasureOptions(stranger_share=0.0, held_out_share=0.4, seed=args.seed + 1)
    ).known
    given = vectors[~unseen], who[~unseen], encounter[~unseen]
    print(
        f"{len(given[0]):,} vectors of {individuals:,} individuals, "
        f"{int(unseen.sum()):,} kept apart"
    )
    started = time.perf_counter()

    def progress(done: int, most: int) -> None:
        print(f"pass {done} of {most} at most: {time.perf_counter() - started:.1f} s", flush=True)

    options = HeadOptions(FitOptions(threads=args.threads, seed=args.seed))
    fitted = fit(*given, options, progress=progress)
    seconds = time.perf_counter() - started
    means, _ = class_means(*given[:2], individuals)
    asked = vectors[unseen], who[unseen]
    scale = fitted.scale
    report = fitted.report
    for epoch in report["epochs"]:
        print({name: round(value, 4) for name, value in epoch.items() if value is not None})
    print(
        json.dumps(
            {
                "vectors": len(given[0]),
                "individuals": individuals,
                "threads": args.threads,
                "seconds": round(seconds, 1),
                "epochs": {"tried": report["epochs"][-1]["number"], "kept": report["best_epoch"]},
                "held_out": len(asked[0]),
                "top_1_head": round(judge(fitted.rows, *asked, scale).top_1, 4),
                "top_1_class_means": round(judge(means, *asked, scale).top_1, 4),
                "reported": report["top_1"],
                "after": report["after"],
                "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
            }
        )
    )


if __name__ == "__main__":
    main()
