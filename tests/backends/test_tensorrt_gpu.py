"""What needs an NVIDIA GPU: engines build, run, agree with the reference, and say how long a run takes.

make test-gpu runs it; a target whose package is not installed is skipped with that reason.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medattn_edge.agreement import LogitsDistance, Thresholds
from medattn_edge.artifact import Artifact, manifest_path, sha256, writing
from medattn_edge.backends import Session, open_session
from medattn_edge.backends.compiler import CompileSettings, Source, compilers
from medattn_edge.backends.tensorrt.library import has_gpu
from medattn_edge.errors import BackendError, HostError, MedattnError, UsageError
from medattn_edge.exporters import random_patches
from medattn_edge.host import gpu_clocks
from medattn_edge.timing import interleaved
from tests.support.networks import export_checkpoint, gated_spec, save_checkpoint

pytestmark = pytest.mark.gpu

SPEC = gated_spec((64, 64), (16, 32, 64))
# FP16 rounds at 2^-11: 40 dB is what the conversion itself is held to. INT8 of a network that learnt nothing, on noise.
LEAST_DB = {"fp32": 90.0, "fp16": 40.0, "int8": 20.0}
FIXED = 2
TARGETS = {"tensorrt": ".engine", "tensorrt-rtx": ".rtx", "torch-tensorrt": ".ts"}


@pytest.fixture(scope="module", autouse=True)
def _gpu():
    if not has_gpu():
        pytest.skip("this host has no NVIDIA GPU with a driver")


def need(*packages: str) -> None:
    """Skip, saying what is missing."""
    for package in packages:
        if find_spec(package) is None:
            pytest.skip(f"{package} is not installed")


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A checkpoint."""
    return save_checkpoint(tmp_path_factory.mktemp("checkpoint") / "network.safetensors", SPEC)


@pytest.fixture(scope="module")
def graphs(trained, tmp_path_factory) -> dict[str, Artifact]:
    """Precision -> ONNX artifact of any batch with maps; fixed -> one in FP32 that takes FIXED patches."""
    from medattn_edge.precision import fp16

    folder = tmp_path_factory.mktemp("graphs")
    samples = {"random": random_patches(SPEC, 4)}
    same: dict[str, Any] = {"rewrites": ("batch-norm",), "samples": samples, "attention": True}
    full = export_checkpoint(trained, folder / "fp32.onnx", **same)
    half = fp16.convert(full, folder / "fp16.onnx", samples, random_patches(SPEC, 2, seed=5))
    fixed = export_checkpoint(trained, folder / "fixed.onnx", batch=FIXED, **same)
    return {"fp32": full, "fp16": half, "int8": eight_bits(full, folder / "int8.onnx"), "fixed": fixed}


def eight_bits(full: Artifact, path: Path) -> Artifact:
    """The Q/DQ form for TensorRT, as near to FP32 in ONNX Runtime as the engine will have to be."""
    from medattn_edge.precision.derived import write_derived
    from medattn_edge.precision.observe import floating_tensors, ranges
    from medattn_edge.precision.onnx_graph import read
    from medattn_edge.precision.quantizers.ort import qdq
    from medattn_edge.precision.quantizers.quantizer import QuantizationRecipe

    model, noise = read(full.path), random_patches(SPEC, 8, seed=6)
    found = ranges(model, floating_tensors(model), [patch[None] for patch in noise])
    return write_derived(
        full,
        path,
        qdq(model, found, QuantizationRecipe("tensorrt")),
        precision="int8",
        recipe={},
        samples={"random": noise},
        gates={"random": Thresholds(min_sqnr_db=LEAST_DB["int8"])},
    )


@pytest.fixture(scope="module")
def engine_of(graphs, trained, tmp_path_factory) -> Any:
    """Compiles for this host's GPU, once for each target and precision."""
    made: dict[tuple[str, str], Path] = {}

    def make(target: str, precision: str) -> Path:
        compiler = compilers()[target]
        need(*compiler.packages, *(() if target == "torch-tensorrt" else ("cuda",)))
        if (target, precision) not in made:
            parent = graphs[precision]
            path = tmp_path_factory.mktemp(target) / f"network{TARGETS[target]}"
            source = Source(trained if trained.suffix in compiler.sources else parent.path, parent.manifest)
            with writing(path) as (model, sidecar):
                told = compiler.compile(source, {path.suffix: model}, CompileSettings(), None)
                manifest = parent.manifest.child(target=told, sha256=sha256(model))
                sidecar.write_text(json.dumps(manifest.to_json()))
            made[target, precision] = path
        return made[target, precision]

    return make


@pytest.fixture(scope="module")
def reference(trained) -> Session:
    """Eager on the CPU."""
    return open_session(trained)


def sqnr(expected: np.ndarray, found: np.ndarray) -> float:
    distance = LogitsDistance()
    distance.add(expected, found)
    return distance.sqnr_db


@pytest.fixture
def measured(reference, capsys) -> Callable[[Session, float, str], None]:
    """Holds a session's logits and maps to the reference and shows its latency, captured or not."""

    def measure(session: Session, least: float, label: str) -> None:
        found = agreement(session, reference, least)
        patch, device = random_patches(SPEC, 1), list[float | None]()

        def run() -> None:
            session.run(patch)
            device.append(session.device_ms)

        latency = interleaved({label: run}, rounds=50)[label]
        told = f"{np.median([one for one in device if one]):.3f} ms" if all(device) else "not told"
        with capsys.disabled():
            sys.stdout.write(
                f"\n{label}: {found:.1f} dB, 1 patch p50 {latency.p50_ms:.3f} ms, p99 {latency.p99_ms:.3f} ms,"
                f" p50 between CUDA events {told}; {gpu_clocks.record()}\n"
            )

    return measure


def agreement(session: Session, reference: Session, least: float) -> float:
    """The SQNR of the logits in dB; 19 patches are more than an engine takes at once."""
    patches = random_patches(SPEC, 19, seed=3)
    expected, expected_maps = reference.run_with_attention(patches)
    logits, maps = session.run_with_attention(patches)
    found = sqnr(expected, logits)
    assert found >= least
    assert sqnr(expected_maps, maps) >= least
    # Not bit for bit: cuDNN may choose another algorithm for the next call. On an H200 two FP32 runs of ONNX Runtime's
    # CUDA provider differed by 2e-6.
    assert sqnr(logits, session.run(patches)) >= min(least + 10, 110.0)
    for count in (1, 8, 9):
        assert sqnr(expected[:count], session.run(patches[:count])) >= least
    return found


@pytest.mark.parametrize("precision", list(LEAST_DB))
@pytest.mark.parametrize("target", ["tensorrt", "tensorrt-rtx"])
def test_an_engine_agrees_with_the_reference(target, precision, engine_of, measured):
    with open_session(engine_of(target, precision), device="cuda:0") as session:
        assert session.facts["backend"] == target
        assert session.facts["device"] == "cuda:0"
        assert json.loads(json.dumps(session.facts)) == session.facts
        measured(session, LEAST_DB[precision], f"{target} {precision}")


@pytest.mark.parametrize("target", list(TARGETS))
def test_the_answer_belongs_to_the_caller(target, engine_of):
    patches = random_patches(SPEC, 3, seed=4)
    with open_session(engine_of(target, "fp32"), device="cuda:0") as session:
        first = session.run(patches)
        kept = first.copy()
        session.run(patches * 2)
        np.testing.assert_array_equal(first, kept)
        with open_session(engine_of(target, "fp32"), device="cuda:0") as second:
            np.testing.assert_array_equal(second.run(patches), kept)
        np.testing.assert_array_equal(session.run(patches), kept)
    session.close()
    if target != "torch-tensorrt":
        with pytest.raises(BackendError, match="closed"):
            session.run(patches)


def timed(session: Session, patches: np.ndarray) -> tuple[np.ndarray, float]:
    """The logits, and the device's time of them, which lies within the host's."""
    start = time.perf_counter()
    logits = session.run(patches)
    around = (time.perf_counter() - start) * 1e3
    assert session.device_ms is not None
    assert 0 < session.device_ms <= around
    return logits, session.device_ms


@pytest.mark.parametrize("target", list(TARGETS))
def test_the_device_tells_how_long_a_run_of_one_or_many_parts_took(target, engine_of):
    with open_session(engine_of(target, "fp32"), device="cuda:0") as session:
        assert session.device_ms is None
        few, many = random_patches(SPEC, 1), random_patches(SPEC, 64)
        for patches in (few, many):
            timed(session, patches)  # what the first run of a shape prepares is not compared
        pairs = [(timed(session, few)[1], timed(session, many)[1]) for _ in range(10)]
        assert np.median([longer / shorter for shorter, longer in pairs]) > 1.5
        session.run_with_attention(few)
        assert session.device_ms is not None


@pytest.mark.parametrize("target", ["tensorrt", "tensorrt-rtx"])
def test_an_engine_of_a_fixed_batch_runs_as_a_cuda_graph_or_says_why_not(target, engine_of, reference):
    with open_session(engine_of(target, "fixed"), device="cuda:0") as session:
        if target == "tensorrt":  # RTX may allocate while it runs, and says so
            assert session.facts["cuda_graph"] is True
        assert session.facts["cuda_graph"] == ("cuda_graph_refused" not in session.facts)
        assert json.loads(json.dumps(session.facts)) == session.facts
        kept = []
        for seed in range(4):  # every run reads its own input from where the graph was recorded
            patches = random_patches(SPEC, FIXED, seed=seed)
            expected, expected_maps = reference.run_with_attention(patches)
            logits, maps = session.run_with_attention(patches)
            assert sqnr(expected, logits) >= LEAST_DB["fp32"]
            assert sqnr(expected_maps, maps) >= LEAST_DB["fp32"]
            np.testing.assert_array_equal(timed(session, patches)[0], logits)
            kept.append((logits, logits.copy()))
        for logits, copied in kept:
            np.testing.assert_array_equal(logits, copied)


@pytest.mark.parametrize("target", ["tensorrt", "tensorrt-rtx"])
def test_two_recorded_engines_do_not_disturb_each_other_in_two_threads(target, engine_of):
    path = engine_of(target, "fixed")
    patches = [random_patches(SPEC, FIXED, seed=seed) for seed in range(2)]
    with open_session(path, device="cuda:0") as first, open_session(path, device="cuda:0") as second:
        expected = [first.run(one) for one in patches]
        with ThreadPoolExecutor(2) as pool:
            for _ in range(20):
                found = list(pool.map(lambda session, one: session.run(one), (first, second), patches))
                np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("target", ["tensorrt", "tensorrt-rtx"])
def test_an_engine_of_any_batch_has_no_cuda_graph_and_says_why(target, engine_of):
    with open_session(engine_of(target, "fp32"), device="cuda:0") as session:
        assert session.facts["cuda_graph"] is False
        assert "one shape" in session.facts["cuda_graph_refused"]


def test_torch_tensorrt_agrees_with_the_reference(engine_of, measured):
    with open_session(engine_of("torch-tensorrt", "fp32"), device="cuda:0") as session:
        measured(session, LEAST_DB["fp32"], "torch-tensorrt fp32")


@pytest.mark.parametrize("precision", list(LEAST_DB))
def test_onnxruntime_on_cuda_agrees_with_the_reference(precision, graphs, measured):
    need("onnxruntime")
    import onnxruntime

    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has no CUDAExecutionProvider: onnxruntime-gpu is not installed")
    with open_session(graphs[precision].path, device="cuda:0") as session:
        measured(session, LEAST_DB[precision], f"onnxruntime {precision}")


def test_the_second_session_finds_the_kernels_of_the_first(engine_of):
    path, patches = engine_of("tensorrt-rtx", "fp32"), random_patches(SPEC, 1)
    with open_session(path, device="cuda:0") as session:
        session.run(patches)
    assert path.with_name(path.name + ".cache").stat().st_size > 0
    with open_session(path, device="cuda:0") as session:
        session.run(patches)
        assert session.facts["kernel_cache"] == "unchanged"


@pytest.mark.parametrize("target", ["tensorrt", "tensorrt-rtx"])
def test_a_cut_engine_with_the_right_hash_is_the_runtimes_error(target, engine_of, tmp_path):
    path = engine_of(target, "fp32")
    cut, content = tmp_path / path.name, path.read_bytes()
    values = json.loads(manifest_path(path).read_text())
    for length in (0, 10, len(content) // 2):
        cut.write_bytes(content[:length])
        manifest_path(cut).write_text(json.dumps({**values, "sha256": sha256(cut)}))
        with pytest.raises(MedattnError) as refused:
            open_session(cut, device="cuda:0")
        assert cut.name in refused.value.found
        assert refused.value.hint


@pytest.mark.parametrize("target", ["tensorrt", "tensorrt-rtx"])
def test_another_gpu_than_there_is_or_than_it_was_built_for_is_refused(target, engine_of, tmp_path):
    path = engine_of(target, "fp32")
    with pytest.raises(HostError, match="not cuda:63"):
        open_session(path, device="cuda:63")
    values = json.loads(manifest_path(path).read_text())
    values["target"]["runs_on"]["compute_capabilities"] = ["sm53"]
    copied = tmp_path / path.name
    copied.write_bytes(path.read_bytes())
    manifest_path(copied).write_text(json.dumps(values))
    with pytest.raises(HostError, match="built for sm53"):
        open_session(copied, device="cuda:0")


def test_tensorrt_keeps_its_timings_and_refuses_those_of_nobody(graphs, tmp_path):
    compiler = compilers()["tensorrt"]
    need(*compiler.packages)
    source = Source(graphs["fp32"].path, graphs["fp32"].manifest)
    settings = CompileSettings(timing_cache=tmp_path / "timings.cache", workspace_mib=256)
    told: list[int] = []
    compiler.compile(source, {".engine": tmp_path / "a.engine"}, settings, lambda done, of: told.append(done))
    assert told == sorted(told)
    assert told[-1] == 100
    kept = settings.timing_cache.read_bytes()
    assert kept
    compiler.compile(source, {".engine": tmp_path / "b.engine"}, settings, None)
    assert len(settings.timing_cache.read_bytes()) >= len(kept)
    with pytest.raises(UsageError, match="not for sm53"):
        compiler.compile(source, {}, replace(settings, compute_capabilities=("sm53",)), None)
