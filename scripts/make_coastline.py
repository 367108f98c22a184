"""Makes the coastline of the maps from the npm package `world-atlas` (Natural Earth, 1:50m).

    npm pack world-atlas@2.0.2 && tar xzf world-atlas-2.0.2.tgz
    python scripts/make_coastline.py package/land-50m.json

The drawing is one SVG path that pages refer to with `<use>`: x grows eastwards from Greenwich, y
southwards from the equator, both in fiftieths of a degree, so that 2 km are one step.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

STEPS_PER_DEGREE = 50
TARGET = Path(__file__).resolve().parent.parent / "service/web/static/vendor/land.svg"
Point = tuple[int, int]


def rings_of(topology: dict[str, Any]) -> list[list[Point]]:
    """Every outline in steps; TopoJSON shares arcs between outlines, `~i` is arc i backwards."""
    scale_x, scale_y = topology["transform"]["scale"]
    start_x, start_y = topology["transform"]["translate"]
    arcs: list[list[Point]] = []
    for arc in topology["arcs"]:
        x = y = 0
        points = []
        for dx, dy in arc:
            x, y = x + dx, y + dy
            longitude, latitude = x * scale_x + start_x, y * scale_y + start_y
            points.append(
                (round(longitude * STEPS_PER_DEGREE), round(-latitude * STEPS_PER_DEGREE))
            )
        arcs.append(points)
    rings = []
    for geometry in topology["objects"]["land"]["geometries"]:
        for polygon in geometry["arcs"]:
            for ring in polygon:
                whole: list[Point] = []
                for number in ring:
                    piece = arcs[number] if number >= 0 else arcs[~number][::-1]
                    whole += piece[1:] if whole else piece
                rings.append(whole)
    return rings


def path_of(ring: Sequence[Point]) -> str:
    """A closed outline as relative steps; nothing where rounding left less than a triangle."""
    kept = [ring[0]]
    kept += [point for before, point in itertools.pairwise(ring) if point != before]
    if kept[-1] == kept[0]:
        kept.pop()
    if len(kept) < 3:
        return ""
    steps = "".join(
        f" {x - from_x}{'' if y < from_y else ' '}{y - from_y}"
        for (from_x, from_y), (x, y) in itertools.pairwise(kept)
    )
    return f"M{kept[0][0]} {kept[0][1]}l{steps.replace(' -', '-').strip()}z"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("topology", type=Path, help="land-50m.json of world-atlas")
    parser.add_argument("--target", type=Path, default=TARGET)
    given = parser.parse_args()
    rings = rings_of(json.loads(given.topology.read_text()))
    path = "".join(map(path_of, rings))
    given.target.write_text(
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="-9000 -4500 18000 9000">'
        f'<path id="land" d="{path}"/></svg>\n'
    )
    print(f"{given.target}: {len(rings)} outlines, {given.target.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
