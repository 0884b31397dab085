"""`--device auto`: what only runs on a GPU is for the GPU, everything else for the CPU, and nothing ever falls back."""

from __future__ import annotations

from pathlib import Path

import pytest

import medattn_edge as me
from medattn_edge.backends import AUTO, Backend, backends, device_of, open_session
from medattn_edge.backends.compiler import compilers
from medattn_edge.backends.isolated import IsolatedSession
from medattn_edge.backends.runtimes import Runtime, RuntimeHost, choose
from medattn_edge.backends.session import Options
from medattn_edge.host.diagnosis import HostReport, backend_rows
from medattn_edge.host.hardware import Cpu
from medattn_edge.registry import is_default

FILES = [
    (backend, suffix) for backend in backends().values() for suffix in backend.suffixes if is_default(backend, suffix)
]
GPU = RuntimeHost(gpu=True, providers=("CUDAExecutionProvider", "CPUExecutionProvider"))


@pytest.mark.parametrize(("backend", "suffix"), FILES, ids=[suffix for _, suffix in FILES])
def test_auto_follows_from_the_file_alone(backend: Backend, suffix: str) -> None:
    wanted = "cuda:0" if backend.gpu_only else "cpu"
    assert device_of(f"net{suffix.upper()}") == device_of(Path(f"net{suffix}"), AUTO, backend.name) == wanted
    assert device_of(f"net{suffix}", "cuda:3") == "cuda:3"
    assert device_of(f"net{suffix}", "cpu") == "cpu"  # which opening an engine refuses


def test_what_auto_sends_to_the_gpu_is_what_doctor_runs_there_alone() -> None:
    host = HostReport(Cpu("any", "x86_64", (), 1, 1), (), {}, {}, frozenset())
    for backend in backends().values():
        [row] = backend_rows(backend, host)  # without a GPU, what could run on the CPU has its row
        assert backend.gpu_only is row.device.startswith("cuda"), backend.name


def test_every_compiler_that_names_compute_capabilities_makes_files_for_the_gpu() -> None:
    for compiler in compilers().values():
        for suffix in compiler.suffixes:
            on_gpu = "compute_capabilities" in compiler.settings
            assert device_of(f"net{suffix}") == ("cuda:0" if on_gpu else "cpu"), compiler.name


def test_a_provider_for_gpus_asks_for_one() -> None:
    assert device_of("net.onnx", provider="cuda") == "cuda:0"
    assert device_of("net.onnx", "cpu", provider="cuda") == "cpu"  # which is refused


def test_an_onnx_file_stays_on_the_cpu_where_a_gpu_is_too() -> None:
    assert choose(Path("net.onnx"), "fp32", host=GPU)[0] == (Runtime("onnxruntime", "onnxruntime", "cpu"),)
    assert choose(Path("net.onnx"), "int8", host=GPU) == choose(Path("net.onnx"), "int8", device="cpu", host=GPU)


def test_an_engine_goes_to_the_gpu_and_is_refused_where_there_is_none(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")
    assert choose(tmp_path / "net.rtx", "fp32")[0] == (Runtime("tensorrt-rtx", "tensorrt-rtx", "cuda:0"),)


def test_the_facts_tell_what_was_asked_for_and_what_came_of_it(small_artifact: Path) -> None:
    for asked in (AUTO, "cpu"):
        with open_session(small_artifact, device=asked) as session:
            assert (session.facts["requested_device"], session.facts["device"]) == (asked, "cpu")
    with IsolatedSession(small_artifact, options=Options(AUTO)) as session:
        assert (session.facts["requested_device"], session.facts["device"]) == (AUTO, "cpu")
    with me.load(small_artifact) as network:
        assert network.session.facts["requested_device"] == AUTO
