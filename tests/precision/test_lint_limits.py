"""Each limit of the lint itself, and the next value beyond it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from medattn_edge.errors import InputError
from medattn_edge.precision.attention_paths import finish
from medattn_edge.precision.lint.rules import check, lint
from tests.precision.graphs import HALF, UINT8, Net, rules


@pytest.mark.parametrize(
    ("opset", "found"), [(16, True), (17, False), (18, False), (19, True)], ids=lambda value: str(value)
)
def test_two_opsets_are_built_with(opset: int, found: bool) -> None:
    net = Net(opset=opset)
    model = net.model(net.conv("image", 16, 4))
    assert (rules(model) == ["opset"]) is found


@pytest.mark.parametrize("operator", ["Conv", "ConvTranspose"])
@pytest.mark.parametrize(
    ("first", "second", "group", "found"),
    [(16, 16, 1, False), (15, 16, 1, True), (16, 15, 1, True), (16, 8, 2, False), (16, 7, 2, True), (17, 17, 1, False)],
)
def test_sixteen_channels_are_not_few(operator: str, first: int, second: int, group: int, found: bool) -> None:
    net = Net((1, first if operator == "ConvTranspose" else second * group, 8, 8))
    axis = 0 if operator == "Conv" else 1
    node = net.node(operator, net.pair("image"), net.stored((first, second, 1, 1), axis), group=group)
    assert ("few-channels" in rules(net.model(node))) is found


@pytest.mark.parametrize("isa", ["x86", "x86-vnni", "arm"])
@pytest.mark.parametrize(("value", "found"), [(64, False), (65, True), (-64, False), (-65, True), (127, True)])
def test_seven_bits_are_right_everywhere_and_eight_where_sums_are_wide(isa: str, value: int, found: bool) -> None:
    net = Net((1, 16, 8, 8))
    node = net.node("Conv", net.pair("image", UINT8, zero=128), net.stored((16, 16, 1, 1), value=value))
    assert ("eight-bit-weights" in rules(net.model(node), "cpu", isa)) is (found and isa == "x86")


@pytest.mark.parametrize(
    ("value", "found"), [(32752.0, False), (32768.0, True), (-32768.0, True), (np.inf, True), (np.nan, True)]
)
def test_a_constant_of_a_half_ends_at_half_of_its_range(value: float, found: bool) -> None:
    net = Net(kind=HALF)
    model = net.model(net.node("Mul", "image", net.weight(np.full(1, value, np.float16))))
    assert ("half-weight" in rules(model, "cpu")) is found


@pytest.mark.parametrize(
    ("shape", "found"), [(("N", 4, 8, 8), False), ((1, 4, 8, "W"), True), ((1, "C", 8, 8), True), ((1, 4, 8, 8), False)]
)
def test_only_the_batch_may_be_free(shape: tuple[Any, ...], found: bool) -> None:
    net = Net(shape)
    model = net.model(net.node("Relu", "image"))
    assert (rules(model) == ["free-size"]) is found


@pytest.mark.parametrize("scale", [0.0, -0.1, np.inf, np.nan])
def test_a_scale_is_a_positive_number(scale: float) -> None:
    net = Net((1, 16, 8, 8))
    scales = np.full(16, 0.1)
    scales[3] = scale
    node = net.node("Conv", net.pair("image", scale=scales), net.stored((16, 16, 1, 1)))
    (finding,) = [one for one in lint(net.model(node), "cpu", "arm") if one.rule == "scale"]
    assert finding.reason.startswith("1 of 16 scales are not positive numbers, such as")


@pytest.mark.parametrize(("count", "more"), [(2, ""), (3, ""), (4, "; and 1 more"), (9, "; and 6 more")])
def test_errors_are_named_up_to_a_few_and_counted(count: int, more: str) -> None:
    net, at = Net(), "image"
    for number in range(count):
        at = net.node("NonZero" if number == 0 else "Shape", at, name=f"n{number}")
    with pytest.raises(InputError) as caught:
        check(net.model(at), "tensorrt")
    found = [one for one in lint(net.model(at), "tensorrt") if one.severity == "error"]
    named = caught.value.found.count("[control-flow]")
    assert len(found) == count
    assert named == min(count, 3)
    assert caught.value.found.endswith(more or ")")


def test_energies_are_spared_through_changes_of_layout() -> None:
    """Both factors of a product that a Softmax reads come from before their rounding; idle pairs go."""
    net = Net((1, 4, 8))
    a = net.node("Transpose", net.pair("image"), perm=[0, 2, 1], name="turned")
    energy = net.node("MatMul", a, net.pair("image"), name="energy")
    weights = net.node("Softmax", energy, axis=-1, name="weights")
    model = net.model(net.node("MatMul", weights, net.node("Transpose", net.pair("image"), perm=[0, 2, 1]), name="out"))
    finish(model)
    by_name = {node.name: list(node.input) for node in model.graph.node}
    assert by_name["turned"] == ["image"]
    assert by_name["energy"] == ["turned", "image"]
    assert sorted(node.op_type for node in model.graph.node).count("QuantizeLinear") == 1  # of the values
    assert len(model.graph.initializer) == 2
    assert (model.producer_name, model.producer_version) == ("medattn-edge", "")
