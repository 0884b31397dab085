"""What a network sees runs through the patient as its spec says, whatever way the scan is stored."""

from __future__ import annotations

import itertools

import nibabel
import numpy as np
import pytest
from monai.data import MetaTensor
from monai.transforms import Orientation

from medattn_edge.errors import UsageError
from medattn_edge.inference.preprocess import prepare
from medattn_edge.io import read_volume
from medattn_edge.spec import ModelSpec, plane_of, with_plane

MONAI_LETTERS = (("L", "R"), ("P", "A"), ("I", "S"))
ORDERS = itertools.permutations(["LR", "PA", "SI"])
CODES = ["".join(letters) for order in ORDERS for letters in itertools.product(*order)]


def write(path, code="LPS"):
    """A scan of unequal sides, stored in the order of a code, and the voxels in nibabel's order."""
    voxels = np.random.default_rng(3).normal(size=(5, 6, 7)).astype(np.float32)
    image = nibabel.Nifti1Image(voxels, np.diag([1.5, 2.0, 2.5, 1.0]))
    turn = nibabel.orientations.ornt_transform(
        nibabel.orientations.io_orientation(image.affine), nibabel.orientations.axcodes2ornt(code)
    )
    image.as_reoriented(turn).to_filename(path)
    return path


def test_there_are_48_orientations() -> None:
    assert len(set(CODES)) == 48


@pytest.mark.parametrize("code", CODES)
def test_a_3d_network_sees_what_monais_orientation_gives(tmp_path, code: str) -> None:
    scan = read_volume(write(tmp_path / "scan.nii.gz", "PIR"))
    spec = ModelSpec("any", 1, ("background", "a"), (4, 4, 4), (1, 1, 1), axes="WHD", orientation=code)
    stored = nibabel.load(tmp_path / "scan.nii.gz")
    image = MetaTensor(stored.get_fdata(dtype=np.float32)[None], affine=stored.affine)
    wanted = Orientation(axcodes=code, labels=MONAI_LETTERS)(image)
    prepared = prepare(scan, spec)
    np.testing.assert_array_equal(prepared.image, np.asarray(wanted))


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("axes", ["HW", "WH"])
def test_what_a_2d_network_says_comes_back_on_the_scans_grid(tmp_path, code: str, axes: str) -> None:
    scan = read_volume(write(tmp_path / "scan.nii.gz", "ASL"))
    prepared = prepare(scan, ModelSpec("any", 1, ("background", "a"), (4, 4), (1, 1), axes=axes, orientation=code))
    back = np.empty(prepared.oriented.shape, np.float32)
    prepared.in_network_order(back)[...] = prepared.image[0]
    np.testing.assert_array_equal(prepared.on_scan(back).voxels, scan.voxels)


@pytest.mark.parametrize(("plane", "axis"), [("axial", 2), ("coronal", 1), ("sagittal", 0)])
def test_a_plane_is_an_orientation_whose_slices_lie_in_it(tmp_path, plane: str, axis: int) -> None:
    code = with_plane("RAS", plane)
    assert plane_of(code) == plane
    spec = ModelSpec("any", 1, ("background", "a"), (4, 4), (1, 1), orientation=code)
    assert spec.plane == plane
    stored = nibabel.load(write(tmp_path / "scan.nii.gz", "RAS"))
    image = prepare(read_volume(tmp_path / "scan.nii.gz"), spec).image[0]
    for index, seen in enumerate(image):
        np.testing.assert_array_equal(seen, np.take(stored.get_fdata(dtype=np.float32), index, axis).T)


@pytest.mark.parametrize("code", ["", "RA", "RASL", "RLS", "XYZ", "ras"])
def test_what_is_no_orientation_is_refused(code: str) -> None:
    with pytest.raises(UsageError, match="--orientation RAS"):
        ModelSpec("any", 1, ("background", "a"), (4, 4), (1, 1), orientation=code)
