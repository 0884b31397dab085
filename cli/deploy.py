"""deploy: one checkpoint and scans -> the fastest artifact that holds its gate, in a release with what lost and why."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from medattn_edge import gates
from medattn_edge.errors import MissingDependency, UsageError

from . import console
from .deploy_text import tell_deployment, tell_plan
from .expected import fitted_to, note_assumptions
from .options import (
    JudgeLabelsOption,
    LabelValueOption,
    MaxTrueDiceShareOption,
    MinTrueDiceShareOption,
    parse_names,
    parse_settings,
    parse_sizes,
    scans_of,
    source_options,
)
from .renamed import renamed
from .spec_options import SpecOptions, note_spec_assumptions, settings_of_file, with_spec_options

if TYPE_CHECKING:
    from medattn_edge.deploy import DeployRecipe, DeploySource

Option = typer.Option


def command(  # noqa: PLR0913
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint, or whatever else export takes.")],
    scans: Annotated[
        list[Path] | None,
        typer.Argument(metavar="SCAN...", help="Real scans, or DICOM folders; of several channels T1+T2+..."),
    ] = None,
    output: Annotated[
        Path | None, Option("--output", "-o", metavar="DIR|FILE.zip", help="The release; nothing may be there yet.")
    ] = None,
    target: Annotated[
        Literal["cpu", "tensorrt", "tensorrt-rtx", "jetson"] | None, Option(help="What will run it; cpu.")
    ] = None,
    held_out: Annotated[
        list[Path] | None,
        Option("--held-out", metavar="SCAN", help="To judge on; repeat it. By default the last scan, or a part."),
    ] = None,
    labels: Annotated[
        list[Path] | None,
        Option("--labels", help="True labels of each scan to judge on, in order: the gate then holds both thresholds."),
    ] = None,
    label_value: LabelValueOption = None,
    judge_labels: JudgeLabelsOption = "",
    expect: Annotated[
        list[Path] | None,
        Option("--expect", metavar="CASE.npz", help="`image` and `logits` of the owner's code, to be held to first."),
    ] = None,
    spec: Annotated[
        Path | None, Option("--spec", metavar="SPEC.json", help="Foreign checkpoint: its spec, as for export.")
    ] = None,
    network: Annotated[str | None, Option("--network", help="Insist on this network, as for export.")] = None,
    set_: Annotated[
        list[str] | None, Option("--set", metavar="KEY=VALUE", help="Foreign checkpoint: align_corners=true, ...")
    ] = None,
    weights: Annotated[
        str | None, Option("--weights", metavar="KEY", help="Foreign checkpoint: which of several sets of weights.")
    ] = None,
    patch: Annotated[str, Option("--patch", metavar="[DX]HXW", help="Input size; the spec's by default.")] = "",
    batch: Annotated[
        int | None, Option("--batch", min=1, help="Patches per run; by default tuned for a CPU: 1, 2 or 4.")
    ] = None,
    overlap: Annotated[
        float | None,
        Option("--overlap", help="Of neighbouring windows, 0 to below 1; by default tuned for a CPU: 0.5 or less."),
    ] = None,
    min_dice: Annotated[
        float | None,
        Option(
            "--min-dice",
            min=0,
            max=1,
            help="Dice with the reference (FP32), every label, of every candidate; "
            f"{gates.COMPARED.limits['min_dice']:g} ({gates.FP16.limits['min_dice']:g} of FP16), with --labels "
            f"{gates.TRUE_LABELS.limits['min_dice']:g}.",
        ),
    ] = None,
    min_true_dice_share: MinTrueDiceShareOption = None,
    max_true_dice_share: MaxTrueDiceShareOption = None,
    min_dice_ratio: Annotated[str | None, renamed("--min-dice-ratio", "--min-true-dice-share")] = None,
    deadline_ms: Annotated[
        float | None, Option("--deadline-ms", metavar="MS", help="What 99 of 100 runs may take at most.")
    ] = None,
    candidate: Annotated[
        list[str] | None, Option("--candidate", metavar="NAME", help="The only files to choose from; --dry-run lists.")
    ] = None,
    compute_capability: Annotated[
        str, Option("--compute-capability", metavar="smXX,smYY", help="GPUs to build for; by default this host's.")
    ] = "",
    method: Annotated[
        Literal["minmax", "percentile", "entropy"] | None, Option(help="How ranges come from what was seen; minmax.")
    ] = None,
    samples: Annotated[int | None, Option("--samples", min=1, help="Patches to calibrate on; 32.")] = None,
    held_out_samples: Annotated[
        int | None, Option("--held-out-samples", min=1, help="Patches that a quantizer is judged on; 16.")
    ] = None,
    max_trials: Annotated[
        int | None, Option("--max-trials", min=1, help="Quantised graphs to judge at most, of each quantizer; 32.")
    ] = None,
    seed: Annotated[int | None, Option("--seed", min=0, help="Of the choice of patches.")] = None,
    isa: Annotated[
        Literal["x86-vnni", "x86", "arm"] | None, Option(help="The CPU that will run it; by default this host's.")
    ] = None,
    threads: Annotated[
        int | None, Option("--threads", min=0, help="Of the CPU; 0 is one for each core that this process may use.")
    ] = None,
    duration: Annotated[
        float | None, Option("--duration", min=0, help="Of the timing, in s for each candidate; 5.")
    ] = None,
    tune_duration: Annotated[
        float | None, Option("--tune-duration", metavar="S", min=0, help="Of tuning the rewrites; 120.")
    ] = None,
    report: Annotated[
        bool | None,
        Option("--report/--no-report", help="The evidence of the chosen file, as report.html; with it by default."),
    ] = None,
    name: Annotated[str | None, Option("--name", help="Of the release; by default from the checkpoint's.")] = None,
    release_version: Annotated[
        int | None, Option("--release-version", min=1, metavar="N", help="Larger than that of the release before; 1.")
    ] = None,
    key: Annotated[
        Path | None, Option("--key", metavar="KEY", help="Sign with the private key that `release keygen` wrote.")
    ] = None,
    config: Annotated[
        Path | None, Option("--config", metavar="deploy.toml", help="A recipe; options come before what it says.")
    ] = None,
    dump_config: Annotated[bool, Option("--dump-config", help="Print the recipe as TOML, and end.")] = False,
    dry_run: Annotated[bool, Option("--dry-run", help="Print the plan; write nothing.")] = False,
    json: Annotated[bool, Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """Make a release of the fastest artifact that holds every threshold, and say what lost and why.

    The checkpoint is exported, rounded or quantised by all that is installed, compiled, tuned, held to its own answer
    on scans held out, and timed. Thresholds are written down first and stored with the release, and so is deploy.toml,
    which makes the same release again. Ended at any time, the same command goes on where it stood: OUTPUT.deploy keeps
    what was done. Exit code 1, and no release, when nothing holds.
    """
    recipe = _recipe(
        config,
        {
            "target": target,
            "candidates": tuple(candidate or ()),
            "batch": batch,
            "overlap": overlap,
            "patch": parse_sizes(patch) if patch else (),
            "network": network,
            "weights": weights,
            "settings": tuple(set_ or ()),
            "tune_duration_s": tune_duration,
            "compute_capabilities": parse_names(compute_capability),
            "method": method,
            "samples": samples,
            "held_out_samples": held_out_samples,
            "max_trials": max_trials,
            "seed": seed,
            "isa": isa,
            "min_dice": min_dice,
            "min_true_dice_share": min_true_dice_share,
            "max_true_dice_share": max_true_dice_share,
            "judge_labels": parse_names(judge_labels),
            "label_values": tuple(label_value or ()),
            "deadline_ms": deadline_ms,
            "threads": threads,
            "duration_s": duration,
            "report": report,
            "name": name,
            "release_version": release_version,
        },
    )
    if dump_config:
        sys.stdout.write(recipe.to_toml())
        return
    if output is None:
        raise UsageError("no output", expected="a folder or a .zip for the release", hint="-o release")
    from medattn_edge.deploy import DeployInputs, check_output, deploy, plan_deployment

    check_output(output)
    private = _private_key(key)
    source = _source(checkpoint, recipe, expect or [], spec)
    inputs = DeployInputs.of(source, scans_of(scans), scans_of(held_out), labels or (), expect or ())
    _check_labels(recipe, bool(labels))
    plan = plan_deployment(inputs, recipe)
    if dry_run:
        console.print_json(plan.to_json()) if json else tell_plan(plan)
        return
    for text in plan.assumptions:
        console.note(f"assumed: {text}", level=0)
    try:
        with console.stages() as progress:
            deployment = deploy(plan, output, key=private, progress=progress, say=console.note)
    except BaseException:
        _note_what_stays(output)
        raise
    if json:
        console.print_json(deployment.to_json())
    else:
        tell_deployment(deployment)
    if deployment.release is None:
        raise typer.Exit(1)


def _recipe(config: Path | None, options: dict[str, Any]) -> DeployRecipe:
    """The recipe of a file, or the usual one, with what was typed in the place of what it says."""
    from dataclasses import replace

    try:
        from medattn_edge.deploy import DeployRecipe
    except ImportError as error:
        raise MissingDependency.of_extra(str(error.name), "deploy") from error
    recipe = DeployRecipe() if config is None else DeployRecipe.read(config)
    return replace(recipe, **{name: value for name, value in options.items() if value not in (None, (), "")})


def _note_what_stays(output: Path) -> None:
    """Where a deployment that was ended goes on from."""
    from medattn_edge.deploy.work_folder import WorkFolder

    work = WorkFolder.beside(output).path
    if work.is_dir():
        console.note(f"what was done stays in {work}: the same command goes on from there")


def _private_key(key: Path | None) -> Any:
    """The key that signs, read before the work; None for none."""
    if key is None:
        return None
    from medattn_edge.release import load_private_key

    return load_private_key(key)


def _check_labels(recipe: DeployRecipe, labelled: bool) -> None:
    """What is asked of true labels that are not there is asked by mistake."""
    for option, value in (
        ("--label-value", recipe.label_values),
        ("--min-true-dice-share", recipe.min_true_dice_share),
        ("--max-true-dice-share", recipe.max_true_dice_share),
    ):
        if value not in (None, ()) and not labelled:
            raise UsageError(f"{option} without --labels", expected="true labels to judge by", hint="--labels FILE")


def _source(path: Path, recipe: DeployRecipe, expect: list[Path], spec: Path | None) -> DeploySource:
    """The network, read as `export` reads it and held to its owner's answer; what is assumed is said."""
    try:
        from medattn_edge.bundles import kind_of_folder, read_folder
        from medattn_edge.deploy import DeploySource
        from medattn_edge.exporters import ExportSettings
        from medattn_edge.foreign import ForeignNetwork, is_foreign, read_foreign
        from medattn_edge.models import checkpoint as checkpoints
    except ImportError as error:
        raise MissingDependency.of_extra(str(error.name), "export") from error
    config, sizes = parse_settings(recipe.settings), recipe.patch or None
    given = SpecOptions({"--patch": "x".join(map(str, recipe.patch))}, file=spec)
    loaded: Any
    if path.is_dir() and kind_of_folder(path):
        if recipe.network or recipe.settings or recipe.weights:
            raise UsageError(
                f"--network, --set or --weights for the folder {path.name}",
                expected="its own definition",
                hint="leave them out",
            )
        read = read_folder(path)
        for text in read.assumptions:
            console.note(f"assumed: {text}", level=0)
        loaded = read.checkpoint
    elif is_foreign(path, recipe.network):
        own = recipe.network if ":" in recipe.network else ""
        settings = ExportSettings(recipe.first_batch, recipe.opset)
        loaded = read_foreign(path, network=own, patch=sizes, output="", config=config, settings=settings)
    else:
        config = {**settings_of_file(given), **config}
        loaded = checkpoints.load(path, network=recipe.network or None, config=config, weights=recipe.weights or None)
        for remark in loaded.remarks:
            console.note(remark)
    if expect:
        if isinstance(loaded, ForeignNetwork):
            raise UsageError(
                f"--expect for a network from elsewhere ({loaded.layout})",
                expected="a checkpoint, whose settings are open; such a file is its own reference",
                hint="leave --expect out",
            )
        with console.timed("held to what its owner expects"):
            loaded = fitted_to(loaded, expect, 300)
    if not isinstance(loaded, ForeignNetwork):
        note_assumptions(loaded)
    loaded = with_spec_options(loaded, given)
    note_spec_assumptions(loaded)
    if not isinstance(loaded, ForeignNetwork):
        loaded.network.check_shape(loaded.spec.patch)
    options = source_options(recipe.network, "", recipe.settings, recipe.weights, "")
    return DeploySource(path, loaded, options)
