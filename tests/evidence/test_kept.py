"""What was compared and measured is kept, and the report made of it is the one that would have been made at once."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from medattn_edge.agreement import Thresholds
from medattn_edge.errors import IntegrityError, MedattnError, UsageError
from medattn_edge.evaluation import ComparisonSettings, TrueLabels, compare
from medattn_edge.evidence import ComparisonKeeper, KeptComparison, KeptMeasurement, ReportSettings, gather
from medattn_edge.evidence.anonymity import CaseNames
from medattn_edge.inference import segment_to
from medattn_edge.io import as_scan
from tests.support.networks import with_other_weights
from tests.support.scans import write_nifti
from tests.support.sessions import make_volume

COMPARED = ComparisonSettings(threads=1)
SETTINGS = ReportSettings(comparison=COMPARED, timing=None, pictures=2)
EASY = Thresholds(min_dice=0.2, min_true_dice_share=0.2, max_true_dice_share=2.0)


@pytest.fixture(scope="module")
def files(checkpoint: Path, artifact: Path, scans: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a comparison of two artifacts that was kept, the artifacts, and true labels."""
    folder = tmp_path_factory.mktemp("kept")
    other = with_other_weights(artifact, folder / "other.onnx", 1.3)
    for number, scan in enumerate(scans):
        segment_to(checkpoint, scan, folder / f"Doe_truth_{number}.nii.gz")
    (folder / "comparison").mkdir()
    keeper = ComparisonKeeper(folder / "comparison")
    found = compare(
        checkpoint,
        [artifact, other],
        scans,
        labels=TrueLabels(truths(folder), {}, EASY.min_true_dice_share, EASY.max_true_dice_share),
        thresholds=EASY,
        settings=COMPARED,
        observer=keeper,
    )
    keeper.finish(found, CaseNames.of_files([as_scan(one) for one in scans], truths(folder)), truths(folder))
    return folder


def truths(folder: Path) -> list[Path]:
    return [folder / f"Doe_truth_{number}.nii.gz" for number in range(2)]


def test_a_report_of_what_was_kept_is_the_one_that_would_have_been_made_at_once(
    checkpoint: Path, artifact: Path, scans: list[Path], files: Path
) -> None:
    both = [artifact, files / "other.onnx"]
    more = {"labels": truths(files), "thresholds": EASY, "settings": SETTINGS}
    kept = KeptComparison.read(files / "comparison")
    later = gather(checkpoint, both, scans, compared=kept, **more)  # type: ignore[arg-type]
    at_once = gather(checkpoint, both, scans, **more)  # type: ignore[arg-type]
    assert later.to_json() == at_once.to_json()
    assert later.overlays
    assert all(run.flips for case in later.cases for run in case.runs if run.artifact == "other.onnx")
    one = gather(checkpoint, both[1:], scans, compared=kept.only("other.onnx", ["onnxruntime"]), **more)  # type: ignore[arg-type]
    assert [row["artifact"] for row in one.runs] == ["other.onnx"]
    assert [case.runs[0] for case in one.cases] == [case.runs[1] for case in later.cases]


def test_no_name_of_a_scan_is_kept(files: Path) -> None:
    text = (files / "comparison" / "comparison.json").read_text()
    assert "other.onnx" in text
    assert not [name for name in ("Doe", "Roe", "Jane", "Richard", str(files)) if name in text]


@pytest.mark.parametrize("changed", ["the artifact", "a scan", "a runtime", "one scan more", "no labels", "labels"])
def test_what_is_not_what_was_compared_is_refused(
    checkpoint: Path, scans: list[Path], files: Path, tmp_path: Path, changed: str
) -> None:
    kept, path, given = KeptComparison.read(files / "comparison"), files / "other.onnx", list(scans)
    labels = [] if changed == "no labels" else truths(files)
    error: type[MedattnError] = IntegrityError
    if changed == "the artifact":
        path = with_other_weights(path, tmp_path / "other.onnx", 1.1)
    if changed == "a scan":
        voxels = np.random.default_rng(7).random((3, 40, 36)).astype(np.float32)
        given[1] = write_nifti(tmp_path / "other.nii.gz", make_volume(voxels, (5.0, 1.5, 1.5)))
    if changed == "a runtime":
        kept, error = kept.only("other.onnx", ["openvino"]), UsageError
    if changed == "one scan more":
        given, labels, error = [*scans, scans[0]], [*labels, labels[0]], UsageError
    if changed in ("labels", "no labels"):
        labels, error = labels[::-1], UsageError
    with pytest.raises(error) as raised:
        gather(checkpoint, [path], given, labels=labels, compared=kept, settings=SETTINGS)
    assert "compare again" in raised.value.hint


def row(late: int | None) -> dict[str, object]:
    samples = None if late is None else [10.0] * (20 - late) + [30.0] * late
    return {"artifact": "net.onnx", "backend": "onnxruntime", "samples_ms": samples}


def test_a_measurement_comes_back_and_stands_beside_any_deadline() -> None:
    kept = KeptMeasurement({"cpu": "a"}, (row(3), row(None)), {"openvino": "not here"}, ("a note",))
    assert KeptMeasurement.from_json(json.loads(json.dumps(kept.to_json()))) == kept
    assert [one["miss_rate"] for one in kept.beside(20.0)] == [0.15, None]
    assert [one["miss_rate"] for one in kept.beside(None)] == [None, None]
    measured = KeptMeasurement(rows=({**row(3), "deadline_ms": 20.0, "miss_rate": 0.16},))
    assert measured.beside(20.0)[0]["miss_rate"] == 0.16, "what was measured with it is not counted again"
    assert measured.beside(40.0)[0]["miss_rate"] == 0.0
