"""Where a file can be run on a host, and what is one graph."""

from __future__ import annotations

from pathlib import Path

import pytest

from medattn_edge.artifact import Manifest
from medattn_edge.backends.runtimes import (
    ALL,
    AS_WRITTEN,
    Runtime,
    RuntimeHost,
    choose,
    of_onnx,
    one_graph_each,
    this_host,
)
from medattn_edge.errors import HostError, UsageError
from medattn_edge.host import hardware
from medattn_edge.installation import install_line
from medattn_edge.spec import ModelSpec

ONNX = Path("net.onnx")
HOST = RuntimeHost()
GPU = RuntimeHost(gpu=True, providers=("TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"))


def names(found: tuple[Runtime, ...]) -> list[str]:
    return [one.name for one in found]


def test_a_reduced_precision_is_run_wherever_this_host_can() -> None:
    for precision in ("int8", "fp16", "bf16"):
        found, left_out = choose(ONNX, precision, host=HOST)
        assert names(found) == [AS_WRITTEN, "onnxruntime", "openvino"]
        assert set(left_out) == {"openvino-without-amx", "onnxruntime-cuda", "onnxruntime-tensorrt"}
    assert found[0].as_written
    assert not any(one.as_written for one in found[1:])


def test_fp32_is_run_by_its_own_backend_unless_all_are_asked_for() -> None:
    assert names(choose(ONNX, "fp32", host=HOST)[0]) == ["onnxruntime"]
    assert names(choose(ONNX, "fp32", [ALL], host=HOST)[0]) == [AS_WRITTEN, "onnxruntime", "openvino"]
    assert names(choose(ONNX, "int8", ["openvino", AS_WRITTEN], host=HOST)[0]) == [AS_WRITTEN, "openvino"]


@pytest.mark.parametrize(
    ("name", "backend"), [("net.xml", "openvino"), ("net.torchscript", "torchscript"), ("net.safetensors", "eager")]
)
def test_other_files_have_one_runtime(name: str, backend: str) -> None:
    for precision in ("fp32", "int8"):
        found, left_out = choose(Path(name), precision, host=HOST)
        assert [(one.name, one.backend, one.device) for one in found] == [(backend, backend, "cpu")]
        assert not left_out


def test_a_host_with_amx_also_computes_as_one_without() -> None:
    found = of_onnx(RuntimeHost(amx=True))[0]
    assert names(found) == [AS_WRITTEN, "onnxruntime", "openvino", "openvino-without-amx"]
    assert found[-1].environment
    ir = choose(Path("net.xml"), "int8", host=RuntimeHost(amx=True))[0]
    assert names(ir) == ["openvino", "openvino-without-amx"]
    assert names(choose(Path("net.blob"), "int8", host=RuntimeHost(amx=True))[0]) == ["openvino"]
    assert names(choose(Path("net.xml"), "fp32", host=RuntimeHost(amx=True))[0]) == ["openvino"]


def test_a_missing_runtime_is_told_with_the_line_that_installs_it() -> None:
    host = RuntimeHost(missing=frozenset({"openvino"}))
    found, left_out = choose(ONNX, "int8", host=host)
    assert names(found) == [AS_WRITTEN, "onnxruntime"]
    assert install_line("openvino") in left_out["openvino"]
    with pytest.raises(HostError, match=r"openvino is not here(.|\n)*pip install"):
        choose(ONNX, "int8", ["openvino"], host=host)


def test_a_gpu_adds_the_providers_that_this_onnx_runtime_has() -> None:
    found = {one.name: one for one in choose(ONNX, "int8", host=GPU)[0]}
    assert list(found) == [AS_WRITTEN, "onnxruntime", "openvino", "onnxruntime-cuda", "onnxruntime-tensorrt"]
    assert (found["onnxruntime-tensorrt"].device, found["onnxruntime-tensorrt"].provider) == ("cuda:0", "tensorrt")
    without = RuntimeHost(gpu=True, providers=("CPUExecutionProvider",))
    assert "pip install onnxruntime-gpu" in choose(ONNX, "int8", host=without)[1]["onnxruntime-cuda"]


def test_a_gpu_that_is_asked_for_leaves_the_cpu_only_the_graph_as_written() -> None:
    found = choose(ONNX, "int8", device="cuda:1", host=GPU)[0]
    assert names(found) == [AS_WRITTEN, "onnxruntime-cuda", "onnxruntime-tensorrt"]
    assert [one.device for one in found] == ["cpu", "cuda:1", "cuda:1"]
    with pytest.raises(HostError, match=r"cuda:1(.|\n)*--device cpu"):
        choose(ONNX, "int8", device="cuda:1", host=HOST)
    assert choose(ONNX, "fp32", device="cuda:1")[0] == (Runtime("onnxruntime", "onnxruntime", "cuda:1"),)


def test_this_host_is_told_as_it_is() -> None:
    host = this_host()
    assert host.amx == ("amx_int8" in hardware.cpu().instruction_sets)
    assert host.gpu == bool(hardware.gpus())
    assert "onnxruntime" not in host.missing
    assert AS_WRITTEN in names(of_onnx(host)[0])


def test_a_runtime_that_nobody_knows_is_refused() -> None:
    with pytest.raises(UsageError, match=r"'openvin'(.|\n)*onnxruntime, openvino(.|\n)*--runtime openvino"):
        choose(ONNX, "int8", ["onnxruntime", "openvin"], host=HOST)


def manifest(sha: str, parent: str, precision: str = "int8", compiled: bool = False) -> Manifest:
    spec = ModelSpec("attention-unet-2d", 1, ("background", "organ"), (32, 32), (16, 16))
    target = {"compiler": "openvino"} if compiled else {}
    return Manifest(spec, precision, sha, parent, "onnx", 1, {}, {}, {}, 1, 1.0, target=target)


def test_what_was_compiled_from_a_file_is_its_graph_and_nothing_else_is() -> None:
    onnx, quantised = manifest("a", "checkpoint", "fp32"), manifest("b", "a")
    engine, other = manifest("c", "b", compiled=True), manifest("d", "b", compiled=True)
    bf16 = manifest("e", "a", "bf16", compiled=True)
    ours = [onnx, engine, None, quantised, bf16, other, None]
    assert one_graph_each(ours) == [[0], [1, 3, 5], [2], [4], [6]]
    assert one_graph_each([engine, other]) == [[0, 1]]
