"""NumPy archives: plain arrays, never code."""

import numpy as np
import pytest

from medattn_edge.errors import GeometryError, ScanError
from medattn_edge.io import read_volume, write_maps
from medattn_edge.volume import Volume


@pytest.mark.parametrize(("shape", "expected"), [((4, 5), (1, 4, 5)), ((3, 4, 5), (3, 4, 5)), ((2, 3, 4, 5),) * 2])
def test_a_slice_a_scan_and_channels_are_told_apart_by_their_axes(tmp_path, shape, expected):
    np.savez(tmp_path / "scan.npz", voxels=np.zeros(shape, np.float32), affine=np.eye(4))
    volume = read_volume(tmp_path / "scan.npz")
    assert volume.voxels.shape == expected
    assert volume.calibrated


def test_without_an_affine_there_are_no_millimetres(tmp_path):
    np.savez(tmp_path / "scan.npz", voxels=np.zeros((3, 4, 5)))
    volume = read_volume(tmp_path / "scan.npz")
    assert not volume.calibrated
    assert volume.spacing == (1, 1, 1)
    assert np.array_equal(volume.to_lps().affine, volume.affine)


@pytest.mark.parametrize(
    "arrays",
    [
        {"image": np.zeros((3, 4, 5))},
        {"voxels": np.zeros(5)},
        {"voxels": np.zeros((1, 2, 3, 4, 5))},
        {"voxels": np.zeros((3, 4, 5), complex)},
        {"voxels": np.full((3, 4, 5), "a")},
        {"voxels": np.zeros((3, 4, 5)), "affine": np.full((4, 4), "a")},
    ],
)
def test_other_arrays_are_refused_with_an_example(tmp_path, arrays):
    np.savez(tmp_path / "scan.npz", **arrays)
    with pytest.raises(ScanError) as caught:
        read_volume(tmp_path / "scan.npz")
    assert "numpy.savez" in caught.value.hint


@pytest.mark.parametrize("affine", [np.eye(3), np.full((4, 4), np.nan), np.zeros(16)])
def test_an_affine_that_places_nothing_is_a_geometry_error(tmp_path, affine):
    np.savez(tmp_path / "scan.npz", voxels=np.zeros((3, 4, 5)), affine=affine)
    with pytest.raises(GeometryError):
        read_volume(tmp_path / "scan.npz")


class Bomb:
    def __reduce__(self):
        return exec, ("raise SystemExit('a pickle was executed')",)


def test_a_pickle_is_refused_and_never_executed(tmp_path):
    np.savez(tmp_path / "scan.npz", voxels=np.array([Bomb()], dtype=object))
    with pytest.raises(ScanError, match="cannot be read"):
        read_volume(tmp_path / "scan.npz")


def test_a_single_array_under_the_suffix_is_refused(tmp_path):
    with (tmp_path / "scan.npz").open("wb") as file:
        np.save(file, np.zeros((3, 4, 5)))
    with pytest.raises(ScanError, match="single array"):
        read_volume(tmp_path / "scan.npz")


def test_names_travel_with_the_maps(tmp_path):
    write_maps(tmp_path / "maps.npz", Volume(np.zeros((2, 3, 4, 5)), np.eye(4)), ["background", "Tumör"])
    with np.load(tmp_path / "maps.npz", allow_pickle=False) as archive:
        assert archive["names"].tolist() == ["background", "Tumör"]
