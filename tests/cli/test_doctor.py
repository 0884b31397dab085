"""doctor: what runs here, in which precision, and what installs the rest."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from medattn_edge.backends import backends
from medattn_edge.backends.compiler import Compiler
from medattn_edge.backends.session import Backend
from medattn_edge.cli import doctor
from medattn_edge.host.computed_precision import computed_in, described
from medattn_edge.host.cores import CoreLimits, usable_cores
from medattn_edge.host.diagnosis import HostReport, backend_rows, compiler_row, conflicts, extra_of, problems
from medattn_edge.host.hardware import Cpu, Gpu
from medattn_edge.host.probe import PackageReport, probe
from medattn_edge.installation import install_line

Run = Callable[..., Any]

VNNI = Cpu("a Xeon", "x86_64", ("avx2", "avx512_vnni"), 2, 4)
PLAIN = Cpu("an old Xeon", "x86_64", ("avx2",), 2, 4)
ARM = Cpu("a Neoverse", "aarch64", ("asimd", "dotprod"), 4, 4)
OLD_ARM = Cpu("a Cortex", "aarch64", ("asimd",), 4, 4)
GPU = Gpu(0, "a GPU", "sm86", 24000, "580.65.06", "13.0")
CPU_ORT = PackageReport(facts={"providers": ["CPUExecutionProvider"]})
GPU_ORT = PackageReport(facts={"providers": ["CUDAExecutionProvider", "CPUExecutionProvider"]})


def host(**changes: Any) -> HostReport:
    return HostReport(**{"cpu": VNNI, "gpus": (), "versions": {}, "reports": {}, **changes})


def backend(package: str) -> Backend:
    """A record of a runtime that is not asked to open anything."""

    def refuse(path: Any, options: Any) -> Any:
        raise AssertionError

    return Backend(name=f"the-{package}", suffixes=(".x",), extra="some", packages=(package,), open=refuse)


def compiler(package: str) -> Compiler:
    def refuse(*words: Any) -> Any:
        raise AssertionError

    return Compiler(f"the-{package}", (".engine",), (".onnx",), "some", (package,), "tensorrt", refuse)


def test_doctor_explains_this_host_in_json_quickly(medattn: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    start = time.monotonic()
    done = medattn("doctor", "--json")
    assert time.monotonic() - start < 10
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert {"cpu", "gpus", "packages", "backends", "compilers", "problems"} <= set(report)
    assert set(backends()) == {row["name"] for row in report["backends"]}
    for row in report["backends"]:
        assert {"name", "runs", "device", "precisions", "why", "install"} <= set(row)
        assert set(row["precisions"]) == {"fp32", "fp16", "int8"}
        assert row["runs"] == (not row["why"])
    assert {"eager", "onnxruntime"} <= {row["name"] for row in report["backends"] if row["runs"]}
    assert report["packages"]["numpy"]
    assert "onnxruntime-gpu" in report["packages"]
    told = {one["variable"]: one for one in report["cpu_settings"]}
    assert set(told["OMP_NUM_THREADS"]) == {"variable", "value", "runtimes", "effect", "hint"}
    assert report["cores"]["usable"] == usable_cores()
    assert set(report["cores"]) == {"physical_cores", "affinity", "allowed_cores", "cpu_quota", "usable"}


def test_doctor_shows_the_cores_with_the_affinity_and_the_quota_that_bound_them() -> None:
    from medattn_edge.cli.doctor import _environment

    def shown(**limits: Any) -> str:
        rows = dict(row[:2] for row in _environment(host(cores=CoreLimits(**limits))))
        return rows["usable cores"]

    limited = shown(physical_cores=8, affinity=(0, 1, 8, 9), allowed_cores=2, cpu_quota=1.5)
    assert limited == "1 (affinity: 4 CPUs on 2 cores; cgroup quota: 1.5 CPUs)"
    free = shown(physical_cores=8, affinity=None, allowed_cores=8, cpu_quota=None)
    assert free == "8 (affinity: not known; cgroup quota: none)"


def test_doctor_shows_what_the_environment_asks_of_the_cpu() -> None:
    from medattn_edge.cli.doctor import _environment

    rows = dict(row[:2] for row in _environment(host(environment={"ONEDNN_MAX_CPU_ISA": "avx2"})))
    assert rows["ONEDNN_MAX_CPU_ISA"].startswith("avx2: OpenVINO, and torch's convolutions, compute without avx512")


def test_a_cap_is_seen_in_what_openvino_computes_and_not_in_what_onnx_runtime_does() -> None:
    capped = host(environment={"DNNL_MAX_CPU_ISA": "AVX2"})
    [openvino] = backend_rows(backend("openvino"), capped)
    [onnxruntime] = backend_rows(backend("onnxruntime"), capped)
    assert "no VNNI" in openvino.precisions["int8"]
    assert onnxruntime.precisions["int8"] == "int8 (U8S8, VNNI)"
    assert any("unset DNNL_MAX_CPU_ISA" in one.hint for one in problems(capped))


def test_a_package_that_a_busy_host_keeps_from_answering_is_not_called_broken() -> None:
    slow = host(reports={"openvino": PackageReport("no answer within 8 s", timed_out=True)})
    [row] = backend_rows(backend("openvino"), slow)
    assert (row.why, row.install) == ("openvino gave no answer within 8 s: this host is busy, or it hangs", None)
    [found] = problems(slow)
    assert "broken" not in found.found
    assert "reinstall" not in found.hint


def test_doctor_tells_a_broken_package_and_goes_on(
    medattn: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "onnxruntime").mkdir()
    (tmp_path / "onnxruntime" / "__init__.py").write_text("raise ImportError('libsomething.so.1: no such [file]')\n")
    monkeypatch.syspath_prepend(tmp_path)
    done = medattn("doctor")
    assert done.returncode == 0, done.stderr
    assert "problem: onnxruntime is installed and broken: ImportError: libsomething.so.1: no such [file]" in done.stdout
    assert "pip install --force-reinstall onnxruntime" in done.stdout
    first = done.stdout.splitlines()
    assert first[0].startswith("verdict: artifacts run here, with ")
    assert first[1].startswith("  next: ")
    assert len(first) <= 24


def backend_row(name: str, device: str = "cpu", why: str = "", install: str | None = None) -> dict[str, Any]:
    precisions = dict.fromkeys(("fp32", "fp16", "int8"), "fp32")
    return {"name": name, "device": device, "runs": not why, "why": why, "install": install, "precisions": precisions}


def verdict(capsys: pytest.CaptureFixture[str], rows: list[dict[str, Any]], **more: Any) -> str:
    doctor._verdict({"backends": rows, "problems": [], "gpus": [], **more})
    return capsys.readouterr().out


def test_the_verdict_comes_with_the_one_line_to_type_next(capsys: pytest.CaptureFixture[str]) -> None:
    absent = backend_row("onnxruntime", why="it is not installed", install="pip install x")
    assert verdict(capsys, [absent]) == "verdict: no backend runs here\n  next: pip install x\n"
    ort, eager = backend_row("onnxruntime"), backend_row("eager")
    assert "next: medattn-edge infer NET.onnx" in verdict(capsys, [ort])
    assert "next: medattn-edge demo" in verdict(capsys, [ort, eager])
    engine = backend_row("tensorrt", "cuda:0", "tensorrt is not installed", "pip install y")
    told = verdict(capsys, [ort, engine], gpus=[{"name": "a GPU"}])
    assert told == (
        "verdict: artifacts run here on the CPU; nothing that is installed uses the GPU\n  next: pip install y\n"
    )
    served = backend_row("triton")
    assert "next: medattn-edge infer NET.onnx" in verdict(capsys, [ort, served])
    assert verdict(capsys, [absent, served]) == (
        "verdict: models of a Triton server run from here\n  next: medattn-edge serve check NAME.triton\n"
    )
    broken = verdict(capsys, [ort], problems=[{"found": "a", "hint": "do it"}, {"found": "b", "hint": "then that"}])
    assert broken == "verdict: artifacts run here, with 2 problems\n  next: do it\n"


def test_a_host_with_many_problems_and_long_names_still_fits_a_screen(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [backend_row(f"backend-{number}", why="a reason " * 30) for number in range(7)]
    document: dict[str, Any] = {
        "backends": rows, "gpus": [{"name": "a GPU" * 30}], "compilers": [], "cores": None,
        "cpu": {"model": "a CPU" * 30, "physical_cores": 4, "instruction_sets": ["avx2"]},
        "dicom": [{"what": f"library {number}", "found": None} for number in range(9)],
        "problems": [{"found": f"problem {number}", "hint": "do it"} for number in range(9)],
    }  # fmt: skip
    doctor._verdict(document)
    doctor._summary(document)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80
    assert lines[-1].startswith("6 more problems, ")


def test_a_package_that_kills_its_process_is_told_and_one_that_hangs_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "crashing.py").write_text("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)\n")
    (tmp_path / "hanging.py").write_text("import time; time.sleep(60)\n")
    (tmp_path / "talking.py").write_text("print('hello'); print('{}', end='')\n")
    monkeypatch.syspath_prepend(tmp_path)
    reports = probe(["crashing", "hanging", "talking"], timeout_s=1.5)
    assert "crashed: SIGSEGV" in reports["crashing"].error
    assert "1.5 s" in reports["hanging"].error
    assert reports["talking"] == PackageReport()


def test_a_missing_backend_says_the_line_that_installs_it() -> None:
    (row,) = backend_rows(backend("openvino"), host(missing=frozenset({"openvino"})))
    assert (row.runs, row.why, row.install) == (
        False,
        "openvino is not installed",
        install_line("some"),
    )


def test_a_backend_for_gpus_alone_does_not_run_without_one() -> None:
    (row,) = backend_rows(backend("tensorrt"), host(reports={"tensorrt": PackageReport()}))
    assert (row.runs, row.device, row.install) == (False, "cuda:0", None)
    assert "GPU" in row.why
    (found,) = backend_rows(backend("tensorrt"), host(gpus=(GPU,), reports={"tensorrt": PackageReport()}))
    assert found.runs
    old = Gpu(0, "an old GPU", "sm61", 8000, "", "")
    (refused,) = backend_rows(backend("tensorrt"), host(gpus=(old,), reports={"tensorrt": PackageReport()}))
    assert "sm61" in refused.why


def test_a_backend_for_both_has_a_row_for_each_device_that_is_there() -> None:
    record = backend("onnxruntime")
    assert [row.device for row in backend_rows(record, host(reports={"onnxruntime": CPU_ORT}))] == ["cpu"]
    rows = backend_rows(record, host(gpus=(GPU,), reports={"onnxruntime": CPU_ORT}))
    assert [(row.device, row.runs) for row in rows] == [("cpu", True), ("cuda:0", False)]
    rows = backend_rows(record, host(gpus=(GPU,), reports={"onnxruntime": GPU_ORT}))
    assert [row.runs for row in rows] == [True, True]
    assert rows[1].precisions["int8"].startswith("Q/DQ computed in fp32")


def test_a_broken_backend_does_not_run() -> None:
    (row,) = backend_rows(backend("torch"), host(reports={"torch": PackageReport("OSError: no libgomp")}))
    assert row.why == "torch is broken: OSError: no libgomp"
    assert row.install is not None


def test_a_backend_that_nothing_is_known_of_is_not_guessed_at() -> None:
    (row,) = backend_rows(backend("newcomer"), host())
    assert (row.runs, set(row.precisions.values())) == (True, {"not known"})


def test_what_a_server_computes_is_not_said_to_be_computed_here(capsys: pytest.CaptureFixture[str]) -> None:
    (row,) = backend_rows(backend("tritonclient"), host())
    assert (row.runs, set(row.precisions.values())) == (True, {"as its server computes it"})
    document = {
        "backends": [backend_row("triton")], "gpus": [], "compilers": [], "cores": None, "dicom": [], "problems": [],
        "cpu": {"model": "a CPU", "physical_cores": 4, "instruction_sets": ["avx2"]},
    }  # fmt: skip
    doctor._summary(document)
    assert "  triton         asks a server; whether that computes: serve check NAME.triton\n" in capsys.readouterr().out


def test_tensorrt_rtx_compiles_without_a_gpu_and_tensorrt_does_not() -> None:
    rtx = compiler_row(compiler("tensorrt_rtx"), host())
    assert rtx.runs
    assert "running needs one" in rtx.why
    assert not compiler_row(compiler("tensorrt"), host()).runs
    assert compiler_row(compiler("tensorrt"), host(gpus=(GPU,))).runs
    assert compiler_row(compiler("openvino"), host()).why == ""


def test_tensorrt_for_rtx_is_told_with_its_makers_list_and_the_precision_to_take() -> None:
    listed, other = (
        backend_rows(backend("tensorrt_rtx"), host(gpus=(replace(GPU, compute_capability=name),)))[0]
        for name in ("sm89", "sm90")
    )
    assert listed.runs
    assert "recommended" in listed.precisions["fp16"]
    assert "not documented to be faster, not measured" in listed.precisions["int8"]
    assert other.why == "the GPU is sm90, and TensorRT for RTX is made for sm75, sm86, sm89, sm120, sm121"
    [tensorrt] = backend_rows(backend("tensorrt"), host(gpus=(replace(GPU, compute_capability="sm90"),)))
    assert tensorrt.runs


@pytest.mark.parametrize(
    ("cpu", "words"), [(VNNI, "U8S8, VNNI"), (PLAIN, "7-bit"), (ARM, "S8S8, dot product"), (OLD_ARM, "slower")]
)
def test_the_cpu_decides_how_onnx_runtime_computes_int8(cpu: Cpu, words: str) -> None:
    found = described("onnxruntime", "cpu", cpu)
    assert words in found["int8"]
    assert found["fp16"] == "stored fp16, computed in fp32"


@pytest.mark.parametrize(
    ("stored", "runtime", "device", "settings", "computed"),
    [
        *((stored, "torch", device, {}, stored) for stored in ("fp32", "bf16") for device in ("cpu", "cuda:0")),
        *(("fp16", runtime, "cpu", {}, "fp32") for runtime in ("onnxruntime", "openvino")),
        *(("fp16", runtime, "cuda:0", {}, "fp16") for runtime in ("onnxruntime", "tensorrt", "torch_tensorrt")),
        *(("int8", runtime, "cpu", {}, "int8") for runtime in ("onnxruntime", "openvino")),
        ("int8", "onnxruntime", "cpu", {"as_written": True}, "fp32"),
        ("int8", "onnxruntime", "cuda:0", {}, "fp32"),
        ("int8", "onnxruntime", "cuda:0", {"provider": "cuda"}, "fp32"),
        ("int8", "onnxruntime", "cuda:0", {"provider": "tensorrt"}, "int8"),
        ("int8", "tensorrt", "cuda:0", {}, "int8"),
        ("bf16", "openvino", "cpu", {}, "bf16"),
    ],
)
def test_what_a_file_is_computed_in(
    stored: str, runtime: str, device: str, settings: dict[str, Any], computed: str
) -> None:
    assert computed_in(stored, runtime, device, **settings) == computed


@pytest.mark.parametrize(
    ("runtime", "device"), [("onnxruntime", "cpu"), ("onnxruntime", "cuda:0"), ("openvino", "cpu")]
)
def test_doctor_names_the_precision_that_a_benchmark_counts(runtime: str, device: str) -> None:
    for stored, text in described(runtime, device, VNNI).items():
        computed = computed_in(stored, runtime, device)
        assert text.startswith(computed) if computed == stored else f"computed in {computed}" in text


def test_openvinos_own_precision_is_told_where_it_is_another() -> None:
    assert "default here is bf16" in described("openvino", "cpu", VNNI, {"default_inference_precision": "bf16"})["fp32"]
    assert described("openvino", "cpu", VNNI, {"default_inference_precision": "f32"})["fp32"] == "fp32"
    amx = Cpu("a newer Xeon", "x86_64", ("amx_int8",), 1, 1)
    assert described("openvino", "cpu", amx)["int8"] == "int8 (AMX)"


@pytest.mark.parametrize(
    ("versions", "words"),
    [
        ({"torch": "2.13.0+cu130", "torch-tensorrt": "2.12.1"}, "pins torch"),
        ({"onnxruntime": "1.32.0", "onnxruntime-gpu": "1.32.0"}, "both installed"),
        ({"onnxruntime-gpu": "1.26.0", "tensorrt": "11.0.0.1"}, "1.27"),
        ({"torch": "2.13.0", "torch-tensorrt": "2.13.1"}, None),
        ({"onnxruntime-gpu": "1.26.0", "tensorrt": "10.9.0"}, None),
        ({"onnxruntime-gpu": "1.27.0", "tensorrt": "11.0.0"}, None),
        ({}, None),
    ],
)
def test_versions_that_do_not_go_together(versions: dict[str, str], words: str | None) -> None:
    found = conflicts(versions)
    assert len(found) == (words is not None)
    assert all(words is not None and words in problem.found and problem.hint for problem in found)


def test_a_torch_that_cannot_use_the_gpu_is_a_problem() -> None:
    torch = PackageReport(facts={"cuda": None, "cuda_available": False})
    (found,) = problems(host(gpus=(GPU,), reports={"torch": torch}))
    assert "cannot use it" in found.found
    assert problems(host(reports={"torch": torch})) == ()


def test_an_extra_is_found_in_what_the_package_requires() -> None:
    lines = ["numpy>=1.26", 'NNCF>=3.4; extra == "int8"', 'tensorrt_rtx>=1.7; python_version > "3" and extra == "rtx"']
    assert extra_of("nncf", lines) == "int8"
    assert extra_of("tensorrt-rtx", lines) == "rtx"
    assert extra_of("numpy", lines) is None
