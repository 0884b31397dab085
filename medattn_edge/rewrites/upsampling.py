"""Upsampling by two and a 3x3 convolution in one: a 4x4 transposed convolution, which is four 2x2 convolutions.

An output pixel of even and one of odd index each see two pixels of the small image per axis, so that each of the four
phases is a 2x2 convolution over it: four ninths of the arithmetic of nine taps over the large image.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medattn_edge.models.network import SegmentationNetwork
from medattn_edge.rewrites.linear import Layer, bias_of, like
from medattn_edge.rewrites.record import Rewrite, sites


def is_doubling(layer: nn.Module) -> bool:
    """Whether a layer is the transposed convolution of this file: kernel 4, stride 2, padding 1, no groups."""
    return (
        isinstance(layer, nn.ConvTranspose2d)
        and layer.kernel_size == (4, 4)
        and layer.stride == (2, 2)
        and layer.padding == (1, 1)
        and layer.groups == 1
    )


def is_same_3x3(layer: nn.Module) -> bool:
    """Whether a layer is a 3x3 convolution of stride 1 and zero padding 1."""
    return (
        isinstance(layer, nn.Conv2d)
        and layer.kernel_size == (3, 3)
        and layer.stride == (1, 1)
        and layer.padding == (1, 1)
        and layer.dilation == (1, 1)
        and layer.groups == 1
    )


def after_nearest(conv: nn.Conv2d) -> nn.ConvTranspose2d:
    """conv(nearest x2 of x), conv being 3x3. A bias meets no border, and the zeros outside are the same zeros."""
    kernel = conv.weight.double().flip(2, 3).flatten(0, 1).unsqueeze(1)
    doubled = F.conv2d(kernel, torch.ones_like(kernel[:1, :, :2, :2]), padding=1)
    return _doubling(conv, doubled.reshape(*conv.weight.shape[:2], 4, 4).transpose(0, 1), conv.bias)


class PhaseConvolution(nn.Module):
    """conv(up(x)): a 2x2 transposed convolution of stride 2, then a 3x3 convolution.

    The first one's bias is not seen through the zeros around the large image: what both biases add is one number per
    channel inside, and others along the four edges and in the four corners. `edges` (1, C', 3, 3) holds them.
    """

    def __init__(self, up: nn.ConvTranspose2d, conv: nn.Conv2d) -> None:
        super().__init__()
        self.expand: nn.Module = _doubling(conv, F.conv2d(up.weight.double(), conv.weight.double(), padding=2), None)
        seen = torch.einsum("omij,m->oij", conv.weight.double(), bias_of(up)).unsqueeze(1)
        edges = F.conv2d(torch.ones_like(seen[:1]), seen, bias_of(conv), padding=1)
        self.edges = nn.Parameter(edges.detach().to(conv.weight), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, h, w) -> (N, C', 2h, 2w)."""
        y: Tensor = self.expand(x)
        inner = self.edges[:, :, 1:2].expand(-1, -1, y.shape[2] - 2, -1)
        rows = torch.cat((self.edges[:, :, :1], inner, self.edges[:, :, 2:]), 2)
        inner = rows[..., 1:2].expand(-1, -1, -1, y.shape[3] - 2)
        return y + torch.cat((rows[..., :1], inner, rows[..., 2:]), 3)


class ShuffledConvolution(nn.Module):
    """A doubling transposed convolution as one 2x2 convolution with four times the outputs, and a pixel shuffle."""

    def __init__(self, expand: nn.ConvTranspose2d) -> None:
        super().__init__()
        inputs, outputs = expand.weight.shape[:2]
        # Tap 2a + p of an axis: phase p of the outputs looks at pixel -a. The convolution runs the other way.
        taps = expand.weight.reshape(inputs, outputs, 2, 2, 2, 2).flip(2, 4)
        weight = taps.permute(1, 3, 5, 0, 2, 4).reshape(4 * outputs, inputs, 2, 2)
        self.conv = like(
            _blank(nn.Conv2d, 2, 1, weight), weight, None if expand.bias is None else expand.bias.repeat_interleave(4)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, h, w) -> (N, C', 2h, 2w)."""
        shuffled = F.pixel_shuffle(self.conv(x), 2)
        # A copy: an activation in place would write into the part that is cut off, which a graph has to spell out.
        return shuffled[:, :, 1:-1, 1:-1].contiguous()


def _doubling(conv: nn.Conv2d, weight: Tensor, bias: Tensor | None) -> nn.ConvTranspose2d:
    return like(_blank(nn.ConvTranspose2d, 4, 2, conv.weight), weight, bias)


def _blank(kind: type[Layer], kernel: int, stride: int, weight: Tensor) -> Layer:
    """A layer to take settings from, with padding 1; its own weights are left as memory was found."""
    blank: Layer = nn.utils.skip_init(  # type: ignore[no-untyped-call]
        kind, 1, 1, kernel, stride=stride, padding=1, device=weight.device, dtype=weight.dtype
    )
    return blank


def join_nearest_upsampling(network: SegmentationNetwork) -> list[str]:
    """Every Sequential of an Upsample and a Sequential that starts with the convolution. Trilinear upsampling stays."""
    paths = []
    for path, sequence in sites(network, nn.Sequential):
        if len(sequence) != 2 or not _is_nearest(sequence[0]) or not isinstance(sequence[1], nn.Sequential):
            continue
        conv, *rest = sequence[1]
        if isinstance(conv, nn.Conv2d) and is_same_3x3(conv):
            network.set_submodule(path, nn.Sequential(nn.Identity(), nn.Sequential(after_nearest(conv), *rest)))
            paths.append(f"{path}.1.0")
    return paths


def _is_nearest(layer: nn.Module) -> bool:
    doubled = (2.0, (2.0, 2.0))
    return isinstance(layer, nn.Upsample) and layer.mode == "nearest" and layer.scale_factor in doubled


NEAREST_UPSAMPLING = Rewrite(
    name="nearest-upsampling",
    title="nearest upsampling and 3x3 convolution as a 4x4 transposed convolution",
    source="taps that see the same pixel of the small image are added: 4 products per output and channel instead of 9",
    apply=join_nearest_upsampling,
    after=("batch-norm",),
)


def shuffle_pixels(network: SegmentationNetwork) -> list[str]:
    """One row and one column more than needed are computed, and cut off."""
    layers = [(path, layer) for path, layer in sites(network, nn.ConvTranspose2d) if is_doubling(layer)]
    for path, layer in layers:
        network.set_submodule(path, ShuffledConvolution(layer))
    return [path for path, _ in layers]


PIXEL_SHUFFLE = Rewrite(
    name="pixel-shuffle",
    title="4x4 transposed convolution as a 2x2 convolution and a pixel shuffle",
    source="Shi et al. 2016, arXiv:1609.07009: the same function, phase by phase",
    apply=shuffle_pixels,
    after=("nearest-upsampling", "transposed-convolution"),
)

REWRITES = (
    NEAREST_UPSAMPLING,
    PIXEL_SHUFFLE,
)
