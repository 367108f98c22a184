"""Measures Resight on photos of your own, over HTTP, as a user would ask.

    python scripts/evaluate_real.py --data DIR     # with DIR/metadata.csv (wildlife-datasets)
    python scripts/evaluate_real.py --batch DIR    # every photo below DIR as one ZIP

`--data` imports into a fresh data directory, then asks every photo that has a partner (same
individual and viewpoint, another encounter) with its own encounter left out. A photo counts in the
denominator whether or not it was answered. The last line is JSON.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

PHOTO_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"}
RESIGHT = Path(sys.executable).with_name("resight")


@dataclass(frozen=True, slots=True)
class Asked:
    """One photo to ask: whose it is, and from which side it was taken."""

    path: Path
    identity: str
    viewpoint: str


def photos_with_partner(folder: Path) -> tuple[list[Asked], int]:
    """The photos that can be answered, and how many have no partner.

    A partner shows the same individual from the same viewpoint in another encounter.
    """
    with (folder / "metadata.csv").open(newline="", encoding="utf-8-sig") as file:
        rows = [row for row in csv.DictReader(file) if row["identity"] != "unknown"]
    encounters: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
    for row in rows:
        encounters[row["identity"], row["orientation"]].add(row["encounter"])
    asked = [
        Asked(folder / row["path"], row["identity"], row["orientation"])
        for row in rows
        if len(encounters[row["identity"], row["orientation"]]) > 1
    ]
    return asked, len(rows) - len(asked)


@contextmanager
def serving(data_dir: Path) -> Iterator[str]:
    """The base URL of a `resight serve` of its own, ended by its process id afterwards."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [RESIGHT, "serve", "--port", str(port)],
        env=os.environ | {"RESIGHT_DATA_DIR": str(data_dir)},
        stdout=subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(240):
            if process.poll() is not None:
                raise SystemExit(f"resight serve ended with status {process.returncode}")
            try:
                if httpx.get(f"{url}/ready", timeout=5).status_code == 200:
                    break
            except httpx.TransportError:
                pass
            time.sleep(0.25)
        else:
            raise SystemExit("resight serve was not ready within a minute")
        yield url
    finally:
        process.terminate()
        process.wait(timeout=30)


def rank_of(answer: dict[str, list[dict[str, dict[str, str]]]], identity: str) -> int | None:
    """The rank of the right individual among the matches, 1 being first."""
    names = [match["individual"]["name"] for match in answer["matches"]]
    return names.index(identity) + 1 if identity in names else None


def ask(url: str, asked: list[Asked], k: int) -> tuple[dict[Asked, int | None], int, float]:
    """Rank for each photo (None: not among the first k), how many got no answer, seconds."""
    ranks: dict[Asked, int | None] = {}
    unanswered = 0
    started = time.perf_counter()
    with httpx.Client(base_url=url, timeout=60) as client:
        for photo in asked:
            response = client.post(
                "/v1/identify",
                files={"file": (photo.path.name, photo.path.read_bytes())},
                data={
                    "k": k,
                    "viewpoint": photo.viewpoint,
                    "exclude_encounter": "own",
                    "exclude_known": "true",
                },
            )
            answer = response.json()
            if response.status_code != 200 or not answer["matches"]:
                unanswered += 1
            ranks[photo] = rank_of(answer, photo.identity) if response.status_code == 200 else None
    return ranks, unanswered, time.perf_counter() - started


def table(ranks: dict[Asked, int | None], k: int) -> dict[str, dict[str, float]]:
    """Top-1, top-5 and median rank, by viewpoint and in all; a miss counts as rank k + 1."""
    groups: defaultdict[str, list[int]] = defaultdict(list)
    for photo, rank in ranks.items():
        for group in (photo.viewpoint or "none", "all"):
            groups[group].append(rank or k + 1)
    return {
        group: {
            "n": len(values),
            "top1": round(sum(rank <= 1 for rank in values) / len(values), 4),
            "top5": round(sum(rank <= 5 for rank in values) / len(values), 4),
            "median_rank": statistics.median(values),
        }
        for group, values in sorted(groups.items())
    }


def evaluate(folder: Path, data_dir: Path, k: int) -> dict[str, object]:
    """Imports the folder, asks, prints the table and gives all figures."""
    asked, alone = photos_with_partner(folder)
    started = time.perf_counter()
    subprocess.run(
        [RESIGHT, "import", str(folder)],
        env=os.environ | {"RESIGHT_DATA_DIR": str(data_dir)},
        check=True,
    )
    import_s = time.perf_counter() - started
    with serving(data_dir) as url:
        ranks, unanswered, ask_s = ask(url, asked, k)
    groups = table(ranks, k)
    print(f"{'viewpoint':<12}{'n':>6}{'top-1':>9}{'top-5':>9}{'median rank':>14}")
    for group, row in groups.items():
        print(
            f"{group:<12}{row['n']:>6}{row['top1']:>9.3f}{row['top5']:>9.3f}"
            f"{row['median_rank']:>14.1f}"
        )
    return {
        "asked": len(asked),
        "without_partner": alone,
        "unanswered": unanswered,
        "groups": groups,
        "import_photos_per_s": round((len(asked) + alone) / import_s, 2),
        "identify_photos_per_s": round(len(asked) / ask_s, 2),
    }


def batch(folder: Path, data_dir: Path) -> dict[str, object]:
    """Sends every photo below the folder as one ZIP and checks count and order of the results."""
    photos = sorted(p for p in folder.rglob("*") if p.suffix.lower() in PHOTO_SUFFIXES)
    names = [photo.relative_to(folder).as_posix() for photo in photos]
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        for photo, name in zip(photos, names, strict=True):
            file.write(photo, name)
    with serving(data_dir) as url:
        started = time.perf_counter()
        response = httpx.post(
            f"{url}/v1/predict-batch",
            files={"archive": ("photos.zip", archive.getvalue(), "application/zip")},
            timeout=1200,
        )
        seconds = time.perf_counter() - started
    results = response.raise_for_status().json()
    states: defaultdict[str, defaultdict[str, int]] = defaultdict(lambda: defaultdict(int))
    for name, result in zip(names, results, strict=True):
        group = name.split("/")[0] if "/" in name else "."
        states[group][result["rejection_reason"] or "answered"] += 1
    return {
        "sent": len(names),
        "results": len(results),
        "in_order": [result["image_ind"] for result in results] == names,
        "by_folder": states,
        "photos_per_s": round(len(names) / seconds, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--data", type=Path, help="folder with metadata.csv (wildlife-datasets)")
    what.add_argument("--batch", type=Path, help="folder of photos to send as one ZIP")
    parser.add_argument(
        "--data-dir", type=Path, help="Resight's data directory (default: a fresh one)"
    )
    parser.add_argument("--k", type=int, default=100, help="individuals to ask for (default 100)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="resight-evaluate-") as fresh:
        data_dir = args.data_dir or Path(fresh) / "data"
        figures = (
            evaluate(args.data, data_dir, args.k) if args.data else batch(args.batch, data_dir)
        )
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
