"""A network in FP64: how far FP32 itself takes its answer from the exact one."""

from __future__ import annotations

import copy
from types import MethodType
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from torch import Tensor, nn

    from medattn_edge.backends.session import Patches

# torch convolves volumes in FP64 by copying every neighbourhood: 12 GiB for 64 channels of 96x96x96.
_SLAB_BYTES = 2**28


def logits_in_fp64(network: nn.Module, patches: Patches) -> npt.NDArray[np.float64] | None:
    """The logits float64 (n, K, *patch) of a copy of the network in FP64.

    Args:
        network: in evaluation mode; it stays as it is.
        patches: float32 (n, C, *patch).

    Returns:
        None when the network cannot be computed in FP64: some of its code makes FP32 tensors of its own.
    """
    import torch
    from torch import nn

    try:
        exact = copy.deepcopy(network).double()
        for module in exact.modules():
            if isinstance(module, nn.Conv3d) and module.padding_mode == "zeros" and not isinstance(module.padding, str):
                module.forward = MethodType(_in_slabs, module)  # type: ignore[method-assign]
        device = next((one.device for one in exact.parameters()), torch.device("cpu"))
        with torch.inference_mode():
            logits = exact(torch.from_numpy(patches.astype(np.float64)).to(device))
    except (RuntimeError, TypeError, ValueError):  # of dtypes that do not fit, and of modules that cannot be copied
        return None
    if logits.dtype != torch.float64:
        return None
    answer: npt.NDArray[np.float64] = logits.cpu().numpy()
    return answer


def _in_slabs(self: nn.Conv3d, image: Tensor) -> Tensor:
    """The convolution of one slab of the result after another along D, each with little memory."""
    import torch
    from torch.nn import functional

    padding = [int(size) for size in self.padding]
    padded = functional.pad(image, [size for size in reversed(padding) for _ in range(2)])
    step, reach = self.stride[0], self.dilation[0] * (self.kernel_size[0] - 1) + 1
    depth = (padded.shape[2] - reach) // step + 1
    taps = image.shape[0] * image.shape[1] * self.kernel_size[0] * self.kernel_size[1] * self.kernel_size[2]
    slab = max(1, _SLAB_BYTES // (8 * taps * image.shape[3] * image.shape[4]))
    parts = [
        functional.conv3d(
            padded[:, :, start * step : (min(start + slab, depth) - 1) * step + reach],
            self.weight,
            self.bias,
            self.stride,
            0,
            self.dilation,
            self.groups,
        )
        for start in range(0, depth, slab)
    ]
    return torch.cat(parts, dim=2)
