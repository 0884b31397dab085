"""The child of a roofline: one runtime's matrix products, timed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from typing import Any, NoReturn

import numpy as np

from medattn_edge.backends.openvino.layers import computed_layers
from medattn_edge.backends.openvino.library import imported
from medattn_edge.process import serve

_SIZE = 1536  # of a square matrix: 7e9 operations
_CHAINED, _CHAIN = 1024, 4  # several products behind each other, so that quantising the input costs nothing
_CHANNELS, _SIDE = 128, 64  # of a 3x3 convolution, which is the product that these networks are made of
_RUNS = 3
_EIGHT_BITS = {"u8", "i8"}

Kernel = tuple[str, float, Callable[[], object]]  # precision, operations, one run


def main(descriptor: int) -> NoReturn:
    """Measure for the process at the other end of a socket, given by its file descriptor."""
    serve(
        descriptor,
        {"measure": lambda request, _: (measure(request["runtime"], request["threads"], request["duration_s"]), ())},
    )


def measure(name: str, threads: int, duration_s: float) -> dict[str, dict[str, Any]]:
    """What a runtime reaches: `reached` is precision -> 1e9 operations per second, `left_out` what -> why."""
    reached, left_out = dict[str, float](), dict[str, str]()
    if find_spec(name) is None:
        left_out[""] = "not installed"
    else:
        try:
            for precision, operations, run in _KERNELS[name](threads, left_out):
                speed = operations / _fastest(run, duration_s) / 1e9
                reached[precision] = max(speed, reached.get(precision, 0.0))
        except Exception as error:  # noqa: BLE001 - a broken runtime may raise anything, and is left out
            left_out[""] = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
    return {"reached": reached, "left_out": left_out}


def _fastest(run: Callable[[], object], duration_s: float) -> float:
    run()
    best, end, count = float("inf"), time.perf_counter() + duration_s, 0
    while count < _RUNS or time.perf_counter() < end:
        start = time.perf_counter()
        run()
        best, count = min(best, time.perf_counter() - start), count + 1
    return best


def _numpy(threads: int, left_out: dict[str, str]) -> Iterator[Kernel]:
    """Its BLAS; the threads are those of the environment."""
    first, second = np.random.default_rng(0).random((2, _SIZE, _SIZE), dtype=np.float32)
    out = np.empty_like(first)
    yield "fp32", 2.0 * _SIZE**3, lambda: np.matmul(first, second, out=out)


def _onnxruntime(threads: int, left_out: dict[str, str]) -> Iterator[Kernel]:
    """MatMul, and MatMulInteger of u8 and s8; without the package onnx no model can be made for it."""
    if find_spec("onnx") is None:
        left_out[""] = "no model can be made for it without the package onnx"
        return
    import onnxruntime as ort
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    real = rng.random((2, _SIZE, _SIZE), dtype=np.float32)
    bytes_ = (rng.integers(0, 255, (_SIZE, _SIZE), np.uint8), rng.integers(-127, 127, (_SIZE, _SIZE), np.int8))
    kinds = (
        ("fp32", "MatMul", (real[0], real[1]), (TensorProto.FLOAT, TensorProto.FLOAT)),
        ("int8", "MatMulInteger", bytes_, (TensorProto.UINT8, TensorProto.INT32)),
    )
    for precision, operator, (image, weights), (inputs, output) in kinds:
        graph = helper.make_graph(
            [helper.make_node(operator, ["x", "w"], ["y"])],
            operator,
            [helper.make_tensor_value_info("x", inputs, image.shape)],
            [helper.make_tensor_value_info("y", output, image.shape)],
            [numpy_helper.from_array(weights, "w")],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
        settings = ort.SessionOptions()
        settings.intra_op_num_threads = threads
        session = ort.InferenceSession(model.SerializeToString(), settings, providers=["CPUExecutionProvider"])
        yield precision, 2.0 * _SIZE**3, partial(session.run, None, {"x": image})


def _openvino(threads: int, left_out: dict[str, str]) -> Iterator[Kernel]:
    """A chain of matrix products and one of 3x3 convolutions; in INT8 only where its plugin really runs them so."""
    ov = imported()
    settings = {
        "INFERENCE_PRECISION_HINT": "f32",
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        "INFERENCE_NUM_THREADS": threads,
    }
    for precision in ("fp32", "int8"):
        for name, build in (("MatMul", _products), ("Convolution", _convolutions)):
            model, operations = build(ov, precision == "int8")
            compiled = ov.Core().compile_model(model, "CPU", settings)
            computed = {one.precision for one in computed_layers(compiled) if one.kind in _COMPUTES}
            if not computed or not computed <= (_EIGHT_BITS if precision == "int8" else {"f32"}):
                left_out[f"{name} in {precision}"] = f"it is computed in {', '.join(sorted(computed)) or 'nothing'}"
                continue
            request = compiled.create_infer_request()
            request.infer({0: np.random.default_rng(0).random(compiled.inputs[0].shape, dtype=np.float32)})
            yield precision, operations, request.infer


_COMPUTES = ("Convolution", "FullyConnected", "MatMul")


def _products(ov: Any, int8: bool) -> tuple[Any, float]:
    from openvino import opset13 as ops

    image = ops.parameter([_CHAINED, _CHAINED], np.float32)
    last = _quantised(ops, image) if int8 else image
    for _ in range(_CHAIN):
        last = ops.matmul(last, _weights(ops, (_CHAINED, _CHAINED), int8, (1, _CHAINED)), False, False)
        last = _quantised(ops, ops.relu(last)) if int8 else ops.relu(last)
    return ov.Model([ops.result(last)], [image]), 2.0 * _CHAIN * _CHAINED**3


def _convolutions(ov: Any, int8: bool) -> tuple[Any, float]:
    from openvino import opset13 as ops

    image = ops.parameter([1, _CHANNELS, _SIDE, _SIDE], np.float32)
    last = _quantised(ops, image) if int8 else image
    for _ in range(_CHAIN):
        weights = _weights(ops, (_CHANNELS, _CHANNELS, 3, 3), int8, (_CHANNELS, 1, 1, 1))
        last = ops.convolution(last, weights, [1, 1], [1, 1], [1, 1], [1, 1])
        last = _quantised(ops, ops.relu(last)) if int8 else ops.relu(last)
    return ov.Model([ops.result(last)], [image]), 2.0 * _CHAIN * 9 * _CHANNELS**2 * _SIDE**2


def _quantised(ops: Any, tensor: Any) -> Any:
    """To u8: what lies between 0 and 1, in 256 levels."""
    low, high = ops.constant(np.float32(0)), ops.constant(np.float32(1))
    return ops.fake_quantize(tensor, low, high, low, high, 256)


def _weights(ops: Any, shape: tuple[int, ...], int8: bool, scales: tuple[int, ...]) -> Any:
    """Small enough that the values stay in their range; s8 with a scale per output channel."""
    rng, fan_in = np.random.default_rng(0), float(np.prod(shape)) / max(scales)
    if not int8:
        return ops.constant(((rng.random(shape) - 0.5) / fan_in).astype(np.float32))
    whole = ops.convert(ops.constant(rng.integers(-127, 127, shape, dtype=np.int8)), np.float32)
    return ops.multiply(whole, ops.constant(np.full(scales, 1 / 127 / fan_in, np.float32)))


_KERNELS: dict[str, Callable[[int, dict[str, str]], Iterator[Kernel]]] = {
    "numpy": _numpy,
    "onnxruntime": _onnxruntime,
    "openvino": _openvino,
}
