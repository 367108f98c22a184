"""Commands for model bundles and the gate: models, gate."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from service.cli.common import (
    AsJson,
    DataDir,
    Exit,
    Stop,
    bar,
    err,
    opened_database,
    out,
    print_json,
    settings_from,
    table,
)

if TYPE_CHECKING:
    from models.bundles import Installed
    from models.clip import ClipGate
    from service.settings import Settings

models = typer.Typer(help="Install, check and choose model bundles.", no_args_is_help=True)
gate = typer.Typer(help="The gate: its prompts and its threshold.", no_args_is_help=True)

Bundle = Annotated[str, typer.Argument(metavar="NAME", help="A bundle's name.")]


@models.command("list")
def list_models(as_json: AsJson = False, data_dir: DataDir = None) -> None:
    """What is installed, what is known by name, and what can be pulled."""
    from models.bundles import list_installed
    from models.recipes import load_registry

    settings = settings_from(data_dir)
    installed = list_installed(settings.models_dir)
    known = [name for name in load_registry() if name not in {one.name for one in installed}]
    if as_json:
        print_json({"installed": [_described(one) for one in installed], "known": known})
        return
    listed = table("name", "kind", "version", "licence", "MB", "state", right=("MB",))
    for one in installed:
        kind, version, licence = (
            (one.manifest.kind, one.manifest.version, one.manifest.licence)
            if one.manifest
            else ("?", "?", "?")
        )
        state = one.problem.detail if one.problem else "installed"
        listed.add_row(one.name, kind, version, licence, f"{one.size / 1e6:.1f}", escape(state))
    for name in known:
        recipe = load_registry()[name]
        listed.add_row(name, recipe.kind, recipe.version, recipe.licence, "", "not installed")
    out.print(listed)


@models.command("show")
def show_model(name: Bundle, as_json: AsJson = False, data_dir: DataDir = None) -> None:
    """One bundle: where it lies, its licence, fingerprint, slots and files."""
    from models.bundles import show

    found = _described(show(settings_from(data_dir).models_dir, name))
    if as_json:
        print_json(found)
        return
    for key, value in found.items():
        if key == "files":
            for file, digest in value.items():
                out.print(f"  {escape(file):<24}[dim]{digest}[/]")
        else:
            out.print(f"{key:<16}{escape(str(value))}")


@models.command("add")
def add_model(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="DIR",
            exists=True,
            file_okay=False,
            help="Published files under their names, a bundle.toml, or a built bundle.",
        ),
    ],
    data_dir: DataDir = None,
) -> None:
    """Install a bundle from files, without a network."""
    from models.bundles import install

    settings = settings_from(data_dir)
    _installed(install(folder, settings.models_dir, gate_config=_gate_config(settings), say=_say))


@models.command("pull")
def pull_model(
    name: Bundle,
    repo: Annotated[
        str | None,
        typer.Option(
            envvar="HF_REPO", metavar="OWNER/NAME", help="Another repository with the same files."
        ),
    ] = None,
    endpoint: Annotated[
        str | None, typer.Option(envvar="HF_ENDPOINT", metavar="URL", help="A mirror of the hub.")
    ] = None,
    data_dir: DataDir = None,
) -> None:
    """Download a published model, check its checksums and install it."""
    from models.bundles import pull

    settings = settings_from(data_dir)
    _installed(
        pull(
            name,
            settings.models_dir,
            repo=repo,
            endpoint=endpoint,
            gate_config=_gate_config(settings),
            say=_say,
        )
    )


@models.command("verify")
def verify_models(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="A bundle.", show_default="all")
    ] = None,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """Check files against their checksums and models against their golden vectors."""
    from models.bundles import list_installed, verify

    models_dir = settings_from(data_dir).models_dir
    names = [name] if name else [one.name for one in list_installed(models_dir)]
    found = {one: verify(models_dir, one) for one in names}
    if as_json:
        print_json({one: [asdict(problem) for problem in found[one]] for one in names})
    else:
        for one in names:
            out.print(f"{one}: {'in order' if not found[one] else ''}")
            for problem in found[one]:
                out.print(f"  [red]{problem.code}[/] {escape(problem.detail)}")
    if any(found.values()):
        raise typer.Exit(Exit.FAILED)


@models.command("activate")
def activate_model(
    name: Bundle,
    force: Annotated[
        bool, typer.Option("--force", help="Switch even if the report says that it is worse.")
    ] = False,
    data_dir: DataDir = None,
) -> None:
    """Re-index the catalogue with a bundle here and now, then search in its space.

    The same as `resight reindex start` with a worker, and `resight reindex activate`: running
    services go on answering, and `resight reindex rollback` undoes it.
    """
    from indexer.media import MediaStore
    from indexer.spaces import activate
    from models.bundles import load_space, show

    settings = settings_from(data_dir)
    found = show(settings.models_dir, name)
    if found.manifest is None:
        raise Stop(f"The bundle {name} cannot be read; `resight models verify {name}` says why.")
    serving = load_space(
        settings.models_dir,
        found.manifest.fingerprint,
        device=settings.device,
        gate_config=_gate_config(settings),
        threads=settings.threads or None,
    )
    with opened_database(settings) as sessions, bar("embed") as step:
        failures = activate(
            sessions,
            MediaStore(settings.media_dir),
            serving,
            snapshots_dir=settings.snapshots_dir,
            force=force,
            progress=step,
        )
    for failure in failures:
        err.print(f"[yellow]not embedded:[/] {failure.item}: {escape(failure.detail)}")
    err.print(f"The catalogue is searched with {name} now.")


@models.command("refresh")
def refresh_gate(data_dir: DataDir = None) -> None:
    """Encode the gate's prompts anew after configs/gate.toml was changed."""
    from models.bundles import refresh_prompts

    settings = settings_from(data_dir)
    _installed(refresh_prompts(settings.models_dir, _gate_config(settings)))


@models.command("convert-pickled")
def convert_pickled(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", exists=True, dir_okay=False, help="The .pth file.")
    ],
    name: Annotated[str, typer.Option(help="The known model that it is.")] = "resnet101",
    trust: Annotated[
        bool, typer.Option("--i-trust-this-file", help="Needed: reading it runs code in it.")
    ] = False,
    data_dir: DataDir = None,
) -> None:
    """Turn a pickled whole module into a bundle. Reading such a file runs the code in it."""
    from models.bundles import convert_pickled_module

    if not trust:
        raise Stop(
            f"Reading {file.name} runs whatever code it holds. If you trust where it comes from, "
            "say so with --i-trust-this-file.",
            Exit.USAGE,
        )
    settings = settings_from(data_dir)
    _installed(convert_pickled_module(file, settings.models_dir, name=name, say=_say))


@gate.command("show")
def show_gate(as_json: AsJson = False, data_dir: DataDir = None) -> None:
    """Which gate is configured, whether it is installed, its threshold and prompts."""
    from models.bundles import list_installed
    from models.clip import GateConfig

    settings = settings_from(data_dir)
    config = GateConfig.load(_gate_config(settings))
    there = config.bundle in {one.name for one in list_installed(settings.models_dir)}
    if as_json:
        print_json({"installed": there, "config": str(_gate_config(settings))} | asdict(config))
        return
    state = "installed" if there else f"not installed: resight models pull {config.bundle}"
    out.print(f"{config.bundle}  ({state})")
    out.print(f"threshold {config.threshold:.2f}, from {_gate_config(settings)}")
    for sign, prompts in (("+", config.positive), ("-", config.negative)):
        for prompt in prompts:
            out.print(f"  {sign} {escape(prompt)}")


@gate.command("calibrate")
def calibrate_gate(
    manifest: Annotated[
        Path | None,
        typer.Option(
            "--data",
            metavar="MANIFEST",
            exists=True,
            dir_okay=False,
            help="A CSV with the columns path,label (positive or negative).",
        ),
    ] = None,
    from_reviews: Annotated[
        bool,
        typer.Option(
            "--from-reviews",
            help="What people found on the photos that this gate judged: no animal, or one.",
        ),
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show it, write nothing.")] = False,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """Choose the threshold on labelled photos and write it with what it achieves."""
    from models.calibration import calibrate
    from models.calibration import write_calibration as write

    if (manifest is None) != from_reviews:
        raise Stop("Give either --data MANIFEST or --from-reviews.", Exit.USAGE)
    settings = settings_from(data_dir)
    scores, labels = _scored(settings, manifest) if manifest else _reviewed(settings)
    chosen = calibrate(scores, labels)
    if not dry_run:
        write(_gate_config(settings), chosen, manifest.name if manifest else "reviews")
        err.print(f"Written to {_gate_config(settings)}; restart running services.")
    if as_json:
        print_json(asdict(chosen))
        return
    out.print(
        f"threshold {chosen.threshold:.2f}: TPR {chosen.true_positive_rate:.3f}, "
        f"TNR {chosen.true_negative_rate:.3f}, AUC {chosen.auc:.3f} "
        f"({chosen.positives} positives, {chosen.negatives} negatives)"
    )


def _scored(settings: Settings, manifest: Path) -> tuple[list[float], list[bool]]:
    from models.calibration import Skipped, read_manifest, score_manifest

    entries = read_manifest(manifest)
    clip = _clip_gate(settings)
    scores: list[float] = []
    labels: list[bool] = []
    with bar("score") as step:
        results = score_manifest(entries, lambda photo: float(clip.scores([photo])[0]))
        for done, result in enumerate(results, start=1):
            step(done, len(entries))
            if isinstance(result, Skipped):
                err.print(f"left out: {escape(result.path)}: {escape(result.detail)}")
            else:
                scores.append(result[0])
                labels.append(result[1])
    return scores, labels


def _reviewed(settings: Settings) -> tuple[list[float], list[bool]]:
    """Scores that this gate gave, and what people said of those photos."""
    from db.queries.reviews import gate_verdicts

    model = _clip_gate(settings).model
    with opened_database(settings) as sessions, sessions() as session:
        verdicts = gate_verdicts(session, model)
    return [one.score for one in verdicts], [one.usable for one in verdicts]


def _gate_config(settings: Settings) -> Path:
    from models.recipes import GATE_CONFIG

    return settings.gate_config or GATE_CONFIG


def _clip_gate(settings: Settings) -> ClipGate:
    """The real gate.

    Raises:
        Stop: it is not installed; the starter's own gate has no threshold to choose.
    """
    from models.bundles import load_serving
    from models.clip import ClipGate

    serving = load_serving(
        settings.models_dir, device=settings.device, gate_config=_gate_config(settings)
    )
    clip = serving.gate
    if not isinstance(clip, ClipGate):
        raise Stop(
            "The gate is not installed, so there are no scores to choose a threshold from: "
            "`resight gate show` says what to pull."
        )
    return clip


def _described(one: Installed) -> dict[str, Any]:
    fields: dict[str, Any] = {"name": one.name, "path": str(one.path), "size": one.size}
    if one.problem is not None:
        fields["problem"] = one.problem.detail
    if one.manifest is not None:
        manifest = asdict(one.manifest)
        digests = {name: file["sha256"] for name, file in manifest.pop("files").items()}
        fields |= manifest | {"files": digests}
    return fields


def _say(line: str) -> None:
    err.print(f"[dim]{escape(line)} …[/]")


def _installed(one: Installed) -> None:
    if one.problem is not None:
        raise Stop(one.problem.detail)
    err.print(f"{one.name} is installed in {one.path}.")
    if one.manifest is not None and one.manifest.kind == "embedder":
        err.print(f"`resight reindex start {one.name}` moves the catalogue to it.")
