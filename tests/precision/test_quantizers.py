"""Every way from FP32 to INT8: what it quantises, what it leaves alone, and that the runtimes agree on its file."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from medattn_edge.agreement import LogitsDistance
from medattn_edge.artifact import Artifact
from medattn_edge.errors import UsageError
from medattn_edge.precision.attention_paths import spare_energies
from medattn_edge.precision.derived import fp32_graph
from medattn_edge.precision.layers import SMALL_CHANNELS, attention_products, layers
from medattn_edge.precision.lint import rules
from medattn_edge.precision.lint.graph import QdqGraph
from medattn_edge.precision.observe import floating_tensors
from medattn_edge.precision.onnx_graph import module_of
from medattn_edge.precision.quantizers import ort
from medattn_edge.precision.quantizers.quantizer import (
    Calibration,
    QuantizationRecipe,
    Quantizer,
    fitting_quantizers,
    quantizers,
)
from medattn_edge.precision.statistics import activation_ranges
from medattn_edge.precision.windows import Windows

Halves = tuple[Windows, Windows]
QUANTIZERS = quantizers()


def calibration_of(model: Any, patches: Any) -> Calibration:
    found = activation_ranges(model, floating_tensors(model), patches)
    return Calibration(patches, "digest", lambda: found)


@pytest.fixture(scope="module")
def calibration(lungs_model: Any, halves: Halves) -> Calibration:
    return calibration_of(lungs_model, list(halves[0]))


@pytest.fixture(scope="module")
def guided_model(guided: Artifact) -> Any:
    return onnx.load(str(guided.path))


@pytest.fixture(scope="module")
def guided_calibration(guided_model: Any, halves: Halves) -> Calibration:
    return calibration_of(guided_model, list(halves[0])[:4])


def quantised(
    quantizer: Quantizer, parent: Artifact, calibration: Calibration, recipe: QuantizationRecipe, folder: Path
) -> Path:
    files = {suffix: folder / f"net{suffix}" for suffix in (*quantizer.suffixes, *quantizer.companions)}
    quantizer.quantise(parent, onnx.load(str(parent.path)), calibration, recipe, files)
    return files[quantizer.suffixes[0]]


def _conv_modules(model: Any) -> Counter[str]:
    return Counter(module_of(node) for node in model.graph.node if node.op_type == "Conv")


def sqnr(expected: np.ndarray, found: np.ndarray) -> float:
    distance = LogitsDistance()
    distance.add(expected, found)
    return distance.sqnr_db


def in_onnxruntime(path: Path, patch: np.ndarray, *, optimised: bool = True) -> np.ndarray:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    if not optimised:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return np.asarray(ort.InferenceSession(str(path), options, ["CPUExecutionProvider"]).run(None, {"image": patch})[0])


def in_openvino(path: Path, patch: np.ndarray) -> np.ndarray:
    from medattn_edge.backends.openvino.library import imported

    core = imported().Core()
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    return np.array(core.compile_model(str(path), "CPU", settings)(patch)[0])


@pytest.mark.parametrize("name", QUANTIZERS)
@pytest.mark.parametrize("profile", rules.PROFILES)
def test_what_comes_out_is_near_fp32(
    name: str, profile: str, lungs: Artifact, calibration: Calibration, halves: Halves, tmp_path: Path
) -> None:
    quantizer = QUANTIZERS[name]
    if profile not in quantizer.profiles:
        pytest.skip(f"{name} does not follow the profile {profile}")
    path = quantised(quantizer, lungs, calibration, QuantizationRecipe(profile), tmp_path)
    patch = halves[1][1]
    expected = in_onnxruntime(lungs.path, patch)
    run = in_openvino if path.suffix == ".xml" else in_onnxruntime
    assert 25 < sqnr(expected, run(path, patch)) < 70


@pytest.mark.parametrize("name", [name for name, quantizer in QUANTIZERS.items() if ".onnx" in quantizer.suffixes])
@pytest.mark.parametrize(("profile", "isa"), [("tensorrt", "x86-vnni"), *(("cpu", isa) for isa in rules.ISAS)])
def test_a_graph_passes_the_lint_of_its_profile_and_names_its_modules(
    name: str, profile: str, isa: str, lungs: Artifact, calibration: Calibration, tmp_path: Path
) -> None:
    quantizer = QUANTIZERS[name]
    if profile not in quantizer.profiles or isa not in quantizer.isas:
        pytest.skip(f"{name} does not follow {profile} on {isa}")
    made = onnx.load(str(quantised(quantizer, lungs, calibration, QuantizationRecipe(profile, isa), tmp_path)))
    onnx.checker.check_model(made, full_check=True)
    assert [one for one in rules.lint(made, profile, isa) if one.severity == "error"] == []
    assert _conv_modules(made) == _conv_modules(onnx.load(str(lungs.path)))
    kinds = Counter(node.op_type for node in made.graph.node)
    assert kinds["QuantizeLinear"] > 10


def test_the_tensorrt_profile_is_symmetric_and_leaves_small_layers_alone(
    lungs_model: Any, calibration: Calibration
) -> None:
    made = ort.qdq(lungs_model, calibration.ranges(), QuantizationRecipe("tensorrt"))
    graph = QdqGraph(made)
    small = {layer.node for layer in layers(lungs_model) if min(layer.channels) < SMALL_CHANNELS}
    assert 0 < len(small) < len(layers(lungs_model))
    for node in graph.nodes:
        if node.op_type == "Conv":
            expected = node.name not in small
            assert (graph.dequantizer(node, 1) is not None) is expected, node.name
    zeros = [graph.constant(node.input[2]) for node in graph.quantisers]
    assert all(zero.dtype == np.int8 and not zero.any() for zero in zeros if zero is not None)
    assert not any(graph.quantised_type(node) == "INT32" for node in graph.quantisers)


@pytest.mark.parametrize(
    ("isa", "kind", "most"), [("x86-vnni", "UINT8", 127), ("x86", "UINT8", 64), ("arm", "INT8", 127)]
)
def test_each_cpu_gets_its_own_numbers(
    isa: str, kind: str, most: int, lungs_model: Any, calibration: Calibration
) -> None:
    graph = QdqGraph(ort.qdq(lungs_model, calibration.ranges(), QuantizationRecipe("cpu", isa)))
    conv = next(node for node in graph.nodes if node.op_type == "Conv" and graph.dequantizer(node, 0) is not None)
    assert graph.quantised_type(graph.dequantizer(conv, 0)) == kind
    weights = [graph.quantised_weights(graph.dequantizer(node, 1)) for node in graph.nodes if node.op_type == "Conv"]
    assert max(int(np.abs(one).max()) for one in weights if one is not None) <= most
    assert max(int(np.abs(one).max()) for one in weights if one is not None) > most - 2


@pytest.mark.parametrize("name", QUANTIZERS)
def test_layers_left_in_floating_point_are_not_quantised(
    name: str, lungs: Artifact, lungs_model: Any, calibration: Calibration, tmp_path: Path
) -> None:
    quantizer = QUANTIZERS[name]
    kept = tuple(layer.node for layer in layers(lungs_model)[4:9])
    path = quantised(quantizer, lungs, calibration, QuantizationRecipe("cpu", floating=kept), tmp_path)
    if path.suffix == ".onnx":
        graph = QdqGraph(onnx.load(str(path)))
        found = {node.name for node in graph.nodes if node.op_type == "Conv" and graph.dequantizer(node, 1) is None}
        assert found == set(kept)
    else:
        assert _plain_convolutions(path) == set(kept)


def _plain_convolutions(path: Path) -> set[str]:
    """Those of an IR whose weights are constants, and not dequantised integers."""
    from medattn_edge.backends.openvino.library import imported

    return {
        op.get_friendly_name().removesuffix("/WithoutBiases")
        for op in imported().Core().read_model(str(path)).get_ordered_ops()
        if op.get_type_name() == "Convolution" and op.input_value(1).get_node().get_type_name() == "Constant"
    }


@pytest.mark.parametrize("name", QUANTIZERS)
def test_with_every_layer_in_floating_point_nothing_is_rounded(
    name: str, lungs: Artifact, lungs_model: Any, calibration: Calibration, halves: Halves, tmp_path: Path
) -> None:
    every = tuple(layer.node for layer in layers(lungs_model))
    path = quantised(QUANTIZERS[name], lungs, calibration, QuantizationRecipe("cpu", floating=every), tmp_path)
    patch = halves[1][1]
    run = in_openvino if path.suffix == ".xml" else in_onnxruntime
    assert sqnr(in_onnxruntime(lungs.path, patch), run(path, patch)) > 100


@pytest.mark.parametrize("name", [name for name, quantizer in QUANTIZERS.items() if ".onnx" in quantizer.suffixes])
def test_attention_products_and_softmax_stay_floating_point(
    name: str, guided: Artifact, guided_model: Any, guided_calibration: Calibration, tmp_path: Path
) -> None:
    for profile in QUANTIZERS[name].profiles:
        made = onnx.load(
            str(quantised(QUANTIZERS[name], guided, guided_calibration, QuantizationRecipe(profile), tmp_path))
        )
        graph = QdqGraph(made)
        products = graph.attention_products
        assert len(products) == sum(node.op_type == "MatMul" for node in guided_model.graph.node) > 8
        for node in products:
            assert not all(graph.dequantizer(node, index) is not None for index in (0, 1)), node.name
        for node in graph.select("Softmax"):
            assert graph.dequantizer(node, 0) is None
            assert not any(user.op_type == "QuantizeLinear" for user in graph.followers(node))


def test_attention_products_are_found_with_what_stands_between_them(guided_model: Any) -> None:
    kept = set(attention_products(guided_model))
    kinds = Counter(node.op_type for node in guided_model.graph.node if node.name in kept)
    assert kinds["Softmax"] == sum(node.op_type == "Softmax" for node in guided_model.graph.node) > 4
    assert kinds["ReduceMax"] == kinds["Sub"] > 2  # rowmax(E) - E
    assert not kinds["Conv"]


def test_energies_read_what_stood_before_the_rounding() -> None:
    """X -> Q -> DQ -> Reshape -> both factors of X X^T: the pair goes, as nobody else reads it."""
    nodes = [
        helper.make_node("Relu", ["image"], ["x"], name="relu"),
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"], name="q"),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["dq"], name="dq"),
        helper.make_node("Transpose", ["dq"], ["t"], perm=[1, 0], name="t"),
        helper.make_node("MatMul", ["dq", "t"], ["energy"], name="energy"),
        helper.make_node("Softmax", ["energy"], ["logits"], name="softmax"),
    ]
    weights = [numpy_helper.from_array(np.float32(0.1), "scale"), numpy_helper.from_array(np.uint8(3), "zero")]
    ports = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [4, 4]) for name in ("image", "logits")]
    model = helper.make_model(helper.make_graph(nodes, "g", ports[:1], ports[1:], weights))
    spare_energies(model)
    assert [node.name for node in model.graph.node] == ["relu", "t", "energy", "softmax"]
    assert list(model.graph.node[2].input) == ["x", "t"]
    assert not model.graph.initializer


def test_one_file_of_nncf_says_the_same_in_both_runtimes(
    lungs: Artifact, calibration: Calibration, halves: Halves, tmp_path: Path
) -> None:
    path = quantised(QUANTIZERS["nncf-onnx"], lungs, calibration, QuantizationRecipe("cpu"), tmp_path)
    patch = halves[1][2]
    written = in_onnxruntime(path, patch, optimised=False)
    assert sqnr(written, in_onnxruntime(path, patch)) > 30
    assert sqnr(written, in_openvino(path, patch)) > 30


def test_nncf_does_not_speak_on_stdout(
    lungs: Artifact, calibration: Calibration, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    quantised(QUANTIZERS["nncf-onnx"], lungs, calibration, QuantizationRecipe("cpu"), tmp_path)
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize(
    ("path", "recipe", "name", "expected"),
    [
        ("a.onnx", QuantizationRecipe("cpu"), "", ["nncf-onnx", "onnxruntime"]),
        ("a.ONNX", QuantizationRecipe("cpu", method="entropy"), "", ["onnxruntime"]),
        ("a.onnx", QuantizationRecipe("cpu", "arm"), "", ["onnxruntime"]),
        ("a.onnx", QuantizationRecipe("tensorrt"), "", ["onnxruntime"]),
        ("a.xml", QuantizationRecipe("cpu", "arm"), "", ["nncf-openvino"]),
        ("a.onnx", QuantizationRecipe("cpu"), "onnxruntime", ["onnxruntime"]),
    ],
)
def test_the_doors_that_fit_are_found(path: str, recipe: QuantizationRecipe, name: str, expected: list[str]) -> None:
    assert [quantizer.name for quantizer in fitting_quantizers(Path(path), recipe, name)] == expected


@pytest.mark.parametrize(
    ("path", "recipe", "name", "said"),
    [
        ("a.onnx", QuantizationRecipe("cpu"), "modelopt", r"modelopt(.|\n)*nncf-onnx"),
        ("a.engine", QuantizationRecipe("cpu"), "", r"\.engine(.|\n)*\.onnx or \.xml"),
        ("a.xml", QuantizationRecipe("tensorrt"), "", r"tensorrt(.|\n)*--profile cpu"),
        ("a.xml", QuantizationRecipe("cpu", method="entropy"), "", r"entropy(.|\n)*--method minmax"),
        ("a.xml", QuantizationRecipe("cpu"), "onnxruntime", r"\.xml(.|\n)*leave --quantizer out"),
        ("a.onnx", QuantizationRecipe("cpu", "arm"), "nncf-onnx", r"arm(.|\n)*x86-vnni"),
    ],
)
def test_what_no_quantizer_can_do_is_refused_with_what_can_be_done(
    path: str, recipe: QuantizationRecipe, name: str, said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        fitting_quantizers(Path(path), recipe, name)


@pytest.mark.parametrize(("profile", "isa", "said"), [("gpu", "x86", "--profile"), ("cpu", "avx2", "--isa")])
def test_a_recipe_that_nobody_knows_is_refused(profile: str, isa: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        QuantizationRecipe(profile, isa)


def test_the_sum_that_the_logits_come_from_is_not_rounded_in_openvino(lungs: Artifact, tmp_path: Path) -> None:
    """The node of an output has the output's name there, and was therefore not found among those to leave alone."""
    rng = np.random.default_rng(0)
    weights = [
        numpy_helper.from_array(rng.normal(size=(32, 32 if index else 1, 3, 3)).astype(np.float32), f"w{index}")
        for index in range(3)
    ]
    nodes = [
        helper.make_node("Conv", ["image", "w0"], ["a"], "first", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["b"], "relu"),
        helper.make_node("Conv", ["b", "w1"], ["c"], "left", pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["b", "w2"], ["d"], "right", pads=[1, 1, 1, 1]),
        helper.make_node("Add", ["c", "d"], ["logits"], "sum"),
    ]
    image, logits = (
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, channels, 32, 32])
        for name, channels in (("image", 1), ("logits", 32))
    )
    model = helper.make_model(
        helper.make_graph(nodes, "sum", [image], [logits], weights),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=10,
    )
    onnx.save(model, str(tmp_path / "sum.onnx"))
    patches = list(rng.random((4, 1, 1, 32, 32), dtype=np.float32))
    parent = Artifact(tmp_path / "sum.onnx", lungs.manifest)
    path = quantised(
        QUANTIZERS["nncf-openvino"], parent, calibration_of(model, patches), QuantizationRecipe("cpu"), tmp_path
    )
    found = in_openvino(path, patches[0])
    assert 25 < sqnr(in_onnxruntime(parent.path, patches[0]), found) < 70

    from medattn_edge.backends.openvino.library import imported

    made = {op.get_friendly_name(): op for op in imported().Core().read_model(str(path)).get_ops()}
    before = [made["logits"].input_value(index).get_node().get_type_name() for index in range(2)]
    assert before == ["Convolution", "Convolution"]


@pytest.mark.parametrize("wanted", ["fp16", "int8"])
def test_nothing_is_made_of_a_graph_that_is_for_fp32_only(lungs: Artifact, wanted: str) -> None:
    fp32_graph(lungs, wanted)
    done = (*lungs.manifest.rewrites, {"name": "winograd", "title": "", "sites": 3, "fp32_only": True})
    with pytest.raises(UsageError, match=f"winograd, where large numbers cancel: in {wanted}") as caught:
        fp32_graph(Artifact(lungs.path, replace(lungs.manifest, rewrites=done)), wanted)
    assert caught.value.hint.endswith("--rewrite -winograd")


def test_signed_activations_become_unsigned_and_keep_their_numbers(tmp_path):
    import onnxruntime as ort
    from onnx import TensorProto

    from medattn_edge.precision.quantizers.nncf_onnx import unsign_activations

    value = helper.make_tensor_value_info
    weights = [np.array(0.02, np.float32), np.array(-13, np.int8)]
    graph = helper.make_graph(
        [
            helper.make_node("QuantizeLinear", ["image", "scale", "zero"], ["q"], name="q"),
            helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["logits"], name="dq"),
        ],
        "g",
        [value("image", TensorProto.FLOAT, [1, 1, 4, 64])],
        [value("logits", TensorProto.FLOAT, [1, 1, 4, 64])],
        [numpy_helper.from_array(one, name) for one, name in zip(weights, ("scale", "zero"), strict=True)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    image = np.linspace(-4, 4, 256, dtype=np.float32).reshape(1, 1, 4, 64)

    def run():
        session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        return session.run(None, {"image": image})[0]

    signed = run()
    unsign_activations(model)
    onnx.checker.check_model(model, full_check=True)
    assert {one.data_type for one in model.graph.initializer} == {TensorProto.FLOAT, TensorProto.UINT8}
    np.testing.assert_array_equal(run(), signed)
