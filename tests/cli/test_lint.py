"""lint: a verdict on anyone's ONNX file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

Run = Callable[..., Any]


@pytest.fixture
def unsigned(tmp_path: Path) -> Path:
    """Someone's INT8 file without a manifest: UINT8 activations, as CPUs with VNNI like them."""
    tensors = [
        numpy_helper.from_array(np.float32(0.1), "scale"),
        helper.make_tensor("zero", TensorProto.UINT8, [], [128]),
        helper.make_tensor("weights", TensorProto.INT8, [16, 16, 1, 1], [100] * 256),
        helper.make_tensor("weights_zero", TensorProto.INT8, [], [0]),
    ]
    nodes = [
        helper.make_node("QuantizeLinear", ["image", "scale", "zero"], ["integers"], name="quantise[0]"),
        helper.make_node("DequantizeLinear", ["integers", "scale", "zero"], ["values"], name="dequantise"),
        helper.make_node("DequantizeLinear", ["weights", "scale", "weights_zero"], ["kernel"], name="kernel"),
        helper.make_node("Conv", ["values", "kernel"], ["logits"], name="conv"),
    ]
    nodes[-1].metadata_props.add(key="module", value="down.0")
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 16, 8, 8]) for name in ("image", "logits")]
    graph = helper.make_graph(nodes, "network", ports[:1], ports[1:], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, str(tmp_path / "unsigned.onnx"))
    return tmp_path / "unsigned.onnx"


@pytest.mark.parametrize("profile", ["cpu", "tensorrt"])
def test_our_own_artifact_passes(medattn: Run, artifact: Path, profile: str) -> None:
    done = medattn("lint", artifact, "--profile", profile, "--json")
    assert done.returncode == 0, done.stdout
    told = json.loads(done.stdout)
    assert told == {"artifact": str(artifact), "profile": profile, "verdict": "pass", "findings": []}
    assert "PASS: 0 errors" in medattn("lint", artifact, "--profile", profile).stdout


def test_a_broken_rule_is_a_verdict_with_node_module_and_remedy(medattn: Run, unsigned: Path) -> None:
    done = medattn("lint", unsigned, "--profile", "tensorrt", "--json")
    assert done.returncode == 1
    told = json.loads(done.stdout)
    (finding,) = told["findings"]
    assert told["verdict"] == "fail"
    assert set(finding) == {"rule", "severity", "node", "module", "reason", "remedy"}
    assert (finding["rule"], finding["node"], finding["module"]) == ("unsigned", "quantise[0]", "down.0")
    text = medattn("lint", unsigned, "--profile", "tensorrt")
    assert text.returncode == 1
    assert "quantise[0]" in text.stdout
    assert "FAIL: 1 errors" in text.stdout


def test_the_cpu_that_will_run_it_decides(medattn: Run, unsigned: Path) -> None:
    assert medattn("lint", unsigned, "--profile", "cpu", "--isa", "x86-vnni").returncode == 0
    done = medattn("lint", unsigned, "--profile", "cpu", "--isa", "x86")
    assert done.returncode == 1
    assert "eight-bit-weights" in done.stdout


def test_a_warning_is_told_and_passes(medattn: Run, unsigned: Path) -> None:
    model = onnx.load(str(unsigned))
    del model.graph.node[:3]
    model.graph.node[0].input[:] = ["image", "kernel"]
    model.graph.initializer.append(numpy_helper.from_array(np.ones((16, 16, 1, 1), np.float32), "kernel"))
    model.opset_import[0].version = 20
    onnx.save(model, str(unsigned))
    done = medattn("lint", unsigned, "--profile", "tensorrt")
    assert done.returncode == 0, done.stdout
    assert "opset" in done.stdout
    assert "PASS: 0 errors, 1 warnings" in done.stdout


def test_a_profile_must_be_named(medattn: Run, artifact: Path) -> None:
    done = medattn("lint", artifact)
    assert done.returncode == 2
    assert "--profile" in done.stderr
    wrong = medattn("lint", artifact, "--profile", "tensorrtx")
    assert wrong.returncode == 2
    assert "cpu" in wrong.stderr


@pytest.mark.parametrize("content", [None, b"", b"\x00 no model \xff", b"\x08"])
def test_a_file_that_is_no_model_is_bad_input(medattn: Run, tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "broken.onnx"
    if content is not None:
        path.write_bytes(content)
    done = medattn("lint", path, "--profile", "cpu")
    assert done.returncode == 4, (done.stdout, done.stderr)
    assert "broken.onnx" in done.stderr
    assert "next:" in done.stderr
    told = json.loads(medattn("lint", path, "--profile", "cpu", "--json").stdout)
    assert told["error"]["code"] == "input"


def test_a_quantiser_without_its_scale_is_bad_input(medattn: Run, unsigned: Path) -> None:
    model = onnx.load(str(unsigned))
    del model.graph.node[0].input[1:]
    onnx.save(model, str(unsigned))
    assert medattn("lint", unsigned, "--profile", "cpu").returncode == 4
