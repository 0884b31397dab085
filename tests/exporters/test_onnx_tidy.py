"""Tidying an ONNX graph does not change what it computes."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from medattn_edge.errors import BackendError
from medattn_edge.exporters.onnx_tidy import _scale, tidy

HALF_PIXEL = {"mode": "linear", "coordinate_transformation_mode": "half_pixel"}
ALIGNED = {"mode": "linear", "coordinate_transformation_mode": "align_corners"}
NEAREST = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}


def resizing(size: tuple[int, ...], target: tuple[int, ...], how: dict[str, str], typed: bool = True) -> Any:
    """What torch's exporter leaves of a resize with a free batch: its sizes are put together from the input's."""
    constants = {"zero": [0], "one": [1], "spatial": list(target), "channels": [2]}
    nodes = [
        helper.make_node("Shape", ["image"], ["shape"]),
        helper.make_node("Slice", ["shape", "zero", "one"], ["batch"]),
        helper.make_node("Concat", ["batch", "channels", "spatial"], ["sizes"], axis=0),
        helper.make_node("Resize", ["image", "", "", "sizes"], ["resized"], **how),
        helper.make_node("Relu", ["resized"], ["logits"]),
    ]
    for node in nodes:
        node.doc_string = "File /home/someone/network.py, line 3"
        entry = node.metadata_props.add()
        entry.key, entry.value = "pkg.torch.onnx.stack_trace", "File /home/someone/network.py"
    graph = helper.make_graph(
        nodes,
        "main",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 2, *size])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 2, *target])],
        [numpy_helper.from_array(np.array(value, np.int64), name) for name, value in constants.items()],
        value_info=[
            helper.make_tensor_value_info("shape", TensorProto.INT64, [4]),
            *([helper.make_tensor_value_info("resized", TensorProto.FLOAT, ["N", 2, *target])] if typed else []),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def run(model: Any, image: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(["logits"], {"image": image})[0])


@pytest.mark.parametrize("how", [HALF_PIXEL, ALIGNED, NEAREST], ids=["half_pixel", "align_corners", "nearest"])
@pytest.mark.parametrize(
    ("size", "target"),
    [((4, 6), (8, 12)), ((5, 3), (3, 5)), ((3, 3), (2, 7)), ((6, 10), (6, 5)), ((7, 49), (49, 7)), ((1, 2), (3, 9))],
)
def test_a_resize_by_computed_sizes_becomes_one_by_constant_scales(how, size, target):
    model = resizing(size, target, how)
    images = [np.random.default_rng(count).standard_normal((count, 2, *size)).astype(np.float32) for count in (1, 3)]
    before = [run(model, image) for image in images]
    tidied = tidy(model)
    onnx.checker.check_model(tidied, full_check=True)
    assert [node.op_type for node in tidied.graph.node] == ["Resize", "Relu"]
    assert [one.name for one in tidied.graph.initializer] == ["resized_scales"]
    for image, expected in zip(images, before, strict=True):
        assert expected.shape == (len(image), 2, *target)
        np.testing.assert_allclose(run(tidied, image), expected, rtol=1e-5, atol=1e-6)


@given(size=st.integers(1, 2048), target=st.integers(1, 2048))
def test_a_scale_gives_the_size_that_it_was_made_for(size, target):
    assert int(np.floor(np.float32(size) * _scale(size, target))) == target
    assert int(np.floor(size * float(_scale(size, target)))) == target


def test_the_paths_and_sources_of_the_machine_go():
    tidied = tidy(resizing((4, 4), (8, 8), HALF_PIXEL))
    assert b"/home/someone" not in tidied.SerializeToString()
    assert {value.name for value in tidied.graph.value_info} == {"resized"}
    assert [[(entry.key, entry.value) for entry in node.metadata_props] for node in tidied.graph.node] == [
        [("module", "")],
        [("module", "")],
    ]


def named(scopes: str | None, op: str, source: str, target: str) -> Any:
    node = helper.make_node(op, [source], [target])
    if scopes is not None:
        entry = node.metadata_props.add()
        entry.key, entry.value = "pkg.torch.onnx.name_scopes", scopes
    return node


def test_every_node_names_the_innermost_module_that_it_came_from():
    nodes = [
        named("['', 'encoder', 'encoder.0', 'convolution']", "Relu", "image", "a"),
        named("['', 'network', 'network.decoder.1', 'relu']", "Relu", "a", "b"),
        named("['', 'network', 'cat']", "Relu", "b", "c"),
        named("['', 'add']", "Relu", "c", "d"),
        named("['', 'encoder', 'relu']", "Relu", "d", "e"),
        named(None, "Relu", "e", "logits"),
    ]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 1]) for name in ("image", "logits")]
    model = helper.make_model(helper.make_graph(nodes, "main", values[:1], values[1:]))
    modules = [node.metadata_props[0].value for node in tidy(model).graph.node]
    assert modules == ["encoder.0", "decoder.1", "", "", "encoder", "encoder"]


def test_shape_arithmetic_that_is_left_is_an_error():
    nodes = [
        helper.make_node("Shape", ["image"], ["shape"]),
        helper.make_node("Reshape", ["image", "shape"], ["logits"]),
    ]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 2, 4]) for name in ("image", "logits")]
    model = helper.make_model(helper.make_graph(nodes, "main", values[:1], values[1:]))
    with pytest.raises(BackendError, match=r"shapes with Shape(.|\n)*--batch"):
        tidy(model)


def test_a_resize_whose_sizes_nobody_knows_is_an_error():
    with pytest.raises(BackendError, match="Shape"):
        tidy(resizing((4, 4), (8, 8), HALF_PIXEL, typed=False))
