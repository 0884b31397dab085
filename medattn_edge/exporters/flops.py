"""How much arithmetic a network does."""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from medattn_edge.spec import ModelSpec


def gflop(network: nn.Module, spec: ModelSpec) -> float:
    """2 x multiply-adds of convolutions and matrix products of one patch, in 1e9; nothing is computed."""
    ghost = copy.deepcopy(network).to("meta")
    image = torch.empty(1, spec.in_channels, *spec.patch, device="meta")
    # no_grad, not inference_mode: under the latter the counter sees composite operators, which it does not know.
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        ghost(image)
    return float(counter.get_total_flops()) / 1e9
