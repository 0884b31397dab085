"""OpenVINO: it stays off the network, computes in the precision that was asked for, and refuses another CPU's blob."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medattn_edge.agreement import LogitsDistance
from medattn_edge.artifact import Artifact, manifest_path, sha256
from medattn_edge.backends import backend_of, open_session
from medattn_edge.backends.compiler import CompileSettings
from medattn_edge.backends.isolated import IsolatedSession
from medattn_edge.backends.openvino.layers import ComputedLayer, counts, deviations
from medattn_edge.backends.openvino.library import imported
from medattn_edge.backends.openvino.model import precision_of, translated
from medattn_edge.backends.session import Options
from medattn_edge.compile.compilation import compile_artifact
from medattn_edge.errors import BackendError, HostError, IntegrityError, UsageError
from medattn_edge.exporters import export_fp32, random_patches
from medattn_edge.host.distributions import installed
from medattn_edge.rewrites import rewrite
from tests.support.networks import SMALL

# Not importorskip: that would import them, telemetry and all.
needs_nncf = pytest.mark.skipif(find_spec("nncf") is None, reason="nncf is not installed")
if find_spec("openvino") is None:
    pytest.skip("openvino is not installed", allow_module_level=True)

PATCHES = random_patches(SMALL, 2, seed=5)


@pytest.fixture(scope="module")
def made(small_artifact: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Compiles it to a file with this suffix, once."""
    folder = tmp_path_factory.mktemp("compiled")

    def make(suffix: str) -> Path:
        path = folder / f"network{suffix}"
        if not path.is_file():
            compile_artifact(small_artifact, path, None, CompileSettings(threads=1), {"other": PATCHES})
        return path

    return make


@pytest.fixture
def compiled(made: Callable[[str], Path], tmp_path: Path) -> Callable[[str], Path]:
    """A copy of it that a test may break."""

    def copy(suffix: str) -> Path:
        path = made(suffix)
        for name in (path.name, f"{path.name}.json", *(["network.bin"] if suffix == ".xml" else [])):
            shutil.copyfile(path.with_name(name), tmp_path / name)
        return tmp_path / path.name

    return copy


def logits(path: Path, **options: Any) -> np.ndarray[Any, Any]:
    with open_session(path, threads=1, **options) as session:
        return session.run(PATCHES)


def sqnr(expected: np.ndarray[Any, Any], found: np.ndarray[Any, Any]) -> float:
    distance = LogitsDistance()
    distance.add(expected, found)
    return distance.sqnr_db


def has_bf16() -> bool:
    return "BF16" in imported().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def run_apart(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


# Connections, threads and files that are written: noted, and refused so that nothing leaves this host.
WATCHED = """
    import sys

    seen = []

    def watch(event, words):
        network = event.startswith(("socket.", "urllib.", "http.", "ssl.", "smtplib."))
        if network or event in ("os.mkdir", "_thread.start_new_thread", "_thread.start_joinable_thread"):
            seen.append((event, str(words)))
            raise PermissionError(event)
        if event == "open" and isinstance(words[1], str) and set(words[1]) & set("wxa+"):
            if str(words[0]) != "/dev/null":
                seen.append((event, str(words)))

    sys.addaudithook(watch)
"""


@needs_nncf
def test_openvino_and_nncf_come_without_connections_threads_or_files_in_the_home_folder(tmp_path: Path) -> None:
    code = f"""{WATCHED}
    from medattn_edge.backends.openvino.library import imported, imported_nncf
    ov, nncf = imported(), imported_nncf()
    ov.convert_model  # what OpenVINO's own telemetry is bound to
    nncf.telemetry.telemetry.send_event(event_category="a", event_action="b", event_label="c")
    assert not [name for name, module in sys.modules.items() if name.startswith("openvino_telemetry") and module]
    assert not seen, seen
    """
    done = run_apart(code, HOME=str(tmp_path), PYTHONDONTWRITEBYTECODE="1")
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.rglob("*")) == []


def test_doctors_question_to_openvino_stays_off_the_network_too(tmp_path: Path) -> None:
    code = f"""{WATCHED}
    from medattn_edge.host.probe import report_of
    print(report_of("openvino").error or "imported")
    assert not seen, seen
    """
    done = run_apart(code, HOME=str(tmp_path), PYTHONDONTWRITEBYTECODE="1")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "imported"
    assert list(tmp_path.rglob("*")) == []


def test_that_watch_sees_the_telemetry_of_a_plain_import(tmp_path: Path) -> None:
    if not installed(["openvino-telemetry"]):
        pytest.skip("openvino-telemetry is not installed")
    code = f"""{WATCHED}
    import contextlib
    with contextlib.suppress(PermissionError):
        import openvino
    assert seen, "nothing was seen"
    """
    done = run_apart(code, HOME=str(tmp_path), CI="")
    assert done.returncode == 0, done.stderr


@needs_nncf
def test_nncf_with_live_telemetry_is_refused() -> None:
    code = """
    import sys, types

    class Telemetry:
        def __init__(self, **words): pass

    package = types.ModuleType("openvino_telemetry")  # the service itself must not hear of this test
    package.Telemetry = Telemetry
    sys.modules["openvino_telemetry"] = package
    import nncf
    from medattn_edge.backends.openvino.library import imported_nncf
    from medattn_edge.errors import HostError
    try:
        imported_nncf()
    except HostError as error:
        assert "telemetry" in error.found, error
    else:
        raise AssertionError("it was taken")
    """
    done = run_apart(code)
    assert done.returncode == 0, done.stderr


def test_an_onnx_file_is_opened_on_request_and_not_by_default(small_artifact: Path) -> None:
    assert backend_of(small_artifact).name == "onnxruntime"
    assert backend_of(small_artifact, "openvino").name == "openvino"
    with open_session(small_artifact, backend="openvino", threads=1) as session:
        assert session.facts["backend"] == "openvino"
        assert session.facts["computed"].keys() == {"f32"}
    assert sqnr(logits(small_artifact), logits(small_artifact, backend="openvino")) >= 110


def test_fp32_is_computed_in_fp32_from_every_file(compiled: Callable[[str], Path], small_artifact: Path) -> None:
    expected = logits(small_artifact)
    for suffix in (".xml", ".blob"):
        path = compiled(suffix)
        target = Artifact.read(path).manifest.target
        with open_session(path, threads=1) as session:
            assert session.facts["computed"] == target["computed"]
            assert session.facts["inference_precision"] == target["settings"]["inference_precision"] == "f32"
        assert target["computed"].keys() == {"f32"}
        assert target["deviations"] == []
        assert sqnr(expected, logits(path)) >= 110


@pytest.fixture(scope="module")
def lungs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A trained network as ONNX, and real patches: BF16 moves the labels of noise."""
    from medattn_edge.data import shipped_checkpoints
    from medattn_edge.data.samples import sample_scan
    from medattn_edge.inference import sample_patches
    from medattn_edge.io import read_volume
    from medattn_edge.models import checkpoint

    if not has_bf16():
        pytest.skip("this CPU has no BF16")
    loaded = checkpoint.load(shipped_checkpoints()["lungs-attention-unet-2d"])
    real = {"chest CT": sample_patches(read_volume(sample_scan()), loaded.spec, 4)}
    path = tmp_path_factory.mktemp("lungs") / "network.onnx"
    export_fp32(rewrite(loaded, ()), path, real)
    return path, real


BF16 = CompileSettings(threads=1, inference_precision="bf16")


def test_bf16_comes_only_on_request_and_is_called_so(lungs: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    onnx, real = lungs
    for suffix in (".xml", ".blob"):
        path = tmp_path / f"network{suffix}"
        manifest = compile_artifact(onnx, path, None, BF16, real).manifest
        assert manifest.precision == "bf16"
        assert manifest.target["computed"]["bf16"] > 0
        with open_session(path, threads=1) as session:
            assert session.facts["computed"] == manifest.target["computed"]
        assert 30 < manifest.agreement[0]["sqnr_db"] < 90


def test_an_ir_compiled_in_bf16_compiles_back_to_fp32(lungs: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    onnx, real = lungs
    path = compile_artifact(onnx, tmp_path / "network.xml", None, BF16, real).path
    blob = compile_artifact(path, tmp_path / "back.blob", None, CompileSettings(threads=1), real)
    assert blob.manifest.precision == "fp32"
    assert blob.manifest.target["computed"].keys() == {"f32"}


def test_bf16_is_refused_where_the_cpu_has_none(small_artifact: Path, tmp_path: Path) -> None:
    done = run_apart(
        f"""
        from medattn_edge.cli import main
        import sys
        sys.argv = ["medattn-edge", "compile", {str(small_artifact)!r}, "-o", {str(tmp_path / "network.xml")!r},
                    "--inference-precision", "bf16"]
        main()
        """,
        OV_CPU_MAX_ISA="AVX2",  # OpenVINO's own switch: it takes this CPU for an older one
    )
    assert done.returncode == 3, done.stderr
    assert "does not compute in bf16" in done.stderr
    assert "--inference-precision f32" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_weights_of_an_ir_are_never_compressed(compiled: Callable[[str], Path]) -> None:
    path = compiled(".xml")
    manifest = Artifact.read(path).manifest
    assert set(manifest.companions) == {".bin"}
    assert path.with_suffix(".bin").stat().st_size >= 4 * 0.9 * manifest.parameters
    assert str(path.parent) not in path.read_text()


def test_an_ir_whose_manifest_names_no_weights_is_refused(compiled: Callable[[str], Path]) -> None:
    path = compiled(".xml")
    change(path, companions={})
    with pytest.raises(IntegrityError, match=r"does not name its weights(.|\n)*medattn-edge compile"):
        open_session(path)


def test_a_cut_weights_file_with_the_right_hash_is_the_runtimes_error(compiled: Callable[[str], Path]) -> None:
    path = compiled(".xml")
    weights = path.with_suffix(".bin")
    weights.write_bytes(weights.read_bytes()[:1000])
    change(path, companions={".bin": sha256(weights)})
    with pytest.raises(BackendError, match=r"OpenVINO cannot read network\.xml"):
        open_session(path)


@pytest.mark.parametrize(
    ("key", "value", "error", "said"),
    [
        (
            "openvino",
            "2024.1.0-1-abc",
            HostError,
            r"compiled by openvino 2024\.1(.|\n)*'openvino==2024\.1\.0'",
        ),
        ("architecture", "riscv64", HostError, r"compiled for riscv64 with(.|\n)*medattn-edge compile"),
        ("instruction_sets", ["avx2"], HostError, r"with avx2, and this CPU is(.|\n)*medattn-edge compile"),
        ("instruction_sets", None, IntegrityError, "does not say"),
        ("openvino", None, IntegrityError, "does not say"),
    ],
)
def test_a_blob_of_another_version_or_cpu_is_refused_before_it_is_read(
    compiled: Callable[[str], Path], key: str, value: Any, error: type[Exception], said: str
) -> None:
    path = compiled(".blob")
    target = json.loads(manifest_path(path).read_text())["target"]
    path.write_bytes(b"OpenVINO would refuse this")
    change(path, sha256=sha256(path), target={**target, "runs_on": {**target["runs_on"], key: value}})
    with pytest.raises(error, match=said):
        open_session(path)


def test_an_ir_runs_under_another_version(compiled: Callable[[str], Path]) -> None:
    path = compiled(".xml")
    target = json.loads(manifest_path(path).read_text())["target"]
    change(path, target={**target, "runs_on": {"openvino": "2024.1.0"}})
    assert logits(path).shape == (2, 2, 32, 32)


def change(path: Path, **changes: Any) -> None:
    sidecar = manifest_path(path)
    sidecar.write_text(json.dumps({**json.loads(sidecar.read_text()), **changes}))


def test_a_closed_session_says_so(small_artifact: Path) -> None:
    session = open_session(small_artifact, backend="openvino", threads=1)
    session.close()
    with pytest.raises(BackendError, match="closed"):
        session.run(PATCHES)


def test_providers_and_switched_off_optimisations_are_not_its_own(small_artifact: Path) -> None:
    with pytest.raises(UsageError, match="only for onnxruntime"):
        open_session(small_artifact, backend="openvino", optimise=False)


@pytest.mark.parametrize("settings", [{"inference_precision": "f16"}, {"inference_precision": 5}])
def test_a_manifest_that_asks_for_an_unknown_precision_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(IntegrityError, match="inference precision"):
        precision_of({"compiler": "openvino", "settings": settings})


def test_only_what_openvino_compiled_may_ask_for_a_precision() -> None:
    assert precision_of({"compiler": "onnxruntime", "settings": {"inference_precision": "bf16"}}) == "f32"
    assert precision_of({"compiler": "openvino"}) == "f32"


def test_layers_outside_their_graphs_precision_are_named_and_few() -> None:
    layers = [
        ComputedLayer("conv", "Convolution", "bf16"),
        ComputedLayer("add", "Eltwise", "f32"),
        ComputedLayer("pool", "Pooling", "u8"),
    ]
    assert counts(layers) == {"bf16": 1, "f32": 1, "u8": 1}
    assert [one["name"] for one in deviations(layers, "fp32")] == ["conv", "pool"]
    assert [one["name"] for one in deviations(layers, "int8")] == ["conv"]
    assert deviations(layers, "bf16") == []
    assert len(deviations(layers * 100, "fp32")) == 40


def test_the_reason_of_a_failure_is_what_openvino_says_last() -> None:
    text = "Exception from src/a.cpp:8:\nCheck 'x' failed at src/b.cpp:5:\nModel can't be parsed\n\n"
    assert "cannot read a.xml: Model can't be parsed" in translated(RuntimeError(text), "cannot read a.xml").found
    assert "failed: RuntimeError" in translated(RuntimeError(""), "failed").found


def test_the_same_graph_is_written_as_the_same_bytes_however_many_were_before(small_artifact, tmp_path):
    """OpenVINO numbers the nodes that it adds through the whole process."""
    import numpy as np

    from medattn_edge.backends.compiler import CompileSettings
    from medattn_edge.compile import compile_artifact

    patches = {"noise": np.random.default_rng(0).random((1, 1, 32, 32), dtype=np.float32)}
    for name in ("first", "again"):
        (tmp_path / name).mkdir()
        compile_artifact(small_artifact, tmp_path / name / "net.xml", None, CompileSettings(threads=1), patches)
    for name in ("net.xml", "net.bin"):
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_nodes_that_came_with_a_name_keep_it(small_artifact):
    from medattn_edge.backends.openvino.library import imported
    from medattn_edge.backends.openvino.names import name_by_place

    model = imported().Core().read_model(str(small_artifact))
    before = [one.get_friendly_name() for one in model.get_ordered_ops()]
    renamed = name_by_place(model)
    after = [one.get_friendly_name() for one in model.get_ordered_ops()]
    assert 0 < renamed < len(after) == len(before) == len(set(after))
    assert sum(old != new for old, new in zip(before, after, strict=True)) == renamed
    assert name_by_place(model) == 0


def cores_while_running(path: Path, **options: Any) -> tuple[bool, set[int]]:
    """What a session says of its threads, and the cores that the thread of a run was allowed, seen by another one."""
    with open_session(path, backend="openvino", threads=1, **options) as session:
        pinned, ends, seen = bool(session.facts["pinned"]), threading.Event(), set[int]()
        runner = threading.Thread(target=lambda: [session.run(PATCHES) for _ in iter(ends.is_set, True)])
        runner.start()
        deadline = time.monotonic() + (10 if pinned else 0.2)
        while time.monotonic() < deadline and not (pinned and 1 in seen):
            seen.add(len(os.sched_getaffinity(runner.native_id or 0)))
        ends.set()
        runner.join()
        return pinned, seen


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="on one core there is nothing to be tied to")
def test_a_session_that_shares_its_cores_is_tied_to_none_from_every_file(
    made: Callable[[str], Path], small_artifact: Path
) -> None:
    every = len(os.sched_getaffinity(0))
    pinned, seen = cores_while_running(small_artifact)
    assert pinned
    assert 1 in seen, "alone it keeps the core that it has"
    for path in (small_artifact, made(".xml"), made(".blob")):  # a blob was compiled without that word
        assert cores_while_running(path, shared_cores=True) == (False, {every}), path.suffix
    options = Options(threads=1, shared_cores=True)
    with IsolatedSession(small_artifact, backend="openvino", options=options) as session:
        assert session.facts["pinned"] is False, "nor in a process of its own"
