"""A module of the user's own, built by the function that he names and filled with his checkpoint."""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch

import medattn_edge as me
from medattn_edge.artifact import Artifact
from medattn_edge.errors import CheckpointError, InputError, UsageError
from medattn_edge.foreign import ForeignNetwork
from medattn_edge.models.checkpoint import Checkpoint
from medattn_edge.spec import ModelSpec
from tests.foreign.conftest import labels_by_owner, volume_of
from tests.support.networks import randomised

CODE = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, width=8, end=None):
        super().__init__()
        self.a = nn.Sequential(nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width), nn.PReLU())
        self.head = nn.Conv2d(width, 2, 1)
        self.end = end

    def forward(self, x):
        y = self.head(self.a(x))
        return y if self.end is None else self.end(y)

def build(width=8):
    return Net(width)

def probabilities():
    return Net(end=nn.Softmax(1))

def raises():
    shape = {}
    return shape["channels"]

class Broken(Net):
    def forward(self, x):
        raise RuntimeError("no such level")

def broken():
    return Broken()

def nothing():
    return 3
"""


@pytest.fixture
def mynets(tmp_path, monkeypatch):
    """The user's package, on the path."""
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "mynets.py").write_text(textwrap.dedent(CODE))
    (tmp_path / "code" / "halfdone.py").write_text("import numpy\nimport a_package_that_is_not_here\n")
    monkeypatch.syspath_prepend(tmp_path / "code")
    yield __import__("mynets")
    for name in ("mynets", "halfdone"):
        sys.modules.pop(name, None)


@pytest.fixture
def weights(mynets, image_2d, tmp_path) -> Path:
    torch.manual_seed(3)
    network = randomised(mynets.build())
    with torch.no_grad():
        network.head.bias.sub_(network(image_2d).mean((0, 2, 3)))
    torch.save(
        {"epoch": 7, "state_dict": {f"module.{k}": v for k, v in network.state_dict().items()}}, tmp_path / "w.pth"
    )
    return tmp_path / "w.pth"


@pytest.mark.parametrize("name", ["net.onnx", "net.torchscript"])
def test_his_labels_are_the_artifacts_and_the_rewrites_apply(name, mynets, weights, image_2d, tmp_path):
    found = me.read_foreign(weights, network="mynets:build", patch=(32, 32))
    assert isinstance(found, Checkpoint)
    assert found.foreign
    artifact = me.export(found, tmp_path / name, samples={"image": image_2d.numpy()})
    assert {"batch-norm", "scalar-prelu"} <= {one["name"] for one in artifact.manifest.rewrites}
    expected = labels_by_owner(found.network, image_2d)
    assert len(np.unique(expected)) > 1
    with me.open_session(tmp_path / name) as session:
        np.testing.assert_array_equal(me.segment(session, volume_of(image_2d)).labels.voxels, expected)


def test_a_module_that_answers_probabilities_is_exported_up_to_its_logits(weights, image_2d, tmp_path):
    found = me.read_foreign(weights, network="mynets:probabilities", patch=(32, 32))
    assert isinstance(found, ForeignNetwork)
    me.export(found, tmp_path / "net.onnx", samples={"image": image_2d.numpy()})
    logits = me.read_foreign(weights, network="mynets:build", patch=(32, 32))
    with me.open_session(tmp_path / "net.onnx") as session, torch.inference_mode():
        np.testing.assert_allclose(session.run(image_2d.numpy()), logits.network(image_2d).numpy(), atol=1e-4)


@pytest.mark.parametrize(
    ("network", "found"),
    [
        ("mynets:raises", r"mynets:raises raises KeyError at .*mynets.py:24: 'channels'"),
        ("mynets:broken", r"mynets:broken raises RuntimeError at .*mynets.py:28: no such level"),
        ("mynets:nothing", "mynets:nothing returns an object of the type int"),
        ("mynets:absent", "mynets has no function absent"),
        ("notthere:build", "there is no module notthere"),
        ("halfdone:build", r"halfdone cannot be imported: ModuleNotFoundError at .*halfdone.py:2"),
        ("my nets:build", "the network 'my nets:build'"),
    ],
)
def test_code_that_fails_is_named_with_its_line(network, found, weights, tmp_path):
    before = sorted(tmp_path.rglob("*.onnx*"))
    with pytest.raises(UsageError, match=found) as raised:
        me.read_foreign(weights, network=network, patch=(32, 32))
    assert raised.value.exit_code == 2
    assert raised.value.hint
    assert sorted(tmp_path.rglob("*.onnx*")) == before


def test_a_checkpoint_of_another_module_is_refused(mynets, weights, tmp_path):
    with pytest.raises(CheckpointError, match=r"a.0.weight is \(8, 1, 3, 3\) in w.pth and \(4, 1, 3, 3\)"):
        me.read_foreign(weights, network="mynets:build", patch=(32, 32), config={"width": 4})
    state = mynets.build().state_dict()
    torch.save(
        {**{k: v for k, v in state.items() if k != "head.bias"}, "tail.bias": state["head.bias"]}, tmp_path / "o.pth"
    )
    with pytest.raises(CheckpointError, match=r"1 keys are missing \(head.bias\) and 1 are not the network's"):
        me.read_foreign(tmp_path / "o.pth", network="mynets:build", patch=(32, 32))
    torch.save({**state, "head.bias": state["head.bias"] * float("nan")}, tmp_path / "n.pth")
    with pytest.raises(CheckpointError, match=r"not finite in head\.bias"):
        me.read_foreign(tmp_path / "n.pth", network="mynets:build", patch=(32, 32))


def test_a_checkpoint_that_is_not_there_is_named(mynets, tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        me.read_foreign(tmp_path / "none.pth", network="mynets:build", patch=(32, 32))


def test_the_command_exports_it_and_infers_with_it(medattn, weights, image_2d, tmp_path):
    out = tmp_path / "net.onnx"
    options = ("--network", "mynets:build", "--patch", "32x32", "--labels", "background,lung", "--intensity", "none")
    done = medattn("export", weights, *options, "-o", out)
    assert done.returncode == 0, done.stderr
    assert Artifact.read(out).spec.labels == ("background", "lung")
    assert "module of your own, mynets:build" in done.stderr
    failed = medattn("export", weights, "--network", "mynets:raises", "--patch", "32x32", "-o", tmp_path / "no.onnx")
    assert (failed.returncode, (tmp_path / "no.onnx").exists()) == (2, False)
    assert "mynets.py:24" in failed.stderr


def test_a_spec_for_another_patch_is_refused(plain, image_2d, save):
    found = me.read_foreign(save(plain, image_2d, "onnx"))
    other = ModelSpec("foreign-onnx", 1, ("a", "b", "c"), (64, 64), (64, 64))
    with pytest.raises(UsageError, match=r"the patch \(64, 64\)"):
        found.with_spec(other)
