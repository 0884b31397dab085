"""The official 3-D Attention U-Net with one gating signal (`unet_grid_attention`), for anisotropic scans.

Oktay et al. 2018 (arXiv:1804.03999). Kernels 3x3x1 and pooling 2x2x1: the tensor's third axis crosses the slices.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from medattn_edge.models.attention_unet_3d import OPEN_DEFAULTS, GridGate, encoder_modules, gate_modules, open_settings
from medattn_edge.models.blocks import conv, conv_norm, double_conv, is_eps, max_pool, restyle
from medattn_edge.models.network import Config, GatedNetwork, Layout, Network, Shapes
from medattn_edge.spec import Intensity

_SCALES = (1, 2, 4, 8, 16)
_KERNEL = (3, 3, 1)


class GridAttentionUNet(GatedNetwork):
    """Five levels; levels 4, 3 and 2 gated by one signal from the centre."""

    def __init__(self, config: Config, in_channels: int, outputs: int) -> None:
        align, strided = config["align_corners"], config["strided_theta"]
        super().__init__((16, 16, 1), ("gate_4", "gate_3", "gate_2"), (16, 16, 2 if strided else 1))
        f = [config["width"] * scale for scale in _SCALES]
        self.encoder = nn.ModuleList(
            [double_conv(3, a, b, _KERNEL) for a, b in zip([in_channels, *f], f, strict=False)]
        )
        self.pool = max_pool(3, (2, 2, 1))
        self.gating = conv_norm(3, f[4], f[3], 1, nn.ReLU(inplace=True))
        self.gate4, self.gate3, self.gate2 = (
            GridGate(f[level], f[3], strided=strided, align_corners=align, function=config["gate_function"])
            for level in (3, 2, 1)
        )
        self.up = nn.Upsample(scale_factor=(2.0, 2.0, 1.0), mode="trilinear", align_corners=align)
        self.decoder4, self.decoder3, self.decoder2, self.decoder1 = (
            double_conv(3, f[level] + f[level + 1], f[level], _KERNEL) for level in (3, 2, 1, 0)
        )
        self.final = conv(3, f[0], outputs, 1)
        restyle(self, config["norm_eps"], config["activation"])

    def _decode(self, image: Tensor) -> tuple[Tensor, list[Tensor]]:
        x = image
        skips: list[Tensor] = []
        for index, block in enumerate(self.encoder):
            x = block(self.pool(x) if index > 0 else x)
            skips.append(x)
        gating = self.gating(x)
        gated4, map4 = self.gate4(skips[3], gating)
        gated3, map3 = self.gate3(skips[2], gating)
        gated2, map2 = self.gate2(skips[1], gating)
        x = self.decoder4(torch.cat((gated4, self.up(x)), 1))
        x = self.decoder3(torch.cat((gated3, self.up(x)), 1))
        x = self.decoder2(torch.cat((gated2, self.up(x)), 1))
        x = self.decoder1(torch.cat((skips[0], self.up(x)), 1))
        return self.final(x), [map4, map3, map2]


def _config(shapes: Shapes) -> Config:
    theta = shapes["attentionblock2.theta.weight"]
    return {"width": shapes["conv1.conv1.0.weight"][0], "strided_theta": theta[2] == 2}


def _modules(config: Config) -> dict[str, str]:
    modules = encoder_modules() | {"gating.conv1": "gating"}
    for level in (2, 3, 4):
        modules |= gate_modules(f"attentionblock{level}", f"gate{level}")
    return modules


NETWORK = Network(
    name="attention-unet-grid",
    title="Attention U-Net, official 3-D with one gating signal",
    build=GridAttentionUNet,
    settings={"width": 16, "strided_theta": True, **OPEN_DEFAULTS},
    open_settings=open_settings,
    accepts={"norm_eps": is_eps},
    patch=(160, 160, 32),
    intensity=Intensity.parse("zscore"),
    axes="WHD",
    layouts=(
        Layout(
            name="agn_grid",
            source="ozan-oktay/Attention-Gated-Networks",
            signature=lambda shapes: "attentionblock2.W.0.weight" in shapes,
            config=_config,
            modules=_modules,
            first=("encoder.0.0.weight",),
            last=("final.weight",),
        ),
    ),
)
