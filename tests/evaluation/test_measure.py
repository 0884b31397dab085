"""A row is judged before it is timed; whatever it does in its process is its own verdict and stops no other."""

from __future__ import annotations

import json
import re
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from medattn_edge.agreement import Agreement, Thresholds
from medattn_edge.artifact import manifest_path, sha256
from medattn_edge.backends import open_session
from medattn_edge.backends.runtimes import AS_WRITTEN, Runtime
from medattn_edge.errors import AgreementError, CheckpointError, UsageError
from medattn_edge.evaluation import (
    BenchCandidate,
    BenchReport,
    BenchRow,
    BenchSettings,
    Peak,
    computed_as,
    gate_of,
    measure_candidates,
)
from medattn_edge.evaluation.report import SPEED_FIELDS, row_of
from medattn_edge.evaluation.trial import BenchTrial, worst
from medattn_edge.exporters import random_patches
from medattn_edge.host.cpu_use import CpuUse
from medattn_edge.labels import Meaning
from medattn_edge.timing import Latency
from tests.support.networks import SMALL, export_checkpoint, with_other_weights

pytestmark = pytest.mark.slow

OPENERS = """
import ctypes, os, time
from medattn_edge.backends import open_session
from medattn_edge.errors import HostError

def segfault(path, **options):
    ctypes.string_at(0)

def absent(path, **options):
    raise HostError("its library is not here", expected="x", hint="y")

def hangs(path, **options):
    session = open_session(path, **options)
    session._run = lambda patches: time.sleep(3600)
    return session

def _after(path, options, runs, then):
    session, count = open_session(path, **options), 0
    inner = session._run
    def run(patches):
        nonlocal count
        count += 1
        return inner(patches) if count <= runs else then(inner(patches))
    session._run = run
    return session

def breaks_later(path, **options):
    return _after(path, options, 7, lambda answer: os.abort())

def lies_later(path, **options):
    return _after(path, options, 7, lambda answer: answer * 2)
"""
OF_ORT = Runtime("onnxruntime", "onnxruntime")


@pytest.fixture(scope="module")
def lie(artifact: Path) -> Path:
    """Other weights under a manifest that was made to fit."""
    return with_other_weights(artifact, artifact.with_name("lie.onnx"))


@pytest.fixture(scope="module")
def openers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Makes the functions above importable in a child."""
    folder = tmp_path_factory.mktemp("openers")
    (folder / "strange_openers.py").write_text(OPENERS, encoding="utf-8")
    sys.path.insert(0, str(folder))
    yield
    sys.path.remove(str(folder))


def candidate(path: Path, opener: str = "", **changes: Any) -> BenchCandidate:
    one = BenchCandidate(path.name, path, OF_ORT, SMALL.network, "fp32", gate_of("fp32", "cpu"), 0.5)
    if opener:
        one = replace(one, name=opener, opener=f"strange_openers:{opener}")
    return replace(one, **changes)


def reference_of(checkpoint: Path) -> BenchCandidate:
    return candidate(checkpoint, runtime=Runtime("eager", "eager"), spec=SMALL)


@pytest.fixture(scope="module")
def report(checkpoint: Path, artifact: Path, lie: Path, openers: None) -> BenchReport:
    """One measurement of what is right and of everything that goes wrong."""
    return measure_candidates(
        reference_of(checkpoint),
        [
            candidate(lie),
            candidate(artifact, "segfault"),
            candidate(artifact, "breaks_later"),
            candidate(artifact, "lies_later"),
            candidate(artifact, "absent"),
            candidate(artifact, "absent", name="optional", optional=True),
            candidate(artifact),
        ],
        {"real": random_patches(SMALL, 3, seed=5)},
        BenchSettings(duration_s=0.2, warm_up_s=0, threads=1, deadline_ms=1e6),
    )


@pytest.fixture(scope="module")
def rows(report: BenchReport) -> dict[str, dict[str, Any]]:
    return {row["artifact"]: row for row in report.to_json()["rows"]}


def test_what_agrees_has_a_speed_and_the_reference_comes_first(report: BenchReport, rows: dict[str, Any]) -> None:
    assert report.rows[0].artifact == "net.safetensors"
    for name in ("net.safetensors", "net.onnx"):
        row = rows[name]
        assert (row["verdict"], row["failures"]) == ("pass", [])
        assert 0 < row["p50_ms"] <= row["p90_ms"] <= row["p99_ms"] <= row["max_ms"] < row["cold_start_ms"]
        if row["ratio_declined"]:  # by a host that runs other tests
            assert row["ratio_to_reference"] is row["ratio_spread"] is None
        else:
            low, high = row["ratio_spread"]
            assert 0 < low <= row["ratio_to_reference"] <= high
        assert row["fraction_of_peak"] > 0
        assert (row["threads"], row["batch"], row["patch"]) == (1, 1, [32, 32])
        assert row["rounds"] >= 5
        assert (row["deadline_ms"], row["miss_rate"]) == (1e6, 0.0)
    assert rows["net.safetensors"]["ratio_to_reference"] == 1
    assert rows["net.safetensors"]["peak_rss_mb"] > rows["net.onnx"]["peak_rss_mb"] > 10


def test_identical_logits_have_no_sqnr_and_others_have(rows: dict[str, Any]) -> None:
    itself = rows["net.safetensors"]["agreement"]
    assert itself == {"sqnr_db": None, "label_match": 1.0, "max_abs": 0.0, "min_dice": 1.0}
    other = rows["net.onnx"]["agreement"]
    assert 110 < other["sqnr_db"] < 300
    assert other["max_abs"] > 0


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("lie.onnx", "on real input SQNR in dB is .* below 90"),
        ("segfault", "crashed: SIGSEGV"),
        ("breaks_later", "while it was timed: the runtime crashed: SIGABRT"),
        ("lies_later", "after it was timed its answer was .* dB from its first one"),
        ("absent", "its library is not here"),
    ],
)
def test_what_fails_says_why_and_has_no_speed(rows: dict[str, Any], name: str, reason: str) -> None:
    row = rows[name]
    assert row["verdict"] == "fail"
    assert re.search(reason, "; ".join(row["failures"])), row["failures"]
    assert {field: row[field] for field in (*SPEED_FIELDS, "miss_rate")} == dict.fromkeys((*SPEED_FIELDS, "miss_rate"))


def test_a_lie_is_told_with_how_far_it_was_off(rows: dict[str, Any]) -> None:
    assert 10 < rows["lie.onnx"]["agreement"]["sqnr_db"] < 110
    assert rows["segfault"]["agreement"] is None


def test_a_runtime_that_nobody_asked_for_is_left_out_rather_than_failed(report: BenchReport) -> None:
    assert report.to_json()["left_out"] == {"optional in onnxruntime": "its library is not here"}
    assert "optional" not in [row.artifact for row in report.rows]


def test_the_report_says_where_it_was_measured_and_is_json(report: BenchReport) -> None:
    told = json.loads(json.dumps(report.to_json(), allow_nan=False))
    environment = told["environment"]
    for key in (
        "cpu",
        "instruction_sets",
        "physical_cores",
        "logical_cores",
        "memory_gb",
        "os",
        "python",
        "versions",
        "date",
    ):
        assert environment[key], key
    assert environment["threads"] == 1
    assert environment["roofline"]["fp32_gflops"] > 0
    assert {len(environment["load_average"][when]) for when in ("before", "after")} == {3}
    assert environment["noise"] >= 1
    assert (environment["noise"] > 1.25) == any("not quiet" in said for said in environment["warnings"])
    assert {"onnxruntime", "torch", "openvino"} <= set(environment["versions"])
    assert told["verdict"] == "fail"


def test_a_run_that_does_not_end_is_a_verdict_of_its_own(artifact: Path, openers: None) -> None:
    trial = BenchTrial(candidate(artifact, "hangs"))
    start = time.monotonic()
    trial.start(random_patches(SMALL, 1), BenchSettings(threads=1, timeout_s=4))
    assert trial.failures == ["the runtime gave no answer within 4 s"]
    assert time.monotonic() - start < 30


def test_another_batch_than_the_file_has_is_a_verdict(checkpoint: Path, tmp_path: Path) -> None:
    path = tmp_path / "one.onnx"
    export_checkpoint(checkpoint, path, batch=1)
    trial = BenchTrial(candidate(path))
    trial.start(random_patches(SMALL, 2), BenchSettings(threads=1, batch=2))
    assert trial.session is not None
    trial.session.close()
    assert trial.failures == ["it runs 1 patches at once, and 2 are requested"]


def test_a_reference_that_cannot_be_run_is_an_error_and_no_row(artifact: Path, tmp_path: Path, openers: None) -> None:
    real = {"real": random_patches(SMALL, 1)}
    with pytest.raises(CheckpointError, match="does not exist"):
        measure_candidates(
            reference_of(tmp_path / "nowhere.safetensors"), [candidate(artifact)], real, BenchSettings(threads=1)
        )
    with pytest.raises(UsageError, match="0 patches of real input"):
        measure_candidates(candidate(artifact), [], {})
    with pytest.raises(UsageError, match="1 patches of real input for a batch of 2"):
        measure_candidates(candidate(artifact), [], real, BenchSettings(batch=2))


def test_a_reference_whose_logits_are_not_finite_is_none(artifact: Path, tmp_path: Path) -> None:
    path, model = tmp_path / "nan.onnx", onnx.load(str(artifact))
    for weights in model.graph.initializer:
        values = onnx.numpy_helper.to_array(weights)
        if values.dtype == np.float32:
            weights.CopyFrom(onnx.numpy_helper.from_array(values * np.float32("nan"), weights.name))
    onnx.save(model, str(path))
    shutil.copy(manifest_path(artifact), manifest_path(path))
    facts = json.loads(manifest_path(path).read_text(encoding="utf-8"))
    manifest_path(path).write_text(json.dumps({**facts, "sha256": sha256(path)}), encoding="utf-8")
    with pytest.raises(AgreementError, match=r"nan\.onnx cannot be one: .*not finite"):
        measure_candidates(candidate(path), [], {"real": random_patches(SMALL, 1)}, BenchSettings(threads=1))


def of_latency(candidate: BenchCandidate, p50_ms: float, peaks: Peak, **settings: Any) -> BenchRow:
    latency = Latency(np.full(5, p50_ms))
    return row_of(BenchTrial(candidate, latency=latency), SMALL.patch, latency, BenchSettings(**settings), peaks)


def test_the_share_of_the_peak_is_that_of_the_precision_it_is_computed_in(artifact: Path) -> None:
    peaks, half = Peak(100.0, 400.0), candidate(artifact)  # 0.5 GFLOP a patch
    assert of_latency(half, 10, peaks).to_json()["fraction_of_peak"] == pytest.approx(0.5)
    assert of_latency(half, 10, peaks, batch=2).to_json()["fraction_of_peak"] == pytest.approx(1.0)
    assert of_latency(replace(half, precision="int8"), 10, peaks).to_json()["fraction_of_peak"] == pytest.approx(0.125)
    for precision, device in (("bf16", "cpu"), ("fp32", "cuda:0")):
        one = replace(half, precision=precision, runtime=replace(OF_ORT, device=device))
        assert of_latency(one, 10, peaks).to_json()["fraction_of_peak"] is None
    assert of_latency(replace(half, precision="int8"), 10, Peak(100.0, None)).to_json()["fraction_of_peak"] is None


def test_a_row_of_a_busy_host_has_its_times_and_the_reason_in_the_place_of_a_ratio(artifact: Path) -> None:
    busy = CpuUse(2, own=1.0, others=1.0)
    reference, own = (Latency(np.full(5, ms), busy) for ms in (20.0, 10.0))
    one, peaks, settings = candidate(artifact), Peak(None, None), BenchSettings()
    rows = [
        row_of(BenchTrial(one, latency=latency), SMALL.patch, reference, settings, peaks)
        for latency in (reference, own)
    ]
    report = BenchReport({}, tuple(rows))
    assert report.passed
    assert report.declined == {f"{artifact.name} in onnxruntime": "host busy (others used 1.0 of 2 CPUs)"}
    first, second = (row.to_json() for row in rows)
    assert (first["ratio_to_reference"], first["ratio_declined"]) == (1.0, None)
    assert (second["p50_ms"], second["ratio_to_reference"], second["ratio_spread"]) == (10.0, None, None)
    assert second["ratio_declined"] == "host busy (others used 1.0 of 2 CPUs)"


def test_more_than_the_peak_is_kept_and_remarked_on(artifact: Path) -> None:
    row = of_latency(candidate(artifact), 1, Peak(100.0, None)).to_json()
    assert row["fraction_of_peak"] == pytest.approx(5.0)
    assert "the roofline" in row["notes"][0]
    assert of_latency(candidate(artifact), 10, Peak(100.0, None)).to_json()["notes"] == []


def test_a_row_says_how_many_runs_missed_the_deadline(artifact: Path) -> None:
    row = of_latency(candidate(artifact), 10, Peak(None, None), deadline_ms=9.0).to_json()
    assert (row["deadline_ms"], row["miss_rate"]) == (9.0, 1.0)
    assert "deadline_ms" not in of_latency(candidate(artifact), 10, Peak(None, None)).to_json()


def test_a_row_tells_the_worst_of_its_samples() -> None:
    good = Agreement(0.1, 60.0, 1.0, {"organ": 1.0}, {"organ": 0.0}, 0, 0)
    bad = Agreement(0.2, 40.0, 0.9, {"organ": 0.8}, {"organ": 0.0}, 0, 0)
    assert worst([good, bad]) == {"sqnr_db": 40.0, "label_match": 0.9, "max_abs": 0.2, "min_dice": 0.8}
    broken = replace(bad, sqnr_db=-float("inf"), max_abs=float("inf"), finite=False)
    assert worst([good, broken])["sqnr_db"] is None is worst([good, broken])["max_abs"]


def test_a_row_tells_the_worst_true_dice_of_each_label_and_the_range_of_its_shares() -> None:
    one = Agreement(0.1, 60.0, 1.0, {"organ": 1.0}, {}, 0, 0)
    better = replace(one, reference_dice={"organ": 0.8, "other": 0.5}, candidate_dice={"organ": 0.84, "other": 0.5})
    worse = replace(one, reference_dice={"organ": 0.9}, candidate_dice={"organ": 0.45})
    told = worst([better, worse, one])
    assert told["true_dice"] == {"organ": 0.45, "other": 0.5}
    assert told["true_dice_share"] == pytest.approx([0.5, 1.05])
    assert "true_dice" not in worst([one])


def test_true_labels_are_judged_where_they_are_not_masked(checkpoint: Path, artifact: Path) -> None:
    patches = random_patches(SMALL, 2, seed=5)
    gate = Thresholds(min_dice=0.99, min_true_dice_share=0.999, max_true_dice_share=1.01)
    with open_session(checkpoint, spec=SMALL) as reference:
        right = np.stack([Meaning.of(SMALL).labels_of(one) for one in reference.run_any(patches)])
        hidden = np.zeros(right.shape, bool)
        hidden[1] = True
        wrong = np.where(hidden, 1 - np.minimum(right, 1), right)  # wherever nobody looks, nothing is right

        def judged(truth: dict[str, Any]) -> BenchTrial:
            trial = BenchTrial(candidate(artifact, gate=gate))
            trial.start(patches[:1], BenchSettings(threads=1))
            assert trial.session is not None
            with trial.session:
                trial.judge(reference, {"real": patches}, truth)
            return trial

        seen = judged({"real": np.ma.masked_array(wrong, hidden)})
        assert seen.failures == []
        assert seen.agreement is not None
        assert set(seen.agreement["true_dice"].values()) == {1.0}
        whole = judged({"real": wrong})
        assert whole.agreement is not None
        assert min(whole.agreement["true_dice"].values()) < 0.9
        without = judged({})
        assert without.failures == ["its gate asks for a share of the true Dice, and there are no true labels"]


def test_noise_is_held_to_gates_of_fp32_alone(artifact: Path) -> None:
    assert candidate(artifact).exact
    assert not candidate(artifact, precision="int8").exact
    assert not candidate(artifact, gate=Thresholds(min_sqnr_db=40.0)).exact


def test_the_precision_is_the_one_that_is_really_computed_in() -> None:
    as_written, cuda = Runtime(AS_WRITTEN, "onnxruntime", optimise=False), replace(OF_ORT, device="cuda:0")
    assert computed_as("fp16", OF_ORT) == "fp32"
    assert computed_as("fp16", cuda) == "fp16"
    assert computed_as("int8", OF_ORT) == "int8"
    assert computed_as("int8", as_written) == "fp32"
    assert computed_as("int8", replace(cuda, provider="cuda")) == "fp32"
    assert computed_as("bf16", Runtime("openvino", "openvino")) == "bf16"


def test_the_usual_gates_can_be_replaced() -> None:
    assert gate_of("fp32", "cpu").to_json() == {"min_sqnr_db": 90.0, "min_label_match": 0.9999}
    assert gate_of("fp32", "cuda:0").min_sqnr_db == 90.0
    assert gate_of("int8", "cpu").to_json() == {"min_sqnr_db": 30.0, "min_dice": 0.999}
    asked = {"min_sqnr_db": 44.0, "min_dice": 0.99}
    assert gate_of("fp16", "cpu", asked).to_json() == asked
    exact = {"min_sqnr_db": 100.0}
    assert gate_of("fp32", "cpu", exact).to_json() == {"min_sqnr_db": 100.0, "min_label_match": 0.9999}


def test_the_threads_are_always_a_number() -> None:
    assert BenchSettings().explicit().threads >= 1
    assert BenchSettings(threads=3).explicit().threads == 3
