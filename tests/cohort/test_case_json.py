"""A scan goes to another process as JSON, with what was found in its headers, and is read there as it is here."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from medattn_edge.cohort import ScanChoices, find_cases
from medattn_edge.cohort.case_json import case_from_json, case_to_json, choices_from_json, choices_to_json
from medattn_edge.errors import UsageError
from medattn_edge.io import ChannelScan, Scan
from medattn_edge.io.listed_channels import ListedChannels
from medattn_edge.io.scan_json import scan_from_json, scan_to_json
from tests.support.scans import write_nifti
from tests.support.sessions import make_volume


def there_and_back(scan: Scan) -> Scan:
    return scan_from_json(json.loads(json.dumps(scan_to_json(scan))))


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    voxels = np.random.default_rng(1).random((2, 3, 5, 4)).astype(np.float32)
    return [write_nifti(tmp_path / f"{name}.nii", make_volume(one)) for name, one in zip("ab", voxels, strict=True)]


def test_files_and_their_channels_are_those_that_were_given(files: list[Path]) -> None:
    first, second = files
    parts = [f"t2={second}", f"t1={first}"]
    for scan in (
        Scan(first, "", (0.5, 0.25), geometry="sform", volume=1),
        ChannelScan([str(first), str(second)], (0.5, 0.5), resample_to_first=True),
        ChannelScan(parts),
        ChannelScan({"one": Scan(first), "two": Scan(second, geometry="qform")}, resample_to_first=True),
        ListedChannels(Scan(first), {"t2": Scan(second)}, resample_to_first=True),
    ):
        again = there_and_back(scan)
        assert type(again) is type(scan)
        assert (again.paths, again.files, again.name) == (scan.paths, scan.files, scan.name)
        assert scan_to_json(again) == scan_to_json(scan)
    np.testing.assert_array_equal(there_and_back(ChannelScan(parts)).read().voxels, ChannelScan(parts).read().voxels)


def test_a_series_has_every_header_that_was_read(tmp_path: Path) -> None:
    pytest.importorskip("highdicom", reason="the extra dicom is not installed")
    from tests.support.dicom_phantoms import real_ct, write_series

    ct = real_ct(4, 40, 36)
    write_series(tmp_path / "DOE_JOHN", ct.voxels, ct.affine)
    [case] = find_cases([tmp_path]).cases
    again = case_from_json(json.loads(json.dumps(case_to_json(case))))
    assert (again.name, again.shown, again.found, again.hidden) == (case.name, case.shown, True, case.hidden)
    assert case.scan is not None
    assert again.scan is not None
    one, other = case.scan.series, again.scan.series
    assert one is not None
    assert other is not None
    assert one.grid is not None
    assert other.grid is not None
    assert other.frames == one.frames
    np.testing.assert_array_equal(other.grid.affine, one.grid.affine)
    assert not other.grid.affine.flags.writeable
    plain = [{**asdict(series), "grid": None} for series in (one, other)]
    assert plain[0] == plain[1]
    np.testing.assert_array_equal(again.scan.read().voxels, case.scan.read().voxels)


def test_a_kind_of_scan_that_nobody_else_can_read_is_refused(files: list[Path]) -> None:
    class Own(Scan):
        pass

    with pytest.raises(UsageError, match="Own for several workers"):
        scan_to_json(Own(files[0]))


def test_choices_are_the_same_on_the_other_side() -> None:
    choices = ScanChoices((0.5, 1.0), "sform", 2, True, True)
    assert choices_from_json(json.loads(json.dumps(choices_to_json(choices)))) == choices
