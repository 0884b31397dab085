"""TensorRT-RTX builds real engines on a host without a GPU: every refusal, and what a session checks.

What is the same for TensorRT, the check of a manifest's target and the errors of CUDA, is tested here too; every
network in every precision is built in tests/precision/test_every_network.py.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medattn_edge.artifact import Artifact, Manifest, manifest_path, sha256, writing
from medattn_edge.backends import open_session
from medattn_edge.backends.compiler import CompileSettings, Source, compiler_of
from medattn_edge.backends.cuda.memory import cuda_error
from medattn_edge.backends.tensorrt import backend, rtx
from medattn_edge.backends.tensorrt.build import build
from medattn_edge.backends.tensorrt.library import TENSORRT_RTX, has_gpu
from medattn_edge.backends.tensorrt.progress import Phases
from medattn_edge.backends.tensorrt.rtx import cache_files, capabilities_of, stored_kernels
from medattn_edge.backends.tensorrt.session import check_target, host_platform
from medattn_edge.errors import BackendError, HostError, IntegrityError, UsageError
from medattn_edge.host.computed_precision import RTX_CAPABILITIES
from medattn_edge.host.hardware import Gpu
from medattn_edge.spec import ModelSpec
from tests.support.networks import checkpoint_with, export_checkpoint, gated_spec, random_network

trt = pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")

CAPABILITIES = ("sm86", "sm89")
SETTINGS = CompileSettings(compute_capabilities=CAPABILITIES)
SPEC = gated_spec(widths=(8, 16, 32))
# RTX does nothing with one, and says so; that it is read and written is the same for TensorRT.
no_timings = pytest.mark.filterwarnings("ignore:.*Timing cache operations are no-ops:DeprecationWarning")
without_gpu = pytest.mark.skipif(has_gpu(), reason="this host has a GPU")


def exported(network: Any, spec: ModelSpec, path: Path, batch: int | None = None, attention: bool = True) -> Source:
    artifact = export_checkpoint(
        checkpoint_with(network, spec), path, rewrites=("batch-norm",), batch=batch, attention=attention
    )
    return Source(artifact.path, artifact.manifest)


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Source:
    """A small gated network with maps, whose batch is free."""
    return exported(random_network(SPEC), SPEC, tmp_path_factory.mktemp("exported") / "network.onnx")


@pytest.fixture(scope="module")
def engine(source, tmp_path_factory) -> Path:
    """It compiled, with its manifest."""
    path = tmp_path_factory.mktemp("compiled") / "network.rtx"
    with writing(path) as (model, sidecar):
        target = rtx.COMPILER.compile(source, {".rtx": model}, SETTINGS, None)
        manifest = source.manifest.child(target=target, sha256=sha256(model))
        sidecar.write_text(json.dumps(manifest.to_json()))
    return path


def compiled(source: Source, folder: Path, settings: CompileSettings = SETTINGS, progress: Any = None) -> Any:
    """What the record's function returns, and the bytes it wrote."""
    path = folder / "network.rtx"
    target = compiler_of(path).compile(source, {".rtx": path}, settings, progress)
    return target, path.read_bytes()


def test_a_free_batch_becomes_a_profile(source, tmp_path):
    assert source.manifest.batch is None
    target, content = compiled(source, tmp_path)
    assert content
    assert target["settings"]["batches"] == [1, 1, 8]


def test_the_workspace_is_limited_and_must_be_one(source, tmp_path):
    target, _ = compiled(source, tmp_path, replace(SETTINGS, workspace_mib=64))
    assert target["settings"]["workspace_mib"] == 64
    with pytest.raises(UsageError, match="1 or more"):
        compiled(source, tmp_path, replace(SETTINGS, workspace_mib=0))


@pytest.mark.parametrize("name", ["sm80", "sm87", "sm90", "sm861", "86", "SM86", "8.6", "current", "none", ""])
def test_a_compute_capability_that_it_does_not_know_is_refused(name, source, tmp_path):
    settings = CompileSettings(compute_capabilities=("sm86", name))
    with pytest.raises(UsageError, match=r"sm75, sm86, sm89, sm120, sm121(.|\n)*--compute-capability sm86,sm89"):
        compiled(source, tmp_path, settings)
    assert not list(tmp_path.iterdir())


@without_gpu
def test_without_a_gpu_the_compute_capability_must_be_said(source, tmp_path):
    with pytest.raises(UsageError, match=r"without an NVIDIA GPU(.|\n)*--compute-capability sm86,sm89"):
        compiled(source, tmp_path, CompileSettings())


@pytest.mark.parametrize("capability", ["sm61", "sm80", "sm87", "sm90", "sm100"])
def test_a_gpu_that_its_maker_does_not_list_is_refused_with_the_list(capability):
    with pytest.raises(HostError, match=rf"{capability}(.|\n)*sm75, sm86, sm89, sm120, sm121(.|\n)*NAME\.engine"):
        rtx.check_listed(capability)


def test_a_gpu_that_its_maker_lists_is_taken_and_the_library_knows_every_one():
    for name in RTX_CAPABILITIES:
        rtx.check_listed(name)
        assert capabilities_of((name,)) == (name,)


def test_a_compute_capability_said_twice_is_one():
    assert capabilities_of(("sm89", "sm86", "sm89")) == ("sm89", "sm86")


def test_the_progress_only_grows_and_ends_complete(source, tmp_path):
    told: list[tuple[int, int]] = []
    compiled(source, tmp_path, progress=lambda done, of: told.append((done, of)))
    assert told == sorted(told)
    assert len(told) > 5
    assert told[-1] == (100, 100)
    assert (100, 100) not in told[:-1]


def test_an_exception_of_the_progress_stops_the_build_and_comes_out(source, tmp_path):
    def stop(done: int, of: int) -> None:
        if done > 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compiled(source, tmp_path, progress=stop)
    assert not list(tmp_path.iterdir())


def test_a_phase_without_steps_and_one_never_started_do_no_harm():
    told: list[int] = []
    phases = Phases(lambda done, of: told.append(done))
    phases.start("all", None, 0)
    assert phases.step("never started")
    phases.finish("never started")
    phases.finish("all")
    phases.done()
    assert told == sorted(told)


@no_timings
def test_the_timing_cache_is_written_and_read_again(source, tmp_path):
    settings = replace(SETTINGS, timing_cache=tmp_path / "timings.cache")
    for _ in range(2):
        assert build(TENSORRT_RTX, source, settings, None, CAPABILITIES).data
        assert settings.timing_cache.stat().st_size > 0
    assert [path.name for path in tmp_path.iterdir()] == ["timings.cache"]


def quantised(path: Path, zero_point: Any, *, bias: bool = False, module: str = "encoder.0") -> Path:
    """One convolution between QuantizeLinear and DequantizeLinear."""
    onnx = pytest.importorskip("onnx", reason="onnx is not installed")
    helper, numpy_helper = onnx.helper, onnx.numpy_helper
    rng = np.random.default_rng(0)
    values: dict[str, Any] = {
        "scale": np.float32(0.05),
        "zero": zero_point,
        "weight": rng.integers(-99, 99, (2, 1, 3, 3)).astype(np.int8),
        "weight_scale": np.full(2, 0.1, np.float32),
        "weight_zero": np.zeros(2, np.int8),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["image", "scale", "zero"], ["image_q"], name="quantise_image"),
        helper.make_node("DequantizeLinear", ["image_q", "scale", "zero"], ["image_dq"], name="dequantise_image"),
        helper.make_node(
            "DequantizeLinear",
            ["weight", "weight_scale", "weight_zero"],
            ["weight_dq"],
            name="dequantise_weight",
            axis=0,
        ),
    ]
    inputs = ["image_dq", "weight_dq"]
    if bias:
        values |= {
            "bias": np.arange(2, dtype=np.int32),
            "bias_scale": np.full(2, 0.01, np.float32),
            "bias_zero": np.zeros(2, np.int32),
        }
        bias_names = ["bias", "bias_scale", "bias_zero"]
        nodes.append(helper.make_node("DequantizeLinear", bias_names, ["bias_dq"], name="dequantise_bias", axis=0))
        inputs.append("bias_dq")
    nodes.append(helper.make_node("Conv", inputs, ["logits"], name="conv", pads=[1, 1, 1, 1]))
    for node in nodes if module else []:
        entry = node.metadata_props.add()
        entry.key, entry.value = "module", module
    tensor, kind = helper.make_tensor_value_info, onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "quantised",
        [tensor("image", kind, [1, 1, 8, 8])],
        [tensor("logits", kind, [1, 2, 8, 8])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in values.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


@pytest.fixture
def fixed(source) -> Callable[[Path], Source]:
    """A file of batch 1 as a source."""
    manifest: Manifest = replace(source.manifest, batch=1)
    return lambda path: Source(path, manifest)


def test_symmetric_int8_builds(fixed, tmp_path):
    target, content = compiled(fixed(quantised(tmp_path / "quantised.onnx", np.int8(0))), tmp_path)
    assert content
    assert target["warnings"] == []


@pytest.mark.parametrize(
    ("zero_point", "bias", "said"),
    [
        (np.int8(0), True, r"DequantizeLinear 'dequantise_bias' of the module encoder\.0: .*Int32"),
        (np.int8(3), False, r"QuantizeLinear 'quantise_image' of the module encoder\.0: .*[Zz]ero point"),
        (np.uint8(128), False, r"QuantizeLinear 'quantise_image' of the module encoder\.0: .*[Zz]ero point"),
        (np.uint8(0), False, r"QuantizeLinear 'quantise_image' of the module encoder\.0: .*INT8(.|\n)*calibrate"),
    ],
    ids=["an INT32 bias", "a zero point that is not 0", "both", "uint8, which only warns"],
)
def test_a_graph_that_it_would_refuse_or_change_is_refused_by_node(zero_point, bias, said, fixed, tmp_path):
    source = fixed(quantised(tmp_path / "quantised.onnx", zero_point, bias=bias))
    with pytest.raises(BackendError, match=said) as refused:
        compiled(source, tmp_path)
    assert ".cpp" not in str(refused.value)
    assert not (tmp_path / "network.rtx").exists()


def test_a_node_without_a_module_is_named_all_the_same(fixed, tmp_path):
    source = fixed(quantised(tmp_path / "quantised.onnx", np.int8(3), module=""))
    with pytest.raises(BackendError, match="QuantizeLinear 'quantise_image': "):
        compiled(source, tmp_path)


@pytest.mark.parametrize("content", [b"", b"this is no graph at all"])
def test_a_file_that_is_no_graph_is_refused(content, fixed, tmp_path):
    path = tmp_path / "none.onnx"
    path.write_bytes(content)
    with pytest.raises(BackendError, match=r"none\.onnx"):
        compiled(fixed(path), tmp_path)


def test_a_graph_that_the_builder_refuses_gives_its_reason(source, tmp_path):
    lying = replace(source, manifest=replace(source.manifest, batch=1))  # the graph's batch is free
    with pytest.raises(BackendError, match="no optimization profile") as refused:
        compiled(lying, tmp_path)
    assert ".cpp" not in str(refused.value)
    assert "cudaError" not in str(refused.value)


@without_gpu
def test_an_engine_on_a_host_without_a_gpu_says_so(engine):
    with pytest.raises(HostError, match=r"no NVIDIA GPU(.|\n)*cuda:0(.|\n)*--device cpu") as refused:
        open_session(engine, device="cuda:0")
    assert refused.value.exit_code == 3


@without_gpu
def test_an_engine_asks_for_the_gpu_without_being_told_and_never_falls_back(engine):
    with pytest.raises(HostError, match=r"no NVIDIA GPU(.|\n)*cuda:0"):
        open_session(engine)


def test_an_engine_does_not_run_on_the_cpu(engine):
    with pytest.raises(UsageError, match=r"network\.rtx(.|\n)*--device cuda:0"):
        open_session(engine, device="cpu")


def test_a_changed_engine_is_refused_before_anything_reads_it(engine, tmp_path):
    changed = tmp_path / engine.name
    changed.write_bytes(b"x" + engine.read_bytes()[1:])
    manifest_path(changed).write_bytes(manifest_path(engine).read_bytes())
    with pytest.raises(IntegrityError, match="SHA-256"):
        open_session(changed, device="cuda:0")


@without_gpu
def test_tensorrt_itself_compiles_only_on_a_host_with_a_gpu(source, tmp_path):
    with pytest.raises(HostError, match="no NVIDIA GPU"):
        backend.COMPILER.compile(source, {".engine": tmp_path / "network.engine"}, CompileSettings(), None)


def test_tensorrt_itself_builds_for_the_gpu_it_runs_on():
    turing = Gpu(0, "a Turing card", "sm75", 8192, "580", "13.0")
    backend.check_host(turing, CompileSettings(compute_capabilities=("sm75",)))
    with pytest.raises(UsageError, match=r"\(sm75\), not for sm86(.|\n)*-o NAME\.rtx --compute-capability sm86"):
        backend.check_host(turing, CompileSettings(compute_capabilities=("sm86",)))
    with pytest.raises(UsageError, match="Ampere"):
        backend.check_host(turing, CompileSettings(hardware_compatible=True))
    backend.check_host(replace(turing, compute_capability="sm120"), CompileSettings(hardware_compatible=True))


def target_of(**needs: Any) -> dict[str, Any]:
    built = {"tensorrt": "10.9.0.34", "compute_capabilities": ["sm86", "sm89"], "hardware_compatible": False}
    return {"compiler": "tensorrt", "runs_on": {**built, **needs}}


HOST = {"package": "tensorrt", "version": "10.9.0.34", "capability": "sm86"}


@pytest.mark.parametrize(
    ("needs", "host"),
    [
        ({}, {}),
        ({}, {"capability": "sm89"}),
        ({"platform": host_platform()}, {}),
        ({"hardware_compatible": True}, {"capability": "sm120"}),
        ({"hardware_compatible": True}, {"capability": "sm80"}),
    ],
)
def test_an_engine_runs_where_its_manifest_says(needs, host):
    check_target(target_of(**needs), **{**HOST, **host})


@pytest.mark.parametrize(
    ("needs", "host", "said"),
    [
        ({}, {"version": "10.9.1.0"}, r"with tensorrt 10\.9\.0\.34, .* has 10\.9\.1\.0(.|\n)*tensorrt==10\.9\.0\.34"),
        ({}, {"capability": "sm80"}, r"for sm86, sm89, and this GPU is sm80(.|\n)*--compute-capability sm86,sm89,sm80"),
        ({}, {"capability": "sm120"}, "this GPU is sm120"),
        ({"compute_capabilities": []}, {}, "for no GPU"),
        ({"hardware_compatible": True}, {"capability": "sm75"}, "this GPU is sm75"),
        ({"platform": "windows-amd64"}, {}, "built on windows-amd64"),
    ],
)
def test_an_engine_of_another_host_is_refused_in_plain_words(needs, host, said):
    with pytest.raises(HostError, match=said) as refused:
        check_target(target_of(**needs), **{**HOST, **host})
    assert "medattn-edge compile" in refused.value.hint


@pytest.mark.parametrize(
    "target",
    [
        {},
        {"runs_on": None},
        {"runs_on": []},
        {"runs_on": {}},
        target_of(tensorrt=10),
        target_of(compute_capabilities="sm86"),
        target_of(compute_capabilities=[86]),
        {"runs_on": {"tensorrt_rtx": "1.7", "compute_capabilities": ["sm86"]}},
    ],
)
def test_a_manifest_that_does_not_say_what_runs_it_is_refused(target):
    with pytest.raises(IntegrityError, match="which tensorrt and which GPUs"):
        check_target(target, **HOST)


def test_an_error_that_breaks_the_process_says_that_it_must_restart():
    assert "restart the process" in cuda_error("cudaStreamSynchronize", "cudaErrorIllegalAddress").hint
    assert "cannot use the GPU any more" in cuda_error("cudaStreamSynchronize", "cudaErrorLaunchFailure").found
    assert "smaller --batch" in cuda_error("cudaMalloc", "cudaErrorMemoryAllocation").hint
    assert "restart" not in cuda_error("cudaSetDevice", "cudaErrorInvalidDevice").hint


def test_kernels_are_kept_beside_the_engine_or_in_the_users_folder(engine, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    beside, own = cache_files(Artifact.read(engine))
    assert beside == engine.with_name("network.rtx.cache")
    assert own.parent == tmp_path / "medattn-edge"
    assert own.name.endswith(".rtx.cache")


def test_kernels_that_others_may_change_are_not_read(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    remarks: list[str] = []
    assert stored_kernels([first, second], remarks) == b""
    second.write_bytes(b"kernels")
    second.chmod(0o644)
    assert stored_kernels([first, second], remarks) == b"kernels"
    assert remarks == []
    first.write_bytes(b"planted")
    first.chmod(0o666)
    assert stored_kernels([first, second], remarks) == b"kernels"
    assert str(first) in remarks[0]
