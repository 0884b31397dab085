"""Position attention's three projections as one convolution."""

from __future__ import annotations

from torch import Tensor, nn

from medattn_edge.models.network import SegmentationNetwork
from medattn_edge.rewrites.linear import merged_outputs
from medattn_edge.rewrites.position_attention import SeparateProjections, folded_attentions
from medattn_edge.rewrites.rewrite import Rewrite


class MergedProjections(nn.Module):
    """One convolution and a split of its channels."""

    def __init__(self, apart: SeparateProjections) -> None:
        super().__init__()
        convs = (apart.query, apart.key, apart.value)
        self.conv = merged_outputs(convs)
        self.sizes = [conv.out_channels for conv in convs]

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(N, C, h, w) -> query, key and value maps."""
        query, key, value = self.conv(x).split(self.sizes, 1)
        return query, key, value


def apply(network: SegmentationNetwork) -> list[str]:
    """Not in OpenVINO, where a split of channels is slow."""
    touched = []
    for path, attention in folded_attentions(network):
        if isinstance(attention.project, SeparateProjections):
            attention.project = MergedProjections(attention.project)
            touched.append(path)
    return touched


REWRITE = Rewrite(
    name="position-projections",
    title="query, key and value by one convolution",
    source="convolutions over one input are rows of one matrix",
    apply=apply,
    needs=("position-attention",),
)
