"""FP16 artifacts: what overflows naively stays finite, what was measured is told, what loses the answer is refused."""

from __future__ import annotations

import copy
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import numpy_helper

from medattn_edge.agreement import LogitsDistance
from medattn_edge.artifact import Artifact, manifest_path
from medattn_edge.backends import open_session
from medattn_edge.data import shipped_checkpoints
from medattn_edge.data.samples import sample_scan
from medattn_edge.errors import AgreementError, InputError, UsageError
from medattn_edge.exporters import ExportSettings, export_fp32, random_patches
from medattn_edge.exporters.onnx import write
from medattn_edge.inference import sample_patches
from medattn_edge.io import read_volume
from medattn_edge.models import checkpoint as checkpoints
from medattn_edge.models.attention import ChannelAttention
from medattn_edge.precision.fp16 import FP16_GATE, FP16_SMOKE, LARGEST_HALF, MARGIN, convert, islands
from medattn_edge.precision.fp16_graph import rounded, to_fp16
from medattn_edge.precision.observe import floating_tensors, ranges
from medattn_edge.precision.onnx_graph import read, with_shapes
from medattn_edge.rewrites import rewrite
from medattn_edge.spec import ModelSpec

Array = np.ndarray[Any, Any]


@pytest.fixture(scope="module")
def slices(lungs: Artifact) -> Array:
    """Real input of the shipped networks: (4, 1, 128, 128)."""
    return sample_patches(read_volume(sample_scan()), lungs.spec, 4)


@pytest.fixture(scope="module")
def noise(lungs: Artifact) -> Array:
    return random_patches(lungs.spec, 1)


@pytest.fixture(scope="module")
def halved(lungs: Artifact, slices: Array, noise: Array, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """The shipped 2-D network in FP16."""
    return convert(lungs, tmp_path_factory.mktemp("halved") / "half.onnx", {"chest": slices}, noise)


def shipped(path: Path, noise: Array, settings: ExportSettings) -> Artifact:
    """The shipped 2-D network in FP32."""
    loaded = checkpoints.load(shipped_checkpoints()["lungs-attention-unet-2d"])
    return export_fp32(rewrite(loaded, ("batch-norm",)), path, {"r": noise}, settings=settings)


def run(model: Any, image: Array, *, optimise: bool = False) -> Array:
    settings = ort.SessionOptions()
    settings.log_severity_level = 3
    settings.intra_op_num_threads = 1
    if not optimise:
        settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), settings, ["CPUExecutionProvider"])
    return np.asarray(session.run(["logits"], {"image": image})[0])


def sqnr(expected: Array, found: Array) -> float:
    distance = LogitsDistance()
    distance.add(expected, found)
    return distance.sqnr_db


def naive(model: Any) -> Any:
    """ONNX Runtime's conversion as it is called without a list of what to leave out."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    converted = convert_float_to_float16(copied, keep_io_types=True)
    nodes = sorted(converted.graph.node, key=lambda node: not node.name.startswith("graph_input_cast"))
    del converted.graph.node[:]
    converted.graph.node.extend(nodes)  # the converter appends the cast of its input
    del converted.graph.value_info[:]
    return with_shapes(converted)


def ours(model: Any, image: Array) -> Any:
    return to_fp16(model, islands(model, ranges(model, floating_tensors(model), [image])))


@pytest.mark.parametrize("energy", ["inverted", "direct"])
def test_channel_attention_that_overflows_a_naive_conversion_stays_finite_and_agrees(
    energy: str, tmp_path: Path
) -> None:
    attention = ChannelAttention(energy)
    torch.nn.init.constant_(attention.gamma, 0.5)
    spec = ModelSpec("attention-unet-2d", 16, tuple(f"channel_{index}" for index in range(16)), (64, 64), (1, 1))
    write(attention, spec, ExportSettings(), tmp_path / "cam.onnx")
    model = read(tmp_path / "cam.onnx")
    # A root mean square of 6: the squares of 64 x 64 positions sum to 147,000. They are halves: what differs from FP32
    # is the attention's own arithmetic.
    image = (6 * np.random.default_rng(5).standard_normal((1, 16, 64, 64))).astype(np.float16).astype(np.float32)
    expected = run(model, image, optimise=True)
    with torch.inference_mode():
        eager = attention(torch.from_numpy(image)).numpy()
        in_half = copy.deepcopy(attention).half()(torch.from_numpy(image).half()).float().numpy()
    assert sqnr(eager, expected) > 100
    assert not np.isfinite(in_half).all()
    assert not np.isfinite(run(rounded(naive(model)), image)).all()
    emulated = run(rounded(ours(model, image)), image)
    assert np.isfinite(emulated).all()
    assert sqnr(expected, emulated) > 60
    assert sqnr(expected, run(ours(model, image), image, optimise=True)) > 60


def test_a_whole_network_whose_channel_energies_overflow_stays_finite_and_agrees(
    guided: Artifact, slices: Array
) -> None:
    model, image = read(guided.path), 10 * slices[1:2]
    found = ranges(model, floating_tensors(model), [image])
    energies = [island.node for island in islands(model, found) if island.rule == "energy"]
    assert len(energies) == 24
    assert max(high for _, high in found.values()) > 2 * LARGEST_HALF
    expected = run(model, image, optimise=True)
    assert not np.isfinite(run(rounded(naive(model)), image)).all()
    assert sqnr(expected, run(rounded(ours(model, image)), image)) > 50


def test_the_recipe_says_what_was_measured_on_what_and_what_stayed_fp32(halved: Artifact, lungs: Artifact) -> None:
    manifest = halved.manifest
    recipe = manifest.recipe
    assert manifest.precision == "fp16"
    assert manifest.parent_sha256 == lungs.manifest.sha256
    assert manifest.lineage == (*lungs.manifest.lineage, lungs.manifest.sha256)
    assert recipe["margin"] == MARGIN
    assert recipe["measured_on"] == {"chest": 4}
    assert recipe["parent_agreement"] == list(lungs.manifest.agreement)
    magnitudes = recipe["magnitudes"]
    assert set(magnitudes) == set(floating_tensors(read(lungs.path)))
    assert list(magnitudes.values()) == sorted(magnitudes.values(), reverse=True)
    assert 0 < next(iter(magnitudes.values())) < LARGEST_HALF / MARGIN
    modules = {island["module"] for island in recipe["islands"]}
    assert {island["rule"] for island in recipe["islands"]} == {"gate", "output"}
    assert len(modules) == 9
    assert all(set(island) == {"node", "module", "operator", "rule", "reason"} for island in recipe["islands"])
    assert Artifact.read(halved.path).manifest == manifest
    assert manifest_path(halved.path).stat().st_size < 200_000
    assert halved.path.stat().st_size < 0.55 * lungs.path.stat().st_size


def test_the_figures_of_emulation_and_of_the_file_itself_stand_in_the_manifest(halved: Artifact) -> None:
    (emulated,) = halved.manifest.recipe["emulated"]
    real, random = halved.manifest.agreement
    assert emulated["thresholds"] == real["thresholds"] == FP16_GATE.to_json()
    assert random["thresholds"] == FP16_SMOKE.to_json()
    for case in (emulated, real):
        assert (case["input"], case["patches"], case["finite"]) == ("chest", 4, True)
        assert min(case["dice"].values()) >= 0.9995
    assert 50 < emulated["sqnr_db"] < 100, "halves have 11 bits: more would mean that nothing was rounded"


def test_a_free_batch_and_attention_maps_are_kept(slices: Array, noise: Array, tmp_path: Path) -> None:
    parent = shipped(tmp_path / "full.onnx", noise, ExportSettings(batch=None, attention=True))
    made = convert(parent, tmp_path / "half.onnx", {"chest": slices}, noise)
    assert made.manifest.inputs == {"image": [-1, 1, 128, 128]}
    assert "computes attention" in {island["reason"] for island in made.manifest.recipe["islands"]}
    with open_session(parent.path) as full, open_session(made.path) as half:
        expected, found = full.run_with_attention(slices), half.run_with_attention(slices)
        assert [values.shape for values in found] == [(4, 3, 128, 128), (4, 4, 128, 128)]
        for one, other in zip(expected, found, strict=True):
            assert 50 < sqnr(one, other) < 100


def test_a_fixed_batch_is_measured_and_checked_in_runs_of_its_own_size(
    slices: Array, noise: Array, tmp_path: Path
) -> None:
    parent = shipped(tmp_path / "full.onnx", noise, ExportSettings(batch=3))
    made = convert(parent, tmp_path / "half.onnx", {"chest": slices}, noise)
    assert made.manifest.inputs == {"image": [3, 1, 128, 128]}
    assert made.manifest.recipe["measured_on"] == {"chest": 4}


def test_an_overflow_that_no_island_catches_is_refused_and_nothing_is_written(
    lungs: Artifact, slices: Array, noise: Array, tmp_path: Path
) -> None:
    loud = {"chest": 1e5 * slices}
    with pytest.raises(AgreementError, match=r"emulated fp16 network does not agree with fp32.* not finite") as refused:
        convert(lungs, tmp_path / "half.onnx", loud, noise, margin=1e-9)
    assert refused.value.exit_code == 1
    assert not list(tmp_path.iterdir())


def test_every_scan_is_measured_and_judged_by_its_name(
    lungs: Artifact, slices: Array, noise: Array, tmp_path: Path
) -> None:
    made = convert(lungs, tmp_path / "half.onnx", {"first": slices[:1], "second": slices[1:]}, noise)
    assert made.manifest.recipe["measured_on"] == {"first": 1, "second": 3}
    assert [case["input"] for case in made.manifest.agreement] == ["first", "second", "random"]
    assert [case["input"] for case in made.manifest.recipe["emulated"]] == ["first", "second"]
    with pytest.raises(AgreementError, match="on loud input"):
        convert(lungs, tmp_path / "no.onnx", {"first": slices[:1], "loud": 1e5 * slices}, noise, margin=1e-9)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["half.onnx", "half.onnx.json"]


def test_only_an_fp32_onnx_artifact_becomes_fp16(
    halved: Artifact, lungs: Artifact, slices: Array, noise: Array, tmp_path: Path
) -> None:
    scripted = Artifact(lungs.path.with_suffix(".torchscript"), lungs.manifest)
    for parent in (halved, scripted, Artifact(lungs.path, replace(lungs.manifest, precision="int8"))):
        with pytest.raises(UsageError, match=r"FP32 ONNX artifact to make fp16 from"):
            convert(parent, tmp_path / "half.onnx", {"chest": slices}, noise)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("empty", [True, False])
def test_without_a_real_patch_there_is_no_range_to_choose_by(
    empty: bool, lungs: Artifact, slices: Array, noise: Array, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=r"no real patch(.|\n)*--scan"):
        convert(lungs, tmp_path / "half.onnx", {} if empty else {"chest": slices[:0]}, noise)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_tensor_that_is_not_finite_in_fp32_already_is_named_with_its_module(
    value: float, lungs: Artifact, slices: Array, noise: Array, tmp_path: Path
) -> None:
    model = read(lungs.path)
    conv = [node for node in model.graph.node if node.op_type == "Conv"][4]
    bias = next(tensor for tensor in model.graph.initializer if tensor.name == conv.input[2])
    values = numpy_helper.to_array(bias).copy()
    values[2] = value
    bias.CopyFrom(numpy_helper.from_array(values, bias.name))
    path = tmp_path / "broken.onnx"
    onnx.save(model, str(path))
    with pytest.raises(InputError, match=r"is not finite on chest, in FP32 already") as refused:
        convert(Artifact(path, lungs.manifest), tmp_path / "half.onnx", {"chest": slices[:1]}, noise)
    assert refused.value.exit_code == 4
    assert [one.name for one in tmp_path.iterdir()] == ["broken.onnx"]


def test_the_manifest_is_json_that_a_browser_can_read(halved: Artifact) -> None:
    text = manifest_path(halved.path).read_text(encoding="utf-8")

    def refuse(token: str) -> Any:
        raise AssertionError(token)

    json.loads(text, parse_constant=refuse)
