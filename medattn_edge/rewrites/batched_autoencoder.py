"""The four scales as one batch of the autoencoder that they share."""

from __future__ import annotations

from medattn_edge.models.network import SegmentationNetwork
from medattn_edge.models.self_guided_attention import SelfGuidedAttention
from medattn_edge.rewrites.open_guided import open_bank
from medattn_edge.rewrites.rewrite import Rewrite


def apply(network: SegmentationNetwork) -> list[str]:
    """Both steps of the self-guided network: a quarter of the operators, each on four times the data."""
    touched: list[str] = []
    if not isinstance(network, SelfGuidedAttention):
        return touched
    for name, step in (("step1", network.step1), ("step2", network.step2)):
        if len(step.autoencoders.members) != 1:
            continue
        bank = open_bank(step)
        if not bank.batched:
            bank.batched = True
            bank.first.batched = True  # type: ignore[assignment]
            touched.append(f"{name}.autoencoders")
    return touched


REWRITE = Rewrite(
    name="batched-autoencoder",
    title="one call of the autoencoder per step, the four scales as its batch",
    source="a convolution sees every sample of a batch alone",
    apply=apply,
    after=("shared-halves", "attention-inputs"),
)
