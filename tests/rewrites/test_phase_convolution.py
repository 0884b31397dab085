"""Upsampling by two and a 3x3 convolution are one transposed convolution, up to the last pixel of every border."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from medattn_edge.rewrites.upsampling import PhaseConvolution, ShuffledConvolution, after_nearest, is_doubling

SIZES = [(1, 1), (1, 4), (2, 2), (3, 5), (5, 3), (4, 4), (7, 6)]


@pytest.fixture
def pair():
    """A 2x2 transposed convolution of stride 2, 5 to 4 channels, and a 3x3 convolution, 4 to 3, with large biases."""
    torch.manual_seed(3)
    layers = nn.ConvTranspose2d(5, 4, 2, stride=2).double(), nn.Conv2d(4, 3, 3, padding=1).double()
    with torch.no_grad():
        for layer in layers:
            layer.bias.uniform_(1, 2)
    return layers


def x_of(size, channels):
    return torch.randn(2, channels, *size, generator=torch.Generator().manual_seed(4), dtype=torch.float64)


@pytest.mark.parametrize("size", SIZES)
@torch.no_grad()
def test_two_layers_are_one_and_its_bias_knows_the_border(pair, size):
    up, conv = pair
    x = x_of(size, 5)
    wanted = conv(up(x))
    joined = PhaseConvolution(up, conv)
    torch.testing.assert_close(joined(x), wanted, rtol=1e-12, atol=1e-12)
    joined.edges.copy_(joined.edges[:, :, 1:2, 1:2].expand_as(joined.edges))
    wrong = (joined(x) - wanted).abs().amax((0, 1)) > 0.1
    assert wrong[0].all()
    assert wrong[-1].all()
    assert wrong[:, 0].all()
    assert wrong[:, -1].all()
    assert not wrong[1:-1, 1:-1].any()


@pytest.mark.parametrize("size", SIZES)
@torch.no_grad()
def test_a_convolution_after_nearest_upsampling_needs_no_other_bias(pair, size):
    _, conv = pair
    x = x_of(size, 4)
    wanted = conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
    torch.testing.assert_close(after_nearest(conv)(x), wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("size", SIZES)
@torch.no_grad()
def test_a_pixel_shuffle_is_the_same_transposed_convolution(pair, size):
    doubling = after_nearest(pair[1])
    assert is_doubling(doubling)
    x = x_of(size, 4)
    torch.testing.assert_close(ShuffledConvolution(doubling)(x), doubling(x), rtol=1e-12, atol=1e-12)
    joined = PhaseConvolution(*pair)
    x = x_of(size, 5)
    wanted = joined(x)
    joined.expand = ShuffledConvolution(joined.expand)
    torch.testing.assert_close(joined(x), wanted, rtol=1e-12, atol=1e-12)


@torch.no_grad()
def test_layers_without_bias_are_joined_too():
    up, conv = nn.ConvTranspose2d(2, 3, 2, stride=2, bias=False), nn.Conv2d(3, 4, 3, padding=1, bias=False)
    x = x_of((3, 4), 2).float()
    torch.testing.assert_close(PhaseConvolution(up, conv)(x), conv(up(x)), rtol=1e-5, atol=1e-6)
    assert after_nearest(conv).bias is None


def test_the_smaller_form_does_four_ninths_of_the_work(pair):
    from torch.utils.flop_counter import FlopCounterMode

    def flops(layer, x):
        with FlopCounterMode(display=False) as counter:
            layer(x)
        return counter.get_total_flops()

    conv, x = pair[1], x_of((6, 6), 4)
    large = flops(conv, F.interpolate(x, scale_factor=2.0))
    assert flops(after_nearest(conv), x) * 9 == large * 4
    assert flops(ShuffledConvolution(after_nearest(conv)), x) * 9 * 36 == large * 4 * 49
