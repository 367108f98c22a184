"""The published identification model, at full size, against a plain torch computation."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from models.bundles import load_serving
from tests.models.conftest import MAPPED, Published, plain_forward

pytestmark = pytest.mark.torch


def test_embedding_and_softmax_equal_plain_torch(effb4: Published, installed: Path) -> None:
    import torch

    from models.torch_compat import load_timm

    checkpoint = torch.load(effb4.folder / "efficientnet_b4_512_fold0.ckpt", weights_only=True)
    state = checkpoint["state_dict"]
    backbone = load_timm().create_model("efficientnet_b4", num_classes=0, global_pool="").eval()
    backbone.load_state_dict(
        {k.removeprefix("model."): v for k, v in state.items() if k.startswith("model.")}
    )
    linear = torch.nn.Linear(1792, 512)
    linear.load_state_dict({"weight": state["embedding.weight"], "bias": state["embedding.bias"]})
    rows = torch.nn.functional.normalize(state["arc.weight"], dim=1)

    serving = load_serving(installed, device="cpu", starter=None)
    assert serving.embedder is not None
    assert serving.head is not None
    assert serving.bundle == "effb4-arcface-v1"
    embedded = serving.embedder.embed(effb4.photos)
    answers = serving.head.answer(embedded.vectors, n=MAPPED)
    best = []
    for photo, vector, features, answer in zip(
        effb4.photos, embedded.vectors, embedded.features, answers, strict=True
    ):
        expected, pooled = plain_forward(backbone, linear, photo)
        assert float(vector @ expected.numpy()) >= 0.9999
        cosine = torch.nn.functional.cosine_similarity(torch.from_numpy(features), pooled, dim=0)
        assert float(cosine) >= 0.9999
        softmax = torch.softmax(30.0 * (rows @ expected)[:MAPPED], dim=0).numpy()
        ours = np.zeros(MAPPED)
        for score in answer.top:
            ours[score.slot] = score.probability
        assert np.abs(ours - softmax).max() <= 1e-3
        assert answer.top[0].label == effb4.classes[int(softmax.argmax())]
        best.append(softmax.max())
    assert 0.2 < max(best) < 0.99, "the comparison needs probabilities that are not trivial"
    a, b = embedded.vectors[0], embedded.vectors[1]
    assert float(a @ b) < 0.99, "the comparison needs photos that the network tells apart"


def test_serving_it_stays_small_and_without_torch(installed: Path) -> None:
    code = (
        "import sys; from models.threads import configure_threads; configure_threads(2); "
        "from pathlib import Path; from models.bundles import load_serving; import numpy as np; "
        "s = load_serving(Path(sys.argv[1]), device='cpu', starter=None, threads=2); "
        "e = s.embedder.embed([np.zeros((600, 800, 3), np.uint8)]); s.head.answer(e.vectors); "
        "status = dict(l.split(':', 1) for l in open('/proc/self/status') if ':' in l); "
        "print(int(status['VmRSS'].split()[0]) // 1024, 'torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(installed)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    resident_mib, torch_loaded = done.stdout.split()
    assert int(resident_mib) <= 400
    assert torch_loaded == "False"
