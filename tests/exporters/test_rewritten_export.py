"""A rewritten network is exported as the checkpoint's own is, says what was done to it, or is rerewritten."""

from __future__ import annotations

import pytest
import torch

from medattn_edge.artifact import Artifact
from medattn_edge.errors import AgreementError
from medattn_edge.exporters import ExportSettings, export_fp32, exporter_of, random_patches
from medattn_edge.models.flops import gflop
from medattn_edge.precision import fp16
from medattn_edge.rewrites import defaults, rewrite
from tests.support.forms import form_checkpoint

pytestmark = pytest.mark.slow


@pytest.fixture
def checkpoint(form):
    return form_checkpoint(form)


def exported(checkpoint, path, settings):
    """Its network as the exporter's defaults rewrite it."""
    names = defaults(exporter_of(path).name, checkpoint.spec.patch)
    rewritten = rewrite(checkpoint, names)
    samples = {"random": random_patches(checkpoint.spec, 2)}
    return rewritten, export_fp32(rewritten, path, samples, settings=settings)


def check(checkpoint, folder):
    """Both exporters, any batch, with maps where it has them."""
    settings = ExportSettings(batch=None, attention=bool(checkpoint.network.attention_names))
    for name in ("network.onnx", "network.torchscript"):
        rewritten, artifact = exported(checkpoint, folder / name, settings)
        manifest = Artifact.read(folder / name).manifest
        assert manifest == artifact.manifest
        assert list(manifest.rewrites) == rewritten.rewrites
        assert manifest.gflop == pytest.approx(rewritten.after.gflop)
        assert manifest.parameters == sum(one.numel() for one in rewritten.network.parameters())
        assert manifest.agreement[0]["sqnr_db"] > 100


@pytest.mark.parametrize("form", ["attention-unet-2d"], indirect=True)
def test_the_manifest_says_what_was_done_and_what_the_rewritten_network_costs(checkpoint, tmp_path):
    check(checkpoint, tmp_path)
    assert Artifact.read(tmp_path / "network.onnx").manifest.gflop < gflop(checkpoint.network, checkpoint.spec)


@pytest.mark.slow
def test_every_form_is_exported_rewritten(checkpoint, tmp_path):
    check(checkpoint, tmp_path)


@pytest.mark.parametrize("form", ["attention-unet-2d"], indirect=True)
@pytest.mark.parametrize("suffix", [".onnx", ".torchscript"])
def test_a_rewrite_that_is_wrong_by_one_weight_is_refused_and_nothing_is_written(checkpoint, suffix, tmp_path):
    rewritten = rewrite(checkpoint)
    with torch.no_grad():
        weight = max(rewritten.network.parameters(), key=lambda one: one.numel())
        weight.flatten()[0] += 0.05
    samples = {"random": random_patches(checkpoint.spec, 2)}
    with pytest.raises(AgreementError, match=r"on random input SQNR(.|\n)*nothing was written"):
        export_fp32(rewritten, tmp_path / f"network{suffix}", samples)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("form", ["self-guided"], indirect=True)
def test_half_precision_keeps_the_rewrites_in_its_manifest_and_the_attentions_in_fp32(checkpoint, tmp_path):
    _, artifact = exported(checkpoint, tmp_path / "fp32.onnx", ExportSettings())
    noise = random_patches(checkpoint.spec, 2)
    gate = fp16.FP16_SMOKE
    halved = fp16.convert(artifact, tmp_path / "fp16.onnx", {"noise": noise}, noise, gate=gate).manifest
    assert halved.rewrites == artifact.manifest.rewrites
    rules = {island["rule"] for island in halved.recipe["islands"]}
    assert {"softmax", "energy", "output"} <= rules
    kinds = [island["operator"] for island in halved.recipe["islands"] if island["rule"] == "softmax"]
    assert len(kinds) == 16
