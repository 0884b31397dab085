"""An owner's result of a scan says how he came to it: the search finds his very pipeline, or says that it cannot."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from medattn_edge.errors import AgreementError, ScanError, UsageError
from medattn_edge.evaluation.expected_scan import fit_scan
from medattn_edge.evaluation.pipelines import layouts, tensor
from medattn_edge.evaluation.scan_result import ExpectedScan
from medattn_edge.models import build
from medattn_edge.models.checkpoint import Checkpoint
from medattn_edge.spec import SPEC_OPTIONS, Cleanup, Intensity, ModelSpec
from medattn_edge.volume import Volume

pytestmark = pytest.mark.slow

AFFINE = np.array([[0, 0, -1.5, 60], [0, 1.5, 0, -40], [2.0, 0, 0, 5], [0, 0, 0, 1.0]])  # stored from right to left


def network_of(dims: int, outputs: int = 3) -> Checkpoint:
    """A network of MONAI's kind in which every axis and direction makes a difference, and nobody said anything."""
    spec = ModelSpec(
        "attention-unet-monai",
        1,
        ("background", *(f"class_{index}" for index in range(1, max(2, outputs)))),
        (16,) * dims,
        (2,) * dims,
        outputs=outputs,
        config={"dims": dims, "channels": [4, 4]},
    )
    torch.manual_seed(7)
    network = build(spec).eval()
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d):
                module.running_mean.uniform_(-0.1, 0.1)
                module.running_var.uniform_(0.5, 1.5)
        for _, value in network.named_parameters():
            if value.ndim > 1:
                value *= 2.0
        head = [value for value in network.parameters() if value.shape == (outputs,)][-1]
        head -= network(torch.randn(2, 1, *spec.patch)).mean((0, *range(2, 2 + dims)))
    return Checkpoint(network, spec, "0" * 64, "test", True, {}, assumed=tuple(SPEC_OPTIONS))


def scan(size: int = 16, low: float = -900.0) -> Volume:
    """Smooth values with zeros among them, of a different kind in every direction."""
    rng = np.random.default_rng(3)
    voxels = rng.normal(0, 1, (size,) * 3)
    for axis in range(3):
        voxels = (voxels + np.roll(voxels, 1, axis)) / 2
    voxels += np.linspace(-0.5, 0.5, size)[:, None, None] + np.linspace(0.3, -0.3, size)[None, :, None]
    voxels = 600 * voxels + low / 10
    voxels[:3, :4] = 0
    return Volume(voxels.astype(np.float32), AFFINE)


def by_hand(checkpoint: Checkpoint, volume: Volume, code: str, intensity: str) -> Volume:
    """The owner's own way, without ours: nibabel turns the axes, numpy normalises, one patch holds the scan."""
    import nibabel
    from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform

    ras = np.diag([-1.0, -1, 1, 1]) @ volume.affine @ np.eye(4)[[2, 1, 0, 3]]
    array = volume.voxels.T.astype(np.float64)  # (i, j, k)
    values = {
        "none": lambda x: x,
        "zscore": lambda x: (x - x.mean()) / x.std(),
        "zscore:nonzero": lambda x: np.where(x != 0, (x - x[x != 0].mean()) / x[x != 0].std(), 0),
        "window:-1000:400": lambda x: (np.clip(x, -1000, 400) + 1000) / 1400,
        "percentile:1:99,minmax": lambda x: (
            (np.clip(x, *np.percentile(x, (1, 99))) - np.percentile(x, 1))
            / (np.percentile(x, 99) - np.percentile(x, 1))
        ),
    }[intensity](array)
    own = io_orientation(ras)
    turn = ornt_transform(own, axcodes2ornt(tuple(code)))
    turned = nibabel.apply_orientation(values, turn)
    image = torch.from_numpy(np.ascontiguousarray(turned)).float()
    with torch.inference_mode():
        if checkpoint.spec.dims == 3:  # the tensor's axes are i, j, k of the turned image: MONAI's order
            labels = checkpoint.network(image[None, None])[0].argmax(0)
        else:  # slices along k
            labels = checkpoint.network(image.movedim(2, 0)[:, None]).argmax(1).movedim(0, 2)
    back = ornt_transform(axcodes2ornt(tuple(code)), own)
    found = nibabel.apply_orientation(labels.numpy(), back)
    return Volume(np.ascontiguousarray(found.T).astype(np.uint8), volume.affine)


@pytest.mark.parametrize(
    ("code", "intensity"), [("RAS", "zscore:nonzero"), ("LPI", "window:-1000:400"), ("AIL", "percentile:1:99,minmax")]
)
def test_the_search_finds_a_3d_owners_orientation_and_axes(code: str, intensity: str) -> None:
    checkpoint, volume = network_of(3), scan()
    truth = by_hand(checkpoint, volume, code, intensity)
    assert len(np.unique(truth.voxels)) == 3
    told = checkpoint.with_spec(replace(checkpoint.spec, intensity=Intensity.parse(intensity)), ["intensity"])
    fitted = fit_scan(told, ExpectedScan(volume, truth, "labels.nii.gz"))
    spec = fitted.checkpoint.spec
    towards = dict(zip("WHD", spec.orientation, strict=True))
    assert "".join(towards[axis] for axis in spec.axes) == code
    assert fitted.winner.wrong == 0
    assert fitted.runner_up is not None
    assert fitted.runner_up.wrong > 8
    assert not {"orientation", "axes", "intensity", "activation"} & set(fitted.checkpoint.assumed)
    assert fitted.checkpoint.reading["scan_expectation"]["winner"]["label_match"] == 1.0


@pytest.mark.parametrize(
    "intensity",
    [
        "none",
        pytest.param("zscore", marks=pytest.mark.slow),
        pytest.param("zscore:nonzero", marks=pytest.mark.slow),
        "window:-1000:400",
    ],
)
def test_the_search_finds_intensity_plane_and_transposition_of_a_2d_owner(intensity: str) -> None:
    from medattn_edge.backends.torch.eager import EagerSession
    from medattn_edge.inference import segment

    checkpoint, volume = network_of(2), scan()
    truth = by_hand(checkpoint, volume, "RSA", intensity)  # coronal, W first
    assert len(np.unique(truth.voxels)) == 3
    fitted = fit_scan(checkpoint, ExpectedScan(volume, truth, "labels.nii.gz"))
    spec = fitted.checkpoint.spec
    assert spec.plane == "coronal"
    assert str(spec.intensity) == intensity
    assert tensor(fitted.winner.pipeline.layout)[:2] == ("R", "S")
    segmented = segment(EagerSession(fitted.checkpoint.network, spec), volume)
    assert np.array_equal(segmented.labels.voxels, truth.voxels)


def test_a_plane_that_is_known_is_not_searched() -> None:
    checkpoint, volume = network_of(2), scan()
    truth = by_hand(checkpoint, volume, "RSA", "zscore")
    given = replace(checkpoint.spec, intensity=Intensity.parse("zscore"), orientation="LSP")
    told = checkpoint.with_spec(given, ["intensity"])
    fitted = fit_scan(told, ExpectedScan(volume, truth, "labels.nii.gz"), plane="coronal")
    assert fitted.runs == 16  # 4 flips and 2 transpositions, and all of them once more on the whole scan
    assert fitted.checkpoint.spec.plane == "coronal"
    with pytest.raises(AgreementError, match="none of"):
        fit_scan(told.with_spec(replace(given, orientation="LPS")), ExpectedScan(volume, truth, "l.npz"), plane="axial")


def test_every_layout_is_another_tensor() -> None:
    for dims, free, count in ((3, ("orientation", "axes"), 48), (3, ("orientation",), 48), (3, ("axes",), 6)):
        places = layouts(network_of(dims).spec, free)
        assert len(places) == len({tensor(place) for place in places}) == count
    assert len(layouts(network_of(2).spec, ("orientation", "axes"))) == 24
    assert len(layouts(network_of(2).spec, ("axes",))) == 2
    assert len(layouts(network_of(2).spec, ())) == 1


def test_directions_that_make_no_difference_are_said_to_tell_nothing() -> None:
    checkpoint, volume = network_of(2), scan()
    checkpoint = checkpoint.with_settings({"strides": 1})
    with torch.no_grad():  # the same network seen in a mirror: left is as good as right
        for value in checkpoint.network.parameters():
            if value.ndim == 4:
                value.copy_((value + value.flip(3)) / 2)
    truth = by_hand(checkpoint, volume, "RAS", "zscore")
    given = replace(checkpoint.spec, intensity=Intensity.parse("zscore"), axes="WH")
    told = checkpoint.with_spec(given, ["intensity", "axes", "activation"])
    with pytest.raises(AgreementError, match="cannot tell two pipelines apart") as caught:
        fit_scan(told, ExpectedScan(volume, truth, "labels.nii.gz"))
    assert caught.value.exit_code == 1
    assert "--orientation RAS" in caught.value.message
    assert "--orientation RPS" in caught.value.message


def test_intensities_that_this_scan_cannot_tell_apart_are_named() -> None:
    checkpoint, volume = network_of(2), scan()
    volume = volume.with_voxels(np.where(volume.voxels == 0, 1, volume.voxels))  # no zeros: nonzero is everything
    truth = by_hand(checkpoint, volume, "RAS", "zscore")
    given = replace(checkpoint.spec, orientation="RAS", axes="WH")
    told = checkpoint.with_spec(given, ["orientation", "axes", "activation"])
    with pytest.raises(AgreementError, match=r"cannot tell two pipelines apart(.|\n)*zscore(.|\n)*zscore:nonzero"):
        fit_scan(told, ExpectedScan(volume, truth, "labels.nii.gz"))
    settled = told.with_spec(replace(given, intensity=Intensity.parse("zscore")), ["intensity"])
    assert fit_scan(settled, ExpectedScan(volume, truth, "labels.nii.gz")).winner.wrong == 0


def test_probabilities_of_overlapping_regions_say_that_it_is_a_sigmoid() -> None:
    checkpoint, volume = network_of(2), scan()
    given = replace(checkpoint.spec, orientation="RAS", axes="WH", intensity=Intensity.parse("zscore"))
    told = checkpoint.with_spec(given, ["orientation", "axes", "intensity"])
    values = (volume.voxels - volume.voxels.mean()) / volume.voxels.std()
    turned = np.ascontiguousarray(values.transpose(0, 2, 1)[:, :, ::-1])  # (D, W, H) towards R, A from R, P
    with torch.inference_mode():
        regions = torch.sigmoid(checkpoint.network(torch.from_numpy(turned)[:, None].float())).movedim(1, 0).numpy()
    result = volume.with_voxels(regions[..., ::-1].transpose(0, 1, 3, 2).copy())
    fitted = fit_scan(told, ExpectedScan(volume, result, "p.npz"))
    assert fitted.checkpoint.spec.activation == "sigmoid"
    assert fitted.checkpoint.spec.labels == ("region_1", "region_2", "region_3")
    assert fitted.winner.wrong == 0


@pytest.mark.parametrize(("maps", "highest"), [(0, 9), (5, 1)])
def test_the_result_of_another_network_is_refused(maps: int, highest: int) -> None:
    checkpoint, volume = network_of(2), scan()
    result: Any = np.full((*((maps,) if maps else ()), *volume.shape), highest, np.uint8)
    with pytest.raises(ScanError, match=r"labels up to 9|5 maps"):
        fit_scan(checkpoint, ExpectedScan(volume, volume.with_voxels(result), "other.nii.gz"))


def test_labels_that_no_pipeline_gives_are_refused_with_the_nearest() -> None:
    checkpoint, volume = network_of(2), scan()
    given = replace(checkpoint.spec, axes="WH", intensity=Intensity.parse("zscore"))
    told = checkpoint.with_spec(given, ["axes", "intensity", "activation"])
    noise = np.random.default_rng(0).integers(0, 3, volume.shape, dtype=np.uint8)
    with pytest.raises(AgreementError, match=r"none of 36 runs gives noise.npz; nearest is --orientation"):
        fit_scan(told, ExpectedScan(volume, volume.with_voxels(noise), "noise.npz"))
    with pytest.raises(AgreementError, match=r"none of 3 runs"):
        fit_scan(told, ExpectedScan(volume, volume.with_voxels(noise), "noise.npz"), limit=3)
    cleaned = told.with_spec(replace(given, cleanup=(Cleanup.parse("largest:class_1"),)))
    with pytest.raises(UsageError, match="--after or --mirror"):
        fit_scan(cleaned, ExpectedScan(volume, volume.with_voxels(noise), "noise.npz"))
