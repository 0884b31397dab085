"""ResNet and ResNeXt backbones (He et al. 2016; Xie et al. 2017), cut into the four feature maps that decoders want."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from medattn_edge.errors import CheckpointError


@dataclass(frozen=True)
class Backbone:
    """The shape of one backbone.

    Attributes:
        blocks: Per layer.
        bottleneck: Blocks of 1x1, 3x3, 1x1 with expansion 4, or of two 3x3.
        groups: Of the 3x3 convolutions of a bottleneck; more than 1 in ResNeXt.
        group_width: Channels of a group in the first layer, at a backbone width of 64.
    """

    blocks: tuple[int, int, int, int]
    bottleneck: bool
    groups: int = 1
    group_width: int = 64

    @property
    def expansion(self) -> int:
        """Output channels of a block over its planes."""
        return 4 if self.bottleneck else 1


BACKBONES: dict[str, Backbone] = {
    "resnet18": Backbone((2, 2, 2, 2), bottleneck=False),
    "resnet34": Backbone((3, 4, 6, 3), bottleneck=False),
    "resnet50": Backbone((3, 4, 6, 3), bottleneck=True),
    "resnet101": Backbone((3, 4, 23, 3), bottleneck=True),
    "resnext50_32x4d": Backbone((3, 4, 6, 3), bottleneck=True, groups=32, group_width=4),
    "resnext101_32x4d": Backbone((3, 4, 23, 3), bottleneck=True, groups=32, group_width=4),
    "resnext101_32x8d": Backbone((3, 4, 23, 3), bottleneck=True, groups=32, group_width=8),
}


class ResidualBlock(nn.Module):
    """ReLU(branch(x) + shortcut(x))."""

    def __init__(self, kind: Backbone, c_in: int, planes: int, stride: int) -> None:
        super().__init__()
        c_out = planes * kind.expansion
        self.branch = _bottleneck(kind, c_in, planes, stride) if kind.bottleneck else _basic(c_in, planes, stride)
        self.shortcut = (
            nn.Sequential(nn.Conv2d(c_in, c_out, 1, stride=stride, bias=False), nn.BatchNorm2d(c_out))
            if stride != 1 or c_in != c_out
            else nn.Identity()
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, C_in, H, W) -> (N, C_out, H / stride, W / stride)."""
        return torch.relu(self.branch(x) + self.shortcut(x))


def _basic(c_in: int, planes: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(c_in, planes, 3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(planes),
        nn.ReLU(inplace=True),
        nn.Conv2d(planes, planes, 3, padding=1, bias=False),
        nn.BatchNorm2d(planes),
    )


def _bottleneck(kind: Backbone, c_in: int, planes: int, stride: int) -> nn.Sequential:
    width = planes * kind.group_width // 64 * kind.groups
    return nn.Sequential(
        nn.Conv2d(c_in, width, 1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
        nn.Conv2d(width, width, 3, stride=stride, padding=1, groups=kind.groups, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
        nn.Conv2d(width, planes * 4, 1, bias=False),
        nn.BatchNorm2d(planes * 4),
    )


class ResNet(nn.Module):
    """Features of layers 1 to 4 at 1/4, 1/8, 1/16 and 1/32 of the image's size."""

    def __init__(self, name: str, in_channels: int, width: int = 64) -> None:
        super().__init__()
        kind = BACKBONES[name]
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, width, 7, stride=2, padding=3, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
        )
        self.pool = nn.MaxPool2d(3, stride=2, padding=1)
        layers, c_in = [], width
        for index, count in enumerate(kind.blocks):
            planes, stride = width * 2**index, 1 if index == 0 else 2
            blocks = []
            for block in range(count):
                blocks.append(ResidualBlock(kind, c_in, planes, stride if block == 0 else 1))
                c_in = planes * kind.expansion
            layers.append(nn.Sequential(*blocks))
        self.layers = nn.ModuleList(layers)
        self.channels = tuple(width * 2**index * kind.expansion for index in range(4))

    def forward(self, image: Tensor) -> list[Tensor]:
        """(N, C, H, W) -> four maps (N, channels[i], H / 2^(i + 2), W / 2^(i + 2))."""
        x = self.pool(self.stem(image))
        features: list[Tensor] = []
        for layer in self.layers:
            x = layer(x)
            features.append(x)
        return features


def torchvision_modules(name: str, theirs: str = "", ours: str = "") -> dict[str, str]:
    """Module path in torchvision -> ours, of every block of layers 1 to 4.

    Args:
        name: Of the backbone.
        theirs: A prefix of torchvision's paths, with its dot.
        ours: A prefix of our paths, with its dot.
    """
    kind, modules = BACKBONES[name], {}
    for layer, count in enumerate(kind.blocks):
        for block in range(count):
            here, there = f"{theirs}layer{layer + 1}.{block}", f"{ours}layers.{layer}.{block}"
            for index in range(3 if kind.bottleneck else 2):
                modules[f"{here}.conv{index + 1}"] = f"{there}.branch.{3 * index}"
                modules[f"{here}.bn{index + 1}"] = f"{there}.branch.{3 * index + 1}"
            modules[f"{here}.downsample"] = f"{there}.shortcut"
    return modules


def load_torchvision(backbone: ResNet, name: str, state: Mapping[str, Tensor]) -> None:
    """Initialise a backbone from a torchvision checkpoint of the same name.

    The first convolution's weights are summed over RGB when the network has one channel, so that a grey picture gives
    the response that its RGB copy would have given. The classifier is dropped.

    Args:
        backbone: Its weights are replaced.
        name: Of the backbone.
        state: The checkpoint's state_dict.

    Raises:
        CheckpointError: A tensor is missing or has another shape.
    """
    modules = torchvision_modules(name) | {"conv1": "stem.0", "bn1": "stem.1"}
    prefixes = {ours: theirs for theirs, ours in modules.items()}
    values: dict[str, Tensor] = {}
    for key, wanted in backbone.state_dict().items():
        module = next(prefix for prefix in prefixes if key.startswith(prefix + "."))
        theirs = prefixes[module] + key[len(module) :]
        if theirs not in state and key.endswith("num_batches_tracked"):
            values[key] = wanted
            continue
        value = state.get(theirs)
        if value is not None and key == "stem.0.weight" and wanted.shape[1] == 1:
            value = value.sum(1, keepdim=True)
        if value is None or value.shape != wanted.shape:
            given = "no tensor" if value is None else f"a tensor of shape {tuple(value.shape)}"
            raise CheckpointError(
                f"the backbone file has {given} for {theirs}",
                expected=f"shape {tuple(wanted.shape)}, as torchvision's {name} has",
                hint=f"give the state_dict of torchvision.models.{name}",
            )
        values[key] = value
    backbone.load_state_dict(values)
