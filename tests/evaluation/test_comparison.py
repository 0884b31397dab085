"""One call compares files on scans: candidates in processes of their own, true labels, the document, the verdict."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from medattn_edge.agreement import Thresholds
from medattn_edge.artifact import Artifact, manifest_path
from medattn_edge.errors import HostError, ScanError, UsageError
from medattn_edge.evaluation import ComparisonSettings, TrueLabels, compare
from medattn_edge.file_gate import FileGate
from medattn_edge.gates import TRUE_LABELS
from medattn_edge.inference import segment_to
from medattn_edge.io import Scan, read_labels, write_labels
from medattn_edge.models.checkpoint import load, save
from medattn_edge.spec import Cleanup
from tests.support.networks import with_other_weights
from tests.support.sessions import make_volume

pytestmark = pytest.mark.slow

QUICK = ComparisonSettings(threads=1)


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("scan") / "scan.npz"
    write_labels(path, make_volume(np.random.default_rng(1).integers(0, 2, (4, 40, 36)).astype(np.uint8)), ("a", "b"))
    return path


def test_an_artifact_agrees_with_its_checkpoint(checkpoint: Path, artifact: Path, scan: Path) -> None:
    progress: list[tuple[str, int, int]] = []
    comparison = compare(
        checkpoint,
        [artifact],
        [scan],
        thresholds=Thresholds(min_dice=0.999, min_sqnr_db=90),
        settings=QUICK,
        progress=lambda name, done, total: progress.append((name, done, total)),
    )
    assert comparison.passed
    document = json.loads(json.dumps(comparison.to_json(), allow_nan=False))
    (row,) = document["candidates"]
    assert (row["artifact"], row["backend"], row["failures"]) == (str(artifact), "onnxruntime", [])
    (case,) = row["cases"]
    assert case["scan"] == str(scan)
    assert case["sqnr_db"] > 90
    assert "reference_dice" not in case
    assert document["verdict"] == "pass"
    assert (progress[-1][0], progress[-1][1]) == ("scan.npz", progress[-1][2])


def test_a_file_with_fewer_windows_is_held_to_the_checkpoint_with_its_own(
    checkpoint: Path, artifact: Path, tmp_path: Path
) -> None:
    scan, voxels = tmp_path / "scan.npz", np.random.default_rng(1).integers(0, 2, (1, 30, 100)).astype(np.uint8)
    write_labels(scan, make_volume(voxels), ("a", "b"))
    usual = Artifact.read(artifact).manifest
    tuned = tmp_path / "tuned.onnx"
    tuned.write_bytes(artifact.read_bytes())
    tiling = {"reference_overlap": 0.5}
    replace(usual, spec=replace(usual.spec, overlap=0.0), tiling=tiling).write(manifest_path(tuned))
    assert Artifact.read(tuned).manifest.reference_spec == usual.spec
    found = compare(checkpoint, [artifact, tuned], [scan], settings=QUICK)
    rows = {Path(row["artifact"]).name: row["cases"][0] for row in found.to_json()["candidates"]}
    assert rows["net.onnx"]["sqnr_db"] > 90 > rows["tuned.onnx"]["sqnr_db"]
    alone = compare(checkpoint, [tuned], [scan], settings=QUICK).to_json()["candidates"][0]
    assert alone["cases"][0]["sqnr_db"] == rows["tuned.onnx"]["sqnr_db"]
    assert alone["failures"] == []  # no runtime is to blame for what windows do
    assert not any(ruling.refused for _, ruling in found.graphs)
    alike = compare(checkpoint, [tuned], [scan], settings=replace(QUICK, overlap=0.25)).to_json()["candidates"][0]
    assert alike["cases"][0]["sqnr_db"] > 90


def test_rows_stand_in_the_order_of_the_candidates_whatever_their_graphs(
    checkpoint: Path, artifact: Path, scan: Path
) -> None:
    comparison = compare(checkpoint, [checkpoint, artifact], [scan], settings=QUICK)
    rows = comparison.to_json()["candidates"]
    assert [row["artifact"] for row in rows] == [str(checkpoint), str(artifact)]
    assert rows[0]["cases"][0]["max_abs"] == 0


def test_true_labels_are_held_against_both(checkpoint: Path, artifact: Path, scan: Path, tmp_path: Path) -> None:
    segment_to(checkpoint, scan, tmp_path / "truth.npz")
    truth = TrueLabels([tmp_path / "truth.npz"], min_true_dice_share=0.99)
    comparison = compare(checkpoint, [artifact], [scan], labels=truth, settings=QUICK)
    (case,) = comparison.to_json()["candidates"][0]["cases"]
    assert case["reference_dice"] == {"organ": 1.0}
    assert case["candidate_dice"]["organ"] > 0.99
    assert case["true_dice_share"]["organ"] == pytest.approx(1, abs=0.01)
    assert comparison.to_json()["thresholds"] == {**TRUE_LABELS.limits, "min_true_dice_share": 0.99}
    for wrong, said in (
        (TrueLabels(truth.files, {}, 1.005), "below 1.005"),
        (TrueLabels(truth.files, {}, 0.5, 0.9), "above 0.9"),
    ):
        [lost] = compare(checkpoint, [artifact], [scan], labels=wrong, settings=QUICK).to_json()["candidates"]
        (failure,) = lost["cases"][0]["failures"]
        assert failure.startswith("share of the reference's true Dice of organ (")
        assert said in failure
        assert lost["verdict"] == "fail"


def with_gate(artifact: Path, path: Path, gate: FileGate) -> Path:
    """The artifact as it would be had this been asked of it."""
    path.write_bytes(artifact.read_bytes())
    replace(Artifact.read(artifact).manifest, gate=gate).write(manifest_path(path))
    return path


def test_each_file_is_held_to_the_gate_that_it_carries(
    checkpoint: Path, artifact: Path, scan: Path, tmp_path: Path
) -> None:
    """A candidate of other weights: what one gate lets through, and another does not."""
    lie = with_other_weights(artifact, tmp_path / "lie.onnx", 1.3)
    [case] = compare(checkpoint, [lie], [scan], settings=QUICK).to_json()["candidates"][0]["cases"]
    dice = case["dice"]["organ"]
    assert 0.5 < dice < 0.999
    easy = with_gate(lie, tmp_path / "easy.onnx", FileGate(round(dice - 0.01, 3)))
    hard = with_gate(lie, tmp_path / "hard.onnx", FileGate(1.0))
    document = compare(checkpoint, [lie, easy, hard], [scan], settings=QUICK).to_json()
    rows = {Path(row["artifact"]).name: row for row in document["candidates"]}
    assert {name: (row["verdict"], row["gate"]) for name, row in rows.items()} == {
        "lie.onnx": ("fail", "usual"),
        "easy.onnx": ("pass", "file"),
        "hard.onnx": ("fail", "file"),
    }
    assert rows["easy.onnx"]["thresholds"] == {"min_dice": round(dice - 0.01, 3)}
    assert any("easy.onnx" in note and "looser than usual" in note for note in document["notes"])
    stricter = compare(checkpoint, [easy], [scan], thresholds=Thresholds(min_dice=1.0), settings=QUICK).to_json()
    assert (stricter["verdict"], stricter["candidates"][0]["gate"]) == ("fail", "file and options")
    with pytest.raises(UsageError, match=r"--min-dice 0\.5 is looser than the gate that easy\.onnx carries"):
        compare(checkpoint, [easy], [scan], thresholds=Thresholds(min_dice=0.5), settings=QUICK)


def test_the_label_values_that_a_file_carries_are_used_and_said(
    checkpoint: Path, artifact: Path, scan: Path, tmp_path: Path
) -> None:
    segment_to(checkpoint, scan, tmp_path / "own.npz")
    own = read_labels(tmp_path / "own.npz")
    write_labels(tmp_path / "truth.npz", own.with_voxels((7 * own.voxels).astype(np.uint8)), tuple("abcdefgh"))
    carried = with_gate(
        artifact, tmp_path / "a.onnx", FileGate(**TRUE_LABELS.limits, labels=("organ",), label_values={"organ": (7,)})
    )
    document = compare(checkpoint, [carried], [scan], labels=[tmp_path / "truth.npz"], settings=QUICK).to_json()
    assert document["verdict"] == "pass"
    assert document["candidates"][0]["cases"][0]["reference_dice"] == {"organ": 1.0}
    assert "label values, as a.onnx carries them: organ=7" in document["notes"]
    without = compare(checkpoint, [carried], [scan], settings=QUICK).to_json()
    assert without["candidates"][0]["thresholds"] == {"min_dice": 0.99}
    assert any("cannot be held here: that takes true labels" in note for note in without["notes"])
    other = with_gate(artifact, tmp_path / "b.onnx", FileGate(**TRUE_LABELS.limits, label_values={"organ": (8,)}))
    with pytest.raises(UsageError, match=r"carry other label values: organ=7; organ=8(.|\n)*--label-value organ="):
        compare(checkpoint, [carried, other], [scan], labels=[tmp_path / "truth.npz"], settings=QUICK)


def test_true_labels_under_another_value_are_refused_with_what_the_file_has(
    checkpoint: Path, artifact: Path, scan: Path, tmp_path: Path
) -> None:
    segment_to(checkpoint, scan, tmp_path / "own.npz")
    own = read_labels(tmp_path / "own.npz")
    truth = np.where(own.voxels == 1, 5, np.uint8(0))
    free = np.argwhere(truth == 0)[:3]
    truth[tuple(free.T)] = 1  # so that the file has the value that a label without --label-value is looked for under
    write_labels(tmp_path / "truth.npz", own.with_voxels(truth), tuple("012345"))
    with pytest.raises(ScanError, match=r"true Dice is below 0\.1 \(organ 0\.0000\)") as told:
        compare(checkpoint, [artifact], [scan], labels=[tmp_path / "truth.npz"], settings=QUICK)
    assert f"5 ({np.count_nonzero(truth == 5):,} voxels" in told.value.found
    assert told.value.expected.endswith("looked for as organ=1")
    assert told.value.hint == "--label-value organ=VALUE, VALUE being one of 5"
    mapped = TrueLabels([tmp_path / "truth.npz"], {"organ": [5]}, 0.99)
    document = compare(checkpoint, [artifact], [scan], labels=mapped, settings=QUICK).to_json()
    assert document["verdict"] == "pass"
    assert [(row["value"], row["labels"]) for row in document["label_audits"][0]["values"]] == [(1, []), (5, ["organ"])]


def test_a_scan_without_anything_to_find_is_named_among_several_and_refused_alone(
    checkpoint: Path, scan: Path, tmp_path: Path
) -> None:
    loaded = load(checkpoint)
    net = tmp_path / "net.safetensors"  # what is smaller than 0.1 ml is nothing to it
    save(net, loaded.network, replace(loaded.spec, cleanup=(Cleanup.parse("drop-below:organ:0.1"),)))
    nothing = tmp_path / "nothing.npz"
    write_labels(nothing, make_volume(np.zeros((1, 8, 8), np.uint8)), ("a",))
    with pytest.raises(ScanError, match=r"finds none of organ in the scan: there is nothing to judge"):
        compare(net, [net], [nothing], settings=QUICK)
    (row,) = compare(net, [net], [nothing, scan], settings=QUICK).to_json()["candidates"]
    empty, full = row["cases"]
    assert (empty["dice"], empty["absent"]) == ({}, ["organ"])
    assert empty["not_judged"] == {"organ": "the reference finds none here"}
    assert (full["absent"], full["not_judged"]) == ([], {})
    # The logits are something to judge.
    assert compare(net, [net], [nothing], thresholds=Thresholds(min_dice=0, min_sqnr_db=90), settings=QUICK).passed


def test_only_labels_of_the_network_can_be_judged(checkpoint: Path, artifact: Path, scan: Path) -> None:
    settings = ComparisonSettings(threads=1, judge_labels=("liver",))
    with pytest.raises(UsageError, match=r"--judge-labels names liver(.|\n)*some of organ"):
        compare(checkpoint, [artifact], [scan], settings=settings)


def test_a_folder_of_dicom_is_a_scan(checkpoint: Path, artifact: Path, tmp_path: Path) -> None:
    pytest.importorskip("pydicom", reason="the extra dicom is not installed")
    from tests.support.dicom_phantoms import real_ct, write_series

    ct = real_ct(4, 40, 36)
    for uid in ("1.2.3.1", "1.2.3.2"):
        write_series(tmp_path / "in", ct.voxels, ct.affine, SeriesInstanceUID=uid, name=uid)
    with pytest.raises(ScanError, match="2 series that can be read"):
        compare(checkpoint, [artifact], [tmp_path / "in"], settings=QUICK)
    from medattn_edge.io.dicom.volume import find_series

    wanted = find_series(tmp_path / "in")[0].hash
    comparison = compare(checkpoint, [artifact], [Scan(tmp_path / "in", wanted)], settings=QUICK)
    assert comparison.to_json()["candidates"][0]["cases"][0]["scan"] == str(tmp_path / "in")
    assert comparison.passed


def test_what_cannot_be_compared_is_refused_before_anything_runs(checkpoint: Path, artifact: Path, scan: Path) -> None:
    with pytest.raises(UsageError, match="at least one of each"):
        compare(checkpoint, [artifact], [])
    with pytest.raises(UsageError, match="2 label files for 1 scans"):
        compare(checkpoint, [artifact], [scan], labels=[scan, scan])
    for name in ("min_true_dice_share", "max_true_dice_share"):
        with pytest.raises(UsageError, match=f"--{name.replace('_', '-')} without --labels"):
            compare(checkpoint, [artifact], [scan], labels=TrueLabels(**{name: 0.9}))
    with pytest.raises(UsageError, match="comes twice"):
        compare(checkpoint, [artifact, artifact], [scan])
    with pytest.raises((UsageError, HostError), match="no-such"):
        compare(checkpoint, [artifact], [scan], runtimes=["no-such"])
