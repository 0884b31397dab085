"""BatchNorm and PReLU: constants of a trained network, written as cheaper operators or folded into their neighbours."""

from __future__ import annotations

import copy

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from medattn_edge.models.network import SegmentationNetwork
from medattn_edge.rewrites.record import Module, Rewrite, sites

_CONVS = (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_NORMS = (nn.BatchNorm2d, nn.BatchNorm3d)


def fold_batch_norms(network: Module) -> Module:
    """A copy of a network in evaluation mode, every BatchNorm that follows a convolution folded into it."""
    folded = copy.deepcopy(network).eval()
    fold_into_convolutions(folded)
    return folded


def fold_into_convolutions(network: nn.Module) -> list[str]:
    """W' = W * s and b' = (b - mean) * s + beta with s = gamma / sqrt(var + eps), per output channel.

    In our networks a pair always stands in one Sequential. A module that is called from several places is folded once,
    which is why this comes before the exporter, not after it.
    """
    paths = []
    for path, sequence in sites(network, nn.Sequential):
        for index in range(len(sequence) - 1):
            conv, norm = sequence[index], sequence[index + 1]
            if isinstance(conv, _CONVS) and isinstance(norm, _NORMS):
                transposed = isinstance(conv, nn.ConvTranspose2d | nn.ConvTranspose3d)
                sequence[index] = fuse_conv_bn_eval(conv, norm, transpose=transposed)
                sequence[index + 1] = nn.Identity()
                paths.append(f"{path}.{index}" if path else str(index))
    return paths


BATCH_NORM = Rewrite(
    name="batch-norm",
    title="BatchNorm folded into the convolution before it",
    source="Jacob et al. 2018, arXiv:1712.05877, section 3.2",
    apply=fold_into_convolutions,
)


def write_as_leaky_relu(network: SegmentationNetwork) -> list[str]:
    """A trained slope is a constant."""
    paths = []
    for path, activation in sites(network, nn.PReLU):
        if activation.weight.numel() == 1:
            network.set_submodule(path, nn.LeakyReLU(float(activation.weight)))
            paths.append(path)
    return paths


SCALAR_PRELU = Rewrite(
    name="scalar-prelu",
    title="PReLU with one slope as LeakyReLU",
    source="He et al. 2015, arXiv:1502.01852, equation 1: both are max(0, x) + slope * min(0, x)",
    apply=write_as_leaky_relu,
    after=("batch-norm",),
)

REWRITES = (
    BATCH_NORM,
    SCALAR_PRELU,
)
