"""Bundles: installed whole or not at all, checked at every load, chosen in a stated order."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.bundles import (
    Serving,
    convert_pickled_module,
    convert_starter,
    install,
    list_installed,
    load_serving,
    pull,
    show,
    verify,
)
from models.errors import BundleError, ModelsExtraMissing
from models.manifest import MANIFEST, sha256_of
from models.recipes import load_registry
from models.starter_gate import StarterGate
from tests.models.conftest import Tiny, draw_photo, write_tiny
from tests.models.hub import Hub, serve

pytestmark = pytest.mark.torch


def serving_of(models_dir: Path, **options: Any) -> Serving:
    return load_serving(models_dir, device="cpu", **({"starter": None} | options))


def copied(models_dir: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(models_dir, tmp_path / "models"))


def renamed(models_dir: Path, name: str, as_name: str) -> None:
    """A second bundle with the same content under another name."""
    shutil.copytree(models_dir / name, models_dir / as_name)
    path = models_dir / as_name / MANIFEST
    path.write_text(
        json.dumps(json.loads(path.read_text("utf-8")) | {"name": as_name, "stage": as_name})
    )


def tree(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): sha256_of(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_an_installed_bundle_speaks_as_torch_does(tiny: Tiny, tiny_models: Path) -> None:
    import torch

    from models.arcface import Architecture, load_network
    from models.runtime import torch_runner, with_normalisation

    serving = serving_of(tiny_models)
    assert serving.embedder is not None
    assert serving.head is not None
    assert (serving.stage, serving.bundle, serving.problems) == ("tiny", "tiny", ())
    assert serving.default_min_probability == 0.1
    spec = serving.embedder.spec
    assert (spec.dim, spec.modality, spec.licence, spec.version) == (64, "photo", "Apache-2.0", "3")
    photos = [draw_photo(i, 90 + i, 200) for i in range(3)]
    embedded = serving.embedder.embed(photos)
    network, rows = load_network(tiny.state, Architecture("test_efficientnet", 64, "forward"))
    reference = torch_runner(with_normalisation(network, spec.preprocessing), "cpu")
    vectors, features = reference(np.stack([spec.preprocessing.apply(p) for p in photos]))
    assert np.allclose(np.linalg.norm(embedded.vectors, axis=1), 1, atol=1e-6)
    assert (embedded.vectors * vectors).sum(axis=1).min() >= 0.9999
    assert embedded.features.shape == features.shape
    answer = serving.head.answer(embedded.vectors)[0]
    unit = torch.nn.functional.normalize(torch.from_numpy(rows), dim=1)
    softmax = torch.softmax(20.0 * (unit @ torch.from_numpy(vectors[0]))[:8], dim=0)
    assert answer.top[0].probability == pytest.approx(float(softmax.max()), abs=5e-3)
    assert (len(serving.head.labels), serving.head.mapped) == (10, 8)


def test_no_photos_give_no_rows(tiny_models: Path) -> None:
    embedder = serving_of(tiny_models).embedder
    assert embedder is not None
    empty = embedder.embed([])
    assert empty.vectors.shape == (0, 64)
    assert empty.features.shape == (0, 256)


def test_one_by_one_and_together_give_the_same_vectors(tiny_models: Path) -> None:
    embedder = serving_of(tiny_models).embedder
    assert embedder is not None
    photos = [draw_photo(i, 80, 100) for i in range(3)]
    together = embedder.embed(photos).vectors
    assert np.array_equal(together, np.concatenate([embedder.embed([p]).vectors for p in photos]))


def test_the_fingerprint_follows_what_makes_the_vector(tiny: Tiny, tmp_path: Path) -> None:
    def fingerprint(name: str, state: dict[str, Any], change: Callable[[str], str]) -> str:
        folder = tmp_path / name
        write_tiny(folder, state, tiny.classes)
        description = folder / "bundle.toml"
        description.write_text(change(description.read_text("utf-8")), "utf-8")
        manifest = install(folder, tmp_path / f"models-{name}").manifest
        assert manifest is not None
        return manifest.fingerprint

    def same(text: str) -> str:
        return text

    base = fingerprint("a", tiny.state, same)
    other_head = tiny.state | {"arc.weight": tiny.state["arc.weight"] * 2 + 1}
    nudged = tiny.state["embedding.bias"].clone()
    nudged[0] += 1
    assert fingerprint("b", tiny.state, lambda t: t.replace('"3"', '"4"')) == base
    assert fingerprint("c", other_head, same) == base
    assert fingerprint("d", tiny.state | {"embedding.bias": nudged}, same) != base
    assert fingerprint("e", tiny.state, lambda t: t.replace("0.406", "0.407")) != base


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        (lambda f: (f / "w.safetensors").write_bytes(b"nothing"), "unreadable"),
        (lambda f: (f / "classes.json").write_text('["a"]'), "species_missing"),
        (lambda f: (f / "classes.json").write_text(json.dumps(["x"] * 3)), "duplicate_classes"),
        (lambda f: (f / "species.csv").unlink(), "file_missing"),
        (lambda f: (f / "bundle.toml").unlink(), "no_bundle"),
        (lambda f: (f / "bundle.toml").write_text('name = "../up"'), "bad_recipe"),
        (lambda f: (f / "bundle.toml").write_text("not toml ["), "bad_recipe"),
    ],
)
def test_a_bad_source_changes_nothing(
    tiny: Tiny, tiny_models: Path, tmp_path: Path, spoil: Callable[[Path], object], code: str
) -> None:
    source = Path(shutil.copytree(tiny.folder, tmp_path / "source"))
    models_dir = copied(tiny_models, tmp_path)
    before = tree(models_dir)
    spoil(source)
    with pytest.raises(BundleError) as caught:
        install(source, models_dir)
    assert caught.value.code == code
    assert tree(models_dir) == before
    assert sorted(path.name for path in models_dir.iterdir()) == ["tiny"]


def test_a_file_of_a_recipe_stays_inside_its_folder(tiny: Tiny, tmp_path: Path) -> None:
    source = Path(shutil.copytree(tiny.folder, tmp_path / "source"))
    text = (source / "bundle.toml").read_text("utf-8").replace('"species.csv"', '"../species.csv"')
    (source / "bundle.toml").write_text(text, "utf-8")
    with pytest.raises(BundleError, match="must be a plain name inside the folder"):
        install(source, tmp_path / "models")


def test_a_built_bundle_moves_to_another_machine_without_torch(
    tiny_models: Path, tmp_path: Path
) -> None:
    code = (
        "import sys; from pathlib import Path; from models.bundles import install; "
        "i = install(Path(sys.argv[1]), Path(sys.argv[2])); "
        "print(i.name, i.manifest.fingerprint[:8], 'torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tiny_models / "tiny"), str(tmp_path / "m")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    manifest = show(tiny_models, "tiny").manifest
    assert manifest is not None
    assert done.stdout.split() == ["tiny", manifest.fingerprint[:8], "False"]
    assert tree(tmp_path / "m") == tree(tiny_models)


def test_serving_on_a_cpu_imports_no_torch(tiny_models: Path) -> None:
    code = (
        "import sys; from models.threads import configure_threads; configure_threads(1); "
        "from pathlib import Path; from models.bundles import load_serving; "
        "import numpy as np; s = load_serving(Path(sys.argv[1]), device='auto', threads=1); "
        "photo = np.zeros((50, 60, 3), np.uint8); e = s.embedder.embed([photo]); "
        "s.head.answer(e.vectors); s.gate.decide([photo], e.features); "
        "print(s.bundle, [m for m in ('torch', 'torchvision', 'timm', 'open_clip', "
        "'huggingface_hub', 'openvino_telemetry') if sys.modules.get(m)])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tiny_models)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    if "nvidia" not in " ".join(os.listdir("/dev")):
        assert done.stdout.strip() == "tiny []"


def test_installing_without_torch_says_how_to_get_it(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ModelsExtraMissing, match="pip install"):
        install(tiny.folder, tmp_path / "models")
    with pytest.raises(ModelsExtraMissing, match="pip install"):
        pull("effb4-arcface-v1", tmp_path / "models", endpoint="http://127.0.0.1:9")
    assert list_installed(tmp_path / "models", starter=None) == []


# --- broken on disk


def edit(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    record = json.loads((folder / MANIFEST).read_text("utf-8"))
    change(record)
    (folder / MANIFEST).write_text(json.dumps(record))


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        (lambda f: flip(f / "network.bin"), "file_changed"),
        (lambda f: flip(f / "weights.safetensors"), "file_changed"),
        (lambda f: (f / "network.xml").unlink(), "file_missing"),
        (lambda f: (f / "classes.json").write_text("[]"), "file_changed"),
        (lambda f: (f / MANIFEST).unlink(), "not_built"),
        (lambda f: (f / MANIFEST).write_text("{"), "bad_manifest"),
        (lambda f: (f / MANIFEST).write_text("[]"), "bad_manifest"),
        (lambda f: edit(f, lambda m: m["roles"].pop("golden")), "bad_manifest"),
        (
            lambda f: edit(f, lambda m: m["files"].update({"../x": m["files"]["golden.npz"]})),
            "bad_manifest",
        ),
        (lambda f: edit(f, lambda m: m.update(surprise=1)), "bad_manifest"),
    ],
)
def test_a_broken_bundle_is_named_and_the_next_one_serves(
    tiny_models: Path, tmp_path: Path, spoil: Callable[[Path], object], code: str
) -> None:
    models_dir = copied(tiny_models, tmp_path)
    renamed(models_dir, "tiny", "second")
    spoil(models_dir / "tiny")
    serving = serving_of(models_dir, preferred="tiny")
    assert (serving.bundle, serving.stage) == ("second", "second")
    assert [(p.bundle, p.code) for p in serving.problems] == [("tiny", code)]
    assert [p.code for p in verify(models_dir, "tiny")] == [code]
    assert verify(models_dir, "second") == []


def test_other_golden_vectors_refuse_the_runtime_with_the_measured_value(
    tiny_models: Path, tmp_path: Path
) -> None:
    models_dir = copied(tiny_models, tmp_path)
    folder = models_dir / "tiny"
    with np.load(folder / "golden.npz") as arrays:
        golden = dict(arrays)
    golden["vectors"] = golden["vectors"][:, ::-1]
    np.savez(folder / "golden.npz", **golden)
    record = json.loads((folder / MANIFEST).read_text("utf-8"))
    path = folder / "golden.npz"
    record["files"]["golden.npz"] = {"sha256": sha256_of(path), "size": path.stat().st_size}
    (folder / MANIFEST).write_text(json.dumps(record))
    serving = serving_of(models_dir)
    assert serving.embedder is None
    assert [p.code for p in serving.problems] == ["golden_mismatch", "no_identification_model"]
    assert "cosine 0." in serving.problems[0].detail or "cosine -0." in serving.problems[0].detail


def test_the_order_of_fallback(tiny_models: Path, tmp_path: Path) -> None:
    models_dir = copied(tiny_models, tmp_path)
    for name in ("resnet101", "effb4-arcface-v1", "vit_l32"):
        renamed(models_dir, "tiny", name)
    order = []
    while (serving := serving_of(models_dir)).bundle is not None:
        order.append(serving.bundle)
        shutil.rmtree(models_dir / serving.bundle)
    assert order == ["effb4-arcface-v1", "vit_l32", "resnet101", "tiny"]
    assert (serving.stage, serving.embedder, serving.head) == ("gate", None, None)
    assert serving.default_min_probability == 0.05


def test_a_preferred_bundle_that_is_not_there_is_a_problem(tiny_models: Path) -> None:
    serving = serving_of(tiny_models, preferred="effb4-arcface-v1")
    assert serving.bundle == "tiny"
    assert [(p.bundle, p.code) for p in serving.problems] == [("effb4-arcface-v1", "not_installed")]


def test_cuda_that_is_not_there_is_a_problem_and_the_cpu_serves(
    tiny_models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("models.bundles.cuda_available", lambda: False)
    serving = load_serving(tiny_models, device="cuda", starter=None)
    assert serving.bundle == "tiny"
    assert [p.code for p in serving.problems] == ["cuda_unavailable"]


def test_the_cuda_path_reads_the_same_bundle(
    tiny_models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a GPU the path runs on torch's CPU, in float32: files, golden check and batches."""
    from models import runtime

    on_cpu = runtime.torch_runner
    monkeypatch.setattr("models.bundles.cuda_available", lambda: True)
    monkeypatch.setattr(runtime, "torch_runner", lambda module, *_, **__: on_cpu(module, "cpu"))
    serving = load_serving(tiny_models, device="auto", starter=None)
    assert serving.problems == ()
    assert serving.embedder is not None
    photos = [draw_photo(i, 70, 90) for i in range(5)]
    cpu = serving_of(tiny_models).embedder
    assert cpu is not None
    agreement = (serving.embedder.embed(photos).vectors * cpu.embed(photos).vectors).sum(axis=1)
    assert agreement.min() > 0.9999


# --- listing


def test_listing_and_showing(tiny_models: Path, tmp_path: Path) -> None:
    models_dir = copied(tiny_models, tmp_path)
    (models_dir / "broken").mkdir()
    bundles = list_installed(models_dir, starter=None)
    assert [bundle.name for bundle in bundles] == ["broken", "tiny"]
    assert bundles[0].problem is not None
    assert bundles[0].problem.code == "not_built"
    assert bundles[1].size > 100_000
    assert show(models_dir, "tiny").path == models_dir / "tiny"
    with pytest.raises(BundleError, match="not_installed: nobody is not installed"):
        show(models_dir, "nobody")
    assert list_installed(tmp_path / "nowhere", starter=None) == []


# --- the starter


@pytest.fixture
def starter(tiny: Tiny, tmp_path: Path) -> Path:
    folder = tmp_path / "starter"
    write_tiny(folder, tiny.state, tiny.classes, name="starter")
    convert_starter(folder)
    return folder


def test_a_starter_is_converted_in_place_and_serves_read_only(
    starter: Path, tmp_path: Path
) -> None:
    before = tree(starter)
    assert {"network.xml", "network.bin", "golden.npz", MANIFEST} <= set(before)
    assert "weights.safetensors" not in before
    starter.chmod(0o555)
    serving = serving_of(tmp_path / "none", starter=starter)
    starter.chmod(0o755)
    assert (serving.bundle, serving.stage, serving.problems) == ("starter", "starter", ())
    assert [notice.code for notice in serving.notices] == ["real_gate_not_installed"]
    assert tree(starter) == before
    convert_starter(starter)
    again = show(tmp_path / "none", "starter", starter=starter).manifest
    assert again is not None
    assert serving.embedder is not None
    assert again.fingerprint == serving.embedder.spec.fingerprint
    assert verify(tmp_path / "none", "starter", starter=starter) == []


def test_the_starters_own_gate_speaks_and_says_that_it_is_not_the_real_one(
    tiny: Tiny, tmp_path: Path
) -> None:
    zeros = np.zeros
    judge = StarterGate(
        centre=zeros(256, np.float32),
        projection=zeros((256, 2), np.float32),
        hidden_weight=zeros((2, 3), np.float32),
        hidden_bias=zeros(3, np.float32),
        output_weight=zeros((3, 3), np.float32),
        output_bias=np.array([9, 0, 0], np.float32),
        kind_mean=zeros((2, 2), np.float32),
        kind_whitening=zeros((2, 2, 2), np.float32),
        kind_limit=np.ones(2, np.float32),
        threshold=0.5,
        other_limit=np.array([0.5, 0.5], dtype=np.float32),
    )
    folder = tmp_path / "starter"
    write_tiny(folder, tiny.state, tiny.classes, name="starter")
    judge.save(folder / "gate.npz")
    with (folder / "bundle.toml").open("a", encoding="utf-8") as file:
        file.write('\ngate = "gate.npz"\n')
    convert_starter(folder)
    serving = serving_of(tmp_path / "none", starter=folder)
    assert serving.embedder is not None
    assert serving.gate.needs_features
    photo = draw_photo(1)
    embedded = serving.embedder.embed([photo])
    (decision,) = serving.gate.decide([photo], embedded.features)
    assert (decision.state, decision.threshold, decision.model) == ("accepted", 0.5, "starter-gate")
    assert [notice.code for notice in serving.notices] == ["real_gate_not_installed"]
    with pytest.raises(ValueError, match="needs the features of all 1 photos"):
        serving.gate.decide([photo], None)
    flip(folder / "gate.npz")
    assert serving_of(tmp_path / "none", starter=folder).problems[0].code == "file_changed"


def test_the_starter_serves_only_where_nothing_else_is_installed(
    starter: Path, tiny_models: Path, tmp_path: Path
) -> None:
    assert serving_of(tiny_models, starter=starter).bundle == "tiny"
    assert serving_of(tiny_models, starter=starter, preferred="starter").bundle == "starter"
    models_dir = copied(tiny_models, tmp_path)
    (models_dir / "tiny" / "network.bin").unlink()
    assert serving_of(models_dir, starter=starter).bundle is None
    assert [b.name for b in list_installed(models_dir, starter=starter)] == ["tiny", "starter"]


# --- downloading


def registry_for(tmp_path: Path, tiny: Tiny, digests: dict[str, str]) -> Path:
    text = (
        (tiny.folder / "bundle.toml")
        .read_text("utf-8")
        .replace("dim =", "kind = 'embedder'\ndim =")
    )
    lines = [line.strip() for line in text.splitlines()]
    head = "\n".join(lines).split("[files]")[0].replace("[preprocessing]", "[model.preprocessing]")
    files = "".join(
        f'[model.files.{role}]\npath = "{name}"\n'
        + (f'sha256 = "{digests[name]}"\n' if name in digests else "")
        for role, name in (
            ("checkpoint", "w.safetensors"),
            ("classes", "classes.json"),
            ("species", "species.csv"),
        )
    )
    path = tmp_path / "models.toml"
    path.write_text("[[model]]\nrepo = 'owner/tiny'\n" + head + files, "utf-8")
    return path


@pytest.fixture
def files(tiny: Tiny) -> dict[str, bytes]:
    names = ("w.safetensors", "classes.json", "species.csv")
    return {f"owner/tiny/{name}": (tiny.folder / name).read_bytes() for name in names}


def digests_of(tiny: Tiny) -> dict[str, str]:
    return {path.name: sha256_of(path) for path in tiny.folder.iterdir()}


def test_pulling_through_a_mirror(tiny: Tiny, files: dict[str, bytes], tmp_path: Path) -> None:
    registry = registry_for(tmp_path, tiny, digests_of(tiny))
    with serve(Hub(files)) as hub:
        installed = pull("tiny", tmp_path / "models", endpoint=hub.address, registry=registry)
    assert installed.manifest is not None
    assert installed.manifest.published
    assert serving_of(tmp_path / "models").bundle == "tiny"
    assert [path.name for path in (tmp_path / "models").iterdir()] == ["tiny"]


def test_another_repository_and_no_token_for_a_mirror(
    tiny: Tiny, files: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    moved = {name.replace("owner/", "someone/"): data for name, data in files.items()}
    registry = registry_for(tmp_path, tiny, digests_of(tiny))
    with serve(Hub(moved)) as hub:
        pull("tiny", tmp_path / "m", endpoint=hub.address, repo="someone/tiny", registry=registry)
        assert all(path.startswith("/someone/tiny/") for path in hub.asked)
        assert hub.tokens == []


@pytest.mark.parametrize("fault", ["other bytes", "absent", "cut"])
def test_a_faulty_download_installs_nothing(
    tiny: Tiny,
    files: dict[str, bytes],
    tmp_path: Path,
    fault: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)
    registry = registry_for(tmp_path, tiny, digests_of(tiny))
    name = "owner/tiny/species.csv"
    hub = Hub(dict(files))
    if fault == "other bytes":
        hub.files[name] = files[name] + b"\n"
    elif fault == "absent":
        del hub.files[name]
    else:
        hub.cut.add("species.csv")
    with serve(hub), pytest.raises(BundleError) as caught:
        pull("tiny", tmp_path / "models", endpoint=hub.address, registry=registry)
    expected = {"other bytes": "digest_mismatch"}.get(fault, "download_failed")
    assert caught.value.code == expected
    assert "species.csv" in caught.value.detail
    assert list((tmp_path / "models").iterdir()) == []


def test_without_a_digest_the_hubs_own_is_used_and_none_is_refused(
    tiny: Tiny, files: dict[str, bytes], tmp_path: Path
) -> None:
    digests = digests_of(tiny)
    del digests["w.safetensors"]
    registry = registry_for(tmp_path, tiny, digests)
    with serve(Hub(files)) as hub:
        installed = pull("tiny", tmp_path / "a", endpoint=hub.address, registry=registry)
    assert installed.manifest is not None
    assert not installed.manifest.published
    with serve(Hub(files, digests=False)) as hub, pytest.raises(BundleError, match="no_digest"):
        pull("tiny", tmp_path / "b", endpoint=hub.address, registry=registry)
    assert list((tmp_path / "b").iterdir()) == []


def test_nobody_at_the_address_is_a_sentence(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)
    registry = registry_for(tmp_path, tiny, digests_of(tiny))
    with serve(Hub({})) as hub:
        address = hub.address
    with pytest.raises(BundleError, match="download_failed"):
        pull("tiny", tmp_path / "m", endpoint=address, registry=registry)


@pytest.mark.parametrize(
    ("name", "code"),
    [("nobody", "unknown_model"), ("vit_l32", "no_repository"), ("resnet101", "pickled")],
)
def test_models_that_cannot_be_pulled_say_why(tmp_path: Path, name: str, code: str) -> None:
    with pytest.raises(BundleError) as caught:
        pull(name, tmp_path / "models", endpoint="http://127.0.0.1:9")
    assert caught.value.code == code


def test_the_registry_holds_the_published_facts() -> None:
    registry = load_registry()
    assert list(registry) == ["effb4-arcface-v1", "vit_l32", "resnet101", "openclip-vit-b-32"]
    effb4 = registry["effb4-arcface-v1"]
    assert (effb4.dim, effb4.scale, effb4.min_probability) == (512, 30.0, 0.05)
    assert effb4.preprocessing is not None
    assert (effb4.preprocessing.height_px, effb4.preprocessing.interpolation) == (512, "bilinear")
    assert all(len(file.sha256 or "") == 64 for file in effb4.files.values())


def test_a_pickled_module_becomes_a_bundle_only_by_its_own_command(tmp_path: Path) -> None:
    import torch

    torch.manual_seed(1)
    module = torch.nn.Sequential(
        torch.nn.Conv2d(3, 6, 7, 4), torch.nn.ReLU(), torch.nn.Conv2d(6, 12, 3, 2)
    )
    source = tmp_path / "source"
    source.mkdir()
    torch.save(module, source / "resnet101.pth")
    with pytest.raises(BundleError, match="pickled"):
        install(source, tmp_path / "models")
    convert_pickled_module(source / "resnet101.pth", tmp_path / "models")
    serving = serving_of(tmp_path / "models")
    assert (serving.bundle, serving.stage, serving.head) == ("resnet101", "resnet101", None)
    assert serving.embedder is not None
    assert serving.embedder.embed([draw_photo(1)]).vectors.shape == (1, 12)
    with pytest.raises(BundleError, match="unknown_model"):
        convert_pickled_module(source / "resnet101.pth", tmp_path / "models", name="vit_l32")
