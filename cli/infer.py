"""infer: artifact + scan -> labels; of a folder, a pattern or a list of scans the labels of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from medattn_edge.errors import UsageError

from . import console
from .device_text import device_text
from .infer_archive import (
    LIMIT,
    TIMEOUT_S,
    ArchiveOptions,
    CaOption,
    CredentialsOption,
    FromOption,
    LimitOption,
    QueryOption,
    SendOption,
    StudyOption,
    TimeoutOption,
    ToCredentialsOption,
    ToOption,
    archived,
    check_archived,
    check_sendable,
    send_results,
)
from .infer_cohort import (
    AddressOption,
    CaseTimeoutOption,
    EngineOption,
    EstimateOption,
    ParquetOption,
    WorkersOption,
    estimated,
    finish,
    is_cohort,
    named_later,
    pool_of,
    run_cohort,
)
from .options import DeviceOption, GeometryOption, OverlapOption, ThreadsOption, VolumeOption, parse_spacing
from .released import Trusted, opened

if TYPE_CHECKING:
    from medattn_edge.io import Scan

Option = typer.Option


def command(  # noqa: PLR0913
    artifact: Annotated[
        Path,
        typer.Argument(help="An artifact, RELEASE or RELEASE#ARTIFACT, or a checkpoint to run in eager PyTorch."),
    ],
    output: Annotated[
        str,
        Option(
            "--output",
            "-o",
            metavar="PATH",
            help="Labels on the scan's grid: labels.nii.gz, seg.dcm, ...; FOLDER/ for those of many scans.",
        ),
    ],
    scan: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="SCAN...",
            help="A DICOM folder, file or DICOMDIR, NIfTI, NRRD, .npz, PNG or JPEG; several for the channels of a "
            "network, in their order or as NAME=SCAN. With -o FOLDER/ every scan below a folder, 'data/*/t1.nii.gz' "
            "in quotes, or LIST.csv with the columns scan, case and further channels. Or http(s)://HOST:PORT/PATH, the "
            "address of an archive's DICOMweb service, with --study or --query; --from URL is the same.",
        ),
    ] = None,
    name: Annotated[
        str,
        Option(
            "--name",
            metavar="PATTERN",
            help="Of labels in a folder, with {case} and perhaps {folder}; '{case}_labels.nii.gz' by default. "
            "--overlay and other outputs are patterns too then.",
        ),
    ] = "",
    resume: Annotated[
        bool, Option("--resume", help="Go on in a folder with results: what is done, by content, is not done again.")
    ] = False,
    dicom_paths: Annotated[
        bool, Option("--dicom-paths", help="Name the folders of DICOM series in tables, though they may name people.")
    ] = False,
    probabilities: Annotated[
        Path | None, Option("--probabilities", help="Also write one map per label: maps.nii.gz, or maps.dcm for DICOM.")
    ] = None,
    overlay: Annotated[Path | None, Option("--overlay", help="Also draw a picture: overlay.png.")] = None,
    attention: Annotated[Path | None, Option("--attention", help="Also write the attention maps.")] = None,
    backend: Annotated[str, Option("--backend", help="Instead of the suffix's default.")] = "",
    device: DeviceOption = "auto",
    provider: Annotated[
        Literal["cuda", "tensorrt"] | None, Option(help="Of ONNX Runtime on a GPU; cuda by default.")
    ] = None,
    threads: ThreadsOption = 0,
    overlap: OverlapOption = None,
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
        str,
        Option(
            "--series",
            metavar="HASH",
            help="Of a DICOM folder with several: as inspect shows it; of an archive also UID.",
        ),
    ] = "",
    from_: FromOption = "",
    study: StudyOption = "",
    query: QueryOption = None,
    limit: LimitOption = LIMIT,
    to: ToOption = "",
    to_credentials: ToCredentialsOption = None,
    send: SendOption = None,
    credentials: CredentialsOption = None,
    ca: CaOption = None,
    timeout: TimeoutOption = TIMEOUT_S,
    geometry: GeometryOption = None,
    volume_number: VolumeOption = 0,
    any_modality: Annotated[
        bool, Option("--any-modality", help="Take a scan of another modality than the network's, and note it.")
    ] = False,
    resample_to_first: Annotated[
        bool, Option("--resample-to-first", help="Bring scans on another grid to the first's, linearly.")
    ] = False,
    seg_kind: Annotated[
        Literal["binary", "labelmap"] | None, Option("--seg-kind", help="Of -o seg.dcm; binary by default.")
    ] = None,
    key_slices: Annotated[
        int, Option("--key-slices", min=0, help="Beside -o seg.dcm, as many slices with outlines: key_1.dcm, ...")
    ] = 0,
    rtstruct: Annotated[
        Path | None, Option("--rtstruct", help="Also write a DICOM series' labels as contours: labels.rtstruct.dcm.")
    ] = None,
    sr: Annotated[
        Path | None, Option("--sr", help="Beside -o seg.dcm, the volumes as a measurement report: volumes.sr.dcm.")
    ] = None,
    regions: Annotated[
        Literal["maps", "label-map"] | None,
        Option(
            "--regions", help="Of a sigmoid network: one map each, or one label map in its order, where it has one."
        ),
    ] = None,
    workers: WorkersOption = 1,
    case_timeout: CaseTimeoutOption = None,
    engine: EngineOption = "local",
    address: AddressOption = "",
    parquet: ParquetOption = False,
    estimate: EstimateOption = 0,
    trusted: Trusted = None,
    json: Annotated[bool, Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """Segment a scan; print the volume of every label in ml.

    Into a folder, segment many: with volumes.csv, failures.csv and exit code 1 when a case failed.
    """
    from medattn_edge.cohort import CohortSettings, ScanChoices
    from medattn_edge.cohort.settings import STANDARD_NAME
    from medattn_edge.inference import Opening, Outputs, SegmentSettings, segment_to
    from medattn_edge.io import as_scan

    spacing = parse_spacing(pixel_spacing) if pixel_spacing else ()
    settings = SegmentSettings(
        overlap,
        _windows(batch),
        scratch=scratch,
        skip_air=skip_air,
        check_skipped=check_skipped,
        any_modality=any_modality,
    )
    opening = Opening(backend, device, threads, provider or "", cache)
    said = ArchiveOptions(study, tuple(query or ()), limit, from_, to, credentials, ca, timeout, to_credentials)
    scan = scan or []
    source, paths = said.source(scan), [Path(one) for one in scan]
    pool = pool_of(workers, case_timeout, engine, address)
    given = {
        "--name": bool(name),
        "--resume": resume,
        "--workers": workers > 1,
        "--engine": engine != "local",
        "--parquet": parquet,
        "--estimate": bool(estimate),
    }
    if is_cohort(output, [] if source else paths, given):
        _check_one_series(series)
        cohort = CohortSettings(
            name or STANDARD_NAME,
            key_slices=key_slices,
            seg_kind=seg_kind,
            regions=regions,
            parquet=parquet,
            resume=resume,
            segment=settings,
            opening=opening,
            pool=pool,
        )
        further = {"probabilities": probabilities, "attention": attention, "overlay": overlay}
        cohort = named_later(cohort, {**further, "rtstruct": rtstruct, "sr": sr})
        choices = ScanChoices(spacing, geometry or "", volume_number, resample_to_first, dicom_paths)
        origin, target = said.archives(source)
        listed = said.listed(origin, choices)
        if source:
            check_archived(spacing, resample_to_first, geometry)
        with opened([artifact], trusted) as models:
            outcomes = run_cohort(models, paths, output, cohort, choices, listed, target)
            studies = estimated(outcomes, estimate)
        finish({"artifact": str(artifact), **models.named(outcomes.to_json())}, outcomes, studies, json)
        return
    outputs = Outputs(
        Path(output), probabilities, attention, overlay, key_slices, seg_kind, regions=regions, rtstruct=rtstruct, sr=sr
    )
    said.check_one()
    origin, target = said.archives(source)
    if target is not None:
        check_sendable(outputs)
    with ExitStack() as stack:
        models = stack.enter_context(opened([artifact], trusted))
        if origin is not None:
            check_archived(spacing, resample_to_first, geometry)
            scanned: Scan = stack.enter_context(archived(origin, study, series, outputs, volume_number))
        else:
            scanned = as_scan(
                paths,
                series,
                spacing,
                resample_to_first=resample_to_first,
                geometry=geometry or "",
                volume=volume_number,
            )
        stack.enter_context(console.timed("inference"))
        progress = stack.enter_context(console.progress("segmenting"))
        outcome = segment_to(models.files[0], scanned, outputs, settings=settings, opening=opening, progress=progress)
        document = {"artifact": str(artifact), **models.named(outcome.to_json())}
    if target is not None:
        document["sent"] = send_results(target, outcome.written)
    if json:
        console.print_json(document)
    else:
        _tell(outcome.segmentation.meaning.structures, document, skip_air)


def _check_one_series(series: str) -> None:
    if series:
        raise UsageError(
            f"--series {series} with a folder to write to",
            expected="one series and one file, or every series",
            hint="-o seg.dcm, or leave --series out",
        )


def _windows(batch: str) -> int | Literal["auto"] | None:
    """Windows per run; None leaves it to the patch."""
    if batch == "auto":
        return "auto"
    if batch and not (batch.isascii() and batch.isdigit() and int(batch) > 0):
        raise UsageError(f"a batch of {batch!r}", expected="a whole number above 0, or auto", hint="--batch 4")
    return int(batch) if batch else None


def _tell(names: Sequence[str], document: Mapping[str, Any], skip_air: bool) -> None:
    """Print what the document says."""
    from rich.table import Table

    table = Table("label", "name", "voxels", "ml")
    millilitres, voxels = document["volumes_ml"], document["voxels"]
    for value, name in enumerate(names, start=1):
        table.add_row(str(value), name, f"{voxels[name]:,}", f"{millilitres[name]:,.1f}" if millilitres else "-")
    console.show(table)
    for what, path in document["written"].items():
        console.say(f"{what}: {path}")
    console.say(f"computed on {device_text(document['session'])}")
    for what, how in document.get("sent", {}).items():
        console.say(f"{what}: {how} in the archive")
    for line in document["channels"]:
        console.say(line)
    for note in document["notes"]:
        console.say(f"note: {note}")
    if skip_air:
        _tell_skipped(document["windows"])


def _tell_skipped(windows: Mapping[str, Any]) -> None:
    """How many windows were left out, and how well that agrees with the network."""
    fraction = windows["skipped"] / windows["total"]
    console.say(f"left out: {windows['skipped']} of {windows['total']} windows ({fraction:.0%}), which see only air")
    if not windows["skipped"]:
        return
    background = windows["background"]
    console.say(
        f"checked: {windows['checked']} of these; the network calls {background:.4%} of their voxels background"
    )
    if "agreement" in windows:
        dice = ", ".join(f"{name} {value:.6f}" for name, value in windows["agreement"]["dice"].items()) or "of no label"
        match = windows["agreement"]["label_match"]
        console.say(f"with nothing left out: {match:.6%} of all labels are the same; Dice {dice}")
    elif background < 1:
        console.say("next: --check-skipped, to see what that changes")
