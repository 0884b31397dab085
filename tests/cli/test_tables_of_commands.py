"""The tables that commands really print, on a terminal of 80 columns: no line is longer, and no name in them broken."""

from __future__ import annotations

import contextlib
import io
import re
import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from rich.cells import cell_len

from medattn_edge.agreement import Agreement, Thresholds
from medattn_edge.artifact import Artifact
from medattn_edge.backends.runtimes import Runtime
from medattn_edge.cli import (
    bench_text,
    calibrate,
    comparison_text,
    deploy_text,
    explain,
    export,
    infer,
    main,
    node_text,
    release_text,
)
from medattn_edge.cli.rewrites import show_plan
from medattn_edge.cli.tuned import show_tuning
from medattn_edge.deploy import CandidateOutcome, DeployInputs, Deployment, DeployRecipe, DeploySource, plan_deployment
from medattn_edge.evaluation.candidate import BenchCandidate, BenchSettings
from medattn_edge.evaluation.candidate_runs import CandidateRun
from medattn_edge.evaluation.comparison import Comparison
from medattn_edge.evaluation.disagreement import RuntimeOutcome, judge
from medattn_edge.evaluation.environment import Surroundings
from medattn_edge.evaluation.measurement import Measurement
from medattn_edge.evaluation.report import BenchReport, BenchRow
from medattn_edge.evaluation.roofline import Peak
from medattn_edge.io.channels import as_scan
from medattn_edge.models.checkpoint import load
from medattn_edge.rewrites import rewrite

WIDTH = 80
FRAMED = re.compile("[\u2500-\u257f]")  # what a table is drawn with
LABELS = ("right_lung", "left_lung", "pulmonary_vessels", "spinal_canal")
FILES = ("attention-unet-2d.fp32.onnx", "net.int8-nncf-accuracy.xml", "net.fp16.engine")
Narrow = Callable[..., list[str]]


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> Narrow:
    """Calls something with a stdout of 80 columns; the lines that it printed there."""
    monkeypatch.setenv("COLUMNS", str(WIDTH))

    def lines(tell: Callable[..., Any], *given: Any) -> list[str]:
        with io.StringIO() as out, io.StringIO() as err:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                tell(*given)
            return out.getvalue().splitlines()

    return lines


@pytest.fixture
def command(narrow: Narrow, monkeypatch: pytest.MonkeyPatch) -> Narrow:
    """The lines that a command of those words prints."""

    def lines(*words: Any) -> list[str]:
        monkeypatch.setattr(sys, "argv", ["medattn-edge", *map(str, words)])

        def run() -> None:
            with pytest.raises(SystemExit) as left:
                main()
            assert left.value.code in (0, 1)

        return narrow(run)

    return lines


def hold(lines: list[str], names: Iterable[str]) -> None:
    """Every line of a table is within the terminal, and every name is there whole, in one line."""
    framed = [line for line in lines if FRAMED.search(line)]
    assert framed, "no table was printed as one:\n" + "\n".join(lines)
    assert max(map(cell_len, framed)) <= WIDTH, "\n".join(framed)
    whole(lines, names)


def whole(lines: list[str], names: Iterable[str]) -> None:
    """Every name stands in one line."""
    words = {word for line in lines for word in re.split(r"[\s│┃]+", line)}
    missing = [name for name in names if name.strip(",") not in words and f"{name}," not in words]
    assert not missing, f"{missing} in\n" + "\n".join(lines)


def agreement(name: str = "") -> Agreement:
    dice = dict.fromkeys(LABELS, 0.999123)
    changed = dict.fromkeys(LABELS, -12.345678)
    return Agreement(0.0123, 43.21, 0.999876, dice, changed, 123, 4567, reference_dice=dice, candidate_dice=dice)


# bench and compare


def measured(names: tuple[str, ...]) -> dict[str, Any]:
    """Of bench: a reference, one that is well, one with a declined ratio, one that fails."""
    settings = BenchSettings(deadline_ms=100.0)
    spread = {"ratio_to_reference": 12.345, "ratio_spread": (10.123, 14.567), "ratio_declined": None}
    declined = "other processes had 43 % of the CPU time while it was timed"
    speed = {
        **dict.fromkeys(("p50_ms", "p90_ms", "p99_ms", "max_ms"), 1234.5), "cold_start_ms": 12345.6,
        "peak_rss_mb": 2345.6, "fraction_of_peak": 0.4567, "rounds": 10, "timed_by": "wall", "miss_rate": 0.0123,
    }  # fmt: skip
    figures = {"max_abs": 0.1, "sqnr_db": 43.21, "label_match": 0.999876, "min_dice": 0.999123}
    backends = ("eager", "onnxruntime-unoptimised", "openvino-without-amx", "tensorrt")
    rows = []
    for number, (name, backend) in enumerate(zip(names, backends, strict=True)):
        runtime = Runtime(backend, backend.partition("-")[0], "cuda:0" if backend == "tensorrt" else "cpu")
        one = BenchCandidate(
            name, Path(name), runtime, "attention-unet-2d", "fp32", Thresholds(), 123.45, stored="int8" * (number == 2)
        )
        of_time = speed | (spread if number < 2 else {**dict.fromkeys(spread), "ratio_declined": declined})
        failures = ("SQNR in dB is 12.3; expected at least 90",) if number == 3 else ()
        rows.append(BenchRow(one, (512, 512), settings, figures, failures, speed={} if failures else of_time))
    environment = Surroundings(2, gpu=False).to_json(Peak(123.0, 456.0), 1.1)
    return Measurement(Path("net.safetensors"), ("scan",), BenchReport(environment, tuple(rows)), {}).to_json()


def test_bench_shows_every_name_whole_and_marks_the_reference(narrow: Narrow) -> None:
    lines = narrow(bench_text.tell, measured(("net.safetensors", *FILES)))
    hold(lines, ("net.safetensors", *FILES, "onnxruntime-unoptimised", "openvino-without-amx"))
    blocks = re.split("\n[├┡└].*", "\n".join(lines))[1:5]
    assert [[text in one for text in ("net.safetensors", "(the reference)")] for one in blocks] == [
        [True, True], *[[False, False]] * 3
    ]  # fmt: skip


def test_bench_of_files_with_very_long_names_is_lines_and_marks_the_reference(narrow: Narrow) -> None:
    names = ("attention-unet-2d.safetensors", FILES[0], "attention-unet-2d.int8-nncf-accuracy-control.xml", FILES[2])
    lines = narrow(bench_text.tell, measured(names))
    whole(lines, names)
    rows = [line for line in lines if line.startswith("artifact ")]
    assert [line.endswith("(the reference)") for line in rows] == [True, False, False, False]
    assert [line for line in lines if line.startswith("  times as fast: declined: other processes")]
    assert max(map(cell_len, lines[: lines.index("  verdict: FAIL")])) <= WIDTH


@pytest.mark.parametrize("count", [1, 2, 3, 6])
def test_compare_shows_every_runtime_and_label_whole(narrow: Narrow, count: int) -> None:
    names = (
        "openvino-without-amx",
        "onnxruntime-unoptimised",
        "onnxruntime",
        "openvino",
        "tensorrt",
        "onnxruntime-cuda",
    )
    runs = []
    for name in names[:count]:
        one = CandidateRun(Path("net.int8.onnx"), None, Runtime(name, name), name, optional=False)
        one.add((as_scan("scan.nii.gz"), "scan.nii.gz"), agreement(), agreement(), {"not_judged": {}})
        runs.append(one)
    ruling = judge([RuntimeOutcome(one.name, tuple(one.agreements)) for one in runs])
    document = Comparison(Path("net.pth"), (Path("net.int8.onnx"),), Thresholds(), 6.0, ((tuple(runs), ruling),), {})
    hold(narrow(comparison_text.tell, document.to_json()), (*names[:count], *LABELS))


# What comes from files that are made here


def test_inspect_of_artifacts_checkpoints_and_scans(
    command: Narrow, checkpoint: Path, artifact: Path, scan: Path
) -> None:
    digest = Artifact.read(artifact).manifest.sha256
    lines = command("inspect", artifact)
    hold(lines, ("attention-unet-2d", "right_lung", "left_lung"))
    assert digest in "".join("".join(line.split("│")[2:3]).strip() for line in lines)
    hold(command("inspect", checkpoint), ("attention-unet-2d", "right_lung"))
    hold(command("inspect", scan), ("spacing", "orientation"))


def test_a_path_longer_than_its_table_stands_whole_above_it(command: Narrow, scan: Path, tmp_path: Path) -> None:
    path = tmp_path / "chest-of-the-second-visit-after-treatment-of-a-study-with-a-name.nii.gz"
    path.write_bytes(scan.read_bytes())
    lines = command("inspect", path)
    assert str(path) in lines[0]
    hold(lines, ())


@pytest.mark.slow  # it asks every runtime
def test_doctor_in_full(command: Narrow) -> None:
    hold(command("doctor", "-v"), ("onnxruntime", "openvino", "pydicom"))


def test_export_its_agreement_and_what_was_rewritten(narrow: Narrow, checkpoint: Path, artifact: Path) -> None:
    hold(narrow(export._show, Artifact.read(artifact), 0), ("patches",))
    hold(narrow(show_plan, rewrite(load(checkpoint))), ("rewrite", "sites"))


def test_lint_names_rules_nodes_and_modules_whole(command: Narrow, tmp_path: Path) -> None:
    name, module = "/encoder/stage.3/residual/conv_block.1/Conv_quantized[0]", "encoder.stage.3.residual.conv_block.1"
    zero = helper.make_tensor("zero", TensorProto.UINT8, [], [128])
    nodes = [
        helper.make_node("QuantizeLinear", ["image", "scale", "zero"], ["integers"], name=name),
        helper.make_node("DequantizeLinear", ["integers", "scale", "zero"], ["logits"], name="dequantise"),
    ]
    nodes[0].metadata_props.add(key="module", value=module)
    ports = [helper.make_tensor_value_info(one, TensorProto.FLOAT, [1, 16, 8, 8]) for one in ("image", "logits")]
    graph = helper.make_graph(
        nodes, "network", ports[:1], ports[1:], [numpy_helper.from_array(np.float32(0.1), "scale"), zero]
    )
    path = tmp_path / "unsigned.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), str(path))
    lines = command("lint", path, "--profile", "tensorrt")
    whole(lines, (name, module, "unsigned"))


def test_infer_of_labels_with_long_names(narrow: Narrow) -> None:
    document = {
        "volumes_ml": dict.fromkeys(LABELS, 1234567.8), "voxels": dict.fromkeys(LABELS, 123_456_789), "written": {},
        "channels": [], "notes": [], "session": {"backend": "onnxruntime", "device": "cpu"},
    }  # fmt: skip
    hold(narrow(infer._tell, LABELS, document, False), LABELS)


# What takes long to make: its documents


def test_deploy_its_plan_and_its_candidates(narrow: Narrow, checkpoint: Path, scan: Path) -> None:
    source = DeploySource(checkpoint, load(checkpoint))
    recipe = DeployRecipe(name="small")
    plan = plan_deployment(DeployInputs.of(source, [as_scan(scan)]), recipe)
    names = [one.name for one in plan.made]
    hold(narrow(deploy_text.tell_plan, plan), names)
    figures = CandidateOutcome(
        plan.made[0], "holds, and slower than the chosen one", (), 0.999123, (0.9991, 1.0012), 123.4, 1234.5, 2345.6,
        12.34, (10.12, 14.56),
    )  # fmt: skip
    outcomes = tuple(replace(figures, plan=one) for one in plan.made)
    outcomes = (*outcomes[:-1], replace(outcomes[-1], ratio_to_reference=None, ratio_declined="a busy host"))
    hold(narrow(deploy_text.tell_deployment, Deployment(plan, outcomes, recipe, None, Path("work"))), names)


@pytest.mark.parametrize("labelled", [False, True])
def test_calibrate_its_quantizers_and_what_stays_in_floating_point(
    narrow: Narrow, artifact: Path, labelled: bool
) -> None:
    made = Artifact.read(artifact)
    share = [0.9991, 1.0012] if labelled else None
    quantizers = [
        {"quantizer": name, "dice": 0.999123, "true_dice_share": share, "sqnr_db": 43.2, "holds": holds,
         "ratio_to_fp32": ratio, "ratio_declined": "" if ratio else "a busy host"}
        for name, holds, ratio in (("nncf-openvino", True, 1.2), ("nncf-onnx", True, None), ("onnxruntime", False, 0.9))
    ]  # fmt: skip
    layers = ({"module": "decoder.stage.3.residual.conv_block.1.activation", "node": "n", "operator": "Concat"},) * 2
    recipe = {
        "quantizers": quantizers, "quantizer": "nncf-openvino", "trials": 12, "quantizers_not_installed": {},
        "calibrated_on": {"scan": 4}, "judged_on": {"scan": 4}, "scan_notes": [], "label_audits": [], "unseen": [],
        "speed": None, "lint": (), "profile": "tensorrt",
        "floating": [{"layers": layers, "dice": 0.999123, "sqnr_db": 43.2}],
    }  # fmt: skip
    case = {"dice": {"x": 0.9}, "sqnr_db": 43.2, "thresholds": {"min_dice": 0.999}}
    made = replace(made, manifest=replace(made.manifest, recipe=recipe, agreement=(case,)))
    hold(narrow(calibrate._show, made), ("nncf-openvino", "nncf-onnx", "onnxruntime", layers[0]["module"]))


def test_the_status_of_a_node_in_a_full_night(narrow: Narrow, tmp_path: Path) -> None:
    pytest.importorskip("highdicom", reason="the extra dicom is not installed")
    pytest.importorskip("pynetdicom", reason="the extra node is not installed")
    from medattn_edge.scanner.observe.server import document
    from tests.support.durable_node import Node
    from tests.support.status_scenes import many

    node = Node(tmp_path / "node")
    try:
        watched = many(node)
        told = document(watched.snapshot(), watched.health())
    finally:
        node.store.close()
    lines = narrow(node_text.tell_status, told, Path("node.toml"))
    assert told["recent"]
    for one in told["recent"]:
        assert any(one["key"] in line.split() and cell_len(line) <= WIDTH for line in lines)
    for stage in told["stages"]:
        assert any(line.split()[:1] == [stage] and cell_len(line) <= WIDTH for line in lines)


def test_release_diff_and_the_maps_of_explain_and_what_was_tuned(narrow: Narrow) -> None:
    label = {
        "old_voxels": 1_234_567,
        "new_voxels": 1_234_500,
        "old_ml": 1234.56,
        "new_ml": 1234.5,
        "dice": 0.9991,
    }
    scan = {
        "scan": "a-study-of-a-name-that-is-quite-long.nii.gz", "changed_voxels": 1234, "voxels": 12345678,
        "labels": dict.fromkeys(LABELS, label),
    }  # fmt: skip
    hold(narrow(release_text._tell_scan, scan), LABELS)
    maps = ("attention_gate_4.position_attention", "guided.scale_3.channel_attention")
    figures = {"low": 0.0, "high": 0.9876, "sqnr_db": 123.4, "max_abs": 0.0001234, "correlation": 0.999999}
    document = {
        "maps": [{"map": name, **figures} for name in maps], "channel_attention": [], "label_match": None, "notes": [],
        "written": {},
    }  # fmt: skip
    hold(narrow(explain._tell, document, ""), maps)
    names = ("default+winograd-convolutions+channels-last", "threads=2,streams=1,precision=bf16")
    alternative = {"ratio": 1.234, "quartiles": [1.1, 1.3], "sqnr_db": 123.4, "reason": "", "outcome": "measured"}
    tuned = {
        "host": {"cpu": "Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz of a cloud that tells much of it"},
        "alternatives": [{"name": name, **alternative} for name in names],
        "chosen": list(names), "threads": 2, "command": "",
    }  # fmt: skip
    hold(narrow(show_tuning, tuned), names)
