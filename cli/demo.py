"""demo: the shipped checkpoints, from export to a picture, on a real chest CT."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from medattn_edge.errors import AgreementError, OutputError

from . import console


def command(
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder to write to.")] = Path("demo"),
) -> None:
    """Export, compare and segment a real chest CT with the shipped checkpoints, showing every command."""
    from medattn_edge.data import shipped_checkpoints
    from medattn_edge.data.samples import sample_labels, sample_scan

    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"cannot make {output}: {error.strerror}",
            expected="a folder to write to",
            hint="medattn-edge demo -o FOLDER",
        ) from error
    scan, labels = str(sample_scan()), str(sample_labels())
    values = ["--label-value", "right_lung=5", "--label-value", "left_lung=6"]
    for name, checkpoint in shipped_checkpoints().items():
        artifact, stem = str(output / f"{name}.onnx"), str(output / name)
        _run("export", str(checkpoint), "-o", artifact, "--batch", "dynamic", "--attention")
        _run("compare", str(checkpoint), artifact, scan, "--labels", labels, *values, "--min-true-dice-share", "0.999")
        _run("infer", artifact, scan, "-o", f"{stem}-labels.nii.gz", "--overlay", f"{stem}-overlay.png")
    console.say(
        f"\nLook at {output}/*-overlay.png. With your own checkpoint:\n"
        "  medattn-edge export CHECKPOINT -o NAME.onnx --patch 256x256\n"
        "  medattn-edge compare CHECKPOINT NAME.onnx SCAN.nii.gz\n"
        "  medattn-edge infer NAME.onnx SCAN.nii.gz -o labels.nii.gz --overlay overlay.png"
    )


def _run(*words: str) -> None:
    """Show a command and run it; a gate that fails ends the demo."""
    from . import app

    console.say("\n$ medattn-edge " + shlex.join(words))
    if app(list(words), standalone_mode=False):
        raise AgreementError(
            f"{words[0]} failed", expected="agreement with eager", hint="medattn-edge " + shlex.join(words)
        )
