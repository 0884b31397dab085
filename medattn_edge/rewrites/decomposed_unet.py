"""Attention U-Nets decomposed: every concatenation is a module of its own, which the rewrites may exchange."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from medattn_edge.errors import UsageError
from medattn_edge.models.attention_unet_3d import AttentionUNet3d, GateGroup
from medattn_edge.models.attention_unet_grid import GridAttentionUNet
from medattn_edge.models.gated_unet import DecoderLevel
from medattn_edge.models.network import TrainingOutputs
from medattn_edge.rewrites.linear import input_parts


class ConvolutionOfConcatenation(nn.Module):
    """body(cat(parts)).

    Args:
        body: a convolution, or modules in a row that start with one.
        sizes: the parts' channels.
    """

    def __init__(self, body: nn.Module, sizes: Sequence[int]) -> None:
        super().__init__()
        self.body, self.sizes = body, tuple(sizes)

    def forward(self, parts: list[Tensor]) -> Tensor:
        """Maps of one size, (N, Ci, *spatial) each."""
        return self.body(torch.cat(parts, 1))  # type: ignore[no-any-return]


class SumOfMaps(nn.Module):
    """The sum of the parts."""

    def forward(self, parts: list[Tensor]) -> Tensor:
        """Maps of one shape."""
        return sum_of(parts)


class SumOfConvolutions(nn.Module):
    """The same of a body that starts with a convolution: the sum of its parts' convolutions, nothing concatenated."""

    def __init__(self, body: nn.Sequential, sizes: Sequence[int]) -> None:
        super().__init__()
        conv, *rest = body
        self.convs = nn.ModuleList(input_parts(conv, sizes))  # type: ignore[arg-type]
        self.rest = nn.Sequential(*rest)

    def forward(self, parts: list[Tensor]) -> Tensor:
        """Maps of one size, (N, Ci, *spatial) each."""
        return self.rest(sum_of([conv(parts[index]) for index, conv in enumerate(self.convs)]))  # type: ignore[no-any-return]


def sum_of(parts: list[Tensor]) -> Tensor:
    """The sum of maps of one shape."""
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


class DecomposedLevel(DecoderLevel):
    """A DecoderLevel whose `merge` takes a list."""

    def __init__(self, level: DecoderLevel) -> None:
        super().__init__(level.up, level.gate, _skip_and_up(level.merge))

    def forward(self, below: Tensor, skip: Tensor) -> tuple[Tensor, Tensor]:
        """The level's features (N, C, *s) and its gate's coefficients (N, 1, *s)."""
        up = self.up(below)
        gated, coefficients = self.gate(skip, up)
        return self.merge([gated, up]), coefficients


class DecomposedGates(GateGroup):
    """A GateGroup whose `combine` takes a list."""

    def __init__(self, group: GateGroup) -> None:
        nn.Module.__init__(self)
        self.gates = group.gates
        channels = group.combine[0].out_channels
        self.join: nn.Module = ConvolutionOfConcatenation(group.combine, [channels] * len(group.gates))  # type: ignore[list-item]

    def forward(self, skip: Tensor, gating: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The combined gated skip (N, C, D, H, W) and every gate's coefficients."""
        gated: list[Tensor] = []
        maps: list[Tensor] = []
        for gate in self.gates:
            one, coefficients = gate(skip, gating)
            gated.append(one)
            maps.append(coefficients)
        return self.join(gated), maps


class DecomposedUNet3d(AttentionUNet3d):
    """The same network; its decoders and its last layer take lists."""

    def training_outputs(self, image: Tensor) -> TrainingOutputs:
        """Refused: raises UsageError."""
        raise UsageError(
            "a rewritten network cannot be trained",
            expected="the network that it was made from",
            hint="load the checkpoint again",
        )

    def _decode(self, image: Tensor) -> tuple[Tensor, list[Tensor]]:
        sides, maps = self._sides(image)
        return self.final(sides), maps

    def _sides(self, image: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """The four heads' answers at full resolution, level 1 first, and the gates' coefficients."""
        x = image
        skips: list[Tensor] = []
        for index, block in enumerate(self.encoder):
            x = block(self.pool(x) if index > 0 else x)
            skips.append(x)
        gated4, maps4 = self.gate4(skips[3], self.gating(x))
        up4 = self.decoder4([gated4, self.up(x)])
        gated3, maps3 = self.gate3(skips[2], up4)
        up3 = self.decoder3([gated3, self.up(up4)])
        gated2, maps2 = self.gate2(skips[1], up3)
        up2 = self.decoder2([gated2, self.up(up3)])
        up1 = self.decoder1([skips[0], self.up(up2)])
        return [self.head1(up1), self.head2(up2), self.head3(up3), self.head4(up4)], maps4 + maps3 + maps2


class DecomposedGridUNet(GridAttentionUNet):
    """The same network; its decoders take lists."""

    def _decode(self, image: Tensor) -> tuple[Tensor, list[Tensor]]:
        x = image
        skips: list[Tensor] = []
        for index, block in enumerate(self.encoder):
            x = block(self.pool(x) if index > 0 else x)
            skips.append(x)
        gating = self.gating(x)
        gated4, map4 = self.gate4(skips[3], gating)
        gated3, map3 = self.gate3(skips[2], gating)
        gated2, map2 = self.gate2(skips[1], gating)
        x = self.decoder4([gated4, self.up(x)])
        x = self.decoder3([gated3, self.up(x)])
        x = self.decoder2([gated2, self.up(x)])
        x = self.decoder1([skips[0], self.up(x)])
        return self.final(x), [map4, map3, map2]


def decompose_decoders(network: AttentionUNet3d | GridAttentionUNet) -> None:
    """Give a network, in place, the class whose decoders take lists, where it has it not."""
    if isinstance(network, DecomposedUNet3d | DecomposedGridUNet):
        return
    for name in ("decoder4", "decoder3", "decoder2", "decoder1"):
        setattr(network, name, _skip_and_up(getattr(network, name)))
    if isinstance(network, AttentionUNet3d):
        final = network.final
        network.final = ConvolutionOfConcatenation(final, [final.out_channels] * 4)  # type: ignore[list-item]
        network.__class__ = DecomposedUNet3d
    else:
        network.__class__ = DecomposedGridUNet


def _skip_and_up(merge: nn.Module) -> ConvolutionOfConcatenation:
    """A decoder's convolutions, the first of which returns as many channels as the skip has."""
    conv = merge[0]  # type: ignore[index]
    return ConvolutionOfConcatenation(merge, [conv.out_channels, conv.in_channels - conv.out_channels])
