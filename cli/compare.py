"""compare: does a candidate still say what the reference says, in every runtime that may compute it?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medattn_edge import gates
from medattn_edge.errors import UsageError

from . import console
from .comparison_text import tell
from .options import (
    CarriedDiceOption,
    CarriedTrueDiceShareOption,
    DeviceOption,
    FoldOption,
    GeometryOption,
    JudgeLabelsOption,
    MaxTrueDiceShareOption,
    NetworkOption,
    OutputNameOption,
    OverlapOption,
    ResampleOption,
    SettingsOption,
    ThreadsOption,
    VolumeOption,
    WeightsOption,
    listed_scans_of,
    parse_names,
    source_options,
)
from .released import Trusted, opened
from .renamed import renamed
from .split_files import split

if TYPE_CHECKING:
    from medattn_edge.evidence.montage import Montage

Option = typer.Option


def command(  # noqa: PLR0913
    reference: Annotated[
        Path, typer.Argument(help="What export was given (checkpoint, ONNX, program, bundle, ...), or an artifact.")
    ],
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="CANDIDATE ... SCAN ...",
            help="Artifacts, RELEASE or RELEASE#ARTIFACT, then scans, of several channels T1+T2+..., or "
            "a folder, a 'PATTERN' or LIST.csv of scans.",
        ),
    ],
    runtime: Annotated[
        list[str] | None,
        Option(
            "--runtime",
            metavar="NAME",
            help="Of .onnx candidates; repeat it, or all. By default all for int8 and fp16, the usual one for fp32.",
        ),
    ] = None,
    resample_to_first: ResampleOption = False,
    geometry: GeometryOption = None,
    volume_number: VolumeOption = 0,
    network: NetworkOption = "",
    output_name: OutputNameOption = "",
    set_: SettingsOption = None,
    weights: WeightsOption = "",
    fold: FoldOption = "",
    spec: Annotated[
        Path | None,
        Option("--spec", metavar="SPEC.json", help="Of a reference that the candidates were not made from."),
    ] = None,
    max_gap_db: Annotated[
        float, Option("--max-gap-db", min=0, help="SQNR that a runtime may lose to the graph as written.")
    ] = gates.RUNTIME_GAP.limits["max_gap_db"],
    timeout: Annotated[float, Option("--timeout", min=1, help="Of opening, and of one run, in s.")] = 600.0,
    time_limit: Annotated[str | None, renamed("--time-limit", "--timeout")] = None,
    labels: Annotated[list[Path] | None, Option("--labels", help="True labels, one file per scan, in order.")] = None,
    label_value: Annotated[
        list[str] | None,
        Option(
            "--label-value",
            metavar="NAME=VALUE",
            help="A label's value in --labels; repeat it. By default as files carry it.",
        ),
    ] = None,
    judge_labels: JudgeLabelsOption = "",
    min_dice: CarriedDiceOption = None,
    min_sqnr_db: Annotated[float | None, Option("--min-sqnr-db", help="Of the logits.")] = None,
    min_label_match: Annotated[float | None, Option("--min-label-match", help="Share of equal voxels.")] = None,
    max_volume_change: Annotated[float | None, Option("--max-volume-change", help="In %, every label.")] = None,
    min_true_dice_share: CarriedTrueDiceShareOption = None,
    max_true_dice_share: MaxTrueDiceShareOption = None,
    min_dice_ratio: Annotated[str | None, renamed("--min-dice-ratio", "--min-true-dice-share")] = None,
    atol: Annotated[float | None, Option("--atol", help="Largest difference of two logits.")] = None,
    device: DeviceOption = "auto",
    threads: ThreadsOption = 0,
    overlap: OverlapOption = None,
    batch: Annotated[int, Option("--batch", min=1, help="Windows per run.")] = 4,
    montage: Annotated[
        Path | None,
        Option("--montage", metavar="OUT.png", help="Also draw the worst slices: reference, candidate, difference."),
    ] = None,
    difference: Annotated[
        Path | None,
        Option("--difference", metavar="OUT.png", help="Also draw the differences in the worst slices only."),
    ] = None,
    trusted: Trusted = None,
    json: Annotated[bool, Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """Compare candidates with the reference on scans, each in a process of its own.

    Exit code 1 when a threshold is not reached, or when a runtime crashes on a graph or computes another one: it is
    named, and must not be deployed with that file.
    """
    from medattn_edge.agreement import Thresholds
    from medattn_edge.evaluation import ComparisonSettings, TrueLabels, compare
    from medattn_edge.inference.truth import parse_label_values

    pictures = _Pictures(montage, difference)
    values = parse_label_values(label_value or [])
    truth = TrueLabels(labels or (), values, min_true_dice_share, max_true_dice_share)
    source = source_options(network, output_name, set_ or [], weights, fold, spec)
    judged = parse_names(judge_labels)
    settings = ComparisonSettings(device, threads, timeout, max_gap_db, overlap, batch, source, judged)
    with opened([reference, *files], trusted) as models, console.stages() as progress:
        first, *rest = models.files
        candidates, scans = split(rest, "compare")
        comparison = compare(
            first,
            candidates,
            listed_scans_of(scans, resample_to_first, geometry, volume_number),
            labels=truth,
            thresholds=Thresholds(min_dice, min_sqnr_db, min_label_match, atol, max_volume_change),
            runtimes=runtime or (),
            settings=settings,
            progress=progress,
            observer=pictures.observer,
        )
    pictures.write()
    document = models.named(comparison.to_json())
    if json:
        console.print_json(document)
    else:
        tell(document)
    if not comparison.passed:
        raise typer.Exit(1)


class _Pictures:
    """The pictures that were asked for, refused before the work and written after it, whatever the verdict."""

    def __init__(self, montage: Path | None, difference: Path | None) -> None:
        asked = {"--montage": montage, "--difference": difference}
        self._paths = {option: path for option, path in asked.items() if path is not None}
        self.observer: Montage | None = None
        if not self._paths:
            return
        from medattn_edge.evidence.montage import Montage
        from medattn_edge.io.page import check_picture

        for option, path in self._paths.items():
            check_picture(path, option)
        if len({path.resolve() for path in self._paths.values()}) < len(self._paths):
            raise UsageError(
                "--montage and --difference are one file", expected="a file each", hint="--difference b.png"
            )
        self.observer = Montage()

    def write(self) -> None:
        if self.observer is None:
            return
        writers = {"--montage": self.observer.write_montage, "--difference": self.observer.write_difference}
        for option, path in self._paths.items():
            count = writers[option](path)
            said = f"{path}: the {count} worst slice(s)" if count else f"{path} is not written: no candidate was seen"
            console.note(said)
