"""What the user does not say is chosen from the scans, and said."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from medattn_edge.errors import CheckpointError, ShapeError, UsageError
from medattn_edge.spec import Intensity
from medattn_edge.training import Case, Label, Wishes, choose_spec, initial_network
from medattn_edge.volume import Volume

LABELS = (Label(1, "large", (1,)), Label(2, "small", (2,)))
SELF_GUIDED = {"backbone": "resnet18", "width": 8, "backbone_width": 8}


def _ct(case: Case) -> Case:
    return Case(case.name, case.scan.with_voxels(case.scan.voxels - 1000), case.labels)


def test_a_ct_gets_a_window_and_anything_else_a_z_score(case_of: Callable[..., Case]) -> None:
    wishes = Wishes("attention-unet-2d", {"width": 4})
    spec, remarks = choose_spec([_ct(case_of())], LABELS, wishes)
    assert spec.intensity == Intensity.window(-1000, 400)
    assert spec.modality == "CT"
    assert remarks[0].startswith("modality CT: every scan has values down to")
    assert remarks[1].startswith("intensity window:-1000:400: values down to")
    other, remarks = choose_spec([_ct(case_of()), case_of()], LABELS, wishes)
    assert other.modality == ""
    assert "--modality MR" in remarks[0]
    assert choose_spec([case_of()], LABELS, wishes)[0].intensity == Intensity.parse("zscore")
    published, _ = choose_spec([_ct(case_of())], LABELS, Wishes("self-guided", SELF_GUIDED))
    assert published.intensity == Intensity.parse("minmax:slice")
    wished = Wishes("attention-unet-2d", {"width": 4}, (32, 32), (), Intensity.window(0, 80), modality="MR")
    spec, remarks = choose_spec([_ct(case_of())], LABELS, wished)
    assert (spec.intensity, spec.spacing, spec.patch) == (Intensity.window(0, 80), None, (32, 32))
    assert spec.modality == "MR"
    assert remarks == []


@pytest.mark.parametrize("text", ["window:-1000:400", "zscore", "minmax:slice", "none"])
def test_an_intensity_is_said_as_it_is_typed(text: str) -> None:
    assert str(Intensity.parse(text)) == text


def test_the_spacing_is_the_median_and_the_patch_fits_into_the_scans(case_of: Callable[..., Case]) -> None:
    spacings = [(5.0, 1.0, 1.0), (3.0, 2.0, 0.5), (4.0, 0.5, 2.0)]
    cases = [case_of(shape=(20, 72, 100), spacing=spacing) for spacing in spacings]
    flat, _ = choose_spec(cases, LABELS, Wishes("attention-unet-2d", {"width": 4}))
    assert flat.spacing == (1.0, 1.0)
    assert flat.patch == (32, 48)  # 36 and 50 mm are the smallest, in multiples of 16
    full, _ = choose_spec(cases, LABELS, Wishes("attention-unet-3d", {"width": 2}))
    assert full.spacing == (4.0, 1.0, 1.0)
    assert full.patch == (16, 32, 48)
    assert full.config["gates"] == "multi"
    assert full.labels == ("background", "large", "small")


def test_pictures_have_no_spacing(case_of: Callable[..., Case]) -> None:
    case = case_of(shape=(1, 32, 32))
    picture = Volume(np.repeat(case.scan.voxels[None], 3, 0), case.scan.affine, calibrated=False)
    spec, _ = choose_spec([Case("a.png", picture, case.labels)], LABELS, Wishes("attention-unet-2d", {"width": 4}))
    assert (spec.spacing, spec.in_channels) == (None, 3)


@pytest.mark.parametrize(
    ("wishes", "told"),
    [
        (Wishes("attention-unet-4d"), "attention-unet-2d"),
        (Wishes("attention-unet-2d", {"depth": 3}), "some of width"),
        (Wishes("attention-unet-2d", {"width": "wide"}), "cannot be built"),
        (Wishes("self-guided", {"backbone": "resnet9"}), "cannot be built"),
        (Wishes("attention-unet-2d", {"width": 4}, patch=(30, 32)), "--patch 32x32"),
        (Wishes("attention-unet-2d", {"width": 4}, patch=(32, 32, 32)), "do not fit|sizes"),
        (Wishes("attention-unet-2d", {"width": 4}, spacing=(1.0, 1.0, 1.0)), "--spacing"),
    ],
)
def test_what_cannot_be_is_refused(wishes: Wishes, told: str, case_of: Callable[..., Case]) -> None:
    with pytest.raises(UsageError, match=told):
        choose_spec([case_of()], LABELS, wishes)


def test_a_size_below_the_networks_least_is_refused(case_of: Callable[..., Case]) -> None:
    with pytest.raises(ShapeError, match="at least 16x16"):
        choose_spec([case_of()], LABELS, Wishes("self-guided", SELF_GUIDED, patch=(8, 8)))


def _torchvision(network: Any) -> dict[str, torch.Tensor]:
    """The state_dict of torchvision's network with this backbone, for RGB."""
    from medattn_edge.models.resnet import torchvision_modules

    ours = {mine: theirs for theirs, mine in torchvision_modules("resnet18").items()}
    ours |= {"stem.0": "conv1", "stem.1": "bn1"}
    generator = torch.Generator().manual_seed(0)
    state = {"fc.weight": torch.zeros(1000, 512)}
    for key, value in network.backbone.state_dict().items():
        module = next(prefix for prefix in ours if key.startswith(prefix + "."))
        shape = (value.shape[0], 3, *value.shape[2:]) if key == "stem.0.weight" else value.shape
        state[ours[module] + key[len(module) :]] = torch.rand(shape, generator=generator)
    return state


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_backbone_starts_from_torchvisions_weights(suffix: str, case_of: Callable[..., Case], tmp_path: Path) -> None:
    from safetensors.torch import save_file

    spec, _ = choose_spec([case_of()], LABELS, Wishes("self-guided", SELF_GUIDED))
    state = _torchvision(initial_network(spec, 0))
    path = tmp_path / f"resnet18{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(state, path)
    network: Any = initial_network(spec, 0, path)
    assert torch.allclose(network.backbone.stem[0].weight, state["conv1.weight"].sum(1, keepdim=True))
    assert torch.equal(network.backbone.layers[3][1].branch[3].weight, state["layer4.1.conv2.weight"])
    assert torch.equal(network.heads[0].weight, initial_network(spec, 0).heads[0].weight)  # type: ignore[index, union-attr]


def test_backbone_weights_that_do_not_fit_are_refused(case_of: Callable[..., Case], tmp_path: Path) -> None:
    spec, _ = choose_spec([case_of()], LABELS, Wishes("self-guided", SELF_GUIDED))
    flat, _ = choose_spec([case_of()], LABELS, Wishes("attention-unet-2d", {"width": 4}))
    path = tmp_path / "resnet18.pth"
    with pytest.raises(CheckpointError, match="does not exist"):
        initial_network(spec, 0, path)
    path.write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match="cannot be read"):
        initial_network(spec, 0, path)
    torch.save([1, 2], path)
    with pytest.raises(CheckpointError, match="no state_dict"):
        initial_network(spec, 0, path)
    torch.save({"conv1.weight": torch.zeros(64, 3, 7, 7)}, path)
    with pytest.raises(CheckpointError, match="resnet18"):
        initial_network(spec, 0, path)
    with pytest.raises(UsageError, match="no torchvision backbone"):
        initial_network(flat, 0, path)
