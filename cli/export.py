"""export: checkpoint -> artifact that agrees with it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medattn_edge import gates
from medattn_edge.errors import MissingDependency, UsageError, quoted
from medattn_edge.spec import modalities_of

from . import console
from .agreement_text import agreement_table
from .expected import fitted_to, fitted_to_scan, note_assumptions
from .fp64_text import fp64_lines
from .options import (
    GeometryOption,
    ResampleOption,
    VolumeOption,
    check_choice,
    note_scans,
    parse_settings,
    parse_sizes,
    scans_of,
)
from .renamed import renamed_flag
from .rewrites import chosen, note_without_effect, show_plan
from .spec_options import SpecOptions, note_spec_assumptions, settings_of_file, with_spec_options

if TYPE_CHECKING:
    from medattn_edge.artifact import Artifact
    from medattn_edge.foreign import ForeignNetwork
    from medattn_edge.models.checkpoint import Checkpoint
    from medattn_edge.rewrites import Rewritten

Option = typer.Option


def command(  # noqa: PLR0913
    checkpoint: Annotated[
        Path,
        typer.Argument(
            help="A checkpoint; an ONNX, TorchScript or torch.export file; a MONAI bundle; nnU-Net's results."
        ),
    ],
    output: Annotated[
        Path, Option("--output", "-o", help="NAME.onnx or NAME.torchscript; its manifest is NAME.*.json.")
    ],
    patch: Annotated[str, Option("--patch", metavar="[DX]HXW", help="Input size; the spec's by default.")] = "",
    batch: Annotated[str, Option("--batch", metavar="N|dynamic", help="Patches per run.")] = "1",
    opset: Annotated[int, Option("--opset", min=18, max=24, help="ONNX operator set.")] = 18,
    precision: Annotated[str, Option("--precision", help="fp32, or fp16 with FP32 islands; ONNX only.")] = "fp32",
    gate: Annotated[
        float, Option("--gate", min=0, max=1, help="Of fp16: Dice with the reference (FP32), every label.")
    ] = gates.FP16.limits["min_dice"],
    attention: Annotated[bool, Option("--attention", help="Add the attention maps as a second output.")] = False,
    no_rewrites: Annotated[bool, Option("--no-rewrites", help="Fold BatchNorms, and rewrite nothing else.")] = False,
    rewrite: Annotated[
        list[str] | None,
        Option("--rewrite", metavar="NAME", help="Add a rewrite, or with -NAME leave one out; repeat it."),
    ] = None,
    scan: Annotated[list[Path] | None, Option("--scan", help="Real input for the check; repeat it.")] = None,
    resample_to_first: ResampleOption = False,
    geometry: GeometryOption = None,
    volume_number: VolumeOption = 0,
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
    weights: Annotated[
        str, Option("--weights", metavar="KEY", help="Foreign checkpoint: which of several sets of weights.")
    ] = "",
    expect: Annotated[
        list[Path] | None,
        Option(
            "--expect",
            metavar="CASE.npz",
            help="Foreign checkpoint: `image` and `logits` of its owner's code; what the file leaves open is searched.",
        ),
    ] = None,
    expect_limit: Annotated[
        int, Option("--expect-limit", min=1, help="Combinations of settings to try with --expect.")
    ] = 300,
    expect_image: Annotated[str, Option("--expect-image", help="Name of the input in CASE.npz.")] = "image",
    expect_logits: Annotated[str, Option("--expect-logits", help="Name of the output in CASE.npz.")] = "logits",
    expect_scan: Annotated[
        tuple[Path, Path] | None,
        Option(
            "--expect-scan",
            metavar="SCAN RESULT",
            help="Foreign checkpoint: its owner's labels or probabilities of a scan; orientation, axes, intensity and "
            "activation are searched where no option gives them.",
        ),
    ] = None,
    expect_scan_limit: Annotated[
        str, Option("--expect-scan-limit", metavar="RUNS|SECONDSs", help="Of --expect-scan: 2000 runs by default.")
    ] = "",
    spec: Annotated[
        Path | None, Option("--spec", metavar="SPEC.json", help="Foreign checkpoint: its spec; options override it.")
    ] = None,
    labels: Annotated[
        str, Option("--labels", help="Foreign checkpoint: names with commas, background first unless sigmoid.")
    ] = "",
    first_label_is_background: Annotated[
        bool, Option("--first-label-is-background", help="Take the first of --labels for it, whatever its name.")
    ] = False,
    activation: Annotated[
        str, Option("--activation", help="Foreign checkpoint: softmax, or sigmoid for regions that may overlap.")
    ] = "",
    region_order: Annotated[
        str, Option("--region-order", metavar="WT,TC,ET", help="Regions in one label map, later over earlier.")
    ] = "",
    intensity: Annotated[
        str,
        Option(
            "--intensity",
            metavar="CHAIN",
            help="Foreign checkpoint: window:LOW:HIGH, zscore[:nonzero], none, or steps such as "
            "clip:-1000:400,map:-1000:400:0:1; one chain for each channel with semicolons.",
        ),
    ] = "",
    spacing: Annotated[
        str, Option("--spacing", metavar="[ZX]YXX", help="Foreign checkpoint: mm of its input, or none: as scanned.")
    ] = "",
    orientation: Annotated[
        str, Option("--orientation", metavar="RAS", help="Foreign checkpoint: where W, H and D run to.")
    ] = "",
    plane: Annotated[str, Option("--plane", help="Foreign 2-D checkpoint: axial, coronal or sagittal slices.")] = "",
    axes: Annotated[str, Option("--axes", help="Foreign checkpoint: axis order of its input, such as WHD.")] = "",
    after: Annotated[
        list[str] | None,
        Option("--after", metavar="largest:LABEL", help="Clean labels: also drop-below:NAME:ML, fill-holes:NAME."),
    ] = None,
    mirror: Annotated[
        str, Option("--mirror", metavar="HW", help="Average over mirrored axes; each doubles the work.")
    ] = "",
    modality: Annotated[str, Option("--modality", metavar="CT", help="DICOM's name of what it was trained on.")] = "",
    body_part: Annotated[str, Option("--body-part", help="As DICOM's BodyPartExamined says it.")] = "",
    channels: Annotated[
        str, Option("--channels", metavar="t1,t2,...", help="Names of the input channels, in order.")
    ] = "",
    fold: Annotated[str, Option("--fold", help="nnU-Net: 0 to 4, or all; the only one by default.")] = "",
    json: Annotated[bool, Option("--json", help="One JSON document on stdout.")] = False,
    no_fuse: Annotated[bool, renamed_flag("--no-fuse", "--no-rewrites")] = False,
) -> None:
    """Export a checkpoint, or a network from elsewhere, to ONNX or TorchScript.

    The network is first rewritten to the same function with less work; the plan is printed. Nothing is written unless
    the exported network agrees with the checkpoint's own on real and random input: --scan, or the CT that slicerio
    ships. With --precision fp16 that input also says which tensors come near the end of half precision: they stay FP32.
    """
    try:
        from medattn_edge.bundles import kind_of_folder
        from medattn_edge.exporters import ExportSettings, exporter_of
        from medattn_edge.foreign import ForeignNetwork, is_foreign, read_foreign
        from medattn_edge.models import checkpoint as checkpoints
        from medattn_edge.models.network import parameter_count
        from medattn_edge.precision.export import SAMPLES, check_precision, export
        from medattn_edge.rewrites import rewrite as rewritten_from
    except ImportError as error:
        raise MissingDependency.of_extra(str(error.name), "export") from error
    from medattn_edge.inference.real_patches import real_patches
    from medattn_edge.io import Scan

    given = SpecOptions(
        {
            "--patch": patch,
            "--labels": labels,
            "--activation": activation,
            "--region-order": region_order,
            "--intensity": intensity,
            "--spacing": spacing,
            "--orientation": orientation,
            "--plane": plane,
            "--axes": axes,
            "--mirror": mirror,
            "--modality": modality,
            "--body-part": body_part,
            "--channels": channels,
        },
        after or [],
        first_label_is_background,
        spec,
    )
    check_choice(geometry, volume_number, [*(scan or ()), *(expect_scan or ())], "--scan")
    exporter = exporter_of(output)
    check_precision(precision, output)
    settings = ExportSettings(batch_of(batch), opset, attention)
    config = parse_settings(set_ or [])
    loaded: Checkpoint | ForeignNetwork
    with console.timed("loaded"):
        folder = checkpoint.is_dir() and kind_of_folder(checkpoint)
        if fold and not folder:
            raise UsageError(
                f"--fold for {checkpoint.name}", expected="a folder of nnU-Net's results", hint="leave it out"
            )
        if folder:
            loaded = _of_folder(checkpoint, orientation, fold, bool(network or set_ or weights))
            given = given.without("--orientation")
        elif is_foreign(checkpoint, network):
            own, sizes = network if ":" in network else "", parse_sizes(patch) if patch else None
            loaded = read_foreign(
                checkpoint, network=own, patch=sizes, output=output_name, config=config, settings=settings
            )
        else:
            config = {**settings_of_file(given), **config}
            loaded = checkpoints.load(checkpoint, network=network or None, config=config, weights=weights or None)
    loaded = with_spec_options(_held_to(loaded, expect or [], expect_limit, (expect_image, expect_logits)), given)
    if expect_scan:
        if isinstance(loaded, ForeignNetwork):
            raise _without_settings("--expect-scan", loaded)
        with console.timed("held to its owner's result"):
            expected = Scan(expect_scan[0], geometry=geometry or "", volume=volume_number)
            loaded = fitted_to_scan(loaded, expected, expect_scan[1], expect_scan_limit, plane)
    note_spec_assumptions(loaded)
    facts = loaded.spec
    if not isinstance(loaded, ForeignNetwork):
        loaded.network.check_shape(facts.patch)
    names = chosen(exporter.name, facts, rewrite or [], no_rewrites)
    scans = scans_of(scan, resample_to_first, geometry, volume_number)
    real = real_patches(facts, scans, samples or SAMPLES[precision])
    note_scans(scans)
    if not scan and facts.modality and "CT" not in modalities_of(facts.modality):
        console.note(f"no --scan: checked on the CT that slicerio ships, and the network is one of {facts.modality}")
    console.note(f"exporting {facts.network} for {'x'.join(map(str, facts.patch))} in {precision}")
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
        _show(artifact, 0 if isinstance(loaded, ForeignNetwork) else parameter_count(loaded.network))


def _of_folder(folder: Path, orientation: str, fold: str, refused: bool) -> Checkpoint:
    """The network of another tool's folder; what is assumed is said."""
    from medattn_edge.bundles import read_folder

    if refused:
        raise UsageError(
            f"--network or --set for the folder {folder.name}", expected="its own definition", hint="leave them out"
        )
    read = read_folder(folder, orientation=orientation, fold=fold)
    for text in read.assumptions:
        console.note(f"assumed: {text}", level=0)
    return read.checkpoint


def _held_to(
    loaded: Checkpoint | ForeignNetwork, expect: list[Path], limit: int, names: tuple[str, str]
) -> Checkpoint | ForeignNetwork:
    """What was loaded, with what was done to get at it printed, and held to what its owner expects."""
    from medattn_edge.models.checkpoint import Checkpoint

    if not isinstance(loaded, Checkpoint):
        if expect:
            raise _without_settings("--expect", loaded)
        return loaded
    for remark in loaded.remarks:
        console.note(remark)
    if expect:
        with console.timed("held to what its owner expects"):
            loaded = fitted_to(loaded, expect, limit, names)
    note_assumptions(loaded)
    return loaded


def _without_settings(option: str, loaded: ForeignNetwork) -> UsageError:
    return UsageError(
        f"{option} for a network from elsewhere ({loaded.layout})",
        expected="a checkpoint, whose settings are open; such a file is its own reference",
        hint=f"leave {option} out",
    )


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


def batch_of(text: str) -> int | None:
    """The fixed batch, None for `dynamic`; raises UsageError for what is neither."""
    if text == "dynamic":
        return None
    if not text.isdigit() or int(text) < 1:
        raise UsageError(f"the batch {text!r}", expected="a number of at least 1, or dynamic", hint="--batch dynamic")
    return int(text)


def _show(artifact: Artifact, before: int) -> None:
    """Print what was written; before: parameters of the checkpoint, of which rewrites fold some and add others."""
    manifest = artifact.manifest
    size = artifact.path.stat().st_size / 1e6
    rewritten = f", rewritten from {before:,}" if before not in (0, manifest.parameters) else ""
    counts = f"{manifest.parameters:,} parameters{rewritten}"
    console.say(f"{artifact.path}: {size:.1f} MB, {counts}, {manifest.gflop:.2f} GFLOP a patch")
    if manifest.recipe.get("islands"):
        console.say(
            f"{len(manifest.recipe['islands'])} of its nodes stay FP32: medattn-edge inspect {quoted(artifact.path)}"
        )
    title = "exported = eager" if manifest.precision == "fp32" else f"{manifest.precision} against fp32"
    emulated = [{**case, "input": f"{case['input']}, emulated"} for case in manifest.recipe.get("emulated", ())]
    console.show(agreement_table(title, (*manifest.agreement, *emulated)))
    for line in fp64_lines(manifest.agreement):
        console.say(line)
    console.note(f"next: medattn-edge infer {quoted(artifact.path)} SCAN -o labels.nii.gz")
