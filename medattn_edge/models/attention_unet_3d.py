"""The official 3-D Attention U-Net with deep supervision (Oktay et al. 2018, arXiv:1804.03999; Schlemper et al. 2019).

`multi_att_dsv` is the released CT configuration. The four deep-supervision heads feed the output.
"""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medattn_edge.models.blocks import (
    ACTIVATIONS,
    NORM_EPS,
    conv,
    conv_norm,
    double_conv,
    is_eps,
    max_pool,
    resize_like,
    restyle,
)
from medattn_edge.models.network import (
    Candidates,
    Config,
    GatedNetwork,
    Layout,
    Network,
    Shapes,
    TrainingOutputs,
)
from medattn_edge.spec import Intensity

_SCALES = (1, 2, 4, 8, 16)
GATE_FUNCTIONS = ("relu_sigmoid", "softplus_sigmoid", "relu_softmax")


class GridGate(nn.Module):
    """The article's gate: coefficients on the grid of a strided theta, resized to the skip's.

    a = sigmoid(psi(ReLU(theta(x) + resize(phi(g))))); the output is BN(W(a * x)). With strided=False theta keeps the
    skip's grid, the simplified form of the article's figure. function: one of GATE_FUNCTIONS; the published code calls
    the other two concatenation_debug (softplus for ReLU) and concatenation_residual (a softmax over the grid for the
    sigmoid).
    """

    def __init__(
        self,
        skip: int,
        gating: int,
        *,
        strided: bool = True,
        align_corners: bool = False,
        function: str = GATE_FUNCTIONS[0],
    ) -> None:
        super().__init__()
        self.softplus, self.softmax = {
            "relu_sigmoid": (False, False),
            "softplus_sigmoid": (True, False),
            "relu_softmax": (False, True),
        }[function]
        step = 2 if strided else 1
        self.theta = nn.Conv3d(skip, skip, step, stride=step, bias=False)
        self.phi = nn.Conv3d(gating, skip, 1)
        self.psi = nn.Conv3d(skip, 1, 1)
        self.output = conv_norm(3, skip, skip, 1)
        self.align_corners = align_corners

    def forward(self, skip: Tensor, gating: Tensor) -> tuple[Tensor, Tensor]:
        """(N, C, D, H, W), (N, Cg, d, h, w) -> gated (N, C, D, H, W), coefficients (N, 1, D, H, W)."""
        theta = self.theta(skip)
        phi = resize_like(self.phi(gating), theta, self.align_corners)
        energy = self.psi(F.softplus(theta + phi) if self.softplus else torch.relu(theta + phi))
        if self.softmax:
            weights = torch.softmax(energy.flatten(2), dim=2).reshape(energy.shape)
        else:
            weights = torch.sigmoid(energy)
        coefficients = resize_like(weights, skip, self.align_corners)
        return self.output(skip * coefficients), coefficients


class GateGroup(nn.Module):
    """One or two parallel gates, combined by a 1x1x1 convolution + BN + ReLU."""

    def __init__(self, gates: list[GridGate], channels: int) -> None:
        super().__init__()
        self.gates = nn.ModuleList(gates)
        self.combine = conv_norm(3, len(gates) * channels, channels, 1, nn.ReLU(inplace=True))

    def forward(self, skip: Tensor, gating: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The combined gated skip (N, C, D, H, W) and every gate's coefficients."""
        gated: list[Tensor] = []
        maps: list[Tensor] = []
        for gate in self.gates:
            one, coefficients = gate(skip, gating)
            gated.append(one)
            maps.append(coefficients)
        return self.combine(torch.cat(gated, 1)), maps


class NoGate(nn.Module):
    """No gate: the skip as it is."""

    def forward(self, skip: Tensor, gating: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The skip itself and no maps."""
        maps: list[Tensor] = []
        return skip, maps


class AttentionUNet3d(GatedNetwork):
    """Five levels; levels 4, 3 and 2 gated by the centre, the level-4 and the level-3 decoder map."""

    gates_per_level: ClassVar[dict[str, int]] = {"none": 0, "single": 1, "multi": 2}

    def __init__(self, config: Config, in_channels: int, outputs: int) -> None:
        align, count = config["align_corners"], self.gates_per_level[config["gates"]]
        suffixes = ("_a", "_b") if count == 2 else ("",) * count
        super().__init__((16, 16, 16), tuple(f"gate_{level}{suffix}" for level in (4, 3, 2) for suffix in suffixes))
        f = [config["width"] * scale for scale in _SCALES]
        self.encoder = nn.ModuleList([double_conv(3, a, b) for a, b in zip([in_channels, *f], f, strict=False)])
        self.pool = max_pool(3)
        self.gating = conv_norm(3, f[4], f[4], 1, nn.ReLU(inplace=True)) if count else nn.Identity()

        def gate(level: int) -> nn.Module:
            gates = [
                GridGate(
                    f[level],
                    f[level + 1],
                    strided=config["strided_theta"],
                    align_corners=align,
                    function=config["gate_function"],
                )
                for _ in range(count)
            ]
            return GateGroup(gates, f[level]) if gates else NoGate()

        self.gate4, self.gate3, self.gate2 = gate(3), gate(2), gate(1)
        self.up = nn.Upsample(scale_factor=2.0, mode="trilinear", align_corners=align)
        self.decoder4, self.decoder3, self.decoder2, self.decoder1 = (
            double_conv(3, f[level] + f[level + 1], f[level]) for level in (3, 2, 1, 0)
        )
        self.head4, self.head3, self.head2 = (
            nn.Sequential(
                conv(3, f[level], outputs, 1),
                nn.Upsample(scale_factor=float(2**level), mode="trilinear", align_corners=align),
            )
            for level in (3, 2, 1)
        )
        self.head1 = conv(3, f[0], outputs, 1)
        self.final = conv(3, 4 * outputs, outputs, 1)
        restyle(self, config["norm_eps"], config["activation"])

    def training_outputs(self, image: Tensor) -> TrainingOutputs:
        """The logits and the four deep-supervision heads."""
        sides, _ = self._sides(image)
        return TrainingOutputs(self.final(torch.cat(sides, 1)), tuple(sides))

    def _decode(self, image: Tensor) -> tuple[Tensor, list[Tensor]]:
        sides, maps = self._sides(image)
        return self.final(torch.cat(sides, 1)), maps

    def _sides(self, image: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """The four heads' logits at full resolution, level 1 first, and the gates' coefficients."""
        x = image
        skips: list[Tensor] = []
        for index, block in enumerate(self.encoder):
            x = block(self.pool(x) if index > 0 else x)
            skips.append(x)
        gated4, maps4 = self.gate4(skips[3], self.gating(x))
        up4 = self.decoder4(torch.cat((gated4, self.up(x)), 1))
        gated3, maps3 = self.gate3(skips[2], up4)
        up3 = self.decoder3(torch.cat((gated3, self.up(up4)), 1))
        gated2, maps2 = self.gate2(skips[1], up3)
        up2 = self.decoder2(torch.cat((gated2, self.up(up3)), 1))
        up1 = self.decoder1(torch.cat((skips[0], self.up(up2)), 1))
        return [self.head1(up1), self.head2(up2), self.head3(up3), self.head4(up4)], maps4 + maps3 + maps2


# What the files of both official 3-D networks leave open.
OPEN_DEFAULTS = {
    "align_corners": False,
    "gate_function": GATE_FUNCTIONS[0],
    "activation": ACTIVATIONS[0],
    "norm_eps": NORM_EPS[0],
}


def open_settings(settings: Config) -> Candidates:
    """Files of the time of torch 0.3 were trained with align_corners; without gates nothing is gated."""
    gates = {} if settings.get("gates") == "none" else {"gate_function": GATE_FUNCTIONS}
    return {"align_corners": (False, True), **gates, "activation": ACTIVATIONS, "norm_eps": NORM_EPS}


def encoder_modules() -> dict[str, str]:
    """Published module path -> ours, of the parts that every official 3-D form has."""
    modules = {"final": "final"}
    names = [("conv1", 0), ("conv2", 1), ("conv3", 2), ("conv4", 3), ("center", 4)]
    blocks = [(theirs, f"encoder.{level}") for theirs, level in names]
    blocks += [(f"up_concat{level}.conv", f"decoder{level}") for level in (4, 3, 2, 1)]
    for theirs, ours in blocks:
        modules |= {
            f"{theirs}.conv1.0": f"{ours}.0",
            f"{theirs}.conv1.1": f"{ours}.1",
            f"{theirs}.conv2.0": f"{ours}.3",
            f"{theirs}.conv2.1": f"{ours}.4",
        }
    return modules


def gate_modules(theirs: str, ours: str) -> dict[str, str]:
    """Published module path -> ours, of one gate."""
    return {f"{theirs}.{name}": f"{ours}.{name}" for name in ("theta", "phi", "psi")} | {
        f"{theirs}.W": f"{ours}.output"
    }


def _modules(config: Config) -> dict[str, str]:
    modules = encoder_modules() | {"dsv1": "head1", "gating.conv1": "gating"}
    modules |= {f"dsv{level}.dsv": f"head{level}" for level in (2, 3, 4)}
    for level in (2, 3, 4):
        for index in range(AttentionUNet3d.gates_per_level[config["gates"]]):
            modules |= gate_modules(f"attentionblock{level}.gate_block_{index + 1}", f"gate{level}.gates.{index}")
        modules[f"attentionblock{level}.combine_gates"] = f"gate{level}.combine"
    return modules


def _layout(name: str, gates: str, *, present: str, absent: str) -> Layout:
    def config(shapes: Shapes) -> Config:
        theta = shapes.get("attentionblock2.gate_block_1.theta.weight", (0, 0, 2, 2, 2))
        return {"width": shapes["conv1.conv1.0.weight"][0], "gates": gates, "strided_theta": theta[2] == 2}

    return Layout(
        name=name,
        source="ozan-oktay/Attention-Gated-Networks",
        signature=lambda shapes: present in shapes and absent not in shapes and "dsv1.weight" in shapes,
        config=config,
        modules=_modules,
        first=("encoder.0.0.weight",),
        last=("final.weight",),
        usual={"gates": gates},
    )


NETWORK = Network(
    name="attention-unet-3d",
    title="Attention U-Net, official 3-D with deep supervision",
    build=AttentionUNet3d,
    settings={"width": 16, "gates": "multi", "strided_theta": True, **OPEN_DEFAULTS},
    open_settings=open_settings,
    accepts={"norm_eps": is_eps},
    patch=(96, 96, 96),
    intensity=Intensity.parse("zscore"),
    layouts=(
        _layout("agn_multi_dsv", "multi", present="attentionblock2.gate_block_2.theta.weight", absent="nothing"),
        _layout(
            "agn_single_dsv",
            "single",
            present="attentionblock2.gate_block_1.theta.weight",
            absent="attentionblock2.gate_block_2.theta.weight",
        ),
        _layout("agn_dsv", "none", present="dsv4.dsv.0.weight", absent="attentionblock2.gate_block_1.theta.weight"),
    ),
)
