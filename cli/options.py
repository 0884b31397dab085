"""Option values that several commands read the same way."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from medattn_edge import gates
from medattn_edge.errors import MissingDependency, UsageError

from . import console

if TYPE_CHECKING:
    from medattn_edge.foreign import SourceOptions
    from medattn_edge.io import Scan

GeometryOption = Annotated[
    Literal["sform", "qform"] | None, typer.Option("--geometry", help="Of a NIfTI file whose two forms contradict.")
]
# Of commands that hold files to a gate which these may carry.
CarriedDiceOption = Annotated[
    float | None,
    typer.Option(
        "--min-dice",
        help="Dice with the reference, every label; never looser than the gate that a file carries, which decides "
        f"by default, or else {gates.COMPARED.limits['min_dice']:g}, with --labels "
        f"{gates.TRUE_LABELS.limits['min_dice']:g}.",
    ),
]
CarriedTrueDiceShareOption = Annotated[
    float | None,
    typer.Option(
        "--min-true-dice-share",
        help="Share of the reference's true Dice, every label; needs --labels. By default the file's own, or else "
        f"{gates.TRUE_LABELS.limits['min_true_dice_share']:g}.",
    ),
]
MinTrueDiceShareOption = Annotated[
    float | None,
    typer.Option(
        "--min-true-dice-share",
        help="Share of the reference's true Dice, every label; needs --labels; "
        f"{gates.TRUE_LABELS.limits['min_true_dice_share']:g}.",
    ),
]
MaxTrueDiceShareOption = Annotated[
    float | None,
    typer.Option(
        "--max-true-dice-share",
        help="The same, at most: a true Dice that rises further is another answer too; "
        f"{gates.TRUE_LABELS.limits['max_true_dice_share']:g}.",
    ),
]
JudgeLabelsOption = Annotated[
    str, typer.Option("--judge-labels", metavar="NAME,NAME", help="The only labels to judge; all by default.")
]
LabelValueOption = Annotated[
    list[str] | None,
    typer.Option("--label-value", metavar="NAME=VALUE", help="A label's value in --labels; repeat it."),
]
OverlapOption = Annotated[
    float | None,
    typer.Option("--overlap", help="Of neighbouring windows, 0 to below 1; by default what each file says of its own."),
]
ResampleOption = Annotated[
    bool, typer.Option("--resample-to-first", help="Bring channels on another grid to the first's, linearly.")
]
ThreadsOption = Annotated[
    int, typer.Option("--threads", min=0, help="Of the CPU; 0 is one for each core that this process may use.")
]
DeviceOption = Annotated[
    str,
    typer.Option(
        "--device", help="auto, cpu or cuda:INDEX; auto is the GPU for what runs there alone (engines), else the CPU."
    ),
]
VolumeOption = Annotated[
    int,
    typer.Option("--volume", metavar="N", min=0, help="Of data with several volumes (time points, echoes), from 1."),
]


NetworkOption = Annotated[
    str, typer.Option("--network", help="Of the reference: package.module:build of your own, which is run.")
]
OutputNameOption = Annotated[
    str, typer.Option("--output-name", help="Of a reference from elsewhere: which output is logits.")
]
SettingsOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Of the reference, as it was said to export.")
]
WeightsOption = Annotated[
    str, typer.Option("--weights", metavar="KEY", help="Of the reference: which of several sets of weights.")
]
FoldOption = Annotated[str, typer.Option("--fold", help="Of a reference of nnU-Net's: 0 to 4, or all.")]


def source_options(
    network: str, output: str, set_: Sequence[str], weights: str, fold: str, spec: Path | None = None
) -> SourceOptions | None:
    """How to read a reference that is no artifact; None where nothing was said."""
    if not any((network, output, set_, weights, fold, spec)):
        return None
    try:
        from medattn_edge.foreign import SourceOptions as Said
    except ImportError as error:
        raise MissingDependency.of_extra(str(error.name), "export") from error
    from medattn_edge.spec import read_spec

    given = None if spec is None else read_spec(spec)[0]
    return Said(network, output, parse_settings(set_), weights, fold, given)


def parse_sizes(text: str) -> tuple[int, ...]:
    """Voxels: `256x256` or `96x96x96`; raises UsageError unless there are 2 or 3 whole numbers above 0."""
    parts = text.lower().split("x")
    if len(parts) not in (2, 3) or not all(part.isascii() and part.isdigit() and int(part) > 0 for part in parts):
        raise UsageError(
            f"the size {text!r} cannot be read", expected="HxW or DxHxW in voxels", hint="256x256 or 96x96x96"
        )
    return tuple(map(int, parts))


def parse_spacing(text: str) -> tuple[float, ...]:
    """Millimetres: `0.7x0.7` or `5x0.7x0.7`, in volume order; raises UsageError unless they are 2 or 3, above 0."""
    try:
        sizes = tuple(map(float, text.lower().split("x")))
    except ValueError:
        sizes = ()
    if len(sizes) not in (2, 3) or not all(0 < size < math.inf for size in sizes):
        raise UsageError(
            f"the spacing {text!r} cannot be read", expected="YxX or ZxYxX in mm", hint="0.7x0.7 or 5x0.7x0.7"
        )
    return sizes


def parse_names(text: str) -> tuple[str, ...]:
    """Names between commas: `right_lung,left_lung`; none of an empty text."""
    return tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))


def parse_settings(pairs: Sequence[str]) -> dict[str, Any]:
    """Settings of a network: `width=16`, `align_corners=true`, `backbone=resnet18`.

    A value that is JSON is taken as such, any other as text. Raises UsageError for a pair without key or value, and for
    a key that comes twice.
    """
    settings: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not key or not equals or not value:
            raise UsageError(f"the setting {pair!r} cannot be read", expected="KEY=VALUE", hint="--set width=16")
        if key in settings:
            raise UsageError(f"the setting {key} comes twice", expected="each key once", hint=f"--set {key}={value}")
        try:
            settings[key] = json.loads(value)
        except ValueError:
            settings[key] = value
    return settings


def orientation_of(orientation: str, plane: str) -> str:
    """The code of --orientation, LPS when nobody said it, with slices along D of --plane; raises UsageError."""
    from medattn_edge.spec import with_plane
    from medattn_edge.spec.orientation import patient_axes

    code = orientation.upper() or "LPS"
    patient_axes(code)
    return with_plane(code, plane) if plane else code


def listed_scans_of(
    paths: Sequence[Path] | None, resample_to_first: bool = False, geometry: str | None = None, volume: int = 0
) -> list[Scan]:
    """As `scans_of`, a folder, a pattern or a list standing for every scan of it; raises as `scans_of_cases` does."""
    from medattn_edge.cohort import ScanChoices, is_case_source, scans_of_cases

    choices = ScanChoices((), geometry or "", volume, resample_to_first)
    scans: list[Scan] = []
    for path in paths or ():
        if not is_case_source(path):
            scans += scans_of([path], resample_to_first, geometry, volume)
            continue
        found, cases = scans_of_cases([path], choices)
        scans += found
        for note in cases.notes:
            console.note(f"{path}: {note}")
        for one in cases.left_out:
            console.note(f"{path}: left out: {one.scan}: {one.message}")
    return scans


def note_scans(scans: Sequence[Scan]) -> None:
    """Say what people should know of how scans were read: what was left out, assumed or chosen."""
    for scan in scans:
        for note in scan.notes():
            console.note(f"{scan.name}: {note}")


def check_choice(geometry: str | None, volume: int, scans: Sequence[Path], option: str) -> None:
    """Raise UsageError for a choice of what no scan was given for; option: which would give one."""
    if (geometry or volume) and not scans:
        raise UsageError(
            "--geometry or --volume without a scan", expected="the scan that it is of", hint=f"{option} SCAN"
        )


def scans_of(
    paths: Sequence[Path] | None, resample_to_first: bool = False, geometry: str | None = None, volume: int = 0
) -> list[Scan]:
    """The scans that arguments mean; raises UsageError as `as_scan` does."""
    from medattn_edge.io import as_scan

    return [
        as_scan(path, resample_to_first=resample_to_first, geometry=geometry or "", volume=volume)
        for path in paths or ()
    ]
