"""The first convolutions of a scale's attentions and of its autoencoder, which read one input, as one convolution."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from medattn_edge.models.network import SegmentationNetwork
from medattn_edge.models.self_guided_attention import GuidedStep, SelfGuidedAttention
from medattn_edge.rewrites.linear import merged_outputs
from medattn_edge.rewrites.open_guided import OpenStep, OwnFirst, open_bank, open_network
from medattn_edge.rewrites.rewrite import Rewrite


class MergedFirst(nn.Module):
    """Several convolutions with their activations over one input: one convolution, one slope per channel, a split."""

    def __init__(self, convs: Sequence[nn.Conv2d], activations: Sequence[nn.Module]) -> None:
        super().__init__()
        self.sizes = [conv.out_channels for conv in convs]
        self.conv = merged_outputs(convs)
        slopes = [_slope(one, size) for one, size in zip(activations, self.sizes, strict=True)]
        self.activation = nn.PReLU(sum(self.sizes))
        self.activation.weight = nn.Parameter(torch.cat(slopes).to(self.conv.weight), requires_grad=False)

    def forward(self, x: Tensor) -> list[Tensor]:
        """(N, C, h, w) -> what each convolution and its activation make of it."""
        return list(self.activation(self.conv(x)).split(self.sizes, 1))


class HiddenMaps(nn.Module):
    """What the autoencoders are given has been through their first convolutions."""

    def forward(self, inputs: list[Tensor]) -> list[Tensor]:
        """The same list."""
        return inputs


def apply(network: SegmentationNetwork) -> list[str]:
    """Every scale of both steps. Where the autoencoder convolves shared halves, only the two attentions are merged."""
    touched: list[str] = []
    if not isinstance(network, SelfGuidedAttention):
        return touched
    open_network(network)
    for name in ("step1", "step2"):
        step = getattr(network, name)
        if isinstance(step.scales[0].position.reduce, nn.Identity):
            continue
        firsts = _take_from_autoencoders(step)
        for index, scale in enumerate(step.scales):
            layers = (scale.position, scale.channel)
            convs: list[Any] = [layer.reduce[0] for layer in layers]
            activations = [layer.reduce[2] for layer in layers]
            if firsts:
                convs.append(firsts[index % len(firsts)])
                activations.append(nn.ReLU())
            scale.first = MergedFirst(convs, activations)
            for layer in layers:
                layer.reduce = nn.Identity()
            touched.append(f"{name}.scales.{index}")
        if firsts:
            setattr(network, name, OpenStep(step))
            touched.append(f"{name}.autoencoders")
    return touched


def _take_from_autoencoders(step: GuidedStep) -> list[Any]:
    """The autoencoders' first convolutions, they and their ReLU taken out; none when they are not whole any more."""
    bank = open_bank(step)
    if not isinstance(bank.first, OwnFirst):
        return []
    convs = list(bank.first.convs)
    bank.first = HiddenMaps()
    for member in bank.members:
        member.encode1 = member.encode1[2:]  # type: ignore[index]
    return convs


def _slope(activation: nn.Module, channels: int) -> Tensor:
    """The slope below zero of a ReLU, a LeakyReLU or a PReLU, for each channel."""
    if isinstance(activation, nn.PReLU):
        return activation.weight.expand(channels)
    return torch.full((channels,), activation.negative_slope if isinstance(activation, nn.LeakyReLU) else 0.0).double()


REWRITE = Rewrite(
    name="attention-inputs",
    title="first convolutions of the attentions and the autoencoder merged",
    source="convolutions over one input are rows of one matrix",
    apply=apply,
    needs=("batch-norm",),
    after=("shared-halves", "scalar-prelu"),
)
