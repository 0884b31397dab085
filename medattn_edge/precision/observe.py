"""What flows through a graph on real patches: every tensor's range, in memory that does not grow with the samples."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from medattn_edge.precision.onnx_graph import Graph, with_shapes

Array = npt.NDArray[Any]
Patches = npt.NDArray[np.float32]
ACTIVATION_BYTES = 2**30  # what one run may keep of a patch's tensors; more is done in several runs
Progress = Callable[[int, int], None]


def floating_tensors(model: Any) -> list[str]:
    """The names of all FP32 tensors that nodes of the graph make, and its image."""
    import onnx

    graph = Graph(with_shapes(model))
    made = [name for node in graph.nodes for name in node.output if name]
    return [name for name in [model.graph.input[0].name, *made] if graph.kinds.get(name) == onnx.TensorProto.FLOAT]


def activations(
    model: Any, names: Iterable[str], patches: Iterable[Patches], threads: int = 0
) -> Iterator[Mapping[str, Array]]:
    """For each patch (1, C, *patch) the tensors asked for, in as many parts as ACTIVATION_BYTES makes necessary."""
    import onnx
    import onnxruntime as ort

    graph = Graph(with_shapes(model))
    image = model.graph.input[0].name
    runs = []
    for part in _parts([name for name in names if name != image], graph):
        watched = onnx.ModelProto()
        watched.CopyFrom(model)
        del watched.graph.output[:]
        for name in part:
            watched.graph.output.add().CopyFrom(onnx.helper.make_tensor_value_info(name, graph.kinds[name], None))
        settings = ort.SessionOptions()
        settings.intra_op_num_threads = threads
        settings.log_severity_level = 3
        settings.enable_cpu_mem_arena = False  # the arena would keep the largest part for ever
        runs.append((part, ort.InferenceSession(watched.SerializeToString(), settings, ["CPUExecutionProvider"])))
    for patch in patches:
        if image in names:
            yield {image: patch}
        for part, session in runs:
            yield dict(zip(part, session.run(part, {image: patch}), strict=True))


def _parts(names: list[str], graph: Graph) -> list[list[str]]:
    parts: list[list[str]] = []
    room = 0
    for name in names:
        size = 4 * int(np.prod([max(1, dim) for dim in graph.shapes[name]]))
        if not parts or size > room:
            parts.append([])
            room = ACTIVATION_BYTES
        parts[-1].append(name)
        room -= size
    return parts


def ranges(
    model: Any, names: Iterable[str], patches: Iterable[Patches], threads: int = 0
) -> dict[str, tuple[float, float]]:
    """The smallest and largest value of every tensor over all patches; infinities and NaN make a range infinite."""
    found: dict[str, tuple[float, float]] = {}
    for part in activations(model, list(names), patches, threads):
        for name, values in part.items():
            low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
            if not np.isfinite(low) or not np.isfinite(high):
                low, high = -np.inf, np.inf
            before = found.get(name, (low, high))
            found[name] = (min(before[0], low), max(before[1], high))
    return found


def batched(patches: list[Patches], batch: int | None) -> list[Patches]:
    """Runs of exactly `batch` patches, the last one filled up by repeating its own."""
    step = batch or 1
    parts = [patches[start : start + step] for start in range(0, len(patches), step)]
    return [np.concatenate([*part, *[part[-1]] * (step - len(part))]) for part in parts]
