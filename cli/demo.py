"""demo: the shipped checkpoints, from export to a picture, a report and a signed release, on a real chest CT.

Where there is no torch or no real scan, a shipped artifact segments a chest that is drawn.
"""

from __future__ import annotations

import shlex
import shutil
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from medattn_edge.errors import AgreementError, MedattnError, OutputError

from . import console

_RELEASE = "demo-lungs"


def command(
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder to write to.")] = Path("demo"),
) -> None:
    """Export, compare and segment a real chest CT, report and sign a release, showing every command.

    Without torch or the package with the CT, segment a drawn chest with a shipped artifact, and say what more there is.
    """
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"cannot make {output}: {error.strerror}",
            expected="a folder to write to",
            hint="medattn-edge demo -o FOLDER",
        ) from error
    if lacking := [name for name in ("torch", "slicerio") if find_spec(name) is None]:
        _segment_drawn(output, lacking)
    else:
        _show_all(output)


def _segment_drawn(output: Path, lacking: list[str]) -> None:
    """What a host can do that only runs artifacts; ends with AgreementError unless the drawn lungs are found."""
    from medattn_edge.agreement import dice_per_label
    from medattn_edge.artifact import Artifact
    from medattn_edge.data import shipped_artifact
    from medattn_edge.data.drawn_chest import write_drawn_chest
    from medattn_edge.gates import DRAWN_CHEST
    from medattn_edge.installation import install_line
    from medattn_edge.io import read_labels
    from medattn_edge.labels import Meaning

    scan, found = output / "drawn-chest.nii.gz", output / "drawn-chest-labels.nii.gz"
    try:
        drawn = write_drawn_chest(scan)
    except OSError as error:
        raise OutputError(
            f"cannot write {scan}: {error.strerror}",
            expected="a folder to write to",
            hint="medattn-edge demo -o FOLDER",
        ) from error
    console.say(f"{' and '.join(lacking)}: not installed. {scan} is a drawn chest, of nobody.")
    artifact = shipped_artifact()
    picture = ("--overlay", output / "drawn-chest-overlay.png") if find_spec("PIL") else ()
    _run("inspect", artifact)
    _run("infer", artifact, scan, "-o", found, *picture)
    labels = read_labels(found).oriented("RAS").voxels.transpose(2, 1, 0)
    dice = dice_per_label(drawn, labels, Meaning.of(Artifact.read(artifact).spec))
    told = ", ".join(f"{name} {value:.4f}" for name, value in dice.items())
    console.say(f"\nDice with what was drawn: {told}")
    least = DRAWN_CHEST.limits["min_dice"]
    if min(dice.values()) < least:
        raise AgreementError(
            f"the drawn lungs were not found: {told}", expected=f"at least {least:g}", hint="medattn-edge doctor"
        )
    console.say(
        "With your own artifact:\n"
        "  medattn-edge infer NAME.onnx SCAN.nii.gz -o labels.nii.gz\n"
        "The whole demo exports two checkpoints, proves that the answer stayed, segments a real chest CT, and writes a "
        f"report and a signed release:\n  {install_line('demo')}"
    )


def _show_all(output: Path) -> None:
    from medattn_edge.data import shipped_checkpoints
    from medattn_edge.data.samples import sample_labels, sample_scan

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
