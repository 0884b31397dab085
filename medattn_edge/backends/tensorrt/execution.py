"""An engine at work: one execution context, its buffers on the GPU, one stream, its clock and its CUDA graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from medattn_edge.backends.cuda.events import Stopwatch
from medattn_edge.backends.cuda.graph import CudaGraph, recorded
from medattn_edge.backends.cuda.memory import CudaStream
from medattn_edge.backends.session import Patches
from medattn_edge.backends.tensorrt.library import Listeners, Message, reasons
from medattn_edge.errors import BackendError

IMAGE = "image"


class Execution:
    """One run after the other: it has one set of buffers, all of them freed with the stream.

    context: of TensorRT or TensorRT-RTX. shapes: of `image` and of every output, with the most patches of one part.
    failed: makes the error from what the library logged.
    """

    def __init__(
        self,
        context: Any,
        stream: CudaStream,
        shapes: Mapping[str, tuple[int, ...]],
        listeners: Listeners,
        failed: Callable[[list[Message]], BackendError],
    ) -> None:
        self._context, self._stream, self._shape = context, stream, shapes[IMAGE]
        self._listeners, self._failed = listeners, failed
        self._graph: CudaGraph | None = None
        self._addresses = {}
        for name, shape in shapes.items():
            self._addresses[name] = stream.allocate(4 * int(np.prod(shape)))
            context.set_tensor_address(name, self._addresses[name])
        self._clock = Stopwatch(stream)

    def record(self) -> str:
        """Run once on zeros, then record the run for every later one; why it cannot be recorded, empty when it is.

        Only for an engine whose batch is fixed: a graph is good for one shape. Raises BackendError when that first run
        fails.
        """
        stream, context = self._stream, self._context
        stream.upload(np.zeros(self._shape, np.float32), self._addresses[IMAGE])
        self._enqueue(self._shape)  # the first run allocates, and TensorRT-RTX compiles: neither can be recorded
        stream.synchronize()
        ask = getattr(context, "is_stream_capturable", None)  # TensorRT-RTX knows; TensorRT is tried
        if ask is not None and not ask(stream.handle):
            return "TensorRT-RTX says that this engine's work cannot be recorded"
        with self._listeners.collecting() as heard:
            graph = recorded(stream, lambda: bool(context.execute_async_v3(stream.handle)))
        if isinstance(graph, str):
            return "; ".join([graph, *reasons(heard)[:2]])
        self._graph = graph
        return ""

    def run(self, patches: Patches, answers: Mapping[str, Patches]) -> float:
        """Fill the answers, part by part; the milliseconds between two CUDA events.

        They stand in the stream before the first copy of patches to the GPU and behind the last copy of an answer back.
        Between them lie all copies (from and to pageable memory, which the driver stages), the network, and, where the
        patches need several parts, the GPU's waiting for the host between two of them.
        """
        stream, most = self._stream, self._shape[0]
        stream.use()
        self._clock.start()
        for start in range(0, len(patches), most):
            part = slice(start, start + most)
            stream.upload(patches[part], self._addresses[IMAGE])
            if self._graph is not None:
                self._graph.launch()
            else:
                self._enqueue(patches[part].shape)
            for name, answer in answers.items():
                stream.download(self._addresses[name], answer[part])
            if part.stop >= len(patches):
                self._clock.stop()
            stream.synchronize()
        return self._clock.milliseconds()

    def _enqueue(self, shape: tuple[int, ...]) -> None:
        with self._listeners.collecting() as heard:
            started = self._context.set_input_shape(IMAGE, shape)
            started = started and self._context.execute_async_v3(self._stream.handle)
        if not started:
            self._stream.synchronize()  # says more when it was the GPU that failed
            raise self._failed(heard)
