"""What keys and shapes leave open is a setting: it is said when assumed, and it builds the network of its owner."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from medattn_edge.errors import CheckpointError
from medattn_edge.models import build, checkpoint, construct, networks
from medattn_edge.spec import ModelSpec
from tests.support.networks import randomised

SMALL: dict[str, tuple[dict[str, Any], tuple[int, ...]]] = {
    "attention-unet-2d": ({"width": 4}, (32, 32)),
    "attention-unet-3d": ({"width": 2}, (32, 16, 32)),
    "attention-unet-grid": ({"width": 2}, (32, 32, 4)),
    "attention-unet-monai": ({"dims": 2, "channels": [4, 8]}, (36, 48)),
    "self-guided": ({"backbone": "resnet18", "width": 8, "backbone_width": 16}, (32, 48)),
}


def published(name: str, network: nn.Module, config: dict[str, Any]) -> dict[str, torch.Tensor]:
    names = networks()[name].layouts[0].published(network.state_dict(), config)
    return {names[key]: value for key, value in network.state_dict().items()}


def saved_by_monai(path: Path, dims: int, strides: Any, size: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    """MONAI's own network with real statistics, saved; an image and MONAI's logits."""
    nets = pytest.importorskip("monai.networks.nets")
    torch.manual_seed(8)
    channels = [4, 8, 6, 10][: len(strides) + 1]
    network = nets.AttentionUnet(dims, 1, 3, channels, strides).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d):
            module.running_mean.uniform_(-0.2, 0.2)
            module.running_var.uniform_(0.6, 1.4)
    torch.save(network.state_dict(), path)
    image = torch.rand(1, 1, *size)
    with torch.inference_mode():
        return image, network(image)


def test_every_network_has_a_small_form_here():
    assert sorted(SMALL) == sorted(networks())


@pytest.mark.parametrize("name", list(SMALL))
def test_every_open_setting_begins_with_what_is_assumed_and_leaves_the_shapes(name):
    record = networks()[name]
    config = {**record.settings, **SMALL[name][0]}
    opened = record.open_settings(config)
    assert opened
    with torch.device("meta"):
        shapes = {key: value.shape for key, value in construct(record, config, 1, 2).state_dict().items()}
        for key, candidates in opened.items():
            assert candidates[0] == config[key]
            assert len(candidates) > 1
            for value in candidates[1:]:
                other = construct(record, {**config, key: value}, 1, 2)
                assert {name: one.shape for name, one in other.state_dict().items()} == shapes


@pytest.mark.parametrize("name", list(SMALL))
@torch.inference_mode()
def test_every_open_setting_changes_the_function(name):
    record, (small, size) = networks()[name], SMALL[name]
    config = {**record.settings, **small}
    torch.manual_seed(2)
    network = randomised(construct(record, config, 1, 2))
    image = torch.rand(1, 1, *size)
    wanted = network(image)
    for key, candidates in record.open_settings(config).items():
        for value in candidates[1:4]:
            other = construct(record, {**config, key: value}, 1, 2).eval()
            other.load_state_dict(network.state_dict())
            assert not torch.allclose(other(image), wanted, rtol=1e-5, atol=1e-6), (key, value)


@pytest.mark.parametrize("name", list(SMALL))
def test_what_a_file_does_not_tell_is_an_assumption_until_it_is_said(name, tmp_path):
    record = networks()[name]
    config = {**record.settings, **SMALL[name][0]}
    network = randomised(construct(record, config, 1, 2))
    torch.save(published(name, network, config), tmp_path / "model.pth")
    loaded = checkpoint.load(tmp_path / "model.pth")
    opened = record.open_settings(config)
    assert loaded.assumptions == {key: config[key] for key in opened}
    key = list(opened)[-1]
    said = checkpoint.load(tmp_path / "model.pth", config={key: opened[key][1]})
    assert key not in said.assumptions
    assert said.spec.config[key] == opened[key][1]
    again = loaded.with_settings({key: opened[key][1]})
    assert again.assumptions == said.assumptions
    assert again.spec.config == said.spec.config
    for name_, value in said.network.state_dict().items():
        assert torch.equal(again.network.state_dict()[name_], value)


def test_our_own_file_assumes_nothing(tmp_path):
    spec = ModelSpec("attention-unet-2d", 1, ("background", "organ"), (32, 32), (16, 16), config={"width": 2})
    checkpoint.save(tmp_path / "model.safetensors", build(spec), spec)
    assert checkpoint.load(tmp_path / "model.safetensors").assumptions == {}


def test_a_setting_that_opens_another_one_makes_it_an_assumption(tmp_path):
    record = networks()["attention-unet-2d"]
    config = {**record.settings, "width": 2}
    network = randomised(construct(record, config, 1, 2))
    torch.save(published("attention-unet-2d", network, config), tmp_path / "model.pth")
    assert "align_corners" not in checkpoint.load(tmp_path / "model.pth").assumptions
    loaded = checkpoint.load(tmp_path / "model.pth", config={"upsampling": "bilinear"})
    assert loaded.assumptions["align_corners"] is False


STRIDES = [
    (2, (2, 2), (16, 24)),
    (2, (1, 2), (16, 24)),
    (2, (2, 1), (16, 24)),
    (2, (4, 2), (16, 24)),
    (2, (4, 3), (24, 36)),
    (2, ((2, 1), (1, 2)), (16, 24)),
    (2, (1, 1), (7, 5)),
    (3, (2, 2), (8, 16, 12)),
    (3, ((2, 2, 1), (2, 2, 2)), (16, 16, 8)),
    (3, ((1, 2, 2), 2, (2, 2, 1)), (8, 16, 12)),
]


@pytest.mark.parametrize(("dims", "strides", "size"), STRIDES)
def test_the_strides_of_monai_give_the_logits_of_monai(dims, strides, size, tmp_path):
    image, wanted = saved_by_monai(tmp_path / "model.pth", dims, strides, size)
    config = {"strides": [list(one) if isinstance(one, tuple) else one for one in strides]}
    loaded = checkpoint.load(tmp_path / "model.pth", config=config)
    with torch.inference_mode():
        assert torch.allclose(loaded.network(image), wanted, rtol=1e-5, atol=1e-6)
    steps = [one if isinstance(one, tuple) else (one,) * dims for one in strides]
    assert loaded.spec.stride == tuple(torch.tensor(steps).prod(0).tolist())
    assert all(size % step == 0 for size, step in zip(loaded.spec.patch, loaded.spec.stride, strict=True))


@pytest.mark.parametrize(
    "strides", [0, -2, 17, True, 2.0, "2", [], [2], [2, 2, 2], [[2, 2], 2], [[2, 2, 2], 0], [[2, 2, 2], [2, 2]], None]
)
def test_strides_that_no_network_of_this_depth_has_are_refused(strides, tmp_path):
    saved_by_monai(tmp_path / "model.pth", 3, (2, 2), (8, 8, 8))
    with pytest.raises(CheckpointError, match="strides"):
        checkpoint.load(tmp_path / "model.pth", config={"strides": strides})


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("attention-unet-2d", {"upsampling": "cubic"}),
        ("attention-unet-2d", {"align_corners": True}),
        ("attention-unet-2d", {"activation": "tanh"}),
        ("attention-unet-2d", {"activation": "leaky_relu:2"}),
        ("attention-unet-2d", {"activation": "leaky_relu:x"}),
        ("attention-unet-2d", {"norm_eps": 0.0}),
        ("attention-unet-2d", {"norm_eps": 1}),
        ("attention-unet-3d", {"gate_function": "tanh"}),
    ],
)
def test_settings_that_no_network_can_have_are_refused(name, config):
    spec = ModelSpec(name, 1, ("background", "organ"), (32,) * len(SMALL[name][1]), (16,) * len(SMALL[name][1]))
    with pytest.raises(CheckpointError, match=next(iter(config))):
        build(ModelSpec(**{**vars(spec), "config": {**SMALL[name][0], **config}}))


def test_settings_that_do_not_fit_the_weights_are_refused(tmp_path):
    saved_by_monai(tmp_path / "model.pth", 2, (2, 2), (8, 8))
    loaded = checkpoint.load(tmp_path / "model.pth")
    with pytest.raises(CheckpointError, match="do not fit the weights"):
        loaded.with_settings({"channels": [4, 8, 16]})
