"""Each gate's last 1x1x1 convolution inside the one that combines the gates."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from medattn_edge.models.attention_unet_3d import GateGroup
from medattn_edge.models.network import SegmentationNetwork
from medattn_edge.rewrites.linear import bias_of, composed, input_parts, like
from medattn_edge.rewrites.rewrite import Rewrite, sites


def apply(network: SegmentationNetwork) -> list[str]:
    """The official 3-D network's groups of gates: W and its BatchNorm have no activation behind them."""
    touched = []
    for path, group in sites(network, GateGroup):
        gates: list[Any] = list(group.gates)
        if isinstance(gates[0].output, nn.Identity):
            continue
        outputs = [gate.output[0] for gate in gates]
        combine: Any = group.combine[0]
        parts = input_parts(combine, [output.out_channels for output in outputs])
        both = [composed(part, output) for part, output in zip(parts, outputs, strict=True)]
        bias = torch.stack([bias_of(one) for one in both]).sum(0)
        group.combine[0] = like(combine, torch.cat([one.weight for one in both], 1), bias)
        for gate in gates:
            gate.output = nn.Identity()
        touched.append(path)
    return touched


REWRITE = Rewrite(
    name="gate-outputs",
    title="gates' output convolutions folded into the combining one",
    source="C (cat(A x + a, B y + b)) = (C_1 A) x + (C_2 B) y + (C_1 a + C_2 b)",
    apply=apply,
    needs=("batch-norm",),
)
