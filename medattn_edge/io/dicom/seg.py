"""Labels as a DICOM segmentation, through highdicom: beside its series in every archive, the same bytes each time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from medattn_edge.atomic import replacing
from medattn_edge.errors import UsageError
from medattn_edge.io.colours import RGB
from medattn_edge.io.dicom.anatomy import TISSUE, Anatomy, anatomy_of
from medattn_edge.io.dicom.derived import MANUFACTURER, complete, highdicom, software_versions
from medattn_edge.io.dicom.reasons import RefusedSeries
from medattn_edge.io.dicom.series import Series
from medattn_edge.io.dicom.source import Source, lenient, read_source
from medattn_edge.io.dicom.uids import Algorithm, Identity
from medattn_edge.io.organs import label_colours
from medattn_edge.spec import Code
from medattn_edge.volume import Array, Volume

__all__ = ["KINDS", "MANY_FRAMES", "Algorithm", "SegFile", "check_frame_of_reference", "write_seg"]

Kind = Literal["binary", "labelmap"]
KINDS: tuple[Kind, ...] = ("binary", "labelmap")
MANY_FRAMES = 400  # above it Weasis shows no segmentation


@dataclass(frozen=True)
class SegFile:
    """A segmentation on disk.

    Attributes:
        path: of the file.
        sop_instance_uid: of the object.
        series_instance_uid: of its own series.
        segments: names, the first being segment 1, those without a voxel too.
        frames: how many were written.
        uncoded: segments of no known anatomy, which are written as tissue.
        remarks: what a viewer may not like, for people.
        kind: `binary` or `labelmap`.
    """

    path: Path
    sop_instance_uid: str
    series_instance_uid: str
    segments: tuple[str, ...]
    frames: int
    uncoded: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    kind: Kind = "binary"


def write_seg(
    path: Path,
    labels: Volume,
    names: Sequence[str],
    series: Series,
    algorithm: Algorithm,
    *,
    kind: Kind = "binary",
    codes: Mapping[str, Code] | None = None,
) -> SegFile:
    """Write the labels of a series; the file appears whole or not at all.

    Frames without a voxel are left out, segments without one stay listed; when there is no voxel at all, the lowest
    slice is written empty, because an image needs a frame. Memory: the frames, one by one.

    Args:
        path: to write to.
        labels: (D, H, W) on the series' own grid, in any order of the axes; or regions that may overlap, (K, D, H, W)
            of 0 and 1, each of which becomes a segment.
        names: names[value] names a label; or one per region.
        series: that the labels belong to.
        algorithm: that made them.
        kind: `binary` has a frame for each slice of each segment, and every viewer knows it; `labelmap` has one for
            each slice, and is new.
        codes: of labels, by name; for the others the names of common organs are known.

    Raises:
        GeometryError: when the grid is not the series'.
        UsageError: for labels that no segmentation can hold.
        RefusedSeries: for a series without a frame of reference.
        ScanError: when the series is gone, or is one of several volumes of a multi-frame instance.
        OutputError: when the file cannot be written.
        MissingDependency: without highdicom.
    """
    library = highdicom()
    check_kind(kind, overlapping=labels.voxels.ndim == 4)
    check_frame_of_reference(series)
    source = read_source(series)
    voxels = labels.like(source.grid).voxels
    segments = segment_names(voxels, names)
    anatomies = [anatomy_of(name, codes or {}) for name in segments]
    colours = label_colours(["", *segments], codes)
    identity = Identity(series.series_instance_uid, source.sop_instance_uids, algorithm, kind)
    with lenient():
        pixels, positions = _frames(source, voxels)
        dataset = library.seg.Segmentation(
            source_images=source.headers,
            pixel_array=pixels,
            plane_positions=positions,
            segmentation_type=kind.upper(),
            segment_descriptions=[
                _description(number, name, anatomy, algorithm, colours[number])
                for number, (name, anatomy) in enumerate(zip(segments, anatomies, strict=True), start=1)
            ],
            series_instance_uid=identity.uid("series"),
            series_number=1000 + source.series_number,
            series_description=f"{algorithm.name} segmentation"[:64],
            sop_instance_uid=identity.uid("instance"),
            instance_number=1,
            manufacturer=MANUFACTURER,
            manufacturer_model_name=algorithm.name,
            software_versions=software_versions(algorithm),
            device_serial_number=algorithm.model_sha256,
            content_label="SEGMENTATION",
        )
        dataset.ContentCreatorName = ""  # no person; highdicom leaves out what the standard wants there, if empty
        complete(dataset, source, identity, (*segments, algorithm.name, algorithm.version))
        with replacing(Path(path)) as temporary:
            dataset.save_as(temporary, enforce_file_format=True)
    frames = int(dataset.NumberOfFrames)
    return SegFile(
        Path(path),
        identity.uid("instance"),
        identity.uid("series"),
        tuple(segments),
        frames,
        tuple(name for name, anatomy in zip(segments, anatomies, strict=True) if anatomy is None),
        _remarks(frames, source),
        kind,
    )


def check_frame_of_reference(series: Series) -> None:
    """Check that a segmentation can lie in the coordinates of its series.

    Raises:
        RefusedSeries: when the series does not name them.
    """
    if series.accepted and not series.frame_of_reference_uid:
        raise RefusedSeries(
            "no_frame_of_reference",
            "no FrameOfReferenceUID",
            hint='write the labels as .nii.gz, or give the files of a folder `copy` one: python -c "import pathlib, '
            "pydicom as p; u = p.uid.generate_uid(); [(d := p.dcmread(f), setattr(d, 'FrameOfReferenceUID', u), "
            "d.save_as(f)) for f in pathlib.Path('copy').rglob('*.dcm')]\"",
        )


def _remarks(frames: int, source: Source) -> tuple[str, ...]:
    remarks = []
    if frames > MANY_FRAMES:
        remarks.append(f"{frames} frames: Weasis shows no segmentation of more than {MANY_FRAMES}")
    if source.left_out:
        remarks.append(f"not copied, because the series' own values are not valid: {', '.join(source.left_out)}")
    return tuple(remarks)


def check_kind(kind: str, *, overlapping: bool) -> None:
    """Raise UsageError for what is no kind of segmentation, and for a labelmap of regions that may overlap."""
    if kind not in KINDS:
        raise UsageError(f"a segmentation of the kind {kind!r}", expected=" or ".join(KINDS), hint="--seg-kind binary")
    if kind == "labelmap" and overlapping:
        raise UsageError(
            "a labelmap segmentation of regions that may overlap",
            expected="one label per voxel",
            hint="--seg-kind binary, or --regions label-map for a network with an order of its regions",
        )


def segment_names(voxels: Array, names: Sequence[str]) -> list[str]:
    """The names of all labels but the background, as DICOM can hold them.

    Raises:
        UsageError: when there are none, or more than a segmentation can hold.
    """
    if voxels.ndim == 4:
        if len(names) != len(voxels) or voxels.dtype.kind not in "bu" or voxels.max() > 1:
            raise UsageError(
                f"regions of type {voxels.dtype}, shape {voxels.shape} up to {voxels.max()} with {len(names)} names",
                expected="(K, D, H, W) of 0 and 1, and K names",
                hint="give one name per region",
            )
        return [_one_line(name) or f"region {number}" for number, name in enumerate(names, start=1)]
    highest = int(voxels.max())
    if voxels.dtype.kind not in "bu" or highest > 65535 or max(highest, len(names) - 1) < 1:
        raise UsageError(
            f"labels of type {voxels.dtype} up to {highest} with {len(names)} names",
            expected="unsigned values up to 65535, and a name for the background and for each label",
            hint="write what read_labels or segment returns",
        )
    known = {value: _one_line(name) for value, name in enumerate(names)}
    return [known.get(value) or f"label {value}" for value in range(1, max(len(names) - 1, highest) + 1)]


def _one_line(name: str) -> str:
    """A name as DICOM's long strings can hold it."""
    printable = "".join(letter if letter.isprintable() else " " for letter in name.replace("\\", "/"))
    return " ".join(printable.split())[:64].strip()


def _frames(source: Source, voxels: Array) -> tuple[Array, Any]:
    """The labels (D, H, W), or regions (D, H, W, K), in the order of the source's own frames, and their positions.

    No positions means: the source's.
    """
    voxels = voxels.astype(np.uint8 if voxels.max() <= 255 else np.uint16, copy=False)
    voxels = np.moveaxis(voxels, 0, -1) if voxels.ndim == 4 else voxels
    if not voxels.any():
        from highdicom import PlanePositionSequence

        lowest = source.grid.point(0, 0, 0)
        return voxels[:1], [PlanePositionSequence("PATIENT", lowest.tolist())]
    order = [frame.number for frame in source.frames]
    return (voxels, None) if order == sorted(order) else (voxels[np.argsort(order)], None)


def _description(number: int, name: str, anatomy: Anatomy | None, algorithm: Algorithm, colour: RGB) -> Any:
    """One item of the segment sequence."""
    from highdicom import AlgorithmIdentificationSequence
    from highdicom.color import CIELabColor
    from highdicom.seg import SegmentDescription
    from pydicom.sr.codedict import codes

    known = anatomy or Anatomy(TISSUE, TISSUE)
    parameters = {"model_sha256": algorithm.model_sha256}
    if algorithm.settings:
        parameters["settings"] = algorithm.settings
    item = SegmentDescription(
        number,
        name,
        concept(known.category),
        concept(known.type),
        "AUTOMATIC",
        AlgorithmIdentificationSequence(
            algorithm.name, codes.cid7162.ArtificialIntelligence, algorithm.version, MANUFACTURER, parameters
        ),
        anatomic_regions=[concept(known.region)] if known.region else None,
        display_color=CIELabColor.from_rgb(*colour),
    )
    if known.side and known.region:
        item.AnatomicRegionSequence[0].AnatomicRegionModifierSequence = [concept(known.side)]
    elif known.side:
        item.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence = [concept(known.side)]
    return item


def concept(code: Code) -> Any:
    """A code as DICOM's datasets have it. Raises MissingDependency without highdicom."""
    from highdicom.sr import CodedConcept

    return CodedConcept(code.value, code.scheme, code.meaning)
