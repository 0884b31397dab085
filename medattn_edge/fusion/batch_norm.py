"""BatchNorm folded into the convolution before it: the same function with one operator less per layer."""

from __future__ import annotations

import copy
from typing import TypeVar

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

Module = TypeVar("Module", bound=nn.Module)
_CONVS = (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_NORMS = (nn.BatchNorm2d, nn.BatchNorm3d)


def fold_batch_norms(network: Module) -> Module:
    """A copy of a network in evaluation mode, every BatchNorm that follows a convolution folded into it.

    W' = W * s and b' = (b - mean) * s + beta with s = gamma / sqrt(var + eps), per output channel (Jacob et al. 2018,
    arXiv:1712.05877, section 3.2). In our networks a pair always stands in one Sequential. A module that is called from
    several places is folded once, which is why this comes before the exporter, not after it.
    """
    folded = copy.deepcopy(network).eval()
    for sequence in [module for module in folded.modules() if isinstance(module, nn.Sequential)]:
        for index in range(len(sequence) - 1):
            conv, norm = sequence[index], sequence[index + 1]
            if isinstance(conv, _CONVS) and isinstance(norm, _NORMS):
                transposed = isinstance(conv, nn.ConvTranspose2d | nn.ConvTranspose3d)
                sequence[index] = fuse_conv_bn_eval(conv, norm, transpose=transposed)
                sequence[index + 1] = nn.Identity()
    return folded
