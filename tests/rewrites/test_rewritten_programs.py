"""A rewritten network can be scripted, traced and exported as the network itself can."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from medattn_edge.backends.torch.deprecations import torchscript_is_deprecated
from medattn_edge.exporters import ExportSettings
from medattn_edge.exporters.onnx import write
from medattn_edge.models.network import WithAttention
from medattn_edge.rewrites import rewrite_network, rewrites
from tests.support.forms import FORMS

pytestmark = pytest.mark.slow

SAME = 1e-5
CHOICES = {
    "good": None,
    "blocked": tuple(name for name in rewrites() if name != "position-sdpa"),
    "by-operator": tuple(name for name in rewrites() if name != "position-blocks"),
}
UNETS = ["attention-unet-2d", "attention-unet-3d-multi", "attention-unet-grid", "attention-unet-monai-2d"]


def check_differs(form, choice):
    """Skip a choice that only differs in position attention, for a network that has none."""
    if choice == "by-operator" and not form.name.startswith("self-guided"):
        pytest.skip("it has no position attention")


@torch.inference_mode()
def check_compiled(form, network, choice, compiler, image, distance):
    """A compiled choice of rewrites answers as the network does, at every size and batch."""
    images = [image(form, form.size, torch.float32), image(form, form.other, torch.float32, batch=3)]
    with_maps = WithAttention(rewrite_network(network, CHOICES[choice]).network).eval()
    with torchscript_is_deprecated():
        if compiler == "script":
            program = torch.jit.freeze(torch.jit.script(with_maps))
        else:
            program = torch.jit.trace(with_maps, images[0], check_trace=False)
    for one in images:
        wanted, wanted_maps = network.forward_attention(one)
        for _ in range(2):
            found, maps = program(one)
        assert distance(found, wanted) <= SAME
        assert distance(maps, wanted_maps) <= 10 * SAME


@pytest.mark.parametrize(
    ("form", "choice"),
    [*((name, "blocked") for name in UNETS), ("self-guided", "good"), ("self-guided", "blocked")],
    indirect=["form"],
)
@pytest.mark.parametrize("compiler", ["script", "trace"])
def test_a_compiled_one_is_the_network_at_every_size_and_batch(form, network, choice, compiler, image, distance):
    check_compiled(form, network, choice, compiler, image, distance)


@pytest.mark.slow
@pytest.mark.parametrize("choice", list(CHOICES))
@pytest.mark.parametrize("compiler", ["script", "trace"])
def test_every_form_is_compiled(form, network, choice, compiler, image, distance):
    check_differs(form, choice)
    check_compiled(form, network, choice, compiler, image, distance)


def check_export(form, network, choice, settings, folder, image, distance):
    """The ONNX file of a choice of rewrites answers as the network does; returns its operators."""
    import onnxruntime

    rewritten = rewrite_network(network, CHOICES[choice]).network
    module = WithAttention(rewritten).eval() if settings.attention else rewritten
    written = write(module, form.spec(network), settings, folder / "network.onnx")
    session = onnxruntime.InferenceSession(folder / "network.onnx", providers=["CPUExecutionProvider"])
    one = image(form, form.size, torch.float32, batch=settings.batch or 3)
    found = [torch.from_numpy(np.array(answer)) for answer in session.run(None, {"image": one.numpy()})]
    with torch.inference_mode():
        wanted = network.forward_attention(one)
    assert distance(found[0], wanted[0]) <= SAME
    if settings.attention:
        assert distance(found[1], wanted[1]) <= 10 * SAME
    return Counter(written.operators)


ANY_BATCH = ExportSettings(batch=None, attention=True)


@pytest.mark.parametrize("form", ["attention-unet-2d"], indirect=True)
def test_an_exported_2d_unet_has_no_resize_and_no_concatenation_left(form, network, tmp_path, image, distance):
    operators = check_export(form, network, "good", ExportSettings(batch=1), tmp_path, image, distance)
    assert operators["Resize"] == operators["Concat"] == operators["BatchNormalization"] == 0
    assert operators["ConvTranspose"] == 4


@pytest.mark.parametrize("form", ["attention-unet-2d"], indirect=True)
def test_the_pixel_shuffles_are_exported_without_scattering(form, network, tmp_path, image, distance):
    operators = check_export(form, network, "blocked", ExportSettings(batch=1), tmp_path, image, distance)
    assert operators["DepthToSpace"] == operators["Slice"] / 2 == 4
    assert operators["ScatterND"] == operators["Transpose"] == 0


@pytest.mark.parametrize("form", ["attention-unet-3d-multi"], indirect=True)
def test_an_exported_3d_unet_takes_any_batch_with_its_maps(form, network, tmp_path, image, distance):
    operators = check_export(form, network, "blocked", ANY_BATCH, tmp_path, image, distance)
    assert operators["Concat"] == 2  # the maps, and the rows of the deep-supervision heads


@pytest.mark.parametrize("form", ["self-guided"], indirect=True)
def test_an_exported_self_guided_network_writes_its_attention_out(form, network, tmp_path, image, distance):
    operators = check_export(form, network, "by-operator", ExportSettings(batch=1), tmp_path, image, distance)
    assert operators["Softmax"] == 16
    assert operators["MatMul"] == 32
    assert operators["PRelu"] == 8  # one per scale and step, with one slope per channel


@pytest.mark.slow
@pytest.mark.parametrize("choice", list(CHOICES))
def test_every_form_is_exported_with_any_batch_and_its_maps(choice, form, network, tmp_path, image, distance):
    check_differs(form, choice)
    if form is FORMS["self-guided-article"] and choice != "good":
        pytest.skip("the same attention as self-guided")
    settings = ExportSettings(batch=None, attention=bool(network.attention_names))
    check_export(form, network, choice, settings, tmp_path, image, distance)
