"""A verdict to the next pair on the screen, and the list of individuals, in a real Chromium.

    python scripts/bench_review.py [--decisions 100] [--individuals 15000] [--vectors 51034]

Fills a data directory with synthetic rows, gives drawn photos to those that the pages will show,
brings encounters to the desk, serves it with `resight serve`, and works through the queue with the
keyboard: a look of `--look` seconds, a verdict, the next pair. The time is the page's own measure,
from the key to the frame in which both photos of the next pair are painted. The last line of
standard output is JSON: `p95_ms` of verdicts, `list_ms` until the first page of individuals is laid
out.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from evaluate_real import RESIGHT, serving
from filling import Filled, fill
from sqlalchemy import text
from sqlalchemy.orm import Session

if TYPE_CHECKING:
    from playwright.sync_api import Page

    from service.runtime import Resight

ROOT = Path(__file__).resolve().parent.parent
DRAWINGS = 48
PHOTOS_OF_AN_ENCOUNTER = 2
LISTS = 15
SIZE_PX = (640, 480)


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


# ---------------------------------------------------------------- what is reviewed


def draw_pool() -> list[bytes]:
    """JPEGs of drawn flukes, to be told apart by what is appended to each copy."""
    from PIL import Image

    from indexer.synthetic import Fluke, Scene, draw_fluke

    pool = []
    for number in range(DRAWINGS):
        drawn = draw_fluke(Fluke.from_seed(number), Scene.from_seed(number), size_px=SIZE_PX)
        out = io.BytesIO()
        Image.fromarray(drawn).save(out, "JPEG", quality=88)
        pool.append(out.getvalue())
    return pool


class Photos:
    """Gives bytes to media rows that were made without."""

    def __init__(self, resight: Resight) -> None:
        self._resight = resight
        self._pool = draw_pool()
        self._given: set[int] = set()

    def give(self, media_ids: list[int]) -> None:
        """Store a photo for each; none twice."""
        for media_id in sorted(set(media_ids) - self._given):
            # What follows the end of a JPEG is no part of the picture.
            data = self._pool[media_id % len(self._pool)] + media_id.to_bytes(8, "big")
            sha256 = self._resight.store.put(data)
            with self._resight.sessions.begin() as session:
                session.execute(
                    text(
                        "UPDATE media_asset SET sha256 = :sha256, byte_size = :size,"
                        " width_px = :width, height_px = :height WHERE id = :id"
                    ),
                    {
                        "id": media_id,
                        "sha256": sha256,
                        "size": len(data),
                        "width": SIZE_PX[0],
                        "height": SIZE_PX[1],
                    },
                )
            self._given.add(media_id)


def make_encounters(session: Session, filled: Filled, count: int) -> list[tuple[Any, list[int]]]:
    """Takes photos away from individuals that keep others: an encounter of each to be asked."""
    counts = np.bincount(filled.owner)
    who = np.flatnonzero(counts >= PHOTOS_OF_AN_ENCOUNTER + 2)
    chosen = np.random.default_rng(3).choice(who, size=count, replace=False)
    catalogue = session.scalar(text("SELECT id FROM catalogue LIMIT 1"))
    made = []
    for number, individual in enumerate(chosen.tolist()):
        rows = np.flatnonzero(filled.owner == individual)[:PHOTOS_OF_AN_ENCOUNTER]
        ids = filled.annotation_ids[rows].tolist()
        encounter = session.scalar(
            text(
                "INSERT INTO encounter (catalogue_id, place, started_at) VALUES"
                " (:catalogue, 'Bay', now() - make_interval(mins => :ago)) RETURNING id"
            ),
            {"catalogue": catalogue, "ago": 30 * number},
        )
        session.execute(
            text(
                "UPDATE annotation SET individual_id = NULL, encounter_id = :encounter"
                " WHERE id = ANY(:ids)"
            ),
            {"encounter": encounter, "ids": ids},
        )
        made.append((encounter, ids))
    return made


def media_of_annotations(session: Session, ids: list[int]) -> list[int]:
    return list(
        session.scalars(text("SELECT media_id FROM annotation WHERE id = ANY(:ids)"), {"ids": ids})
    )


def media_of_candidates(session: Session) -> list[int]:
    """Every photo of every individual that some query of the desk shows."""
    return list(
        session.scalars(
            text(
                "SELECT DISTINCT a.media_id FROM match m JOIN query q ON q.id = m.query_id"
                " JOIN annotation a ON a.individual_id = m.individual_id"
                " WHERE q.state IS NOT NULL"
            )
        )
    )


def media_of_first_individuals(session: Session, count: int) -> list[int]:
    return list(
        session.scalars(
            text(
                "SELECT a.media_id FROM annotation a WHERE a.individual_id IN (SELECT individual_id"
                " FROM individual_name WHERE is_primary ORDER BY lower(name) LIMIT :count)"
            ),
            {"count": count},
        )
    )


def prepare(data_dir: Path, decisions: int, individuals: int, vectors: int) -> dict[str, Any]:
    """Fills the data directory; what is in it."""
    from db.queries.changes import Actor
    from service.runtime import open_resight
    from service.settings import Settings

    resight = open_resight(Settings(data_dir=data_dir))
    try:
        if resight.space is None:
            raise SystemExit(f"the bundle does not load: {resight.serving.problems}")
        say(f"writing {vectors:,} vectors of {individuals:,} individuals …")
        filled = fill(
            resight.sessions,
            resight.space.id,
            dim=resight.space.dim,
            vectors=vectors,
            named=individuals,
            unnamed=0,
        )
        photos = Photos(resight)
        with resight.sessions.begin() as session:
            encounters = make_encounters(session, filled, decisions + 1)
            asked = [id_ for _, ids in encounters for id_ in ids]
            first = media_of_annotations(session, asked)
        photos.give(first)
        say(f"asking about {len(encounters)} encounters …")
        resight.searcher.ensure(resight.space.fingerprint)
        for encounter, _ in encounters:
            resight.desk.ask(encounter_id=encounter, actor=Actor("bench"))
        with resight.sessions() as session:
            shown = media_of_candidates(session) + media_of_first_individuals(session, 120)
        say(f"giving photos to {len(set(shown)):,} rows that are shown …")
        photos.give(shown)
        # As autovacuum leaves it within minutes.
        with resight.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as own:
            own.execute(text("VACUUM ANALYZE"))
        with resight.sessions.begin() as session:
            counted = session.execute(
                text(
                    "SELECT (SELECT count(*) FROM individual), (SELECT count(*) FROM embedding),"
                    " (SELECT count(*) FROM query WHERE state = 'open')"
                )
            ).one()
    finally:
        resight.close()
    return {"individuals": counted[0], "vectors": counted[1], "queries": counted[2]}


# ---------------------------------------------------------------- working through it


def chromium() -> str:
    found = subprocess.run(
        ["sh", str(ROOT / "scripts" / "chromium.sh")], check=False, stdout=subprocess.PIPE
    )
    if found.returncode != 0:
        raise SystemExit("No Chromium was found; install one, or name it in RESIGHT_CHROMIUM.")
    return found.stdout.decode().strip()


PAIR_SHOWN = """() => {
    const item = document.querySelector("[data-item]");
    return item && document.querySelector("#bench").dataset.shown === item.dataset.item;
}"""
MEASURES = "performance.getEntriesByName('decision to next pair').map((one) => one.duration)"


def review(page: Page, url: str, decisions: int, look_s: float) -> list[float]:
    """Milliseconds from each verdict to the next pair."""
    page.goto(f"{url}/review?queue=to_review")
    page.locator("[data-start]").click()
    for number in range(decisions):
        page.wait_for_function(PAIR_SHOWN)
        page.wait_for_timeout(look_s * 1000)
        page.keyboard.press("u" if number % 4 == 3 else "s")
        # A function, since the page's policy lets no string be evaluated.
        page.wait_for_function(f"() => {MEASURES}.length > {number}")
    times: list[float] = page.evaluate(MEASURES)
    return times


PAINTED = "() => performance.getEntriesByName('first-contentful-paint').length > 0"
LIST_TIMES = """() => {
    const [page] = performance.getEntriesByType("navigation");
    const [paint] = performance.getEntriesByName("first-contentful-paint");
    const ready = page.domContentLoadedEventEnd;
    return { answer: page.responseEnd, paint: paint.startTime, ready };
}"""


def list_individuals(page: Page, url: str) -> list[dict[str, float]]:
    """Milliseconds until the first page of individuals has come, is painted, and its scripts have
    run, each time anew."""
    times = []
    for _ in range(LISTS):
        page.goto(f"{url}/individuals", wait_until="load")
        page.wait_for_function(PAINTED)
        page.wait_for_timeout(100)
        times.append(page.evaluate(LIST_TIMES))
    return times


def bench(data_dir: Path, decisions: int, look_s: float) -> dict[str, Any]:
    """Both figures from one service and one browser."""
    from playwright.sync_api import sync_playwright

    os.environ["RESIGHT_WORKER"] = "off"
    with serving(data_dir) as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium(),
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"],
        )
        page = browser.new_page(viewport={"width": 1440, "height": 900})
        page.set_default_timeout(60_000)
        say(f"{decisions} verdicts …")
        times = review(page, url, decisions, look_s)
        # After these: a service that has just started still measures the scores of true matches.
        say("the list of individuals …")
        lists = list_individuals(page, url)
        browser.close()
    return {
        "p50_ms": round(statistics.median(times), 1),
        "p95_ms": round(statistics.quantiles(times, n=20)[-1], 1),
        "max_ms": round(max(times), 1),
        "list_ms": round(statistics.median(one["ready"] for one in lists), 1),
        "list_paint_ms": round(statistics.median(one["paint"] for one in lists), 1),
        "list_answer_ms": round(statistics.median(one["answer"] for one in lists), 1),
        "decisions": len(times),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="A verdict to the next pair, in a browser.")
    parser.add_argument("--decisions", type=int, default=100, help="verdicts given (100)")
    parser.add_argument("--individuals", type=int, default=15_000, help="in the catalogue (15000)")
    parser.add_argument("--vectors", type=int, default=51_034, help="photos in it (51034)")
    parser.add_argument("--look", type=float, default=1.0, help="seconds at each pair (1)")
    args = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="resight-review-"))
    try:
        there = prepare(work / "data", args.decisions, args.individuals, args.vectors)
        figures = bench(work / "data", args.decisions, args.look)
    finally:
        environment = os.environ | {"RESIGHT_DATA_DIR": str(work / "data")}
        subprocess.run([RESIGHT, "db", "stop"], check=False, stdout=sys.stderr, env=environment)
        shutil.rmtree(work, ignore_errors=True)
    print(json.dumps(figures | there | {"look_s": args.look}))


if __name__ == "__main__":
    main()
