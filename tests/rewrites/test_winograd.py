"""Winograd's algorithm is the convolution: exactly in FP64, nearly in FP32, and only where it is less work."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from medattn_edge.backends.torch.deprecations import torchscript_is_deprecated
from medattn_edge.exporters import ExportSettings
from medattn_edge.exporters.onnx import write
from medattn_edge.rewrites import defaults, rewrite_network
from medattn_edge.rewrites.winograd import WINOGRAD, WinogradConvolution, apply_at, apply_winograd, is_cheaper
from tests.support.forms import build_form

SAME = 1e-10


def always(channels: int, outputs: int, height: int, width: int) -> bool:
    """At every size."""
    return True


def rewritten_everywhere(network, size):
    """OpenVINO's default rewrites, with every 3x3 convolution by the algorithm; and how many those are."""
    names = [name for name in defaults("openvino", size) if name != WINOGRAD.name]
    rewritten = rewrite_network(network, names).network
    return rewritten, len(apply_winograd(rewritten, 1, always))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(2, 5, 16, 16), (1, 3, 13, 10), (3, 8, 1, 5), (1, 1, 4, 4), (1, 2, 7, 64)])
@torch.inference_mode()
def test_it_is_the_convolution_at_every_size(shape, bias, distance):
    generator = torch.Generator().manual_seed(3)
    conv = nn.Conv2d(shape[1], 6, 3, padding=1, bias=bias).double()
    image = torch.randn(shape, generator=generator, dtype=torch.float64)
    assert distance(WinogradConvolution(conv, always)(image), conv(image)) <= 1e-12


@torch.inference_mode()
def test_in_fp32_a_wide_convolution_keeps_115_db():
    generator = torch.Generator().manual_seed(4)
    conv = nn.Conv2d(256, 256, 3, padding=1)
    image = torch.relu(torch.randn((1, 256, 64, 64), generator=generator))
    found = WinogradConvolution(conv)(image).double()
    wanted = conv.double()(image.double())
    assert 10 * torch.log10(wanted.square().sum() / (found - wanted).square().sum()) > 115


@pytest.mark.parametrize(
    ("channels", "outputs", "size", "worth"),
    [
        (256, 256, 64, True),
        (512, 512, 32, True),
        (256, 512, 32, True),
        (64, 64, 64, False),  # the transforms
        (64, 64, 256, False),
        (1024, 1024, 16, False),  # the weights
        (128, 128, 256, False),
    ],
)
def test_it_is_taken_where_it_is_less_work_and_the_arithmetic_is_less(channels, outputs, size, worth):
    assert is_cheaper(channels, outputs, size, size) == worth
    with torch.device("meta"):
        conv, image = nn.Conv2d(channels, outputs, 3, padding=1), torch.empty(1, channels, size, size)
    made = WinogradConvolution(nn.Conv2d(1, 1, 3, padding=1)).to("meta")
    made.direct, made.outputs = conv, outputs
    made.products = nn.Parameter(torch.empty(36, channels, outputs, device="meta"), requires_grad=False)
    with FlopCounterMode(display=False) as plain:
        conv(image)
    with FlopCounterMode(display=False) as counted:
        assert made(image).shape == (1, outputs, size, size)
    assert (counted.get_total_flops() < 0.6 * plain.get_total_flops()) == worth


@pytest.mark.parametrize(
    "form",
    ["self-guided", pytest.param("self-guided-article", marks=pytest.mark.slow), "attention-unet-2d"],
    indirect=True,
)
@torch.inference_mode()
def test_every_2d_network_is_the_same_function(form, image, distance):
    network = build_form(form).double()
    rewritten, count = rewritten_everywhere(network, form.size)
    assert count > 10
    for size in (form.size, form.other):
        one = image(form, size)
        logits, maps = network.forward_attention(one)
        found, again = rewritten.forward_attention(one)
        assert distance(found, logits) <= SAME
        assert distance(again, maps) <= SAME


@pytest.mark.parametrize("form", ["attention-unet-2d"], indirect=True)
@pytest.mark.parametrize("batch", [1, pytest.param(None, marks=pytest.mark.slow)])
def test_the_exported_graph_has_matrix_products_for_convolutions(form, network, batch, tmp_path, image, distance):
    import onnxruntime

    spec = form.spec(network)
    rewritten, count = rewritten_everywhere(network, form.size)
    written = write(rewritten, spec, ExportSettings(batch=batch), tmp_path / "network.onnx")
    assert written.operators["MatMul"] == 4 * count  # and no transform is computed when it runs
    assert not {"Range", "Where", "Gather", "Clip"} & set(written.operators)
    session = onnxruntime.InferenceSession(tmp_path / "network.onnx", providers=["CPUExecutionProvider"])
    one = image(form, form.size, torch.float32, batch=batch or 3)
    (found,) = session.run(None, {"image": one.numpy()})
    with torch.inference_mode():
        assert distance(torch.from_numpy(np.array(found)), network(one)) <= 1e-4


@torch.inference_mode()
def test_a_compiled_one_answers_at_every_size(distance):
    conv = nn.Conv2d(256, 256, 3, padding=1)
    made = WinogradConvolution(conv).eval()
    with torchscript_is_deprecated():
        programs = torch.jit.script(made), torch.jit.trace(made, torch.rand(1, 256, 64, 64), check_trace=False)
    for size in (64, 60, 8):
        image = torch.rand(2, 256, size, size)
        for program in programs:
            assert distance(program(image), conv(image)) <= 1e-4


def test_a_second_time_there_is_nothing_to_do_and_the_plan_says_fp32_only():
    network = nn.Sequential(
        nn.Conv2d(128, 128, 3, padding=1), nn.Conv2d(128, 128, 3, padding=1, stride=2), nn.Conv2d(128, 128, 1)
    )
    rewritten = rewrite_network(network, (WINOGRAD.name,))
    assert [(step.sites, step.to_json()["fp32_only"]) for step in rewritten.plan] == [(("0",), True)]
    assert rewrite_network(rewritten.network, (WINOGRAD.name,)).plan == ()


def test_narrow_convolutions_stay_as_they_are():
    network = nn.Sequential(nn.Conv2d(127, 128, 3, padding=1), nn.Conv2d(128, 127, 3, padding=1))
    assert apply_winograd(network) == []
    assert apply_winograd(network, 127) == ["0", "1"]


@pytest.mark.parametrize("form", ["attention-unet-2d"], indirect=True)
def test_where_the_patch_is_known_what_does_not_pay_stays_direct(form, network):
    spec = form.spec(network)
    rewritten = rewrite_network(network, (WINOGRAD.name,), spec)
    assert rewritten.plan == ()
    assert not [one for one in rewritten.network.modules() if isinstance(one, WinogradConvolution)]
    sizes: list[int] = []
    other = rewritten.network
    paths = apply_at(other, spec, 1, lambda channels, outputs, height, width: height >= 16)
    replaced = [one for one in other.modules() if isinstance(one, WinogradConvolution)]
    for one in replaced:
        one.register_forward_pre_hook(lambda module, inputs: sizes.append(inputs[0].shape[2]))
    other(torch.rand(1, form.channels, *form.size))
    assert len(paths) == len(replaced) == len(sizes) > 0
    assert min(sizes) >= 16
