"""The plain way, as published: open_clip and timm, eager PyTorch in float32, one photo at a time.

    python scripts/plain_reference.py BUNDLES PHOTOS…     # prints one JSON line

`BUNDLES` holds `effb4/` and `clip/` with the weight files that the service was given too. It is
what `bench_identify.py` compares with; of Resight's own only the list of prompts is used.
"""

from __future__ import annotations

import json
import sys
import time
import tomllib
from pathlib import Path
from typing import Any

import numpy as np

from models.torch_compat import load_open_clip, load_timm, load_torch

WARM_UP = 3
GATE_CONFIG = Path(__file__).resolve().parent.parent / "configs" / "gate.toml"


class Reference:
    """Gate and identification of one photo, with text features and head normalised beforehand."""

    def __init__(self, bundles: Path) -> None:
        self.torch = load_torch()
        self._load_gate(bundles / "clip")
        self._load_network(bundles / "effb4")

    def _load_gate(self, folder: Path) -> None:
        open_clip = load_open_clip()
        weights = folder / "open_clip_model.safetensors"
        self.clip, _, self.prepare = open_clip.create_model_and_transforms(
            "ViT-B-32", pretrained=str(weights)
        )
        self.clip.eval()
        prompts = tomllib.loads(GATE_CONFIG.read_text("utf-8"))["prompts"]
        self.positive = len(prompts["positive"])
        tokens = open_clip.get_tokenizer("ViT-B-32")(prompts["positive"] + prompts["negative"])
        with self.torch.no_grad():
            text = self.clip.encode_text(tokens)
        self.text = text / text.norm(dim=-1, keepdim=True)

    def _load_network(self, folder: Path) -> None:
        torch = self.torch
        state = torch.load(
            folder / "efficientnet_b4_512_fold0.ckpt", map_location="cpu", weights_only=True
        )["state_dict"]
        self.backbone = load_timm().create_model(
            "efficientnet_b4", pretrained=False, num_classes=0, global_pool=""
        )
        self.backbone.load_state_dict(
            {k.removeprefix("model."): v for k, v in state.items() if k.startswith("model.")}
        )
        self.backbone.eval()
        self.weight, self.bias = state["embedding.weight"], state["embedding.bias"]
        self.head = torch.nn.functional.normalize(state["arc.weight"])

    def __call__(self, path: Path) -> tuple[float, int, float]:
        """(gate score, winning slot, its probability)."""
        from PIL import Image

        torch = self.torch
        photo = Image.open(path).convert("RGB")
        with torch.no_grad():
            seen = self.clip.encode_image(self.prepare(photo).unsqueeze(0))
            seen = seen / seen.norm(dim=-1, keepdim=True)
            score = (100 * seen @ self.text.T).softmax(-1)[0, : self.positive].sum()
            pixels = np.asarray(photo.resize((512, 512), Image.Resampling.BILINEAR), np.float32)
            batch = torch.from_numpy(pixels / 255).permute(2, 0, 1).unsqueeze(0)
            mean = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
            std = torch.tensor([0.229, 0.224, 0.225])[:, None, None]
            pooled = self.backbone((batch - mean) / std).mean((2, 3))
            vector = torch.nn.functional.linear(pooled, self.weight, self.bias)
            vector = torch.nn.functional.normalize(vector)
            odds = (30 * vector @ self.head.T).softmax(-1)[0]
            best = int(odds.argmax())
        return float(score), best, float(odds[best])


def measure(bundles: Path, photos: list[Path]) -> dict[str, Any]:
    """Milliseconds for each photo, after a few that do not count."""
    ask = Reference(bundles)
    for path in photos[:WARM_UP]:
        ask(path)
    times = []
    for path in photos:
        started = time.perf_counter()
        ask(path)
        times.append((time.perf_counter() - started) * 1000)
    return {"times_ms": times}


if __name__ == "__main__":
    print(json.dumps(measure(Path(sys.argv[1]), [Path(name) for name in sys.argv[2:]])))
