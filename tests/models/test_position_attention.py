"""Position attention is computed a block of queries at a time by the eager network alone, and says the same."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from medattn_edge.backends.torch.deprecations import torchscript_is_deprecated
from medattn_edge.models.attention import ROWS, PositionAttention

SIZES = [(32, 40), (48, 48), (33, 41)]  # 1280 and 2304 positions are whole blocks, 1353 are not


@pytest.fixture
def attention():
    """A peaked one, so that a wrong row would be seen; its gain away from 0."""
    torch.manual_seed(3)
    made = PositionAttention(16).eval()
    with torch.no_grad():
        made.gamma.fill_(0.6)
        made.query.weight.mul_(3)
    return made


def x_of(size, batch=1):
    return torch.randn(batch, 16, *size, generator=torch.Generator().manual_seed(4))


class Largest(TorchDispatchMode):
    """Remembers the size of the largest tensor that an operator returned."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        self.elements = max(self.elements, *(x.numel() for x in tree_leaves(found) if isinstance(x, torch.Tensor)), 0)
        return found


def largest(function, x):
    with Largest() as seen:
        function(x)
    return seen.elements


def plain(attention, x):
    """What the paper writes, in one piece."""
    query, key, value = (conv(x).flatten(2) for conv in (attention.query, attention.key, attention.value))
    weights = torch.softmax(query.transpose(1, 2) @ key, 2)
    return attention.gamma * (value @ weights.transpose(1, 2)).reshape(x.shape) + x


@pytest.mark.parametrize("size", SIZES)
@torch.inference_mode()
def test_blocks_say_what_the_whole_matrix_says(attention, size):
    x = x_of(size, batch=2)
    found, wanted = attention(x), plain(attention, x)
    # The same bits where 256 divides the positions, on AVX-512; elsewhere a product may sum in another order.
    assert (found - wanted).abs().max() <= 1e-6 * wanted.abs().max()
    received, whole = attention.received(x), attention.weights(x).sum(1)
    assert (received - whole).abs().max() <= 1e-6 * whole.abs().max()


@pytest.mark.parametrize("size", SIZES)
@torch.inference_mode()
def test_in_fp64_blocks_differ_by_rounding_alone(attention, size):
    attention, x = attention.double(), x_of(size).double()
    torch.testing.assert_close(attention(x), plain(attention, x), rtol=1e-13, atol=1e-13)


@torch.inference_mode()
def test_the_eager_network_never_holds_more_than_a_block(attention):
    positions = 48 * 48
    assert largest(attention, x_of((48, 48))) == ROWS * positions
    assert largest(attention.received, x_of((48, 48))) == ROWS * positions
    assert largest(attention, x_of((24, 24))) == 24**4  # few enough for one piece


@pytest.mark.parametrize("how", ["gradients", "training"])
def test_what_is_trained_is_the_plain_form(attention, how):
    x = x_of((48, 48))
    with torch.set_grad_enabled(how == "gradients"):
        attention.train(how == "training")
        assert largest(attention, x) == (48 * 48) ** 2
        torch.testing.assert_close(attention(x), plain(attention, x), rtol=0, atol=0)


def test_its_gradients_are_the_plain_form_s(attention):
    other, x = copy.deepcopy(attention), x_of((36, 36))
    attention(x).square().sum().backward()
    plain(other, x).square().sum().backward()
    for found, wanted in zip(attention.parameters(), other.parameters(), strict=True):
        assert torch.equal(found.grad, wanted.grad)


@torch.inference_mode()
def test_what_is_scripted_traced_or_exported_is_the_plain_form_at_every_size(attention):
    x = x_of((36, 36))
    with torchscript_is_deprecated():
        programs = [torch.jit.script(attention), torch.jit.trace(attention, x, check_trace=False)]
    for program in programs:
        kinds = [node.kind() for node in program.inlined_graph.nodes()]
        assert kinds.count("aten::softmax") == 1
        assert kinds.count("aten::matmul") == 2
        assert "aten::cat" not in kinds
        for size in SIZES:
            torch.testing.assert_close(program(x_of(size)), plain(attention, x_of(size)), rtol=1e-5, atol=1e-6)
    targets = [str(node.target) for node in torch.export.export(attention, (x,)).graph.nodes]
    assert len([name for name in targets if "softmax" in name]) == 1
    assert not [name for name in targets if "cat" in name or "slice" in name]


def test_a_network_s_state_has_the_keys_it_had(attention):
    convs = [f"{name}.{part}" for name in ("query", "key", "value") for part in ("weight", "bias")]
    assert list(attention.state_dict()) == ["gamma", *convs]
