"""The roofline is what this host reaches, by runtimes that were seen to compute in the precision that is named."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from medattn_edge.evaluation.roofline import Peak, peak
from medattn_edge.evaluation.roofline_worker import measure
from medattn_edge.host import hardware

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def found() -> Peak:
    """With one thread, quickly."""
    return peak(1, duration_s=0.01)


def test_it_is_finite_and_above_0_in_both_precisions(found: Peak) -> None:
    for value in (found.fp32_gflops, found.int8_gops):
        assert value is not None
        assert math.isfinite(value)
        assert value > 0.1


def test_every_runtime_is_listed_and_the_best_of_each_precision_is_taken(found: Peak) -> None:
    assert set(found.by["fp32"]) == {"numpy", "onnxruntime", "openvino"}
    assert {"onnxruntime"} <= set(found.by["int8"]) <= {"onnxruntime", "openvino"}
    assert found.fp32_gflops == max(found.by["fp32"].values())
    assert found.int8_gops == max(found.by["int8"].values())
    assert json.loads(json.dumps(found.to_json()))["by"] == found.by


@pytest.mark.skipif(hardware.isa_class(hardware.cpu()) != "x86-vnni", reason="this CPU has no INT8 dot product")
def test_int8_is_faster_than_fp32_where_the_cpu_has_dot_products_of_bytes(found: Peak) -> None:
    assert found.left_out == {}
    assert found.by["int8"]["openvino"] > found.by["fp32"]["openvino"]


def test_fp16_is_fp32_on_a_cpu_and_bf16_has_no_roofline(found: Peak) -> None:
    assert found.of("fp16") == found.of("fp32") == found.fp32_gflops
    assert found.of("int8") == found.int8_gops
    assert found.of("bf16") is None


def test_a_runtime_that_is_not_here_is_left_out_and_named() -> None:
    assert measure("no_such_runtime", 1, 0.01) == {"reached": {}, "left_out": {"": "not installed"}}


def test_a_runtime_that_kills_its_process_is_left_out_with_how_it_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "onnxruntime.py").write_text("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)\n")
    monkeypatch.syspath_prepend(tmp_path)
    measured = peak(1, duration_s=0.01)
    assert measured.left_out["onnxruntime"] == "its process crashed: SIGSEGV"
    assert set(measured.by["fp32"]) == {"numpy", "openvino"}
