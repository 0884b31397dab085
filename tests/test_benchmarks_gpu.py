"""The benchmark of a GPU host: its rows, what keeps each from running, and its code run with the CPU's rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gpu
import pytest
from artifacts import Files
from cases import CASES, Case, by_sqnr

from medattn_edge.backends import backends
from medattn_edge.backends.isolated import IsolatedSession
from medattn_edge.backends.session import Options
from medattn_edge.evaluation import BenchSettings
from medattn_edge.host import hardware
from medattn_edge.host.cores import core_limits
from medattn_edge.host.diagnosis import HostReport, read_host
from medattn_edge.host.hardware import Gpu
from medattn_edge.host.probe import PackageReport

TINY = Case("tiny", "attention-unet-2d", "", 1, 3, (16, 16), by_sqnr(15.0), {"width": 2}, 3, 2, initial=True)
CUDA = {
    "torch": PackageReport(facts={"cuda": "13.0", "cuda_available": True}),
    "onnxruntime": PackageReport(facts={"providers": ["CUDAExecutionProvider", "CPUExecutionProvider"]}),
}


def host(capability: str = "sm120", **changes: Any) -> HostReport:
    board = Gpu(0, "a GPU", capability, 32000, "580.65.06", "13.0")
    return HostReport(**{"cpu": hardware.cpu(), "gpus": (board,), "versions": {}, "reports": CUDA, **changes})


def test_every_way_has_a_row_and_every_row_has_a_way_to_its_file() -> None:
    forms = gpu.rows()
    assert len({form.name for form in forms}) == len(forms)
    not_of_this_host = {"openvino", "triton"}  # of CPUs, and of another host
    assert {form.backend for form in forms} == set(backends()) - not_of_this_host
    assert {form.precision for form in forms if form.backend == "tensorrt-rtx"} == {"fp32", "fp16", "int8"}
    assert {form.device for form in forms} == {"cuda:0"}
    assert all(hasattr(Files, form.made) for form in forms)
    assert set(gpu.DEFAULT) <= {case.name for case in CASES}


def test_a_row_that_cannot_run_is_told_by_what_keeps_it() -> None:
    bare = gpu.obstacles(gpu.rows(), host(missing=frozenset({"tensorrt", "torch_tensorrt"})))
    assert set(bare) == {"fused.engine", "fp16.engine", "int8.engine", "fused.ts"}
    assert all("is not installed" in why for why in bare.values())
    hopper = gpu.obstacles(gpu.rows(), host("sm90"))
    assert set(hopper) == {"fused.rtx", "fp16.rtx", "int8.rtx"}
    assert all("made for sm75" in why for why in hopper.values())
    on_cpu = {**CUDA, "onnxruntime": PackageReport(facts={"providers": ["CPUExecutionProvider"]})}
    assert set(gpu.obstacles(gpu.rows(), host(reports=on_cpu))) == {"fused.onnx", "fp16.onnx"}


@pytest.mark.slow
def test_the_same_code_measures_the_rows_that_a_cpu_has(tmp_path: Path) -> None:
    here = HostReport(hardware.cpu(), (), {}, {}, cores=core_limits())
    forms = [form for form in gpu.rows("cpu") if form.name != "torch.compile"]  # which compiles for half a minute
    settings = BenchSettings(duration_s=0.05, warm_up_s=0.01, threads=1, timeout_s=300)
    first, second = gpu.measured([TINY, TINY._replace(name="twin")], forms, settings, tmp_path, here)
    assert list(first["cases"]) == ["tiny"]
    assert list(second["cases"]) == ["tiny", "twin"]
    document = json.loads(json.dumps(second, allow_nan=False))
    assert {"fused.engine", "fused.rtx", "int8.rtx", "fused.ts"} <= set(document["absent"])
    found = {row["artifact"]: row for row in document["cases"]["tiny"]["rows"]}
    assert {"eager", "fused.torchscript", "fused.onnx"} <= set(found)
    assert all(row["agreement"] and row["p50_ms"] for row in found.values())
    assert document["cases"]["tiny"]["cuda_graphs"] == {}


@pytest.mark.slow
def test_torch_compile_is_opened_on_a_device(tmp_path: Path) -> None:
    files = Files(TINY, tmp_path)
    form = next(form for form in gpu.rows("cpu") if form.name == "torch.compile")
    with IsolatedSession(files.checkpoint(), options=Options("cpu", 1), opener=form.opener) as session:
        assert session.facts["device"] == "cpu"
        assert session.spec == files.loaded.spec


def test_without_a_gpu_it_says_so_and_measures_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    if read_host().gpus:
        pytest.skip("this host has a GPU")
    import typer

    with pytest.raises(typer.Exit) as left:
        gpu.main([CASES[0].name])
    assert left.value.exit_code == 3
    assert "nvidia-smi" in capsys.readouterr().err
