"""Convolutions over a concatenation as a sum of convolutions: the concatenation, often the largest tensor, is gone."""

from __future__ import annotations

from torch import nn

from medattn_edge.models.attention_unet_3d import AttentionUNet3d, GateGroup
from medattn_edge.models.attention_unet_grid import GridAttentionUNet
from medattn_edge.models.gated_unet import DecoderLevel
from medattn_edge.models.network import SegmentationNetwork
from medattn_edge.rewrites.open_unet import Concatenated, JoinedGates, JoinedLevel, Summed, open_decoders
from medattn_edge.rewrites.rewrite import Rewrite, sites


def apply(network: SegmentationNetwork) -> list[str]:
    """Decoders, and groups of several gates. Where three layers read the concatenation, as in the self-guided network,
    their three sums would be larger than it is.
    """
    for path, level in sites(network, DecoderLevel):
        network.set_submodule(path, JoinedLevel(level))
    for path, group in sites(network, GateGroup):
        if len(group.gates) > 1:
            network.set_submodule(path, JoinedGates(group))
    if isinstance(network, AttentionUNet3d | GridAttentionUNet):
        open_decoders(network)
    touched = []
    for path, joint in sites(network, Concatenated):
        body = joint.body if isinstance(joint.body, nn.Sequential) else nn.Sequential(joint.body)
        network.set_submodule(path, Summed(body, joint.sizes))
        touched.append(path)
    return touched


REWRITE = Rewrite(
    name="concat-sums",
    title="convolutions over a concatenation as a sum of convolutions",
    source="conv(cat(a, b)) = conv_a(a) + conv_b(b)",
    apply=apply,
    after=("batch-norm", "gate-outputs", "gate-pairs", "supervision-heads"),
)
