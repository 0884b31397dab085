"""What an object that is made from a series says of itself: numbers, texts and limits, each as it is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pydicom = pytest.importorskip("pydicom", reason="the extra dicom is not installed")
pytest.importorskip("highdicom", reason="the extra dicom is not installed")

from medattn_edge.errors import UsageError  # noqa: E402
from medattn_edge.io.dicom.secondary_capture import key_slices, secondary_capture  # noqa: E402
from medattn_edge.io.dicom.seg import KINDS, check_kind, segment_names, write_seg  # noqa: E402
from medattn_edge.io.dicom.series import find_series  # noqa: E402
from medattn_edge.io.dicom.source import lenient, read_source  # noqa: E402
from medattn_edge.io.dicom.uids import Algorithm, Identity  # noqa: E402
from medattn_edge.volume import Volume  # noqa: E402
from tests.support.dicom_phantoms import real_ct, write_series  # noqa: E402

SCAN = real_ct(3, 12, 10)
NAMES = ("background", "liver", "spleen")
ALGORITHM = Algorithm("lungs", "1.5", "5" * 64, "overlap=0.5")
LABELS = Volume(np.zeros(SCAN.shape, np.uint8), SCAN.affine)
LABELS.voxels[1, 4:8, 4:8] = 1
LABELS.voxels[1:, 0:2, 0:2] = 2


def send(folder: Path, **changes: Any) -> Any:
    with lenient():
        write_series(folder, SCAN.voxels, SCAN.affine, **changes)
    (series,) = find_series(folder)
    assert series.accepted, series
    return series


@pytest.mark.parametrize(
    ("given", "number"),
    [("7", 7), ("0", 0), (None, 0), ("1000000", 1_000_000), ("1000001", 1_000_000), ("-3", 0)],
)
def test_a_series_number_is_one_that_a_person_counts_with(tmp_path: Path, given: str | None, number: int) -> None:
    assert read_source(send(tmp_path, SeriesNumber=given)).series_number == number


@pytest.mark.parametrize(
    ("centre", "width", "window"),
    [("40", "400", (-160, 240)), ("40", "1", (39.5, 40.5)), ("40", "0.9", None), ("40", "0", None), ("40", None, None),
     (["40", "50"], ["400", "1500"], (-160, 240))],
)  # fmt: skip
def test_the_scanners_window_is_half_below_and_half_above_its_centre(
    tmp_path: Path, centre: Any, width: Any, window: tuple[float, float] | None
) -> None:
    assert read_source(send(tmp_path, WindowCenter=centre, WindowWidth=width)).window == window


def test_the_window_is_that_of_the_middle_slice(tmp_path: Path) -> None:
    series = send(tmp_path, WindowCenter=lambda i: str(10 * i), WindowWidth="2")
    assert read_source(series).window == (9, 11)


@pytest.mark.parametrize(
    ("changes", "date"),
    [
        ({"ContentDate": lambda i: f"2020010{i + 1}", "ContentTime": "101112"}, ("20200103", "101112")),
        ({"ContentDate": "20200101", "ContentTime": lambda i: f"10111{2 - i}"}, ("20200101", "101112")),
        ({"ContentDate": "20200101", "ContentTime": "25"}, ("20200101", "000000")),
        ({"ContentDate": lambda i: "" if i else "20200105"}, ("20200105", "120000")),
    ],
)
def test_the_latest_date_of_the_first_kind_that_there_is(tmp_path: Path, changes: Any, date: tuple[str, str]) -> None:
    source = read_source(send(tmp_path, **changes))
    assert (source.date, source.time) == date


@pytest.mark.parametrize("enhanced", [False, True])
def test_frames_are_counted_from_one_in_an_object_of_several(tmp_path: Path, enhanced: bool) -> None:
    source = read_source(send(tmp_path, enhanced=enhanced))
    assert [frame.number for frame in source.frames] == ([1, 2, 3] if enhanced else [0, 0, 0])
    assert len(source.headers) == (1 if enhanced else 3)
    assert source.grid.shape == SCAN.shape


def test_a_segmentation_says_what_made_it(tmp_path: Path) -> None:
    series = send(tmp_path / "in", SeriesNumber="7")
    made = write_seg(tmp_path / "seg.dcm", LABELS, NAMES, series, ALGORITHM)
    read = pydicom.dcmread(made.path)
    source = read_source(series)
    identity = Identity(series.series_instance_uid, source.sop_instance_uids, ALGORITHM, "binary")
    assert (read.SOPInstanceUID, read.SeriesInstanceUID) == (identity.uid("instance"), identity.uid("series"))
    assert (made.sop_instance_uid, made.series_instance_uid) == (read.SOPInstanceUID, read.SeriesInstanceUID)
    assert (read.SeriesNumber, read.InstanceNumber, read.NumberOfFrames) == (1007, 1, 3)
    assert (made.frames, made.segments, made.uncoded, made.remarks) == (3, ("liver", "spleen"), (), ())
    assert read.SeriesDescription == "lungs segmentation"
    assert (read.ContentLabel, read.ContentCreatorName) == ("SEGMENTATION", "")
    assert (read.Manufacturer, read.ManufacturerModelName) == ("medattn-edge", "lungs")
    assert read.SoftwareVersions[1] == "1.5"
    assert read.DeviceSerialNumber == "5" * 64
    assert [item.SegmentNumber for item in read.SegmentSequence] == [1, 2]
    assert [item.SegmentLabel for item in read.SegmentSequence] == ["liver", "spleen"]
    parameters = read.SegmentSequence[0].SegmentationAlgorithmIdentificationSequence[0].AlgorithmParameters
    assert parameters == f"model_sha256={'5' * 64},settings=overlap=0.5"
    for keyword in ("InstanceCreationDate", "InstanceCreationTime"):
        assert keyword not in read
    assert all("ContributionDateTime" not in item for item in read.get("ContributingEquipmentSequence", ()))
    dimensions = {item.DimensionOrganizationUID for item in
                  (*read.DimensionOrganizationSequence, *read.DimensionIndexSequence)}  # fmt: skip
    assert dimensions == {identity.uid("dimensions")}
    long = write_seg(tmp_path / "long.dcm", LABELS, NAMES, series, Algorithm("a" * 64, "1", "5" * 64))
    assert pydicom.dcmread(long.path).SeriesDescription == "a" * 64


def test_a_picture_says_what_made_it(tmp_path: Path) -> None:
    series = send(tmp_path / "in", SeriesNumber="7", LossyImageCompression="00")
    paths = secondary_capture(tmp_path, SCAN, LABELS, NAMES, series, ALGORITHM, count=2)
    assert [path.name for path in paths] == ["key_1.dcm", "key_2.dcm"]
    first, second = map(pydicom.dcmread, paths)
    identity = Identity(series.series_instance_uid, read_source(series).sop_instance_uids, ALGORITHM, "key-slices")
    for number, read in enumerate((first, second), start=1):
        assert (read.SeriesNumber, read.InstanceNumber) == (2007, number)
        assert read.SOPInstanceUID == identity.uid("instance", number)
        assert read.SeriesInstanceUID == identity.uid("series")
        assert (read.BitsAllocated, read.PhotometricInterpretation, read.SamplesPerPixel) == (8, "RGB", 3)
        assert (read.Laterality, read.BurnedInAnnotation, read.LossyImageCompression) == ("", "NO", "00")
        assert read.SeriesDescription == "lungs key slices"
        assert read.DerivationDescription == f"Outlines of lungs, model {'5' * 64}"
        height, width = 12 * 1.5, 10 * 1.25
        assert [float(mm) for mm in read.PixelSpacing] == pytest.approx([height / 620] * 2, rel=1e-6)
        assert read.Columns == max(420, round(620 * width / height)) + 40
        assert read.Rows == 20 + 30 + 620 + 14 + 30 + 20
        reference = read.SourceImageSequence[0]
        assert reference.ReferencedSOPInstanceUID == series.frames[number].sop_instance_uid
        assert "ReferencedFrameNumber" not in reference
    assert (first.PatientOrientation, second.PatientOrientation) == (["L", "P"], ["L", "P"])


@pytest.mark.parametrize(
    ("voxels", "names", "good"),
    [
        (np.array([0, 65535], np.uint32), ["a"], True),
        (np.array([0, 65536], np.uint32), ["a"], False),
        (np.array([0, 1], np.int16), ["a", "b"], False),
        (np.array([0, 0], np.uint8), ["a"], False),
        (np.array([0, 0], np.uint8), ["a", "b"], True),
        (np.array([0, 1], np.uint8), [], True),
        (np.array([0, 1], bool), ["a", "b"], True),
    ],
)
def test_labels_that_a_segmentation_can_hold(voxels: np.ndarray, names: list[str], good: bool) -> None:
    if good:
        found = segment_names(voxels.reshape(1, 1, 2), names)
        assert len(found) == max(int(voxels.max()), len(names) - 1)
        assert found[0] == (names[1] if len(names) > 1 else "label 1")
    else:
        with pytest.raises(UsageError, match="labels of type"):
            segment_names(voxels.reshape(1, 1, 2), names)


def test_regions_have_a_name_each_and_are_called_by_their_numbers_without_one() -> None:
    maps = np.ones((2, 1, 1, 2), np.uint8)
    assert segment_names(maps, ["a", " "]) == ["a", "region 2"]
    for wrong, names in ((maps, ["a"]), (2 * maps, ["a", "b"]), (maps.astype(np.int16), ["a", "b"])):
        with pytest.raises(UsageError, match="regions of type"):
            segment_names(wrong, names)
    for kind in KINDS:
        check_kind(kind, overlapping=False)
    check_kind("binary", overlapping=True)
    for kind in ("labelmap", "fractional"):
        with pytest.raises(UsageError):
            check_kind(kind, overlapping=True)
    long = segment_names(np.ones((1, 1, 1), np.uint8), ["a", "b" * 63 + " c"])
    assert long == ["b" * 63]


@pytest.mark.parametrize(("count", "places"), [(1, [2]), (2, [0, 2]), (3, [0, 1, 2]), (9, [0, 1, 2, 4])])
def test_key_slices_are_those_of_the_largest_labels_and_then_the_fullest(count: int, places: list[int]) -> None:
    labels = np.zeros((5, 1, 9), np.uint8)
    labels[2, 0, :6] = 1  # the largest label, most of it here
    labels[1, 0, :4] = 1
    labels[0, 0, :2] = 2
    labels[4, 0, :1] = 1
    labels[1, 0, 8] = 2
    assert key_slices(labels, count) == places
    regions = np.stack([labels == 1, labels == 2]).astype(np.uint8)
    assert key_slices(regions, count) == places
    assert key_slices(np.zeros((5, 1, 9), np.uint8), count) == [2]
    assert key_slices(np.zeros((2, 4, 1, 9), np.uint8), count) == [2]


@pytest.mark.parametrize(("refused", "more"), [(1, ""), (2, ", and 1 more"), (3, ", and 2 more")])
def test_the_first_refusal_of_a_series_is_told_and_the_others_are_counted(
    tmp_path: Path, refused: int, more: str
) -> None:
    write_series(tmp_path, SCAN.voxels, SCAN.affine, SamplesPerPixel=lambda i: 3 if i < refused else 1)
    (series,) = find_series(tmp_path)
    assert (series.reason, series.detail) == ("rgb", f"3 samples a pixel{more}")
    assert series.slices == 3
    assert series.spacing_mm is None
    assert send(tmp_path / "good").spacing_mm == pytest.approx((4.0, 1.5, 1.25))
