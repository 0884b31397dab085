"""A torchvision checkpoint initialises a backbone of the same name."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from medattn_edge.backends.torch.deprecations import torchscript_is_deprecated
from medattn_edge.errors import CheckpointError
from medattn_edge.models.resnet import BACKBONES, ResNet, load_torchvision, torchvision_modules

WIDTH = 16


def torchvision_state(name: str, channels: int = 3) -> dict[str, Any]:
    """A state_dict under torchvision's names: deterministic weights, and the classifier that a backbone has not."""
    generator = torch.Generator().manual_seed(11)
    names = {ours: theirs for theirs, ours in torchvision_modules(name).items()} | {"stem.0": "conv1", "stem.1": "bn1"}
    state = {"fc.weight": torch.rand(10, 4), "fc.bias": torch.rand(10)}
    for key, value in ResNet(name, channels, WIDTH).state_dict().items():
        module = next(prefix for prefix in names if key.startswith(prefix + "."))
        filled = torch.rand(value.shape, generator=generator) * 0.2 + 0.5 if value.is_floating_point() else value + 9
        state[names[module] + key[len(module) :]] = filled
    return state


@pytest.mark.parametrize("name", list(BACKBONES))
def test_every_tensor_of_a_torchvision_file_finds_its_place(name):
    state = torchvision_state(name)
    backbone = ResNet(name, 3, WIDTH)
    load_torchvision(backbone, name, state)
    loaded = backbone.state_dict()
    assert len(loaded) == len(state) - 2
    assert torch.equal(loaded["stem.0.weight"], state["conv1.weight"])
    assert torch.equal(loaded["stem.1.running_var"], state["bn1.running_var"])
    assert torch.equal(loaded["layers.3.1.branch.3.weight"], state["layer4.1.conv2.weight"])
    assert torch.equal(loaded["layers.2.0.branch.1.bias"], state["layer3.0.bn1.bias"])
    assert torch.equal(loaded["layers.1.0.shortcut.0.weight"], state["layer2.0.downsample.0.weight"])
    assert int(loaded["layers.1.0.shortcut.1.num_batches_tracked"]) == 9
    sums = sorted(float(value.double().sum()) for value in loaded.values())
    assert sums == sorted(float(value.double().sum()) for key, value in state.items() if not key.startswith("fc."))


@pytest.mark.parametrize(("name", "blocks"), [("resnet18", 2), ("resnet50", 6), ("resnext101_32x8d", 23)])
def test_the_names_are_torchvisions(name, blocks):
    modules = torchvision_modules(name)
    assert f"layer3.{blocks - 1}.conv2" in modules
    assert f"layer3.{blocks}.conv2" not in modules
    assert ("layer1.0.conv3" in modules) == (name != "resnet18")


@torch.inference_mode()
def test_a_grey_picture_gives_the_response_of_its_rgb_copy():
    state = torchvision_state("resnet18")
    colour, grey = ResNet("resnet18", 3, WIDTH).eval(), ResNet("resnet18", 1, WIDTH).eval()
    load_torchvision(colour, "resnet18", state)
    load_torchvision(grey, "resnet18", state)
    assert torch.equal(grey.stem[0].weight, state["conv1.weight"].sum(1, keepdim=True))
    image = torch.rand(1, 1, 64, 48)
    for one, three in zip(grey(image), colour(image.expand(-1, 3, -1, -1)), strict=True):
        torch.testing.assert_close(one, three)


@torch.inference_mode()
def test_the_four_maps_halve_from_a_quarter_on():
    backbone = ResNet("resnext50_32x4d", 1, WIDTH).eval()
    maps = backbone(torch.rand(2, 1, 64, 96))
    assert [tuple(one.shape) for one in maps] == [
        (2, channels, 16 // 2**index, 24 // 2**index) for index, channels in enumerate((64, 128, 256, 512))
    ]
    assert backbone.channels == (64, 128, 256, 512)


@torch.inference_mode()
def test_a_scripted_backbone_gives_the_same_maps():
    backbone = ResNet("resnext50_32x4d", 1, WIDTH).eval()
    with torchscript_is_deprecated():
        program = torch.jit.script(backbone)
    image = torch.rand(2, 1, 64, 96)
    for _ in range(3):
        found = program(image)
    for one, other in zip(found, backbone(image), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6 * float(other.std()))


def test_a_missing_tensor_is_named():
    state = torchvision_state("resnet18")
    del state["layer3.1.conv2.weight"]
    with pytest.raises(CheckpointError, match=r"no tensor for layer3\.1\.conv2\.weight"):
        load_torchvision(ResNet("resnet18", 3, WIDTH), "resnet18", state)


def test_a_file_of_another_backbone_is_refused_and_the_backbone_stays_as_it_was():
    backbone = ResNet("resnet18", 3, WIDTH)
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    with pytest.raises(CheckpointError, match="torchvision's resnet18") as refused:
        load_torchvision(backbone, "resnet18", torchvision_state("resnet50"))
    assert "torchvision.models.resnet18" in refused.value.hint
    assert all(torch.equal(value, before[key]) for key, value in backbone.state_dict().items())


def test_a_stem_for_another_number_of_channels_is_refused():
    with pytest.raises(CheckpointError, match=r"shape \(16, 3, 7, 7\) for conv1\.weight"):
        load_torchvision(ResNet("resnet18", 2, WIDTH), "resnet18", torchvision_state("resnet18"))


def test_old_files_without_batch_counters_load():
    state = {key: value for key, value in torchvision_state("resnet18").items() if "num_batches" not in key}
    load_torchvision(ResNet("resnet18", 3, WIDTH), "resnet18", state)
