"""A network that is trained in another orientation learns, and is judged, as its owner's arrays lie."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from medattn_edge.backends.torch.eager import EagerSession
from medattn_edge.errors import UsageError
from medattn_edge.evaluation import ExpectedScan, fit_scan
from medattn_edge.inference import segment
from medattn_edge.models import checkpoint
from medattn_edge.spec import Intensity, with_plane
from medattn_edge.training import (
    Case,
    Label,
    Output,
    TrainingSettings,
    Wishes,
    choose_spec,
    fit,
    initial_network,
)
from medattn_edge.training.fit import _plane
from medattn_edge.volume import Volume

LABELS = (Label(1, "large", (1,)), Label(2, "small", (2,)))
FLAT = Wishes("attention-unet-2d", {"width": 4}, patch=(16, 16), intensity=Intensity.parse("zscore"))
DEEP = Wishes(
    "attention-unet-monai",
    {"dims": 3, "channels": [4, 8]},
    patch=(8, 8, 8),
    intensity=Intensity.parse("zscore"),
)
SHORT = TrainingSettings(epochs=1, steps=25, batch=4, learning_rate=1e-2, seed=4, blocks=3, holdout=0.34)


@pytest.fixture(scope="module")
def case() -> Case:
    """Two labels all over the scan, so that every block of slices of any plane has both; no symmetry."""
    rng = np.random.default_rng(7)
    voxels = rng.normal(0, 10, (24, 20, 28)).astype(np.float32)
    for axis in range(3):
        voxels += np.roll(voxels, 1, axis) + np.roll(voxels, 2, axis)
    voxels += np.linspace(0, 40, 28, dtype=np.float32)
    labels = np.digitize(voxels, np.quantile(voxels, [0.4, 0.7])).astype(np.uint8)
    affine = np.diag([1.0, 1.25, 1.5, 1.0])[[2, 1, 0, 3]]
    return Case("mosaic.npz", Volume(voxels, affine), Volume(labels, affine))


def _trained(case: Case, wishes: Wishes, path: Path) -> checkpoint.Checkpoint:
    spec, _ = choose_spec([case], LABELS, wishes)
    fit(initial_network(spec, 4), [case], spec, SHORT, Output(path, {"command": "test"}))
    return checkpoint.load(path)


def _laid_out(volume: Volume, code: str) -> Volume:
    """The array as it lies in an orientation, as a scan whose axes are called L, P and S."""
    oriented = volume.oriented(code)
    return Volume(oriented.voxels, np.diag([*oriented.spacing, 1.0])[[2, 1, 0, 3]])


@pytest.mark.parametrize(
    ("wishes", "code"),
    [(FLAT, "RAS"), (FLAT, with_plane("RAS", "coronal")), (FLAT, with_plane("LPI", "sagittal")), (DEEP, "PSR")],
    ids=["axial RAS", "coronal", "sagittal", "3-D"],
)
def test_training_in_an_orientation_is_training_on_the_arrays_that_lie_so(
    wishes: Wishes, code: str, case: Case, tmp_path: Path
) -> None:
    """Bit for bit: the same weights, the same Dice, and labels that come back on the scan's own grid."""
    by_hand = Case(case.name, _laid_out(case.scan, code), _laid_out(case.labels, code))
    ours = _trained(case, replace(wishes, orientation=code), tmp_path / "ours.safetensors")
    theirs = _trained(by_hand, wishes, tmp_path / "theirs.safetensors")
    assert ours.spec == replace(theirs.spec, orientation=code)
    assert ours.notes["split"] == theirs.notes["split"]
    if ours.spec.dims == 2:  # a 3-D patch is turned in its axial plane, whose axes are others
        assert all(
            torch.equal(value, theirs.network.state_dict()[key]) for key, value in ours.network.state_dict().items()
        )
        assert ours.notes["held_out_dice"] == theirs.notes["held_out_dice"]
    found = segment(EagerSession(ours.network, ours.spec), case.scan).labels
    laid_out = segment(EagerSession(ours.network, replace(ours.spec, orientation="LPS")), by_hand.scan).labels
    assert np.array_equal(found.affine, case.scan.affine)
    assert np.array_equal(found.oriented(code).voxels, laid_out.voxels)
    other = segment(EagerSession(ours.network, replace(ours.spec, orientation="LPS")), case.scan).labels
    assert not np.array_equal(found.voxels, other.voxels)


@pytest.mark.parametrize(("code", "axes"), [("LPS", (1, 2)), ("PSR", (2, 0)), ("SAL", (1, 0))])
def test_patches_are_turned_in_the_axial_plane_however_they_lie(code: str, axes: tuple[int, int], case: Case) -> None:
    spec, _ = choose_spec([case], LABELS, replace(DEEP, orientation=code))
    plane = _plane(spec)
    assert plane.axes == axes
    assert plane.spacing == (1.25, 1.5)  # back to front, left to right


def test_its_owner_proves_the_plane_by_the_labels_of_a_scan(case: Case, tmp_path: Path) -> None:
    """The weights alone, as another's checkpoint, and the labels that the trained network gave."""
    code = with_plane("RAS", "coronal")
    ours = _trained(case, replace(FLAT, orientation=code), tmp_path / "ours.safetensors")
    found = segment(EagerSession(ours.network, ours.spec), case.scan).labels
    assert found.voxels.any()
    foreign = replace(ours, foreign=True, assumed=("orientation",), spec=replace(ours.spec, orientation="LPS"))
    fitted = fit_scan(foreign, ExpectedScan(case.scan, found, "its own labels"), plane="coronal")
    assert fitted.checkpoint.spec.orientation[:2] == code[:2]  # which way its slices are stacked it cannot see
    assert fitted.checkpoint.spec.plane == "coronal"
    assert fitted.winner.wrong == 0


def test_an_orientation_that_is_none_is_refused(case: Case) -> None:
    with pytest.raises(UsageError, match="RAX"):
        choose_spec([case], LABELS, replace(FLAT, orientation="RAX"))
