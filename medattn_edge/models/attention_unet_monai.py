"""MONAI's `AttentionUnet`, read into our own modules: strided convolutions down, transposed convolutions up.

The meaning of MONAI's constructor changed at 1.1 and 1.3.1; the state_dict layout read here is the one since 1.3.1. The
merge ends in an InstanceNorm, which depends on the input and can never be folded.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

from torch import nn

from medattn_edge.models.blocks import InstanceNorm, batch_norm, conv, double_conv
from medattn_edge.models.gated_unet import AdditiveGate, DecoderLevel, GatedUNet
from medattn_edge.models.network import Candidates, Config, Layout, Network, Shapes

_LARGEST_STRIDE = 16
_MOST_RANKS = 8  # how far a combination of strides may be from 2 everywhere to be searched
_UP: dict[int, type[nn.ConvTranspose2d | nn.ConvTranspose3d]] = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}


def build(config: Config, in_channels: int, outputs: int) -> GatedUNet:
    """Settings: dims, 2 or 3; channels, of every level from the top; strides, which a state_dict cannot tell.

    strides: one number for every level and axis, or a list with one entry per step down from the top: a number for
    every axis, or a list of one number per axis, as MONAI takes them: [[2, 2, 1], [2, 2, 2]].
    """
    dims, channels = config["dims"], config["channels"]
    steps = _steps(config["strides"], dims, len(channels) - 1)
    pairs = zip(itertools.pairwise(channels), steps, strict=True)
    encoder = [double_conv(dims, in_channels, channels[0])]
    encoder += [double_conv(dims, above, here, stride=step) for (above, here), step in pairs]
    levels = zip(channels[:0:-1], channels[-2::-1], reversed(steps), strict=True)
    decoder = [_level(dims, below, here, step) for below, here, step in levels]
    stride = tuple(math.prod(step[axis] for step in steps) for axis in range(dims))
    return GatedUNet(dims, list(encoder), decoder, conv(dims, channels[0], outputs, 1), stride)


def _steps(strides: int | list[int | list[int]], dims: int, depth: int) -> list[tuple[int, ...]]:
    """The stride of every step down, the top one first; raises ValueError for another number of them."""
    each = [strides] * depth if isinstance(strides, int) else list(strides)
    steps = [(one,) * dims if isinstance(one, int) else tuple(one) for one in each]
    if len(steps) != depth or any(len(step) != dims for step in steps):
        raise ValueError(f"strides {strides} for {depth} steps of {dims} axes")
    return steps


def _is_strides(value: Any) -> bool:
    """A number, or a list of numbers and of lists of them; none below 1."""
    if isinstance(value, list | tuple):
        flat = [item for one in value for item in (one if isinstance(one, list | tuple) else [one])]
        return len(flat) > 0 and all(type(item) is int and 1 <= item <= _LARGEST_STRIDE for item in flat)
    return type(value) is int and 1 <= value <= _LARGEST_STRIDE


def _open_settings(settings: Config) -> Candidates:
    """Strides, those first that differ least from 2 everywhere.

    Every step has its rank in the list of usual ones, and a combination the sum of its steps'; among equals those come
    first that use fewer different steps, and that leave 2 earlier.
    """
    dims, depth = settings["dims"], len(settings["channels"]) - 1
    usual: list[int | list[int]] = [2, [2, 2, 1], 1, [1, 2, 2], 4, [1, 1, 2], 3, [2, 1, 2]]
    if dims == 2:
        usual = [2, 1, 4, 3, [2, 1], [1, 2]]
    ranks: list[tuple[int, ...]] = [()]
    for _ in range(depth):
        ranks = [(*one, rank) for one in ranks for rank in range(len(usual)) if sum(one) + rank <= _MOST_RANKS]
    ranks.sort(key=lambda one: (sum(one), len(set(one)), [-rank for rank in one]))
    candidates: list[Any] = [2, *([usual[rank] for rank in one] for one in ranks if any(one))]
    return {"strides": tuple(candidates)}


def _level(dims: int, below: int, here: int, step: tuple[int, ...]) -> DecoderLevel:
    # A transposed convolution of 3 with this padding gives back exactly `step` times the size.
    transposed = _UP[dims](
        below,
        here,
        3,
        stride=step,  # type: ignore[arg-type]
        padding=1,
        output_padding=tuple(one - 1 for one in step),  # type: ignore[arg-type]
    )
    up = nn.Sequential(transposed, batch_norm(dims, here), nn.ReLU(inplace=True))
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
    settings={"dims": 2, "channels": [64, 128, 256, 512, 1024], "strides": 2},
    open_settings=_open_settings,
    accepts={"strides": _is_strides},
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
