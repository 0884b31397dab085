"""The 2-D Attention U-Net that most projects use, known as `AttU_Net`: five levels, max pooling, nearest upsampling.

Oktay et al. 2018 (arXiv:1804.03999) with the gate at the skip's resolution and all four skips gated.
"""

from __future__ import annotations

import itertools
from typing import Any

from torch import nn

from medattn_edge.models.blocks import (
    ACTIVATIONS,
    NORM_EPS,
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


def build(config: Config, in_channels: int, outputs: int) -> GatedUNet:
    """Settings: width, the channels of the first level (64 as published); level i has width * 2^i.

    upsampling: `nearest` as published, or `bilinear`, then with align_corners. activation: of every convolution block;
    the gates keep their ReLU. norm_eps: of every BatchNorm.
    """
    filters = [config["width"] * 2**level for level in range(_LEVELS)]
    encoder: list[nn.Module] = [nn.Sequential(nn.Identity(), double_conv(2, in_channels, filters[0]))]
    encoder += [nn.Sequential(max_pool(2), double_conv(2, above, here)) for above, here in itertools.pairwise(filters)]
    decoder = [
        DecoderLevel(
            nn.Sequential(_upsample(config), conv_norm(2, 2 * here, here, 3, nn.ReLU(inplace=True))),
            AdditiveGate(2, here, here // 2),
            double_conv(2, 2 * here, here),
        )
        for here in reversed(filters[:-1])
    ]
    network = GatedUNet(2, encoder, decoder, conv(2, filters[0], outputs, 1))
    restyle(network, config["norm_eps"], config["activation"])
    return network


def _upsample(config: Config) -> nn.Module:
    if config["upsampling"] == "nearest" and not config["align_corners"]:
        return nn.Upsample(scale_factor=2.0)
    if config["upsampling"] != "bilinear":
        raise ValueError(f"upsampling {config['upsampling']!r} with align_corners {config['align_corners']}")
    return nn.Upsample(scale_factor=2.0, mode="bilinear", align_corners=config["align_corners"])


def _open_settings(settings: Config) -> Candidates:
    opened: dict[str, tuple[Any, ...]] = {"upsampling": ("nearest", "bilinear")}
    if settings["upsampling"] == "bilinear":
        opened["align_corners"] = (False, True)
    return opened | {"activation": ACTIVATIONS, "norm_eps": NORM_EPS}


def _config(shapes: Shapes) -> Config:
    return {"width": shapes["Conv1.conv.0.weight"][0]}


def _modules(head: str) -> dict[str, str]:
    modules = {head: "head"}
    for level in range(_LEVELS):
        modules[f"Conv{level + 1}.conv"] = f"encoder.{level}.1"
    for index, level in enumerate(range(_LEVELS, 1, -1)):
        modules[f"Up{level}.up.1"] = f"decoder.{index}.up.1.0"
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
        modules=lambda config: _modules(head),
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
