"""What a header may say of a slice: each limit itself, and the next value beyond it. The numbers are written out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pydicom = pytest.importorskip("pydicom", reason="the extra dicom is not installed")

from pydicom.dataset import Dataset  # noqa: E402

from medattn_edge.io.dicom.planes import planes_of  # noqa: E402
from medattn_edge.io.dicom.volume import find_series  # noqa: E402
from tests.support.data_sets import plane_data_set, reason_of  # noqa: E402
from tests.support.dicom_phantoms import real_ct, write_series  # noqa: E402
from tests.support.image_planes import STORAGE  # noqa: E402

SCAN = real_ct(3, 12, 10)


@pytest.mark.filterwarnings("ignore:(?s).*for VR UI:UserWarning")
@pytest.mark.parametrize("keyword", ["SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "FrameOfReferenceUID"])
@pytest.mark.parametrize(
    ("uid", "taken"),
    [("1." + "2" * 62, True), ("1." + "2" * 63, False), ("1.2", True), ("12", False), ("1.2.", False), ("1.a", False)],
)
def test_a_uid_has_64_characters_and_two_numbers(tmp_path: Path, keyword: str, uid: str, taken: bool) -> None:
    write_series(tmp_path, SCAN.voxels[:1], SCAN.affine, **{keyword: uid})
    (series,) = find_series(tmp_path)
    assert series.reason == ("single_slice" if taken else "blank_uid")
    if not taken:
        assert series.detail == f"the {keyword} is not a UID"


@pytest.mark.parametrize("keyword", ["SOPInstanceUID", "StudyInstanceUID"])
def test_a_uid_that_is_not_there_is_called_empty(tmp_path: Path, keyword: str) -> None:
    write_series(tmp_path, SCAN.voxels[:1], SCAN.affine, **{keyword: None})
    assert find_series(tmp_path)[0].detail == f"the {keyword} is empty"


def refused(**changes: Any) -> str:
    return reason_of(lambda: planes_of(Path("a"), plane_data_set(**changes), STORAGE, enhanced=False))


def test_a_plane_is_what_its_header_says() -> None:
    (plane,) = planes_of(Path("a"), plane_data_set(), STORAGE, enhanced=False)
    assert (plane.position, plane.right, plane.down) == ((1, 2, 3), (1, 0, 0), (0, 1, 0))
    assert (plane.spacing, plane.slope, plane.intercept, plane.units) == ((1.5, 1.25), 2, -3, "HU")
    assert (plane.frame, plane.sop_instance_uid) == (0, "1.2.3")


@pytest.mark.parametrize(
    ("orientation", "reason"),
    [
        ([1, 0, 0, 1e-3, 1, 0], ""),
        ([1, 0, 0, -1e-3, 1, 0], ""),
        ([1, 0, 0, 1.01e-3, 1, 0], "no_geometry"),
        ([1, 0, 0, -1.01e-3, 1, 0], "no_geometry"),
        ([1.00099, 0, 0, 0, 1, 0], ""),
        ([1.00101, 0, 0, 0, 1, 0], "no_geometry"),
        ([0.99901, 0, 0, 0, 1, 0], ""),
        ([0.99899, 0, 0, 0, 1, 0], "no_geometry"),
        ([1, 0, 0, 0, 1.00101, 0], "no_geometry"),
        ([1, 0, 0, 0, 0.99899, 0], "no_geometry"),
        ([1, 0, 0, 1, 0, 0], "no_geometry"),
        ([1, 0, 0, 0, 1], "no_geometry"),
        (None, "no_geometry"),
    ],
)
def test_rows_and_columns_are_orthonormal_to_a_thousandth(orientation: Any, reason: str) -> None:
    assert refused(ImageOrientationPatient=orientation) == reason


def test_directions_that_are_nearly_of_length_one_become_so() -> None:
    (plane,) = planes_of(
        Path("a"), plane_data_set(ImageOrientationPatient=[1.0009, 0, 0, 0, 0, 0.9991]), STORAGE, enhanced=False
    )
    assert plane.right == (1, 0, 0)
    assert plane.down == (0, 0, 1)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize(
    ("mm", "reason"),
    [(0.001, "no_geometry"), (0.0011, ""), (999.9, ""), (1000, "no_geometry"), (0, "no_geometry"), (-1, "no_geometry")],
)
def test_a_pixel_has_a_micrometre_to_a_metre(axis: int, mm: float, reason: str) -> None:
    spacing = [1.5, 1.5]
    spacing[axis] = mm
    assert refused(PixelSpacing=spacing) == reason


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize(("mm", "reason"), [(999_999, ""), (-999_999, ""), (1e6, "no_geometry"), (-1e6, "no_geometry")])
def test_a_position_lies_within_a_kilometre(axis: int, mm: float, reason: str) -> None:
    position = [1.0, 2, 3]
    position[axis] = mm
    assert refused(ImagePositionPatient=position) == reason
    assert refused(ImagePositionPatient=position[:2]) == "no_geometry"


@pytest.mark.parametrize("modality", ["CT", "PT", "MR"])
@pytest.mark.parametrize(("slope", "intercept"), [(None, 5), (5, None), (None, None)])
def test_half_a_rescaling_is_none(modality: str, slope: int | None, intercept: int | None) -> None:
    changed = plane_data_set(Modality=modality, RescaleSlope=slope, RescaleIntercept=intercept, RescaleType=None)
    if modality != "MR":
        assert reason_of(lambda: planes_of(Path("a"), changed, STORAGE, enhanced=False)) == "no_rescale"
        return
    (plane,) = planes_of(Path("a"), changed, STORAGE, enhanced=False)
    assert (plane.slope, plane.intercept, plane.units) == (1, 0, "")


@pytest.mark.parametrize(
    ("modality", "units", "reason"),
    [("CT", "HU", ""), ("CT", "hu ", ""), ("CT", "US", ""), ("CT", "HU_MOD", ""), ("CT", None, ""), ("PT", "Z", ""),
     ("CT", "MGML", "no_rescale"), ("CT", "PCT", "no_rescale"), ("MR", "PCT", "")],
)  # fmt: skip
def test_a_ct_is_in_hounsfield_units_or_does_not_say(modality: str, units: str | None, reason: str) -> None:
    assert refused(Modality=modality, RescaleType=units) == reason


def test_a_slope_of_zero_and_a_table_of_values_are_no_rescaling() -> None:
    assert refused(RescaleSlope=0) == "no_rescale"
    assert refused(RescaleSlope=-1) == ""
    assert refused(RescaleSlope=0.5, RescaleIntercept=0) == ""
    assert refused(ModalityLUTSequence=[Dataset()]) == "no_rescale"
