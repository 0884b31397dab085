"""Structure sets: contours that are filled by others are what was labelled, where it was labelled."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medattn_edge.errors import GeometryError, MissingDependency, OutputError, UsageError
from medattn_edge.io import read_labels, read_volume
from medattn_edge.io.colours import label_colour
from medattn_edge.spec import Code
from medattn_edge.volume import Volume

pydicom = pytest.importorskip("pydicom", reason="the extra dicom is not installed")
highdicom = pytest.importorskip("highdicom", reason="the extra dicom is not installed")
pytest.importorskip("contourpy", reason="the extra dicom is not installed")
polygons = pytest.importorskip("matplotlib.path", reason="matplotlib is not installed")

from medattn_edge.data.samples import sample_labels, sample_scan  # noqa: E402
from medattn_edge.io.dicom.rtstruct import write_rtstruct  # noqa: E402
from medattn_edge.io.dicom.seg import write_seg  # noqa: E402
from medattn_edge.io.dicom.source import read_source  # noqa: E402
from medattn_edge.io.dicom.volume import RefusedSeries, Series, find_series  # noqa: E402
from tests.io.dicom.test_seg import ALGORITHM, NAMES, PLANES, drawn, listed_again, send, tool  # noqa: E402
from tests.support.dicom_phantoms import in_plane, write_series  # noqa: E402

ORGANS = ("background", "right_lung", "left_lung", "spine")


def remarks_of_dciodvfy(path: Path) -> list[str]:
    """Every error and warning."""
    done = subprocess.run([tool("dciodvfy"), "-new", path], capture_output=True, text=True, check=False)
    assert done.stderr.splitlines()[0] == "RTStructureSet"
    return [line for line in done.stderr.splitlines()[1:] if line.strip()]


def chest() -> tuple[Volume, Volume]:
    """The chest CT that slicerio ships, and its lungs and spine."""
    scan = read_volume(sample_scan()).to_lps()
    marked = read_labels(sample_labels()).like(scan).voxels
    labels = np.zeros(marked.shape, np.uint8)
    for value, organ in ((5, 1), (6, 2), (2, 3), (3, 3), (4, 3)):
        labels[marked == value] = organ
    return Volume(scan.voxels.astype(np.int16), scan.affine), Volume(labels, scan.affine)


def planes_of(series: Series) -> dict[tuple[str, int], tuple[np.ndarray, np.ndarray]]:
    """(instance, frame) -> the matrix from (column, row, slice) to mm, and an empty plane; by the headers alone."""
    planes = {}
    for path in series.files:
        header = pydicom.dcmread(path)
        shape = header.Rows, header.Columns
        if "NumberOfFrames" not in header:
            planes[str(header.SOPInstanceUID), 0] = _matrix(header, header, header), np.zeros(shape, bool)
            continue
        shared = header.SharedFunctionalGroupsSequence[0]
        for number, frame in enumerate(header.PerFrameFunctionalGroupsSequence, start=1):
            parts = [
                (frame.get(name) or shared[name].value)[0]
                for name in ("PlanePositionSequence", "PlaneOrientationSequence", "PixelMeasuresSequence")
            ]
            planes[str(header.SOPInstanceUID), number] = _matrix(*parts), np.zeros(shape, bool)
    return planes


def _matrix(position: Any, orientation: Any, measures: Any) -> np.ndarray:
    along_row, along_column = np.reshape(np.array(orientation.ImageOrientationPatient, float), (2, 3))
    down, across = map(float, measures.PixelSpacing)
    matrix = np.eye(4)
    matrix[:3, 0], matrix[:3, 1] = across * along_row, down * along_column
    matrix[:3, 2], matrix[:3, 3] = np.cross(along_row, along_column), np.array(position.ImagePositionPatient, float)
    return matrix


def contours_of(dataset: Any) -> Iterator[tuple[int, Any, np.ndarray]]:
    """(ROI, contour, its points (N, 3) in mm) of a structure set."""
    for roi in dataset.ROIContourSequence:
        for contour in roi.get("ContourSequence", ()):
            assert contour.ContourGeometricType == "CLOSED_PLANAR"
            points = np.reshape(np.array(contour.ContourData, float), (-1, 3))
            assert len(points) == contour.NumberOfContourPoints >= 3
            yield int(roi.ReferencedROINumber), contour, points


def filled(path: Path, series: Series, unite: Any = np.logical_or) -> dict[int, np.ndarray]:
    """ROI -> (slices, rows, columns) of the centres inside, in the order of the series' own slices; by matplotlib."""
    found: dict[int, dict[tuple[str, int], np.ndarray]] = {}
    planes = planes_of(series)
    dataset = pydicom.dcmread(path)
    for roi, contour, points in contours_of(dataset):
        (image,) = contour.ContourImageSequence
        key = str(image.ReferencedSOPInstanceUID), int(image.get("ReferencedFrameNumber", 0))
        matrix, empty = planes[key]
        index = np.linalg.solve(matrix, np.column_stack([points, np.ones(len(points))]).T).T
        assert np.abs(index[:, 2]).max() < 2e-4, "in the plane of the image that it refers to"
        rows, columns = np.mgrid[: empty.shape[0], : empty.shape[1]]
        ring = polygons.Path(np.vstack([index[:, :2], index[:1, :2]]), closed=True)
        inside = ring.contains_points(np.column_stack([columns.ravel(), rows.ravel()])).reshape(empty.shape)
        slices = found.setdefault(roi, {})
        slices[key] = unite(slices.get(key, empty), inside)
    source = read_source(series)
    order = [(str(frame.header.SOPInstanceUID), frame.number) for frame in source.frames]
    return {roi: np.stack([slices.get(key, planes[key][1]) for key in order]) for roi, slices in sorted(found.items())}


def dice(one: np.ndarray, other: np.ndarray) -> float:
    return 2 * float((one & other).sum()) / float(one.sum() + other.sum())


@pytest.mark.parametrize("enhanced", [False, True], ids=["single", "enhanced"])
@pytest.mark.parametrize("plane", PLANES)
def test_contours_filled_by_either_convention_are_the_labels(scan, plane, enhanced, tmp_path) -> None:
    acquired = in_plane(scan, plane)
    series = send(tmp_path / "series", acquired, enhanced=enhanced)
    labels = drawn(acquired)
    file = write_rtstruct(tmp_path / "rt.dcm", labels.oriented("RAS"), NAMES, series, ALGORITHM)
    wanted = labels.like(read_source(series).grid).voxels
    for unite in (np.logical_or, np.logical_xor):
        found = filled(tmp_path / "rt.dcm", series, unite)
        assert set(found) == {1, 2}
        for roi, inside in found.items():
            np.testing.assert_array_equal(inside, wanted == roi)
    assert file.contours == sum(1 for _ in contours_of(pydicom.dcmread(tmp_path / "rt.dcm")))


@pytest.mark.parametrize("flip", [(0, 1), (0, 1, 2)])
def test_lungs_and_spine_of_a_chest_are_found_again_though_the_axes_are_turned_round(flip, tmp_path) -> None:
    scan, labels = chest()
    turned = np.eye(4)
    for axis in flip:
        turned[axis, axis], turned[axis, 3] = -1, scan.shape[axis] - 1
    scan, labels = (Volume(np.flip(one.voxels, flip), one.affine @ turned) for one in (scan, labels))
    series = send(tmp_path / "series", Volume(np.ascontiguousarray(scan.voxels), scan.affine))
    write_rtstruct(tmp_path / "rt.dcm", labels, ORGANS, series, ALGORITHM)
    wanted = labels.like(read_source(series).grid).voxels
    found = filled(tmp_path / "rt.dcm", series)
    assert [dice(found[organ], wanted == organ) for organ in (1, 2, 3)] == [1.0, 1.0, 1.0]


def test_the_area_that_a_painter_fills_is_the_organs_and_their_volume_is_in_the_file(tmp_path) -> None:
    from PIL import Image, ImageDraw

    scan, labels = chest()
    series = send(tmp_path / "series", scan)
    write_rtstruct(tmp_path / "rt.dcm", labels, ORGANS, series, ALGORITHM)
    dataset, planes, finer = pydicom.dcmread(tmp_path / "rt.dcm"), planes_of(series), 8
    painted: dict[int, int] = {}
    for roi, contour, points in contours_of(dataset):
        matrix, empty = planes[str(contour.ContourImageSequence[0].ReferencedSOPInstanceUID), 0]
        index = np.linalg.solve(matrix, np.column_stack([points, np.ones(len(points))]).T).T[:, :2]
        canvas = Image.new("1", (finer * empty.shape[1], finer * empty.shape[0]))
        ImageDraw.Draw(canvas).polygon([tuple(xy) for xy in (finer * (index + 0.5) - 0.5).tolist()], fill=1)
        painted[roi] = painted.get(roi, 0) + int(np.asarray(canvas).sum())
    for roi, item in enumerate(dataset.StructureSetROISequence, start=1):
        voxels = int((labels.voxels == roi).sum())
        assert painted[roi] / finer**2 == pytest.approx(voxels, rel=0.03)
        assert float(item.ROIVolume) == pytest.approx(voxels * labels.voxel_ml, rel=1e-6)


@pytest.mark.parametrize("enhanced", [False, True], ids=["single", "enhanced"])
@pytest.mark.parametrize("plane", PLANES)
def test_dciodvfy_finds_neither_an_error_nor_anything_to_warn_of(scan, plane, enhanced, tmp_path) -> None:
    acquired = in_plane(scan, plane)
    series = send(tmp_path / "series", acquired, enhanced=enhanced)
    write_rtstruct(tmp_path / "rt.dcm", drawn(acquired), NAMES, series, ALGORITHM)
    assert remarks_of_dciodvfy(tmp_path / "rt.dcm") == []
    broken = pydicom.dcmread(tmp_path / "rt.dcm")
    del broken.StructureSetLabel
    broken.save_as(tmp_path / "broken.dcm")
    assert any("Error" in line and "StructureSetLabel" in line for line in remarks_of_dciodvfy(tmp_path / "broken.dcm"))


def test_it_refers_to_every_instance_and_has_the_patient_numbers_and_colours_of_the_segmentation(
    scan, sent, tmp_path
) -> None:
    write_rtstruct(tmp_path / "rt.dcm", drawn(scan), NAMES, sent, ALGORITHM)
    write_seg(tmp_path / "seg.dcm", drawn(scan), NAMES, sent, ALGORITHM)
    rt, seg = pydicom.dcmread(tmp_path / "rt.dcm"), pydicom.dcmread(tmp_path / "seg.dcm")
    (frame_of_reference,) = rt.ReferencedFrameOfReferenceSequence
    (study,) = frame_of_reference.RTReferencedStudySequence
    (series,) = study.RTReferencedSeriesSequence
    first = pydicom.dcmread(sent.files[0])
    assert frame_of_reference.FrameOfReferenceUID == rt.FrameOfReferenceUID == first.FrameOfReferenceUID
    assert study.ReferencedSOPInstanceUID == first.StudyInstanceUID
    assert series.SeriesInstanceUID == first.SeriesInstanceUID
    referred = {image.ReferencedSOPInstanceUID for image in series.ContourImageSequence}
    assert referred == {pydicom.dcmread(path).SOPInstanceUID for path in sent.files}
    for keyword in ("PatientName", "PatientID", "StudyInstanceUID", "StudyDate", "SeriesDate", "SeriesTime"):
        assert rt[keyword].value == seg[keyword].value, keyword
    assert rt.SeriesInstanceUID != seg.SeriesInstanceUID
    assert [roi.ROIName for roi in rt.StructureSetROISequence] == [one.SegmentLabel for one in seg.SegmentSequence]
    assert [roi.ROINumber for roi in rt.StructureSetROISequence] == [one.SegmentNumber for one in seg.SegmentSequence]
    colours = [tuple(map(int, roi.ROIDisplayColor)) for roi in rt.ROIContourSequence]
    assert colours == [(197, 165, 145), (241, 214, 145), (221, 130, 101), label_colour(4)]
    shown = [highdicom.color.CIELabColor.from_rgb(*colour).value for colour in colours]
    assert [tuple(one.RecommendedDisplayCIELabValue) for one in seg.SegmentSequence] == shown
    lung, bone, liver, unknown = rt.RTROIObservationsSequence
    (code,) = lung.RTROIIdentificationCodeSequence
    assert (code.CodeValue, code.CodingSchemeDesignator) == ("39607008", "SCT")
    assert code.SegmentedPropertyTypeModifierCodeSequence[0].CodeMeaning == "Right"
    assert [one.RTROIInterpretedType for one in (lung, bone, liver, unknown)] == ["ORGAN", "ORGAN", "ORGAN", ""]
    assert "RTROIIdentificationCodeSequence" not in unknown


def test_the_same_work_gives_the_same_bytes_in_whatever_order_the_files_are_found(scan, sent, tmp_path) -> None:
    again = listed_again(sent, tmp_path / "again")
    for name, series in (("one.dcm", sent), ("two.dcm", again)):
        write_rtstruct(tmp_path / name, drawn(scan), NAMES, series, ALGORITHM)
    assert (tmp_path / "one.dcm").read_bytes() == (tmp_path / "two.dcm").read_bytes()


def test_one_voxel_is_a_contour_and_what_has_none_is_told(scan, sent, tmp_path) -> None:
    labels = np.zeros(scan.shape, np.uint8)
    labels[2, 0, 0] = 1
    file = write_rtstruct(tmp_path / "rt.dcm", Volume(labels, scan.affine), NAMES[:3], sent, ALGORITHM)
    assert file.contours == 1
    assert file.remarks == ("no voxel of bone: an ROI without a contour, which some readers do not list",)
    np.testing.assert_array_equal(filled(tmp_path / "rt.dcm", sent)[1], labels == 1)
    assert len(pydicom.dcmread(tmp_path / "rt.dcm").ROIContourSequence) == 2


def test_regions_that_overlap_are_an_roi_each(scan, sent, tmp_path) -> None:
    maps = np.stack([scan.voxels > -500, scan.voxels > 0]).astype(np.uint8)
    file = write_rtstruct(tmp_path / "rt.dcm", Volume(maps, scan.affine), ("body", "tissue"), sent, ALGORITHM)
    assert file.rois == ("body", "tissue")
    found = filled(tmp_path / "rt.dcm", sent)
    for roi in (1, 2):
        np.testing.assert_array_equal(found[roi], maps[roi - 1] == 1)


def test_a_contour_of_many_thousand_points_is_written_whole(tmp_path) -> None:
    noise = np.random.default_rng(3).random((2, 96, 96)) < 0.8
    series = send(tmp_path / "series", Volume(noise.astype(np.int16), np.diag([1.0, 1, 1, 1])[[2, 1, 0, 3]]))
    labels = Volume(noise.astype(np.uint8), np.diag([1.0, 1, 1, 1])[[2, 1, 0, 3]])
    write_rtstruct(tmp_path / "rt.dcm", labels, ("background", "noise"), series, ALGORITHM)
    assert max(len(points) for *_, points in contours_of(pydicom.dcmread(tmp_path / "rt.dcm"))) > 4_000
    np.testing.assert_array_equal(
        filled(tmp_path / "rt.dcm", series)[1], labels.like(read_source(series).grid).voxels == 1
    )


def test_pixels_of_a_hundredth_of_a_millimetre_are_found_again(tmp_path) -> None:
    affine = np.diag([0.0, 0, 0, 1])
    affine[2, 0], affine[1, 1], affine[0, 2], affine[:3, 3] = 0.02, 0.007, 0.007, (-181.3, 12.1, 7.7)
    mask = np.random.default_rng(5).random((3, 20, 24)) < 0.6
    series = send(tmp_path / "series", Volume(mask.astype(np.int16), affine))
    write_rtstruct(tmp_path / "rt.dcm", Volume(mask.astype(np.uint8), affine), ("b", "x"), series, ALGORITHM)
    wanted = Volume(mask.astype(np.uint8), affine).like(read_source(series).grid).voxels
    np.testing.assert_array_equal(filled(tmp_path / "rt.dcm", series)[1], wanted == 1)


def test_codes_of_the_spec_win(scan, sent, tmp_path) -> None:
    codes = {"organ x": Code("64033007", "SCT", "Kidney")}
    file = write_rtstruct(tmp_path / "rt.dcm", drawn(scan), NAMES, sent, ALGORITHM, codes=codes)
    assert file.uncoded == ()
    code = pydicom.dcmread(tmp_path / "rt.dcm").RTROIObservationsSequence[3].RTROIIdentificationCodeSequence[0]
    assert code.CodeMeaning == "Kidney"


def test_what_cannot_be_written_leaves_nothing(scan, sent, tmp_path, monkeypatch) -> None:
    elsewhere = np.array(scan.affine)
    elsewhere[0, 3] += 50
    nothing = Volume(np.zeros(scan.shape, np.uint8), scan.affine)
    with pytest.raises(GeometryError):
        write_rtstruct(tmp_path / "rt.dcm", Volume(drawn(scan).voxels, elsewhere), NAMES, sent, ALGORITHM)
    with pytest.raises(UsageError):
        write_rtstruct(tmp_path / "rt.dcm", nothing, NAMES[:1], sent, ALGORITHM)
    with pytest.raises(OutputError):
        write_rtstruct(tmp_path / "nowhere" / "rt.dcm", drawn(scan), NAMES, sent, ALGORITHM)
    (nameless,) = find_series(_without_frame_of_reference(tmp_path / "nameless", scan))
    with pytest.raises(RefusedSeries, match="FrameOfReferenceUID"):
        write_rtstruct(tmp_path / "rt.dcm", drawn(scan), NAMES, nameless, ALGORITHM)
    monkeypatch.setitem(sys.modules, "contourpy", None)
    with pytest.raises(MissingDependency, match="contourpy"):
        write_rtstruct(tmp_path / "rt.dcm", drawn(scan), NAMES, sent, ALGORITHM)
    assert not (tmp_path / "rt.dcm").exists()


def _without_frame_of_reference(folder: Path, scan: Volume) -> Path:
    write_series(folder, scan.voxels, scan.affine, FrameOfReferenceUID="")
    return folder
