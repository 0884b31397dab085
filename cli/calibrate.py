"""calibrate: an FP32 ONNX artifact and real scans -> an INT8 artifact that keeps the answer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from medattn_edge import gates
from medattn_edge.errors import quoted

from . import console
from .label_audit_text import note_label_audits
from .options import (
    GeometryOption,
    JudgeLabelsOption,
    LabelValueOption,
    MaxTrueDiceShareOption,
    MinTrueDiceShareOption,
    ResampleOption,
    ThreadsOption,
    VolumeOption,
    parse_names,
    scans_of,
)
from .renamed import renamed

if TYPE_CHECKING:
    from medattn_edge.artifact import Artifact

Option = typer.Option


def command(  # noqa: PLR0913
    artifact: Annotated[Path, typer.Argument(metavar="NET.onnx", help="An FP32 artifact, as export writes it.")],
    output: Annotated[Path, Option("--output", "-o", help="NAME.onnx (Q/DQ), or NAME.xml for OpenVINO only.")],
    profile: Annotated[
        Literal["cpu", "tensorrt"], Option(help="For ONNX Runtime and OpenVINO, or for TensorRT 10, 11 and RTX.")
    ],
    scans: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="SCAN...", help="Real scans, or DICOM folders, to calibrate on; of several channels T1+T2+..."
        ),
    ] = None,
    held_out: Annotated[
        list[Path] | None,
        Option("--held-out", metavar="SCAN", help="To judge on; repeat it. By default the last scan, or a part."),
    ] = None,
    labels: Annotated[
        list[Path] | None,
        Option("--labels", help="True labels of the scans to judge on: the gate then holds both thresholds."),
    ] = None,
    label_value: LabelValueOption = None,
    judge_labels: JudgeLabelsOption = "",
    resample_to_first: ResampleOption = False,
    geometry: GeometryOption = None,
    volume_number: VolumeOption = 0,
    method: Annotated[
        Literal["minmax", "percentile", "entropy"], Option(help="How ranges come from what was seen.")
    ] = "minmax",
    samples: Annotated[int, Option("--samples", min=1, help="Patches to calibrate on, half of them foreground.")] = 32,
    held_out_samples: Annotated[int, Option("--held-out-samples", min=1, help="Patches to judge on.")] = 16,
    gate: Annotated[
        float | None,
        Option(
            "--gate",
            min=0,
            max=1,
            help="Dice with the reference (FP32), every label, that the file must reach and carries from then on; "
            f"{gates.INT8.limits['min_dice']:g}, with --labels {gates.TRUE_LABELS.limits['min_dice']:g}.",
        ),
    ] = None,
    min_true_dice_share: MinTrueDiceShareOption = None,
    max_true_dice_share: MaxTrueDiceShareOption = None,
    min_dice_ratio: Annotated[str | None, renamed("--min-dice-ratio", "--min-true-dice-share")] = None,
    quantizer: Annotated[
        str, Option("--quantizer", help="nncf-onnx, nncf-openvino or onnxruntime; by default the best of all that fit.")
    ] = "",
    floating: Annotated[
        list[str] | None,
        Option(
            "--floating",
            metavar="MODULE",
            help="Keep the layers of a PyTorch module in floating point, as bisect names it; repeat it.",
        ),
    ] = None,
    door: Annotated[str | None, renamed("--door", "--quantizer")] = None,
    runtime: Annotated[
        Literal["onnxruntime", "openvino"] | None, Option(help="To judge and time in, for --profile cpu.")
    ] = None,
    isa: Annotated[
        Literal["x86-vnni", "x86", "arm"] | None, Option(help="The CPU that will run it; by default this host's.")
    ] = None,
    max_trials: Annotated[int, Option("--max-trials", min=1, help="Quantised graphs to judge at most.")] = 64,
    allow_random: Annotated[bool, Option("--allow-random", help="Calibrate on noise when there is no scan.")] = False,
    seed: Annotated[int, Option("--seed", min=0, help="Of the choice of patches.")] = 0,
    cache: Annotated[
        Path | None, Option("--cache", help="Folder of ranges and rankings; by default the user's.")
    ] = None,
    threads: ThreadsOption = 0,
    json: Annotated[bool, Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """Quantise to INT8; exit code 1, and no file, when the gate cannot be held."""
    from medattn_edge.inference.truth import parse_label_values
    from medattn_edge.precision import CalibrationSettings, calibrate
    from medattn_edge.precision.cache import Cache

    settings = CalibrationSettings(
        profile=profile,
        isa=isa or "",
        method=method,
        gate=gate,
        min_true_dice_share=min_true_dice_share,
        max_true_dice_share=max_true_dice_share,
        judge_labels=parse_names(judge_labels),
        quantizer=quantizer,
        floating=tuple(floating or ()),
        runtime=runtime or "",
        samples=samples,
        held_out_samples=held_out_samples,
        max_trials=max_trials,
        allow_random=allow_random,
        seed=seed,
        threads=threads,
    )
    with console.stages() as progress:
        quantised = calibrate(
            artifact,
            scans_of(scans, resample_to_first, geometry, volume_number),
            output,
            settings=settings,
            held_out=scans_of(held_out, resample_to_first, geometry, volume_number),
            labels=labels or [],
            label_values=parse_label_values(label_value or []),
            cache=None if cache is None else Cache(cache),
            progress=progress,
        )
    if json:
        console.print_json({"artifact": str(output), **quantised.manifest.to_json()})
    else:
        _show(quantised)


def _show(artifact: Artifact) -> None:
    from rich.table import Table

    from medattn_edge.file_gate import gate_text

    manifest = artifact.manifest
    recipe, (case,) = manifest.recipe, manifest.agreement
    labelled = any(row["true_dice_share"] for row in recipe["quantizers"])
    share = ["share of the reference's true Dice"] * labelled
    head = ("quantizer", "Dice with the reference", *share, "SQNR dB", "gate", "FP32 time / INT8 time")
    table = Table(*head, title="quantizers")
    for row in recipe["quantizers"]:
        ratio = "-" if row["ratio_to_fp32"] is None else f"{row['ratio_to_fp32']:.2f}"
        ratio = "declined" if row["ratio_declined"] else ratio
        holds = "holds" if row["holds"] else "fails"
        sqnr = "not finite" if row["sqnr_db"] is None else f"{row['sqnr_db']:.1f}"
        shares = [_shares(row["true_dice_share"])] * labelled
        table.add_row(row["quantizer"], f"{row['dice']:.6f}", *shares, sqnr, holds, ratio)
    console.show(table)
    size = artifact.path.stat().st_size + sum(
        artifact.path.with_suffix(one).stat().st_size for one in manifest.companions
    )
    console.say(
        f"{artifact.path}: {size / 1e6:.1f} MB, INT8 through {recipe['quantizer']}, after {recipe['trials']} trials"
    )
    _tell_speed(recipe["speed"])
    for name, packages in recipe["quantizers_not_installed"].items():
        console.note(
            f"not tried: the quantizer {name}: {', '.join(packages)} is not installed\n  next: {_install(name)}"
        )
    console.say(f"calibrated on {_counts(recipe['calibrated_on'])}; judged on {_counts(recipe['judged_on'])}")
    for note in recipe["scan_notes"]:
        console.note(note)
    note_label_audits(recipe["label_audits"])
    if recipe["unseen"]:
        console.note(f"not judged, as asked: {', '.join(recipe['unseen'])}")
    if recipe["floating"]:
        left = Table(
            "left in floating point",
            "operator",
            "Dice with the reference, it only",
            "SQNR dB, it only",
            title="what INT8 would lose",
        )
        for damage in recipe["floating"]:
            names = "\n".join(layer["module"] or layer["node"] for layer in damage["layers"])
            kinds = "\n".join(layer["operator"] for layer in damage["layers"])
            left.add_row(names, kinds, f"{damage['dice']:.6f}", f"{damage['sqnr_db']:.1f}")
        console.show(left)
    figures = [f"Dice with the reference, FP32: minimum of a label {min(case['dice'].values()):.6f}"]
    if "true_dice_share" in case:
        values = case["true_dice_share"].values()
        figures.append(f"share of the reference's true Dice {_shares([min(values), max(values)])}")
    console.say(f"{', '.join(figures)}, SQNR {case['sqnr_db']:.1f} dB")
    console.say(f"gate, held here and carried by the file: {gate_text(case['thresholds'])}")
    for finding in recipe["lint"]:
        console.note(f"lint: {finding['module'] or finding['node']}: {finding['reason']}", level=2)
    _advise(artifact)


def _advise(artifact: Artifact) -> None:
    recipe, path = artifact.manifest.recipe, artifact.path
    speed: dict[str, Any] | None = recipe["speed"]
    if recipe["profile"] == "tensorrt":
        console.note("its speed was not measured: that takes the GPU; FP16 may be as fast there")
        console.note(
            f"next: medattn-edge compile {quoted(path)} -o {quoted(path.stem + '.rtx')} --compute-capability sm86,sm89"
        )
        return
    busy = [row for row in recipe["quantizers"] if row["ratio_declined"]]
    if len(busy) and sum(row["holds"] for row in recipe["quantizers"]) > 1:
        console.say(f"which quantizer is faster rests on times of a busy host: {busy[0]['ratio_declined']}")
    if speed is not None and not speed["ratio_declined"] and speed["ratio_to_fp32"] < 1:
        console.say(
            f"INT8 is slower than FP32 in {speed['runtime']} here ({speed['ratio_to_fp32']:.2f} of its speed): "
            "deploy the FP32 file, or calibrate -o NAME.xml for OpenVINO"
        )
    console.note(f"next: medattn-edge compare CHECKPOINT {quoted(path)} SCAN")


def _tell_speed(speed: dict[str, Any] | None) -> None:
    """One run of the file that was written beside one of its FP32 parent, in turn."""
    if speed is None:
        return
    ratio = f"how many times as fast was declined: {speed['ratio_declined']}"
    if not speed["ratio_declined"]:
        ratio = f"{speed['ratio_to_fp32']:.2f} times as fast ({speed['low']:.2f} to {speed['high']:.2f})"
    console.say(
        f"one run in {speed['runtime']}: {speed['p50_ms']:.3g} ms, of its FP32 parent {speed['fp32_p50_ms']:.3g} ms, "
        f"in turn: {ratio}"
    )


def _install(name: str) -> str:
    """The line that installs a quantizer."""
    from medattn_edge.precision.quantizers.quantizer import quantizers

    return quantizers()[name].install_hint


def _shares(bounds: list[float | None] | None) -> str:
    """The smallest and the largest share."""
    if bounds is None:
        return "-"
    return " to ".join("none" if one is None else f"{one:.6f}" for one in bounds)


def _counts(report: dict[str, int]) -> str:
    return ", ".join(f"{count} patches of {name}" for name, count in report.items())
