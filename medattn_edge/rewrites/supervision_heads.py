"""Deep supervision's heads and the last convolution over them as one small convolution per level, and a sum."""

from __future__ import annotations

from typing import Any

from medattn_edge.models.attention_unet_3d import AttentionUNet3d
from medattn_edge.models.network import SegmentationNetwork
from medattn_edge.rewrites.linear import composed, input_parts
from medattn_edge.rewrites.open_unet import Added, Concatenated, open_decoders
from medattn_edge.rewrites.rewrite import Rewrite


def apply(network: SegmentationNetwork) -> list[str]:
    """The official 3-D network. A linear resize's weights sum to 1, so that a bias passes through it."""
    if not isinstance(network, AttentionUNet3d):
        return []
    open_decoders(network)
    if not isinstance(network.final, Concatenated):
        return []
    final = network.final.body
    heads: list[Any] = [network.head1, *(head[0] for head in (network.head2, network.head3, network.head4))]
    parts = input_parts(final, [head.out_channels for head in heads])  # type: ignore[arg-type]
    network.head1, *folded = (composed(part, head) for part, head in zip(parts, heads, strict=True))
    for head, conv in zip((network.head2, network.head3, network.head4), folded, strict=True):
        head[0] = conv
    network.final = Added()
    return ["head1", "head2.0", "head3.0", "head4.0", "final"]


REWRITE = Rewrite(
    name="supervision-heads",
    title="last convolution folded into the deep-supervision heads, which are added",
    source="a 1x1x1 convolution commutes with a resize: one mixes channels, the other positions",
    apply=apply,
)
