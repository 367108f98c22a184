"""The gate at its real size (random weights) against open_clip itself."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.bundles import install, load_serving, refresh_prompts
from models.clip import ClipGate, GateConfig
from models.errors import BundleError
from models.preprocess import Preprocessing
from models.recipes import GATE_CONFIG
from models.runtime import Run
from tests.models.conftest import draw_photo

GATE = "openclip-vit-b-32"


@pytest.fixture(scope="module")
def clip_model() -> Any:
    import torch

    from models.torch_compat import load_open_clip

    open_clip = load_open_clip()
    torch.manual_seed(5)
    return open_clip.create_model("ViT-B-32", pretrained=None).eval()


@pytest.fixture(scope="module")
def clip_models(clip_model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A models folder with the gate, installed from the file name under which it is published."""
    from safetensors.torch import save_file

    source = tmp_path_factory.mktemp("clip")
    save_file(clip_model.state_dict(), source / "open_clip_model.safetensors")
    models_dir = tmp_path_factory.mktemp("clip-models")
    installed = install(source, models_dir)
    assert installed.name == GATE
    shutil.rmtree(source)
    return models_dir


@pytest.mark.torch
def test_scores_equal_open_clip(clip_model: Any, clip_models: Path) -> None:
    import torch
    from PIL import Image

    from models.torch_compat import load_open_clip

    open_clip = load_open_clip()
    config = GateConfig.load(GATE_CONFIG)
    transform = open_clip.image_transform(224, is_train=False)
    photos = [draw_photo(1), draw_photo(2, 200, 150), draw_photo(3, 150, 150)]
    with torch.no_grad():
        tokens = open_clip.get_tokenizer("ViT-B-32")(list(config.prompts))
        text = clip_model.encode_text(tokens, normalize=True)
        batch = torch.stack([transform(Image.fromarray(photo)) for photo in photos])
        image = clip_model.encode_image(batch, normalize=True)
        shares = torch.softmax(100.0 * image @ text.T, dim=1)
    expected = shares[:, : len(config.positive)].sum(dim=1).numpy()

    serving = load_serving(clip_models, device="cpu", starter=None)
    assert isinstance(serving.gate, ClipGate)
    assert np.abs(serving.gate.scores(photos) - expected).max() < 0.02
    decisions = serving.gate.decide(photos)
    assert [d.state for d in decisions] == [
        "accepted" if share >= config.threshold else "rejected" for share in expected
    ]
    assert {d.model for d in decisions} == {GATE}
    assert {d.threshold for d in decisions} == {0.52}
    assert serving.gate.decide([]) == []
    assert (serving.embedder, serving.stage, serving.bundle) == (None, "gate", None)
    assert [p.code for p in serving.problems] == ["no_identification_model"]
    assert serving.notices == ()


@pytest.mark.torch
def test_other_prompts_need_a_refresh_and_then_serve(clip_models: Path, tmp_path: Path) -> None:
    config = tmp_path / "gate.toml"
    config.write_text(
        GATE_CONFIG.read_text("utf-8").replace('"a photo of a cetacean"', '"a photo of a narwhal"'),
        "utf-8",
    )
    serving = load_serving(clip_models, device="cpu", starter=None, gate_config=config)
    assert serving.problems[0].code == "prompts_changed"
    assert "resight models refresh" in serving.problems[0].detail
    assert serving.gate.decide([draw_photo(1)], None)[0].state == "abstained"
    assert [notice.code for notice in serving.notices] == ["real_gate_not_installed"]

    models_dir = tmp_path / "models"
    shutil.copytree(clip_models, models_dir, copy_function=os.link)
    refresh_prompts(models_dir, config)
    after = load_serving(models_dir, device="cpu", starter=None, gate_config=config)
    assert isinstance(after.gate, ClipGate)
    assert after.problems[0].code == "no_identification_model"


def test_the_configuration_has_ten_and_fourteen_prompts() -> None:
    config = GateConfig.load(GATE_CONFIG)
    assert (len(config.positive), len(config.negative)) == (10, 14)
    assert len(set(config.prompts)) == 24
    assert (config.bundle, config.scale) == (GATE, 100.0)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "not toml [",
        GATE_CONFIG.read_text("utf-8").replace("value = ", "value = 1"),
        GATE_CONFIG.read_text("utf-8").replace("negative = [", "negative = []\nleft_out = ["),
    ],
)
def test_a_bad_configuration_leaves_an_abstaining_gate(tmp_path: Path, text: str) -> None:
    (tmp_path / "gate.toml").write_text(text, "utf-8")
    with pytest.raises(BundleError, match="bad_gate_config"):
        GateConfig.load(tmp_path / "gate.toml")
    serving = load_serving(tmp_path, device="cpu", starter=None, gate_config=tmp_path / "gate.toml")
    assert serving.problems[0].code == "bad_gate_config"
    assert serving.gate.decide([draw_photo(1)], None)[0].state == "abstained"


def gate_over(vectors: list[list[float]], text: list[list[float]], scale: float = 1.0) -> ClipGate:
    rows = iter(vectors)

    def run(pixels: Any) -> tuple[Any, Any]:
        out = np.array([next(rows) for _ in pixels], np.float32)
        return out, out

    runner: Run = run
    small = Preprocessing(8, 8, "bicubic", (0.5,) * 3, (0.5,) * 3, fit="crop")
    config = GateConfig("g", scale, 0.5, ("p",), ("n",))
    return ClipGate(runner, small, np.array(text, np.float32), config)


def test_the_score_is_the_share_of_the_positive_prompts() -> None:
    gate = gate_over([[1, 0], [0, 1], [0.6, 0.8]], [[1, 0], [0, 1]], scale=2.0)
    decisions = gate.decide([draw_photo(i, 9, 9) for i in range(3)])
    shares = [1 / (1 + np.exp(-2.0)), 1 / (1 + np.exp(2.0)), 1 / (1 + np.exp(0.4))]
    assert [d.score for d in decisions] == pytest.approx(shares)
    assert [d.state for d in decisions] == ["accepted", "rejected", "rejected"]
    assert [d.reason for d in decisions] == [None, "not_a_marine_mammal", "not_a_marine_mammal"]


def test_a_score_on_the_threshold_is_accepted() -> None:
    gate = gate_over([[1, 1]], [[1, 0], [0, 1]])
    assert gate.decide([draw_photo(1, 9, 9)])[0].state == "accepted"


def test_text_vectors_and_prompts_must_agree() -> None:
    with pytest.raises(ValueError, match="1 text vectors for 2 prompts"):
        gate_over([], [[1, 0]])
