"""Labels as a DICOM RT structure set: contours per slice in the patient's millimetres, for planning systems."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from medattn_edge.atomic import replacing
from medattn_edge.io.colours import RGB
from medattn_edge.io.dicom.anatomy import STRUCTURE, Anatomy, anatomy_of
from medattn_edge.io.dicom.contours import outlines, tracer
from medattn_edge.io.dicom.derived import complete, describe_equipment
from medattn_edge.io.dicom.seg import check_frame_of_reference, concept, segment_names
from medattn_edge.io.dicom.series import Series
from medattn_edge.io.dicom.source import Frame, Source, lenient, read_source
from medattn_edge.io.dicom.uids import Algorithm, Identity
from medattn_edge.io.organs import label_colours
from medattn_edge.spec import Code
from medattn_edge.volume import Array, Volume

_CLASS: Final = "1.2.840.10008.5.1.4.1.1.481.3"
# A contour of some thousand points is longer than a value can be with explicit VR.
_SYNTAX: Final = "1.2.840.10008.1.2"
_STUDY_CLASS: Final = "1.2.840.10008.3.1.2.3.1"  # retired, and still what the reference to a study is to name
_CONTOUR_DATA: Final = 0x30060050


@dataclass(frozen=True)
class RtStructFile:
    """A structure set on disk.

    Attributes:
        path: of the file.
        sop_instance_uid: of the object.
        series_instance_uid: of its own series.
        rois: names, the first being ROI 1, those without a voxel too.
        contours: how many were written, of all ROIs.
        uncoded: ROIs of no known anatomy, which have no code.
        remarks: what a reader may not like, for people.
    """

    path: Path
    sop_instance_uid: str
    series_instance_uid: str
    rois: tuple[str, ...]
    contours: int
    uncoded: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()


def write_rtstruct(
    path: Path,
    labels: Volume,
    names: Sequence[str],
    series: Series,
    algorithm: Algorithm,
    *,
    codes: Mapping[str, Code] | None = None,
) -> RtStructFile:
    """Write the labels of a series as contours; the file appears whole or not at all.

    Every label becomes an ROI, in the numbers and colours of the segments of `write_seg`, and every slice's part of it
    closed planar contours (PS3.3 C.8.8.6) through the plane of the slice, as `outlines` draws them: a voxel belongs to
    an ROI where its centre lies inside, holes are keyholes, and nothing is too small for a contour. Points are rounded
    to a thousandth of a pixel or finer. A label without a voxel is an ROI without a contour. The references are to
    every instance of the series; patient, study and dates are the series', and the same input gives the same UIDs and
    bytes. Written in Implicit VR Little Endian, because long contours do not fit another syntax.

    Args:
        path: to write to.
        labels: (D, H, W) on the series' own grid, in any order of the axes; or regions that may overlap, (K, D, H, W)
            of 0 and 1, each of which becomes an ROI.
        names: names[value] names a label; or one per region.
        series: that the labels belong to.
        algorithm: that made them.
        codes: of labels, by name; for the others the names of common organs are known.

    Raises:
        GeometryError: when the grid is not the series'.
        UsageError: for labels that no structure set can hold.
        RefusedSeries: for a series without a frame of reference.
        ScanError: when the series is gone, or is one of several volumes of a multi-frame instance.
        OutputError: when the file cannot be written.
        MissingDependency: without contourpy.
    """
    tracer()
    check_frame_of_reference(series)
    source = read_source(series)
    voxels = labels.like(source.grid).voxels
    rois = segment_names(voxels, names)
    anatomies = [anatomy_of(name, codes or {}) for name in rois]
    colours = label_colours(["", *rois], codes)
    identity = Identity(series.series_instance_uid, source.sop_instance_uids, algorithm, "rtstruct")
    with lenient():
        dataset = _structure_set(source, identity)
        dataset.StructureSetROISequence, dataset.ROIContourSequence = [], []
        dataset.RTROIObservationsSequence = []
        for number, (name, anatomy) in enumerate(zip(rois, anatomies, strict=True), start=1):
            mask = voxels[number - 1] if voxels.ndim == 4 else voxels == number
            millilitres = float(np.count_nonzero(mask)) * source.grid.voxel_ml
            dataset.StructureSetROISequence.append(_roi(number, name, millilitres, source, algorithm))
            dataset.ROIContourSequence.append(_roi_contour(number, mask, source, colours[number]))
            dataset.RTROIObservationsSequence.append(_observation(number, anatomy))
        complete(dataset, source, identity, (*rois, algorithm.name, algorithm.version))
        del dataset.ContentDate, dataset.ContentTime  # it has StructureSetDate and StructureSetTime instead
        with replacing(Path(path)) as temporary:
            dataset.save_as(temporary, enforce_file_format=True)
    counts = [len(item.get("ContourSequence", ())) for item in dataset.ROIContourSequence]
    return RtStructFile(
        Path(path),
        identity.uid("instance"),
        identity.uid("series"),
        tuple(rois),
        sum(counts),
        tuple(name for name, anatomy in zip(rois, anatomies, strict=True) if anatomy is None),
        _remarks([name for name, count in zip(rois, counts, strict=True) if not count], source),
    )


def _remarks(empty: Sequence[str], source: Source) -> tuple[str, ...]:
    remarks = []
    if empty:
        remarks.append(f"no voxel of {', '.join(empty)}: an ROI without a contour, which some readers do not list")
    if source.left_out:
        remarks.append(f"not copied, because the series' own values are not valid: {', '.join(source.left_out)}")
    return tuple(remarks)


def _structure_set(source: Source, identity: Identity) -> Any:
    """The object without its ROIs."""
    from pydicom.dataset import Dataset, FileMetaDataset

    header = source.frames[0].header
    dataset: Any = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = _SYNTAX
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = _CLASS
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = identity.uid("instance")
    dataset.Modality = "RTSTRUCT"
    dataset.SeriesInstanceUID = identity.uid("series")
    dataset.SeriesNumber = 3000 + source.series_number
    dataset.SeriesDescription = f"{identity.algorithm.name} contours"[:64]
    dataset.OperatorsName = ""  # no person
    dataset.InstanceNumber = 1
    describe_equipment(dataset, identity.algorithm)
    dataset.FrameOfReferenceUID = header.FrameOfReferenceUID
    dataset.PositionReferenceIndicator = ""
    dataset.StructureSetLabel = "CONTOURS"  # 16 characters at most
    dataset.StructureSetName = identity.algorithm.name
    dataset.StructureSetDate, dataset.StructureSetTime = source.date, source.time
    dataset.ReferencedFrameOfReferenceSequence = [_frame_of_reference(source)]
    dataset.ApprovalStatus = "UNAPPROVED"
    return dataset


def _frame_of_reference(source: Source) -> Any:
    """The coordinates, and every image of the series."""
    from pydicom.dataset import Dataset

    header = source.frames[0].header
    series, study, frame_of_reference = Dataset(), Dataset(), Dataset()
    series.SeriesInstanceUID = header.SeriesInstanceUID
    series.ContourImageSequence = [_image(header, 0) for header in source.headers]
    study.ReferencedSOPClassUID = _STUDY_CLASS
    study.ReferencedSOPInstanceUID = header.StudyInstanceUID
    study.RTReferencedSeriesSequence = [series]
    frame_of_reference.FrameOfReferenceUID = header.FrameOfReferenceUID
    frame_of_reference.RTReferencedStudySequence = [study]
    return frame_of_reference


def _image(header: Any, number: int) -> Any:
    """A reference to an instance, and to its frame of that number, 0 for the whole of it."""
    from pydicom.dataset import Dataset

    item = Dataset()
    item.ReferencedSOPClassUID = header.SOPClassUID
    item.ReferencedSOPInstanceUID = header.SOPInstanceUID
    if number:
        item.ReferencedFrameNumber = number
    return item


def _roi(number: int, name: str, millilitres: float, source: Source, algorithm: Algorithm) -> Any:
    from pydicom.dataset import Dataset

    item = Dataset()
    item.ROINumber = number
    item.ReferencedFrameOfReferenceUID = source.frames[0].header.FrameOfReferenceUID
    item.ROIName = name
    item.ROIVolume = f"{millilitres:.6f}"  # of the voxels, in cm3
    item.ROIGenerationAlgorithm = "AUTOMATIC"
    item.ROIGenerationDescription = f"{algorithm.name}, model {algorithm.model_sha256[:16]}"[:64]
    return item


def _observation(number: int, anatomy: Anatomy | None) -> Any:
    from pydicom.dataset import Dataset

    item = Dataset()
    item.ObservationNumber = item.ReferencedROINumber = number
    # What it is for in a treatment is for a person to say; an organ is an organ.
    item.RTROIInterpretedType = "ORGAN" if anatomy is not None and anatomy.category == STRUCTURE else ""
    item.ROIInterpreter = ""
    if anatomy is not None:
        code = concept(anatomy.type)
        if anatomy.side and not anatomy.region:
            code.SegmentedPropertyTypeModifierCodeSequence = [concept(anatomy.side)]
        item.RTROIIdentificationCodeSequence = [code]
    return item


def _roi_contour(number: int, mask: Array, source: Source, colour: RGB) -> Any:
    """The contours of an ROI, in the order of the slices."""
    from pydicom.dataset import Dataset

    item = Dataset()
    item.ROIDisplayColor = list(colour)
    item.ReferencedROINumber = number
    contours = [
        _contour(place, ring, source.frames[slice_number])
        for place, (slice_number, ring) in enumerate(_rings(mask, source.grid), start=1)
    ]
    if contours:
        item.ContourSequence = contours
    return item


def _rings(mask: Array, grid: Volume) -> Iterator[tuple[int, Array]]:
    """(slice, points (N, 3) in mm) of every contour of a mask (D, H, W)."""
    rotation, origin = grid.affine[:3, :3], grid.affine[:3, 3]
    decimals = max(4, 3 - math.floor(math.log10(min(grid.spacing[1:]))))
    for place in np.flatnonzero(mask.any(axis=(1, 2))):
        for ring in outlines(mask[place]):
            index = np.column_stack([np.full(len(ring), place), ring])
            yield int(place), np.round(index @ rotation.T + origin, decimals) + 0.0  # no -0.0


def _contour(number: int, points: Array, frame: Frame) -> Any:
    from pydicom.dataelem import RawDataElement
    from pydicom.dataset import Dataset
    from pydicom.tag import Tag

    item = Dataset()
    item.ContourNumber = number
    item.ContourImageSequence = [_image(frame.header, frame.number)]
    item.ContourGeometricType = "CLOSED_PLANAR"
    item.NumberOfContourPoints = len(points)
    # As bytes, since a million objects of decimal strings take longer than all the rest.
    text = "\\".join(f"{value:.10g}" for value in points.ravel().tolist()).encode()
    text += b" " * (len(text) % 2)
    item[_CONTOUR_DATA] = RawDataElement(Tag(_CONTOUR_DATA), "DS", len(text), text, 0, True, True)
    return item
