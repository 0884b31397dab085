"""bench: a row has a speed only beside an agreement that holds; what fails says FAIL, and nothing about its speed."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest

from medattn_edge.artifact import Artifact, manifest_path, sha256
from medattn_edge.cli import bench_text
from medattn_edge.compile.compilation import FP32_ON_CPU
from medattn_edge.evaluation.report import SPEED_FIELDS
from medattn_edge.exporters import random_patches
from medattn_edge.host import hardware
from medattn_edge.precision.observe import floating_tensors
from medattn_edge.precision.quantizers.quantizer import Calibration, QuantizationRecipe, quantizers
from medattn_edge.precision.statistics import activation_ranges
from tests.support.busy_host import check_measured
from tests.support.networks import with_other_weights

pytestmark = pytest.mark.slow

Run = Callable[..., Any]
QUICK = ("--duration", "0.1", "--warm-up", "0", "--threads", "1", "--samples", "2")
GATES = ("--min-dice", 0, "--min-sqnr-db", 15)  # so few channels, and none that learnt an organ, keep no more in INT8
RUNTIMES = {"onnxruntime-unoptimised", "onnxruntime", "openvino"}
RUNTIMES |= {"openvino-without-amx"} if "amx_int8" in hardware.cpu().instruction_sets else set()
# What scripts rely on.
FIELDS = {"artifact", "network", "backend", "precision", "patch", "p50_ms", "p90_ms", "p99_ms", "max_ms"}
FIELDS |= {"cold_start_ms", "ratio_to_reference", "ratio_spread", "peak_rss_mb", "gflop", "fraction_of_peak"}
FIELDS |= {"agreement", "verdict"}


@pytest.fixture(scope="module")
def lie(artifact: Path) -> Path:
    """Other weights under a manifest that was made to fit."""
    return with_other_weights(artifact, artifact.with_name("lie.onnx"))


@pytest.fixture(scope="module")
def int8(artifact: Path) -> Path:
    """Its Q/DQ form."""
    parent, model = Artifact.read(artifact), onnx.load(str(artifact))
    patches = [random_patches(parent.spec, 1, seed=seed) for seed in range(4)]
    calibration = Calibration(patches, "0" * 64, lambda: activation_ranges(model, floating_tensors(model), patches))
    path = artifact.with_name("small.int8.onnx")
    quantizers()["onnxruntime"].quantise(parent, model, calibration, QuantizationRecipe("cpu"), {".onnx": path})
    manifest = parent.manifest.child(sha256=sha256(path), precision="int8")
    manifest_path(path).write_text(json.dumps(manifest.to_json()), encoding="utf-8")
    return path


class Measured:
    """One run of the command on all three files, and what it wrote."""

    def __init__(self, done: Any, written: Path) -> None:
        self.done, self.written = done, written
        self.document = json.loads(done.stdout)
        self.rows = {(row["artifact"], row["backend"]): row for row in self.document["rows"]}


@pytest.fixture(scope="module")
def measured(
    medattn: Run, checkpoint: Path, artifact: Path, lie: Path, int8: Path, scan: Path, tmp_path_factory: Any
) -> Measured:
    written = tmp_path_factory.mktemp("results") / "results.json"
    words = ("--reference", checkpoint, "--scan", scan, *GATES, *QUICK, "--deadline-ms", 0.001, "-o", written, "--json")
    return Measured(medattn("bench", artifact, lie, int8, *words), written)


def test_the_document_has_what_scripts_rely_on(measured: Measured, checkpoint: Path) -> None:
    rows = measured.document["rows"]
    assert all(row.keys() >= FIELDS for row in rows)
    assert [row["artifact"] for row in rows[:3]] == [checkpoint.name, "small.onnx", "lie.onnx"]
    assert (rows[0]["backend"], rows[0]["ratio_to_reference"], rows[0]["verdict"]) == ("eager", 1.0, "pass")
    assert {row["network"] for row in rows} == {"attention-unet-2d"}
    assert {tuple(row["patch"]) for row in rows} == {(32, 32)}
    assert {row["threads"] for row in rows} == {1} == {measured.document["environment"]["threads"]}
    assert measured.document["samples"] == ["scan.nii.gz"]
    assert json.loads(measured.written.read_text(encoding="utf-8")) == measured.document


def test_the_gate_of_each_row_is_in_the_document(measured: Measured) -> None:
    assert measured.rows["small.onnx", "onnxruntime"]["thresholds"] == FP32_ON_CPU.without_fp64().to_json()
    assert measured.rows["small.int8.onnx", "openvino"]["thresholds"] == {"min_sqnr_db": 15.0, "min_dice": 0.0}


def test_a_file_with_other_weights_fails_without_a_speed_and_the_others_are_measured(measured: Measured) -> None:
    lied, right = measured.rows["lie.onnx", "onnxruntime"], measured.rows["small.onnx", "onnxruntime"]
    assert measured.done.returncode == 1
    assert measured.document["verdict"] == lied["verdict"] == "fail"
    assert {name: lied[name] for name in SPEED_FIELDS} == dict.fromkeys(SPEED_FIELDS)
    assert lied["miss_rate"] is None
    assert 0 < lied["agreement"]["sqnr_db"] < 110
    assert "SQNR" in lied["failures"][0]
    assert right["verdict"] == "pass"
    assert right["p50_ms"] > 0


def test_a_reduced_precision_runs_in_every_runtime_and_says_what_it_is_computed_in(measured: Measured) -> None:
    rows = {backend: row for (name, backend), row in measured.rows.items() if name == "small.int8.onnx"}
    assert set(rows) >= RUNTIMES
    assert {row["stored_precision"] for row in rows.values()} == {"int8"}
    precisions = {backend: row["precision"] for backend, row in rows.items()}
    assert precisions == {name: "fp32" if name == "onnxruntime-unoptimised" else "int8" for name in rows}
    for row in rows.values():
        assert (row["verdict"], row["failures"]) == ("pass", [])
        assert row["p50_ms"] > 0
    assert "onnxruntime-cuda" in measured.document["left_out"] or "onnxruntime-cuda" in rows


def test_a_deadline_tells_how_many_runs_took_longer(measured: Measured) -> None:
    row = measured.rows["small.onnx", "onnxruntime"]
    assert (row["deadline_ms"], row["miss_rate"]) == (0.001, 1.0)


def test_the_table_shows_the_reason_where_there_is_no_speed(measured: Measured) -> None:
    with pytest.MonkeyPatch.context() as patch, io.StringIO() as out, io.StringIO() as err:
        patch.setenv("COLUMNS", "200")
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            bench_text.tell(measured.document)
        told, aside = out.getvalue(), err.getvalue()
    lied = next(block for block in re.split("[├┡└]", told) if "lie.onnx" in block)
    assert "FAIL" in lied
    assert "p50" not in lied
    assert "FAIL: lie.onnx in onnxruntime: on scan.nii.gz input SQNR in dB is" in told
    assert re.search(r"p50 \d.*\n.*p90 \d.*\n.*p99 \d.*\n.*max \d.*\n.*over 0.001: 100.0 %", told)
    assert re.search(r"verdict against .*small\.safetensors: FAIL", told)
    assert "roofline:" in aside
    assert "load" in aside


@pytest.mark.slow
def test_an_artifact_can_be_the_reference_where_there_is_no_torch(
    medattn: Run, artifact: Path, int8: Path, scan: Path
) -> None:
    words = ("--reference", artifact, "--scan", scan, "--runtime", "onnxruntime", *GATES, *QUICK)
    done = medattn("bench", int8, *words)
    check_measured(done)
    assert "an artifact, and not the eager network" in done.stderr
    assert "1 thread," in done.stderr
    assert "2 rows with the reference" in done.stderr
    assert done.stdout.count("PASS") == 3
    assert "FAIL" not in done.stdout
    assert "identical" in done.stdout


@pytest.mark.skipif(not Path("/proc/stat").exists(), reason="a system without /proc")
def test_on_a_busy_host_the_times_are_shown_and_the_ratios_are_declined(
    artifact: Path, scan: Path, tmp_path: Path
) -> None:
    words = ("--reference", artifact, "--scan", scan, *QUICK, "--duration", 0.3, "-o", tmp_path / "results.json")
    with contextlib.ExitStack() as stack:
        for _ in os.sched_getaffinity(0):
            other = stack.enter_context(subprocess.Popen([sys.executable, "-c", "while True: pass"]))
            stack.callback(other.kill)
        # In a process of its own: the others are children of this one, and would be its own work.
        command = [sys.executable, "-m", "medattn_edge", "bench", artifact, *words]
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert done.returncode == 3, done.stdout + done.stderr
    document = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    first, second = document["rows"]
    assert (document["verdict"], first["ratio_to_reference"], second["ratio_to_reference"]) == ("pass", 1.0, None)
    assert second["p50_ms"] > 0
    assert second["ratio_declined"].startswith("host busy (")
    assert "a ratio was declined" in done.stdout
    assert "next: wait until nothing else runs here" in done.stdout
    assert "declined:" in done.stdout.split("FAIL")[0]


def test_help_needs_no_runtime(medattn: Run) -> None:
    done = medattn("bench", "--help")
    assert done.returncode == 0
    for option in ("--reference", "--deadline-ms", "--duration", "--warm-up", "--runtime", "--min-sqnr-db", "--json"):
        assert option in done.stdout


def refused(done: Any, code: int, *said: str) -> None:
    assert done.returncode == code, done.stdout + done.stderr
    for words in said:
        assert words in done.stderr


def test_a_missing_file_is_input_that_cannot_be_used(medattn: Run, checkpoint: Path, artifact: Path) -> None:
    refused(medattn("bench", artifact, "--reference", "nowhere.pth"), 4, "nowhere.pth does not exist", "a checkpoint")
    refused(medattn("bench", "nowhere.onnx", "--reference", checkpoint), 4, "nowhere.onnx does not exist")
    refused(medattn("bench", artifact, "--reference", checkpoint, "--scan", "nowhere.nii"), 4, "does not exist")


def test_an_artifact_of_another_checkpoint_is_refused_with_what_to_type(
    medattn: Run, checkpoint: Path, artifact: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other.safetensors"
    other.write_bytes(checkpoint.read_bytes() + b"\0")
    done = medattn("bench", artifact, "--reference", other)
    refused(done, 2, "small.onnx was not made from other.safetensors", "medattn-edge export", "--reference")


def test_a_file_that_is_not_what_its_manifest_says_is_refused(
    medattn: Run, checkpoint: Path, artifact: Path, tmp_path: Path
) -> None:
    path = tmp_path / "small.onnx"
    path.write_bytes(artifact.read_bytes() + b"\0")
    manifest_path(path).write_bytes(manifest_path(artifact).read_bytes())
    refused(medattn("bench", path, "--reference", checkpoint), 5, "SHA-256")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("{artifact}",), "--reference"),
        (("{checkpoint}", "--reference", "{checkpoint}"), "small.safetensors is a checkpoint"),
        (("{artifact}", "{artifact}", "--reference", "{checkpoint}"), "comes twice"),
        (("{artifact}", "--reference", "{checkpoint}", "--runtime", "no-such"), "no-such"),
        (("{artifact}", "--reference", "{checkpoint}", "--device", "gpu"), "cpu or cuda:INDEX"),
        (("{artifact}", "--reference", "{int8}"), "int8"),
        (("{fixed}", "--reference", "{checkpoint}", "--batch", "2"), "--batch 1"),
        (("{artifact}", "{fixed}", "--reference", "{checkpoint}"), "expect other input"),
    ],
)
def test_what_cannot_be_meant_is_a_usage_error(
    medattn: Run, checkpoint: Path, artifact: Path, int8: Path, fixed: Path, words: tuple[str, ...], said: str
) -> None:
    names = {"checkpoint": checkpoint, "artifact": artifact, "int8": int8, "fixed": fixed}
    done = medattn("bench", *(word.format(**names) for word in words))
    assert done.returncode == 2, done.stdout + done.stderr
    assert said in done.stderr


@pytest.fixture(scope="module")
def fixed(artifact: Path) -> Path:
    """The same for one patch, of another size, as its manifest has it."""
    path = artifact.with_name("fixed.onnx")
    path.write_bytes(artifact.read_bytes())
    facts = Artifact.read(artifact).manifest.to_json()
    facts = {**facts, "batch": 1, "spec": {**facts["spec"], "patch": [64, 32]}}
    manifest_path(path).write_text(json.dumps(facts), encoding="utf-8")
    return path


def test_a_folder_that_is_not_there_is_told_before_the_work(medattn: Run, checkpoint: Path, artifact: Path) -> None:
    done = medattn("bench", artifact, "--reference", checkpoint, "-o", "/nowhere/results.json", "--json")
    assert done.returncode == 3
    assert json.loads(done.stdout)["error"]["code"] == "output"


@pytest.mark.parametrize("command", ["bench", "compare"])
def test_the_old_name_of_the_time_limit_is_refused_with_the_new_one(
    medattn: Run, checkpoint: Path, artifact: Path, scan: Path, command: str
) -> None:
    files = (artifact, "--reference", checkpoint) if command == "bench" else (checkpoint, artifact, scan)
    refused(medattn(command, *files, "--time-limit", 5), 2, "--time-limit is now --timeout", "--timeout 5")
    assert "--time-limit" not in medattn(command, "--help").stdout
