"""Regions that may overlap as a DICOM segmentation: a segment for each, which other readers find where it was."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from medattn_edge.errors import UsageError
from medattn_edge.volume import Volume

pydicom = pytest.importorskip("pydicom", reason="the extra dicom is not installed")
highdicom = pytest.importorskip("highdicom", reason="the extra dicom is not installed")

from medattn_edge.io.dicom.secondary_capture import key_slices, secondary_capture  # noqa: E402
from medattn_edge.io.dicom.seg import write_seg  # noqa: E402
from medattn_edge.io.dicom.source import read_source  # noqa: E402
from tests.io.dicom.test_seg import ALGORITHM, remarks_of_dciodvfy, send  # noqa: E402
from tests.support.dicom_phantoms import in_plane, real_ct  # noqa: E402

NAMES = ("whole tumor", "tumor core", "nowhere")


def drawn(scan: Volume) -> Volume:
    """Real voxels: all that is no air, and what of it is denser; the first slice is empty."""
    maps = np.stack([scan.voxels > -500, scan.voxels > 0, scan.voxels > 1e6]).astype(np.uint8)
    maps[:, 0] = 0
    assert 0 < (maps[0] & maps[1]).sum() < maps[0].sum()
    return Volume(maps, scan.affine)


@pytest.mark.parametrize("enhanced", [False, True], ids=["single", "enhanced"])
@pytest.mark.parametrize("plane", ["axial", "sagittal"])
def test_every_segment_is_read_back_in_its_place_and_dciodvfy_is_content(
    enhanced: bool, plane: str, tmp_path: Path
) -> None:
    scan = in_plane(real_ct(), plane)
    series = send(tmp_path / "series", scan, enhanced=enhanced)
    regions = drawn(scan)
    write_seg(tmp_path / "seg.dcm", regions.oriented("RAS"), NAMES, series, ALGORITHM)  # in any order of the axes
    seg = highdicom.seg.segread(tmp_path / "seg.dcm")
    assert [seg.get_segment_description(number).segment_label for number in (1, 2, 3)] == list(NAMES)
    wanted = regions.like(read_source(series).grid)
    found = seg.get_volume(combine_segments=False, allow_missing_positions=True)  # (slices, rows, columns, segments)
    voxels = np.zeros(wanted.voxels.shape, np.uint8)
    for number in range(found.spatial_shape[0]):  # the volume begins at its first frame, which is not the scan's
        place = wanted.index((found.get_affine("LPS") @ np.array([number, 0, 0, 1.0]))[:3])
        np.testing.assert_allclose(place, (round(place[0]), 0, 0), atol=1e-3)
        voxels[:, round(place[0])] = np.moveaxis(found.array[number], -1, 0)
    np.testing.assert_array_equal(voxels, wanted.voxels)
    assert remarks_of_dciodvfy(tmp_path / "seg.dcm") == []


def test_no_region_anywhere_is_one_empty_slice_that_lists_all(tmp_path: Path) -> None:
    scan = real_ct()
    series = send(tmp_path / "series", scan)
    nothing = Volume(np.zeros((3, *scan.shape), np.uint8), scan.affine)
    file = write_seg(tmp_path / "seg.dcm", nothing, NAMES, series, ALGORITHM)
    assert file.segments == NAMES
    assert not pydicom.dcmread(tmp_path / "seg.dcm").pixel_array.any()


def test_a_labelmap_and_what_is_no_map_for_each_name_are_refused(tmp_path: Path) -> None:
    scan = real_ct()
    series, regions = send(tmp_path / "series", scan), drawn(scan)
    with pytest.raises(UsageError, match=r"may overlap(.|\n)*--seg-kind binary, or --regions label-map"):
        write_seg(tmp_path / "seg.dcm", regions, NAMES, series, ALGORITHM, kind="labelmap")
    for wrong, names in ((regions.voxels, NAMES[:2]), (2 * regions.voxels, NAMES)):
        with pytest.raises(UsageError, match="one name per region"):
            write_seg(tmp_path / "seg.dcm", regions.with_voxels(wrong), names, series, ALGORITHM)
    assert not (tmp_path / "seg.dcm").exists()


def test_key_slices_are_those_with_most_of_each_region_though_one_hides_the_other(tmp_path: Path) -> None:
    maps = np.zeros((2, 6, 8, 8), np.uint8)
    maps[0, 1:5], maps[0, 2, 0] = 1, 1
    maps[1, 4, :3, :3], maps[1, 1, 0, 0] = 1, 1
    assert key_slices(maps, 2) == [1, 4]
    assert key_slices(np.zeros((2, 6, 4, 4), np.uint8), 3) == [3]
    scan = real_ct()
    paths = secondary_capture(tmp_path, scan, drawn(scan), NAMES, send(tmp_path / "s", scan), ALGORITHM, 2)
    pictures = [pydicom.dcmread(path).pixel_array.reshape(-1, 3) for path in paths]
    for colour in ((255, 196, 0), (0, 190, 255)):  # of the first and of the second region
        assert all((picture == colour).all(axis=1).any() for picture in pictures)
