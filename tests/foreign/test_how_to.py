"""The network of docs/how-to/own-network.md, of public blocks: scripted, exported, quantised, compiled, judged."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import medattn_edge as me
from medattn_edge.artifact import Artifact
from medattn_edge.backends.torch.deprecations import torchscript_is_deprecated
from medattn_edge.foreign.attentions import CHANNEL, GATE, POSITION, attentions
from tests.foreign.conftest import labels_by_owner, volume_of
from tests.support import ROOT
from tests.support.networks import randomised

PATCH = (48, 48)


@pytest.fixture(scope="module")
def lungs(tmp_path_factory):
    """The network of the page's code block, trained by chance, and the folder of its code."""
    page = (ROOT / "docs" / "how-to" / "own-network.md").read_text(encoding="utf-8")
    [code] = re.findall(r'```python title="yournets.py"\n(.*?)```', page, re.DOTALL)
    folder = tmp_path_factory.mktemp("code")
    (folder / "yournets.py").write_text(code)
    sys.path.insert(0, str(folder))
    try:
        torch.manual_seed(1)
        network = randomised(__import__("yournets").build())
        with torch.no_grad():
            network.head.bias.sub_(network(picture()).mean((0, 2, 3)))
        torch.save(network.state_dict(), folder / "weights.pth")
        yield network, folder
    finally:
        sys.path.remove(str(folder))
        sys.modules.pop("yournets", None)


def picture() -> torch.Tensor:
    rows = torch.linspace(0, 3, PATCH[0])
    return (
        torch.sin(rows)[:, None] * torch.cos(rows) + 0.1 * torch.rand(PATCH, generator=torch.Generator().manual_seed(2))
    )[None, None]


@pytest.fixture(scope="module")
def scan(tmp_path_factory) -> Path:
    """Three slices that are pictures."""
    from nibabel import Nifti1Image, save

    voxels = np.stack([picture()[0, 0].numpy() * scale for scale in (1.0, 0.9, 0.8)])
    path = tmp_path_factory.mktemp("scan") / "scan.nii.gz"
    save(Nifti1Image(voxels.transpose(2, 1, 0), np.diag([-1.0, -1.0, 1.0, 1.0])), path)
    return path


@pytest.fixture(scope="module")
def artifact(lungs, scan, medattn, tmp_path_factory) -> Path:
    """The network's artifact, made by the page's command."""
    _, folder = lungs
    path = tmp_path_factory.mktemp("net") / "net.onnx"
    options = ("--patch", "48x48", "--labels", "background,lung", "--intensity", "none", "--scan", scan)
    done = medattn("export", folder / "weights.pth", "--network", "yournets:build", "-o", path, *options)
    assert done.returncode == 0, done.stderr
    return path


def test_its_labels_are_the_artifacts(lungs, artifact):
    network, _ = lungs
    expected = labels_by_owner(network, picture())
    assert len(np.unique(expected)) == 2
    with me.open_session(artifact) as session:
        np.testing.assert_array_equal(me.segment(session, volume_of(picture())).labels.voxels, expected)


def test_the_rewrites_that_know_its_blocks_apply(artifact):
    names = {one["name"]: one["sites"] for one in Artifact.read(artifact).manifest.rewrites}
    assert names["position-attention"] == 1
    assert names["batch-norm"] == 5


def test_it_scripts(lungs, tmp_path):
    network, folder = lungs
    with torchscript_is_deprecated():
        scripted = torch.jit.script(network)
    assert torch.equal(scripted(picture()), network(picture()))
    found = me.read_foreign(folder / "weights.pth", network="yournets:build", patch=PATCH)
    me.export(found, tmp_path / "net.torchscript", samples={"picture": picture().numpy()})


@pytest.mark.parametrize("form", ["onnx", "script", "exported"])
def test_its_attentions_are_found_in_a_graph_of_any_origin(form, lungs, save, tmp_path):
    found = me.read_foreign(save(lungs[0], picture(), form), patch=PATCH)
    kinds = [(one.kind, one.exact) for one in attentions(found.graph.model)]
    assert sorted(kinds) == sorted([(POSITION, True), (CHANNEL, True), (GATE, True)])
    assert any("found 1 position attention, 1 channel attention, 1 attention gate" in text for text in found.notes)
    half = me.export(found, tmp_path / "half.onnx", precision="fp16", samples={"picture": picture().numpy()})
    rules = {(one["operator"], one["rule"]) for one in half.manifest.recipe["islands"]}
    assert {("Softmax", "softmax"), ("MatMul", "energy"), ("Sigmoid", "gate")} <= rules
    me.export(found, tmp_path / "net.onnx", samples={"picture": picture().numpy()})
    from medattn_edge.backends.openvino.attention import fuse_attention
    from medattn_edge.backends.openvino.library import imported

    assert len(fuse_attention(imported().Core().read_model(str(tmp_path / "net.onnx")))) == 1


def test_everything_after_export_works_on_a_file_of_any_origin(lungs, scan, save, medattn, tmp_path):
    source, net, int8 = save(lungs[0], picture(), "legacy"), tmp_path / "net.onnx", tmp_path / "net.int8.onnx"
    described = json.loads(medattn("inspect", source, "--json").stdout)
    assert {one["kind"] for one in described["attentions"]} == {POSITION, CHANNEL, GATE}
    assert described["gflop"] > 0
    assert "position attention" in medattn("inspect", source).stdout
    options = ("--labels", "background,lung", "--intensity", "none", "--scan", scan)
    commands = (
        ("export", source, "-o", net, *options),
        ("inspect", net, "--json"),
        (
            "calibrate",
            net,
            scan,
            "-o",
            int8,
            "--profile",
            "cpu",
            "--samples",
            2,
            "--held-out-samples",
            1,
            "--threads",
            1,
            "--gate",
            0.5,
        ),
        ("lint", int8, "--profile", "cpu"),
        ("compile", net, "-o", tmp_path / "net.xml"),
        ("compare", net, tmp_path / "net.xml", scan, "--threads", 1),
        ("infer", tmp_path / "net.xml", scan, "-o", tmp_path / "labels.nii.gz"),
    )
    for words in commands:
        done = medattn(*words)
        assert done.returncode == 0, (words[0], done.stderr, done.stdout)
    labels = me.read_labels(tmp_path / "labels.nii.gz").voxels
    np.testing.assert_array_equal(labels[0], labels_by_owner(lungs[0], picture())[0])
