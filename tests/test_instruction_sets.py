"""A case under the instruction sets of other CPUs: what is measured, what is not, and what people read of it."""

from __future__ import annotations

import json
import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import instruction_sets
import isa_table
import pytest
import report
from cases import CASES, OURS, Case, by_sqnr
from instruction_sets import CAPS, NO_CAP, Cap, forms, measured

from medattn_edge.evaluation import BenchSettings
from medattn_edge.host.cpu_settings import onednn_cpu
from medattn_edge.host.hardware import FLAGS, Cpu

XEON = Cpu("a Xeon", "x86_64", tuple(name for name in FLAGS if name.startswith(("av", "am"))), 8, 16)
TINY = Case("tiny", "attention-unet-2d", "", 1, 3, (16, 16), by_sqnr(15.0), {"width": 2}, 3, 2, initial=True)
FP32 = [form for form in OURS if form.made == "openvino"]


def cap(name: str) -> Cap:
    return next(one for one in CAPS if one.name == name)


def test_a_cap_leaves_what_it_needs_and_names_what_is_above_it() -> None:
    for one in CAPS[:-1]:
        assert one.needs in onednn_cpu(one.environment, XEON).instruction_sets
    assert cap(NO_CAP).environment == {}
    assert set(instruction_sets.DEFAULT) <= {case.name for case in CASES}


@pytest.mark.parametrize(
    ("name", "made"),
    [
        ("AVX2", {"openvino", "int8_openvino", "int8_without_vnni"}),
        ("AVX2_VNNI", {"openvino", "int8_openvino"}),
        ("AVX512_CORE", {"openvino", "int8_openvino", "int8_without_vnni"}),
        ("AVX512_CORE_VNNI", {"openvino", "int8_openvino"}),
        ("AVX512_CORE_AMX", {"openvino", "int8_openvino", "int8_bf16"}),
        (NO_CAP, {"openvino", "int8_openvino", "int8_bf16", "onnx"}),
    ],
)
def test_the_rows_are_those_that_such_a_cpu_would_run(name: str, made: set[str]) -> None:
    assert {form.made for form in forms(cap(name), XEON)} == made


@pytest.mark.slow
@pytest.mark.skipif(find_spec("openvino") is None, reason="openvino is not installed")
def test_a_point_is_measured_under_its_cap_and_the_rest_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DNNL_MAX_CPU_ISA", "SSE41")  # the shell's own cap is not that of a point
    caps = (Cap("AVX2", "a Core", "", "avx2"), Cap("AVX512_CORE_AMX", "a Xeon", "no such set", "avx512"))
    settings = BenchSettings(duration_s=0.05, warm_up_s=0.01, timeout_s=120)
    document = measured(TINY, settings, tmp_path, caps, (1, 4096), lambda cap, cpu: FP32)
    assert os.environ["DNNL_MAX_CPU_ISA"] == "SSE41"
    assert [(row["cap"], row["threads"], row["artifact"]) for row in document["rows"]] == [
        ("AVX2", 1, "eager"),
        ("AVX2", 1, "fused.xml"),
    ]
    assert all((row["ratio_to_reference"] or row["ratio_declined"]) and row["agreement"] for row in document["rows"])
    assert "no such set" in document["absent"]["AVX512_CORE_AMX"]
    assert "may use" in document["absent"]["AVX2 on 4096 threads"]
    assert document["absent"]["ONNX Runtime under AVX2"] == instruction_sets.ONNX_RUNTIME_HAS_NONE
    text = isa_table.table(json.loads(json.dumps(document, allow_nan=False)))
    assert "AVX2 on 4096 threads: not measured" in text


def row(cap: str, threads: int, artifact: str, ratio: float | None) -> dict[str, Any]:
    return {
        "cap": cap,
        "threads": threads,
        "artifact": artifact,
        "p50_ms": None if ratio is None else 10 / ratio,
        "ratio_to_reference": ratio,
        "ratio_spread": None if ratio is None else [ratio, ratio],
        "agreement": {"sqnr_db": 50.0, "label_match": 1.0, "max_abs": 0.1},
        "verdict": "fail" if ratio is None else "pass",
        "failures": ["SQNR in dB is 12"] if ratio is None else [],
    }


def test_readers_see_the_fastest_row_that_agrees_and_why_a_place_is_empty(tmp_path: Path) -> None:
    rows = [row("AVX2", 1, "eager", 1.0), row("AVX2", 1, "int8.xml", None), row("AVX2", 1, "int8-x86.xml", 3.5)]
    declined = {**row("none", 1, "int8.xml", None), "verdict": "pass", "failures": [], "ratio_declined": "host busy"}
    rows += [row("none", 1, "eager", 1.0), declined]
    document = {
        "instruction_sets": {
            "name": "small",
            "caps": {"AVX2": "a Core", "AMX": "a Xeon", "none": "this"},
            "threads": [1, 4],
        },
        "environment": {"cpu": "a CPU"},
        "rows": rows,
        "absent": {"AMX": "this CPU has no amx_int8", "AVX2 on 4 threads": "this process may use 2 cores"},
    }
    (tmp_path / "instruction-sets-small.json").write_text(json.dumps(document))
    (tmp_path / "project.md").write_text(f"a\n{isa_table.BEGIN}\nold\n{isa_table.END}\nb\n")
    made = report.texts(tmp_path, tmp_path / "project.md")
    lines = made[tmp_path / "project.md"].splitlines()
    [core] = [line for line in lines if line.startswith("| AVX2 ")]
    assert "3.50 (int8-x86.xml, 50.0 dB; 2.9 ms) | not measured: this process may use 2 cores" in core
    [xeon] = [line for line in lines if line.startswith("| AMX ")]
    assert xeon.count("not measured: this CPU has no amx_int8") == 2
    [here] = [line for line in lines if line.startswith("| none ")]
    assert "| declined: the host was busy |" in here, "eager is no answer to how fast another row is"
    page = made[tmp_path / "README.md"]
    assert "FAIL: SQNR in dB is 12" in page
    assert "AMX: not measured: this CPU has no amx_int8" in page
    assert report.stale(tmp_path, tmp_path / "project.md")


@pytest.mark.skipif(find_spec("onnxruntime") is None, reason="onnxruntime is not installed")
def test_onnx_runtime_has_no_variable_that_caps_it() -> None:
    """oneDNN's, which OpenVINO and torch have, is not in its library."""
    import onnxruntime.capi

    [folder] = onnxruntime.capi.__path__
    libraries = [path for path in Path(folder).iterdir() if ".so" in path.suffixes]
    assert libraries
    assert not any(b"MAX_CPU_ISA" in path.read_bytes() for path in libraries)
