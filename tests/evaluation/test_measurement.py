"""One call measures artifacts beside their reference: what is planned, what is refused, what comes out."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from medattn_edge.artifact import Artifact, manifest_path
from medattn_edge.backends.check import NO_LABEL
from medattn_edge.errors import InputError, UsageError
from medattn_edge.evaluation import BenchSettings, PlanSettings, measure, plan_measurement
from medattn_edge.file_gate import FileGate
from medattn_edge.io import write_labels
from medattn_edge.models import checkpoint as checkpoints
from tests.support.networks import SMALL, export_checkpoint, random_network
from tests.support.sessions import make_volume

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("scan") / "scan.npz"
    write_labels(path, make_volume(np.random.default_rng(1).integers(0, 2, (4, 40, 36)).astype(np.uint8)), ("a", "b"))
    return path


def test_an_artifact_is_held_to_its_checkpoint_and_timed_beside_it(
    checkpoint: Path, artifact: Path, scan: Path
) -> None:
    stages: list[str] = []
    measurement = measure(
        [artifact],
        checkpoint,
        [scan],
        chosen=PlanSettings(patches=2, fp32_floors={"min_sqnr_db": 80.0}),
        settings=BenchSettings(duration_s=0.1, warm_up_s=0, threads=1),
        progress=lambda what, done, total: stages.append(what),
    )
    assert measurement.passed
    document = json.loads(json.dumps(measurement.to_json(), allow_nan=False))
    assert (document["reference"], document["samples"]) == (str(checkpoint), ["scan.npz"])
    first, row = document["rows"]
    assert (first["backend"], first["artifact"]) == ("eager", checkpoint.name)
    assert row["thresholds"]["min_sqnr_db"] == 80
    assert row["p50_ms"] > 0
    assert "timing, in s" in stages


def test_a_folder_of_dicom_is_real_input(checkpoint: Path, artifact: Path, tmp_path: Path) -> None:
    pytest.importorskip("pydicom", reason="the extra dicom is not installed")
    from tests.support.dicom_phantoms import real_ct, write_series

    ct = real_ct(4, 40, 36)
    write_series(tmp_path / "series", ct.voxels, ct.affine)
    plan = plan_measurement([artifact], checkpoint, [tmp_path / "series"], chosen=PlanSettings(patches=3))
    assert plan.samples["series"].shape == (3, 1, *SMALL.patch)
    assert plan.settings.threads > 0
    assert [one.path for one in (plan.reference, *plan.candidates)] == [checkpoint, artifact]


def test_a_file_is_held_to_the_gate_that_it_carries_and_what_cannot_be_held_is_said(
    checkpoint: Path, artifact: Path, scan: Path, tmp_path: Path
) -> None:
    path = tmp_path / "net.int8.onnx"
    path.write_bytes(artifact.read_bytes())
    gate = FileGate(0.98, 0.99, 1.02, ("organ",))
    replace(Artifact.read(artifact).manifest, precision="int8", gate=gate).write(manifest_path(path))

    def planned(**floors: float) -> tuple[set[float | None], str]:
        chosen = PlanSettings(patches=2, runtimes=["onnxruntime"], reduced_floors=floors)
        plan = plan_measurement([path], checkpoint, [scan], chosen=chosen)
        return {one.gate.min_dice for one in plan.candidates}, "\n".join(plan.notes)

    dice, said = planned()
    assert dice == {0.98}
    assert "Dice with the reference at least 0.98, as the file carries it; beside it SQNR in dB at least 30" in said
    assert "on noise, where labels mean nothing, only finite logits" in said
    assert "share of the reference's true Dice at least 0.99 and at most 1.02 cannot be held here" in said
    assert planned(min_dice=0.99)[0] == {0.99}
    with pytest.raises(UsageError, match=r"--min-dice 0\.5 is looser than the gate that net\.int8\.onnx carries"):
        planned(min_dice=0.5)


def test_labels_that_the_reference_does_not_find_are_said_to_be_judged_by_nothing(
    checkpoint: Path, artifact: Path, scan: Path, tmp_path: Path
) -> None:
    blind = tmp_path / "blind.safetensors"
    network = random_network(SMALL)
    with torch.no_grad():
        list(network.parameters())[-1].copy_(torch.tensor([1e4, -1e4]))
    checkpoints.save(blind, network, SMALL)
    export_checkpoint(blind, tmp_path / "blind.onnx")
    manifest = replace(Artifact.read(tmp_path / "blind.onnx").manifest, precision="fp16")
    manifest.write(manifest_path(tmp_path / "blind.onnx"))
    measurement = measure(
        [tmp_path / "blind.onnx"],
        blind,
        [scan],
        chosen=PlanSettings(patches=2, runtimes=["onnxruntime"]),
        settings=BenchSettings(duration_s=0.05, warm_up_s=0, threads=1),
    )
    first, row = measurement.to_json()["rows"]
    assert row["agreement"]["min_dice"] is None
    assert row["failures"] == [NO_LABEL]
    assert row["notes"] == ["no Dice with the reference of organ: the reference finds none in the real input"]
    assert first["notes"] == []


def test_what_cannot_be_measured_is_refused_before_a_scan_is_read(
    checkpoint: Path, artifact: Path, tmp_path: Path
) -> None:
    absent = [tmp_path / "absent.npz"]
    with pytest.raises(UsageError, match="no artifact"):
        plan_measurement([], checkpoint, absent)
    with pytest.raises(UsageError, match="comes twice"):
        plan_measurement([artifact, artifact], checkpoint, absent)
    with pytest.raises(UsageError, match="is a checkpoint"):
        plan_measurement([checkpoint], checkpoint, absent)
    with pytest.raises(InputError, match=r"nowhere\.pth does not exist"):
        plan_measurement([artifact], tmp_path / "nowhere.pth", absent)
    other = tmp_path / "other.safetensors"
    other.write_bytes(checkpoint.read_bytes() + b"\0")
    with pytest.raises(UsageError, match="was not made from"):
        plan_measurement([artifact], other, absent)
