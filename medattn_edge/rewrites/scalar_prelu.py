"""PReLU with one slope written as LeakyReLU, which runtimes join with the convolution before it."""

from __future__ import annotations

from torch import nn

from medattn_edge.models.network import SegmentationNetwork
from medattn_edge.rewrites.rewrite import Rewrite, sites


def apply(network: SegmentationNetwork) -> list[str]:
    """A trained slope is a constant."""
    touched = []
    for path, activation in sites(network, nn.PReLU):
        if activation.weight.numel() == 1:
            network.set_submodule(path, nn.LeakyReLU(float(activation.weight)))
            touched.append(path)
    return touched


REWRITE = Rewrite(
    name="scalar-prelu",
    title="PReLU with one slope as LeakyReLU",
    source="He et al. 2015, arXiv:1502.01852, equation 1: both are max(0, x) + slope * min(0, x)",
    apply=apply,
    after=("batch-norm",),
)
