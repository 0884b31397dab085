"""What only a loss looks at, taken out."""

from __future__ import annotations

from torch import nn

from medattn_edge.models.network import SegmentationNetwork
from medattn_edge.models.self_guided_attention import SelfGuidedAttention
from medattn_edge.rewrites.open_guided import open_network
from medattn_edge.rewrites.rewrite import Rewrite


def apply(network: SegmentationNetwork) -> list[str]:
    """The self-guided network's heads on the backbone's features. Deep supervision's heads feed the output and stay."""
    if not isinstance(network, SelfGuidedAttention) or len(network.side_heads) == 0:
        return []
    touched = [f"side_heads.{index}" for index in range(len(network.side_heads))]
    network.side_heads = nn.ModuleList()
    open_network(network)
    return touched


REWRITE = Rewrite(
    name="training-parts",
    title="heads that only the loss looks at, removed",
    source="Sinha and Dolz 2020, arXiv:1906.02849: the prediction is the mean of the second step's heads",
    apply=apply,
)
