"""Position attention becomes one operation of OpenVINO, in blocks or not; nothing else does, and the answer stays."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from medattn_edge.backends.openvino.attention import TYPE, fuse_attention
from medattn_edge.backends.openvino.library import imported

ov = imported()


def model(form: str) -> Any:
    """softmax(Q K^T) and a product, as exporters write it: `values first` is V A^T, `weights first` A V."""
    from openvino import opset13 as ops

    q, k = (ops.parameter([2, 4, 9], np.float32, name=name) for name in ("q", "k"))
    v = ops.parameter([2, 5, 9], np.float32, name="v")
    turn = ops.constant([0, 2, 1])
    second = q if form == "channels" else k
    energy = ops.matmul(ops.transpose(q, turn), second, False, False)
    weights = ops.softmax(energy, 2)
    product = {
        "values first": lambda: ops.matmul(v, ops.transpose(weights, turn), False, False),
        "values first, flagged": lambda: ops.matmul(v, weights, False, True),
        "weights first": lambda: ops.matmul(weights, v, False, True),
        "over queries": lambda: ops.matmul(v, weights, False, False),
        "channels": lambda: ops.matmul(v, ops.transpose(weights, turn), False, False),
        "also read elsewhere": lambda: ops.matmul(v, ops.transpose(weights, turn), False, False),
    }[form]()
    results = [product, weights] if form == "also read elsewhere" else [product]
    return ov.Model(results, [q, k, v], "m")


def run(made: Any) -> np.ndarray:
    rng = np.random.default_rng(0)
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    compiled = ov.Core().compile_model(made, "CPU", settings)
    given = {
        name: rng.standard_normal((2, size, 9)).astype(np.float32) for name, size in (("q", 4), ("k", 4), ("v", 5))
    }
    return np.array(compiled({name: given[name] for name in ("q", "k", "v")})[0])


def kinds(made: Any) -> list[str]:
    return [op.get_type_name() for op in made.get_ordered_ops()]


@pytest.mark.parametrize("form", ["values first", "values first, flagged", "weights first"])
def test_every_way_to_write_it_is_found_and_says_the_same(form: str) -> None:
    fused = model(form)
    (name,) = fuse_attention(fused)
    assert name.endswith("/attention")
    assert kinds(fused).count(TYPE) == 1
    assert "Softmax" not in kinds(fused)
    np.testing.assert_allclose(run(fused), run(model(form)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("form", ["over queries", "channels", "also read elsewhere"])
def test_what_is_no_such_attention_is_left_alone(form: str) -> None:
    left = model(form)
    assert fuse_attention(left) == []
    assert TYPE not in kinds(left)
    np.testing.assert_array_equal(run(left), run(model(form)))


def blocked(form: str) -> Any:
    """Attention of 9 positions in three blocks of queries, as an ONNX file has it, or something near it."""
    from openvino import opset13 as ops

    q, k = (ops.parameter([2, 4, 9], np.float32, name=name) for name in ("q", "k"))
    v = ops.parameter([2, 5, 9], np.float32, name="v")
    turn = ops.constant([0, 2, 1])
    query, value = ops.transpose(q, turn), ops.transpose(v, turn)
    keys = [k, ops.multiply(k, ops.constant(np.float32(2))), k] if form == "two keys" else [k, k, k]
    cuts = {
        "out of order": [(4, 8), (0, 4), (8, 9)],
        "incomplete": [(0, 4), (4, 8)],
        "overlapping": [(0, 4), (3, 8), (8, 9)],
    }
    one, axis = ops.constant([1]), ops.constant([1])
    products = []
    for (start, stop), key in zip(cuts.get(form, [(0, 4), (4, 8), (8, 9)]), keys, strict=False):
        block = ops.slice(query, ops.constant([start]), ops.constant([stop]), one, axis)
        products.append(ops.matmul(ops.softmax(ops.matmul(block, key, False, False), 2), value, False, False))
    results = [ops.concat(products, 1)]
    if form == "a block is also read elsewhere":
        results.append(ops.relu(products[1]))
    return ov.Model(results, [q, k, v], "m")


def test_blocks_of_queries_become_one_operation_and_say_the_same() -> None:
    fused = blocked("blocks")
    assert len(fuse_attention(fused)) == 1
    assert kinds(fused).count(TYPE) == 1
    assert not {"Softmax", "MatMul", "Slice", "Concat"} & set(kinds(fused))
    np.testing.assert_allclose(run(fused), run(blocked("blocks")), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(run(fused), run(model("weights first")), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("form", "count"),
    [
        ("out of order", 3),
        ("incomplete", 2),
        ("overlapping", 3),
        ("two keys", 3),
        ("a block is also read elsewhere", 3),
    ],
)
def test_blocks_that_are_no_whole_attention_stay_apart(form: str, count: int) -> None:
    fused = blocked(form)
    assert len(fuse_attention(fused)) == count
    assert kinds(fused).count(TYPE) == count
    np.testing.assert_allclose(run(fused), run(blocked(form)), rtol=1e-5, atol=1e-6)
