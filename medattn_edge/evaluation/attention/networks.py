"""A network whose channel attention comes with its attention maps, which have a place in space only for the others."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medattn_edge.models.network import SegmentationNetwork
from medattn_edge.models.self_guided_attention import SelfGuidedAttention


def channel_matrices(network: SegmentationNetwork, patch: tuple[int, ...]) -> tuple[int, int]:
    """How many channel attentions a network shows, and the C of their matrices C x C; (0, 0) for a network without.

    Args:
        network: of a checkpoint, not rewritten.
        patch: its spatial sizes, of which the matrices need at least C in each axis: they travel in a patch's corner.
    """
    if not isinstance(network, SelfGuidedAttention):
        return 0, 0
    first: Any = network.fuse[0]
    return (len(network.step2.scales), first.out_channels) if min(patch) >= first.out_channels else (0, 0)


def why_no_matrices(network: SegmentationNetwork, patch: tuple[int, ...]) -> str:
    """Why a network that has channel attention shows none; empty where it does, or has none."""
    if not isinstance(network, SelfGuidedAttention) or channel_matrices(network, patch)[0]:
        return ""
    size: int = network.fuse[0].out_channels  # type: ignore[assignment]
    return (
        f"channel attention is not shown: its matrices are {size}x{size}, and a patch of "
        f"{'x'.join(map(str, patch))} is smaller"
    )


def maps_and_matrices(network: SegmentationNetwork, image: Tensor, with_matrices: bool) -> tuple[Tensor, Tensor]:
    """Logits (N, K, *spatial), and maps (N, A + M, *spatial): the last M hold a matrix each in their first corner."""
    logits, maps = network.forward_attention(image)
    if not with_matrices:
        return logits, maps
    matrices = network.attention(image).channel  # type: ignore[operator]
    size = matrices.shape[-1]
    padded = F.pad(matrices, (0, image.shape[3] - size, 0, image.shape[2] - size))
    return logits, torch.cat((maps, padded), 1)


class WithMatrices(SegmentationNetwork):
    """A network whose maps are followed by its channel attention's matrices: what an eager session runs.

    Attributes:
        matrices: how many there are.
    """

    def __init__(self, network: SegmentationNetwork, patch: tuple[int, ...]) -> None:
        count, _ = channel_matrices(network, patch)
        names = (*network.attention_names, *(f"channel_{scale}" for scale in range(1, count + 1)))
        super().__init__(network.stride, names, network.minimum)
        self.network, self.matrices = network, count

    def forward(self, image: Tensor) -> Tensor:
        """Logits (N, K, *spatial)."""
        return self.network(image)

    def forward_attention(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """The same logits, the maps and the matrices."""
        return maps_and_matrices(self.network, image, self.matrices > 0)


class Exported(nn.Module):
    """The same for an exporter: its forward returns both. The network's modules keep the paths that exports give."""

    def __init__(self, network: SegmentationNetwork, matrices: int) -> None:
        super().__init__()
        self.network, self.matrices = network, matrices

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """(N, C, *spatial) -> (N, K, *spatial), (N, A + M, *spatial)."""
        return maps_and_matrices(self.network, image, self.matrices > 0)
