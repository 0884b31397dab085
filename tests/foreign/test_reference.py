"""What export was given is the reference of compare and bench, whatever it came as; another network is refused."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import medattn_edge as me
from medattn_edge.agreement import LogitsDistance
from medattn_edge.artifact import Artifact
from medattn_edge.errors import InputError, UsageError
from medattn_edge.foreign import SourceOptions, SourceReference
from tests.foreign.conftest import volume_of
from tests.foreign.networks import Encoder2d, moved
from tests.foreign.test_own_module import mynets, weights
from tests.support.busy_host import check_measured
from tests.support.scans import write_nifti

__all__ = ["mynets", "weights"]
EXPORT = ("--labels", "background,one,two", "--intensity", "none")


@pytest.fixture
def scan(image_2d, tmp_path):
    volume = volume_of(image_2d)
    rows = np.stack([volume.voxels[0], volume.voxels[0].T, volume.voxels[0][::-1]])
    return write_nifti(tmp_path / "scan.nii.gz", replace(volume, voxels=rows))


def _decibels(expected: np.ndarray, found: np.ndarray) -> float:
    distance = LogitsDistance()
    distance.add(expected, found)
    return distance.sqnr_db


@pytest.mark.parametrize("form", ["onnx", "legacy", "script", "exported"])
@pytest.mark.parametrize("end", [None, nn.Softmax(1)], ids=["logits", "softmax"])
def test_the_reference_answers_the_owners_logits(form, end, image_2d, save, tmp_path):
    torch.manual_seed(1)
    network = moved(Encoder2d(end=end), image_2d)
    source = save(network, image_2d, form)
    artifact = me.export(
        me.read_foreign(source, patch=(32, 32)), tmp_path / "net.onnx", samples={"image": image_2d.numpy()}
    )
    manifest = artifact.manifest
    reference = SourceReference.read(source, SourceOptions(), manifest.spec, manifest.lineage)
    assert reference.made_from
    assert replace(reference.spec, config={}) == replace(manifest.spec, config={})
    assert reference.gflop == pytest.approx(manifest.gflop)
    network.end = None
    with torch.inference_mode():
        expected = network(image_2d).numpy()
    with reference.open(threads=1) as session:
        assert _decibels(expected, session.run(image_2d.numpy())) > 110


@pytest.mark.slow
def test_another_source_is_taken_only_with_a_spec_and_only_where_it_fits(plain, image_2d, save, tmp_path):
    mine = me.export(me.read_foreign(save(plain, image_2d, "onnx")), tmp_path / "net.onnx").manifest
    torch.manual_seed(9)
    other = save(moved(Encoder2d(), image_2d), image_2d, "exported")
    with pytest.raises(UsageError, match="not made from it"):
        SourceReference.read(other, SourceOptions(), mine.spec, mine.lineage)
    taken = SourceReference.read(other, SourceOptions(spec=mine.spec), mine.spec, mine.lineage)
    assert not taken.made_from
    assert taken.notes[-1] == "the candidate was not made from owner.pt2"
    assert taken.spec.labels == mine.spec.labels
    for outputs, patch in ((2, (32, 32)), (3, (64, 64))):
        names = ("background", *(f"class_{number}" for number in range(1, outputs)))
        spec = replace(mine.spec, labels=names, outputs=outputs, patch=patch, stride=patch)
        with pytest.raises(UsageError):
            SourceReference.read(other, SourceOptions(spec=spec), spec, mine.lineage)


def test_probabilities_that_no_node_shows_are_no_reference(image_2d, save, tmp_path, plain):
    mine = me.export(me.read_foreign(save(plain, image_2d, "onnx")), tmp_path / "net.onnx").manifest

    class Sharp(nn.Module):
        def forward(self, x):
            powers = torch.exp(x)
            return powers / powers.sum(1, keepdim=True)

    hidden = save(moved(Encoder2d(end=Sharp()), image_2d), image_2d, "exported")
    taken = SourceReference.read(hidden, SourceOptions(spec=mine.spec), mine.spec)
    with pytest.raises(InputError, match="probabilities"):
        taken.open()


@pytest.mark.slow
@pytest.mark.parametrize("form", ["onnx", pytest.param("exported", marks=pytest.mark.slow)])
def test_compare_and_bench_take_the_file_that_was_exported(form, medattn, plain, image_2d, save, scan, tmp_path):
    source, net = save(plain, image_2d, form), tmp_path / "net.onnx"
    done = medattn("export", source, "-o", net, *EXPORT, "--scan", scan)
    assert done.returncode == 0, done.stderr
    done = medattn("compare", source, net, scan, "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["reference"] == str(source)
    [row] = told["candidates"]
    assert row["cases"][0]["label_match"] == 1.0
    assert not [note for note in told["notes"] if "not made from" in note]
    refused = medattn("compare", net, net.with_name("net.onnx"), scan, "--output-name", "y")
    assert refused.returncode == 2
    assert "which is an artifact" in refused.stderr
    if form == "onnx":
        quick = ("--duration", "0.1", "--warm-up", "0", "--threads", "1", "--samples", "2", "--scan", scan)
        done = medattn("bench", net, "--reference", source, *quick, "--json")
        check_measured(done)
        rows = json.loads(done.stdout)["rows"]
        assert [row["verdict"] for row in rows] == ["pass", "pass"]
        assert rows[0]["artifact"] == source.name


@pytest.mark.slow
def test_compare_against_another_file_needs_a_spec(medattn, plain, image_2d, save, scan, tmp_path):
    net = tmp_path / "net.onnx"
    assert medattn("export", save(plain, image_2d, "onnx"), "-o", net, *EXPORT, "--scan", scan).returncode == 0
    torch.manual_seed(9)
    other = save(moved(Encoder2d(), image_2d), image_2d, "exported")
    refused = medattn("compare", other, net, scan)
    assert refused.returncode == 2
    assert "--spec spec.json" in refused.stderr
    (tmp_path / "spec.json").write_text(json.dumps(Artifact.read(net).spec.to_json()))
    done = medattn("compare", other, net, scan, "--spec", tmp_path / "spec.json", "--json")
    assert done.returncode == 1, done.stderr  # other weights
    assert "the candidate was not made from owner.pt2" in json.loads(done.stdout)["notes"]
    bench = medattn("bench", net, "--reference", other, "--scan", scan)
    assert bench.returncode == 2
    assert "not made from" in bench.stderr


def test_a_module_of_ones_own_is_a_reference_when_it_is_named(medattn, weights, scan, tmp_path):
    net = tmp_path / "net.onnx"
    words = ("--network", "mynets:build", "--patch", "32x32", "--labels", "background,one")
    done = medattn("export", weights, "-o", net, *words, "--scan", scan)
    assert done.returncode == 0, done.stderr
    done = medattn("compare", weights, net, scan, "--network", "mynets:build", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["candidates"][0]["cases"][0]["label_match"] == 1.0
    assert medattn("compare", weights, net, scan).returncode != 0
