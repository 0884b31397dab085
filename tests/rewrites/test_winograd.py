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
from medattn_edge.rewrites import defaults, fuse, winograd, winograd_convolution
from medattn_edge.rewrites.winograd_convolution import WinogradConvolution, pays

SAME = 1e-10


@pytest.fixture
def always(monkeypatch):
    """Every 3x3 convolution, at every size."""
    monkeypatch.setattr(winograd, "LEAST_CHANNELS", 1)
    monkeypatch.setattr(winograd_convolution, "pays", lambda *sizes: True)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(2, 5, 16, 16), (1, 3, 13, 10), (3, 8, 1, 5), (1, 1, 4, 4), (1, 2, 7, 64)])
@torch.inference_mode()
def test_it_is_the_convolution_at_every_size(always, shape, bias, distance):
    generator = torch.Generator().manual_seed(3)
    conv = nn.Conv2d(shape[1], 6, 3, padding=1, bias=bias).double()
    image = torch.randn(shape, generator=generator, dtype=torch.float64)
    assert distance(WinogradConvolution(conv)(image), conv(image)) <= 1e-12


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
    assert pays(channels, outputs, size, size) == worth
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
def test_every_2d_network_is_the_same_function(always, form, build_form, image, distance):
    network = build_form(form).double()
    fused = fuse(network, defaults("openvino", form.size))
    (made,) = [one for one in fused.plan if one.name == "winograd"]
    assert len(made.sites) > 10
    for size in (form.size, form.other):
        one = image(form, size)
        logits, maps = network.forward_attention(one)
        found, again = fused.network.forward_attention(one)
        assert distance(found, logits) <= SAME
        assert distance(again, maps) <= SAME


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("form", ["attention-unet-2d"], indirect=True)
@pytest.mark.parametrize("batch", [1, pytest.param(None, marks=pytest.mark.slow)])
def test_the_exported_graph_has_matrix_products_for_convolutions(
    form, network, batch, tmp_path, image, distance, spec_of
):
    import onnxruntime

    spec = spec_of(form, network)
    fused = fuse(network, defaults("openvino", form.size))
    (made,) = [one for one in fused.plan if one.name == "winograd"]
    written = write(fused.network, spec, ExportSettings(batch=batch), tmp_path / "network.onnx")
    assert written.operators["MatMul"] == 4 * len(made.sites)  # and no transform is computed when it runs
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


def test_a_second_time_there_is_nothing_to_do_and_the_plan_says_fp32_only(always):
    network = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1, stride=2), nn.Conv2d(4, 4, 1))
    assert winograd.apply(network) == ["0"]
    assert winograd.apply(network) == []
    assert winograd.REWRITE.fp32_only


@pytest.mark.parametrize("form", ["attention-unet-2d"], indirect=True)
def test_where_the_patch_is_known_what_does_not_pay_is_not_in_the_plan(form, network, monkeypatch, spec_of):
    spec = spec_of(form, network)
    fused = fuse(network, ("winograd",), spec)
    assert fused.plan == ()
    assert not [one for one in fused.network.modules() if isinstance(one, WinogradConvolution)]
    sizes: list[int] = []
    monkeypatch.setattr(winograd, "LEAST_CHANNELS", 1)
    monkeypatch.setattr(winograd_convolution, "pays", lambda channels, outputs, height, width: height >= 16)
    fused = fuse(network, ("winograd",), spec)
    made = [one for one in fused.network.modules() if isinstance(one, WinogradConvolution)]
    for one in made:
        one.register_forward_pre_hook(lambda module, inputs: sizes.append(inputs[0].shape[2]))
    fused.network(torch.rand(1, form.channels, *form.size))
    assert len(fused.plan[0].sites) == len(made) == len(sizes) > 0
    assert min(sizes) >= 16
    assert fused.plan[0].to_json()["fp32_only"] is True
