"""Owns the installed bundles: adding, listing, checking them, and choosing who serves.

A bundle is a folder `<models_dir>/<name>/` with a manifest. It appears by one rename, complete, or
not at all. A further version of the name, with a space of its own, lies beside the first in
`<name>@<version>/`: a catalogue moves from one to the other while both are there. The starter
bundle lies in the package itself and is only read.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal

import numpy as np

from models.arcface import HEAD_KEY, Architecture, check_weights
from models.clip import ClipGate, GateConfig
from models.download import download
from models.embedder import Embedded, Embedder, EmbedderSpec, Floats, l2_normalize
from models.errors import BundleError
from models.gate import AbsentGate, FeatureGate, Gate
from models.head import Head
from models.labels import read_classes, read_species
from models.manifest import MANIFEST, VERSION_SIGN, Manifest, record_files
from models.preprocess import Rgb
from models.recipes import GATE_CONFIG, REGISTRY, STARTER, Recipe, load_registry, recipe_of
from models.runtime import Golden, Run, agreement, check_agreement, openvino_runner
from models.torch_compat import cuda_available, load_torch

Device = Literal["auto", "cpu", "cuda"]
Say = Callable[[str], None]
STARTER_NAME: Final = "starter"
STAGE_GATE_ONLY: Final = "gate"
DEFAULT_MIN_PROBABILITY: Final = 0.05
_STALE_AFTER_S: Final = 24 * 3600


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong with a bundle (or worth knowing about it): a code and a sentence."""

    bundle: str
    code: str
    detail: str


@dataclass(frozen=True, slots=True)
class Installed:
    """A bundle on this machine; `manifest` is None where it cannot be read (`problem` says why).
    `name` tells it from all others: a second version of a name is `name@version`."""

    name: str
    path: Path
    manifest: Manifest | None
    problem: Problem | None
    size: int


@dataclass(frozen=True, slots=True, eq=False)
class Serving:
    """Who answers in this process. `stage` and `bundle` name the model that really speaks.

    `problems` are failures (a broken bundle), `notices` are things to show that are none (the real
    gate is not installed).
    """

    embedder: Embedder | None
    head: Head | None
    gate: Gate
    stage: str
    bundle: str | None
    problems: tuple[Problem, ...]
    notices: tuple[Problem, ...]
    default_min_probability: float


class NetworkEmbedder:
    """An embedder over a compiled network."""

    def __init__(self, spec: EmbedderSpec, run: Run, channels: int) -> None:
        self._spec = spec
        self._run = run
        self._channels = channels

    @property
    def spec(self) -> EmbedderSpec:
        return self._spec

    def embed(self, photos: Sequence[Rgb]) -> Embedded:
        if not photos:
            empty = np.zeros((0, self._spec.dim), np.float32)
            return Embedded(empty, np.zeros((0, self._channels), np.float32))
        pixels = np.stack([self._spec.preprocessing.apply(photo) for photo in photos])
        vectors, features = self._run(pixels)
        return Embedded(l2_normalize(vectors), features)


def install(
    source: Path,
    models_dir: Path,
    *,
    registry: Path = REGISTRY,
    gate_config: Path = GATE_CONFIG,
    say: Say = lambda _: None,
) -> Installed:
    """Install the bundle whose files lie in `source`.

    `source` holds a `bundle.toml`, the files of a known model under their published names, or a
    bundle that was built on another machine (then torch is not needed). A bundle of the same space
    is replaced; another version of an installed name is kept beside it.

    Raises:
        BundleError: with a code and a sentence; `models_dir` is then as it was.
    """
    if (source / MANIFEST).is_file():
        return _install_built(source, models_dir, say)
    return _install(
        recipe_of(source, load_registry(registry)), source, models_dir, gate_config, say
    )


def pull(
    name: str,
    models_dir: Path,
    *,
    repo: str | None = None,
    endpoint: str | None = None,
    registry: Path = REGISTRY,
    gate_config: Path = GATE_CONFIG,
    say: Say = lambda _: None,
) -> Installed:
    """Download the published model `name`, check every file's SHA-256 and install it.

    Args:
        repo: another repository of the hub with the same files.
        endpoint: a mirror of the hub, by its base address.

    Raises:
        BundleError: with a code and a sentence; `models_dir` is then as it was.
    """
    recipes = load_registry(registry)
    recipe = recipes.get(name)
    if recipe is None:
        raise BundleError("unknown_model", f"no model {name!r} is known, only {', '.join(recipes)}")
    if recipe.pickled:
        raise BundleError(
            "pickled",
            f"{name} is published as a pickled module, which runs code when it is read: download "
            f"{recipe.repo} yourself and use `resight models convert-pickled FILE` if you trust it",
        )
    load_torch()
    with _workplace(models_dir) as folder:
        say(f"downloading {name}")
        download(recipe, folder, repo=repo, endpoint=endpoint)
        return _install(recipe, folder, models_dir, gate_config, say)


def convert_pickled_module(
    path: Path,
    models_dir: Path,
    *,
    name: str = "resnet101",
    registry: Path = REGISTRY,
    say: Say = lambda _: None,
) -> Installed:
    """Build the coarse bundle `name` from a pickled whole module.

    **Unpickling runs whatever code the file holds.** This is the only place that does it, and
    nothing calls it but the command of its own. The result is an ordinary bundle, without pickle.
    """
    from models.build import build_pickled

    recipe = load_registry(registry).get(name)
    if recipe is None or not recipe.pickled:
        raise BundleError("unknown_model", f"{name!r} is no model that is published as a pickle")
    with _workplace(models_dir) as out:
        build_pickled(recipe, path, out, say)
        return _publish(out, models_dir)


def convert_starter(folder: Path = STARTER, *, say: Say = lambda _: None) -> Installed:
    """(Re)build graph, golden vectors and manifest beside the starter's trained files."""
    from models.build import build_embedder

    recipe = recipe_of(folder, {})
    with _workplace(Path(tempfile.gettempdir())) as out:
        manifest = build_embedder(recipe, folder, out, say, in_place=True)
        (folder / MANIFEST).unlink(missing_ok=True)
        for path in sorted(out.iterdir(), key=lambda path: path.name == MANIFEST):
            shutil.copyfile(path, folder / path.name)
    manifest.check_files(folder)
    return _look(folder)


def refresh_prompts(models_dir: Path, gate_config: Path = GATE_CONFIG) -> Installed:
    """Encode the prompts of `gate_config` anew for the installed gate (needs torch)."""
    from models.build import TEXT, encode_prompts, save_text

    config = GateConfig.load(gate_config)
    folder = models_dir / config.bundle
    manifest = show(models_dir, config.bundle).manifest
    if manifest is None:
        raise BundleError("not_built", f"{folder} cannot be read: install the bundle again")
    with _workplace(models_dir) as out:
        for name in manifest.files:
            if name != TEXT:
                os.link(folder / name, out / name)
        save_text(out / TEXT, encode_prompts(folder, manifest, config.prompts))
        files = manifest.files | record_files(out, [TEXT])
        replace(manifest, prompts=config.prompts, files=files).save(out)
        return _publish(out, models_dir)


def list_installed(models_dir: Path, *, starter: Path | None = STARTER) -> list[Installed]:
    """Every bundle in `models_dir` by name, then the starter that ships with the program."""
    folders = sorted(path for path in _folders(models_dir) if not path.name.startswith("."))
    shipped = [starter] if starter is not None and (starter / MANIFEST).is_file() else []
    return [_look(folder) for folder in folders + shipped]


def show(models_dir: Path, name: str, *, starter: Path | None = STARTER) -> Installed:
    """One bundle: by its name, by `name@version`, or by the fingerprint of its space.

    Raises:
        BundleError: `not_installed`, with what is.
    """
    bundles = list_installed(models_dir, starter=starter)
    found = _named(bundles, name)
    if found is not None:
        return found
    names = ", ".join(installed.name for installed in bundles) or "none"
    raise BundleError(
        "not_installed",
        f"{name} is not installed in {models_dir} (there: {names}): `resight models pull {name}`",
    )


def verify(models_dir: Path, name: str, *, starter: Path | None = STARTER) -> list[Problem]:
    """Check a bundle's files against their record and its golden vectors on this machine."""
    installed = show(models_dir, name, starter=starter)
    if installed.manifest is None:
        return [installed.problem] if installed.problem else []
    try:
        _check_built(installed.path, installed.manifest)
    except BundleError as error:
        return [Problem(name, error.code, error.detail)]
    return []


def load_embedder(
    models_dir: Path,
    fingerprint: str,
    *,
    device: Device = "auto",
    threads: int | None = None,
    starter: Path | None = STARTER,
) -> Embedder:
    """The embedder of one space, checked against its golden vectors.

    Raises:
        BundleError: `not_installed`, no bundle here makes vectors of this space; or what is wrong
            with the one that does.
    """
    folder = _folder_of(models_dir, fingerprint, starter)
    return _load_embedder(folder, _device(device, []), threads)[0]


def load_head(models_dir: Path, fingerprint: str, *, starter: Path | None = STARTER) -> Head | None:
    """The head in the bundle of one space, without its network; None where it has none.

    Raises:
        BundleError: as `load_embedder`.
    """
    folder = _folder_of(models_dir, fingerprint, starter)
    manifest = Manifest.load(folder)
    manifest.check_files(folder)
    return _load_head(folder, manifest) if manifest.slots else None


def load_space(
    models_dir: Path,
    fingerprint: str,
    *,
    device: Device = "auto",
    gate_config: Path = GATE_CONFIG,
    threads: int | None = None,
    starter: Path | None = STARTER,
    gate: Gate | None = None,
) -> Serving:
    """The bundle of one space with its gate, and no other in its place.

    `gate` is one that is loaded already: it is taken, unless it judges by the features of an
    embedder of its own.

    Raises:
        BundleError: as `load_embedder`.
    """
    problems: list[Problem] = []
    where = _device(device, problems)
    folder = _folder_of(models_dir, fingerprint, starter)
    embedder, head = _load_embedder(folder, where, threads)
    manifest = Manifest.load(folder)
    if gate is None or gate.needs_features or isinstance(gate, AbsentGate):
        gate, notices = _load_gate(
            models_dir, gate_config, where, threads, problems, folder, manifest
        )
    else:
        notices = ()
    return _serving(embedder, head, gate, folder, manifest, problems, notices)


def load_serving(
    models_dir: Path,
    *,
    preferred: str | None = None,
    device: Device = "auto",
    gate_config: Path = GATE_CONFIG,
    threads: int | None = None,
    registry: Path = REGISTRY,
    starter: Path | None = STARTER,
) -> Serving:
    """Load the first bundle that works, and the gate.

    Order: `preferred`, the registry's order, other bundles by name; the starter only where no other
    identification model is installed or where it is preferred; else the gate alone. A bundle that
    does not load is named in `problems` and the next one tried: this never raises for a bundle.
    """
    problems: list[Problem] = []
    where = _device(device, problems)
    embedder, head, folder, manifest = None, None, None, None
    for candidate in _candidates(models_dir, preferred, registry, starter, problems):
        try:
            embedder, head = _load_embedder(candidate, where, threads)
            folder, manifest = candidate, Manifest.load(candidate)
            break
        except BundleError as error:
            problems.append(Problem(_name(candidate, starter), error.code, error.detail))
    gate, notices = _load_gate(models_dir, gate_config, where, threads, problems, folder, manifest)
    if embedder is None:
        detail = "no identification model could be loaded: `resight models pull effb4-arcface-v1`"
        problems.append(Problem("", "no_identification_model", detail))
    return _serving(embedder, head, gate, folder, manifest, problems, notices)


def _serving(
    embedder: Embedder | None,
    head: Head | None,
    gate: Gate,
    folder: Path | None,
    manifest: Manifest | None,
    problems: Sequence[Problem],
    notices: tuple[Problem, ...],
) -> Serving:
    return Serving(
        embedder=embedder,
        head=head,
        gate=gate,
        stage=manifest.stage if manifest else STAGE_GATE_ONLY,
        bundle=_reference(folder, manifest) if folder and manifest else None,
        problems=tuple(problems),
        notices=notices,
        default_min_probability=head.min_probability if head else DEFAULT_MIN_PROBABILITY,
    )


# --- installing


def _install(
    recipe: Recipe, source: Path, models_dir: Path, gate_config: Path, say: Say
) -> Installed:
    from models.build import build_embedder, build_gate

    if recipe.pickled:
        raise BundleError(
            "pickled",
            f"{recipe.name} is a pickled module, which runs code when it is read: use `resight "
            "models convert-pickled FILE` if you trust it",
        )
    with _workplace(models_dir) as out:
        if recipe.kind == "gate":
            build_gate(recipe, source, out, say, GateConfig.load(gate_config))
        else:
            build_embedder(recipe, source, out, say, in_place=False)
        return _publish(out, models_dir)


def _install_built(source: Path, models_dir: Path, say: Say) -> Installed:
    manifest = Manifest.load(source)
    say("checking files and golden vectors")
    with _workplace(models_dir) as out:
        for name in (*manifest.files, MANIFEST):
            if not (source / name).is_file():
                raise BundleError("file_missing", f"{source / name} is missing")
            shutil.copyfile(source / name, out / name)
        _check_built(out, manifest)
        return _publish(out, models_dir)


def _check_built(folder: Path, manifest: Manifest) -> None:
    """Everything that can be known of a built bundle without torch.

    Raises:
        BundleError: with the culprit.
    """
    manifest.check_files(folder)
    check_weights(folder / manifest.roles["weights"])
    if manifest.slots:
        _load_head(folder, manifest)
    _cpu_run(folder, manifest, None)


@contextmanager
def _workplace(models_dir: Path) -> Iterator[Path]:
    """A folder beside the bundles that vanishes unless it is moved away; sweeps forgotten ones."""
    models_dir.mkdir(parents=True, exist_ok=True)
    for left in models_dir.glob(".resight-building-*"):
        if time.time() - left.stat().st_mtime > _STALE_AFTER_S:
            shutil.rmtree(left, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=".resight-building-", dir=models_dir))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _publish(built: Path, models_dir: Path) -> Installed:
    target = _place(models_dir, Manifest.load(built))
    built.chmod(0o755)
    old = target.with_name(f".old-{target.name}-{os.getpid()}")
    if target.exists():
        target.rename(old)
    built.rename(target)
    shutil.rmtree(old, ignore_errors=True)
    return _look(target)


def _place(models_dir: Path, manifest: Manifest) -> Path:
    """The folder that a bundle goes into: that of the same space, else one of its own.

    Raises:
        BundleError: `duplicate_space`, `version_taken`.
    """
    plain = models_dir / manifest.name
    if manifest.kind == "gate":
        return plain  # a gate fills no space, so nothing has to be moved from one to the next
    for other in list_installed(models_dir):
        known = other.manifest
        if known is None or known.fingerprint != manifest.fingerprint:
            continue
        if known.name != manifest.name:
            raise BundleError(
                "duplicate_space",
                f"{manifest.name} makes the very vectors of {other.name}, which is installed: use "
                "that one, or remove it first",
            )
        if other.path.parent == models_dir:
            return other.path
    for other in list_installed(models_dir, starter=None):
        known = other.manifest
        if known and (known.name, known.version) == (manifest.name, manifest.version):
            raise BundleError(
                "version_taken",
                f"{manifest.name} {manifest.version} is installed and makes other vectors: give "
                "the new one another version, so that the two can be told apart",
            )
    if not (plain / MANIFEST).is_file():
        return plain
    return models_dir / f"{manifest.name}{VERSION_SIGN}{manifest.version}"


# --- loading


def _candidates(
    models_dir: Path,
    preferred: str | None,
    registry: Path,
    starter: Path | None,
    problems: list[Problem],
) -> list[Path]:
    try:
        order = [name for name, recipe in load_registry(registry).items() if recipe.kind != "gate"]
        gates = {name for name, recipe in load_registry(registry).items() if recipe.kind == "gate"}
    except BundleError as error:
        problems.append(Problem("", error.code, error.detail))
        order, gates = [], set()
    folders = {
        installed.name: installed.path
        for installed in list_installed(models_dir, starter=None)
        if installed.name not in gates
        and (installed.manifest is None or installed.manifest.kind == "embedder")
    }
    if preferred is not None:
        found = _named(list_installed(models_dir, starter=starter), preferred)
        preferred = found.name if found is not None else preferred
    if starter is not None and (not folders or preferred == STARTER_NAME):
        folders.setdefault(STARTER_NAME, starter)
    if preferred is not None and preferred not in folders:
        problems.append(Problem(preferred, "not_installed", f"{preferred} is not installed"))
    names = [name for name in ([preferred] if preferred else []) + order if name in folders]
    names += sorted(set(folders) - set(names) - {STARTER_NAME})
    names += [STARTER_NAME] if STARTER_NAME in folders else []
    return [folders[name] for name in dict.fromkeys(names)]


def _folder_of(models_dir: Path, fingerprint: str, starter: Path | None) -> Path:
    for installed in list_installed(models_dir, starter=starter):
        known = installed.manifest
        if known and known.kind == "embedder" and known.fingerprint == fingerprint:
            return installed.path
    raise BundleError(
        "not_installed",
        f"no bundle in {models_dir} makes vectors of the space {fingerprint[:12]}…: install it "
        "there with `resight models add DIR`",
    )


def _load_embedder(
    folder: Path, device: Literal["cpu", "cuda"], threads: int | None
) -> tuple[Embedder, Head | None]:
    manifest = Manifest.load(folder)
    manifest.check_files(folder)
    cuda = device == "cuda" and "pickled" not in manifest.architecture
    run = _cuda_run(folder, manifest) if cuda else _cpu_run(folder, manifest, threads)
    channels = _golden(folder, manifest).features.shape[1]
    head = _load_head(folder, manifest) if manifest.slots else None
    return NetworkEmbedder(manifest.spec, run, channels), head


def _load_head(folder: Path, manifest: Manifest) -> Head:
    from safetensors import SafetensorError, safe_open

    path = folder / manifest.roles["weights"]
    try:
        with safe_open(path, framework="numpy") as weights:
            rows: Floats = l2_normalize(weights.get_tensor(HEAD_KEY))
    except (SafetensorError, OSError, ValueError) as error:
        raise BundleError("bad_head", f"{path} has no usable head: {error}") from error
    classes = read_classes(folder / manifest.roles["classes"])
    species = read_species(folder / manifest.roles["species"])
    unnamed = (None,) * (len(rows) - len(classes))
    return Head(
        rows=rows,
        labels=(*classes, *unnamed),
        species=(*(species.get(name) for name in classes), *unnamed),
        scale=manifest.scale,
        min_probability=manifest.min_probability,
        version=manifest.version,
        digest=manifest.files[manifest.roles["weights"]].sha256,
    )


def _golden(folder: Path, manifest: Manifest) -> Golden:
    try:
        return Golden.load(folder / manifest.roles["golden"])
    except (OSError, ValueError, KeyError) as error:
        raise BundleError("bad_golden", f"{folder}: golden vectors unreadable: {error}") from error


def _cpu_run(folder: Path, manifest: Manifest, threads: int | None) -> Run:
    ir = folder / manifest.roles["ir"]
    return openvino_runner(ir, manifest.preprocessing, _golden(folder, manifest), threads)


def _cuda_run(folder: Path, manifest: Manifest) -> Run:
    from models.arcface import load_network, read_state
    from models.clip import image_network, load_clip
    from models.runtime import torch_runner, with_normalisation

    state = read_state(folder / manifest.roles["weights"])
    if manifest.kind == "gate":
        network = image_network(load_clip(state, manifest.architecture))
    else:
        pooled: Literal["forward", "forward_features"] = (
            "forward" if manifest.pooled_from == "forward" else "forward_features"
        )
        network, _ = load_network(state, Architecture(manifest.architecture, manifest.dim, pooled))
    module = with_normalisation(network, manifest.preprocessing)
    run = torch_runner(module, "cuda", half=True)
    measured = agreement(run, manifest.preprocessing, _golden(folder, manifest))
    check_agreement(measured, "CUDA in float16")
    return run


def _load_gate(
    models_dir: Path,
    gate_config: Path,
    device: Literal["cpu", "cuda"],
    threads: int | None,
    problems: list[Problem],
    folder: Path | None,
    manifest: Manifest | None,
) -> tuple[Gate, tuple[Problem, ...]]:
    try:
        config = GateConfig.load(gate_config)
    except BundleError as error:
        problems.append(Problem("", error.code, error.detail))
        return AbsentGate("the gate's configuration cannot be read"), ()
    missing = "not installed"
    if (models_dir / config.bundle).is_dir():
        missing = "installed but unusable"
        try:
            return _load_clip_gate(models_dir / config.bundle, config, device, threads), ()
        except BundleError as error:
            problems.append(Problem(config.bundle, error.code, error.detail))
    notice = Problem(
        config.bundle,
        "real_gate_not_installed",
        f"The real gate ({config.bundle}) is {missing}: `resight models pull {config.bundle}`.",
    )
    if folder is not None and manifest is not None and "gate" in manifest.roles:
        from models.starter_gate import StarterGate

        try:
            judge = StarterGate.load(folder / manifest.roles["gate"])
            return FeatureGate(judge, f"{manifest.name}-gate"), (notice,)
        except BundleError as error:
            problems.append(Problem(manifest.name, error.code, error.detail))
    return AbsentGate("no gate model is installed"), (notice,)


def _load_clip_gate(
    folder: Path, config: GateConfig, device: Literal["cpu", "cuda"], threads: int | None
) -> ClipGate:
    manifest = Manifest.load(folder)
    roles = ["ir", "ir_weights", "golden", "text"] + (["weights"] if device == "cuda" else [])
    manifest.check_files(folder, [manifest.roles[role] for role in roles])
    if manifest.prompts != config.prompts:
        raise BundleError(
            "prompts_changed",
            "the prompts of the gate's configuration are not those it was installed with: "
            "`resight models refresh`",
        )
    with np.load(folder / manifest.roles["text"], allow_pickle=False) as arrays:
        text: Floats = arrays["vectors"]
    cuda = device == "cuda"
    run = _cuda_run(folder, manifest) if cuda else _cpu_run(folder, manifest, threads)
    return ClipGate(run, manifest.preprocessing, text, config)


def _device(device: Device, problems: list[Problem]) -> Literal["cpu", "cuda"]:
    if device == "cpu":
        return "cpu"
    if cuda_available():
        return "cuda"
    if device == "cuda":
        detail = "CUDA was asked for and is not usable here: the CPU serves instead"
        problems.append(Problem("", "cuda_unavailable", detail))
    return "cpu"


# --- looking


def _look(folder: Path) -> Installed:
    size = sum(path.stat().st_size for path in folder.iterdir() if path.is_file())
    try:
        manifest = Manifest.load(folder)
    except BundleError as error:
        problem = Problem(folder.name, error.code, error.detail)
        return Installed(folder.name, folder, None, problem, size)
    return Installed(_reference(folder, manifest), folder, manifest, None, size)


def _reference(folder: Path, manifest: Manifest) -> str:
    """What a bundle goes by: its name, with the version where it lies beside another."""
    beside = folder.name.startswith(manifest.name + VERSION_SIGN)
    return folder.name if beside else manifest.name


def _named(bundles: Sequence[Installed], wanted: str) -> Installed | None:
    for installed in bundles:
        known = installed.manifest
        names = {installed.name}
        if known is not None:
            names |= {known.name + VERSION_SIGN + known.version, known.fingerprint}
        if wanted in names:
            return installed
    return None


def _folders(models_dir: Path) -> list[Path]:
    return [path for path in models_dir.iterdir() if path.is_dir()] if models_dir.is_dir() else []


def _name(folder: Path, starter: Path | None) -> str:
    return STARTER_NAME if folder == starter else folder.name
