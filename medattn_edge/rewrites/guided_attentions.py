"""The self-guided network's attentions: channel attention folded into its matrix, first convolutions merged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from medattn_edge.models.attention import ChannelAttention
from medattn_edge.models.network import SegmentationNetwork
from medattn_edge.models.self_guided_attention import AttentionLayer, GuidedStep, SelfGuidedAttention
from medattn_edge.rewrites.decomposed_guided import (
    DecomposedStep,
    FirstConvolutions,
    decompose_autoencoders,
    decompose_guided,
)
from medattn_edge.rewrites.linear import merged_outputs
from medattn_edge.rewrites.record import Rewrite, sites


class FoldedChannelAttention(ChannelAttention):
    """(gamma A + I) X, A = softmax(rowmax(E) - E) or softmax(E).

    rowmax(E) - E keeps the exponential from overflowing. It stays also because OpenVINO takes softmax(-E) X for another
    attention, and answers wrongly.
    """

    def __init__(self, attention: ChannelAttention, channels: int) -> None:
        nn.Module.__init__(self)
        self.inverted, self.gamma = attention.inverted, attention.gamma
        self.register_buffer("identity", torch.eye(channels).to(attention.gamma))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, h, w) -> the same shape."""
        mixing = self.gamma * self.weights(x) + self.identity  # type: ignore[operator]
        return torch.matmul(mixing, x.flatten(2)).reshape(x.shape)


def fold_channel_attentions(network: SegmentationNetwork) -> list[str]:
    """Two passes over the whole map less; the matrix has the size of the channels."""
    paths = []
    for path, attention in sites(network, ChannelAttention):
        layer = network.get_submodule(path.rpartition(".")[0])
        if not isinstance(layer, AttentionLayer):  # in a network of somebody's own: its channels are not known here
            continue
        folded = FoldedChannelAttention(attention, layer.restore[0].in_channels)  # type: ignore[arg-type]
        network.set_submodule(path, folded)
        paths.append(path)
    return paths


CHANNEL_ATTENTION = Rewrite(
    name="channel-attention",
    title="channel attention's gain and residual folded into its matrix",
    source="gamma * A X + X = (gamma A + I) X",
    apply=fold_channel_attentions,
)


class MergedFirstConvolutions(nn.Module):
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


class FirstConvolutionsDone(nn.Module):
    """What the autoencoders are given has been through their first convolutions."""

    def forward(self, inputs: list[Tensor]) -> list[Tensor]:
        """The same list."""
        return inputs


def merge_first_convolutions(network: SegmentationNetwork) -> list[str]:
    """Every scale of both steps. Where the autoencoder convolves shared halves, only the two attentions are merged."""
    paths: list[str] = []
    if not isinstance(network, SelfGuidedAttention):
        return paths
    decompose_guided(network)
    for name in ("step1", "step2"):
        step = getattr(network, name)
        if isinstance(step.scales[0].position.reduce, nn.Identity):
            continue
        firsts = _take_first_convolutions(step)
        for index, scale in enumerate(step.scales):
            layers = (scale.position, scale.channel)
            convs: list[Any] = [layer.reduce[0] for layer in layers]
            activations = [layer.reduce[2] for layer in layers]
            if firsts:
                convs.append(firsts[index % len(firsts)])
                activations.append(nn.ReLU())
            scale.first = MergedFirstConvolutions(convs, activations)
            for layer in layers:
                layer.reduce = nn.Identity()
            paths.append(f"{name}.scales.{index}")
        if firsts:
            setattr(network, name, DecomposedStep(step))
            paths.append(f"{name}.autoencoders")
    return paths


def _take_first_convolutions(step: GuidedStep) -> list[Any]:
    """The autoencoders' first convolutions, they and their ReLU taken out; none when they are not whole any more."""
    bank = decompose_autoencoders(step)
    if not isinstance(bank.first, FirstConvolutions):
        return []
    convs = list(bank.first.convs)
    bank.first = FirstConvolutionsDone()
    for member in bank.members:
        member.encode1 = member.encode1[2:]  # type: ignore[index]
    return convs


def _slope(activation: nn.Module, channels: int) -> Tensor:
    """The slope below zero of a ReLU, a LeakyReLU or a PReLU, for each channel."""
    if isinstance(activation, nn.PReLU):
        return activation.weight.expand(channels)
    return torch.full((channels,), activation.negative_slope if isinstance(activation, nn.LeakyReLU) else 0.0).double()


ATTENTION_INPUTS = Rewrite(
    name="attention-inputs",
    title="first convolutions of the attentions and the autoencoder merged",
    source="convolutions over one input are rows of one matrix",
    apply=merge_first_convolutions,
    needs=("batch-norm",),
    after=("shared-halves", "scalar-prelu"),
)

REWRITES = (
    CHANNEL_ATTENTION,
    ATTENTION_INPUTS,
)
