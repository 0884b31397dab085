"""Every form of position attention is the same function; a blocked one never holds the whole matrix."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from medattn_edge.backends.torch.deprecations import torchscript_is_deprecated
from medattn_edge.errors import UsageError
from medattn_edge.models.attention import PositionAttention
from medattn_edge.rewrites.position_attention import FORMS, FoldedPositionAttention, MergedProjections

SIZES = [(1, 1), (3, 5), (6, 8)]
ROWS = [1, 7, 16, 48, 100]  # of 48 positions some divide, some do not, one is more than there are


@pytest.fixture
def attention():
    """8 channels or one per query; its gain away from 0, its key's bias large."""
    torch.manual_seed(2)
    made = PositionAttention(16).double()
    with torch.no_grad():
        made.gamma.fill_(0.6)
        made.key.bias.uniform_(2, 3)
        made.query.weight.mul_(3)
    return made


def x_of(size, batch=2):
    return torch.randn(batch, 16, *size, generator=torch.Generator().manual_seed(6), dtype=torch.float64)


class Largest(TorchDispatchMode):
    """Remembers the size of the largest tensor that an operator returned."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        sizes = [one.numel() for one in tree_leaves(found) if isinstance(one, torch.Tensor)]
        self.elements = max(self.elements, *sizes)
        return found


@pytest.mark.parametrize("merged", [False, True])
@pytest.mark.parametrize(("form", "rows"), [*((form, 512) for form in FORMS), *(("blocked", rows) for rows in ROWS)])
@pytest.mark.parametrize("size", SIZES)
@torch.no_grad()
def test_each_form_is_position_attention(attention, size, form, rows, merged):
    x = x_of(size)
    folded = FoldedPositionAttention(attention, form, rows)
    if merged:
        folded.project = MergedProjections(folded.project)
    torch.testing.assert_close(folded(x), attention(x), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(folded.weights(x), attention.weights(x), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(folded.received(x), attention.weights(x).sum(1), rtol=1e-10, atol=1e-12)


@torch.no_grad()
def test_a_block_is_the_largest_that_a_blocked_one_holds(attention):
    size, rows = (16, 16), 10
    x = x_of(size, batch=1)
    whole, blocked, received = Largest(), Largest(), Largest()
    with whole:
        FoldedPositionAttention(attention)(x)
    with blocked:
        FoldedPositionAttention(attention, "blocked", rows)(x)
    with received:
        FoldedPositionAttention(attention, "blocked", rows).received(x)
    assert whole.elements == 256 * 256
    assert blocked.elements == 256 * 16  # the map itself
    assert received.elements == 256 * 16


PEAKS = """
import sys, torch
from medattn_edge.rewrites.position_attention import FoldedPositionAttention
from medattn_edge.models.attention import PositionAttention

def peak():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmHWM"))

whole = PositionAttention(16).eval()
blocks = FoldedPositionAttention(whole, "blocked").eval()
x = torch.randn(1, 16, 96, 96)
with torch.inference_mode():
    whole(x[..., :8, :8])
    before = peak()
    for run in (whole, whole.received, blocks, blocks.received, torch.jit.script(blocks)):
        run(x)
        run(x)
print(peak() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of memory is Linux's to tell")
def test_blocks_leave_no_holes_that_add_up_to_the_whole_matrix():
    command = [sys.executable, "-W", "ignore", "-c", PEAKS]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert float(done.stdout) < 0.5 * (96 * 96) ** 2 * 4 / 2**20


@pytest.mark.parametrize("form", FORMS)
@torch.inference_mode()
def test_a_scripted_form_counts_its_blocks_anew_at_every_size(attention, form):
    with torchscript_is_deprecated():
        program = torch.jit.freeze(torch.jit.script(FoldedPositionAttention(attention, form, 7).eval()))
    for size in SIZES:
        x = x_of(size)
        torch.testing.assert_close(program(x), attention(x), rtol=1e-10, atol=1e-12)


def test_an_unknown_form_is_refused(attention):
    for form, rows in (("flash", 512), ("blocked", 0)):
        with pytest.raises(UsageError, match=f"{form}' with {rows} rows"):
            FoldedPositionAttention(attention, form, rows)


@pytest.mark.parametrize(("form", "rows", "blocks"), [("plain", 512, 1), ("sdpa", 512, 1), ("blocked", 20, 3)])
@torch.inference_mode()
def test_an_exported_form_is_written_out_for_any_batch(attention, tmp_path, form, rows, blocks):
    import onnx
    import onnxruntime

    from medattn_edge.exporters.exporter import ExportSettings
    from medattn_edge.exporters.onnx import write
    from medattn_edge.spec import ModelSpec

    folded = FoldedPositionAttention(attention, form, rows).float().eval()
    spec = ModelSpec("self-guided", 16, ("background", "organ"), (6, 8), (1, 1))
    write(folded, spec, ExportSettings(batch=None), tmp_path / "attention.onnx")
    operators = [node.op_type for node in onnx.load(tmp_path / "attention.onnx").graph.node]
    assert operators.count("Softmax") == blocks == math.ceil(48 / rows)
    assert operators.count("MatMul") == 2 * blocks
    session = onnxruntime.InferenceSession(tmp_path / "attention.onnx", providers=["CPUExecutionProvider"])
    x = x_of((6, 8), batch=3).float()
    found = session.run(None, {"image": x.numpy()})[0]
    np.testing.assert_allclose(found, attention.float()(x).numpy(), rtol=1e-4, atol=1e-5)
