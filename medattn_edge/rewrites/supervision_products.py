"""Deep supervision's resizes as matrix products: one axis after the other, the last one for all levels together."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from medattn_edge.models.attention_unet_3d import AttentionUNet3d
from medattn_edge.models.network import SegmentationNetwork
from medattn_edge.rewrites.open_unet import Added
from medattn_edge.rewrites.rewrite import Rewrite


class ResizedSum(nn.Module):
    """The sum of maps of several resolutions, each resized linearly to that of the first."""

    def __init__(self, *, align_corners: bool) -> None:
        super().__init__()
        self.align_corners = align_corners

    def forward(self, parts: list[Tensor]) -> Tensor:
        """The first (N, K, D, H, W), the others (N, K, d, h, w)."""
        first = parts[0]
        depth, height, width = first.shape[2:]
        rows: list[Tensor] = []
        columns: list[Tensor] = []
        for part in parts[1:]:
            n, k, d, h, w = part.shape
            y = torch.matmul(self.weights(part, d, depth), part.reshape(n, k, d, h * w))
            rows.append(torch.matmul(self.weights(part, h, height), y.reshape(n, k, depth, h, w)))
            columns.append(self.weights(part, w, width))
        # What is added in the end may as well be added by the product: [a b] [A; B] = a A + b B.
        return first + torch.matmul(torch.cat(rows, -1), torch.cat(columns, 1).transpose(0, 1))

    def weights(self, like: Tensor, size: int, resized: int) -> Tensor:
        """(resized, size): what each place takes of its two neighbours; at an end the only one gives all."""
        place = torch.arange(resized, device=like.device, dtype=like.dtype)
        step, first = (size / resized, 0.5)
        if self.align_corners:
            step, first = ((size - 1) / (resized - 1), 0.0)
        place = (place + first) * step - first
        source = torch.arange(size, device=like.device, dtype=like.dtype)
        near = (1 - (place.unsqueeze(1) - source.unsqueeze(0)).abs()).clamp(0, 1)
        return near / near.sum(1, keepdim=True)


def apply(network: SegmentationNetwork) -> list[str]:
    """The official 3-D network: each head keeps its convolution, and the last layer resizes."""
    if not isinstance(network, AttentionUNet3d) or not isinstance(network.final, Added):
        return []
    resize = network.head2[1]
    assert isinstance(resize, nn.Upsample)
    for head in (network.head2, network.head3, network.head4):
        head[1] = nn.Identity()
    network.final = ResizedSum(align_corners=bool(resize.align_corners))
    return ["head2.1", "head3.1", "head4.1", "final"]


REWRITE = Rewrite(
    name="supervision-products",
    title="the deep-supervision heads' resizes as matrix products, those of the last axis in one",
    source="a linear resize along one axis is a product with a band matrix; runtimes pad its few channels to 16",
    apply=apply,
    needs=("supervision-heads",),
)
