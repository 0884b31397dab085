"""A U-Net whose skip connections pass an additive attention gate driven by the upsampled decoder map.

The form of Oktay et al. 2018 (arXiv:1804.03999) that the 2-D implementations and MONAI share; they differ in how
they go down, go up and merge.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from medattn_edge.models.blocks import conv_norm
from medattn_edge.models.network import GatedNetwork


class AdditiveGate(nn.Module):
    """Attention coefficients in (0, 1) per voxel: sigmoid(BN(psi(ReLU(BN(W_g g) + BN(W_x x))))), times x."""

    def __init__(self, dims: int, channels: int, intermediate: int) -> None:
        super().__init__()
        self.gating = conv_norm(dims, channels, intermediate, 1)
        self.skip = conv_norm(dims, channels, intermediate, 1)
        self.psi = conv_norm(dims, intermediate, 1, 1, nn.Sigmoid())

    def forward(self, skip: Tensor, gating: Tensor) -> tuple[Tensor, Tensor]:
        """(N, C, *s), (N, C, *s) -> gated (N, C, *s), coefficients (N, 1, *s)."""
        coefficients = self.psi(torch.relu(self.gating(gating) + self.skip(skip)))
        return skip * coefficients, coefficients


class DecoderLevel(nn.Module):
    """Up, gate the skip, concatenate, merge."""

    def __init__(self, up: nn.Module, gate: nn.Module, merge: nn.Module) -> None:
        super().__init__()
        self.up, self.gate, self.merge = up, gate, merge

    def forward(self, below: Tensor, skip: Tensor) -> tuple[Tensor, Tensor]:
        """The level's features (N, C, *s) and its gate's coefficients (N, 1, *s)."""
        up = self.up(below)
        gated, coefficients = self.gate(skip, up)
        return self.merge(torch.cat((gated, up), 1)), coefficients


class GatedUNet(GatedNetwork):
    """encoder: from the image downwards, each with its own downsampling. decoder: from the bottom upwards.

    stride: by what all levels together divide every axis; 2 for each level, if not given.
    """

    def __init__(
        self,
        dims: int,
        encoder: list[nn.Module],
        decoder: list[DecoderLevel],
        head: nn.Module,
        stride: tuple[int, ...] | None = None,
    ) -> None:
        levels = range(len(decoder), 0, -1)
        super().__init__(stride or (2 ** len(decoder),) * dims, tuple(f"gate_{level}" for level in levels))
        self.encoder, self.decoder, self.head = nn.ModuleList(encoder), nn.ModuleList(decoder), head

    def _decode(self, image: Tensor) -> tuple[Tensor, list[Tensor]]:
        x = image
        skips: list[Tensor] = []
        for block in self.encoder:
            x = block(x)
            skips.append(x)
        maps: list[Tensor] = []
        skips.pop()
        for level in self.decoder:
            x, coefficients = level(x, skips.pop())
            maps.append(coefficients)
        return self.head(x), maps
