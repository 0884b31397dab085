"""Evidence of real files: its figures are those of the labels that are written, and no name of a scan is in it."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from medattn_edge.agreement import Thresholds
from medattn_edge.artifact import Artifact, sha256
from medattn_edge.errors import UsageError
from medattn_edge.evaluation import BenchSettings, ComparisonSettings, measure
from medattn_edge.evidence import (
    AttentionPair,
    LayerFigure,
    RejectedCandidate,
    ReportSettings,
    gather,
    write_report,
)
from medattn_edge.evidence.surfaces import surface_figures
from medattn_edge.inference import segment_to
from medattn_edge.io import read_labels, read_volume
from tests.support.evidence import png
from tests.support.networks import with_other_weights

UNTIMED = ReportSettings(comparison=ComparisonSettings(threads=1), timing=None, pictures=1)
TIMED = replace(UNTIMED, timing=BenchSettings(duration_s=0.05, warm_up_s=0.0))
EASY = Thresholds(min_dice=0.2)


def dice(first: np.ndarray, second: np.ndarray) -> float:
    return 2 * np.count_nonzero(first & second) / (np.count_nonzero(first) + np.count_nonzero(second))


def test_the_figures_are_those_of_the_labels_as_they_are_written(
    checkpoint: Path, artifact: Path, scans: list[Path], tmp_path: Path
) -> None:
    other = with_other_weights(artifact, tmp_path / "other.onnx", 1.3)
    truths = []
    for number, scan in enumerate(scans):
        segment_to(checkpoint, scan, tmp_path / f"truth_Doe{number}.nii.gz")
        truths.append(tmp_path / f"truth_Doe{number}.nii.gz")
    found = gather(
        checkpoint, [other], scans, labels=truths, settings=UNTIMED,
        thresholds=Thresholds(min_dice=0.2, min_true_dice_share=0.2, max_true_dice_share=2.0),
    )  # fmt: skip
    assert found.passed
    assert found.reference == {"name": "net.safetensors", "sha256": sha256(checkpoint)}
    assert found.artifacts["other.onnx"]["sha256"] == sha256(other)
    for number, (case, scan) in enumerate(zip(found.cases, scans, strict=True), 1):
        segment_to(other, scan, tmp_path / "mine.nii.gz")
        mine, right, volume = read_labels(tmp_path / "mine.nii.gz"), read_labels(truths[number - 1]), read_volume(scan)
        (run,) = case.runs
        (organ,) = run.labels
        assert (case.name, case.shape, case.unit) == (f"case {number}", volume.shape, "mm")
        assert organ.dice == pytest.approx(dice(mine.voxels == 1, right.voxels == 1))
        assert organ.candidate_dice == pytest.approx(organ.dice)  # the true labels are the reference's own
        assert (organ.reference_dice, organ.true_dice_share) == (1.0, pytest.approx(organ.dice))
        assert organ.candidate_volume == pytest.approx(np.count_nonzero(mine.voxels) * 5 * 1.5 * 1.5 / 1000)
        assert run.flips == np.count_nonzero(mine.voxels != right.voxels) > 0
        assert 0 < run.boundary_flips <= run.flips
        assert organ.reference_to_truth is not None
        assert (organ.reference_to_truth.hd95, organ.reference_to_truth.surface_dice_2_mm) == (0.0, 1.0)
        assert organ.to_truth == organ.to_reference
        assert organ.to_reference == surface_figures(mine.voxels == 1, right.voxels == 1, volume.spacing)
        assert organ.to_reference.surface_dice_1_voxel is not None
        assert 0 < organ.to_reference.surface_dice_1_voxel < 1
    (agreement,) = found.volumes
    volumes = [case.runs[0].labels[0] for case in found.cases]
    assert agreement.bias == pytest.approx(np.mean([one.candidate_volume - one.reference_volume for one in volumes]))
    (overlay,) = found.overlays
    assert overlay.flips == max(  # of all slices of both scans
        int(np.count_nonzero(plane))
        for number, scan in enumerate(scans)
        for plane in _differences(other, scan, truths[number], tmp_path)
    )
    missing = {one.what: one.reason for one in found.not_measured}
    assert missing["Latency, memory and roofline"] == "it was not asked for (--no-timing)"
    assert {"Attention maps", "SQNR by layer", "Speed and answer on a GPU"} <= set(missing)
    assert "True Dice, and its share of the reference's" not in missing
    page, document = write_report(found, tmp_path)
    for path in (page, document):
        text = re.sub(r"base64,[^\"]*", "", path.read_text())  # in which any three letters are found by chance
        assert not [name for name in ("Doe", "Roe", "Jane", "Richard", str(tmp_path)) if name in text], path


def _differences(artifact: Path, scan: Path, truth: Path, folder: Path) -> np.ndarray:
    segment_to(artifact, scan, folder / "again.nii.gz")
    return read_labels(folder / "again.nii.gz").voxels != read_labels(truth).voxels


def test_an_artifact_that_lost_the_answer_fails_with_all_its_figures_and_no_name(
    checkpoint: Path, artifact: Path, scans: list[Path], tmp_path: Path
) -> None:
    other = with_other_weights(artifact, tmp_path / "other.onnx", 1.3)
    found = gather(
        checkpoint, [artifact, other], scans[:1], settings=replace(UNTIMED, pictures=0),
        candidates=[RejectedCandidate("fp16 on Doe_Jane.nii.gz", f"slower on {scans[0]}", {"Doe_Jane.nii.gz": 1.0})],
        attention=[AttentionPair("gate of Doe_Jane.nii.gz", png(1), png(2), {"correlation": 1.0})],
        layers=[LayerFigure("other.onnx", "head", "INT8", 33.0, "output on Doe_Jane.nii.gz")],
    )  # fmt: skip
    assert "Doe" not in json.dumps(found.to_json())
    assert found.candidates == (RejectedCandidate("fp16 on case 1", "slower on case 1", {"case 1": 1.0}),)
    assert (found.attention[0].title, found.layers[0].measured) == ("gate of case 1", "output on case 1")
    assert not found.passed
    (check,) = found.checks
    assert check.verdict == "fail"
    assert check.outcome == "1 of 2 pairs of artifact and runtime held it on the scan"
    (failure,) = check.failures
    assert failure.startswith("other.onnx in onnxruntime on case 1: Dice with the reference of organ is 0.")
    assert [row["verdict"] for row in found.runs] == ["pass", "fail"]
    assert [run.artifact for run in found.cases[0].runs] == ["net.onnx", "other.onnx"]
    missing = {one.what: one.reason for one in found.not_measured}
    assert missing["Bland and Altman's agreement of volumes"] == "1 case, and a spread takes 2 or more"
    assert "--labels" in missing["True Dice, and its share of the reference's"]
    assert missing["Pictures of the worst slices"] == "none were asked for (--pictures 0)"
    named = gather(checkpoint, [other], scans[:1], settings=replace(UNTIMED, pictures=0, identify=True))
    assert named.cases[0].name == "Doe_Jane.nii.gz"
    assert "on Doe_Jane.nii.gz: " in named.checks[0].failures[0]


@pytest.mark.slow
def test_latency_stands_beside_the_deadline_and_an_impossible_one_fails(
    checkpoint: Path, artifact: Path, scans: list[Path]
) -> None:
    measured = measure([artifact], checkpoint, scans[:1], settings=BenchSettings(duration_s=0.05, threads=1))
    found = gather(checkpoint, [artifact], scans[:1], deadline_ms=60_000, measured=measured, settings=UNTIMED)
    assert [check.name for check in found.checks] == ["The answer", "The answer while it was timed", "The deadline"]
    assert found.passed
    assert found.latency is not None
    reference, row = found.latency["rows"]
    assert (reference["artifact"], row["artifact"], row["miss_rate"]) == ("net.safetensors", "net.onnx", 0.0)
    assert len(row["samples_ms"]) == row["rounds"] >= 5
    assert row["p50_ms"] == pytest.approx(np.median(row["samples_ms"]), abs=1e-3)
    json.dumps(found.to_json(), allow_nan=False)
    late = gather(checkpoint, [artifact], scans[:1], deadline_ms=1e-6, measured=measured, settings=UNTIMED)
    assert [check.verdict for check in late.checks] == ["pass", "pass", "fail"]


def test_a_deadline_that_nobody_measured_is_not_met(checkpoint: Path, artifact: Path, scans: list[Path]) -> None:
    untimed = gather(checkpoint, [artifact], scans[:1], deadline_ms=60_000, settings=UNTIMED)
    assert untimed.checks[-1].failures == ("net.onnx was not timed",)
    assert not untimed.passed


def test_what_cannot_be_timed_is_said_and_not_left_out(
    checkpoint: Path, artifact: Path, scans: list[Path], tmp_path: Path
) -> None:
    """A file of other weights under a manifest of another checkpoint can be compared, and bench refuses it."""
    stranger = with_other_weights(artifact, tmp_path / "stranger.onnx", 1.0)
    manifest = Artifact.read(stranger).manifest
    replace(manifest, parent_sha256="e" * 64, lineage=("e" * 64,)).write(tmp_path / "stranger.onnx.json")
    found = gather(checkpoint, [stranger], scans[:1], thresholds=EASY, settings=TIMED)
    assert found.latency is None
    [reason] = [one.reason for one in found.not_measured if one.what == "Latency, memory and roofline"]
    assert reason.startswith("stranger.onnx was not made from net.safetensors")
    assert any("was not made from" in note for note in found.notes)


def test_what_cannot_become_a_report_is_refused_before_anything_runs(
    checkpoint: Path, artifact: Path, scans: list[Path], tmp_path: Path
) -> None:
    (tmp_path / "twin").mkdir()
    same = with_other_weights(artifact, tmp_path / "twin" / "net.onnx")
    with pytest.raises(UsageError, match=r"two artifacts of the name net\.onnx"):
        gather(checkpoint, [artifact, same], scans)
    for deadline in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(UsageError, match="a deadline of"):
            gather(checkpoint, [artifact], scans, deadline_ms=deadline)
    with pytest.raises(UsageError, match="1 label files for 2 scans"):
        gather(checkpoint, [artifact], scans, labels=[scans[0]])
