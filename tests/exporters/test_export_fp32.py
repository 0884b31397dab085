"""An artifact appears with its proof, or not at all."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from medattn_edge.agreement import Thresholds
from medattn_edge.artifact import Artifact
from medattn_edge.errors import AgreementError, OutputError, ShapeError, UsageError
from medattn_edge.exporters import ExportSettings, export_fp32, exporter_of, exporters, random_patches
from medattn_edge.models import checkpoint as checkpoints
from medattn_edge.models.flops import gflop
from medattn_edge.rewrites import rewrite
from medattn_edge.rewrites.norms_and_activations import fold_batch_norms
from medattn_edge.spec import ModelSpec
from tests.support.forms import FORMS, form_checkpoint
from tests.support.networks import export_checkpoint

pytestmark = pytest.mark.slow

SUFFIXES = (".onnx", ".torchscript")


@pytest.fixture
def checkpoint(small_checkpoint):
    return checkpoints.load(small_checkpoint)


@pytest.fixture
def samples(checkpoint):
    return {"random": random_patches(checkpoint.spec, 2)}


def perturbed(network):
    """The same network with one channel of its head a little larger."""
    other = copy.deepcopy(network)
    with torch.no_grad():
        list(other.parameters())[-2][0].mul_(1.01)
    return other


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_network_that_answers_otherwise_is_not_written(checkpoint, samples, tmp_path, suffix):
    path = tmp_path / f"network{suffix}"
    with pytest.raises(AgreementError, match=r"on random input SQNR(.|\n)*nothing was written"):
        export_fp32(replace(rewrite(checkpoint, ()), network=perturbed(checkpoint.network)), path, samples)
    assert list(tmp_path.iterdir()) == []


def test_a_network_that_answers_otherwise_leaves_the_older_artifact(checkpoint, samples, tmp_path):
    path = tmp_path / "network.torchscript"
    export_fp32(rewrite(checkpoint, ()), path, samples)
    before = {one.name: one.read_bytes() for one in tmp_path.iterdir()}
    with pytest.raises(AgreementError):
        export_fp32(replace(rewrite(checkpoint, ()), network=perturbed(checkpoint.network)), path, samples)
    assert {one.name: one.read_bytes() for one in tmp_path.iterdir()} == before
    assert set(before) == {"network.torchscript", "network.torchscript.json"}


def test_every_sample_that_fails_is_named_and_the_gate_is_the_callers(checkpoint, samples, tmp_path):
    other = perturbed(checkpoint.network)
    both = {**samples, "scan.nii.gz": samples["random"][:1] * 2}
    path = tmp_path / "network.torchscript"
    with pytest.raises(AgreementError, match=r"on random input .* on scan\.nii\.gz input"):
        export_fp32(replace(rewrite(checkpoint, ()), network=other), path, both)
    lenient = Thresholds(min_sqnr_db=10)
    artifact = export_fp32(replace(rewrite(checkpoint, ()), network=other), path, both, gate=lenient)
    assert [(case["input"], case["patches"], case["thresholds"]) for case in artifact.manifest.agreement] == [
        ("random", 2, {"min_sqnr_db": 10}),
        ("scan.nii.gz", 1, {"min_sqnr_db": 10}),
    ]


def test_a_candidate_that_is_not_finite_never_passes(checkpoint, samples, tmp_path):
    other = copy.deepcopy(checkpoint.network)
    with torch.no_grad():
        list(other.parameters())[-1].fill_(float("nan"))
    with pytest.raises(AgreementError, match="not finite"):
        export_fp32(
            replace(rewrite(checkpoint, ()), network=other), tmp_path / "a.torchscript", samples, gate=Thresholds()
        )
    assert list(tmp_path.iterdir()) == []


def test_a_fixed_batch_checks_every_sample_although_the_last_run_is_not_full(checkpoint, tmp_path):
    samples = {"random": random_patches(checkpoint.spec, 3)}
    artifact = export_fp32(
        rewrite(checkpoint, ()), tmp_path / "a.torchscript", samples, settings=ExportSettings(batch=2)
    )
    assert artifact.manifest.agreement[0]["patches"] == 3
    assert artifact.manifest.batch == 2


def test_a_network_left_in_training_mode_is_exported_in_evaluation_mode(checkpoint, samples, tmp_path):
    before = copy.deepcopy(checkpoint.network.state_dict())
    checkpoint.network.train()
    artifact = export_fp32(rewrite(checkpoint, ()), tmp_path / "a.torchscript", samples)
    assert artifact.manifest.agreement[0]["sqnr_db"] >= 90
    for key, value in checkpoint.network.state_dict().items():
        assert torch.equal(value, before[key]), key


def test_the_network_that_is_exported_stays_as_it_was(checkpoint, samples, tmp_path):
    rewritten = rewrite(checkpoint, ("batch-norm",))
    before = copy.deepcopy(rewritten.network.state_dict())
    export_fp32(rewritten, tmp_path / "a.torchscript", samples)
    for key, value in rewritten.network.state_dict().items():
        assert torch.equal(value, before[key]), key


@pytest.mark.parametrize("none", [{}, {"scan": np.zeros((0, 1, 32, 32), np.float32)}], ids=["no name", "no patch"])
def test_without_a_sample_nothing_is_exported(checkpoint, tmp_path, none):
    with pytest.raises(UsageError, match=r"no sample(.|\n)*--scan"):
        export_fp32(rewrite(checkpoint, ()), tmp_path / "a.onnx", none)
    assert list(tmp_path.iterdir()) == []


def test_attention_of_a_network_without_gates_is_refused(tmp_path):
    checkpoint = form_checkpoint(FORMS["attention-unet-3d-none"])
    with pytest.raises(UsageError, match=r"no attention maps(.|\n)*without --attention"):
        export_checkpoint(checkpoint, tmp_path / "a.onnx", batch=1, attention=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["network.engine", "network", "network.onnx.json"])
def test_a_suffix_that_no_exporter_writes_is_refused(checkpoint, samples, tmp_path, name):
    with pytest.raises(UsageError, match=r"\.onnx, \.torchscript(.|\n)*-o .*\.onnx"):
        export_fp32(rewrite(checkpoint, ()), tmp_path / name, samples)


def test_the_suffix_picks_the_exporter_in_any_case():
    assert {suffix: exporter_of(Path(f"A{suffix.upper()}")).name for suffix in SUFFIXES} == {
        ".onnx": "onnx",
        ".torchscript": "torchscript",
    }
    assert set(exporters()) == {"onnx", "torchscript"}


def test_a_missing_folder_is_said_before_the_work(checkpoint, samples, tmp_path):
    with pytest.raises(OutputError, match="mkdir -p"):
        export_fp32(rewrite(checkpoint, ()), tmp_path / "nowhere" / "a.onnx", samples)


def test_a_patch_that_the_network_cannot_take_is_refused(small_checkpoint, samples, tmp_path):
    loaded = checkpoints.load(small_checkpoint)
    loaded = loaded.with_spec(replace(loaded.spec, patch=(33, 32), stride=(1, 1)))
    with pytest.raises(ShapeError, match="32x32"):
        export_fp32(rewrite(loaded, ()), tmp_path / "a.onnx", samples)


def test_a_batch_below_one_is_refused():
    with pytest.raises(UsageError, match="--batch dynamic"):
        ExportSettings(batch=0)


def test_random_patches_are_the_same_every_time(checkpoint):
    spec = checkpoint.spec
    first = random_patches(spec, 3)
    assert first.dtype == np.float32
    assert first.shape == (3, 1, 32, 32)
    assert 0 <= first.min() < first.max() < 1
    np.testing.assert_array_equal(first, random_patches(spec, 3))
    assert (first != random_patches(spec, 3, seed=1)).any()


class Products(nn.Module):
    """3 x 3 convolution, transposed convolution, and the matrix product of a position attention."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 5, 3, padding=1)
        self.up = nn.ConvTranspose2d(5, 7, 2, stride=2)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        features = self.up(self.conv(image)).flatten(2)
        return torch.bmm(features.transpose(1, 2), features)


def test_flops_are_twice_the_multiply_adds_of_convolutions_and_products():
    spec = ModelSpec("products", 2, ("background", "organ"), (6, 4), (1, 1))
    multiply_adds = 6 * 4 * 5 * 2 * 9 + 6 * 4 * 5 * 7 * 4 + 96 * 96 * 7
    network = Products()
    assert gflop(network, spec) == pytest.approx(2 * multiply_adds / 1e9)
    assert next(network.parameters()).device.type == "cpu"


def test_folded_batch_norms_do_not_change_the_flops(checkpoint):
    folded = gflop(fold_batch_norms(checkpoint.network), checkpoint.spec)
    assert folded == gflop(checkpoint.network, checkpoint.spec)
    larger = checkpoint.spec.with_patch((64, 64))
    assert gflop(checkpoint.network, larger) == pytest.approx(4 * folded)


ELSEWHERE = """
import hashlib, json, resource, signal, sys
from pathlib import Path
from medattn_edge.errors import OutputError
from medattn_edge.exporters import ExportSettings, export_fp32, random_patches
from medattn_edge.rewrites import rewrite
from medattn_edge.models.checkpoint import load

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
loaded = load(Path(sys.argv[1]))
samples = {"random": random_patches(loaded.spec, 2)}
said = {}
for suffix in (".onnx", ".torchscript"):
    fresh, old = Path(sys.argv[2]) / f"fresh{suffix}", Path(sys.argv[2]) / f"old{suffix}"
    artifact = export_fp32(rewrite(loaded, ()), fresh, samples, settings=ExportSettings(None, 18, True))
    old.write_bytes(b"old model")
    old.with_name(old.name + ".json").write_bytes(b"old manifest")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (16384, hard))
    try:
        export_fp32(rewrite(loaded, ()), old, samples, settings=ExportSettings(None, 18, True))
        message = "written"
    except OutputError as error:
        message = str(error)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    said[suffix] = {"sha256": artifact.manifest.sha256, "full": message}
print(json.dumps(said))
"""


def export_elsewhere(checkpoint: Path, folder: Path, hash_seed: str) -> dict[str, dict[str, str]]:
    """Export in a fresh process, and once more as if the disk were full."""
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, str(checkpoint), str(folder)],
        env={**os.environ, "PYTHONHASHSEED": hash_seed, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


@pytest.fixture(scope="module")
def elsewhere(small_checkpoint, tmp_path_factory):
    folder = tmp_path_factory.mktemp("elsewhere")
    return folder, export_elsewhere(small_checkpoint, folder, "1")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_full_disk_leaves_the_older_artifact_and_nothing_else(elsewhere, suffix):
    folder, said = elsewhere
    assert "cannot write" in said[suffix]["full"]
    assert "df -h" in said[suffix]["full"]
    assert (folder / f"old{suffix}").read_bytes() == b"old model"
    assert (folder / f"old{suffix}.json").read_bytes() == b"old manifest"
    names = {f"{name}{end}{json_}" for name in ("fresh", "old") for end in SUFFIXES for json_ in ("", ".json")}
    assert {one.name for one in folder.iterdir()} == names


def test_another_process_exports_the_same_onnx_bytes(elsewhere, checkpoint, samples, tmp_path):
    folder, said = elsewhere
    settings = ExportSettings(None, 18, True)
    here = export_fp32(rewrite(checkpoint, ()), tmp_path / "here.onnx", samples, settings=settings)
    assert here.manifest.sha256 == said[".onnx"]["sha256"]
    there = Artifact.read(folder / "fresh.onnx").manifest
    # The figures of the agreement are each process's own: the number of its threads changes their last digits.
    assert replace(there, agreement=()) == replace(here.manifest, agreement=())
    assert [one["thresholds"] for one in there.agreement] == [one["thresholds"] for one in here.manifest.agreement]


@pytest.mark.slow
def test_another_process_exports_the_same_torchscript_bytes(elsewhere, small_checkpoint, tmp_path):
    _, said = elsewhere
    again = export_elsewhere(small_checkpoint, tmp_path, "2")
    assert again[".torchscript"]["sha256"] == said[".torchscript"]["sha256"]
