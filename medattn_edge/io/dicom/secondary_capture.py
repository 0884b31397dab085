"""Pictures of the labels as DICOM, for archives and viewers without segmentations: slices with coloured outlines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from medattn_edge.atomic import replacing
from medattn_edge.errors import UsageError
from medattn_edge.io.colours import RGB
from medattn_edge.io.dicom.derived import MANUFACTURER, complete, highdicom, software_versions
from medattn_edge.io.dicom.series import Series
from medattn_edge.io.dicom.source import Frame, Source, lenient, read_source
from medattn_edge.io.dicom.uids import Algorithm, Identity
from medattn_edge.io.display import display_window, draw_labels, label_name, masks, names_of_values
from medattn_edge.io.organs import label_colours
from medattn_edge.io.page import LegendEntry, Panel, PanelRow, compose
from medattn_edge.spec import Code
from medattn_edge.volume import Array, Volume

_LONGEST_SIDE = 620  # pixels of a slice
_OUTLINE = 2
_ENDS = ("LPH", "RAF")


@dataclass(frozen=True, eq=False)
class _Picture:
    """A page with one slice.

    Attributes:
        pixels: uint8 (rows, columns, 3).
        spacing: mm of one.
        orientation: where its rows and its columns go.
    """

    pixels: Array
    spacing: float
    orientation: tuple[str, str]


class _Legend(NamedTuple):
    """What the numbers of `masks` are called, and their colours."""

    names: Sequence[str]
    colours: Sequence[RGB]


def secondary_capture(  # noqa: PLR0913 - each is one thing that is drawn, or how it is named
    folder: Path,
    volume: Volume,
    labels: Volume,
    names: Sequence[str],
    series: Series,
    algorithm: Algorithm,
    count: int = 3,
    *,
    codes: Mapping[str, Code] | None = None,
) -> tuple[Path, ...]:
    """Write key slices as key_1.dcm, key_2.dcm, ...

    The key slices are the ones with the most voxels of each label, those of the largest labels first, and then the ones
    with the most labelled voxels; only the middle slice when there is none. They are shown as they were acquired, in
    the scanner's window or from the 1st to the 99th percentile, and each refers to its own slice. The same input gives
    the same UIDs and bytes.

    Args:
        folder: that exists.
        volume: the scan (D, H, W) on the series' grid, in any order of the axes.
        labels: (D, H, W) on that grid; or regions that may overlap, (K, D, H, W) of 0 and 1.
        names: names[value] names a label; or one per region.
        series: that the labels belong to.
        algorithm: that made them.
        count: how many slices at most.
        codes: of labels, by name: for the colours of organs.

    Returns:
        The files, in slice order.

    Raises:
        UsageError: for a count below 1.
        ScanError: when the series is gone.
        GeometryError: for another grid.
        OutputError: when a file cannot be written.
        MissingDependency: without highdicom.
    """
    library = highdicom()
    if count < 1:
        raise UsageError(f"{count} key slices", expected="1 or more", hint="--key-slices 3")
    source = read_source(series)
    drawn = labels.like(source.grid).voxels
    scan = volume.like(source.grid).voxels
    scan = scan if scan.ndim == 3 else scan[0]
    window = source.window or display_window(scan)
    identity = Identity(series.series_instance_uid, source.sop_instance_uids, algorithm, "key-slices")
    known = names_of_values(drawn, 3, names)
    legend = _Legend(known, label_colours(known, codes, on_grey=True))
    paths = []
    for number, place in enumerate(key_slices(drawn, count), start=1):
        grey = np.clip((np.nan_to_num(scan[place].astype(np.float32)) - window[0]) / (window[1] - window[0]), 0, 1)
        picture = _picture(source, place, grey, drawn[..., place, :, :], legend)
        paths.append(Path(folder) / f"key_{number}.dcm")
        with lenient():
            image = _image(library, picture, source, identity, number)
            _refer(image, source.frames[place])
            with replacing(paths[-1]) as temporary:
                image.save_as(temporary, enforce_file_format=True)
    return tuple(paths)


def key_slices(labels: Array, count: int) -> list[int]:
    """The slices (along D) that show most, in slice order: at most `count`, and none without a label but the middle."""
    if labels.ndim == 4:
        counts, slices = np.count_nonzero(labels, axis=(2, 3)).T, labels.shape[1]
    else:
        counts = np.stack([np.bincount(plane.ravel(), minlength=int(labels.max()) + 1) for plane in labels])[:, 1:]
        slices = len(labels)
    by_size = np.argsort(-counts.sum(axis=0), kind="stable")
    busiest = [int(counts[:, label].argmax()) for label in by_size if counts[:, label].any()]
    fullest = np.argsort(-counts.sum(axis=1), kind="stable")
    places = dict.fromkeys([*busiest, *(int(place) for place in fullest if counts[place].any())])
    return sorted(list(places)[:count]) or [slices // 2]


def _picture(source: Source, place: int, grey: Array, labels: Array, legend: _Legend) -> _Picture:
    """A slice (rows, columns) in 0..1 with its labels, as a page with a legend."""
    from PIL import Image

    _, down_mm, across_mm = source.grid.spacing
    size = grey.shape[0] * down_mm, grey.shape[1] * across_mm
    scale = _LONGEST_SIDE / max(size)
    rows, columns = (max(8, round(mm * scale)) for mm in size)
    flat = Image.fromarray(grey.astype(np.float32)).resize((columns, rows), Image.Resampling.BILINEAR)
    pixels = np.repeat(255 * np.asarray(flat)[..., None], 3, axis=-1)
    draw_labels(pixels, labels, 0.0, _OUTLINE, legend.colours)
    _, down, across = source.grid.affine[:3, :3].T
    edges = "".join(_end(step) for step in (-across, across, -down, down))
    caption = f"slice {place + 1} of {len(source.frames)}   not for diagnosis"
    entries = [LegendEntry(value, label_name(legend.names, value)) for value, _ in masks(labels, 2)]
    panel = Panel((pixels + 0.5).astype(np.uint8), edges, caption)
    page = compose([PanelRow([panel])], entries, scale, legend.colours)
    return _Picture(np.asarray(page), 1 / scale, (edges[1], edges[3]))


def _end(step: Array) -> str:
    """The letter of the patient's side that a direction (LPS) leads to."""
    axis = int(np.abs(step).argmax())
    return _ENDS[bool(step[axis] < 0)][axis]


def _image(library: Any, picture: _Picture, source: Source, identity: Identity, number: int) -> Any:
    """The secondary capture image, without its references."""
    algorithm, header = identity.algorithm, source.frames[0].header
    image = library.sc.SCImage(
        pixel_array=picture.pixels,
        photometric_interpretation="RGB",
        bits_allocated=8,
        coordinate_system="PATIENT",
        study_instance_uid=header.StudyInstanceUID,
        series_instance_uid=identity.uid("series"),
        series_number=2000 + source.series_number,
        series_description=f"{algorithm.name} key slices"[:64],
        sop_instance_uid=identity.uid("instance", number),
        instance_number=number,
        manufacturer=MANUFACTURER,
        manufacturer_model_name=algorithm.name,
        software_versions=software_versions(algorithm),
        device_serial_number=algorithm.model_sha256,
        pixel_spacing=(picture.spacing, picture.spacing),
        patient_orientation=picture.orientation,
    )
    image.BurnedInAnnotation = "NO"  # nothing in the picture says whose it is
    image.Laterality = ""  # unknown: the labels may be on either side
    image.DerivationDescription = f"Outlines of {algorithm.name}, model {algorithm.model_sha256}"
    for element in header.group_dataset(0x0028):
        if element.keyword.startswith("LossyImage"):
            image.add(element)
    complete(image, source, identity, (algorithm.name, algorithm.version))
    return image


def _refer(image: Any, frame: Frame) -> None:
    """Say which slice of the source a picture shows."""
    from highdicom.sr import CodedConcept
    from pydicom.dataset import Dataset
    from pydicom.sr.codedict import codes

    reference, instance, series = Dataset(), Dataset(), Dataset()
    for item in (reference, instance):
        item.ReferencedSOPClassUID = frame.header.SOPClassUID
        item.ReferencedSOPInstanceUID = frame.header.SOPInstanceUID
    if frame.number:
        reference.ReferencedFrameNumber = frame.number
    reference.PurposeOfReferenceCodeSequence = [
        CodedConcept.from_code(codes.DCM.SourceImageForImageProcessingOperation)
    ]
    image.SourceImageSequence = [reference]
    series.SeriesInstanceUID = frame.header.SeriesInstanceUID
    series.ReferencedInstanceSequence = [instance]
    image.ReferencedSeriesSequence = [series]
