"""Windows: what is cut from a scan is what segmenting it would show the network."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from medattn_edge.errors import InputError, ScanError
from medattn_edge.inference.preprocess import prepare
from medattn_edge.precision.windows import ScanSource, TiledScan
from medattn_edge.volume import Volume
from tests.precision.scans import LPS, SPEC, every_window, scan


def test_a_window_is_the_patch_that_segmenting_would_see() -> None:
    windows = every_window(scan())
    image = prepare(scan().read(), SPEC).image
    assert len(windows) == 12 * 3 * 2
    assert windows[0].shape == (1, 1, 16, 16)
    np.testing.assert_array_equal(windows[0][0, 0], image[0, 0, :16, :16])
    np.testing.assert_array_equal(windows[-1][0, 0], image[0, -1, -16:, -16:])


def test_the_true_labels_of_a_window_lie_where_its_voxels_do() -> None:
    windows = every_window(scan())
    assert windows.has_truth
    for index in (0, 1, 40, len(windows) - 1):
        np.testing.assert_array_equal(windows.truth(index), windows[index][0, 0] > 0.5)
    assert windows.truth(0).any()
    assert not every_window(replace(scan(), truth=None)).has_truth


def test_true_labels_follow_a_scan_that_is_resampled_and_reoriented() -> None:
    spec = replace(SPEC, spacing=(0.5, 0.5))
    flipped = Volume(scan().read().voxels, LPS * np.array([-1.0, 1.0, -1.0, 1.0]))
    labels = Volume((flipped.voxels > 0.5).astype(np.uint8), flipped.affine)
    windows = every_window(ScanSource("a", lambda: flipped, lambda _: labels), spec)
    inside = np.concatenate([windows[i][0, 0][windows.truth(i) == 1] for i in range(len(windows))])
    outside = np.concatenate([windows[i][0, 0][windows.truth(i) == 0] for i in range(len(windows))])
    assert inside.mean() > 0.85
    assert outside.mean() < 0.3


def test_a_scan_smaller_than_the_patch_has_no_label_in_its_margin() -> None:
    windows = every_window(scan((2, 10, 10)))
    assert windows[0].shape == (1, 1, 16, 16)
    assert windows[0][0, 0, :3].max() == windows[0].min(), "the scan's own minimum surrounds it"
    assert windows.truth(0).shape == (16, 16)
    assert windows.truth(0)[:3].sum() == 0


def test_a_digest_tells_patches_and_true_labels() -> None:
    first = every_window(scan())
    assert first.digest == every_window(scan(name="another name")).digest
    others = [first[:4], every_window(scan(seed=1)), every_window(replace(scan(), truth=None))]
    assert len({first.digest, *(one.digest for one in others)}) == 4


def test_one_scan_is_known_again_in_another_file_and_another_orientation(tmp_path: Path) -> None:
    def digest(name: str, seed: int, turned: bool = False) -> str:
        volume = scan(seed=seed).read()
        if turned:
            volume = Volume(volume.voxels[::-1].copy(), volume.affine * np.array([-1.0, 1, 1, 1]))
        np.savez(tmp_path / name, voxels=volume.voxels, affine=volume.affine)
        return TiledScan(ScanSource.of(tmp_path / name), SPEC).digest

    assert digest("a.npz", 1) == digest("b.npz", 1) == digest("turned.npz", 1, turned=True) != digest("c.npz", 2)


def test_a_scan_is_named_without_its_folder(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", voxels=scan().read().voxels, affine=LPS)
    assert ScanSource.of(tmp_path / "a.npz").name == "a.npz"
    assert ScanSource.of(scan().read(), 3).name == "volume 3"


def test_a_dicom_folder_is_named_by_the_hash_of_its_series(tmp_path: Path) -> None:
    pytest.importorskip("pydicom", reason="the extra dicom is not installed")
    from medattn_edge.io.dicom.volume import choose_series
    from tests.support.dicom_phantoms import real_ct, write_series

    volume = real_ct()
    write_series(tmp_path / "DOE JANE", volume.voxels, volume.affine)
    source = ScanSource.of(tmp_path / "DOE JANE")
    assert source.name == f"series {choose_series(tmp_path / 'DOE JANE').hash}"
    np.testing.assert_array_equal(source.read().voxels, volume.voxels)


def test_what_is_not_there_is_refused_before_it_is_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"missing\.nii does not exist"):
        ScanSource.of(tmp_path / "missing.nii")


def test_a_folder_without_dicom_is_refused_before_it_is_read(tmp_path: Path) -> None:
    pytest.importorskip("pydicom", reason="the extra dicom is not installed")
    with pytest.raises(ScanError, match="a folder without DICOM files"):
        ScanSource.of(tmp_path)


@pytest.mark.parametrize(("batch", "rows"), [(None, 1), (1, 1), (3, 3)])
def test_calibration_runs_one_window_at_a_time_unless_the_batch_is_fixed(batch: int | None, rows: int) -> None:
    from medattn_edge.precision.int8 import Inputs

    windows = every_window(scan())
    inputs = Inputs(windows, batch)
    assert len(inputs) == len(windows)
    assert inputs[0].shape == (rows, 1, 16, 16)
    assert np.array_equal(inputs[1][:1], windows[1])
