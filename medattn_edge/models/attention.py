"""Position and channel attention (Fu et al. 2019, DANet, arXiv:1809.02983) as the self-guided network uses them."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class PositionAttention(nn.Module):
    """gamma * softmax over keys(q^T k) v + x, without scaling; q and k have an eighth of the channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        reduced = max(1, channels // 8)
        self.query = nn.Conv2d(channels, reduced, 1)
        self.key = nn.Conv2d(channels, reduced, 1)
        self.value = nn.Conv2d(channels, channels, 1)
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, h, w) -> the same shape."""
        value = self.value(x).flatten(2)
        mixed = torch.matmul(value, self.weights(x).transpose(1, 2))
        return self.gamma * mixed.reshape(x.shape) + x

    def weights(self, x: Tensor) -> Tensor:
        """(N, hw, hw): row i says which positions position i looks at; rows sum to 1."""
        query, key = self.query(x).flatten(2), self.key(x).flatten(2)
        return torch.softmax(torch.matmul(query.transpose(1, 2), key), dim=2)


class ChannelAttention(nn.Module):
    """gamma * A X + x with the energy E = X X^T of X (C x hw).

    energy: `inverted`, A = softmax(rowmax(E) - E), as the published code does; `direct`, A = softmax(E), as the article
    writes it.
    """

    def __init__(self, energy: str = "inverted") -> None:
        super().__init__()
        self.inverted = {"inverted": True, "direct": False}[energy]
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, h, w) -> the same shape."""
        mixed = torch.matmul(self.weights(x), x.flatten(2))
        return self.gamma * mixed.reshape(x.shape) + x

    def weights(self, x: Tensor) -> Tensor:
        """(N, C, C): row i says which channels channel i is mixed with; rows sum to 1."""
        flat = x.flatten(2)
        energy = torch.matmul(flat, flat.transpose(1, 2))
        if self.inverted:
            energy = energy.amax(dim=2, keepdim=True) - energy
        return torch.softmax(energy, dim=2)
