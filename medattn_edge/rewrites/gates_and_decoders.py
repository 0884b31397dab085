"""The Attention U-Nets' gates and decoders: convolutions folded, merged, and taken apart at a concatenation."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from medattn_edge.models.attention_unet_3d import AttentionUNet3d, GateGroup
from medattn_edge.models.attention_unet_grid import GridAttentionUNet
from medattn_edge.models.blocks import resize_like
from medattn_edge.models.gated_unet import DecoderLevel
from medattn_edge.models.network import SegmentationNetwork
from medattn_edge.rewrites.decomposed_unet import (
    ConvolutionOfConcatenation,
    DecomposedGates,
    DecomposedLevel,
    SumOfConvolutions,
    decompose_decoders,
)
from medattn_edge.rewrites.linear import bias_of, composed, input_parts, like, merged_outputs
from medattn_edge.rewrites.record import Rewrite, sites


def fold_gate_outputs(network: SegmentationNetwork) -> list[str]:
    """The official 3-D network's groups of gates: W and its BatchNorm have no activation behind them."""
    paths = []
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
        paths.append(path)
    return paths


GATE_OUTPUTS = Rewrite(
    name="gate-outputs",
    title="gates' output convolutions folded into the combining one",
    source="C (cat(A x + a, B y + b)) = (C_1 A) x + (C_2 B) y + (C_1 a + C_2 b)",
    apply=fold_gate_outputs,
    needs=("batch-norm",),
)


class PairedGates(DecomposedGates):
    """Both gates' thetas, phis and psis at once; psi's matrix has zeros where a gate does not see the other."""

    def __init__(self, group: DecomposedGates) -> None:
        nn.Module.__init__(self)
        self.join = group.join
        gates: list[Any] = list(group.gates)
        self.theta: nn.Module = merged_outputs([gate.theta for gate in gates])
        self.phi: nn.Module = merged_outputs([gate.phi for gate in gates])
        weight = torch.block_diag(*(gate.psi.weight.flatten(1) for gate in gates))  # type: ignore[no-untyped-call]
        bias = torch.cat([bias_of(gate.psi) for gate in gates])
        self.psi: nn.Module = like(gates[0].psi, weight[:, :, None, None, None], bias)
        self.outputs = nn.ModuleList([gate.output for gate in gates])
        self.align_corners: bool = gates[0].align_corners

    def forward(self, skip: Tensor, gating: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The combined gated skip (N, C, D, H, W) and both gates' coefficients."""
        theta = self.theta(skip)
        phi = resize_like(self.phi(gating), theta, self.align_corners)
        both = resize_like(torch.sigmoid(self.psi(torch.relu(theta + phi))), skip, self.align_corners)
        maps = [both[:, 0:1], both[:, 1:2]]
        gated: list[Tensor] = []
        for index, output in enumerate(self.outputs):
            gated.append(output(skip * maps[index]))
        return self.join(gated), maps


def merge_gate_pairs(network: SegmentationNetwork) -> list[str]:
    """The official 3-D network with two gates per level."""
    paths = []
    groups = [*sites(network, GateGroup), *sites(network, DecomposedGates)]
    for path, group in groups:
        if len(group.gates) == 2 and not any(gate.softplus or gate.softmax for gate in group.gates):
            joined = group if isinstance(group, DecomposedGates) else DecomposedGates(group)
            network.set_submodule(path, PairedGates(joined))
            paths.append(path)
    return paths


GATE_PAIRS = Rewrite(
    name="gate-pairs",
    title="two gates' convolutions over the same input merged",
    source="convolutions over one input are rows of one matrix",
    apply=merge_gate_pairs,
    after=("batch-norm", "gate-outputs"),
)


def replace_concatenations(network: SegmentationNetwork) -> list[str]:
    """Decoders, and groups of several gates.

    Where three layers read the concatenation, as in the self-guided network, their three sums would be larger than it.
    """
    for path, level in sites(network, DecoderLevel):
        network.set_submodule(path, DecomposedLevel(level))
    for path, group in sites(network, GateGroup):
        if len(group.gates) > 1:
            network.set_submodule(path, DecomposedGates(group))
    if isinstance(network, AttentionUNet3d | GridAttentionUNet):
        decompose_decoders(network)
    paths = []
    for path, joint in sites(network, ConvolutionOfConcatenation):
        body = joint.body if isinstance(joint.body, nn.Sequential) else nn.Sequential(joint.body)
        network.set_submodule(path, SumOfConvolutions(body, joint.sizes))
        paths.append(path)
    return paths


CONCAT_SUMS = Rewrite(
    name="concat-sums",
    title="convolutions over a concatenation as a sum of convolutions",
    source="conv(cat(a, b)) = conv_a(a) + conv_b(b)",
    apply=replace_concatenations,
    after=("batch-norm", "gate-outputs", "gate-pairs", "supervision-heads"),
)

REWRITES = (
    GATE_OUTPUTS,
    GATE_PAIRS,
    CONCAT_SUMS,
)
