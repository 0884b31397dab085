"""compare runs one graph in every runtime: one that crashes on it or computes another is named and refused.

The runtimes and their faults are real. OpenVINO computes signed INT8 after a Concat wrongly wherever the CPU has no
AMX; a host that has it does so too when told not to use it, which is what `openvino-without-amx` is.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import onnx
import pytest

from medattn_edge.artifact import Artifact, manifest_path, sha256
from medattn_edge.backends.openvino.library import imported
from medattn_edge.exporters import random_patches
from medattn_edge.host import hardware
from medattn_edge.precision.observe import floating_tensors
from medattn_edge.precision.quantizers.quantizer import Calibration, QuantizationRecipe, quantizers
from medattn_edge.precision.statistics import activation_ranges
from medattn_edge.spec import Intensity, ModelSpec
from tests.support.networks import export_checkpoint, save_checkpoint
from tests.support.scans import write_nifti
from tests.support.sessions import make_volume

pytestmark = pytest.mark.slow

Run = Callable[..., Any]
Make = Callable[..., Any]
AS_WRITTEN = "onnxruntime-unoptimised"
X86 = hardware.cpu().architecture == "x86_64"
# Where OpenVINO computes as on a CPU without AMX.
WITHOUT_AMX = "openvino-without-amx" if "amx_int8" in hardware.cpu().instruction_sets else "openvino"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """A small network of a name as a checkpoint and an FP32 artifact beside it."""

    def make(name: str, patch: tuple[int, ...], stride: tuple[int, ...], batch: int | None = 1, **config: Any) -> Path:
        spec = ModelSpec(
            network=name,
            in_channels=1,
            labels=("background", "right_lung", "left_lung"),
            patch=patch,
            stride=stride,
            intensity=Intensity.window(-1000.0, 400.0),
            config=config,
        )
        path = tmp_path_factory.mktemp(name) / "net.onnx"
        export_checkpoint(save_checkpoint(path.with_suffix(".safetensors"), spec, 3), path, batch=batch)
        return path

    return make


@pytest.fixture(scope="module")
def in_2d(made: Make) -> Path:
    """Its convolutions follow Concat(Mul(skip, attention), up)."""
    return made("attention-unet-2d", (32, 32), (16, 16), width=16)


@pytest.fixture(scope="module")
def in_3d(made: Make) -> Path:
    return made("attention-unet-3d", (16, 16, 16), (16, 16, 16), width=8)


@pytest.fixture(scope="module")
def ct(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """HU-like values, 16 x 24 x 20."""
    voxels = (np.random.default_rng(11).random((16, 24, 20)) * 1400 - 1000).astype(np.float32)
    return write_nifti(tmp_path_factory.mktemp("scan") / "ct.nii.gz", make_volume(voxels, (2.5, 2.5, 2.5)))


def written(parent: Path, path: Path, **facts: Any) -> Path:
    """A file made from an artifact becomes one itself."""
    companions = {".bin": sha256(path.with_suffix(".bin"))} if path.suffix == ".xml" else {}
    manifest = Artifact.read(parent).manifest.child(sha256=sha256(path), companions=companions, **facts)
    manifest_path(path).write_text(json.dumps(manifest.to_json()), encoding="utf-8")
    return path


def quantised(parent: Path, quantizer: str, profile: str) -> Path:
    """Its Q/DQ form by one of our quantizers."""
    artifact, model = Artifact.read(parent), onnx.load(str(parent))
    patches = [random_patches(artifact.spec, 1, seed=seed) for seed in range(4)]
    calibration = Calibration(patches, "0" * 64, lambda: activation_ranges(model, floating_tensors(model), patches))
    path = parent.with_name(f"{quantizer}-{profile}.onnx")
    quantizers()[quantizer].quantise(artifact, model, calibration, QuantizationRecipe(profile), {".onnx": path})
    return written(parent, path, precision="int8")


def compared(medattn: Run, *words: Any, code: int) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """The document of a comparison, and what it says of the runtimes of its first graph."""
    done = medattn("compare", *words, "--min-dice", 0, "--threads", 1, "--json")
    assert done.returncode == code, done.stdout + done.stderr
    told = json.loads(done.stdout)
    return told, {row["backend"]: row for row in told["runtimes"][0]["rows"]}


@pytest.mark.skipif(not X86, reason="OpenVINO's ARM plugin has other kernels")
@pytest.mark.parametrize("dims", [2, 3])
def test_signed_int8_after_a_concat_is_caught(
    medattn: Run, ct: Path, dims: int, request: pytest.FixtureRequest
) -> None:
    fp32 = request.getfixturevalue(f"in_{dims}d")
    s8s8 = quantised(fp32, "onnxruntime", "tensorrt")
    told, rows = compared(medattn, fp32.with_suffix(".safetensors"), s8s8, ct, code=1)
    assert told["runtimes"][0]["refused"] == [WITHOUT_AMX]
    assert told["runtimes"][0]["as_written_sqnr_db"] == rows[AS_WRITTEN]["sqnr_db"] > 20
    assert rows["onnxruntime"]["sqnr_db"] == pytest.approx(rows[AS_WRITTEN]["sqnr_db"], abs=1)
    assert rows[WITHOUT_AMX]["sqnr_db"] < rows[AS_WRITTEN]["sqnr_db"] - 15
    assert "where the graph as written has SQNR" in rows[WITHOUT_AMX]["reason"]
    verdicts = {row["backend"]: row["verdict"] for row in told["candidates"]}
    assert verdicts == {name: "fail" if name == WITHOUT_AMX else "pass" for name in rows}


@pytest.mark.parametrize(("dims", "quantizer"), [(2, "onnxruntime"), (3, "onnxruntime"), (3, "nncf-onnx")])
def test_unsigned_int8_is_the_same_everywhere(
    medattn: Run, ct: Path, dims: int, quantizer: str, request: pytest.FixtureRequest
) -> None:
    fp32 = request.getfixturevalue(f"in_{dims}d")
    u8s8 = quantised(fp32, quantizer, "cpu")
    told, rows = compared(medattn, fp32.with_suffix(".safetensors"), u8s8, ct, code=0)
    assert told["runtimes"][0]["refused"] == []
    assert {AS_WRITTEN, "onnxruntime", "openvino"} <= set(rows)
    figures = [row["sqnr_db"] for row in rows.values()]
    assert max(figures) - min(figures) < 1


@pytest.fixture(scope="module")
def with_cam(made: Make) -> Callable[[str], Path]:
    """A self-guided network whose channel energies are used as they are, or reversed, for any batch."""
    found: dict[str, Path] = {}

    def make(energy: str) -> Path:
        config = {"backbone": "resnet18", "width": 16, "backbone_width": 16, "channel_energy": energy}
        if energy not in found:
            found[energy] = made("self-guided", (32, 32), (8, 8), None, **config)
        return found[energy]

    return make


@pytest.fixture(scope="module")
def slices(ct: Path) -> Path:
    """Two slices of it."""
    image = nibabel.load(ct)
    path = ct.with_name("slices.nii.gz")
    nibabel.save(image.slicer[:, :, :2], path)
    return path


def reversed_by_minus_one(path: Path) -> Path:
    """softmax(rowmax(E) - E) rewritten as softmax(-1 * E), which is the same."""
    model = onnx.load(str(path))
    makers = {name: node for node in model.graph.node for name in node.output}
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.float32(-1), "minus_one"))
    rewritten = 0
    for softmax in [node for node in model.graph.node if node.op_type == "Softmax"]:
        difference = makers[softmax.input[0]]
        if difference.op_type == "Sub":
            energy = difference.input[1]
            del difference.input[:]
            difference.op_type = "Mul"
            difference.input.extend([energy, "minus_one"])
            rewritten += 1
    assert rewritten == 8
    onnx.save(model, str(path.with_name("minus.onnx")))
    return written(path, path.with_name("minus.onnx"))


def converted(path: Path) -> Path:
    """What OpenVINO's own converter makes of an .onnx file; `compile` and our session read it another way."""
    ov = imported()
    ov.save_model(ov.convert_model(str(path)), str(path.with_suffix(".xml")), compress_to_fp16=False)
    return written(path, path.with_suffix(".xml"), target={"compiler": "openvino"})


@pytest.mark.slow
@pytest.mark.parametrize("energy", ["direct", "inverted"])
def test_channel_attention_taken_for_another_is_caught(
    medattn: Run, with_cam: Callable[[str], Path], slices: Path, energy: str
) -> None:
    fp32 = with_cam(energy)
    path = reversed_by_minus_one(fp32) if energy == "inverted" else fp32
    words = [fp32.with_suffix(".safetensors"), path, converted(path), slices, "--runtime", AS_WRITTEN]
    told, _ = compared(medattn, *words, "--runtime", "openvino", code=1)
    (graph,) = told["runtimes"]
    of_onnx, of_openvino, of_converted = graph["rows"]
    assert graph["refused"] == [f"openvino ({path.with_suffix('.xml')})"]
    assert of_converted["sqnr_db"] is None or of_converted["sqnr_db"] < 40
    assert min(of_onnx["sqnr_db"], of_openvino["sqnr_db"]) > 100
    assert [row["verdict"] for row in told["candidates"]] == ["pass", "pass", "fail"]


@pytest.mark.slow
def test_the_graph_that_we_export_is_left_alone_by_both_ways_into_openvino(
    medattn: Run, with_cam: Callable[[str], Path], slices: Path
) -> None:
    fp32 = with_cam("inverted")
    _, rows = compared(medattn, fp32.with_suffix(".safetensors"), fp32, converted(fp32), slices, code=0)
    assert min(row["sqnr_db"] for row in rows.values()) > 100


@pytest.fixture
def broken_openvino(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed OpenVINO that crashes when it is loaded."""
    (tmp_path / "openvino").mkdir()
    (tmp_path / "openvino" / "__init__.py").write_text("import ctypes\nctypes.string_at(0)\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)


def test_a_crash_is_a_verdict_and_not_ours_to_share(medattn: Run, in_2d: Path, ct: Path, broken_openvino: None) -> None:
    words = [in_2d.with_suffix(".safetensors"), in_2d, ct, "--runtime", "onnxruntime", "--runtime", "openvino"]
    told, rows = compared(medattn, *words, code=1)
    assert told["runtimes"][0]["refused"] == ["openvino"]
    assert rows["openvino"]["reason"] == "the runtime crashed: SIGSEGV"
    right, crashed = told["candidates"]
    assert (right["verdict"], len(right["cases"])) == ("pass", 1)
    assert (crashed["verdict"], crashed["cases"]) == ("fail", [])
    assert crashed["failures"] == ["the runtime crashed: SIGSEGV"]
    done = medattn("compare", *words, "--judge-labels", "right_lung")
    assert done.returncode == 1
    assert "refused for deployment of" in done.stdout
    assert "openvino" in done.stdout.split("refused for deployment of")[1].splitlines()[0]


def test_when_every_runtime_crashes_it_is_a_verdict_too(
    medattn: Run, in_2d: Path, ct: Path, broken_openvino: None
) -> None:
    told, _ = compared(medattn, in_2d.with_suffix(".safetensors"), in_2d, ct, "--runtime", "openvino", code=1)
    assert told["candidates"][0]["failures"] == ["the runtime crashed: SIGSEGV"]


def test_fp32_runs_in_every_runtime_when_asked(medattn: Run, in_2d: Path, ct: Path) -> None:
    told, rows = compared(medattn, in_2d.with_suffix(".safetensors"), in_2d, ct, "--runtime", "all", code=0)
    assert {AS_WRITTEN, "onnxruntime", "openvino"} <= set(rows)
    assert min(row["sqnr_db"] for row in rows.values()) > 90
    assert told["instruction_sets"] == list(hardware.cpu().instruction_sets)


def test_one_runtime_alone_is_said_to_prove_little(medattn: Run, in_2d: Path, ct: Path) -> None:
    told, rows = compared(medattn, in_2d.with_suffix(".safetensors"), in_2d, ct, code=0)
    assert list(rows) == ["onnxruntime"]
    assert "nothing to compare it with" in told["runtimes"][0]["note"]
    assert told["runtimes"][0]["as_written_sqnr_db"] is None


def test_a_table_has_the_runtimes_side_by_side(medattn: Run, in_2d: Path, ct: Path) -> None:
    words = ["compare", in_2d.with_suffix(".safetensors"), in_2d, ct, "--judge-labels", "right_lung"]
    done = medattn(*words, "--runtime", "onnxruntime", "--runtime", AS_WRITTEN)
    assert done.returncode == 0, done.stderr
    heading = next(line for line in done.stdout.splitlines() if AS_WRITTEN in line)
    assert heading.count("onnxruntime") == 2


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--runtime", "openvin"], 2, "openvino"),
        (["--runtime", "onnxruntime-cuda", "--device", "cuda:63"], 3, "cuda:63"),
        (["--device", "gpu"], 2, "cpu or cuda:INDEX"),
        (["--max-gap-db", "-1"], 2, "max-gap-db"),
    ],
)
def test_bad_words_are_refused(medattn: Run, in_2d: Path, ct: Path, words: list[str], code: int, said: str) -> None:
    done = medattn("compare", in_2d.with_suffix(".safetensors"), in_2d, ct, *words)
    assert done.returncode == code
    assert said in done.stderr


def test_what_only_one_runtime_opens_takes_no_other_and_no_file_comes_twice(
    medattn: Run, in_2d: Path, ct: Path
) -> None:
    checkpoint = in_2d.with_suffix(".safetensors")
    done = medattn("compare", checkpoint, checkpoint, ct, "--runtime", "all")
    assert done.returncode == 2
    assert ".onnx" in done.stderr
    assert medattn("compare", checkpoint, in_2d, in_2d, ct).returncode == 2
