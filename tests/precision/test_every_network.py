"""Every network in every precision: the lint finds nothing, and the real TensorRT-RTX builds it for two GPUs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import pytest

from medattn_edge.agreement import LogitsDistance
from medattn_edge.artifact import Artifact, Manifest
from medattn_edge.backends.compiler import CompileSettings, Source, compiler_of
from medattn_edge.backends.onnxruntime import OnnxRuntimeSession
from medattn_edge.backends.session import Options
from medattn_edge.exporters import ExportSettings, export_fp32, random_patches
from medattn_edge.precision.fp16 import islands
from medattn_edge.precision.fp16_graph import Island, rounded, to_fp16
from medattn_edge.precision.lint.rules import ISAS, PROFILES, lint
from medattn_edge.precision.observe import floating_tensors, ranges
from medattn_edge.precision.onnx_graph import MODULE, Graph, module_of, read
from medattn_edge.precision.quantizers.ort import qdq
from medattn_edge.precision.quantizers.quantizer import QuantizationRecipe
from medattn_edge.rewrites import rewrite
from tests.support.forms import form_checkpoint

pytestmark = pytest.mark.slow

CAPABILITIES = ("sm86", "sm89")
BYTES = {"fp32": 4, "fp16": 2, "int8": 1}  # of a parameter, at the least
# What each network has, beside the logits, that half precision would lose.
RULES = {
    "attention-unet-2d": {"gate"},
    "attention-unet-3d": {"gate"},
    "attention-unet-grid": {"gate"},
    "attention-unet-monai": {"gate", "norm"},
    "self-guided": {"energy", "softmax"},
}


class Made(NamedTuple):
    """A form's graphs by precision; what stayed FP32 in FP16; the manifest of the FP32 one."""

    graphs: dict[str, Any]
    kept: tuple[Island, ...]
    manifest: Manifest


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Made]:
    """Exports a form, and makes the other precisions; asked again, gives the same: exporting is slow."""
    done: dict[Any, Made] = {}

    def make_one(form: Any, settings: ExportSettings = ExportSettings()) -> Made:  # noqa: B008
        key = (repr(form), settings)
        if key not in done:
            checkpoint = form_checkpoint(form)
            noise = random_patches(checkpoint.spec, 1)
            path = tmp_path_factory.mktemp("made") / "network.onnx"
            artifact = export_fp32(rewrite(checkpoint, ("batch-norm",)), path, {"random": noise}, settings=settings)
            full = read(path)
            found = ranges(full, floating_tensors(full), [noise])
            kept = islands(full, found)
            quantised = qdq(full, found, QuantizationRecipe(profile="tensorrt"))
            done[key] = Made({"fp32": full, "fp16": to_fp16(full, kept), "int8": quantised}, kept, artifact.manifest)
        return done[key]

    return make_one


@pytest.mark.parametrize("precision", BYTES)
def test_every_network_is_clean_and_builds_in_every_precision(
    form: Any, precision: str, make: Callable[..., Made], tmp_path: Path
) -> None:
    made = make(form)
    assert lint(made.graphs[precision], "tensorrt") == ()
    target, content = compiled(made, precision, tmp_path)
    # A few of its own bytes per parameter: every weight is in there, and no engine is empty.
    assert len(content) > BYTES[precision] * made.manifest.parameters
    trt = pytest.importorskip("tensorrt_rtx")
    assert target["compiler"] == "tensorrt-rtx"
    assert target["runs_on"] == {
        "tensorrt_rtx": trt.__version__,
        "compute_capabilities": list(CAPABILITIES),
        "hardware_compatible": False,
    }
    assert target["settings"]["tf32"] is False
    assert target["warnings"] == []
    assert json.loads(json.dumps(target)) == target


def compiled(made: Made, precision: str, folder: Path) -> tuple[Any, bytes]:
    """What the compiler's record says of the engine, and the engine."""
    pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")
    onnx.save(made.graphs[precision], str(folder / "network.onnx"))
    source, engine = Source(folder / "network.onnx", made.manifest), folder / "network.rtx"
    settings = CompileSettings(compute_capabilities=CAPABILITIES)
    return compiler_of(engine).compile(source, {".rtx": engine}, settings, None), engine.read_bytes()


def test_every_network_is_quantised_where_it_has_channels_enough(form: Any, make: Callable[..., Made]) -> None:
    graph = make(form).graphs["int8"]
    kinds = [node.op_type for node in graph.graph.node]
    assert kinds.count("QuantizeLinear") == kinds.count("DequantizeLinear") >= 10


def test_every_fp16_network_keeps_fp32_what_its_kind_must(form: Any, make: Callable[..., Made]) -> None:
    made = make(form)
    expected = RULES[form.name] - ({"gate"} if form.settings.get("gates") == "none" else set())
    assert {island.rule for island in made.kept} - {"range"} == expected | {"output"}
    graph = Graph(made.graphs["fp16"])
    wide = {island.node for island in made.kept}
    for node in graph.nodes:
        floats = {graph.kinds.get(name, 0) for name in (*node.input, *node.output)} & {1, 10}
        if node.op_type != "Cast" and floats:
            assert floats == ({1} if node.name in wide else {10}), node.name
    casts = [node for node in graph.nodes if node.op_type == "Cast"]
    assert not [node for node in casts for before in graph.inputs(node) if before.op_type == "Cast"]
    assert 0 < len(casts) < len(graph.nodes) / 4


def test_every_fp16_network_is_clean_and_its_nodes_have_names_and_modules(form: Any, make: Callable[..., Made]) -> None:
    made = make(form)
    typed = made.graphs["fp16"]
    assert [finding for profile in PROFILES for isa in ISAS for finding in lint(typed, profile, isa)] == []
    assert len({node.name for node in typed.graph.node}) == len(typed.graph.node)
    assert all([entry.key for entry in node.metadata_props] == [MODULE] for node in typed.graph.node)
    modules = {node.name: module_of(node) for node in made.graphs["fp32"].graph.node}
    assert {node.name: module_of(node) for node in typed.graph.node if node.op_type != "Cast"} == modules
    ports = (*typed.graph.input, *typed.graph.output)
    assert {value.type.tensor_type.elem_type for value in ports} == {onnx.TensorProto.FLOAT}


def test_every_network_survives_emulated_fp16(form: Any, make: Callable[..., Made], tmp_path: Path) -> None:
    made = make(form)
    image = random_patches(made.manifest.spec, 1, seed=3)
    graphs = {"full": made.graphs["fp32"], "emulated": rounded(made.graphs["fp16"]), "file": made.graphs["fp16"]}
    answers = {}
    for name, model in graphs.items():
        onnx.save(model, str(tmp_path / f"{name}.onnx"))
        artifact = Artifact(tmp_path / f"{name}.onnx", made.manifest)
        with OnnxRuntimeSession(artifact, Options(threads=1, optimise=name != "emulated")) as session:
            answers[name] = session.run(image)
    assert 40 < sqnr(answers["full"], answers["emulated"]) < 100
    assert sqnr(answers["full"], answers["file"]) > 40


def sqnr(expected: np.ndarray, found: np.ndarray) -> float:
    distance = LogitsDistance()
    distance.add(expected, found)
    return distance.sqnr_db


@pytest.mark.parametrize("form", ["attention-unet-monai-2d"], indirect=True)
@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_a_free_batch_with_attention_maps_builds_too(
    form: Any, precision: str, make: Callable[..., Made], tmp_path: Path
) -> None:
    made = make(form, ExportSettings(batch=None, attention=True))
    assert lint(made.graphs[precision], "tensorrt") == ()
    target, content = compiled(made, precision, tmp_path)
    assert target["settings"]["batches"] == [1, 1, 8]
    assert content


@pytest.mark.slow
@pytest.mark.parametrize("precision", BYTES)
def test_every_network_with_a_free_batch_and_maps_is_clean_and_builds_in_every_precision(
    form: Any, precision: str, make: Callable[..., Made], tmp_path: Path
) -> None:
    if form.settings.get("gates") == "none":
        pytest.skip("it has no attention")
    made = make(form, ExportSettings(batch=None, attention=True))
    assert lint(made.graphs[precision], "tensorrt") == ()
    assert compiled(made, precision, tmp_path)[0]["warnings"] == []
