"""The last two 1x1 convolutions of every scale, with nothing between them, as one."""

from __future__ import annotations

from torch import nn

from medattn_edge.models.network import SegmentationNetwork
from medattn_edge.models.self_guided_attention import SelfGuidedAttention
from medattn_edge.rewrites.linear import composed
from medattn_edge.rewrites.rewrite import Rewrite


def apply(network: SegmentationNetwork) -> list[str]:
    """head(refine(x)) of the second step. The network itself takes the mean of the heads before it resizes."""
    touched: list[str] = []
    if not isinstance(network, SelfGuidedAttention):
        return touched
    for index, scale in enumerate(network.step2.scales):
        refine, head = scale.refine, network.heads[index]
        if isinstance(refine, nn.Conv2d) and isinstance(head, nn.Conv2d):
            network.heads[index] = composed(head, refine)
            scale.refine = nn.Identity()
            touched += [f"step2.scales.{index}.refine", f"heads.{index}"]
    return touched


REWRITE = Rewrite(
    name="linear-heads",
    title="refinement and head of a scale as one 1x1 convolution",
    source="B (A x + a) + b = (B A) x + (B a + b)",
    apply=apply,
)
