"""Position and channel attention (Fu et al. 2019, DANet, arXiv:1809.02983) as the self-guided network uses them."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

# Queries at a time. On AVX-512 the answer is the plain form's, bit for bit, wherever 256 divides the positions, and
# within 1.2e-7 of its largest value elsewhere. In one thread the plain form takes 1.6 times as long at 2304 positions,
# 1.9 times at 4096, 1.7 times at 16384; 64 and 128 rows are no faster, and round differently. The products in the other
# order, weights first, are faster still and never the same bits: they are for what is deployed, not for the reference.
ROWS = 256
MAX_AT_ONCE = 1024  # positions; the whole matrix of so few is 4 MiB, and blocks are no faster


class PositionAttention(nn.Module):
    """gamma * softmax over keys(q^T k) v + x, without scaling; q and k have an eighth of the channels.

    On a CPU, in evaluation and without gradients, ROWS queries are computed at a time: the memory grows with hw instead
    of its square. What is trained, scripted, traced, exported or compiled is the plain form.

    Args:
        channels: C.
    """

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
        if torch.jit.is_scripting():  # type: ignore[attr-defined]
            mixed = torch.matmul(value, self.weights(x).transpose(1, 2))
        else:
            mixed = self._mixed(value, x)
        return self.gamma * mixed.reshape(x.shape) + x

    def weights(self, x: Tensor) -> Tensor:
        """(N, hw, hw): row i says which positions position i looks at; rows sum to 1."""
        query, key = self.query(x).flatten(2), self.key(x).flatten(2)
        return torch.softmax(torch.matmul(query.transpose(1, 2), key), dim=2)

    def received(self, x: Tensor) -> Tensor:
        """(N, hw): the attention that each position receives from all others."""
        if torch.jit.is_scripting():  # type: ignore[attr-defined]
            return self.weights(x).sum(1)
        else:  # noqa: RET505 - TorchScript leaves out this branch, and only where it is one
            if self._at_once(x):
                return self.weights(x).sum(1)
            total = x.new_zeros(x.shape[0], x.shape[2] * x.shape[3])
            for _, block in self._blocks(x):
                total += block.sum(1)
            return total

    def _mixed(self, value: Tensor, x: Tensor) -> Tensor:
        if self._at_once(x):
            return torch.matmul(value, self.weights(x).transpose(1, 2))
        # Written in its place: small answers kept between the large blocks would hold on to the holes that those leave.
        mixed = torch.empty_like(value)
        for rows, block in self._blocks(x):
            mixed[:, :, rows] = torch.matmul(value, block.transpose(1, 2))
        return mixed

    def _blocks(self, x: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """Which rows of the weights, and these, (N, ROWS, hw) at a time."""
        query, key = self.query(x).flatten(2).transpose(1, 2), self.key(x).flatten(2)
        for start in range(0, query.shape[1], ROWS):
            rows = slice(start, start + ROWS)
            yield rows, torch.softmax(torch.matmul(query[:, rows], key), dim=2)

    def _at_once(self, x: Tensor) -> bool:
        """Whether the whole matrix is computed: where a graph or gradient is recorded, or blocks gain nothing."""
        recorded = torch.is_grad_enabled() or torch.jit.is_tracing() or torch.compiler.is_compiling()  # type: ignore
        return self.training or recorded or not x.is_cpu or x.shape[2] * x.shape[3] <= MAX_AT_ONCE


class ChannelAttention(nn.Module):
    """gamma * A X + x with the energy E = X X^T of X (C x hw).

    Args:
        energy: `inverted`, A = softmax(rowmax(E) - E), as the published code does; `direct`, A = softmax(E), as the
            article writes it.
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
