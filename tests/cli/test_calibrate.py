"""calibrate as it is typed: a real chest CT, an INT8 file that keeps the answer, and every way to be told no."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from medattn_edge.data import shipped_checkpoints
from medattn_edge.data.samples import sample_labels, sample_scan
from medattn_edge.gates import TRUE_LABELS

pytestmark = pytest.mark.slow

Run = Callable[..., Any]


@pytest.fixture(scope="module")
def net(medattn: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped 2-D network, exported as the README has it."""
    path = tmp_path_factory.mktemp("net") / "lungs.onnx"
    checkpoint = shipped_checkpoints()["lungs-attention-unet-2d"]
    done = medattn("export", checkpoint, "-o", path, "--batch", "dynamic", "--samples", "1")
    assert done.returncode == 0, done.stderr
    return path


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Never the user's."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "xdg"))


QUICK = ("--profile", "cpu", "--samples", 8, "--held-out-samples", 6, "--threads", 1)


def test_a_scan_makes_an_int8_file_that_passes_lint(medattn: Run, net: Path, tmp_path: Path) -> None:
    output = tmp_path / "net.int8.onnx"
    done = medattn("calibrate", net, sample_scan(), "-o", output, *QUICK, "--gate", 0.98, "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["precision"] == "int8"
    assert told["recipe"]["method"] == "minmax"
    assert {row["quantizer"] for row in told["recipe"]["quantizers"]} == {"nncf-onnx", "onnxruntime"}
    assert medattn("lint", output, "--profile", "cpu").returncode == 0
    assert json.loads(medattn("inspect", output, "--json").stdout)["recipe"]["calibrated_on"] == {"CTChest4.nrrd": 8}


def test_the_tables_show_quantizers_scans_layers_and_what_comes_next(medattn: Run, net: Path, tmp_path: Path) -> None:
    done = medattn(
        *("calibrate", net, sample_scan(), "-o", tmp_path / "net.onnx", "--profile", "tensorrt", "--gate", 0.98),
        *("--samples", 8, "--held-out-samples", 6, "--threads", 1),
    )
    assert done.returncode == 0, done.stderr
    assert "quantizers" in done.stdout
    assert "calibrated on 8 patches of CTChest4.nrrd; judged on 6 patches of CTChest4.nrrd" in done.stdout
    assert "not measured: that takes the GPU" in done.stderr
    assert "medattn-edge compile" in done.stderr


def test_true_labels_of_a_held_out_scan_are_the_gate(medattn: Run, net: Path, scan: Path, tmp_path: Path) -> None:
    values = ("--label-value", "right_lung=5", "--label-value", "left_lung=6")
    done = medattn(
        *(
            "calibrate",
            net,
            scan,
            "-o",
            tmp_path / "net.onnx",
            *QUICK,
            "--quantizer",
            "onnxruntime",
            "--gate",
            0.5,
            "--min-true-dice-share",
            0.5,
            "--json",
        ),
        *("--held-out", sample_scan(), "--labels", sample_labels(), *values),
    )
    assert done.returncode == 0, done.stderr
    (case,) = json.loads(done.stdout)["agreement"]
    assert case["thresholds"] == {**TRUE_LABELS.limits, "min_dice": 0.5, "min_true_dice_share": 0.5}
    assert case["reference_dice"]["right_lung"] > 0.9
    recipe = json.loads(done.stdout)["recipe"]
    assert recipe["judged_labels"] == ["right_lung", "left_lung"]
    [audit] = recipe["label_audits"]
    assert {row["value"]: row["labels"] for row in audit["values"] if row["labels"]} == {
        5: ["right_lung"],
        6: ["left_lung"],
    }


def test_labels_under_other_values_are_refused_with_those_of_the_file(medattn: Run, net: Path, tmp_path: Path) -> None:
    words = ("--labels", sample_labels(), "--json")
    done = medattn("calibrate", net, sample_scan(), "-o", tmp_path / "net.onnx", *QUICK, *words)
    assert done.returncode == 4, done.stdout
    error = json.loads(done.stdout)["error"]
    assert "5 (34,450 voxels, 3,198.1 ml)" in error["message"]
    assert "right_lung=1, left_lung=2" in error["message"]
    options = "--label-value right_lung=VALUE --label-value left_lung=VALUE"
    assert error["hint"].startswith(f"{options}, VALUE being one of 3, 4, 5, 6, 7")
    assert list(tmp_path.iterdir()) == []


def test_true_labels_of_one_scan_are_the_gate_on_the_part_that_is_held_out(
    medattn: Run, net: Path, tmp_path: Path
) -> None:
    values = ("--labels", sample_labels(), "--label-value", "right_lung=5", "--label-value", "left_lung=6")
    done = medattn("calibrate", net, sample_scan(), "-o", tmp_path / "net.onnx", *QUICK, *values, "--json")
    assert done.returncode == 0, done.stderr
    (case,) = json.loads(done.stdout)["agreement"]
    assert case["thresholds"] == TRUE_LABELS.limits
    assert min(case["reference_dice"].values()) > 0.9


def test_a_gate_that_is_not_held_is_exit_code_1_and_no_file(medattn: Run, net: Path, tmp_path: Path) -> None:
    output = tmp_path / "net.onnx"
    words = ("--gate", 1, "--max-trials", 2, "--quantizer", "onnxruntime")
    done = medattn("calibrate", net, sample_scan(), "-o", output, *QUICK, *words)
    assert done.returncode == 1
    assert "does not hold the gate" in done.stderr
    assert "--max-trials" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_dicom_folder_is_calibrated_on(medattn: Run, net: Path, tmp_path: Path) -> None:
    pytest.importorskip("pydicom", reason="the extra dicom is not installed")
    from medattn_edge.io import read_volume
    from tests.support.dicom_phantoms import write_series

    volume = read_volume(sample_scan()).to_lps()
    write_series(tmp_path / "DOE JANE", volume.voxels.astype("int16"), volume.affine)
    words = ("--profile", "tensorrt", *QUICK[2:], "--gate", 0.9, "--quantizer", "onnxruntime", "--json")
    done = medattn("calibrate", net, tmp_path / "DOE JANE", "-o", tmp_path / "net.int8.onnx", *words)
    assert done.returncode == 0, done.stderr
    recipe = json.loads(done.stdout)["recipe"]
    assert [name.split()[0] for name in (*recipe["calibrated_on"], *recipe["judged_on"])] == ["series", "series"]
    assert "DOE" not in str(recipe)


def test_noise_is_refused_unless_it_is_asked_for(medattn: Run, net: Path, tmp_path: Path) -> None:
    done = medattn("calibrate", net, "-o", tmp_path / "net.onnx", *QUICK, "--json")
    assert done.returncode == 2
    assert "--allow-random" in json.loads(done.stdout)["error"]["hint"]
    words = ("--allow-random", "--gate", 0, "--quantizer", "onnxruntime", "--json")
    done = medattn("calibrate", net, "-o", tmp_path / "net.onnx", *QUICK, *words)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["recipe"]["calibrated_on"] == {"random": 8}


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["{net}", "missing.nrrd", "-o", "{out}.onnx"], 4, "missing.nrrd does not exist"),
        (["missing.onnx", "{scan}", "-o", "{out}.onnx"], 4, "missing.onnx does not exist"),
        (["{net}", "{scan}", "-o", "{out}.engine"], 2, ".onnx or .xml"),
        (["{net}", "{scan}", "-o", "{out}.onnx", "--quantizer", "modelopt"], 2, "nncf-onnx"),
        (["{net}", "{scan}", "-o", "{out}.onnx", "--door", "onnxruntime"], 2, "--door is now --quantizer"),
        (["{net}", "{scan}", "-o", "{out}.onnx", "--held-out", "{scan}"], 2, "both calibrated and judged on"),
        (["{net}", "{scan}", "-o", "{out}.onnx", "--labels", "a", "--labels", "b"], 2, "2 label files for 1 scans"),
        (["{net}", "{folder}", "-o", "{out}.onnx"], 4, "a folder without DICOM files"),
        (["{net}", "{scan}", "-o", "nowhere/net.onnx"], 3, "mkdir -p"),
        (["{net}", "{scan}", "-o", "{out}.onnx", "--method", "mean"], 2, "minmax"),
        (["{net}", "{scan}", "-o", "{out}.xml", "--runtime", "onnxruntime"], 2, "leave --runtime out"),
    ],
)
def test_what_cannot_be_done_is_said(
    words: list[str], code: int, said: str, medattn: Run, net: Path, tmp_path: Path
) -> None:
    known = {"net": net, "scan": sample_scan(), "folder": tmp_path, "out": tmp_path / "net"}
    done = medattn("calibrate", *(word.format(**known) for word in words), *QUICK)
    assert done.returncode == code, done.stderr
    assert said in done.stderr
    assert list(tmp_path.iterdir()) == []
