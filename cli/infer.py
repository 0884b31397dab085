"""infer: artifact + scan -> labels."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from medattn_edge.atomic import check_folder
from medattn_edge.errors import MedattnError, UsageError

from . import console
from .dicom_output import check_dicom_options, facts_of, facts_of_grid, notes_of_grid, outputs_beside, read_scan
from .options import parse_spacing

if TYPE_CHECKING:
    from medattn_edge.inference import Segmentation
    from medattn_edge.io.dicom.volume import Series
    from medattn_edge.volume import Volume

Option = typer.Option


def command(  # noqa: PLR0913
    artifact: Annotated[Path, typer.Argument(help="An artifact, or a checkpoint to run in eager PyTorch.")],
    scan: Annotated[Path, typer.Argument(help="A DICOM folder, file or DICOMDIR, NIfTI, NRRD, .npz, PNG or JPEG.")],
    output: Annotated[Path, Option("--output", "-o", help="Labels on the scan's grid: labels.nii.gz, seg.dcm, ...")],
    probabilities: Annotated[Path | None, Option("--probabilities", help="Also write one map per label.")] = None,
    overlay: Annotated[Path | None, Option("--overlay", help="Also draw a picture: overlay.png.")] = None,
    attention: Annotated[Path | None, Option("--attention", help="Also write the attention maps.")] = None,
    backend: Annotated[str, Option("--backend", help="Instead of the suffix's default.")] = "",
    device: Annotated[str, Option("--device", help="cpu or cuda:INDEX.")] = "cpu",
    provider: Annotated[
        Literal["cuda", "tensorrt"] | None, Option(help="Of ONNX Runtime on a GPU; cuda by default.")
    ] = None,
    threads: Annotated[int, Option("--threads", min=0, help="Of the CPU; 0 is one for each physical core.")] = 0,
    overlap: Annotated[float, Option("--overlap", help="Of neighbouring windows, 0 to below 1.")] = 0.5,
    batch: Annotated[
        str,
        Option(
            "--batch",
            metavar="N|auto",
            help="Windows per run, where the artifact leaves the choice: 4 in 2-D and 1 in 3-D; auto measures it.",
        ),
    ] = "",
    skip_air: Annotated[
        bool, Option("--skip-air", help="Leave out windows outside the body: background. One in 16 is checked.")
    ] = False,
    check_skipped: Annotated[
        bool, Option("--check-skipped", help="Run it again with nothing left out, and print the agreement.")
    ] = False,
    cache: Annotated[
        Path | None, Option("--cache", help="Folder of yours to keep OpenVINO's compiled models in; none by default.")
    ] = None,
    pixel_spacing: Annotated[
        str, Option("--pixel-spacing", metavar="YXX", help="mm of a picture, which has none of its own.")
    ] = "",
    scratch: Annotated[Path | None, Option("--scratch", help="Folder for maps that do not fit in memory.")] = None,
    series: Annotated[
        str, Option("--series", metavar="HASH", help="Of a DICOM folder with several: as inspect shows it.")
    ] = "",
    geometry: Annotated[
        Literal["sform", "qform"] | None, Option("--geometry", help="Of a NIfTI file whose two forms contradict.")
    ] = None,
    volume_number: Annotated[
        int, Option("--volume", metavar="N", min=0, help="Of data with several volumes (time points, echoes), from 1.")
    ] = 0,
    seg_kind: Annotated[
        Literal["binary", "labelmap"] | None, Option("--seg-kind", help="Of -o seg.dcm; binary by default.")
    ] = None,
    key_slices: Annotated[
        int, Option("--key-slices", min=0, help="Beside -o seg.dcm, as many slices with outlines: key_1.dcm, ...")
    ] = 0,
    json: Annotated[bool, Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """Segment a scan; print the volume of every label in ml."""
    from dataclasses import asdict

    from medattn_edge.backends import open_session
    from medattn_edge.host.hardware import usable_cores
    from medattn_edge.inference import Settings, segment
    from medattn_edge.inference.dicom_results import algorithm_of, asked, write_key_slices, write_segmentation
    from medattn_edge.io import format_of, write_labels, write_maps

    for path in (output, probabilities, attention):
        if path is not None:
            format_of(path)
    outputs = [path for path in (output, probabilities, attention, overlay) if path is not None]
    outputs += outputs_beside(output, key_slices)
    _check_outputs(outputs, scan)
    check_dicom_options(output, scan, seg_kind, key_slices, series)
    if overlay is not None and overlay.suffix.lower() != ".png":
        raise UsageError(f"the picture {overlay.name}", expected="a .png", hint=f"--overlay {overlay.stem}.png")
    windows = _windows(batch)
    if check_skipped and not skip_air:
        raise UsageError("--check-skipped without --skip-air", expected="something to check", hint="--skip-air")
    with (
        console.timed("inference"),
        ThreadPoolExecutor(1) as pool,
        _kept_in(cache),
        _at_once(pool, lambda: read_scan(scan, series, outputs, geometry or "", volume_number)) as reading,
        open_session(
            artifact,
            backend=backend or None,
            device=device,
            threads=threads or usable_cores(),
            provider=provider or "",
        ) as session,
        console.progress("segmenting") as progress,
    ):
        volume, source = reading.result()
        volume = _calibrated(volume, pixel_spacing)
        # The picture shows attention where the artifact has it; the file is an order, and fails where it has not.
        wanted = attention is not None or (overlay is not None and bool(session.attention_names))
        settings = Settings(overlap, windows, probabilities is not None, wanted, scratch, skip_air)
        found = segment(session, volume, settings=settings, progress=progress)
        walked = asdict(found.walked)
        if check_skipped:
            plain = Settings(overlap, found.walked.batch)
            whole = segment(session, volume, settings=plain, progress=progress) if found.walked.skipped else found
            walked["agreement"] = _agreement(whole, found)
        facts, spec = session.facts, session.spec
    written, notes = {"labels": str(output)}, [*(source.notes if source else ()), *notes_of_grid(volume)]
    if source is None or format_of(output).write_labels is not None:
        write_labels(output, found.labels, found.names)
    else:
        algorithm = algorithm_of(artifact, spec, asked(overlap, skip_air, str(facts["backend"])))
        notes += write_segmentation(output, found, source, algorithm, spec.codes, seg_kind or "binary")[1]
        pictures = write_key_slices(output, key_slices, volume, found, source, algorithm) if key_slices else ()
        written |= {f"key slice {number}": str(path) for number, path in enumerate(pictures, start=1)}
    if probabilities is not None and found.probabilities is not None:
        write_maps(probabilities, found.probabilities, found.names)
        written["probabilities"] = str(probabilities)
    if attention is not None and found.attention is not None:
        write_maps(attention, found.attention, found.attention_names)
        written["attention"] = str(attention)
    if overlay is not None:
        _draw(overlay, volume, found)
        written["overlay"] = str(overlay)
    if json:
        document = {
            "scan": str(scan),
            "artifact": str(artifact),
            "written": written,
            "series": None if source is None else facts_of(source),
            "geometry": facts_of_grid(volume),
            "notes": notes,
            "volumes_ml": found.volumes_ml,
            "voxels": _voxels(found),
            "windows": walked,
            "session": facts,
        }
        console.print_json(document)
    else:
        _tell(found, written)
        for note in notes:
            console.say(f"note: {note}")
        if skip_air:
            _tell_skipped(walked)


@contextmanager
def _at_once(
    pool: ThreadPoolExecutor, read: Callable[[], tuple[Volume, Series | None]]
) -> Iterator[Future[tuple[Volume, Series | None]]]:
    """The scan is read while the session opens; when neither can be, the scan's error is the one that is raised."""
    reading = pool.submit(read)
    try:
        yield reading
    except MedattnError:
        reading.result()
        raise


def _windows(batch: str) -> int | Literal["auto"] | None:
    """Windows per run; None leaves it to the patch."""
    if batch == "auto":
        return "auto"
    if batch and not (batch.isascii() and batch.isdigit() and int(batch) > 0):
        raise UsageError(f"a batch of {batch!r}", expected="a whole number above 0, or auto", hint="--batch 4")
    return int(batch) if batch else None


@contextmanager
def _kept_in(cache: Path | None) -> Iterator[None]:
    """Compiled models are kept in a folder: for OpenVINO this is a variable, so that its child processes know too."""
    from medattn_edge.backends.openvino.model import CACHE

    before = os.environ.get(CACHE)
    if cache is not None:
        os.environ[CACHE] = str(cache)
    try:
        yield
    finally:
        if cache is not None:
            os.environ.pop(CACHE)
            os.environ |= {} if before is None else {CACHE: before}


def _agreement(whole: Segmentation, found: Segmentation) -> dict[str, Any]:
    """What leaving windows out changed."""
    from medattn_edge.agreement import dice_per_label

    expected, labels = whole.labels.voxels, found.labels.voxels
    return {
        "label_match": float((expected == labels).mean()),
        "dice": dice_per_label(expected, labels, found.names),
    }


def _check_outputs(paths: list[Path], scan: Path) -> None:
    """What cannot be written is said before the work, not after it."""
    for path in paths:
        check_folder(path)
        if path.resolve() == scan.resolve():
            raise UsageError(f"{path} is the scan itself", expected="another file to write to", hint="-o labels.nii.gz")
    if len({path.resolve() for path in paths}) != len(paths):
        raise UsageError("two outputs have the same name", expected="one file each", hint="-o labels.nii.gz")


def _calibrated(volume: Volume, pixel_spacing: str) -> Volume:
    """A picture with the spacing that the user knows."""
    from dataclasses import replace

    import numpy as np

    if not pixel_spacing:
        return volume
    if volume.calibrated:
        raise UsageError(
            "the scan has its own spacing",
            expected="--pixel-spacing only for pictures",
            hint="leave --pixel-spacing out",
        )
    spacing = parse_spacing(pixel_spacing)
    steps = (1.0, *spacing) if len(spacing) == 2 else spacing
    return replace(volume, affine=volume.affine @ np.diag([*steps, 1.0]), calibrated=True)


def _draw(path: Path, volume: Volume, found: Segmentation) -> None:
    from medattn_edge.io.overlay import write_overlay

    if found.attention is None:
        write_overlay(path, volume, found.labels, found.names)
        return
    # The last map is the finest gate, or the guided response of the coarsest scale: what the network ends with.
    names = found.attention_names
    index = names.index("guided_1") if "guided_1" in names else len(names) - 1
    write_overlay(
        path, volume, found.labels, found.names, attention=found.attention.voxels[index], attention_name=names[index]
    )


def _voxels(found: Segmentation) -> dict[str, int]:
    return {name: int((found.labels.voxels == value).sum()) for value, name in enumerate(found.names) if value}


def _tell(found: Segmentation, written: dict[str, str]) -> None:
    from rich.table import Table

    table = Table("label", "name", "voxels", "ml")
    millilitres, voxels = found.volumes_ml, _voxels(found)
    for value, name in enumerate(found.names[1:], start=1):
        table.add_row(str(value), name, f"{voxels[name]:,}", f"{millilitres[name]:,.1f}" if millilitres else "-")
    console.show(table)
    for what, path in written.items():
        console.say(f"{what}: {path}")


def _tell_skipped(walked: dict[str, Any]) -> None:
    """How many windows were left out, and how well that agrees with the network."""
    share = walked["skipped"] / walked["windows"]
    console.say(f"left out: {walked['skipped']} of {walked['windows']} windows ({share:.0%}), which see only air")
    if not walked["skipped"]:
        return
    kept = walked["background"]
    console.say(f"checked: {walked['checked']} of these; the network calls {kept:.4%} of their voxels background")
    if "agreement" in walked:
        dice = ", ".join(f"{name} {value:.6f}" for name, value in walked["agreement"]["dice"].items())
        match = walked["agreement"]["label_match"]
        console.say(f"with nothing left out: {match:.6%} of all labels are the same; Dice {dice}")
    elif kept < 1:
        console.say("next: --check-skipped, to see what that changes")
