"""The 2-D Attention U-Net that most projects use, known as `AttU_Net`: five levels, max pooling, nearest upsampling.

Oktay et al. 2018 (arXiv:1804.03999) with the gate at the skip's resolution and all four skips gated.
"""

from __future__ import annotations

import itertools
import re
from typing import Any

from torch import nn

from medattn_edge.models.blocks import (
    ACTIVATIONS,
    NORM_EPS,
    batch_norm,
    conv,
    conv_norm,
    double_conv,
    is_eps,
    max_pool,
    restyle,
)
from medattn_edge.models.gated_unet import AdditiveGate, DecoderLevel, GatedUNet
from medattn_edge.models.network import Candidates, Config, Layout, Network, Shapes

_LEVELS = 5
_TRANSPOSED = re.compile(r"transposed-(?P<kernel>[234])(?P<conv>-conv(?P<halved>-halved)?)?")


def build(config: Config, in_channels: int, outputs: int) -> GatedUNet:
    """Settings: width, the channels of the first level (64 as published); level i has width * 2^i.

    upsampling: `nearest` as published, or `bilinear`, then with align_corners; or learned, by a transposed convolution
    of stride 2 and kernel k = 2, 3 or 4: `transposed-k` alone, `transposed-k-conv` before the 3x3 convolution, or
    `transposed-k-conv-halved`, where it halves the channels itself; its dilation is 1. activation: of every
    convolution block; the gates keep their ReLU. norm_eps: of every BatchNorm.
    """
    filters = [config["width"] * 2**level for level in range(_LEVELS)]
    encoder: list[nn.Module] = [nn.Sequential(nn.Identity(), double_conv(2, in_channels, filters[0]))]
    encoder += [nn.Sequential(max_pool(2), double_conv(2, above, here)) for above, here in itertools.pairwise(filters)]
    decoder = [
        DecoderLevel(
            _up(config, here),
            AdditiveGate(2, here, here // 2),
            double_conv(2, 2 * here, here),
        )
        for here in reversed(filters[:-1])
    ]
    network = GatedUNet(2, encoder, decoder, conv(2, filters[0], outputs, 1))
    restyle(network, config["norm_eps"], config["activation"])
    return network


def _up(config: Config, here: int) -> nn.Sequential:
    """From 2 * here channels to here, at twice the size."""
    if match := _TRANSPOSED.fullmatch(str(config["upsampling"])):
        kernel, conv_after, halved = int(match["kernel"]), bool(match["conv"]), bool(match["halved"])
        between = 2 * here if conv_after and not halved else here
        # The one padding of each kernel that gives exactly twice the size, as the skip connection needs it.
        padding, more = {2: (0, 0), 3: (1, 1), 4: (1, 0)}[kernel]
        up = nn.ConvTranspose2d(2 * here, between, kernel, 2, padding, more)
        if not conv_after:
            return nn.Sequential(up, nn.Sequential(batch_norm(2, here), nn.ReLU(inplace=True)))
        return nn.Sequential(up, conv_norm(2, between, here, 3, nn.ReLU(inplace=True)))
    return nn.Sequential(_upsample(config), conv_norm(2, 2 * here, here, 3, nn.ReLU(inplace=True)))


def _upsample(config: Config) -> nn.Module:
    if config["upsampling"] == "nearest" and not config["align_corners"]:
        return nn.Upsample(scale_factor=2.0)
    if config["upsampling"] != "bilinear":
        raise ValueError(f"upsampling {config['upsampling']!r} with align_corners {config['align_corners']}")
    return nn.Upsample(scale_factor=2.0, mode="bilinear", align_corners=config["align_corners"])


def _open_settings(settings: Config) -> Candidates:
    learned = _TRANSPOSED.fullmatch(str(settings["upsampling"]))  # its keys and shapes say it
    opened: dict[str, tuple[Any, ...]] = {} if learned else {"upsampling": ("nearest", "bilinear")}
    if settings["upsampling"] == "bilinear":
        opened["align_corners"] = (False, True)
    return opened | {"activation": ACTIVATIONS, "norm_eps": NORM_EPS}


def _config(shapes: Shapes) -> Config:
    settings: Config = {"width": shapes["Conv1.conv.0.weight"][0]}
    learned = shapes.get("Up5.up.0.weight", ())
    if len(learned) == 4 and learned[2] == learned[3] and learned[2] in (2, 3, 4):
        kind = f"transposed-{learned[2]}"
        if len(shapes.get("Up5.up.1.weight", ())) == 4:
            kind += "-conv" if learned[1] == learned[0] else "-conv-halved"
        settings["upsampling"] = kind
    return settings


def _modules(head: str, config: Config) -> dict[str, str]:
    learned = _TRANSPOSED.fullmatch(str(config.get("upsampling", "nearest")))
    modules = {head: "head"}
    for level in range(_LEVELS):
        modules[f"Conv{level + 1}.conv"] = f"encoder.{level}.1"
    for index, level in enumerate(range(_LEVELS, 1, -1)):
        if learned:
            modules[f"Up{level}.up.0"] = f"decoder.{index}.up.0"
        modules[f"Up{level}.up.1"] = f"decoder.{index}.up.1.0"
        if not learned or learned["conv"]:
            modules[f"Up{level}.up.2"] = f"decoder.{index}.up.1.1"
        modules[f"Att{level}.W_g"] = f"decoder.{index}.gate.gating"
        modules[f"Att{level}.W_x"] = f"decoder.{index}.gate.skip"
        modules[f"Att{level}.psi"] = f"decoder.{index}.gate.psi"
        modules[f"Up_conv{level}.conv"] = f"decoder.{index}.merge"
    return modules


def _layout(name: str, source: str, head: str) -> Layout:
    return Layout(
        name=name,
        source=source,
        signature=lambda shapes: "Att5.W_g.0.weight" in shapes and f"{head}.weight" in shapes,
        config=_config,
        modules=lambda config: _modules(head, config),
        first=("encoder.0.1.0.weight",),
        last=("head.weight",),
        levels=r"Conv(\d+)\.conv",
        depth=_LEVELS,
    )


NETWORK = Network(
    name="attention-unet-2d",
    title="Attention U-Net, 2-D (AttU_Net)",
    build=build,
    settings={
        "width": 64,
        "upsampling": "nearest",
        "align_corners": False,
        "activation": "relu",
        "norm_eps": NORM_EPS[0],
    },
    open_settings=_open_settings,
    accepts={"norm_eps": is_eps},
    patch=(256, 256),
    layouts=(
        _layout("attu_net_leejunhyun", "LeeJunHyun/Image_Segmentation", "Conv_1x1"),
        _layout("attu_net_bigmb", "bigmb/Unet-Segmentation-Pytorch-Nest-of-Unets", "Conv"),
    ),
)
