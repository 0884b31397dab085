"""The self-guided network decomposed: the same function, its parts modules that the rewrites may exchange."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from medattn_edge.errors import UsageError
from medattn_edge.models.attention import PositionAttention
from medattn_edge.models.network import TrainingOutputs
from medattn_edge.models.self_guided_attention import (
    AutoencoderBank,
    GuidedScale,
    GuidedStep,
    SelfGuidedAttention,
    SelfGuidedAttentionMaps,
)


class DecomposedSelfGuided(SelfGuidedAttention):
    """The same network with decomposed scales, some of whose parts only inference understands."""

    def attention(self, image: Tensor) -> SelfGuidedAttentionMaps:
        """The maps of the second step at their own resolution, channel attention included."""
        _, inputs, reconstructions = self._steps(*self._features(image))
        scales: list[Any] = list(self.step2.scales)
        return SelfGuidedAttentionMaps(
            torch.cat([scale.received(x) for scale, x in zip(scales, inputs, strict=True)], 1),
            torch.stack([scale.channel_weights(x) for scale, x in zip(scales, inputs, strict=True)], 1),
            torch.cat([s.response(x, y) for s, x, y in zip(scales, inputs, reconstructions, strict=True)], 1),
        )

    def training_outputs(self, image: Tensor) -> TrainingOutputs:
        """Refused: raises UsageError."""
        raise UsageError(
            "a rewritten network cannot be trained",
            expected="the network that it was made from",
            hint="load the checkpoint again",
        )


class DecomposedPositionAttention(PositionAttention):
    """Position attention that says how much each position receives."""

    def __init__(self, attention: PositionAttention) -> None:
        nn.Module.__init__(self)
        self.query, self.key, self.value = attention.query, attention.key, attention.value
        self.gamma = attention.gamma


class SameInput(nn.Module):
    """Both attentions start from the scale's input."""

    def forward(self, x: Tensor) -> list[Tensor]:
        """x twice."""
        return [x, x]


class DecomposedScale(GuidedScale):
    """A scale whose attentions start from what `first` makes of its input: [position's, channel's, ...]."""

    def __init__(self, scale: GuidedScale) -> None:
        nn.Module.__init__(self)
        self.first: nn.Module = SameInput()
        self.position, self.channel = scale.position, scale.channel
        if type(self.position.attention) is PositionAttention:
            self.position.attention = DecomposedPositionAttention(self.position.attention)
        self.semantic, self.refine = scale.semantic, scale.refine

    def guided(self, x: Tensor, reconstruction: Tensor) -> Tensor:
        """(CAM + PAM) * semantic, (N, w, h, w)."""
        return self.joined(self.first(x), reconstruction)

    def joined(self, parts: list[Tensor], reconstruction: Tensor) -> Tensor:
        """The same, after `first`."""
        attended = self.channel(parts[1]) + self.position(parts[0])
        return attended * self.semantic(reconstruction)  # type: ignore[no-any-return]

    def received(self, x: Tensor) -> Tensor:
        """(N, 1, h, w): the attention that each position receives from all others, 1 is average."""
        reduced = self.position.reduce(self.first(x)[0])
        return self.position.attention.received(reduced).reshape(  # type: ignore
            x.shape[0], 1, x.shape[2], x.shape[3]
        )

    def channel_weights(self, x: Tensor) -> Tensor:
        """(N, w, w): the channel attention's weights."""
        return self.channel.weights(self.first(x)[1])


class FirstConvolutions(nn.Module):
    """The autoencoders' first convolutions: one for all inputs, or one for each; as one batch if `batched`."""

    def __init__(self, convs: Sequence[nn.Module]) -> None:
        super().__init__()
        self.convs = nn.ModuleList(convs)
        self.batched = False

    def forward(self, inputs: list[Tensor]) -> list[Tensor]:
        """The hidden maps of every input, in one tensor (4 N, C, h, w) when batched."""
        if self.batched:
            inputs = [torch.cat(inputs, 0)]
        hidden: list[Tensor] = []
        shared = len(self.convs) == 1
        for index, conv in enumerate(self.convs):
            for x in inputs if shared else inputs[index : index + 1]:
                hidden.append(conv(x))
        return hidden


class DecomposedAutoencoders(AutoencoderBank):
    """Autoencoders without their first convolution, which is `first`; as one batch if `batched`."""

    def __init__(self, bank: AutoencoderBank) -> None:
        nn.Module.__init__(self)
        self.first: nn.Module = FirstConvolutions([_without_first(member) for member in bank.members])
        self.members = bank.members
        self.batched = False

    def forward(self, inputs: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """The codes and the reconstructions of the scales' inputs."""
        return self.rest(self.first(inputs))

    def rest(self, hidden: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """The same, after `first`."""
        if self.batched and len(hidden) > 1:
            hidden = [torch.cat(hidden, 0)]
        codes: list[Tensor] = []
        reconstructions: list[Tensor] = []
        shared = len(self.members) == 1
        for index, member in enumerate(self.members):
            for x in hidden if shared else hidden[index : index + 1]:
                code, reconstruction = member(x)
                codes.append(code)
                reconstructions.append(reconstruction)
        if self.batched:
            return by_scale(codes[0]), by_scale(reconstructions[0])
        return codes, reconstructions


class DecomposedStep(GuidedStep):
    """A step whose scales' `first` also makes the autoencoders' first hidden maps, as their third part."""

    def __init__(self, step: GuidedStep) -> None:
        nn.Module.__init__(self)
        self.autoencoders, self.scales = step.autoencoders, step.scales

    def forward(self, inputs: list[Tensor]) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Refined features, codes and reconstructions, each of the four scales."""
        parts: list[list[Tensor]] = []
        hidden: list[Tensor] = []
        for index, scale in enumerate(self.scales):
            parts.append(scale.first(inputs[index]))  # type: ignore[operator]
            hidden.append(parts[index][2])
        codes, reconstructions = self.autoencoders.rest(hidden)  # type: ignore[operator]
        refined: list[Tensor] = []
        for index, scale in enumerate(self.scales):
            refined.append(scale.refine(scale.joined(parts[index], reconstructions[index])))  # type: ignore[operator]
        return refined, codes, reconstructions


def _without_first(member: Any) -> nn.Module:
    """Take an autoencoder's first convolution out of it."""
    first: nn.Module = member.encode1[0]
    member.encode1 = member.encode1[1:]
    return first


def by_scale(x: Tensor) -> list[Tensor]:
    """(4 N, C, h, w) -> four maps (N, C, h, w)."""
    return list(x.reshape(4, -1, x.shape[1], x.shape[2], x.shape[3]).unbind(0))


def decompose_guided(network: SelfGuidedAttention) -> None:
    """Decompose a network and its scales, in place, where they were not."""
    network.__class__ = DecomposedSelfGuided
    for step in (network.step1, network.step2):
        for index, scale in enumerate(step.scales):
            if not isinstance(scale, DecomposedScale):
                step.scales[index] = DecomposedScale(scale)  # type: ignore[arg-type]


def decompose_autoencoders(step: GuidedStep) -> DecomposedAutoencoders:
    """The step's autoencoders, decomposed in place where they were not."""
    if not isinstance(step.autoencoders, DecomposedAutoencoders):
        step.autoencoders = DecomposedAutoencoders(step.autoencoders)
    return step.autoencoders
