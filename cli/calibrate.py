"""calibrate: an FP32 ONNX artifact and real scans -> an INT8 artifact that keeps the answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from medattn_edge.errors import InputError, UsageError

from . import console
from .truth import parse_values, true_labels

if TYPE_CHECKING:
    from medattn_edge.artifact import Artifact
    from medattn_edge.volume import Volume

Option = typer.Option


def command(  # noqa: PLR0913
    artifact: Annotated[Path, typer.Argument(metavar="NET.onnx", help="An FP32 artifact, as export writes it.")],
    output: Annotated[Path, Option("--output", "-o", help="NAME.onnx (Q/DQ), or NAME.xml for OpenVINO alone.")],
    profile: Annotated[
        Literal["cpu", "tensorrt"], Option(help="For ONNX Runtime and OpenVINO, or for TensorRT 10, 11 and RTX.")
    ],
    scans: Annotated[list[Path] | None, typer.Argument(metavar="SCAN...", help="Real scans to calibrate on.")] = None,
    held_out: Annotated[
        list[Path] | None,
        Option("--held-out", metavar="SCAN", help="To judge on; repeat it. By default the last scan, or a part."),
    ] = None,
    labels: Annotated[
        list[Path] | None,
        Option("--labels", help="True labels of the scans to judge on: the gate is then on true Dice."),
    ] = None,
    label_value: Annotated[
        list[str] | None, Option("--label-value", metavar="NAME=VALUE", help="A label's value in --labels; repeat it.")
    ] = None,
    method: Annotated[
        Literal["minmax", "percentile", "entropy"], Option(help="How ranges come from what was seen.")
    ] = "minmax",
    samples: Annotated[int, Option("--samples", min=1, help="Patches to calibrate on, half of them foreground.")] = 32,
    held_out_samples: Annotated[int, Option("--held-out-samples", min=1, help="Patches to judge on.")] = 16,
    gate: Annotated[float, Option("--gate", min=0, max=1, help="Least Dice of every label with the FP32 one.")] = 0.999,
    door: Annotated[
        str, Option("--door", help="nncf-onnx, nncf-openvino or onnxruntime; by default the best of all that fit.")
    ] = "",
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
    threads: Annotated[
        int, Option("--threads", min=0, help="Of the CPU; 0 is one for each core that this process may use.")
    ] = 0,
    json: Annotated[bool, Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """Quantise to INT8; exit code 1, and no file, when the gate cannot be held."""
    from medattn_edge.artifact import Artifact
    from medattn_edge.backends.onnxruntime import OnnxRuntimeSession
    from medattn_edge.backends.session import Options
    from medattn_edge.host import hardware
    from medattn_edge.host.cores import usable_cores
    from medattn_edge.precision import windows
    from medattn_edge.precision.cache import Cache
    from medattn_edge.precision.int8 import Settings, calibrate, doors_for
    from medattn_edge.precision.quantizers.quantizer import Recipe

    threads = threads or usable_cores()
    parent = Artifact.read(artifact)
    recipe = Recipe(profile, isa or hardware.isa_class(hardware.cpu()), method)
    settings = Settings(recipe, gate, door, runtime or "", max_trials, threads)
    doors_for(parent, output, settings)  # what stands against it is said before the work
    if not scans and not allow_random:
        raise UsageError(
            "no scan to calibrate on: the ranges of noise are not those of a patient",
            expected="at least one real scan",
            hint=f"medattn-edge calibrate {artifact} SCAN -o {output} --profile {profile}; or --allow-random to try",
        )
    spec = parent.spec
    truths = _truths(labels or [], len(held_out or scans or []), spec.labels, label_value or [])
    real = [windows.Scan.of_file(_existing(path)) for path in scans or []]
    held = [windows.Scan.of_file(_existing(path)) for path in held_out or []]
    judged_on = [replace(scan, truth=truth) for scan, truth in zip(held or real, truths, strict=True)]
    sources = (real if held else judged_on) or [windows.random_scan(spec, seed)]
    with OnnxRuntimeSession(parent, Options(threads=threads)) as session:
        some, others = windows.split(sources, judged_on if held else [], spec, session)
        calibrated = windows.balanced(some, session, samples, seed)
        judged = windows.balanced(others, session, held_out_samples, seed)
    with console.stages() as progress:
        made = calibrate(
            parent, output, (calibrated, judged), settings, Cache(cache) if cache else Cache.of_user(), progress
        )
    if json:
        console.print_json({"artifact": str(output), **made.manifest.to_json()})
    else:
        _tell(made)


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise InputError(f"{path} does not exist", expected="a scan", hint=f"ls '{path.parent}'")
    return path


def _truths(
    labels: list[Path], scans: int, names: tuple[str, ...], label_values: list[str]
) -> list[Callable[[Volume], Volume] | None]:
    """Where the true labels of each scan come from; nowhere when there are no labels."""
    if labels and len(labels) != scans:
        raise UsageError(
            f"{len(labels)} label files for {scans} scans to judge on",
            expected="one each, in order: of the held-out scans, or, without any, of all scans",
            hint="--held-out A.nii.gz --labels A-labels.nii.gz",
        )
    values = parse_values(label_values)
    return [partial(_truth, _existing(path), names, values) for path in labels] or [None] * scans


def _truth(path: Path, names: tuple[str, ...], values: dict[str, list[int]], scan: Volume) -> Volume:
    return true_labels(path, scan, names, values)


def _tell(made: Artifact) -> None:
    from rich.table import Table

    manifest = made.manifest
    recipe, (case,) = manifest.recipe, manifest.agreement
    table = Table("door", "least Dice", "SQNR dB", "gate", "FP32 time / INT8 time", title="every way to INT8")
    for row in recipe["doors"]:
        ratio = "-" if row["ratio_to_fp32"] is None else f"{row['ratio_to_fp32']:.2f}"
        holds = "holds" if row["holds"] else "fails"
        sqnr = "not finite" if row["sqnr_db"] is None else f"{row['sqnr_db']:.1f}"
        table.add_row(row["door"], f"{row['dice']:.6f}", sqnr, holds, ratio)
    console.show(table)
    size = made.path.stat().st_size + sum(made.path.with_suffix(one).stat().st_size for one in manifest.companions)
    console.say(f"{made.path}: {size / 1e6:.1f} MB, INT8 through {recipe['door']}, after {recipe['trials']} trials")
    console.say(f"calibrated on {_counts(recipe['calibrated_on'])}; judged on {_counts(recipe['judged_on'])}")
    if recipe["unseen"]:
        console.note(f"not judged, because FP32 finds none in the held-out windows: {', '.join(recipe['unseen'])}")
    if recipe["floating"]:
        left = Table("left in floating point", "operator", "Dice alone", "SQNR dB alone", title="what INT8 would lose")
        for damage in recipe["floating"]:
            names = "\n".join(layer["module"] or layer["node"] for layer in damage["layers"])
            kinds = "\n".join(layer["operator"] for layer in damage["layers"])
            left.add_row(names, kinds, f"{damage['dice']:.6f}", f"{damage['sqnr_db']:.1f}")
        console.show(left)
    console.say(f"least Dice of a label {min(case['dice'].values()):.6f}, SQNR {case['sqnr_db']:.1f} dB against FP32")
    for finding in recipe["lint"]:
        console.note(f"lint: {finding['module'] or finding['node']}: {finding['reason']}", level=2)
    _advise(made)


def _advise(made: Artifact) -> None:
    recipe, path = made.manifest.recipe, made.path
    speed: dict[str, Any] | None = recipe["speed"]
    if recipe["profile"] == "tensorrt":
        console.note("its speed was not measured: that takes the GPU; FP16 may be as fast there")
        console.note(f"next: medattn-edge compile {path} -o {path.stem}.rtx --compute-capability sm86,sm89")
        return
    if speed is not None and speed["ratio_to_fp32"] < 1:
        console.say(
            f"INT8 is slower than FP32 in {speed['runtime']} here ({speed['ratio_to_fp32']:.2f} of its speed): "
            "deploy the FP32 file, or calibrate -o NAME.xml for OpenVINO"
        )
    console.note(f"next: medattn-edge compare CHECKPOINT {path} SCAN")


def _counts(report: dict[str, int]) -> str:
    return ", ".join(f"{count} patches of {name}" for name, count in report.items())
