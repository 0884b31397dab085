"""A convolution of 3x3 taps by Winograd's algorithm F(4x4, 3x3): 36 products for 16 outputs and two channels, not 144.

Tiles of 6x6 pixels, 4 apart, are transformed; each of the 36 numbers of a tile has its own matrix of channels; what
comes out is transformed back to 4x4 pixels. Every step is a matrix product, which each runtime is fast at: a transform
is the product with a band matrix over the whole axis, so that no tile is ever cut out and copied.

In real numbers it is the same function. In FP32 it is not as exact as nine taps: the transforms subtract numbers of
like size. With the points 0, 3/4, -3/4, 3/2, -3/2 and infinity, one convolution of 256 random channels keeps 118 dB;
with the usual 0, 1, -1, 2, -2 it is 112. FP16 and INT8 lose too much.

Three axes are left alone: of an eighth of the products the layout changes around them leave nothing (1.00 times as fast
in OpenVINO, the 3-D network at 96x96x96).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.jit import is_tracing  # type: ignore[attr-defined]

from medattn_edge.models.flops import imagined
from medattn_edge.models.network import SegmentationNetwork
from medattn_edge.rewrites.record import Rewrite, sites
from medattn_edge.rewrites.upsampling import is_same_3x3
from medattn_edge.spec import ModelSpec

_POINTS = (0.0, 0.75, -0.75, 1.5, -1.5)  # their powers are exact
_OUTPUTS, _TAPS = 4, 3
_WINDOW = _OUTPUTS + _TAPS - 1
MIN_CHANNELS = 128  # below, the transforms cost more than they save at any size

IsCheaper = Callable[[int, int, int, int], bool]  # channels in and out, height, width


def is_cheaper(channels: int, outputs: int, height: int, width: int) -> bool:
    """Whether the 36 products and the transforms are less work than nine taps, per pixel of the image.

    Measured on a 2-core Xeon in OpenVINO, FP32, 64 to 512 channels on 16x16 to 64x64: the transforms run at half the
    speed of the products, the 36 matrices come from memory at 25 operations a byte, and a gain below a quarter is eaten
    by the change of layout.
    """
    pairs = channels * outputs
    products = 2.0 * 36 / 16 * pairs
    weights = 25.0 * 4 * 36 * pairs / (height * width)
    there = 2.0 * 6 / 4 * channels * (width + 6 / 4 * height)
    back = 2.0 * 36 * outputs
    return 2.0 * 9 * pairs > 1.25 * (products + weights + 2.0 * (there + back))


class WinogradConvolution(nn.Module):
    """A 3x3 convolution of stride 1 and zero padding 1, by whichever way is less work at the size of its input.

    Args:
        direct: the convolution.
        is_cheaper: whether Winograd's algorithm is less work for channels in and out, height and width.
    """

    def __init__(self, direct: nn.Conv2d, is_cheaper: IsCheaper = is_cheaper) -> None:
        super().__init__()
        self.direct, self.is_cheaper = direct, is_cheaper
        self.outputs = direct.out_channels
        analysis, kernel, synthesis = transforms()
        products = torch.einsum("pi,qj,ocij->pqco", kernel, kernel, direct.weight.detach().double()).flatten(0, 1)
        self.analysis, self.products, self.synthesis = (
            nn.Parameter(value.to(direct.weight), requires_grad=False)
            for value in (analysis, products, torch.kron(synthesis, synthesis))
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C', H, W)."""
        n, channels, height, width = x.shape
        # A trace would keep, for every size, the way of its example.
        traced = is_tracing()  # type: ignore[no-untyped-call]
        if traced or not self.is_cheaper(channels, self.outputs, height, width):
            return self.direct(x)  # type: ignore[no-any-return]
        rows, columns = (height + 3) // 4, (width + 3) // 4
        # Channels last, and each transform one more axis in front: what a product needs lies together.
        y = torch.matmul(self.band(width, columns).reshape(6, 1, 1, columns, width), x.permute(0, 2, 3, 1))
        y = y.reshape(6, n, height, columns * channels)
        y = torch.matmul(self.band(height, rows).reshape(6, 1, 1, rows, height), y)
        y = torch.matmul(y.reshape(36, n * rows * columns, channels), self.products)
        y = torch.matmul(self.synthesis, y.reshape(36, n * rows * columns * self.outputs))
        y = y.reshape(4, 4, n * rows, columns, self.outputs).permute(2, 0, 3, 1, 4)
        y = y.reshape(n, 4 * rows, 4 * columns, self.outputs)[:, :height, :width]
        bias = self.direct.bias
        if bias is not None:
            y = y + bias
        return y.permute(0, 3, 1, 2)

    def band(self, size: int, tiles: int) -> Tensor:
        """(6, tiles, size): the transform of every tile of an axis; what lies outside the image is zero."""
        where = self.analysis.device
        first = 4 * torch.arange(tiles, device=where).unsqueeze(1) - 1
        tap = torch.arange(size, device=where).unsqueeze(0) - first
        inside = (tap >= 0) & (tap < 6)
        return self.analysis[:, tap.clamp(0, 5)] * inside.to(self.analysis.dtype)


def transforms() -> tuple[Tensor, Tensor, Tensor]:
    """(6, 6) of the input, (6, 3) of the taps and (4, 6) of the output, FP64.

    Toom and Cook multiply polynomials by their values at points; a convolution of an output with taps is the transpose
    of that (Winograd 1980; Lavin and Gray 2016, arXiv:1509.09308).
    """
    taps, outputs, window = _values(_TAPS), _values(_OUTPUTS), _values(_WINDOW)
    return torch.linalg.inv(window).T.contiguous(), taps, outputs.T.contiguous()


def _values(terms: int) -> Tensor:
    """(6, terms): the powers of the points, and of infinity, where only the last one counts."""
    rows = [[point**power for power in range(terms)] for point in _POINTS]
    return torch.tensor([*rows, [0.0] * (terms - 1) + [1.0]], dtype=torch.float64)


def apply_winograd(
    network: SegmentationNetwork, min_channels: int = MIN_CHANNELS, is_cheaper: IsCheaper = is_cheaper
) -> list[str]:
    """2-D convolutions of at least `min_channels` channels in and out; where it is not cheaper they stay direct."""
    return _replace(network, _wide(network, min_channels), is_cheaper)


def apply_at(
    network: SegmentationNetwork,
    spec: ModelSpec,
    min_channels: int = MIN_CHANNELS,
    is_cheaper: IsCheaper = is_cheaper,
) -> list[str]:
    """Those of them for which it is cheaper at one of the sizes that they see, at the patch of the spec."""
    wide, cheaper = _wide(network, min_channels), set[str]()

    def looking_at(path: str) -> Callable[[nn.Conv2d, tuple[Tensor]], None]:
        # By path: what runs is a copy of the network, hooks included, whose modules are others.
        def look(conv: nn.Conv2d, inputs: tuple[Tensor]) -> None:
            height, width = inputs[0].shape[2:]
            if is_cheaper(conv.in_channels, conv.out_channels, height, width):
                cheaper.add(path)

        return look

    hooks = [conv.register_forward_pre_hook(looking_at(path)) for path, conv in wide.items()]
    imagined(network, spec)()
    for hook in hooks:
        hook.remove()
    return _replace(network, {path: conv for path, conv in wide.items() if path in cheaper}, is_cheaper)


def _wide(network: SegmentationNetwork, min_channels: int) -> dict[str, nn.Conv2d]:
    """By path, without those that are replaced already."""
    done = {replaced.direct for _, replaced in sites(network, WinogradConvolution)}
    return {
        path: conv
        for path, conv in sites(network, nn.Conv2d)
        if conv not in done and is_same_3x3(conv) and min(conv.in_channels, conv.out_channels) >= min_channels
    }


def _replace(network: SegmentationNetwork, convs: Mapping[str, nn.Conv2d], is_cheaper: IsCheaper) -> list[str]:
    for path, conv in convs.items():
        network.set_submodule(path, WinogradConvolution(conv, is_cheaper))
    return list(convs)


WINOGRAD = Rewrite(
    name="winograd",
    title="wide 3x3 convolutions by Winograd's algorithm, FP32 only",
    source="Lavin and Gray 2016, arXiv:1509.09308: F(4x4, 3x3) takes a quarter of the products",
    apply=apply_winograd,
    after=(
        "attention-inputs",
        "batch-norm",
        "batched-autoencoder",
        "concat-sums",
        "linear-heads",
        "nearest-upsampling",
        "pixel-shuffle",
        "shared-halves",
        "training-parts",
        "transposed-convolution",
    ),
    fp32_only=True,
    apply_at=apply_at,
)

REWRITES = (WINOGRAD,)
