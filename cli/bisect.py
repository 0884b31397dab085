"""bisect: in which layer does a candidate first leave its reference?"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from medattn_edge.errors import MissingDependency

from . import console
from .bisect_text import tell
from .options import (
    FoldOption,
    GeometryOption,
    NetworkOption,
    OutputNameOption,
    ResampleOption,
    SettingsOption,
    ThreadsOption,
    VolumeOption,
    WeightsOption,
    scans_of,
    source_options,
)
from .released import Trusted, opened

Option = typer.Option


def command(  # noqa: PLR0913
    reference: Annotated[
        Path, typer.Argument(help="What export was given (checkpoint, ONNX, bundle, ...), or an .onnx artifact.")
    ],
    candidate: Annotated[
        Path, typer.Argument(help="NAME.onnx in FP32, FP16 or INT8, or OpenVINO's NAME.xml; RELEASE#ARTIFACT.")
    ],
    scan: Annotated[Path, typer.Argument(help="A scan, of several channels T1+T2+...")],
    runtime: Annotated[
        str, Option("--runtime", metavar="NAME", help="Of an .onnx candidate: onnxruntime by default, or openvino, ...")
    ] = "",
    samples: Annotated[int, Option("--samples", min=1, help="Patches of the scan.")] = 2,
    try_: Annotated[
        bool, Option("--try", help="Make the candidate again as is advised, and say what that does.")
    ] = False,
    every: Annotated[
        bool, Option("--all", help="Print every layer, not only those that leave and their neighbours.")
    ] = False,
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
        Option("--spec", metavar="SPEC.json", help="Of a reference that the candidate was not made from."),
    ] = None,
    timeout: Annotated[float, Option("--timeout", min=1, help="Of opening and running one layer, in s.")] = 600.0,
    threads: ThreadsOption = 0,
    trusted: Trusted = None,
    json: Annotated[bool, Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """Say in which layer a candidate first leaves its reference, and what helps.

    Each layer is run as a graph of its own, in the candidate's runtime: fed with the reference's values (local error)
    and with the candidate's (what has added up). Exit code 1 when a layer leaves the reference.
    """
    try:
        from medattn_edge.evaluation.bisect import BisectSettings, advise, attempt, bisect
    except ImportError as error:
        raise MissingDependency.of_extra(str(error.name), "export") from error
    from medattn_edge.host.cores import usable_cores

    source = source_options(network, output_name, set_ or [], weights, fold, spec)
    settings = BisectSettings(runtime=runtime, samples=samples, threads=threads, timeout_s=timeout, source=source)
    [chosen] = scans_of([scan], resample_to_first, geometry, volume_number)
    with (
        opened([reference, candidate], trusted) as models,
        tempfile.TemporaryDirectory() as folder,
        console.stages() as progress,
    ):
        first, second = models.files
        settings = replace(settings, beside={**models.others[0], **models.others[1]})
        found = bisect(first, second, chosen, settings=settings, folder=Path(folder), progress=progress)
        advice = advise(found, str(scan))
        attempts = []
        for index, one in enumerate(advice if try_ else ()):
            if one.changes is not None:
                progress(one.reason, index, len(advice))
                attempts.append(attempt(found, one, chosen, threads or usable_cores(), timeout))
    document: dict[str, Any] = {
        **found.to_json(),
        "advice": [one.to_json() for one in advice],
        "tried": [one.to_json() for one in attempts],
    }
    document = models.named(document)
    if json:
        console.print_json(document)
    else:
        tell(document, every)
    if not found.passed:
        raise typer.Exit(1)
