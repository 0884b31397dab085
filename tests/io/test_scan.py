"""A scan is found the same way wherever it lies: in a file, in a folder of DICOM, among several series."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from medattn_edge.errors import ScanError, UsageError
from medattn_edge.io import Scan, find_scan, read_scan, read_volume, write_labels
from medattn_edge.volume import Volume

CT = Volume(np.arange(5 * 24 * 20, dtype=np.int16).reshape(5, 24, 20), np.diag([4.0, 1.5, 1.25, 1.0])[[2, 1, 0, 3]])


@pytest.fixture
def several(tmp_path: Path) -> Path:
    """Two series in one folder, the second with other voxels."""
    pytest.importorskip("pydicom", reason="the extra dicom is not installed")
    from tests.support.dicom_phantoms import write_series

    write_series(tmp_path / "in", CT.voxels, CT.affine, SeriesInstanceUID="1.2.3.1", name="one")
    write_series(tmp_path / "in", CT.voxels[::-1].copy(), CT.affine, SeriesInstanceUID="1.2.3.2", name="two")
    return tmp_path / "in"


def test_a_file_is_its_own_scan(tmp_path: Path) -> None:
    path = tmp_path / "scan.npz"
    write_labels(path, CT.with_voxels(CT.voxels.astype(np.uint16)), ("background",))
    scan = Scan(path)
    assert (scan.series, scan.files) == (None, (path,))
    assert np.array_equal(scan.read().voxels, CT.voxels)
    assert np.array_equal(read_scan(str(path)).affine, read_volume(path).affine)
    with pytest.raises(UsageError, match="--series"):
        Scan(path, "ab")


def test_what_is_not_there_is_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(ScanError, match="does not exist"):
        read_scan(tmp_path / "scan.nrrd")


def test_several_series_are_an_error_that_lists_them_until_one_is_chosen(several: Path) -> None:
    from medattn_edge.io.dicom.volume import find_series

    hashes = [series.hash for series in find_series(several)]
    with pytest.raises(ScanError, match="2 series that can be read") as raised:
        read_scan(several)
    assert all(one in str(raised.value) for one in hashes)
    found = [Scan(several, one[:8]) for one in hashes]
    assert [len(scan.files) for scan in found] == [5, 5]
    volumes = [scan.read().voxels for scan in found]
    assert not np.array_equal(volumes[0], volumes[1])
    with pytest.raises(ScanError, match="no series 'zz'"):
        find_scan(several, "zz")
    assert find_scan(several, hashes[0]).files == found[0].files
