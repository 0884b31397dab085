"""A scripted or traced network is the eager network, at every size and batch, with and without its attention maps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from medattn_edge.backends.torch.deprecations import torchscript_is_deprecated
from medattn_edge.models.network import WithAttention

pytestmark = pytest.mark.slow

COMPILERS = ("script", "trace")
WARM_UP = 3  # the profiling executor optimises on the second call and settles on the third


@pytest.fixture(params=COMPILERS)
def compiled(request: pytest.FixtureRequest) -> Callable[[Any, Any], Any]:
    """Compiles a module, as scripted and as traced with an example image. A TracerWarning is an error here."""

    def compile_one(module: Any, image: Any) -> Any:
        with torchscript_is_deprecated(), torch.inference_mode():
            if request.param == "script":
                return torch.jit.script(module)
            return torch.jit.trace(module, image, check_trace=False)

    return compile_one


def images(form: Any) -> list[torch.Tensor]:
    """The traced size, another size and another batch size."""
    generator = torch.Generator().manual_seed(3)
    shapes = [(1, form.channels, *form.size), (1, form.channels, *form.other), (3, form.channels, *form.other)]
    return [torch.randn(shape, generator=generator) for shape in shapes]


def distance(found: torch.Tensor, wanted: torch.Tensor) -> float:
    assert found.shape == wanted.shape
    return float((found - wanted).abs().max() / wanted.std())


@torch.inference_mode()
def test_a_compiled_network_gives_the_eager_logits(form, network, compiled):
    first, *others = images(form)
    program = compiled(network, first)
    for _ in range(WARM_UP):
        found = program(first)
    assert distance(found, network(first)) <= 1e-6
    for image in others:
        wanted = network(image)
        for _ in range(2):
            assert distance(program(image), wanted) <= 1e-6


@torch.inference_mode()
def test_attention_on_request_does_not_change_the_logits(form, network, compiled):
    if not network.attention_names:
        pytest.skip("has no attention")
    first, *others = images(form)
    program = compiled(WithAttention(network), first)
    for _ in range(WARM_UP):
        program(first)
    for image in [first, *others]:
        logits, maps = WithAttention(network)(image)
        assert torch.equal(logits, network(image))
        assert maps.shape == (len(image), len(network.attention_names), *image.shape[2:])
        found, found_maps = program(image)
        assert distance(found, logits) <= 1e-6
        torch.testing.assert_close(found_maps, maps, rtol=1e-5, atol=1e-6)


@torch.inference_mode()
def test_a_gate_lies_between_0_and_1_and_position_attention_averages_1(form, network):
    for image in images(form):
        _, maps = network.forward_attention(image)
        for name, one in zip(network.attention_names, maps.unbind(1), strict=True):
            if name.startswith("gate_"):
                assert 0 < one.min() <= one.max() < 1
                assert one.std() > 0
            elif name.startswith("position_"):
                torch.testing.assert_close(one.mean((1, 2)), torch.ones(len(image)), rtol=1e-4, atol=0)
            else:
                assert name.startswith("guided_")
                assert one.min() >= 0


def test_a_network_without_gates_has_no_maps(form, network):
    _, maps = network.forward_attention(images(form)[0])
    assert (maps.shape[1] == 0) == (form.settings.get("gates") == "none")


def test_the_deprecation_of_torchscript_is_the_only_warning_that_is_silenced():
    import warnings

    with torchscript_is_deprecated():
        torch.jit.script(torch.nn.ReLU())
        with pytest.raises(DeprecationWarning, match="something else"):
            warnings.warn("something else is deprecated", DeprecationWarning, stacklevel=1)
