"""compile: every target by the command, what it prints, and how it refuses."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medattn_edge.artifact import Artifact, manifest_path, sha256
from medattn_edge.backends.tensorrt.library import has_gpu

Run = Callable[..., Any]

needs_openvino = pytest.mark.skipif(find_spec("openvino") is None, reason="openvino is not installed")
needs_rtx = pytest.mark.skipif(find_spec("tensorrt_rtx") is None, reason="tensorrt-rtx is not installed")


@pytest.fixture(scope="session")
def blob(artifact: Path, medattn: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A blob of the small network, checked on the CT that slicerio ships."""
    path = tmp_path_factory.mktemp("compiled") / "small.blob"
    done = medattn("compile", artifact, "-o", path, "--threads", "1")
    assert done.returncode == 0, done.stderr
    return path


def copied(path: Path, folder: Path) -> Path:
    for one in (path, manifest_path(path)):
        shutil.copyfile(one, folder / one.name)
    return folder / path.name


@needs_openvino
def test_the_compiled_file_segments_as_the_onnx_file_does(
    artifact: Path, blob: Path, scan: Path, medattn: Run, tmp_path: Path
) -> None:
    told = []
    for one in (artifact, blob):
        done = medattn("infer", one, scan, "-o", tmp_path / f"{one.suffix[1:]}.npz", "--threads", "1", "--json")
        assert done.returncode == 0, done.stderr
        told.append(json.loads(done.stdout))
    assert told[0]["voxels"] == told[1]["voxels"]
    assert sum(told[0]["voxels"].values()) > 0
    assert told[1]["session"]["backend"] == "openvino"
    assert told[1]["session"]["computed"].keys() == {"f32"}
    done = medattn("infer", artifact, scan, "-o", tmp_path / "c.npz", "--backend", "openvino", "--json")
    assert json.loads(done.stdout)["session"]["backend"] == "openvino"


@needs_openvino
def test_it_prints_the_target_the_agreement_and_what_to_type_next(
    artifact: Path, scan: Path, medattn: Run, tmp_path: Path
) -> None:
    path = tmp_path / "small.xml"
    done = medattn("compile", artifact, "-o", path, "--scan", scan, "--samples", "3", "--threads", "1")
    assert done.returncode == 0, done.stderr
    for words in ("for openvino", "layers computed in f32", "on this host, against small.onnx", "scan.nii.gz"):
        assert words in done.stdout
    assert f"next: medattn-edge infer {path} SCAN" in done.stderr
    assert Artifact.read(path).manifest.agreement[0]["patches"] == 3
    assert {one.name for one in tmp_path.iterdir()} == {"small.xml", "small.bin", "small.xml.json"}


def test_json_is_the_manifest_and_nothing_else(artifact: Path, medattn: Run, tmp_path: Path) -> None:
    path = tmp_path / "small.ort"
    done = medattn("compile", artifact, "-o", path, "--target", "onnxruntime", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told.pop("artifact") == str(path)
    assert told == Artifact.read(path).manifest.to_json()
    assert told["target"]["compiler"] == "onnxruntime"
    assert told["agreement"][0]["sqnr_db"] == 300.0
    inspected = medattn("inspect", path, "--json")
    assert inspected.returncode == 0, inspected.stderr


@needs_rtx
def test_engines_are_built_ahead_of_time_for_other_gpus(artifact: Path, medattn: Run, tmp_path: Path) -> None:
    if has_gpu():
        pytest.skip("this host has a GPU")
    path = tmp_path / "small.rtx"
    done = medattn("compile", artifact, "-o", path, "--compute-capability", "sm86,sm89")
    assert done.returncode == 0, done.stderr
    assert "sm86, sm89" in done.stdout
    assert "not run on this host" in done.stdout
    assert "--device cuda:0" in done.stderr
    assert Artifact.read(path).manifest.target["runs_on"]["compute_capabilities"] == ["sm86", "sm89"]
    refused = medattn("compile", artifact, "-o", tmp_path / "b.rtx", "--compute-capability", "sm13")
    assert (refused.returncode, "is not made for 'sm13'" in refused.stderr) == (2, True)
    refused = medattn("compile", artifact, "-o", tmp_path / "b.rtx")
    assert (refused.returncode, "--compute-capability sm86,sm89" in refused.stderr) == (2, True)


def test_a_dry_run_says_what_would_be_done_and_writes_nothing(artifact: Path, medattn: Run, tmp_path: Path) -> None:
    words = ("compile", artifact, "-o", tmp_path / "small.ort", "--threads", "2", "--dry-run")
    done = medattn(*words)
    assert done.returncode == 0, done.stderr
    assert f"would compile {artifact} (fp32) for onnxruntime to {tmp_path / 'small.ort'}" in done.stdout
    told = json.loads(medattn(*words, "--json").stdout)
    assert told["target"] == "onnxruntime"
    assert told["settings"] == {"threads": 2}
    assert told["lint"] == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("precision", "hint"),
    [
        ("fp16", "medattn-edge export CHECKPOINT -o small.fp16.onnx --precision fp16"),
        ("int8", "medattn-edge calibrate small.onnx SCAN -o small.int8.onnx"),
        ("best", "medattn-edge export CHECKPOINT"),
    ],
)
def test_there_is_no_precision_and_it_says_where_there_is(
    precision: str, hint: str, artifact: Path, medattn: Run, tmp_path: Path
) -> None:
    done = medattn("compile", artifact, "-o", tmp_path / "small.ort", "--precision", precision)
    assert done.returncode == 2
    assert "leaves the precision as it is in the graph" in done.stderr
    assert hint in done.stderr
    assert "--precision " not in medattn("compile", "--help").stdout


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("small.onnx", "-o", "small.exe"), 2, "no compiler writes small.exe"),
        (("small.onnx", "-o", "small.ort", "--target", "openvino"), 2, "openvino does not write small.ort"),
        (("small.onnx", "-o", "small.ort", "--target", "tvm"), 2, "'tvm' is not known"),
        (("small.onnx", "-o", "small.ort", "--workspace", "9"), 2, "leave --workspace out"),
        (("small.onnx", "-o", "small.ort", "--workspace", "0"), 2, "--workspace"),
        (("small.onnx", "-o", "small.ort", "--compute-capability", "sm86"), 2, "leave --compute-capability out"),
        (("small.onnx", "-o", "small.ort", "--inference-precision", "f16"), 2, "f16"),
        (("small.onnx", "-o", "small.ort", "--worksapce", "9"), 2, "--workspace"),
        (("small.onnx",), 2, "-o"),
        (("small.onnx", "-o", "nowhere/small.ort"), 3, "mkdir -p"),
        (("nowhere.onnx", "-o", "small.ort"), 4, "nowhere.onnx does not exist"),
        (("small.onnx", "-o", "small.ort", "--scan", "nowhere.nii.gz"), 4, "nowhere.nii.gz"),
        (("small.safetensors", "-o", "small.ort"), 2, "medattn-edge export"),
        (("lone.onnx", "-o", "small.ort"), 5, "no manifest"),
        (("changed.onnx", "-o", "small.ort"), 5, "SHA-256"),
    ],
)
def test_bad_input_ends_in_the_right_code_and_says_what_to_type(
    words: tuple[str, ...],
    code: int,
    said: str,
    artifact: Path,
    medattn: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    copied(artifact, tmp_path)
    (tmp_path / "lone.onnx").write_bytes(b"x")
    (tmp_path / "small.safetensors").write_bytes(b"x")
    (tmp_path / "changed.onnx").write_bytes(b"x")
    shutil.copyfile(manifest_path(artifact), tmp_path / "changed.onnx.json")
    before = sorted(tmp_path.iterdir())
    monkeypatch.chdir(tmp_path)
    done = medattn("compile", *words)
    assert done.returncode == code, done.stderr
    assert said in done.stderr
    assert "next:" in done.stderr
    assert sorted(tmp_path.iterdir()) == before


def test_a_network_that_the_targets_rules_forbid_ends_in_code_4(artifact: Path, medattn: Run, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    path = copied(artifact, tmp_path)
    model = onnx.load(path)
    first = model.graph.node[0]
    nodes = [onnx.helper.make_node("QuantizeLinear", ["image", "scale", "zero"], ["q"], name="quantise")]
    nodes.append(onnx.helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["d"], name="dequantise"))
    first.input[list(first.input).index("image")] = "d"
    for node in reversed(nodes):
        model.graph.node.insert(0, node)
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(0.0, np.float32), "scale"))
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(0, np.uint8), "zero"))
    onnx.save(model, path)
    values = json.loads(manifest_path(path).read_text())
    manifest_path(path).write_text(json.dumps({**values, "sha256": sha256(path)}))
    done = medattn("compile", path, "-o", tmp_path / "small.ort")
    assert done.returncode == 4
    assert "[scale]" in done.stderr
    assert "medattn-edge lint NAME.onnx --profile cpu" in done.stderr
    assert not (tmp_path / "small.ort").exists()


@needs_openvino
def test_a_compiled_file_of_another_version_or_cpu_or_with_other_bytes_is_refused_when_it_is_used(
    blob: Path, scan: Path, medattn: Run, tmp_path: Path
) -> None:
    def infer(path: Path) -> Any:
        return medattn("infer", path, scan, "-o", tmp_path / "labels.npz")

    path = copied(blob, tmp_path)
    values = json.loads(manifest_path(path).read_text())
    runs_on = values["target"]["runs_on"]
    for key, value in (("openvino", "2024.1.0"), ("instruction_sets", ["avx2"])):
        target = {**values["target"], "runs_on": {**runs_on, key: value}}
        manifest_path(path).write_text(json.dumps({**values, "target": target}))
        done = infer(path)
        assert (done.returncode, "medattn-edge compile" in done.stderr) == (3, True), done.stderr
    path = copied(blob, tmp_path)
    path.write_bytes(path.read_bytes() + b"x")
    assert infer(path).returncode == 5
    assert not (tmp_path / "labels.npz").exists()


def test_infer_takes_a_provider_for_a_gpu_alone(artifact: Path, scan: Path, medattn: Run, tmp_path: Path) -> None:
    words = ("infer", artifact, scan, "-o", tmp_path / "labels.npz", "--provider", "tensorrt")
    done = medattn(*words)  # which asks for a GPU
    assert (done.returncode, "TensorrtExecutionProvider" in done.stderr) == (3, True), done.stderr
    done = medattn(*words, "--device", "cpu")
    assert done.returncode == 2
    assert "--device cuda:0 --provider tensorrt" in done.stderr
    done = medattn("infer", artifact, scan, "-o", tmp_path / "labels.npz", "--provider", "dml")
    assert done.returncode == 2
    assert "tensorrt" in done.stderr


@pytest.mark.slow
def test_a_tuned_checkpoint_is_told_with_what_was_measured(
    checkpoint: Path, scan: Path, medattn: Run, tmp_path: Path
) -> None:
    path = tmp_path / "small.ort"
    words = ("--tune", "--tune-duration", "0", "--patch", "48x64", "--scan", scan, "--threads", "1")
    done = medattn("compile", checkpoint, "-o", path, *words)
    assert done.returncode == 0, done.stderr
    manifest = Artifact.read(path).manifest
    assert manifest.spec.patch == (48, 64)
    assert manifest.lineage[0] == sha256(checkpoint)
    tuning = manifest.target["tuning"]
    names = [row["name"] for row in tuning["alternatives"]]
    assert names == [
        "default",
        "BatchNorm folding alone",
        "with pixel-shuffle",
        "without nearest-upsampling",
        "without concat-sums",
    ]
    assert f"not measured: {', '.join(names[1:])}: the time was up" in done.stdout
    assert f"chosen: default; 1 threads\nthe same graph: {tuning['command']}" in done.stdout
    assert "medattn-edge infer" in done.stderr
    assert "--threads 1" in done.stderr
    assert {one.name for one in tmp_path.iterdir()} == {"small.ort", "small.ort.json"}
    made = medattn(*tuning["command"].replace("CHECKPOINT", str(checkpoint)).split()[1:3], "-o", tmp_path / "a.onnx")
    assert made.returncode == 0, made.stderr


def test_a_graph_is_tuned_in_its_threads_alone_and_it_says_what_rewrites_need(
    artifact: Path, medattn: Run, tmp_path: Path
) -> None:
    path = tmp_path / "small.ort"
    done = medattn("compile", artifact, "-o", path, "--tune", "--tune-duration", "0", "--json")
    assert done.returncode == 0, done.stderr
    assert f"Rewrites need the checkpoint: medattn-edge compile CHECKPOINT -o {path} --tune" in done.stderr
    tuning = json.loads(done.stdout)["target"]["tuning"]
    assert all(row["rewrites"] == [] for row in tuning["alternatives"])
    assert {row["name"].split()[0] for row in tuning["alternatives"]} <= {"default", "threads"}


@pytest.mark.parametrize(
    "case",
    [
        (("small.onnx", "-o", "small.ort", "--tune-duration", "5"), 2, "--tune-duration without --tune"),
        (("small.onnx", "-o", "small.ort", "--patch", "32x32"), 2, "leave --patch out"),
        (("small.onnx", "-o", "small.ort", "--tune", "--patch", "32x32"), 2, "leave --patch out"),
        (("small.onnx", "-o", "small.ort", "--tune", "--batch", "2"), 2, "leave --batch out"),
        (("small.onnx", "-o", "small.ort", "--tune", "--dry-run"), 2, "--dry-run with --tune"),
        (("small.onnx", "-o", "small.ort", "--tune", "--tune-duration", "-1"), 2, "--tune-duration"),
        (("small.onnx", "-o", "small.exe", "--tune"), 2, "no compiler writes small.exe"),
        (("small.onnx", "-o", "small.ort", "--tune", "--workspace", "9"), 2, "leave --workspace out"),
        (("small.xml", "-o", "small.ort", "--tune"), 2, "compile CHECKPOINT -o small.ort --tune"),
        (("nowhere.pth", "-o", "small.ort", "--tune"), 4, "nowhere.pth"),
        (("nowhere.onnx", "-o", "small.ort", "--tune"), 4, "nowhere.onnx does not exist"),
        (("small.safetensors", "-o", "small.ort", "--tune", "--batch", "0"), 2, "--batch dynamic"),
        (("small.safetensors", "-o", "small.ort", "--tune", "--patch", "33x32"), 2, "32x32"),
        (("small.safetensors", "-o", "nowhere/small.ort", "--tune"), 3, "mkdir -p"),
    ],
)
def test_a_tuning_that_cannot_be_is_refused_before_the_work(
    case: tuple[tuple[str, ...], int, str],
    artifact: Path,
    checkpoint: Path,
    medattn: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    words, code, said = case
    copied(artifact, tmp_path)
    shutil.copyfile(checkpoint, tmp_path / "small.safetensors")
    before = sorted(tmp_path.iterdir())
    monkeypatch.chdir(tmp_path)
    done = medattn("compile", *words)
    assert done.returncode == code, done.stderr
    assert said in done.stderr
    assert "next:" in done.stderr
    assert sorted(tmp_path.iterdir()) == before
