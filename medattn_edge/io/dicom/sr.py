"""The volumes of the labels as a DICOM structured report (TID 1500), which archives file and reports can read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import numpy as np

from medattn_edge.atomic import replacing
from medattn_edge.errors import UsageError
from medattn_edge.io.dicom.anatomy import TISSUE, Anatomy, anatomy_of
from medattn_edge.io.dicom.derived import MANUFACTURER, complete, describe_equipment, highdicom
from medattn_edge.io.dicom.seg import SegFile, concept, segment_names
from medattn_edge.io.dicom.series import Series
from medattn_edge.io.dicom.source import Source, lenient, read_source
from medattn_edge.io.dicom.uids import Algorithm, Identity
from medattn_edge.spec import Code
from medattn_edge.volume import Array, Volume

_SEG_CLASS: Final = "1.2.840.10008.5.1.4.1.1.66.4"
# pydicom's names of the codes in PS3.16 CID 100, by the modality of the series.
_PROCEDURES: Final = MappingProxyType(
    {"CT": "CTUnspecifiedBodyRegion", "MR": "MRIUnspecifiedBodyRegion", "PT": "PETUnspecifiedBodyRegion"}
)


@dataclass(frozen=True)
class SrFile:
    """A measurement report on disk.

    Attributes:
        path: of the file.
        sop_instance_uid: of the object.
        series_instance_uid: of its own series.
        volumes_ml: of every segment, in their order; 0 for one without a voxel.
    """

    path: Path
    sop_instance_uid: str
    series_instance_uid: str
    volumes_ml: tuple[float, ...]


def write_sr(
    path: Path,
    labels: Volume,
    names: Sequence[str],
    series: Series,
    algorithm: Algorithm,
    segmentation: SegFile,
    *,
    codes: Mapping[str, Code] | None = None,
) -> SrFile:
    """Write the volume of every segment as a measurement report (TID 1500); the file appears whole or not at all.

    A Comprehensive SR with a group (TID 1411) for each segment, without a voxel too: its tracking identifier (the
    name), what it is (the code of `write_seg`), the segment and the series that it was drawn on, and its volume: voxels
    times the size of one, in UCUM's cm3, which are ml. It is complete, preliminary and not verified: no person has
    looked at it. The evidence are the segmentation and every instance of the series. The same input gives the same UIDs
    and bytes.

    Args:
        path: to write to.
        labels: as `write_seg` wrote them.
        names: as `write_seg` had them.
        series: that the labels belong to.
        algorithm: that made them.
        segmentation: what `write_seg` wrote.
        codes: of labels, by name; for the others the names of common organs are known.

    Raises:
        GeometryError: when the grid is not the series'.
        UsageError: for labels that are not the segmentation's, and for a segmentation that is a labelmap: checkers do
            not take it for one that a report can refer to.
        ScanError: when the series is gone.
        OutputError: when the file cannot be written.
        MissingDependency: without highdicom.
    """
    library = highdicom()
    source = read_source(series)
    voxels = labels.like(source.grid).voxels
    segments = segment_names(voxels, names)
    if tuple(segments) != segmentation.segments:
        raise UsageError(
            f"a report on the segments {', '.join(segments)} of a segmentation of {', '.join(segmentation.segments)}",
            expected="the labels and names that the segmentation was written from",
            hint="give write_sr what write_seg was given, and what it returned",
        )
    check_reportable(segmentation.kind)
    identity = Identity(series.series_instance_uid, source.sop_instance_uids, algorithm, "sr")
    millilitres = tuple(count * source.grid.voxel_ml for count in _counts(voxels, len(segments)))
    anatomies = [anatomy_of(name, codes or {}) or Anatomy(TISSUE, TISSUE) for name in segments]
    with lenient():
        groups = [
            _group(library.sr, number, name, anatomy, volume_ml, (identity, segmentation))
            for number, (name, anatomy, volume_ml) in enumerate(
                zip(segments, anatomies, millilitres, strict=True), start=1
            )
        ]
        dataset = library.sr.ComprehensiveSR(
            evidence=[*source.headers, _reference(segmentation, source)],
            content=_report(library.sr, groups, series.modality, identity)[0],
            series_instance_uid=identity.uid("series"),
            series_number=4000 + source.series_number,
            sop_instance_uid=identity.uid("instance"),
            instance_number=1,
            is_complete=True,
        )
        describe_equipment(dataset, algorithm)
        dataset.SeriesDescription = f"{algorithm.name} volumes"[:64]
        complete(dataset, source, identity, (*segments, algorithm.name, algorithm.version))
        with replacing(Path(path)) as temporary:
            dataset.save_as(temporary, enforce_file_format=True)
    return SrFile(Path(path), identity.uid("instance"), identity.uid("series"), millilitres)


def check_reportable(kind: str) -> None:
    """Raise UsageError for a kind of segmentation that no report can refer to."""
    if kind != "binary":
        raise UsageError(
            f"a measurement report on a {kind} segmentation",
            expected="a binary one: checkers of DICOM know no reference to a segment of another kind yet",
            hint="--seg-kind binary",
        )


def _counts(voxels: Array, segments: int) -> Iterator[int]:
    """Voxels of each segment."""
    if voxels.ndim == 4:
        yield from (int(np.count_nonzero(one)) for one in voxels)
        return
    for number in range(1, segments + 1):
        yield int(np.count_nonzero(voxels == number))


def _report(sr: Any, groups: Sequence[Any], modality: str, identity: Identity) -> Any:
    """The content: who observed, of which procedure, and the measurements."""
    from pydicom.sr.codedict import codes

    algorithm = identity.algorithm
    device = sr.DeviceObserverIdentifyingAttributes(
        uid=identity.uid("device"),
        name=MANUFACTURER,
        manufacturer_name=MANUFACTURER,
        model_name=algorithm.name,
        serial_number=algorithm.model_sha256,
    )
    return sr.MeasurementReport(
        observation_context=sr.ObservationContext(
            observer_device_context=sr.ObserverContext(codes.DCM.Device, device),
        ),
        procedure_reported=getattr(codes.LN, _PROCEDURES[modality]),
        imaging_measurements=groups,
        title=codes.DCM.ImagingMeasurementReport,
    )


def _group(sr: Any, number: int, name: str, anatomy: Anatomy, volume_ml: float, about: tuple[Identity, SegFile]) -> Any:
    """The measurement of a segment."""
    from pydicom.sr.codedict import codes

    identity, segmentation = about
    algorithm = identity.algorithm
    parameters = [f"model_sha256={algorithm.model_sha256}"]
    parameters += [algorithm.settings] if algorithm.settings else []
    where = anatomy.region or (anatomy.type if anatomy.side else None)
    side = concept(anatomy.side) if anatomy.side else None
    return sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(uid=identity.uid("tracking", number), identifier=name),
        referenced_segment=sr.ReferencedSegment(
            _SEG_CLASS,
            segmentation.sop_instance_uid,
            number,
            source_series=sr.SourceSeriesForSegmentation(identity.series_instance_uid),
        ),
        finding_type=concept(anatomy.type),
        finding_sites=[sr.FindingSite(concept(where), laterality=side)] if where else None,
        algorithm_id=sr.AlgorithmIdentification(algorithm.name, algorithm.version, parameters),
        measurements=[
            sr.Measurement(
                name=codes.SCT.Volume,
                value=round(volume_ml, 6),
                unit=codes.UCUM.CubicCentimeter,  # CID 7462 has cm3, and not ml
                method=codes.IBSI.VolumeFromVoxelSummation,
            )
        ],
    )


def _reference(segmentation: SegFile, source: Source) -> Any:
    """The segmentation as evidence: its identifiers."""
    from pydicom.dataset import Dataset

    item = Dataset()
    item.StudyInstanceUID = source.frames[0].header.StudyInstanceUID
    item.SeriesInstanceUID = segmentation.series_instance_uid
    item.SOPInstanceUID = segmentation.sop_instance_uid
    item.SOPClassUID = _SEG_CLASS
    return item
