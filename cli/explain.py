"""explain: what a network attends to in a scan, eager and deployed side by side."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from medattn_edge.errors import UsageError, quoted

from . import console
from .options import (
    FoldOption,
    GeometryOption,
    NetworkOption,
    OutputNameOption,
    OverlapOption,
    ResampleOption,
    SettingsOption,
    ThreadsOption,
    VolumeOption,
    WeightsOption,
    parse_spacing,
    source_options,
)
from .released import Trusted, opened

Option = typer.Option


def command(  # noqa: PLR0913
    checkpoint: Annotated[Path, typer.Argument(help="The reference: a checkpoint, or any source that export takes.")],
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="[ARTIFACT] SCAN",
            help="What is deployed, made from the checkpoint (or RELEASE, RELEASE#ARTIFACT); then a scan, of several "
            "channels T1+T2+...",
        ),
    ],
    output: Annotated[Path, Option("--output", "-o", help="A new folder for maps, labels, pictures and explain.html.")],
    runtime: Annotated[str, Option("--runtime", metavar="NAME", help="Of an .onnx artifact, as compare has it.")] = "",
    threads: ThreadsOption = 0,
    overlap: OverlapOption = None,
    timeout: Annotated[float, Option("--timeout", min=1, help="Of opening, and of one run, in s.")] = 600.0,
    scratch: Annotated[Path | None, Option("--scratch", help="Folder for maps that do not fit in memory.")] = None,
    series: Annotated[
        str, Option("--series", metavar="HASH", help="Of a DICOM folder with several: as inspect shows it.")
    ] = "",
    pixel_spacing: Annotated[
        str, Option("--pixel-spacing", metavar="YXX", help="mm of a picture, which has none of its own.")
    ] = "",
    geometry: GeometryOption = None,
    volume_number: VolumeOption = 0,
    resample_to_first: ResampleOption = False,
    network: NetworkOption = "",
    output_name: OutputNameOption = "",
    set_: SettingsOption = None,
    weights: WeightsOption = "",
    fold: FoldOption = "",
    spec: Annotated[Path | None, Option("--spec", metavar="SPEC.json", help="Of a reference that has none.")] = None,
    trusted: Trusted = None,
    json: Annotated[bool, Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """Show the attention maps of a scan: gates; position, channel and guided attention.

    With an artifact, its maps beside the checkpoint's, and how near they are. Where the artifact does not answer its
    maps, a copy of its graph does, whose logits are held to those of the file itself on every window.
    """
    from medattn_edge.evaluation.attention import ExplainSettings, check_output, explain, write_explanation
    from medattn_edge.io import as_scan

    check_output(output)
    artifact, scan = _split(checkpoint, files)
    source = source_options(network, output_name, set_ or [], weights, fold, spec)
    settings = ExplainSettings(runtime, threads, overlap, None, timeout, scratch, source)
    if runtime and artifact is None:
        raise UsageError(f"--runtime {runtime} without an artifact", expected="an .onnx file", hint="leave it out")
    given = [checkpoint] if artifact is None else [checkpoint, artifact]
    with opened(given, trusted) as models, console.stages() as progress:
        explanation = explain(
            models.files[0],
            as_scan(
                scan,
                series,
                parse_spacing(pixel_spacing) if pixel_spacing else (),
                resample_to_first=resample_to_first,
                geometry=geometry or "",
                volume=volume_number,
            ),
            None if artifact is None else models.files[1],
            settings=settings,
            progress=progress,
        )
        progress("drawing", 0, 1)
        written = write_explanation(explanation, output)
    document = models.named(
        {
            "checkpoint": str(checkpoint),
            "artifact": None if artifact is None else str(artifact),
            **explanation.to_json(),
            "written": {what: str(path) for what, path in written.items()},
        }
    )
    if json:
        console.print_json(document)
        return
    _tell(document, "" if explanation.source is None else explanation.source.sentence)


def _split(checkpoint: Path, files: list[Path]) -> tuple[Path | None, Path]:
    """The artifact, where there is one, and the scan."""
    if len(files) > 2:
        raise UsageError(
            f"{len(files)} files after the checkpoint",
            expected="an artifact and one scan, or one scan; channels of a scan are joined: T1.nii.gz+T2.nii.gz",
            hint=f"medattn-edge explain {quoted(checkpoint)} NET.onnx SCAN -o FOLDER",
        )
    return (None if len(files) == 1 else files[0]), files[-1]


def _tell(document: Mapping[str, Any], sentence: str) -> None:
    """Print what the document says."""
    from rich.table import Table

    table = Table("map", "from", "to", "SQNR dB", "largest difference", "correlation")
    for row in (*document["maps"], *document["channel_attention"]):
        figures = [f"{row['low']:.4g}", f"{row['high']:.4g}"]
        figures += [_figure(row["sqnr_db"], ".1f"), _figure(row["max_abs"], ".3g"), _figure(row["correlation"], ".6f")]
        table.add_row(row["map"], *figures)
    console.show(table)
    if document["label_match"] is not None:
        dice = ", ".join(f"{name} {value:.6f}" for name, value in document["dice"].items()) or "of no label"
        console.say(f"labels: {document['label_match']:.6%} are the same; Dice with the reference {dice}")
    if sentence:
        console.say(sentence)
    for note in document["notes"]:
        console.say(f"note: {note}")
    for what, path in document["written"].items():
        console.say(f"{what}: {path}")


def _figure(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
