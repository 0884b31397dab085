"""--geometry and --volume mean the same in every command that reads a scan, and are told where the scan is named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from medattn_edge.io import Scan
from medattn_edge.models import checkpoint as checkpoints
from tests.support.busy_host import check_measured
from tests.support.scans import write_nifti

Run = Callable[..., Any]
CHOICE = ("--geometry", "qform", "--volume", "2")
NAME = "two.nii.gz, qform, volume 2"
CHOSEN = f"{NAME}: the scan's qform was chosen over its sform, which contradicts it"


def _save(path: Path, voxels: Any) -> Path:
    """A NIfTI whose sform has other spacings than its qform."""
    image = nibabel.Nifti1Image(voxels, None)
    image.set_sform(np.diag((-1.0, -1.0, 1.0, 1.0)), 1)
    image.set_qform(np.diag((-2.5, -2.5, 8.0, 1.0)), 1)
    nibabel.save(image, path)
    return path


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two time points whose header contradicts itself, and beside it labels with the same header."""
    rng = np.random.default_rng(12)
    voxels = (rng.random((48, 40, 9, 2)) * 1400 - 1000).astype(np.float32)
    path = _save(tmp_path_factory.mktemp("two") / "two.nii.gz", voxels)
    _save(path.with_name("truth.nii.gz"), (voxels[..., 1] > 0).astype(np.uint8))
    return path


@pytest.fixture(scope="module")
def second(two: Path) -> Path:
    """The second volume where the qform puts it, as a file of its own."""
    volume = Scan(two, geometry="qform", volume=2).read()
    return write_nifti(two.with_name("second.nii.gz"), volume)


def test_inspect_shows_the_volume_that_is_chosen_and_why_it_lies_there(medattn: Run, two: Path) -> None:
    refused = medattn("inspect", two)
    assert refused.returncode == 4
    assert "contradict" in refused.stderr
    facts = json.loads(medattn("inspect", two, *CHOICE, "--json").stdout)
    assert (facts["name"], facts["shape"], facts["spacing_mm"]) == (NAME, [9, 40, 48], [8.0, 2.5, 2.5])
    assert facts["geometry"]["geometry"] == "qform"
    assert [note for note in facts["notes"] if "chosen over its sform" in note]
    done = medattn("inspect", two, *CHOICE)
    assert "its qform (sform code 1, qform code 1)" in done.stdout
    assert "note: the scan's qform was chosen" in done.stdout


@pytest.mark.slow
def test_compare_reads_what_infer_reads_and_the_labels_that_have_its_header(
    medattn: Run, checkpoint: Path, artifact: Path, two: Path, second: Path
) -> None:
    truth = ("--labels", two.with_name("truth.nii.gz"), "--label-value", "right_lung=1", "--judge-labels", "right_lung")
    done = medattn("compare", checkpoint, artifact, two, *CHOICE, *truth, "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    [case] = told["candidates"][0]["cases"]
    assert case["name"] == NAME
    assert any(note.startswith(CHOSEN) for note in told["notes"])
    assert case["reference_dice"]["right_lung"] > 0
    alone = json.loads(medattn("compare", checkpoint, artifact, second, "--json").stdout)
    assert alone["candidates"][0]["cases"][0]["sqnr_db"] == case["sqnr_db"]


def test_compare_refuses_a_choice_that_the_scan_does_not_have(
    medattn: Run, checkpoint: Path, artifact: Path, two: Path
) -> None:
    assert medattn("compare", checkpoint, artifact, two, "--volume", "2").returncode == 4
    assert medattn("compare", checkpoint, artifact, two, *CHOICE[:2], "--volume", "3").returncode == 2


@pytest.mark.slow
def test_bench_and_export_name_the_choice_and_refuse_one_of_nothing(
    medattn: Run, checkpoint: Path, artifact: Path, two: Path, tmp_path: Path
) -> None:
    quick = ("--duration", "0.1", "--warm-up", "0", "--threads", "1", "--samples", "2")
    done = medattn("bench", artifact, "--reference", checkpoint, "--scan", two, *CHOICE, *quick, "--json")
    check_measured(done)
    told = json.loads(done.stdout)
    assert told["samples"] == [NAME]
    assert any(note.startswith(CHOSEN) for note in told["notes"])
    assert CHOSEN in done.stderr
    assert medattn("bench", artifact, "--reference", checkpoint, "--volume", "2", *quick).returncode == 2

    output = tmp_path / "net.onnx"
    done = medattn("export", checkpoint, "-o", output, "--scan", two, *CHOICE, "--json")
    assert done.returncode == 0, done.stderr
    assert CHOSEN in done.stderr
    assert NAME in [case["input"] for case in json.loads(done.stdout)["agreement"]]
    alone = medattn("export", checkpoint, "-o", tmp_path / "b.onnx", "--geometry", "qform")
    assert alone.returncode == 2
    assert "--geometry or --volume without a scan" in alone.stderr


def test_calibrate_keeps_it_in_the_recipe(medattn: Run, artifact: Path, two: Path, tmp_path: Path) -> None:
    done = medattn(
        *("calibrate", artifact, two, *CHOICE, "-o", tmp_path / "net.int8.onnx", "--profile", "cpu", "--gate", "0"),
        *("--samples", "4", "--held-out-samples", "3", "--threads", "1", "--quantizer", "onnxruntime"),
        *("--cache", tmp_path / "cache", "--json"),
    )
    assert done.returncode == 0, done.stderr
    recipe = json.loads(done.stdout)["recipe"]
    assert recipe["calibrated_on"] == {NAME: 4}
    assert [note for note in recipe["scan_notes"] if note.startswith(CHOSEN)]


def test_train_learns_from_it_and_says_so(medattn: Run, two: Path, second: Path, tmp_path: Path) -> None:
    truth = two.with_name("truth.nii.gz")
    words = ("--network", "attention-unet-2d", "--set", "width=4", "--patch", "32x32", "--threads", "1")
    words += ("--epochs", "1", "--steps", "1", "--batch", "2", "--label", "1=bright:1", "--blocks", "3")
    output = tmp_path / "net.safetensors"
    done = medattn("train", two, truth, "-o", output, *words, *CHOICE, "--plane", "coronal", "--orientation", "RAS")
    assert done.returncode == 0, done.stderr
    assert CHOSEN in done.stderr
    assert "orientation RSA: coronal slices" in done.stderr
    loaded = checkpoints.load(output)
    assert loaded.notes["split"][0]["scan"] == NAME
    assert loaded.spec.orientation == "RSA"
    assert loaded.spec.spacing == (8.0, 2.5)
    for wrong in (("--volume", "2"), ("--orientation", "RAX"), ("--plane", "oblique")):
        assert medattn("train", two, truth, "-o", tmp_path / "b.safetensors", *words, *wrong).returncode in (2, 4)


def test_a_choice_for_several_scans_of_one_patient_is_refused(
    medattn: Run, checkpoint: Path, artifact: Path, two: Path, second: Path
) -> None:
    done = medattn("compare", checkpoint, artifact, f"{two}+{second}", "--volume", "2")
    assert done.returncode == 2
    assert "--volume with 2 scans" in done.stderr
