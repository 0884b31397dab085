"""The arithmetic and the traffic of a network are counted, and the rewrites save what the identities say."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from medattn_edge.models import build
from medattn_edge.models.flops import gflop
from medattn_edge.models.network import SegmentationNetwork
from medattn_edge.rewrites import rewrite_network
from medattn_edge.rewrites.cost import Cost, cost
from medattn_edge.spec import ModelSpec

ORGANS = ("background", "liver", "spleen", "left kidney", "right kidney")


class Small(SegmentationNetwork):
    """A convolution without padding, a view of it, and an activation in place."""

    def __init__(self):
        super().__init__((1, 1), ())
        self.conv = nn.Conv2d(2, 3, 1)

    def forward(self, image):
        return torch.relu_(self.conv(image).flatten(2).unflatten(2, image.shape[2:]))

    def forward_attention(self, image):
        return self(image), image[:, :0]


def test_every_operator_reads_and_writes_and_a_view_does_not():
    spec = ModelSpec("self-guided", 2, ("background", "a", "b"), (4, 5), (1, 1))
    reads, writes = 2 * 20 + 3 * 2 + 3, 3 * 20
    activation = 2 * 3 * 20
    assert cost(Small().double(), spec) == Cost(2 * 2 * 3 * 20 / 1e9, 4 * (reads + writes + activation) / 1e6)


@pytest.mark.parametrize("form", ["self-guided", "attention-unet-monai-3d", "attention-unet-grid"], indirect=True)
def test_the_arithmetic_is_what_an_export_reports(form, network):
    spec = form.spec(network)
    assert cost(network, spec).gflop == gflop(network, spec)


def saved(spec):
    """Rewrite -> GFLOP saved, for what is always good; and the GFLOP before and after."""
    network = build(spec)
    rewritten = rewrite_network(network, spec=spec)
    return (
        {one.name: one.gflop_saved for one in rewritten.plan},
        cost(network, spec).gflop,
        cost(rewritten.network, spec).gflop,
    )


def test_the_published_2d_unet_loses_a_sixth_of_its_arithmetic():
    spec = ModelSpec("attention-unet-2d", 3, ("background", "organ"), (256, 256), (16, 16), outputs=1)
    by_rewrite, before, after = saved(spec)
    assert before == pytest.approx(132.85, rel=1e-4)
    assert after == pytest.approx(111.38, rel=1e-4)
    assert by_rewrite["nearest-upsampling"] == pytest.approx(before - after)


@pytest.mark.slow
def test_the_published_self_guided_decoder_loses_eleven_gflop():
    spec = ModelSpec("self-guided", 1, ORGANS, (256, 256), (8, 8), config={"backbone": "resnext101_32x8d"})
    by_rewrite, before, after = saved(spec)
    assert before - after == pytest.approx(11.2743, abs=1e-3)
    assert (before, after) == (pytest.approx(216.885, rel=1e-4), pytest.approx(205.601, rel=1e-4))
    hw, width = 64 * 64, 64
    assert by_rewrite["shared-halves"] * 1e9 == pytest.approx(3 * 2 * 9 * width * 4 * width * hw)
    assert by_rewrite["linear-heads"] * 1e9 == pytest.approx(4 * 2 * width * width * hw)
    assert by_rewrite["transposed-convolution"] == pytest.approx(7.516, abs=1e-3)


@pytest.mark.slow
def test_the_official_3d_unet_loses_its_gates_outputs_and_its_last_layer():
    spec = ModelSpec("attention-unet-3d", 1, ORGANS[:4], (96, 96, 96), (16, 16, 16))
    by_rewrite, before, after = saved(spec)
    voxels = {level: (96 // 2 ** (level - 1)) ** 3 for level in (1, 2, 3, 4)}
    gates = sum(2 * 2 * (16 * 2 ** (level - 1)) ** 2 * voxels[level] for level in (2, 3, 4))
    assert by_rewrite["gate-outputs"] * 1e9 == pytest.approx(gates)
    assert by_rewrite["supervision-heads"] * 1e9 == pytest.approx(2 * 16 * 4 * voxels[1])
    assert before - after == pytest.approx(sum(by_rewrite.values()))
