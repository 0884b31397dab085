"""One call exports as the command does: rewritten, checked on a real scan and on noise, in FP16 where asked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import medattn_edge as me
from medattn_edge.agreement import Thresholds
from medattn_edge.artifact import Artifact
from medattn_edge.data import shipped_checkpoints
from medattn_edge.data.samples import sample_scan
from medattn_edge.errors import AgreementError, UsageError
from medattn_edge.file_gate import FileGate
from medattn_edge.models.checkpoint import Checkpoint
from medattn_edge.precision.fp16 import FP16_SMOKE
from medattn_edge.rewrites import defaults


@pytest.fixture(scope="module")
def lungs_checkpoint() -> Checkpoint:
    return me.load_checkpoint(shipped_checkpoints()["lungs-attention-unet-2d"])


def names_of(artifact: Artifact) -> set[str]:
    return {one["name"] for one in artifact.manifest.rewrites}


def test_a_checkpoint_is_rewritten_as_the_files_of_its_suffix_and_checked_on_the_shipped_ct(
    lungs_checkpoint: Checkpoint, tmp_path: Path
) -> None:
    artifact = me.export(lungs_checkpoint, tmp_path / "net.torchscript")
    again = me.rewrite(lungs_checkpoint, defaults("torchscript", lungs_checkpoint.spec.patch))
    assert list(artifact.manifest.rewrites) == again.rewrites != []
    assert [(case["input"], case["patches"]) for case in artifact.manifest.agreement] == [
        (sample_scan().name, 2),
        ("random", 2),
    ]
    assert Artifact.read(tmp_path / "net.torchscript").manifest == artifact.manifest


def test_a_rewritten_network_is_exported_as_it_is(lungs_checkpoint: Checkpoint, tmp_path: Path) -> None:
    rewritten = me.rewrite(lungs_checkpoint, ("batch-norm",))
    artifact = me.export(rewritten, str(tmp_path / "net.torchscript"), scans=[str(sample_scan())])
    assert names_of(artifact) == {"batch-norm"}
    assert artifact.manifest.gflop == pytest.approx(rewritten.after.gflop if rewritten.after else None)


def test_half_precision_is_made_from_the_rewritten_network_and_judged_on_the_samples(
    lungs_checkpoint: Checkpoint, tmp_path: Path
) -> None:
    scan = {"scan": me.sample_patches(me.read_volume(sample_scan()), lungs_checkpoint.spec, 1)}
    path = tmp_path / "net.onnx"
    manifest = me.export(lungs_checkpoint, path, precision="fp16", samples=scan).manifest
    assert manifest.gate == FileGate(0.9995)
    assert manifest.precision == "fp16"
    assert manifest.recipe["measured_on"] == {"scan": 1}
    gates = {case["input"]: case["thresholds"] for case in manifest.agreement}
    assert gates["scan"]["min_dice"] == 0.9995
    assert gates["random"] == FP16_SMOKE.to_json()
    assert {one.name for one in tmp_path.iterdir()} == {"net.onnx", "net.onnx.json"}


def test_half_precision_is_held_to_the_gate_that_is_given(small_checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(AgreementError):
        me.export(
            me.load_checkpoint(small_checkpoint),
            tmp_path / "net.onnx",
            precision="fp16",
            gate=Thresholds(min_sqnr_db=200),
        )
    assert list(tmp_path.iterdir()) == []


def test_what_contradicts_itself_is_refused_before_the_work(lungs_checkpoint: Checkpoint, tmp_path: Path) -> None:
    spec = lungs_checkpoint.spec
    noise = {"random": np.zeros((1, spec.in_channels, *spec.patch), np.float32)}
    path = tmp_path / "net.torchscript"
    with pytest.raises(UsageError, match="fp32, or fp16"):
        me.export(lungs_checkpoint, path, precision="fp16")
    with pytest.raises(UsageError, match="calibrate"):
        me.export(lungs_checkpoint, tmp_path / "net.onnx", precision="int8")
    with pytest.raises(UsageError, match="a sample named random"):
        me.export(lungs_checkpoint, path, samples=noise)
    with pytest.raises(UsageError, match="no sample"):
        me.export(lungs_checkpoint, path, samples={})
    with pytest.raises(UsageError, match="samples and scans"):
        me.export(lungs_checkpoint, path, samples={"scan": noise["random"]}, scans=[sample_scan()])
    with pytest.raises(UsageError, match="comes twice"):
        me.export(lungs_checkpoint, path, scans=[sample_scan(), sample_scan()])
    assert list(tmp_path.iterdir()) == []


def test_scans_of_one_name_are_all_checked(small_checkpoint: Path, tmp_path: Path) -> None:
    for folder in ("first", "second"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "scan.nrrd").write_bytes(sample_scan().read_bytes())
    scans = [tmp_path / folder / "scan.nrrd" for folder in ("first", "second")]
    artifact = me.export(me.load_checkpoint(small_checkpoint), tmp_path / "net.torchscript", scans=scans)
    assert [case["input"] for case in artifact.manifest.agreement] == [*map(str, scans), "random"]
