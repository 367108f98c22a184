"""Makes a second bundle from the starter, in a space of its own, for re-indexing; needs torch.

    python scripts/make_variant.py --out DIR [--name starter-wide] [--version 1] [--dim 768]

The embedding layer gets more rows: the starter's own, shuffled and with random signs, then halved
sums of random pairs of them. Head rows go the same way. The result knows what the starter knows,
ranks a little differently, and cannot be compared with it. The same seed gives the same space on
every machine: nothing but copying, signs and adding happens to the weights.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from models.threads import configure_threads

configure_threads()

import numpy as np  # noqa: E402
from numpy.typing import NDArray  # noqa: E402

from models.arcface import HEAD_KEY, read_state  # noqa: E402
from models.bundles import Installed, convert_starter  # noqa: E402
from models.manifest import MANIFEST  # noqa: E402
from models.recipes import BUNDLE_FILE, STARTER, recipe_of  # noqa: E402


def make_variant(
    out: Path, *, name: str = "starter-wide", version: str = "1", dim: int = 768, seed: int = 0
) -> Installed:
    """Write the bundle into the folder `out`, which must not hold one of another kind."""
    recipe = recipe_of(STARTER, {})
    if dim <= recipe.dim:
        raise ValueError(f"the variant needs more than the starter's {recipe.dim} dimensions")
    out.mkdir(parents=True, exist_ok=True)
    (out / MANIFEST).unlink(missing_ok=True)
    for role in ("classes", "species", "gate"):
        shutil.copyfile(STARTER / recipe.files[role].path, out / recipe.files[role].path)
    _widen(STARTER / recipe.files["checkpoint"].path, out / "checkpoint.safetensors", dim, seed)
    (out / BUNDLE_FILE).write_text(_recipe_text(name, version, dim), "utf-8")
    return convert_starter(out)


def _widen(source: Path, target: Path, dim: int, seed: int) -> None:
    import torch
    from safetensors.torch import save_file

    state = read_state(source)
    mixing = torch.from_numpy(_mixing(state["embedding.weight"].shape[0], dim, seed))

    def mixed(values: Any) -> Any:
        return (mixing @ values.to(torch.float32)).to(values.dtype).contiguous()

    state["embedding.weight"] = mixed(state["embedding.weight"])
    state["embedding.bias"] = mixed(state["embedding.bias"])
    rows = state[HEAD_KEY]
    state[HEAD_KEY] = mixed(rows.T).T.contiguous()
    save_file(state, target)
    target.chmod(0o644)


def _mixing(narrow: int, wide: int, seed: int) -> NDArray[np.float32]:
    """float32 (wide, narrow): one signed entry of 1 per row, then two of a half."""
    rng = np.random.default_rng(seed)
    matrix = np.zeros((wide, narrow), dtype=np.float32)
    signs = rng.choice([-1.0, 1.0], size=(wide, 2))
    matrix[np.arange(narrow), rng.permutation(narrow)] = signs[:narrow, 0]
    for row in range(narrow, wide):
        pair = rng.choice(narrow, size=2, replace=False)
        matrix[row, pair] = 0.5 * signs[row]
    return matrix


def _recipe_text(name: str, version: str, dim: int) -> str:
    fields = {"name": name, "version": version, "stage": name, "dim": str(dim)}
    fields["summary"] = f"The starter in {dim} dimensions, a second space for tests"
    lines = ["# Written by scripts/make_variant.py from the starter."]
    for line in (STARTER / BUNDLE_FILE).read_text("utf-8").splitlines():
        key = line.partition("=")[0].strip()
        if key in fields:
            value = fields[key] if key == "dim" else json.dumps(fields[key])
            lines.append(f"{key} = {value}")
        elif not line.startswith("#"):
            lines.append(line)
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--name", default="starter-wide")
    parser.add_argument("--version", default="1")
    parser.add_argument("--dim", type=int, default=768)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    made = make_variant(
        options.out,
        name=options.name,
        version=options.version,
        dim=options.dim,
        seed=options.seed,
    )
    if made.manifest is None:
        raise SystemExit(made.problem.detail if made.problem else "the variant was not built")
    print(f"{made.path}: {made.manifest.dim} dimensions, space {made.manifest.fingerprint[:12]}")


if __name__ == "__main__":
    main()
