"""MONAI's `AttentionUnet`, read into our own modules: strided convolutions down, transposed convolutions up.

The meaning of MONAI's constructor changed at 1.1 and 1.3.1; the state_dict layout read here is the one since 1.3.1. The
merge ends in an InstanceNorm, which depends on the input and can never be folded.
"""

from __future__ import annotations

import itertools

from torch import nn

from medattn_edge.models.blocks import InstanceNorm, batch_norm, conv, double_conv
from medattn_edge.models.gated_unet import AdditiveGate, DecoderLevel, GatedUNet
from medattn_edge.models.network import Config, Layout, Network, Shapes

_UP: dict[int, type[nn.ConvTranspose2d | nn.ConvTranspose3d]] = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}


def build(config: Config, in_channels: int, outputs: int) -> GatedUNet:
    """Settings: dims, 2 or 3; channels, of every level from the top. All strides are 2, as a state_dict cannot tell."""
    dims, channels = config["dims"], config["channels"]
    encoder = [double_conv(dims, in_channels, channels[0])]
    encoder += [double_conv(dims, above, here, stride=2) for above, here in itertools.pairwise(channels)]
    decoder = [_level(dims, below, here) for below, here in zip(channels[:0:-1], channels[-2::-1], strict=True)]
    return GatedUNet(dims, list(encoder), decoder, conv(dims, channels[0], outputs, 1))


def _level(dims: int, below: int, here: int) -> DecoderLevel:
    up = nn.Sequential(
        _UP[dims](below, here, 3, stride=2, padding=1, output_padding=1), batch_norm(dims, here), nn.ReLU(inplace=True)
    )
    merge = nn.Sequential(conv(dims, 2 * here, here), InstanceNorm(), nn.PReLU())
    return DecoderLevel(up, AdditiveGate(dims, here, here // 2), merge)


def _config(shapes: Shapes) -> Config:
    first = shapes["model.0.conv.0.conv.weight"]
    channels, prefix = [first[0]], "model.1"
    while f"{prefix}.submodule.0.conv.0.conv.weight" in shapes:
        channels.append(shapes[f"{prefix}.submodule.0.conv.0.conv.weight"][0])
        prefix += ".submodule.1"
    channels.append(shapes[f"{prefix}.submodule.conv.0.conv.weight"][0])
    return {"dims": len(first) - 2, "channels": channels}


def _modules(config: Config) -> dict[str, str]:
    depth = len(config["channels"]) - 1
    modules = {"model.2.conv": "head"} | _double_conv("model.0", "encoder.0")
    for level in range(depth):
        theirs, ours = "model.1" + ".submodule.1" * level, f"decoder.{depth - 1 - level}"
        block = f"{theirs}.submodule" + (".0" if level < depth - 1 else "")
        modules |= _double_conv(block, f"encoder.{level + 1}")
        modules |= {
            f"{theirs}.attention.W_g.0.conv": f"{ours}.gate.gating.0",
            f"{theirs}.attention.W_g.1": f"{ours}.gate.gating.1",
            f"{theirs}.attention.W_x.0.conv": f"{ours}.gate.skip.0",
            f"{theirs}.attention.W_x.1": f"{ours}.gate.skip.1",
            f"{theirs}.attention.psi.0.conv": f"{ours}.gate.psi.0",
            f"{theirs}.attention.psi.1": f"{ours}.gate.psi.1",
            f"{theirs}.upconv.up.conv": f"{ours}.up.0",
            f"{theirs}.upconv.up.adn.N": f"{ours}.up.1",
            f"{theirs}.merge.conv": f"{ours}.merge.0",
            f"{theirs}.merge.adn.A": f"{ours}.merge.2",
        }
    return modules


def _double_conv(theirs: str, ours: str) -> dict[str, str]:
    return {
        f"{theirs}.conv.0.conv": f"{ours}.0",
        f"{theirs}.conv.0.adn.N": f"{ours}.1",
        f"{theirs}.conv.1.conv": f"{ours}.3",
        f"{theirs}.conv.1.adn.N": f"{ours}.4",
    }


NETWORK = Network(
    name="attention-unet-monai",
    title="Attention U-Net of MONAI, 2-D and 3-D",
    build=build,
    settings={"dims": 2, "channels": [64, 128, 256, 512, 1024]},
    patch=(256, 256),
    patch_3d=(96, 96, 96),
    layouts=(
        Layout(
            name="monai_attentionunet",
            source="MONAI monai.networks.nets.AttentionUnet",
            signature=lambda shapes: "model.1.merge.conv.weight" in shapes,
            config=_config,
            modules=_modules,
            first=("encoder.0.0.weight",),
            last=("head.weight",),
        ),
    ),
)
