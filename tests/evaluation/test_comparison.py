"""One call compares files on scans: candidates in processes of their own, true labels, the document, the verdict."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from medattn_edge.agreement import Thresholds
from medattn_edge.errors import HostError, ScanError, UsageError
from medattn_edge.evaluation import ComparisonSettings, TrueLabels, compare
from medattn_edge.inference import segment_to
from medattn_edge.io import Scan, read_labels, write_labels
from medattn_edge.models.checkpoint import load, save
from medattn_edge.spec import Cleanup
from tests.support.sessions import make_volume

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


def test_rows_stand_in_the_order_of_the_candidates_whatever_their_graphs(
    checkpoint: Path, artifact: Path, scan: Path
) -> None:
    comparison = compare(checkpoint, [checkpoint, artifact], [scan], settings=QUICK)
    rows = comparison.to_json()["candidates"]
    assert [row["artifact"] for row in rows] == [str(checkpoint), str(artifact)]
    assert rows[0]["cases"][0]["max_abs"] == 0


def test_true_labels_are_held_against_both(checkpoint: Path, artifact: Path, scan: Path, tmp_path: Path) -> None:
    segment_to(checkpoint, scan, tmp_path / "truth.npz")
    truth = TrueLabels([tmp_path / "truth.npz"], min_dice_ratio=0.99)
    comparison = compare(checkpoint, [artifact], [scan], labels=truth, settings=QUICK)
    (case,) = comparison.to_json()["candidates"][0]["cases"]
    assert case["reference_dice"] == {"organ": 1.0}
    assert case["candidate_dice"]["organ"] > 0.99
    assert comparison.to_json()["thresholds"]["min_dice_ratio"] == 0.99
    lost = compare(checkpoint, [artifact], [scan], labels=TrueLabels(truth.files, {}, 1.5), settings=QUICK).to_json()[
        "candidates"
    ][0]
    assert "true Dice of organ is" in lost["cases"][0]["failures"][0]
    assert lost["verdict"] == "fail"


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
    assert compare(net, [net], [nothing], thresholds=Thresholds(min_sqnr_db=90), settings=QUICK).passed


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
    with pytest.raises(UsageError, match="--min-dice-ratio"):
        compare(checkpoint, [artifact], [scan], labels=TrueLabels(min_dice_ratio=0.9))
    with pytest.raises(UsageError, match="comes twice"):
        compare(checkpoint, [artifact, artifact], [scan])
    with pytest.raises((UsageError, HostError), match="no-such"):
        compare(checkpoint, [artifact], [scan], runtimes=["no-such"])
