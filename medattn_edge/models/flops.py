"""How much arithmetic a network does: the one count that manifests, rewrites and benchmarks have."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from medattn_edge.spec import ModelSpec


def gflop(network: nn.Module, spec: ModelSpec) -> float:
    """2 x multiply-adds of convolutions and matrix products of one patch, in 1e9; nothing is computed."""
    return counted(imagined(network, spec))


def counted(run: Callable[[], None]) -> float:
    """2 x multiply-adds of the convolutions and matrix products that a function calls, in 1e9."""
    with FlopCounterMode(display=False) as counter:
        run()
    return float(counter.get_total_flops()) / 1e9


def imagined(network: nn.Module, spec: ModelSpec) -> Callable[[], None]:
    """A function that runs the network on one patch of the spec, with tensors that have sizes and no numbers."""
    # A copy, whose tensors are taken from the memo: torch's functional_call leaves them in a module with two names.
    ghosts: dict[int, Any] = {id(one): nn.Parameter(_ghost(one), one.requires_grad) for one in network.parameters()}
    ghosts |= {id(one): _ghost(one) for one in network.buffers()}
    ghost = copy.deepcopy(network, ghosts)
    image = torch.empty(1, spec.in_channels, *spec.patch, device="meta")

    def run() -> None:
        # no_grad, not inference_mode: under the latter a counter sees composite operators, which it does not know.
        with torch.no_grad():
            ghost(image)

    return run


def _ghost(tensor: Tensor) -> Tensor:
    # FP32, as the image: of a copy in FP64 the arithmetic is the same.
    dtype = torch.float32 if tensor.is_floating_point() else tensor.dtype
    return torch.empty(tensor.shape, dtype=dtype, device="meta")
