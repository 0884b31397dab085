"""export: checkpoint -> artifact that agrees with it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medattn_edge import gates
from medattn_edge.errors import MissingDependency, UsageError
from medattn_edge.spec import Intensity, ModelSpec

from . import console
from .options import parse_settings, parse_sizes, parse_spacing
from .rewrites import chosen, note_without_effect, show_plan

if TYPE_CHECKING:
    from medattn_edge.artifact import Artifact
    from medattn_edge.foreign import ForeignNetwork
    from medattn_edge.models.checkpoint import Checkpoint
    from medattn_edge.rewrites import Rewritten

Option = typer.Option


def command(  # noqa: PLR0913
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint, or an ONNX, TorchScript or torch.export file.")],
    output: Annotated[
        Path, Option("--output", "-o", help="NAME.onnx or NAME.torchscript; its manifest is NAME.*.json.")
    ],
    patch: Annotated[str, Option("--patch", metavar="[DX]HXW", help="Input size; the spec's by default.")] = "",
    batch: Annotated[str, Option("--batch", metavar="N|dynamic", help="Patches per run.")] = "1",
    opset: Annotated[int, Option("--opset", min=18, max=24, help="ONNX operator set.")] = 18,
    precision: Annotated[str, Option("--precision", help="fp32, or fp16 with FP32 islands; ONNX only.")] = "fp32",
    gate: Annotated[
        float, Option("--gate", min=0, max=1, help="Minimum Dice of every label in fp16 with that in fp32.")
    ] = gates.FP16.limits["min_dice"],
    attention: Annotated[bool, Option("--attention", help="Add the attention maps as a second output.")] = False,
    no_rewrites: Annotated[bool, Option("--no-rewrites", help="Fold BatchNorms, and rewrite nothing else.")] = False,
    rewrite: Annotated[
        list[str] | None,
        Option("--rewrite", metavar="NAME", help="Add a rewrite, or with -NAME leave one out; repeat it."),
    ] = None,
    scan: Annotated[list[Path] | None, Option("--scan", help="Real input for the check; repeat it.")] = None,
    samples: Annotated[
        int | None, Option("--samples", min=1, help="Patches per scan for the check; 2, or 8 with --precision fp16.")
    ] = None,
    network: Annotated[
        str, Option("--network", help="Insist on this network, or package.module:build of your own, which is run.")
    ] = "",
    output_name: Annotated[str, Option("--output-name", help="Network from elsewhere: which output is logits.")] = "",
    set_: Annotated[
        list[str] | None, Option("--set", metavar="KEY=VALUE", help="Foreign checkpoint: align_corners=true, ...")
    ] = None,
    labels: Annotated[str, Option("--labels", help="Foreign checkpoint: names, background first, with commas.")] = "",
    intensity: Annotated[
        str, Option("--intensity", help="Foreign checkpoint: window:LOW:HIGH, zscore[:slice], minmax[:slice], none.")
    ] = "",
    spacing: Annotated[str, Option("--spacing", metavar="[ZX]YXX", help="Foreign checkpoint: mm of its input.")] = "",
    axes: Annotated[str, Option("--axes", help="Foreign checkpoint: axis order of its input, such as WHD.")] = "",
    json: Annotated[bool, Option("--json", help="One JSON document on stdout.")] = False,
    no_fuse: Annotated[bool, Option("--no-fuse", hidden=True)] = False,
) -> None:
    """Export a checkpoint, or a network from elsewhere, to ONNX or TorchScript.

    The network is first rewritten to the same function with less work; the plan is printed. Nothing is written unless
    the exported network agrees with the checkpoint's own on real and random input: --scan, or the CT that slicerio
    ships. With --precision fp16 that input also says which tensors come near the end of half precision: they stay FP32.
    """
    if no_fuse:
        raise UsageError("--no-fuse, which has another name now", expected="--no-rewrites", hint="--no-rewrites")
    try:
        from medattn_edge.exporters import ExportSettings, exporter_of
        from medattn_edge.foreign import ForeignNetwork, is_foreign, read_foreign
        from medattn_edge.models import checkpoint as checkpoints
        from medattn_edge.precision.export import SAMPLES, check_precision, export
        from medattn_edge.rewrites import rewrite as rewritten_from
    except ImportError as error:
        raise MissingDependency.of_extra(str(error.name), "export") from error
    from medattn_edge.inference.real_patches import real_patches

    exporter = exporter_of(output)
    check_precision(precision, output)
    settings = ExportSettings(batch_of(batch), opset, attention)
    config = parse_settings(set_ or [])
    loaded: Checkpoint | ForeignNetwork
    with console.timed("loaded"):
        if is_foreign(checkpoint, network):
            own, sizes = network if ":" in network else "", parse_sizes(patch) if patch else None
            loaded = read_foreign(
                checkpoint, network=own, patch=sizes, output=output_name, config=config, settings=settings
            )
        else:
            loaded = checkpoints.load(checkpoint, network=network or None, config=config)
    options = {"--labels": labels, "--intensity": intensity, "--spacing": spacing, "--axes": axes}
    spec = spec_of(loaded, patch, {name: value for name, value in options.items() if value})
    if not isinstance(loaded, ForeignNetwork):
        loaded.network.check_shape(spec.patch)
    loaded = loaded.with_spec(spec)
    names = chosen(exporter.name, spec, rewrite or [], no_rewrites)
    real = real_patches(spec, scan or [], samples or SAMPLES[precision])
    console.note(f"exporting {spec.network} for {'x'.join(map(str, spec.patch))} in {precision}")
    rewritten: Rewritten | ForeignNetwork
    if isinstance(loaded, ForeignNetwork):
        rewritten = loaded
        _note_foreign(loaded, rewrite or [])
    else:
        with console.timed("rewritten"):
            rewritten = rewritten_from(loaded, names)
        note_without_effect(rewritten, rewrite or [])
    thresholds = replace(gates.FP16.thresholds, min_dice=gate) if precision == "fp16" else None
    with console.timed("exported and checked"):
        artifact = export(rewritten, output, precision=precision, samples=real, settings=settings, gate=thresholds)
    if json:
        console.print_json({"artifact": str(output), **artifact.manifest.to_json()})
    else:
        if not isinstance(rewritten, ForeignNetwork):
            show_plan(rewritten)
        _show(artifact)


def _note_foreign(loaded: ForeignNetwork, rewrites: list[str]) -> None:
    """Say what was done to a network from elsewhere; rewrites know modules, which its file does not have."""
    if rewrites:
        raise UsageError(
            f"--rewrite {rewrites[0]} for a network without modules ({loaded.layout})",
            expected="rewrites for checkpoints, or for --network package.module:build",
            hint="leave --rewrite out; BatchNorms are folded anyway",
        )
    for text in loaded.notes:
        console.note(text)


def spec_of(loaded: Checkpoint | ForeignNetwork, patch: str, options: dict[str, str]) -> ModelSpec:
    """The checkpoint's spec with what the user said; only of a foreign one may that be more than the patch."""
    if options and not loaded.foreign:
        raise UsageError(
            f"{', '.join(options)} for a checkpoint that carries its own spec",
            expected="these options only for foreign checkpoints",
            hint="medattn-edge inspect CHECKPOINT",
        )
    changes: dict[str, Any] = {}
    if patch:
        changes["patch"] = parse_sizes(patch)
    if "--labels" in options:
        changes["labels"] = tuple(options["--labels"].split(","))
    if "--intensity" in options:
        changes["intensity"] = Intensity.parse(options["--intensity"])
    if "--spacing" in options:
        changes["spacing"] = parse_spacing(options["--spacing"])
    if "--axes" in options:
        changes["axes"] = options["--axes"].upper()
    spec = replace(loaded.spec, **changes)
    if loaded.foreign:
        assumed = {
            "--labels": ",".join(spec.labels),
            "--intensity": str(spec.intensity),
            "--axes": spec.axes,
            "--spacing": "none: as scanned",
        }
        guesses = [f"{name} {value}" for name, value in assumed.items() if name not in options]
        console.note(f"the checkpoint ({loaded.layout}) says nothing of its input; assumed: {'; '.join(guesses)}")
    return spec


def batch_of(text: str) -> int | None:
    """The fixed batch, None for `dynamic`; raises UsageError for what is neither."""
    if text == "dynamic":
        return None
    if not text.isdigit() or int(text) < 1:
        raise UsageError(f"the batch {text!r}", expected="a number of at least 1, or dynamic", hint="--batch dynamic")
    return int(text)


def _show(artifact: Artifact) -> None:
    from rich.table import Table

    manifest = artifact.manifest
    size = artifact.path.stat().st_size / 1e6
    console.say(
        f"{artifact.path}: {size:.1f} MB, {manifest.parameters:,} parameters, {manifest.gflop:.2f} GFLOP a patch"
    )
    if manifest.recipe.get("islands"):
        console.say(f"{len(manifest.recipe['islands'])} of its nodes stay FP32: medattn-edge inspect {artifact.path}")
    title = "exported = eager" if manifest.precision == "fp32" else f"{manifest.precision} against fp32"
    table = Table("checked on", "patches", "SQNR dB", "largest difference", "label match", "minimum Dice", title=title)
    emulated = [{**case, "input": f"{case['input']}, emulated"} for case in manifest.recipe.get("emulated", ())]
    for case in (*manifest.agreement, *emulated):
        table.add_row(
            case["input"],
            str(case["patches"]),
            f"{case['sqnr_db']:.1f}",
            f"{case['max_abs']:.2g}",
            f"{case['label_match']:.6f}",
            f"{min(case['dice'].values(), default=1.0):.6f}",
        )
    console.show(table)
    console.note(f"next: medattn-edge infer {artifact.path} SCAN -o labels.nii.gz")
