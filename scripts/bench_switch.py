"""A re-index under load: switch and rollback while requests go on; needs torch for the bundle.

    python scripts/bench_switch.py [--annotations 5200] [--seconds 30] [--work DIR] [--quick]

Fills a data directory with drawn flukes in the starter's space, serves it with `resight serve` and
its worker, and keeps a steady load on it: identify, search, read stored answers, ask about an
encounter, give a verdict and take it back, add individuals and look for them at once. Under that
load it re-indexes to a second bundle, activates it, and rolls back. An answer is mixed when
anything in it (bundle, model of the default answer, snapshot, scores) is not of the space that its
receipt names. `--work` keeps the drawings and the filled directory for the next run. The last line
of standard output is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from evaluate_real import RESIGHT, serving  # noqa: E402

NEW = "starter-wide"
PHOTOS = 8
SIZE_PX = (256, 192)
SEED = 4
RATES = {"identify": 3.0, "search": 4.0, "read": 3.0, "review": 0.5, "add": 0.5}
"""A second. An addition is three requests: the individual, a photo more, and asking for it; a
review is four: the question, its page, a verdict, and its undo."""
FIRST_STRANGER = 1_000_000
TIMEOUT_S = 60.0
SETTLE_S = 3.0
"""How long a switch and a rollback are watched as phases of their own."""
SCORE_TOLERANCE = 2e-4


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


# ---------------------------------------------------------------- what is there before


@dataclass(frozen=True)
class Prepared:
    """A filled data directory, and drawn photos to ask with and to add."""

    data_dir: Path
    annotations: int
    """They have the ids from 1 on."""
    asked: list[bytes]
    strangers: list[tuple[bytes, bytes, bytes]]


def drawn(individual: int, encounter: int, photo: int = 0) -> bytes:
    """A JPEG of a drawn fluke."""
    import io

    from PIL import Image

    from indexer.synthetic import Fluke, Scene, draw_fluke

    scene = Scene.from_seed(individual * 100 + encounter, photo=photo)
    out = io.BytesIO()
    picture = draw_fluke(Fluke.from_seed(individual), scene, size_px=SIZE_PX)
    Image.fromarray(picture).save(out, "JPEG", quality=90)
    return out.getvalue()


def resight(data_dir: Path, *arguments: object) -> None:
    """Runs the command line on a data directory."""
    environment = os.environ | {"RESIGHT_DATA_DIR": str(data_dir)}
    command = [RESIGHT, *map(str, arguments)]
    subprocess.run(command, env=environment, check=True, stdout=sys.stderr)


def prepare(work: Path, annotations: int, additions: int) -> Prepared:
    """Draws and imports what is not there yet, and installs the second bundle."""
    from indexer.drawings import individual_seed, write_catalogue
    from scripts.make_variant import make_variant

    individuals = -(-annotations // PHOTOS)
    filled = work / f"filled-{annotations}"
    if not (filled / "complete").exists():
        shutil.rmtree(filled, ignore_errors=True)
        say(f"drawing {individuals * PHOTOS} photos of {individuals} individuals …")
        write_catalogue(
            work / "photos",
            individuals=individuals,
            photos_per_individual=(PHOTOS, PHOTOS),
            seed=SEED,
            size_px=SIZE_PX,
        )
        say("importing and embedding them with the starter …")
        resight(filled, "import", work / "photos")
        resight(filled, "db", "stop")
        shutil.rmtree(work / "photos")
        (filled / "complete").touch()
    data_dir = work / "data"
    shutil.rmtree(data_dir, ignore_errors=True)
    # The embedded server's files keep their owner, which is not root.
    subprocess.run(["cp", "-a", filled, data_dir], check=True)
    say(f"making and installing {NEW} …")
    make_variant(work / "variant")
    resight(data_dir, "models", "add", work / "variant")
    say(f"drawing {3 * additions} photos of strangers to add …")
    positions = range(0, individuals, max(1, individuals // 16))
    return Prepared(
        data_dir,
        individuals * PHOTOS,
        [drawn(individual_seed(position, seed=SEED), 70) for position in positions],
        [
            (drawn(who, 1), drawn(who, 1, photo=1), drawn(who, 2))
            for who in range(FIRST_STRANGER, FIRST_STRANGER + additions)
        ],
    )


# ---------------------------------------------------------------- the load


@dataclass
class Seen:
    """What the load saw. `phase` is what goes on now; times in milliseconds by (phase, kind)."""

    phase: str = "warm-up"
    times: dict[tuple[str, str], list[float]] = field(default_factory=lambda: defaultdict(list))
    failed: list[str] = field(default_factory=list)
    mixed: list[str] = field(default_factory=list)
    unfound: list[str] = field(default_factory=list)
    spaces: dict[str, str] = field(default_factory=dict)
    """Fingerprint to `name version`."""
    snapshots: set[tuple[str, str]] = field(default_factory=set)
    """(snapshot, fingerprint) as receipts told them together."""
    scores: dict[tuple[str, str, str], float] = field(default_factory=dict)
    """(question, fingerprint, annotation) to its score, which one space gives always."""
    answered: dict[tuple[str, str], int] = field(default_factory=lambda: defaultdict(int))
    queries: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def judge(self, question: str, answer: dict[str, Any]) -> None:
        """Notes whether all parts of an answer are of one space."""
        receipt = answer["receipt"]
        if receipt is None:
            self.failed.append(f"{question}: no search was made")
            return
        fingerprint = receipt["fingerprint"]
        label = self.spaces.get(fingerprint, "unknown")
        told = {"bundle": answer.get("bundle"), "stage": answer.get("stage")}
        model = (answer.get("default_answer") or {}).get("model")
        with self.lock:
            self.answered[(self.phase, label)] += 1
            if receipt["snapshot"] is not None:
                self.snapshots.add((receipt["snapshot"], fingerprint))
            for what, value in told.items():
                if value is not None and value != label.rpartition(" ")[0]:
                    self.mixed.append(f"{question}: {what} {value}, receipt of {label}")
            if model is not None and model != label:
                self.mixed.append(f"{question}: head of {model}, receipt of {label}")
            for match in answer["matches"]:
                key = (question, fingerprint, match["annotation_id"])
                known = self.scores.setdefault(key, match["score"])
                if abs(known - match["score"]) > SCORE_TOLERANCE:
                    self.mixed.append(f"{question}: {match['score']} in {label}, before {known}")


class Load:
    """Threads that ask at fixed rates until they are told to end."""

    def __init__(self, url: str, prepared: Prepared, seen: Seen, scale: float) -> None:
        self._url = url
        self._prepared = prepared
        self._seen = seen
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._keep, args=(kind, rate * scale / 2, part))
            for kind, rate in RATES.items()
            for part in range(2 if kind != "add" else 1)
        ]

    @contextmanager
    def running(self) -> Iterator[None]:
        for thread in self._threads:
            thread.start()
        try:
            yield
        finally:
            self._stop.set()
            for thread in self._threads:
                thread.join()

    def _keep(self, kind: str, rate: float, part: int) -> None:
        ask: Callable[[httpx.Client, int], None] = getattr(self, f"_{kind}")
        number, due = part, time.monotonic()
        with httpx.Client(base_url=self._url, timeout=TIMEOUT_S) as client:
            while not self._stop.is_set():
                try:
                    ask(client, number)
                except Exception as error:  # whatever it is, the request failed
                    self._seen.failed.append(f"{kind}: {error!r}")
                number += 2 if kind != "add" else 1
                due = max(due + 1 / rate, time.monotonic())
                self._stop.wait(due - time.monotonic())

    def _timed(self, kind: str, call: Callable[[], httpx.Response], *accepted: int) -> Any:
        phase, started = self._seen.phase, time.perf_counter()
        response = call()
        elapsed_ms = (time.perf_counter() - started) * 1000
        with self._seen.lock:
            self._seen.times[(phase, kind)].append(elapsed_ms)
        if response.status_code not in (accepted or (200,)):
            raise RuntimeError(f"{response.status_code}: {response.text[:300]}")
        return response.json()

    def _post_photo(self, client: httpx.Client, photo: bytes) -> Any:
        files = {"file": ("photo.jpg", photo, "image/jpeg")}
        return self._timed("identify", lambda: client.post("/v1/identify", files=files))

    def _identify(self, client: httpx.Client, number: int) -> None:
        which = number % len(self._prepared.asked)
        answer = self._post_photo(client, self._prepared.asked[which])
        self._seen.judge(f"photo {which}", answer)
        self._seen.queries.append(answer["query_id"])

    def _search(self, client: httpx.Client, number: int) -> None:
        asked = str(1 + number * 7 % self._prepared.annotations)
        body = {"annotation_id": asked}
        answer = self._timed("search", lambda: client.post("/v1/search", json=body))
        self._seen.judge(f"annotation {asked}", answer)

    def _read(self, client: httpx.Client, number: int) -> None:
        # The others add to the list meanwhile.
        stored = tuple(self._seen.queries)
        url = f"/v1/queries/{stored[number % len(stored)]}" if stored else "/v1/individuals"
        answer = self._timed("read", lambda: client.get(url))
        if stored and answer["receipt"]["fingerprint"] not in self._seen.spaces:
            self._seen.mixed.append(f"{url}: unknown fingerprint")

    def _review(self, client: httpx.Client, number: int) -> None:
        asked = str(1 + number * 11 % self._prepared.annotations)
        body: dict[str, Any] = {"annotation_ids": [asked]}
        made = self._timed("review", lambda: client.post("/v1/queries", json=body), 201)
        query = self._timed("review", lambda: client.get(f"/v1/queries/{made['id']}"))
        self._seen.judge(f"encounter {asked}", {**query, "matches": query["candidates"]})
        verdict = {"query_id": made["id"], "version": query["version"], "verdict": "unsure"}
        decided = self._timed("review", lambda: client.post("/v1/reviews", json=verdict), 201)
        self._timed(
            "review", lambda: client.post(f"/v1/reviews/{decided['decision_id']}/undo"), 201
        )

    def _add(self, client: httpx.Client, number: int) -> None:
        if number >= len(self._prepared.strangers):
            return
        first, second, other = self._prepared.strangers[number]
        name = f"stranger {number}"
        files = {"file": ("1.jpg", first, "image/jpeg")}
        added = self._timed(
            "add", lambda: client.post("/v1/individuals", data={"name": name}, files=files), 201
        )
        path = f"/v1/individuals/{added['individual']['id']}/photos"
        files = {"file": ("2.jpg", second, "image/jpeg")}
        more = self._timed("add", lambda: client.post(path, files=files), 201)
        for answer in (added, more):
            if not all(photo["embedded"] for photo in answer["photos"]):
                self._seen.unfound.append(f"{name}: {answer['notices']}")
        answer = self._post_photo(client, other)
        self._seen.judge(f"photo of {name}", answer)
        if name not in [match["individual"]["name"] for match in answer["matches"]]:
            self._seen.unfound.append(f"{name} is not among the matches in {self._seen.phase}")


# ---------------------------------------------------------------- the operator


class Operator:
    """Who re-indexes, switches and rolls back, over HTTP."""

    def __init__(self, url: str, seen: Seen) -> None:
        self._client = httpx.Client(base_url=url, timeout=TIMEOUT_S)
        self._seen = seen

    def close(self) -> None:
        self._client.close()

    def call(self, method: str, path: str, **options: Any) -> Any:
        response = self._client.request(method, path, **options)
        if response.is_error:
            raise SystemExit(f"{method} {path}: {response.status_code} {response.text}")
        return response.json()

    def searched(self) -> str:
        """The fingerprint of what a search is answered from now."""
        answer = self.call("POST", "/v1/search", json={"annotation_id": "1", "k": 1})
        return str(answer["receipt"]["fingerprint"])

    def note_spaces(self) -> None:
        for space in self.call("GET", "/v1/models")["spaces"]:
            self._seen.spaces[space["fingerprint"]] = f"{space['name']} {space['version']}"

    def reindex(self) -> tuple[str, float]:
        """The id of a run that is ready, and how many seconds it took."""
        started = time.monotonic()
        run = self.call("POST", "/v1/reindex", json={"model": NEW})
        self.note_spaces()
        while run["state"] not in ("ready", "failed", "cancelled"):
            time.sleep(1.0)
            run = self.call("GET", f"/v1/reindex/{run['id']}")
        if run["state"] != "ready":
            raise SystemExit(f"the run is {run['state']}: {run}")
        return run["id"], time.monotonic() - started

    def until_searched(self, change: str, *, leaves: str) -> tuple[float, float]:
        """Ask for a change; seconds until that was acknowledged, and until answers follow."""
        started = time.monotonic()
        self.call("POST", change)
        acknowledged = time.monotonic() - started
        while self.searched() == leaves:
            if time.monotonic() - started > TIMEOUT_S:
                raise SystemExit(f"{change}: the service does not follow")
            time.sleep(0.01)
        return acknowledged, time.monotonic() - started


def bench(prepared: Prepared, seconds: float, scale: float) -> dict[str, Any]:
    """The whole run on a service of its own."""
    seen = Seen()
    with serving(prepared.data_dir) as url:
        operator = Operator(url, seen)
        operator.note_spaces()
        with Load(url, prepared, seen, scale).running():
            time.sleep(min(5.0, seconds))
            old, rss = operator.searched(), {"before": resident_mb()}
            enter(seen, "before", seconds)
            enter(seen, "reindex")
            run, run_s = operator.reindex()
            # Before the switch the service loads the new bundle beside the old one.
            rss["ready"] = resident_mb(wait_s=3.0)
            enter(seen, "switch")
            _, switch_s = operator.until_searched(f"/v1/reindex/{run}/activate", leaves=old)
            new = operator.searched()
            time.sleep(SETTLE_S)
            enter(seen, "after", seconds)
            enter(seen, "rollback")
            _, rollback_s = operator.until_searched("/v1/reindex/rollback", leaves=new)
            time.sleep(SETTLE_S)
            enter(seen, "after rollback", seconds / 2)
            rss["end"] = resident_mb()
        report = operator.call("GET", f"/v1/reindex/{run}/report")
        ready = operator.call("GET", "/ready")
        operator.close()
    return figures(seen, report, spaces_of(prepared.data_dir)) | {
        "seconds": seconds,
        "run_s": round(run_s, 1),
        "switch_s": round(switch_s, 3),
        "rollback_s": round(rollback_s, 3),
        "rss_mb": rss,
        "notices": [notice["code"] for notice in ready["notices"]],
    }


def enter(seen: Seen, phase: str, seconds: float = 0.0) -> None:
    say(f"{phase} …")
    seen.phase = phase
    time.sleep(seconds)


def resident_mb(wait_s: float = 0.0) -> float:
    """Resident memory of the `resight serve` that this process started, in MB of 10⁶ bytes."""
    import psutil

    time.sleep(wait_s)
    serving = [p for p in psutil.Process().children() if "serve" in p.cmdline()]
    return round(sum(one.memory_info().rss for one in serving) / 1e6, 1)


def spaces_of(data_dir: Path) -> dict[str, Any]:
    """What the database says at the end: the space of each snapshot, and what lacks a vector."""
    from sqlalchemy import text

    from db.queries import embeddings
    from service.runtime import open_database
    from service.settings import Settings

    database = open_database(Settings(data_dir=data_dir))
    try:
        with database.sessions() as session:
            rows = session.execute(
                text(
                    "SELECT s.id::text, m.fingerprint FROM index_snapshot s"
                    " JOIN embedding_model m ON m.id = s.model_id"
                )
            ).all()
            missing = {
                f"{space.name} {space.version}": embeddings.count_missing(session, space.id)
                for space in embeddings.list_spaces(session)
            }
            annotations = session.scalar(text("SELECT count(*) FROM annotation"))
    finally:
        database.engine.dispose()
    return {
        "snapshots": {row[0]: row[1] for row in rows},
        "missing": missing,
        "annotations": annotations,
    }


def figures(seen: Seen, report: dict[str, Any], spaces: dict[str, Any]) -> dict[str, Any]:
    """The JSON: what failed, what was mixed, and how long requests took in each phase."""
    known = spaces["snapshots"]
    wrong = [pair for pair in seen.snapshots if known.get(pair[0], pair[1]) != pair[1]]
    seen.mixed += [f"snapshot {snapshot} is not of {space[:12]}" for snapshot, space in wrong]
    for line in (*seen.failed[:10], *seen.mixed[:10], *seen.unfound[:10]):
        say(line)
    phases = ("before", "reindex", "switch", "after", "rollback", "after rollback")
    kinds = tuple(RATES)
    times = {
        phase: {kind: percentiles(seen.times[(phase, kind)]) for kind in kinds} for phase in phases
    }

    for phase in phases:
        together = [one for kind in kinds for one in seen.times[(phase, kind)]]
        times[phase]["all"] = percentiles(together)

    def ratio(kind: str) -> float:
        before, during = times["before"][kind], times["reindex"][kind]
        return round(during["p95"] / before["p95"], 2) if before and during else 0.0

    ratios = {kind: ratio(kind) for kind in (*kinds, "all")}
    return {
        "annotations": spaces["annotations"],
        "requests": sum(map(len, seen.times.values())),
        "failed": len(seen.failed),
        "mixed": len(seen.mixed),
        "unfound": len(seen.unfound),
        "missing": spaces["missing"],
        "times_ms": times,
        "ratios": ratios,
        "ratio": max(ratios["identify"], ratios["search"]),
        "answered": {f"{phase}: {label}": n for (phase, label), n in seen.answered.items()},
        "snapshots": len(seen.snapshots),
        "recall": report["recall"],
        "top1": [report[side] and report[side]["top1"] for side in ("old", "new")],
        "throughput": report["throughput"],
    }


def percentiles(times: list[float]) -> dict[str, float]:
    if len(times) < 2:
        return {}
    cuts = statistics.quantiles(times, n=20)
    return {"p50": round(statistics.median(times), 1), "p95": round(cuts[-1], 1), "n": len(times)}


def main() -> None:
    parser = argparse.ArgumentParser(description="A re-index, a switch and a rollback under load.")
    parser.add_argument("--annotations", type=int, default=5200, help="drawn photos (5200)")
    parser.add_argument("--seconds", type=float, default=30.0, help="of each quiet phase (30)")
    parser.add_argument("--rate", type=float, default=1.0, help="times the load (1)")
    parser.add_argument("--work", type=Path, help="a folder to keep the filled directory in")
    parser.add_argument("--quick", action="store_true", help="160 photos, 3 seconds")
    args = parser.parse_args()
    annotations, seconds = (160, 3.0) if args.quick else (args.annotations, args.seconds)
    work = args.work or Path(tempfile.mkdtemp(prefix="resight-switch-"))
    work.mkdir(parents=True, exist_ok=True)
    additions = round(RATES["add"] * args.rate * (4 * seconds + annotations / 20 + 30))
    try:
        prepared = prepare(work, annotations, additions)
        try:
            result = bench(prepared, seconds, args.rate)
        finally:
            resight(prepared.data_dir, "db", "stop")
    finally:
        shutil.rmtree(work if args.work is None else work / "data", ignore_errors=True)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
