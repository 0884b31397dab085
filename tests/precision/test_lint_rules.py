"""Every rule: the smallest graph that breaks it and nothing else, and the same graph mended."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from medattn_edge.backends.compiler import compilers
from medattn_edge.errors import InputError, UsageError
from medattn_edge.precision.lint.rules import ISAS, LINT_PROFILES, PROFILES, RULES, check, lint

INT8, UINT8, FLOAT, HALF = TensorProto.INT8, TensorProto.UINT8, TensorProto.FLOAT, TensorProto.FLOAT16
SHAPE = [1, 16, 8, 8]


class Net:
    """A graph under construction: every method adds a node and returns the name of what it makes."""

    def __init__(self, shape: Sequence[Any] = SHAPE, kind: int = FLOAT, opset: int = 18) -> None:
        self.nodes: list[Any] = []
        self.tensors: list[Any] = []
        self.image = helper.make_tensor_value_info("image", kind, shape)
        self.kind, self.opset = kind, opset

    def node(self, operator: str, *inputs: str, module: str | None = None, domain: str = "", **attributes: Any) -> str:
        name = f"{operator}_{len(self.nodes)}"
        node = helper.make_node(operator, inputs, [f"{name}_out"], name=name, domain=domain, **attributes)
        if module is not None:
            entry = node.metadata_props.add()
            entry.key, entry.value = "module", module
        self.nodes.append(node)
        return f"{name}_out"

    def tensor(self, values: Any, kind: int | None = None) -> str:
        name = f"tensor_{len(self.tensors)}"
        array = np.asarray(values)
        self.tensors.append(
            numpy_helper.from_array(array, name)
            if kind is None
            else helper.make_tensor(name, kind, array.shape, array.ravel().tolist())
        )
        return name

    def quantise(self, name: str, kind: int = INT8, zero_point: int = 0, scale: Any = 0.1) -> str:
        """A Q/DQ pair."""
        scales = self.tensor(np.asarray(scale, np.float32))
        shift = [self.tensor(np.full(np.shape(scale), zero_point), kind)] if kind else []
        axis = {"axis": 1} if np.size(scale) > 1 else {}
        integers = self.node("QuantizeLinear", name, scales, *shift, **axis)
        return self.node("DequantizeLinear", integers, scales, *shift, **axis)

    def weights(self, shape: Sequence[int], axis: int = 0, kind: int = INT8, value: int = 7) -> str:
        """Stored integers behind a DQ."""
        scales = self.tensor(np.full(shape[axis], 0.1, np.float32))
        shift = self.tensor(np.zeros(shape[axis]), kind)
        return self.node("DequantizeLinear", self.tensor(np.full(shape, value), kind), scales, shift, axis=axis)

    def conv(self, name: str, weights: str, *more: str, operator: str = "Conv", module: str = "down.0") -> str:
        return self.node(operator, name, weights, *more, module=module)

    def model(self, output: str, kind: int | None = None) -> Any:
        logits = helper.make_tensor_value_info(output, kind or self.kind, None)
        graph = helper.make_graph(self.nodes, "network", [self.image], [logits], self.tensors)
        domains = [helper.make_opsetid("", self.opset), helper.make_opsetid("com.microsoft", 1)]
        return helper.make_model(graph, opset_imports=domains, ir_version=10)


def conv(
    shape: Sequence[int] = (16, 16, 1, 1),
    axis: int = 0,
    value: int = 7,
    operator: str = "Conv",
    opset: int = 18,
    sizes: Sequence[Any] = SHAPE,
    **activation: Any,
) -> Any:
    """A convolution with both factors quantised."""
    net = Net(shape=sizes, opset=opset)
    return net.model(
        net.conv(net.quantise("image", **activation), net.weights(shape, axis, value=value), operator=operator)
    )


def bias(integer: bool) -> Any:
    net = Net()
    image, weights = net.quantise("image"), net.weights((16, 16, 1, 1))
    values = net.tensor(np.ones(16, np.int32 if integer else np.float32))
    if integer:
        values = net.node("DequantizeLinear", values, net.tensor(np.full(16, 0.01, np.float32)), axis=0)
    return net.model(net.conv(image, weights, values))


def computed_scale(computed: bool) -> Any:
    net = Net()
    scale = net.node("Abs", net.tensor(np.float32(0.1))) if computed else net.tensor(np.float32(0.1))
    zero = net.tensor(0, INT8)
    image = net.node("DequantizeLinear", net.node("QuantizeLinear", "image", scale, zero), scale, zero)
    return net.model(net.conv(image, net.weights((16, 16, 1, 1))))


def matmul(axis: int) -> Any:
    net = Net(shape=[4, 32])
    return net.model(net.conv(net.quantise("image"), net.weights((32, 16), axis), operator="MatMul"))


def typed(kind: int, opset: int = 21) -> Any:
    net = Net(opset=opset)
    return net.model(net.conv(net.quantise("image", kind), net.weights((16, 16, 1, 1), kind=kind, value=1)))


def orphan(form: str) -> Any:
    net = Net()
    scale, zero = net.tensor(np.float32(0.1)), net.tensor(0, INT8)
    integers = net.node("QuantizeLinear", "image", scale, zero)
    image = net.node("DequantizeLinear", integers, scale, zero)
    if form == "dead":
        net.node("DequantizeLinear", integers, scale, zero)
    if form == "integers used":
        image = net.node("Add", image, net.node("Cast", integers, to=FLOAT))
    if form == "no quantiser":
        image = net.node("DequantizeLinear", net.node("Cast", image, to=INT8), scale, zero)
    if form == "unused":
        net.node("QuantizeLinear", "image", scale, zero)
    return net.model(net.conv(image, net.weights((16, 16, 1, 1))))


def output_pair(pair: bool) -> Any:
    net = Net()
    logits = net.conv(net.quantise("image"), net.weights((16, 16, 1, 1)))
    return net.model(net.quantise(logits) if pair else net.node("Identity", logits))


def attention(quantised: str = "", kind: int = INT8) -> Any:
    """MatMul, Softmax, MatMul over (1, 16, 64), with one kind of tensor in it quantised."""
    net = Net(shape=[1, 16, 64])

    def maybe(name: str, what: str) -> str:
        return net.quantise(name, kind) if what in quantised else name

    queries = net.node("Transpose", maybe("image", "factors"), perm=[0, 2, 1])
    energy = net.node("MatMul", queries, maybe("image", "factors"), module="attend")
    weights = net.node("Softmax", maybe(energy, "energy"), axis=-1, module="attend")
    weights = net.node("Transpose", maybe(weights, "weights"), perm=[0, 2, 1])
    return net.model(net.node("MatMul", maybe("image", "values"), weights, module="attend"))


def gate(quantised: bool) -> Any:
    net = Net()
    return net.model(net.node("Sigmoid", net.quantise("image") if quantised else "image"))


def operator(kind: str, domain: str = "") -> Any:
    net = Net()
    if kind == "DynamicQuantizeLinear":
        net.node(kind, "image")
        net.nodes[-1].output.extend(["scale", "zero"])
        return net.model(net.node("Relu", "image"))
    return net.model(net.node(kind, "image", domain=domain))


def shape_arithmetic(used: bool) -> Any:
    net = Net()
    shape = net.node("Shape", "image") if used else net.tensor(np.array(SHAPE))
    return net.model(net.node("Reshape", "image", shape))


def half(*operators: str, island: bool = False, ports: bool = True, largest: float = 1.0) -> Any:
    """image -> half -> Add of a constant -> operators, in half precision or as an FP32 island -> logits."""
    net = Net(kind=FLOAT if ports else HALF)
    name = net.node("Cast", "image", to=HALF) if ports else "image"
    with np.errstate(over="ignore"):
        name = net.node("Add", name, net.tensor(np.float16(largest)))
    name = net.node("Cast", name, to=FLOAT) if island else name
    for kind in operators:
        name = net.node(kind, name, module="gate")
    return net.model(net.node("Cast", name, to=FLOAT) if ports else name)


def half_energy(same: bool) -> Any:
    """X X^T, or Q K^T, in half precision before an FP32 softmax."""
    net = Net(shape=[1, 16, 64])
    queries = net.node("Cast", "image", to=HALF)
    keys = queries if same else net.node("Relu", queries)
    energy = net.node("MatMul", queries, net.node("Transpose", keys, perm=[0, 2, 1]), module="cam")
    return net.model(net.node("Softmax", net.node("Cast", energy, to=FLOAT), axis=-1))


class Case(NamedTuple):
    rule: str
    profile: str
    broken: Callable[[], Any]
    mended: Callable[[], Any]
    isa: str = "x86-vnni"


def cases() -> list[Case]:
    u8 = {"kind": UINT8}
    transposed = {"operator": "ConvTranspose", "shape": (32, 16, 1, 1), "sizes": [1, 32, 8, 8]}
    cube = {"shape": (16, 16, 1, 1, 1), "sizes": [1, 16, 4, 4, 4], **u8}
    found = [
        Case("zero-point", "tensorrt", lambda: conv(zero_point=3), conv),
        Case("unsigned", "tensorrt", lambda: conv(kind=UINT8, zero_point=128), conv),
        Case("unsigned", "tensorrt", lambda: conv(kind=0), conv),
        Case("bias", "tensorrt", lambda: bias(True), lambda: bias(False)),
        Case("weight-axis", "tensorrt", lambda: conv(axis=1), conv),
        Case("weight-axis", "tensorrt", lambda: conv(**transposed, axis=0), lambda: conv(**transposed, axis=1)),
        Case("weight-axis", "tensorrt", lambda: matmul(0), lambda: matmul(1)),
        Case("activation-channels", "tensorrt", lambda: conv(scale=[0.1] * 16), conv),
        Case("output-pair", "tensorrt", lambda: output_pair(True), lambda: output_pair(False)),
        Case("type", "tensorrt", lambda: typed(TensorProto.INT16, 18), conv),
        Case("type", "cpu", lambda: typed(TensorProto.INT16), lambda: conv(**u8)),
        Case("type", "cpu", lambda: typed(TensorProto.UINT4), lambda: conv(**u8)),
        Case("type", "cpu", lambda: typed(TensorProto.FLOAT8E4M3FN), lambda: conv(**u8)),
        Case("quantised-operator", "tensorrt", lambda: gate(True), lambda: gate(False)),
        Case("few-channels", "tensorrt", lambda: conv(shape=(8, 16, 1, 1)), conv),
        Case("operator", "tensorrt", lambda: operator("DynamicQuantizeLinear"), lambda: operator("Relu")),
        Case("operator", "tensorrt", lambda: operator("FusedGelu", "com.microsoft"), lambda: operator("Relu")),
        Case("opset", "tensorrt", lambda: conv(opset=16), lambda: conv(opset=17)),
        Case("opset", "tensorrt", lambda: conv(opset=21), conv),
        Case("free-size", "tensorrt", lambda: conv(sizes=["N", 16, "H", 8]), lambda: conv(sizes=["N", 16, 8, 8])),
        Case("control-flow", "tensorrt", lambda: shape_arithmetic(True), lambda: shape_arithmetic(False)),
        Case("s8s8", "cpu", conv, lambda: conv(**u8)),
        Case("s8s8", "cpu", conv, lambda: conv(**u8), "x86"),
        Case("eight-bit-weights", "cpu", lambda: conv(value=-65, **u8), lambda: conv(value=64, **u8), "x86"),
        Case("transposed-3d", "cpu", lambda: conv(operator="ConvTranspose", **cube), lambda: conv(**cube)),
        Case("rtx-int8", "tensorrt-rtx", conv, lambda: half("Relu")),
    ]
    for form in ("dead", "integers used", "no quantiser", "unused"):
        found.append(Case("orphan", "tensorrt", lambda form=form: orphan(form), lambda: orphan("")))
    for profile in PROFILES:
        kind = {"cpu": UINT8, "tensorrt": INT8}[profile]
        found += [
            Case("constant-parameters", profile, lambda: computed_scale(True), lambda: computed_scale(False), "arm"),
            Case("scale", profile, lambda kind=kind: conv(scale=0.0, kind=kind), lambda kind=kind: conv(kind=kind)),
            Case("scale", profile, lambda kind=kind: conv(scale=np.inf, kind=kind), lambda kind=kind: conv(kind=kind)),
            Case("attention-product", profile, lambda kind=kind: attention("factors", kind), attention),
            Case("softmax", profile, lambda kind=kind: attention("energy", kind), lambda: attention("values")),
            Case("softmax", profile, lambda kind=kind: attention("weights", kind), attention),
            Case("half-port", profile, lambda: half("Relu", ports=False), lambda: half("Relu")),
            Case("half-weight", profile, lambda: half("Relu", largest=1e6), lambda: half("Relu")),
            Case("half-weight", profile, lambda: half("Relu", largest=40000), lambda: half("Relu")),
            Case("half-energy", profile, lambda: half_energy(True), lambda: half_energy(False)),
        ]
        for name in ("Softmax", "Sigmoid", "ReduceMean"):
            found.append(
                Case("half-island", profile, lambda name=name: half(name), lambda name=name: half(name, island=True))
            )
    return found


@pytest.mark.parametrize("case", cases(), ids=lambda case: f"{case.rule}-{case.profile}")
def test_a_rule_finds_its_fault_and_nothing_else(case: Case) -> None:
    broken = lint(case.broken(), case.profile, case.isa)
    assert {finding.rule for finding in broken} == {case.rule}, broken
    assert all(finding.reason and finding.remedy for finding in broken)
    assert lint(case.mended(), case.profile, case.isa) == ()


def test_every_rule_has_a_case() -> None:
    assert {rule.name for rule in RULES} == {case.rule for case in cases()}


def test_every_compiler_names_a_profile_of_the_lint() -> None:
    profiles = {name: one.profile for name, one in compilers().items() if ".onnx" in one.sources}
    assert set(profiles.values()) <= set(LINT_PROFILES)
    assert (profiles["tensorrt"], profiles["tensorrt-rtx"]) == ("tensorrt", "tensorrt-rtx")


def test_tensorrt_for_rtx_has_the_rules_of_tensorrt_and_recommends_fp16() -> None:
    for make in (lambda: conv(zero_point=3), lambda: gate(True), lambda: conv(opset=16)):
        plain, rtx = lint(make(), "tensorrt"), lint(make(), "tensorrt-rtx")
        assert plain == tuple(one for one in rtx if one.rule != "rtx-int8")
        [advice] = [one for one in rtx if one.rule == "rtx-int8"]
        assert (advice.severity, advice.node) == ("warning", "")
        assert "nothing documents INT8" in advice.reason
        assert "--precision fp16" in advice.remedy
    assert lint(half("Relu"), "tensorrt-rtx") == ()


def test_every_mended_graph_is_taken_by_the_parser_itself() -> None:
    runtime = pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")
    builder = runtime.Builder(runtime.Logger(runtime.Logger.INTERNAL_ERROR))
    typed_only = 1 << int(runtime.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    for case in cases():
        if case.profile == "tensorrt":
            network = builder.create_network(typed_only)
            parser = runtime.OnnxParser(network, builder.logger)
            assert parser.parse(case.mended().SerializeToString()), case.rule


def test_the_model_is_not_changed() -> None:
    model = conv(zero_point=3)
    before = model.SerializeToString(deterministic=True)
    lint(model, "tensorrt")
    assert model.SerializeToString(deterministic=True) == before


@pytest.mark.parametrize("profile", PROFILES)
def test_a_product_of_quantised_weights_and_values_is_found_too(profile: str) -> None:
    kind = {"cpu": UINT8, "tensorrt": INT8}[profile]
    found = lint(attention("weights and values", kind), profile)
    assert {finding.rule for finding in found} == {"softmax", "attention-product"}
    assert {finding.module for finding in found} == {"attend"}


def test_a_gate_with_quantised_input_is_a_warning_on_a_cpu() -> None:
    (found,) = [finding for finding in lint(gate(True), "cpu", "arm") if finding.rule == "quantised-operator"]
    assert found.severity == "warning"


def test_signed_activations_are_right_on_arm() -> None:
    assert lint(conv(), "cpu", "arm") == ()


@pytest.mark.parametrize("isa", ["x86-vnni", "arm"])
def test_eight_bit_weights_are_right_where_sums_are_wide(isa: str) -> None:
    assert lint(conv(value=-127, kind=UINT8), "cpu", isa) == ()


def test_weights_that_are_quantised_on_the_way_are_judged_by_their_integers() -> None:
    net = Net()
    weights = net.quantise(net.tensor(np.full((16, 16, 1, 1), 12.0, np.float32)))
    model = net.model(net.conv(net.quantise("image", UINT8), weights))
    (found,) = lint(model, "cpu", "x86")
    assert found.rule == "eight-bit-weights"
    assert "reach 120" in found.reason


def test_weights_may_have_a_four_bit_type_in_tensorrt_and_activations_not() -> None:
    net = Net(opset=21)
    model = net.model(net.conv(net.quantise("image"), net.weights((16, 16, 1, 1), kind=TensorProto.INT4, value=1)))
    assert {finding.rule for finding in lint(model, "tensorrt")} == {"opset"}
    rules = [finding.rule for finding in lint(typed(TensorProto.INT4), "tensorrt")]
    assert rules.count("type") == 1


def test_a_fault_of_a_pair_is_told_once_with_the_module_that_it_feeds() -> None:
    (found,) = lint(conv(zero_point=3), "tensorrt")
    assert (found.node, found.module, found.severity) == ("QuantizeLinear_0", "down.0", "error")


def test_a_pair_at_the_output_belongs_to_the_module_that_feeds_it() -> None:
    (found,) = lint(output_pair(True), "tensorrt")
    assert found.module == "down.0"


def test_a_node_without_a_name_is_named_by_what_it_makes() -> None:
    model = conv(zero_point=3)
    model.graph.node[0].name = ""
    assert lint(model, "tensorrt")[0].node == "QuantizeLinear of QuantizeLinear_0_out"


def test_errors_come_first() -> None:
    found = lint(conv(shape=(8, 16, 1, 1), zero_point=3), "tensorrt")
    assert [finding.severity for finding in found] == ["error", "warning"]


def test_check_names_node_module_and_remedy_and_lets_warnings_pass() -> None:
    with pytest.raises(InputError, match=r"QuantizeLinear_0 in down\.0: .*zero-point is 3.*symmetric INT8") as refused:
        check(conv(zero_point=3), "tensorrt")
    assert refused.value.exit_code == 4
    assert [finding.rule for finding in check(conv(opset=21), "tensorrt")] == ["opset"]


def test_a_profile_or_an_instruction_set_that_is_not_known_is_refused() -> None:
    with pytest.raises(UsageError, match="mobile"):
        lint(conv(), "mobile")
    with pytest.raises(UsageError, match="riscv"):
        lint(conv(), "cpu", "riscv")


@pytest.mark.slow
@pytest.mark.parametrize("form", ["attention-unet-3d-multi", "self-guided"], indirect=True)
def test_our_own_fp32_exports_are_clean(form: Any, network: Any, tmp_path: Path) -> None:
    from medattn_edge.exporters.exporter import ExportSettings
    from medattn_edge.exporters.onnx import write

    write(network, form.spec(network), ExportSettings(), tmp_path / "n.onnx")
    model = onnx.load(str(tmp_path / "n.onnx"))
    for profile in PROFILES:
        for isa in ISAS:
            assert lint(model, profile, isa) == ()
