"""The pieces that the networks share, in 2-D and 3-D."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Kernel = int | tuple[int, ...]
NORM_EPS = (1e-5, 1e-3)  # torch's default, and that of TensorFlow and of networks converted from it
_CONV: dict[int, type[nn.Conv2d | nn.Conv3d]] = {2: nn.Conv2d, 3: nn.Conv3d}
_NORM: dict[int, type[nn.BatchNorm2d | nn.BatchNorm3d]] = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
_POOL: dict[int, type[nn.MaxPool2d | nn.MaxPool3d]] = {2: nn.MaxPool2d, 3: nn.MaxPool3d}


def conv(dims: int, c_in: int, c_out: int, kernel: Kernel = 3, *, stride: Kernel = 1) -> nn.Module:
    """A convolution that keeps the size at stride 1; odd kernels only."""
    sizes = (kernel,) * dims if isinstance(kernel, int) else kernel
    return _CONV[dims](c_in, c_out, sizes, stride=stride, padding=tuple(size // 2 for size in sizes))  # type: ignore[arg-type]


def batch_norm(dims: int, channels: int) -> nn.Module:
    """BatchNorm2d or BatchNorm3d."""
    return _NORM[dims](channels)


def max_pool(dims: int, kernel: Kernel = 2) -> nn.Module:
    """Non-overlapping max pooling."""
    return _POOL[dims](kernel)


def conv_norm(
    dims: int, c_in: int, c_out: int, kernel: Kernel = 3, activation: nn.Module | None = None
) -> nn.Sequential:
    """Convolution, BatchNorm and an optional activation."""
    layers = [conv(dims, c_in, c_out, kernel), batch_norm(dims, c_out)]
    return nn.Sequential(*layers, activation) if activation is not None else nn.Sequential(*layers)


def double_conv(dims: int, c_in: int, c_out: int, kernel: Kernel = 3, *, stride: Kernel = 1) -> nn.Sequential:
    """Twice convolution + BatchNorm + ReLU; the first one strides."""
    return nn.Sequential(
        conv(dims, c_in, c_out, kernel, stride=stride),
        batch_norm(dims, c_out),
        nn.ReLU(inplace=True),
        conv(dims, c_out, c_out, kernel),
        batch_norm(dims, c_out),
        nn.ReLU(inplace=True),
    )


class InstanceNorm(nn.Module):
    """InstanceNorm without parameters: mean 0 and variance 1 (eps 1e-5) per sample and channel.

    torch's own module checks the channel count in Python, which a traced network would carry along as a warning.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, *spatial) -> the same shape."""
        return torch.instance_norm(x, None, None, None, None, True, 0.1, 1e-5, False)


ACTIVATIONS = ("relu", "leaky_relu:0.01", "leaky_relu:0.1", "leaky_relu:0.2", "elu", "silu", "gelu")


def activation(name: str) -> nn.Module:
    """One of ACTIVATIONS, or `leaky_relu:SLOPE`; raises ValueError for any other name."""
    kind, _, slope = name.partition(":")
    if kind == "leaky_relu" and slope and 0.0 < float(slope) < 1.0:
        return nn.LeakyReLU(float(slope), inplace=True)
    known: dict[str, nn.Module] = {"relu": nn.ReLU(inplace=True), "elu": nn.ELU(), "silu": nn.SiLU(), "gelu": nn.GELU()}
    if slope or kind not in known:
        raise ValueError(f"the activation {name!r} is none of {', '.join(ACTIVATIONS)}")
    return known[kind]


def restyle(network: nn.Module, norm_eps: float, activation_name: str | None = None) -> None:
    """Give every BatchNorm this eps and put the activation in the place of every ReLU module.

    A gate's own ReLU is a function and stays.
    """
    for path, module in list(network.named_modules()):
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d):
            module.eps = norm_eps
        if isinstance(module, nn.ReLU) and activation_name not in (None, "relu"):
            network.set_submodule(path, activation(str(activation_name)))


def is_eps(value: object) -> bool:
    """Whether a value can be the eps of a normalisation."""
    return type(value) is float and 0.0 < value < 1.0


def resize_like(x: Tensor, like: Tensor, align_corners: bool = False) -> Tensor:
    """Bilinear or trilinear resize to the spatial size of `like`; nothing to do when the sizes are equal.

    While tracing the resize is always recorded, so that the traced network still works at other sizes.
    """
    if not torch.jit.is_tracing() and x.shape[2:] == like.shape[2:]:  # type: ignore
        return x
    mode = "bilinear" if x.dim() == 4 else "trilinear"
    return F.interpolate(x, size=like.shape[2:], mode=mode, align_corners=align_corners)


def stack_maps(maps: list[Tensor], image: Tensor) -> Tensor:
    """Maps (N, 1, *smaller) of several resolutions, resized linearly to the image's: (N, A, *spatial)."""
    if len(maps) == 0:
        return image[:, :0]
    return torch.cat([resize_like(one, image) for one in maps], 1)
