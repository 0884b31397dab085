"""report: one page that says whether an artifact keeps its reference's answer, and what is known of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medattn_edge.errors import UsageError, quoted

from . import console
from .options import (
    CarriedDiceOption,
    CarriedTrueDiceShareOption,
    DeviceOption,
    FoldOption,
    GeometryOption,
    JudgeLabelsOption,
    LabelValueOption,
    MaxTrueDiceShareOption,
    NetworkOption,
    OutputNameOption,
    ResampleOption,
    SettingsOption,
    ThreadsOption,
    VolumeOption,
    WeightsOption,
    parse_names,
    scans_of,
    source_options,
)
from .released import Trusted, opened
from .renamed import renamed
from .split_files import split

if TYPE_CHECKING:
    from medattn_edge.evidence import Evidence

Option = typer.Option


def command(  # noqa: PLR0913
    reference: Annotated[
        Path, typer.Argument(help="What export was given (checkpoint, ONNX, program, bundle, ...), or an artifact.")
    ],
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="ARTIFACT ... SCAN ...",
            help="Artifacts, RELEASE or RELEASE#ARTIFACT, then scans, of several channels T1+T2+...",
        ),
    ],
    output: Annotated[
        Path, Option("--output", "-o", metavar="FILE.html", help="FILE.json with every figure is written beside it.")
    ],
    labels: Annotated[list[Path] | None, Option("--labels", help="True labels, one file per scan, in order.")] = None,
    label_value: LabelValueOption = None,
    judge_labels: JudgeLabelsOption = "",
    min_dice: CarriedDiceOption = None,
    min_true_dice_share: CarriedTrueDiceShareOption = None,
    max_true_dice_share: MaxTrueDiceShareOption = None,
    min_dice_ratio: Annotated[str | None, renamed("--min-dice-ratio", "--min-true-dice-share")] = None,
    deadline_ms: Annotated[
        float | None,
        Option("--deadline-ms", metavar="MS", help="Of one run; 1 in 100 may take longer, or the report fails."),
    ] = None,
    timing: Annotated[
        bool, Option("--timing/--no-timing", help="Time the artifacts and the reference in turn.")
    ] = True,
    duration: Annotated[float, Option("--duration", min=0, help="Of the timing, in s for each.")] = 10.0,
    pictures: Annotated[
        int, Option("--pictures", min=0, metavar="N", help="Worst slices of each artifact; they show the scan itself.")
    ] = 3,
    attention: Annotated[
        bool,
        Option("--attention", help="Show the artifacts' attention maps beside the reference's, as explain does."),
    ] = False,
    layers: Annotated[
        bool, Option("--layers", help="Measure the SQNR of the artifacts layer by layer, as bisect does.")
    ] = False,
    identify: Annotated[
        bool, Option("--identify", help="Keep the names of scans; without it they are case 1, case 2, ...")
    ] = False,
    runtime: Annotated[
        list[str] | None, Option("--runtime", metavar="NAME", help="Of .onnx artifacts, as compare has it.")
    ] = None,
    device: DeviceOption = "auto",
    threads: ThreadsOption = 0,
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
        Option("--spec", metavar="SPEC.json", help="Of a reference that the artifacts were not made from."),
    ] = None,
    trusted: Trusted = None,
    json: Annotated[bool, Option("--json", help="The document of FILE.json on stdout, too.")] = False,
) -> None:
    """Write a report: verdict, lineage, Dice, volumes, surfaces, latency and the worst slices, on one page.

    Exit code 1 when a check fails; the report is written all the same, and says so first. The page loads nothing and
    runs no script. It names no scan unless --identify is given; its pictures show the voxels of the scans.
    """
    _check_output(output)
    from medattn_edge.agreement import Thresholds
    from medattn_edge.atomic import check_folder
    from medattn_edge.evaluation import BenchSettings, ComparisonSettings
    from medattn_edge.evidence import ReportSettings, gather, write_report
    from medattn_edge.inference.truth import parse_label_values

    check_folder(output)
    source = source_options(network, output_name, set_ or [], weights, fold, spec)
    compared = ComparisonSettings(device, threads, source=source, judge_labels=parse_names(judge_labels))
    settings = ReportSettings(
        runtimes=tuple(runtime or ()),
        comparison=compared,
        timing=BenchSettings(duration_s=duration) if timing else None,
        pictures=pictures,
        identify=identify,
        attention=attention,
        layers=layers,
    )
    with opened([reference, *files], trusted) as models, console.stages() as progress:
        first, *rest = models.files
        artifacts, scans = split(rest, "report", "-o report.html")
        evidence = gather(
            first,
            artifacts,
            scans_of(scans, resample_to_first, geometry, volume_number),
            labels=labels or (),
            label_values=parse_label_values(label_value or []),
            thresholds=Thresholds(
                min_dice=min_dice, min_true_dice_share=min_true_dice_share, max_true_dice_share=max_true_dice_share
            ),
            deadline_ms=deadline_ms,
            progress=progress,
            settings=settings,
        )
        page, document = write_report(evidence, output.parent, output.stem)
    _tell(evidence, page, document, evidence.to_json() if json else None)
    if not evidence.passed:
        raise typer.Exit(1)


def _check_output(output: Path) -> None:
    if output.suffix != ".html":
        raise UsageError(
            f"the report {output.name!r}",
            expected="a name that ends in .html",
            hint=f"-o {quoted(output.with_suffix('.html'))}",
        )


def _tell(evidence: Evidence, page: Path, document: Path, values: dict[str, Any] | None) -> None:
    for note in evidence.notes:
        console.note(note)
    for one in evidence.not_measured:
        console.note(f"not measured: {one.what}: {one.reason}")
    if values is not None:
        console.print_json(values)
        return
    for check in evidence.checks:
        console.say(f"{check.verdict.upper()}: {check.name}: {check.outcome} ({check.criterion})")
        for failure in check.failures:
            console.say(f"  {failure}")
    console.say(f"{page}: verdict {'PASS' if evidence.passed else 'FAIL'}")
    console.say(f"{document}: every figure of it")
