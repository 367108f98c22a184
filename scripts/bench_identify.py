"""Identify over HTTP beside the plain PyTorch way, on the same photos, in the same run.

    python scripts/bench_identify.py [--photos DIR] [--n 40]

Builds the published layout at full size with random weights, installs it as a user would
(`resight models add`), fills a database with as many vectors and individuals as the published
catalogue has, then measures (1) `plain_reference.py` and (2) `resight serve` over HTTP, one after
the other, each in a process of its own. The last line of standard output is JSON.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from evaluate_real import RESIGHT, serving
from filling import NAMED, UNNAMED, VECTORS, class_names, fill

ROOT = Path(__file__).resolve().parent.parent
SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}
SIZES_PX = ((1024, 683), (800, 600), (640, 427), (1024, 768), (512, 384), (300, 250))
WARM_UP = 3
OPEN_GATE = 1e-12


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def write_embedder(folder: Path, seed: int = 0) -> None:
    """The three published files, at full size, with random weights."""
    from models.torch_compat import load_timm, load_torch

    torch, timm = load_torch(), load_timm()
    torch.manual_seed(seed)
    folder.mkdir(parents=True, exist_ok=True)
    network = timm.create_model("efficientnet_b4", pretrained=False, num_classes=0, global_pool="")
    state = {f"model.{name}": value for name, value in network.state_dict().items()}
    state["embedding.weight"] = torch.randn(512, 1792) / 1792**0.5
    state["embedding.bias"] = torch.zeros(512)
    state["arc.weight"] = torch.randn(NAMED + UNNAMED, 512)
    torch.save({"state_dict": state}, folder / "efficientnet_b4_512_fold0.ckpt")
    names = class_names(NAMED + UNNAMED)[:NAMED]
    np.save(folder / "encoder_classes.npy", np.array(names, dtype=object), allow_pickle=True)
    with (folder / "species_map.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("individual_id", "species"))
        writer.writerows((name, "humpback_whale") for name in names)


def write_gate(folder: Path, seed: int = 0) -> None:
    """The gate's weight file with random weights."""
    from safetensors.torch import save_file

    from models.torch_compat import load_open_clip, load_torch

    torch, open_clip = load_torch(), load_open_clip()
    torch.manual_seed(seed)
    folder.mkdir(parents=True, exist_ok=True)
    model = open_clip.create_model("ViT-B-32", pretrained=None)
    state = {name: value.contiguous() for name, value in model.state_dict().items()}
    save_file(state, folder / "open_clip_model.safetensors")


def open_gate_config(target: Path) -> None:
    """The gate's configuration with a threshold that random weights pass.

    A rejected photo is neither embedded nor searched, which would be measured as speed.
    """
    text = (ROOT / "configs" / "gate.toml").read_text("utf-8")
    opened, changed = re.subn(r"(?m)^value\s*=.*$", f"value = {OPEN_GATE}", text)
    if changed != 1:
        raise SystemExit("configs/gate.toml has no single `value = …` line")
    target.write_text(opened, "utf-8")


def draw_photos(folder: Path, count: int) -> list[Path]:
    """Drawn flukes of different sizes."""
    from PIL import Image

    from indexer.synthetic import Fluke, Scene, draw_fluke

    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for i in range(count):
        photo = draw_fluke(
            Fluke.from_seed(i), Scene.from_seed(i), size_px=SIZES_PX[i % len(SIZES_PX)]
        )
        paths.append(folder / f"{i:03d}.jpg")
        Image.fromarray(photo).save(paths[-1], quality=90)
    return paths


def find_photos(folder: Path, count: int) -> list[Path]:
    """The first photos below a folder, by name."""
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not found:
        raise SystemExit(f"{folder} holds no photos")
    return found[:count]


def install(work: Path) -> dict[str, str]:
    """Writes and installs both bundles; the environment that serves them."""
    environment = {
        "RESIGHT_DATA_DIR": str(work / "data"),
        "RESIGHT_GATE_CONFIG": str(work / "gate.toml"),
        "RESIGHT_MODEL": "effb4-arcface-v1",
    }
    open_gate_config(work / "gate.toml")
    write_embedder(work / "bundles" / "effb4")
    write_gate(work / "bundles" / "clip")
    for folder in ("effb4", "clip"):
        subprocess.run(
            [RESIGHT, "models", "add", work / "bundles" / folder],
            env=os.environ | environment,
            check=True,
            stdout=sys.stderr,
        )
    return environment


def fill_database(environment: dict[str, str], vectors: int) -> None:
    """Registers the space of the installed bundle and fills it; runs in a process of its own."""
    subprocess.run(
        [sys.executable, __file__, "--fill-only", str(vectors)],
        env=os.environ | environment,
        check=True,
        stdout=sys.stderr,
    )


def fill_here(vectors: int) -> None:
    """`fill_database`, in this process."""
    from service.runtime import open_resight
    from service.settings import Settings

    resight = open_resight(Settings())
    try:
        if resight.space is None:
            raise SystemExit(f"the bundle does not load: {resight.serving.problems}")
        fill(resight.sessions, resight.space.id, dim=resight.space.dim, vectors=vectors)
    finally:
        resight.close()


def measure_plain(work: Path, photos: list[Path]) -> list[float]:
    """Milliseconds of each photo the plain way."""
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "plain_reference.py", work / "bundles", *photos],
        check=True,
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    times: list[float] = json.loads(done.stdout.splitlines()[-1])["times_ms"]
    return times


def measure_http(url: str, photos: list[Path]) -> tuple[list[float], list[dict[str, float]]]:
    """Milliseconds of each photo as a client sees them, and the stages that the answers tell."""
    times, stages = [], []
    with httpx.Client(base_url=url, timeout=60) as client:
        for number, path in enumerate([*photos[:WARM_UP], *photos]):
            data = path.read_bytes()
            started = time.perf_counter()
            response = client.post("/v1/identify", files={"file": (path.name, data)})
            elapsed_ms = (time.perf_counter() - started) * 1000
            answer = response.raise_for_status().json()
            if answer["gate"]["state"] != "accepted" or not answer["matches"]:
                raise SystemExit(f"{path.name} was not identified in full: {answer['gate']}")
            if number >= WARM_UP:
                times.append(elapsed_ms)
                stages.append(answer["receipt"]["timings_ms"])
    return times, stages


def resident_mb() -> float:
    """Resident memory of the `resight serve` that this process started, in MB of 10⁶ bytes."""
    import psutil

    serving = [p for p in psutil.Process().children(recursive=True) if "serve" in p.cmdline()]
    if not serving:
        raise SystemExit("resight serve is not among this process's children")
    return float(sum(one.memory_info().rss for one in serving) / 1e6)


def report(plain: list[float], http: list[float], stages: list[dict[str, float]]) -> dict[str, Any]:
    """Medians, their ratio, and the median of each stage."""
    reference, identify = statistics.median(plain), statistics.median(http)
    return {
        "reference_ms": round(reference, 2),
        "identify_ms": round(identify, 2),
        "ratio": round(reference / identify, 2),
        "identify_p95_ms": round(statistics.quantiles(http, n=20)[-1], 2),
        "stages_ms": {
            name: round(statistics.median(stage[name] for stage in stages), 2) for name in stages[0]
        },
    }


def bench(work: Path, photos: list[Path], vectors: int) -> dict[str, Any]:
    """The whole run; leaves no process behind."""
    say("installing full-size bundles with random weights …")
    environment = install(work)
    say(f"filling the database with {vectors} vectors …")
    fill_database(environment, vectors)
    os.environ.update(environment)
    say(f"plain PyTorch on {len(photos)} photos …")
    plain = measure_plain(work, photos)
    say("resight serve on the same photos …")
    try:
        with serving(work / "data") as url:
            http, stages = measure_http(url, photos)
            rss_mb = resident_mb()
    finally:
        subprocess.run([RESIGHT, "db", "stop"], check=False, stdout=sys.stderr)
    return report(plain, http, stages) | {
        "rss_mb": round(rss_mb, 1),
        "n": len(photos),
        "vectors": vectors,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Identify beside the plain PyTorch way.")
    parser.add_argument("--photos", type=Path, help="a folder of photos (default: drawn ones)")
    parser.add_argument("--n", type=int, default=40, help="photos to ask (default 40)")
    parser.add_argument("--vectors", type=int, default=VECTORS, help="vectors in the database")
    parser.add_argument("--fill-only", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.fill_only:
        fill_here(args.fill_only)
        return
    work = Path(tempfile.mkdtemp(prefix="resight-bench-"))
    try:
        photos = (
            find_photos(args.photos, args.n) if args.photos else draw_photos(work / "p", args.n)
        )
        figures = bench(work, photos, args.vectors)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
