"""Output heads: those that only a loss reads removed, linear layers in a row composed, resizes as matrix products."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from medattn_edge.models.attention_unet_3d import AttentionUNet3d
from medattn_edge.models.network import SegmentationNetwork
from medattn_edge.models.self_guided_attention import SelfGuidedAttention
from medattn_edge.rewrites.decomposed_guided import decompose_guided
from medattn_edge.rewrites.decomposed_unet import ConvolutionOfConcatenation, SumOfMaps, decompose_decoders
from medattn_edge.rewrites.linear import composed, input_parts
from medattn_edge.rewrites.record import Rewrite


def remove_side_heads(network: SegmentationNetwork) -> list[str]:
    """The self-guided network's heads on the backbone's features. Deep supervision's heads feed the output and stay."""
    if not isinstance(network, SelfGuidedAttention) or len(network.side_heads) == 0:
        return []
    paths = [f"side_heads.{index}" for index in range(len(network.side_heads))]
    network.side_heads = nn.ModuleList()
    decompose_guided(network)
    return paths


TRAINING_PARTS = Rewrite(
    name="training-parts",
    title="heads that only the loss looks at, removed",
    source="Sinha and Dolz 2020, arXiv:1906.02849: the prediction is the mean of the second step's heads",
    apply=remove_side_heads,
)


def compose_heads(network: SegmentationNetwork) -> list[str]:
    """head(refine(x)) of the second step. The network itself takes the mean of the heads before it resizes."""
    paths: list[str] = []
    if not isinstance(network, SelfGuidedAttention):
        return paths
    for index, scale in enumerate(network.step2.scales):
        refine, head = scale.refine, network.heads[index]
        if isinstance(refine, nn.Conv2d) and isinstance(head, nn.Conv2d):
            network.heads[index] = composed(head, refine)
            scale.refine = nn.Identity()
            paths += [f"step2.scales.{index}.refine", f"heads.{index}"]
    return paths


LINEAR_HEADS = Rewrite(
    name="linear-heads",
    title="refinement and head of a scale as one 1x1 convolution",
    source="B (A x + a) + b = (B A) x + (B a + b)",
    apply=compose_heads,
)


def fold_final_into_heads(network: SegmentationNetwork) -> list[str]:
    """The official 3-D network. A linear resize's weights sum to 1, so that a bias passes through it."""
    if not isinstance(network, AttentionUNet3d):
        return []
    decompose_decoders(network)
    if not isinstance(network.final, ConvolutionOfConcatenation):
        return []
    final = network.final.body
    heads: list[Any] = [network.head1, *(head[0] for head in (network.head2, network.head3, network.head4))]
    parts = input_parts(final, [head.out_channels for head in heads])  # type: ignore[arg-type]
    network.head1, *folded = (composed(part, head) for part, head in zip(parts, heads, strict=True))
    for head, conv in zip((network.head2, network.head3, network.head4), folded, strict=True):
        head[0] = conv
    network.final = SumOfMaps()
    return ["head1", "head2.0", "head3.0", "head4.0", "final"]


SUPERVISION_HEADS = Rewrite(
    name="supervision-heads",
    title="last convolution folded into the deep-supervision heads, which are added",
    source="a 1x1x1 convolution commutes with a resize: one mixes channels, the other positions",
    apply=fold_final_into_heads,
)


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


def resize_by_products(network: SegmentationNetwork) -> list[str]:
    """The official 3-D network: each head keeps its convolution, and the last layer resizes."""
    if not isinstance(network, AttentionUNet3d) or not isinstance(network.final, SumOfMaps):
        return []
    resize = network.head2[1]
    assert isinstance(resize, nn.Upsample)
    for head in (network.head2, network.head3, network.head4):
        head[1] = nn.Identity()
    network.final = ResizedSum(align_corners=bool(resize.align_corners))
    return ["head2.1", "head3.1", "head4.1", "final"]


SUPERVISION_PRODUCTS = Rewrite(
    name="supervision-products",
    title="the deep-supervision heads' resizes as matrix products, those of the last axis in one",
    source="a linear resize along one axis is a product with a band matrix; runtimes pad its few channels to 16",
    apply=resize_by_products,
    needs=("supervision-heads",),
)

REWRITES = (
    TRAINING_PARTS,
    LINEAR_HEADS,
    SUPERVISION_HEADS,
    SUPERVISION_PRODUCTS,
)
