"""explain as its user types it: what it writes, what it says, and what it refuses with which exit code."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

Run = Callable[..., Any]


def test_a_scan_is_explained_by_the_checkpoint_and_by_what_is_deployed(
    medattn: Run, checkpoint: Path, artifact: Path, scan: Path, tmp_path: Path
) -> None:
    done = medattn("explain", checkpoint, artifact, scan, "-o", tmp_path / "out", "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert [one["map"] for one in document["maps"]] == ["gate_4", "gate_3", "gate_2", "gate_1"]
    assert all(one["sqnr_db"] > 100 and one["correlation"] > 0.999999 for one in document["maps"])
    assert document["artifact_maps"]["from"] == "file"
    assert document["artifact_session"]["backend"] == "onnxruntime"
    assert document["reference_session"]["backend"] == "eager"
    assert document["label_match"] == 1.0
    assert document["artifact"] == str(artifact)
    assert all(Path(path).exists() for path in document["written"].values())
    page = json.loads((tmp_path / "out" / "explain.json").read_text())
    assert page["maps"] == document["maps"]
    assert str(scan) not in json.dumps(page)


def test_the_checkpoint_by_itself_is_enough(medattn: Run, checkpoint: Path, scan: Path, tmp_path: Path) -> None:
    done = medattn("explain", checkpoint, scan, "-o", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert "gate_1" in done.stdout
    assert "explain.html" in done.stdout
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == [
        "attention_reference.nii.gz",
        "explain.html",
        "explain.json",
        "labels_reference.nii.gz",
        "pictures",
    ]
    again = medattn("explain", checkpoint, scan, "-o", tmp_path / "out")
    assert again.returncode == 2
    assert "out-2" in again.stderr


def test_what_makes_no_sense_is_refused_before_the_work(
    medattn: Run, checkpoint: Path, artifact: Path, scan: Path, tmp_path: Path
) -> None:
    for words, code, told in (
        ((checkpoint, artifact, scan, scan), 2, "3 files after the checkpoint"),
        ((checkpoint, scan, "--runtime", "openvino"), 2, "without an artifact"),
        ((checkpoint, artifact, scan, "--runtime", "none"), 2, "the runtime 'none' is not known"),
        ((checkpoint, artifact, tmp_path / "no.nii.gz"), 4, "does not exist"),
        ((checkpoint, scan, scan), 5, "has no manifest"),
        ((checkpoint, tmp_path / "no.onnx", scan), 4, "does not exist"),
        ((tmp_path / "no.pth", scan), 4, "does not exist"),
    ):
        done = medattn("explain", *words, "-o", tmp_path / "out")
        assert (done.returncode, told in done.stderr) == (code, True), (words, done.stderr)
        assert not (tmp_path / "out").exists()
        assert list(tmp_path.iterdir()) == []
