"""Half precision in a graph: which nodes stay FP32, what stands between them, and what emulation rounds."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from medattn_edge.precision.fp16 import ALWAYS_FP32, LARGEST_HALF, MARGIN, islands
from medattn_edge.precision.fp16_graph import rounded, to_fp16
from medattn_edge.precision.lint import operators
from medattn_edge.precision.lint.rules import PROFILES, lint
from medattn_edge.precision.observe import floating_tensors, ranges
from medattn_edge.precision.onnx_graph import MODULE, Graph, module_of, set_module, with_shapes

FLOAT, HALF = TensorProto.FLOAT, TensorProto.FLOAT16
Array = np.ndarray[Any, Any]


class Net:
    """A graph under construction, image (1, C, 8, 8); every node's module is its name."""

    def __init__(self, channels: int = 4, batch: Any = 1) -> None:
        self.nodes: list[Any] = []
        self.tensors: list[Any] = []
        self.image = helper.make_tensor_value_info("image", FLOAT, [batch, channels, 8, 8])

    def weight(self, values: Any, name: str = "") -> str:
        name = name or f"weight_{len(self.tensors)}"
        self.tensors.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def node(self, operator: str, *inputs: str, name: str = "", **attributes: Any) -> str:
        name = name or f"{operator.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(inputs), [name], name, **attributes))
        set_module(self.nodes[-1], name)
        return name

    def conv(self, source: str, value: float = 0.3, name: str = "", channels: int = 4) -> str:
        """A 1x1 convolution that multiplies the mean of the channels by about `value`."""
        random = np.random.default_rng(len(self.nodes)).uniform(0.7, 1.3, (channels, channels, 1, 1))
        return self.node("Conv", source, self.weight((value / channels * random).astype(np.float32)), name=name)

    def reshape(self, source: str, *shape: int) -> str:
        return self.node("Reshape", source, self.weight(np.array(shape, np.int64)))

    def model(self, *outputs: str) -> Any:
        ends = [helper.make_tensor_value_info(name, FLOAT, None) for name in outputs]
        graph = helper.make_graph(self.nodes, "network", [self.image], ends, self.tensors)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def picture(scale: float = 1.0, channels: int = 4) -> Array:
    values = np.random.default_rng(3).random((1, channels, 8, 8), np.float32)
    return (scale * values).astype(np.float32)


def run(model: Any, image: Array, *names: str, optimise: bool = False) -> list[Array]:
    """The outputs, or any tensors, of a graph."""
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    kinds = Graph(with_shapes(model)).kinds
    if names:
        del watched.graph.output[:]
        watched.graph.output.extend(helper.make_tensor_value_info(name, kinds[name], None) for name in names)
    settings = ort.SessionOptions()
    settings.log_severity_level = 3
    settings.intra_op_num_threads = 1
    if not optimise:
        settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(watched.SerializeToString(), settings, ["CPUExecutionProvider"])
    return [np.asarray(answer) for answer in session.run(None, {"image": image})]


def measured(model: Any, image: Array, margin: float = MARGIN) -> Any:
    return islands(model, ranges(model, floating_tensors(model), [image]), margin)


def kept(model: Any, image: Array | None = None) -> dict[str, str]:
    """Node -> rule."""
    found = islands(model, {}) if image is None else measured(model, image)
    return {island.node: island.rule for island in found}


def is_half(values: Array) -> bool:
    with np.errstate(over="ignore"):
        return bool((values == values.astype(np.float16).astype(np.float32)).all())


def chain() -> Any:
    """Four convolutions, the second of which multiplies by 1000."""
    net = Net()
    last = "image"
    for index, value in enumerate((1.0, 1e3, 1e-3, 1.0)):
        last = net.conv(last, value, f"conv{index}")
        last = net.node("Relu", last, name=f"relu{index}")
    return net.model(net.conv(last, name="head"))


def test_a_tensor_that_comes_near_the_largest_half_keeps_its_makers_and_readers_in_fp32_and_is_named() -> None:
    found = {island.node: island for island in measured(chain(), picture(60.0))}
    assert set(found) == {"conv1", "relu1", "conv2", "head"}
    assert {found[name].rule for name in ("conv1", "relu1", "conv2")} == {"range"}
    largest = float(run(chain(), picture(60.0), "relu1")[0].max())
    assert LARGEST_HALF / MARGIN < largest < LARGEST_HALF
    assert found["conv2"].reason == f"relu1 reaches {largest:.3g}, and a half ends at 65504"
    assert found["conv2"].module == "conv2"
    assert found["conv2"].operator == "Conv"


def test_the_margin_says_how_near() -> None:
    model, image = chain(), picture(60.0)
    assert kept(model, picture(5.0)) == {"head": "output"}
    assert [island.node for island in measured(model, image, margin=1.0)] == ["head"]
    assert "conv0" in [island.node for island in measured(model, image, margin=1e4)]


def test_a_weight_that_is_no_half_stays_as_it_is() -> None:
    net = Net()
    tiny = net.node("Mul", "image", net.weight(np.float32(1e-3)))
    large = net.node("Mul", tiny, net.weight(np.float32(1e5), "large"), name="multiply")
    model = net.model(net.conv(net.node("Relu", large)))
    assert kept(model)["multiply"] == "range"
    typed = to_fp16(model, islands(model, {}))
    assert numpy_helper.to_array(Graph(typed).weights["large"]).item() == np.float32(1e5)
    assert Graph(typed).weights["large"].data_type == FLOAT


def test_a_weight_that_an_island_shares_is_exact_there_and_half_elsewhere() -> None:
    net = Net()
    shared = net.weight(np.full((4, 4, 1, 1), 0.1234567, np.float32), "shared")
    first = net.node("Conv", "image", shared, name="half")
    last = net.node("Conv", net.node("Relu", first), shared, name="logits")
    model = net.model(last)
    typed = to_fp16(model, islands(model, {}))
    graph = Graph(typed)
    stored = {
        node.name: numpy_helper.to_array(graph.weights[node.input[1]])
        for node in graph.nodes
        if node.name in ("half", "logits")
    }
    assert stored["half"].dtype == np.float16
    assert stored["logits"].dtype == np.float32
    assert (stored["logits"] == np.float32(0.1234567)).all()
    assert run(rounded(typed), picture())[0].shape == (1, 4, 8, 8)


def test_what_overflows_a_half_passes_between_islands_unharmed() -> None:
    model, image = chain(), picture(900.0)
    found = measured(model, image)
    assert float(run(model, image, "conv1")[0].max()) > 2 * LARGEST_HALF
    typed = to_fp16(model, found)
    assert no_half_between_islands(typed)
    expected, emulated = run(model, image)[0], run(rounded(typed), image)[0]
    assert np.isfinite(emulated).all()
    assert np.abs(emulated - expected).max() < 2e-3 * np.abs(expected).max()
    assert np.isfinite(run(typed, image)[0]).all()
    assert not np.isfinite(run(rounded(to_fp16(model, ())), image)[0]).all()


def no_half_between_islands(typed: Any) -> bool:
    graph = Graph(typed)
    return not any(
        node.op_type == "Cast" and graph.kinds[node.output[0]] == FLOAT and before.op_type == "Cast"
        for node in graph.nodes
        for before in graph.inputs(node)
    )


@pytest.mark.parametrize("outputs", [("logits",), ("logits", "attention"), ("attention", "logits")])
def test_a_tensor_may_be_an_output_an_islands_and_a_halfs_at_once(outputs: tuple[str, ...]) -> None:
    net = Net()
    gate = net.node("Sigmoid", net.conv("image", name="feeder"), name="attention")
    gated = net.node("Mul", "image", gate)
    wide = net.node("ReduceMean", gate, net.weight(np.array([1], np.int64)), name="mean", keepdims=1)
    net.conv(net.node("Add", gated, wide), name="logits")
    model = net.model(*outputs)
    typed = to_fp16(model, islands(model, {}))
    assert [value.name for value in typed.graph.output] == list(outputs)
    assert no_half_between_islands(typed)
    for expected, found in zip(run(model, picture()), run(rounded(typed), picture()), strict=True):
        assert np.abs(found - expected).max() < 2e-3


def test_the_image_reaches_an_island_as_it_is() -> None:
    net = Net()
    model = net.model(net.conv("image", name="logits"))
    typed = to_fp16(model, islands(model, {}))
    assert [node.op_type for node in typed.graph.node] == ["Conv"]
    assert (run(typed, picture(0.1))[0] == run(model, picture(0.1))[0]).all()


def test_a_gates_sigmoid_and_what_feeds_it_stay_fp32() -> None:
    net = Net()
    feeder = net.conv(net.node("Relu", net.conv("image", name="theta")), name="psi")
    model = net.model(net.conv(net.node("Mul", "image", net.node("Sigmoid", feeder, name="gate")), name="head"))
    assert kept(model) == {"psi": "gate", "gate": "gate", "head": "output"}


def test_channel_attentions_energy_stays_fp32_and_position_attentions_product_does_not() -> None:
    net = Net()
    flat = net.reshape("image", 1, 4, 64)
    turned = net.node("Transpose", net.reshape("image", 1, 4, 64), perm=[0, 2, 1])
    energy = net.node("MatMul", flat, turned, name="energy")
    row = net.node("ReduceMax", energy, net.weight(np.array([2], np.int64)), name="row", keepdims=1)
    channel = net.node("Softmax", net.node("Sub", row, energy, name="sub"), name="channel", axis=2)
    mixed = net.node("MatMul", channel, flat, name="mixed")
    query = net.node("Transpose", net.reshape(net.conv("image"), 1, 4, 64), perm=[0, 2, 1])
    product = net.node("MatMul", query, net.reshape(net.conv("image"), 1, 4, 64), name="product")
    seen = net.node("Softmax", product, name="position", axis=2)
    attended = net.node("MatMul", mixed, seen, name="attended")
    model = net.model(net.conv(net.reshape(attended, 1, 4, 8, 8), name="head"))
    rules = {"energy": "energy", "row": "energy", "sub": "energy", "channel": "softmax", "position": "softmax"}
    assert kept(model) == {**rules, "head": "output"}
    loud = kept(model, picture(300.0))
    assert loud["product"] == loud["attended"] == "range"
    assert loud["energy"] == "energy"


def test_the_logits_are_computed_in_fp32_from_the_heads_on() -> None:
    net = Net()
    heads = [net.conv(net.node("Relu", net.conv("image")), name=f"head{index}") for index in (1, 2)]
    total = net.node("Add", *heads, name="add")
    scales = net.weight(np.array([1, 1, 2, 2], np.float32))
    model = net.model(net.node("Resize", total, "", scales, name="logits", mode="linear"))
    assert kept(model) == dict.fromkeys(("head1", "head2", "add", "logits"), "output")


def test_a_resize_inside_the_network_is_half_and_its_scales_are_not() -> None:
    net = Net()
    scales = net.weight(np.array([1, 1, 2, 2], np.float32), "scales")
    resized = net.node("Resize", net.conv("image"), "", scales, mode="nearest", name="resize")
    model = net.model(net.conv(resized, name="head"))
    typed = to_fp16(model, islands(model, {}))
    assert Graph(typed).kinds["resize"] == HALF
    assert Graph(typed).weights["scales"].data_type == FLOAT
    assert run(rounded(typed), picture())[0].shape == run(typed, picture())[0].shape == (1, 4, 16, 16)


def test_every_operator_that_lint_wants_in_fp32_stays_fp32() -> None:
    assert set(operators.ISLANDS) <= set(ALWAYS_FP32)


def test_a_norm_written_out_stays_fp32_where_it_sums() -> None:
    net = Net()
    axes = net.weight(np.array([2, 3], np.int64))
    mean = net.node("ReduceMean", "image", axes, name="mean")
    centred = net.node("Sub", "image", mean)
    variance = net.node("ReduceMean", net.node("Mul", centred, centred), axes, name="variance")
    norm = net.node("Div", centred, net.node("Sqrt", variance, name="deviation"))
    model = net.model(net.conv(net.node("InstanceNormalization", norm, *ones(net), name="norm"), name="head"))
    assert kept(model) == {"mean": "sum", "variance": "sum", "deviation": "sum", "norm": "norm", "head": "output"}
    typed = to_fp16(model, islands(model, {}))
    assert [finding for profile in PROFILES for finding in lint(typed, profile)] == []


def ones(net: Net) -> tuple[str, str]:
    return net.weight(np.ones(4, np.float32)), net.weight(np.zeros(4, np.float32))


def test_the_graph_keeps_its_order_its_modules_and_unique_names() -> None:
    model = chain()
    typed = to_fp16(model, measured(model, picture(60.0)))
    casts = [node for node in typed.graph.node if node.op_type == "Cast"]
    others = [node for node in typed.graph.node if node.op_type != "Cast"]
    assert [node.name for node in others] == [node.name for node in model.graph.node]
    assert [module_of(node) for node in others] == [node.name for node in others]
    assert all(any(entry.key == MODULE for entry in node.metadata_props) for node in casts)
    assert len({node.name for node in typed.graph.node}) == len(typed.graph.node)
    ports = (*typed.graph.input, *typed.graph.output)
    assert {value.type.tensor_type.elem_type for value in ports} == {FLOAT}
    assert len(casts) == 4  # image, into the first island, out of the last, into the head


def test_the_model_is_not_changed() -> None:
    model = chain()
    before = model.SerializeToString(deterministic=True)
    typed = to_fp16(model, measured(model, picture(60.0)))
    after = typed.SerializeToString(deterministic=True)
    rounded(typed)
    assert model.SerializeToString(deterministic=True) == before
    assert typed.SerializeToString(deterministic=True) == after


def test_a_free_batch_stays_free() -> None:
    net = Net(batch="N")
    model = net.model(net.conv(net.node("Relu", net.conv("image")), name="head"))
    typed = to_fp16(model, islands(model, {}))
    image = np.concatenate([picture(), picture(2.0), picture(3.0)])
    for graph in (typed, rounded(typed)):
        assert run(graph, image)[0].shape == (3, 4, 8, 8)


def test_emulation_rounds_every_weight_and_tensor_outside_the_islands_and_nothing_inside() -> None:
    model, image = chain(), picture(60.0)
    typed = to_fp16(model, measured(model, image))
    emulated = rounded(typed)
    graph = Graph(emulated)
    outside = ["relu0", "relu2", "relu3", "conv0", "conv3"]
    inside = ["conv1", "relu1", "head"]
    for name, values in zip(outside, run(emulated, image, *(f"{name}_wide" for name in outside)), strict=True):
        assert is_half(values), name
    made = {node.name: node.output[0] for node in graph.nodes}
    exact = [made[name] for name in (*inside, "conv0", "conv3")]
    assert not any(is_half(values) for values in run(emulated, image, *exact))
    weights = {node.name: node.input[1] for node in graph.nodes if node.op_type == "Conv"}
    halves = {name: is_half(numpy_helper.to_array(graph.weights[weight])) for name, weight in weights.items()}
    assert halves == {"conv0": True, "conv1": False, "conv2": False, "conv3": True, "head": False}


def test_emulation_gives_to_the_last_bit_what_halves_give() -> None:
    net = Net()
    factor, offset = np.float32(1.2345678), np.float32(-0.0123456)
    scaled = net.node("Mul", "image", net.weight(factor))
    shifted = net.node("Relu", net.node("Add", scaled, net.weight(offset)))
    model = net.model(net.node("Sigmoid", shifted, name="logits"))
    found = run(rounded(to_fp16(model, ())), picture(3.0))[0]
    product = np.float16(np.float32(np.float16(picture(3.0))) * np.float32(np.float16(factor)))
    total = np.float16(np.float32(product) + np.float32(np.float16(offset)))
    expected = np.float16(1 / (1 + np.exp(-np.maximum(np.float64(total), 0)))).astype(np.float32)
    assert (found == expected).mean() > 0.99  # the exponential's last bit may round the other way
    assert np.abs(found - expected).max() <= 2.0**-11


def test_emulation_overflows_where_a_half_does() -> None:
    net = Net()
    model = net.model(net.node("Relu", net.node("Mul", "image", net.weight(np.float32(1.0)))))
    image = np.full((1, 4, 8, 8), 65519.9, np.float32)
    image[:, 1] = 65520.0
    found = run(rounded(to_fp16(model, ())), image)[0]
    assert (found[:, 0] == 65504.0).all()
    assert np.isinf(found[:, 1]).all()
