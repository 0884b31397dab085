"""Every precision of one network: what it keeps of FP32's answer, and how fast it is against FP32 in its runtime.

    python benchmarks/precision.py CHECKPOINT SCAN -o results.json [--patch 32x96x96] [--labels LABELS ...]

Runs the commands that a user would: export in FP32 and FP16, calibrate for each runtime, compare on the whole scan.
With labels, the smallest and the largest share of the reference's true Dice stand beside the Dice with the reference
(FP32): INT8 must reach both thresholds (`gates.TRUE_LABELS`). INT8 is
judged on the part of the scan that it was not calibrated on; the comparison then sees all of it.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

PROGRAM = Path(sys.executable).with_name("medattn-edge")
SHARE = "share of the reference's true Dice"
HEAD = (
    "file",
    "runs in",
    "layers in FP",
    "Dice with the reference",
    "SQNR dB",
    SHARE,
    "verdict",
    "FP32 time / its time",
)


def main(
    checkpoint: Path,
    scan: Path,
    output: Annotated[Path, typer.Option("--output", "-o")],
    patch: str = "",
    labels: Annotated[Path | None, typer.Option()] = None,
    label_value: Annotated[list[str] | None, typer.Option()] = None,
    gate: float | None = None,
) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder, size = Path(name), ["--patch", patch] if patch else []
        run("export", checkpoint, "-o", folder / "fp32.onnx", "--scan", scan, *size)
        asked = () if gate is None else ("--gate", gate)
        half = ("--precision", "fp16", *asked)
        run("export", checkpoint, "-o", folder / "fp16.onnx", "--scan", scan, *size, *half)
        truth = ["--labels", labels, *(word for one in label_value or [] for word in ("--label-value", one))]
        truth = truth if labels else []
        recipes = {}
        for file, profile in (("cpu.int8.onnx", "cpu"), ("cpu.int8.xml", "cpu"), ("tensorrt.int8.onnx", "tensorrt")):
            words = ("--profile", profile, *asked)
            recipes[file] = run("calibrate", folder / "fp32.onnx", scan, "-o", folder / file, *words, *truth).get(
                "recipe"
            )
        files = [path for path in (folder / file for file in ("fp32.onnx", "fp16.onnx", *recipes)) if path.is_file()]
        compared = run("compare", checkpoint, *files, scan, *truth)
    rows = [row(one, recipes.get(Path(one["artifact"]).name)) for one in compared["candidates"]]
    document = {"checkpoint": checkpoint.name, "scan": scan.name, "subjects": 1, "rows": rows, "recipes": recipes}
    output.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    print(f"{checkpoint.name} on {scan.name} (1 subject)\n")
    print("| " + " | ".join(HEAD) + " |\n|" + "---|" * len(HEAD))
    for one in rows:
        print("| " + " | ".join(one[name] for name in HEAD) + " |")


def run(*words: object) -> Any:
    """What a command says in JSON; a gate that fails is said, and is no error."""
    done = subprocess.run([PROGRAM, *map(str, words), "--json"], capture_output=True, text=True, check=False)
    document = json.loads(done.stdout) if done.stdout else {}
    if done.returncode not in (0, 1):
        sys.exit(f"{' '.join(map(str, words))}\n{done.stderr}{document.get('error', '')}")
    if "error" in document:
        print(document["error"]["message"], file=sys.stderr)
    return document


def row(candidate: dict[str, Any], recipe: dict[str, Any] | None) -> dict[str, str]:
    """A line of the table."""
    [case] = candidate["cases"] or [None]
    recipe = recipe or {}
    speed, backend = recipe.get("speed"), candidate["backend"]
    timed = speed is not None and speed["runtime"] == backend
    shares = [after / before for after, before in _truth(case)]
    return {
        "file": Path(candidate["artifact"]).name,
        "runs in": backend,
        "layers in FP": str(sum(len(one["layers"]) for one in recipe["floating"])) if recipe else "-",
        "Dice with the reference": f"{min(case['dice'].values()):.5f}" if case else candidate["failures"][0],
        "SQNR dB": f"{case['sqnr_db']:.1f}" if case and case["sqnr_db"] is not None else "-",
        SHARE: f"{min(shares):.5f} to {max(shares):.5f}" if shares else "-",
        "verdict": candidate["verdict"],
        "FP32 time / its time": _ratio(speed) if timed else "-",
    }


def _ratio(speed: dict[str, Any]) -> str:
    return "declined" if speed.get("ratio_declined") else f"{speed['ratio_to_fp32']:.2f}"


def _truth(case: dict[str, Any] | None) -> list[tuple[float, float]]:
    if case is None or "reference_dice" not in case:
        return []
    before = case["reference_dice"]
    return [(case["candidate_dice"][name], before[name]) for name in before if before[name]]


if __name__ == "__main__":
    typer.run(main)
