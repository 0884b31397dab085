"""Half of the first step's autoencoder input is the same at every scale: it is convolved once."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from medattn_edge.models.network import SegmentationNetwork
from medattn_edge.models.self_guided_attention import SelfGuidedAttention
from medattn_edge.rewrites.linear import input_parts
from medattn_edge.rewrites.open_guided import OpenBank, OwnFirst, open_bank
from medattn_edge.rewrites.rewrite import Rewrite


class SharedFirst(nn.Module):
    """conv(cat(own, common)) = conv_own(own) + conv_common(common), the second computed once; see OwnFirst."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.split = conv.in_channels // 2
        self.own, self.common = input_parts(conv, [self.split, conv.in_channels - self.split])
        self.batched = False

    def forward(self, inputs: list[Tensor]) -> list[Tensor]:
        """The hidden maps of inputs (N, C, h, w) that share their second half of channels."""
        common = self.common(inputs[0][:, self.split :])
        own = [x[:, : self.split] for x in inputs]
        if self.batched:
            hidden = self.own(torch.cat(own, 0))
            scales = hidden.reshape(len(own), -1, hidden.shape[1], hidden.shape[2], hidden.shape[3])
            return [(scales + common).reshape(hidden.shape)]
        return [self.own(x) + common for x in own]


def apply(network: SegmentationNetwork) -> list[str]:
    """The first step of the self-guided network, when its scales share one autoencoder."""
    if not isinstance(network, SelfGuidedAttention) or len(network.step1.autoencoders.members) != 1:
        return []
    bank = network.step1.autoencoders
    if isinstance(bank, OpenBank) and not isinstance(bank.first, OwnFirst):
        return []
    bank = open_bank(network.step1)
    first = SharedFirst(bank.first.convs[0])  # type: ignore[arg-type, index]
    first.batched = bank.batched
    bank.first = first
    return ["step1.autoencoders"]


REWRITE = Rewrite(
    name="shared-halves",
    title="the half of the first step's autoencoder input that every scale has, convolved once",
    source="conv(cat(a, b)) = conv_a(a) + conv_b(b)",
    apply=apply,
    after=("batch-norm",),
)
