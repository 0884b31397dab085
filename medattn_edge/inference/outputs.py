"""Outputs: the files that a segmentation is asked for, checked before the work and written after it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from medattn_edge.atomic import check_folder
from medattn_edge.errors import MissingDependency, UsageError
from medattn_edge.inference.cleanup import describe_after
from medattn_edge.inference.dicom_results import (
    SegKind,
    check_names,
    write_contours,
    write_key_slices,
    write_probabilities,
    write_report,
    write_segmentation,
)
from medattn_edge.inference.segment import Segmentation
from medattn_edge.io import Scan, check_regions, format_of, write_labels, write_maps, write_regions
from medattn_edge.io.files import check_labels_format, check_maps_format
from medattn_edge.volume import Volume

if TYPE_CHECKING:
    from medattn_edge.io.dicom.series import Series
    from medattn_edge.io.dicom.uids import Algorithm
    from medattn_edge.spec import ModelSpec

RegionsAs = Literal["maps", "label-map"]
_KEY_SLICE = "key_{}.dcm"  # as `secondary_capture` names them


@dataclass(frozen=True)
class Outputs:
    """Which files to write of one scan; the suffix of each decides its format.

    Attributes:
        labels: labels on the scan's grid: labels.nii.gz, .nrrd, .npz, .png, or seg.dcm for a DICOM series.
        probabilities: one map per label or region: maps.nii.gz, or maps.dcm, a Parametric Map of a DICOM series.
        attention: the attention maps.
        overlay: a .png of the scan with its labels.
        key_slices: beside a DICOM segmentation, at most so many slices with outlines: key_1.dcm, ...
        seg_kind: of a DICOM segmentation, None for binary.
        overlay_attention: the picture shows attention as well, where the artifact has it.
        regions: of a sigmoid network: `maps`, one for each region, which may overlap (in DICOM a segment for each), or
            `label-map`, one label per voxel in the order of the spec, later regions over earlier ones. None: a label
            map where the spec has an order, and maps where it has none, and in a binary DICOM segmentation.
        rtstruct: an RT structure set of a DICOM series: the labels as contours, beside labels of any format.
        sr: a measurement report (DICOM SR, TID 1500) on the binary DICOM segmentation: the volume of every segment.
    """

    labels: Path
    probabilities: Path | None = None
    attention: Path | None = None
    overlay: Path | None = None
    key_slices: int = 0
    seg_kind: SegKind | None = None
    overlay_attention: bool = True
    regions: RegionsAs | None = None
    rtstruct: Path | None = None
    sr: Path | None = None

    @property
    def dicom(self) -> bool:
        """Whether the labels become a DICOM segmentation."""
        return format_of(self.labels).name == "dicom"

    @property
    def dicom_file(self) -> Path | None:
        """A file that can only be written for a DICOM series, None where none is."""
        return next((path for path, _ in self._of_series()), None)

    @property
    def dicom_probabilities(self) -> bool:
        """Whether the probabilities become a DICOM Parametric Map."""
        return self.probabilities is not None and format_of(self.probabilities).name == "dicom"

    def _of_series(self) -> Iterator[tuple[Path, str]]:
        """Each file that can only be written for a DICOM series, and what to type where there is none."""
        if self.dicom:
            yield self.labels, "-o labels.nii.gz"
        if self.probabilities is not None and self.dicom_probabilities:
            yield self.probabilities, "--probabilities maps.nii.gz"
        if self.rtstruct is not None:
            yield self.rtstruct, "leave --rtstruct out"

    @property
    def paths(self) -> list[Path]:
        """Every file that may be written."""
        files = [self.labels, self.probabilities, self.attention, self.overlay, self.rtstruct, self.sr]
        beside = [self.labels.with_name(_KEY_SLICE.format(number)) for number in range(1, self.key_slices + 1)]
        return [path for path in files if path is not None] + beside

    def check(self, scan: Scan) -> None:
        """Say before the work what cannot be written, without reading the scan.

        Raises:
            UsageError: for suffixes that are not known, for outputs that make no sense together, of the same name or of
                the scan's own.
            OutputError: for a folder that is not there.
            MissingDependency: without Pillow, for a picture; without highdicom, for a DICOM segmentation, and without
                contourpy, for a structure set.
        """
        format_of(self.labels)
        for path in (None if self.dicom_probabilities else self.probabilities, self.attention):
            if path is not None:
                check_maps_format(path)
        for path in self.paths:
            check_folder(path)
            if path.resolve() in {part.resolve() for part in scan.paths}:
                raise UsageError(
                    f"{path} is the scan itself", expected="another file to write to", hint="-o labels.nii.gz"
                )
        if len({path.resolve() for path in self.paths}) != len(self.paths):
            raise UsageError("two outputs have the same name", expected="one file each", hint="-o labels.nii.gz")
        if not self.dicom:
            check_labels_format(self.labels)
        self._check_dicom(scan)
        if self.overlay is not None:
            from medattn_edge.io.page import check_picture

            check_picture(self.overlay, "--overlay")

    def _check_dicom(self, scan: Scan) -> None:
        check_names(self.labels, {"--rtstruct": self.rtstruct, "--sr": self.sr})
        if not self.dicom:
            beside = {"--seg-kind": self.seg_kind, "--key-slices": self.key_slices, "--sr": self.sr}
            for option, value in beside.items():
                if value:
                    raise UsageError(
                        f"{option} with {self.labels.name!r}", expected="a DICOM segmentation", hint="-o seg.dcm"
                    )
        for path, otherwise in self._of_series():
            if scan.paths[0].exists() and not scan.is_dicom:
                raise UsageError(
                    f"{path.name!r} for {scan.path.name!r}",
                    expected="a DICOM series for it to refer to",
                    hint=otherwise,
                )
        self.check_dicom()

    def check_dicom(self) -> None:
        """Say, without knowing the scan, what stands against DICOM results.

        Raises:
            UsageError: for a report on a labelmap.
            MissingDependency: without highdicom, and without contourpy for a structure set.
        """
        if self.dicom_file is not None and find_spec("highdicom") is None:
            raise MissingDependency.of_extra("highdicom", "dicom")
        if self.rtstruct is not None and find_spec("contourpy") is None:
            raise MissingDependency.of_extra("contourpy", "dicom")
        if self.sr is not None:
            from medattn_edge.io.dicom.sr import check_reportable

            check_reportable(self.seg_kind or "binary")

    def regions_as(self, spec: ModelSpec) -> RegionsAs | None:
        """How the regions of a sigmoid network are written; None for labels that exclude each other."""
        if not spec.overlapping or self.regions is not None:
            return self.regions
        into_maps = not spec.region_order or (self.dicom and self.seg_kind != "labelmap")
        return "maps" if into_maps else "label-map"

    def check_spec(self, spec: ModelSpec) -> None:
        """Say before the work whether these files can hold what a network finds.

        Raises:
            UsageError: for regions of a network that has none, a label map without an order, and a file that has room
                for one label per voxel only.
        """
        regions = self.regions_as(spec)
        if regions is not None and not spec.overlapping:
            raise UsageError(
                f"--regions {regions} for a softmax network, whose labels exclude each other",
                expected="a network with --activation sigmoid",
                hint="leave --regions out: its labels are a label map",
            )
        if regions == "label-map" and not spec.region_order:
            raise UsageError(
                f"a label map of the regions {', '.join(spec.labels)}, which may overlap",
                expected="the order in which they go over each other",
                hint="--regions maps, or export the network with --region-order " + ",".join(spec.labels),
            )
        if self.dicom:
            from medattn_edge.io.dicom.seg import check_kind

            check_kind(self.seg_kind or "binary", overlapping=regions == "maps")
        elif regions == "maps":
            check_regions(self.labels)

    def check_size(self, spec: ModelSpec, volume: Volume) -> None:
        """Raise InputError, before the work, for maps of a scan that are larger than a DICOM object can be."""
        if self.dicom_probabilities:
            from medattn_edge.io.dicom.parametric_map import check_size

            check_size((len(spec.labels), *volume.shape))

    def check_apart_from(self, files: Sequence[Path]) -> None:
        """Raise UsageError when an output would replace a file of the scan."""
        own = {path.resolve() for path in files}
        for path in self.paths:
            if path.resolve() in own:
                raise UsageError(
                    f"{path} is a file of the scan", expected="another file to write to", hint="-o seg.dcm"
                )

    def check_frame_of_reference(self, scan: Scan) -> None:
        """Raise RefusedSeries when what is written has no coordinates of the series to lie in."""
        if self.dicom_file is not None and scan.series is not None:
            from medattn_edge.io.dicom.seg import check_frame_of_reference

            check_frame_of_reference(scan.series)

    def write(
        self, segmentation: Segmentation, volume: Volume, scan: Scan, spec: ModelSpec, algorithm: Algorithm | None
    ) -> tuple[dict[str, Path], tuple[str, ...]]:
        """Write the files; what each is -> its path, and what people should know of them.

        Args:
            segmentation: with the maps that are to be written.
            volume: the scan's voxels.
            scan: where they are from.
            spec: the network's, for the codes of its labels.
            algorithm: how DICOM results name the model; None where there are none to write.

        Raises:
            UsageError, ScanError, GeometryError, OutputError, MissingDependency: as the writers of the formats do.
        """
        written, notes = {"labels": self.labels}, describe_after(spec)
        regions = self.regions_as(spec)
        labels, names = _to_write(segmentation, spec, regions)
        if regions is not None:
            notes.append(_about_regions(spec, regions))
        if scan.series is not None and algorithm is not None:
            files, remarks = self._write_dicom(labels, names, scan.series, algorithm, spec)
            written, notes = written | files, notes + remarks
            if self.key_slices:
                shown = shown_labels(segmentation)
                slices = write_key_slices(
                    self.labels, self.key_slices, volume, shown, scan.series, algorithm, codes=spec.codes
                )
                written |= {f"key slice {number}": path for number, path in enumerate(slices, start=1)}
        if not self.dicom:
            (write_regions if regions == "maps" else write_labels)(self.labels, labels, names)
        if self.probabilities is not None and segmentation.probabilities is not None:
            maps = segmentation.probabilities, segmentation.meaning.names
            if not self.dicom_probabilities:
                write_maps(self.probabilities, *maps)
            elif scan.series is not None and algorithm is not None:
                notes += write_probabilities(self.probabilities, *maps, scan.series, algorithm)
            written["probabilities"] = self.probabilities
        if self.attention is not None and segmentation.attention is not None:
            write_maps(self.attention, segmentation.attention, segmentation.attention_names)
            written["attention"] = self.attention
        if self.overlay is not None:
            _draw(self.overlay, volume, segmentation, spec, self.overlay_attention)
            written["overlay"] = self.overlay
        return written, tuple(notes)

    def _write_dicom(
        self, labels: Volume, names: Sequence[str], series: Series, algorithm: Algorithm, spec: ModelSpec
    ) -> tuple[dict[str, Path], list[str]]:
        """Write what belongs to a series; the files beside the labels, and what people should know."""
        written, notes = dict[str, Path](), list[str]()
        about = labels, names, series, algorithm
        if self.dicom:
            kind = self.seg_kind or "binary"
            file, notes = write_segmentation(self.labels, *about, kind=kind, codes=spec.codes)
            if self.sr is not None:
                write_report(self.sr, *about, file, codes=spec.codes)
                written["sr"] = self.sr
        if self.rtstruct is not None:
            notes += write_contours(self.rtstruct, *about, codes=spec.codes)
            written["rtstruct"] = self.rtstruct
        return written, list(dict.fromkeys(notes))


def shown_labels(segmentation: Segmentation) -> tuple[Volume, tuple[str, ...]]:
    """What pictures show: labels (D, H, W) and a name per value, or a map (K, D, H, W) and a name for each region."""
    meaning = segmentation.meaning
    return (segmentation.regions if meaning.overlapping else segmentation.labels), meaning.names


def _to_write(segmentation: Segmentation, spec: ModelSpec, regions: RegionsAs | None) -> tuple[Volume, tuple[str, ...]]:
    if regions != "label-map":
        return shown_labels(segmentation)
    labels = segmentation.labels
    single = labels.with_voxels(segmentation.meaning.label_map(labels.voxels, spec.region_order))
    return single, ("background", *spec.region_order)


def _about_regions(spec: ModelSpec, regions: RegionsAs) -> str:
    volumes = "their volumes are each region's own, and do not add up"
    if regions == "maps":
        return f"the regions {', '.join(spec.labels)} may overlap: one map for each; {volumes}"
    order = ", ".join(f"{value} {name}" for value, name in enumerate(spec.region_order, start=1))
    return f"the regions may overlap: one label map, later ones over earlier ones ({order}); {volumes}"


def _draw(path: Path, volume: Volume, segmentation: Segmentation, spec: ModelSpec, with_attention: bool) -> None:
    from medattn_edge.io.display import model_window
    from medattn_edge.io.overlay import write_overlay

    labels, names = shown_labels(segmentation)
    window = model_window(spec.intensity, volume.voxels.reshape(-1, *volume.shape)[0])
    attention, name = None, ""
    if segmentation.attention is not None and with_attention:
        # The last map is the finest gate, or the guided response of the coarsest scale: what the network ends with.
        maps = segmentation.attention_names
        index = maps.index("guided_1") if "guided_1" in maps else len(maps) - 1
        attention, name = segmentation.attention.voxels[index], maps[index]
    write_overlay(
        path, volume, labels, names, codes=spec.codes, window=window, attention=attention, attention_name=name
    )
