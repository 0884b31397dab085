"""The doubling transposed convolutions as 2x2 convolutions and pixel shuffles, where a runtime prefers those."""

from __future__ import annotations

from torch import nn

from medattn_edge.models.network import SegmentationNetwork
from medattn_edge.rewrites.phase_convolution import ShuffledConvolution, is_doubling
from medattn_edge.rewrites.rewrite import Rewrite, sites


def apply(network: SegmentationNetwork) -> list[str]:
    """One row and one column more than needed are computed, and cut off."""
    touched = [(path, layer) for path, layer in sites(network, nn.ConvTranspose2d) if is_doubling(layer)]
    for path, layer in touched:
        network.set_submodule(path, ShuffledConvolution(layer))
    return [path for path, _ in touched]


REWRITE = Rewrite(
    name="pixel-shuffle",
    title="4x4 transposed convolution as a 2x2 convolution and a pixel shuffle",
    source="Shi et al. 2016, arXiv:1609.07009: the same function, phase by phase",
    apply=apply,
    after=("nearest-upsampling", "transposed-convolution"),
)
