"""What flows through a graph on real patches: every tensor's range, in memory that does not grow with the samples."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from medattn_edge.backends.session import Patches
from medattn_edge.precision.onnx_graph import Graph, with_shapes

Array = npt.NDArray[Any]
ACTIVATION_BYTES = 2**30  # what one run may keep of a patch's tensors; more is done in several runs
Progress = Callable[[int, int], None]


def floating_tensors(model: Any) -> list[str]:
    """The names of all FP32 tensors that nodes of the graph make, and its image."""
    import onnx

    graph = Graph(with_shapes(model))
    outputs = [name for node in graph.nodes for name in node.output if name]
    return [name for name in [model.graph.input[0].name, *outputs] if graph.kinds.get(name) == onnx.TensorProto.FLOAT]


def activations(
    model: Any,
    names: Iterable[str],
    patches: Iterable[Patches],
    threads: int = 0,
    max_bytes: int = ACTIVATION_BYTES,
) -> Iterator[Mapping[str, Array]]:
    """Tensors of a graph on patches.

    Args:
        model: a ModelProto.
        names: of the tensors.
        patches: float32 (1, C, *patch).
        threads: of the CPU; 0 leaves it to the runtime.
        max_bytes: what one run may keep of a patch's tensors.

    Yields:
        For each patch name -> values, in as many parts as `max_bytes` makes necessary.
    """
    import onnx
    import onnxruntime as ort

    graph = Graph(with_shapes(model))
    image = model.graph.input[0].name
    runs = []
    for part in _parts([name for name in names if name != image], graph, max_bytes):
        watched = onnx.ModelProto()
        watched.CopyFrom(model)
        del watched.graph.output[:]
        for name in part:
            watched.graph.output.add().CopyFrom(onnx.helper.make_tensor_value_info(name, graph.kinds[name], None))
        session = ort.InferenceSession(watched.SerializeToString(), _settings(threads), ["CPUExecutionProvider"])
        runs.append((part, session))
    for patch in patches:
        if image in names:
            yield {image: patch}
        for part, session in runs:
            yield dict(zip(part, session.run(part, {image: patch}), strict=True))


def _settings(threads: int) -> Any:
    import onnxruntime as ort

    settings = ort.SessionOptions()
    settings.intra_op_num_threads = threads
    settings.log_severity_level = 3
    settings.enable_cpu_mem_arena = False  # the arena would keep the largest part for ever
    return settings


def _parts(names: list[str], graph: Graph, max_bytes: int) -> list[list[str]]:
    parts: list[list[str]] = []
    room = 0
    for name in names:
        size = 4 * int(np.prod([max(1, dim) for dim in graph.shapes[name]]))
        if not parts or size > room:
            parts.append([])
            room = max_bytes
        parts[-1].append(name)
        room -= size
    return parts


def ranges(
    model: Any, names: Iterable[str], patches: Iterable[Patches], threads: int = 0
) -> dict[str, tuple[float, float]]:
    """The smallest and largest value of every tensor over all patches; infinities and NaN make a range infinite.

    Reductions of the graph's own measure while it runs: no tensor is kept longer than the network needs it.

    Args:
        model: a ModelProto.
        names: of the tensors.
        patches: runs of the network's own batch.
        threads: of the CPU; 0 leaves it to the runtime.
    """
    import onnx
    import onnxruntime as ort

    known, image = list(names), model.graph.input[0].name
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    del watched.graph.output[:]
    # The smallest and largest of values with a NaN among them may be numbers; their sum is not.
    figures = [(f"{name}:{kind}", name, kind) for name in known for kind in ("ReduceMin", "ReduceMax", "ReduceL1")]
    for answer, name, kind in figures:
        watched.graph.node.append(onnx.helper.make_node(kind, [name], [answer], answer, keepdims=0))
        watched.graph.output.append(onnx.helper.make_tensor_value_info(answer, onnx.TensorProto.FLOAT, []))
    settings = _settings(threads)
    # As early as they can: in the default order every reduction, and what it reads, waits for the end.
    settings.execution_order = ort.ExecutionOrder.PRIORITY_BASED
    session = ort.InferenceSession(watched.SerializeToString(), settings, ["CPUExecutionProvider"])
    answers = [answer for answer, _, _ in figures]
    widest: dict[str, tuple[float, float]] = {}
    for patch in patches:
        values = np.array(session.run(answers, {image: patch}), np.float32).reshape(-1, 3)
        for name, (low, high, total) in zip(known, values.tolist(), strict=True):
            finite = np.isfinite(low) and np.isfinite(high) and not np.isnan(total)
            before = widest.get(name, (np.inf, -np.inf))
            widest[name] = (min(before[0], low), max(before[1], high)) if finite else (-np.inf, np.inf)
    return widest


def batched(patches: list[Patches], batch: int | None) -> list[Patches]:
    """Runs of exactly `batch` patches, the last one filled up by repeating its own."""
    step = batch or 1
    parts = [patches[start : start + step] for start in range(0, len(patches), step)]
    return [np.concatenate([*part, *[part[-1]] * (step - len(part))]) for part in parts]
