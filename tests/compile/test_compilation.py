"""Compilation: what appears answers as its parent does, says what it needs, and is refused where it does not fit."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from medattn_edge.agreement import Thresholds
from medattn_edge.artifact import Artifact, manifest_path, sha256
from medattn_edge.backends import open_session
from medattn_edge.backends.compiler import Compiler, CompileSettings, Source, compilers
from medattn_edge.backends.cpu_target import check_runs_on, runs_on
from medattn_edge.backends.tensorrt.library import has_gpu
from medattn_edge.compile.compilation import FP32_ON_CPU, Plan, build, compile_artifact, gates, plan, source_of
from medattn_edge.errors import (
    AgreementError,
    HostError,
    InputError,
    IntegrityError,
    MissingDependency,
    OutputError,
    UsageError,
)
from medattn_edge.evaluation.candidate import gate_of
from medattn_edge.evaluation.held_gate import held_gate
from medattn_edge.exporters import random_patches
from medattn_edge.file_gate import FileGate
from medattn_edge.host.hardware import Cpu
from medattn_edge.installation import install_line
from tests.support.networks import export_checkpoint, gated_spec, random_checkpoint, save_checkpoint

SPEC = gated_spec(widths=(8, 16, 32))
SAMPLES = {"a scan": random_patches(SPEC, 2, seed=5)}
SETTINGS = CompileSettings(threads=1)
CPU_SUFFIXES = tuple(
    suffix
    for one in compilers().values()
    if "compute_capabilities" not in one.settings and all(find_spec(package) for package in one.packages)
    for suffix in one.suffixes
)


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two networks of one kind as ONNX, for any batch, with maps."""
    made = {}
    for seed, name in enumerate(("one", "other")):
        path, checkpoint = tmp_path_factory.mktemp(name) / "network.onnx", random_checkpoint(SPEC, seed)
        made[name] = export_checkpoint(checkpoint, path, samples=SAMPLES, attention=True).path
    return made


@pytest.fixture(scope="module")
def source(sources: dict[str, Path]) -> Path:
    """One of them."""
    return sources["one"]


def answer(path: Path, **options: Any) -> np.ndarray[Any, Any]:
    with open_session(path, threads=1, **options) as session:
        return session.run(SAMPLES["a scan"])


def change(path: Path, **changes: Any) -> None:
    sidecar = manifest_path(path)
    sidecar.write_text(json.dumps({**json.loads(sidecar.read_text()), **changes}))


@pytest.mark.parametrize("suffix", CPU_SUFFIXES)
def test_every_cpu_target_is_compiled_checked_and_opened_again(suffix: str, source: Path, tmp_path: Path) -> None:
    path, steps = tmp_path / f"network{suffix}", list[tuple[int, int]]()
    made = compile_artifact(source, path, None, SETTINGS, SAMPLES, lambda done, of: steps.append((done, of)))
    manifest, parent = made.manifest, Artifact.read(source).manifest
    assert Artifact.read(path).manifest.to_json() == manifest.to_json()
    assert manifest.precision == "fp32"
    assert manifest.parent_sha256 == parent.sha256
    assert manifest.lineage == ("c" * 64, parent.sha256)
    assert manifest.attention_maps == parent.attention_maps
    assert {"compiler", "runs_on", "settings", "lint", "verified"} <= set(manifest.target)
    assert manifest.target["verified"] == "on this host, against network.onnx"
    assert [case["input"] for case in manifest.agreement] == ["a scan", "random"]
    for case in manifest.agreement:
        assert case["sqnr_db"] >= 110
        assert case["thresholds"] == FP32_ON_CPU.without_fp64().to_json()
    files = {path.name, f"{path.name}.json", *(f"network{one}" for one in manifest.companions)}
    assert {one.name for one in tmp_path.iterdir()} == files
    assert steps
    assert steps[-1][0] == steps[-1][1]
    np.testing.assert_allclose(answer(path), answer(source), rtol=1e-3, atol=1e-3)


def test_an_ir_is_compiled_to_a_blob(source: Path, tmp_path: Path) -> None:
    if ".blob" not in CPU_SUFFIXES:
        pytest.skip("openvino is not installed")
    first = compile_artifact(source, tmp_path / "network.xml", None, SETTINGS, SAMPLES)
    second = compile_artifact(first.path, tmp_path / "network.blob", "openvino", SETTINGS, SAMPLES)
    assert second.manifest.lineage == (*first.manifest.lineage, first.manifest.sha256)
    assert second.manifest.companions == {}
    assert first.manifest.companions  # its weights are still there, and still its own
    np.testing.assert_array_equal(answer(second.path), answer(first.path))


def test_what_onnx_runtime_optimised_answers_the_same_bits(source: Path, tmp_path: Path) -> None:
    path = compile_artifact(source, tmp_path / "network.ort", None, SETTINGS, SAMPLES).path
    np.testing.assert_array_equal(answer(path), answer(source))
    with pytest.raises(UsageError, match="without optimisations"):
        open_session(path, optimise=False)
    with pytest.raises(HostError, match=r"optimised for a CPU(.|\n)*--device cpu"):
        open_session(path, device="cuda:0")
    target = dict(Artifact.read(path).manifest.target)
    for key, value, said in (
        ("onnxruntime", "1.2.3", r"compiled by onnxruntime 1\.2\.3(.|\n)*'onnxruntime==1\.2\.3'"),
        ("instruction_sets", ["asimd"], "with asimd, and this CPU is"),
    ):
        change(path, target={**target, "runs_on": {**target["runs_on"], key: value}})
        with pytest.raises(HostError, match=said):
            open_session(path)


OLD = Cpu("an old Xeon", "x86_64", ("avx2",), 2, 4)
NEW = Cpu("a new Xeon", "x86_64", ("avx2", "amx_int8"), 2, 4)


def test_a_file_for_a_cpu_opens_on_the_same_instruction_sets_alone() -> None:
    target = {"runs_on": runs_on("openvino", "2026.4", OLD)}
    check_runs_on(Path("a.blob"), target, package="openvino", version="2026.4", cpu=replace(OLD, model="another"))
    with pytest.raises(HostError, match=r"for x86_64 with avx2, and this CPU is x86_64 with avx2, amx_int8"):
        check_runs_on(Path("a.blob"), target, package="openvino", version="2026.4", cpu=NEW)
    with pytest.raises(HostError, match="none of the instruction sets"):
        check_runs_on(
            Path("a.blob"), target, package="openvino", version="2026.4", cpu=replace(OLD, instruction_sets=())
        )
    for garbage in ({}, {"runs_on": None}, {"runs_on": {"openvino": 5}}):
        with pytest.raises(IntegrityError, match="does not say"):
            check_runs_on(Path("a.blob"), garbage, package="openvino", version="2026.4", cpu=OLD)


@pytest.mark.parametrize(
    ("name", "settings", "option"),
    [
        ("network.ort", {"workspace_mib": 64}, "--workspace"),
        ("network.ort", {"inference_precision": "bf16"}, "--inference-precision"),
        ("network.ort", {"compute_capabilities": ("sm86",)}, "--compute-capability"),
        ("network.xml", {"timing_cache": Path("timings")}, "--timing-cache"),
        ("network.xml", {"hardware_compatible": True}, "--hardware-compatible"),
    ],
)
def test_a_setting_that_the_compiler_would_not_follow_is_refused(
    name: str, settings: dict[str, Any], option: str, source: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=rf"{option} for the target(.|\n)*leave {option} out"):
        compile_artifact(source, tmp_path / name, None, CompileSettings(**settings), SAMPLES)
    assert list(tmp_path.iterdir()) == []


def test_a_source_or_a_name_that_does_not_fit_is_refused(source: Path, tmp_path: Path) -> None:
    ir, other = tmp_path / "network.xml", tmp_path / "net.pth"
    other.touch()
    ir.touch()
    with pytest.raises(UsageError, match=r"openvino does not compile net\.pth(.|\n)*medattn-edge export"):
        plan(other, ir, None, SETTINGS)
    with pytest.raises(UsageError, match=r"no compiler writes a\.exe(.|\n)*\.xml \(openvino\)"):
        plan(source, Path("a.exe"), None, SETTINGS)
    with pytest.raises(UsageError, match=r"onnxruntime does not write network\.xml"):
        plan(source, ir, "onnxruntime", SETTINGS)
    with pytest.raises(UsageError, match="'tensorrt-2' is not known"):
        plan(source, ir, "tensorrt-2", SETTINGS)
    with pytest.raises(UsageError, match="is the source itself"):
        plan(ir, ir, None, SETTINGS)
    with pytest.raises(InputError, match="does not exist"):
        plan(tmp_path / "nowhere.onnx", ir, None, SETTINGS)
    with pytest.raises(OutputError, match="mkdir -p"):
        compile_artifact(source, tmp_path / "nowhere" / "network.xml", None, SETTINGS, SAMPLES)
    with pytest.raises(UsageError, match="--scan"):
        compile_artifact(source, ir, None, SETTINGS, {})


def test_a_target_that_is_not_installed_says_the_line_that_installs_it(source: Path, tmp_path: Path) -> None:
    if find_spec("torch_tensorrt") is not None:
        pytest.skip("torch_tensorrt is installed")
    with pytest.raises(MissingDependency, match=re.escape(install_line("torch-tensorrt"))):
        plan(source, tmp_path / "network.ts", None, SETTINGS)


def quantised(source: Path, path: Path, scale: float) -> Path:
    """Its graph with the input of the first Sigmoid quantised to UINT8, as an artifact."""
    parent, model = Artifact.read(source), onnx.load(source)
    graph = model.graph
    at = next(index for index, node in enumerate(graph.node) if node.op_type == "Sigmoid")
    sigmoid = graph.node[at]
    given = sigmoid.input[0]
    sigmoid.input[0] = "sigmoid_dequantised"
    pair = (("QuantizeLinear", given, "sigmoid_quantised"), ("DequantizeLinear", "sigmoid_quantised", sigmoid.input[0]))
    for offset, (kind, before, after) in enumerate(pair):
        graph.node.insert(at + offset, onnx.helper.make_node(kind, [before, "scale", "zero"], [after], name=after))
    graph.initializer.append(onnx.numpy_helper.from_array(np.array(scale, np.float32), "scale"))
    graph.initializer.append(onnx.numpy_helper.from_array(np.array(128, np.uint8), "zero"))
    onnx.save(model, path)
    manifest = parent.manifest.child(sha256=sha256(path), precision="int8")
    manifest_path(path).write_text(json.dumps(manifest.to_json()))
    return path


def test_a_graph_that_breaks_the_targets_rules_is_never_built(source: Path, tmp_path: Path) -> None:
    folder = tmp_path / "made"
    folder.mkdir()
    broken = quantised(source, tmp_path / "broken.onnx", scale=0.0)
    for suffix in CPU_SUFFIXES:
        with pytest.raises(InputError, match=r"breaks the cpu rules(.|\n)*\[scale\](.|\n)*medattn-edge lint"):
            compile_artifact(broken, folder / f"network{suffix}", None, SETTINGS, SAMPLES)
    assert list(folder.iterdir()) == []


def test_a_graph_that_a_rule_warns_about_is_built_and_keeps_the_warning(source: Path, tmp_path: Path) -> None:
    path = quantised(source, tmp_path / "quantised.onnx", scale=0.05)
    gate = FileGate(0.99, labels=Artifact.read(path).spec.labels[1:])
    change(path, gate=gate.to_json())
    made = compile_artifact(path, tmp_path / "network.ort", None, SETTINGS, SAMPLES).manifest
    assert made.precision == "int8"
    assert made.gate == gate, "what was asked of the graph is asked of what is made of it"
    assert made.recipe == Artifact.read(path).manifest.recipe
    [warning] = made.target["lint"]
    assert (warning["rule"], warning["severity"]) == ("quantised-operator", "warning")
    assert made.agreement[0]["thresholds"] == {"min_dice": 0.99, "min_sqnr_db": 30.0}
    assert made.agreement[1]["thresholds"] == {}  # noise says nothing of a quantised network


@pytest.mark.parametrize(
    ("carried", "precisions", "limit"),
    [
        (None, ("int8", "int8"), 0.999),
        (FileGate(0.99, 0.999, 1.01), ("int8", "int8"), 0.99),
        (FileGate(0.9995), ("fp16", "fp16"), 0.9995),
        (FileGate(0.98), ("fp32", "bf16"), 0.98),
        (None, ("fp32", "bf16"), 0.999),
        (FileGate(0.98), ("fp32", "fp32"), None),
    ],
)
def test_the_gate_that_a_file_carries_decides_about_its_dice_wherever_it_is_reduced(
    source: Path, carried: FileGate | None, precisions: tuple[str, str], limit: float | None
) -> None:
    manifest = replace(Artifact.read(source).manifest, gate=carried)
    parent, compiled = (replace(manifest, precision=one) for one in precisions)
    found = gates(parent, compiled, {"a scan": SAMPLES["a scan"], "random": SAMPLES["a scan"]})
    assert found["a scan"].min_dice == limit
    assert found["a scan"].min_sqnr_db == (90.0 if limit is None else 30.0)
    assert found["a scan"].min_true_dice_share is None, "nobody has true labels of a patch here"
    if limit is not None:  # the same as bench and compare hold it to
        usual = gate_of(compiled.precision, "cpu")
        assert found["a scan"].min_dice == held_gate(source, compiled, Thresholds(), usual, False).thresholds.min_dice


def writes(content: Callable[[], bytes], suffix: str = ".onnx", sources: tuple[str, ...] = (".onnx",)) -> Compiler:
    """A compiler's record that writes these bytes, for this CPU."""

    def compile_(source: Source, paths: Mapping[str, Path], settings: CompileSettings, progress: Any) -> dict[str, Any]:
        paths[suffix].write_bytes(content())
        return {"compiler": "a-test", "runs_on": {}}

    return Compiler("a-test", (suffix,), sources, "export", ("onnx",), "cpu", compile_)


def planned(source: Path, output: Path, content: Callable[[], bytes]) -> Plan:
    parent = Artifact.read(source)
    return Plan(Source(parent.path, parent.manifest), output, writes(content), SETTINGS)


def test_a_file_that_answers_otherwise_never_appears(sources: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "network.onnx"
    path.write_bytes(b"what stood here")
    with pytest.raises(AgreementError, match=r"does not agree(.|\n)*on a scan input SQNR(.|\n)*nothing was written"):
        build(planned(sources["one"], path, sources["other"].read_bytes), SAMPLES)
    assert [one.name for one in tmp_path.iterdir()] == ["network.onnx"]
    assert path.read_bytes() == b"what stood here"
    build(planned(sources["one"], path, sources["one"].read_bytes), SAMPLES)
    np.testing.assert_array_equal(answer(path), answer(sources["one"]))


def test_a_file_that_its_runtime_cannot_open_is_a_verdict_and_never_appears(source: Path, tmp_path: Path) -> None:
    with pytest.raises(AgreementError, match=r"did not come through its check: ONNX Runtime cannot open") as refused:
        build(planned(source, tmp_path / "network.onnx", lambda: b"garbage"), SAMPLES)
    assert refused.value.exit_code == 1
    assert list(tmp_path.iterdir()) == []


def test_a_runtime_that_crashes_on_what_was_made_is_a_verdict_too(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnxruntime  # here it stays what it is; the process of the check finds another one

    assert onnxruntime.__version__
    (tmp_path / "onnxruntime").mkdir()
    (tmp_path / "onnxruntime" / "__init__.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(AgreementError, match=r"did not come through its check: the runtime crashed: SIGSEGV"):
        compile_artifact(source, tmp_path / "network.ort", None, SETTINGS, SAMPLES)
    assert [one.name for one in tmp_path.iterdir()] == ["onnxruntime"]


def test_what_is_made_of_a_checkpoint_is_its_child_and_compared_with_eager(tmp_path: Path) -> None:
    path, exported, made = (tmp_path / name for name in ("a.safetensors", "a.torchscript", "made.torchscript"))
    save_checkpoint(path, SPEC, 3)
    export_checkpoint(path, exported, samples=SAMPLES, batch=1)
    compiler = writes(exported.read_bytes, ".torchscript", sources=(".safetensors",))
    source = source_of(path, compiler)
    manifest = build(Plan(source, made, compiler, SETTINGS), SAMPLES).manifest
    assert manifest.lineage == (sha256(path),)
    assert manifest.parent_sha256 == sha256(path)
    assert (manifest.batch, manifest.attention_maps, manifest.exporter) == (1, (), "a-test")
    assert manifest.target["verified"] == "on this host, against a.safetensors"
    with open_session(made) as session:
        assert session.run(SAMPLES["a scan"][:1]).shape == (1, 2, 32, 32)


def test_an_interrupted_compilation_leaves_nothing(source: Path, tmp_path: Path) -> None:
    def interrupt(done: int, of: int) -> None:
        if done == of:
            raise KeyboardInterrupt

    for suffix in CPU_SUFFIXES:
        with pytest.raises(KeyboardInterrupt):
            compile_artifact(source, tmp_path / f"network{suffix}", None, SETTINGS, SAMPLES, interrupt)
    assert list(tmp_path.iterdir()) == []


def test_an_engine_is_built_ahead_of_time_and_says_that_it_was_not_run(source: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")
    if has_gpu():
        pytest.skip("this host has a GPU")
    settings = CompileSettings(compute_capabilities=("sm86", "sm89"))
    made = compile_artifact(source, tmp_path / "network.rtx", None, settings, SAMPLES).manifest
    assert made.agreement == ()
    assert made.target["verified"].startswith("not run on this host: this host has no NVIDIA GPU")
    assert made.target["runs_on"]["compute_capabilities"] == ["sm86", "sm89"]
    with pytest.raises(HostError, match="no NVIDIA GPU"):
        open_session(tmp_path / "network.rtx", device="cuda:0")
