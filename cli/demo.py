"""demo: the shipped checkpoints, from export to a picture, a report and a signed release, on a real chest CT."""

from __future__ import annotations

import shlex
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from medattn_edge.errors import AgreementError, MedattnError, OutputError

from . import console

_RELEASE = "demo-lungs"


def command(
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder to write to.")] = Path("demo"),
) -> None:
    """Export, compare and segment a real chest CT, report and sign a release, showing every command."""
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
    name, checkpoint = next(iter(shipped_checkpoints().items()))
    artifact, page, release = output / f"{name}.onnx", output / "report.html", output / "release"
    _run("report", checkpoint, artifact, scan, "--labels", labels, *values, "--duration", "2", "-o", page)
    key = output / "KEY"
    if not key.exists():
        _run("release", "keygen", "-o", key, "--signer", "demo")
    _remove_own(release)
    document = page.with_suffix(".json")
    _run("release", "write", artifact, "-o", release, "--name", _RELEASE, "--report", page, "--report", document)
    _run("release", "sign", release, "--key", key)
    trusted = ("--trusted", f"{key}.pub")
    _run("release", "verify", release, *trusted)
    _run("infer", release, scan, "-o", output / "release-labels.nii.gz", *trusted)
    console.say(
        f"\nLook at {output}/*-overlay.png and {page}. With your own checkpoint:\n"
        "  medattn-edge export CHECKPOINT -o NAME.onnx --patch 256x256\n"
        "  medattn-edge compare CHECKPOINT NAME.onnx SCAN.nii.gz\n"
        "  medattn-edge infer NAME.onnx SCAN.nii.gz -o labels.nii.gz --overlay overlay.png\n"
        "  medattn-edge deploy CHECKPOINT SCAN.nii.gz -o release --labels LABELS.nii.gz"
    )


def _remove_own(release: Path) -> None:
    """The release of an earlier demo makes room; whatever else lies there stays, and `release write` refuses it."""
    from medattn_edge.release import verify

    if release.is_dir():
        with suppress(MedattnError):
            if verify(release).manifest.name == _RELEASE:
                shutil.rmtree(release)


def _run(*words: str | Path) -> None:
    """Show a command and run it; a gate that fails ends the demo."""
    from . import app

    typed = list(map(str, words))
    console.say("\n$ medattn-edge " + shlex.join(typed))
    if app(typed, standalone_mode=False):
        raise AgreementError(
            f"{typed[0]} failed", expected="agreement with eager", hint="medattn-edge " + shlex.join(typed)
        )
