"""Two gates of one level side by side: every pair of convolutions over the same input as one."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from medattn_edge.models.attention_unet_3d import GateGroup
from medattn_edge.models.blocks import resize_like
from medattn_edge.models.network import SegmentationNetwork
from medattn_edge.rewrites.linear import bias_of, like, merged_outputs
from medattn_edge.rewrites.open_unet import JoinedGates
from medattn_edge.rewrites.rewrite import Rewrite, sites


class PairedGates(JoinedGates):
    """Both gates' thetas, phis and psis at once; psi's matrix has zeros where a gate does not see the other."""

    def __init__(self, group: JoinedGates) -> None:
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


def apply(network: SegmentationNetwork) -> list[str]:
    """The official 3-D network with two gates per level."""
    touched = []
    groups = [*sites(network, GateGroup), *sites(network, JoinedGates)]
    for path, group in groups:
        if len(group.gates) == 2 and not any(gate.softplus or gate.softmax for gate in group.gates):
            joined = group if isinstance(group, JoinedGates) else JoinedGates(group)
            network.set_submodule(path, PairedGates(joined))
            touched.append(path)
    return touched


REWRITE = Rewrite(
    name="gate-pairs",
    title="two gates' convolutions over the same input merged",
    source="convolutions over one input are rows of one matrix",
    apply=apply,
    after=("batch-norm", "gate-outputs"),
)
