"""Position attention by torch's scaled_dot_product_attention."""

from __future__ import annotations

from medattn_edge.models.network import SegmentationNetwork
from medattn_edge.rewrites.position_attention import folded_attentions
from medattn_edge.rewrites.rewrite import Rewrite


def apply(network: SegmentationNetwork) -> list[str]:
    """One operator, whose kernel each device chooses; exported to ONNX it is written out again."""
    touched = [(path, attention) for path, attention in folded_attentions(network) if attention.form != "sdpa"]
    for _, attention in touched:
        attention.choose("sdpa")
    return [path for path, _ in touched]


REWRITE = Rewrite(
    name="position-sdpa",
    title="position attention by scaled_dot_product_attention, scale 1",
    source="Dao et al. 2022, arXiv:2205.14135: exact attention without its matrix, where a device has the kernel",
    apply=apply,
    needs=("position-attention",),
)
