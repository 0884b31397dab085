"""Channel attention with its gain and its residual inside the small matrix."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from medattn_edge.models.attention import ChannelAttention
from medattn_edge.models.network import SegmentationNetwork
from medattn_edge.rewrites.rewrite import Rewrite, sites


class FoldedChannelAttention(ChannelAttention):
    """(gamma A + I) X, A = softmax(rowmax(E) - E) or softmax(E).

    rowmax(E) - E keeps the exponential from overflowing. It stays also because OpenVINO takes softmax(-E) X for another
    attention, and answers wrongly.
    """

    def __init__(self, attention: ChannelAttention, channels: int) -> None:
        nn.Module.__init__(self)
        self.inverted, self.gamma = attention.inverted, attention.gamma
        self.register_buffer("identity", torch.eye(channels).to(attention.gamma))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, h, w) -> the same shape."""
        mixing = self.gamma * self.weights(x) + self.identity  # type: ignore[operator]
        return torch.matmul(mixing, x.flatten(2)).reshape(x.shape)


def apply(network: SegmentationNetwork) -> list[str]:
    """Two passes over the whole map less; the matrix has the size of the channels."""
    touched = []
    for path, attention in sites(network, ChannelAttention):
        layer = network.get_submodule(path.rpartition(".")[0])
        folded = FoldedChannelAttention(attention, layer.restore[0].in_channels)  # type: ignore[union-attr, index]
        network.set_submodule(path, folded)
        touched.append(path)
    return touched


REWRITE = Rewrite(
    name="channel-attention",
    title="channel attention's gain and residual folded into its matrix",
    source="gamma * A X + X = (gamma A + I) X",
    apply=apply,
)
