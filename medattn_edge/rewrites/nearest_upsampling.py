"""Nearest upsampling by two and the 3x3 convolution after it as one transposed convolution."""

from __future__ import annotations

from torch import nn

from medattn_edge.models.network import SegmentationNetwork
from medattn_edge.rewrites.phase_convolution import after_nearest, is_same_3x3
from medattn_edge.rewrites.rewrite import Rewrite, sites


def apply(network: SegmentationNetwork) -> list[str]:
    """Every Sequential of an Upsample and a Sequential that starts with the convolution. Trilinear upsampling stays."""
    touched = []
    for path, sequence in sites(network, nn.Sequential):
        if len(sequence) != 2 or not _is_nearest(sequence[0]) or not isinstance(sequence[1], nn.Sequential):
            continue
        conv, *rest = sequence[1]
        if isinstance(conv, nn.Conv2d) and is_same_3x3(conv):
            network.set_submodule(path, nn.Sequential(nn.Identity(), nn.Sequential(after_nearest(conv), *rest)))
            touched.append(f"{path}.1.0")
    return touched


def _is_nearest(layer: nn.Module) -> bool:
    doubled = (2.0, (2.0, 2.0))
    return isinstance(layer, nn.Upsample) and layer.mode == "nearest" and layer.scale_factor in doubled


REWRITE = Rewrite(
    name="nearest-upsampling",
    title="nearest upsampling and 3x3 convolution as a 4x4 transposed convolution",
    source="taps that see the same pixel of the small image are added: 4 products per output and channel instead of 9",
    apply=apply,
    after=("batch-norm",),
)
