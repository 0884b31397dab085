"""bench: how fast artifacts are on this host, each beside how well it agrees with its checkpoint."""

from __future__ import annotations

import json as json_module
from pathlib import Path
from typing import Annotated

import typer

from medattn_edge import gates
from medattn_edge.errors import HostError

from . import console
from .bench_text import announce, tell
from .options import (
    DeviceOption,
    FoldOption,
    GeometryOption,
    NetworkOption,
    OutputNameOption,
    ResampleOption,
    SettingsOption,
    ThreadsOption,
    VolumeOption,
    WeightsOption,
    check_choice,
    listed_scans_of,
    source_options,
)
from .released import Trusted, opened
from .renamed import renamed

Option = typer.Option


def command(  # noqa: PLR0913
    artifacts: Annotated[
        list[Path],
        typer.Argument(metavar="ARTIFACT ...", help="What was made of the reference, or RELEASE, RELEASE#ARTIFACT."),
    ],
    reference: Annotated[
        Path,
        Option("--reference", metavar="SOURCE", help="What export was given; without torch, an FP32 artifact."),
    ],
    scan: Annotated[
        list[Path] | None,
        Option("--scan", help="Real input to judge on, or a folder, a 'PATTERN' or LIST.csv; repeat it."),
    ] = None,
    resample_to_first: ResampleOption = False,
    network: NetworkOption = "",
    output_name: OutputNameOption = "",
    set_: SettingsOption = None,
    weights: WeightsOption = "",
    fold: FoldOption = "",
    geometry: GeometryOption = None,
    volume_number: VolumeOption = 0,
    samples: Annotated[int, Option("--samples", min=1, help="Patches per scan.")] = 4,
    duration: Annotated[float, Option("--duration", min=0, help="Of the timing, in s for each row.")] = 10.0,
    warm_up: Annotated[float, Option("--warm-up", min=0, help="Before it, in s for each row.")] = 1.0,
    threads: ThreadsOption = 0,
    batch: Annotated[int, Option("--batch", min=1, help="Patches per run.")] = 1,
    deadline_ms: Annotated[
        float | None, Option("--deadline-ms", metavar="MS", help="Tell how many runs take longer.")
    ] = None,
    runtime: Annotated[
        list[str] | None,
        Option(
            "--runtime",
            metavar="NAME",
            help="Of .onnx artifacts; repeat it, or all. By default all for int8 and fp16, the usual one for fp32.",
        ),
    ] = None,
    device: DeviceOption = "auto",
    min_dice: Annotated[
        float | None,
        Option(
            "--min-dice",
            min=0,
            max=1,
            help="Of fp16 and int8: Dice with the reference, every label; never looser than the gate that the file "
            f"carries, which decides by default, or else {gates.REDUCED.limits['min_dice']:g}.",
        ),
    ] = None,
    min_sqnr_db: Annotated[
        float, Option("--min-sqnr-db", help="Of fp16 and int8: of the logits.")
    ] = gates.REDUCED.limits["min_sqnr_db"],
    min_fp32_sqnr_db: Annotated[
        float | None, Option("--min-fp32-sqnr-db", help=f"Of fp32; {gates.FP32.limits['min_sqnr_db']:g}.")
    ] = None,
    timeout: Annotated[float, Option("--timeout", min=1, help="Of opening, and of one run, in s.")] = 600.0,
    time_limit: Annotated[str | None, renamed("--time-limit", "--timeout")] = None,
    trusted: Trusted = None,
    output: Annotated[Path | None, Option("--output", "-o", metavar="FILE", help="Write the JSON there too.")] = None,
    json: Annotated[bool, Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """Time artifacts and their reference in turn, each in a process of its own.

    Every row is first held to the reference on real input (--scan, or the CT that slicerio ships) and on noise. One
    that does not agree, crashes or hangs says FAIL and has no speed, and the exit code is 1. A ratio of a host that was
    busy with something else is declined, and the exit code is 3 where nothing fails.
    """
    from medattn_edge.atomic import check_folder, replacing
    from medattn_edge.evaluation import BenchSettings, PlanSettings, plan_measurement

    if output is not None:
        check_folder(output)
    chosen = PlanSettings(
        runtimes=runtime or (),
        device=device,
        patches=samples,
        fp32_floors={} if min_fp32_sqnr_db is None else {"min_sqnr_db": min_fp32_sqnr_db},
        reduced_floors={"min_sqnr_db": min_sqnr_db} | ({} if min_dice is None else {"min_dice": min_dice}),
        source=source_options(network, output_name, set_ or [], weights, fold),
    )
    settings = BenchSettings(duration, warm_up, threads, deadline_ms, timeout, batch)
    check_choice(geometry, volume_number, scan or [], "--scan")
    scans = listed_scans_of(scan, resample_to_first, geometry, volume_number)
    with opened([reference, *artifacts], trusted) as models:
        first, *files = models.files
        plan = plan_measurement(files, first, scans, chosen=chosen, settings=settings)
        announce(plan)
        with console.stages() as progress:
            measurement = plan.run(progress)
    document = models.named(measurement.to_json())
    if output is not None:
        with replacing(output) as file:
            file.write_text(json_module.dumps(document, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    if json:
        console.print_json(document)
    else:
        tell(document)
    if not measurement.passed:
        raise typer.Exit(1)
    if measurement.declined:
        raise typer.Exit(HostError.exit_code)
