"""Position attention in blocks of queries."""

from __future__ import annotations

from medattn_edge.models.network import SegmentationNetwork
from medattn_edge.rewrites.position_attention import folded_attentions
from medattn_edge.rewrites.rewrite import Rewrite


def apply(network: SegmentationNetwork) -> list[str]:
    """An exported graph has one MatMul, Softmax, MatMul per block of the patch; the number of blocks is fixed there."""
    touched = [(path, attention) for path, attention in folded_attentions(network) if attention.form != "blocked"]
    for _, attention in touched:
        attention.choose("blocked")
    return [path for path, _ in touched]


REWRITE = Rewrite(
    name="position-blocks",
    title="position attention a block of queries at a time",
    source="Rabe and Staats 2021, arXiv:2112.05682: a softmax row needs no other row",
    apply=apply,
    needs=("position-attention",),
    excludes=("position-sdpa",),
)
