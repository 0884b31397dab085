"""compile: artifact -> a faster artifact for one runtime, which answers as its parent does."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from medattn_edge.errors import UsageError, quoted

from . import console
from .agreement_text import agreement_table
from .fp64_text import fp64_lines
from .tuned import TuneOptions, show_tuning, tuned

if TYPE_CHECKING:
    from medattn_edge.artifact import Artifact
    from medattn_edge.compile.compilation import Plan

Option = typer.Option


def command(  # noqa: PLR0913
    source: Annotated[
        Path, typer.Argument(help="NET.onnx, NET.xml, or a checkpoint: with --tune, or for Torch-TensorRT.")
    ],
    output: Annotated[
        Path, Option("--output", "-o", help="NAME.xml or .blob (OpenVINO), .ort, .engine, .rtx, .ts or .pt2.")
    ],
    target: Annotated[str, Option("--target", help="Insist on this compiler; medattn-edge doctor lists them.")] = "",
    compute_capability: Annotated[
        str, Option("--compute-capability", metavar="smXX,smYY", help="GPUs to build for; by default this host's.")
    ] = "",
    workspace: Annotated[
        int | None, Option("--workspace", metavar="MIB", min=1, help="Most scratch memory on the GPU.")
    ] = None,
    timing_cache: Annotated[
        Path | None, Option("--timing-cache", metavar="FILE", help="Kernel timings to use and to extend.")
    ] = None,
    hardware_compatible: Annotated[
        bool, Option("--hardware-compatible", help="Also for newer GPUs than this one, if slower.")
    ] = False,
    inference_precision: Annotated[
        Literal["f32", "bf16"], Option(help="What OpenVINO computes FP32 in; bf16 where the CPU has it.")
    ] = "f32",
    threads: Annotated[int, Option("--threads", min=0, help="Of the CPU; 0 leaves it to the runtime.")] = 0,
    scan: Annotated[list[Path] | None, Option("--scan", help="Real input for the check; repeat it.")] = None,
    samples: Annotated[
        int | None, Option("--samples", min=1, help="Patches per scan for the check; 2, or 8 below FP32.")
    ] = None,
    tune: Annotated[
        bool, Option("--tune", help="Measure the alternatives on this host, and keep the fastest that agrees.")
    ] = False,
    tune_duration: Annotated[
        float | None, Option("--tune-duration", metavar="S", min=0, help="Begin no other alternative after it; 600.")
    ] = None,
    patch: Annotated[
        str, Option("--patch", metavar="[DX]HXW", help="--tune CHECKPOINT: input size; the spec's by default.")
    ] = "",
    batch: Annotated[str, Option("--batch", metavar="N|dynamic", help="--tune CHECKPOINT: patches per run; 1.")] = "",
    dry_run: Annotated[
        bool, Option("--dry-run", help="Check everything that needs no compiling; write nothing.")
    ] = False,
    json: Annotated[bool, Option("--json", help="One JSON document on stdout.")] = False,
    precision: Annotated[str, Option("--precision", hidden=True)] = "",
) -> None:
    """Compile for one runtime; the precision is that of SOURCE.

    The graph is held to the target's rules first. Nothing is written unless the result agrees with SOURCE on real and
    random input: --scan, or the CT that slicerio ships. What cannot run on this host says so. With --tune a checkpoint
    is exported with one rewrite more or less at a time, and run by fewer threads; the manifest has the figures.
    """
    _refuse_precision(precision, source)
    _check_tuning(source, tune, {"--tune-duration": tune_duration, "--patch": patch, "--batch": batch}, dry_run)
    from medattn_edge.backends.compiler import CompileSettings
    from medattn_edge.compile import compilation
    from medattn_edge.inference.real_patches import real_patches

    capabilities = tuple(filter(None, (name.strip() for name in compute_capability.split(","))))
    settings = CompileSettings(capabilities, workspace, timing_cache, hardware_compatible, inference_precision, threads)
    if tune:
        artifact = tuned(
            source, output, target or None, settings, TuneOptions(patch, batch, scan or [], samples, tune_duration)
        )
        _finish(artifact, json)
        return
    planned = compilation.plan(source, output, target or None, settings)
    if dry_run:
        _show_plan(planned, json)
        return
    parent = planned.source.manifest
    reduced = parent.precision != "fp32" or inference_precision != "f32"
    real = real_patches(parent.spec, scan or [], samples or (8 if reduced else 2))
    console.note(f"compiling {source} for {planned.compiler.name} in {parent.precision}")
    with console.timed("compiled and checked"), console.progress("compiling") as progress:
        artifact = compilation.build(planned, real, progress)
    _finish(artifact, json)


def _finish(artifact: Artifact, json: bool) -> None:
    if json:
        console.print_json({"artifact": str(artifact.path), **artifact.manifest.to_json()})
    else:
        _show(artifact)


def _check_tuning(source: Path, tune: bool, options: dict[str, Any], dry_run: bool) -> None:
    given = [name for name, value in options.items() if value not in ("", None)]
    if given and not tune:
        raise UsageError(
            f"{given[0]} without --tune", expected="--tune, which alone follows it", hint=f"leave {given[0]} out"
        )
    if tune and dry_run:
        raise UsageError("--dry-run with --tune: what it measures is the point", expected="one", hint="--tune")


def _refuse_precision(precision: str, source: Path) -> None:
    """The option that other tools have: there the compiler chooses, here the graph says."""
    if not precision:
        return
    hints = {
        "fp16": f"medattn-edge export CHECKPOINT -o {quoted(source.stem + '.fp16.onnx')} --precision fp16",
        "int8": f"medattn-edge calibrate {quoted(source.stem + '.onnx')} SCAN"
        f" -o {quoted(source.stem + '.int8.onnx')} --profile cpu",
    }
    raise UsageError(
        f"--precision {precision}: a compiler leaves the precision as it is in the graph",
        expected="an FP16 or INT8 file to compile",
        hint=hints.get(precision, " or ".join(hints.values())),
    )


def _show_plan(plan: Plan, json: bool) -> None:
    document: dict[str, Any] = {
        "source": str(plan.source.path),
        "artifact": str(plan.output),
        "target": plan.compiler.name,
        "precision": plan.source.manifest.precision,
        "settings": {name: _plain(getattr(plan.settings, name)) for name in plan.compiler.settings},
        "lint": [asdict(finding) for finding in plan.lint],
    }
    if json:
        console.print_json(document)
        return
    _show_lint(document["lint"])
    console.say(f"would compile {plan.source.path} ({document['precision']}) for {plan.compiler.name} to {plan.output}")
    for name, value in document["settings"].items():
        console.say(f"  {name}: {value}")


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else list(value) if isinstance(value, tuple) else value


def _show(artifact: Artifact) -> None:
    from rich.table import Table

    manifest, path = artifact.manifest, artifact.path
    target = manifest.target
    size = sum(one.stat().st_size for one in (path, *(path.with_suffix(suffix) for suffix in manifest.companions)))
    console.say(f"{path}: {size / 1e6:.1f} MB, {manifest.precision}, for {target['compiler']}")
    table = Table("what", "found", title="target")
    facts = {
        **{f"runs on: {name}": value for name, value in target["runs_on"].items()},
        **target.get("settings", {}),
        **{f"layers computed in {name}": count for name, count in target.get("computed", {}).items()},
        "verified": target["verified"],
    }
    for name, value in facts.items():
        table.add_row(name, ", ".join(map(str, value)) if isinstance(value, list) else str(value))
    console.show(table)
    deviations = Counter((layer["kind"], layer["precision"]) for layer in target.get("deviations", ()))
    for (kind, computed), count in deviations.items():
        console.say(f"not computed in {manifest.precision}: {count} x {kind}, in {computed}; the manifest names them")
    for warning in target.get("warnings", ()):
        console.say(f"{target['compiler']} warns: {warning}")
    _show_lint(target["lint"])
    if "tuning" in target:
        show_tuning(target["tuning"])
    on_gpu = " --device cuda:0" if "compute_capabilities" in target["runs_on"] else ""
    if manifest.agreement:
        console.show(agreement_table("compiled, against its parent", artifact.manifest.agreement))
        for line in fp64_lines(artifact.manifest.agreement):
            console.say(line)
    threads = f" --threads {target['tuning']['threads']}" if target.get("tuning", {}).get("threads") else ""
    console.note(f"next: medattn-edge infer {quoted(path)} SCAN -o labels.nii.gz{on_gpu}{threads}")


def _show_lint(findings: list[dict[str, Any]]) -> None:
    """One line per rule: a quantised network breaks the same one in many nodes."""
    for rule in dict.fromkeys(finding["rule"] for finding in findings):
        same = [finding for finding in findings if finding["rule"] == rule]
        first, more = same[0], f", and {len(same) - 1} more nodes" if len(same) > 1 else ""
        console.say(f"warning [{rule}] {first['node'] or 'the graph'}{more}: {first['reason']} ({first['remedy']})")
