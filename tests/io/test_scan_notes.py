"""What people should know of how a scan was read comes from the scan itself, whoever reads it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from medattn_edge.io import Scan, as_scan
from medattn_edge.precision.windows import ScanSource
from medattn_edge.training import Label, read_cases
from medattn_edge.volume import Volume
from tests.support.scans import write_nifti

CT = Volume(np.arange(5 * 24 * 20, dtype=np.int16).reshape(5, 24, 20), np.diag([4.0, 1.5, 1.25, 1.0])[[2, 1, 0, 3]])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A series that went through a Mac, which left a file of its own beside every slice."""
    pytest.importorskip("pydicom", reason="the extra dicom is not installed")
    from tests.support.dicom_phantoms import write_series

    write_series(tmp_path / "in", CT.voxels, CT.affine)
    (tmp_path / "in" / "._slice.dcm").write_bytes(b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X        ")
    return tmp_path / "in"


def test_the_notes_of_a_series_are_its_scans(folder: Path) -> None:
    scan = Scan(folder)
    scan.read()
    assert scan.notes() == ("1 AppleDouble files of macOS left out",)


def test_the_notes_of_several_scans_say_which_they_are_of(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.nii.gz"
    write_nifti(other, CT)
    scan = as_scan([folder, other])
    scan.read()
    assert scan.notes() == ("in: 1 AppleDouble files of macOS left out",)


def test_training_and_calibration_get_them_as_well(folder: Path, tmp_path: Path) -> None:
    source = ScanSource.of(folder)
    source.read()
    assert source.notes() == ("1 AppleDouble files of macOS left out",)
    labels = tmp_path / "labels.nii.gz"
    write_nifti(labels, CT.with_voxels((CT.voxels > 1000).astype(np.uint8)))
    scan = Scan(folder)
    read_cases([(scan, labels)], [Label(1, "bright", (1,))])
    assert scan.notes() == source.notes()
